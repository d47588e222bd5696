"""Score a fusion on patients of known grade, who have slides, MRI or both: the rows of a manifest.

A CSV (UTF-8; commas, semicolons or tabs) or Parquet file with one row per case, a patient at one time:

    slides               slides, images or folders of tiles, relative to the manifest, with `;` between them
    t1, t1c, t2, flair   NIfTI files or folders of a DICOM series
    brain, tumour        masks of the MRI
    label                the grade of the case
    patient, case, fold  whose it is, a unique name, and 0, 1, 2, … or train, validation, test

All cells but patient, case and label may be blank. Your own columns begin with `x_`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from digipath.errors import BadCard, BadInput, Cancelled, NotFound, SlideUnreadable, UnknownWeights
from digipath.files import made_folder
from digipath.grading import fusion
from digipath.grading.case import grade
from digipath.grading_evaluation import write_evaluation
from digipath.result import Grade
from digipath.training.cases import (
    cell_errors,
    check_columns,
    check_rows,
    label_errors,
    name_errors,
    of_fold,
    patient_errors,
    plain_fold,
)
from digipath.training.grading_results import CASE, Answers, scored
from digipath.training.tables import Row, raise_all, read_table
from digipath.values import Cancel, Card, Progress, ProgressCallback
from digipath.volume_values import MODALITIES
from digipath.weights import load_card

SLIDES, BETWEEN = "slides", ";"
MASKS = ("brain", "tumour")
REQUIRED = ("patient", "case", "label")
COLUMNS = (*REQUIRED, SLIDES, *MODALITIES, *MASKS, "fold")
CASES = "cases"  # the folder of their grades


@dataclass(frozen=True)
class FusedCase:
    """One row of a manifest. masks: "brain" and "tumour", where given."""

    name: str
    patient: str
    label: str
    fold: str | None
    slides: tuple[Path, ...]
    volumes: Mapping[str, Path]
    masks: Mapping[str, Path]

    @property
    def ill(self) -> bool:
        """Not asked."""
        return False

    @property
    def stratum(self) -> None:
        """Not asked."""

    @property
    def files(self) -> tuple[Path, ...]:
        """What no other case has."""
        return (*self.slides, *self.volumes.values())


@dataclass(frozen=True)
class Evaluated:
    """What is evaluated: a fusion with its members."""

    classes: tuple[str, ...]
    cards: tuple[Card, ...]
    identity: Mapping[str, Any]


def evaluate_fusion(
    weights: str,
    *,
    manifest: str | Path | None,
    fold: str | None = None,
    calibrated: bool = True,
    out: str | Path | None = None,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Confusion matrix, accuracies, kappa, per-class scores and AUROC of a fusion, with intervals by patient.

    Each case is graded as `digipath.grade` grades it; members whose input is missing do not vote, which is counted.

    Args:
        weights: a fusion card.
        manifest: cases (see the module); fold: only those of this fold.
        out: a folder for scores.json, evaluation.html and the grade of each case, so that the same call goes on.

    Returns:
        As `digipath.volume_evaluation.evaluate_volumes`, and `missing`: member → names of the cases in which it did
        not vote.

    Raises:
        BadInput: no manifest, a wrong one, no case of the fold, or none that can be graded. UnknownWeights, BadCard,
        WeightsCorrupt: as `digipath.load`. Cancelled.
    """
    if manifest is None:
        raise BadInput(f"{weights} grades slides and MRI; expected a manifest of cases to evaluate it on")
    found = fusion.published(load_card(weights))
    classes, path = found.card.classes, Path(manifest)
    cases = read_fused_cases(path, classes)
    chosen = of_fold(cases, fold, path)
    asker = _Asker(weights, classes, calibrated)
    with _folder(out) as folder:
        try:
            answers = asker.answers(chosen, folder / CASES, progress=progress, cancel=cancel)
        except Cancelled as error:
            raise Cancelled(f"{error}; {'nothing was kept' if out is None else 'the same call goes on'}") from error
    patients, of_it = len({case.patient for case in chosen}), "" if fold is None else f", fold {fold}"
    record = {
        "classes": list(classes),
        "cases": len(chosen),
        "data": f"{len(chosen)} cases of {patients} patients{of_it}; {path.name}",
        "left_out": [],
        "unreadable": asker.unreadable,
        "missing": asker.missing,
        "notes": asker.notes,
        "scores": scored(answers, classes, levels=(CASE,)),
    }
    if out is not None:
        cards = (found.card, *(member.card for member in found.members))
        evaluated = Evaluated(classes, cards, {"name": weights, "members": [card.name for card in cards[1:]]})
        write_evaluation(made_folder(Path(out)), record, answers, evaluated, title=weights, settings={})
    return record


