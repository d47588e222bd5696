"""The working frame: a slide resampled to one resolution, in cells that join exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

MAX_SOURCE_PX = 2048  # side of the largest box decoded at once; larger ones are read in parts
MAX_CELL_PX = 128  # working pixels; resampling cell by cell gives every block the same numbers


@dataclass(frozen=True)
class Frame:
    """A working frame: `scale` pixels of `level` make one working pixel (1.0: read as they are)."""

    level: int
    scale: float
    rows: int
    cols: int
    downsample: float

    @property
    def cell_px(self) -> int:
        """Step of the resampling lattice: a power of two, at most MAX_SOURCE_PX source pixels."""
        return min(MAX_CELL_PX, 2 ** int(math.log2(MAX_SOURCE_PX / self.scale)))

    @property
    def part_px(self) -> int:
        """Side of the largest box read at once, whole cells."""
        return int(MAX_SOURCE_PX / self.scale) // self.cell_px * self.cell_px


@dataclass(frozen=True)
class Axis:
    """One axis of a resampling: working pixels [first, first + count) of a frame of `frame_size`,
    from a level of `level_size` source pixels, `scale` of them to a working pixel."""

    first: int
    count: int
    scale: float
    frame_size: int
    level_size: int

    @property
    def reach(self) -> int:
        """Source pixels that may be needed beyond the working pixels: kernel radius and rounding."""
        return math.ceil(max(self.scale, 1.0)) + 2

    @property
    def start(self) -> int:
        """First source pixel to read."""
        return max(0, math.floor(self.first * self.scale) - self.reach)

    @property
    def end(self) -> int:
        """One past the last source pixel to read."""
        return min(math.ceil((self.first + self.count) * self.scale) + self.reach, self.level_size)

    @property
    def pad(self) -> int:
        """Source pixels wanted past the level's edge: a frame is rounded to whole working pixels."""
        wanted = math.ceil((self.first + self.count) * self.scale) + self.reach
        padded_size = max(self.level_size, math.ceil(self.frame_size * self.scale - 1e-6))
        return max(0, min(wanted, padded_size) - self.level_size)

    def box(self) -> tuple[float, float]:
        """Where the working pixels lie, in source pixels after `start`."""
        low = self.first * self.scale - self.start
        return low, min(low + self.count * self.scale, float(self.end - self.start + self.pad))

    def kernel_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """First and one-past-last source pixel, after `start`, under each working pixel's kernel."""
        centre = (self.first + np.arange(self.count) + 0.5) * self.scale
        radius = max(self.scale, 1.0)
        first = np.clip(np.floor(centre - radius + 0.5), 0, self.level_size - 1)
        last = np.clip(np.ceil(centre + radius - 0.5), first + 1, self.level_size)
        return first.astype(int) - self.start, last.astype(int) - self.start


def crop_box(across: Axis, down: Axis, left: int, top: int) -> tuple[int, int, int, int]:
    return across.start - left, down.start - top, across.end - left, down.end - top


def resample(source: Image.Image, across: Axis, down: Axis) -> np.ndarray:
    if across.pad or down.pad:
        edge = np.pad(np.asarray(source), ((0, down.pad), (0, across.pad), (0, 0)), mode="edge")
        source = Image.fromarray(edge)
    (left, right), (top, bottom) = across.box(), down.box()
    size = (across.count, down.count)
    return np.asarray(source.resize(size, Image.Resampling.BILINEAR, box=(left, top, right, bottom)))


def under_kernel(bad: np.ndarray, across: Axis, down: Axis) -> np.ndarray:
    """Working pixels whose kernel touches a bad source pixel."""
    total = np.zeros((bad.shape[0] + 1, bad.shape[1] + 1), np.int64)
    total[1:, 1:] = bad.cumsum(0, dtype=np.int64).cumsum(1)
    (left, right), (top, bottom) = across.kernel_bounds(), down.kernel_bounds()
    rows = total[bottom] - total[top]
    return (rows[:, right] - rows[:, left]) > 0


def steps(first: int, count: int, step: int) -> Iterator[tuple[int, int]]:
    """(start, length) of the pieces of [first, first + count) cut at multiples of `step`."""
    start, end = first, first + count
    while start < end:
        stop = min(end, start - start % step + step)
        yield start, stop - start
        start = stop


def widen(first: int, count: int, step: int, frame_size: int) -> tuple[int, int]:
    """The range widened to multiples of `step`, within the frame."""
    return first - first % step, min(-(-(first + count) // step) * step, frame_size)
