"""One run of a training: patches → fit → weights with a card, and a record that says it is done."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from digipath.errors import BadInput, DigipathError
from digipath.files import copy_atomically, read_json, write_json
from digipath.nn import patch_multiple
from digipath.training.cards import network_card
from digipath.training.config import Config
from digipath.training.data import PatchSource, Surveyed, batches
from digipath.training.encoders import Encoder, encoder_of
from digipath.training.fit import Fitted, fit
from digipath.training.learner import backend_version
from digipath.training.manifest import Manifest, TrainingCase
from digipath.training.runs import Run
from digipath.training.schedule import Schedule
from digipath.values import Cancel, Progress, ProgressCallback
from digipath.weights import sha256_of

RECORD = "run.json"


@dataclass(frozen=True)
class Workshop:
    """What all runs of a training share.

    weights: the folder of the files and cards that it makes. surveys: what is known of the cases, for
    patches to train on and for those to validate on.
    """

    config: Config
    manifest: Manifest
    weights: Path
    progress: ProgressCallback | None = None
    cancel: Cancel | None = None
    surveys: tuple[dict[str, Surveyed], dict[str, Surveyed]] = field(default_factory=lambda: ({}, {}))


def look_at(run: Run, shop: Workshop, schedule: Schedule) -> None:
    """Look at all cases of a run: what they cannot show is told before anything is trained.

    Raises BadInput that names the run and the part; SlideUnreadable, … about a case.
    """
    for part, cases, used in (("train", run.split.train, schedule), ("validate", run.split.validation, None)):
        try:
            if cases:
                _source(run, shop, cases, used).close()
        except BadInput as error:
            raise type(error)(f"{run.name}, cases to {part} on: {error}") from error


def train_run(run: Run, name: str, folder: Path, shop: Workshop, *, schedule: Schedule | None = None) -> dict[str, Any]:
    """Train one network into `folder`, or go on there; returns its record.

    Its weights and a card without scores arrive in `shop.weights` under `name` before the record is
    written, so that a run with a record is never repeated. schedule: instead of the member's own.

    Raises:
        BadInput, SlideUnreadable, … about a case, as its patches are read; what `fit` raises.
    """
    if (folder / RECORD).exists():
        return dict(read_json(folder / RECORD))
    config = shop.config
    folder.mkdir(parents=True, exist_ok=True)
    schedule = schedule or config.schedule_of(run.member)
    encoder = encoder_of(run.member.encoder)
    fitted = _fit(run, folder, shop, schedule, encoder)
    record = {
        **record_of(run, fitted, shop.weights / f"{name}.weights.h5", schedule, encoder),
        "multiple": patch_multiple(run.member.network, run.member.config),
    }
    write_json(shop.weights / f"{name}.json", network_card(name, run, record, config, shop.manifest))
    write_json(folder / RECORD, record)
    return record


def _fit(run: Run, folder: Path, shop: Workshop, schedule: Schedule, encoder: Encoder | None) -> Fitted:
    """Fit the network on patches of the run's cases."""
    scale, offset = shop.config.scaling_of(run.member)
    count = shop.config.split.validation_patches
    with ExitStack() as stack:
        training = stack.enter_context(_source(run, shop, run.split.train, schedule))
        validation = None
        if run.split.validation:
            validation = stack.enter_context(_source(run, shop, run.split.validation, None))

        def feed(first: int) -> Any:  # noqa: ANN401 - batches of the backend
            return batches(training, batch=schedule.batch, scale=scale, offset=offset, first=first)

        def validate(source: PatchSource) -> Any:  # noqa: ANN401
            return batches(source, batch=schedule.batch, scale=scale, offset=offset, count=count)

        with failures_of(training, validation):
            return fit(
                run.member.spec,
                feed,
                None if validation is None else partial(validate, validation),
                schedule,
                folder,
                seed=run.seed,
                encoder=None if encoder is None else encoder.load,
                identity={"manifest": shop.manifest.sha256, "encoder_weights": encoder and encoder.record},
                cases=training.names,
                progress=named(shop.progress, run.name),
                cancel=shop.cancel,
            )


class Named(Protocol):
    """A network to train."""

    @property
    def name(self) -> str: ...

    @property
    def seed(self) -> int: ...


def record_of(run: Named, fitted: Fitted, file: Path, schedule: Schedule, encoder: Encoder | None) -> dict[str, Any]:
    """The record of a finished run, once its weights are copied to `file`, beside which its card will lie."""
    copy_atomically(fitted.weights, file)
    return {
        "name": file.name.removesuffix(".weights.h5"),
        "run": run.name,
        "seed": run.seed,
        "schedule": asdict(schedule),
        "epochs": len(fitted.history),
        "best_epoch": fitted.best_epoch,
        "stopped": fitted.stopped,
        "minutes": round(fitted.seconds / 60, 2),
        "encoder": None if encoder is None else encoder.record,
        "versions": versions(),
        "bytes": file.stat().st_size,
        "sha256": sha256_of(file),
    }


class Failing(Protocol):
    """What makes samples, and the last error of doing so."""

    failure: DigipathError | None


@contextmanager
def failures_of(*sources: Failing | None) -> Iterator[None]:
    """Raise the error of a source in place of the framework's own, by which that reports it."""
    try:
        yield
    except Exception:
        for source in sources:
            if source is not None and source.failure is not None:
                raise source.failure from None
        raise


def _source(run: Run, shop: Workshop, cases: tuple[TrainingCase, ...], schedule: Schedule | None) -> PatchSource:
    """Patches to train on, augmented; or, without a schedule, to validate on: the same for every member and seed."""
    config = shop.config
    if schedule is None:
        sampling = replace(config.sampling, seed=config.split.seed, patches_per_epoch=config.split.validation_patches)
    else:
        sampling = replace(config.sampling, seed=run.seed, patches_per_epoch=schedule.batch * schedule.steps_per_epoch)
    return PatchSource(
        cases,
        sampling,
        augmentation=None if schedule is None else config.augmentation,
        labels=config.data.labels,
        stain=config.stain,
        surveys=shop.surveys[0 if schedule else 1],
    )


def named(progress: ProgressCallback | None, name: str) -> ProgressCallback | None:
    """The same callback, told what is being done for whom."""
    if progress is None:
        return None
    return lambda report: progress(Progress(report.done, report.total, report.rate, f"{name}: {report.message}"))


def versions() -> dict[str, str]:
    """Of what the numbers depend on, for cards and records."""
    import keras

    return {
        "digipath": version("digipath"),
        "python": platform.python_version(),
        "keras": keras.__version__,
        "backend": backend_version(),
        "numpy": version("numpy"),
    }
