"""Augmentation: image and mask stay together, changes stay within bounds, and chance is repeatable."""

from __future__ import annotations

import colorsys
from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.color import hed_from_rgb

from digipath.augment import LARGEST, Augmentation, augment, source_px
from digipath.errors import BadInput

NOTHING = Augmentation(
    flips=False, rotations=False, blur_sigma_px=0, blur_chance=0, brightness=0, contrast=0, saturation=0, hue=0
)
EVERYTHING = Augmentation(blur_chance=0.5, stain_gain=0.2, stain_shift=0.05, scale=0.25)


def picture(side=64, seed=0, low=70, high=185):
    """Smooth colours away from black and white, so that small changes are not cut off."""
    noise = np.random.default_rng(seed).normal(size=(side, side, 3))
    smooth = ndimage.gaussian_filter(noise, (3, 3, 0))
    return (low + (high - low) * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


def mask_of(side=64, classes=1):
    """Discs off the centre: no symmetry leaves them where they are."""
    rows, columns = np.mgrid[:side, :side]
    discs = [np.hypot(rows - side * 0.3 - 4 * i, columns - side * 0.55) < side / 5 for i in range(classes)]
    return np.stack(discs, axis=-1).astype(np.float32)


def many(image, settings, count=200, mask=None):
    """Results of `count` calls on one generator, the images as one array."""
    rng = np.random.default_rng(0)
    mask = np.zeros((*image.shape[:2], 1), np.float32) if mask is None else mask
    return np.stack([augment(image, mask, settings, rng)[0] for _ in range(count)])


def eight(array):
    """All symmetries of the square, by transposition and mirrors alone."""
    return [s[::a, ::b] for s in (array, array.swapaxes(0, 1)) for a in (1, -1) for b in (1, -1)]


def test_nothing_switched_on_changes_nothing():
    image, mask = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8), mask_of(96, 3).astype(np.uint8)
    out, moved = augment(image, mask, NOTHING, np.random.default_rng(5))
    assert (out.dtype, moved.dtype) == (np.float32, np.uint8)
    np.testing.assert_array_equal(out, image)
    np.testing.assert_array_equal(moved, mask)


