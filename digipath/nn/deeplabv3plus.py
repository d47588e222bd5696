"""DeepLabV3+: atrous filters at several rates over deep features, refined by shallow ones.

Published weights (bonlime/keras-deeplab-v3-plus, and DigiPathAI's after it) fit by the names of the
layers. They were trained with `align_corners=True` and RGB in [−1, 1]; what they predict is theirs only so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import layers, ops

from digipath.errors import BadInput
from digipath.nn.checks import check_head, spatial_shape
from digipath.nn.deeplab_layers import BilinearUpSampling, norm_relu, separable_conv
from digipath.nn.efficientnet_lite import efficientnet_lite0
from digipath.nn.mobilenet_v2 import mobilenet_v2
from digipath.nn.xception import xception

Encoder = Callable[..., dict[int, keras.KerasTensor]]  # (image, *, output_stride, alpha, momentum)
STRIDE = 32  # px, of which patches are multiples, at every output stride
LOW_LEVEL_STRIDE = 4  # px per cell of the features that refine the result
RATE_PX = 96  # the first rate of the atrous pyramid; the others are twice and three times that
EPSILON = 1e-5  # of the batch norms behind the encoder, as published
VOC_CLASSES = 21


def _lite0(
    image: keras.KerasTensor, *, output_stride: int, alpha: float, momentum: float
) -> dict[int, keras.KerasTensor]:
    """EfficientNet-Lite0 up to `output_stride`: it ends there, as it has no atrous rates."""
    if alpha != 1:
        raise BadInput(f"backbone efficientnet-lite0 has one width only, alpha=1, got {alpha}")
    return efficientnet_lite0(image, deepest_stride=output_stride, momentum=momentum)


BACKBONES: dict[str, Encoder] = {
    "efficientnet-lite0": _lite0,
    "mobilenetv2": mobilenet_v2,
    "xception": xception,
}


def deeplabv3plus(
    *,
    backbone: str = "xception",
    classes: int = 1,
    activation: str = "sigmoid",
    input_channels: int = 3,
    patch: int | None = None,
    shrink: int = 1,
    output_stride: int = 16,
    alpha: float = 1.0,
    rates: Sequence[int] | None = None,
    image_pooling: bool = True,
    aspp_filters: int = 256,
    low_level_filters: int = 48,
    decoder_filters: int = 256,
    dropout: float = 0.1,
    momentum: float = 0.99,
    align_corners: bool = False,
) -> keras.Model:
    """DeepLabV3+ with random weights; fully convolutional.

    Its image pooling averages over the whole input, so that results depend on the size of the patch,
    more so with `align_corners`.

    Args:
        backbone: the encoder, one of `BACKBONES`.
        classes, activation, input_channels, patch: as for `digipath.nn.unet.unet`.
        shrink: side in pixels of the cells over which the input is averaged, for CPUs; 1 leaves it as
            it is. All strides below are of the averaged image.
        output_stride: 8, 16 or 32 px per cell of the deepest features; the rates of the atrous
            pyramid are 12/24/36, 6/12/18 or 3/6/9 cells, always the same in pixels.
        rates: of the atrous pyramid in cells, instead of those; small patches want smaller ones.
        image_pooling: the pyramid's branch for the mean of the whole patch, as published. Without it
            results do not depend on the size of the patch, nor on what fills one beyond an image.
        alpha: width multiplier of the encoder (not of efficientnet-lite0).
        aspp_filters, low_level_filters, decoder_filters: channels of the pyramid's branches and of
            their mixture, of the shallow features, and of the two decoder convolutions.
        dropout: share of values dropped before the decoder while training, in [0, 1).
        momentum: of the moving batch statistics, in [0, 1); short trainings want less than 0.99.
        align_corners: enlarge from corner pixel to corner pixel, as the published weights expect.
            Where a cell then lies depends on the size of the patch; otherwise it does not.

    Returns:
        (B, H, W, input_channels) float32, scaled as the card of the weights says →
        (B, H, W, classes) float32, in [0, 1] unless `activation` is "linear".

    Raises:
        BadInput: a setting is out of range.

    References:
        Chen et al. 2018, "Encoder-decoder with atrous separable convolution for semantic image
        segmentation", arXiv:1802.02611.
    """
    if backbone not in BACKBONES:
        raise BadInput(f"expected a backbone among {', '.join(sorted(BACKBONES))}, got {backbone!r}")
    check_head(classes, activation)
    if shrink < 1:
        raise BadInput(f"expected a shrink of at least 1, got {shrink}")
    if min(aspp_filters, low_level_filters, decoder_filters) < 1:
        received = f"{aspp_filters}, {low_level_filters}, {decoder_filters}"
        raise BadInput(f"expected positive aspp, low-level and decoder filters, got {received}")
    if rates is not None and (not rates or min(rates) < 1):
        raise BadInput(f"expected at least one positive rate, got {rates!r}")
    for name, share in (("dropout", dropout), ("momentum", momentum)):
        if not 0 <= share < 1:
            raise BadInput(f"expected a {name} in [0, 1), got {share}")

    multiple = max(STRIDE, shrink * output_stride)
    image = keras.Input(spatial_shape(patch, input_channels, multiple=multiple), name="image")
    seen = layers.AveragePooling2D(shrink, name="shrink")(image) if shrink > 1 else image
    features = BACKBONES[backbone](seen, output_stride=output_stride, alpha=alpha, momentum=momentum)
    rates = rates or [number * RATE_PX // output_stride for number in (1, 2, 3)]
    x = _pyramid(features[output_stride], aspp_filters, rates, image_pooling=image_pooling, momentum=momentum)
    x = layers.Dropout(dropout, name="aspp_dropout")(x)
    factor = output_stride // LOW_LEVEL_STRIDE
    x = BilinearUpSampling(factor, align_corners=align_corners, name="decoder_upsampling")(x)
    shallow = _mixed(features[LOW_LEVEL_STRIDE], low_level_filters, "feature_projection0", momentum)
    x = layers.Concatenate(name="decoder_concat")([x, shallow])
    for name in ("decoder_conv0", "decoder_conv1"):
        x = separable_conv(x, decoder_filters, name, epsilon=EPSILON, momentum=momentum)
    # The Pascal VOC head has a name of its own, so that no other task takes its weights.
    head = "logits_semantic" if classes == VOC_CLASSES else "custom_logits_semantic"
    x = layers.Conv2D(classes, 1, name=head)(x)  # (B, H / 4, W / 4, classes), or of the averaged image
    x = BilinearUpSampling(LOW_LEVEL_STRIDE * shrink, align_corners=align_corners, name="head_upsampling")(x)
    # Probabilities in float32 also under mixed precision.
    x = layers.Activation(activation, dtype="float32", name="probability")(x)  # (B, H, W, classes)
    return keras.Model(image, x, name="deeplabv3plus")


def _pyramid(
    x: keras.KerasTensor, filters: int, rates: Sequence[int], *, image_pooling: bool, momentum: float
) -> keras.KerasTensor:
    """Atrous spatial pyramid pooling, (B, h, w, C) → (B, h, w, filters).

    Each cell by itself, its neighbours at several rates, and the mean of the whole image.
    """
    cell = _mixed(x, filters, "aspp0", momentum)
    branches = [cell]
    for number, rate in enumerate(rates, start=1):
        branches.append(separable_conv(x, filters, f"aspp{number}", rate=rate, epsilon=EPSILON, momentum=momentum))
    if image_pooling:
        whole = layers.GlobalAveragePooling2D(keepdims=True, name="image_pooling_mean")(x)
        whole = _mixed(whole, filters, "image_pooling", momentum)
        whole = layers.Add(name="image_pooling_everywhere")([whole, ops.zeros_like(cell)])
        branches = [whole, *branches]
    x = layers.Concatenate(name="aspp_concat")(branches)  # in the order of the published weights
    return _mixed(x, filters, "concat_projection", momentum)


def _mixed(x: keras.KerasTensor, filters: int, name: str, momentum: float) -> keras.KerasTensor:
    """1 × 1 convolution, batch normalisation, ReLU."""
    x = layers.Conv2D(filters, 1, use_bias=False, name=name)(x)
    return norm_relu(x, name, epsilon=EPSILON, momentum=momentum)
