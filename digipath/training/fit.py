"""The training of one network: frozen encoder, schedule, best weights, checkpoints, history.

    network.weights.h5          the weights to keep so far, without the state of the optimiser
    network-minus10.weights.h5  those of ten epochs before the last, where the schedule asks for such snapshots
    candidate-7.weights.h5      those of an epoch that may still come to be kept; none once the training has ended
    checkpoint.npz              what the next epoch begins with; once the training has ended, its history
    history.csv, curves.png, tensorboard/

An epoch depends on its checkpoint, its number and the samples from (epoch × steps × batch) on, and on
nothing else: a training that was killed and goes on gives the history of one that was not. To the
last bit on a CPU; GPUs add in varying order unless told otherwise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from digipath import memory
from digipath.case import Case
from digipath.errors import BadInput, TrainingDiverged
from digipath.files import copy_atomically
from digipath.nn.encoder import encoder_layers
from digipath.training.checkpoint import Checkpoint, load_checkpoint, replacing, save_checkpoint
from digipath.training.history import EventLog, draw_curves, write_csv
from digipath.training.learner import (
    Dataset,
    all_devices,
    assign,
    backend_version,
    compiled_by_xla,
    first_batches,
    new_network,
    new_optimiser,
    read_batches,
    values,
)
from digipath.training.objective import SEGMENTATION, Objective
from digipath.training.schedule import Row, Schedule, candidate_epoch, kept_epoch, learning_rates, stop_reason
from digipath.training.watch import Watch
from digipath.values import Cancel, ProgressCallback

WEIGHTS, CHECKPOINT, HISTORY, CURVES, EVENTS = (
    "network.weights.h5", "checkpoint.npz", "history.csv", "curves.png", "tensorboard",
)  # fmt: skip
SNAPSHOT, CANDIDATE = "network-minus{}.weights.h5", "candidate-{}.weights.h5"
HDF5_BYTES = 8192  # more than the format takes for itself, per array
FROZEN, WHOLE = "frozen", "whole"  # the phases: each has an optimiser of its own

LOWER = "try a lower learning_rate or a clip_norm, with another --out or --no-resume"

Training = Callable[[int], Dataset]
Validation = Callable[[], Dataset]
LoadEncoder = Callable[[keras.Model], object]
NameCases = Callable[[range], Sequence[str]]


@dataclass(frozen=True)
class Fitted:
    """A finished training.

    Attributes:
        weights: a .weights.h5 file for the network as `digipath.build` gives it.
        history: one mapping per epoch, see `digipath.training.history`.
        best_epoch: whose weights are kept, from 1.
        stopped: "epochs" (all were done) or "patience" (the validation loss went down no more).
        seconds: in all epochs.
        snapshots: more .weights.h5 files, by how many epochs before the last they are of.
    """

    weights: Path
    history: tuple[dict[str, Any], ...]
    best_epoch: int
    stopped: str
    seconds: float
    snapshots: Mapping[int, Path] = field(default_factory=dict)


def fit(
    network_spec: Mapping[str, Any],
    training: Training,
    validation: Validation | None,
    schedule: Schedule,
    folder: Path,
    *,
    seed: int,
    objective: Objective = SEGMENTATION,
    encoder: LoadEncoder | None = None,
    identity: Mapping[str, Any] | None = None,
    cases: NameCases | None = None,
    resume: bool = True,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> Fitted:
    """Train one network into `folder`, or go on with it there.

    Uses all GPUs that Keras sees, each for its share of a batch: by data parallelism on JAX, mirrored
    variables on TensorFlow. Seeds the generators of the process (`keras.utils.set_random_seed`).

    Args:
        network_spec: {"name": …, "config": {…}} for `digipath.build`.
        training: called with the number of a sample; gives batches of `schedule.batch` samples from
            that one on, without end: (B, P, P, 3) as the network takes them and truth (B, P, P, 1), or
            what else network and objective take.
        validation: gives the same finite batches each time; None keeps the weights of the last epoch.
        folder: of this training alone.
        objective: what is learned and watched.
        encoder: loads weights into a new network, whose encoder is then frozen at first.
        identity: what else the result depends on (data, encoder, …); as JSON.
        cases: names where samples come from, for the message when the loss is not finite.
        resume: go on with an unfinished training of the same settings, return a finished one; False
            starts afresh.
        progress: called with batches done of all; cancel: asked between batches.

    Raises:
        BadInput: a setting is out of range or does not suit the objective, a stream ended too early, or the
            checkpoint is damaged.
        CaseDiffers: `folder` holds a training of other settings. CaseBusy: another process trains there.
        TrainingDiverged: loss or weights became NaN or infinite; the weights to keep so far stay.
        Cancelled: `cancel` said so; the same call goes on after the last finished epoch.
        OutputUnwritable: the folder cannot be written.

    References:
        Khened et al. 2021, section "Training".
    """
    schedule.check()
    objective.check(schedule)
    described = {
        "network": dict(network_spec),
        "schedule": asdict(schedule),
        "training": {"seed": seed, "encoder": encoder is not None, "validation": validation is not None},
        "objective": {"scores": list(objective.scores), **objective.identity},
        # Backends round differently: another would go on with another history.
        "versions": {"digipath": version("digipath"), "keras": keras.__version__, "backend": backend_version()},
        **(identity or {}),
    }
    snapshots = {before: folder / SNAPSHOT.format(before) for before in schedule.snapshots}
    owned = (WEIGHTS, CHECKPOINT, HISTORY, CURVES, EVENTS, *(path.name for path in snapshots.values()))
    with Case(folder, "train", described, owned=owned, resume=resume) as case:
        if not case.done:
            run = _Run(network_spec, schedule, folder, seed=seed, objective=objective, encoder=encoder)
            run.train(training, validation, cases, progress=progress, cancel=cancel)
    checkpoint = load_checkpoint(folder / CHECKPOINT)
    return Fitted(
        folder / WEIGHTS,
        checkpoint.history,
        kept_epoch(checkpoint.history, schedule),
        str(checkpoint.stopped),
        sum(row["seconds"] for row in checkpoint.history),
        snapshots,
    )


class _Run:
    """A network in training. Three Keras models share its layers: one is saved, one learns, one is scored."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        schedule: Schedule,
        folder: Path,
        *,
        seed: int,
        objective: Objective,
        encoder: LoadEncoder | None,
    ) -> None:
        self.schedule, self.folder, self.objective = schedule, folder, objective
        self.frozen_epochs = 0 if encoder is None else schedule.frozen_epochs
        self.rates = learning_rates(schedule)
        self.checkpoint = Checkpoint()  # of the last finished epoch
        if (folder / CHECKPOINT).exists() and (folder / WEIGHTS).exists():
            self.checkpoint = load_checkpoint(folder / CHECKPOINT)
        keras.utils.set_random_seed(seed % 2**32)
        self.on_devices = all_devices(schedule.batch)
        with self.on_devices():
            self.network = new_network(spec, mixed_precision=schedule.mixed_precision)
            self.learner = keras.Model(self.network.input, objective.output(self.network))
        if self.checkpoint.network:
            assign(self.network.variables, self.checkpoint.network)
        elif encoder is not None:
            encoder(self.network)
        self.scorer = keras.Model(self.network.input, objective.output(self.network))
        self.scorer.compile(loss=objective.loss(schedule), metrics=objective.metrics(), jit_compile=compiled_by_xla())
        self.phase: str | None = None
        self._state = Checkpoint()  # of the epoch in work, once its batches are done

    def train(
        self,
        training: Training,
        validation: Validation | None,
        cases: NameCases | None,
        *,
        progress: ProgressCallback | None,
        cancel: Cancel | None,
    ) -> None:
        """All epochs that are left."""

        def diverged(batch: int, loss: float) -> None:
            raise self._bad_batch(batch, loss, training, cases)

        watch = Watch(self.schedule, diverged, self._take_state, progress=progress, cancel=cancel)
        self._tidy()
        if self.checkpoint.history:
            self._show()  # a run that was killed may not have come to it
        with EventLog(self.folder / EVENTS, self.checkpoint.history) as events:
            while (stopped := stop_reason(self.checkpoint.history, self.schedule)) is None:
                self._epoch(training, validation, watch)
                events.add(self.checkpoint.history[-1])
                self._show()
        self._tidy(ended=True)
        # Nothing goes on from here: without the arrays, which are three or four times the weights.
        save_checkpoint(self.folder / CHECKPOINT, Checkpoint(self.checkpoint.history, stopped=stopped))

    def _epoch(self, training: Training, validation: Validation | None, watch: Watch) -> None:
        """Train, validate, keep the weights if they are the best so far, write the checkpoint."""
        began, epoch, steps = time.perf_counter(), self.epoch, self.schedule.steps_per_epoch
        self._enter(FROZEN if epoch < self.frozen_epochs else WHOLE)
        watch.start(epoch * steps, self.checkpoint.history[-1] if epoch else None)
        samples = first_batches(training(self._sample()), steps)
        with self.on_devices():
            self.learner.fit(samples, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[watch])
        if watch.batches < steps:
            raise BadInput(f"expected training batches without end, got {watch.batches} of {steps} in an epoch")
        # Now the network holds the averaged weights, if they are averaged. On JAX in the very arrays of the
        # optimiser, where the next to use them would destroy them for the other: it gets its own again.
        assign(self.learner.optimizer.variables, self._state.optimiser)
        if self.schedule.settle_batches and (validation is not None or self._kept_without(epoch + 1)):
            self._settle(training(self._sample()))
        rate = float(self.rates[(epoch + 1) * steps - 1])
        row = {"epoch": epoch + 1, "phase": self.phase, "learning_rate": rate, "loss": watch.loss}
        if validation is not None:
            row |= self._validate(validation(), watch)
        row["seconds"] = round(time.perf_counter() - began, 3)
        history = (*self.checkpoint.history, row)
        self._keep(history)
        save_checkpoint(self.folder / CHECKPOINT, replace(self._state, history=history))
        assign(self.network.variables, self._state.network)
        self.checkpoint, self._state = Checkpoint(history, self.phase), Checkpoint()
        self._tidy()
        memory.trim()

    def _keep(self, history: Sequence[Row]) -> None:
        """Save the weights of the last epoch where they are to be kept, or those of an earlier one that are now."""
        epoch, kept = len(history), kept_epoch(history, self.schedule)
        if kept == epoch:
            self._save(WEIGHTS)
        elif len(history) > 1 and kept != kept_epoch(history[:-1], self.schedule):
            copy_atomically(self.folder / CANDIDATE.format(kept), self.folder / WEIGHTS)
        if epoch == candidate_epoch(history, self.schedule) != kept:
            self._save(CANDIDATE.format(epoch))
        if epoch in self.schedule.snapshot_epochs:
            self._save(SNAPSHOT.format(self.schedule.snapshot_epochs[epoch]))

    def _save(self, name: str) -> None:
        room = sum(array.nbytes + HDF5_BYTES for array in self._state.network)
        with replacing(self.folder / name, least_bytes=room) as temporary:
            self.network.save_weights(temporary)

    def _kept_without(self, epoch: int) -> bool:
        """Whether the weights of an epoch (from 1) are kept although nothing is validated."""
        return epoch == self.schedule.epochs or epoch in self.schedule.snapshot_epochs

    def _tidy(self, *, ended: bool = False) -> None:
        """Remove candidates that can no longer be kept, and what a killed run left of them."""
        history = self.checkpoint.history
        wanted = CANDIDATE.format(candidate_epoch(history, self.schedule)) if history and not ended else None
        for pattern in (CANDIDATE.format("*"), "." + CANDIDATE.format("*")):
            for path in self.folder.glob(pattern):
                if path.name != wanted:
                    path.unlink()

    @property
    def epoch(self) -> int:
        """Epochs that are done; the number of the one in work, from 0."""
        return len(self.checkpoint.history)

    def _sample(self, batch: int = 0) -> int:
        """The first sample of a batch of this epoch."""
        return (self.epoch * self.schedule.steps_per_epoch + batch) * self.schedule.batch

    def _enter(self, phase: str) -> None:
        """Freeze or release the encoder, with a new optimiser or that of the checkpoint."""
        if phase == self.phase:
            return
        for layer in encoder_layers(self.network) if self.frozen_epochs else ():
            layer.trainable = phase == WHOLE
        steps_before = 0 if phase == FROZEN else self.frozen_epochs * self.schedule.steps_per_epoch
        with self.on_devices():
            optimiser = new_optimiser(self.schedule, self.rates[steps_before:])
            optimiser.build(self.learner.trainable_variables)
            self.learner.compile(optimiser, self.objective.loss(self.schedule), jit_compile=compiled_by_xla())
        if self.checkpoint.phase == phase:
            assign(optimiser.variables, self.checkpoint.optimiser)
        self.phase = phase

    def _take_state(self) -> None:
        """Take what the next epoch begins with, before averaged weights replace those that go on learning."""
        network, optimiser = values(self.network.variables), values(self.learner.optimizer.variables)
        if not all(np.isfinite(array).all() for array in (*network, *optimiser)):
            raise self._diverged("the weights became NaN or infinite")
        self._state = Checkpoint((), self.phase, None, network, optimiser)

    def _settle(self, samples: Dataset) -> None:
        """Let batch normalisation see the weights to be kept at work."""
        for images, _ in read_batches(samples, self.schedule.settle_batches):
            self.network(images, training=True)

    def _validate(self, samples: Dataset, watch: Watch) -> dict[str, float | None]:
        """The scores on the validation samples; None where one is not defined."""
        scores = self.scorer.evaluate(samples, verbose=0, return_dict=True, callbacks=[watch])
        found = {f"val_{name}": float(value) for name, value in scores.items()}
        if not math.isfinite(found["val_loss"]):
            raise self._diverged(f"the validation loss became {found['val_loss']}")
        return {name: value if math.isfinite(value) else None for name, value in found.items()}

    def _bad_batch(self, batch: int, loss: float, training: Training, cases: NameCases | None) -> TrainingDiverged:
        """The loss became `loss`: which batch it was, and whether its samples are to blame."""
        first, what = self._sample(batch), self.objective.samples
        samples = range(first, first + self.schedule.batch)
        where = f"batch {batch + 1} of {self.schedule.steps_per_epoch} ({what} {first} to {samples[-1]}"
        if cases is not None:
            where += f", of {', '.join(dict.fromkeys(cases(samples)))}"
        again = next(read_batches(training(first), 1), ())
        if all(np.isfinite(np.asarray(part)).all() for part in again):
            return self._diverged(f"the loss became {loss} at {where})")
        return self._diverged(f"the loss became {loss} at {where})", f"these {what} themselves hold NaN or infinity")

    def _diverged(self, what: str, advice: str = LOWER) -> TrainingDiverged:
        kept = "no weights were kept yet"
        if self.epoch:
            best = kept_epoch(self.checkpoint.history, self.schedule)
            kept = f"the weights of epoch {best} are kept in {self.folder / WEIGHTS}"
        return TrainingDiverged(f"epoch {self.epoch + 1} of {self.schedule.epochs}: {what}; {advice}; {kept}")

    def _show(self) -> None:
        """Table and picture of the history."""
        history, scores = self.checkpoint.history, self.objective.scores
        write_csv(self.folder / HISTORY, history, scores=scores)
        draw_curves(self.folder / CURVES, history, scores=scores, kept=kept_epoch(history, self.schedule))
