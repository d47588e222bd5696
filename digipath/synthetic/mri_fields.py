"""Smooth random fields and frames of a generated volume; lengths are in units of a 64th of its mean side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

Floats = NDArray[np.float32]
SIDE_UNITS = 64  # so that a unit is a voxel in a volume of 64³


@dataclass(frozen=True)
class Frame:
    """The grid that a brain is drawn on; the middle of the volume lies at 0."""

    shape_vox: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @property
    def half_units(self) -> NDArray[np.float64]:
        """(3,) from the middle to the border."""
        extent = np.multiply(self.shape_vox, self.spacing_mm)
        return np.asarray(extent / np.prod(extent) ** (1 / 3) * SIDE_UNITS / 2)

    @property
    def step_units(self) -> NDArray[np.float64]:
        """(3,) a voxel's sides."""
        return 2 * self.half_units / self.shape_vox

    def places(self) -> Floats:
        """(3, X, Y, Z) of the voxels' centres, in units."""
        axes = [
            ((np.arange(count) - (count - 1) / 2) * step).astype(np.float32)
            for count, step in zip(self.shape_vox, self.step_units, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"))

    def noise(self, sigma_units: float, rng: np.random.Generator) -> Floats:
        """(X, Y, Z) of mean 0 and variance 1, alike over `sigma_units`."""
        waves = fft.rfftn(rng.standard_normal(self.shape_vox, dtype=np.float32))
        last = self.shape_vox[2]
        for axis, step in enumerate(self.step_units):
            turns = fft.rfftfreq(last) if axis == 2 else fft.fftfreq(self.shape_vox[axis])
            kept = np.exp(-2 * (np.pi * sigma_units / step * turns) ** 2).astype(np.float32)
            waves *= kept.reshape([-1 if other == axis else 1 for other in range(3)])
        field = fft.irfftn(waves, s=self.shape_vox)
        return np.asarray((field - field.mean()) / field.std())

    def smoothed(self, values: Floats, sigma_units: float) -> Floats:
        """(X, Y, Z[, C]) averaged over space."""
        sigma_vox = [*sigma_units / self.step_units, 0][: values.ndim]
        return np.asarray(ndimage.gaussian_filter(values, sigma_vox))


def turned(rng: np.random.Generator) -> Floats:
    """A random rotation, (3, 3)."""
    return Rotation.random(random_state=rng).as_matrix().astype(np.float32)


def soft_step(values: Floats, width: float) -> Floats:
    """0 far below 0, 1 far above, over about 4 × `width`."""
    return np.asarray(0.5 * (1 + np.tanh(values / (2 * width))))
