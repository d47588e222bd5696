"""One run of a training of networks that grade MRI: regions → fit → weights with a card → answers on held-out cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.errors import Cancelled
from digipath.files import read_json, write_json
from digipath.measure.tile_grades import called
from digipath.networks import network_of
from digipath.runtime import without_startup_notices
from digipath.training.data import batches
from digipath.training.encoders import Encoder, encoder_of
from digipath.training.fit import Fitted, fit
from digipath.training.grading_results import Answers
from digipath.training.objective import class_weights, classification
from digipath.training.trained import RECORD, failures_of, named, record_of
from digipath.training.volume_cards import network_card
from digipath.training.volume_plan import NetworkRun, VolumePlan
from digipath.training.volume_regions import Regions, prepared
from digipath.training.volume_source import VolumeSource
from digipath.values import Cancel, Progress, ProgressCallback
from digipath.weights import load_card


@dataclass(frozen=True)
class Bench:
    """What all runs of a training share. folder: of the training."""

    plan: VolumePlan
    folder: Path
    progress: ProgressCallback | None = None
    cancel: Cancel | None = None

    @cached_property
    def regions(self) -> Regions:
        """Of all cases, made when they are first asked for: a training that has all answers asks for none."""
        rules = dict.fromkeys(arm.rule for arm in self.plan.config.arms)
        return prepared(
            self.plan.manifest, [*rules], self.folder / "regions", progress=self.progress, cancel=self.cancel
        )

    def card(self, run: NetworkRun) -> Path:
        """Where the card of a network lies."""
        return self.folder / "weights" / f"{self.plan.name(run)}.json"


def train_network(run: NetworkRun, bench: Bench) -> dict[str, Any]:
    """Train one network, or go on there; returns its record.

    Its weights and a card without scores lie in their place before the record is written, so that a network with a
    record is never trained again.

    Raises:
        BadVolume, … about a case, as its region is made; what `digipath.training.fit.fit` raises.
    """
    folder = bench.folder / "runs" / run.name
    if (folder / RECORD).exists():
        return dict(read_json(folder / RECORD))
    folder.mkdir(parents=True, exist_ok=True)
    training, validation = _sources(run, bench)
    encoder, weights = encoder_of(run.arm.network.encoder), None
    if run.arm.network.class_weights:
        weights = class_weights(training.labels, len(training.classes)).tolist()
    fitted = _fit(run, bench, folder, (training, validation), encoder=encoder, weights=weights)
    card = bench.card(run)
    record = record_of(run, fitted, card.with_suffix(".weights.h5"), run.schedule, encoder) | {"class_weights": weights}
    write_json(card, network_card(bench.plan, run, record))
    write_json(folder / RECORD, record)
    return record


def answers_of(run: NetworkRun, bench: Bench) -> Answers:
    """What a trained network says of its test cases, asked once and kept; through its card, as users do.

    Raises:
        BadVolume, … about a case, as its region is made; Cancelled; BadInput: what is kept is damaged.
    """
    path = bench.folder / "scores" / f"{run.name}.npz"
    if path.exists():
        return Answers.load(path)
    cases, classes = run.split.test, bench.plan.config.data.classes
    told, found = named(bench.progress, f"scoring {run.name}"), []
    ask = _asking(bench.card(run))
    for number, case in enumerate(cases):
        if bench.cancel is not None and bench.cancel():
            raise Cancelled("cancelled while scoring; the same call goes on with this network")
        if told is not None:
            told(Progress(number, len(cases), math.nan, case.name))
        found.append(ask(bench.regions.read(case, run.arm.rule)))
    truth = np.array([classes.index(str(case.label)) for case in cases], np.int64)
    probabilities = np.stack(found).astype(np.float32)
    answers = Answers(
        truth=truth,
        probabilities=probabilities,
        slides=np.array([case.name for case in cases], np.str_),
        cases=np.array([case.patient for case in cases], np.str_),
        slide_truth=truth,
        calls=called(probabilities),
    )
    answers.save(path)
    return answers


def _asking(path: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """Region → (C,) probabilities by the network of a card, as it was trained."""
    card = load_card(str(path))
    with without_startup_notices():
        network = network_of(card)
    scale, offset = (np.asarray(card.record["input"].get(*of), np.float32) for of in (("scale", 1), ("offset", 0)))

    def ask(region: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(network.predict_on_batch((region * scale + offset)[None])[0], np.float64)

    return ask


def _fit(
    run: NetworkRun,
    bench: Bench,
    folder: Path,
    sources: tuple[VolumeSource, VolumeSource | None],
    *,
    encoder: Encoder | None,
    weights: Sequence[float] | None,
) -> Fitted:
    classes, network = len(bench.plan.config.data.classes), run.arm.network
    feed = partial(batches, batch=run.schedule.batch, scale=network.scale, offset=network.offset)
    training, validation = sources
    with failures_of(training, validation):
        return fit(
            run.arm.spec(classes),
            lambda first: feed(training, first=first),
            None if validation is None else lambda: feed(validation, count=len(validation)),
            run.schedule,
            folder,
            seed=run.seed,
            objective=classification(classes, weights),
            encoder=None if encoder is None else encoder.load,
            identity={"manifest": bench.plan.manifest.sha256, "encoder_weights": encoder and encoder.record},
            cases=training.names,
            progress=named(bench.progress, run.name),
            cancel=bench.cancel,
        )


def _sources(run: NetworkRun, bench: Bench) -> tuple[VolumeSource, VolumeSource | None]:
    """Regions to train on, and those to validate on where there are any: the same for every seed."""
    classes, regions = bench.plan.config.data.classes, bench.regions
    training = VolumeSource(run.split.train, regions, run.arm, classes=classes, seed=run.seed)
    if not run.split.validation:
        return training, None
    return training, VolumeSource(run.split.validation, regions, run.arm, classes=classes, training=False)
