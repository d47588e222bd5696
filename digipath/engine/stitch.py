"""Blend overlapping patches into maps, keeping only the rows that patches in flight can reach."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from digipath.values import (
    EXCLUDED,
    PREDICTED,
    READ_FAILED,
    Coverage,
    Grid,
)

Floats = NDArray[np.float32]
Window = Callable[[int], Floats]


def smooth_window(size: int) -> Floats:
    """sin² weights along one axis: positive everywhere, and a sum of 1 at 50 % overlap."""
    return np.sin(np.pi * (np.arange(size) + 0.5) / size).astype(np.float32) ** 2


def mean_window(size: int) -> Floats:
    """Equal weights: the plain average over overlapping patches, as in Khened et al. 2021."""
    return np.ones(size, np.float32)


WINDOWS: Mapping[str, Window] = {"smooth": smooth_window, "mean": mean_window}


def patch_weights(size: Sequence[int], window: Window) -> Floats:
    """Weights of a patch's map pixels: the product over its axes."""
    return functools.reduce(np.multiply.outer, (window(length) for length in size), np.ones((), np.float32))


def block_mean(values: Floats, reduce: int, valid: NDArray[np.bool_] | None) -> tuple[Floats, NDArray[np.bool_] | None]:
    """Average (*patch, C) over blocks of `reduce` pixels, over the valid ones only.

    Returns the means (*map_patch, C) and which of them had a valid pixel (None: all had).
    """
    if valid is None:
        return _block_sum(values, reduce) / np.float32(reduce ** (values.ndim - 1)), None
    weight = valid[..., None].astype(np.float32)
    count = _block_sum(weight, reduce)
    means = _block_sum(values * weight, reduce) / np.maximum(count, 1)
    return means.astype(np.float32, copy=False), count[..., 0] > 0


def _block_sum(values: Floats, reduce: int) -> Floats:
    """Sum over blocks along every axis but the last; a remainder at the end is left out."""
    if reduce == 1:
        return values
    for axis in range(values.ndim - 1):
        size = values.shape[axis] // reduce
        cut = values[(slice(None),) * axis + (slice(size * reduce),)]
        split = cut.reshape(*cut.shape[:axis], size, reduce, *cut.shape[axis + 1 :])
        values = np.add.reduce(split, axis=axis + 1, dtype=np.float32)
    return values


