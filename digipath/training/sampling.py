"""Where to draw training patches: which class, which case, which lesion, and how far to shift.

Everything is a pure function of the seed and the patch's index, so threads, the order of calls
and a restart change nothing. Positions are (row, column) of the working frame (see `slide`).

Classes alternate by index, cases come in rounds without replacement. Of a case's tumour patches
every second goes to its next lesion, again in rounds, so that a lesion of ten cells comes up
beside one of a centimetre; the others fall anywhere in its lesions, each area alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from digipath.errors import BadInput

TISSUE = ("auto", "all")
SHIFTS = 16  # drawn in a square until one is in the disc; three of four are
TUMOUR, NORMAL, ANY, LESION = range(4)  # streams of random numbers

Position = tuple[int, int]
Cells = NDArray[np.int32]  # numbers of cells of a grid, row by row


@dataclass(frozen=True)
class Sampling:
    """How patches are drawn from slides.

    Attributes:
        mpp: µm per pixel of the patches.
        patch_px: side of a patch in those pixels.
        shift_px: greatest random offset of a patch's centre (Khened 2021: 128 px).
        positive_share: share of patches with at least one lesion pixel, the others have none;
            None: uniformly over the tissue, as they come.
        patches_per_epoch: the share holds in each run of so many patches, to the last patch.
        seed: of all that is drawn.
        tissue: "auto": found on the slide's overview (flat images below 2 mm, crops, are all
            tissue); "all": everywhere.
    """

    mpp: float
    patch_px: int = 256
    shift_px: int = 128
    positive_share: float | None = 0.5
    patches_per_epoch: int = 1000
    seed: int = 0
    tissue: str = "auto"

    def check(self) -> None:
        """Refuse what cannot be. Raises BadInput."""
        if not (math.isfinite(self.mpp) and self.mpp > 0):
            raise BadInput(f"expected mpp above 0 (µm per pixel of the patches), received {self.mpp}")
        for name, least in (("patch_px", 1), ("shift_px", 0), ("patches_per_epoch", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise BadInput(f"expected {name} of at least {least}, received {getattr(self, name)}")
        if self.positive_share is not None and not 0 <= self.positive_share <= 1:
            raise BadInput(
                f"expected positive_share in [0, 1], or none for patches as they come, received {self.positive_share}"
            )
        if self.tissue not in TISSUE:
            raise BadInput(f"expected tissue to be one of {', '.join(TISSUE)}, received {self.tissue!r}")


@dataclass(frozen=True)
class Places:
    """Where patches of one case may lie: cells of a grid over its slide.

    Attributes:
        size_px: (rows, columns) of the working frame; cell_px: side of a cell in it, not always
            whole; across: cells in a row of the grid.
        tissue: cells of tissue.
        normal: cells of tissue about which a window has no lesion, judged by whole cells.
        tumour: cells with lesion, lesion by lesion; lesion_ends: where each lesion ends in it.
            What touches, corners included, is one lesion.
    """

    size_px: tuple[int, int]
    cell_px: float
    across: int
    tissue: Cells
    normal: Cells
    tumour: Cells
    lesion_ends: NDArray[np.int64]

    def cells_of(self, lesion: int | None) -> Cells:
        """Cells of one lesion; None: of all."""
        if lesion is None:
            return self.tumour
        return self.tumour[self.lesion_ends[lesion - 1] if lesion else 0 : self.lesion_ends[lesion]]

    def box(self, cell: int) -> tuple[int, int, int, int]:
        """(row, column, rows, columns) of a cell, at least 1 × 1, inside the frame."""
        row, col = divmod(int(cell), self.across)
        (top, bottom), (left, right) = (
            _span(index, self.cell_px, size) for index, size in zip((row, col), self.size_px, strict=True)
        )
        return top, left, bottom - top, right - left

    def centre(self, cell: int) -> Position:
        """The pixel at a cell's centre."""
        row, col = divmod(int(cell), self.across)
        return int(_centres(row, self.cell_px, self.size_px[0])), int(_centres(col, self.cell_px, self.size_px[1]))


def find_places(
    tissue: NDArray[np.bool_], lesions: NDArray[np.bool_], size_px: tuple[int, int], cell_px: float, window_px: int
) -> Places:
    """Sort the cells of a slide by what a patch about them can show.

    tissue, lesions: (rows, columns) bool of the same grid, True where a cell is tissue and where
    any lesion pixel lies in it. window_px: side of what is read for a patch.
    """
    clear = ~_meets_lesion(lesions, size_px, cell_px, window_px)
    numbers, count = ndimage.label(lesions, np.ones((3, 3), int))
    cells = np.flatnonzero(lesions)
    of_lesion = numbers.ravel()[cells]
    order = np.argsort(of_lesion, kind="stable")
    return Places(
        size_px=size_px,
        cell_px=cell_px,
        across=lesions.shape[1],
        tissue=np.flatnonzero(tissue).astype(np.int32),
        normal=np.flatnonzero(tissue & clear).astype(np.int32),
        tumour=cells[order].astype(np.int32),
        lesion_ends=np.bincount(of_lesion, minlength=count + 1)[1:].cumsum(),
    )


@dataclass(frozen=True)
class Draw:
    """What a patch is to be.

    case: index of its case. positive: with lesion, without, or None: as it comes. lesion: index
    of the case's lesion that it must show, or None: any.
    """

    case: int
    positive: bool | None
    lesion: int | None = None


