"""Stand-ins for networks that grade, so that what is done with their answers is tested without Keras.

Cards are real and checked; behind them is a weights file of a few letters, and in place of the network stands what a
test says.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import fakes
import numpy as np
from made_up_graders import CLASSES, ORDER, volume_card
from PIL import Image

from digipath.grading import tile_networks, volume_case, volume_networks

GRADES = tuple(CLASSES)
NETWORK = {"name": "grading-3d", "config": {}}


def write_card(folder: Path, name: str, *, order=ORDER, roi="brain", size=(16, 16, 16), classes=GRADES, **more) -> Path:
    """The card of a network for volumes, beside a weights file of a few letters; more: of its `input`."""
    folder.mkdir(parents=True, exist_ok=True)
    size = (32, 32) if roi == "slice" else size
    return _written(folder, volume_card(name, NETWORK, order=order, roi=roi, size=size, classes=classes, **more))


def write_tile_card(folder: Path, name: str, *, classes=GRADES) -> Path:
    """The card of a network for tiles of 256 px at 0.5 µm, beside a weights file of a few letters."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = {"modality": "slide", "mpp": 0.5, "patch": 256, "scale": 1, "offset": 0}
    return _written(folder, {**volume_card(name, NETWORK, classes=classes), "output": "tile", "input": asked})


def _written(folder: Path, record: dict) -> Path:
    path, weights = folder / f"{record['name']}.json", record["name"].encode()
    (folder / record["file"]).write_bytes(weights)
    stated = {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest(), "sha256_reason": None}
    path.write_text(json.dumps(record | stated))
    return path


def write_tiles(folder: Path, *reds: int) -> Path:
    """A folder of tile images, one for each red: `fakes.grader` calls 100 grade 2, 180 grade 3, 230 grade 4."""
    folder.mkdir(parents=True)
    for number, red in enumerate(reds):
        Image.new("RGB", (256, 256), (red, 80, 120)).save(folder / f"tile{number}.png")
    return folder


def answered(monkeypatch, says, *, heat=None, asked=None):
    """Networks for volumes answer what `says` has for their cards; those for tiles are `fakes.grader`.

    heat: (pixels, method, target) → map of a region; None: 1 everywhere. asked: a list that gets, in order, the cards
    that were asked and the pixels that they saw.
    """

    def answer(name, pixels):
        if asked is not None:
            asked.append((name, pixels))
        return np.array(says[name], np.float64)

    def explain(name, pixels, *, method, target):
        space = pixels.shape[:-1]
        return np.ones(space, np.float32) if heat is None else heat(pixels, method, target)

    def tiles(weights, **_):
        return replace(tile_networks.own([fakes.grader]), identity={"name": weights})

    monkeypatch.setattr(volume_networks, "network", lambda grader, graders: grader.card.name)
    monkeypatch.setattr(volume_networks, "answer", answer)
    monkeypatch.setattr(volume_case, "explain", explain)
    monkeypatch.setattr(tile_networks, "published", tiles)


def parts(folder: Path) -> set[str]:
    """All files in a folder, but locks."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
