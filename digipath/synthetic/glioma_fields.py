"""Nuclei, capillaries, glomeruloid vessels and palisades of glioma, drawn on a torus as fields of darkness.

Sizes are in µm and turned into pixels by whoever calls; a field is (period, period) float32, and what is drawn over
what is already there keeps the darker (nuclei) or the lighter (lumens).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from digipath.synthetic.textures import smooth_noise

Floats = NDArray[np.floating]
Array = NDArray[np.float64]
LOBES = (2, 3, 5)  # waves of an irregular outline
DIRECTIONS = 6  # of fibrils
CHUNK = 500  # shapes drawn at once, of about one size


@dataclass(frozen=True)
class Shapes:
    """n ellipses with waves on their rim; all arrays (n,) but centre_px, (n, 2), row and column.

    radius_px is half the length; width: width over length; angle: of the length, radians from the rows' axis on;
    lobes: height of the waves in radii; darkness: in [0, 1].
    """

    centre_px: Array
    radius_px: Array
    width: Array
    angle: Array
    lobes: Array
    darkness: Array

    def __add__(self, other: Shapes) -> Shapes:
        return Shapes(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))

    def part(self, kept: NDArray[np.int64]) -> Shapes:
        return Shapes(*(getattr(self, f.name)[kept] for f in fields(self)))


def filled(shapes: Shapes, period: int, rim_px: float, rng: np.random.Generator) -> Floats:
    """0 outside all shapes, their darkness inside, rising over `rim_px` from the rim; the darkest wins."""
    field = np.zeros(period * period, np.float32)
    if not len(shapes.radius_px):
        return field.reshape(period, period)
    phase = rng.uniform(0, 2 * math.pi, (len(LOBES), len(shapes.radius_px)))
    for part in np.array_split(np.argsort(shapes.radius_px), math.ceil(len(shapes.radius_px) / CHUNK)):
        reach = math.ceil(1.3 * float(shapes.radius_px[part].max()) + 1)
        _draw(field, shapes.part(part), phase[:, part], (period, reach, rim_px))
    return field.reshape(period, period)


def _draw(field: Floats, shapes: Shapes, phase: Array, frame: tuple[int, int, float]) -> None:
    period, reach, rim_px = frame
    corner = np.floor(shapes.centre_px).astype(np.int64)
    offset = np.arange(-reach, reach + 1)
    y, x = (
        (offset[None] + (corner[:, axis] + 0.5 - shapes.centre_px[:, axis])[:, None]).astype(np.float32)
        for axis in (0, 1)
    )
    y, x = y[:, :, None], x[:, None, :]
    cos, sin, radius, width, lobes, darkness = (
        value.astype(np.float32)[:, None, None]
        for value in (np.cos(shapes.angle), np.sin(shapes.angle), shapes.radius_px, shapes.width, shapes.lobes,
                      shapes.darkness)
    )  # fmt: skip
    along, across = y * cos + x * sin, (x * cos - y * sin) / width
    rho = np.hypot(along, across)
    rim = radius
    if lobes.any():
        theta = np.arctan2(across, along)
        waves = sum(np.cos(k * theta + p[:, None, None].astype(np.float32)) for k, p in zip(LOBES, phase, strict=True))
        rim = radius * (1 + lobes * waves)
    value = darkness * np.clip((rim - rho) * np.sqrt(width) / np.float32(rim_px) + 0.5, 0, 1)
    place = (corner[:, :1] + offset) % period * period
    at = place[:, :, None] + ((corner[:, 1:] + offset) % period)[:, None, :]
    seen = value > 0
    np.maximum.at(field, at[seen], value[seen])


def fibrils(period: int, length_px: float, thickness_px: float, rng: np.random.Generator) -> Floats:
    """A felt of winding fibres in all directions, periodic; mean 0, variance 1."""
    noise = fft.rfft2(rng.standard_normal((period, period), dtype=np.float32))
    row = fft.fftfreq(period).astype(np.float32)[:, None] * np.float32(2 * math.pi)
    column = fft.rfftfreq(period).astype(np.float32)[None] * np.float32(2 * math.pi)
    felt = np.full((period, period), -np.inf, np.float32)
    for angle in (np.arange(DIRECTIONS) + rng.uniform()) * (math.pi / DIRECTIONS):
        along = row * np.float32(math.cos(angle)) + column * np.float32(math.sin(angle))
        across = column * np.float32(math.cos(angle)) - row * np.float32(math.sin(angle))
        kept = np.exp(-0.5 * ((along * np.float32(length_px)) ** 2 + (across * np.float32(thickness_px)) ** 2))
        layer = fft.irfft2(noise * kept, s=(period, period))
        np.maximum(felt, layer / layer.std(), out=felt)
        noise = np.roll(noise, 7, axis=0)  # another felt from the same noise
    bend = [np.rint(0.4 * length_px * smooth_noise(period, 1.5 * length_px, rng)).astype(np.int64) for _ in range(2)]
    y, x = np.ogrid[:period, :period]
    felt = felt[(y + bend[0]) % period, (x + bend[1]) % period]
    return (felt - felt.mean()) / felt.std()


def scattered(period: int, spacing_px: float, jitter: float, rng: np.random.Generator) -> Array:
    """Points of a lattice moved by up to `jitter` of its spacing, (n, 2): even over the torus, yet not in rows."""
    count = max(1, round(period / spacing_px))
    lattice = np.indices((count, count)).reshape(2, -1).T + 0.5
    return np.asarray((lattice + rng.uniform(-jitter, jitter, lattice.shape)) * (period / count) % period)


def nuclei(
    centre_px: Array,
    radius_px: float,
    look: tuple[float, float, float, tuple[float, float]],
    rng: np.random.Generator,
    *,
    angle: Array | None = None,
) -> Shapes:
    """Nuclei at given places; look: spread of sizes, least width over length, lobes, range of darkness."""
    spread, narrowest, lobes, darkness = look
    count = len(centre_px)
    return Shapes(
        centre_px=centre_px,
        radius_px=radius_px * np.clip(np.exp(rng.normal(0, spread, count)), 0.5, 2.2),
        width=rng.uniform(narrowest, 1, count) if angle is None else np.full(count, narrowest),
        angle=rng.uniform(0, math.pi, count) if angle is None else angle,
        lobes=rng.uniform(0, lobes, count),
        darkness=rng.uniform(*darkness, count),
    )


def discs(centre_px: Array, radius_px: float | Array) -> Shapes:
    one = np.ones(len(centre_px))
    return Shapes(centre_px, radius_px * one, one, 0 * one, 0 * one, one)


def path(start: Array, length_px: float, bend_px: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """A winding line in steps of a pixel: points (n, 2) and the direction at each, radians from the rows' axis on."""
    turns = rng.normal(0, 1 / math.sqrt(bend_px), max(2, round(length_px)))
    angle = rng.uniform(0, 2 * math.pi) + np.cumsum(np.convolve(turns, np.ones(9) / 9, "same"))
    steps = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return start + np.cumsum(steps, axis=0), angle
