"""Card records of trained tile classifiers and of modular pairs, as `weights/card.schema.json` wants them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from digipath.training.bag_plan import BagPlan
from digipath.training.cases import PARTS, PatientCase
from digipath.training.config import CardText
from digipath.training.grading_config import ELSEWHERE
from digipath.training.grading_plan import GraderRun, NetworkRun, TilePlan, Tiles, counted, tiles_by_class
from digipath.training.grading_results import ALL, REST, TILE, TOP, Scores, by_way, values

DIGITS = 4
UNCALIBRATED = "Not calibrated: probabilities rank tiles, they are no frequencies."
COARSE = (
    "Tiles have the label of their whole slide where nothing is outlined: some of what it learned, and of what scored "
    "it, is tissue of another grade or none."
)
EACH_A_PATIENT = (
    "Each image of the folder counted as a patient: where several are of one, or of one slide, the metrics flatter."
)
TOLD = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_accuracy": "macro-averaged accuracy",
    "kappa": "kappa",
    "macro_f1": "macro F1",
    "macro_auroc": "macro AUROC",
    "macro_auroc_by_threshold": "macro AUROC by threshold",
}


def network_card(
    plan: TilePlan,
    run: NetworkRun,
    trained: Mapping[str, Any],
    drawn: Mapping[str, Tiles],
    *,
    metrics: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The card of one trained network, for the weights file beside it.

    Args:
        trained: the run's record: `multiple`, `bytes` and `sha256` of its weights, epochs, minutes, versions, ….
        metrics: from `metrics_of`.
    """
    name, network = plan.name(run), run.arm.network
    scaling = {"scale": network.scale, "offset": network.offset, "multiple": trained["multiple"]}
    own = {part: run.tiles(tiles) for part, tiles in drawn.items()}
    settings = {
        "tiles": plan.config.record()["tiles"],
        "augmentation": None if run.arm.augmentation is None else asdict(run.arm.augmentation),
        "schedule": {key: value for key, value in trained["schedule"].items() if key not in ELSEWHERE},
    }
    kept = ("epochs", "best_epoch", "stopped", "minutes", "encoder", "versions")
    return {
        **heading(plan.config.card, name, "network", "tile", run.classes),
        "network": network.spec(len(run.classes)),
        "input": {**_input(plan), **scaling},
        "file": f"{name}.weights.h5",
        "urls": [],
        "bytes": trained["bytes"],
        "sha256": trained["sha256"],
        "sha256_reason": None,
        "training": {
            **training_of(plan),
            "tiles": {part: tiles_by_class(tiles, run.classes) for part, tiles in own.items()},
            "seed": run.seed,
            **{key: trained[key] for key in kept},
            "settings": settings,
        },
        **ending(plan.config.card, metrics, _limits(plan)),
    }


