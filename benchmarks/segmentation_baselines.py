"""What a plain U-Net and a colour forest reach on the lymph-node crops: the bar for the shipped weights.

    python benchmarks/segmentation_baselines.py --data ../shared/data/camelyon_tumour

Both are scored out of fold on the folds of the shipped weights (three runs of neighbouring crop
numbers), pooled over all crops: a pixel-wise random forest on smoothed colours, and a U-Net of
1.9 M parameters trained with flips and quarter turns for 20 core-minutes a fold (10 minutes on 2
cores; CPU time of the process, so that other load does not count). Prints one JSON line each.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

FOLDS = 3
SIGMAS_PX = (2, 4, 8, 16)
PATCH, BATCH, LEARNING_RATE = 256, 8, 1e-3
WIDTHS = (16, 32, 64, 128, 256)


def read_crops(folder: Path):
    """Images (N, 512, 512, 3) and tumour masks (N, 512, 512), in the order of their names."""
    names = sorted(path.stem for path in (folder / "images").glob("*.jpg"))
    if not names:
        sys.exit(f"no crops under {folder / 'images'}: give the folder with --data")
    images = [np.asarray(Image.open(folder / "images" / f"{name}.jpg").convert("RGB")) for name in names]
    masks = [np.asarray(Image.open(folder / "masks" / f"{name}.jpg").convert("L")) > 127 for name in names]
    return np.stack(images), np.stack(masks)


def forest(images, masks, unseen, *, seed: int):
    """Probability of `unseen` from RGB and optical density of stains, smoothed over four widths."""
    from scipy.ndimage import gaussian_filter
    from skimage.color import rgb2hed
    from sklearn.ensemble import RandomForestClassifier

    def features(image):
        colours = np.concatenate([image / 255, rgb2hed(image)], axis=-1)
        smooth = [gaussian_filter(colours, (sigma, sigma, 0)) for sigma in SIGMAS_PX]
        return np.concatenate(smooth, axis=-1, dtype=np.float32)

    rng = np.random.default_rng(seed)
    chosen = [rng.choice(512 * 512, 4000, replace=False) for _ in images]
    x = np.concatenate([features(i).reshape(512 * 512, -1)[c] for i, c in zip(images, chosen, strict=True)])
    y = np.concatenate([m.ravel()[c] for m, c in zip(masks, chosen, strict=True)])
    trees = RandomForestClassifier(100, min_samples_leaf=20, n_jobs=2, random_state=seed).fit(x, y)
    return np.stack([trees.predict_proba(features(i).reshape(512 * 512, -1))[:, 1].reshape(512, 512) for i in unseen])


def plain_unet():
    """Ronneberger's U-Net with batch norms, 16 to 256 channels: 1.9 M parameters."""
    import keras
    from keras import layers

    def double(x, width):
        for _ in range(2):
            x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.95)(x))
        return x

    image = keras.Input((None, None, 3))
    x, skips = double(image, WIDTHS[0]), []
    for width in WIDTHS[1:]:
        skips.append(x)
        x = double(layers.MaxPooling2D()(x), width)
    for width, skip in zip(WIDTHS[-2::-1], skips[::-1], strict=True):
        x = layers.Concatenate()([layers.Conv2DTranspose(width, 2, strides=2)(x), skip])
        x = double(x, width)
    return keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid")(x))


def unet(images, masks, unseen, *, seed: int, core_minutes: float):
    """Probability of `unseen` after `core_minutes` of training."""
    import keras

    keras.utils.set_random_seed(seed)
    network = plain_unet()
    network.compile(keras.optimizers.Adam(LEARNING_RATE), "binary_crossentropy", jit_compile=False)
    rng, began = np.random.default_rng(seed), time.process_time()

    def patch():
        which, (row, column) = rng.integers(len(images)), rng.integers(0, 512 - PATCH + 1, 2)
        window, turns, flip = np.s_[row : row + PATCH, column : column + PATCH], rng.integers(4), rng.integers(2)
        pair = [np.rot90(a[which][window], turns)[:, :: 1 - 2 * flip] for a in (images, masks)]
        return pair[0] / np.float32(127.5) - 1, pair[1][..., None].astype(np.float32)

    while time.process_time() - began < core_minutes * 60:
        x, y = zip(*(patch() for _ in range(BATCH)), strict=True)
        network.train_on_batch(np.stack(x), np.stack(y))
    return network.predict(unseen / np.float32(127.5) - 1, batch_size=1, verbose=0)[..., 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/camelyon_tumour"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--core-minutes", type=float, default=20, help="training of the U-Net per fold (default: 20)")
    parser.add_argument("--only", choices=("forest", "unet"))
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from digipath.measure.scores import auroc, pooled_dice

    images, masks = read_crops(arguments.data)
    methods = {"forest": {}, "unet": {"core_minutes": arguments.core_minutes}}
    for name, options in methods.items():
        for seed in range(arguments.seeds) if arguments.only in (None, name) else ():
            probability = np.zeros(masks.shape, np.float32)
            for held_out in np.array_split(np.arange(len(images)), FOLDS):
                seen = np.setdiff1d(np.arange(len(images)), held_out)
                method = {"forest": forest, "unet": unet}[name]
                probability[held_out] = method(images[seen], masks[seen], images[held_out], seed=seed, **options)
            scores = {"pooled_dice": pooled_dice(masks, probability > 0.5), "pixel_auroc": auroc(masks, probability)}
            print(json.dumps({"method": name, "seed": seed, **{k: round(v, 4) for k, v in scores.items()}}), flush=True)


if __name__ == "__main__":
    main()
