"""Draw polygons in any window of any working frame, window by window as if all at once.

A pixel is inside where its centre is: even-odd along each row of pixels, so holes stay holes. All
coordinates are counted from the frame's origin, never from the window's, and so a window holds
exactly the pixels that it has in the frame drawn as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon, STRtree

from digipath.annotation.outlines import Outline, polygons_of

Box = tuple[int, int, int, int]  # row, column, rows, columns in pixels of the frame
BAND_PX = 2**22  # pixels drawn at once


def rasterise(outlines: Iterable[Outline], shape: tuple[int, int], downsample: float) -> NDArray[np.bool_]:
    """Draw outlines as a mask.

    shape: (rows, columns) of the mask; downsample: level-0 pixels per mask pixel. Returns bool,
    True where a pixel's centre lies inside, False in holes; an outline that holds no pixel centre
    keeps the pixel it lies in.
    """
    polygons = [polygon for outline in outlines for polygon in polygons_of(outline.area)]
    return Areas(polygons).window((0, 0, *shape), downsample)


class Areas:
    """Polygons in level-0 pixels, found through an index; safe from many threads."""

    def __init__(self, polygons: Sequence[Polygon]) -> None:
        self._polygons = polygons
        self._edges = [_edges(polygon) for polygon in polygons]
        self._tree = STRtree(polygons)
        self._tree.query(shapely.box(0, 0, 1, 1))  # it is built by the first question, here in one thread
        self._lone_pixels = lru_cache(maxsize=16)(self._find_lone_pixels)

    def window(self, box: Box, downsample: float) -> NDArray[np.bool_]:
        """(rows, columns) bool of a box of the frame with `downsample` level-0 pixels per pixel.

        A polygon that holds no pixel centre of the frame keeps one pixel, the same in every window.
        """
        row, col, rows, cols = box
        mask = np.zeros((rows, cols), bool)
        bounds = shapely.box(col * downsample, row * downsample, (col + cols) * downsample, (row + rows) * downsample)
        for index in self._tree.query(bounds).tolist():
            for part, inside in self._drawn(index, box, downsample):
                mask[part[0] - row :, part[1] - col :][: part[2], : part[3]] |= inside
        lone = self._lone_pixels(downsample) - (row, col)
        lone = lone[((lone >= 0) & (lone < mask.shape)).all(axis=1)]
        mask[lone[:, 0], lone[:, 1]] = True
        return mask

    def cells(self, cell: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """`shape` bool: the cells of `cell` level-0 pixels that a polygon reaches into or touches."""
        mask = self.window((0, 0, *shape), float(cell))
        for polygon in self._polygons:
            for ring in (polygon.exterior, *polygon.interiors):
                # Steps of half a cell: each lies within the cells of its two ends and the two beside them.
                points = shapely.get_coordinates(shapely.segmentize(ring, cell / 2)) / cell
                cols, rows = np.floor(points).astype(np.int64).T
                for r in (rows[:-1], rows[1:]):
                    for c in (cols[:-1], cols[1:]):
                        within = (r >= 0) & (r < shape[0]) & (c >= 0) & (c < shape[1])
                        mask[r[within], c[within]] = True
        return mask

    def any(self) -> bool:
        """Whether there is any area."""
        return bool(self._polygons)

    @property
    def held_bytes(self) -> int:
        """The corners of the polygons, and their edges."""
        return 2 * sum(edges.nbytes for edges in self._edges)

    def close(self) -> None:
        """Nothing is held open."""

    def _drawn(self, index: int, box: Box, downsample: float) -> Iterator[tuple[Box, NDArray[np.bool_]]]:
        """A polygon in the parts of a box that its bounds cover, some rows at a time."""
        left, top, right, bottom = (bound / downsample for bound in self._polygons[index].bounds)
        row, col, rows, cols = box
        first_row, last_row = _clipped(math.floor(top), math.ceil(bottom), row, rows)
        first_col, last_col = _clipped(math.floor(left), math.ceil(right), col, cols)
        width = last_col - first_col
        if width <= 0:
            return
        step = max(1, BAND_PX // width)
        for first in range(first_row, last_row, step):
            part = (first, first_col, min(step, last_row - first), width)
            yield part, _inside(self._edges[index], part, downsample)

    def _find_lone_pixels(self, downsample: float) -> NDArray[np.int64]:
        """(n, 2) rows and columns of the pixels that polygons without any pixel centre lie in."""
        found = []
        for index, polygon in enumerate(self._polygons):
            left, top, right, bottom = (bound / downsample for bound in polygon.bounds)
            box = (math.floor(top), math.floor(left), math.ceil(bottom - math.floor(top)) + 1)
            whole = (*box, math.ceil(right - math.floor(left)) + 1)
            if not any(inside.any() for _, inside in self._drawn(index, whole, downsample)):
                point = polygon.representative_point()
                found.append((math.floor(point.y / downsample), math.floor(point.x / downsample)))
        return np.array(found, np.int64).reshape(-1, 2)


def _clipped(first: int, last: int, start: int, count: int) -> tuple[int, int]:
    return max(first, start), min(last, start + count)


def _edges(polygon: Polygon) -> NDArray[np.float64]:
    """(n, 4) x0, y0, x1, y1 of all edges, those of holes too."""
    rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
    return np.concatenate([np.hstack([ring[:-1], ring[1:]]) for ring in rings])


def _inside(edges: NDArray[np.float64], box: Box, downsample: float) -> NDArray[np.bool_]:
    """(rows, columns) bool: pixel centres inside. Each edge toggles its rows right of where it crosses them."""
    row, col, rows, cols = box
    ends = edges[:, (1, 3)] / downsample - 0.5  # in pixels between centres
    first, last = (np.clip(np.ceil(y), row, row + rows).astype(np.int64) for y in (ends.min(1), ends.max(1)))
    meets = first < last
    first, count = first[meets], (last - first)[meets]
    x0, y0, x1, y1 = (edges[meets] / downsample - 0.5).T
    which = np.repeat(np.arange(len(count)), count)
    at = np.arange(len(which)) - np.repeat(count.cumsum() - count, count) + first[which]
    x = x0[which] + (at - y0[which]) * ((x1 - x0) / (y1 - y0))[which]
    begin = np.clip(np.ceil(x), col, col + cols).astype(np.int64) - col
    toggles = np.bincount((at - row) * (cols + 1) + begin, minlength=rows * (cols + 1))
    odd = toggles.astype(np.uint8).reshape(rows, cols + 1)[:, :cols]
    return (np.cumsum(odd, axis=1, dtype=np.uint8) & 1).astype(bool)
