"""What several verbs share: how a verb is declared, the options of networks, progress."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digipath.values import ProgressCallback

MODALITIES = {"t1": "T1", "t1c": "T1 with contrast agent", "t2": "T2", "flair": "FLAIR"}
NOTICE = "For research use only. Not for diagnostic procedures."


def add_verb(
    verbs: Any,  # noqa: ANN401
    name: str,
    run: Callable[[argparse.Namespace], int],
    help: str,
    examples: str,
    *,
    more: str = "",
) -> argparse.ArgumentParser:
    """Declare a verb; its --help ends with `examples`, then with `more`."""
    parser = verbs.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        epilog=f"examples:\n{examples}{more}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_network_options(verb: argparse.ArgumentParser, *, adaptive: bool = False) -> None:
    from_cards = verb.add_mutually_exclusive_group()
    from_cards.add_argument("--weights", metavar="NAME", help="see `digipath weights list`")
    from_cards.add_argument(
        "--predictor", action="append", metavar="MODULE:NAME",
        help="your own callable (B, P, P, 3) uint8 → (B, P, P, C) in [0, 1]; repeat for an ensemble",
    )
    verb.add_argument("--patch", type=int, metavar="PX", help="side of a patch (default: the card's)")
    verb.add_argument("--overlap", type=float, default=0.5, help="share of a patch its neighbour covers (default: 0.5)")
    verb.add_argument(
        "--views", type=views if adaptive else int, default=1, metavar="1|2|4|8|adaptive" if adaptive else "1|2|4|8",
        help="symmetries to average over (default: 1)"
        + ("; adaptive: 2, and all 8 where those disagree or come near 0.5" if adaptive else ""),
    )
    add_runtime_options(verb)


def add_runtime_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--runtime", choices=("auto", "keras", "openvino"), default="auto")
    verb.add_argument("--precision", choices=("auto", "f32", "bf16"), default="auto")


def views(text: str) -> int | str:
    return text if text == "adaptive" else int(text)


def out_mpp(text: str) -> float | str:
    return text if text == "native" else float(text)


def network_options(arguments: argparse.Namespace) -> dict[str, Any]:
    from digipath.weights import DEFAULT

    names = ("patch", "overlap", "views", "runtime", "precision")
    options = {name: getattr(arguments, name) for name in names}
    options["predictors"] = own_predictors(arguments.predictor)
    options["weights"] = arguments.weights or DEFAULT
    return options


def own_predictors(references: Sequence[str] | None) -> list[Any] | None:
    """What `--predictor` names, imported; None where it was not given."""
    if not references:
        return None
    from digipath.networks import import_predictor

    sys.path.insert(0, os.getcwd())  # as `python -m` does, for the user's own modules
    return [import_predictor(reference) for reference in references]


def add_bag_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--groups", type=groups, metavar="N|all",
        help="weights that see bags: random groups of tiles of which each is seen at once (default: the card's)",
    )
    verb.add_argument("--bag", type=int, metavar="N", help="the same: tiles in a group (default: the card's)")
    verb.add_argument("--no-bag-augmentation", action="store_true", help="the same: the middle of each tile, unchanged")


def groups(text: str) -> int | str:
    return text if text == "all" else int(text)


def add_volume_options(verb: argparse.ArgumentParser) -> None:
    volumes = verb.add_argument_group("MRI", "NIfTI files or folders of one DICOM series each, skull-stripped")
    for name, words in MODALITIES.items():
        volumes.add_argument(f"--{name}", metavar="FILE", help=words)
    volumes.add_argument("--volume", action="append", default=[], metavar="FILE", help="any of these, told by its name")
    volumes.add_argument("--brain", metavar="FILE", help="mask of the brain (default: where a volume is not zero)")
    volumes.add_argument("--tumour", metavar="FILE", help="mask of the tumour, for networks that look at it")
    volumes.add_argument(
        "--slice", type=int, metavar="N",
        help="axial slice, counted from below, for networks of slices (default: that of the largest tumour area)",
    )


def volumes_of(arguments: argparse.Namespace) -> dict[str, str] | list[str] | None:
    """The volumes named by option, or those told by their names; None without any."""
    by_option = {name: path for name in MODALITIES if (path := getattr(arguments, name)) is not None}
    if by_option and arguments.volume:
        from digipath.errors import BadInput

        raise BadInput("expected MRI by --t1, --t1c, --t2 and --flair, or by --volume, got both")
    return by_option or arguments.volume or None


def bag_augmentation(arguments: argparse.Namespace) -> bool | None:
    return False if arguments.no_bag_augmentation else None


def print_result(value: object, as_json: bool, in_words: Callable[[], object]) -> int:
    if as_json:
        print(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        in_words()
    return 0


def progress(quiet: bool) -> AbstractContextManager[ProgressCallback | None]:
    from digipath.progress import progress_bar

    return progress_bar(quiet=quiet)
