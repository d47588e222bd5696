"""Card records of trained networks and of their ensembles, as `weights/card.schema.json` wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from digipath.measure.calibration import Calibration
from digipath.training.config import Config
from digipath.training.manifest import Manifest, TrainingCase
from digipath.training.runs import FINAL, Round, Run

DIGITS = 4
UNCALIBRATED = "Not calibrated: probabilities rank pixels, they are no frequencies."
CALIBRATED = (
    "Calibrated by one temperature on few cases: on other tissue probabilities may be no frequencies. The metrics are "
    "of the network as it was trained; the temperature changes no decision at 0.5, and next to nothing in the AUROC."
)
CALIBRATED_MEMBERS = (
    "Its networks are calibrated each by itself, their mean is not: where they differ it is less sure than it could "
    "be. The metrics are of the mean of the networks as they were trained, before their temperatures."
)
NAMES = {
    "mean_dice": "dice, mean per case",
    "pooled_dice": "dice, pooled pixels",
    "pooled_jaccard": "jaccard, pooled pixels",
    "pixel_auroc": "auroc, pixels",
    "all_positive_pooled_dice": "dice, pooled pixels, all called {positive}",
    "false_positive_share": "false positive share, mean over cases without {positive}",
}


@dataclass(frozen=True)
class Score:
    """Scores of a member, or of the ensemble, over the rounds that it took part in.

    rounds: the numbers of `digipath.scoring.summary` for each round by name. pooled: the same over
    all their cases. spread: standard deviation of each over the rounds, empty for one round.
    centres: as pooled, over the cases of each centre by itself, where there are several.
    """

    subject: str
    rounds: Mapping[str, Mapping[str, Any]]
    pooled: Mapping[str, Any]
    spread: Mapping[str, float]
    centres: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def card_name(config: Config, run: Run | None = None) -> str:
    """The name of a run's card; without a run, of what is shipped: the ensemble, or one network alone."""
    return config.card.name if run is None else f"{config.card.name}-{run.name}"


