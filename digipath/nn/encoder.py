"""Which layers of a segmentation network are its encoder: what is pretrained, and frozen at first."""

from __future__ import annotations

import keras

# How the layers behind the encoder are called, in every network of `nn`.
BEHIND = (
    "aspp",
    "center",
    "concat_projection",
    "custom_logits",
    "decoder",
    "feature_projection",
    "final",
    "head",
    "image_pooling",
    "logits",
    "probability",
)
HEAD = ("custom_logits", "final", "head", "logits", "probability")


def encoder_layers(network: keras.Model) -> list[keras.Layer]:
    """The layers with weights that turn the image into features, in the network's order.

    To freeze them, set `layer.trainable = False` on each before `compile`. Keras then also runs
    their batch normalisations with the stored statistics, while training too, and leaves these alone.
    """
    return [layer for layer in network.layers if layer.weights and not layer.name.startswith(BEHIND)]


def body_layers(network: keras.Model) -> list[keras.Layer]:
    """The layers with weights of encoder and decoder: all but the head, which depends on the classes."""
    return [layer for layer in network.layers if layer.weights and not layer.name.startswith(HEAD)]
