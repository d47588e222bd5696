"""How much of a grade's time is the network's own: ResNet18 on tiles of 1024 px at 0.5 µm/px.

    python benchmarks/grade_speed.py

Generates a slide whose JPEG is as dense as a scanner's (0.3 bytes per pixel, glass included). For each runtime the
network alone runs over as many tiles as the slide gives (called as the engine calls it), then the whole job from the
opened slide to written maps; in turns, so that a change of the machine's speed meets both. Import, compilation and the
report are apart. Weights are random: speed does not depend on them.

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

TILE_PX, SIZE_L0, CLASSES = 1024, (30_720, 24_576), ("grade 2", "grade 3", "grade 4")
RUNTIMES = (("keras", "f32"), ("openvino", "f32"), ("openvino", "bf16"))
GENERATE = """
import sys
from digipath.synthetic.glioma import write_glioma_slide
size, grades = (int(sys.argv[2]), int(sys.argv[3])), {"grade 4": 0.6, "grade 2": 0.4}
write_glioma_slide(sys.argv[1], size, grades=grades, tile=256, quality=90)
"""


def measure(slide: str, runtime: str, precision: str, pairs: int) -> dict[str, object]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from digipath.nn import build
    from digipath.runtime import keras_predictor, openvino_predictor

    network = build("resnet18", classes=len(CLASSES))
    scaling = {"scale": 1 / 127.5, "offset": -1.0}
    if runtime == "keras":
        predictor = keras_predictor(network, TILE_PX, **scaling)
    else:
        predictor = openvino_predictor(network, TILE_PX, precision=precision, **scaling)
    predictor.at_mpp, predictor.classes = 0.5, CLASSES
    tiles = whole(slide, predictor)["tiles"]  # warms everything up, and counts the tiles
    runs = [(alone(predictor, tiles), whole(slide, predictor)) for _ in range(pairs)]
    ratios = [run["total"] / own for own, run in runs]
    own, run = sorted(runs, key=lambda pair: pair[1]["total"])[len(runs) // 2]
    return {
        "runtime": runtime,
        "precision": precision,
        "tiles": tiles,
        "whole_s": round(run["total"], 3),
        "network_alone_s": round(own, 3),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(r, 4) for r in ratios],
        "tiles_per_s": round(tiles / run["total"], 2),
        "share_of_wall": {k: round(v / run["total"], 4) for k, v in run["stages"].items()},
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def alone(predictor: object, tiles: int) -> float:
    """Seconds of the network on so many tiles, as many at once as the engine runs."""
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 256, (4, TILE_PX, TILE_PX, 3), np.uint8)
    with ThreadPoolExecutor(predictor.parallel) as pool:
        began = time.perf_counter()
        list(pool.map(lambda i: predictor(pixels[i % 4][None]), range(tiles)))
        return time.perf_counter() - began


def whole(slide: str, predictor: object) -> dict[str, object]:
    """Seconds from the opened slide to written maps, and in each stage (summed over threads)."""
    import digipath

    with tempfile.TemporaryDirectory() as folder:
        result = digipath.grade(slide, predictors=[predictor], out=f"{folder}/case", gallery=0)
        run = result.slides[0].run
    stages = {name: run["timings_s"][name] for name in ("tissue", "reading", "network", "stitching", "writing")}
    total = run["timings_s"]["tissue"] + run["timings_s"]["wall"]
    return {"total": total, "stages": stages, "tiles": run["tiles"]["graded"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="runs of each kind (default: 3)")
    parser.add_argument("--size", type=int, nargs=2, default=SIZE_L0, metavar=("W", "H"), help="of the slide, in px")
    parser.add_argument("--only", nargs=3, metavar=("SLIDE", "RUNTIME", "PRECISION"), help="measure one, here")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(*arguments.only, arguments.pairs)), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        slide = f"{folder}/slide.tiff"
        subprocess.run([sys.executable, "-c", GENERATE, slide, *map(str, arguments.size)], check=True)
        for runtime in RUNTIMES:  # a process each, so that peak memory and imports are their own
            command = [sys.executable, __file__, "--pairs", str(arguments.pairs), "--only", slide, *runtime]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
