"""What is written for people and for QuPath: numbers, outlines, pictures, the page, and files."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
import shapely
from PIL import Image
from shapely.geometry import shape

from digipath.errors import BadInput, OutputUnwritable
from digipath.files import write_atomically, write_json
from digipath.measure.lesions import find_lesions
from digipath.report import (
    NOTICE,
    BurdenInput,
    BurdenRuleInput,
    LookHereInput,
    MetastasesInput,
    MetastasisInput,
    lesions_geojson,
    look_here_geojson,
    overlay_png,
    summary,
    tally,
)
from digipath.report.figures import GREY, INK, Layer, overlay
from digipath.values import BACKGROUND, EXCLUDED, PREDICTED, READ_FAILED, Coverage

PLACE = LookHereInput(
    shapely.box(2, 3, 10, 9), (6.0, 6.0), None, 0.5, 0.125, "micro", "itc", 3.25, "The category would change."
)

# --- numbers ---------------------------------------------------------------------------------


def test_a_tally_counts_working_pixels_also_under_the_last_partial_map_pixels():
    probability = np.array([[0.9, 0.5, 0.1], [0.2, np.nan, 1.0]], np.float16)
    coverage = np.array([[1, 1, 1], [1, READ_FAILED, 1]], np.uint8)
    # 5 × 9 working pixels by 4: rows of 4 and 1, columns of 4, 4 and 1.
    counted = tally(probability, coverage, shape_px=(5, 9), reduce=4)
    assert counted.predicted == 16 + 16 + 4 + 4 + 1
    assert counted.positive == 16 + 16 + 1
    # As float16, 0.1 and 0.2 lie just below themselves, 0.9 just below 0.9.
    assert {bin_: count for bin_, count in enumerate(counted.histogram) if count} == {1: 4, 3: 4, 10: 16, 17: 16, 19: 1}
    expected = (16 * 0.9 + 16 * 0.5 + 4 * 0.1 + 4 * 0.2 + 1) / 41
    assert counted.mean_probability == pytest.approx(expected, abs=1e-3)


def test_a_tally_is_the_same_over_many_strips():
    generator = np.random.default_rng(0)
    probability = generator.random((1300, 7), np.float32)
    counted = tally(probability, np.ones((1300, 7), np.uint8), shape_px=(1300, 7), reduce=1, threshold=0.25)
    assert counted.positive == int((probability >= 0.25).sum())
    assert counted.histogram == tuple(np.histogram(probability, 20, (0, 1))[0])


@pytest.mark.parametrize("shape_px", [(3, 3), (8, 8), (129 * 3 + 1, 17), (520 * 3 - 2, 2), (1, 1)])
def test_a_tally_weighs_each_map_pixel_by_the_working_pixels_it_covers(shape_px):
    generator = np.random.default_rng(1)
    size = tuple(-(-side // 3) for side in shape_px)
    probability, coverage = generator.random(size, np.float32), generator.integers(0, 4, size).astype(np.uint8)
    counted = tally(probability, coverage, shape_px=shape_px, reduce=3)
    full = [np.repeat(np.repeat(map_, 3, 0), 3, 1)[: shape_px[0], : shape_px[1]] for map_ in (probability, coverage)]
    values = full[0][full[1] == PREDICTED]
    assert (counted.predicted, counted.positive) == (values.size, int((values >= 0.5).sum()))
    assert counted.mean_probability == (pytest.approx(values.mean(), rel=1e-5) if values.size else None)


def test_maps_of_another_size_are_not_tallied():
    with pytest.raises(BadInput, match=r"\(2, 3\)"):
        tally(np.zeros((2, 2)), np.zeros((2, 2)), shape_px=(5, 9), reduce=4)


def summarised(coverage=None, mpp=0.5, probability=None):
    probability = np.full((4, 4), 0.8, np.float32) if probability is None else probability
    counted = tally(probability, np.ones((4, 4), np.uint8), shape_px=(4, 4), reduce=1)
    found = find_lesions(probability, map_mpp=mpp, l0_per_map_px=2.0, min_area_um2=0)
    coverage = coverage or Coverage(tissue=16, predicted=16)
    return counted, found, summary(counted, coverage, found, mpp=mpp, map_mpp=mpp, notes=["A note."])


def test_a_summary_states_areas_in_mm2():
    _, _, numbers = summarised(Coverage(tissue=20, predicted=16, read_failed=3, excluded=1))
    assert numbers["tissue_mm2"] == pytest.approx(20 * 0.25e-6)
    assert numbers["tumour_mm2"] == pytest.approx(16 * 0.25e-6)
    assert numbers["largest_lesion_mm2"] == pytest.approx(16 * 0.25e-6)
    assert numbers["tumour_share_of_tissue"] == 1.0
    assert (numbers["lesions"], numbers["threshold"], numbers["complete"]) == (1, 0.5, False)
    assert numbers["coverage_px"] == {"tissue": 20, "predicted": 16, "read_failed": 3, "excluded": 1}
    assert (numbers["notes"], numbers["notice"]) == (["A note."], NOTICE)
    json.dumps(numbers, allow_nan=False)


def test_a_summary_without_a_resolution_has_no_areas_and_says_so():
    _, _, numbers = summarised(mpp=None)
    assert [numbers[key] for key in ("tissue_mm2", "tumour_mm2", "largest_lesion_mm2", "mpp")] == [None] * 4
    assert "resolution is unknown" in numbers["notes"][-1]


def test_a_summary_of_nothing_has_no_share_and_no_mean():
    nothing = np.zeros((2, 2), np.uint8)
    counted = tally(nothing.astype(np.float32), nothing, shape_px=(2, 2), reduce=1)
    numbers = summary(counted, Coverage(), [], mpp=0.5, map_mpp=0.5)
    assert (numbers["tumour_share_of_tissue"], numbers["mean_probability"]) == (None, None)
    assert (numbers["tissue_mm2"], numbers["largest_lesion_mm2"], numbers["complete"]) == (0.0, 0.0, True)


def test_a_summary_states_the_readouts_that_were_asked_for():
    counted, found, numbers = summarised()
    assert [numbers[key] for key in ("category_by_size", "metastases", "burden", "look_here")] == [None] * 4
    metastases = MetastasesInput(
        [MetastasisInput("macro", 2500.0, 3e6, (1, 4)), MetastasisInput("itc", 90.0, 5e3, (2,))], "macro", (200, 2000)
    )
    rules = [
        BurdenRuleInput("one hull", 42.5, 3.4, 8.0, (40.0, 50.0)),
        BurdenRuleInput("a hull per piece", None, None, None, None),
    ]
    numbers = summary(
        counted, Coverage(tissue=16, predicted=16), found, mpp=0.5, map_mpp=0.5,
        metastases=metastases, burden=BurdenInput(rules, 0.9, False, 8.0), look_here=[PLACE],
    )  # fmt: skip
    json.dumps(numbers, allow_nan=False)
    assert numbers["category_by_size"] == "macro"
    assert {key: numbers["metastases"][key] for key in ("count", "macro", "itc")} == {"count": 2, "macro": 1, "itc": 1}
    longest = {"diameter_um": 2500.0, "category": "macro", "area_um2": 3e6, "lesions": [1, 4]}
    assert numbers["metastases"]["longest"][0] == longest
    one = {"percent": 42.5, "interval_percent": [40.0, 50.0], "viable_mm2": 3.4, "whole_mm2": 8.0}
    assert numbers["burden"]["rules"]["one hull"] == one
    assert set(numbers["burden"]["rules"]["a hull per piece"].values()) == {None}
    assert (numbers["burden"]["level"], numbers["burden"]["conformal"]) == (0.9, False)
    assert (numbers["look_here"][0]["burden_change"], "outline_l0" in numbers["look_here"][0]) == (3.25, False)


# --- GeoJSON ---------------------------------------------------------------------------------


def lesions_of(probability, mpp=2.0):
    return find_lesions(np.asarray(probability, np.float32), map_mpp=mpp, l0_per_map_px=8.0, min_area_um2=0)


def test_geojson_has_the_form_that_qupath_writes():
    (feature,) = lesions_geojson(lesions_of([[0, 0.75]]), class_name="Tumor", colour_rgb=(1, 2, 3), mpp=0.25)[
        "features"
    ]
    assert (feature["type"], feature["geometry"]["type"]) == ("Feature", "Polygon")
    assert feature["properties"] == {
        "objectType": "annotation",
        "name": "Tumor 1",
        "classification": {"name": "Tumor", "color": [1, 2, 3]},
        "measurements": {
            "Area µm^2": 4.0,
            "Perimeter µm": 0.0,
            "Major axis µm": 0.0,
            "Minor axis µm": 0.0,
            "Max diameter µm": round(2 * 2**0.5, 6),
            "Eccentricity": 0.0,
            "Extent": 1.0,
            "Solidity": 1.0,
            "Mean probability": 0.75,
            "Max probability": 0.75,
            "Centroid X µm": 3.0,
            "Centroid Y µm": 1.0,
            "Metastasis": 1.0,
        },
    }
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", feature["id"])


def test_geojson_comes_back_through_shapely():
    found = lesions_of([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]])
    collection = json.loads(json.dumps(lesions_geojson(found), allow_nan=False))
    back = [shape(feature["geometry"]) for feature in collection["features"]]
    assert collection["type"] == "FeatureCollection"
    assert [outline.geom_type for outline in back] == ["MultiPolygon", "Polygon"]
    assert all(outline.equals(lesion.outline) for outline, lesion in zip(back, found, strict=True))
    assert back[0].area == 9 * 64


def test_equal_lesions_have_equal_ids_and_different_ones_do_not():
    found = lesions_of([[1, 0, 1]])
    first, second = (feature["id"] for feature in lesions_geojson(found)["features"])
    assert first != second
    assert [feature["id"] for feature in lesions_geojson(found)["features"]] == [first, second]


def test_without_a_resolution_measurements_are_in_pixels():
    (feature,) = lesions_geojson(lesions_of([[1]], mpp=None))["features"]
    measurements = feature["properties"]["measurements"]
    assert (measurements["Area px^2"], measurements["Centroid X px"]) == (64.0, 4.0)
    assert not any("µm" in name for name in measurements)


def test_where_to_look_opens_in_qupath_with_its_reason():
    collection = json.loads(json.dumps(look_here_geojson([PLACE, PLACE]), allow_nan=False))
    first, second = (feature["properties"] for feature in collection["features"])
    assert (first["name"], second["name"]) == ("Look here 1", "Look here 2")
    assert first["metadata"] == {"ANNOTATION_DESCRIPTION": "The category would change."}
    assert first["measurements"]["Burden change (points)"] == 3.25
    assert "Area µm^2" not in first["measurements"]  # unknown
    assert "note" not in collection
    assert look_here_geojson(None)["note"].startswith("Not measured")
    assert shape(collection["features"][0]["geometry"]).equals(PLACE.outline_l0)


# --- pictures --------------------------------------------------------------------------------

TISSUE = np.full((800, 800, 3), (200, 150, 190), np.uint8)


def painted(probability, coverage, **settings):
    """The picture's pixels without the legend."""
    image = overlay(TISSUE, Layer(np.asarray(probability, np.float32), contour=0.5), np.asarray(coverage), **settings)
    return np.asarray(image)[:800, :800].astype(int)


