"""Maps on disk: one OME-Zarr (NGFF 0.5) image per map in `maps.zarr`, and a checkpoint.

    maps.zarr/                           group, `bioformats2raw.layout` so that readers list its images
        probability/0, 1, 2, …           (c, y, x) float16, each level half the one before
        aleatoric/… epistemic/…          likewise, where defined
        entropy/… mutual_information/…   likewise, one channel in bits, on request
        members/<network>/…              likewise, each network's own probability, on request
        grade/…                          (c, y, x) uint8, of tiles: the class from 1 on, 0: none
        attention/…                      likewise, one channel: what a tile counts in its bag, 1 on average
        coverage/… tissue/…              (c, y, x) uint8
    checkpoint.json                      rows that are final, their ledger, and the tally of adaptive views

Probabilities, variances and entropies are NaN on tissue that has no prediction and 0 off tissue.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from digipath.errors import NotFound
from digipath.files import read_json, write_json
from digipath.values import BACKGROUND, ENTROPIES, Coverage, Grid, ViewTally

T = TypeVar("T", bound=np.generic)
GRADE, ATTENTION = "grade", "attention"
CODES = ("coverage", "tissue", GRADE)
ALWAYS = ("coverage", "tissue")  # in every case
MEMBERS = "members"
CHUNK = (1, 256, 2048)  # 1 MB of float16; flat, since bands of rows are written and read
SMALLEST_LEVEL_PX = 512


class ZarrMaps:
    """A sink for `predict_maps` in a folder; opening a begun one goes on at its checkpoint.

    Args:
        folder: case folder; the caller holds its lock.
        grid: gives the maps' shape and µm per pixel.
        names: maps to write, besides `coverage` and `tissue`; those of networks as `members/<name>`.
        classes: names of the channels.
    """

    def __init__(self, folder: Path, grid: Grid, names: Sequence[str], classes: Sequence[str]) -> None:
        self._checkpoint = folder / "checkpoint.json"
        self._path = folder / "maps.zarr"
        self._grid = grid
        single = (*CODES, *ENTROPIES, ATTENTION)
        self._labels = {name: (name,) if name in single else tuple(classes) for name in (*names, *ALWAYS)}
        self.rows_done, self.coverage, self.tally = 0, Coverage(), ViewTally()
        if self._checkpoint.exists():
            saved = read_json(self._checkpoint)
            self.rows_done, self.coverage = saved["rows_done"], Coverage(**saved["coverage"])
            self.tally = ViewTally(**saved["tally"])
            self._group = zarr.open_group(self._path, mode="r+")
        else:
            self._create(most=max(1.0, math.log2(len(classes))))
        self._finest = {name: self._group[name]["0"] for name in self._labels}

    def write(self, row: int, values: Mapping[str, NDArray[np.generic]]) -> None:
        """Store rows from `row` on, each (rows, columns[, channels]); `tissue` follows coverage."""
        for name, block in values.items():
            self._store(name, row, block)
        self._store("tissue", row, values["coverage"] != BACKGROUND)

    def commit(self, rows_done: int, coverage: Coverage, tally: ViewTally) -> None:
        """Note on disk that everything above `rows_done` is final."""
        saved = {"rows_done": rows_done, "coverage": asdict(coverage), "tally": asdict(tally)}
        write_json(self._checkpoint, saved)
        self.rows_done, self.coverage, self.tally = rows_done, coverage, tally

    def whole(self, name: str) -> NDArray[Any]:
        """All of a map at its finest level, (channels, rows, columns), for maps that are known to be small."""
        return np.asarray(self._finest[name][:])

    def store(self, name: str, values: NDArray[np.generic]) -> None:
        """Store a map, (rows, columns[, channels]), that follows from others."""
        self._store(name, 0, values)

    def finish(self) -> None:
        """Build the lower resolution levels of every map."""
        for name in self._labels:
            image = self._group[name]
            for level in range(1, _levels(self._grid.map_shape)):
                _halve(image[str(level - 1)], image[str(level)], codes=name in CODES)

    def _create(self, most: float) -> None:
        """Make all images empty; `most` bits is the greatest entropy."""
        shutil.rmtree(self._path, ignore_errors=True)
        self._group = zarr.open_group(self._path, mode="w", zarr_format=3)
        self._group.attrs["ome"] = {"version": "0.5", "bioformats2raw.layout": 3}
        series = self._group.create_group("OME")
        series.attrs["ome"] = {"version": "0.5", "series": list(self._labels)}
        if any(name.startswith(f"{MEMBERS}/") for name in self._labels):
            self._group.create_group(MEMBERS)
        for name, labels in self._labels.items():
            self._create_image(name, labels, 3 if name in CODES else most if name in ENTROPIES else 1)
        self.commit(0, Coverage(), ViewTally())

    def _create_image(self, name: str, labels: Sequence[str], most: float) -> None:
        image = self._group.create_group(name)
        rows, columns = self._grid.map_shape
        levels = _levels(self._grid.map_shape)
        for level in range(levels):
            shape = (len(labels), *(-(-size // 2**level) for size in (rows, columns)))
            image.create_array(
                str(level),
                shape=shape,
                chunks=tuple(min(c, s) for c, s in zip(CHUNK, shape, strict=True)),
                dtype="uint8" if name in CODES else "float16",
                fill_value=0,
                compressors=BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),
                dimension_names=("c", "y", "x"),
            )
        image.attrs["ome"] = _ome(name, self._grid.map_mpp, levels, labels, most)

    def _store(self, name: str, row: int, block: NDArray[np.generic]) -> None:
        array = self._finest[name]
        planes = block[None] if block.ndim == 2 else np.moveaxis(block, -1, 0)
        array[:, row : row + len(block)] = planes.astype(array.dtype)


def _levels(shape: Sequence[int]) -> int:
    """How many levels until the longer side is at most SMALLEST_LEVEL_PX."""
    count, side = 1, max(shape)
    while side > SMALLEST_LEVEL_PX:
        count, side = count + 1, -(-side // 2)
    return count


def _ome(name: str, mpp: float | None, levels: int, labels: Sequence[str], most: float) -> dict[str, object]:
    """NGFF 0.5 multiscales metadata; scales in µm where known, else in map pixels; values go up to `most`."""
    unit = {} if mpp is None else {"unit": "micrometer"}
    space = [{"name": axis, "type": "space", **unit} for axis in "yx"]
    pixel = 1.0 if mpp is None else mpp
    datasets = []
    for level in range(levels):
        shift = pixel * (2**level - 1) / 2
        transforms: list[dict[str, object]] = [{"type": "scale", "scale": [1.0, *[pixel * 2**level] * 2]}]
        transforms.append({"type": "translation", "translation": [0.0, shift, shift]})
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    axes = [{"name": "c", "type": "channel"}, *space]
    window = {"min": 0, "max": most, "start": 0, "end": most}
    channels = [{"label": label, "color": "FFFFFF", "active": True, "window": window} for label in labels]
    return {
        "version": "0.5",
        "multiscales": [{"name": name, "axes": axes, "datasets": datasets}],
        "omero": {"channels": channels},
    }


def _halve(source: zarr.Array, target: zarr.Array, *, codes: bool) -> None:
    """Fill `target` with `source` at half its size, a chunk at a time.

    Probabilities: mean of the up to 2 × 2 pixels that are not NaN. Codes: the largest, so that a
    failed or excluded pixel stays visible at every level.
    """
    _, height, width = target.chunks
    for row in range(0, target.shape[1], height):
        for column in range(0, target.shape[2], width):
            block = source[:, 2 * row : 2 * (row + height), 2 * column : 2 * (column + width)]
            if block.any():
                halved = np.maximum.reduce(_quads(block, 0)) if codes else _mean_of_quads(block.astype(np.float32))
                target[:, row : row + height, column : column + width] = halved


def _quads(block: NDArray[T], filling: float) -> list[NDArray[T]]:
    """The four pixels of each 2 × 2 block as four arrays; odd sides are completed with `filling`."""
    block = np.pad(block, [(0, 0), *((0, size % 2) for size in block.shape[1:])], constant_values=filling)
    return [block[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]


def _mean_of_quads(block: NDArray[np.float32]) -> NDArray[np.float32]:
    quads = _quads(block, np.nan)
    known = [~np.isnan(quad) for quad in quads]
    total = np.add.reduce([np.where(*pair, 0) for pair in zip(known, quads, strict=True)])
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is wanted
        return total / np.add.reduce(known, dtype=np.float32)


class MapArray:
    """A stored map, read lazily: (rows, columns), or (rows, columns, classes) if it has several.

    Index it like an array; `np.asarray(map)` reads all of it; `map.level(n)` is 2ⁿ times coarser.
    """

    def __init__(self, image: zarr.Group, level: int = 0, plane: int | None = None) -> None:
        self._image = image
        self._level = level
        self._array: zarr.Array = image[str(level)]
        channels, rows, columns = self._array.shape
        self._plane = 0 if channels == 1 else plane
        self.shape = (rows, columns, channels) if self._plane is None else (rows, columns)
        self.dtype = self._array.dtype
        self.ndim = len(self.shape)

    @property
    def levels(self) -> int:
        """Number of resolution levels."""
        return len(self._image.attrs["ome"]["multiscales"][0]["datasets"])

    def level(self, level: int) -> MapArray:
        """Return the same map at a coarser level."""
        return MapArray(self._image, level, self._plane)

    def plane(self, channel: int) -> MapArray:
        """Return one class alone, (rows, columns); -1 is the last."""
        return MapArray(self._image, self._level, range(self._array.shape[0])[channel])

    def strips(self, rows: int = 512) -> Iterator[tuple[int, NDArray[np.generic]]]:
        """Yield (first row, values) so that a whole map is never in memory at once."""
        for row in range(0, self.shape[0], rows):
            yield row, self[row : row + rows]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: object) -> NDArray[np.generic]:
        rows, columns, channels = self._keys(key)
        if self._plane is not None:
            return np.asarray(self._array[self._plane, rows, columns])
        values = np.asarray(self._array[channels, rows, columns])
        return np.moveaxis(values, 0, -1) if isinstance(channels, slice) else values

    def __array__(self, dtype: object = None, copy: bool | None = None) -> NDArray[np.generic]:
        values = self[:]
        return values if dtype is None else values.astype(dtype)  # type: ignore[call-overload]

    def __repr__(self) -> str:
        return f"MapArray(shape={self.shape}, dtype={self.dtype})"

    def _keys(self, key: object) -> tuple[object, object, object]:
        keys = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in keys:
            at = keys.index(Ellipsis)
            keys[at : at + 1] = [slice(None)] * (self.ndim - len(keys) + 1)
        if len(keys) > self.ndim:
            raise IndexError(f"too many indices for a map of {self.ndim} axes")
        keys += [slice(None)] * (3 - len(keys))
        return keys[0], keys[1], keys[2]


def open_maps(folder: Path) -> dict[str, MapArray]:
    """Return the maps of a case folder by name; those of single networks as `members/<name>`.

    Raises:
        NotFound: the folder holds no maps.
    """
    if not (folder / "maps.zarr" / "zarr.json").exists():
        raise NotFound(f"no maps in {folder}: expected maps.zarr, as `digipath segment` writes it")
    group = zarr.open_group(folder / "maps.zarr", mode="r")
    images = {name: image for name, image in group.groups() if "0" in image}
    if MEMBERS in group:
        images |= {f"{MEMBERS}/{name}": image for name, image in group[MEMBERS].groups()}
    return {name: MapArray(image) for name, image in images.items()}
