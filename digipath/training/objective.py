"""What a network learns, and by what it is scored: to segment, or to tell classes apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from digipath.errors import BadInput
from digipath.nn.losses import ROC_POINTS, Auroc, Dice, HybridLoss, Jaccard
from digipath.training.history import SEGMENTATION_SCORES
from digipath.training.schedule import Schedule

Tensor: TypeAlias = keras.KerasTensor  # or the tensor of the backend


@dataclass(frozen=True)
class Objective:
    """What a network learns and is scored by.

    Attributes:
        loss: the Keras loss that a schedule asks for. metrics: new Keras metrics of the validation.
        scores: columns of the history that the metrics fill, "val_" and their names, with what the picture of
            the curves calls them.
        output: the tensor of a network that loss and metrics look at.
        samples: what the network sees, in words.
        identity: what the weights depend on besides the schedule; as JSON.
    """

    loss: Callable[[Schedule], keras.losses.Loss]
    metrics: Callable[[], list[keras.metrics.Metric]]
    scores: Mapping[str, str]
    output: Callable[[keras.Model], Tensor]
    samples: str = "patches"
    identity: Mapping[str, Any] = field(default_factory=dict)

    def check(self, schedule: Schedule) -> None:
        """Raise BadInput unless what the schedule keeps weights by is measured."""
        if schedule.keep == "accuracy" and "val_accuracy" not in self.scores:
            raise BadInput("expected keep to be loss or last, for this network has no accuracy, got accuracy")


def hybrid(schedule: Schedule) -> HybridLoss:
    """The hybrid loss with the schedule's weights."""
    return HybridLoss(
        schedule.cross_entropy_weight,
        schedule.background_weight,
        schedule.foreground_weight,
        label_smoothing=schedule.label_smoothing,
    )


SEGMENTATION = Objective(
    loss=hybrid,
    metrics=lambda: [Dice(), Jaccard(), Auroc()],
    scores=SEGMENTATION_SCORES,
    output=lambda network: network.output,
)


def classification(classes: int, class_weights: Sequence[float] | None = None) -> Objective:
    """To tell `classes` classes apart: cross-entropy, watched by accuracy and macro-averaged AUROC.

    The truth is one-hot, (B, C) float32. The network ends in an `Activation("softmax")`; loss and metrics
    look at what goes into it, the logits z: with w the class weights, y the truth and p = softmax(z),

        loss = mean over the batch of Σ_c w_c y_c (log Σ_k exp z_k − z_c)

    so that no probability is ever rounded to 0 (Lerousseau et al. 2020 leave the softmax out for the same
    reason). The mean is over samples, not over weights, so that devices may share a batch.

    Args:
        classes: 2 or more. class_weights: one per class, see `class_weights`; None: all 1.

    Raises:
        BadInput: fewer than 2 classes, or weights that are not one finite number ≥ 0 for each.
    """
    weights = (1.0,) * classes if class_weights is None else tuple(float(weight) for weight in class_weights)
    if classes < 2:
        raise BadInput(f"expected at least two classes to tell apart, got {classes}")
    if len(weights) != classes or not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise BadInput(f"expected {classes} class weights, finite and 0 or more, not all 0, got {list(weights)}")
    return Objective(
        loss=lambda schedule: WeightedCrossEntropy(weights, label_smoothing=schedule.label_smoothing),
        metrics=lambda: [keras.metrics.CategoricalAccuracy(name="accuracy"), MacroAuroc()],
        scores={"val_accuracy": "accuracy", "val_auroc": "macro AUROC"},
        output=logits_of,
        samples="samples",
        identity={"classes": classes, "class_weights": list(weights)},
    )


def class_weights(labels: Sequence[int] | NDArray[np.integer], classes: int) -> NDArray[np.float64]:
    """Weights by inverse frequency (Lerousseau et al. 2020), scaled to a mean of 1 over the classes.

    labels: class of each sample, 0 to classes − 1. Returns (C,) w_c = (1 / n_c) / mean over k of (1 / n_k).
    Raises BadInput: a label out of range, or a class without any sample.
    """
    found = np.asarray(labels, np.int64)
    if found.size and not (found.min() >= 0 and found.max() < classes):
        raise BadInput(f"expected labels from 0 to {classes - 1}, got {found.min()} to {found.max()}")
    counts = np.bincount(found, minlength=classes)
    if not counts.all():
        raise BadInput(f"expected samples of all {classes} classes to weigh them, there is none of {counts.argmin()}")
    inverse = 1 / counts
    return np.asarray(inverse / inverse.mean())


def logits_of(network: keras.Model) -> Tensor:
    """What goes into the softmax at a network's end. Raises BadInput if there is none."""
    last = network.layers[-1]
    if not isinstance(last, keras.layers.Activation) or last.get_config()["activation"] != "softmax":
        raise BadInput(f"expected a network that ends in a softmax activation of its own, got {last.name!r}")
    return last.input


class WeightedCrossEntropy(keras.losses.Loss):
    """Categorical cross-entropy of logits with class weights; see `classification`.

    label_smoothing: share s of the truth that is spread over the C classes: y becomes y (1 − s) + s / C. The
    weight of a sample is that of its own class, Σ w_c y_c, taken before.
    """

    def __init__(self, weights: Sequence[float], *, label_smoothing: float = 0.0) -> None:
        super().__init__(name="cross_entropy")
        self.weights, self.label_smoothing = tuple(weights), label_smoothing

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        truth, logits = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
        weight = ops.sum(truth * ops.convert_to_tensor(self.weights, "float32"), axis=-1)
        smooth = truth * (1.0 - self.label_smoothing) + self.label_smoothing / len(self.weights)
        return -weight * ops.sum(smooth * ops.log_softmax(logits, axis=-1), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {"weights": list(self.weights), "label_smoothing": self.label_smoothing}


class MacroAuroc(keras.metrics.AUC):
    """Mean over the classes of the AUROC of each against the rest, from logits; NaN while a class is absent.

    Of 1001 thresholds, trapezoidal, as `digipath.nn.losses.Auroc`.
    """

    def __init__(self, name: str = "auroc") -> None:
        super().__init__(ROC_POINTS, name=name, multi_label=True)

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: None = None) -> None:
        super().update_state(y_true, ops.softmax(ops.cast(y_pred, "float32"), axis=-1), sample_weight)

    def result(self) -> Tensor:
        positives = self.true_positives[0] + self.false_negatives[0]
        negatives = self.false_positives[0] + self.true_negatives[0]
        return ops.where(ops.all(positives * negatives > 0), ops.minimum(super().result(), 1.0), math.nan)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}
