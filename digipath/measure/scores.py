"""Scores of a segmentation against its truth: Dice, Jaccard, AUROC.

References:
    Dice 1945, doi:10.2307/1932409. Jaccard 1912, doi:10.1111/j.1469-8137.1912.tb05611.x.
    Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747 (area under the ROC curve).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from digipath.errors import BadInput


def dice(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Dice coefficient of two masks, in [0, 1].

    2 |T ∩ P| / (|T| + |P|); two empty masks agree, so they score 1.

    Args:
        truth, prediction: bool arrays of one shape, any number of axes; threshold a probability first.

    Raises:
        BadInput: the arrays are not bool, differ in shape, or hold no pixel.
    """
    return pooled_dice([truth], [prediction])


def pooled_dice(truths: Sequence[ArrayLike], predictions: Sequence[ArrayLike]) -> float:
    """Dice coefficient of all pixels of several masks taken together, in [0, 1].

    2 Σ |T ∩ P| / Σ (|T| + |P|) over the pairs, which may differ in shape from pair to pair; 1 if
    all masks are empty. Large masks weigh more than in the mean of `dice` over the pairs.

    Raises:
        BadInput: no pair, not as many truths as predictions, or a pair that `dice` refuses.
    """
    overlap, size = _overlap_and_size(truths, predictions)
    return 2 * overlap / size if size else 1.0


def jaccard(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Jaccard index (intersection over union) of two masks, in [0, 1].

    |T ∩ P| / |T ∪ P|; two empty masks agree, so they score 1. With D the Dice coefficient, J = D / (2 − D).

    Raises:
        BadInput: as for `dice`.
    """
    overlap, size = _overlap_and_size([truth], [prediction])
    return overlap / (size - overlap) if size else 1.0


def auroc(truth: ArrayLike, probability: ArrayLike) -> float:
    """Area under the receiver operating characteristic, in [0, 1].

    The chance that a pixel (or case) drawn from the positives has a higher probability than one
    drawn from the negatives, ties counting one half; 0.5 for a constant.

    Args:
        truth: bool array, any number of axes.
        probability: finite numbers of the same shape; only their order matters.

    Raises:
        BadInput: the arrays differ in shape, `truth` is not bool or holds one class only, or a
            probability is not finite.
    """
    # Only this score needs scikit-learn, whose import takes a second.
    from sklearn.metrics import roc_auc_score

    true = _mask(truth, "truth")
    values = np.asarray(probability, dtype=np.float64)
    if values.shape != true.shape:
        raise BadInput(f"expected truth and probability of one shape, got {true.shape} and {values.shape}")
    if not np.isfinite(values).all():
        raise BadInput("expected finite probabilities, got NaN or infinity")
    if true.all() or not true.any():
        raise BadInput("AUROC needs positives and negatives in the truth, got one class only")
    return float(roc_auc_score(true.ravel(), values.ravel()))


def _overlap_and_size(truths: Sequence[ArrayLike], predictions: Sequence[ArrayLike]) -> tuple[int, int]:
    """(Σ |T ∩ P|, Σ |T| + |P|) over pairs of masks."""
    if len(truths) != len(predictions) or not len(truths):
        raise BadInput(f"expected as many truths as predictions, got {len(truths)} and {len(predictions)}")
    overlap = size = 0
    for truth, prediction in zip(truths, predictions, strict=True):
        true, predicted = _mask(truth, "truth"), _mask(prediction, "prediction")
        if true.shape != predicted.shape:
            raise BadInput(f"expected masks of one shape, got {true.shape} and {predicted.shape}")
        overlap += int(np.count_nonzero(true & predicted))
        size += int(np.count_nonzero(true)) + int(np.count_nonzero(predicted))
    return overlap, size


def _mask(values: ArrayLike, role: str) -> NDArray[np.bool_]:
    mask = np.asarray(values)
    if mask.dtype != np.bool_:
        raise BadInput(f"expected {role} as bool, got {mask.dtype}: threshold it first, e.g. {role} > 0.5")
    if mask.size == 0:
        raise BadInput(f"expected {role} with at least one pixel, got shape {mask.shape}")
    return mask
