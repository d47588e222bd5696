"""What is graded: a slide cut into tiles, or a folder whose images are tiles; either as a map with a pixel a tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from digipath.case import file_identity
from digipath.engine.reader import Block, TileReader
from digipath.errors import BadInput, SlideUnreadable
from digipath.planning import working_mpp
from digipath.slide import Slide, images_in, open_slide
from digipath.slide_stain import Staining
from digipath.stain import StainReference
from digipath.tiling import TilePlan, TileRule, plan_tiles
from digipath.values import Patch, ReadPatch, Tiles

LARGEST = 1.5  # times a tile's side; a larger image is a slide of its own


@dataclass(frozen=True)
class SlideFrame:
    """The tiles of one slide.

    measured: what the shares and areas of its tiles are of.
    """

    source: Slide
    plan: TilePlan
    measured: ClassVar[str] = "tissue"

    @property
    def name(self) -> str:
        """The slide's file name."""
        return self.source.path.name

    @property
    def tiles(self) -> Tiles:
        """Where the tiles lie, and which have enough tissue."""
        return self.plan.tiles

    @property
    def notes(self) -> tuple[str, ...]:
        """For the user."""
        return self.plan.notes

    @property
    def staining(self) -> Staining | None:
        """How the slide's stain is normalised; None where it is not."""
        return self.plan.staining

    @property
    def l0_per_px(self) -> float:
        """Level-0 pixels per working pixel."""
        return 1.0 if self.plan.read_mpp is None else self.plan.read_mpp / self.source.require_mpp()

    def reader(self, rows_done: int = 0) -> ReadPatch:
        """Tiles by their (row, column), each read once, from row `rows_done` on."""
        return self.plan.reader(self.source, rows_done)

    def tile(self, cell: tuple[int, int]) -> NDArray[np.uint8]:
        """(tile_px, tile_px, 3) one tile by itself, to look at."""
        kept = np.zeros_like(self.tiles.kept)
        kept[cell] = True
        return self.only(kept).reader()(cell).pixels  # type: ignore[return-value]

    def place(self, cell: tuple[int, int]) -> dict[str, Any]:
        """Where a tile is, as tables write it."""
        side_l0 = self.tiles.tile_px * self.l0_per_px
        x_l0, y_l0 = (round(index * side_l0, 2) for index in reversed(cell))
        return {"x_l0": x_l0, "y_l0": y_l0, "side_l0": round(side_l0, 2)}

    def only(self, kept: NDArray[np.bool_]) -> SlideFrame:
        """The same slide with fewer tiles, (R, C) bool."""
        return replace(self, plan=replace(self.plan, tiles=replace(self.tiles, kept=kept)))

    def identity(self) -> dict[str, Any]:
        """What grades depend on."""
        hashed = {"openslide_hash": self.source.properties.get("openslide.quickhash-1")}
        return file_identity(self.source.path) | {"mpp": self.source.mpp} | hashed

    def record(self) -> dict[str, Any]:
        """For the run record."""
        return {key: value for key, value in self.source.describe().items() if key != "properties"}


