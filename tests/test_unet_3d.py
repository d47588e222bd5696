"""The 3D U-Net: the docstring's table, parameters by hand, valid against same padding, what it can learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from test_nn import run_on

from digipath.errors import BadInput

pytestmark = pytest.mark.keras


def built(**config):
    from digipath.nn import build

    return build("unet-3d", **config)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)


def sizes(network, names: str) -> list[tuple[int, int]]:
    """(side, channels) of layers whose output is a cube."""
    shapes = [network.get_layer(name).output.shape[1:] for name in names.split()]
    assert all(x == y == z for x, y, z, _ in shapes)
    return [(shape[0], shape[-1]) for shape in shapes]


DOWN = "image stem enc1 pool1 enc2 pool2 enc3 pool3 enc4"
LAYERS = f"{DOWN} decoder3_up decoder3 decoder2_up decoder2 decoder1_up decoder1"


def test_sizes_without_padding_are_those_of_the_table():
    network = built(patch=126, padding="valid")
    down = [(126, 4), (124, 16), (120, 16), (60, 16), (56, 32), (28, 32), (24, 64), (12, 64), (8, 128)]
    up = [(16, 64), (12, 64), (24, 32), (20, 32), (40, 16), (36, 16)]
    assert sizes(network, LAYERS) == down + up
    crops = [network.get_layer(f"decoder{level}_skip").cropping[0] for level in (3, 2, 1)]
    assert crops == [(4, 4), (16, 16), (40, 40)]
    assert sizes(network, "logits probability") == [(36, 2), (36, 2)]


def test_sizes_with_padding():
    network = built(patch=64)
    down = [(64, 4), (64, 16), (64, 16), (32, 16), (32, 32), (16, 32), (16, 64), (8, 64), (8, 128)]
    assert sizes(network, LAYERS) == [*down, (16, 64), (16, 64), (32, 32), (32, 32), (64, 16), (64, 16)]
    assert built(patch=(16, 24, 32)).output_shape == (None, 16, 24, 32, 2)
    assert built().output_shape == (None, None, None, None, 2)


def block(before: int, width: int) -> int:
    """Parameters of a residual block by hand: two norms of 4, two kernels of 27, the shortcut where it is needed."""
    shortcut = before * width if before != width else 0
    return 4 * before + 27 * before * width + 4 * width + 27 * width * width + shortcut


@pytest.mark.parametrize("widths", [(16, 32, 64, 128), (4, 4, 6), (3, 5)])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_parameters_by_hand(widths, padding):
    expected = 27 * 3 * widths[0] + block(widths[0], widths[0])
    for before, width in itertools.pairwise(widths):
        expected += block(before, width) + width * before + block(before, before)  # down; 1³ and up
    expected += 4 * widths[0] + widths[0] * 5 + 5
    assert built(widths=widths, padding=padding, input_channels=3, classes=5).count_params() == expected


def test_the_default_has_the_size_that_it_says():
    assert built().count_params() == 1_200_738


def test_dropout_takes_whole_channels_in_every_block():
    from keras import layers

    found = [layer for layer in built().layers if isinstance(layer, layers.SpatialDropout3D)]
    assert [layer.rate for layer in found] == [0.05] * 7
    assert not [layer for layer in built(dropout=0).layers if isinstance(layer, layers.SpatialDropout3D)]


def test_blocks_activate_before_they_convolve_and_end_in_a_sum():
    network = built(patch=16)
    for name in ("enc2", "decoder1"):
        names = [layer.name for layer in network.layers if layer.name.startswith(f"{name}_")]
        beside = {f"{name}_{one}" for one in ("shortcut", "match", "up", "sum")}
        chain = [one.removeprefix(f"{name}_") for one in names if one not in beside]
        assert chain == ["1_bn", "1_relu", "conv1", "2_bn", "2_relu", "dropout", "conv2"]
        assert type(network.get_layer(name)).__name__ == "Add"


def test_layers_behind_the_encoder_are_told_apart():
    from digipath.nn.encoder import body_layers, encoder_layers

    network = built()
    names = {layer.name.split("_")[0] for layer in encoder_layers(network)}
    assert names == {"stem", "enc1", "enc2", "enc3", "enc4"}
    with_weights = {layer.name for layer in network.layers if layer.weights}
    assert with_weights - {layer.name for layer in body_layers(network)} == {"logits"}


@pytest.mark.parametrize(("widths", "patch", "context"), [((3, 4), 20, 9), ((3, 4, 5), 46, 21)])
def test_without_padding_it_answers_what_it_answers_with_padding_far_from_the_borders(widths, patch, context):
    """The padded network begins one voxel earlier, so that both pool the same voxels together."""
    import keras

    from digipath.nn.unet_3d import context_of

    keras.utils.set_random_seed(0)
    same, valid = (built(widths=widths, padding=padding) for padding in ("same", "valid"))
    rng = np.random.default_rng(1)
    weights = [w + rng.normal(0, 0.1, w.shape).astype(np.float32) ** 2 for w in same.get_weights()]
    same.set_weights(weights)
    valid.set_weights(weights)
    image = noise(1, *[patch + 2] * 3, 4)
    expected = np.asarray(same(image, training=False))
    found = np.asarray(valid(image[:, 1:-1, 1:-1, 1:-1], training=False))
    assert context_of({"widths": widths, "padding": "valid"}) == context == (patch - found.shape[1]) // 2
    inside = slice(1 + context, 1 + context + found.shape[1])
    assert found.std() > 1e-3
    np.testing.assert_allclose(found, expected[:, inside, inside, inside], atol=1e-5)


def test_the_context_is_known_without_building():
    from digipath.nn.unet_3d import context_of

    assert context_of({}) == context_of({"padding": "same"}) == 0
    assert context_of({"padding": "valid"}) == 45
    assert context_of({"padding": "valid", "widths": [8, 8, 8]}) == 21


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"patch": 60}, "suit 4 resolutions with padding 'same', got 60; the next that fits is 64"),
        ({"patch": (64, 64, 60)}, "got 60; the next that fits is 64"),
        ({"patch": 128, "padding": "valid"}, "4 resolutions with padding 'valid', got 128; the next that fits is 134"),
        ({"patch": 86, "padding": "valid"}, "got 86; the next that fits is 94"),
        ({"patch": 1, "padding": "valid", "widths": (4, 4, 4)}, "got 1; the next that fits is 46"),
        ({"patch": (64, 64)}, "one or three positive sides"),
        ({"patch": 0}, "one or three positive sides"),
        ({"widths": (16,)}, "at least 2 positive widths"),
        ({"widths": (16, 0)}, "at least 2 positive widths"),
        ({"padding": "full"}, "a padding among same, valid, got 'full'"),
        ({"dropout": 1.0}, "dropout in"),
        ({"momentum": 1.0}, "momentum in"),
        ({"input_channels": 0}, "at least one input channel"),
        ({"classes": 1}, "softmax over one class"),
    ],
)
def test_settings_that_cannot_be(config, message):
    with pytest.raises(BadInput, match=message):
        built(**config)


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_patches_that_fit_are_those_that_keras_can_build(levels):
    """Of all sides up to 110, without padding: the check agrees with the layers' arithmetic."""
    from digipath.nn.unet_3d import _fits

    def answer(side: int) -> int | None:
        sides, x = [], side - 2
        for level in range(levels):
            x -= 4
            if x < 1 or (level < levels - 1 and x % 2):
                return None
            sides.append(x)
            x //= 2
        x = sides[-1]
        for skip in sides[-2::-1]:
            if 2 * x > skip:
                return None
            x = 2 * x - 4
            if x < 1:
                return None
        return x

    for side in range(1, 111):
        assert _fits(side, levels, "valid") == (answer(side) is not None), side


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_it_learns_to_mark_what_is_bright(padding):
    """Blurred noise: the sign of each voxel, from 20 patches."""
    import keras
    from scipy import ndimage

    keras.utils.set_random_seed(0)
    network = built(widths=(4, 8), input_channels=1, padding=padding, dropout=0.05, momentum=0.5)
    side = 24
    image = ndimage.gaussian_filter(noise(20, side, side, side, 1), (0, 1.5, 1.5, 1.5, 0))
    image /= image.std()
    lost = (side - network(image[:1]).shape[1]) // 2
    inside = slice(lost, side - lost)
    truth = (image[:, inside, inside, inside, 0] > 0).astype(np.int32)
    adam = keras.optimizers.AdamW(0.01, weight_decay=1e-6)
    network.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    network.fit(image, truth, batch_size=4, epochs=15, verbose=0)
    assert network.evaluate(image, truth, verbose=0)[1] > 0.9


ON_JAX = """
import sys, numpy as np, keras
from digipath.nn import build
assert keras.backend.backend() == 'jax'
networks = [
    build('unet-3d', widths=(2, 3), patch=20, padding='valid'),
    build('grading-3d', widths=(2, 2, 2, 2), dense=(2,), patch=8),
]
for network in networks:
    image = np.ones((1, *network.input_shape[1:]), 'float32')
    if TRAINED:
        network.compile('adam', 'sparse_categorical_crossentropy')
        network.train_on_batch(image, np.zeros((1, *network.output_shape[1:-1]), 'int32'))
    answer = np.asarray(network(image, training=False))
    assert np.allclose(answer.sum(-1), 1, atol=1e-5)
    print(answer.shape, end=' ')
print('tensorflow' in sys.modules)
"""


@pytest.mark.parametrize("trained", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_networks_of_volumes_run_on_jax(trained):
    pytest.importorskip("jax", reason="JAX is not installed")
    expected = "(1, 2, 2, 2, 2) (1, 2) False"
    assert run_on("jax", ON_JAX.replace("TRAINED", str(trained))) == expected
