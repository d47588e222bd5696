"""From a volume to the mask of its tumour: patches and stitching, pieces, the network of a card, both runtimes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from made_up_finders import bright_is_tumour

from digipath.errors import BadInput, BadPredictor, BadVolume, Cancelled
from digipath.tumour import as_card_wants, find_tumour, segmenter_predictors, tumour_mask, tumour_probability
from digipath.volume_values import Volume
from digipath.weights import load_card

SHAPE = (37, 30, 21)


def filled(*cuts, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(low, high) for low, high in cuts)] = True
    return mask


@pytest.fixture
def volume():
    """T1c and FLAIR; inside the brain FLAIR is 100, with noise, and 200 in a tumour that reaches the border."""
    brain = filled((2, 37), (3, 28), (0, 19))
    tumour = filled((20, 37), (10, 20), (5, 12)) & brain
    rng = np.random.default_rng(0)
    voxels = np.stack([rng.uniform(50, 60, SHAPE), 100 + 100 * tumour + rng.uniform(-5, 5, SHAPE)], axis=-1)
    return Volume(("t1c", "flair"), (voxels * brain[..., None]).astype(np.float32), np.eye(4), brain, tumour)


def reads_flair(patches):
    """FLAIR / 250 as the probability of the second of two classes."""
    p = patches[..., 1:] / 250
    return np.concatenate([1 - p, p], axis=-1)


@pytest.mark.parametrize("patch", [(16, 16, 16), (64, 64, 64), (8, 12, 10)])
@pytest.mark.parametrize("overlap", [0, 0.5])
def test_patches_are_stitched_over_the_brain(volume, patch, overlap):
    probability = tumour_probability(volume, [reads_flair], patch_vox=patch, overlap=overlap)
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, volume.voxels[..., 1] / 250 * volume.brain, atol=1e-6)


def test_the_channel_of_the_tumour_is_the_one_named(volume):
    probability = tumour_probability(volume, [reads_flair], patch_vox=(16, 16, 16), channel=0)
    np.testing.assert_allclose(probability, (1 - volume.voxels[..., 1] / 250) * volume.brain, atol=1e-6)
    with pytest.raises(BadPredictor, match="class 2 was asked of a predictor of 2 classes"):
        tumour_probability(volume, [reads_flair], patch_vox=(16, 16, 16), channel=2)


def test_several_predictors_are_averaged(volume):
    def half(patches):
        return np.full((*patches.shape[:-1], 2), 0.5, np.float32)

    probability = tumour_probability(volume, [reads_flair, half], patch_vox=(16, 16, 16))
    expected = (volume.voxels[..., 1] / 250 + 0.5) / 2 * volume.brain
    np.testing.assert_allclose(probability, expected, atol=1e-6)


def test_predictors_with_a_context_see_it(volume):
    def within(patches):
        assert patches.shape[1:] == (16, 16, 16, 2)
        return reads_flair(patches[:, 4:-4, 4:-4, 4:-4])

    within.context = 4
    probability = tumour_probability(volume, [within], patch_vox=(16, 16, 16))
    np.testing.assert_allclose(probability, volume.voxels[..., 1] / 250 * volume.brain, atol=1e-6)


def test_the_field_of_view_does_not_matter(volume):
    """A predictor that sees the mean of its surroundings: 0 beyond the brain's box, near and far, never a mirror."""
    from scipy.ndimage import uniform_filter

    def blurred(patches):
        return uniform_filter(patches, (1, 9, 9, 9, 1), mode="constant")[:, 4:-4, 4:-4, 4:-4, 1:] / 250

    blurred.context = 4
    flair = np.pad(volume.voxels[..., 1], 9)
    expected = uniform_filter(flair, 9, mode="constant")[9:-9, 9:-9, 9:-9] / 250 * volume.brain
    wide = [(0, 0), (5, 3), (7, 30)]
    larger = replace(volume, voxels=np.pad(volume.voxels, [*wide, (0, 0)]), brain=np.pad(volume.brain, wide))
    for seen, part in ((volume, np.s_[:, :, :]), (larger, np.s_[:, 5:-3, 7:-30])):
        found = tumour_probability(seen, [blurred], patch_vox=(20, 20, 20), channel=0)
        np.testing.assert_allclose(found[part], expected, atol=1e-5)
        assert found.shape == seen.shape_vox
        assert not found[~seen.brain].any()


