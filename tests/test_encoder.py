"""Which layers are the encoder, and what freezing them does."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.keras

UNETS = {  # parameters and layers with weights; the first as keras.applications states them without the top
    "densenet121": (7_037_504, 241),
    "efficientnetb0": (4_049_564, 130),
    "inceptionresnetv2": (54_336_736, 448),
    "mobilenetv2": (2_257_984, 104),
    "resnet18": (11_186_889, 40),
    "resnet50": (23_546_057, 104),
    "xception": (20_861_480, 80),
}


def built(name: str, **config: object):
    from digipath.nn import build
    from digipath.nn.encoder import encoder_layers

    network = build(name, **config)
    return network, encoder_layers(network)


def size(layers) -> tuple[int, int]:
    return sum(layer.count_params() for layer in layers), len(layers)


@pytest.mark.parametrize(
    "backbone", [pytest.param(name, marks=() if name == "resnet18" else pytest.mark.slow) for name in UNETS]
)
def test_of_unets(backbone):
    assert size(built("unet", backbone=backbone)[1]) == UNETS[backbone]


def test_the_unets_are_all():
    from digipath.nn.unet import BACKBONES

    assert set(BACKBONES) == set(UNETS)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["densenet121", "inceptionresnetv2"])
def test_of_digipathai(backbone):
    assert size(built("unet-digipathai", backbone=backbone)[1]) == UNETS[backbone]


def test_of_the_small_unet():
    network, encoder = built("unet-small")
    assert {layer.name.partition("_")[0] for layer in encoder} == {"encoder0", "encoder1", "encoder2", "encoder3"}
    behind = {layer.name for layer in network.layers if layer.weights} - {layer.name for layer in encoder}
    decoder = {"decoder1_conv", "decoder1_norm", "decoder2_conv", "decoder2_norm"}
    assert behind == {*decoder, "head_conv"}


def test_of_the_small_unet_over_efficientnet():
    _, encoder = built("unet-small", encoder="efficientnet-lite0")
    assert (encoder[0].name, encoder[-1].name) == ("stem_conv", "block10_project_bn")


def test_of_deeplab():
    # Conv and 16 blocks of MobileNetV2: 52 convolutions without the last 1 × 1, less the first block's expansion
    network, encoder = built("deeplabv3plus", backbone="mobilenetv2", alpha=0.25)
    assert size(encoder)[1] == 2 * 51
    assert encoder[-1].name == "expanded_conv_16_project_BN"
    behind = {layer.name for layer in network.layers if layer.weights} - {layer.name for layer in encoder}
    assert {"aspp0", "image_pooling", "feature_projection0_BN", "custom_logits_semantic"} <= behind


def test_the_body_is_all_but_the_head():
    from digipath.nn.encoder import body_layers

    network, _ = built("deeplabv3plus", backbone="mobilenetv2", alpha=0.25)
    names = {layer.name for layer in network.layers if layer.weights}
    assert names - {layer.name for layer in body_layers(network)} == {"custom_logits_semantic"}


def test_a_frozen_encoder_keeps_weights_and_statistics():
    network, encoder = built("unet-small", widths=(8, 12), output_stride=4)
    for layer in encoder:
        layer.trainable = False
    network.compile(optimizer="adam", loss="binary_crossentropy")
    before = [layer.get_weights() for layer in encoder]
    behind = network.get_layer("head_conv").get_weights()
    rng = np.random.default_rng(0)
    network.fit(rng.normal(3, 1, (2, 32, 32, 3)), rng.integers(0, 2, (2, 32, 32, 1)), epochs=2, verbose=0)
    for layer, old in zip(encoder, before, strict=True):
        for now, then in zip(layer.get_weights(), old, strict=True):
            np.testing.assert_array_equal(now, then)
    assert (network.get_layer("head_conv").get_weights()[0] != behind[0]).any()
