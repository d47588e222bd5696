"""Frozen values that the stages share. No stage imports another; they pass these.

Frames: `_l0` = level-0 pixels of the slide, (x, y); `_px` = pixels of the working
resolution (the network's), array order; map pixels = working pixels / `reduce`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# What became of a map pixel; the codes of the `coverage` map.
BACKGROUND, PREDICTED, READ_FAILED, EXCLUDED = 0, 1, 2, 3

ENTROPIES = ("entropy", "mutual_information")  # maps on request, in bits; of one channel whatever the classes

Cancel = Callable[[], bool]
Scaling = float | tuple[float, float, float]  # of grey values: for all channels alike, or one for each


@dataclass(frozen=True)
class Progress:
    """One report of long work: `done` of `total` units, units per second, what is being done."""

    done: int
    total: int
    rate: float
    message: str


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True)
class Grid:
    """Patches over an array of any spatial rank, in working pixels, sorted by their starts.

    Attributes:
        shape_px: size of the whole array (rows, columns) or (planes, rows, columns).
        patch_px: size of a patch; it may reach beyond the array by less than a patch.
        reduce: working pixels per map pixel along each axis (≥ 1). Starts are multiples of it.
        starts_px: (n, rank) int64, first corner of each patch, in lexicographic order.
        mpp: µm per working pixel; None where the frame has no µm.
    """

    shape_px: tuple[int, ...]
    patch_px: tuple[int, ...]
    reduce: int
    starts_px: NDArray[np.int64]
    mpp: float | None = None

    def __len__(self) -> int:
        return len(self.starts_px)

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Size of the maps: the working size divided by `reduce`, rounded up."""
        return tuple(-(-size // self.reduce) for size in self.shape_px)

    @property
    def map_patch(self) -> tuple[int, ...]:
        """Size of a patch in map pixels; a remainder smaller than a map pixel is not used."""
        return tuple(size // self.reduce for size in self.patch_px)

    @property
    def map_mpp(self) -> float | None:
        """µm per map pixel."""
        return None if self.mpp is None else self.mpp * self.reduce

    def bands(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield (first map row, starts) for each group of patches that begin on the same row."""
        firsts, where = np.unique(self.starts_px[:, 0], return_index=True)
        for first, starts in zip(firsts, np.split(self.starts_px, where[1:]), strict=True):
            yield int(first) // self.reduce, starts

    def remaining(self, rows_done: int) -> Grid:
        """Return the patches that reach below map row `rows_done`: what a resumed run must read."""
        ends = self.starts_px[:, 0] // self.reduce + self.map_patch[0]
        return replace(self, starts_px=self.starts_px[ends > rows_done])


@dataclass(frozen=True)
class Tiles:
    """Square tiles side by side over a slide, each of which gets one answer.

    Attributes:
        shape_px: (rows, columns) of the slide in working pixels.
        tile_px: side of a tile in working pixels; tile (r, c) begins at (r, c) × tile_px.
        share: (R, C) float32, which share of each tile is tissue; what lies beyond the slide is none. Where the
            whole slide fits into one tile, the share of the slide.
        kept: (R, C) bool, tiles with enough tissue.
        mpp: µm per working pixel; None where the slide's resolution is unknown.
    """

    shape_px: tuple[int, int]
    tile_px: int
    share: NDArray[np.float32]
    kept: NDArray[np.bool_]
    mpp: float | None = None

    def __len__(self) -> int:
        return int(np.count_nonzero(self.kept))

    @property
    def cells(self) -> NDArray[np.int64]:
        """(n, 2) row and column of the tiles that are kept, row by row."""
        return np.argwhere(self.kept)

    @property
    def starts_px(self) -> NDArray[np.int64]:
        """(n, 2) first pixel (row, column) of the tiles that are kept."""
        return self.cells * self.tile_px

    @property
    def grid(self) -> Grid:
        """The kept tiles as patches of one pixel each, of a frame whose pixels are tiles."""
        return Grid(self.kept.shape, (1, 1), 1, self.cells, None if self.mpp is None else self.mpp * self.tile_px)

    @property
    def wanted(self) -> NDArray[np.uint8]:
        """(R, C) what is asked of each tile: PREDICTED, EXCLUDED (some tissue, but not enough) or BACKGROUND."""
        return np.where(self.kept, PREDICTED, np.where(self.share > 0, EXCLUDED, BACKGROUND)).astype(np.uint8)

    @property
    def tissue_px(self) -> NDArray[np.int64]:
        """(R, C) working pixels of tissue in each tile."""
        return np.rint(self.share.astype(np.float64) * tile_area_px(self.shape_px, self.tile_px)).astype(np.int64)


def tile_area_px(shape_px: Sequence[int], tile_px: int) -> int:
    """Working pixels of which a tile's share is told: its own, or the slide's where that fits into one tile."""
    rows, columns = shape_px
    return rows * columns if max(rows, columns) <= tile_px else tile_px**2


@dataclass(frozen=True)
class Patch:
    """One patch as read: its pixels and which of them are real.

    Attributes:
        start_px: first corner in the working frame.
        pixels: (*patch_px, channels); pixels that are not real hold plausible filling, never
            a statement about the slide.
        valid: bool (*patch_px), False beyond the array and where reading failed; None = all real.
    """

    start_px: tuple[int, ...]
    pixels: NDArray[np.generic]
    valid: NDArray[np.bool_] | None = None


ReadPatch = Callable[[tuple[int, ...]], Patch]


class Predictor(Protocol):
    """Maps patches to probabilities: (B, *patch, channels) → (B, *patch, C) in [0, 1], or (B, C) of tiles.

    It gets a copy of the pixels and its answer is copied, so it may reuse its buffers.

    Optional attributes: `name`, `patch` (px), `at_mpp` (µm/px it wants), `classes` (names of C),
    `batch` (patches per call), `parallel` (calls that may run at once), `context` (voxels that it sees around a
    patch of a volume on every side, for which it gives no answer; slides have none to give).
    """

    def __call__(self, patches: Any, /) -> Any: ...  # noqa: ANN401 - arrays of any framework's own types


@dataclass(frozen=True)
class Coverage:
    """The ledger: what became of every working pixel of tissue.

    Counts are working pixels; `tissue` = predicted + read_failed + excluded.
    """

    tissue: int = 0
    predicted: int = 0
    read_failed: int = 0
    excluded: int = 0

    def __add__(self, other: Coverage) -> Coverage:
        return Coverage(
            self.tissue + other.tissue,
            self.predicted + other.predicted,
            self.read_failed + other.read_failed,
            self.excluded + other.excluded,
        )

    @property
    def complete(self) -> bool:
        """True if all tissue that was to be predicted was."""
        return self.read_failed == 0


@dataclass(frozen=True)
class ViewTally:
    """What adaptive views cost and changed, summed over patches; all 0 where views are fixed.

    Attributes:
        patches: that had anything to read. full: seen by all views, for the first left them undecided.
        audited: others that were seen by all views too, to measure the deviation.
        passes: patches sent through a network, once for each view.
        compared: map pixels (of all classes) of audited patches; deviation: the sum over them of
            |probability of the first views − probability of all|; largest: the largest of these.
    """

    patches: int = 0
    full: int = 0
    audited: int = 0
    passes: int = 0
    compared: int = 0
    deviation: float = 0.0
    largest: float = 0.0

    def __add__(self, other: ViewTally) -> ViewTally:
        return ViewTally(
            self.patches + other.patches,
            self.full + other.full,
            self.audited + other.audited,
            self.passes + other.passes,
            self.compared + other.compared,
            self.deviation + other.deviation,
            max(self.largest, other.largest),
        )


class MapSink(Protocol):
    """Where finished rows of maps go: a folder (`maps.py`) or memory (`ArrayMaps`)."""

    rows_done: int
    coverage: Coverage
    tally: ViewTally

    def write(self, row: int, values: Mapping[str, NDArray[np.generic]]) -> None:
        """Store rows from `row` on; each value is (rows, *rest[, channels])."""

    def commit(self, rows_done: int, coverage: Coverage, tally: ViewTally) -> None:
        """Everything above `rows_done` is final; `coverage` is its ledger so far.

        `tally` is that of the patches that begin above `rows_done`.
        """


@dataclass
class ArrayMaps:
    """A sink in memory: `arrays[name]` has the shape (*map_shape[, channels])."""

    map_shape: tuple[int, ...]
    arrays: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    rows_done: int = 0
    coverage: Coverage = Coverage()
    tally: ViewTally = ViewTally()

    def write(self, row: int, values: Mapping[str, NDArray[np.generic]]) -> None:
        """Store rows from `row` on."""
        for name, block in values.items():
            if name not in self.arrays:
                shape = self.map_shape + block.shape[len(self.map_shape) :]
                self.arrays[name] = np.zeros(shape, block.dtype)
            self.arrays[name][row : row + len(block)] = block

    def commit(self, rows_done: int, coverage: Coverage, tally: ViewTally) -> None:
        """Note how far the maps are final."""
        self.rows_done, self.coverage, self.tally = rows_done, coverage, tally


def most_probable(probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
    """The most probable class along the last axis; classes rise in malignancy, and a tie goes to the higher."""
    return np.asarray(probabilities.shape[-1] - 1 - np.argmax(probabilities[..., ::-1], axis=-1))


def stretch_rows(
    mask: NDArray[np.uint8], map_shape: Sequence[int], row_from: int, row_to: int
) -> NDArray[np.uint8]:
    """Rows [row_from, row_to) of a coarse array enlarged to `map_shape` by nearest neighbour.

    A map pixel takes the coarse pixel that holds its centre. `grid.py` and `predict.py` use this
    one rule, so that what the grid covers is exactly what the ledger asks for.
    """
    return stretch_box(mask, map_shape, (slice(row_from, row_to),) + (slice(None),) * (mask.ndim - 1))


def stretch_box(mask: NDArray[np.uint8], map_shape: Sequence[int], box: Sequence[slice]) -> NDArray[np.uint8]:
    """The same for a box of map pixels, given as a slice along each axis."""
    out = mask
    for axis, cut in enumerate(box):
        out = out.take(nearest_index(mask.shape[axis], map_shape[axis])[cut], axis=axis)
    return out


def coarsened(codes: NDArray[np.uint8], shape: Sequence[int]) -> NDArray[np.uint8]:
    """Wanted codes brought to at most `shape`; what is tissue anywhere in a coarser pixel stays tissue.

    PREDICTED wins over EXCLUDED, EXCLUDED over BACKGROUND. Axes that are not finer than `shape` stay.
    """
    rank = np.array([0, 2, 0, 1], np.uint8)[codes]
    for axis, size in enumerate(shape):
        if rank.shape[axis] > size:
            begins = -(-np.arange(size) * rank.shape[axis] // size)
            rank = np.maximum.reduceat(rank, begins, axis=axis)
    return np.array([BACKGROUND, EXCLUDED, PREDICTED], np.uint8)[rank]


def nearest_index(coarse: int, fine: int) -> NDArray[np.int64]:
    """Index of the coarse cell under each of `fine` cells' centres along one axis."""
    return ((2 * np.arange(fine, dtype=np.int64) + 1) * coarse) // (2 * fine)


@dataclass(frozen=True)
class Card:
    """A weights card: the record, where it lies, and what the pipeline asks of it.

    `record` is the whole JSON object, checked against `card.schema.json`; `folder` is where the
    weights file lies, None: beside the card.
    """

    path: Path
    record: Mapping[str, Any]
    folder: Path | None = None

    @property
    def name(self) -> str:
        """`<task>-<network>-v<n>`."""
        return str(self.record["name"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the network's softmax."""
        return tuple(self.record["classes"])

    @property
    def output(self) -> str:
        """What a network answers for: each of the "pixels", a "tile" as a whole, or a "bag" of tiles."""
        return str(self.record.get("output", "pixels"))

    @property
    def mpp(self) -> float:
        """µm per pixel the network was trained at."""
        return float(self.record["input"]["mpp"])

    @property
    def patch(self) -> int:
        """Side of an inference patch in pixels at `mpp`."""
        return int(self.record["input"]["patch"])

    @property
    def file(self) -> Path:
        """The weights file; it may have to be fetched first."""
        return (self.folder or self.path.parent) / str(self.record["file"])

    @property
    def kept(self) -> tuple[int, ...]:
        """Output channels that become maps: the positive class of a two-class task, else all."""
        if len(self.classes) > 2:
            return tuple(range(len(self.classes)))
        return (0,) if self.record["activation"] == "sigmoid" else (self.classes.index(self.record["positive"]),)

    @property
    def kept_classes(self) -> tuple[str, ...]:
        """Names of the classes in `kept`."""
        return self.classes if len(self.classes) > 2 else (self.record["positive"],)
