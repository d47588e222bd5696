"""`digipath train`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from digipath.cli.common import NOTICE, add_verb, progress
from digipath.errors import BadInput

if TYPE_CHECKING:
    from digipath.training.bag_config import BagConfig
    from digipath.training.config import Config
    from digipath.training.grading_config import TileConfig
    from digipath.training.volume_config import VolumeConfig

    AnyConfig = Config | TileConfig | BagConfig | VolumeConfig

EXAMPLES = ("segmentation", "tiles", "bags", "volumes", "tumours")


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verbs of this file."""
    verb = add_verb(
        verbs, "train", _train, "train networks to segment or to grade, and write their cards",
        "  digipath train --example > my.toml                   to segment slides with outlines or masks\n"
        "  digipath train --example tiles > my.toml             to grade slides by their tiles\n"
        "  digipath train --example bags > my.toml              to grade slides by bags of tiles\n"
        "  digipath train --example volumes > my.toml           to grade MRI\n"
        "  digipath train --example tumours > my.toml           to find tumours in MRI\n"
        "  digipath train --config my.toml --dry-run            check everything, print the plan\n"
        "  digipath train --config my.toml --out my-networks    the same command goes on after an interruption\n"
        "  digipath segment slide.svs --weights my-networks/weights/NAME.json\n"
        "  digipath grade slide.svs --weights my-graders/weights/NAME.json\n",
    )
    verb.add_argument("--config", metavar="TOML", help="settings; --example prints a commented file")
    verb.add_argument("--out", metavar="FOLDER", help="where everything is written (default: ./<card's name>.training)")
    verb.add_argument("--seed", type=int, help="instead of the configuration's")
    verb.add_argument("--dry-run", action="store_true", help="check everything and print the plan, write nothing")
    verb.add_argument("--no-resume", action="store_true", help="start afresh, removing an earlier training in FOLDER")
    verb.add_argument(
        "--example", nargs="?", const=EXAMPLES[0], choices=EXAMPLES, help="print a commented configuration"
    )
    verb.add_argument("--json", action="store_true", help="print the results as JSON")


def _train(arguments: argparse.Namespace) -> int:
    from digipath.training import bag_config, grading_config, tumour_config, volume_config
    from digipath.training.config import example, read_config

    examples = {
        grading_config.TASK: grading_config.tile_example,
        bag_config.TASK: bag_config.bag_example,
        volume_config.TASK: volume_config.volume_example,
        tumour_config.TASK: tumour_config.tumour_example,
    }
    if arguments.example:
        print(examples.get(arguments.example, example)(), end="")
        return 0
    if arguments.config is None:
        raise BadInput("expected --config TOML; `digipath train --example > my.toml` writes one to begin with")
    readers: Mapping[str, Callable[..., AnyConfig]] = {
        grading_config.TASK: grading_config.read_tile_config,
        bag_config.TASK: bag_config.read_bag_config,
        volume_config.TASK: volume_config.read_volume_config,
        tumour_config.TASK: tumour_config.read_tumour_config,
    }
    read = readers.get(grading_config.task_of(arguments.config) or "", read_config)
    config = read(arguments.config, seed=arguments.seed)
    if arguments.dry_run:
        plan = _plan(config)
        print(json.dumps({"plan": plan}, indent=2, ensure_ascii=False) if arguments.json else "\n".join(plan))
        return 0
    from digipath.training.experiment import train

    with progress(arguments.json) as show:
        result = train(config, out=arguments.out, resume=not arguments.no_resume, progress=show)
    if arguments.json:
        print(json.dumps({"folder": str(result.folder), **result.record}, indent=2, ensure_ascii=False))
        return 0
    print((result.folder / "summary.md").read_text(encoding="utf-8"))
    print(f"card: {result.card}")
    print(NOTICE)
    return 0


def _plan(config: AnyConfig) -> list[str]:
    """What a training would do, once all slides have been looked at."""
    from digipath.training.bag_config import BagConfig
    from digipath.training.grading_config import TileConfig
    from digipath.training.volume_config import VolumeConfig

    if isinstance(config, VolumeConfig):
        from digipath.training import volume_plan

        return volume_plan.planned(config).lines()

    if isinstance(config, BagConfig):
        from digipath.training.bag_plan import prepare_bags, survey

        bags = prepare_bags(config)
        return bags.lines(survey(bags))

    if isinstance(config, TileConfig):
        from digipath.training.grading_plan import prepare_tiles
        from digipath.training.grading_tiles import draw

        planned = prepare_tiles(config)
        return planned.lines(draw(planned))
    from digipath.training.experiment import check_patches
    from digipath.training.plan import prepare

    prepared = prepare(config)
    check_patches(prepared)
    return prepared.lines()
