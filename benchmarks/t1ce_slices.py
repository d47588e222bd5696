"""AlexNet from random weights on real contrast-enhanced slices of four classes: do 57 images from one help?

    python benchmarks/t1ce_slices.py ../shared/data/mri_t1ce_slices --out t1ce

4 × 100 slices: glioma, meningioma, pituitary tumour, no tumour. Slices whose thumbnails of 32 × 32 px correlate above
0.9, or mirrored or turned above 0.95, through others too, are a group and stay on one side: some are near copies,
neighbours of one volume, or mirror images. One split, about a fifth to test on; the largest group is learned from.
AlexNet learns from the training slices as they are, and from all images of
`digipath.slice_augment.SVHN_OPERATIONS`, in the same number of steps; beside them a forest on histograms of 256 bins.
Nothing is said here of transfer learning: weights of ImageNet are not at hand.

Lo et al. 2019 name a learning rate of 0.001 and no optimiser. Of three ways, --choose --steps 250 scored Adam at 0.0001
best on a fifth of the training slices, without the test slices (macro F1 0.719; SGD with momentum at 0.001: 0.635, Adam
at 0.001: 0.648). The set holds sagittal and coronal slices beside axial ones.

A training that is stopped goes on with the same command. Prints a table and one JSON object.

References:
    Lo et al. 2019: T1-weighted contrast-enhanced slices, 227 px, learning rate 0.001, augmentation to 57 images.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from digipath.slice_augment import SVHN_OPERATIONS, operated
from digipath.training.schedule import Schedule

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
SIDE_PX = 227
THUMBNAIL_PX, COPY, TURNED_COPY = 32, 0.9, 0.95  # correlations above which two slices count as copies
SHARE = 5  # a part of so many is tested on
SCALING = {"scale": 1 / 127.5, "offset": -1.0}
NETWORK = {"name": "alexnet", "config": {"classes": len(CLASSES)}}
AS_THEY_ARE, AUGMENTED = "as they are", "57 of each"
ARMS = {AS_THEY_ARE: ((),), AUGMENTED: ((), *SVHN_OPERATIONS.values())}  # operations, one after the other, per image
CANDIDATES: tuple[dict[str, Any], ...] = (
    {"optimiser": "sgd", "momentum": 0.9, "learning_rate": 0.001},
    {"optimiser": "adam", "learning_rate": 0.001},
    {"optimiser": "adam", "learning_rate": 0.0001},
)
OPTIMISER = CANDIDATES[2]
BATCH, STEPS_PER_EPOCH = 32, 125
WEIGHTS = "network.weights.h5"


@dataclass(frozen=True)
class Slices:
    """Grey slices (N, S, S) uint8 with their classes (N,) and groups of copies (N,)."""

    pixels: Pixels
    labels: Labels
    groups: Labels

    def of(self, which: NDArray[np.integer]) -> Slices:
        """Some of them."""
        return Slices(self.pixels[which], self.labels[which], self.groups[which])


# ---- data ----


def read_slices(folder: Path) -> Slices:
    """All slices, by class and name."""
    paths = [path for name in CLASSES for path in sorted((folder / name).glob("*.jpg"))]
    if not paths:
        sys.exit(f"no slices under {folder}, expected folders {', '.join(CLASSES)}")
    pixels = np.stack([np.asarray(Image.open(path).convert("L")) for path in paths])
    return Slices(pixels, np.array([CLASSES.index(path.parent.name) for path in paths]), groups_of_copies(pixels))


def copies(pixels: Pixels) -> NDArray[np.bool_]:
    """(N, N): which slices count as copies of each other, as they are, or one of them mirrored or turned.

    Heads are alike on both sides, so that slices of two patients correlate when one is mirrored: hence the second bar.
    """
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    small = np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BOX)) for one in pixels])
    turned = [np.rot90(one, quarter, (1, 2)) for one in (small, small[:, :, ::-1]) for quarter in range(4)]
    alike, *others = (_correlated(small, one) for one in turned)
    return np.asarray((alike > COPY) | (np.max(others, axis=0) > TURNED_COPY))


def _correlated(one: Pixels, other: Pixels) -> NDArray[np.float64]:
    """(N, N): the correlation of each picture of one set with each of the other."""
    both = np.concatenate([one, other]).reshape(2 * len(one), -1).astype(np.float64)
    return np.corrcoef(both)[: len(one), len(one) :]


def groups_of_copies(pixels: Pixels) -> Labels:
    """The number of each slice's group: slices that are copies, directly or through others."""
    from scipy.sparse.csgraph import connected_components

    return np.asarray(connected_components(copies(pixels), directed=False)[1], np.int64)