def modular_card(plan: TilePlan, run: GraderRun, *, metrics: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The card of two networks that answer as one."""
    network = run.arm.network
    return {
        **heading(plan.config.card, plan.name(run), "modular", "tile", plan.config.data.classes),
        "members": [plan.name(one) for one in run.networks],
        "input": {**_input(plan), "scale": network.scale, "offset": network.offset},
        "training": {**training_of(plan), "seed": [one.seed for one in run.networks]},
        **ending(plan.config.card, metrics, _limits(plan)),
    }


def metrics_of(
    plan: TilePlan, run: GraderRun, found: Mapping[str, Scores], drawn: Mapping[str, Tiles], network: NetworkRun
) -> list[dict[str, Any]]:
    """Metrics of a grader, or of one network of a pair, on the test tiles.

    The network that tells the highest class from the rest is what the pair answers to that question; so is the other.
    """
    asked = [ALL, TOP, REST] if len(run.networks) == 1 else [[TOP], [REST]][run.networks.index(network)]
    return _metrics(plan, run, found, drawn, asked)


def pair_metrics(
    plan: TilePlan, run: GraderRun, found: Mapping[str, Scores], drawn: Mapping[str, Tiles]
) -> list[dict[str, Any]]:
    """Metrics of a modular pair on the test tiles."""
    return _metrics(plan, run, found, drawn, [ALL, TOP, REST])


def _metrics(
    plan: TilePlan, run: GraderRun, found: Mapping[str, Scores], drawn: Mapping[str, Tiles], asked: Sequence[str]
) -> list[dict[str, Any]]:
    same = by_way(plan.runs)[run.arm.name, run.scheme]
    split = f"{split_of(plan)}; test: held out, which nothing in training saw"
    if len(same) > 1:
        split += f"; spread: standard deviation over {len(same)} trainings with other seeds"
    tiles = tiles_by_class(drawn["test"], plan.config.data.classes)
    drawn_from = f"tiles drawn from {counted(plan.split.test)} of {plan.manifest.path.name}: {tiles}"

    def data(level: str, count: int) -> str:
        return drawn_from if level == TILE else f"{count} {level}s by their {drawn_from}"

    own = {question: found[run.name][question] for question in asked if question in found[run.name]}
    return metrics_told(own, data, split, lambda *asked: values(same, found, *asked))


def metrics_told(
    found: Scores,
    data: Callable[[str, int], str],
    split: str,
    spread: Callable[[str, str, str], Sequence[float]] = lambda *_: (),
) -> list[dict[str, Any]]:
    """What a card tells of scores, each with its bootstrap interval.

    Args:
        data: (level, count) → of what they are. split: how that was parted from what was trained on.
        spread: (question, level, metric) → values whose standard deviation is told, if there are several.
    """
    made = []
    for question, levels in found.items():
        for level, record in levels.items():
            for key, told in TOLD.items():
                value, pair = record["metrics"][key], record["intervals"]["intervals"][key]
                if value is None:
                    continue
                about: dict[str, Any] = {} if pair is None else {"interval": [round(end, DIGITS) for end in pair]}
                if len(each := spread(question, level, key)) > 1:
                    about["spread"] = round(float(np.std(each, ddof=1)), DIGITS)
                name = f"{told}, {level}s" + ("" if question == ALL else f", {question}")
                of = {"data": data(level, record["scores"]["count"]), "split": split}
                made.append({"name": name, "value": round(value, DIGITS), **about, **of})
    return made


def heading(card: CardText, name: str, kind: str, output: str, classes: Sequence[str]) -> dict[str, Any]:
    """How a card begins. output: what a network answers for, "tile", "bag" or "volume"."""
    said = {"schema": 1, "name": name, "kind": kind, "task": card.task, "output": output}
    # Of two classes the schema wants one called positive: the higher.
    positive = classes[-1] if len(classes) == 2 else None
    return {**said, "classes": list(classes), "positive": positive, "activation": "softmax"}


def _input(plan: TilePlan) -> dict[str, Any]:
    asked, stain = plan.config.tiles, plan.config.stain
    tile = {"mpp": asked.mpp, "patch": asked.tile, "training_patch": asked.tile, "least_tissue": asked.least_tissue}
    return {"modality": "slide", **tile, "tissue": asked.tissue, "stain": stain and stain.to_record()}


def training_of(plan: TilePlan | BagPlan) -> dict[str, Any]:
    """What a card says of the cases."""
    manifest = plan.manifest
    data = f"{counted(manifest.cases)}; manifest {manifest.path.name}, sha256 {manifest.sha256}"
    parts = ", ".join(f"{part} {counted(getattr(plan.split, part))}" for part in PARTS)
    return {"data": data, "split": f"{split_of(plan)}: {parts}"}


def split_of(plan: TilePlan | BagPlan) -> str:
    """How cases were parted, in words."""
    if any(case.fold is not None for case in plan.manifest.cases):
        return "one split by patient, the manifest's own"
    return f"one split by patient, alike for every label and type, seed {plan.config.split.seed}"


def few_slides(cases: Sequence[PatientCase]) -> str:
    """The limit that comes with the number of cases."""
    return f"Made from {counted(cases)}: other stains, scanners, organs and laboratories are untested."


def ending(card: CardText, metrics: Sequence[Mapping[str, Any]], limits: Sequence[str]) -> dict[str, Any]:
    """How a card ends. limits: besides those of the configuration."""
    return {
        "licence": card.licence,
        "citation": card.citation,
        "metrics": list(metrics),
        "calibration": None,
        "conformal": None,
        "readouts": [],
        "intended_use": card.intended_use,
        "limits": [*card.limits, *limits],
    }


def _limits(plan: TilePlan) -> list[str]:
    few = few_slides(plan.manifest.cases)
    if plan.config.data.folder is not None:
        return [few, EACH_A_PATIENT, UNCALIBRATED]
    coarse = any(case.annotation is None for case in plan.manifest.cases)
    return [few, COARSE, UNCALIBRATED] if coarse else [few, UNCALIBRATED]
