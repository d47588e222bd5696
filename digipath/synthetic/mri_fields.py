"""The frame and the smooth random fields of a generated volume.

Lengths are in units, 64 of which are the mean side of the volume: a unit is a voxel where that is 64³.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

Floats = NDArray[np.float32]
SIDE_UNITS = 64


@dataclass(frozen=True)
class Frame:
    """The grid that a brain is drawn on, (X, Y, Z) voxels; the middle of the volume lies at 0."""

    shape_vox: tuple[int, int, int]

    @property
    def step_units(self) -> float:
        """The side of a voxel."""
        return float(SIDE_UNITS / np.prod(self.shape_vox) ** (1 / 3))

    @property
    def half_units(self) -> Floats:
        """(3,) from the middle to the border."""
        return np.array([count * self.step_units / 2 for count in self.shape_vox], np.float32)

    def places(self) -> Floats:
        """(3, X, Y, Z) of the voxels' centres, in units."""
        centre = (np.array(self.shape_vox, np.float32) - 1).reshape(3, 1, 1, 1) / 2
        return np.asarray((np.indices(self.shape_vox, np.float32) - centre) * self.step_units, np.float32)

    def noise(self, sigma_units: float, rng: np.random.Generator) -> Floats:
        """(X, Y, Z) of mean 0 and variance 1 that varies over `sigma_units`; it goes on at the opposite border."""
        waves = fft.rfftn(rng.standard_normal(self.shape_vox, dtype=np.float32))
        for axis, count in enumerate(self.shape_vox):
            turns = fft.rfftfreq(count) if axis == 2 else fft.fftfreq(count)
            kept = np.exp(-2 * (np.pi * sigma_units / self.step_units * turns) ** 2).astype(np.float32)
            waves *= kept.reshape([-1 if other == axis else 1 for other in range(3)])
        field = fft.irfftn(waves, s=self.shape_vox)
        return np.asarray((field - field.mean()) / field.std(), np.float32)

    def smoothed(self, values: Floats, sigma_units: float) -> Floats:
        """(X, Y, Z, C) averaged over space."""
        sigma = sigma_units / self.step_units
        return np.asarray(ndimage.gaussian_filter(values, (sigma, sigma, sigma, 0)))


def turned(rng: np.random.Generator) -> Floats:
    """A random rotation, (3, 3)."""
    return np.asarray(Rotation.from_quat(rng.standard_normal(4)).as_matrix(), np.float32)


def soft_step(values: NDArray[np.floating], width: float) -> Floats:
    """0 far below 0, 1 far above, most of the way within ± 2 × `width`."""
    return np.asarray(0.5 * (1 + np.tanh(values / (2 * width))), np.float32)


def ellipsoid(x: Floats, y: Floats, z: Floats, half_axes: tuple[float, float, float]) -> Floats:
    """0 in the middle, 1 on the surface."""
    a, b, c = (np.float32(half) for half in half_axes)
    return np.asarray(np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2))
