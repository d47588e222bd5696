"""A map read once, a strip of rows at a time, with the mask of what lies at or above a threshold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

READ_ROWS, STRIP_ROWS = 256, 64  # stored maps are cheapest to read by their chunks of 256 rows
HALO = 2  # rows of mask above and below a strip: whether a neighbour lies on a border depends on its neighbours


class MapLike(Protocol):
    """A (rows, columns) array or a stored map: all that is asked of it is its shape and slices of rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> NDArray[np.generic]: ...


@dataclass(frozen=True)
class Strip:
    """Neighbouring rows of one or several maps.

    Attributes:
        row: of the map, the first of the strip.
        inside: (HALO + rows + HALO, columns + 1) bool, the first map ≥ the threshold; False beyond the map, and
            in the last column, so that pixels follow each other in memory without touching the next row's.
        maps: (rows, columns) of each map.
        last: whether the map ends here.
    """

    row: int
    inside: NDArray[np.bool_]
    maps: tuple[NDArray[Any], ...]
    last: bool


def strips(maps: Sequence[MapLike], threshold: float) -> Iterator[Strip]:
    """The strips of maps of one shape, from the top; the threshold is applied to the first map.

    Numbers are compared as numpy compares them, in the map's own precision: a 0.9 stored in half precision is
    at a threshold of 0.9. NaN never is.
    """
    rows, width = maps[0].shape
    above = np.zeros((HALO, width + 1), bool)
    held = [np.asarray(each[:0]) for each in maps]
    row = 0
    for first in range(0, rows, READ_ROWS):
        held = [np.concatenate((old, each[first : first + READ_ROWS])) for old, each in zip(held, maps, strict=True)]
        whole = first + READ_ROWS >= rows
        ready = len(held[0]) if whole else max(len(held[0]) - HALO, 0)  # the others still lack what is below them
        inside = np.zeros((HALO + len(held[0]) + HALO * whole, width + 1), bool)
        inside[:HALO] = above
        np.greater_equal(held[0], threshold, out=inside[HALO : HALO + len(held[0]), :-1])
        for at in range(0, ready, STRIP_ROWS):
            stop = min(at + STRIP_ROWS, ready)
            parts = tuple(each[at:stop] for each in held)
            yield Strip(row + at, inside[at : stop + 2 * HALO], parts, last=whole and stop == ready)
        above = inside[ready : ready + HALO]
        held = [each[ready:] for each in held]
        row += ready
