"""The scores of a training: kept per round, gathered over rounds, told as tables."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from digipath.errors import BadInput
from digipath.files import write_atomically
from digipath.measure.calibration import Calibration, calibration_of
from digipath.measure.confusion import Confusion, Histogram
from digipath.scoring import CaseScore, summary
from digipath.training.cards import Score
from digipath.training.runs import FINAL, Round
from digipath.values import Coverage

ENSEMBLE = "ensemble"
COLUMNS = ("pooled_dice", "pixel_auroc", "mean_dice", "pooled_jaccard", "false_positive_share")
Scored = Mapping[str, Sequence[CaseScore]]  # by the name of the round


def save_scores(path: Path, scores: Sequence[CaseScore]) -> None:
    """Keep the counts of a round's cases in one compressed file (NumPy's npz)."""
    counts = [(*score.networks, score.together) for score in scores]
    left_out = [(c.tissue, c.predicted, c.read_failed, c.excluded) for c in (score.coverage for score in scores)]
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        names=np.array([score.name for score in scores], np.str_),
        histograms=np.array([[one.histogram for one in case] for case in counts]),  # (cases, networks + 1, 2, bins)
        found=np.array([[one.found for one in case] for case in counts]),
        coverage=np.array(left_out),
        missed_px=np.array([score.missed_px for score in scores]),
    )
    write_atomically(path, packed.getvalue())


def load_scores(path: Path) -> list[CaseScore]:
    """What `save_scores` kept. Raises BadInput for a damaged file."""
    try:
        with np.load(path) as kept:
            fields = [kept[name] for name in ("names", "histograms", "found", "coverage", "missed_px")]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"scores of a training are damaged ({error}); remove the file to score anew: {path}") from error
    return [_case(*case) for case in zip(*fields, strict=True)]


def _case(name: Any, histograms: Any, found: Any, coverage: Any, missed_px: Any) -> CaseScore:  # noqa: ANN401
    *networks, together = (Confusion(*one) for one in zip(histograms, found, strict=True))
    return CaseScore(str(name), tuple(networks), together, Coverage(*map(int, coverage)), int(missed_px))


def gather(rounds: Sequence[Round], scored: Scored) -> dict[str, Score]:
    """Scores by subject: each member over the rounds it took part in, then the ensemble.

    The ensemble is scored where every round has several networks: it is the mean of their probabilities.
    """
    played = [round_ for round_ in rounds if round_.name in scored]
    subjects: dict[str, dict[str, list[tuple[str, Confusion]]]] = {}
    for round_ in played:
        for place, run in enumerate(round_.runs):
            counts = [(case.name, case.networks[place]) for case in scored[round_.name]]
            subjects.setdefault(run.member.name, {})[round_.name] = counts
    if played and all(len(round_.runs) > 1 for round_ in played):
        subjects[ENSEMBLE] = {r.name: [(case.name, case.together) for case in scored[r.name]] for r in played}
    centres = {case.name: case.centre or "" for round_ in played for case in round_.held_out}
    return {subject: _score(subject, counts, centres) for subject, counts in subjects.items()}


def _score(subject: str, rounds: Mapping[str, list[tuple[str, Confusion]]], centres: Mapping[str, str]) -> Score:
    each = {name: summary(counts) for name, counts in rounds.items()}
    cases = [case for counts in rounds.values() for case in counts]
    pooled = summary(cases)
    values = {key: [one[key] for one in each.values() if one[key] is not None] for key in pooled if key != "count"}
    spread = {key: float(np.std(found)) for key, found in values.items() if len(found) > 1}
    apart = {}
    for centre in sorted(set(centres.values())) if len(set(centres.values())) > 1 else ():
        apart[centre] = summary([case for case in cases if centres[case[0]] == centre])
    return Score(subject, each, pooled, spread, apart)


def calibrations(rounds: Sequence[Round], scored: Scored) -> dict[str, Calibration | None]:
    """The temperature of each run's network by the run's name, from cases that it held out; None where none fits.

    Where a last round has trained on all cases, a member's temperature is that of all its networks before.
    """
    found: dict[str, Calibration | None] = {}
    for round_ in rounds:
        for place, run in enumerate(round_.runs):
            patients: dict[str, list[Histogram]] = {}
            for other in calibrating(round_, rounds):
                at = place if other is round_ else [same.member for same in other.runs].index(run.member)
                whose = {case.name: case.patient for case in other.held_out}
                for case in scored.get(other.name, ()):
                    patients.setdefault(whose[case.name], []).append(case.networks[at].histogram)
            groups = [np.sum(histograms, axis=0) for histograms in patients.values()]
            found[run.name] = calibration_of(groups) if groups else None
    return found


def calibrating(round_: Round, rounds: Sequence[Round]) -> list[Round]:
    """The rounds whose held-out cases calibrate the networks of a round: itself, or all others of the last one."""
    return [other for other in rounds if other.held_out] if round_.name == FINAL else [round_]


def best_member(scores: Mapping[str, Score]) -> str | None:
    """The member of the highest pooled Dice coefficient."""
    members = [name for name in scores if name != ENSEMBLE]
    return max(members, key=lambda name: scores[name].pooled["pooled_dice"], default=None)


def verdict(scores: Mapping[str, Score]) -> str | None:
    """Whether the ensemble beats its best member, in a sentence; None where there is no ensemble to score."""
    best = best_member(scores)
    if best is None or ENSEMBLE not in scores:
        return None
    ours, theirs = (scores[name].pooled["pooled_dice"] for name in (ENSEMBLE, best))
    says = "beats" if ours > theirs else "does not beat"
    return f"The ensemble (pooled Dice {ours:.3f}) {says} its best member, {best} ({theirs:.3f})."


def score_rows(rounds: Sequence[Round], scored: Scored) -> str:
    """A CSV table: one line per case and network, and per case and ensemble."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["round", "case", "patient", "network", "dice", "true_positive_px", "false_positive_px",
                    "false_negative_px", "true_negative_px", "lesion_px_outside_tissue"])  # fmt: skip
    for round_ in rounds:
        patients = {case.name: case.patient for case in round_.held_out}
        for case in scored.get(round_.name, ()):
            for name, counts in _named(round_, case):
                wrong, right = (int(number) for number in counts.found)
                table.writerow([round_.name, case.name, patients[case.name], name, f"{counts.dice:.4f}", right, wrong,
                                counts.positives - right, counts.negatives - wrong, case.missed_px])  # fmt: skip
    return text.getvalue()


