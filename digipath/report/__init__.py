"""Values → what a person or another program reads: GeoJSON, pictures, numbers, plots and HTML pages."""

from __future__ import annotations

from digipath.report.evaluation_page import evaluation_page
from digipath.report.figures import overlay_png
from digipath.report.geojson import lesions_geojson
from digipath.report.inputs import (
    BurdenInput,
    BurdenRuleInput,
    ErrorFindingInput,
    EvaluationInput,
    LookHereInput,
    MetastasesInput,
    MetastasisInput,
    NodeInput,
    ReliabilityInput,
    StageInput,
)
from digipath.report.readouts import look_here_geojson
from digipath.report.segmentation_page import ReportInput, report_html
from digipath.report.stage_page import stage_page
from digipath.report.summary import NOTICE, Tally, summary, tally

__all__ = [
    "NOTICE", "BurdenInput", "BurdenRuleInput", "ErrorFindingInput", "EvaluationInput", "LookHereInput",
    "MetastasesInput", "MetastasisInput", "NodeInput", "ReliabilityInput", "ReportInput", "StageInput", "Tally",
    "evaluation_page", "lesions_geojson", "look_here_geojson", "overlay_png", "report_html",
    "stage_page", "summary", "tally",
]  # fmt: skip