def parts(slices: Slices, count: int, *, seed: int) -> list[tuple[Labels, Labels]]:
    """Indices to train and to test on, `count` times: every slice is tested once, no group is on both sides.

    The largest group is tested first, so that the last part is the most even.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return list(splitter.split(slices.pixels, slices.labels, slices.groups))


class TrainingImages:
    """Training samples by their index: all images of all slices once per round, in an order of its own.

    images: for each image of a slice, the operations that make it.
    """

    def __init__(self, slices: Slices, images: Sequence[Sequence[tuple[str, int]]], *, seed: int) -> None:
        self.pixels, self.labels = resized(slices.pixels), slices.labels
        self.images, self.seed = images, seed

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of an image and its class."""
        return (SIDE_PX, SIDE_PX, 3), (len(CLASSES),)

    def sample(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The image of an index and its class, one-hot."""
        count = len(self.pixels) * len(self.images)
        round_, place = divmod(index, count)
        which, image = divmod(int(self._order(round_, count)[place]), len(self.images))
        pixels = self.pixels[which]
        for name, level in self.images[image]:
            pixels = operated(pixels, name, level)
        return as_rgb(pixels), np.eye(len(CLASSES), dtype=np.float32)[self.labels[which]]

    def _order(self, round_: int, count: int) -> Labels:
        return np.random.default_rng((self.seed, round_)).permutation(count)


def resized(pixels: Pixels) -> Pixels:
    """(N, S, S) → (N, 227, 227)."""
    size = (SIDE_PX, SIDE_PX)
    return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BILINEAR)) for one in pixels])


def as_rgb(pixels: Pixels) -> NDArray[np.float32]:
    """(…, S, S) → (…, S, S, 3) float32 in [0, 255]."""
    return np.repeat(pixels[..., None], 3, axis=-1).astype(np.float32)


# ---- methods ----


def alexnet(
    training: Slices,
    unseen: Slices,
    folder: Path,
    *,
    arm: str,
    seed: int,
    steps: int,
    optimiser: dict[str, Any],
) -> Labels:
    """The classes of unseen slices by AlexNet, trained in `folder`."""
    from digipath.nn import build
    from digipath.training.data import batches
    from digipath.training.fit import fit
    from digipath.training.objective import classification

    source = TrainingImages(training, ARMS[arm], seed=seed)
    schedule = Schedule(
        epochs=-(-steps // STEPS_PER_EPOCH), steps_per_epoch=min(steps, STEPS_PER_EPOCH), batch=BATCH, decay="none",
        patience=None, keep="last", mixed_precision=True, **optimiser,
    )  # fmt: skip

    def samples(first: int) -> Any:
        return batches(source, batch=BATCH, first=first, **SCALING)

    identity = {"arm": arm, "slices": len(training.labels), "groups": training.groups.tolist()}
    objective = classification(len(CLASSES))
    fitted = fit(NETWORK, samples, None, schedule, folder, seed=seed, objective=objective, identity=identity)
    network = build(NETWORK["name"], **NETWORK["config"])
    network.load_weights(fitted.weights)
    seen = as_rgb(resized(unseen.pixels)) * np.float32(SCALING["scale"]) + np.float32(SCALING["offset"])
    return np.asarray(network.predict(seen, batch_size=BATCH, verbose=0).argmax(axis=-1))


def forest(training: Slices, unseen: Slices, *, seed: int) -> Labels:
    """The classes of unseen slices by a random forest on histograms."""
    from sklearn.ensemble import RandomForestClassifier

    trees = RandomForestClassifier(500, random_state=seed).fit(histograms(training.pixels), training.labels)
    return np.asarray(trees.predict(histograms(unseen.pixels)))


def histograms(pixels: Pixels) -> NDArray[np.int64]:
    """(N, S, S) → (N, 256)."""
    return np.stack([np.bincount(one.ravel(), minlength=256) for one in pixels])


# ---- scores ----


def scores(truth: Labels, found: Labels) -> dict[str, float]:
    """Macro-averaged F1 and accuracy."""
    from sklearn.metrics import f1_score

    f1 = f1_score(truth, found, labels=range(len(CLASSES)), average="macro", zero_division=0)
    return {"macro_f1": float(f1), "accuracy": float((truth == found).mean())}


def scored(folder: Path, name: str, training: Slices, unseen: Slices, **settings: Any) -> dict[str, float]:
    """Scores of one training of AlexNet, kept in a file; its weights, 228 MB, go once they are scored."""
    made_of = [settings, NETWORK, BATCH, training.groups.tolist(), unseen.groups.tolist()]
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:8]
    path = folder / f"{name}-{digest}.json"
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    began, inside = time.perf_counter(), path.with_suffix("")
    found = scores(unseen.labels, alexnet(training, unseen, inside, **settings))
    found["minutes_since_last_start"] = (time.perf_counter() - began) / 60
    path.write_text(json.dumps(found), encoding="utf-8")
    (inside / WEIGHTS).unlink()
    return found


def compared(
    slices: Slices, folder: Path, *, seeds: Sequence[int], steps: int, folds: int | None
) -> dict[str, list[dict[str, float]]]:
    """Scores of both arms and of the forest, by seed and, with `folds`, by fold."""
    pairs = parts(slices, folds, seed=0) if folds else parts(slices, SHARE, seed=0)[-1:]
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in (*ARMS, "forest on histograms")}
    for seed in seeds:
        for number, (training, unseen) in enumerate(pairs):
            sides = slices.of(training), slices.of(unseen)
            for arm, each in found.items():
                if arm in ARMS:
                    name = f"{arm.replace(' ', '-')}-seed{seed}-fold{number}of{len(pairs)}"
                    settings = {"arm": arm, "seed": seed, "steps": steps, "optimiser": OPTIMISER}
                    each.append(scored(folder, name, *sides, **settings))
                else:
                    each.append(scores(sides[1].labels, forest(*sides, seed=seed)))
                print(f"{arm}, seed {seed}, fold {number}: {each[-1]}", file=sys.stderr, flush=True)
    return found


def chosen(slices: Slices, folder: Path, *, steps: int) -> list[dict[str, Any]]:
    """Scores of each candidate optimiser on a fifth of the training slices, learned as they are from the others."""
    training, _ = parts(slices, SHARE, seed=0)[-1]
    inner = slices.of(training)
    seen, held = parts(inner, SHARE, seed=1)[-1]
    found = []
    for number, optimiser in enumerate(CANDIDATES):
        settings = {"arm": AS_THEY_ARE, "seed": 0, "steps": steps, "optimiser": optimiser}
        found.append(optimiser | scored(folder, f"choice{number}", inner.of(seen), inner.of(held), **settings))
        print(found[-1], file=sys.stderr, flush=True)
    return found


def means(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation."""
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}


