"""Boxes, resizing and back, and slices as pictures: literal numbers, and that every voxel returns to its place."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from digipath import roi
from digipath.errors import BadInput, BadVolume
from digipath.volume_values import Box


def filled(shape, *cuts):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(low, high) for low, high in cuts)] = True
    return mask


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def test_the_brains_box_is_its_bounding_box():
    brain = filled((20, 30, 40), (3, 11), (0, 30), (17, 18))
    brain[4, 5, 6] = True
    assert roi.brain_box(brain) == Box((3, 0, 6), (11, 30, 18))
    assert roi.brain_box(brain).size_vox == (8, 30, 12)


@pytest.mark.parametrize(
    ("cuts", "box"),
    [
        # 20 × 30 × 40, margin 10: the shortest side doubles, and so do the others.
        (((50, 70), (50, 80), (50, 90)), Box((40, 35, 30), (80, 95, 110))),
        # 25 × 40 × 60: ⌈e · 45 / 25⌉ = 45, 72, 108.
        (((50, 75), (50, 90), (50, 110)), Box((40, 34, 26), (85, 106, 134))),
        # One slice of 100 × 100: the third side counts as 20.
        (((20, 120), (20, 120), (60, 61)), Box((-30, -30, 41), (170, 170, 81))),
        # One voxel.
        (((60, 61), (60, 61), (60, 61)), Box((41, 41, 41), (81, 81, 81))),
    ],
)
def test_the_tumours_box_in_numbers(cuts, box):
    assert roi.tumour_box(filled((150, 150, 150), *cuts)) == box


@pytest.mark.parametrize("seed", range(30))
def test_the_tumours_box_keeps_margin_and_proportions(seed):
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 20, 3)
    high = low + rng.integers(1, 40, 3)
    margin = int(rng.integers(0, 12))
    box = roi.tumour_box(filled((60, 60, 60), *zip(low, high, strict=True)), margin_vox=margin)
    before, behind = low - box.start_vox, np.array(box.stop_vox) - high
    assert min(before.min(), behind.min()) >= margin
    assert np.abs(before - behind).max() <= 1
    extents = np.maximum(high - low, 2 * margin)
    stretched = extents * (1 + 2 * margin / extents.min())
    assert (box.size_vox >= stretched - 1e-9).all()
    assert (box.size_vox < stretched + 1 + 1e-9).all()
    assert min(box.size_vox) == extents.min() + 2 * margin


def test_empty_masks_and_negative_margins_are_refused():
    empty = np.zeros((4, 4, 4), bool)
    with pytest.raises(BadVolume, match="marks the brain, it is empty"):
        roi.brain_box(empty)
    with pytest.raises(BadVolume, match="marks the tumour, it is empty"):
        roi.tumour_box(empty)
    with pytest.raises(BadVolume, match="marks the tumour, it is empty"):
        roi.largest_slice(empty)
    with pytest.raises(BadInput, match="margin of at least 0 voxels, got -1"):
        roi.tumour_box(~empty, margin_vox=-1)


def test_beyond_the_volume_a_cut_is_zero():
    values = np.arange(1, 25).reshape(2, 3, 4)
    found = roi.cut(values, Box((-1, 1, 2), (1, 3, 6)))
    expected = np.zeros((2, 2, 4), values.dtype)
    expected[1, :, :2] = values[0, 1:3, 2:4]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == values.dtype
    assert not roi.cut(values, Box((5, 0, 0), (7, 3, 4))).any()
    assert roi.cut(noise(2, 3, 4, 5), Box((0, 0, 0), (2, 2, 2))).shape == (2, 2, 2, 5)
    np.testing.assert_array_equal(roi.cut(values, Box((0, 0, 0), (2, 3, 4))), values)


def test_beyond_the_volume_each_channel_of_a_cut_has_its_own_value():
    values = noise(2, 3, 4, 2)
    found = roi.cut(values, Box((0, -1, 0), (2, 3, 4)), (-0.5, 2))
    np.testing.assert_array_equal(found[:, 1:], values)
    assert (found[:, 0] == (-0.5, 2)).all()
    assert found.dtype == values.dtype


def along_x(values, size):
    column = np.asarray(values, np.float32)[:, None, None]
    return roi.resized(column, (size, 1, 1))[:, 0, 0].tolist()


def test_resizing_in_numbers():
    assert along_x([0, 1], 4) == pytest.approx([0, 0.25, 0.75, 1])
    # Three to two: centres at 1/4 and 7/4, weights 5/6 and 1/2 of the two next, over their sum.
    assert along_x([0, 4, 8], 2) == pytest.approx([1.5, 6.5])
    # To a half: weights 1/8, 3/8, 3/8, 1/8 of the four nearest; at the border three of them, over their sum.
    assert along_x([0, 0, 8, 0, 0, 0, 0, 0], 4) == pytest.approx([8 / 7, 3, 0, 0])


def test_of_the_same_size_nothing_changes_and_nothing_is_shared():
    values = noise(5, 6, 7, 2)
    found = roi.resized(values, (5, 6, 7))
    np.testing.assert_array_equal(found, values)
    found[...] = 0
    assert values.any()


@pytest.mark.parametrize("size", [(4, 9, 30), (96, 96, 96), (1, 2, 3)])
def test_a_constant_stays_constant(size):
    found = roi.resized(np.full((17, 9, 5, 2), 3.25, np.float32), size)
    assert found.shape == (*size, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 3.25, rtol=1e-6)


def test_enlarging_is_trilinear_between_the_centres():
    values, size = noise(5, 6, 7), (9, 20, 7)
    at = [(np.arange(new) + 0.5) * old / new - 0.5 for old, new in zip(values.shape, size, strict=True)]
    expected = ndimage.map_coordinates(values, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(roi.resized(values, size), expected, atol=1e-5)


def test_shrinking_averages_and_does_not_alias():
    stripes = np.tile(np.array([0, 1], np.float32), 48)[:, None, None] * np.ones((96, 4, 4), np.float32)
    np.testing.assert_allclose(roi.resized(stripes, (24, 4, 4))[1:-1], 0.5, atol=1e-6)
    values = noise(80, 60, 40)
    assert roi.resized(values, (20, 15, 10)).std() < 0.15  # 64 voxels or more in each
    ramp = np.broadcast_to(np.arange(96, dtype=np.float32)[:, None, None], (96, 2, 2))
    centres = (np.arange(24) + 0.5) * 4 - 0.5
    np.testing.assert_allclose(roi.resized(ramp, (24, 2, 2))[1:-1, 0, 0], centres[1:-1], atol=1e-4)


@pytest.mark.parametrize("size", [(3, 3), (3, 0, 3)])
def test_sizes_that_cannot_be(size):
    with pytest.raises(BadInput, match="three sizes of at least one voxel"):
        roi.resized(noise(3, 3, 3), size)


SHAPE = (30, 26, 22)


@pytest.mark.parametrize(
    "box", [Box((4, 3, 2), (28, 25, 20)), Box((-5, 10, -3), (15, 24, 30)), Box((7, 8, 9), (13, 12, 14))]
)
@pytest.mark.parametrize("size", [(48, 48, 48), (24, 22, 18)])
def test_a_voxel_comes_back_where_it_was(box, size):
    inside = [(max(a, 0), min(b, n)) for a, b, n in zip(box.start_vox, box.stop_vox, SHAPE, strict=True)]
    rng = np.random.default_rng(0)
    for _ in range(20):
        at = tuple(int(rng.integers(low, high)) for low, high in inside)
        one = np.zeros(SHAPE, np.float32)
        one[at] = 1
        back = roi.put_back(roi.resized(roi.cut(one, box), size), box, SHAPE)
        assert np.unravel_index(back.argmax(), SHAPE) == at


def test_a_voxel_of_the_region_lands_in_the_voxel_that_holds_its_centre():
    box, size = Box((4, 3, 2), (28, 25, 20)), (48, 44, 54)
    for at in [(0, 0, 0), (47, 43, 53), (10, 30, 25), (11, 31, 26)]:
        one = np.zeros(size, np.float32)
        one[at] = 1
        back = roi.put_back(one, box, SHAPE)
        steps = zip(at, size, box.size_vox, box.start_vox, strict=True)
        expected = tuple(start + int((index + 0.5) * own / new) for index, new, own, start in steps)
        assert np.unravel_index(back.argmax(), SHAPE) == expected


@pytest.mark.parametrize("size", [(40, 40, 40), (12, 12, 12), (17, 30, 23)])
def test_what_is_smooth_comes_back_in_its_place_and_nothing_else(size):
    """Values that tell their own voxel's place come back within an eighth of a voxel of it."""
    box = Box((4, 3, 2), (28, 25, 20))
    for place in np.meshgrid(*(np.arange(n, dtype=np.float32) for n in SHAPE), indexing="ij"):
        back = roi.put_back(roi.resized(roi.cut(place, box), size), box, SHAPE)
        core = (slice(7, 25), slice(6, 22), slice(5, 17))
        np.testing.assert_allclose(back[core], place[core], atol=0.125)
        back[4:28, 3:25, 2:20] = 0
        assert not back.any()
    assert not roi.put_back(place, Box((40, 0, 0), (50, 9, 9)), SHAPE).any()


