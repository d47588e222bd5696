"""What grades tiles: the networks behind a card's name, or the caller's own predictors.

A tile predictor is a callable (B, P, P, 3) uint8 → (B, C) float32: the probability of each class, which
are grades in rising order of malignancy. Two two-class networks in a row ("modular", Truong et al. 2020)
answer like one of three classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.engine.ensemble import checked, predictor_name
from digipath.errors import BadCard, BadInput, BadPredictor
from digipath.measure.tile_grades import SUM_ERROR, modular
from digipath.networks import NETWORK_STRIDE_PX, check_stated_head, common_stain, predictor_of, temperature
from digipath.runtime import Choice, choose, without_startup_notices
from digipath.stain import StainReference
from digipath.tiling import LEAST_TISSUE, TileRule
from digipath.values import Card, Predictor
from digipath.weights import load_card, members, verify


@dataclass(frozen=True)
class Member:
    """One grader of an ensemble: a network, or two that answer in a row.

    Attributes:
        card: its own. networks: the cards of its networks, one or two.
    """

    card: Card
    networks: tuple[Card, ...]


@dataclass(frozen=True)
class Graders:
    """Tile predictors that work together, before they are loaded.

    Attributes:
        rule: the tiles they look at.
        classes: grades in rising order of malignancy, the channels of their answers.
        identity: what results depend on, for the case and the run record.
        count: how many.
        members: the cards behind them, empty for own predictors.
        load: makes the predictors (imports Keras, compiles).
        stain: the reference to which slides were normalised in training; None: they were not.
    """

    rule: TileRule
    classes: tuple[str, ...]
    identity: Mapping[str, Any]
    count: int
    members: tuple[Member, ...]
    load: Callable[[], Sequence[Predictor]]
    stain: StainReference | None = None

    @property
    def cards(self) -> tuple[Card, ...]:
        """Cards of all networks."""
        return tuple(card for member in self.members for card in member.networks)


def published(
    weights: str,
    *,
    tile_px: int | None = None,
    runtime: str = "auto",
    precision: str = "auto",
    calibrated: bool = True,
) -> Graders:
    """The tile network, the modular pair or the ensemble of these that a card describes; files are verified here.

    Args:
        tile_px: side of the tiles instead of the card's.
        calibrated: each network with the temperature of its card, where it states one.

    Raises:
        UnknownWeights, BadCard, WeightsCorrupt: see `digipath.weights`.
        BadCard: members that do not fit together.
        BadInput: weights that do not grade tiles, a tile that the networks cannot take, an unknown runtime.
    """
    found = grader_members(load_card(weights), "tile")
    cards = [card for member in found for card in member.networks]
    hashes = {card.name: verify(card, asked=weights) for card in cards}
    rule = rule_of(found[0].networks[0])
    side = rule.tile_px if tile_px is None else tile_px
    multiple = max(int(card.record["input"].get("multiple", NETWORK_STRIDE_PX)) for card in cards)
    if side < multiple:
        raise BadInput(f"expected tiles of at least {multiple} px for these networks, got {side}")
    for card in cards:
        if (fixed := card.record["network"]["config"].get("patch")) not in (None, side):
            raise BadInput(f"expected tiles of {fixed} px, the only ones that {card.name} takes, got {side}")
    choice = choose(runtime, precision)
    temperatures = {card.name: value for card in cards if calibrated and (value := temperature(card)) is not None}
    identity = {"name": weights, "sha256": hashes, "runtime": choice.runtime, "precision": choice.precision}
    return Graders(
        rule=replace(rule, tile_px=side),
        classes=found[0].card.classes,
        identity=identity | ({"temperature": temperatures} if temperatures else {}),
        count=len(found),
        members=found,
        load=lambda: _load(found, side, choice, temperatures),
        stain=common_stain(cards),
    )


def grader_members(card: Card, output: str) -> tuple[Member, ...]:
    """The graders behind a card: itself, or the members of an ensemble in order, all for the same classes.

    Args:
        output: "tile" or "bag", what they answer for.

    Raises:
        UnknownWeights, BadCard: as `digipath.weights.load_card`; also members that do not fit together.
        BadInput: the card is of no grader.
    """
    if card.record["kind"] not in ("network", "ensemble", "modular") or card.output != output:
        said = f"is of kind {card.record['kind']}, for {card.record['task']}"
        raise BadInput(f"expected weights that grade {output}s of slides, {card.name} {said}")
    found = members(card) if card.record["kind"] == "ensemble" else [card]
    made = tuple(_member(one, output) for one in found)
    for member in made:
        if member.card.classes != card.classes:
            raise BadCard(f"{card.name}: member {member.card.name} has the classes {member.card.classes}: {card.path}")
        if output == "tile" and {rule_of(one) for one in member.networks} != {rule_of(made[0].networks[0])}:
            raise BadCard(f"{card.name}: members {found[0].name} and {member.card.name} differ in mpp or tiles")
    return made


def rule_of(card: Card) -> TileRule:
    """The tiles that a network's card asks for."""
    asked = card.record["input"]
    return TileRule(
        card.mpp,
        int(asked.get("tile", card.patch)),
        float(asked.get("least_tissue", LEAST_TISSUE)),
        str(asked.get("tissue", "auto")),
    )


