"""Where a slide is to be predicted: resolution, tissue, stain and the grid of patches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from digipath import memory, slide_stain
from digipath.annotation import rasterise, read_mask, read_outlines
from digipath.engine.adaptive import chosen_views
from digipath.engine.ensemble import map_names
from digipath.engine.stitch import WINDOWS
from digipath.errors import BadInput, MissingResolution, ResolutionTooLow
from digipath.grid import tissue_grid
from digipath.networks import Networks
from digipath.slide import Overview, Slide
from digipath.slide_stain import Block, ReadBlock, Staining
from digipath.stain import StainReference
from digipath.tissue import METHODS, tissue_mask
from digipath.values import EXCLUDED, PREDICTED, Grid, coarsened

DEFAULT_REDUCE = 4  # map pixels are 4 × 4 working pixels: 2 µm for a network at 0.5 µm
COARSEST = 2.0  # times the network's µm/px; a coarser slide lacks what the network looks at
CROP_UM = 2000.0
OVERVIEW_PX = (1024, 2048)  # least and greatest longer side: enough to find tissue on, whatever the slide


@dataclass(frozen=True)
class Settings:
    """What the maps depend on besides slide and weights; None where the card decides."""

    views: int | str = 1
    overlap: float = 0.5
    window: str = "smooth"
    out_mpp: float | str | None = None
    tissue: str = "auto"
    patch: int | None = None
    at_mpp: float | None = None
    stain: str | StainReference | None = None
    calibrated: bool = True
    extra_maps: tuple[str, ...] = ()
    keep_members: bool = False

    def check(self) -> None:
        """Refuse what cannot be, before anything is opened."""
        views = chosen_views(self.views)
        map_names(1, len(views), self.extra_maps)
        if not 0 <= self.overlap < 1:
            raise BadInput(f"overlap must be in [0, 1), got {self.overlap}; 0.5 is the usual choice")
        if self.window not in WINDOWS:
            raise BadInput(f"window must be one of {', '.join(WINDOWS)}, got {self.window!r}")
        if isinstance(self.out_mpp, str) and self.out_mpp != "native":
            raise BadInput(f"out_mpp must be µm per pixel or 'native', got {self.out_mpp!r}")
        for name in ("out_mpp", "at_mpp", "patch"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 < value < math.inf:
                raise BadInput(f"{name} must be positive and finite, got {value}")


@dataclass(frozen=True)
class Plan:
    """Where to predict: the grid, what is wanted of each overview pixel, and what was found."""

    grid: Grid
    read_mpp: float | None
    wanted: NDArray[np.uint8]
    overview: Overview
    notes: tuple[str, ...]
    pen_px: Mapping[str, int]
    staining: Staining | None = None

    def reading(self, source: Slide) -> ReadBlock:
        """How blocks of the slide are read: at the working resolution, with the stain brought to the reference."""

        def read_block(row: int, column: int, rows: int, columns: int) -> Block:
            return source.read_block(row, column, rows, columns, mpp=self.read_mpp)

        return self.staining.applied_to(read_block) if self.staining else read_block


def plan_slide(source: Slide, networks: Networks, settings: Settings) -> Plan:
    """Find the working resolution, the tissue and the patches that cover it.

    Raises:
        MissingResolution, ResolutionTooLow, SlideUnreadable, BadAnnotation; BadInput: no stain to fit.
    """
    read_mpp, notes = working_mpp(source, networks.mpp, settings.at_mpp)
    shape_px = source.working_size_px(read_mpp)
    overview = source.overview(longest_px=OVERVIEW_PX)
    mpp = source.mpp if read_mpp is None else read_mpp
    reduce = _reduce(settings.out_mpp, mpp, source.path)
    wanted, found, pen_px = wanted_of(overview, settings.tissue, source.size_l0)
    target, asked = stain_target(networks.stain, settings.stain, mpp=read_mpp, told=bool(networks.cards))
    staining = fitted_staining(source, wanted == PREDICTED, target, mpp=read_mpp)
    wanted = coarsened(wanted, [-(-size // reduce) for size in shape_px])
    grid = tissue_grid(
        wanted == PREDICTED,
        shape_px,
        (networks.patch, networks.patch),
        overlap=settings.overlap,
        reduce=reduce,
        mpp=mpp,
    )
    memory.trim()
    return Plan(grid, read_mpp, wanted, overview, (*notes, *asked, *found), pen_px, staining)


def working_mpp(
    source: Slide, trained_mpp: float | None, at_mpp: float | None = None
) -> tuple[float | None, tuple[str, ...]]:
    """The resolution to read at (None: level 0 as it is), and notes where it is not the networks' own.

    Args:
        trained_mpp: what the networks were trained at; None: they take any. at_mpp: instead of it.

    Raises:
        MissingResolution: the networks want one and the slide states none.
        ResolutionTooLow: slide or `at_mpp` is more than twice as coarse as the networks' resolution.
    """
    asked = trained_mpp if at_mpp is None else at_mpp
    if asked is None:
        return None, ()
    own, trained = source.require_mpp(), trained_mpp or asked
    if max(own, asked) > COARSEST * trained:
        raise ResolutionTooLow(
            f"{max(own, asked):g} µm/px is more than {COARSEST:g} × coarser than the {trained:g} µm/px that is needed; "
            f"there is no detail to be had from: {source.path}"
        )
    mpp, notes = source.snap_mpp(asked), []
    if own > mpp * 1.02:
        notes.append(f"The slide ({own:g} µm/px) is coarser than {asked:g} µm/px and was enlarged.")
    if asked != trained:
        notes.append(f"The network was trained at {trained:g} µm/px and runs at {asked:g} µm/px, as asked.")
    return mpp, tuple(notes)


def is_crop(source: Slide) -> bool:
    """Whether it is a plain image below 2 mm: one cut out of tissue, while on a slide glass is to be expected."""
    return source.vendor.startswith("flat-") and max(source.size_l0) * (source.mpp or 0.0) < CROP_UM


def _reduce(out_mpp: float | str | None, mpp: float | None, path: Path) -> int:
    """Working pixels per map pixel."""
    if out_mpp == "native":
        return 1
    if out_mpp is None:
        return DEFAULT_REDUCE
    if mpp is None:
        raise MissingResolution(f"out_mpp is in µm, but the slide states no resolution; give it with --mpp: {path}")
    reduce = round(float(out_mpp) / mpp)
    if reduce < 1:
        raise BadInput(f"out_mpp {out_mpp} is finer than the working resolution {mpp:g}; use 'native' for that")
    return reduce


def wanted_of(
    overview: Overview, tissue: str, size_l0: tuple[int, int], *, white_px: int = 16
) -> tuple[NDArray[np.uint8], tuple[str, ...], Mapping[str, int]]:
    """What is asked of each overview pixel (BACKGROUND, PREDICTED, EXCLUDED), notes, ink counts.

    Args:
        tissue: "auto", "all", "white-tiles" (in squares of `white_px` overview pixels), or a mask or outline file.
    """
    if tissue in METHODS:
        found = tissue_mask(
            overview.image, um_per_px=overview.mpp, failed=overview.failed, method=tissue, tile_px=white_px
        )
        wanted = np.where(found.mask, PREDICTED, 0).astype(np.uint8)
        wanted[found.pen & ~found.mask] = EXCLUDED
        return wanted, found.notes, found.pen_px
    path = Path(tissue)
    if not path.is_file():
        problem = "a folder" if path.is_dir() else "no such file"
        raise BadInput(f"{problem}: expected tissue as {', '.join(METHODS)}, or a mask or outline file, got {tissue!r}")
    shape = overview.image.shape[:2]
    if path.suffix.lower() in (".geojson", ".json", ".xml"):
        mask = rasterise(read_outlines(path), shape, overview.downsample)
    else:
        mask = read_mask(path, size_l0, shape, overview.downsample)
    return np.where(mask, PREDICTED, 0).astype(np.uint8), (f"Tissue as drawn in {path.name}.",), {}


def stain_target(
    learned: StainReference | None, asked: str | StainReference | None, *, mpp: float | None, told: bool = True
) -> tuple[StainReference | None, tuple[str, ...]]:
    """The stain to which slides are brought (None: to none), and a note where the networks learned another.

    Args:
        learned: of the slides that the networks were trained on. asked: instead of it.
        told: False leaves the note out, where nobody knows what the networks learned.
    """
    target = learned if asked is None else slide_stain.reference(asked, mpp=mpp)
    if not told or target == learned:
        return target, ()
    was = f"normalised ({learned.method})" if learned else "as they were"
    seen = f"normalised to another stain ({target.method})" if target else "as it is"
    return target, (f"The network was trained on slides {was} and sees this one {seen}, as asked.",)


def fitted_staining(
    source: Slide, tissue: NDArray[np.bool_], target: StainReference | None, *, mpp: float | None
) -> Staining | None:
    """How the slide's stain is normalised; None where it is not, or where there is no tissue."""
    if target is None or not tissue.any():
        return None
    try:
        return Staining(slide_stain.fit_slide(source, tissue, target.method, mpp=mpp), target)
    except BadInput as error:
        raise BadInput(
            f"{error}; run with --stain none, mark stained tissue, or in a training leave the slide out or set "
            f'stain = "{slide_stain.NONE}": {source.path}'
        ) from error