@dataclass(frozen=True)
class FolderFrame:
    """Images that are one tile each, one below the other; smaller ones are completed by their mirror image.

    mpp: µm per pixel of all images, None where they state it. read_mpp: at which they are read.
    measured: what the shares and areas of its tiles are of: nobody looks for tissue in what was chosen already.
    """

    folder: Path
    images: tuple[Path, ...]
    tiles: Tiles
    mpp: float | None
    read_mpp: float | None
    notes: tuple[str, ...]
    measured: ClassVar[str] = "image"

    @property
    def staining(self) -> None:
        """A stain is fitted on slides only."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    def reader(self, rows_done: int = 0) -> ReadPatch:
        """Tiles by their (row, column), each read once, from row `rows_done` on."""
        return self._patch

    def tile(self, cell: tuple[int, int]) -> NDArray[np.uint8]:
        """(tile_px, tile_px, 3) one tile by itself, to look at."""
        return self._patch(cell).pixels  # type: ignore[return-value]

    def _patch(self, cell: tuple[int, ...]) -> Patch:
        """The middle of an image, read as tiles of slides are: what cannot be read is filled, or no tile."""
        side = self.tiles.tile_px
        try:
            image = open_slide(self.images[cell[0]], mpp=self.mpp)
        except SlideUnreadable:
            return Patch(cell, np.zeros((side, side, 3), np.uint8), np.zeros((1, 1), np.bool_))
        with image:
            rows, columns = image.working_size_px(self.read_mpp)
            top, left = (max(0, (size - side) // 2) for size in (rows, columns))

            def read_block(row: int, column: int, rows: int, columns: int) -> Block:
                return image.read_block(top + row, left + column, rows, columns, mpp=self.read_mpp)

            alone = _only_tile((min(rows, side), min(columns, side)), side)
            return replace(TileReader(read_block, alone, block_px=side)((0, 0)), start_px=cell)

    def place(self, cell: tuple[int, int]) -> dict[str, Any]:
        """Where a tile is, as tables write it."""
        return {"image": self.images[cell[0]].name}

    def only(self, kept: NDArray[np.bool_]) -> FolderFrame:
        """The same folder with fewer tiles, (R, 1) bool."""
        return replace(self, tiles=replace(self.tiles, kept=kept))

    def identity(self) -> dict[str, Any]:
        """What grades depend on."""
        return {"images": [file_identity(image) for image in self.images], "mpp": self.mpp}

    def record(self) -> dict[str, Any]:
        """For the run record."""
        return {"path": str(self.folder.resolve()), "images": len(self.images), "mpp": self.mpp}


Frame = SlideFrame | FolderFrame


@contextmanager
def open_frame(
    path: str | Path,
    rule: TileRule,
    *,
    mpp: float | None = None,
    at_mpp: float | None = None,
    stain: StainReference | None = None,
) -> Iterator[Frame]:
    """The tiles of a slide, an image or a folder of tile images; closed when the block ends.

    Raises:
        BadInput: a folder without images, with images much larger than a tile, or one that is to be stained.
        MissingResolution, ResolutionTooLow, SlideNotFound, SlideUnreadable, BadAnnotation.
    """
    path = Path(path)
    with ExitStack() as stack:
        if path.is_dir():
            if stain is not None:
                raise BadInput(f"a stain is fitted on a slide, not on a folder of tiles; run with --stain none: {path}")
            yield _folder_frame(path, rule, mpp, at_mpp)
        else:
            source = stack.enter_context(open_slide(path, mpp=mpp))
            yield SlideFrame(source, plan_tiles(source, rule, at_mpp=at_mpp, stain=stain))


def _only_tile(shape_px: tuple[int, int], tile_px: int) -> Tiles:
    """A frame of one tile, which counts whole."""
    return Tiles(shape_px, tile_px, np.ones((1, 1), np.float32), np.ones((1, 1), bool))


def _folder_frame(folder: Path, rule: TileRule, mpp: float | None, at_mpp: float | None) -> FolderFrame:
    rule.check()
    images, side = images_in(folder), rule.tile_px
    sizes, told = zip(*(_size(image, rule, mpp, at_mpp) for image in images), strict=True)
    notes = dict.fromkeys(note for of_image in told for note in of_image)
    share = np.array([[min(rows, side) * min(columns, side) / side**2] for rows, columns in sizes], np.float32)
    asked = rule.mpp if at_mpp is None else at_mpp
    tiles = Tiles((len(images) * side, side), side, share, np.ones(share.shape, bool), asked or mpp)
    return FolderFrame(folder, tuple(images), tiles, mpp, asked, (*notes, *_size_notes(sizes, side)))


def _size(
    path: Path, rule: TileRule, mpp: float | None, at_mpp: float | None
) -> tuple[tuple[int, int], tuple[str, ...]]:
    """(rows, columns) of an image at the working resolution, and what is to be said of that.

    One that cannot be read counts as a tile, so that it ends as unreadable in the ledger.
    """
    try:
        image = open_slide(path, mpp=mpp)
    except SlideUnreadable as error:
        return (rule.tile_px, rule.tile_px), (f"Not read: {error}",)
    with image:
        read_mpp, notes = working_mpp(image, rule.mpp, at_mpp)
        size = image.working_size_px(read_mpp)
    if max(size) > LARGEST * rule.tile_px:
        raise BadInput(
            f"expected tiles of about {rule.tile_px} px in a folder, received an image of {size[1]} × {size[0]} px; "
            f"name their size with --tile, or grade it by itself, as a slide: {path}"
        )
    return size, notes


def _size_notes(sizes: Sequence[tuple[int, int]], side: int) -> tuple[str, ...]:
    small = sum(min(size) < side for size in sizes)
    large = sum(max(size) > side for size in sizes)
    notes, among = [], f"of {len(sizes)} images"
    if small:
        notes.append(f"{small} {among} are smaller than a tile of {side} px and completed by their mirror image.")
    if large:
        notes.append(f"Of {large} {among}, larger than a tile of {side} px, only the middle is graded.")
    return tuple(notes)