def description(slices: Slices) -> dict[str, int]:
    """How many slices, groups of copies and pairs of copies."""
    sizes = np.bincount(slices.groups)
    pairs = np.triu(copies(slices.pixels), 1).sum()
    return {"slices": len(slices.labels), "groups": len(sizes), "largest_group": int(sizes.max()), "pairs": int(pairs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of a folder of slices per class")
    parser.add_argument("--out", type=Path, default=Path("t1ce"), help="trainings and scores (default: t1ce)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--steps", type=int, default=1000,
        help=f"of batches of {BATCH}, rounded up to whole rounds of {STEPS_PER_EPOCH} (default: 1000)",
    )  # fmt: skip
    parser.add_argument("--folds", type=int, help="cross-validate in so many folds instead of one split")
    parser.add_argument("--choose", action="store_true", help="score optimisers on a part of the training slices")
    arguments = parser.parse_args()
    slices = read_slices(arguments.data)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.choose:
        print(json.dumps(chosen(slices, arguments.out, steps=arguments.steps), indent=2))
        return
    found = compared(slices, arguments.out, seeds=arguments.seeds, steps=arguments.steps, folds=arguments.folds)
    f1 = {arm: [one["macro_f1"] for one in each] for arm, each in found.items()}
    gains = [after - before for before, after in zip(f1[AS_THEY_ARE], f1[AUGMENTED], strict=True)]
    print(f"{'macro F1':24}{'mean':>7}{'SD':>7}   by seed and fold")
    for name, values in {**f1, "gain by augmentation": gains}.items():
        mean = means(values)
        print(f"{name:24}{mean['mean']:7.3f}{mean['sd']:7.3f}   {', '.join(f'{value:.3f}' for value in values)}")
    print(json.dumps({**description(slices), "steps": arguments.steps, "seeds": arguments.seeds, "scores": found}))


if __name__ == "__main__":
    main()
