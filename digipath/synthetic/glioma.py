"""Write slides of glioma with regions of known grade: any size up to 100,000², small files, little memory.

A slide has a dominant grade, at least half of its tissue, and regions of other grades beside it. The grades differ in
how crowded and how shapely the nuclei are and in their vessels, and not in colour (`glioma_textures`). As in
`write_slide` textures repeat, every 1,536 pixels (768 in small slides), and tiles within a region share their bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from digipath.errors import BadInput
from digipath.files import write_json
from digipath.synthetic.bigtiff import Grid
from digipath.synthetic.drawing import QUALITY, Layer, Polygon, blob, inside
from digipath.synthetic.glioma_textures import GRADES, grade_textures, grade_tile
from digipath.synthetic.pyramid import refuse_impossible, write_pyramid

__all__ = ["GRADES", "GliomaSlide", "grade_tile", "write_glioma_slide"]

# Three halves of a tile of 1024: such tiles fall on nine places of the texture before they repeat.
PERIOD_PX, SMALL_PERIOD_PX, SMALL_SLIDE_PX = 1536, 768, 2048
FRONT_POINTS = 200  # of the line between two regions


@dataclass(frozen=True)
class GliomaSlide:
    """A written slide and its truth; outlines are (n, 2) arrays of x, y in level-0 pixels.

    regions: the disjoint outlines of each grade on the slide, all tissue together, in rising order of grade.
    """

    path: Path
    size_l0: tuple[int, int]
    mpp: float
    tissues: tuple[Polygon, ...]
    regions: Mapping[str, tuple[Polygon, ...]]
    dominant: str

    def tissue_mask(self, downsample: float = 1.0) -> NDArray[np.bool_]:
        """(rows, columns) bool, True in tissue, at `downsample` level-0 pixels per pixel."""
        return np.asarray(inside(self.tissues, self.size_l0, downsample))

    def grade_mask(self, downsample: float = 1.0) -> NDArray[np.int8]:
        """(rows, columns) int8, the index in GRADES of each pixel's grade, −1 off tissue."""
        grades = np.where(self.tissue_mask(downsample), GRADES.index(self.dominant), -1).astype(np.int8)
        for grade, polygons in self.regions.items():
            grades[inside(polygons, self.size_l0, downsample) & (grades >= 0)] = GRADES.index(grade)
        return grades

    def write_outlines(self, path: str | Path) -> None:
        """Write GeoJSON as QuPath does: an annotation for each region, classified as its grade."""
        features = [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [np.vstack([polygon, polygon[:1]]).tolist()]},
                "properties": {"objectType": "annotation", "classification": {"name": grade}},
            }
            for grade, polygons in self.regions.items()
            for polygon in polygons
        ]
        write_json(Path(path), {"type": "FeatureCollection", "features": features})


def write_glioma_slide(
    path: str | Path,
    size_l0: tuple[int, int],
    *,
    grades: Mapping[str, float],
    mpp: float = 0.5,
    seed: int = 0,
    tile: int = 512,
    pieces: int = 1,
    levels: int | None = None,
    lossless: bool = False,
    quality: int = QUALITY,
    failed_tiles: Sequence[Grid] = (),
) -> GliomaSlide:
    """Write a tiled pyramidal TIFF of glioma that OpenSlide opens; the same arguments give the same bytes.

    grades: how much of the tissue each of GRADES is, in any unit, say {"grade 4": 0.7, "grade 2": 0.3}; one has at
    least half and is dominant (the higher of two halves). seed: of the outlines, the structures and the stain, which
    does not depend on the grade. pieces: of tissue, side by side, each with all grades. quality: of JPEG. The rest as
    in `write_slide`.

    Raises BadInput: a grade that is not one of GRADES, shares that are not positive or none of at least half, and
    what `write_slide` refuses.
    """
    refuse_impossible(path, size_l0, mpp=mpp, tile=tile)
    dominant = _dominant(path, grades)
    look, where = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    tissues = _tissues(size_l0, pieces, where)
    regions: dict[str, list[Polygon]] = {grade: [] for grade in GRADES if grade in grades}
    for tissue in tissues:
        for grade, polygons in _divided(tissue, grades, dominant, where).items():
            regions[grade].extend(polygons)
    paints = grade_textures(PERIOD_PX if max(size_l0) > SMALL_SLIDE_PX else SMALL_PERIOD_PX, mpp, look)
    layers: list[Layer] = [(tissues, GRADES.index(dominant))]
    layers += [(polygons, GRADES.index(grade)) for grade, polygons in regions.items() if grade != dominant]
    write_pyramid(
        path, size_l0, paints, layers, mpp=mpp, tile=tile, levels=levels, lossless=lossless, quality=quality,
        failed_tiles=failed_tiles,
    )  # fmt: skip
    fixed = {grade: tuple(polygons) for grade, polygons in regions.items()}
    return GliomaSlide(Path(path), size_l0, mpp, tissues, fixed, dominant)


