"""What a training by bags of tiles leaves besides networks: cards with scores, `results.json`, tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from digipath.files import write_atomically, write_json
from digipath.measure.repeated_runs import AblationRow
from digipath.training.bag_cards import CALLED, ensemble_card, network_card, test_metrics, validation_metrics
from digipath.training.bag_plan import BagPlan, CellsBySlide
from digipath.training.bag_results import LEVELS, BagScores, Chosen, score_rows
from digipath.training.grading_cards import TOLD

SHOWN = ("accuracy", "balanced_accuracy", "kappa", "micro_f1", "macro_auroc")


def write_outcome(
    plan: BagPlan,
    folder: Path,
    records: Mapping[str, Mapping[str, Any]],
    chosen: Chosen,
    found: BagScores,
    *,
    cells: Mapping[float, CellsBySlide],
    seconds: float,
) -> None:
    """Write cards with scores, `results.json`, `scores.csv` and `summary.md`.

    Args:
        records: of the runs by their names. cells: tiles by magnification and slide.
        seconds: that the last attempt took.
    """
    names = _write_cards(plan, folder / "weights", records, chosen, found)
    lines = plan.lines(cells)
    record = {
        "name": plan.config.card.name,
        "cards": names,
        "scores": found.each,
        "validation": dict(chosen.validation),
        "kept": list(chosen.kept),
        "ablation": [row.to_record() for row in found.ablation],
        "runs": records,
        "plan": lines,
        "manifest": {"file": plan.manifest.path.name, "sha256": plan.manifest.sha256},
        "config": plan.config.record(),
        "minutes_of_fitting": round(sum(run["minutes"] for run in records.values()), 2),
        "minutes_of_last_attempt": round(seconds / 60, 2),
    }
    write_atomically(folder / "scores.csv", score_rows(plan, found))
    write_atomically(folder / "summary.md", _summary(plan, lines, records, chosen, found))
    write_json(folder / "results.json", record)


def _write_cards(
    plan: BagPlan, folder: Path, records: Mapping[str, Mapping[str, Any]], chosen: Chosen, found: BagScores
) -> list[str]:
    """Write all cards anew; returns their names, the shipped one first."""
    cards = []
    for run in plan.runs:
        for snapshot in run.snapshots:
            metrics = validation_metrics(plan, chosen, snapshot.name)
            if snapshot.name in found.members:
                metrics += test_metrics(plan, found.members[snapshot.name])
            cards.append(network_card(plan, run, snapshot, records[run.name], metrics=metrics))
    shipped = plan.config.card.name
    if len(chosen.kept) > 1:
        cards.append(ensemble_card(plan, chosen, records, metrics=test_metrics(plan, found.together)))
    else:  # the only one that stays has the short name too
        alone = f"{shipped}-{chosen.kept[0]}"
        cards.append({**next(card for card in cards if card["name"] == alone), "name": shipped})
    for card in cards:
        write_json(folder / f"{card['name']}.json", card)
    return sorted((card["name"] for card in cards), key=lambda name: name != shipped)


def _summary(
    plan: BagPlan, lines: list[str], records: Mapping[str, Mapping[str, Any]], chosen: Chosen, found: BagScores
) -> str:
    """`summary.md`: the plan, who stays, the scores, the ablation, and where the curves are."""
    card = plan.config.card
    told = [f"# {card.name}", "", card.task, "", *(f"- {line}" for line in lines), ""]
    told += ["Snapshots on the validation slides:", "", *_chosen_table(chosen), ""]
    told += ["Scores on the test slides, cases by the mean of their slides; in brackets 95 % intervals by case."]
    told += [CALLED, ""]
    for question in found.together:
        told += [f"## {question[0].upper()}{question[1:]}", "", *_score_table(found, question), ""]
    if len(found.ablation) > 1:
        told += ["## Magnifications left out in turn, by slides", "", *_ablation_table(found.ablation), ""]
    told += ["| network | epochs | minutes | curves |", "|---|---|---|---|"]
    for name, run in records.items():
        told.append(f"| {name} | {run['epochs']} | {run['minutes']} | [curves](runs/{name}/curves.png) |")
    return "\n".join([*told, "", card.intended_use, ""])


def _chosen_table(chosen: Chosen) -> Iterator[str]:
    yield f"| snapshot | stays | {' | '.join(map(_title, SHOWN))} |"
    yield "|---" * (len(SHOWN) + 2) + "|"
    for name, metrics in chosen.validation.items():
        cells = (_cell(metrics[metric]) for metric in SHOWN)
        yield f"| {name} | {'yes' if name in chosen.kept else 'no'} | {' | '.join(cells)} |"


def _score_table(found: BagScores, question: str) -> Iterator[str]:
    yield f"| | level | {' | '.join(map(_title, SHOWN))} |"
    yield "|---" * (len(SHOWN) + 2) + "|"
    for name, scores in found.each.items():
        for level in LEVELS:
            record = scores[question][level]
            intervals = record["intervals"]["intervals"]
            cells = (_cell(record["metrics"][metric], intervals[metric]) for metric in SHOWN)
            yield f"| {name} | {level} | {' | '.join(cells)} |"


def _ablation_table(rows: tuple[AblationRow, ...]) -> Iterator[str]:
    yield f"| members | {' | '.join(map(_title, SHOWN))} |"
    yield "|---" * (len(SHOWN) + 1) + "|"
    for row in rows:
        metrics = row.scores.metrics()
        who = row.kind if row.group is None else f"{row.group} {row.kind}" if row.kind == "alone" else (
            f"{row.kind} {row.group}"
        )
        yield f"| {who} | {' | '.join(_cell(metrics[metric]) for metric in SHOWN)} |"


def _title(metric: str) -> str:
    return TOLD.get(metric, metric.replace("_", " "))


def _cell(value: float | None, interval: tuple[float, float] | list[float] | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if interval is None else f"{value:.3f} ({interval[0]:.3f}–{interval[1]:.3f})"
