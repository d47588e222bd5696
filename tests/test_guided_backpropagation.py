"""Guided backpropagation: against NumPy, against autodiff with the rule written out, and what is refused."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from test_nn import run_on

from digipath.errors import BadInput

sys.path.insert(0, str(Path(__file__).parent))
import explained_by_hand

pytestmark = pytest.mark.keras


def test_both_methods_equal_their_formulas_by_hand():
    """On networks of two convolutions, in two and three dimensions; most maps are not 0."""
    worst = explained_by_hand.worst_errors()
    assert worst["guided"] < 1e-5
    assert worst["grad-cam"] < 1e-5
    assert worst["shown"] > 0.5


def test_they_do_on_jax():
    pytest.importorskip("jax", reason="jax is not installed")
    tests = str(Path(__file__).parent)
    script = f"import sys; sys.path.insert(0, {tests!r}); from explained_by_hand import worst_errors\n"
    script += "worst = worst_errors([2]); print(worst['guided'] < 1e-5, worst['grad-cam'] < 1e-5, worst['shown'] > 0.5)"
    assert run_on("jax", script) == "True True True"


@pytest.mark.parametrize("rank", [2, 3])
def test_the_rule_is_not_the_plain_gradient(rank):
    """By hand it differs, and so it does in what is returned."""
    from digipath.explanations import guided_backpropagation

    network = explained_by_hand.network(rank)
    hand, image = explained_by_hand.ByHand.of(network), np.random.default_rng(1).normal(0, 1, (*(6, 6, 6)[:rank], 2))
    plain, guided = hand.guided(image, 1, rule=False), guided_backpropagation(network, image, target=1)
    assert np.abs(guided - plain).max() > 0.1 * np.abs(plain).max()
    assert (guided < 0).any(), "signed"


@pytest.mark.parametrize("rank", [2, 3])
def test_it_equals_autodiff_with_the_rule_written_out(rank):
    """Layer by layer: TensorFlow's own gradient of each, and explicit masks at the ReLUs."""
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    import keras
    from keras import layers

    from digipath.explanations import guided_backpropagation

    keras.utils.set_random_seed(2)
    conv, pool, mean = {
        2: (layers.Conv2D, layers.MaxPooling2D, layers.GlobalAveragePooling2D),
        3: (layers.Conv3D, layers.MaxPooling3D, layers.GlobalAveragePooling3D),
    }[rank]
    chain = [
        conv(4, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(), conv(6, 3, bias_initializer="normal"),
        layers.BatchNormalization(), layers.Activation("relu"), layers.Dropout(0.5), pool(2), conv(5, 1),
        layers.ReLU(max_value=0.1), mean(), layers.Dense(7, activation="tanh"), layers.Dense(3),
    ]  # fmt: skip
    image = keras.Input((*(10,) * rank, 3))
    x = image
    for layer in chain:
        x = layer(x)
    network = keras.Model(image, layers.Activation("softmax")(x))
    chance = np.random.default_rng(0)
    for norm in (chain[1], chain[4]):
        norm.set_weights([chance.uniform(0.5, 1.5, weight.shape) for weight in norm.get_weights()])
    pixels = chance.normal(0, 1, (*(10,) * rank, 3)).astype(np.float32)
    inputs = [tf.constant(pixels[None])]
    for layer in chain:
        inputs.append(layer(inputs[-1], training=False))
    expected = tf.one_hot([1], 3)
    for layer, given, answer in reversed(list(zip(chain, inputs, inputs[1:], strict=False))):
        if isinstance(layer, layers.ReLU | layers.Activation):
            ceiling = getattr(layer, "max_value", None) or np.inf
            expected = tf.where((answer > 0) & (answer < ceiling) & (expected > 0), expected, 0.0)
            continue
        with tf.GradientTape() as tape:
            tape.watch(given)
            again = layer(given, training=False)
        expected = tape.gradient(again, given, output_gradients=expected)
    assert np.any(inputs[10] == np.float32(0.1)), "the ceiling is reached"
    found = guided_backpropagation(network, pixels, target=1)
    assert np.abs(found).max() > 0
    np.testing.assert_allclose(found, expected[0], atol=1e-6 * np.abs(found).max() + 1e-9, rtol=1e-4)


def test_where_everything_rises_it_is_the_gradient_of_a_residual_network():
    """Positive weights and pixels: no mask ever closes, so that only sums, norms and pooling are left to be right."""
    import keras

    from digipath.explanations import gradients, guided_backpropagation
    from digipath.nn import build

    network = build("grading-3d", input_channels=2, patch=16, widths=(2, 3, 4), dense=(3,))
    chance = np.random.default_rng(0)
    network.set_weights([chance.uniform(0.1, 0.3, weight.shape) for weight in network.get_weights()])
    pixels = chance.uniform(1, 2, (16, 16, 16, 2)).astype(np.float32)
    plain = gradients.gradient(keras.Model(network.input, gradients.logits(network)), pixels[None], 1)
    found = guided_backpropagation(network, pixels, target=1)
    np.testing.assert_allclose(found, gradients.to_numpy(plain)[0], rtol=1e-4, atol=1e-8)
    assert found.min() >= 0
    assert found.max() > 0


def test_the_network_is_left_as_it_was():
    import keras

    from digipath.explanations import guided_backpropagation

    network = explained_by_hand.network(2, fused=True)
    pixels = np.random.default_rng(0).normal(0, 1, (6, 6, 2)).astype(np.float32)
    weights, answer = [one.copy() for one in network.get_weights()], np.asarray(network(pixels[None]))
    state = random.getstate()
    first = guided_backpropagation(network, pixels, target=0)
    assert random.getstate() == state, "Keras' seeds are drawn there"
    assert network.get_layer("conv1").activation is keras.activations.relu
    for now, then in zip(network.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)
    np.testing.assert_array_equal(np.asarray(network(pixels[None])), answer)
    np.testing.assert_array_equal(guided_backpropagation(network, pixels, target=0), first)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("resnet18", {"widths": (4, 4, 4, 4)}),
        ("densenet169-3d", {"blocks": (1, 1, 1, 1), "growth": 4, "initial": 4, "input_channels": 3}),
    ],
)
def test_networks_of_the_library_have_it(name, config):
    import keras

    from digipath.explanations import guided_backpropagation
    from digipath.nn import build

    keras.utils.set_random_seed(1)
    network = build(name, patch=32, **config)
    pixels = np.random.default_rng(0).normal(0, 1, network.input_shape[1:]).astype(np.float32)
    found = guided_backpropagation(network, pixels, target=1)
    assert found.shape == pixels.shape
    assert np.isfinite(found).all()
    assert np.count_nonzero(found) > 0.1 * found.size


