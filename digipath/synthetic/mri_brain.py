"""A healthy brain: hemispheres, ventricles and sulci, grey and white matter, vessels; and what tissues look like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from digipath.synthetic.mri_fields import Floats, Frame, ellipsoid, soft_step

FLUID, GREY, WHITE, OEDEMA, SOLID, ENHANCING, NECROTIC = range(7)
# Rows are tissues, columns T1, T1c, T2, FLAIR: fluid is bright on T2 alone, oedema on T2 and FLAIR and dark on T1,
# enhancing tumour bright on T1c alone, necrosis dark on T1 and T1c and bright on T2.
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
HALF_AXES = (0.75, 0.86, 0.70)  # of half the field of view, left to right, back to front, bottom to top
SIZES = (0.88, 1.04)  # times that: so the largest still fits
UNEVEN = 0.035  # of the surface, in radii


@dataclass(frozen=True)
class Brain:
    """inside: (X, Y, Z) bool; tissues: (X, Y, Z, 3) shares of FLUID, GREY and WHITE; vessels: (X, Y, Z) in [0, 1]."""

    inside: NDArray[np.bool_]
    tissues: Floats
    vessels: Floats


def healthy_brain(frame: Frame, rng: np.random.Generator) -> Brain:
    """A brain of random size and shape inside the field of view."""
    half = frame.half_units * HALF_AXES * rng.uniform(*SIZES) * rng.uniform(0.97, 1.03, 3)
    place = frame.places() / half.astype(np.float32).reshape(3, 1, 1, 1)
    place[2] *= np.where(place[2] < 0, np.float32(1.12), np.float32(1))  # flatter below
    surface = 1 + np.clip(UNEVEN * frame.noise(6, rng), -2 * UNEVEN, 2 * UNEVEN)
    depth = surface - ellipsoid(place[0], place[1], place[2], (1, 1, 1))
    fluid = np.maximum(_ventricles(place, frame, rng), _fissures(place, depth, frame, rng))
    cortex = soft_step(0.14 + 0.09 * frame.noise(2.2, rng) - depth, 0.02)
    grey = np.maximum(cortex, _deep_grey(place, rng)) * (1 - fluid)
    # Two smooth fields are zero together along winding lines: vessels.
    vessels = np.exp(-(frame.noise(5, rng) ** 2 + frame.noise(5, rng) ** 2) / 0.02)
    return Brain(depth > 0, np.stack([fluid, grey, 1 - fluid - grey], axis=-1), vessels)


def _ventricles(place: Floats, frame: Frame, rng: np.random.Generator) -> Floats:
    """Fluid in the middle of each hemisphere, the two further apart behind."""
    size, tilt = rng.uniform(0.75, 1.35), rng.uniform(0.05, 0.15)
    x = np.abs(place[0]) - np.float32(0.11 + 0.03 * size) + np.float32(tilt) * place[1]
    rho = ellipsoid(x, place[1] + 0.05, place[2] - 0.12, (0.075 * size, 0.36 * size, 0.15 * size))
    return soft_step(1 - rho + 0.12 * frame.noise(3, rng), 0.06)


def _fissures(place: Floats, depth: Floats, frame: Frame, rng: np.random.Generator) -> Floats:
    """Fluid between the hemispheres and in sulci near the surface."""
    aside = np.abs(place[0] + 0.02 * frame.noise(8, rng))
    between = soft_step(0.035 - aside, 0.01) * soft_step(0.45 - depth, 0.05) * soft_step(place[2] + 0.1, 0.05)
    sulci = soft_step(0.22 - np.abs(frame.noise(3, rng)), 0.06) * soft_step(0.13 - depth, 0.03)
    return np.maximum(between, 0.8 * sulci)


def _deep_grey(place: Floats, rng: np.random.Generator) -> Floats:
    forward, down = rng.uniform(-0.05, 0.1), rng.uniform(0, 0.1)
    rho = ellipsoid(np.abs(place[0]) - 0.3, place[1] - forward, place[2] + down, (0.12, 0.25, 0.16))
    return 0.7 * soft_step(1 - rho, 0.1)
