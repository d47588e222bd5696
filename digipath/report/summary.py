"""The numbers of a segmentation: tissue, tumour, lesions, coverage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput
from digipath.report.inputs import BurdenInput, LookHereInput, MetastasesInput
from digipath.values import PREDICTED, Coverage

NOTICE = "For research use only. Not for diagnostic procedures."
BINS = 20
READ_ROWS, STRIP_ROWS = 256, 64  # stored maps are cheapest to read by their chunks of 256 rows
UM2_PER_MM2 = 1e6
LONGEST = 100  # metastases that are listed; all are counted


class MapLike(Protocol):
    """A (rows, columns) array or a stored map."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> NDArray[np.generic]: ...


class Sized(Protocol):
    """A lesion's area."""

    @property
    def area_um2(self) -> float | None: ...


@dataclass(frozen=True)
class Tally:
    """Working pixels of predicted tissue, counted from a whole probability map.

    Attributes:
        threshold: what counts as positive.
        predicted: all of them; positive: those with a probability ≥ threshold.
        mean_probability: over all of them, None if there are none.
        histogram: counts in 20 equal bins over [0, 1].
    """

    threshold: float
    predicted: int
    positive: int
    mean_probability: float | None
    histogram: tuple[int, ...]


def tally(
    probability: MapLike, coverage: MapLike, *, shape_px: Sequence[int], reduce: int, threshold: float = 0.5
) -> Tally:
    """Count the working pixels of predicted tissue by their probability, reading a strip at a time.

    Args:
        probability: (rows, columns) in [0, 1]; coverage: the same size, codes of `digipath.values`.
        shape_px: (rows, columns) of the working frame; a map pixel at its end covers fewer than
            reduce² working pixels, and so counts for fewer.
        reduce: working pixels per map pixel along each axis.
        threshold: in (0, 1].

    Raises:
        BadInput: the maps differ in shape, or do not cover `shape_px`.
    """
    expected = tuple(-(-size // reduce) for size in shape_px)
    if not tuple(probability.shape) == tuple(coverage.shape) == expected:
        raise BadInput(
            f"expected maps of {expected} for {tuple(shape_px)} working pixels, "
            f"got {tuple(probability.shape)} and {tuple(coverage.shape)}"
        )
    counts, positive, total = np.zeros(BINS, np.int64), 0, 0.0
    for values, area in _predicted(probability, coverage, shape_px, reduce):
        bins = np.minimum((values * BINS).astype(np.uint8), BINS - 1)
        counts += area * np.bincount(bins, minlength=BINS)
        positive += area * int(np.count_nonzero(values >= np.float32(threshold)))
        total += area * float(values.sum(dtype=np.float64))
    pixels = int(counts.sum())
    mean = total / pixels if pixels else None
    return Tally(threshold, pixels, positive, mean, tuple(counts.tolist()))


def _predicted(
    probability: MapLike, coverage: MapLike, shape_px: Sequence[int], reduce: int
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Predicted map pixels by parts, with the working pixels that each pixel of the part covers."""
    rows = probability.shape[0]
    for first in range(0, rows, READ_ROWS):
        values, codes = (np.asarray(map_[first : first + READ_ROWS]) for map_ in (probability, coverage))
        for part, area in _parts(first, values.shape, shape_px, reduce):
            yield values[part][codes[part] == PREDICTED].astype(np.float32), area


def _parts(
    first: int, shape: tuple[int, ...], shape_px: Sequence[int], reduce: int
) -> Iterator[tuple[tuple[slice, slice], int]]:
    """Cut map rows from `first` on into boxes whose pixels cover equally many working pixels, and those."""
    whole_rows, whole_columns = shape_px[0] // reduce - first, shape_px[1] // reduce
    cuts = sorted({*range(0, shape[0], STRIP_ROWS), *([whole_rows] if 0 <= whole_rows < shape[0] else []), shape[0]})
    for top, bottom in pairwise(cuts):
        height = reduce if top < whole_rows else shape_px[0] % reduce
        yield (slice(top, bottom), slice(0, whole_columns)), height * reduce
        if whole_columns < shape[1]:
            yield (slice(top, bottom), slice(whole_columns, shape[1])), height * (shape_px[1] % reduce)


def summary(
    counted: Tally,
    coverage: Coverage,
    lesions: Sequence[Sized],
    *,
    mpp: float | None,
    map_mpp: float | None,
    min_lesion_um2: float | None = None,
    notes: Sequence[str] = (),
    metastases: MetastasesInput | None = None,
    burden: BurdenInput | None = None,
    look_here: Sequence[LookHereInput] | None = None,
) -> dict[str, Any]:
    """Return the numbers of a segmentation as a JSON-able dict, units in the keys.

    Args:
        counted: of the positive class.
        coverage: the ledger, in working pixels.
        lesions: largest first.
        mpp: µm per working pixel; None: areas are None, and a note says so.
        map_mpp: µm per map pixel.
        min_lesion_um2: size below which regions were not listed; their area is in `tumour_mm2` all the same.
        notes: for the reader, kept as they are.
        metastases, burden, look_here: readouts; None: not asked for, and None here.

    `tumour_share_of_tissue` is the positive share of the tissue that has a prediction.
    """
    unknown = () if mpp is not None else ("The slide's resolution is unknown, so areas are not given in mm².",)
    largest = lesions[0].area_um2 if lesions else 0.0
    return {
        "tissue_mm2": _mm2(coverage.tissue, mpp),
        "predicted_mm2": _mm2(coverage.predicted, mpp),
        "tumour_mm2": _mm2(counted.positive, mpp),
        "tumour_share_of_tissue": counted.positive / counted.predicted if counted.predicted else None,
        "mean_probability": counted.mean_probability,
        "lesions": len(lesions),
        "largest_lesion_mm2": None if largest is None or mpp is None else largest / UM2_PER_MM2,
        "min_lesion_um2": None if mpp is None else min_lesion_um2,
        "threshold": counted.threshold,
        "mpp": mpp,
        "map_mpp": map_mpp,
        "category_by_size": metastases and metastases.category,
        "metastases": metastases and _metastases(metastases),
        "burden": burden and _burden(burden),
        "look_here": None if look_here is None else [_place(one) for one in look_here],
        "coverage_px": asdict(coverage),
        "complete": coverage.complete,
        "notes": [*notes, *unknown],
        "notice": NOTICE,
    }


def _mm2(pixels: int, mpp: float | None) -> float | None:
    return None if mpp is None else pixels * mpp**2 / UM2_PER_MM2


def _metastases(given: MetastasesInput) -> dict[str, Any]:
    """How many of each category, and the longest ones."""
    categories = Counter(one.category for one in given.found)
    longest = [
        {
            "diameter_um": one.diameter_um,
            "category": one.category,
            "area_um2": one.area_um2,
            "lesions": [*one.fragments],
        }
        for one in given.found[:LONGEST]
    ]
    return {"count": len(given.found), **categories, "longest": longest, "notes": [*given.notes]}


def _burden(given: BurdenInput) -> dict[str, Any]:
    rules = {
        rule.name: {
            "percent": rule.percent,
            "interval_percent": rule.interval and [*rule.interval],
            "viable_mm2": rule.viable_mm2,
            "whole_mm2": rule.whole_mm2,
        }
        for rule in given.rules
    }
    facts = {"level": given.level, "conformal": given.conformal, "mpp": given.mpp, "notes": [*given.notes]}
    return {"rules": rules} | facts


def _place(one: LookHereInput) -> dict[str, Any]:
    return {name: value for name, value in vars(one).items() if name != "outline_l0"}
