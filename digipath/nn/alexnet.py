"""AlexNet: slices → classes; in one column, as torchvision publishes it, or in the two columns of 2012."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from digipath.errors import BadInput
from digipath.nn.checks import check_head, check_training, tile_shape
from digipath.nn.encoder import encoder_layers
from digipath.nn.torch_file import read_torch

GRID = 6  # cells along each side of the last features
UNITS = 4096  # of each hidden dense layer
# Sides in pixels that give these cells, first and last.
SIDES = {"one-column": (223, 230), "two-column": (227, 234)}
# Names of the modules in torchvision's file.
PUBLISHED = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
}
LAST = "classifier.6."  # the classifier of 1000 classes, which is left out


def alexnet(
    *,
    classes: int = 3,
    activation: str = "softmax",
    variant: str = "one-column",
    patch: int = 227,
    input_channels: int = 3,
    dropout: float = 0.5,
) -> keras.Model:
    """AlexNet with random weights; 61 million parameters with 1000 classes, 57 million with three.

    Layers of 227 px, "one-column" and "two-column":

        conv1    56 × 56 ×  64    55 × 55 ×  96    11 × 11 px, stride 4
        pool1    27 × 27 ×  64    27 × 27 ×  96    3 × 3, stride 2, as all poolings
        conv2    27 × 27 × 192    27 × 27 × 256    5 × 5; the two columns apart
        pool2    13 × 13 × 192    13 × 13 × 256
        conv3    13 × 13 × 384    13 × 13 × 384    3 × 3
        conv4    13 × 13 × 256    13 × 13 × 384    3 × 3; the two columns apart
        conv5    13 × 13 × 256    13 × 13 × 256    3 × 3; the two columns apart
        pool5      6 × 6 × 256      6 × 6 × 256
        fc6, fc7          4096             4096

    The initial weights are Glorot's, our choice: without norms between the layers, those that keep the variance
    (He's) give logits that a learning rate of 0.001 throws about.

    Args:
        classes: channels of the output.
        activation: "softmax" (the classes exclude each other), "sigmoid" or "linear" (logits).
        variant: "one-column", for which ImageNet weights are published, or "two-column", with response normalisation.
        patch: side of the image in pixels: 223 to 230, "two-column" 227 to 234; the last features are 6 × 6 then,
            so that torchvision's adaptive pooling has nothing to do.
        input_channels: channels of the input, 3 for RGB.
        dropout: share that drops out while training, in [0, 1): of what enters fc6 and fc7 ("one-column") or of
            what leaves them ("two-column").

    Returns:
        (B, patch, patch, input_channels) float32, scaled as the card of the weights says → (B, classes) float32.
        The layer "features" gives what the last hidden layer answers (B, 4096), "logits" what the activation is
        applied to.

    Raises:
        BadInput: a setting is out of range.

    References:
        Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural networks", sections 3 and 4.2,
            Figure 2 (two columns).
        Krizhevsky 2014, "One weird trick for parallelizing ...", arXiv:1404.5997 (one column, in torchvision's sizes).
        Lo et al. 2019, glioma grades by transfer learning, section 2.3.
    """
    check_head(classes, activation)
    check_training(dropout, 0)
    if variant not in SIDES:
        raise BadInput(f"expected a variant among {', '.join(SIDES)}, got {variant!r}")
    least, most = SIDES[variant]
    if patch is None or not least <= patch <= most:
        raise BadInput(f"expected a patch of {least} to {most} px for the variant {variant!r}, got {patch}")
    image = keras.Input(tile_shape(patch, input_channels, least=least), name="image")
    x = _one_column(image, dropout) if variant == "one-column" else _two_columns(image, dropout)
    x = layers.Dense(classes, name="logits")(x)
    # Probabilities in float32 also under mixed precision.
    x = layers.Activation(activation, dtype="float32", name="probability")(x)
    return keras.Model(image, x, name="alexnet")


def is_alexnet(network: keras.Model) -> bool:
    """Whether the network is `alexnet`, in either variant."""
    return any(layer.name == "fc6" for layer in network.layers)


def load_alexnet(network: keras.Model, path: str | Path) -> int:
    """Fill `network` from torchvision's AlexNet file, all but its last layer; arrays loaded.

    Raises BadInput: the file is another network's, or `network` is not AlexNet in one column of three channels;
        nothing is set.
    """
    tensors = {name: array for name, array in read_torch(path).items() if not name.startswith(LAST)}
    found: list[tuple[keras.Layer, list[NDArray[np.float32]]]] = []
    encoder = encoder_layers(network)
    if other := [layer.name for layer in encoder if layer.name not in PUBLISHED]:
        raise BadInput(f"the weights are of AlexNet in one column, the network has a layer {other[0]}: {path}")
    for layer in encoder:
        names = [f"{PUBLISHED[layer.name]}.{array}" for array in ("weight", "bias")]
        if missing := [name for name in names if name not in tensors]:
            raise BadInput(f"expected the weights of torchvision's AlexNet, {missing[0]} is not there: {path}")
        arrays = [tensors.pop(name) for name in names]
        shapes = [_published_shape(tuple(weight.shape)) for weight in layer.weights]
        if [array.shape for array in arrays] != shapes:
            raise BadInput(f"expected shapes {shapes} for {layer.name}, got {[a.shape for a in arrays]}: {path}")
        if not all(np.isfinite(array).all() for array in arrays):
            raise BadInput(f"the arrays of {layer.name} hold values that are no numbers: {path}")
        found.append((layer, arrays))
    if tensors:
        raise BadInput(f"the file has {next(iter(tensors))}, for which AlexNet has no layer: {path}")
    for layer, (kernel, bias) in found:
        layer.set_weights([_as_keras(kernel, layer.name), bias])
    return 2 * len(found)


class ResponseNormalization(layers.Layer):
    """b_i = a_i / (k + α Σ_j a_j²)^β over the n channels j around channel i: (B, H, W, C) → (B, H, W, C).

    With k = 2, n = 5, α = 1e-4 and β = 0.75. Wants float32, since in bfloat16 k swallows the sum.

    References:
        Krizhevsky et al. 2012, section 3.3.
    """

    K, N, ALPHA, BETA = 2.0, 5, 1e-4, 0.75

    def call(self, x: Any) -> Any:  # noqa: ANN401 - a tensor of the backend
        beyond = self.N // 2
        squares = ops.pad(ops.square(x), ((0, 0), (0, 0), (0, 0), (beyond, beyond)))
        around = sum(squares[..., shift : shift + x.shape[-1]] for shift in range(self.N))
        return x / ops.power(self.K + self.ALPHA * around, self.BETA)


def _one_column(x: keras.KerasTensor, dropout: float) -> keras.KerasTensor:
    """(B, H, W, channels) → (B, 4096), as torchvision has it."""
    x = layers.ZeroPadding2D(2, name="conv1_pad")(x)
    x = _pooled(_conv(x, 64, 11, strides=4, name="conv1"), "pool1")
    x = _pooled(_conv(x, 192, 5, name="conv2"), "pool2")
    x = _conv(x, 384, 3, name="conv3")
    x = _conv(x, 256, 3, name="conv4")
    x = _pooled(_conv(x, 256, 3, name="conv5"), "pool5")
    x = layers.Dropout(dropout, name="fc6_dropout")(layers.Flatten(name="flat")(x))
    x = layers.Activation("relu", name="fc6_relu")(layers.Dense(UNITS, name="fc6")(x))
    x = layers.Dropout(dropout, name="fc7_dropout")(x)
    return layers.Activation("relu", name="features")(layers.Dense(UNITS, name="fc7")(x))


def _two_columns(x: keras.KerasTensor, dropout: float) -> keras.KerasTensor:
    """(B, H, W, channels) → (B, 4096), as in 2012. The columns meet at conv3 and at fc6."""
    x = _conv(x, 96, 11, strides=4, name="conv1")
    x = _pooled(ResponseNormalization(dtype="float32", name="norm1")(x), "pool1")
    x = _two_convs(x, 256, 5, name="conv2")
    x = _pooled(ResponseNormalization(dtype="float32", name="norm2")(x), "pool2")
    x = _conv(x, 384, 3, name="conv3")
    x = _two_convs(x, 384, 3, name="conv4")
    x = _pooled(_two_convs(x, 256, 3, name="conv5"), "pool5")
    x = layers.Dense(UNITS, name="fc6")(layers.Flatten(name="flat")(x))
    x = layers.Dropout(dropout, name="fc6_dropout")(layers.Activation("relu", name="fc6_relu")(x))
    x = layers.Activation("relu", name="features")(layers.Dense(UNITS, name="fc7")(x))
    return layers.Dropout(dropout, name="fc7_dropout")(x)


def _conv(x: keras.KerasTensor, width: int, window: int, *, name: str, strides: int = 1) -> keras.KerasTensor:
    """Convolution → ReLU; padded on both sides alike unless it has strides."""
    padding = "same" if strides == 1 else "valid"
    x = layers.Conv2D(width, window, strides=strides, padding=padding, name=name)(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)


def _two_convs(x: keras.KerasTensor, width: int, window: int, *, name: str) -> keras.KerasTensor:
    """`_conv` of each half of the channels.

    Two convolutions in the place of one with groups, which TensorFlow has on CPUs only compiled by XLA.
    """
    columns = [
        layers.Conv2D(width // 2, window, padding="same", name=f"{name}_{column}")(half)
        for column, half in enumerate(ops.split(x, 2, axis=-1), start=1)
    ]
    return layers.Activation("relu", name=f"{name}_relu")(layers.Concatenate(name=name)(columns))


def _pooled(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.MaxPooling2D(3, strides=2, name=name)(x)


def _published_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(h, w, in, out) → (out, in, h, w); (in, out) → (out, in); (out,) stays."""
    return (*shape[:-3:-1], *shape[:-2])


def _as_keras(kernel: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """A kernel of torch's in Keras' order of axes: that of `_published_shape`, undone."""
    if name == "fc6":  # its input is flattened by torch with the channels first, here with the channels last
        outside = len(kernel)
        return kernel.reshape(outside, -1, GRID, GRID).transpose(2, 3, 1, 0).reshape(-1, outside)
    return np.ascontiguousarray(kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T)
