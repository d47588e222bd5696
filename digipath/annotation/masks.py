"""Read mask images (PNG, JPEG, TIFF, tiled pyramids too) in windows of any working frame.

PNG, JPEG: decoded once and whole. TIFF: only the tiles or strips under a window are decoded. A pixel takes
the mask pixel under its centre, counted from the frame's origin, and so a window holds exactly the pixels
that it has in the whole frame. Coarser levels of a pyramid are not looked at: programs make them by leaving
out pixels or by averaging, which loses small lesions or spreads them.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from digipath.errors import BadAnnotation

JPEG_THRESHOLD = 127  # a JPEG's zeros are not exact
JPEG_IN_TIFF = {6, 7, 34892, 33007}  # compression tags
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_DECODED_PX = 10**9  # at once: a flat image, or a tile or strip of a TIFF
CACHE_PX = 2**23  # decoded pixels that are kept
BAND_ROWS = 1024
SMALL_TILE_BYTES = 2**16  # an empty tile compresses to less

Index = NDArray[np.int64]
Block = tuple[int, int, NDArray[np.bool_]]  # first row, first column, pixels


def read_mask(
    path: str | Path, size_l0: tuple[int, int], shape: tuple[int, int], downsample: float
) -> NDArray[np.bool_]:
    """A mask image laid over a slide, read in the frame with `downsample` level-0 pixels per pixel.

    size_l0: (width, height) of the slide; shape: (rows, columns) of what is returned, bool. True where
    the value is not 0, of whichever colour channel; in a JPEG, whose zeros are not exact, above 127. A
    palette counts by its numbers. Transparency is ignored.

    Raises BadAnnotation: not an image, not the slide's size (see `MaskImage`), or values besides 0 that
    differ.
    """
    mask = MaskImage(Path(path), size_l0)
    try:
        return mask.window((0, 0, *shape), downsample)
    finally:
        mask.close()


class MaskImage:
    """An open mask laid over a slide of `size_l0` (width, height); safe from many threads.

    It has the slide's size, or that size times one factor in both directions, to one of the mask's
    pixels: an image that was padded or cut would lie beside the lesions.
    Raises BadAnnotation: not an image, or of another size. Reading raises it for values that differ.
    """

    def __init__(self, path: Path, size_l0: tuple[int, int]) -> None:
        self._file, self._pixels = _open(path)
        self._size_l0 = size_l0
        width, height = self._pixels.size
        if not _is_reduced((width, height), size_l0):
            self.close()
            raise BadAnnotation(
                f"expected a mask of the slide's size ({size_l0[0]} × {size_l0[1]}), or of that times one factor, "
                f"received {width} × {height}; export it again for the whole slide: {path}"
            )

    def window(self, box: tuple[int, int, int, int], downsample: float) -> NDArray[np.bool_]:
        """(rows, columns) bool of a box (row, column, rows, columns) of the frame with `downsample`.

        Outside the slide all is False.
        """
        out = np.zeros(box[2:], bool)
        (rows, mask_rows), (cols, mask_cols) = (
            _nearest(first, count, downsample, size_l0, size)
            for first, count, size_l0, size in zip(
                box[:2], box[2:], self._size_l0[::-1], self._pixels.size[::-1], strict=True
            )
        )
        if len(mask_rows) and len(mask_cols):
            out[rows, cols] = self._pixels.at(mask_rows, mask_cols)
        return out

    def cells(self, cell: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """`shape` bool: the cells of `cell` level-0 pixels with a positive pixel; all is read, block by block."""
        out = np.zeros(shape, bool)
        cell_px = [cell * size / size_l0 for size, size_l0 in zip(self._pixels.size, self._size_l0, strict=True)]
        for top, left, block in self._pixels.blocks():
            if block.any():
                first_row, by_rows = _reduced(block, top, cell_px[1], shape[0])
                first_col, found = _reduced(by_rows.T, left, cell_px[0], shape[1])
                out[first_row:, first_col:][: found.shape[1], : found.shape[0]] |= found.T
        return out

    def any(self) -> bool:
        """Whether any pixel is positive."""
        return any(bool(block.any()) for _, _, block in self._pixels.blocks())

    @property
    def held_bytes(self) -> int:
        """Decoded pixels that are kept: all of a PNG or JPEG, the last read of a TIFF."""
        width, height = self._pixels.size
        return width * height if self._file is None else min(width * height, CACHE_PX)

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            self._file.close()


class _Pixels(Protocol):
    """A mask's pixels: `size` (width, height); those at rows × columns; all of them in blocks.

    `blocks` may leave out blocks without a positive pixel.
    """

    size: tuple[int, int]

    def at(self, rows: Index, cols: Index) -> NDArray[np.bool_]: ...

    def blocks(self) -> Iterator[Block]: ...


class _Decoded:
    """Pixels that lie in memory."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self._mask = mask
        self.size = mask.shape[1], mask.shape[0]

    def at(self, rows: Index, cols: Index) -> NDArray[np.bool_]:
        return self._mask[np.ix_(rows, cols)]

    def blocks(self) -> Iterator[Block]:
        for top in range(0, len(self._mask), BAND_ROWS):
            yield top, 0, self._mask[top : top + BAND_ROWS]


