"""Lymph nodes whose lesions are real outlines and whose heatmaps are simulated: what a pN forest can learn from.

Pathologists' outlines of lesions and of tissue are known for many slides, heatmaps of a detector for none. A
node is made of one slide's lesions (turned, mirrored and scaled a little; all of their clusters or a part of
them), and of another slide's pieces of tissue; isolated tumour cells, of which there are few, are small real
outlines or pieces cut from the rim of large ones. It is labelled by size, by the rule of
`digipath.measure.pn_stage`.

Outlines are in µm, heatmaps in pixels of the detector's `map_mpp`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from digipath.errors import BadInput
from digipath.measure.lesions import JOIN_GAP_UM
from digipath.measure.pn_stage import CATEGORIES, ITC_UM, size_category
from digipath.synthetic.detector import DetectorErrors, clusters, longest_diameter, rasterised, simulate_heatmap

SECTION_GAP_UM = 2000.0  # clusters of lesions further apart are laid out as pieces of their own
RIM_UM = (300.0, 800.0)  # how far tissue reaches beyond lesions
SCALES = (0.8, 1.25)
MOST_ITC = 4  # clusters of isolated tumour cells in a node
LARGEST_TISSUE_MM2 = 300.0  # slides with more are left out, for the sake of memory
TRIES = 500
THINNEST_UM = 100.0  # outlines of tissue that are nowhere twice as wide are the slide's edges
PACK_GAP_PX = 40  # between pieces of tissue: more than 75 µm at 8 µm/px, so that nothing joins across

Polygons = tuple[shapely.Polygon, ...]


@dataclass(frozen=True)
class Outlines:
    """What was drawn on slides, in µm: lesions of each slide with tumour, tissue of each normal one."""

    lesions: dict[str, Polygons]
    tissue: dict[str, Polygons]

    def split(self, shares: Sequence[float], rng: np.random.Generator) -> list[Outlines]:
        """Part the slides at random; no slide is in two parts."""
        parts: list[list[dict[str, Polygons]]] = []
        for slides in (self.lesions, self.tissue):
            names = rng.permutation(sorted(slides))
            cuts = np.rint(np.cumsum(shares)[:-1] / np.sum(shares) * len(names)).astype(int)
            parts.append([{str(name): slides[str(name)] for name in part} for part in np.split(names, cuts)])
        return [Outlines(lesions, tissue) for lesions, tissue in zip(*parts, strict=True)]


@dataclass(frozen=True)
class SimulatedNode:
    """A node with its truth, in map pixels.

    Attributes:
        lesions_px: outlines (x, y). tissue: bool (rows, columns).
        category: by the longest diameter of its largest metastasis, `diameter_um` (None: negative).
    """

    lesions_px: Polygons
    tissue: NDArray[np.bool_]
    category: str
    diameter_um: float | None

    def heatmap(self, errors: DetectorErrors, rng: np.random.Generator) -> NDArray[np.float32]:
        """What a detector with such errors makes of the node, (rows, columns) float32 in [0, 1]."""
        return simulate_heatmap(self.lesions_px, self.tissue, errors, rng)


def read_outlines_json(path: Path, mpp: float) -> Outlines:
    """Read `{slide: {"positive": [[[x, y], …], …], "negative": […]}}`, gzipped JSON in level-0 pixels of `mpp` µm.

    On slides with positive outlines the negative ones are holes in them; on the others they are tissue.

    Raises:
        BadInput: no such content.
    """
    try:
        slides = json.loads(gzip.decompress(path.read_bytes()))
        lesions, tissue = {}, {}
        for name, drawn in slides.items():
            positive, negative = (_polygons(drawn[side], mpp) for side in ("positive", "negative"))
            if positive:
                holes = shapely.union_all(negative)
                cut = [shapely.difference(lesion, holes) for lesion in positive]
                lesions[name] = tuple(part for one in cut for part in _parts(one))
            else:
                pieces = tuple(piece for piece in negative if not piece.buffer(-THINNEST_UM).is_empty)
                if 0 < sum(piece.area for piece in pieces) / 1e6 <= LARGEST_TISSUE_MM2:
                    tissue[name] = pieces
    except (ValueError, KeyError, TypeError, EOFError, gzip.BadGzipFile) as error:
        reason = f"{type(error).__name__}: {error}"
        raise BadInput(f"expected gzipped JSON of outlines by slide, got {reason}: {path}") from error
    if not lesions or not tissue:
        counts = f"{len(lesions)} and {len(tissue)}"
        raise BadInput(f"expected slides with lesions and slides with tissue, got {counts}: {path}")
    return Outlines(lesions, tissue)


def make_node(category: str, outlines: Outlines, rng: np.random.Generator, *, mpp: float) -> SimulatedNode:
    """A node of the category, made of slides drawn at random.

    Args:
        category: one of `digipath.measure.pn_stage.CATEGORIES`.
        mpp: µm per map pixel.

    Raises:
        BadInput: no such category, or the outlines hold no lesion that makes it.
    """
    if category not in CATEGORIES:
        raise BadInput(f"expected a category of {', '.join(CATEGORIES)}, got {category!r}")
    for _ in range(TRIES):
        lesions = _lesions(category, outlines, rng)
        diameter_um = largest_metastasis_um(lesions)
        if size_category(diameter_um) == category:
            pieces = _pieces(lesions, outlines, rng)
            lesions_px, tissue = _laid_out(pieces, mpp)
            return SimulatedNode(lesions_px, tissue, category, diameter_um)
    raise BadInput(f"expected outlines that make a node of the category {category}, got none in {TRIES} tries")


def largest_metastasis_um(lesions: Sequence[shapely.Polygon]) -> float | None:
    """Longest diameter of the largest metastasis, fragments within 75 µm joined; None without any lesion."""
    groups = clusters(lesions, JOIN_GAP_UM)
    return max((longest_diameter([lesions[i] for i in group]) for group in groups), default=None)


def _lesions(category: str, outlines: Outlines, rng: np.random.Generator) -> Polygons:
    if category == "negative":
        return ()
    if category == "itc":
        cells = [_isolated_cells(outlines, rng) for _ in range(rng.integers(1, MOST_ITC + 1))]
        # Each cluster by itself: far enough apart to stay one of its own.
        shifts = [np.array([2 * SECTION_GAP_UM * place, 0]) for place in range(len(cells))]
        return tuple(shapely.transform(c, lambda xy, s=s: xy + s) for c, s in zip(cells, shifts, strict=True))
    lesions = _drawn(outlines.lesions, rng)
    groups = clusters(lesions, SECTION_GAP_UM / 4)
    kept = groups if rng.random() < 0.5 else [group for group in groups if rng.random() < 0.5]
    return _varied([lesions[i] for group in kept for i in group], rng)


def _isolated_cells(outlines: Outlines, rng: np.random.Generator) -> shapely.Polygon:
    """A small real outline, or a piece of a large one's rim, at the origin."""
    small: Polygons = ()
    while not small:  # a cut may miss the lesion, or leave nothing but a line
        lesions = _drawn(outlines.lesions, rng)
        lesion: shapely.Geometry = lesions[rng.integers(len(lesions))]
        if longest_diameter([lesion]) > ITC_UM:
            rim = shapely.get_coordinates(lesion.exterior)
            disc = shapely.Point(rim[rng.integers(len(rim))]).buffer(ITC_UM / 2 * rng.uniform(0.1, 1))
            lesion = shapely.intersection(lesion, disc)
        small = _varied(_parts(lesion), rng)
    largest = max(small, key=lambda part: part.area)
    centre = shapely.get_coordinates(largest.centroid)[0]
    return shapely.transform(largest, lambda xy: xy - centre)


