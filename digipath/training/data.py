"""Training patches straight from slides: balanced, augmented, and the same on every run.

`PatchSource.sample(index)` depends on the seed and the index alone. `batches` feeds a network with
samples first, first + 1, …, of any such source, made ahead in parallel; a restarted training goes on at its index.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from digipath.annotation import Labels
from digipath.augment import Augmentation, augment, source_px
from digipath.errors import BadInput, DigipathError, SlideUnreadable
from digipath.slide_stain import fit_slide
from digipath.stain import Normaliser, StainReference, normaliser
from digipath.training.manifest import TrainingCase
from digipath.training.readers import CaseReader, Readers
from digipath.training.sampling import Draw, Draws, Places, Position, Sampling, extent, place_window, shown_pixels
from digipath.values import Scaling

__all__ = ["PatchSource", "Sampling", "batches", "keras_batches", "tensorflow_batches"]

TRIES = 64  # places drawn for one patch before its slide counts as unreadable
FREE_TRIES = 16  # of them as drawn; then any lesion will do, and for none the places known to have room
AHEAD = 2  # batches made before they are asked for

Sample = tuple[NDArray[np.float32], NDArray[np.float32]]  # image and truth, of patches (P, P, 3) and (P, P, 1)
Shape = tuple[int, ...]


class Source(Protocol):
    """Samples by their index: patches with masks, tiles or bags with classes. `shapes` are those of `sample`'s two."""

    @property
    def shapes(self) -> tuple[Shape, Shape]: ...

    def sample(self, index: int, /) -> Sample:
        """What belongs to an index ≥ 0, always the same, as arrays that are the caller's own; RGB in [0, 255]."""


@dataclass(frozen=True)
class Surveyed:
    """What is known of a case before the first patch. normalise: its stain to the target's."""

    places: Places
    normalise: Normaliser | None


