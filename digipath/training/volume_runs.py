"""One run of a training of networks that grade MRI: regions → fit → weights with a card → answers on held-out cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from digipath.errors import Cancelled
from digipath.files import read_json, write_json
from digipath.measure.tile_grades import called
from digipath.networks import network_of
from digipath.runtime import without_startup_notices
from digipath.training.data import Source, batches
from digipath.training.encoders import Encoder, encoder_of
from digipath.training.fit import Fitted, fit
from digipath.training.grading_results import Answers
from digipath.training.objective import Objective, class_weights, classification
from digipath.training.trained import RECORD, Failing, failures_of, named, record_of
from digipath.training.volume_cards import network_card
from digipath.training.volume_plan import NetworkRun, VolumePlan
from digipath.training.volume_regions import Cut, Regions, prepared, region_pixels
from digipath.training.volume_source import VolumeSource
from digipath.values import Cancel, Progress, ProgressCallback
from digipath.weights import load_card


class Samples(Source, Failing, Protocol):
    """Samples to train or validate on: how many a round or a validation has, and whose they are."""

    def __len__(self) -> int: ...

    def names(self, samples: Sequence[int]) -> Sequence[str]: ...


S = TypeVar("S", bound=Samples)


@dataclass(frozen=True)
class Bench:
    """What all runs of a training share. folder: of the training. cut: makes what networks see of a volume."""

    plan: VolumePlan
    folder: Path
    cut: Cut = region_pixels
    progress: ProgressCallback | None = None
    cancel: Cancel | None = None

    @cached_property
    def regions(self) -> Regions:
        """Of all cases, made when they are first asked for: a training that has all answers asks for none."""
        rules = dict.fromkeys(arm.rule for arm in self.plan.config.arms)
        return prepared(
            self.plan.manifest, [*rules], self.folder / "regions", self.cut, progress=self.progress, cancel=self.cancel
        )

    def card(self, run: NetworkRun) -> Path:
        """Where the card of a network lies."""
        return self.folder / "weights" / f"{self.plan.name(run)}.json"


def train_network(run: NetworkRun, bench: Bench) -> dict[str, Any]:
    """Train one network, or go on there; returns its record. Raises as `trained`."""

    def objective(training: VolumeSource) -> Objective:
        count = len(training.classes)
        weighed = run.arm.network.class_weights
        return classification(count, class_weights(training.labels, count).tolist() if weighed else None)

    return trained(run, bench, partial(_source, run, bench), objective, partial(network_card, bench.plan, run))


def trained(
    run: NetworkRun,
    bench: Bench,
    source: Callable[[str], S | None],
    objective: Callable[[S], Objective],
    card: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> dict[str, Any]:
    """Train one network, or go on there; returns its record.

    Its weights and a card without scores lie in their place before the record is written, so that a network with a
    record is never trained again.

    Args:
        source: samples of the part "train" or "validation"; None where there are none.
        objective: what is learned, once the training samples are known. card: the card of a record.

    Raises:
        BadVolume, … about a case, as its region is made; what `digipath.training.fit.fit` raises.
    """
    folder = bench.folder / "runs" / run.name
    if (folder / RECORD).exists():
        return dict(read_json(folder / RECORD))
    folder.mkdir(parents=True, exist_ok=True)
    training, validation, encoder = source("train"), source("validation"), encoder_of(run.arm.network.encoder)
    assert training is not None  # a split without training cases is refused by the plan
    learned = objective(training)
    fitted = _fit(run, bench, folder, (training, validation), objective=learned, encoder=encoder)
    place = bench.card(run)
    of_run = record_of(run, fitted, place.with_suffix(".weights.h5"), run.schedule, encoder)
    record = {**of_run, **learned.identity}
    write_json(place, card(record))
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
    probabilities, names = np.stack(found).astype(np.float32), np.array([case.name for case in cases], np.str_)
    answers = Answers(
        truth=truth,
        probabilities=probabilities,
        slides=names,
        cases=names,
        slide_truth=truth,
        calls=called(probabilities),
        patients=np.array([case.patient for case in cases], np.str_),
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
    sources: tuple[Samples, Samples | None],
    *,
    objective: Objective,
    encoder: Encoder | None,
) -> Fitted:
    network, (training, validation) = run.arm.network, sources
    feed = partial(batches, batch=run.schedule.batch, scale=network.scale, offset=network.offset)
    with failures_of(training, validation):
        return fit(
            run.arm.spec(len(bench.plan.config.data.classes)),
            lambda first: feed(training, first=first),
            None if validation is None else lambda: feed(validation, count=len(validation)),
            run.schedule,
            folder,
            seed=run.seed,
            objective=objective,
            encoder=None if encoder is None else encoder.load,
            identity={"manifest": bench.plan.manifest.sha256, "encoder_weights": encoder and encoder.record},
            cases=training.names,
            progress=named(bench.progress, run.name),
            cancel=bench.cancel,
        )


def _source(run: NetworkRun, bench: Bench, part: str) -> VolumeSource | None:
    """Regions to train on, or to validate on: the same for every seed."""
    cases, training = getattr(run.split, part), part == "train"
    if not cases:
        return None
    classes, seed = bench.plan.config.data.classes, run.seed if training else 0
    return VolumeSource(cases, bench.regions, run.arm, classes=classes, seed=seed, training=training)
