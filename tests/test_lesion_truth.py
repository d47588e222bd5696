"""Lesions of a slide, from outlines and mask images, in windows at any resolution."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image
from shapely import MultiPolygon, Polygon, box
from shapely.geometry import mapping

from digipath.annotation import Labels, open_lesions, read_mask, read_outlines
from digipath.errors import BadAnnotation, BadInput


def write_outlines(path, *outlines):
    """(label, geometry) pairs as GeoJSON."""
    features = [
        {"type": "Feature", "properties": {"classification": {"name": label}}, "geometry": mapping(area)}
        for label, area in outlines
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def blob(rng, centre, radius, corners=60):
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    length = radius * rng.uniform(0.4, 1.0, corners)
    return np.stack([centre[0] + length * np.cos(angles), centre[1] + length * np.sin(angles)], axis=1)


def random_lesions(seed, size=(2000, 1500)):
    """Overlapping polygons with holes, large and tiny, and areas cut out of them."""
    rng = np.random.default_rng(seed)
    outlines = []
    for _ in range(12):
        radius = rng.choice([4, 40, 400])
        centre = rng.uniform((radius, radius), np.array(size) - radius)
        hole = blob(rng, centre, radius * 0.3, 12)
        area = Polygon(blob(rng, centre, radius)).buffer(0).difference(Polygon(hole).buffer(0))
        outlines.append(("_2" if rng.random() < 0.2 else "Tumor", area))
    return outlines


def blocks_of(mask, cell):
    """Whether any pixel of each cell is True, the last cells cut at the border."""
    rows, cols = -(-mask.shape[0] // cell), -(-mask.shape[1] // cell)
    padded = np.zeros((rows * cell, cols * cell), bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return padded.reshape(rows, cell, cols, cell).any(axis=(1, 3))


@pytest.mark.parametrize("downsample", [1.0, 3.7, 16.0, 90.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_window_of_outlines_is_that_window_of_the_whole(tmp_path, seed, downsample):
    path = write_outlines(tmp_path / "a.geojson", *random_lesions(seed))
    rng = np.random.default_rng(seed)
    with open_lesions(path, (2000, 1500)) as lesions:
        rows, cols = int(1500 / downsample), int(2000 / downsample)
        whole = lesions.read_block(0, 0, rows, cols, downsample=downsample)
        assert 0 < whole.mean() < 1
        for _ in range(25):
            row, col = int(rng.integers(rows)), int(rng.integers(cols))
            window = lesions.read_block(row, col, min(97, rows - row), min(64, cols - col), downsample=downsample)
            np.testing.assert_array_equal(window, whole[row : row + 97, col : col + 64])


@pytest.mark.parametrize("seed", range(3))
def test_pixels_are_lesion_where_their_centres_are(tmp_path, seed):
    outlines = random_lesions(seed)
    positive = shapely.union_all([area for label, area in outlines if label == "Tumor"])
    negative = shapely.union_all([area for label, area in outlines if label == "_2"])
    lesions = open_lesions(write_outlines(tmp_path / "a.geojson", *outlines), (2000, 1500))
    rows, cols = np.random.default_rng(seed).integers((0, 0), (375, 500), (2000, 2)).T
    expected = shapely.contains_xy(positive.difference(negative), (cols + 0.5) * 4, (rows + 0.5) * 4)
    whole = lesions.read_block(0, 0, 375, 500, downsample=4.0)
    assert (whole[rows, cols] == expected).all()


def test_a_window_beyond_the_slide_holds_nothing(tmp_path):
    lesions = open_lesions(write_outlines(tmp_path / "a.geojson", ("", box(0, 0, 100, 100))), (100, 100))
    window = lesions.read_block(-5, -5, 110, 110, downsample=1.0)
    expected = np.zeros((110, 110), bool)
    expected[5:105, 5:105] = True
    np.testing.assert_array_equal(window, expected)


def test_negative_outlines_and_holes_are_cut_out(tmp_path):
    ring = box(0, 0, 60, 60).difference(box(10, 10, 20, 20))
    path = write_outlines(
        tmp_path / "a.geojson", ("Tumor", MultiPolygon([ring, box(70, 0, 80, 10)])), ("Stroma", box(30, 30, 40, 50))
    )
    mask = open_lesions(path, (100, 100)).read_block(0, 0, 100, 100, downsample=1.0)
    assert mask.sum() == 3600 - 100 + 100 - 200
    assert not mask[10:20, 10:20].any()
    assert not mask[30:50, 30:40].any()
    assert mask[0:10, 70:80].all()


def test_overlapping_outlines_count_once(tmp_path):
    path = write_outlines(tmp_path / "a.geojson", ("Tumor", box(0, 0, 20, 20)), ("_1", box(10, 10, 30, 30)))
    assert open_lesions(path, (40, 40)).read_block(0, 0, 40, 40, downsample=1.0).sum() == 700


def test_a_lesion_between_pixel_centres_keeps_one_pixel_in_whichever_window(tmp_path):
    path = write_outlines(tmp_path / "a.geojson", ("Tumor", box(641, 321, 645, 324)))
    lesions = open_lesions(path, (2000, 1500))
    assert lesions.read_block(0, 0, 46, 62, downsample=32.0).sum() == 1
    assert lesions.read_block(10, 20, 1, 1, downsample=32.0).item()
    assert not lesions.read_block(0, 0, 10, 62, downsample=32.0).any()


@pytest.mark.parametrize("cell", [1, 7, 64, 500, 4000])
@pytest.mark.parametrize("seed", range(3))
def test_no_cell_with_an_outlined_lesion_is_missed(tmp_path, seed, cell):
    outlines = random_lesions(seed)
    lesions = open_lesions(write_outlines(tmp_path / "a.geojson", *outlines), (2000, 1500))
    full = blocks_of(lesions.read_block(0, 0, 1500, 2000, downsample=1.0), cell)
    found = lesions.anywhere(cell)
    assert found.shape == full.shape
    assert not (full & ~found).any()
    assert lesions.anywhere(cell) is found
    # nor are cells marked that no lesion comes near
    area = shapely.union_all([area for label, area in outlines if label == "Tumor"])
    shapely.prepare(area)
    rows, cols = np.nonzero(found)
    some = np.random.default_rng(0).integers(len(rows), size=300)
    boxes = shapely.box(cols[some] * cell, rows[some] * cell, (cols[some] + 1) * cell, (rows[some] + 1) * cell)
    assert shapely.dwithin(area, boxes, cell / 2).all()


def test_thousands_of_vertices_are_read_fast(tmp_path):
    angles = np.linspace(0, 2 * np.pi, 50_000, endpoint=False)
    length = 30_000 + 2_000 * np.sin(angles * 997)
    star = Polygon(np.stack([50_000 + length * np.cos(angles), 50_000 + length * np.sin(angles)], axis=1))
    small = [("Tumor", box(x, y, x + 60, y + 60)) for x in range(100, 99_000, 1500) for y in range(100, 15_000, 1500)]
    lesions = open_lesions(write_outlines(tmp_path / "a.json", ("Tumor", star), *small), (100_000, 100_000))
    tracemalloc.start()
    windows = [lesions.read_block(row, 40_000, 256, 256, downsample=2.0) for row in range(24_000, 26_000, 40)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len({window.mean() for window in windows}) > 20
    assert peak < 60e6
    assert lesions.anywhere(128).shape == (782, 782)


PYRAMIDS = {"tile": (64, 64), "compression": "zlib", "photometric": "minisblack"}


def write_pyramid(path, mask, levels=3, **options):
    """A tiled TIFF whose levels are made by leaving out pixels, as scanners' masks are."""
    with tifffile.TiffWriter(path) as file:
        for level in range(levels):
            file.write(
                mask[:: 2**level, :: 2**level].astype(np.uint8),
                subfiletype=1 if level else 0,
                metadata=None,
                **{**PYRAMIDS, **options},
            )
    return path


