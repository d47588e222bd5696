"""Outlines and masks from QuPath, ASAP and image files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from PIL import Image
from shapely import MultiPolygon, Polygon, box
from shapely.geometry import mapping

from digipath.annotation import Outline, rasterise, read_mask, read_outlines
from digipath.errors import BadAnnotation

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [100, 0], [100, 80], [0, 80], [0, 0]]]}
RING = {"type": "Polygon", "coordinates": [*SQUARE["coordinates"], [[20, 20], [60, 20], [60, 60], [20, 60], [20, 20]]]}
PAIR = {"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"], [[[200, 0], [210, 0], [210, 10], [200, 0]]]]}
FEATURE = {"type": "Feature", "properties": {"classification": {"name": "Tumour"}}, "geometry": RING}


def whole(path, shape):
    """A mask laid over a slide of `shape` (rows, columns), at level 0."""
    return read_mask(path, shape[::-1], shape, 1.0)


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


@pytest.mark.parametrize(
    ("properties", "label"),
    [
        ({"classification": "Tumor"}, "Tumor"),
        ({"classification": {"names": ["Stroma", "CD3"]}}, "Stroma: CD3"),
        ({"classification": {"name": "Positive", "parentClass": {"name": "Stroma"}}}, "Stroma: Positive"),
        ({"classification": {"name": "Tumor", "color": [200, 0, 0]}, "name": "my area"}, "Tumor"),
        ({"classification": None, "objectType": "annotation"}, ""),
    ],
)
def test_classes_of_several_parts_keep_all_of_them(tmp_path, properties, label):
    (outline,) = read_outlines(geojson(tmp_path, {**FEATURE, "properties": properties}))
    assert outline.label == label


@pytest.mark.parametrize("kind", [{"color": [1, 2, 3]}, {"name": 3}, {"names": ["a", None]}, 7])
def test_a_class_without_a_name_is_refused(tmp_path, kind):
    with pytest.raises(BadAnnotation, match="a classification without a name"):
        read_outlines(geojson(tmp_path, {**FEATURE, "properties": {"classification": kind}}))


def test_objects_inside_others_are_read_and_detections_left_out(tmp_path):
    child = {**FEATURE, "geometry": SQUARE, "properties": {"classification": {"name": "Stroma"}}}
    cell = {**FEATURE, "properties": {"objectType": "cell", "childObjects": [child]}}
    parent = {**FEATURE, "properties": {**FEATURE["properties"], "childObjects": [child, cell]}}
    found = [(outline.label, outline.area.area) for outline in read_outlines(geojson(tmp_path, [parent]))]
    assert found == [("Tumour", 6400), ("Stroma", 8000), ("Stroma", 8000)]


@pytest.mark.parametrize("kind", ["MultiPolygon", "GeometryCollection"])
def test_parts_that_overlap_are_joined(tmp_path, kind):
    squares = [mapping(box(0, 0, 100, 100)), mapping(box(50, 50, 150, 150))]
    if kind == "MultiPolygon":
        content = {"type": kind, "coordinates": [square["coordinates"] for square in squares]}
    else:
        content = {"type": kind, "geometries": squares}
    (outline,) = read_outlines(geojson(tmp_path, content))
    assert outline.area.is_valid
    assert outline.area.area == 17_500


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
<Annotation Name="c" Type="Polygon" PartOfGroup="Tumor"><Coordinates>
<Coordinate Order="0" X="5" Y="5"/><Coordinate Order="1" X="6" Y="5"/></Coordinates></Annotation>
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
        '{"type": "Feature", "geometry": null}',
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
        whole(tmp_path / "nope.png", (5, 5))


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
    np.testing.assert_array_equal(whole(tmp_path / f"mask.{suffix}", (40, 60)), truth)
    np.testing.assert_array_equal(whole(tmp_path / f"mask.{suffix}", (80, 120)), truth.repeat(2, 0).repeat(2, 1))


def test_jpeg_masks_are_cut_in_the_middle(tmp_path):
    Image.fromarray(np.full((16, 16), 100, np.uint8)).save(tmp_path / "low.jpg")
    Image.fromarray(np.full((16, 16), 200, np.uint8)).save(tmp_path / "high.jpg")
    assert not whole(tmp_path / "low.jpg", (16, 16)).any()
    assert whole(tmp_path / "high.jpg", (16, 16)).all()


@pytest.mark.parametrize(
    ("size", "fits"),
    [
        ((6000, 4000), True),
        ((6001, 4000), True),  # by rounding
        ((3000, 2000), True),
        ((1500, 1001), True),
        ((188, 125), True),  # 32 times smaller, rounded up
        ((5988, 3992), True),  # resampled from 0.499 to 0.5 µm/px
        ((6144, 4096), False),  # padded to tiles of 512
        ((6000, 4070), False),
        ((5900, 4000), False),  # cut
        ((3000, 2010), False),
        ((12000, 8000), True),  # finer than the slide
    ],
)
def test_a_mask_has_the_slides_size_or_that_times_one_factor(tmp_path, size, fits):
    Image.new("L", size).save(tmp_path / "mask.png")
    if fits:
        assert not whole(tmp_path / "mask.png", (4000, 6000)).any()
        return
    with pytest.raises(BadAnnotation, match=rf"size \(6000 × 4000\).*received {size[0]} × {size[1]}.*mask\.png"):
        whole(tmp_path / "mask.png", (4000, 6000))


WHITE, RED, BLACK = (255, 255, 255), (255, 0, 0), (0, 0, 0)


@pytest.mark.parametrize(
    ("coded", "named"),
    [
        (lambda truth: Image.fromarray(np.where(truth, 2, 1).astype(np.uint8)), "1 and 2"),
        (lambda truth: Image.fromarray(np.add(truth, truth[::-1], dtype=np.uint8)), "1 and 2"),
        (lambda truth: Image.fromarray(np.where(truth[..., None], RED, WHITE).astype(np.uint8)), r"\[255, 255, 255\]"),
        (lambda truth: Image.fromarray(np.arange(truth.size, dtype=np.uint16).reshape(truth.shape)), "1 and 2"),
    ],
    ids=["no background", "two classes", "white background", "a picture"],
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_mask_with_several_values_is_not_guessed_at(tmp_path, coded, named, suffix):
    truth = np.zeros((40, 60), bool)
    truth[5:30, 10:40] = True
    path = tmp_path / f"mask.{suffix}"
    coded(truth).save(path)
    with pytest.raises(BadAnnotation, match=rf"one value besides 0, received {named}.*lesion as 255.*mask\.{suffix}"):
        whole(path, (40, 60))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("palette", [(WHITE, RED), (BLACK, BLACK)])
def test_palettes_count_by_their_numbers(tmp_path, palette, suffix):
    truth = np.zeros((40, 60), np.uint8)
    truth[5:30, 10:40] = 1
    image = Image.frombytes("P", truth.shape[::-1], truth.tobytes())
    image.putpalette([channel for colour in palette for channel in colour])
    image.save(tmp_path / f"mask.{suffix}")
    np.testing.assert_array_equal(whole(tmp_path / f"mask.{suffix}", (40, 60)), truth > 0)


def test_black_on_white_of_a_bit_per_pixel_is_not_guessed_at(tmp_path):
    tifffile.imwrite(tmp_path / "mask.tif", np.eye(64, dtype=bool))
    with pytest.raises(BadAnnotation, match=r"0 is white.*mask\.tif"):
        whole(tmp_path / "mask.tif", (64, 64))


def test_what_is_no_mask_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("words")
    Image.effect_noise((100, 100), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    for name in ("text.png", "cut.png"):
        with pytest.raises(BadAnnotation, match=name):
            whole(tmp_path / name, (100, 100))


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
    mask = read_mask(min((shared_data / "camelyon_tumour" / "masks").iterdir()), (512, 512), (128, 128), 4.0)
    assert mask.mean() == pytest.approx(0.494, abs=0.001)
