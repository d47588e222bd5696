"""Answers of graders on cases with truth → the levels and questions that an evaluation page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from digipath.measure.grading_scores import RocCurves, roc_curves
from digipath.report import ComparisonInput, LevelInput, RocInput
from digipath.training.grading_results import ALL, LEVELS, TILE, Answers, Compared, asked_of

MOST_LISTED = 500  # slides or cases by name


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


def comparison_inputs(compared: Sequence[Compared], runs: Mapping[str, Mapping[str, Sequence[float]]]) -> list[ComparisonInput]:
    """Comparisons of ways to train, one for each question, level and metric.

    Args:
        runs: key of a comparison (`comparison_key`) → way → the metric in each run.
    """
    found: dict[str, list[Compared]] = {}
    for one in compared:
        found.setdefault(comparison_key(one.question, one.level, one.metric), []).append(one)
    return [
        ComparisonInput(
            title=f"{ones[0].question}, per {ones[0].level}",
            measure=ones[0].metric.replace("_", " "),
            runs=runs[key],
            p_values=[(one.first, one.second, one.found.p) for one in ones],
            test="Student's t-test",
        )
        for key, ones in found.items()
    ]


def comparison_key(question: str, level: str, metric: str) -> str:
    """Names what is compared."""
    return f"{question}|{level}|{metric}"


def _level(
    answers: Answers, question: str, level: str, record: Mapping[str, Any], classes: Sequence[str]
) -> LevelInput:
    asked = asked_of(answers, level, question, classes)
    named = f"{level}, {question}" if question != ALL else level
    listed = level != TILE and len(asked.names) <= MOST_LISTED
    return LevelInput(
        level=named,
        classes=asked.classes,
        count=len(asked.truth),
        scores=record["metrics"],
        intervals={name: pair and (pair[0], pair[1]) for name, pair in record["intervals"]["intervals"].items()},
        confusion=record["scores"]["confusion"],
        roc=_curves(roc_curves(asked.truth, asked.probabilities, asked.classes)),
        truth=asked.truth.tolist(),
        probabilities=asked.probabilities.tolist(),
        names=asked.names if listed else (),
    )


def _curves(found: RocCurves) -> dict[str, RocInput]:
    curves = {**found.classes, "macro": found.macro}
    return {
        name: RocInput(curve.false_positive_rate.tolist(), curve.true_positive_rate.tolist(), curve.area)
        for name, curve in curves.items()
        if curve is not None
    }


__all__ = ["LEVELS", "comparison_inputs", "comparison_key", "levels_of"]
