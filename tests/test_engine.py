"""The engine on fake predictors: stitching is exact, uncertainty is equations 4 and 5."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from digipath.engine.ensemble import Ensemble
from digipath.engine.reader import BlockReader
from digipath.engine.stitch import smooth_window
from digipath.engine.views import DIHEDRAL, View, views_of
from digipath.errors import BadInput, BadPredictor, Cancelled
from digipath.grid import tissue_grid
from digipath.values import (
    EXCLUDED,
    PREDICTED,
    READ_FAILED,
    ArrayMaps,
    Coverage,
    Progress,
    coarsened,
)

sys.path.insert(0, str(Path(__file__).parent))
from engine_cases import constant, everywhere, identity, means, random_case, run


@pytest.mark.parametrize("window", ["smooth", "mean"])
@pytest.mark.parametrize("seed", range(25))
def test_constant_network_gives_back_its_constant(seed, window):
    array, grid = random_case(seed, rank=2 if seed % 5 else 3)
    value = np.float32(0.1 + 0.03 * seed)
    views = DIHEDRAL if seed % 2 else DIHEDRAL[:1]
    maps = run(array, grid, [constant(value), constant(value)], views=views, window=window)
    assert np.abs(maps.arrays["probability"] - value).max() <= 1e-6
    assert np.abs(maps.arrays["epistemic"]).max() <= 1e-6


@pytest.mark.parametrize("seed", range(25, 50))
def test_identity_network_gives_back_the_array(seed):
    array, grid = random_case(seed, rank=2 if seed % 5 else 3)
    maps = run(array, grid, [identity], views=DIHEDRAL, classes=(0, 1, 2))
    assert np.abs(maps.arrays["probability"] - means(array, grid.reduce)).max() <= 1 / 255
    assert np.abs(maps.arrays["aleatoric"]).max() <= 1e-10


def test_every_view_is_undone_by_its_inverse():
    patches = np.random.default_rng(0).random((2, 5, 5, 3))
    seen = {view.apply(patches).tobytes() for view in DIHEDRAL}
    assert len(seen) == 8
    for view in DIHEDRAL:
        np.testing.assert_array_equal(view.undo(view.apply(patches)), patches)


def test_view_counts():
    assert [len(views_of(n)) for n in (1, 2, 4, 8)] == [1, 2, 4, 8]
    assert views_of(2) == (View(flip=False, turns=0), View(flip=True, turns=0))
    assert views_of(4) == tuple(View(flip=False, turns=turns) for turns in range(4))
    with pytest.raises(BadInput, match="1, 2, 4 or 8, got 3"):
        views_of(3)


def test_epistemic_of_two_constants_is_a_quarter_of_the_squared_difference():
    array, grid = random_case(3)
    maps = run(array, grid, [constant(0.2), constant(0.8)], views=DIHEDRAL)
    np.testing.assert_allclose(maps.arrays["probability"], 0.5, atol=1e-6)
    np.testing.assert_allclose(maps.arrays["epistemic"], 0.09, atol=1e-6)
    np.testing.assert_allclose(maps.arrays["aleatoric"], 0, atol=1e-12)


def test_aleatoric_of_a_network_that_answers_by_orientation():
    """It looks at the corner it sees: 1 where that corner is bright, so 1/4 of the views say 1."""
    patches = np.zeros((1, 4, 4, 1), np.uint8)
    patches[0, 0, 0] = 255

    def corner(seen):
        value = (seen[:, :1, :1] > 0).astype(np.float32)
        return np.broadcast_to(value, seen.shape).copy()

    maps = Ensemble([corner]).maps(patches, DIHEDRAL)
    np.testing.assert_allclose(maps["probability"], 0.25)
    np.testing.assert_allclose(maps["aleatoric"], 0.25 * 0.75)


def test_one_view_and_one_network_define_no_uncertainty():
    array, grid = random_case(1)
    assert set(run(array, grid, [constant(0.5)]).arrays) == {"probability", "coverage"}


def test_blending_is_a_weighted_mean_of_patches():
    """Two patches of a network that answers by patch number, overlapping by half: by hand."""
    grid = everywhere((4, 6), (4, 4), overlap=0.5)
    answers = iter([0.0, 1.0])
    maps = run(np.zeros((4, 6, 3), np.uint8), grid, [lambda p: constant(next(answers))(p)])
    w = smooth_window(4)
    expected = [0, 0, w[0] / (w[0] + w[2]), w[1] / (w[1] + w[3]), 1, 1]
    np.testing.assert_allclose(maps.arrays["probability"][2, :, 0], expected, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_resumed_run_writes_the_same_bytes(batch):
    array, grid = random_case(7)

    def network(patches):
        """Depends on the batch it is in, as real networks do in the last bits."""
        shade = patches.mean(axis=(0, 1, 2), dtype=np.float64) / 255
        return np.broadcast_to(shade.astype(np.float32), patches.shape).copy()

    network.batch = batch
    batches = []
    whole = run(array, grid, [network], classes=(0, 1, 2), progress=batches.append)
    for stop in range(1, len(batches), 2):
        into, calls = ArrayMaps(grid.map_shape), []
        with pytest.raises(Cancelled, match="run again"):
            run(array, grid, [network], into=into, classes=(0, 1, 2),
                cancel=lambda calls=calls, stop=stop: calls.append(1) or len(calls) >= stop)
        run(array, grid, [network], into=into, classes=(0, 1, 2))
        assert into.coverage == whole.coverage
        for name, values in whole.arrays.items():
            assert into.arrays[name].tobytes() == values.tobytes(), (name, stop)


def block_reader(array, grid, bad=(), side=16):
    """A slide of blocks, of which the 8-px tiles at `bad` (row, column) cannot be read."""
    def read(row, column, rows, columns):
        failed = np.zeros(array.shape[:2], bool)
        for r, c in bad:
            failed[8 * r : 8 * r + 8, 8 * c : 8 * c + 8] = True
        box = (slice(row, row + rows), slice(column, column + columns))
        return np.where(failed[box][..., None], 0, array[box]), failed[box]

    return BlockReader(read, grid, side)


def test_unreadable_tiles_are_exactly_the_failed_pixels():
    array = np.random.default_rng(5).integers(0, 256, (70, 90, 3), np.uint8)
    grid = everywhere((70, 90), (24, 24), reduce=4)
    bad = [(1, 2), (1, 3), (6, 8), (3, 11)]  # (3, 11) is cut off by the right border: 2 of 8 px
    maps = run(array, grid, [identity], classes=(0, 1, 2), read=block_reader(array, grid, bad))
    failed = maps.arrays["coverage"] == READ_FAILED
    expected = np.zeros((18, 23), bool)
    for r, c in bad:
        expected[2 * r : 2 * r + 2, 2 * c : 2 * c + 2] = True
    np.testing.assert_array_equal(failed, expected)
    assert maps.coverage == Coverage(6300, 6300 - 3 * 64 - 16, 3 * 64 + 16, 0)
    assert np.isnan(maps.arrays["probability"][failed]).all()
    good = means(array, 4)
    np.testing.assert_allclose(maps.arrays["probability"][~failed], good[~failed], atol=1e-6)


@pytest.mark.parametrize("reduce", [1, 3, 4, 24])
def test_failed_pixels_are_counted_at_any_map_resolution(reduce):
    """Tiles that are smaller than a map pixel or lie across its border are counted all the same."""
    array = np.random.default_rng(5).integers(0, 256, (70, 90, 3), np.uint8)
    grid = everywhere((70, 90), (24, 24), reduce=reduce, overlap=0.4)
    bad = [(1, 2), (1, 3), (6, 8), (3, 11)]
    maps = run(array, grid, [constant(0.5)], read=block_reader(array, grid, bad))
    assert maps.coverage == Coverage(6300, 6300 - 3 * 64 - 16, 3 * 64 + 16, 0)


def test_a_slide_with_nothing_readable_ends_with_everything_failed():
    array = np.zeros((20, 20, 3), np.uint8)
    grid = everywhere((20, 20), (8, 8))
    bad = [(r, c) for r in range(3) for c in range(3)]
    maps = run(array, grid, [constant(1)], read=block_reader(array, grid, bad))
    assert maps.coverage == Coverage(400, 0, 400, 0)


def test_each_block_is_decoded_once():
    array = np.random.default_rng(6).integers(0, 256, (130, 170, 3), np.uint8)
    grid = everywhere((130, 170), (32, 32), overlap=0.75)
    reader = block_reader(array, grid)
    run(array, grid, [identity], read=reader, classes=(0, 1, 2), readers=4)
    assert reader.decoded == 9 * 11
    assert not reader._blocks  # all forgotten


def test_ledger_adds_up_with_excluded_and_background():
    rng = np.random.default_rng(8)
    wanted = rng.choice([0, PREDICTED, EXCLUDED], (7, 9)).astype(np.uint8)
    grid = tissue_grid(wanted == PREDICTED, (101, 118), (20, 20), reduce=3)
    maps = run(rng.integers(0, 256, (101, 118, 3), np.uint8), grid, [constant(0.7)], wanted=wanted)
    codes, probability = maps.arrays["coverage"], maps.arrays["probability"][..., 0]
    assert maps.coverage.read_failed == 0
    assert maps.coverage.tissue == maps.coverage.predicted + maps.coverage.excluded
    areas = np.minimum(3, 101 - 3 * np.arange(34))[:, None] * np.minimum(3, 118 - 3 * np.arange(40))
    assert maps.coverage.predicted == areas[codes == PREDICTED].sum()
    assert maps.coverage.excluded == areas[codes == EXCLUDED].sum()
    assert (probability[codes == 0] == 0).all()
    assert np.isnan(probability[codes == EXCLUDED]).all()
    np.testing.assert_allclose(probability[codes == PREDICTED], 0.7, atol=1e-6)


@pytest.mark.parametrize("seed", range(30))
def test_grid_covers_every_wanted_pixel(seed):
    rng = np.random.default_rng(seed)
    rank = 3 if seed % 4 == 0 else 2
    shape = rng.integers(1, 60, rank)
    wanted = rng.random(rng.integers(1, 30, rank)) < 0.1
    patch, reduce = int(rng.integers(4, 20)), int(rng.integers(1, 4))
    grid = tissue_grid(wanted, shape, (patch,) * rank, overlap=rng.random() * 0.9, reduce=reduce)
    covered = np.zeros(grid.map_shape, bool)
    for start in grid.starts_px // grid.reduce:
        covered[tuple(slice(s, s + p) for s, p in zip(start, grid.map_patch, strict=True))] = True
    asked = wanted
    for axis in range(rank):
        centres = (np.arange(grid.map_shape[axis]) + 0.5) * wanted.shape[axis] / grid.map_shape[axis]
        asked = asked.take(centres.astype(int), axis=axis)
    assert covered[asked].all()
    assert (grid.starts_px % reduce == 0).all()


def test_coarser_maps_keep_every_bit_of_tissue():
    codes = np.zeros((40, 60), np.uint8)
    codes[7, 13], codes[20, 30], codes[20, 31] = PREDICTED, EXCLUDED, PREDICTED
    found = coarsened(codes, (5, 80))  # 8 rows to one; columns are not finer, so they stay
    assert found.shape == (5, 60)
    assert np.argwhere(found == PREDICTED).tolist() == [[0, 13], [2, 31]]
    assert np.argwhere(found == EXCLUDED).tolist() == [[2, 30]]
    assert coarsened(codes, (1, 1)).tolist() == [[PREDICTED]]


def test_grid_leaves_out_patches_without_tissue():
    wanted = np.zeros((10, 10), bool)
    wanted[0, 0] = True
    grid = tissue_grid(wanted, (100, 100), (20, 20), overlap=0)
    assert grid.starts_px.tolist() == [[0, 0]]
    assert len(tissue_grid(np.zeros((3, 3), bool), (100, 100), (20, 20))) == 0


@pytest.mark.parametrize("overlap", [-0.1, 1, 1.5, float("nan")])
def test_overlap_outside_its_range_is_refused(overlap):
    with pytest.raises(BadInput, match="overlap must be in"):
        everywhere((10, 10), (4, 4), overlap=overlap)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda p: p[:, 1:, :, :1] / 255, r"must return \(1, 8, 8, classes\), got \(1, 7, 8, 1\)"),
        (constant(1.5), r"values in \[0, 1\], got \[1.5, 1.5\]"),
        (constant(np.nan), "nan"),
        (lambda p: "nothing", "must return an array, got str"),
        (lambda p: [[1], [1, 2]], "must return an array, got list"),
        (lambda p: np.zeros((*p.shape[:-1], 0)), r"got \(1, 8, 8, 0\)"),
    ],
)
def test_predictors_that_break_the_contract_are_refused(answer, message):
    array = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(BadPredictor, match=message):
        run(array, everywhere((8, 8), (8, 8)), [answer])


def test_a_predictor_may_reuse_its_buffer_and_write_into_its_input():
    array, grid = random_case(26)
    buffer = np.zeros((1, *grid.patch_px, 3), np.float32)

    def reusing(patches):
        np.divide(patches, np.float32(255), out=buffer)
        patches[...] = 0
        return buffer

    maps = run(array, grid, [reusing, identity], classes=(0, 1, 2), views=DIHEDRAL)
    assert np.abs(maps.arrays["probability"] - means(array, grid.reduce)).max() <= 1 / 255
    assert np.abs(maps.arrays["epistemic"]).max() < 1e-10


def test_predictors_of_one_ensemble_get_what_the_smallest_takes():
    sizes, lock, running, most = [], threading.Lock(), [0], [0]

    def network(patches):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        sizes.append(len(patches))
        time.sleep(0.001)
        with lock:
            running[0] -= 1
        return constant(0.5)(patches)

    one, other = (lambda patches: network(patches)), (lambda patches: network(patches))
    one.batch, one.parallel, other.batch, other.parallel = 2, 1, 8, 4
    array, grid = random_case(7)
    run(array, grid, [one, other])
    assert max(sizes) == 2
    assert most[0] == 1


def test_rounding_beyond_one_is_clipped():
    array, grid = random_case(2)
    assert run(array, grid, [constant(1.0001)]).arrays["probability"].max() == 1


def test_progress_counts_every_patch():
    array, grid = random_case(9)
    seen: list[Progress] = []
    run(array, grid, [constant(0.5)], progress=seen.append)
    assert [p.done for p in seen] == list(range(1, len(grid) + 1))
    assert {p.total for p in seen} == {len(grid)}
