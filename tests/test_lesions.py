"""Lesions: literal outlines, and invariants on random maps."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from scipy import ndimage

from digipath.errors import BadInput
from digipath.measure import strips as strips_module
from digipath.measure.lesions import find_lesions, join_fragments, metastases_of, slide_category
from digipath.measure.pn_stage import CELLS_NOTE
from digipath.report import lesions_geojson

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
    monkeypatch.setattr(strips_module, "STRIP_ROWS", 5)  # regions cross many strips
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


@pytest.mark.parametrize("strip_rows", [1, 3, 4])
def test_a_region_that_ends_with_a_strip_is_found_though_nothing_follows(strip_rows, monkeypatch):
    monkeypatch.setattr(strips_module, "STRIP_ROWS", strip_rows)
    for stop in range(1, 13):
        probability = np.zeros((12, 3), np.float32)
        probability[:stop, 1] = 1
        assert [lesion.pixels for lesion in find(probability)] == [stop]


def test_strips_do_not_change_the_answer(monkeypatch):
    probability = np.random.default_rng(3).random((40, 30), np.float32)
    whole = find(probability)
    monkeypatch.setattr(strips_module, "STRIP_ROWS", 1)
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


def square(side, at=(0, 0), shape=None, value=0.9):
    probability = np.zeros(shape or (at[0] + side + 1, at[1] + side + 1), np.float32)
    probability[at[0] : at[0] + side, at[1] : at[1] + side] = value
    return probability


def test_shapes_are_in_level_0_pixels_and_in_micrometres():
    (lesion,) = find(picture(["....", "####", "####", "####"]))  # 8 level-0 px and 2 µm per pixel
    assert lesion.mpp == 0.25
    assert (lesion.perimeter_l0_px, lesion.perimeter_um) == (80, 20)
    assert (lesion.diameter_l0_px, lesion.diameter_um) == (40, 10)
    assert lesion.major_axis_um == pytest.approx(2 * 4 * (15 / 12) ** 0.5)
    assert lesion.minor_axis_um == pytest.approx(2 * 4 * (8 / 12) ** 0.5)
    assert lesion.major_axis_l0_px == pytest.approx(4 * lesion.major_axis_um)
    assert lesion.minor_axis_l0_px == pytest.approx(4 * lesion.minor_axis_um)
    assert lesion.eccentricity == pytest.approx((1 - 8 / 15) ** 0.5)
    assert (lesion.extent, lesion.solidity) == (1, 1)


def test_each_lesion_has_its_own_shape():
    """The outlines' convex hulls and boxes, made by shapely, say the same as the descriptors made from runs."""
    probability = np.random.default_rng(8).random((70, 80)) ** 1.5
    for lesion in find(probability, l0_per_map_px=4.0):
        left, top, right, bottom = lesion.bbox_l0
        assert lesion.extent == pytest.approx(lesion.area_l0_px2 / ((right - left) * (bottom - top)))
        corners = shapely.get_coordinates(lesion.outline)
        longest = np.hypot(*(corners[:, None] - corners).T).max()
        assert lesion.diameter_l0_px == pytest.approx(longest)
        assert lesion.major_axis_l0_px >= lesion.minor_axis_l0_px


def test_without_a_resolution_shapes_are_in_pixels_only():
    (lesion,) = find(picture(["##"]), map_mpp=None)
    assert lesion.diameter_l0_px == pytest.approx(8 * 5**0.5)
    assert lesion.perimeter_um is lesion.major_axis_um is lesion.minor_axis_um is lesion.diameter_um is None


def test_uncertainty_is_its_mean_over_the_lesion():
    probability = picture(["##..", "....", "...#"])
    maps = {"aleatoric": np.arange(12.0).reshape(3, 4) / 16, "epistemic": np.full((3, 4), 0.5, np.float16)}
    maps["entropy"] = np.where(probability > 0.5, [[0, np.nan, 0, 0], [0] * 4, [0, 0, 0, 0.25]], np.nan)
    first, second = find(probability, uncertainty=maps)
    assert first.mean_uncertainty == {"aleatoric": 1 / 32, "epistemic": 0.5}  # no mean where a number is missing
    assert second.mean_uncertainty == {"aleatoric": 11 / 16, "epistemic": 0.5, "entropy": 0.25}


