"""Outlines and numbered marks over the slide's overview."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import shapely
import shapely.ops
from PIL import Image, ImageDraw, ImageFont

from digipath.report.figures import INK, PAPER

LINE_PX, MARK_PX = 4, 15
TISSUE_RGB, HULL_RGB, PIECE_RGB, MARK_RGB = (90, 90, 90), (181, 48, 95), (42, 107, 176), (181, 48, 95)


@dataclass(frozen=True)
class Stroke:
    """Outlines in level-0 pixels (x, y), drawn alike; a dashed line has gaps of its own length."""

    outlines: Sequence[shapely.Geometry]
    colour_rgb: tuple[int, int, int]
    dash_px: float | None = None


def with_outlines(picture: Image.Image, strokes: Sequence[Stroke], l0_per_px: float) -> Image.Image:
    """The picture with outlines over it; the white seam keeps them visible on any tissue.

    Args:
        l0_per_px: level-0 pixels per pixel of the picture.
    """
    picture = picture.convert("RGB")
    pen = ImageDraw.Draw(picture)
    lines = [(line, stroke.colour_rgb) for stroke in strokes for line in _lines(stroke, l0_per_px)]
    for line, _ in lines:
        pen.line(line, fill=PAPER, width=LINE_PX + 3, joint="curve")
    for line, colour in lines:
        pen.line(line, fill=colour, width=LINE_PX, joint="curve")
    return picture


def with_marks(picture: Image.Image, places_l0: Sequence[tuple[float, float]], l0_per_px: float) -> Image.Image:
    """The picture with a numbered disc (1, 2, …) at each place; the first ones lie on top."""
    picture = picture.convert("RGB")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(MARK_PX + 3)
    for number, (x, y) in reversed(list(enumerate(places_l0, 1))):
        at = (x / l0_per_px, y / l0_per_px)
        pen.circle(at, MARK_PX + 1, fill=INK)
        pen.circle(at, MARK_PX, fill=MARK_RGB, outline=PAPER, width=2)
        pen.text(at, str(number), fill=PAPER, font=font, anchor="mm")
    return picture


def _lines(stroke: Stroke, l0_per_px: float) -> list[list[tuple[float, float]]]:
    """The outlines' rings in the picture's pixels, cut into dashes where they are dashed."""
    lines: list[shapely.LineString] = []
    for part in shapely.get_parts(list(stroke.outlines)):
        scaled = shapely.transform(part, lambda xy: xy / l0_per_px)
        drawn = scaled if scaled.area else scaled.buffer(1)  # the hull of one pixel, or of one row, has no area
        for ring in shapely.get_rings(drawn):
            lines += [ring] if stroke.dash_px is None else _dashes(ring, stroke.dash_px)
    return [[(x, y) for x, y in line.coords] for line in lines]


def _dashes(line: shapely.LineString, dash_px: float) -> list[shapely.LineString]:
    starts = [2 * dash_px * index for index in range(int(line.length // (2 * dash_px)) + 1)]
    return [shapely.ops.substring(line, start, start + dash_px) for start in starts if start < line.length]
