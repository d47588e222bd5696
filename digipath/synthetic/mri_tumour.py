"""Tumours whose grade is told by where their tissues lie, and by nothing else.

Place, size, outline, oedema and the shares of enhancing, necrotic and other solid tissue in the core are drawn from
the same distributions whatever the grade. Real grade 2 gliomas seldom enhance; these do, so that brightness says
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from digipath.synthetic.mri_brain import ENHANCING, NECROTIC, OEDEMA, SOLID
from digipath.synthetic.mri_fields import Floats, Frame, turned

RADII = (7.5, 13.0)  # units, oedema included
SMALL_RADII = (6.5, 7.5)  # of a second lesion
CORES = (0.7, 0.85)  # radius of the core in that of the whole
MIDDLE_DEPTH = 0.6  # how many radii the middle lies from the brain's surface, at least
ENHANCING_SHARES, NECROTIC_SHARES = (0.3, 0.45), (0.15, 0.3)  # of the core
SECOND_LESION = 0.2  # share of cases
PATCH_UNITS = 1.7  # of interleaved tissues: with about as much surface as a rim, so that blur changes them alike
NODULES = (2, 4)


@dataclass(frozen=True)
class Lesion:
    """whole, core: (X, Y, Z) bool; rho: (X, Y, Z), 0 in the middle, 1 on the core's surface; radius of the core."""

    whole: NDArray[np.bool_]
    core: NDArray[np.bool_]
    rho: Floats
    radius_units: float


def lesions(frame: Frame, brain: NDArray[np.bool_], rng: np.random.Generator) -> list[Lesion]:
    """An irregular core with a halo of oedema anywhere in the brain, at times a second, smaller one beside it."""
    found = [_lesion(frame, brain, rng.uniform(*RADII), rng)]
    if rng.uniform() < SECOND_LESION:
        found.append(_lesion(frame, brain & ~found[0].whole, rng.uniform(*SMALL_RADII), rng))
    return found


def _lesion(frame: Frame, room: NDArray[np.bool_], radius: float, rng: np.random.Generator) -> Lesion:
    depth = ndimage.distance_transform_edt(room) * frame.step_units
    middles = np.flatnonzero(depth > min(MIDDLE_DEPTH * radius, 0.9 * depth.max()))
    places = frame.places()
    middle = places.reshape(3, -1)[:, rng.choice(middles)].reshape(3, 1, 1, 1)
    stretch = rng.uniform(0.85, 1.15, 3).astype(np.float32).reshape(3, 1, 1, 1)
    apart = np.tensordot(turned(rng), places - middle, 1) / stretch
    core_radius = radius * rng.uniform(*CORES)
    rho = np.sqrt((apart**2).sum(axis=0)) / np.float32(core_radius) + 0.1 * frame.noise(radius / 3, rng)
    core = (rho < 1) & room
    halo = (rho * np.float32(core_radius / radius) + 0.12 * frame.noise(radius / 4, rng) < 1) & room
    return Lesion(core | halo, core, rho, core_radius)


def tissues_of(
    grade: int, found: list[Lesion], frame: Frame, shares: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.int8]:
    """The tissue of each voxel of lesions, −1 outside of them, (X, Y, Z) int8.

    grade: 2: all tissues in small patches side by side. 3: compact nodules enhance, necrosis lies in spots away from
    them. 4: a closed rim of uneven thickness enhances around a necrotic middle.
    shares: of enhancing and of necrotic tissue in the core; as many voxels of each whatever the grade.
    """
    tissues = np.full(frame.shape_vox, -1, np.int8)
    for lesion in found:
        tissues[lesion.whole] = OEDEMA
    for lesion in found:
        enhancing, necrotic = (field[lesion.core] for field in ARRANGEMENTS[grade](lesion, frame, rng))
        dealt = np.full(necrotic.size, SOLID, np.int8)
        dealt[np.argsort(necrotic, kind="stable")[: round(shares[1] * dealt.size)]] = NECROTIC
        left = np.flatnonzero(dealt == SOLID)
        dealt[left[np.argsort(enhancing[left], kind="stable")[: round(shares[0] * dealt.size)]]] = ENHANCING
        tissues[lesion.core] = dealt
    return tissues


# An arrangement gives two fields (X, Y, Z): where lowest, tissue enhances, and is necrotic.
Arrangement = Callable[[Lesion, Frame, np.random.Generator], tuple[Floats, Floats]]


def _patches(lesion: Lesion, frame: Frame, rng: np.random.Generator) -> tuple[Floats, Floats]:
    return frame.noise(PATCH_UNITS, rng), frame.noise(PATCH_UNITS, rng)


def _nodules(lesion: Lesion, frame: Frame, rng: np.random.Generator) -> tuple[Floats, Floats]:
    places = frame.places()
    inner = np.flatnonzero(lesion.core & (lesion.rho < max(0.7, 1.01 * lesion.rho[lesion.core].min())))
    middles = places.reshape(3, -1)[:, rng.choice(inner, rng.integers(NODULES[0], NODULES[1] + 1))]
    apart = [np.sqrt(((places - middle.reshape(3, 1, 1, 1)) ** 2).sum(axis=0)) for middle in middles.T]
    nearest = np.min(apart, axis=0) / np.float32(lesion.radius_units) + 0.06 * frame.noise(2.5, rng)
    return nearest, frame.noise(PATCH_UNITS, rng) - 3 * nearest


def _rim(lesion: Lesion, frame: Frame, rng: np.random.Generator) -> tuple[Floats, Floats]:
    middle = lesion.rho + 0.2 * frame.noise(lesion.radius_units / 4, rng)
    return middle + 0.06 * frame.noise(lesion.radius_units / 2, rng), middle


ARRANGEMENTS: dict[int, Arrangement] = {2: _patches, 3: _nodules, 4: _rim}
