"""Score graders on cases of known grade, per tile, slide and case: the cases of a manifest or a folder by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from digipath.engine.predict import predict_maps
from digipath.engine.views import views_of
from digipath.errors import BadInput, Cancelled
from digipath.files import made_folder, write_atomically, write_json
from digipath.grading import bag_networks
from digipath.grading.bag_networks import BagGraders
from digipath.grading.bags import BagDraw, grade_bags, vote_together
from digipath.grading.graders import graders_of, refuse_idle
from digipath.grading.tile_frames import SlideFrame, open_frame
from digipath.grading.tile_networks import Graders, rule_of
from digipath.measure.grading_intervals import LEVEL
from digipath.measure.tile_grades import called
from digipath.report import NOTICE, GradingInput, grading_page
from digipath.run_record import heading
from digipath.training.bag_cards import CALLED
from digipath.training.cases import of_fold
from digipath.training.graded_manifest import graded_folder, read_graded_manifest
from digipath.training.grading_pages import levels_of
from digipath.training.grading_results import LEVELS, TILE, Answers, scored
from digipath.training.manifest import Manifest, TrainingCase
from digipath.training.tile_draw import LEAST_LABEL, labels_at, only_tile_l0
from digipath.values import (
    PREDICTED,
    READ_FAILED,
    ArrayMaps,
    Cancel,
    Card,
    Predictor,
    Progress,
    ProgressCallback,
)
from digipath.weights import load_card

SCORES, PAGE = "scores.json", "evaluation.html"
NAMED = 5  # cases beside a note on the page


def evaluate_graders(
    weights: str,
    *,
    manifest: str | Path | None = None,
    folder: str | Path | None = None,
    mpp: float | None = None,
    fold: str | None = None,
    views: int = 1,
    least_label: float | None = None,
    draw: BagDraw | None = None,
    calibrated: bool = True,
    out: str | Path | None = None,
    predictors: Sequence[Predictor] | None = None,
    runtime: str = "auto",
    precision: str = "auto",
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Confusion matrices, accuracies, kappa, F1 and AUROC of graders, with bootstrap intervals by case.

    A slide is called as `digipath.grade` calls it: by the mean vote of its tiles; by bags, where one network is asked,
    by the hard vote of its groups, else by the soft vote of all. AUROC is of mean probabilities.

    Args:
        weights: a card whose output is "tile" or "bag".
        manifest: graded cases (see `digipath.training.graded_manifest`); fold: only those of this fold.
        folder: instead, a folder with a subfolder of tile images for each class, with `mpp`.
        views: symmetries to average over, of tiles.
        least_label: where cases are outlined, share of a tile that outlines of one class must cover to count as a
            tile (default 0.9); slides and cases are called by all their tiles. Of networks that grade tiles.
        draw: of networks that see bags of tiles.
        out: a folder for scores.json and evaluation.html.

    Returns:
        `scores`: question → level ("tile", "slide", "case") → `scores`, `metrics` and `intervals`; `classes`,
        `cases`, `data` in words, `left_out`: cases without any tile, `unreadable`: tiles that could not be read, by
        case; neither are scored; `notes` about tissue, resolution and bags, by case.

    Raises:
        BadInput: neither manifest nor folder, a folder of tiles for weights that bring slides to a stain, a setting
            that these weights do not heed, no case of the fold, or none with a tile; what `grade` raises.
    """
    graders = graders_of(weights, predictors, calibrated=calibrated, runtime=runtime, precision=precision)
    draw = draw or BagDraw()
    given = {"views": views != 1, "least_label": least_label is not None, "calibrated": not calibrated}
    refuse_idle(graders, draw, given)
    least_label = LEAST_LABEL if least_label is None else least_label
    if folder is not None and graders.stain is not None and isinstance(graders, Graders):
        raise BadInput(
            f"a stain is fitted on a slide, not on a folder of tiles; {weights} brings slides to a stain: "
            f"evaluate it by a manifest of slides: {folder}"
        )
    found = _manifest(graders, manifest, folder, mpp)
    cases = of_fold(found.cases, fold, found.path)
    asker = _Asker(graders, views, least_label, draw, cancel)
    answered = []
    for number, case in enumerate(cases):
        if progress is not None:
            progress(Progress(number, len(cases), math.nan, case.name))
        if cancel is not None and cancel():
            raise Cancelled(f"stopped after {number} of {len(cases)} cases; nothing was written")
        answered.append(asker.answers(case))
    levels = LEVELS if isinstance(graders, Graders) else tuple(level for level in LEVELS if level != TILE)
    left_out = [case.name for case, own in zip(cases, answered, strict=True) if not len(own.truth)]
    if len(left_out) == len(cases):
        raise BadInput(f"none of {len(cases)} cases has a tile to grade: no tissue, or too little of it in any tile")
    answers = Answers.joined(answered)
    record = {
        "classes": list(graders.classes),
        "cases": len(cases),
        "data": _told(found, cases, fold),
        "left_out": left_out,
        "unreadable": asker.unreadable,
        "notes": asker.notes,
        "scores": scored(answers, graders.classes, levels=levels),
    }
    if out is not None:
        settings = {"views": views, "least_label": least_label, "draw": asdict(asker.draw)}
        title = weights if predictors is None else "own predictors"
        write_evaluation(made_folder(Path(out)), record, answers, graders, title=title, settings=settings)
    return record


