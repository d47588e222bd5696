"""Votes on a volume → summary and report with three planes, regions and explanations."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from digipath.files import write_atomically, write_json
from digipath.report import (
    NOTICE,
    Scene,
    Shown,
    VerdictInput,
    VolumeGradeInput,
    VolumePictures,
    VoteInput,
    centre_of,
    stacked,
    three_planes,
    volume_page,
)
from digipath.result import VERDICT
from digipath.values import Card
from digipath.volume_rois import SLICE
from digipath.volume_values import Volume

if TYPE_CHECKING:
    from digipath.grading.volume_case import Vote

EXPLANATIONS, PLANES = "explanations", "planes.png"
TITLES = {"grad-cam": "Grad-CAM", "guided-backpropagation": "Guided backpropagation"}
ROIS = {"brain": "whole brain", "tumour": "tumour with its margin", "slice": "tumour on one slice"}
SHOWN = ("t1c", "flair", "t1", "t2")  # order of the pictures; explanations are laid over the first that is there
BRIGHTEST = 99.0  # percentile
NAMES = {"t1": "T1", "t1c": "T1 with contrast agent", "t2": "T2", "flair": "FLAIR"}


def write_volume_report(
    folder: Path, volume: Volume, votes: Sequence[Vote], record: Mapping[str, Any], cards: Sequence[Card]
) -> None:
    """Write summary.json, report.html, and its pictures of the first network as one file."""
    write_json(
        folder / "summary.json",
        {"notice": NOTICE, **{name: record[name] for name in VERDICT}, "notes": record["notes"]},
    )
    pictures = _pictures(volume, votes)
    write_atomically(folder / PLANES, _png(pictures))
    page = VolumeGradeInput(
        case=str(record["volume"]["name"]),
        verdict=verdict_input(record),
        pictures=pictures,
        notes=record["notes"],
        run=record,
        cards=[card.record for card in cards],
    )
    write_atomically(folder / "report.html", volume_page(page))


def verdict_input(record: Mapping[str, Any]) -> VerdictInput:
    """What a page says of a vote among networks for volumes."""
    return VerdictInput(
        classes=list(record["probabilities"]),
        grade=record["grade"],
        probabilities=list(record["probabilities"].values()),
        votes=[
            VoteInput(name, seen_by(member), list(member["probabilities"].values()), member["weight"])
            for name, member in record["members"].items()
        ],
        missing=record["missing"],
    )


def seen_by(member: Mapping[str, Any]) -> str:
    """What a network for volumes looked at, in words."""
    at = "" if member["slice_vox"] is None else f" {member['slice_vox']}"
    return f"MRI: {', '.join(NAMES[name] for name in member['modalities'])}; {ROIS[member['roi']]}{at}"


def _png(pictures: VolumePictures) -> bytes:
    """The modality under the explanations, and these of the first network, one below the other."""
    explained = next(iter(pictures.explanations.values()), [])
    stream = io.BytesIO()
    stacked([pictures.modalities[0].picture, *(one.picture for one in explained)]).save(stream, "PNG")
    return stream.getvalue()


def _pictures(volume: Volume, votes: Sequence[Vote]) -> VolumePictures:
    at = centre_of(volume.brain if volume.tumour is None else volume.tumour)
    boxed = next((vote.region.box for vote in votes), None)
    scene = Scene(at, box=boxed, tumour=volume.tumour)
    marks = "" if volume.tumour is None else " Red: the outline of the tumour."
    frame = "" if boxed is None else " Yellow: the region that the first network looks at."
    order = [name for name in SHOWN if name in volume.modalities]
    modalities = [Shown(three_planes(volume, name, scene), f"{NAMES[name]}.{frame}{marks}") for name in order]
    under = order[0]
    return VolumePictures(modalities, {vote.grader.card.name: _explained(volume, vote, under, at) for vote in votes})


def _explained(volume: Volume, vote: Vote, under: str, at: tuple[int, int, int]) -> list[Shown]:
    """Each method's map over one modality, through the tumour or, without one, where it is strongest."""
    shown = []
    for method, heat in vote.explanations.items():
        place = at
        if volume.tumour is None and heat.any():
            place = centre_of(heat >= 0.9 * heat.max())
        if vote.grader.rule.roi == SLICE and vote.region.slice_vox is not None:
            place = (place[0], place[1], vote.region.slice_vox)
        picture: Image.Image = three_planes(volume, under, Scene(place, heat=_brightened(heat), box=vote.region.box))
        shown.append(Shown(picture, f"{TITLES[method]}, over {NAMES[under]}."))
    return shown


def _brightened(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """For the eye: the highest hundredth of what is not 0 has the strongest colour; a few peaks would hide the rest."""
    inside = heat[heat > 0]
    return np.minimum(heat / np.percentile(inside, BRIGHTEST), 1) if inside.size else heat
