"""The plan of a training of tile classifiers: which networks learn from which tiles, and which tiles score them.

Cases are parted first, by patient; then tiles are drawn, once for all runs, so that the parts stand in the shares
asked for and every class has as many (Truong et al. 2020, "Transfer Learning and Training"). A grader is one way to
train (an arm), one scheme and one repeat:

three-class   one network for all classes, whatever their number.
modular       two networks of two classes or more: the first tells the highest class from the rest, on all tiles; the
              second the rest apart, on theirs. The first is not balanced anew: then the product of the two is what
              one network would say of the same tiles.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from digipath.errors import BadInput
from digipath.measure.tile_grades import merged_truth
from digipath.runtime import without_startup_notices
from digipath.training.cases import PARTS, PatientCase
from digipath.training.encoders import parameters_of
from digipath.training.grading_config import WHOLE, Arm, TileConfig, read_tile_config
from digipath.training.manifest import Manifest, TrainingCase
from digipath.training.schedule import Schedule
from digipath.training.splits import Split, holdout
from digipath.training.tile_draw import LabelledTile

if TYPE_CHECKING:
    import keras

Groups = tuple[tuple[int, ...], ...]  # of the classes of the data, one group for each channel of a network
Tiles = tuple[LabelledTile, ...]
SEEDS = 1_000_000  # more than one training needs


@dataclass(frozen=True)
class NetworkRun:
    """One network to train: `name` is its folder's, `seed` begins its draws; `classes` name its `groups`."""

    name: str
    arm: Arm
    classes: tuple[str, ...]
    groups: Groups
    seed: int

    def tiles(self, drawn: Sequence[LabelledTile]) -> Tiles:
        """The tiles that it knows a class for, labelled by its channel."""
        channels = merged_truth(np.array([tile.label for tile in drawn], np.int64), self.groups)
        return tuple(replace(tile, label=int(at)) for tile, at in zip(drawn, channels, strict=True) if at >= 0)


@dataclass(frozen=True)
class GraderRun:
    """What grades all classes: one network, or two of the scheme "modular"."""

    name: str
    arm: Arm
    scheme: str
    repeat: int
    networks: tuple[NetworkRun, ...]


