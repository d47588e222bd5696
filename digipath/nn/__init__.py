"""Networks by name: `build("unet", backbone="densenet121")` gives a Keras model.

Every builder is a function whose settings are plain values, so that the `network` entry of a
weights card, `{"name": …, "config": {…}}`, is all that is needed to build the network again.
Three kinds: of pixels (maps of classes), of tiles (one answer each), of bags of tiles.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import keras

from digipath.errors import BadInput
from digipath.nn.checks import built
from digipath.nn.deeplabv3plus import deeplabv3plus
from digipath.nn.digipathai import digipathai_unet
from digipath.nn.mil import mil, mil_head
from digipath.nn.resnet import resnet18
from digipath.nn.small_unet import small_unet
from digipath.nn.tile_classifiers import densenet121, efficientnet_b0
from digipath.nn.unet import unet

__all__ = ["BUILDERS", "build", "patch_multiple"]

BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "deeplabv3plus": deeplabv3plus,
    "densenet121": densenet121,
    "efficientnet-b0": efficientnet_b0,
    "mil": mil,
    "mil-head": mil_head,
    "resnet18": resnet18,
    "unet": unet,
    "unet-digipathai": digipathai_unet,
    "unet-small": small_unet,
}


def build(name: str, **config: object) -> keras.Model:
    """The network called `name`, with random weights.

    Args:
        name: one of `BUILDERS`: "deeplabv3plus", "unet" (the encoders of segmentation-models),
            "unet-digipathai" (its published weights) or "unet-small" (few parameters, made for CPUs);
            for tiles "resnet18", "densenet121" or "efficientnet-b0"; for bags of tiles "mil", and
            "mil-head", what of it follows the embedder.
        **config: the settings of that builder, e.g. `backbone`, `classes`, `activation`, `patch`.

    Returns:
        (B, H, W, channels) float32 → (B, H, W, classes) float32; of tiles → (B, classes);
        of bags (B, N, H, W, channels) → (B, classes).

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
