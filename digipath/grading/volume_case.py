"""The order of the data of a grade from MRI: files → volume → regions → networks → vote → explanations → report."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.case import Case, read_state
from digipath.errors import BadInput, Cancelled, TumourNotFound
from digipath.explanations import METHODS, explain
from digipath.files import disk_errors, made_folder, write_json
from digipath.grading import volume_networks
from digipath.grading.slide_case import limits
from digipath.grading.volume_files import OpenedVolume
from digipath.grading.volume_networks import VolumeGrader, VolumeGraders
from digipath.grading.volume_reporting import EXPLANATIONS, OWNED, TUMOUR, write_volume_report
from digipath.measure.fusion import fused, leader
from digipath.result import GradedVolume
from digipath.run_record import heading
from digipath.runtime import choose
from digipath.values import Cancel, Card, Progress, ProgressCallback
from digipath.volume import write_nifti
from digipath.volume.brain import check_tumour
from digipath.volume_rois import SLICE, Region, check_plane, on_grid


@dataclass(frozen=True)
class VolumeSettings:
    """What grades of volumes depend on besides files and weights.

    Attributes:
        slice_vox: the axial slice that networks of slices look at; None: that of the largest tumour area.
        explanations: whether to explain what each network looked at, by both methods.
    """

    slice_vox: int | None = None
    explanations: bool = True


@dataclass(frozen=True)
class Vote:
    """What one network says.

    Attributes:
        grader: the network. region: what it saw. probabilities: (C,), of the classes.
        explanations: method → (X, Y, Z) float32 in [0, 1] on the volume's grid, for the class that it calls.
        tumour: (X, Y, Z) bool, outlined by a person, or found for this network by another; None: neither.
        found_by: name of the card that found the tumour; None: nobody had to.
    """

    grader: VolumeGrader
    region: Region
    probabilities: NDArray[np.float64]
    explanations: Mapping[str, NDArray[np.float32]]
    tumour: NDArray[np.bool_] | None = None
    found_by: str | None = None


def grade_volume(
    opened: OpenedVolume,
    graders: VolumeGraders,
    folder: Path,
    settings: VolumeSettings,
    *,
    resume: bool = True,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> GradedVolume:
    """Grade the MRI of a patient into its folder; a finished grade is left as it is.

    A network whose modality or tumour outline is missing does not vote, which the result declares. Files that cannot
    be graded leave no folder; what shows later, such as a tumour that is not found, leaves none that is in the way.

    Raises:
        BadVolume: files that cannot be graded. BadInput: no network can vote, with the reason of each.
        TumourNotFound: by any of those that could.
        Cancelled: between two steps; the same call starts over, seconds to minutes of work.
    """
    grading = _Grading(opened, graders, settings, folder, progress, cancel)
    present, missing = grading.who_can_vote()
    if not (resume and finished(folder)):
        check_files(opened, present, settings.slice_vox)  # before the folder is made
    weights = {**graders.identity, "segmenters": opened.segmenters(present)}
    if weights["segmenters"]:
        weights["segmenters_ran_on"] = asdict(choose())  # in bf16 a tumour's border may lie a voxel further
    identity = {
        "input": opened.files.identity(),
        "weights": weights,
        "settings": asdict(settings),
        "digipath": version("digipath"),
    }
    also = [TUMOUR] * any(opened.sought(one) for one in present)
    given = (*opened.files.modalities.values(), *opened.files.masks.values())
    kept = [path.name for path in given if path.resolve().parent == folder.resolve()]
    held = Case(folder, "grade", identity, owned=OWNED, also=also, resume=resume, kept=kept)
    with disk_errors(folder), held as case:
        if not case.done:
            grading.run(present, missing, weights)
    return GradedVolume(folder)


def check_files(opened: OpenedVolume, graders: Sequence[VolumeGrader], slice_vox: int | None) -> None:
    """Raise BadVolume for files that cannot be graded and a slice that cannot be looked at, so far as files tell."""
    volume = opened.volume
    if slice_vox is not None and any(one.rule.roi == SLICE for one in graders):
        check_plane(volume, slice_vox)


def finished(folder: Path) -> bool:
    """Whether a folder holds a grade that is done. Raises BadInput: a damaged state."""
    return (read_state(folder) or {}).get("state") == "done"


@dataclass
class _Grading:
    """One volume on its way through the networks."""

    opened: OpenedVolume
    graders: VolumeGraders
    settings: VolumeSettings
    folder: Path
    progress: ProgressCallback | None
    cancel: Cancel | None
    _step: int = -1
    _doing: str = ""
    _began: float = field(default_factory=time.perf_counter)

    def run(self, present: Sequence[VolumeGrader], missing: dict[str, str], weights: Mapping[str, Any]) -> None:
        """Everything from the volumes to the report."""
        volume, votes = self.opened.volume, self._votes(present, missing)
        self._tell("writing the report")
        cards = (*self.graders.cards, *self.opened.finders(present))
        record = self._record(votes, missing, weights, cards) | {
            "timings_s": {"all": round(time.perf_counter() - self._began, 3)}
        }
        made_folder(self.folder / EXPLANATIONS)
        for vote in votes:
            for method, values in vote.explanations.items():
                write_nifti(self.folder / EXPLANATIONS / file_of(vote.grader, method), values, volume.affine_mm)
        for file, mask in _found(votes).values():
            write_nifti(self.folder / file, mask, volume.affine_mm)
        write_volume_report(self.folder, volume, votes, record, cards)
        write_json(self.folder / "run.json", record)

    def _votes(self, present: Sequence[VolumeGrader], missing: dict[str, str]) -> list[Vote]:
        """Of all whose tumour is found; the others join the `missing`. Raises TumourNotFound where none is left."""
        votes = []
        for grader in present:
            try:
                votes.append(self._vote(grader))
            except TumourNotFound as error:
                missing[grader.card.name] = str(error)
        if not votes:
            raise TumourNotFound("; ".join(dict.fromkeys(missing.values())))
        return votes

    def who_can_vote(self) -> tuple[list[VolumeGrader], dict[str, str]]:
        """The networks whose input is there, and for the others what is missing."""
        reasons = {one.card.name: self.opened.lacks(one) for one in self.graders.members}
        missing = {name: why for name, why in reasons.items() if why is not None}
        if len(missing) == len(reasons):
            told = "; ".join(f"{name}: {why}" for name, why in missing.items())
            given = ", ".join(self.opened.files.modalities)
            raise BadInput(f"expected what at least one network needs, received {given}: {told}")
        return [one for one in self.graders.members if one.card.name not in missing], missing

    def _vote(self, grader: VolumeGrader) -> Vote:
        name = grader.card.name
        region = self.opened.region(
            grader, slice_vox=self.settings.slice_vox, told=self._tell, progress=self._within, cancel=self.cancel
        )
        self._tell(f"grading with {name}")
        model, pixels = volume_networks.network(grader, self.graders), volume_networks.network_input(grader, region)
        probabilities = volume_networks.answer(model, pixels)
        explanations = {}
        for method in METHODS if self.settings.explanations else ():
            self._tell(f"explaining {name} by {method}")
            heat = explain(model, pixels, method=method, target=leader(probabilities))
            explanations[method] = on_grid(heat, region, self.opened.volume.shape_vox)
        found_by = grader.segmenter if self.opened.sought(grader) else None
        return Vote(grader, region, probabilities, explanations, self.opened.outline(grader), found_by)

    def _record(
        self, votes: Sequence[Vote], missing: Mapping[str, str], weights: Mapping[str, Any], cards: Sequence[Card]
    ) -> dict[str, Any]:
        """The run record, `run.json`, but the time that it took."""
        classes, files, volume = self.graders.classes, self.opened.files, self.opened.volume
        notes = [
            f"The tumour was found by {name}, not outlined by a person; look at it in {file}."
            for name, (file, _) in _found(votes).items()
        ]
        for name, (_, mask) in _found(votes).items():
            notes += check_tumour(mask, volume.brain, name)
        vote = fused(
            {one.grader.card.name: one.probabilities for one in votes},
            {one.grader.card.name: one.grader.weight for one in votes},
        )
        return {
            **heading("grade"),
            "volume": {
                "name": files.name,
                "files": {name: str(path.resolve()) for name, path in files.modalities.items()},
                "masks": {name: str(path.resolve()) for name, path in files.masks.items()},
                "shape_vox": list(volume.shape_vox),
                "spacing_mm": [round(length, 6) for length in volume.spacing_mm],
                "affine_mm": volume.affine_mm.tolist(),
            },
            "weights": dict(weights),
            "classes": list(classes),
            "settings": asdict(self.settings),
            "grade": classes[leader(vote)],
            "probabilities": dict(zip(classes, vote.tolist(), strict=True)),
            "members": {one.grader.card.name: _member(one, classes) for one in votes},
            "missing": dict(missing),
            "notes": [*volume.notes, *notes, *limits(cards)],
        }

    def _tell(self, doing: str) -> None:
        if self.cancel is not None and self.cancel():
            raise Cancelled(f"stopped before {doing}; run again to start over")
        self._step, self._doing = self._step + 1, doing
        self._report(doing)

    def _within(self, part: Progress) -> None:
        """How far a long step is."""
        self._report(f"{self._doing}, {part.done} of {part.total} patches")

    def _report(self, message: str) -> None:
        if self.progress is not None:
            each = 1 + len(METHODS) * self.settings.explanations
            self.progress(Progress(self._step, 3 + each * len(self.graders.members), math.nan, message))


def file_of(grader: VolumeGrader, method: str) -> str:
    """The file of an explanation."""
    return f"{grader.card.name}-{method}.nii.gz"


def _found(votes: Sequence[Vote]) -> dict[str, tuple[str, NDArray[np.bool_]]]:
    """Who found a tumour → its file in the folder, and the mask; the first has the plain name."""
    found: dict[str, tuple[str, NDArray[np.bool_]]] = {}
    for vote in votes:
        if vote.found_by is not None and vote.tumour is not None:
            file = f"{EXPLANATIONS}/{vote.found_by}.nii.gz" if found else TUMOUR
            found.setdefault(vote.found_by, (file, vote.tumour))
    return found


def _member(vote: Vote, classes: Sequence[str]) -> dict[str, Any]:
    rule, region = vote.grader.rule, vote.region
    return {
        "grade": classes[leader(vote.probabilities)],
        "probabilities": dict(zip(classes, vote.probabilities.tolist(), strict=True)),
        "weight": vote.grader.weight,
        "modalities": list(rule.order),
        "roi": rule.roi,
        "box_vox": [list(region.box.start_vox), list(region.box.stop_vox)],
        "slice_vox": region.slice_vox,
        "tumour_found_by": vote.found_by,
        "explanations": {method: f"{EXPLANATIONS}/{file_of(vote.grader, method)}" for method in vote.explanations},
    }
