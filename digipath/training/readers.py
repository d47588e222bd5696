"""A training case in the working frame: its slide and lesions, opened when needed, a bounded number at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from digipath.annotation import Labels, open_lesions
from digipath.errors import ResolutionTooLow
from digipath.planning import COARSEST, is_crop
from digipath.slide import Overview, open_slide
from digipath.tissue import tissue_mask
from digipath.training.manifest import TrainingCase
from digipath.training.sampling import Box, Lattice, Places, Position, Sampling, find_places, find_rooms

CELLS_PER_PATCH = 8  # along a patch's side; coarser on slides of more than so many cells:
MOST_CELLS = 2**17
MOST_FINE_CELLS = 2**20  # room for patches without lesion is sought pixel by pixel on slides up to 1024 × 1024
TILE_CACHE_BYTES = 16 * 2**20  # patches lie apart, few tiles are met again
OPEN_BYTES = 2**29  # of slides held open: 32 scanner files, or as many flat images and masks as fit

Pixel = TypeVar("Pixel", bound=np.generic)


class CaseReader:
    """An open case: pixels and lesions in windows of the working frame; safe from many threads.

    size_px: (rows, columns) of the frame. downsample: level-0 pixels per working pixel.
    Raises ResolutionTooLow, MissingResolution, SlideNotFound, SlideUnreadable, BadAnnotation.
    """

    def __init__(self, case: TrainingCase, mpp: float, labels: Labels) -> None:
        self.slide = open_slide(case.slide, mpp=case.mpp)
        own = self.slide.require_mpp()
        if own > COARSEST * mpp:
            raise ResolutionTooLow(
                f"expected a slide of at most {COARSEST * mpp:g} µm/px to train at {mpp:g} µm/px, received "
                f"{own:g} µm/px; leave it out or train at a coarser mpp: {case.slide}"
            )
        self.slide.set_cache(TILE_CACHE_BYTES)
        self.mpp = self.slide.snap_mpp(mpp)
        self.downsample = self.mpp / own
        self.size_px = self.slide.working_size_px(self.mpp)
        self._lesions = open_lesions(case.annotation, self.slide.size_l0, labels=labels)

    def close(self) -> None:
        self.slide.close()
        self._lesions.close()

    @property
    def flat(self) -> bool:
        """True for a JPEG, PNG or TIFF that lies in memory as a whole."""
        return self.slide.vendor.startswith("flat-")

    @property
    def held_bytes(self) -> int:
        """About what it keeps in memory, the same as long as it is open."""
        width, height = self.slide.size_l0
        return (5 * width * height if self.flat else TILE_CACHE_BYTES) + self._lesions.held_bytes

    def pixels(self, start: Position, side: int) -> tuple[NDArray[np.uint8], bool]:
        """(side, side, 3) uint8 RGB from `start` on, and whether all of it could be read.

        What lies outside the slide is its mirror image; nothing is read there.
        """
        (row, col, rows, cols), padding = _inside(start, side, self.size_px)
        pixels, failed = self.slide.read_block(row, col, rows, cols, mpp=self.mpp)
        return _mirrored(pixels, (*padding, (0, 0))), failed is None

    def lesions(self, start: Position, side: int) -> NDArray[np.bool_]:
        """(side, side) bool, True in lesions, mirrored like `pixels`."""
        box, padding = _inside(start, side, self.size_px)
        return _mirrored(self._lesions_in(box), padding)

    def lesion_pixels(self, box: Box) -> NDArray[np.int64]:
        """(n, 2) rows and columns of the lesion pixels in a box."""
        return np.argwhere(self._lesions_in(box)) + np.array(box[:2])

    def places(self, tissue: NDArray[np.bool_], overview: Overview, patch_px: int, shown_px: tuple[int, int]) -> Places:
        """Where patches may lie.

        tissue: (rows, columns) bool of the overview. shown_px: the least and the most that a patch
        shows, as the side of its window.
        """
        cell_l0, lattice = self._lattice(patch_px / CELLS_PER_PATCH, MOST_CELLS)
        fine_l0, fine = self._lattice(min(1.0, patch_px / CELLS_PER_PATCH), MOST_FINE_CELLS)
        fine_lesions = self._lesions.anywhere(fine_l0)
        lesion_px = np.zeros(lattice.shape, np.int64)
        for cell in _reached(fine_lesions, fine_l0 / cell_l0, lattice.shape).tolist():
            lesion_px.flat[cell] = np.count_nonzero(self._lesions_in(lattice.box(cell)))
        rows, cols = (
            np.minimum(((np.arange(count) + 0.5) * cell_l0 / overview.downsample).astype(int), size - 1)
            for count, size in zip(lattice.shape, tissue.shape, strict=True)
        )
        return find_places(lattice, tissue[rows][:, cols], lesion_px, fine, find_rooms(fine, fine_lesions, *shown_px))

    def _lesions_in(self, box: Box) -> NDArray[np.bool_]:
        row, col, rows, cols = box
        return self._lesions.read_block(row, col, rows, cols, downsample=self.downsample)

    def _lattice(self, cell_px: float, most: int) -> tuple[int, Lattice]:
        """Cells of about cell_px, larger if there were more than `most`; their side in level-0 pixels first."""
        width, height = self.slide.size_l0
        cell_l0 = max(1, round(cell_px * self.downsample))
        while -(-width // cell_l0) * -(-height // cell_l0) > most:
            cell_l0 *= 2
        return cell_l0, Lattice(self.size_px, cell_l0 / self.downsample, (-(-height // cell_l0), -(-width // cell_l0)))

    def find_tissue(self, overview: Overview, sampling: Sampling) -> NDArray[np.bool_]:
        """(rows, columns) bool of the overview: tissue that can be read."""
        method = "all" if sampling.tissue == "all" or is_crop(self.slide) else "auto"
        found = tissue_mask(overview.image, um_per_px=overview.mpp, failed=overview.failed, method=method)
        return found.mask if overview.failed is None else found.mask & ~overview.failed


class Reader(Protocol):
    """An open case. held_bytes: about what it keeps in memory, the same as long as it is open."""

    @property
    def held_bytes(self) -> int: ...

    def close(self) -> None: ...


R = TypeVar("R", bound=Reader)


@dataclass
class _Held(Generic[R]):
    """A place in the pool: its reader once it is open, and how many use it now."""

    opening: threading.Lock = field(default_factory=threading.Lock)
    reader: R | None = None
    users: int = 0


class Readers(Generic[R]):
    """Readers of many cases, opened when first needed; those not used for longest are closed.

    `open_case(index)` opens one. Readers in use are never closed, so what is held may exceed
    `most_bytes` by them.
    """

    def __init__(self, open_case: Callable[[int], R], *, most_bytes: int = OPEN_BYTES) -> None:
        self._open_case = open_case
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[int, _Held[R]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return sum(held.reader is not None for held in self._held.values())

    @contextmanager
    def borrow(self, index: int) -> Iterator[R]:
        """The open reader of case `index`, for as long as the block runs."""
        with self._lock:
            held = self._held.setdefault(index, _Held())
            self._held.move_to_end(index)
            held.users += 1
        try:
            with held.opening:
                if held.reader is None:
                    held.reader = self._open_case(index)
                    with self._lock:
                        self._bytes += held.reader.held_bytes
            yield held.reader
        finally:
            with self._lock:
                held.users -= 1
                self._make_room()

    def close(self) -> None:
        """Close all, those in use when they are given back; a later `borrow` opens for itself only."""
        with self._lock:
            self._most_bytes = 0
            self._make_room()

    def _make_room(self) -> None:
        if self._bytes <= self._most_bytes:
            return
        for index, held in list(self._held.items()):
            if self._bytes > self._most_bytes and held.users == 0 and held.reader is not None:
                del self._held[index]
                self._bytes -= held.reader.held_bytes
                held.reader.close()


def _reached(cells: NDArray[np.bool_], side: float, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Numbers of the cells of a lattice that True cells of another reach into; side: theirs, at most 1 of its own."""
    rows, cols = np.nonzero(cells)
    out = np.zeros(shape, bool)
    for row in (rows, rows + 1):
        for col in (cols, cols + 1):
            reached = (np.minimum(at * side, size - 1).astype(int) for at, size in zip((row, col), shape, strict=True))
            out[tuple(reached)] = True
    return np.flatnonzero(out)


def _inside(start: Position, side: int, size_px: tuple[int, int]) -> tuple[Box, tuple[tuple[int, int], ...]]:
    """The part of a window that is in the frame, and what is missing around it."""
    firsts = [max(0, first) for first in start]
    ends = [min(first + side, size) for first, size in zip(start, size_px, strict=True)]
    padding = tuple((a - first, first + side - b) for first, a, b in zip(start, firsts, ends, strict=True))
    return (firsts[0], firsts[1], ends[0] - firsts[0], ends[1] - firsts[1]), padding


def _mirrored(pixels: NDArray[Pixel], padding: Sequence[tuple[int, int]]) -> NDArray[Pixel]:
    return np.pad(pixels, padding, mode="symmetric") if any(map(any, padding)) else pixels
