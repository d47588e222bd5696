"""Tiles as they are read: the slide's own pixels, each block decoded once, and what cannot be read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from digipath.engine.reader import TileReader
from digipath.grid import tile_lattice
from digipath.slide import open_slide
from digipath.synthetic import write_slide
from digipath.synthetic.bigtiff import corrupt_tiles
from digipath.tiling import TileRule, plan_tiles
from digipath.values import Tiles


def frame(rng, shape):
    return rng.integers(0, 256, (*shape, 3), np.uint8)


def reading(pixels, failed=None, log=None):
    def read_block(row, column, rows, columns):
        assert rows > 0
        assert columns > 0
        assert row + rows <= len(pixels)
        assert column + columns <= pixels.shape[1]
        if log is not None:
            log.append((row, column))
        box = np.s_[row : row + rows, column : column + columns]
        bad = None if failed is None or not failed[box].any() else failed[box]
        return pixels[box], bad

    return read_block


def tiles_of(shape, side, kept=None):
    whole = tile_lattice(np.ones((1, 1), bool), shape, side, least_tissue=1e-9)
    return whole if kept is None else Tiles(whole.shape_px, side, whole.share, whole.kept & kept)


@pytest.mark.parametrize("seed", range(12))
def test_tiles_are_the_frame_and_each_block_is_decoded_once(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 300, 2))
    side, block = int(rng.integers(1, 90)) + 20, int(rng.choice([7, 16, 64, 500]))
    pixels, log = frame(rng, shape), []
    tiles = tiles_of(shape, side)
    read = TileReader(reading(pixels, log=log), tiles, block_px=block)
    for row, column in tiles.cells.tolist():
        patch = read((row, column))
        inside = pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]
        assert (patch.start_px, patch.valid, patch.pixels.shape) == ((row, column), None, (side, side, 3))
        np.testing.assert_array_equal(patch.pixels[: inside.shape[0], : inside.shape[1]], inside)
        mirrored = np.pad(inside, [(0, side - inside.shape[0]), (0, side - inside.shape[1]), (0, 0)], mode="symmetric")
        np.testing.assert_array_equal(patch.pixels, mirrored)
    assert len(log) == len(set(log)) == -(-shape[0] // block) * -(-shape[1] // block)


def test_only_blocks_under_kept_tiles_are_read():
    pixels, log = frame(np.random.default_rng(0), (400, 400)), []
    kept = np.zeros((4, 4), bool)
    kept[1, 2] = kept[3, 0] = True
    tiles = tiles_of((400, 400), 100, kept)
    read = TileReader(reading(pixels, log=log), tiles, block_px=50)
    for cell in tiles.cells.tolist():
        np.testing.assert_array_equal(read(tuple(cell)).pixels, pixels[cell[0] * 100 :, cell[1] * 100 :][:100, :100])
    assert sorted(log) == [(100, 200), (100, 250), (150, 200), (150, 250), (300, 0), (300, 50), (350, 0), (350, 50)]


def test_a_resumed_reader_reads_nothing_above_its_row():
    pixels, log = frame(np.random.default_rng(0), (400, 200)), []
    tiles = tiles_of((400, 200), 100)
    read = TileReader(reading(pixels, log=log), tiles, rows_done=2, block_px=80)
    for cell in tiles.cells[tiles.cells[:, 0] >= 2].tolist():
        np.testing.assert_array_equal(read(tuple(cell)).pixels, pixels[cell[0] * 100 :, cell[1] * 100 :][:100, :100])
    assert min(row for row, _ in log) == 160
    assert len(log) == len(set(log))


def test_four_threads_get_the_same_tiles_from_blocks_that_are_decoded_once():
    pixels, log = frame(np.random.default_rng(1), (700, 900)), []
    tiles = tiles_of((700, 900), 64)
    read = TileReader(reading(pixels, log=log), tiles, block_px=100)
    with ThreadPoolExecutor(4) as pool:
        patches = list(pool.map(read, [tuple(cell) for cell in tiles.cells.tolist()]))
    for patch in patches:
        row, column = (64 * index for index in patch.start_px)
        inside = pixels[row : row + 64, column : column + 64]
        np.testing.assert_array_equal(patch.pixels[: len(inside), : inside.shape[1]], inside)
    assert len(log) == len(set(log)) == 63


@pytest.mark.parametrize(("lost", "readable"), [(1, True), (1000, True), (1001, False), (10000, False)])
def test_a_tenth_may_be_unreadable_and_not_a_pixel_more(lost, readable):
    """A tile of 100 × 100 px."""
    pixels = np.full((100, 100, 3), (200, 100, 50), np.uint8)
    failed = np.zeros(10000, bool)
    failed[:lost] = True
    failed = failed.reshape(100, 100)
    pixels[failed] = 0  # as a slide gives them
    patch = TileReader(reading(pixels, failed), tiles_of((100, 100), 100), block_px=25)((0, 0))
    assert patch.pixels.shape == (100, 100, 3)
    if readable:
        assert patch.valid is None
        assert (patch.pixels == (200, 100, 50)).all(), "what was lost is filled with the mean colour"
    else:
        assert patch.valid.shape == (1, 1)
        assert not patch.valid.any()


@pytest.mark.parametrize(("lost", "readable"), [(50, True), (51, False)])
def test_a_tile_that_sticks_out_is_judged_by_what_lies_on_the_slide(lost, readable):
    """A tile of 100 × 100 px of which 100 × 5 px are on the slide."""
    pixels, failed = np.full((100, 5, 3), 90, np.uint8), np.zeros(500, bool)
    failed[:lost] = True
    tiles = Tiles((100, 5), 100, np.ones((1, 1), np.float32), np.ones((1, 1), bool))
    patch = TileReader(reading(pixels, failed.reshape(100, 5)), tiles)((0, 0))
    assert (patch.valid is None) == readable


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory):
    """1000 × 700 px at 0.5 µm/px in one level, lossless, in tiles of 256."""
    folder = tmp_path_factory.mktemp("slide")
    return write_slide(folder / "one.tiff", (1000, 700), tile=256, lossless=True, levels=1).path


@pytest.mark.parametrize("mpp", [0.5, 0.8])
def test_tiles_of_a_slide_are_what_the_slide_shows(slide_path, mpp):
    """At 0.8 µm/px pixels are resampled, which may differ by a grey level where blocks begin elsewhere."""
    rule = TileRule(mpp, 192, 0.2, tissue="all")
    with open_slide(slide_path) as source:
        plan = plan_tiles(source, rule)
        rows, columns = plan.tiles.shape_px
        whole, failed = source.read_block(0, 0, rows, columns, mpp=mpp)
        read = plan.reader(source)
        assert failed is None
        assert len(plan.tiles) >= 8
        for row, column in plan.tiles.cells.tolist():
            inside = whole[row * 192 :, column * 192 :][:192, :192].astype(int)
            seen = read((row, column)).pixels[: len(inside), : inside.shape[1]]
            assert np.abs(seen - inside).max() <= (0 if mpp == 0.5 else 1)


def test_unreadable_parts_of_a_slide_fail_the_tiles_that_they_cover_by_more_than_a_tenth(slide_path, tmp_path):
    """The file's tile (1, 1) is lost, [256, 512) on both axes, under tiles of 300 px."""
    path = tmp_path / "bad.tiff"
    path.write_bytes(slide_path.read_bytes())
    corrupt_tiles(path, [(1, 1)])
    with open_slide(path) as source:
        tiles = tile_lattice(np.ones((1, 1), bool), source.working_size_px(0.5), 300, least_tissue=0.1)
        read = TileReader(partial(source.read_block, mpp=0.5), tiles, block_px=256)
        valid = {tuple(cell): read(tuple(cell)).valid is None for cell in tiles.cells.tolist()}
    lost_px = {(0, 0): 44 * 44, (0, 1): 44 * 212, (1, 0): 44 * 212, (1, 1): 212 * 212}
    expected = {cell: lost_px.get(cell, 0) <= 0.1 * 300 * 300 for cell in valid}
    assert valid == expected
    assert sorted(expected.values()) == [False] * 3 + [True] * 9
