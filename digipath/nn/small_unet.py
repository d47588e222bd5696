"""A small U-Net for CPUs and few training images, from scratch or over an ImageNet encoder for phones.

Most of a U-Net's time goes into its first and last stages, at the resolution of the input. This
one averages the input over `shrink` px, starts with a strided convolution, and ends its decoder at
`output_stride` px, from where the logits are interpolated: enough for annotations no finer than that.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from digipath.errors import BadInput
from digipath.nn.checks import check_head, spatial_shape
from digipath.nn.efficientnet_lite import efficientnet_lite0

ENCODERS = ("residual", "efficientnet-lite0")
MOMENTUM = 0.95  # of the batch statistics: short trainings have too few steps for Keras' 0.99
PLAIN = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}  # a norm follows


def small_unet(
    *,
    classes: int = 1,
    activation: str = "sigmoid",
    input_channels: int = 3,
    patch: int | None = None,
    shrink: int = 2,
    encoder: str = "residual",
    widths: Sequence[int] = (32, 48, 64, 96),
    output_stride: int = 8,
    dropout: float = 0.2,
) -> keras.Model:
    """U-Net whose stage k works at a stride of shrink × 2^(k + 1) px; any size of input.

    Args:
        classes, activation, input_channels, patch: as for `digipath.nn.unet.unet`; sides are
            multiples of shrink × 2 ** len(widths), 32 px by default.
        shrink: side in pixels of the cells over which the input is averaged; 1 leaves it as it is.
        encoder: "residual" (few parameters, made to be trained from scratch) or "efficientnet-lite0"
            (its first stages; ImageNet weights can be had), which takes 3 channels in [−1, 1].
        widths: channels of the stages, finest first; at least two, three to five over EfficientNet-Lite0,
            where they are the decoder's and the last is not used (the encoder has its own).
        output_stride: pixels per cell where the decoder ends; the stride of a stage.
        dropout: share of channels dropped from the deepest features, and of values before the
            head, while training; in [0, 1).

    Returns:
        With random weights, (B, H, W, input_channels) float32 → (B, H, W, classes) float32.

    Raises:
        BadInput: a setting is out of range.
    """
    check_head(classes, activation)
    if shrink < 1:
        raise BadInput(f"expected a shrink of at least 1, got {shrink}")
    if len(widths) < 2 or min(widths) < 1:
        raise BadInput(f"expected at least two positive widths, got {widths!r}")
    strides = [shrink * 2 ** (stage + 1) for stage in range(len(widths))]
    if output_stride not in strides:
        raise BadInput(f"expected an output stride among {strides}, got {output_stride}")
    if encoder not in ENCODERS:
        raise BadInput(f"expected an encoder among {', '.join(ENCODERS)}, got {encoder!r}")
    if not 0 <= dropout < 1:
        raise BadInput(f"expected a dropout in [0, 1), got {dropout}")

    shape = spatial_shape(patch, input_channels, multiple=strides[-1])
    image = keras.Input(shape, name="image")  # (B, H, W, input_channels)
    x = layers.AveragePooling2D(shrink, name="shrink")(image)
    skips = _features(x, encoder, widths)  # stage k: (B, H / strides[k], W / strides[k], channels)
    x = layers.SpatialDropout2D(dropout, name="bottom_dropout")(skips[-1])
    for stage in reversed(range(strides.index(output_stride), len(widths) - 1)):
        x = _decoder_stage(x, skips[stage], widths[stage], f"decoder{stage}")
    x = layers.Dropout(dropout, name="head_dropout")(x)
    x = layers.Conv2D(classes, 1, name="head_conv")(x)  # (B, H / output_stride, …, classes)
    x = layers.UpSampling2D(output_stride, interpolation="bilinear", name="head_upsampling")(x)
    # Probabilities in float32 also under mixed precision.
    x = layers.Activation(activation, dtype="float32", name="probability")(x)  # (B, H, W, classes)
    return keras.Model(image, x, name="unet_small")


def _features(x: keras.KerasTensor, encoder: str, widths: Sequence[int]) -> list[keras.KerasTensor]:
    """The encoder's features of every stage, finest first."""
    if encoder == "efficientnet-lite0":
        return list(efficientnet_lite0(x, deepest_stride=2 ** len(widths), momentum=MOMENTUM).values())
    features = [_conv(x, widths[0], "encoder0", kernel=5, stride=2)]
    for stage, width in enumerate(widths[1:], start=1):
        x = _conv(features[-1], width, f"encoder{stage}_down", stride=2)
        features.append(_residual(x, width, f"encoder{stage}"))
    return features


def _decoder_stage(x: keras.KerasTensor, skip: keras.KerasTensor, width: int, name: str) -> keras.KerasTensor:
    """(B, h, w, C) and its skip (B, 2h, 2w, S) → (B, 2h, 2w, width)."""
    x = layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_upsampling")(x)
    x = layers.Concatenate(name=f"{name}_concat")([x, skip])
    return _conv(x, width, name)


def _residual(x: keras.KerasTensor, width: int, name: str) -> keras.KerasTensor:
    """Two convolutions beside a shortcut; the identity at first, as the last scale starts at zero."""
    y = _conv(x, width, f"{name}_a")
    y = layers.Conv2D(width, 3, **PLAIN, name=f"{name}_b_conv")(y)
    y = layers.BatchNormalization(momentum=MOMENTUM, gamma_initializer="zeros", name=f"{name}_b_norm")(y)
    y = layers.Add(name=f"{name}_add")([x, y])
    return layers.Activation("relu", name=f"{name}_relu")(y)


def _conv(x: keras.KerasTensor, width: int, name: str, *, kernel: int = 3, stride: int = 1) -> keras.KerasTensor:
    """Convolution, batch normalisation, ReLU."""
    x = layers.Conv2D(width, kernel, strides=stride, **PLAIN, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)