def test_the_same_chance_gives_the_same_patch():
    image, mask = picture(80), mask_of(80)
    first, again, other = (augment(image, mask, EVERYTHING, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert np.abs(first[0] - other[0]).max() > 1
    np.testing.assert_array_equal(image, picture(80))  # what was given is as it was
    np.testing.assert_array_equal(mask, mask_of(80))


def test_every_call_draws_as_much_chance_whatever_is_on():
    left = []
    for settings in (NOTHING, replace(EVERYTHING, scale=0.0), Augmentation()):
        rng = np.random.default_rng(3)
        augment(picture(), mask_of(), settings, rng)
        left.append(rng.random())
    assert len(set(left)) == 1


@pytest.mark.parametrize(
    ("flips", "rotations", "reached"),
    [(True, True, range(8)), (True, False, range(4)), (False, True, (0, 3, 5, 6)), (False, False, (0,))],
)
def test_symmetries_are_exact_for_image_and_mask_and_equally_likely(flips, rotations, reached):
    image, mask = picture(16), mask_of(16)
    expected = list(zip(eight(image), eight(mask), strict=True))
    rng, counts = np.random.default_rng(0), np.zeros(8, int)
    for _ in range(400):
        out, moved = augment(image, mask, replace(NOTHING, flips=flips, rotations=rotations), rng)
        (which,) = [i for i, (one, _) in enumerate(expected) if np.array_equal(one, out)]
        np.testing.assert_array_equal(moved, expected[which][1])
        counts[which] += 1
    assert set(np.flatnonzero(counts)) == set(reached)
    even = 400 / len(reached)
    assert (np.abs(counts[counts > 0] - even) < 4.5 * np.sqrt(even)).all()


def test_turning_back_gives_the_patch_again():
    """The inverse of each symmetry is one of them: mask and image come back bit by bit."""
    image, mask = picture(32), mask_of(32, 2)
    settings = replace(NOTHING, flips=True, rotations=True)
    for seed in range(20):
        out, moved = augment(image, mask, settings, np.random.default_rng(seed))
        back = [i for i, view in enumerate(eight(out)) if np.array_equal(view, image)]
        assert len(back) == 1
        np.testing.assert_array_equal(eight(moved)[back[0]], mask)


@pytest.mark.parametrize("seed", range(12))
def test_the_mask_lies_where_the_image_says(seed):
    """The mask is painted into the image, dark on bright: what is dark afterwards is the mask."""
    settings = replace(EVERYTHING, blur_sigma_px=1.0, blur_chance=1.0, brightness=0.1, contrast=0.5)
    side = source_px(settings, 128)
    mask = mask_of(side)
    image = np.where(mask > 0, np.uint8(60), np.uint8(200)).repeat(3, axis=2)
    out, moved = augment(image, mask, settings, np.random.default_rng(seed))
    assert set(np.unique(moved)) <= {0.0, 1.0}
    grey = out.mean(axis=2)
    dark = grey < (grey.min() + grey.max()) / 2
    wrong = dark ^ (moved[..., 0] > 0)
    assert moved.sum() > 500
    inside, outside = (ndimage.binary_erosion(part, border_value=1) for part in (moved[..., 0] > 0, moved[..., 0] == 0))
    assert not wrong[inside | outside].any()  # nothing more than a pixel from the border
    assert wrong.sum() < 0.2 * (~(inside | outside)).sum()


@pytest.mark.parametrize("scale", [0.1, 0.25, 0.3, 0.5])
def test_any_patch_can_be_zoomed_and_its_size_comes_back(scale):
    for patch in (31, 32, 100, 256):
        settings = replace(NOTHING, scale=scale)
        side = source_px(settings, patch)
        out, mask = augment(np.zeros((side, side, 3), np.uint8), mask_of(side), settings, np.random.default_rng(1))
        assert out.shape == (patch, patch, 3)
        assert mask.shape == (patch, patch, 1)


def test_zoom_magnifies_about_the_centre_within_its_bounds():
    """The side of a square is measured by its area; a patch of 100 px sees 75 to 125 px of the source."""
    settings = replace(NOTHING, scale=0.25)
    side = source_px(settings, 100)
    assert side == 125
    mask = np.zeros((side, side, 1), np.float32)
    mask[42:83, 42:83] = 1  # 41 px about the centre
    rng = np.random.default_rng(0)
    masks = [augment(np.zeros((side, side, 3), np.uint8), mask, settings, rng)[1][..., 0] for _ in range(100)]
    sides = np.sqrt([m.sum() for m in masks])
    assert 41 / 1.25 - 1 < sides.min() < 35
    assert 52 < sides.max() < 41 / 0.75 + 1
    centres = np.array([ndimage.center_of_mass(m) for m in masks])
    assert np.abs(centres - 49.5).max() <= 0.75


def test_brightness_adds_the_same_to_all_within_its_bound():
    image = picture()
    change = many(image, replace(NOTHING, brightness=64 / 255)) - image
    assert np.ptp(change.reshape(200, -1), axis=1).max() < 1e-3
    deltas = change.mean(axis=(1, 2, 3))
    assert deltas.min() < -55
    assert deltas.max() > 55
    assert np.abs(deltas).max() <= 64
    assert abs(deltas.mean()) < 8  # 64 / √3 / √200 = 2.6 is its standard error


def test_contrast_scales_about_the_mean_of_each_channel():
    image = picture(low=110, high=150).astype(np.float64)
    out = many(image.astype(np.uint8), replace(NOTHING, contrast=0.75))
    image = image.astype(np.uint8).astype(np.float64)
    mean = image.mean(axis=(0, 1))
    np.testing.assert_allclose(out.mean(axis=(1, 2)), np.broadcast_to(mean, (200, 3)), atol=0.01)
    factors = out.std(axis=(1, 2)) / image.std(axis=(0, 1))
    assert np.ptp(factors, axis=1).max() < 1e-3
    assert 0.25 <= factors.min() < 0.3
    assert 1.7 < factors.max() <= 1.75
    np.testing.assert_allclose(out[0], mean + factors[0] * (image - mean), atol=0.01)


def test_saturation_scales_chroma_and_keeps_luma():
    image = picture()
    out = many(image, replace(NOTHING, saturation=0.25))
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(out @ luma, np.broadcast_to(image @ luma, out.shape[:-1]), atol=0.05)
    chroma = np.array([-0.5, 0.0, 0.5])  # any difference of channels is chroma
    factors = (out @ chroma).std(axis=(1, 2)) / (image @ chroma).std()
    assert 0.75 <= factors.min() < 0.77
    assert 1.23 < factors.max() <= 1.2501


def test_hue_turns_about_the_circle_by_its_share():
    """Red of little saturation: its hue in HSV moves by up to 0.04 of the circle, about evenly to both sides."""
    image = np.full((8, 8, 3), (160, 120, 120), np.uint8)
    out = many(image, replace(NOTHING, hue=0.04))[:, 0, 0]
    hues = np.array([(colorsys.rgb_to_hsv(*(pixel / 255))[0] + 0.5) % 1 - 0.5 for pixel in out])
    assert -0.06 < hues.min() < -0.025
    assert 0.025 < hues.max() < 0.06
    luma = out @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(luma, 131.96, atol=0.05)


def test_hue_of_the_whole_circle_comes_back():
    image = picture()
    rng = np.random.default_rng(0)
    halves = [augment(image, mask_of(), replace(NOTHING, hue=0.5), rng)[0] for _ in range(50)]
    chroma = np.stack(halves) @ np.array([0.595716, -0.274453, -0.321263])
    assert chroma[:, 0, 0].min() < 0 < chroma[:, 0, 0].max()


def test_grey_stays_grey_under_colour_changes():
    grey = np.repeat(picture()[..., :1], 3, axis=2)
    out = many(grey, replace(NOTHING, contrast=0.5, brightness=0.1, saturation=0.25, hue=0.04))
    assert np.ptp(out, axis=-1).max() < 0.05


def test_blur_is_a_gaussian_up_to_its_sigma():
    spot = np.zeros((33, 33, 3), np.uint8)
    spot[16, 16] = 255
    out = many(spot, replace(NOTHING, blur_sigma_px=1.0, blur_chance=1.0))[..., 0]
    np.testing.assert_allclose(out.sum(axis=(1, 2)), 255, rtol=1e-4)
    offsets = np.arange(33) - 16
    sigmas = np.sqrt((out.sum(axis=1) * offsets**2).sum(axis=1) / 255)
    assert sigmas.min() < 0.1
    assert 0.9 < sigmas.max() <= 1.0
    sharp = many(spot, replace(NOTHING, blur_sigma_px=1.0, blur_chance=0.3))[:, 16, 16, 0]
    assert 0.6 < (sharp > 254).mean() < 0.85  # 0.7, and those of almost no sigma


def test_blur_does_not_darken_the_border():
    image = np.full((40, 40, 3), 200, np.uint8)
    np.testing.assert_allclose(many(image, replace(NOTHING, blur_sigma_px=3.0, blur_chance=1.0), 20), 200, atol=0.01)


def test_stain_gain_scales_each_stain_and_leaves_white():
    image = picture(low=90, high=200)
    image[0, 0] = 255
    out = many(image, replace(NOTHING, stain_gain=0.2))
    np.testing.assert_allclose(out[:, 0, 0], 255, atol=0.01)
    before, after = (-np.log((pixels + 1.0) / 256) @ hed_from_rgb for pixels in (image[5:9, 5:9], out[:, 5:9, 5:9]))
    uncut = (out[:, 5:9, 5:9].min(axis=(1, 2, 3)) > 1) & (out[:, 5:9, 5:9].max(axis=(1, 2, 3)) < 254)
    assert uncut.sum() > 100
    factors = (after / before)[uncut]
    assert np.ptp(factors, axis=(1, 2)).max() < 0.01  # one for all pixels
    factors = factors[:, 0, 0]
    assert (np.abs(factors - 1) < 0.201).all()
    assert (factors.min(axis=0) < 0.83).all()
    assert (factors.max(axis=0) > 1.17).all()
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.35  # each stain for itself


def test_stain_shift_adds_to_the_amount_of_each_stain():
    image = np.full((8, 8, 3), 120, np.uint8)
    out = many(image, replace(NOTHING, stain_shift=0.06))[:, 0, 0]
    shifts = -np.log((out + 1) / 121) @ hed_from_rgb
    assert np.abs(shifts).max() <= 0.0601
    assert (np.ptp(shifts, axis=0) > 0.11).all()
    assert np.abs(np.corrcoef(shifts.T) - np.eye(3)).max() < 0.35  # each stain for itself


def test_all_at_once_stays_within_the_range_of_bytes():
    settings = replace(EVERYTHING, brightness=0.5, contrast=1.0, saturation=1.0, hue=0.5, blur_chance=1.0)
    side = source_px(settings, 48)
    out = many(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8), settings, 50)
    assert (out.min(), out.max()) == (0, 255)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("name", LARGEST)
def test_values_out_of_range_are_refused(name):
    for value in (-0.01, LARGEST[name] * 1.01, float("nan")):
        with pytest.raises(BadInput, match=rf"{name} must be in \[0, "):
            replace(NOTHING, **{name: value}).check()
    replace(NOTHING, **{name: LARGEST[name]}).check()


def test_every_number_has_a_range_and_the_defaults_are_the_papers():
    numbers = {field.name for field in fields(Augmentation)} - {"flips", "rotations"}
    assert set(LARGEST) == numbers
    default = Augmentation()
    default.check()
    assert (default.brightness, default.contrast, default.saturation, default.hue) == (64 / 255, 0.75, 0.25, 0.04)


@pytest.mark.parametrize("shape", [(64, 32, 3), (64, 64), (64, 64, 4)])
def test_what_is_no_square_picture_is_refused(shape):
    with pytest.raises(BadInput, match="square image"):
        augment(np.zeros(shape, np.uint8), mask_of(64), NOTHING, np.random.default_rng(0))
    with pytest.raises(BadInput, match="square image"):
        augment(picture(64), mask_of(32), NOTHING, np.random.default_rng(0))


@pytest.mark.real_data
def test_a_real_crop_stays_tissue(shared_data):
    """Under the milder settings for small data sets no patch loses its nuclei: dark and bright stay apart."""
    (path, *_) = sorted((shared_data / "camelyon_tumour" / "images").glob("*.jpg"))
    image = np.asarray(Image.open(path).convert("RGB"))[:320, :320]
    settings = Augmentation(brightness=0.1, contrast=0.2, stain_gain=0.24, stain_shift=0.06, scale=0.25)
    out = many(image, settings, 40)
    assert out.shape == (40, 256, 256, 3)
    spread = out.mean(axis=-1).std(axis=(1, 2)) / image.mean(axis=-1).std()
    assert spread.min() > 0.4
    assert spread.max() < 1.6
    assert np.ptp(out.mean(axis=(1, 2)), axis=0).min() > 30  # and yet the colours vary
