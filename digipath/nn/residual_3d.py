"""What the networks of volumes are built of: 3D convolutions and residual blocks with pre-activation."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from digipath.errors import BadInput
from digipath.nn.checks import check_training

PADDINGS = ("same", "valid")
EPSILON = 1e-5  # of the batch norms, as in the other networks
LOST_VOX = 1  # on every side, by a 3³ convolution without padding
PLAIN = {"use_bias": False, "kernel_initializer": "he_normal"}  # a norm follows, at the latest behind the sums

Side = int | None


def volume_input(patch: int | Sequence[int] | None, channels: int) -> keras.KerasTensor:
    """The input of a network of volumes, (B, x, y, z, channels); `patch` is one side for all, three, or None: free.

    Raises BadInput unless there is a channel and three sides.
    """
    if channels < 1:
        raise BadInput(f"expected at least one input channel, got {channels}")
    return keras.Input((*sides_of(patch), channels), name="image")


def sides_of(patch: int | Sequence[int] | None) -> tuple[Side, Side, Side]:
    """The three sides that `patch` means; None: free. Raises BadInput unless they are three and positive."""
    sides = (patch,) * 3 if patch is None or isinstance(patch, int) else tuple(patch)
    if len(sides) != 3 or any(side is not None and side < 1 for side in sides):
        raise BadInput(f"expected a patch of one or three positive sides in voxels, got {patch!r}")
    x, y, z = sides
    return x, y, z


def check_blocks(widths: Sequence[int], least: int, padding: str) -> None:
    """Raise BadInput unless there are `least` widths or more, all positive, and the padding exists."""
    if len(widths) < least or min(widths) < 1:
        raise BadInput(f"expected at least {least} positive widths, got {list(widths)}")
    if padding not in PADDINGS:
        raise BadInput(f"expected a padding among {', '.join(PADDINGS)}, got {padding!r}")


def convolved(x: keras.KerasTensor, width: int, *, padding: str, name: str) -> keras.KerasTensor:
    """A 3³ convolution."""
    return layers.Conv3D(width, 3, padding=padding, name=name, **PLAIN)(x)


def activated(x: keras.KerasTensor, *, momentum: float, name: str) -> keras.KerasTensor:
    """Batch normalisation, then ReLU."""
    check_training(0, momentum)
    x = layers.BatchNormalization(momentum=momentum, epsilon=EPSILON, name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)


def residual(
    x: keras.KerasTensor, width: int, *, padding: str, momentum: float, name: str, dropout: float = 0.0
) -> keras.KerasTensor:
    """Residual block with pre-activation: twice (BN → ReLU → 3³ convolution), summed with its input.

    The sum is the layer `name`. Where the channels change, the input passes a 1³ convolution; without padding it is
    cropped to the size of the sum. `dropout` is the share of channels that drop out in front of the second
    convolution.

    References:
        He et al. 2016, "Identity mappings in deep residual networks", arXiv:1603.05027, Figure 4e.
    """
    check_training(dropout, momentum)
    y = convolved(activated(x, momentum=momentum, name=f"{name}_1"), width, padding=padding, name=f"{name}_conv1")
    y = activated(y, momentum=momentum, name=f"{name}_2")
    if dropout:
        y = layers.SpatialDropout3D(dropout, name=f"{name}_dropout")(y)
    y = convolved(y, width, padding=padding, name=f"{name}_conv2")
    shortcut = layers.Cropping3D(2 * LOST_VOX, name=f"{name}_crop")(x) if padding == "valid" else x
    if x.shape[-1] != width:
        shortcut = pointwise(shortcut, width, name=f"{name}_shortcut")
    return layers.Add(name=name)([shortcut, y])


def pointwise(x: keras.KerasTensor, width: int, *, name: str) -> keras.KerasTensor:
    """A 1³ convolution, which brings features to another number of channels."""
    return layers.Conv3D(width, 1, name=name, **PLAIN)(x)
