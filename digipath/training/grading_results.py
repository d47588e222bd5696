"""The scores of trained tile classifiers: answers on held-out tiles, kept once, and what follows from them.

Every grader is scored for all classes; where there are three or more also as the highest class against the rest and
as the rest apart, whatever its scheme, so that one network and a modular pair can be compared (Truong et al. 2020,
Figure 4). Slides and cases are called by the mean over their tiles or slides; what is one answer keeps its own call,
which for a network that votes over groups of tiles is that vote, as `digipath grade` calls it. AUROC and the other two
questions are of probabilities. The truth of a case is that of its highest slide. The slides of a patient are one case;
each MRI of a patient is a case of its own, as it has a grade of its own. Intervals resample patients.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput
from digipath.files import write_atomically
from digipath.measure.grading_intervals import bootstrap
from digipath.measure.grading_scores import pooled_by, scores
from digipath.measure.repeated_runs import Comparison, compare
from digipath.measure.tile_grades import called, leading_of_each, merged, merged_truth
from digipath.training.grading_plan import Groups, modular_groups

TILE, SLIDE, CASE = LEVELS = ("tile", "slide", "case")
ALL, TOP, REST = ("all classes", "highest against the rest", "the rest apart")
COMPARED = ("macro_accuracy", "accuracy", "macro_auroc", "macro_auroc_by_threshold")
Scores = Mapping[str, Mapping[str, Mapping[str, Any]]]  # of a grader: question → level → record, see `scored`


class ArmName(Protocol):
    """One way to train."""

    @property
    def name(self) -> str: ...


class Grader(Protocol):
    """What was trained in one way, by one scheme, the `repeat`-th time (from 0)."""

    @property
    def name(self) -> str: ...

    @property
    def arm(self) -> ArmName: ...

    @property
    def scheme(self) -> str: ...

    @property
    def repeat(self) -> int: ...


@dataclass(frozen=True)
class Answers:
    """What a grader says of n held-out tiles.

    truth, slide_truth: (n,) class of the tile, −1 where it is of none, and of its slide. probabilities: (n, C)
    float32. slides, cases: (n,) names, by which answers are pooled. calls: (n,) the class that it calls. patients:
    (n,) whose they are, by which intervals resample.
    """

    truth: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    slides: NDArray[np.str_]
    cases: NDArray[np.str_]
    slide_truth: NDArray[np.int64]
    calls: NDArray[np.int64]
    patients: NDArray[np.str_]

    @classmethod
    def of_slide(
        cls,
        truth: NDArray[np.int64],
        probabilities: NDArray[np.float32],
        calls: NDArray[np.int64],
        *,
        slide: str,
        case: str,
        label: int,
        patient: str | None = None,
    ) -> Answers:
        """Of the tiles of one slide; truth −1: the tile is of no one class, and counts for slide and case alone.

        patient: whose it is; None: the case is named after the patient.
        """
        slides, cases, patients = (np.full(len(truth), name) for name in (slide, case, patient or case))
        return cls(truth, probabilities, slides, cases, np.full(len(truth), label), calls, patients)

    @classmethod
    def of_case(cls, name: str, patient: str, label: int, vote: NDArray[np.floating]) -> Answers:
        """Of a case that is one answer, (C,) probabilities, and is never pooled with others of its patient."""
        probabilities = np.asarray(vote, np.float32)[None]
        calls = leading_of_each(probabilities)
        return cls.of_slide(
            np.array([label]), probabilities, calls, slide=name, case=name, label=label, patient=patient
        )

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """Of the tiles of all of them."""
        return cls(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)))

    def save(self, path: Path) -> None:
        """Keep it in one compressed file (NumPy's npz)."""
        packed = io.BytesIO()
        np.savez_compressed(packed, **{part.name: getattr(self, part.name) for part in fields(self)})
        write_atomically(path, packed.getvalue())

    @classmethod
    def load(cls, path: Path) -> Answers:
        """What `save` kept. Raises BadInput for a damaged file."""
        try:
            with np.load(path) as kept:
                return cls(*(kept[part.name] for part in fields(cls)))
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise BadInput(f"kept answers are damaged ({error}); remove the file to score anew: {path}") from error


def scored(
    answers: Answers, classes: Sequence[str], *, levels: Sequence[str] = LEVELS, seed: int = 0
) -> dict[str, dict[str, dict[str, Any]]]:
    """All scores of a grader with bootstrap intervals by patient: question → level → record.

    levels: of `LEVELS`; without "tile" a row of the answers is a slide. A record holds `scores`
    (`GradingScores.to_record`), `metrics` by name, and `intervals` as `digipath.measure.grading_intervals` gives them.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for question in questions(classes):
        for level in levels:
            asked = asked_of(answers, level, question, classes)
            score = scores(asked.truth, asked.probabilities, asked.classes, calls=asked.calls)
            intervals = bootstrap(
                asked.truth, asked.probabilities, asked.patients, asked.classes, calls=asked.calls, seed=seed
            )
            found.setdefault(question, {})[level] = {
                "scores": score.to_record(),
                "metrics": score.metrics(),
                "intervals": intervals.to_record(),
            }
    return found


@dataclass(frozen=True)
class Asked:
    """What a grader answers to one question, of n tiles, slides or cases that are of the question's classes.

    names: (n,) of tiles that of their slide. patients: (n,) whose each is. truth: (n,) numbers of `classes`.
    probabilities: (n, classes). calls: (n,) numbers of `classes`.
    """

    names: tuple[str, ...]
    patients: tuple[str, ...]
    truth: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    classes: tuple[str, ...]
    calls: NDArray[np.int64]


def asked_of(answers: Answers, level: str, question: str, classes: Sequence[str]) -> Asked:
    """The answers at one of `LEVELS` to one of the `questions` of these classes."""
    names, patients, truth, probabilities, calls = _pooled(answers, level)
    groups, named = questions(classes)[question]
    true = merged_truth(truth, groups)
    own = true >= 0
    shares = merged(probabilities[own], groups)
    said = calls[own] if question == ALL else called(shares)
    return Asked(tuple(names[own].tolist()), tuple(patients[own].tolist()), true[own], shares, named, said)


def questions(classes: Sequence[str]) -> dict[str, tuple[Groups, tuple[str, ...]]]:
    """What a grader of these classes is asked: question → groups of classes, and their names."""
    alone = tuple((label,) for label in range(len(classes)))
    found: dict[str, tuple[Groups, tuple[str, ...]]] = {ALL: (alone, tuple(classes))}
    if len(classes) > 2:
        top, rest = modular_groups(len(classes))
        found |= {TOP: (top, (f"not {classes[-1]}", classes[-1])), REST: (rest, tuple(classes[:-1]))}
    return found


@dataclass(frozen=True)
class Compared:
    """Two ways to train, by one metric over their repeats."""

    first: str
    second: str
    question: str
    level: str
    metric: str
    found: Comparison

    def to_record(self) -> dict[str, Any]:
        """As JSON."""
        words = {name: getattr(self, name) for name in ("first", "second", "question", "level", "metric")}
        return {**words, **self.found.to_record()}


def comparisons(runs: Sequence[Grader], found: Mapping[str, Scores]) -> list[Compared]:
    """Each variant with the base, scheme by scheme, and the schemes with each other, arm by arm; by a t-test."""
    ways = by_way(runs)
    keys = list(ways)
    base = keys[0][0]
    pairs = [((base, scheme), (arm, scheme)) for arm, scheme in keys if arm != base]
    pairs += [(one, other) for at, one in enumerate(keys) for other in keys[at + 1 :] if one[0] == other[0]]
    made = []
    for first, second in pairs:
        for question, level, metric in _asked(found):
            sides = [values(ways[way], found, question, level, metric) for way in (first, second)]
            if all(sides):
                told = compare(*sides)
                made.append(Compared(" ".join(first), " ".join(second), question, level, metric, told))
    return made


def by_way(runs: Sequence[Grader]) -> dict[tuple[str, str], list[str]]:
    """The names of the graders that differ in their seeds only, by (arm, scheme)."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        found.setdefault((run.arm.name, run.scheme), []).append(run.name)
    return found


def values(
    names: Sequence[str], found: Mapping[str, Scores], question: str, level: str, metric: str
) -> list[float]:
    """A metric of graders, of those for which it is defined."""
    each = [found[name][question][level]["metrics"][metric] for name in names]
    return [value for value in each if value is not None]


def score_rows(runs: Sequence[Grader], found: Mapping[str, Scores]) -> str:
    """A CSV table: one line per grader, question, level and metric, with its interval."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["run", "arm", "scheme", "repeat", "question", "level", "count", "metric", "value", "low", "high"])
    for run in runs:
        for question, levels in found[run.name].items():
            for level, record in levels.items():
                about = [run.name, run.arm.name, run.scheme, run.repeat + 1, question, level, record["scores"]["count"]]
                table.writerows([*about, *cells] for cells in interval_cells(record))
    return text.getvalue()


def interval_cells(record: Mapping[str, Any]) -> Iterator[list[str]]:
    """Metric, value and both ends of its interval, as cells of a table."""
    for metric, value in record["metrics"].items():
        pair = record["intervals"]["intervals"][metric] or (None, None)
        yield [metric, *("" if number is None else f"{number:.4f}" for number in (value, *pair))]


def _asked(found: Mapping[str, Scores]) -> Iterator[tuple[str, str, str]]:
    for question, levels in next(iter(found.values())).items():
        for level in levels:
            for metric in COMPARED:
                yield question, level, metric


def _pooled(
    answers: Answers, level: str
) -> tuple[NDArray[np.str_], NDArray[np.str_], NDArray[np.int64], NDArray[np.floating], NDArray[np.int64]]:
    """Name, patient, truth, probabilities and call of each tile, slide or case."""
    if level == TILE:
        return answers.slides, answers.patients, answers.truth, answers.probabilities, answers.calls
    groups = answers.slides if level == SLIDE else answers.cases
    pooled = pooled_by(answers.probabilities, groups.tolist())
    truth = np.array([answers.slide_truth[groups == name].max() for name in pooled.names], np.int64)
    alone = np.array([np.count_nonzero(groups == name) == 1 for name in pooled.names], np.bool_)
    calls = np.where(alone, answers.calls[pooled.first], leading_of_each(pooled.probabilities))
    return groups[pooled.first], answers.patients[pooled.first], truth, pooled.probabilities, calls
