"""Weights cards: where they lie, how they are found by name, what they must look like.

A card is a JSON file. Cards come with the package (`weights/` in the repository) or lie in
`DIGIPATH_HOME/weights`; a path to a card file works as a name too. The weights file lies beside
its card; a card of the package whose file is not packaged has it in `DIGIPATH_HOME/weights`.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import os
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from digipath.errors import BadCard, UnknownWeights
from digipath.files import read_json
from digipath.values import Card

DEFAULT = "lymphnode-ensemble-v1"
DEFAULT_FOREST = "lymphnode-pn-forest-v1"
DEFAULT_GRADER = "glioma-tiles-demo-v1"
DEFAULT_VOLUME_GRADER = "glioma-mri-demo-v1"
DEFAULT_FUSION = "glioma-fusion-demo-v1"
SCHEMA = "card.schema.json"


def home() -> Path:
    """Folder of fetched and imported weights: DIGIPATH_HOME, else the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("DIGIPATH_HOME") or platformdirs.user_cache_dir("digipath"))


def store() -> Path:
    """The folder in `home` that holds weights files, and cards that are not the package's."""
    return home() / "weights"


def packaged() -> Path:
    """The folder of the cards that come with the package."""
    return Path(str(resources.files("digipath.cards")))


def list_weights() -> list[str]:
    """Names of all cards, those of the package first."""
    return list(dict.fromkeys(path.stem for path in card_files()))


def show_weights(name: str) -> dict[str, Any]:
    """The card of that name as a dictionary.

    Raises:
        UnknownWeights: no such card. BadCard: it breaks the schema.
    """
    return dict(load_card(name).record)


def load_card(name: str) -> Card:
    """Read and check one card, by its name or by the path of its file.

    Raises:
        UnknownWeights: no such card. BadCard: it breaks the schema.
    """
    path = _find(name)
    try:
        text = path.read_text(encoding="utf-8")
        record = json.loads(text, parse_int=_finite, parse_float=_finite, parse_constant=_finite)
        json.dumps(record, ensure_ascii=False).encode()  # a lone surrogate is text that nobody can print
    except (OSError, ValueError, RecursionError) as error:
        raise BadCard(f"expected JSON in a weights card, got {error}: {path}") from error
    check_card(record, path)
    return Card(path, record, _folder(path, record))


def members(card: Card) -> list[Card]:
    """The cards an ensemble names, in order: those beside it first, else by their names.

    Raises:
        UnknownWeights: a member has no card. BadCard: a member's card breaks the schema.
    """
    return [_named(card, name) for name in card.record["members"]]


def segmenter(card: Card) -> Card | None:
    """The card of what finds the tumour for a grader of MRI, beside it first, else by its name; None: it names none.

    Raises:
        UnknownWeights: it has no card. BadCard: that card breaks the schema.
    """
    name = card.record["input"].get("segmenter")
    return None if name is None else _named(card, name)


def _named(card: Card, name: str) -> Card:
    beside = card.path.with_name(f"{name}.json")
    return load_card(str(beside) if beside.is_file() else name)


def member_cards(name: str) -> list[Card]:
    """The network cards behind a name: itself, or the members of an ensemble in order.

    Raises:
        UnknownWeights, BadCard: as `load_card`; also members that do not fit together.
    """
    card = load_card(name)
    kind = card.record["kind"]
    if kind not in ("network", "ensemble"):
        raise BadCard(f"{name} is of kind {kind}, expected a network or an ensemble of networks")
    found = members(card) if kind == "ensemble" else [card]
    for member in found:
        if (member.record["kind"], member.record["input"]["modality"]) != ("network", "slide"):
            raise BadCard(f"{member.name} is no network for slides: {member.path}")
        if (member.kept, member.kept_classes, member.mpp) != (found[0].kept, found[0].kept_classes, found[0].mpp):
            raise BadCard(f"{name}: members {found[0].name} and {member.name} differ in classes, channels or mpp")
    return found


def cards_behind(card: Card, *, within: tuple[str, ...] = ()) -> list[Card]:
    """All cards that a card names, those that these name, and the card itself at the end, each once.

    An ensemble names its members, a grader of MRI its segmenter.

    Raises:
        UnknownWeights, BadCard: as `members`; also a card that names itself, if through others.
    """
    if card.name in within:
        raise BadCard(f"{card.record['kind']} {card.name} holds itself: {card.path}")
    named = members(card) if "members" in card.record else []
    if (found := segmenter(card)) is not None:
        named.append(found)
    behind = [each for one in named for each in cards_behind(one, within=(*within, card.name))]
    return list({one.path: one for one in [*behind, card]}.values())


def cards_with_files(card: Card) -> list[Card]:
    """Those of `cards_behind` that have a weights file of their own."""
    return [one for one in cards_behind(card) if "file" in one.record]


def card_files() -> Iterator[Path]:
    """The files of all cards, those of the package first."""
    for folder in (packaged(), store()):
        yield from sorted((p for p in folder.glob("*.json") if p.name != SCHEMA), key=lambda p: p.stem)


def _folder(path: Path, record: dict[str, Any]) -> Path | None:
    """Where a card's weights file lies, if not beside the card."""
    if "file" not in record or path.resolve().parent != packaged().resolve():
        return None
    return None if path.with_name(record["file"]).is_file() else store()


def _find(name: str) -> Path:
    if name.endswith(".json"):
        if not Path(name).is_file():
            raise UnknownWeights(f"no card file {name}")
        return Path(name)
    found = next((path for path in card_files() if path.stem == name), None)
    if found is None:
        close = difflib.get_close_matches(name, list_weights(), cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise UnknownWeights(f"no weights called {name!r}; {hint}`digipath weights list` shows all")
    return found


def _finite(text: str) -> float:
    """A number of JSON; NaN, infinity and what is larger than any float are none of a card's.

    Raises ValueError otherwise.
    """
    number = float(text)
    if not math.isfinite(number):
        shown = text if len(text) <= 20 else f"{text[:20]}…"
        raise ValueError(f"{shown}, which is no finite number")
    return number if set(text) & set(".eE") else int(text)


def check_card(record: Any, path: Path) -> None:  # noqa: ANN401 - any JSON
    """Raise BadCard unless a record may stand in the card file `path`."""
    error = next(_validator().iter_errors(record), None)
    if error is not None:
        where = "/".join(str(part) for part in error.absolute_path) or "the card"
        raise BadCard(f"weights card breaks its schema at {where}: {error.message[:200]}: {path}")
    if record["name"] != path.stem:
        raise BadCard(f"card {path} calls itself {record['name']!r}, expected {path.stem!r}")
    if record.get("positive") not in (None, *record.get("classes", ())):
        raise BadCard(f"positive class {record['positive']!r} is none of {record['classes']}: {path}")


@functools.cache
def _validator() -> Any:  # noqa: ANN401 - jsonschema is imported when first needed
    import jsonschema

    schema = read_json(packaged() / SCHEMA)
    return jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": _follows})(schema)


def _follows(_validator: Any, pattern: str, text: Any, _schema: Any) -> Iterator[Any]:  # noqa: ANN401 - jsonschema's
    """The schema's patterns as the standard means them: in Python's own, `$` also matches before a last line break."""
    import jsonschema

    if isinstance(text, str) and not re.search(pattern.replace("$", r"\Z"), text):
        yield jsonschema.ValidationError(f"{text!a} does not match {pattern!r}")
