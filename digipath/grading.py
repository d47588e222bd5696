"""The order of the data of a grade: slide → tissue → tiles → networks → grades of tiles → grade of the case."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from digipath import tile_networks
from digipath.case import Case, file_identity
from digipath.engine.ensemble import map_names
from digipath.engine.predict import predict_maps
from digipath.engine.views import views_of
from digipath.errors import BadInput
from digipath.files import disk_errors, read_json, write_json
from digipath.grade_reporting import OWNED, write_case_report, write_grade_report
from digipath.maps import ZarrMaps
from digipath.measure.tile_grades import LEAST_CONFIDENCE, LEAST_SHARE
from digipath.planning import stain_target
from digipath.result import Grade, GradedSlide
from digipath.run_record import heading, timings_s
from digipath.tile_frames import Frame, open_frame
from digipath.tile_networks import Graders
from digipath.tiling import TileRule
from digipath.values import EXCLUDED, PREDICTED, READ_FAILED, Cancel, Coverage, Predictor, Progress, ProgressCallback
from digipath.weights import DEFAULT_GRADER

GALLERY = 3  # most, and least, certain tiles of each grade in the report


@dataclass(frozen=True)
class GradeSettings:
    """What grades of tiles depend on besides slide and weights; None where the card decides.

    Attributes: see `grade`.
    """

    views: int = 1
    tile: int | None = None
    least_tissue: float | None = None
    tissue: str | None = None
    at_mpp: float | None = None
    stain: str | None = None
    calibrated: bool = True
    keep_members: bool = False

    def check(self) -> None:
        """Refuse what cannot be, before anything is opened."""
        views_of(self.views)
        for name in ("tile", "least_tissue", "at_mpp"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise BadInput(f"{name} must be positive and finite, got {value}")

    def rule(self, graders: Graders) -> TileRule:
        """The tiles that are graded."""
        rule = graders.rule
        if self.least_tissue is not None:
            rule = replace(rule, least_tissue=self.least_tissue)
        if self.tissue is not None:
            rule = replace(rule, tissue=self.tissue)
        rule.check()
        return rule


@dataclass(frozen=True)
class Reading:
    """How the grades of tiles become one: both thresholds of the highest grade, and tiles shown for each grade."""

    least_share: float = LEAST_SHARE
    least_confidence: float = LEAST_CONFIDENCE
    gallery: int = GALLERY

    def check(self) -> None:
        """Refuse what cannot be."""
        for name in ("least_share", "least_confidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.gallery < 0:
            raise BadInput(f"gallery must be 0 or more tiles of each grade, got {self.gallery}")


def grade(
    slides: str | Path | Sequence[str | Path] | None = None,
    volumes: object = None,
    *,
    weights: str = DEFAULT_GRADER,
    out: str | Path | None = None,
    views: int = 1,
    mpp: float | None = None,
    at_mpp: float | None = None,
    tile: int | None = None,
    least_tissue: float | None = None,
    tissue: str | Path | None = None,
    stain: str | Path | None = None,
    least_share: float = LEAST_SHARE,
    least_confidence: float = LEAST_CONFIDENCE,
    gallery: int = GALLERY,
    calibrated: bool = True,
    keep_members: bool = False,
    predictors: Sequence[Predictor] | None = None,
    runtime: str = "auto",
    precision: str = "auto",
    resume: bool = True,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> Grade:
    """Grade a case from its H&E slides, tile by tile, with a map and a report. For research use only.

    Truong et al. 2020: tiles of 1024 px at 20×, of which at least 90 % is tissue, each graded by itself. What they say
    of the case is told in three ways (mean vote, majority vote, highest grade of which there is enough) beside the
    share and the area of each grade.

    Args:
        slides: a slide, an image, a folder of tile images, or several of these of one case.
        volumes: MRI; not in this version.
        weights: name or path of a card that grades tiles: a network, a modular pair, or an ensemble of these.
        out: the folder; default `<name>.grade` in the working directory. Several slides: one folder each inside.
        views: 1, 2, 4 or 8 symmetries to average over; more than 1 gives the aleatoric map.
        mpp: µm per level-0 pixel, overrides the slide's own. at_mpp: µm per pixel to run at.
        tile: side of the tiles in pixels. least_tissue: share of a tile that must be tissue, in (0, 1].
        tissue: "auto", "all", "white-tiles", or a mask or outline file.
        stain: "none", "macenko", "reinhard", or a picture or slide; None: as the card says.
        least_share, least_confidence: the highest grade is that of which at least so many of the tiles (a share)
            are called with at least this probability.
        gallery: most certain and least certain tiles of each grade to show, with Grad-CAM where the network is ours.
        calibrated: networks with the temperatures of their cards.
        keep_members: store each network's own map too.
        predictors: your own callables (B, P, P, 3) uint8 → (B, C) instead of `weights`.
        runtime, precision, resume, progress, cancel: as for `digipath.segment`.

    Raises:
        DigipathError: any branch of the tree in `digipath.errors`; nothing is half-written.
    """
    paths = _paths(slides, volumes)
    settings = GradeSettings(
        views, tile, least_tissue, None if tissue is None else str(tissue), at_mpp,
        None if stain is None else str(stain), calibrated=calibrated, keep_members=keep_members,
    )  # fmt: skip
    reading = Reading(least_share, least_confidence, gallery)
    settings.check()
    reading.check()
    if predictors is None:
        graders = tile_networks.published(
            weights, tile_px=tile, runtime=runtime, precision=precision, calibrated=calibrated
        )
    else:
        graders = tile_networks.own(predictors, tile_px=tile)
    run = _Run(graders, settings, reading, mpp, resume, progress, cancel)
    if len(paths) == 1:
        folder = Path(out) if out is not None else Path.cwd() / f"{_stem(paths[0])}.grade"
        return Grade((run.grade(paths[0], folder),), folder)
    folder = Path(out) if out is not None else Path.cwd() / "case.grade"
    found = Grade(tuple(run.grade(path, folder / _stem(path)) for path in paths), folder)
    write_case_report(found, least_share=least_share, least_confidence=least_confidence)
    return found


def _paths(slides: str | Path | Sequence[str | Path] | None, volumes: object) -> list[Path]:
    """The slides of the case. Raises BadInput: none, volumes, or two that would share a folder."""
    if volumes is not None:
        raise BadInput("grading from MRI is not in this version; give slides alone")
    given = [slides] if isinstance(slides, str | Path) else list(slides or ())
    paths = [Path(slide) for slide in given]
    if not paths:
        raise BadInput("expected at least one slide, image or folder of tiles to grade, got none")
    names = [_stem(path) for path in paths]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"expected slides of different names in a case, got {twice[0]} more than once")
    return paths


def _stem(path: Path) -> str:
    return path.resolve().name if path.is_dir() else path.stem


@dataclass(frozen=True)
class _Run:
    """What is the same for all slides of a case."""

    graders: Graders
    settings: GradeSettings
    reading: Reading
    mpp: float | None
    resume: bool
    progress: ProgressCallback | None
    cancel: Cancel | None

    def grade(self, path: Path, folder: Path) -> GradedSlide:
        """Grade one slide into its folder, or go on there."""
        rule = self.settings.rule(self.graders)
        asked_mpp = rule.mpp if self.settings.at_mpp is None else self.settings.at_mpp
        target, notes = stain_target(
            self.graders.stain, self.settings.stain, mpp=asked_mpp, told=bool(self.graders.members)
        )
        began = time.perf_counter()
        with open_frame(path, rule, mpp=self.mpp, at_mpp=self.settings.at_mpp, stain=target) as frame:
            planned_s = time.perf_counter() - began
            identity = self._identity(frame, rule, None if target is None else target.to_record())
            with disk_errors(folder), Case(folder, "grade", identity, owned=OWNED, resume=self.resume) as case:
                if not case.done:
                    record = self._predict(frame, rule, folder, notes=notes, planned_s=planned_s)
                    self._report(frame, record, folder)
                elif (record := read_json(folder / "run.json"))["reading"] != asdict(self.reading):
                    self._report(frame, record | {"reading": asdict(self.reading)}, folder)
        return GradedSlide(folder)

    def _report(self, frame: Frame, record: dict[str, Any], folder: Path) -> None:
        write_grade_report(folder, frame, self.graders, record)
        write_json(folder / "run.json", record)

    def _identity(self, frame: Frame, rule: TileRule, stain: dict[str, Any] | None) -> dict[str, Any]:
        """All that the maps depend on."""
        tissue = Path(rule.tissue)
        return {
            "input": frame.identity(),
            "weights": dict(self.graders.identity),
            "settings": asdict(self.settings) | asdict(rule) | {"stain": stain}
            | ({"tissue": file_identity(tissue)} if tissue.is_file() else {}),
            "digipath": version("digipath"),
        }  # fmt: skip

    def _predict(
        self, frame: Frame, rule: TileRule, folder: Path, *, notes: Sequence[str], planned_s: float
    ) -> dict[str, Any]:
        """Make the maps and return the run record."""
        tiles, classes = frame.tiles, self.graders.classes
        if self.progress is not None:
            self.progress(Progress(0, len(tiles), 0.0, "loading the network"))
        began = time.perf_counter()
        predictors = self.graders.load() if len(tiles) else ()
        load_s = time.perf_counter() - began
        views, members = views_of(self.settings.views), self._member_names()
        maps = ZarrMaps(folder, tiles.grid, map_names(self.graders.count, len(views), (), members), classes)
        clock = predict_maps(
            frame.reader(maps.rows_done),
            tiles.grid,
            predictors,
            tiles.wanted,
            maps,
            views=views,
            classes=range(len(classes)),
            members=members,
            per_patch=True,
            progress=self.progress,
            cancel=self.cancel,
        )
        maps.finish()
        codes = maps.codes()
        return {
            **heading("grade"),
            "slide": frame.record(),
            "weights": dict(self.graders.identity),
            "classes": list(classes),
            "settings": asdict(self.settings) | asdict(rule) | {"working_mpp": tiles.mpp},
            "reading": asdict(self.reading),
            "tiles": _counts(codes),
            "coverage": asdict(_ledger(codes, tiles.tissue_px)),
            "notes": [*notes, *frame.notes],
            "timings_s": timings_s(clock, tissue=planned_s, load=load_s),
        }

    def _member_names(self) -> tuple[str, ...]:
        if not self.settings.keep_members:
            return ()
        names = tuple(member.card.name for member in self.graders.members)
        return names or tuple(f"network-{i + 1}" for i in range(self.graders.count))


def _counts(codes: np.ndarray) -> dict[str, int]:
    """Tiles by what became of them."""
    names = {"graded": PREDICTED, "unreadable": READ_FAILED, "left_out": EXCLUDED}
    return {name: int(np.count_nonzero(codes == code)) for name, code in names.items()}


def _ledger(codes: np.ndarray, tissue_px: np.ndarray) -> Coverage:
    """Working pixels of tissue by what became of the tile they lie in."""
    predicted, failed, excluded = (int(tissue_px[codes == code].sum()) for code in (PREDICTED, READ_FAILED, EXCLUDED))
    return Coverage(predicted + failed + excluded, predicted, failed, excluded)
