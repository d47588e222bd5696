"""Score networks against outlines or masks, case by case, through the engine that segments slides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.annotation import Labels, Lesions, open_lesions
from digipath.engine.predict import checked, predict_maps
from digipath.engine.reader import BlockReader
from digipath.engine.views import views_of
from digipath.errors import BadInput
from digipath.measure.confusion import Confusion
from digipath.networks import Networks
from digipath.pipeline import Plan, Settings, plan_slide
from digipath.slide import Slide, open_slide
from digipath.values import BACKGROUND, PREDICTED, Cancel, Coverage, Predictor, Progress, ProgressCallback

STRIP_PX = 2**21  # pixels counted at once
CROP_UM = 2000.0  # a plain image with shorter sides was cut out of tissue


@dataclass(frozen=True)
class Sample:
    """An image with its truth: `annotation` None means that nothing in it is positive.

    mpp: µm per pixel, None where the file states it. whole: score all of it; else slides are
    scored within their tissue, and only crops whole: plain images with sides below 2 mm.
    """

    name: str
    image: Path
    annotation: Path | None
    mpp: float | None = None
    whole: bool = False


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
        Settings(self.views, self.overlap).check()


@dataclass(frozen=True)
class CaseScore:
    """One case: counts of each network, of the mean of their probabilities, and what was left out.

    coverage: what became of the tissue, in working pixels; only what was predicted is counted.
    missed_px: positive pixels outside the tissue, which no network was shown.
    """

    name: str
    networks: tuple[Confusion, ...]
    together: Confusion
    coverage: Coverage
    missed_px: int


def score_cases(
    samples: Sequence[Sample],
    networks: Networks,
    scoring: Scoring,
    *,
    labels: Labels | None = None,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> Iterator[CaseScore]:
    """Yield the scores of each case at the networks' resolution; all networks see a slide in one pass.

    Memory does not grow with the slide: rows are counted as they are finished.

    Raises:
        BadInput: more than one positive class; what `segment` raises; Cancelled.
    """
    scoring.check()
    if len(networks.classes) != 1:
        raise BadInput(f"scores are of one positive class, these networks have {networks.classes}")
    predictor = _Together(networks.load(), networks.kept[0])
    for index, sample in enumerate(samples):
        if progress is not None:
            progress(Progress(index, len(samples), math.nan, sample.name))
        yield _score(sample, networks, predictor, scoring, labels=labels or Labels(), cancel=cancel)


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
    predictor: _Together,
    scoring: Scoring,
    *,
    labels: Labels,
    cancel: Cancel | None,
) -> CaseScore:
    with (
        open_slide(sample.image, mpp=sample.mpp) as source,
        open_lesions(sample.annotation, source.size_l0, labels=labels) as lesions,
    ):
        plan = _plan(source, networks, scoring, whole=sample.whole)
        downsample = 1.0 if plan.grid.mpp is None or source.mpp is None else plan.grid.mpp / source.mpp
        counting = _Counting(lesions, downsample, predictor.count, scoring.threshold)
        predict_maps(
            BlockReader(_reading(source, plan), plan.grid),
            plan.grid,
            [predictor],
            plan.wanted,
            counting,
            views=views_of(scoring.views),
            classes=range(predictor.count),
            cancel=cancel,
        )
    return CaseScore(sample.name, counting.networks, counting.together, counting.coverage, counting.missed_px)


def _plan(source: Slide, networks: Networks, scoring: Scoring, *, whole: bool) -> Plan:
    longest_um = max(source.size_l0) * (source.mpp or 0.0)
    whole = whole or (source.vendor.startswith("flat-") and longest_um < CROP_UM)
    settings = Settings(scoring.views, scoring.overlap, out_mpp="native", tissue="all" if whole else "auto")
    return plan_slide(source, networks, settings)


def _reading(source: Slide, plan: Plan) -> Callable[[int, int, int, int], Any]:
    def read(row: int, column: int, rows: int, columns: int) -> Any:  # noqa: ANN401
        return source.read_block(row, column, rows, columns, mpp=plan.read_mpp)

    return plan.staining.applied_to(read) if plan.staining else read


class _Together:
    """Several predictors as one whose channels are their answers, so that a slide is read once."""

    def __init__(self, predictors: Sequence[Predictor], channel: int) -> None:
        self._predictors, self._channel = predictors, channel
        self.count = len(predictors)
        self.batch = min(getattr(p, "batch", 1) for p in predictors)
        self.parallel = min(getattr(p, "parallel", 1) for p in predictors)

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, P, P, 3) uint8 → (B, P, P, predictors) float32."""
        answers = (checked(p, p(patches.copy()), patches.shape) for p in self._predictors)
        return np.stack([answer[..., self._channel] for answer in answers], axis=-1)


class _Counting:
    """A sink for finished rows that keeps counts instead of maps."""

    def __init__(self, lesions: Lesions, downsample: float, networks: int, threshold: float) -> None:
        self._lesions, self._downsample, self._threshold = lesions, downsample, threshold
        self.networks = (Confusion.none(),) * networks
        self.together = Confusion.none()
        self.missed_px = 0
        self.rows_done, self.coverage = 0, Coverage()

    def write(self, row: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Count rows from `row` on, a strip at a time."""
        coverage, probability = values["coverage"], values["probability"]
        rows = max(1, STRIP_PX // coverage.shape[1])
        for first in range(0, len(coverage), rows):
            strip = slice(first, first + rows)
            self._count(row + first, coverage[strip], probability[strip])

    def commit(self, rows_done: int, coverage: Coverage) -> None:
        """Note how far the case is counted."""
        self.rows_done, self.coverage = rows_done, coverage

    def _count(self, row: int, coverage: NDArray[np.uint8], probability: NDArray[np.float32]) -> None:
        truth = self._lesions.read_block(row, 0, *coverage.shape, downsample=self._downsample)
        predicted = coverage == PREDICTED
        self.missed_px += int(np.count_nonzero(truth & (coverage == BACKGROUND)))
        true, found = truth[predicted], probability[predicted]
        counts = [Confusion.of(true, found[:, network], self._threshold) for network in range(found.shape[1])]
        self.networks = tuple(old + new for old, new in zip(self.networks, counts, strict=True))
        self.together += counts[0] if len(counts) == 1 else Confusion.of(true, found.mean(axis=1), self._threshold)
