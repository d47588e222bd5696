"""What a training of tile classifiers leaves besides networks: cards with scores, `results.json`, tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from digipath.files import write_atomically, write_json
from digipath.training.grading_cards import TOLD, metrics_of, modular_card, network_card, pair_metrics
from digipath.training.grading_plan import TilePlan, Tiles
from digipath.training.grading_results import TILE, Compared, Scores, by_way, score_rows, values


def write_outcome(
    plan: TilePlan,
    folder: Path,
    drawn: Mapping[str, Tiles],
    records: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Scores],
    *,
    compared: Sequence[Compared],
    seconds: float,
) -> None:
    """Write cards with scores, `results.json`, `scores.csv` and `summary.md`.

    Args:
        drawn: tiles by part. records: of the networks by their names. found: scores of the graders by theirs.
        compared: these with each other.
        seconds: that the last attempt took.
    """
    names = _write_cards(plan, folder / "weights", drawn, records, found)
    record = {
        "name": plan.config.card.name,
        "cards": names,
        "scores": found,
        "comparisons": [one.to_record() for one in compared],
        "graders": {
            run.name: {
                "arm": run.arm.name, "scheme": run.scheme, "repeat": run.repeat + 1,
                "card": plan.name(run), "networks": [network.name for network in run.networks],
            }
            for run in plan.runs
        },
        "runs": records,
        "plan": plan.lines(drawn),
        "manifest": {"file": plan.manifest.path.name, "sha256": plan.manifest.sha256},
        "config": plan.config.record(),
        "minutes_of_fitting": round(sum(run["minutes"] for run in records.values()), 2),
        "minutes_of_last_attempt": round(seconds / 60, 2),
    }  # fmt: skip
    write_atomically(folder / "scores.csv", score_rows(plan.runs, found))
    write_atomically(folder / "summary.md", _summary(plan, drawn, records, found, compared))
    write_json(folder / "results.json", record)


def _write_cards(
    plan: TilePlan,
    folder: Path,
    drawn: Mapping[str, Tiles],
    records: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Scores],
) -> list[str]:
    """Write all cards anew; returns their names, the shipped one first."""
    cards = []
    for run in plan.runs:
        for network in run.networks:
            metrics = metrics_of(plan, run, found, drawn, network)
            cards.append(network_card(plan, network, records[network.name], drawn, metrics=metrics))
        if len(run.networks) > 1:
            cards.append(modular_card(plan, run, metrics=pair_metrics(plan, run, found, drawn)))
    for card in cards:
        write_json(folder / f"{card['name']}.json", card)
    return sorted((card["name"] for card in cards), key=lambda name: name != plan.config.card.name)


def _summary(
    plan: TilePlan,
    drawn: Mapping[str, Tiles],
    records: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Scores],
    compared: Sequence[Compared],
) -> str:
    """`summary.md`: the plan, the scores, the comparisons, and where the curves are."""
    card = plan.config.card
    lines = [f"# {card.name}", "", card.task, "", *(f"- {line}" for line in plan.lines(drawn)), ""]
    how = "± standard deviation over repeats; slides and cases by the mean vote of their drawn tiles"
    lines += [f"Scores on the test tiles, {how}.", ""]
    ways = {" ".join(way): names for way, names in by_way(plan.runs).items()}
    for question in found[plan.shipped.name]:
        lines += [f"## {question[0].upper()}{question[1:]}", "", *score_table(ways, found, question), ""]
    if told := [one for one in compared if one.level == TILE and plan.config.repeats > 1]:
        lines += ["## Comparisons, by tiles", "", "Student's two-sided t-test over repeats (Truong et al. 2020).", ""]
        lines += [*comparison_table(told), ""]
    lines += ["| network | epochs | best epoch | stopped | minutes | curves |", "|---|---|---|---|---|---|"]
    for name, run in records.items():
        cells = [name, run["epochs"], run["best_epoch"], run["stopped"], run["minutes"]]
        lines.append(f"| {' | '.join(map(str, cells))} | [curves](runs/{name}/curves.png) |")
    return "\n".join([*lines, "", card.intended_use, ""])


def score_table(ways: Mapping[str, Sequence[str]], found: Mapping[str, Scores], question: str) -> list[str]:
    """Lines of a table in Markdown: a row for each way to train and level, means over what was trained so, by name."""
    rows = [f"| | level | {' | '.join(TOLD.values())} |", "|---" * (len(TOLD) + 2) + "|"]
    for way, names in ways.items():
        for level in found[names[0]][question]:
            cells = (_cell(values(names, found, question, level, metric)) for metric in TOLD)
            rows.append(f"| {way} | {level} | {' | '.join(cells)} |")
    return rows


def _cell(each: Sequence[float]) -> str:
    if not each:
        return "–"
    mean = statistics.fmean(each)
    return f"{mean:.3f}" if len(each) == 1 else f"{mean:.3f} ± {statistics.stdev(each):.3f}"


def comparison_table(compared: Sequence[Compared]) -> list[str]:
    """Lines of a table in Markdown: a row for each comparison."""
    rows = ["| question | metric | one | other | one's mean | other's mean | p | Welch's p |", "|---" * 8 + "|"]
    for one in compared:
        means = (f"{mean:.3f}" for mean in one.found.means)
        chances = ("–" if p is None else f"{p:.3g}" for p in (one.found.p, one.found.welch_p))
        metric = TOLD[one.metric]
        rows.append(f"| {' | '.join([one.question, metric, one.first, one.second, *means, *chances])} |")
    return rows
