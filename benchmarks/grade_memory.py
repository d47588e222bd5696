"""Peak memory of a grade against the size of the slide, with a cheap predictor and, on request, the default network.

    python benchmarks/grade_memory.py
    python benchmarks/grade_memory.py --network      the demonstration weights too; minutes

Generates a 10,000 × 10,000 and a 60,000 × 60,000 slide of glioma, grades each in a process of its own, report included,
and prints one JSON line per run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (10_000, 60_000)
# A process of its own: the peak memory of a process counts what its parent held when it began.
GENERATE = """
import sys
from digipath.synthetic.glioma import write_glioma_slide
side = int(sys.argv[2])
write_glioma_slide(sys.argv[1], (side, side), grades={"grade 3": 0.6, "grade 2": 0.4}, tile=256)
"""


def cheap(tiles):
    """Three grades by the mean redness of a tile: next to no time."""
    import numpy as np

    red = tiles[..., 0].mean(axis=(1, 2)) / 255
    return np.stack([1 - red, red / 2, red / 2], axis=1).astype(np.float32)


cheap.patch, cheap.at_mpp, cheap.name = 1024, 0.5, "cheap"


def measure(slide: str, with_network: bool) -> dict[str, object]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import digipath

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = digipath.grade(slide, predictors=None if with_network else [cheap], out=f"{folder}/case").slides[0]
        found = {"tiles": result.run["tiles"], "timings_s": result.run["timings_s"]}
    return {
        "slide": Path(slide).name,
        "network": with_network,
        **found,
        "seconds": round(time.perf_counter() - began, 1),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="store_true", help="with the default weights too")
    parser.add_argument("--only", nargs=2, metavar=("SLIDE", "KIND"), help="measure one, in this process")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only[0], arguments.only[1] == "network")), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            path = f"{folder}/{size}.tiff"
            subprocess.run([sys.executable, "-c", GENERATE, path, str(size)], check=True)
            for kind in ("cheap", "network") if arguments.network else ("cheap",):
                subprocess.run([sys.executable, __file__, "--only", path, kind], check=True)


if __name__ == "__main__":
    main()
