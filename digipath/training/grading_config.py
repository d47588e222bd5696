"""The settings of a training of tile classifiers, read from TOML: strict, as `digipath.training.config`.

Defaults are those of Truong et al. 2020 where it says. What it does not say: the learning rate, the most epochs, and
after how many without a lower validation loss training is cut off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from digipath import slide_stain
from digipath.errors import BadInput
from digipath.stain import StainReference
from digipath.tile_augment import PRESETS, TileAugmentation
from digipath.tiling import LEAST_TISSUE, TILE_PX, TileRule
from digipath.training.config import NAME, CardText, stain_setting
from digipath.training.encoders import encoder_name, stated_scaling
from digipath.training.graded_manifest import graded_folder, read_graded_manifest
from digipath.training.manifest import Manifest
from digipath.training.schedule import Schedule
from digipath.training.sections import (
    NONE,
    CardName,
    Section,
    T,
    check_top,
    checked,
    parsed,
    read_settings,
    read_toml,
    settings_of,
    typed,
    values_of,
)
from digipath.training.tile_draw import LEAST_LABEL
from digipath.values import Scaling

Shares = tuple[float, float, float]  # of the parts: to train, validate and test on
TASK = "tiles"
TASKS = (TASK, "bags", "volumes", "tumours")  # what a file may say; a segmentation says nothing
N = TypeVar("N", bound="Network")
A = TypeVar("A", bound=Section)
# Name of an arm; its sections by name; where each stands, in words.
ArmTables = tuple[str, dict[str, dict[str, Any]], dict[str, str]]
BASE = "base"  # the arm that the variants differ from
WHOLE, MODULAR = "three-class", "modular"
SCHEMES = (WHOLE, MODULAR)
TISSUES = ("auto", "all", "white-tiles")
PAPER: Mapping[str, Any] = {
    "epochs": 50,
    "batch": 4,
    "frozen_epochs": 0,
    "optimiser": "sgd",
    "learning_rate": 0.01,
    "decay": NONE,
    "patience": 5,
    "keep": "accuracy",
}
# Settings of trainings without validation, and of segmentations.
ELSEWHERE = ("snapshots", "cross_entropy_weight", "background_weight", "foreground_weight")
DERIVED = ("steps_per_epoch", *ELSEWHERE)  # an epoch is one feed of all training tiles
GIVEN: Mapping[str, Any] = {name: getattr(Schedule(epochs=1, steps_per_epoch=1, batch=1), name) for name in DERIVED}


@dataclass(frozen=True)
class GradedData:
    """Where the cases are: a manifest, or a folder with a subfolder of tile images for each class.

    mpp: µm per pixel of the images of `folder`. classes: in rising order of malignancy. least_label: share of a tile
    that outlines of one class must cover for it to count as this class, where cases are outlined.
    """

    classes: tuple[str, ...]
    manifest: Path | None = None
    folder: Path | None = None
    mpp: float | None = None
    least_label: float = LEAST_LABEL

    def check(self) -> None:
        """Refuse what cannot be."""
        if (self.manifest is None) == (self.folder is None) or (self.mpp is None) != (self.folder is None):
            raise BadInput("expected manifest, or folder and mpp together")
        if len(set(self.classes)) < 2 or len(set(self.classes)) < len(self.classes):
            raise BadInput(f"expected two or more different classes in rising order, got {list(self.classes)}")
        if not 0 < self.least_label <= 1:
            raise BadInput(f"expected least_label in (0, 1], got {self.least_label}")

    def read(self, at_mpp: float) -> Manifest:
        """The cases, to be read at `at_mpp` µm per pixel. Raises what the readers of manifests raise."""
        if self.manifest is not None:
            return read_graded_manifest(self.manifest, classes=self.classes, at_mpp=at_mpp)
        if self.folder is None or self.mpp is None:
            raise BadInput("expected manifest, or folder and mpp together")
        return graded_folder(self.folder, classes=self.classes, mpp=self.mpp, at_mpp=at_mpp)


@dataclass(frozen=True)
class TileSettings:
    """Which tiles are drawn, once for all runs.

    mpp, tile (px), least_tissue, tissue: see `digipath.tiling.TileRule`. stain: bring every slide to the reference of
    this method, or to the stain of this picture or slide. per_class: so many of each class over all parts; None: as
    many of each as there are of the rarest. shares: of the tiles, to train, validate and test on.
    """

    mpp: float = 0.5
    tile: int = TILE_PX
    least_tissue: float = LEAST_TISSUE
    tissue: str = "auto"
    stain: str | None = None
    per_class: int | None = None
    shares: Shares = (0.6, 0.2, 0.2)

    def check(self) -> None:
        """Refuse what cannot be."""
        self.rule.check()
        if self.tissue not in TISSUES:
            raise BadInput(f"expected tissue to be one of {', '.join(TISSUES)}, got {self.tissue!r}")
        if self.per_class is not None and self.per_class < 1:
            raise BadInput(f"expected per_class of at least 1, or {NONE}, got {self.per_class}")
        if min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise BadInput(f"expected shares above 0 that sum to 1, got {list(self.shares)}")

    @property
    def rule(self) -> TileRule:
        """The tiles of a slide that count."""
        return TileRule(self.mpp, self.tile, self.least_tissue, self.tissue)


@dataclass(frozen=True)
class TileSplit:
    """Shares of the patients of every label and type that validate and test; a manifest's own folds come first.

    Truong et al. 2020: 807 cases to train on, 201 to validate on and 115 to test on.
    """

    validation: float = 201 / 1123
    test: float = 115 / 1123
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot be."""
        if min(self.validation, self.test) <= 0 or self.validation + self.test >= 1:
            raise BadInput(
                f"expected shares above 0 that leave cases to train on, got {self.validation} and {self.test}"
            )
        if self.seed < 0:
            raise BadInput(f"expected seed of at least 0, got {self.seed}")


