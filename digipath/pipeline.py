"""The order of the data, in one file: slide → tissue → grid → patches → maps → report."""

from __future__ import annotations

import errno
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath import memory, slide_stain
from digipath import networks as choose_networks
from digipath.annotation import rasterise, read_mask, read_outlines
from digipath.case import Case, file_identity
from digipath.engine.predict import Clock, map_names, predict_maps
from digipath.engine.reader import BlockReader
from digipath.engine.stitch import WINDOWS
from digipath.engine.views import views_of
from digipath.errors import BadInput, MissingResolution, OutputUnwritable, ResolutionTooLow
from digipath.files import write_json
from digipath.grid import tissue_grid
from digipath.maps import ZarrMaps
from digipath.networks import Networks
from digipath.reporting import write_report
from digipath.result import Segmentation, open_result
from digipath.slide import Overview, Slide, open_slide
from digipath.slide_stain import Staining
from digipath.stain import StainReference
from digipath.tissue import tissue_mask
from digipath.values import (
    EXCLUDED,
    PREDICTED,
    Cancel,
    Grid,
    Predictor,
    Progress,
    ProgressCallback,
    coarsened,
)
from digipath.weights import DEFAULT

OWNED = ("checkpoint.json", "maps.zarr", "run.json", "summary.json", "lesions.geojson", "report.html", "overlay.png")
DEFAULT_REDUCE = 4  # map pixels are 4 × 4 working pixels: 2 µm for a network at 0.5 µm
COARSEST = 2.0  # times the network's µm/px; a coarser slide lacks what the network looks at
BLOCK_PX = 256  # decoded at once, where the file has no tiles of its own
OVERVIEW_PX = (1024, 2048)  # least and greatest longer side: enough to find tissue on, whatever the slide
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


@dataclass(frozen=True)
class Settings:
    """What the maps depend on besides slide and weights; None where the card decides."""

    views: int = 1
    overlap: float = 0.5
    window: str = "smooth"
    out_mpp: float | str | None = None
    tissue: str = "auto"
    patch: int | None = None
    at_mpp: float | None = None
    stain: str | StainReference | None = None

    def check(self) -> None:
        """Refuse what cannot be, before anything is opened."""
        views_of(self.views)
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


