"""MobileNetV2 as an encoder: inverted residuals, of any width, atrous at its end.

Layers are called as in the published Keras weights of DeepLabV3+ (bonlime/keras-deeplab-v3-plus).

References:
    Sandler et al. 2018, "MobileNetV2", arXiv:1801.04381, Table 2 (stages).
"""

from __future__ import annotations

import keras
from keras import layers

from digipath.nn.deeplab_layers import atrous, scaled

EPSILON = 1e-3  # of the batch norms, as published
STEM_FILTERS, STEM_STRIDE = 32, 2
STAGES = (  # expansion, channels, blocks, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(
    image: keras.KerasTensor, *, output_stride: int = 16, alpha: float = 1.0, momentum: float = 0.99
) -> dict[int, keras.KerasTensor]:
    """Features of an image (B, H, W, C), by their stride in pixels.

    Args:
        output_stride: 8, 16 or 32, the stride of the deepest features; atrous rates replace the
            halvings beyond it.
        alpha: width multiplier; 1 for the published network.
        momentum: of the moving batch statistics.

    Returns:
        stride → (B, H / stride, W / stride, C): the expanded features of each stride before it is
        halved, C = 96, 144, 192, 576 at 2, 4, 8, 16, and C = 320 at `output_stride`; times `alpha`.

    Raises:
        BadInput: a setting is out of range.
    """
    blocks = [
        (expansion, channels, first_stride if block == 0 else 1, block > 0)
        for expansion, channels, count, first_stride in STAGES
        for block in range(count)
    ]
    _, *plan = atrous([STEM_STRIDE, *(stride for _, _, stride, _ in blocks)], output_stride)
    width = scaled(STEM_FILTERS, alpha)
    x = layers.Conv2D(width, 3, strides=STEM_STRIDE, padding="same", use_bias=False, name="Conv")(image)
    x = _norm_relu6(x, "Conv", momentum)
    features, stride = {}, STEM_STRIDE
    for number, ((expansion, channels, _, repeats), (step, rate)) in enumerate(zip(blocks, plan, strict=True)):
        prefix = f"expanded_conv_{number}" if number else "expanded_conv"
        inside = _expand(x, expansion, prefix, momentum)
        if step > 1:
            features[stride] = inside
            stride *= step
        y = _filter(inside, scaled(channels, alpha), prefix, step, rate, momentum=momentum)
        x = layers.Add(name=f"{prefix}_add")([x, y]) if repeats else y
    features[stride] = x
    return features


def _expand(x: keras.KerasTensor, expansion: int, prefix: str, momentum: float) -> keras.KerasTensor:
    """(B, h, w, C) → (B, h, w, expansion · C)."""
    if expansion == 1:
        return x
    x = layers.Conv2D(expansion * x.shape[-1], 1, use_bias=False, name=f"{prefix}_expand")(x)
    return _norm_relu6(x, f"{prefix}_expand", momentum)


def _filter(
    x: keras.KerasTensor, channels: int, prefix: str, stride: int, rate: int, *, momentum: float
) -> keras.KerasTensor:
    """A filter of each channel, then a mixture that is not rectified."""
    options = {"strides": stride, "dilation_rate": rate, "padding": "same", "use_bias": False}
    x = layers.DepthwiseConv2D(3, **options, name=f"{prefix}_depthwise")(x)
    x = _norm_relu6(x, f"{prefix}_depthwise", momentum)
    x = layers.Conv2D(channels, 1, use_bias=False, name=f"{prefix}_project")(x)
    return layers.BatchNormalization(epsilon=EPSILON, momentum=momentum, name=f"{prefix}_project_BN")(x)


def _norm_relu6(x: keras.KerasTensor, name: str, momentum: float) -> keras.KerasTensor:
    x = layers.BatchNormalization(epsilon=EPSILON, momentum=momentum, name=f"{name}_BN")(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(x)
