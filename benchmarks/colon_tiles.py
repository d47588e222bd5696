"""Tile classifiers on real H&E: adenocarcinoma or normal colon, split by source image, against a forest on colours.

    python benchmarks/colon_tiles.py ../shared/data/colon_tiles

240 tiles of LC25000, of which those of one source image are near copies: a source image is a patient here, so that it
is in one part only. ResNet18 and EfficientNet-B0 begin with random weights and are trained three times each on one
split; the validation tiles choose the epoch, the test tiles are scored once. The forest gets the very same training
tiles. The resolution of the tiles is not stated; they are taken as they are, at a nominal 1 µm/px.

Prints one JSON object: AUROC of the test tiles for each network and seed, and for the forest.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

import digipath
from digipath.progress import progress_bar

CLASSES = ("colon_n", "colon_aca")
FOLDS = 5  # of source images: one to test on, one to validate on, the rest to train on
BINS = 16  # of each channel's histogram

CONFIG = """
task = "tiles"
seed = {seed}
repeats = {repeats}

[data]
manifest = "cases.csv"
classes = ["colon_n", "colon_aca"]

[tiles]
mpp = 1.0
tile = 224
tissue = "all"
shares = [0.6, 0.2, 0.2]

[network]
name = "resnet18"
config = {{ shrink = 2, dropout = 0.3 }}

[schedule]
epochs = {epochs}
batch = 8
optimiser = "adam"
learning_rate = 0.001
decay = "cosine"
patience = "none"

[augmentation]
preset = "geometric"
brightness = [0.9, 1.1]
contrast = [0.9, 1.1]
saturation = [0.9, 1.1]

[[variant]]
name = "efficientnet-b0"
[variant.network]
name = "efficientnet-b0"
config = {{ shrink = 2, dropout = 0.3, momentum = 0.9 }}

[card]
name = "colon-benchmark-v1"
task = "adenocarcinoma or normal colon"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with clusters.csv, colon_aca and colon_n")
    parser.add_argument("--out", type=Path, help="keep the training here (default: a temporary folder)")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of split and training")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        parts = write_manifest(arguments.data.resolve(), folder, arguments.seed)
        settings = {name: getattr(arguments, name) for name in ("seed", "repeats", "epochs")}
        (folder / "colon.toml").write_text(CONFIG.format(**settings), encoding="utf-8")
        with progress_bar() as show:
            trained = digipath.train(folder / "colon.toml", out=folder / "trained", progress=show)
        found = networks(trained.record)
        found["forest on colour histograms"] = forest(arguments.data, folder / "trained" / "tiles.csv", parts)
        print(json.dumps(found, indent=2))


def write_manifest(data: Path, folder: Path, seed: int) -> dict[str, tuple[str, str]]:
    """The manifest with its split by source image; returns file and class by the name of the case."""
    with (data / "clusters.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    sources, labels = [row["source_cluster"] for row in rows], [row["label"] for row in rows]
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    homes = {}
    for number, (_, held) in enumerate(splitter.split(rows, labels, sources)):
        homes |= dict.fromkeys(held.tolist(), {0: "test", 1: "validation"}.get(number, "train"))
    with (folder / "cases.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["slide", "patient", "label", "fold", "mpp", "case"])
        for number, row in enumerate(rows):
            name = Path(row["file"]).stem
            source = f"{row['label']}-{row['source_cluster']}"
            table.writerow([data / row["file"], source, row["label"], homes[number], 1.0, name])
    return {Path(row["file"]).stem: (row["file"], row["label"]) for row in rows}


def networks(record: dict) -> dict[str, object]:
    """AUROC of the test tiles by network, over its runs."""
    found: dict[str, object] = {}
    for name, grader in record["graders"].items():
        levels = record["scores"][name]["all classes"]["tile"]
        kept = found.setdefault("resnet18" if grader["arm"] == "base" else grader["arm"], [])
        kept.append(levels["metrics"]["macro_auroc"])
        found["test tiles"] = levels["scores"]["count"]
    means = {
        f"{name}: mean ± standard deviation": [statistics.fmean(values), statistics.stdev(values)]
        for name, values in found.items()
        if isinstance(values, list) and len(values) > 1
    }
    return found | means


def forest(data: Path, table: Path, files: dict[str, tuple[str, str]]) -> dict[str, float]:
    """AUROC of random forests on colour histograms, trained on the training tiles, over three seeds."""
    with table.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    seen = {row["slide"]: histogram(data / files[row["slide"]][0]) for row in rows}
    of = {part: [row["slide"] for row in rows if row["part"] == part] for part in ("train", "validation", "test")}
    truth = {name: files[name][1] == CLASSES[1] for name in seen}
    found = {}
    for parts in (("train",), ("train", "validation")):
        names = [name for part in parts for name in of[part]]
        scores = []
        for seed in range(3):
            made = RandomForestClassifier(500, min_samples_leaf=2, random_state=seed)
            made.fit([seen[name] for name in names], [truth[name] for name in names])
            chances = made.predict_proba([seen[name] for name in of["test"]])[:, 1]
            scores.append(roc_auc_score([truth[name] for name in of["test"]], chances))
        found[f"trained on {' and '.join(parts)} tiles"] = statistics.fmean(scores)
    return found


def histogram(path: Path) -> np.ndarray:
    """A histogram of each channel, and each channel's mean and spread."""
    tile = np.asarray(Image.open(path).convert("RGB"))
    bins = [np.histogram(tile[..., channel], BINS, (0, 256))[0] / tile[..., 0].size for channel in range(3)]
    return np.concatenate([*bins, tile.mean(axis=(0, 1)), tile.std(axis=(0, 1))])


if __name__ == "__main__":
    main()