def own(predictors: Sequence[Predictor], *, tile_px: int | None = None) -> Graders:
    """The caller's own tile predictors, asked once (one tile of noise) what they answer.

    A predictor may have the attributes `patch` (px), `at_mpp` (µm/px), `classes` and `name`.

    Raises:
        BadInput: none given, or they want different tiles, resolutions or classes.
        BadPredictor: an answer of the wrong shape or range, or different class counts.
    """
    if not predictors:
        raise BadInput("predictors is empty; give at least one callable")
    sides = {getattr(p, "patch", TileRule(None).tile_px) for p in predictors} if tile_px is None else {tile_px}
    resolutions = {getattr(p, "at_mpp", None) for p in predictors}
    labels = {tuple(getattr(p, "classes", ())) for p in predictors}
    if len(sides) > 1 or len(resolutions) > 1 or len(labels) > 1:
        raise BadInput(f"predictors must agree on patch, at_mpp and classes, got {sides}, {resolutions}, {labels}")
    (side,), (mpp,), (named,) = sides, resolutions, labels
    answers = _asked(predictors, side)
    counts = {answer.shape[-1] for answer in answers}
    if len(counts) > 1 or counts == {1} or (named and len(named) not in counts):
        said = f"{sorted(counts)} for {list(named)}"
        raise BadPredictor(f"graders must give the same two or more classes, got {said}")
    classes = named or tuple(f"class {index}" for index in range(counts.pop()))
    marks = [[predictor_name(p), *np.round(a[0], 3).tolist()] for p, a in zip(predictors, answers, strict=True)]
    identity = {"name": "own", "predictors": marks}
    return Graders(TileRule(mpp, side), classes, identity, len(predictors), (), lambda: predictors)


class ModularPredictor:
    """Two tile predictors in a row: p(top) from the first, p(c) = (1 − p(top)) · p(c | not top) from the second.

    Args:
        top: channel of the highest grade in the first's answer.
        rest: channels of the other grades in the second's answer, in the order of the classes.
    """

    def __init__(self, first: Predictor, second: Predictor, *, top: int, rest: Sequence[int], name: str) -> None:
        self._first, self._second, self._top, self._rest = first, second, top, list(rest)
        self.name = name
        self.batch = min(getattr(p, "batch", 1) for p in (first, second))
        self.parallel = min(getattr(p, "parallel", 1) for p in (first, second))

    def __call__(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, P, P, 3) uint8 → (B, C) float32."""
        top = np.asarray(self._first(tiles))[:, self._top]
        return modular(top, np.asarray(self._second(tiles))[:, self._rest]).astype(np.float32)


def modular_channels(card: Card, first: Card, second: Card) -> tuple[int, tuple[int, ...]]:
    """Where the classes of a modular card stand in the answers of its two networks.

    Raises:
        BadCard: the first does not tell the highest class from the rest, or the second not the rest apart.
    """
    *rest, top = card.classes
    if len(first.classes) != 2 or top not in first.classes or set(second.classes) != set(rest):
        raise BadCard(
            f"expected members that tell {top!r} from the rest, and {', '.join(map(repr, rest))} apart, got "
            f"{first.name} of {list(first.classes)} and {second.name} of {list(second.classes)}: {card.path}"
        )
    return first.classes.index(top), tuple(second.classes.index(name) for name in rest)


def _member(card: Card, output: str) -> Member:
    networks = tuple(members(card)) if card.record["kind"] == "modular" else (card,)
    for network in networks:
        modality = network.record["input"]["modality"]
        if (network.record["kind"], network.output, modality) != ("network", output, "slide"):
            raise BadCard(f"{network.name} is no network for {output}s of slides: {network.path}")
        check_stated_head(network)
    if len(networks) == 2:
        modular_channels(card, *networks)
    return Member(card, networks)


def _load(
    found: Sequence[Member], side: int, choice: Choice, temperatures: Mapping[str, float]
) -> list[Predictor]:
    with without_startup_notices():
        return [_predictor(member, side, choice, temperatures) for member in found]


def _predictor(member: Member, side: int, choice: Choice, temperatures: Mapping[str, float]) -> Predictor:
    each = [predictor_of(card, side, choice, temperatures.get(card.name)) for card in member.networks]
    if len(each) == 1:
        return each[0]
    top, rest = modular_channels(member.card, *member.networks)
    return ModularPredictor(*each, top=top, rest=rest, name=member.card.name)


def _asked(predictors: Sequence[Predictor], side: int) -> list[NDArray[np.float32]]:
    """Each predictor's answer to the same tile of noise, checked."""
    noise = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    answers = [checked(p, p(noise.copy()), (1, 0)) for p in predictors]
    for predictor, answer in zip(predictors, answers, strict=True):
        if abs(answer.sum() - 1) > SUM_ERROR:
            name = predictor_name(predictor)
            raise BadPredictor(f"grader {name} must return probabilities that sum to 1, got a sum of {answer.sum():g}")
    return answers
