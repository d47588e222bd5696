"""Time and peak memory from the MRI files of a patient to a report with explanations, by `digipath grade`.

    python benchmarks/mri_report.py ../shared/data/mri_3d/TCGA-FG-6692

Four volumes (t1, t1c, t2, flair), the default weights, Grad-CAM and guided backpropagation of each network; the command
runs as a process of its own, as a user starts it. Prints one JSON line.
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

MODALITIES = ("t1", "t1c", "t2", "flair")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with t1.nii.gz, t1c.nii.gz, t2.nii.gz and flair.nii.gz")
    arguments = parser.parse_args()
    files = [word for name in MODALITIES for word in (f"--{name}", str(arguments.folder / f"{name}.nii.gz"))]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-m", "digipath", "grade", *files, "--out", f"{folder}/case", "--json"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        explanations = len(list(Path(folder).glob("case/explanations/*.nii.gz")))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({
        "patient": arguments.folder.name, "explanations": explanations, "seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1), "peak_memory_gb": round(used.ru_maxrss * 1024 / 1e9, 2),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
