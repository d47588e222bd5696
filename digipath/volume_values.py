"""Frozen values about brain MRI that the stages share.

Frames: `_vox` = voxels of a volume, (x, y, z) in RAS order; `_mm` = its millimetres, RAS: x to the patient's right,
y to the front, z to the top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadVolume

MODALITIES = ("t1", "t1c", "t2", "flair")  # t1c is T1 with contrast agent


@dataclass(frozen=True)
class Volume:
    """MRI of one patient, all modalities on one grid of voxels in RAS order.

    Attributes:
        modalities: names of the channels, of `MODALITIES`.
        voxels: (X, Y, Z, channels) float32; the axes rise to the patient's right, front and top (or lean that way).
        affine_mm: (4, 4) float64, voxel index (x, y, z, 1) → RAS millimetres, of a voxel's centre.
        brain: (X, Y, Z) bool, never empty.
        tumour: (X, Y, Z) bool, where somebody outlined it; None: not given.
        notes: what was done to the files to bring them here, for the reader of a report.
    """

    modalities: tuple[str, ...]
    voxels: NDArray[np.float32]
    affine_mm: NDArray[np.float64]
    brain: NDArray[np.bool_]
    tumour: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()

    @property
    def shape_vox(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        x, y, z = self.voxels.shape[:3]
        return x, y, z

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along x, y, z."""
        x, y, z = np.sqrt((self.affine_mm[:3, :3] ** 2).sum(axis=0)).tolist()
        return x, y, z

    def only(self, order: Sequence[str]) -> Volume:
        """These modalities alone, in this order. Raises BadVolume: one of them is not there."""
        if missing := [name for name in order if name not in self.modalities]:
            raise BadVolume(f"expected {', '.join(order)}, received {', '.join(self.modalities)}: give {missing[0]}")
        channels = [self.modalities.index(name) for name in order]
        return replace(self, modalities=tuple(order), voxels=self.voxels[..., channels])


@dataclass(frozen=True)
class Box:
    """A box of voxels [start, stop) along x, y, z; it may reach beyond its volume."""

    start_vox: tuple[int, int, int]
    stop_vox: tuple[int, int, int]

    @property
    def size_vox(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        x, y, z = (stop - start for start, stop in zip(self.start_vox, self.stop_vox, strict=True))
        return x, y, z
