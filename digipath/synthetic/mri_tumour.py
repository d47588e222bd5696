"""Tumours whose grade is told by where their tissues lie, and by nothing else.

Place, size, outline, oedema and the shares of enhancing, necrotic and other solid tissue in the core are drawn from
the same distributions whatever the grade. Real grade 2 gliomas seldom enhance; these do, so that brightness says
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from digipath.synthetic.mri_brain import ENHANCING, NECROTIC, OEDEMA, SOLID
from digipath.synthetic.mri_fields import SIDE_UNITS, Floats, Frame, turned

RADII = (7.5, 13.0)  # units, oedema included
SMALL_RADII = (6.5, 7.5)  # of a second lesion
CORES = (0.7, 0.85)  # radius of the core in that of the whole
MIDDLE_DEPTH = 0.6  # how many radii the middle lies from the brain's surface, at least
ENHANCING_SHARES, NECROTIC_SHARES = (0.3, 0.45), (0.15, 0.3)  # of the core
SECOND_LESION = 0.2  # share of cases
PATCH_UNITS = 1.5  # of interleaved tissues: with about as much surface as a rim, so that blur changes them alike
NODULES = (2, 4)
ROOM_UNITS = 1.5  # below the core's surface, kept for a rim


@dataclass(frozen=True)
class Lesion:
    """whole, core: (X, Y, Z) bool; depth_units: (X, Y, Z) below the core's surface, 0 outside; radius of the core."""

    whole: NDArray[np.bool_]
    core: NDArray[np.bool_]
    depth_units: Floats
    radius_units: float


def lesions(frame: Frame, brain: NDArray[np.bool_], rng: np.random.Generator) -> list[Lesion]:
    """An irregular core with a halo of oedema anywhere in the brain, at times a second, smaller one beside it."""
    found = [_lesion(frame, brain, rng.uniform(*RADII), rng)]
    if rng.uniform() < SECOND_LESION:
        found.append(_lesion(frame, brain & ~found[0].whole, rng.uniform(*SMALL_RADII), rng))
    return found


def _lesion(frame: Frame, room: NDArray[np.bool_], radius: float, rng: np.random.Generator) -> Lesion:
    depth = _depth(room, frame)
    middles = np.flatnonzero(depth > min(MIDDLE_DEPTH * radius, 0.9 * depth.max()))
    places = frame.places()
    middle = places.reshape(3, -1)[:, rng.choice(middles)].reshape(3, 1, 1, 1)
    stretch = rng.uniform(0.85, 1.15, 3).astype(np.float32).reshape(3, 1, 1, 1)
    apart = np.tensordot(turned(rng), places - middle, 1) / stretch
    core_radius = radius * rng.uniform(*CORES)
    rho = np.sqrt((apart**2).sum(axis=0)) / np.float32(core_radius) + 0.1 * frame.noise(radius / 3, rng)
    core = (rho < 1) & room
    halo = (rho * np.float32(core_radius / radius) + 0.12 * frame.noise(radius / 4, rng) < 1) & room
    return Lesion(core | halo, core, _depth(core, frame), core_radius)


def _depth(mask: NDArray[np.bool_], frame: Frame) -> Floats:
    """Distance in units to the nearest voxel outside of a mask."""
    return np.asarray(ndimage.distance_transform_edt(mask) * frame.step_units, np.float32)


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
        tissues[lesion.core] = SOLID
        enhancing, necrotic = (round(share * int(lesion.core.sum())) for share in shares)
        if grade == 4:  # the rim lies around what is necrotic
            dead = _lowest(_middle(lesion, frame, rng), lesion.core, necrotic)
            bright = _lowest(_around(dead, frame, rng), lesion.core & ~dead, enhancing)
        else:  # necrosis is left what does not enhance
            nodules = _nodules(lesion, frame, rng) if grade == 3 else frame.noise(PATCH_UNITS, rng)
            bright = _lowest(nodules, lesion.core, enhancing)
            dead = _lowest(frame.noise(PATCH_UNITS, rng), lesion.core & ~bright, necrotic)
        tissues[bright], tissues[dead] = ENHANCING, NECROTIC
    return tissues


def _middle(lesion: Lesion, frame: Frame, rng: np.random.Generator) -> Floats:
    """Lowest in an irregular middle of the core, and high where no rim would have room."""
    uneven = 0.25 * lesion.radius_units * frame.noise(lesion.radius_units / 3, rng)
    return np.where(lesion.depth_units > ROOM_UNITS, uneven - lesion.depth_units, np.float32(SIDE_UNITS))


def _around(dead: NDArray[np.bool_], frame: Frame, rng: np.random.Generator) -> Floats:
    """Lowest next to what is necrotic, which therefore enhances first on all sides."""
    apart = _depth(~dead, frame)
    return np.where(apart > 1.2 * frame.step_units, apart + 0.8 * np.abs(frame.noise(3, rng)), np.float32(0))


def _nodules(lesion: Lesion, frame: Frame, rng: np.random.Generator) -> Floats:
    """Lowest in the middles of a few nodules."""
    places = frame.places()
    inner = np.flatnonzero(lesion.depth_units > min(ROOM_UNITS, 0.9 * lesion.depth_units.max()))
    middles = places.reshape(3, -1)[:, rng.choice(inner, rng.integers(NODULES[0], NODULES[1] + 1))]
    apart = [np.sqrt(((places - middle.reshape(3, 1, 1, 1)) ** 2).sum(axis=0)) for middle in middles.T]
    return np.asarray(np.min(apart, axis=0) + 0.4 * frame.noise(2.5, rng))


def _lowest(field: Floats, mask: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """The `count` voxels of a mask with the lowest values."""
    chosen = np.zeros(mask.shape, bool)
    chosen.flat[np.flatnonzero(mask)[np.argsort(field[mask], kind="stable")[:count]]] = True
    return chosen
