"""Bias field and standardisation of volumes: what stays, what goes, and what cannot be done."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up_volumes import ellipsoid, head, made_volume

from digipath.errors import BadInput, BadVolume
from digipath.volume import bias_field_corrected, standardised

SHAPE = (40, 36, 32)


def two_tissues(shade):
    """A brain of 2.5 mm voxels with two tissues in blobs, 300 and 500, under a shading (X, Y, Z)."""
    brain = ellipsoid(SHAPE)
    waves = np.meshgrid(*(np.sin(np.arange(side) * 1.1) for side in SHAPE), indexing="ij")
    tissue = np.where(sum(waves) > 0, 500, 300) + np.random.default_rng(0).normal(0, 5, SHAPE)
    values = np.where(brain, tissue * shade, 0).astype(np.float32)
    volume = made_volume(("t1", "t1c"), shape_vox=SHAPE, spacing_mm=(2.5, 2.5, 2.5))
    return replace(volume, voxels=np.stack([values, values * 2], axis=-1)), sum(waves) > 0


def spread_of_tissues(values, brain, bright):
    """Deviation over mean of each tissue."""
    return [values[brain & where].std() / values[brain & where].mean() for where in (bright, ~bright)]


@pytest.fixture(scope="module")
def shaded():
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE), indexing="ij")
    return two_tissues(np.exp(0.4 * x + 0.2 * y * y))


@pytest.fixture(scope="module")
def corrected(shaded):
    return bias_field_corrected(shaded[0])


def test_a_shading_is_taken_out(shaded, corrected):
    volume, bright = shaded
    before = spread_of_tissues(volume.voxels[..., 0], volume.brain, bright)
    after = spread_of_tissues(corrected.voxels[..., 0], volume.brain, bright)
    assert min(before) > 0.14
    assert max(after) < 0.05


def test_outside_the_brain_stays_zero_and_the_rest_of_the_volume_as_it_was(shaded, corrected):
    volume, _ = shaded
    assert corrected.voxels.dtype == np.float32
    assert not corrected.voxels[~volume.brain].any()
    assert corrected.voxels[volume.brain].min() > 0
    assert corrected.affine_mm is volume.affine_mm
    assert corrected.brain is volume.brain
    assert corrected.notes == ("bias field corrected by N4 inside the brain",)


def test_two_corrections_are_equal_to_the_bit(shaded, corrected):
    np.testing.assert_array_equal(bias_field_corrected(shaded[0]).voxels, corrected.voxels)


def test_values_at_and_below_zero_take_no_part_in_the_fit_and_are_divided(shaded, corrected):
    """A few voxels at −50 and 0: their neighbours change by less than 2 %, they keep their sign, and 0 stays 0."""
    volume, _ = shaded
    voxels = volume.voxels.copy()
    voxels[10:12, 18, 10:20] = -50
    voxels[20, 18, 10:20] = 0
    found = bias_field_corrected(replace(volume, voxels=voxels)).voxels
    untouched = volume.brain & (voxels[..., 0] > 0)
    np.testing.assert_allclose(found[untouched], corrected.voxels[untouched], rtol=0.02)
    assert (found[10:12, 18, 10:20] < -25).all()
    assert (found[10:12, 18, 10:20] > -100).all()
    assert not found[20, 18, 10:20].any()


@pytest.mark.parametrize("shape", [(24, 20, 16), (24, 20, 5)], ids=["small", "flat"])
def test_small_and_flat_volumes_are_corrected(shape):
    """What has hardly a field keeps its values to a few per cent."""
    volume = made_volume(("t1",), shape_vox=shape, spacing_mm=(1, 1, 8 if shape[2] == 5 else 1))
    found = bias_field_corrected(volume).voxels[volume.brain]
    ratio = found / volume.voxels[volume.brain]
    assert ratio / np.median(ratio) == pytest.approx(np.ones_like(ratio), abs=0.1)


def test_what_has_no_bias_field_is_refused(shaded):
    volume, _ = shaded
    with pytest.raises(BadVolume, match=r"above 0, to correct the bias field; \d\d% of the brain in t1 is below 0"):
        bias_field_corrected(standardised(volume))
    with pytest.raises(BadVolume, match="expected different intensities above 0 in the brain for a bias field, t1 "):
        bias_field_corrected(replace(volume, voxels=np.where(volume.voxels != 0, 7, 0).astype(np.float32)))


# ---- standardisation ----


def test_inside_the_brain_by_hand():
    """Values 1, 2, 3, 6: mean 3, deviation √3.5."""
    volume = made_volume(("t2",), shape_vox=(2, 2, 2))
    brain = np.zeros((2, 2, 2), bool)
    brain[0] = True
    voxels = np.zeros((2, 2, 2, 1), np.float32)
    voxels[0, ..., 0] = [[1, 2], [3, 6]]
    found = standardised(replace(volume, voxels=voxels, brain=brain))
    assert found.voxels.dtype == np.float32
    np.testing.assert_allclose(found.voxels[0, ..., 0], np.array([[-2, -1], [0, 3]]) / 3.5**0.5, rtol=1e-6)
    assert not found.voxels[1].any()
    assert found.notes == ("intensities standardised inside the brain",)


def test_dark_voxels_inside_are_intensities():
    """0 with other values all around, as fluid in FLAIR: it counts, and lies below the others."""
    volume = made_volume(("flair",))
    voxels = volume.voxels.copy()
    voxels[11:13, 9:11, 7:9] = 0
    found = standardised(replace(volume, voxels=voxels)).voxels[..., 0]
    assert (found[11:13, 9:11, 7:9] < -3).all()
    inside = found[volume.brain].astype(np.float64)
    assert (inside.mean(), inside.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))


def test_over_the_image_by_hand_the_background_becomes_negative():
    """The same beside four zeros: mean 1.5, deviation √4."""
    volume = made_volume(("t2",), shape_vox=(2, 2, 2))
    voxels = np.zeros((2, 2, 2, 1), np.float32)
    voxels[0, ..., 0] = [[1, 2], [3, 6]]
    found = standardised(replace(volume, voxels=voxels, brain=voxels[..., 0] > 0), "image").voxels[..., 0]
    np.testing.assert_allclose(found[0], [[-0.25, 0.25], [0.75, 2.25]], rtol=1e-6)
    np.testing.assert_allclose(found[1], -0.75, rtol=1e-6)


def test_each_modality_by_itself_and_gain_and_offset_do_not_matter():
    volume = made_volume()
    found = standardised(volume).voxels
    for channel in range(4):
        np.testing.assert_allclose(found[..., channel], found[..., 0], atol=1e-5)  # one ramp at four levels
        inside = found[..., channel][volume.brain].astype(np.float64)
        assert inside.mean() == pytest.approx(0, abs=1e-6)
        assert inside.std() == pytest.approx(1, abs=1e-6)
    changed = np.where(volume.brain[..., None], volume.voxels * 3 + 1e5, 0).astype(np.float32)
    np.testing.assert_allclose(standardised(replace(volume, voxels=changed)).voxels, found, atol=1e-2)


def test_sums_are_made_in_float64():
    """A tenth of the voxels at 100,001, the others at 100,000: with sums of float32 they come to 3.02 and −0.31."""
    values = np.full((100, 100, 100, 1), 100_000, np.float32)
    values[::10] += 1
    volume = replace(made_volume(("t1",), shape_vox=(2, 2, 2)), voxels=values, brain=np.ones(values.shape[:3], bool))
    assert np.unique(standardised(volume).voxels).tolist() == pytest.approx([-1 / 3, 3], rel=1e-6)


def test_nothing_to_standardise_is_refused():
    volume = made_volume(("t1", "t2"))
    voxels = volume.voxels.copy()
    voxels[volume.brain, 1] = 0.1
    with pytest.raises(BadVolume, match=r"expected different intensities in the brain, t2 is 0\.1 everywhere"):
        standardised(replace(volume, voxels=voxels))
    with pytest.raises(BadVolume, match=r"expected different intensities in the brain, t2 is 0 everywhere"):
        standardised(replace(volume, voxels=volume.voxels * (1, 0)))
    with pytest.raises(BadInput, match="standardise inside brain or image, got 'head'"):
        standardised(volume, "head")
    assert np.isfinite(standardised(replace(volume, voxels=voxels), "image").voxels).all()  # 0 outside: two values


def test_made_up_heads_are_what_the_tests_think():
    assert head().max() == 208
    assert ellipsoid().sum() == 1744
