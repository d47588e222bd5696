"""`digipath weights`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from digipath.cli.common import add_verb, print_result
from digipath.errors import BadCard, BadInput


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verbs of this file."""
    _add_weights(verbs)


def _add_weights(verbs: Any) -> None:  # noqa: ANN401
    verb = add_verb(
        verbs, "weights", _weights, "list, show and verify weights",
        "  digipath weights list\n  digipath weights show lymphnode-unet-v1\n  digipath weights verify\n",
    )
    verb.add_argument("action", choices=("list", "show", "verify"))
    verb.add_argument("name", nargs="?", help="a name from the list (verify: default all)")
    verb.add_argument("--json", action="store_true")


def _weights(arguments: argparse.Namespace) -> int:
    from digipath.weights import list_weights, show_weights

    if arguments.action == "list":
        cards = [_card_or_reason(name) for name in list_weights()]
        return print_result(cards, arguments.json, lambda: _print_cards(cards))
    if arguments.action == "verify":
        return _verify([arguments.name] if arguments.name else list_weights(), arguments.json)
    if arguments.name is None:
        raise BadInput(f"weights show needs a name, one of: {', '.join(list_weights())}")
    card = show_weights(arguments.name)
    return print_result(card, arguments.json, lambda: _print_record(card))


def _card_or_reason(name: str) -> dict[str, Any]:
    """A card, or what is wrong with it: one broken card must not hide the others."""
    from digipath.weights import show_weights

    try:
        return show_weights(name)
    except BadCard as error:
        return {"name": name, "kind": "BROKEN", "task": str(error), "input": {}, "licence": "–"}


def _verify(names: Sequence[str], as_json: bool) -> int:
    from digipath.weights import load_card, verify

    cards = [load_card(name) for name in names]
    found = {card.name: verify(card) for card in cards if "file" in card.record}
    return print_result(found, as_json, lambda: [print(f"{name}: sha256 {value}") for name, value in found.items()])


def _print_cards(cards: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "kind", "task", "µm/px", "licence")
    for card in cards:
        mpp = str(card["input"].get("mpp", "–"))
        table.add_row(card["name"], card["kind"], card["task"], mpp, card["licence"])
    Console(highlight=False).print(table)


def _print_record(record: dict[str, Any], indent: str = "") -> None:
    for key, value in record.items():
        if isinstance(value, dict):
            print(f"{indent}{key}:")
            _print_record(value, indent + "  ")
        elif isinstance(value, list):
            print(f"{indent}{key}:")
            for item in value:
                text = ", ".join(f"{k} {v}" for k, v in item.items()) if isinstance(item, dict) else item
                print(f"{indent}  - {text}")
        else:
            print(f"{indent}{key}: {value}")
