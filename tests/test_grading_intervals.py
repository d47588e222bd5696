"""Bootstrap intervals by patient: against rows drawn one draw after another, and where they are undefined."""

from __future__ import annotations

import json

import numpy as np
import pytest

from digipath.errors import BadInput
from digipath.measure.grading_intervals import RANKS, bootstrap
from digipath.measure.grading_scores import scores

CLASSES = ("grade 2", "grade 3", "grade 4")


def made_up(cases: int, tiles: int, *, spread: float = 0.8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, probabilities and case of tiles, those of one case being alike."""
    rng = np.random.default_rng(cases)
    owner = np.repeat(np.arange(cases), tiles)
    truth = (np.arange(cases) % 3)[owner]
    alike = spread * rng.normal(size=(cases, 3))[owner]
    odds = np.exp(rng.normal(size=(len(owner), 3)) + np.eye(3)[truth] + alike)
    return truth, odds / odds.sum(axis=1, keepdims=True), owner


@pytest.mark.parametrize("cases", [4, 12])
def test_draws_are_scored_as_their_rows_would_be(cases):
    truth, values, owner = made_up(cases, 5)
    values = values.round(1)
    values[:, 0] = 1 - values[:, 1:].sum(axis=1).clip(max=1)  # many ties
    values /= values.sum(axis=1, keepdims=True)
    names = [f"case {one:02}" for one in owner]
    found = bootstrap(truth, values, names, CLASSES, draws=60, seed=7, level=0.8)
    counts = np.random.default_rng(7).multinomial(cases, np.full(cases, 1 / cases), size=60)
    drawn = [np.repeat(np.arange(len(owner)), times[owner]) for times in counts]
    each = [scores(truth[rows], values[rows], CLASSES).metrics() for rows in drawn]
    whole = [len(np.unique(truth[rows])) == 3 for rows in drawn]
    of_a_class = ("auroc of grade 3", "precision of grade 2", "recall of grade 3", "specificity of grade 4")
    singles = ("accuracy", "kappa", "macro_accuracy", "macro_auroc", "macro_auroc_by_threshold")
    for name in (*singles, *of_a_class, "f1 of grade 3", "accuracy of grade 4"):
        defined = [one[name] for one in each if one[name] is not None]
        assert found.intervals[name] == pytest.approx(tuple(np.quantile(defined, [0.1, 0.9])))
        assert found.undefined[name] == 60 - len(defined)
    # A mean over classes leaves out draws that lack one of them.
    balanced = [one["balanced_accuracy"] for one, all_there in zip(each, whole, strict=True) if all_there]
    assert found.intervals["balanced_accuracy"] == pytest.approx(tuple(np.quantile(balanced, [0.1, 0.9])))
    assert found.undefined["balanced_accuracy"] == 60 - sum(whole)


def test_intervals_hold_the_estimates():
    truth, values, owner = made_up(60, 20)
    found, estimate = bootstrap(truth, values, owner.tolist(), CLASSES), scores(truth, values, CLASSES).metrics()
    assert found.intervals.keys() == estimate.keys()
    for name, (low, high) in found.intervals.items():
        assert 0 < low < estimate[name] < high < 1
    assert (found.patients, found.draws, found.level) == (60, 1000, 0.95)


def test_ranks_in_groups_change_areas_by_less_than_a_thousandth():
    truth, values, owner = made_up(9, 400)
    assert len(np.unique(values)) > 2 * RANKS
    found = bootstrap(truth, values, owner.tolist(), CLASSES, draws=1, seed=1)
    counts = np.random.default_rng(1).multinomial(9, np.full(9, 1 / 9), size=1)[0]
    rows = np.repeat(np.arange(len(owner)), counts[owner])
    exact = scores(truth[rows], values[rows], CLASSES).metrics()
    for name in ("macro_auroc", "macro_auroc_by_threshold", "auroc of grade 2", "auroc of grade 3", "auroc of grade 4"):
        assert found.intervals[name][0] == pytest.approx(exact[name], abs=1e-4)


def test_cases_are_drawn_whole():
    truth, values, owner = made_up(30, 20, spread=1.5)
    by_case = bootstrap(truth, values, owner.tolist(), CLASSES).intervals["accuracy"]
    by_tile = bootstrap(truth, values, list(range(600)), CLASSES).intervals["accuracy"]
    assert by_case[1] - by_case[0] > 1.5 * (by_tile[1] - by_tile[0])


def test_a_higher_level_is_wider_and_a_seed_repeats():
    truth, values, owner = made_up(30, 5)
    wide, narrow, again = (
        bootstrap(truth, values, owner.tolist(), CLASSES, draws=200, level=level).intervals["kappa"]
        for level in (0.95, 0.5, 0.95)
    )
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert wide == again
    assert wide != bootstrap(truth, values, owner.tolist(), CLASSES, draws=200, seed=1).intervals["kappa"]


def test_the_order_of_rows_does_not_matter():
    truth, values, owner = made_up(12, 5)
    order = np.random.default_rng(2).permutation(60)
    first = bootstrap(truth, values, owner.tolist(), CLASSES, draws=50)
    second = bootstrap(truth[order], values[order], owner[order].tolist(), CLASSES, draws=50)
    assert first == second


def test_one_case_has_no_interval():
    truth, values, _ = made_up(3, 5)
    found = bootstrap(truth, values, ["only"] * 15, CLASSES)
    assert found.patients == 1
    assert set(found.intervals.values()) == {None}
    assert set(bootstrap([], [], [], CLASSES).intervals.values()) == {None}


def test_a_class_that_never_occurs_has_no_interval():
    truth, values, owner = made_up(12, 5)
    kept = truth < 2
    found = bootstrap(truth[kept], values[kept], owner[kept].tolist(), CLASSES, draws=100)
    assert found.intervals["auroc of grade 4"] is found.intervals["macro_auroc"] is None
    assert found.intervals["recall of grade 4"] is None
    assert found.undefined["recall of grade 4"] == 100
    assert found.intervals["specificity of grade 4"] is not None
    assert found.undefined["macro_auroc"] == found.undefined["macro_auroc_by_threshold"] == 100
    assert found.intervals["accuracy"] is not None
    assert found.undefined["accuracy"] == 0


def test_draws_without_a_class_are_counted():
    # Of two cases with one class each, half of the draws hold one class only.
    values = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]]
    found = bootstrap([0, 0, 1, 1], values, ["a", "a", "b", "b"], ("rest", "GBM"))
    assert 400 < found.undefined["macro_auroc"] < 600
    assert found.intervals["macro_auroc"] == (0.75, 0.75)
    assert found.undefined["balanced_accuracy"] == found.undefined["macro_auroc"]
    assert found.undefined["accuracy"] == 0


def test_a_record_is_json():
    truth, values, owner = made_up(6, 2)
    record = bootstrap(truth, values, owner.tolist(), CLASSES, draws=20).to_record()
    assert json.loads(json.dumps(record)) == record
    assert record["patients"] == 6


@pytest.mark.parametrize("options", [{"draws": 0}, {"level": 1}, {"level": 0}])
def test_options_out_of_range(options):
    truth, values, owner = made_up(3, 2)
    with pytest.raises(BadInput, match="draw"):
        bootstrap(truth, values, owner.tolist(), CLASSES, **options)
    with pytest.raises(BadInput, match="a patient for each"):
        bootstrap(truth, values, ["a"], CLASSES)