class _OneValue:
    """Tells lesion from background, and refuses a mask in which several values might be lesion."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._value: NDArray[Any] | None = None  # the first met

    def positive(self, colours: NDArray[Any]) -> NDArray[np.bool_]:
        """(rows, columns) bool of (rows, columns, channels): not 0. Raises BadAnnotation."""
        found = _in_any_channel(colours != 0)
        values = colours[found]  # (n, channels)
        if not len(values):
            return found
        if self._value is None:
            self._value = values[0]
        if (other := (values != self._value).any(axis=1)).any():
            both = (self._value, values[other.argmax()])
            named = " and ".join(str(value.tolist() if len(value) > 1 else value.item()) for value in both)
            raise BadAnnotation(
                f"expected a mask of one value besides 0, received {named}; which of them is lesion is not guessed: "
                f"write lesion as 255 and all else as 0: {self._path}"
            )
        return found


class _TiffPage:
    """The first page of a TIFF, decoded tile by tile (or strip by strip)."""

    def __init__(self, page: tifffile.TiffPage, path: Path) -> None:
        self.size = page.imagewidth, page.imagelength
        self._page, self._path, self._lock = page, path, threading.Lock()
        self._values = _OneValue(path)
        if page.is_tiled:
            self._tile = (page.tilelength, page.tilewidth)
        else:
            self._tile = (min(page.rowsperstrip, page.imagelength), page.imagewidth)
        pixels = self._tile[0] * self._tile[1]
        if pixels > MAX_DECODED_PX or page.imagedepth > 1 or (page.planarconfig == 2 and page.samplesperpixel > 1):
            raise BadAnnotation(
                f"expected a mask of one plane in tiles, received {'tiles' if page.is_tiled else 'strips'} of "
                f"{self._tile[1]} × {self._tile[0]} pixels with {page.samplesperpixel} planes; make a tiled "
                f"pyramid of it with `digipath convert`: {path}"
            )
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and page.bitspersample == 1:
            raise BadAnnotation(
                "expected a mask in which 0 is background, received one of a bit per pixel in which 0 is white; "
                f"whether black or white is lesion is not guessed: write lesion as 255 and all else as 0: {path}"
            )
        self._across = -(-page.imagewidth // self._tile[1])
        self._tile_at = lru_cache(maxsize=max(1, CACHE_PX // pixels))(self._read_and_decode)

    def at(self, rows: Index, cols: Index) -> NDArray[np.bool_]:
        out = np.empty((len(rows), len(cols)), bool)
        for tile_row, i in _runs(rows // self._tile[0]):
            for tile_col, j in _runs(cols // self._tile[1]):
                tile = self._tile_at(tile_row * self._across + tile_col)
                inside = np.ix_(rows[i] - tile_row * self._tile[0], cols[j] - tile_col * self._tile[1])
                out[i, j] = tile[inside]
        return out

    def blocks(self) -> Iterator[Block]:
        height, width = self._tile
        empty: set[bytes] = set()  # the tiles without lesion are mostly the same few bytes
        for index in range(self._across * -(-self.size[1] // height)):
            data = self._read(index)
            if not data or data in empty:
                continue
            top, left = index // self._across * height, index % self._across * width
            block = self._decode(data, index)[: self.size[1] - top, : self.size[0] - left]
            if block.any():
                yield top, left, block
            elif len(data) <= SMALL_TILE_BYTES and len(empty) < 64:
                empty.add(data)

    def _read(self, index: int) -> bytes:
        """The bytes of a tile, none if the file leaves it out."""
        offset, count = self._page.dataoffsets[index], self._page.databytecounts[index]
        if not count:
            return b""
        with self._lock, _readable(self._path):
            file = self._page.parent.filehandle
            file.seek(offset)
            return file.read(count)

    def _read_and_decode(self, index: int) -> NDArray[np.bool_]:
        return self._decode(self._read(index), index)

    def _decode(self, data: bytes, index: int) -> NDArray[np.bool_]:
        if not data:
            return np.zeros(self._tile, bool)
        with _readable(self._path):
            tables = {"jpegtables": self._page.jpegtables} if self._page.compression in JPEG_IN_TIFF else {}
            decoded = self._page.decode(data, index, **tables)[0]
            return self._positive(np.asarray(decoded)[0])

    def _positive(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """(rows, columns) bool of (rows, columns, channels) as they are stored."""
        page = self._page
        colours = values[..., : max(1, page.samplesperpixel - len(page.extrasamples))]
        if page.compression in JPEG_IN_TIFF:
            return _in_any_channel(colours > JPEG_THRESHOLD)
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            colours = 2**page.bitspersample - 1 - colours
        return self._values.positive(colours)


def _in_any_channel(positive: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # many times faster than `any` over the last axis
    return reduce(np.logical_or, np.moveaxis(positive, 2, 0))


def _open(path: Path) -> tuple[tifffile.TiffFile | None, _Pixels]:
    """The open file, if it stays open, and its pixels."""
    with _readable(path):
        with path.open("rb") as stream:
            magic = stream.read(4)
        if magic not in TIFF_MAGIC:
            return None, _Decoded(_decoded(path))
        file = tifffile.TiffFile(path)
    try:
        with _readable(path):
            return file, _TiffPage(file.pages.first.aspage(), path)
    except BadAnnotation:
        file.close()
        raise


def _is_reduced(size: tuple[int, int], size_l0: tuple[int, int]) -> bool:
    """Whether one factor takes the slide's width and height to the mask's ± 1 px.

    A mask that is a little larger than the slide was padded; one that is finer is so by 2 or more.
    """
    least = max(whole / (part + 1) for whole, part in zip(size_l0, size, strict=True))
    most = min(whole / (part - 1) if part > 1 else np.inf for whole, part in zip(size_l0, size, strict=True))
    return least <= most and (most >= 1 or least <= 0.5)


def _decoded(path: Path) -> NDArray[np.bool_]:
    # The plug-ins themselves: Image.open warns about large images and tries every format.
    for plugin in (PngImageFile, JpegImageFile):
        try:
            image = plugin(path)
        except (SyntaxError, EOFError):
            continue
        with image:
            if image.width * image.height > MAX_DECODED_PX:
                raise BadAnnotation(
                    f"expected a mask of at most {MAX_DECODED_PX:.0e} pixels, received {image.width} × {image.height}; "
                    f"make a tiled pyramid of it with `digipath convert`: {path}"
                )
            # Pillow's bits are bytes of any value
            values = np.atleast_3d(np.asarray(image.convert("L") if image.mode == "1" else image))
            colours = values[..., : 3 if image.mode.startswith(("RGB", "YCbCr", "CMYK")) else 1]
            if plugin is JpegImageFile:
                return _in_any_channel(colours > JPEG_THRESHOLD)
            found = _OneValue(path)
            bands = range(0, image.height, BAND_ROWS)
            return np.concatenate([found.positive(colours[top : top + BAND_ROWS]) for top in bands])
    raise BadAnnotation(
        f"expected outlines (.geojson, .json, .xml) or a mask (PNG, TIFF, JPEG), received a file that is none: {path}"
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What libraries raise about a damaged or foreign file, as BadAnnotation."""
    try:
        yield
    except BadAnnotation:
        raise
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, RuntimeError, struct.error) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise BadAnnotation(f"expected a mask image, it cannot be read ({said}): {path}") from error


