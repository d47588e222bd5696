"""Bag classifiers whose embedder stays as loaded: tiles are embedded once, only pooling and head learn.

    embedder.weights.h5              what embeds, as it will be shipped
    embeddings/train-<n>.npy         float32 (views, tiles, L) of the n-th training slide; and validation-<n>.npy

A view is a large bag: tiles drawn at random from the slide, each cropped and changed anew. A bag to train on is drawn
from one view. Beside memory this saves time: the embedder runs as often as there are views, whatever the epochs.
The network that comes out is the whole one, so that it is used like any other.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from digipath import nn
from digipath.engine.ahead import ahead
from digipath.errors import BadInput, Cancelled, DigipathError
from digipath.files import made_folder, write_atomically
from digipath.nn.mil import parts
from digipath.runtime import keras_predictor
from digipath.stain import StainReference
from digipath.tile_augment import TileAugmentation
from digipath.tiling import TileRule
from digipath.training.checkpoint import replacing
from digipath.training.data import Sample, Shape, batches
from digipath.training.fit import Fitted, LoadEncoder, fit
from digipath.training.manifest import TrainingCase
from digipath.training.objective import Objective
from digipath.training.schedule import Schedule
from digipath.training.tile_source import BagSource, Cell
from digipath.values import Cancel, Predictor, Progress, ProgressCallback, Scaling

EMBEDDER, EMBEDDINGS, WHOLE = "embedder.weights.h5", "embeddings", "whole-minus{}.weights.h5"
HEAD = "mil-head"
BATCH = 16  # tiles that go through the embedder together
AHEAD = 1  # views read while one is embedded


@dataclass(frozen=True)
class Slides:
    """Slides of one part of a split: the tiles of each, and its class."""

    cases: tuple[TrainingCase, ...]
    cells: tuple[tuple[Cell, ...], ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Views:
    """How tiles are looked at before they are embedded.

    Attributes:
        rule, crop_px, augmentation, stain: as for `digipath.training.tile_source.BagSource`.
        scale, offset: of the embedder's input.
        count: views of a training slide; of a validation slide there is one.
        most_tiles: tiles in a view, fewer where the slide has fewer.
        drawn: of them in a bag.
    """

    rule: TileRule
    crop_px: int
    augmentation: TileAugmentation | None
    scale: Scaling
    offset: Scaling
    count: int
    most_tiles: int
    drawn: int
    stain: StainReference | None = None


def fit_frozen(
    network_spec: Mapping[str, Any],
    training: Slides,
    validation: Slides,
    views: Views,
    schedule: Schedule,
    *,
    folder: Path,
    seeds: tuple[int, int],
    objective: Objective,
    encoder: LoadEncoder | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> Fitted:
    """Embed all slides, train pooling and head on the embeddings, and put the network together; or go on there.

    Args:
        network_spec: of the whole network, as `digipath.training.fit.fit` takes it.
        seeds: of training, and of the validation slides' tiles.
        folder, objective, encoder, identity, progress, cancel: as for `fit`.

    Returns:
        As `fit`; the snapshots are files of the whole network.

    Raises:
        As `fit`; SlideUnreadable, … about a case.
    """
    network = _embedder(network_spec, folder, seeds[0], encoder)
    embed = keras_predictor(parts(network).embedder, views.crop_px, scale=views.scale, offset=views.offset, batch=BATCH)
    files = {}
    for part, slides, seed in (("train", training, seeds[0]), ("validation", validation, seeds[1])):
        asked = views if part == "train" else replace(views, count=1)
        kept = made_folder(folder / EMBEDDINGS) / f"{part}-"
        files[part] = embeddings(slides, asked, embed, kept, seed=seed, progress=progress, cancel=cancel)
    classes = int(network.output_shape[-1])
    bags = EmbeddedBags(files["train"], training, classes=classes, bag=views.drawn, seed=seeds[0])
    held = EmbeddedBags(files["validation"], validation, classes=classes, bag=views.drawn, seed=seeds[1], shuffle=False)
    feed = partial(batches, batch=schedule.batch, scale=1.0, offset=0.0)
    spec = _head_spec(network_spec, bags.shapes[0][-1])
    fitted = fit(
        spec,
        lambda first: feed(bags, first=first),
        lambda: feed(held, count=len(held)),
        schedule,
        folder,
        seed=seeds[0],
        objective=objective,
        identity={**(identity or {}), "whole": dict(network_spec)},
        cases=bags.names,
        progress=progress,
        cancel=cancel,
    )
    head = nn.build(spec["name"], **spec["config"])
    whole = {
        before: _whole(network, head, file, folder / WHOLE.format(before)) for before, file in fitted.snapshots.items()
    }
    return replace(fitted, snapshots=whole)


def embeddings(
    slides: Slides,
    views: Views,
    embed: Predictor,
    kept: Path,
    *,
    seed: int,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> list[Path]:
    """Embed views of all slides, one file each, `<kept><n>.npy` of float32 (views, tiles, L); those there stay.

    Args:
        embed: (B, P, P, 3) uint8 → (B, L).

    Raises:
        Cancelled; SlideUnreadable, … about a case.
    """
    files = [kept.with_name(f"{kept.name}{number}.npy") for number in range(len(slides.cases))]
    todo = [number for number, file in enumerate(files) if not file.exists()]
    began, done = time.perf_counter(), 0
    with ThreadPoolExecutor(1) as pool:
        try:
            for number in todo:
                found = []
                for tiles in _read(slides, views, number, seed, pool):
                    if cancel is not None and cancel():
                        raise Cancelled("cancelled while tiles are embedded; the same call goes on with this slide")
                    found.append(_embedded(embed, tiles))
                stream = io.BytesIO()
                np.save(stream, np.stack(found), allow_pickle=False)
                write_atomically(files[number], stream.getvalue())
                done += 1
                if progress is not None:
                    rate = done / max(time.perf_counter() - began, 1e-9)
                    progress(Progress(done, len(todo), rate, f"embedding {slides.cases[number].name}"))
        finally:
            pool.shutdown(cancel_futures=True)
    return files


class EmbeddedBags:
    """Bags of embeddings of one slide with its class, by index: as `BagSource`, from files of `embeddings`.

    Args:
        files: one for each of the slides. bag: embeddings in a bag, none twice unless the slide has fewer.
        shuffle: each round of all slides in an order of its own; False: in the given order.

    Raises:
        BadInput: a damaged file, or not one for each slide.
    """

    def __init__(
        self, files: Sequence[Path], slides: Slides, *, classes: int, bag: int, seed: int, shuffle: bool = True
    ) -> None:
        self.slides, self.classes, self.bag, self.seed, self.shuffle = slides, classes, bag, seed, shuffle
        self.failure: DigipathError | None = None
        self._views = [_opened(file) for file in files]
        if len(files) != len(slides.cases):
            raise BadInput(f"expected embeddings of {len(slides.cases)} slides, got {len(files)} files")

    def __len__(self) -> int:
        return len(self._views)

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """Of a bag and of its class."""
        return (self.bag, int(self._views[0].shape[-1])), (self.classes,)

    def sample(self, index: int) -> Sample:
        """The bag of an index ≥ 0 and its class, (N, L) and (C,) float32: a pure function of the seed and the index."""
        number = self._turn(index)
        rng = np.random.default_rng((self.seed, index))
        views = self._views[number]
        view = views[rng.integers(len(views))]
        rows = np.resize(rng.permutation(len(view))[: self.bag], self.bag)
        return np.array(view[rows], np.float32), np.eye(self.classes, dtype=np.float32)[self.slides.labels[number]]

    def names(self, samples: Sequence[int]) -> list[str]:
        """The case of each of these bags, by its name."""
        return [self.slides.cases[self._turn(index)].name for index in samples]

    def _turn(self, index: int) -> int:
        turn, place = divmod(index, len(self))
        return int(np.random.default_rng((self.seed, turn, 1)).permutation(len(self))[place]) if self.shuffle else place


def _head_spec(network_spec: Mapping[str, Any], features: int) -> dict[str, Any]:
    kept = ("classes", "pooling", "attention_units", "dropout", "activation")
    config = {name: value for name, value in network_spec["config"].items() if name in kept}
    return {"name": HEAD, "config": {**config, "features": features}}


def _embedder(spec: Mapping[str, Any], folder: Path, seed: int, encoder: LoadEncoder | None) -> keras.Model:
    """The whole network with the embedder's weights, which are kept, so that a run that goes on has the same."""
    keras.utils.set_random_seed(seed % 2**32)
    network = nn.build(spec["name"], **spec["config"])
    embedder = parts(network).embedder
    if (folder / EMBEDDER).exists():
        embedder.load_weights(folder / EMBEDDER)
        return network
    if encoder is not None:
        encoder(network)
    with replacing(folder / EMBEDDER) as temporary:
        embedder.save_weights(temporary)
    return network


