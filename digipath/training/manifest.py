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
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from digipath.annotation import Labels, open_lesions
from digipath.case import file_identity
from digipath.errors import BadAnnotation, BadInput, DigipathError, MissingResolution, ResolutionTooLow
from digipath.planning import COARSEST
from digipath.slide import Slide, images_in, open_slide
from digipath.training.cases import (
    cell_errors,
    check_columns,
    check_rows,
    checked_classes,
    name_errors,
    patient_errors,
    plain_fold,
)
from digipath.training.tables import Row, raise_all, read_table

COLUMNS = ("slide", "annotation", "patient", "label", "fold", "mpp", "centre", "case")
REQUIRED = ("slide", "patient")
KNOWN_LABELS = Labels()
LEAST_MPP, MOST_MPP = 0.01, 1000.0  # beyond, it is in other units


@dataclass(frozen=True)
class TrainingCase:
    """One row of a manifest.

    mpp: µm per level-0 pixel, None where the slide states it. has_lesion: whether any pixel of it is
    lesion; None as long as nobody has looked. stratum: a kind of case within its label, e.g. the type of
    tumour, of which every part of a split gets its share.
    """

    name: str
    slide: Path
    annotation: Path | None
    patient: str
    label: str | None = None
    fold: str | None = None
    mpp: float | None = None
    centre: str | None = None
    has_lesion: bool | None = None
    stratum: str | None = None

    @property
    def ill(self) -> bool:
        """Whether lesions are to be expected on it."""
        return self.annotation is not None if self.has_lesion is None else self.has_lesion

    @property
    def files(self) -> tuple[Path, ...]:
        """What no other case has."""
        return (self.slide,)


