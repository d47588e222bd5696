"""Seconds to import digipath and to print its help, each as a fresh process.

    python benchmarks/startup.py

Prints one JSON line per command with the fastest and the median of several runs.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "import digipath": [sys.executable, "-c", "import digipath"],
    "digipath --help": [sys.executable, "-m", "digipath", "--help"],
}
RUNS = 9

for name, command in COMMANDS.items():
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
    figures = {"min_s": round(min(seconds), 3), "median_s": round(statistics.median(seconds), 3)}
    print(json.dumps({"command": name, **figures}))