class Draws:
    """The class and the case of every patch, for all indices from 0 on."""

    def __init__(self, places: Sequence[Places], sampling: Sampling) -> None:
        self._sampling = sampling
        self._lesions = [len(place.lesion_ends) for place in places]
        self.with_tumour = [case for case, place in enumerate(places) if len(place.tumour)]
        self.with_normal = [case for case, place in enumerate(places) if len(place.normal)]
        area = np.array([len(place.tissue) * place.cell_px**2 for place in places], float)
        self.area_px = float(area.sum())
        self._area_ends = area.cumsum()
        if sampling.positive_share is not None:
            share = Fraction(sampling.positive_share).limit_denominator(10_000)
            self._positive = sampling.patches_per_epoch * share.numerator // share.denominator
            self._share = share

    def __getitem__(self, index: int) -> Draw:
        if self._sampling.positive_share is None:
            spot = np.random.default_rng((self._sampling.seed, ANY, index)).random() * self._area_ends[-1]
            return Draw(int(np.searchsorted(self._area_ends, spot, side="right")), None)
        epoch, number = divmod(index, self._sampling.patches_per_epoch)
        before, after = (n * self._share.numerator // self._share.denominator for n in (number, number + 1))
        if after == before:
            ordinal = epoch * (self._sampling.patches_per_epoch - self._positive) + number - before
            return Draw(self.with_normal[self._in_rounds(ordinal, len(self.with_normal), NORMAL)], False)
        ordinal = epoch * self._positive + before
        case = self.with_tumour[self._in_rounds(ordinal, len(self.with_tumour), TUMOUR)]
        visit = ordinal // len(self.with_tumour)
        lesion = None if visit % 2 else self._in_rounds(visit // 2, self._lesions[case], LESION, case)
        return Draw(case, True, lesion)

    def _in_rounds(self, ordinal: int, count: int, *stream: int) -> int:
        """Draw without replacement: each of `count` once per round, every round in an order of its own."""
        turn, place = divmod(ordinal, count)
        return int(_order((self._sampling.seed, *stream, turn), count)[place])


@lru_cache(maxsize=4096)
def _order(key: tuple[int, ...], count: int) -> NDArray[np.int64]:
    return np.random.default_rng(key).permutation(count)


def place_window(
    anchor: Position, window_px: int, size_px: tuple[int, int], shift_px: int, rng: np.random.Generator
) -> Position:
    """First pixel (row, column) of a window near `anchor` that holds it and never leaves the slide.

    The window is centred on the anchor and brought inside the frame of `size_px`; then it is moved
    by a random offset, uniform in a disc of radius `shift_px` (Khened 2021, "Data augmentation")
    less what would leave the frame or lose the anchor. Along an axis on which the frame is smaller
    than the window, the window holds the whole frame and its start may be negative.
    """
    start = [int(_starts(at, window_px, size)) for at, size in zip(anchor, size_px, strict=True)]
    if shift_px == 0:
        return start[0], start[1]
    bounds = [
        (max(min(0, size - window_px), at - window_px + 1, first - shift_px),
         min(max(0, size - window_px), at, first + shift_px))
        for at, size, first in zip(anchor, size_px, start, strict=True)
    ]  # fmt: skip
    for _ in range(SHIFTS):
        row, col = (int(rng.integers(low, high, endpoint=True)) for low, high in bounds)
        if math.hypot(row - start[0], col - start[1]) <= shift_px:
            return row, col
    return start[0], start[1]


def _meets_lesion(
    lesions: NDArray[np.bool_], size_px: tuple[int, int], cell_px: float, window_px: int
) -> NDArray[np.bool_]:
    """Cells about whose centre an unshifted window touches a cell with lesion."""
    total = np.zeros((lesions.shape[0] + 1, lesions.shape[1] + 1), np.int64)
    total[1:, 1:] = lesions.cumsum(0, dtype=np.int64).cumsum(1)
    (top, bottom), (left, right) = (
        _covered(count, cell_px, size, window_px) for count, size in zip(lesions.shape, size_px, strict=True)
    )
    rows = total[bottom] - total[top]
    return (rows[:, right] - rows[:, left]) > 0


def _covered(count: int, cell_px: float, size: int, window_px: int) -> tuple[Any, Any]:
    """First and one-past-last of the cells along an axis under the window about each cell's centre."""
    start = _starts(_centres(np.arange(count), cell_px, size), window_px, size)
    first = np.floor(np.maximum(start, 0) / cell_px + 1e-6)  # a hair of rounding is not a cell
    last = np.ceil(np.minimum(start + window_px, size) / cell_px - 1e-6)
    return np.clip(first, 0, count).astype(int), np.clip(last, 0, count).astype(int)


def _starts(centre: Any, window_px: int, size: int) -> Any:  # noqa: ANN401 - a number or an array of them
    """Start of a window centred on a pixel, brought inside the frame (or to hold it)."""
    room = size - window_px
    return np.clip(centre - window_px // 2, min(0, room), max(0, room))


def _centres(cell: Any, cell_px: float, size: int) -> Any:  # noqa: ANN401 - a number or an array of them
    return np.minimum(np.floor((cell + 0.5) * cell_px), size - 1).astype(int)


def _span(cell: int, cell_px: float, size: int) -> tuple[int, int]:
    first = min(math.floor(cell * cell_px), size - 1)
    return first, max(first + 1, min(math.ceil((cell + 1) * cell_px), size))
