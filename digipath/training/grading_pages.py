"""Answers of graders on cases with truth → what an evaluation page shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from digipath.files import write_atomically
from digipath.measure.grading_intervals import LEVEL
from digipath.measure.grading_scores import CLASS_METRICS, RocCurves, name_of_class, roc_curves
from digipath.measure.repeated_runs import AblationRow as Ablated
from digipath.report import (
    AblationInput,
    AblationRow,
    ComparisonInput,
    GradingInput,
    LevelInput,
    RocInput,
    grading_page,
)
from digipath.run_record import heading
from digipath.training.bag_plan import BagPlan
from digipath.training.bag_results import BagScores, voted
from digipath.training.grading_plan import TilePlan
from digipath.training.grading_results import (
    ALL,
    TILE,
    Answers,
    Compared,
    Scores,
    asked_of,
    by_way,
    values,
)
from digipath.training.volume_plan import VolumePlan

MOST_LISTED = 500  # slides or cases by name
OF_CLASS = (*CLASS_METRICS, "auroc")
ABLATED = ("macro_auroc", "balanced_accuracy")
TEST = "Student's two-sided t-test"


def levels_of(
    answers: Answers, found: Mapping[str, Mapping[str, Mapping[str, Any]]], classes: Sequence[str]
) -> list[LevelInput]:
    """Every question at every level that was scored, all classes first.

    Args:
        answers: of tiles, or of slides where there are none.
        found: what `digipath.training.grading_results.scored` made of them.
    """
    return [
        _level(answers, question, level, record, classes)
        for question, levels in found.items()
        for level, record in levels.items()
    ]


def write_page(
    plan: TilePlan | VolumePlan,
    path: Path,
    answers: Answers,
    found: Mapping[str, Scores],
    compared: Sequence[Compared],
    *,
    notes: Sequence[str],
    level: str = TILE,
) -> None:
    """Write the page of a training of graders.

    Args:
        answers: of the grader that is shipped. found: scores of all graders by name. compared: with each other, of
            which those at `level` are shown.
        notes: what was scored on what.
    """
    classes, ways = plan.config.data.classes, by_way(plan.runs)
    compared = [one for one in compared if one.level == level]
    runs = {
        key: {" ".join(way): values(names, found, *key) for way, names in ways.items()}
        for key in {(one.question, one.level, one.metric) for one in compared}
    }
    page = GradingInput(
        title=plan.config.card.name,
        classes=classes,
        levels=levels_of(answers, found[plan.shipped.name], classes),
        interval_level=LEVEL,
        resampled="patients",
        comparisons=comparison_inputs(compared, runs),
        notes=list(notes),
        run=heading("train") | {"settings": plan.config.record()},
    )
    write_atomically(path, grading_page(page))


def write_bag_page(plan: BagPlan, path: Path, found: Mapping[str, Answers], scored: BagScores) -> None:
    """Write the page of a training of bag networks: their vote on the test slides, and what each magnification adds.

    Args:
        found: what each of the networks that stay says of the test slides.
    """
    classes = plan.config.data.classes
    page = GradingInput(
        title=plan.config.card.name,
        classes=classes,
        levels=levels_of(voted(found), scored.together, classes),
        interval_level=LEVEL,
        resampled="patients",
        ablations=[ablation_input(scored.ablation, "magnifications left out", name) for name in ABLATED],
        notes=[f"Test slides of {plan.manifest.path.name}, which no training saw; by the soft vote of {len(found)}."],
        run=heading("train") | {"settings": plan.config.record()},
    )
    write_atomically(path, grading_page(page))


def comparison_inputs(
    compared: Iterable[Compared], runs: Mapping[tuple[str, str, str], Mapping[str, Sequence[float]]]
) -> list[ComparisonInput]:
    """Comparisons of ways to train, together where they are of one question, level and metric.

    Args:
        runs: (question, level, metric) → way → the metric in each of its runs.
    """
    found: dict[tuple[str, str, str], list[Compared]] = {}
    for one in compared:
        found.setdefault((one.question, one.level, one.metric), []).append(one)
    return [
        ComparisonInput(
            title=f"{question}, per {level}",
            measure=metric.replace("_", " "),
            runs=runs[question, level, metric],
            p_values=[(one.first, one.second, one.found.p) for one in ones],
            test=TEST,
        )
        for (question, level, metric), ones in found.items()
    ]


def ablation_input(rows: Sequence[Ablated], title: str, metric: str) -> AblationInput:
    """What each group of members adds to the vote of all, by one metric."""
    said = {"all": "all", "without": "without {}", "alone": "{} alone"}
    shown = [AblationRow(said[row.kind].format(row.group), row.scores.metrics()[metric]) for row in rows]
    return AblationInput(title, metric.replace("_", " "), shown)


def _level(
    answers: Answers, question: str, level: str, record: Mapping[str, Any], classes: Sequence[str]
) -> LevelInput:
    asked = asked_of(answers, level, question, classes)
    pairs = record["intervals"]["intervals"]
    measured = {
        name: (value, pairs[name] and (pairs[name][0], pairs[name][1])) for name, value in record["metrics"].items()
    }
    by_class = {
        one: {metric: measured.pop(name_of_class(metric, one)) for metric in OF_CLASS} for one in asked.classes
    }
    named = level != TILE and len(asked.names) <= MOST_LISTED
    return LevelInput(
        level=level if question == ALL else f"{level}, {question}",
        classes=asked.classes,
        count=len(asked.truth),
        scores={name: value for name, (value, _) in measured.items()},
        intervals={name: pair for name, (_, pair) in measured.items()},
        confusion=record["scores"]["confusion"],
        roc=_curves(roc_curves(asked.truth, asked.probabilities, asked.classes)),
        truth=asked.truth.tolist(),
        probabilities=asked.probabilities.tolist(),
        calls=asked.calls.tolist(),
        names=asked.names if named else (),
        by_class=by_class,
    )


def _curves(found: RocCurves) -> dict[str, RocInput]:
    curves = {**found.classes, "macro": found.macro, "macro, by threshold": found.macro_by_threshold}
    return {
        name: RocInput(curve.false_positive_rate.tolist(), curve.true_positive_rate.tolist(), curve.area)
        for name, curve in curves.items()
        if curve is not None
    }
