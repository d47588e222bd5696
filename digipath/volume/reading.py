"""Files of one patient's modalities → one `Volume`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadVolume, NotFound
from digipath.volume.brain import Mask, check_skull_stripped, check_tumour, found_brain, mask_on_grid, volume_ml
from digipath.volume.dicom import read_series
from digipath.volume.modalities import volume_files
from digipath.volume.nifti import read_nifti
from digipath.volume.scan import Grid, Scan, resampled
from digipath.volume_values import Volume

FINEST_FIRST = ("t1c", "flair", "t1", "t2")  # whose grid the others are brought to: mostly the finest
LEAST_COVERED = 0.5  # of the reference's brain, by another modality of the same patient
USUALLY_COVERED = 0.95


def open_volumes(
    paths: Mapping[str, str | Path] | Sequence[str | Path] | str | Path, *,
    brain: str | Path | None = None, tumour: str | Path | None = None,
) -> Volume:  # fmt: skip
    """Read a patient's modalities to one grid of voxels in RAS order.

    Modalities that share the grid of the first of T1c, FLAIR, T1, T2 are taken as they are, others resampled to it
    (linear, 0 beyond their own grid); `notes` says so. Outside the brain all values are 0.

    Args:
        paths: modality ("t1", "t1c", "t2", "flair") → NIfTI file or folder of one DICOM series; or files and folders
            whose modality is recognised by name. Any of the four, at least one.
        brain: a mask, above 0 in the brain, on any grid. None: the volumes are skull-stripped, and the brain is the
            largest connected part that is not 0 in any of them, its holes filled.
        tumour: a mask on any grid; any label above 0 is tumour.

    Raises:
        BadVolume: files that are no volume, several for a modality, of different patients or places, not
            skull-stripped where no mask is given, or with an empty mask; the message names the file.
        NotFound: a file or folder does not exist.
    """
    files = volume_files(paths)
    scans = {modality: _modality(path, modality) for modality, path in files.items()}
    _check_one_patient(scans)
    if brain is None:
        for modality, scan in scans.items():
            check_skull_stripped(scan, modality)
    reference = next(modality for modality in FINEST_FIRST if modality in scans)
    grid = scans[reference].grid
    voxels, notes = _on_one_grid(scans, reference)
    inside, brain_notes = _brain(brain, voxels, grid)
    notes += brain_notes + _coverage(voxels, inside, list(scans), reference)
    voxels[~inside] = 0
    outlined = None
    if tumour is not None:
        outlined, tumour_notes = mask_on_grid(_mask_scan(tumour), grid, "tumour")
        notes += tumour_notes + check_tumour(outlined, inside, Path(tumour))
    return Volume(tuple(scans), voxels, grid.affine_mm, inside, outlined, notes)


def _read(path: Path) -> Scan:
    return read_series(path) if path.is_dir() else read_nifti(path)


def _modality(path: Path, modality: str) -> Scan:
    scan = _read(path)
    if scan.values.min() == scan.values.max():
        raise BadVolume(f"expected an image of {modality}, got {scan.values.flat[0]:g} in every voxel of {path}")
    return scan


def _mask_scan(path: str | Path) -> Scan:
    if not Path(path).exists():
        raise NotFound(f"expected a mask, found nothing at {path}")
    return _read(Path(path))


def _check_one_patient(scans: Mapping[str, Scan]) -> None:
    stated = {modality: scan.patient for modality, scan in scans.items() if scan.patient}
    if len(set(stated.values())) > 1:
        listed = ", ".join(f"{modality} {patient}" for modality, patient in stated.items())
        raise BadVolume(f"expected modalities of one patient, got different patients by their Patient ID: {listed}")


def _on_one_grid(scans: Mapping[str, Scan], reference: str) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """(X, Y, Z, modalities) float32 on the reference's grid, and what was done for that."""
    grid = scans[reference].grid
    voxels = np.empty((*grid.shape_vox, len(scans)), np.float32)
    notes: list[str] = []
    for channel, (modality, scan) in enumerate(scans.items()):
        notes += scan.notes
        if scan.grid.same_as(grid):
            voxels[..., channel] = scan.values
        else:
            voxels[..., channel] = resampled(scan, grid)
            notes.append(f"{modality}: {scan.grid} resampled to the grid of {reference}, {grid} (linear)")
    for (a, one), (b, other) in combinations(enumerate(scans), 2):
        if np.array_equal(voxels[..., a], voxels[..., b]):
            notes.append(f"{one} and {other} hold the same values: is one a copy of the other?")
    return voxels, tuple(notes)


def _brain(path: str | Path | None, voxels: NDArray[np.float32], grid: Grid) -> tuple[Mask, tuple[str, ...]]:
    if path is not None:
        return mask_on_grid(_mask_scan(path), grid, "brain")
    brain = found_brain((voxels != 0).any(axis=-1), grid)
    return brain, (f"brain mask from voxels that are not 0, {volume_ml(brain, grid):.0f} ml",)


def _coverage(
    voxels: NDArray[np.float32], brain: Mask, modalities: Sequence[str], reference: str
) -> tuple[str, ...]:
    """How much of the brain that the reference shows each modality shows too; little tells of another head."""
    seen = voxels[..., modalities.index(reference)][brain] != 0
    if not seen.any():
        raise BadVolume(f"expected a brain in {reference}, it is 0 inside the whole mask: different patients or grids")
    notes = []
    for channel, modality in enumerate(modalities):
        covered = float((voxels[..., channel][brain] != 0)[seen].mean())
        if covered < LEAST_COVERED:
            raise BadVolume(
                f"expected modalities of one head, {modality} shows {covered:.0%} of the brain that {reference} shows: "
                "different patients or grids"
            )
        if covered < USUALLY_COVERED:
            notes.append(f"{modality} shows {covered:.0%} of the brain that {reference} shows: is it of one patient?")
    return tuple(notes)
