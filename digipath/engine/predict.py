"""Patches → predictors × views → stitched maps. Knows neither slides nor Keras.

What networks and views say of a patch is combined pixel by pixel (`ensemble.py`); `adaptive.py` decides
which views are used, where they are not the same for all patches.

Each map is averaged over the working pixels of a map pixel, then blended over overlapping patches
with the same weights: a sum of weighted values over a sum of weights. Rows that no later patch
touches are handed to the sink at once, so memory holds only the rows of patches in flight.

Sums are made in the order of the grid and batches end with their band (the patches that begin
on one row), so a run that resumes at a band writes the same bytes as one that never stopped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from digipath import memory
from digipath.engine.adaptive import AdaptiveSight, AdaptiveViews, Views
from digipath.engine.ahead import ahead
from digipath.engine.ensemble import Ensemble, Maps
from digipath.engine.stitch import WINDOWS, Stitcher, coverage_codes, ledger
from digipath.engine.views import DIHEDRAL
from digipath.errors import BadInput, Cancelled
from digipath.values import (
    BACKGROUND,
    PREDICTED,
    Cancel,
    Coverage,
    Grid,
    MapSink,
    Patch,
    Predictor,
    Progress,
    ProgressCallback,
    ReadPatch,
    ViewTally,
    stretch_rows,
)

Sight = Callable[[Sequence[Patch], NDArray[np.generic]], tuple[list[Maps], ViewTally]]
IDENTITY = DIHEDRAL[:1]
FEW_ROWS = 32

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class Clock:
    """Seconds spent in each stage, summed over its threads; `wall` is the whole run."""

    reading: float = 0.0
    network: float = 0.0
    stitching: float = 0.0
    writing: float = 0.0
    wall: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def timed(self, stage: str, work: Callable[P, R]) -> Callable[P, R]:
        """Wrap `work` so that its time is added to `stage`."""

        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            began = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                with self._lock:
                    setattr(self, stage, getattr(self, stage) + time.perf_counter() - began)

        return run


def predict_maps(
    read: ReadPatch,
    grid: Grid,
    predictors: Sequence[Predictor],
    wanted: NDArray[np.uint8],
    into: MapSink,
    *,
    views: Views = IDENTITY,
    window: str = "smooth",
    classes: Sequence[int] = (0,),
    extra: Sequence[str] = (),
    members: Sequence[str] = (),
    per_patch: bool = False,
    readers: int = 2,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> Clock:
    """Run predictors over the grid and write stitched maps into a sink.

    Args:
        read: reads one patch of `grid.remaining(into.rows_done)`; called from `readers` threads.
        grid: patches in working pixels, of any spatial rank.
        predictors: M callables (B, *patch, channels) → (B, *patch, C) float32 in [0, 1]; those with a `context`
            get patches with so many pixels more on every side, which `read` must give.
        wanted: uint8 of any resolution over the grid's field: BACKGROUND, PREDICTED (to be
            predicted) or EXCLUDED; the maps are 0 on background.
        into: receives `probability`, `aleatoric`, `epistemic` (float32, (rows, *rest, C), NaN on
            tissue without a prediction) and `coverage` (uint8 codes), the ledger, and the tally of
            adaptive views.
        views: T symmetries to average over (test-time augmentation), or a rule that says which.
        window: "smooth" (sin²) or "mean".
        classes: which of the C classes to keep, as channels of the maps.
        extra: `entropy` and `mutual_information` if wanted, (rows, *rest, 1) in bits.
        members: a name for each predictor to have its own map, `members/<name>`, (rows, *rest, C).
        per_patch: predictors answer for patches as a whole, (B, C); `grid` then has a pixel for each (`Tiles.grid`).
        progress: called between batches with patches done, total, per second.
        cancel: asked between batches; True ends the run.

    Returns:
        Seconds per stage.

    Raises:
        BadInput: an unknown window or extra map, another number of members than of predictors, or patches of another
            size.
        BadPredictor: a predictor returned another shape, a value outside [0, 1] or NaN.
        Cancelled: `cancel` said so; rows committed so far stay in the sink.
    """
    if window not in WINDOWS:
        raise BadInput(f"window must be one of {', '.join(WINDOWS)}, got {window!r}")
    clock, began = Clock(), time.perf_counter()
    todo = grid.remaining(into.rows_done)
    ensemble = Ensemble(predictors, classes, extra, members, per_patch)
    stitcher = Stitcher(grid, WINDOWS[window], ensemble.channels(len(views)), into.rows_done)
    finish = _Finisher(stitcher, grid, wanted, into, clock)
    sight = _sight(ensemble, views, grid, wanted, window)
    infer = clock.timed("network", lambda patches: _infer(patches, sight))
    stitch = clock.timed("stitching", stitcher.add)
    report = _Reporter(len(grid), len(grid) - len(todo), progress, cancel)
    parallel = min((getattr(p, "parallel", 1) for p in predictors), default=1)
    size = min((getattr(p, "batch", 1) for p in predictors), default=1)
    with _pool(readers, "read") as reading, _pool(parallel, "network") as network:
        patches = ahead(reading, clock.timed("reading", read), _starts(todo), 2 * readers + size)
        if not per_patch:
            patches = _of_size(patches, tuple(side + 2 * ensemble.context for side in grid.patch_px))
        batches = _batches(patches, size)
        for batch, maps, tally in ahead(network, infer, batches, parallel):
            finish(batch[0].start_px[0] // grid.reduce, tally)
            for patch, values in zip(batch, maps, strict=True):
                if values is not None:
                    stitch(patch.start_px, values, patch.valid)
            report(len(batch))
    finish(grid.map_shape[0])
    clock.wall = time.perf_counter() - began
    return clock


def _starts(grid: Grid) -> Iterator[tuple[int, ...]]:
    return (tuple(int(s) for s in start) for start in grid.starts_px)


def _of_size(patches: Iterable[Patch], size_px: tuple[int, ...]) -> Iterator[Patch]:
    """The patches themselves. Raises BadInput: a reader gives others than the predictors take."""
    for patch in patches:
        if (given := patch.pixels.shape[:-1]) != size_px:
            raise BadInput(f"expected patches of {size_px} px with the predictors' context, `read` gave {given}")
        yield patch


def _batches(patches: Iterable[Patch], size: int) -> Iterator[list[Patch]]:
    """Group patches in order; a batch never spans two bands, so a resumed run groups alike."""
    batch: list[Patch] = []
    for patch in patches:
        if batch and (len(batch) == size or patch.start_px[0] != batch[0].start_px[0]):
            yield batch
            batch = []
        batch.append(patch)
    if batch:
        yield batch


class _pool(ThreadPoolExecutor):  # noqa: N801 - used as a function
    """A thread pool that drops what it has not begun when the run ends early."""

    def __init__(self, workers: int, name: str) -> None:
        super().__init__(workers, thread_name_prefix=f"digipath-{name}")

    def __exit__(self, *error: object) -> None:
        self.shutdown(cancel_futures=True)


def _sight(
    ensemble: Ensemble, views: Views, grid: Grid, wanted: NDArray[np.uint8], window: str
) -> Sight:
    """How the patches of a batch are seen: all by the same views, or each by as many as it needs."""
    if isinstance(views, AdaptiveViews):
        return AdaptiveSight(ensemble, views, grid, wanted, WINDOWS[window])

    def see(patches: Sequence[Patch], stack: NDArray[np.generic]) -> tuple[list[Maps], ViewTally]:
        found = ensemble.maps(stack, views)
        return [{name: values[at] for name, values in found.items()} for at in range(len(patches))], ViewTally()

    return see


def _infer(batch: list[Patch], sight: Sight) -> tuple[list[Patch], list[Maps | None], ViewTally]:
    """The maps of each patch, (*patch, C) float32; None for a patch with nothing to read."""
    maps: list[Maps | None] = [None] * len(batch)
    readable = [i for i, patch in enumerate(batch) if patch.valid is None or patch.valid.any()]
    if not readable:
        return batch, maps, ViewTally()
    pixels = [batch[i].pixels for i in readable]
    stack = np.stack(pixels) if len(pixels) > 1 else pixels[0][None]
    found, tally = sight([batch[i] for i in readable], stack)
    for index, of_patch in zip(readable, found, strict=True):
        maps[index] = of_patch
    return batch, maps, tally


class _Finisher:
    """Hands rows that are final to the sink, with their coverage, and commits them."""

    def __init__(
        self, stitcher: Stitcher, grid: Grid, wanted: NDArray[np.uint8], into: MapSink, clock: Clock
    ) -> None:
        self._stitcher, self._grid, self._wanted, self._into = stitcher, grid, wanted, into
        self._counted_rows, self._tally = into.rows_done, into.tally
        self._write = clock.timed("writing", into.write)
        self._commit = clock.timed("writing", into.commit)

    def __call__(self, until: int, tally: ViewTally | None = None) -> None:
        """Write map rows up to `until` and commit; then count `tally`, of patches that begin at `until`.

        What a resumed run sees again, since it reaches below its first row, was counted before.
        """
        self._finish(until)
        if tally is not None and until >= self._counted_rows:
            self._tally += tally

    def _finish(self, until: int) -> None:
        if until <= self._into.rows_done:
            return
        coverage = self._into.coverage
        for row, maps, weights, missing in self._stitcher.flush(until):
            coverage += self._rows(row, maps, weights, missing)
        self._commit(until, coverage, self._tally)
        memory.trim()

    def _rows(
        self, row: int, maps: Maps, weights: NDArray[np.float32], missing: NDArray[np.int32] | None
    ) -> Coverage:
        """Complete rows with their coverage and write them; a few at a time, they may be very wide."""
        counted, codes = Coverage(), np.empty(weights.shape, np.uint8)
        for first in range(0, len(weights), FEW_ROWS):
            few = slice(first, first + FEW_ROWS)
            wanted = stretch_rows(self._wanted, self._grid.map_shape, row + first, row + first + len(weights[few]))
            codes[few] = coverage_codes(wanted, weights[few])
            for values in maps.values():
                values[few][codes[few] != PREDICTED] = np.nan
                values[few][codes[few] == BACKGROUND] = 0
            counted += ledger(codes[few], self._grid, row + first, None if missing is None else missing[few])
        self._write(row, {**maps, "coverage": codes})
        return counted


class _Reporter:
    """Counts patches, tells `progress`, and asks `cancel`."""

    def __init__(
        self, total: int, done: int, progress: ProgressCallback | None, cancel: Cancel | None
    ) -> None:
        self._total, self._done, self._before = total, done, done
        self._progress, self._cancel = progress, cancel
        self._began = time.perf_counter()

    def __call__(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            rate = (self._done - self._before) / max(time.perf_counter() - self._began, 1e-9)
            self._progress(Progress(self._done, self._total, rate, "patches"))
        if self._cancel is not None and self._cancel():
            raise Cancelled(f"stopped after {self._done} of {self._total} patches; run again to go on")
