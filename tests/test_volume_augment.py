"""Changes of training volumes: what stays to the bit, where voxels go, intensities by the formula, and chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from digipath.errors import BadInput, BadVolume
from digipath.volume_augment import LEROUSSEAU, PEREIRA, PRESETS, VolumeAugmentation, changed

NEUTRAL = VolumeAugmentation()
NOISE = np.random.default_rng(0).normal(size=(12, 12, 10, 2)).astype(np.float32)
NAMES = ("gamma", "mirror", "turns", "about x", "about y", "about z", "zoom", "sigma", "magnitude", "noise")


class Chance:
    """A generator that gives these numbers, 0.5 where it is not told."""

    def __init__(self, **given):
        self.values = np.array([given.get(name.replace(" ", "_"), 0.5) for name in NAMES])

    def uniform(self, size):
        assert size == len(self.values)
        return self.values


def spot(*at, side=21):
    """A voxel of 1 in a volume of 0, one channel."""
    volume = np.zeros((side, side, side, 1), np.float32)
    volume[at] = 1
    return volume


def centre_of(volume):
    return ndimage.center_of_mass(volume[..., 0])


# ---- what comes from beyond ----


def test_a_background_goes_on_beyond_the_border():
    """A box in a background of −0.5 and 2, its channels' own, far from the border: turned, nothing else comes in."""
    volume = np.full((20, 20, 20, 2), (-0.5, 2), np.float32)
    volume[8:12, 8:12, 8:12] = 1
    settings = replace(LEROUSSEAU, elastic_magnitude_vox=(10.0, 10.0), elastic_sigma_vox=(3.0, 3.0))
    found = changed(volume, settings, Chance(zoom=0.0, about_x=0.9), beyond=(-0.5, 2))
    border = np.ones((20, 20, 20), bool)
    border[4:-4, 4:-4, 4:-4] = False
    np.testing.assert_allclose(found[border], np.broadcast_to((-0.5, 2), found[border].shape), atol=1e-6)
    assert found[10, 10, 10] == pytest.approx(1)
    assert (changed(volume, settings, Chance(zoom=0.0, about_x=0.9))[0, 0, 0] == 0).all()


# ---- what stays ----


@pytest.mark.parametrize("seed", range(5))
def test_neutral_settings_change_no_bit(seed):
    found = changed(NOISE, NEUTRAL, np.random.default_rng(seed))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, NOISE)
    found[:] = 0  # the caller's own
    assert NOISE.any()


def test_elastic_deformation_of_no_magnitude_changes_no_bit():
    still = replace(NEUTRAL, elastic_sigma_vox=(1.0, 10.0), elastic_magnitude_vox=(0.0, 0.0))
    np.testing.assert_array_equal(changed(NOISE, still, np.random.default_rng(1)), NOISE)


@pytest.mark.parametrize("settings", [PEREIRA, LEROUSSEAU])
def test_the_volume_given_is_left_as_it_is(settings):
    volume = NOISE.copy()
    assert changed(volume, settings, np.random.default_rng(2)).shape == NOISE.shape
    np.testing.assert_array_equal(volume, NOISE)


@pytest.mark.parametrize("settings", [PEREIRA, LEROUSSEAU])
def test_channels_are_moved_alike(settings):
    same = np.repeat(NOISE[..., :1], 4, axis=3)
    found = changed(same, settings, np.random.default_rng(3))
    for channel in range(1, 4):
        np.testing.assert_array_equal(found[..., channel], found[..., 0])
    assert not np.array_equal(found[..., 0], same[..., 0])


# ---- geometry ----


def test_every_second_volume_is_mirrored_left_to_right():
    found = [changed(NOISE, replace(NEUTRAL, flip=True), np.random.default_rng(seed)) for seed in range(200)]
    mirrored = [not np.array_equal(one, NOISE) for one in found]
    assert 70 < sum(mirrored) < 130
    np.testing.assert_array_equal(found[mirrored.index(True)], NOISE[::-1])


