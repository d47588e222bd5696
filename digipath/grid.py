"""Mask → Grid: a regular lattice of patches, thinned to those that touch tissue; mask → Tiles side by side.

Khened et al. 2021, "Inference pipeline": a uniform sampling grid on the low-resolution tissue
mask, with an overlap of 50 % between neighbours. Here the lattice covers the whole array before
it is thinned, so every tissue pixel lies in at least one patch by construction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput
from digipath.values import Grid, Tiles, nearest_index, tile_area_px

ROUNDING = 1e-9  # of a share of tissue: 90 % as written counts as 90 %, a pixel less does not


def tissue_grid(
    wanted: NDArray[np.bool_],
    shape_px: Sequence[int],
    patch_px: Sequence[int],
    *,
    overlap: float = 0.5,
    reduce: int = 1,
    mpp: float | None = None,
) -> Grid:
    """Return the patches that cover every wanted pixel.

    Args:
        wanted: bool array of any resolution over the same field as `shape_px` (same rank).
        shape_px: size of the array in working pixels.
        patch_px: size of a patch in working pixels, each ≥ `reduce`.
        overlap: share of a patch that its neighbour covers too, in [0, 1).
        reduce: working pixels per map pixel; starts become multiples of it.
        mpp: µm per working pixel, noted in the Grid.

    Raises:
        BadInput: overlap outside [0, 1), a patch smaller than `reduce`, or ranks that differ.
    """
    _check(wanted, shape_px, patch_px, overlap, reduce)
    used = [patch // reduce for patch in patch_px]
    steps = [max(1, int(size * (1 - overlap))) for size in used]
    fields = [-(-size // reduce) for size in shape_px]
    lattice = [_starts(f, u, s) for f, u, s in zip(fields, used, steps, strict=True)]
    keep = _touches(wanted, lattice, used, fields)
    starts = np.stack([axis[at] for axis, at in zip(lattice, np.nonzero(keep), strict=True)], axis=1)
    return Grid(tuple(shape_px), tuple(patch_px), reduce, starts * reduce, mpp)


def tile_lattice(
    wanted: NDArray[np.bool_],
    shape_px: tuple[int, int],
    tile_px: int,
    *,
    least_tissue: float = 0.9,
    mpp: float | None = None,
) -> Tiles:
    """Return the tiles of a slide, side by side from its first pixel on, kept if at least `least_tissue` is tissue.

    Truong et al. 2020, "Preprocessing": tiles of 1024 px at 20×, of which 90 % or more is tissue. The last tiles
    of a row or column reach beyond the slide, where there is no tissue; only where the whole slide fits into
    one tile its share is of the slide.

    Args:
        wanted: bool (rows, columns) of any resolution over the same field as `shape_px`.
        least_tissue: in (0, 1], and that share itself is enough.

    Raises:
        BadInput: a tile without pixels or a share outside (0, 1].
    """
    if tile_px < 1:
        raise BadInput(f"expected tiles of at least one pixel, got {tile_px}")
    if not 0 < least_tissue <= 1:
        raise BadInput(f"expected a share of tissue in (0, 1] from which tiles are kept, got {least_tissue}")
    area_px = wanted.astype(np.float64)
    for axis, size in enumerate(shape_px):
        edges = np.minimum(np.arange(-(-size // tile_px) + 1) * tile_px, size)
        area_px = _integrals(area_px, edges * (wanted.shape[axis] / size), axis) * (size / wanted.shape[axis])
    share = area_px / tile_area_px(shape_px, tile_px)
    return Tiles(shape_px, tile_px, share.astype(np.float32), share >= least_tissue - ROUNDING, mpp)


def _integrals(values: NDArray[np.float64], edges: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Sums of piecewise constant values between neighbouring edges along an axis; an edge may cut a value."""
    sums = np.insert(values.cumsum(axis), 0, 0, axis)
    low = np.minimum(edges.astype(np.int64), values.shape[axis] - 1)
    part = np.expand_dims(edges - low, tuple(range(1, values.ndim - axis)))
    at = sums.take(low, axis) * (1 - part) + sums.take(low + 1, axis) * part
    return np.diff(at, axis=axis)


def _check(
    wanted: NDArray[np.bool_],
    shape_px: Sequence[int],
    patch_px: Sequence[int],
    overlap: float,
    reduce: int,
) -> None:
    if not 0 <= overlap < 1:
        raise BadInput(f"overlap must be in [0, 1), got {overlap}; 0.5 is the usual choice")
    if not wanted.ndim == len(shape_px) == len(patch_px):
        raise BadInput(
            f"mask, array and patch need one rank, got {wanted.ndim}, {len(shape_px)}, {len(patch_px)}"
        )
    if min(patch_px) < reduce:
        raise BadInput(f"a patch of {min(patch_px)} px is smaller than one map pixel ({reduce} px)")


def _starts(field: int, patch: int, step: int) -> NDArray[np.int64]:
    """Starts along one axis that cover [0, field); the last patch ends at the field's end."""
    last = max(0, field - patch)
    starts = np.arange(0, last, step, dtype=np.int64)
    return np.append(starts, last)


def _touches(
    wanted: NDArray[np.bool_],
    lattice: Sequence[NDArray[np.int64]],
    patch: Sequence[int],
    fields: Sequence[int],
) -> NDArray[np.bool_]:
    """For each lattice point, whether its patch holds a wanted pixel (by a summed-area table)."""
    sums = np.zeros([size + 1 for size in wanted.shape], np.int32)
    sums[(slice(1, None),) * wanted.ndim] = wanted
    for axis in range(wanted.ndim):
        np.cumsum(sums, axis=axis, out=sums)
    for axis, (starts, size, field) in enumerate(zip(lattice, patch, fields, strict=True)):
        index = nearest_index(wanted.shape[axis], field)
        first = index[starts]
        last = index[np.minimum(starts + size, field) - 1]
        sums = sums.take(last + 1, axis=axis) - sums.take(first, axis=axis)
    return sums > 0
