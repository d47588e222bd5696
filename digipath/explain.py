"""What in an image speaks for a class: Grad-CAM of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from digipath.errors import BadInput

if TYPE_CHECKING:
    import keras

ACTIVATIONS = ("sigmoid", "softmax")  # that turn logits into probabilities
Tensor = Any  # of Keras' backend
Ask = Callable[[NDArray[np.float32], int], tuple[Tensor, Tensor]]  # (1, H, W, channels), class → features, gradient


def grad_cam(
    network: keras.Model, image: ArrayLike, *, target: int, layer: str | None = None
) -> NDArray[np.float32]:
    """Where features are that raise the logit of a class: ReLU(Σ_k α_k A_k), α_k the mean of ∂y/∂A_k over space.

    Args:
        network: (B, H, W, channels) → (B, classes); y is what its last activation is applied to.
        image: (H, W, channels) float, scaled as the network takes it.
        target: index of the class.
        layer: whose output (B, h, w, K) the A_k are; all that follows must be computed from it alone.
            None: the last such features, in front of the pooling over space.

    Returns:
        (H, W) float32 in [0, 1], divided by its maximum; all 0 where nothing speaks for the class.
        Between the cells of the features it is interpolated.

    Raises:
        BadInput: the image has not the network's shape, there is no such class, the network has no such
            layer or none with features in space, or a shortcut passes the layer.

    References:
        Selvaraju et al. 2017, "Grad-CAM", arXiv:1610.02391, equations 1 and 2.
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
        self._shape, self._classes = network.input_shape[1:], network.output_shape[-1]
        before, behind = _halves(network, layer)

        def ask(pixels: NDArray[np.float32], target: int) -> tuple[Tensor, Tensor]:
            features = before(pixels, training=False)
            return features, _gradient(behind, features, target)

        self._ask = _compiled(ask) if compiled else ask

    def __call__(self, image: ArrayLike, target: int) -> NDArray[np.float32]:
        """(H, W, channels) float, index of the class → (H, W) float32 in [0, 1]."""
        pixels = np.asarray(image, np.float32)
        if pixels.ndim != 3 or any(w not in (None, n) for w, n in zip(self._shape, pixels.shape, strict=True)):
            raise BadInput(f"expected an image of the shape {self._shape}, got {pixels.shape}")
        if not 0 <= target < self._classes:
            raise BadInput(f"expected a class from 0 to {self._classes - 1}, got {target}")
        features, gradient = (_to_numpy(found)[0] for found in self._ask(pixels[None], target))  # (h, w, K)
        cam = np.maximum(features @ gradient.mean(axis=(0, 1)), 0)  # (h, w)
        rows, columns = pixels.shape[:2]
        cam = np.asarray(Image.fromarray(cam).resize((columns, rows), Image.Resampling.BILINEAR))
        return (cam / cam.max() if cam.max() > 0 else cam).astype(np.float32)


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

    if layer is None:
        in_space = [one for one in network.layers if _in_space(one)]
        if not in_space:
            raise BadInput(f"network {network.name!r} has no features in space")
        found = in_space[-1]
    elif layer not in (names := {one.name: one for one in network.layers}):
        raise BadInput(f"network {network.name!r} has no layer {layer!r}")
    elif not _in_space(names[layer]):
        raise BadInput(f"layer {layer!r} has no features in space")
    else:
        found = names[layer]
    features, logits = found.output, _logits(network)
    try:
        return keras.Model(network.input, features), keras.Model(features, logits)
    except ValueError as error:
        raise BadInput(f"layer {found.name!r} is passed by a shortcut; name the end of a block") from error


def _in_space(layer: keras.Layer) -> bool:
    shape = getattr(layer.output, "shape", ())
    return len(shape) == 4


def _logits(network: keras.Model) -> Tensor:
    """What the network's last activation is applied to."""
    import keras

    last = network.layers[-1]
    named = getattr(getattr(last, "activation", None), "__name__", None)
    if named not in ACTIVATIONS:
        return network.output
    if not isinstance(last, keras.layers.Activation):
        raise BadInput(f"expected a network whose {named} is a layer of its own, it is part of {last.name!r}")
    return last.input


def _gradient(network: keras.Model, features: Tensor, target: int) -> Tensor:
    """∂y/∂features for the output `target` of the network, on Keras' backend."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:  # no gradients of weights
            tape.watch(features)
            score = network(features, training=False)[0, target]
        return tape.gradient(score, features)
    if backend == "jax":
        import jax

        return jax.grad(lambda x: network(x, training=False)[0, target])(features)
    if backend == "torch":
        import torch

        features = features.detach().requires_grad_()
        return torch.autograd.grad(network(features, training=False)[0, target], features)[0]
    raise BadInput(f"expected Keras on jax, tensorflow or torch, it runs on {backend}, which has no gradients")


def _to_numpy(tensor: Tensor) -> NDArray[np.float32]:
    import keras

    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))