def test_tissue_without_tumour_looks_as_it_did():
    assert (painted(np.zeros((4, 4)), np.ones((4, 4), np.uint8)) == TISSUE).all()


def test_the_map_lies_where_it_belongs():
    probability = np.zeros((4, 4))
    probability[3, 0] = 1.0
    changed = (painted(probability, np.ones((4, 4), np.uint8)) != TISSUE).any(axis=2)
    assert changed[600:, :200].mean() > 0.9
    assert not changed[:450].any()
    assert not changed[:, 350:].any()


def test_opacity_rises_with_probability():
    shift = [
        np.abs(painted(np.full((2, 2), p), np.ones((2, 2), np.uint8)) - TISSUE)[400, 400].sum()
        for p in (0.1, 0.3, 0.49, 0.9)
    ]
    assert shift == sorted(shift)
    assert shift[0] > 0


@pytest.mark.parametrize("code", [READ_FAILED, EXCLUDED])
def test_unpredicted_tissue_is_grey_and_never_looks_like_tissue(code):
    coverage = np.array([[PREDICTED, code]], np.uint8)
    pixels = painted(np.array([[0, np.nan]]), coverage)
    right = pixels[:, 410:]
    assert (np.abs(right - np.array(GREY)).max(axis=2) < 12).mean() > 0.6
    assert ((right == np.array(INK)).all(axis=2).mean() > 0.25) == (code == READ_FAILED)
    assert (pixels[:, :390] == TISSUE[:, :390]).all()


