"""Made-up slides of three classes that differ in how dense their nuclei are, and a tiny training by bags."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("grade 2", "grade 3", "grade 4")
PATIENTS = {"train": 2, "validation": 1, "test": 1}  # of each class; those to test have two slides each
SIDE, MPP = 256, 0.5

TINY = """
task = "bags"
[data]
manifest = "cases.csv"
classes = ["grade 2", "grade 3", "grade 4"]
[bags]
mpps = [0.5, 1.0]
tile = 64
crop = 32
drawn = 6
bag = 5
groups = 2
[network]
embedder = "resnet18"
embedder_config = {{ widths = [4, 8, 8, 8], momentum = 0.5 }}
{network}
[schedule]
epochs = 2
batch = 3
snapshots = [0, 1]
learning_rate = 0.01
[ensemble]
drop = 1
measure = "{measure}"
[card]
name = "dots-v1"
task = "denser dots"
licence = "CC0-1.0"
"""


def tissue(side: int, grade: int, seed: int) -> np.ndarray:
    """(side, side, 3) uint8: pink with more dark squares of 6 px the higher the grade."""
    rng = np.random.default_rng([seed, grade])
    image = np.full((side, side, 3), (215, 150, 190)) + rng.integers(-12, 13, (side, side, 3))
    for row, column in rng.integers(0, side - 6, (side**2 * (1 + 2 * grade) // 1000, 2)):
        image[row : row + 6, column : column + 6] = (90, 60, 130)
    return image.clip(0, 255).astype(np.uint8)


def write_cases(folder: Path) -> Path:
    """Slides as PNG with their manifest; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [["slide", "patient", "label", "fold", "mpp"]]
    for grade, label in enumerate(CLASSES):
        for part, patients in PATIENTS.items():
            for patient in range(patients):
                for slide in range(2 if part == "test" else 1):
                    name = f"{part}{grade}{patient}{slide}.png"
                    seed = 1000 * list(PATIENTS).index(part) + 10 * patient + slide
                    Image.fromarray(tissue(SIDE, grade, seed)).save(folder / name)
                    rows.append([name, f"{part}-{grade}-{patient}", label, part, str(MPP)])
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def write_config(folder: Path, name: str, *, network: str = "", measure: str = "macro_auroc") -> Path:
    """The tiny training as a TOML file beside the manifest."""
    path = folder / name
    path.write_text(TINY.format(network=network, measure=measure), encoding="utf-8")
    return path


def write_card(
    folder: Path, name="bags-v1", *, pooling="max-mean", augment=True, augment_in_use=True, **changes
) -> Path:
    """The card of a tiny network with random weights, and its weights; `changes` of its input."""
    import keras

    from digipath import nn
    from digipath.tile_augment import COLOUR_JITTER
    from digipath.weights import sha256_of

    spec = {
        "name": "mil",
        "config": {
            "embedder": "resnet18", "embedder_config": {"widths": [4, 8, 8, 8]}, "pooling": pooling, "classes": 3,
            "patch": 32, "activation": "softmax",
        },
    }  # fmt: skip
    keras.utils.set_random_seed(4)
    network = nn.build(spec["name"], **spec["config"])
    file = folder / f"{name}.weights.h5"
    network.save_weights(file)
    record = {
        "schema": 1, "name": name, "kind": "network", "task": "denser dots", "output": "bag", "network": spec,
        "classes": list(CLASSES), "positive": None, "activation": "softmax",
        "input": {
            "modality": "slide", "mpp": 0.5, "patch": 32, "tile": 64, "bag": 5, "least_tissue": 0.25,
            "tissue": "white-tiles", "augmentation": dataclasses.asdict(COLOUR_JITTER) if augment else None,
            "scale": [0.02, 0.02, 0.02], "offset": [-3.0, -3.0, -3.0], "stain": None,
            "augment": augment_in_use, **changes,
        },
        "file": file.name, "urls": [], "bytes": file.stat().st_size, "sha256": sha256_of(file), "sha256_reason": None,
        "licence": "CC0-1.0", "citation": "made up", "training": {"data": "none", "split": "none"}, "metrics": [],
        "intended_use": "Tests.", "limits": ["Knows nothing."],
    }  # fmt: skip
    path = folder / f"{name}.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    return path
