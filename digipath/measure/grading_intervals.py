"""How far scores of a grader would move with other patients: bootstrap intervals that resample whole patients.

Tiles, slides and scans of one patient go together, so that their likeness does not pass for evidence. Efron and
Tibshirani 1993, *An Introduction to the Bootstrap*, chapter 13 (percentile interval); Field and Welsh 2007,
doi:10.1111/j.1467-9868.2007.00593.x (clusters).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

from digipath.errors import BadInput
from digipath.measure.grading_scores import (
    auroc_name,
    call_metrics,
    calls_or_called,
    class_metrics,
    name_of_class,
    scores,
    truth_and_probabilities,
)
from digipath.measure.tile_grades import Floats, Ints

DRAWS = 1000
LEVEL = 0.95
RANKS = 4096  # probabilities are ranked so finely: exact for fewer distinct ones, else an AUROC errs by less than 0.001
VALUES_AT_ONCE = 2_000_000  # in memory, 16 MB each of a few arrays

Weights = NDArray[np.float64]  # (draws, …) how often each patient was drawn, or how many values lie at each rank then


@dataclass(frozen=True)
class Intervals:
    """Bootstrap intervals of scores.

    Attributes:
        intervals: metric, by its name in `GradingScores.metrics` → (low, high); None where there are fewer than two
            patients or no draw defines it.
        undefined: metric → draws left out because it is undefined in them, a class being absent.
        draws, patients, level: how many draws, of how many patients, and the share of the draws that is within.
    """

    intervals: Mapping[str, tuple[float, float] | None]
    undefined: Mapping[str, int]
    draws: int
    patients: int
    level: float

    def to_record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "method": "percentile bootstrap, whole patients drawn with replacement",
            **{name: getattr(self, name) for name in ("draws", "patients", "level")},
            "intervals": {name: pair and list(pair) for name, pair in self.intervals.items()},
            "undefined": dict(self.undefined),
        }


def bootstrap(
    truth: ArrayLike,
    probabilities: ArrayLike,
    patients: Sequence[Hashable],
    classes: Sequence[str],
    *,
    calls: ArrayLike | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Intervals:
    """Percentile intervals of every score of `digipath.measure.grading_scores.scores`.

    As many patients as there are, drawn with replacement, each with all of their rows. A draw in which a score is
    undefined is left out of its interval and counted; so is one that lacks a class over which the data's score is a
    mean, as it would be the mean of something else.

    Args:
        truth: (n,) integers. probabilities: (n, C). patients: (n,) whose each row is. classes: C names.
        calls: as for `scores`. level: in (0, 1).

    Raises:
        BadInput: as `scores`; not one patient per row; no draw; a level outside (0, 1).
    """
    true, values = truth_and_probabilities(truth, probabilities, len(classes))
    if len(patients) != len(true) or draws < 1 or not 0 < level < 1:
        raise BadInput(
            f"expected a patient for each of {len(true)} rows, at least 1 draw and a level in (0, 1), "
            f"got {len(patients)} patients, {draws} draws, level {level}"
        )
    number = {name: at for at, name in enumerate(sorted(dict.fromkeys(patients), key=str))}  # whatever their order
    owner = np.array([number[name] for name in patients], np.int64)
    names = scores(true[:0], values[:0], classes).metrics()
    if len(number) < 2:
        return Intervals(dict.fromkeys(names), dict.fromkeys(names, 0), draws, len(number), level)
    data = _Patients.of(true, values, owner, classes, calls=calls_or_called(calls, values))
    at_once = max(1, VALUES_AT_ONCE // (data.ranks.shape[1] + len(number)))
    parts = [data.metrics(counts) for counts in _drawn(len(number), draws, seed, at_once)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in names}
    return Intervals(
        {name: _interval(drawn, level) for name, drawn in found.items()},
        {name: int(np.isnan(drawn).sum()) for name, drawn in found.items()},
        draws,
        len(number),
        level,
    )


@dataclass(frozen=True)
class _Patients:
    """What each of K patients adds to the scores of C classes.

    Attributes:
        calls: (K, C, C) confusion matrices.
        ranks: (K, 2 · C · R) how many probabilities of each class lie at each of R ranks, first those of its
            positives, then those of its negatives.
        classes: C names.
    """

    calls: Ints
    ranks: csr_matrix
    classes: tuple[str, ...]

    @staticmethod
    def of(true: Ints, values: Floats, owner: Ints, classes: Sequence[str], *, calls: Ints) -> _Patients:
        """Of rows (n,), (n, C) that belong to the patient of this number, (n,)."""
        size, patients = len(classes), int(owner.max()) + 1
        cells = (owner * size + true) * size + calls
        confusion = np.bincount(cells, minlength=patients * size**2).reshape(patients, size, size)
        rank = _ranks(values)
        grade = np.arange(size)
        places = (np.where(true[:, None] == grade, grade, grade + size)) * (rank.max() + 1) + rank
        shape = (patients, 2 * size * (int(rank.max()) + 1))
        found = csr_matrix((np.ones(places.size), (np.repeat(owner, size), places.ravel())), shape=shape)
        return _Patients(confusion, found, tuple(classes))

    def metrics(self, counts: Weights) -> dict[str, NDArray[np.float64]]:
        """Each metric, (draws,), of draws that hold each patient so often: counts (draws, K); NaN where undefined."""
        size = len(self.classes)
        confusion = (counts @ self.calls.reshape(-1, size**2)).reshape(-1, size, size)
        ups, downs = np.moveaxis((counts @ self.ranks).reshape(len(counts), 2, size, -1), 1, 0)
        areas = _areas(ups, downs)
        pooled = [_shares(side).mean(axis=1) for side in (ups, downs)]
        return {
            **self._call_metrics(confusion),
            "macro_auroc": areas.mean(axis=1),
            "macro_auroc_by_threshold": np.where(np.isnan(areas).any(axis=1), np.nan, _areas(*pooled)),
            **{auroc_name(name): areas[:, grade] for grade, name in enumerate(self.classes)},
            **{
                name_of_class(metric, name): found[:, grade]
                for metric, found in class_metrics(confusion).items()
                for grade, name in enumerate(self.classes)
            },
        }

    def _call_metrics(self, confusion: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        found, own = call_metrics(confusion), self.calls.sum(axis=0)
        means_over = {
            "balanced_accuracy": (own.sum(axis=1), confusion.sum(axis=2)),
            "macro_f1": (own.sum(axis=1) + own.sum(axis=0), confusion.sum(axis=2) + confusion.sum(axis=1)),
        }
        for name, (in_data, in_draw) in means_over.items():
            found[name] = np.where(((in_data > 0) & (in_draw == 0)).any(axis=1), np.nan, found[name])
        return found


def _drawn(patients: int, draws: int, seed: int, at_once: int) -> Iterator[Weights]:
    """How often each patient is in each draw, (some draws, patients) at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, draws, at_once):
        size = min(at_once, draws - start)
        yield rng.multinomial(patients, np.full(patients, 1 / patients), size=size).astype(np.float64)


def _ranks(values: Floats) -> Ints:
    """The rank of each value among all, (n, C) from 0: of each distinct one, or of `RANKS` groups of about one size."""
    _, rank, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(counts) > RANKS:
        rank = ((np.cumsum(counts) - counts) * RANKS // values.size)[rank]
    return rank.reshape(values.shape).astype(np.int64)


def _areas(ups: Weights, downs: Weights) -> NDArray[np.float64]:
    """AUROC (…) of positives and negatives counted by rank (…, R), equal ranks for one half; NaN without either."""
    pairs = ups.sum(axis=-1) * downs.sum(axis=-1)
    below = np.cumsum(downs, axis=-1) - downs / 2
    return np.where(pairs > 0, (ups * below).sum(axis=-1) / np.where(pairs > 0, pairs, 1), np.nan)


def _shares(counts: Weights) -> Weights:
    """Each of the counts (…, R) as a share of all; zeros stay."""
    whole = counts.sum(axis=-1, keepdims=True)
    return counts / np.where(whole > 0, whole, 1)


def _interval(drawn: NDArray[np.float64], level: float) -> tuple[float, float] | None:
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