def _drawn(slides: dict[str, Polygons], rng: np.random.Generator) -> Polygons:
    names = sorted(slides)
    return slides[names[rng.integers(len(names))]]


def _varied(polygons: Sequence[shapely.Polygon], rng: np.random.Generator) -> Polygons:
    """Turned, mirrored and scaled together."""
    scale, angle = rng.uniform(*SCALES), rng.uniform(0, 2 * np.pi)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if rng.random() < 0.5:
        turn = turn @ np.diag([-1.0, 1.0])
    moved = [shapely.make_valid(shapely.transform(polygon, lambda xy: xy @ turn.T)) for polygon in polygons]
    return tuple(part for polygon in moved for part in _parts(polygon))


def _pieces(
    lesions: Polygons, outlines: Outlines, rng: np.random.Generator
) -> list[tuple[Polygons, shapely.Polygon]]:
    """Pieces of tissue with the lesions on each: around the lesions, and those of a normal slide."""
    pieces: list[tuple[Polygons, shapely.Polygon]] = []
    for group in clusters(lesions, SECTION_GAP_UM):
        inside = tuple(lesions[i] for i in group)
        around = shapely.buffer(shapely.convex_hull(shapely.union_all(inside)), rng.uniform(*RIM_UM))
        pieces.append((inside, around))
    plain = _varied(_drawn(outlines.tissue, rng), rng)
    return pieces + [((), piece) for piece in plain]


