"""Maps of a case → lesions, summary, pictures and the report page, in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from digipath.files import write_atomically, write_json
from digipath.maps import MapArray, open_maps
from digipath.measure.lesions import DEFAULT_MIN_AREA_UM2, Lesion, find_lesions
from digipath.report import ReportInput, Tally, lesions_geojson, overlay_png, report_html, summary, tally
from digipath.slide import Overview, Slide
from digipath.values import Card, Coverage

THRESHOLD = 0.5
COLOUR_RGB = (200, 0, 0)
PICTURE_PX = 1200  # longer side of the maps that pictures are made from


def write_report(
    folder: Path, source: Slide, overview: Overview, cards: Sequence[Card], record: Mapping[str, Any]
) -> None:
    """Write lesions.geojson, summary.json, overlay.png and report.html from the maps in `folder`.

    Of a task with several classes the last one is measured and shown; its maps hold them all.
    """
    maps = open_maps(folder)
    probability = maps["probability"].plane(-1)
    lesions = _lesions(probability, source, record)
    write_json(
        folder / "lesions.geojson",
        lesions_geojson(lesions, class_name=record["classes"][-1], colour_rgb=COLOUR_RGB, mpp=source.mpp),
        indent=None,
    )
    counted = tally(
        probability,
        maps["coverage"],
        shape_px=record["working_size_px"],
        reduce=record["settings"]["reduce"],
        threshold=THRESHOLD,
    )
    numbers = _summary(counted, lesions, record)
    write_json(folder / "summary.json", numbers)
    _write_pictures(folder, ReportInput(
        slide=source.path.name,
        overview=overview.image,
        probability=_small(probability),
        coverage=_small(maps["coverage"]),
        counted=counted,
        lesions=lesions,
        summary=numbers,
        run=record,
        cards=[card.record for card in cards],
        uncertainty={name: _small(maps[name].plane(-1)) for name in ("aleatoric", "epistemic") if name in maps},
        overview_mpp=overview.mpp,
    ))  # fmt: skip


def _lesions(probability: MapArray, source: Slide, record: Mapping[str, Any]) -> list[Lesion]:
    working_mpp = record["settings"]["working_mpp"]
    downsample = 1.0 if source.mpp is None else working_mpp / source.mpp
    return find_lesions(
        probability,
        map_mpp=record["settings"]["map_mpp"],
        l0_per_map_px=record["settings"]["reduce"] * downsample,
        threshold=THRESHOLD,
        size_l0=source.size_l0,
    )


def _summary(counted: Tally, lesions: Sequence[Lesion], record: Mapping[str, Any]) -> dict[str, Any]:
    return summary(
        counted,
        Coverage(**record["coverage"]),
        lesions,
        mpp=record["settings"]["working_mpp"],
        map_mpp=record["settings"]["map_mpp"],
        min_lesion_um2=DEFAULT_MIN_AREA_UM2,
        notes=record["tissue_notes"],
    )


def _write_pictures(folder: Path, given: ReportInput) -> None:
    overlay = overlay_png(
        given.overview,
        given.probability,
        given.coverage,
        threshold=given.counted.threshold,
        overview_mpp=given.overview_mpp,
    )
    write_atomically(folder / "overlay.png", overlay)
    write_atomically(folder / "report.html", report_html(given))


def _small(stored: MapArray) -> Any:  # noqa: ANN401 - an array of the map's type
    """The finest level that a picture needs."""
    level = next((n for n in range(stored.levels) if max(stored.level(n).shape) <= PICTURE_PX), stored.levels - 1)
    return stored.level(level)[:]
