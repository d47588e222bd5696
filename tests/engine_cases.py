"""Arrays, grids and predictors on which the engine is tested."""

from __future__ import annotations

import numpy as np

from digipath.engine.predict import predict_maps
from digipath.engine.reader import array_reader
from digipath.grid import tissue_grid
from digipath.values import PREDICTED, ArrayMaps


def constant(value):
    return lambda patches: np.full((*patches.shape[:-1], 1), value, np.float32)


def identity(patches):
    return patches.astype(np.float32) / 255


def run(array, grid, predictors, *, wanted=None, read=None, **options):
    wanted = np.full(grid.map_shape, PREDICTED, np.uint8) if wanted is None else wanted
    into = options.pop("into", None) or ArrayMaps(grid.map_shape)
    reader = read or array_reader(array, grid.remaining(into.rows_done))
    predict_maps(reader, grid, predictors, wanted, into, **options)
    return into


def everywhere(shape, patch, **options):
    return tissue_grid(np.ones((1,) * len(shape), bool), shape, patch, **options)


def random_case(seed, rank=2):
    """A random array, its grid (also smaller than one patch) and map reduction."""
    rng = np.random.default_rng(seed)
    patch = int(rng.integers(5, 40))
    shape = tuple(int(n) for n in rng.integers(1, 120 if rank == 2 else 50, rank))
    reduce = int(rng.integers(1, min(patch, 6)))
    array = rng.integers(0, 256, (*shape, 3), np.uint8)
    overlap = float(rng.choice([0, 0.25, 0.5, 0.8]))
    return array, everywhere(shape, (patch,) * rank, overlap=overlap, reduce=reduce)


def means(array, reduce):
    """Block means over the pixels that exist, by brute force."""
    rank = array.ndim - 1
    out = np.empty((*(-(-n // reduce) for n in array.shape[:rank]), array.shape[-1]))
    for at in np.ndindex(out.shape[:-1]):
        block = array[tuple(slice(i * reduce, (i + 1) * reduce) for i in at)]
        out[at] = block.mean(axis=tuple(range(rank))) / 255
    return out
