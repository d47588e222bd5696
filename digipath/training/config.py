"""The settings of a training, read from TOML: strict, so that a misspelt key is never ignored."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from digipath import slide_stain
from digipath.annotation import Labels
from digipath.augment import Augmentation
from digipath.errors import BadInput
from digipath.measure.look_here import READOUTS
from digipath.scoring import Scoring
from digipath.stain import REFERENCES, StainReference
from digipath.training.encoders import encoder_name, stated_scaling
from digipath.training.manifest import Manifest, folder_manifest, read_manifest
from digipath.training.sampling import Sampling
from digipath.training.schedule import Schedule
from digipath.training.sections import NONE, CardName, T, checked, parsed, read_toml, settings_of, typed, values_of
from digipath.values import Scaling

STRIDE_PX = 32  # every network takes multiples of this
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
KINDS = ("single", "k-fold", "nested")


@dataclass(frozen=True)
class Data:
    """Where the cases are: a manifest, or folders of images and masks at `mpp` µm per pixel.

    classes: negative, positive. positive, negative: labels of outlines, empty for the usual ones.
    """

    manifest: Path | None = None
    images: Path | None = None
    masks: Path | None = None
    mpp: float | None = None
    classes: tuple[str, ...] = ("normal", "tumour")
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse what cannot be."""
        folders = (self.images, self.masks, self.mpp)
        if None in folders if self.manifest is None else any(folders):
            raise BadInput("expected manifest, or images, masks and mpp together")
        if len(set(self.classes)) != 2:
            raise BadInput(f"expected two classes, negative and positive, got {list(self.classes)}")

    @property
    def labels(self) -> Labels:
        """Which outlines are lesions."""
        return Labels.given(self.positive, self.negative)

    def read(self, at_mpp: float) -> Manifest:
        """The cases, to be read at `at_mpp` µm per pixel. Raises what `read_manifest` and `folder_manifest` raise."""
        if self.manifest is not None:
            return read_manifest(self.manifest, classes=self.classes, labels=self.labels, at_mpp=at_mpp)
        if self.images is None or self.masks is None or self.mpp is None:
            raise BadInput("expected manifest, or images, masks and mpp together")
        return folder_manifest(self.images, self.masks, mpp=self.mpp, classes=self.classes, at_mpp=at_mpp)


@dataclass(frozen=True)
class Input:
    """What the networks see: network input = uint8 RGB × scale + offset, at `mpp` µm per pixel.

    patch: side in px when the networks are used; training_patch: while they are trained.
    stain: bring every slide to the reference of this method, or to the stain of this picture or slide.
    """

    mpp: float
    patch: int = 512
    training_patch: int = 256
    scale: Scaling = 1 / 127.5
    offset: Scaling = -1.0
    stain: str | None = None

    def check(self) -> None:
        """Refuse what cannot be."""
        if not 0 < self.mpp < math.inf:
            raise BadInput(f"expected mpp above 0, got {self.mpp}")
        _check_scaling(self.scale, self.offset)
        for name in ("patch", "training_patch"):
            side = getattr(self, name)
            if side < STRIDE_PX or side % STRIDE_PX:
                raise BadInput(f"expected {name} to be a multiple of {STRIDE_PX} px, got {side}")