@pytest.mark.parametrize(("chance", "turns"), [(0.0, 0), (0.249, 0), (0.25, 1), (0.5, 2), (0.999, 3)])
def test_quarter_turns_are_exact_in_the_axial_plane_and_after_the_mirror(chance, turns):
    turned = replace(NEUTRAL, quarter_turns=True)
    by_turn = changed(NOISE, turned, Chance(turns=chance))
    np.testing.assert_array_equal(by_turn, np.rot90(NOISE, turns, axes=(0, 1)))
    both = changed(NOISE, replace(turned, flip=True), Chance(turns=chance, mirror=0.0))
    np.testing.assert_array_equal(both, np.rot90(NOISE[::-1], turns, axes=(0, 1)))


@pytest.mark.parametrize(
    ("axis", "start", "stop"),  # from the centre (10, 10, 10), 6 voxels along an axis, turned by 30°
    [
        ("about_x", (10, 16, 10), (10, 10 + 6 * np.sqrt(0.75), 13)),
        ("about_y", (10, 10, 16), (13, 10, 10 + 6 * np.sqrt(0.75))),
        ("about_z", (16, 10, 10), (10 + 6 * np.sqrt(0.75), 13, 10)),
    ],
)
def test_a_rotation_takes_a_voxel_where_the_angle_says(axis, start, stop):
    settings = replace(NEUTRAL, rotation_degrees=(30.0, 30.0, 30.0))
    assert centre_of(changed(spot(*start), settings, Chance(**{axis: 1.0}))) == pytest.approx(stop, abs=0.35)
    back = changed(spot(*np.rint(stop).astype(int)), settings, Chance(**{axis: 0.0}))
    assert centre_of(back) == pytest.approx(start, abs=0.5)


def test_rotations_are_about_x_then_y_then_z():
    quarter = replace(NEUTRAL, rotation_degrees=(90.0, 90.0, 90.0))
    found = changed(spot(10, 16, 10), quarter, Chance(about_x=1.0, about_y=1.0))  # y → z → x
    np.testing.assert_allclose(found, spot(16, 10, 10), atol=1e-4)
    found = changed(spot(10, 16, 10), quarter, Chance(about_x=1.0, about_z=1.0))  # y → z, which stays
    np.testing.assert_allclose(found, spot(10, 10, 16), atol=1e-4)


def test_a_rotation_by_90_degrees_is_a_quarter_turn():
    turned = changed(NOISE, replace(NEUTRAL, rotation_degrees=(0.0, 0.0, 90.0)), Chance(about_z=1.0))
    np.testing.assert_allclose(turned, np.rot90(NOISE, 1, axes=(0, 1)), atol=1e-4)


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)])
def test_zoom_is_about_the_centre(chance, factor):
    found = changed(spot(16, 6, 8), replace(NEUTRAL, zoom=(0.5, 1.5)), Chance(zoom=chance))
    expected = (10 + 6 * factor, 10 - 4 * factor, 10 - 2 * factor)
    if factor > 0.5:  # at one half, odd voxels fall between those that are shown
        assert centre_of(found) == pytest.approx(expected, abs=0.01)
    assert np.unravel_index(found[..., 0].argmax(), (21, 21, 21)) == tuple(np.rint(expected).astype(int))


def test_what_comes_from_beyond_the_border_is_0():
    full = np.ones((20, 20, 20, 1), np.float32)
    found = changed(full, replace(NEUTRAL, zoom=(0.5, 0.5)), Chance())[..., 0]
    assert (found[6:14, 6:14, 6:14] == 1).all()
    found[4:16, 4:16, 4:16] = 0
    assert not found.any()


