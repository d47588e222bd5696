"""Heatmaps as a real detector would make them of known lesions: misses, false alarms, doubts and blurred borders.

A heatmap is a field of log odds. Around tumour its mean follows the distance from the true border,
sharp or blurred as measured; every cluster of lesions has a confidence of its own, and a texture of
measured size and strength lies over all of it, so that regions break up at a high threshold as real
ones do. Lesions are missed by their size, and false regions are scattered over the tissue. All
parameters are measured, or fitted to what was measured (`examples/measure_detector.py`); none is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from digipath.errors import BadInput
from digipath.files import read_json
from digipath.synthetic.drawing import raster

MEASURED = Path(__file__).with_name("detector_errors.json")
CLUSTER_UM = 300.0  # lesions closer than this share a confidence; about the side of the crops
LARGEST_FALSE_PX = 250
NEAR_UM = 150.0  # as far from tumour as the crops show its surroundings; from there on doubt fades
CONFIDENT_LOGIT = float(np.log(0.9 / 0.1))
CONFIDENCE = ("inside_logit", "between_sd")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class DetectorErrors:
    """How a detector errs; log odds are natural, of means over map pixels of `map_mpp`.

    Attributes:
        map_mpp: µm per map pixel at which all was measured.
        inside_logit, outside_logit: mean log odds well inside and well outside tumour, near it.
        normal_logit: the same in tissue far from tumour.
        border_um, border_shift_um: width of the logistic step between inside and outside, and how far
            inside the true border it lies.
        between_sd, within_sd: standard deviation of log odds between clusters of lesions, and within them; the
            first is measured between slides, one cluster of each.
        texture_um: standard deviation of the Gaussian filter that gives noise the texture's correlation.
        miss_floor, miss_diameter_um, miss_slope: a lesion of diameter d is missed with the probability
            floor + (1 − floor) / (1 + (d / miss_diameter_um)^miss_slope).
        false_per_mm2, false_dispersion: regions of p ≥ 0.9 per mm² of normal tissue; gamma shape of
            their rate's spread between slides (small: a few slides have most).
        false_diameter_um, false_log_sd: median of their diameter at p = 0.9 before texture breaks them up, and
            standard deviation of its logarithm.
        false_peak_logit: log odds at their middle; false_aspect: their length over their width.
    """

    map_mpp: float
    inside_logit: float
    outside_logit: float
    normal_logit: float
    border_um: float
    border_shift_um: float
    between_sd: float
    within_sd: float
    texture_um: float
    miss_floor: float
    miss_diameter_um: float
    miss_slope: float
    false_per_mm2: float
    false_dispersion: float
    false_diameter_um: float
    false_log_sd: float
    false_peak_logit: float
    false_aspect: float

    @staticmethod
    def measured(path: Path = MEASURED, *, on_crops: bool = False) -> DetectorErrors:
        """The errors that were measured, from a file `examples/measure_detector.py` wrote.

        Args:
            on_crops: with the confidence that the default weights showed on crops they were not trained on. It is
                lower than that of published heatmaps of whole slides.

        Raises:
            BadInput: the file lacks a parameter.
        """
        record = read_json(path)
        values = record["errors"]
        if on_crops:
            values |= {name: record["crops"][name] for name in CONFIDENCE}
        names = [field.name for field in fields(DetectorErrors)]
        if missing := [name for name in names if name not in values]:
            raise BadInput(f"expected the parameter {missing[0]} of a detector's errors, got none: {path}")
        return DetectorErrors(**{name: float(values[name]) for name in names})

    def scaled(self, factor: float) -> DetectorErrors:
        """The same detector with `factor` times the misses, false regions and border blur."""
        return replace(
            self,
            border_um=self.border_um * factor,
            miss_floor=min(1.0, self.miss_floor * factor),
            miss_diameter_um=self.miss_diameter_um * factor,
            false_per_mm2=self.false_per_mm2 * factor,
        )

    def miss_probability(self, diameter_um: float) -> float:
        """How probable it is that a lesion of this longest diameter is not seen at all, in [0, 1]."""
        by_size = 1 / (1 + (diameter_um / self.miss_diameter_um) ** self.miss_slope)
        return self.miss_floor + (1 - self.miss_floor) * by_size

    def to_record(self) -> dict[str, Any]:
        """As JSON, for cards."""
        return asdict(self)


def simulate_heatmap(
    lesions_px: Sequence[shapely.Polygon],
    tissue: NDArray[np.bool_],
    errors: DetectorErrors,
    rng: np.random.Generator,
) -> Floats:
    """Return the heatmap (rows, columns) float32 in [0, 1] that such a detector makes of these lesions.

    Args:
        lesions_px: outlines in map pixels (x, y) of `errors.map_mpp`; pixels whose centre is inside are tumour.
        tissue: (rows, columns) bool; the heatmap is 0 elsewhere.
        rng: decides everything random; the same state gives the same heatmap.
    """
    logit = np.full(tissue.shape, errors.normal_logit, np.float32)
    for cluster in clusters(lesions_px, CLUSTER_UM / errors.map_mpp):
        _add_cluster(logit, [lesions_px[i] for i in cluster], errors, rng)
    _add_false_regions(logit, tissue, errors, rng)
    heatmap = np.zeros_like(logit)
    heatmap[tissue] = sigmoid(logit[tissue])
    return heatmap


def clusters(outlines: Sequence[shapely.Geometry], gap: float) -> list[list[int]]:
    """Indices of outlines that lie within `gap` of each other, chained; in the order of their first member."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(outlines):
        return []
    one, other = shapely.STRtree(outlines).query(outlines, predicate="dwithin", distance=gap)
    links = coo_array((np.ones(len(one), bool), (one, other)), shape=(len(outlines),) * 2)
    label = connected_components(links, directed=False)[1]
    return [np.flatnonzero(label == i).tolist() for i in range(label.max() + 1)]


