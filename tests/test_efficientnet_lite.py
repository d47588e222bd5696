"""EfficientNet-Lite0: published sizes, and loading of a file in PyTorch's layout."""

import keras
import numpy as np
import pytest

from digipath.errors import BadInput
from digipath.nn import build, efficientnet_lite
from digipath.nn.efficientnet_lite import efficientnet_lite0, load_efficientnet_lite0

pytestmark = pytest.mark.keras


def encoder(deepest_stride: int = 32) -> keras.Model:
    image = keras.Input((None, None, 3))
    return keras.Model(image, list(efficientnet_lite0(image, deepest_stride=deepest_stride).values()))


def published(network: keras.Model) -> dict[str, np.ndarray]:
    """Random tensors under the names and in the layout of the PyTorch file."""
    rng, tensors = np.random.default_rng(0), {}
    for layer in network.layers:
        names = efficientnet_lite._published_names(layer)
        for name, variable in zip(names, layer.weights[: len(names)], strict=True):
            array = rng.uniform(0.5, 1.5, variable.shape).astype(np.float32)
            if array.ndim == 4:  # (h, w, in, out) → (out, in, h, w); depthwise (h, w, C, 1) → (C, 1, h, w)
                order = (2, 3, 0, 1) if "depthwise" in name else (3, 2, 0, 1)
                array = array.transpose(order)
            tensors[name] = array
    return tensors


def test_sizes_are_the_published_ones():
    """4,652,008 in all less the head: 320 × 1280 + 4 × 1280 and 1280 × 1000 + 1000, with moving statistics."""
    trainable = sum(int(np.prod(v.shape)) for v in encoder().trainable_variables)
    assert trainable == 4_652_008 - (320 * 1280 + 2 * 1280) - (1280 * 1000 + 1000)
    shapes = [tuple(shape) for shape in encoder().compute_output_shape((1, 64, 96, 3))]
    assert shapes == [(1, 32, 48, 16), (1, 16, 24, 24), (1, 8, 12, 40), (1, 4, 6, 112), (1, 2, 3, 320)]


@pytest.mark.parametrize(("stride", "arrays"), [(8, 75), (16, 165)])
def test_loading_fills_every_array_of_the_encoder(monkeypatch, stride, arrays):
    network = encoder(stride)
    tensors = published(network)
    monkeypatch.setattr(efficientnet_lite, "read_torch", lambda path: tensors)
    assert load_efficientnet_lite0(network, "lite0.pth") == arrays == len(tensors) == len(network.weights)
    conv = network.get_layer("block1_depthwise_conv").get_weights()[0]
    np.testing.assert_array_equal(conv[..., 0], tensors["_blocks.1._depthwise_conv.weight"][:, 0].transpose(1, 2, 0))
    stem = network.get_layer("stem_conv").get_weights()[0]
    assert stem[1, 2, 0, 7] == tensors["_conv_stem.weight"][7, 0, 1, 2]
    norm = network.get_layer("block1_project_bn").get_weights()  # gamma, beta, mean, variance
    for array, name in zip(norm, ("weight", "bias", "running_mean", "running_var"), strict=True):
        np.testing.assert_array_equal(array, tensors[f"_blocks.1._bn2.{name}"])


def test_another_networks_file_is_refused(monkeypatch):
    network = encoder(8)
    tensors = published(network)
    monkeypatch.setattr(efficientnet_lite, "read_torch", lambda path: tensors)
    del tensors["_blocks.2._bn1.running_var"]
    with pytest.raises(BadInput, match=r"_blocks\.2\._bn1\.running_var is not there: x\.pth"):
        load_efficientnet_lite0(network, "x.pth")
    tensors.update(published(network), **{"_conv_stem.weight": np.zeros((16, 3, 3, 3), np.float32)})
    with pytest.raises(BadInput, match="shapes"):
        load_efficientnet_lite0(network, "x.pth")
    with pytest.raises(BadInput, match="no EfficientNet-Lite0 encoder"):
        load_efficientnet_lite0(build("unet-small", widths=[4, 8]), "x.pth")


def test_a_small_unet_stands_on_it():
    network = build("unet-small", encoder="efficientnet-lite0", widths=[16, 24, 32, 48], output_stride=8)
    decoder = (112 + 40) * 32 * 9 + 4 * 32 + (32 + 24) * 24 * 9 + 4 * 24  # two convolutions with their norms
    assert network.count_params() == 716_928 + decoder + 24 + 1
    assert network.compute_output_shape((1, 256, 192, 3)) == (1, 256, 192, 1)
    with pytest.raises(BadInput, match="deepest stride"):
        build("unet-small", encoder="efficientnet-lite0", widths=[16, 24])
    with pytest.raises(BadInput, match="expected an encoder among residual, efficientnet-lite0"):
        build("unet-small", encoder="vgg")
