"""Grad-CAM of a classifier, in any number of spatial dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from digipath.errors import BadInput
from digipath.explanations import gradients
from digipath.explanations.cells import Cells, interpolated
from digipath.explanations.gradients import Floats, Tensor

if TYPE_CHECKING:
    import keras

Ask = Callable[[Floats, int], tuple[Tensor, Tensor]]  # (1, *space, channels), class → features, gradient


def grad_cam(network: keras.Model, image: ArrayLike, *, target: int, layer: str | None = None) -> Floats:
    """Where features are that raise the logit of a class: ReLU(Σ_k α_k A_k), α_k the mean of ∂y/∂A_k over space.

    Args:
        network: (B, *space, channels) → (B, classes), space of two axes, three or any other number; y is what its
            last activation is applied to.
        image: (*space, channels) float, scaled as the network takes it.
        target: index of the class.
        layer: whose output (B, *cells, K) the A_k are; all that follows must be computed from it alone.
            None: the last such features, in front of the pooling over space.

    Returns:
        (*space) float32 in [0, 1], higher = more important: divided by its maximum; all 0 where nothing speaks for
        the class. Between the centres of the features' cells it is linear along each axis.

    Raises:
        BadInput: the image has not the network's shape, there is no such class, the network has no such
            layer or none with features in space, or a shortcut passes the layer.

    References:
        Selvaraju et al. 2017, "Grad-CAM", arXiv:1610.02391, equations 1 and 2.
        Pereira et al. 2018, section 2.3: in three dimensions.
    """
    return GradCam(network, layer, compiled=False)(image, target)


class GradCam:
    """`grad_cam` for many images: the network is cut in two only once, when this is made.

    Args:
        network, layer: as for `grad_cam`.
        compiled: where Keras runs on TensorFlow, the first image takes longer and all others less.

    Raises:
        BadInput: as `grad_cam`, here about the network and its layer, in a call about the image and the class.
    """

    def __init__(self, network: keras.Model, layer: str | None = None, *, compiled: bool = True) -> None:
        gradients.check_classifier(network)
        before, behind = _halves(network, layer)
        self._network, self._cells = network, Cells(before)

        def ask(pixels: Floats, target: int) -> tuple[Tensor, Tensor]:
            features = before(pixels, training=False)
            return features, gradients.gradient(behind, features, target)

        self._ask = _compiled(ask) if compiled else ask

    def __call__(self, image: ArrayLike, target: int) -> Floats:
        """(*space, channels) float, index of the class → (*space) float32 in [0, 1]."""
        pixels = gradients.checked_pixels(self._network, image)
        gradients.check_class(self._network, target)
        features, slopes = (gradients.to_numpy(found)[0] for found in self._ask(pixels[None], target))  # (*cells, K)
        cam = np.maximum(features @ slopes.mean(axis=tuple(range(slopes.ndim - 1))), 0)
        sizes_px = pixels.shape[:-1]
        return gradients.scaled(interpolated(cam, self._cells.axes(sizes_px), sizes_px))


def has_space(layer: keras.Layer, rank: int) -> bool:
    """Whether a layer's output is (B, *cells, K) with `rank` axes of cells, and more than one cell."""
    from keras.layers import InputLayer

    shape = getattr(layer.output, "shape", ())
    return not isinstance(layer, InputLayer) and len(shape) == rank + 2 and any(side != 1 for side in shape[1:-1])


def _compiled(ask: Ask) -> Ask:
    """The same as a graph that all images of one size and all classes share, on TensorFlow; else as it is."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return ask
    import tensorflow as tf

    graph = tf.function(ask, autograph=False, reduce_retracing=True)
    return lambda pixels, target: graph(tf.constant(pixels), tf.constant(target))


def _halves(network: keras.Model, layer: str | None) -> tuple[keras.Model, keras.Model]:
    """The network up to the features, and from there to the logits."""
    import keras

    rank = len(network.input_shape) - 2
    if layer is None:
        in_space = [one for one in network.layers if has_space(one, rank)]
        if not in_space:
            raise BadInput(f"network {network.name!r} has no features in space")
        found = in_space[-1]
    elif layer not in (names := {one.name: one for one in network.layers}):
        raise BadInput(f"network {network.name!r} has no layer {layer!r}")
    elif not has_space(names[layer], rank):
        raise BadInput(f"layer {layer!r} has no features in space")
    else:
        found = names[layer]
    features, logits = found.output, gradients.logits(network)
    try:
        return keras.Model(network.input, features), keras.Model(features, logits)
    except ValueError as error:
        raise BadInput(f"layer {found.name!r} is passed by a shortcut; name the end of a block") from error
