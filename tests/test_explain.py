"""Grad-CAM: its closed form, a planted patch, sizes, and what is refused; and `explain`, which chooses the method."""

from __future__ import annotations

import explained_by_hand
import numpy as np
import pytest
from test_nn import run_on

from digipath.errors import BadInput

pytestmark = pytest.mark.keras

# Average over space and a dense layer: α_k is w_kc / (h w), so that the map is that of Σ_k w_kc A_k.
CLOSED_FORM = """
import keras, numpy as np
from digipath.explanations import GradCam, grad_cam
keras.utils.set_random_seed(1)
image = keras.Input((9, 7, 3))
x = keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="conv")(image)
y = keras.layers.Dense(3, name="logits")(keras.layers.GlobalAveragePooling2D()(x))
network = keras.Model(image, keras.layers.Activation("softmax")(y))
pixels = np.random.default_rng(0).normal(0, 1, (9, 7, 3)).astype("f4")
features = np.asarray(keras.Model(image, x)(pixels[None]))[0]
kernel = network.get_layer("logits").get_weights()[0]
worst, cam = 0, GradCam(network)
for target in range(3):
    raw = np.maximum(features @ kernel[:, target], 0)
    for found in (grad_cam(network, pixels, target=target), cam(pixels, target)):
        assert found.shape == (9, 7) and found.dtype == np.float32 and raw.max() > 0
        worst = max(worst, np.abs(found - raw / raw.max()).max())
print(worst < 1e-5)
"""


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_the_closed_form(backend):
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    assert run_on(backend, CLOSED_FORM) == "True"


def by_hand(sign: float = 1.0):
    """Brightness averaged over cells of 4 px → its average → logits (−brightness, sign × brightness)."""
    import keras
    from keras import layers

    image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(1, 4, strides=4, use_bias=False, name="bright")(image)
    x = layers.ReLU(name="relu")(x)
    y = layers.Dense(2, use_bias=False, name="logits")(layers.GlobalAveragePooling2D(name="features")(x))
    network = keras.Model(image, layers.Activation("softmax", name="probability")(y))
    network.get_layer("bright").set_weights([np.full((4, 4, 3, 1), 1 / 48)])
    network.get_layer("logits").set_weights([np.array([[-1.0, sign]])])
    return network


def planted() -> np.ndarray:
    pixels = np.zeros((32, 40, 3), np.float32)
    pixels[8:16, 24:32] = 1
    return pixels


@pytest.mark.parametrize("layer", [None, "relu", "bright"])
def test_a_planted_patch_is_found(layer):
    from digipath.explanations import grad_cam

    found = grad_cam(by_hand(), planted(), target=1, layer=layer)
    assert (found.shape, found.max(), found.min()) == ((32, 40), 1, 0)
    assert (found[10:14, 26:30] == 1).all()  # the centres of its cells
    far = np.ones(found.shape, bool)
    far[6:18, 22:34] = False
    assert (found[far] == 0).all()


def test_nothing_speaks_for_the_other_class():
    from digipath.explanations import grad_cam

    assert (grad_cam(by_hand(), planted(), target=0) == 0).all()
    assert (grad_cam(by_hand(sign=-1.0), planted(), target=1) == 0).all()
    assert (grad_cam(by_hand(), np.zeros((32, 32, 3)), target=1) == 0).all()


def test_logits_that_are_the_output():
    import keras

    from digipath.explanations import grad_cam

    network = by_hand()
    logits = keras.Model(network.input, network.get_layer("logits").output)
    np.testing.assert_array_equal(grad_cam(logits, planted(), target=1), grad_cam(network, planted(), target=1))


def test_a_network_is_cut_once_for_many_images(monkeypatch):
    """Of several sizes and classes, as if each had been asked for by itself; nothing is built on the way."""
    import keras

    from digipath.explanations import GradCam, grad_cam, gradients
    from digipath.nn import build

    keras.utils.set_random_seed(2)  # with some weights few classes have anything that speaks for them
    network = build("resnet18", widths=(4, 6, 8, 8))
    chance = np.random.default_rng(0)
    images = [chance.normal(0, 1, (side, 64, 3)).astype(np.float32) for side in (64, 96, 64)]
    asked = [(image, target) for image in images for target in range(3)]
    alone = [grad_cam(network, image, target=target) for image, target in asked]
    assert sum(heat.max() == 1 for heat in alone) > 3
    cam, gradient, traced = GradCam(network), gradients.gradient, []
    monkeypatch.setattr(keras, "Model", None)
    monkeypatch.setattr(gradients, "gradient", lambda *given: traced.append(1) or gradient(*given))
    for (image, target), expected in zip(asked, alone, strict=True):
        np.testing.assert_allclose(cam(image, target), expected, atol=1e-5)
    assert len(traced) <= (2 if keras.backend.backend() == "tensorflow" else len(asked)), "one graph for each size"


