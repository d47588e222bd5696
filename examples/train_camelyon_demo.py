"""Train the weights that digipath ships: a small U-Net on 32 lymph-node crops, with their card.

    python examples/train_camelyon_demo.py --data ../shared/data/camelyon_tumour --out weights

First five networks, each scored on the fold of crops that it has not seen; then one network on all
crops, whose weights are written to <out>/lymphnode-unet-v1.weights.h5, with a card beside them that
holds the scores of the five.
Any backend of Keras will do. Takes about 17 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import time
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.color import hed_from_rgb, rgb_from_hed

from digipath.measure.scores import auroc, dice, pooled_dice
from digipath.nn import build
from digipath.nn.losses import HybridLoss

# ---- settings, chosen by cross-validation on these crops ----

NAME = "lymphnode-unet-v1"
NETWORK = {
    "name": "unet-small",
    "config": {
        "classes": 1,
        "activation": "sigmoid",
        "shrink": 2,
        "widths": [32, 48, 64, 96],
        "output_stride": 8,
        "dropout": 0.2,
    },
}
SEED = 0
FOLDS = 5
CROP = 512  # px, side of every image
PATCH = 384  # px, side of what the network trains on
BATCH = 8  # patches
EPOCHS = 16
STEPS = 25  # batches that count as an epoch
LEARNING_RATE = 2e-3  # its highest, after a warm-up of one epoch; then down to zero along a cosine
WEIGHT_DECAY = 1e-3
AVERAGING = 0.99  # momentum of the moving average of the weights, which is what is kept
SETTLING = 60  # batches that give the averaged weights batch statistics of their own
LABEL_SMOOTHING = 0.05  # the outlines are noisy
SCALE, OFFSET = 1 / 127.5, -1.0  # uint8 RGB → what the network takes, in [−1, 1]

# ---- augmentation: largest change of each kind, drawn uniformly on either side ----

STAIN_GAIN, STAIN_SHIFT = 0.24, 0.06  # of haematoxylin, eosin and residual optical density
BRIGHTNESS, CONTRAST = 0.1, 0.2
BLUR_CHANCE, BLUR_MOST = 0.3, 0.17  # share of a pixel that goes to each neighbour along an axis

# ---- what the card says besides numbers ----

LIMITS = [
    "A demonstration trained on a few crops, not a clinical model: not for diagnosis.",
    "The resolution of the crops is not stated; 0.5 µm/px is assumed from the size of lymphocytes.",
    "The crops were cut around metastases and look like one stain and few slides: specificity on whole "
    "slides, other stains, scanners and organs is unknown; it was seen to call tumour in many normal patches "
    "of other CAMELYON16 slides.",
    "The folds hold neighbouring crop numbers together, as neighbours may come from one slide; no two crops "
    "were found to overlap, but which slide each comes from is not known, so the scores may still be too "
    "good for new slides.",
    "The settings were chosen on the same folds that are reported, which favours them a little.",
    "The masks come in blocks of 16 px with errors at borders; finer outlines cannot be expected.",
]


def read_crops(folder: Path) -> tuple[list[str], NDArray[np.uint8], NDArray[np.bool_]]:
    """Names, images (N, 512, 512, 3) and tumour masks (N, 512, 512) in the order of the names."""
    names = sorted(path.stem for path in (folder / "images").glob("*.jpg"))
    if not names:
        raise SystemExit(f"no crops under {folder / 'images'}: give the folder with --data")
    images = [np.asarray(Image.open(folder / "images" / f"{name}.jpg").convert("RGB")) for name in names]
    masks = [np.asarray(Image.open(folder / "masks" / f"{name}.jpg").convert("L")) > 127 for name in names]
    return names, np.stack(images), np.stack(masks)


def optical_density(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Natural optical density, in which stains add up; 0 for white."""
    return -np.log((images.astype(np.float32) + 1) / 256)


