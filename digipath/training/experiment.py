"""`train`: manifest → plan of runs → networks → scores on held-out cases → cards, in one folder.

    runs/<member>-<round>/     one network each: checkpoint, history, curves (see `digipath.training.fit`)
    scores/<round>.npz         counts of every held-out case, from which all scores follow
    weights/<name>.json        cards with their .weights.h5; `digipath segment --weights` takes them
    results.json, scores.csv, summary.md

Finished runs and rounds are never repeated: the same command goes on where it was stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digipath import networks as choose_networks
from digipath.networks import Networks
from digipath.scoring import CaseScore, Sample, score_cases
from digipath.training import results
from digipath.training.bag_config import TASK as BAGS
from digipath.training.bag_config import BagConfig
from digipath.training.config import Config
from digipath.training.folder import TrainingResult, in_folder
from digipath.training.grading_config import TASK as TILES
from digipath.training.grading_config import TileConfig, task_of
from digipath.training.outcome import write_outcome
from digipath.training.plan import Plan, prepare
from digipath.training.runs import FINAL, Round, Run
from digipath.training.schedule import Schedule
from digipath.training.tumour_config import TASK as TUMOURS
from digipath.training.tumour_config import TumourConfig
from digipath.training.volume_config import TASK as VOLUMES
from digipath.training.volume_config import VolumeConfig
from digipath.values import Cancel, Progress, ProgressCallback

if TYPE_CHECKING:
    from digipath.training.trained import Workshop


def train(
    config: Config | TileConfig | BagConfig | VolumeConfig | str | Path,
    *,
    out: str | Path | None = None,
    seed: int | None = None,
    resume: bool = True,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> TrainingResult:
    """Train the networks of a configuration, score them on cases they have not seen, and write their cards.

    Args:
        config: a `digipath.training.config.Config`, for tile classifiers a
            `digipath.training.grading_config.TileConfig`, for bags of tiles a
            `digipath.training.bag_config.BagConfig`, for networks of MRI a
            `digipath.training.volume_config.VolumeConfig`, for networks that find tumours in it a
            `digipath.training.tumour_config.TumourConfig`, or the path of the TOML file of any of them.
        out: the folder; default `<the card's name>.training` in the working directory.
        seed: instead of the configuration's.
        resume: go on with an unfinished training of the same configuration and manifest, return a
            finished one as it is; False starts afresh. Words of [card] other than its name may change:
            then the cards are written anew, and nothing is trained. So they are where an older digipath
            left them without calibration.
        progress: called with a `Progress`; cancel: asked between batches.

    Raises:
        DigipathError: any branch of the tree in `digipath.errors`; what was finished stays and resumes.
    """
    return _trainer(config)(config, out=out, seed=seed, resume=resume, progress=progress, cancel=cancel)


def _trainer(config: Config | TileConfig | BagConfig | VolumeConfig | str | Path) -> Callable[..., TrainingResult]:
    """The `train` of what is to be trained."""
    kinds = {TileConfig: TILES, BagConfig: BAGS, VolumeConfig: VOLUMES, TumourConfig: TUMOURS}
    task = task_of(config) if isinstance(config, str | Path) else kinds.get(type(config))
    if task == TILES:
        from digipath.training.grading_experiment import train_tiles

        return train_tiles
    if task == BAGS:
        from digipath.training.bag_experiment import train_by_bags

        return train_by_bags
    if task == VOLUMES:
        from digipath.training.volume_experiment import train_volumes

        return train_volumes
    if task == TUMOURS:
        from digipath.training.tumour_experiment import train_tumours

        return train_tumours
    return _train_to_segment


def _train_to_segment(
    config: Config | str | Path,
    *,
    out: str | Path | None,
    seed: int | None,
    resume: bool,
    progress: ProgressCallback | None,
    cancel: Cancel | None,
) -> TrainingResult:
    plan = prepare(config, seed=seed)

    def fill(folder: Path) -> None:
        _train(plan, folder, progress, cancel)

    return in_folder(plan, out, fill, resume=resume, entries=("calibration",))


def check_patches(plan: Plan) -> None:
    """Look at all slides as the training will, to tell what they cannot show; nothing is written.

    Raises BadInput: a class that the cases of a run cannot show, a stain that cannot be fitted.
    """
    from digipath.training.trained import Workshop

    _look(plan, Workshop(plan.config, plan.manifest, Path()))


def _look(plan: Plan, shop: Workshop) -> None:
    from digipath.training.trained import look_at

    splits = {run.split: run for round_ in plan.rounds for run in round_.runs}  # members share theirs
    for done, run in enumerate(splits.values()):
        if shop.progress is not None:
            shop.progress(Progress(done, len(splits), math.nan, f"looking at the slides of {run.split.name}"))
        look_at(run, shop, plan.config.schedule_of(run.member))


def _train(plan: Plan, folder: Path, progress: ProgressCallback | None, cancel: Cancel | None) -> None:
    from digipath.training.trained import RECORD, Workshop, train_run

    began = time.perf_counter()
    for name in ("runs", "scores", "weights"):
        (folder / name).mkdir(exist_ok=True)
    shop = Workshop(plan.config, plan.manifest, folder / "weights", progress, cancel)
    if not all((folder / "runs" / run.name / RECORD).exists() for round_ in plan.rounds for run in round_.runs):
        _look(plan, shop)
    records: dict[str, dict[str, Any]] = {}
    scored: dict[str, list[CaseScore]] = {}
    for round_ in plan.rounds:
        for run in round_.runs:
            schedule = _final_schedule(plan, run, records) if round_.name == FINAL else None
            records[run.name] = train_run(run, plan.name(run), folder / "runs" / run.name, shop, schedule=schedule)
        if round_.held_out:
            scored[round_.name] = _score(plan, round_, folder / "scores" / f"{round_.name}.npz", shop)
    write_outcome(plan, folder, records, scored, seconds=time.perf_counter() - began)


def _final_schedule(plan: Plan, run: Run, records: Mapping[str, Mapping[str, Any]]) -> Schedule:
    """As in the rounds; where a validation loss chose the epoch there, as long as was best on average."""
    schedule = plan.config.schedule_of(run.member)
    same = [r.name for round_ in plan.rounds for r in round_.runs if r.member == run.member and r.split.validation]
    if not same:
        return schedule
    epochs = round(sum(records[name]["best_epoch"] for name in same) / len(same))
    return replace(schedule, epochs=max(epochs, schedule.warmup_epochs + 1))


def _score(plan: Plan, round_: Round, path: Path, shop: Workshop) -> list[CaseScore]:
    """Scores of a round's networks on its held-out cases, made once."""
    if path.exists():
        return results.load_scores(path)
    networks = _side_by_side([str(shop.weights / f"{plan.name(run)}.json") for run in round_.runs])
    samples = [Sample(case.name, case.slide, case.annotation, case.mpp) for case in round_.held_out]
    told = None if shop.progress is None else _scoring(shop.progress, round_.name)
    labels = plan.config.data.labels
    scores = list(score_cases(samples, networks, plan.config.score, labels=labels, progress=told, cancel=shop.cancel))
    results.save_scores(path, scores)
    return scores


def _scoring(progress: ProgressCallback, name: str) -> ProgressCallback:
    return lambda r: progress(Progress(r.done, r.total, r.rate, f"scoring {name}: {r.message}"))


def _side_by_side(cards: Sequence[str]) -> Networks:
    """Networks of several cards that agree on classes and resolution, as those of one training do; as trained."""
    each = [choose_networks.published(card, calibrated=False) for card in cards]
    return replace(
        each[0],
        count=len(each),
        cards=tuple(card for networks in each for card in networks.cards),
        load=lambda: [predictor for networks in each for predictor in networks.load()],
    )
