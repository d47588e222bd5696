"""Maps of a case → lesions, readouts, summary, pictures and the report page, in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from digipath.files import write_atomically, write_json
from digipath.maps import MapArray, open_maps
from digipath.measure.lesions import (
    DEFAULT_MIN_AREA_UM2,
    JOIN_GAP_UM,
    Lesion,
    find_lesions,
    metastases_of,
    slide_category,
)
from digipath.measure.pn_stage import CELLS_NOTE, ITC_UM, MICRO_UM
from digipath.report import (
    MetastasesInput,
    MetastasisInput,
    ReportInput,
    Tally,
    lesions_geojson,
    look_here_geojson,
    overlay_png,
    report_html,
    summary,
    tally,
)
from digipath.slide import Overview, Slide
from digipath.tumour_burden import MapFrame, burden_input, burden_of
from digipath.values import Card, Coverage
from digipath.where_to_look import look_here_input, where_to_look

THRESHOLD = 0.5
COLOUR_RGB = (200, 0, 0)
PICTURE_PX = 1200  # longer side of the maps that pictures are made from
UNCERTAINTY = ("aleatoric", "epistemic", "entropy", "mutual_information")
READOUTS = ("pn_stage", "burden")
JOIN_NOTE = f"Regions with a gap of at most {JOIN_GAP_UM:g} µm between them are fragments of one metastasis."


def write_report(
    folder: Path, source: Slide, overview: Overview, cards: Sequence[Card], record: Mapping[str, Any]
) -> None:
    """Write lesions.geojson, look_here.geojson, summary.json, overlay.png and report.html from the maps in `folder`.

    Of a task with several classes the last one is measured and shown; its maps hold them all.
    """
    maps = {name: stored.plane(-1) for name, stored in open_maps(folder).items()}
    uncertainty = {name: maps[name] for name in UNCERTAINTY if name in maps}
    lesions = _lesions(maps["probability"], uncertainty, record)
    write_json(
        folder / "lesions.geojson",
        lesions_geojson(lesions, class_name=record["classes"][-1], colour_rgb=COLOUR_RGB, mpp=source.mpp),
        indent=None,
    )
    measured = _measured(maps, lesions, record, readouts(cards))
    write_json(folder / "look_here.geojson", look_here_geojson(measured["look_here"]), indent=None)
    counted = _counted(maps, record)
    numbers = _summary(counted, lesions, record, measured)
    write_json(folder / "summary.json", numbers)
    _write_pictures(folder, ReportInput(
        slide=source.path.name,
        overview=overview.image,
        probability=_small(maps["probability"]),
        coverage=_small(maps["coverage"]),
        counted=counted,
        lesions=lesions,
        summary=numbers,
        run=record,
        cards=[card.record for card in cards],
        uncertainty={name: _small(stored) for name, stored in uncertainty.items()},
        overview_mpp=overview.mpp,
        l0_per_overview_px=overview.downsample,
        **measured,
    ))  # fmt: skip


def readouts(cards: Sequence[Card]) -> tuple[str, ...]:
    """Which readouts the weights' maps are good for: what any of the cards says; all where one says nothing."""
    said = [card.record.get("readouts", READOUTS) for card in cards] or [READOUTS]
    return tuple(name for name in READOUTS if any(name in names for names in said))


def _lesions(
    probability: MapArray, uncertainty: Mapping[str, MapArray], record: Mapping[str, Any]
) -> list[Lesion]:
    frame = MapFrame.of(record)
    return find_lesions(
        probability,
        map_mpp=frame.mpp,
        l0_per_map_px=frame.l0_per_map_px,
        threshold=THRESHOLD,
        size_l0=frame.size_l0,
        uncertainty=uncertainty,
    )


def _measured(
    maps: Mapping[str, MapArray], lesions: Sequence[Lesion], record: Mapping[str, Any], asked: Sequence[str]
) -> dict[str, Any]:
    """The readouts that were asked for, as `ReportInput` and `summary` take them; None for others."""
    places = where_to_look(maps, record, threshold=THRESHOLD, readouts=asked) if asked else None
    return {
        "metastases": _metastases(lesions) if "pn_stage" in asked else None,
        "burden": burden_input(burden_of(maps, record, threshold=THRESHOLD)) if "burden" in asked else None,
        "look_here": None if places is None else look_here_input(places),
    }


def _counted(maps: Mapping[str, MapArray], record: Mapping[str, Any]) -> Tally:
    return tally(
        maps["probability"],
        maps["coverage"],
        shape_px=record["working_size_px"],
        reduce=record["settings"]["reduce"],
        threshold=THRESHOLD,
    )


def _metastases(lesions: Sequence[Lesion]) -> MetastasesInput:
    joined = metastases_of(lesions)
    found = [
        MetastasisInput(one.category, one.diameter_um, one.area_um2, one.lesions)
        for one in joined
        if one.category is not None and one.diameter_um is not None and one.area_um2 is not None
    ]
    return MetastasesInput(found, slide_category(joined), (ITC_UM, MICRO_UM), (JOIN_NOTE, CELLS_NOTE))


def _summary(
    counted: Tally, lesions: Sequence[Lesion], record: Mapping[str, Any], measured: Mapping[str, Any]
) -> dict[str, Any]:
    return summary(
        counted,
        Coverage(**record["coverage"]),
        lesions,
        mpp=record["settings"]["working_mpp"],
        map_mpp=record["settings"]["map_mpp"],
        min_lesion_um2=DEFAULT_MIN_AREA_UM2,
        notes=record["tissue_notes"],
        **measured,
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