@dataclass(frozen=True)
class Network:
    """What is trained: name and settings for `digipath.build`; classes and activation follow from the scheme.

    encoder: name of the card whose weights it begins with. scale, offset: network input = RGB × scale + offset.
    """

    name: str = "resnet18"
    config: Mapping[str, Any] = field(default_factory=dict)
    encoder: CardName | None = None
    scale: Scaling = 1 / 127.5
    offset: Scaling = -1.0

    def check(self) -> None:
        """Refuse what cannot be."""
        for name in ("classes", "activation", "patch"):
            if name in self.config:
                raise BadInput(f"expected config without {name}, which follows from the other settings")
        for name in ("scale", "offset"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(abs(number) < float("inf") and (number or name == "offset") for number in numbers):
                raise BadInput(f"expected {name} finite, and scale not 0, got {value}")

    def spec(self, classes: int) -> dict[str, Any]:
        """The `network` entry of its card, for so many classes."""
        return {"name": self.name, "config": {**self.config, "classes": classes, "activation": "softmax"}}


@dataclass(frozen=True)
class Arm:
    """One way to train; `schedule` has a length of its epochs only once the tiles are known."""

    name: str
    network: Network
    schedule: Schedule
    augmentation: TileAugmentation | None


@dataclass(frozen=True)
class TileConfig:
    """All settings. `seed` begins every random draw of training; the split and the drawing of tiles have their own.

    arms: the base first, then the variants. Each arm × scheme is trained `repeats` times, with other seeds.
    """

    data: GradedData
    tiles: TileSettings
    split: TileSplit
    arms: tuple[Arm, ...]
    card: CardText
    schemes: tuple[str, ...] = (WHOLE,)
    repeats: int = 1
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot be."""
        for name, least in (("seed", 0), ("repeats", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"expected {name} of at least {least}, got {getattr(self, name)}")
        if not self.schemes or set(self.schemes) - set(SCHEMES) or len(set(self.schemes)) < len(self.schemes):
            raise BadInput(f"expected schemes among {', '.join(SCHEMES)}, each once, got {list(self.schemes)}")
        if MODULAR in self.schemes and len(self.data.classes) < 3:
            raise BadInput(f"expected three or more classes for the scheme {MODULAR}, got {list(self.data.classes)}")
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise BadInput(f"expected variants of different names, none called {BASE}, got {', '.join(names[1:])}")
        if self.data.folder is not None and self.tiles.stain is not None:
            raise BadInput(
                "[tiles] a stain is fitted on a slide, not on a folder of tiles; expected stain = "
                f'"{NONE}", or a manifest of slides instead of folder, got {self.tiles.stain!r}'
            )

    @cached_property
    def stain(self) -> StainReference | None:
        """What the slides are brought to. Raises what `digipath.slide_stain.reference` raises."""
        return slide_stain.reference(self.tiles.stain, mpp=self.tiles.mpp)

    def record(self) -> dict[str, Any]:
        """All that results depend on as plain values; files count by their content, not by their place."""
        record = dataclasses.asdict(self)
        record["data"] = {"classes": self.data.classes, "least_label": self.data.least_label}
        record["tiles"]["stain"] = self.stain and self.stain.to_record()
        for arm in record["arms"]:
            arm["network"]["encoder"] = encoder_name(arm["network"]["encoder"])
            arm["schedule"] = {key: value for key, value in arm["schedule"].items() if key not in DERIVED}
        return record


def task_of(path: str | Path) -> str | None:
    """What a training's TOML file says it trains: one of `TASKS`, or None where it says nothing (segmentation).

    Raises NotFound, BadInput: no file, no TOML, or a task that there is not.
    """
    task = read_toml(Path(path)).get("task")
    if task not in (None, *TASKS):
        also = f'bags of tiles are trained with task = "{TASKS[1]}", MRI with task = "{TASKS[2]}" or "{TASKS[3]}"'
        raise BadInput(f'expected task = "{TASK}", or none for a segmentation, got {task!r}; {also}: {path}')
    return task


def read_tile_config(path: str | Path, *, seed: int | None = None) -> TileConfig:
    """Read and check the TOML file; `tile_example()` shows every setting.

    Args:
        seed: instead of the file's own.

    Raises:
        NotFound: no such file. BadInput: no TOML, a key or section that does not exist, a value of the wrong type or
            out of range; the message names file, section and key. UnknownWeights: no card for an encoder.
    """
    return read_settings(Path(path), _config, seed=seed)


def tile_example() -> str:
    """A commented configuration with every setting."""
    return (resources.files("digipath.training") / "tiles_example.toml").read_text(encoding="utf-8")


TOP: Mapping[str, Any] = {"seed": int, "repeats": int, "schemes": tuple[str, ...]}
SECTIONS = ("task", *TOP, "data", "tiles", "split", "network", "schedule", "augmentation", "variant", "card")
VARIED = ("network", "schedule", "augmentation")


def _config(table: Mapping[str, Any], base: Path) -> TileConfig:
    check_top(table, SECTIONS, TASK)

    def section(name: str, kind: type[T], **given: Any) -> T:  # noqa: ANN401
        return parsed(kind, table.get(name, {}), f"[{name}]", base, given)

    tiles = section("tiles", TileSettings)
    return TileConfig(
        data=section("data", GradedData),
        tiles=replace(tiles, stain=stain_setting(tiles.stain, "[tiles]", base)),
        split=section("split", TileSplit),
        arms=tuple(_arm(*one, base) for one in arm_tables(table, VARIED, base)),
        card=section("card", CardText, readouts=()),
        **{name: typed(table[name], hint, name, base) for name, hint in TOP.items() if name in table},
    )


def arm_tables(table: Mapping[str, Any], varied: Sequence[str], base: Path) -> Iterator[ArmTables]:
    """The base and the variants of a file, each with all of its sections among `varied`.

    Raises BadInput: variants that are none, or do not say what differs.
    """
    own = {name: _section(table.get(name, {}), f"[{name}]") for name in varied}
    yield BASE, own, {name: f"[{name}]" for name in varied}
    variants = table.get("variant", [])
    if not isinstance(variants, list):
        raise BadInput("expected [[variant]] in double brackets")
    for number, variant in enumerate(variants, 1):
        where = f"[[variant]] {number}"
        known = {"name": str, **dict.fromkeys(varied, Mapping[str, Any])}
        said = values_of(known, _section(variant, where), where, base)
        name = said.pop("name", "")
        if not NAME.fullmatch(name):
            raise BadInput(f"{where} expected a name of lower-case letters, digits and single hyphens, got {name!r}")
        if not said:
            raise BadInput(f"{where} expected what differs, in {', '.join(f'[variant.{part}]' for part in varied)}")
        merged = {part: merged_tables(part, own[part], said.get(part, {})) for part in varied}
        yield name, merged, {part: f"[variant.{part}] of {name}" for part in varied}


def _section(table: object, where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise BadInput(f"{where} must be a section, got {table!r}")
    return table


def merged_tables(part: str, own: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A section with what another says instead; another preset of augmentation begins anew."""
    return dict(changes) if part == "augmentation" and "preset" in changes else {**own, **changes}


def _arm(name: str, tables: Mapping[str, Mapping[str, Any]], where: Mapping[str, str], base: Path) -> Arm:
    network = scaled(parsed(Network, tables["network"], where["network"], base), tables["network"])
    schedule = parsed(Schedule, {**PAPER, **tables["schedule"]}, where["schedule"], base, GIVEN)
    table = {"preset": "geometric", **tables["augmentation"]}
    return Arm(name, network, schedule, augmentation_of(table, where["augmentation"], base, PRESETS))


def scaled(network: N, said: Mapping[str, Any]) -> N:
    """The network with the scaling that its encoder's card states, unless the file says another."""
    if network.encoder is None:
        return network
    scale, offset = stated_scaling(network.encoder)
    return replace(
        network,
        scale=network.scale if "scale" in said else scale,
        offset=network.offset if "offset" in said else offset,
    )


def augmentation_of(table: Mapping[str, Any], where: str, base: Path, presets: Mapping[str, A]) -> A | None:
    """The table's preset with the numbers that it changes; None: nothing is augmented."""
    preset, known = table["preset"], (*presets, NONE)
    if preset not in known:
        raise BadInput(f"{where} expected preset to be one of {', '.join(known)}, got {preset!r}")
    own = {key: value for key, value in table.items() if key != "preset"}
    if preset == NONE:
        if own:
            raise BadInput(f"{where} expected no numbers with preset = \"{NONE}\", got {', '.join(own)}")
        return None
    return checked(replace(presets[preset], **values_of(settings_of(type(presets[preset])), own, where, base)), where)
