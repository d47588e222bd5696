"""Lesions: connected regions of high probability, with exact outlines.

A map is read once, a strip of rows at a time, and turned into runs: stretches of neighbouring
pixels of one row at or above the threshold. Runs that touch, also at a corner, form a region. A
region is outlined as soon as a strip ends without touching it, so memory follows the regions that
are still growing, never the map.

Frames: rows and columns are map pixels; outlines are (x, y) in level-0 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import shapely
from numpy.typing import NDArray

from digipath.errors import BadInput
from digipath.measure.regions import Ints, Runs, connect, outlines, runs_of

READ_ROWS, STRIP_ROWS = 256, 64  # stored maps are cheapest to read by their chunks of 256 rows
DEFAULT_MIN_AREA_UM2 = 100.0  # about one tumour cell, 10 µm across


class MapLike(Protocol):
    """A (rows, columns) array or a stored map: all that is asked of it is its shape and slices of rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> NDArray[np.generic]: ...


@dataclass(frozen=True)
class Lesion:
    """A region of high probability.

    Attributes:
        label: 1 for the largest region, 2 for the next.
        outline: shapely Polygon or MultiPolygon in level-0 pixels (x, y) along the pixels' edges, holes
            kept; pixels that touch at a corner only are separate parts.
        pixels: number of map pixels.
        area_l0_px2: area of the outline in level-0 pixels.
        area_um2: the same in µm²; None where the slide's resolution is unknown.
        mean_probability, max_probability: over the region's pixels.
        centroid_l0: (x, y) centre of mass of the outline; it may lie outside a bent region.
        bbox_l0: (x from, y from, x to, y to).
    """

    label: int
    outline: shapely.Polygon | shapely.MultiPolygon
    pixels: int
    area_l0_px2: float
    area_um2: float | None
    mean_probability: float
    max_probability: float
    centroid_l0: tuple[float, float]
    bbox_l0: tuple[float, float, float, float]


def find_lesions(
    probability: MapLike,
    *,
    map_mpp: float | None,
    l0_per_map_px: float,
    threshold: float = 0.5,
    min_area_um2: float = DEFAULT_MIN_AREA_UM2,
    size_l0: tuple[int, int] | None = None,
) -> list[Lesion]:
    """Return the 8-connected regions with a probability ≥ `threshold`, largest first.

    Args:
        probability: (rows, columns) in [0, 1], an array or a map read lazily; NaN = no prediction, never
            part of a lesion.
        map_mpp: µm per map pixel, None where unknown; then `area_um2` is None and nothing is left out.
        l0_per_map_px: level-0 pixels per map pixel.
        threshold: in (0, 1].
        min_area_um2: smaller regions are left out; 0 keeps all. The default is about one tumour cell.
        size_l0: (width, height) of the slide in level-0 pixels; outlines are cut there, since the last map
            pixels may reach beyond it.

    Raises:
        BadInput: not (rows, columns), a threshold outside (0, 1], or a size that is not positive.
    """
    _check(probability, threshold, map_mpp, l0_per_map_px, min_area_um2)
    frame = _Frame(l0_per_map_px, map_mpp, size_l0, width=probability.shape[1])
    smallest_l0_px2 = 0.0 if map_mpp is None else min_area_um2 / frame.um2_per_l0_px2
    lesions: list[Lesion] = []
    growing = Runs.none()
    for row, strip, last in _strips(probability):
        runs = growing.then(runs_of(strip, row, threshold))
        region = connect(runs, frame.width)
        # A region that reaches the strip's last row may go on in the next one.
        open_ = np.isin(region, region[runs.row == row + len(strip) - 1]) & (not last)
        growing = runs.only(open_)
        large = np.bincount(region, frame.areas(runs))[region] >= smallest_l0_px2
        whole = large & ~open_
        lesions += _outlined(runs.only(whole), region[whole], frame)
    lesions.sort(key=lambda lesion: (-lesion.area_l0_px2, lesion.bbox_l0))
    return [replace(lesion, label=label) for label, lesion in enumerate(lesions, 1)]


def _check(
    probability: MapLike, threshold: float, map_mpp: float | None, l0_per_map_px: float, min_area_um2: float
) -> None:
    if len(probability.shape) != 2:
        raise BadInput(f"expected a probability map (rows, columns), got shape {tuple(probability.shape)}")
    if not 0 < threshold <= 1:
        raise BadInput(f"threshold must be in (0, 1], got {threshold}")
    if not l0_per_map_px > 0 or (map_mpp is not None and not map_mpp > 0):
        raise BadInput(f"expected sizes above 0, got l0_per_map_px={l0_per_map_px} and map_mpp={map_mpp}")
    if not min_area_um2 >= 0:
        raise BadInput(f"min_area_um2 must be at least 0, got {min_area_um2}")


def _strips(probability: MapLike) -> Iterator[tuple[int, NDArray[np.generic], bool]]:
    """(first row, values, whether it is the last) of strips of rows."""
    rows = probability.shape[0]
    for first in range(0, rows, READ_ROWS):
        read = np.asarray(probability[first : first + READ_ROWS])
        for at in range(0, len(read), STRIP_ROWS):
            row = first + at
            yield row, read[at : at + STRIP_ROWS], row + STRIP_ROWS >= rows


@dataclass(frozen=True)
class _Frame:
    """From map pixels to level 0 and µm."""

    l0_per_map_px: float
    map_mpp: float | None
    size_l0: tuple[int, int] | None
    width: int

    @property
    def um2_per_l0_px2(self) -> float:
        """Area of a level-0 pixel; asked only where the resolution is known."""
        assert self.map_mpp is not None
        return (self.map_mpp / self.l0_per_map_px) ** 2

    def to_l0(self, xy: Ints, axis: int | None = None) -> NDArray[np.float64]:
        """Level-0 positions of map edges (n, 2), or of one axis of them (n,), cut at the slide's end."""
        positions = xy * np.float64(self.l0_per_map_px)
        if self.size_l0 is None:
            return positions
        return np.minimum(positions, self.size_l0 if axis is None else self.size_l0[axis])

    def areas(self, runs: Runs) -> NDArray[np.float64]:
        """Area of each run in level-0 px²."""
        across = self.to_l0(runs.stop, 0) - self.to_l0(runs.start, 0)
        return across * (self.to_l0(runs.row + 1, 1) - self.to_l0(runs.row, 1))


def _outlined(runs: Runs, region: Ints, frame: _Frame) -> list[Lesion]:
    """The lesions that whole regions make, labelled 0."""
    if not len(region):
        return []
    _, region = np.unique(region, return_inverse=True)
    polygons = outlines(runs, region, frame.width, frame.to_l0)
    pixels = np.bincount(region, runs.stop - runs.start).astype(np.int64)
    areas = np.bincount(region, frame.areas(runs))
    areas_um2 = [None] * len(areas) if frame.map_mpp is None else (areas * frame.um2_per_l0_px2).tolist()
    means = np.bincount(region, runs.total) / pixels
    peaks = np.zeros(len(areas))
    np.maximum.at(peaks, region, runs.peak)
    centroids = shapely.get_coordinates(shapely.centroid(polygons))
    columns = (pixels, areas, means, peaks, centroids, shapely.bounds(polygons))
    return [
        Lesion(0, outline, count, area, area_um2, mean, peak, tuple(centroid), tuple(box))
        for outline, area_um2, count, area, mean, peak, centroid, box in zip(
            polygons, areas_um2, *(column.tolist() for column in columns), strict=True
        )
    ]
