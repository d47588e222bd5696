"""The settings of a training of networks that grade MRI, read from TOML: strict, as `digipath.training.config`.

What a file does not say follows the paper of the network that it names, where there is one (`PAPERS`): Pereira et al.
2018, Lerousseau et al. 2020, Lo et al. 2019. None of them says everything; what is ours is marked there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from digipath.errors import BadInput
from digipath.slice_augment import SVHN_OPERATIONS, SliceAugmentation
from digipath.training.config import CardText
from digipath.training.encoders import encoder_name
from digipath.training.grading_config import (
    ELSEWHERE,
    GIVEN,
    Network,
    arm_tables,
    augmentation_of,
    merged_tables,
    scaled,
)
from digipath.training.schedule import Schedule
from digipath.training.sections import NONE, CardName, T, check_top, checked, parsed, read_settings, typed
from digipath.training.volume_manifest import VolumeManifest, read_volume_manifest
from digipath.volume_augment import PRESETS as OF_VOLUMES
from digipath.volume_augment import VolumeAugmentation
from digipath.volume_rois import BRAIN, SLICE, VolumeRule
from digipath.volume_values import MODALITIES
from digipath.weights import list_weights, load_card

TASK = "volumes"
VOXELS = "voxels"  # what a card that finds tumours answers for


@dataclass(frozen=True)
class FixedImages:
    """The same changed images of every slice, each of which an epoch sees once: see `digipath.slice_augment`."""

    policy: str = "svhn"

    def check(self) -> None:
        """Refuse what cannot be."""
        if self.policy != "svhn":
            raise BadInput(f'expected policy = "svhn", got {self.policy!r}')


AS_THEY_ARE: Mapping[str, Any] = {"scale": 1.0, "offset": 0.0}  # volumes, which are standardised; no setting
Augmentation = VolumeAugmentation | SliceAugmentation | FixedImages
OF_SLICES: Mapping[str, SliceAugmentation | FixedImages] = {"svhn": FixedImages(), "conventional": SliceAugmentation()}
# Adam as the papers have it, and no step of the learning rate, of which none of them tells.
PLAIN: Mapping[str, Any] = {"optimiser": "adam", "decay": NONE, "frozen_epochs": 0}

# By network, what its section would say. Ours: Pereira's epochs, batch and patience, and that weights decay apart from
# the gradient (AdamW); that Lerousseau's last weights are kept alone; Lo's batch, optimiser and patience, which made
# theirs stop three epochs after the best.
PAPERS: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType({
    "grading-3d": {
        "volume": {"order": [*MODALITIES], "roi": BRAIN, "size": [96, 96, 96]},
        "schedule": {
            **PLAIN, "optimiser": "adamw", "learning_rate": 1e-4, "weight_decay": 1e-4,
            "epochs": 200, "batch": 4, "patience": 30,
        },
        "augmentation": {"preset": "pereira"},
    },
    "densenet169-3d": {
        "network": {"class_weights": True},
        "volume": {"order": [*MODALITIES], "roi": BRAIN, "size": [128, 128, 128], "bias_field": False},
        "schedule": {
            **PLAIN, "learning_rate": 5e-4, "epochs": 200, "batch": 3, "patience": NONE, "keep": "last",
        },
        "augmentation": {"preset": "lerousseau"},
    },
    "alexnet": {
        "volume": {"order": ["t1c"], "roi": SLICE, "size": [227, 227], "bias_field": False},
        "schedule": {
            **PLAIN, "optimiser": "sgd", "momentum": 0.9, "learning_rate": 0.001,
            "epochs": 20, "batch": 32, "patience": 3,
        },
        "augmentation": {"preset": "svhn"},
    },
})  # fmt: skip


@dataclass(frozen=True)
class VolumeData:
    """Where the cases are. classes: in rising order of malignancy."""

    manifest: Path
    classes: tuple[str, ...]

    def check(self) -> None:
        """Refuse what cannot be."""
        if len(set(self.classes)) < 2 or len(set(self.classes)) < len(self.classes):
            raise BadInput(f"expected two or more different classes in rising order, got {list(self.classes)}")


@dataclass(frozen=True)
class VolumeSplit:
    """How cases are parted, always by patient and alike for every label and type; a manifest's own folds come first.

    Attributes:
        validation, test: shares of the patients; Pereira et al. 2018 have 0.2 of each. With `folds`, `validation` is
            the share of those outside of the fold, and nothing is tested on but the folds. validation 0: nothing stops
            a training before its last epoch.
        folds: of a cross-validation (Lo et al. 2019: 10), each scored by a network that was trained without it.
    """

    validation: float = 0.2
    test: float = 0.2
    folds: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot be."""
        whole = self.validation if self.folds is not None else self.validation + self.test
        if self.validation < 0 or whole >= 1 or (self.folds is None and self.test <= 0):
            raise BadInput(
                "expected shares that leave cases to train on, and without folds some to test on, "
                f"got {self.validation} and {self.test}"
            )
        if self.folds is not None and self.folds < 2:
            raise BadInput(f"expected folds of at least 2, or {NONE}, got {self.folds}")
        if self.seed < 0:
            raise BadInput(f"expected seed of at least 0, got {self.seed}")

    @property
    def scheme(self) -> str:
        """In a word."""
        return "holdout" if self.folds is None else f"{self.folds}-fold"


