"""A folder that holds one DICOM series of MRI, one slice to a file, as a volume in RAS millimetres.

DICOM's millimetres are LPS (PS3.3 C.7.6.2.1.1): x to the patient's left, y to the back, z to the top.
"""

from __future__ import annotations

import locale
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadVolume
from digipath.volume.scan import Scan, checked_scan

if TYPE_CHECKING:
    from SimpleITK import ImageFileReader

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
UNEVEN = 0.01  # of the distance between slices, and at least so many mm: more is a gap
ASIDE_MM = 0.1  # that a slice may lie off the line through the others
TURNED = 1e-3  # by which components of unit vectors may differ
# The Media Storage SOP Class of a file, (0002,0002), which stands at its beginning in one way of writing (PS3.10, 7.1).
SOP_CLASS = re.compile(rb"\x02\x00\x02\x00UI..([0-9.]+)", re.DOTALL)
# Of what lies beside images without pixels (PS3.4, B.5): spectra, waveforms, presentation states, raw data, documents,
# encapsulated documents, radiotherapy.
NO_IMAGES = tuple(
    b"1.2.840.10008.5.1.4.1.1." + last for last in (b"4.2", b"9.", b"11.", b"66", b"88.", b"104.", b"481.")
)
MISSING_SLICES = 1.9  # distance over thickness: every second slice may be missing

_PATIENT, _SERIES, _DESCRIPTION, _FRAME = "0010|0020", "0020|000e", "0008|103e", "0020|0052"
_POSITION, _ORIENTATION, _SPACING, _THICKNESS = "0020|0032", "0020|0037", "0028|0030", "0018|0050"


@dataclass(frozen=True)
class _Slice:
    """What a slice's header states; LPS millimetres of the centre of its first pixel."""

    path: Path
    series: str
    description: str
    patient: str
    frame: str
    size_px: tuple[int, int]  # columns, rows
    position_mm: NDArray[np.float64]
    along_row: NDArray[np.float64]
    along_column: NDArray[np.float64]
    spacing_mm: tuple[float, float]  # of rows, of columns
    thickness_mm: float | None

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.along_row, self.along_column)


def series_description(path: Path) -> str | None:
    """The description of the first DICOM file in a folder; None where there is none, or for a file."""
    if not path.is_dir():
        return None
    header = next((reader for _, reader in _headers(path)), None)
    return None if header is None else _text(header, _DESCRIPTION)


def read_series(folder: Path) -> Scan:
    """The one series in `folder`, its slices in the order of their positions, in RAS order.

    Raises:
        BadVolume: no series or several, a slice that cannot be read or states no geometry, slices of different
            patients, size, spacing or orientation, two at one place, a gap, or what `checked_scan` refuses.
    """
    slices = [_slice(path, header) for path, header in _headers(folder)]
    if not slices:
        raise BadVolume(f"expected a folder of DICOM slices, found none directly in {folder}; name a NIfTI file itself")
    _check_one_series(slices, folder)
    _check_alike(slices, folder)
    slices.sort(key=lambda one: float(one.position_mm @ one.normal))
    step_mm = _step(slices, folder)
    first = slices[0]
    affine = np.eye(4)
    affine[:3, 0] = first.along_row * first.spacing_mm[1]
    affine[:3, 1] = first.along_column * first.spacing_mm[0]
    affine[:3, 2] = step_mm
    affine[:3, 3] = first.position_mm
    values = np.stack([_pixels(one.path).T for one in slices], axis=2)
    notes = _notes(first, float(np.linalg.norm(step_mm)), folder)
    return checked_scan(
        folder, values, LPS_TO_RAS @ affine, patient=first.patient or None, frame=first.frame or None, notes=notes
    )


