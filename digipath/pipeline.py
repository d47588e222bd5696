"""The order of the data, in one file: slide → tissue → grid → patches → maps → report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from digipath import memory
from digipath import networks as choose_networks
from digipath.case import Case, file_identity
from digipath.engine.adaptive import AdaptiveViews, chosen_views
from digipath.engine.ensemble import map_names
from digipath.engine.predict import predict_maps
from digipath.engine.reader import BlockReader
from digipath.files import disk_errors, write_json
from digipath.maps import ZarrMaps
from digipath.networks import Networks
from digipath.planning import Plan, Settings, plan_slide
from digipath.reporting import write_report
from digipath.result import Segmentation, open_segmentation
from digipath.run_record import heading, timings_s
from digipath.slide import Slide, open_slide
from digipath.stain import StainReference
from digipath.values import Cancel, Predictor, Progress, ProgressCallback
from digipath.weights import DEFAULT

OWNED = (
    "checkpoint.json", "maps.zarr", "run.json", "summary.json", "lesions.geojson", "look_here.geojson", "report.html",
    "overlay.png",
)  # fmt: skip
BLOCK_PX = 256  # decoded at once, where the file has no tiles of its own


def segment(
    slide: str | Path,
    weights: str = DEFAULT,
    *,
    out: str | Path | None = None,
    views: int | str = 1,
    overlap: float | None = None,
    patch: int | None = None,
    mpp: float | None = None,
    at_mpp: float | None = None,
    out_mpp: float | str | None = None,
    tissue: str | Path = "auto",
    stain: str | Path | StainReference | None = None,
    window: str = "smooth",
    calibrated: bool = True,
    extra_maps: Sequence[str] = (),
    keep_members: bool = False,
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
        views: 1, 2, 4 or 8 symmetries to average over; more than 1 gives the aleatoric map. "adaptive": 2
            of them, and all 8 where those disagree or come near the threshold; what that saved and
            changed is in the run record, see `digipath.engine.adaptive`.
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
        calibrated: with the temperatures that the cards state; False: as the networks were trained.
        extra_maps: `entropy` (of the probability) and `mutual_information` (what of it the networks
            disagree on; absent with one network), in bits.
        keep_members: store each network's own map too.
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
    settings = Settings(
        views, overlap, window, out_mpp, str(tissue), patch, at_mpp, stain,
        calibrated=calibrated, extra_maps=tuple(extra_maps), keep_members=keep_members,
    )  # fmt: skip
    settings.check()
    with open_slide(slide, mpp=mpp) as source:
        if predictors is None:
            networks = choose_networks.published(
                weights, patch=patch, runtime=runtime, precision=precision, calibrated=calibrated
            )
        else:
            networks = choose_networks.own(predictors, patch=patch)
        began = time.perf_counter()
        plan = plan_slide(source, networks, settings)
        planned = time.perf_counter() - began
        folder = Path(out) if out is not None else Path.cwd() / f"{source.path.stem}.digipath"
        identity = _identity(source, networks, plan, settings)
        with disk_errors(folder), Case(folder, "segment", identity, owned=OWNED, resume=resume) as case:
            if not case.done:
                record = _predict(source, plan, networks, settings, folder, progress=progress, cancel=cancel)
                record["timings_s"]["tissue"] = round(planned, 3)
                write_report(folder, source, plan.overview, networks.cards, record)
                write_json(folder / "run.json", record)
    return open_segmentation(folder)


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
    views, members = chosen_views(settings.views), _members(networks) if settings.keep_members else ()
    names = map_names(networks.count, len(views), settings.extra_maps, members)
    maps = ZarrMaps(folder, plan.grid, names, networks.classes)
    clock = predict_maps(
        _reader(source, plan, maps.rows_done),
        plan.grid,
        predictors,
        plan.wanted,
        maps,
        views=views,
        window=settings.window,
        classes=networks.kept,
        extra=settings.extra_maps,
        members=members if predictors else (),
        progress=progress,
        cancel=cancel,
    )
    finishing = time.perf_counter()
    maps.finish()
    memory.trim()
    timings = timings_s(clock, load=loaded - began, pyramid=time.perf_counter() - finishing)
    adaptive = {"adaptive": views.record(maps.tally, networks.count)} if isinstance(views, AdaptiveViews) else {}
    return _record(source, plan, networks, settings, coverage=asdict(maps.coverage), **adaptive, timings_s=timings)


def _members(networks: Networks) -> tuple[str, ...]:
    """A name for each network's own map."""
    return tuple(card.name for card in networks.cards) or tuple(f"network-{i + 1}" for i in range(networks.count))


def _reader(source: Slide, plan: Plan, rows_done: int) -> BlockReader:
    """Patches through blocks aligned with the file's own tiles, where it has any."""
    tile = source.tile_px(plan.read_mpp) or BLOCK_PX
    side = tile * max(1, round(BLOCK_PX / tile))
    return BlockReader(plan.reading(source), plan.grid.remaining(rows_done), side)


def _record(source: Slide, plan: Plan, networks: Networks, settings: Settings, **measured: Any) -> dict[str, Any]:  # noqa: ANN401
    """The run record, `run.json`."""
    grid = plan.grid
    return {
        **heading("segment"),
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