@dataclass(frozen=True)
class Manifest:
    """Checked cases in the order of the file.

    sha256: of their values and of what is in their files, wherever these lie and whatever the order
    of rows and columns and the kind of file. Slides count by their size, beginning, middle and end.
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
    at_mpp: float | None = None,
    with_lesions: bool = True,
) -> Manifest:
    """Read and check a manifest (see the module).

    Every slide and annotation is opened: the slide has a resolution, its own or in mpp, the
    annotation fits it and holds what the label says, no slide comes twice.

    classes: names that `label` may have, the background first. labels: what outline labels mean.
    at_mpp: µm per pixel at which the slides are to be read; slides more than twice as coarse are
    refused. with_lesions: refuse a manifest in which no slide has any.

    Raises BadInput, one line that names row and column, what was expected and received, for the
    first five errors and how many more there are; of its kinds BadAnnotation, MissingResolution or
    ResolutionTooLow where all errors are of that kind. MissingExtra: Parquet without pyarrow.
    """
    path = Path(path)
    columns, rows = read_table(path)
    check_columns(columns, COLUMNS, REQUIRED, path)
    classes = checked_classes(classes, "the background first")
    pairs = cases_of(rows, path, lambda row: _label_errors(row, classes))
    return _Looking(classes, labels, at_mpp).manifest(pairs, path, with_lesions=with_lesions)


def folder_manifest(
    images: str | Path,
    masks: str | Path,
    *,
    mpp: float,
    classes: Sequence[str] = ("normal", "tumour"),
    at_mpp: float | None = None,
) -> Manifest:
    """A manifest of a folder of plain images and one of masks with the same stems.

    mpp: µm per pixel of the images. Each image counts as a patient of its own: where several are
    of one patient, or cut out of one slide, write a manifest file that says so, or scores on
    held-out images will flatter. Masks are positive where they are not 0, in a JPEG above 127.

    Raises BadInput: no images, an image without mask, or with two; and what `read_manifest` raises.
    """
    images, masks = Path(images), Path(masks)
    found, truths = images_in(images), images_in(masks)
    pairs = []
    errors = []
    for image in found:
        row = Row(image.name, {})
        own = [mask for mask in truths if mask.stem == image.stem]
        if len(own) == 1:
            pairs.append((row, TrainingCase(image.stem, image, own[0], image.stem, mpp=checked_mpp(mpp))))
        else:
            received = f"received {[mask.name for mask in own]}" if own else "found none"
            errors.append(row.error("annotation", f"expected one mask of the same name in {masks}, {received}"))
    raise_all([*errors, *twice(pairs)], images)
    looking = _Looking(checked_classes(classes, "the background first"), KNOWN_LABELS, at_mpp)
    return looking.manifest(pairs, images, with_lesions=True)


Pairs = Sequence[tuple[Row, TrainingCase]]


def cases_of(rows: Sequence[Row], path: Path, label_errors: Callable[[Row], Iterator[BadInput]]) -> Pairs:
    """The rows with their cases, nothing looked at yet. label_errors: what is wrong with a row's label and outlines.

    Raises BadInput: no row, a cell that cannot be, names, slides or patients twice, folds that do not agree.
    """
    check_rows(rows, path)
    parsed = [_parsed(row, path.parent) for row in rows]
    found = [(errors, list(label_errors(row))) for row, (_, errors) in zip(rows, parsed, strict=True)]
    raise_all([error for cells, labels in found for error in (*cells, *labels)], path)
    cases = tuple(case for case, _ in parsed if case is not None)
    pairs = list(zip(rows, cases, strict=True))
    raise_all([*twice(pairs), *patient_errors(pairs)], path)
    return pairs


def _label_errors(row: Row, classes: tuple[str, ...]) -> Iterator[BadInput]:
    label = row.cells.get("label")
    if label and label not in classes:
        yield row.error("label", f"expected one of {list(classes)} or nothing, received {label!r}")
    if label in classes[1:] and not row.cells.get("annotation"):
        yield row.error("annotation", f"expected outlines or a mask of what is labelled {label!r}, it is blank")


def _parsed(row: Row, folder: Path) -> tuple[TrainingCase | None, list[BadInput]]:
    """The case of a row, or what is wrong with its cells by themselves; any label will do."""
    cell = {column: value or None for column, value in row.cells.items()}
    errors, fold, mpp = cell_errors(row, REQUIRED), cell.get("fold"), None
    if stated := cell.get("mpp"):
        try:
            mpp = checked_mpp(stated)
        except ValueError:
            errors.append(row.error("mpp", f"expected µm per pixel like 0.25, received {stated!r}"))
    if errors or cell["slide"] is None or cell["patient"] is None:
        return None, errors
    slide, annotation = folder / cell["slide"], cell.get("annotation")
    return TrainingCase(
        name=cell.get("case") or slide.stem,
        slide=slide,
        annotation=folder / annotation if annotation else None,
        patient=cell["patient"],
        label=cell.get("label"),
        fold=None if fold is None else plain_fold(fold),
        mpp=mpp,
        centre=cell.get("centre"),
        stratum=cell.get("type"),
    ), []


def checked_mpp(value: str | float) -> float:
    """µm per pixel as a number; BadInput out of any scanner's range, another ValueError if it is no number."""
    mpp = float(value)
    if not LEAST_MPP <= mpp <= MOST_MPP:
        raise BadInput(f"expected mpp between {LEAST_MPP:g} and {MOST_MPP:g} µm per pixel, received {value}")
    return mpp


def twice(pairs: Pairs) -> Iterator[BadInput]:
    """Names and slides that come twice."""
    yield from name_errors(pairs)
    slides: dict[str, Row] = {}
    for row, case in pairs:
        earlier = slides.setdefault(os.path.realpath(case.slide), row)
        if earlier is not row:
            yield row.error("slide", f"expected each slide once, {case.slide.name} is in {earlier.where} too")
        if case.annotation is not None and os.path.realpath(case.annotation) == os.path.realpath(case.slide):
            yield row.error("annotation", f"expected outlines or a mask, received the slide itself ({case.slide.name})")


