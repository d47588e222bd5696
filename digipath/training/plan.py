"""Everything that a training needs, read, checked and planned before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from digipath.errors import BadInput
from digipath.runtime import without_startup_notices
from digipath.training.cards import card_name
from digipath.training.config import Config, Member, read_config
from digipath.training.encoders import parameters_of
from digipath.training.manifest import Manifest
from digipath.training.runs import Round, Run, plan_runs, shipped


@dataclass(frozen=True)
class Plan:
    """What a training will do. parameters: of each member's network, by its name."""

    config: Config
    manifest: Manifest
    rounds: tuple[Round, ...]
    parameters: Mapping[str, int]

    @cached_property
    def shipped(self) -> tuple[Run, ...]:
        """The runs whose networks are shipped together."""
        return shipped(self.rounds, self.config)

    def name(self, run: Run) -> str:
        """The name of a run's card; a network that is shipped alone has the short one."""
        return card_name(self.config, None if self.shipped == (run,) else run)

    def lines(self) -> list[str]:
        """The plan in words, a line per fact."""
        cases = self.manifest.cases
        found = [f"{len(cases)} cases of {len({case.patient for case in cases})} patients: {self.manifest.path}"]
        for member in self.config.members:
            begins = "random weights" if member.encoder is None else f"encoder from {member.encoder}"
            size = f"{self.parameters[member.name]:,} parameters"
            found.append(f"member {member.name}: {member.network}, {size}, {begins}")
        for round_ in self.rounds:
            for run in round_.runs:
                schedule, split = self.config.schedule_of(run.member), run.split
                parts = f"{len(split.train)} train, {len(split.validation)} validate, {len(round_.held_out)} scored"
                patches = schedule.epochs * schedule.steps_per_epoch * schedule.batch
                found.append(f"{run.name}: {parts}; up to {schedule.epochs} epochs, {patches:,} patches")
        return [*found, f"shipped as {card_name(self.config)}: {', '.join(run.name for run in self.shipped)}"]


def prepare(config: Config | str | Path, *, seed: int | None = None) -> Plan:
    """Read and check everything that a training needs, and plan its runs; nothing is written.

    Raises:
        BadInput: about the configuration, the manifest, the split or a network's settings.
        UnknownWeights, WeightsCorrupt: an encoder's.
    """
    if not isinstance(config, Config):
        config = read_config(config, seed=seed)
    elif seed is not None:
        config = replace(config, seed=seed)
    manifest = config.data.read(config.input.mpp)
    rounds = plan_runs(manifest.cases, config)
    with without_startup_notices():
        parameters = {member.name: _parameters(member, config) for member in config.members}
    return Plan(config, manifest, rounds, parameters)


def _parameters(member: Member, config: Config) -> int:
    """Parameters of a member's network, built once to see that it can be and that patches and encoder fit."""
    from digipath.nn import patch_multiple  # here, because it imports Keras and its backend

    def check(_: object) -> None:
        multiple = patch_multiple(member.network, member.config)
        if config.input.patch % multiple or config.input.training_patch % multiple:
            raise BadInput(f"expected [input] patch and training_patch to be multiples of {multiple} px")

    return parameters_of(member.spec, member.encoder, f"[[member]] {member.name}:", check)
