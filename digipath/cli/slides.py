"""`digipath info` and `digipath convert`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from digipath.cli.common import add_verb
from digipath.errors import BadInput


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verbs of this file."""
    _add_info(verbs)
    _add_convert(verbs)


def _add_info(verbs: Any) -> None:  # noqa: ANN401
    verb = add_verb(
        verbs, "info", _info, "show a slide's size, resolution, levels and properties",
        "  digipath info slide.svs\n"
        "  digipath info slide.svs --json\n"
        "  digipath info slide.svs --overview overview.png\n",
    )
    verb.add_argument("slide")
    verb.add_argument("--mpp", type=float, help="µm per level-0 pixel, overrides the slide's own")
    verb.add_argument("--overview", metavar="PNG", help="also write a picture of the whole slide")
    verb.add_argument("--json", action="store_true", help="print everything as JSON")


def _info(arguments: argparse.Namespace) -> int:
    from digipath.slide import open_slide

    with open_slide(arguments.slide, mpp=arguments.mpp) as slide:
        if arguments.overview:
            _save_overview(slide, arguments.overview)
        found = slide.describe()
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        _print_slide(found)
    return 0


def _save_overview(slide: Any, path: str) -> None:  # noqa: ANN401
    import io
    from pathlib import Path

    from PIL import Image

    from digipath.files import write_atomically

    if Path(path).suffix.lower() != ".png":
        raise BadInput(f"--overview writes a PNG, expected a name that ends in .png, got {path}")
    encoded = io.BytesIO()
    Image.fromarray(slide.overview().image).save(encoded, "PNG")
    write_atomically(Path(path), encoded.getvalue())


def _print_slide(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    mpp = "resolution not stated (give it with --mpp)"
    if found["mpp"] is not None:
        mpp = f"{found['mpp']:.4g} µm/px ({found['mpp_source']})"
    power = "not stated" if found["objective_power"] is None else f"{found['objective_power']:g}×"
    width, height = found["size_l0"]
    console.print(f"{found['path']}", markup=False)
    console.print(f"{found['vendor']}, {width} × {height} px, {mpp}, objective {power}", markup=False)
    table = Table("level", "width", "height", "downsample", "µm/px", "tile")
    for number, level in enumerate(found["levels"]):
        level_mpp = "–" if level["mpp"] is None else f"{level['mpp']:.4g}"
        tile = "–" if level["tile"] is None else " × ".join(str(side) for side in level["tile"])
        table.add_row(str(number), *map(str, level["size"]), f"{level['downsample']:.4g}", level_mpp, tile)
    console.print(table)
    if found["associated"]:
        console.print(f"associated images: {', '.join(found['associated'])}", markup=False)


def _add_convert(verbs: Any) -> None:  # noqa: ANN401
    verb = add_verb(
        verbs, "convert", _convert, "turn a flat TIFF, JPEG or PNG into a tiled pyramid",
        "  digipath convert flat.tif slide.tiff --mpp 0.5\n"
        "  digipath convert flat.tif slide.tiff --mpp 0.5 --quality 90    JPEG instead of lossless\n",
    )
    verb.add_argument("source")
    verb.add_argument("target", help="a .tiff file")
    verb.add_argument("--mpp", type=float, help="µm per pixel to write (default: the source's own)")
    verb.add_argument("--tile", type=int, default=512, help="side of a tile (default: 512)")
    verb.add_argument("--quality", type=int, help="JPEG quality 1–100 (default: lossless)")
    verb.add_argument("--overwrite", action="store_true")


def _convert(arguments: argparse.Namespace) -> int:
    from digipath.convert import convert

    convert(
        arguments.source,
        arguments.target,
        mpp=arguments.mpp,
        tile=arguments.tile,
        quality=arguments.quality,
        overwrite=arguments.overwrite,
    )
    print(arguments.target)
    return 0