def test_one_unread_map_pixel_among_many_still_shows():
    coverage = np.ones((2400, 2400), np.uint8)
    coverage[1201, 1201] = EXCLUDED
    pixels = painted(np.zeros((2400, 2400), np.float32), coverage)
    assert [tuple(at) for at in np.argwhere((pixels != TISSUE).any(axis=2))] == [(400, 400)]


def test_a_map_that_reaches_beyond_the_slide_is_cut_not_squeezed():
    # 800 overview pixels are 3.5 map pixels; the fourth column begins at 3 / 3.5 of the width.
    probability = np.zeros((4, 4))
    coverage = np.ones((4, 4), np.uint8)
    coverage[:, 3] = EXCLUDED
    pixels = painted(probability, coverage, map_px_per_overview_px=3.5 / 800)
    first = np.flatnonzero((pixels != TISSUE).any(axis=(0, 2)))[0]
    assert abs(first - 800 * 3 / 3.5) <= 1


@pytest.mark.parametrize("size", [(40, 30), (900, 2400), (3000, 200)])
def test_the_picture_is_a_png_of_a_moderate_size(size):
    overview = np.full((*size, 3), 220, np.uint8)
    data = overlay_png(overview, np.zeros((5, 5)), np.ones((5, 5), np.uint8), overview_mpp=8.0)
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    assert 200 <= image.width <= 1200
    assert image.height <= 1200 + 300


