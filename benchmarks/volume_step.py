"""Peak memory and time of a training step of a network of volumes: DenseNet169 in 3D at full size.

    python benchmarks/volume_step.py                    densenet169-3d, 128³ voxels of 4 modalities, batch 3, Adam
    python benchmarks/volume_step.py --network grading-3d --size 96 --batch 2

The steps run in a process of their own, on random voxels and weights: memory depends on neither. The first step
compiles; of those behind it the shortest is printed, by the clock and in seconds of processor time, which says more
on a machine that others use too. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

NETWORKS = ("densenet169-3d", "grading-3d", "unet-3d")
MODALITIES, CLASSES = 4, 3


def step(name: str, size: int, batch: int, steps: int = 2) -> dict[str, object]:
    """`steps` steps of training behind the first; what they took."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np

    from digipath.nn import build

    network = build(name, classes=CLASSES, input_channels=MODALITIES, patch=size)
    network.compile(keras.optimizers.Adam(5e-4), "categorical_crossentropy")
    rng = np.random.default_rng(0)
    voxels = rng.normal(size=(batch, size, size, size, MODALITIES)).astype(np.float32)
    truth = np.eye(CLASSES, dtype=np.float32)[rng.integers(CLASSES, size=(batch, *network.output_shape[1:-1]))]
    wall_s, cpu_s = [], []
    for _ in range(1 + steps):
        began, began_cpu = time.perf_counter(), time.process_time()
        network.train_on_batch(voxels, truth)
        wall_s.append(time.perf_counter() - began)
        cpu_s.append(time.process_time() - began_cpu)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {
        "network": name, "size": size, "batch": batch, "parameters": network.count_params(),
        "peak_gb": round(peak_gb, 2), "step_s": round(min(wall_s[1:]), 2), "step_cpu_s": round(min(cpu_s[1:]), 2),
        "first_step_s": round(wall_s[0], 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default=NETWORKS[0])
    parser.add_argument("--size", type=int, default=128, help="side of the volumes in voxels (default: 128)")
    parser.add_argument("--batch", type=int, default=3, help="volumes in a step (default: 3)")
    parser.add_argument("--here", action="store_true", help="in this process")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(step(arguments.network, arguments.size, arguments.batch)), flush=True)
        return
    # A process of its own: the peak memory of a process counts what its parent held when it began.
    subprocess.run([sys.executable, __file__, *sys.argv[1:], "--here"], check=True)


if __name__ == "__main__":
    main()
