"""Score graders of MRI on cases of known grade: the cases of a manifest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput, BadVolume, Cancelled
from digipath.files import made_folder
from digipath.grading import volume_networks
from digipath.grading.volume_files import OpenedVolume, VolumeFiles
from digipath.grading.volume_networks import VolumeGrader, VolumeGraders
from digipath.grading_evaluation import write_evaluation
from digipath.measure.fusion import fused
from digipath.measure.tile_grades import leading_of_each
from digipath.training.cases import plain_fold
from digipath.training.grading_results import CASE, Answers, scored
from digipath.training.volume_manifest import VolumeCase, read_volume_manifest
from digipath.values import Cancel, Progress, ProgressCallback
from digipath.volume_rois import BRAIN


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
    Cases of one patient count as one: the mean of what is said of each, and the highest grade.

    Args:
        weights: a card whose output is "volume".
        manifest: cases (see `digipath.training.volume_manifest`); fold: only those of this fold.
        out: a folder for scores.json and evaluation.html.

    Returns:
        As `digipath.grading_evaluation.evaluate_graders`, with the level "case" alone.

    Raises:
        BadInput: no manifest, a wrong one, or no case of the fold; what `digipath.grade` raises.
    """
    if manifest is None:
        raise BadInput(f"{weights} grades MRI; expected a manifest of cases to evaluate it on")
    graders = volume_networks.published(weights, calibrated=calibrated)
    needs_tumour = any(one.rule.roi != BRAIN and one.segmenter is None for one in graders.members)
    order = volume_networks.modalities_of(graders.members)
    found = read_volume_manifest(manifest, classes=graders.classes, order=order, tumour=needs_tumour)
    cases = [case for case in found.cases if fold is None or case.fold == plain_fold(fold)]
    if not cases:
        folds = ", ".join(sorted({case.fold or "none" for case in found.cases}))
        raise BadInput(f"no case has the fold {fold!r}; the manifest has {folds}: {found.path}")
    notes: dict[str, list[str]] = {}
    answers = _answers(graders, cases, notes, progress=progress, cancel=cancel)
    patients, of_fold = len({case.patient for case in cases}), "" if fold is None else f", fold {fold}"
    record = {
        "classes": list(graders.classes),
        "cases": len(cases),
        "data": f"MRI of {len(cases)} cases of {patients} patients{of_fold}; {found.path.name}, sha256 {found.sha256}",
        "left_out": [],
        "unreadable": {},
        "notes": notes,
        "scores": scored(answers, graders.classes, levels=(CASE,)),
    }
    if out is not None:
        write_evaluation(made_folder(Path(out)), record, answers, graders, title=weights, settings={})
    return record


def _answers(
    graders: VolumeGraders,
    cases: list[VolumeCase],
    notes: dict[str, list[str]],
    *,
    progress: ProgressCallback | None,
    cancel: Cancel | None,
) -> Answers:
    """One row for each case; what was done to its files goes into `notes`."""
    models = {one.card.name: volume_networks.network(one, graders) for one in graders.members}
    weights = {one.card.name: one.weight for one in graders.members}
    rows = []
    for number, case in enumerate(cases):
        if progress is not None:
            progress(Progress(number, len(cases), math.nan, case.name))
        if cancel is not None and cancel():
            raise Cancelled(f"stopped after {number} of {len(cases)} cases; nothing was written")
        opened = OpenedVolume(VolumeFiles(dict(case.modalities), case.brain, case.tumour))
        said = {}
        for one in graders.members:
            said[one.card.name] = volume_networks.answer(models[one.card.name], _pixels(one, opened, case.name))
        vote = fused(said, weights)[None].astype(np.float32)
        label = graders.classes.index(str(case.label))
        rows.append(Answers.of_slide(
            np.array([label]), vote, leading_of_each(vote), slide=case.name, case=case.patient, label=label
        ))  # fmt: skip
        if opened.volume.notes:
            notes[case.name] = list(opened.volume.notes)
    return Answers.joined(rows)


def _pixels(grader: VolumeGrader, opened: OpenedVolume, name: str) -> NDArray[np.float32]:
    """What a network sees of a case; what is wrong with it is told with the case's name."""
    try:
        return volume_networks.network_input(grader, opened.region(grader))
    except BadVolume as error:
        raise BadVolume(f"case {name}: {error}") from error
