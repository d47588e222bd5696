"""How much of a segmentation's time is the network's own: U-Net/DenseNet121, 512 px, 50 % overlap.

    python benchmarks/segment_speed.py --slide CMU-1-Small-Region.svs

For each runtime, the network alone runs over as many patches as the slide gives (called as the
engine calls it), then the whole job runs from the opened slide to written maps; in turns, so
that a change of the machine's speed meets both. Import and compilation are reported apart, the
report page is not part of it. Weights are random: speed does not depend on them.

Prints one JSON line per runtime: `ratio` is whole / network alone (median of the pairs).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

PATCH, OVERLAP = 512, 0.5
RUNTIMES = (("keras", "f32"), ("openvino", "f32"), ("openvino", "bf16"))


def measure(slide: str, runtime: str, precision: str, pairs: int) -> dict[str, object]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    began = time.perf_counter()
    from digipath.nn import build
    from digipath.runtime import keras_predictor, openvino_predictor

    network = build("unet", backbone="densenet121", patch=PATCH)
    imported = time.perf_counter()
    scaling = {"scale": 1 / 127.5, "offset": -1.0}
    if runtime == "keras":
        predictor = keras_predictor(network, PATCH, **scaling)
    else:
        predictor = openvino_predictor(network, PATCH, precision=precision, **scaling)
    predictor.at_mpp = 0.5
    patches = whole(slide, predictor)["patches"]  # warms everything up, and counts the patches
    compiled = time.perf_counter()
    runs = [(alone(predictor, patches), whole(slide, predictor)) for _ in range(pairs)]
    ratios = [run["total"] / own for own, run in runs]
    own, run = sorted(runs, key=lambda pair: pair[1]["total"])[len(runs) // 2]
    return {
        "runtime": runtime,
        "precision": precision,
        "patches": patches,
        "whole_s": round(run["total"], 3),
        "network_alone_s": round(own, 3),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(r, 4) for r in ratios],
        "patches_per_s": round(patches / run["total"], 2),
        "share_of_wall": {k: round(run["stages"][k] / run["total"], 4) for k in run["stages"]},
        "import_s": round(imported - began, 2),
        "compile_and_first_run_s": round(compiled - imported, 2),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def alone(predictor: object, patches: int) -> float:
    """Seconds of the network on so many patches, as many at once as the engine runs."""
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 256, (8, PATCH, PATCH, 3), np.uint8)
    with ThreadPoolExecutor(predictor.parallel) as pool:
        began = time.perf_counter()
        list(pool.map(lambda i: predictor(pixels[i % 8][None]), range(patches)))
        return time.perf_counter() - began


def whole(slide: str, predictor: object) -> dict[str, object]:
    """Seconds from the opened slide to written maps, and in each stage (summed over threads)."""
    import digipath

    with tempfile.TemporaryDirectory() as folder:
        result = digipath.segment(
            slide, predictors=[predictor], out=f"{folder}/case", tissue="all", patch=PATCH, overlap=OVERLAP
        )
        timings = result.run["timings_s"]
    stages = {name: timings[name] for name in ("tissue", "reading", "network", "stitching", "writing", "pyramid")}
    total = timings["tissue"] + timings["wall"] + timings["pyramid"]
    return {"total": total, "stages": stages, "patches": result.run["patches"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", required=True)
    parser.add_argument("--pairs", type=int, default=5, help="runs of each kind (default: 5)")
    parser.add_argument("--only", nargs=2, metavar=("RUNTIME", "PRECISION"), help="measure one, in this process")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.slide, *arguments.only, arguments.pairs)), flush=True)
        return
    for runtime in RUNTIMES:  # a process each, so that peak memory and imports are their own
        command = [sys.executable, __file__, "--slide", arguments.slide, "--pairs", str(arguments.pairs)]
        subprocess.run([*command, "--only", *runtime], check=True)


if __name__ == "__main__":
    main()
