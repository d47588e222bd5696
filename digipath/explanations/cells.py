"""Where in an image the cells of a layer lie, and their values at its pixels; images of any number of axes.

A convolution without padding sees less and less of the border, and one that is padded alike on both sides and has
strides begins at the first pixel: features that are merely stretched over the image would lie beside what they are of.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from digipath.explanations.gradients import Floats

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Axis:
    """Cells along one axis of an image: the centre of cell i lies at first_px + i × step_px; 0 is that of a pixel."""

    first_px: float
    step_px: float
    count: int

    def windows(self, width: int, stride: int, count: int, *, before: int) -> Axis:
        """Cells that each see `width` of these, the first of them `before` cells outside."""
        return Axis(self.first_px + self.step_px * ((width - 1) / 2 - before), self.step_px * stride, count)

    def spread(self, count: int) -> Axis:
        """Another number of cells over the same extent."""
        ratio = self.count / count
        return Axis(self.first_px + self.step_px * (ratio - 1) / 2, self.step_px * ratio, count)


class Cells:
    """The cells of a network's output (B, *space, channels), however large its image is.

    Args:
        network: from an image to features. Layers with windows (convolutions, pooling), padding and cropping are
            followed as they are; any other that changes the number of cells is taken to spread them evenly.
    """

    def __init__(self, network: keras.Model) -> None:
        import keras

        self._path = _path(network)
        self._channels = network.input_shape[-1]
        self._shapes = keras.Model(network.input, [_space_of(operation.output) for operation in self._path])
        self.axes = functools.cache(self._axes)

    def _axes(self, sizes_px: tuple[int, ...]) -> tuple[Axis, ...]:
        """The cells along each axis of an image of these sizes."""
        import keras

        seen = self._shapes.compute_output_spec(keras.KerasTensor((1, *sizes_px, self._channels)))
        axes = [Axis(0.0, 1.0, size) for size in sizes_px]
        for operation, found in zip(self._path, seen, strict=True):
            if len(found.shape) == len(sizes_px) + 2:
                axes = [_behind(operation, one, at, found.shape[1 + at]) for at, one in enumerate(axes)]
        return tuple(axes)


def interpolated(values: Floats, axes: Sequence[Axis], sizes_px: Sequence[int]) -> Floats:
    """Values of cells, at each pixel of the image: linear along each axis, constant beyond the outermost cells."""
    for number, (axis, size) in enumerate(zip(axes, sizes_px, strict=True)):
        at = np.clip((np.arange(size) - axis.first_px) / axis.step_px, 0, axis.count - 1)
        low = at.astype(np.int64)
        share = (at - low).astype(np.float32).reshape(-1, *[1] * (values.ndim - number - 1))
        begin = values.take(low, axis=number)
        values = begin + (values.take(np.minimum(low + 1, axis.count - 1), axis=number) - begin) * share
    return values


def _path(network: keras.Model) -> list[Any]:
    """Operations from the input to the output, one of the ways with cells all along, in this order."""
    import keras

    made_by = {id(one): operation for operation in network.operations for one in keras.tree.flatten(operation.output)}
    path, at = [], network.output
    while at is not network.input:
        path.append(made_by[id(at)])
        at = max(keras.tree.flatten(path[-1].input), key=_extent)
    return path[::-1]


def _space_of(output: Any) -> Any:  # noqa: ANN401 - a symbolic tensor, or several
    import keras

    return max(keras.tree.flatten(output), key=_extent)


def _extent(tensor: keras.KerasTensor) -> int:
    """Axes along which there is more than one cell."""
    return sum(side != 1 for side in tensor.shape[1:-1])


def _behind(operation: Any, axis: Axis, at: int, count: int) -> Axis:  # noqa: ANN401 - a layer or an operation
    """The cells of an operation's output along the axis with number `at`, of which there are `count`."""
    kind = type(operation).__name__
    if kind.startswith("ZeroPadding"):
        return axis.windows(1, 1, count, before=int(np.reshape(operation.padding, (-1, 2))[at, 0]))
    if kind.startswith("Cropping"):
        return axis.windows(1, 1, count, before=-int(np.reshape(operation.cropping, (-1, 2))[at, 0]))
    sides = getattr(operation, "pool_size", getattr(operation, "kernel_size", None))
    if sides is None or "Transpose" in kind:
        return axis.spread(count)
    width = (sides[at] - 1) * getattr(operation, "dilation_rate", (1,) * len(sides))[at] + 1
    stride = operation.strides[at]
    missing = (count - 1) * stride + width - axis.count if operation.padding == "same" else 0
    return axis.windows(width, stride, count, before=max(missing, 0) // 2)
