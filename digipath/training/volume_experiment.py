"""`train` of networks that grade MRI: manifest → split → regions → networks → scores on held-out cases → cards.

    regions/                   what networks see of each case, made once; may be removed when all is done
    runs/<network>/            one network each: checkpoint, history, curves (see `digipath.training.fit`)
    scores/<network>.npz       what each network says of its test cases, from which all scores follow
    weights/<name>.json        cards with their .weights.h5; `digipath grade --weights` takes them
    results.json, scores.csv, summary.md
    evaluation.html            confusion matrices, ROC, histograms of the grader that is shipped, and all comparisons

Finished runs are never repeated: the same command goes on where it was stopped.
"""

from __future__ import annotations

import time
from pathlib import Path

from digipath.files import made_folder
from digipath.training.folder import TrainingResult, in_folder
from digipath.training.grading_pages import write_page
from digipath.training.grading_results import CASE
from digipath.training.volume_config import VolumeConfig
from digipath.training.volume_outcome import VolumeScores, write_outcome
from digipath.training.volume_plan import VolumePlan, prepare_volumes
from digipath.values import Cancel, ProgressCallback

PAGE = "evaluation.html"


def train_volumes(
    config: VolumeConfig | str | Path,
    *,
    out: str | Path | None = None,
    seed: int | None = None,
    resume: bool = True,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> TrainingResult:
    """Train the networks of a configuration, score them on cases that they have not seen, and write their cards.

    Args and Raises: as `digipath.train`, which comes here for `task = "volumes"`.
    """
    plan = prepare_volumes(config, seed=seed)

    def train(folder: Path) -> None:
        _train(plan, folder, progress, cancel)

    return in_folder(plan, out, train, own=(PAGE,), resume=resume)


def _train(plan: VolumePlan, folder: Path, progress: ProgressCallback | None, cancel: Cancel | None) -> None:
    from digipath.training.volume_runs import Bench, answers_of, train_network

    began = time.perf_counter()
    for name in ("runs", "scores", "weights"):
        made_folder(folder / name)
    bench = Bench(plan, folder, progress=progress, cancel=cancel)
    records = {run.name: train_network(run, bench) for run in plan.networks}
    found = VolumeScores.of(plan, {run.name: answers_of(run, bench) for run in plan.networks})
    note = f"Cases of {plan.manifest.path.name} that the networks asked were not trained on; {plan.shipped.name}."
    answers = found.answers[plan.shipped.name]
    write_page(plan, folder / PAGE, answers, found.runs, found.compared, notes=[note], level=CASE)
    write_outcome(plan, folder, records, found, seconds=time.perf_counter() - began)
