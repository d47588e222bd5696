"""What explanations ask of a network: its logits, and their gradient on any backend of Keras."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from digipath.errors import BadInput

if TYPE_CHECKING:
    import keras

ACTIVATIONS = ("sigmoid", "softmax", "logsigmoid", "logsoftmax")  # that turn logits into probabilities, or their logs
Floats = NDArray[np.float32]
Tensor = Any  # of Keras' backend


def check_classifier(network: keras.Model) -> None:
    """Raise BadInput unless the network gives classes of one image: (B, *space, channels) → (B, classes)."""
    if len(getattr(network, "inputs", None) or ()) != 1 or len(getattr(network, "outputs", None) or ()) != 1:
        raise BadInput(f"expected a network made of layers with one input and one output, got {network.name!r}")
    if len(network.output_shape) != 2 or len(network.input_shape) < 3:
        shapes = f"{network.input_shape} → {network.output_shape}"
        raise BadInput(f"expected a network that gives classes of a whole image, {network.name!r} is {shapes}")


def checked_pixels(network: keras.Model, image: ArrayLike) -> Floats:
    """The image as (*space, channels) float32. Raises BadInput: it has not the network's shape, or no numbers."""
    wanted, pixels = network.input_shape[1:], np.asarray(image, np.float32)
    if pixels.ndim != len(wanted) or any(w not in (None, n) for w, n in zip(wanted, pixels.shape, strict=True)):
        raise BadInput(f"expected an image of the shape {wanted}, got {pixels.shape}")
    if not np.isfinite(pixels).all():
        raise BadInput("expected an image of finite numbers, got NaN or infinity")
    return pixels


def check_class(network: keras.Model, target: int) -> None:
    """Raise BadInput unless the network has this class."""
    if not 0 <= target < network.output_shape[-1]:
        raise BadInput(f"expected a class from 0 to {network.output_shape[-1] - 1}, got {target}")


def most_probable(network: keras.Model, pixels: Floats) -> int:
    """Index of the class that the network calls; of equal ones the first."""
    return int(to_numpy(network(pixels[None], training=False))[0].argmax())


def logits(network: keras.Model) -> Tensor:
    """What goes into a sigmoid or softmax (or the logarithm of one) that is the network's last step, a layer or an
    operation; the output of any other last step, which is taken for logits.

    Raises:
        BadInput: the activation is part of another layer, or of a network that is the last layer, or masked, so that
            nobody sees the logits.
    """
    import keras

    last = keras.Model(network.input, network.output).operations[-1]
    if isinstance(last, keras.Model) and logits(last) is not last.output:
        raise BadInput(f"expected a network that ends in layers, it ends in the network {last.name!r}: join both")
    named = getattr(getattr(last, "activation", None), "__name__", type(last).__name__)
    if named.replace("_", "").lower() not in ACTIVATIONS:
        return network.output
    if getattr(last, "activation", None) is not None and not isinstance(last, keras.layers.Activation):
        raise BadInput(f"expected a network whose {named} is a layer of its own, it is part of {last.name!r}")
    if not isinstance(last.input, keras.KerasTensor):
        raise BadInput(f"expected a network whose {named} has one input, {last.name!r} has a mask too")
    return last.input


def gradient(network: keras.Model, at: Tensor, target: int) -> Tensor:
    """∂y/∂x at x = `at` (1, …), y = network(x)[0, target], on Keras' backend.

    Raises:
        BadInput: Keras runs on a backend without gradients.
    """
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        at = tf.convert_to_tensor(at)
        with tf.GradientTape(watch_accessed_variables=False) as tape:  # no gradients of weights
            tape.watch(at)
            score = network(at, training=False)[0, target]
        return tape.gradient(score, at)
    if backend == "jax":
        import jax

        return jax.grad(lambda x: network(x, training=False)[0, target])(at)
    if backend == "torch":
        import torch

        at = keras.ops.convert_to_tensor(at).detach().requires_grad_()
        return torch.autograd.grad(network(at, training=False)[0, target], at)[0]
    raise BadInput(f"expected Keras on jax, tensorflow or torch, it runs on {backend}, which has no gradients")


def to_numpy(tensor: Tensor) -> Floats:
    """The same as a float32 array."""
    import keras

    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))


def scaled(heat: NDArray[np.floating]) -> Floats:
    """Divided by the maximum: in [0, 1], or all 0. What is given is not negative."""
    return np.asarray(heat / heat.max() if heat.max() > 0 else heat, np.float32)
