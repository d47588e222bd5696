"""Xception as DeepLabV3+ uses it: deeper, halved by strided separable convolutions, atrous at its end.

Layers are called as in the published Keras weights of DeepLabV3+ (bonlime/keras-deeplab-v3-plus).

References:
    Chollet 2017, "Xception", arXiv:1610.02357.
    Chen et al. 2018, "Encoder-decoder with atrous separable convolution", arXiv:1802.02611, Figure 4.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
from keras import layers

from digipath.nn.deeplab_layers import atrous, norm_relu, scaled, separable_conv

EPSILON = 1e-3  # of the batch norms, as published


class Block(NamedTuple):
    """Three separable convolutions, the last of which may halve, beside a shortcut."""

    name: str
    filters: tuple[int, int, int]
    stride: int
    shortcut: str  # "conv", "sum" or "none"


STEM_STRIDE = 2
BLOCKS = (
    Block("entry_flow_block1", (128, 128, 128), 2, "conv"),
    Block("entry_flow_block2", (256, 256, 256), 2, "conv"),
    Block("entry_flow_block3", (728, 728, 728), 2, "conv"),
    *(Block(f"middle_flow_unit_{unit}", (728, 728, 728), 1, "sum") for unit in range(1, 17)),
    Block("exit_flow_block1", (728, 1024, 1024), 2, "conv"),
    Block("exit_flow_block2", (1536, 1536, 2048), 1, "none"),
)


def xception(
    image: keras.KerasTensor, *, output_stride: int = 16, alpha: float = 1.0, momentum: float = 0.99
) -> dict[int, keras.KerasTensor]:
    """Features of an image (B, H, W, C), by their stride in pixels.

    Args:
        output_stride: 8, 16 or 32, the stride of the deepest features; atrous rates replace the
            halvings beyond it.
        alpha: width multiplier; 1 for the published network.
        momentum: of the moving batch statistics.

    Returns:
        stride → (B, H / stride, W / stride, C): what each stride has just before it is halved, not
        yet through a ReLU (C = 128, 256, … at 2, 4, …), and C = 2048 at `output_stride`; times `alpha`.

    Raises:
        BadInput: a setting is out of range.
    """
    _, *plan = atrous([STEM_STRIDE, *(block.stride for block in BLOCKS)], output_stride)
    x = image
    for number, (filters, stride) in enumerate(((32, STEM_STRIDE), (64, 1)), start=1):
        name, width = f"entry_flow_conv1_{number}", scaled(filters, alpha)
        x = layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False, name=name)(x)
        x = norm_relu(x, name, epsilon=EPSILON, momentum=momentum)
    features, stride = {}, STEM_STRIDE
    for block, (step, rate) in zip(BLOCKS, plan, strict=True):
        x, before_halving = _block(x, block, step, rate, alpha=alpha, momentum=momentum)
        if step > 1:
            features[stride] = before_halving
            stride *= step
    features[stride] = x
    return features


def _block(
    x: keras.KerasTensor, block: Block, stride: int, rate: int, *, alpha: float, momentum: float
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The block's result, and the features before its last convolution."""
    y, inside = x, []
    for number, filters in enumerate(block.filters, start=1):
        inside.append(y)
        y = separable_conv(
            y,
            scaled(filters, alpha),
            f"{block.name}_separable_conv{number}",
            stride=stride if number == 3 else 1,
            rate=rate,
            relu_first=block.shortcut != "none",
            epsilon=EPSILON,
            momentum=momentum,
        )
    if block.shortcut == "none":
        return y, inside[-1]
    if block.shortcut == "conv":
        name = f"{block.name}_shortcut"
        x = layers.Conv2D(y.shape[-1], 1, strides=stride, use_bias=False, name=name)(x)
        x = layers.BatchNormalization(epsilon=EPSILON, momentum=momentum, name=f"{name}_BN")(x)
    return layers.Add(name=f"{block.name}_add")([x, y]), inside[-1]
