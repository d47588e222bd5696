"""Networks by name: `build("unet", backbone="densenet121")` gives a Keras model.

Every builder is a function whose settings are plain values, so that the `network` entry of a
weights card, `{"name": …, "config": {…}}`, is all that is needed to build the network again.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping

import keras

from digipath.errors import BadInput
from digipath.nn.deeplabv3plus import deeplabv3plus
from digipath.nn.digipathai import digipathai_unet
from digipath.nn.small_unet import small_unet
from digipath.nn.unet import unet

__all__ = ["BUILDERS", "build", "patch_multiple"]

BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "deeplabv3plus": deeplabv3plus,
    "unet": unet,
    "unet-digipathai": digipathai_unet,
    "unet-small": small_unet,
}


def build(name: str, **config: object) -> keras.Model:
    """The network called `name`, with random weights.

    Args:
        name: one of `BUILDERS`: "deeplabv3plus", "unet" (the encoders of segmentation-models),
            "unet-digipathai" (its published weights) or "unet-small" (few parameters, made for CPUs).
        **config: the settings of that builder, e.g. `backbone`, `classes`, `activation`, `patch`.

    Returns:
        (B, H, W, channels) float32 → (B, H, W, classes) float32.

    Raises:
        BadInput: no network has this name, it has no such setting, or a setting is out of range.
    """
    if name not in BUILDERS:
        raise BadInput(f"expected a network among {', '.join(sorted(BUILDERS))}, got {name!r}")
    builder = BUILDERS[name]
    known = set(inspect.signature(builder).parameters)
    if unknown := set(config) - known:
        unknown_names, known_names = ", ".join(sorted(unknown)), ", ".join(sorted(known))
        raise BadInput(f"network {name!r} has no setting {unknown_names}; it has {known_names}")
    return builder(**config)


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
