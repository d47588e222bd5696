"""Score networks against outlines or masks, case by case, through the engine that segments slides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.annotation import Labels, Lesions, open_lesions
from digipath.engine.predict import predict_maps
from digipath.engine.reader import BlockReader
from digipath.engine.views import views_of
from digipath.errors import BadInput
from digipath.measure.confusion import Confusion
from digipath.measure.error_finding import BORDER_UM, ErrorCounts, away_from_border, measures
from digipath.networks import Networks
from digipath.planning import Plan, Settings, is_crop, plan_slide
from digipath.slide import Slide, open_slide
from digipath.values import (
    BACKGROUND,
    ENTROPIES,
    PREDICTED,
    Cancel,
    Coverage,
    Predictor,
    Progress,
    ProgressCallback,
    ViewTally,
)

STRIP_PX = 2**21  # pixels counted at once


@dataclass(frozen=True)
class Sample:
    """An image with its truth: `annotation` None means that nothing in it is positive.

    mpp: µm per pixel, None where the file states it. whole: score all of it; else slides are
    scored within their tissue, and only crops whole: plain images with sides below 2 mm. patient:
    whose it is, None where nobody said.
    """

    name: str
    image: Path
    annotation: Path | None
    mpp: float | None = None
    whole: bool = False
    patient: str | None = None


@dataclass(frozen=True)
class Scoring:
    """How cases are scored: `views` and `overlap` as for `segment`; a pixel is called positive from `threshold` on."""

    views: int = 1
    overlap: float = 0.5
    threshold: float = 0.5

    def check(self) -> None:
        """Refuse what cannot be, before anything is opened."""
        if not 0 < self.threshold <= 1:
            raise BadInput(f"threshold must be in (0, 1], got {self.threshold}")
        views_of(self.views)
        Settings(self.views, self.overlap).check()


@dataclass(frozen=True)
class CaseScore:
    """One case: counts of each network, of the mean of their probabilities, and what was left out.

    coverage: what became of the tissue, in working pixels; only what was predicted is counted.
    missed_px: positive pixels outside the tissue, which no network was shown.
    errors: right and wrong pixels of the mean by each uncertainty, if that was asked for.
    """

    name: str
    networks: tuple[Confusion, ...]
    together: Confusion
    coverage: Coverage
    missed_px: int
    errors: Mapping[str, ErrorCounts] = field(default_factory=dict)


def score_cases(
    samples: Sequence[Sample],
    networks: Networks,
    scoring: Scoring,
    *,
    labels: Labels | None = None,
    errors: bool = False,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> Iterator[CaseScore]:
    """Yield the scores of each case at the networks' resolution; all networks see a slide in one pass.

    Memory does not grow with the slide: rows are counted as they are finished. errors: also count right and wrong
    pixels by each uncertainty of `digipath.measure.error_finding` that the networks and views give.

    Raises:
        BadInput: more than one positive class; what `segment` raises; Cancelled.
    """
    scoring.check()
    if len(networks.classes) != 1:
        raise BadInput(f"scores are of one positive class, these networks have {networks.classes}")
    predictors = networks.load()
    for index, sample in enumerate(samples):
        if progress is not None:
            progress(Progress(index, len(samples), math.nan, sample.name))
        yield _score(
            sample, networks, predictors, scoring, labels=labels or Labels(), errors=errors, cancel=cancel
        )


def summary(scores: Sequence[tuple[str, Confusion]]) -> dict[str, Any]:
    """Scores of several cases, each by name with its counts.

    `mean_dice` over the cases (one without positives scores 1 if none is predicted, else 0);
    `pooled_dice`, `pooled_jaccard` and `pixel_auroc` over all pixels (None where no pixel is
    positive; AUROC also where all are); `all_positive_pooled_dice`, what calling everything positive
    would have;
    `false_positive_share`, the mean share of a case without positives that is called positive
    (None without such a case).
    """
    pooled = Confusion.pooled(counts for _, counts in scores)
    empty = [counts.false_positive_share for _, counts in scores if not counts.positives]
    shares = [share for share in empty if share is not None]
    overlap = pooled if pooled.positives else None  # an overlap with nothing says nothing
    return {
        "count": len(scores),
        "mean_dice": float(np.mean([counts.dice for _, counts in scores])),
        "pooled_dice": overlap and overlap.dice,
        "pooled_jaccard": overlap and overlap.jaccard,
        "pixel_auroc": pooled.auroc,
        "all_positive_pooled_dice": overlap and overlap.all_positive_dice,
        "false_positive_share": float(np.mean(shares)) if shares else None,
    }


def _score(
    sample: Sample,
    networks: Networks,
    predictors: Sequence[Predictor],
    scoring: Scoring,
    *,
    labels: Labels,
    errors: bool,
    cancel: Cancel | None,
) -> CaseScore:
    with (
        open_slide(sample.image, mpp=sample.mpp) as source,
        open_lesions(sample.annotation, source.size_l0, labels=labels) as lesions,
    ):
        plan = _plan(source, networks, scoring, whole=sample.whole)
        downsample = 1.0 if plan.grid.mpp is None or source.mpp is None else plan.grid.mpp / source.mpp
        border_px = None if plan.grid.mpp is None else BORDER_UM / plan.grid.mpp
        members = tuple(f"{place}" for place in range(networks.count)) if networks.count > 1 else ()
        truth = _Truth(lesions, plan.grid.shape_px, downsample)
        counting = _Counting(truth, members, scoring, errors=errors, border_px=border_px)
        predict_maps(
            BlockReader(plan.reading(source), plan.grid),
            plan.grid,
            predictors,
            plan.wanted,
            counting,
            views=views_of(scoring.views),
            classes=networks.kept,
            extra=ENTROPIES if errors else (),
            members=members,
            cancel=cancel,
        )
    return counting.score(sample.name)


def _plan(source: Slide, networks: Networks, scoring: Scoring, *, whole: bool) -> Plan:
    tissue = "all" if whole or is_crop(source) else "auto"
    settings = Settings(scoring.views, scoring.overlap, out_mpp="native", tissue=tissue)
    return plan_slide(source, networks, settings)


class _Truth:
    """The lesions of a slide in the working frame, rows at a time."""

    def __init__(self, lesions: Lesions, shape_px: Sequence[int], downsample: float) -> None:
        self._lesions, self._shape_px, self._downsample = lesions, shape_px, downsample

    def rows(self, first: int, last: int) -> NDArray[np.bool_]:
        """Rows [first, last) of the slide."""
        return self._lesions.read_block(first, 0, last - first, self._shape_px[1], downsample=self._downsample)

    def away(self, first: int, last: int, distance_px: float) -> NDArray[np.bool_]:
        """Where in these rows the border of the lesions is at least so far; the slide's edge is none."""
        halo = math.ceil(distance_px + 1)
        top, bottom = max(first - halo, 0), min(last + halo, self._shape_px[0])
        return away_from_border(self.rows(top, bottom), distance_px)[first - top : last - top]


