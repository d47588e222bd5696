"""U-Net with the encoders of segmentation-models, as Khened 2021 uses them."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from digipath.errors import BadInput
from digipath.nn.checks import check_head, spatial_shape
from digipath.nn.segmentation_library import build_unet

STRIDE = 32  # px per cell of the deepest features
XCEPTION_PATCH = 96  # px; its library refuses sides under 71
BACKBONES = ("densenet121", "efficientnetb0", "inceptionresnetv2", "mobilenetv2", "resnet18", "resnet50", "xception")


def unet(
    *,
    backbone: str = "densenet121",
    classes: int = 1,
    activation: str = "sigmoid",
    input_channels: int = 3,
    patch: int | None = None,
    decoder_filters: Sequence[int] = (256, 128, 64, 32, 16),
    interpolation: str = "bilinear",
) -> keras.Model:
    """U-Net over an ImageNet-style encoder, with random weights; fully convolutional.

    Args:
        backbone: the encoder, one of `BACKBONES`; "xception" is the one of 2017, DeepLab's is longer.
        classes: channels of the output.
        activation: "sigmoid" (each class by itself), "softmax" (the classes exclude each other) or
            "linear" (logits).
        input_channels: channels of the input, 3 for RGB.
        patch: side of the input in pixels, a multiple of 32; None accepts any such sides. A fixed
            side helps OpenVINO. Bilinear upsampling with free sides must not run inside
            `tf.function(reduce_retracing=True)`.
        decoder_filters: channels of the five decoder stages, coarsest first.
        interpolation: upsampling of the decoder, "bilinear" as in the paper or "nearest".

    Returns:
        (B, H, W, input_channels) float32, scaled as the card of the weights says →
        (B, H, W, classes) float32, in [0, 1] unless `activation` is "linear".

    Raises:
        BadInput: a setting is out of range.

    References:
        Khened et al. 2021, "A generalized deep learning framework for whole-slide image
        segmentation and analysis", section "Network architecture".
        Ronneberger et al. 2015, "U-Net", doi:10.1007/978-3-319-24574-4_28.
    """
    if backbone not in BACKBONES:
        raise BadInput(f"expected a backbone among {', '.join(BACKBONES)}, got {backbone!r}")
    if backbone == "xception" and patch is not None and patch < XCEPTION_PATCH:
        raise BadInput(f"expected a patch of at least {XCEPTION_PATCH} px for the backbone xception, got {patch}")
    if interpolation not in ("bilinear", "nearest"):
        raise BadInput(f"expected interpolation 'bilinear' or 'nearest', got {interpolation!r}")
    if len(decoder_filters) != 5 or min(decoder_filters) < 1:
        raise BadInput(f"expected five positive decoder filters, got {decoder_filters!r}")
    check_head(classes, activation)
    return build_unet(
        backbone,
        spatial_shape(patch, input_channels, multiple=STRIDE),
        classes=classes,
        activation=activation,
        decoder_filters=tuple(decoder_filters),
        interpolation=interpolation,
    )
