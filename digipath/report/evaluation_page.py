"""The page of an evaluation: scores, calibration, and whether the uncertainty finds the errors."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from digipath.report import markup, plots, weights_used
from digipath.report.document import document
from digipath.report.inputs import ErrorFindingInput, EvaluationInput, ReliabilityInput
from digipath.report.summary import NOTICE

SEEN = "Scores on images that a network was trained on say nothing about new ones: see its card for its split."
CURVE_ROWS = 11  # of a curve, in its table


def evaluation_page(given: EvaluationInput) -> str:
    """Return an evaluation as one HTML page that stands alone, all text escaped."""
    run = given.run
    parts = [
        markup.paragraph(NOTICE, "notice"),
        f"<h1>{escape(given.title)}</h1>",
        markup.paragraph(f"digipath {run.get('versions', {}).get('digipath', '')} {run.get('written', '')}", "soft"),
        _scores(given),
        markup.section("Notes", markup.bullets(given.notes)),
        _reliability(given.reliability),
        _temperatures(given),
        _errors(given.error_finding),
        _images(given),
        weights_used.cards(given.cards),
        markup.section("Settings", markup.pairs(run.get("settings", {}))),
        markup.section("Versions", markup.pairs(run.get("versions", {}))),
        f'<footer class="notice">{escape(NOTICE)}</footer>',
    ]
    return document(f"{given.title}: digipath evaluation", "\n".join(part for part in parts if part))


def _scores(given: EvaluationInput) -> str:
    shown = {name: value for name, value in given.scores.items() if name != "images"}
    return markup.section("Scores", markup.paragraph(SEEN, "soft"), markup.pairs(shown))


def _images(given: EvaluationInput) -> str:
    images = given.scores.get("images", {})
    rows = [(name, _number(dice)) for name, dice in images.items()]
    return markup.section("Images", markup.table(("Image", "Dice"), rows)) if rows else ""


def _reliability(by_name: Mapping[str, ReliabilityInput]) -> str:
    if not by_name:
        return ""
    head = ("Probabilities", "Expected calibration error", "Brier score", "Pixels")
    rows = [
        (name, _number(bins.expected_calibration_error), _number(bins.brier), f"{sum(bins.counts):,}")
        for name, bins in by_name.items()
    ]
    bins_rows = [
        (name, _number(predicted), _number(observed), f"{count:,}")
        for name, bins in by_name.items()
        for predicted, observed, count in zip(bins.predicted, bins.observed, bins.counts, strict=True)
        if count
    ]
    numbers = markup.table(("Probabilities", "Mean predicted", "Observed share", "Pixels of the bin"), bins_rows)
    caption = "Observed share of tumour against the predicted probability, and the pixels of each bin."
    plot = markup.plot(plots.reliability_diagram(by_name), caption, numbers)
    return markup.section("Calibration", markup.table(head, rows), plot)


def _temperatures(given: EvaluationInput) -> str:
    shown = [f"<h3>{escape(name)}</h3>{markup.pairs(facts)}" for name, facts in given.calibration.items()]
    return markup.section("Temperatures", *shown)


def _errors(by_name: Mapping[str, ErrorFindingInput]) -> str:
    if not by_name:
        return ""
    places = list(dict.fromkeys(place for found in by_name.values() for place in found.auroc))
    head = ("Uncertainty", *(f"AUROC, {place}" for place in places), "Area under risk–coverage")
    rows = [
        (name, *(_number(found.auroc.get(place)) for place in places), _number(found.area))
        for name, found in by_name.items()
    ]
    about = (
        "AUROC of the uncertainty for wrong pixels: 0.5 finds nothing, 1 finds every error first. Risk–coverage: "
        "share of wrong pixels among those kept, when the least certain ones are left to a reader."
    )
    parts = [markup.paragraph(about, "soft"), markup.table(head, rows)]
    curves = {name: found for name, found in by_name.items() if len(found.coverage)}
    if curves:
        caption = "Risk–coverage curves: lower is better."
        parts.append(markup.plot(plots.risk_coverage(curves), caption, _curve_table(curves)))
    return markup.section("Does uncertainty find errors?", *parts)


def _curve_table(curves: Mapping[str, ErrorFindingInput]) -> str:
    """Some points of each curve, evenly along it."""
    rows = []
    for name, found in curves.items():
        last = len(found.coverage) - 1
        at = sorted({round(last * step / (CURVE_ROWS - 1)) for step in range(CURVE_ROWS)})
        rows += [(name, f"{found.coverage[i]:.2%}", f"{found.risk[i]:.3%}") for i in at]
    return markup.table(("Uncertainty", "Pixels kept", "Of them wrong"), rows)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"
