"""What DeepLabV3+ and its encoders are made of: atrous rates, separable convolutions, resizing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from digipath.errors import BadInput

OUTPUT_STRIDES = (8, 16, 32)  # px per cell of the deepest features


def scaled(filters: int, alpha: float) -> int:
    """`filters` × `alpha` as a multiple of 8, at least 8 and never under 90 % of the product.

    Raises BadInput unless `alpha` is positive.
    """
    if alpha <= 0:
        raise BadInput(f"expected a positive alpha, got {alpha}")
    wanted = int(filters * alpha)
    rounded = max(8, (wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def atrous(strides: Sequence[int], output_stride: int) -> list[tuple[int, int]]:
    """(stride, rate) of every block of a network whose blocks would have `strides`.

    Once their product is `output_stride`, a block that would halve leaves the size as it is, and
    the rate of the blocks behind it doubles, so that each filter sees what it would have seen.

    Raises BadInput unless `output_stride` is one of `OUTPUT_STRIDES`.

    References:
        Chen et al. 2017, "Rethinking atrous convolution", arXiv:1706.05587, section 3.1.
    """
    if output_stride not in OUTPUT_STRIDES:
        raise BadInput(f"expected an output stride among {OUTPUT_STRIDES}, got {output_stride}")
    plan, reached, rate = [], 1, 1
    for stride in strides:
        if reached * stride <= output_stride:
            reached *= stride
            plan.append((stride, rate))
        else:
            plan.append((1, rate))
            rate *= stride
    return plan


def norm_relu(x: keras.KerasTensor, name: str, *, epsilon: float, momentum: float) -> keras.KerasTensor:
    """Batch normalisation called `name`_BN, then ReLU."""
    x = layers.BatchNormalization(epsilon=epsilon, momentum=momentum, name=f"{name}_BN")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def separable_conv(
    x: keras.KerasTensor,
    filters: int,
    name: str,
    *,
    stride: int = 1,
    rate: int = 1,
    relu_first: bool = False,
    epsilon: float = 1e-3,
    momentum: float = 0.99,
) -> keras.KerasTensor:
    """A 3 × 3 filter of each channel, then a mixture of the channels, each with its batch norm.

    One ReLU comes before everything (`relu_first`), or one behind each of the two norms.
    """
    if relu_first:
        x = layers.ReLU(name=f"{name}_relu")(x)
    if stride > 1:  # Keras would pad at the end only; the published weights want both sides
        x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    padding = "same" if stride == 1 else "valid"
    options = {"strides": stride, "dilation_rate": rate, "padding": padding, "use_bias": False}
    x = layers.DepthwiseConv2D(3, **options, name=f"{name}_depthwise")(x)
    x = layers.BatchNormalization(epsilon=epsilon, momentum=momentum, name=f"{name}_depthwise_BN")(x)
    if not relu_first:
        x = layers.ReLU(name=f"{name}_depthwise_relu")(x)
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_pointwise")(x)
    x = layers.BatchNormalization(epsilon=epsilon, momentum=momentum, name=f"{name}_pointwise_BN")(x)
    return x if relu_first else layers.ReLU(name=f"{name}_pointwise_relu")(x)


@keras.saving.register_keras_serializable(package="digipath")
class BilinearUpSampling(keras.Layer):
    """Bilinear enlargement by an integer factor, (B, h, w, C) → (B, factor · h, factor · w, C).

    Of n pixels enlarged, pixel p reads at (p + ½) / factor − ½, within the image; with `align_corners`
    at p · (n − 1) / (n · factor − 1), so that corner pixels keep their centres, which Keras' own
    layer cannot. Unlike that layer, it also runs where TensorFlow traces free sides.
    """

    def __init__(self, factor: int, *, align_corners: bool = False, **options: Any) -> None:  # noqa: ANN401 - Keras' own
        super().__init__(**options)
        self.factor, self.align_corners = factor, align_corners

    def call(self, x: Any) -> Any:  # noqa: ANN401 - a tensor of any backend
        rows, columns = (ops.cast(self._weights(size), x.dtype) for size in ops.shape(x)[1:3])
        x = ops.einsum("rh,bhwc->brwc", rows, x)
        return ops.einsum("sw,brwc->brsc", columns, x)

    def _weights(self, size: Any) -> Any:  # noqa: ANN401 - an int or a scalar tensor
        """(factor · size, size) float32: the share of each pixel in each enlarged one."""
        last = ops.cast(size - 1, "float32")
        p = ops.cast(ops.arange(size * self.factor), "float32")
        if self.align_corners:
            at = p * (last / ops.cast(size * self.factor - 1, "float32"))
        else:
            at = ops.minimum(ops.maximum((p + 0.5) / self.factor - 0.5, 0.0), last)
        return ops.relu(1 - ops.abs(at[:, None] - ops.cast(ops.arange(size), "float32")))

    def compute_output_shape(self, shape: Sequence[int | None]) -> tuple[int | None, ...]:
        batch, height, width, channels = shape
        return (batch, height and height * self.factor, width and width * self.factor, channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor, "align_corners": self.align_corners}
