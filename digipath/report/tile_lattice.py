"""Tiles of a lattice painted over a picture of a slide: crisp squares with free edges, an outline and dots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from digipath.report.figures import fitted, unpredicted
from digipath.report.grade_inputs import TileFrame
from digipath.values import BACKGROUND, EXCLUDED, READ_FAILED

Floats = NDArray[np.float32]
Scalar = TypeVar("Scalar", bound=np.generic)

GAP_FROM_PX, OUTLINE_FROM_PX, WIDE_FROM_PX = 4, 8, 40  # sides of tiles from which they have these
LINE_OPACITY = 0.85
LEFT_OUT_RGB = (96, 96, 96)
DOT_PX = 3


@dataclass(frozen=True)
class Look:
    """How tiles (R, C) are painted: which, in which colours (R, C, 3), how opaque; marks: dots in their corners."""

    shown: NDArray[np.bool_]
    fill: Floats
    opacity: Floats | float
    line: Floats
    marks: NDArray[np.integer] | None = None


@dataclass(frozen=True)
class Lattice:
    """Tiles over a picture: for each of its rows and columns the tile below, and pixels from that tile's two edges.

    side: pixels of a picture along a tile.
    """

    tile: tuple[NDArray[np.int64], NDArray[np.int64]]
    before: tuple[NDArray[np.int64], NDArray[np.int64]]
    after: tuple[NDArray[np.int64], NDArray[np.int64]]
    side: float

    @classmethod
    def over(cls, size_px: tuple[int, int], tiles: tuple[int, ...], sides: tuple[float, float]) -> Lattice:
        """The lattice over a picture of these (rows, columns), its tiles' sides along rows and columns given."""
        axes = [_axis(size, count, side) for size, count, side in zip(size_px, tiles, sides, strict=True)]
        tile, before, after = ((axes[0][i], axes[1][i]) for i in range(3))
        return cls(tile, before, after, min(sides))

    @property
    def edge(self) -> NDArray[np.int64]:
        """Pixels from each pixel of the picture to the nearest edge of its tile; 0: at it."""
        rows, columns = (np.minimum(before, after) for before, after in zip(self.before, self.after, strict=True))
        return np.minimum.outer(rows, columns)

    @property
    def gap(self) -> int:
        """Pixels that stay free at each edge."""
        return int(self.side >= GAP_FROM_PX)

    def at(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """What a map of tiles (R, C, …) says at each pixel of the picture."""
        return values[self.tile[0][:, None], self.tile[1][None, :]]

    def paint(self, picture: Floats, look: Look) -> None:
        """Paint tiles into a picture (rows, columns, 3), in place."""
        shown, edge = self.at(look.shown), self.edge
        line = self.gap + (self.side >= OUTLINE_FROM_PX) + (self.side >= WIDE_FROM_PX)
        inside, outline = shown & (edge >= line), shown & (edge >= self.gap) & (edge < line)
        opacity = np.broadcast_to(np.asarray(look.opacity, np.float32), (*look.shown.shape, 1))
        blend(picture, inside, self.at(look.fill)[inside], self.at(opacity)[inside])
        blend(picture, outline, self.at(look.line)[outline], LINE_OPACITY)
        if look.marks is not None and self.side >= 2 * (line + 1) + DOT_PX * 2 * look.marks.max():
            dots = inside & self._dots(look.marks, line + 1)
            blend(picture, dots, self.at(look.line)[dots], 1.0)

    def _dots(self, marks: NDArray[np.integer], first: int) -> NDArray[np.bool_]:
        """So many dots in a row in each tile's upper left corner."""
        down, right = (before - first for before in self.before)
        number, within = right // (2 * DOT_PX), right % (2 * DOT_PX)
        row = (down >= 0) & (down < DOT_PX)
        column = (right >= 0) & (within < DOT_PX)
        return row[:, None] & column[None, :] & (number[None, :] < self.at(marks))


def _axis(size_px: int, tiles: int, side: float) -> tuple[NDArray[np.int64], ...]:
    """For each pixel along an axis its tile, and pixels after the tile's first and before its last one."""
    edges = np.rint(np.arange(tiles + 1) * side).astype(np.int64)
    pixels = np.arange(size_px)
    tile = np.clip(np.searchsorted(edges, pixels, "right") - 1, 0, tiles - 1)
    return tile, pixels - edges[tile], edges[tile + 1] - 1 - pixels  # beyond the last tile the distance is below 0


def blend(picture: Floats, where: NDArray[np.bool_], colour: Floats, opacity: Floats | float) -> None:
    picture[where] += opacity * (colour - picture[where])


def laid(
    overview_rgb: NDArray[np.uint8], tiles: tuple[int, ...], frame: TileFrame, longest_px: int
) -> tuple[Floats, Lattice]:
    """The overview at the picture's size, and its tiles' lattice there."""
    image = fitted(overview_rgb, longest_px)
    side = frame.side_l0 / frame.l0_per_overview_px
    rows, columns = overview_rgb.shape[:2]
    sides = (side * image.height / rows, side * image.width / columns)
    return np.array(image, np.float32), Lattice.over((image.height, image.width), tiles, sides)


def paint_missing(picture: Floats, coverage: NDArray[np.uint8], lattice: Lattice) -> None:
    """Outline tissue that was left out, hatch what could not be read."""
    codes, edge = lattice.at(coverage), lattice.edge
    blend(picture, (codes == EXCLUDED) & (edge == lattice.gap), np.array(LEFT_OUT_RGB, np.float32), 0.7)
    codes = np.where((codes == READ_FAILED) & (edge >= lattice.gap), codes, BACKGROUND).astype(np.uint8)
    unpredicted(picture, codes)
