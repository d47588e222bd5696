"""Peak memory of a segmentation against the size of the slide, with a cheap predictor.

    python benchmarks/segment_memory.py

Generates a 10,000 × 10,000 and a 60,000 × 60,000 slide, runs each at the default map resolution
and at the network's own, a process each, and prints one JSON line per run.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (10_000, 60_000)
OUT_MPP = (None, "native")
# A process of its own: the peak memory of a process counts what its parent held when it began.
GENERATE = """
import sys
from digipath.synthetic import write_slide
write_slide(sys.argv[1], (int(sys.argv[2]), int(sys.argv[2])), mpp=0.5, tile=256)
"""


def cheap(patches):
    """Mean redness of each patch, as a map: next to no time, answers of full size, smooth as a network's."""
    import numpy as np

    red = patches[..., :1].mean(axis=(1, 2), keepdims=True, dtype=np.float32) / 255
    return np.broadcast_to(red, (*patches.shape[:-1], 1))


def measure(slide: str, out_mpp: str | None) -> dict[str, object]:
    import digipath

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = digipath.segment(slide, predictors=[cheap], out=f"{folder}/case", tissue="all", out_mpp=out_mpp)
        complete = result.coverage.complete
        patches = result.run["patches"]
    return {
        "slide": Path(slide).name,
        "out_mpp": out_mpp or "default",
        "patches": patches,
        "complete": complete,
        "seconds": round(time.perf_counter() - began, 1),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs=2, metavar=("SLIDE", "OUT_MPP"), help="measure one, in this process")
    arguments = parser.parse_args()
    if arguments.only:
        slide, out_mpp = arguments.only
        print(json.dumps(measure(slide, None if out_mpp == "default" else out_mpp)), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            path = f"{folder}/{size}.tiff"
            subprocess.run([sys.executable, "-c", GENERATE, path, str(size)], check=True)
            for out_mpp in OUT_MPP:
                subprocess.run([sys.executable, __file__, "--only", path, out_mpp or "default"], check=True)


if __name__ == "__main__":
    main()
