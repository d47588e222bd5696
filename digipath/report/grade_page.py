"""The page of a grade: a slide's, a case's, a folder's of tiles; three readouts, the map, the tiles themselves."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from digipath.report import grade_sections, markup
from digipath.report.figures import fitted
from digipath.report.geojson import BITS
from digipath.report.grade_gallery import contact_sheet
from digipath.report.grade_inputs import Array, BagInput, CaseGradeInput, GradeInput, TileLedger
from digipath.report.grade_map import grade_overlay, tile_overlay
from digipath.report.markup import mm2, share
from digipath.values import most_probable

LISTED_TILES = 200
COLOURS = {2: ("green", "red"), 3: ("green", "blue", "red")}
STRENGTH = (
    "Each tile has the colour of its most probable class, from light to dark by (100^p − 1) / 99 of its probability p: "
    "below 50 % very light, above it rises quickly. Where tissue itself is dark, go by the outline and the dots."
)
HEAT = (
    "Beside each tile, in viridis (yellow: most), where the network looked for its most probable class (Grad-CAM). "
    "It tells what moved the network, not what is tumour."
)
ATTENTION = "Attention: how much each tile weighs in the verdict of the networks that see many tiles at once."
MANY_TILES = "Networks that see many tiles at once"
BAGS = "These networks see many tiles at once and answer for the slide, not for a tile."


def grade_page(given: GradeInput) -> str:
    """Return the grade of a slide as one HTML page that stands alone, all text escaped.

    Raises:
        BadInput: the arrays' shapes do not fit.
    """
    readout = given.readout
    parts = [
        _banner(given.tiles, graded=readout is not None or given.bags is not None),
        *([markup.figures(_figures(given)), grade_sections.disagreement(readout)] if readout is not None else []),
        _pictures(given),
        markup.section("Notes", markup.bullets(given.notes)),
        *(
            [
                grade_sections.readouts(readout, given.classes, _bag_rows(given.bags, given.classes)),
                grade_sections.confidence(readout, given.classes),
            ]
            if readout is not None
            else []
        ),
        _bags(given.bags, given.classes),
        _maps(given),
        _gallery(given),
        _named(given),
        _ledger(given.tiles),
    ]
    return grade_sections.page(given.slide, "grade", parts, given.run, given.cards)


def case_grade_page(given: CaseGradeInput) -> str:
    """Return the grade of a case with several slides as one HTML page that stands alone, all text escaped.

    Raises:
        BadInput: the arrays' shapes do not fit.
    """
    readout = given.readout
    graded = readout is not None or any(slide.bags is not None for slide in given.slides)
    parts = [
        _banner(_summed([slide.tiles for slide in given.slides]), graded=graded),
        *(
            [
                markup.figures(grade_sections.key_figures(readout, given.classes)),
                grade_sections.disagreement(readout),
                markup.paragraph(given.rule),
            ]
            if readout is not None
            else []
        ),
        markup.section("Notes", markup.bullets([*given.notes, *_slide_notes(given.slides)])),
        _slides(given),
        *(
            [grade_sections.readouts(readout, given.classes), grade_sections.confidence(readout, given.classes)]
            if readout is not None
            else []
        ),
        _ledger(_summed([slide.tiles for slide in given.slides])),
    ]
    return grade_sections.page(given.case, "grade of a case", parts, given.run, given.cards)


def _banner(tiles: TileLedger, *, graded: bool) -> str:
    """Loud words where there is no grade, and where tissue that was asked for has none."""
    total, tiles_of = tiles.total, _tiles_of(tiles)
    why = []
    if tiles.left_out and tiles.least_tissue is not None:
        why.append(f"{tiles.left_out:,} hold less than {tiles.least_tissue:.0%} tissue")
    if tiles.unreadable:
        why.append(f"{tiles.unreadable:,} could not be read")
    if not graded and not total:
        return grade_sections.alert("No grade: no tissue was found.", "There was nothing to grade.")
    if not graded:
        told = f"Of {total:,} {tiles_of} none could be graded: {', '.join(why) or 'none has a prediction'}."
        return grade_sections.alert("No grade.", told)
    if not tiles.unreadable:
        return ""
    told = (
        f"{tiles.unreadable:,} of {total:,} {tiles_of}{_area(tiles.unreadable, tiles)} could not be read. "
        "Nothing is known about them: they are hatched in the map and count for no grade."
    )
    return grade_sections.alert("Incomplete: not all tissue was graded.", told)


def _tiles_of(tiles: TileLedger) -> str:
    return "images" if tiles.least_tissue is None else "tiles with tissue"


def _area(count: int, tiles: TileLedger) -> str:
    return "" if tiles.tile_mm2 is None else f" ({mm2(count * tiles.tile_mm2)})"


def _figures(given: GradeInput) -> dict[str, str]:
    assert given.readout is not None
    figures = grade_sections.key_figures(given.readout, given.classes)
    if given.bags is not None:
        figures["Grade by networks that see many tiles"] = given.bags.grade
    return figures | {"Tiles graded": f"{given.tiles.graded:,}"}


# --- the map ---------------------------------------------------------------------------------


def _pictures(given: GradeInput) -> str:
    picture = _grade_picture(given)
    if picture is None or given.overview is None:
        return ""
    shown = markup.picture(picture, f"Grade map. {_colours(given.classes)}")
    plain = markup.picture(fitted(given.overview), "The slide.")
    return f'<div class="pictures">{shown}{plain}</div>{markup.paragraph(STRENGTH, "soft")}'


def _grade_picture(given: GradeInput) -> Image.Image | None:
    if given.picture is not None:
        return given.picture
    if given.overview is None or given.probabilities is None or given.coverage is None or given.frame is None:
        return None
    return grade_overlay(
        given.overview,
        given.probabilities,
        given.coverage,
        frame=given.frame,
        classes=given.classes,
    )


def _colours(classes: Sequence[str]) -> str:
    names = COLOURS.get(len(classes))
    if names is None:
        return "Colours of the classes as in the legend."
    told = (
        f"{colour} and {number} dot{'s' if number > 1 else ''}: {name}"
        for number, (colour, name) in enumerate(zip(names, classes, strict=True), 1)
    )
    return f"Colours: {'; '.join(told)}."


def _maps(given: GradeInput) -> str:
    """Attention and uncertainties over the slide."""
    shown = []
    if given.attention is not None:
        shown.append(_map(given, given.attention, "attention", ATTENTION))
    for name, values in given.uncertainty.items():
        title = markup.label(name) + (" (bits)" if name in BITS else "")
        shown.append(_map(given, values, title, f"Uncertainty of each tile: {title}."))
    inside = "".join(shown)
    return markup.section(
        "What the networks looked at and how sure they were", f'<div class="pictures">{inside}</div>' if inside else ""
    )


def _map(given: GradeInput, values: Array, name: str, caption: str) -> str:
    if given.overview is None or given.coverage is None or given.frame is None:
        return ""
    known = values[~np.isnan(values)]
    top = float(known.max()) if known.size else 0.0
    picture = tile_overlay(
        given.overview,
        values,
        given.coverage,
        frame=given.frame,
        name=name,
        top=top if top > 0 else 1.0,
    )
    return markup.picture(picture, caption)


# --- tiles, bags, slides ---------------------------------------------------------------------


def _gallery(given: GradeInput) -> str:
    if not given.gallery:
        return ""
    parts = (
        [markup.paragraph(HEAT, "soft")] if any(t.heat is not None for row in given.gallery for t in row.tiles) else []
    )
    for row in given.gallery:
        which = "most" if row.certain else "least"
        parts.append(f"<h3>{escape(row.class_name)}, {which} certain</h3>")
        caption = f"Tiles of {row.class_name}, the {which} certain first, with their two highest probabilities."
        parts.append(markup.picture(contact_sheet(row, given.classes), caption))
    return markup.section("Tiles", *parts)


def _named(given: GradeInput) -> str:
    """Tiles that lie on no slide, by name."""
    if not given.tile_names:
        return ""
    listed = list(given.tile_names.items())[:LISTED_TILES]
    rows = [
        (name, given.classes[int(most_probable(np.asarray(values)))], *(f"{value:.3f}" for value in values))
        for name, values in listed
    ]
    told = markup.paragraph(f"{len(listed):,} of {len(given.tile_names):,} tiles.", "soft")
    head = ("Tile", "Most probable class", *(f"Probability of {name}" for name in given.classes))
    return markup.section("Tiles by name", told, markup.table(head, rows, head[1:2]))


def _bag_rows(bags: BagInput | None, classes: Sequence[str]) -> list[tuple[str, str, str]]:
    if bags is None:
        return []
    probability = bags.probabilities[classes.index(bags.grade)]
    return [(MANY_TILES, bags.grade, f"mean probability {probability:.3f}")]


def _bags(bags: BagInput | None, classes: Sequence[str]) -> str:
    if bags is None:
        return ""
    told = f"{BAGS} A group has one vote."
    none = ("no vote",) * len(classes)
    rows = [
        (name, *(map(share, bags.votes[name]) if name in bags.votes else none), f"{count:,} of up to {most:,} tiles")
        for name, (count, most) in bags.groups.items()
    ]
    mean = ("Mean probability", *(f"{value:.3f}" for value in bags.probabilities), "")
    table = markup.table(("Votes of", *classes, "Groups"), [*rows, mean], ("Groups",))
    return markup.section(
        MANY_TILES, markup.paragraph(told, "soft"), table, markup.bullets(bags.notes)
    )


def _ledger(tiles: TileLedger) -> str:
    total, least = tiles.total, tiles.least_tissue
    left_out = {} if least is None else {f"left out: less than {least:.0%} tissue": tiles.left_out}
    names = {
        _tiles_of(tiles).capitalize(): total,
        "graded": tiles.graded,
        **({"not looked at: not among the tiles drawn": tiles.not_drawn} if tiles.not_drawn else {}),
        **left_out,
        "not graded: could not be read": tiles.unreadable,
    }
    rows = [
        (
            text,
            f"{count:,}",
            "unknown" if tiles.tile_mm2 is None else mm2(count * tiles.tile_mm2),
            share(count / total if total else None),
        )
        for text, count in names.items()
    ]
    what = "images" if least is None else "tissue"
    head = (f"What became of the {what}", "Tiles", "Area of tiles", "Share")
    return markup.section("Coverage", markup.table(head, rows))


def _summed(tiles: Sequence[TileLedger]) -> TileLedger:
    areas = {one.tile_mm2 for one in tiles}
    least = [one.least_tissue for one in tiles if one.least_tissue is not None]
    return TileLedger(
        sum(one.graded for one in tiles),
        sum(one.left_out for one in tiles),
        sum(one.unreadable for one in tiles),
        least[0] if least else None,
        areas.pop() if len(areas) == 1 else None,
        sum(one.not_drawn for one in tiles),
    )


def _slide_notes(slides: Sequence[GradeInput]) -> list[str]:
    return [
        f"{slide.slide}: {note}"
        for slide in slides
        for note in (*slide.notes, *(slide.bags.notes if slide.bags is not None else ()))
    ]


def _slides(given: CaseGradeInput) -> str:
    rows, pictures = [], []
    by_bags = (MANY_TILES,) if any(slide.bags is not None for slide in given.slides) else ()
    for slide in given.slides:
        read, tiles = slide.readout, slide.tiles
        grades = ("none",) * 3 if read is None else (read.mean_grade, read.majority_grade, read.highest_grade or "none")
        bags = ("none" if slide.bags is None else slide.bags.grade,) if by_bags else ()
        shares = ("–",) * len(given.classes) if read is None else [share(part) for part in read.vote_shares]
        rows.append((slide.slide, *bags, *grades, *shares, f"{tiles.graded:,}", f"{tiles.unreadable:,}"))
        picture = _grade_picture(slide)
        if picture is not None:
            pictures.append(markup.picture(picture, slide.slide))
    read_by = (*by_bags, "Mean vote", "Majority vote", "Highest grade")
    head = ("Slide", *read_by, *given.classes, "Tiles graded", "Tiles not read")
    shown = f'<div class="pictures">{"".join(pictures)}</div>' if pictures else ""
    told = f"{_colours(given.classes)} {STRENGTH}" if pictures else ""
    return markup.section(
        "Slides", markup.table(head, rows, read_by), markup.paragraph(told, "soft") if told else "", shown
    )
