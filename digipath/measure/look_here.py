"""Where to look: regions so uncertain that they could be tumour or not, and that would change a readout.

A pixel is undecided where its probability plus and minus the standard deviation of the networks lies on both sides of
the threshold. Undecided pixels that touch form a region. For each region the readouts are measured as if all of
it were tumour and as if none of it were, the rest of the map as it is: the slide's category by the size rule, and
the tumour burden. What changes nothing is left out. Changes that only several regions together make are not
looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from digipath.errors import BadInput
from digipath.measure.burden import EVERYWHERE, Mask, Sizes, viable_tumour
from digipath.measure.hulls import Extremes, Ints, Spans, running_count
from digipath.measure.lesions import (
    DEFAULT_MIN_AREA_UM2,
    JOIN_GAP_UM,
    Lesion,
    Metastasis,
    find_lesions,
    join_fragments,
    metastases_of,
    slide_category,
)
from digipath.measure.pn_stage import CATEGORIES

MOST = 100  # regions that are measured, of the largest area × uncertainty
LEAST_POINTS = 0.1  # change of burden in percentage points that counts
WIDTH = 1.0  # standard deviations to either side
READOUTS = ("pn_stage", "burden")

Box = tuple[slice, slice]


@dataclass(frozen=True)
class LookHere:
    """A region whose uncertainty could change a readout.

    Attributes:
        outline_l0, centre_l0: level-0 pixels (x, y); the centre lies in the region.
        area_um2: None where the resolution is unknown.
        mean_probability, mean_uncertainty: over the region; the uncertainty is a standard deviation.
        category_with, category_without: of the slide by the size rule if the region is tumour, if it is not; None
            where it is not asked for or the resolution is unknown.
        burden_change: between the two, in percentage points of the single hull's burden; None where not asked for.
        reason: in words.
    """

    outline_l0: shapely.Geometry
    centre_l0: tuple[float, float]
    area_um2: float | None
    mean_probability: float
    mean_uncertainty: float
    category_with: str | None
    category_without: str | None
    burden_change: float | None
    reason: str

    @property
    def steps(self) -> int:
        """By how many categories the slide's changes."""
        if self.category_with is None or self.category_without is None:
            return 0
        return CATEGORIES.index(self.category_with) - CATEGORIES.index(self.category_without)


def look_here(
    probability: ArrayLike,
    uncertainty: ArrayLike,
    *,
    map_mpp: float | None,
    l0_per_map_px: float,
    threshold: float = 0.5,
    tissue: ArrayLike | None = None,
    readouts: Sequence[str] = READOUTS,
    size_l0: tuple[int, int] | None = None,
    width: float = WIDTH,
    most: int = MOST,
) -> list[LookHere]:
    """Return the regions that could change a readout: by categories changed, then by change of burden, then by size.

    Ties go by area × uncertainty. Burden is that of the single hull with the map's viable tumour as
    `digipath.measure.burden` cleans it, to which a region is added or from which it is taken.

    Args:
        probability: (rows, columns) in [0, 1], NaN = no prediction, which is never undecided.
        uncertainty: (rows, columns) standard deviation of the probability; NaN where unknown.
        map_mpp: µm per map pixel, None where unknown; then only burden is measured.
        l0_per_map_px, size_l0: as for `find_lesions`.
        tissue: (rows, columns), true or nonzero = tissue; None: wherever the probability is above 0.
        readouts: which of `READOUTS` count.
        width: standard deviations to either side.
        most: regions that are measured, those of the largest area × uncertainty.

    Raises:
        BadInput: maps of different shapes, an unknown readout, or a threshold outside (0, 1].
    """
    chance, sigma = np.asarray(probability), np.nan_to_num(np.asarray(uncertainty, np.float32))
    ground = chance > 0 if tissue is None else np.asarray(tissue) != 0
    _check(chance, sigma, ground, readouts, threshold)
    known = np.nan_to_num(chance.astype(np.float32))
    undecided = ground & ~np.isnan(chance) & (sigma > 0) & (np.abs(known - threshold) <= width * sigma)
    frame = _Frame(map_mpp, l0_per_map_px, size_l0)
    regions = _regions(undecided, known, sigma, frame, most)
    sizes = _by_size(np.greater_equal(chance, threshold), undecided, frame) if "pn_stage" in readouts else None
    burden = _ByBurden.of(chance, ground, threshold, map_mpp) if "burden" in readouts else None
    found = [_look(region, sizes, burden, frame) for region in regions]
    effects = [(abs(one.steps), one.burden_change or 0.0) for one in found]
    kept = [
        (steps, change, region.weight, one)
        for (steps, change), region, one in zip(effects, regions, found, strict=True)
        if steps or change >= LEAST_POINTS
    ]
    return [one for *_, one in sorted(kept, key=lambda row: row[:3], reverse=True)]


