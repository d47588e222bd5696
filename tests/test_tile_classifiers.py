"""DenseNet121 and EfficientNet-B0 as tile classifiers: sizes, published files, scaling of the input."""

from __future__ import annotations

import numpy as np
import pytest
from test_pretrained import application, layers_of, noise, scatter, slashed, write_legacy

from digipath.errors import BadInput

pytestmark = pytest.mark.keras

# parameters that keras.applications states without the top (EfficientNet: less its scaling's 3 + 3 + 1), features
NETWORKS = {
    "densenet121": (7_037_504, 1024, "DenseNet121", 604),
    "efficientnet-b0": (4_049_571 - 7, 1280, "EfficientNetB0", 309),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_published_files_fit(tmp_path, name):
    import keras

    from digipath.nn import build
    from digipath.nn.encoder import encoder_layers
    from digipath.nn.pretrained import load_encoder

    parameters, length, published, arrays = NETWORKS[name]
    theirs, ours = application(published), build(name)
    scatter(theirs)
    assert ours.count_params() == parameters + length * 3 + 3
    assert load_encoder(ours, write_legacy(tmp_path / "w.h5", layers_of(theirs, slashed))) == arrays
    assert sum(layer.count_params() for layer in encoder_layers(ours)) == parameters
    image = noise(1, 128, 128, 3)
    # EfficientNet of keras.applications divides by 255 first; ours takes what comes behind that.
    expected = np.asarray(theirs(image * 255 if published == "EfficientNetB0" else image, training=False))
    features = keras.Model(ours.input, ours.get_layer("features").output)
    found = np.asarray(features(image, training=False))
    np.testing.assert_allclose(found, expected.mean(axis=(1, 2)), atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_settings_reach_the_network(name):
    from digipath.nn import build

    network = build(name, classes=4, patch=100, shrink=2, dropout=0.25, momentum=0.8, input_channels=4)
    assert network.input_shape == (None, 100, 100, 4)
    assert network.get_layer("shrink").pool_size == (2, 2)
    assert {layer.momentum for layer in network.layers if hasattr(layer, "momentum")} == {0.8}
    assert network.get_layer("dropout").rate == 0.25
    probability = np.asarray(network(noise(2, 100, 100, 4), training=False))
    assert (probability.shape, probability.dtype) == ((2, 4), np.float32)
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_the_patch_does_not_change_what_efficientnet_computes():
    from digipath.nn import build

    fixed, free = build("efficientnet-b0", patch=100), build("efficientnet-b0")
    free.set_weights(fixed.get_weights())
    image = noise(1, 100, 100, 3)  # 25 px at a stride of 4
    np.testing.assert_array_equal(np.asarray(fixed(image, training=False)), np.asarray(free(image, training=False)))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"patch": 16}, "at least 32 px, got 16"),
        ({"shrink": 0}, "shrink of at least 1"),
        ({"dropout": -0.1}, "dropout in"),
        ({"momentum": 1.0}, "momentum in"),
        ({"widths": (4, 4)}, "has no setting widths"),
    ],
)
def test_settings_out_of_range(name, config, message):
    from digipath.nn import build

    with pytest.raises(BadInput, match=message):
        build(name, **config)
