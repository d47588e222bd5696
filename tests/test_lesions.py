"""Lesions: literal outlines, and invariants on random maps."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from scipy import ndimage

from digipath.errors import BadInput
from digipath.measure import lesions as lesions_module
from digipath.measure.lesions import find_lesions

RING = ["####", "#..#", "#..#", "####"]


def picture(rows, high=0.9, low=0.1):
    return np.array([[high if pixel == "#" else low for pixel in row] for row in rows], np.float32)


def find(probability, **settings):
    defaults = {"map_mpp": 2.0, "l0_per_map_px": 8.0, "min_area_um2": 0}
    return find_lesions(probability, **(defaults | settings))


def test_a_square_has_the_numbers_one_expects():
    probability = np.zeros((10, 12), np.float16)
    probability[2:5, 3:7] = 0.75
    probability[3, 4] = 1.0
    (lesion,) = find(probability)
    assert lesion.outline.equals(shapely.box(24, 16, 56, 40))
    assert len(shapely.get_coordinates(lesion.outline)) == 5
    assert lesion.bbox_l0 == (24.0, 16.0, 56.0, 40.0)
    assert lesion.centroid_l0 == (40.0, 28.0)
    assert (lesion.label, lesion.pixels, lesion.area_l0_px2, lesion.area_um2) == (1, 12, 768.0, 48.0)
    assert lesion.mean_probability == pytest.approx((11 * 0.75 + 1) / 12)
    assert lesion.max_probability == 1.0


def test_a_hole_is_kept():
    (lesion,) = find(picture(RING), l0_per_map_px=1.0)
    assert lesion.outline.equals(shapely.box(0, 0, 4, 4) - shapely.box(1, 1, 3, 3))
    assert lesion.outline.area == 12


def test_a_region_within_a_hole_is_a_region_of_its_own():
    rows = ["#####", "#...#", "#.#.#", "#...#", "#####"]
    outer, inner = find(picture(rows), l0_per_map_px=1.0)
    assert (outer.outline.area, inner.outline.area) == (16, 1)
    assert not outer.outline.contains(inner.outline)


def test_pixels_that_touch_at_a_corner_are_one_valid_multipolygon():
    (lesion,) = find(picture(["#..", ".#.", "#.."]), l0_per_map_px=1.0)
    assert lesion.outline.geom_type == "MultiPolygon"
    assert lesion.outline.is_valid
    assert [part.bounds for part in lesion.outline.geoms] == [(0, 0, 1, 1), (1, 1, 2, 2), (0, 2, 1, 3)]


@pytest.mark.parametrize(
    "rows",
    [
        [".##", "#.#", "###"],  # a shell that touches itself: a shell and a hole
        ["#####", "#.###", "##.##", "#####"],  # two holes that touch
        ["####", "#.##", "##.#", "#.##", "####"],  # a chain of holes
        [".###", "#..#", "#.##", "##.#", ".###"],
    ],
)
def test_boundaries_that_touch_themselves_give_valid_outlines(rows):
    (lesion,) = find(picture(rows), l0_per_map_px=1.0)
    assert lesion.outline.is_valid, shapely.is_valid_reason(lesion.outline)
    assert lesion.outline.area == sum(row.count("#") for row in rows)


def test_unpredicted_pixels_are_never_part_of_a_lesion():
    probability = np.full((3, 5), 0.8, np.float32)
    probability[:, 2] = np.nan
    left, right = find(probability, l0_per_map_px=1.0)
    assert left.outline.equals(shapely.box(0, 0, 2, 3))
    assert right.outline.equals(shapely.box(3, 0, 5, 3))
    assert left.mean_probability == pytest.approx(0.8)


@pytest.mark.parametrize("value", [0.0, np.nan, 0.49])
def test_an_empty_map_has_no_lesions(value):
    assert find(np.full((6, 7), value, np.float32)) == []


def test_a_map_without_pixels_has_no_lesions():
    assert find(np.zeros((0, 4), np.float32)) == []


def test_the_threshold_belongs_to_the_lesion():
    assert len(find(np.full((1, 1), 0.5, np.float16), threshold=0.5)) == 1


def test_regions_below_the_smallest_area_are_left_out():
    probability = picture(["##..#", "##...", ".....", "....."])
    assert [lesion.pixels for lesion in find(probability)] == [4, 1]
    assert [lesion.area_um2 for lesion in find(probability, min_area_um2=16)] == [16.0]
    assert find(probability, min_area_um2=16.1) == []


def test_without_a_resolution_areas_are_in_pixels_only_and_nothing_is_left_out():
    (lesion,) = find(picture(["#"]), map_mpp=None, min_area_um2=1e9)
    assert lesion.area_um2 is None
    assert lesion.area_l0_px2 == 64.0


def test_outlines_end_where_the_slide_ends():
    (lesion,) = find(np.ones((2, 2)), size_l0=(13, 11), map_mpp=4.0)
    assert lesion.outline.equals(shapely.box(0, 0, 13, 11))
    assert lesion.area_um2 == pytest.approx(13 * 11 * 0.25)


def test_labels_count_from_the_largest():
    found = find(picture(["#.##.", "...##", "#...."]))
    assert [(lesion.label, lesion.pixels) for lesion in found] == [(1, 4), (2, 1), (3, 1)]
    assert found[1].bbox_l0 < found[2].bbox_l0


@pytest.mark.parametrize("seed", range(24))
def test_random_maps_agree_with_labelling_and_with_a_union_of_pixels(seed, monkeypatch):
    monkeypatch.setattr(lesions_module, "STRIP_ROWS", 5)  # regions cross many strips
    generator = np.random.default_rng(seed)
    probability = generator.random(generator.integers(1, 26, 2)) ** generator.choice([0.4, 1, 2])
    found = find(probability, l0_per_map_px=1.0)
    labels, count = ndimage.label(probability >= 0.5, np.ones((3, 3)))
    assert [lesion.pixels for lesion in found] == sorted(np.bincount(labels.ravel())[1:], reverse=True)
    assert len(found) == count
    rows, columns = np.nonzero(probability >= 0.5)
    pixels = shapely.union_all(shapely.box(columns, rows, columns + 1, rows + 1))
    for lesion in found:
        assert lesion.outline.is_valid
        assert lesion.outline.area == lesion.pixels == lesion.area_l0_px2
        corners = len(shapely.get_coordinates(lesion.outline))
        assert corners == len(shapely.get_coordinates(shapely.simplify(lesion.outline, 0)))
    assert shapely.union_all([lesion.outline for lesion in found]).equals(pixels)


def test_two_thousand_regions_of_a_large_map():
    probability = np.zeros((3000, 3000), np.float16)
    for row in range(10, 2990, 67):
        for column in range(10, 2960, 65):
            probability[row : row + 40, column : column + 50 : 2 + row % 2] = 0.9
            probability[row + 20, column : column + 50] = 0.9
    assert len(find(probability)) == 45 * 46


def test_strips_do_not_change_the_answer(monkeypatch):
    probability = np.random.default_rng(3).random((40, 30), np.float32)
    whole = find(probability)
    monkeypatch.setattr(lesions_module, "STRIP_ROWS", 1)
    for one, other in zip(whole, find(probability), strict=True):
        assert one.outline.equals(other.outline)
        assert one.mean_probability == pytest.approx(other.mean_probability, rel=1e-12)


@pytest.mark.parametrize(
    "settings",
    [{"threshold": 0}, {"threshold": 1.1}, {"l0_per_map_px": 0}, {"map_mpp": -1}, {"min_area_um2": -1}],
)
def test_settings_outside_their_range_are_refused(settings):
    with pytest.raises(BadInput):
        find(np.ones((2, 2)), **settings)


def test_a_map_of_several_classes_is_refused():
    with pytest.raises(BadInput, match="rows, columns"):
        find(np.ones((2, 2, 3)))
