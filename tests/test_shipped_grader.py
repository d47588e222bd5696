"""The demonstration grader on slides that it has not seen: it finds the regions that were planted."""

from __future__ import annotations

import example_scripts
import numpy as np
import pytest

import digipath
from digipath.measure.grading_scores import scores
from digipath.measure.tile_grades import called, mean_vote
from digipath.synthetic.glioma import GRADES
from digipath.weights import DEFAULT_GRADER, show_weights

SEED, SLIDES = 5000, 6  # no seed of the example's


def test_the_card_says_what_it_is_not():
    card = show_weights(DEFAULT_GRADER)
    assert card["classes"] == list(GRADES)
    assert card["output"] == "tile"
    assert "generated" in card["task"]
    assert any("means nothing" in limit for limit in card["limits"])
    assert "must not be used on patients" in card["intended_use"]


@pytest.mark.slow
@pytest.mark.keras
def test_planted_regions_and_dominant_grades_of_unseen_slides_are_told(tmp_path):
    script = example_scripts.load("train_glioma_graders")
    votes, dominant, right = [], [], []
    for slide in script.write_slides(tmp_path, "slide", script.GRADED, SLIDES, first_seed=SEED):
        graded = digipath.grade(slide.path, out=tmp_path / slide.path.stem, gallery=0).slides[0]
        truth = script.true_grades(slide, script.cells_of(graded))
        right += (called(graded.probabilities)[truth >= 0] == truth[truth >= 0]).tolist()
        votes.append(mean_vote(graded.probabilities))
        dominant.append(GRADES.index(slide.dominant))
        assert graded.readout().highest_grade == max(slide.regions)
    assert len(right) > 150
    assert np.mean(right) >= 0.9
    assert scores(dominant, np.array(votes), GRADES).macro_auroc >= 0.95
