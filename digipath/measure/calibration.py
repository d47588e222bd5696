"""Do probabilities come true? Reliability, its error, and one temperature that mends it, from histograms.

All of it follows from `Confusion.histogram`, pixels by truth and by the log odds of their probability, so it is
that of any number of pixels in little memory; a bin's width makes an error below 0.001 of a probability.

A temperature T divides the logits of a network: σ(z / T), or softmax(z / T). T > 1 makes it less sure, T < 1
surer; a probability of 0.5 stays, and so does the order of all others. Of two classes, softmax(z / T) is
σ((z₁ − z₀) / T), so the log odds of the positive class are all that is needed of either head.

References:
    Guo et al. 2017, On calibration of modern neural networks, arXiv:1706.04599, sections 2 and 4.2.
    Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.measure.confusion import BIN_LOG_ODDS, Histogram

RELIABILITY_BINS = 15  # as Guo et al. 2017
COLDEST, HOTTEST = 0.05, 20.0  # a network that wants another temperature knows nothing, or all
HALVINGS = 60
DIGITS = 4


@dataclass(frozen=True)
class Reliability:
    """Pixels in bins of equal width of the probability that is predicted; add several to pool them.

    Attributes:
        counts: (bins,) pixels. positives: (bins,) how many of them are positive.
        predicted_sum: (bins,) sum of their probabilities. squared_error: sum of (probability − truth)² over all.
    """

    counts: NDArray[np.int64]
    positives: NDArray[np.int64]
    predicted_sum: NDArray[np.float64]
    squared_error: float

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(
            self.counts + other.counts,
            self.positives + other.positives,
            self.predicted_sum + other.predicted_sum,
            self.squared_error + other.squared_error,
        )

    @staticmethod
    def pooled(several: Iterable[Reliability]) -> Reliability:
        """The pixels of all of them together; at least one, of the same bins."""
        first, *others = several
        return sum(others, first)

    @property
    def pixels(self) -> int:
        """How many pixels."""
        return int(self.counts.sum())

    @property
    def predicted(self) -> list[float | None]:
        """Mean probability of each bin, None where it is empty."""
        return _shares(self.predicted_sum, self.counts)

    @property
    def observed(self) -> list[float | None]:
        """Share of positive pixels of each bin, None where it is empty."""
        return _shares(self.positives, self.counts)

    @property
    def expected_calibration_error(self) -> float | None:
        """Σ over bins of (share of pixels) × |mean probability − share of positives|, in [0, 1]; None without pixels.

        Guo et al. 2017, equation 3, of the positive class's probability.
        """
        if not self.pixels:
            return None
        return float(np.abs(self.predicted_sum - self.positives).sum() / self.pixels)

    @property
    def brier(self) -> float | None:
        """Mean of (probability − truth)² over pixels, in [0, 1]; None without any."""
        return self.squared_error / self.pixels if self.pixels else None


def reliability(histogram: Histogram, *, temperature: float = 1.0, bins: int = RELIABILITY_BINS) -> Reliability:
    """How often what was predicted came true, bin by bin, with the log odds divided by a temperature.

    Args:
        histogram: (2, BINS), see `digipath.measure.confusion`.
        bins: of equal width over [0, 1]; a bin holds its lower end.
    """
    probability = _probability(temperature)
    counts = histogram.sum(axis=0)
    into = np.minimum((probability * bins).astype(np.int64), bins - 1)

    def summed(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(into, values, bins).astype(np.float64)

    return Reliability(
        counts=summed(counts).astype(np.int64),
        positives=summed(histogram[1]).astype(np.int64),
        predicted_sum=summed(counts * probability),
        squared_error=float((histogram[0] * probability**2 + histogram[1] * (1 - probability) ** 2).sum()),
    )


def fit_temperature(histogram: Histogram) -> float | None:
    """The temperature under which the truth is most probable (least negative log likelihood).

    The likelihood is concave in 1 / T, so its slope is halved in on.

    Returns:
        T in (0.05, 20); None where none of them is best: one class only, predictions without an error, or no
        better than chance.
    """
    if not histogram.any(axis=1).all():
        return None
    low, high = COLDEST, HOTTEST
    if _slope(histogram, low) <= 0 or _slope(histogram, high) >= 0:
        return None
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _slope(histogram, middle) > 0 else (low, middle)
    return float((low * high) ** 0.5)


@dataclass(frozen=True)
class Calibration:
    """One network's temperature, and what it mends.

    Attributes:
        temperature: fitted to all pixels.
        before: as the network was trained. after: the pixels of each group at the temperature that the others
            want, so that no pixel is judged by a temperature that it helped to find; of one group alone, its own.
        groups: how many.
    """

    temperature: float
    before: Reliability
    after: Reliability
    groups: int

    def to_record(self, *, data: str, split: str) -> dict[str, Any]:
        """A card's `calibration`. data, split: in words, what the pixels are and whether the network saw them."""
        own = "of the others" if self.groups > 1 else "fitted to it, which favours it"
        return {
            "temperature": round(self.temperature, DIGITS),
            "expected_calibration_error": self._both("expected_calibration_error"),
            "brier": self._both("brier"),
            "pixels": self.before.pixels,
            "data": data,
            "split": f"{split}; after: each patient at the temperature {own}",
        }

    def _both(self, number: str) -> dict[str, float]:
        return {name: round(getattr(getattr(self, name), number), DIGITS) for name in ("before", "after")}


def calibration_of(groups: Sequence[Histogram]) -> Calibration | None:
    """Fit a temperature to the pixels of several groups (patients), and measure what one fitted elsewhere mends.

    Returns:
        None where `fit_temperature` has none for all of them together. Where the other groups have none, a group
        is judged as the network was trained.
    """
    pooled = np.sum(groups, axis=0)
    temperature = fit_temperature(pooled)
    if temperature is None:
        return None
    others = [fit_temperature(pooled - own) for own in groups] if len(groups) > 1 else [temperature]
    after = (reliability(own, temperature=found or 1.0) for own, found in zip(groups, others, strict=True))
    return Calibration(temperature, reliability(pooled), Reliability.pooled(after), len(groups))


def _probability(temperature: float) -> NDArray[np.float64]:
    """σ(z / T) of each bin; written so that no exponential overflows."""
    probability: NDArray[np.float64] = 0.5 * (1 + np.tanh(BIN_LOG_ODDS / (2 * temperature)))
    return probability


def _slope(histogram: Histogram, temperature: float) -> float:
    """Derivative of the negative log likelihood by 1 / T: positive where T is too cold."""
    return float((BIN_LOG_ODDS * (histogram.sum(axis=0) * _probability(temperature) - histogram[1])).sum())


def _shares(parts: NDArray[Any], wholes: NDArray[np.int64]) -> list[float | None]:
    return [float(part / whole) if whole else None for part, whole in zip(parts, wholes, strict=True)]
