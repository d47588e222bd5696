"""The network that grades a region of a volume (Pereira 2018, Figure 1, middle): one answer for all of it."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from digipath.errors import BadInput
from digipath.nn.checks import check_head, check_training
from digipath.nn.residual_3d import (
    LOST_VOX,
    activated,
    check_blocks,
    convolved,
    residual,
    sides_of,
    volume_input,
)

WIDTHS = (16, 32, 64, 128)
DENSE = (128, 64)


def grading_3d(
    *,
    classes: int = 2,
    activation: str = "softmax",
    input_channels: int = 4,
    patch: int | Sequence[int] | None = 96,
    widths: Sequence[int] = WIDTHS,
    dense: Sequence[int] = DENSE,
    dropout: float = 0.4,
    padding: str = "same",
    momentum: float = 0.9,
) -> keras.Model:
    """Residual network of volumes with random weights; 0.92 million parameters.

    A 3³ convolution; residual blocks with pre-activation, between which max pooling halves the resolution; the average
    over space; 1³ convolutions in the place of dense layers. The text of the paper tells neither the filters nor the
    sizes of the dense layers: `widths` and `dense` are our choice. Sizes of the layers at the default:

        layer                 with padding  without  channels
        image                          96³      96³         4
        stem                           96³      94³        16
        res1                           96³      90³        16
        pool1, res2                    48³ 45³, 41³        32
        pool2, res3                    24³ 20³, 16³        64
        pool3, res4                    12³  8³,  4³       128
        features                        1³       1³       128
        head1, head2                    1³       1³   128, 64

    Args:
        classes: grades.
        activation: "softmax" (the classes exclude each other), "sigmoid" or "linear" (logits).
        input_channels: modalities.
        patch: sides of the region in voxels, one for all or (x, y, z); None accepts any that leave a voxel to "res4".
        widths: channels of the residual blocks, in the paper four; the first convolution has as many as the first.
        dense: channels of the 1³ convolutions before the last, which has one for each class.
        dropout: share of the features that drop out behind each of them while training, in [0, 1).
        padding: "same" or, as in the paper, "valid": no padding, shortcuts cropped to what they are added to.
        momentum: of the moving batch statistics, in [0, 1).

    Returns:
        (B, x, y, z, input_channels) float32 → (B, classes) float32. The layers "res1" to "res4" give the sums of the
        blocks, each computed from the one before alone; "logits" gives what the activation is applied to.

    Raises:
        BadInput: a setting is out of range, or a region too small for the blocks.

    References:
        Pereira et al. 2018, section 2.2, Figure 1; dropout 0.4, Adam 1e-4, weight decay 1e-4.
    """
    check_head(classes, activation)
    check_training(dropout, momentum)
    check_blocks(widths, 1, padding)
    if min(dense, default=1) < 1:
        raise BadInput(f"expected positive widths of dense layers, got {list(dense)}")
    _check_patch(patch, len(widths), padding)
    image = volume_input(patch, input_channels)
    x = convolved(image, widths[0], padding=padding, name="stem")
    for block, width in enumerate(widths, start=1):
        if block > 1:
            x = layers.MaxPooling3D(2, name=f"pool{block - 1}")(x)
        x = residual(x, width, padding=padding, momentum=momentum, name=f"res{block}")
    x = activated(x, momentum=momentum, name="features")
    x = layers.GlobalAveragePooling3D(keepdims=True, name="features")(x)
    for at, width in enumerate(dense, start=1):
        x = layers.Conv3D(width, 1, name=f"head{at}", kernel_initializer="he_normal")(x)
        x = layers.Activation("relu", name=f"head{at}_relu")(x)
        x = layers.Dropout(dropout, name=f"head{at}_dropout")(x)
    x = layers.Conv3D(classes, 1, name="logits_conv")(x)
    x = layers.Reshape((classes,), name="logits")(x)
    # Probabilities in float32 also under mixed precision.
    x = layers.Activation(activation, dtype="float32", name="probability")(x)
    return keras.Model(image, x, name="grading_3d")


def _check_patch(patch: int | Sequence[int] | None, blocks: int, padding: str) -> None:
    """BadInput where a side leaves nothing to the last block."""
    lost = 2 * LOST_VOX if padding == "valid" else 0
    least = 1
    for _ in range(blocks - 1):
        least = 2 * (least + 2 * lost)
    least += 3 * lost
    for side in sides_of(patch):
        if side is not None and side < least:
            raise BadInput(f"expected sides of at least {least} voxels for {blocks} blocks, got {side}")
