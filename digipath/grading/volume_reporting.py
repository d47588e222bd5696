"""Votes on a volume → summary and report with three planes, regions and explanations."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
    titled,
    volume_page,
)
from digipath.result import VERDICT
from digipath.values import Card
from digipath.volume_values import Volume

if TYPE_CHECKING:
    from digipath.grading.volume_case import Vote

EXPLANATIONS, PLANES, TUMOUR = "explanations", "planes.png", "tumour.nii.gz"
OWNED = ("run.json", "summary.json", "report.html", PLANES, EXPLANATIONS)
TITLES = {"grad-cam": "Grad-CAM", "guided-backpropagation": "Guided backpropagation"}
ROIS = {"brain": "whole brain", "tumour": "tumour with its margin", "slice": "tumour on one slice"}
SHOWN = ("t1c", "flair", "t1", "t2")  # order of the pictures; explanations are laid over the first that is there
BRIGHTEST = 99.0  # percentile
NAMES = {"t1": "T1", "t1c": "T1 with contrast agent", "t2": "T2", "flair": "FLAIR"}


def write_volume_report(
    folder: Path, volume: Volume, votes: Sequence[Vote], record: Mapping[str, Any], cards: Sequence[Card]
) -> None:
    """Write summary.json, report.html, and its pictures of the first network as one file.

    Args:
        volume: as it was read. votes: one at least. record: see `digipath.grading.volume_case`.
        cards: of the networks, and of what found the tumour for them.
    """
    write_json(
        folder / "summary.json",
        {"notice": NOTICE, **{name: record[name] for name in VERDICT}, "notes": record["notes"]},
    )
    called = {name: str(member["grade"]) for name, member in record["members"].items()}
    pictures = _pictures(volume, votes, called)
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
    """The modality under the explanations, and these of the first network, one below the other, each with its words."""
    explained = next(iter(pictures.explanations.values()), [])
    stream = io.BytesIO()
    shown = [pictures.modalities[0], *explained]
    stacked([titled(one.picture, one.caption) for one in shown]).save(stream, "PNG")
    return stream.getvalue()


def _pictures(volume: Volume, votes: Sequence[Vote], called: Mapping[str, str]) -> VolumePictures:
    """All through the tumour, if any network looks at one or a person outlined it; called: network → its grade."""
    first, seen = votes[0], next((vote for vote in votes if vote.tumour is not None), votes[0])
    scene = Scene(_through(volume, seen), box=first.region.box, tumour=seen.tumour)
    told = f" Yellow: the region that {first.grader.card.name} looks at."
    if seen.tumour is not None:
        told += f" Red: the tumour, {_who_outlined(seen)}."
    order = [name for name in SHOWN if name in volume.modalities]
    modalities = [Shown(three_planes(volume, name, scene), f"{NAMES[name]}.{told}") for name in order]
    explained = {vote.grader.card.name: _explained(volume, vote, order[0], called) for vote in votes}
    return VolumePictures(modalities, explained)


def _who_outlined(vote: Vote) -> str:
    return "as it was outlined" if vote.found_by is None else f"as {vote.found_by} found it"


def _through(volume: Volume, vote: Vote) -> tuple[int, int, int]:
    """The voxel that all planes show: the middle of the tumour, of what one slice shows of it, or of the brain."""
    if vote.tumour is None:
        return centre_of(volume.brain)
    if (z := vote.region.slice_vox) is None:
        return centre_of(vote.tumour)
    x, y, _ = centre_of(vote.tumour[..., z : z + 1])
    return x, y, z


def _explained(volume: Volume, vote: Vote, under: str, called: Mapping[str, str]) -> list[Shown]:
    """Each method's map over one modality, through the tumour or, without one, where it is strongest."""
    shown, name = [], vote.grader.card.name
    for method, heat in vote.explanations.items():
        at = _through(volume, vote)
        if vote.tumour is None and heat.any():
            at = centre_of(heat >= 0.9 * heat.max())
        picture = three_planes(volume, under, Scene(at, heat=_brightened(heat), box=vote.region.box))
        shown.append(Shown(picture, f"{TITLES[method]} of {name} for {called[name]}, over {NAMES[under]}."))
    return shown


def _brightened(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """For the eye: the highest hundredth of what is not 0 has the strongest colour; a few peaks would hide the rest."""
    inside = heat[heat > 0]
    return np.minimum(heat / np.percentile(inside, BRIGHTEST), 1) if inside.size else heat
