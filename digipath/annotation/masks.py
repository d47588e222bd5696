"""Read mask images (PNG, JPEG, TIFF, tiled pyramids too) in windows of any working frame.

PNG, JPEG: decoded once and whole. TIFF: only the tiles or strips under a window are decoded, from
the coarsest level that is fine enough. A pixel takes the mask pixel under its centre, counted from
the frame's origin, and so a window holds exactly the pixels that it has in the whole frame.
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

ASPECT_TOLERANCE = 0.02
LEVEL_TOLERANCE = 0.02  # a level this much coarser than asked is still fine enough
JPEG_THRESHOLD = 127  # a JPEG's zeros are not exact
JPEG_IN_TIFF = {6, 7, 34892, 33007}  # compression tags
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_DECODED_PX = 10**9  # at once: a flat image, or a tile or strip of a TIFF
CACHE_PX = 2**23  # decoded pixels kept of each level
BAND_ROWS = 1024
SMALL_TILE_BYTES = 2**16  # an empty tile compresses to less

Index = NDArray[np.int64]
Block = tuple[int, int, NDArray[np.bool_]]  # first row, first column, pixels


def read_mask(path: str | Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask image (PNG, TIFF, JPEG) brought to `shape` (rows, columns) by nearest pixels; bool.

    True where the value (of any colour channel) is above 0; in a JPEG, whose zeros are not exact,
    above 127. Transparency is ignored.
    Raises BadAnnotation: not an image, or its aspect ratio is more than 2 % off that of `shape`.
    """
    rows, cols = shape
    mask = MaskImage(Path(path), (cols, rows))
    try:
        return mask.window((0, 0, rows, cols), 1.0)
    finally:
        mask.close()


