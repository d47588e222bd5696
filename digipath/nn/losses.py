"""Losses of segmentation: cross-entropy and Dice, and their sum of Khened 2021; scores to watch them by.

Truth and probability have the shape (B, H, W, 1), or (B, H, W, 2) with the background first (one-hot
truth, softmax output). Truth may be of any number type, bool too. All is written in `keras.ops`: every
backend of Keras trains with it. Weights of samples are refused: all is taken over the whole batch.

References:
    Khened et al. 2021, "A generalized deep learning framework for whole-slide image segmentation
    and analysis", section "Loss function", equations 1 to 3.
    Milletari et al. 2016, "V-Net", doi:10.1109/3DV.2016.79 (squared denominators).
    Szegedy et al. 2016, "Rethinking the Inception architecture", doi:10.1109/CVPR.2016.308, section 7
    (label smoothing).
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import keras
from keras import ops

from digipath.errors import BadInput

Tensor: TypeAlias = keras.KerasTensor  # or the tensor of the backend, or a NumPy array

EPSILON_DICE = 1e-6  # makes the Dice loss of two empty masks 0 instead of 0/0
EPSILON_LOG = 1e-7  # keeps the logarithm finite; about the resolution of float32 next to 1
FOUND = 0.5  # what has a higher probability counts as found
ROC_POINTS = 1001  # thresholds of the ROC curve, evenly over [0, 1]


def cross_entropy(truth: Tensor, probability: Tensor) -> Tensor:
    """Mean binary cross-entropy in nats, in [0, 16.2] (equation 2).

    CL = −1/N Σ (g log p + (1 − g) log(1 − p)). The paper prints the sum without its minus sign and
    without 1/N; the mean makes the weights of equation 3 independent of the patch size.
    """
    g, p = _alike(truth, probability)
    p = ops.clip(p, EPSILON_LOG, 1.0 - EPSILON_LOG)
    return -ops.mean(g * ops.log(p) + (1.0 - g) * ops.log(1.0 - p))


def dice_loss(truth: Tensor, probability: Tensor) -> Tensor:
    """One minus the soft Dice coefficient over the whole batch, in [0, 1] (equation 1).

    DL = 1 − (2 Σ p g + ε) / (Σ p² + Σ g² + ε). Taken over the batch, so that a patch without tumour
    does not make the ratio jump between 0 and 1.
    """
    g, p = _alike(truth, probability)
    overlap = 2.0 * ops.sum(g * p)
    sizes = ops.sum(ops.square(g)) + ops.sum(ops.square(p))
    return 1.0 - (overlap + EPSILON_DICE) / (sizes + EPSILON_DICE)


def hybrid_loss(
    truth: Tensor,
    probability: Tensor,
    *,
    cross_entropy_weight: float = 0.5,
    background_weight: float = 0.25,
    foreground_weight: float = 0.25,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Weighted sum of cross-entropy, background Dice loss and foreground Dice loss (equation 3).

    Args:
        truth, probability: each (B, H, W, 1) of the foreground, or (B, H, W, 2) with the background
            first; in [0, 1]. Soft truth is accepted.
        label_smoothing: the share s in [0, 1) of the truth that is replaced by one half: g becomes
            g (1 − s) + s / 2, for labels that are not to be trusted fully.

    Returns:
        Scalar tensor, 0 for a perfect prediction of a hard truth.

    Raises:
        BadInput: the last axis is neither 1 nor 2, or the label smoothing is out of range.
    """
    _check_smoothing(label_smoothing)
    g, p = _alike(_foreground(truth), _foreground(probability))
    g = g * (1.0 - label_smoothing) + 0.5 * label_smoothing
    return (
        cross_entropy_weight * cross_entropy(g, p)
        + background_weight * dice_loss(1.0 - g, 1.0 - p)
        + foreground_weight * dice_loss(g, p)
    )


def _alike(truth: Tensor, probability: Tensor) -> tuple[Tensor, Tensor]:
    """Both as tensors of the probability's type: backends differ in what they make of two types."""
    p = ops.convert_to_tensor(probability)
    return ops.cast(truth, p.dtype), p


def _check_smoothing(share: float) -> None:
    if not 0 <= share < 1:
        raise BadInput(f"expected a label smoothing in [0, 1), got {share}")


def _refuse_weights(sample_weight: object, name: str) -> None:
    """Raise BadInput for weights, which would scale a loss of the whole batch or count for nothing."""
    if sample_weight is not None:
        raise BadInput(f"expected no sample or class weights for {name}, which is of the whole batch: leave them out")


