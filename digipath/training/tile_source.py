"""Training tiles, and bags of tiles, straight from slides: with their classes, augmented, the same on every run.

What `sample(index)` gives depends on the seed and the index alone. Tiles, and the slides of bags, come in rounds:
each once, every round in an order of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from digipath.engine.reader import padded
from digipath.errors import BadInput, DigipathError, SlideUnreadable
from digipath.planning import working_mpp
from digipath.slide import open_slide
from digipath.slide_stain import Block, Staining
from digipath.stain import StainReference
from digipath.tile_augment import TileAugmentation, augment_tile, centre_crop
from digipath.tiling import TileRule, tile_staining
from digipath.training.data import Sample, Shape, Source
from digipath.training.manifest import TrainingCase
from digipath.training.readers import TILE_CACHE_BYTES, Readers
from digipath.training.rounds import check_labels, one_hot, place_in_round
from digipath.training.tile_draw import Cell, LabelledTile
from digipath.values import Patch

RGB = tuple[float, float, float]
Stainings = dict[tuple[str, TileRule], Staining | None]  # of one reference, by the name of the case and the rule
TRIES = 64  # tiles read for one before its slides count as unreadable
CELLS, CHANGES = 2, 3  # streams of random numbers, beside that of `digipath.training.rounds`


class _OpenSlide:
    """The tiles of an open slide; safe from many threads.

    Args:
        stain: what the slide's is brought to. stainings: how, where it is known; what is found out here is added.
    """

    def __init__(
        self,
        case: TrainingCase,
        rule: TileRule,
        stain: StainReference | None,
        stainings: Stainings,
    ) -> None:
        self._slide = open_slide(case.slide, mpp=case.mpp)
        try:
            self._slide.set_cache(TILE_CACHE_BYTES)
            self._tile_px = rule.tile_px
            self._read_mpp, _ = working_mpp(self._slide, rule.mpp)
            self._size_px = self._slide.working_size_px(self._read_mpp)
            if (case.name, rule) not in stainings:
                stainings[case.name, rule] = tile_staining(self._slide, rule, stain)
        except BaseException:
            self._slide.close()
            raise
        staining = stainings[case.name, rule]
        self._read = self._block if staining is None else staining.applied_to(self._block)

    @property
    def held_bytes(self) -> int:
        """About what it keeps in memory."""
        width, height = self._slide.size_l0
        return 4 * width * height if self._slide.vendor.startswith("flat-") else TILE_CACHE_BYTES

    def close(self) -> None:
        self._slide.close()

    def tile(self, cell: Cell) -> NDArray[np.uint8] | None:
        """(tile_px, tile_px, 3) of a cell, beyond the slide its mirror image; None if not all of it can be read."""
        start = (cell[0] * self._tile_px, cell[1] * self._tile_px)
        rows, columns = (min(self._tile_px, n - s) for s, n in zip(start, self._size_px, strict=True))
        if min(rows, columns) < 1:
            raise BadInput(f"expected a tile on the slide, received row and column {cell}: {self._slide.path}")
        pixels, failed = self._read(*start, rows, columns)
        if failed is not None:
            return None
        return np.asarray(padded(Patch(start, pixels), (self._tile_px, self._tile_px)).pixels)

    def _block(self, row: int, column: int, rows: int, columns: int) -> Block:
        return self._slide.read_block(row, column, rows, columns, mpp=self._read_mpp)


class _Tiles:
    """What both sources share: open slides, stains, augmentation, the count of unreadable tiles, the last failure."""

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        rule: TileRule,
        *,
        augmentation: TileAugmentation | None,
        seed: int,
        stain: StainReference | None,
        stainings: Stainings | None,
    ) -> None:
        rule.check()
        if augmentation is not None:
            augmentation.check()
        if seed < 0:
            raise BadInput(f"expected a seed of at least 0, received {seed}")
        self.cases, self.rule, self.augmentation, self.seed = tuple(cases), rule, augmentation, seed
        self.stain = stain
        self.unreadable = 0
        self.failure: DigipathError | None = None
        self._counting = threading.Lock()
        fitted: Stainings = {} if stainings is None else stainings  # kept when a slide is closed
        self._readers = Readers(lambda case: _OpenSlide(self.cases[case], rule, stain, fitted))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the slides; samples asked for later open them again."""
        self._readers.close()

    def _read(self, case: int, cell: Cell) -> NDArray[np.uint8] | None:
        """A tile, or None if it is unreadable, which is counted."""
        with self._readers.borrow(case) as slide:
            pixels = slide.tile(cell)
        if pixels is None:
            with self._counting:
                self.unreadable += 1
        return pixels

    def _changed(self, pixels: NDArray[np.uint8], rng: np.random.Generator, crop_px: int) -> NDArray[np.uint8]:
        if self.augmentation is None:
            return centre_crop(pixels, crop_px)
        return augment_tile(pixels, self.augmentation, rng, crop_px=crop_px)


