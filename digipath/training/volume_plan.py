"""The plan of a training of networks that grade MRI: which network learns from which cases, and which cases score it.

Cases are parted by patient, once for all: into those to train, validate and test on, or into folds. A grader is one
way to train (an arm) and one repeat: one network, or one for each fold, which is trained without it, and validated on
a share of the other folds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from digipath.errors import BadInput
from digipath.runtime import without_startup_notices
from digipath.training.cases import PARTS
from digipath.training.encoders import parameters_of
from digipath.training.grading_plan import SEEDS, cases_by_class, counted
from digipath.training.schedule import Schedule
from digipath.training.splits import Split, holdout, k_folds
from digipath.training.volume_config import VolumeArm, VolumeConfig, VolumeSplit, read_volume_config
from digipath.training.volume_manifest import VolumeCase, VolumeManifest

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class NetworkRun:
    """One network to train: `name` is its folder's, `seed` begins its draws."""

    name: str
    arm: VolumeArm
    split: Split[VolumeCase]
    seed: int

    @property
    def schedule(self) -> Schedule:
        """The arm's, with the length of its epochs."""
        return self.arm.schedule_of(len(self.split.train))


@dataclass(frozen=True)
class VolumeRun:
    """What was trained in one way: one network, or one without each fold, which score all cases together."""

    name: str
    arm: VolumeArm
    scheme: str
    repeat: int
    networks: tuple[NetworkRun, ...]


@dataclass(frozen=True)
class VolumePlan:
    """What a training will do. parameters: of a network of each arm, by its name."""

    config: VolumeConfig
    manifest: VolumeManifest
    runs: tuple[VolumeRun, ...]
    parameters: Mapping[str, int]

    @property
    def shipped(self) -> VolumeRun:
        """What gets the short name: the base's first, whatever it scores."""
        return self.runs[0]

    @property
    def splits(self) -> tuple[Split[VolumeCase], ...]:
        """The same for all runs: one, or one for each fold, whose cases it tests on."""
        return tuple(network.split for network in self.shipped.networks)

    @property
    def networks(self) -> tuple[NetworkRun, ...]:
        """All networks in the order in which they are trained."""
        return tuple(network for run in self.runs for network in run.networks)

    def name(self, run: VolumeRun | NetworkRun) -> str:
        """The name of a card; a run of one network has that of its network."""
        short = self.config.card.name
        return short if run.name == self.shipped.name else f"{short}-{run.name}"

    def lines(self) -> list[str]:
        """The plan in words, a line per fact."""
        found = [f"{counted(self.manifest.cases, 'case')}: {self.manifest.path}"]
        for split in self.splits:
            named = "" if self.config.split.folds is None else f"{split.name}, "
            for part in PARTS:
                found.append(f"{named}{part}: {self.counted(getattr(split, part))}")
        for arm in self.config.arms:
            begins = "random weights" if arm.network.encoder is None else f"weights of {arm.network.encoder}"
            size = f"{self.parameters[arm.name]:,} parameters"
            schedule = f"{arm.schedule.optimiser}, batch {arm.schedule.batch}, up to {arm.schedule.epochs} epochs"
            found.append(f"{arm.name}: {arm.network.name}, {size}, {begins}; {schedule}")
            found.append(f"{arm.name}: {arm.said}")
        for run in self.runs:
            steps = " and ".join(str(steps) for steps in sorted({one.schedule.steps_per_epoch for one in run.networks}))
            networks = f"{len(run.networks)} network{'s' * (len(run.networks) > 1)}"
            found.append(f"{run.name}: {networks}, {steps} steps an epoch")
        together = "the mean of its networks" if len(self.shipped.networks) > 1 else "one network"
        return [*found, f"shipped as {self.config.card.name}: {self.shipped.name}, {together}"]

    def counted(self, cases: Sequence[VolumeCase]) -> str:
        """Numbers of cases and patients, and of cases of each class, in words."""
        classes = self.config.data.classes
        return cases_by_class(cases, classes, "case") if self.config.labelled else counted(cases, "case")


