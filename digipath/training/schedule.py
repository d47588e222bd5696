"""The schedule of a training: how long, how fast it learns, when it stops; plain numbers, no Keras."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput

OPTIMISERS = ("adam", "adamw")
DECAYS = ("step", "cosine", "none")

Row = Mapping[str, Any]  # of the history: what one epoch gave


@dataclass(frozen=True)
class Schedule:
    """How one network is trained; the defaults follow Khened 2021, section "Training", where it says.

    Attributes:
        epochs: the most there are. steps_per_epoch: batches in one. batch: patches in a batch, over all
            devices.
        frozen_epochs: during the first so many, an encoder that was loaded stays as it is; one that
            begins with random weights is never frozen.
        optimiser: one of `OPTIMISERS`. weight_decay: of "adamw", per step and unit of learning rate.
        learning_rate: its highest. decay: "step" multiplies it by `decay_factor` every `decay_every`
            epochs, "cosine" brings it to zero at the end. warmup_epochs: it rises linearly at first.
        clip_norm: the gradient is shortened to this norm.
        patience: stop once the validation loss has had no new minimum for so many epochs, those of the
            frozen encoder not counted; None never stops.
        averaging: momentum in [0, 1) of a moving average of the weights, over steps. What is validated
            and kept is then the average.
        settle_batches: forward passes after which the batch normalisation knows the statistics of the
            weights to be kept; before each validation, and at the end.
        mixed_precision: compute in bfloat16, keep weights in float32.
        label_smoothing: in [0, 1), the share of each truth that is replaced by one half.
        cross_entropy_weight, background_weight, foreground_weight: of the hybrid loss (equation 3).
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
    clip_norm: float | None = None
    patience: int | None = 3
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
        for name in ("clip_norm", "patience"):
            value = getattr(self, name)
            _expect(value is None or 0 < value < math.inf, name, "positive or none", value)
        _expect(self.averaging is None or 0 <= self.averaging < 1, "averaging", "in [0, 1) or none", self.averaging)
        _expect(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)", self.label_smoothing)
        weights = (self.cross_entropy_weight, self.background_weight, self.foreground_weight)
        for name, weight in zip(("cross_entropy", "background", "foreground"), weights, strict=True):
            _expect(0 <= weight < math.inf, f"{name}_weight", "0 or more", weight)
        _expect(sum(weights) > 0, "the weights of the loss", "not all 0", weights)


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
    """The epoch whose weights are kept: of the least validation loss, the first of equals; else the last."""
    if "val_loss" not in history[-1]:
        return history[-1]
    return min(history, key=lambda row: float(row["val_loss"]))


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
