"""From slides with outlines to a network with a card, and to `segment()` on slides it has not seen.

    python examples/train_segmentation.py --out trained

Generates slides whose tumour differs from normal tissue only in how the nuclei lie, writes outlines
as QuPath does, a manifest and a configuration, trains a small U-Net on the CPU, segments new slides
with it, and compares with a random forest on the colour of single pixels. A few minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
from skimage.color import rgb2hsv
from sklearn.ensemble import RandomForestClassifier

import digipath
from digipath.measure.scores import pooled_dice
from digipath.progress import progress_bar
from digipath.synthetic import SyntheticSlide, write_slide
from digipath.values import PREDICTED

SIZE_L0 = (2048, 1536)
MPP = 0.5
TRAINING, UNSEEN = 8, 3  # slides
FOREST_PX = 4_000  # of each class, from each slide

CONFIG = """
[data]
manifest = "cases.csv"

[input]
mpp = {mpp}
training_patch = 128

[sampling]
shift_px = 64

[augmentation]                  # these slides are all stained alike
blur_chance = 0.0
brightness = 0.05
contrast = 0.1
saturation = 0.1
hue = 0.01

[schedule]
epochs = {epochs}
steps_per_epoch = 20
batch = 8
learning_rate = 0.003
decay = "cosine"
patience = "none"
averaging = 0.95
settle_batches = 10

[split]
validation = 0.125
test = 0.125
validation_patches = 64

[card]
name = "generated-unet-v1"
task = "tumour segmentation of generated slides"
licence = "CC0-1.0"
citation = "Slides drawn by digipath.synthetic"
limits = ["Knows nothing but generated slides."]

[[member]]
name = "unet"
network = "unet-small"
config = {{ shrink = 1, widths = [16, 24, 32, 48, 64], output_stride = 4 }}
"""


def make_slides(folder: Path, count: int, *, first_seed: int) -> list[SyntheticSlide]:
    """Slides with their outlines beside them as QuPath's GeoJSON."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = range(first_seed, first_seed + count)
    slides = [write_slide(folder / f"slide{seed}.tiff", SIZE_L0, mpp=MPP, seed=seed, pieces=1) for seed in seeds]
    for slide in slides:
        write_outlines(slide.path.with_suffix(".geojson"), slide)
    return slides


def write_outlines(path: Path, slide: SyntheticSlide) -> None:
    """The tumours as annotations classified "Tumor", in level-0 pixels."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*outline.tolist(), outline[0].tolist()]]},
            "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
        }
        for outline in slide.tumours
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def write_manifest(path: Path, slides: list[SyntheticSlide]) -> None:
    """One row per slide; here every slide is of another patient."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["slide", "annotation", "patient"])
        for number, slide in enumerate(slides):
            outlines = slide.path.with_suffix(".geojson")
            table.writerow([slide.path.relative_to(path.parent), outlines.relative_to(path.parent), f"patient{number}"])


def read_pixels(slide: SyntheticSlide) -> np.ndarray:
    """All of a slide at its own resolution, (rows, columns, 3) uint8."""
    with digipath.open_slide(slide.path) as source:
        pixels, _ = source.read_block(0, 0, *source.working_size_px(MPP), mpp=MPP)
    return pixels


def colours(pixels: np.ndarray) -> np.ndarray:
    """(n, 3) RGB → (n, 6): RGB and HSV in [0, 1]."""
    return np.concatenate([pixels / 255, rgb2hsv(pixels[None])[0]], axis=1)


def train_forest(slides: list[SyntheticSlide]) -> RandomForestClassifier:
    """A forest on the colours of single pixels, as many of tumour as of normal tissue."""
    rng = np.random.default_rng(0)
    features, labels = [], []
    for slide in slides:
        pixels, tissue, tumour = read_pixels(slide), slide.tissue_mask(), slide.tumour_mask()
        for label, area in enumerate((tissue & ~tumour, tumour)):
            features.append(colours(rng.permutation(pixels[area])[:FOREST_PX]))
            labels.append(np.full(len(features[-1]), label))
    forest = RandomForestClassifier(100, min_samples_leaf=20, n_jobs=2, random_state=0)
    return forest.fit(np.concatenate(features), np.concatenate(labels))


def run(out: Path, *, epochs: int = 16, training: int = TRAINING) -> dict[str, float]:
    """Everything; returns the pooled Dice coefficients on the unseen slides, within the tissue found."""
    began = time.monotonic()
    slides = make_slides(out / "slides", training, first_seed=0)
    write_manifest(out / "cases.csv", slides)
    (out / "config.toml").write_text(CONFIG.format(mpp=MPP, epochs=epochs))
    with progress_bar() as show:
        result = digipath.train(out / "config.toml", out=out / "training", progress=show)
    print((result.folder / "summary.md").read_text())
    print(f"trained after {time.monotonic() - began:.0f} s; card: {result.card}")

    forest = train_forest(slides)
    truths, by_network, by_forest = [], [], []
    for slide in make_slides(out / "unseen", UNSEEN, first_seed=100):
        case = out / f"{slide.path.stem}.digipath"
        found = digipath.segment(slide.path, str(result.card), out=case, out_mpp="native")
        tissue = found.maps["coverage"][:] == PREDICTED
        truths.append(slide.tumour_mask()[tissue])
        by_network.append(found.probability[:][tissue] >= 0.5)
        by_forest.append(forest.predict(colours(read_pixels(slide)[tissue])) == 1)
    scores = {"network": pooled_dice(truths, by_network), "colour forest": pooled_dice(truths, by_forest)}
    for name, score in scores.items():
        print(f"{name}: Dice {score:.3f} on {UNSEEN} unseen slides")
    print(f"{time.monotonic() - began:.0f} s in all")
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("train_segmentation"), help="default: ./train_segmentation")
    parser.add_argument("--epochs", type=int, default=16, help="default: 16")
    arguments = parser.parse_args()
    scores = run(arguments.out, epochs=arguments.epochs)
    if scores["network"] < 0.9 or scores["colour forest"] > 0.5:
        raise SystemExit("expected a Dice of at least 0.90 for the network and at most 0.50 for the forest")


if __name__ == "__main__":
    main()
