"""What a training leaves besides networks: cards with scores and calibration, `results.json`, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from digipath.files import write_atomically, write_json
from digipath.scoring import CaseScore
from digipath.training import results
from digipath.training.cards import (
    Score,
    calibration_record,
    card_name,
    ensemble_card,
    network_card,
    own_metrics,
    pooled_metrics,
)
from digipath.training.plan import Plan
from digipath.training.runs import FINAL, Round


def write_outcome(
    plan: Plan,
    folder: Path,
    records: Mapping[str, Mapping[str, Any]],
    scored: Mapping[str, Sequence[CaseScore]],
    *,
    seconds: float,
) -> None:
    """Write cards with scores and calibration, `results.json`, `scores.csv` and `summary.md`.

    Args:
        records: of the runs by their names. scored: held-out cases by the name of their round.
        seconds: that the last attempt took.
    """
    scores = results.gather(plan.rounds, scored)
    calibration = _calibration(plan, scored)
    names = _write_cards(plan, folder / "weights", records, scores, calibration)
    record = {
        "name": card_name(plan.config),
        "cards": names,
        "verdict": results.verdict(scores),
        "scores": {subject: asdict(score) for subject, score in scores.items()},
        "calibration": calibration,
        "rounds": {round_.name: [run.name for run in round_.runs] for round_ in plan.rounds},
        "runs": records,
        "manifest": {"file": plan.manifest.path.name, "sha256": plan.manifest.sha256},
        "config": plan.config.record(),
        "minutes_of_fitting": round(sum(run["minutes"] for run in records.values()), 2),
        "minutes_of_last_attempt": round(seconds / 60, 2),
    }
    write_atomically(folder / "scores.csv", results.score_rows(plan.rounds, scored))
    write_atomically(folder / "summary.md", _summary(plan, records, scores, calibration))
    write_json(folder / "results.json", record)


def _calibration(plan: Plan, scored: Mapping[str, Sequence[CaseScore]]) -> dict[str, dict[str, Any] | None]:
    """What the card of each run says of its calibration, by the run's name."""
    found = results.calibrations(plan.rounds, scored)
    records: dict[str, dict[str, Any] | None] = {}
    for round_ in plan.rounds:
        rounds = results.calibrating(round_, plan.rounds)
        for run in round_.runs:
            own = found[run.name]
            if own is None:
                records[run.name] = None
            else:
                records[run.name] = calibration_record(own, run, rounds, plan.config, plan.manifest)
    return records


def _write_cards(
    plan: Plan,
    folder: Path,
    records: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, Score],
    calibration: Mapping[str, Mapping[str, Any] | None],
) -> list[str]:
    """Write all cards anew; returns their names, the shipped one first."""
    config, manifest = plan.config, plan.manifest
    names = []
    for round_ in plan.rounds:
        for run in round_.runs:
            metrics = _metrics(plan, round_, scores[run.member.name]) if run.member.name in scores else []
            card = network_card(
                plan.name(run), run, records[run.name], config, manifest, metrics=metrics,
                calibration=calibration[run.name],
            )  # fmt: skip
            write_json(folder / f"{card['name']}.json", card)
            names.append(card["name"])
    if len(plan.shipped) > 1:
        members = {plan.name(run): run for run in plan.shipped}
        metrics = []
        for subject, score in reversed(list(scores.items())):  # the ensemble first
            label = None if subject == results.ENSEMBLE else subject
            metrics += pooled_metrics(score, plan.rounds, config, manifest, label=label)
        calibrated = all(calibration[run.name] for run in plan.shipped)
        card = ensemble_card(members, config, manifest, metrics=metrics, calibrated=calibrated)
        write_json(folder / f"{card['name']}.json", card)
        names.append(card["name"])
    return sorted(names, key=lambda name: name != card_name(config))


def _metrics(plan: Plan, round_: Round, score: Score) -> list[dict[str, Any]]:
    own = own_metrics(score, round_, plan.config, plan.manifest) if round_.name in score.rounds else []
    several = round_.name == FINAL or len(score.rounds) > 1
    return [*own, *(pooled_metrics(score, plan.rounds, plan.config, plan.manifest) if several else [])]


def _summary(
    plan: Plan,
    records: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, Score],
    calibration: Mapping[str, Mapping[str, Any] | None],
) -> str:
    """`summary.md`: the plan, the scores, and where the curves are."""
    lines = [f"# {card_name(plan.config)}", "", plan.config.card.task, "", *(f"- {line}" for line in plan.lines()), ""]
    if scores:
        lines += ["Scores on held-out cases; ± standard deviation over the rounds.", ""]
        lines += [results.score_table(scores), ""]
    if verdict := results.verdict(scores):
        lines += [verdict, ""]
    if table := results.calibration_table(calibration):
        lines += ["Temperatures, fitted on held-out cases; after: each patient at that of the others.", "", table, ""]
    lines += ["| run | epochs | best epoch | stopped | minutes | curves |", "|---|---|---|---|---|---|"]
    for name, run in records.items():
        cells = [name, run["epochs"], run["best_epoch"], run["stopped"], run["minutes"]]
        lines.append(f"| {' | '.join(map(str, cells))} | [curves](runs/{name}/curves.png) |")
    return "\n".join([*lines, "", plan.config.card.intended_use, ""])
