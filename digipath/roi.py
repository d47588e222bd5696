"""Regions of a volume: boxes around brain and tumour, the array in a box brought to a fixed size, and back; a slice.

A box is cut in voxels and resized axis by axis, so a voxel's place in the region is a straight line of its place in
the volume. `put_back` follows the same line the other way, so that what a network points at comes back where it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from digipath.errors import BadInput, BadVolume
from digipath.volume_values import Box

S = TypeVar("S", bound=np.generic)
Floats = NDArray[np.float32]
MARGIN_VOX = 10  # Pereira 2018, section 2.1
SIDE_PX = 227  # Lo 2019, section 2.2
WHITE = 255


def brain_box(brain: NDArray[np.bool_]) -> Box:
    """The bounding box of a mask (X, Y, Z).

    Raises:
        BadVolume: the mask is empty.
    """
    return _bounding_box(brain, "brain")


def tumour_box(tumour: NDArray[np.bool_], *, margin_vox: int = MARGIN_VOX) -> Box:
    """The bounding box of a mask (X, Y, Z) with a margin, of the tumour's own proportions.

    The box has the sizes ⌈e_i · (1 + 2 · margin / min e)⌉ around the middle of the bounding box, where e_i is the
    size of the bounding box along axis i, but at least 2 · margin. So the shortest side gains the margin on both
    ends and the others more, in proportion. That least size is our choice: without it a tumour of one slice, of
    100 × 100 × 1 voxels, would get a box of 2100 × 2100 × 21.

    Args:
        margin_vox: least distance of the tumour to each side of the box.

    Returns:
        A box that may reach beyond the volume.

    Raises:
        BadVolume: the mask is empty. BadInput: a negative margin.

    References:
        Pereira et al. 2018, section 2.1: "a margin of 10 voxels in each side of the bounding box, while maintaining
        the aspect ratio of the tumor".
    """
    if margin_vox < 0:
        raise BadInput(f"expected a margin of at least 0 voxels, got {margin_vox}")
    tight = _bounding_box(tumour, "tumour")
    extents = [max(size, 2 * margin_vox) for size in tight.size_vox]
    shortest = min(extents)
    sizes = [-(-extent * (shortest + 2 * margin_vox) // shortest) for extent in extents]
    starts = [at - (size - own) // 2 for at, size, own in zip(tight.start_vox, sizes, tight.size_vox, strict=True)]
    return _box(starts, sizes)


def square_plane(shape_vox: Sequence[int], slice_vox: int) -> Box:
    """The axial plane `slice_vox` of a volume (X, Y, Z) as a square box around its middle."""
    side = max(shape_vox[:2])
    x, y = (-((side - size) // 2) for size in shape_vox[:2])
    return _box((x, y, slice_vox), (side, side, 1))


def cut(values: NDArray[S], box: Box, beyond: ArrayLike = 0) -> NDArray[S]:
    """What lies in a box, (X, Y, Z, …) → (*box.size_vox, …) of the same type.

    beyond: what lies beyond the volume, one value or one for each channel; 0 is the background of intensities that
    were standardised inside the brain.
    """
    found = np.full((*box.size_vox, *values.shape[3:]), beyond, values.dtype)
    there, here = _meeting(box, values.shape)
    found[here] = values[there]
    return found


def resized(values: Floats, size: Sequence[int]) -> Floats:
    """The array (a, b, c[, C]) at another number of voxels along its first three axes, float32.

    Linear along each axis and aligned by the voxels' outer borders. Where an axis shrinks, the linear weights reach
    as far as the new voxels are apart, so that each is an average and nothing aliases. Of the same size, the values
    are the same; a constant stays constant up to rounding.

    Raises:
        BadInput: sizes that are not three positive numbers.
    """
    if len(size) != 3 or min(size) < 1:
        raise BadInput(f"expected three sizes of at least one voxel, got {tuple(size)}")
    found = np.array(values, np.float32)
    for axis, length in enumerate(size):
        if length != found.shape[axis]:
            weights = _weights(found.shape[axis], length)
            found = np.moveaxis(np.tensordot(weights, found, (1, axis)), 0, axis)
    return np.ascontiguousarray(found)


def put_back(values: Floats, box: Box, shape_vox: Sequence[int]) -> Floats:
    """The inverse of `cut` and `resized`: (a, b, c), of any size, fills a box in a volume (X, Y, Z) of zeros."""
    whole = np.zeros(tuple(shape_vox), np.float32)
    there, here = _meeting(box, shape_vox)
    whole[there] = resized(values, box.size_vox)[here]
    return whole


def largest_slice(tumour: NDArray[np.bool_]) -> int:
    """The axial plane z of a mask (X, Y, Z) with the largest area; of equal ones the lowest.

    Raises:
        BadVolume: the mask is empty.
    """
    areas = tumour.sum(axis=(0, 1))
    if not areas.any():
        raise _empty("tumour")
    return int(areas.argmax())


def slice_picture(
    values: Floats, tumour: NDArray[np.bool_], brain: NDArray[np.bool_], *, side_px: int = SIDE_PX
) -> NDArray[np.uint8]:
    """An axial plane as a picture of the tumour alone.

    The least intensity of the slice's brain (and tumour) becomes 0, the largest 255, what is outside the tumour's
    contour 0. The plane is completed to a square with 0, so that shapes keep their proportions, turned as `to_picture`
    says, and resized as `resized` does.

    Args:
        values, tumour, brain: (X, Y) of one plane.
        side_px: of the picture.

    Returns:
        (side_px, side_px, 3) uint8 with three equal channels.

    Raises:
        BadInput: a side below 1, or masks of another shape.

    References:
        Lo et al. 2019, section 2.2: 8 bits, then the pixels in the contour, then 227 × 227.
    """
    if not values.shape == tumour.shape == brain.shape:
        raise BadInput(f"expected masks of the plane's shape {values.shape}, got {tumour.shape} and {brain.shape}")
    inside = values[brain | tumour]
    low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)
    grey = (values - low) * (WHITE / (high - low) if high > low else 0) * tumour
    plane = cut(grey[..., None].astype(np.float32), square_plane((*values.shape, 1), 0))
    picture = to_picture(resized(plane, (side_px, side_px, 1))[..., 0])
    return np.repeat(np.rint(picture).astype(np.uint8)[..., None], 3, axis=-1)


def to_picture(plane: Floats) -> Floats:
    """(X, Y) → (rows, columns) as radiologists look at it: front at the top, the patient's right at the left."""
    return plane[::-1, ::-1].T