class Stitcher:
    """Weighted sums of maps over the map rows in flight, in a ring as high as a patch.

    Args:
        grid: where the patches lie.
        window: weights along one axis; the product over axes weighs a patch's map pixels.
        channels: the maps to make, with the number of channels of each.
        first_row: map row to begin with; what patches say about rows above it is dropped
            (those rows are already final).
    """

    def __init__(
        self, grid: Grid, window: Window, channels: Mapping[str, int], first_row: int = 0
    ) -> None:
        self._grid = grid
        self._height = grid.map_patch[0]
        self._row = first_row
        self._weights = patch_weights(grid.map_patch, window)
        self._total = np.zeros((self._height, *grid.map_shape[1:]), np.float32)
        self._missing: NDArray[np.int32] | None = None  # made when the first unreadable pixel turns up
        self._sums = {name: np.zeros((*self._total.shape, n), np.float32) for name, n in channels.items()}

    def add(self, start_px: Sequence[int], maps: Mapping[str, Floats], valid: NDArray[np.bool_] | None) -> None:
        """Add one patch's maps, each (*patch, C), where they are valid."""
        starts = [start // self._grid.reduce for start in start_px]
        ends = [min(s + p, m) for s, p, m in zip(starts, self._grid.map_patch, self._grid.map_shape, strict=True)]
        first = max(starts[0], self._row)
        across = tuple(slice(s, e) for s, e in zip(starts[1:], ends[1:], strict=True))
        inside = tuple(slice(0, e - s) for s, e in zip(starts[1:], ends[1:], strict=True))
        if valid is not None:
            self._note_missing(starts, valid)
        for index, (name, values) in enumerate(maps.items()):
            means, readable = block_mean(values, self._grid.reduce, valid)
            weights = self._weights if readable is None else self._weights * readable
            weighted = means * weights[..., None]
            for ring, rows in self._spans(first, ends[0]):
                here = (slice(rows.start - starts[0], rows.stop - starts[0]), *inside)
                self._sums[name][(ring, *across)] += weighted[here]
                if index == 0:
                    self._total[(ring, *across)] += weights[here]

    def flush(self, until: int) -> Iterator[tuple[int, dict[str, Floats], Floats, NDArray[np.int32] | None]]:
        """Yield (first row, maps, weights, missing) of the rows before `until` and forget them.

        A map is sum / weight where the weight is positive, and NaN elsewhere. `missing` counts the
        working pixels under each map pixel that could not be read (None: all could). The arrays
        are views that the next step reuses: copy what must last.
        """
        for ring, rows in self._spans(self._row, until):
            total = self._total[ring]
            maps = {}
            with np.errstate(invalid="ignore"):
                for name, sums in self._sums.items():
                    maps[name] = np.divide(sums[ring], total[..., None], out=sums[ring])
            missing = None if self._missing is None else self._missing[ring]
            yield rows.start, maps, total, missing
            for values in (total, *maps.values(), *(() if missing is None else (missing,))):
                values[...] = 0
        self._row = max(self._row, until)

    def _note_missing(self, starts: Sequence[int], valid: NDArray[np.bool_]) -> None:
        """Count the working pixels under each map pixel of a patch that exist and are not valid."""
        grid = self._grid
        lengths = [lengths_px(grid, axis)[first : first + size]
                   for axis, (first, size) in enumerate(zip(starts, grid.map_patch, strict=True))]  # fmt: skip
        area = functools.reduce(np.multiply.outer, lengths)
        readable = _block_sum(valid[..., None].astype(np.float32), grid.reduce)[..., 0]
        missing = area - readable[tuple(slice(size) for size in area.shape)].astype(np.int32)
        if not missing.any():
            return
        if self._missing is None:
            self._missing = np.zeros(self._total.shape, np.int32)
        first = max(starts[0], self._row)
        across = tuple(slice(s, s + size) for s, size in zip(starts[1:], area.shape[1:], strict=True))
        for ring, rows in self._spans(first, starts[0] + len(area)):
            there = self._missing[(ring, *across)]
            np.maximum(there, missing[rows.start - starts[0] : rows.stop - starts[0]], out=there)

    def _spans(self, first: int, until: int) -> Iterator[tuple[slice, slice]]:
        """Split map rows [first, until) into (rows of the ring, rows of the map) pairs."""
        while first < until:
            at = first % self._height
            count = min(until - first, self._height - at)
            yield slice(at, at + count), slice(first, first + count)
            first += count


def coverage_codes(wanted: NDArray[np.uint8], weights: Floats) -> NDArray[np.uint8]:
    """What became of each map pixel: wanted (BACKGROUND, PREDICTED, EXCLUDED) → coverage codes."""
    codes = wanted.copy()
    codes[(wanted == PREDICTED) & ~(weights > 0)] = READ_FAILED
    return codes


def lengths_px(grid: Grid, axis: int) -> NDArray[np.int32]:
    """Working pixels under each map pixel along one axis; the last may hold fewer."""
    first = grid.reduce * np.arange(grid.map_shape[axis], dtype=np.int32)
    return np.minimum(grid.reduce, grid.shape_px[axis] - first).astype(np.int32)


def ledger(
    codes: NDArray[np.uint8], grid: Grid, row: int, missing: NDArray[np.int32] | None = None
) -> Coverage:
    """Count the working pixels under map rows from `row` on, by what became of them.

    `missing` are those that could not be read under a map pixel that was predicted from the rest.
    """
    lengths = [lengths_px(grid, axis) for axis in range(codes.ndim)]
    lengths[0] = lengths[0][row : row + len(codes)]

    def pixels(code: int) -> int:
        area = (codes == code).astype(np.int64)
        for along in reversed(lengths):
            area = area @ along
        return int(area)

    predicted, failed, excluded = (pixels(c) for c in (PREDICTED, READ_FAILED, EXCLUDED))
    partly = 0 if missing is None else int(missing[codes == PREDICTED].sum())
    return Coverage(predicted + failed + excluded, predicted - partly, failed + partly, excluded)
