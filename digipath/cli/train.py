"""`digipath train`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from digipath.cli.common import NOTICE, add_verb, progress
from digipath.errors import BadInput


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verbs of this file."""
    verb = add_verb(
        verbs, "train", _train, "train networks on slides with outlines or masks, and write their cards",
        "  digipath train --example > my.toml\n"
        "  digipath train --config my.toml --dry-run            check everything, print the plan\n"
        "  digipath train --config my.toml --out my-networks    the same command goes on after an interruption\n"
        "  digipath segment slide.svs --weights my-networks/weights/NAME.json\n",
    )
    verb.add_argument("--config", metavar="TOML", help="settings; --example prints a commented file")
    verb.add_argument("--out", metavar="FOLDER", help="where everything is written (default: ./<card's name>.training)")
    verb.add_argument("--seed", type=int, help="instead of the configuration's")
    verb.add_argument("--dry-run", action="store_true", help="check everything and print the plan, write nothing")
    verb.add_argument("--no-resume", action="store_true", help="start afresh, removing an earlier training in FOLDER")
    verb.add_argument("--example", action="store_true", help="print a commented configuration")
    verb.add_argument("--json", action="store_true", help="print the results as JSON")


def _train(arguments: argparse.Namespace) -> int:
    from digipath.training.config import example, read_config

    if arguments.example:
        print(example(), end="")
        return 0
    if arguments.config is None:
        raise BadInput("expected --config TOML; `digipath train --example > my.toml` writes one to begin with")
    config = read_config(arguments.config, seed=arguments.seed)
    from digipath.training.experiment import check_patches, train
    from digipath.training.plan import prepare

    if arguments.dry_run:
        prepared = prepare(config)
        check_patches(prepared)
        plan = prepared.lines()
        print(json.dumps({"plan": plan}, indent=2, ensure_ascii=False) if arguments.json else "\n".join(plan))
        return 0
    with progress(arguments.json) as show:
        result = train(config, out=arguments.out, resume=not arguments.no_resume, progress=show)
    if arguments.json:
        print(json.dumps({"folder": str(result.folder), **result.record}, indent=2, ensure_ascii=False))
        return 0
    print((result.folder / "summary.md").read_text(encoding="utf-8"))
    print(f"card: {result.card}")
    print(NOTICE)
    return 0
