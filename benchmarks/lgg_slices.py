"""Whole-tumour Dice on real MRI slices of low-grade gliomas by patient, beside a threshold and a forest on pixels.

    python benchmarks/lgg_slices.py ../shared/data/mri_lgg_slices

14 patients of TCGA-LGG, 134 axial slices (28 of them without tumour) with the channels pre-contrast, FLAIR and
post-contrast. Seven folds of two patients: each patient is segmented once, by a network that never saw them. Slices
are standardised by channel inside the head, without skull and scalp. A patient's Dice is that of all slices together,
2 TP / (2 TP + FP + FN). For comparison, on the same folds: the brightest FLAIR, from a threshold chosen on the training
patients, and a forest on the smoothed intensities about each pixel.

Settings, among them two networks per fold and the probability of 0.3, were chosen with --develop: the training patients
of the first fold, in three inner folds of four. The two patients which that fold tests on took no part; the other
twelve are tested by networks that never saw them, but whose settings were chosen by what other networks made of them.
Both groups have a line of their own.

Prints a table and one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from digipath.measure.scores import pooled_dice
from digipath.training.schedule import Schedule

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Scores = dict[str, float]
Table = dict[str, Scores]  # patient → method → Dice

FOLDS, INNER_FOLDS = 7, 3
SIDE_PX = 128  # the network's; slices have 256
FLAIR = 1
HEAD_SHARE = 0.1  # of the brightest values: what is above is head
SCALP_PX, SKULL_PX = 12, 20
LEAST_Z, MOST_Z = -3.0, 7.0  # standard deviations about the head's mean that 8 bits hold
NETWORK = {
    "name": "unet-small",
    "config": {"shrink": 1, "widths": [24, 48, 64, 96, 128], "output_stride": 2, "dropout": 0.2},
}
SCHEDULE = Schedule(
    epochs=6, steps_per_epoch=100, batch=8, learning_rate=2e-3, warmup_epochs=1, decay="cosine", patience=None,
    keep="last", averaging=0.99, settle_batches=20, mixed_precision=True,
)  # fmt: skip
NETWORKS, FOUND = 2, 0.3  # of each fold, their mean counts; the probability from which a pixel is tumour
SCALING = {"scale": (MOST_Z - LEAST_Z) / 255, "offset": LEAST_Z}
SIGMAS_PX = (0, 2, 4, 8)  # of the forest's smoothing
FOREST_PIXELS = 2000  # of each slice


@dataclass(frozen=True)
class Patient:
    """All slices of one: standardised, (N, 256, 256, 3) uint8, and their masks (N, 256, 256)."""

    name: str
    slices: Pixels
    masks: Mask


# ---- data ----


def read_patients(folder: Path) -> list[Patient]:
    """The patients, by name."""
    patients = [read_patient(path) for path in sorted(folder.iterdir()) if path.is_dir()]
    if not patients:
        sys.exit(f"no folders of patients under {folder}")
    return patients


def read_patient(folder: Path) -> Patient:
    """The slices of a folder, in the order of their numbers."""
    masks = sorted(folder.glob("*_mask.png"), key=lambda path: int(path.stem.split("_")[-2]))
    slices = [np.asarray(Image.open(path.with_name(path.name.replace("_mask", ""))).convert("RGB")) for path in masks]
    found = [np.asarray(Image.open(path).convert("L")) > 127 for path in masks]
    return Patient(folder.name, np.stack([standardised(image) for image in slices]), np.stack(found))


def standardised(image: Pixels) -> Pixels:
    """Each channel of a slice by median and deviation inside the head; `LEAST_Z` to `MOST_Z` become 0 to 255.

    Both are taken at a depth of `SKULL_PX`, as bright fat would hide the brain's contrast: the deviation is 1.4826
    times the median distance from the median. Around the head all is 0.
    """
    values = image.astype(np.float32)
    brightest = ndimage.gaussian_filter(values.max(axis=-1), 2)
    head = ndimage.binary_fill_holes(brightest > HEAD_SHARE * np.percentile(brightest, 99))
    depth = ndimage.distance_transform_edt(head)
    smooth = ndimage.gaussian_filter(values, (1, 1, 0))  # else both are whole grey values, too coarse
    inside = smooth[depth > min(SKULL_PX, depth.max() / 2)]
    median = np.median(inside, axis=0)
    deviation = 1.4826 * np.median(abs(inside - median), axis=0)
    found = (values - median) / np.maximum(deviation, 1)
    grey = 255 * (found - LEAST_Z) / (MOST_Z - LEAST_Z) * (depth > SCALP_PX)[..., None]
    return np.asarray(grey.clip(0, 255).round().astype(np.uint8))


def in_folds(names: Sequence[str], count: int, *, seed: int) -> list[list[str]]:
    """The names in `count` parts, drawn by the seed; sizes differ by one at most."""
    order = np.random.default_rng(seed).permutation(len(names))
    return [[names[index] for index in part] for part in np.array_split(order, count)]


# ---- what networks see ----


class AugmentedSlices:
    """Training samples by their index: every slice once per round, in an order and with changes of its own.

    Turned, zoomed, shifted, mirrored left to right and bent; each channel's brightness, contrast and gamma changed.
    """

    def __init__(self, patients: Sequence[Patient], *, side_px: int, seed: int) -> None:
        self.slices = [resized(one, side_px) for patient in patients for one in patient.slices]
        self.masks = [resized(one.astype(np.uint8) * 255, side_px) for patient in patients for one in patient.masks]
        self.side_px, self.seed = side_px, seed

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of a slice and its mask."""
        return (self.side_px, self.side_px, 3), (self.side_px, self.side_px, 1)

    def digest(self) -> str:
        """Of some samples: others where slices or changes are others, so that no training goes on with them."""
        first = hashlib.sha256()
        for index in range(8):
            for array in self.sample(index):
                first.update(array.tobytes())
        return first.hexdigest()

    def sample(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The slice of an index and its mask."""
        round_, place = divmod(index, len(self.slices))
        which = np.random.default_rng((self.seed, round_)).permutation(len(self.slices))[place]
        rng = np.random.default_rng((self.seed, round_, place))
        mesh = bent(self.side_px, rng)
        image, mask = (moved(array[which], mesh) for array in (self.slices, self.masks))
        return relit(faded(image, mask, rng), rng), (mask > 127).astype(np.float32)[..., None]


def resized(image: Pixels, side_px: int) -> Pixels:
    """(S, S) or (S, S, 3) → the same of `side_px`."""
    return np.asarray(Image.fromarray(image).resize((side_px, side_px), Image.Resampling.BOX))


CELLS = 6  # along a side of the mesh that is bent
TURN_DEGREES, ZOOM, SHIFT, BEND = 20.0, 0.2, 0.06, 0.015  # the last two as shares of the side


def bent(side_px: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Where each corner of a mesh of `CELLS` × `CELLS` was before: (CELLS + 1, CELLS + 1, 2) as (x, y) in px."""
    angle = np.deg2rad(TURN_DEGREES) * rng.uniform(-1, 1)
    zoom = (1 + ZOOM) ** (rng.uniform(-1, 1) + rng.uniform(-0.5, 0.5, 2))  # the aspect changes too
    mirror = rng.choice([-1, 1])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    at = np.linspace(-0.5, 0.5, CELLS + 1)
    corners = np.stack(np.meshgrid(at, at), axis=-1) @ turn * zoom * [mirror, 1] + 0.5
    corners = corners + SHIFT * rng.uniform(-1, 1, 2) + BEND * rng.normal(size=corners.shape)
    return np.asarray(corners * side_px)


def moved(image: Pixels, mesh: NDArray[np.float64]) -> Pixels:
    """The image with the mesh's corners on a regular grid; black from beyond the border."""
    at = np.linspace(0, image.shape[0], CELLS + 1).round().astype(int)
    cells = []
    for row in range(CELLS):
        for col in range(CELLS):
            box = (at[col], at[row], at[col + 1], at[row + 1])
            around = mesh[row, col], mesh[row + 1, col], mesh[row + 1, col + 1], mesh[row, col + 1]
            cells.append((tuple(map(int, box)), tuple(np.concatenate(around).tolist())))
    picture = Image.fromarray(image)
    return np.asarray(picture.transform(picture.size, Image.Transform.MESH, cells, Image.Resampling.BILINEAR))


GAMMA, GAIN, BRIGHTNESS = 0.35, 0.25, 0.08  # of the logarithm, the logarithm, all grey values


def relit(image: Pixels, rng: np.random.Generator) -> NDArray[np.float32]:
    """Gamma, contrast about the middle of what is bright, and brightness of each channel, drawn by itself."""
    grey = np.arange(256) / 255
    out = np.empty(image.shape, np.float32)
    for channel in range(image.shape[-1]):
        gamma, gain, shift = rng.uniform(-1, 1, 3) * (GAMMA, GAIN, BRIGHTNESS)
        table = (grey ** np.exp(gamma) - 0.3) * np.exp(gain) + 0.3 + shift
        out[..., channel] = (255 * table).clip(0, 255).astype(np.float32)[image[..., channel]]
    return out


FADE, FADE_SIGMA = (0.2, 1.2), 0.01  # of the contrast; a share of the side
MIDDLE = -255 * LEAST_Z / (MOST_Z - LEAST_Z)  # the grey value of the brain's median


def faded(image: Pixels, mask: Pixels, rng: np.random.Generator) -> Pixels:
    """The tumour's contrast to the brain's median times a factor, as few patients show how faint tumours may be."""
    inside = ndimage.gaussian_filter(mask.astype(np.float32) / 255, FADE_SIGMA * len(mask))[..., None]
    return (MIDDLE + (image - MIDDLE) * (1 + (rng.uniform(*FADE) - 1) * inside)).clip(0, 255).astype(np.uint8)


# ---- methods: the training patients, those to segment → probability of each of their slices ----


def unet(
    training: Sequence[Patient],
    unseen: Sequence[Patient],
    folder: Path,
    *,
    seed: int,
    schedule: Schedule = SCHEDULE,
    network: Mapping[str, Any] = NETWORK,
    side_px: int = SIDE_PX,
) -> list[NDArray[np.float32]]:
    """Probability of tumour in each patient, (N, 256, 256): the mean of `NETWORKS` U-Nets, trained in `folder`."""
    from digipath.nn import build
    from digipath.training.fit import fit

    chances = []
    for number in range(NETWORKS):
        one = NETWORKS * seed + number
        source = AugmentedSlices(training, side_px=side_px, seed=one)
        identity = {"first samples": source.digest()}
        samples = partial(endless, source, schedule.batch)
        fitted = fit(network, samples, None, schedule, folder / f"network-{number}", seed=one, identity=identity)
        made = build(network["name"], **network["config"])
        made.load_weights(fitted.weights)
        chances.append([segmented(made, patient.slices, side_px) for patient in unseen])
    return [np.mean(of_patient, axis=0) for of_patient in zip(*chances, strict=True)]


def endless(source: AugmentedSlices, batch: int, first: int) -> Any:
    """Training batches from a sample on."""
    from digipath.training.data import batches

    return batches(source, batch=batch, first=first, **SCALING)


def segmented(network: Any, slices: Pixels, side_px: int) -> NDArray[np.float32]:
    """Mean of the slices and their mirror images, (N, 256, 256)."""
    small = np.stack([resized(one, side_px) for one in slices]) * np.float32(SCALING["scale"]) + SCALING["offset"]
    found = network.predict(small, batch_size=8, verbose=0)[..., 0]
    found = (found + network.predict(small[:, :, ::-1], batch_size=8, verbose=0)[:, :, ::-1, 0]) / 2
    size = slices.shape[2], slices.shape[1]
    return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BILINEAR)) for one in found])


