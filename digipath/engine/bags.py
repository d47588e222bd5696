"""Pools of a bag's tiles that grow chunk by chunk, groups of tiles, and votes of groups.

Embeddings of a bag come in chunks (n, L) in any order and of any size; the pool of all chunks is that
of the whole bag, which need not be in memory. Sums are kept in double precision.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from digipath.errors import BadInput
from digipath.values import most_probable

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class MaxMeanPool:
    """The maximum and the mean of each feature over a bag (Lerousseau 2020, section 2.1)."""

    def __init__(self) -> None:
        self.count = 0  # tiles so far
        self._largest: Floats | None = None  # (L,)
        self._sum: Doubles | None = None  # (L,)

    def add(self, embeddings: ArrayLike) -> None:
        """Take n more tiles, (n, L) float.

        Raises BadInput: another shape, or another L than before.
        """
        chunk = _chunk(embeddings, self._sum)
        if not len(chunk):
            return
        largest, total = chunk.max(axis=0), chunk.sum(axis=0, dtype=np.float64)
        self._largest = largest if self._largest is None else np.maximum(self._largest, largest)
        self._sum = total if self._sum is None else self._sum + total
        self.count += len(chunk)

    def pooled(self) -> Floats:
        """(2L,) float32: all maxima, then all means.

        Raises BadInput: no tile was added.
        """
        if self._largest is None or self._sum is None:
            raise _empty()
        return np.concatenate([self._largest, (self._sum / self.count).astype(np.float32)])


class AttentionPool:
    """The mean over a bag weighted by the softmax of the tiles' scores (Ilse 2018, equation 8).

    The weights so far are kept relative to the largest score so far, so that none of them overflows
    (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", arXiv:1805.02867).
    """

    def __init__(self) -> None:
        self._scores: list[Doubles] = []
        self._largest = -np.inf
        self._sum: Doubles | None = None  # (L,), of weight × embedding

    def add(self, embeddings: ArrayLike, scores: ArrayLike) -> None:
        """Take n more tiles, (n, L) float, and their scores, (n,) float.

        Raises BadInput: other shapes, another L than before, or a score that is not finite.
        """
        chunk, logits = _chunk(embeddings, self._sum), np.asarray(scores, np.float64)
        if logits.shape != (len(chunk),):
            raise BadInput(f"expected one score for each of {len(chunk)} tiles, got the shape {logits.shape}")
        if not np.isfinite(logits).all():
            raise BadInput("expected finite scores, got NaN or infinity")
        if not len(chunk):
            return
        largest = max(self._largest, float(logits.max()))
        before = 0.0 if self._sum is None else self._sum * np.exp(self._largest - largest)
        self._sum = before + np.exp(logits - largest) @ chunk.astype(np.float64)
        self._largest = largest
        self._scores.append(logits)

    def pooled(self) -> Floats:
        """(L,) float32.

        Raises BadInput: no tile was added.
        """
        if self._sum is None:
            raise _empty()
        return (self._sum / self._relative().sum()).astype(np.float32)

    def weights(self) -> Floats:
        """(n,) float32 in [0, 1], which sum to 1: what each tile counts, in the order they were added.

        Raises BadInput: no tile was added.
        """
        relative = self._relative()
        return (relative / relative.sum()).astype(np.float32)

    def _relative(self) -> Doubles:
        if not self._scores:
            raise _empty()
        return np.exp(np.concatenate(self._scores) - self._largest)


def groups(count: int, size: int, seed: int) -> list[NDArray[np.intp]]:
    """Random groups of `size` among `count` tiles, each tile in one group; the last group may be smaller.

    Fewer tiles than `size` are one group of all.

    Returns:
        Indices of the tiles, one array for each group; the same for the same seed.

    Raises:
        BadInput: no tiles, or groups of none.
    """
    if count < 1 or size < 1:
        raise BadInput(f"expected at least one tile and groups of at least one, got {count} tiles in groups of {size}")
    order = np.random.default_rng(seed).permutation(count)
    return np.split(order, range(size, count, size))


def hard_vote(probabilities: ArrayLike) -> Floats:
    """Share of the groups whose most probable class each class is.

    Args:
        probabilities: (G, C) of G groups; classes in rising order of malignancy: of two that are
            equally probable the higher has the group's vote.

    Returns:
        (C,) float32 in [0, 1], which sum to 1.

    Raises:
        BadInput: another shape, no group, or values that are no numbers.
    """
    found = np.asarray(probabilities, np.float64)
    if found.ndim != 2 or 0 in found.shape or np.isnan(found).any():
        raise BadInput(f"expected probabilities (groups, classes), got the shape {found.shape} or NaN")
    classes = found.shape[1]
    return (np.bincount(most_probable(found), minlength=classes) / len(found)).astype(np.float32)


def _chunk(embeddings: ArrayLike, before: Doubles | None) -> Floats:
    chunk = np.asarray(embeddings, np.float32)
    if chunk.ndim != 2 or (before is not None and chunk.shape[1] != len(before)):
        length = "L" if before is None else len(before)
        raise BadInput(f"expected embeddings (tiles, {length}), got the shape {chunk.shape}")
    return chunk


def _empty() -> BadInput:
    return BadInput("expected a bag of at least one tile, got none")
