"""What cannot be excluded at a stated level: sets of categories for a node, of stages for a patient.

Split conformal prediction: on nodes and patients that the forests have not seen, the score is one minus the
probability of the truth (of a node's category; of a patient's stage, by `stage_probabilities`). A set holds all whose
score is within the quantile of those scores, and always the most probable; for new patients of the same kind it
holds the truth at least as often as its level says, over many patients. See `digipath.measure.conformal`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from digipath.errors import BadInput
from digipath.measure.conformal import label_scores, prediction_set, split_quantile
from digipath.measure.forests import category_indices
from digipath.measure.pn_stage import CATEGORIES, OUTSIDE, PN1_NODES, PN2_NODES, patient_stage, stage_probabilities

LEVELS = (0.8, 0.9, 0.95)
FEWEST_NODES = {"pN2": PN1_NODES + 1, OUTSIDE: PN2_NODES + 1}  # of the stages that a single node does not make
METHOD = "split conformal; score: 1 − probability of the truth; null: too few to exclude anything at this level"


def calibrate_stage(
    probabilities: ArrayLike,
    categories: Sequence[str] | ArrayLike,
    patients: Sequence[Any] | None,
    levels: Sequence[float] = LEVELS,
) -> dict[str, Any]:
    """The quantiles that nodes' and patients' sets need, as a card's `conformal` holds them.

    Args:
        probabilities: (n, 4), of nodes that the forests were not trained on.
        categories: (n,) the truth, as names or indices in `CATEGORIES`.
        patients: (n,) whose node it is; None: unknown, then only nodes have sets.
        levels: in (0, 1).

    Returns:
        `method`; `nodes` and `patients` (or None), each with its number `count` and `quantiles`: level → the
        quantile in [0, 1], None where there are too few for that level; of patients also `nodes_each`, the
        fewest and the most nodes.

    Raises:
        BadInput: lengths that differ, or a truth that is no category.
    """
    chances, truth = np.asarray(probabilities, np.float64), category_indices(categories)
    if len(chances) != len(truth) or (patients is not None and len(patients) != len(truth)):
        raise BadInput(f"expected one truth and one patient per node, got {len(chances)} nodes, {len(truth)} truths")
    nodes = {"count": len(truth), "quantiles": _quantiles(label_scores(chances, truth), levels)}
    if patients is None:
        return {"method": METHOD, "nodes": nodes, "patients": None}
    names, owner = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    scores = [_patient_score(chances[owner == one], truth[owner == one]) for one in range(len(names))]
    each = np.bincount(owner)
    whole = {"count": len(names), "nodes_each": [int(each.min()), int(each.max())]}
    return {
        "method": METHOD,
        "nodes": nodes,
        "patients": whole | {"quantiles": _quantiles(np.array(scores), levels)},
    }


def check_level(conformal: Mapping[str, Any], level: float) -> None:
    """Raise BadInput, which names those there are, for a level that a card's `conformal` does not have."""
    _quantile(conformal, "nodes", level)
    if conformal["patients"] is not None:
        _quantile(conformal, "patients", level)


def node_set(probabilities: ArrayLike, conformal: Mapping[str, Any], level: float) -> tuple[str, ...]:
    """The categories of a node with these (4,) probabilities that cannot be excluded at the level.

    Raises:
        BadInput: a level that the card's `conformal` does not have.
    """
    chances = np.asarray(probabilities, np.float64)
    inside = prediction_set(chances, _quantile(conformal, "nodes", level))
    return tuple(name for name, there in zip(CATEGORIES, inside, strict=True) if there)


def stage_set(
    distribution: Mapping[str, float], conformal: Mapping[str, Any], level: float, *, nodes: int | None = None
) -> tuple[str, ...]:
    """The stages of a patient with this distribution (`stage_probabilities`) that cannot be excluded at the level.

    Given the number of nodes, stages that take more of them are left out. Empty where the card has no quantiles for
    patients.

    Raises:
        BadInput: a level that the card's `conformal` does not have.
    """
    if conformal["patients"] is None:
        return ()
    inside = prediction_set(np.array(list(distribution.values())), _quantile(conformal, "patients", level))
    impossible = {stage for stage, fewest in FEWEST_NODES.items() if nodes is not None and nodes < fewest}
    return tuple(stage for stage, there in zip(distribution, inside, strict=True) if there and stage not in impossible)


def _patient_score(chances: NDArray[np.float64], truth: NDArray[np.intp]) -> float:
    stage = patient_stage([CATEGORIES[one] for one in truth])
    return 1 - stage_probabilities(chances)[stage]


def _quantiles(scores: NDArray[np.float64], levels: Sequence[float]) -> dict[str, float | None]:
    found = {f"{level:g}": float(split_quantile(scores, level)) for level in levels}
    return {level: value if math.isfinite(value) else None for level, value in found.items()}


def _quantile(conformal: Mapping[str, Any], of: str, level: float) -> float:
    known = conformal[of]["quantiles"]
    value = known.get(f"{level:g}", math.nan)
    if value is not None and math.isnan(value):
        raise BadInput(f"expected one of the levels {', '.join(known)} that the card has quantiles for, got {level:g}")
    return math.inf if value is None else float(value)
