"""A 3D U-Net of residual blocks that marks the tumour, voxel by voxel (Pereira 2018, Figure 1, top)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import keras
from keras import layers

from digipath.errors import BadInput
from digipath.nn.checks import check_head
from digipath.nn.residual_3d import (
    LOST_VOX,
    activated,
    check_blocks,
    convolved,
    pointwise,
    residual,
    sides_of,
    volume_input,
)

WIDTHS = (16, 32, 64, 128)
BLOCK_VOX = 2 * LOST_VOX  # on every side, by a residual block without padding


def unet_3d(
    *,
    classes: int = 2,
    activation: str = "softmax",
    input_channels: int = 4,
    patch: int | Sequence[int] | None = None,
    widths: Sequence[int] = WIDTHS,
    dropout: float = 0.05,
    padding: str = "same",
    momentum: float = 0.9,
) -> keras.Model:
    """3D U-Net with random weights: max pooling, then upsampling, with skips by sum; 1.2 million parameters.

    A 3³ convolution, then a residual block with pre-activation at each of the resolutions, down and up again. On the
    way up, features pass a 1³ convolution to the channels of the finer resolution, each voxel becomes 2³ equal ones,
    and the encoder's features of that resolution are added. The text of the paper tells neither the filters nor the
    number of resolutions, nor how features are upsampled: `widths`, the one block at each and the nearest neighbour
    are our choice.

    Without padding (`padding="valid"`, the paper's) every 3³ convolution loses a voxel on each side, and skips are
    cropped to what they are added to. With the widths of the default and a patch of 126:

        layer                    voxels  channels
        image                      126³         4
        stem                       124³        16
        enc1                       120³        16
        pool1, enc2          60³,   56³        32
        pool2, enc3          28³,   24³        64
        pool3, enc4          12³,    8³       128
        decoder3_up                 16³        64  + enc3 cropped by 4 on each side
        decoder3                    12³        64
        decoder2_up                 24³        32  + enc2 cropped by 16
        decoder2                    20³        32
        decoder1_up                 40³        16  + enc1 cropped by 40
        decoder1                    36³        16
        probability                 36³         2

    so that 45 voxels are lost on each side (`context_of`). With padding all layers at a resolution have one size.

    Args:
        classes: channels of the output; 2 with softmax, as in the paper: background and tumour.
        activation: "softmax" (the classes exclude each other), "sigmoid" or "linear" (logits).
        input_channels: modalities.
        patch: sides of a patch in voxels, one for all or (x, y, z), multiples of 2^(L − 1) for L widths; without
            padding 2^(L − 1) · k + 6, 2 or 0 for four, three or two widths, and large enough for an answer. None
            accepts any such sides.
        widths: channels at each resolution, from the finest on; two or more.
        dropout: share of the channels that drop out within each block while training, in [0, 1).
        padding: "same" or "valid".
        momentum: of the moving batch statistics, in [0, 1).

    Returns:
        (B, x, y, z, input_channels) float32 → (B, x, y, z, classes) float32, without padding smaller by
        2 · `context_of`. The layer "logits" gives what the activation is applied to.

    Raises:
        BadInput: a setting is out of range, or a patch that does not fit; it names the next that does.

    References:
        Pereira et al. 2018, "Automatic brain tumor grading from MRI using convolutional neural networks and visual
        quality assessment", section 2.1, Figure 1; spatial dropout 0.05, Adam 5e-5, weight decay 1e-6.
    """
    check_head(classes, activation)
    check_blocks(widths, 2, padding)
    _check_patch(patch, len(widths), padding)
    block = functools.partial(residual, padding=padding, momentum=momentum, dropout=dropout)
    image = volume_input(patch, input_channels)
    x = convolved(image, widths[0], padding=padding, name="stem")
    skips: list[keras.KerasTensor] = []
    for level, width in enumerate(widths, start=1):
        if level > 1:
            x = layers.MaxPooling3D(2, name=f"pool{level - 1}")(x)
        x = block(x, width, name=f"enc{level}")
        skips.append(x)
    for level in range(len(widths) - 1, 0, -1):
        width, skip, name = widths[level - 1], skips[level - 1], f"decoder{level}"
        x = layers.UpSampling3D(2, name=f"{name}_up")(pointwise(x, width, name=f"{name}_match"))
        if padding == "valid":
            skip = layers.Cropping3D(_cropped(len(widths) - level), name=f"{name}_skip")(skip)
        x = layers.Add(name=f"{name}_sum")([skip, x])
        x = block(x, width, name=name)
    x = layers.Conv3D(classes, 1, name="logits")(activated(x, momentum=momentum, name="decoder"))
    # Probabilities in float32 also under mixed precision.
    x = layers.Activation(activation, dtype="float32", name="probability")(x)
    return keras.Model(image, x, name="unet_3d")


def context_of(config: Mapping[str, object]) -> int:
    """Voxels on each side of a patch for which `unet_3d(**config)` gives no answer."""
    widths = config.get("widths", WIDTHS)
    assert isinstance(widths, Sequence)
    return _context(len(widths)) if config.get("padding", "same") == "valid" else 0


def _context(levels: int) -> int:
    return LOST_VOX + BLOCK_VOX + _cropped(levels - 1) + BLOCK_VOX


def _cropped(below: int) -> int:
    """Voxels on each side that are lost to `below` coarser resolutions, in voxels of this one."""
    if below == 0:
        return 0
    return 2 * (BLOCK_VOX + (0 if below == 1 else _cropped(below - 1) + BLOCK_VOX))


def _check_patch(patch: int | Sequence[int] | None, levels: int, padding: str) -> None:
    for side in sides_of(patch):
        if side is not None and not _fits(side, levels, padding):
            larger = range(side + 1, side + 2 * _context(levels) + 2**levels)
            following = next(one for one in larger if _fits(one, levels, padding))
            raise BadInput(
                f"expected sides of a patch that suit {levels} resolutions with padding {padding!r}, got {side}; "
                f"the next that fits is {following}"
            )


def _fits(side: int, levels: int, padding: str) -> bool:
    """Whether a side can be halved level by level and leaves an answer."""
    if padding == "same":
        return side % 2 ** (levels - 1) == 0
    within = side - 2 * LOST_VOX
    for _ in range(levels - 1):
        within -= 2 * BLOCK_VOX
        if within < 2 or within % 2:
            return False
        within //= 2
    return side > 2 * _context(levels)