def random_mask(seed=0, shape=(600, 800)):
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    for _ in range(10):
        row, col = rng.integers((0, 0), shape)
        mask[row : row + rng.integers(1, 90), col : col + rng.integers(1, 90)] = True
    return mask


@pytest.mark.parametrize("kind", ["png", "pyramid", "flat.tif", "strips.tif"])
@pytest.mark.parametrize("downsample", [0.5, 1.0, 2.0, 2.7, 4.0, 40.0])
def test_a_window_of_a_mask_is_that_window_of_the_whole(tmp_path, kind, downsample):
    mask = random_mask()
    path = tmp_path / f"mask.{kind.replace('pyramid', 'tif')}"
    if kind == "pyramid":
        write_pyramid(path, mask)
    elif kind == "strips.tif":
        tifffile.imwrite(path, mask.astype(np.uint8), rowsperstrip=7, compression="lzw")
    else:
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    rows, cols = round(600 / downsample), round(800 / downsample)
    with open_lesions(path, (800, 600)) as lesions:
        whole = lesions.read_block(0, 0, rows, cols, downsample=downsample)
        for row, col in np.random.default_rng(1).integers((0, 0), (rows, cols), (15, 2)):
            window = lesions.read_block(row, col, min(50, rows - row), min(30, cols - col), downsample=downsample)
            np.testing.assert_array_equal(window, whole[row : row + 50, col : col + 30])
    if downsample <= 1:
        np.testing.assert_array_equal(whole, mask.repeat(int(1 / downsample), 0).repeat(int(1 / downsample), 1))
    elif downsample in (2, 4):  # the pixels under the centres, whatever coarser levels say
        step = int(downsample)
        np.testing.assert_array_equal(whole, mask[step // 2 :: step, step // 2 :: step])


@pytest.mark.parametrize("factor", [0.25, 1, 4])
@pytest.mark.parametrize("cell", [1, 10, 64, 5000])
def test_no_cell_with_a_masked_lesion_is_missed(tmp_path, cell, factor):
    """At a quarter of the mask's resolution, at its own, and where the mask is coarser than the slide."""
    mask = random_mask(3)
    size = (int(800 * factor), int(600 * factor))
    write_pyramid(tmp_path / "tiled.tif", mask)
    Image.fromarray(mask).save(tmp_path / "flat.png")
    fine = mask.repeat(4, 0).repeat(4, 1) if factor == 4 else mask
    expected = blocks_of(fine, cell if factor >= 1 else cell * 4)
    for name in ("tiled.tif", "flat.png"):
        with open_lesions(tmp_path / name, size) as lesions:
            np.testing.assert_array_equal(lesions.anywhere(cell), expected)


def test_one_pixel_that_coarser_levels_lost_is_found(tmp_path):
    mask = np.zeros((600, 800), bool)
    mask[333, 555] = True
    with open_lesions(write_pyramid(tmp_path / "a.tif", mask), (800, 600)) as lesions:
        assert not lesions.read_block(0, 0, 150, 200, downsample=4.0).any()
        assert not lesions.empty
        assert np.argwhere(lesions.anywhere(100)).tolist() == [[3, 5]]


@pytest.mark.parametrize("cell", [3, 11])
def test_cells_that_mask_pixels_straddle_are_all_marked(tmp_path, cell):
    mask = random_mask(5, (60, 80))
    Image.fromarray(mask).save(tmp_path / "coarse.png")  # 10 level-0 pixels per mask pixel
    with open_lesions(tmp_path / "coarse.png", (800, 600)) as lesions:
        expected = blocks_of(mask.repeat(10, 0).repeat(10, 1), cell)
        np.testing.assert_array_equal(lesions.anywhere(cell), expected)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"compression": None}, [0, 1]),
        ({"compression": "lzw"}, [0, 1]),
        ({"compression": "jpeg"}, [9, 240]),
        ({"photometric": "miniswhite"}, [255, 0]),
        ({"photometric": "palette", "colormap": np.stack([np.arange(256, dtype=np.uint16) * 257] * 3)}, [0, 1]),
    ],
)
def test_tiffs_of_any_coding(tmp_path, options, values):
    mask = np.zeros((256, 256), bool)
    mask[64:128, 32:192] = True
    coded = np.array(values, np.uint8)[mask.astype(int)]
    tifffile.imwrite(tmp_path / "a.tif", coded, **{**PYRAMIDS, **options})
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif", (256, 256), (256, 256), 1.0), mask)


