"""NIfTI files, read and written."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput, BadVolume
from digipath.files import write_atomically
from digipath.volume.scan import Grid, Scan, checked_scan

if TYPE_CHECKING:
    from nibabel import Nifti1Image

GZIP = b"\x1f\x8b"
NIFTI_2 = 540  # the length of its header, which begins with this number
UNKNOWN, SCANNER = 0, 1  # codes of an affine: there is none; the scanner's millimetres
TO_MM = {1: 1000.0, 3: 0.001}  # codes of metres and micrometres; anything else is taken for millimetres
WRITTEN = (np.dtype(np.float32), np.dtype(np.uint8), np.dtype(np.bool_))


def read_nifti(path: Path) -> Scan:
    """A NIfTI-1 or -2 file (`.nii`, `.nii.gz`) of one volume, in RAS order.

    Raises:
        BadVolume: no or a broken NIfTI file, several volumes in it, complex numbers or colours, or what
            `checked_scan` refuses.
    """
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        with _quiet():
            image = _image(path)
        _check_shape(image.shape, path)
        _check_type(image.get_data_dtype(), path)
        values = np.asanyarray(image.dataobj)
    except (OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, WrapStructError) as error:
        raise _unreadable(path, error) from error
    except ValueError as error:  # BadVolume is one; nibabel's are about headers and lengths
        raise error if isinstance(error, BadVolume) else _unreadable(path, error) from error
    header = image.header
    scale = np.array([TO_MM.get(int(header["xyzt_units"]) & 7, 1.0)] * 3 + [1.0])[:, None]
    notes: tuple[str, ...] = ()
    if not header["qform_code"] and not header["sform_code"]:
        notes = (f"{path.name}: the header states no position; right and left may be exchanged",)
    return checked_scan(path, values.reshape(values.shape[:3]), image.affine * scale, notes=notes)


def write_nifti(path: str | Path, values: NDArray[Any], affine_mm: NDArray[np.float64]) -> None:
    """Write a volume as `.nii.gz`, whole or not at all; the same values give the same bytes.

    Args:
        path: ends in `.nii.gz`; its folder exists.
        values: (X, Y, Z) float32, uint8, or bool, which becomes uint8.
        affine_mm: (4, 4) voxel index → RAS millimetres of a voxel's centre, written as sform, and as qform where that
            can say it: a qform has no shear, and a reader that prefers one would look at other places.

    Raises:
        BadInput: another name, shape or type.
        OutputUnwritable: the folder is missing or cannot be written.
    """
    from nibabel import Nifti1Image

    path = Path(path)
    if not path.name.endswith(".nii.gz"):
        raise BadInput(f"expected a name that ends in .nii.gz, got {path.name}")
    if values.ndim != 3 or values.dtype not in WRITTEN:
        raise BadInput(f"expected (X, Y, Z) float32, uint8 or bool for {path.name}, got {values.dtype} {values.shape}")
    image = Nifti1Image(values.astype(np.uint8) if values.dtype == bool else values, affine_mm)
    image.set_sform(affine_mm, code=SCANNER)
    image.set_qform(affine_mm, code=SCANNER)
    if not Grid(values.shape, image.get_qform()).same_as(Grid(values.shape, affine_mm)):
        image.set_qform(None, code=UNKNOWN)
    image.header.set_xyzt_units("mm")
    write_atomically(path, gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))  # a time would change the bytes


@contextmanager
def _quiet() -> Iterator[None]:
    """Without nibabel's own words about a header, which reach the terminal beside the error."""
    from nibabel.imageglobals import logger

    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _image(path: Path) -> Nifti1Image:
    """The image in a file, read whole, so that gzip's checksum is looked at."""
    from nibabel import Nifti1Image, Nifti2Image

    raw = path.read_bytes()
    if raw.startswith(GZIP):
        raw = gzip.decompress(raw)
    is_second = NIFTI_2 in (int.from_bytes(raw[:4], "little"), int.from_bytes(raw[:4], "big"))
    return (Nifti2Image if is_second else Nifti1Image).from_bytes(raw)


def _check_shape(shape: tuple[int, ...], path: Path) -> None:
    if len(shape) < 3:
        raise BadVolume(f"expected a volume (X, Y, Z), got an image {shape} in {path}")
    if (count := int(np.prod(shape[3:]))) != 1:
        raise BadVolume(f"expected one volume (X, Y, Z), got {count} {shape} in {path}; split it, one to a file")


def _check_type(dtype: np.dtype[Any], path: Path) -> None:
    if dtype.kind not in "iuf":
        words = "colours" if dtype.fields else f"{dtype} numbers"
        raise BadVolume(f"expected whole or real numbers, got {words} in {path}")


def _unreadable(path: Path, error: Exception) -> BadVolume:
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    return BadVolume(f"expected a whole NIfTI file (.nii, .nii.gz) or a folder of DICOM slices, got {path}: {reason}")
