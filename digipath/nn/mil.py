"""Bags of tiles → classes, in one network: embed each tile, pool over the bag, classify."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
from keras import layers, ops

from digipath.errors import BadInput
from digipath.nn.checkpointing import Tensor, checkpointed
from digipath.nn.checks import built, check_head, check_training
from digipath.nn.resnet import resnet18
from digipath.nn.tile_classifiers import densenet121, efficientnet_b0

EMBEDDERS: dict[str, Callable[..., keras.Model]] = {
    "densenet121": densenet121,
    "efficientnet-b0": efficientnet_b0,
    "resnet18": resnet18,
}
POOLINGS = ("max-mean", "gated-attention")
GIVEN = ("activation", "classes", "dropout", "input_channels", "patch")  # to the embedder, by the network


class MilParts(NamedTuple):
    """A bag classifier in parts that share its weights, so that a bag larger than memory can be streamed.

    Attributes:
        embedder: (B, P, P, channels) float32 → (B, L) float32.
        head: pooled (B, 2L), maxima before means, or with attention (B, L) → (B, classes) float32.
        attention: (B, L) → scores (B, 1) float32, whose softmax over the bag weights its tiles; None: no attention.
    """

    embedder: keras.Model
    head: keras.Model
    attention: keras.Model | None


def mil(
    *,
    embedder: str = "efficientnet-b0",
    embedder_config: Mapping[str, object] | None = None,
    pooling: str = "max-mean",
    attention_units: int = 128,
    classes: int = 3,
    activation: str = "softmax",
    patch: int | None = 224,
    input_channels: int = 3,
    dropout: float = 0.5,
    remat: bool = False,
) -> keras.Model:
    """Bag classifier with random weights, for bags of any size; L features of each tile, 1280 of EfficientNet-B0.

    Args:
        embedder: one of `EMBEDDERS`, whose averaged features are used.
        embedder_config: its settings, `shrink`, `momentum` or `widths`.
        pooling: "max-mean" (each feature's maximum and mean over the bag) or "gated-attention" (a mean
            weighted by what the network makes of each tile).
        attention_units: length of the attention's hidden vectors.
        classes, activation, input_channels: as for `digipath.nn.resnet.resnet18`.
        patch: side of the tiles in pixels; None accepts any.
        dropout: share of the pooled vector dropped before the head while training, in [0, 1).
        remat: keep little of the embedder while training and compute it again, which takes about a
            third longer; needs a `patch`. Results, gradients and weight files are the same.

    Returns:
        (B, N, H, W, input_channels) float32, scaled as the card of the weights says → (B, classes)
        float32. The layer "pooled" gives the pooled vector, "weights" the attention (B, N, 1).

    Raises:
        BadInput: a setting is out of range, or `remat` on a backend other than TensorFlow and JAX.

    References:
        Lerousseau et al. 2020, "Multimodal brain tumor classification", section 2.1 (max-mean).
        Ilse et al. 2018, "Attention-based deep multiple instance learning", arXiv:1802.04712, equation 9.
    """
    _check(pooling, attention_units, classes, activation, dropout)
    if remat and patch is None:
        raise BadInput("expected a patch (px) with remat=True, got None")
    tile = {"patch": patch, "input_channels": input_channels}
    embed = EachTile(_embedder(embedder, embedder_config or {}, tile), remat=remat, name="tiles")
    bag = keras.Input((None, *embed.layer.input_shape[1:]), name="bag")
    ending: dict[str, Any] = {"activation": activation, "dropout": dropout}
    return keras.Model(bag, _classified(embed(bag), pooling, attention_units, classes, **ending), name="mil")


def mil_head(
    *,
    features: int,
    pooling: str = "max-mean",
    attention_units: int = 128,
    classes: int = 3,
    activation: str = "softmax",
    dropout: float = 0.5,
) -> keras.Model:
    """What follows the embedder in `mil`, layer by layer, for bags of embeddings: (B, N, features) → (B, classes).

    Args and Raises: as for `mil`.
    """
    _check(pooling, attention_units, classes, activation, dropout)
    bag = keras.Input((None, features), name="bag")
    ending: dict[str, Any] = {"activation": activation, "dropout": dropout}
    return keras.Model(bag, _classified(bag, pooling, attention_units, classes, **ending), name="mil_head")


def parts(network: keras.Model) -> MilParts:
    """The parts of a network that `mil` built.

    Raises:
        BadInput: another network.
    """
    names = {layer.name for layer in network.layers}
    if not {"tiles", "pooled"} <= names:
        raise BadInput(f"expected a bag classifier, got the network {network.name!r}")
    embedder = network.get_layer("tiles").layer
    head = keras.Model(network.get_layer("pooled").output, network.output, name="head")
    if "attention_score" not in names:
        return MilParts(embedder, head, None)
    features = keras.Input(embedder.output_shape[1:], name="features")
    score = _scores(features, *(network.get_layer(name) for name in ATTENTION))
    return MilParts(embedder, head, keras.Model(features, score, name="attention"))


class EachTile(layers.Wrapper):
    """A network of tiles for bags: (B, N, H, W, C) → (B, N, L).

    All tiles of all bags are one batch, also for the statistics of batch normalisation.
    """

    def __init__(self, layer: keras.Model, *, remat: bool = False, **options: Any) -> None:  # noqa: ANN401
        super().__init__(layer, **options)
        self.remat = remat
        self._embed = checkpointed(layer) if remat else lambda x, training: layer(x, training=training)

    def call(self, bags: Tensor, training: bool | None = None) -> Tensor:
        shape = ops.shape(bags)
        features = self._embed(ops.reshape(bags, (-1, *shape[2:])), bool(training))
        return ops.reshape(features, (shape[0], shape[1], features.shape[-1]))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:2], self.layer.output_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "remat": self.remat}


ATTENTION = ("attention_tanh", "attention_sigmoid", "attention_score")


def _embedder(name: str, config: Mapping[str, object], tile: Mapping[str, object]) -> keras.Model:
    """The tile classifier without its head: (B, H, W, channels) → (B, L)."""
    if given := sorted(set(config) & set(GIVEN)):
        raise BadInput(f"expected an embedder_config without {given[0]}, which the bag classifier gives its embedder")
    network = built("an embedder", EMBEDDERS, name, {**config, **tile})
    return keras.Model(network.input, network.get_layer("features").output, name="embedder")


def _check(pooling: str, attention_units: int, classes: int, activation: str, dropout: float) -> None:
    if pooling not in POOLINGS:
        raise BadInput(f"expected a pooling among {', '.join(POOLINGS)}, got {pooling!r}")
    if attention_units < 1:
        raise BadInput(f"expected at least one attention unit, got {attention_units}")
    check_head(classes, activation)
    check_training(dropout, 0)


def _classified(
    x: keras.KerasTensor, pooling: str, attention_units: int, classes: int, *, activation: str, dropout: float
) -> keras.KerasTensor:
    """Embeddings of bags (B, N, L) → pooled → (B, classes)."""
    x = _max_mean(x) if pooling == "max-mean" else _attended(x, attention_units)
    x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Dense(classes, name="logits")(x)
    return layers.Activation(activation, dtype="float32", name="probability")(x)


def _max_mean(x: keras.KerasTensor) -> keras.KerasTensor:
    """(B, N, L) → (B, 2L)."""
    largest = layers.GlobalMaxPooling1D(name="max")(x)
    return layers.Concatenate(name="pooled")([largest, layers.GlobalAveragePooling1D(name="mean")(x)])


def _attended(x: keras.KerasTensor, units: int) -> keras.KerasTensor:
    """(B, N, L) → (B, L)."""
    tanh, sigmoid, score = ATTENTION
    scores = _scores(
        x,
        layers.Dense(units, "tanh", use_bias=False, name=tanh),
        layers.Dense(units, "sigmoid", use_bias=False, name=sigmoid),
        layers.Dense(1, use_bias=False, dtype="float32", name=score),
    )
    # The softmax over the bag; Keras' own warns of a bag of one.
    scores = scores - ops.logsumexp(scores, axis=1, keepdims=True)
    weights = layers.Activation("exponential", dtype="float32", name="weights")(scores)  # (B, N, 1)
    mean = layers.Dot(axes=1, name="weighted_mean")([weights, x])  # (B, 1, L)
    return layers.Flatten(name="pooled")(mean)


def _scores(x: keras.KerasTensor, tanh: layers.Dense, sigmoid: layers.Dense, score: layers.Dense) -> keras.KerasTensor:
    """wᵀ (tanh(V h) ⊙ sigmoid(U h)) of each tile: (…, L) → (…, 1)."""
    return score(layers.Multiply()([tanh(x), sigmoid(x)]))
