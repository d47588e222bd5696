"""What predicts: the networks behind a card's name, or the caller's own predictors.

Either way the pipeline asks the same of it: resolution, patch, classes, and the predictors
themselves, which are made only when there is something to predict.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from digipath.engine.ensemble import checked, context_of, predictor_name
from digipath.errors import BadCard, BadInput, BadPredictor, WeightsCorrupt
from digipath.runtime import (
    Choice,
    choose,
    keras_predictor,
    openvino_predictor,
    with_temperature,
    without_startup_notices,
)
from digipath.stain import StainReference
from digipath.values import Card, Predictor
from digipath.weights import load_card, member_cards, verify

if TYPE_CHECKING:
    import keras

NETWORK_STRIDE_PX = 32  # networks of `nn` take multiples of this, unless their card says otherwise
OWN_PATCH_PX = 512
LONGEST_REASON = 300  # characters; Keras writes pages
# What Keras and HDF5 answer to a wrong setting or to weights of another network.
MISFITS = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Networks:
    """Predictors that work together, before they are loaded.

    Attributes:
        mpp: µm per pixel they want; None: the slide's own level 0.
        patch: side of a patch in pixels.
        kept: which output channels become maps.
        classes: names of the kept channels.
        identity: what results depend on, for the case and the run record.
        count: how many.
        cards: the cards behind them, empty for own predictors.
        load: makes the predictors (imports Keras, compiles).
        stain: the reference to which slides were normalised in training; None: they were not.
    """

    mpp: float | None
    patch: int
    kept: tuple[int, ...]
    classes: tuple[str, ...]
    identity: Mapping[str, Any]
    count: int
    cards: tuple[Card, ...]
    load: Callable[[], Sequence[Predictor]]
    stain: StainReference | None = None


def published(
    weights: str,
    *,
    patch: int | None = None,
    runtime: str = "auto",
    precision: str = "auto",
    calibrated: bool = True,
) -> Networks:
    """The network or ensemble a card describes; its files are verified here, before any work.

    Args:
        calibrated: each network with the temperature of its card, where it states one; False: as it was trained.

    Raises:
        UnknownWeights, BadCard, WeightsCorrupt: see `digipath.weights`.
        BadCard: members want slides of different stains, a stain is stated wrongly, or a network that
            gives other classes than its card says.
        BadInput: a patch that is no multiple of what the networks need, an unknown runtime or precision.
    """
    if load_card(weights).output != "pixels":
        raise BadInput(f"{weights} answers for whole tiles, not for pixels; use it with `digipath grade`")
    cards = tuple(member_cards(weights))
    stain = common_stain(cards)
    for card in cards:
        check_stated_head(card)
    hashes = {card.name: verify(card) for card in cards}
    side = cards[0].patch if patch is None else patch
    multiple = math.lcm(*(int(card.record["input"].get("multiple", NETWORK_STRIDE_PX)) for card in cards))
    if side < multiple or side % multiple:
        raise BadInput(f"patch must be a multiple of {multiple} px for these networks, got {side}")
    choice = choose(runtime, precision)
    temperatures = {card.name: found for card in cards if calibrated and (found := temperature(card)) is not None}
    identity = {"name": weights, "sha256": hashes, "runtime": choice.runtime, "precision": choice.precision}
    return Networks(
        mpp=cards[0].mpp,
        patch=side,
        kept=cards[0].kept,
        classes=cards[0].kept_classes,
        identity=identity | ({"temperature": temperatures} if temperatures else {}),
        count=len(cards),
        cards=cards,
        load=lambda: _load(cards, side, choice, temperatures),
        stain=stain,
    )


def temperature(card: Card) -> float | None:
    """What the card of a network divides its logits by to calibrate it; None where it says nothing."""
    calibration = card.record.get("calibration")
    return None if calibration is None else float(calibration["temperature"])


def own(predictors: Sequence[Predictor], *, patch: int | None = None) -> Networks:
    """The caller's own predictors, asked once (one patch of noise) what they answer.

    A predictor may have the attributes `patch` (px), `at_mpp` (µm/px), `classes` and `name`. What
    it answers stands for it in the case's identity, as a card's sha256 does.

    Raises:
        BadInput: none given, one that wants pixels around a patch, or they want different patches, resolutions or
            classes.
        BadPredictor: an answer of the wrong shape or range, or different class counts.
    """
    if not predictors:
        raise BadInput("predictors is empty; give at least one callable")
    if wider := [p for p in predictors if context_of(p)]:
        raise BadInput(
            f"expected predictors that answer for whole patches of a slide, {predictor_name(wider[0])} wants "
            f"{context_of(wider[0])} px more on every side (its context); let it take a larger patch instead"
        )
    patches = {getattr(p, "patch", OWN_PATCH_PX) for p in predictors} if patch is None else {patch}
    resolutions = {getattr(p, "at_mpp", None) for p in predictors}
    labels = {tuple(getattr(p, "classes", ())) for p in predictors}
    if len(patches) > 1 or len(resolutions) > 1 or len(labels) > 1:
        raise BadInput(f"predictors must agree on patch, at_mpp and classes, got {patches}, {resolutions}, {labels}")
    (side,), (mpp,), (named,) = patches, resolutions, labels
    answers = _asked(predictors, side)
    kept, classes = _classes({answer.shape[-1] for answer in answers}, named)
    marks = [[predictor_name(p), *_fingerprint(answer)] for p, answer in zip(predictors, answers, strict=True)]
    identity = {"name": "own", "predictors": marks}
    return Networks(mpp, side, kept, classes, identity, len(predictors), (), lambda: predictors)


def load(name: str) -> keras.Model:
    """The Keras model of a network card, with its verified weights, as it was trained: without its temperature.

    Its input is float (B, H, W, 3) = uint8 RGB × the card's scale + offset.

    Raises:
        UnknownWeights, BadCard, WeightsCorrupt: see `digipath.weights`.
        BadCard: its network cannot be built, or gives other classes than the card says.
        WeightsCorrupt: the file holds weights of another network.
        BadInput: not a network's card.
    """
    return network_of(load_card(name))


def import_predictor(reference: str) -> Predictor:
    """Import `package.module:name`, an instance or function that is a predictor.

    Raises:
        BadInput: no such module or name, or it is not callable.
    """
    module, _, name = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:
        raise BadInput(f"expected --predictor MODULE:NAME that can be imported, got {reference!r}: {error}") from error
    if not callable(found):
        raise BadInput(f"predictor {reference} is not callable")
    return found


def network_of(card: Card) -> keras.Model:
    """The Keras model of a network's card; see `load`."""
    from digipath.nn import build  # here, because it imports Keras and its backend

    if card.record["kind"] != "network":
        members = ", ".join(card.record.get("members", ()))
        hint = f"name one of its members: {members}" if members else "expected a network"
        raise BadInput(f"{card.name} is of kind {card.record['kind']}; {hint}")
    verify(card)
    try:
        network = build(card.record["network"]["name"], **card.record["network"]["config"])
    except MISFITS as error:
        reason = _reason(error, card.path)
        raise BadCard(f"the network of {card.name} cannot be built: {reason}: {card.path}") from error
    _check_head(card, network.output_shape[-1], network.layers[-1].activation.__name__)
    try:
        _fill(network, card)
    except MISFITS as error:
        expected = f"expected the weights of the network that {card.path} describes"
        raise WeightsCorrupt(f"{expected}, got: {_reason(error, card.file)}: {card.file}") from error
    return network


