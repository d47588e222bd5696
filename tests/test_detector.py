"""Simulated heatmaps: the errors that are put in come out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shapely

from digipath.errors import BadInput
from digipath.files import write_json
from digipath.synthetic.detector import (
    CONFIDENT_LOGIT,
    DetectorErrors,
    clusters,
    false_region,
    longest_diameter,
    rasterised,
    simulate_heatmap,
)

# A detector that does not err: sharp borders, no doubt, no misses, nothing false.
PERFECT = DetectorErrors(
    map_mpp=8.0,
    inside_logit=4.0,
    outside_logit=-4.0,
    normal_logit=-4.0,
    border_um=0.01,
    border_shift_um=0.0,
    between_sd=0.0,
    within_sd=0.0,
    texture_um=16.0,
    miss_floor=0.0,
    miss_diameter_um=1e-6,
    miss_slope=4.0,
    false_per_mm2=0.0,
    false_dispersion=1.0,
    false_diameter_um=80.0,
    false_log_sd=0.0,
    false_peak_logit=3.0,
    false_aspect=1.0,
)


def all_tissue(side: int = 200) -> np.ndarray:
    return np.ones((side, side), bool)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_perfect_detector_gives_back_the_truth():
    lesion = shapely.box(50, 60, 90, 80)
    heatmap = simulate_heatmap([lesion], all_tissue(), PERFECT, rng())
    expected = np.zeros((200, 200), bool)
    expected[60:80, 50:90] = True
    np.testing.assert_array_equal(heatmap >= 0.5, expected)
    np.testing.assert_allclose(heatmap[expected], 1 / (1 + np.exp(-4)), rtol=1e-5)
    np.testing.assert_allclose(heatmap[~expected], 1 / (1 + np.exp(4)), rtol=1e-4)


def test_nothing_lies_outside_the_tissue():
    tissue = all_tissue()
    tissue[:, :100] = False
    heatmap = simulate_heatmap([shapely.box(80, 60, 120, 80)], tissue, PERFECT, rng())
    assert (heatmap[:, :100] == 0).all()
    assert np.count_nonzero(heatmap >= 0.5) == 20 * 20


def test_holes_are_not_tumour():
    lesion = shapely.box(40, 40, 80, 80).difference(shapely.box(50, 50, 60, 60))
    assert np.count_nonzero(rasterised([lesion], (200, 200))) == 1600 - 100


@pytest.mark.parametrize("corner", [(0, 0), (30, 20)])
def test_pixels_are_those_whose_centre_is_inside(corner):
    lesion = shapely.Point(50.3, 47.6).buffer(12.7)
    found = rasterised([lesion], (100, 100), corner)
    x, y = np.meshgrid(np.arange(100) + corner[0] + 0.5, np.arange(100) + corner[1] + 0.5)
    inside = shapely.contains_xy(lesion, x, y)
    np.testing.assert_array_equal(found, inside)


def test_blur_is_a_logistic_step_of_the_stated_width():
    blurred = replace(PERFECT, border_um=16.0, border_shift_um=4.0)
    heatmap = simulate_heatmap([shapely.box(0, 0, 100, 200)], all_tissue(), blurred, rng())
    logit = np.log(heatmap / (1 - heatmap))[100]
    depth_um = (99.5 - np.arange(200)) * 8
    expected = -4 + 8 / (1 + np.exp(-(depth_um - 4) / 16))
    np.testing.assert_allclose(logit[90:110], expected[90:110], atol=1e-3)


def test_misses_come_as_often_as_stated_for_the_size():
    errors = replace(PERFECT, miss_floor=0.1, miss_diameter_um=100.0, miss_slope=4.0)
    assert errors.miss_probability(100.0) == pytest.approx(0.1 + 0.9 / 2)
    assert errors.miss_probability(1e6) == pytest.approx(0.1)
    side_px = 100 / 8 / np.sqrt(2)  # a square of 100 µm across its corners
    lesion = shapely.box(50, 50, 50 + side_px, 50 + side_px)
    seen = sum(
        simulate_heatmap([lesion], all_tissue(100), errors, rng(seed)).max() > 0.5 for seed in range(400)
    )
    assert abs(seen / 400 - 0.45) < 4 * np.sqrt(0.45 * 0.55 / 400)


def test_false_regions_come_as_often_as_stated():
    errors = replace(PERFECT, false_per_mm2=2.0, false_dispersion=1e6, false_diameter_um=40.0)
    tissue = all_tissue(500)  # 16 mm²
    peaks = [np.count_nonzero(_peaks(simulate_heatmap([], tissue, errors, rng(seed)))) for seed in range(30)]
    assert np.mean(peaks) == pytest.approx(32, abs=4)


def _peaks(heatmap: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    return (heatmap >= 0.9) & (heatmap == ndimage.maximum_filter(heatmap, 5))


def test_a_false_region_has_its_diameter_at_nine_tenths():
    hill = false_region(replace(PERFECT, false_diameter_um=400.0), rng())
    area = np.count_nonzero(hill >= CONFIDENT_LOGIT) * 64
    assert area == pytest.approx(np.pi * 200**2, rel=0.02)
    assert hill.max() == pytest.approx(3.0, abs=1e-5)


def test_texture_has_the_stated_strength_and_correlation():
    errors = replace(PERFECT, within_sd=0.7, texture_um=24.0, inside_logit=0.0, outside_logit=0.0)
    heatmap = simulate_heatmap([shapely.box(0, 0, 600, 600)], all_tissue(600), errors, rng())
    logit = np.log(heatmap / (1 - heatmap))
    assert logit.std() == pytest.approx(0.7, rel=0.05)
    centred = logit - logit.mean()
    lag = (centred[:, 6:] * centred[:, :-6]).mean() / (centred**2).mean()  # 48 µm: exp(−(48 / 24)² / 4)
    assert lag == pytest.approx(np.exp(-1), abs=0.05)


def test_the_same_seed_gives_the_same_heatmap_and_another_seed_another():
    errors = DetectorErrors.measured()
    lesion = [shapely.Point(100, 100).buffer(30)]
    one, again, other = (simulate_heatmap(lesion, all_tissue(), errors, rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_scaling_multiplies_the_rates():
    errors = DetectorErrors.measured()
    twice = errors.scaled(2)
    assert twice.false_per_mm2 == 2 * errors.false_per_mm2
    assert twice.border_um == 2 * errors.border_um
    assert twice.miss_floor == 2 * errors.miss_floor
    assert twice.miss_probability(60.0) > errors.miss_probability(60.0)
    assert errors.scaled(1) == errors


def test_measured_errors_are_those_of_a_detector_that_is_good_but_errs():
    errors = DetectorErrors.measured()
    assert errors.outside_logit < 0 < errors.inside_logit
    assert 0 < errors.miss_probability(2000) < 0.1 < errors.miss_probability(20)


def test_on_crops_only_the_confidence_differs_and_is_lower():
    slides, crops = DetectorErrors.measured(), DetectorErrors.measured(on_crops=True)
    assert crops.inside_logit < slides.inside_logit
    assert replace(crops, inside_logit=slides.inside_logit, between_sd=slides.between_sd) == slides


def test_a_file_that_lacks_a_parameter_is_refused(tmp_path):
    record = DetectorErrors.measured().to_record()
    del record["texture_um"]
    write_json(tmp_path / "errors.json", {"errors": record})
    with pytest.raises(BadInput, match="texture_um"):
        DetectorErrors.measured(tmp_path / "errors.json")


def test_clusters_chain_over_gaps():
    boxes = [shapely.box(x, 0, x + 10, 10) for x in (0, 15, 30, 100)]
    assert clusters(boxes, 5.0) == [[0, 1, 2], [3]]
    assert clusters(boxes, 4.9) == [[0], [1], [2], [3]]
    assert clusters([], 5.0) == []


def test_longest_diameter_is_over_all_outlines():
    assert longest_diameter([shapely.box(0, 0, 3, 4)]) == 5.0
    assert longest_diameter([shapely.box(0, 0, 1, 1), shapely.box(2, 3, 3, 4)]) == 5.0