def test_columns_that_are_split_by_an_operation_and_layers_of_our_own():
    """As in AlexNet: what is no layer is kept as it is; here each column is the network of the other's channels."""
    import keras
    from keras import layers

    from digipath.explanations import guided_backpropagation
    from digipath.nn.alexnet import ResponseNormalization

    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 4))
    conv = layers.Conv2D(3, 3, activation="relu")
    halves = [ResponseNormalization()(conv(half)) for half in keras.ops.split(image, 2, axis=-1)]
    x = layers.GlobalAveragePooling2D()(layers.Add()(halves))
    network = keras.Model(image, layers.Activation("softmax")(layers.Dense(2)(x)))
    half = np.random.default_rng(0).normal(0, 1, (8, 8, 2)).astype(np.float32)
    found = guided_backpropagation(network, np.concatenate([half, half], axis=-1), target=0)
    np.testing.assert_array_equal(found[..., :2], found[..., 2:])
    assert np.abs(found).max() > 0


def test_what_the_rule_says_nothing_about_is_refused():
    import keras
    from keras import layers

    from digipath.explanations import guided_backpropagation

    def refusal(*chain):
        x = image = keras.Input((8, 8, 3))
        for layer in (*chain, layers.GlobalAveragePooling2D(), layers.Dense(2), layers.Activation("softmax")):
            x = layer(x)
        with pytest.raises(BadInput) as caught:
            guided_backpropagation(keras.Model(image, x, name="mine"), np.zeros((8, 8, 3)), target=0)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    conv, relu = layers.Conv2D(2, 3), layers.ReLU()
    assert refusal(conv) == "guided backpropagation is a rule of ReLUs, 'mine' has none; take Grad-CAM"
    for layer, word in (
        (layers.Conv2D(2, 3, activation="swish", name="a"), "'a' is silu"),
        (layers.Activation("elu", name="b"), "'b' is elu"),
        (layers.LeakyReLU(name="c"), "'c' is LeakyReLU"),
        (layers.ReLU(negative_slope=0.1, name="d"), "'d' is ReLU"),
        (layers.PReLU(name="e"), "'e' is PReLU"),
    ):
        assert f"a rule of ReLU layers, {word}; take Grad-CAM" in refusal(relu, layer)
    assert "is Relu" in refusal(relu, keras.ops.relu)
    inner = keras.Sequential([layers.Input((8, 8, 3)), layers.Conv2D(2, 3, activation="relu")], name="inside")
    assert "whose layers are no networks, 'inside' is one" in refusal(inner, relu)


def test_images_and_classes_that_do_not_fit_are_refused():
    from digipath.explanations import guided_backpropagation

    network = explained_by_hand.network(3, sizes=(6, 6, 6))
    with pytest.raises(BadInput, match=r"an image of the shape \(6, 6, 6, 2\), got \(6, 6, 2\)"):
        guided_backpropagation(network, np.zeros((6, 6, 2)), target=0)
    with pytest.raises(BadInput, match="a class from 0 to 2, got 3"):
        guided_backpropagation(network, np.zeros((6, 6, 6, 2)), target=3)
    with pytest.raises(BadInput, match="finite numbers"):
        guided_backpropagation(network, np.full((6, 6, 6, 2), np.nan), target=0)
