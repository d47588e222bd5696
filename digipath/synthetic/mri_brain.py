"""A healthy brain in four modalities: shape, hemispheres, ventricles, grey and white matter, vessels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from digipath.synthetic.mri_fields import Floats, Frame, soft_step

CSF, GREY, WHITE, OEDEMA, SOLID, ENHANCING, NECROTIC = range(7)
# Brightness in T1, T1c, T2, FLAIR: fluid is dark but on T2, oedema bright on T2 and FLAIR, contrast agent on T1c only.
BRIGHTNESS = np.array(
    [
        [0.20, 0.22, 1.00, 0.22],
        [0.55, 0.58, 0.60, 0.62],
        [0.78, 0.78, 0.44, 0.52],
        [0.50, 0.52, 0.84, 0.95],
        [0.46, 0.50, 0.74, 0.82],
        [0.52, 1.10, 0.64, 0.76],
        [0.26, 0.28, 0.96, 0.48],
    ],
    np.float32,
)
HALF_AXES = (0.75, 0.88, 0.70)  # of the field of view
SIZES = (0.88, 1.06)
UNEVEN = 0.035  # of the surface, in radii


@dataclass(frozen=True)
class Brain:
    """inside: (X, Y, Z) bool; depth: (X, Y, Z) of radii, 0 on the surface; tissues: (X, Y, Z, 3) shares, sum 1."""

    inside: NDArray[np.bool_]
    half_axes_units: NDArray[np.float64]
    tissues: Floats
    vessels: Floats


def healthy_brain(frame: Frame, rng: np.random.Generator) -> Brain:
    """A brain of random size and shape that fits the field of view."""
    half = frame.half_units * HALF_AXES * rng.uniform(*SIZES) * rng.uniform(0.97, 1.03, 3)
    place = frame.places() / half[:, None, None, None].astype(np.float32)
    place[2] *= np.where(place[2] < 0, np.float32(1.12), np.float32(1))  # flatter below
    uneven = np.clip(UNEVEN * frame.noise(6, rng), -2 * UNEVEN, 2 * UNEVEN)
    depth = 1 + uneven - np.sqrt((place**2).sum(axis=0))
    fluid = np.maximum(_ventricles(place, frame, rng), _fissures(place, depth, frame, rng))
    grey = soft_step(0.14 + 0.09 * frame.noise(2.2, rng) - depth, 0.02)
    grey = np.maximum(grey, _deep_grey(place, rng)) * (1 - fluid)
    tissues = np.stack([fluid, grey, 1 - fluid - grey], axis=-1)
    # Two smooth fields are zero together along winding lines: vessels.
    vessels = np.exp(-(frame.noise(5, rng) ** 2 + frame.noise(5, rng) ** 2) / 0.02)
    return Brain(depth > 0, half, tissues.astype(np.float32), vessels.astype(np.float32))


def _ventricles(place: Floats, frame: Frame, rng: np.random.Generator) -> Floats:
    size, tilt = rng.uniform(0.75, 1.35), rng.uniform(0.1, 0.3)
    x = np.abs(place[0]) - np.float32(0.11 + 0.03 * size) + np.float32(tilt) * place[1] * np.float32(0.5)
    y, z = place[1] + np.float32(0.05), place[2] - np.float32(0.12)
    radius = np.sqrt((x / 0.075) ** 2 + (y / 0.36) ** 2 + (z / 0.15) ** 2) / np.float32(size)
    return soft_step(1 - radius + 0.12 * frame.noise(3, rng), 0.06)


def _fissures(place: Floats, depth: Floats, frame: Frame, rng: np.random.Generator) -> Floats:
    """Fluid between the hemispheres and in sulci near the surface."""
    middle = np.abs(place[0] + 0.02 * frame.noise(8, rng))
    between = soft_step(0.035 - middle, 0.01) * soft_step(0.45 - depth, 0.05) * soft_step(place[2] + 0.1, 0.05)
    sulci = soft_step(0.22 - np.abs(frame.noise(3, rng)), 0.06) * soft_step(0.13 - depth, 0.03)
    return np.maximum(between, 0.8 * sulci)


def _deep_grey(place: Floats, rng: np.random.Generator) -> Floats:
    x, y, z = np.abs(place[0]) - 0.3, place[1] - rng.uniform(-0.05, 0.1), place[2] + rng.uniform(0.0, 0.1)
    return 0.7 * soft_step(1 - np.sqrt((x / 0.12) ** 2 + (y / 0.25) ** 2 + (z / 0.16) ** 2), 0.1)
