"""Where brain and tumour are: a given mask, or what is not zero in skull-stripped data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadVolume
from digipath.volume.scan import Grid, Scan, resampled

LEAST_BACKGROUND = 0.1  # share of voxels that are exactly 0 in skull-stripped data
MOST_BRAIN_ML = 2500.0  # adult brains have 1000 to 1900 ml, heads twice that
SIDES = ("left", "right", "back", "front", "bottom", "top")  # where RAS indices begin and end

Mask = NDArray[np.bool_]


def check_skull_stripped(scan: Scan, modality: str) -> None:
    """Refuse a scan, on its own grid, whose background is not zero on all sides: its non-zero voxels are no brain.

    Raises:
        BadVolume: fewer than a tenth of its voxels are 0, or a face of the volume has none.
    """
    zero = scan.values == 0
    faces = [np.take(zero, side, axis) for axis in range(3) for side in (0, -1)]
    if zero.mean() < LEAST_BACKGROUND or not all(face.any() for face in faces):
        raise BadVolume(
            f"expected skull-stripped volumes, 0 around the brain, or --brain FILE; {zero.mean():.0%} of the voxels of "
            f"{modality} are 0 in {scan.path}"
        )


def found_brain(nonzero: Mask, grid: Grid) -> Mask:
    """The largest connected part of skull-stripped data's non-zero voxels (X, Y, Z), its holes filled.

    Raises:
        BadVolume: it is empty, fills the volume, or has the size of a head.
    """
    from scipy.ndimage import binary_fill_holes, label

    parts, _ = label(nonzero)
    sizes = np.bincount(parts.ravel())[1:]
    if not sizes.size:
        raise BadVolume("expected a brain, got volumes that are 0 everywhere; name a mask by --brain FILE")
    brain = binary_fill_holes(parts == 1 + np.argmax(sizes))
    if brain.all():
        raise BadVolume("expected 0 around the brain, got other values everywhere; name a mask by --brain FILE")
    if (size_ml := volume_ml(brain, grid)) > MOST_BRAIN_ML:
        raise BadVolume(
            f"expected skull-stripped volumes or --brain FILE, got {size_ml:.0f} ml that are not 0: more than any "
            f"brain has (at most {MOST_BRAIN_ML:.0f} ml)"
        )
    return brain


def mask_on_grid(scan: Scan, grid: Grid, what: str) -> tuple[Mask, tuple[str, ...]]:
    """A mask's voxels above 0 on `grid`, by the nearest voxel where it has another, and what was done.

    Raises:
        BadVolume: it holds no whole numbers from 0 on, is empty, or lies beside the grid.
    """
    values = scan.values
    if values.min() < 0 or not np.array_equal(values, np.rint(values)):
        raise BadVolume(f"expected labels 0, 1, 2 … in the {what} mask, got other numbers in {scan.path}")
    if not values.any():
        raise BadVolume(f"expected a {what} mask with voxels above 0, got an empty one, {scan.path}")
    if scan.grid.same_as(grid):
        return values > 0, scan.notes
    mask = resampled(scan, grid, nearest=True) > 0
    if not mask.any():
        raise BadVolume(f"expected a {what} mask on the grid of the volumes ({grid}), it lies beside it: {scan.path}")
    return mask, (*scan.notes, f"{what} mask: {scan.grid} resampled to {grid} (nearest voxel)")


def check_tumour(tumour: Mask, brain: Mask, path: Path) -> tuple[str, ...]:
    """What a reader should know about where a tumour lies. Raises BadVolume where none of it is in the brain."""
    outside = 1 - (tumour & brain).sum() / tumour.sum()
    if outside == 1:
        raise BadVolume(f"expected a tumour inside the brain, it lies beside it: {path}; is it another patient's?")
    notes = [f"{outside:.1%} of the tumour mask lies outside the brain"] if outside else []
    faces = [np.take(tumour, side, axis).any() for axis in range(3) for side in (0, -1)]
    sides = [side for side, touched in zip(SIDES, faces, strict=True) if touched]
    if sides:
        notes.append(f"the tumour touches the volume's border ({', '.join(sides)}): part of it may be missing")
    return tuple(notes)


def volume_ml(mask: Mask, grid: Grid) -> float:
    """Millilitres of a mask's voxels."""
    return float(mask.sum() * abs(np.linalg.det(grid.affine_mm[:3, :3])) / 1000)
