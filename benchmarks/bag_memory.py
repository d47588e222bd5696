"""Peak memory of a training step by bags: EfficientNet-B0 on crops of 224 px, with gradient checkpointing or without.

    python benchmarks/bag_memory.py                  steps of 20 and 40 tiles, both ways
    python benchmarks/bag_memory.py --bags 4 --tiles 50 --ways remat      Lerousseau et al. 2020: 50 tiles of 4 slides

Each step runs in a process of its own, on random pixels and weights: memory depends on neither. The first step
compiles; the second is timed. Prints one JSON line per run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

CROP_PX, CLASSES = 224, 3
WAYS = ("whole", "remat")


def step(bags: int, tiles: int, *, remat: bool) -> dict[str, object]:
    """Two steps of training; what they took."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np

    from digipath.nn import build

    network = build("mil", embedder="efficientnet-b0", classes=CLASSES, patch=CROP_PX, remat=remat)
    network.compile(keras.optimizers.Adam(5e-5), "categorical_crossentropy")
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(bags, tiles, CROP_PX, CROP_PX, 3)).astype(np.float32)
    truth = np.eye(CLASSES, dtype=np.float32)[np.arange(bags) % CLASSES]
    for _ in range(2):
        began = time.perf_counter()
        network.train_on_batch(pixels, truth)
        seconds = time.perf_counter() - began
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "bags": bags, "tiles": tiles, "remat": remat, "peak_gib": round(peak_gib, 2), "step_s": round(seconds, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bags", type=int, default=1, help="slides in a step (default: 1)")
    parser.add_argument("--tiles", type=int, nargs="+", default=[20, 40], help="tiles of each (default: 20 and 40)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--here", action="store_true", help="in this process: one number of tiles, one way")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(step(arguments.bags, arguments.tiles[0], remat=arguments.ways[0] == "remat")), flush=True)
        return
    for tiles in arguments.tiles:
        for way in arguments.ways:
            command = [sys.executable, __file__, "--here", "--bags", str(arguments.bags)]
            subprocess.run([*command, "--tiles", str(tiles), "--ways", way], check=True)


if __name__ == "__main__":
    main()
