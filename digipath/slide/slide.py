"""Open a slide and read it at any resolution: the only place that knows scanner files.

Frames. Level 0 is the slide's own pixel grid, (x, y). The *working frame* at `mpp` is the whole
slide resampled to that resolution, in array order (row, column): working pixel (r, c) covers
level-0 pixels [c·d, (c + 1)·d) × [r·d, (r + 1)·d) with d = mpp / slide.mpp. A level whose
resolution is within 2 % of the asked one *is* the working frame: its pixels come as they are.

Unreadable pixels. OpenSlide latches an error for the rest of a handle's life, so a failed read
is tried once more on a fresh handle; if it fails again the box is read tile by tile along the
file's own tiles. A working pixel counts as failed if any source pixel under its resampling
kernel lies in an unreadable tile. Failed pixels hold 0 and are never replaced by background.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import openslide

from digipath.errors import BadInput, MissingResolution, SlideNotFound, SlideUnreadable
from digipath.slide.frame import MAX_SOURCE_PX, Axis, Frame, crop_box, resample, steps, under_kernel, widen
from digipath.slide.pixels import Box, FlatImage, Pixels, ScannerFile, Size, number, one_line
from digipath.slide.tiff import is_cut_off

SAME_MPP = 0.02  # a level this close (relative) to the asked resolution is read without resampling
Block = tuple[np.ndarray, np.ndarray | None]  # RGB pixels, mask of the unreadable ones


@dataclass(frozen=True)
class Overview:
    """A small picture of the whole slide.

    image: (rows, columns, 3) uint8 RGB. failed: (rows, columns) bool, True where the slide could
    not be read, or None. downsample: level-0 pixels per overview pixel. mpp: µm per overview
    pixel, or None where the slide's resolution is unknown.
    """

    image: np.ndarray
    failed: np.ndarray | None
    downsample: float
    mpp: float | None


class Slide:
    """An open slide; made by `open_slide`, a context manager, safe to read from many threads."""

    def __init__(self, path: Path, pixels: Pixels, *, mpp: float | None = None) -> None:
        self._pixels = pixels
        self.path = path
        self.vendor = pixels.vendor
        self.properties = pixels.properties
        self.level_sizes = pixels.level_sizes
        self.level_downsamples = tuple(_downsample(pixels.level_sizes[0], size) for size in pixels.level_sizes)
        self.tile_sizes = pixels.tile_sizes
        self.associated_names = pixels.associated_names
        self.size_l0 = pixels.level_sizes[0]
        self.mpp = pixels.mpp if mpp is None else _checked_mpp(mpp)
        self.mpp_source = "given" if mpp is not None else "slide" if self.mpp is not None else None
        self.objective_power = number(pixels.properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))
        self.bounds_l0 = _bounds_l0(pixels.properties, self.size_l0)

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Slide {self.path.name} {self.size_l0[0]}×{self.size_l0[1]} mpp={self.mpp}>"

    def close(self) -> None:
        """Release the file; a read that is under way in another thread still finishes."""
        self._pixels.close()

    def set_cache(self, capacity_bytes: int) -> None:
        """Bound the cache of decoded tiles (default 64 MB); flat images have none."""
        self._pixels.set_cache(capacity_bytes)

    def require_mpp(self) -> float:
        """µm per level-0 pixel. Raises MissingResolution where neither slide nor caller states it."""
        if self.mpp is None:
            raise MissingResolution(
                "expected a slide that states its resolution, found none; give it with --mpp "
                f"(in Python mpp=, µm per pixel at level 0): {self.path}"
            )
        return self.mpp

    def snap_mpp(self, mpp: float) -> float:
        """The true working resolution for an asked one: a level's own if within 2 %, else `mpp`."""
        return self._frame(mpp).downsample * self.require_mpp()

    def working_size_px(self, mpp: float | None) -> tuple[int, int]:
        """(rows, columns) of the working frame at `mpp` (None: level 0 as it is)."""
        frame = self._frame(mpp)
        return frame.rows, frame.cols

    def tile_px(self, mpp: float | None) -> int | None:
        """Side of the file's square tiles in working pixels where no resampling takes place."""
        frame = self._frame(mpp)
        tile = self.tile_sizes[frame.level]
        if frame.scale != 1 or tile is None or tile[0] != tile[1]:
            return None
        return tile[0]

    def read_block(self, row: int, col: int, rows: int, cols: int, *, mpp: float | None) -> Block:
        """Read a box of the working frame from the best level.

        Resampling is antialiased (triangle kernel, no overshoot) and seamless: blocks equal the
        frame read in one piece to 1 grey level, exactly where nothing is resampled.

        Returns (rows, cols, 3) uint8 RGB and (rows, cols) bool of the pixels that could not be
        read (their value is 0), None where all could.
        Raises BadInput if the box leaves the frame or mpp is not above 0, MissingResolution.
        """
        frame = self._frame(mpp)
        if min(row, col) < 0 or min(rows, cols) < 1 or row + rows > frame.rows or col + cols > frame.cols:
            raise BadInput(
                f"expected a box inside {frame.rows} × {frame.cols} (rows × columns), received row {row}, "
                f"column {col}, {rows} × {cols}: {self.path}"
            )
        return self._read(frame, row, col, rows, cols)

    def overview(self, *, mpp: float = 8.0, longest_px: tuple[int, int] = (1024, 4096)) -> Overview:
        """Picture of the whole slide at about `mpp`, its longer side within `longest_px`.

        Small slides come at level 0 at most. Without a known resolution the longer side is the
        geometric mean of the two bounds. Raises SlideUnreadable if nothing at all can be read.
        """
        _checked_mpp(mpp)
        longest, (low, high) = max(self.size_l0), longest_px
        wanted_px = math.sqrt(low * high) if self.mpp is None else longest * self.mpp / mpp
        frame = self._frame_at(max(1.0, longest / min(max(wanted_px, low), high)))
        image, failed = self._read(frame, 0, 0, frame.rows, frame.cols)
        if failed is not None and failed.all():
            raise SlideUnreadable(
                f"expected a readable slide, but no overview can be made, every region fails to decode; "
                f"copy or export the file again: {self.path}"
            )
        overview_mpp = None if self.mpp is None else self.mpp * frame.downsample
        return Overview(image, failed, frame.downsample, overview_mpp)

    def associated(self, name: str) -> np.ndarray:
        """An associated image ("label", "macro", "thumbnail") as (rows, columns, 3) uint8 RGB.

        Raises BadInput for an unknown name, SlideUnreadable if it cannot be decoded.
        """
        if name not in self.associated_names:
            raise BadInput(
                f"expected one of {list(self.associated_names)} as associated image, received {name!r}: {self.path}"
            )
        return np.array(self._pixels.associated(name))

    def describe(self) -> dict[str, Any]:
        """Everything known about the slide without reading pixels, ready for JSON."""
        levels = [
            {"size": list(size), "downsample": down, "tile": list(tile) if tile else None}
            | {"mpp": None if self.mpp is None else self.mpp * down}
            for size, down, tile in zip(self.level_sizes, self.level_downsamples, self.tile_sizes, strict=True)
        ]
        return {
            "path": str(self.path),
            "vendor": self.vendor,
            "size_l0": list(self.size_l0),
            "mpp": self.mpp,
            "mpp_source": self.mpp_source,
            "objective_power": self.objective_power,
            "bounds_l0": list(self.bounds_l0),
            "levels": levels,
            "associated": list(self.associated_names),
            "properties": dict(self.properties),
        }

    def _frame(self, mpp: float | None) -> Frame:
        return self._frame_at(1.0 if mpp is None else _checked_mpp(mpp) / self.require_mpp())

    def _frame_at(self, downsample: float) -> Frame:
        downs = self.level_downsamples
        nearest = min(range(len(downs)), key=lambda level: abs(downsample / downs[level] - 1))
        if abs(downsample / downs[nearest] - 1) <= SAME_MPP:
            width, height = self.level_sizes[nearest]
            return Frame(nearest, 1.0, height, width, downs[nearest])
        level = max((i for i, down in enumerate(downs) if down <= downsample), default=0)
        if downsample / downs[level] > MAX_SOURCE_PX:
            raise BadInput(
                f"expected a resolution at most {MAX_SOURCE_PX} × coarser than the slide's coarsest level, "
                f"received {downsample / downs[level]:.0f} ×: {self.path}"
            )
        width, height = (max(1, round(side / downsample)) for side in self.size_l0)
        return Frame(level, downsample / downs[level], height, width, downsample)

    def _read(self, frame: Frame, row: int, col: int, rows: int, cols: int) -> Block:
        """Read in parts that bound the memory; they join exactly (see `_resampled`)."""
        side = frame.part_px
        if max(rows, cols) <= side:
            return self._read_at_once(frame, row, col, rows, cols)
        out = np.empty((rows, cols, 3), np.uint8)
        failed = np.zeros((rows, cols), bool)
        for r, height in steps(row, rows, side):
            for c, width in steps(col, cols, side):
                part = np.s_[r - row : r - row + height, c - col : c - col + width]
                out[part], bad = self._read_at_once(frame, r, c, height, width)
                failed[part] = False if bad is None else bad
        return out, failed if failed.any() else None

    def _read_at_once(self, frame: Frame, row: int, col: int, rows: int, cols: int) -> Block:
        if frame.scale == 1:
            image, bad = self._pixels.read(frame.level, (col, row, cols, rows))
            pixels = np.array(image)
        else:
            pixels, bad = self._resampled(frame, row, col, rows, cols)
        if bad is not None:
            pixels[bad] = 0
        return pixels, bad

    def _resampled(self, frame: Frame, row: int, col: int, rows: int, cols: int) -> Block:
        """Resample whole cells of a lattice through the frame's origin, then cut the box out.

        Pillow takes its box in single precision: blocks that began anywhere would differ by up
        to 2 grey levels where they meet. One cell is always computed from the same numbers.
        """
        width, height = self.level_sizes[frame.level]
        top, bottom = widen(row, rows, frame.cell_px, frame.rows)
        left, right = widen(col, cols, frame.cell_px, frame.cols)
        across = Axis(left, right - left, frame.scale, frame.cols, width)
        down = Axis(top, bottom - top, frame.scale, frame.rows, height)
        source, bad = self._pixels.read(
            frame.level, (across.start, down.start, across.end - across.start, down.end - down.start)
        )
        out = np.empty((bottom - top, right - left, 3), np.uint8)
        for r, cell_rows in steps(top, bottom - top, frame.cell_px):
            for c, cell_cols in steps(left, right - left, frame.cell_px):
                cell_across = Axis(c, cell_cols, frame.scale, frame.cols, width)
                cell_down = Axis(r, cell_rows, frame.scale, frame.rows, height)
                cell = source.crop(crop_box(cell_across, cell_down, across.start, down.start))
                out[r - top : r - top + cell_rows, c - left : c - left + cell_cols] = resample(
                    cell, cell_across, cell_down
                )
        cut = np.s_[row - top : row - top + rows, col - left : col - left + cols]
        failed = None if bad is None else under_kernel(bad, across, down)[cut]
        return np.ascontiguousarray(out[cut]), failed if failed is not None and failed.any() else None


