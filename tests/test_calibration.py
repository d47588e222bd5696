"""Reliability, calibration error, Brier score and temperature: by hand, and found again in simulated logits."""

from __future__ import annotations

import numpy as np
import pytest

from digipath.measure.calibration import Reliability, calibration_of, fit_temperature, reliability
from digipath.measure.confusion import BIN_LOG_ODDS, BINS, Confusion


def histogram(truth, probability):
    return Confusion.of(np.array(truth, bool), np.array(probability, float), 0.5).histogram


def simulated(temperature, seed=0, pixels=200_000):
    """Truths drawn from σ(z), and probabilities that a network would give whose logits are `temperature` × z."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-0.5, 2, pixels)
    truth = rng.random(pixels) < 1 / (1 + np.exp(-z))
    return histogram(truth, 1 / (1 + np.exp(-temperature * z)))


# ---- reliability ----


def test_what_comes_true_as_often_as_predicted_has_no_error():
    counts = np.zeros((2, BINS), np.int64)
    for place in (900, 2000, 2500, 3100):
        p = 1 / (1 + np.exp(-BIN_LOG_ODDS[place]))
        counts[:, place] = round(1e9 * (1 - p)), round(1e9 * p)
    found = reliability(counts)
    assert found.expected_calibration_error == pytest.approx(0, abs=1e-8)
    assert fit_temperature(counts) == pytest.approx(1, abs=1e-6)


def test_a_known_miscalibration_by_hand():
    """Ten pixels at 0.9 of which 6 are positive, and five at 0.2 of which 2 are."""
    counts = histogram([1] * 6 + [0] * 4 + [1] * 2 + [0] * 3, [0.9] * 10 + [0.2] * 5)
    found = reliability(counts, bins=8)
    # 10/15 × |0.9 − 0.6| + 5/15 × |0.2 − 0.4|
    assert found.expected_calibration_error == pytest.approx(4 / 15, abs=1e-3)
    # (6 × 0.01 + 4 × 0.81 + 2 × 0.64 + 3 × 0.04) / 15
    assert found.brier == pytest.approx(4.7 / 15, abs=1e-3)
    assert [place for place, count in enumerate(found.counts) if count] == [1, 7]
    assert [found.observed[1], found.observed[7]] == [0.4, 0.6]
    assert found.predicted[7] == pytest.approx(0.9, abs=1e-3)
    assert found.predicted[0] is None
    assert found.observed[0] is None


@pytest.mark.parametrize(("p", "place"), [(0.0, 0), (1.0, 14), (0.49, 7), (0.53, 7), (0.54, 8)])
def test_bins_are_of_equal_width(p, place):
    assert np.flatnonzero(reliability(histogram([1], [p])).counts).tolist() == [place]


def test_reliability_of_parts_adds_up_to_that_of_all():
    rng = np.random.default_rng(2)
    truth, p = rng.random(1000) < 0.4, rng.random(1000)
    whole = reliability(histogram(truth, p))
    parts = Reliability.pooled(reliability(histogram(truth[k::3], p[k::3])) for k in range(3))
    assert (parts.counts == whole.counts).all()
    assert parts.brier == pytest.approx(whole.brier)
    assert parts.expected_calibration_error == pytest.approx(whole.expected_calibration_error)
    assert whole.brier == pytest.approx(np.mean((p - truth) ** 2), abs=1e-3)


def test_of_no_pixel_nothing_is_known():
    found = reliability(Confusion.none().histogram)
    assert (found.pixels, found.expected_calibration_error, found.brier) == (0, None, None)


# ---- temperature ----


@pytest.mark.parametrize("temperature", [0.5, 0.8, 1.0, 1.7, 4.0])
def test_temperature_is_found_again_in_simulated_logits(temperature):
    counts = simulated(temperature)
    found = fit_temperature(counts)
    assert found == pytest.approx(temperature, rel=0.02)
    assert reliability(counts, temperature=found).expected_calibration_error < 0.005
    if temperature != 1:
        assert reliability(counts).expected_calibration_error > 0.02


def test_dividing_the_histogram_by_a_temperature_is_dividing_the_logits():
    rng = np.random.default_rng(3)
    truth, z = rng.random(5000) < 0.5, rng.normal(0, 3, 5000)
    ours = reliability(histogram(truth, 1 / (1 + np.exp(-z))), temperature=2.5)
    assert ours.brier == pytest.approx(np.mean((1 / (1 + np.exp(-z / 2.5)) - truth) ** 2), abs=1e-3)


@pytest.mark.parametrize(
    ("truth", "probability"),
    [
        ([0, 0, 0], [0.1, 0.2, 0.7]),  # one class only
        ([1, 1, 1], [0.1, 0.2, 0.7]),
        ([0, 0, 1, 1], [0.1, 0.2, 0.7, 0.8]),  # without an error: the colder the better
        ([1, 1, 0, 0], [0.1, 0.2, 0.7, 0.8]),  # the contrary of the truth
        ([0, 1, 0, 1], [0.2, 0.2, 0.8, 0.8]),  # knows nothing
        ([], []),
    ],
)
def test_no_temperature_where_none_is_best(truth, probability):
    assert fit_temperature(histogram(truth, probability)) is None


# ---- a network's calibration ----


def test_each_group_is_judged_by_the_temperature_of_the_others():
    groups = [simulated(2.0, seed=1), simulated(2.0, seed=2), simulated(0.5, seed=3)]
    found = calibration_of(groups)
    assert found is not None
    assert found.temperature == pytest.approx(fit_temperature(sum(groups)))
    others = [fit_temperature(groups[1] + groups[2]), fit_temperature(groups[0] + groups[2]), None]
    others[2] = fit_temperature(groups[0] + groups[1])
    by_hand = Reliability.pooled(reliability(own, temperature=t) for own, t in zip(groups, others, strict=True))
    assert found.after.brier == by_hand.brier
    assert found.before.brier == reliability(sum(groups)).brier
    # The third is told to become less sure by the others, which is the contrary of what it needs.
    worse = reliability(groups[2], temperature=others[2]).expected_calibration_error
    assert worse > reliability(groups[2]).expected_calibration_error


def test_what_a_card_says_of_it():
    groups = [simulated(2.0, seed=1), simulated(2.0, seed=2)]
    record = calibration_of(groups).to_record(data="two cases", split="held out")
    assert record["temperature"] == pytest.approx(2, rel=0.02)
    assert record["pixels"] == 400_000
    error = record["expected_calibration_error"]
    assert error["after"] < 0.01 < error["before"]
    assert record["brier"]["after"] < record["brier"]["before"]
    assert (record["data"], record["split"]) == (
        "two cases", "held out; after: each patient at the temperature of the others",
    )  # fmt: skip
    alone = calibration_of(groups[:1]).to_record(data="one case", split="held out")
    assert alone["split"].endswith("fitted to it, which favours it")


def test_groups_that_no_temperature_fits():
    assert calibration_of([histogram([0, 1], [0.1, 0.9])]) is None
    odd = histogram([0, 1, 1], [0.1, 0.9, 0.2])
    found = calibration_of([odd, histogram([0], [0.3])])  # without the first, one class only: judged as trained
    assert found is not None
    assert found.after.pixels == 4