@dataclass(frozen=True)
class Member:
    """One network of the ensemble; what it does not say itself, it shares with the others.

    network, config: name and settings for `digipath.build`. encoder: name of the card whose weights
    the encoder begins with. scale, offset: of its input; where neither the member nor [input] states
    them, an encoder gets what its card says. schedule: settings that differ from [schedule].
    """

    name: str
    network: str
    config: Mapping[str, Any] = field(default_factory=dict)
    encoder: CardName | None = None
    scale: Scaling | None = None
    offset: Scaling | None = None
    schedule: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse what cannot be."""
        if not NAME.fullmatch(self.name):
            raise BadInput(f"expected a name of lower-case letters, digits and single hyphens, got {self.name!r}")
        _check_scaling(self.scale, self.offset)
        if (self.classes, self.activation) not in ((1, "sigmoid"), (2, "softmax")):
            raise BadInput(
                f"expected config with classes = 1 and activation = \"sigmoid\", or 2 and \"softmax\", "
                f"got {self.classes!r} and {self.activation!r}"
            )

    @property
    def classes(self) -> int:
        """Channels of the output."""
        return self.config.get("classes", 1)  # type: ignore[no-any-return]  # `check` knows whether it is one

    @property
    def activation(self) -> str:
        """Of the output."""
        return str(self.config.get("activation", "sigmoid"))

    @property
    def spec(self) -> dict[str, Any]:
        """The `network` entry of its card; classes and activation are always written out."""
        head = {"classes": self.classes, "activation": self.activation}
        return {"name": self.network, "config": {**self.config, **head}}


def _check_scaling(scale: Scaling | None, offset: Scaling | None) -> None:
    for name, value in (("scale", scale), ("offset", offset)):
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(n is None or (math.isfinite(n) and (n or name == "offset")) for n in numbers):
            raise BadInput(f"expected {name} finite, and scale not 0, got {value}")


@dataclass(frozen=True)
class Splitting:
    """How cases are parted, always by patient; see `digipath.training.runs` for the three kinds.

    folds: of "k-fold" and "nested". inner: folds of the inner split of "nested", 0 for none.
    validation, test: shares of the patients in "single". ensemble: which networks the shipped
    ensemble has: "one-fold-each" or "all" of them, or "final", each member once more on all cases.
    validation_patches: over which the validation loss is taken.
    """

    kind: str = "single"
    folds: int = 5
    inner: int = 0
    validation: float = 0.2
    test: float = 0.2
    seed: int = 0
    ensemble: str = "all"
    validation_patches: int = 256

    def check(self) -> None:
        """Refuse what cannot be."""
        if self.kind not in KINDS:
            raise BadInput(f"expected kind to be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.folds < 2 or self.inner < 0 or self.inner == 1:
            raise BadInput(f"expected folds ≥ 2, and inner 0 or ≥ 2, got {self.folds} and {self.inner}")
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise BadInput(f"expected shares that leave cases to train on, got {self.validation} and {self.test}")
        if self.ensemble not in ("one-fold-each", "all", "final"):
            raise BadInput(f"expected ensemble to be one-fold-each, all or final, got {self.ensemble!r}")
        for name, least in (("validation_patches", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise BadInput(f"expected {name} of at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class CardText:
    """What a card says besides numbers; `name` begins the names of all cards.

    readouts: what reports make of the maps.
    """

    name: str
    task: str
    licence: str = "not stated"
    citation: str = "not stated"
    intended_use: str = "Research use only. Not for diagnostic procedures."
    limits: tuple[str, ...] = ()
    readouts: tuple[str, ...] = READOUTS

    def check(self) -> None:
        """Refuse what cannot be."""
        if unknown := set(self.readouts) - set(READOUTS):
            raise BadInput(f"expected readouts among {', '.join(READOUTS)}, got {min(unknown)!r}")
        if not NAME.fullmatch(self.name):
            raise BadInput(f"expected a name of lower-case letters, digits and single hyphens, got {self.name!r}")
        if not self.task:
            raise BadInput("expected a task, got an empty text")


@dataclass(frozen=True)
class Config:
    """All settings of a training. `seed` begins every random draw but the split's, which has its own."""

    data: Data
    input: Input
    members: tuple[Member, ...]
    schedule: Schedule
    card: CardText
    sampling: Sampling
    augmentation: Augmentation | None
    split: Splitting
    score: Scoring
    seed: int = 0

    @cached_property
    def stain(self) -> StainReference | None:
        """What the slides are brought to. Raises what `digipath.slide_stain.reference` raises."""
        return slide_stain.reference(self.input.stain, mpp=self.input.mpp)

    def schedule_of(self, member: Member) -> Schedule:
        """The common schedule with what the member changes."""
        return replace(self.schedule, **member.schedule)

    def scaling_of(self, member: Member) -> tuple[Scaling, Scaling]:
        """Scale and offset of the member's input."""
        scale = self.input.scale if member.scale is None else member.scale
        return scale, self.input.offset if member.offset is None else member.offset

    def record(self) -> dict[str, Any]:
        """All that results depend on as plain values; files count by their content, not by their place."""
        record = dataclasses.asdict(self)
        record["data"] = {"classes": self.data.classes, "labels": dataclasses.asdict(self.data.labels)}
        record["input"]["stain"] = self.stain and self.stain.to_record()
        for member in record["members"]:
            member["encoder"] = encoder_name(member["encoder"])
        return record


