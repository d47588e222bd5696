"""Lesions: connected regions of high probability, with exact outlines, and the metastases they are fragments of.

A map is read once, a strip of rows at a time, and turned into runs: stretches of neighbouring
pixels of one row at or above the threshold. Runs that touch, also at a corner, form a region. A
region is outlined as soon as a strip ends without touching it, so memory follows the regions that
are still growing, never the map.

Frames: rows and columns are map pixels; outlines are (x, y) in level-0 pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from digipath.errors import BadInput
from digipath.measure.pn_stage import CATEGORIES, size_category
from digipath.measure.regions import Ints, Runs, closed_regions, linked, numbered, outlines, runs_of
from digipath.measure.shape import diameters, shapes_of
from digipath.measure.strips import MapLike, strips

DEFAULT_MIN_AREA_UM2 = 100.0  # about one tumour cell, 10 µm across
# Fragments no further apart are one metastasis: the length of 5 tumour cells, within which the evaluation of
# CAMELYON16 (Ehteshami Bejnordi et al. 2017, doi:10.1001/jama.2017.14585) merges regions of its truth.
JOIN_GAP_UM = 75.0


@dataclass(frozen=True)
class Lesion:
    """A region of high probability.

    Attributes:
        label: 1 for the largest region, 2 for the next.
        outline: shapely Polygon or MultiPolygon in level-0 pixels (x, y) along the pixels' edges, holes
            kept; pixels that touch at a corner only are separate parts.
        pixels: number of map pixels.
        area_l0_px2: area of the outline in level-0 pixels.
        perimeter_l0_px, major_axis_l0_px, minor_axis_l0_px, eccentricity, extent, solidity: of the region's map
            pixels, see `digipath.measure.shape.Shapes`.
        diameter_l0_px: its longest distance, between corners of its map pixels (maximum Feret diameter).
        mean_probability, max_probability: over the region's pixels.
        mean_uncertainty: mean of each uncertainty map over them, by the map's name.
        centroid_l0: (x, y) centre of mass of the outline; it may lie outside a bent region.
        bbox_l0: (x from, y from, x to, y to).
        mpp: µm per level-0 pixel, None where the slide's resolution is unknown; then all µm are None.
        metastasis: label of the metastasis it is a fragment of, see `join_fragments`.
    """

    label: int
    outline: shapely.Polygon | shapely.MultiPolygon
    pixels: int
    area_l0_px2: float
    perimeter_l0_px: float
    major_axis_l0_px: float
    minor_axis_l0_px: float
    diameter_l0_px: float
    eccentricity: float
    extent: float
    solidity: float
    mean_probability: float
    max_probability: float
    mean_uncertainty: Mapping[str, float]
    centroid_l0: tuple[float, float]
    bbox_l0: tuple[float, float, float, float]
    mpp: float | None
    metastasis: int

    @property
    def area_um2(self) -> float | None:
        """Area in µm²."""
        return None if self.mpp is None else self.area_l0_px2 * self.mpp**2

    @property
    def perimeter_um(self) -> float | None:
        """Perimeter in µm."""
        return _um(self.perimeter_l0_px, self.mpp)

    @property
    def major_axis_um(self) -> float | None:
        """Major axis in µm."""
        return _um(self.major_axis_l0_px, self.mpp)

    @property
    def minor_axis_um(self) -> float | None:
        """Minor axis in µm."""
        return _um(self.minor_axis_l0_px, self.mpp)

    @property
    def diameter_um(self) -> float | None:
        """Longest diameter in µm."""
        return _um(self.diameter_l0_px, self.mpp)


@dataclass(frozen=True)
class Metastasis:
    """Lesions so close to each other that they are fragments of one metastasis.

    Attributes:
        label: 1 for the one of the longest diameter, 2 for the next.
        lesions: labels of its fragments, the largest first.
        outline: the fragments' convex hull, in level-0 pixels.
        diameter_l0_px: the hull's longest distance; of a single fragment that fragment's diameter.
        area_l0_px2: of the fragments together, without what lies between them.
        mpp: µm per level-0 pixel, None where unknown; then all µm and the category are None.
    """

    label: int
    lesions: tuple[int, ...]
    outline: shapely.Polygon
    diameter_l0_px: float
    area_l0_px2: float
    mpp: float | None

    @property
    def diameter_um(self) -> float | None:
        """Longest diameter in µm."""
        return _um(self.diameter_l0_px, self.mpp)

    @property
    def area_um2(self) -> float | None:
        """Area in µm²."""
        return None if self.mpp is None else self.area_l0_px2 * self.mpp**2

    @property
    def category(self) -> str | None:
        """`itc`, `micro` or `macro` by its diameter, see `digipath.measure.pn_stage.size_category`."""
        return None if self.diameter_um is None else size_category(self.diameter_um)


def find_lesions(
    probability: MapLike,
    *,
    map_mpp: float | None,
    l0_per_map_px: float,
    threshold: float = 0.5,
    min_area_um2: float = DEFAULT_MIN_AREA_UM2,
    size_l0: tuple[int, int] | None = None,
    uncertainty: Mapping[str, MapLike] | None = None,
    join_gap_um: float = JOIN_GAP_UM,
) -> list[Lesion]:
    """Return the 8-connected regions with a probability ≥ `threshold`, largest first.

    Args:
        probability: (rows, columns) in [0, 1], an array or a map read lazily; NaN = no prediction, never
            part of a lesion.
        map_mpp: µm per map pixel, None where unknown; then the lesions' µm are None and nothing is left out.
        l0_per_map_px: level-0 pixels per map pixel.
        threshold: in (0, 1], compared in the map's own precision.
        min_area_um2: smaller regions are left out; 0 keeps all. The default is about one tumour cell.
        size_l0: (width, height) of the slide in level-0 pixels; outlines are cut there, since the last map
            pixels may reach beyond it.
        uncertainty: maps of the shape of `probability`, whose means the lesions are to carry; one that lacks
            a number in a lesion is absent there.
        join_gap_um: the gap up to which lesions count as fragments of one metastasis.

    Raises:
        BadInput: not (rows, columns), maps of different shapes, a threshold outside (0, 1], or a size that is
            not positive.
    """
    further = uncertainty or {}
    _check(probability, further, threshold=threshold, min_area_um2=min_area_um2)
    frame = _Frame.of(probability.shape[1], l0_per_map_px, map_mpp, size_l0)
    smallest_l0_px2 = 0.0 if frame.mpp is None else min_area_um2 / frame.mpp**2
    found = ((strip, runs_of(strip)) for strip in strips([probability, *further.values()], threshold))
    lesions: list[Lesion] = []
    for runs, region in closed_regions(found, frame.width):
        large = np.bincount(region, frame.areas(runs))[region] >= smallest_l0_px2
        lesions += _measured(runs.only(large), region[large], frame, tuple(further))
    lesions.sort(key=lambda lesion: (-lesion.area_l0_px2, lesion.bbox_l0))
    lesions = [replace(lesion, label=label) for label, lesion in enumerate(lesions, 1)]
    joined = {label: whole.label for whole in join_fragments(lesions, join_gap_um) for label in whole.lesions}
    return [replace(lesion, metastasis=joined[lesion.label]) for lesion in lesions]


def join_fragments(lesions: Sequence[Lesion], gap_um: float = JOIN_GAP_UM) -> list[Metastasis]:
    """Return the metastases that lesions are fragments of, the longest first.

    Two lesions are fragments of one metastasis if the gap between their outlines is at most `gap_um`, or if a
    chain of such neighbours links them (single linkage). Where the resolution is unknown none are joined.

    Args:
        lesions: of one slide, as `find_lesions` returns them.
        gap_um: in µm, at least 0.

    Raises:
        BadInput: a gap below 0 or no number.
    """
    if not gap_um >= 0:
        raise BadInput(f"expected a gap of at least 0 µm, got {gap_um}")
    if not lesions:
        return []
    mpp = lesions[0].mpp
    if mpp is None:
        return _gathered(lesions, np.arange(len(lesions)))
    return _gathered(lesions, _neighbours(_outlines(lesions), gap_um / mpp))


def metastases_of(lesions: Sequence[Lesion]) -> list[Metastasis]:
    """The metastases that `find_lesions` joined its lesions to, the longest first; give it all that it returned."""
    return _gathered(lesions, np.array([lesion.metastasis for lesion in lesions], np.int64)) if lesions else []


def _outlines(lesions: Sequence[Lesion]) -> NDArray[np.object_]:
    return np.array([lesion.outline for lesion in lesions], dtype=object)


def _gathered(lesions: Sequence[Lesion], group: Ints) -> list[Metastasis]:
    """The metastases of lesions with equal numbers, labelled by size."""
    shapes = _outlines(lesions)
    order = np.argsort(group, kind="stable")
    begins = np.flatnonzero(np.diff(group[order], prepend=-1))
    xy, owner = shapely.get_coordinates(shapely.convex_hull(shapes[order]), return_index=True)
    offsets = np.append(np.searchsorted(owner, begins), len(xy))
    hulls = shapely.convex_hull(shapely.from_ragged_array(shapely.GeometryType.LINESTRING, xy, (offsets,)))
    longest = np.maximum.reduceat(np.array([lesions[at].diameter_l0_px for at in order]), begins)
    several = np.diff(begins, append=len(order)) > 1
    longest = np.where(several, np.maximum(longest, diameters(hulls)), longest)
    groups = [[lesions[at] for at in members] for members in np.split(order, begins[1:])]
    whole = [
        Metastasis(
            label=0,
            lesions=tuple(lesion.label for lesion in members),
            outline=hull,
            diameter_l0_px=diameter,
            area_l0_px2=sum(lesion.area_l0_px2 for lesion in members),
            mpp=members[0].mpp,
        )
        for members, hull, diameter in zip(groups, hulls, longest.tolist(), strict=True)
    ]
    whole.sort(key=lambda metastasis: (-metastasis.diameter_l0_px, -metastasis.area_l0_px2, metastasis.lesions))
    return [replace(metastasis, label=label) for label, metastasis in enumerate(whole, 1)]


def slide_category(metastases: Iterable[Metastasis]) -> str | None:
    """Category of a slide or node by the size rule: that of its longest metastasis, `negative` without any.

    None where there is a metastasis and the slide's resolution is unknown.
    """
    categories = [metastasis.category for metastasis in metastases]
    known = [category for category in categories if category is not None]
    return None if len(known) < len(categories) else max(known, key=CATEGORIES.index, default=CATEGORIES[0])


def _um(l0_px: float, mpp: float | None) -> float | None:
    return None if mpp is None else l0_px * mpp


def _check(probability: MapLike, uncertainty: Mapping[str, MapLike], *, threshold: float, min_area_um2: float) -> None:
    if len(probability.shape) != 2:
        raise BadInput(f"expected a probability map (rows, columns), got shape {tuple(probability.shape)}")
    for name, each in uncertainty.items():
        if tuple(each.shape) != tuple(probability.shape):
            raise BadInput(f"expected {name} in the probability's shape {probability.shape}, got {tuple(each.shape)}")
    if not 0 < threshold <= 1:
        raise BadInput(f"threshold must be in (0, 1], got {threshold}")
    if not min_area_um2 >= 0:
        raise BadInput(f"min_area_um2 must be at least 0, got {min_area_um2}")


@dataclass(frozen=True)
class _Frame:
    """From map pixels to level 0 and µm; mpp is µm per level-0 pixel, None where unknown."""

    width: int
    l0_per_map_px: float
    mpp: float | None
    size_l0: tuple[int, int] | None

    @classmethod
    def of(cls, width: int, l0_per_map_px: float, map_mpp: float | None, size_l0: tuple[int, int] | None) -> _Frame:
        if not l0_per_map_px > 0 or (map_mpp is not None and not map_mpp > 0):
            raise BadInput(f"expected sizes above 0, got l0_per_map_px={l0_per_map_px} and map_mpp={map_mpp}")
        return cls(width, l0_per_map_px, None if map_mpp is None else map_mpp / l0_per_map_px, size_l0)

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


def _measured(runs: Runs, region: Ints, frame: _Frame, names: tuple[str, ...]) -> list[Lesion]:
    """The lesions that whole regions make, labelled 0; the runs' sums after the first are those of the names."""
    if not len(region):
        return []
    region = numbered(region)
    polygons = outlines(runs, region, frame.width, frame.to_l0)
    shapes = shapes_of(runs, region)
    means = np.stack([np.bincount(region, total) / shapes.area for total in runs.total.T], axis=1)
    peaks = np.zeros(len(polygons))
    np.maximum.at(peaks, region, runs.peak)
    columns = {
        "outline": polygons,
        "pixels": shapes.area.astype(np.int64),
        "area_l0_px2": np.bincount(region, frame.areas(runs)),
        "perimeter_l0_px": shapes.perimeter * frame.l0_per_map_px,
        "major_axis_l0_px": shapes.major_axis * frame.l0_per_map_px,
        "minor_axis_l0_px": shapes.minor_axis * frame.l0_per_map_px,
        "diameter_l0_px": shapes.diameter * frame.l0_per_map_px,
        "eccentricity": shapes.eccentricity,
        "extent": shapes.extent,
        "solidity": shapes.solidity,
        "mean_probability": means[:, 0],
        "max_probability": peaks,
    }
    further = {
        "mean_uncertainty": [_known(names, each) for each in means[:, 1:].tolist()],
        "centroid_l0": [tuple(xy) for xy in shapely.get_coordinates(shapely.centroid(polygons)).tolist()],
        "bbox_l0": [tuple(box) for box in shapely.bounds(polygons).tolist()],
    }
    rows = zip(*(column.tolist() for column in columns.values()), *further.values(), strict=True)
    fields = (*columns, *further)
    return [Lesion(label=0, metastasis=0, mpp=frame.mpp, **dict(zip(fields, row, strict=True))) for row in rows]


def _known(names: Sequence[str], means: Sequence[float]) -> dict[str, float]:
    return {name: mean for name, mean in zip(names, means, strict=True) if np.isfinite(mean)}


def _neighbours(shapes: NDArray[np.object_], gap: float) -> Ints:
    """Group of each shape: those within the gap of each other, and whoever they link."""
    one, other = shapely.STRtree(shapes).query(shapes, predicate="dwithin", distance=gap)
    return linked(one, other, len(shapes))
