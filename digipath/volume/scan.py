"""One file's voxels before the modalities meet, and the grid they meet on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadVolume

SAME_GRID_MM = 1e-3  # at all corners
LEAST_VOLUME = 1e-3  # of the parallelepiped of the three axes' unit vectors: less is flat


@dataclass(frozen=True)
class Grid:
    """Where voxels are: how many, and (4, 4) voxel index → RAS millimetres of a voxel's centre."""

    shape_vox: tuple[int, int, int]
    affine_mm: NDArray[np.float64]

    def corners_mm(self) -> NDArray[np.float64]:
        """(8, 3) centres of the outermost voxels."""
        corners_vox = np.array(list(np.ndindex(2, 2, 2))) * (np.array(self.shape_vox) - 1)
        return corners_vox @ self.affine_mm[:3, :3].T + self.affine_mm[:3, 3]

    def same_as(self, other: Grid) -> bool:
        """Whether both have the same voxels at the same places, within a thousandth of a millimetre."""
        if self.shape_vox != other.shape_vox:
            return False
        return bool(np.linalg.norm(self.corners_mm() - other.corners_mm(), axis=1).max() <= SAME_GRID_MM)

    def __str__(self) -> str:
        spacing_mm = np.linalg.norm(self.affine_mm[:3, :3], axis=0)
        return f"{' × '.join(map(str, self.shape_vox))} voxels of {' × '.join(f'{mm:.2f}' for mm in spacing_mm)} mm"


@dataclass(frozen=True)
class Scan:
    """One NIfTI file or DICOM series.

    Attributes:
        path: the file or folder.
        values: (X, Y, Z) float32, finite, in the RAS order nearest to the file's own.
        grid: where they are.
        patient: the patient's identity where the file states one. frame: that of its millimetres (DICOM's Frame of
            Reference UID), likewise.
        notes: what a reader of the result should know about the file.
    """

    path: Path
    values: NDArray[np.float32]
    grid: Grid
    patient: str | None = None
    frame: str | None = None
    notes: tuple[str, ...] = ()


def checked_scan(
    path: Path, values: NDArray[Any], affine_mm: NDArray[np.float64], *,
    patient: str | None = None, frame: str | None = None, notes: tuple[str, ...] = (),
) -> Scan:  # fmt: skip
    """Values (X, Y, Z) of any axis order with their affine to RAS millimetres → a `Scan` in RAS order.

    Raises:
        BadVolume: NaN or infinite voxels, fewer than two voxels along an axis, an affine that is not finite or flat.
    """
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is counted
        values = values.astype(np.float32, copy=False)
    if bad := values.size - int(np.isfinite(values).sum()):
        raise BadVolume(f"expected finite voxels, got {bad} of {values.size} NaN or infinite in {path}")
    if min(values.shape) < 2:
        raise BadVolume(f"expected a volume of at least 2 voxels along each axis, got {values.shape} in {path}")
    _check_affine(affine_mm, path)
    order = io_orientation(affine_mm)
    x, y, z = (turned := apply_orientation(values, order)).shape
    return Scan(path, turned, Grid((x, y, z), affine_mm @ inv_ornt_aff(order, values.shape)), patient, frame, notes)


def resampled(scan: Scan, grid: Grid, *, nearest: bool = False) -> NDArray[np.float32]:
    """The scan's values at the voxels of `grid`, by linear interpolation or the nearest voxel's; 0 beyond the scan."""
    from scipy.ndimage import affine_transform

    to_scan = np.linalg.inv(scan.grid.affine_mm) @ grid.affine_mm
    shape = grid.shape_vox
    # The outer half of the outermost voxels has a neighbour on one side only: it takes that one's value.
    values = affine_transform(
        scan.values, to_scan, output_shape=shape, order=0 if nearest else 1, mode="nearest", prefilter=False
    )
    field = np.ones(scan.grid.shape_vox, np.uint8)
    return values * affine_transform(field, to_scan, output_shape=shape, order=0, mode="grid-constant", prefilter=False)


def _check_affine(affine_mm: NDArray[np.float64], path: Path) -> None:
    lengths = np.linalg.norm(affine_mm[:3, :3], axis=0)
    if not np.isfinite(affine_mm).all() or lengths.min() == 0:
        raise BadVolume(f"expected an affine with three axes, got {affine_mm[:3].tolist()} in the header of {path}")
    if abs(np.linalg.det(affine_mm[:3, :3] / lengths)) < LEAST_VOLUME:
        raise BadVolume(f"expected axes that span a space, got the flat {affine_mm[:3].tolist()} in {path}")
