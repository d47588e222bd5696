"""DenseNet169 with cubic kernels, the network of MRI of Lerousseau et al. 2020: volumes → classes."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from digipath.errors import BadInput
from digipath.nn.checks import check_head, check_training
from digipath.nn.residual_3d import PLAIN, activated, pointwise, sides_of, volume_input

STRIDE = 32  # voxels per cell of the last features
BLOCKS = (6, 12, 32, 32)


def densenet169_3d(
    *,
    classes: int = 3,
    activation: str = "softmax",
    input_channels: int = 4,
    patch: int | Sequence[int] | None = 128,
    blocks: Sequence[int] = BLOCKS,
    growth: int = 32,
    initial: int = 64,
    bottleneck: int = 4,
    dropout: float = 0.0,
    momentum: float = 0.9,
) -> keras.Model:
    """DenseNet169 in three dimensions with random weights: 18.77 million parameters, 18.61 of which are trained.

    Layers, strides and borders are those of MONAI, from which the paper took the network. At the default:

        layer          side  channels
        volume         128³         4
        conv0           64³        64
        pool0           32³        64
        denseblock1     32³       256
        transition1     16³       128
        denseblock2     16³       512
        transition2      8³       256
        denseblock3      8³      1280
        transition3      4³       640
        denseblock4      4³      1664
        features_relu    4³      1664

    Args:
        classes: channels of the output.
        activation: "softmax" (the classes exclude each other), "sigmoid" or "linear" (logits).
        input_channels: modalities.
        patch: sides of the volume in voxels, at least 32: one for all or (x, y, z); None accepts any such sides.
        blocks: layers of each dense block.
        growth: channels that each layer adds.
        initial: kernels of the first convolution, of 7³ voxels and stride 2.
        bottleneck: of a layer's kernels of 1³ voxels there are bottleneck × growth.
        dropout: share of the averaged features dropped before the head while training, in [0, 1); in the paper none.
        momentum: of the moving batch statistics, in [0, 1).

    Returns:
        (B, x, y, z, input_channels) float32 → (B, classes) float32. The layers of the table are each computed from
        the one before alone; "features" gives the average of the last (B, 1664), "logits" what the activation is
        applied to.

    Raises:
        BadInput: a setting is out of range.

    References:
        Huang et al. 2017, "Densely connected convolutional networks", arXiv:1608.06993, Table 1.
        Lerousseau et al. 2020, "Multimodal brain tumor classification", section 2.2 and Figure 2; Adam 5e-4, batch 3.
    """
    check_head(classes, activation)
    check_training(dropout, momentum)
    _check(patch, blocks, (growth, initial, bottleneck))
    volume = volume_input(patch, input_channels)
    # Padded on both sides alike: "same" pads the last planes only where strides are 2.
    x = layers.ZeroPadding3D(3, name="conv0_pad")(volume)
    x = layers.Conv3D(initial, 7, strides=2, name="conv0", **PLAIN)(x)
    x = activated(x, momentum=momentum, name="conv0")
    # After a ReLU nothing lies below zero, so that the padding never wins.
    x = layers.ZeroPadding3D(1, name="pool0_pad")(x)
    x = layers.MaxPooling3D(3, strides=2, name="pool0")(x)
    for block, depth in enumerate(blocks, start=1):
        if block > 1:
            x = _transition(x, momentum=momentum, name=f"transition{block - 1}")
        x = _dense_block(x, depth, growth, bottleneck, momentum=momentum, name=f"denseblock{block}")
    x = activated(x, momentum=momentum, name="features")
    x = layers.GlobalAveragePooling3D(name="features")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Dense(classes, name="logits")(x)
    # Probabilities in float32 also under mixed precision.
    x = layers.Activation(activation, dtype="float32", name="probability")(x)
    return keras.Model(volume, x, name="densenet169_3d")


def _dense_block(
    x: keras.KerasTensor, depth: int, growth: int, bottleneck: int, *, momentum: float, name: str
) -> keras.KerasTensor:
    """Every layer sees all that was there before it and adds `growth` channels; the last sum of them is `name`."""
    for number in range(1, depth + 1):
        layer = f"{name}_layer{number}"
        y = pointwise(activated(x, momentum=momentum, name=f"{layer}_1"), bottleneck * growth, name=f"{layer}_conv1")
        y = activated(y, momentum=momentum, name=f"{layer}_2")
        y = layers.Conv3D(growth, 3, padding="same", name=f"{layer}_conv2", **PLAIN)(y)
        x = layers.Concatenate(name=name if number == depth else layer)([x, y])
    return x


def _transition(x: keras.KerasTensor, *, momentum: float, name: str) -> keras.KerasTensor:
    """Half the channels, then half the sides; of an odd side the last plane is left out."""
    x = pointwise(activated(x, momentum=momentum, name=name), x.shape[-1] // 2, name=f"{name}_conv")
    return layers.AveragePooling3D(2, name=name)(x)


def _check(patch: int | Sequence[int] | None, blocks: Sequence[int], counts: tuple[int, int, int]) -> None:
    if any(side is not None and side < STRIDE for side in sides_of(patch)):
        raise BadInput(f"expected sides of at least {STRIDE} voxels, got {patch}")
    if min(blocks, default=0) < 1:
        raise BadInput(f"expected dense blocks of at least one layer, got {list(blocks)}")
    if min(counts) < 1:
        raise BadInput(f"expected a positive growth, initial and bottleneck, got {counts}")