def test_tiles_that_a_file_leaves_out_are_empty(tmp_path):
    mask = np.zeros((256, 256), np.uint8)
    mask[10, 20] = mask[100, 200] = 1

    def tiles():
        for row in range(0, 256, 64):
            for col in range(0, 256, 64):
                tile = mask[row : row + 64, col : col + 64]
                yield tile if tile.any() else None

    tifffile.imwrite(tmp_path / "a.tif", tiles(), shape=(256, 256), dtype=np.uint8, **PYRAMIDS)
    with open_lesions(tmp_path / "a.tif", (256, 256)) as lesions:
        np.testing.assert_array_equal(lesions.read_block(0, 0, 256, 256, downsample=1.0), mask > 0)
        assert lesions.anywhere(64).sum() == 2


def test_thumbnails_in_a_mask_file_are_no_levels(tmp_path):
    mask = random_mask(2)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(mask.astype(np.uint8), metadata=None, **PYRAMIDS)
        file.write(np.full((150, 200, 3), 255, np.uint8), photometric="rgb", metadata=None)
        file.write(np.full((100, 400), 255, np.uint8), metadata=None, **PYRAMIDS)
    with open_lesions(tmp_path / "a.tif", (800, 600)) as lesions:
        np.testing.assert_array_equal(lesions.read_block(0, 0, 150, 200, downsample=4.0), mask[2::4, 2::4])


