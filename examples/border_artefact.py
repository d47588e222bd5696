"""Why intensities are standardised inside the brain: a border that a network takes for a sign of grade.

    python examples/border_artefact.py --out border

Pereira et al. 2018 (section 4, Figure 2) found by guided backpropagation that their network looked at the border of the
brain, where whole-image standardisation puts a step between brain and background; standardised inside the brain, the
same network graded better. Here the cases to learn from come from places whose skull stripping leaves the brain smooth
or pitted, and most from the place where their grade is usually seen; unseen cases come from any. With a background far
below the brain, pits are the easiest sign of grade that there is. With a background at the brain's mean they hardly
show, and what is left is the tumour. The same small network is trained both ways, on the same cases, with the same
seed, and again with other cases and seeds. Some six minutes on 2 cores for each seed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before Keras is imported

import keras
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score

import digipath
from digipath.synthetic.mri import brain_case
from digipath.volume_rois import VolumeRule, on_grid, region_of
from digipath.volume_values import MODALITIES, Volume

GRADES = (2, 4)
AT_BORDER = "share of the explanation at the border"
WAYS = {"image": "whole image", "brain": "inside the brain"}
FROM_USUAL_PLACE = 0.9  # of the cases to learn from
BAND_VOX = 2  # on both sides of the brain's border
NETWORK = {"classes": 2, "widths": [8, 16, 32, 64], "dense": [32], "dropout": 0.2}
BATCH, LEARNING_RATE, WEIGHT_DECAY = 8, 2e-3, 1e-4


@dataclass(frozen=True)
class Effort:
    """How much is done."""

    training: int = 160  # cases
    unseen: int = 100
    epochs: int = 12
    side: int = 40  # of a region, in voxels
    explained: int = 20  # of the unseen cases
    volume: int = 64  # its side in voxels


QUICK = Effort(training=8, unseen=4, epochs=1, side=16, explained=2, volume=32)


@dataclass(frozen=True)
class Regions:
    """Cases as networks see them. pixels: by way of standardising, (n, side, side, side, 4); truth: (n,) in {0, 1}."""

    pixels: Mapping[str, NDArray[np.float32]]
    truth: NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("border"), help="folder for everything (default: border)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of cases and networks")
    parser.add_argument("--quick", action="store_true", help="next to no training: only to see that it runs")
    arguments = parser.parse_args()
    effort = QUICK if arguments.quick else Effort()
    arguments.out.mkdir(parents=True, exist_ok=True)
    each = {}
    for seed in arguments.seeds:
        each[seed], looked_at, maps = compared(effort, seed)
        print(f"seed {seed}: {each[seed]}", flush=True)
        example = next(at for at in range(len(looked_at)) if at % 2)  # the first of grade 4
        path = arguments.out / f"border_artefact-seed{seed}.png"
        draw(path, looked_at[example], {way: maps[way][example] for way in WAYS}, each[seed])
    measures = {name: [found[name] for found in each.values()] for name in each[arguments.seeds[0]]}
    found = {"seeds": each, "mean": {name: round(float(np.mean(values)), 3) for name, values in measures.items()}}
    (arguments.out / "found.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
    for name, values in measures.items():
        print(f"{name:45}{np.mean(values):7.3f} ± {np.std(values, ddof=len(values) > 1):.3f}")


def compared(effort: Effort, seed: int) -> tuple[dict[str, float], list[Volume], dict[str, list[NDArray[np.float32]]]]:
    """Both ways on cases of one seed: numbers by name, the cases that are explained, and their maps by way."""
    began, first = time.perf_counter(), 100_000 * seed
    learnt = regions(volumes(effort, effort.training, first_seed=first, artefact=FROM_USUAL_PLACE), effort)
    unseen = regions(volumes(effort, effort.unseen, first_seed=first + 50_000, artefact=0.0), effort)
    networks = {way: trained(learnt.pixels[way], learnt.truth, effort, seed) for way in WAYS}
    looked_at = list(volumes(effort, effort.explained, first_seed=first + 50_000, artefact=0.0))
    maps = {way: [explained(networks[way], volume, way, effort) for volume in looked_at] for way in WAYS}
    found = {}
    for way, told in WAYS.items():
        scored = scores(networks[way], unseen.pixels[way], unseen.truth)
        found |= {f"{told}: {name}": value for name, value in scored.items()}
        found[f"{told}: {AT_BORDER}"] = mean_share(maps[way], looked_at)
    found["share of the brain's box at the border"] = mean_share([box_of(volume) for volume in looked_at], looked_at)
    found["minutes"] = round((time.perf_counter() - began) / 60, 2)
    return found, looked_at, maps


def volumes(effort: Effort, count: int, *, first_seed: int, artefact: float) -> Iterator[Volume]:
    """Cases of the lower and the higher grade in turn."""
    for number in range(count):
        yield brain_case(
            GRADES[number % 2], seed=first_seed + number, shape_vox=(effort.volume,) * 3, border_artefact=artefact
        )


def rule(way: str, effort: Effort) -> VolumeRule:
    return VolumeRule(MODALITIES, "brain", (effort.side,) * 3, bias_field=False, standardise=way)


def regions(cases: Iterator[Volume], effort: Effort) -> Regions:
    """The box of the brain, standardised both ways."""
    pixels: dict[str, list[NDArray[np.float32]]] = {way: [] for way in WAYS}
    for volume in cases:
        for way in WAYS:
            pixels[way].append(region_of(volume, rule(way, effort)).pixels)
    count = len(pixels["brain"])
    return Regions({way: np.array(pixels[way]) for way in WAYS}, np.arange(count) % 2)


def trained(pixels: NDArray[np.float32], truth: NDArray[np.int64], effort: Effort, seed: int) -> keras.Model:
    """A small `grading-3d`; volumes are mirrored left to right at random."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    network = digipath.build("grading-3d", patch=effort.side, **NETWORK)
    steps = len(truth) // BATCH
    rate = keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE / 20, steps * max(effort.epochs - 1, 1), warmup_target=LEARNING_RATE, warmup_steps=steps
    )
    network.compile(keras.optimizers.AdamW(rate, WEIGHT_DECAY), "sparse_categorical_crossentropy", jit_compile=False)
    for _ in range(effort.epochs):
        order = rng.permutation(len(truth))[: steps * BATCH].reshape(steps, BATCH)
        for batch in order:
            mirrored = rng.uniform(size=(BATCH, 1, 1, 1, 1)) < 0.5
            network.train_on_batch(np.where(mirrored, pixels[batch, ::-1], pixels[batch]), truth[batch])
    return network


