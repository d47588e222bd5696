"""Score graders of MRI on cases of known grade: the cases of a manifest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from digipath.errors import BadInput, BadPredictor, BadVolume, Cancelled, NotFound, UnknownWeights
from digipath.files import made_folder
from digipath.grading import volume_networks
from digipath.grading.volume_files import OpenedVolume, VolumeFiles
from digipath.grading.volume_networks import VolumeGraders
from digipath.grading_evaluation import write_evaluation
from digipath.measure.fusion import fused
from digipath.training.cases import of_fold
from digipath.training.grading_results import CASE, Answers, scored
from digipath.training.volume_manifest import VolumeCase, read_volume_manifest
from digipath.values import Cancel, Progress, ProgressCallback
from digipath.volume_rois import BRAIN
from digipath.weights import segmenter


def evaluate_volumes(
    weights: str,
    *,
    manifest: str | Path | None,
    fold: str | None = None,
    calibrated: bool = True,
    out: str | Path | None = None,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Confusion matrix, accuracies, kappa, per-class scores and AUROC of graders of MRI, with intervals by patient.

    A case is called as `digipath.grade` calls it, by the soft vote of the networks; all of them must be able to vote.
    Each case counts by itself, those of one patient too, which intervals draw together.

    Args:
        weights: a card whose output is "volume".
        manifest: cases (see `digipath.training.volume_manifest`); fold: only those of this fold.
        out: a folder for scores.json and evaluation.html.

    Returns:
        As `digipath.grading_evaluation.evaluate_graders`, with the level "case" alone; `unreadable`: case → why it
        could not be graded, and is not scored.

    Raises:
        BadInput: no manifest, a wrong one, or no case of the fold. BadVolume: no case can be graded. Cancelled.
        UnknownWeights, BadCard, WeightsCorrupt: as `digipath.load`.
    """
    if manifest is None:
        raise BadInput(f"{weights} grades MRI; expected a manifest of cases to evaluate it on")
    graders = volume_networks.published(weights, calibrated=calibrated)
    found = read_volume_manifest(manifest, classes=graders.classes, **_columns(graders))
    cases = of_fold(found.cases, fold, found.path)
    asker = _Asker(graders)
    answers = asker.answers(cases, progress=progress, cancel=cancel)
    patients, of_it = len({case.patient for case in cases}), "" if fold is None else f", fold {fold}"
    record = {
        "classes": list(graders.classes),
        "cases": len(cases),
        "data": f"MRI of {len(cases)} cases of {patients} patients{of_it}; {found.path.name}, sha256 {found.sha256}",
        "left_out": [],
        "unreadable": asker.unreadable,
        "notes": asker.notes,
        "scores": scored(answers, graders.classes, levels=(CASE,)),
    }
    if out is not None:
        write_evaluation(made_folder(Path(out)), record, answers, graders, title=weights, settings={})
    return record


def _columns(graders: VolumeGraders) -> dict[str, Any]:
    """What is read of a manifest: outlines must be there for networks that nothing finds the tumour for."""
    order = volume_networks.modalities_of(graders.members)
    looking = [one for one in graders.members if one.rule.roi != BRAIN]
    finders = [card for one in looking if (card := segmenter(one.card)) is not None]
    sought = dict.fromkeys(name for card in finders for name in card.record["input"]["order"] if name not in order)
    tumour = len(finders) < len(looking) or (None if finders else False)
    return {"order": order, "also": tuple(sought), "tumour": tumour}


@dataclass
class _Asker:
    """Asks the networks, loaded once, about one case after the other."""

    graders: VolumeGraders
    unreadable: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._models = [volume_networks.network(one, self.graders) for one in self.graders.members]
        self._weights = {one.card.name: one.weight for one in self.graders.members}

    def answers(
        self, cases: list[VolumeCase], *, progress: ProgressCallback | None, cancel: Cancel | None
    ) -> Answers:
        """One row for each case that can be graded; why others cannot becomes `unreadable`.

        Raises BadVolume: none can.
        """
        rows = []
        for number, case in enumerate(cases):
            if progress is not None:
                progress(Progress(number, len(cases), math.nan, case.name))
            if cancel is not None and cancel():
                raise Cancelled(f"stopped after {number} of {len(cases)} cases; nothing was written")
            try:
                rows.append(self._answer(case))
            except UnknownWeights:  # of what finds the tumour: the same for every case
                raise
            except (BadVolume, BadPredictor, NotFound) as error:
                self.unreadable[case.name] = str(error)
        if not rows:
            first, why = next(iter(self.unreadable.items()))
            raise BadVolume(f"none of {len(cases)} cases can be graded; {first}: {why}")
        return Answers.joined(rows)

    def _answer(self, case: VolumeCase) -> Answers:
        """One row; what was done to the files of the case goes into `notes`."""
        opened = OpenedVolume(VolumeFiles(dict(case.modalities), case.brain, case.tumour))
        said = {}
        for one, model in zip(self.graders.members, self._models, strict=True):
            pixels = volume_networks.network_input(one, opened.region(one))
            said[one.card.name] = volume_networks.answer(model, pixels)
        if opened.volume.notes:
            self.notes[case.name] = list(opened.volume.notes)
        label = self.graders.classes.index(str(case.label))
        return Answers.of_case(case.name, case.patient, label, fused(said, self._weights))