def is_grader(weights: str) -> bool:
    """Whether a card grades tiles or bags of tiles. Raises UnknownWeights, BadCard."""
    return load_card(weights).output != "pixels"


def _manifest(
    graders: Graders | BagGraders, manifest: str | Path | None, folder: str | Path | None, mpp: float | None
) -> Manifest:
    if manifest is not None and folder is None and mpp is None:
        return read_graded_manifest(manifest, classes=graders.classes, at_mpp=graders.rule.mpp)
    if folder is not None and manifest is None and mpp is not None:
        return graded_folder(folder, classes=graders.classes, mpp=mpp, at_mpp=graders.rule.mpp)
    raise BadInput("to evaluate graders, expected a manifest, or a folder of tiles by class with mpp")


def _told(manifest: Manifest, cases: Sequence[TrainingCase], fold: str | None) -> str:
    of_it, patients = "" if fold is None else f", fold {fold}", len({case.patient for case in cases})
    return f"{len(cases)} slides of {patients} patients{of_it}; {manifest.path.name}, sha256 {manifest.sha256}"


@dataclass
class _Asker:
    """Asks the networks, loaded once, about one slide after the other."""

    graders: Graders | BagGraders
    views: int
    least_label: float
    draw: BagDraw
    cancel: Cancel | None = None
    unreadable: dict[str, int] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.graders, Graders):
            self._predictors = self.graders.load()
        else:
            self._networks = [bag_networks.load(card, self.graders.choice) for card in self.graders.cards]

    def answers(self, case: TrainingCase) -> Answers:
        """Of each tile, or of the slide as one row; no row where there is no tile."""
        label = self.graders.classes.index(str(case.label))
        about: dict[str, Any] = {"slide": case.name, "case": case.patient, "label": label}
        if isinstance(self.graders, Graders):
            probabilities, truth = self._tiles(case, self.graders)
            return Answers.of_slide(truth, probabilities, called(probabilities), **about)
        probabilities, calls = self._bags(case, self.graders)
        return Answers.of_slide(np.full(len(calls), label), probabilities, calls, **about)

    def _tiles(self, case: TrainingCase, graders: Graders) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        classes = graders.classes
        with open_frame(case.slide, graders.rule, mpp=case.mpp, stain=graders.stain) as frame:
            assert isinstance(frame, SlideFrame)
            self._note(case, frame.notes)
            tiles = frame.tiles
            maps = ArrayMaps(tiles.grid.map_shape)
            predict_maps(
                frame.reader(), tiles.grid, self._predictors, tiles.wanted, maps,
                views=views_of(self.views), classes=range(len(classes)), per_patch=True, cancel=self.cancel,
            )  # fmt: skip
            self._lost(case, int(np.count_nonzero(maps.arrays["coverage"] == READ_FAILED)))
            graded = maps.arrays["coverage"] == PREDICTED
            tile_l0, whole_l0 = tiles.tile_px * frame.l0_per_px, only_tile_l0(tiles, frame.source.size_l0)
        truth = labels_at(
            np.argwhere(graded), tile_l0, case, classes=classes, least_label=self.least_label, whole_l0=whole_l0
        )
        return maps.arrays["probability"][graded].astype(np.float32), truth

    def _bags(self, case: TrainingCase, graders: BagGraders) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Probabilities and the class called, as one row; without a vote none."""
        found = []
        with ExitStack() as stack:
            for card, network in zip(graders.cards, self._networks, strict=True):
                frame = stack.enter_context(
                    open_frame(case.slide, rule_of(card), mpp=case.mpp, stain=graders.stain)
                )
                found.append(grade_bags(frame, card, network, self.draw, cancel=self.cancel))
                self._lost(case, len(found[-1].unreadable))
                self._note(case, (*frame.notes, *(f"{card.name}: {note}" for note in found[-1].notes)))
        vote = vote_together(found)
        if vote is None:
            return np.empty((0, len(graders.classes)), np.float32), np.empty(0, np.int64)
        return vote[0][None].astype(np.float32), np.array([vote[1]])

    def _lost(self, case: TrainingCase, count: int) -> None:
        if count:
            self.unreadable[case.name] = self.unreadable.get(case.name, 0) + count

    def _note(self, case: TrainingCase, notes: Sequence[str]) -> None:
        if notes:
            self.notes[case.name] = list(dict.fromkeys([*self.notes.get(case.name, ()), *notes]))


class Asked(Protocol):
    """What was evaluated: graders of tiles, of bags or of volumes."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def cards(self) -> tuple[Card, ...]: ...

    @property
    def identity(self) -> Mapping[str, Any]: ...


