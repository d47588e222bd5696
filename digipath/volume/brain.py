"""Where brain and tumour are: a given mask, or what is not zero in skull-stripped data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadVolume
from digipath.volume.scan import Grid, Scan, resampled

LEAST_BACKGROUND = 0.1  # share of voxels that are exactly 0 in skull-stripped data
# Adult brains have 1000 to 1900 ml, heads twice that; where doubt begins and ends is our choice.
MOST_BRAIN_ML = 2500.0
FEW_BRAIN_ML = 100.0  # less is told
LEAST_BRAIN_ML = 1.0  # less is refused: a label or an outline, or wrong millimetres
# Share of a given mask that is 0 in every modality; a brain fills about half of its own bounding box. Our choice too.
MOST_EMPTY = 0.4
TOLD_EMPTY = 0.1
MOST_OUTSIDE = 0.5  # of a tumour's mask, outside the brain: more is another patient's, or of another grid
LESS_THAN_A_BRAIN = f"less than any brain has (at least {LEAST_BRAIN_ML:g} ml); is it a label, an outline?"
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
        BadVolume: it is empty, fills the volume, or has the size of a head or of no brain.
    """
    from scipy.ndimage import binary_fill_holes, label

    parts, _ = label(nonzero)
    sizes = np.bincount(parts.ravel())[1:]
    if not sizes.size:
        raise BadVolume("expected a brain, got volumes that are 0 everywhere; name a mask by --brain FILE")
    brain = np.asarray(binary_fill_holes(parts == 1 + np.argmax(sizes)))
    if brain.all():
        raise BadVolume("expected 0 around the brain, got other values everywhere; name a mask by --brain FILE")
    if (size_ml := volume_ml(brain, grid)) > MOST_BRAIN_ML:
        raise BadVolume(
            f"expected skull-stripped volumes or --brain FILE, got {size_ml:.0f} ml that are not 0: more than any "
            f"brain has (at most {MOST_BRAIN_ML:.0f} ml)"
        )
    if size_ml < LEAST_BRAIN_ML:
        raise BadVolume(
            f"expected volumes of a brain, got {size_ml:.2g} ml that are not 0: {LESS_THAN_A_BRAIN}; name a mask by "
            "--brain FILE"
        )
    return brain


def check_given_brain(brain: Mask, seen: Mask, grid: Grid, path: Path) -> tuple[str, ...]:
    """What a reader should know about a mask that somebody gave.

    Args:
        brain: (X, Y, Z) the mask. seen: (X, Y, Z) where any modality is not 0.

    Raises:
        BadVolume: it has the size of a head, or of no brain, or two fifths of it are 0 in every modality.
    """
    size_ml = volume_ml(brain, grid)
    if size_ml > MOST_BRAIN_ML:
        raise BadVolume(
            f"expected a mask of the brain, got {size_ml:.0f} ml in {path}: more than any brain has "
            f"(at most {MOST_BRAIN_ML:.0f} ml)"
        )
    if size_ml < LEAST_BRAIN_ML:
        raise BadVolume(f"expected a mask of the brain, got {size_ml:.2g} ml in {path}: {LESS_THAN_A_BRAIN}")
    empty = float(1 - seen[brain].mean())
    if empty > MOST_EMPTY:
        raise BadVolume(
            f"expected a mask of the brain, {empty:.0%} of it is 0 in every modality: {path}; is it of the field of "
            "view, of another grid, or another patient's?"
        )
    notes = [f"brain mask of {size_said(brain, grid)}"] if size_ml < FEW_BRAIN_ML else []
    if empty > TOLD_EMPTY:
        notes.append(f"{empty:.0%} of the brain mask is 0 in every modality: is it the brain's?")
    if (share := float(brain.mean())) > 1 - LEAST_BACKGROUND:
        notes.append(f"the brain mask covers {share:.0%} of the field of view: is it the brain's?")
    return tuple(notes)


def size_said(brain: Mask, grid: Grid) -> str:
    """How large a brain is, with a doubt where brains are larger."""
    size_ml = volume_ml(brain, grid)
    doubt = ", adults have 1000 to 1900: is it whole, and are the millimetres right?" if size_ml < FEW_BRAIN_ML else ""
    return f"{size_ml:.0f} ml{doubt}"


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
        wrong = "it falls between their voxels" if _inside(values > 0, scan.grid, grid) else "it lies beside it"
        raise BadVolume(f"expected a {what} mask on the grid of the volumes ({grid}), {wrong}: {scan.path}")
    return mask, (*scan.notes, f"{what} mask: {scan.grid} resampled to {grid} (nearest voxel)")


def check_tumour(tumour: Mask, brain: Mask, source: Path | str) -> tuple[str, ...]:
    """What a reader should know about where a tumour lies, by a mask or as a network found it (`source`).

    Raises:
        BadVolume: more than half of it lies outside the brain.
    """
    outside = float(1 - (tumour & brain).sum() / tumour.sum())
    if outside > MOST_OUTSIDE:
        where = "it lies beside it" if outside == 1 else f"{outside:.0%} of it lies beside it"
        raise BadVolume(f"expected a tumour inside the brain, {where}: {source}; is it another patient's?")
    notes = [f"{outside:.1%} of the tumour mask lies outside the brain"] if outside else []
    faces = [np.take(tumour, side, axis).any() for axis in range(3) for side in (0, -1)]
    sides = [side for side, touched in zip(SIDES, faces, strict=True) if touched]
    if sides:
        notes.append(f"the tumour touches the volume's border ({', '.join(sides)}): part of it may be missing")
    return tuple(notes)


def volume_ml(mask: Mask, grid: Grid) -> float:
    """Millilitres of a mask's voxels."""
    return float(mask.sum() * abs(np.linalg.det(grid.affine_mm[:3, :3])) / 1000)


def _inside(mask: Mask, own: Grid, grid: Grid) -> bool:
    """Whether the middle of a voxel of a mask, on its own grid, lies in a voxel of `grid`."""
    to_grid = np.linalg.inv(grid.affine_mm) @ own.affine_mm
    places_vox = np.argwhere(mask) @ to_grid[:3, :3].T + to_grid[:3, 3]
    return bool(((places_vox >= -0.5) & (places_vox <= np.array(grid.shape_vox) - 0.5)).all(axis=1).any())
