"""EfficientNet-Lite0 as an encoder: an ImageNet network for phones, small enough for CPUs.

EfficientNet-B0 without squeeze-and-excitation and with ReLU6 in place of swish.

References:
    Tan and Le 2019, "EfficientNet", arXiv:1905.11946, Table 1 (stages).
    Liu 2020, "Higher accuracy on vision models with EfficientNet-Lite" (what Lite leaves out).
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from keras import layers

from digipath.errors import BadInput
from digipath.nn.torch_file import read_torch

# kernel, blocks, expansion, channels, stride of the first block; the stem comes before.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 3, 6, 80, 2),
    (5, 3, 6, 112, 1),
    (5, 4, 6, 192, 2),
    (3, 1, 6, 320, 1),
)
STEM_CHANNELS = 32
EPSILON = 1e-3  # of the batch norms, as published
STRIDES = (2, 4, 8, 16, 32)


def efficientnet_lite0(
    image: keras.KerasTensor, *, deepest_stride: int = 32, momentum: float = 0.99
) -> dict[int, keras.KerasTensor]:
    """Features of an image (B, H, W, 3) in [−1, 1], by their stride in pixels.

    Args:
        deepest_stride: 8, 16 or 32, where the encoder ends: 0.09, 0.85 or 3.0 M parameters.
        momentum: of the moving batch statistics; short trainings want less than 0.99.

    Returns:
        stride → (B, H / stride, W / stride, C): C = 16, 24, 40, 112 and 320 at 2, 4, 8, 16 and 32.
    """
    if deepest_stride not in STRIDES[2:]:
        raise BadInput(f"expected a deepest stride among {STRIDES[2:]}, got {deepest_stride}")
    x = layers.Conv2D(STEM_CHANNELS, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(image)
    x = _norm(x, momentum, "stem_bn")
    x = layers.ReLU(6.0, name="stem_relu")(x)
    features, stride, block = {}, 2, 0
    for kernel, repeats, expansion, channels, first_stride in STAGES:
        if stride * first_stride > deepest_stride:
            break
        stride *= first_stride
        for repeat in range(repeats):
            step = first_stride if repeat == 0 else 1
            x = _block(x, kernel, expansion, channels, step, momentum=momentum, name=f"block{block}")
            block += 1
        features[stride] = x  # the last features of a stride replace earlier ones
    return features


def load_efficientnet_lite0(network: keras.Model, path: str | Path) -> int:
    """Fill the encoder of `network` from the PyTorch file of EfficientNet-Lite0; arrays loaded.

    Blocks that the encoder leaves out, and the classifier, are not used.

    Raises BadInput: the file is another network's, or `network` has no such encoder.
    """
    tensors = read_torch(path)
    loaded = 0
    for layer in network.layers:
        names = _published_names(layer)
        if not names:
            continue
        if missing := [name for name in names if name not in tensors]:
            raise BadInput(f"expected the weights of EfficientNet-Lite0, {missing[0]} is not there: {path}")
        arrays = [_as_keras(layer, tensors[name]) for name in names]
        shapes = [tuple(v.shape) for v in layer.variables if v.dtype == "float32"]
        if [a.shape for a in arrays] != shapes:
            raise BadInput(f"expected shapes {shapes} for {layer.name}, got {[a.shape for a in arrays]}: {path}")
        layer.set_weights(arrays)
        loaded += len(arrays)
    if not loaded:
        raise BadInput(f"network {network.name!r} has no EfficientNet-Lite0 encoder")
    return loaded


def _block(
    x: keras.KerasTensor, kernel: int, expansion: int, channels: int, stride: int, *, momentum: float, name: str
) -> keras.KerasTensor:
    """Inverted residual: expand, filter each channel, project; added to its input where shapes agree."""
    y, inside = x, x.shape[-1] * expansion
    if expansion > 1:
        y = layers.Conv2D(inside, 1, use_bias=False, name=f"{name}_expand_conv")(y)
        y = _norm(y, momentum, f"{name}_expand_bn")
        y = layers.ReLU(6.0, name=f"{name}_expand_relu")(y)
    y = layers.DepthwiseConv2D(
        kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
    )(y)
    y = _norm(y, momentum, f"{name}_depthwise_bn")
    y = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(y)
    y = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project_conv")(y)
    y = _norm(y, momentum, f"{name}_project_bn")
    return layers.Add(name=f"{name}_add")([x, y]) if stride == 1 and x.shape[-1] == channels else y


def _norm(x: keras.KerasTensor, momentum: float, name: str) -> keras.KerasTensor:
    return layers.BatchNormalization(momentum=momentum, epsilon=EPSILON, name=name)(x)


def _published_names(layer: keras.Layer) -> list[str]:
    """Names in the PyTorch file of a layer's arrays, in the layer's order; none for other layers."""
    part, _, what = layer.name.partition("_")
    if part == "stem":
        norm, conv = "_bn0", "_conv_stem"
    elif part.startswith("block") and part[5:].isdigit():
        kind = what.removesuffix("_conv").removesuffix("_bn")
        numbers = {"expand": 0, "depthwise": 1, "project": 2}
        if kind not in numbers:
            return []
        norm, conv = f"_blocks.{part[5:]}._bn{numbers[kind]}", f"_blocks.{part[5:]}._{kind}_conv"
    else:
        return []
    if isinstance(layer, layers.BatchNormalization):
        return [f"{norm}.{array}" for array in ("weight", "bias", "running_mean", "running_var")]
    return [f"{conv}.weight"] if layer.weights else []


def _as_keras(layer: keras.Layer, array: np.ndarray) -> np.ndarray:
    """(out, in, h, w) → (h, w, in, out); a depthwise (channels, 1, h, w) → (h, w, channels, 1)."""
    if array.ndim != 4:
        return array
    depthwise = isinstance(layer, layers.DepthwiseConv2D)
    return np.ascontiguousarray(array.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0)))
