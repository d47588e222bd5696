"""One run of a training of tile classifiers: tiles → fit → weights with a card → answers on held-out tiles."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.errors import Cancelled, SlideUnreadable
from digipath.files import read_json, write_json
from digipath.grading import tile_networks
from digipath.measure.tile_grades import called
from digipath.nn import patch_multiple
from digipath.training.data import batches
from digipath.training.encoders import Encoder, encoder_of
from digipath.training.fit import Fitted, fit
from digipath.training.grading_cards import modular_card, network_card
from digipath.training.grading_plan import GraderRun, NetworkRun, TilePlan, Tiles
from digipath.training.grading_results import Answers
from digipath.training.objective import classification
from digipath.training.tile_source import Stainings, TileSource
from digipath.training.trained import RECORD, failures_of, named, record_of
from digipath.values import Cancel, Predictor, Progress, ProgressCallback

READ_AT_ONCE = 32  # tiles in memory while they are scored


@dataclass(frozen=True)
class Bench:
    """What all runs of a training share.

    drawn: tiles by part. weights: the folder of files and cards that it makes. stainings: of the slides, fitted once.
    """

    plan: TilePlan
    drawn: Mapping[str, Tiles]
    weights: Path
    progress: ProgressCallback | None = None
    cancel: Cancel | None = None
    stainings: Stainings = field(default_factory=dict)


def train_grader(run: GraderRun, bench: Bench, runs: Path) -> dict[str, dict[str, Any]]:
    """Train the networks of a grader, each into a folder in `runs`, or go on there; returns their records by name.

    Weights and cards without scores arrive in `bench.weights` before a record is written, so that a network with a
    record is never trained again.

    Raises:
        SlideUnreadable, … about a case, as its tiles are read; what `digipath.training.fit.fit` raises.
    """
    records = {network.name: _train(network, bench, runs / network.name) for network in run.networks}
    if len(run.networks) > 1:
        write_json(bench.weights / f"{bench.plan.name(run)}.json", modular_card(bench.plan, run))
    return records


def answers_of(run: GraderRun, bench: Bench, path: Path) -> Answers:
    """What a trained grader says of the test tiles, asked once and kept at `path`; through its card, as users do.

    Raises:
        SlideUnreadable, … about a case; Cancelled; BadInput: what is kept is damaged.
    """
    if path.exists():
        return Answers.load(path)
    plan, drawn = bench.plan, bench.drawn["test"]
    graders = tile_networks.published(str(bench.weights / f"{plan.name(run)}.json"), calibrated=False)
    (predictor,) = graders.load()
    classes, told = plan.config.data.classes, named(bench.progress, f"scoring {run.name}")
    with _source(drawn, bench, len(classes)) as source:
        number, found = _asked(predictor, source, told, bench.cancel)
    if not number:
        raise SlideUnreadable(f"expected readable tiles to score {run.name} on, none of {len(drawn)} is")
    tiles = [drawn[at] for at in number]
    cases = [plan.manifest.cases[tile.case] for tile in tiles]
    answers = Answers(
        truth=np.array([tile.label for tile in tiles], np.int64),
        probabilities=found,
        slides=np.array([case.name for case in cases], np.str_),
        cases=np.array([case.patient for case in cases], np.str_),
        slide_truth=np.array([classes.index(str(case.label)) for case in cases], np.int64),
        calls=called(found),
        patients=np.array([case.patient for case in cases], np.str_),
    )
    answers.save(path)
    return answers


def _asked(
    predictor: Predictor, source: TileSource, progress: ProgressCallback | None, cancel: Cancel | None
) -> tuple[list[int], NDArray[np.float32]]:
    """The numbers of the tiles that can be read, and what a predictor says of them, (n, C)."""
    began, size = time.perf_counter(), getattr(predictor, "batch", 1)
    numbers: list[int] = []
    answers: list[NDArray[np.float32]] = []
    for done, read in _chunks(source):
        for first in range(0, len(read), size):
            if cancel is not None and cancel():
                raise Cancelled("cancelled while scoring; the same call goes on with this grader")
            some = read[first : first + size]
            numbers += [number for number, _ in some]
            answers.append(np.array(predictor(np.stack([pixels for _, pixels in some])), np.float32))
        if progress is not None:
            rate = done / max(time.perf_counter() - began, 1e-9)
            progress(Progress(done, len(source), rate, "tiles"))
    return numbers, np.concatenate(answers) if answers else np.empty((0, source.classes), np.float32)


def _chunks(source: TileSource) -> Iterator[tuple[int, list[tuple[int, NDArray[np.uint8]]]]]:
    """(tiles done, the readable ones among the last of them with their numbers), in order."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for first in range(0, len(source), READ_AT_ONCE):
            numbers = range(first, min(first + READ_AT_ONCE, len(source)))
            tiles = zip(numbers, pool.map(source.tile, numbers), strict=True)
            yield numbers.stop, [(number, pixels) for number, pixels in tiles if pixels is not None]


def _train(run: NetworkRun, bench: Bench, folder: Path) -> dict[str, Any]:
    if (folder / RECORD).exists():
        return dict(read_json(folder / RECORD))
    plan, name = bench.plan, bench.plan.name(run)
    folder.mkdir(parents=True, exist_ok=True)
    encoder = encoder_of(run.arm.network.encoder)
    fitted = _fit(run, bench, folder, encoder)
    spec, schedule = run.arm.network.spec(len(run.classes)), plan.schedule(run, bench.drawn)
    record = {
        **record_of(run, fitted, bench.weights / f"{name}.weights.h5", schedule, encoder),
        "multiple": patch_multiple(spec["name"], spec["config"]),
    }
    write_json(bench.weights / f"{name}.json", network_card(plan, run, record, bench.drawn))
    write_json(folder / RECORD, record)
    return record


def _fit(run: NetworkRun, bench: Bench, folder: Path, encoder: Encoder | None) -> Fitted:
    plan, network, schedule = bench.plan, run.arm.network, bench.plan.schedule(run, bench.drawn)
    feed = partial(batches, batch=schedule.batch, scale=network.scale, offset=network.offset)
    own = {part: run.tiles(bench.drawn[part]) for part in ("train", "validation")}
    with ExitStack() as stack:
        training = stack.enter_context(_source(own["train"], bench, len(run.classes), run))
        validation = stack.enter_context(_source(own["validation"], bench, len(run.classes)))
        with failures_of(training, validation):
            return fit(
                network.spec(len(run.classes)),
                lambda first: feed(training, first=first),
                lambda: feed(validation, count=len(validation)),
                schedule,
                folder,
                seed=run.seed,
                objective=classification(len(run.classes)),
                encoder=None if encoder is None else encoder.load,
                identity={"manifest": plan.manifest.sha256, "encoder_weights": encoder and encoder.record},
                cases=training.names,
                progress=named(bench.progress, run.name),
                cancel=bench.cancel,
            )


def _source(tiles: Tiles, bench: Bench, classes: int, run: NetworkRun | None = None) -> TileSource:
    """Tiles to train `run` on, augmented and in an order of their own; without it as they are, to be scored."""
    plan = bench.plan
    return TileSource(
        plan.manifest.cases,
        tiles,
        plan.config.tiles.rule,
        classes=classes,
        augmentation=None if run is None else run.arm.augmentation,
        stain=plan.config.stain,
        stainings=bench.stainings,
        seed=0 if run is None else run.seed,
        shuffle=run is not None,
    )