@pytest.mark.parametrize("sub_directories", [0, 1])
def test_averaged_levels_spread_no_lesion(tmp_path, sub_directories):
    mask = np.zeros((600, 800), np.uint8)
    mask[8::40, 8::40] = 255  # single pixels
    mean = mask.reshape(150, 4, 200, 4).mean(axis=(1, 3)).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        file.write(mask, subifds=sub_directories, **PYRAMIDS)
        file.write(mean, subfiletype=1, **PYRAMIDS)
    with open_lesions(tmp_path / "a.ome.tif", (800, 600)) as lesions:
        found = lesions.read_block(0, 0, 150, 200, downsample=4.0)
    assert found.sum() == 0 < (mean > 0).sum()  # no centre lies on one


def test_a_mask_of_50000_squared_is_never_loaded_whole(tmp_path):
    side, tile = 50_000, 512
    lesion = np.zeros((tile, tile), np.uint8)
    lesion[100, 101] = 1
    across = -(-side // tile)

    def tiles():
        for index in range(across * across):
            yield lesion if index in (0, across * 60 + 70) else None

    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, tiles(), shape=(side, side), dtype=np.uint8, tile=(tile, tile), compression="zlib", bigtiff=True
    )
    tracemalloc.start()
    with open_lesions(path, (side, side)) as lesions:
        assert lesions.read_block(60 * tile, 70 * tile, tile, tile, downsample=1.0).sum() == 1
        assert np.argwhere(lesions.anywhere(tile)).tolist() == [[0, 0], [60, 70]]
        assert lesions.read_block(0, 0, 195, 195, downsample=256.0).shape == (195, 195)
    assert tracemalloc.get_traced_memory()[1] < 60e6
    tracemalloc.stop()


