"""One grade from several networks over slides and volumes of a patient: a soft vote of those whose input is there.

Lerousseau et al. 2020, section 2.3: histological and radiological networks vote softly. A member is a card: a network
or an ensemble for tiles, bags of tiles or volumes. Members of other classes than the fusion's need its card to say
which of their classes mean which of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.case import Case
from digipath.errors import BadCard, BadInput, TumourNotFound
from digipath.files import disk_errors
from digipath.grading import volume_networks
from digipath.grading.fusion_report import PAGE, write_fusion_report
from digipath.grading.patient import Patient
from digipath.grading.slide_case import SlideRun, stem
from digipath.grading.volume_case import check_files, finished
from digipath.grading.volume_files import OpenedVolume, identity_of
from digipath.grading.volume_networks import VolumeGraders
from digipath.measure.fusion import fused, leader, mapped
from digipath.result import CASE_FILE, FUSE, FUSED, Grade, check_kind
from digipath.values import Card
from digipath.weights import list_weights, load_card, members

NOT_GIVEN = {True: "slides not given", False: "MRI not given"}
Voice = SlideRun | VolumeGraders | str  # what lets a member speak, or what it lacks


@dataclass(frozen=True)
class FusionMember:
    """A card that votes, its weight, and how its classes are those of the fusion: class → class; None: they are."""

    card: Card
    weight: float
    mapping: Mapping[str, str] | None

    @property
    def of_slides(self) -> bool:
        """True of networks that see slides, False of those that see volumes."""
        return self.card.output != volume_networks.OUTPUT


@dataclass(frozen=True)
class Fusion:
    """A fusion card with its members."""

    card: Card
    members: tuple[FusionMember, ...]


@dataclass(frozen=True)
class Said:
    """What one member says of a patient, or why it says nothing.

    Attributes:
        probabilities: (C,), of its own classes; None: it could not vote, because of `missing`.
        case: the results behind it.
    """

    member: FusionMember
    probabilities: NDArray[np.float64] | None
    missing: str = ""
    case: Grade | None = None


def published(card: Card) -> Fusion:
    """The members of a fusion card.

    Raises:
        UnknownWeights, BadCard: see `digipath.weights`; also members that grade neither slides nor volumes, and
            classes for which the card declares no meaning.
    """
    weights, meaning = card.record.get("vote_weights", {}), card.record.get("mapping", {})
    found = tuple(FusionMember(one, float(weights.get(one.name, 1.0)), meaning.get(one.name)) for one in members(card))
    names = {member.card.name for member in found}
    if unknown := sorted({*weights, *meaning} - names):
        raise BadCard(f"{card.name} declares weights or classes of {unknown[0]}, which is no member: {card.path}")
    for member in found:
        check_meaning(card, member)
    return Fusion(card, found)


def check_meaning(card: Card, member: FusionMember) -> None:
    """Raise BadCard unless a member grades, and each of its classes means one of the fusion's."""
    one = member.card
    if one.output not in ("tile", "bag", volume_networks.OUTPUT):
        raise BadCard(f"{card.name}: member {one.name} grades neither slides nor volumes: {card.path}")
    meaning = member.mapping
    if meaning is None and set(one.classes) != set(card.classes):
        raise BadCard(
            f"{card.name}: member {one.name} has the classes {', '.join(one.classes)}; expected a mapping to "
            f"{', '.join(card.classes)} in the fusion card: {card.path}"
        )
    if meaning is not None and (set(meaning) != set(one.classes) or set(meaning.values()) != set(card.classes)):
        raise BadCard(
            f"{card.name}: expected a mapping of {', '.join(one.classes)} to {', '.join(card.classes)} for {one.name}, "
            f"got {dict(meaning)}: {card.path}"
        )


def grade_fused(fusion: Fusion, patient: Patient, folder: Path) -> Grade:
    """Grade a patient by all members whose input is there, each in a folder of its own; the rest is declared missing.

    Raises:
        BadInput: no member could vote, with the reason of each.
        CaseDiffers: the folder holds a result of another kind, of another fusion or of other files.
        DigipathError: see `digipath.grade`.
    """
    check_kind(folder, FUSED)
    opened = None if patient.files is None else OpenedVolume(patient.files)
    voices = [_voice(member, patient, opened) for member in fusion.members]
    _check_voices(fusion, voices, patient)
    to_grade = [
        voice for member, voice in zip(fusion.members, voices, strict=True)
        if isinstance(voice, VolumeGraders) and not (patient.resume and finished(folder / member.card.name))
    ]  # fmt: skip
    if opened is not None and to_grade:  # before slides are graded, and before the folder is made
        seeing = [one for voice in to_grade for one in voice.members if opened.lacks(one) is None]
        check_files(opened, seeing, patient.of_volumes.slice_vox)
    held = Case(
        folder, FUSE, _identity(fusion, patient), owned=(CASE_FILE, PAGE),
        also=[one.card.name for one in fusion.members], resume=patient.resume,
    )  # fmt: skip
    with disk_errors(folder), held:  # of a finished case too the members are asked: each knows what it has done
        said = [
            _asked(member, voice, patient, folder / member.card.name, opened)
            for member, voice in zip(fusion.members, voices, strict=True)
        ]
        if all(one.probabilities is None for one in said):
            raise _nobody(fusion, [one.missing for one in said])
        asked = [one.case for one in said if one.case is not None]
        slides = tuple(slide for one in asked for slide in one.slides)
        case = Grade(slides, folder, tuple(volume for one in asked for volume in one.volumes))
        cards = [fusion.card, *(one.card for one in fusion.members)]
        write_fusion_report(case, _verdict(fusion, said), cards, asked)
    return case


