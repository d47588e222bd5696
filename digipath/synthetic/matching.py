"""Give several periodic images the same distribution of brightness at every scale, whatever they show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BINS = 4096  # of the histograms that ranks are read from
PASSES = 4  # matching a finer scale disturbs the coarser ones a little: go over them again

Floats = NDArray[np.floating]


def ranks(field: Floats) -> Floats:
    """Each pixel's rank among all, in [0, 1], to one part in BINS of the field's range; float32."""
    bins, upto = _binned(field)
    return _middle(upto)[bins]


def matched(images: Sequence[Floats], scales: int) -> list[Floats]:
    """The images changed so that their means over 1, 2, 4, … 2^scales pixels are distributed alike.

    images: square, periodic, of one side divisible by 2^scales. What they are mapped onto by rank is the mean of
    their quantiles, from coarse to fine: so equal shares of dark pixels stay equal when the images are shrunk, and
    in every neighbourhood as large as the coarsest scale.
    """
    for _ in range(PASSES):
        pyramids = [_pyramid(image, scales) for image in images]
        changes: list[Floats] = []
        for level in range(scales, -1, -1):
            here = [pyramid[level] for pyramid in pyramids]
            coarser = (
                [image + _doubled(change) for image, change in zip(here, changes, strict=True)] if changes else here
            )
            alike = _alike(coarser)
            changes = [new - old for new, old in zip(alike, here, strict=True)]
        images = alike
    return list(images)


def _pyramid(image: Floats, scales: int) -> list[Floats]:
    levels = [image]
    for _ in range(scales):
        levels.append(_halved(levels[-1]))
    return levels


def _halved(image: Floats) -> Floats:
    top, bottom = image[::2], image[1::2]
    return (top[:, ::2] + top[:, 1::2] + bottom[:, ::2] + bottom[:, 1::2]) / 4


def _alike(images: Sequence[Floats]) -> list[Floats]:
    """Each image mapped by rank onto the mean of all images' quantiles."""
    binned = [_binned(image) for image in images]
    at = np.linspace(0, 1, BINS + 1)
    edges = [np.linspace(image.min(), image.max(), BINS + 1) for image in images]
    quantiles = [np.interp(at, upto, own) for (_, upto), own in zip(binned, edges, strict=True)]
    target = np.mean(quantiles, axis=0)
    return [np.interp(_middle(upto), at, target).astype(np.float32)[bins] for bins, upto in binned]


def _binned(field: Floats) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The bin of each pixel, and the share of pixels below each of the BINS + 1 edges of the bins."""
    low, high = float(field.min()), float(field.max())
    bins = ((field - low) * np.float32(BINS / max(high - low, 1e-9))).astype(np.int32)
    np.minimum(bins, BINS - 1, out=bins)
    counts = np.bincount(bins.ravel(), minlength=BINS)
    return bins, np.concatenate([[0], np.cumsum(counts)]) / field.size


def _middle(upto: NDArray[np.float64]) -> Floats:
    return ((upto[:-1] + upto[1:]) / 2).astype(np.float32)


def _doubled(image: Floats) -> Floats:
    """Twice the side, periodic: bilinear, and then what makes the means over 2 × 2 pixels those of `image`."""
    smooth = image
    for axis in (0, 1):
        before, after = (0.75 * smooth + 0.25 * np.roll(smooth, step, axis) for step in (1, -1))
        shape = list(smooth.shape)
        shape[axis] *= 2
        smooth = np.stack([before, after], axis=axis + 1).reshape(shape)
    missing = image - _halved(smooth)
    return smooth + missing.repeat(2, axis=0).repeat(2, axis=1)