def test_threads_see_the_same_lesions(tmp_path):
    mask = random_mask(6)
    with open_lesions(write_pyramid(tmp_path / "a.tif", mask), (800, 600)) as lesions, ThreadPoolExecutor(8) as pool:
        places = np.random.default_rng(0).integers((0, 0), (500, 700), (200, 2)).tolist()
        windows = pool.map(lambda place: lesions.read_block(*place, 100, 100, downsample=1.0), places)
        for (row, col), window in zip(places, windows, strict=True):
            np.testing.assert_array_equal(window, mask[row : row + 100, col : col + 100])


def test_no_annotation_means_no_lesion():
    with open_lesions(None, (1000, 500)) as lesions:
        assert lesions.empty
        assert not lesions.read_block(0, 0, 50, 100, downsample=10.0).any()
        assert lesions.anywhere(300).shape == (2, 4)
        assert not lesions.anywhere(300).any()


@pytest.mark.parametrize("size", [(100, 100), (800, 500), (600, 800)])
def test_a_mask_of_other_size_is_refused(tmp_path, size):
    path = write_pyramid(tmp_path / "mask.tif", random_mask())
    Image.fromarray(random_mask()).save(tmp_path / "mask.png")
    for mask in (path, tmp_path / "mask.png"):
        with pytest.raises(BadAnnotation, match=rf"size \({size[0]} × {size[1]}.*received 800 × 600.*mask\."):
            open_lesions(mask, size)


@pytest.mark.parametrize(
    "area",
    [box(2000, 0, 2100, 100), box(-500, 0, 500, 400), box(1900, 1400, 2002, 1500), box(0, 0, 8000, 6000)],
    ids=["beyond", "half", "2 percent", "other resolution"],
)
def test_outlines_off_the_slide_are_refused(tmp_path, area):
    path = write_outlines(tmp_path / "a.geojson", ("Tumor", box(0, 0, 50, 50)), ("Tumor", area))
    with pytest.raises(BadAnnotation, match=r"outline 2 lies outside.*a\.geojson"):
        open_lesions(path, (2000, 1500))


def test_a_slip_over_the_border_is_accepted_and_cut(tmp_path):
    path = write_outlines(tmp_path / "a.geojson", ("Tumor", box(-0.5, 0, 99.5, 100)))
    mask = open_lesions(path, (200, 100)).read_block(0, -2, 100, 200, downsample=1.0)
    assert not mask[:, :2].any()
    assert mask[:, 2:101].all()


def test_outlines_in_other_units_are_refused(tmp_path):
    path = write_outlines(tmp_path / "a.geojson", ("Tumor", box(0.2, 0.2, 0.5, 0.6)))
    with pytest.raises(BadAnnotation, match="other units"):
        open_lesions(path, (2000, 1500))


@pytest.mark.parametrize(
    ("label", "positive"),
    [
        *((label, True) for label in ("_0", "_1", "Tumor", "metastases", "Tumour ", "", "Positive")),
        *((label, False) for label in ("_2", "Exclusion", "normal", "Stroma", "Other", "NEGATIVE")),
    ],
)
def test_labels_known_without_being_told(tmp_path, label, positive):
    path = write_outlines(tmp_path / "a.geojson", (label, box(0, 0, 50, 50)))
    with open_lesions(path, (100, 100)) as lesions:
        assert lesions.empty is not positive
        assert lesions.read_block(0, 0, 100, 100, downsample=1.0).sum() == (2500 if positive else 0)


def test_a_label_outside_the_classes_is_refused_with_the_known_ones_named(tmp_path):
    path = write_outlines(tmp_path / "a.geojson", ("Tumor", box(0, 0, 5, 5)), ("Necrosis", box(0, 0, 5, 5)))
    with pytest.raises(BadAnnotation, match=r"'tumor'.*'stroma'.*received \['Necrosis'\].*a\.geojson"):
        open_lesions(path, (100, 100))
    own = Labels(positive=("tumor",), negative=("NECROSIS",))
    write_outlines(path, ("Tumor", box(0, 0, 9, 9)), ("Necrosis", box(0, 0, 5, 5)))
    with open_lesions(path, (9, 9), labels=own) as lesions:
        assert lesions.read_block(0, 0, 9, 9, downsample=1.0).sum() == 81 - 25
    with pytest.raises(BadInput, match="both"):
        Labels(positive=("a",), negative=("A",))


