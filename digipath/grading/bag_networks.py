"""What grades a bag of tiles at once: the networks behind a card's name, in parts, so that any bag streams.

Lerousseau et al. 2020, section 2.1: every tile is embedded by one network, the embeddings are pooled over the bag,
and a small head classifies the pooled vector. Only embeddings of a few tiles are in memory at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.engine.bags import AttentionPool, MaxMeanPool
from digipath.errors import BadCard, BadInput
from digipath.grading.tile_networks import grader_members, rule_of
from digipath.networks import common_stain, network_of
from digipath.runtime import Choice, choose, keras_predictor, openvino_predictor, without_startup_notices
from digipath.stain import StainReference
from digipath.tile_augment import TileAugmentation
from digipath.tiling import TileRule
from digipath.values import Card, Predictor
from digipath.weights import load_card, verify

Floats = NDArray[np.float32]
CHUNK = 16  # tiles that go through the embedder together


@dataclass(frozen=True)
class BagGraders:
    """Bag networks that vote together, before they are loaded; each has tiles of its own magnification.

    Attributes:
        classes: grades in rising order of malignancy. identity: what results depend on.
        cards: one for each. choice: how they are run. stain: as in `digipath.grading.tile_networks.Graders`.
    """

    classes: tuple[str, ...]
    identity: Mapping[str, Any]
    cards: tuple[Card, ...]
    choice: Choice
    stain: StainReference | None = None

    @property
    def rule(self) -> TileRule:
        """The tiles of the first network."""
        return rule_of(self.cards[0])


@dataclass(frozen=True)
class BagNetwork:
    """A loaded bag network in parts.

    Attributes:
        embed: (B, P, P, 3) uint8 → (B, L). head: pooled (n, 2L or L) → (n, C) float32.
        scores: embeddings (n, L) → (n,), whose softmax over the bag weighs its tiles; None: maximum and mean.
    """

    embed: Predictor
    head: Callable[[Floats], Floats]
    scores: Callable[[Floats], Floats] | None

    def answer(self, tiles: Iterable[NDArray[np.uint8]]) -> BagAnswer:
        """What it says of a bag of any size, whose tiles (P, P, 3) come one by one in any order."""
        pool: MaxMeanPool | AttentionPool = MaxMeanPool() if self.scores is None else AttentionPool()
        alone: list[Floats] = []
        for chunk in _chunks(tiles, CHUNK):
            embeddings = np.asarray(self.embed(np.stack(chunk)), np.float32)
            if isinstance(pool, AttentionPool) and self.scores is not None:
                pool.add(embeddings, self.scores(embeddings))
                alone.append(self.head(embeddings))
            elif isinstance(pool, MaxMeanPool):
                pool.add(embeddings)
                alone.append(self.head(np.concatenate([embeddings, embeddings], axis=1)))
        weights = pool.weights() if isinstance(pool, AttentionPool) else None
        return BagAnswer(self.head(pool.pooled()[None])[0], np.concatenate(alone), weights)


@dataclass(frozen=True)
class BagAnswer:
    """What a network says of one bag of n tiles.

    Attributes:
        probabilities: (C,) of the bag. alone: (n, C) of each tile as a bag of its own.
        attention: (n,) what each tile counts, sum 1; None: every tile counts alike.
    """

    probabilities: Floats
    alone: Floats
    attention: Floats | None


def published(weights: str, *, runtime: str = "auto", precision: str = "auto") -> BagGraders:
    """The bag network or the ensemble of these that a card describes; files are verified here.

    Raises:
        UnknownWeights, BadCard, WeightsCorrupt: see `digipath.weights`. BadInput: weights that do not grade bags.
    """
    card = load_card(weights)
    cards = tuple(member.networks[0] for member in grader_members(card, "bag"))
    hashes = {one.name: verify(one, asked=weights) for one in cards}
    choice = choose(runtime, precision)
    identity = {"name": weights, "sha256": hashes, "runtime": choice.runtime, "precision": choice.precision}
    for one in cards:
        augmentation_of(one)
    identity["cards"] = {one.name: _said(one) for one in cards}
    return BagGraders(cards[0].classes, identity, cards, choice, common_stain(cards))


def load(card: Card, choice: Choice) -> BagNetwork:
    """Build a bag network, with its verified weights. Raises what `digipath.load` raises."""
    scale, offset = card.record["input"]["scale"], card.record["input"]["offset"]
    with without_startup_notices():
        from digipath.nn.mil import parts  # here, because it imports Keras

        found = parts(network_of(card))
        if choice.runtime == "keras":
            embed: Predictor = keras_predictor(found.embedder, card.patch, scale=scale, offset=offset, batch=CHUNK)
        else:
            embed = openvino_predictor(
                found.embedder, card.patch, scale=scale, offset=offset, precision=choice.precision
            )
    attention = found.attention

    def head(pooled: Floats) -> Floats:
        return _asked(found.head, pooled)

    def scores(embeddings: Floats) -> Floats:
        return _asked(attention, embeddings)[:, 0]

    return BagNetwork(embed, head, None if attention is None else scores)


def bag_size(card: Card) -> int:
    """Tiles that are drawn from a slide at once."""
    return int(card.record["input"].get("bag", 200))


def bag_groups(card: Card) -> int | None:
    """Groups that are drawn from a slide, as from its test slides; None: as many as hold all tiles once."""
    stated = card.record["input"].get("groups", 1)
    return None if stated is None else int(stated)


def augments(card: Card) -> bool:
    """Whether tiles are changed while the network is used, as on its test slides."""
    return bool(card.record["input"].get("augment", True))


def augmentation_of(card: Card) -> TileAugmentation | None:
    """What is changed in tiles in training, and where `augments` in use; None: nothing.

    Raises:
        BadCard: the card states it wrongly.
    """
    stated = card.record["input"].get("augmentation")
    if stated is None:
        return None
    try:
        settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stated.items()}
        found = TileAugmentation(**settings)
        found.check()
    except (BadInput, TypeError) as error:
        raise BadCard(f"weights card states a wrong input.augmentation: {error}: {card.path}") from error
    return found


def _said(card: Card) -> str:
    """A hash of all in a card that answers depend on besides weights."""
    said = {key: card.record[key] for key in ("input", "network")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _asked(network: Any, rows: Floats) -> Floats:  # noqa: ANN401 - a Keras model
    """What a part says of up to `CHUNK` rows, filled up to as many: another number would be compiled anew."""
    filled = np.pad(rows, [(0, CHUNK - len(rows)), (0, 0)])
    return np.asarray(network.predict_on_batch(filled), np.float32)[: len(rows)]


def _chunks(items: Iterable[NDArray[np.uint8]], size: int) -> Iterable[Sequence[NDArray[np.uint8]]]:
    chunk: list[NDArray[np.uint8]] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