def from_picture(picture: Floats) -> Floats:
    """The inverse of `to_picture`."""
    return picture.T[::-1, ::-1]


def _bounding_box(mask: NDArray[np.bool_], what: str) -> Box:
    starts, sizes = [], []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not found.size:
            raise _empty(what)
        starts.append(int(found[0]))
        sizes.append(int(found[-1] - found[0] + 1))
    return _box(starts, sizes)


def _empty(what: str) -> BadVolume:
    return BadVolume(f"expected a mask that marks the {what}, it is empty; give another mask")


def _box(starts: Sequence[int], sizes: Sequence[int]) -> Box:
    x, y, z = starts
    return Box((x, y, z), (x + sizes[0], y + sizes[1], z + sizes[2]))


def _meeting(box: Box, shape_vox: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where box and volume meet: slices into the volume and into the box."""
    there, here = [], []
    for start, stop, size in zip(box.start_vox, box.stop_vox, shape_vox, strict=False):
        low = min(max(start, 0), size)
        high = max(min(stop, size), low)
        there.append(slice(low, high))
        here.append(slice(max(low - start, 0), max(high - start, 0)))
    return tuple(there), tuple(here)


def _weights(size: int, new: int) -> Floats:
    """(new, size): how much each voxel of an axis counts for each new one."""
    step = size / new
    centres = (np.arange(new) + 0.5) * step - 0.5
    away = np.abs(np.arange(size) - centres[:, None]) / max(1.0, step)
    weights = np.maximum(1 - away, 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)