def test_mirror_turn_zoom_and_rotation_are_one_interpolation():
    """The mirror and the turn are exact, and zoom and rotation one matrix: SciPy's own interpolation by their product.

    Two steps would blur twice.
    """
    settings = replace(NEUTRAL, flip=True, quarter_turns=True, zoom=(1.1, 1.1), rotation_degrees=(0.0, 0.0, 10.0))
    found = changed(NOISE, settings, Chance(mirror=0.0, turns=0.3, about_z=0.9))
    cosine, sine = np.cos(np.radians(8)), np.sin(np.radians(8))
    back = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]]) / 1.1
    centre = np.array([5.5, 5.5, 4.5])
    for channel in range(2):
        exact = np.rot90(NOISE[::-1, ..., channel], 1, axes=(0, 1))
        once = ndimage.affine_transform(exact, back, centre - back @ centre, order=1, mode="grid-constant")
        np.testing.assert_allclose(found[..., channel], once, atol=1e-4)


# ---- elastic deformation ----


def looked_at(sigma, magnitude, side=40, *, seed=0.5):
    """Where each voxel looks, less where it is, (side, side, side, 3): volumes of the three indices themselves."""
    volume = np.moveaxis(np.indices((side,) * 3, np.float32), 0, -1) + 1000  # so that no voxel is background
    settings = replace(NEUTRAL, elastic_sigma_vox=(sigma, sigma), elastic_magnitude_vox=(magnitude, magnitude))
    return changed(volume, settings, Chance(noise=seed)) - volume


def test_the_displacement_is_smoothed_noise_times_the_magnitude():
    shift = looked_at(3.0, 20.0)
    noise = 2 * np.random.default_rng(2**52).random((3, 40, 40, 40), np.float32) - 1  # the chance 0.5 of 2^53 seeds
    for axis in range(3):
        expected = 20 * ndimage.gaussian_filter(noise[axis], 3, mode="constant", truncate=3)
        inner = (slice(4, -4),) * 3  # where nothing is looked for beyond the border
        np.testing.assert_allclose(shift[..., axis][inner], expected[inner], atol=1e-3)


@pytest.mark.parametrize(("sigma", "magnitude"), [(2.0, 30.0), (4.0, 60.0)])
def test_the_strength_of_the_displacement_is_as_the_docstring_says(sigma, magnitude):
    inner = looked_at(sigma, magnitude, side=60)[12:-12, 12:-12, 12:-12]
    assert inner.std() == pytest.approx(magnitude * 0.0865 / sigma**1.5, rel=0.15)


def test_another_seed_deforms_otherwise():
    first, second = (looked_at(3.0, 20.0, seed=seed)[8:-8, 8:-8, 8:-8] for seed in (0.5, 0.6))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.2


# ---- intensities ----


def test_the_exponent_acts_between_the_least_and_the_greatest():
    volume = np.array([0, -2.0, 0, 0.5, 2.0, -1.0], np.float32).reshape(6, 1, 1, 1)
    found = changed(volume, replace(NEUTRAL, gamma=(0.5, 1.5)), Chance(gamma=1.0)).ravel()
    # −2 + 4 · ((x + 2) / 4)^1.5: of 0.5, 0.625^1.5 = 0.49411; of −1, 0.25^1.5 = 0.125
    np.testing.assert_allclose(found, [0, -2, 0, -2 + 4 * 0.49410588, 2, -1.5], atol=1e-6)
    found = changed(volume, replace(NEUTRAL, gamma=(0.5, 1.5)), Chance(gamma=0.0)).ravel()
    np.testing.assert_allclose(found, [0, -2, 0, -2 + 4 * np.sqrt(0.625), 2, 0], atol=1e-6)


def test_each_channel_has_its_own_range_and_one_exponent():
    volume = np.stack([NOISE[..., 0], 5 + 3 * NOISE[..., 0]], axis=-1)
    found = changed(volume, replace(NEUTRAL, gamma=(0.85, 1.15)), Chance(gamma=1.0))
    np.testing.assert_allclose(found[..., 1], 5 + 3 * found[..., 0], atol=1e-5)
    assert np.abs(found - volume).max() > 0.01


