"""The 32 features of Table 5: literals by hand, scikit-image's and SciPy's own functions, units, empty maps."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import ndimage, stats
from skimage.measure import label, regionprops

from digipath.errors import BadInput
from digipath.measure import strips as strips_module
from digipath.measure.pn_stage import FEATURES, heatmap_features

DESCRIPTORS = ("area", "perimeter", "eccentricity", "extent", "solidity")


def of_table_5(probability, tissue, mpp):
    """Table 5 in scikit-image's and SciPy's words, region by region."""
    sure, likely = (
        regionprops(label(probability >= at, connectivity=2), np.nan_to_num(probability), spacing=(mpp, mpp))
        for at in (0.9, 0.5)
    )
    largest, largest_50 = (max(regions, key=lambda region: region.area) for regions in (sure, likely))
    pixels = int((probability >= 0.9).sum())
    values = [
        largest.axis_major_length,
        largest_50.axis_major_length,
        largest_50.area,
        pixels / np.count_nonzero(tissue),
        pixels,
    ]
    for descriptor in DESCRIPTORS:
        column = np.array([float(getattr(region, descriptor)) for region in sure])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # columns without spread
            moments = stats.skew(column), stats.kurtosis(column)
        values += [column.max(), column.mean(), column.var(), *np.nan_to_num(moments)]
    return [*values, np.mean([region.intensity_mean for region in sure]), len(sure)]


def test_there_are_the_32_of_table_5_in_its_order():
    assert len(FEATURES) == len(set(FEATURES)) == 2 + 1 + 1 + 1 + 5 * 5 + 1 + 1
    assert FEATURES[:5] == (
        "largest_major_axis_90_um",
        "largest_major_axis_50_um",
        "largest_area_50_um2",
        "tumour_to_tissue_90",
        "pixels_90",
    )
    assert FEATURES[5:10] == ("area_max_um2", "area_mean_um2", "area_variance_um4", "area_skewness", "area_kurtosis")
    assert FEATURES[30:] == ("mean_confidence", "regions")


def test_two_rectangles_by_hand():
    """3 × 5 pixels at 0.95 with a rim of 0.6 on the right, and 1 × 3 pixels at 0.9; 2 µm per pixel."""
    probability = np.zeros((10, 20))
    probability[1:4, 1:6] = 0.95
    probability[1:4, 6] = 0.6
    probability[7, 10:13] = 0.9
    tissue = np.zeros((10, 20), bool)
    tissue[:, :18] = True
    found = heatmap_features(probability, tissue, 2.0)
    assert tuple(found) == FEATURES
    expected = {
        "largest_major_axis_90_um": 2 * 4 * 2**0.5,  # variance (5² − 1) / 12 = 2
        "largest_major_axis_50_um": 2 * 4 * (35 / 12) ** 0.5,
        "largest_area_50_um2": 18 * 4,
        "tumour_to_tissue_90": 18 / 180,
        "pixels_90": 18,
        "area_max_um2": 60,
        "area_mean_um2": 36,  # of 60 and 12
        "area_variance_um4": 576,
        "area_skewness": 0,
        "area_kurtosis": -2,  # of any two different numbers
        "perimeter_max_um": 24,
        "perimeter_mean_um": 13,  # of 24 and 2: the ends of a line add no length
        "perimeter_variance_um2": 121,
        "perimeter_skewness": 0,
        "perimeter_kurtosis": -2,
        "eccentricity_max": 1,  # the line
        "eccentricity_mean": (1 + (2 / 3) ** 0.5) / 2,  # 1 − 8/24
        "eccentricity_variance": ((1 - (2 / 3) ** 0.5) / 2) ** 2,
        "eccentricity_skewness": 0,
        "eccentricity_kurtosis": -2,
        "extent_max": 1,
        "extent_mean": 1,
        "extent_variance": 0,
        "extent_skewness": 0,
        "extent_kurtosis": 0,
        "solidity_max": 1,
        "solidity_mean": 1,
        "solidity_variance": 0,
        "solidity_skewness": 0,
        "solidity_kurtosis": 0,
        "mean_confidence": (0.95 + 0.9) / 2,
        "regions": 2,
    }
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert list(found.values()) == pytest.approx(of_table_5(probability, tissue, 2.0), rel=1e-9, abs=1e-9)


def test_three_regions_have_scipys_biased_skewness_and_fishers_kurtosis():
    probability = np.zeros((3, 12))
    probability[1, [0, 2, 3, 5, 6, 7, 8, 9, 10]] = 1  # areas 1, 2 and 6
    found = heatmap_features(probability, np.ones_like(probability), 1.0)
    deviations = np.array([-2, -1, 3])
    variance = 14 / 3
    assert found["area_variance_um4"] == pytest.approx(variance)
    assert found["area_skewness"] == pytest.approx((deviations**3).mean() / variance**1.5)
    assert found["area_kurtosis"] == pytest.approx((deviations**4).mean() / variance**2 - 3)
    assert found["area_kurtosis"] == pytest.approx(-1.5)


def test_regions_are_8_connected_and_the_threshold_belongs_to_them():
    probability = np.array([[0.9, 0, 0.9], [0, 0.9, 0.8999], [0, 0, 0]])
    for dtype in (np.float16, np.float32, np.float64):  # a 0.9 is a 0.9 in any precision
        found = heatmap_features(probability.astype(dtype)[:, [0, 1, 2]], np.ones((3, 3)), 1.0)
        assert found["regions"] == 1
        assert found["pixels_90"] == (4 if dtype is np.float16 else 3)  # which has no other number near it


@pytest.mark.parametrize("strip_rows", [5, 64])
@pytest.mark.parametrize("seed", range(10))
def test_random_maps_agree_with_scikit_image_and_scipy(seed, strip_rows, monkeypatch):
    monkeypatch.setattr(strips_module, "STRIP_ROWS", strip_rows)
    generator = np.random.default_rng(seed)
    probability = ndimage.gaussian_filter(generator.random(generator.integers(30, 120, 2)), generator.uniform(0.3, 2))
    probability = (probability - probability.min()) / np.ptp(probability)
    probability **= 0.4
    probability[generator.random(probability.shape) < 0.01] = np.nan
    tissue = generator.random(probability.shape) < 0.7
    mpp = float(generator.uniform(0.25, 8))
    found = heatmap_features(probability, tissue, mpp)
    assert found["regions"] > 3
    np.testing.assert_allclose(list(found.values()), of_table_5(probability, tissue, mpp), rtol=1e-9, atol=1e-9)


def test_lengths_areas_and_variances_scale_with_mpp_and_counts_do_not():
    generator = np.random.default_rng(5)
    probability = np.sqrt(generator.random((60, 60)))
    tissue = probability > 0.1
    one, three = (heatmap_features(probability, tissue, mpp) for mpp in (1.0, 3.0))
    for name in FEATURES:
        power = 4 if "um4" in name else 2 if "um2" in name else 1 if "um" in name.split("_") else 0
        assert three[name] == pytest.approx(one[name] * 3**power, rel=1e-12), name
    powers = ["um4" in name for name in FEATURES].count(True), ["um2" in name for name in FEATURES].count(True)
    assert powers == (1, 4)  # largest area, area's maximum and mean, perimeter's variance


@pytest.mark.parametrize("value", [0.0, np.nan, 0.499])
def test_a_map_without_regions_has_zeros(value):
    found = heatmap_features(np.full((5, 6), value, np.float32), np.ones((5, 6), bool), 2.0)
    assert found == dict.fromkeys(FEATURES, 0.0)


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0)])
def test_a_map_without_pixels_has_zeros(shape):
    assert set(heatmap_features(np.zeros(shape), np.zeros(shape, bool), 2.0).values()) == {0.0}


def test_a_region_that_is_only_likely_is_in_two_features():
    found = heatmap_features(np.full((1, 3), 0.7), np.ones((1, 3)), 1.0)
    known = {"largest_major_axis_50_um": pytest.approx(4 * (2 / 3) ** 0.5), "largest_area_50_um2": 3}
    assert found == dict.fromkeys(FEATURES, 0.0) | known


def test_a_single_region_has_no_spread():
    found = heatmap_features(np.ones((3, 4)), np.ones((3, 4)), 0.3)
    for descriptor, largest in {"extent": 1, "solidity": 1, "eccentricity": (1 - 8 / 15) ** 0.5}.items():
        values = [found[f"{descriptor}_{statistic}"] for statistic in ("max", "mean")]
        assert values == pytest.approx([largest, largest])
    spread = {name: found[name] for name in FEATURES if "variance" in name or "ness" in name or "kurtosis" in name}
    assert len(spread) == 15
    assert set(spread.values()) == {0.0}


def test_equal_regions_have_no_spread_whatever_rounding_does():
    probability = np.zeros((40, 40))
    for row in range(1, 37, 6):
        for column in range(1, 37, 6):
            probability[row : row + 3, column : column + 4] = 1
    found = heatmap_features(probability, np.ones((40, 40)), 0.2427)
    assert found["regions"] == 36
    assert {found[f"{name}_kurtosis"] for name in DESCRIPTORS} == {0.0}
    assert {found[f"{name}_skewness"] for name in DESCRIPTORS} == {0.0}


def test_a_single_pixel():
    probability = np.zeros((4, 4))
    probability[2, 1] = 0.97
    found = heatmap_features(probability, np.ones((4, 4)), 3.0)
    named = {name: value for name, value in found.items() if value}
    assert named == {
        "largest_area_50_um2": 9,
        "tumour_to_tissue_90": 1 / 16,
        "pixels_90": 1,
        "area_max_um2": 9,
        "area_mean_um2": 9,
        "extent_max": 1,
        "extent_mean": 1,
        "solidity_max": 1,
        "solidity_mean": 1,
        "mean_confidence": 0.97,
        "regions": 1,
    }


def test_pixels_without_a_prediction_part_regions():
    probability = np.full((3, 5), 0.95)
    probability[:, 2] = np.nan
    found = heatmap_features(probability, np.ones((3, 5)), 1.0)
    assert (found["regions"], found["pixels_90"]) == (2, 12)
    assert found["mean_confidence"] == pytest.approx(0.95)


@pytest.mark.parametrize(("value", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_without_tissue_the_ratio_is_defined(value, share):
    assert heatmap_features(np.full((3, 3), value), np.zeros((3, 3)), 1.0)["tumour_to_tissue_90"] == share


def test_among_equal_regions_the_first_is_the_largest():
    for rows in (["####.....", ".......##", ".......##"], ["##.......", "##...####"]):
        probability = np.array([[float(pixel == "#") for pixel in row] for row in rows])
        found = heatmap_features(probability, probability, 1.0)
        expected = of_table_5(probability, probability, 1.0)
        assert list(found.values())[:2] == pytest.approx(expected[:2], rel=1e-12)


def test_lists_will_do():
    assert heatmap_features([[1, 0], [0, 0]], [[1, 1], [0, 0]], 1)["tumour_to_tissue_90"] == 0.5


@pytest.mark.parametrize(
    ("probability", "tissue", "mpp"),
    [
        (np.ones((2, 2)), np.ones((2, 3)), 1.0),
        (np.ones((2, 2, 3)), np.ones((2, 2, 3)), 1.0),
        (np.ones(4), np.ones(4), 1.0),
        (np.ones((2, 2)), np.ones((2, 2)), 0),
        (np.ones((2, 2)), np.ones((2, 2)), np.nan),
        (np.ones((2, 2)), np.ones((2, 2)), np.inf),
    ],
)
def test_what_is_no_heatmap_is_refused(probability, tissue, mpp):
    with pytest.raises(BadInput):
        heatmap_features(probability, tissue, mpp)
