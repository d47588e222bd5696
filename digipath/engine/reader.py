"""Patches from an array, or from a slide whose blocks are decoded once and shared.

Overlapping patches share their pixels: the frame is cut into blocks, each block is decoded by
the first patch that needs it and forgotten by the last.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from digipath.values import Grid, Patch, Tiles

Block = tuple[NDArray[np.uint8], NDArray[np.bool_] | None]
SLABS = 4  # per block
MOST_UNREADABLE = 0.1  # share of a tile
PAGE_BYTES = 2**26  # past what malloc would keep for itself; untouched parts cost nothing

ReadBlock = Callable[[int, int, int, int], Block]


def array_reader(
    array: NDArray[np.generic], grid: Grid, context: int = 0, *, mirrored: bool = True
) -> Callable[[tuple[int, ...]], Patch]:
    """Return a reader of the grid's patches from an array (*shape_px, channels) of any rank.

    Args:
        context: pixels that each patch has more on every side, for predictors that want them. What is valid is said
            of the patch without them.
        mirrored: what lies beyond the array is filled as `padded` does; False: with 0.
    """
    size = grid.patch_px
    shape = array.shape[: len(size)]

    def read(start_px: tuple[int, ...]) -> Patch:
        edges = [(s - context, s + p + context) for s, p in zip(start_px, size, strict=True)]
        inside = tuple(slice(max(0, low), high) for low, high in edges)
        beyond = [(max(0, -low), max(0, high - n)) for (low, high), n in zip(edges, shape, strict=True)]
        pixels = array[inside]
        if any(map(any, beyond)):
            pixels = np.pad(pixels, [*beyond, (0, 0)], mode="symmetric" if mirrored else "constant")
        valid: NDArray[np.bool_] | None = None
        if any(s + p > n for s, p, n in zip(start_px, size, shape, strict=True)):
            valid = np.zeros(size, np.bool_)
            valid[tuple(slice(0, n - s) for s, n in zip(start_px, shape, strict=True))] = True
        return Patch(start_px, pixels, valid)

    return read


def padded(patch: Patch, size_px: tuple[int, ...]) -> Patch:
    """Complete a patch that is cut off by the array's end; what is added is not valid.

    The filling mirrors the patch (as often as needed), so that a network meets no false edge.
    """
    rank = len(size_px)
    extra = [size - have for size, have in zip(size_px, patch.pixels.shape[:rank], strict=True)]
    if not any(extra):
        return patch
    widths = [(0, more) for more in extra]
    pixels = np.pad(patch.pixels, [*widths, (0, 0)], mode="symmetric")
    valid = np.ones(patch.pixels.shape[:rank], np.bool_) if patch.valid is None else patch.valid
    return Patch(patch.start_px, pixels, np.pad(valid, widths))


class BlockReader:
    """Reads the patches of a 2D grid through blocks that are decoded once each.

    Args:
        read_block: (row, column, rows, columns) in working pixels → (uint8 RGB, failed or None).
        grid: the patches that will be read, each exactly once. A decoded block is kept in slabs of
            rows, each as long as some patch still needs it, so memory holds the rows in flight.
        block_px: side of a block in working pixels.

    Safe to call from several threads. A pixel that cannot be read is invalid in its patch and
    filled with the mean colour of the patch's readable pixels; it is never replaced by white.
    """

    def __init__(self, read_block: ReadBlock, grid: Grid, block_px: int = 512) -> None:
        self._read_block = read_block
        self._grid = grid
        self._side = block_px
        self._slab_rows = block_px // SLABS if block_px % SLABS == 0 else block_px
        self._pool = _Pool((self._slab_rows, block_px, 3))
        self._lock = threading.Lock()
        self._blocks: dict[tuple[int, int], Future[dict[int, Block]]] = {}
        self._users = self._count_users()
        self.decoded = 0

    def __call__(self, start_px: tuple[int, ...]) -> Patch:
        """Return the patch at `start_px`, complete, with its mask of valid pixels."""
        row, column = start_px
        rows, columns = self._inside((row, column))
        pixels = np.empty((rows, columns, 3), np.uint8)
        failed: NDArray[np.bool_] | None = None
        for slab in self._slabs((row, column)):
            content, content_failed = self._slab(*slab)
            there, here = _meeting(slab, (row, column), (rows, columns), (self._slab_rows, self._side))
            pixels[there] = content[here]
            if content_failed is not None:
                failed = np.zeros((rows, columns), np.bool_) if failed is None else failed
                failed[there] = content_failed[here]
            self._release(slab)
        if failed is None or not failed.any():
            return padded(Patch(start_px, pixels), self._grid.patch_px)
        if not failed.all():
            pixels[failed] = pixels[~failed].mean(axis=0).astype(np.uint8)
        return padded(Patch(start_px, pixels, ~failed), self._grid.patch_px)

    def _count_users(self) -> NDArray[np.int32]:
        """How many patches need each slab: (slab rows, block columns)."""
        size = np.array(self._grid.shape_px)
        cell = np.array((self._slab_rows, self._side))
        first = self._grid.starts_px // cell
        after = -(-np.minimum(self._grid.starts_px + self._grid.patch_px, size) // cell)
        steps = np.zeros(-(-size // cell) + 1, np.int32)  # +1 and −1 at the corners, summed up below
        for rows, columns, step in ((first, first, 1), (after, after, 1), (first, after, -1), (after, first, -1)):
            np.add.at(steps, (rows[:, 0], columns[:, 1]), step)
        return steps.cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32)[:-1, :-1]

    def _inside(self, start: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the patch that lie in the frame."""
        sizes = zip(start, self._grid.patch_px, self._grid.shape_px, strict=True)
        rows, columns = (min(first + patch, shape) - first for first, patch, shape in sizes)
        return rows, columns

    def _slabs(self, start: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """(slab row, block column) of all slabs under a patch."""
        rows, columns = self._inside(start)
        for r in range(start[0] // self._slab_rows, -(-(start[0] + rows) // self._slab_rows)):
            for c in range(start[1] // self._side, -(-(start[1] + columns) // self._side)):
                yield r, c

    def _block_of(self, slab: tuple[int, int]) -> tuple[int, int]:
        return slab[0] * self._slab_rows // self._side, slab[1]

    def _slab(self, slab_row: int, block_column: int) -> Block:
        """A slab of its decoded block; the first caller decodes, the others wait for it."""
        key = self._block_of((slab_row, block_column))
        with self._lock:
            future = self._blocks.get(key)
            mine = future is None
            if future is None:
                future = self._blocks[key] = Future()
        if mine:
            try:
                future.set_result(self._decode(key))
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result()[slab_row]

    def _decode(self, key: tuple[int, int]) -> dict[int, Block]:
        """Read a block and cut it into the slabs that some patch will need."""
        self.decoded += 1
        row, column = (index * self._side for index in key)
        rows = min(self._side, self._grid.shape_px[0] - row)
        columns = min(self._side, self._grid.shape_px[1] - column)
        pixels, failed = self._read_block(row, column, rows, columns)
        slabs = {}
        for first in range(0, rows, self._slab_rows):
            slab_row, cut = (row + first) // self._slab_rows, slice(first, first + self._slab_rows)
            if self._users[slab_row, key[1]]:
                buffer = self._pool.take()
                buffer[: len(pixels[cut]), :columns] = pixels[cut]
                slabs[slab_row] = (buffer, None if failed is None else failed[cut].copy())
        return slabs

    def _release(self, slab: tuple[int, int]) -> None:
        with self._lock:
            self._users[slab] -= 1
            if self._users[slab] == 0:
                key = self._block_of(slab)
                slabs = self._blocks[key].result()
                self._pool.give_back(slabs.pop(slab[0])[0])
                if not slabs:
                    del self._blocks[key]


class TileReader:
    """Reads the kept tiles of a slide by their (row, column), each exactly once; safe from several threads.

    A tile of which more than a tenth cannot be read is not valid; in others the unreadable pixels are filled
    as `BlockReader` does.
    """

    def __init__(self, read_block: ReadBlock, tiles: Tiles, *, rows_done: int = 0, block_px: int = 512) -> None:
        self._tiles = tiles
        starts = tiles.starts_px[tiles.cells[:, 0] >= rows_done]
        grid = Grid(tiles.shape_px, (tiles.tile_px, tiles.tile_px), 1, starts, tiles.mpp)
        self._blocks = BlockReader(read_block, grid, block_px)

    def __call__(self, cell: tuple[int, ...]) -> Patch:
        """The tile with its pixels (tile_px, tile_px, 3), as a patch of one pixel of the map at `cell`."""
        start = (cell[0] * self._tiles.tile_px, cell[1] * self._tiles.tile_px)
        patch = self._blocks(start)
        if patch.valid is None:
            return Patch(cell, patch.pixels)
        rows, columns = (min(s + self._tiles.tile_px, n) - s for s, n in zip(start, self._tiles.shape_px, strict=True))
        readable = patch.valid[:rows, :columns].mean() >= 1 - MOST_UNREADABLE
        return Patch(cell, patch.pixels, None if readable else np.zeros((1, 1), np.bool_))


class _Pool:
    """Buffers of one shape, reused: millions of allocations by several threads would fragment the heap.

    They are cut from pages large enough that the system takes a page back when the pool ends.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = (max(1, PAGE_BYTES // int(np.prod(shape))), *shape)
        self._free: deque[NDArray[np.uint8]] = deque()  # its ends are safe to use from several threads

    def take(self) -> NDArray[np.uint8]:
        """A buffer of undefined content."""
        while True:
            try:
                return self._free.pop()
            except IndexError:
                self._free.extend(np.empty(self._shape, np.uint8))

    def give_back(self, buffer: NDArray[np.uint8]) -> None:
        """Return a buffer that nobody reads any more."""
        self._free.append(buffer)


def _meeting(
    slab: tuple[int, int], start: tuple[int, int], size: tuple[int, int], slab_size: tuple[int, int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where slab and patch meet: slices into the patch and into the slab."""
    there, here = [], []
    for index, first, length, side in zip(slab, start, size, slab_size, strict=True):
        origin = index * side
        low, high = max(first, origin), min(first + length, origin + side)
        there.append(slice(low - first, high - first))
        here.append(slice(low - origin, high - origin))
    return tuple(there), tuple(here)
