"""Losses of segmentation: cross-entropy and Dice, and their sum of Khened 2021.

Truth and probability have the same shape (B, H, W, 1), or (B, H, W, 2) with the background first
(one-hot truth, softmax output). All is written in `keras.ops`: every backend of Keras trains with it.

References:
    Khened et al. 2021, "A generalized deep learning framework for whole-slide image segmentation
    and analysis", section "Loss function", equations 1 to 3.
    Milletari et al. 2016, "V-Net", doi:10.1109/3DV.2016.79 (squared denominators).
"""

from __future__ import annotations

from typing import TypeAlias

import keras
from keras import ops

from digipath.errors import BadInput

Tensor: TypeAlias = keras.KerasTensor  # or the tensor of the backend, or a NumPy array

EPSILON_DICE = 1e-6  # makes the Dice loss of two empty masks 0 instead of 0/0
EPSILON_LOG = 1e-7  # keeps the logarithm finite; about the resolution of float32 next to 1


def cross_entropy(truth: Tensor, probability: Tensor) -> Tensor:
    """Mean binary cross-entropy in nats, in [0, 16.2] (equation 2).

    CL = −1/N Σ (g log p + (1 − g) log(1 − p)). The paper prints the sum without its minus sign and
    without 1/N; the mean makes the weights of equation 3 independent of the patch size.
    """
    p = ops.clip(probability, EPSILON_LOG, 1.0 - EPSILON_LOG)
    return -ops.mean(truth * ops.log(p) + (1.0 - truth) * ops.log(1.0 - p))


def dice_loss(truth: Tensor, probability: Tensor) -> Tensor:
    """One minus the soft Dice coefficient over the whole batch, in [0, 1] (equation 1).

    DL = 1 − (2 Σ p g + ε) / (Σ p² + Σ g² + ε). Taken over the batch, so that a patch without tumour
    does not make the ratio jump between 0 and 1.
    """
    overlap = 2.0 * ops.sum(truth * probability)
    sizes = ops.sum(ops.square(truth)) + ops.sum(ops.square(probability))
    return 1.0 - (overlap + EPSILON_DICE) / (sizes + EPSILON_DICE)


def hybrid_loss(
    truth: Tensor,
    probability: Tensor,
    *,
    cross_entropy_weight: float = 0.5,
    background_weight: float = 0.25,
    foreground_weight: float = 0.25,
) -> Tensor:
    """Weighted sum of cross-entropy, background Dice loss and foreground Dice loss (equation 3).

    Args:
        truth, probability: (B, H, W, 1) of the foreground, or (B, H, W, 2) with the background
            first; in [0, 1]. Soft truth is accepted.

    Returns:
        Scalar tensor, 0 for a perfect prediction of a hard truth.

    Raises:
        BadInput: the last axis is neither 1 nor 2.
    """
    g, p = _foreground(truth), _foreground(probability)
    return (
        cross_entropy_weight * cross_entropy(g, p)
        + background_weight * dice_loss(1.0 - g, 1.0 - p)
        + foreground_weight * dice_loss(g, p)
    )


def _foreground(values: Tensor) -> Tensor:
    """(B, H, W, 1 or 2) → (B, H, W, 1): the last channel."""
    channels = values.shape[-1]
    if channels not in (1, 2):
        raise BadInput(f"expected 1 channel or 2 (background, foreground), got {channels}")
    return values[..., -1:]


@keras.saving.register_keras_serializable(package="digipath")
class HybridLoss(keras.losses.Loss):
    """`hybrid_loss` for `model.compile`; it only remembers the three weights."""

    def __init__(
        self,
        cross_entropy_weight: float = 0.5,
        background_weight: float = 0.25,
        foreground_weight: float = 0.25,
        *,
        name: str = "hybrid_loss",
        reduction: str = "sum_over_batch_size",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.weights = {
            "cross_entropy_weight": cross_entropy_weight,
            "background_weight": background_weight,
            "foreground_weight": foreground_weight,
        }

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return hybrid_loss(y_true, y_pred, **self.weights)

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), **self.weights}