def test_uncertainty_of_another_shape_is_refused():
    with pytest.raises(BadInput, match="epistemic"):
        find(np.ones((2, 2)), uncertainty={"epistemic": np.ones((2, 3))})


@pytest.mark.parametrize("seed", range(6))
def test_strips_do_not_change_any_measure(seed, monkeypatch):
    generator = np.random.default_rng(seed)
    probability = generator.random((61, 37)).astype(np.float32) ** 0.7
    further = {"entropy": generator.random((61, 37))}
    whole = find(probability, uncertainty=further)
    for rows in (1, 2, 7):
        monkeypatch.setattr(strips_module, "STRIP_ROWS", rows)
        monkeypatch.setattr(strips_module, "READ_ROWS", 2 * rows + 1)
        for one, other in zip(whole, find(probability, uncertainty=further), strict=True):
            assert one.outline.equals(other.outline)
            assert one.mean_uncertainty == pytest.approx(other.mean_uncertainty, rel=1e-12)
            shape = ("perimeter_um", "major_axis_um", "minor_axis_um", "diameter_um", "solidity", "metastasis")
            assert [getattr(one, name) for name in shape] == [getattr(other, name) for name in shape]


def test_fragments_up_to_75_um_apart_are_one_metastasis():
    """Squares of 4 × 4 pixels of 25 µm, with gaps of 3 pixels and then 4."""
    probability = np.zeros((20, 40))
    for column in (0, 7, 15):
        probability[3:7, column : column + 4] = 1
    found = find(probability, map_mpp=25.0, l0_per_map_px=10.0)
    long, short = join_fragments(found)
    assert [lesion.bbox_l0[0] for lesion in found] == [0, 70, 150]
    assert (long.lesions, short.lesions) == ((1, 2), (3,))
    assert [lesion.metastasis for lesion in found] == [1, 1, 2]
    assert long.outline.equals(shapely.box(0, 30, 110, 70))
    assert long.diameter_um == pytest.approx(25 * (11**2 + 4**2) ** 0.5)
    assert (long.area_um2, short.area_um2) == (pytest.approx(32 * 625), pytest.approx(16 * 625))
    assert short.diameter_um == found[2].diameter_um == pytest.approx(25 * 32**0.5)
    assert (long.category, short.category) == ("micro", "itc")


def test_the_gap_is_measured_between_edges_in_any_direction():
    probability = np.zeros((12, 12))
    probability[0, 0] = probability[4, 5] = 1  # gaps of 3 down and 4 across: 5 pixels
    found = find(probability, map_mpp=15.0)
    assert len(join_fragments(found)) == 1
    assert len(join_fragments(found, 74.9)) == 2
    assert len(join_fragments(found, 0)) == 2


@pytest.mark.parametrize("seed", range(4))
def test_joining_is_single_linkage(seed):
    probability = (np.random.default_rng(seed).random((60, 60)) > 0.985) * 0.9
    found = find(probability, map_mpp=10.0, l0_per_map_px=10.0)
    gaps = shapely.distance(*np.meshgrid([lesion.outline for lesion in found], [lesion.outline for lesion in found]))
    group = np.arange(len(found))
    for _ in found:  # the smallest number spreads along chains
        group = np.array([group[row <= 75].min() for row in gaps])
    metastases = join_fragments(found)
    assert sorted(metastasis.lesions for metastasis in metastases) == sorted(
        tuple(int(at) + 1 for at in np.flatnonzero(group == number)) for number in set(group.tolist())
    )
    assert [metastasis.label for metastasis in metastases] == list(range(1, len(metastases) + 1))
    lengths = [metastasis.diameter_um for metastasis in metastases]
    assert lengths == sorted(lengths, reverse=True)
    for metastasis in metastases:
        corners = np.concatenate([shapely.get_coordinates(found[label - 1].outline) for label in metastasis.lesions])
        assert metastasis.diameter_um == pytest.approx(np.hypot(*(corners[:, None] - corners).T).max())
        assert {found[label - 1].metastasis for label in metastasis.lesions} == {metastasis.label}


