"""Split conformal prediction: sets and intervals that hold the truth as often as they say.

A score says how badly an answer fits the truth. Its quantile over cases that were used for nothing else bounds
the score of a new case of the same kind with the stated probability, whatever the model: Vovk, Gammerman and
Shafer 2005, *Algorithmic Learning in a Random World*; Angelopoulos and Bates 2023, doi:10.1561/2200000101.
The promise holds over many cases together, and only for cases like those of the calibration.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from digipath.errors import BadInput

Floats = NDArray[np.float64]


def split_quantile(scores: ArrayLike, level: float) -> float:
    """The ⌈(n + 1) · level⌉-th smallest of n scores; infinite where n is too small for the level.

    Args:
        scores: (n,) numbers of calibration cases, the larger the worse the fit.
        level: in (0, 1), how often a new score is to be at most the quantile.

    Raises:
        BadInput: a level outside (0, 1), or a score that is NaN.
    """
    _check_level(level)
    ordered = np.sort(np.asarray(scores, np.float64).ravel())
    if np.isnan(ordered).any():
        raise BadInput("expected scores that are numbers, got NaN")
    place = math.ceil((len(ordered) + 1) * level - 1e-9)  # 10 · 0.9 is 9, whatever floats say
    return float(ordered[place - 1]) if place <= len(ordered) else math.inf


def label_scores(probabilities: ArrayLike, truth: ArrayLike) -> Floats:
    """1 − the probability of the true class, (n,) in [0, 1]: least ambiguous sets (Sadinle, Lei and Wasserman 2019).

    Args:
        probabilities: (n, C). truth: (n,) integers in [0, C).

    Raises:
        BadInput: shapes that do not fit, or a truth that is no class.
    """
    chances, true = np.asarray(probabilities, np.float64), np.asarray(truth)
    if chances.ndim != 2 or true.shape != chances.shape[:1]:
        raise BadInput(f"expected probabilities (n, C) and truths (n,), got {chances.shape} and {true.shape}")
    if true.size and not (true.dtype.kind in "iu" and true.min() >= 0 and true.max() < chances.shape[1]):
        raise BadInput(f"expected truths as whole numbers from 0 to {chances.shape[1] - 1}, got {np.unique(true)[:5]}")
    return 1 - chances[np.arange(len(true)), true.astype(np.intp)]


def prediction_set(probabilities: ArrayLike, quantile: float) -> NDArray[np.bool_]:
    """Which classes belong to the set, (…, C) bool: those with 1 − p ≤ quantile, and always the most probable one."""
    chances = np.asarray(probabilities, np.float64)
    return (1 - chances <= quantile + 1e-12) | (chances == chances.max(axis=-1, keepdims=True))


def interval_scores(low: ArrayLike, high: ArrayLike, truth: ArrayLike) -> Floats:
    """How far the truth lies outside of intervals, negative inside: max(low − truth, truth − high).

    Conformalised quantile regression, Romano, Patterson and Candès 2019. Widening an interval by the scores'
    quantile on both sides makes it hold the truth as often as the quantile's level says.
    """
    true = np.asarray(truth, np.float64)
    return np.maximum(np.asarray(low, np.float64) - true, true - np.asarray(high, np.float64))


def coverage_bounds(count: int, level: float, confidence: float = 0.95) -> tuple[float, float]:
    """Between which shares chance leaves the coverage of `count` cases that are each covered with probability `level`.

    The central interval of the binomial distribution that holds `confidence` of it.

    Raises:
        BadInput: no case, or a level outside (0, 1).
    """
    from scipy.stats import binom

    _check_level(level)
    _check_level(confidence)
    if count < 1:
        raise BadInput(f"expected at least 1 case, got {count}")
    low, high = binom.interval(confidence, count, level)
    return float(low) / count, float(high) / count


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise BadInput(f"a level must be in (0, 1), got {level}")
