"""Regions of a map as runs of pixels, and their exact outlines.

A run is a stretch of neighbouring pixels of one row. Runs that touch form a region; its outline follows the
pixels' edges. Everything here is in map pixels: x is a column's left edge, y a row's upper edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from digipath.measure.strips import HALO, Strip

Ints = NDArray[np.int64]

# Kinds of border pixels by 1 + 2 × (neighbours along the sides) + 10 × (neighbours across the corners), counting
# neighbours that are border pixels too: 0 straight, 1 diagonal, 2 half of each. Others add no length.
# Benkrid and Crookes, "Design and FPGA Implementation of a Perimeter Estimator", as scikit-image has it.
_KINDS = 3
_KIND = np.full(50, _KINDS, np.uint8)
_KIND[[5, 7, 15, 17, 25, 27]], _KIND[[21, 33]], _KIND[[13, 23]] = 0, 1, 2


@dataclass(frozen=True)
class Runs:
    """Stretches of pixels, in reading order: pixels [start, stop) of `row`.

    total: (runs, maps) sum of each map over the pixels; peak: maximum of the first map.
    border: (runs, 3) how many of the pixels are straight, diagonal and mixed pieces of their region's border.
    """

    row: Ints
    start: Ints
    stop: Ints
    total: NDArray[np.float64]
    peak: NDArray[np.float64]
    border: Ints

    @classmethod
    def none(cls, maps: int = 1) -> Runs:
        """No runs of that many maps."""
        ints = np.zeros(0, np.int64)
        return cls(ints, ints, ints, np.zeros((0, maps)), np.zeros(0), np.zeros((0, _KINDS), np.int64))

    @property
    def length(self) -> Ints:
        """Pixels of each run."""
        return self.stop - self.start

    def then(self, later: Runs) -> Runs:
        """These runs and later ones, which lie below them."""
        return Runs(*(np.concatenate(pair) for pair in zip(self._columns(), later._columns(), strict=True)))

    def only(self, which: NDArray[np.bool_] | Ints) -> Runs:
        """Those of the runs, by a mask or by their numbers."""
        return Runs(*(column[which] for column in self._columns()))

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self.row, self.start, self.stop, self.total, self.peak, self.border


def runs_of(strip: Strip, *, border: bool = True) -> Runs:
    """The runs of a strip; without `border` none of their pixels are counted as such, which is faster."""
    stride = strip.inside.shape[1]
    rows = len(strip.inside) - 2 * HALO
    # From the pixel before the first one, which is never inside: starts and stops are where neighbours differ.
    pixels = strip.inside.ravel()[HALO * stride - 1 : (HALO + rows) * stride]
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    if not len(edges):
        return Runs.none(len(strip.maps))
    begins, ends = edges[::2], edges[1::2]
    row, start = np.divmod(begins, stride)
    inside = strip.inside[HALO : HALO + rows, :-1]
    firsts = np.cumsum(ends - begins) - (ends - begins)
    values = [each[inside].astype(np.float64) for each in strip.maps]
    total = np.stack([np.add.reduceat(each, firsts) for each in values], axis=1)
    peak = np.maximum.reduceat(values[0], firsts)
    kinds = _border(strip.inside, begins, ends) if border else np.zeros((len(begins), _KINDS), np.int64)
    return Runs(row + strip.row, start, start + ends - begins, total, peak, kinds)


def _border(inside: NDArray[np.bool_], begins: Ints, ends: Ints) -> Ints:
    """Border pixels of each kind (runs, 3) in runs that begin and end there, counted from the first row of the strip.

    A border pixel has a neighbour along a side that is not inside. All neighbours inside, also across a corner,
    belong to the same region.
    """
    stride = inside.shape[1]
    flat = inside.ravel()
    middle = flat[stride:-stride]  # one row more than the strip on either side
    surrounded = flat[: -2 * stride] & flat[2 * stride :]
    surrounded[1:-1] &= middle[:-2] & middle[2:]
    surrounded[0] = False  # left of the first pixel the map ends
    on = (middle & ~surrounded).view(np.uint8)
    at = np.flatnonzero(on[stride:-stride]) + stride
    sides = on[at - 1] + on[at + 1] + on[at - stride] + on[at + stride]
    corners = on[at - stride - 1] + on[at - stride + 1] + on[at + stride - 1] + on[at + stride + 1]
    kind = _KIND[1 + 2 * sides + 10 * corners]
    counts = [_between(at[kind == each] - stride, begins, ends) for each in range(_KINDS)]
    return np.stack(counts, axis=1)


def _between(positions: Ints, begins: Ints, ends: Ints) -> Ints:
    """How many of the sorted positions lie in each [begin, end)."""
    return np.searchsorted(positions, ends) - np.searchsorted(positions, begins)


def closed_regions(found: Iterator[tuple[Strip, Runs]], width: int) -> Iterator[tuple[Runs, Ints]]:
    """Whole regions, as soon as a strip ends without touching them: their runs, and the region of each from 0.

    Memory follows the regions that are still growing.
    """
    growing: Runs | None = None
    region = np.zeros(0, np.int64)
    for strip, new in found:
        runs = new if growing is None else growing.then(new)
        if not len(runs.row):
            continue
        region = _continued(runs, region, strip.row, width)
        # A region that reaches the strip's last row may go on in the next one.
        reaching = np.zeros(region.max(initial=-1) + 1, bool)
        reaching[region[np.searchsorted(runs.row, strip.row + len(strip.maps[0]) - 1) :]] = not strip.last
        open_ = reaching[region]
        if not open_.all():
            yield runs.only(~open_), numbered(region[~open_])
        growing, region = runs.only(open_), numbered(region[open_])


def _continued(runs: Runs, region: Ints, row: int, width: int) -> Ints:
    """Region of each run, if the first of them have known ones and the others begin in that row."""
    known, count = len(region), region.max(initial=-1) + 1
    if not known:
        return connect(runs, width)
    edge = np.searchsorted(runs.row, row - 1)  # only the last row of the known ones can touch the others
    part = connect(runs.only(np.arange(edge, len(runs.row))), width)
    links = region[edge:], count + part[: known - edge]
    joined = linked(*links, count + part.max(initial=-1) + 1)
    return np.concatenate((joined[region], joined[count + part[known - edge :]]))


def numbered(region: Ints) -> Ints:
    """The same regions, numbered from 0 without gaps."""
    there = np.zeros(region.max(initial=-1) + 1, bool)
    there[region] = True
    return (np.cumsum(there) - 1)[region]


def linked(one: Ints, other: Ints, count: int) -> Ints:
    """Component of each of `count` things, of which each of the first is linked to the other beside it."""
    links = coo_array((np.ones(len(one), bool), (one, other)), shape=(count, count))
    return connected_components(links, directed=False)[1].astype(np.int64)


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
    return linked(above, below, len(begins))


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
