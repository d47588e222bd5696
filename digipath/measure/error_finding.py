"""Does uncertainty find errors? Its AUROC for wrong pixels and the risk–coverage curve, from histograms.

A pixel is wrong if it is called otherwise than its truth. A good uncertainty is higher on wrong pixels than on
right ones: within the tumour (what is missed), within normal tissue (what is called falsely), and also away
from the truth's border, where every network errs and every annotator too.

Which uncertainty: of a pixel with the probability p, called positive from 0.5 on, min(p, 1 − p) is the chance to
be wrong if p is calibrated; the entropy of p rises and falls with it, so no other function of p orders pixels
better. Variances see only how much views and networks differ, not that all of them may say 0.5. Hence `entropy`
is the recommended one (`RECOMMENDED`), whatever the data.

References:
    Hendrycks and Gimpel 2017, arXiv:1610.02136 (AUROC of errors).
    Geifman and El-Yaniv 2017, arXiv:1705.08500 (risk–coverage).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.measure.confusion import BINS, Histogram, auroc_of, histogram_of

RECOMMENDED = "entropy"
TOTAL = "aleatoric + epistemic"
MEASURES = (RECOMMENDED, TOTAL, "epistemic", "aleatoric", "mutual_information")
BORDER_UM = 16.0  # about two nuclei: within, outlines differ from hand to hand

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class ErrorCounts:
    """Pixels by truth, by place, by right or wrong, and by the log odds of their uncertainty; add several to pool them.

    histogram: (2, 2, 2, BINS) int64: negative and positive in truth; near the truth's border and away from it;
    right and wrong.
    """

    histogram: NDArray[np.int64]

    @staticmethod
    def of(truth: Mask, called: Mask, uncertainty: NDArray[np.floating], away: Mask) -> ErrorCounts:
        """Count pixels of one shape. uncertainty: in [0, 1]. away: True where away from the truth's border."""
        wrong, doubt = truth != called, np.clip(uncertainty, 0, 1)  # an entropy may round to more than a bit
        parts = [[(truth == side) & (away == place) for place in (False, True)] for side in (False, True)]
        return ErrorCounts(np.array([[histogram_of(wrong[p], doubt[p]) for p in side] for side in parts]))

    @staticmethod
    def none() -> ErrorCounts:
        """No pixel at all."""
        return ErrorCounts(np.zeros((2, 2, 2, BINS), np.int64))

    @staticmethod
    def pooled(several: Iterable[ErrorCounts]) -> ErrorCounts:
        """The pixels of all of them together."""
        return sum(several, ErrorCounts.none())

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(self.histogram + other.histogram)

    def parts(self) -> dict[str, Histogram]:
        """(2, BINS) right and wrong pixels: of all, of each class, and of those away from the truth's border."""
        every, away = self.histogram.sum(axis=1), self.histogram[:, 1]
        return {
            "all pixels": every.sum(axis=0),
            "negative pixels": every[0],
            "positive pixels": every[1],
            "away from borders": away.sum(axis=0),
            "negative pixels, away from borders": away[0],
            "positive pixels, away from borders": away[1],
        }


@dataclass(frozen=True)
class RiskCoverage:
    """Which share of the kept pixels is wrong, if the least certain are left to a reader.

    Attributes:
        coverage: rising shares of pixels kept, the most certain first, the last 1; pixels of one bin go together.
        risk: share of wrong ones among them.
        area: mean over pixels of the risk at the coverage that takes each of them in; lower is better.
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    area: float

    def thinned(self, points: int) -> RiskCoverage:
        """About so many points of the curve, evenly along the coverage; the area stays."""
        at = np.unique(np.searchsorted(self.coverage, np.linspace(0, 1, points)).clip(max=len(self.coverage) - 1))
        return RiskCoverage(self.coverage[at], self.risk[at], self.area)


def error_auroc(histogram: Histogram) -> float | None:
    """The chance that a wrong pixel is less certain than a right one, ties counting one half; None without both.

    Args:
        histogram: (2, BINS) right and wrong pixels by uncertainty, one of `ErrorCounts.parts`.
    """
    return auroc_of(histogram)


def risk_coverage(histogram: Histogram) -> RiskCoverage | None:
    """The curve of right and wrong pixels (2, BINS) by uncertainty; None without any."""
    counts = histogram.sum(axis=0)
    found = counts > 0
    if not found.any():
        return None
    kept = np.cumsum(counts[found])
    risk = np.cumsum(histogram[1][found]) / kept
    return RiskCoverage(kept / kept[-1], risk, float((risk * counts[found]).sum() / kept[-1]))


def measures(maps: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Those of `MEASURES` that the maps of an ensemble give, by name: in bits, or variances.

    The sum of aleatoric and epistemic variance is the variance over all networks and views.
    """
    found = dict(maps)
    if {"aleatoric", "epistemic"} <= found.keys():
        found[TOTAL] = found["aleatoric"] + found["epistemic"]
    return {name: found[name] for name in MEASURES if name in found}


def away_from_border(truth: Mask, distance_px: float) -> Mask:
    """Where the border between the truth's classes is at least so far: (rows, columns) bool.

    The border runs half a pixel from the centres beside it. A truth of one class has none.
    """
    from scipy import ndimage  # here: most that is asked of this file does without

    if truth.all() or not truth.any():
        return np.ones(truth.shape, bool)
    to_other = np.where(truth, ndimage.distance_transform_edt(truth), ndimage.distance_transform_edt(~truth))
    return to_other - 0.5 >= distance_px
