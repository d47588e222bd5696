"""Counts of a two-class prediction that add up: scores of any number of pixels in little memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput

# Probabilities are binned by their log odds: a trained network's crowd at 0 and at 1, where even bins would tie them.
BINS = 4096
LOG_ODDS = 16.0  # of the outermost bins, either side; about the resolution of float32 next to 1
BIN_LOG_ODDS = np.linspace(-LOG_ODDS, LOG_ODDS, BINS)  # of each bin's middle

Histogram = NDArray[np.int64]  # (2, BINS): pixels without and with what is asked for, by the log odds of a value


@dataclass(frozen=True)
class Confusion:
    """Pixels counted by truth and by prediction; add several to pool them.

    histogram: (2, BINS) int64, negatives and positives by the log odds of their probability.
    found: (2,) int64, how many negatives and positives were called positive at the threshold.
    """

    histogram: NDArray[np.int64]
    found: NDArray[np.int64]

    @staticmethod
    def of(truth: NDArray[np.bool_], probability: NDArray[np.floating], threshold: float) -> Confusion:
        """Count pixels of one shape; a probability of at least `threshold` is called positive.

        Raises:
            BadInput: the shapes differ, or a probability is NaN.
        """
        if truth.shape != probability.shape:
            raise BadInput(f"expected truth and probability of one shape, got {truth.shape} and {probability.shape}")
        if np.isnan(probability).any():
            raise BadInput("expected probabilities, got NaN")
        called = probability >= threshold
        found = np.array([np.count_nonzero(called & ~truth), np.count_nonzero(called & truth)])
        return Confusion(histogram_of(truth, probability), found)

    @staticmethod
    def none() -> Confusion:
        """No pixel at all."""
        return Confusion(np.zeros((2, BINS), np.int64), np.zeros(2, np.int64))

    @staticmethod
    def pooled(several: Iterable[Confusion]) -> Confusion:
        """The pixels of all of them together."""
        return sum(several, Confusion.none())

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.histogram + other.histogram, self.found + other.found)

    @property
    def negatives(self) -> int:
        """Pixels that are negative in truth."""
        return int(self.histogram[0].sum())

    @property
    def positives(self) -> int:
        """Pixels that are positive in truth."""
        return int(self.histogram[1].sum())

    @property
    def dice(self) -> float:
        """2 |T ∩ P| / (|T| + |P|), in [0, 1]; 1 where both are empty. Dice 1945, doi:10.2307/1932409."""
        size = self.positives + int(self.found.sum())
        return 2 * int(self.found[1]) / size if size else 1.0

    @property
    def jaccard(self) -> float:
        """|T ∩ P| / |T ∪ P|, in [0, 1]; 1 where both are empty.

        Jaccard 1912, doi:10.1111/j.1469-8137.1912.tb05611.x.
        """
        return self.dice / (2 - self.dice)

    @property
    def all_positive_dice(self) -> float:
        """The Dice coefficient that calling every pixel positive would have."""
        size = 2 * self.positives + self.negatives
        return 2 * self.positives / size if size else 1.0

    @property
    def auroc(self) -> float | None:
        """Area under the ROC curve, in [0, 1], None where one class is absent.

        Pixels of one bin count as ties: an error below 0.001. Hanley and McNeil 1982,
        doi:10.1148/radiology.143.1.7063747.
        """
        return auroc_of(self.histogram)

    @property
    def false_positive_share(self) -> float | None:
        """Share of the negative pixels that were called positive (1 − specificity), None without any."""
        return int(self.found[0]) / self.negatives if self.negatives else None


def histogram_of(truth: NDArray[np.bool_], value: NDArray[np.floating]) -> Histogram:
    """Pixels (2, BINS) where `truth` is False and where it is True, by the log odds of a value in [0, 1]."""
    bins = _bins(value)
    return np.array([np.bincount(bins[truth == side], minlength=BINS) for side in (False, True)])


def auroc_of(histogram: Histogram) -> float | None:
    """The chance that a value of the second row is above one of the first, ties counting one half; None without both.

    Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747.
    """
    negative, positive = histogram.astype(np.float64)
    if not negative.any() or not positive.any():
        return None
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / negative.sum() / positive.sum())


def _bins(value: NDArray[np.floating]) -> NDArray[np.int64]:
    p = value.astype(np.float64)
    with np.errstate(divide="ignore"):
        odds = np.log(p) - np.log1p(-p)
    return (((np.clip(odds, -LOG_ODDS, LOG_ODDS) + LOG_ODDS) / (2 * LOG_ODDS)) * (BINS - 1)).round().astype(np.int64)