def _dominant(path: str | Path, grades: Mapping[str, float]) -> str:
    known = set(grades) <= set(GRADES) and all(0 < share < math.inf for share in grades.values())
    if known and grades and 2 * max(grades.values()) >= sum(grades.values()) * (1 - 1e-9):
        return max(sorted(grades, reverse=True), key=grades.__getitem__)
    raise BadInput(f"expected positive shares of {GRADES}, one of them at least half, received {dict(grades)}: {path}")


def _tissues(size_l0: tuple[int, int], pieces: int, rng: np.random.Generator) -> tuple[Polygon, ...]:
    """Rounded pieces side by side along the longer axis that fill most of the slide."""
    axis = 0 if size_l0[0] >= size_l0[1] else 1
    span = np.array(size_l0, float)
    span[axis] /= pieces
    step = span * (np.arange(2) == axis)
    outlines = []
    for piece in range(pieces):
        dented = blob(np.zeros(2), 1.0, rng)
        round_ = dented / np.linalg.norm(dented, axis=1, keepdims=True)
        outlines.append(span / 2 + piece * step + 0.48 * span * (dented + round_) / 2)
    return tuple(outlines)


def _divided(
    tissue: Polygon, grades: Mapping[str, float], dominant: str, rng: np.random.Generator
) -> dict[str, list[Polygon]]:
    """The tissue cut by winding fronts: the dominant grade between the others, which lie at the far ends."""
    rest: shapely.Geometry = shapely.Polygon(tissue)
    area, total = rest.area, sum(grades.values())
    long_axis = 0 if np.ptp(tissue[:, 0]) >= np.ptp(tissue[:, 1]) else math.pi / 2
    turn = long_axis + rng.uniform(-0.6, 0.6) + math.pi * rng.integers(2)
    regions = {}
    for grade in (grade for grade in GRADES if grade in grades and grade != dominant):
        side = _side(rest, turn, area * grades[grade] / total, rng)
        regions[grade] = _polygons(shapely.intersection(rest, side))
        rest = shapely.difference(rest, side)
        turn += math.pi
    return regions | {dominant: _polygons(rest)}


def _side(area: shapely.Geometry, turn: float, wanted_px2: float, rng: np.random.Generator) -> shapely.Polygon:
    """All that lies on one side of a winding front, placed so that `wanted_px2` of the area do."""
    centre = np.array(area.centroid.coords[0])
    reach = 2 * max(np.ptp(area.bounds[::2]), np.ptp(area.bounds[1::2]))
    along = np.linspace(-reach, reach, FRONT_POINTS)
    wave = sum(
        0.015 / k * reach * rng.normal() * np.cos(2 * math.pi * k * along / reach + rng.uniform(0, 2 * math.pi))
        for k in (1, 2, 3, 5)
    )
    ahead, beside = np.array([math.cos(turn), math.sin(turn)]), np.array([-math.sin(turn), math.cos(turn)])
    front = centre + along[:, None] * beside + np.asarray(wave)[:, None] * ahead
    behind = front[[-1, 0]] - 2 * reach * ahead

    def at(shift: float) -> shapely.Polygon:
        return shapely.Polygon(np.vstack([front + shift * ahead, behind + shift * ahead]))

    low, high = -reach, reach
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if shapely.intersection(area, at(middle)).area < wanted_px2 else (low, middle)
    return at(high)


def _polygons(geometry: shapely.Geometry) -> list[Polygon]:
    """Outlines of a geometry's parts, open; a front leaves no holes."""
    parts = [part for part in shapely.get_parts(geometry) if isinstance(part, shapely.Polygon) and part.area > 0]
    return [np.asarray(part.exterior.coords)[:-1] for part in parts]
