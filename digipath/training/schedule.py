"""The schedule of a training: how long, how fast it learns, when it stops; plain numbers, no Keras."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput

OPTIMISERS = ("adam", "adamw", "sgd")
DECAYS = ("step", "cosine", "none")
KEEPS = ("loss", "accuracy", "last")

Row = Mapping[str, Any]  # of the history: what one epoch gave


@dataclass(frozen=True)
class Schedule:
    """How one network is trained; the defaults follow Khened 2021, section "Training", where it says.

    Attributes:
        epochs: the most there are. steps_per_epoch: batches in one. batch: patches in a batch, over all
            devices.
        frozen_epochs: during the first so many, an encoder that was loaded stays as it is; one that
            begins with random weights is never frozen.
        optimiser: one of `OPTIMISERS`. weight_decay: of "adamw", per step and unit of learning rate. momentum:
            of "sgd", in [0, 1); 0 is plain gradient descent.
        learning_rate: its highest. decay: "step" multiplies it by `decay_factor` every `decay_every`
            epochs, "cosine" brings it to zero at the end. warmup_epochs: it rises linearly at first.
        clip_norm: the gradient is shortened to this norm.
        patience: stop once the validation loss has had no new minimum for so many epochs, those of the
            frozen encoder not counted; None never stops.
        keep: which weights stay, see `kept_epoch`. "loss": of the least validation loss; "accuracy": of the
            highest validation accuracy up to the epoch of the least validation loss, where Truong et al. 2020
            cut the training off; "last". Without validation always the last.
        snapshots: numbers of epochs before the last after which weights are kept too, 0 the last itself
            (Lerousseau et al. 2020: 0 and 10). Only with patience None, for else nobody knows the last.
        averaging: momentum in [0, 1) of a moving average of the weights, over steps. What is validated
            and kept is then the average.
        settle_batches: forward passes after which the batch normalisation knows the statistics of the
            weights to be kept; before each validation, and at the end.
        mixed_precision: compute in bfloat16, keep weights in float32.
        label_smoothing: in [0, 1), the share of each truth that is replaced by equal parts of all classes.
        cross_entropy_weight, background_weight, foreground_weight: of the hybrid loss (equation 3), with
            which networks learn to segment.
    """

    epochs: int
    steps_per_epoch: int
    batch: int
    frozen_epochs: int = 2
    optimiser: str = "adam"
    learning_rate: float = 1e-3
    decay: str = "step"
    decay_every: int = 3
    decay_factor: float = 0.5
    warmup_epochs: int = 0
    weight_decay: float = 0.0
    momentum: float = 0.0
    clip_norm: float | None = None
    patience: int | None = 3
    keep: str = "loss"
    snapshots: tuple[int, ...] = ()
    averaging: float | None = None
    settle_batches: int = 0
    mixed_precision: bool = False
    label_smoothing: float = 0.0
    cross_entropy_weight: float = 0.5
    background_weight: float = 0.25
    foreground_weight: float = 0.25

    def check(self) -> None:
        """Raise BadInput, naming the setting, unless all is in range."""
        for name in ("epochs", "steps_per_epoch", "batch", "decay_every"):
            _expect(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("frozen_epochs", "warmup_epochs", "settle_batches"):
            _expect(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        _expect(self.optimiser in OPTIMISERS, "optimiser", f"one of {', '.join(OPTIMISERS)}", self.optimiser)
        _expect(self.decay in DECAYS, "decay", f"one of {', '.join(DECAYS)}", self.decay)
        _expect(0 < self.learning_rate < math.inf, "learning_rate", "positive and finite", self.learning_rate)
        _expect(0 < self.decay_factor <= 1, "decay_factor", "in (0, 1]", self.decay_factor)
        _expect(self.warmup_epochs < self.epochs, "warmup_epochs", "fewer than epochs", self.warmup_epochs)
        _expect(0 <= self.weight_decay < math.inf, "weight_decay", "0 or more", self.weight_decay)
        _expect(
            self.weight_decay == 0 or self.optimiser == "adamw", "weight_decay", "0 unless for adamw", self.weight_decay
        )
        _expect(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        _expect(self.momentum == 0 or self.optimiser == "sgd", "momentum", "0 unless for sgd", self.momentum)
        for name in ("clip_norm", "patience"):
            value = getattr(self, name)
            _expect(value is None or 0 < value < math.inf, name, "positive or none", value)
        _expect(self.averaging is None or 0 <= self.averaging < 1, "averaging", "in [0, 1) or none", self.averaging)
        self._check_kept()
        _expect(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)", self.label_smoothing)
        weights = (self.cross_entropy_weight, self.background_weight, self.foreground_weight)
        for name, weight in zip(("cross_entropy", "background", "foreground"), weights, strict=True):
            _expect(0 <= weight < math.inf, f"{name}_weight", "0 or more", weight)
        _expect(sum(weights) > 0, "the weights of the loss", "not all 0", weights)

    def _check_kept(self) -> None:
        _expect(self.keep in KEEPS, "keep", f"one of {', '.join(KEEPS)}", self.keep)
        early = [before for before in self.snapshots if not 0 <= before < self.epochs]
        _expect(not early, "snapshots", f"from 0 up to {self.epochs - 1} epochs before the last", early)
        _expect(len(set(self.snapshots)) == len(self.snapshots), "snapshots", "each once", self.snapshots)
        if self.snapshots:
            _expect(self.patience is None, "patience", "none with snapshots, which count from the last", self.patience)

    @property
    def snapshot_epochs(self) -> dict[int, int]:
        """The epochs (from 1) whose weights are kept too: how many come after each."""
        return {self.epochs - before: before for before in self.snapshots}


def learning_rates(schedule: Schedule) -> NDArray[np.float64]:
    """The learning rate of every step, (epochs × steps_per_epoch,).

    With n steps in an epoch, w warm-up epochs and N steps in all, step s (from 0) of epoch k (from 0):
    rate × (s + 1) / (w n) while s < w n; then rate × factor^⌊k / every⌋, or
    rate × ½ (1 + cos(π (s − w n) / (N − w n))), or rate.
    """
    per_epoch, steps = schedule.steps_per_epoch, np.arange(schedule.epochs * schedule.steps_per_epoch)
    warm = schedule.warmup_epochs * per_epoch
    rates = np.full(len(steps), schedule.learning_rate)
    if schedule.decay == "step":
        rates *= schedule.decay_factor ** (steps // per_epoch // schedule.decay_every)
    elif schedule.decay == "cosine":
        rates *= 0.5 * (1 + np.cos(np.pi * np.maximum(steps - warm, 0) / (len(steps) - warm)))
    rates[:warm] = schedule.learning_rate * (steps[:warm] + 1) / max(warm, 1)
    return rates


def best_row(history: Sequence[Row]) -> Row:
    """The epoch of the least validation loss, the first of equals; the last where there is no validation."""
    if "val_loss" not in history[-1]:
        return history[-1]
    return min(history, key=lambda row: float(row["val_loss"]))


def kept_epoch(history: Sequence[Row], schedule: Schedule) -> int:
    """The epoch, from 1, whose weights are kept after these epochs, by `schedule.keep`.

    "loss": the one of the least validation loss, the first of equals. "accuracy": of the epochs up to that one,
    the one of the highest validation accuracy, the first of equals. "last", or without validation: the last.
    """
    if schedule.keep == "last":
        return int(history[-1]["epoch"])
    best = best_row(history)
    if schedule.keep == "accuracy" and "val_loss" in best:
        best = _most_accurate(history[: history.index(best) + 1])
    return int(best["epoch"])


def candidate_epoch(history: Sequence[Row], schedule: Schedule) -> int:
    """The epoch that `kept_epoch` would give if the next one had the least validation loss, but no better accuracy.

    What will be kept in the end is at any time this one, the one kept now, or still to come.
    """
    if schedule.keep == "accuracy" and "val_loss" in history[-1]:
        return int(_most_accurate(history)["epoch"])
    return kept_epoch(history, schedule)


def _most_accurate(history: Sequence[Row]) -> Row:
    return max(history, key=lambda row: float(row["val_accuracy"]))


def stop_reason(history: Sequence[Row], schedule: Schedule) -> str | None:
    """Why a training ends after these epochs: "patience" or "epochs"; None while it goes on."""
    if not history:
        return None
    if schedule.patience is not None and "val_loss" in history[-1]:
        frozen = sum(row["phase"] == "frozen" for row in history)
        if len(history) - max(best_row(history)["epoch"], frozen) >= schedule.patience:
            return "patience"
    return "epochs" if len(history) >= schedule.epochs else None


def _expect(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise BadInput(f"expected {name} {expected}, got {got}")