def test_what_the_cut_gives_is_numerically_the_gradient():
    """Against differences of the logits of a network whose features go through a dense layer."""
    import keras
    from keras import layers

    from digipath.explanations import GradCam

    keras.utils.set_random_seed(3)
    image = keras.Input((4, 4, 3))
    features = layers.Conv2D(2, 3, padding="same", name="conv")(image)
    hidden = layers.Dense(5, activation="tanh")(layers.GlobalAveragePooling2D()(features))
    logits = layers.Dense(2)(hidden)
    network = keras.Model(image, layers.Activation("softmax")(logits))
    pixels = np.random.default_rng(0).normal(0, 1, (4, 4, 3)).astype(np.float32)
    behind = keras.Model(features, logits)
    at = np.array(keras.Model(image, features)(pixels[None]))
    for target in (0, 1):
        step = 1e-2 * np.eye(2, dtype=np.float32)[:, None, None]  # added to one feature everywhere
        rise = [np.asarray(behind(at + s) - behind(at - s))[0, target] / 2e-2 / 16 for s in step]
        raw = np.maximum(at[0] @ np.array(rise), 0)
        assert raw.max() > 0
        np.testing.assert_allclose(GradCam(network)(pixels, target), raw / raw.max(), atol=1e-3)


def test_on_a_tile_classifier():
    from digipath.explanations import grad_cam
    from digipath.nn import build

    network = build("resnet18", widths=(4, 6, 8, 8), patch=96)
    pixels = np.random.default_rng(0).normal(0, 1, (96, 96, 3)).astype(np.float32)
    last = grad_cam(network, pixels, target=2)
    np.testing.assert_array_equal(grad_cam(network, pixels, target=2, layer="layer4_1_relu2"), last)
    assert grad_cam(network, pixels, target=2, layer="layer2_1_relu2").shape == (96, 96)
    with pytest.raises(BadInput, match="layer 'layer2_0_conv1' is passed by a shortcut"):
        grad_cam(network, pixels, target=2, layer="layer2_0_conv1")


def test_features_that_a_shortcut_passes_are_named_though_nobody_chose_them():
    import keras
    from keras import layers

    from digipath.explanations import grad_cam

    start = layers.Input((8, 8, 3))
    first = layers.Conv2D(4, 3, name="early")(start)
    last = layers.Conv2D(4, 3, name="late")(first)
    joined = layers.Concatenate()([layers.GlobalAveragePooling2D()(one) for one in (first, last)])
    network = keras.Model(start, layers.Dense(2)(joined))
    with pytest.raises(BadInput, match="layer 'late' is passed by a shortcut"):
        grad_cam(network, np.zeros((8, 8, 3)), target=0)


def test_what_is_refused():
    import keras
    from keras import layers

    from digipath.explanations import grad_cam

    network = by_hand()
    for target in (-1, 2):
        with pytest.raises(BadInput, match=f"a class from 0 to 1, got {target}"):
            grad_cam(network, planted(), target=target)
    for shape in ((32, 32), (32, 32, 4), (1, 32, 32, 3)):
        with pytest.raises(BadInput, match="an image of the shape"):
            grad_cam(network, np.zeros(shape), target=0)
    with pytest.raises(BadInput, match="has no layer 'conv9'"):
        grad_cam(network, planted(), target=0, layer="conv9")
    with pytest.raises(BadInput, match="'features' has no features in space"):
        grad_cam(network, planted(), target=0, layer="features")
    joined = layers.Dense(2, activation="softmax")(network.get_layer("features").output)
    with pytest.raises(BadInput, match="softmax is a layer of its own"):
        grad_cam(keras.Model(network.input, joined), planted(), target=0)


def by_hand_3d(**options):
    """`by_hand` for volumes; its cells are 4 × 4 × 2 voxels."""
    import keras
    from keras import layers

    image = keras.Input((None, None, None, 2), name="image")
    x = layers.Conv3D(1, (4, 4, 2), strides=(4, 4, 2), use_bias=False, name="bright", **options)(image)
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling3D(keepdims=True, name="features")(x)
    x = layers.Reshape((2,))(layers.Conv3D(2, 1, use_bias=False, name="logits")(x))
    network = keras.Model(image, layers.Activation("softmax", name="probability")(x))
    network.get_layer("bright").set_weights([np.full((4, 4, 2, 2, 1), 1 / 64)])
    network.get_layer("logits").set_weights([np.array([-1.0, 1.0]).reshape(1, 1, 1, 1, 2)])
    return network


def planted_3d() -> np.ndarray:
    voxels = np.zeros((16, 24, 10, 2), np.float32)
    voxels[4:8, 16:20, 6:8] = 1
    return voxels