def _named(round_: Round, case: CaseScore) -> Iterator[tuple[str, Confusion]]:
    yield from zip((run.name for run in round_.runs), case.networks, strict=True)
    if len(round_.runs) > 1:
        yield ENSEMBLE, case.together


def score_table(scores: Mapping[str, Score]) -> str:
    """A Markdown table: value ± spread over the rounds, for each member and the ensemble, and by centre."""
    lines = ["| | cases | " + " | ".join(name.replace("_", " ") for name in COLUMNS) + " |", "|---" * 7 + "|"]
    for score in scores.values():
        cells = (_cell(score.pooled[name], score.spread.get(name)) for name in COLUMNS)
        lines.append(f"| {score.subject} | {score.pooled['count']} | {' | '.join(cells)} |")
        for centre, numbers in score.centres.items():
            cells = (_cell(numbers[name], None) for name in COLUMNS)
            lines.append(f"| {score.subject}, {centre or 'no centre'} | {numbers['count']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None, spread: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if spread is None else f"{value:.3f} ± {spread:.3f}"


def calibration_table(records: Mapping[str, Mapping[str, Any] | None]) -> str:
    """A Markdown table: temperature, calibration error and Brier score of each run; empty where none has any."""
    rows = []
    for name, record in records.items():
        if record is not None:
            error, brier = record["expected_calibration_error"], record["brier"]
            numbers = (record["temperature"], error["before"], error["after"], brier["before"], brier["after"])
            rows.append(f"| {name} | " + " | ".join(f"{number:.3f}" for number in numbers) + " |")
    head = "| run | temperature | calibration error before | after | Brier score before | after |"
    return "\n".join([head, "|---" * 6 + "|", *rows]) if rows else ""
