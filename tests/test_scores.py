"""Dice, Jaccard and AUROC against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from digipath.errors import BadInput
from digipath.measure.scores import auroc, dice, jaccard, pooled_dice

TRUTH = np.array([[True, True, False], [True, False, False]])
PREDICTION = np.array([[True, False, False], [True, True, False]])
EMPTY = np.zeros((2, 3), dtype=bool)


def test_dice_by_hand():
    # Overlap 2, sizes 3 and 3.
    assert dice(TRUTH, PREDICTION) == pytest.approx(2 * 2 / 6)


def test_jaccard_by_hand():
    # Overlap 2, union 4.
    assert jaccard(TRUTH, PREDICTION) == pytest.approx(0.5)


@pytest.mark.parametrize("score", [dice, jaccard])
def test_overlap_at_the_ends(score):
    assert score(TRUTH, TRUTH) == 1.0
    assert score(TRUTH, ~TRUTH) == 0.0
    assert score(EMPTY, EMPTY) == 1.0
    assert score(TRUTH, EMPTY) == 0.0
    assert score(EMPTY, PREDICTION) == 0.0


def test_jaccard_follows_from_dice():
    d = dice(TRUTH, PREDICTION)
    assert jaccard(TRUTH, PREDICTION) == pytest.approx(d / (2 - d))


def test_pooled_dice_counts_pixels_not_images():
    one = np.array([True])
    nine = np.array([True] * 3 + [False] * 6)
    # Overlaps 0 and 3, sizes 1 and 6; the mean over the pairs would be 0.5.
    assert pooled_dice([one, nine], [~one, nine]) == pytest.approx(2 * 3 / 7)
    assert pooled_dice([EMPTY], [EMPTY]) == 1.0


def test_auroc_by_hand():
    truth = np.array([False, False, True, True])
    # Of the four pairs (negative, positive), 0.35 < 0.4 is the one in the wrong order.
    assert auroc(truth, [0.1, 0.4, 0.35, 0.8]) == pytest.approx(0.75)
    assert auroc(truth, [0.1, 0.2, 0.3, 0.4]) == 1.0
    assert auroc(truth, [0.4, 0.3, 0.2, 0.1]) == 0.0
    assert auroc(truth, [0.5, 0.5, 0.5, 0.5]) == 0.5


def test_auroc_takes_maps():
    assert auroc(TRUTH, TRUTH.astype(np.float16)) == 1.0


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (TRUTH, PREDICTION[:1], "one shape"),
        (TRUTH, PREDICTION * 0.7, "threshold it first"),
        (TRUTH * 255, PREDICTION, "threshold it first"),
        (EMPTY[:0], EMPTY[:0], "at least one pixel"),
    ],
)
@pytest.mark.parametrize("score", [dice, jaccard])
def test_masks_that_cannot_be_compared(score, truth, prediction, message):
    with pytest.raises(BadInput, match=message):
        score(truth, prediction)


@pytest.mark.parametrize(("truths", "predictions"), [([], []), ([TRUTH], [])])
def test_pooled_dice_needs_pairs(truths, predictions):
    with pytest.raises(BadInput, match="as many truths as predictions"):
        pooled_dice(truths, predictions)


@pytest.mark.parametrize(
    ("truth", "probability", "message"),
    [
        (EMPTY, EMPTY * 1.0, "one class only"),
        (~EMPTY, EMPTY * 1.0, "one class only"),
        (TRUTH, np.full((2, 3), np.nan), "finite"),
        (TRUTH, np.zeros(6), "one shape"),
        (TRUTH * 1, np.zeros((2, 3)), "threshold it first"),
    ],
)
def test_auroc_refuses(truth, probability, message):
    with pytest.raises(BadInput, match=message):
        auroc(truth, probability)
