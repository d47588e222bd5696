"""BigTIFF pages whose equal tiles share their bytes, and tiles made unreadable on purpose."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import tifffile

from digipath.errors import BadInput

Grid = tuple[int, int]  # tile column, tile row
EncodedTile = tuple[object, Callable[[], bytes]]  # key, maker of the bytes
Tag = tuple[int, str, list[int]]  # tag, struct code, values
JPEG, DEFLATE = 7, 8  # TIFF's numbers of the compressions


class BigTiff:
    """A BigTIFF of tiled RGB pages in which equal tiles share their bytes.

    Own code because no TIFF library writes shared tiles; without them 60,000² needs over a gigabyte.
    """

    def __init__(self, file: io.BufferedWriter, tile: int, compression: int, mpp: float) -> None:
        self.file, self.tile, self.compression = file, tile, compression
        self.pixels_per_cm = 10_000 / mpp
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
        self.link = 8  # where the offset of the next page goes

    def write_level(self, size: tuple[int, int], level: int, tiles: Iterator[EncodedTile]) -> None:
        written: dict[object, tuple[int, int]] = {}
        places = []
        for key, make in tiles:
            if key not in written:
                data = make()
                written[key] = (self.file.tell(), len(data))
                self.file.write(data)
            places.append(written[key])
        self._write_page(self._tags(size, level, places))

    def _tags(self, size: tuple[int, int], level: int, places: list[tuple[int, int]]) -> list[Tag]:
        """(tag, struct code, values), in ascending order as TIFF asks."""
        scale = 2**level
        resolution = [round(self.pixels_per_cm / scale * 10_000), 10_000]
        jpeg = self.compression == JPEG
        tags = [
            (254, "I", [1 if level else 0]),  # NewSubfileType: reduced image
            (256, "I", [size[0]]),
            (257, "I", [size[1]]),
            (258, "H", [8, 8, 8]),
            (259, "H", [self.compression]),
            (262, "H", [6 if jpeg else 2]),  # YCbCr or RGB
            (277, "H", [3]),
            (282, "2I", resolution),
            (283, "2I", resolution),
            (284, "H", [1]),
            (296, "H", [3]),  # per centimetre
            (322, "I", [self.tile]),
            (323, "I", [self.tile]),
            (324, "Q", [offset for offset, _ in places]),
            (325, "Q", [length for _, length in places]),
        ]
        return [*tags, (530, "H", [1, 1])] if jpeg else tags  # no chroma subsampling

    def _write_page(self, tags: list[Tag]) -> None:
        kinds = {"H": 3, "I": 4, "2I": 5, "Q": 16}
        entries = []
        for tag, code, values in tags:
            count = len(values) // (2 if code == "2I" else 1)
            data = struct.pack(f"<{len(values)}{code[-1]}", *values)
            if len(data) > 8:
                data, place = struct.pack("<Q", self.file.tell()), data
                self.file.write(place)
            entries.append(struct.pack("<HHQ8s", tag, kinds[code], count, data))
        start = self.file.tell()
        self.file.write(struct.pack("<Q", len(entries)) + b"".join(entries) + struct.pack("<Q", 0))
        end = self.file.tell()
        self.file.seek(self.link)
        self.file.write(struct.pack("<Q", start))
        self.file.seek(end)
        self.link = end - 8


def corrupt_tiles(path: str | Path, tiles: Iterable[Grid], *, level: int = 0) -> None:
    """Make exactly these tiles, (column, row), of a tiled TIFF unreadable, in place.

    Their offsets are pointed at bytes that no codec accepts, appended to the file, so tiles that
    share data with them stay readable. Raises BadInput for a tile outside the level.
    """
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[level].aspage()
        offsets, counts = page.tags["TileOffsets"], page.tags["TileByteCounts"]
        across, down = (-(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength))
        order = tiff.byteorder
        fields = [(tag.valueoffset, order + {3: "H", 4: "I", 16: "Q"}[int(tag.dtype)]) for tag in (offsets, counts)]
    garbage = b"\x00unreadable on purpose\x00" * 4
    with open(path, "r+b") as file:
        where = file.seek(0, os.SEEK_END)
        file.write(garbage)
        for col, row in tiles:
            if not (0 <= col < across and 0 <= row < down):
                raise BadInput(f"expected a tile within {across} × {down}, received column {col}, row {row}: {path}")
            for (start, code), value in zip(fields, (where, len(garbage)), strict=True):
                file.seek(start + (row * across + col) * struct.calcsize(code))
                file.write(struct.pack(code, value))
