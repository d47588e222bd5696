"""Generated cases with known burden: true to their masks, repeatable, and not to be solved by a threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from digipath.measure.burden import paip_scores, tumour_burden
from digipath.synthetic.burden_cases import EnsembleErrors, burden_case, burden_truth, member_maps
from digipath.synthetic.detector import DetectorErrors

ERRORS = EnsembleErrors()
CASES = 12


def case(seed, errors=ERRORS):
    return burden_case(errors, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def cases():
    return [case(seed) for seed in range(CASES)]


def test_the_same_state_gives_the_same_case(cases):
    again = case(0)
    np.testing.assert_array_equal(again.probability, cases[0].probability)
    np.testing.assert_array_equal(again.truth.viable, cases[0].truth.viable)
    assert cases[0].truth.viable.shape != cases[1].truth.viable.shape or not np.array_equal(
        cases[0].truth.viable, cases[1].truth.viable
    )


def test_viable_lies_in_whole_and_whole_in_tissue(cases):
    for one in cases:
        truth = one.truth
        assert not (truth.viable & ~truth.whole).any()
        assert not (truth.whole & ~truth.tissue).any()
        assert truth.percent == 100 * truth.viable.sum() / truth.whole.sum()
        assert truth.viable.sum() * truth.mpp**2 >= 1e5
        assert 0 < truth.percent <= 100


def test_maps_are_probabilities_on_tissue_alone(cases):
    for one in cases:
        assert one.probability.dtype == np.float32
        assert one.probability.min() >= 0
        assert one.probability.max() <= 1
        assert not one.probability[~one.truth.tissue].any()
        assert not one.spread[~one.truth.tissue].any()
        assert 0 < one.spread.max() <= 0.5


def test_burdens_spread_over_the_scale(cases):
    percents = [one.truth.percent for one in cases]
    assert min(percents) < 40
    assert max(percents) > 60


def test_no_threshold_solves_a_case_exactly(cases):
    for one in cases:
        cuts = [one.probability >= threshold for threshold in np.linspace(0.05, 0.95, 19)]
        assert max(paip_scores(cut, one.truth.viable, (0, 0))[0] for cut in cuts) < 1
        on_truth = tumour_burden(one.truth.viable.astype(np.float32), one.truth.tissue, one.truth.mpp)
        assert all(abs(rule.percent - one.truth.percent) > 1e-9 for rule in on_truth.rules)


def test_doubled_errors_make_worse_maps(cases):
    def overlap(errors):
        return np.mean([
            paip_scores(found.probability >= 0.5, found.truth.viable, (0, 0))[0]
            for found in (case(seed, errors) for seed in range(CASES))
        ])  # fmt: skip

    assert overlap(ERRORS.scaled(2)) < overlap(ERRORS) - 0.01
    assert ERRORS.scaled(2).detector == DetectorErrors.measured(on_crops=True).scaled(2)
    assert ERRORS.scaled(2).drift_sd == 2 * ERRORS.drift_sd


def test_errors_that_all_share_leave_no_spread_and_own_errors_most():
    together = [case(3, replace(ERRORS, shared=shared)) for shared in (1.0, 0.7, 0.0)]
    spreads = [float(one.spread[one.truth.tissue].mean()) for one in together]
    assert spreads[0] == pytest.approx(0, abs=1e-6)
    assert spreads[0] < spreads[1] < spreads[2]


def test_what_networks_share_correlates_their_maps():
    truth = burden_truth(8.0, np.random.default_rng(5))

    def correlation(shared):
        one, other, _ = member_maps(truth, replace(ERRORS, shared=shared), np.random.default_rng(6))
        inside = truth.viable
        return np.corrcoef(one[inside], other[inside])[0, 1]

    assert correlation(0.0) < 0.35
    assert 0.5 < correlation(0.7) < 0.9


def test_the_errors_are_a_record():
    record = ERRORS.to_record()
    assert record["detector"] == DetectorErrors.measured(on_crops=True).to_record()
    assert set(record) == {"members", "shared", "drift_sd", "detector"}