@contextmanager
def own_locale() -> Iterator[None]:
    """Restore the locale that GDCM leaves changed: files that are opened as text later would be read as ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


def _headers(folder: Path) -> Iterator[tuple[Path, ImageFileReader]]:
    """The DICOM files directly in a folder, by name, with their headers read; others are passed over.

    Raises BadVolume: one that cannot be read, though it is an image as far as it says.
    """
    from SimpleITK import ImageFileReader

    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.upper() == "DICOMDIR":
            continue
        reader = ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        try:
            with own_locale():
                reader.ReadImageInformation()
        except RuntimeError as error:
            if _claims_image(path):
                raise BadVolume(f"expected a DICOM image, cannot read {path}; is it whole?") from error
            continue
        yield path, reader


def _claims_image(path: Path) -> bool:
    """Whether a file that cannot be read as an image says that it is one, or is DICOM and says nothing."""
    with path.open("rb") as file:
        start = file.read(1024)
    if found := re.search(SOP_CLASS, start):
        return not found[1].startswith(NO_IMAGES)
    return path.suffix.lower() == ".dcm" or start[128:132] == b"DICM"


def _slice(path: Path, header: ImageFileReader) -> _Slice:
    columns, rows, *more = header.GetSize()
    if more and more[0] != 1:
        raise BadVolume(f"expected one slice to a file, got {more[0]} frames in {path}; convert it to NIfTI")
    if header.GetNumberOfComponents() != 1:
        raise BadVolume(f"expected grey values, got colours in {path}")
    orientation = _numbers(header, _ORIENTATION, 6, path)
    along_row, along_column = orientation[:3], orientation[3:]
    products = along_row @ along_row, along_column @ along_column, along_row @ along_column
    if np.abs(np.subtract(products, (1, 1, 0))).max() > TURNED:
        raise BadVolume(f"expected two perpendicular unit vectors of orientation, got {orientation.tolist()} in {path}")
    spacing = _numbers(header, _SPACING, 2, path)
    thickness = _text(header, _THICKNESS)
    return _Slice(
        path, _text(header, _SERIES), _text(header, _DESCRIPTION), _text(header, _PATIENT), _text(header, _FRAME),
        (columns, rows),
        _numbers(header, _POSITION, 3, path), along_row, along_column, (float(spacing[0]), float(spacing[1])),
        float(thickness) if thickness.replace(".", "", 1).isdigit() else None,
    )  # fmt: skip


def _text(header: ImageFileReader, tag: str) -> str:
    if not header.HasMetaDataKey(tag):
        return ""
    return header.GetMetaData(tag).strip(" \0").encode(errors="replace").decode()


def _numbers(header: ImageFileReader, tag: str, count: int, path: Path) -> NDArray[np.float64]:
    names = {_POSITION: "Image Position", _ORIENTATION: "Image Orientation", _SPACING: "Pixel Spacing"}
    text = _text(header, tag)
    try:
        numbers = np.array([float(part) for part in text.split("\\")])
    except ValueError:
        numbers = np.array([])
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise BadVolume(f"expected {count} numbers of {names[tag]}, got {text!r} in {path}; convert it to NIfTI")
    return numbers


def _check_one_series(slices: Sequence[_Slice], folder: Path) -> None:
    series = Counter((one.series, one.description) for one in slices)
    if len({uid for uid, _ in series}) > 1:
        listed = ", ".join(f"{words or 'without description'!r} ({n} slices)" for (_, words), n in series.items())
        raise BadVolume(f"expected one DICOM series, got {listed} in {folder}; put each into a folder of its own")


def _check_alike(slices: Sequence[_Slice], folder: Path) -> None:
    first = slices[0]
    for one in slices[1:]:
        directions = np.abs([one.along_row - first.along_row, one.along_column - first.along_column])
        differences = {
            "patient": one.patient != first.patient,
            "size": one.size_px != first.size_px,
            "pixel spacing": not np.allclose(one.spacing_mm, first.spacing_mm, rtol=1e-4, atol=0),
            "orientation": directions.max() > TURNED,
        }
        if any(differences.values()):
            what = ", ".join(name for name, differs in differences.items() if differs)
            raise BadVolume(f"expected slices of one {what}, {first.path.name} and {one.path.name} differ in {folder}")


def _step(slices: Sequence[_Slice], folder: Path) -> NDArray[np.float64]:
    """(3,) LPS millimetres from a slice to the next, of slices in order. Raises BadVolume where they are uneven."""
    if len(slices) < 2:
        raise BadVolume(f"expected at least 2 slices, got one, {slices[0].path.name}, in {folder}")
    positions = np.array([one.position_mm for one in slices])
    normal = slices[0].normal
    steps = np.diff(positions, axis=0)
    distances = steps @ normal
    usual = float(np.median(distances))

    def refuse(wrong: NDArray[np.bool_], words: Callable[[int], str]) -> None:
        if wrong.any():
            i = int(np.argmax(wrong))
            place = f"slice {i + 1} of {len(slices)}, {slices[i].path.name}, at {positions[i] @ normal:.2f} mm"
            raise BadVolume(f"expected evenly spaced slices, got {words(i)} {place} in {folder}")

    refuse(distances < UNEVEN, lambda i: f"{slices[i + 1].path.name} at the place of")
    uneven = np.abs(distances - usual) > max(UNEVEN * usual, UNEVEN) + 1e-6  # 1e-6: decimals of positions
    refuse(uneven, lambda i: f"a gap of {distances[i]:.2f} mm (others {usual:.2f} mm) after")
    mean = (positions[-1] - positions[0]) / (len(slices) - 1)
    aside = steps - mean
    aside -= np.outer(aside @ normal, normal)
    refuse(np.linalg.norm(aside, axis=1) > ASIDE_MM, lambda i: f"{slices[i + 1].path.name} shifted sideways against")
    return mean


def _pixels(path: Path) -> NDArray[Any]:
    """(rows, columns) float32, rescaled as the header says."""
    import SimpleITK

    try:
        with own_locale():
            image = SimpleITK.ReadImage(str(path), SimpleITK.sitkFloat32, imageIO="GDCMImageIO")
    except RuntimeError as error:
        raise BadVolume(f"expected a DICOM image, cannot read the pixels of {path}; is it whole?") from error
    pixels = SimpleITK.GetArrayFromImage(image)
    return pixels.reshape(pixels.shape[-2:])


def _notes(first: _Slice, distance_mm: float, folder: Path) -> tuple[str, ...]:
    if first.thickness_mm and distance_mm > MISSING_SLICES * first.thickness_mm:
        return (
            f"{folder.name}: slices are {first.thickness_mm:g} mm thick and {distance_mm:g} mm apart; "
            "is every second one missing?",
        )
    return ()