def write_evaluation(
    folder: Path,
    record: dict[str, Any],
    answers: Answers,
    graders: Asked,
    *,
    title: str,
    settings: dict[str, Any],
) -> None:
    """Write scores.json and evaluation.html."""
    made = heading("evaluate")
    notes = [f"Without any tile, and not scored: {', '.join(record['left_out'])}"] if record["left_out"] else []
    notes += [f"{told}." for told in lost_told(record["unreadable"])]
    notes += notes_told(record["notes"])
    notes += [CALLED] if isinstance(graders, BagGraders) else []
    page = GradingInput(
        title=title,
        classes=graders.classes,
        levels=levels_of(answers, record["scores"], graders.classes),
        interval_level=LEVEL,
        resampled="patients",
        notes=[record["data"], *notes],
        run=made | {"settings": settings},
        cards=[card.record for card in graders.cards],
    )
    write_atomically(folder / PAGE, grading_page(page))
    write_json(folder / SCORES, {"notice": NOTICE, **made, "weights": dict(graders.identity), **record})


def lost_told(unreadable: Mapping[str, int | str]) -> list[str]:
    """What could not be read, in words. unreadable: case → how many of its tiles, or why it could not be graded."""
    return [
        f"{name} could not be graded and is not scored: {lost}"
        if isinstance(lost, str)
        else f"{lost} tiles of {name} could not be read and are not scored"
        for name, lost in unreadable.items()
    ]


def notes_told(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """What was noted, each with the cases that it is about."""
    about: dict[str, list[str]] = {}
    for case, told in notes.items():
        for note in told:
            about.setdefault(note, []).append(case)
    return [f"{_named(cases)}: {note}" for note, cases in about.items()]


def _named(cases: Sequence[str]) -> str:
    more = f" and {len(cases) - NAMED} more" if len(cases) > NAMED else ""
    return f"{', '.join(cases[:NAMED])}{more}"