def longest_diameter(outlines: Sequence[shapely.Geometry]) -> float:
    """The greatest distance between two points of the outlines, in their own unit."""
    corners = shapely.get_coordinates(shapely.convex_hull(shapely.union_all(outlines)))
    return float(np.hypot(*(corners[:, None] - corners[None]).transpose(2, 0, 1)).max())


def rasterised(
    outlines: Sequence[shapely.Polygon], shape: tuple[int, int], corner: tuple[int, int] = (0, 0)
) -> NDArray[np.bool_]:
    """(rows, columns) bool: pixels whose centre is inside an outline; the window's first pixel is `corner` (x, y)."""
    shells, holes = ([np.asarray(ring.coords)[:-1] for ring in rings] for rings in (
        [outline.exterior for outline in outlines], [hole for outline in outlines for hole in outline.interiors]
    ))  # fmt: skip
    filled, empty = (raster(rings, corner, (shape[1], shape[0]), 1.0) for rings in (shells, holes))
    return filled & ~empty


def _add_cluster(
    logit: Floats, lesions: Sequence[shapely.Polygon], errors: DetectorErrors, rng: np.random.Generator
) -> None:
    """Write a cluster of lesions and its surroundings into the field."""
    margin = 2 * NEAR_UM / errors.map_mpp
    left, top, right, bottom = shapely.total_bounds(lesions)
    x, y = max(0, int(left - margin)), max(0, int(top - margin))
    window = (slice(y, min(logit.shape[0], int(bottom + margin) + 1)),
              slice(x, min(logit.shape[1], int(right + margin) + 1)))  # fmt: skip
    field = logit[window]
    if not field.size:
        return
    missed = [rng.random() < errors.miss_probability(longest_diameter([p]) * errors.map_mpp) for p in lesions]
    truth = rasterised(lesions, field.shape, (x, y))
    seen = rasterised([p for p, gone in zip(lesions, missed, strict=True) if not gone], field.shape, (x, y))
    inside = errors.inside_logit + errors.between_sd * rng.standard_normal()
    step = sigmoid((_depth_um(seen, errors.map_mpp) - errors.border_shift_um) / errors.border_um)
    near = np.clip(2 + _depth_um(truth, errors.map_mpp) / NEAR_UM, 0, 1)  # 1 up to NEAR_UM, 0 from twice that on
    around = errors.normal_logit + (errors.outside_logit - errors.normal_logit) * near
    texture = errors.within_sd * _texture(field.shape, errors.texture_um / errors.map_mpp, rng)
    field[...] = np.maximum(field, around + (inside - around) * step + texture * near)


