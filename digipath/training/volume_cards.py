"""Card records of networks that grade MRI, and of those of all folds, as `weights/card.schema.json` wants them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from digipath.training.encoders import encoder_name
from digipath.training.grading_cards import ending, heading, metrics_told
from digipath.training.grading_plan import counted
from digipath.training.grading_results import Scores, by_way, values
from digipath.training.volume_config import VOXELS, VolumeArm
from digipath.training.volume_manifest import VolumeCase
from digipath.training.volume_plan import NetworkRun, VolumePlan, VolumeRun
from digipath.volume_rois import BRAIN, SLICE

UNCALIBRATED = "Not calibrated: probabilities rank cases, they are no frequencies."
VOXELS_UNCALIBRATED = "Not calibrated: probabilities rank voxels, they are no frequencies."
HELD_OUT = "held out, which nothing in training saw"
POOLED = (
    "value over the cases of {} held-out folds, each scored by the network trained without it; what is shipped "
    "together has seen every fold, so these are the scores of its making, not its own"
)
OUTLINED = "In training and scoring the tumour was outlined by people; where a network finds it, grades may differ."


def network_card(
    plan: VolumePlan, run: NetworkRun, trained: Mapping[str, Any], *, metrics: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The card of one network, for the weights file beside it.

    Args:
        trained: the run's record, see `digipath.training.volume_runs.train_network`.
        metrics: from `network_metrics`.
    """
    name, classes = plan.name(run), plan.config.data.classes
    kept = ("epochs", "best_epoch", "stopped", "minutes", "encoder", "class_weights", "versions")
    schedule = {key: value for key, value in trained["schedule"].items() if key not in plan.config.elsewhere}
    return {
        **heading(plan.config.card, name, "network", run.arm.output, classes),
        "network": run.arm.spec(len(classes)),
        "input": _input(plan, run.arm),
        "file": f"{name}.weights.h5",
        "urls": [],
        "bytes": trained["bytes"],
        "sha256": trained["sha256"],
        "sha256_reason": None,
        "training": {
            "data": _data(plan),
            "split": f"{split_of(plan)}; {_parts(run)}",
            "seed": run.seed,
            **{key: trained[key] for key in kept if key in trained},
            "settings": {**run.arm.settings, "schedule": schedule},
        },
        **ending(plan.config.card, metrics, _limits(plan, run.arm)),
    }


def ensemble_card(plan: VolumePlan, run: VolumeRun, *, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The card of the networks of all folds together."""
    return {
        **heading(plan.config.card, plan.name(run), "ensemble", run.arm.output, plan.config.data.classes),
        "members": [plan.name(network) for network in run.networks],
        "input": _input(plan, run.arm),
        "training": {"data": _data(plan), "split": split_of(plan), "seed": [one.seed for one in run.networks]},
        **ending(plan.config.card, metrics, _limits(plan, run.arm)),
    }


def network_metrics(plan: VolumePlan, run: NetworkRun, found: Scores) -> list[dict[str, Any]]:
    """Metrics of one network on the cases that it was tested on."""
    return metrics_told(found, _told(plan, run.split.test), f"{split_of(plan)}; {HELD_OUT}")


def run_metrics(
    plan: VolumePlan, run: VolumeRun, found: Mapping[str, Scores], folds: Mapping[str, Scores]
) -> list[dict[str, Any]]:
    """Metrics of a run: of one network on its test cases, or of those of all folds on all cases together.

    Args:
        found: scores of all runs by name. folds: those of this run's networks by theirs.
    """
    split = f"{split_of(plan)}; {HELD_OUT if len(folds) == 1 else POOLED.format(len(folds))}"
    same, of, over = [*folds], folds, "the folds"
    if len(folds) == 1:
        same, of = by_way(plan.runs)[run.arm.name, run.scheme], found
        over = f"{len(same)} trainings with other seeds"
    split += f"; spread: standard deviation over {over}" if len(same) > 1 else ""
    tested = [case for network in run.networks for case in network.split.test]
    return metrics_told(found[run.name], _told(plan, tested), split, lambda *asked: values(same, of, *asked))


def split_of(plan: VolumePlan) -> str:
    """How cases were parted, in words."""
    asked = plan.config.split
    own = any(case.fold is not None for case in plan.manifest.cases)
    drawn = "the manifest's own" if own else f"alike for every label and type, seed {asked.seed}"
    if asked.folds is None:
        return f"one split by patient, {drawn}"
    validates = f"; of the other folds {asked.validation:g} validates" if asked.validation else ""
    return f"{asked.folds}-fold cross-validation by patient, {drawn}{validates}"


def _parts(run: NetworkRun) -> str:
    named = {"trained": run.split.train, "validated": run.split.validation, "tested": run.split.test}
    return ", ".join(f"{what} on {counted(cases, 'case')}" for what, cases in named.items() if cases)


def _told(plan: VolumePlan, cases: Sequence[VolumeCase]) -> Callable[[str, int], str]:
    told = f"{plan.manifest.path.name}: {plan.counted(cases)}"
    return lambda _level, _count: told


def _data(plan: VolumePlan) -> str:
    manifest = plan.manifest
    return f"{counted(manifest.cases, 'case')}; manifest {manifest.path.name}, sha256 {manifest.sha256}"


def _input(plan: VolumePlan, arm: VolumeArm) -> dict[str, Any]:
    found = {"modality": "volume", **arm.rule.to_record()}
    if arm.rule.roi == SLICE:
        found |= {"scale": arm.network.scale, "offset": arm.network.offset}
    if arm.rule.roi != BRAIN and (segmenter := encoder_name(plan.config.segmenter)) is not None:
        found["segmenter"] = segmenter
    return found


def _limits(plan: VolumePlan, arm: VolumeArm) -> list[str]:
    made = f"Made from {counted(plan.manifest.cases, 'case')}: other scanners, protocols and hospitals are untested."
    if arm.output == VOXELS:
        return [made, VOXELS_UNCALIBRATED]
    return [made, UNCALIBRATED] if arm.rule.roi == BRAIN else [made, OUTLINED, UNCALIBRATED]
