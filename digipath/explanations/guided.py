"""Guided backpropagation: the gradient of a class's logit by the image, of which ReLUs let only rising parts pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from digipath.errors import BadInput
from digipath.explanations import gradients
from digipath.explanations.copies import made_anew
from digipath.explanations.gradients import Floats, Tensor

if TYPE_CHECKING:
    import keras

Activation = Callable[[Tensor], Tensor]
CEILINGS = {"relu": None, "relu6": 6.0}  # activations that the rule is of
PLAIN = ("linear", "sigmoid", "softmax", "tanh")  # activations that go back by their gradient
OTHERS = (  # layers and operations without a ReLU that could be replaced, or rectifiers of another kind
    "celu", "elu", "gelu", "glu", "hardsilu", "hardswish", "leakyrelu", "mish", "prelu", "relu", "relu6", "selu",
    "silu", "softplus", "swish",
)  # fmt: skip


def guided_backpropagation(network: keras.Model, image: ArrayLike, *, target: int) -> Floats:
    """The gradient of a class's logit by the image, by the rule of guided backpropagation.

    On its way back through a ReLU a gradient becomes 0 where the ReLU's output is 0, as ever, and where the gradient
    itself is negative. All else goes back as it is; batch norms use the statistics that they learnt.

    Args:
        network: (B, *space, channels) → (B, classes) with ReLUs as layers or as activations of layers, and no other
            rectifier; its logits are what its last activation is applied to.
        image: (*space, channels) float, scaled as the network takes it.
        target: index of the class.

    Returns:
        (*space, channels) float32, signed.

    Raises:
        BadInput: the image has not the network's shape, there is no such class, or the network has no ReLU, another
            rectifier (such as elu or swish), or networks as layers.

    References:
        Springenberg et al. 2015, "Striving for simplicity", arXiv:1412.6806, section 3.4.
        Pereira et al. 2018, section 2.3.
    """
    gradients.check_classifier(network)
    pixels = gradients.checked_pixels(network, image)
    gradients.check_class(network, target)
    return gradients.to_numpy(gradients.gradient(_guided(network), pixels[None], target))[0]


def _guided(network: keras.Model) -> keras.Model:
    """Image → logits with the same weights, whose ReLUs go back by the rule; the network itself is not changed."""
    import keras

    whole = keras.Model(network.input, gradients.logits(network))
    if not any([_guided_relu(one) for one in whole.operations]):
        raise BadInput(f"guided backpropagation is a rule of ReLUs, {network.name!r} has none; take Grad-CAM")
    copy = keras.models.clone_model(whole, clone_function=_copied)
    copy.set_weights(whole.get_weights())
    return copy


def _copied(operation: Any) -> Any:  # noqa: ANN401 - a layer or an operation
    """The same without its weights; with the guided ReLU in the place of its own."""
    from keras import layers

    guided = _guided_relu(operation)
    if isinstance(operation, layers.ReLU):
        return layers.Activation(guided, name=operation.name, dtype=operation.dtype_policy)
    copy = made_anew(operation, lambda: 0)
    if guided is not None:
        copy.activation = guided
    return copy


def _guided_relu(operation: Any) -> Activation | None:  # noqa: ANN401 - a layer or an operation
    """What takes the place of an operation's ReLU; None: it has none. Raises BadInput where the rule says nothing."""
    import keras
    from keras import layers

    kind, activation = type(operation).__name__, getattr(operation, "activation", None)
    if isinstance(operation, keras.Model | layers.Wrapper):
        raise BadInput(f"guided backpropagation takes networks whose layers are no networks, {operation.name!r} is one")
    if isinstance(operation, layers.ReLU):
        if not operation.negative_slope and not operation.threshold:
            return _relu(operation.max_value)
    elif activation is None:
        if kind.lower() not in OTHERS:
            return None
    elif (kind := getattr(activation, "__name__", type(activation).__name__)) in CEILINGS:
        return _relu(CEILINGS[kind])
    elif kind in PLAIN:
        return None
    raise BadInput(f"guided backpropagation is a rule of ReLU layers, {operation.name!r} is {kind}; take Grad-CAM")


def _relu(ceiling: float | None) -> Activation:
    """min(max(x, 0), ceiling), whose gradient passes where that is neither end and the gradient is positive."""
    from keras import ops

    @ops.custom_gradient
    def guided(x: Tensor) -> tuple[Tensor, Callable[..., Tensor]]:
        y = ops.relu(x) if ceiling is None else ops.clip(x, 0, ceiling)

        def back(*arguments: Tensor, upstream: Tensor = None) -> Tensor:
            given = arguments[0] if upstream is None else upstream  # torch names it, the others do not
            passes = ops.logical_and(y > 0, given > 0)
            if ceiling is not None:
                passes = ops.logical_and(passes, y < ceiling)
            return ops.where(passes, given, ops.zeros_like(given))

        return y, back

    return guided
