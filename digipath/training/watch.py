"""What happens between the batches of a training: it is told how it goes, asked to stop, and checked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras

from digipath.errors import Cancelled
from digipath.training.schedule import Row, Schedule
from digipath.values import Cancel, Progress, ProgressCallback


class Watch(keras.callbacks.Callback):
    """Watches one epoch after the other, between `start` and the end of its validation.

    Args:
        diverged: called with the batch (from 0) after which the mean loss of the epoch is not finite;
            raises.
        finished: called at the end of an epoch, before Keras puts averaged weights in place.

    Attributes:
        loss: the mean loss of the last epoch that was finished.
        batches: of this epoch so far.
    """

    def __init__(
        self,
        schedule: Schedule,
        diverged: Callable[[int, float], None],
        finished: Callable[[], None],
        *,
        progress: ProgressCallback | None,
        cancel: Cancel | None,
    ) -> None:
        super().__init__()
        self.loss = math.nan
        self.batches = 0
        self._schedule = schedule
        self._diverged = diverged
        self._finished = finished
        self._progress = progress
        self._cancel = cancel
        self._began: tuple[float, int] | None = None
        self._done = 0
        self._last: Row | None = None

    def start(self, done: int, last: Row | None) -> None:
        """An epoch begins: `done` batches lie behind, `last` is the epoch before."""
        self.batches, self._done, self._last = 0, done, last
        if self._began is None:
            self._began = (time.perf_counter(), done)
            self._tell("starting")

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._ask()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        loss = float((logs or {})["loss"])  # the mean over the epoch so far: once NaN, it stays so
        self.batches += 1
        self._done += 1
        if not math.isfinite(loss):
            self._diverged(batch, loss)
        self._tell(f"loss {loss:.4f}")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.loss = float((logs or {})["loss"])
        self._finished()

    def on_test_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._ask()
        self._tell(f"loss {self.loss:.4f}, validating")

    def _ask(self) -> None:
        if self._cancel is not None and self._cancel():
            raise Cancelled(f"cancelled; the same call goes on after epoch {self._epochs}")

    def _tell(self, message: str) -> None:
        if self._progress is None or self._began is None:
            return
        since, before = self._began
        rate = (self._done - before) / max(time.perf_counter() - since, 1e-9)
        if self._last is not None and "val_loss" in self._last:
            message += f", last validation loss {self._last['val_loss']:.4f}"
        epochs = self._schedule.epochs
        total = epochs * self._schedule.steps_per_epoch
        self._progress(Progress(self._done, total, rate, f"epoch {self._epochs + 1} of {epochs}: {message}"))

    @property
    def _epochs(self) -> int:
        """Epochs that are done."""
        return 0 if self._last is None else int(self._last["epoch"])
