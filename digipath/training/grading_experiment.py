"""`train` of tile classifiers: manifest → split → tiles → networks → scores on held-out tiles → cards, in one folder.

    tiles.csv, tiles.sha256    the tiles that were drawn, with their part and class; drawn anew if somebody changed it
    runs/<run>/                one network each: checkpoint, history, curves (see `digipath.training.fit`)
    scores/<grader>.npz        what each grader says of the test tiles, from which all scores follow
    weights/<name>.json        cards with their .weights.h5; `digipath grade --weights` takes them
    results.json, scores.csv, summary.md
    evaluation.html            confusion matrices, ROC, histograms of the grader that is shipped, and all comparisons

Finished runs are never repeated: the same command goes on where it was stopped. No pixel of a test tile is read
before all training is over, but to see that a stain can be fitted where slides are brought to one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from digipath.training.folder import TrainingResult, in_folder
from digipath.training.grading_config import TileConfig
from digipath.training.grading_outcome import write_outcome
from digipath.training.grading_pages import write_page
from digipath.training.grading_plan import TilePlan, prepare_tiles
from digipath.training.grading_results import comparisons, scored
from digipath.training.grading_tiles import kept_or_drawn
from digipath.values import Cancel, ProgressCallback

TABLE, DIGEST, PAGE = "tiles.csv", "tiles.sha256", "evaluation.html"


def train_tiles(
    config: TileConfig | str | Path,
    *,
    out: str | Path | None = None,
    seed: int | None = None,
    resume: bool = True,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> TrainingResult:
    """Train the tile classifiers of a configuration, score them on tiles they have not seen, and write their cards.

    Args and Raises: as `digipath.train`, which comes here for `task = "tiles"`.
    """
    plan = prepare_tiles(config, seed=seed)

    def train(folder: Path) -> None:
        _train(plan, folder, progress, cancel)

    return in_folder(plan, out, train, own=(TABLE, DIGEST, PAGE), resume=resume)


def _train(plan: TilePlan, folder: Path, progress: ProgressCallback | None, cancel: Cancel | None) -> None:
    from digipath.training.grading_runs import Bench, answers_of, train_grader

    began = time.perf_counter()
    for name in ("runs", "scores", "weights"):
        (folder / name).mkdir(exist_ok=True)
    drawn = kept_or_drawn(folder / TABLE, plan, progress=progress, cancel=cancel)
    bench = Bench(plan, drawn, folder / "weights", progress, cancel)
    records: dict[str, dict[str, Any]] = {}
    for run in plan.runs:
        records |= train_grader(run, bench, folder / "runs")
    answers = {run.name: answers_of(run, bench, folder / "scores" / f"{run.name}.npz") for run in plan.runs}
    found = {name: scored(one, plan.config.data.classes) for name, one in answers.items()}
    compared = comparisons(plan.runs, found)
    note = f"Test tiles of {plan.manifest.path.name}, which no training saw; by the grader {plan.shipped.name}."
    write_page(plan, folder / PAGE, answers[plan.shipped.name], found, compared, notes=[note])
    write_outcome(plan, folder, drawn, records, found, compared=compared, seconds=time.perf_counter() - began)
