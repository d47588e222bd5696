"""The grade map: its formula and colours by literals, tiles where they belong and in QuPath, contact sheets."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image
from shapely.geometry import shape
from test_plots import BLINDNESS, lab, linear

from digipath.errors import BadInput
from digipath.report import (
    GalleryInput,
    TileFrame,
    TilePicture,
    contact_sheet,
    grade_geojson,
    grade_overlay,
    intensity,
    tile_colour,
    tile_overlay,
    with_heat,
)
from digipath.report.figures import GREY, INK
from digipath.report.grade_map import DARK, LIGHT, OPACITY, spread
from digipath.report.tile_lattice import LEFT_OUT_RGB
from digipath.values import BACKGROUND, EXCLUDED, PREDICTED, READ_FAILED, most_probable

CLASSES = ("grade 2", "grade 3", "grade 4")
PINK, GLASS = (226, 196, 216), (245, 244, 246)
TISSUE = np.full((800, 800, 3), (200, 150, 190), np.uint8)
FRAME = TileFrame(side_l0=800.0, l0_per_overview_px=8.0)  # tiles of 100 overview pixels


# --- the formula and the colours -------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "strength"),
    [(0, 0.0), (0.25, 0.0218412), (1 / 3, 0.0367837), (0.5, 1 / 11), (0.75, 0.3093210), (0.9, 0.6272296), (1, 1.0)],
)
def test_strength_by_literals(probability, strength):
    assert float(intensity(probability)) == pytest.approx(strength, abs=1e-7)


def test_strength_is_logarithmic_in_the_probability_and_keeps_shape_and_nan():
    probability = np.linspace(0, 1, 21).reshape(3, 7)
    assert np.log10(1 + 99 * intensity(probability)) == pytest.approx(2 * probability)
    assert np.isnan(intensity(np.array([np.nan, 0.5]))).tolist() == [True, False]
    assert (intensity(0.0), intensity(1.0)) == (0.0, 1.0)
    assert intensity(0.5) < 0.1 < 0.5 < intensity(0.9)  # below 50 % very light, above it rises quickly


@pytest.mark.parametrize(
    ("index", "probability", "rgb"),
    [
        (0, 0.0, (196, 236, 186)), (0, 0.5, (178, 225, 175)), (0, 1.0, (0, 120, 60)),
        (1, 0.0, (184, 208, 244)), (1, 0.5, (169, 194, 236)), (1, 1.0, (16, 52, 160)),
        (2, 0.0, (255, 194, 180)), (2, 0.5, (245, 176, 166)), (2, 1.0, (150, 0, 24)),
    ],
)  # fmt: skip
def test_grades_are_green_blue_and_red_from_light_to_dark(index, probability, rgb):
    assert tile_colour(index, probability, 3) == rgb


@pytest.mark.parametrize("count", [2, 3, 4, 5, 9])
def test_however_many_classes_the_first_is_green_and_the_last_red(count):
    ends = [tile_colour(index, 1.0, count) for index in range(count)]
    assert (ends[0], ends[-1]) == ((0, 120, 60), (150, 0, 24))
    assert len(set(ends)) == count
    if count > 2:
        assert ends[1] == (16, 52, 160)
    assert all(max(rgb[0], rgb[2]) > rgb[1] for rgb in ends[1:])  # none is green again


@pytest.mark.parametrize(("index", "count"), [(3, 3), (-1, 3), (0, 1)])
def test_classes_that_are_not_there_have_no_colour(index, count):
    with pytest.raises(BadInput, match="class"):
        tile_colour(index, 0.5, count)


def seen(rgb, eyes=BLINDNESS["none"]):
    return lab(np.array(eyes) @ linear("#{:02x}{:02x}{:02x}".format(*(round(float(v)) for v in rgb))))


@pytest.mark.parametrize("ground", [PINK, GLASS], ids=["tissue", "glass"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_even_the_lightest_tile_is_seen_on_tissue_and_on_glass(ground, count):
    for light in spread(LIGHT, count):
        laid = np.array(ground) + OPACITY * (light - np.array(ground))
        assert np.linalg.norm(seen(laid) - seen(ground)) >= 8


@pytest.mark.parametrize("probability", [0.34, 0.5, 0.75, 1])
def test_the_three_grades_stay_apart_over_tissue_at_every_probability(probability):
    laid = [
        seen(np.array(PINK) + OPACITY * (np.array(tile_colour(index, probability, 3)) - PINK)) for index in range(3)
    ]
    gaps = [np.linalg.norm(laid[a] - laid[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert min(gaps) >= 20


def test_of_equally_probable_classes_a_tile_is_called_the_most_malignant():
    values = np.array([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [1, 0, 0]])
    assert most_probable(values).tolist() == [1, 2, 0]


# --- the picture -----------------------------------------------------------------------------


def tiles(rows, columns, best, probability=1.0):
    """Probabilities of tiles whose class `best` has `probability`, the others share the rest."""
    values = np.full((rows, columns, 3), (1 - probability) / 2, np.float32)
    values[..., best] = probability
    return values


def painted(probabilities, coverage, frame=FRAME, overview=TISSUE):
    image = grade_overlay(overview, probabilities, coverage, frame=frame, classes=CLASSES)
    return np.asarray(image)[: overview.shape[0], : overview.shape[1]].astype(int)


@pytest.mark.parametrize("best", range(3))
@pytest.mark.parametrize("probability", [0.5, 0.9, 1.0])
def test_a_tile_has_the_colour_of_its_class_with_the_tissue_below(best, probability):
    coverage = np.full((8, 8), BACKGROUND, np.uint8)
    coverage[2, 5] = PREDICTED
    pixels = painted(tiles(8, 8, best, probability), coverage)
    expected = 0.45 * TISSUE[0, 0] + 0.55 * np.array(tile_colour(best, probability, 3))
    assert np.abs(pixels[230:280, 530:580] - expected).max() <= 1
    changed = (pixels != TISSUE).any(axis=2)
    changed[200:300, 500:600] = False
    assert not changed.any()


@pytest.mark.parametrize(("side", "l0_per_px"), [(1024.0, 9.7), (777.0, 8.0), (2048.0, 12.345)])
def test_every_tile_lies_exactly_where_it_belongs(side, l0_per_px):
    count = int(np.ceil(800 * l0_per_px / side))  # the last tiles stick out
    coverage = np.full((count, count), BACKGROUND, np.uint8)
    coverage[1::2, ::2] = PREDICTED
    pixels = painted(tiles(count, count, 2), coverage, TileFrame(side, l0_per_px))
    changed = (pixels != TISSUE).any(axis=2)
    l0 = (np.arange(800) + 0.5) * l0_per_px
    at, away = (l0 // side).astype(int), np.minimum(l0 % side, side - l0 % side) / l0_per_px
    surely = (away >= 2)[:, None] & (away >= 2)[None, :]  # but for the free edges
    expected = coverage[at[:, None], at[None, :]] == PREDICTED
    assert (changed == expected)[surely].all()


def test_edges_between_tiles_stay_free_so_that_tissue_is_seen():
    pixels = painted(tiles(8, 8, 0), np.ones((8, 8), np.uint8))
    edges = np.arange(100, 800, 100)
    assert (pixels[edges] == TISSUE[0]).all()
    assert (pixels[:, edges - 1] == TISSUE[0, 0]).all()


@pytest.mark.parametrize("best", range(3))
def test_dots_count_the_class_for_those_who_do_not_see_its_colour(best):
    pixels = painted(tiles(8, 8, best), np.ones((8, 8), np.uint8))
    dark = (np.abs(pixels[:100, :100] - np.array(DARK[best])).max(axis=2) <= 1)[4:20, 4:60]
    assert dark.sum() == 9 * (best + 1)


@pytest.mark.parametrize("side_px", [0.5, 1, 3, 5, 10])
def test_tiles_of_a_few_pixels_are_painted_too(side_px):
    count = int(800 / side_px)
    pixels = painted(tiles(count, count, 1), np.ones((count, count), np.uint8), TileFrame(side_px, 1.0))
    assert (pixels != TISSUE).any(axis=2).mean() > 0.3


def test_tissue_left_out_is_outlined_and_what_could_not_be_read_is_hatched():
    coverage = np.full((8, 8), BACKGROUND, np.uint8)
    coverage[1, 1], coverage[3, 3] = EXCLUDED, READ_FAILED
    pixels = painted(np.full((8, 8, 3), np.nan, np.float32), coverage)
    changed = (pixels != TISSUE).any(axis=2)
    assert changed[101:199, 101:199].sum() == 4 * 97  # a line of one pixel
    assert not changed[110:190, 110:190].any()
    tile = pixels[301:399, 301:399]
    assert (np.abs(tile - np.array(GREY)).max(axis=2) < 12).mean() > 0.6
    assert (tile == np.array(INK)).all(axis=2).mean() > 0.25
    changed[101:199, 101:199] = changed[301:399, 301:399] = False
    assert not changed.any()


def test_the_legend_names_what_is_there_and_only_that():
    def inked(code, colour, mpp=None):
        coverage = np.full((8, 8), code, np.uint8)
        image = grade_overlay(TISSUE, tiles(8, 8, 1), coverage, frame=TileFrame(800.0, 8.0, mpp), classes=CLASSES)
        return int((np.asarray(image)[800:] == colour).all(axis=2).sum())

    assert inked(PREDICTED, INK, 2.0) > inked(PREDICTED, INK) + 300  # the scale bar
    hatched = tuple(round(0.2 * 220 + 0.8 * grey) for grey in GREY)
    assert inked(READ_FAILED, hatched) > 200 > inked(PREDICTED, hatched)
    assert inked(EXCLUDED, LEFT_OUT_RGB) > 50 > inked(PREDICTED, LEFT_OUT_RGB)


def test_the_legend_shows_the_colours_that_the_map_has():
    legend = np.asarray(grade_overlay(TISSUE, tiles(8, 8, 1), np.ones((8, 8), np.uint8), frame=FRAME, classes=CLASSES))[
        800:
    ].astype(int)
    for index in range(3):
        for probability in (0.5, 0.75, 0.98):
            laid = 0.45 * np.array(PINK) + 0.55 * np.array(tile_colour(index, probability, 3))
            assert np.abs(legend - laid).max(axis=2).min() <= 2


@pytest.mark.parametrize("size", [(40, 30), (900, 2400), (3000, 200)])
def test_the_picture_has_a_moderate_size(size):
    overview = np.full((*size, 3), 220, np.uint8)
    frame = TileFrame(10.0, 1.0, 8.0)
    coverage = np.ones((-(-size[0] // 10), -(-size[1] // 10)), np.uint8)
    image = grade_overlay(overview, tiles(*coverage.shape, 0), coverage, frame=frame, classes=CLASSES)
    assert 200 <= image.width <= 1200
    assert image.height <= 1200 + 500


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match=r"\(2, 2, 3\)"):
        grade_overlay(TISSUE, np.zeros((2, 2, 2)), np.zeros((2, 2), np.uint8), frame=FRAME, classes=CLASSES)
    with pytest.raises(BadInput, match="overview"):
        grade_overlay(TISSUE[..., 0], np.zeros((2, 2, 3)), np.zeros((2, 2), np.uint8), frame=FRAME, classes=CLASSES)
    with pytest.raises(BadInput, match="map of tiles"):
        tile_overlay(TISSUE, np.zeros((2, 3)), np.zeros((2, 2), np.uint8), frame=FRAME, name="attention")


def test_attention_rises_in_opacity_and_what_was_not_looked_at_stays():
    values = np.array([[0.0, 0.1, 0.2, np.nan]], np.float32)
    image = tile_overlay(
        TISSUE[:100, :400], values, np.ones((1, 4), np.uint8), frame=FRAME, name="attention", top=0.2, longest_px=400
    )
    pixels = np.asarray(image)[:100, :400].astype(int)
    shift = [np.abs(pixels[50, x] - TISSUE[0, 0]).sum() for x in (50, 150, 250, 350)]
    assert shift[0] == shift[3] == 0 < shift[1] < shift[2]
    assert (pixels[:, 300:] == TISSUE[0, 0]).all()


# --- QuPath ----------------------------------------------------------------------------------


def collection(**settings):
    values = np.full((2, 3, 3), np.nan, np.float16)
    values[0, 2], values[1, 0] = (0.25, 0.5, 0.25), (0.125, 0.125, 0.75)
    return grade_geojson(values, side_l0=1024.0, classes=CLASSES, **settings)


def test_geojson_has_a_tile_of_qupath_for_each_graded_tile():
    share, entropy = np.full((2, 3), 0.9375), np.full((2, 3), np.nan)
    entropy[0, 2] = 1.5
    found = collection(tissue_share=share, uncertainty={"entropy": entropy})
    first, second = json.loads(json.dumps(found, allow_nan=False))["features"]
    assert found["type"] == "FeatureCollection"
    assert first["properties"] == {
        "objectType": "tile",
        "name": "grade 3 50%",
        "classification": {"name": "grade 3", "color": [16, 52, 160]},
        "measurements": {
            "Probability grade 2": 0.25, "Probability grade 3": 0.5, "Probability grade 4": 0.25,
            "Tissue share": 0.9375, "Entropy bits": 1.5,
        },
    }  # fmt: skip
    assert second["properties"]["classification"] == {"name": "grade 4", "color": [150, 0, 24]}
    assert "Entropy bits" not in second["properties"]["measurements"]  # NaN is no number
    assert shape(first["geometry"]).bounds == (2048, 0, 3072, 1024)
    assert shape(second["geometry"]).bounds == (0, 1024, 1024, 2048)
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", first["id"])


def test_the_same_tiles_have_the_same_ids_and_others_do_not():
    ids = [feature["id"] for feature in collection()["features"]]
    assert ids == [feature["id"] for feature in collection()["features"]]
    assert len(set(ids)) == 2


def test_neighbours_share_their_edges_also_where_a_side_is_no_whole_number():
    found = grade_geojson(np.full((3, 3, 2), 0.5), side_l0=341.37, classes=("a", "b"))["features"]
    outlines = [shape(feature["geometry"]) for feature in found]
    assert outlines[0].bounds[2] == outlines[1].bounds[0]
    assert outlines[8].bounds == (682.74, 682.74, 1024.11, 1024.11)


def test_of_thousands_of_tiles_each_has_an_id_of_its_own():
    features = grade_geojson(np.full((100, 100, 3), 1 / 3), side_l0=512, classes=CLASSES)["features"]
    assert len({feature["id"] for feature in features}) == 10_000


# --- contact sheets --------------------------------------------------------------------------


def row_of(count, heat=None):
    image = np.full((64, 64, 3), (210, 60, 120), np.uint8)
    given = [TilePicture(image, (0.1, 0.2, 0.7), f"row {n}", heat) for n in range(count)]
    return GalleryInput("grade 4", True, given)


@pytest.mark.parametrize("count", [1, 6, 7])
def test_a_sheet_shows_every_tile_as_it_is(count):
    sheet = np.asarray(contact_sheet(row_of(count), CLASSES))
    assert (sheet == (210, 60, 120)).all(axis=2).sum() == count * 192 * 192
    assert sheet.shape[1] == np.asarray(contact_sheet(row_of(1), CLASSES)).shape[1]  # whatever the count


def test_a_tile_s_heat_lies_beside_it():
    sheet = np.asarray(contact_sheet(row_of(4, np.eye(8)), CLASSES))
    assert (sheet == (210, 60, 120)).all(axis=2).sum() == 4 * 192 * 192


def test_heat_is_viridis_over_the_tile():
    image = np.full((40, 40, 3), 200, np.uint8)
    heat = np.zeros((2, 2))
    heat[0, 1] = 1
    laid = with_heat(image, heat).astype(int)
    assert laid[-1, 0].tolist() == [134, 100, 142]  # half of (68, 1, 84), rounded to even
    assert laid[0, -1].tolist() == [226, 216, 118]  # half of (253, 231, 37)
    assert Image.fromarray(laid.astype(np.uint8)).size == (40, 40)
