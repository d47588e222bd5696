"""What a training of networks that find tumours leaves besides networks: cards with scores, `results.json`, tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from digipath.files import write_atomically, write_json
from digipath.training.grading_cards import DIGITS
from digipath.training.grading_results import by_way
from digipath.training.tumour_results import DiceScore, Overlaps, dice_score, overlap_rows
from digipath.training.volume_cards import HELD_OUT, POOLED, ensemble_card, network_card, split_of
from digipath.training.volume_plan import VolumePlan

DICE = "Dice coefficient of whole tumours, mean over patients"


def write_outcome(
    plan: VolumePlan,
    folder: Path,
    records: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Overlaps],
    *,
    seconds: float,
) -> None:
    """Write cards with scores, `results.json`, `scores.csv` and `summary.md`.

    Args:
        records: of the networks, and found: their overlaps on test cases, by the networks' names.
        seconds: that the last attempt took.
    """
    networks = {name: dice_score(overlaps) for name, overlaps in found.items()}
    runs = {run.name: dice_score([one for of in run.networks for one in found[of.name]]) for run in plan.runs}
    names = _write_cards(plan, folder / "weights", records, runs, networks)
    record = {
        "name": plan.config.card.name,
        "cards": names,
        "scores": {name: score.to_record() for name, score in runs.items()},
        "folds": {
            run.name: {one.name: networks[one.name].to_record() for one in run.networks}
            for run in plan.runs
            if len(run.networks) > 1
        },
        "runs": records,
        "plan": plan.lines(),
        "manifest": {"file": plan.manifest.path.name, "sha256": plan.manifest.sha256},
        "config": plan.config.record(),
        "minutes_of_fitting": round(sum(run["minutes"] for run in records.values()), 2),
        "minutes_of_last_attempt": round(seconds / 60, 2),
    }
    write_atomically(folder / "scores.csv", overlap_rows(plan, found))
    write_atomically(folder / "summary.md", _summary(plan, records, runs, networks))
    write_json(folder / "results.json", record)


def _write_cards(
    plan: VolumePlan,
    folder: Path,
    records: Mapping[str, Mapping[str, Any]],
    runs: Mapping[str, DiceScore],
    networks: Mapping[str, DiceScore],
) -> list[str]:
    """Write all cards anew; returns their names, the shipped one first."""
    cards = []
    for run in plan.runs:
        for network in run.networks:
            data = f"{plan.manifest.path.name}: {plan.counted(network.split.test)}"
            metrics = [_metric(networks[network.name], data, f"{split_of(plan)}; {HELD_OUT}")]
            cards.append(network_card(plan, network, records[network.name], metrics=metrics))
        if len(run.networks) > 1:
            data = f"{plan.manifest.path.name}: {plan.counted(plan.manifest.cases)}"
            pooled = _metric(runs[run.name], data, f"{split_of(plan)}; {POOLED.format(len(run.networks))}")
            cards.append(ensemble_card(plan, run, metrics=[pooled]))
    for card in cards:
        write_json(folder / f"{card['name']}.json", card)
    return sorted((card["name"] for card in cards), key=lambda name: name != plan.config.card.name)


def _metric(score: DiceScore, data: str, split: str) -> dict[str, Any]:
    about = {} if score.spread is None else {"spread": round(score.spread, DIGITS)}
    ends = [round(end, DIGITS) for end in score.interval]
    told = f"{split}; spread: standard deviation over patients"
    return {"name": DICE, "value": round(score.mean, DIGITS), "interval": ends, **about, "data": data, "split": told}


def _summary(
    plan: VolumePlan,
    records: Mapping[str, Mapping[str, Any]],
    runs: Mapping[str, DiceScore],
    networks: Mapping[str, DiceScore],
) -> str:
    """`summary.md`: the plan, the scores, and where the curves are."""
    card = plan.config.card
    lines = [f"# {card.name}", "", card.task, "", *(f"- {line}" for line in plan.lines()), ""]
    lines += ["Dice coefficients of whole tumours, of patients that the network asked was not trained on.", ""]
    lines += [*_table(runs), ""]
    if plan.config.repeats > 1:
        ways = {" ".join(way): [runs[name].mean for name in names] for way, names in by_way(plan.runs).items()}
        lines += [f"- {way}: {_spread(means)} over {len(means)} repeats" for way, means in ways.items()]
        lines += [""]
    if plan.config.split.folds is not None:
        for run in plan.runs:
            lines += [f"- {run.name}: {_spread([networks[one.name].mean for one in run.networks])} over the folds"]
        lines += ["", *_table(networks), ""]
    lines += ["| network | epochs | best epoch | stopped | minutes | curves |", "|---|---|---|---|---|---|"]
    for name, record in records.items():
        cells = [name, record["epochs"], record["best_epoch"], record["stopped"], record["minutes"]]
        lines.append(f"| {' | '.join(map(str, cells))} | [curves](runs/{name}/curves.png) |")
    return "\n".join([*lines, "", card.intended_use, ""])


def _table(scores: Mapping[str, DiceScore]) -> Iterator[str]:
    yield "| | patients | mean | 95 % interval | standard deviation | median | least |"
    yield "|---" * 7 + "|"
    for name, score in scores.items():
        low, high = score.interval
        spread = "–" if score.spread is None else f"{score.spread:.3f}"
        cells = [f"{score.mean:.3f}", f"{low:.3f}–{high:.3f}", spread, f"{score.median:.3f}", f"{score.least:.3f}"]
        yield f"| {name} | {score.patients} | {' | '.join(cells)} |"


def _spread(means: Sequence[float]) -> str:
    return f"mean {statistics.fmean(means):.3f} ± {statistics.stdev(means):.3f}"
