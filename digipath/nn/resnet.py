"""ResNet18, the post-activation network of He 2015 that torchvision publishes: tiles → classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from digipath.errors import BadInput
from digipath.nn.checks import check_head, check_training, tile_shape
from digipath.nn.encoder import encoder_layers
from digipath.nn.torch_file import read_torch

STRIDE = 32  # px per cell of the last features
WIDTHS = (64, 128, 256, 512)
EPSILON = 1e-5  # of the batch norms, as torchvision has it
PLAIN = {"use_bias": False, "kernel_initializer": "he_normal"}  # a norm follows


def resnet18(
    *,
    classes: int = 3,
    activation: str = "softmax",
    patch: int | None = None,
    input_channels: int = 3,
    shrink: int = 1,
    widths: Sequence[int] = WIDTHS,
    dropout: float = 0.0,
    momentum: float = 0.9,
) -> keras.Model:
    """ResNet18 with random weights; 11.7 million parameters with 1000 classes.

    Args:
        classes: channels of the output.
        activation: "softmax" (the classes exclude each other), "sigmoid" or "linear" (logits).
        patch: side of a tile in pixels, at least 32 × shrink; None accepts any such sides.
        input_channels: channels of the input, 3 for RGB.
        shrink: side in pixels of the cells over which a tile is averaged first, which is how tiles
            are made smaller; what is left over at the right and lower border is cut off.
        widths: kernels of the four blocks; the first convolution has as many as the first block.
        dropout: share of the features dropped before the head while training, in [0, 1).
        momentum: of the moving batch statistics, in [0, 1).

    Returns:
        (B, H, W, input_channels) float32, scaled as the card of the weights says → (B, classes)
        float32. The layer "features" gives the averaged features (B, widths[3]), "logits" what the
        activation is applied to.

    Raises:
        BadInput: a setting is out of range.

    References:
        He et al. 2015, "Deep residual learning for image recognition", arXiv:1512.03385, Table 1.
        Truong et al. 2020, glioma grading by tiles, Figure 2B.
    """
    if len(widths) != 4 or min(widths) < 1:
        raise BadInput(f"expected four positive widths, got {widths!r}")
    image = tile_input(patch, input_channels, shrink=shrink, least=STRIDE)
    x = layers.ZeroPadding2D(3, name="conv1_pad")(shrunk(image, shrink))
    x = layers.Conv2D(widths[0], 7, strides=2, name="conv1", **PLAIN)(x)
    x = layers.Activation("relu", name="relu1")(_norm(x, momentum, "bn1"))
    # After a ReLU nothing lies below zero, so that the padding never wins.
    x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)
    x = layers.MaxPooling2D(3, strides=2, name="maxpool")(x)
    for block, width in enumerate(widths, start=1):
        x = _unit(x, width, 1 if block == 1 else 2, momentum=momentum, name=f"layer{block}_0")
        x = _unit(x, width, 1, momentum=momentum, name=f"layer{block}_1")
    return classifier(image, x, classes=classes, activation=activation, dropout=dropout, name="resnet18")


def tile_input(patch: int | None, channels: int, *, shrink: int, least: int) -> keras.KerasTensor:
    """The input of a tile classifier, (B, patch, patch, channels).

    Raises BadInput unless `shrink` ≥ 1, `channels` ≥ 1 and `patch` ≥ least × shrink or None.
    """
    if shrink < 1:
        raise BadInput(f"expected a shrink of at least 1, got {shrink}")
    return keras.Input(tile_shape(patch, channels, least=least * shrink), name="image")


def shrunk(image: keras.KerasTensor, shrink: int) -> keras.KerasTensor:
    """The image averaged over cells of shrink × shrink px."""
    return layers.AveragePooling2D(shrink, name="shrink")(image) if shrink > 1 else image


def classifier(
    image: keras.KerasTensor, x: keras.KerasTensor, *, classes: int, activation: str, dropout: float, name: str
) -> keras.Model:
    """Features (B, h, w, L) → average over space → dropout → dense → (B, classes), as a network of `image`.

    Raises BadInput: `classes`, `activation` or `dropout` out of range.
    """
    check_head(classes, activation)
    check_training(dropout, 0)
    x = layers.GlobalAveragePooling2D(name="features")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Dense(classes, name="logits")(x)
    # Probabilities in float32 also under mixed precision.
    x = layers.Activation(activation, dtype="float32", name="probability")(x)
    return keras.Model(image, x, name=name)


def is_resnet18(network: keras.Model) -> bool:
    """Whether the network's encoder is `resnet18`, of whatever widths."""
    return any(layer.name == "layer1_0_conv1" for layer in encoder_layers(network))