class MaskImage:
    """An open mask laid over a slide of `size_l0` (width, height); safe from many threads.

    It may be smaller or larger than the slide. Raises BadAnnotation: not an image, or its
    proportions are not the slide's (± 2 %).
    """

    def __init__(self, path: Path, size_l0: tuple[int, int]) -> None:
        self._file, self._levels = _open(path)
        self._size_l0 = size_l0
        width, height = self._levels[0].size
        if abs((width / height) / (size_l0[0] / size_l0[1]) - 1) > ASPECT_TOLERANCE:
            self.close()
            raise BadAnnotation(
                f"expected a mask with the slide's proportions ({size_l0[0]} × {size_l0[1]}, ± 2 %), "
                f"received {width} × {height}: {path}"
            )

    def window(self, box: tuple[int, int, int, int], downsample: float) -> NDArray[np.bool_]:
        """(rows, columns) bool of a box (row, column, rows, columns) of the frame with `downsample`.

        Outside the slide all is False.
        """
        fine = self._size_l0[0] / downsample / (1 + LEVEL_TOLERANCE)
        level = min((x for x in self._levels if x.size[0] >= fine), key=lambda x: x.size[0], default=self._levels[0])
        out = np.zeros(box[2:], bool)
        (rows, level_rows), (cols, level_cols) = (
            _nearest(first, count, downsample, size_l0, size)
            for first, count, size_l0, size in zip(box[:2], box[2:], self._size_l0[::-1], level.size[::-1], strict=True)
        )
        if len(level_rows) and len(level_cols):
            out[rows, cols] = level.at(level_rows, level_cols)
        return out

    def cells(self, cell: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """`shape` bool: the cells of `cell` level-0 pixels with a positive pixel of the finest level.

        Coarser levels are made by leaving out pixels and lose small lesions, so all of the finest
        is read, block by block.
        """
        out = np.zeros(shape, bool)
        finest = self._levels[0]
        cell_px = [cell * size / size_l0 for size, size_l0 in zip(finest.size, self._size_l0, strict=True)]
        for top, left, block in finest.blocks():
            if block.any():
                first_row, by_rows = _reduced(block, top, cell_px[1], shape[0])
                first_col, found = _reduced(by_rows.T, left, cell_px[0], shape[1])
                out[first_row:, first_col:][: found.shape[1], : found.shape[0]] |= found.T
        return out

    def any(self) -> bool:
        """Whether any pixel is positive."""
        return any(bool(block.any()) for _, _, block in self._levels[0].blocks())

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            self._file.close()


class _Level(Protocol):
    """One resolution of a mask: `size` (width, height); pixels at rows × columns; all of it in blocks.

    `blocks` may leave out blocks without a positive pixel.
    """

    size: tuple[int, int]

    def at(self, rows: Index, cols: Index) -> NDArray[np.bool_]: ...

    def blocks(self) -> Iterator[Block]: ...


class _Decoded:
    """A level that lies in memory."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self._mask = mask
        self.size = mask.shape[1], mask.shape[0]

    def at(self, rows: Index, cols: Index) -> NDArray[np.bool_]:
        return self._mask[np.ix_(rows, cols)]

    def blocks(self) -> Iterator[Block]:
        for top in range(0, len(self._mask), BAND_ROWS):
            yield top, 0, self._mask[top : top + BAND_ROWS]


class _TiffLevel:
    """A page of a TIFF, decoded tile by tile (or strip by strip)."""

    def __init__(self, page: tifffile.TiffPage, path: Path, lock: threading.Lock) -> None:
        self.size = page.imagewidth, page.imagelength
        self._page, self._path, self._lock = page, path, lock
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
            return _positive(np.asarray(decoded)[0], self._page)


def _positive(values: NDArray[Any], page: tifffile.TiffPage) -> NDArray[np.bool_]:
    """(rows, columns) bool of (rows, columns, channels) as they are stored."""
    colours = values[..., : max(1, page.samplesperpixel - len(page.extrasamples))]
    if page.compression in JPEG_IN_TIFF:
        positive = colours > JPEG_THRESHOLD
    elif page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
        positive = np.any(page.colormap > 0, axis=0)[colours]
    elif page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        positive = colours < 2**page.bitspersample - 1
    else:
        positive = colours > 0
    return _in_any_channel(positive)


def _in_any_channel(positive: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return reduce(np.logical_or, np.moveaxis(positive, 2, 0))


def _open(path: Path) -> tuple[tifffile.TiffFile | None, tuple[_Level, ...]]:
    """The open file, if it stays open, and its levels, finest first."""
    with _readable(path):
        with path.open("rb") as stream:
            magic = stream.read(4)
        if magic not in TIFF_MAGIC:
            return None, (_Decoded(_decoded(path)),)
        file = tifffile.TiffFile(path)
    try:
        with _readable(path):
            lock = threading.Lock()
            return file, tuple(_TiffLevel(page, path, lock) for page in _level_pages(file))
    except BadAnnotation:
        file.close()
        raise


def _level_pages(file: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """The first page and all that are a reduced copy of it, finest first."""
    first, *others = [page.aspage() for page in file.pages]
    width, height = first.imagewidth, first.imagelength
    levels = [first]
    for page in (*others, *(first.pages or ())):
        page = page.aspage()
        like = (page.is_tiled, page.dtype, page.samplesperpixel) == (first.is_tiled, first.dtype, first.samplesperpixel)
        aspect = page.imagewidth * height / (page.imagelength * width)
        if like and page.imagewidth < width and abs(aspect - 1) <= ASPECT_TOLERANCE:
            levels.append(page)
    return sorted(levels, key=lambda page: -page.imagewidth)


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
            threshold = JPEG_THRESHOLD if plugin is JpegImageFile else 0
            grey = image.mode in ("1", "L", "LA", "F", "I") or image.mode.startswith("I;16")
            values = np.atleast_3d(np.asarray(image if grey else image.convert("RGB")))
            return _in_any_channel(values[..., : 1 if grey else 3] > threshold)
    raise BadAnnotation(f"expected a mask as PNG, TIFF or JPEG, received a file that is none of these: {path}")


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
    """Which pixels of a window's axis lie on the slide, and the level's pixels under their centres."""
    centre_l0 = (first + np.arange(count) + 0.5) * downsample
    begin, end = np.searchsorted(centre_l0, [0, size_l0])
    level = np.floor(centre_l0[begin:end] * size / size_l0).astype(np.int64)
    return slice(int(begin), int(end)), np.minimum(level, size - 1)


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
