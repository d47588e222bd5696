"""Tables of pN stages in CAMELYON17's form: read, checked against the rule, compared and written.

Two columns `patient,stage`; a row `patient_000.zip,pN0` gives a patient's stage, and rows such as
`patient_000_node_0.tif,negative` the categories of the nodes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from digipath.errors import BadInput, NotFound
from digipath.files import write_atomically
from digipath.measure.pn_stage import CATEGORIES, STAGES, patient_stage

HEADER = ("patient", "stage")
PATIENT, NODE = ".zip", ".tif"  # endings of the two kinds of rows


@dataclass(frozen=True)
class Patient:
    """A patient's rows.

    Attributes:
        name: without ending. stage: one of `STAGES`, None where the table does not say.
        nodes: category, one of `CATEGORIES`, by the node's name without ending.
    """

    name: str
    stage: str | None
    nodes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StageTable:
    """Patients by name, in the order of the table, and the file it was read from."""

    patients: dict[str, Patient]
    path: Path | None = None


@dataclass(frozen=True)
class Contradiction:
    """A patient whose stated stage is not the one that the nodes' categories give by Table 3's rule."""

    patient: str
    stated: str
    by_rule: str
    categories: tuple[str, ...]


def read_stage_table(path: str | Path) -> StageTable:
    """Read a table of stages.

    A node belongs to the patient whose name its own begins with (`patient_000_node_0` to `patient_000`; the
    longest, if several do), or to the one before `_node_` if no row names the patient. Upper and lower case of
    stages, categories and endings do not matter.

    Raises:
        NotFound: no such file.
        BadInput: no table of this form; the message names the file and the line.
    """
    path = Path(path)
    stages: dict[str, str] = {}
    categories: dict[str, tuple[int, str]] = {}
    for line, name, value in _rows(path):
        kind, stem = name[-len(PATIENT) :].lower(), name[: -len(PATIENT)]
        if kind not in (PATIENT, NODE) or not stem:
            raise BadInput(f"{path}, line {line}: expected a patient's .zip or a node's .tif, got {name!r}")
        if stem in (stages if kind == PATIENT else categories):
            raise BadInput(f"{path}, line {line}: {name} is there twice; leave one row")
        if kind == PATIENT:
            stages[stem] = _known(value, STAGES, f"{path}, line {line}: stage of {name}")
        else:
            categories[stem] = line, _known(value, CATEGORIES, f"{path}, line {line}: category of {name}")
    patients = {name: Patient(name, stage) for name, stage in stages.items()}
    for node, (line, category) in categories.items():
        owner = _owner(node, stages)
        if owner is None:
            raise BadInput(f"{path}, line {line}: node {node} belongs to no patient of the table")
        patients.setdefault(owner, Patient(owner, None)).nodes[node] = category
    return StageTable(patients, path)


def contradictions(table: StageTable) -> list[Contradiction]:
    """The patients whose stage is not what `patient_stage` makes of their nodes.

    Patients without a stage or without nodes cannot contradict themselves.
    """
    found = []
    for patient in table.patients.values():
        if patient.stage is None or not patient.nodes:
            continue
        categories = tuple(patient.nodes.values())
        if (by_rule := patient_stage(categories)) != patient.stage:
            found.append(Contradiction(patient.name, patient.stage, by_rule, categories))
    return found


def quadratic_kappa(reference: Sequence[str], submission: Sequence[str]) -> float:
    """Cohen's kappa with quadratic weights of two lists of stages, patient by patient, at most 1.

    1 − Σ w O / Σ w E over pairs of stages, with w the squared distance in `STAGES`, O the pairs that occur and E
    those expected of independent lists. CAMELYON17's score (scikit-learn's `cohen_kappa_score` with its stages in
    order). Where both lists hold one and the same stage throughout it is undefined there, and 1 here. Cohen
    1968, doi:10.1037/h0026256.

    Raises:
        BadInput: lists of different lengths or without a patient, or a stage that is not one of `STAGES`.
    """
    if len(reference) != len(submission) or not len(reference):
        raise BadInput(f"expected stages of as many patients in both, got {len(reference)} and {len(submission)}")
    one, other = ([STAGES.index(_known(stage, STAGES, "stage")) for stage in each] for each in (reference, submission))
    observed = np.zeros((len(STAGES), len(STAGES)))
    np.add.at(observed, (one, other), 1)
    expected = np.outer(observed.sum(axis=1), observed.sum(axis=0)) / len(one)
    places = np.arange(len(STAGES))
    weights = (places[:, None] - places) ** 2
    disagreement = float((weights * expected).sum())
    return 1 - float((weights * observed).sum()) / disagreement if disagreement else 1.0


def table_kappa(reference: StageTable, submission: StageTable) -> float:
    """`quadratic_kappa` of the stages of two tables, over the patients of the submission, as CAMELYON17 has it.

    Raises:
        BadInput: the submission stages nobody, or a patient whose stage the reference does not know.
    """
    stages = {name: patient.stage for name, patient in submission.patients.items() if patient.stage is not None}
    truth = {name: patient.stage for name, patient in reference.patients.items() if patient.stage is not None}
    missing = [name for name in stages if name not in truth]
    if missing or not stages:
        what = f"{missing[0]} (and {len(missing) - 1} more)" if missing else "no stage at all in the submission"
        raise BadInput(f"expected the reference {reference.path or ''} to stage each patient compared, got {what}")
    return quadratic_kappa([truth[name] for name in stages], list(stages.values()))


def write_submission(path: str | Path, patients: Iterable[Patient]) -> None:
    """Write patients in the challenge's form, each followed by its nodes; the file appears whole or not at all.

    Raises:
        BadInput: a patient without a stage that the form knows, a category it does not know, or a name twice.
        OutputUnwritable: the file cannot be written.
    """
    rows: list[tuple[str, str]] = []
    for patient in patients:
        stage = _known(patient.stage or "none", STAGES, f"stage of {patient.name}")
        rows.append((_ended(patient.name, PATIENT), stage))
        rows += [
            (_ended(node, NODE), _known(category, CATEGORIES, f"category of {node}"))
            for node, category in patient.nodes.items()
        ]
    names = [name for name, _ in rows]
    if len(set(names)) < len(names):
        raise BadInput(f"expected each name once in a submission, got {next(n for n in names if names.count(n) > 1)}")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *rows])
    write_atomically(Path(path), text.getvalue())


def _rows(path: Path) -> list[tuple[int, str, str]]:
    """(line, name, value) of each row below the header."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NotFound(f"no table at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"expected a table {','.join(HEADER)} in {path}, but it cannot be read: {error}") from error
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise BadInput(f"expected a table {','.join(HEADER)} in {path}, but it is no CSV: {error}") from error
    if not lines or tuple(cell.lower() for cell in lines[0][1]) != HEADER:
        raise BadInput(f"{path}: expected the columns {','.join(HEADER)}, got {','.join(lines[0][1]) if lines else ''}")
    for line, row in lines:
        if len(row) != len(HEADER):
            raise BadInput(f"{path}, line {line}: expected {len(HEADER)} columns, got {len(row)}")
    return [(line, row[0], row[1]) for line, row in lines[1:]]


def _known(value: str, words: Sequence[str], what: str) -> str:
    """The word that is meant, whatever its case."""
    for word in words:
        if value.lower() == word.lower():
            return word
    raise BadInput(f"{what}: expected one of {', '.join(words)}, got {value!r}")


def _owner(node: str, patients: Iterable[str]) -> str | None:
    owners = [name for name in patients if node.startswith(f"{name}_")]
    return max(owners, key=len) if owners else node.rpartition("_node_")[0] or None


def _ended(name: str, ending: str) -> str:
    return name if name.lower().endswith(ending) else name + ending
