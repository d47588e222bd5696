"""Sections of the segmentation report on what the maps mean: metastases, tumour burden, where to look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from digipath.report import drawing, markup, plots
from digipath.report.drawing import Stroke
from digipath.report.figures import fitted
from digipath.report.geojson import annotation
from digipath.report.inputs import BurdenInput, BurdenRuleInput, LookHereInput, MetastasesInput, MetastasisInput
from digipath.report.markup import mm2

LARGEST = 10  # rows of a table
MOST_MARKS = 20  # of the look-here list
PICTURE_PX = 1100
NODE_NOTE = "Categories hold for a slide of a lymph node and say nothing about other tissue."
NOT_MEASURED = "Not measured: that takes maps with an uncertainty (several networks or views) and a readout to change."
BURDEN_NOTE = "Tumour burden holds for a slide with one tumour; fragments of several lesions make it meaningless."


def metastases(given: MetastasesInput | None) -> str:
    """The metastases by size, longest first; nothing if they were not asked for."""
    if given is None:
        return ""
    title = "Metastases by size"
    notes = [markup.paragraph(text, "soft") for text in (NODE_NOTE, *given.notes)]
    if given.category is None:
        unknown = "The resolution of the slide is unknown, so there are no diameters and no categories."
        return markup.section(title, markup.paragraph(unknown), *notes)
    told = markup.paragraph(f"Category of this slide by size: {given.category}.")
    if not given.found:
        return markup.section(title, told, *notes)
    rows = [_metastasis(number, one) for number, one in enumerate(given.found[:LARGEST], 1)]
    head = ("Metastasis", "Longest diameter", "Category", "Area of its regions", "Regions")
    listed = f"{len(rows)} of {len(given.found):,} metastases, the longest first."
    return markup.section(
        title, told, *notes, markup.paragraph(listed, "soft"), markup.table(head, rows, ("Category",)), _sizes(given)
    )


def _sizes(given: MetastasesInput) -> str:
    count, drawn = len(given.found), min(len(given.found), plots.MOST_POINTS)
    figure = plots.metastasis_sizes(
        [one.diameter_um for one in given.found], [one.category for one in given.found], given.limits_um
    )
    return markup.plot(figure, f"Longest diameters of {drawn:,} of {count:,} metastases; lines where categories part.")


def _metastasis(number: int, one: MetastasisInput) -> tuple[str, ...]:
    labels = ", ".join(map(str, one.fragments[:6])) + (", …" if len(one.fragments) > 6 else "")
    return str(number), millimetres(one.diameter_um), one.category, mm2(one.area_um2 / 1e6), labels


def millimetres(length_um: float | None) -> str:
    """A length as a reader would write it."""
    if length_um is None:
        return "unknown"
    return f"{length_um:,.0f} µm" if length_um < 1000 else f"{length_um / 1000:,.2f} mm"


def burden(given: BurdenInput | None, overview: NDArray[np.uint8], l0_per_overview_px: float | None) -> str:
    """Tumour burden by each rule, with what it was measured on drawn over the slide; nothing if it was not asked."""
    if given is None:
        return ""
    head = ("Whole tumour", "Viable tumour", "Whole tumour's area", "Burden", f"Interval ({given.level:.0%})")
    table = markup.table(head, [_rule(rule) for rule in given.rules])
    parts = [markup.paragraph(BURDEN_NOTE, "soft"), table, markup.bullets(given.notes), _interval_note(given)]
    known = [rule for rule in given.rules if rule.percent is not None]
    if known:
        figure = plots.burden_by_rule(
            [rule.name for rule in known],
            [rule.percent for rule in known if rule.percent is not None],
            [rule.interval for rule in known],
        )
        parts.append(markup.plot(figure, "Burden by each rule (◆) and its interval (bar)."))
    if l0_per_overview_px is not None and any(rule.hulls_l0 for rule in given.rules):
        parts.append(_hulls(given, overview, l0_per_overview_px))
    return markup.section("Tumour burden", *parts)


def _rule(rule: BurdenRuleInput) -> tuple[str, ...]:
    interval = "none" if rule.interval is None else "{:.1f} to {:.1f} %".format(*rule.interval)
    return rule.name, mm2(rule.viable_mm2), mm2(rule.whole_mm2), percent(rule), interval


def percent(rule: BurdenRuleInput) -> str:
    """The burden as a reader would write it."""
    return "undefined" if rule.percent is None else f"{rule.percent:.1f} %"


def _interval_note(given: BurdenInput) -> str:
    if not any(rule.interval for rule in given.rules):
        return ""
    conformal = (
        f"Intervals are conformal: on cases like those they were calibrated on, they hold the true burden in "
        f"{given.level:.0%}."
    )
    spread = "The intervals show a spread; how often they hold the true burden is not known."
    return markup.paragraph(conformal if given.conformal else spread, "soft")


def _hulls(given: BurdenInput, overview: NDArray[np.uint8], l0_per_overview_px: float) -> str:
    colours = (drawing.HULL_RGB, drawing.PIECE_RGB)
    strokes = [Stroke(given.tissue_l0, drawing.TISSUE_RGB, dash_px=5)]
    strokes += [
        Stroke(rule.hulls_l0, colour, None if index == 0 else 14)
        for index, (rule, colour) in enumerate(zip(given.rules, colours, strict=False))
    ]
    picture, l0_per_px = _picture(overview, l0_per_overview_px)
    lines = ("solid red", "dashed blue")
    keys = "; ".join(f"{line}: {rule.name}" for line, rule in zip(lines, given.rules, strict=False))
    caption = f"Hulls of the viable tumour, {keys}; dotted grey: pieces of tissue."
    return f'<div class="pictures">{markup.picture(drawing.with_outlines(picture, strokes, l0_per_px), caption)}</div>'


def look_here(
    found: Sequence[LookHereInput] | None, overview: NDArray[np.uint8], l0_per_overview_px: float | None
) -> str:
    """The regions whose uncertainty could change a readout, most important first; nothing if None was asked for."""
    if found is None:
        return ""
    title = "Look here"
    if not found:
        nothing = "No region is so uncertain that it could change the category by size or the burden."
        return markup.section(title, markup.paragraph(nothing))
    shown = found[:MOST_MARKS]
    told = (
        f"{len(shown)} of {len(found):,} regions whose uncertainty could change a readout, the most important first; "
        "all of them are in look_here.geojson, which QuPath opens. Positions in level-0 pixels."
    )
    parts = [markup.paragraph(told, "soft"), _places(shown)]
    if l0_per_overview_px is not None:
        picture, l0_per_px = _picture(overview, l0_per_overview_px)
        picture = drawing.with_outlines(
            picture, [Stroke([one.outline_l0 for one in shown], drawing.MARK_RGB)], l0_per_px
        )
        picture = drawing.with_marks(picture, [one.centre_l0 for one in shown], l0_per_px)
        caption = "Where to look; numbers as in the table."
        parts.append(f'<div class="pictures">{markup.picture(picture, caption)}</div>')
    return markup.section(title, *parts)


def _places(shown: Sequence[LookHereInput]) -> str:
    """The table, with columns for the readouts that were measured only."""
    categories = any(one.category_with is not None for one in shown)
    burdens = any(one.burden_change is not None for one in shown)
    decided = ("Category if it is tumour", "if not") if categories else ()
    head = (
        "Place", "Why", *decided, *(["Burden changes by"] if burdens else []), "Area", "Mean probability",
        "Standard deviation", "Centre x (px)", "Centre y (px)",
    )  # fmt: skip
    rows = []
    for number, one in enumerate(shown, 1):
        categorised = (one.category_with or "–", one.category_without or "–") if categories else ()
        change = "–" if one.burden_change is None else f"{one.burden_change:.2f} points"
        area = "unknown" if one.area_um2 is None else mm2(one.area_um2 / 1e6)
        numbers = (
            f"{one.mean_probability:.3f}",
            f"{one.mean_uncertainty:.3f}",
            *(f"{at:,.0f}" for at in one.centre_l0),
        )
        rows.append((str(number), one.reason, *categorised, *([change] if burdens else []), area, *numbers))
    return markup.table(head, rows, ("Why", *decided))


def _picture(overview: NDArray[np.uint8], l0_per_overview_px: float) -> tuple[Image.Image, float]:
    """The overview at the size of a report's pictures, and level-0 pixels per pixel of it."""
    picture = fitted(overview, PICTURE_PX)
    return picture, l0_per_overview_px * overview.shape[1] / picture.width


def look_here_geojson(found: Sequence[LookHereInput] | None) -> dict[str, object]:
    """Return a FeatureCollection of the regions, in their order, that opens in QuPath over the slide.

    Where they were not measured (None) it is empty and has a `note` that says so.
    """
    features = [_feature(number, one) for number, one in enumerate(found or (), 1)]
    note = {"note": NOT_MEASURED} if found is None else {}
    return {"type": "FeatureCollection", "features": features, **note}


def _feature(number: int, one: LookHereInput) -> dict[str, object]:
    measurements = {"Rank": number, "Mean probability": one.mean_probability, "Mean uncertainty": one.mean_uncertainty}
    known = {"Area µm^2": one.area_um2, "Burden change (points)": one.burden_change}
    measurements |= {name: value for name, value in known.items() if value is not None}
    feature = annotation(one.outline_l0, f"Look here {number}", "Look here", drawing.MARK_RGB, measurements)
    properties = cast(dict[str, object], feature["properties"])
    return feature | {"properties": properties | {"metadata": {"ANNOTATION_DESCRIPTION": one.reason}}}