class _Counting:
    """A sink for finished rows that keeps counts instead of maps.

    border_px: how far a pixel lies from the truth's border to count as away from it; None: none does.
    """

    def __init__(
        self, truth: _Truth, members: Sequence[str], scoring: Scoring, *, errors: bool, border_px: float | None
    ) -> None:
        self._truth, self._threshold = truth, scoring.threshold
        self._members = [f"members/{name}" for name in members] or ["probability"]
        self._errors, self._border_px = errors, border_px
        self._networks = [Confusion.none()] * len(self._members)
        self._together = Confusion.none()
        self._found: dict[str, ErrorCounts] = {}
        self._missed_px = 0
        self.rows_done, self.coverage, self.tally = 0, Coverage(), ViewTally()

    def score(self, name: str) -> CaseScore:
        """All that was counted, as the score of a case of this name."""
        return CaseScore(name, tuple(self._networks), self._together, self.coverage, self._missed_px, self._found)

    def write(self, row: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Count rows from `row` on, a strip at a time."""
        height, width = values["coverage"].shape
        rows = max(1, STRIP_PX // width)
        for first in range(0, height, rows):
            strip = slice(first, first + rows)
            self._count(row + first, {name: map_[strip] for name, map_ in values.items()})

    def commit(self, rows_done: int, coverage: Coverage, tally: ViewTally) -> None:
        """Note how far the case is counted."""
        self.rows_done, self.coverage, self.tally = rows_done, coverage, tally

    def _count(self, row: int, values: dict[str, NDArray[Any]]) -> None:
        coverage = values.pop("coverage")
        truth = self._truth.rows(row, row + len(coverage))
        predicted = coverage == PREDICTED
        self._missed_px += int(np.count_nonzero(truth & (coverage == BACKGROUND)))
        true, maps = truth[predicted], {name: map_[predicted][:, 0] for name, map_ in values.items()}
        counts = [Confusion.of(true, maps[name], self._threshold) for name in self._members]
        self._networks = [old + new for old, new in zip(self._networks, counts, strict=True)]
        self._together += counts[0] if len(counts) == 1 else Confusion.of(true, maps["probability"], self._threshold)
        if self._errors:
            self._count_errors(true, maps, self._away(row, predicted))

    def _away(self, row: int, predicted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if self._border_px is None:
            return np.zeros(np.count_nonzero(predicted), bool)
        return self._truth.away(row, row + len(predicted), self._border_px)[predicted]

    def _count_errors(
        self, true: NDArray[np.bool_], maps: Mapping[str, NDArray[Any]], away: NDArray[np.bool_]
    ) -> None:
        called = maps["probability"] >= self._threshold
        for name, uncertainty in measures(maps).items():
            counted = ErrorCounts.of(true, called, uncertainty, away)
            self._found[name] = self._found.get(name, ErrorCounts.none()) + counted
