"""Test-time views: the eight symmetries of a square patch, each with its exact inverse.

Khened et al. 2021 use rotations and flips for the aleatoric uncertainty (equation 4). A view is
undone on its own prediction before anything is averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput

S = TypeVar("S", bound=np.generic)


@dataclass(frozen=True)
class View:
    """A flip of the last spatial axis (optional), then `turns` quarter turns of the last two."""

    flip: bool = False
    turns: int = 0

    def apply(self, patches: NDArray[S]) -> NDArray[S]:
        """Return a copy of the patches (B, *spatial, channels) as this view sees them."""
        if self.flip:
            patches = np.flip(patches, axis=-2)
        return np.array(np.rot90(patches, self.turns, axes=(-3, -2)), order="C")

    def undo(self, predictions: NDArray[S]) -> NDArray[S]:
        """Return predictions made on this view in the patches' own orientation."""
        predictions = np.rot90(predictions, -self.turns, axes=(-3, -2))
        return np.flip(predictions, axis=-2) if self.flip else predictions


DIHEDRAL = tuple(View(flip, turns) for flip in (False, True) for turns in range(4))
VIEW_COUNTS = (1, 2, 4, 8)


def views_of(count: int) -> tuple[View, ...]:
    """Return 1 view (identity), 2 (and its mirror), 4 (the quarter turns) or all 8.

    Raises:
        BadInput: any other count.
    """
    if count not in VIEW_COUNTS:
        raise BadInput(f"views must be 1, 2, 4 or 8, got {count}")
    return (DIHEDRAL[0], DIHEDRAL[4]) if count == 2 else DIHEDRAL[: int(count)]
