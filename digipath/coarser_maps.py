"""Probability and tissue of a result at a coarser resolution, by means over areas."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from digipath.maps import MapArray

SAME = 1e-3  # resolutions that differ by less are the same
ROWS = 512  # of a map that are read at a time

Map = MapArray | NDArray[np.generic]


def coarser_maps(probability: Map, tissue: Map, ratio: float) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Probability, in its own type, and tissue with pixels `ratio` times as wide, in any ratio.

    A pixel is tissue if at least half of it is. Probability is read at the nearest finer level of its pyramid.

    Args:
        probability, tissue: (rows, columns), stored or in memory; nonzero = tissue, NaN = no prediction.
    """
    levels = probability.levels if isinstance(probability, MapArray) else 1
    level = max(n for n in range(levels) if n == 0 or 2**n <= ratio * (1 + SAME))
    finer = probability.level(level) if isinstance(probability, MapArray) else probability
    share = _tissue_share(tissue, 2**level)
    step = ratio / 2**level
    return _resized(finer[:], step), np.greater_equal(_resized(share, step), 0.5)


def _tissue_share(tissue: Map, factor: int) -> NDArray[np.float32]:
    """How much of each block of factor × factor pixels is tissue, in [0, 1]; nothing is beyond the map.

    The stored pyramid of tissue keeps whatever is tissue anywhere in a coarser pixel, which makes it grow.
    """
    rows, columns = tissue.shape
    share = np.zeros((-(-rows // factor), -(-columns // factor)), np.float32)
    step = -(-ROWS // factor) * factor
    for row in range(0, rows, step):
        strip = tissue[row : row + step] != 0
        padded = np.pad(strip, [(0, -size % factor) for size in strip.shape])
        blocks = padded.reshape(len(padded) // factor, factor, -1, factor)
        share[row // factor :][: len(blocks)] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return share


def _resized(values: NDArray[np.generic], step: float) -> NDArray[np.generic]:
    """Means over cells of step × step pixels; NaN where no pixel of a cell is known, 0 beyond the map."""
    if abs(step - 1) < SAME or not values.size:
        return values
    given = values.astype(np.float64)
    known = ~np.isnan(given)
    mean = _cell_means(_cell_means(np.where(known, given, 0), step), step)
    if not known.all():
        unknown = _cell_means(_cell_means((~known).astype(np.float64), step), step)
        mean = np.divide(mean, 1 - unknown, out=np.full_like(mean, np.nan), where=unknown < 1 - SAME)
    return mean.astype(values.dtype)


def _cell_means(values: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """(rows, columns) → (columns, cells): means over stretches of `step` rows, exact where they begin inside a row."""
    rows = len(values)
    sums = np.zeros((rows + 2, values.shape[1]))
    np.cumsum(values, axis=0, out=sums[1:-1])
    sums[-1] = sums[-2]
    edges = np.minimum(np.arange(math.ceil(rows / step - SAME) + 1) * step, rows)
    whole = edges.astype(np.intp)
    at = sums[whole] + (edges - whole)[:, None] * (sums[whole + 1] - sums[whole])
    return (np.diff(at, axis=0) / step).T