def network_card(
    name: str,
    run: Run,
    trained: Mapping[str, Any],
    config: Config,
    manifest: Manifest,
    *,
    metrics: Sequence[Mapping[str, Any]] = (),
    calibration: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The card of one trained network, for the weights file beside it.

    Args:
        trained: the run's record: `multiple`, `bytes` and `sha256` of its weights, epochs, minutes, versions, ….
        metrics: from `own_metrics` and `pooled_metrics`. calibration: from `calibration_record`.
    """
    scale, offset = config.scaling_of(run.member)
    return {
        **_heading(name, "network", config),
        "network": run.member.spec,
        "activation": run.member.activation,
        "input": {**_input(config), "multiple": trained["multiple"], "scale": scale, "offset": offset},
        "file": f"{name}.weights.h5",
        "urls": [],
        "bytes": trained["bytes"],
        "sha256": trained["sha256"],
        "sha256_reason": None,
        "training": {**_training(config, manifest, run), **_history(trained), "settings": _settings(config, trained)},
        **_ending(config, manifest, metrics, calibration, UNCALIBRATED if calibration is None else CALIBRATED),
    }


def ensemble_card(
    members: Mapping[str, Run],
    config: Config,
    manifest: Manifest,
    *,
    metrics: Sequence[Mapping[str, Any]],
    calibrated: bool = False,
) -> dict[str, Any]:
    """The card of the networks that are shipped together, `members` by the name of their cards.

    calibrated: all of them are.
    """
    trained_on = {name: f"{len(run.split.train)} cases, {run.split.name}" for name, run in members.items()}
    return {
        **_heading(card_name(config), "ensemble", config),
        "members": list(members),
        "activation": config.members[0].activation,
        "input": {**_input(config), "scale": config.input.scale, "offset": config.input.offset},
        "training": {**_training(config, manifest), "members": trained_on},
        **_ending(config, manifest, metrics, None, CALIBRATED_MEMBERS if calibrated else UNCALIBRATED),
    }


def calibration_record(
    found: Calibration, run: Run, rounds: Sequence[Round], config: Config, manifest: Manifest
) -> dict[str, Any]:
    """What a network's card says of its temperature, which the cases that `rounds` held out gave."""
    cases = tuple(case for round_ in rounds for case in round_.held_out)
    views = f", mean over {config.score.views} views" if config.score.views > 1 else ""
    parts = "; ".join(f"{round_.name}: {_count(round_.held_out)} {_held_out(round_)}" for round_ in rounds)
    split = f"{_kind(config)}; {parts}"
    if run.split.name == FINAL:
        split += "; predicted by this member trained without them, as this network was trained on all cases"
    return found.to_record(data=f"{_count(cases)} of {manifest.path.name}{views}", split=split)


def own_metrics(score: Score, round_: Round, config: Config, manifest: Manifest) -> list[dict[str, Any]]:
    """Metrics of one network on the cases that it held out."""
    numbers = score.rounds[round_.name]
    split = f"{_kind(config)}; {round_.name}: {_count(round_.held_out)} {_held_out(round_)}"
    return [_metric(key, value, None, config, data=_data(manifest, round_.held_out, config), split=split)
            for key, value in _numbers(numbers)]  # fmt: skip


def pooled_metrics(
    score: Score, rounds: Sequence[Round], config: Config, manifest: Manifest, *, label: str | None = None
) -> list[dict[str, Any]]:
    """Metrics over the cases of all rounds, each scored by networks that held it out; none for one round.

    label: goes into the metrics' names, where a card quotes several subjects.
    """
    scored = [round_ for round_ in rounds if round_.name in score.rounds]
    cases = tuple(case for round_ in scored for case in round_.held_out)
    split = f"{_kind(config)}, {_pooling(score, scored, config)}"
    suffix = "" if label is None else f" ({label})"
    found = [_metric(key, value, score.spread.get(key), config, data=_data(manifest, cases, config), split=split,
                     suffix=suffix) for key, value in _numbers(score.pooled)]  # fmt: skip
    for centre, numbers in score.centres.items():
        own = tuple(case for case in cases if (case.centre or "") == centre)
        data = f"centre {centre or 'not stated'}: {_data(manifest, own, config)}"
        found += [_metric(key, value, None, config, data=data, split=split, suffix=suffix)
                  for key, value in _numbers(numbers)]  # fmt: skip
    return found


def _heading(name: str, kind: str, config: Config) -> dict[str, Any]:
    classes = list(config.data.classes)
    said = {"schema": 1, "name": name, "kind": kind, "task": config.card.task}
    return {**said, "classes": classes, "positive": classes[1]}


def _input(config: Config) -> dict[str, Any]:
    asked = config.input
    stain = config.stain and config.stain.to_record()
    sizes = {"mpp": asked.mpp, "patch": asked.patch, "training_patch": asked.training_patch}
    return {"modality": "slide", **sizes, "stain": stain}


def _training(config: Config, manifest: Manifest, run: Run | None = None) -> dict[str, Any]:
    data = f"{_count(manifest.cases)}; manifest {manifest.path.name}, sha256 {manifest.sha256}"
    if run is None:
        return {"data": data, "split": _kind(config), "seed": config.seed}
    parts = {"trained on": run.split.train, "validated on": run.split.validation, "kept apart": run.split.test}
    said = ", ".join(f"{part} {_count(cases)}" for part, cases in parts.items() if cases)
    return {"data": data, "split": f"{_kind(config)}; {run.split.name}: {said}", "seed": run.seed}


def _history(trained: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("epochs", "best_epoch", "stopped", "minutes", "encoder", "versions")
    return {key: trained[key] for key in kept}


def _settings(config: Config, trained: Mapping[str, Any]) -> dict[str, Any]:
    """What a training anew needs besides the data."""
    sampling = asdict(config.sampling)
    drawn = {key: sampling[key] for key in ("positive_share", "shift_px", "tissue")}
    augmentation = None if config.augmentation is None else asdict(config.augmentation)
    return {"sampling": drawn, "augmentation": augmentation, "schedule": dict(trained["schedule"])}


def _ending(
    config: Config,
    manifest: Manifest,
    metrics: Sequence[Mapping[str, Any]],
    calibration: Mapping[str, Any] | None,
    probabilities: str,
) -> dict[str, Any]:
    limits = [
        f"Made from {_count(manifest.cases)}: other stains, scanners, organs and laboratories are untested.",
        probabilities,
    ]
    return {
        "licence": config.card.licence,
        "citation": config.card.citation,
        "metrics": list(metrics),
        "calibration": calibration,
        "conformal": None,
        "readouts": list(config.card.readouts),
        "intended_use": config.card.intended_use,
        "limits": [*config.card.limits, *limits],
    }


def _metric(
    key: str, value: float, spread: float | None, config: Config, *, data: str, split: str, suffix: str = ""
) -> dict[str, Any]:
    found = {} if spread is None else {"spread": round(spread, DIGITS)}
    name = NAMES[key].format(positive=config.data.classes[1]) + suffix
    return {"name": name, "value": round(value, DIGITS), **found, "data": data, "split": split}


def _numbers(numbers: Mapping[str, Any]) -> list[tuple[str, float]]:
    return [(key, numbers[key]) for key in NAMES if numbers[key] is not None]


def _data(manifest: Manifest, cases: Sequence[TrainingCase], config: Config) -> str:
    score = config.score
    views = f", mean over {score.views} views" if score.views > 1 else ""
    return f"{_count(cases)} of {manifest.path.name}; positive from a probability of {score.threshold:g} on{views}"


def _kind(config: Config) -> str:
    split = config.split
    if split.kind == "single":
        return f"single split by patient, seed {split.seed}"
    if split.kind == "k-fold":
        return f"{split.folds}-fold cross-validation by patient, seed {split.seed}"
    inner = f"{split.inner} inner folds" if split.inner else "no inner validation"
    return f"nested cross-validation by patient, {split.folds} outer folds, {inner}, seed {split.seed}"


def _held_out(round_: Round) -> str:
    if round_.unseen:
        return "held out, which nothing in training saw"
    return "held out; their loss chose when training stopped, which favours the scores"


def _pooling(score: Score, rounds: Sequence[Round], config: Config) -> str:
    """How the value over several rounds came about, and what it says about the network whose card this is."""
    networks = "the ensemble of the members" if score.subject == "ensemble" else "the network"
    text = f"value over the cases of {len(rounds)} held-out parts, each scored by {networks} trained without it"
    if len(rounds) > 1:
        text += "; spread: standard deviation over the parts"
    if not all(round_.unseen for round_ in rounds):
        text += "; the loss on the held-out cases chose when training stopped, which favours the scores"
    if config.split.ensemble == FINAL:
        text += "; the shipped networks were trained once more on all cases and have no unseen case left"
    elif config.split.kind != "single":
        text += "; what is shipped together has seen every part, so these are the scores of its making, not its own"
    return text


def _count(cases: Sequence[TrainingCase]) -> str:
    patients = len({case.patient for case in cases})
    return f"{len(cases)} case{'s' * (len(cases) != 1)} of {patients} patient{'s' * (patients != 1)}"
