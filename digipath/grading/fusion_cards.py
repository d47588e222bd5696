"""Fusion cards: which networks vote for a patient, with which weights, and what their classes mean."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from digipath.errors import BadInput
from digipath.files import made_folder, write_json
from digipath.grading.fusion import published
from digipath.measure.repeated_runs import drop_worst
from digipath.values import Card
from digipath.weights import check_card, load_card

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
USE = "Research only: a grade of one patient from several networks. Not for diagnosis."
UNTESTED = "The vote as a whole was not scored on patients; see the cards of its members for what they were scored on."


@dataclass(frozen=True)
class FusionPlan:
    """What a fusion is made of.

    Attributes:
        name: of its card. members: names of cards. classes: in rising order of malignancy; None: those of the first
            member named, be it dropped or not.
        weights: member → its weight in the vote, 1 where left out.
        meanings: member → its class → a class of the fusion, for members with other classes.
        validation: member → score on data that no test holds, the higher the better; drop: so many with the lowest are
            left out (Lerousseau et al. 2020, section 3.2: 2 of 10).
    """

    name: str
    members: Sequence[str]
    classes: Sequence[str] | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    meanings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    drop: int = 0


def write_fusion(plan: FusionPlan, folder: str | Path) -> Path:
    """Write the card of a fusion; members are found beside it first, else by their names.

    An earlier fusion of that name is replaced, any other card is not. Nothing is written of what is refused.

    Raises:
        BadInput: fewer than two members remain, a score is missing, weights and meanings of cards that are none, or a
            name that is none or that of another card.
        UnknownWeights, BadCard: a member has no card, or its classes have no meaning in the fusion; or a weight that
            no card may have.
        OutputUnwritable: the folder cannot be written.
    """
    if not NAME.fullmatch(plan.name):
        raise BadInput(f"expected a name of lower-case letters, digits and single hyphens, got {plan.name!r}")
    path = Path(folder) / f"{plan.name}.json"
    cards = [load_card(_found(name, path)) for name in plan.members]
    names = [card.name for card in cards]
    told = [*plan.weights, *plan.meanings, *plan.validation]
    if unknown := [name for name in told if name not in names]:
        raise BadInput(f"expected weights, meanings and scores of the members {', '.join(names)}, got {unknown[0]}")
    _check_numbers(plan)
    kept = _kept(plan, names)
    record = _record(plan, [card for card in cards if card.name in kept], plan.classes or cards[0].classes)
    check_card(record, path)
    if path.exists() and load_card(str(path)).record["kind"] != "fusion":
        raise BadInput(f"expected a name of its own for the fusion, there is another card: {path}")
    published(Card(path, record))
    made_folder(path.parent)
    write_json(path, record)
    return path


def _check_numbers(plan: FusionPlan) -> None:
    for name, number in [*plan.weights.items(), *plan.validation.items()]:
        if not math.isfinite(number):
            raise BadInput(f"expected weights and scores that are finite numbers, got {number} for {name}")


def _found(name: str, path: Path) -> str:
    """A member's card, where the fusion will look for it."""
    beside = path.with_name(f"{Path(name).stem if name.endswith('.json') else name}.json")
    if name.endswith(".json") and beside.resolve() != Path(name).resolve():
        raise BadInput(f"expected members beside the fusion, or known by name; {name} lies elsewhere: {path.parent}")
    return str(beside) if beside.is_file() else name


def _kept(plan: FusionPlan, names: Sequence[str]) -> list[str]:
    """The members that stay."""
    if plan.drop and set(plan.validation) != set(names):
        raise BadInput(f"expected a validation score of each member to drop the worst, got {sorted(plan.validation)}")
    kept = drop_worst(plan.validation, plan.drop) if plan.drop else list(names)
    if len(set(kept)) < 2:
        raise BadInput(f"expected two or more different members, got {', '.join(kept)}")
    return kept


def _record(plan: FusionPlan, cards: Sequence[Card], classes: Sequence[str]) -> dict[str, Any]:
    names = [card.name for card in cards]
    dropped = [name for name in plan.validation if plan.drop and name not in names]
    chosen = "as named"
    if dropped:
        chosen = f"without the {plan.drop} of the lowest validation score: {', '.join(dropped)}"
    return {
        "schema": 1,
        "name": plan.name,
        "kind": "fusion",
        "task": "grading of glioma from slides and MRI of one patient",
        "output": "case",
        "classes": list(classes),
        "positive": classes[-1] if len(classes) == 2 else None,
        "members": names,
        "vote_weights": {name: plan.weights[name] for name in names if name in plan.weights},
        "mapping": {name: dict(plan.meanings[name]) for name in names if name in plan.meanings},
        "input": {"modality": "case"},
        "licence": "; ".join(dict.fromkeys(str(card.record["licence"]) for card in cards)),
        "citation": "Soft vote of Lerousseau et al. 2020, arXiv:2009.01983, section 2.3; members: see their cards",
        "training": {
            "data": "that of its members; see their cards",
            "split": f"members {chosen}",
            "validation": dict(plan.validation),
        },
        "metrics": [],
        "calibration": None,
        "conformal": None,
        "intended_use": USE,
        "limits": list(dict.fromkeys([*(str(card.record["limits"][0]) for card in cards), UNTESTED])),
    }
