"""Grades of tiles in a case folder → table, readouts, map, outlines, gallery and report."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from digipath.files import made_folder, write_atomically, write_json
from digipath.grading.explanations import Explainer
from digipath.grading.tile_frames import FolderFrame, Frame, SlideFrame
from digipath.maps import ATTENTION, open_maps
from digipath.measure.tile_grades import (
    GradeReadout,
    called,
    most_and_least_certain,
    read_grades,
    share_at_confidence,
)
from digipath.report import (
    NOTICE,
    BagInput,
    CaseGradeInput,
    GalleryInput,
    GradeInput,
    ReadoutInput,
    TileFrame,
    TileLedger,
    TilePicture,
    case_grade_page,
    grade_geojson,
    grade_overlay,
    grade_page,
)
from digipath.result import CASE_FILE, STORED, Grade, GradedSlide, tells_areas
from digipath.values import PREDICTED, Card, Progress, ProgressCallback

OWNED = (
    "checkpoint.json", "maps.zarr", "run.json", "summary.json", "tiles.csv", "report.html",
)  # fmt: skip
MAP = "grade_map.png"
OF_SLIDES = (MAP, "grade.geojson")
UNCERTAINTY = ("aleatoric", "epistemic")
CONFIDENCES = tuple(round(0.02 * step, 2) for step in range(51))
CASE_RULE = "Every tile of every slide counts alike."
BAG_RULE = "By networks that see bags of tiles, the mean of the slides"


def write_grade_report(
    folder: Path,
    frame: Frame,
    record: Mapping[str, Any],
    cards: Sequence[Card],
    explainer: Callable[[], Explainer | None] = lambda: None,
    *,
    progress: ProgressCallback | None = None,
) -> None:
    """Write tiles.csv, summary.json and report.html from the maps in `folder`; of slides also the map and its outlines.

    Args:
        explainer: makes what shows where in a tile a network looked; asked only where tiles are shown.
        progress: called as these tiles are shown and explained.
    """
    shown = ("probability", "coverage", ATTENTION, *UNCERTAINTY)
    maps = {name: stored[:].astype(np.float32) for name, stored in open_maps(folder).items() if name in shown}
    codes = maps["coverage"].astype(np.uint8)
    graded = codes == PREDICTED
    cells, probabilities = np.argwhere(graded), maps["probability"][graded].astype(STORED)
    areas_mm2 = _areas_mm2(frame, graded) if tells_areas(record) else None
    reading = record["reading"]
    readout = read_grades(
        probabilities,
        record["classes"],
        least_share=reading["least_share"],
        least_confidence=reading["least_confidence"],
        areas_mm2=areas_mm2,
    )
    uncertainty = {name: maps[name].mean(axis=-1) for name in UNCERTAINTY if name in maps}
    write_atomically(folder / "tiles.csv", _table(frame, record["classes"], cells, probabilities, uncertainty))
    notes = [*record["notes"], *_notes(frame, record, len(cells))]
    write_json(folder / "summary.json", {
        "notice": NOTICE, **readout.to_record(), "bags": record.get("bags"), "tile_counts": record["tiles"],
        "notes": notes,
    })  # fmt: skip
    given = GradeInput(
        slide=frame.name,
        classes=record["classes"],
        readout=readout_input(readout, probabilities),
        tiles=_ledger(frame, record),
        gallery=_gallery(
            frame,
            record["classes"],
            cells,
            probabilities,
            count=reading["gallery"],
            explainer=explainer,
            progress=progress,
        ),
        uncertainty=uncertainty,
        notes=notes,
        run=record,
        cards=[card.record for card in cards],
        bags=_bags(record.get("bags")),
        attention=_attention(maps.get(ATTENTION), graded),
        **_on_slide(frame, record["classes"], maps["probability"], codes),
        **_in_folder(frame, cells, probabilities),
    )
    if isinstance(frame, SlideFrame):
        _write_map(folder, frame, given)
    write_atomically(folder / "report.html", grade_page(given))


def readout_input(readout: GradeReadout, probabilities: NDArray[np.floating]) -> ReadoutInput | None:
    """A readout as pages show it, with the shares of tiles at every confidence; None without any tile."""
    if readout.mean_grade is None or readout.majority_grade is None:
        return None
    return ReadoutInput(
        mean_probabilities=list(readout.probabilities.values()),
        mean_grade=readout.mean_grade,
        vote_shares=list(readout.shares.values()),
        majority_grade=readout.majority_grade,
        highest_grade=readout.highest_grade,
        least_share=readout.least_share,
        confidence=readout.least_confidence,
        areas_mm2=None if readout.areas_mm2 is None else list(readout.areas_mm2.values()),
        confident_shares=list(readout.confident_shares.values()),
        confidences=CONFIDENCES,
        shares_at=share_at_confidence(probabilities, CONFIDENCES).tolist(),
    )


def write_case_report(case: Grade, cards: Sequence[Card]) -> None:
    """Write case.json and case.html beside the folders of the case's slides; read as its slides are."""
    readout, bags, first = case.readout(), case.bags, case.slides[0]
    folder = made_folder(case.folder)
    page = CaseGradeInput(
        case=folder.name,
        classes=case.classes,
        slides=[_of_slide(slide) for slide in case.slides],
        readout=readout_input(readout, case.probabilities),
        rule=CASE_RULE,
        notes=[] if bags is None else [f"{BAG_RULE}: {bags['grade']}."],
        run={**first.run, "slide": {}, "timings_s": {}},
        cards=[card.record for card in cards],
    )
    write_atomically(folder / "case.html", case_grade_page(page))
    listed = [
        {"name": slide.slide_name, "folder": slide.folder.name, "notes": slide.summary["notes"]}
        for slide in case.slides
    ]
    write_json(folder / CASE_FILE, {
        "notice": NOTICE, **readout.to_record(), "rule": CASE_RULE, "bags": bags, "slides": listed,
    })  # fmt: skip


