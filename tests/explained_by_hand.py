"""A network of two convolutions and a dense layer, computed forwards and backwards with NumPy alone."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np


def network(rank, *, sizes=None, fused=False, seed=1):
    """Image of `rank` axes and 2 channels → conv, ReLU, conv, ReLU, mean over space, dense → 3 classes, softmax.

    fused: ReLUs as the convolutions' own activations instead of layers.
    """
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    conv = {2: layers.Conv2D, 3: layers.Conv3D}[rank]
    pool = {2: layers.GlobalAveragePooling2D, 3: layers.GlobalAveragePooling3D}[rank]
    x = image = keras.Input((*(sizes or (None,) * rank), 2))
    for number, width in enumerate((4, 5), start=1):
        options = {"activation": "relu"} if fused else {}
        x = conv(width, 3, padding="same", bias_initializer="normal", name=f"conv{number}", **options)(x)
        if not fused:
            x = layers.ReLU(name=f"relu{number}")(x) if number == 1 else layers.Activation("relu", name="relu2")(x)
    x = layers.Dense(3, bias_initializer="normal", name="logits")(pool(name="mean")(x))
    return keras.Model(image, layers.Activation("softmax", name="probability")(x))


@dataclass(frozen=True)
class ByHand:
    """The same network's arrays: what it computes, and the two explanations by their formulas."""

    kernels: list[np.ndarray]
    biases: list[np.ndarray]
    dense: np.ndarray

    @classmethod
    def of(cls, network):
        kernels, biases = zip(*(network.get_layer(f"conv{n}").get_weights() for n in (1, 2)), strict=True)
        return cls(list(kernels), list(biases), network.get_layer("logits").get_weights()[0])

    def forward(self, image):
        """What each convolution gives, before its ReLU."""
        first = convolved(image, self.kernels[0]) + self.biases[0]
        return first, convolved(np.maximum(first, 0), self.kernels[1]) + self.biases[1]

    def grad_cam(self, image, target, layer):
        """Equations 1 and 2 of Selvaraju et al., for the features "conv2" or "relu2"; not yet divided."""
        _, second = self.forward(image)
        cells = second[..., 0].size
        slope = np.broadcast_to(self.dense[:, target] / cells, second.shape)  # of the logit by relu2
        features = np.maximum(second, 0)
        if layer == "conv2":
            slope, features = slope * (second > 0), second
        weights = slope.reshape(cells, -1).mean(axis=0)
        return np.maximum((features * weights).sum(axis=-1), 0)

    def guided(self, image, target, *, rule=True):
        """The gradient by the image, with the rule of guided backpropagation at both ReLUs, or without."""
        first, second = self.forward(image)
        gradient = np.broadcast_to(self.dense[:, target] / second[..., 0].size, second.shape)
        for before, kernel in ((second, self.kernels[1]), (first, self.kernels[0])):
            gradient = gradient * (before > 0)
            if rule:
                gradient = gradient * (gradient > 0)
            gradient = convolved(gradient, np.flip(kernel, axis=range(kernel.ndim - 2)).swapaxes(-1, -2))
        return gradient


def convolved(image, kernel):
    """(*space, in), (3, …, in, out) → (*space, out), with zeros around the image."""
    rank = image.ndim - 1
    padded = np.pad(image, [(1, 1)] * rank + [(0, 0)])
    found = np.zeros((*image.shape[:-1], kernel.shape[-1]))
    for offset in itertools.product(range(3), repeat=rank):
        window = tuple(slice(o, o + n) for o, n in zip(offset, image.shape[:-1], strict=True))
        found += padded[window] @ kernel[offset]
    return found


def worst_errors(targets=(0, 1, 2)):
    """The largest relative error of Grad-CAM and of guided backpropagation, over ranks, classes, layers and images.

    Beside it the share of the maps that are not 0 everywhere.
    """
    from digipath.explanations import grad_cam, guided_backpropagation

    chance, worst, shown = np.random.default_rng(0), {"grad-cam": 0.0, "guided": 0.0}, []
    for rank, fused in itertools.product((2, 3), (False, True)):
        made = network(rank, fused=fused)
        hand, image = ByHand.of(made), chance.normal(0, 1, (*(6, 7, 5)[:rank], 2))
        for target in targets:
            expected = hand.guided(image, target)
            found = guided_backpropagation(made, image, target=target)
            assert found.shape == image.shape
            worst["guided"] = max(worst["guided"], np.abs(found - expected).max() / np.abs(expected).max())
            for layer in ["conv2"] if fused else ["conv2", "relu2"]:
                cam = hand.grad_cam(image, target, "relu2" if fused else layer)
                found = grad_cam(made, image, target=target, layer=layer)
                assert found.shape == image.shape[:-1]
                worst["grad-cam"] = max(worst["grad-cam"], np.abs(found - cam / max(cam.max(), 1e-30)).max())
                shown.append(cam.max() > 0)
    return worst | {"shown": np.mean(shown)}
