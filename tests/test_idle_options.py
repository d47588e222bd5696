"""Options that would do nothing are refused in one line, by every verb that asks graders."""

from __future__ import annotations

import fakes
import pytest

from digipath import grading_evaluation
from digipath.cli import main
from digipath.errors import BadInput
from digipath.grading.bag_networks import BagGraders
from digipath.grading.bags import BagDraw
from digipath.grading_evaluation import evaluate_graders


@pytest.mark.parametrize("draw", [BagDraw(groups=3), BagDraw(bag=10), BagDraw(augment=False)], ids=str)
def test_tile_graders_draw_no_bags(draw):
    with pytest.raises(BadInput, match="groups, bag and bag_augmentation are for weights that see bags"):
        evaluate_graders("own", manifest="none.csv", predictors=[fakes.grader], draw=draw)


@pytest.mark.parametrize("options", [{"views": 4}, {"least_label": 0.9}, {"calibrated": False}], ids=str)
def test_bag_graders_see_no_single_tiles(monkeypatch, options):
    monkeypatch.setattr(grading_evaluation, "graders_of", lambda *_, **__: BagGraders(("a", "b"), {}, (), None))
    with pytest.raises(BadInput, match=f"{next(iter(options))} are not for weights that see bags"):
        evaluate_graders("bags", manifest="none.csv", **options)


@pytest.mark.parametrize(
    "words", [("--groups", "3"), ("--bag", "10"), ("--no-bag-augmentation",), ("--least-label", "0.9")]
)
@pytest.mark.parametrize("weights", [(), ("--weights", "lymphnode-ensemble-v1"), ("--predictor", "fakes:redness")])
def test_segmenting_weights_heed_no_option_of_graders(words, weights, capsys):
    assert main(["evaluate", "images", "masks", "--mpp", "0.5", *weights, *words]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert f"segment slides; leave out {words[0][2:].replace('-', '_')}" in said


@pytest.mark.parametrize(("words", "name"), [(("--patch", "64"), "patch"), (("--calibrate",), "calibrate")])
def test_graders_heed_no_option_of_segmenting_weights(words, name, capsys):
    assert main(["evaluate", "images", "--mpp", "0.5", "--weights", "glioma-tiles-demo-v1", *words]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert f"glioma-tiles-demo-v1 grades slides; leave out {name}" in said
