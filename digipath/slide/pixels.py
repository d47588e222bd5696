"""Back ends of `slide.py`: how pixels come out of scanner files (OpenSlide) and flat images (Pillow).

OpenSlide latches an error for the rest of a handle's life, so a failed read is tried once more on
a fresh handle; if it fails again the box is read tile by tile along the file's own tiles, on a
handle of its own, so that exactly the pixels of the unreadable tiles are marked. Where a file
states no tile size, a lattice of 256 pixels takes its place.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import openslide
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from digipath.errors import BadInput, SlideUnreadable

PRINTING_MPP = (0.02, 40.0)  # outside it a TIFF/JPEG/PNG tag is a printing size, not a microscope's
MAX_FLAT_PIXELS = 10**9
UNKNOWN_TILE_PX = 256  # lattice on which errors are isolated where a file states no tile size
TILE_CACHE_BYTES = 64 * 2**20

Box = tuple[int, int, int, int]  # x, y, width, height in pixels of one level
Size = tuple[int, int]  # width, height


class Pixels(Protocol):
    """What a back end offers. `read` returns RGB and a bool mask (h, w) of unreadable pixels."""

    vendor: str
    properties: dict[str, str]
    level_sizes: tuple[Size, ...]
    tile_sizes: tuple[Size | None, ...]
    mpp: float | None
    associated_names: tuple[str, ...]

    def read(self, level: int, box: Box) -> tuple[Image.Image, np.ndarray | None]: ...

    def associated(self, name: str) -> Image.Image: ...

    def set_cache(self, capacity_bytes: int) -> None: ...

    def close(self) -> None: ...


class ScannerFile:
    """Everything OpenSlide opens."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cache = openslide.OpenSlideCache(TILE_CACHE_BYTES)
        self._swap = threading.Lock()  # guards the exchange of a failed handle
        self._probing = threading.Lock()  # one thread at a time isolates unreadable tiles
        self._handle: openslide.OpenSlide | None = self._open()
        self._probe: openslide.OpenSlide | None = None
        self._unreadable: set[tuple[int, int, int]] = set()  # level, tile column, tile row
        self._describe(self._handle)

    def _describe(self, handle: openslide.OpenSlide) -> None:
        self.properties = dict(handle.properties)
        self.vendor = self.properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        self.level_sizes = handle.level_dimensions
        self._downsamples = handle.level_downsamples  # OpenSlide's own, to tell it places; true ones: slide.py
        self.tile_sizes = tuple(_tile_size(self.properties, level) for level in range(handle.level_count))
        self.associated_names = tuple(sorted(handle.associated_images))
        self.mpp = _mean_mpp(self.properties)
        if self.vendor == "generic-tiff":
            self.mpp = _unless_printing(self.mpp)
        colour = self.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
        self._background = tuple(bytes.fromhex(colour))

    def _open(self) -> openslide.OpenSlide:
        handle = openslide.OpenSlide(self._path)
        handle.set_cache(self._cache)
        return handle

    def set_cache(self, capacity_bytes: int) -> None:
        self._cache = openslide.OpenSlideCache(capacity_bytes)
        with self._swap:
            self._handle = self._open()

    def close(self) -> None:
        # Only references are dropped: a thread inside read_region keeps its handle alive.
        self._handle = self._probe = None

    def read(self, level: int, box: Box) -> tuple[Image.Image, np.ndarray | None]:
        if self._downsamples[level].is_integer():
            return self._read_box(level, box)
        # OpenSlide takes level-0 integers; at such a level a read begins between two pixels and
        # is interpolated. On a fixed lattice every caller sees the same pixels.
        tile_w, tile_h = self._tile(level)
        step = (tile_w * max(1, 256 // tile_w), tile_h * max(1, 256 // tile_h))
        return self._assemble(box, ((cell, self._read_box(level, cell)) for cell in self._cells(level, box, step)))

    def _read_box(self, level: int, box: Box) -> tuple[Image.Image, np.ndarray | None]:
        if not self._known_unreadable(level, box):
            for _ in range(2):
                handle = self._alive()
                try:
                    return self._region(handle, level, box), None
                except openslide.OpenSlideError:
                    self._replace(handle)
        return self._read_tilewise(level, box)

    def _read_tilewise(self, level: int, box: Box) -> tuple[Image.Image, np.ndarray | None]:
        whole = not self._downsamples[level].is_integer()
        parts = []
        for cell in self._cells(level, box, self._tile(level)):
            cell = cell if whole else _intersection(cell, box)
            image = self._probe_tile(level, cell)
            parts.append((cell, (image, None if image else np.ones((cell[3], cell[2]), bool))))
        return self._assemble(box, iter(parts))

    def _probe_tile(self, level: int, box: Box) -> Image.Image | None:
        """Read one tile on a handle of its own, so that an error is this tile's and no other's."""
        tile_w, tile_h = self._tile(level)
        key = (level, box[0] // tile_w, box[1] // tile_h)
        with self._probing:
            for _ in range(0 if key in self._unreadable else 2):
                try:
                    self._probe = self._probe or self._open()
                    return self._region(self._probe, level, box)
                except openslide.OpenSlideError:
                    self._probe = None
            self._unreadable.add(key)
        return None

    def _region(self, handle: openslide.OpenSlide, level: int, box: Box) -> Image.Image:
        down = self._downsamples[level]
        x_l0, y_l0 = round(box[0] * down), round(box[1] * down)
        return _over(handle.read_region((x_l0, y_l0), level, box[2:]), self._background)

    def _replace(self, failed: openslide.OpenSlide) -> None:
        with self._swap:
            if self._handle is failed:
                try:
                    self._handle = self._open()
                except openslide.OpenSlideError:
                    return  # the file itself is gone: the failed handle goes on refusing

    def _alive(self) -> openslide.OpenSlide:
        handle = self._handle
        if handle is None:
            raise ValueError(f"expected an open slide, this one was closed: {self._path}")
        return handle

    def _tile(self, level: int) -> Size:
        return self.tile_sizes[level] or (UNKNOWN_TILE_PX, UNKNOWN_TILE_PX)

    def _known_unreadable(self, level: int, box: Box) -> bool:
        if not self._unreadable:
            return False
        tile_w, tile_h = self._tile(level)
        cells = self._cells(level, box, (tile_w, tile_h))
        return any((level, x // tile_w, y // tile_h) in self._unreadable for x, y, _, _ in cells)

    def _cells(self, level: int, box: Box, step: Size) -> Iterator[Box]:
        """Cells of a lattice through the level's origin that meet `box`, cut at the level's edge."""
        width, height = self.level_sizes[level]
        x, y, w, h = box
        for top in range(y - y % step[1], y + h, step[1]):
            for left in range(x - x % step[0], x + w, step[0]):
                yield left, top, min(step[0], width - left), min(step[1], height - top)

    @staticmethod
    def _assemble(
        box: Box, parts: Iterator[tuple[Box, tuple[Image.Image | None, np.ndarray | None]]]
    ) -> tuple[Image.Image, np.ndarray | None]:
        x, y, w, h = box
        image = Image.new("RGB", (w, h))
        failed = np.zeros((h, w), bool)
        for cell, (part, bad) in parts:
            if part is not None:
                image.paste(part, (cell[0] - x, cell[1] - y))
            if bad is not None:
                left, top, width, height = _intersection(cell, box)
                inner = bad[top - cell[1] :, left - cell[0] :][:height, :width]
                failed[top - y : top - y + height, left - x : left - x + width] = inner
        return image, failed if failed.any() else None

    def associated(self, name: str) -> Image.Image:
        # A handle of its own: a broken label must not latch the one that reads the slide.
        try:
            return _over(self._open().associated_images[name].convert("RGBA"), self._background)
        except openslide.OpenSlideError as error:
            raise SlideUnreadable(f"the associated image {name!r} cannot be decoded ({error}): {self._path}") from error


class FlatImage:
    """A JPEG, PNG or flat TIFF, decoded once and whole."""

    def __init__(self, path: Path) -> None:
        image = _identify(path)
        width, height = image.size
        if width * height > MAX_FLAT_PIXELS:
            image.close()
            raise SlideUnreadable(
                f"expected a flat image of at most {MAX_FLAT_PIXELS:.0e} pixels, received {width} × {height}; "
                f"make a tiled pyramid of it with `digipath convert`: {path}"
            )
        self.vendor = f"flat-{(image.format or 'image').lower()}"
        self.properties: dict[str, str] = {}
        self.level_sizes: tuple[Size, ...] = ((width, height),)
        self.tile_sizes: tuple[Size | None, ...] = (None,)
        self.associated_names: tuple[str, ...] = ()
        dpi = [float(value) for value in image.info.get("dpi", ())]
        self.mpp = _unless_printing(25400 * 2 / sum(dpi)) if len(dpi) == 2 and min(dpi) > 0 else None
        self._image: Image.Image | None = _decode(image, path)
        self._path = path

    def read(self, level: int, box: Box) -> tuple[Image.Image, None]:
        if self._image is None:
            raise ValueError(f"expected an open slide, this one was closed: {self._path}")
        x, y, w, h = box
        return self._image.crop((x, y, x + w, y + h)), None

    def associated(self, name: str) -> Image.Image:
        raise BadInput(f"a flat image has no associated image {name!r}: {self._path}")

    def set_cache(self, capacity_bytes: int) -> None:
        """Nothing to bound: the image is in memory."""

    def close(self) -> None:
        self._image = None


def _identify(path: Path) -> Image.Image:
    # The plug-ins themselves instead of Image.open: its bomb check is a global setting with a
    # warning, while this module has its own limit, and other formats are not to be tried.
    for plugin in (JpegImageFile, PngImageFile, TiffImageFile):
        try:
            with warnings.catch_warnings():  # about damaged metadata; what matters is raised
                warnings.simplefilter("ignore", UserWarning)
                return plugin(path)
        except (SyntaxError, EOFError):
            continue
        except OSError as error:
            raise SlideUnreadable(f"expected a slide, the file cannot be read ({one_line(error)}): {path}") from error
    raise SlideUnreadable(
        f"expected a slide (SVS, NDPI, MRXS, SCN, BIF, VMS, tiled TIFF, DICOM) or a JPEG, PNG or TIFF image, "
        f"received a file that is none of these or is damaged: {path}"
    )


def _decode(image: Image.Image, path: Path) -> Image.Image:
    try:
        image.load()
        if image.mode.startswith("I;16"):
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        if image.mode in ("I", "F"):
            raise SlideUnreadable(f"expected 8 or 16 bits per channel, received mode {image.mode}: {path}")
        if image.has_transparency_data:
            return _over(image.convert("RGBA"), (255, 255, 255))
        return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, SlideUnreadable):
            raise
        raise SlideUnreadable(
            f"expected a whole image, its pixels cannot be decoded ({one_line(error)}); copy it again: {path}"
        ) from error
    finally:
        image.close()


def _over(rgba: Image.Image, background: tuple[int, ...]) -> Image.Image:
    """RGBA over a colour: where the scanner saw nothing the slide's background shows."""
    if rgba.getchannel("A").getextrema()[0] == 255:
        return rgba.convert("RGB")
    flat = Image.new("RGB", rgba.size, background)
    flat.paste(rgba, mask=rgba.getchannel("A"))
    return flat


def _intersection(a: Box, b: Box) -> Box:
    left, top = max(a[0], b[0]), max(a[1], b[1])
    return left, top, min(a[0] + a[2], b[0] + b[2]) - left, min(a[1] + a[3], b[1] + b[3]) - top


def _mean_mpp(properties: dict[str, str]) -> float | None:
    x = number(properties.get(openslide.PROPERTY_NAME_MPP_X))
    y = number(properties.get(openslide.PROPERTY_NAME_MPP_Y))
    return (x + y) / 2 if x and y else None


def _unless_printing(mpp: float | None) -> float | None:
    return mpp if mpp is not None and PRINTING_MPP[0] <= mpp <= PRINTING_MPP[1] else None


def _tile_size(properties: dict[str, str], level: int) -> Size | None:
    width = number(properties.get(f"openslide.level[{level}].tile-width"))
    height = number(properties.get(f"openslide.level[{level}].tile-height"))
    return (int(width), int(height)) if width and height else None


def number(text: str | None) -> float | None:
    """A positive-or-zero finite number out of a property, None for anything else."""
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
