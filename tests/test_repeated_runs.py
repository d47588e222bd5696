"""The t-test between runs, ablation, the soft vote and what it drops, by hand and against SciPy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from digipath.errors import BadInput
from digipath.measure.repeated_runs import Spread, ablation, across_folds, compare, drop_worst, soft_vote

CLASSES = ("grade 2", "grade 3", "grade 4")


def test_the_t_test_by_hand():
    # Means 2 and 3, both variances 1: t = −1 / √(1/3 + 1/3) with 4 degrees of freedom.
    found = compare([1, 2, 3], [2, 3, 4])
    assert (found.runs, found.means, found.standard_deviations) == ((3, 3), (2, 3), (1, 1))
    assert found.t == pytest.approx(-np.sqrt(1.5))
    assert found.degrees == 4
    assert found.p == pytest.approx(0.28786, abs=1e-5)
    assert found.welch_p == pytest.approx(found.p)  # where both variances and numbers are one


def test_the_t_tests_are_those_of_scipy():
    a, b = [0.55, 0.56, 0.57, 0.55], [0.63, 0.68, 0.58]
    found = compare(a, b)
    assert (found.t, found.p) == pytest.approx(tuple(stats.ttest_ind(a, b)))
    assert found.welch_p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert found.degrees == 5
    turned = compare(b, a)
    assert (turned.t, turned.p, turned.welch_p) == pytest.approx((-found.t, found.p, found.welch_p))


@pytest.mark.parametrize(
    ("a", "b"), [([0.5], [0.4, 0.6]), ([0.5, 0.6], [0.4]), ([0.5, 0.5], [0.7, 0.7]), ([0.3, 0.1 + 0.2], [0.5] * 3)]
)
def test_no_test_of_single_or_of_constant_runs(a, b):
    found = compare(a, b)
    assert found.t is found.degrees is found.p is found.welch_p is None
    assert found.means == pytest.approx((np.mean(a), np.mean(b)))


def test_a_single_run_has_no_deviation():
    assert compare([0.5], [0.4, 0.6]).standard_deviations == (None, pytest.approx(np.sqrt(0.02)))


def test_one_side_may_be_constant():
    found = compare([0.5, 0.5, 0.5], [0.6, 0.7, 0.8])
    assert found.t == pytest.approx(-0.2 / np.sqrt(0.005 * 2 / 3))
    assert 0 < found.p < found.welch_p < 1


@pytest.mark.parametrize(("a", "b"), [([], [0.5, 0.6]), ([0.5, np.nan], [0.5, 0.6]), ([[0.5]], [0.5])])
def test_runs_that_cannot_be_compared(a, b):
    with pytest.raises(BadInput, match="at least one run"):
        compare(a, b)


def test_a_comparison_is_json():
    record = compare([1, 2, 3], [2, 3, 4]).to_record()
    assert json.loads(json.dumps(record)) == record
    assert record["means"] == [2, 3]


def test_folds_by_hand():
    # Of 0.5, 0.7 and 0.9 the mean is 0.7 and the variance of the sample (0.04 + 0 + 0.04) / 2.
    folds = [
        {"accuracy": 0.5, "auroc": None, "kappa": 0.25, "f1": None},
        {"accuracy": 0.7, "auroc": 0.8, "kappa": 0.75, "f1": None},
        {"accuracy": 0.9, "auroc": None},
    ]
    found = across_folds(folds)
    assert list(found) == ["accuracy", "auroc", "kappa", "f1"]
    assert found["accuracy"] == Spread(3, pytest.approx(0.7), pytest.approx(0.2))
    assert found["auroc"] == Spread(1, 0.8, None)
    assert found["kappa"] == Spread(2, 0.5, pytest.approx(np.sqrt(0.125)))
    assert found["f1"] == Spread(0, None, None)
    assert json.loads(json.dumps(found["f1"].to_record())) == {"count": 0, "mean": None, "standard_deviation": None}


def test_ten_folds_are_those_of_numpy():
    each = np.random.default_rng(0).uniform(size=10)
    found = across_folds([{"accuracy": float(one)} for one in each])["accuracy"]
    assert (found.count, found.mean) == (10, pytest.approx(each.mean()))
    assert found.standard_deviation == pytest.approx(each.std(ddof=1))


@pytest.mark.parametrize(
    ("folds", "message"),
    [([], "at least one fold"), ([{"kappa": 0.5}, {"kappa": float("nan")}], "finite numbers or None as kappa")],
)
def test_folds_that_cannot_be_summed_up(folds, message):
    with pytest.raises(BadInput, match=message):
        across_folds(folds)


def test_the_soft_vote_by_hand():
    np.testing.assert_allclose(soft_vote([[[0.9, 0.1]], [[0.3, 0.7]], [[0.6, 0.4]]]), [[0.6, 0.4]])
    np.testing.assert_array_equal(soft_vote([[[0.9, 0.1]]]), [[0.9, 0.1]])
    np.testing.assert_allclose(soft_vote([[[0.9, 0.1]], [[0.3, 0.7]]], [2, 1]), [[0.7, 0.3]])


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0], [0.0, 0.0], [1.0, -1.0], [1.0, float("inf")]])
def test_weights_that_leave_no_vote(weights):
    with pytest.raises(BadInput, match="a weight ≥ 0 for each of 2 members"):
        soft_vote([[[0.9, 0.1]], [[0.3, 0.7]]], weights)


@pytest.mark.parametrize("members", [[], [np.eye(2), np.eye(3)], [np.eye(2), np.eye(2)[:1]]])
def test_members_that_cannot_vote(members):
    with pytest.raises(BadInput, match="one shape"):
        soft_vote(members)


def test_the_worst_are_dropped_and_the_order_kept():
    scores = {"20x": 0.9, "20x early": 0.8, "10x": 0.95, "5x": 0.7, "5x early": 0.85}
    assert drop_worst(scores, 2) == ["20x", "10x", "5x early"]
    assert drop_worst(scores, 0) == list(scores)
    assert drop_worst(scores, 4) == ["10x"]


def test_of_equal_members_the_earlier_stays():
    assert drop_worst({"a": 0.5, "b": 0.5, "c": 0.9, "d": 0.5}, 2) == ["a", "c"]


@pytest.mark.parametrize(("scores", "drop"), [({"a": 1}, 1), ({"a": 1}, -1), ({}, 0), ({"a": np.nan, "b": 1}, 1)])
def test_what_cannot_be_dropped(scores, drop):
    with pytest.raises(BadInput):
        drop_worst(scores, drop)


def test_ablation_by_hand():
    sure, wrong = np.eye(3), np.roll(np.eye(3), 1, axis=0)
    members = {"20x": sure, "mri": wrong, "10x": 0.6 * sure + 0.4 * wrong}
    rows = ablation(members, [0, 1, 2], CLASSES, {"20x": "slide", "10x": "slide", "mri": "volume"})
    assert [(row.kind, row.group, row.members) for row in rows] == [
        ("all", None, ("20x", "mri", "10x")),
        ("without", "slide", ("mri",)),
        ("alone", "slide", ("20x", "10x")),
        ("without", "volume", ("20x", "10x")),
        ("alone", "volume", ("mri",)),
    ]
    # All: (1 + 0 + 0.6) / 3 on the truth against (0 + 1 + 0.4) / 3 beside it.
    assert [row.scores.accuracy for row in rows] == [1, 0, 1, 1, 0]
    assert json.loads(json.dumps([row.to_record() for row in rows]))[1]["scores"]["accuracy"] == 0


def test_ablation_of_one_group_is_that_of_all():
    rows = ablation({"a": np.eye(3), "b": np.eye(3)}, [0, 1, 2], CLASSES, {"a": "20x", "b": "20x"})
    assert [row.kind for row in rows] == ["all"]


def test_ablation_needs_a_group_for_each_member():
    with pytest.raises(BadInput, match="none for b"):
        ablation({"a": np.eye(3), "b": np.eye(3)}, [0, 1, 2], CLASSES, {"a": "20x"})
    with pytest.raises(BadInput, match="no member"):
        ablation({}, [0, 1, 2], CLASSES, {})