def test_the_largest_slice_is_the_lowest_of_equals():
    tumour = filled((9, 9, 9), (2, 4), (2, 4), (3, 8))
    assert roi.largest_slice(tumour) == 3
    tumour[5, 5, 6] = True
    assert roi.largest_slice(tumour) == 6


def test_a_picture_in_numbers():
    """Of the brain 10 to 60; outside the brain 5, which counts for nothing; the tumour front right."""
    values = np.full((4, 4), 5, np.float32)
    brain = filled((4, 4), (0, 3), (0, 4))
    values[brain] = 20
    values[0, 0], values[1, 3], values[2, 3], values[2, 2] = 10, 60, 35, 20
    tumour = filled((4, 4), (1, 3), (2, 4))
    picture = roi.slice_picture(values, tumour, brain, side_px=4)
    assert picture.shape == (4, 4, 3)
    assert picture.dtype == np.uint8
    # Rows from the front (y = 3) on, columns from the patient's right (x = 3) on; 25 / 50 of 255 is 127.5.
    expected = [[0, 128, 255, 0], [0, 51, 51, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    for channel in range(3):
        assert picture[..., channel].tolist() == expected


def test_a_picture_ignores_scale_and_offset_of_intensities():
    values, tumour = noise(30, 20), filled((30, 20), (5, 20), (3, 12))
    brain = filled((30, 20), (2, 28), (2, 18))
    one, other = (roi.slice_picture(v, tumour, brain, side_px=64) for v in (values, 7 * values - 3))
    assert np.abs(one.astype(int) - other).max() <= 1
    assert one.max() > 200


def test_a_picture_keeps_proportions():
    tumour = filled((60, 30), (20, 30), (10, 20))
    values = tumour.astype(np.float32)
    picture = roi.slice_picture(values, tumour, np.ones_like(tumour), side_px=120)[..., 0] > 127
    rows, columns = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(picture.any(axis=0))
    assert (len(rows), len(columns)) == (20, 20)
    # y 10 to 20 of 30, completed to −15 … 45: from the front 25 of 60; x 20 to 30 of 60: from the right 30 of 60.
    assert (rows[0], columns[0]) == (50, 60)


def test_a_picture_of_nothing_is_black():
    flat, all_of_it = np.full((6, 6), 3, np.float32), np.ones((6, 6), bool)
    assert not roi.slice_picture(flat, all_of_it, all_of_it, side_px=5).any()
    assert not roi.slice_picture(flat, ~all_of_it, ~all_of_it, side_px=5).any()
    with pytest.raises(BadInput, match=r"plane's shape \(6, 6\), got \(6, 6\) and \(5, 6\)"):
        roi.slice_picture(flat, all_of_it, all_of_it[:5])


def test_pictures_are_turned_back():
    plane = noise(5, 7)
    picture = roi.to_picture(plane)
    assert picture.shape == (7, 5)
    assert picture[0, 0] == plane[-1, -1]
    assert picture[0, -1] == plane[0, -1]
    np.testing.assert_array_equal(roi.from_picture(picture), plane)


def test_the_square_around_a_plane():
    assert roi.square_plane((240, 240, 155), 70) == Box((0, 0, 70), (240, 240, 71))
    assert roi.square_plane((10, 7, 5), 2) == Box((0, -1, 2), (10, 9, 3))
    assert roi.square_plane((6, 10, 5), 2) == Box((-2, 0, 2), (8, 10, 3))
