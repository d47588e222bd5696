"""From the grades of tiles to a grade of their slide: votes, the highest grade present, areas, the tiles to look at.

Classes stand in rising order of malignancy, so a tie goes to the higher grade everywhere. No single answer is enough
for a tumour of several grades (Truong et al. 2020, "Visualization of Output and Tumor Heterogeneity"): `read_grades`
gives the mean vote, the majority vote and the pathologist's way, the highest grade of which there is enough, and
beside them the share of each grade and its area.

References:
    Truong et al. 2020, Optimization of deep learning methods for visualization of tumor heterogeneity and brain
    tumor grading through digital pathology. Ertosun and Rubin 2015 (its reference 21; the modular model).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from digipath.errors import BadInput
from digipath.values import most_probable

LEAST_SHARE = 0.05  # of the graded tiles
LEAST_CONFIDENCE = 0.5  # of a tile in its grade
SUM_ERROR = 0.01  # of a tile's probabilities, which may come as float16
TIE = 1e-6  # between means; about the rounding of float32 probabilities

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class GradeReadout:
    """What the tiles of a slide, or of a case, say about its grade.

    Attributes:
        tiles: how many were graded. Without any there is no grade, and what is by class is empty.
        probabilities: class → mean probability over tiles.
        mean_grade: the class with the highest mean, the "average voting" of Truong 2020.
        shares: class → share of the tiles that are called it.
        majority_grade: the class that most tiles are called, the "maximum voting" of Truong 2020.
        highest_grade: see `highest_grade`; None also where no grade reaches both thresholds.
        least_share, least_confidence: those thresholds.
        areas_mm2: class → area of the tissue in tiles that are called it; None where unknown.
        confident_shares: class → share of all tiles that are called it with at least `least_confidence`.
    """

    tiles: int
    probabilities: Mapping[str, float]
    mean_grade: str | None
    shares: Mapping[str, float]
    majority_grade: str | None
    highest_grade: str | None
    least_share: float
    least_confidence: float
    areas_mm2: Mapping[str, float] | None = None
    confident_shares: Mapping[str, float] = field(default_factory=dict)

    def to_record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        }


def read_grades(
    probabilities: ArrayLike,
    classes: Sequence[str],
    *,
    least_share: float = LEAST_SHARE,
    least_confidence: float = LEAST_CONFIDENCE,
    areas_mm2: ArrayLike | None = None,
) -> GradeReadout:
    """Everything the tiles of a slide say about its grade; the order of the tiles does not matter.

    Args:
        probabilities: (n, C) of tiles, see `class_probabilities`; n = 0 is allowed.
        classes: C names in rising order of malignancy.
        least_share, least_confidence: in [0, 1], see `highest_grade`.
        areas_mm2: (n,) area of the tissue in each tile.

    Raises:
        BadInput: as `class_probabilities` and `highest_grade`; areas that are negative or not one per tile.
    """
    _check_share("least_share", least_share)
    _check_share("least_confidence", least_confidence)
    values = np.asarray(probabilities) if np.size(probabilities) else np.empty((0, len(classes)))
    tiles = class_probabilities(values, count=len(classes))
    areas = None if areas_mm2 is None else _areas(areas_mm2, called(tiles), len(classes))
    mean, votes = mean_vote(tiles), vote_shares(tiles)
    confident = share_at_confidence(tiles, [least_confidence])[0]
    highest = highest_grade(tiles, least_share=least_share, least_confidence=least_confidence)

    def by_class(values: Floats) -> dict[str, float]:
        return dict(zip(classes, values.tolist(), strict=True)) if len(tiles) else {}

    def named(grade: int | None) -> str | None:
        return None if grade is None else classes[grade]

    return GradeReadout(
        tiles=len(tiles),
        probabilities=by_class(mean),
        mean_grade=named(leading(mean)),
        shares=by_class(votes),
        majority_grade=named(leading(votes)),
        highest_grade=named(highest),
        least_share=float(least_share),
        least_confidence=float(least_confidence),
        areas_mm2=None if areas is None else by_class(areas),
        confident_shares=by_class(confident),
    )


def class_probabilities(values: ArrayLike, *, count: int | None = None) -> Floats:
    """The values as (n, C) floats of their own precision, checked.

    Args:
        values: (n, C), C ≥ 2, in [0, 1], each row summing to 1 within 0.01.
        count: the C that is expected, if any is.

    Raises:
        BadInput: anything else.
    """
    given = np.asarray(values)
    array: Floats = given if given.dtype.kind == "f" else given.astype(np.float64)
    if array.ndim != 2 or array.shape[1] < 2 or (count is not None and array.shape[1] != count):
        raise BadInput(f"expected probabilities (n, {count or 'C ≥ 2'}), a row for each tile, got {array.shape}")
    if not (np.isfinite(array).all() and (array >= 0).all() and (array <= 1).all()):
        raise BadInput("expected probabilities in [0, 1], got others or NaN")
    sums = array.sum(axis=1, dtype=np.float64)
    if (np.abs(sums - 1) > SUM_ERROR).any():
        raise BadInput(f"expected probabilities that sum to 1 over the classes, got sums up to {sums.max():g}")
    return array


def modular(top: ArrayLike, rest: ArrayLike) -> Floats:
    """Two networks as one: the highest grade against the rest, then the rest among themselves; (n, C).

    p(top) = p₁(top), p(c) = (1 − p₁(top)) · p₂(c): the modular model of Ertosun and Rubin 2015 and Truong 2020, which
    there passes a tile to the second network only where the first says no; here every tile has all C probabilities.

    Args:
        top: (n,) in [0, 1]. rest: (n, C − 1) of the lower grades, rows summing to 1; C ≥ 3.

    Raises:
        BadInput: shapes that do not fit, or no probabilities.
    """
    first, second = np.asarray(top), class_probabilities(rest)
    if first.shape != second.shape[:1]:
        raise BadInput(f"expected (n,) of the top class and (n, C − 1) of the rest, got {first.shape}, {second.shape}")
    if not ((first >= 0) & (first <= 1)).all():
        raise BadInput("expected probabilities of the top class in [0, 1], got others or NaN")
    return np.concatenate([(1 - first[:, None]) * second, first[:, None]], axis=1)


def called(probabilities: ArrayLike) -> Ints:
    """The most probable class of each tile, (n,); ties go to the higher grade."""
    return most_probable(class_probabilities(probabilities))


def mean_vote(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Mean probability of each class over tiles, (C,); zeros without a tile. `leading` says which grade it is."""
    values = class_probabilities(probabilities)
    # fsum rounds once, so that the order of the tiles cannot matter
    return np.array([math.fsum(column.tolist()) for column in values.T]) / max(len(values), 1)


