"""The order of the data of a grade from slides: slide → tissue → tiles → networks → grades of tiles → grade."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from digipath.case import Case, file_identity
from digipath.engine.views import views_of
from digipath.errors import BadInput
from digipath.files import disk_errors, read_json, write_json
from digipath.grading.bag_networks import BagGraders, BagNetwork
from digipath.grading.bag_networks import load as load_bag_network
from digipath.grading.bags import BagDraw
from digipath.grading.explanations import Explainer, explainer_of
from digipath.grading.maps import BAGS, predict_bags, predict_tiles
from digipath.grading.reporting import OF_SLIDES, OWNED, write_case_report, write_grade_report
from digipath.grading.tile_frames import Frame, SlideFrame, open_frame
from digipath.grading.tile_networks import Graders, rule_of
from digipath.measure.tile_grades import LEAST_CONFIDENCE, LEAST_SHARE
from digipath.planning import stain_target
from digipath.result import ONE, SEVERAL, Grade, GradedSlide, check_kind
from digipath.run_record import heading
from digipath.tiling import TileRule
from digipath.values import Cancel, Card, Predictor, ProgressCallback

RUN = "run.json"
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
    draw: BagDraw = field(default_factory=BagDraw)

    def check(self) -> None:
        """Refuse what cannot be, before anything is opened."""
        views_of(self.views)
        self.draw.check()
        for name in ("tile", "least_tissue", "at_mpp"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise BadInput(f"{name} must be positive and finite, got {value}")

    def applied_to(self, rule: TileRule) -> TileRule:
        """The tiles that are graded, where a network asks for those of `rule`."""
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


def limits(cards: Sequence[Card]) -> list[str]:
    """The first limit that each card states: what a reader must know before the grade."""
    return list(dict.fromkeys(f"Weights: {card.record['limits'][0]}" for card in cards))


def stem(path: Path) -> str:
    """What a slide or a folder of tiles is called."""
    return path.resolve().name if path.is_dir() else path.stem


@dataclass
class SlideRun:
    """What is the same for all slides of a case."""

    graders: Graders | BagGraders
    settings: GradeSettings
    reading: Reading
    mpp: float | None
    resume: bool
    progress: ProgressCallback | None
    cancel: Cancel | None

    @cached_property
    def predictors(self) -> Sequence[Predictor]:
        """Of tiles, made when the first slide with any needs them."""
        return self.graders.load() if isinstance(self.graders, Graders) else ()

    @cached_property
    def bag_networks(self) -> list[BagNetwork]:
        """Of bags, likewise."""
        if isinstance(self.graders, Graders):
            return []
        return [load_bag_network(card, self.graders.choice) for card in self.graders.cards]

    @cached_property
    def explain(self) -> Explainer | None:
        """What shows where in a tile a network looked, made when the first gallery needs it."""
        return explainer_of(self.graders) if isinstance(self.graders, Graders) else None

    def case(self, paths: Sequence[Path], folder: Path) -> Grade:
        """Grade the slides of a case: a single one into `folder`, several into one folder each in it.

        Raises:
            CaseDiffers: the folder holds a result of the other kind. DigipathError: see `digipath.grade`.
        """
        check_kind(folder, ONE if len(paths) == 1 else SEVERAL)
        if len(paths) == 1:
            return Grade((self.slide(paths[0], folder),), folder)
        found = Grade(tuple(self.slide(path, folder / stem(path)) for path in paths), folder)
        write_case_report(found, self.graders.cards)
        return found

    def slide(self, path: Path, folder: Path) -> GradedSlide:
        """Grade one slide into its folder, or go on there."""
        began = time.perf_counter()
        with self.opened(path, self.graders.rule) as (frame, notes):
            planned_s = time.perf_counter() - began
            owned = (*OWNED, *OF_SLIDES) if isinstance(frame, SlideFrame) else OWNED
            owned = (*owned, BAGS) if isinstance(self.graders, BagGraders) else owned
            held = Case(folder, "grade", self._identity(frame), owned=owned, resume=self.resume)
            with disk_errors(folder), held as case:
                if not case.done:
                    if isinstance(self.graders, Graders):
                        found = self._tiles(frame, self.graders, folder)
                    else:
                        found = self._bags(path, frame, self.graders, folder)
                    found["timings_s"]["tissue"] = round(planned_s, 3)
                    self._report(frame, self._record(frame, notes, found), folder)
                elif (record := read_json(folder / RUN))["reading"] != asdict(self.reading):
                    write_json(folder / RUN, record | {"reading": None})  # until the report is whole, it is of neither
                    self._report(frame, record | {"reading": asdict(self.reading)}, folder)
        return GradedSlide(folder)

    @contextmanager
    def opened(self, path: Path, rule: TileRule) -> Iterator[tuple[Frame, tuple[str, ...]]]:
        """The tiles of a slide by a rule and the settings, and what is to be said of them."""
        rule = self.settings.applied_to(rule)
        asked_mpp = rule.mpp if self.settings.at_mpp is None else self.settings.at_mpp
        target, notes = stain_target(
            self.graders.stain, self.settings.stain, mpp=asked_mpp, told=bool(self.graders.cards)
        )
        with open_frame(path, rule, mpp=self.mpp, at_mpp=self.settings.at_mpp, stain=target) as frame:
            yield frame, (*notes, *frame.notes)

    def _tiles(self, frame: Frame, graders: Graders, folder: Path) -> dict[str, Any]:
        views, keep = self.settings.views, self.settings.keep_members
        return predict_tiles(
            frame, graders, folder, load=lambda: self.predictors, views=views, keep_members=keep,
            progress=self.progress, cancel=self.cancel,
        )  # fmt: skip

    def _bags(self, path: Path, frame: Frame, graders: BagGraders, folder: Path) -> dict[str, Any]:
        """Grade by bags; each further network has tiles of its own magnification."""
        with ExitStack() as stack:
            others = [stack.enter_context(self.opened(path, rule_of(card))) for card in graders.cards[1:]]
            found = predict_bags(
                [frame, *(other for other, _ in others)], graders, self.settings.draw, folder,
                load=lambda: self.bag_networks, progress=self.progress, cancel=self.cancel,
            )  # fmt: skip
        return found | {"bag_notes": list(dict.fromkeys(note for _, notes in others for note in notes))}

    def _report(self, frame: Frame, record: dict[str, Any], folder: Path) -> None:
        graders = self.graders
        write_grade_report(folder, frame, record, graders.cards, lambda: self.explain, progress=self.progress)
        write_json(folder / RUN, record)

    def _identity(self, frame: Frame) -> dict[str, Any]:
        """All that the maps depend on."""
        rule = self.settings.applied_to(self.graders.rule)
        tissue = Path(rule.tissue)
        return {
            "input": frame.identity(),
            "weights": dict(self.graders.identity),
            "settings": asdict(self.settings)
            | asdict(rule)
            | {"stain": frame.staining and frame.staining.target.to_record()}
            | ({"tissue": file_identity(tissue)} if tissue.is_file() else {}),
            "digipath": version("digipath"),
        }

    def _record(self, frame: Frame, notes: Sequence[str], found: dict[str, Any]) -> dict[str, Any]:
        """The run record, `run.json`."""
        rule = self.settings.applied_to(self.graders.rule)
        return {
            **heading("grade"),
            "slide": frame.record(),
            "weights": dict(self.graders.identity),
            "classes": list(self.graders.classes),
            "settings": asdict(self.settings)
            | asdict(rule)
            | ({} if isinstance(frame, SlideFrame) else {"least_tissue": None, "tissue": None})
            | {"working_mpp": frame.tiles.mpp},
            "stain": frame.staining and frame.staining.to_record(),
            "reading": asdict(self.reading),
            "notes": [*dict.fromkeys([*notes, *found.pop("bag_notes", ())]), *limits(self.graders.cards)],
            **found,
        }
