"""The report: one HTML page that stands alone, made of small pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.report import markup
from digipath.report.figures import Layer, fitted, overlay
from digipath.report.geojson import Region
from digipath.report.summary import NOTICE, UM2_PER_MM2, Tally

LARGEST = 10  # lesions in the table
PICTURE_PX = 1100
UNCERTAINTY = {
    "aleatoric": "Aleatoric uncertainty: variance between the views of a patch, mean over the networks.",
    "epistemic": "Epistemic uncertainty: variance between the networks.",
}


@dataclass(frozen=True)
class ReportInput:
    """All that the page shows.

    Attributes:
        slide: the slide's name; overview: (rows, columns, 3) uint8 RGB.
        probability: (rows, columns) in [0, 1], NaN = no prediction, at a moderate resolution.
        coverage: codes of `digipath.values`, the same size.
        counted, lesions, summary: as made for `summary.json`.
        run: the run record; its `settings`, `slide`, `versions` and `timings_s` are shown where present.
        cards: of the weights used; empty for the user's own predictors.
        uncertainty: maps by name, the size of `probability`, variances.
        overview_mpp: µm per overview pixel, None where unknown.
        map_px_per_overview_px: of `probability`; None: it shows exactly the overview's field.
    """

    slide: str
    overview: NDArray[np.uint8]
    probability: NDArray[np.generic]
    coverage: NDArray[np.uint8]
    counted: Tally
    lesions: Sequence[Region]
    summary: Mapping[str, Any]
    run: Mapping[str, Any]
    cards: Sequence[Mapping[str, Any]] = ()
    uncertainty: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    overview_mpp: float | None = None
    map_px_per_overview_px: float | None = None


def report_html(given: ReportInput) -> str:
    """Return the report as one HTML page: no script, nothing fetched, all text escaped.

    Raises:
        BadInput: the arrays' shapes do not fit.
    """
    run = given.run
    parts = [
        markup.paragraph(NOTICE, "notice"),
        f"<h1>{escape(given.slide)}</h1>",
        markup.paragraph(_made_by(run), "soft"),
        _banner(given.summary),
        markup.figures(_key_figures(given.summary)),
        _pictures(given),
        markup.section("Notes", markup.bullets(given.summary["notes"])),
        _lesions(given),
        markup.section(
            "Probability over the predicted tissue",
            markup.histogram(given.counted.histogram, given.counted.threshold, "probability"),
        ),
        _coverage(given.summary),
        _uncertainty(given),
        markup.section("Weights", *map(_card, given.cards)),
        markup.section("Settings", markup.pairs(run.get("settings", {}))),
        markup.section("Slide", markup.pairs(run.get("slide", {}))),
        markup.section("Time in seconds", markup.pairs(run.get("timings_s", {}))),
        markup.section("Versions", markup.pairs(run.get("versions", {}))),
        f'<footer class="notice">{escape(NOTICE)}</footer>',
    ]
    return markup.document(f"{given.slide}: digipath report", "\n".join(part for part in parts if part))


def _made_by(run: Mapping[str, Any]) -> str:
    version = run.get("versions", {}).get("digipath", "")
    return f"digipath {version} {run.get('verb', '')} {run.get('written', '')}".strip()


def _banner(summary: Mapping[str, Any]) -> str:
    """A loud word where tissue that was asked for has no prediction; a quiet one where it was left out."""
    counts, mpp = summary["coverage_px"], summary["mpp"]
    failed, excluded = counts["read_failed"], counts["excluded"]
    share = f" ({failed / counts['tissue']:.2%} of the tissue)" if failed else ""
    loud = (
        '<div class="alert" role="alert"><strong>Incomplete: not all tissue was predicted.</strong>'
        f"<p>{escape(_area(failed, mpp))}{share} could not be read. Nothing is known about it: "
        "it is hatched in the pictures and counts as neither tumour nor normal.</p></div>"
    )
    quiet = f"{_area(excluded, mpp)} of tissue was left out (for instance pen marks) and has no prediction."
    return (loud if not summary["complete"] else "") + (markup.paragraph(quiet) if excluded else "")


def _area(pixels: int, mpp: float | None) -> str:
    return f"{pixels:,} px" if mpp is None else _mm2(pixels * mpp**2 / UM2_PER_MM2)


def _mm2(value: float | None) -> str:
    if value is None:
        return "size unknown"
    if 0 < value < 0.01:
        return f"{value * UM2_PER_MM2:,.0f} µm²"
    return f"{value:,.2f} mm²" if value >= 1 else f"{value:.3g} mm²"


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.2%}"


def _key_figures(summary: Mapping[str, Any]) -> dict[str, str]:
    mean = summary["mean_probability"]
    return {
        "Tissue": _mm2(summary["tissue_mm2"]),
        "Predicted tumour": _mm2(summary["tumour_mm2"]),
        "Tumour of predicted tissue": _share(summary["tumour_share_of_tissue"]),
        "Regions": f"{summary['lesions']:,}",
        "Largest region": _mm2(summary["largest_lesion_mm2"]),
        "Mean probability": "none" if mean is None else f"{mean:.3f}",
    }


def _pictures(given: ReportInput) -> str:
    threshold = given.counted.threshold
    heat = _overlay(given, Layer(given.probability, contour=threshold))
    shown = f"Predicted probability over the slide; the line runs where it reaches {threshold:g}."
    plain = markup.picture(fitted(given.overview, PICTURE_PX), "The slide.")
    return f'<div class="pictures">{markup.picture(heat, shown)}{plain}</div>'


def _overlay(given: ReportInput, layer: Layer) -> Any:  # noqa: ANN401 - a PIL image
    return overlay(
        given.overview,
        layer,
        given.coverage,
        map_px_per_overview_px=given.map_px_per_overview_px,
        overview_mpp=given.overview_mpp,
        longest_px=PICTURE_PX,
    )


def _uncertainty(given: ReportInput) -> str:
    shown = []
    for name, values in given.uncertainty.items():
        known = values[~np.isnan(values)]
        top = float(known.max()) if known.size else 0.0
        layer = Layer(values, name=f"{name} variance", top=top if top > 0 else 0.25)
        shown.append(markup.picture(_overlay(given, layer), UNCERTAINTY.get(name, name)))
    return markup.section("Uncertainty", f'<div class="pictures">{"".join(shown)}</div>' if shown else "")


def _lesions(given: ReportInput) -> str:
    if not given.lesions:
        return markup.section("Largest regions", markup.paragraph("No region reaches the threshold."))
    smallest = given.summary["min_lesion_um2"]
    left_out = f" Regions below {smallest:g} µm² are not listed." if smallest else ""
    rows = [_lesion(lesion) for lesion in given.lesions[:LARGEST]]
    head = ("Region", "Area", "Mean probability", "Maximum", "Centre x (px)", "Centre y (px)")
    shown = f"{len(rows)} of {len(given.lesions):,} regions; positions in level-0 pixels.{left_out}"
    return markup.section("Largest regions", markup.paragraph(shown, "soft"), markup.table(head, rows))


def _lesion(lesion: Region) -> tuple[str, ...]:
    area = f"{lesion.area_l0_px2:,.0f} px²" if lesion.area_um2 is None else _mm2(lesion.area_um2 / UM2_PER_MM2)
    x, y = lesion.centroid_l0
    mean, top = f"{lesion.mean_probability:.3f}", f"{lesion.max_probability:.3f}"
    return str(lesion.label), area, mean, top, f"{x:,.0f}", f"{y:,.0f}"


def _coverage(summary: Mapping[str, Any]) -> str:
    counts, mpp = summary["coverage_px"], summary["mpp"]
    names = {
        "tissue": "Tissue",
        "predicted": "predicted",
        "read_failed": "not predicted: could not be read",
        "excluded": "not predicted: left out",
    }
    rows = [
        (text, f"{counts[key]:,}", _area(counts[key], mpp), _share(_of(counts[key], counts["tissue"])))
        for key, text in names.items()
    ]
    head = ("What became of the tissue", "Working pixels", "Area", "Share")
    return markup.section("Coverage", markup.table(head, rows))


def _of(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _card(card: Mapping[str, Any]) -> str:
    names = ("task", "licence", "citation", "sha256", "sha256_reason", "classes", "training", "intended_use")
    facts = {name: card[name] for name in names if card.get(name) is not None}
    metrics = [
        (f"{metric['name']} on {metric['data']}, {metric['split']}", f"{metric['value']:.3g}")
        for metric in card.get("metrics", ())
    ]
    return (
        f"<h3>{escape(str(card['name']))}</h3>{markup.pairs(facts)}"
        + (markup.table(("Measured", "Value"), metrics) if metrics else "")
        + (f"<p>Limits</p>{markup.bullets(card['limits'])}" if card.get("limits") else "")
    )
