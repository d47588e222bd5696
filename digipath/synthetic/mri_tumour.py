"""Tumours of one composition whose grade is told by the places of their tissues alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from digipath.synthetic.mri_brain import ENHANCING, NECROTIC, OEDEMA, SOLID
from digipath.synthetic.mri_fields import Floats, Frame, turned

RADII = (7.5, 13.0)  # units, oedema included
CORES = (0.7, 0.85)  # radius of the core in that of the whole
ENHANCING_SHARES, NECROTIC_SHARES = (0.3, 0.45), (0.15, 0.3)  # of the core
SATELLITES = 0.2  # share of cases with a second, smaller lesion
MIDDLE_DEPTH = 0.6  # of the radius: how far a tumour's middle lies from the brain's surface at least
PATCH_UNITS = 1.7  # of interleaved tissues: about as thick as a rim


@dataclass(frozen=True)
class Lesion:
    """whole, core: (X, Y, Z) bool; rho: distance from the middle, 1 on the core's surface."""

    whole: NDArray[np.bool_]
    core: NDArray[np.bool_]
    rho: Floats
    radius_units: float  # of the core


def lesions(frame: Frame, brain: NDArray[np.bool_], rng: np.random.Generator) -> list[Lesion]:
    """One irregular tumour with a halo of oedema, at times a second one; their places know no grade."""
    found = [_lesion(frame, brain, rng.uniform(*RADII), rng)]
    if rng.uniform() < SATELLITES:
        found.append(_lesion(frame, brain & ~found[0].whole, rng.uniform(0.8, 1) * RADII[0], rng))
    return [lesion for lesion in found if lesion.core.sum() > 30] or found[:1]


def _lesion(
    frame: Frame, room: NDArray[np.bool_], radius: float, rng: np.random.Generator
) -> Lesion:
    apart = ndimage.distance_transform_edt(room, sampling=frame.step_units)
    middles = np.flatnonzero(apart > min(MIDDLE_DEPTH * radius, 0.9 * apart.max()))
    places = frame.places()
    centre = places.reshape(3, -1)[:, rng.choice(middles)]
    offset = np.tensordot(turned(rng), places - centre[:, None, None, None], 1)
    stretch = rng.uniform(0.85, 1.15, 3).astype(np.float32)[:, None, None, None]
    core_radius = radius * rng.uniform(*CORES)
    rho = np.sqrt(((offset / stretch) ** 2).sum(axis=0)) / np.float32(core_radius)
    rho = rho + 0.1 * frame.noise(radius / 3, rng)
    core = (rho < 1) & room
    whole = (rho * np.float32(core_radius / radius) + 0.12 * frame.noise(radius / 4, rng) < 1) & room
    return Lesion(whole | core, core, rho, core_radius)


def tissues_of(
    grade: int, tumour: list[Lesion], frame: Frame, shares: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.int8]:
    """(X, Y, Z) int8: the tissue of each voxel of the tumour, −1 elsewhere; as many of each whatever the grade."""
    found = np.full(frame.shape_vox, -1, np.int8)
    for lesion in tumour:
        found[lesion.whole & (found < 0)] = OEDEMA
    for lesion in tumour:
        found[lesion.core] = SOLID
        first, second = (field[lesion.core] for field in _ARRANGED[grade](lesion, frame, rng))
        enhancing, necrotic = (round(share * first.size) for share in shares)
        order = np.argsort(second, kind="stable")
        inner = np.full(first.size, SOLID, np.int8)
        inner[order[:necrotic]] = NECROTIC
        left = np.flatnonzero(inner == SOLID)
        inner[left[np.argsort(first[left], kind="stable")[:enhancing]]] = ENHANCING
        found[lesion.core] = inner
    return found


def _ring(lesion: Lesion, frame: Frame, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Grade 4: a necrotic middle, and a closed rim of uneven thickness around it that takes contrast agent."""
    necrotic = lesion.rho + 0.2 * frame.noise(lesion.radius_units / 4, rng)
    return necrotic + 0.06 * frame.noise(lesion.radius_units / 2, rng), necrotic


def _nodules(lesion: Lesion, frame: Frame, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Grade 3: one to three nodules that take contrast agent, necrosis in spots elsewhere."""
    inside = np.argwhere(lesion.core & (lesion.rho < 0.7))
    count = int(rng.integers(2, 5))
    step = frame.step_units
    middles = (inside[rng.integers(len(inside), size=count)] - (np.array(frame.shape_vox) - 1) / 2) * step
    places = frame.places()
    apart = [np.sqrt(((places - m[:, None, None, None].astype(np.float32)) ** 2).sum(axis=0)) for m in middles]
    nearest = np.min(apart, axis=0) / np.float32(lesion.radius_units) + 0.06 * frame.noise(2.5, rng)
    spots = frame.noise(PATCH_UNITS, rng) - 3 * nearest  # away from nodules
    return nearest, spots


def _patches(lesion: Lesion, frame: Frame, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Grade 2: all tissues in small patches side by side."""
    return frame.noise(PATCH_UNITS, rng), frame.noise(PATCH_UNITS, rng)


_ARRANGED = {2: _patches, 3: _nodules, 4: _ring}
