"""How much faster patches are made than a network in training consumes them: 256 px, 2 threads.

    python benchmarks/training_throughput.py [--slide SLIDE --annotation OUTLINES]

The generator alone (read from the slide, augmented, batched by tf.data) and training steps of a
network alone (on one batch in memory, TensorFlow on all cores) run in turns, so that a change of
the machine's speed meets both. Without --slide a slide with outlines is generated. Augmentation:
"paper" is Khened 2021's, "everything" has stain jitter and free zoom as well.

Prints one JSON line per network and augmentation: `ratio` is patches made / patches consumed per
second (median of the pairs); at 3 and more the generator costs the network little. On a machine
that others use too `cpu_ratio` says more: processor time that a patch costs the network / that it
costs the generator.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

PATCH, MPP, BATCH = 256, 0.5, 8
NETWORKS = {
    "unet/densenet121": ("unet", {"backbone": "densenet121"}),
    "shipped unet": ("unet-small", {"encoder": "efficientnet-lite0", "widths": [32, 48, 64, 96], "output_stride": 4}),
    "smallest unet": ("unet-small", {"shrink": 2, "widths": [32, 48, 64, 96], "output_stride": 8}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="default: one of 6000 × 6000 px is generated")
    parser.add_argument("--annotation", type=Path, help="its lesions; without, patches come from all of its tissue")
    parser.add_argument("--mpp", type=float, default=MPP, help=f"µm per pixel of the patches (default: {MPP})")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each kind (default: 3)")
    parser.add_argument("--seconds", type=float, default=10, help="least length of a run (default: 10)")
    parser.add_argument("--workers", type=int, default=2, help="threads of the generator (default: 2)")
    parser.add_argument("--only", choices=NETWORKS, help="measure one network")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with tempfile.TemporaryDirectory() as folder:
        slide, annotation = (arguments.slide, arguments.annotation) if arguments.slide else generated(Path(folder))
        for extra in ({}, {"stain_gain": 0.2, "stain_shift": 0.05, "scale": 0.2}):
            with source_of(slide, annotation, arguments.mpp, extra) as source:
                for name in [arguments.only] if arguments.only else NETWORKS:
                    found = {"network": name, "augmentation": "everything" if extra else "paper"}
                    print(json.dumps(found | measure(name, source, arguments)), flush=True)


def measure(name: str, source, arguments: argparse.Namespace) -> dict[str, object]:
    step = training_step(name, next(iter(batches_of(source, arguments.workers))))
    step()  # traces the graph
    pairs = []
    for _ in range(arguments.pairs):
        made = generator_alone(source, arguments.workers, arguments.seconds)
        time.sleep(0.5)  # until its threads rest
        pairs.append((made, speed(step, arguments.seconds)))
    made, consumed = zip(*pairs, strict=True)
    ratios = [one.per_s / other.per_s for one, other in pairs]
    made_ms, consumed_ms = (statistics.median(run.cpu_ms for run in runs) for runs in (made, consumed))
    return {
        "patch_px": PATCH,
        "workers": arguments.workers,
        "made_per_s": round(statistics.median(run.per_s for run in made), 1),
        "consumed_per_s": round(statistics.median(run.per_s for run in consumed), 2),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "made_cpu_ms": round(made_ms, 2),
        "consumed_cpu_ms": round(consumed_ms, 2),
        "cpu_ratio": round(consumed_ms / made_ms, 2),
    }


class Speed(NamedTuple):
    """Patches per second, and processor milliseconds (of all threads) per patch."""

    per_s: float
    cpu_ms: float


def generator_alone(source, workers: int, seconds: float) -> Speed:
    endless = iter(batches_of(source, workers))
    next(endless)  # opens the slide; as many batches as are ready now are being made at the end
    return speed(lambda: next(endless), seconds)


def batches_of(source, workers: int):
    from digipath.training.data import tensorflow_batches

    return tensorflow_batches(source, batch=BATCH, scale=1 / 127.5, offset=-1.0, workers=workers)


def speed(work, seconds: float) -> Speed:
    """How fast `work` makes or consumes a batch."""
    began, cpu_began, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds or count < 2:
        work()
        count += BATCH
    return Speed(count / (time.perf_counter() - began), (time.process_time() - cpu_began) / count * 1000)


def training_step(name: str, batch):
    """A function that trains the network on one batch and waits for the loss."""
    from digipath.nn import build
    from digipath.nn.losses import HybridLoss

    network, settings = NETWORKS[name]
    model = build(network, **settings)
    model.compile("adam", HybridLoss(), jit_compile=False)
    return lambda: model.train_on_batch(*batch)


def source_of(slide: Path, annotation: Path | None, mpp: float, augmentation: dict[str, float]):
    """Patches of a slide, half of them with tumour where there is an annotation."""
    from digipath.augment import Augmentation
    from digipath.training.data import PatchSource, Sampling
    from digipath.training.manifest import TrainingCase

    case = TrainingCase(slide.stem, slide, annotation, patient="only")
    sampling = Sampling(mpp=mpp, patch_px=PATCH, positive_share=0.5 if annotation else None)
    return PatchSource([case], sampling, augmentation=Augmentation(**augmentation))


def generated(folder: Path) -> tuple[Path, Path]:
    """A slide at 0.25 µm/px, so that patches are resampled, and its tumour as GeoJSON."""
    from digipath.synthetic import write_slide

    slide = write_slide(folder / "slide.tiff", (6000, 6000), mpp=MPP / 2, tile=256)
    rings = [[*outline.tolist(), outline[0].tolist()] for outline in slide.tumours]
    polygons = [{"type": "Polygon", "coordinates": [ring]} for ring in rings]
    kind = {"classification": {"name": "tumour"}}
    features = [{"type": "Feature", "geometry": polygon, "properties": kind} for polygon in polygons]
    (folder / "slide.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return slide.path, folder / "slide.geojson"


if __name__ == "__main__":
    main()
