"""Slide → tissue → tiles: through the same stages as a segmentation, each tile whole and none twice.

A tile is a patch whose map is one pixel, so the engine that segments slides grades them too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from digipath import memory
from digipath.engine.reader import TileReader
from digipath.errors import BadInput
from digipath.grid import tile_lattice
from digipath.planning import OVERVIEW_PX, fitted_staining, is_crop, wanted_of, working_mpp
from digipath.slide import Overview, Slide
from digipath.slide_stain import Block, ReadBlock, Staining
from digipath.stain import StainReference
from digipath.values import PREDICTED, Tiles

TILE_PX, LEAST_TISSUE = 1024, 0.9  # Truong et al. 2020, "Preprocessing"
BLOCK_PX = 256  # decoded at once, where the file has no tiles of its own
MOST_BLOCK_PX = 1024  # where tiles are made of whole tiles of the file


@dataclass(frozen=True)
class TileRule:
    """Which tiles a network looks at.

    Attributes:
        mpp: µm per pixel; None: the slide's level 0 as it is.
        tile_px: side of a tile in these pixels.
        least_tissue: share of a tile that must be tissue, in (0, 1].
        tissue: "auto" (a plain image below 2 mm, a crop, is all tissue); "all"; "white-tiles": what is not white,
            pixel by pixel (Lerousseau et al. 2020 keep tiles of which 25 % is not); or a mask or outline file.
    """

    mpp: float | None
    tile_px: int = TILE_PX
    least_tissue: float = LEAST_TISSUE
    tissue: str = "auto"

    def check(self) -> None:
        """Refuse what cannot be, before anything is opened."""
        if self.mpp is not None and not 0 < self.mpp < math.inf:
            raise BadInput(f"expected mpp above 0 (µm per pixel of the tiles), got {self.mpp}")
        if self.tile_px < 1:
            raise BadInput(f"expected tiles of at least one pixel, got {self.tile_px}")
        if not 0 < self.least_tissue <= 1:
            raise BadInput(f"expected a share of tissue in (0, 1] from which tiles are kept, got {self.least_tissue}")


@dataclass(frozen=True)
class TilePlan:
    """The tiles of a slide, and how they are read."""

    tiles: Tiles
    read_mpp: float | None
    overview: Overview
    notes: tuple[str, ...]
    pen_px: Mapping[str, int]
    staining: Staining | None = None

    @cached_property
    def has_tissue(self) -> bool:
        """Whether there is any tissue at all, in tiles or between them."""
        return bool((self.tiles.share > 0).any())

    def reading(self, source: Slide) -> ReadBlock:
        """How blocks of the slide are read: at the working resolution, with the stain brought to the reference."""

        def read_block(row: int, column: int, rows: int, columns: int) -> Block:
            return source.read_block(row, column, rows, columns, mpp=self.read_mpp)

        return self.staining.applied_to(read_block) if self.staining else read_block

    def reader(self, source: Slide, rows_done: int = 0) -> TileReader:
        """Tiles by their (row, column) from `rows_done` on, each read once, in blocks like tiles or the file's own."""
        own, tile = source.tile_px(self.read_mpp) or BLOCK_PX, self.tiles.tile_px
        side = tile if tile % own == 0 and tile <= MOST_BLOCK_PX else own * max(1, round(BLOCK_PX / own))
        return TileReader(self.reading(source), self.tiles, rows_done=rows_done, block_px=side)


def plan_tiles(
    source: Slide, rule: TileRule, *, at_mpp: float | None = None, stain: StainReference | None = None
) -> TilePlan:
    """Find the working resolution, the tissue, and the tiles that hold enough of it.

    Args:
        at_mpp: µm per pixel to read at instead of the rule's. stain: what the slide's stain is brought to.

    Raises:
        MissingResolution, ResolutionTooLow, SlideUnreadable, BadAnnotation; BadInput: no stain to fit.
    """
    rule.check()
    read_mpp, notes = working_mpp(source, rule.mpp, at_mpp)
    overview, wanted, found, pen_px = _tissue(source, rule)
    tissue_px = wanted == PREDICTED
    tiles = _tiles(source, rule, tissue_px, read_mpp)
    staining = fitted_staining(source, tissue_px, stain, mpp=read_mpp)
    memory.trim()
    return TilePlan(tiles, read_mpp, overview, (*notes, *found, *_size_notes(tiles)), pen_px, staining)


def tiles_at(
    source: Slide, rule: TileRule, mpps: Sequence[float], *, stain: StainReference | None = None
) -> list[Tiles]:
    """The tiles by a rule at several resolutions instead of its own, from one look at the slide.

    Args:
        stain: to which the slide's stain will be brought, which must be possible at each.

    Raises: as `plan_tiles`.
    """
    rule.check()
    _, wanted, _, _ = _tissue(source, rule)
    tissue_px, found = wanted == PREDICTED, []
    for mpp in mpps:
        read_mpp, _ = working_mpp(source, mpp)
        fitted_staining(source, tissue_px, stain, mpp=read_mpp)
        found.append(_tiles(source, rule, tissue_px, read_mpp))
    memory.trim()
    return found


def tile_staining(source: Slide, rule: TileRule, stain: StainReference | None) -> Staining | None:
    """How the stain of a slide is brought to a reference where its tiles are read, as `plan_tiles` finds it.

    Raises: as `plan_tiles`.
    """
    if stain is None:
        return None
    read_mpp, _ = working_mpp(source, rule.mpp)
    _, wanted, _, _ = _tissue(source, rule)
    return fitted_staining(source, wanted == PREDICTED, stain, mpp=read_mpp)


def _tissue(source: Slide, rule: TileRule) -> tuple[Overview, NDArray[np.uint8], tuple[str, ...], Mapping[str, int]]:
    """Overview, what is asked of each of its pixels, notes, ink counts."""
    overview = source.overview(longest_px=OVERVIEW_PX)
    tissue = "all" if rule.tissue == "auto" and is_crop(source) else rule.tissue
    return overview, *wanted_of(overview, tissue, source.size_l0, white_px=1)


def _tiles(source: Slide, rule: TileRule, tissue_px: NDArray[np.bool_], read_mpp: float | None) -> Tiles:
    return tile_lattice(
        tissue_px,
        source.working_size_px(read_mpp),
        rule.tile_px,
        least_tissue=rule.least_tissue,
        mpp=source.mpp if read_mpp is None else read_mpp,
    )


def _size_notes(tiles: Tiles) -> list[str]:
    if max(tiles.shape_px) > tiles.tile_px or min(tiles.shape_px) == tiles.tile_px:
        return []
    rows, columns = tiles.shape_px
    told = f"The image ({columns} × {rows} px) is smaller than a tile of {tiles.tile_px} px"
    return [f"{told} and is completed by its mirror image."]