def load_resnet18(network: keras.Model, path: str | Path) -> int:
    """Fill the encoder of `network` from torchvision's ResNet18 file; arrays loaded. The classifier is left out.

    Raises BadInput: the file is another network's, or `network` has not this encoder in full width; nothing is set.
    """
    tensors = {name: array for name, array in read_torch(path).items() if not name.startswith("fc.")}
    found: list[tuple[keras.Layer, list[NDArray[np.float32]]]] = []
    for layer in encoder_layers(network):
        names = _published_names(layer)
        if missing := [name for name in names if name not in tensors]:
            raise BadInput(f"expected the weights of torchvision's ResNet18, {missing[0]} is not there: {path}")
        arrays = [_as_keras(tensors.pop(name)) for name in names]
        shapes = [tuple(weight.shape) for weight in layer.weights]
        if [array.shape for array in arrays] != shapes:
            raise BadInput(f"expected shapes {shapes} for {layer.name}, got {[a.shape for a in arrays]}: {path}")
        if not all(np.isfinite(array).all() for array in arrays):
            raise BadInput(f"the arrays of {layer.name} hold values that are no numbers: {path}")
        found.append((layer, arrays))
    if left := [name for name in tensors if not name.endswith(".num_batches_tracked")]:
        raise BadInput(f"the file has {left[0]}, for which ResNet18 has no layer: {path}")
    for layer, arrays in found:
        layer.set_weights(arrays)
    return sum(len(arrays) for _, arrays in found)


def _unit(x: keras.KerasTensor, width: int, stride: int, *, momentum: float, name: str) -> keras.KerasTensor:
    """Residual unit with the activation behind the sum; its layers are named as in torchvision's file."""
    shortcut = x
    if stride > 1 or x.shape[-1] != width:
        if stride > 1:
            # Every second pixel, as a 1 × 1 convolution with stride 2 takes it; the gradient of that one
            # writes beyond its memory in TensorFlow's oneDNN (2.21, few channels).
            shortcut = layers.MaxPooling2D(1, strides=stride, name=f"{name}_every_second")(shortcut)
        shortcut = layers.Conv2D(width, 1, name=f"{name}_downsample_0", **PLAIN)(shortcut)
        shortcut = _norm(shortcut, momentum, f"{name}_downsample_1")
    # Padded on both sides alike: "same" pads the right and lower border only if strides are 2.
    y = layers.ZeroPadding2D(1, name=f"{name}_pad1")(x)
    y = layers.Conv2D(width, 3, strides=stride, name=f"{name}_conv1", **PLAIN)(y)
    y = layers.Activation("relu", name=f"{name}_relu1")(_norm(y, momentum, f"{name}_bn1"))
    y = layers.Conv2D(width, 3, padding="same", name=f"{name}_conv2", **PLAIN)(y)
    y = _norm(y, momentum, f"{name}_bn2")
    return layers.Activation("relu", name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([shortcut, y]))


def _norm(x: keras.KerasTensor, momentum: float, name: str) -> keras.KerasTensor:
    check_training(0, momentum)
    return layers.BatchNormalization(momentum=momentum, epsilon=EPSILON, name=name)(x)


def _published_names(layer: keras.Layer) -> list[str]:
    """Names in torchvision's file of a layer's arrays, in the layer's order."""
    module = layer.name.replace("_", ".")
    if isinstance(layer, layers.BatchNormalization):
        return [f"{module}.{array}" for array in ("weight", "bias", "running_mean", "running_var")]
    return [f"{module}.weight"]


def _as_keras(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """(out, in, h, w) → (h, w, in, out)."""
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0)) if array.ndim == 4 else array
