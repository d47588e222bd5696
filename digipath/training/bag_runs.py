"""One run of a training by bags of tiles: slides → fit → snapshots with cards → answers on held-out slides."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.errors import SlideUnreadable
from digipath.files import copy_atomically, made_folder, read_json, write_json
from digipath.grading import bag_networks
from digipath.grading.bags import BagDraw, grade_bags, vote_together
from digipath.grading.tile_frames import open_frame
from digipath.grading.tile_networks import rule_of
from digipath.training.bag_cards import network_card
from digipath.training.bag_plan import BagPlan, BagRun, CellsBySlide, Snapshot
from digipath.training.data import batches
from digipath.training.encoders import Encoder, encoder_of, stated_scaling
from digipath.training.fit import Fitted, fit
from digipath.training.frozen_bags import Slides, Views, fit_frozen
from digipath.training.grading_results import Answers
from digipath.training.manifest import TrainingCase
from digipath.training.objective import Objective, class_weights, classification
from digipath.training.tile_source import BagSource, Stainings, channel_scaling
from digipath.training.trained import RECORD, failures_of, named, versions
from digipath.values import Cancel, ProgressCallback, Scaling
from digipath.weights import sha256_of

SCALING = "scaling.json"


@dataclass(frozen=True)
class BagBench:
    """What all runs of a training share.

    cells: tiles by magnification and slide. weights: the folder that it fills. stainings: of the slides, fitted once
    for each magnification.
    """

    plan: BagPlan
    cells: Mapping[float, CellsBySlide]
    weights: Path
    progress: ProgressCallback | None = None
    cancel: Cancel | None = None
    stainings: Stainings = field(default_factory=dict)

    def slides(self, run: BagRun, part: str) -> Slides:
        """The slides of a part with their tiles at the run's magnification."""
        cases: tuple[TrainingCase, ...] = getattr(self.plan.split, part)
        classes = self.plan.config.data.classes
        labels = tuple(classes.index(str(case.label)) for case in cases)
        return Slides(cases, tuple(self.cells[run.mpp][case.name] for case in cases), labels)


def train_bags(run: BagRun, bench: BagBench, folder: Path) -> dict[str, Any]:
    """Train the network of a magnification into `folder`, or go on there; returns its record.

    Weights and cards without scores of its snapshots arrive in `bench.weights` before the record is written, so that
    a run with a record is never trained again.

    Raises:
        SlideUnreadable, … about a case, as its tiles are read; what `digipath.training.fit.fit` raises.
    """
    if (folder / RECORD).exists():
        return dict(read_json(folder / RECORD))
    folder.mkdir(parents=True, exist_ok=True)
    plan = bench.plan
    encoder = encoder_of(plan.config.network.encoder)
    scale, offset = _scaling(run, bench, folder / SCALING)
    weights = class_weights(bench.slides(run, "train").labels, len(plan.config.data.classes))
    objective = classification(len(plan.config.data.classes), weights.tolist())
    train = _fit_frozen if plan.config.network.frozen else _fit
    fitted = train(run, bench, folder, (scale, offset), objective=objective, encoder=encoder)
    record = {
        "run": run.name,
        "mpp": run.mpp,
        "seed": run.seed,
        "schedule": asdict(plan.schedule),
        "scale": scale,
        "offset": offset,
        "class_weights": weights.tolist(),
        "epochs": len(fitted.history),
        "stopped": fitted.stopped,
        "minutes": round(fitted.seconds / 60, 2),
        "encoder": None if encoder is None else encoder.record,
        "versions": versions(),
        "snapshots": {one.name: _kept(one, bench, fitted) for one in run.snapshots},
    }
    for snapshot in run.snapshots:
        write_json(bench.weights / f"{plan.name(snapshot)}.json", network_card(plan, run, snapshot, record))
    write_json(folder / RECORD, record)
    return record


def answers_of(snapshot: Snapshot, bench: BagBench, part: str, path: Path) -> Answers:
    """What a snapshot says of the slides of a part, asked once and kept at `path`; through its card, as users do.

    Probabilities are the mean over groups, calls their hard vote, as `digipath grade` calls a slide by one network.

    Raises:
        SlideUnreadable, … about a case; Cancelled; BadInput: what is kept is damaged.
    """
    if path.exists():
        return Answers.load(path)
    plan, cases = bench.plan, getattr(bench.plan.split, part)
    graders = bag_networks.published(str(bench.weights / f"{plan.name(snapshot)}.json"))
    (card,) = graders.cards
    network, rule = bag_networks.load(card, graders.choice), rule_of(card)
    draw = BagDraw(seed=plan.config.split.seed)
    groups = made_folder(path.with_suffix(""))  # so that a run that stops goes on after the last group
    found = []
    for number, case in enumerate(cases):
        told = named(bench.progress, f"scoring {part} slide {number + 1} of {len(cases)}, {case.name}")
        with open_frame(case.slide, rule, mpp=case.mpp, stain=graders.stain) as frame:
            bags = grade_bags(
                frame, card, network, draw, keep=groups / str(number), progress=told, cancel=bench.cancel
            )
        vote = vote_together([bags])
        if vote is None:
            raise SlideUnreadable(f"expected readable tiles to score {snapshot.name} on, there are none: {case.slide}")
        found.append(vote)
    answers = _answers(cases, found, plan.config.data.classes)
    answers.save(path)
    shutil.rmtree(groups)
    return answers


