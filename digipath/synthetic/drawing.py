"""Outlines of tissue and of the regions in it, and the tiles drawn from them."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import shapely
from PIL import Image

from digipath.synthetic.bigtiff import EncodedTile

Polygon = np.ndarray  # (n, 2) float64, x and y in level-0 pixels, not closed
Layer = tuple[Sequence[Polygon], int]  # outlines, and which texture fills them
Encoder = Callable[[np.ndarray], bytes]
QUALITY = 96  # of JPEG: structures that grades are told by survive it


def outlines(
    size_l0: tuple[int, int], pieces: int, tumours: int, rng: np.random.Generator
) -> tuple[tuple[Polygon, ...], tuple[Polygon, ...]]:
    """Tissue side by side along the longer axis; tumour well inside it."""
    long_axis = 0 if size_l0[0] >= size_l0[1] else 1
    span = size_l0[long_axis] / max(pieces, 1)
    radius = 0.45 * min(span, size_l0[1 - long_axis])
    tissue, tumour = [], []
    for piece in range(pieces):
        centre = np.array(size_l0) / 2
        centre[long_axis] = span * (piece + 0.5)
        tissue.append(blob(centre, radius, rng))
        own = range(piece, tumours, pieces)
        for k, _ in enumerate(own):
            angle = 2 * math.pi * (k + rng.uniform(0, 0.5)) / len(own)
            # The tissue's outline stays above 0.7 of its radius: 0.38 + 0.3 lies inside it.
            offset = 0.38 * radius * np.array([math.cos(angle), math.sin(angle)])
            tumour.append(blob(centre + offset, radius * rng.uniform(0.15, 0.3), rng))
    return tuple(tissue), tuple(tumour)


def blob(centre: np.ndarray, radius: float, rng: np.random.Generator) -> Polygon:
    """A smooth closed outline whose distance from `centre` is 0.7 to 1 of `radius`."""
    angle = np.linspace(0, 2 * math.pi, 180, endpoint=False)
    waves = np.zeros(len(angle))
    for k in range(2, 8):
        waves += rng.normal() / k * np.cos(k * angle + rng.uniform(0, 2 * math.pi))
    distance = radius * (0.7 + 0.3 * (waves - waves.min()) / np.ptp(waves))
    return centre + distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def inside(polygons: Sequence[Polygon], size_l0: tuple[int, int], downsample: float) -> np.ndarray:
    width, height = (max(1, round(side / downsample)) for side in size_l0)
    return raster(polygons, (0.0, 0.0), (width, height), downsample)


def raster(
    polygons: Sequence[Polygon], corner_l0: tuple[float, float], size: tuple[int, int], downsample: float
) -> np.ndarray:
    """Pixels of a window whose centre lies in a polygon, by even-odd; the same for every window."""
    width, height = size
    filled = np.zeros((height, width), bool)
    for polygon in polygons:
        start = (polygon - corner_l0) / downsample - 0.5  # pixel centres on whole numbers
        end = np.roll(start, -1, axis=0)
        upper, lower = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
        rows = np.arange(max(0, math.ceil(upper.min())), min(height, math.ceil(lower.max())))
        left, right = np.clip(np.ceil([start[:, 0].min(), start[:, 0].max()]), 0, width).astype(int)
        row, edge = np.nonzero((upper <= rows[:, None]) & (rows[:, None] < lower))
        (x0, y0), (x1, y1) = start[edge].T, end[edge].T
        crossing = x0 + (rows[row] - y0) * (x1 - x0) / (y1 - y0)
        toggles = np.zeros((len(rows), right - left + 1), np.uint8)
        np.add.at(toggles, (row, np.clip(np.ceil(crossing), left, right).astype(int) - left), 1)
        filled[rows, left:right] |= np.cumsum(toggles, axis=1, dtype=np.uint8)[:, :-1] % 2 == 1
    return filled


class Painter:
    """Paints the tiles of one level; tiles of a single texture are encoded once.

    textures: square RGB, glass is the last. layers: painted over glass one after another.
    """

    def __init__(self, textures: Sequence[np.ndarray], layers: Sequence[Layer], level: int, tile: int) -> None:
        self.textures = [np.clip(np.rint(texture), 0, 255).astype(np.uint8) for texture in textures]
        self.layers, self.glass = layers, len(textures) - 1
        self.downsample, self.tile = 2**level, tile
        self.plain: dict[tuple[int, int, int], np.ndarray] = {}
        self.period_tiles = math.lcm(len(textures[0]), tile) // tile

    def tiles(self, size: tuple[int, int], encode: Encoder) -> Iterator[EncodedTile]:
        """(key, maker of the bytes) in the order of the file; equal keys mean equal bytes."""
        cols, rows = (-(-side // self.tile) for side in size)
        crossed = self._crossed(cols, rows)
        kinds = self._kinds(cols, rows)
        for row in range(rows):
            for col in range(cols):
                cell = (col % self.period_tiles, row % self.period_tiles)
                if crossed[row, col]:
                    yield (col, row), partial(self._encoded, encode, self._composed, col, row)
                else:
                    kind = int(kinds[row, col])
                    yield (kind, *cell), partial(self._encoded, encode, self._plain, kind, *cell)

    @staticmethod
    def _encoded(encode: Encoder, paint: Callable[..., np.ndarray], *where: int) -> bytes:
        return encode(paint(*where))

    def _crossed(self, cols: int, rows: int) -> np.ndarray:
        """Tiles that an outline crosses, or passes within 2 pixels of."""
        crossed = np.zeros((rows, cols), bool)
        span = self.tile * self.downsample
        for polygon in (polygon for polygons, _ in self.layers for polygon in polygons):
            ends = np.roll(polygon, -1, axis=0)
            steps = 1 + int(np.abs(ends - polygon).max() / (span / 8))
            along = np.linspace(0, 1, steps + 1)[:, None, None]
            points = (polygon + along * (ends - polygon)).reshape(-1, 2)
            for shift in np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]) * (span / 8 + 2 * self.downsample):
                col, row = np.floor((points + shift) / span).astype(int).T
                within = (col >= 0) & (col < cols) & (row >= 0) & (row < rows)
                crossed[row[within], col[within]] = True
        return crossed

    def _kinds(self, cols: int, rows: int) -> np.ndarray:
        """The texture at each tile's centre."""
        x, y = np.meshgrid(*((np.arange(count) + 0.5) * self.tile * self.downsample for count in (cols, rows)))
        kinds = np.full(x.shape, self.glass)
        for polygons, kind in self.layers:
            for polygon in polygons:
                kinds[shapely.contains_xy(shapely.Polygon(polygon), x, y)] = kind
        return kinds

    def _plain(self, kind: int, col: int, row: int) -> np.ndarray:
        """A tile of one texture, which wraps around its period; do not write into it."""
        place = (kind, col % self.period_tiles, row % self.period_tiles)
        if place not in self.plain:
            texture = self.textures[kind]
            y, x = (np.arange(index * self.tile, (index + 1) * self.tile) % len(texture) for index in (row, col))
            self.plain[place] = texture[y[:, None], x]
        return self.plain[place]

    def _composed(self, col: int, row: int) -> np.ndarray:
        corner = (col * self.tile * self.downsample, row * self.tile * self.downsample)
        out = self._plain(self.glass, col, row).copy()
        for polygons, kind in self.layers:
            filled = raster(polygons, corner, (self.tile, self.tile), self.downsample)
            if filled.any():
                np.copyto(out, self._plain(kind, col, row), where=filled[..., None])
        return out


def jpeg(pixels: np.ndarray, *, quality: int = QUALITY) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def deflate(pixels: np.ndarray) -> bytes:
    return zlib.compress(pixels.tobytes(), 1)