def change_colour(density: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Optical density (P, P, 3) → RGB in [0, 1] as another stain batch and scanner might have made it."""
    gain = 1 + rng.uniform(-STAIN_GAIN, STAIN_GAIN, 3)
    jitter = (hed_from_rgb * gain @ rgb_from_hed).astype(np.float32)
    rgb = np.exp(-(density @ jitter + rng.uniform(-STAIN_SHIFT, STAIN_SHIFT, 3).astype(np.float32)))
    mean = rgb.mean(axis=(0, 1))
    contrast, brightness = 1 + rng.uniform(-CONTRAST, CONTRAST), rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    rgb = (rgb - mean) * contrast + mean + brightness
    if rng.random() < BLUR_CHANCE:
        share = rng.uniform(0, BLUR_MOST)
        for axis in (0, 1):
            rgb = (1 - 2 * share) * rgb + share * (np.roll(rgb, 1, axis) + np.roll(rgb, -1, axis))
    return np.clip(rgb, 0, 1)


def random_patch(
    density: NDArray[np.float32], mask: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A patch (P, P, 3) in the network's range and its truth (P, P, 1), turned and flipped alike."""
    row, column = rng.integers(0, CROP - PATCH + 1, 2)
    window = np.s_[row : row + PATCH, column : column + PATCH]
    patch, truth = change_colour(density[window], rng) * 255 * SCALE + OFFSET, mask[window][..., None]
    turns, flip = rng.integers(4), rng.integers(2)
    patch, truth = np.rot90(patch, turns), np.rot90(truth, turns)
    if flip:
        patch, truth = patch[:, ::-1], truth[:, ::-1]
    return patch, truth * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / 2


class Patches(keras.utils.PyDataset):
    """Batches of random patches; batch `index` is the same in every run with the same seed."""

    def __init__(self, density: NDArray[np.float32], masks: NDArray[np.bool_], *, seed: int, batches: int) -> None:
        super().__init__(workers=1)
        self.density, self.masks, self.seed, self.batches = density, masks, seed, batches

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rng = np.random.default_rng([self.seed, index])
        chosen = rng.integers(0, len(self.masks), BATCH)
        pairs = [random_patch(self.density[i], self.masks[i], rng) for i in chosen]
        patches, truths = zip(*pairs, strict=True)
        return np.stack(patches).astype(np.float32), np.stack(truths).astype(np.float32)


def train(images: NDArray[np.uint8], masks: NDArray[np.bool_], *, seed: int, steps: int, label: str) -> keras.Model:
    """A network trained on these crops; prints a line every `STEPS` batches."""
    keras.utils.set_random_seed(seed)
    network = build(NETWORK["name"], **NETWORK["config"])
    schedule = keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE / 100, steps, warmup_target=LEARNING_RATE, warmup_steps=min(STEPS, steps // 2)
    )
    optimizer = keras.optimizers.AdamW(
        schedule, weight_decay=WEIGHT_DECAY, global_clipnorm=1.0, use_ema=True, ema_momentum=AVERAGING
    )
    # XLA is slow at convolutions on CPUs under TensorFlow, and all that JAX has.
    network.compile(optimizer, HybridLoss(), jit_compile=keras.backend.backend() == "jax")
    begun = time.monotonic()

    def report(step: int, logs: dict[str, float]) -> None:
        if (step + 1) % STEPS == 0:
            minutes = (time.monotonic() - begun) / 60
            done = f"step {step + 1} of {steps}, mean loss {logs['loss']:.3f}"
            print(f"{label}: {done}, {minutes:.1f} min", flush=True)

    # One pass in the eyes of Keras; at its end the moving average takes the place of the weights.
    patches = Patches(optical_density(images), masks, seed=seed, batches=steps)
    progress = keras.callbacks.LambdaCallback(on_train_batch_end=report)
    network.fit(patches, shuffle=False, verbose=0, callbacks=[progress])
    for index in range(min(SETTLING, steps)):
        network(patches[index][0], training=True)
    # A copy that was never compiled: the optimiser's state would be three quarters of the file.
    trained = build(NETWORK["name"], **NETWORK["config"])
    trained.set_weights(network.get_weights())
    return trained


def predict(network: keras.Model, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Tumour probability (N, 512, 512) of whole crops."""
    scaled = images.astype(np.float32) * np.float32(SCALE) + np.float32(OFFSET)
    return network.predict(scaled, batch_size=1, verbose=0)[..., 0]


def score(masks: NDArray[np.bool_], probability: NDArray[np.float32]) -> dict[str, float]:
    """The scores of the card for these crops."""
    found = probability > 0.5
    return {
        "dice, mean per crop": float(np.mean([dice(*pair) for pair in zip(masks, found, strict=True)])),
        "dice, pooled pixels": pooled_dice(masks, found),
        "auroc, pixels": auroc(masks, probability),
        "dice, pooled pixels, all called tumour": pooled_dice(masks, np.ones_like(masks)),
    }


def write_card(folder: Path, metrics: list[dict], *, crops: int, steps: int, minutes: float) -> None:
    """Write <folder>/<NAME>.json for the weights that lie beside it."""
    weights = folder / f"{NAME}.weights.h5"
    content = weights.read_bytes()
    card = {
        "schema": 1,
        "name": NAME,
        "kind": "network",
        "task": "lymph-node metastasis segmentation",
        "network": NETWORK,
        "classes": ["normal", "tumour"],
        "positive": "tumour",
        "activation": "sigmoid",
        "input": {
            "modality": "slide",
            "mpp": 0.5,
            "patch": CROP,
            "training_patch": PATCH,
            "scale": SCALE,
            "offset": OFFSET,
            "stain": None,
        },
        "file": weights.name,
        "urls": [],
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "sha256_reason": None,
        "licence": "CC0-1.0",
        "citation": "Trained on crops derived from CAMELYON: Litjens et al. 2018, GigaScience 7(6), "
        "doi:10.1093/gigascience/giy065",
        "training": {
            "data": f"{crops} H&E lymph-node crops of {CROP} × {CROP} px derived from CAMELYON (CC0), with "
            "masks of metastasis in blocks of 16 px",
            "split": "all crops; settings were chosen by the cross-validation reported under metrics",
            "script": "examples/train_camelyon_demo.py",
            "seed": SEED,
            "epochs": steps // STEPS,
            "minutes": round(minutes, 1),
            "versions": {
                "python": platform.python_version(),
                "keras": keras.__version__,
                "backend": f"{keras.backend.backend()} {backend_version()}",
                "numpy": np.__version__,
            },
        },
        "metrics": metrics,
        "calibration": None,
        "conformal": None,
        "intended_use": "Demonstration and tests of digipath on H&E lymph-node slides. Research use only.",
        "limits": LIMITS,
    }
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    (folder / f"{NAME}.json").write_text(text, encoding="utf-8")


def backend_version() -> str:
    """Version of the library that Keras runs on."""
    return __import__(keras.backend.backend()).__version__


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path("../shared/data/camelyon_tumour")
    parser.add_argument("--data", type=Path, default=data, help=f"has images/ and masks/; default {data}")
    parser.add_argument("--out", type=Path, default=Path("weights"), help="where to write; default weights")
    parser.add_argument("--quick", action="store_true", help="4 crops, 2 folds, 2 steps: does it run?")
    arguments = parser.parse_args()

    begun = time.monotonic()
    names, images, masks = read_crops(arguments.data)
    folds, steps = (2, 2) if arguments.quick else (FOLDS, EPOCHS * STEPS)
    if arguments.quick:
        names, images, masks = names[:4], images[:4], masks[:4]
    arguments.out.mkdir(parents=True, exist_ok=True)

    # Crops with neighbouring numbers may come from one slide: runs of numbers are left out together.
    probability = np.zeros(masks.shape, dtype=np.float32)
    scores = []
    for fold, held_out in enumerate(np.array_split(np.arange(len(names)), folds)):
        seen = np.setdiff1d(np.arange(len(names)), held_out)
        label = f"fold {fold + 1} of {folds}"
        network = train(images[seen], masks[seen], seed=SEED + fold, steps=steps, label=label)
        probability[held_out] = predict(network, images[held_out])
        scores.append(score(masks[held_out], probability[held_out]))
        found = ", ".join(f"{name} {value:.3f}" for name, value in scores[-1].items())
        print(f"{label}: {found}, {(time.monotonic() - begun) / 60:.1f} min in all", flush=True)

    metrics = [
        {
            "name": name,
            "value": round(value, 3),
            "spread": round(float(np.std([one[name] for one in scores])), 3),
            "data": f"{len(names)} crops of {CROP} × {CROP} px, camelyon_tumour; probability above 0.5 is "
            "called tumour",
            "split": f"{folds}-fold cross-validation, folds of neighbouring crop numbers; value over all "
            "out-of-fold predictions, spread is the standard deviation over folds",
        }
        for name, value in score(masks, probability).items()
    ]
    for metric in metrics:
        print(f"out of fold: {metric['name']} {metric['value']} ± {metric['spread']}", flush=True)

    network = train(images, masks, seed=SEED + folds, steps=steps, label="all crops")
    network.save_weights(arguments.out / f"{NAME}.weights.h5")
    minutes = (time.monotonic() - begun) / 60
    write_card(arguments.out, metrics, crops=len(names), steps=steps, minutes=minutes)
    print(f"wrote {arguments.out / NAME}.json and .weights.h5 after {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