def _nearest(first: int, count: int, downsample: float, size_l0: int, size: int) -> tuple[slice, Index]:
    """Which pixels of a window's axis lie on the slide, and the mask's pixels under their centres."""
    centre_l0 = (first + np.arange(count) + 0.5) * downsample
    begin, end = np.searchsorted(centre_l0, [0, size_l0])
    mask = np.floor(centre_l0[begin:end] * size / size_l0).astype(np.int64)
    return slice(int(begin), int(end)), np.minimum(mask, size - 1)


def _reduced(block: NDArray[np.bool_], start: int, cell_px: float, cells: int) -> tuple[int, NDArray[np.bool_]]:
    """The first cell that a block's rows reach, and for each cell whether any of its rows is True.

    A row that straddles two cells, or spans many, counts in each.
    """
    first = int(start / cell_px)
    last = max(first + 1, min(cells, -int(-(start + len(block)) // cell_px)))
    edges = np.arange(first, last + 1) * cell_px - start
    begin = np.clip(np.floor(edges[:-1]).astype(np.int64), 0, len(block) - 1)
    end = np.maximum(np.clip(np.ceil(edges[1:]).astype(np.int64), 1, len(block)), begin + 1)
    padded = np.concatenate([block, np.zeros((1, block.shape[1]), bool)])
    return first, np.logical_or.reduceat(padded, np.stack([begin, end], axis=1).ravel())[::2]


def _runs(values: Index) -> Iterator[tuple[int, slice]]:
    """(value, where) of each run of equal values in an ascending array."""
    begins = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1, [len(values)]])
    for begin, end in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
        yield int(values[begin]), slice(begin, end)
