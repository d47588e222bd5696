"""`digipath weights`: list, show, fetch, import, verify, fuse."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from digipath.cli.common import add_verb, print_result, progress
from digipath.errors import BadCard, BadInput, DigipathError, UnknownWeights, WeightsCorrupt

T = TypeVar("T")
LOG_WIDTH = 160  # of a table in a log, where no window limits it


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verbs of this file."""
    verb = add_verb(
        verbs, "weights", lambda _: 2, "list, show, fetch, import, verify and fuse weights",
        "  digipath weights list\n"
        "  digipath weights show lymphnode-ensemble-v1\n"
        "  digipath weights fetch digipathai-breast\n"
        "  digipath weights import digipathai-breast-densenet camelyon_densenet.h5\n"
        "  digipath weights verify\n"
        "  digipath weights fuse both --member glioma-tiles-demo-v1 --member glioma-mri-demo-v1\n",
    )
    actions = verb.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_looking(actions)
    _add_fetch(actions)
    _add_import(actions)
    _add_fuse(actions)


def _add_looking(actions: Any) -> None:  # noqa: ANN401
    _action(
        actions, "list", _list, "what there is, and what of it is here",
        "  digipath weights list\n  digipath weights list --json\n",
    )
    show = _action(
        actions, "show", _show, "the card of some weights: data, scores, licence, limits",
        "  digipath weights show digipathai-breast\n",
    )
    show.add_argument("name", help="a name from the list, or a card file")
    verify = _action(
        actions, "verify", _verify, "check the files that are here against their cards",
        "  digipath weights verify\n  digipath weights verify lymphnode-ensemble-v1\n",
    )
    verify.add_argument("name", nargs="?", help="a name from the list, or a card file (default: all that are here)")


def _add_fetch(actions: Any) -> None:  # noqa: ANN401
    verb = _action(
        actions, "fetch", _fetch, "download weights; an interrupted download goes on",
        "  digipath weights fetch digipathai-breast                  the three networks of an ensemble\n"
        "  digipath weights fetch digipathai-breast --from /media/usb   files that were carried here\n"
        "  HTTPS_PROXY=http://proxy:3128 digipath weights fetch imagenet-densenet121\n",
    )
    verb.add_argument("name", nargs="+", help="a name from the list")
    verb.add_argument(
        "--from", dest="source", metavar="FOLDER|URL",
        help="a folder, or the https address of a mirror, that holds the files by their published names",
    )


def _add_import(actions: Any) -> None:  # noqa: ANN401
    verb = _action(
        actions, "import", _import, "install a weights file brought by hand, or a card of your own",
        "  digipath weights import digipathai-breast-densenet camelyon_densenet.h5\n"
        "  digipath weights import run/ensemble-v1.json    your own card, with its weights and members\n",
    )
    verb.add_argument("name", metavar="NAME|CARD.json", help="a name from the list, or your card file")
    verb.add_argument("file", nargs="?", help="the weights file, for a name from the list")
    verb.add_argument("--force", action="store_true", help="replace other weights of that name")


def _add_fuse(actions: Any) -> None:  # noqa: ANN401
    verb = _action(
        actions, "fuse", _fuse, "write the card of a soft vote over networks for slides and MRI",
        "  digipath weights fuse both --member glioma-tiles-demo-v1 --member glioma-mri-demo-v1\n"
        "  digipath weights fuse both --member slides-v1 --member mri-v1 --weight mri-v1=0.5 --out cards\n"
        "  digipath weights fuse both --class LGG --class HGG --member lgg-hgg-mri --member grades \\\n"
        "      --meaning 'grades: grade 2=LGG' --meaning 'grades: grade 3=LGG' --meaning 'grades: grade 4=HGG'\n"
        "  digipath weights fuse best --member a --member b --member c --drop 1 \\\n"
        "      --validation a=0.91 --validation b=0.84 --validation c=0.88\n",
    )
    verb.add_argument("name", help="of the fusion: lower-case letters, digits and hyphens")
    verb.add_argument("--member", action="append", required=True, metavar="NAME", help="a card that votes; repeat")
    verb.add_argument("--weight", action="append", default=[], metavar="NAME=W", help="of a member (default: 1)")
    verb.add_argument("--class", action="append", dest="classes", metavar="NAME", help="in rising order of malignancy")
    verb.add_argument(
        "--meaning", action="append", default=[], metavar="'NAME: CLASS=CLASS'",
        help="what a class of a member with other classes means in the fusion; repeat for each of its classes",
    )
    verb.add_argument("--validation", action="append", default=[], metavar="NAME=S", help="score of a member")
    verb.add_argument("--drop", type=int, default=0, metavar="N", help="leave the worst out by their validation scores")
    verb.add_argument("--out", default=".", metavar="FOLDER", help="where the card goes (default: here)")


def _fuse(arguments: argparse.Namespace) -> int:
    from digipath.grading.fusion_cards import FusionPlan, write_fusion

    meanings: dict[str, dict[str, str]] = {}
    for text in arguments.meaning:
        member, _, said = text.partition(":")
        own, meant = _pair(said, "--meaning 'NAME: CLASS=CLASS'")
        _add(meanings.setdefault(member.strip(), {}), own, meant, f"--meaning '{member.strip()}: {own}=…'")
    plan = FusionPlan(
        arguments.name, arguments.member, arguments.classes, _numbers(arguments.weight, "--weight"), meanings,
        _numbers(arguments.validation, "--validation"), arguments.drop,
    )  # fmt: skip
    path = str(write_fusion(plan, arguments.out))
    return print_result(path, arguments.json, lambda: print(path))


