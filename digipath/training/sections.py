"""Dataclasses from TOML tables: strict about keys and types, and telling where in the file something is wrong."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from digipath.errors import BadInput, NotFound, UnknownWeights

NONE = "none"  # how TOML, which has no null, says None


class CardName(str):
    """The name of a card of weights, or the path of its file, which ends in ".json"."""


class Section(Protocol):
    """A dataclass of settings that knows their ranges."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def check(self) -> object: ...


T = TypeVar("T", bound=Section)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a training's configuration. Raises NotFound: no such file. BadInput: it is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFound(f"expected a training configuration, {error.strerror}: {path}") from error
    except ValueError as error:  # no UTF-8, or no TOML
        raise BadInput(f"expected a training configuration in TOML, got {error}: {path}") from error


def read_settings(path: Path, make: Callable[[dict[str, Any], Path], T], *, seed: int | None) -> T:
    """Checked settings that `make` gives of a file's tables and its folder. seed: instead of the file's own.

    Raises NotFound: no such file. BadInput, UnknownWeights: what `make` and `check` say, with the file's name.
    """
    table = read_toml(path)
    try:
        made = make(table if seed is None else {**table, "seed": seed}, path.parent)
        made.check()
    except (BadInput, UnknownWeights) as error:
        raise type(error)(f"{error}: {path}") from error
    return made


def check_top(table: Mapping[str, Any], known: Sequence[str], task: str) -> None:
    """Raise BadInput unless all keys at the top of a file are known and it is for this task."""
    if unknown := [key for key in table if key not in known]:
        raise BadInput(f"there is no {unknown[0]!r}; known at the top are {', '.join(known)}")
    if table.get("task") != task:
        raise BadInput(f'expected task = "{task}", got {table.get("task")!r}')


def parsed(kind: type[T], table: object, where: str, base: Path, given: Mapping[str, Any] | None = None) -> T:
    """A dataclass from a TOML table; `given` holds the fields that have no key of their own."""
    given = given or {}
    known = {name: hint for name, hint in settings_of(kind).items() if name not in given}
    if not isinstance(table, dict):
        raise BadInput(f"{where} must be a section, got {table!r}")
    values = values_of(known, table, where, base)
    required = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in required if name not in values and name not in given]:
        raise BadInput(f"{where} lacks {', '.join(missing)}")
    return checked(kind(**values, **given), where)


def checked(made: T, where: str) -> T:
    """The same settings, if they are in range; else BadInput that says where they stand."""
    try:
        made.check()
    except BadInput as error:
        raise BadInput(f"{where} {error}") from error
    return made


def settings_of(kind: type) -> dict[str, Any]:
    """The names of a dataclass's settings with their types."""
    return typing.get_type_hints(kind)


def values_of(known: Mapping[str, Any], table: Mapping[str, Any], where: str, base: Path) -> dict[str, Any]:
    """A table's values, each of its known type; BadInput for any key that is not known."""
    if unknown := [key for key in table if key not in known]:
        raise BadInput(f"{where} has no {unknown[0]!r}; known are {', '.join(known)}")
    return {key: typed(value, known[key], f"{where} {key}", base) for key, value in table.items()}


def typed(value: Any, hint: Any, where: str, base: Path) -> Any:  # noqa: ANN401
    """A TOML value as its annotation asks: whole numbers pass as float, paths start at the file's folder."""
    hints = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value == NONE and types.NoneType in hints:
        return None
    for kind in hints:
        if kind is Path and isinstance(value, str):
            return base / value
        if kind is CardName and isinstance(value, str):
            return CardName(base / value if value.endswith(".json") else value)
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if typing.get_origin(kind) is tuple and isinstance(value, list) and _are(value, typing.get_args(kind)):
            return tuple(map(typing.get_args(kind)[0], value))
        if typing.get_origin(kind) is Mapping and isinstance(value, dict):
            return value
        if kind in (str, int, bool) and type(value) is kind:
            return value
    raise BadInput(f"{where} must be {_in_words(hints)}, got {value!r}")


def _are(values: list[Any], kinds: tuple[Any, ...]) -> bool:
    """Whether values are what stands in the brackets of `tuple[…]`: all of one kind, as many unless it ends in …."""
    allowed = (int, float) if kinds[0] is float else kinds[:1]
    return (kinds[-1] is Ellipsis or len(values) == len(kinds)) and all(type(value) in allowed for value in values)


def _in_words(hints: tuple[Any, ...]) -> str:
    words = {
        int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path",
        CardName: "the name or file of a card",
        tuple[float, float, float]: "a list of three", tuple[float, float]: "a list of two numbers",
        tuple[str, ...]: "a list of texts", tuple[int, ...]: "a list of whole numbers",
        tuple[float, ...]: "a list of numbers", types.NoneType: f'"{NONE}"',
    }  # fmt: skip
    rest = {Mapping: "a table"}
    return " or ".join(words.get(hint) or rest.get(typing.get_origin(hint) or hint, str(hint)) for hint in hints)
