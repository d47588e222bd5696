"""Scores of graders against the truth: of tiles, of slides, of cases, whichever the rows are.

Whatever counts calls follows from the confusion matrix by one set of formulas, which takes any number of matrices at
once, so that intervals (`digipath.measure.grading_intervals`) score each draw exactly as the data themselves.

References:
    Truong et al. 2020, "Evaluation": macro-averages of accuracy (ACCM) and of ROC curves. Lerousseau et al. 2020,
    section 3: balanced accuracy, kappa, micro F1. Lo et al. 2019, section 3: accuracy, sensitivity and specificity of
    each grade against the others. Cohen 1960, doi:10.1177/001316446002000104, and 1968,
    doi:10.1037/h0026256 (kappa). Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747 (AUROC).
    Fawcett 2006, doi:10.1016/j.patrec.2005.10.010, section 9 (vertical and threshold averages of ROC curves).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from digipath.errors import BadInput
from digipath.measure.tile_grades import Floats, Ints, called, class_probabilities, mean_vote, vote_shares

MOST_POINTS = 200  # of a curve in a plot
CALL_METRICS = ("accuracy", "balanced_accuracy", "kappa", "quadratic_kappa", "micro_f1", "macro_f1", "macro_accuracy")
CLASS_METRICS = ("precision", "recall", "specificity", "f1", "accuracy")  # of a class against the rest


@dataclass(frozen=True)
class ClassScores:
    """Calls of one class against the rest; None where the data leave one undefined.

    Attributes:
        precision: share that is right of what was called the class; None where nothing was.
        recall: share of the class that was called it, its sensitivity; None where there is none of it.
        specificity: share of the rest that was not called it; None where there is no rest.
        f1: harmonic mean of precision and recall; None where the class neither occurs nor is called.
        accuracy: share that is right about being of the class or not.
        support: how many are of the class in truth.
    """

    precision: float | None
    recall: float | None
    specificity: float | None
    f1: float | None
    accuracy: float | None
    support: int


@dataclass(frozen=True)
class GradingScores:
    """Scores of n tiles, slides or cases; None where the data leave one undefined.

    Attributes:
        classes: names in rising order of malignancy. count: n.
        confusion: counts, rows truth, columns what was called (unless told otherwise the most probable class, ties to
            the higher).
        accuracy: share that is right. None of nothing, as all others.
        balanced_accuracy: mean over the classes that occur in truth of the share of them that is right.
        kappa, quadratic_kappa: Cohen's, unweighted and by the squared distance of grades; None where truth and calls
            are one and the same class throughout.
        micro_f1: F1 of all classes' counts together, which is the accuracy where each row has one class.
        macro_f1: mean F1 over the classes that occur in truth or are called.
        macro_accuracy: mean over classes of the accuracy of this class against the rest (Truong's ACCM). A guess
            among three equal classes has 5/9 of it.
        auroc: class → AUROC of its probability against the rest; None where it, or the rest, is absent.
        macro_auroc: area under the mean of these classes' ROC curves at each false-positive rate, which is the mean
            of their areas; None where a class is absent.
        macro_auroc_by_threshold: area under Truong's macro-average curve, the means of true- and of false-positive
            rates at each threshold; None where a class is absent.
        by_class: class → its calls against the rest.
    """

    classes: tuple[str, ...]
    count: int
    confusion: tuple[tuple[int, ...], ...]
    accuracy: float | None
    balanced_accuracy: float | None
    kappa: float | None
    quadratic_kappa: float | None
    micro_f1: float | None
    macro_f1: float | None
    macro_accuracy: float | None
    auroc: Mapping[str, float | None]
    macro_auroc: float | None
    macro_auroc_by_threshold: float | None
    by_class: Mapping[str, ClassScores]

    def metrics(self) -> dict[str, float | None]:
        """All single numbers by name; those of one class as "auroc of <class>", "precision of <class>" and so on."""
        single = (*CALL_METRICS, "macro_auroc", "macro_auroc_by_threshold")
        return {
            **{name: getattr(self, name) for name in single},
            **{auroc_name(name): value for name, value in self.auroc.items()},
            **{
                name_of_class(metric, name): getattr(found, metric)
                for metric in CLASS_METRICS
                for name, found in self.by_class.items()
            },
        }

    def to_record(self) -> dict[str, Any]:
        """As JSON."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        lists = {"classes": list(self.classes), "confusion": [list(row) for row in self.confusion]}
        by_class = {name: asdict(found) for name, found in self.by_class.items()}
        return plain | lists | {"auroc": dict(self.auroc), "by_class": by_class}


@dataclass(frozen=True)
class RocCurve:
    """A receiver operating characteristic.

    Attributes:
        false_positive_rate, true_positive_rate: (points,) both rising from 0 to 1.
        area: under the whole curve, also where its points are thinned.
    """

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    area: float


@dataclass(frozen=True)
class RocCurves:
    """Curves of a grader: `classes` by name, None where undefined; `macro` and `macro_by_threshold` as the scores."""

    classes: Mapping[str, RocCurve | None]
    macro: RocCurve | None
    macro_by_threshold: RocCurve | None


@dataclass(frozen=True)
class Pooled:
    """Tiles pooled into slides, or slides into cases.

    Attributes:
        names: (G,) in the order in which they first appear.
        probabilities: (G, C). first: (G,) the first row of each, whose label and case are those of the group.
    """

    names: tuple[Any, ...]
    probabilities: NDArray[np.float64]
    first: Ints


def scores(
    truth: ArrayLike, probabilities: ArrayLike, classes: Sequence[str], *, calls: ArrayLike | None = None
) -> GradingScores:
    """All scores of a grader; a class that does not occur leaves them undefined, never raises.

    Args:
        truth: (n,) integers in [0, C). probabilities: (n, C), n ≥ 0. classes: C names.
        calls: (n,) what each was called, where that is not its most probable class, as by a vote; AUROC is of the
            probabilities whatever was called.

    Raises:
        BadInput: shapes that do not fit, a truth or a call that is no class, or values that are no probabilities.
    """
    true, values = truth_and_probabilities(truth, probabilities, len(classes))
    matrix = confusion_matrices(true, calls_or_called(calls, values), len(classes))
    counted = {name: _number(value) for name, value in call_metrics(matrix).items()}
    areas = [_area(true == grade, values[:, grade]) for grade in range(len(classes))]
    return GradingScores(
        classes=tuple(classes),
        count=len(true),
        confusion=tuple(tuple(row) for row in matrix.tolist()),
        **counted,
        auroc=dict(zip(classes, areas, strict=True)),
        macro_auroc=_mean(areas),
        macro_auroc_by_threshold=None if None in areas else _area_by_threshold(true, values),
        by_class=_by_class(matrix, classes),
    )


def roc_curves(
    truth: ArrayLike, probabilities: ArrayLike, classes: Sequence[str], *, points: int = MOST_POINTS
) -> RocCurves:
    """The ROC curve of each class against the rest and both macro-averages, of at most so many points each.

    `macro` is the mean true-positive rate of the classes' curves at each false-positive rate that one of them has,
    interpolated between; where a curve rises at one rate, both ends of the step count, so that no area is gained.
    `macro_by_threshold` has the means of true- and of false-positive rates over classes at each threshold.

    Raises:
        BadInput: as `scores`.
    """
    true, values = truth_and_probabilities(truth, probabilities, len(classes))
    whole = [_curve(true == grade, values[:, grade]) for grade in range(len(classes))]
    found = [one for one in whole if one is not None]
    complete = len(found) == len(classes)
    macro = _mean_curve(found) if complete else None
    by_threshold = _curve(*_one_against_rest(true, values)) if complete else None
    return RocCurves(
        {name: one and _thinned(one, points) for name, one in zip(classes, whole, strict=True)},
        macro and _thinned(macro, points),
        by_threshold and _thinned(by_threshold, points),
    )


def pooled_by(
    probabilities: ArrayLike, groups: Sequence[Hashable], *, how: Literal["mean", "votes"] = "mean"
) -> Pooled:
    """Pool tiles into slides, or slides into cases: the mean of their probabilities or the share of their votes.

    Args:
        probabilities: (n, C). groups: (n,) whose each row is.

    Raises:
        BadInput: not one group per row, or a way that is neither.
    """
    values = class_probabilities(probabilities)
    pools = {"mean": mean_vote, "votes": vote_shares}
    if len(groups) != len(values) or how not in pools:
        raise BadInput(f"expected {len(values)} groups and how of {', '.join(pools)}, got {len(groups)} and {how}")
    rows: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    pooled = [pools[how](values[own]) for own in rows.values()]
    first = np.array([own[0] for own in rows.values()], np.int64)
    return Pooled(tuple(rows), np.array(pooled).reshape(len(rows), values.shape[1]), first)


def truth_and_probabilities(truth: ArrayLike, probabilities: ArrayLike, count: int) -> tuple[Ints, Floats]:
    """Both as arrays, (n,) and (n, C), or BadInput in one line."""
    given = np.asarray(probabilities)
    values = class_probabilities(given if given.size else np.empty((0, count)), count=count)
    return _classes_of(truth, values, "truth"), values


def calls_or_called(calls: ArrayLike | None, values: Floats) -> Ints:
    """(n,) what each row of probabilities (n, C) was called: as told, else its most probable class; or BadInput."""
    return called(values) if calls is None else _classes_of(calls, values, "call")


def _classes_of(given: ArrayLike, values: Floats, what: str) -> Ints:
    """A class for each row of probabilities (n, C), (n,)."""
    found, count = np.asarray(given), values.shape[1]
    if found.shape != values.shape[:1]:
        raise BadInput(f"expected one {what} per row of probabilities, got {found.shape} and {values.shape}")
    if found.size and not (found.dtype.kind in "iu" and found.min() >= 0 and found.max() < count):
        raise BadInput(f"expected {what}s as whole numbers from 0 to {count - 1}, got {np.unique(found)[:5]}")
    return found.astype(np.int64)


def confusion_matrices(truth: Ints, calls: Ints, count: int) -> Ints:
    """Counts (C, C), rows truth, columns calls."""
    return np.bincount(truth * count + calls, minlength=count * count).reshape(count, count)


def call_metrics(confusion: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """`CALL_METRICS` of confusion matrices (…, C, C), each (…); NaN where undefined. See `GradingScores`."""
    matrix = np.asarray(confusion, np.float64)
    right, true, call, total = _counts(matrix)
    grades, by_class = np.arange(matrix.shape[-1]), class_metrics(matrix)
    expected = true[..., :, None] * call[..., None, :] / np.where(total > 0, total, 1)[..., None]
    accuracy = _ratio(right.sum(axis=-1), total[..., 0])
    wrong = {"kappa": grades[:, None] != grades, "quadratic_kappa": (grades[:, None] - grades) ** 2}
    kappas = {
        name: 1 - _ratio((weight * matrix).sum(axis=(-2, -1)), (weight * expected).sum(axis=(-2, -1)))
        for name, weight in wrong.items()
    }
    return {
        "accuracy": accuracy,
        "balanced_accuracy": _mean_of_defined(by_class["recall"]),
        **kappas,
        "micro_f1": accuracy,
        "macro_f1": _mean_of_defined(by_class["f1"]),
        "macro_accuracy": by_class["accuracy"].mean(axis=-1),
    }


def class_metrics(confusion: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """`CLASS_METRICS` of confusion matrices (…, C, C), each (…, C); NaN where undefined. See `ClassScores`."""
    right, true, call, total = _counts(np.asarray(confusion, np.float64))
    neither = total - true - call + right
    return {
        "precision": _ratio(right, call),
        "recall": _ratio(right, true),
        "specificity": _ratio(neither, total - true),
        "f1": _ratio(2 * right, true + call),
        "accuracy": _ratio(right + neither, total),
    }


def _counts(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Of matrices (…, C, C): how many of each class are right, truly it and called it, (…, C), and all, (…, 1)."""
    true = matrix.sum(axis=-1)
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    return right, true, matrix.sum(axis=-2), true.sum(axis=-1, keepdims=True)


def auroc_name(name: str) -> str:
    """How the AUROC of a class is called among `GradingScores.metrics`."""
    return name_of_class("auroc", name)


def name_of_class(metric: str, name: str) -> str:
    """How "auroc" or one of `CLASS_METRICS` of a class is called among `GradingScores.metrics`."""
    return f"{metric} of {name}"


def _by_class(matrix: Ints, classes: Sequence[str]) -> dict[str, ClassScores]:
    found = class_metrics(matrix)
    return {
        name: ClassScores(**{key: _number(each[at]) for key, each in found.items()}, support=int(matrix[at].sum()))
        for at, name in enumerate(classes)
    }


def _one_against_rest(true: Ints, values: Floats) -> tuple[NDArray[np.bool_], Floats, NDArray[np.float64]]:
    """Every class against its rest, all in one: which are positive, their probabilities, and weights.

    The positives of each class weigh 1 / C in all, and so do the negatives, so that the rates at a threshold are the
    means over classes of theirs.
    """
    positive = true[:, None] == np.arange(values.shape[1])
    weight = np.where(positive, 1 / positive.sum(axis=0), 1 / (~positive).sum(axis=0))
    return positive.ravel(), values.ravel(), weight.ravel()


def _area(positive: NDArray[np.bool_], score: Floats) -> float | None:
    from sklearn.metrics import roc_auc_score  # here: its import takes a second

    return float(roc_auc_score(positive, score)) if positive.any() and not positive.all() else None


def _area_by_threshold(true: Ints, values: Floats) -> float:
    from sklearn.metrics import roc_auc_score

    positive, score, weight = _one_against_rest(true, values)
    return float(roc_auc_score(positive, score, sample_weight=weight))


def _curve(positive: NDArray[np.bool_], score: Floats, weight: NDArray[np.float64] | None = None) -> RocCurve | None:
    from sklearn.metrics import auc, roc_curve

    if positive.all() or not positive.any():
        return None
    false_rate, true_rate, _ = roc_curve(positive, score, sample_weight=weight)
    return RocCurve(false_rate, true_rate, float(auc(false_rate, true_rate)))


def _mean_curve(curves: Sequence[RocCurve]) -> RocCurve:
    """Mean true-positive rate of curves at each false-positive rate, both ends of steps kept."""
    rates = np.unique(np.concatenate([one.false_positive_rate for one in curves]))
    ends = np.mean([_step_ends(one, rates) for one in curves], axis=0)
    false_rate, true_rate = np.repeat(rates, 2), ends.ravel()
    return RocCurve(false_rate, true_rate, float(np.trapezoid(true_rate, false_rate)))


def _step_ends(curve: RocCurve, rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """True-positive rates of a curve just before and just after each false-positive rate, (len(rates), 2)."""
    x, y = curve.false_positive_rate, curve.true_positive_rate
    first, last = np.searchsorted(x, rates, side="left"), np.searchsorted(x, rates, side="right") - 1
    there = x[first] == rates
    between = np.interp(rates, x, y)
    return np.stack([np.where(there, y[first], between), np.where(there, y[last], between)], axis=1)


def _thinned(curve: RocCurve, points: int) -> RocCurve:
    """At most so many points, evenly along the curve, with both of its ends; the area stays."""
    x, y = curve.false_positive_rate, curve.true_positive_rate
    if len(x) <= points:
        return curve
    at = np.unique(np.searchsorted(x + y, np.linspace(0, 2, points)).clip(max=len(x) - 1))
    at[0], at[-1] = 0, len(x) - 1
    return RocCurve(x[at], y[at], curve.area)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """part / whole, NaN where there is no whole."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


def _mean_of_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))


def _mean(areas: Sequence[float | None]) -> float | None:
    defined = [one for one in areas if one is not None]
    return float(np.mean(defined)) if len(defined) == len(areas) else None


def _number(value: NDArray[np.float64]) -> float | None:
    return None if np.isnan(value) else float(value)
