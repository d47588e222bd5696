"""Where patches are drawn: exact shares, every case and every lesion, never off the slide."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from digipath.errors import BadInput
from digipath.training.sampling import Draws, Places, Sampling, find_places, place_window

SAMPLING = Sampling(mpp=0.5)


def places(shape=(8, 8), lesions=(), *, cell=32.0, window=256, size=None, tissue=None):
    """Places of a slide of whole cells; lesions are slices of its grid."""
    grid = np.zeros(shape, bool)
    for lesion in lesions:
        grid[lesion] = True
    tissue = np.ones(shape, bool) if tissue is None else tissue
    size = size or tuple(int(n * cell) for n in shape)
    return find_places(tissue, grid, size, cell, window)


class TestShares:
    @pytest.fixture
    def cases(self):
        return [places((32, 32), [np.s_[:2, :2]]), places((32, 32)), places((32, 32), [np.s_[5:, 5:]])]

    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 0.3, 0.29, 1 / 3, 0.7])
    def test_of_every_epoch_exactly_the_share_is_tumour(self, cases, share):
        draws = Draws(cases, replace(SAMPLING, positive_share=share, patches_per_epoch=100))
        for epoch in range(3):
            tumour = sum(draws[index].positive is True for index in range(100 * epoch, 100 * epoch + 100))
            assert tumour == int(share * 100 + 1e-9)

    def test_half_means_one_of_every_two(self, cases):
        draws = Draws(cases, SAMPLING)
        kinds = [draws[index].positive for index in range(2000)]
        assert all(sorted(pair) == [False, True] for pair in zip(kinds[::2], kinds[1::2], strict=True))

    def test_no_share_draws_by_area(self):
        small, large = places((8, 8)), places((8, 8), cell=64.0)  # 1 : 4 in area
        draws = Draws([small, large], replace(SAMPLING, positive_share=None))
        drawn = [draws[index] for index in range(2000)]
        assert {draw.positive for draw in drawn} == {None}
        assert 0.76 < np.mean([draw.case == 1 for draw in drawn]) < 0.84

    def test_depends_on_index_and_seed_alone(self, cases):
        one, other = (Draws(cases, SAMPLING) for _ in range(2))
        forwards = [one[index] for index in range(300)]
        assert forwards == [other[index] for index in reversed(range(300))][::-1]
        assert forwards != [Draws(cases, replace(SAMPLING, seed=1))[index] for index in range(300)]


class TestRareTumour:
    def test_one_epoch_hits_every_lesion_of_every_case(self):
        """40 cases; one lesion covers most of its slide, the rest are single cells, three in case 7."""
        cases = [places((64, 64), [np.s_[40, 40]]) for _ in range(40)]
        cases[3] = places((64, 64), [np.s_[10:, 10:], np.s_[0, 0]])
        cases[7] = places((64, 64), [np.s_[0, 0], np.s_[30, 30], np.s_[60, 60]])
        draws = Draws(cases, replace(SAMPLING, patches_per_epoch=480))
        hit = Counter((draw.case, draw.lesion) for draw in map(draws.__getitem__, range(480)) if draw.positive)
        assert all(hit[case, lesion] for case in range(40) for lesion in range(len(cases[case].lesion_ends)))

    def test_a_case_comes_once_per_round(self):
        cases = [places((32, 32), [np.s_[0, 0]]) for _ in range(25)] + [places((32, 32))] * 5
        draws = Draws(cases, SAMPLING)
        for positive, count in ((True, 25), (False, 30)):
            order = [draw.case for draw in map(draws.__getitem__, range(400)) if draw.positive is positive]
            rounds = [order[n : n + count] for n in range(0, len(order) - count, count)]
            assert len(rounds) >= 6
            assert all(len(set(turn)) == count for turn in rounds)
            assert rounds[0] != rounds[1]

    def test_every_second_patch_of_a_case_falls_anywhere_in_its_lesions(self):
        draws = Draws([places((32, 32), [np.s_[0, 0], np.s_[10:, 10:]])], SAMPLING)
        lesions = [draws[index].lesion for index in range(1, 400, 2)]
        assert Counter(lesions) == {None: 100, 0: 50, 1: 50}

    def test_normal_patches_come_from_cases_with_and_without_tumour(self):
        draws = Draws([places((32, 32), [np.s_[0, 0]]), places((32, 32))], SAMPLING)
        assert Counter(draws[index].case for index in range(0, 200, 2)) == {0: 50, 1: 50}


class TestPlaces:
    def test_lesions_are_what_touches(self):
        found = places((8, 8), [np.s_[0, 0], np.s_[1, 1], np.s_[7, 2:4]])
        assert sorted(found.tumour) == [0, 9, 58, 59]
        assert [sorted(found.cells_of(lesion)) for lesion in range(2)] == [[0, 9], [58, 59]]
        assert len(found.cells_of(None)) == 4

    def test_normal_cells_keep_their_window_clear_of_lesion(self):
        # window of 4 cells; the lesion is column 6 of 12: free windows begin at columns 0, 1, 2 or end beyond 7
        found = places((4, 12), [np.s_[:, 6]], cell=10.0, window=40)
        assert sorted({int(cell) % 12 for cell in found.normal}) == [0, 1, 2, 3, 9, 10, 11]

    @pytest.mark.parametrize("seed", range(20))
    def test_an_unshifted_window_about_a_normal_cell_meets_no_lesion(self, seed):
        rng = np.random.default_rng(seed)
        size = tuple(int(n) for n in rng.integers(20, 400, 2))
        cell, window = float(rng.uniform(3.3, 40)), int(rng.integers(8, 120))
        shape = tuple(-(-n // cell) for n in size)
        shape = (int(shape[0]), int(shape[1]))
        lesions = rng.random(shape) < rng.choice([0.01, 0.1, 0.4])
        found = find_places(rng.random(shape) < 0.7, lesions, size, cell, window)
        pixels = [np.minimum((np.arange(n) / cell).astype(int), s - 1) for n, s in zip(size, shape, strict=True)]
        truth = lesions[pixels[0]][:, pixels[1]]
        for normal in found.normal:
            row, col = place_window(found.centre(normal), window, size, 0, rng)
            assert not truth[max(0, row) : row + window, max(0, col) : col + window].any()

    def test_boxes_of_cells_tile_the_frame(self):
        found = places((4, 5), cell=7.3, size=(29, 36))
        seen = np.zeros((29, 36), int)
        for cell in range(20):
            row, col, rows, cols = found.box(cell)
            assert rows > 0 < cols
            assert row <= found.centre(cell)[0] < row + rows
            assert col <= found.centre(cell)[1] < col + cols
            seen[row : row + rows, col : col + cols] += 1
        assert seen.min() == 1

    def test_a_cell_beyond_the_rounded_frame_is_its_last_pixel(self):
        assert Places((10, 10), 4.9, 3, *[np.zeros(0, np.int32)] * 3, np.zeros(0, np.int64)).box(8) == (9, 9, 1, 1)


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