def _fill(network: keras.Model, card: Card) -> None:
    layout = card.record.get("format", "keras-weights")
    if layout == "keras2-h5":
        from digipath.nn.pretrained import load_legacy

        load_legacy(network, card.file)
    elif layout == "keras-weights":
        with warnings.catch_warnings():
            # Keras warns of every layer that the file lacks, and then raises an error about them.
            warnings.simplefilter("ignore", UserWarning)
            network.load_weights(card.file)
    else:
        raise BadInput(f"weights of the format {layout}, of which networks have none")


def _reason(error: Exception, file: Path) -> str:
    """What Keras or a reader says, in a line without the file's name at its end."""
    return " ".join(str(error).split()).removesuffix(f": {file}")[:LONGEST_REASON]


def check_stated_head(card: Card) -> None:
    """What can be seen without Keras of whether network and card agree; `load` sees the rest. Raises BadCard."""
    config = card.record["network"]["config"]
    channels, activation = _head(card)
    _check_head(card, config.get("classes", channels), config.get("activation", activation))


def _check_head(card: Card, channels: object, activation: object) -> None:
    """BadCard unless the network gives the classes that the card names, in the way it says.

    A map of two classes would otherwise be that of the wrong one.
    """
    if (channels, activation) != _head(card):
        wanted = "classes={}, activation={!r}".format(*_head(card))
        raise BadCard(
            f"expected a network of {wanted}, as the card's classes ({', '.join(card.classes)}) and activation want, "
            f"got classes={channels!r}, activation={activation!r}: {card.path}"
        )


