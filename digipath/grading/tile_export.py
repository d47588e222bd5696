"""The tiles of a slide as image files with a table: only on request, since everything else streams them."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from PIL import Image

from digipath.case import Case
from digipath.errors import BadInput, Cancelled
from digipath.files import disk_errors, made_folder, write_atomically
from digipath.grading.tile_frames import SlideFrame
from digipath.slide import open_slide
from digipath.stain import StainReference
from digipath.tiling import TileRule, plan_tiles
from digipath.values import Cancel, Progress, ProgressCallback

TABLE, IMAGES = "tiles.csv", "images"
COLUMNS = ("file", "slide", "row", "column", "x_l0", "y_l0", "side_l0", "mpp", "tissue_share", "unreadable")
FORMATS = {"png": ("PNG", {}), "jpg": ("JPEG", {"quality": 95, "subsampling": 0})}
READERS = 2


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        table: `COLUMNS`; unreadable 1: there is no image. tiles: its rows; unreadable: of these. notes: for the user.
    """

    table: Path
    tiles: int
    unreadable: int
    notes: tuple[str, ...]


def export_tiles(
    slide: str | Path,
    out: str | Path,
    rule: TileRule,
    *,
    mpp: float | None = None,
    stain: StainReference | None = None,
    image_format: str | None = "png",
    resume: bool = True,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> Exported:
    """Write the kept tiles of a slide into `out`/images and list them in `out`/tiles.csv, which comes last.

    Args:
        rule: which tiles. mpp: µm per level-0 pixel, overrides the slide's own.
        stain: what the slide's stain is brought to; None: as it is.
        image_format: "png", "jpg" (quality 95, no subsampling), or None for the table alone.
        resume: a folder that holds these very tiles is left as it is, and where some are missing goes on with them;
            False writes all anew.

    Raises:
        BadInput: an unknown format; Cancelled; CaseDiffers: the folder holds other tiles; and what opening a slide and
            planning its tiles raise.
    """
    if image_format is not None and image_format not in FORMATS:
        raise BadInput(f"expected tiles as {' or '.join(FORMATS)}, got {image_format!r}")
    folder = Path(out)
    with open_slide(slide, mpp=mpp) as source:
        frame = SlideFrame(source, plan_tiles(source, rule, stain=stain))
        identity = {
            "input": frame.identity(),
            "settings": asdict(rule) | {"format": image_format, "stain": stain and stain.to_record()},
            "digipath": version("digipath"),
        }
        owned = (TABLE,) if image_format is None else (TABLE, IMAGES)
        with disk_errors(folder), Case(folder, "tiles", identity, owned=owned, resume=resume) as case:
            if not case.done:
                if image_format is not None:
                    made_folder(folder / IMAGES)
                rows = list(_rows(frame, folder, image_format, progress, cancel))
                text = io.StringIO()
                table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
                table.writeheader()
                table.writerows(rows)
                write_atomically(folder / TABLE, text.getvalue())
    with (folder / TABLE).open(encoding="utf-8", newline="") as stream:
        listed = list(csv.DictReader(stream))
    return Exported(folder / TABLE, len(listed), sum(row["unreadable"] == "1" for row in listed), frame.notes)


def _rows(
    frame: SlideFrame, folder: Path, image_format: str | None, progress: ProgressCallback | None, cancel: Cancel | None
) -> Iterator[dict[str, object]]:
    """Write each tile and tell where it came from, in the order of the slide."""
    cells = [(int(row), int(column)) for row, column in frame.tiles.cells]
    files = {
        cell: f"{IMAGES}/{frame.source.path.stem}_r{cell[0]:04}_c{cell[1]:04}.{image_format}" for cell in cells
    }
    missing = frame.tiles.kept.copy()  # images are written whole, so what is there is done
    for cell, file in files.items():
        missing[cell] = not (folder / file).exists()
    read, began = frame.only(missing).reader(), time.perf_counter()

    def write(cell: tuple[int, int]) -> tuple[str, bool]:
        if image_format is None:
            return "", True
        if not missing[cell]:
            return files[cell], True
        patch = read(cell)
        if patch.valid is not None:
            return "", False
        kind, options = FORMATS[image_format]
        stream = io.BytesIO()
        Image.fromarray(patch.pixels).save(stream, kind, **options)  # type: ignore[arg-type]
        write_atomically(folder / files[cell], stream.getvalue())
        return files[cell], True

    with ThreadPoolExecutor(READERS) as pool:
        for done, (cell, (name, readable)) in enumerate(zip(cells, pool.map(write, cells), strict=True), 1):
            if progress is not None:
                progress(Progress(done, len(cells), done / max(time.perf_counter() - began, 1e-9), "tiles"))
            if cancel is not None and cancel():
                pool.shutdown(cancel_futures=True)
                raise Cancelled(f"stopped after {done} of {len(cells)} tiles; run again to go on")
            where = {"row": cell[0], "column": cell[1], **frame.place(cell), "mpp": frame.tiles.mpp}
            share = f"{frame.tiles.share[cell]:.4f}"
            yield {"file": name, "slide": frame.name, **where, "tissue_share": share, "unreadable": int(not readable)}
