"""What a training of networks that grade MRI leaves besides networks: cards with scores, `results.json`, tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digipath.files import write_atomically, write_json
from digipath.measure.repeated_runs import Spread, across_folds
from digipath.training.grading_outcome import comparison_table, score_table
from digipath.training.grading_results import (
    CASE,
    Answers,
    Compared,
    Scores,
    by_way,
    comparisons,
    interval_cells,
    score_rows,
    scored,
)
from digipath.training.volume_cards import ensemble_card, network_card, network_metrics, run_metrics
from digipath.training.volume_plan import VolumePlan, VolumeRun

LEVELS = (CASE,)


@dataclass(frozen=True)
class VolumeScores:
    """Scores on held-out cases, with bootstrap intervals by patient.

    Attributes:
        answers: of each run, those of all its networks together.
        runs: by the run's name, over the cases of all folds. networks: by the network's name, over its own.
        compared: the runs with each other.
    """

    answers: Mapping[str, Answers]
    runs: Mapping[str, Scores]
    networks: Mapping[str, Scores]
    compared: tuple[Compared, ...]

    @classmethod
    def of(cls, plan: VolumePlan, answers: Mapping[str, Answers]) -> VolumeScores:
        """answers: of each network, by its name."""
        classes = plan.config.data.classes
        joined = {run.name: Answers.joined([answers[one.name] for one in run.networks]) for run in plan.runs}
        runs = {name: scored(one, classes, levels=LEVELS) for name, one in joined.items()}
        networks = {name: scored(one, classes, levels=LEVELS) for name, one in answers.items()}
        return cls(joined, runs, networks, tuple(comparisons(plan.runs, runs)))

    def folds(self, run: VolumeRun) -> dict[str, Scores]:
        """Of the networks of a run by their names."""
        return {network.name: self.networks[network.name] for network in run.networks}

    def across(self, run: VolumeRun, question: str) -> dict[str, Spread]:
        """Mean and standard deviation of each metric over the folds of a run."""
        return across_folds([one[question][CASE]["metrics"] for one in self.folds(run).values()])


def write_outcome(
    plan: VolumePlan, folder: Path, records: Mapping[str, Mapping[str, Any]], found: VolumeScores, *, seconds: float
) -> None:
    """Write cards with scores, `results.json`, `scores.csv` and `summary.md`.

    Args:
        records: of the networks by their names. seconds: that the last attempt took.
    """
    names = _write_cards(plan, folder / "weights", records, found)
    record = {
        "name": plan.config.card.name,
        "cards": names,
        "scores": found.runs,
        "folds": {
            run.name: {
                "networks": found.folds(run),
                "spread": {
                    question: {name: spread.to_record() for name, spread in found.across(run, question).items()}
                    for question in found.runs[run.name]
                },
            }
            for run in plan.runs
            if len(run.networks) > 1
        },
        "comparisons": [one.to_record() for one in found.compared],
        "graders": {
            run.name: {
                "arm": run.arm.name, "scheme": run.scheme, "repeat": run.repeat + 1,
                "card": plan.name(run), "networks": [network.name for network in run.networks],
            }
            for run in plan.runs
        },
        "runs": records,
        "plan": plan.lines(),
        "manifest": {"file": plan.manifest.path.name, "sha256": plan.manifest.sha256},
        "config": plan.config.record(),
        "minutes_of_fitting": round(sum(run["minutes"] for run in records.values()), 2),
        "minutes_of_last_attempt": round(seconds / 60, 2),
    }  # fmt: skip
    write_atomically(folder / "scores.csv", score_rows(plan.runs, found.runs))
    write_atomically(folder / "summary.md", _summary(plan, records, found))
    write_json(folder / "results.json", record)


def _write_cards(
    plan: VolumePlan, folder: Path, records: Mapping[str, Mapping[str, Any]], found: VolumeScores
) -> list[str]:
    """Write all cards anew; returns their names, the shipped one first."""
    cards = []
    for run in plan.runs:
        metrics = run_metrics(plan, run, found.runs, found.folds(run))
        for network in run.networks:
            own = metrics if len(run.networks) == 1 else network_metrics(plan, network, found.networks[network.name])
            cards.append(network_card(plan, network, records[network.name], metrics=own))
        if len(run.networks) > 1:
            cards.append(ensemble_card(plan, run, metrics=metrics))
    for card in cards:
        write_json(folder / f"{card['name']}.json", card)
    return sorted((card["name"] for card in cards), key=lambda name: name != plan.config.card.name)


def _summary(plan: VolumePlan, records: Mapping[str, Mapping[str, Any]], found: VolumeScores) -> str:
    """`summary.md`: the plan, the scores, those over folds, the comparisons, and where the curves are."""
    card, folds = plan.config.card, plan.config.split.folds
    lines = [f"# {card.name}", "", card.task, "", *(f"- {line}" for line in plan.lines()), ""]
    scored_on = "the test cases" if folds is None else f"the cases of all {folds} folds, each by the network without it"
    lines += [f"Scores on {scored_on}, ± standard deviation over repeats.", ""]
    ways = {" ".join(way): names for way, names in by_way(plan.runs).items()}
    networks = {run.name: [network.name for network in run.networks] for run in plan.runs}
    for question, levels in found.runs[plan.shipped.name].items():
        lines += [f"## {question[0].upper()}{question[1:]}", "", *score_table(ways, found.runs, question), ""]
        if folds is not None:
            lines += ["Mean ± standard deviation over the folds.", ""]
            lines += [*score_table(networks, found.networks, question), ""]
        lines += [f"Of {plan.shipped.name}, with 95 % intervals by patient:", "", "| score | value | from | to |"]
        lines += ["|---|---|---|---|", *(f"| {' | '.join(cells)} |" for cells in interval_cells(levels[CASE])), ""]
    if plan.config.repeats > 1 and found.compared:
        lines += ["## Comparisons", "", "Student's two-sided t-test over repeats.", ""]
        lines += [*comparison_table(found.compared), ""]
    lines += ["| network | epochs | best epoch | stopped | minutes | curves |", "|---|---|---|---|---|---|"]
    for name, run in records.items():
        cells = [name, run["epochs"], run["best_epoch"], run["stopped"], run["minutes"]]
        lines.append(f"| {' | '.join(map(str, cells))} | [curves](runs/{name}/curves.png) |")
    return "\n".join([*lines, "", card.intended_use, ""])
