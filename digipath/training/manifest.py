"""Manifests: which slides to train on, who they are of, and where their lesions are outlined.

A manifest is a CSV (UTF-8; commas, semicolons or tabs) or Parquet file with one row per case:

    slide        file, relative to the manifest
    patient      whose slide it is; no patient is ever on both sides of a split
    annotation   outlines or mask image, relative to the manifest; blank: no lesion on the slide
    label        one of the classes, for stratified splits; blank: unknown
    fold         all rows 0, 1, 2, … (cross-validation), or all train, validation, test, or none
    mpp          µm per level-0 pixel where the slide does not state it, or to override it
    centre       where it was scanned; kept, not used
    case         a unique name; blank: the slide's file name without its ending

`slide` and `patient` must be there, the other columns may be left out. Columns whose names begin
with `x_` are the user's own and are ignored; any other column is refused, since it might be one of
these misspelt. The first class is the background: a case so labelled must have no lesion, a case
with another label must have one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from digipath.annotation import Labels, open_lesions
from digipath.case import file_identity
from digipath.errors import BadAnnotation, BadInput, DigipathError, MissingResolution
from digipath.slide import open_slide
from digipath.training.tables import Row, raise_all, read_table

COLUMNS = ("slide", "annotation", "patient", "label", "fold", "mpp", "centre", "case")
REQUIRED = ("slide", "patient")
OWN_PREFIX = "x_"
PARTS = ("train", "validation", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
KNOWN_LABELS = Labels()


@dataclass(frozen=True)
class TrainingCase:
    """One row of a manifest; mpp: µm per level-0 pixel, None where the slide states it."""

    name: str
    slide: Path
    annotation: Path | None
    patient: str
    label: str | None = None
    fold: str | None = None
    mpp: float | None = None
    centre: str | None = None


@dataclass(frozen=True)
class Manifest:
    """Checked cases in the order of the file.

    sha256: of their values, whatever the order of rows and columns, the kind of file, its line
    ends, and the folder that it lies in with its slides.
    """

    path: Path
    cases: tuple[TrainingCase, ...]
    classes: tuple[str, ...]
    sha256: str


def read_manifest(
    path: str | Path,
    *,
    classes: Sequence[str] = ("normal", "tumour"),
    labels: Labels = KNOWN_LABELS,
    check_files: bool = True,
) -> Manifest:
    """Read and check a manifest (see the module).

    classes: names that `label` may have, the background first. labels: what outline labels mean.
    check_files: also open every slide and annotation: the slide has a resolution, its own or in
    mpp, the annotation fits it and holds what the label says, no file comes twice.

    Raises BadInput, one line that names row and column, what was expected and received, for the
    first five errors and how many more there are; of its kinds BadAnnotation or MissingResolution
    where all errors are of that kind. MissingExtra: Parquet without pyarrow.
    """
    path = Path(path)
    columns, rows = read_table(path)
    _check_columns(columns, path)
    if not rows:
        raise BadInput(f"expected at least one case below the column names, found none: {path}")
    classes = _checked_classes(classes)
    parsed = [_parsed(row, path.parent, classes) for row in rows]
    raise_all([error for _, errors in parsed for error in errors], path)
    cases = tuple(case for case, _ in parsed if case is not None)
    pairs = list(zip(rows, cases, strict=True))
    raise_all([*_twice(pairs), *_fold_errors(pairs)], path)
    _check_contents(pairs, classes, labels, path, check_files=check_files)
    return Manifest(path, cases, classes, _sha256(cases, path.parent))


def folder_manifest(
    images: str | Path, masks: str | Path, *, mpp: float, classes: Sequence[str] = ("normal", "tumour")
) -> Manifest:
    """A manifest of a folder of plain images and one of masks with the same stems.

    mpp: µm per pixel of the images. Each image counts as a patient of its own: where several are
    of one patient, or cut out of one slide, write a manifest file that says so, or scores on
    held-out images will flatter. Masks are positive above 0, in a JPEG above 127.

    Raises BadInput: no images, an image without mask, or with two; and what `read_manifest` raises.
    """
    images, masks = Path(images), Path(masks)
    found, truths = _images_in(images), _images_in(masks)
    pairs = []
    errors = []
    for image in found:
        row = Row(image.name, {})
        own = [mask for mask in truths if mask.stem == image.stem]
        if len(own) == 1:
            pairs.append((row, TrainingCase(image.stem, image, own[0], image.stem, mpp=_number(mpp))))
        else:
            received = f"received {[mask.name for mask in own]}" if own else "found none"
            errors.append(row.error("annotation", f"expected one mask of the same name in {masks}, {received}"))
    raise_all([*errors, *_twice(pairs)], images)
    classes = _checked_classes(classes)
    _check_contents(pairs, classes, KNOWN_LABELS, images, check_files=True)
    cases = tuple(case for _, case in pairs)
    return Manifest(images, cases, classes, _sha256(cases, images))


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise BadInput(f"expected a folder of images, received none at {folder}")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise BadInput(f"expected images ({', '.join(IMAGE_SUFFIXES)}), found none in {folder}")
    return found


def _check_columns(columns: Sequence[str], path: Path) -> None:
    wrong = {
        "missing": [name for name in REQUIRED if name not in columns],
        "unknown": [name for name in columns if name not in COLUMNS and not name.startswith(OWN_PREFIX)],
        "twice": sorted({name for name in columns if columns.count(name) > 1}),
    }
    if any(wrong.values()):
        raise BadInput(
            f"expected the columns {', '.join(REQUIRED)} and any of {', '.join(sorted({*COLUMNS} - {*REQUIRED}))} "
            f"(your own begin with {OWN_PREFIX}), received "
            f"{', '.join(f'{what} {names}' for what, names in wrong.items() if names)}: {path}"
        )


def _checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, str) or len(set(classes)) < 2 or len(set(classes)) != len(classes):
        raise BadInput(f"expected two or more different classes, the background first, received {classes!r}")
    return tuple(classes)


def _parsed(row: Row, folder: Path, classes: tuple[str, ...]) -> tuple[TrainingCase | None, list[BadInput]]:
    """The case of a row, or what is wrong with its cells by themselves."""
    cell = {column: row.cells.get(column) or None for column in COLUMNS}
    errors = [row.error(column, "expected a value, it is blank") for column in REQUIRED if cell[column] is None]
    if cell["label"] is not None and cell["label"] not in classes:
        errors.append(row.error("label", f"expected one of {list(classes)} or nothing, received {cell['label']!r}"))
    if cell["label"] in classes[1:] and cell["annotation"] is None:
        problem = f"expected outlines or a mask of what is labelled {cell['label']!r}, it is blank"
        errors.append(row.error("annotation", problem))
    fold = cell["fold"]
    if fold is not None and fold not in PARTS and not (fold.isascii() and fold.isdigit()):
        errors.append(row.error("fold", f"expected a number 0, 1, 2, … or one of {list(PARTS)}, received {fold!r}"))
    mpp = None
    if cell["mpp"] is not None:
        try:
            mpp = _number(cell["mpp"])
        except ValueError:
            errors.append(row.error("mpp", f"expected µm per pixel above 0 like 0.25, received {cell['mpp']!r}"))
    if errors or cell["slide"] is None or cell["patient"] is None:
        return None, errors
    slide = folder / cell["slide"]
    return TrainingCase(
        name=cell["case"] or slide.stem,
        slide=slide,
        annotation=folder / cell["annotation"] if cell["annotation"] else None,
        patient=cell["patient"],
        label=cell["label"],
        fold=str(int(fold)) if fold is not None and fold not in PARTS else fold,
        mpp=mpp,
        centre=cell["centre"],
    ), []


def _number(value: str | float) -> float:
    mpp = float(value)
    if not (math.isfinite(mpp) and mpp > 0):
        raise BadInput(f"expected mpp above 0 (µm per pixel), received {value}")
    return mpp


Pairs = Sequence[tuple[Row, TrainingCase]]


def _twice(pairs: Pairs) -> Iterator[BadInput]:
    """Names and slides that come twice."""
    names: dict[str, Row] = {}
    slides: dict[str, Row] = {}
    for row, case in pairs:
        earlier = names.setdefault(case.name, row)
        if earlier is not row:
            problem = f"expected a name of its own, {case.name!r} is also that of {earlier.where}"
            yield row.error("case", f"{problem}; give each a name in the column case")
        earlier = slides.setdefault(os.path.realpath(case.slide), row)
        if earlier is not row:
            yield row.error("slide", f"expected each slide once, {case.slide.name} is in {earlier.where} too")
        if case.annotation is not None and os.path.realpath(case.annotation) == os.path.realpath(case.slide):
            yield row.error("annotation", f"expected outlines or a mask, received the slide itself ({case.slide.name})")


def _fold_errors(pairs: Pairs) -> Iterator[BadInput]:
    """Folds of two kinds, or on some rows only; a patient in two folds."""
    first_row, first = pairs[0]
    kind = _fold_kind(first)
    homes: dict[str, tuple[Row, TrainingCase]] = {}
    for row, case in pairs:
        if _fold_kind(case) != kind:
            received = repr(case.fold) if case.fold else "nothing"
            yield row.error("fold", f"expected {kind} as in {first_row.where}, received {received}")
        home_row, home = homes.setdefault(case.patient, (row, case))
        if case.fold != home.fold and None not in (case.fold, home.fold):
            yield row.error(
                "fold",
                f"expected patient {case.patient!r} in one fold, received {case.fold!r} here "
                f"and {home.fold!r} in {home_row.where}",
            )


def _fold_kind(case: TrainingCase) -> str:
    if case.fold is None:
        return "nothing"
    return f"one of {list(PARTS)}" if case.fold in PARTS else "a number"


def _check_contents(
    pairs: Pairs, classes: tuple[str, ...], labels: Labels, path: Path, *, check_files: bool
) -> None:
    """There are lesions to learn; with `check_files` in the files themselves."""
    with_lesions = sum(case.annotation is not None for _, case in pairs)
    if check_files:
        errors: list[BadInput] = []
        opened: list[tuple[Row, TrainingCase]] = []
        with_lesions = 0
        for row, case in pairs:
            try:
                with_lesions += _has_lesions(row, case, classes, labels)
                opened.append((row, case))
            except BadInput as error:
                errors.append(error)
        raise_all([*errors, *_copies(opened)], path)
    if not with_lesions:
        raise BadInput(
            f"expected lesions of class {' or '.join(map(repr, classes[1:]))} on at least one of {len(pairs)} slides, "
            f"found none; fill in the column annotation: {path}"
        )


def _has_lesions(row: Row, case: TrainingCase, classes: tuple[str, ...], labels: Labels) -> bool:
    """Open a case's files. Raises BadInput that names row and column."""
    try:
        slide = open_slide(case.slide, mpp=case.mpp)
    except DigipathError as error:
        raise row.error("slide", str(error)) from error
    with slide:
        if slide.mpp is None:
            problem = f"expected µm per pixel, since the slide states none, it is blank: {case.slide}"
            raise row.error("mpp", problem, MissingResolution)
        try:
            with open_lesions(case.annotation, slide.size_l0, labels=labels) as lesions:
                found = not lesions.empty
        except BadAnnotation as error:
            raise row.error("annotation", str(error), BadAnnotation) from error
    if case.label is not None and found != (case.label in classes[1:]):
        expected = "no lesion" if found else "lesions"
        received = "lesions" if found else "none"
        problem = f"expected {expected} on a slide labelled {case.label!r}, received {received}: {case.annotation}"
        raise row.error("annotation", problem, BadAnnotation)
    return found


def _copies(pairs: Pairs) -> Iterator[BadInput]:
    """Slides with the same content under different names."""
    known: dict[str, Row] = {}
    for row, case in pairs:
        earlier = known.setdefault(file_identity(case.slide)["quick_hash"], row)
        if earlier is not row:
            problem = f"expected each slide once, {case.slide.name} is a copy of that in {earlier.where}"
            yield row.error("slide", problem)


def _sha256(cases: Sequence[TrainingCase], folder: Path) -> str:
    rows = []
    for case in cases:
        annotation = None if case.annotation is None else _place(case.annotation, folder)
        values = (case.patient, case.label, case.fold, case.mpp, case.centre)
        rows.append(json.dumps([case.name, _place(case.slide, folder), annotation, *values]))
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def _place(path: Path, folder: Path) -> str:
    """A path as the manifest's folder sees it, so that a folder that moves keeps its hash."""
    return Path(os.path.relpath(path, folder)).as_posix()
