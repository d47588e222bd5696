"""Where to draw training patches: which class, which case, which lesion, and how far to shift.

Everything is a pure function of the seed and the patch's index, so threads, the order of calls
and a restart change nothing. Positions are (row, column) of the working frame (see `slide`).

Classes alternate by index, cases come in rounds without replacement. Of a case's tumour patches
every second goes to its next lesion, again in rounds, so that a lesion of ten cells comes up
beside one of a centimetre; the others fall anywhere in its lesions, each pixel alike. A case with
little room for patches without tumour gives up turns to those with plenty, as its few windows
would come again and again: below a patch's area of free places, in proportion to them.

The zoom is drawn before the place, and a case without room for it gives up its turn too. Were it
drawn again where a patch finds no room, patches without tumour would be zoomed otherwise than
those with it, and a network could tell them by that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from digipath.augment import Augmentation, source_px
from digipath.errors import BadInput

TISSUE = ("auto", "all")
BAND_CELLS = 2**14  # looked at together: their numbers stay in the cache
SHIFTS = 16  # drawn in a square until one is in the disc; three of four are
TUMOUR, NORMAL, ANY, LESION, SPARE = range(5)  # streams of random numbers

Position = tuple[int, int]
Box = tuple[int, int, int, int]  # row, column, rows, columns
Cells = NDArray[np.int32]  # numbers of cells of a lattice, row by row


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
class Lattice:
    """Square cells over a slide.

    size_px: (rows, columns) of the working frame; cell_px: side of a cell in it, not always whole;
    shape: (rows, columns) of cells.
    """

    size_px: tuple[int, int]
    cell_px: float
    shape: tuple[int, int]

    def box(self, cell: int) -> Box:
        """The pixels of a cell, at least one, inside the frame."""
        row, col = divmod(int(cell), self.shape[1])
        (top, bottom), (left, right) = (
            _span(index, self.cell_px, size) for index, size in zip((row, col), self.size_px, strict=True)
        )
        return top, left, bottom - top, right - left

    def centres(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows, and the columns, of the pixels at the cells' centres."""
        rows, cols = (
            np.minimum(np.floor((np.arange(count) + 0.5) * self.cell_px).astype(np.int64), size - 1)
            for count, size in zip(self.shape, self.size_px, strict=True)
        )
        return rows, cols

    def cells_at(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.int64]:
        """(rows, columns) numbers of the cells in which the pixels at these rows and columns lie."""
        row, col = (
            np.minimum((at / self.cell_px).astype(np.int64), count - 1)
            for at, count in zip((rows, cols), self.shape, strict=True)
        )
        return row[:, None] * self.shape[1] + col


@dataclass(frozen=True)
class Places:
    """Where patches of one case may lie.

    Attributes:
        lattice: of its cells. tissue: cells of tissue.
        normal: cells of tissue with room for a window without lesion, the roomiest first; rooms:
            the side of the largest (see `find_rooms`), about one pixel of the cell: anchors, (n, 2).
        tumour: cells with lesion pixels, lesion by lesion; tumour_ends: how many of these there
            are up to each cell's last, lesion_ends: up to each lesion's last. Cells that touch,
            corners included, are one lesion.
    """

    lattice: Lattice
    tissue: Cells
    normal: Cells
    rooms: NDArray[np.int32]
    anchors: NDArray[np.int32]
    tumour: Cells
    tumour_ends: NDArray[np.int64]
    lesion_ends: NDArray[np.int64]

    def roomy(self, window_px: int) -> int:
        """How many cells, the first of `normal`, have room for a window of this side."""
        return int(np.searchsorted(-self.rooms, -window_px, side="right"))

    def lesion_pixel(self, lesion: int | None, rng: np.random.Generator) -> tuple[int, int]:
        """A pixel of one lesion, or of any for None, each alike: its cell, and which of the cell's it is."""
        first = self.lesion_ends[lesion - 1] if lesion else 0
        number = rng.integers(first, self.lesion_ends[-1 if lesion is None else lesion])
        at = int(np.searchsorted(self.tumour_ends, number, side="right"))
        return int(self.tumour[at]), int(number - (self.tumour_ends[at - 1] if at else 0))


