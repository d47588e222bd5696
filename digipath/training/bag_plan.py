"""The plan of a training by bags of tiles: a network for each magnification, and the slides that it learns from.

Lerousseau et al. 2020, section 3.2: networks of several magnifications, of each the weights after the last epoch and
after the one ten epochs before; the worst of these on the validation slides are dropped, the rest vote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from digipath.errors import BadInput, ResolutionTooLow
from digipath.networks import LONGEST_REASON
from digipath.runtime import without_startup_notices
from digipath.training.bag_config import BagConfig, mpp_name, read_bag_config
from digipath.training.grading_plan import SEEDS, counted, encoder_card
from digipath.training.manifest import PARTS, Manifest, TrainingCase
from digipath.training.schedule import Schedule
from digipath.training.splits import Split, holdout
from digipath.training.tile_draw import find_tiles
from digipath.values import Cancel, Progress, ProgressCallback

Cells = tuple[tuple[int, int], ...]
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
    split: Split
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
            found.append(f"{part}: {slides_by_class(getattr(self.split, part), config.data.classes)}")
        if outlined := sum(case.annotation is not None for case in self.manifest.cases):
            found.append(f"outlines of {outlined} slides are not used: a slide is of its label")
        begins = "random weights" if network.encoder is None else f"weights of {network.encoder}"
        kept = " that stay, only pooling and head learn" if network.frozen else ""
        found.append(f"{network.embedder} from {begins}{kept}; {network.pooling}; {self.parameters:,} parameters")
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
    """The networks in the order in which they are trained, the finest first as they are named."""
    return tuple(
        BagRun(name, mpp, config.seed * SEEDS + number, tuple(_snapshot(name, n) for n in config.schedule.snapshots))
        for number, (name, mpp) in enumerate((mpp_name(mpp), mpp) for mpp in config.bags.mpps)
    )


def survey(
    plan: BagPlan, *, progress: ProgressCallback | None = None, cancel: Cancel | None = None
) -> dict[float, CellsBySlide]:
    """The tiles of every slide at every magnification, by (row, column), which looks at all slides.

    Raises:
        BadInput: a slide without tiles at a magnification. Cancelled. SlideUnreadable, …: about a case's files.
    """
    cases = [replace(case, annotation=None) for case in plan.manifest.cases]  # a slide counts as a whole
    found: dict[float, CellsBySlide] = {}
    for run in plan.runs:
        told = None if progress is None else _looking(progress, run)
        rule = plan.config.bags.rule(run.mpp)
        tiles = find_tiles(cases, rule, classes=plan.config.data.classes, progress=told, cancel=cancel)
        own: dict[str, list[tuple[int, int]]] = {case.name: [] for case in cases}
        for tile in tiles:
            own[cases[tile.case].name].append(tile.cell)
        if empty := [case for case in cases if not own[case.name]]:
            raise BadInput(
                f"expected tiles on every slide at {run.mpp:g} µm/px, {len(empty)} of {len(cases)} have none; leave "
                f"them out, lower least_tissue, or leave {run.mpp:g} out of mpps: {empty[0].slide}"
            )
        found[run.mpp] = {name: tuple(of) for name, of in own.items()}
    return found


def slides_by_class(cases: Sequence[TrainingCase], classes: Sequence[str]) -> str:
    """Numbers of slides, in words."""
    each = ", ".join(f"{sum(case.label == name for case in cases)} of {name}" for name in classes)
    return f"{counted(cases)}: {each}"


def _snapshot(run: str, before: int) -> Snapshot:
    return Snapshot(f"{run}-{LAST}" if before == 0 else f"{run}-minus-{before}", before)


def _looking(progress: ProgressCallback, run: BagRun) -> ProgressCallback:
    return lambda r: progress(Progress(r.done, r.total, r.rate, f"looking at slides, {run.name}: {r.message}"))


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
    from digipath.nn import build  # here, because it imports Keras and its backend
    from digipath.nn.pretrained import load_encoder

    asked = config.network
    spec = asked.spec(len(config.data.classes), config.bags.crop)
    try:
        network = build(spec["name"], **spec["config"], remat=asked.remat)
        if asked.encoder is not None:
            load_encoder(network, encoder_card(asked.encoder).file)
    except (BadInput, TypeError, ValueError) as error:  # the last two: what Keras says of a wrong kind of value
        raise BadInput(f"[network] {' '.join(str(error).split())[:LONGEST_REASON]}") from error
    return int(network.count_params())