def test_a_planted_patch_is_found_in_a_volume():
    """By the last features with more than one cell, though those behind them have five axes too."""
    from digipath.explanations import grad_cam

    found = grad_cam(by_hand_3d(), planted_3d(), target=1)
    assert (found.shape, found.dtype, found.max(), found.min()) == ((16, 24, 10), np.float32, 1, 0)
    # The cell's centre lies at 5.5 along x and at 6.5 along z; its neighbours' lie 4 and 2 voxels away.
    np.testing.assert_allclose(found[4:12, 18, 6], [5 / 7, 1, 1, 5 / 7, 3 / 7, 1 / 7, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found[6, 18], [0, 0, 0, 0, 0, 1 / 3, 1, 1, 1 / 3, 0], atol=1e-6)
    np.testing.assert_array_equal(grad_cam(by_hand_3d(), planted_3d(), target=1, layer="relu"), found)
    with pytest.raises(BadInput, match="layer 'logits' has no features in space"):
        grad_cam(by_hand_3d(), planted_3d(), target=1, layer="logits")


def residual(**config):
    import keras

    from digipath.nn import build

    keras.utils.set_random_seed(1)
    return build("grading-3d", input_channels=2, patch=16, widths=(2, 3, 4, 4), dense=(4,), **config)


def voxels_16() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (16, 16, 16, 2)).astype(np.float32)


def ending(kind, logits):
    """Logits → the output of a network."""
    import keras
    from keras import layers

    return {
        "activation": lambda: layers.Activation("softmax")(logits),
        "layer": lambda: layers.Softmax()(logits),
        "operation": lambda: keras.ops.softmax(logits),
        "sigmoid": lambda: keras.ops.sigmoid(logits),
        "logarithm": lambda: layers.Activation("log_softmax")(logits),
        "logits": lambda: logits,
    }[kind]()


@pytest.mark.parametrize("kind", ["layer", "operation", "sigmoid", "logarithm", "logits"])
def test_the_logit_is_explained_whatever_makes_probabilities_of_it(kind):
    import keras

    from digipath.explanations import METHODS, explain
    from digipath.explanations.gradients import logits

    def network(kind):
        return keras.Model(whole.input, ending(kind, whole.get_layer("logits").output))

    whole = explained_by_hand.network(2, sizes=(12, 12))
    assert logits(network(kind)) is whole.get_layer("logits").output
    pixels = np.random.default_rng(0).normal(0, 1, (12, 12, 2)).astype(np.float32)
    for method in METHODS:
        found, expected = (explain(network(one), pixels, method=method, target=1) for one in (kind, "activation"))
        np.testing.assert_array_equal(found, expected)


def test_logits_within_the_last_layer_are_refused():
    import keras
    from keras import layers

    from digipath.explanations import grad_cam

    whole = explained_by_hand.network(2, sizes=(12, 12))
    features, pixels = whole.get_layer("mean").output, np.zeros((12, 12, 2), np.float32)
    inner = keras.Input((5,))
    head = keras.Model(inner, layers.Softmax()(layers.Dense(3)(inner)), name="head")
    masked = layers.Softmax(name="masked")(layers.Dense(3)(features), layers.Dense(3)(features) > 0)
    for output, message in (
        (head(features), "ends in the network 'head': join both"),
        (layers.Dense(3, activation="softmax", name="both")(features), "softmax is a layer of its own, .* of 'both'"),
        (masked, "'masked' has a mask too"),
    ):
        with pytest.raises(BadInput, match=message):
            grad_cam(keras.Model(whole.input, output), pixels, target=0)
    plain = keras.Model(inner, layers.Dense(3)(inner))
    assert grad_cam(keras.Model(whole.input, plain(features)), pixels, target=0).shape == (12, 12)


def test_explain_takes_the_third_and_the_fourth_block_of_a_residual_network():
    from digipath.explanations import explain, grad_cam

    network, voxels = residual(), voxels_16()
    third, fourth = (grad_cam(network, voxels, target=0, layer=name) for name in ("res3", "res4"))
    assert (third.max(), fourth.max()) == (1, 1)
    assert np.abs(third - fourth).max() > 0.1
    both = (third + fourth) / 2
    found = explain(network, voxels, target=0)
    np.testing.assert_allclose(found, both / both.max(), atol=1e-6)
    assert (found.dtype, found.min() >= 0, found.max()) == (np.float32, True, 1)
    np.testing.assert_array_equal(explain(network, voxels, target=0, layer=["res3", "res4"]), found)
    np.testing.assert_array_equal(explain(network, voxels, target=0, layer="res3"), third)


