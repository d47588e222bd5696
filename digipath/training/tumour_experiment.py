"""`train` of networks that find tumours: manifest → split → brains → networks → overlap on held-out cases → cards.

    regions/                   the brain of each case with its tumour marked, made once; may go when all is done
    runs/<network>/            one network each: checkpoint, history, curves (see `digipath.training.fit`)
    scores/<network>.json      how each network finds the tumours of its test cases, from which all scores follow
    weights/<name>.json        cards with their .weights.h5, which other cards may name as their segmenter
    results.json, scores.csv, summary.md

Finished runs are never repeated: the same command goes on where it was stopped.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from digipath.files import made_folder
from digipath.training.folder import TrainingResult, in_folder
from digipath.training.tumour_config import TumourConfig, read_tumour_config
from digipath.training.tumour_outcome import write_outcome
from digipath.training.volume_plan import VolumePlan, planned
from digipath.values import Cancel, ProgressCallback


def prepare_tumours(config: TumourConfig | str | Path, *, seed: int | None = None) -> VolumePlan:
    """Read and check everything but the voxels, and plan the runs; nothing is written.

    Raises: as `digipath.training.volume_plan.prepare_volumes`.
    """
    if not isinstance(config, TumourConfig):
        config = read_tumour_config(config, seed=seed)
    elif seed is not None:
        config = replace(config, seed=seed)
    return planned(config)


def train_tumours(
    config: TumourConfig | str | Path,
    *,
    out: str | Path | None = None,
    seed: int | None = None,
    resume: bool = True,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> TrainingResult:
    """Train the networks of a configuration, score them on cases that they have not seen, and write their cards.

    Args and Raises: as `digipath.train`, which comes here for `task = "tumours"`.
    """
    plan = prepare_tumours(config, seed=seed)

    def train(folder: Path) -> None:
        _train(plan, folder, progress, cancel)

    return in_folder(plan, out, train, resume=resume)


def _train(plan: VolumePlan, folder: Path, progress: ProgressCallback | None, cancel: Cancel | None) -> None:
    from digipath.training.tumour_runs import overlaps_of, train_network
    from digipath.training.tumour_source import marked_brain
    from digipath.training.volume_runs import Bench

    began = time.perf_counter()
    for name in ("runs", "scores", "weights"):
        made_folder(folder / name)
    bench = Bench(plan, folder, marked_brain, progress, cancel)
    records = {run.name: train_network(run, bench) for run in plan.networks}
    found = {run.name: overlaps_of(run, bench) for run in plan.networks}
    write_outcome(plan, folder, records, found, seconds=time.perf_counter() - began)