class TileSource(_Tiles):
    """Tiles with their classes, by index; a context manager, safe to call from many threads.

    Args:
        cases: whose tiles they are. tiles: by numbers of cases.
        rule: resolution and size of the tiles; which of them hold tissue was decided before.
        classes: how many there are.
        augmentation: None: tiles as they are, for validation.
        stain: bring every slide's stain to this one, fitted on the slide's tissue as `digipath grade` does.
        stainings: what other sources of the same `stain` have fitted, to which this one adds; None: begin anew.
        shuffle: each round of all tiles in an order of its own; False: in the given order.

    Attributes:
        unreadable: tiles so far that could not be read; the next tile of the same class took their place.
        failure: the last error that `sample` raised; frameworks that call it hide its kind.

    Raises:
        BadInput: no tile, a class that there is not, or a setting out of range; from `sample`, no stain to fit.
    """

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        tiles: Sequence[LabelledTile],
        rule: TileRule,
        *,
        classes: int,
        augmentation: TileAugmentation | None,
        stain: StainReference | None = None,
        stainings: Stainings | None = None,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        super().__init__(cases, rule, augmentation=augmentation, seed=seed, stain=stain, stainings=stainings)
        if not tiles:
            raise BadInput("expected at least one tile to train on, received none")
        check_labels([tile.label for tile in tiles], classes)
        self.tiles, self.classes, self.shuffle = tuple(tiles), classes, shuffle
        self._of_class = [
            [number for number, tile in enumerate(self.tiles) if tile.label == label] for label in range(classes)
        ]
        self._places = {number: place for same in self._of_class for place, number in enumerate(same)}

    def __enter__(self) -> TileSource:
        return self

    def __len__(self) -> int:
        return len(self.tiles)

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """Of a tile and of its class."""
        return (self.rule.tile_px, self.rule.tile_px, 3), (self.classes,)

    def sample(self, index: int) -> Sample:
        """The tile of an index ≥ 0 and its class: a pure function of the seed and the index.

        Returns (P, P, 3) float32 in [0, 255] and (C,) float32, 1 for its class, else 0.
        Raises SlideUnreadable if neither it nor those that follow in its class can be read.
        """
        try:
            first = place_in_round(index, len(self.tiles), self.seed, shuffle=self.shuffle)
            pixels = self._first_readable(first)
            rng = np.random.default_rng((self.seed, CHANGES, index))
            changed = self._changed(pixels, rng, self.rule.tile_px)
            return changed.astype(np.float32), one_hot(self.tiles[first].label, self.classes)
        except DigipathError as error:
            self.failure = error
            raise

    def tile(self, number: int) -> NDArray[np.uint8] | None:
        """(P, P, 3) the tile of that number as it is; None where it cannot be read, no other takes its place."""
        tile = self.tiles[number]
        return self._read(tile.case, tile.cell)

    def names(self, samples: Sequence[int]) -> list[str]:
        """The case of each of these samples, by its name."""
        turns = [place_in_round(index, len(self.tiles), self.seed, shuffle=self.shuffle) for index in samples]
        return [self.cases[self.tiles[turn].case].name for turn in turns]

    def _first_readable(self, first: int) -> NDArray[np.uint8]:
        """A tile, or the next of its class that can be read."""
        same = self._of_class[self.tiles[first].label]
        for attempt in range(min(TRIES, len(same))):
            tile = self.tiles[same[(self._places[first] + attempt) % len(same)]]
            pixels = self._read(tile.case, tile.cell)
            if pixels is not None:
                return pixels
        raise _unreadable(self.cases[self.tiles[first].case], min(TRIES, len(same)))