def read_fused_cases(path: Path, classes: tuple[str, ...]) -> list[FusedCase]:
    """Read and check a manifest (see the module).

    Raises:
        BadInput: one line that names row and column, what was expected and received, for the first five errors.
            MissingExtra: Parquet without pyarrow.
    """
    columns, rows = read_table(path)
    check_columns(columns, COLUMNS, REQUIRED, path)
    check_rows(rows, path)
    wrong: list[BadInput] = []
    for row in rows:
        wrong += [*cell_errors(row, REQUIRED), *label_errors(row, classes), *_file_errors(row, path.parent)]
    raise_all(wrong, path)
    pairs = [(row, _parsed(row, path.parent)) for row in rows]
    raise_all([*name_errors(pairs), *patient_errors(pairs)], path)
    return [case for _, case in pairs]


def _parsed(row: Row, folder: Path) -> FusedCase:
    slides, volumes, masks = _files(row, folder)
    fold = row.cells.get("fold")
    return FusedCase(
        row.cells["case"], row.cells["patient"], row.cells["label"], plain_fold(fold) if fold else None,
        tuple(slides), volumes, masks,
    )  # fmt: skip


def _files(row: Row, folder: Path) -> tuple[list[Path], dict[str, Path], dict[str, Path]]:
    """Slides, volumes and masks of a row."""
    slides = [folder / one.strip() for one in row.cells.get(SLIDES, "").split(BETWEEN) if one.strip()]
    volumes, masks = (
        {name: folder / cell for name in names if (cell := row.cells.get(name))} for names in (MODALITIES, MASKS)
    )
    return slides, volumes, masks


def _file_errors(row: Row, folder: Path) -> Iterator[BadInput]:
    """Files that are not there, rows without any, and names that no folder can have."""
    slides, volumes, masks = _files(row, folder)
    if not slides and not volumes:
        yield row.error(SLIDES, "expected slides or volumes in each row, both are blank")
    elif masks and not volumes:
        yield row.error(next(iter(masks)), "expected volumes that the mask is of, there are none")
    for column, path in [*((SLIDES, slide) for slide in slides), *volumes.items(), *masks.items()]:
        if not path.exists():
            yield row.error(column, f"expected a file or folder, found nothing: {path}")
    if (name := row.cells["case"]) in (".", "..") or "/" in name or "\\" in name:
        yield row.error("case", f"expected a name that a folder may have, received {name!r}")


@dataclass
class _Asker:
    """Grades one case after the other. missing: member → cases without its vote. unreadable: case → why."""

    weights: str
    classes: tuple[str, ...]
    calibrated: bool
    missing: dict[str, list[str]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def answers(
        self, cases: list[FusedCase], folder: Path, *, progress: ProgressCallback | None, cancel: Cancel | None
    ) -> Answers:
        """One row for each case that can be graded, in a folder of its own. Raises BadInput: none can; Cancelled."""
        rows = []
        for number, case in enumerate(cases):
            if progress is not None:
                progress(Progress(number, len(cases), math.nan, case.name))
            try:
                rows.append(self._answer(case, self._graded(case, folder / case.name, cancel)))
            except Cancelled as error:
                raise Cancelled(f"stopped after {number} of {len(cases)} cases") from error
            except (BadCard, UnknownWeights):  # the same for every case
                raise
            except (BadInput, NotFound, SlideUnreadable) as error:
                self.unreadable[case.name] = str(error)
        if not rows:
            first, why = next(iter(self.unreadable.items()))
            raise BadInput(f"none of {len(cases)} cases can be graded; {first}: {why}")
        return Answers.joined(rows)

    def _graded(self, case: FusedCase, folder: Path, cancel: Cancel | None) -> Grade:
        """The grade of a case, without pictures for people. Raises as `digipath.grade`."""
        options: dict[str, Any] = {"calibrated": self.calibrated, "cancel": cancel}
        if case.slides:
            options |= {"gallery": 0}
        if case.volumes:
            options |= {**case.masks, "explanations": False}
        return grade(case.slides, case.volumes, weights=self.weights, out=folder, **options)

    def _answer(self, case: FusedCase, graded: Grade) -> Answers:
        """Its row; who did not vote, and what the grade notes, goes into `missing` and `notes`."""
        verdict = graded.verdict
        assert verdict is not None
        for name in verdict["missing"]:
            self.missing.setdefault(name, []).append(case.name)
        if told := [*(f"{name} did not vote" for name in verdict["missing"]), *graded.notes]:
            self.notes[case.name] = told
        vote = np.array([verdict["probabilities"][name] for name in self.classes])
        return Answers.of_case(case.name, case.patient, self.classes.index(case.label), vote)


@contextmanager
def _folder(out: str | Path | None) -> Iterator[Path]:
    """Where grades go: where the caller says, or a folder that is removed."""
    if out is not None:
        yield made_folder(Path(out))
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)
