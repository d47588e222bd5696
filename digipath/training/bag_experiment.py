"""`train` by bags: manifest → split → tiles → a network for each magnification → choice → scores → cards, in a folder.

    tiles.csv, tiles.npz                 how many tiles each slide has at each magnification, and which
    runs/<run>/                          one network each: checkpoint, history, curves, snapshots, and where the
                                         embedder is frozen, embeddings (see `digipath.training.frozen_bags`)
    scores/<part>/<snapshot>.npz         what each snapshot says of validation slides; those that stay, of test slides
    weights/<name>.json                  cards with their .weights.h5; `digipath grade --weights` takes them
    results.json, scores.csv, summary.md
    evaluation.html                      confusion matrices, ROC and histograms of the vote, ablation by magnification

Finished runs are never repeated: the same command goes on where it was stopped. No tile of a test slide is looked at
by a network before all training and choosing is over.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from digipath.files import made_folder, write_atomically
from digipath.training.bag_config import BagConfig
from digipath.training.bag_outcome import write_outcome
from digipath.training.bag_plan import BagPlan, CellsBySlide, prepare_bags, survey
from digipath.training.bag_results import bag_scores, chosen
from digipath.training.cases import PARTS
from digipath.training.folder import TrainingResult, in_folder
from digipath.training.grading_pages import write_bag_page
from digipath.values import Cancel, ProgressCallback

TABLE, CELLS, PAGE = "tiles.csv", "tiles.npz", "evaluation.html"


def train_by_bags(
    config: BagConfig | str | Path,
    *,
    out: str | Path | None = None,
    seed: int | None = None,
    resume: bool = True,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> TrainingResult:
    """Train the bag classifiers of a configuration, choose and score them, and write their cards.

    Args and Raises: as `digipath.train`, which comes here for `task = "bags"`.
    """
    plan = prepare_bags(config, seed=seed)

    def train(folder: Path) -> None:
        _train(plan, folder, progress, cancel)

    return in_folder(plan, out, train, own=(TABLE, CELLS, PAGE), resume=resume)


def _train(plan: BagPlan, folder: Path, progress: ProgressCallback | None, cancel: Cancel | None) -> None:
    from digipath.training.bag_runs import BagBench, answers_of, train_bags

    began = time.perf_counter()
    for name in ("runs", "scores/validation", "scores/test", "weights"):
        made_folder(folder / name)
    cells = survey(plan, kept=folder / CELLS, progress=progress, cancel=cancel)
    write_atomically(folder / TABLE, _table(plan, cells))
    bench = BagBench(plan, cells, folder / "weights", progress, cancel)
    records: dict[str, dict[str, Any]] = {}
    for run in plan.runs:
        records[run.name] = train_bags(run, bench, folder / "runs" / run.name)
    snapshots = {snapshot.name: snapshot for run in plan.runs for snapshot in run.snapshots}
    validated = {name: answers_of(one, bench, "validation", _file(folder, name)) for name, one in snapshots.items()}
    kept = chosen(plan, validated)
    tested = {name: answers_of(snapshots[name], bench, "test", _file(folder, name, "test")) for name in kept.kept}
    found = bag_scores(plan, tested)
    write_bag_page(plan, folder / PAGE, tested, found)
    write_outcome(plan, folder, records, kept, found, cells=cells, seconds=time.perf_counter() - began)


def _file(folder: Path, name: str, part: str = "validation") -> Path:
    return folder / "scores" / part / f"{name}.npz"


def _table(plan: BagPlan, cells: Mapping[float, CellsBySlide]) -> str:
    """A CSV table: one line per slide, with its part, class and number of tiles at each magnification."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["case", "patient", "part", "label", *(f"tiles at {run.mpp:g} µm/px" for run in plan.runs)])
    for part in PARTS:
        for case in getattr(plan.split, part):
            counts = [len(cells[run.mpp][case.name]) for run in plan.runs]
            table.writerow([case.name, case.patient, part, case.label, *counts])
    return text.getvalue()
