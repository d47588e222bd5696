"""What an evaluation leaves in a folder: scores.json with all its numbers, and evaluation.html with the plots."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from digipath.files import write_atomically, write_json
from digipath.measure.calibration import Reliability
from digipath.measure.error_finding import BORDER_UM, RECOMMENDED, ErrorCounts, error_auroc, risk_coverage
from digipath.report import ErrorFindingInput, EvaluationInput, ReliabilityInput, evaluation_page
from digipath.values import Card

CURVE_POINTS = 101
NOTES = (
    f"A pixel is away from borders if it lies at least {BORDER_UM:g} µm from where the truth changes; there, outlines "
    "differ from hand to hand.",
    f"Of the uncertainties, {RECOMMENDED} is the one to use: where probabilities are calibrated, it orders pixels by "
    "their chance to be wrong. Aleatoric uncertainty needs several views, epistemic several networks.",
)


def reliability_record(found: Reliability) -> dict[str, Any]:
    """A reliability diagram as JSON: for each bin its mean prediction, observed share and pixels."""
    return {
        "predicted": found.predicted,
        "observed": found.observed,
        "counts": found.counts.tolist(),
        "expected_calibration_error": found.expected_calibration_error,
        "brier": found.brier,
    }


def error_record(counts: ErrorCounts) -> dict[str, Any]:
    """How well an uncertainty finds errors, as JSON: AUROC in each part, and the curve of all pixels."""
    parts = counts.parts()
    curve = risk_coverage(parts["all pixels"])
    found: dict[str, Any] = {"auroc": {part: error_auroc(histogram) for part, histogram in parts.items()}}
    if curve is not None:
        few = curve.thinned(CURVE_POINTS)
        found |= {"coverage": few.coverage.tolist(), "risk": few.risk.tolist(), "area": curve.area}
    return found


def write_evaluation(
    folder: Path, found: Mapping[str, Any], title: str, *, cards: Sequence[Card], settings: Mapping[str, Any]
) -> None:
    """Write scores.json and evaluation.html.

    Args:
        found: as `digipath.evaluate` returns it. title: the weights' name.

    Raises:
        OutputUnwritable: the folder cannot be written.
    """
    versions = {"digipath": version("digipath"), "python": sys.version.split()[0]}
    run = {"written": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "versions": versions, "settings": dict(settings)}
    write_json(folder / "scores.json", {**found, "weights": title, "run": run})
    write_atomically(folder / "evaluation.html", evaluation_page(EvaluationInput(
        title=title,
        scores={name: value for name, value in found.items() if name == "images" or not isinstance(value, dict)},
        reliability={name: ReliabilityInput(**one) for name, one in found["reliability"].items()},
        error_finding={name: ErrorFindingInput(**one) for name, one in found["error_finding"].items()},
        calibration={name: _in_a_row(record) for name, record in found.get("calibration", {}).items()},
        run=run,
        cards=[card.record for card in cards],
        notes=NOTES,
    )))  # fmt: skip


def _in_a_row(record: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """A nested record as one level of names in words."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        words = f"{name} {key}".strip().replace("_", " ")
        found |= _in_a_row(value, words) if isinstance(value, Mapping) else {words: value}
    return found
