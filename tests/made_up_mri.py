"""Tiny skull-stripped MRI as NIfTI files with a manifest, whose class shows in how bright the tumour is in T1c."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import nibabel
import numpy as np

from digipath.volume_values import MODALITIES

CLASSES = ("grade 2", "grade 3", "grade 4")
SIDE_VOX = 16
COLUMNS = ("case", "patient", "label", *MODALITIES, "tumour")
CONFIG = """
task = "volumes"
[data]
manifest = "cases.csv"
classes = ["grade 2", "grade 3", "grade 4"]
[volume]
size = [16, 16, 16]
bias_field = false
[network]
config = { widths = [4, 8], dense = [8], dropout = 0.0 }
[schedule]
epochs = 2
batch = 3
learning_rate = 0.01
patience = 1
[card]
name = "blobs-v1"
task = "telling blobs apart"
"""


def write_nifti(path: Path, values: np.ndarray, spacing_mm: float = 2.0) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, np.diag([spacing_mm] * 3 + [1.0])), path)
    return path


def write_case(folder: Path, *, label: int, seed: int, side_vox: int = SIDE_VOX) -> None:
    """A ball of brain with a ball of tumour in it, background 0, in the folder of a case."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    place = np.moveaxis(np.indices((side_vox,) * 3), 0, -1) - (side_vox - 1) / 2
    brain = (place**2).sum(axis=-1) < (0.45 * side_vox) ** 2
    tumour = ((place - rng.uniform(-2, 2, 3)) ** 2).sum(axis=-1) < (0.15 * side_vox) ** 2
    for name in MODALITIES:
        voxels = rng.normal(100, 5, brain.shape)
        voxels[tumour] += 40 * label if name == "t1c" else 20
        write_nifti(folder / f"{name}.nii.gz", np.where(brain, voxels, 0).astype(np.float32))
    write_nifti(folder / "tumour.nii.gz", tumour.astype(np.uint8))


def rows_of(count: int) -> Iterator[dict[str, str]]:
    """Rows of cases in turn of each class, each of a patient of its own."""
    for number in range(count):
        files = {name: f"c{number}/{name}.nii.gz" for name in (*MODALITIES, "tumour")}
        yield {"case": "", "patient": f"p{number}", "label": CLASSES[number % 3], **files}


def write_cases(folder: Path, count: int) -> Path:
    """Folders c0, c1, … and cases.csv; returns the manifest's path."""
    for number in range(count):
        write_case(folder / f"c{number}", label=number % 3, seed=number)
    return write_rows(folder / "cases.csv", list(rows_of(count)))


def write_rows(path: Path, rows: list[Mapping[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
