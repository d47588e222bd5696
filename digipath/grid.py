"""Mask → Grid: a regular lattice of patches, thinned to those that touch tissue.

Khened et al. 2021, "Inference pipeline": a uniform sampling grid on the low-resolution tissue
mask, with an overlap of 50 % between neighbours. Here the lattice covers the whole array before
it is thinned, so every tissue pixel lies in at least one patch by construction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput
from digipath.values import Grid, nearest_index


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
