"""Periodic H&E-like textures of glioma, grades 2 to 4, that differ in what is drawn and not in colour.

Grade 2: few bland, round nuclei in a fibrillary background, a thin capillary here and there. Grade 3: more nuclei, of
unequal size and shape. Grade 4: crowded, very pleomorphic nuclei, vessels with thickened walls in tufts, and palisades
of nuclei around bare tracts. Whatever has no nuclei is fibrils and specks of the same darkness: all three are mapped
by rank onto one distribution of colours at level 0 and at every coarser level (`matching.matched`).
Stain and section vary from slide to slide and know nothing of the grade.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from digipath.errors import BadInput
from digipath.synthetic.glioma_fields import (
    Array,
    Floats,
    Shapes,
    discs,
    fibrils,
    filled,
    nuclei,
    path,
    scattered,
)
from digipath.synthetic.matching import matched, ranks
from digipath.synthetic.textures import EOSIN, HAEMATOXYLIN, smooth_noise

GRADES = ("grade 2", "grade 3", "grade 4")
LEAST_PERIOD_PX = 256
MATCHED_UM = 60  # colours are alike in every neighbourhood of about this side, and at every finer scale
RIM_UM = 0.5


@dataclass(frozen=True)
class Look:
    """What a grade looks like.

    Attributes:
        per_mm2: nuclei; radius_um of them, spread of its logarithm.
        narrowest: least width over length; lobes: height of waves on the rim, in radii.
        darkness: range over the nuclei; chromatin: how clumped.
        capillaries, tufts, palisades: per mm².
    """

    per_mm2: float
    radius_um: float
    spread: float
    narrowest: float
    lobes: float
    darkness: tuple[float, float]
    chromatin: float
    capillaries: float
    tufts: float
    palisades: float

    @property
    def nucleus(self) -> tuple[float, float, float, tuple[float, float]]:
        return self.spread, self.narrowest, self.lobes, self.darkness


LOOKS = (
    Look(450, 4.3, 0.08, 0.8, 0.02, (0.85, 1.0), 0.1, 4, 0, 0),
    Look(1500, 5.0, 0.26, 0.55, 0.1, (0.6, 1.0), 0.25, 14, 0, 0),
    Look(4200, 5.4, 0.38, 0.35, 0.15, (0.5, 1.0), 0.2, 0, 16, 3),
)


def grade_tile(grade: str, side_px: int, *, mpp: float = 0.5, seed: int = 0) -> np.ndarray:
    """(side_px, side_px, 3) uint8 of one grade alone, stained as `write_glioma_slide` stains with this seed.

    Raises BadInput: a grade that is not one of GRADES, or a side or resolution not above 0.
    """
    if grade not in GRADES or side_px < 1 or not 0 < mpp < math.inf:
        raise BadInput(f"expected one of {GRADES}, a side and mpp above 0, received {grade!r}, {side_px} and {mpp}")
    period = max(LEAST_PERIOD_PX, 2 ** math.ceil(math.log2(side_px)))
    texture = grade_textures(period, mpp, np.random.default_rng([seed, 0]))[GRADES.index(grade)]
    return np.clip(np.rint(texture[:side_px, :side_px]), 0, 255).astype(np.uint8)


def grade_textures(period: int, mpp: float, rng: np.random.Generator) -> list[Floats]:
    """(period, period, 3) float32 RGB of GRADES and of glass, periodic; period: a power of two or three times one."""
    stain = Stain.drawn(rng)
    felt = 0.8 * fibrils(period, 7 / mpp, 0.9 / mpp, rng) + 0.5 * smooth_noise(period, max(0.5 / mpp, 0.7), rng)
    felt += 0.3 * smooth_noise(period, 4 / mpp, rng)
    sharp = (_light(ranks(_darkness(look, felt, mpp, rng)), stain) for look in LOOKS)
    light = [ndimage.gaussian_filter(image, stain.blur_px, mode="wrap") for image in sharp]
    scales = max(0, round(math.log2(min(max(MATCHED_UM / mpp, 1), period // 4))))
    thickness = 1 + 0.1 * smooth_noise(period, 60 / mpp, rng)
    pink = 0.05 * smooth_noise(period, 12 / mpp, rng) + 0.1 * smooth_noise(period, 60 / mpp, rng)
    sensor = rng.standard_normal((period, period, 3), dtype=np.float32) * np.float32(4)
    return [stain.coloured(image, thickness, pink) + sensor for image in matched(light, scales)] + [
        stain.white + 0.3 * sensor
    ]


@dataclass(frozen=True)
class Stain:
    """How a slide is cut, stained and scanned; drawn without regard to what is on it.

    haematoxylin, eosin: optical densities (R, G, B) of the darkest nucleus and of the neuropil; share: of dark pixels,
    white: of the glass (R, G, B), blur_px: standard deviation of the focus.
    """

    haematoxylin: Array
    eosin: Array
    share: float
    white: Array
    blur_px: float

    @property
    def depth(self) -> float:
        """Density of haematoxylin in red and green, where it shows most."""
        return float(self.haematoxylin[:2].mean())

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Stain:
        thickness = math.exp(rng.normal(0, 0.25))

        def vector(base: tuple[float, float, float], strength: float) -> Array:
            tinted = np.array(base) * np.exp(rng.normal(0, 0.15, 3)) + rng.uniform(0, 0.05, 3)
            return np.asarray(tinted / np.linalg.norm(tinted) * strength * thickness)

        return cls(
            vector(HAEMATOXYLIN, math.exp(rng.normal(math.log(0.75), 0.25))),
            vector(EOSIN, math.exp(rng.normal(math.log(0.15), 0.35))),
            rng.uniform(0.12, 0.24),
            243 + rng.uniform(-6, 4, 3),
            rng.uniform(0, 0.7),
        )

    def coloured(self, light: Floats, thickness: Floats, pink: Floats) -> Floats:
        """RGB by Beer–Lambert of the light that the haematoxylin lets through, `_light`."""
        blue = -np.log10(np.clip(light, 0.005, 1)) / self.depth
        rgb = [
            white * np.exp((blue * h + np.clip(1 + pink, 0.3, None) * e) * thickness * -math.log(10))
            for h, e, white in zip(self.haematoxylin, self.eosin, self.white, strict=True)
        ]
        return np.stack(rgb, axis=-1).astype(np.float32)


def _light(rank: Floats, stain: Stain) -> Floats:
    """Light let through in red and green, as it is averaged at coarser levels: the top ranks are nuclei."""
    nuclear = 1 / (1 + np.exp((1 - stain.share - rank) * 30))
    density = 0.06 + 0.16 * rank**2 + nuclear * (0.3 + 0.4 * (rank - 1 + stain.share) / stain.share)
    return np.asarray(10 ** -(density * stain.depth), np.float32)


def _darkness(look: Look, felt: Floats, mpp: float, rng: np.random.Generator) -> Floats:
    """What is seen of a grade, in arbitrary units: nuclei around 1, fibrils below, lumens below all."""
    period = len(felt)
    lumens, walls, cells = _vessels(look, period, mpp, rng)
    tracts, palisading = _palisades(look, period, mpp, rng)
    centres = scattered(period, 1000 / math.sqrt(look.per_mm2) / mpp, 0.6, rng)
    row, column = (centres.astype(int) % period).T
    centres = centres[np.maximum(walls, tracts)[row, column] < 0.5]
    cells = cells + palisading + nuclei(centres, look.radius_um / mpp, look.nucleus, rng)
    drawn = filled(cells, period, max(RIM_UM / mpp, 0.5), rng)
    clumps = np.clip(1 + look.chromatin * smooth_noise(period, max(0.7 / mpp, 0.6), rng), 0.3, 1.4)
    background = 0.12 * felt + 0.2 * walls - 0.9 * lumens
    return np.asarray(drawn * clumps + (1 - drawn) * background, np.float32)


def _vessels(look: Look, period: int, mpp: float, rng: np.random.Generator) -> tuple[Floats, Floats, Shapes]:
    """Lumens, and walls with them, as fields of 0 to 1, and the vessels' nuclei."""
    area_mm2 = (period * mpp / 1000) ** 2
    lumens: list[Shapes] = [discs(np.empty((0, 2)), 1)]
    walls: list[Shapes] = [discs(np.empty((0, 2)), 1)]
    cells = [nuclei(np.empty((0, 2)), 1, look.nucleus, rng)]
    for _ in range(rng.poisson(look.capillaries * area_mm2)):
        line, angle = path(rng.uniform(0, period, 2), rng.uniform(80, 200) / mpp, 150 / mpp, rng)
        lumens.append(discs(line[:: max(1, round(1 / mpp))], 1.6 / mpp))
        cells.append(_lining(line, angle, (3.4 / mpp, 13 / mpp), (4.5 / mpp, 0.3), rng))
    for centre in scattered(period, 1000 / math.sqrt(look.tufts) / mpp, 0.3, rng) if look.tufts else ():
        for _ in range(rng.integers(2, 6)):
            _tube(centre + rng.normal(0, 22 / mpp, 2), mpp, rng, (lumens, walls, cells))
    rim = max(1 / mpp, 0.5)
    return filled(_sum(lumens), period, rim, rng), filled(_sum(walls), period, rim, rng), _sum(cells)


