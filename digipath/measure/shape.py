"""Shape descriptors of regions from their runs, as scikit-image's `regionprops` defines them.

All regions at once, in exact integers up to the last step; the map itself is not needed. Pixels are points at
their centres for axes and eccentricity, and squares for the diameter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from digipath.measure.regions import Ints, Runs

Floats = NDArray[np.float64]

LENGTHS = np.array([1, np.sqrt(2), (1 + np.sqrt(2)) / 2])  # of straight, diagonal and mixed pieces of border
DIAMOND = np.array([(-1, 0), (0, -1), (1, 0), (0, 1)])  # middles of a pixel's sides, in half pixels
SQUARE = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])  # its corners


@dataclass(frozen=True)
class Shapes:
    """Descriptors of each region, (regions,) float64, in map pixels.

    Attributes:
        area: pixels.
        perimeter: length of the border through its pixels' centres (neighbourhood of 4); 0 for a pixel.
        major_axis, minor_axis: full axes of the ellipse of the same second moments; 0 for a pixel.
        eccentricity: of that ellipse, in [0, 1); 0 for a circle and for a pixel, 1 for a straight line.
        extent: share of the bounding box, in (0, 1].
        solidity: share of the pixels in the convex hull of the pixels' sides, in (0, 1].
        diameter: the longest distance between two corners of its pixels (maximum Feret diameter).
    """

    area: Floats
    perimeter: Floats
    major_axis: Floats
    minor_axis: Floats
    eccentricity: Floats
    extent: Floats
    solidity: Floats
    diameter: Floats


def shapes_of(runs: Runs, region: Ints) -> Shapes:
    """The descriptors of each region 0, 1, …, each of which has a run.

    Equal to scikit-image 0.26's `area`, `perimeter`, `axis_major_length`, `axis_minor_length`, `eccentricity`,
    `extent` and `solidity` up to rounding; it has no exact counterpart of `diameter`.
    """
    if not len(region):
        return Shapes(*(np.zeros(0) for _ in Shapes.__dataclass_fields__))
    order = np.argsort(region, kind="stable")
    runs, begins = runs.only(order), np.flatnonzero(np.diff(region[order], prepend=-1))
    region = region[order]
    box = _Boxes.around(runs, begins)
    area = np.add.reduceat(runs.length, begins).astype(np.float64)
    major, minor, eccentricity = _ellipses(runs, region, begins, box)
    centres, owner = shapely.get_coordinates(_centre_hulls(runs, region), return_index=True)
    convex = _lattice_points(_widened(centres, owner, DIAMOND), box)
    return Shapes(
        area=area,
        perimeter=np.add.reduceat(runs.border, begins) @ LENGTHS,
        major_axis=major,
        minor_axis=minor,
        eccentricity=eccentricity,
        extent=area / (box.width * box.height),
        solidity=area / convex,
        diameter=diameters(_widened(centres, owner, SQUARE)) / 2,
    )


def diameters(hulls: ArrayLike) -> Floats:
    """Longest distance between two corners of each convex polygon, (polygons,)."""
    rings = shapely.get_exterior_ring(hulls)
    count = shapely.get_num_coordinates(rings) - 1  # a ring ends where it began
    xy, owner = shapely.get_coordinates(rings, return_index=True)
    begins = np.append(0, np.cumsum(count + 1)[:-1])
    at = np.arange(len(xy)) - begins[owner]
    longest = np.zeros(len(count))
    for apart in range(1, count.max(initial=0) // 2 + 1):
        # From each corner to the one that many corners on.
        some = np.flatnonzero((count[owner] >= 2 * apart) & (at < count[owner]))
        other = begins[owner[some]] + (at[some] + apart) % count[owner[some]]
        np.maximum.at(longest, owner[some], ((xy[other] - xy[some]) ** 2).sum(axis=1))
    return np.sqrt(longest)


@dataclass(frozen=True)
class _Boxes:
    """Bounding boxes of regions: x in [left, right), y in [top, bottom)."""

    left: Ints
    right: Ints
    top: Ints
    bottom: Ints

    @classmethod
    def around(cls, runs: Runs, begins: Ints) -> _Boxes:
        return cls(
            np.minimum.reduceat(runs.start, begins),
            np.maximum.reduceat(runs.stop, begins),
            np.minimum.reduceat(runs.row, begins),
            np.maximum.reduceat(runs.row, begins) + 1,
        )

    @property
    def width(self) -> Ints:
        return self.right - self.left

    @property
    def height(self) -> Ints:
        return self.bottom - self.top


def _ellipses(runs: Runs, region: Ints, begins: Ints, box: _Boxes) -> tuple[Floats, Floats, Floats]:
    """Major axes, minor axes and eccentricities of the ellipses of the regions' second moments.

    With n pixels and the integers A = n Σx² − (Σx)², B the same of y, C = n Σxy − Σx Σy, the variances along the
    axes are (A + B ± D) / 2n² with D² = (A − B)² + 4C². Coordinates are doubled here, so that they are integers
    even from the middle of the box.
    """
    n = runs.length
    x = runs.start + runs.stop - 1 - (box.left + box.right - 1)[region]  # of the run's middle
    y = 2 * runs.row - (box.top + box.bottom - 1)[region]
    terms = (n, n * x, n * y, n * x * x + (n**3 - n) // 3, n * y * y, n * x * y)
    count, sx, sy, sxx, syy, sxy = (_exact_sums(term, begins) for term in terms)
    a, b, c = count * sxx - sx * sx, count * syy - sy * sy, count * sxy - sx * sy
    total = (a + b).astype(np.float64)
    split = np.sqrt(((a - b) ** 2 + 4 * c * c).astype(np.float64))
    pixels = count.astype(np.float64)
    major = np.sqrt(2 * (total + split)) / pixels
    largest = np.where(major > 0, total + split, 1)  # a single pixel has no axes
    minor = 2 * np.sqrt(2 * (a * b - c * c).astype(np.float64) / largest) / pixels
    return major, minor, np.sqrt(2 * split / largest)


def _exact_sums(values: Ints, begins: Ints) -> NDArray[np.object_]:
    """Sums of 64-bit integers from each begin to the next, as integers of any size."""
    high, low = (np.add.reduceat(part, begins).astype(object) for part in (values >> 31, values & (2**31 - 1)))
    return high * 2**31 + low


def _centre_hulls(runs: Runs, region: Ints) -> NDArray[np.object_]:
    """Convex hull of the centres of each region's pixels, in half pixels: a point, a line or a polygon."""
    first = (np.diff(region, prepend=-1) != 0) | (np.diff(runs.row, prepend=-1) != 0)  # of the region in its row
    last = np.append(first[1:], True)
    x = 2 * np.stack((runs.start[first], runs.stop[last] - 1), axis=1)
    y = 2 * np.stack((runs.row[first],) * 2, axis=1)
    return _hulls(np.stack((x.ravel(), y.ravel()), axis=1), np.repeat(region[first], 2))


