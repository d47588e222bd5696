"""The settings of a training by bags of tiles, read from TOML: strict, as `digipath.training.config`.

Defaults are those of Lerousseau et al. 2020, section 3.2, where it says; the shares of the split are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from digipath import slide_stain
from digipath.errors import BadInput
from digipath.stain import StainReference
from digipath.tile_augment import PRESETS, TileAugmentation
from digipath.tiling import TileRule
from digipath.training.config import CardText, stain_setting
from digipath.training.encoders import encoder_name
from digipath.training.grading_config import DERIVED, TISSUES, GradedData, TileSplit, augmentation_of
from digipath.training.schedule import Schedule
from digipath.training.sections import NONE, CardName, T, check_top, parsed, read_settings, typed
from digipath.training.tile_draw import LEAST_LABEL
from digipath.weights import load_card

TASK = "bags"
SCALINGS = ("training", "encoder")
MEASURES = ("macro_auroc", "balanced_accuracy")
PRESET = "colour-jitter"
PAPER: Mapping[str, Any] = {
    "epochs": 50,
    "batch": 4,
    "frozen_epochs": 0,
    "optimiser": "adam",
    "learning_rate": 5e-5,
    "decay": NONE,
    "snapshots": [0, 10],
}
SPLIT: Mapping[str, Any] = {"validation": 0.2, "test": 0.2}
# An epoch is each training slide once; weights are those of the snapshots; the rest is of segmentations.
GIVEN: Mapping[str, Any] = {
    **{name: getattr(Schedule(1, 1, 1), name) for name in DERIVED if name != "snapshots"},
    "patience": None,
    "keep": "last",
}


@dataclass(frozen=True)
class BagSettings:
    """Which tiles a network sees of a slide.

    Attributes:
        mpps: µm per pixel, a network for each.
        tile, least_tissue, tissue: see `digipath.tiling.TileRule`. crop: px that are seen of a tile.
        stain: bring every slide to the reference of this method, or to the stain of this picture or slide.
        drawn: tiles of a slide in a step of training.
        bag: tiles in a group when the network is used. groups: how many then, on validation and test slides too;
            None: as many as hold all tiles once. augment: whether tiles are changed then as in training.
    """

    mpps: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    tile: int = 512
    crop: int = 224
    least_tissue: float = 0.25
    tissue: str = "white-tiles"
    stain: str | None = None
    drawn: int = 50
    bag: int = 200
    groups: int | None = 1
    augment: bool = True

    def check(self) -> None:
        """Refuse what cannot be."""
        if not self.mpps or len(set(map(mpp_name, self.mpps))) < len(self.mpps):
            raise BadInput(f"expected one or more different mpps, got {list(self.mpps)}")
        for mpp in self.mpps:
            self.rule(mpp).check()
        if self.tissue not in TISSUES:
            raise BadInput(f"expected tissue to be one of {', '.join(TISSUES)}, got {self.tissue!r}")
        if not 1 <= self.crop <= self.tile:
            raise BadInput(f"expected crop from 1 to {self.tile} px, the side of a tile, got {self.crop}")
        for name in ("drawn", "bag", "groups"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"expected {name} of at least 1, got {value}")

    def rule(self, mpp: float) -> TileRule:
        """The tiles of a slide that count at a magnification."""
        return TileRule(mpp, self.tile, self.least_tissue, self.tissue)


@dataclass(frozen=True)
class BagNetworkSettings:
    """What is trained: an embedder, a pooling and a head, see `digipath.nn.mil.mil`.

    Attributes:
        encoder: name of the card whose weights the embedder begins with.
        scaling: channels are normalised by mean and deviation of the "training" tiles, at each magnification, or as
            the card of the "encoder" states. A file that says nothing means "encoder" where that is a whole network,
            such as a tile classifier of one's own, whose weights know no other scaling; else "training", since the
            paper normalises so with ImageNet weights.
        remat: keep little of the embedder while training and compute it again: less memory, more time.
        frozen: the embedder stays as loaded. Only pooling and head learn, from embeddings made once, of `views` large
            bags of each slide: each of up to `most_tiles` of its tiles at random, cropped and changed anew.
    """

    embedder: str = "efficientnet-b0"
    embedder_config: Mapping[str, Any] = field(default_factory=dict)
    pooling: str = "max-mean"
    attention_units: int = 128
    dropout: float = 0.5
    encoder: CardName | None = None
    scaling: str = "training"
    remat: bool = False
    frozen: bool = False
    views: int = 4
    most_tiles: int = 200

    def check(self) -> None:
        """Refuse what cannot be; what the network itself refuses is seen when it is built."""
        if self.scaling not in SCALINGS:
            raise BadInput(f"expected scaling to be one of {', '.join(SCALINGS)}, got {self.scaling!r}")
        if self.scaling == "encoder" and self.encoder is None:
            raise BadInput('expected an encoder, whose card states the scaling, with scaling = "encoder"')
        if self.remat and self.frozen:
            raise BadInput("expected remat or frozen, not both: a frozen embedder keeps nothing while training")
        for name in ("views", "most_tiles"):
            if getattr(self, name) < 1:
                raise BadInput(f"expected {name} of at least 1, got {getattr(self, name)}")

    def spec(self, classes: int, crop_px: int) -> dict[str, Any]:
        """The `network` entry of its card."""
        config: dict[str, Any] = {"embedder": self.embedder, "embedder_config": dict(self.embedder_config)}
        config |= {"pooling": self.pooling, "classes": classes, "dropout": self.dropout, "patch": crop_px}
        if self.pooling == "gated-attention":
            config["attention_units"] = self.attention_units
        return {"name": "mil", "config": {**config, "activation": "softmax"}}


@dataclass(frozen=True)
class Choosing:
    """Which snapshots are shipped: all but the `drop` with the lowest `measure` on the validation slides."""

    drop: int = 2
    measure: str = "macro_auroc"

    def check(self) -> None:
        """Refuse what cannot be."""
        if self.measure not in MEASURES:
            raise BadInput(f"expected measure to be one of {', '.join(MEASURES)}, got {self.measure!r}")
        if self.drop < 0:
            raise BadInput(f"expected drop of at least 0, got {self.drop}")


@dataclass(frozen=True)
class BagConfig:
    """All settings. `seed` begins every random draw of training; the split has its own."""

    data: GradedData
    bags: BagSettings
    split: TileSplit
    network: BagNetworkSettings
    schedule: Schedule
    augmentation: TileAugmentation | None
    ensemble: Choosing
    card: CardText
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot be."""
        if self.seed < 0:
            raise BadInput(f"expected seed of at least 0, got {self.seed}")
        if not self.schedule.snapshots:
            raise BadInput("[schedule] expected snapshots, numbers of epochs before the last (0: the last), got none")
        count = len(self.bags.mpps) * len(self.schedule.snapshots)
        if self.ensemble.drop >= count:
            raise BadInput(
                f"[ensemble] expected drop below {count}, the snapshots of all mpps together, got "
                f"{self.ensemble.drop}; drop = 0 keeps them all"
            )

    @cached_property
    def stain(self) -> StainReference | None:
        """What the slides are brought to, at all magnifications; a slide that gives it is read at the finest.

        Raises what `digipath.slide_stain.reference` raises.
        """
        return slide_stain.reference(self.bags.stain, mpp=min(self.bags.mpps))

    def record(self) -> dict[str, Any]:
        """All that results depend on as plain values; files count by their content, not by their place."""
        record = dataclasses.asdict(self)
        record["data"] = {"classes": self.data.classes}
        record["bags"]["stain"] = self.stain and self.stain.to_record()
        record["network"]["encoder"] = encoder_name(self.network.encoder)
        return record