def read_config(path: str | Path, *, seed: int | None = None) -> Config:
    """Read and check a training's TOML file; `example()` shows every setting.

    Args:
        seed: instead of the file's own.

    Raises:
        NotFound: no such file. BadInput: no TOML, a key or section that does not exist, a value of
            the wrong type or out of range; the message names file, section and key.
    """
    path = Path(path)
    table = read_toml(path)
    try:
        config = _config(table, path.parent)
    except BadInput as error:
        raise BadInput(f"{error}: {path}") from error
    config = config if seed is None else replace(config, seed=seed)
    if config.seed < 0:
        raise BadInput(f"expected seed of at least 0, got {config.seed}: {path}")
    return config


def example() -> str:
    """A commented configuration with every setting."""
    return (resources.files("digipath.training") / "example.toml").read_text(encoding="utf-8")


SECTIONS = ("seed", "data", "input", "member", "schedule", "sampling", "augmentation", "split", "score", "card")


def _config(table: Mapping[str, Any], base: Path) -> Config:
    if unknown := [key for key in table if key not in SECTIONS]:
        raise BadInput(f"there is no {unknown[0]!r}; known at the top are {', '.join(SECTIONS)}")

    def section(name: str, kind: type[T], **given: Any) -> T:  # noqa: ANN401
        return parsed(kind, table.get(name, {}), f"[{name}]", base, given)

    seed = typed(table.get("seed", 0), int, "seed", base)
    given = section("input", Input)
    given = replace(given, stain=stain_setting(given.stain, "[input]", base))
    augmentation = None if table.get("augmentation") == NONE else section("augmentation", Augmentation)
    schedule = section("schedule", Schedule)
    # Runs put in their own seed and length of an epoch.
    patches = {"mpp": given.mpp, "patch_px": given.training_patch, "patches_per_epoch": 1, "seed": 0}
    return Config(
        data=section("data", Data),
        input=given,
        members=_members(table.get("member", []), base, schedule, scaled="scale" in table["input"]),
        schedule=schedule,
        card=section("card", CardText),
        sampling=section("sampling", Sampling, **patches),
        augmentation=augmentation,
        split=section("split", Splitting),
        score=section("score", Scoring),
        seed=seed,
    )


def stain_setting(stain: str | None, where: str, base: Path) -> str | None:
    """A setting `stain` with the path of a picture or slide starting at the file's folder.

    Raises BadInput, which says `where` in the file: no such method or file.
    """
    if stain is None or stain in REFERENCES:
        return stain
    if not (base / stain).is_file():
        known = f"{NONE}, {', '.join(REFERENCES)} or a picture or slide"
        raise BadInput(f"{where} expected stain to be {known}, got {stain!r}")
    return str(base / stain)


def _members(tables: object, base: Path, schedule: Schedule, *, scaled: bool) -> tuple[Member, ...]:
    """scaled: the common input states its scaling, which then holds for encoders too."""
    if not isinstance(tables, list) or not tables:
        raise BadInput("expected at least one [[member]] with name and network")
    members = tuple(parsed(Member, table, f"[[member]] {number}", base) for number, table in enumerate(tables, 1))
    names = [member.name for member in members]
    if len(set(names)) < len(names):
        raise BadInput(f"expected members of different names, got {', '.join(names)}")
    found = []
    for member in members:
        where, known = f"[member.schedule] of {member.name}", settings_of(Schedule)
        changes = values_of(known, member.schedule, where, base)
        checked(replace(schedule, **changes), where)
        found.append(replace(member if scaled else _scaled(member), schedule=changes))
    return tuple(found)


def _scaled(member: Member) -> Member:
    """The member with the scaling that its encoder's card states, unless it has its own."""
    if member.encoder is None or member.scale is not None:
        return member
    scale, offset = stated_scaling(member.encoder)
    return replace(member, scale=scale, offset=offset if member.offset is None else member.offset)
