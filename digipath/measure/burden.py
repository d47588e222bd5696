"""Tumour burden: the viable share of the whole tumour, by two rules for what the whole tumour is.

Khened et al. 2021 ("Tumour burden estimation", doi:10.1038/s41598-021-90444-8): viable tumour is what reaches a
threshold, without small objects and with small holes filled; the whole tumour is the tissue within the smallest
convex hull of it; burden = viable ∩ whole / whole. One hull over a slide spans the glass and the normal tissue between
fragments, so a second rule draws a hull in each piece of tissue. Pieces are connected components of the tissue
after closing gaps, never nests of tumour.

Hulls are those of pixel centres, all morphology goes by area, and nothing is added outside the tissue: viable
tumour is part of the whole tumour, and a convex tumour has exactly 100 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from digipath.errors import BadInput
from digipath.measure.hulls import Extremes, Ints, Spans, hull_outline, running_count
from digipath.measure.lesions import find_lesions
from digipath.measure.scores import jaccard

SINGLE, PER_PIECE = "single hull", "hull per piece of tissue"
RULES = (SINGLE, PER_PIECE)
SMALLEST_UM2 = 10_000.0  # viable regions below a square of 100 µm are taken for false alarms
LARGEST_HOLE_UM2 = 2_500.0  # gaps below a square of 50 µm are part of the tumour: vessels, glands
CLOSE_UM = 100.0  # radius: gaps in the tissue up to twice as wide do not part it
# What an interval spans: shifts of the map in standard deviations of its networks, with shifts of the threshold.
VARIANTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (-1, 1))
THRESHOLD_STEP = 0.1
THRESHOLDS = (0.01, 0.99)
PAIP_HARD_THRESHOLD = 0.65
EVERYWHERE = np.ones((3, 3), bool)
NO_TISSUE = "There is no tissue with a prediction, so there is no burden."
NO_TUMOUR = "No viable tumour was found: the burden is 0 by definition, there is no whole tumour to take a share of."
UNKNOWN_MPP = "The resolution is unknown: no areas in mm², no small objects removed, no holes filled, no gaps closed."

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Sizes:
    """The sizes of the morphology, see the constants of this module."""

    smallest_um2: float = SMALLEST_UM2
    largest_hole_um2: float = LARGEST_HOLE_UM2
    close_um: float = CLOSE_UM

    def __post_init__(self) -> None:
        if not (self.smallest_um2 >= 0 and self.largest_hole_um2 >= 0 and 0 <= self.close_um < math.inf):
            raise BadInput(f"expected areas and a radius of at least 0, got {self}")


@dataclass(frozen=True)
class RuleBurden:
    """Burden by one rule for the whole tumour.

    Attributes:
        rule: one of `RULES`.
        percent: viable / whole in [0, 100]; 0 without viable tumour, None without tissue (`Burden.reason`).
        viable_mm2, whole_mm2: areas, None where the resolution is unknown.
        interval: (low, high) percent around `percent`; None where that is None.
        hulls: around the pixels' edges, as the caller scaled them (`l0_per_map_px`).
    """

    rule: str
    percent: float | None
    viable_mm2: float | None
    whole_mm2: float | None
    interval: tuple[float, float] | None
    hulls: tuple[shapely.Polygon, ...] = ()


@dataclass(frozen=True)
class Burden:
    """Tumour burden of a slide by both rules.

    Attributes:
        rules: in the order of `RULES`.
        threshold: probability from which tissue counts as viable tumour; mpp: µm per pixel it was measured at.
        level: of the intervals, if they are `conformal`: widened by quantiles that were measured on cases with known
            burden. Otherwise intervals hold the spread over thresholds and networks, and no stated coverage.
        spread: whether the networks' spread was known.
        reason: why `percent` is None or 0 by definition, else None.
        notes: in words.
        viable: (rows, columns) bool, viable tumour; pieces: of tissue, as outlines.
    """

    rules: tuple[RuleBurden, ...]
    threshold: float
    mpp: float | None
    level: float
    conformal: bool
    spread: bool
    reason: str | None
    notes: tuple[str, ...]
    viable: Mask = field(repr=False, compare=False)
    pieces: tuple[shapely.Geometry, ...] = field(repr=False)

    def by(self, rule: str) -> RuleBurden:
        """The burden by one of `RULES`."""
        return self.rules[RULES.index(rule)]

    def to_record(self) -> dict[str, Any]:
        """As JSON, without masks and outlines."""
        names = ("percent", "interval", "viable_mm2", "whole_mm2")
        return {
            "rules": {one.rule: {name: getattr(one, name) for name in names} for one in self.rules},
            **{name: getattr(self, name) for name in ("threshold", "mpp", "level", "conformal", "spread", "reason")},
            "notes": list(self.notes),
        }


def tumour_burden(
    probability: ArrayLike,
    tissue: ArrayLike,
    mpp: float | None,
    *,
    threshold: float = 0.5,
    spread: ArrayLike | None = None,
    level: float = 0.9,
    quantiles: Mapping[str, float] | None = None,
    sizes: Sizes | None = None,
    l0_per_map_px: float = 1.0,
) -> Burden:
    """Return the burden of a map by both rules, each with an interval.

    The interval spans the burdens of maps shifted by the networks' standard deviation and of thresholds ± 0.1 around
    the one given; the quantile widens it on both sides (conformalised quantile regression, Romano et al. 2019) within
    [0, 100]. It always holds the point estimate.

    Args:
        probability: (rows, columns) of viable tumour in [0, 1]; NaN = no prediction, which then counts neither as
            viable nor as whole tumour.
        tissue: (rows, columns), true or nonzero = tissue.
        mpp: µm per pixel, None where unknown: then no morphology (`UNKNOWN_MPP`).
        threshold: in (0, 1], compared in the map's own precision.
        spread: (rows, columns) standard deviation over networks; None where there is only one.
        level: what the quantiles are for.
        quantiles: of `conformal.interval_scores` in percentage points, by rule; None: spread only.
        sizes: of the morphology.
        l0_per_map_px: scale of the outlines.

    Raises:
        BadInput: maps of different shapes, a threshold outside (0, 1], or an mpp that is not above 0.
    """
    chance, wanted = np.asarray(probability), np.asarray(tissue) != 0
    sigma = None if spread is None else np.nan_to_num(np.asarray(spread, np.float32))
    _check(chance, wanted, sigma, threshold, mpp)
    sizes = sizes or Sizes()
    ground = _Ground.of(wanted & ~np.isnan(chance), wanted, mpp, sizes)
    viable = ground.viable(chance, threshold)
    counts = ground.counts(viable)
    spanned = [counts, *(ground.counts(each) for each in ground.variants(chance, sigma, threshold))]
    px_mm2 = None if mpp is None else mpp**2 / 1e6
    rules = tuple(
        _rule(rule, [_percent(each[rule], ground.empty) for each in spanned], counts[rule], px_mm2, quantiles)
        for rule in RULES
    )
    hulls = ground.hulls(viable, l0_per_map_px)
    unpredicted = bool((wanted & np.isnan(chance)).any())
    return Burden(
        rules=tuple(RuleBurden(*values, hulls=hulls[rule]) for rule, values in zip(RULES, rules, strict=True)),
        threshold=threshold,
        mpp=mpp,
        level=level,
        conformal=quantiles is not None,
        spread=sigma is not None,
        reason=NO_TISSUE if ground.empty else None if viable.any() else NO_TUMOUR,
        notes=_notes(mpp, sizes, unpredicted),
        viable=viable,
        pieces=ground.outlines(l0_per_map_px),
    )


def viable_tumour(
    probability: NDArray[np.generic], tissue: Mask, threshold: float, mpp: float | None, sizes: Sizes
) -> Mask:
    """(rows, columns) bool: tissue at or above the threshold, without small objects and with small holes filled.

    Objects are 8-connected, holes 4-connected; without a resolution both stay.
    """
    px_um2 = math.inf if mpp is None else mpp**2
    found = np.greater_equal(probability, threshold) & tissue
    found &= ~_small(found, sizes.smallest_um2 / px_um2, EVERYWHERE)
    return (found | _small(~found, sizes.largest_hole_um2 / px_um2, None)) & tissue


def paip_scores(
    predicted: ArrayLike,
    truth: ArrayLike,
    burdens: tuple[float, float],
    *,
    hard_threshold: float | None = None,
) -> tuple[float, float]:
    """Scores of a case in the two tasks of PAIP 2019, each in [0, 1].

    Task 1: Jaccard index of viable tumour. Task 2: (1 − |b − b̂|) × the score in task 1, the "reversed absolute error"
    weighted by it. Source: paip2019.grand-challenge.org, "Evaluation"; it ranks by Jaccard indices that count as 0
    below 0.65.

    Args:
        predicted, truth: bool masks of viable tumour, of one shape.
        burdens: the predicted and the true one, as shares in [0, 1].
        hard_threshold: below which the Jaccard index counts as 0; the challenge's is `PAIP_HARD_THRESHOLD`.

    Raises:
        BadInput: masks that are not bool or differ in shape, or burdens outside [0, 1].
    """
    if not all(0 <= burden <= 1 for burden in burdens):
        raise BadInput(f"expected burdens as shares in [0, 1], got {burdens[0]} and {burdens[1]}")
    overlap = jaccard(truth, predicted)
    task1 = 0.0 if hard_threshold is not None and overlap < hard_threshold else overlap
    return task1, (1 - abs(burdens[0] - burdens[1])) * task1


def _check(
    chance: NDArray[np.generic], tissue: Mask, sigma: NDArray[np.float32] | None, threshold: float, mpp: float | None
) -> None:
    shapes = [each.shape for each in (chance, tissue, *([] if sigma is None else [sigma]))]
    if chance.ndim != 2 or len(set(shapes)) > 1:
        raise BadInput(f"expected maps of one shape (rows, columns), got {', '.join(map(str, shapes))}")
    if not 0 < threshold <= 1:
        raise BadInput(f"threshold must be in (0, 1], got {threshold}")
    if mpp is not None and not 0 < mpp < math.inf:
        raise BadInput(f"expected mpp in µm per pixel, a number above 0, got {mpp}")


def _notes(mpp: float | None, sizes: Sizes, unpredicted: bool) -> tuple[str, ...]:
    measured = (
        f"Measured at {mpp:.3g} µm per pixel. Regions below {sizes.smallest_um2:g} µm² are left out, holes below "
        f"{sizes.largest_hole_um2:g} µm² filled; tissue closer than {2 * sizes.close_um:g} µm is one piece."
        if mpp is not None else UNKNOWN_MPP
    )  # fmt: skip
    missing = "Tissue without a prediction is left out: it counts neither as viable nor as whole tumour."
    return (measured, missing) if unpredicted else (measured,)


def _rule(
    rule: str,
    percents: list[float | None],
    counted: tuple[int, int],
    px_mm2: float | None,
    quantiles: Mapping[str, float] | None,
) -> tuple[str, float | None, float | None, float | None, tuple[float, float] | None]:
    """Rule, percent, areas and interval; the first of the percents is the point estimate."""
    known = [percent for percent in percents if percent is not None]
    areas = [None if px_mm2 is None else pixels * px_mm2 for pixels in counted]
    if not known:
        return rule, None, areas[0], areas[1], None
    by = 0.0 if quantiles is None else quantiles[rule]
    low, high = max(0.0, min(known[0], min(known) - by)), min(100.0, max(known[0], max(known) + by))
    return rule, known[0], areas[0], areas[1], (low, high)


def _percent(counted: tuple[int, int], empty: bool) -> float | None:
    viable, whole = counted
    if empty:
        return None
    return 100 * viable / whole if whole else 0.0


@dataclass(frozen=True)
class _Ground:
    """The tissue of a slide: what stays the same whatever counts as viable tumour.

    tissue: with a prediction; piece: number of each pixel's piece from 1, 0 off tissue; boxes: of the pieces;
    filled: `running_count` of the tissue.
    """

    tissue: Mask
    piece: NDArray[np.int32]
    boxes: tuple[tuple[slice, slice], ...]
    filled: NDArray[np.int32]
    mpp: float | None
    sizes: Sizes

    @classmethod
    def of(cls, tissue: Mask, wanted: Mask, mpp: float | None, sizes: Sizes) -> _Ground:
        closed = wanted if mpp is None else _closed(wanted, sizes.close_um / mpp)
        piece, _ = ndimage.label(closed, EVERYWHERE, output=np.int32)
        piece = np.where(tissue, piece, 0).astype(np.int32)
        boxes = tuple(box or (slice(0, 0),) * 2 for box in (ndimage.find_objects(piece) if piece.size else ()))
        return cls(tissue, piece, boxes, running_count(tissue), mpp, sizes)

    @property
    def empty(self) -> bool:
        return not self.tissue.any()

    def viable(self, chance: NDArray[np.generic], threshold: float) -> Mask:
        """See `viable_tumour`."""
        return viable_tumour(chance, self.tissue, threshold, self.mpp, self.sizes)

    def variants(
        self, chance: NDArray[np.generic], sigma: NDArray[np.float32] | None, threshold: float
    ) -> Iterator[Mask]:
        """Viable tumour of the map shifted by its spread, and at other thresholds."""
        for shift, step in VARIANTS[1:]:
            if sigma is None and shift:
                continue
            shifted = chance if sigma is None or not shift else chance.astype(np.float32) + shift * sigma
            yield self.viable(shifted, float(np.clip(threshold + step * THRESHOLD_STEP, *THRESHOLDS)))

    def counts(self, viable: Mask) -> dict[str, tuple[int, int]]:
        """Pixels of viable and of whole tumour, by rule."""
        pixels = int(np.count_nonzero(viable))
        single = Spans.within(Extremes.of(viable).corners()).count(self.filled)
        pieces = sum(
            Spans.within(corners).count(running_count(self.piece[box] == number))
            for number, box, corners in self._corners(viable)
        )
        return {SINGLE: (pixels, single), PER_PIECE: (pixels, pieces)}

    def hulls(self, viable: Mask, scale: float) -> dict[str, tuple[shapely.Polygon, ...]]:
        """Outlines of the hulls, by rule, in pixels × scale."""
        whole = Extremes.of(viable).corners()
        pieces = [np.add(corners, (box[1].start, box[0].start)) for _, box, corners in self._corners(viable)]
        found = {SINGLE: [whole] if len(whole) else [], PER_PIECE: pieces}
        return {rule: tuple(_scaled(hull_outline(each), scale) for each in parts) for rule, parts in found.items()}

    def outlines(self, scale: float) -> tuple[shapely.Geometry, ...]:
        """Of the pieces of tissue, the largest first."""
        return tuple(
            lesion.outline
            for lesion in find_lesions((self.piece > 0).astype(np.float16), map_mpp=None, l0_per_map_px=scale)
        )

    def _corners(self, viable: Mask) -> Iterator[tuple[int, tuple[slice, slice], Ints]]:
        """Number, box and hull (within the box) of each piece with viable tumour."""
        there = np.bincount(self.piece[viable], minlength=1)
        for number in np.flatnonzero(there[1:]) + 1:
            box = self.boxes[number - 1]
            yield int(number), box, Extremes.of(viable[box] & (self.piece[box] == number)).corners()


def _scaled(polygon: shapely.Polygon, scale: float) -> shapely.Polygon:
    return shapely.transform(polygon, lambda xy: xy * scale)


def _closed(mask: Mask, radius_px: float) -> Mask:
    """The mask with gaps closed by a disc; nothing is beyond the map."""
    if radius_px < 1 or not mask.any():
        return mask
    radius_px = min(radius_px, math.hypot(*mask.shape))  # which joins everything, and bounds the memory
    margin = math.ceil(radius_px) + 1
    padded = np.pad(mask, margin)
    grown = ndimage.distance_transform_edt(~padded) <= radius_px
    closed = ndimage.distance_transform_edt(grown) > radius_px
    return closed[margin:-margin, margin:-margin] | mask


def _small(mask: Mask, below_px: float, structure: Mask | None) -> Mask:
    """Components of fewer than `below_px` pixels."""
    if below_px <= 1:
        return np.zeros_like(mask)
    label, _ = ndimage.label(mask, structure)
    small = np.bincount(label.ravel()) < below_px
    small[0] = False
    return small[label]