def segment(
    slide: str | Path,
    weights: str = DEFAULT,
    *,
    out: str | Path | None = None,
    views: int = 1,
    overlap: float | None = None,
    patch: int | None = None,
    mpp: float | None = None,
    at_mpp: float | None = None,
    out_mpp: float | str | None = None,
    tissue: str | Path = "auto",
    stain: str | Path | StainReference | None = None,
    window: str = "smooth",
    predictors: Sequence[Predictor] | None = None,
    runtime: str = "auto",
    precision: str = "auto",
    resume: bool = True,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> Segmentation:
    """Slide → tissue → grid → patches → networks → probability and uncertainty maps, with a report.

    Args:
        slide: a file OpenSlide reads, or a JPEG, PNG or TIFF with `mpp`.
        weights: a card's name (`list_weights()`) or the path of a card file.
        out: the case folder; default `<slide's name>.digipath` in the working directory.
        views: 1, 2, 4 or 8 symmetries to average over; more than 1 gives the aleatoric map.
        overlap: share of a patch its neighbour covers too, in [0, 1); default 0.5 (Khened 2021).
        patch: side of a patch in pixels at the working resolution; default the card's.
        mpp: µm per level-0 pixel, overriding what the slide states.
        at_mpp: µm per pixel at which the networks run, overriding the card.
        out_mpp: µm per map pixel, or "native"; default 4 × the working resolution.
        tissue: "auto", "all", "white-tiles", or a file: a mask image, or outlines as GeoJSON or
            ASAP XML.
        stain: bring the slide's stain to a reference before the networks see it: "macenko" or
            "reinhard" (a published one), a picture or slide to fit Macenko's method on, or a
            `digipath.stain.StainReference`; "none" for as it is; default what the card says.
        window: "smooth" or "mean" blending of overlapping patches.
        predictors: your own callables instead of `weights`, see `digipath.values.Predictor`.
        runtime: "auto", "keras" or "openvino"; precision: "auto", "f32" or "bf16".
        resume: go on with an unfinished run of the same input and settings, return a finished
            one as it is; False starts afresh.
        progress: called with a `Progress` between batches; cancel: asked between batches.

    Raises:
        DigipathError: any branch of the tree in `digipath.errors`; nothing is half-written.
    """
    stain = str(stain) if isinstance(stain, Path) else stain
    overlap = 0.5 if overlap is None else overlap
    settings = Settings(views, overlap, window, out_mpp, str(tissue), patch, at_mpp, stain)
    settings.check()
    with open_slide(slide, mpp=mpp) as source:
        if predictors is None:
            networks = choose_networks.published(weights, patch=patch, runtime=runtime, precision=precision)
        else:
            networks = choose_networks.own(predictors, patch=patch)
        began = time.perf_counter()
        plan = plan_slide(source, networks, settings)
        planned = time.perf_counter() - began
        folder = Path(out) if out is not None else Path.cwd() / f"{source.path.stem}.digipath"
        identity = _identity(source, networks, plan, settings)
        with _disk_errors(folder), Case(folder, "segment", identity, owned=OWNED, resume=resume) as case:
            if not case.done:
                record = _predict(source, plan, networks, settings, folder, progress=progress, cancel=cancel)
                record["timings_s"]["tissue"] = round(planned, 3)
                write_report(folder, source, plan.overview, networks.cards, record)
                write_json(folder / "run.json", record)
    return open_result(folder)


def plan_slide(source: Slide, networks: Networks, settings: Settings) -> Plan:
    """Find the working resolution, the tissue and the patches that cover it.

    Raises:
        MissingResolution, ResolutionTooLow, SlideUnreadable, BadAnnotation; BadInput: no stain to fit.
    """
    read_mpp, notes = working_mpp(source, networks, settings.at_mpp)
    shape_px = source.working_size_px(read_mpp)
    overview = source.overview(longest_px=OVERVIEW_PX)
    mpp = source.mpp if read_mpp is None else read_mpp
    reduce = _reduce(settings.out_mpp, mpp, source.path)
    wanted, found, pen_px = _wanted(overview, settings.tissue, source.size_l0)
    staining, asked = _staining(source, wanted == PREDICTED, networks, settings.stain, mpp=read_mpp)
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
    source: Slide, networks: Networks, at_mpp: float | None = None
) -> tuple[float | None, tuple[str, ...]]:
    """The resolution to read at (None: level 0 as it is), and notes where it is not the networks' own.

    Raises:
        MissingResolution: the networks want one and the slide states none.
        ResolutionTooLow: slide or `at_mpp` is more than twice as coarse as the networks' resolution.
    """
    asked = networks.mpp if at_mpp is None else at_mpp
    if asked is None:
        return None, ()
    own, trained = source.require_mpp(), networks.mpp or asked
    if max(own, asked) > COARSEST * trained:
        raise ResolutionTooLow(
            f"{max(own, asked):g} µm/px is more than {COARSEST:g} × coarser than the {trained:g} µm/px that the "
            f"network was trained at; it cannot segment this: {source.path}"
        )
    mpp, notes = source.snap_mpp(asked), []
    if own > mpp * 1.02:
        notes.append(f"The slide ({own:g} µm/px) is coarser than {asked:g} µm/px and was enlarged.")
    if asked != trained:
        notes.append(f"The network was trained at {trained:g} µm/px and runs at {asked:g} µm/px, as asked.")
    return mpp, tuple(notes)


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


def _wanted(
    overview: Overview, tissue: str, size_l0: tuple[int, int]
) -> tuple[NDArray[np.uint8], tuple[str, ...], Mapping[str, int]]:
    """What is asked of each overview pixel (BACKGROUND, PREDICTED, EXCLUDED), notes, ink counts."""
    if tissue in ("auto", "all", "white-tiles"):
        found = tissue_mask(overview.image, um_per_px=overview.mpp, failed=overview.failed, method=tissue)
        wanted = np.where(found.mask, PREDICTED, 0).astype(np.uint8)
        wanted[found.pen & ~found.mask] = EXCLUDED
        return wanted, found.notes, found.pen_px
    path = Path(tissue)
    if not path.is_file():
        raise BadInput(f"tissue must be auto, all, white-tiles or a mask or outline file, got {tissue!r}")
    shape = overview.image.shape[:2]
    if path.suffix.lower() in (".geojson", ".json", ".xml"):
        mask = rasterise(read_outlines(path), shape, overview.downsample)
    else:
        mask = read_mask(path, size_l0, shape, overview.downsample)
    return np.where(mask, PREDICTED, 0).astype(np.uint8), (f"Tissue as drawn in {path.name}.",), {}


def _staining(
    source: Slide,
    tissue: NDArray[np.bool_],
    networks: Networks,
    stain: str | StainReference | None,
    *,
    mpp: float | None,
) -> tuple[Staining | None, tuple[str, ...]]:
    """How to normalise the slide's stain (None: not at all), and a note where the networks learned another."""
    target = networks.stain if stain is None else slide_stain.reference(stain, mpp=mpp)
    notes: tuple[str, ...] = ()
    if networks.cards and target != networks.stain:
        learned = f"normalised ({networks.stain.method})" if networks.stain else "as they were"
        seen = f"normalised to another stain ({target.method})" if target else "as it is"
        notes = (f"The network was trained on slides {learned} and sees this one {seen}, as asked.",)
    if target is None or not tissue.any():
        return None, notes
    try:
        return Staining(slide_stain.fit_slide(source, tissue, target.method, mpp=mpp), target), notes
    except BadInput as error:
        raise BadInput(f"{error}; run with --stain none, or mark stained tissue: {source.path}") from error