def _identity(fusion: Fusion, patient: Patient) -> dict[str, Any]:
    """What the vote depends on, but for what each member's own folder knows: its weights and settings."""
    members = {
        one.card.name: {"weight": one.weight, "mapping": one.mapping and dict(one.mapping)} for one in fusion.members
    }
    return {
        "input": {f"slide {stem(path)}": identity_of(path) for path in patient.slides}
        | ({} if patient.files is None else patient.files.identity()),
        "weights": {"name": fusion.card.name, "classes": list(fusion.card.classes), "members": members},
        "digipath": version("digipath"),
    }


def _check_voices(fusion: Fusion, voices: Sequence[Voice], patient: Patient) -> None:
    """Refuse what would fail later, so that no member is asked in vain."""
    if all(isinstance(voice, str) for voice in voices):
        raise _nobody(fusion, [str(voice) for voice in voices])
    of_volumes = [one for voice in voices if isinstance(voice, VolumeGraders) for one in voice.members]
    volume_networks.check_slice(patient.of_volumes.slice_vox, of_volumes)


def _nobody(fusion: Fusion, reasons: Sequence[str]) -> BadInput:
    each = zip(fusion.members, reasons, strict=True)
    told = "; ".join(f"{member.card.name}: {why}" for member, why in each)
    return BadInput(f"expected what at least one member of {fusion.card.name} needs: {told}")


def _voice(member: FusionMember, patient: Patient, opened: OpenedVolume | None) -> Voice:
    """What lets a member speak, or in words what it lacks."""
    name = _name_of(member.card)
    if member.of_slides:
        return patient.slide_run(name) if patient.slides else NOT_GIVEN[True]
    if opened is None:
        return NOT_GIVEN[False]
    graders = volume_networks.published(name, calibrated=patient.settings.calibrated)
    reasons = [opened.lacks(one) for one in graders.members]
    return "; ".join(dict.fromkeys(filter(None, reasons))) if all(reasons) else graders


def _name_of(card: Card) -> str:
    """The name of a card that is known by it, so that results go on where the package lies elsewhere; else its path."""
    known = card.name in list_weights() and load_card(card.name).path == card.path
    return card.name if known else str(card.path)


def _asked(
    member: FusionMember, voice: Voice, patient: Patient, folder: Path, opened: OpenedVolume | None
) -> Said:
    """What a member says, or what it lacks."""
    if isinstance(voice, str):
        return Said(member, None, voice)
    if isinstance(voice, SlideRun):
        return _of_slides(member, voice.case(patient.slides, folder))
    assert opened is not None
    try:
        volume = patient.volume(voice, folder, opened)
    except TumourNotFound as error:
        return Said(member, None, str(error))
    return Said(member, _numbers(volume.verdict["probabilities"]), case=Grade((), folder, (volume,)))


def _of_slides(member: FusionMember, case: Grade) -> Said:
    """By tiles the mean over all tiles of all slides, by bags the mean over the slides."""
    if member.card.output == "bag":
        bags = case.bags
        found = None if bags is None else bags["probabilities"]
    else:
        readout = case.readout()
        found = None if readout.mean_grade is None else dict(readout.probabilities)
    if found is None:
        return Said(member, None, "no tile to grade on the slides", case)
    return Said(member, _numbers(found), case=case)


def _numbers(probabilities: Mapping[str, float]) -> NDArray[np.float64]:
    return np.array(list(probabilities.values()), np.float64)


def _verdict(fusion: Fusion, said: list[Said]) -> dict[str, Any]:
    """As `GradedVolume.verdict`, of all members."""
    classes = fusion.card.classes
    voted = [one for one in said if one.probabilities is not None]
    votes = {one.member.card.name: _in_terms_of(classes, one) for one in voted}
    vote = fused(votes, {one.member.card.name: one.member.weight for one in voted})
    return {
        "grade": classes[leader(vote)],
        "probabilities": dict(zip(classes, vote.tolist(), strict=True)),
        "members": {one.member.card.name: _member(one, classes, votes[one.member.card.name]) for one in voted},
        "missing": {one.member.card.name: one.missing for one in said if one.probabilities is None} | _within(said),
    }


def _within(said: list[Said]) -> dict[str, str]:
    """What members that are ensembles had to leave out themselves."""
    volumes = [volume for one in said if one.case for volume in one.case.volumes]
    return {name: why for volume in volumes for name, why in volume.verdict["missing"].items()}


def _member(said: Said, classes: tuple[str, ...], vote: NDArray[np.float64]) -> dict[str, Any]:
    """A member's part of the verdict; `probabilities` in the fusion's classes, `own` in its own."""
    assert said.probabilities is not None
    assert said.case is not None
    return {
        "grade": classes[leader(vote)],
        "probabilities": dict(zip(classes, vote.tolist(), strict=True)),
        "own": dict(zip(said.member.card.classes, said.probabilities.tolist(), strict=True)),
        "weight": said.member.weight,
        "sees": "volumes" if said.case.volumes else "slides",
        "tiles": sum(slide.run["tiles"]["graded"] for slide in said.case.slides),
        "complete": said.case.complete,
        "folder": said.member.card.name,
    }


def _in_terms_of(classes: tuple[str, ...], said: Said) -> NDArray[np.float64]:
    """A member's probabilities of the fusion's classes, in their order."""
    assert said.probabilities is not None
    own = said.member.card.classes
    return mapped(said.probabilities, own, said.member.mapping or {name: name for name in own}, classes)