def scores(network: keras.Model, pixels: NDArray[np.float32], truth: NDArray[np.int64]) -> dict[str, float]:
    """AUROC and accuracy on cases that the network has not seen."""
    given = network.predict(pixels, batch_size=BATCH, verbose=0)[:, 1]
    return {
        "AUROC": round(float(roc_auc_score(truth, given)), 3),
        "accuracy": round(float(((given > 0.5) == truth).mean()), 3),
    }


def explained(network: keras.Model, volume: Volume, way: str, effort: Effort) -> NDArray[np.float32]:
    """Guided backpropagation from the class that the network calls, on the volume's grid, (X, Y, Z)."""
    region = region_of(volume, rule(way, effort))
    heat = digipath.explain(network, region.pixels, method="guided-backpropagation")
    return on_grid(heat, region, volume.shape_vox)


def border_share(heat: NDArray[np.floating], brain: NDArray[np.bool_]) -> float:
    """How much of a map (X, Y, Z) lies within `BAND_VOX` voxels of the brain's border, on either side."""
    away = np.where(brain, ndimage.distance_transform_edt(brain), ndimage.distance_transform_edt(~brain))
    return float(heat[away <= BAND_VOX].sum() / max(float(heat.sum()), 1e-12))


def mean_share(maps: list[NDArray[np.float32]], cases: list[Volume]) -> float:
    shares = [border_share(heat, volume.brain) for heat, volume in zip(maps, cases, strict=True)]
    return round(float(np.mean(shares)), 3)


def box_of(volume: Volume) -> NDArray[np.float32]:
    """A map that is the same everywhere in the brain's box."""
    region = region_of(volume, rule("brain", Effort(side=8)))
    return on_grid(np.ones((8, 8, 8), np.float32), region, volume.shape_vox)


def draw(path: Path, volume: Volume, maps: Mapping[str, NDArray[np.float32]], found: Mapping[str, float]) -> None:
    """T1c, T2 and both explanations of one case in the axial plane with most tumour, as Figure 2 of the paper."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    assert volume.tumour is not None
    z = int(volume.tumour.sum(axis=(0, 1)).argmax())
    x, y = (np.flatnonzero(volume.brain.any(axis=axes)) for axes in ((1, 2), (0, 2)))
    window = np.s_[max(x[0] - 2, 0) : x[-1] + 3, max(y[0] - 2, 0) : y[-1] + 3, z]
    figure, axes = plt.subplots(1, 4, figsize=(11, 3.6), layout="constrained")
    for panel, name in zip(axes[:2], ("t1c", "t2"), strict=True):
        values = volume.voxels[..., MODALITIES.index(name)]
        panel.imshow(values[window].T, cmap="gray", vmin=0, vmax=np.quantile(values[volume.brain], 0.995))
        panel.set_title(name.upper().replace("1C", "1c"))
    for panel, way in zip(axes[2:], WAYS, strict=True):
        shown = maps[way][window].T
        panel.imshow(shown, cmap="jet", vmin=0, vmax=max(float(np.quantile(shown, 0.995)), 1e-6))
        panel.contour(volume.tumour[window].T, [0.5], colors="white", linewidths=0.8)
        told = WAYS[way]
        share = f"{found[f'{told}: {AT_BORDER}']:.0%} of it at the border"
        panel.set_title(f"GBP, {told}\nAUROC {found[f'{told}: AUROC']:.2f}, {share}", fontsize=9)
    for panel in axes:
        panel.invert_yaxis()  # front at the top
        panel.invert_xaxis()  # the patient's right at the left
        panel.set_axis_off()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