def _answers(
    cases: Sequence[TrainingCase], votes: Sequence[tuple[NDArray[np.float32], int]], classes: Sequence[str]
) -> Answers:
    truth = np.array([classes.index(str(case.label)) for case in cases], np.int64)
    return Answers(
        truth=truth,
        probabilities=np.stack([probabilities for probabilities, _ in votes]).astype(np.float32),
        slides=np.array([case.name for case in cases], np.str_),
        cases=np.array([case.patient for case in cases], np.str_),
        slide_truth=truth,
        calls=np.array([call for _, call in votes], np.int64),
        patients=np.array([case.patient for case in cases], np.str_),
    )


def _kept(snapshot: Snapshot, bench: BagBench, fitted: Fitted) -> dict[str, Any]:
    """Copy the weights of a snapshot to where its card will lie; what the card says of them."""
    file = bench.weights / f"{bench.plan.name(snapshot)}.weights.h5"
    copy_atomically(fitted.snapshots[snapshot.before], file)
    epoch = len(fitted.history) - snapshot.before
    return {"name": bench.plan.name(snapshot), "epoch": epoch, "bytes": file.stat().st_size, "sha256": sha256_of(file)}


def _scaling(run: BagRun, bench: BagBench, path: Path) -> tuple[Scaling, Scaling]:
    """Scale and offset of the input: as the encoder's card states, or of the training slides; found once."""
    network = bench.plan.config.network
    if network.scaling == "encoder" and network.encoder is not None:
        return stated_scaling(network.encoder)
    if not path.exists():
        with _source(run, bench, "train", as_they_are=True) as source:
            scale, offset = channel_scaling(source, len(source))
        write_json(path, {"scale": scale, "offset": offset})
    kept = read_json(path)
    return _plain(kept["scale"]), _plain(kept["offset"])


def _plain(value: float | list[float]) -> Scaling:
    return (value[0], value[1], value[2]) if isinstance(value, list) else value


def _fit(
    run: BagRun,
    bench: BagBench,
    folder: Path,
    scaling: tuple[Scaling, Scaling],
    *,
    objective: Objective,
    encoder: Encoder | None,
) -> Fitted:
    plan, schedule = bench.plan, bench.plan.schedule
    spec = plan.config.network.spec(len(plan.config.data.classes), plan.config.bags.crop)
    if plan.config.network.remat:
        spec["config"]["remat"] = True
    feed = partial(batches, batch=schedule.batch, scale=scaling[0], offset=scaling[1])
    with ExitStack() as stack:
        training = stack.enter_context(_source(run, bench, "train"))
        validation = stack.enter_context(_source(run, bench, "validation"))
        with failures_of(training, validation):
            return fit(
                spec,
                lambda first: feed(training, first=first),
                lambda: feed(validation, count=len(validation)),
                schedule,
                folder,
                seed=run.seed,
                objective=objective,
                encoder=None if encoder is None else encoder.load,
                identity=_identity(plan, encoder),
                cases=training.names,
                progress=named(bench.progress, run.name),
                cancel=bench.cancel,
            )


def _fit_frozen(
    run: BagRun,
    bench: BagBench,
    folder: Path,
    scaling: tuple[Scaling, Scaling],
    *,
    objective: Objective,
    encoder: Encoder | None,
) -> Fitted:
    config = bench.plan.config
    views = Views(
        rule=config.bags.rule(run.mpp),
        crop_px=config.bags.crop,
        augmentation=config.augmentation,
        stain=config.stain,
        scale=scaling[0],
        offset=scaling[1],
        count=config.network.views,
        most_tiles=config.network.most_tiles,
        drawn=config.bags.drawn,
    )
    return fit_frozen(
        config.network.spec(len(config.data.classes), config.bags.crop),
        bench.slides(run, "train"),
        bench.slides(run, "validation"),
        views,
        bench.plan.schedule,
        folder=folder,
        seeds=(run.seed, config.split.seed),
        objective=objective,
        encoder=None if encoder is None else encoder.load,
        identity={**_identity(bench.plan, encoder), "views": [views.count, views.most_tiles]},
        progress=named(bench.progress, run.name),
        cancel=bench.cancel,
    )


def _identity(plan: BagPlan, encoder: Encoder | None) -> dict[str, Any]:
    return {"manifest": plan.manifest.sha256, "encoder_weights": encoder and encoder.record}


def _source(run: BagRun, bench: BagBench, part: str, *, as_they_are: bool = False) -> BagSource:
    """Bags to train on, each round of slides in an order of its own; or to validate on, the same for every run.

    as_they_are: the middle of tiles, unchanged.
    """
    config, slides, training = bench.plan.config, bench.slides(run, part), part == "train"
    return BagSource(
        slides.cases,
        slides.cells,
        slides.labels,
        config.bags.rule(run.mpp),
        classes=len(config.data.classes),
        bag=config.bags.drawn,
        crop_px=config.bags.crop,
        augmentation=None if as_they_are else config.augmentation,
        stain=config.stain,
        stainings=bench.stainings,
        seed=run.seed if training else config.split.seed,
        shuffle=training and not as_they_are,
    )