def _check(
    chance: NDArray[np.generic], sigma: NDArray[np.float32], ground: Mask, readouts: Sequence[str], threshold: float
) -> None:
    if chance.ndim != 2 or not chance.shape == sigma.shape == ground.shape:
        shapes = f"{chance.shape}, {sigma.shape} and {ground.shape}"
        raise BadInput(f"expected probability, uncertainty and tissue of one shape (rows, columns), got {shapes}")
    if unknown := set(readouts) - set(READOUTS):
        raise BadInput(f"expected readouts out of {', '.join(READOUTS)}, got {', '.join(sorted(unknown))}")
    if not 0 < threshold <= 1:
        raise BadInput(f"threshold must be in (0, 1], got {threshold}")


@dataclass(frozen=True)
class _Frame:
    """Where the map lies on the slide."""

    mpp: float | None
    l0_per_map_px: float
    size_l0: tuple[int, int] | None

    @property
    def gap(self) -> float:
        """Up to which lesions are fragments of one metastasis, in level-0 pixels."""
        return 0.0 if self.mpp is None else JOIN_GAP_UM * self.l0_per_map_px / self.mpp

    def lesions(self, mask: Mask, box: Box | None = None, min_area_um2: float = DEFAULT_MIN_AREA_UM2) -> list[Lesion]:
        """The lesions of a part of the map, outlines in level-0 pixels of the slide, not cut at its end."""
        scale = self.l0_per_map_px
        found = find_lesions(mask.astype(np.float16), map_mpp=self.mpp, l0_per_map_px=scale, min_area_um2=min_area_um2)
        if box is None:
            return found
        corner = np.array((box[1].start, box[0].start)) * scale
        return [replace(one, outline=shapely.transform(one.outline, lambda xy: xy + corner)) for one in found]

    def cut(self, outline: shapely.Geometry) -> shapely.Geometry:
        """Within the slide; the last map pixels may reach beyond it."""
        if self.size_l0 is None:
            return outline
        return shapely.transform(outline, lambda xy: np.minimum(xy, np.array(self.size_l0)))


@dataclass(frozen=True)
class _Region:
    """Undecided pixels that touch: their mask within a box that leaves a pixel around them, where there is one.

    outline: in level-0 pixels, not cut at the slide's end.
    """

    box: Box
    mask: Mask
    outline: shapely.Geometry
    pixels: int
    mean_probability: float
    mean_uncertainty: float

    @property
    def weight(self) -> float:
        """Area × uncertainty."""
        return self.pixels * self.mean_uncertainty


def _regions(
    undecided: Mask, chance: NDArray[np.float32], sigma: NDArray[np.float32], frame: _Frame, most: int
) -> list[_Region]:
    """The regions of the largest area × uncertainty that are large enough for a lesion."""
    label, _ = ndimage.label(undecided, EVERYWHERE)
    flat = label[undecided]
    pixels = np.bincount(flat, minlength=1)
    sums = [np.bincount(flat, each[undecided], minlength=1) for each in (chance, sigma)]
    least = 1 if frame.mpp is None else DEFAULT_MIN_AREA_UM2 / frame.mpp**2
    large = np.flatnonzero(pixels[1:] >= least) + 1
    chosen = large[np.argsort(-sums[1][large], kind="stable")][:most]
    boxes = ndimage.find_objects(label)
    return [
        _Region(
            box := _grown(boxes[number - 1], 1),
            mask := label[box] == number,
            frame.lesions(mask, box, min_area_um2=0)[0].outline,
            int(pixels[number]),
            float(sums[0][number] / pixels[number]),
            float(sums[1][number] / pixels[number]),
        )
        for number in chosen
    ]


def _grown(box: Box, by: int) -> Box:
    rows, columns = (slice(max(0, side.start - by), side.stop + by) for side in box)
    return rows, columns


def _around(boxes: Sequence[Box]) -> Box:
    """The box around several."""
    rows, columns = (
        slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in (0, 1)
    )
    return rows, columns


def _look(region: _Region, sizes: _BySize | str | None, burden: _ByBurden | None, frame: _Frame) -> LookHere:
    outline = frame.cut(region.outline)
    point = shapely.point_on_surface(outline)
    found = LookHere(
        outline_l0=outline,
        centre_l0=(point.x, point.y),
        area_um2=None if frame.mpp is None else region.pixels * frame.mpp**2,
        mean_probability=region.mean_probability,
        mean_uncertainty=region.mean_uncertainty,
        category_with=sizes if isinstance(sizes, str | None) else sizes.category(region, with_it=True),
        category_without=sizes if isinstance(sizes, str | None) else sizes.category(region, with_it=False),
        burden_change=None if burden is None else burden.change(region),
        reason="",
    )
    return replace(found, reason=_reason(found))


def _reason(found: LookHere) -> str:
    parts = []
    if found.steps:
        parts.append(
            f"decides between {found.category_without} and {found.category_with}: with it the slide is "
            f"{found.category_with} by size, without it {found.category_without}"
        )
    if found.burden_change is not None and found.burden_change >= LEAST_POINTS:
        parts.append(f"changes the burden by {found.burden_change:.1f} percentage points")
    return "; ".join(parts)