def _depth_um(mask: NDArray[np.bool_], mpp: float) -> Floats:
    """Distance of each pixel's centre from the border of the mask, positive inside."""
    if not mask.any():
        return np.full(mask.shape, -1e6, np.float32)
    padded = np.pad(mask, 1)  # beyond the window is outside
    inside, outside = (ndimage.distance_transform_edt(side) for side in (padded, ~padded))
    depth = np.where(padded, inside - 0.5, 0.5 - outside)[1:-1, 1:-1]
    return (depth * mpp).astype(np.float32)


def sigmoid(logit: Floats) -> Floats:
    """The probability of log odds."""
    with np.errstate(over="ignore"):  # exp grows beyond float32 where the answer is 0
        return (1 / (1 + np.exp(-logit))).astype(np.float32)


def _texture(shape: tuple[int, ...], sigma_px: float, rng: np.random.Generator) -> Floats:
    """Gaussian noise of unit variance, correlated over a few pixels."""
    noise = rng.standard_normal(shape, np.float32)
    smooth = ndimage.gaussian_filter(noise, sigma_px, mode="wrap")
    return smooth * np.float32(2 * np.sqrt(np.pi) * sigma_px)  # the filter's own loss of variance


def _add_false_regions(
    logit: Floats, tissue: NDArray[np.bool_], errors: DetectorErrors, rng: np.random.Generator
) -> None:
    """Scatter regions of high probability over the tissue."""
    where = np.flatnonzero(tissue)
    area_mm2 = len(where) * errors.map_mpp**2 / 1e6
    rate = errors.false_per_mm2 * area_mm2 * rng.gamma(errors.false_dispersion) / errors.false_dispersion
    for at in rng.choice(where, rng.poisson(rate)) if len(where) else ():
        row, column = divmod(int(at), tissue.shape[1])
        hill = false_region(errors, rng)
        reach = len(hill) // 2
        rows, columns = (slice(max(0, c - reach), c + reach + 1) for c in (row, column))
        field = logit[rows, columns]
        part = hill[max(0, reach - row) :, max(0, reach - column) :][: field.shape[0], : field.shape[1]]
        np.maximum(field, part, out=field)


def false_region(errors: DetectorErrors, rng: np.random.Generator) -> Floats:
    """Log odds of one false region in a square window: an elongated hill under the texture."""
    diameter_um = errors.false_diameter_um * np.exp(errors.false_log_sd * rng.standard_normal())
    height = errors.false_peak_logit - errors.normal_logit
    confident = CONFIDENT_LOGIT - errors.normal_logit
    sigma = max(diameter_um / 2 / errors.map_mpp, 0.5) / np.sqrt(2 * np.log(height / confident))
    long, wide = sigma * np.sqrt(errors.false_aspect), sigma / np.sqrt(errors.false_aspect)
    reach = min(int(3 * long) + 1, LARGEST_FALSE_PX)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    turn = np.exp(1j * np.pi * rng.random())
    turned = (x + 1j * y) * turn
    bump = np.exp(-((turned.real / long) ** 2 + (turned.imag / wide) ** 2) / 2)
    texture = errors.within_sd * _texture(bump.shape, errors.texture_um / errors.map_mpp, rng)
    return (errors.normal_logit + (height + texture) * bump).astype(np.float32)