def flair_threshold(training: Sequence[Patient], unseen: Sequence[Patient]) -> list[Mask]:
    """FLAIR, smoothed over 2 px, above the value that gives the training patients the best mean Dice."""
    smooth = [ndimage.gaussian_filter(p.slices[..., FLAIR].astype(np.float32), (0, 2, 2)) for p in training]
    mean = {
        value: statistics.fmean(dice(p, s > value) for p, s in zip(training, smooth, strict=True))
        for value in range(40, 256, 4)
    }
    best = max(mean, key=lambda value: mean[value])
    return [ndimage.gaussian_filter(p.slices[..., FLAIR].astype(np.float32), (0, 2, 2)) > best for p in unseen]


def forest(training: Sequence[Patient], unseen: Sequence[Patient], *, seed: int) -> list[Mask]:
    """A forest on the three channels at each pixel, as they are and smoothed over three widths."""
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(seed)
    seen, truth = [], []
    for patient in training:
        for image, mask in zip(patient.slices, patient.masks, strict=True):
            chosen = rng.choice(mask.size, FOREST_PIXELS, replace=False)
            seen.append(surroundings(image)[chosen])
            truth.append(mask.ravel()[chosen])
    trees = RandomForestClassifier(100, min_samples_leaf=20, n_jobs=2, random_state=seed)
    trees.fit(np.concatenate(seen), np.concatenate(truth))
    found = []
    for patient in unseen:
        chance = [trees.predict_proba(surroundings(image))[:, 1].reshape(image.shape[:2]) for image in patient.slices]
        found.append(np.stack(chance) > 0.5)
    return found