def _of_slide(slide: GradedSlide) -> GradeInput:
    """What the page of a case shows of one slide."""
    settings = slide.run["settings"]
    mpp = settings["working_mpp"]
    tile_mm2 = None if mpp is None else (settings["tile_px"] * mpp) ** 2 / 1e6
    return GradeInput(
        slide=slide.slide_name,
        classes=slide.classes,
        readout=readout_input(slide.readout(), slide.probabilities),
        tiles=_tile_ledger(slide.run["tiles"], settings["least_tissue"], tile_mm2),
        bags=_bags(slide.run.get("bags")),
        notes=slide.summary["notes"],
        run=slide.run,
        picture=_drawn(slide),
    )


def _drawn(slide: GradedSlide) -> Image.Image | None:
    """The map of a slide as its own report drew it; None of a folder of tiles, which lie on no slide."""
    if slide.of_folder:
        return None
    with Image.open(slide.folder / MAP) as picture:
        return picture.convert("RGB")


def _areas_mm2(frame: Frame, graded: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    """Tissue in each graded tile, or the size of its image; None where the resolution is unknown."""
    mpp = frame.tiles.mpp
    return None if mpp is None else np.asarray(frame.tiles.tissue_px[graded] * mpp**2 / 1e6, np.float64)


def _table(
    frame: Frame,
    classes: Sequence[str],
    cells: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    uncertainty: Mapping[str, NDArray[np.floating]],
) -> str:
    """All graded tiles as CSV, in the order of the map."""
    names = [classes[grade] for grade in called(probabilities)]
    areas = _areas_mm2(frame, np.ones_like(frame.tiles.kept))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    place = list(frame.place((0, 0)))
    rows.writerow(["row", "column", *place, f"{frame.measured}_share", f"{frame.measured}_mm2", "grade",
                   *(f"p {name}" for name in classes), *uncertainty])  # fmt: skip
    for number, (row, column) in enumerate(cells.tolist()):
        flat = row * frame.tiles.kept.shape[1] + column
        rows.writerow([
            row, column, *frame.place((row, column)).values(), f"{frame.tiles.share[row, column]:.4f}",
            "" if areas is None else f"{areas[flat]:.8g}", names[number],
            *(f"{value:.6g}" for value in probabilities[number]),
            *(f"{values[row, column]:.6g}" for values in uncertainty.values()),
        ])  # fmt: skip
    return text.getvalue()


def _notes(frame: Frame, record: Mapping[str, Any], graded: int) -> list[str]:
    """What kept tiles from being graded, where it matters."""
    counts, least, bags = record["tiles"], record["settings"]["least_tissue"], record.get("bags")
    notes = [
        f"WARNING: {name} could not read {member['unreadable']} of the tiles it drew."
        for name, member in list((bags or {"members": {}})["members"].items())[1:]
        if member["unreadable"]
    ]
    if graded:
        if lost := counts["unreadable"]:
            notes.append(f"WARNING: {lost} of {graded + lost} tiles could not be read and are not graded.")
        if unseen := counts.get("not_drawn"):
            notes.append(f"Shares are of the {graded} of {graded + unseen} tiles drawn, each seen by itself.")
        return notes
    if bags and bags["grade"]:
        return [*notes, "No tile for the first network, so there is no map."]
    if counts["unreadable"]:
        return [*notes, f"None of {counts['unreadable']} tiles could be read: no grade."]
    if counts["left_out"]:
        remedy = "A lower --least-tissue keeps more."
        return [*notes, f"No tile holds {100 * least:g}% tissue: no grade. {remedy}"]
    return [*notes, "No tissue was found: no grade. --tissue all takes the whole slide."]


def _ledger(frame: Frame, record: Mapping[str, Any]) -> TileLedger:
    counts, mpp = record["tiles"], frame.tiles.mpp
    tile_mm2 = None if mpp is None else (frame.tiles.tile_px * mpp) ** 2 / 1e6
    return _tile_ledger(counts, record["settings"]["least_tissue"], tile_mm2)


def _tile_ledger(counts: Mapping[str, int], least_tissue: float | None, tile_mm2: float | None) -> TileLedger:
    return TileLedger(
        counts["graded"], counts["left_out"], counts["unreadable"], least_tissue, tile_mm2, counts.get("not_drawn", 0)
    )


def _bags(record: Mapping[str, Any] | None) -> BagInput | None:
    """What networks say that see many tiles at once; None where there were none, or no tile for them."""
    if record is None or record["grade"] is None:
        return None
    members = record["members"]
    return BagInput(
        grade=record["grade"],
        probabilities=list(record["probabilities"].values()),
        votes={name: list(member["votes"].values()) for name, member in members.items() if member["votes"]},
        groups={name: (member["groups"], member["tiles_per_group"]) for name, member in members.items()},
        notes=[f"{name}: {note}" for name, member in members.items() for note in member["notes"]],
    )


def _attention(attention: NDArray[np.floating] | None, graded: NDArray[np.bool_]) -> NDArray[np.floating] | None:
    return None if attention is None else np.where(graded, attention, np.nan)


def _gallery(
    frame: Frame,
    classes: Sequence[str],
    cells: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    *,
    count: int,
    explainer: Callable[[], Explainer | None],
    progress: ProgressCallback | None,
) -> list[GalleryInput]:
    """The most and the least certain tiles of each grade, with what the network looked at."""
    if not count or not len(cells):
        return []
    chosen = [
        (index, certain, at)
        for index, both in enumerate(most_and_least_certain(probabilities, count))
        for certain, rows in zip((True, False), both, strict=True)
        for at in rows.tolist()
    ]
    if progress is not None:
        progress(Progress(0, len(chosen), 0.0, "loading the network"))
    explain, began = explainer(), time.perf_counter()
    doing = "showing tiles" if explain is None else "explaining tiles"
    shown: dict[tuple[int, bool], list[TilePicture]] = {}
    for done, (index, certain, at) in enumerate(chosen, 1):
        tiles = shown.setdefault((index, certain), [])
        tiles.append(_picture(frame, explain, cells[at], probabilities[at], index))
        if progress is not None:
            progress(Progress(done, len(chosen), done / max(time.perf_counter() - began, 1e-9), doing))
    return [GalleryInput(classes[index], certain, tiles) for (index, certain), tiles in shown.items()]


def _picture(
    frame: Frame, explain: Explainer | None, cell: NDArray[np.int64], probabilities: NDArray[np.floating], grade: int
) -> TilePicture:
    at = (int(cell[0]), int(cell[1]))
    pixels = frame.tile(at)
    place = frame.place(at).get("image", f"row {at[0]}, column {at[1]}")
    heat = None if explain is None else explain(pixels, grade)
    return TilePicture(pixels, probabilities.tolist(), str(place), heat)


def _on_slide(
    frame: Frame, classes: Sequence[str], probability: NDArray[np.floating], codes: NDArray[np.uint8]
) -> dict[str, Any]:
    """What a page needs to lay tiles over a slide, and the map of grades, laid over it."""
    if not isinstance(frame, SlideFrame):
        return {}
    overview = frame.plan.overview
    masked = np.where((codes == PREDICTED)[..., None], probability, np.nan)
    geometry = TileFrame(frame.tiles.tile_px * frame.l0_per_px, overview.downsample, overview.mpp)
    picture = grade_overlay(overview.image, masked, codes, frame=geometry, classes=classes)
    return {
        "overview": overview.image, "probabilities": masked, "coverage": codes, "frame": geometry, "picture": picture
    }  # fmt: skip


def _in_folder(frame: Frame, cells: NDArray[np.int64], probabilities: NDArray[np.floating]) -> dict[str, Any]:
    """The answers for the images of a folder, by name."""
    if not isinstance(frame, FolderFrame):
        return {}
    names = {frame.images[row].name: probabilities[at].tolist() for at, (row, _) in enumerate(cells.tolist())}
    return {"tile_names": names}


def _write_map(folder: Path, frame: SlideFrame, given: GradeInput) -> None:
    """The map as a picture, and its tiles for QuPath."""
    if given.probabilities is None or given.picture is None or given.frame is None:
        return
    stream = io.BytesIO()
    given.picture.save(stream, "PNG")
    write_atomically(folder / MAP, stream.getvalue())
    outlines = grade_geojson(
        given.probabilities, side_l0=given.frame.side_l0, classes=given.classes, tissue_share=frame.tiles.share,
        uncertainty=given.uncertainty,
    )  # fmt: skip
    write_json(folder / "grade.geojson", outlines, indent=None)
