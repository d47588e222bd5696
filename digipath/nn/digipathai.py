"""DigiPathAI's U-Nets: what its published weights fit, and Khened 2021's in most respects.

They differ from `unet` in the decoder, which convolves before and after it takes in the shallower
features, with biases, and in where DenseNet's features are taken: before the norms, also the deepest.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from digipath.errors import BadInput
from digipath.nn.checks import check_head, spatial_shape
from digipath.nn.segmentation_library import build_encoder

STRIDE = 32  # px per cell of the deepest features
# Layers of the features, deepest first; numbers where the encoder's layers have no names.
FEATURES: dict[str, tuple[str | int, ...]] = {
    "densenet121": ("bn", "conv4_block24_concat", "conv3_block12_concat", "conv2_block6_concat", "conv1_relu"),
    "inceptionresnetv2": ("conv_7b_ac", "block17_20_ac", "block35_10_ac", 16, 9),
}


def digipathai_unet(
    *,
    backbone: str = "densenet121",
    classes: int = 2,
    activation: str = "softmax",
    input_channels: int = 3,
    patch: int | None = None,
    decoder_filters: Sequence[int] = (320, 256, 128, 96, 64),
) -> keras.Model:
    """U-Net of DigiPathAI 0.1.5 with random weights; fully convolutional.

    Args:
        backbone: the encoder, "densenet121" (17,451,138 parameters) or "inceptionresnetv2" (65,893,154).
        classes, activation, input_channels, patch: as for `digipath.nn.unet.unet`.
        decoder_filters: channels of the five decoder stages, coarsest first.

    Returns:
        (B, H, W, input_channels) float32, for the published weights (RGB − 128) / 128 →
        (B, H, W, classes) float32.

    Raises:
        BadInput: a setting is out of range.

    References:
        Khened et al. 2021, section "Network architecture"; PyPI DigiPathAI 0.1.5 for what it leaves open:
        nearest upsampling (the paper says bilinear) and the decoder's filters.
    """
    if backbone not in FEATURES:
        raise BadInput(f"expected a backbone among {', '.join(FEATURES)}, got {backbone!r}")
    if len(decoder_filters) != 5 or min(decoder_filters) < 1:
        raise BadInput(f"expected five positive decoder filters, got {decoder_filters!r}")
    check_head(classes, activation)
    encoder = build_encoder(backbone, spatial_shape(patch, input_channels, multiple=STRIDE))
    x, *skips = (
        encoder.get_layer(**{"name" if isinstance(at, str) else "index": at}).output for at in FEATURES[backbone]
    )
    for stage, filters in enumerate(decoder_filters):
        x = layers.UpSampling2D(2, name=f"decoder{stage}_upsampling")(x)
        x = _conv(x, filters, f"decoder{stage}_a")
        if stage < len(skips):
            x = layers.Concatenate(name=f"decoder{stage}_concat")([x, skips[stage]])
        x = _conv(x, filters, f"decoder{stage}_b")
    x = layers.Conv2D(classes, 1, name="head_conv")(x)
    # Probabilities in float32 also under mixed precision.
    x = layers.Activation(activation, dtype="float32", name="probability")(x)  # (B, H, W, classes)
    return keras.Model(encoder.input, x, name="unet_digipathai")


def _conv(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    """3 × 3 convolution, batch normalisation, ReLU."""
    x = layers.Conv2D(filters, 3, padding="same", kernel_initializer="he_normal", name=f"{name}_conv")(x)
    x = layers.BatchNormalization(name=f"{name}_norm")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)