def surroundings(image: Pixels) -> NDArray[np.float32]:
    """(S, S, 3) → (S², 12): the channels smoothed by each of `SIGMAS_PX`."""
    values = image.astype(np.float32)
    smooth = [ndimage.gaussian_filter(values, (sigma, sigma, 0)) for sigma in SIGMAS_PX]
    return np.concatenate(smooth, axis=-1).reshape(-1, 3 * len(SIGMAS_PX))


# ---- scores ----


def dice(patient: Patient, found: Mask) -> float:
    """2 TP / (2 TP + FP + FN) over all slices of a patient."""
    return pooled_dice(patient.masks, found)


def cross_validated(
    patients: Mapping[str, Patient], folds: Sequence[Sequence[str]], folder: Path, *, seed: int
) -> Table:
    """Dice of each patient by each method, trained on the patients of the other folds."""
    table: Table = {}
    for number, held in enumerate(folds):
        training = [patients[name] for fold in folds for name in fold if name not in held]
        unseen = [patients[name] for name in held]
        chances = unet(training, unseen, folder / f"fold-{number}", seed=seed)
        found = {
            "U-Net": [chance > FOUND for chance in chances],
            "FLAIR threshold": flair_threshold(training, unseen),
            "pixel forest": forest(training, unseen, seed=seed),
        }
        for place, patient in enumerate(unseen):
            table[patient.name] = {method: dice(patient, masks[place]) for method, masks in found.items()}
            print(f"fold {number}, {patient.name}: {table[patient.name]}", file=sys.stderr, flush=True)
    return table


