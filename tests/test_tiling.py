"""Tiles: which are kept, that no tissue is lost in counting, and how a slide is planned."""

from __future__ import annotations

import json
from fractions import Fraction

import made_up_bags
import numpy as np
import pytest
from PIL import Image

from digipath.errors import BadInput, MissingResolution, ResolutionTooLow
from digipath.grid import tile_lattice
from digipath.slide import open_slide
from digipath.slide_stain import reference
from digipath.stain import REFERENCES
from digipath.synthetic import write_slide
from digipath.tiling import TileRule, plan_tiles, tile_staining, tiles_at
from digipath.tissue import tissue_mask
from digipath.values import BACKGROUND, EXCLUDED, PREDICTED


def filled(shape, count):
    """A mask of so many True pixels, row by row."""
    mask = np.zeros(shape, bool)
    mask.ravel()[:count] = True
    return mask


@pytest.mark.parametrize("side", [1024, 64, 16, 10])
def test_exactly_nine_tenths_are_kept_and_a_pixel_less_is_not(side):
    """One tile, its mask at the working resolution (side 1024) or coarser by up to 100."""
    enough = -(-9 * side**2 // 10)
    shape = (2048, 2048)
    for count, kept in ((enough, True), (enough - 1, False)):
        mask = np.zeros((2 * side, 2 * side), bool)
        mask[:side, side:] = filled((side, side), count)
        tiles = tile_lattice(mask, shape, 1024)
        np.testing.assert_array_equal(tiles.kept, [[False, kept], [False, False]])
        assert tiles.share[0, 1] == pytest.approx(count / side**2, abs=1e-7)


@pytest.mark.parametrize("overview_rows", [3, 151, 64, 701, 999])
def test_a_share_is_enough_by_itself_where_overview_pixels_and_tiles_do_not_align(overview_rows):
    """Seven tiles of 100 px under overview rows that straddle their borders, counted in fractions."""
    side, count = 100, 7
    tissue = np.random.default_rng(overview_rows).random(overview_rows) < 0.9
    row_px = Fraction(side * count, overview_rows)
    for tile in range(count):
        rows = np.flatnonzero(tissue).tolist()
        inside = (min((r + 1) * row_px, (tile + 1) * side) - max(r * row_px, tile * side) for r in rows)
        share = float(sum(max(Fraction(0), length) for length in inside) / side)
        if share > 0:
            mask = np.repeat(tissue[:, None], 5, axis=1)
            for least, kept in ((share, True), (share + 1e-7, False)):
                if least <= 1:
                    tiles = tile_lattice(mask, (side * count, 3 * side), side, least_tissue=least)
                    assert tiles.kept[tile].tolist() == [kept] * 3


@pytest.mark.parametrize("seed", range(8))
def test_a_border_inside_an_overview_pixel_is_cut_where_it_lies(seed):
    """Against the mask enlarged to the working resolution by a whole factor, then summed tile by tile."""
    rng = np.random.default_rng(seed)
    factor = int(rng.integers(2, 9))
    mask = rng.random(rng.integers(1, 40, 2)) < rng.random()
    shape = tuple(factor * n for n in mask.shape)
    side = int(rng.integers(1, 50))
    fine = np.kron(mask, np.ones((factor, factor)))
    tiles = tile_lattice(mask, shape, side)
    area = shape[0] * shape[1] if max(shape) <= side else side**2
    rows, columns = (range(0, n, side) for n in shape)
    expected = [[fine[r : r + side, c : c + side].sum() / area for c in columns] for r in rows]
    np.testing.assert_allclose(tiles.share, expected, atol=1e-6)
    np.testing.assert_array_equal(tiles.tissue_px, np.rint(np.multiply(expected, area)))


@pytest.mark.parametrize("seed", range(20))
def test_no_tissue_is_lost_and_none_is_counted_twice(seed):
    """Any overview over any slide: areas of tiles sum to the area of the mask."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 5000, 2))
    mask = rng.random(rng.integers(1, 200, 2)) < rng.random()
    side = int(rng.integers(1, 1500)) if seed % 4 else 5000
    tiles = tile_lattice(mask, shape, max(side, 30))
    expected = mask.mean() * shape[0] * shape[1]
    whole = shape[0] * shape[1] if max(shape) <= tiles.tile_px else tiles.tile_px**2
    assert tiles.share.astype(float).sum() * whole == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert tiles.tissue_px.sum() == pytest.approx(expected, rel=1e-4, abs=0.51 * tiles.share.size)
    assert tiles.share.min() >= 0
    assert tiles.share.max() <= 1 + 1e-6


def test_tiles_that_stick_out_hold_no_tissue_beyond_the_slide():
    tiles = tile_lattice(np.ones((19, 25), bool), (1900, 2500), 1000)
    np.testing.assert_allclose(tiles.share, [[1, 1, 0.5], [0.9, 0.9, 0.45]], atol=1e-6)
    np.testing.assert_array_equal(tiles.kept, [[1, 1, 0], [1, 1, 0]])
    np.testing.assert_array_equal(tiles.starts_px, [[0, 0], [0, 1000], [1000, 0], [1000, 1000]])
    np.testing.assert_array_equal(tiles.wanted, [[PREDICTED] * 2 + [EXCLUDED]] * 2)
    assert not tile_lattice(np.ones((1, 1), bool), (1899, 2500), 1000).kept[1].any()


@pytest.mark.parametrize("shape", [(1024, 1024), (300, 200), (1, 1), (1024, 7)])
def test_a_slide_within_one_tile_is_judged_by_its_own_size(shape):
    whole = tile_lattice(np.ones((3, 3), bool), shape, 1024)
    assert (whole.share.tolist(), whole.kept.tolist()) == ([[1.0]], [[True]])
    assert whole.tissue_px.tolist() == [[shape[0] * shape[1]]]
    part = tile_lattice(filled((10, 10), 89), shape, 1024)
    assert part.wanted.tolist() == [[EXCLUDED]]
    assert tile_lattice(filled((10, 10), 90), shape, 1024).kept.all()


def test_no_tissue_is_background_and_keeps_no_tile():
    tiles = tile_lattice(np.zeros((5, 5), bool), (500, 700), 100, mpp=0.5)
    assert len(tiles) == len(tiles.grid) == 0
    assert (tiles.wanted == BACKGROUND).all()
    assert tiles.grid.map_shape == (5, 7)


def test_the_grid_has_a_pixel_for_each_tile():
    tiles = tile_lattice(np.tri(4, dtype=bool), (400, 400), 100, mpp=0.5)
    assert (tiles.grid.map_shape, tiles.grid.patch_px, tiles.grid.map_mpp) == ((4, 4), (1, 1), 50)
    np.testing.assert_array_equal(tiles.grid.starts_px, np.argwhere(np.tri(4)))
    np.testing.assert_array_equal(tiles.starts_px, 100 * tiles.cells)


@pytest.mark.parametrize("least", [0, -0.1, 1.1, float("nan")])
def test_a_share_outside_0_to_1_is_refused(least):
    with pytest.raises(BadInput, match=r"share of tissue in \(0, 1\]"):
        tile_lattice(np.ones((2, 2), bool), (20, 20), 10, least_tissue=least)
    with pytest.raises(BadInput, match=r"share of tissue in \(0, 1\]"):
        TileRule(0.5, least_tissue=least).check()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (TileRule(0.5, 0), "at least one pixel, got 0"),
        (TileRule(0.0), "mpp above 0"),
        (TileRule(float("inf")), "mpp above 0"),
        (TileRule(float("nan")), "mpp above 0"),
        (TileRule(0.5, tissue="nowhere.png"), "mask or outline file, got 'nowhere.png'"),
    ],
)
def test_rules_that_cannot_be_are_one_line(small_slide, rule, message):
    with open_slide(small_slide.path) as source, pytest.raises(BadInput, match=message) as caught:
        plan_tiles(source, rule)
    assert "\n" not in str(caught.value)
    if rule.tile_px < 1:
        with pytest.raises(BadInput, match=message):
            tile_lattice(np.ones((2, 2), bool), (20, 20), rule.tile_px)


@pytest.mark.parametrize(("mpp", "shape_px"), [(0.3, (1833, 2500)), (0.83, (663, 904))])
def test_tiles_of_a_slide_hold_its_tissue_at_any_resolution(small_slide, mpp, shape_px):
    with open_slide(small_slide.path) as source:
        plan = plan_tiles(source, TileRule(mpp, 128, 0.5))
    tiles = plan.tiles
    assert (tiles.shape_px, tiles.mpp, plan.read_mpp) == (shape_px, pytest.approx(mpp), pytest.approx(mpp))
    found = tissue_mask(plan.overview.image, um_per_px=plan.overview.mpp).mask
    assert 0.05 < found.mean() < 0.95
    assert tiles.tissue_px.sum() * mpp**2 == pytest.approx(found.mean() * 1500 * 1100 * 0.5**2, rel=1e-3)
    assert (tiles.share[tiles.kept] >= 0.5).all()
    assert (tiles.share[~tiles.kept] < 0.5).all()


def test_a_crop_is_all_tissue_and_a_large_picture_is_searched(tmp_path):
    pale = np.full((600, 800, 3), (243, 242, 244), np.uint8)
    Image.fromarray(pale).save(tmp_path / "image.png")
    with open_slide(tmp_path / "image.png", mpp=0.5) as crop:
        assert plan_tiles(crop, TileRule(0.5, 200)).tiles.kept.all()
    with open_slide(tmp_path / "image.png", mpp=2.6) as large:  # 800 × 2.6 µm: more than 2 mm
        assert not plan_tiles(large, TileRule(2.6, 200)).has_tissue
        assert plan_tiles(large, TileRule(2.6, 200, tissue="all")).tiles.kept.all()


def test_an_image_smaller_than_a_tile_is_one_tile_and_told(tmp_path):
    Image.new("RGB", (300, 200), (180, 100, 160)).save(tmp_path / "image.png")
    with open_slide(tmp_path / "image.png", mpp=0.5) as source:
        plan = plan_tiles(source, TileRule(0.5))
    assert plan.tiles.kept.tolist() == [[True]]
    assert len(plan.notes) == 1
    assert "(300 × 200 px) is smaller than a tile of 1024 px and is completed by its mirror image" in plan.notes[0]
    assert plan.tiles.tissue_px.tolist() == [[60000]]


def test_white_tiles_are_counted_pixel_by_pixel(tmp_path):
    """Four tiles with 24, 25, 26 and 100 % of pixels that are not white; a quarter is enough."""
    glass = np.full((100, 400, 3), 255, np.uint8)
    for tile, columns in enumerate((24, 25, 26, 100)):
        glass[:, 100 * tile : 100 * tile + columns] = (160, 80, 140)
    Image.fromarray(glass).save(tmp_path / "image.png")
    with open_slide(tmp_path / "image.png", mpp=0.5) as source:
        plan = plan_tiles(source, TileRule(0.5, 100, 0.25, "white-tiles"))
    np.testing.assert_allclose(plan.tiles.share, [[0.24, 0.25, 0.26, 1]], atol=1e-6)
    assert plan.tiles.kept.tolist() == [[False, True, True, True]]


def test_tissue_comes_from_outlines_or_a_mask_on_request(tmp_path, small_slide):
    box = [[512, 256], [1024, 256], [1024, 768], [512, 768], [512, 256]]
    outline = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [box]}, "properties": {}}
    (tmp_path / "here.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [outline]}))
    mask = np.zeros((1100, 1500), np.uint8)
    mask[256:768, 512:1024] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for name in ("here.geojson", "mask.png"):
        with open_slide(small_slide.path) as source:
            plan = plan_tiles(source, TileRule(0.5, 256, tissue=str(tmp_path / name)))
        np.testing.assert_array_equal(plan.tiles.cells, [[1, 2], [1, 3], [2, 2], [2, 3]])
        assert plan.tiles.tissue_px.sum() == pytest.approx(512**2, rel=0.02)
        assert plan.notes == (f"Tissue as drawn in {name}.",)


def test_what_is_too_coarse_or_unknown_is_refused_and_what_is_enlarged_is_told(tmp_path):
    Image.new("RGB", (300, 300), (180, 100, 160)).save(tmp_path / "image.png")
    with open_slide(tmp_path / "image.png") as source, pytest.raises(MissingResolution, match="--mpp"):
        plan_tiles(source, TileRule(0.5))
    with open_slide(tmp_path / "image.png", mpp=1.01) as source, pytest.raises(ResolutionTooLow, match=r"1\.01 µm/px"):
        plan_tiles(source, TileRule(0.5))
    with open_slide(tmp_path / "image.png", mpp=1.0) as source:
        plan = plan_tiles(source, TileRule(0.5, 256))
        assert plan.tiles.shape_px == (600, 600)
        assert plan.notes == ("The slide (1 µm/px) is coarser than 0.5 µm/px and was enlarged.",)
        plan = plan_tiles(source, TileRule(0.5, 256), at_mpp=1.0)
        assert plan.tiles.shape_px == (300, 300)
        assert plan.notes == ("The network was trained at 0.5 µm/px and runs at 1 µm/px, as asked.",)


def test_without_a_resolution_tiles_are_cut_at_level_0_as_it_is(tmp_path):
    Image.new("RGB", (500, 300), (180, 100, 160)).save(tmp_path / "image.png")
    with open_slide(tmp_path / "image.png") as source:
        plan = plan_tiles(source, TileRule(None, 100, tissue="all"))
    assert (plan.read_mpp, plan.tiles.mpp, plan.tiles.kept.shape) == (None, None, (3, 5))


def test_a_stain_that_cannot_be_fitted_is_one_line(tmp_path):
    Image.new("RGB", (600, 600), (255, 255, 255)).save(tmp_path / "white.png")
    target = reference("macenko", mpp=0.5)
    with open_slide(tmp_path / "white.png", mpp=0.5) as source, pytest.raises(BadInput, match="--stain none"):
        plan_tiles(source, TileRule(0.5, 200, tissue="all"), stain=target)


@pytest.mark.parametrize("tissue", ["auto", "all", "white-tiles"])
def test_the_staining_of_tiles_is_that_of_their_plan(small_slide, tissue):
    rule = TileRule(1.0, 64, tissue=tissue)
    with open_slide(small_slide.path) as source:
        planned = plan_tiles(source, rule, stain=REFERENCES["macenko"]).staining
        assert tile_staining(source, rule, REFERENCES["macenko"]) == planned
        assert planned.target == REFERENCES["macenko"]
        assert tile_staining(source, rule, None) is None


def test_a_stain_must_be_possible_at_each_resolution(tmp_path):
    """100 px at 0.5 µm/px are 25 px at 2 µm/px, where 625 pixels are stained, and 13 px at 4 µm/px: 169."""
    Image.fromarray(made_up_bags.tissue(100, 1, 0)).save(tmp_path / "small.png")
    with open_slide(tmp_path / "small.png", mpp=0.5) as source:
        rule = TileRule(0.5, 8, tissue="all")
        assert len(tiles_at(source, rule, [0.5, 2.0], stain=REFERENCES["reinhard"])) == 2
        with pytest.raises(BadInput, match=r"at least 500 stained pixels.*in a training leave the slide out or set "):
            tiles_at(source, rule, [0.5, 2.0, 4.0], stain=REFERENCES["reinhard"])


def test_a_slide_of_one_level_is_planned_like_one_of_many(tmp_path):
    plans = []
    for levels in (1, None):
        made = write_slide(tmp_path / f"{levels}.tiff", (600, 500), tile=256, lossless=True, levels=levels)
        with open_slide(made.path) as source:
            plans.append(plan_tiles(source, TileRule(0.5, 64, 0.5)).tiles)
    np.testing.assert_allclose(plans[0].share, plans[1].share, atol=0.02)


@pytest.mark.parametrize(("tile_px", "blocks_px"), [(512, {512}), (256, {256}), (384, {256})])
def test_tiles_of_whole_tiles_of_the_file_are_decoded_at_once(small_slide, monkeypatch, tile_px, blocks_px):
    """The file has tiles of 256 px; others are decoded in blocks of the file's own."""
    with open_slide(small_slide.path) as slide:
        plan = plan_tiles(slide, TileRule(None, tile_px, 0.01, "all"))
        read, seen = slide.read_block, []

        def logged(row, column, rows, columns, *, mpp):
            seen.append(rows)
            return read(row, column, rows, columns, mpp=mpp)

        monkeypatch.setattr(slide, "read_block", logged)
        plan.reader(slide)((0, 0))
    assert set(seen) == blocks_px
    assert len(seen) == (1 if tile_px != 384 else 4)