@pytest.mark.parametrize("channel", [np.zeros((3, 3, 3)), np.full((3, 3, 3), -1.5)])
def test_an_empty_and_a_constant_channel_stay(channel):
    volume = channel[..., None].astype(np.float32)
    found = changed(volume, replace(NEUTRAL, gamma=(2.0, 2.0)), Chance())
    np.testing.assert_array_equal(found, volume)


@pytest.mark.parametrize("settings", [PEREIRA, LEROUSSEAU])
@pytest.mark.parametrize("seed", range(4))
def test_background_stays_0(settings, seed):
    ball = np.linalg.norm(np.indices((24,) * 3) - 11.5, axis=0) < 6
    volume = np.where(ball[..., None], np.random.default_rng(9).normal(size=(24, 24, 24, 2)), 0).astype(np.float32)
    found = changed(volume, replace(settings, elastic_magnitude_vox=(0.0, 0.0)), np.random.default_rng(seed))
    far = np.linalg.norm(np.indices((24,) * 3) - 11.5, axis=0) > 6 * 1.2 + 2
    assert found.any()
    assert not found[far].any()


# ---- chance ----


@pytest.mark.parametrize("settings", [NEUTRAL, PEREIRA, LEROUSSEAU])
def test_every_call_draws_the_same_amount_of_chance(settings):
    generator, other = np.random.default_rng(3), np.random.default_rng(3)
    changed(NOISE, settings, generator)
    other.uniform(size=10)
    assert generator.random() == other.random()


def test_the_same_chance_gives_the_same_volume():
    first, second, third = (changed(NOISE, LEROUSSEAU, np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


def test_presets_are_those_of_the_papers():
    assert PRESETS == {"pereira": PEREIRA, "lerousseau": LEROUSSEAU}
    assert (PEREIRA.flip, PEREIRA.quarter_turns, PEREIRA.gamma) == (True, True, (0.85, 1.15))
    assert (PEREIRA.rotation_degrees, PEREIRA.zoom) == ((0, 0, 20), (1, 1))
    assert (LEROUSSEAU.rotation_degrees, LEROUSSEAU.zoom) == ((10, 10, 10), (0.8, 1.2))
    assert (LEROUSSEAU.elastic_sigma_vox, LEROUSSEAU.elastic_magnitude_vox) == ((1, 10), (10, 200))
    assert (LEROUSSEAU.flip, LEROUSSEAU.quarter_turns, LEROUSSEAU.gamma) == (False, False, (1, 1))
    for preset in (PEREIRA, LEROUSSEAU, NEUTRAL):
        preset.check()


# ---- refusals ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zoom": (1.2, 0.8)}, "zoom must be a range from low to high"),
        ({"zoom": (0.0, 1.0)}, r"zoom must be .* in \[0.1, 10\]"),
        ({"elastic_sigma_vox": (-1.0, 1.0)}, "elastic_sigma_vox must be"),
        ({"elastic_magnitude_vox": (0.0, 2000.0)}, r"in \[0, 1000\], got \[0.0, 2000.0\]"),
        ({"gamma": (0.9, float("nan"))}, "gamma must be"),
        ({"rotation_degrees": (0.0, 0.0, 200.0)}, "three angles"),
        ({"rotation_degrees": (10.0, 10.0)}, "three angles"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(BadInput, match=message):
        replace(NEUTRAL, **changes).check()


def test_volumes_of_a_shape_that_cannot_be_changed():
    with pytest.raises(BadVolume, match=r"\(X, Y, Z, channels\), got \(12, 12, 10\)"):
        changed(NOISE[..., 0], NEUTRAL, np.random.default_rng(0))
    with pytest.raises(BadVolume, match="X = Y"):
        changed(NOISE[:8], PEREIRA, np.random.default_rng(0))
    assert changed(NOISE[:8], replace(PEREIRA, quarter_turns=False), np.random.default_rng(0)).shape == (8, 12, 10, 2)
