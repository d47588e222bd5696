"""The plan of a training by bags of tiles: a network for each magnification, and the slides that it learns from.

Lerousseau et al. 2020, section 3.2: networks of several magnifications, of each the weights after the last epoch and
after the one ten epochs before; the worst of these on the validation slides are dropped, the rest vote.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput, ResolutionTooLow
from digipath.files import write_atomically
from digipath.runtime import without_startup_notices
from digipath.slide import open_slide
from digipath.tiling import tiles_at
from digipath.training.bag_config import BagConfig, mpp_name, read_bag_config
from digipath.training.cases import PARTS
from digipath.training.encoders import parameters_of
from digipath.training.grading_plan import SEEDS, cases_by_class, counted
from digipath.training.manifest import Manifest, TrainingCase
from digipath.training.schedule import Schedule
from digipath.training.splits import Split, holdout
from digipath.training.tile_draw import Cell, look_at_each
from digipath.values import Cancel, ProgressCallback

Cells = tuple[Cell, ...]
CellsBySlide = Mapping[str, Cells]  # by the name of the case
LAST = "last"


@dataclass(frozen=True)
class Snapshot:
    """Weights of a run that may vote; `before`: epochs before the last."""

    name: str
    before: int


@dataclass(frozen=True)
class BagRun:
    """One network to train: `name` is its folder's, `seed` begins its draws."""

    name: str
    mpp: float
    seed: int
    snapshots: tuple[Snapshot, ...]


@dataclass(frozen=True)
class BagPlan:
    """What a training will do. parameters: of each network."""

    config: BagConfig
    manifest: Manifest
    split: Split[TrainingCase]
    runs: tuple[BagRun, ...]
    parameters: int

    def name(self, snapshot: Snapshot) -> str:
        """The name of a card."""
        return f"{self.config.card.name}-{snapshot.name}"

    @property
    def runs_by_snapshot(self) -> dict[str, BagRun]:
        """The run of each snapshot by the snapshot's name, in order."""
        return {snapshot.name: run for run in self.runs for snapshot in run.snapshots}

    @property
    def schedule(self) -> Schedule:
        """An epoch is each training slide once; the last step may take some of the next."""
        steps = -(-len(self.split.train) // self.config.schedule.batch)
        return replace(self.config.schedule, steps_per_epoch=steps)

    def lines(self, cells: Mapping[float, CellsBySlide]) -> list[str]:
        """The plan in words, a line per fact."""
        config, network = self.config, self.config.network
        found = [f"{counted(self.manifest.cases)}: {self.manifest.path}"]
        for part in PARTS:
            found.append(f"{part}: {cases_by_class(getattr(self.split, part), config.data.classes)}")
        if outlined := sum(case.annotation is not None for case in self.manifest.cases):
            found.append(f"outlines of {outlined} slides are not used: a slide is of its label")
        begins = "random weights" if network.encoder is None else f"weights of {network.encoder}"
        kept = " that stay, only pooling and head learn" if network.frozen else ""
        found.append(f"{network.embedder} from {begins}{kept}; {network.pooling}; {self.parameters:,} parameters")
        normalised = "by mean and deviation of the training tiles, at each magnification"
        stated = f"as the card of {network.encoder} states"
        found.append(f"channels scaled {stated if network.scaling == 'encoder' else normalised}")
        used = f"{config.bags.drawn} tiles of each of {config.schedule.batch} slides a step"
        found.append(f"{config.schedule.optimiser}, {used}, {self.schedule.steps_per_epoch} steps an epoch")
        for run in self.runs:
            counts = [len(own) for own in cells[run.mpp].values()]
            of = f"{sum(counts):,} tiles, {min(counts):,} to {max(counts):,} on a slide"
            found.append(f"{run.name}: {of}; {' and '.join(snapshot.name for snapshot in run.snapshots)}")
        kept_count = len(self.runs_by_snapshot) - config.ensemble.drop
        worst = f"the {config.ensemble.drop} of lowest {config.ensemble.measure} on validation slides left out"
        return [*found, f"shipped as {config.card.name}: the mean of {kept_count}, {worst}"]


def prepare_bags(config: BagConfig | str | Path, *, seed: int | None = None) -> BagPlan:
    """Read and check everything but the tiles, and plan the runs; nothing is written.

    Raises:
        BadInput: about the configuration, the manifest, the split or the network's settings.
        ResolutionTooLow: slides too coarse for a magnification. UnknownWeights, WeightsCorrupt: an encoder's.
    """
    if not isinstance(config, BagConfig):
        config = read_bag_config(config, seed=seed)
    elif seed is not None:
        config = replace(config, seed=seed)
    config.check()
    manifest, asked = _manifest(config), config.split
    split = holdout(manifest.cases, validation=asked.validation, test=asked.test, seed=asked.seed)
    for part in PARTS:
        labels = {case.label for case in getattr(split, part)}
        if lacking := [name for name in config.data.classes if name not in labels]:
            raise BadInput(f"expected slides of every class in {part}, none is of {lacking[0]!r}: {manifest.path}")
    with without_startup_notices():
        parameters = _parameters(config)
    return BagPlan(config, manifest, split, plan_bags(config), parameters)


def plan_bags(config: BagConfig) -> tuple[BagRun, ...]:
    """The networks in the order in which they are trained: that of the configuration."""
    return tuple(
        BagRun(name, mpp, config.seed * SEEDS + number, tuple(_snapshot(name, n) for n in config.schedule.snapshots))
        for number, (name, mpp) in enumerate((mpp_name(mpp), mpp) for mpp in config.bags.mpps)
    )


def survey(
    plan: BagPlan, *, kept: Path | None = None, progress: ProgressCallback | None = None, cancel: Cancel | None = None
) -> dict[float, CellsBySlide]:
    """The tiles of every slide at every magnification, by (row, column): one look at each slide.

    Args:
        kept: a file for what was found, which is read where it is there.

    Raises:
        BadInput: a slide without tiles, or without a stain that can be fitted, at a magnification; a damaged file.
        Cancelled. SlideUnreadable, …: about a case's files.
    """
    cases, mpps = plan.manifest.cases, [run.mpp for run in plan.runs]
    if kept is not None and kept.exists():
        return _read_cells(kept, cases, mpps)

    def look(case: TrainingCase) -> list[NDArray[np.int64]]:
        with open_slide(case.slide, mpp=case.mpp) as slide:
            found = tiles_at(slide, plan.config.bags.rule(mpps[0]), mpps, stain=plan.config.stain)
        return [tiles.cells for tiles in found]

    def count(cells: Sequence[NDArray[np.int64]]) -> int:
        return sum(map(len, cells))

    looked = look_at_each(cases, look, count=count, progress=progress, cancel=cancel)
    for at, mpp in enumerate(mpps):
        if empty := [case for case, cells in zip(cases, looked, strict=True) if not len(cells[at])]:
            raise BadInput(
                f"expected tiles on every slide at {mpp:g} µm/px, {len(empty)} of {len(cases)} have none; leave "
                f"them out, lower least_tissue, or leave {mpp:g} out of mpps: {empty[0].slide}"
            )
    if kept is not None:
        stream = io.BytesIO()
        np.savez_compressed(
            stream, allow_pickle=False,
            **{_key(at, number): cells for number, own in enumerate(looked) for at, cells in enumerate(own)},
        )  # fmt: skip
        write_atomically(kept, stream.getvalue())
    return {
        mpp: {case.name: _pairs(cells[at]) for case, cells in zip(cases, looked, strict=True)}
        for at, mpp in enumerate(mpps)
    }


def _read_cells(path: Path, cases: Sequence[TrainingCase], mpps: Sequence[float]) -> dict[float, CellsBySlide]:
    try:
        with np.load(path, allow_pickle=False) as found:
            return {
                mpp: {case.name: _pairs(found[_key(at, number)]) for number, case in enumerate(cases)}
                for at, mpp in enumerate(mpps)
            }
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"kept tiles of slides are damaged ({error}); remove the file to look anew: {path}") from error


