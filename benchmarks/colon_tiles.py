"""Tile classifiers on real H&E: adenocarcinoma or normal colon, split by source image, against a forest on colours.

    python benchmarks/colon_tiles.py ../shared/data/colon_tiles

240 tiles of LC25000, of which those of one source image are near copies: a source image is a patient here, so that it
is in one part only. Each seed gives a split of its own, and trains ResNet18 and EfficientNet-B0 from random weights on
it; the validation tiles choose the epoch, the test tiles are scored once, over all eight symmetries. The forest gets
the same training tiles, and in a second run the validation tiles too. The resolution of the tiles is not stated; they
are taken as they are, at a nominal 1 µm/px. Settings were chosen on the validation tiles of seed 3, a fifth of the
tiles, some of which are among the test tiles of other seeds.

Prints one JSON object: AUROC of the test tiles by seed, for each network and for the forest.
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
from digipath.grading_evaluation import evaluate_graders
from digipath.progress import progress_bar

CLASSES = ("colon_n", "colon_aca")
FOLDS = 5  # of source images: one to test on, one to validate on, the rest to train on
BINS = 16  # of each channel's histogram
MPP = 1.0  # nominal
VIEWS = 8
TESTED = "test tiles"

CONFIG = """
task = "tiles"
seed = {seed}

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
epochs = 50
batch = 8
optimiser = "adam"
learning_rate = 0.001
decay = "cosine"
patience = "none"
keep = "loss"

[augmentation]
preset = "geometric"
rotations = true
brightness = [0.85, 1.15]
contrast = [0.85, 1.2]
saturation = [0.8, 1.25]
hue = 0.02

[[variant]]
name = "efficientnet-b0"

[variant.network]
name = "efficientnet-b0"
config = {{ shrink = 2, dropout = 0.2, momentum = 0.9 }}

[variant.schedule]
epochs = 80
learning_rate = 0.003
warmup_epochs = 3

[card]
name = "colon-benchmark-v1"
task = "adenocarcinoma or normal colon"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with clusters.csv, colon_aca and colon_n")
    parser.add_argument("--out", type=Path, help="keep the trainings here (default: a temporary folder)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="each of a split and its trainings")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, data = arguments.out or Path(temporary), arguments.data.resolve()
        by_seed = [one_seed(data, folder / f"seed-{seed}", seed) for seed in arguments.seeds]
    found = {name: [one[name] for one in by_seed] for name in by_seed[0]}
    means = {
        f"{name}: mean ± standard deviation": [statistics.fmean(values), statistics.stdev(values)]
        for name, values in found.items()
        if len(values) > 1 and name != TESTED
    }
    print(json.dumps({"seeds": arguments.seeds} | found | means, indent=2))


def one_seed(data: Path, folder: Path, seed: int) -> dict[str, float]:
    """AUROC of the test tiles of a seed's split, for each network and for the forest."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest, config = folder / "cases.csv", folder / "colon.toml"
    write_manifest(data, manifest, seed)
    config.write_text(CONFIG.format(seed=seed), encoding="utf-8")
    with progress_bar() as show:
        trained = digipath.train(config, out=folder / "trained", progress=show)
    found: dict[str, float] = {}
    for grader in trained.record["graders"].values():
        card = folder / "trained" / "weights" / f"{grader['card']}.json"
        scored = evaluate_graders(str(card), manifest=manifest, fold="test", views=VIEWS)["scores"]
        tiles = scored["all classes"]["tile"]
        found["resnet18" if grader["arm"] == "base" else grader["arm"]] = tiles["metrics"]["macro_auroc"]
        found[TESTED] = tiles["scores"]["count"]
    return found | forest(manifest, folder / "trained" / "tiles.csv")


def write_manifest(data: Path, manifest: Path, seed: int) -> None:
    """The cases with a split by source image."""
    with (data / "clusters.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    sources, labels = [row["source_cluster"] for row in rows], [row["label"] for row in rows]
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    homes = {}
    for number, (_, held) in enumerate(splitter.split(rows, labels, sources)):
        homes |= dict.fromkeys(held.tolist(), {0: "test", 1: "validation"}.get(number, "train"))
    with manifest.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["slide", "patient", "label", "fold", "mpp", "case"])
        for number, row in enumerate(rows):
            source = f"{row['label']}-{row['source_cluster']}"
            table.writerow([data / row["file"], source, row["label"], homes[number], MPP, Path(row["file"]).stem])


def forest(manifest: Path, drawn: Path) -> dict[str, float]:
    """AUROC of random forests on colour histograms, mean of three, by the tiles that they are trained on.

    Args:
        drawn: the table of the tiles that the networks learned from.
    """
    with manifest.open(encoding="utf-8") as stream:
        cases = {row["case"]: row for row in csv.DictReader(stream)}
    with drawn.open(encoding="utf-8") as stream:
        used = {row["slide"]: row["part"] for row in csv.DictReader(stream)}
    seen = {name: histogram(Path(row["slide"])) for name, row in cases.items()}
    truth = {name: row["label"] == CLASSES[1] for name, row in cases.items()}
    tested = [name for name, row in cases.items() if row["fold"] == "test"]
    found = {}
    for parts in (("train",), ("train", "validation")):
        names = [name for name, part in used.items() if part in parts]
        scores = []
        for seed in range(3):
            made = RandomForestClassifier(500, min_samples_leaf=2, random_state=seed)
            made.fit([seen[name] for name in names], [truth[name] for name in names])
            chances = made.predict_proba([seen[name] for name in tested])[:, 1]
            scores.append(roc_auc_score([truth[name] for name in tested], chances))
        found[f"forest on colour histograms of the {' and '.join(parts)} tiles"] = statistics.fmean(scores)
    return found


def histogram(path: Path) -> np.ndarray:
    """A histogram of each channel, and each channel's mean and spread."""
    tile = np.asarray(Image.open(path).convert("RGB"))
    bins = [np.histogram(tile[..., channel], BINS, (0, 256))[0] / tile[..., 0].size for channel in range(3)]
    return np.concatenate([*bins, tile.mean(axis=(0, 1)), tile.std(axis=(0, 1))])


if __name__ == "__main__":
    main()