class BagSource(_Tiles):
    """Bags of tiles of one slide with its class, by index; a context manager, safe to call from many threads.

    Lerousseau et al. 2020, section 3.2: 50 tiles of 512 px of a slide, of each a random 224 px.

    Args:
        cases: slides. cells: the (row, column) of the tiles of each that can be drawn. labels: the class of each.
        rule: resolution and size of the tiles.
        classes: how many there are.
        bag: tiles drawn from a slide, none twice unless it has fewer.
        crop_px: what is seen of a tile: at random, or the middle where there is no augmentation.
        augmentation: of each tile by itself; None: tiles as they are. stain, stainings: as for `TileSource`.
        shuffle: each round of all slides in an order of its own; False: in the given order.

    Attributes:
        unreadable: tiles so far that could not be read; others of the slide took their place.
        failure: the last error that `sample` raised; frameworks that call it hide its kind.

    Raises:
        BadInput: no slide, one without tiles, cells or labels that do not match the cases, or a setting out of range.
    """

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        cells: Sequence[Sequence[Cell]],
        labels: Sequence[int],
        rule: TileRule,
        *,
        classes: int,
        bag: int = 50,
        crop_px: int = 224,
        augmentation: TileAugmentation | None,
        stain: StainReference | None = None,
        stainings: Stainings | None = None,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        super().__init__(cases, rule, augmentation=augmentation, seed=seed, stain=stain, stainings=stainings)
        if not cases or not len(cases) == len(cells) == len(labels):
            received = f"{len(cases)}, {len(cells)} and {len(labels)}"
            raise BadInput(f"expected slides, the cells of each and the class of each, received {received}")
        check_labels(labels, classes)
        for case, own in zip(cases, cells, strict=True):
            if not len(own):
                raise BadInput(f"expected tiles on every slide, there are none on {case.name}; leave it out")
        if not 1 <= crop_px <= rule.tile_px or bag < 1:
            raise BadInput(f"expected bag of at least 1 and crop_px from 1 to {rule.tile_px}, got {bag} and {crop_px}")
        self.cells = tuple(tuple((int(row), int(column)) for row, column in own) for own in cells)
        self.labels, self.classes = tuple(labels), classes
        self.bag, self.crop_px, self.shuffle = bag, crop_px, shuffle

    def __enter__(self) -> BagSource:
        return self

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """Of a bag and of its class."""
        return (self.bag, self.crop_px, self.crop_px, 3), (self.classes,)

    def sample(self, index: int) -> Sample:
        """The bag of an index ≥ 0 and its class: a pure function of the seed and the index.

        Returns (N, P, P, 3) float32 in [0, 255] and (C,) float32, 1 for its class, else 0.
        Raises SlideUnreadable if no tile of the slide can be read.
        """
        try:
            case = self._case(index)
            bag = np.stack(list(self._drawn(case, index)))
            return bag.astype(np.float32), one_hot(self.labels[case], self.classes)
        except DigipathError as error:
            self.failure = error
            raise

    def names(self, samples: Sequence[int]) -> list[str]:
        """The case of each of these bags, by its name."""
        return [self.cases[self._case(index)].name for index in samples]

    def _case(self, index: int) -> int:
        return place_in_round(index, len(self.cases), self.seed, shuffle=self.shuffle)

    def _drawn(self, case: int, index: int) -> Iterator[NDArray[np.uint8]]:
        """`bag` crops of a slide's tiles, none twice until each was seen; changed as read, since tiles are large."""
        changes = np.random.default_rng((self.seed, CHANGES, index))
        order = np.random.default_rng((self.seed, CELLS, index)).permutation(len(self.cells[case]))
        cells, found = [self.cells[case][at] for at in order], 0
        while cells:
            readable = []
            for cell in cells:
                if found == self.bag:
                    return
                if (pixels := self._read(case, cell)) is not None:
                    found += 1
                    readable.append(cell)
                    yield self._changed(pixels, changes, self.crop_px)
            cells = readable
        raise _unreadable(self.cases[case], len(order))


def channel_scaling(source: Source, samples: int) -> tuple[RGB, RGB]:
    """Scale and offset that give the first `samples` of a source a mean of 0 and a deviation of 1 in each channel.

    Lerousseau et al. 2020, section 3.2: normalised by mean and standard deviation of the training set.
    Raises BadInput: fewer than one sample, or a channel that is the same everywhere.
    """
    if samples < 1:
        raise BadInput(f"expected at least one sample to find the mean colour of, received {samples}")
    sums, squares, pixels = np.zeros(3), np.zeros(3), 0
    for index in range(samples):
        flat = source.sample(index)[0].reshape(-1, 3).astype(np.float64)
        sums, squares, pixels = sums + flat.sum(axis=0), squares + np.square(flat).sum(axis=0), pixels + len(flat)
    mean = sums / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    if not (deviation > 0).all():
        raise BadInput(
            f"expected pixels that differ in every channel, found deviations of {deviation.round(3).tolist()}"
        )
    red, green, blue = (1 / deviation).tolist()
    at_red, at_green, at_blue = (-mean / deviation).tolist()
    return (red, green, blue), (at_red, at_green, at_blue)


def _unreadable(case: TrainingCase, tried: int) -> SlideUnreadable:
    return SlideUnreadable(
        f"expected a readable slide, {tried} tile(s) of its class or slide gave none; copy or export the file "
        f"again, or leave it out: {case.slide}"
    )
