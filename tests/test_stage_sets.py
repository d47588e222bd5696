"""Sets of categories and stages: their quantiles, their coverage, and what they may hold."""

from __future__ import annotations

import numpy as np
import pytest

from digipath.errors import BadInput
from digipath.measure.conformal import coverage_bounds
from digipath.measure.pn_stage import CATEGORIES, OUTSIDE, STAGES, patient_stage, stage_probabilities
from digipath.measure.stage_sets import calibrate_stage, node_set, stage_set


def test_quantiles_by_hand():
    """Ten nodes of two patients; the truth has the probability 0.95, 0.85, …, 0.05."""
    truth = np.tile([0, 3], 5)
    sure = 0.95 - 0.1 * np.arange(10)
    chances = np.zeros((10, 4))
    chances[np.arange(10), truth] = sure
    chances[np.arange(10), 1] = 1 - sure
    found = calibrate_stage(chances, truth, None, levels=(0.5, 0.9, 0.95))
    # ⌈11 · 0.5⌉ = 6th and ⌈11 · 0.9⌉ = 10th smallest of 0.05, 0.15, …, 0.95; the 11th there is not.
    assert found["nodes"]["count"] == 10
    assert found["nodes"]["quantiles"] == {"0.5": pytest.approx(0.55), "0.9": pytest.approx(0.95), "0.95": None}
    assert found["patients"] is None


def test_patients_are_scored_by_their_stage():
    """Nine patients of one or two nodes whose stage has a known probability."""
    chances, categories, patients = [], [], []
    for number in range(9):
        chance = (number + 0.5) / 10
        chances.append([1 - chance, 0, 0, chance])  # pN1 with `chance`
        categories.append("macro")
        patients.append(number)
        if number % 2:
            chances.append([1, 0, 0, 0])
            categories.append("negative")
            patients.append(number)
    found = calibrate_stage(chances, categories, patients, levels=(0.9,))
    assert found["patients"] == {"count": 9, "nodes_each": [1, 2], "quantiles": {"0.9": pytest.approx(0.95)}}


def test_sets_hold_what_is_within_the_quantile_and_the_most_probable():
    conformal = {"nodes": {"quantiles": {"0.9": 0.7, "0.8": 0.1, "0.95": None}}}
    assert node_set([0.5, 0.3, 0.15, 0.05], conformal, 0.9) == ("negative", "itc")
    assert node_set([0.5, 0.3, 0.15, 0.05], conformal, 0.8) == ("negative",)
    assert node_set([1, 0, 0, 0], conformal, 0.95) == CATEGORIES


@pytest.mark.parametrize(("nodes", "out"), [(1, ("pN2", OUTSIDE)), (3, ("pN2", OUTSIDE)), (4, (OUTSIDE,)), (10, ())])
def test_a_set_that_excludes_nothing_leaves_out_what_so_few_nodes_cannot_be(nodes, out):
    conformal = {"patients": {"quantiles": {"0.9": None}}}
    distribution = stage_probabilities([[0.25] * 4] * nodes)
    assert set(distribution) - set(stage_set(distribution, conformal, 0.9, nodes=nodes)) == set(out)
    assert {stage for stage, chance in distribution.items() if chance == 0} == set(out)


def test_a_level_that_was_not_measured_is_refused():
    conformal = {"nodes": {"quantiles": {"0.8": 0.1, "0.9": 0.2}}}
    with pytest.raises(BadInput, match=r"levels 0\.8, 0\.9 that the card has quantiles for, got 0\.85"):
        node_set([1, 0, 0, 0], conformal, 0.85)


def test_without_patients_there_is_no_set_of_stages():
    assert stage_set(stage_probabilities([[1, 0, 0, 0]]), {"patients": None}, 0.9, nodes=1) == ()


def test_lengths_must_fit():
    with pytest.raises(BadInput, match="one truth and one patient per node"):
        calibrate_stage(np.full((3, 4), 0.25), ["itc"] * 3, ["a", "b"])
    with pytest.raises(BadInput, match="one truth and one patient per node"):
        calibrate_stage(np.full((3, 4), 0.25), ["itc"] * 2, None)


def test_new_patients_are_covered_as_often_as_the_level_says():
    """Truths drawn from the stated probabilities blurred by a doubt that nobody states: sets must make up for it."""
    rng = np.random.default_rng(0)

    def patients(count):
        said = rng.dirichlet([0.4] * 4, (count, 5))
        true = 0.7 * said + 0.3 * rng.dirichlet([1] * 4, (count, 5))
        return said, (rng.random((count, 5, 1)) > true.cumsum(axis=2)).sum(axis=2).clip(0, 3)

    said, truth = patients(400)
    owner = np.repeat(np.arange(400), 5)
    conformal = calibrate_stage(said.reshape(-1, 4), truth.ravel(), owner)
    said, truth = patients(1000)
    for level in (0.8, 0.9):
        # The chance of 400 patients to calibrate on adds to that of 1000 to test on: as if 286 were tested.
        low, high = coverage_bounds(286, level, 0.999)
        covered = [
            CATEGORIES[truth[i, j]] in node_set(said[i, j], conformal, level) for i in range(200) for j in range(5)
        ]
        assert low <= np.mean(covered) <= high
        staged = [
            patient_stage([CATEGORIES[one] for one in truth[i]])
            in stage_set(stage_probabilities(said[i]), conformal, level, nodes=5)
            for i in range(1000)
        ]
        assert low <= np.mean(staged) <= high
    sizes = [len(stage_set(stage_probabilities(one), conformal, 0.8, nodes=5)) for one in said]
    assert np.mean(sizes) < len(STAGES) - 1