def find_rooms(lattice: Lattice, lesions: NDArray[np.bool_], least_px: int, most_px: int) -> NDArray[np.int32]:
    """How large a window about each cell's centre can be before it meets lesion.

    lesions: (rows, columns) bool, True in cells with any lesion; cells are judged as a whole.
    Returns the side in pixels, at most most_px, 0 where it is below least_px. Windows lie as
    `place_window` puts them without shift: the larger hold the smaller, so bisection finds it.
    """
    if not lesions.any():
        return np.full(lesions.shape, most_px, np.int32)
    total = np.zeros((lesions.shape[0] + 1, lesions.shape[1] + 1), np.int32)
    total[1:, 1:] = lesions.cumsum(0, dtype=np.int32).cumsum(1)
    rows, cols = lattice.centres()

    def sides(rows: NDArray[np.int64]) -> NDArray[np.int32]:
        low = np.full((len(rows), len(cols)), least_px - 1, np.int32)
        high = np.full_like(low, most_px)
        while (low < high).any():
            middle = (low + high + 1) // 2
            top, bottom = _covered(rows[:, None], middle, lattice.cell_px, lattice.size_px[0], lattice.shape[0])
            left, right = _covered(cols, middle, lattice.cell_px, lattice.size_px[1], lattice.shape[1])
            free = total[bottom, right] - total[top, right] == total[bottom, left] - total[top, left]
            low, high = np.where(free, middle, low), np.where(free, high, middle - 1)
        return np.where(low < least_px, 0, low)

    bands = np.array_split(rows, -(-lesions.size // BAND_CELLS))
    return np.concatenate([sides(band) for band in bands])


def find_places(
    lattice: Lattice,
    tissue: NDArray[np.bool_],
    lesion_px: NDArray[np.int64],
    fine: Lattice,
    rooms: NDArray[np.int32],
) -> Places:
    """Sort the cells of a slide by what a patch about them can show.

    tissue: (rows, columns) bool of the lattice; lesion_px: lesion pixels in each of its cells;
    rooms: of a lattice at least as fine (`find_rooms`).
    """
    numbers, count = ndimage.label(lesion_px, np.ones((3, 3), int))
    tumour = np.flatnonzero(lesion_px)
    of_lesion = numbers.ravel()[tumour]
    tumour = tumour[np.argsort(of_lesion, kind="stable")]
    tumour_ends = lesion_px.ravel()[tumour].cumsum()
    rows, cols = fine.centres()
    roomiest = _greatest(rooms, lattice.cells_at(rows, cols), tissue.size)
    room = np.where(tissue.ravel() & (roomiest >= 0), rooms.ravel()[roomiest], 0)
    normal = np.argsort(-room, kind="stable")[: np.count_nonzero(room)]
    row, col = np.divmod(roomiest[normal], fine.shape[1])
    return Places(
        lattice=lattice,
        tissue=np.flatnonzero(tissue).astype(np.int32),
        normal=normal.astype(np.int32),
        rooms=room[normal],
        anchors=np.stack([rows[row], cols[col]], axis=1).astype(np.int32),
        tumour=tumour.astype(np.int32),
        tumour_ends=tumour_ends,
        lesion_ends=tumour_ends[np.bincount(of_lesion, minlength=count + 1)[1:].cumsum() - 1],
    )


def shown_pixels(augmentation: Augmentation | None, patch_px: int, chance: float) -> NDArray[np.int64]:
    """(patch_px,) rows, and columns, that are left by the zoom of the square read for a patch, ascending.

    chance: the number in [-1, 1] that `augment` draws for the zoom. They are the nearest neighbours
    that it takes for the mask.
    """
    if augmentation is None:
        return np.arange(patch_px)
    side = patch_px * (1 + augmentation.scale * chance)
    first = (source_px(augmentation, patch_px) - side) / 2
    return np.floor(first + (np.arange(patch_px) + 0.5) * side / patch_px).astype(np.int64)


def extent(shown: NDArray[np.int64]) -> int:
    """Side of the window in which `shown_pixels` lie."""
    return int(shown[-1] - shown[0]) + 1


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
    """The class and the case of every patch, for all indices from 0 on.

    shown_px(index): side of the window that a patch shows, in pixels of the slide. widest_px: of the
    largest window without lesion in any case.
    """

    def __init__(self, places: Sequence[Places], sampling: Sampling, shown_px: Callable[[int], int]) -> None:
        self._sampling = sampling
        self._places = places
        self._shown_px = shown_px
        self.with_tumour = [case for case, place in enumerate(places) if len(place.tumour)]
        self.with_normal = [case for case, place in enumerate(places) if len(place.normal)]
        self.widest_px = max((int(place.rooms[0]) for place in places if len(place.rooms)), default=0)
        area = np.array([len(place.tissue) * place.lattice.cell_px**2 for place in places], float)
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
            return Draw(self._normal_case(ordinal, index), False)
        ordinal = epoch * self._positive + before
        case = self.with_tumour[self._in_rounds(ordinal, len(self.with_tumour), TUMOUR)]
        visit = ordinal // len(self.with_tumour)
        lesions = len(self._places[case].lesion_ends)
        return Draw(case, True, None if visit % 2 else self._in_rounds(visit // 2, lesions, LESION, case))

    def _normal_case(self, ordinal: int, index: int) -> int:
        """The case whose turn it is, or one that it gives its turn to: each as often as it has places."""
        window_px = self._shown_px(index)
        rng = np.random.default_rng((self._sampling.seed, SPARE, index))
        case = self.with_normal[self._in_rounds(ordinal, len(self.with_normal), NORMAL)]
        if rng.random() < self._plenty(case, window_px):
            return case
        ends = np.cumsum([self._plenty(other, window_px) for other in self.with_normal])
        return self.with_normal[int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))]

    def _plenty(self, case: int, window_px: int) -> float:
        """The area on which such a window without lesion may be centred, as a share of a patch's, at most 1."""
        places = self._places[case]
        return min(1.0, places.roomy(window_px) * (places.lattice.cell_px / self._sampling.patch_px) ** 2)

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


def _greatest(values: NDArray[Any], groups: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(count,) where the greatest value of each group lies in the flat array; -1: the group is empty."""
    found = np.full(count, -1)
    order = np.argsort(values, axis=None, kind="stable")
    found[groups.ravel()[order]] = order  # of many that are written to one place the last stays
    return found


def _covered(centre: Any, window_px: Any, cell_px: float, size: int, count: int) -> tuple[Any, Any]:  # noqa: ANN401
    """First and one-past-last of the cells along an axis under windows about these centres, all arrays."""
    start = _starts(centre, window_px, size)
    first = np.floor(np.maximum(start, 0) / cell_px + 1e-6)  # a hair of rounding is not a cell
    last = np.ceil(np.minimum(start + window_px, size) / cell_px - 1e-6)
    return np.clip(first, 0, count).astype(int), np.clip(last, 0, count).astype(int)


def _starts(centre: Any, window_px: Any, size: int) -> Any:  # noqa: ANN401 - numbers or arrays of them
    """Start of a window centred on a pixel, brought inside the frame (or to hold it)."""
    room = size - window_px
    return np.clip(centre - window_px // 2, np.minimum(0, room), np.maximum(0, room))


def _span(cell: int, cell_px: float, size: int) -> tuple[int, int]:
    first = min(math.floor(cell * cell_px), size - 1)
    return first, max(first + 1, min(math.ceil((cell + 1) * cell_px), size))
