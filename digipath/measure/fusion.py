"""One answer of several networks about one case: a soft vote of those that could be asked.

References:
    Lerousseau et al. 2020, sections 2.3 and 3.2: soft vote of networks on slides and on MRI.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from digipath.errors import BadInput
from digipath.measure.repeated_runs import soft_vote
from digipath.measure.tile_grades import class_probabilities, leading


def fused(votes: Mapping[str, ArrayLike], weights: Mapping[str, float] | None = None) -> NDArray[np.float64]:
    """Weighted mean of the members' probabilities, (C,), over the members that are there.

    Args:
        votes: member → (C,), of the members that could be asked; the same classes throughout.
        weights: member → weight ≥ 0, of these at least; weights of others are passed over, so that those that are there
            share the whole vote in their proportions. None: all alike.

    Raises:
        BadInput: no member, one without a weight, weights of 0 throughout, or as `soft_vote`.
    """
    if weights is not None and (lacking := [name for name in votes if name not in weights]):
        raise BadInput(f"expected a weight for each member, got none for {', '.join(lacking)}")
    each = None if weights is None else [weights[name] for name in votes]
    return soft_vote([np.asarray(vote)[None] for vote in votes.values()], each)[0]


def leader(vote: ArrayLike) -> int:
    """The most probable class of a vote (C,), of equal ones the highest grade."""
    found = leading(vote)
    assert found is not None  # probabilities sum to 1
    return found


def mapped(
    probabilities: ArrayLike, classes: Sequence[str], mapping: Mapping[str, str], to_classes: Sequence[str]
) -> NDArray[np.float64]:
    """Probabilities of one set of classes as those of another, (len(to_classes),): sums over what means the same.

    For instance grades 2 and 3 are together "LGG". Classes cannot be parted, so that every class of the second set
    needs one that means it.

    Args:
        probabilities: (C,) of `classes`. mapping: class → the class of `to_classes` that it means.

    Raises:
        BadInput: values that are no probabilities, a class that means nothing, a meaning that is no class, or a class
            that nothing means.
    """
    values = class_probabilities(np.asarray(probabilities)[None], count=len(classes))[0]
    if set(mapping) != set(classes) or set(mapping.values()) != set(to_classes):
        raise BadInput(
            f"expected a mapping of each of {', '.join(classes)} that reaches each of {', '.join(to_classes)}, "
            f"got {dict(mapping)}"
        )
    return np.array(
        [
            math.fsum(value for name, value in zip(classes, values.tolist(), strict=True) if mapping[name] == meaning)
            for meaning in to_classes
        ]
    )
