"""Convex hulls of pixels, as spans of rows: exact, in whole numbers.

A hull is that of the pixels' centres. A pixel belongs to it if its centre does, so a shape that is convex as a set
of pixels (a disc, a rectangle, a rotated square) is its own hull to the pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

Ints = NDArray[np.int64]
SQUARE = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])  # a pixel's corners from its index


@dataclass(frozen=True)
class Extremes:
    """The first and the last pixel of a mask in each row, (rows,); a row without any has last < first."""

    first: Ints
    last: Ints

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> Extremes:
        """Those of a (rows, columns) mask."""
        rows, columns = mask.shape
        if not columns:
            return cls(np.zeros(rows, np.int64), np.full(rows, -1))
        some = mask.any(axis=1)
        first = np.where(some, mask.argmax(axis=1), columns)
        last = np.where(some, columns - 1 - mask[:, ::-1].argmax(axis=1), -1)
        return cls(first.astype(np.int64), last.astype(np.int64))

    def corners(self) -> Ints:
        """Corners of the hull (n, 2) as (column, row) in its order; none for an empty mask."""
        rows = np.flatnonzero(self.last >= self.first)
        if not len(rows):
            return np.zeros((0, 2), np.int64)
        ends = np.concatenate([np.stack((side[rows], rows), axis=1) for side in (self.first, self.last)])
        corners = shapely.get_coordinates(_hull(ends)).astype(np.int64)
        closed = len(corners) > 1 and (corners[0] == corners[-1]).all()
        return corners[:-1] if closed else corners


@dataclass(frozen=True)
class Spans:
    """Pixels of a convex set: columns [start, stop) of the rows from `top` on; empty where stop = start."""

    top: int
    start: Ints
    stop: Ints

    @classmethod
    def within(cls, corners: Ints) -> Spans:
        """The pixels whose centres lie in the hull with these corners, its border included."""
        if not len(corners):
            return cls(0, np.zeros(0, np.int64), np.zeros(0, np.int64))
        top = int(corners[:, 1].min())
        rows = int(corners[:, 1].max()) - top + 1
        start, last = np.full(rows, np.iinfo(np.int64).max), np.full(rows, -1)
        for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            # Where the side crosses each of its rows, as a fraction over / under.
            step = 1 if y2 >= y1 else -1
            at = np.arange(y1, y2 + step, step)
            under = max(abs(y2 - y1), 1)
            over = x1 * under + (x2 - x1) * np.abs(at - y1)
            start[at - top] = np.minimum(start[at - top], -(-over // under))
            last[at - top] = np.maximum(last[at - top], over // under)
        return cls(top, start, last + 1)

    def count(self, filled: NDArray[np.int32]) -> int:
        """How many pixels of a mask lie within, by its `running_count`."""
        rows = np.arange(self.top, self.top + len(self.start))
        return int((filled[rows, self.stop] - filled[rows, self.start]).sum(dtype=np.int64))

    def mask(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """(rows, columns) bool of that shape."""
        out = np.zeros(shape, bool)
        columns = np.arange(shape[1])
        inside = (columns >= self.start[:, None]) & (columns < self.stop[:, None])
        out[self.top : self.top + len(self.start)] = inside
        return out


def running_count(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Pixels of each row to the left of each column, (rows, columns + 1)."""
    counts = np.zeros((mask.shape[0], mask.shape[1] + 1), np.int32)
    np.cumsum(mask, axis=1, out=counts[:, 1:])
    return counts


def hull_outline(corners: Ints) -> shapely.Polygon:
    """The hull drawn around its pixels' edges, (x, y) in pixels: half a pixel wider than that of the centres."""
    return _hull((corners[:, None] + SQUARE).reshape(-1, 2))


def _hull(xy: Ints) -> shapely.Geometry:
    """Convex hull of two or more points, as a line through them, which shapely makes many times faster."""
    return shapely.convex_hull(shapely.linestrings(xy.astype(np.float64)))