def test_progress_is_told_and_cancel_is_asked(volume):
    told = []
    tumour_probability(volume, [reads_flair], patch_vox=(16, 16, 16), progress=told.append)
    assert [one.done for one in told] == list(range(1, told[-1].total + 1))
    with pytest.raises(Cancelled, match="stopped after 1 of"):
        tumour_probability(volume, [reads_flair], patch_vox=(16, 16, 16), cancel=lambda: True)


def test_only_patches_with_brain_are_seen(volume):
    seen = []

    def counting(patches):
        seen.append(len(patches))
        return reads_flair(patches)

    corner = replace(volume, brain=filled((2, 6), (3, 6), (0, 4)))
    tumour_probability(corner, [counting], patch_vox=(8, 8, 8), overlap=0)
    assert sum(seen) == 1


def test_large_pieces_are_kept_and_small_ones_are_not():
    """1000 voxels; 100, which is a tenth; 99; and outside the brain any number."""
    shape = (40, 40, 40)
    largest, tenth = filled((0, 10), (0, 10), (0, 10), shape=shape), filled((20, 30), (0, 10), (0, 1), shape=shape)
    small = filled((20, 29), (20, 31), (0, 1), shape=shape)
    outside = filled((0, 20), (0, 20), (30, 40), shape=shape)
    probability = 0.5 + 0.4 * (largest | tenth | small | outside).astype(np.float32)
    found = tumour_mask(probability, ~outside)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, largest | tenth)


def test_pieces_that_touch_by_a_corner_are_one():
    one, other = filled((0, 5), (0, 5), (0, 5)), filled((5, 6), (5, 6), (5, 6))
    np.testing.assert_array_equal(tumour_mask((one | other) * np.float32(0.6), np.ones(SHAPE, bool)), one | other)


def test_nothing_found_is_told():
    with pytest.raises(BadVolume, match=r"found no voxel of the brain above 0\.5; give an outline"):
        tumour_mask(np.full(SHAPE, 0.5, np.float32), np.ones(SHAPE, bool))


# ---- the network of a card ----

QUIET = {"bias_field": False}
CONFIG = {"widths": [2, 2], "input_channels": 2, "momentum": 0.5}


@pytest.fixture
def card(tmp_path, monkeypatch):
    """Writes a card with its network of weights by hand and loads it."""
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path))

    def write(config=None, *, output="voxels", **asked):
        from digipath.nn import build

        folder = tmp_path / "weights"
        folder.mkdir(exist_ok=True)
        network = build("unet-3d", **CONFIG, **(config or {}))
        bright_is_tumour(network, channel=1, above=1.0)
        file = folder / "test-segmenter-v1.weights.h5"
        network.save_weights(file)
        content = file.read_bytes()
        record = {
            "schema": 1, "name": "test-segmenter-v1", "kind": "network", "task": "test", "output": output,
            "network": {"name": "unet-3d", "config": {**CONFIG, **(config or {})}},
            "classes": ["other", "tumour"], "positive": "tumour", "activation": "softmax",
            "input": {"modality": "volume", "order": ["t1c", "flair"], "size": [16, 16, 16], **QUIET, **asked},
            "file": file.name, "urls": [], "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
            "licence": "CC0-1.0", "citation": "none", "training": {"data": "none", "split": "none"}, "metrics": [],
            "intended_use": "tests", "limits": ["tests"],
        }  # fmt: skip
        (folder / "test-segmenter-v1.json").write_text(json.dumps(record))
        return load_card("test-segmenter-v1")

    return write


@pytest.mark.keras
@pytest.mark.parametrize(("runtime", "precision"), [("keras", "f32"), ("openvino", "f32"), ("openvino", "bf16")])
def test_the_tumour_of_a_volume_is_found(volume, card, runtime, precision):
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="the extra `fast` is not installed")
    found = find_tumour(replace(volume, tumour=None), card(), runtime=runtime, precision=precision)
    np.testing.assert_array_equal(found, volume.tumour)