@dataclass(frozen=True)
class VolumeNetwork(Network):
    """What is trained: as for tiles; channels and sides follow from the region.

    class_weights: weigh classes by their inverse frequency (Lerousseau et al. 2020). scale, offset: settings of slices.
    """

    name: str = "grading-3d"
    class_weights: bool = False

    def check(self) -> None:
        """Refuse what cannot be."""
        super().check()
        if "input_channels" in self.config:
            raise BadInput("expected config without input_channels, which follow from the order of the modalities")


@dataclass(frozen=True)
class VolumeArm:
    """One way to train; `schedule` has a length of its epochs only once the cases are split."""

    output: ClassVar[str] = "volume"  # what its networks answer for, as cards have it
    name: str
    network: VolumeNetwork
    rule: VolumeRule
    schedule: Schedule
    augmentation: Augmentation | None

    def check(self) -> None:
        """Refuse what cannot be together."""
        size, changes = self.rule.size, self.augmentation
        if isinstance(changes, VolumeAugmentation) and changes.quarter_turns and size[0] != size[1]:
            raise BadInput(f"expected regions as wide as deep with quarter_turns, got a size of {list(size)}")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of a region as the network takes it."""
        return (*self.rule.size, 3 if self.rule.roi == SLICE else len(self.rule.order))

    @property
    def said(self) -> str:
        """What the network sees, in words."""
        rule, size = self.rule, " × ".join(map(str, self.rule.size))
        bias = "bias field corrected" if rule.bias_field else "bias field as it is"
        return f"{rule.roi} of {', '.join(rule.order)} as {size}; {bias}, standardised over the {rule.standardise}"

    @property
    def settings(self) -> dict[str, Any]:
        """What a card says of the training besides the schedule."""
        return {"augmentation": None if self.augmentation is None else dataclasses.asdict(self.augmentation)}

    @property
    def outlined(self) -> bool:
        """Whether it looks at the tumour's mask."""
        return self.rule.roi != BRAIN

    def schedule_of(self, cases: int) -> Schedule:
        """The schedule where there are so many to train on: an epoch is each of them, or of its fixed images, once."""
        return dataclasses.replace(self.schedule, steps_per_epoch=-(-cases * self.images // self.schedule.batch))

    def check_answer(self, answer: tuple[int, ...], classes: int) -> None:
        """Raise BadInput unless that is the shape of what a network answers here."""
        if answer != (classes,):
            raise BadInput(f"expected a network that classifies regions, {self.network.name} answers {answer}")

    @property
    def images(self) -> int:
        """That an epoch sees of a case."""
        return len(SVHN_OPERATIONS) + 1 if isinstance(self.augmentation, FixedImages) else 1

    def spec(self, classes: int) -> dict[str, Any]:
        """The `network` entry of its card, for so many classes."""
        size = self.rule.size
        config: dict[str, Any] = {"patch": size[0] if len({*size}) == 1 else list(size)}
        if self.rule.roi != SLICE:
            config["input_channels"] = len(self.rule.order)
        return dataclasses.replace(self.network, config={**self.network.config, **config}).spec(classes)


@dataclass(frozen=True)
class VolumeConfig:
    """All settings. `seed` begins every random draw of training; the split has its own.

    Attributes:
        arms: the base first, then the variants. Each is trained `repeats` times, with other seeds.
        segmenter: card that finds the tumour for the trained networks where nobody outlined it.
        elsewhere: settings of a schedule that say nothing here.
    """

    elsewhere: ClassVar[tuple[str, ...]] = ELSEWHERE
    data: VolumeData
    split: VolumeSplit
    arms: tuple[VolumeArm, ...]
    card: CardText
    segmenter: CardName | None = None
    repeats: int = 1
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot be."""
        for name, least in (("seed", 0), ("repeats", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"expected {name} of at least {least}, got {getattr(self, name)}")
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise BadInput(f"expected variants of different names, none called {names[0]}, got {', '.join(names[1:])}")
        if self.segmenter is None:
            return
        if (card := load_card(self.segmenter)).output != VOXELS:
            raise BadInput(f"expected a segmenter that answers for {VOXELS}, {card.name} answers for {card.output}")
        if not any(arm.outlined for arm in self.arms):
            raise BadInput(f"expected a network that looks at the tumour, which {card.name} finds, all see the brain")
        if card.name not in list_weights():
            raise BadInput(
                f"expected a segmenter that graders find by its name; install it first: "
                f"digipath weights import {self.segmenter}"
            )

    @property
    def labelled(self) -> bool:
        """Whether cases need a label."""
        return True

    def read(self) -> VolumeManifest:
        """The cases, with the files that any arm looks at. Raises what `read_volume_manifest` raises."""
        return read_volume_manifest(
            self.data.manifest,
            classes=self.data.classes,
            order=[name for name in MODALITIES if any(name in arm.rule.order for arm in self.arms)],
            tumour=any(arm.outlined for arm in self.arms),
            labelled=self.labelled,
        )

    def record(self) -> dict[str, Any]:
        """All that results depend on as plain values; files count by their content, not by their place."""
        record = dataclasses.asdict(self)
        record["data"] = {"classes": self.data.classes}
        record["segmenter"] = encoder_name(self.segmenter)
        for arm in record["arms"]:
            arm["network"]["encoder"] = encoder_name(arm["network"]["encoder"])
            arm["schedule"] = {key: value for key, value in arm["schedule"].items() if key not in self.elsewhere}
        return record


def read_volume_config(path: str | Path, *, seed: int | None = None) -> VolumeConfig:
    """Read and check the TOML file; `volume_example()` shows every setting.

    Args:
        seed: instead of the file's own.

    Raises:
        NotFound: no such file. BadInput: no TOML, a key or section that does not exist, a value of the wrong type or
            out of range; the message names file, section and key. UnknownWeights: no card for an encoder.
    """
    return read_settings(Path(path), _config, seed=seed)


def volume_example() -> str:
    """A commented configuration with every setting."""
    return (resources.files("digipath.training") / "volumes_example.toml").read_text(encoding="utf-8")


TOP: Mapping[str, Any] = {"seed": int, "repeats": int, "segmenter": CardName | None}
VARIED = ("network", "volume", "schedule", "augmentation")
SECTIONS = ("task", *TOP, "data", "split", *VARIED, "variant", "card")


def _config(table: Mapping[str, Any], base: Path) -> VolumeConfig:
    check_top(table, SECTIONS, TASK)

    def section(name: str, kind: type[T], **given: Any) -> T:  # noqa: ANN401
        return parsed(kind, table.get(name, {}), f"[{name}]", base, given)

    return VolumeConfig(
        data=section("data", VolumeData),
        split=section("split", VolumeSplit),
        arms=tuple(_arm(*one, base) for one in arm_tables(table, VARIED, base)),
        card=section("card", CardText, readouts=()),
        **{name: typed(table[name], hint, name, base) for name, hint in TOP.items() if name in table},
    )


def _arm(name: str, tables: Mapping[str, Mapping[str, Any]], where: Mapping[str, str], base: Path) -> VolumeArm:
    """An arm, with what the paper of its network says where the file does not."""
    paper = PAPERS.get(str(tables["network"].get("name", VolumeNetwork.name)), {})
    said = {part: merged_tables(part, paper.get(part, {}), tables[part]) for part in VARIED}
    rule = parsed(VolumeRule, said["volume"], where["volume"], base)
    flat = rule.roi == SLICE
    network = parsed(VolumeNetwork, said["network"], where["network"], base, {} if flat else AS_THEY_ARE)
    presets: Mapping[str, Augmentation] = {**OF_SLICES} if flat else {**OF_VOLUMES}
    arm = VolumeArm(
        name,
        scaled(network, tables["network"]) if flat else network,
        rule,
        parsed(Schedule, said["schedule"], where["schedule"], base, GIVEN),
        augmentation_of({"preset": NONE, **said["augmentation"]}, where["augmentation"], base, presets),
    )
    return checked(arm, f"{name}:")
