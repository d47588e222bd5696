"""The settings of a training of networks that find tumours in MRI, read from TOML as those that grade it.

Defaults are those of Pereira et al. 2018, section 3, where it says. What it does not say: the size of patches, how many
are drawn and where, the batch, and when a training ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

from digipath.errors import BadInput
from digipath.training.config import CardText
from digipath.training.grading_config import arm_tables, augmentation_of, merged_tables
from digipath.training.schedule import Schedule
from digipath.training.sections import NONE, T, check_top, checked, parsed, read_settings, typed
from digipath.training.volume_config import (
    AS_THEY_ARE,
    PLAIN,
    VOXELS,
    VolumeArm,
    VolumeConfig,
    VolumeData,
    VolumeNetwork,
    VolumeSplit,
)
from digipath.volume_augment import PRESETS, VolumeAugmentation
from digipath.volume_rois import BRAIN, VolumeRule
from digipath.volume_values import MODALITIES

TASK = "tumours"
CLASSES = ("background", "tumour")
WHOLE_BRAIN: Mapping[str, Any] = {"roi": "voxels", "margin_vox": 0, "standardise": "brain"}  # of the rule; no settings
NO_SNAPSHOTS: Mapping[str, Any] = {"snapshots": ()}
PAPER: Mapping[str, Mapping[str, Any]] = {
    "volume": {"order": [*MODALITIES], "size": [64, 64, 64]},
    "schedule": {
        **PLAIN, "optimiser": "adamw", "learning_rate": 5e-5, "weight_decay": 1e-6,
        "epochs": 200, "steps_per_epoch": 100, "batch": 4, "patience": 20,
        "cross_entropy_weight": 1.0, "background_weight": 0.0, "foreground_weight": 0.0,
    },
}  # fmt: skip


@dataclass(frozen=True)
class VoxelRule(VolumeRule):
    """Patches of the whole brain, standardised inside it.

    Attributes:
        size: sides of a patch in voxels.
        spacing_mm: isotropic grid that volumes are brought to first; None: their own.
    """

    roi: str = "voxels"
    size: tuple[int, ...] = (64, 64, 64)
    spacing_mm: float | None = None

    def check(self) -> VoxelRule:
        """The rule itself. Raises BadInput: an attribute outside of what it may be."""
        VolumeRule(self.order, BRAIN, self.size).check()
        if self.spacing_mm is not None and not 0 < self.spacing_mm < math.inf:
            raise BadInput(f"expected spacing_mm above 0, or {NONE}, got {self.spacing_mm}")
        return self

    def to_record(self) -> dict[str, Any]:
        """What a card's `input` says of it, all but its `modality`."""
        said = {name: value for name, value in super().to_record().items() if name not in ("roi", "margin_vox")}
        return said if self.spacing_mm is None else {**said, "spacing_mm": self.spacing_mm}


@dataclass(frozen=True)
class PatchSampling:
    """Where patches are drawn.

    Attributes:
        tumour_share: of patches with a voxel of the tumour in the middle; the others lie anywhere in the brain's box.
        validation_patches: over which the validation loss is taken, the same throughout.
    """

    tumour_share: float = 0.5
    validation_patches: int = 64

    def check(self) -> None:
        """Refuse what cannot be."""
        if not 0 <= self.tumour_share <= 1:
            raise BadInput(f"expected tumour_share in [0, 1], got {self.tumour_share}")
        if self.validation_patches < 1:
            raise BadInput(f"expected validation_patches of at least 1, got {self.validation_patches}")


