"""What the manifests of all trainings share: whose a case is, its label and fold, and what is wrong with a table."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from digipath.errors import BadInput
from digipath.training.tables import Row

OWN_PREFIX = "x_"
PARTS = ("train", "validation", "test")
MOST_FOLD_DIGITS = 9


C = TypeVar("C", bound="PatientCase")


class PatientCase(Protocol):
    """One row of a manifest, as far as splits ask.

    ill: whether lesions are to be expected. stratum: a kind of case within its label, of which every part of a split
    gets its share. files: its own, which no other case has.
    """

    @property
    def name(self) -> str: ...

    @property
    def patient(self) -> str: ...

    @property
    def label(self) -> str | None: ...

    @property
    def fold(self) -> str | None: ...

    @property
    def stratum(self) -> str | None: ...

    @property
    def ill(self) -> bool: ...

    @property
    def files(self) -> tuple[Path, ...]: ...


def of_fold(cases: Sequence[C], fold: str | None, path: Path) -> list[C]:
    """The cases of a fold; None: all. Raises BadInput: the manifest has none."""
    chosen = [case for case in cases if fold is None or case.fold == plain_fold(fold)]
    if not chosen:
        folds = ", ".join(sorted({case.fold or "none" for case in cases}))
        raise BadInput(f"no case has the fold {fold!r}; the manifest has {folds}: {path}")
    return chosen


def check_columns(columns: Sequence[str], known: Sequence[str], required: Sequence[str], path: Path) -> None:
    """Raise BadInput unless the required columns are there, no other but the user's own, and none twice."""
    wrong = {
        "missing": [name for name in required if name not in columns],
        "unknown": [name for name in columns if name not in known and not name.startswith(OWN_PREFIX)],
        "twice": sorted({name for name in columns if columns.count(name) > 1}),
    }
    if any(wrong.values()):
        raise BadInput(
            f"expected the columns {', '.join(required)} and any of {', '.join(sorted({*known} - {*required}))} "
            f"(your own begin with {OWN_PREFIX}), received "
            f"{', '.join(f'{what} {names}' for what, names in wrong.items() if names)}: {path}"
        )


def checked_classes(classes: Sequence[str], order: str) -> tuple[str, ...]:
    """The classes, if they are two or more different ones; order: in which, for the message."""
    if isinstance(classes, str) or len(set(classes)) < 2 or len(set(classes)) != len(classes):
        raise BadInput(f"expected two or more different classes, {order}, received {classes!r}")
    return tuple(classes)


def check_rows(rows: Sequence[Row], path: Path) -> None:
    """Raise BadInput of a manifest without rows."""
    if not rows:
        raise BadInput(f"expected at least one case below the column names, found none: {path}")


def cell_errors(row: Row, required: Sequence[str]) -> list[BadInput]:
    """Required cells that are blank, a fold that is none."""
    errors = [row.error(column, "expected a value, it is blank") for column in required if not row.cells[column]]
    fold = row.cells.get("fold")
    if fold and fold not in PARTS and not _is_number(fold):
        errors.append(row.error("fold", f"expected a number 0, 1, 2, … or one of {list(PARTS)}, received {fold!r}"))
    return errors


def label_errors(row: Row, classes: Sequence[str]) -> Iterator[BadInput]:
    """A label that is none of the classes, or blank."""
    label = row.cells["label"]
    if label not in classes:
        yield row.error("label", f"expected one of {list(classes)}, received {repr(label) if label else 'nothing'}")


def name_errors(pairs: Sequence[tuple[Row, PatientCase]]) -> Iterator[BadInput]:
    """Names of cases that come twice."""
    names: dict[str, Row] = {}
    for row, case in pairs:
        earlier = names.setdefault(case.name, row)
        if earlier is not row:
            problem = f"expected a name of its own, {case.name!r} is also that of {earlier.where}"
            yield row.error("case", f"{problem}; give each a name in the column case")


def patient_errors(pairs: Sequence[tuple[Row, PatientCase]]) -> Iterator[BadInput]:
    """Patients that a slip of the shift key may have made two of; folds that do not agree."""
    known: dict[str, tuple[Row, str]] = {}
    for row, case in pairs:
        first, patient = known.setdefault(unicodedata.normalize("NFKC", case.patient).casefold(), (row, case.patient))
        if patient != case.patient:
            problem = f"expected each patient under one name, received {case.patient!r} here and {patient!r}"
            yield row.error("patient", f"{problem} in {first.where}")
    yield from _fold_errors(pairs)


def _fold_errors(pairs: Sequence[tuple[Row, PatientCase]]) -> Iterator[BadInput]:
    """Folds of two kinds, or on some rows only; a patient in two folds."""
    first_row, first = pairs[0]
    kind = _fold_kind(first)
    homes: dict[str, tuple[Row, PatientCase]] = {}
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


def _fold_kind(case: PatientCase) -> str:
    if case.fold is None:
        return "nothing"
    return f"one of {list(PARTS)}" if case.fold in PARTS else "a number"


def plain_fold(fold: str) -> str:
    """A fold as it is kept: numbers without leading zeros."""
    return str(int(fold)) if _is_number(fold) else fold


def _is_number(fold: str) -> bool:
    return fold.isascii() and fold.isdigit() and len(fold) <= MOST_FOLD_DIGITS
