"""Tiles of each class that a grader was most and least certain of, to be looked at one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from digipath.report.figures import INK, PAPER, Pen, colours, rounded
from digipath.report.grade_inputs import Array, GalleryInput, TilePicture

SHOWN_PX, GAP_PX, LINE_PX = 192, 12, 18  # of a tile in a sheet, between tiles, of a line of text
ACROSS = 6  # pictures in a row of a sheet; a tile and its heat are two
HEAT_OPACITY = 0.5


def contact_sheet(given: GalleryInput, classes: Sequence[str]) -> Image.Image:
    """Return tiles side by side, each above its two highest probabilities and its place, with its heat beside it.

    Args:
        classes: names in the order of the tiles' probabilities.
    """
    heated = any(tile.heat is not None for tile in given.tiles)
    across = ACROSS // 2 if heated else ACROSS
    cells = [_cell(tile, classes, heated=heated) for tile in given.tiles]
    wide, high = cells[0].size
    rows = -(-len(cells) // across)
    sheet = Image.new("RGB", (across * (wide + GAP_PX) + GAP_PX, rows * (high + GAP_PX) + GAP_PX), PAPER)
    for number, cell in enumerate(cells):
        row, column = divmod(number, across)
        sheet.paste(cell, (GAP_PX + column * (wide + GAP_PX), GAP_PX + row * (high + GAP_PX)))
    return sheet


def with_heat(image: NDArray[np.uint8], heat: Array) -> NDArray[np.uint8]:
    """Return a tile (rows, columns, 3) with its heat in [0, 1], of any size, over it in viridis."""
    small = Image.fromarray(np.clip(np.nan_to_num(heat), 0, 1).astype(np.float32))
    level = np.asarray(small.resize((image.shape[1], image.shape[0]), Image.Resampling.BILINEAR))
    return rounded((1 - HEAT_OPACITY) * image.astype(np.float32) + HEAT_OPACITY * colours(np.clip(level, 0, 1)))


def _cell(tile: TilePicture, classes: Sequence[str], *, heated: bool) -> Image.Image:
    wide = SHOWN_PX * (2 if heated else 1)
    cell = Image.new("RGB", (wide, SHOWN_PX + 3 * LINE_PX + 6), PAPER)
    shown = Image.fromarray(tile.image).resize((SHOWN_PX, SHOWN_PX), Image.Resampling.LANCZOS)
    cell.paste(shown, (0, 0))
    if tile.heat is not None:
        cell.paste(Image.fromarray(with_heat(np.asarray(shown), tile.heat)), (SHOWN_PX, 0))
    pen, draw = Pen(1.1), ImageDraw.Draw(cell)
    ranked = sorted(range(len(classes)), key=lambda index: -tile.probabilities[index])[:2]
    lines = [f"{classes[index]}: {tile.probabilities[index]:.1%}" for index in ranked] + [tile.place]
    for number, text in enumerate(lines):
        draw.text((0, SHOWN_PX + 4 + number * LINE_PX), text[: wide // 8], fill=INK, font=pen.font)
    return cell