def summary(table: Table) -> dict[str, Scores]:
    """Mean, standard deviation and median over the patients, of each method."""
    found = {}
    for method in next(iter(table.values())):
        values = [scores[method] for scores in table.values()]
        measures = {"mean": statistics.fmean, "sd": statistics.stdev, "median": statistics.median}
        found[method] = {name: float(measure(values)) for name, measure in measures.items()}
    return found


def printed(table: Table, apart: Sequence[str]) -> str:
    """A row for each patient, the summary, and the means of patients `apart` from the choice of settings and others."""
    methods = list(next(iter(table.values())))
    rows: dict[str, Scores] = dict(sorted(table.items()))
    overall = summary(table)
    rows |= {name: {method: overall[method][name] for method in methods} for name in ("mean", "sd", "median")}
    if apart:
        for name, those in (("kept apart", apart), ("others", [one for one in table if one not in apart])):
            means = {method: statistics.fmean(table[one][method] for one in those) for method in methods}
            rows[f"{len(those)} {name}"] = means
    lines = [f"{'Dice':16}" + "".join(f"{method:>17}" for method in methods)]
    lines += [f"{name:16}" + "".join(f"{scores[method]:17.3f}" for method in methods) for name, scores in rows.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of a folder of slices per patient")
    parser.add_argument("--out", type=Path, help="keep the trainings here (default: a temporary folder)")
    parser.add_argument("--seed", type=int, default=0, help="of folds and trainings")
    parser.add_argument("--develop", action="store_true", help="only among the training patients of the first fold")
    arguments = parser.parse_args()
    began, worked = time.perf_counter(), time.process_time()
    patients = {patient.name: patient for patient in read_patients(arguments.data)}
    folds = in_folds(sorted(patients), FOLDS, seed=arguments.seed)
    if arguments.develop:
        folds = in_folds([name for fold in folds[1:] for name in fold], INNER_FOLDS, seed=arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        table = cross_validated(patients, folds, arguments.out or Path(temporary), seed=arguments.seed)
    minutes = {"wall": (time.perf_counter() - began) / 60, "cores": (time.process_time() - worked) / 60}
    print(printed(table, [] if arguments.develop else folds[0]))
    print(json.dumps({"dice": table, "summary": summary(table), "seed": arguments.seed, "minutes": minutes}))


if __name__ == "__main__":
    main()