def test_a_slide_is_as_bad_as_its_longest_metastasis():
    """Squares whose diagonals are 0.14, 0.28 and 2.1 mm."""
    itc, micro, macro = (square(side, shape=(160, 160)) for side in (10, 20, 150))
    assert slide_category([]) == "negative"
    for probability, category in ((itc, "itc"), (micro, "micro"), (macro, "macro")):
        assert slide_category(join_fragments(find(probability, map_mpp=10.0))) == category
    both = square(10, at=(2, 2), shape=(160, 160)) + square(20, at=(100, 100), shape=(160, 160))
    assert slide_category(join_fragments(find(both, map_mpp=10.0))) == "micro"


def test_without_a_resolution_nothing_is_joined_or_named():
    found = find(picture(["#.#"]), map_mpp=None)
    metastases = join_fragments(found)
    assert [metastasis.lesions for metastasis in metastases] == [(1,), (2,)]
    assert metastases[0].diameter_um is metastases[0].area_um2 is metastases[0].category is None
    assert slide_category(metastases) is None


def test_no_lesions_no_metastases():
    assert join_fragments([]) == []


@pytest.mark.parametrize("gap_um", [-1, np.nan])
def test_what_is_no_gap_is_refused(gap_um):
    with pytest.raises(BadInput):
        join_fragments(find(picture(["#"])), gap_um)
    with pytest.raises(BadInput):
        find(picture(["."]), join_gap_um=gap_um)


def test_the_limit_of_the_smallest_metastasis_is_in_the_note():
    assert "200 cells" in CELLS_NOTE


def measurements(probability, *, mpp, **settings):
    collection = lesions_geojson(find(probability, **settings), mpp=mpp)
    return [feature["properties"]["measurements"] for feature in collection["features"]]


def test_geojson_carries_all_measures_with_their_units():
    maps = {name: np.full((2, 4), 0.25) for name in ("aleatoric", "mutual_information")}
    (found,) = measurements(picture(["####", "####"]), mpp=0.25, uncertainty=maps)
    assert found == {
        "Area µm^2": 32.0,
        "Perimeter µm": 16.0,
        "Major axis µm": round(2 * 4 * 1.25**0.5, 6),
        "Minor axis µm": 4.0,
        "Max diameter µm": round(2 * 20**0.5, 6),
        "Eccentricity": round(0.8**0.5, 6),
        "Extent": 1.0,
        "Solidity": 1.0,
        "Mean probability": 0.9,
        "Max probability": 0.9,
        "Mean aleatoric": 0.25,
        "Mean mutual information bits": 0.25,
        "Centroid X µm": 4.0,
        "Centroid Y µm": 2.0,
        "Metastasis": 1.0,
    }


def test_geojson_is_in_pixels_where_the_resolution_is_unknown():
    (found,) = measurements(picture(["##"]), mpp=None, map_mpp=None)
    assert {name: value for name, value in found.items() if "px" in name} == {
        "Area px^2": 128.0,
        "Perimeter px": 0.0,
        "Major axis px": 16.0,
        "Minor axis px": 0.0,
        "Max diameter px": round(8 * 5**0.5, 6),
        "Centroid X px": 8.0,
        "Centroid Y px": 4.0,
    }
    assert not any("µm" in name for name in found)


@pytest.mark.parametrize("seed", range(5))
def test_metastases_are_read_from_the_lesions_labels_as_they_were_joined(seed):
    rng = np.random.default_rng(seed)
    found = find(rng.random((200, 300)), map_mpp=20.0, threshold=0.995, min_area_um2=0)
    assert metastases_of(found) == join_fragments(found)
    assert metastases_of([]) == []