def _foreground(values: Tensor) -> Tensor:
    """(B, H, W, 1 or 2) → (B, H, W, 1): the last channel."""
    channels = values.shape[-1]
    if channels not in (1, 2):
        raise BadInput(f"expected 1 channel or 2 (background, foreground), got {channels}")
    return values[..., -1:]


def _mask(values: Tensor, dtype: str) -> Tensor:
    """1 where the foreground is found, else 0."""
    return ops.cast(ops.cast(_foreground(values), dtype) > FOUND, dtype)


@keras.saving.register_keras_serializable(package="digipath")
class HybridLoss(keras.losses.Loss):
    """`hybrid_loss` for `model.compile`; it only remembers the settings.

    Raises:
        BadInput: the label smoothing is out of range; when called, as `hybrid_loss`, or with weights.
    """

    def __init__(
        self,
        cross_entropy_weight: float = 0.5,
        background_weight: float = 0.25,
        foreground_weight: float = 0.25,
        *,
        label_smoothing: float = 0.0,
        name: str = "hybrid_loss",
        reduction: str = "sum_over_batch_size",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        _check_smoothing(label_smoothing)
        self.settings = {
            "cross_entropy_weight": cross_entropy_weight,
            "background_weight": background_weight,
            "foreground_weight": foreground_weight,
            "label_smoothing": label_smoothing,
        }

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: None = None) -> Tensor:
        _refuse_weights(sample_weight, self.name)
        return super().__call__(y_true, y_pred)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        # One value in an array: what is no array escapes Keras' reduction, in which devices share a loss.
        return ops.reshape(hybrid_loss(y_true, y_pred, **self.settings), (1,))

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), **self.settings}


class _Overlap(keras.metrics.Metric):
    """Counts pixels of both masks and of their overlap, over all batches since the last reset."""

    def __init__(self, name: str, dtype: str | None = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.overlap = self.add_variable((), "zeros", name="overlap")
        self.sizes = self.add_variable((), "zeros", name="sizes")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: None = None) -> None:
        _refuse_weights(sample_weight, self.name)
        truth, found = _mask(y_true, self.dtype), _mask(y_pred, self.dtype)
        self.overlap.assign_add(ops.sum(truth * found))
        self.sizes.assign_add(ops.sum(truth) + ops.sum(found))

    def _share(self, part: Tensor, whole: Tensor) -> Tensor:
        """part / whole; 1 where both masks are empty: they agree."""
        return ops.where(whole > 0, part / ops.maximum(whole, 1.0), 1.0)


@keras.saving.register_keras_serializable(package="digipath")
class Dice(_Overlap):
    """Dice coefficient of all pixels seen, in [0, 1]: `measure.scores.pooled_dice` as a Keras metric.

    Truth and probability as for `hybrid_loss`; what is above 0.5 is foreground.
    """

    def __init__(self, name: str = "dice", dtype: str | None = None) -> None:
        super().__init__(name, dtype)

    def result(self) -> Tensor:
        return self._share(2.0 * self.overlap, self.sizes)


@keras.saving.register_keras_serializable(package="digipath")
class Jaccard(_Overlap):
    """Jaccard index of all pixels seen, in [0, 1]; with D the Dice coefficient, D / (2 − D)."""

    def __init__(self, name: str = "jaccard", dtype: str | None = None) -> None:
        super().__init__(name, dtype)

    def result(self) -> Tensor:
        return self._share(self.overlap, self.sizes - self.overlap)


@keras.saving.register_keras_serializable(package="digipath")
class Auroc(keras.metrics.AUC):
    """Area under the ROC curve of all pixels seen, in [0, 1]; NaN while they are of one class.

    Of 1001 thresholds, trapezoidal: it does not hold the pixels, and differs from
    `measure.scores.auroc` by what happens within a thousandth of probability.
    """

    def __init__(self, name: str = "auroc", dtype: str | None = None) -> None:
        super().__init__(ROC_POINTS, name=name, dtype=dtype)

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: None = None) -> None:
        _refuse_weights(sample_weight, self.name)
        super().update_state(_mask(y_true, self.dtype), _foreground(y_pred))

    def result(self) -> Tensor:
        positives = self.true_positives[0] + self.false_negatives[0]
        negatives = self.false_positives[0] + self.true_negatives[0]
        return ops.where(positives * negatives > 0, super().result(), math.nan)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype}