def open_slide(path: str | Path, *, mpp: float | None = None) -> Slide:
    """Open any file OpenSlide reads, or a JPEG, PNG or flat TIFF.

    A DICOM series is given as any one of its files. `mpp` (µm per level-0 pixel) overrides what
    the slide states; tags that state a printing resolution (72 dpi and the like) are not believed.

    Raises SlideNotFound, SlideUnreadable (no slide, broken, more than 1 gigapixel in a flat
    image), BadInput (mpp not above 0).
    """
    path = Path(path)
    mpp = None if mpp is None else _checked_mpp(mpp)
    try:
        _check_file(path)
    except SlideUnreadable:  # an OSError too
        raise
    except PermissionError as error:
        raise SlideUnreadable(f"expected a slide file that may be read, {error.strerror}: {path}") from error
    except OSError as error:
        raise SlideNotFound(f"expected a slide file, {error.strerror}: {path}") from error
    try:
        pixels: Pixels = ScannerFile(path)
    except openslide.OpenSlideUnsupportedFormatError:
        pixels = FlatImage(path)
    except openslide.OpenSlideError as error:
        raise SlideUnreadable(
            f"expected a whole slide, its file cannot be opened ({one_line(error)}); copy or export it again: {path}"
        ) from error
    return Slide(path, pixels, mpp=mpp)


