"""The verdict of a fusion → case.json and case.html beside the folders of its members."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from digipath.files import made_folder, write_atomically, write_json
from digipath.grading.reporting import MAP
from digipath.grading.volume_reporting import PLANES, seen_by
from digipath.report import NOTICE, FusionInput, Shown, VerdictInput, VoteInput, fusion_page
from digipath.result import CASE_FILE, Grade
from digipath.run_record import heading
from digipath.values import Card

PAGE = "case.html"


def write_fusion_report(
    case: Grade, verdict: Mapping[str, Any], cards: Sequence[Card], asked: Sequence[Grade]
) -> None:
    """Write both files.

    Args:
        case: all that its members found. verdict: see `digipath.grading.fusion`. cards: the fusion's, then its
            members'. asked: what each member found, in its own folder.
    """
    folder = made_folder(case.folder)
    notes = list(dict.fromkeys(note for one in asked for note in _notes(one)))
    page = FusionInput(
        case=folder.name,
        verdict=_verdict_input({one.folder.name: one for one in asked}, verdict),
        pictures=[shown for one in asked for shown in _pictures(one)],
        notes=notes,
        run=heading("grade"),
        cards=[card.record for card in cards],
        explained=any(maps for volume in case.volumes for maps in volume.explanations.values()),
    )
    write_atomically(folder / PAGE, fusion_page(page))
    write_json(folder / CASE_FILE, {
        "notice": NOTICE,
        **verdict,
        "weights": cards[0].name,
        "slides": [
            {"name": one.slide_name, "folder": str(one.folder.relative_to(folder)), "notes": one.summary["notes"]}
            for one in case.slides
        ],
        "volumes": [str(one.folder.relative_to(folder)) for one in case.volumes],
        "notes": notes,
    })  # fmt: skip


def _verdict_input(found: Mapping[str, Grade], verdict: Mapping[str, Any]) -> VerdictInput:
    """As the page shows it; found: folder of a member → what it found."""
    votes = []
    for name, member in verdict["members"].items():
        one = found[member["folder"]]
        slides, tiles = len(one.slides), member["tiles"]
        sees = f"H&E: {slides} slide{'s' * (slides != 1)}, {tiles:,} tile{'s' * (tiles != 1)}"
        if one.volumes:
            sees = "; ".join(seen_by(each) for volume in one.volumes for each in volume.verdict["members"].values())
        votes.append(VoteInput(name, sees, list(member["probabilities"].values()), member["weight"]))
    probabilities = verdict["probabilities"]
    return VerdictInput(
        list(probabilities), verdict["grade"], list(probabilities.values()), votes, verdict["missing"]
    )


def _pictures(case: Grade) -> Iterator[Shown]:
    """The map of each slide and the planes of each volume that a member saw, as their own reports drew them."""
    name = case.folder.name
    files = [(slide.folder / MAP, f"{slide.slide_name}, {name}") for slide in case.slides if not slide.of_folder]
    for volume in case.volumes:
        first, *others = volume.verdict["members"]
        whose = f"; maps of {first}, those of {', '.join(others)} are in {name}/report.html" if others else ""
        files.append((volume.folder / PLANES, f"MRI, {name}{whose}"))
    for path, caption in files:
        if path.is_file():
            with Image.open(path) as picture:
                yield Shown(picture.convert("RGB"), caption)


def _notes(case: Grade) -> Iterator[str]:
    for slide in case.slides:
        yield from (f"{slide.slide_name}: {note}" for note in slide.summary["notes"])
    for volume in case.volumes:
        yield from (f"MRI: {note}" for note in volume.summary["notes"])
