"""The report of a segmentation: one HTML page that stands alone, made of small pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.report import markup, plots, readouts, weights_used
from digipath.report.document import document
from digipath.report.figures import Layer, fitted, overlay
from digipath.report.geojson import BITS, Region
from digipath.report.inputs import BurdenInput, LookHereInput, MetastasesInput, MetastasisInput
from digipath.report.markup import mm2, share
from digipath.report.summary import NOTICE, UM2_PER_MM2, Tally

LARGEST = 10  # lesions in the table
PICTURE_PX = 1100
UNCERTAINTY = {
    "aleatoric": "Aleatoric uncertainty: variance between the views of a patch, mean over the networks.",
    "epistemic": "Epistemic uncertainty: variance between the networks.",
    "entropy": "Predictive entropy of the mean probability, in bits: 0 where it is certain, 1 at a probability of 0.5.",
    "mutual_information": "Mutual information, in bits: the part of the entropy that the networks' disagreement makes.",
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
        uncertainty: maps by name, the size of `probability`: variances, or bits (`BITS`).
        overview_mpp: µm per overview pixel, None where unknown.
        map_px_per_overview_px: of `probability`; None: it shows exactly the overview's field.
        l0_per_overview_px: level-0 pixels per overview pixel; None: no outlines are drawn.
        metastases, burden, look_here: readouts to show; None: not these.
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
    l0_per_overview_px: float | None = None
    metastases: MetastasesInput | None = None
    burden: BurdenInput | None = None
    look_here: Sequence[LookHereInput] | None = None


def report_html(given: ReportInput) -> str:
    """Return the report as one HTML page: nothing fetched, all text escaped, no script but ours (`document`).

    Raises:
        BadInput: the arrays' shapes do not fit.
    """
    parts = [
        markup.paragraph(NOTICE, "notice"),
        f"<h1>{escape(given.slide)}</h1>",
        markup.paragraph(_made_by(given.run), "soft"),
        _banner(given.summary),
        markup.figures(_key_figures(given)),
        _pictures(given),
        markup.section("Notes", markup.bullets(given.summary["notes"])),
        _readouts(given),
        _lesions(given),
        _histogram(given),
        _coverage(given.summary),
        _uncertainty(given),
        _record(given),
        f'<footer class="notice">{escape(NOTICE)}</footer>',
    ]
    return document(f"{given.slide}: digipath report", "\n".join(part for part in parts if part))


def _readouts(given: ReportInput) -> str:
    return "\n".join([
        readouts.metastases(given.metastases),
        readouts.burden(given.burden, given.overview, given.l0_per_overview_px),
        readouts.look_here(given.look_here, given.overview, given.l0_per_overview_px),
    ])  # fmt: skip


def _histogram(given: ReportInput) -> str:
    counts, threshold = given.counted.histogram, given.counted.threshold
    total, bins = sum(counts), len(counts)
    if not total:
        return ""
    rows = [
        (f"{i / bins:.2f} to {(i + 1) / bins:.2f}", f"{count:,}", f"{count / total:.2%}")
        for i, count in enumerate(counts)
    ]
    numbers = markup.table(("Probability", "Working pixels", "Share"), rows)
    caption = f"Shares of the predicted tissue by their probability; tumour from {threshold:g} on."
    figure = plots.probability_histogram(counts, threshold)
    return markup.section("Probability over the predicted tissue", markup.plot(figure, caption, numbers))


def _record(given: ReportInput) -> str:
    """How the result was made: weights, settings, times, versions."""
    run = given.run
    calibrated = run.get("settings", {}).get("calibrated", True)
    return "\n".join([
        _adaptive(run.get("adaptive")),
        weights_used.calibration(given.cards, calibrated=calibrated),
        weights_used.cards(given.cards),
        markup.section("Settings", markup.pairs(run.get("settings", {}))),
        markup.section("Slide", markup.pairs(run.get("slide", {}))),
        markup.section("Time in seconds", markup.pairs(run.get("timings_s", {}))),
        markup.section("Versions", markup.pairs(run.get("versions", {}))),
    ])  # fmt: skip


def _adaptive(record: Mapping[str, Any] | None) -> str:
    """What leaving out views saved, and what it changed where that was measured."""
    if not record:
        return ""
    told = (
        f"{record['full']:,} of {record['patches']:,} patches were seen by all views, for the first views disagreed "
        f"or came near the threshold; {record['audited']:,} others too, at random, to measure what the rule changes. "
        f"It took {record['passes']:,} of {record['passes_full']:,} passes through the networks."
    )
    return markup.section("Adaptive views", markup.paragraph(told), markup.pairs(record))


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
    return f"{pixels:,} px" if mpp is None else mm2(pixels * mpp**2 / UM2_PER_MM2)


def _key_figures(given: ReportInput) -> dict[str, str]:
    summary = given.summary
    mean = summary["mean_probability"]
    figures = {
        "Tissue": mm2(summary["tissue_mm2"]),
        "Predicted tumour": mm2(summary["tumour_mm2"]),
        "Tumour of predicted tissue": share(summary["tumour_share_of_tissue"]),
        "Regions": f"{summary['lesions']:,}",
        "Largest region": mm2(summary["largest_lesion_mm2"]),
        "Mean probability": "none" if mean is None else f"{mean:.3f}",
    }
    if given.metastases is not None:
        figures["Category by size"] = given.metastases.category or "unknown"
    if given.burden is not None:
        figures |= {f"Burden, {rule.name}": readouts.percent(rule) for rule in given.burden.rules}
    return figures


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
        unit = "(bits)" if name in BITS else "variance"
        layer = Layer(values, name=f"{name.replace('_', ' ')} {unit}", top=top if top > 0 else 0.25)
        shown.append(markup.picture(_overlay(given, layer), UNCERTAINTY.get(name, name)))
    return markup.section("Uncertainty", f'<div class="pictures">{"".join(shown)}</div>' if shown else "")


def _lesions(given: ReportInput) -> str:
    if not given.lesions:
        return markup.section("Largest regions", markup.paragraph("No region reaches the threshold."))
    smallest = given.summary["min_lesion_um2"]
    left_out = f" Regions below {smallest:g} µm² are not listed." if smallest else ""
    shown = given.lesions[:LARGEST]
    names = tuple(dict.fromkeys(name for lesion in shown for name in lesion.mean_uncertainty))
    joined = () if given.metastases is None else given.metastases.found
    head = (
        "Region", "Area", "Longest diameter", *(["Metastasis"] if joined else []), "Mean probability", "Maximum",
        *(f"Mean {markup.label(name)}" for name in names), "Centre x (px)", "Centre y (px)",
    )  # fmt: skip
    rows = [_lesion(lesion, names, joined) for lesion in shown]
    told = f"{len(rows)} of {len(given.lesions):,} regions; positions in level-0 pixels.{left_out}"
    return markup.section("Largest regions", markup.paragraph(told, "soft"), markup.table(head, rows))


def _lesion(lesion: Region, names: Sequence[str], joined: Sequence[MetastasisInput]) -> tuple[str, ...]:
    area = f"{lesion.area_l0_px2:,.0f} px²" if lesion.area_um2 is None else mm2(lesion.area_um2 / UM2_PER_MM2)
    whole = [f"{lesion.metastasis} ({joined[lesion.metastasis - 1].category})"] if joined else []
    means = (lesion.mean_uncertainty.get(name) for name in names)
    x, y = lesion.centroid_l0
    return (
        str(lesion.label), area, readouts.millimetres(lesion.diameter_um), *whole,
        f"{lesion.mean_probability:.3f}", f"{lesion.max_probability:.3f}",
        *("–" if mean is None else f"{mean:.2g}" for mean in means), f"{x:,.0f}", f"{y:,.0f}",
    )  # fmt: skip


def _coverage(summary: Mapping[str, Any]) -> str:
    counts, mpp = summary["coverage_px"], summary["mpp"]
    names = {
        "tissue": "Tissue",
        "predicted": "predicted",
        "read_failed": "not predicted: could not be read",
        "excluded": "not predicted: left out",
    }
    rows = [
        (text, f"{counts[key]:,}", _area(counts[key], mpp), share(_of(counts[key], counts["tissue"])))
        for key, text in names.items()
    ]
    head = ("What became of the tissue", "Working pixels", "Area", "Share")
    return markup.section("Coverage", markup.table(head, rows))


def _of(part: int, whole: int) -> float | None:
    return part / whole if whole else None