def _check_file(path: Path) -> None:
    """Refuse what is no whole file before any reader sees it."""
    path.stat()
    if path.is_dir():
        raise SlideUnreadable(f"expected a slide file, received a folder; name one file in it: {path}")
    if path.stat().st_size == 0:
        raise SlideUnreadable(f"expected a slide file, received an empty one; copy it again: {path}")
    if path.suffix.lower() != ".ndpi" and is_cut_off(path):
        raise SlideUnreadable(f"expected a whole slide, this file is cut off at its end; copy it again: {path}")


def _checked_mpp(mpp: float) -> float:
    if not (math.isfinite(mpp) and mpp > 0):
        raise BadInput(f"expected mpp above 0 (µm per pixel), received {mpp}; give the slide's true resolution")
    return float(mpp)


def _downsample(size_l0: Size, size: Size) -> float:
    """Level-0 pixels per pixel of a level of this size, the same along both axes.

    Levels are made by whole factors, and what is left of the last column and row is cut off or
    filled up: a whole number that gives the level's size to one pixel is its factor. Else it is
    the ratio of the longer sides, on which that pixel weighs least. (OpenSlide's own takes the mean
    of both ratios: 3 pixels off at the right edge of a level of a 4095 × 301 slide.)
    """
    ratio = max(size_l0) / max(size)
    whole = max(1, round(ratio))
    fits = all(abs(side_l0 / whole - side) < 1 for side_l0, side in zip(size_l0, size, strict=True))
    return float(whole) if fits else ratio


def _bounds_l0(properties: dict[str, str], size_l0: Size) -> Box:
    names = ("X", "Y", "WIDTH", "HEIGHT")
    values = [number(properties.get(getattr(openslide, f"PROPERTY_NAME_BOUNDS_{name}"))) for name in names]
    if any(value is None for value in values):
        return 0, 0, *size_l0
    x, y, width, height = (int(value) for value in values if value is not None)
    return x, y, width, height
