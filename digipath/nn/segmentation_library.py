"""The one place that knows segmentation-models 1.0.1 and what Keras 3 took away from it.

The library and its relatives take the Keras modules they use as arguments, so small stand-ins for
`keras.layers` and `keras.backend` bridge the gaps, without a fork and without touching Keras:

- `backend.int_shape` and `backend.sigmoid` are gone,
- layer names may not contain "/" (DenseNet's "conv1/conv"),
- the decoder upsamples by nearest neighbour only.

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

import keras

# The library counts layers to find its skips; in DenseNet its numbers hit the halved features of the
# transitions. The full features before them give U-Net/DenseNet121 its 13.7 M parameters.
SKIPS = {"densenet121": ("pool4_relu", "pool3_relu", "pool2_relu", "conv1_relu")}


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
    return _unet_function()(
        backbone,
        input_shape=input_shape,
        classes=classes,
        activation=activation,
        encoder_weights=None,
        encoder_features=SKIPS.get(backbone, "default"),
        decoder_filters=decoder_filters,
        backend=_Backend(),
        layers=_Layers(interpolation),
        models=keras.models,
        utils=keras.utils,
    )


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
    """`keras.layers` with names that Keras 3 accepts and an upsampling that interpolates."""

    def __init__(self, interpolation: str) -> None:
        self.UpSampling2D = functools.partial(keras.layers.UpSampling2D, interpolation=interpolation)
        for layer in ("Conv2D", "BatchNormalization", "Activation"):
            setattr(self, layer, functools.partial(_without_slash, getattr(keras.layers, layer)))

    def __getattr__(self, name: str) -> object:
        return getattr(keras.layers, name)


def _without_slash(layer: type[keras.Layer], *args: object, name: str | None = None, **options: object) -> keras.Layer:
    return layer(*args, name=name and name.replace("/", "_"), **options)


@functools.cache
def _unet_function() -> Callable[..., keras.Model]:
    with _quiet_import():
        from segmentation_models.models.unet import Unet
    return Unet


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
