"""Manifests of MRI: which volumes to train on, whose they are, and which class each is of.

A CSV (UTF-8; commas, semicolons or tabs) or Parquet file with one row per case, the MRI of a patient at one time:

    t1, t1c, t2, flair   NIfTI files or folders of a DICOM series, relative to the manifest; those that the networks
                         look at must be there, others are not read
    patient      whose MRI it is; no patient is ever on both sides of a split
    label        the class of the case; need not be there to find tumours
    brain        mask of the brain, NIfTI; blank: where the volumes, skull-stripped then, are not 0
    tumour       mask of the tumour, NIfTI; must be there where the networks look at the tumour
    type         kind of case within its class: every part of a split gets its share
    fold         all rows 0, 1, 2, … (cross-validation), or all train, validation, test, or none
    centre       where it was scanned; kept, not used
    case         a unique name; blank: the name of the folder that its first file lies in

Your own columns begin with `x_`.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from digipath.case import file_identity
from digipath.errors import BadInput, BadVolume, DigipathError
from digipath.training.cases import (
    cell_errors,
    check_columns,
    check_rows,
    checked_classes,
    label_errors,
    name_errors,
    patient_errors,
    plain_fold,
)
from digipath.training.graded_manifest import RISING
from digipath.training.tables import Row, raise_all, read_table
from digipath.volume.dicom import own_locale
from digipath.volume_values import MODALITIES

BRAIN, TUMOUR = "brain", "tumour"
COLUMNS = (*MODALITIES, BRAIN, TUMOUR, "patient", "label", "type", "fold", "centre", "case")
Pairs = Sequence[tuple[Row, "VolumeCase"]]


@dataclass(frozen=True)
class VolumeCase:
    """One row of a manifest.

    Attributes:
        modalities: those that are looked at, with their files or folders, in the order of `MODALITIES`.
        brain, tumour: masks, where given and looked at.
        stratum: a kind of case within its label, of which every part of a split gets its share.
        contents: hashes of what is in the files, by column.
    """

    name: str
    modalities: tuple[tuple[str, Path], ...]
    patient: str
    label: str | None = None
    brain: Path | None = None
    tumour: Path | None = None
    fold: str | None = None
    centre: str | None = None
    stratum: str | None = None
    contents: tuple[tuple[str, str], ...] = ()

    @property
    def ill(self) -> bool:
        """Not asked: cases are parted by their labels."""
        return False

    @property
    def files(self) -> tuple[Path, ...]:
        """What no other case has."""
        return tuple(path for _, path in self.modalities)

    @property
    def named_files(self) -> dict[str, Path]:
        """Volumes and masks by the names of their columns."""
        masks = {name: path for name in (BRAIN, TUMOUR) if (path := getattr(self, name)) is not None}
        return {**dict(self.modalities), **masks}


@dataclass(frozen=True)
class VolumeManifest:
    """Checked cases in the order of the file.

    sha256: of their values and of what is in those of their files that are looked at, wherever these lie and whatever
    the order of rows and columns and the kind of file.
    """

    path: Path
    cases: tuple[VolumeCase, ...]
    classes: tuple[str, ...]
    sha256: str


def read_volume_manifest(
    path: str | Path,
    *,
    classes: Sequence[str],
    order: Sequence[str],
    also: Sequence[str] = (),
    tumour: bool | None = False,
    labelled: bool = True,
) -> VolumeManifest:
    """Read and check a manifest (see the module).

    Every file that is looked at is there and begins like a volume of three dimensions; none comes twice.

    Args:
        classes: names that `label` may have, in rising order of malignancy.
        order: modalities that are looked at; also: others, where they are given.
        tumour: whether its mask is looked at; None: where there is one. labelled: whether labels are.

    Raises:
        BadInput: one line that names row and column, what was expected and received, for the first five errors and
            how many more there are; BadVolume where all of them are about volumes. MissingExtra: Parquet without
            pyarrow.
    """
    path, classes = Path(path), checked_classes(classes, RISING)
    columns, rows = read_table(path)
    needed = (*order, *((TUMOUR,) if tumour else ()), "patient")
    check_columns(columns, COLUMNS, (*needed, *(("label",) if labelled else ())), path)
    check_rows(rows, path)
    wrong = [[*cell_errors(row, needed), *(label_errors(row, classes) if labelled else ())] for row in rows]
    raise_all([error for errors in wrong for error in errors], path)
    pairs = [(row, _parsed(row, path.parent, [*order, *also], tumour)) for row in rows]
    if not labelled:
        pairs = [(row, replace(case, label=None)) for row, case in pairs]
    raise_all([*name_errors(pairs), *patient_errors(pairs)], path)
    cases = _looked_at(pairs, path)
    return VolumeManifest(path, cases, classes, _sha256(cases))


def _parsed(row: Row, folder: Path, order: Sequence[str], tumour: bool | None) -> VolumeCase:
    """The case of a row whose cells are good by themselves; nothing is looked at yet."""
    cell = {column: value or None for column, value in row.cells.items()}

    def file(name: str) -> Path | None:
        return None if (value := cell.get(name)) is None else folder / value

    found = {name: path for name in order if (path := file(name)) is not None}
    return VolumeCase(
        name=cell.get("case") or Path(os.path.abspath(next(iter(found.values())))).parent.name,
        modalities=tuple(found.items()),
        patient=row.cells["patient"],
        label=cell.get("label"),
        brain=file(BRAIN),
        tumour=None if tumour is False else file(TUMOUR),
        fold=plain_fold(row.cells["fold"]) if cell.get("fold") else None,
        centre=cell.get("centre"),
        stratum=cell.get("type"),
    )


def _looked_at(pairs: Pairs, path: Path) -> tuple[VolumeCase, ...]:
    """The cases with the hashes of their files. Raises all that is wrong with these, as `raise_all` does."""
    errors: list[BadInput] = []
    seen: dict[str, str] = {}  # hash of a volume → where it was
    cases = []
    for row, case in pairs:
        contents = {}
        for name, file in case.named_files.items():
            try:
                check_volume(file)
                contents[name] = contents_of(file)
            except DigipathError as error:
                errors.append(row.error(name, str(error), BadVolume))
        errors += _copies(row, {name: contents[name] for name, _ in case.modalities if name in contents}, seen)
        cases.append(replace(case, contents=tuple(contents.items())))
    raise_all(errors, path)
    return tuple(cases)


def _copies(row: Row, contents: dict[str, str], seen: dict[str, str]) -> Iterator[BadInput]:
    for name, content in contents.items():
        here = f"{row.where}, column {name}"
        if (earlier := seen.setdefault(content, here)) != here:
            yield row.error(name, f"expected each volume once, this is a copy of that in {earlier}", BadVolume)


def check_volume(path: Path) -> None:
    """Look at the beginning of a NIfTI file, or for a series in a folder.

    Raises BadVolume: it is not there, is no such file, or not of three dimensions.
    """
    if path.is_dir():
        from SimpleITK import ImageSeriesReader  # here: its import takes half a second

        with own_locale():
            series = ImageSeriesReader.GetGDCMSeriesIDs(str(path))
        if len(series) != 1:
            raise BadVolume(f"expected a folder of one DICOM series, found another number of them: {path}")
        return
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        image: Any = nibabel.load(path)
        shape = image.shape
    except (OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, WrapStructError, ValueError) as error:
        reason = "there is none" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        raise BadVolume(f"expected a NIfTI file, {reason}: {path}") from error
    if len(shape) < 3 or max(shape[3:], default=1) > 1:
        raise BadVolume(f"expected a volume of three dimensions, received {' × '.join(map(str, shape))}: {path}")


def contents_of(path: Path) -> str:
    """A hash of a file, or of all files in a folder, by their sizes, beginnings, middles and ends."""
    if not path.is_dir():
        return str(file_identity(path)["quick_hash"])
    each = sorted(file_identity(file)["quick_hash"] for file in path.iterdir() if file.is_file())
    return hashlib.sha256("\n".join(each).encode()).hexdigest()


def _sha256(cases: Sequence[VolumeCase]) -> str:
    rows = [
        json.dumps([case.name, dict(case.contents), case.patient, case.label, case.fold, case.centre, case.stratum])
        for case in cases
    ]
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()
