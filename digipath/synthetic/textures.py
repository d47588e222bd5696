"""Periodic textures of normal tissue, tumour and glass that share one distribution of colours."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

NORMAL, TUMOUR, GLASS = 0, 1, 2  # their places in what `textures` returns
SMALL_NUCLEUS_UM, LARGE_NUCLEUS_UM = 3.4, 6.5  # radii: lymphocytes, carcinoma cells
NUCLEAR_AREA = 0.3

# Optical densities of haematoxylin and eosin in R, G, B (Ruifrok & Johnston 2001, normalised).
HAEMATOXYLIN = (0.650, 0.704, 0.286)
EOSIN = (0.072, 0.990, 0.105)


def textures(period: int, mpp: float, rng: np.random.Generator) -> list[np.ndarray]:
    """(period, period, 3) float32 RGB of normal tissue, tumour and glass, periodic in both axes."""
    density = smooth_noise(period, 60 / mpp, rng)
    fibres = 0.1 * smooth_noise(period, 2.0 / mpp, rng) + 0.06 * smooth_noise(period, 0.8, rng)
    # Stain and section thickness vary over 60 µm, the sensor adds its noise: alike in both tissues,
    # and stronger than what JPEG or another resolution makes of small and large nuclei.
    strength = 1 + 0.12 * smooth_noise(period, 60 / mpp, rng)
    eosin = 0.03 * smooth_noise(period, 12 / mpp, rng) + 0.03 * smooth_noise(period, 60 / mpp, rng)
    sensor = rng.standard_normal((period, period, 3), dtype=np.float32) * np.float32(6)
    glass = 243 + 0.3 * sensor
    nuclei = ((SMALL_NUCLEUS_UM, 0.15), (LARGE_NUCLEUS_UM, 0.3))
    fields = (_nuclei(radius / mpp, spread, density, rng) for radius, spread in nuclei)
    return [_stained(_ranks(field + fibres), strength, eosin) + sensor for field in fields] + [glass]


def smooth_noise(period: int, sigma_px: float, rng: np.random.Generator) -> np.ndarray:
    """Periodic smooth noise of mean 0 and variance 1, (period, period) float32."""
    # Wide kernels are applied to a coarse torus: the same look, a fraction of the time.
    step = min(2 ** max(0, int(math.log2(max(sigma_px, 4) / 4))), period // 16)
    side = period // step
    field = ndimage.gaussian_filter(rng.standard_normal((side, side), dtype=np.float32), sigma_px / step, mode="wrap")
    if step > 1:
        field = ndimage.zoom(field, step, order=1, mode="grid-wrap", grid_mode=True)
    return (field - field.mean()) / field.std()


def _nuclei(radius_px: float, spread: float, density: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Depth inside the nearest nucleus: 1 at its centre, 0 on its rim, negative outside to −1.

    Nuclei sit on a jittered lattice, sparser where `density` is low, so that they fill the same
    share of every neighbourhood whatever their size.
    """
    period = len(density)
    count = max(1, round(period * math.sqrt(NUCLEAR_AREA * 1.4 / math.pi) / radius_px))
    lattice = np.indices((count, count)).reshape(2, -1).T
    centres = ((lattice + 0.5 + rng.uniform(-0.35, 0.35, lattice.shape)) * (period / count)) % period
    here = density[tuple(centres.astype(int).T)]
    centres = centres[rng.uniform(size=len(centres)) < np.clip(0.72 + 0.18 * here, 0.3, 0.95)].astype(np.float32)
    radius = (radius_px * np.clip(rng.normal(1, spread, len(centres)), 0.5, 1.5)).astype(np.float32)
    stretch = rng.uniform(0.7, 1.0, len(centres)).astype(np.float32)
    angle = rng.uniform(0, math.pi, len(centres)).astype(np.float32)
    cos, sin = np.cos(angle), np.sin(angle)
    field = np.full(period * period, -1, np.float32)
    corner = np.floor(centres).astype(int)
    reach = int(1.5 * 1.3 * radius_px) + 1
    for dy in range(-reach, reach + 1):
        y = corner[:, 0] + (dy + 0.5) - centres[:, 0]
        line = (corner[:, 0] + dy) % period * period
        for dx in range(-reach, reach + 1):
            x = corner[:, 1] + (dx + 0.5) - centres[:, 1]
            depth = 1 - np.hypot((x * cos + y * sin) / radius, (y * cos - x * sin) / (radius * stretch))
            np.maximum.at(field, line + (corner[:, 1] + dx) % period, depth.astype(np.float32))
    return field.reshape(period, period)


def _ranks(field: np.ndarray) -> np.ndarray:
    """Each pixel's rank within the texture, 0 to 1: every texture gets the same distribution."""
    order = np.argsort(field, axis=None, kind="stable")
    ranks = np.empty(field.size, np.float32)
    ranks[order] = np.linspace(0, 1, field.size, dtype=np.float32)
    return ranks.reshape(field.shape)


def _stained(rank: np.ndarray, strength: np.ndarray, eosin: np.ndarray) -> np.ndarray:
    """RGB by Beer–Lambert: the top ranks are nuclei, the rest stroma of varying eosin."""
    nuclear = 1 / (1 + np.exp(-(rank - (1 - NUCLEAR_AREA)) * 60))
    haematoxylin = 0.08 + 0.1 * rank + nuclear * (0.35 + 1.0 * np.clip(rank - 0.75, 0, None))
    pink = np.clip(0.14 + 0.08 * rank + eosin, 0.02, None)
    rgb = [
        np.exp((haematoxylin * h + pink * e) * strength * -math.log(10))
        for h, e in zip(HAEMATOXYLIN, EOSIN, strict=True)
    ]
    return 245 * np.stack(rgb, axis=-1)


def halved(texture: np.ndarray) -> np.ndarray:
    """The texture of the next level: means of 2 × 2, down to a single pixel (from an odd side at once)."""
    if len(texture) % 2:
        return texture.mean(axis=(0, 1), keepdims=True)
    side = len(texture) // 2
    return texture.reshape(side, 2, side, 2, 3).mean(axis=(1, 3))
