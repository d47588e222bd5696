"""The page of an evaluation of graders: scores per tile, slide and case, runs compared, ablations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from digipath.report import grade_plots, grade_sections, markup
from digipath.report.evaluation_page import SEEN
from digipath.report.grade_inputs import AblationInput, ComparisonInput, GradingInput, LevelInput, RocInput
from digipath.report.plots import MOST_POINTS
from digipath.values import most_probable

LISTED = 500  # rows of a level's list
TITLES = {"auroc": "AUROC"}
AGAINST_REST = "Each class against the rest; recall is the class's sensitivity."
ROC = "ROC curves of each class against the rest; macro (grey): their true positive rates averaged at each false one."


def grading_page(given: GradingInput) -> str:
    """Return an evaluation of graders as one HTML page that stands alone, all text escaped."""
    parts = [
        markup.section("Notes", markup.paragraph(SEEN, "soft"), markup.bullets(given.notes)),
        _overview(given),
        *(_level(level, given) for level in given.levels),
        *(_comparison(comparison) for comparison in given.comparisons),
        *(_ablation(ablation) for ablation in given.ablations),
    ]
    return grade_sections.page(given.title, "evaluation of grades", parts, given.run, given.cards)


def _overview(given: GradingInput) -> str:
    """All scores, a column for each level; a score's interval stands below it in its level's own table."""
    if not given.levels:
        return ""
    names = list(dict.fromkeys(name for level in given.levels for name in level.scores))
    head = ("Score", *(f"{level.level} ({level.count:,})" for level in given.levels))
    rows = [
        (markup.label(name), *(_number(level.scores[name]) if name in level.scores else "–" for level in given.levels))
        for name in names
    ]
    return markup.section("Scores", markup.table(head, rows))


def _level(level: LevelInput, given: GradingInput) -> str:
    numbers = [_scores(level, given), _by_class(level), _confusion(level), _roc(level)]
    return markup.section(f"Per {level.level}", *numbers, *_probabilities(level), _list(level))


def _scores(level: LevelInput, given: GradingInput) -> str:
    if not any(level.intervals.values()) or given.interval_level is None:
        return ""
    title = f"Interval ({given.interval_level:.0%})"
    rows = [
        (markup.label(name), _number(value), _interval(level.intervals.get(name)))
        for name, value in level.scores.items()
    ]
    told = f"Intervals by drawing {given.resampled} again with replacement (bootstrap)."
    return markup.paragraph(told, "soft") + markup.table(("Score", "Value", title), rows)


def _by_class(level: LevelInput) -> str:
    """A row for each class: how many are of it in truth, then each measure with its interval."""
    if not level.by_class:
        return ""
    measures = list(dict.fromkeys(name for measured in level.by_class.values() for name in measured))
    true = {name: f"{sum(row):,}" for name, row in zip(level.classes, level.confusion, strict=False)}
    rows = [
        (name, true.get(name, "–"), *(_with_interval(*measured.get(measure, (None, None))) for measure in measures))
        for name, measured in level.by_class.items()
    ]
    titles = (TITLES.get(measure, markup.label(measure).capitalize()) for measure in measures)
    return markup.paragraph(AGAINST_REST, "soft") + markup.table(("Class", "In truth", *titles), rows)


def _confusion(level: LevelInput) -> str:
    if not len(level.confusion):
        return ""
    rows = [
        (name, *(f"{count:,}" for count in counts)) for name, counts in zip(level.classes, level.confusion, strict=True)
    ]
    table = markup.table(("True class", *(f"predicted {name}" for name in level.classes)), rows)
    caption = "Confusion matrix: shares of each true class (a row), and counts."
    return markup.plot(grade_plots.confusion_matrix(level.confusion, level.classes), caption, table)


def _roc(level: LevelInput) -> str:
    if not level.roc:
        return ""
    rows = [(name, _number(curve.area)) for name, curve in level.roc.items()]
    drawn: dict[str, RocInput] = {name: curve for name, curve in level.roc.items() if len(curve.false_positive_rate)}
    table = markup.table(("Curve", "AUROC"), rows)
    return markup.plot(grade_plots.roc_curves(drawn, level.classes), ROC, table) if drawn else table


def _probabilities(level: LevelInput) -> list[str]:
    """Histograms of each class, and one class against another where there are more than two."""
    if not len(level.truth):
        return []
    figure = grade_plots.probability_histograms(level.probabilities, level.truth, level.classes)
    caption = "Histograms of the predicted probability of each class, stacked by the true class."
    shown = [markup.plot(figure, caption, _histogram_table(level))]
    if len(level.classes) > 2:
        first, second = level.classes[:2]
        drawn = min(len(level.truth), MOST_POINTS)
        told = (
            f"Probability of {second} against that of {first}, {drawn:,} of {len(level.truth):,}; size and colour by "
            "the sum of both: large and yellow leaves nothing for other classes, small and dark leaves most for them."
        )
        shown.append(markup.plot(grade_plots.class_scatter(level.probabilities, level.truth, level.classes), told))
    return shown


def _histogram_table(level: LevelInput) -> str:
    """Counts by bins of probability, a column for each pair of predicted and true class."""
    values, true = np.asarray(level.probabilities, float), np.asarray(level.truth)
    bins, classes = grade_plots.BINS, level.classes
    counts = [
        np.histogram(values[true == other, own], bins, (0, 1))[0]
        for own in range(len(classes))
        for other in range(len(classes))
    ]
    head = ("Probability", *(f"of {own}, truly {other}" for own in classes for other in classes))
    rows = [
        (f"{at / bins:.1f} to {(at + 1) / bins:.1f}", *(f"{column[at]:,}" for column in counts)) for at in range(bins)
    ]
    return markup.table(head, rows)


def _list(level: LevelInput) -> str:
    """Each slide or case by name; wrong ones first."""
    if not level.names:
        return ""
    values = np.asarray(level.probabilities, float)
    best = np.asarray(level.calls) if len(level.calls) else most_probable(values)
    order = sorted(range(len(level.names)), key=lambda i: bool(best[i] == level.truth[i]))[:LISTED]
    rows = [
        (
            level.names[i],
            level.classes[level.truth[i]],
            level.classes[best[i]],
            *(f"{value:.3f}" for value in values[i]),
        )
        for i in order
    ]
    head = ("Name", "True class", "Predicted", *(f"Probability of {name}" for name in level.classes))
    wrong = int((best != np.asarray(level.truth)).sum())
    told = f"{len(rows):,} of {len(level.names):,}; the {wrong:,} that are called wrong come first."
    return markup.paragraph(told, "soft") + markup.table(head, rows, head[1:3])


def _comparison(given: ComparisonInput) -> str:
    rows = [(way, f"{len(values):,}", *_mean_and_spread(values)) for way, values in given.runs.items()]
    tested = [(f"{first} and {second}", _number(p)) for first, second, p in given.p_values]
    parts = [markup.table(("Trained with", "Runs", f"Mean {given.measure}", "Standard deviation"), rows)]
    if tested:
        parts.append(markup.table(("Compared", f"p ({given.test})" if given.test else "p"), tested))
    caption = f"{given.measure} of each run (open), and their mean ± standard deviation."
    return markup.section(
        f"Repeated runs: {given.title}", markup.plot(grade_plots.repeated_runs(given), caption), *parts
    )


def _mean_and_spread(values: Sequence[float]) -> tuple[str, str]:
    mean = _number(float(np.mean(values)) if len(values) else None)
    return mean, _number(float(np.std(values, ddof=1)) if len(values) > 1 else None)


def _ablation(given: AblationInput) -> str:
    rows = [(row.name, _number(row.value), _interval(row.interval)) for row in given.rows]
    table = markup.table(("Variant", given.measure, "Interval"), rows)
    plot = markup.plot(grade_plots.ablation_bars(given), f"{given.measure} of each variant, with its interval.", table)
    return markup.section(f"Ablation: {given.title}", plot)


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    return _number(value) if interval is None else f"{_number(value)} ({_interval(interval)})"


def _interval(interval: tuple[float, float] | None) -> str:
    return "none" if interval is None else "{:.4g} to {:.4g}".format(*interval)


def _number(value: float | None) -> str:
    return "undefined" if value is None or not math.isfinite(value) else f"{value:.4g}"