@pytest.mark.keras
def test_modalities_are_put_in_the_order_of_the_card(volume, card):
    turned = replace(volume, modalities=("flair", "t1c"), voxels=volume.voxels[..., ::-1])
    np.testing.assert_array_equal(find_tumour(turned, card()), volume.tumour)
    with pytest.raises(BadVolume, match="expected t1c, flair, received t1c: give flair"):
        find_tumour(replace(volume, modalities=("t1c",), voxels=volume.voxels[..., :1]), card())


@pytest.mark.keras
def test_a_network_without_padding_sees_around_its_patches(volume, card):
    valid = card({"padding": "valid"}, size=[26, 26, 26])
    (predictor,) = segmenter_predictors(valid, runtime="keras")
    assert (predictor.context, predictor.patch) == (9, 8)
    np.testing.assert_array_equal(find_tumour(volume, valid, runtime="keras"), volume.tumour)


@pytest.mark.keras
def test_a_card_may_want_other_voxels(volume, card):
    """Of 1 mm where the volume has 2 mm: the mask comes back in the volume's own voxels."""
    coarse = replace(volume, affine_mm=np.diag([2.0, 2, 2, 1]))
    wanted = card(spacing_mm=1.0)
    finer = as_card_wants(coarse, wanted.record["input"])
    assert finer.shape_vox == tuple(2 * n for n in SHAPE)
    assert finer.spacing_mm == pytest.approx((1, 1, 1))
    np.testing.assert_allclose(finer.affine_mm[:3, 3], -0.5)
    found = find_tumour(coarse, wanted)
    np.testing.assert_array_equal(found, volume.tumour)
    assert as_card_wants(volume, wanted.record["input"]).shape_vox == SHAPE


@pytest.mark.keras
def test_where_nothing_is_found_the_card_is_named(volume, card):
    """A quarter of the brain is dark, which leaves the others 0.58 deviations above the mean, below 1."""
    dark = np.random.default_rng(0).random((*SHAPE, 1)) < 0.25
    even = replace(volume, voxels=(np.where(dark, [50, 50], [100, 100]) * volume.brain[..., None]).astype(np.float32))
    with pytest.raises(BadVolume, match=r"give an outline of it; it was sought by test-segmenter-v1"):
        find_tumour(even, card())


@pytest.mark.keras
def test_cards_of_other_networks_are_refused(volume, card):
    with pytest.raises(BadInput, match="test-segmenter-v1 does not mark the voxels of a volume"):
        find_tumour(volume, card(output="volume", roi="brain"))


# ---- predictors of volumes ----


@pytest.mark.keras
def test_classifiers_and_slices_are_served_too():
    import keras

    from digipath.nn import build
    from digipath.runtime import Choice, volume_predictor

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    grader = build("grading-3d", widths=(2, 2, 2, 2), dense=(3,), patch=16)
    pixels = keras.Input((33, 35, 3))
    slices = keras.Model(pixels, keras.layers.Dense(2, "softmax")(keras.layers.GlobalMaxPooling2D()(pixels)))
    for network, shape, scaling in (
        (grader, (16, 16, 16, 4), {}),
        (slices, (33, 35, 3), {"scale": (0.01, 0.02, 0.03), "offset": (-1, 0, 1)}),
    ):
        batch = rng.uniform(-2, 2, (3, *shape)).astype(np.float32)
        scaled = batch * np.array(scaling.get("scale", 1)) + np.array(scaling.get("offset", 0))
        expected = np.asarray(network(scaled.astype(np.float32), training=False))
        by_keras = volume_predictor(network, shape, Choice("keras", "f32"), batch=4, **scaling)
        assert (by_keras.context, by_keras.batch) == (0, 4)
        np.testing.assert_allclose(by_keras(batch), expected, atol=1e-5)
        pytest.importorskip("openvino", reason="the extra `fast` is not installed")
        by_openvino = volume_predictor(network, shape, Choice("openvino", "f32"), **scaling)
        assert by_openvino.context == 0
        np.testing.assert_allclose(by_openvino(batch), expected, atol=1e-4)
