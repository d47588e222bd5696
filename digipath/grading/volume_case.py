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
from digipath.errors import BadInput, BadVolume, Cancelled
from digipath.explanations import METHODS, explain
from digipath.files import disk_errors, made_folder, write_json
from digipath.grading import volume_networks
from digipath.grading.slide_case import limits
from digipath.grading.volume_files import OpenedVolume
from digipath.grading.volume_networks import VolumeGrader, VolumeGraders
from digipath.grading.volume_reporting import EXPLANATIONS, PLANES, write_volume_report
from digipath.measure.fusion import fused
from digipath.measure.tile_grades import leading
from digipath.result import GradedVolume
from digipath.run_record import heading
from digipath.values import Cancel, Progress, ProgressCallback
from digipath.volume import write_nifti
from digipath.volume_rois import Region, on_grid

OWNED = ("run.json", "summary.json", "report.html", PLANES, EXPLANATIONS)


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
    """

    grader: VolumeGrader
    region: Region
    probabilities: NDArray[np.float64]
    explanations: Mapping[str, NDArray[np.float32]]


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
    be graded leave no folder.

    Raises:
        BadVolume: files that cannot be graded. BadInput: no network can vote, with the reason of each.
        Cancelled: between two steps; the same call starts over, which takes about a minute.
    """
    grading = _Grading(opened, graders, settings, folder, progress, cancel)
    present, missing = grading.who_can_vote()
    if not (resume and finished(folder)):
        _ = opened.volume  # is read before the folder is made
    identity = {
        "input": opened.files.identity(),
        "weights": {**graders.identity, "segmenters": opened.segmenters(present)},
        "settings": asdict(settings),
        "digipath": version("digipath"),
    }
    with disk_errors(folder), Case(folder, "grade", identity, owned=OWNED, resume=resume) as case:
        if not case.done:
            made_folder(folder / EXPLANATIONS)
            grading.run(present, missing)
    return GradedVolume(folder)


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

    def run(self, present: Sequence[VolumeGrader], missing: dict[str, str]) -> None:
        """Everything from the volumes to the report."""
        volume, votes = self.opened.volume, self._votes(present, missing)
        self._tell("writing the report")
        record = self._record(votes, missing, time.perf_counter() - self._began)
        for vote in votes:
            for method, values in vote.explanations.items():
                write_nifti(self.folder / EXPLANATIONS / file_of(vote.grader, method), values, volume.affine_mm)
        write_volume_report(self.folder, volume, votes, record, self.graders.cards)
        write_json(self.folder / "run.json", record)

    def _votes(self, present: Sequence[VolumeGrader], missing: dict[str, str]) -> list[Vote]:
        """Of all whose tumour is found; the others join the `missing`. Raises BadVolume where none is left."""
        votes = []
        for grader in present:
            try:
                votes.append(self._vote(grader))
            except BadVolume as error:
                if not self.opened.sought(grader):
                    raise
                missing[grader.card.name] = str(error)
        if not votes:
            raise BadVolume("; ".join(dict.fromkeys(missing.values())))
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
            heat = explain(model, pixels, method=method, target=_called(probabilities))
            explanations[method] = on_grid(heat, region, self.opened.volume.shape_vox)
        return Vote(grader, region, probabilities, explanations)

    def _record(self, votes: Sequence[Vote], missing: Mapping[str, str], seconds: float) -> dict[str, Any]:
        """The run record, `run.json`."""
        classes, files, volume = self.graders.classes, self.opened.files, self.opened.volume
        found = [one.grader.segmenter for one in votes if self.opened.sought(one.grader)]
        notes = [f"The tumour was found by {name}, not outlined by a person." for name in dict.fromkeys(found)]
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
            "weights": dict(self.graders.identity),
            "classes": list(classes),
            "settings": asdict(self.settings),
            "grade": classes[_called(vote)],
            "probabilities": dict(zip(classes, vote.tolist(), strict=True)),
            "members": {one.grader.card.name: _member(one, classes) for one in votes},
            "missing": dict(missing),
            "notes": [*volume.notes, *notes, *limits(self.graders.cards)],
            "timings_s": {"all": round(seconds, 3)},
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


def _called(probabilities: NDArray[np.float64]) -> int:
    """The most probable class, of equal ones the most malignant."""
    grade = leading(probabilities.tolist())
    assert grade is not None
    return grade


def _member(vote: Vote, classes: Sequence[str]) -> dict[str, Any]:
    rule, region = vote.grader.rule, vote.region
    return {
        "grade": classes[_called(vote.probabilities)],
        "probabilities": dict(zip(classes, vote.probabilities.tolist(), strict=True)),
        "weight": vote.grader.weight,
        "modalities": list(rule.order),
        "roi": rule.roi,
        "box_vox": [list(region.box.start_vox), list(region.box.stop_vox)],
        "slice_vox": region.slice_vox,
        "explanations": {method: f"{EXPLANATIONS}/{file_of(vote.grader, method)}" for method in vote.explanations},
    }