def _head(card: Card) -> tuple[int, str]:
    """Output channels and activation of the network; sigmoid gives the positive one of two classes alone."""
    activation = str(card.record["activation"])
    return 1 if len(card.classes) == 2 and activation == "sigmoid" else len(card.classes), activation


def common_stain(cards: Sequence[Card]) -> StainReference | None:
    """The reference that all cards name in `input.stain`. Raises BadCard where they differ or it is none."""
    records = [card.record["input"].get("stain") for card in cards]
    for card, record in zip(cards, records, strict=True):
        if record != records[0]:
            raise BadCard(f"members {cards[0].name} and {card.name} differ in the stain that slides are brought to")
    if records[0] is None:
        return None
    try:
        return StainReference.from_record(records[0])
    except BadInput as error:
        raise BadCard(f"weights card states a wrong input.stain: {error}: {cards[0].path}") from error


def _load(cards: Sequence[Card], patch: int, choice: Choice, temperatures: Mapping[str, float]) -> list[Predictor]:
    with without_startup_notices():
        return [predictor_of(card, patch, choice, temperatures.get(card.name)) for card in cards]


def predictor_of(card: Card, patch: int, choice: Choice, temperature: float | None) -> Predictor:
    """A network's card as a predictor for patches of one size. Raises what `load` raises."""
    scale, offset = card.record["input"]["scale"], card.record["input"]["offset"]
    network = network_of(card)
    if temperature is not None:
        network = with_temperature(network, temperature)
    if choice.runtime == "keras":
        return keras_predictor(network, patch, scale=scale, offset=offset)
    return openvino_predictor(network, patch, scale=scale, offset=offset, precision=choice.precision)


def _asked(predictors: Sequence[Predictor], patch: int) -> list[NDArray[np.float32]]:
    """Each predictor's answer to the same patch of noise, checked."""
    noise = np.random.default_rng(0).integers(0, 256, (1, patch, patch, 3), np.uint8)
    return [checked(p, p(noise.copy()), noise.shape) for p in predictors]


def _fingerprint(answer: NDArray[np.float32]) -> list[float]:
    """Means over 4 × 4 cells in thousandths: tells networks apart, not one network's rounding."""
    cells = (np.array_split(row, 4, axis=1) for row in np.array_split(answer[0], 4, axis=0))
    return [round(float(cell.mean()), 3) for row in cells for cell in row if cell.size]


def _classes(counts: set[int], named: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Which channels to keep, and their names; of two classes the second is the positive one."""
    if len(counts) > 1:
        raise BadPredictor(f"predictors must have the same classes, got {sorted(counts)} of them")
    (count,) = counts
    names = named or tuple(f"class {i}" for i in range(count))
    if len(names) != count and (count, len(names)) != (1, 2):
        raise BadPredictor(f"predictor names {len(names)} classes and returns {count}")
    kept = (count - 1,) if count <= 2 else tuple(range(count))
    return kept, names if count > 2 else names[-1:]
