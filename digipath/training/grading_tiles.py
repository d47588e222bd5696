"""The tiles of a training, drawn once for all of its runs and kept as a table."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

from digipath.files import write_atomically
from digipath.training.cases import PARTS
from digipath.training.grading_plan import TilePlan, Tiles
from digipath.training.tile_draw import LabelledTile, draw_tiles, find_tiles
from digipath.values import Cancel, ProgressCallback

DIGEST = ".sha256"  # beside the table: what it was when it was written
COLUMNS = ("part", "class", "slide", "patient", "row", "column")


def draw(plan: TilePlan, *, progress: ProgressCallback | None = None, cancel: Cancel | None = None) -> dict[str, Tiles]:
    """The tiles of each part, which looks at all slides.

    Raises:
        BadInput: a class of which a part has no tile, or a stain that cannot be fitted. SlideUnreadable,
        BadAnnotation, …: about a case's files.
    """
    asked, cases = plan.config, plan.manifest.cases
    classes, least = asked.data.classes, asked.data.least_label
    found = find_tiles(
        cases, asked.tiles.rule, classes=classes, least_label=least, stain=asked.stain, progress=progress, cancel=cancel
    )
    part_of = {case.name: part for part in PARTS for case in getattr(plan.split, part)}
    candidates: dict[str, list[LabelledTile]] = {part: [] for part in PARTS}
    for tile in found:
        candidates[part_of[cases[tile.case].name]].append(tile)
    tiles = asked.tiles
    return draw_tiles(
        candidates, cases, classes=classes, per_class=tiles.per_class, shares=tiles.shares, seed=asked.split.seed
    )


def kept_or_drawn(
    path: Path, plan: TilePlan, *, progress: ProgressCallback | None = None, cancel: Cancel | None = None
) -> dict[str, Tiles]:
    """The tiles that an earlier attempt at the same plan left at `path`, or else `draw`, which are then left there."""
    if (kept := _read(path, plan)) is not None:
        return kept
    drawn = draw(plan, progress=progress, cancel=cancel)
    table = tiles_table(plan, drawn)
    write_atomically(path, table)
    write_atomically(path.with_suffix(DIGEST), _digest(table.encode(), path))
    return drawn


def tiles_table(plan: TilePlan, drawn: Mapping[str, Tiles]) -> str:
    """A CSV table: one line per tile; row and column count tiles, in the lattice of the slide."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for part, tiles in drawn.items():
        for tile in tiles:
            case = plan.manifest.cases[tile.case]
            table.writerow([part, plan.config.data.classes[tile.label], case.name, case.patient, *tile.cell])
    return text.getvalue()


def _read(path: Path, plan: TilePlan) -> dict[str, Tiles] | None:
    """The tiles of a table, None where it is not there or somebody changed it: drawing anew gives the same."""
    kept = path.with_suffix(DIGEST)
    if not path.exists() or not kept.exists() or kept.read_text(encoding="utf-8") != _digest(path.read_bytes(), path):
        return None
    numbers = {case.name: number for number, case in enumerate(plan.manifest.cases)}
    found: dict[str, list[LabelledTile]] = {part: [] for part in PARTS}
    for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")):
        label = plan.config.data.classes.index(row["class"])
        found[row["part"]].append(LabelledTile(numbers[row["slide"]], (int(row["row"]), int(row["column"])), label))
    own = {part: {numbers[case.name] for case in getattr(plan.split, part)} for part in PARTS}
    if any(tile.case not in own[part] for part, tiles in found.items() for tile in tiles):
        return None
    return {part: tuple(tiles) for part, tiles in found.items()}


def _digest(table: bytes, path: Path) -> str:
    """As `sha256sum` prints it, which can check it."""
    return f"{hashlib.sha256(table).hexdigest()}  {path.name}\n"
