"""Conformal prediction by hand-counted quantiles and by simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from digipath.errors import BadInput
from digipath.measure.conformal import (
    coverage_bounds,
    interval_scores,
    label_scores,
    prediction_set,
    split_quantile,
)


@pytest.mark.parametrize(
    ("count", "level", "expected"),
    [(9, 0.9, 9), (19, 0.9, 18), (99, 0.9, 90), (100, 0.9, 91), (10, 0.5, 6), (8, 0.9, math.inf), (0, 0.5, math.inf)],
)
def test_the_quantile_is_the_right_one_of_the_ordered_scores(count, level, expected):
    scores = np.random.default_rng(0).permutation(np.arange(1, count + 1))
    assert split_quantile(scores, level) == expected


def test_scores_are_one_minus_the_truths_probability():
    np.testing.assert_allclose(label_scores([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], [0, 1]), [0.3, 0.7])


def test_sets_hold_what_fits_and_always_the_most_probable():
    chances = [[0.5, 0.3, 0.2], [0.9, 0.1, 0.0]]
    np.testing.assert_array_equal(prediction_set(chances, 0.7), [[True, True, False], [True, False, False]])
    np.testing.assert_array_equal(prediction_set(chances, 0.0), [[True, False, False], [True, False, False]])
    assert prediction_set(chances, math.inf).all()


def test_sets_grow_with_the_level():
    rng = np.random.default_rng(1)
    chances = rng.dirichlet(np.ones(4), 200)
    quantiles = [split_quantile(label_scores(chances, rng.integers(4, size=200)), level) for level in (0.5, 0.8, 0.95)]
    assert quantiles == sorted(quantiles)
    sizes = [prediction_set(chances, q).sum() for q in quantiles]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_sets_of_a_poor_model_are_covered_as_stated(level):
    rng = np.random.default_rng(2)
    true = rng.integers(4, size=6000)
    odds = rng.normal(size=(6000, 4)) + 1.5 * np.eye(4)[true]  # right often, and far from calibrated below
    chances = np.exp(3 * odds) / np.exp(3 * odds).sum(axis=1, keepdims=True)
    quantile = split_quantile(label_scores(chances[:3000], true[:3000]), level)
    covered = prediction_set(chances[3000:], quantile)[np.arange(3000), true[3000:]].mean()
    low, high = coverage_bounds(3000, level, 0.999)
    assert low <= covered <= high


def test_intervals_of_a_poor_model_are_covered_as_stated():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=4000)
    guess = truth + rng.normal(size=4000)
    low, high = guess - 0.1, guess + 0.3
    quantile = split_quantile(interval_scores(low[:2000], high[:2000], truth[:2000]), 0.9)
    inside = (low - quantile <= truth) & (truth <= high + quantile)
    bounds = coverage_bounds(2000, 0.9, 0.999)
    assert bounds[0] <= inside[2000:].mean() <= bounds[1]


def test_interval_scores_by_hand():
    np.testing.assert_allclose(interval_scores([1, 1, 1], [3, 3, 3], [0, 2, 5]), [1, -1, 2])


def test_bounds_are_the_binomials():
    low, high = coverage_bounds(500, 0.9)
    assert (low, high) == (0.872, 0.926)


def test_nonsense_is_refused():
    with pytest.raises(BadInput, match="level must be in"):
        split_quantile([1.0], 1.0)
    with pytest.raises(BadInput, match="NaN"):
        split_quantile([math.nan], 0.5)
    with pytest.raises(BadInput, match="from 0 to 1"):
        label_scores([[0.5, 0.5]], [2])
    with pytest.raises(BadInput, match=r"\(n, C\)"):
        label_scores([0.5, 0.5], [1])
    with pytest.raises(BadInput, match="at least 1 case"):
        coverage_bounds(0, 0.9)