class PatchSource:
    """Patches of cases, by index; a context manager, safe to call from many threads.

    Args:
        cases: slides with their annotations; a case's `mpp` overrides what its slide states.
        sampling: where patches are drawn.
        augmentation: None: patches as they are, for validation. Its zoom is narrowed, for all
            patches, to what can be shown without tumour where some have to be without.
        labels: which outlines are lesions.
        stain: bring every slide's stain to this one, fitted on the slide's own tissue.
        surveys: what sources of the same settings know of these cases already, by name; what this one
            finds out is added.

    Attributes:
        unreadable: places drawn so far that could not be read and were drawn again.
        failure: the last error that `sample` raised; frameworks that call it hide its kind.

    Raises:
        BadInput: a setting out of range, no case, or a class of which no patch can be drawn.
        ResolutionTooLow: a slide is more than twice as coarse as `sampling.mpp`.
        MissingResolution, SlideNotFound, SlideUnreadable, BadAnnotation: about a case's files.
    """

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        sampling: Sampling,
        *,
        augmentation: Augmentation | None,
        labels: Labels | None = None,
        stain: StainReference | None = None,
        surveys: dict[str, Surveyed] | None = None,
    ) -> None:
        sampling.check()
        if augmentation is not None:
            augmentation.check()
        if not cases:
            raise BadInput("expected at least one case to draw patches from, received none")
        self.cases = tuple(cases)
        self.sampling = sampling
        self.augmentation = augmentation
        self.unreadable = 0
        self.failure: DigipathError | None = None
        self._labels = Labels() if labels is None else labels
        self._stain = stain
        self._counting = threading.Lock()
        self._readers = Readers(self._open)
        known = {} if surveys is None else surveys
        with ThreadPoolExecutor(_workers(None)) as pool:
            unknown = [index for index, case in enumerate(self.cases) if case.name not in known]
            known |= zip([self.cases[index].name for index in unknown], pool.map(self._survey, unknown), strict=True)
        self._surveyed = tuple(known[case.name] for case in self.cases)
        places = [surveyed.places for surveyed in self._surveyed]
        self._draws = Draws(places, sampling, lambda index: extent(self._shown(index)))
        self._check_classes()
        self._narrow_zoom()

    def __enter__(self) -> PatchSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the slides; patches asked for later open them again."""
        self._readers.close()

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """Of a patch and its mask."""
        side = self.sampling.patch_px
        return (side, side, 3), (side, side, 1)

    def sample(self, index: int) -> Sample:
        """The patch of an index ≥ 0 and its mask: a pure function of the seed and the index.

        Returns (P, P, 3) float32 in [0, 255] and (P, P, 1) float32, 1 in lesions, else 0.
        Raises SlideUnreadable if none of its slide's places drawn for it can be read.
        """
        if index < 0:
            raise BadInput(f"expected the index of a patch from 0 on, received {index}")
        draw = self._draws[index]
        try:
            with self._readers.borrow(draw.case) as reader:
                for attempt in range(TRIES):
                    found = self._attempt(reader, draw, index, attempt)
                    if found is not None:
                        return found
            raise SlideUnreadable(
                f"expected a readable slide, {TRIES} places drawn for patch {index} gave none; "
                f"copy or export the file again, or leave it out: {self.cases[draw.case].slide}"
            )
        except DigipathError as error:
            self.failure = error
            raise

    def names(self, patches: Sequence[int]) -> list[str]:
        """The case of each of these patches, by its name."""
        return [self.cases[self._draws[index].case].name for index in patches]

    def _attempt(self, reader: CaseReader, draw: Draw, index: int, attempt: int) -> Sample | None:
        """One place drawn and read; None if it cannot be read or does not show what was drawn."""
        rng = np.random.default_rng((self.sampling.seed, index, attempt))
        shown = np.arange(self._read_px) if draw.positive is None else self._shown(index)
        start = self._start(reader, draw, shown, attempt, rng)
        mask = reader.lesions(start, self._read_px)
        if draw.positive not in (None, bool(mask[np.ix_(shown, shown)].any())):
            return None
        pixels, readable = reader.pixels(start, self._read_px)
        if not readable:
            with self._counting:
                self.unreadable += 1
            return None
        normalise = self._surveyed[draw.case].normalise
        if normalise is not None:
            pixels = normalise(pixels)
        image: NDArray[Any] = pixels
        truth: NDArray[Any] = mask[..., None]
        if self.augmentation is not None:
            changes = rng if draw.positive is None else self._changes(index)  # no class, nothing a zoom could tell
            image, truth = augment(image, truth, self.augmentation, changes)
        return image.astype(np.float32, copy=False), truth.astype(np.float32)

    def _start(
        self, reader: CaseReader, draw: Draw, shown: NDArray[np.int64], attempt: int, rng: np.random.Generator
    ) -> Position:
        """First pixel of the square to read, of which the rows and columns `shown` are what counts."""
        free = attempt < FREE_TRIES
        anchor = self._anchor(reader, draw, extent(shown), free, rng)
        shift = self.sampling.shift_px if free or draw.positive is not False else 0
        window = place_window(anchor, extent(shown), reader.size_px, shift, rng)
        start = [first - int(shown[0]) for first in window]
        if draw.positive:  # the zoom may leave out every second pixel: let the anchor be one of the others
            start = [
                at - int(shown[np.searchsorted(shown, at - first)]) for at, first in zip(anchor, start, strict=True)
            ]
        return start[0], start[1]

    def _anchor(self, reader: CaseReader, draw: Draw, window_px: int, free: bool, rng: np.random.Generator) -> Position:
        """The pixel about which the window lies."""
        places = self._surveyed[draw.case].places
        if draw.positive:
            cell, number = places.lesion_pixel(draw.lesion if free else None, rng)
            row, col = reader.lesion_pixels(places.lattice.box(cell))[number]
        elif free or draw.positive is None:
            cell = rng.choice(places.tissue if draw.positive is None else places.normal[: places.roomy(window_px)])
            row, col, rows, cols = places.lattice.box(cell)
            row, col = row + rng.integers(rows), col + rng.integers(cols)
        else:
            row, col = places.anchors[rng.integers(places.roomy(window_px))]
        return int(row), int(col)

    @property
    def _read_px(self) -> int:
        """Side of what is read for a patch."""
        patch_px = self.sampling.patch_px
        return patch_px if self.augmentation is None else source_px(self.augmentation, patch_px)

    def _changes(self, index: int) -> np.random.Generator:
        """The chance by which a patch with a class is changed, the same wherever it is found in the end."""
        return np.random.default_rng((self.sampling.seed, index, TRIES))

    def _shown(self, index: int) -> NDArray[np.int64]:
        """Rows, and columns, of what is read that a patch with a class shows: `augment` draws its zoom first."""
        return shown_pixels(self.augmentation, self.sampling.patch_px, self._changes(index).uniform(-1, 1))

    def _shown_px(self) -> tuple[int, int]:
        """The least and the most that a patch shows, the side of its window."""
        least, most = (extent(shown_pixels(self.augmentation, self.sampling.patch_px, zoom)) for zoom in (-1.0, 1.0))
        return least, most

    def _open(self, case: int) -> CaseReader:
        return CaseReader(self.cases[case], self.sampling.mpp, self._labels)

    def _survey(self, case: int) -> Surveyed:
        """Look at a case as a whole: tissue, lesions, room without lesion, stain."""
        with self._readers.borrow(case) as reader:
            overview = reader.slide.overview()
            tissue = reader.find_tissue(overview, self.sampling)
            places = reader.places(tissue, overview, self.sampling.patch_px, self._shown_px())
            return Surveyed(places, self._normaliser(reader, tissue))

    def _normaliser(self, reader: CaseReader, tissue: NDArray[np.bool_]) -> Normaliser | None:
        if self._stain is None:
            return None
        try:
            return normaliser(fit_slide(reader.slide, tissue, self._stain.method, mpp=reader.mpp), self._stain)
        except BadInput as error:
            raise BadInput(
                f"{error}; leave it out or train without stain normalisation: {reader.slide.path}"
            ) from error

    def _check_classes(self) -> None:
        """Refuse a share of a class that no case can show."""
        share, first = self.sampling.positive_share, self.cases[0].slide
        among = f"in any of {len(self.cases)} case(s), the first of them {first}"
        if share is None:
            if not self._draws.area_px:
                raise BadInput(f'expected tissue, found none; if all of it is tissue, set tissue = "all": {among}')
            return
        if share > 0 and not self._draws.with_tumour:
            raise BadInput(
                f"empty class: positive_share {share:g} asks for tumour, but there is no lesion pixel; check the "
                f"annotations and their labels, or set positive_share to none: {among}"
            )
        if share < 1 and self._draws.widest_px < self.sampling.patch_px:
            raise BadInput(
                f"empty class: positive_share {share:g} asks for patches without tumour, but no tissue of "
                f"{self.sampling.patch_px} px is free of it; add normal cases, take smaller patches, or set "
                f"positive_share to none: {among}"
            )

    def _narrow_zoom(self) -> None:
        """Let no patch show more than one without tumour can; all alike, or the zoom would tell the class."""
        share, widest = self.sampling.positive_share, self._draws.widest_px
        if self.augmentation is None or share in (None, 1) or widest >= self._shown_px()[1]:
            return
        scale = max(0.0, (widest - 1) / self.sampling.patch_px - 1)  # a zoomed side may touch one pixel more
        self.augmentation = replace(self.augmentation, scale=scale)


def batches(
    source: Source,
    *,
    batch: int,
    scale: Scaling,
    offset: Scaling,
    first: int = 0,
    count: int | None = None,
    workers: int | None = None,
) -> Any:  # noqa: ANN401 - of the backend
    """Batches of samples first, first + 1, … for Keras, made ahead by `workers` threads.

    Each is float32, RGB × scale + offset, and the truth, float32: of patches (B, P, P, 3) and (B, P, P, 1).
    count: of samples, the last batch may be smaller; None: endless, all batches full. workers: None: one per core.

    Returns a tf.data.Dataset on the TensorFlow backend, else a keras.utils.PyDataset with the same
    numbers. Raises BadInput for a batch, count or workers below 1 or `first` below 0.
    """
    import keras

    make = tensorflow_batches if keras.backend.backend() == "tensorflow" else keras_batches
    return make(source, batch=batch, scale=scale, offset=offset, first=first, count=count, workers=workers)


def tensorflow_batches(
    source: Source,
    *,
    batch: int,
    scale: Scaling,
    offset: Scaling,
    first: int = 0,
    count: int | None = None,
    workers: int | None = None,
) -> Any:  # noqa: ANN401 - a tf.data.Dataset
    """`batches` as a tf.data.Dataset."""
    import tensorflow as tf

    _check(batch, first, count, workers)
    sample, shapes = _scaled(source, scale, offset), source.shapes

    def load(index: Any) -> tuple[Any, Any]:  # noqa: ANN401 - tensors
        parts = tf.numpy_function(sample, [index], [tf.float32, tf.float32])
        image, truth = (tf.ensure_shape(part, shape) for part, shape in zip(parts, shapes, strict=True))
        return image, truth

    indices = tf.data.Dataset.counter(first)
    if count is not None:
        indices = indices.take(count)
    samples = indices.map(load, num_parallel_calls=_workers(workers), deterministic=True)
    return samples.batch(batch, drop_remainder=count is None).prefetch(AHEAD)


def keras_batches(
    source: Source,
    *,
    batch: int,
    scale: Scaling,
    offset: Scaling,
    first: int = 0,
    count: int | None = None,
    workers: int | None = None,
) -> Any:  # noqa: ANN401 - a keras.utils.PyDataset
    """`batches` as a keras.utils.PyDataset.

    It makes its batches ahead itself: Keras' own workers skip the batches that Keras looks at to
    build the network, and a training that is resumed would see others.
    """
    import keras

    _check(batch, first, count, workers)
    sample = _scaled(source, scale, offset)

    class Batches(keras.utils.PyDataset):
        num_batches = None if count is None else -(-count // batch)

        def __init__(self) -> None:
            super().__init__()
            self._pool = ThreadPoolExecutor(_workers(workers))
            self._made: dict[int, list[Future[Sample]]] = {}

        def __getitem__(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            made, self._made = self._made, {}
            for ahead in range(number, number + 1 + AHEAD):
                self._made[ahead] = made.get(ahead) or [
                    self._pool.submit(sample, index) for index in self._indices(ahead)
                ]
            images, truths = zip(*(future.result() for future in self._made.pop(number)), strict=True)
            return np.stack(images), np.stack(truths)

        @staticmethod
        def _indices(number: int) -> range:
            end = (number + 1) * batch
            return range(first + number * batch, first + (end if count is None else min(end, count)))

    return Batches()


def _scaled(source: Source, scale: Scaling, offset: Scaling) -> Callable[[int], Sample]:
    """Index → sample in the network's range, and its truth."""

    def sample(index: int) -> Sample:
        image, truth = source.sample(int(index))
        image *= np.asarray(scale, np.float32)
        image += np.asarray(offset, np.float32)
        return image, truth

    return sample


def _check(batch: int, first: int, count: int | None, workers: int | None) -> None:
    least = {"batch": (batch, 1), "first": (first, 0), "count": (count, 1), "workers": (workers, 1)}
    for name, (value, low) in least.items():
        if value is not None and value < low:
            raise BadInput(f"expected {name} of at least {low}, received {value}")


def _workers(asked: int | None) -> int:
    return asked or os.cpu_count() or 1
