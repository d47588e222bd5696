"""From heatmaps to the pN stage: Table 5's features of a node, Table 2's sizes, Table 3's rule for a patient.

Tables are those of Khened et al. 2021, doi:10.1038/s41598-021-90444-8. Nothing here is learned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from digipath.errors import BadInput
from digipath.measure.regions import Ints, Runs, closed_regions, runs_of
from digipath.measure.shape import shapes_of
from digipath.measure.strips import READ_ROWS, MapLike, strips

CATEGORIES = ("negative", "itc", "micro", "macro")  # of a node, the mildest first
STAGES = ("pN0", "pN0(i+)", "pN1mi", "pN1", "pN2")  # of a patient, the mildest first
OUTSIDE = "outside: more than 9 positive nodes"  # Table 3 ends with pN2, 4 to 9 positive nodes
ITC_UM, MICRO_UM = 200.0, 2000.0  # the largest diameter of isolated tumour cells and of a micro-metastasis
PN1_NODES, PN2_NODES = 3, 9  # the most positive nodes of each stage
CELLS_NOTE = (
    "Categories are by diameter alone: cells are not counted, so the other criterion "
    "of isolated tumour cells (fewer than 200 cells) is not measured."
)

_STATISTICS = ("max", "mean", "variance", "skewness", "kurtosis")
_UNITS = {  # of each statistic of each descriptor; no unit: a plain number
    "area": ("_um2", "_um2", "_um4", "", ""),
    "perimeter": ("_um", "_um", "_um2", "", ""),
    "eccentricity": ("",) * 5,
    "extent": ("",) * 5,
    "solidity": ("",) * 5,
}
# Table 5 in its order; 90 and 50 are the threshold in percent, and where none is named it is 0.9.
FEATURES = (
    "largest_major_axis_90_um",
    "largest_major_axis_50_um",
    "largest_area_50_um2",
    "tumour_to_tissue_90",
    "pixels_90",
    *(
        f"{descriptor}_{statistic}{unit}"
        for descriptor, units in _UNITS.items()
        for statistic, unit in zip(_STATISTICS, units, strict=True)
    ),
    "mean_confidence",
    "regions",
)


def size_category(diameter_um: float | None) -> str:
    """Category of a metastasis by its longest diameter, one of `CATEGORIES`; None (nothing found) is negative.

    Up to 0.2 mm isolated tumour cells, up to 2 mm a micro-metastasis, above a macro-metastasis: Table 2, whose
    other criterion, the number of cells, is not measured (`CELLS_NOTE`).

    Raises:
        BadInput: a diameter that is not a number above 0.
    """
    if diameter_um is None:
        return "negative"
    if not diameter_um > 0:
        raise BadInput(f"expected a diameter above 0 µm, or None where nothing was found, got {diameter_um}")
    return "itc" if diameter_um <= ITC_UM else "micro" if diameter_um <= MICRO_UM else "macro"


def patient_stage(categories: Iterable[str]) -> str:
    """Stage of a patient by the categories of all examined nodes: one of `STAGES`, or `OUTSIDE`.

    Positive nodes hold a micro- or macro-metastasis; isolated tumour cells do not count. With a macro-metastasis
    1 to 3 positive nodes are pN1, 4 to 9 pN2, and more are outside the table; with micro-metastases only it is
    pN1mi, with isolated tumour cells only pN0(i+), else pN0. Table 3, over any number of nodes and in any order.

    Raises:
        BadInput: no node, or a category that is not one of `CATEGORIES`.
    """
    if isinstance(categories, str):
        raise BadInput(f"expected one category per node, got the text {categories!r}: give a list")
    nodes = list(categories)
    unknown = sorted({str(node) for node in nodes} - set(CATEGORIES))
    if unknown or not nodes:
        raise BadInput(f"expected a category per node, each one of {', '.join(CATEGORIES)}; got {unknown or 'no node'}")
    positive = nodes.count("micro") + nodes.count("macro")
    return _stage(positive, macro="macro" in nodes, itc="itc" in nodes)


def stage_probabilities(node_probabilities: ArrayLike) -> dict[str, float]:
    """Distribution of the patient's stage, by stage in the order of `STAGES`, then `OUTSIDE`; it adds up to 1.

    Exact for independent nodes, and any number of them: nodes are added one by one to a table of the chances of
    each number of positive nodes, with and without a macro-metastasis, with and without isolated tumour cells.

    Args:
        node_probabilities: (nodes, 4) in [0, 1], the chance of each of `CATEGORIES`; rows add up to 1.

    Raises:
        BadInput: another shape, no node, or rows that are no distributions.
    """
    nodes = np.asarray(node_probabilities, dtype=np.float64)
    if nodes.ndim != 2 or nodes.shape[1] != len(CATEGORIES) or not len(nodes):
        raise BadInput(f"expected probabilities (nodes, {len(CATEGORIES)}) of at least one node, got {nodes.shape}")
    if not (nodes >= 0).all() or not np.allclose(nodes.sum(axis=1), 1, rtol=0, atol=1e-6):
        raise BadInput("expected each node's probabilities to be at least 0 and to add up to 1")
    most = PN2_NODES + 1  # stands for any number above 9
    chance = np.zeros((most + 1, 2, 2))  # positive nodes, any macro-metastasis, any isolated tumour cells
    chance[0, 0, 0] = 1
    for node in nodes / nodes.sum(axis=1, keepdims=True):
        chance = _with_node(chance, node)
    stages = dict.fromkeys((*STAGES, OUTSIDE), 0.0)
    for (positive, macro, itc), value in np.ndenumerate(chance):
        stages[_stage(positive, macro=bool(macro), itc=bool(itc))] += float(value)
    return stages


def _stage(positive: int, *, macro: bool, itc: bool) -> str:
    if not positive:
        return "pN0(i+)" if itc else "pN0"
    if not macro:
        return "pN1mi"
    return "pN1" if positive <= PN1_NODES else "pN2" if positive <= PN2_NODES else OUTSIDE


def _with_node(chance: NDArray[np.float64], node: NDArray[np.float64]) -> NDArray[np.float64]:
    """The table of chances after one more node with these probabilities."""
    negative, itc, micro, macro = node
    after = chance * negative
    after[:, :, 1] += chance.sum(axis=2) * itc
    further = np.zeros_like(chance)  # one positive node more
    further[1:] = chance[:-1]
    further[-1] += chance[-1]
    after += further * micro
    after[:, 1] += further.sum(axis=1) * macro
    return after


def heatmap_features(probability: MapLike | ArrayLike, tissue: MapLike | ArrayLike, mpp: float) -> dict[str, float]:
    """The 32 features of Table 5 of a node's heatmap, by name in the order of `FEATURES`.

    Regions are the 8-connected pixels with a probability ≥ 0.9 (≥ 0.5 where the name says 50); the largest is the
    one of most pixels, the first in reading order among equals. Descriptors are those of
    `digipath.measure.shape`, in µm and µm²; `pixels_90` and `regions` are counts; `mean_confidence` is the mean
    over the regions of each one's mean probability. Variances are of the population, skewness biased, kurtosis
    Fisher's (0 for a normal distribution), as in scipy.stats.

    Always finite. Without a region each feature is 0. Without spread (a single region, or regions that are all
    equal in a descriptor) its variance is 0, and its skewness and kurtosis, which are then undefined, are 0 too.
    Without tissue `tumour_to_tissue_90` is 0, but 1 where there is tumour all the same.

    Args:
        probability: (rows, columns) in [0, 1]; NaN = no prediction, never part of a region. Read lazily.
        tissue: (rows, columns), true or nonzero = tissue.
        mpp: µm per map pixel.

    Raises:
        BadInput: not two maps of one shape (rows, columns), or an mpp that is not a number above 0.
    """
    heatmap, mask = _map(probability), _map(tissue)
    if len(heatmap.shape) != 2 or tuple(heatmap.shape) != tuple(mask.shape):
        raise BadInput(
            "expected a heatmap and a tissue mask of one shape (rows, columns), "
            f"got {tuple(heatmap.shape)} and {tuple(mask.shape)}"
        )
    if not 0 < mpp < math.inf:
        raise BadInput(f"expected mpp in µm per pixel, a number above 0, got {mpp}")
    sure, likely = _measured(heatmap, 0.9), _largest(heatmap, 0.5)
    pixels = sure["area"].sum()
    units = dict.fromkeys(_UNITS, 1.0) | {"area": mpp**2, "perimeter": mpp}
    values = (
        sure["major_axis"][np.argmax(sure["area"])] * mpp if pixels else 0.0,
        likely[0] * mpp,
        likely[1] * mpp**2,
        _share(pixels, _count(mask)),
        pixels,
        *(value for name, unit in units.items() for value in _statistics(sure[name] * unit)),
        sure["confidence"].mean() if pixels else 0.0,
        len(sure["area"]),
    )
    return {name: float(value) for name, value in zip(FEATURES, values, strict=True)}


def _map(given: MapLike | ArrayLike) -> MapLike:
    return cast(MapLike, given) if hasattr(given, "shape") else np.asarray(given)


def _closed(heatmap: MapLike, threshold: float, border: bool) -> Iterator[tuple[Runs, Ints]]:
    found = ((strip, runs_of(strip, border=border)) for strip in strips([heatmap], threshold))
    return closed_regions(found, heatmap.shape[1])


def _measured(heatmap: MapLike, threshold: float) -> dict[str, NDArray[np.float64]]:
    """Each region's descriptors and its mean probability, in reading order of the regions' first pixels."""
    parts: list[NDArray[np.float64]] = [np.zeros((len(_UNITS) + 4, 0))]
    for runs, region in _closed(heatmap, threshold, border=True):
        shapes = shapes_of(runs, region)
        _, first = np.unique(region, return_index=True)
        confidence = np.bincount(region, runs.total[:, 0]) / shapes.area
        descriptors = (getattr(shapes, name) for name in (*_UNITS, "major_axis"))
        parts.append(np.stack((*descriptors, confidence, runs.row[first], runs.start[first])))
    table = np.concatenate(parts, axis=1)
    table = table[:, np.lexsort((table[-1], table[-2]))]
    return dict(zip((*_UNITS, "major_axis", "confidence"), table, strict=False))


def _largest(heatmap: MapLike, threshold: float) -> tuple[float, float]:
    """Major axis and area of the largest region, (0, 0) if there is none."""
    largest: tuple[int, int, int] = (0, 0, 0)  # pixels, then the first pixel's place, negative as earlier is better
    major_axis = 0.0
    for runs, region in _closed(heatmap, threshold, border=False):
        pixels = np.bincount(region, runs.length)
        _, first = np.unique(region, return_index=True)
        best = np.lexsort((runs.start[first], runs.row[first], -pixels))[0]
        this = int(pixels[best]), -int(runs.row[first[best]]), -int(runs.start[first[best]])
        if this > largest:
            largest, only = this, region == best
            major_axis = float(shapes_of(runs.only(only), region[only] * 0).major_axis[0])
    return major_axis, float(largest[0])


def _statistics(values: NDArray[np.float64]) -> tuple[float, float, float, float, float]:
    """Maximum, mean, variance, skewness and kurtosis, see `heatmap_features`."""
    if not len(values):
        return 0.0, 0.0, 0.0, 0.0, 0.0
    mean = float(values.mean())
    apart = values - mean
    variance = float((apart**2).mean())
    # Values that differ by rounding alone have no spread: powers of such differences are noise.
    if np.ptp(values) <= 8 * np.finfo(np.float64).eps * values.max():
        return float(values.max()), mean, 0.0, 0.0, 0.0
    skewness = float((apart**3).mean()) / variance**1.5
    return float(values.max()), mean, variance, skewness, float((apart**4).mean()) / variance**2 - 3


def _count(mask: MapLike) -> int:
    """Pixels that are true or nonzero."""
    return sum(int(np.count_nonzero(mask[row : row + READ_ROWS])) for row in range(0, mask.shape[0], READ_ROWS))


def _share(tumour: float, tissue: int) -> float:
    if tissue:
        return tumour / tissue
    return 1.0 if tumour else 0.0
