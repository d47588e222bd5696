"""Scores of graders and their curves, by six hand-worked tiles and against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics

from digipath.errors import BadInput
from digipath.measure.grading_scores import (
    CLASS_METRICS,
    ClassScores,
    call_metrics,
    class_metrics,
    confusion_matrices,
    pooled_by,
    roc_curves,
    scores,
)

CLASSES = ("grade 2", "grade 3", "grade 4")
TRUTH = [0, 0, 1, 1, 2, 2]
SIX = np.array(
    [
        [0.7, 0.2, 0.1],
        [0.4, 0.5, 0.1],
        [0.2, 0.6, 0.2],
        [0.1, 0.3, 0.6],
        [0.1, 0.1, 0.8],
        [0.3, 0.2, 0.5],
    ]
)


def made_up(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=count)
    odds = np.exp(rng.normal(size=(count, 3)) + np.eye(3)[truth])
    return truth, odds / odds.sum(axis=1, keepdims=True)


def test_scores_by_hand():
    found = scores(TRUTH, SIX, CLASSES)
    assert found.count == 6
    assert found.confusion == ((1, 1, 0), (0, 1, 1), (0, 0, 2))
    assert found.accuracy == found.micro_f1 == pytest.approx(4 / 6)
    assert found.balanced_accuracy == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert found.kappa == pytest.approx((4 / 6 - 1 / 3) / (1 - 1 / 3))  # 2 · 1 + 2 · 2 + 2 · 3 of 36 by chance
    assert found.quadratic_kappa == pytest.approx(1 - 2 / 8)
    assert found.macro_f1 == pytest.approx((2 / 3 + 1 / 2 + 4 / 5) / 3)
    assert found.macro_accuracy == pytest.approx((5 / 6 + 4 / 6 + 5 / 6) / 3)
    assert found.auroc == pytest.approx({"grade 2": 1, "grade 3": 7 / 8, "grade 4": 7 / 8})
    assert found.macro_auroc == pytest.approx(11 / 12)


def test_scores_of_each_class_by_hand():
    """Of the matrix above: grade 2 is called once and rightly, grade 3 twice, grade 4 three times."""
    found = scores(TRUTH, SIX, CLASSES)
    assert found.by_class == {
        "grade 2": ClassScores(precision=1, recall=1 / 2, specificity=1, f1=2 / 3, accuracy=5 / 6, support=2),
        "grade 3": ClassScores(precision=1 / 2, recall=1 / 2, specificity=3 / 4, f1=1 / 2, accuracy=4 / 6, support=2),
        "grade 4": ClassScores(precision=2 / 3, recall=1, specificity=3 / 4, f1=4 / 5, accuracy=5 / 6, support=2),
    }
    own = [(metric, name) for metric in CLASS_METRICS for name in CLASSES]
    assert {f"{metric} of {name}": getattr(found.by_class[name], metric) for metric, name in own}.items() <= (
        found.metrics().items()
    )


def test_scores_of_each_class_are_those_of_scikit_learn():
    truth, values = made_up(500)
    calls, found = values.argmax(axis=1), scores(truth, values, CLASSES).by_class
    precision, recall, f1, support = metrics.precision_recall_fscore_support(truth, calls)
    for grade, name in enumerate(CLASSES):
        one, own, called = found[name], truth == grade, calls == grade
        assert (one.precision, one.recall) == pytest.approx((precision[grade], recall[grade]))
        assert (one.f1, one.support) == (pytest.approx(f1[grade]), support[grade])
        assert one.specificity == pytest.approx(metrics.recall_score(~own, ~called))
        assert one.accuracy == pytest.approx(metrics.accuracy_score(own, called))


def test_what_a_class_leaves_undefined():
    values = np.array([[0.8, 0.2, 0], [0.3, 0.7, 0], [0.4, 0.6, 0], [0.1, 0.9, 0]])
    absent = scores([0, 0, 1, 1], values, CLASSES).by_class["grade 4"]  # neither there nor called
    assert absent == ClassScores(precision=None, recall=None, specificity=1, f1=None, accuracy=1, support=0)
    never_called = scores([0, 0, 1, 2], values, CLASSES).by_class["grade 4"]
    assert never_called == ClassScores(precision=None, recall=0, specificity=1, f1=0, accuracy=3 / 4, support=1)
    only_called = scores(TRUTH[:4], SIX[:4], CLASSES).by_class["grade 4"]
    assert only_called == ClassScores(precision=0, recall=None, specificity=3 / 4, f1=0, accuracy=3 / 4, support=0)
    without_rest = scores([1, 1], values[:2], CLASSES).by_class["grade 3"]
    assert without_rest == ClassScores(1, 1 / 2, None, pytest.approx(2 / 3), 1 / 2, 2)


def test_the_area_by_threshold_by_hand():
    # Mean over pairs of classes of: positives of one above negatives of the other, ties one half; of 8 pairs each.
    pairs = [8, 7, 7, 7.5, 7, 6.5, 8, 7.5, 7]
    assert scores(TRUTH, SIX, CLASSES).macro_auroc_by_threshold == pytest.approx(sum(pairs) / 72)


def test_scores_are_those_of_scikit_learn():
    truth, values = made_up(500)
    calls, found = values.argmax(axis=1), scores(truth, values, CLASSES)
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(truth, calls))
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, calls))
    assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(truth, calls))
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score(truth, calls))
    assert found.quadratic_kappa == pytest.approx(metrics.cohen_kappa_score(truth, calls, weights="quadratic"))
    assert found.micro_f1 == pytest.approx(metrics.f1_score(truth, calls, average="micro"))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(truth, calls, average="macro"))
    by_rest = [metrics.accuracy_score(truth == grade, calls == grade) for grade in range(3)]
    assert found.macro_accuracy == pytest.approx(np.mean(by_rest))
    assert found.macro_auroc == pytest.approx(metrics.roc_auc_score(truth, values, multi_class="ovr"))


def test_a_guess_among_three_has_five_ninths_of_macro_accuracy():
    every = np.full((3, 3), 10)  # whatever the truth, each class is called as often
    found = call_metrics(every)
    assert found["macro_accuracy"] == pytest.approx(5 / 9)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["kappa"] == pytest.approx(0)


def test_many_matrices_at_once_are_scored_as_each():
    truth, values = made_up(300)
    each = [confusion_matrices(truth[part], values[part].argmax(axis=1), 3) for part in np.split(np.arange(300), 6)]
    for of in (call_metrics, class_metrics):
        for name, together in of(np.array(each)).items():
            np.testing.assert_array_equal(together, [of(one)[name] for one in each])


def test_a_class_that_is_absent_leaves_its_scores_undefined():
    found = scores(TRUTH[:4], SIX[:4], CLASSES)
    assert found.confusion == ((1, 1, 0), (0, 1, 1), (0, 0, 0))
    assert found.accuracy == found.balanced_accuracy == 0.5  # over the two that occur
    assert found.macro_f1 == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)  # grade 4 is called, once, and falsely
    assert found.auroc["grade 2"] == 1
    assert found.auroc["grade 4"] is found.macro_auroc is found.macro_auroc_by_threshold is None


def test_a_class_that_neither_occurs_nor_is_called_is_left_out():
    truth, values = [0, 0, 1, 1], np.array([[0.8, 0.2, 0], [0.3, 0.7, 0], [0.4, 0.6, 0], [0.1, 0.9, 0]])
    found = scores(truth, values, CLASSES)
    assert found.macro_f1 == pytest.approx(metrics.f1_score(truth, [0, 1, 1, 1], average="macro"))
    assert found.balanced_accuracy == pytest.approx(3 / 4)


def test_one_row():
    found = scores([1], [[0.2, 0.7, 0.1]], CLASSES)
    assert found.accuracy == found.balanced_accuracy == found.macro_f1 == found.macro_accuracy == 1
    assert found.kappa is found.quadratic_kappa is found.macro_auroc is None
    assert set(found.auroc.values()) == {None}


def test_no_row():
    found = scores([], np.empty((0, 3)), CLASSES)
    assert found.count == 0
    assert found.confusion == ((0, 0, 0),) * 3
    assert set(found.metrics().values()) == {None}
    curves = roc_curves([], [], CLASSES)
    assert curves.macro is curves.macro_by_threshold is None
    assert set(curves.classes.values()) == {None}


def test_two_classes():
    found = scores([0, 0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]], ("rest", "GBM"))
    assert found.auroc == pytest.approx({"rest": 0.75, "GBM": 0.75})
    assert found.macro_accuracy == found.accuracy == 0.75


def test_the_order_of_rows_does_not_matter():
    truth, values = made_up(200)
    order = np.random.default_rng(1).permutation(200)
    first, second = scores(truth, values, CLASSES), scores(truth[order], values[order], CLASSES)
    assert first.confusion == second.confusion
    assert first.metrics() == pytest.approx(second.metrics(), abs=1e-12)


def test_a_record_is_json_and_holds_all():
    found = scores(TRUTH, SIX, CLASSES)
    record = found.to_record()
    assert json.loads(json.dumps(record)) == record
    assert record["confusion"][0] == [1, 1, 0]
    assert found.metrics()["auroc of grade 3"] == 7 / 8
    assert found.metrics()["precision of grade 4"] == record["by_class"]["grade 4"]["precision"] == 2 / 3
    assert len(found.metrics()) == 12 + 5 * 3


@pytest.mark.parametrize(
    ("truth", "values", "message"),
    [
        ([0], SIX, "one truth per row"),
        ([0, 1, 2, 3, 0, 0], SIX, "whole numbers from 0 to 2"),
        ([0.0] * 6, SIX, "whole numbers"),
        (TRUTH, SIX[:, :2], r"\(n, 3\)"),
        (TRUTH, SIX * 2, r"in \[0, 1\]"),
    ],
)
def test_bad_input(truth, values, message):
    with pytest.raises(BadInput, match=message):
        scores(truth, values, CLASSES)


def test_the_mean_curve_by_hand():
    macro = roc_curves(TRUTH, SIX, CLASSES).macro
    np.testing.assert_allclose(macro.false_positive_rate[:4], [0, 0, 0.25, 0.25])
    np.testing.assert_allclose(macro.true_positive_rate[:4], [0, 2 / 3, 2 / 3, 1])
    assert (macro.true_positive_rate[4:] == 1).all()
    assert macro.false_positive_rate[-1] == 1
    assert macro.area == pytest.approx(11 / 12)


def test_steps_gain_the_mean_curve_no_area():
    # Interpolating from one rate to the next as if there were no steps would give 0.69 here.
    curves = roc_curves([0, 1, 0, 1], [[0.9, 0.1], [0.5, 0.5], [0.3, 0.7], [0.5, 0.5]], ("rest", "GBM"))
    assert curves.classes["GBM"].area == curves.macro.area == 0.5


@pytest.mark.parametrize("count", [12, 60, 3000])
def test_areas_under_the_curves_are_the_scores(count):
    truth, values = made_up(count, seed=count)
    found, curves = scores(truth, values, CLASSES), roc_curves(truth, values, CLASSES, points=10**6)
    assert {name: one.area for name, one in curves.classes.items()} == pytest.approx(dict(found.auroc))
    assert curves.macro.area == pytest.approx(found.macro_auroc, abs=1e-12)
    assert curves.macro_by_threshold.area == pytest.approx(found.macro_auroc_by_threshold, abs=1e-12)


def test_the_curve_by_threshold_has_the_mean_rates_at_each():
    truth, values = made_up(80)
    curve = roc_curves(truth, values, CLASSES, points=10**6).macro_by_threshold
    for threshold in (0.1, 0.3, 0.5, 0.8):
        above = values >= threshold
        own = truth[:, None] == np.arange(3)
        true_rate = np.mean([above[own[:, one], one].mean() for one in range(3)])
        false_rate = np.mean([above[~own[:, one], one].mean() for one in range(3)])
        lower, upper = curve.true_positive_rate[
            [np.searchsorted(curve.false_positive_rate, false_rate + shift) for shift in (-1e-9, 1e-9)]
        ]
        assert lower - 1e-9 <= true_rate <= upper + 1e-9


def test_curves_are_thinned_and_keep_their_ends_and_areas():
    truth, values = made_up(3000)
    whole, thin = (roc_curves(truth, values, CLASSES, points=points) for points in (10**6, 50))
    for full, curve in zip(
        (whole.macro, whole.macro_by_threshold, *whole.classes.values()),
        (thin.macro, thin.macro_by_threshold, *thin.classes.values()),
        strict=True,
    ):
        x, y = curve.false_positive_rate, curve.true_positive_rate
        assert len(x) <= 50 < len(full.false_positive_rate)
        assert (x[0], y[0], x[-1], y[-1]) == pytest.approx((0, 0, 1, 1))
        assert (np.diff(x) >= 0).all()
        assert curve.area == full.area
        assert np.trapezoid(y, x) == pytest.approx(full.area, abs=0.01)
    assert len(roc_curves(truth, values, CLASSES).macro.false_positive_rate) <= 200


def test_an_absent_class_has_no_curve():
    curves = roc_curves(TRUTH[:4], SIX[:4], CLASSES)
    assert curves.classes["grade 4"] is curves.macro is curves.macro_by_threshold is None
    assert curves.classes["grade 2"].area == 1


def test_tiles_pooled_to_slides_to_cases():
    slides = pooled_by(SIX, ["b", "b", "a", "a", "a", "c"])
    assert slides.names == ("b", "a", "c")
    np.testing.assert_allclose(slides.probabilities[:2], [[0.55, 0.35, 0.1], [0.4 / 3, 1 / 3, 1.6 / 3]])
    np.testing.assert_array_equal(slides.first, [0, 2, 5])
    cases = pooled_by(slides.probabilities, ["one", "two", "one"])
    np.testing.assert_allclose(cases.probabilities[0], [0.425, 0.275, 0.3])
    np.testing.assert_array_equal(pooled_by(SIX, "bbaaac", how="votes").probabilities[1], [0, 1 / 3, 2 / 3])


def test_nothing_pooled_is_nothing():
    pooled = pooled_by(np.empty((0, 3)), [])
    assert pooled.names == ()
    assert pooled.probabilities.shape == (0, 3)


@pytest.mark.parametrize(("groups", "how"), [("ab", "mean"), ("aaabbb", "median")])
def test_what_cannot_be_pooled(groups, how):
    with pytest.raises(BadInput):
        pooled_by(SIX, groups, how=how)
