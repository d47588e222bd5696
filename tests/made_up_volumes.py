"""Tiny made-up MRI for tests: a skull-stripped ellipsoid with a ramp of intensities, as NIfTI files or DICOM."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from digipath.volume.dicom import own_locale
from digipath.volume_values import MODALITIES, Volume

SHAPE_VOX = (24, 20, 16)
SMALL = ", adults have 1000 to 1900: is it whole, and are the millimetres right?"  # a note's words on such a brain
LEVELS = dict(zip(MODALITIES, (100.0, 200.0, 300.0, 400.0), strict=True))  # each modality's intensity in the middle


def ellipsoid(shape_vox=SHAPE_VOX, *, reach=0.8):
    """(X, Y, Z) bool: the voxels inside an ellipsoid that reaches so far of the way to each face."""
    ranges = [np.linspace(-1, 1, side) for side in shape_vox]
    return sum(axis**2 for axis in np.meshgrid(*ranges, indexing="ij")) <= reach**2


def head(modality="t1c", shape_vox=SHAPE_VOX):
    """(X, Y, Z) float32: a ramp along x about the modality's level inside the ellipsoid, 0 outside."""
    ramp = LEVELS[modality] + np.arange(shape_vox[0], dtype=np.float32)[:, None, None] - shape_vox[0] // 2
    return np.where(ellipsoid(shape_vox), ramp, 0).astype(np.float32)


def affine(spacing_mm=(1.0, 1.0, 1.0), origin_mm=(0.0, 0.0, 0.0)):
    """(4, 4) of axes along right, front and top."""
    found = np.diag([*spacing_mm, 1.0])
    found[:3, 3] = origin_mm
    return found


def write_image(path, values, affine_mm=None, *, codes=(1, 1)):
    """A NIfTI file as it is told, good or bad; codes of sform and qform."""
    from nibabel import Nifti1Image

    image = Nifti1Image(values, np.eye(4) if affine_mm is None else affine_mm)
    image.set_sform(image.affine if codes[0] else None, code=codes[0])
    image.set_qform(image.affine if codes[1] else None, code=codes[1])
    image.to_filename(path)
    return Path(path)


def write_case(folder, modalities=MODALITIES, *, shape_vox=SHAPE_VOX, affine_mm=None, prefix=""):
    """`<prefix><modality>.nii.gz` of each modality, all on one grid: modality → path."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return {
        name: write_image(Path(folder) / f"{prefix}{name}.nii.gz", head(name, shape_vox), affine_mm)
        for name in modalities
    }


def made_volume(modalities=MODALITIES, *, shape_vox=SHAPE_VOX, spacing_mm=(1.0, 1.0, 1.0), tumour=None):
    """What `open_volumes` makes of `write_case`."""
    voxels = np.stack([head(name, shape_vox) for name in modalities], axis=-1)
    return Volume(tuple(modalities), voxels, affine(spacing_mm), ellipsoid(shape_vox), tumour)


def write_series(
    folder, values, *, spacing_mm=(1.0, 1.0, 2.0), origin_mm=(0.0, 0.0, 0.0), along_row=(1.0, 0.0, 0.0),
    along_column=(0.0, 1.0, 0.0), description="AX T1", patient="P1", series="1.2.3.4", change=None,
):  # fmt: skip
    """A DICOM series of values (columns, rows, slices), whole numbers, one slice to a file; all millimetres are LPS.

    `change(index, tags)` may alter a slice's tags, or return False to leave the slice out. File names are in no order.
    """
    import SimpleITK

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    normal = np.cross(along_row, along_column)
    for index in range(values.shape[2]):
        position = np.add(origin_mm, normal * spacing_mm[2] * index)
        tags = {
            "0008|0060": "MR", "0008|103e": description, "0010|0020": patient, "0020|000d": "1.2.3",
            "0020|000e": series, "0018|0050": str(spacing_mm[2]), "0020|0013": str(index + 1),
            "0020|0032": "\\".join(f"{mm:.6f}" for mm in position),
            "0020|0037": "\\".join(f"{part:.8f}" for part in (*along_row, *along_column)),
        }  # fmt: skip
        if change is not None and change(index, tags) is False:
            continue
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(values[:, :, index].T.astype(np.int16)))
        image.SetSpacing([float(mm) for mm in spacing_mm[:2]])
        for tag, text in tags.items():
            image.SetMetaData(tag, text)
        writer.SetFileName(str(folder / f"{index * 7 % 100:02d}_{index}.dcm"))
        with own_locale():
            writer.Execute(image)
    return folder