def _widened(centres: Floats, owner: Ints, offsets: Ints) -> NDArray[np.object_]:
    """Convex hull of each owner's pixels with these corners, from the hull of their centres, in half pixels."""
    xy = (centres[:, None] + offsets).reshape(-1, 2)
    return _hulls(xy, np.repeat(owner, len(offsets)))


def _hulls(xy: ArrayLike, owner: Ints) -> NDArray[np.object_]:
    """Convex hull of the points, two or more, of each owner 0, 1, …, in whose order the points are."""
    offsets = np.append(0, np.cumsum(np.bincount(owner)))
    # As lines through all the points, which shapely makes many times faster than collections of points.
    lines = shapely.from_ragged_array(shapely.GeometryType.LINESTRING, np.asarray(xy, np.float64), (offsets,))
    return shapely.convex_hull(lines)


def _lattice_points(hulls: NDArray[np.object_], box: _Boxes) -> Ints:
    """Pixel centres in each hull, its border included; corners are in half pixels, so all of it is exact.

    In each row they lie between the crossings of the row with the hull's sides.
    """
    xy, owner = shapely.get_coordinates(hulls, return_index=True)
    side = np.flatnonzero(owner[1:] == owner[:-1])
    ends = np.stack((xy[side], xy[side + 1]), axis=1).astype(np.int64)
    ends = np.take_along_axis(ends, np.argsort(ends[:, :, 1], axis=1)[:, :, None], axis=1)
    (x1, y1), (x2, y2) = ends[:, 0].T, ends[:, 1].T
    first = -(-y1 // 2)
    rows = np.where(y1 < y2, y2 // 2 - first + 1, 0)  # that the side crosses; none along a row
    of = np.repeat(np.arange(len(side)), rows)
    row = np.arange(len(of)) - np.repeat(np.cumsum(rows) - rows - first, rows)
    # The crossing is at `over / under` pixels.
    under = 2 * (y2 - y1)[of]
    over = x1[of] * (y2 - y1)[of] + (x2 - x1)[of] * (2 * row - y1[of])
    starts = np.cumsum(box.height) - box.height
    line = starts[owner[side[of]]] + row - box.top[owner[side[of]]]
    least, most = np.full(box.height.sum(), np.iinfo(np.int64).max), np.full(box.height.sum(), -1)
    np.minimum.at(least, line, -(-over // under))
    np.maximum.at(most, line, over // under)
    return np.add.reduceat(most - least + 1, starts)
