"""The page of a grade from MRI, and what the page of a case with several modalities shares with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import plotly.graph_objects as go
from PIL import Image

from digipath.report import grade_sections, markup
from digipath.report.grade_plots import class_colours
from digipath.report.plots import laid_out, name_rows, short

MEANING = (
    "Higher means more important for the grade that this network calls (viridis, yellow: most). It tells what moved "
    "the network, not what is tumour; where it lies outside the tumour, distrust the grade. The highest hundredth has "
    "one colour here; the files hold the values."
)
VOTED = "Soft vote: the mean of the members' probabilities, each with its weight."
ROW_PX = 44


@dataclass(frozen=True)
class VoteInput:
    """What one member says.

    Attributes:
        member: its name. sees: what it looked at, in words. probabilities: of each class. weight: in the soft vote.
    """

    member: str
    sees: str
    probabilities: Sequence[float]
    weight: float = 1.0


@dataclass(frozen=True)
class VerdictInput:
    """The grade of a case by all of its members.

    Attributes:
        classes: in rising order of malignancy. grade: the most probable; probabilities: of each class.
        votes: of those that voted. missing: of the others, member → why.
    """

    classes: Sequence[str]
    grade: str
    probabilities: Sequence[float]
    votes: Sequence[VoteInput]
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """A picture of volumes and what it shows."""

    picture: Image.Image
    caption: str


@dataclass(frozen=True)
class VolumePictures:
    """What a page shows of volumes: the modalities, and the explanations of each member."""

    modalities: Sequence[Shown]
    explanations: Mapping[str, Sequence[Shown]] = field(default_factory=dict)


@dataclass(frozen=True)
class VolumeGradeInput:
    """The grade of a patient from MRI. run, cards: as for the other pages. notes: shown as they are."""

    case: str
    verdict: VerdictInput
    pictures: VolumePictures
    notes: Sequence[str]
    run: Mapping[str, Any]
    cards: Sequence[Mapping[str, Any]]


def volume_page(given: VolumeGradeInput) -> str:
    """Return the grade from MRI as one HTML page that stands alone, all text escaped."""
    parts = [
        absent(given.verdict.missing),
        figures(given.verdict),
        volumes(given.pictures),
        markup.section("Notes", markup.bullets(given.notes)),
        votes(given.verdict),
        explanations(given.pictures),
        markup.section("Volume", markup.pairs(given.run.get("volume", {}))),
    ]
    return grade_sections.page(given.case, "grade from MRI", parts, given.run, given.cards)


@dataclass(frozen=True)
class FusionInput:
    """The grade of a patient by members that see slides or volumes.

    Attributes:
        pictures: one of each slide and volume, as their own pages draw them. explained: whether some of them show what
            networks looked at. notes: shown as they are. run, cards: as for the other pages.
    """

    case: str
    verdict: VerdictInput
    pictures: Sequence[Shown]
    notes: Sequence[str]
    run: Mapping[str, Any]
    cards: Sequence[Mapping[str, Any]]
    explained: bool = False


def fusion_page(given: FusionInput) -> str:
    """Return the grade of a case from several modalities as one HTML page that stands alone, all text escaped."""
    shown = "".join(markup.picture(one.picture, one.caption) for one in given.pictures)
    parts = [
        absent(given.verdict.missing),
        figures(given.verdict),
        f'<div class="pictures">{shown}</div>' if shown else "",
        markup.paragraph(MEANING, "soft") if given.explained else "",
        markup.section("Notes", markup.bullets(given.notes)),
        votes(given.verdict),
    ]
    return grade_sections.page(given.case, "grade of a case", parts, given.run, given.cards)


def absent(missing: Mapping[str, str]) -> str:
    """A loud word on what did not vote."""
    if not missing:
        return ""
    told = "; ".join(f"{name}: {why}" for name, why in missing.items())
    words = f"These did not vote, and nothing stands for them: {told}."
    return grade_sections.alert("Graded without some members.", words)


def figures(verdict: VerdictInput) -> str:
    """The grade and the probability of each class, large."""
    each = zip(verdict.classes, verdict.probabilities, strict=True)
    numbers = {f"Probability of {name}": f"{probability:.3f}" for name, probability in each}
    return markup.figures({"Grade": verdict.grade, **numbers, "Members that voted": f"{len(verdict.votes)}"})


def votes(verdict: VerdictInput) -> str:
    """What every member says, as a table and bars."""
    rows = [
        (one.member, one.sees, *(f"{p:.3f}" for p in one.probabilities), f"{one.weight:g}") for one in verdict.votes
    ]
    rows.append(("all together", "", *(f"{p:.3f}" for p in verdict.probabilities), ""))
    nothing = ("–",) * len(verdict.classes)
    rows += [(name, f"did not vote: {why}", *nothing, "") for name, why in verdict.missing.items()]
    table = markup.table(("Member", "Sees", *verdict.classes, "Weight"), rows, ("Sees",))
    caption = "Probability of each class, by each member and by all together."
    return markup.section("Grade", markup.paragraph(VOTED, "soft"), table, markup.plot(_bars(verdict), caption))


def volumes(pictures: VolumePictures) -> str:
    """The modalities in three planes."""
    inside = "".join(markup.picture(one.picture, one.caption) for one in pictures.modalities)
    return f'<div class="pictures">{inside}</div>' if inside else ""


def explanations(pictures: VolumePictures) -> str:
    """What each member looked at."""
    parts = []
    for name, shown in pictures.explanations.items():
        if not shown:
            continue
        inside = "".join(markup.picture(one.picture, one.caption) for one in shown)
        parts.append(f'<h3>{escape(name)}</h3><div class="pictures">{inside}</div>')
    meaning = markup.paragraph(MEANING, "soft") if parts else ""
    return markup.section("What the networks looked at", meaning, *parts)


def _bars(verdict: VerdictInput) -> go.Figure:
    names = [*(one.member for one in verdict.votes), "all together"]
    values = [*(one.probabilities for one in verdict.votes), verdict.probabilities]
    figure = go.Figure()
    for index, (name, colour) in enumerate(zip(verdict.classes, class_colours(len(verdict.classes)), strict=True)):
        figure.add_bar(
            y=list(range(len(names))),
            x=[row[index] for row in values],
            orientation="h",
            name=short(name),
            marker={"color": colour, "pattern": {"shape": ("", "/", "x", ".", "-")[index % 5], "solidity": 0.25}},
        )
    laid_out(figure, "probability", "", x_range=(0, 1), legend=True, height=140 + ROW_PX * len(names))
    figure.update_layout(barmode="stack")
    name_rows(figure, names)
    return figure