def _laid_out(
    pieces: Sequence[tuple[Polygons, shapely.Polygon]], mpp: float
) -> tuple[Polygons, NDArray[np.bool_]]:
    """Pieces side by side in rows, the highest first: lesions in map pixels, and the tissue mask."""
    pieces = [_upright(*piece) for piece in pieces]
    boxes = np.array([np.array(piece.bounds) / mpp for _, piece in pieces])
    sizes = np.ceil(boxes[:, 2:] - boxes[:, :2]).astype(int) + PACK_GAP_PX
    width = max(int(np.sqrt(sizes.prod(axis=1).sum()) * 1.2), int(sizes[:, 0].max()))
    x = y = shelf = 0
    lesions: list[shapely.Polygon] = []
    places: list[shapely.Polygon] = []
    for index in np.argsort(-sizes[:, 1], kind="stable"):
        if x + sizes[index, 0] > width:
            x, y, shelf = 0, y + shelf, 0
        shift = np.array([x, y]) - boxes[index, :2] + PACK_GAP_PX / 2
        inside, piece = pieces[index]
        lesions += [shapely.transform(one, lambda xy, s=shift: xy / mpp + s) for one in inside]
        places.append(shapely.transform(piece, lambda xy, s=shift: xy / mpp + s))
        x, shelf = x + int(sizes[index, 0]), max(shelf, int(sizes[index, 1]))
    return tuple(lesions), rasterised(places, (y + shelf, width))


def _upright(lesions: Polygons, piece: shapely.Polygon) -> tuple[Polygons, shapely.Polygon]:
    """A piece turned so that its bounding box is the smallest, as little empty glass as can be."""
    corners = shapely.get_coordinates(shapely.minimum_rotated_rectangle(piece))
    side = corners[1] - corners[0]
    along = side / np.hypot(*side)
    turn = np.array([[along[0], along[1]], [-along[1], along[0]]])
    turned = shapely.transform([piece, *lesions], lambda xy: xy @ turn.T)
    return tuple(turned[1:]), turned[0]


def _polygons(rings: Sequence[Sequence[Sequence[float]]], mpp: float) -> list[shapely.Polygon]:
    drawn = [shapely.make_valid(shapely.Polygon(np.asarray(ring, float) * mpp)) for ring in rings if len(ring) > 3]
    return [part for one in drawn for part in _parts(one)]


def _parts(geometry: shapely.Geometry) -> list[shapely.Polygon]:
    return [part for part in shapely.get_parts(geometry) if part.geom_type == "Polygon" and part.area > 0]