def _tube(
    centre: Array, mpp: float, rng: np.random.Generator, parts: tuple[list[Shapes], list[Shapes], list[Shapes]]
) -> None:
    """A thick-walled vessel cut across: a lumen within two to three rings of long nuclei."""
    lumens, walls, cells = parts
    lumen = rng.uniform(4, 9)
    lumens.append(discs(centre[None], lumen / mpp))
    layers = lumen + 3.5 + 5.5 * np.arange(rng.integers(2, 4))
    walls.append(discs(centre[None], (layers[-1] + 6) / mpp))
    for radius in layers:
        turn = np.arange(math.floor(2 * math.pi * radius / 11)) * 11 / radius + rng.uniform(0, 2 * math.pi)
        ring = centre + radius / mpp * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        cells.append(nuclei(ring, 5 / mpp, (0.15, 0.35, 0.03, (0.7, 1.0)), rng, angle=turn + math.pi / 2))


def _palisades(look: Look, period: int, mpp: float, rng: np.random.Generator) -> tuple[Floats, Shapes]:
    """Winding tracts bare of nuclei, and the crowd of long nuclei that stand on their border."""
    bare, cells = [discs(np.empty((0, 2)), 1)], [nuclei(np.empty((0, 2)), 1, look.nucleus, rng)]
    for _ in range(rng.poisson(look.palisades * (period * mpp / 1000) ** 2)):
        line, angle = path(rng.uniform(0, period, 2), rng.uniform(120, 260) / mpp, 200 / mpp, rng)
        bare.append(discs(line[:: max(1, round(4 / mpp))], 30 / mpp))
        for distance in (30, 38, 46):
            cells.append(
                _lining(line, angle + math.pi / 2, (distance / mpp, 5 / mpp), (6 / mpp, 0.35), rng, across=True)
            )
    return filled(_sum(bare), period, 1, rng), _sum(cells)


def _lining(
    line: Array,
    angle: Array,
    place_px: tuple[float, float],
    shape: tuple[float, float],
    rng: np.random.Generator,
    *,
    across: bool = False,
) -> Shapes:
    """Long nuclei on both sides of a line; place_px: distance from it and between them; shape: radius_px, width."""
    distance, spacing = place_px
    every = slice(rng.integers(0, max(1, round(spacing))), None, max(1, round(spacing)))
    normal = angle[every] + (0 if across else math.pi / 2)
    out = np.stack([np.cos(normal), np.sin(normal)], axis=1)
    sides = np.concatenate([line[every] + side * distance * out for side in (-1, 1)])
    along = np.tile(angle[every], 2) + rng.normal(0, 0.25, 2 * len(normal))
    return nuclei(sides + rng.normal(0, 0.15 * spacing, sides.shape), shape[0],
                  (0.15, shape[1], 0.04, (0.7, 1.0)), rng, angle=along)  # fmt: skip


def _sum(shapes: list[Shapes]) -> Shapes:
    total = shapes[0]
    for more in shapes[1:]:
        total = total + more
    return total