def _identity(source: Slide, networks: Networks, plan: Plan, settings: Settings) -> dict[str, Any]:
    """All that the maps depend on."""
    tissue = Path(settings.tissue)
    return {
        "input": file_identity(source.path)
        | {"mpp": source.mpp, "openslide_hash": source.properties.get("openslide.quickhash-1")},
        "weights": dict(networks.identity) | {"patch": networks.patch},
        "settings": asdict(settings)
        | {"working_mpp": plan.grid.mpp, "map_mpp": plan.grid.map_mpp}
        | {"stain": plan.staining and plan.staining.target.to_record()}
        | ({"tissue": file_identity(tissue)} if tissue.is_file() else {}),
        "digipath": version("digipath"),
    }


def _predict(
    source: Slide,
    plan: Plan,
    networks: Networks,
    settings: Settings,
    folder: Path,
    *,
    progress: ProgressCallback | None,
    cancel: Cancel | None,
) -> dict[str, Any]:
    """Make the maps and return the run record."""
    began = time.perf_counter()
    if progress is not None:
        progress(Progress(0, len(plan.grid), 0.0, "loading the network"))
    predictors = networks.load() if len(plan.grid) else ()
    loaded = time.perf_counter()
    maps = ZarrMaps(folder, plan.grid, map_names(networks.count, settings.views), networks.classes)
    clock = predict_maps(
        _reader(source, plan, maps.rows_done),
        plan.grid,
        predictors,
        plan.wanted,
        maps,
        views=views_of(settings.views),
        window=settings.window,
        classes=networks.kept,
        progress=progress,
        cancel=cancel,
    )
    finishing = time.perf_counter()
    maps.finish()
    memory.trim()
    timings = _timings(clock, load=loaded - began, pyramid=time.perf_counter() - finishing)
    return _record(source, plan, networks, settings, coverage=asdict(maps.coverage), timings_s=timings)


def _reader(source: Slide, plan: Plan, rows_done: int) -> BlockReader:
    """Patches through blocks aligned with the file's own tiles, where it has any."""
    tile = source.tile_px(plan.read_mpp) or BLOCK_PX
    side = tile * max(1, round(BLOCK_PX / tile))

    def read_block(row: int, column: int, rows: int, columns: int) -> Any:  # noqa: ANN401
        return source.read_block(row, column, rows, columns, mpp=plan.read_mpp)

    read = plan.staining.applied_to(read_block) if plan.staining else read_block
    return BlockReader(read, plan.grid.remaining(rows_done), side)


def _timings(clock: Clock, **others: float) -> dict[str, float]:
    stages = {name: getattr(clock, name) for name in ("reading", "network", "stitching", "writing", "wall")}
    return {name: round(seconds, 3) for name, seconds in {**stages, **others}.items()}


def _record(source: Slide, plan: Plan, networks: Networks, settings: Settings, **measured: Any) -> dict[str, Any]:  # noqa: ANN401
    """The run record, `run.json`."""
    grid = plan.grid
    return {
        "verb": "segment",
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {name: version(name) for name in ("digipath", "keras", "openslide-python", "numpy", "zarr")}
        | {"python": sys.version.split()[0]},
        "slide": {key: value for key, value in source.describe().items() if key != "properties"},
        "weights": dict(networks.identity),
        "classes": list(networks.classes),
        "settings": asdict(settings)
        | {"stain": plan.staining and plan.staining.target.method}
        | {"patch_px": networks.patch, "working_mpp": grid.mpp, "map_mpp": grid.map_mpp, "reduce": grid.reduce},
        "stain": plan.staining and plan.staining.to_record(),
        "working_size_px": list(grid.shape_px),
        "patches": len(grid),
        "tissue_notes": list(plan.notes),
        "pen_overview_px": dict(plan.pen_px),
        **measured,
    }


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one clear line; what was finished stays and resumes."""
    try:
        yield
    except OSError as error:
        cause = error.__cause__ if isinstance(error, OutputUnwritable) else error
        if not isinstance(cause, OSError) or cause.errno not in DISK_ERRORS:
            raise
        remedy = "make room" if cause.errno in (errno.ENOSPC, errno.EDQUOT) else "make it writable"
        raise OutputUnwritable(
            f"{cause.strerror} while writing {folder}; {remedy} and run the same command again, "
            "it goes on where it was"
        ) from error
