"""Outlines and masks from QuPath, ASAP and image files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from shapely import MultiPolygon, Polygon, box

from digipath.annotation import Outline, rasterise, read_mask, read_outlines
from digipath.errors import BadAnnotation

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [100, 0], [100, 80], [0, 80], [0, 0]]]}
RING = {"type": "Polygon", "coordinates": [*SQUARE["coordinates"], [[20, 20], [60, 20], [60, 60], [20, 60], [20, 20]]]}
PAIR = {"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"], [[[200, 0], [210, 0], [210, 10], [200, 0]]]]}
FEATURE = {"type": "Feature", "properties": {"classification": {"name": "Tumour"}}, "geometry": RING}


def geojson(tmp_path, content):
    path = tmp_path / "outlines.geojson"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (FEATURE, [("Tumour", 6400)]),
        ({"type": "FeatureCollection", "features": [FEATURE, FEATURE]}, [("Tumour", 6400)] * 2),
        ([FEATURE], [("Tumour", 6400)]),
        (SQUARE, [("", 8000)]),
        (PAIR, [("", 8050)]),
        ({**FEATURE, "properties": {"name": "my area"}}, [("my area", 6400)]),
        ({**FEATURE, "properties": None}, [("", 6400)]),
        ([FEATURE, {**FEATURE, "geometry": {"type": "Point", "coordinates": [5, 5]}}], [("Tumour", 6400)]),
        (
            {"type": "GeometryCollection", "geometries": [SQUARE, {"type": "Point", "coordinates": [1, 1]}]},
            [("", 8000)],
        ),
    ],
)
def test_every_form_of_geojson(tmp_path, content, expected):
    outlines = read_outlines(geojson(tmp_path, content))
    assert [(outline.label, outline.area.area) for outline in outlines] == expected


def test_holes_and_parts_are_kept(tmp_path):
    ring, pair = read_outlines(geojson(tmp_path, [FEATURE, {**FEATURE, "geometry": PAIR}]))
    assert len(ring.area.interiors) == 1
    assert isinstance(pair.area, MultiPolygon)


def test_an_outline_that_crosses_itself_is_repaired(tmp_path):
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]}
    (outline,) = read_outlines(geojson(tmp_path, bow))
    assert outline.area.is_valid
    assert outline.area.area == pytest.approx(50)


ASAP = """<?xml version="1.0"?>
<ASAP_Annotations><Annotations>
<Annotation Name="a" Type="Spline" PartOfGroup="metastases"><Coordinates>
<Coordinate Order="2" X="10,0" Y="10"/><Coordinate Order="0" X="0" Y="0"/>
<Coordinate Order="10" X="0" Y="10"/><Coordinate Order="1" X="10" Y="0"/></Coordinates></Annotation>
<Annotation Name="b" Type="Dot" PartOfGroup="None"><Coordinates>
<Coordinate Order="0" X="5" Y="5"/></Coordinates></Annotation>
</Annotations></ASAP_Annotations>"""


def test_asap_is_read_in_the_order_it_states(tmp_path):
    (tmp_path / "a.xml").write_text(ASAP)
    (outline,) = read_outlines(tmp_path / "a.xml")
    assert outline.label == "metastases"
    assert outline.area.equals(box(0, 0, 10, 10))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not json",
        "3",
        "null",
        "[]",
        '{"type": "FeatureCollection", "features": []}',
        '{"type": "Point", "coordinates": [1, 2]}',
        '{"type": "Polygon", "coordinates": [[[0, 0], [1, NaN], [1, 1], [0, 0]]]}',
        '{"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}',
        '{"type": "Polygon", "coordinates": "abc"}',
        '{"type": "Feature"}',
        '["a"]',
        "<a><b></a>",
        "<ASAP_Annotations/>",
        ASAP.replace('X="0"', 'X="zero"'),
        ASAP.replace('X="0" Y="0"', 'Y="0"'),
        '<!DOCTYPE x [<!ENTITY e "boom">]><ASAP_Annotations>&e;</ASAP_Annotations>',
    ],
)
def test_bad_outlines_end_in_one_line(tmp_path, content):
    path = geojson(tmp_path, content)
    with pytest.raises(BadAnnotation) as caught:
        read_outlines(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_entities_are_never_expanded(tmp_path):
    bomb = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "1">]>' + ASAP.split("?>")[1].replace('X="0"', 'X="&a;"')
    with pytest.raises(BadAnnotation, match="document type"):
        read_outlines(geojson(tmp_path, bomb))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(BadAnnotation, match=r"nope\.geojson"):
        read_outlines(tmp_path / "nope.geojson")
    with pytest.raises(BadAnnotation, match=r"nope\.png"):
        read_mask(tmp_path / "nope.png", (5, 5))


def test_rasterise_puts_outlines_where_they_lie():
    ring = Polygon([(16, 8), (48, 8), (48, 40), (16, 40)], [[(24, 16), (40, 16), (40, 32), (24, 32)]])
    mask = rasterise([Outline("", ring)], (8, 10), 8.0)
    expected = np.zeros((8, 10), bool)
    expected[1:5, 2:6] = True
    assert mask.dtype == bool
    expected[2:4, 3:5] = False
    np.testing.assert_array_equal(mask, expected)


def test_rasterised_area_is_the_polygons():
    disc = Polygon([(500 + 300 * np.cos(a), 400 + 200 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 400)[:-1]])
    mask = rasterise([Outline("", disc)], (800, 1000), 1.0)
    assert mask.sum() == pytest.approx(disc.area, rel=0.01)
    rows, cols = np.nonzero(mask)
    assert rows.mean() + 0.5 == pytest.approx(400, abs=0.6)
    assert cols.mean() + 0.5 == pytest.approx(500, abs=0.6)


def test_tiny_and_outlying_outlines():
    outlines = [Outline("", box(101, 101, 102, 102)), Outline("", box(-500, -500, -100, -100))]
    assert rasterise(outlines, (20, 20), 10.0).sum() == 1
    assert rasterise([Outline("", box(-50, -50, 55, 55))], (20, 20), 10.0)[:5, :5].all()


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [(mode, suffix) for mode in ("1", "L", "RGB", "I;16", "LA") for suffix in ("png", "tif")] + [("P", "png")],
)
def test_masks_of_any_mode(tmp_path, mode, suffix):
    truth = np.zeros((40, 60), bool)
    truth[10:30, 15:45] = True
    values = np.where(truth, 1, 0).astype(np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(values) if mode == "I;16" else Image.fromarray(values * 255).convert(mode)
    image.save(tmp_path / f"mask.{suffix}")
    np.testing.assert_array_equal(read_mask(tmp_path / f"mask.{suffix}", (40, 60)), truth)
    np.testing.assert_array_equal(read_mask(tmp_path / f"mask.{suffix}", (80, 120)), truth.repeat(2, 0).repeat(2, 1))


def test_jpeg_masks_are_cut_in_the_middle(tmp_path):
    Image.fromarray(np.full((16, 16), 100, np.uint8)).save(tmp_path / "low.jpg")
    Image.fromarray(np.full((16, 16), 200, np.uint8)).save(tmp_path / "high.jpg")
    assert not read_mask(tmp_path / "low.jpg", (16, 16)).any()
    assert read_mask(tmp_path / "high.jpg", (16, 16)).all()


def test_a_mask_of_other_proportions_is_refused(tmp_path):
    Image.new("L", (100, 100)).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", (100, 101)).shape == (100, 101)
    with pytest.raises(BadAnnotation, match="proportions"):
        read_mask(tmp_path / "mask.png", (100, 103))


def test_what_is_no_mask_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("words")
    Image.effect_noise((100, 100), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    for name in ("text.png", "cut.png"):
        with pytest.raises(BadAnnotation, match=name):
            read_mask(tmp_path / name, (100, 100))


@pytest.mark.real_data
def test_outlines_of_camelyon17(shared_data):
    outlines = read_outlines(shared_data / "camelyon17" / "patient_004_node_4.xml")
    assert [outline.label for outline in outlines] == ["Tumor"] * 3
    assert outlines[0].area.bounds == pytest.approx((12597.7002, 88778.1016, 12938.4004, 89160.6016))
    assert sum(outline.area.area for outline in outlines) == pytest.approx(252946.66, abs=0.01)
    mask = rasterise(outlines, (3000, 800), 32.0)
    assert mask.sum() * 32**2 == pytest.approx(252946.66, rel=0.02)


@pytest.mark.real_data
def test_mask_of_a_real_crop(shared_data):
    mask = read_mask(min((shared_data / "camelyon_tumour" / "masks").iterdir()), (128, 128))
    assert mask.mean() == pytest.approx(0.494, abs=0.001)