def test_explain_takes_the_last_features_of_any_other_network():
    from digipath.explanations import explain, grad_cam

    np.testing.assert_array_equal(explain(by_hand(), planted(), target=1), grad_cam(by_hand(), planted(), target=1))


def test_explain_asks_for_the_class_that_the_network_calls():
    from digipath.explanations import explain

    network, voxels = residual(), voxels_16()
    called = int(np.asarray(network(voxels[None]))[0].argmax())
    for method in ("grad-cam", "guided-backpropagation"):
        found = [explain(network, voxels, method=method, target=target) for target in (called, 1 - called)]
        np.testing.assert_array_equal(explain(network, voxels, method=method), found[0])
        assert np.abs(found[0] - found[1]).max() > 0.1


def test_guided_backpropagation_becomes_one_map_that_is_high_where_it_matters():
    """The largest magnitude over the channels."""
    from digipath.explanations import explain, guided_backpropagation

    network, voxels = residual(), voxels_16()
    signed = guided_backpropagation(network, voxels, target=1)
    found = explain(network, voxels, method="guided-backpropagation", target=1)
    np.testing.assert_allclose(found, np.abs(signed).max(axis=-1) / np.abs(signed).max(), rtol=1e-6)
    assert (found.shape, found.dtype, found.max()) == ((16, 16, 16), np.float32, 1)


def test_a_falling_gradient_counts_as_much_as_a_rising_one():
    """−2 by the first channel in the left half, where it is below 0, and 1 by the second in the right."""
    import keras
    from keras import layers

    from digipath.explanations import explain, guided_backpropagation

    image = keras.Input((4, 6, 2))
    x = layers.ReLU()(layers.Conv2D(2, 1, use_bias=False, name="conv")(image))
    network = keras.Model(image, layers.Dense(2, use_bias=False, name="logits")(layers.GlobalAveragePooling2D()(x)))
    network.get_layer("conv").set_weights([np.array([[[[-2.0, 0], [0, 1]]]])])
    network.get_layer("logits").set_weights([np.ones((2, 2))])
    pixels = np.zeros((4, 6, 2), np.float32)
    pixels[:, :3, 0], pixels[:, 3:, 1] = -1, 1
    signed = guided_backpropagation(network, pixels, target=0)
    assert (signed[:, :3, 0] < 0).all()
    found = explain(network, pixels, method="guided-backpropagation", target=0)
    np.testing.assert_allclose(found, np.where(np.arange(6) < 3, 1, 0.5) * np.ones((4, 1)), rtol=1e-6)


def test_what_explain_refuses():
    import keras
    from keras import layers

    from digipath.explanations import explain
    from digipath.nn import build

    network, voxels = residual(), voxels_16()
    for options, message in (
        ({"method": "lime"}, "a method among grad-cam, guided-backpropagation, got 'lime'"),
        ({"layer": "res9"}, "has no layer 'res9'"),
        ({"layer": []}, "expected the names of one layer or more, got none"),
        ({"target": 2}, "a class from 0 to 1, got 2"),
        ({"layer": "res3", "method": "guided-backpropagation"}, "goes back to the image itself"),
    ):
        with pytest.raises(BadInput, match=message):
            explain(network, voxels, **options)
    with pytest.raises(BadInput, match=r"an image of the shape \(16, 16, 16, 2\), got \(16, 16, 16, 1\)"):
        explain(network, voxels[..., :1])
    with pytest.raises(BadInput, match="finite numbers"):
        explain(network, np.where(voxels > 3, np.nan, voxels))
    with pytest.raises(BadInput, match="classes of a whole image"):
        explain(build("unet-small", patch=32), np.zeros((32, 32, 3)))
    unbuilt = keras.Sequential([layers.Flatten(), layers.Dense(2)], name="unbuilt")
    with pytest.raises(BadInput, match="made of layers with one input and one output, got 'unbuilt'"):
        explain(unbuilt, np.zeros((8, 8, 3)))
    image = keras.Input((8, 8, 3))
    flat = keras.Model(image, layers.Dense(2)(layers.Flatten()(image)))
    with pytest.raises(BadInput, match="has no features in space"):
        explain(flat, np.zeros((8, 8, 3)))


def test_a_network_without_relus_has_grad_cam_alone():
    import keras

    from digipath.explanations import explain
    from digipath.nn import build

    keras.utils.set_random_seed(1)
    network = build("efficientnet-b0", patch=32)
    pixels = np.random.default_rng(0).normal(0, 1, (32, 32, 3)).astype(np.float32)
    with pytest.raises(BadInput, match=r"a rule of ReLU layers, '.*' is s.*; take Grad-CAM"):
        explain(network, pixels, method="guided-backpropagation")
    assert explain(network, pixels, layer="block4a_expand_activation").shape == (32, 32)
