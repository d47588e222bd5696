"""Tiled pyramids painted from periodic textures: what all generated slides share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from digipath.errors import BadInput
from digipath.synthetic.bigtiff import DEFLATE, JPEG, BigTiff, Grid, corrupt_tiles
from digipath.synthetic.drawing import QUALITY, Layer, Painter, deflate, jpeg
from digipath.synthetic.textures import halved

PERIOD_PX = (512, 2048)  # least and greatest period of the textures
MAX_SIDE_PX = 100_000


def refuse_impossible(path: str | Path, size_l0: tuple[int, int], *, mpp: float, tile: int) -> None:
    """Raises BadInput for a size, tile or resolution that cannot be written."""
    width, height = size_l0
    if not (min(size_l0) >= 1 and max(size_l0) <= MAX_SIDE_PX) or tile not in (256, 512) or not 0 < mpp < math.inf:
        raise BadInput(
            f"expected a size of 1 to {MAX_SIDE_PX}, a tile of 256 or 512 and mpp above 0, received "
            f"{width} × {height}, {tile} and {mpp}: {path}"
        )


def period_px(size_l0: tuple[int, int]) -> int:
    """How often the textures of a slide of this size repeat: a power of two within PERIOD_PX."""
    quarter = 2 ** int(math.log2(max(4, *size_l0) / 4))
    return min(max(PERIOD_PX[0], quarter), PERIOD_PX[1])


def write_pyramid(
    path: str | Path,
    size_l0: tuple[int, int],
    textures: Sequence[np.ndarray],
    layers: Sequence[Layer],
    *,
    mpp: float,
    tile: int,
    levels: int | None,
    lossless: bool,
    failed_tiles: Sequence[Grid],
    quality: int = QUALITY,
) -> None:
    """Write the pyramid of `layers` of textures over glass, the last texture; see `write_slide`."""
    encode, compression = (deflate, DEFLATE) if lossless else (partial(jpeg, quality=quality), JPEG)
    count = levels or 1 + max(0, math.ceil(math.log2(max(size_l0) / tile)))
    with open(path, "wb") as file:
        writer = BigTiff(file, tile, compression, mpp)
        for level in range(count):
            painter = Painter(textures, layers, level, tile)
            size = (max(1, size_l0[0] >> level), max(1, size_l0[1] >> level))
            writer.write_level(size, level, painter.tiles(size, encode))
            textures = [halved(texture) for texture in textures]
    if failed_tiles:
        corrupt_tiles(path, failed_tiles)
