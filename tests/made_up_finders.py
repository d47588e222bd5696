"""A network that finds tumours by weights set by hand, and its card: what is bright in one modality is tumour."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from made_up_graders import volume_card


def bright_is_tumour(network, *, channel, above, blurred=False) -> None:
    """Probability of tumour = sigmoid(20 · (channel − above)); every block adds nothing.

    blurred: of the channel's mean over 3 × 3 × 3 voxels.
    """
    for layer in network.layers:
        if layer.name == "stem":
            kernel = np.zeros(layer.kernel.shape, np.float32)
            kernel[1, 1, 1, channel, 0] = 1
            if blurred:
                kernel[..., channel, 0] = 1 / 27
            layer.set_weights([kernel])
        elif layer.name == "logits":
            kernel = np.zeros(layer.kernel.shape, np.float32)
            kernel[0, 0, 0, 0, 1] = 20
            layer.set_weights([kernel, np.array([0, -20 * above], np.float32)])
        elif hasattr(layer, "kernel"):
            layer.set_weights([np.zeros(layer.kernel.shape, np.float32)])
        elif layer.name.endswith("_bn"):
            layer.epsilon = 0.0  # not of the weights: a network that is loaded has its own, 0.001


def write_finder(folder: Path, name: str, *, order, size=(16, 16, 16), padding="same", **bright) -> Path:
    """The card of a `unet-3d` beside its weights; bright: see `bright_is_tumour`, in deviations of the brain."""
    from digipath.nn import build

    config = {"widths": [2, 2], "input_channels": len(order), "padding": padding}
    network = build("unet-3d", **config)
    bright_is_tumour(network, **bright)
    network.save_weights(folder / f"{name}.weights.h5")
    record = volume_card(name, {"name": "unet-3d", "config": config}, classes=("other", "tumour"))
    asked = {"modality": "volume", "order": list(order), "size": list(size), "bias_field": True}
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**record, "output": "voxels", "input": asked}))
    return path
