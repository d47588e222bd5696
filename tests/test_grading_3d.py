"""The grading network of volumes: layer sizes at 96³, parameters by hand, the cut for Grad-CAM, what it can learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from test_unet_3d import block, noise, sizes

from digipath.errors import BadInput

pytestmark = pytest.mark.keras

SMALL = {"widths": (2, 3, 4, 5), "dense": (6, 7), "input_channels": 2, "patch": 16}


def built(**config):
    from digipath.nn import build

    return build("grading-3d", **config)


LAYERS = "image stem res1 pool1 res2 pool2 res3 pool3 res4 features head1 head2"


@pytest.mark.parametrize(
    ("padding", "sides"),
    [
        ("same", [96, 96, 96, 48, 48, 24, 24, 12, 12, 1, 1, 1]),
        ("valid", [96, 94, 90, 45, 41, 20, 16, 8, 4, 1, 1, 1]),
    ],
)
def test_sizes_are_those_of_the_table(padding, sides):
    network = built(padding=padding)
    channels = [4, 16, 16, 16, 32, 32, 64, 64, 128, 128, 128, 64]
    assert sizes(network, LAYERS) == list(zip(sides, channels, strict=True))
    assert network.get_layer("logits").output.shape == network.output_shape == (None, 2)
    assert network.count_params() == 924_098


@pytest.mark.parametrize("widths", [(16, 32, 64, 128), (4, 4, 6, 6)])
@pytest.mark.parametrize("dense", [(), (10,), (128, 64)])
def test_parameters_by_hand(widths, dense):
    expected = 27 * 3 * widths[0] + block(widths[0], widths[0]) + 4 * widths[-1]
    expected += sum(block(before, width) for before, width in itertools.pairwise(widths))
    chain = (widths[-1], *dense, 5)
    expected += sum(before * width + width for before, width in itertools.pairwise(chain))
    assert built(widths=widths, dense=dense, input_channels=3, classes=5).count_params() == expected


def test_all_behind_a_block_is_computed_from_it_alone():
    """Grad-CAM cuts the network at res3 and res4: both halves together are the network."""
    import keras

    network = built(**SMALL)
    image = noise(2, 16, 16, 16, 2)
    for name in ("res1", "res2", "res3", "res4"):
        features = network.get_layer(name).output
        before, behind = keras.Model(network.input, features), keras.Model(features, network.output)
        found = np.asarray(behind(before(image, training=False), training=False))
        np.testing.assert_allclose(found, np.asarray(network(image, training=False)), atol=1e-6)
        assert type(network.get_layer(name)).__name__ == "Add"


def test_probabilities_are_the_softmax_of_the_logits():
    import keras

    network = built(**SMALL, classes=3)
    logits = np.asarray(keras.Model(network.input, network.get_layer("logits").output)(noise(3, 16, 16, 16, 2)))
    exponentials = np.exp(logits)
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(network(noise(3, 16, 16, 16, 2))), expected, atol=1e-6)
    assert expected.std() > 0.01
    assert network.layers[-1].dtype == "float32"


def test_dense_layers_drop_out_and_space_is_averaged():
    from keras import layers

    network = built()
    assert [one.rate for one in network.layers if isinstance(one, layers.Dropout)] == [0.4, 0.4]
    assert built(**SMALL | {"patch": None}).output_shape == (None, 2)
    any_size = built(**SMALL | {"patch": None})
    assert np.asarray(any_size(noise(1, 9, 16, 23, 2))).shape == (1, 2)


def test_layers_behind_the_encoder_are_told_apart():
    from digipath.nn.encoder import body_layers, encoder_layers

    network = built(**SMALL)
    names = {layer.name.split("_")[0] for layer in encoder_layers(network)}
    assert names == {"stem", "res1", "res2", "res3", "res4", "features"}
    assert encoder_layers(network) == body_layers(network)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"patch": 7}, "at least 8 voxels for 4 blocks, got 7"),
        ({"patch": 69, "padding": "valid"}, "at least 70 voxels for 4 blocks, got 69"),
        ({"patch": (96, 96, 7)}, "at least 8 voxels for 4 blocks, got 7"),
        ({"dense": (0,)}, "positive widths of dense layers"),
        ({"widths": ()}, "at least 1 positive widths"),
        ({"padding": "full"}, "a padding among same, valid"),
        ({"dropout": -0.1}, "dropout in"),
        ({"momentum": 2}, "momentum in"),
        ({"classes": 1}, "softmax over one class"),
        ({"depth": 3}, "has no setting depth"),
    ],
)
def test_settings_that_cannot_be(config, message):
    with pytest.raises(BadInput, match=message):
        built(**config)


@pytest.mark.parametrize(("patch", "padding"), [(8, "same"), (70, "valid")])
def test_the_smallest_region_leaves_one_voxel(patch, padding):
    network = built(patch=patch, padding=padding)
    assert network.get_layer("res4").output.shape == (None, 1, 1, 1, 128)


@pytest.mark.slow
def test_it_learns_which_modality_is_blurred():
    """Same histogram, other texture: what a 3³ convolution sees and a histogram does not."""
    import keras
    from scipy import ndimage

    keras.utils.set_random_seed(0)
    image, truth = noise(32, 12, 12, 12, 1), np.arange(32) % 2
    for one in np.flatnonzero(truth):
        smooth = ndimage.gaussian_filter(image[one], (1, 1, 1, 0))
        image[one] = np.sort(image[one].ravel())[smooth.ravel().argsort().argsort()].reshape(smooth.shape)
    network = built(widths=(4, 4, 4, 8), dense=(8,), input_channels=1, patch=12, dropout=0.1, momentum=0.5)
    adam = keras.optimizers.AdamW(0.01, weight_decay=1e-4)
    network.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    network.fit(image, truth, batch_size=8, epochs=8, verbose=0)
    assert network.evaluate(image, truth, verbose=0)[1] >= 0.9
