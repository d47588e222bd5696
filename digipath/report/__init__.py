"""Values → what a person or another program reads: GeoJSON, pictures, numbers and the HTML page."""

from __future__ import annotations

from digipath.report.figures import overlay_png
from digipath.report.geojson import lesions_geojson
from digipath.report.page import ReportInput, report_html
from digipath.report.summary import NOTICE, Tally, summary, tally

__all__ = ["NOTICE", "ReportInput", "Tally", "lesions_geojson", "overlay_png", "report_html", "summary", "tally"]
