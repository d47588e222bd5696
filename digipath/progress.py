"""Progress for people: a bar in a terminal, a line now and then in a log, nothing on request."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from digipath.values import Progress, ProgressCallback

LOG_EVERY_S = 10.0


@contextmanager
def progress_bar(*, quiet: bool = False) -> Iterator[ProgressCallback | None]:
    """Yield a callback that shows progress on standard error, or None if quiet."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _rich_bar() as callback:
            yield callback
    else:
        yield _LogLines()


@contextmanager
def _rich_bar() -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task("starting", total=None, rate="")

        def show(report: Progress) -> None:
            rate = "" if math.isnan(report.rate) else f"{report.rate:.1f}/s"
            bars.update(task, description=report.message, completed=report.done, total=report.total, rate=rate)

        yield show


class _LogLines:
    """One line per LOG_EVERY_S seconds, and one when all is done."""

    def __init__(self) -> None:
        self._last = -math.inf
        self._ended = False

    def __call__(self, report: Progress) -> None:
        now, ended = time.monotonic(), report.done >= report.total
        if now - self._last < LOG_EVERY_S and (self._ended or not ended):
            return
        self._last, self._ended = now, ended
        left = (report.total - report.done) / report.rate if report.rate > 0 else math.nan
        rate = "" if math.isnan(left) else f", {report.rate:.1f}/s, {left:.0f} s left"
        print(f"{report.message}: {report.done}/{report.total}{rate}", file=sys.stderr)
