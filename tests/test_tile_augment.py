"""Changes of training tiles: what stays to the byte, where points go, colours by literals, and how chance is drawn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from digipath.errors import BadInput
from digipath.tile_augment import (
    COLOUR_JITTER,
    GEOMETRIC,
    GEOMETRIC_AND_PHOTOMETRIC,
    TileAugmentation,
    augment_tile,
    centre_crop,
)

NEUTRAL = TileAugmentation(flip=False, shear_degrees=0.0, scale=(1.0, 1.0))
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


class Chance:
    """A generator that gives these numbers: crop, mirror, shear, zoom, brightness, contrast, saturation, hue, turns."""

    def __init__(self, **given):
        names = ("row", "col", "mirror", "shear", "scale", "brightness", "contrast", "saturation", "hue", "turns")
        self.values = np.array([given.get(name, 0.5) for name in names])

    def uniform(self, size):
        assert size == len(self.values)
        return self.values


def spot(row, col, side=101):
    """A white square of 5 px about a pixel on black."""
    tile = np.zeros((side, side, 3), np.uint8)
    tile[row - 2 : row + 3, col - 2 : col + 3] = 255
    return tile


def centre_of(tile):
    rows, cols = np.nonzero(tile[..., 0] > 127)
    return rows.mean(), cols.mean()


# ---- what stays ----


@pytest.mark.parametrize("settings", [NEUTRAL, replace(GEOMETRIC_AND_PHOTOMETRIC, flip=False, magnitude=0.0)])
@pytest.mark.parametrize("seed", range(5))
def test_neutral_settings_change_no_byte(settings, seed):
    found = augment_tile(NOISE, settings, np.random.default_rng(seed))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, NOISE)
    found[:] = 0  # the caller's own
    assert NOISE.any()


def test_a_crop_is_a_part_of_the_tile_and_reaches_all_corners():
    codes = np.stack([*np.mgrid[:64, :64], np.zeros((64, 64))], axis=-1).astype(np.uint8)
    firsts = set()
    for seed in range(200):
        found = augment_tile(codes, NEUTRAL, np.random.default_rng(seed), crop_px=61)
        row, col = (int(n) for n in found[0, 0, :2])
        np.testing.assert_array_equal(found, codes[row : row + 61, col : col + 61])
        firsts.add((row, col))
    assert firsts == {(row, col) for row in range(4) for col in range(4)}
    np.testing.assert_array_equal(centre_crop(codes, 60), codes[2:62, 2:62])


# ---- geometry ----


def test_every_second_tile_is_mirrored_left_to_right():
    mirrored = replace(NEUTRAL, flip=True)
    found = [augment_tile(NOISE, mirrored, np.random.default_rng(seed)) for seed in range(200)]
    turned = [not np.array_equal(tile, NOISE) for tile in found]
    assert 70 < sum(turned) < 130
    np.testing.assert_array_equal(found[turned.index(True)], NOISE[:, ::-1])


@pytest.mark.parametrize(("chance", "turns"), [(0.0, 0), (0.249, 0), (0.25, 1), (0.5, 2), (0.999, 3)])
def test_a_tile_is_turned_by_quarters_after_it_was_mirrored(chance, turns):
    turned = augment_tile(NOISE, replace(NEUTRAL, rotations=True), Chance(turns=chance))
    np.testing.assert_array_equal(turned, np.rot90(NOISE, turns))
    both = augment_tile(NOISE, replace(NEUTRAL, flip=True, rotations=True), Chance(mirror=0.0, turns=chance))
    np.testing.assert_array_equal(both, np.rot90(NOISE[:, ::-1], turns))
    assert not GEOMETRIC.rotations  # the paper's


@pytest.mark.parametrize(
    ("chance", "settings", "expected"),
    [
        ({"scale": 0.0}, {"scale": (0.8, 1.2)}, (50 - 0.8 * 30, 50 + 0.8 * 20)),
        ({"scale": 1.0}, {"scale": (0.8, 1.2)}, (50 - 1.2 * 30, 50 + 1.2 * 20)),
        ({"scale": 1.0}, {"scale": (0.8, 1.2), "magnitude": 0.5}, (50 - 1.1 * 30, 50 + 1.1 * 20)),
        # 30 px above the centre: shifted by 30 × tan 10° = 5.290
        ({"shear": 1.0}, {"shear_degrees": 10.0}, (20, 70 - 5.290)),
        ({"shear": 0.0}, {"shear_degrees": 10.0}, (20, 70 + 5.290)),
        ({"shear": 1.0}, {"shear_degrees": 10.0, "magnitude": 2.0}, (20, 70 - 30 * math.tan(math.radians(20)))),
        ({"shear": 1.0, "scale": 0.0, "mirror": 0.0}, {"shear_degrees": 10.0, "scale": (0.8, 1.0), "flip": True},
         (50 - 0.8 * 30, 50 - 0.8 * (20 - 5.290))),
    ],
)  # fmt: skip
def test_a_point_goes_where_the_formula_says(chance, settings, expected):
    """(20, 70) of 101 px is 30 above the centre pixel and 20 right of it."""
    found = augment_tile(spot(20, 70), replace(NEUTRAL, **settings), Chance(**chance))
    assert centre_of(found) == pytest.approx(expected, abs=0.6)


def test_surroundings_are_the_tile_itself_and_beyond_it_its_mirror_image():
    bright = np.full((64, 64, 3), 200, np.uint8)
    for seed in range(20):
        np.testing.assert_array_equal(augment_tile(bright, GEOMETRIC, np.random.default_rng(seed)), bright)
    # A frame of another colour around the crop comes into sight where the zoom shrinks, and no mirror image does.
    framed = bright.copy()
    framed[:16] = framed[-16:] = framed[:, :16] = framed[:, -16:] = 90
    found = augment_tile(framed, replace(NEUTRAL, scale=(0.8, 1.2)), Chance(scale=0.0), crop_px=32)
    assert set(np.unique(found[:3])) == {90}
    assert found[4:-4, 4:-4].min() == 200


# ---- colour ----


def one_colour(*colour):
    return np.full((8, 8, 3), colour, np.uint8)


@pytest.mark.parametrize(
    ("tile", "settings", "chance", "expected"),
    [
        (one_colour(100, 50, 200), {"brightness": (0.9, 1.1)}, {"brightness": 1.0}, (110, 55, 220)),
        (one_colour(100, 50, 200), {"brightness": (0.9, 1.1)}, {"brightness": 0.0}, (90, 45, 180)),
        # luma 0.299 · 100 + 0.587 · 50 + 0.114 · 200 = 82; saturation 2 doubles the distance from it
        (one_colour(100, 50, 200), {"saturation": (1.0, 2.0)}, {"saturation": 1.0}, (118, 18, 255)),
        (one_colour(100, 50, 200), {"saturation": (1.0, 2.0)}, {"saturation": 0.5}, (109, 34, 255)),
        # the mean grey is that luma too
        (one_colour(100, 50, 200), {"contrast": (1.0, 2.0)}, {"contrast": 1.0}, (118, 18, 255)),
        (one_colour(100, 50, 200), {"contrast": (1.0, 2.0), "magnitude": 0.0}, {"contrast": 1.0}, (100, 50, 200)),
        # red turned by a third of the circle is green, by minus a third blue
        (one_colour(255, 0, 0), {"hue": 1 / 3}, {"hue": 1.0}, (0, 255, 0)),
        (one_colour(255, 0, 0), {"hue": 1 / 3}, {"hue": 0.0}, (0, 0, 255)),
    ],
)
def test_colours_by_literals(tile, settings, chance, expected):
    found = augment_tile(tile, replace(NEUTRAL, **settings), Chance(**chance))
    np.testing.assert_allclose(found.reshape(-1, 3), np.broadcast_to(expected, (64, 3)), atol=1)


def test_contrast_is_about_the_mean_grey():
    tile = one_colour(100, 100, 100)
    tile[:, 4:] = 140
    found = augment_tile(tile, replace(NEUTRAL, contrast=(1.0, 2.0)), Chance(contrast=1.0))
    assert (int(found[0, 0, 0]), int(found[0, -1, 0])) == (80, 160)


def test_colour_jitter_stays_within_a_tenth_and_moves_nothing():
    grey = one_colour(120, 120, 120)
    values = {int(augment_tile(grey, COLOUR_JITTER, np.random.default_rng(seed))[0, 0, 0]) for seed in range(300)}
    assert min(values) in (108, 109)  # of 120
    assert max(values) in (131, 132)
    dark = NOISE // 2
    found = augment_tile(dark, COLOUR_JITTER, np.random.default_rng(1))
    assert np.corrcoef(found.ravel(), dark.ravel())[0, 1] > 0.98


# ---- chance ----


@pytest.mark.parametrize("settings", [NEUTRAL, GEOMETRIC, GEOMETRIC_AND_PHOTOMETRIC, COLOUR_JITTER])
def test_every_call_draws_the_same_amount_of_chance(settings):
    generator, other = np.random.default_rng(3), np.random.default_rng(3)
    augment_tile(NOISE, settings, generator, crop_px=32)
    other.uniform(size=10)
    assert generator.random() == other.random()


def test_the_same_chance_gives_the_same_tile():
    first, second, third = (
        augment_tile(NOISE, GEOMETRIC_AND_PHOTOMETRIC, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


def test_presets_are_those_of_the_papers():
    assert (GEOMETRIC.flip, GEOMETRIC.shear_degrees, GEOMETRIC.scale) == (True, 10.0, (0.8, 1.2))
    assert replace(GEOMETRIC_AND_PHOTOMETRIC, contrast=(1.0, 1.0), saturation=(1.0, 1.0)) == GEOMETRIC
    assert (GEOMETRIC_AND_PHOTOMETRIC.contrast, GEOMETRIC_AND_PHOTOMETRIC.saturation) == ((1.0, 2.0), (1.0, 2.0))
    assert (COLOUR_JITTER.hue, COLOUR_JITTER.flip, COLOUR_JITTER.shear_degrees) == (0.01, False, 0.0)
    for preset in (GEOMETRIC, GEOMETRIC_AND_PHOTOMETRIC, COLOUR_JITTER):
        preset.check()


# ---- refusals ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magnitude": -1.0}, "magnitude must be 0 or more"),
        ({"shear_degrees": 61.0}, "shear_degrees × magnitude must be in"),
        ({"hue": 0.3, "magnitude": 2.0}, "hue × magnitude must be in"),
        ({"scale": (1.2, 0.8)}, "scale must be a range from low to high"),
        ({"magnitude": 5.0}, r"scale must be .* got \[0.8, 1.2\] at magnitude 5"),
        ({"contrast": (-0.1, 1.0)}, "contrast must be a range"),
        ({"saturation": (1.0, float("nan"))}, "saturation must be a range"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(BadInput, match=message):
        replace(GEOMETRIC, **changes).check()


@pytest.mark.parametrize(("shape", "crop"), [((8, 9, 3), None), ((8, 8, 4), None), ((8, 8, 3), 9), ((8, 8, 3), 0)])
def test_what_is_no_tile_is_refused(shape, crop):
    with pytest.raises(BadInput, match="expected a square tile"):
        augment_tile(np.zeros(shape, np.uint8), GEOMETRIC, np.random.default_rng(0), crop_px=crop)
