"""Weights cards: find, check, list and verify them. Networks are built elsewhere.

A card is a JSON file beside its weights file. Cards come with the package (`weights/` in the
repository) or lie in `DIGIPATH_HOME/weights`; a path to a card file works as a name too.
Nothing is downloaded here and nothing but a verified file is ever opened by a network.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from digipath.errors import BadCard, UnknownWeights, WeightsCorrupt
from digipath.files import read_json
from digipath.values import Card

DEFAULT = "lymphnode-unet-v1"
SCHEMA = "card.schema.json"


def home() -> Path:
    """Folder of fetched and imported weights: DIGIPATH_HOME, else the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("DIGIPATH_HOME") or platformdirs.user_cache_dir("digipath"))


def list_weights() -> list[str]:
    """Names of all cards, those of the package first."""
    return list(dict.fromkeys(path.stem for path in _card_files()))


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
        record = read_json(path)
    except (ValueError, RecursionError) as error:
        raise BadCard(f"expected JSON in a weights card, got {error}: {path}") from error
    _check(record, path)
    return Card(path, record)


def member_cards(name: str) -> list[Card]:
    """The network cards behind a name: itself, or the members of an ensemble in order.

    Raises:
        UnknownWeights, BadCard: as `load_card`; also members that do not fit together.
    """
    card = load_card(name)
    kind = card.record["kind"]
    if kind not in ("network", "ensemble"):
        raise BadCard(f"{name} is a {kind}, expected a network or an ensemble of networks")
    members = [load_card(member) for member in card.record["members"]] if kind == "ensemble" else [card]
    for member in members:
        if (member.record["kind"], member.record["input"]["modality"]) != ("network", "slide"):
            raise BadCard(f"{member.name} is no network for slides: {member.path}")
        if (member.kept, member.kept_classes, member.mpp) != (members[0].kept, members[0].kept_classes, members[0].mpp):
            raise BadCard(f"{name}: members {members[0].name} and {member.name} differ in classes, channels or mpp")
    return members


def verify(card: Card) -> str | None:
    """Check the weights file against its card and return its sha256.

    Raises:
        UnknownWeights: the file is absent. WeightsCorrupt: its sha256 is not the card's.
    """
    if not card.file.is_file():
        raise UnknownWeights(f"the weights file of {card.name} is absent, expected it at {card.file}")
    found, stated = sha256_of(card.file), card.record["sha256"]
    if stated is not None and found != stated:
        raise WeightsCorrupt(
            f"sha256 of {card.file} is {found[:12]}…, its card says {stated[:12]}…; "
            "the file is damaged or was replaced: fetch or copy it again"
        )
    return found


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _card_files() -> Iterator[Path]:
    for folder in (_packaged(), home() / "weights"):
        yield from sorted(p for p in folder.glob("*.json") if p.name != SCHEMA)


def _packaged() -> Path:
    return Path(str(resources.files("digipath.cards")))


def _find(name: str) -> Path:
    if name.endswith(".json"):
        if not Path(name).is_file():
            raise UnknownWeights(f"no card file {name}")
        return Path(name)
    found = next((path for path in _card_files() if path.stem == name), None)
    if found is None:
        raise UnknownWeights(f"no weights called {name!r}; known: {', '.join(list_weights())}")
    return found


def _check(record: Any, path: Path) -> None:  # noqa: ANN401 - any JSON
    error = next(_validator().iter_errors(record), None)
    if error is not None:
        where = "/".join(str(part) for part in error.absolute_path) or "the card"
        raise BadCard(f"weights card breaks its schema at {where}: {error.message[:200]}: {path}")
    if record["name"] != path.stem:
        raise BadCard(f"card {path} calls itself {record['name']!r}, expected {path.stem!r}")
    if record.get("positive") not in (None, *record["classes"]):
        raise BadCard(f"positive class {record['positive']!r} is none of {record['classes']}: {path}")


@functools.cache
def _validator() -> Any:  # noqa: ANN401 - jsonschema is imported when first needed
    import jsonschema

    schema = read_json(_packaged() / SCHEMA)
    return jsonschema.Draft202012Validator(schema)