def test_what_cannot_be_asked_is_refused(tmp_path):
    lesions = open_lesions(None, (100_000, 100_000))
    for downsample in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(BadInput):
            lesions.read_block(0, 0, 10, 10, downsample=downsample)
    for cell in (0, 1):
        with pytest.raises(BadInput, match="cells"):
            lesions.anywhere(cell)
    lesions.close()
    with pytest.raises(ValueError, match="closed"):
        lesions.anywhere(1000)


def test_a_damaged_tile_ends_in_one_line(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", random_mask())
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"nothing a codec knows")
    with open_lesions(path, (800, 600)) as lesions, pytest.raises(BadAnnotation, match=r"cannot be read.*a\.tif"):
        lesions.read_block(0, 0, 10, 10, downsample=1.0)


def test_a_tiff_in_one_huge_piece_is_refused(tmp_path):
    """Its header alone says so; nothing of it is decoded."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(np.zeros((3, 64, 64), np.uint8), planarconfig="separate", photometric="rgb")
    with pytest.raises(BadAnnotation, match="digipath convert"):
        open_lesions(tmp_path / "a.tif", (64, 64))


def test_lesions_that_are_wholly_cut_out_are_not_taken_for_none(tmp_path):
    path = write_outlines(tmp_path / "a.geojson", ("Tumor", box(10, 10, 20, 20)), ("Stroma", box(0, 0, 50, 50)))
    with pytest.raises(BadAnnotation, match=r"all of them lie within.*\['Stroma'\].*a\.geojson"):
        open_lesions(path, (100, 100))


@pytest.mark.real_data
def test_outlines_of_camelyon17_keep_their_area_at_any_resolution(shared_data):
    path = shared_data / "camelyon17" / "patient_004_node_4.xml"
    assert len(read_outlines(path)) == 3
    true_mm2 = 252946.66 * (0.243e-3) ** 2
    assert true_mm2 == pytest.approx(0.014936, abs=1e-6)
    with open_lesions(path, (97_792, 221_184)) as lesions:
        for downsample, tolerance in ((1, 0.001), (2, 0.001), (4, 0.002), (16, 0.01), (32, 0.02)):
            row, col, rows, cols = (size // downsample for size in (75_200, 10_400, 14_400, 3_200))
            found = lesions.read_block(row, col, rows, cols, downsample=downsample).sum()
            assert found * (downsample * 0.243e-3) ** 2 == pytest.approx(true_mm2, rel=tolerance)


@pytest.mark.real_data
def test_outlines_of_camelyon16_keep_their_area(shared_data, tmp_path):
    with gzip.open(shared_data / "camelyon16_lesions" / "lesions.json.gz") as file:
        slides = json.load(file)
    for name in ("Tumor_001", "Tumor_004", "Tumor_010"):
        chosen = next(key for key in slides if key.casefold() >= name.casefold() and slides[key]["positive"])
        positive, negative = ([Polygon(ring) for ring in slides[chosen][side]] for side in ("positive", "negative"))
        outlines = [("_0", area) for area in positive] + [("_2", area) for area in negative]
        path = write_outlines(tmp_path / f"{chosen}.geojson", *outlines)
        truth = shapely.union_all(shapely.make_valid(positive)).difference(
            shapely.union_all(shapely.make_valid(negative))
        )
        with open_lesions(path, (150_000, 250_000)) as lesions:
            for downsample, tolerance in ((16, 0.02), (32, 0.03)):
                left, top, right, bottom = (int(bound // downsample) for bound in truth.bounds)
                mask = lesions.read_block(top, left, bottom - top + 1, right - left + 1, downsample=downsample)
                assert mask.sum() * downsample**2 == pytest.approx(truth.area, rel=tolerance)
