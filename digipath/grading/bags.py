"""A slide by multiple-instance learning: random groups of its tiles, each seen at once by a bag network.

Lerousseau et al. 2020, sections 2.1 and 3.2: as many tiles as fit in memory are drawn from the slide and changed as in
training; a network's class is the hard vote over its groups. Several networks, of several magnifications, are a
soft vote: the mean of their probabilities, where a network's are the mean over its groups.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.engine.ahead import ahead
from digipath.engine.bags import groups, hard_vote
from digipath.errors import BadInput, Cancelled
from digipath.files import write_atomically
from digipath.grading.bag_networks import BagAnswer, BagNetwork, augmentation_of, augments, bag_groups, bag_size
from digipath.grading.tile_frames import Frame
from digipath.measure.tile_grades import leading
from digipath.tile_augment import TileAugmentation, augment_tile, centre_crop
from digipath.values import Cancel, Card, Patch, Progress, ProgressCallback

READERS, AHEAD = 2, 8
ALL = "all"  # tiles, in as many groups as hold each once

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class BagDraw:
    """Which tiles of a slide a bag network sees; None: as its card says, so as its test slides were scored.

    Attributes:
        groups: how many; "all": as many as hold all tiles once.
        bag: tiles in a group.
        augment: crops at random places, changed as in training (as in the paper); False: the middle of each tile.
        seed: of all that is drawn.
    """

    groups: int | str | None = None
    bag: int | None = None
    augment: bool | None = None
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot be."""
        for name in ("groups", "bag"):
            value = getattr(self, name)
            if isinstance(value, str) and (name, value) != ("groups", ALL):
                raise BadInput(f'expected groups to be a number or "{ALL}", got {value!r}')
            if isinstance(value, int) and value < 1:
                raise BadInput(f"expected at least one of {name}, got {value}")

    def groups_of(self, card: Card) -> int | None:
        """How many groups a network sees, None: as many as hold all tiles once."""
        if self.groups is None:
            return bag_groups(card)
        return None if isinstance(self.groups, str) else self.groups

    def changes_of(self, card: Card) -> TileAugmentation | None:
        """What is changed in tiles, crops at random places included; None: nothing, the middle of each is seen."""
        wanted = augments(card) if self.augment is None else self.augment
        return augmentation_of(card) if wanted else None


@dataclass(frozen=True)
class SlideBags:
    """What one network says of a slide.

    Attributes:
        groups: (G, C) of each group. on_slide: tiles that the slide has. asked: tiles in a full group.
        asked_groups: how many were asked for; None: as many as hold all tiles once.
        cells: (n, 2) tiles that were seen. alone: (n, C) each as a bag of its own.
        attention: (n,) what each counts in its group, 1 on average; None without attention.
        unreadable: (m, 2) tiles that were drawn and could not be read.
        mpp: µm per pixel of the tiles.
    """

    groups: Floats
    on_slide: int
    asked: int
    asked_groups: int | None
    cells: NDArray[np.int64]
    alone: Floats
    attention: Floats | None
    unreadable: NDArray[np.int64]
    mpp: float | None

    @property
    def probabilities(self) -> Floats | None:
        """(C,) mean over the groups; None where no group could be seen."""
        return self.groups.mean(axis=0) if len(self.groups) else None

    @property
    def votes(self) -> Floats | None:
        """(C,) share of the groups that vote for each class: the hard vote."""
        return hard_vote(self.groups) if len(self.groups) else None

    @property
    def notes(self) -> tuple[str, ...]:
        """For the user: what was not as asked."""
        at = "" if self.mpp is None else f" at {self.mpp:g} µm/px"
        if not self.on_slide:
            return (f"No tile{at}: no vote.",)
        if not len(self.groups):
            return (f"None of {len(self.unreadable)} tiles{at} could be read: no vote.",)
        asked = (self.asked_groups or 1) * self.asked
        if self.on_slide >= asked:
            return ()
        made = math.ceil(self.on_slide / self.asked)
        words = "one group of all" if made == 1 else f"{made} groups of all"
        rest = ", the last of fewer" if made > 1 and self.on_slide % self.asked else ""
        return (f"{self.on_slide} tiles on the slide, fewer than the {asked} asked for: {words}{rest}.",)


def vote_together(found: Sequence[SlideBags]) -> tuple[Floats, int] | None:
    """What networks say of a slide together: (C,) mean probability, and the class it is called; None without a vote.

    One network calls its hard vote over groups, of classes with as many votes that of the higher mean; several call
    their soft vote (Lerousseau et al. 2020, sections 2.1 and 2.3). A network that saw no tile has no say.
    """
    answers = [(bags.probabilities, bags.votes) for bags in found]
    seen = [(mean, votes) for mean, votes in answers if mean is not None and votes is not None]
    if not seen:
        return None
    soft = np.mean([mean for mean, _ in seen], axis=0)
    decides = soft
    if len(seen) == 1:
        ((_, votes),) = seen
        decides = np.where(votes == votes.max(), soft, 0)
    grade = leading(decides)
    assert grade is not None, "probabilities sum to 1"
    return soft, grade


