"""Samples in rounds: each once, and in an order of its own in every round."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput

ORDER = 1  # the stream of random numbers that orders rounds; those of what is changed in samples are others


def place_in_round(index: int, count: int, seed: int, *, shuffle: bool) -> int:
    """Which of `count` has its turn at an index ≥ 0; without `shuffle` in the given order.

    Raises BadInput: an index below 0.
    """
    if index < 0:
        raise BadInput(f"expected the index of a sample from 0 on, received {index}")
    turn, place = divmod(index, count)
    return int(_order((seed, ORDER, turn), count)[place]) if shuffle else place


def one_hot(label: int, classes: int) -> NDArray[np.float32]:
    """(classes,) float32, 1 for the class, else 0."""
    return np.eye(classes, dtype=np.float32)[label]


def check_labels(labels: Sequence[int], classes: int) -> None:
    """Raise BadInput unless there are two classes or more and all labels are of them."""
    if classes < 2 or not all(0 <= label < classes for label in labels):
        raise BadInput(
            f"expected labels below a number of classes from 2 on, received {sorted({*labels})} of {classes}"
        )


@lru_cache(maxsize=64)
def _order(key: tuple[int, ...], count: int) -> NDArray[np.int64]:
    return np.random.default_rng(key).permutation(count)
