"""Which tiles of which case are used: found on every slide, labelled, and drawn so that parts and classes balance.

Truong et al. 2020, "Preprocessing" and "Transfer Learning and Training": cases are parted first, then tiles are drawn
at random so that those to train, validate and test on stand 60/20/20 and every class has as many in each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import shapely
from numpy.typing import NDArray

from digipath.errors import BadInput, Cancelled
from digipath.slide import open_slide
from digipath.stain import StainReference
from digipath.tiling import TileRule, plan_tiles
from digipath.training.graded_manifest import class_outlines
from digipath.training.manifest import TrainingCase
from digipath.values import Cancel, Progress, ProgressCallback, Tiles

R = TypeVar("R")
Cell = tuple[int, int]  # row, column
LEAST_LABEL = 0.9  # of a tile must lie in outlines of one class
SHARES = (0.6, 0.2, 0.2)
ROUNDING = 1e-6  # 90 % as drawn counts as 90 %
AT_ONCE = 4  # slides whose tiles are looked for


@dataclass(frozen=True)
class LabelledTile:
    """A tile: the number of its case, its (row, column) in the slide's lattice of tiles, the number of its class."""

    case: int
    cell: Cell
    label: int


def find_tiles(
    cases: Sequence[TrainingCase],
    rule: TileRule,
    *,
    classes: Sequence[str],
    least_label: float = LEAST_LABEL,
    stain: StainReference | None = None,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> tuple[LabelledTile, ...]:
    """All tiles of all cases that can be used, case by case, row by row.

    Args:
        cases: with labels; numbered by their place here.
        rule: which tiles a network looks at.
        classes: a label's number is its place here.
        least_label: see `label_tiles`.
        stain: to which the slides' stains will be brought, which must be possible.
        progress: called after each case; cancel: asked before each.

    Raises:
        BadInput: least_label is out of (0, 1], or a label is no class. Cancelled: `cancel` said so. What
        `plan_tiles` raises; BadAnnotation, SlideNotFound, SlideUnreadable: about a case's files.
    """

    def labelled(case: TrainingCase) -> list[tuple[Cell, int]]:
        return label_tiles(case, rule, classes=classes, least_label=least_label, stain=stain)

    found = look_at_each(cases, labelled, count=len, progress=progress, cancel=cancel)
    return tuple(LabelledTile(number, *tile) for number, tiles in enumerate(found) for tile in tiles)


def look_at_each(
    cases: Sequence[TrainingCase],
    look: Callable[[TrainingCase], R],
    *,
    count: Callable[[R], int],
    progress: ProgressCallback | None,
    cancel: Cancel | None,
) -> list[R]:
    """What is found on each slide, in their order; some are looked at side by side. count: tiles in what was found."""
    began, found, tiles = time.perf_counter(), [], 0

    def asked(case: TrainingCase) -> R:
        if cancel is not None and cancel():
            raise Cancelled("cancelled while looking for tiles; nothing was kept")
        return look(case)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for done, one in enumerate(pool.map(asked, cases), start=1):
                found.append(one)
                tiles += count(one)
                if progress is not None:
                    rate = done / max(time.perf_counter() - began, 1e-9)
                    progress(Progress(done, len(cases), rate, f"looking for tiles: {tiles:,} tiles found"))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found


def label_tiles(
    case: TrainingCase,
    rule: TileRule,
    *,
    classes: Sequence[str],
    least_label: float = LEAST_LABEL,
    stain: StainReference | None = None,
) -> list[tuple[Cell, int]]:
    """The (row, column) and class of the tiles of one case that can be used, row by row.

    Of a case without outlines all tiles with enough tissue, by the case's label. With outlines those of which at
    least the share `least_label` lies in outlines of one class, by that class; where outlines of different classes
    overlap, the smaller counts. stain: as in `find_tiles`.
    """
    if not 0 < least_label <= 1:
        raise BadInput(f"expected least_label in (0, 1], the share of a tile that outlines cover, got {least_label}")
    if case.label not in classes:
        raise BadInput(f"expected a label among {list(classes)}, got {case.label!r}: {case.slide}")
    with open_slide(case.slide, mpp=case.mpp) as slide:
        tiles = plan_tiles(slide, rule, stain=stain).tiles
        tile_l0 = tiles.tile_px * (1.0 if tiles.mpp is None else tiles.mpp / slide.require_mpp())
        whole_l0 = only_tile_l0(tiles, slide.size_l0)
    labels = labels_at(
        tiles.cells, tile_l0, case, classes=classes, least_label=least_label, whole_l0=whole_l0
    ).tolist()
    cells = [(int(row), int(column)) for row, column in tiles.cells]
    return [(cell, label) for cell, label in zip(cells, labels, strict=True) if label >= 0]


def labels_at(
    cells: NDArray[np.int64],
    tile_l0: float,
    case: TrainingCase,
    *,
    classes: Sequence[str],
    least_label: float,
    whole_l0: tuple[int, int] | None = None,
) -> NDArray[np.int64]:
    """(n,) number of the class of each tile of a case, −1 for tiles that are not of one class; see `label_tiles`.

    Args:
        cells: (n, 2) row and column of tiles of `tile_l0` level-0 pixels.
        whole_l0: from `only_tile_l0`, for a slide that may fit into one tile.
    """
    if case.annotation is None:
        return np.full(len(cells), classes.index(str(case.label)))
    width_l0, height_l0 = whole_l0 or (tile_l0, tile_l0)
    covered = _covered(cells * tile_l0, (height_l0, width_l0), _regions(case, classes))
    return np.where(covered.max(axis=1) >= least_label - ROUNDING, covered.argmax(axis=1), -1)


def only_tile_l0(tiles: Tiles, size_l0: tuple[int, int]) -> tuple[int, int] | None:
    """(width, height) of a slide that fits into one tile, of which shares are told as in `Tiles.share`; else None."""
    return size_l0 if max(tiles.shape_px) <= tiles.tile_px else None


def draw_tiles(
    candidates: Mapping[str, Sequence[LabelledTile]],
    cases: Sequence[TrainingCase],
    *,
    classes: Sequence[str],
    per_class: int | None = None,
    shares: Sequence[float] = SHARES,
    seed: int,
) -> dict[str, tuple[LabelledTile, ...]]:
    """Draw tiles at random, none twice, so that the parts stand in `shares` and classes balance in each.

    Args:
        candidates: the tiles of each part, in the order of `shares`: train, validation, test.
        cases: whose they are; by their names, so that their order does not matter.
        classes: names of the labels.
        per_class: tiles of each class over all parts, at most; None: as many as the scarcest part and class allow.
        shares: of the parts, above 0. seed: of the draw.

    Returns:
        The tiles of each part, sorted by the names of their cases and their places. With n tiles of each class
        over all parts, a part of the share s has ⌊n s⌋ of each, at least one.

    Raises:
        BadInput: a class has no tile in a part, or shares or per_class that cannot be.
    """
    _check(candidates, shares, per_class)
    pools = {
        part: [_sorted(tiles, cases, label) for label in range(len(classes))] for part, tiles in candidates.items()
    }
    for part, of_part in pools.items():
        for name, pool in zip(classes, of_part, strict=True):
            if not pool:
                count = len({tile.case for tile in candidates[part]})
                raise BadInput(
                    f"expected tiles of {name!r} in {part}, found none on {count} slide(s) with tiles; add cases, "
                    "lower least_tissue or least_label, or assign cases to parts in the column fold"
                )
    most = min(len(pool) / share for share, of in zip(shares, pools.values(), strict=True) for pool in of)
    most = most if per_class is None else min(most, per_class)
    drawn = {}
    for number, ((part, of_part), share) in enumerate(zip(pools.items(), shares, strict=True)):
        count = max(1, math.floor(most * share + ROUNDING))
        taken = [
            pool[at]
            for label, pool in enumerate(of_part)
            for at in np.random.default_rng((seed, number, label)).permutation(len(pool))[:count]
        ]
        drawn[part] = tuple(_sorted(taken, cases))
    return drawn


def _check(candidates: Mapping[str, Sequence[LabelledTile]], shares: Sequence[float], per_class: int | None) -> None:
    if len(shares) != len(candidates) or not all(0 < share <= 1 for share in shares) or abs(sum(shares) - 1) > ROUNDING:
        raise BadInput(f"expected shares above 0 that sum to 1, one for each of {list(candidates)}, got {list(shares)}")
    if per_class is not None and per_class < 1:
        raise BadInput(f"expected at least 1 tile per class, or none for all there are, got {per_class}")


def _sorted(
    tiles: Sequence[LabelledTile], cases: Sequence[TrainingCase], label: int | None = None
) -> list[LabelledTile]:
    """The tiles, those of one label only or all, by the names of their cases and their places."""
    chosen = [tile for tile in tiles if label in (None, tile.label)]
    return sorted(chosen, key=lambda tile: (cases[tile.case].name, tile.cell))


def _regions(case: TrainingCase, classes: Sequence[str]) -> list[shapely.Geometry]:
    """What is outlined as each class, in level-0 pixels; no two overlap, since the smaller outline takes its place."""
    found: list[list[shapely.Geometry]] = [[] for _ in classes]
    taken = shapely.Polygon()
    for label, area in sorted(class_outlines(case, classes), key=lambda outline: float(outline[1].area)):
        found[label].append(shapely.difference(area, taken))
        taken = shapely.union(taken, area)
    return [shapely.union_all(areas) for areas in found]


def _covered(
    starts_l0: NDArray[np.floating], tile_l0: tuple[float, float], regions: Sequence[shapely.Geometry]
) -> NDArray[np.float64]:
    """(n, classes) share of each tile, (row, column) of whose first corners are given, in the region of each class.

    tile_l0: (rows, columns).
    """
    top, left = starts_l0.T
    boxes = shapely.box(left, top, left + tile_l0[1], top + tile_l0[0])
    shares = np.zeros((len(boxes), len(regions)))
    for number, region in enumerate(regions):
        shapely.prepare(region)
        met = np.flatnonzero(shapely.intersects(region, boxes))
        whole = shapely.contains_properly(region, boxes[met])
        shares[met[whole], number] = 1
        cut = met[~whole]
        shares[cut, number] = shapely.area(shapely.intersection(region, boxes[cut])) / math.prod(tile_l0)
    return shares
