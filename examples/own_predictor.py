"""Run your own model through digipath's engine, from any framework.

    digipath segment slide.svs --predictor own_predictor:nuclear_blue

A predictor maps patches (B, P, P, 3) uint8 to probabilities (B, P, P, C) in [0, 1]. Attributes
say what it wants: `patch` in pixels, `at_mpp` in µm per pixel, the names of its `classes`.
"""

from __future__ import annotations

import numpy as np
from skimage.color import rgb2hed


def nuclear_blue(patches: np.ndarray) -> np.ndarray:
    """Share of haematoxylin in each pixel's stain, as a stand-in for a network of yours."""
    haematoxylin, eosin, _ = np.moveaxis(rgb2hed(patches), -1, 0)
    share = haematoxylin / np.maximum(haematoxylin + eosin, 1e-6)
    return np.clip(share, 0, 1)[..., None].astype(np.float32)


nuclear_blue.patch = 512
nuclear_blue.at_mpp = 1.0
nuclear_blue.classes = ("other", "nuclear")
