"""What grades volumes: the networks behind a card's name, each with the region of the volume that it looks at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadCard, BadInput, BadPredictor
from digipath.networks import check_stated_head, network_of, temperature
from digipath.runtime import answered_once, with_temperature, without_startup_notices
from digipath.values import Card
from digipath.volume_rois import SLICE, Region, VolumeRule
from digipath.weights import load_card, members, verify

if TYPE_CHECKING:
    import keras

OUTPUT = "volume"
SUM_WITHIN = 1e-3  # of the probabilities of all classes, from 1


@dataclass(frozen=True)
class VolumeGrader:
    """One network: its card, what it sees of a volume, and its weight in the soft vote."""

    card: Card
    rule: VolumeRule
    weight: float = 1.0

    @property
    def segmenter(self) -> str | None:
        """Name of the card that finds the tumour for it where nobody outlined it."""
        return self.card.record["input"].get("segmenter")


@dataclass(frozen=True)
class VolumeGraders:
    """Networks that grade the same volume, before they are loaded.

    Attributes:
        classes: grades in rising order of malignancy.
        identity: what results depend on, for the case and the run record.
        temperatures: of the networks that are calibrated, by the names of their cards.
    """

    classes: tuple[str, ...]
    members: tuple[VolumeGrader, ...]
    identity: Mapping[str, Any]
    temperatures: Mapping[str, float]

    @property
    def cards(self) -> tuple[Card, ...]:
        """Cards of all networks."""
        return tuple(member.card for member in self.members)


def published(weights: str, *, calibrated: bool = True) -> VolumeGraders:
    """The network or the ensemble of networks for volumes that a card describes; files are verified here.

    Args:
        calibrated: each network with the temperature of its card, where it states one.

    Raises:
        UnknownWeights, BadCard, WeightsCorrupt: see `digipath.weights`.
        BadCard: members that are of other classes, or no networks for volumes.
        BadInput: weights that do not grade volumes.
    """
    card = load_card(weights)
    if card.record["kind"] not in ("network", "ensemble") or card.output != OUTPUT:
        said = f"is of kind {card.record['kind']}, for {card.record['task']}"
        raise BadInput(f"expected weights that grade MRI volumes, {card.name} {said}")
    cards = members(card) if card.record["kind"] == "ensemble" else [card]
    weight_of = card.record.get("vote_weights", {})
    if unknown := sorted({*weight_of} - {one.name for one in cards}):
        raise BadCard(f"{card.name} declares a weight of {unknown[0]}, which is no member: {card.path}")
    graders = tuple(VolumeGrader(one, _rule(one, card), float(weight_of.get(one.name, 1.0))) for one in cards)
    hashes = {one.name: verify(one, asked=weights) for one in cards}
    found = {one.name: value for one in cards if calibrated and (value := temperature(one)) is not None}
    identity = {"name": weights, "sha256": hashes, "vote_weights": {one.card.name: one.weight for one in graders}}
    return VolumeGraders(card.classes, graders, identity | ({"temperature": found} if found else {}), found)


def network(grader: VolumeGrader, graders: VolumeGraders) -> keras.Model:
    """The Keras model of a grader, calibrated as its graders are.

    Raises what `digipath.load` raises; BadCard: it takes no regions of the size that its card states.
    """
    with without_startup_notices():
        found = network_of(grader.card)
        wanted = (*grader.rule.size, 3 if grader.rule.roi == SLICE else len(grader.rule.order))
        takes = found.input_shape[1:]
        if len(takes) != len(wanted) or any(own not in (None, n) for own, n in zip(takes, wanted, strict=True)):
            raise BadCard(f"expected a network of {takes}, the card states regions of {wanted}: {grader.card.path}")
        value = graders.temperatures.get(grader.card.name)
        return found if value is None else with_temperature(found, value)


def network_input(grader: VolumeGrader, region: Region) -> NDArray[np.float32]:
    """A region as its network takes it: slices are scaled as the card says, volumes are standardised already."""
    if grader.rule.roi != SLICE:
        return region.pixels
    asked = grader.card.record["input"]
    scale, offset = (np.asarray(asked.get(*said), np.float32) for said in (("scale", 1.0), ("offset", 0.0)))
    return np.asarray(region.pixels * scale + offset, np.float32)


def answer(model: keras.Model, pixels: NDArray[np.float32]) -> NDArray[np.float64]:
    """(C,) probabilities of one region.

    Raises:
        BadPredictor: the answer is none; numbers that are not finite come from weights or intensities that overflow.
    """
    found = np.asarray(answered_once(model, pixels[None])[0], np.float64)
    if found.ndim != 1 or not np.isfinite(found).all() or abs(found.sum() - 1) > SUM_WITHIN:
        raise BadPredictor(f"expected probabilities of classes that sum to 1, a network gave {found.ravel()[:8]}")
    return found


def _rule(one: Card, card: Card) -> VolumeRule:
    record = one.record
    if (record["kind"], one.output, record["input"]["modality"]) != ("network", OUTPUT, "volume"):
        raise BadCard(f"{one.name} is no network that grades volumes: {one.path}")
    if one.classes != card.classes:
        raise BadCard(f"{card.name}: member {one.name} has the classes {one.classes}: {card.path}")
    check_stated_head(one)
    return VolumeRule.of_card(record["input"])


def check_slice(slice_vox: int | None, graders: Iterable[VolumeGrader]) -> None:
    """Raise BadInput where a slice was chosen that no network looks at."""
    if slice_vox is not None and all(one.rule.roi != SLICE for one in graders):
        raise BadInput(f"these networks look at no single slice; leave out slice_vox, got {slice_vox}")


def modalities_of(graders: Sequence[VolumeGrader]) -> tuple[str, ...]:
    """All modalities that any of them asks for, each once."""
    return tuple(dict.fromkeys(name for one in graders for name in one.rule.order))
