"""Plain images that tell where each of their tiles is from, and outlines on them; for tests of tiles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from digipath.training.manifest import TrainingCase

TILE = 32
CLASSES = ("grade 2", "grade 3", "grade 4")


def image(folder: Path, name: str, rows: int, columns: int, *, number: int = 0) -> Path:
    """A picture whose tiles of 32 px are of one colour: red is its number, green the tile's row, blue its column."""
    row, column = np.mgrid[:rows, :columns] // TILE
    pixels = np.stack([np.full_like(row, 20 * number + 10), 10 * row + 5, 10 * column + 5], axis=-1)
    path = folder / f"{name}.png"
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def case(folder: Path, name: str, rows: int, columns: int, label: str = "grade 2", **given) -> TrainingCase:
    """A case of such a picture at 0.5 µm per pixel; number: of the picture's red."""
    path = image(folder, name, rows, columns, number=given.pop("number", 0))
    return TrainingCase(name, path, **{"annotation": None, "patient": name, "label": label, "mpp": 0.5, **given})


def where(tile) -> tuple[int, int, int]:
    """(number of the picture, row, column) that the middle of a tile tells."""
    red, green, blue = (float(value) for value in tile[tile.shape[0] // 2, tile.shape[1] // 2])
    return round((red - 10) / 20), round((green - 5) / 10), round((blue - 5) / 10)


def outlines(path: Path, *boxes: tuple[str, float, float, float, float]) -> Path:
    """GeoJSON of boxes (name, left, top, right, bottom) in level-0 pixels."""
    features = [
        {
            "type": "Feature",
            "properties": {"classification": {"name": name}},
            "geometry": {"type": "Polygon", "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]},
        }
        for name, x0, y0, x1, y1 in boxes
    ]
    path.write_text(json.dumps(features))
    return path