def vote_shares(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Share of the tiles that are called each class, (C,); zeros without a tile. `leading` says which grade wins."""
    values = class_probabilities(probabilities)
    return np.bincount(called(values), minlength=values.shape[1]) / max(len(values), 1)


def leading(votes: ArrayLike) -> int | None:
    """The class with most of the votes (C,); what is within 1e-6 ties, and goes to the higher grade.

    None where there is no vote at all.
    """
    values = np.asarray(votes, np.float64)
    return int(np.flatnonzero(values >= values.max() - TIE)[-1]) if values.any() else None


def leading_of_each(votes: ArrayLike) -> Ints:
    """`leading` of each row of votes (n, C), none of which may be without any: (n,)."""
    values = np.asarray(votes, np.float64)
    ties = values >= values.max(axis=1, keepdims=True) - TIE
    return np.asarray(values.shape[1] - 1 - np.argmax(ties[:, ::-1], axis=1), np.int64)


def highest_grade(probabilities: ArrayLike, *, least_share: float, least_confidence: float) -> int | None:
    """The highest grade of which there is enough: the pathologist's way, with both of its thresholds given.

    The highest class that at least `least_share` of all tiles, and at least one, are called with a probability of at
    least `least_confidence`. Both ends count, and exactly: 5 tiles of 100 are a share of 0.05 as it is written, and a
    confidence is compared in the precision of the probabilities. Truong 2020, "Visualization of Output and Tumor
    Heterogeneity", which names both thresholds and sets none.

    Args:
        probabilities: (n, C). least_share, least_confidence: in [0, 1].

    Returns:
        Index of the class; None where no class reaches both.
    """
    _check_share("least_share", least_share)
    _check_share("least_confidence", least_confidence)
    values = class_probabilities(probabilities)
    counts = _counts_at(values, [least_confidence])[0]
    least = max(Fraction(str(least_share)) * len(values), 1)  # of the decimal, not of the float beside it
    enough = [grade for grade, count in enumerate(counts.tolist()) if count >= least]
    return enough[-1] if enough else None


def share_at_confidence(probabilities: ArrayLike, confidences: Sequence[float]) -> NDArray[np.float64]:
    """Share of all tiles that are called each class with at least each confidence: (len(confidences), C).

    The curves from which both thresholds of `highest_grade` can be read. Zeros without a tile.
    """
    values = class_probabilities(probabilities)
    return _counts_at(values, confidences) / max(len(values), 1)


def most_and_least_certain(probabilities: ArrayLike, count: int) -> list[tuple[Ints, Ints]]:
    """Which tiles to look at: for each class, up to `count` of the most and of the least certain called it.

    Returns:
        For each class (most certain, the surest first; least certain, the least sure first), indices of tiles. None is
        in both: where fewer than 2 · count are called a class, the surer half are the most certain. Ties: the earlier.
    """
    values = class_probabilities(probabilities)
    grades, certainty = called(values), values.max(axis=1)
    found = []
    for grade in range(values.shape[1]):
        own = np.flatnonzero(grades == grade)
        surest = own[np.argsort(-certainty[own], kind="stable")]
        most = surest[: min(count, (len(own) + 1) // 2)]
        left = np.sort(surest[len(most) :])
        found.append((most, left[np.argsort(certainty[left], kind="stable")][:count]))
    return found


def merged(probabilities: ArrayLike, groups: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """The probabilities of groups of classes, among these groups: (n, G), rows summing to 1.

    The sum over each group's classes, divided by the sum over all groups; equal shares where that is 0. A model of
    three grades is so scored as GBM against the rest, [[0, 1], [2]], where nothing is left out, and as II against III,
    [[0], [1]], p(III) / (p(II) + p(III)), on the tiles that are one of them in truth (`merged_truth`). Truong 2020,
    Figure 4.

    Raises:
        BadInput: fewer than two groups, an empty one, a class that is not there or is in two groups.
    """
    values = class_probabilities(probabilities).astype(np.float64)
    _check_groups(groups, values.shape[1])
    sums = np.stack([values[:, list(group)].sum(axis=1) for group in groups], axis=1)
    whole = sums.sum(axis=1, keepdims=True)
    return np.where(whole > 0, sums / np.where(whole > 0, whole, 1), 1 / len(groups))


def merged_truth(truth: ArrayLike, groups: Sequence[Sequence[int]]) -> Ints:
    """The group that each true class is in, (n,) as for `merged`; −1 for those in none, which are not to be scored."""
    true = np.asarray(truth)
    group_of = np.full(true.shape, -1, np.int64)
    for number, group in enumerate(groups):
        group_of[np.isin(true, list(group))] = number
    return group_of


def _counts_at(values: Floats, confidences: Sequence[float]) -> Ints:
    """How many tiles are called each class with at least each confidence, (len(confidences), C)."""
    least = np.asarray(confidences, np.float64).astype(values.dtype)  # float32's 0.9 is below float64's
    grades, certainty = called(values), values.max(axis=1)
    found = np.zeros((len(least), values.shape[1]), np.int64)
    for grade in range(values.shape[1]):
        ordered = np.sort(certainty[grades == grade])
        found[:, grade] = len(ordered) - np.searchsorted(ordered, least, side="left")
    return found


def _areas(areas_mm2: ArrayLike, grades: Ints, count: int) -> NDArray[np.float64]:
    areas = np.asarray(areas_mm2, np.float64)
    if areas.shape != grades.shape or not (np.isfinite(areas) & (areas >= 0)).all():
        raise BadInput(f"expected an area in mm² of at least 0 for each of {len(grades)} tiles, got {areas.shape}")
    return np.array([math.fsum(areas[grades == grade].tolist()) for grade in range(count)])


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise BadInput(f"expected {name} in [0, 1], got {value}")


def _check_groups(groups: Sequence[Sequence[int]], count: int) -> None:
    classes = [one for group in groups for one in group]
    if len(groups) < 2 or not all(len(group) for group in groups) or len(set(classes)) < len(classes):
        raise BadInput(f"expected at least two groups of classes, each class in one, got {[list(g) for g in groups]}")
    if not all(0 <= one < count for one in classes):
        raise BadInput(f"expected classes from 0 to {count - 1}, got {sorted(classes)}")