@dataclass(frozen=True)
class TilePlan:
    """What a training will do. parameters: of each network to train, by its name."""

    config: TileConfig
    manifest: Manifest
    split: Split[TrainingCase]
    runs: tuple[GraderRun, ...]
    parameters: Mapping[str, int]

    @property
    def shipped(self) -> GraderRun:
        """The grader that gets the short name: the base's first of the first scheme, whatever it scores."""
        return self.runs[0]

    def name(self, run: GraderRun | NetworkRun) -> str:
        """The name of a card; a grader of one network has that of its network."""
        short = self.config.card.name
        return short if run.name == self.shipped.name else f"{short}-{run.name}"

    def schedule(self, run: NetworkRun, drawn: Mapping[str, Tiles]) -> Schedule:
        """The arm's, an epoch being one feed of all of the run's training tiles."""
        count = len(run.tiles(drawn["train"]))
        return replace(run.arm.schedule, steps_per_epoch=-(-count // run.arm.schedule.batch))

    def lines(self, drawn: Mapping[str, Tiles]) -> list[str]:
        """The plan in words, a line per fact."""
        found = [f"{counted(self.manifest.cases)}: {self.manifest.path}"]
        for part in PARTS:
            tiles = tiles_by_class(drawn[part], self.config.data.classes)
            found.append(f"{part}: {counted(getattr(self.split, part))}; {tiles}")
        asked, each = self.config.tiles.per_class, sum(map(len, drawn.values())) // len(self.config.data.classes)
        if asked is not None and each <= asked - len(PARTS):  # less than what is lost by rounding
            found.append(f"asked for {asked:,} tiles of each class, the cases allow {each:,} in these shares")
        for arm in self.config.arms:
            begins = "random weights" if arm.network.encoder is None else f"encoder from {arm.network.encoder}"
            schedule = f"{arm.schedule.optimiser}, batch {arm.schedule.batch}, up to {arm.schedule.epochs} epochs"
            found.append(f"{arm.name}: {arm.network.name}, {begins}; {schedule}")
        for run in self.runs:
            for network in run.networks:
                size = f"{self.parameters[network.name]:,} parameters"
                tiles = f"{len(network.tiles(drawn['train'])):,} tiles an epoch"
                found.append(f"{network.name}: {' / '.join(network.classes)}; {size}, {tiles}")
        return [*found, f"shipped as {self.config.card.name}: {self.shipped.name}"]


def prepare_tiles(config: TileConfig | str | Path, *, seed: int | None = None) -> TilePlan:
    """Read and check everything but the tiles, and plan the runs; nothing is written.

    Raises:
        BadInput: about the configuration, the manifest, the split or a network's settings.
        UnknownWeights, WeightsCorrupt: an encoder's.
    """
    if not isinstance(config, TileConfig):
        config = read_tile_config(config, seed=seed)
    elif seed is not None:
        config = replace(config, seed=seed)
    config.check()
    manifest = config.data.read(config.tiles.mpp)
    asked = config.split
    split = holdout(manifest.cases, validation=asked.validation, test=asked.test, seed=asked.seed)
    for part in PARTS:
        if not getattr(split, part):
            raise BadInput(f"expected cases to train, validate and test on, there are none in {part}: {manifest.path}")
    runs = plan_graders(config)
    with without_startup_notices():
        parameters = _parameters(config, runs)
    return TilePlan(config, manifest, split, runs, parameters)


def plan_graders(config: TileConfig) -> tuple[GraderRun, ...]:
    """The graders in the order in which they are trained, the one that is shipped first."""
    asked = itertools.product(config.arms, config.schemes, range(config.repeats))
    return tuple(_grader(config, *one, number=number) for number, one in enumerate(asked))


def tiles_by_class(tiles: Sequence[LabelledTile], classes: Sequence[str]) -> str:
    """Numbers of tiles, in words."""
    counts = Counter(tile.label for tile in tiles)
    return ", ".join(f"{counts[label]:,} tiles of {name}" for label, name in enumerate(classes))


def counted(cases: Sequence[PatientCase], what: str = "slide") -> str:
    """Numbers of slides, or `what` else they are, and of patients, in words."""
    patients = len({case.patient for case in cases})
    return f"{len(cases):,} {what}{'s' * (len(cases) != 1)} of {patients:,} patient{'s' * (patients != 1)}"


def cases_by_class(cases: Sequence[PatientCase], classes: Sequence[str], what: str = "slide") -> str:
    """The same, with the numbers of each class."""
    each = ", ".join(f"{sum(case.label == name for case in cases)} of {name}" for name in classes)
    return f"{counted(cases, what)}: {each}"


def _grader(config: TileConfig, arm: Arm, scheme: str, repeat: int, *, number: int) -> GraderRun:
    """number: of the grader, so that no two networks have the same seed."""
    classes, name = config.data.classes, f"{arm.name}-{scheme}-{repeat + 1}"
    seed = config.seed * SEEDS + 2 * number
    if scheme == WHOLE:
        alone = tuple((label,) for label in range(len(classes)))
        return GraderRun(name, arm, scheme, repeat, (NetworkRun(name, arm, classes, alone, seed),))
    first, second = modular_groups(len(classes))
    of_first = (f"not {classes[-1]}", classes[-1])
    return GraderRun(
        name,
        arm,
        scheme,
        repeat,
        (
            NetworkRun(f"{name}-top", arm, of_first, first, seed),
            NetworkRun(f"{name}-rest", arm, classes[:-1], second, seed + 1),
        ),
    )


def modular_groups(count: int) -> tuple[Groups, Groups]:
    """Of `count` classes: the highest against the rest, and the rest apart."""
    rest = tuple(range(count - 1))
    return (rest, (count - 1,)), tuple((label,) for label in rest)


def _parameters(config: TileConfig, runs: Sequence[GraderRun]) -> dict[str, int]:
    """Parameters of every network; each kind is built once to see that it can be, and that tile and encoder fit."""
    found: dict[str, int] = {}
    known: dict[tuple[str, int], int] = {}
    for network in (network for run in runs for network in run.networks):
        kind = (network.arm.name, len(network.classes))
        if kind not in known:
            known[kind] = _built(network, config.tiles.tile)
        found[network.name] = known[kind]
    return found


def _built(run: NetworkRun, tile_px: int) -> int:
    from digipath.training.objective import logits_of  # here, because it imports Keras and its backend

    spec, encoder = run.arm.network.spec(len(run.classes)), run.arm.network.encoder

    def check(network: keras.Model) -> None:
        if len(network.input_shape) != 4 or network.output_shape != (None, len(run.classes)):
            raise BadInput(f"expected a network that classifies tiles, {spec['name']} answers {network.output_shape}")
        logits_of(network)

    of_tile = {"name": spec["name"], "config": {**spec["config"], "patch": tile_px}}
    return parameters_of(of_tile, encoder, f"[network] of {run.arm.name}:", check)
