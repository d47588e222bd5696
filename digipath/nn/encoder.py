"""Which layers of a network are its encoder: what is pretrained, and frozen at first."""

from __future__ import annotations

from collections.abc import Iterator

import keras

# How the layers behind the encoder are called, in every network of `nn`.
BEHIND = (
    "aspp",
    "attention",
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

    Of a bag classifier those of its embedder.

    To freeze them, set `layer.trainable = False` on each before `compile`. Keras then also runs
    their batch normalisations with the stored statistics, while training too, and leaves these alone.
    """
    return [layer for layer in _weighted(network) if not layer.name.startswith(BEHIND)]


def body_layers(network: keras.Model) -> list[keras.Layer]:
    """The layers with weights of encoder and decoder: all but the head, which depends on the classes."""
    return [layer for layer in _weighted(network) if not layer.name.startswith(HEAD)]


def _weighted(network: keras.Model) -> Iterator[keras.Layer]:
    """The layers with weights; those of a network that a layer wraps stand in its place."""
    for layer in network.layers:
        inner = layer.layer if isinstance(layer, keras.layers.Wrapper) else layer
        if isinstance(inner, keras.Model):
            yield from _weighted(inner)
        elif layer.weights:
            yield layer
