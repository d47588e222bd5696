"""Time of the 32 features and of the lesions of a 3,000 × 3,000 heatmap with 2,000 regions.

    python benchmarks/features_speed.py

Maps are half precision, as they are stored. `smooth` holds discs whose probability falls off from the middle;
`irregular` regions of many forms and sizes with ragged borders, bays, holes and two uncertainty maps. Imports
are not part of it. Prints one JSON line per map: the fastest and the slowest of the repeats, in seconds.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from scipy import ndimage

from digipath.measure.lesions import find_lesions, join_fragments
from digipath.measure.pn_stage import heatmap_features

SIDE, CELLS, MPP = 3000, 45, 2.0  # 45² cells with a region in each but 25
EMPTY = 25
SPLINTERS_PX = 30  # smaller pieces are taken out, so that each cell holds about one region


def smooth(generator: np.random.Generator) -> np.ndarray:
    """A disc of its own radius in each cell, certain in the middle."""
    y, x = np.mgrid[-1 : 1 : SIDE // CELLS * 1j, -1 : 1 : SIDE // CELLS * 1j]
    return _laid_out(generator, lambda: np.clip(1.3 - np.hypot(x, y) / generator.uniform(0.4, 1.1), 0, 1))


def irregular(generator: np.random.Generator) -> np.ndarray:
    """A stretched, turned, ragged region in each cell, with noise at every scale."""
    side = SIDE // CELLS
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]

    def region() -> np.ndarray:
        angle, long, thin = generator.uniform(0, np.pi), generator.uniform(0.5, 0.95), generator.uniform(0.25, 0.9)
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        body = 1.45 - np.hypot(u / long, v / (long * thin))
        noise = sum(ndimage.gaussian_filter(generator.normal(0, 1, x.shape), s) * s * 0.35 for s in (1, 2, 4))
        field = np.clip(body + noise, 0, 1) * (np.hypot(x, y) < 0.95)
        pieces, _ = ndimage.label(field >= 0.5, np.ones((3, 3)))
        splinters = np.bincount(pieces.ravel()) < SPLINTERS_PX
        return np.where((pieces > 0) & splinters[pieces], 0.3, field)

    return _laid_out(generator, region)


def _laid_out(generator: np.random.Generator, region) -> np.ndarray:
    side = SIDE // CELLS
    heatmap = np.zeros((SIDE, SIDE), np.float16)
    for cell in generator.permutation(CELLS**2)[EMPTY:]:
        row, column = np.multiply(divmod(cell, CELLS), side)
        heatmap[row : row + side, column : column + side] = region()
    return heatmap


def measure(name: str, heatmap: np.ndarray, repeats: int) -> dict[str, object]:
    tissue = np.ones(heatmap.shape, bool)
    uncertainty = {} if name == "smooth" else {"aleatoric": heatmap * (1 - heatmap), "epistemic": heatmap / 8}
    seconds: dict[str, list[float]] = {"features": [], "lesions": [], "together": []}
    for _ in range(repeats):
        began = time.perf_counter()
        features = heatmap_features(heatmap, tissue, MPP)
        between = time.perf_counter()
        lesions = find_lesions(heatmap, map_mpp=MPP, l0_per_map_px=8.0, uncertainty=uncertainty)
        ended = time.perf_counter()
        seconds["features"].append(between - began)
        seconds["lesions"].append(ended - between)
        seconds["together"].append(ended - began)
    return {
        "map": name,
        "side_px": SIDE,
        "regions_90": int(features["regions"]),
        "lesions_50": len(lesions),
        "metastases": len(join_fragments(lesions)),
        "corners": sum(_corners(lesion.outline) for lesion in lesions),
        "uncertainty_maps": len(uncertainty),
        **{f"{what}_s": [round(min(each), 3), round(max(each), 3)] for what, each in seconds.items()},
    }


def _corners(outline) -> int:
    parts = getattr(outline, "geoms", [outline])
    return sum(len(ring.coords) - 1 for part in parts for ring in (part.exterior, *part.interiors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    for make in (smooth, irregular):
        heatmap = make(np.random.default_rng(0))
        print(json.dumps(measure(make.__name__, heatmap, repeats)), flush=True)


if __name__ == "__main__":
    main()
