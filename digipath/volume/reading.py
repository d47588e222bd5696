"""Files of one patient's modalities → one `Volume`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadVolume, NotFound
from digipath.volume.brain import (
    Mask,
    check_given_brain,
    check_skull_stripped,
    check_tumour,
    found_brain,
    mask_on_grid,
    size_said,
)
from digipath.volume.dicom import read_series
from digipath.volume.modalities import case_notes, volume_files
from digipath.volume.nifti import read_nifti
from digipath.volume.scan import Grid, Scan, resampled
from digipath.volume_values import Volume

FINEST_FIRST = ("t1c", "flair", "t1", "t2")  # whose grid the others are brought to: mostly the finest
LEAST_COVERED = 0.5  # of the brain that one modality shows, by another of the same patient; our choice
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
        BadVolume: files that are no volume, several for a modality, of different patients (by Patient ID, by recognised
            names, or where one shows less than half the brain that another shows), not skull-stripped where no mask is
            given, or with a mask that is empty or no brain's; the message names the file. What is in doubt is a note.
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
    voxels, seen, notes = _on_one_grid(scans, reference)
    inside, brain_notes = _brain(brain, seen, grid)
    notes += case_notes(files) + _frames(scans) + brain_notes + _coverage(seen[inside], list(scans))
    voxels[~inside] = 0
    outlined = None
    if tumour is not None:
        outlined, tumour_notes = mask_on_grid(_mask_scan(tumour), grid, "tumour")
        notes += tumour_notes + check_tumour(outlined, inside, Path(tumour))
    return Volume(tuple(scans), voxels, grid.affine_mm, inside, outlined, notes)


def read_alone(volume: Volume, order: Sequence[str], *, masked: bool) -> Volume:
    """The modalities of `order` as they would be had no others been read with them, on the same grid.

    On a grid to which they had to be resampled, their brain may differ by what interpolation adds to its border.

    Args:
        volume: as `open_volumes` gives it.
        masked: whether a mask of the brain was given; else the brain is what these modalities show, not all.

    Raises:
        BadVolume: a modality is not there, or what they show is no brain.
    """
    chosen = volume.only(order)
    if masked or {*order} == {*volume.modalities}:
        return chosen
    brain = found_brain(np.asarray((chosen.voxels != 0).any(axis=-1)), Grid(volume.shape_vox, volume.affine_mm))
    return replace(chosen, brain=brain, voxels=np.where(brain[..., None], chosen.voxels, np.float32(0)))


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


def _frames(scans: Mapping[str, Scan]) -> tuple[str, ...]:
    """Whether the millimetres of DICOM series are of one session, or were made alike by registration."""
    stated = {modality: scan.frame for modality, scan in scans.items() if scan.frame}
    first = next(iter(stated), "")
    if not (others := [modality for modality, frame in stated.items() if frame != stated[first]]):
        return ()
    return (f"{', '.join(others)}: another frame of reference than {first}'s; are they registered to each other?",)


def _on_one_grid(scans: Mapping[str, Scan], reference: str) -> tuple[NDArray[np.float32], Mask, tuple[str, ...]]:
    """(X, Y, Z, modalities) on the reference's grid: values, which of them show something, and what was done for that.

    What is shown is told by the nearest voxel: interpolated values reach up to a voxel further than the scan's own.
    """
    grid = scans[reference].grid
    voxels = np.empty((*grid.shape_vox, len(scans)), np.float32)
    seen = np.empty(voxels.shape, np.bool_)
    notes: list[str] = []
    for channel, (modality, scan) in enumerate(scans.items()):
        notes += scan.notes
        if scan.grid.same_as(grid):
            voxels[..., channel] = scan.values
            seen[..., channel] = scan.values != 0
        else:
            voxels[..., channel] = resampled(scan, grid)
            seen[..., channel] = resampled(scan, grid, nearest=True) != 0
            notes.append(f"{modality}: {scan.grid} resampled to the grid of {reference}, {grid} (linear)")
    for (a, one), (b, other) in combinations(enumerate(scans), 2):
        if np.array_equal(voxels[..., a], voxels[..., b]):
            notes.append(f"{one} and {other} hold the same values: is one a copy of the other?")
    return voxels, seen, tuple(notes)


def _brain(path: str | Path | None, seen: Mask, grid: Grid) -> tuple[Mask, tuple[str, ...]]:
    """The brain (X, Y, Z) of what modalities show, (X, Y, Z, modalities), and what is to be said of it."""
    shown = np.asarray(seen.any(axis=-1))
    if path is None:
        brain = found_brain(shown, grid)
        return brain, (f"brain mask from voxels that are not 0, {size_said(brain, grid)}",)
    brain, notes = mask_on_grid(_mask_scan(path), grid, "brain")
    return brain, notes + check_given_brain(brain, shown, grid, Path(path))


def _coverage(seen: Mask, modalities: Sequence[str]) -> tuple[str, ...]:
    """How much of what one modality shows of the brain, (n, modalities), the others show; little tells of another head.

    Of two, the one that shows less is named, with the share that both show of what the other shows.
    """
    counts = dict(zip(modalities, np.count_nonzero(seen, axis=0).tolist(), strict=True))
    shown = dict(zip(modalities, seen.T, strict=True))
    least: dict[str, tuple[float, str]] = {}
    for a, b in combinations(sorted(modalities, key=FINEST_FIRST.index), 2):
        less, more = (a, b) if counts[a] < counts[b] else (b, a)
        covered = np.count_nonzero(shown[a] & shown[b]) / counts[more] if counts[more] else 0.0
        if less not in least or covered < least[less][0]:
            least[less] = covered, more
    notes = []
    for modality, (covered, other) in least.items():
        told = f"{modality} shows {covered:.0%} of the brain that {other} shows"
        if covered < LEAST_COVERED:
            raise BadVolume(f"expected modalities of one head, {told}: different patients or grids")
        if covered < USUALLY_COVERED:
            notes.append(f"{told}, and is standardised over that alone: is it of one patient?")
    return tuple(notes)
