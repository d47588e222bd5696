"""Heatmaps of lymph nodes with one metastasis of a given category, and features for forests to learn."""

from __future__ import annotations

import numpy as np

from digipath.measure.pn_stage import CATEGORIES, FEATURES

DIAMETERS_UM = {"negative": (0, 0), "itc": (60, 180), "micro": (300, 1800), "macro": (2300, 3200)}
SIZE_UM = 4000


def heatmap(category, rng, *, mpp=16.0):
    """Probability (rows, columns) float32 and tissue of a square node with a round metastasis."""
    side = round(SIZE_UM / mpp)
    y, x = (np.mgrid[:side, :side] + 0.5) * mpp
    radius = rng.uniform(*DIAMETERS_UM[category]) / 2
    centre = rng.uniform(SIZE_UM / 2 - 200, SIZE_UM / 2 + 200, 2)
    inside = np.hypot(x - centre[0], y - centre[1]) <= radius
    probability = np.where(inside, 0.96, 0.04) + rng.uniform(-0.03, 0.03, (side, side))
    tissue = np.zeros((side, side), bool)
    tissue[1:-1, 1:-1] = True
    return (probability * tissue).astype(np.float32), tissue


def write_npz(path, category, rng, *, mpp=16.0):
    """A node as an .npz file."""
    probability, tissue = heatmap(category, rng, mpp=mpp)
    np.savez_compressed(path, probability=probability, tissue=tissue, mpp=mpp)
    return path


def write_manifest(folder, *, patients=6, nodes=4, seed=0):
    """nodes.csv and its .npz files: every patient has nodes of all categories in turn."""
    rng = np.random.default_rng(seed)
    lines = ["result,category,patient"]
    for number in range(patients * nodes):
        category = CATEGORIES[number % 4]
        write_npz(folder / f"node_{number}.npz", category, rng)
        lines.append(f"node_{number}.npz,{category},patient_{number // nodes}")
    manifest = folder / "nodes.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def table(count, rng, *, shares=(0.4, 0.2, 0.2, 0.2)):
    """Features (n, 32), category indices (n,) and detections (n,) that a forest can learn, with some noise."""
    categories = rng.choice(4, count, p=shares)
    features = np.abs(rng.normal(1, 0.3, (count, len(FEATURES))))
    features[:, :3] *= 10.0 ** (categories + rng.normal(0, 0.4, count))[:, None]
    detected = (categories == 0) | (rng.random(count) > 0.2)
    return features, categories, detected