@dataclass(frozen=True)
class TumourArm(VolumeArm):
    """One way to train."""

    output: ClassVar[str] = VOXELS
    rule: VoxelRule
    augmentation: VolumeAugmentation | None
    sampling: PatchSampling

    @property
    def said(self) -> str:
        """What the network sees, in words."""
        rule, size = self.rule, " × ".join(map(str, self.rule.size))
        bias = "bias field corrected" if rule.bias_field else "bias field as it is"
        spacing = "" if rule.spacing_mm is None else f" of {rule.spacing_mm:g} mm"
        return f"patches of {', '.join(rule.order)} of {size} voxels{spacing}; {bias}, standardised over the brain"

    @property
    def settings(self) -> dict[str, Any]:
        """What a card says of the training besides the schedule."""
        return {**super().settings, "sampling": asdict(self.sampling)}

    @property
    def outlined(self) -> bool:
        """Whether it looks at the tumour's mask."""
        return True

    def schedule_of(self, cases: int) -> Schedule:
        """The schedule, whatever the number of cases."""
        return self.schedule

    def check_answer(self, answer: tuple[int, ...], classes: int) -> None:
        """Raise BadInput unless a network answers for all voxels but a border of the same width on every side."""
        lost = {seen - own for seen, own in zip(self.rule.size, answer[:-1], strict=False)}
        if len(answer) != 4 or answer[-1] != classes or len(lost) > 1 or min(lost) < 0 or min(lost) % 2:
            raise BadInput(f"expected a network that marks voxels, {self.network.name} answers {answer}")


@dataclass(frozen=True)
class TumourConfig(VolumeConfig):
    """All settings. `seed` begins every random draw of training; the split has its own."""

    elsewhere: ClassVar[tuple[str, ...]] = tuple(NO_SNAPSHOTS)
    arms: tuple[TumourArm, ...]

    @property
    def labelled(self) -> bool:
        """Whether cases need a label."""
        return False


def read_tumour_config(path: str | Path, *, seed: int | None = None) -> TumourConfig:
    """Read and check the TOML file; `tumour_example()` shows every setting.

    Args:
        seed: instead of the file's own.

    Raises:
        NotFound: no such file. BadInput: no TOML, a key or section that does not exist, a value of the wrong type or
            out of range; the message names file, section and key. UnknownWeights: no card for an encoder.
    """
    return read_settings(Path(path), _config, seed=seed)


def tumour_example() -> str:
    """A commented configuration with every setting."""
    return (resources.files("digipath.training") / "tumours_example.toml").read_text(encoding="utf-8")


TOP: Mapping[str, Any] = {"seed": int, "repeats": int}
VARIED = ("network", "volume", "sampling", "schedule", "augmentation")
SECTIONS = ("task", *TOP, "data", "split", *VARIED, "variant", "card")


def _config(table: Mapping[str, Any], base: Path) -> TumourConfig:
    check_top(table, SECTIONS, TASK)

    def section(name: str, kind: type[T], **given: Any) -> T:  # noqa: ANN401
        return parsed(kind, table.get(name, {}), f"[{name}]", base, given)

    return TumourConfig(
        data=section("data", VolumeData, classes=CLASSES),
        split=section("split", VolumeSplit),
        arms=tuple(_arm(*one, base) for one in arm_tables(table, VARIED, base)),
        card=section("card", CardText, readouts=()),
        **{name: typed(table[name], hint, name, base) for name, hint in TOP.items() if name in table},
    )


def _arm(name: str, tables: Mapping[str, Mapping[str, Any]], where: Mapping[str, str], base: Path) -> TumourArm:
    said = {part: merged_tables(part, PAPER.get(part, {}), tables[part]) for part in VARIED}
    network = {"name": "unet-3d", **said["network"]}
    arm = TumourArm(
        name,
        parsed(VolumeNetwork, network, where["network"], base, {**AS_THEY_ARE, "class_weights": False}),
        parsed(VoxelRule, said["volume"], where["volume"], base, WHOLE_BRAIN),
        parsed(Schedule, said["schedule"], where["schedule"], base, NO_SNAPSHOTS),
        augmentation_of({"preset": NONE, **said["augmentation"]}, where["augmentation"], base, PRESETS),
        parsed(PatchSampling, said["sampling"], where["sampling"], base),
    )
    return checked(arm, f"{name}:")