@dataclass(frozen=True)
class _Looking:
    """What the files of cases are looked at for; see `read_manifest`."""

    classes: tuple[str, ...]
    labels: Labels
    at_mpp: float | None

    def manifest(self, pairs: Pairs, path: Path, *, with_lesions: bool) -> Manifest:
        """Open all files and make the manifest, or raise what is wrong with them."""
        cases, sha256 = looked_at(pairs, path, self.at_mpp, self._look)
        if with_lesions and not any(case.has_lesion for case in cases):
            raise BadInput(
                f"expected lesions of class {' or '.join(map(repr, self.classes[1:]))} on at least one of {len(cases)} "
                f"slides, found none; fill in the column annotation: {path}"
            )
        return Manifest(path, cases, self.classes, sha256)

    def _look(self, row: Row, case: TrainingCase, slide: Slide) -> TrainingCase:
        """The case, knowing whether there are lesions. Raises BadInput that names row and column."""
        try:
            with open_lesions(case.annotation, slide.size_l0, labels=self.labels) as lesions:
                found = not lesions.empty
        except BadAnnotation as error:
            raise row.error("annotation", str(error), BadAnnotation) from error
        if case.label is not None and found != (case.label in self.classes[1:]):
            expected = "no lesion" if found else "lesions"
            received = "lesions" if found else "none"
            problem = f"expected {expected} on a slide labelled {case.label!r}, received {received}: {case.annotation}"
            raise row.error("annotation", problem, BadAnnotation)
        return replace(case, has_lesion=found)


Look = Callable[[Row, TrainingCase, Slide], TrainingCase]


def looked_at(pairs: Pairs, path: Path, at_mpp: float | None, look: Look) -> tuple[tuple[TrainingCase, ...], str]:
    """The cases after a look at their open slides, and the sha256 of a manifest of them.

    Every slide has a resolution that will do for `at_mpp`, and none is a copy of another. Raises all that is
    wrong, as `raise_all` does.
    """
    errors: list[BadInput] = []
    seen: dict[str, Row] = {}
    cases, quick_hashes = [], []
    for row, case in pairs:
        try:
            looked, contents = _opened(row, case, at_mpp, look)
            if (earlier := next((seen[content] for content in contents if content in seen), None)) is not None:
                problem = f"expected each slide once, {case.slide.name} is a copy of that in {earlier.where}"
                raise row.error("slide", problem)
            seen |= dict.fromkeys(contents, row)
            cases.append(looked)
            quick_hashes.append(contents[0])
        except BadInput as error:
            errors.append(error)
    raise_all(errors, path)
    return tuple(cases), _sha256(cases, quick_hashes)


def _opened(row: Row, case: TrainingCase, at_mpp: float | None, look: Look) -> tuple[TrainingCase, list[str]]:
    """What `look` makes of a case, and hashes that no other slide has: of the file, and OpenSlide's own."""
    try:
        slide = open_slide(case.slide, mpp=case.mpp)
    except DigipathError as error:
        raise row.error("slide", str(error)) from error
    with slide:
        _check_resolution(row, slide, at_mpp)
        looked = look(row, case, slide)
        # Two files of one DICOM series are the same slide.
        of_slide = slide.properties.get("openslide.quickhash-1")
    return looked, [content for content in (file_identity(case.slide)["quick_hash"], of_slide) if content]


def _check_resolution(row: Row, slide: Slide, at_mpp: float | None) -> None:
    if slide.mpp is None:
        problem = f"expected µm per pixel, since the slide states none, it is blank: {slide.path}"
        raise row.error("mpp", problem, MissingResolution)
    if at_mpp is not None and slide.mpp > COARSEST * at_mpp:
        problem = f"expected at most {COARSEST * at_mpp:g} µm/px to read it at {at_mpp:g} µm/px"
        raise row.error("slide", f"{problem}, received {slide.mpp:g} µm/px: {slide.path}", ResolutionTooLow)


def _sha256(cases: Sequence[TrainingCase], quick_hashes: Sequence[str]) -> str:
    rows = []
    for case, slide in zip(cases, quick_hashes, strict=True):
        annotation = None
        if case.annotation is not None:
            with case.annotation.open("rb") as file:
                annotation = hashlib.file_digest(file, "sha256").hexdigest()
        values = [case.patient, case.label, case.fold, case.mpp, case.centre]
        if case.stratum is not None:
            values.append(case.stratum)
        rows.append(json.dumps([case.name, slide, annotation, *values]))
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()
