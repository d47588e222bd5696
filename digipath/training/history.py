"""What a training leaves for people to look at: a table, a picture of its curves, TensorBoard's events.

All three are made from the history alone, one mapping per epoch with the keys `columns`; `val_*` are
absent without validation, and None where they are not defined. Which scores there are, besides the loss,
is a matter of what is learned: `scores` maps their columns to what the picture calls them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from digipath.files import write_atomically
from digipath.runtime import without_startup_notices
from digipath.training.schedule import Row, best_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# epoch counts from 1; phase is "frozen" (the encoder stays as loaded) or "whole"; learning_rate is that
# of the epoch's last step.
BEFORE, AFTER = ("epoch", "phase", "learning_rate", "loss", "val_loss"), ("seconds",)
SEGMENTATION_SCORES = {"val_dice": "Dice", "val_jaccard": "Jaccard", "val_auroc": "AUROC"}
COLUMNS = (*BEFORE, *SEGMENTATION_SCORES, *AFTER)
INCHES, DPI = (11.0, 3.4), 100
MARGINS = {"left": 0.05, "right": 0.99, "bottom": 0.15, "top": 0.9, "wspace": 0.25}


def write_csv(path: Path, history: Sequence[Row], *, scores: Mapping[str, str] = SEGMENTATION_SCORES) -> None:
    """One row per epoch, of segmentations under a header of `COLUMNS`; a cell is empty where there is no value.

    Raises OutputUnwritable.
    """
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, (*BEFORE, *scores, *AFTER), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_atomically(path, table.getvalue())


def draw_curves(
    path: Path,
    history: Sequence[Row],
    *,
    scores: Mapping[str, str] = SEGMENTATION_SCORES,
    kept: int | None = None,
) -> None:
    """A PNG of 1100 × 340 px: losses, validation scores and learning rate over the epochs.

    The epochs of the frozen encoder are shaded; a dotted line marks the epoch that is kept, None: the one of
    the least validation loss. Raises OutputUnwritable.
    """
    # Figure alone, without pyplot: no window, no state of the process.
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, dpi=DPI)
    figure.subplots_adjust(**MARGINS)
    panels = {
        "loss": {"loss": "training", "val_loss": "validation"},
        "score": scores,
        "learning rate": {"learning_rate": ""},
    }
    if kept is None and history:
        kept = best_row(history)["epoch"]
    for axes, (title, lines) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        _panel(axes, title, lines, history, kept)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())


def _panel(axes: Axes, title: str, lines: Mapping[str, str], history: Sequence[Row], kept: int | None) -> None:
    from matplotlib.ticker import MaxNLocator

    frozen = sum(row["phase"] == "frozen" for row in history)
    if frozen:
        axes.axvspan(0.5, frozen + 0.5, color="0.92")
    for key, label in lines.items():
        known = [(row["epoch"], row[key]) for row in history if row.get(key) is not None]
        if known:
            axes.plot(*zip(*known, strict=True), marker=".", label=label)
    if kept is not None:
        axes.axvline(kept, color="0.5", linestyle=":")
    axes.set_xlim(0.5, max(len(history), 1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", title=title)
    axes.grid(alpha=0.3)
    if axes.get_lines()[:-1] and all(lines.values()):
        axes.legend()


class EventLog:
    """TensorBoard's event files in `folder`; a context manager.

    Events of earlier processes are replaced by those of `history`: an epoch that was interrupted
    after its events were written does not appear twice. On any backend of Keras.
    """

    def __init__(self, folder: Path, history: Sequence[Row]) -> None:
        with without_startup_notices():
            from tensorboard.summary import Writer

        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = Writer(str(folder))
        for row in history:
            self.add(row)

    def add(self, row: Row) -> None:
        """Write the numbers of an epoch."""
        for key, value in row.items():
            if key not in ("epoch", "phase") and value is not None:
                self._writer.add_scalar(key, value, row["epoch"])
        self._writer.flush()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
