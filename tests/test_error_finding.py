"""Does uncertainty find errors: AUROC, risk–coverage and parts by hand, on ten pixels."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from digipath.measure.error_finding import (
    MEASURES,
    RECOMMENDED,
    ErrorCounts,
    away_from_border,
    error_auroc,
    measures,
    risk_coverage,
)

#                   right: 0.05 0.1 0.2 0.3 0.4 0.6 0.8   wrong: 0.35 0.7 0.9
UNCERTAINTY = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 0.35, 0.7, 0.9])
TRUTH = np.array([0, 0, 0, 1, 1, 0, 1, 1, 0, 0], bool)
CALLED = np.array([0, 0, 0, 1, 1, 0, 1, 0, 1, 1], bool)
AWAY = np.array([1, 1, 0, 1, 0, 1, 0, 1, 0, 1], bool)


def ten():
    return ErrorCounts.of(TRUTH, CALLED, UNCERTAINTY, AWAY).parts()


def test_auroc_of_ten_pixels_by_hand():
    """0.35 is above 4 of the 7 right ones, 0.7 above 6, 0.9 above all."""
    assert error_auroc(ten()["all pixels"]) == pytest.approx((4 + 6 + 7) / 21)


def test_auroc_within_the_parts_by_hand():
    parts = ten()
    # negatives: right 0.05 0.1 0.2 0.6, wrong 0.7 0.9; positives: right 0.3 0.4 0.8, wrong 0.35
    assert error_auroc(parts["negative pixels"]) == 1.0
    assert error_auroc(parts["positive pixels"]) == pytest.approx(1 / 3)
    # away: right 0.05 0.1 0.3 0.6, wrong 0.35 0.9
    assert error_auroc(parts["away from borders"]) == pytest.approx((3 + 4) / 8)
    assert error_auroc(parts["negative pixels, away from borders"]) == 1.0
    assert error_auroc(parts["positive pixels, away from borders"]) == 1.0


def test_risk_and_coverage_of_ten_pixels_by_hand():
    curve = risk_coverage(ten()["all pixels"])
    # in the order of uncertainty: right right right right WRONG right right WRONG right WRONG
    risk = [0, 0, 0, 0, 1 / 5, 1 / 6, 1 / 7, 2 / 8, 2 / 9, 3 / 10]
    assert curve.coverage.tolist() == pytest.approx([k / 10 for k in range(1, 11)])
    assert curve.risk.tolist() == pytest.approx(risk)
    assert curve.area == pytest.approx(np.mean(risk))


def test_ties_are_kept_together():
    counts = ErrorCounts.of(np.zeros(4, bool), np.array([0, 1, 0, 1], bool), np.full(4, 0.5), np.zeros(4, bool))
    curve = risk_coverage(counts.parts()["all pixels"])
    assert (curve.coverage.tolist(), curve.risk.tolist(), curve.area) == ([1.0], [0.5], 0.5)
    assert error_auroc(counts.parts()["all pixels"]) == 0.5


def test_without_wrong_pixels_or_any():
    right = ErrorCounts.of(TRUTH, TRUTH, UNCERTAINTY, AWAY).parts()["all pixels"]
    assert error_auroc(right) is None
    assert risk_coverage(right).area == 0
    nothing = ErrorCounts.none().parts()["all pixels"]
    assert (error_auroc(nothing), risk_coverage(nothing)) == (None, None)


def test_streamed_in_parts_it_is_the_same_and_near_the_exact_value():
    rng = np.random.default_rng(0)
    uncertainty = rng.beta(0.5, 3, 40_000).astype(np.float32)
    wrong = rng.random(40_000) < 0.02 + 0.5 * uncertainty
    truth, away = rng.random(40_000) < 0.3, rng.random(40_000) < 0.5
    whole = ErrorCounts.of(truth, truth ^ wrong, uncertainty, away)
    parts = ErrorCounts.pooled(
        ErrorCounts.of(truth[k::4], (truth ^ wrong)[k::4], uncertainty[k::4], away[k::4]) for k in range(4)
    )
    assert (whole.histogram == parts.histogram).all()
    assert error_auroc(whole.parts()["all pixels"]) == pytest.approx(roc_auc_score(wrong, uncertainty), abs=1e-3)
    inside = truth & away
    found = whole.parts()["positive pixels, away from borders"]
    assert error_auroc(found) == pytest.approx(roc_auc_score(wrong[inside], uncertainty[inside]), abs=1e-3)
    assert found.sum() == inside.sum()


def test_a_thinned_curve_keeps_its_ends_and_area():
    rng = np.random.default_rng(1)
    wrong = rng.random(5000) < 0.2
    counts = ErrorCounts.of(np.zeros(5000, bool), wrong, rng.random(5000), wrong)
    curve = risk_coverage(counts.parts()["all pixels"])
    few = curve.thinned(21)
    assert len(few.coverage) <= 21 < len(curve.coverage)
    assert (few.coverage[-1], few.risk[-1], few.area) == (1.0, curve.risk[-1], curve.area)
    assert set(few.coverage) <= set(curve.coverage)


def test_entropy_that_rounds_beyond_a_bit_counts_as_one():
    counts = ErrorCounts.of(np.array([False]), np.array([True]), np.array([1 + 1e-7]), np.array([True]))
    assert counts.histogram[0, 1, 1, -1] == 1


def test_the_sum_of_variances_needs_both():
    one = {"probability": np.array([0.5]), "entropy": np.array([1.0]), "aleatoric": np.array([0.01])}
    assert list(measures(one)) == ["entropy", "aleatoric"]
    several = {**one, "epistemic": np.array([0.02]), "mutual_information": np.array([0.1])}
    assert tuple(measures(several)) == MEASURES
    assert measures(several)["aleatoric + epistemic"] == pytest.approx(0.03)
    assert RECOMMENDED in MEASURES


# ---- away from the truth's border ----


def test_distance_from_a_straight_border():
    """It runs between columns 3 and 4: half a pixel from the centres of both."""
    truth = np.zeros((3, 10), bool)
    truth[:, 4:] = True
    assert away_from_border(truth, 2)[1].tolist() == [True, True, False, False, False, False, True, True, True, True]
    assert away_from_border(truth, 0).all()


def test_distance_is_euclidean_and_the_edge_of_the_slide_is_no_border():
    truth = np.zeros((9, 9), bool)
    truth[0, 0] = True
    away = away_from_border(truth, 4.5)
    assert not away[0, 4]
    assert away[0, 5]  # 5 − 0.5
    assert not away[3, 3]  # 4.24 − 0.5
    assert away[4, 4]  # 5.66 − 0.5
    assert away[8, 8]


@pytest.mark.parametrize("value", [False, True])
def test_a_truth_of_one_class_has_no_border(value):
    assert away_from_border(np.full((2, 3), value), 100).all()
