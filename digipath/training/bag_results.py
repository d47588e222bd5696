"""The scores of bag classifiers: which snapshots stay, their vote on the test slides, and what each adds to it.

Snapshots are chosen on the validation slides; test slides are scored by those that stay, each alone and together, and
by the magnifications left out in turn (Lerousseau et al. 2020, sections 3.2 and 3.3). As in `digipath grade`, one
network calls the hard vote of its groups, several call their soft vote; AUROC is of mean probabilities.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from digipath.errors import BadInput
from digipath.measure.grading_scores import scores
from digipath.measure.repeated_runs import AblationRow, ablation, drop_worst, soft_vote
from digipath.measure.tile_grades import leading_of_each
from digipath.training.bag_plan import BagPlan
from digipath.training.grading_results import CASE, SLIDE, Answers, Scores, interval_cells, scored

TOGETHER = "ensemble"
LEVELS = (SLIDE, CASE)


@dataclass(frozen=True)
class Chosen:
    """Which snapshots stay. validation: of each the metrics on the validation slides; kept: names, in order."""

    validation: Mapping[str, Mapping[str, float | None]]
    kept: tuple[str, ...]


@dataclass(frozen=True)
class BagScores:
    """Scores on the test slides. members: by snapshot, of those that stay. together: of their vote."""

    members: Mapping[str, Scores]
    together: Scores
    ablation: tuple[AblationRow, ...]

    @property
    def each(self) -> dict[str, Scores]:
        """The vote first, then the members."""
        return {TOGETHER: self.together, **self.members}


def chosen(plan: BagPlan, found: Mapping[str, Answers]) -> Chosen:
    """The snapshots that stay, by what they say of the validation slides.

    Raises:
        BadInput: the measure is not defined on these slides.
    """
    classes, asked = plan.config.data.classes, plan.config.ensemble
    metrics = {
        name: scores(one.truth, one.probabilities, classes, calls=one.calls).metrics() for name, one in found.items()
    }
    values = {name: of[asked.measure] for name, of in metrics.items()}
    if None in values.values():
        raise BadInput(f"expected validation slides that define {asked.measure}, take another measure or more slides")
    kept = drop_worst({name: float(value or 0.0) for name, value in values.items()}, asked.drop)
    return Chosen(metrics, tuple(kept))


def bag_scores(plan: BagPlan, found: Mapping[str, Answers]) -> BagScores:
    """Scores of the snapshots that stay, of their vote, and of the vote without and of each magnification alone.

    found: what each says of the test slides.
    """
    classes, runs = plan.config.data.classes, plan.runs_by_snapshot
    vote = voted(found)
    each, calls = ({name: getattr(one, of) for name, one in found.items()} for of in ("probabilities", "calls"))
    groups = {name: f"{runs[name].mpp:g} µm/px" for name in found}
    return BagScores(
        {name: scored(one, classes, levels=LEVELS) for name, one in found.items()},
        scored(vote, classes, levels=LEVELS),
        tuple(ablation(each, vote.truth, classes, groups, calls=calls)),
    )


def voted(found: Mapping[str, Answers]) -> Answers:
    """The soft vote of what several networks say of the same slides; what one says is its own."""
    first, *others = found.values()
    if not others:
        return first
    together = soft_vote([one.probabilities for one in found.values()])
    return replace(first, probabilities=together.astype(np.float32), calls=leading_of_each(together))


def score_rows(plan: BagPlan, found: BagScores) -> str:
    """A CSV table: a line for the vote and each member, question, level and metric, with its interval."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["member", "mpp", "question", "level", "count", "metric", "value", "low", "high"])
    runs = plan.runs_by_snapshot
    for name, of in found.each.items():
        mpp = f"{runs[name].mpp:g}" if name in runs else ""
        for question, levels in of.items():
            for level, record in levels.items():
                about = [name, mpp, question, level, record["scores"]["count"]]
                table.writerows([*about, *cells] for cells in interval_cells(record))
    return text.getvalue()