def prepare_volumes(config: VolumeConfig | str | Path, *, seed: int | None = None) -> VolumePlan:
    """Read and check everything but the voxels, and plan the runs; nothing is written.

    Raises:
        BadInput: about the configuration, the manifest, the split or a network's settings.
        UnknownWeights, WeightsCorrupt: an encoder's.
    """
    if not isinstance(config, VolumeConfig):
        config = read_volume_config(config, seed=seed)
    elif seed is not None:
        config = replace(config, seed=seed)
    return planned(config)


def planned(config: VolumeConfig) -> VolumePlan:
    """The plan of a configuration. Raises as `prepare_volumes`."""
    config.check()
    manifest = config.read()
    splits = split_cases(manifest.cases, config.split)
    for split in splits:
        if not split.train or not split.test:
            raise BadInput(f"expected cases to train and to test on, {split.name} lacks some: {manifest.path}")
        there = {case.label for case in split.train}
        if config.labelled and (lacking := [name for name in config.data.classes if name not in there]):
            raise BadInput(
                f"expected cases of every class to train on, {split.name} has none of {lacking[0]!r}: give some, or "
                f"leave it out of the classes: {manifest.path}"
            )
    runs = plan_runs(config, splits)
    with without_startup_notices():
        parameters = {arm.name: _parameters(arm, len(config.data.classes)) for arm in config.arms}
    return VolumePlan(config, manifest, runs, parameters)


def split_cases(cases: Sequence[VolumeCase], asked: VolumeSplit) -> tuple[Split[VolumeCase], ...]:
    """One split, or one for each fold, whose cases it tests on; see `VolumeSplit`.

    Raises BadInput: as `digipath.training.splits`.
    """
    if asked.folds is None:
        return (holdout(cases, validation=asked.validation, test=asked.test, seed=asked.seed),)
    return tuple(
        _without(fold, f"fold{number}", cases, asked, number)
        for number, fold in enumerate(k_folds(cases, asked.folds, seed=asked.seed))
    )


def _without(
    fold: Sequence[VolumeCase], name: str, cases: Sequence[VolumeCase], asked: VolumeSplit, number: int
) -> Split[VolumeCase]:
    """The split that tests on a fold, and validates on a share of the others, whatever fold the manifest gives them."""
    names = {case.name for case in fold}
    rest = {case.name: case for case in cases if case.name not in names}
    free = [replace(case, fold=None) for case in rest.values()]
    inner = holdout(free, validation=asked.validation, test=0, seed=asked.seed + 1 + number)
    train, validation = (tuple(rest[case.name] for case in part) for part in (inner.train, inner.validation))
    return Split(name, train, validation, tuple(fold))


def plan_runs(config: VolumeConfig, splits: Sequence[Split[VolumeCase]]) -> tuple[VolumeRun, ...]:
    """The runs in the order in which they are trained, the one that is shipped first."""
    asked = itertools.product(config.arms, range(config.repeats))
    return tuple(
        _run(arm, config.split.scheme, repeat, splits, config.seed * SEEDS + number * len(splits))
        for number, (arm, repeat) in enumerate(asked)
    )


def _run(
    arm: VolumeArm, scheme: str, repeat: int, splits: Sequence[Split[VolumeCase]], seed: int
) -> VolumeRun:
    """seed: of its first network, so that no two networks have the same."""
    name = f"{arm.name}-{repeat + 1}"
    names = [name] if len(splits) == 1 else [f"{name}-{split.name}" for split in splits]
    networks = zip(names, splits, itertools.count(seed))
    return VolumeRun(name, arm, scheme, repeat, tuple(NetworkRun(of, arm, split, own) for of, split, own in networks))


def _parameters(arm: VolumeArm, classes: int) -> int:
    from digipath.training.objective import logits_of  # here, because it imports Keras and its backend

    def check(network: keras.Model) -> None:
        arm.check_answer(tuple(network.compute_output_shape((None, *arm.input_shape))[1:]), classes)
        logits_of(network)

    return parameters_of(arm.spec(classes), arm.network.encoder, f"[network] of {arm.name}:", check)