def _whole(network: keras.Model, head: keras.Model, weights: Path, file: Path) -> Path:
    """Save the network with a head of these weights."""
    head.load_weights(weights)
    for layer in head.layers:
        if layer.weights:
            network.get_layer(layer.name).set_weights(layer.get_weights())
    with replacing(file) as temporary:
        network.save_weights(temporary)
    return file


def _read(
    slides: Slides, views: Views, number: int, seed: int, pool: ThreadPoolExecutor
) -> Iterator[NDArray[np.uint8]]:
    """The views of a slide, (tiles, P, P, 3) uint8 each; one is read while another is used."""
    cells = slides.cells[number]
    source = BagSource(
        [slides.cases[number]],
        [cells],
        [0],
        views.rule,
        classes=2,
        bag=min(views.most_tiles, len(cells)),
        crop_px=views.crop_px,
        augmentation=views.augmentation,
        stain=views.stain,
        seed=seed + number,
        shuffle=False,
    )
    with source:
        yield from ahead(pool, lambda view: source.sample(view)[0].astype(np.uint8), range(views.count), AHEAD)


def _embedded(embed: Predictor, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    chunks = [embed(tiles[first : first + BATCH]) for first in range(0, len(tiles), BATCH)]
    return np.concatenate([np.asarray(chunk, np.float32) for chunk in chunks])


def _opened(file: Path) -> NDArray[np.float32]:
    try:
        views = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise BadInput(f"embeddings of tiles are damaged ({error}); remove the file: {file}") from error
    if views.ndim != 3 or 0 in views.shape or not math.isfinite(float(views[0, 0, 0])):
        raise BadInput(f"expected embeddings (views, tiles, L), got {views.shape}; remove the file: {file}")
    return views  # type: ignore[no-any-return]
