"""Regions of a map as runs of pixels, and their exact outlines.

A run is a stretch of neighbouring pixels of one row. Runs that touch form a region; its outline follows the
pixels' edges. Everything here is in map pixels: x is a column's left edge, y a row's upper edge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """Stretches of pixels, in reading order: pixels [start, stop) of `row`, their sum and maximum."""

    row: Ints
    start: Ints
    stop: Ints
    total: NDArray[np.float64]
    peak: NDArray[np.float64]

    @classmethod
    def none(cls) -> Runs:
        """No runs."""
        ints, floats = np.zeros(0, np.int64), np.zeros(0)
        return cls(ints, ints, ints, floats, floats)

    def then(self, later: Runs) -> Runs:
        """These runs and later ones, which lie below them."""
        return Runs(*(np.concatenate(pair) for pair in zip(self._columns(), later._columns(), strict=True)))

    def only(self, which: NDArray[np.bool_]) -> Runs:
        """Those of the runs."""
        return Runs(*(column[which] for column in self._columns()))

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self.row, self.start, self.stop, self.total, self.peak


def runs_of(strip: NDArray[np.generic], row: int, threshold: float) -> Runs:
    """The runs of a strip whose first row is `row`."""
    values = strip.astype(np.float32)  # float16 maps compare and add up in float32
    padded = np.zeros((len(values), values.shape[1] + 1), np.float32)
    np.copyto(padded[:, :-1], values, where=values >= np.float32(threshold))  # NaN is never ≥
    inside = padded.ravel() > 0
    edges = np.flatnonzero(np.diff(inside, prepend=False))  # starts and stops; the pad ends each row
    if not len(edges):
        return Runs.none()
    total = np.add.reduceat(padded.ravel(), edges, dtype=np.float64)[::2]
    peak = np.maximum.reduceat(padded.ravel(), edges)[::2].astype(np.float64)
    rows, starts = np.divmod(edges[::2], padded.shape[1])
    return Runs(rows + row, starts, starts + edges[1::2] - edges[::2], total, peak)


def connect(runs: Runs, width: int, *, corners: bool = True) -> Ints:
    """Region of each run, numbered from 0: runs of neighbouring rows that touch share one."""
    stride = width + 2  # so that a run's end never meets the next row's first
    begins = runs.row * stride + runs.start
    ends = runs.row * stride + runs.stop
    # In the row below: the first run that ends past this one's start, to the last that starts by its end.
    first = np.searchsorted(ends, begins + stride, side="left" if corners else "right")
    after = np.searchsorted(begins, ends + stride, side="right" if corners else "left")
    count = np.maximum(after - first, 0)
    above = np.repeat(np.arange(len(begins)), count)
    below = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    links = coo_array((np.ones(len(above), bool), (above, below)), shape=(len(begins),) * 2)
    return connected_components(links, directed=False)[1].astype(np.int64)


def outlines(
    runs: Runs, region: Ints, width: int, to_frame: Callable[[Ints], NDArray[np.float64]]
) -> NDArray[np.object_]:
    """Valid (Multi)Polygon of each region 0, 1, …, its corners moved from map edges (n, 2) by `to_frame`.

    Shells run anticlockwise in (x, y), holes clockwise; no corner lies on a straight line.

    A part is a set of runs that touch along an edge: its boundary is one shell and its holes.
    """
    pieces = _boundary(runs, width)
    order, begins = _rings(pieces)
    xy = np.stack((pieces.x, pieces.y), axis=1)[order]
    part = connect(runs, width, corners=False)[pieces.run[order[begins]]]
    whole = region[pieces.run[order[begins]]]
    by_part = np.lexsort((_signed_areas(xy, begins) < 0, part, whole))  # the shell first, then the holes
    lengths = np.diff(begins, append=len(order)) + 1  # a ring ends where it began
    along = [order[begin : begin + length - 1] for begin, length in zip(begins, lengths, strict=True)]
    closed = np.concatenate([np.append(along[ring], along[ring][0]) for ring in by_part])
    corners = to_frame(np.stack((pieces.x, pieces.y), axis=1)[closed])
    part, whole = part[by_part], whole[by_part]
    parts = np.flatnonzero(np.diff(part, prepend=-1))
    wholes = np.flatnonzero(np.diff(whole[parts], prepend=-1))
    rings = np.append(0, np.cumsum(lengths[by_part]))
    offsets = (rings, np.append(parts, len(part)), np.append(wholes, len(parts)))
    polygons = shapely.from_ragged_array(shapely.GeometryType.MULTIPOLYGON, corners, offsets)
    single = shapely.get_num_geometries(polygons) == 1
    return np.where(single, shapely.get_geometry(polygons, 0), polygons)


@dataclass(frozen=True)
class _Pieces:
    """Straight pieces of boundary, inside on the left, from (x, y) to the next one's (x, y).

    `run` is a run of the region inside, `after` the piece that follows, `rivals` (n, 2) the pairs of pieces
    that end at the same corner, where two pixels of the inside touch.
    """

    x: Ints
    y: Ints
    run: Ints
    after: Ints
    rivals: Ints


def _boundary(runs: Runs, width: int) -> _Pieces:
    """All boundary of the runs; where two pixels touch at a corner, it goes around each by itself."""
    stride = width + 1
    across, across_below, across_run = _across(runs, stride)
    down, down_right, down_run = _down(runs, stride, across)
    # Inside on the left: along the top of a pixel to larger x, down its right side, and so on.
    across = np.where(across_below[:, None], across, across[:, ::-1])
    down = np.where(down_right[:, None], down, down[:, ::-1])
    begin, end = np.concatenate((across, down)).T
    # At a corner of two pixels, the lower pixel's pieces follow each other, and the upper one's.
    begin_low = np.concatenate((across_below, down_right))
    end_low = np.concatenate((across_below, ~down_right))
    arriving, leaving = np.lexsort((end_low, end)), np.lexsort((begin_low, begin))
    after = np.empty(len(begin), np.int64)
    after[arriving] = leaving
    twice = np.flatnonzero(end[arriving][1:] == end[arriving][:-1])
    rivals = np.stack((arriving[twice], arriving[twice + 1]), axis=1)
    y, x = np.divmod(begin, stride)
    return _Pieces(x, y, np.concatenate((across_run, down_run)), after, rivals)


def _across(runs: Runs, stride: int) -> tuple[Ints, NDArray[np.bool_], Ints]:
    """Pieces along the lines between rows (n, 2), whether the inside is below, and a run of it.

    Along such a line the ends of the runs above and below alternate between agreeing and differing.
    """
    count = len(runs.row)
    above, below = (runs.row + 1) * stride, runs.row * stride
    keys = np.concatenate((below + runs.start, below + runs.stop, above + runs.start, above + runs.stop))
    order = np.argsort(keys, kind="stable")
    pairs, is_below = keys[order].reshape(-1, 2), order < 2 * count
    differ = pairs[:, 0] != pairs[:, 1]
    inside_below = np.cumsum(is_below)[::2] % 2 == 1  # an odd number of ends passed: within a run below
    # The run is the last that began at or before the piece, in the row that is inside.
    row = pairs[:, 0] // stride - ~inside_below
    at = np.searchsorted(below + runs.start, row * stride + pairs[:, 0] % stride, side="right") - 1
    return pairs[differ], inside_below[differ], at[differ]


def _down(runs: Runs, stride: int, across: Ints) -> tuple[Ints, NDArray[np.bool_], Ints]:
    """Pieces along the runs' sides (n, 2), whether they are right sides, and a run of each.

    Sides above each other join unless a piece along a row ends between them.
    """
    count = len(runs.row)
    x, y = np.concatenate((runs.start, runs.stop)), np.concatenate((runs.row, runs.row))
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    joins = (np.diff(x) == 0) & (np.diff(y) == 1) & ~np.isin(y[1:] * stride + x[1:], across)
    first, last = np.flatnonzero(np.append(True, ~joins)), np.flatnonzero(np.append(~joins, True))
    pieces = np.stack((y[first] * stride + x[first], (y[last] + 1) * stride + x[last]), axis=1)
    return pieces, order[first] >= count, order[first] % count


def _rings(pieces: _Pieces) -> tuple[Ints, Ints]:
    """Pieces in the order of their rings, and where each ring begins; no ring meets a corner twice.

    A ring that comes by the same corner twice is cut in two there. Such visits never cross, since a
    boundary does not, so all cuts can be made at once.
    """
    order, begins = _cycles(pieces.after)
    if not len(pieces.rivals):
        return order, begins
    ring = np.empty(len(order), np.int64)
    ring[order] = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(order)))
    cuts = pieces.rivals[ring[pieces.rivals[:, 0]] == ring[pieces.rivals[:, 1]]]
    after = pieces.after.copy()
    after[cuts] = after[cuts[:, ::-1]]
    return _cycles(after)


def _cycles(after: Ints) -> tuple[Ints, Ints]:
    """The cycles of a permutation one after the other, and where each begins."""
    following, seen = after.tolist(), bytearray(len(after))
    order: list[int] = []
    begins: list[int] = []
    for first in range(len(following)):
        if seen[first]:
            continue
        begins.append(len(order))
        at = first
        while not seen[at]:
            seen[at] = 1
            order.append(at)
            at = following[at]
    return np.array(order, np.int64), np.array(begins, np.int64)


def _signed_areas(xy: Ints, begins: Ints) -> Ints:
    """Twice the area within each ring, negative for clockwise ones."""
    following = np.arange(1, len(xy) + 1)
    following[np.append(begins[1:], len(xy)) - 1] = begins
    cross = xy[:, 0] * xy[following, 1] - xy[following, 0] * xy[:, 1]
    return np.add.reduceat(cross, begins)
