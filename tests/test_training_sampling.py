"""Where patches are drawn: exact shares, every case and every lesion, never off the slide."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from digipath.augment import Augmentation, augment, source_px
from digipath.errors import BadInput
from digipath.training.sampling import (
    Draws,
    Lattice,
    Sampling,
    extent,
    find_places,
    find_rooms,
    place_window,
    shown_pixels,
)

SAMPLING = Sampling(mpp=0.5)


def places(shape=(8, 8), lesions=(), *, cell=32.0, window=256, most=None, size=None):
    """Places of a slide that is all tissue; lesions are slices of its cells."""
    grid = np.zeros(shape, np.int64)
    for lesion in lesions:
        grid[lesion] = cell**2
    lattice = Lattice(size or tuple(int(n * cell) for n in shape), cell, shape)
    rooms = find_rooms(lattice, grid > 0, window, most or window)
    return find_places(lattice, np.ones(shape, bool), grid, lattice, rooms)


def draws_of(cases, sampling=SAMPLING, shown=256):
    return Draws(cases, sampling, lambda index: shown)


class TestShares:
    @pytest.fixture
    def cases(self):
        return [places((32, 32), [np.s_[:2, :2]]), places((32, 32)), places((32, 32), [np.s_[5:, 5:]])]

    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 0.3, 0.29, 1 / 3, 0.7])
    def test_of_every_epoch_exactly_the_share_is_tumour(self, cases, share):
        draws = draws_of(cases, replace(SAMPLING, positive_share=share, patches_per_epoch=100))
        for epoch in range(3):
            tumour = sum(draws[index].positive is True for index in range(100 * epoch, 100 * epoch + 100))
            assert tumour == int(share * 100 + 1e-9)

    def test_half_means_one_of_every_two(self, cases):
        draws = draws_of(cases)
        kinds = [draws[index].positive for index in range(2000)]
        assert all(sorted(pair) == [False, True] for pair in zip(kinds[::2], kinds[1::2], strict=True))

    def test_no_share_draws_by_area(self):
        small, large = places((8, 8)), places((8, 8), cell=64.0)  # 1 : 4 in area
        draws = draws_of([small, large], replace(SAMPLING, positive_share=None))
        drawn = [draws[index] for index in range(2000)]
        assert {draw.positive for draw in drawn} == {None}
        assert 0.76 < np.mean([draw.case == 1 for draw in drawn]) < 0.84

    def test_depends_on_index_and_seed_alone(self, cases):
        one, other = (draws_of(cases) for _ in range(2))
        forwards = [one[index] for index in range(300)]
        assert forwards == [other[index] for index in reversed(range(300))][::-1]
        assert forwards != [draws_of(cases, replace(SAMPLING, seed=1))[index] for index in range(300)]


class TestRareTumour:
    def test_one_epoch_hits_every_lesion_of_every_case(self):
        """40 cases; one lesion covers most of its slide, the rest are single cells, three in case 7."""
        cases = [places((64, 64), [np.s_[40, 40]]) for _ in range(40)]
        cases[3] = places((64, 64), [np.s_[10:, 10:], np.s_[0, 0]])
        cases[7] = places((64, 64), [np.s_[0, 0], np.s_[30, 30], np.s_[60, 60]])
        draws = draws_of(cases, replace(SAMPLING, patches_per_epoch=480))
        hit = Counter((draw.case, draw.lesion) for draw in map(draws.__getitem__, range(480)) if draw.positive)
        assert all(hit[case, lesion] for case in range(40) for lesion in range(len(cases[case].lesion_ends)))

    def test_a_case_comes_once_per_round(self):
        cases = [places((32, 32), [np.s_[0, 0]]) for _ in range(25)] + [places((32, 32))] * 5
        draws = draws_of(cases)
        for positive, count in ((True, 25), (False, 30)):
            order = [draw.case for draw in map(draws.__getitem__, range(400)) if draw.positive is positive]
            rounds = [order[n : n + count] for n in range(0, len(order) - count, count)]
            assert len(rounds) >= 6
            assert all(len(set(turn)) == count for turn in rounds)
            assert rounds[0] != rounds[1]

    def test_every_second_patch_of_a_case_falls_anywhere_in_its_lesions(self):
        draws = draws_of([places((32, 32), [np.s_[0, 0], np.s_[10:, 10:]])])
        lesions = [draws[index].lesion for index in range(1, 400, 2)]
        assert Counter(lesions) == {None: 100, 0: 50, 1: 50}

    def test_normal_patches_come_from_cases_with_and_without_tumour(self):
        draws = draws_of([places((32, 32), [np.s_[0, 0]]), places((32, 32))])
        assert Counter(draws[index].case for index in range(0, 200, 2)) == {0: 50, 1: 50}


class TestNormalCases:
    """Whose turn it is, of cases with room for patches without tumour."""

    def drawn(self, cases, shown=256):
        draws = draws_of(cases, replace(SAMPLING, positive_share=0.0), shown)
        return Counter(draws[index].case for index in range(1500))

    def test_little_room_gives_up_turns_in_proportion_to_it(self):
        """Windows of 8 cells: room about 4 × 4 of 64 cells, for one of them only, and plenty of it."""
        some = places((8, 8), [np.s_[4:], np.s_[:, 4:]], window=1)
        one = places((8, 8), [np.s_[1:], np.s_[:, 1:]], window=1)
        assert [case.roomy(1) for case in (some, one)] == [16, 1]
        counts = self.drawn([places((32, 32)), some, one, places((9, 9))], shown=1)
        assert counts[0] / 1500 == pytest.approx(64 / 145, abs=0.04) == counts[3] / 1500
        assert counts[1] / 1500 == pytest.approx(16 / 145, abs=0.03)
        assert 1 <= counts[2] < 30

    def test_no_room_for_what_the_patch_shows_is_no_turn(self):
        """Free are 10 and 20 columns of cells of one pixel."""
        cases = [places((60, 60), [np.s_[:, width:]], cell=1.0, window=8, most=16) for width in (10, 20)]
        patches_of_8 = replace(SAMPLING, patch_px=8, positive_share=0.0)
        for shown, expected in ((8, {0, 1}), (10, {0, 1}), (11, {1}), (16, {1})):
            draws = draws_of(cases, patches_of_8, shown)
            assert {draws[index].case for index in range(100)} == expected

    def test_with_room_all_come_once_per_round(self):
        draws = draws_of([places((32, 32)) for _ in range(20)], replace(SAMPLING, positive_share=0.0))
        order = [draws[index].case for index in range(200)]
        assert all(sorted(order[at : at + 20]) == list(range(20)) for at in range(0, 200, 20))


def free_starts(truth, window):
    """Where windows without lesion begin, all of those inside the frame."""
    rows, cols = (max(1, size - window + 1) for size in truth.shape)
    return {(r, c) for r in range(rows) for c in range(cols) if not truth[r : r + window, c : c + window].any()}


class TestRooms:
    @pytest.mark.parametrize("seed", range(15))
    def test_by_pixels_every_window_without_lesion_is_found(self, seed):
        rng = np.random.default_rng(seed)
        size = tuple(int(n) for n in rng.integers(20, 60, 2))
        truth = rng.random(size) < rng.choice([0.001, 0.01, 0.03])
        lattice = Lattice(size, 1.0, size)
        rooms = find_rooms(lattice, truth, 8, 25)
        for window in (8, 13, 25):
            found = {
                tuple(max(0, at) for at in place_window((int(row), int(col)), window, size, 0, rng))
                for row, col in np.argwhere(rooms >= window)
            }
            assert found == free_starts(truth, window)
        assert set(np.unique(rooms)) <= {0, *range(8, 26)}

    @pytest.mark.parametrize("seed", range(20))
    def test_a_window_about_an_anchor_meets_no_lesion(self, seed):
        """For any sizes of cells, of both lattices; places of the fine lattice count where the coarse has tissue."""
        rng = np.random.default_rng(seed)
        size = tuple(int(n) for n in rng.integers(20, 400, 2))
        fine_cell, least = float(rng.uniform(1, 20)), int(rng.integers(8, 120))
        cell = fine_cell * float(rng.uniform(1, 4))
        fine, lattice = (Lattice(size, side, tuple(int(-(-n // side)) for n in size)) for side in (fine_cell, cell))
        lesions = rng.random(fine.shape) < rng.choice([0.003, 0.02, 0.1])
        rows, cols = (
            np.minimum((np.arange(n) / fine_cell).astype(int), m - 1) for n, m in zip(size, fine.shape, strict=True)
        )
        truth = lesions[rows][:, cols]
        rooms = find_rooms(fine, lesions, least, least + 40)
        tissue = rng.random(lattice.shape) < 0.7
        found = find_places(lattice, tissue, np.zeros(lattice.shape, np.int64), fine, rooms)
        assert list(found.rooms) == sorted(found.rooms, reverse=True)
        assert tissue.ravel()[found.normal].all()
        for cell_number, room, (r, c) in zip(found.normal, found.rooms, found.anchors, strict=True):
            assert least <= room <= least + 40
            top, left, height, width = lattice.box(cell_number)
            assert top <= r < top + height
            assert left <= c < left + width
            row, col = place_window((int(r), int(c)), int(room), size, 0, rng)
            assert not truth[max(0, row) : row + room, max(0, col) : col + room].any()
        assert [found.roomy(side) for side in (least, least + 41)] == [len(found.normal), 0]

    def test_of_a_cell_the_roomiest_pixel_counts(self):
        """A hole of 9 × 9 pixels in lesion: one of 4 × 4 cells has the pixel about which all of it fits."""
        truth = np.ones((40, 40), bool)
        truth[20:29, 14:23] = False
        fine, lattice = Lattice((40, 40), 1.0, (40, 40)), Lattice((40, 40), 10.0, (4, 4))
        found = find_places(
            lattice, np.ones((4, 4), bool), np.zeros((4, 4), np.int64), fine, find_rooms(fine, truth, 5, 30)
        )
        assert found.roomy(9) == 1
        assert (found.normal[0], found.rooms[0], found.anchors[0].tolist()) == (9, 9, [24, 18])
        assert sorted(found.normal[: found.roomy(5)]) == [9, 10]

    def test_a_slide_smaller_than_the_window_is_free_as_a_whole_or_not(self):
        for lesions, free in (([], 16), ([np.s_[0, 0]], 0)):
            assert len(places((4, 4), lesions, cell=5.0, window=64, most=80).normal) == free


class TestPlaces:
    def test_lesions_are_what_touches(self):
        found = places((8, 8), [np.s_[0, 0], np.s_[1, 1], np.s_[7, 2:4]], cell=4.0)
        assert sorted(found.tumour) == [0, 9, 58, 59]
        assert found.tumour_ends.tolist() == [16, 32, 48, 64]
        assert found.lesion_ends.tolist() == [32, 64]
        rng = np.random.default_rng(0)
        for lesion, cells in ((0, {0, 9}), (1, {58, 59}), (None, {0, 9, 58, 59})):
            assert {found.lesion_pixel(lesion, rng)[0] for _ in range(100)} == cells

    def test_every_lesion_pixel_is_equally_likely(self):
        lattice = Lattice((60, 20), 20.0, (3, 1))
        lesion_px = np.array([[1], [0], [3]])
        found = find_places(lattice, np.ones((3, 1), bool), lesion_px, lattice, np.zeros((3, 1), np.int32))
        rng = np.random.default_rng(0)
        drawn = Counter(found.lesion_pixel(None, rng) for _ in range(4000))
        assert set(drawn) == {(0, 0), (2, 0), (2, 1), (2, 2)}
        assert all(900 < count < 1100 for count in drawn.values())

    def test_normal_cells_keep_their_window_clear_of_lesion(self):
        # window of 4 cells; the lesion is column 6 of 12: free windows begin at columns 0, 1, 2 or end beyond 7
        found = places((4, 12), [np.s_[:, 6]], cell=10.0, window=40)
        assert sorted({int(cell) % 12 for cell in found.normal}) == [0, 1, 2, 3, 9, 10, 11]

    def test_boxes_of_cells_tile_the_frame(self):
        lattice = Lattice((29, 36), 7.3, (4, 5))
        rows_at, cols_at = lattice.centres()
        seen = np.zeros((29, 36), int)
        for cell in range(20):
            row, col, rows, cols = lattice.box(cell)
            assert rows > 0 < cols
            assert row <= rows_at[cell // 5] < row + rows
            assert col <= cols_at[cell % 5] < col + cols
            seen[row : row + rows, col : col + cols] += 1
        assert seen.min() == 1
        assert lattice.cells_at(rows_at, cols_at).ravel().tolist() == list(range(20))

    def test_a_cell_beyond_the_rounded_frame_is_its_last_pixel(self):
        assert Lattice((10, 10), 4.9, (3, 3)).box(8) == (9, 9, 1, 1)


@pytest.mark.parametrize(("patch", "scale"), [(64, 0.0), (64, 0.25), (64, 0.005), (63, 0.4), (100, 0.5), (7, 0.3)])
def test_shown_pixels_are_those_that_augmentation_leaves(patch, scale):
    settings = Augmentation(flips=False, rotations=False, scale=scale)
    side = source_px(settings, patch)
    pixels = np.stack(np.mgrid[:side, :side], axis=-1)
    widest = extent(shown_pixels(settings, patch, 1.0))
    assert widest <= side
    for seed in range(20):
        shown = shown_pixels(settings, patch, np.random.default_rng(seed).uniform(-1, 1))
        _, left = augment(np.zeros((side, side, 3), np.uint8), pixels, settings, np.random.default_rng(seed))
        np.testing.assert_array_equal(left[:, 0, 0], shown)
        np.testing.assert_array_equal(left[0, :, 1], shown)
        assert extent(shown_pixels(settings, patch, -1.0)) <= extent(shown) <= widest
    assert extent(shown_pixels(settings, patch, 0.0)) == patch == extent(shown_pixels(None, patch, 0.3))


class TestWindows:
    @pytest.mark.parametrize("seed", range(50))
    def test_holds_its_anchor_and_stays_inside(self, seed):
        rng = np.random.default_rng(seed)
        size = tuple(int(n) for n in rng.integers(1, 600, 2))
        anchor = tuple(int(rng.integers(n)) for n in size)
        window, shift = int(rng.integers(1, 300)), int(rng.integers(0, 200))
        for _ in range(40):
            start = place_window(anchor, window, size, shift, rng)
            for first, at, length in zip(start, anchor, size, strict=True):
                assert first <= at < first + window
                assert min(0, length - window) <= first <= max(0, length - window)

    def test_offset_is_a_disc_of_the_shift(self):
        rng = np.random.default_rng(0)
        starts = np.array([place_window((5000, 5000), 256, (10_000, 10_000), 128, rng) for _ in range(4000)])
        offsets = starts - (5000 - 128)
        length = np.hypot(*offsets.T)
        assert 126 < length.max() <= 128
        assert abs(offsets.mean(axis=0)).max() < 4
        assert np.median(length) == pytest.approx(128 / 2**0.5, abs=3)  # uniform over the area

    def test_patches_of_a_crop_do_not_pile_up_at_its_edge(self):
        """Anchors all over a crop twice the patch's side: a clipped centre would be at an edge half of the time."""
        rng = np.random.default_rng(0)
        anchors = rng.integers(512, size=(2000, 2))
        rows = [place_window((int(r), int(c)), 256, (512, 512), 128, rng)[0] for r, c in anchors]
        assert np.mean([row in (0, 256) for row in rows]) < 0.05

    def test_without_shift_it_is_centred_or_at_the_edge(self):
        rng = np.random.default_rng(0)
        assert place_window((300, 10), 256, (1000, 1000), 0, rng) == (172, 0)
        assert place_window((990, 500), 256, (1000, 1000), 0, rng) == (744, 372)
        assert place_window((50, 50), 256, (100, 1000), 0, rng)[0] in range(-156, 1)

    def test_a_slide_of_the_patch_s_size_has_one_place(self):
        rng = np.random.default_rng(0)
        assert {place_window((200, 3), 256, (256, 256), 128, rng) for _ in range(20)} == {(0, 0)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"mpp": 0.0},
        {"mpp": float("nan")},
        {"patch_px": 0},
        {"shift_px": -1},
        {"positive_share": 1.5},
        {"patches_per_epoch": 0},
        {"seed": -1},
        {"tissue": "most"},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(BadInput, match=f"expected {next(iter(wrong))}"):
        replace(SAMPLING, **wrong).check()
