"""Weights that a network begins with: a published encoder's file, or a network trained here before; do they fit?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from digipath.errors import BadInput
from digipath.networks import LONGEST_REASON
from digipath.values import Card, Scaling
from digipath.weights import load_card, verify

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Encoder:
    """Weights of a verified card. record: name and sha256, for the card of what is trained."""

    card: Card
    record: dict[str, str]

    def load(self, network: keras.Model) -> None:
        """Fill what the weights know of a network, never its head.

        Raises BadInput: they are of another encoder.
        """
        if self.card.record.get("format", "keras-weights") == "keras-weights" and self.card.record["kind"] == "network":
            from digipath.networks import network_of  # here, because it imports Keras and its backend

            _copy(network_of(self.card), network, self.card)
        else:
            from digipath.nn.pretrained import load_encoder

            load_encoder(network, self.card.file)


def encoder_of(name: str | None) -> Encoder | None:
    """The weights of the card of that name; None for None.

    Raises UnknownWeights, BadCard, WeightsCorrupt; BadInput: an ensemble, or others without weights of their own.
    """
    if name is None:
        return None
    card = load_card(name)
    if "file" not in card.record:
        raise BadInput(f"expected an encoder with weights of its own, {card.name} is of kind {card.record['kind']}")
    return Encoder(card, {"name": card.name, "sha256": verify(card)})


def parameters_of(
    spec: Mapping[str, Any], encoder: str | None, where: str, check: Callable[[keras.Model], object] = lambda _: None
) -> int:
    """Parameters of a network, which is built once to see that it can be, that `check` takes it and the encoder fits.

    Args:
        where: the network's section, for the message.

    Raises:
        BadInput: what the builder, `check` or the encoder say, in one line. UnknownWeights, WeightsCorrupt.
    """
    from digipath.nn import build  # here, because it imports Keras and its backend

    try:
        network = build(spec["name"], **spec["config"])
        check(network)
        if (begins := encoder_of(encoder)) is not None:
            begins.load(network)
    except (BadInput, TypeError, ValueError) as error:  # the last two: what Keras says of a wrong kind of value
        raise BadInput(f"{where} {' '.join(str(error).split())[:LONGEST_REASON]}") from error
    return int(network.count_params())


def encoder_name(encoder: str | None) -> str | None:
    """The name in a card that may be given by its path. Raises UnknownWeights, BadCard."""
    return None if encoder is None else load_card(encoder).name


def stated_scaling(encoder: str) -> tuple[Scaling, Scaling]:
    """Scale and offset of the input that a card's weights learned with.

    Raises UnknownWeights, BadCard; BadInput: they are of no network that sees images.
    """
    card = load_card(encoder)
    stated = card.record["input"]
    if "scale" not in stated:
        raise BadInput(f"expected an encoder of images, {card.name} is of {stated['modality']}s")
    scale, offset = (tuple(v) if isinstance(v, list) else v for v in (stated["scale"], stated["offset"]))
    return scale, offset


def _copy(source: keras.Model, network: keras.Model, card: Card) -> None:
    """The encoder layer by layer, by name; what lies between it and the head too, where both have the same there."""
    from digipath.nn.encoder import body_layers, encoder_layers

    of_encoder, known = encoder_layers(network), {layer.name: layer for layer in body_layers(source)}
    here, there = ({layer.name: _shapes(layer) for layer in encoder_layers(one)} for one in (network, source))
    if here != there:
        name = next(name for name in {**here, **there} if here.get(name) != there.get(name))
        raise BadInput(
            f"expected weights of the same encoder, {card.name} is another: its layer {name} is "
            f"{there.get(name, 'not there')}, this network's {here.get(name, 'not there')}"
        )
    layers, shapes = body_layers(network), {name: _shapes(layer) for name, layer in known.items()}
    same = shapes == {layer.name: _shapes(layer) for layer in layers}
    for layer in layers if same else of_encoder:
        layer.set_weights(known[layer.name].get_weights())


def _shapes(layer: keras.Layer) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]
