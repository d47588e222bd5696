"""`explain`: one map of what in an image speaks for a class, by either method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from digipath.errors import BadInput
from digipath.explanations import gradients
from digipath.explanations.class_activation import grad_cam, has_space
from digipath.explanations.gradients import Floats
from digipath.explanations.guided import guided_backpropagation

if TYPE_CHECKING:
    import keras

GRAD_CAM, GUIDED = METHODS = ("grad-cam", "guided-backpropagation")
BLOCKS = ("res3", "res4")  # the third and the fourth residual block, Pereira 2018, section 4


def explain(
    network: keras.Model,
    image: ArrayLike,
    *,
    method: str = GRAD_CAM,
    layer: str | Sequence[str] | None = None,
    target: int | None = None,
) -> Floats:
    """Which places of an image or a volume speak for a class; high is always important.

    "grad-cam": `digipath.explanations.grad_cam`; of several layers the mean of their maps, each of which is divided
    by its maximum. It tells classes apart and is as coarse as the features.
    "guided-backpropagation": the largest magnitude of `digipath.explanations.guided_backpropagation` over the
    channels. It is fine, and hardly tells classes apart.

    Args:
        network: (B, *space, channels) → (B, classes), space of two axes or three.
        image: (*space, channels) float, scaled as the network takes it.
        layer: for Grad-CAM, a layer or several whose features are looked at. None: "res3" and "res4" where the
            network has both, as `digipath.build("grading-3d")` has, else the last with features in space.
        target: index of the class; None: the one that the network calls.

    Returns:
        (*space) float32 in [0, 1], divided by its maximum; all 0 where nothing speaks for the class.

    Raises:
        BadInput: an unknown method, the image has not the network's shape, there is no such class or layer, or the
            network does not suit the method: see the functions named above.

    References:
        Pereira et al. 2018, "Automatic brain tumor grading from MRI", section 2.3.
    """
    if method not in METHODS:
        raise BadInput(f"expected a method among {', '.join(METHODS)}, got {method!r}")
    gradients.check_classifier(network)
    pixels = gradients.checked_pixels(network, image)
    wanted = gradients.most_probable(network, pixels) if target is None else target
    if method == GUIDED:
        if layer is not None:
            raise BadInput(f"{GUIDED} goes back to the image itself; leave the layer {layer!r} out, or take {GRAD_CAM}")
        return gradients.scaled(np.abs(guided_backpropagation(network, pixels, target=wanted)).max(axis=-1))
    maps = [grad_cam(network, pixels, target=wanted, layer=one) for one in layers_of(network, layer)]
    return gradients.scaled(np.mean(maps, axis=0))


def layers_of(network: keras.Model, layer: str | Sequence[str] | None = None) -> tuple[str | None, ...]:
    """The layers that Grad-CAM looks at, where `layer` is asked for; None stands for the last with features in space.

    Raises:
        BadInput: an empty list.
    """
    if layer is None:
        rank = len(network.input_shape) - 2
        found = {one.name for one in network.layers if one.name in BLOCKS and has_space(one, rank)}
        return BLOCKS if found == {*BLOCKS} else (None,)
    names = (layer,) if isinstance(layer, str) else tuple(layer)
    if not names:
        raise BadInput("expected the names of one layer or more, got none; leave the layer out for the default")
    return names