def grade_bags(
    frame: Frame,
    card: Card,
    network: BagNetwork,
    draw: BagDraw,
    *,
    keep: Path | None = None,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> SlideBags:
    """What a network says of groups of a slide's tiles; the order in which tiles come changes nothing.

    Args:
        frame: the slide's tiles at the network's magnification.
        keep: a file name for finished groups, to which their numbers are added: a run that stops goes on there.
        progress, cancel: between tiles.

    Raises:
        Cancelled; BadInput.
    """
    draw.check()
    cells, asked, count = frame.tiles.cells, draw.bag or bag_size(card), draw.groups_of(card)
    drawn = groups(len(cells), asked, draw.seed)[:count] if len(cells) else []
    look = partial(_looked_at, crop_px=card.patch, changes=draw.changes_of(card), seed=draw.seed)
    total, done, found = sum(map(len, drawn)), 0, []
    for number, indices in enumerate(drawn):
        path = None if keep is None else keep.with_name(f"{keep.name}-{number}.npz")
        if path is not None and path.exists():
            found.append(_Group.read(path))
        else:
            group = frame.only(_mask(frame.tiles.kept.shape, cells[indices]))
            told = _Teller(done, total, f"{card.name}, group {number + 1} of {len(drawn)}", progress, cancel)
            found.append(_group(group, network, look, told))
            if path is not None:
                write_atomically(path, found[-1].packed())
        done += len(indices)
    return _together(found, card, len(cells), (asked, count))


@dataclass(frozen=True)
class _Group:
    """One group: its answer (None: no tile of it could be read), the tiles seen, and those that could not be."""

    answer: BagAnswer | None
    cells: NDArray[np.int64]
    unreadable: NDArray[np.int64]

    def packed(self) -> bytes:
        arrays: dict[str, NDArray[Any]] = {"cells": self.cells, "unreadable": self.unreadable}
        if self.answer is not None:
            arrays |= {"probabilities": self.answer.probabilities, "alone": self.answer.alone}
            if self.answer.attention is not None:
                arrays["attention"] = self.answer.attention
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **arrays)
        return stream.getvalue()

    @staticmethod
    def read(path: Path) -> _Group:
        with np.load(path, allow_pickle=False) as kept:
            arrays = dict(kept)
        answer = None
        if "probabilities" in arrays:
            answer = BagAnswer(arrays["probabilities"], arrays["alone"], arrays.get("attention"))
        return _Group(answer, arrays["cells"], arrays["unreadable"])


class _Teller:
    """Tells progress tile by tile, and asks whether to stop."""

    def __init__(
        self, done: int, total: int, message: str, progress: ProgressCallback | None, cancel: Cancel | None
    ) -> None:
        self._done, self._total, self._message = done, total, message
        self._progress, self._cancel = progress, cancel

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(Progress(self._done, self._total, math.nan, self._message))
        if self._cancel is not None and self._cancel():
            raise Cancelled(f"stopped after {self._done} of {self._total} tiles; run again to go on")


def _group(frame: Frame, network: BagNetwork, look: Callable[[Patch], NDArray[np.uint8]], tell: _Teller) -> _Group:
    """One group, its tiles read ahead in the order of the slide, so that memory holds a few of them."""
    seen: list[Sequence[int]] = []
    lost: list[Sequence[int]] = []

    def tiles() -> Iterator[NDArray[np.uint8]]:
        with ThreadPoolExecutor(READERS) as pool:
            cells = [(int(row), int(column)) for row, column in frame.tiles.cells]
            try:
                for patch in ahead(pool, frame.reader(), cells, AHEAD):
                    (seen if patch.valid is None else lost).append(patch.start_px)
                    if patch.valid is None:
                        yield look(patch)
                    tell()
            finally:
                pool.shutdown(cancel_futures=True)

    answer = None
    if len(frame.tiles):
        stream = tiles()
        if (first := next(stream, None)) is not None:
            answer = network.answer(_with(first, stream))
    return _Group(answer, _pairs(seen), _pairs(lost))


def _with(first: NDArray[np.uint8], others: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    yield first
    yield from others


def _looked_at(patch: Patch, *, crop_px: int, changes: TileAugmentation | None, seed: int) -> NDArray[np.uint8]:
    """What the network sees of a tile: a crop, changed as in training unless nothing is left to chance."""
    pixels = patch.pixels.astype(np.uint8, copy=False)
    if changes is None:
        return centre_crop(pixels, crop_px)
    return augment_tile(pixels, changes, np.random.default_rng((seed, *patch.start_px)), crop_px=crop_px)


def _together(found: Sequence[_Group], card: Card, on_slide: int, asked: tuple[int, int | None]) -> SlideBags:
    """asked: tiles in a group, and groups."""
    classes = len(card.classes)
    answers = [group.answer for group in found if group.answer is not None]
    attention = [answer.attention * len(answer.attention) for answer in answers if answer.attention is not None]
    return SlideBags(
        groups=np.array([answer.probabilities for answer in answers], np.float32).reshape(-1, classes),
        on_slide=on_slide,
        asked=asked[0],
        asked_groups=asked[1],
        cells=_pairs([cell for group in found for cell in group.cells.tolist()]),
        alone=np.concatenate([answer.alone for answer in answers]) if answers else np.empty((0, classes), np.float32),
        attention=np.concatenate(attention) if attention else None,
        unreadable=_pairs([cell for group in found for cell in group.unreadable.tolist()]),
        mpp=card.mpp,
    )


def _mask(shape: tuple[int, ...], cells: NDArray[np.int64]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    mask[tuple(cells.T)] = True
    return mask


def _pairs(cells: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.array(cells, np.int64).reshape(-1, 2)
