"""Values → what a person or another program reads: GeoJSON, pictures, numbers, plots and HTML pages."""

from __future__ import annotations

from digipath.report.evaluation_page import evaluation_page
from digipath.report.figures import overlay_png
from digipath.report.geojson import lesions_geojson
from digipath.report.grade_gallery import contact_sheet, with_heat
from digipath.report.grade_inputs import (
    AblationInput,
    AblationRow,
    BagInput,
    CaseGradeInput,
    ComparisonInput,
    GalleryInput,
    GradeInput,
    GradingInput,
    LevelInput,
    ReadoutInput,
    RocInput,
    TileFrame,
    TileLedger,
    TilePicture,
)
from digipath.report.grade_map import grade_geojson, grade_overlay, intensity, tile_colour, tile_overlay
from digipath.report.grade_page import case_grade_page, grade_page
from digipath.report.grading_page import grading_page
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
from digipath.report.volume_figures import Scene, centre_of, stacked, three_planes, titled
from digipath.report.volume_page import (
    FusionInput,
    Shown,
    VerdictInput,
    VolumeGradeInput,
    VolumePictures,
    VoteInput,
    fusion_page,
    volume_page,
)

__all__ = [
    "NOTICE", "AblationInput", "AblationRow", "BagInput", "BurdenInput", "BurdenRuleInput", "CaseGradeInput",
    "ComparisonInput", "ErrorFindingInput", "EvaluationInput", "FusionInput", "GalleryInput", "GradeInput",
    "GradingInput", "LevelInput", "LookHereInput", "MetastasesInput", "MetastasisInput", "NodeInput", "ReadoutInput",
    "ReliabilityInput", "ReportInput", "RocInput", "Scene", "Shown", "StageInput", "Tally", "TileFrame", "TileLedger",
    "TilePicture", "VerdictInput", "VolumeGradeInput", "VolumePictures", "VoteInput", "case_grade_page", "centre_of",
    "contact_sheet", "evaluation_page", "fusion_page", "grade_geojson", "grade_overlay", "grade_page", "grading_page",
    "intensity", "lesions_geojson", "look_here_geojson", "overlay_png", "report_html", "stacked", "stage_page",
    "summary", "tally", "three_planes", "tile_colour", "tile_overlay", "titled", "volume_page", "with_heat",
]  # fmt: skip