def mpp_name(mpp: float) -> str:
    """A magnification as a part of names, 0.25 as "mpp-0-25"."""
    return f"mpp-{mpp:g}".replace(".", "-").replace("+", "")


def read_bag_config(path: str | Path, *, seed: int | None = None) -> BagConfig:
    """Read and check the TOML file; `bag_example()` shows every setting.

    Args:
        seed: instead of the file's own.

    Raises:
        NotFound: no such file. BadInput: no TOML, a key or section that does not exist, a value of the wrong type or
            out of range; the message names file, section and key. UnknownWeights: no card for an encoder.
    """
    return read_settings(Path(path), _config, seed=seed)


def bag_example() -> str:
    """A commented configuration with every setting."""
    return (resources.files("digipath.training") / "bags_example.toml").read_text(encoding="utf-8")


SECTIONS = ("task", "seed", "data", "bags", "split", "network", "schedule", "augmentation", "ensemble", "card")


def _config(table: Mapping[str, Any], base: Path) -> BagConfig:
    check_top(table, SECTIONS, TASK)

    def section(name: str, kind: type[T], own: Mapping[str, Any] | None = None, **given: Any) -> T:  # noqa: ANN401
        said = table.get(name, {})
        return parsed(kind, {**(own or {}), **said} if isinstance(said, dict) else said, f"[{name}]", base, given)

    bags = section("bags", BagSettings)
    return BagConfig(
        data=section("data", GradedData, least_label=LEAST_LABEL),
        bags=replace(bags, stain=stain_setting(bags.stain, "[bags]", base)),
        split=section("split", TileSplit, SPLIT),
        network=_scaled(section("network", BagNetworkSettings), table.get("network", {})),
        schedule=section("schedule", Schedule, PAPER, **GIVEN),
        augmentation=_changes(table.get("augmentation", {}), base),
        ensemble=section("ensemble", Choosing),
        card=section("card", CardText, readouts=()),
        seed=typed(table.get("seed", 0), int, "seed", base),
    )


def _scaled(network: BagNetworkSettings, said: Mapping[str, Any]) -> BagNetworkSettings:
    """The settings with the scaling of an encoder that is a whole network, unless the file says another."""
    if network.encoder is None or "scaling" in said or load_card(network.encoder).record["kind"] != "network":
        return network
    return replace(network, scaling="encoder")


def _changes(table: object, base: Path) -> TileAugmentation | None:
    if not isinstance(table, dict):
        raise BadInput(f"[augmentation] must be a section, got {table!r}")
    return augmentation_of({"preset": PRESET, **table}, "[augmentation]", base, PRESETS)
