"""The one place that knows segmentation-models 1.0.1 and what Keras 3 took away from it.

The library and its relatives take the Keras modules they use as arguments, so small stand-ins for
`keras.layers` and `keras.backend` bridge the gaps, without a fork and without touching Keras:

- `backend.int_shape` and `backend.sigmoid` are gone,
- layer names may not contain "/" (DenseNet's "conv1/conv"),
- the decoder upsamples by nearest neighbour only,
- Xception is not offered, as its first convolutions leave sizes that skips cannot meet: they are padded here.

Importing it reads an environment variable, prints a line, asks for `keras.utils.generic_utils` and
registers its own "swish" for the whole process; `_quiet_import` leaves no trace of these.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras

# The library counts layers to find its skips; in DenseNet its numbers hit the halved features of the
# transitions. The full features before them give U-Net/DenseNet121 its 13.7 M parameters.
SKIPS = {
    "densenet121": ("pool4_relu", "pool3_relu", "pool2_relu", "conv1_relu"),
    "xception": ("block13_sepconv2_act", "block4_sepconv2_act", "block3_sepconv2_act", "block1_conv2_act"),
}
PADDED = {"xception"}  # its convolutions pad where the library says nothing


def build_unet(
    backbone: str,
    input_shape: tuple[int | None, int | None, int],
    *,
    classes: int,
    activation: str,
    decoder_filters: tuple[int, ...],
    interpolation: str,
) -> keras.Model:
    """segmentation-models' U-Net with random weights; arguments of `digipath.nn.unet`, checked."""
    return _library().unet(
        backbone,
        input_shape=input_shape,
        classes=classes,
        activation=activation,
        encoder_weights=None,
        encoder_features=SKIPS.get(backbone, "default"),
        decoder_filters=decoder_filters,
        **_modules(backbone, interpolation),
    )


def build_encoder(backbone: str, input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    """The library's encoder alone, without a classifier, with random weights."""
    return _library().backbones.get_backbone(
        backbone, input_shape=input_shape, weights=None, include_top=False, **_modules(backbone, "nearest")
    )


def _modules(backbone: str, interpolation: str) -> dict[str, object]:
    """The Keras modules that the library is to use."""
    return {
        "backend": _Backend(),
        "layers": _Layers(interpolation, "same" if backbone in PADDED else "valid"),
        "models": keras.models,
        "utils": keras.utils,
    }


class _Backend:
    """`keras.backend` with the two functions of Keras 2 that the library calls."""

    def __getattr__(self, name: str) -> object:
        return getattr(keras.backend, name)

    @staticmethod
    def int_shape(tensor: keras.KerasTensor) -> tuple[int | None, ...]:
        return tuple(tensor.shape)

    @staticmethod
    def sigmoid(tensor: keras.KerasTensor) -> keras.KerasTensor:
        return keras.ops.sigmoid(tensor)


class _Layers:
    """`keras.layers` with names that Keras 3 accepts, an upsampling that interpolates, and a default padding."""

    def __init__(self, interpolation: str, padding: str) -> None:
        self.UpSampling2D = functools.partial(keras.layers.UpSampling2D, interpolation=interpolation)
        self.Conv2D = functools.partial(_without_slash, keras.layers.Conv2D, padding=padding)
        for layer in ("BatchNormalization", "Activation"):
            setattr(self, layer, functools.partial(_without_slash, getattr(keras.layers, layer)))

    def __getattr__(self, name: str) -> object:
        return getattr(keras.layers, name)


def _without_slash(layer: type[keras.Layer], *args: object, name: str | None = None, **options: object) -> keras.Layer:
    return layer(*args, name=name and name.replace("/", "_"), **options)


class _Library(NamedTuple):
    unet: Callable[..., keras.Model]
    backbones: Any


@functools.cache
def _library() -> _Library:
    with _quiet_import():
        from segmentation_models.backbones.backbones_factory import Backbones
        from segmentation_models.models.unet import Unet
    Backbones._models_delete = [name for name in Backbones._models_delete if name not in PADDED]
    return _Library(Unet, Backbones)


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Let segmentation-models be imported over Keras 3 and leave the process as it was."""
    before = os.environ.get("SM_FRAMEWORK")
    os.environ["SM_FRAMEWORK"] = "keras"
    # A fresh dictionary each time: what the library registers for the whole process ends there.
    keras.utils.generic_utils = types.SimpleNamespace(get_custom_objects=dict)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        del keras.utils.generic_utils
        if before is None:
            del os.environ["SM_FRAMEWORK"]
        else:
            os.environ["SM_FRAMEWORK"] = before
