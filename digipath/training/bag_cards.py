"""Card records of trained bag classifiers and of their ensemble, as `weights/card.schema.json` wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from digipath.training.bag_plan import BagPlan, BagRun, Snapshot
from digipath.training.bag_results import Chosen
from digipath.training.encoders import encoder_name
from digipath.training.grading_cards import (
    DIGITS,
    TOLD,
    ending,
    few_slides,
    heading,
    metrics_told,
    split_of,
    training_of,
)
from digipath.training.grading_plan import cases_by_class
from digipath.training.grading_results import Scores

UNCALIBRATED = "Not calibrated: probabilities rank slides, they are no frequencies."
CALLED = "One network calls the hard vote over its groups of tiles, several their soft vote; AUROC is of the means."
RANDOM = "It sees tiles drawn at random: another seed may give another answer, more so on large slides."


def network_card(
    plan: BagPlan,
    run: BagRun,
    snapshot: Snapshot,
    trained: Mapping[str, Any],
    *,
    metrics: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The card of one snapshot, for the weights file beside it.

    Args:
        trained: the run's record, see `digipath.training.bag_runs.train_bags`.
        metrics: from `validation_metrics` and `test_metrics`.
    """
    name, config, file = plan.name(snapshot), plan.config, trained["snapshots"][snapshot.name]
    kept = ("epochs", "minutes", "encoder", "versions", "class_weights")
    settings = {
        "bags": config.record()["bags"],
        "network": asdict(config.network),
        "augmentation": _augmentation(plan),
        "schedule": dict(trained["schedule"]),
    }
    return {
        **heading(plan.config.card, name, "network", "bag", plan.config.data.classes),
        "network": config.network.spec(len(config.data.classes), config.bags.crop),
        "input": _input(plan, run, trained),
        "file": f"{name}.weights.h5",
        "urls": [],
        "bytes": file["bytes"],
        "sha256": file["sha256"],
        "sha256_reason": None,
        "training": {
            **training_of(plan),
            "seed": run.seed,
            "epoch": file["epoch"],
            **{key: trained[key] for key in kept},
            "settings": settings,
        },
        **ending(plan.config.card, metrics, _limits(plan)),
    }


def ensemble_card(
    plan: BagPlan, chosen: Chosen, records: Mapping[str, Mapping[str, Any]], *, metrics: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The card of the snapshots that stay, two or more; its input is that of the finest of them."""
    runs = {name: plan.runs_by_snapshot[name] for name in chosen.kept}
    finest = min(runs.values(), key=lambda run: run.mpp)
    seeds = dict.fromkeys(run.seed for run in runs.values())
    return {
        **heading(plan.config.card, plan.config.card.name, "ensemble", "bag", plan.config.data.classes),
        "members": [f"{plan.config.card.name}-{name}" for name in runs],
        "input": _input(plan, finest, records[finest.name]),
        "training": {
            **training_of(plan),
            "seed": list(seeds),
            "mpps": sorted({run.mpp for run in runs.values()}),
            "left_out": [name for name in chosen.validation if name not in chosen.kept],
            "chosen_by": f"{plan.config.ensemble.measure} on the validation slides",
        },
        **ending(plan.config.card, metrics, _limits(plan)),
    }


def validation_metrics(plan: BagPlan, chosen: Chosen, name: str) -> list[dict[str, Any]]:
    """What a snapshot scored on the validation slides, by which it stayed or was left out."""
    role = "stayed in" if name in chosen.kept else "was left out of"
    split = f"{split_of(plan)}; validation: not trained on, by these slides it {role} the ensemble"
    return [
        _metric(f"{TOLD[key]}, slides, validation", value, _data(plan, "validation"), split)
        for key, value in chosen.validation[name].items()
        if key in TOLD and value is not None
    ]


def test_metrics(plan: BagPlan, found: Scores) -> list[dict[str, Any]]:
    """Metrics of a snapshot, or of the ensemble, on the test slides, with bootstrap intervals by case."""
    split = f"{split_of(plan)}; test: held out, which nothing in training or choosing saw"
    return metrics_told(found, lambda _, __: _data(plan, "test"), split)


def _metric(name: str, value: float, data: str, split: str) -> dict[str, Any]:
    return {"name": name, "value": round(value, DIGITS), "data": data, "split": split}


def _data(plan: BagPlan, part: str) -> str:
    return f"{plan.manifest.path.name}: {cases_by_class(getattr(plan.split, part), plan.config.data.classes)}"


def _input(plan: BagPlan, run: BagRun, trained: Mapping[str, Any]) -> dict[str, Any]:
    asked, stain = plan.config.bags, plan.config.stain
    return {
        "modality": "slide",
        "mpp": run.mpp,
        "patch": asked.crop,
        "tile": asked.tile,
        "bag": asked.bag,
        "groups": asked.groups,
        "augment": asked.augment,
        "least_tissue": asked.least_tissue,
        "tissue": asked.tissue,
        "augmentation": _augmentation(plan),
        "scale": trained["scale"],
        "offset": trained["offset"],
        "stain": stain and stain.to_record(),
    }


def _augmentation(plan: BagPlan) -> dict[str, Any] | None:
    return None if plan.config.augmentation is None else asdict(plan.config.augmentation)


def _limits(plan: BagPlan) -> list[str]:
    network, limits = plan.config.network, [few_slides(plan.manifest.cases), RANDOM, UNCALIBRATED, CALLED]
    if not network.frozen:
        return limits
    begins = "random weights" if network.encoder is None else f"those of {encoder_name(network.encoder)}"
    frozen = f"Only pooling and head were trained on slides; the embedder's weights are {begins}."
    return [*limits, frozen]