def _by_size(tumour: Mask, undecided: Mask, frame: _Frame) -> _BySize | str | None:
    """How to measure the category with and without a region, or the category that no region can change."""
    if frame.mpp is None:
        return None
    # More tumour never lowers the category, so these bound what any region can do.
    least, greatest = (
        slide_category(metastases_of(frame.lesions(mask))) for mask in (tumour & ~undecided, tumour | undecided)
    )
    return least if least == greatest else _BySize.of(tumour, frame)


@dataclass(frozen=True)
class _BySize:
    """The slide's category by the size rule, with and without a region.

    label: regions of the map at its threshold; boxes: of them, by label − 1; known: index of the lesion that each
    label is, or −1 where it is too small for one. lesions, metastases: of the map, the longest metastasis first.
    """

    label: NDArray[np.int32]
    boxes: tuple[Box, ...]
    known: Ints
    lesions: tuple[Lesion, ...]
    metastases: tuple[Metastasis, ...]
    tree: shapely.STRtree
    frame: _Frame

    @classmethod
    def of(cls, tumour: Mask, frame: _Frame) -> _BySize:
        lesions = frame.lesions(tumour)
        label, count = ndimage.label(tumour, EVERYWHERE, output=np.int32)
        known = np.full(count, -1)
        inside = shapely.get_coordinates(shapely.point_on_surface([one.outline for one in lesions]))
        columns, rows = np.floor(inside / frame.l0_per_map_px).astype(np.int64).T.reshape(2, -1)
        known[label[rows, columns] - 1] = np.arange(len(lesions))
        tree = shapely.STRtree([one.outline for one in lesions])
        boxes = tuple(ndimage.find_objects(label))
        return cls(label, boxes, known, tuple(lesions), tuple(metastases_of(lesions)), tree, frame)

    def category(self, region: _Region, *, with_it: bool) -> str | None:
        """Category of the slide if the region is tumour, or if it is not.

        Only metastases that it touches or that it may join are measured again.
        """
        touched = np.unique(self.label[region.box][ndimage.binary_dilation(region.mask, EVERYWHERE)])
        touched = touched[touched > 0]
        gone = {int(at) for at in self.known[touched - 1] if at >= 0}
        near = self.tree.query(region.outline, predicate="dwithin", distance=self.frame.gap)
        affected = {self.lesions[at].metastasis for at in (*gone, *near)}
        kept = [
            self.lesions[label - 1]
            for one in self.metastases if one.label in affected
            for label in one.lesions if label - 1 not in gone
        ]  # fmt: skip
        changed = [*kept, *self._replaced(region, touched, with_it)]
        again = join_fragments([replace(one, label=label) for label, one in enumerate(changed, 1)])
        longest = next((one for one in self.metastases if one.label not in affected), None)
        return slide_category([*again, *([longest] if longest else [])])

    def _replaced(self, region: _Region, touched: NDArray[np.int32], with_it: bool) -> list[Lesion]:
        """What the regions that it touches become."""
        box = _around([region.box, *(self.boxes[number - 1] for number in touched)])
        local = np.isin(self.label[box], touched)
        top, left = region.box[0].start - box[0].start, region.box[1].start - box[1].start
        part = local[top : top + region.mask.shape[0], left : left + region.mask.shape[1]]
        part[region.mask] = with_it
        return self.frame.lesions(local, box)


@dataclass(frozen=True)
class _ByBurden:
    """The burden of the single hull, with and without a region."""

    viable: Mask
    extremes: Extremes
    filled: NDArray[np.int32]
    pixels: int
    smallest_px: float

    @classmethod
    def of(cls, chance: NDArray[np.generic], tissue: Mask, threshold: float, mpp: float | None) -> _ByBurden:
        sizes = Sizes()
        known = tissue & ~np.isnan(chance)
        viable = viable_tumour(chance, known, threshold, mpp, sizes)
        smallest = 0.0 if mpp is None else sizes.smallest_um2 / mpp**2
        return cls(viable, Extremes.of(viable), running_count(known), int(np.count_nonzero(viable)), smallest)

    def change(self, region: _Region) -> float:
        """Percentage points between the burdens with the region and without it."""
        viable = self.viable[region.box]
        seen = region.pixels >= self.smallest_px or bool(
            (ndimage.binary_dilation(region.mask, EVERYWHERE) & viable).any()
        )
        added = viable | region.mask if seen else viable
        return abs(self._percent(region.box, added) - self._percent(region.box, viable & ~region.mask))

    def _percent(self, box: Box, now: Mask) -> float:
        """Burden with the pixels of the box replaced."""
        rows = self.viable[box[0]].copy()
        rows[:, box[1]] = now
        first, last = self.extremes.first.copy(), self.extremes.last.copy()
        here = Extremes.of(rows)
        first[box[0]], last[box[0]] = here.first, here.last
        whole = Spans.within(Extremes(first, last).corners()).count(self.filled)
        pixels = self.pixels + int(np.count_nonzero(now)) - int(np.count_nonzero(self.viable[box]))
        return 100 * pixels / whole if whole else 0.0
