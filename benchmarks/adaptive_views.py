"""What adaptive views save and change, against the full run with all eight views.

    python benchmarks/adaptive_views.py CMU-1-Small-Region.svs
    python benchmarks/adaptive_views.py crops/*.jpg --mpp 0.5 --tissue all

Runs each slide or image with `views=8` and `views="adaptive"`, with the default weights, and compares the stored
probability maps (float16: steps of up to 0.0005) over the predicted tissue. Prints one JSON line per image, and one
of all together: `cost` is that of adaptive views as a share of the full one, in passes through networks and in
seconds of the run without loading the networks; `estimated` is what the run itself found on its audited patches.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from digipath import segment
from digipath.values import PREDICTED


def measure(image: str, options: dict[str, object]) -> tuple[dict[str, object], np.ndarray]:
    """The line of one image, and |Δ| of each map pixel."""
    with tempfile.TemporaryDirectory() as folder:
        full = segment(image, out=f"{folder}/full", views=8, **options)
        adaptive = segment(image, out=f"{folder}/adaptive", views="adaptive", **options)
        tissue = full.maps["coverage"][:] == PREDICTED
        change = np.abs(full.probability[:][tissue].astype(float) - adaptive.probability[:][tissue].astype(float))
        views = {"full": full.aleatoric[:][tissue], "adaptive": adaptive.aleatoric[:][tissue]}
        record = adaptive.run["adaptive"]
        seconds = {"full": full.run["timings_s"]["wall"], "adaptive": adaptive.run["timings_s"]["wall"]}
    line = {
        "image": Path(image).name,
        "patches": record["patches"],
        "full": record["full"],
        "audited": record["audited"],
        "passes": record["passes"],
        "passes_full": record["passes_full"],
        "seconds": seconds,
        **summary(change, record["passes"] / record["passes_full"], seconds),
        "estimated": {name: record[name] for name in ("mean_absolute_deviation", "largest_deviation")},
        "mean_aleatoric": {name: round(float(values.mean(dtype=float)), 5) for name, values in views.items()},
    }
    return line, change


def summary(change: np.ndarray, passes: float, seconds: dict[str, float]) -> dict[str, object]:
    return {
        "cost": {"passes": round(passes, 4), "seconds": round(seconds["adaptive"] / seconds["full"], 4)},
        "mean_absolute_deviation": round(float(change.mean()), 5),
        "largest_deviation": round(float(change.max(initial=0)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--mpp", type=float, help="µm per pixel, where the files do not say")
    parser.add_argument("--tissue", default="auto")
    arguments = parser.parse_args()
    options = {"mpp": arguments.mpp, "tissue": arguments.tissue}
    lines, changes = [], []
    for image in arguments.images:
        line, change = measure(image, options)
        print(json.dumps(line), flush=True)
        lines.append(line)
        changes.append(change)
    if len(lines) > 1:
        seconds = {name: sum(line["seconds"][name] for line in lines) for name in ("full", "adaptive")}
        passes = sum(line["passes"] for line in lines) / sum(line["passes_full"] for line in lines)
        print(json.dumps({"images": len(lines), **summary(np.concatenate(changes), passes, seconds)}))


if __name__ == "__main__":
    main()
