"""Manifests of graded cases: which slides to train on, whose they are, and which class each is of.

A CSV (UTF-8; commas, semicolons or tabs) or Parquet file with one row per slide:

    slide        file, relative to the manifest
    patient      whose slide it is; no patient is ever on both sides of a split
    label        the class of the slide
    annotation   outlines named by class, relative to the manifest: then its tiles are of the class in whose
                 outlines they lie, whatever the slide's label; blank: all of the slide's class
    type         kind of case within its class, such as the type of tumour: every part of a split gets its share
    fold         all rows 0, 1, 2, … (cross-validation), or all train, validation, test, or none
    mpp          µm per level-0 pixel where the slide does not state it, or to override it
    centre       where it was scanned; kept, not used
    case         a unique name; blank: the slide's file name without its ending

`slide`, `patient` and `label` must be there, the other columns may be left out. Your own columns begin with `x_`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import shapely

from digipath.annotation import read_outlines
from digipath.errors import BadAnnotation, BadInput
from digipath.slide import IMAGE_SUFFIXES, Slide, images_in
from digipath.training.cases import check_columns, checked_classes, label_errors
from digipath.training.manifest import Manifest, TrainingCase, cases_of, checked_mpp, looked_at, twice
from digipath.training.tables import Row, raise_all, read_table

COLUMNS = ("slide", "annotation", "patient", "label", "type", "fold", "mpp", "centre", "case")
REQUIRED = ("slide", "patient", "label")
MOST_OUTSIDE = 0.01  # share of an outline's area: a hand may slip over the slide's border
RISING = "in rising order of malignancy"


def read_graded_manifest(path: str | Path, *, classes: Sequence[str], at_mpp: float | None = None) -> Manifest:
    """Read and check a manifest of graded cases (see the module).

    Every slide is opened once: it has a resolution, its own or in mpp, its outlines fit it and bear names of
    classes, no slide comes twice.

    classes: names that `label` and outlines may have, in rising order of malignancy. at_mpp: µm per pixel at which
    the slides are to be read; slides more than twice as coarse are refused.

    Raises BadInput, one line that names row and column, what was expected and received, for the first five errors
    and how many more there are; of its kinds BadAnnotation, MissingResolution or ResolutionTooLow where all errors
    are of that kind. MissingExtra: Parquet without pyarrow.
    """
    path = Path(path)
    columns, rows = read_table(path)
    check_columns(columns, COLUMNS, REQUIRED, path)
    classes = checked_classes(classes, RISING)
    pairs = cases_of(rows, path, partial(label_errors, classes=classes))
    cases, sha256 = looked_at(pairs, path, at_mpp, partial(_look, classes=classes))
    return Manifest(path, cases, classes, sha256)


def graded_folder(folder: str | Path, *, classes: Sequence[str], mpp: float, at_mpp: float | None = None) -> Manifest:
    """A manifest of plain images in folders that are called like their classes: `<folder>/<class>/*.jpg`.

    mpp: µm per pixel of the images. Each image counts as a patient of its own: where several are of one patient,
    or cut out of one slide, write a manifest file that says so, or scores on held-out images will flatter.

    Raises BadInput: no such folder, one of another name or a class without images; and what
    `read_graded_manifest` raises about images.
    """
    folder, classes = Path(folder), checked_classes(classes, RISING)
    if not folder.is_dir():
        raise BadInput(f"expected a folder with one of images for each class, received none at {folder}")
    found = {each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")}
    if unknown := sorted(found - {*classes}):
        raise BadInput(f"expected folders called like the classes {list(classes)}, received {unknown}: {folder}")
    pairs = [
        (Row(f"{label}/{image.name}", {}), _of_folder(image, label, checked_mpp(mpp)))
        for label in classes
        for image in images_in(folder / label)
    ]
    raise_all([*twice(pairs)], folder)
    cases, sha256 = looked_at(pairs, folder, at_mpp, partial(_look, classes=classes))
    return Manifest(folder, cases, classes, sha256)


def class_outlines(case: TrainingCase, classes: Sequence[str]) -> list[tuple[int, shapely.Geometry]]:
    """The outlines of a case as (class, area in level-0 pixels), in the order of the file; empty without any.

    A name fits whatever its case and outer blanks. Raises BadAnnotation: an unreadable file, or names of no class.
    """
    if case.annotation is None:
        return []
    if case.annotation.suffix.lower() in IMAGE_SUFFIXES:
        raise BadAnnotation(f"expected outlines named by class, received a mask image: {case.annotation}")
    known = {_plain(name): number for number, name in enumerate(classes)}
    outlines = read_outlines(case.annotation)
    if unknown := sorted({outline.label for outline in outlines if _plain(outline.label) not in known}):
        raise BadAnnotation(f"expected outlines named by class {list(classes)}, received {unknown}: {case.annotation}")
    return [(known[_plain(outline.label)], outline.area) for outline in outlines]


def _plain(name: str) -> str:
    return name.strip().casefold()


def _of_folder(image: Path, label: str, mpp: float) -> TrainingCase:
    name = f"{label}-{image.stem}"
    return TrainingCase(name, image, None, patient=name, label=label, mpp=mpp)


def _look(row: Row, case: TrainingCase, slide: Slide, *, classes: tuple[str, ...]) -> TrainingCase:
    """The case, whose outlines are of classes and on the slide. Raises BadAnnotation that names row and column."""
    frame = shapely.box(0, 0, *slide.size_l0)
    try:
        for number, (_, area) in enumerate(class_outlines(case, classes), start=1):
            outside = 1 - shapely.intersection(area, frame).area / area.area
            if outside > MOST_OUTSIDE:
                raise BadAnnotation(
                    f"expected outlines in level-0 pixels of the slide's {slide.size_l0[0]} × {slide.size_l0[1]}, "
                    f"{outside:.0%} of outline {number} lies outside; is it another slide's? {case.annotation}"
                )
    except BadAnnotation as error:
        raise row.error("annotation", str(error), BadAnnotation) from error
    return replace(case, has_lesion=False)