def test_a_scale_bar_is_drawn_only_where_the_resolution_is_known():
    map_, coverage = np.zeros((5, 5)), np.full((5, 5), BACKGROUND, np.uint8)
    assert overlay_png(TISSUE, map_, coverage) != overlay_png(TISSUE, map_, coverage, overview_mpp=8.0)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="coverage"):
        overlay_png(TISSUE, np.zeros((2, 2)), np.zeros((3, 3), np.uint8))
    with pytest.raises(BadInput, match="overview"):
        overlay_png(TISSUE[..., 0], np.zeros((2, 2)), np.zeros((2, 2), np.uint8))


# --- files -----------------------------------------------------------------------------------


def test_files_appear_whole_and_leave_nothing_beside_them(tmp_path):
    write_atomically(tmp_path / "a.txt", "µm²")
    write_atomically(tmp_path / "a.txt", b"\x00\x01")
    write_json(tmp_path / "b.json", {"area": "µm²"}, indent=None)
    assert (tmp_path / "a.txt").read_bytes() == b"\x00\x01"
    assert (tmp_path / "b.json").read_text(encoding="utf-8") == '{"area": "µm²"}\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.json"]


def test_numbers_that_json_lacks_are_refused_and_the_old_file_stays(tmp_path):
    write_json(tmp_path / "b.json", [1])
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", [float("nan")])
    assert json.loads((tmp_path / "b.json").read_text()) == [1]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OutputUnwritable, match="absent"):
        write_atomically(tmp_path / "absent" / "a.txt", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputUnwritable, match="folder"):
        write_atomically(tmp_path / "folder", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_outlines_are_valid_shapely_after_writing(tmp_path):
    found = lesions_of([[1, 0], [0, 1]])
    write_json(tmp_path / "lesions.geojson", lesions_geojson(found), indent=None)
    collection = shapely.from_geojson((tmp_path / "lesions.geojson").read_text())
    assert collection.is_valid
    assert collection.area == 2 * 64
