"""Networks by name: `build("unet", backbone="densenet121")` gives a Keras model.

Every builder is a function whose settings are plain values, so that the `network` entry of a
weights card, `{"name": …, "config": {…}}`, is all that is needed to build the network again.
Four kinds: of pixels (maps of classes), of tiles (one answer each), of bags of tiles, of volumes
(maps of classes, or one answer).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import keras

from digipath.errors import BadInput
from digipath.nn.alexnet import alexnet
from digipath.nn.checks import built
from digipath.nn.deeplabv3plus import deeplabv3plus
from digipath.nn.densenet_3d import densenet169_3d
from digipath.nn.digipathai import digipathai_unet
from digipath.nn.grading_3d import grading_3d
from digipath.nn.mil import mil, mil_head
from digipath.nn.resnet import resnet18
from digipath.nn.small_unet import small_unet
from digipath.nn.tile_classifiers import densenet121, efficientnet_b0
from digipath.nn.unet import unet
from digipath.nn.unet_3d import unet_3d

__all__ = ["BUILDERS", "build", "patch_multiple"]

BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "alexnet": alexnet,
    "deeplabv3plus": deeplabv3plus,
    "densenet121": densenet121,
    "densenet169-3d": densenet169_3d,
    "efficientnet-b0": efficientnet_b0,
    "grading-3d": grading_3d,
    "mil": mil,
    "mil-head": mil_head,
    "resnet18": resnet18,
    "unet": unet,
    "unet-3d": unet_3d,
    "unet-digipathai": digipathai_unet,
    "unet-small": small_unet,
}


def build(name: str, **config: object) -> keras.Model:
    """The network called `name`, with random weights.

    Args:
        name: one of `BUILDERS`: "deeplabv3plus", "unet" (the encoders of segmentation-models),
            "unet-digipathai" (its published weights) or "unet-small" (few parameters, made for CPUs);
            for tiles "resnet18", "densenet121" or "efficientnet-b0"; for bags of tiles "mil", and
            "mil-head", what of it follows the embedder; for volumes "unet-3d" (each voxel), "grading-3d" or
            "densenet169-3d" (one answer); for slices of volumes "alexnet".
        **config: the settings of that builder, e.g. `backbone`, `classes`, `activation`, `patch`.

    Returns:
        (B, H, W, channels) float32 → (B, H, W, classes) float32; of tiles and slices → (B, classes);
        of bags (B, N, H, W, channels) → (B, classes); of volumes (B, x, y, z, channels) → (B, x, y, z, classes)
        or (B, classes).

    Raises:
        BadInput: no network has this name, it has no such setting, or a setting is out of range.
    """
    return built("a network", BUILDERS, name, config)


def patch_multiple(name: str, config: Mapping[str, object]) -> int:
    """Pixels that the sides of a network's patches must be multiples of, at least 32.

    Raises:
        BadInput: as `build`, or no patch of up to 1024 px suits the network.
    """
    for side in (32, 64, 128, 256, 512):
        with contextlib.suppress(BadInput):
            build(name, **{**config, "patch": side})
            return side
    build(name, **{**config, "patch": 1024})
    return 1024