def _key(mpp: int, case: int) -> str:
    """The name of an array in the file, by the numbers of magnification and case."""
    return f"{mpp}-{case}"


def _pairs(cells: NDArray[np.int64]) -> Cells:
    return tuple((int(row), int(column)) for row, column in cells)


def _snapshot(run: str, before: int) -> Snapshot:
    return Snapshot(f"{run}-{LAST}" if before == 0 else f"{run}-minus-{before}", before)


def _manifest(config: BagConfig) -> Manifest:
    """The cases. Raises ResolutionTooLow that names the magnifications at which all slides can be read."""
    finest, *coarser = sorted(config.bags.mpps)
    try:
        return config.data.read(finest)
    except ResolutionTooLow as error:
        left = next((coarser[number:] for number, mpp in enumerate(coarser) if _fine_enough(config, mpp)), [])
        advice = f"mpps = {left} remain for all slides" if left else "no mpps remain for all slides"
        raise ResolutionTooLow(f"{error}; {advice}") from error


def _fine_enough(config: BagConfig, mpp: float) -> bool:
    try:
        config.data.read(mpp)
    except ResolutionTooLow:
        return False
    return True


def _parameters(config: BagConfig) -> int:
    """Parameters of a network, which is built once to see that it can be, and that crop and encoder fit."""
    asked = config.network
    spec = asked.spec(len(config.data.classes), config.bags.crop)
    spec["config"]["remat"] = asked.remat
    return parameters_of(spec, asked.encoder, "[network]")
