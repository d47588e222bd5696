"""Sections that the pages on grades share: the readouts of a slide or case, and the frame of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from digipath.report import grade_plots, markup, weights_used
from digipath.report.document import document
from digipath.report.grade_inputs import ReadoutInput
from digipath.report.markup import mm2, share
from digipath.report.summary import NOTICE

CURVE_ROWS = 11  # of a curve, in its table
NONE_REACHES = "none reaches it"
READ = (
    "Tiles are read in three ways, and none of them alone is the grade: a slide may hold several grades side by side. "
    "A tile is called its most probable class; areas are of the tissue in such tiles, or of the images of a folder."
)


def page(
    title: str, kind: str, parts: Sequence[str], run: Mapping[str, Any], cards: Sequence[Mapping[str, Any]]
) -> str:
    """A whole page: its title and parts between the notice, and how they were made below them."""
    made = " ".join(
        filter(None, (run.get("versions", {}).get("digipath", ""), run.get("verb", ""), run.get("written", "")))
    )
    record = {"Settings": "settings", "Slide": "slide", "Time in seconds": "timings_s", "Versions": "versions"}
    inside = [
        markup.paragraph(NOTICE, "notice"),
        f"<h1>{escape(title)}</h1>",
        markup.paragraph(f"digipath {made}".strip(), "soft"),
        *parts,
        weights_used.cards(cards),
        *(markup.section(name, markup.pairs(run.get(key, {}))) for name, key in record.items()),
        f'<footer class="notice">{escape(NOTICE)}</footer>',
    ]
    return document(f"{title}: digipath {kind}", "\n".join(part for part in inside if part))


def alert(headline: str, told: str) -> str:
    """A loud word."""
    return f'<div class="alert" role="alert"><strong>{escape(headline)}</strong>{markup.paragraph(told)}</div>'


def highest_name(readout: ReadoutInput) -> str:
    """The pathologist's rule with both its thresholds."""
    return (
        f"Highest grade with at least {100 * readout.least_share:g} % of the tiles "
        f"at a probability of {readout.confidence:g} or more"
    )


def key_figures(readout: ReadoutInput, classes: Sequence[str]) -> dict[str, str]:
    """The three readouts, then the share and the area of each class."""
    figures = {
        "Grade by mean vote": readout.mean_grade,
        "Grade by majority vote": readout.majority_grade,
        highest_name(readout): readout.highest_grade or NONE_REACHES,
    }
    areas = [area.replace(" ", "\u00a0") for area in _areas(readout, classes)]
    for name, part, area in zip(classes, readout.vote_shares, areas, strict=True):
        figures[f"Tiles of {name}"] = f"{part:.1%}, {area}" if readout.areas_mm2 is not None else f"{part:.1%}"
    return figures


def disagreement(readout: ReadoutInput) -> str:
    """A word where the readouts differ; nothing where they agree."""
    if readout.mean_grade == readout.majority_grade == readout.highest_grade:
        return ""
    told = "The readouts differ: look at the map and at the curve of confidences before trusting any one of them."
    return markup.paragraph(told)


def readouts(readout: ReadoutInput, classes: Sequence[str], more: Sequence[tuple[str, str, str]] = ()) -> str:
    """How the tiles were read, and what part each class has.

    Args:
        more: further rows of the first table: how it was read, the grade, what it rests on.
    """
    mean = readout.mean_probabilities[classes.index(readout.mean_grade)]
    votes = readout.vote_shares[classes.index(readout.majority_grade)]
    rows = [
        ("Mean vote", readout.mean_grade, f"mean probability {mean:.3f}"),
        ("Majority vote", readout.majority_grade, f"{votes:.1%} of the tiles"),
        (highest_name(readout), readout.highest_grade or NONE_REACHES, _confident(readout, classes)),
        *more,
    ]
    head = ("Read by", "Grade", "It rests on")
    return markup.section(
        "Grade", markup.paragraph(READ, "soft"), markup.table(head, rows, head), _parts(readout, classes)
    )


def _confident(readout: ReadoutInput, classes: Sequence[str]) -> str:
    """What the pathologist's rule saw, where it was told."""
    if not readout.confident_shares or readout.highest_grade is None:
        return "as a pathologist reads"
    part = readout.confident_shares[classes.index(readout.highest_grade)]
    return f"{part:.1%} of the tiles at {readout.confidence:g} or more"


def _areas(readout: ReadoutInput, classes: Sequence[str]) -> list[str]:
    return [mm2(None)] * len(classes) if readout.areas_mm2 is None else [mm2(area) for area in readout.areas_mm2]


def _parts(readout: ReadoutInput, classes: Sequence[str]) -> str:
    areas = _areas(readout, classes)
    confident = [f"{part:.2%}" for part in readout.confident_shares] or ["–"] * len(classes)
    parts = zip(classes, readout.vote_shares, areas, readout.mean_probabilities, confident, strict=True)
    rows = [(name, share(part), area, f"{mean:.3f}", sure) for name, part, area, mean, sure in parts]
    head = ("Class", "Share of the tiles", "Area", "Mean probability", f"Tiles at {readout.confidence:g} or more")
    table = markup.table(head, rows)
    shown = None if readout.areas_mm2 is None else areas
    figure = grade_plots.grade_shares(readout.vote_shares, readout.mean_probabilities, classes, shown)
    return markup.plot(
        figure, "Share and area of the tiles of each class (bars); mean probability of the class (◇).", table
    )


def confidence(readout: ReadoutInput, classes: Sequence[str]) -> str:
    """How the shares fall as more confidence is asked for; nothing without curves."""
    if not len(readout.confidences):
        return ""
    figure = grade_plots.share_at_confidence(
        readout.confidences, readout.shares_at, classes, least_share=readout.least_share, confidence=readout.confidence
    )
    caption = (
        "Share of the tiles that are called a class with at least this probability. The highest grade is the most "
        "malignant class whose curve is not below the horizontal line where the vertical one stands."
    )
    last = len(readout.confidences) - 1
    at = sorted({round(last * step / (CURVE_ROWS - 1)) for step in range(CURVE_ROWS)})
    rows = [(f"{readout.confidences[i]:.2f}", *(share(part) for part in readout.shares_at[i])) for i in at]
    table = markup.table(("Probability at least", *classes), rows)
    return markup.section("Shares by confidence", markup.plot(figure, caption, table))