def _numbers(texts: Sequence[str], option: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, number = _pair(text, f"{option} NAME=NUMBER")
        try:
            value = float(number)
        except ValueError:
            raise BadInput(f"expected {option} NAME=NUMBER, got {text!r}") from None
        _add(found, name, value, f"{option} {name}=…")
    return found


def _add(found: dict[str, T], name: str, value: T, option: str) -> None:
    """Raises BadInput: a value was given before."""
    if name in found:
        raise BadInput(f"expected {option} once, got {found[name]} and {value}")
    found[name] = value


def _pair(text: str, wanted: str) -> tuple[str, str]:
    left, sign, right = (part.strip() for part in text.partition("="))
    if not (left and sign and right):
        raise BadInput(f"expected {wanted}, got {text!r}")
    return left, right


def _action(
    actions: Any, name: str, run: Callable[[argparse.Namespace], int], help: str, examples: str  # noqa: ANN401
) -> argparse.ArgumentParser:
    action = add_verb(actions, name, run, help, examples)
    action.add_argument("--json", action="store_true", help="print as JSON")
    return action


def _list(arguments: argparse.Namespace) -> int:
    from digipath.weights import list_weights

    rows = [_row_or_reason(name) for name in list_weights()]
    return print_result(rows, arguments.json, lambda: _print_rows(rows))


def _show(arguments: argparse.Namespace) -> int:
    from digipath.weights import show_weights

    card = show_weights(arguments.name)
    return print_result(card, arguments.json, lambda: _print_record(card))


def _fetch(arguments: argparse.Namespace) -> int:
    from digipath.weights import fetch

    found = {}
    for name in arguments.name:
        with progress(arguments.json) as show:
            found[name] = [str(path) for path in fetch(name, source=arguments.source, progress=show)]
    return print_result(found, arguments.json, lambda: [print(path) for paths in found.values() for path in paths])


def _import(arguments: argparse.Namespace) -> int:
    from digipath.weights import import_weights

    installed = [str(path) for path in import_weights(arguments.name, arguments.file, force=arguments.force)]
    return print_result(installed, arguments.json, lambda: [print(path) for path in installed])


def _verify(arguments: argparse.Namespace) -> int:
    """Of one name everything must be here and whole; of all names what is here must be whole."""
    from digipath.weights import cards_with_files, list_weights, load_card, verify

    if arguments.name:
        found = {card.name: verify(card, asked=arguments.name) for card in cards_with_files(load_card(arguments.name))}
        return print_result(found, arguments.json, lambda: _print_verified(found))
    results: dict[str, str | None] = {}
    damaged: list[DigipathError] = []
    for name in list_weights():
        try:
            card = load_card(name)
            if "file" in card.record:
                results[name] = verify(card)
        except UnknownWeights:
            results[name] = None
        except (WeightsCorrupt, BadCard) as error:
            damaged.append(error)
    print_result(results, arguments.json, lambda: _print_verified(results))
    if damaged:  # after the others were shown; one line, as every error
        raise damaged[0] if len(damaged) == 1 else WeightsCorrupt("; ".join(map(str, damaged)))
    return 0


def _print_verified(results: dict[str, Any]) -> None:
    for name, sha256 in results.items():
        if sha256 is not None:
            print(f"{name}: sha256 {sha256}")
    if skipped := [name for name, sha256 in results.items() if sha256 is None]:
        print(f"skipped, not fetched: {', '.join(skipped)}")


def _row_or_reason(name: str) -> dict[str, Any]:
    """A card with what is here of it, or what is wrong with it: one broken card must not hide the others."""
    from digipath.weights import cards_with_files, load_card, whereabouts

    try:
        card = load_card(name)
        behind = cards_with_files(card)
    except (BadCard, UnknownWeights) as error:
        return {"name": name, "kind": "BROKEN", "task": str(error), "input": {}, "here": "–", "size": "–"}
    states = [whereabouts(each) for each in behind]
    here = sum(each.file.is_file() for each in behind)
    known = states[0] if len(set(states)) == 1 else f"{here} of {len(behind)} here"
    return {**card.record, "here": known, "size": _size(behind)}


def _size(cards: Sequence[Any]) -> str:
    """Megabytes of the files: as they are here, as the cards say, or at least the networks' parameters."""
    sizes = [card.file.stat().st_size if card.file.is_file() else card.record["bytes"] for card in cards]
    if None not in sizes:
        return f"{sum(sizes) / 1e6:.0f} MB"
    least = sum(size or 4 * card.record.get("parameters", 0) for size, card in zip(sizes, cards, strict=True))
    return f"≥ {least / 1e6:.0f} MB" if least else "not stated"


def _print_rows(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    table = Table("name", "kind", "µm/px", "size", "here", "task")
    for column in table.columns[:-1]:
        column.no_wrap = True
    for row in rows:
        mpp = str(row["input"].get("mpp", row["input"].get("map_mpp", "–")))
        table.add_row(row["name"], row["kind"], mpp, row["size"], row["here"], row["task"])
    console.print(table)
    console.print("`digipath weights show NAME` tells licence, data, scores and limits; `fetch NAME` brings it here.")


def _print_record(record: dict[str, Any], indent: str = "") -> None:
    for key, value in record.items():
        if isinstance(value, dict):
            print(f"{indent}{key}:")
            _print_record(value, indent + "  ")
        elif isinstance(value, list) and value and all(isinstance(item, int | float) for item in value):
            print(f"{indent}{key}: {', '.join(map(str, value))}")
        elif isinstance(value, list):
            print(f"{indent}{key}:")
            for item in value:
                text = ", ".join(f"{k} {v}" for k, v in item.items()) if isinstance(item, dict) else item
                print(f"{indent}  - {text}")
        else:
            print(f"{indent}{key}: {value}")
