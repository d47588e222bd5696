"""Comparing graders: repeated runs by a t-test, folds by their spread, an ensemble's members by leaving them out.

References:
    Truong et al. 2020, "Evaluation" (standard t-test between runs that were trained alike) and Figure 3. Student 1908,
    doi:10.1093/biomet/6.1.1; Welch 1947, doi:10.1093/biomet/34.1-2.28. Lerousseau et al. 2020, section 3.2 (the
    worst networks dropped by validation, soft vote of the rest) and 3.3 (ablation). Lo et al. 2019, section 2.5 (mean
    and standard deviation of ten folds).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from digipath.errors import BadInput
from digipath.measure.grading_scores import GradingScores, scores
from digipath.measure.tile_grades import class_probabilities

CONSTANT = 1e-12  # spread of runs, relative to their mean, that is only rounding
ALL, WITHOUT, ALONE = "all", "without", "alone"


@dataclass(frozen=True)
class Comparison:
    """Two ways to train, by a score of their repeated runs.

    Attributes:
        runs, means, standard_deviations: of either; the deviation is that of a sample (n − 1), None of a single run.
        t, degrees, p: Student's two-sided t-test for equal variances; t is positive where the first mean is higher.
        welch_p: of Welch's test, which does not take the variances for equal.
            All four None where either has fewer than 2 runs, or where the runs of both are constant.
    """

    runs: tuple[int, int]
    means: tuple[float, float]
    standard_deviations: tuple[float | None, float | None]
    t: float | None
    degrees: int | None
    p: float | None
    welch_p: float | None

    def to_record(self) -> dict[str, Any]:
        """As JSON."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


@dataclass(frozen=True)
class Spread:
    """One score over the folds of a cross-validation.

    Attributes:
        count: folds that define it. mean: of these, None of none. standard_deviation: that of a sample (n − 1), None of
            fewer than two.
    """

    count: int
    mean: float | None
    standard_deviation: float | None

    def to_record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class AblationRow:
    """Scores of the soft vote of some members.

    Attributes:
        kind: `ALL` members, all `WITHOUT` the group, or the group `ALONE`. group: None for all.
        members: who votes, in their order.
    """

    kind: str
    group: str | None
    members: tuple[str, ...]
    scores: GradingScores

    def to_record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "kind": self.kind,
            "group": self.group,
            "members": list(self.members),
            "scores": self.scores.to_record(),
        }


def compare(a: Sequence[float], b: Sequence[float]) -> Comparison:
    """Compare the scores of repeated runs of two ways to train, as Truong 2020 does.

    Runs that differ in their seeds say how much training varies, not how much the cases do: see
    `digipath.measure.grading_intervals` for these.

    Raises:
        BadInput: no run, or a score that is not finite.
    """
    from scipy.stats import ttest_ind_from_stats  # here: its import takes a second

    runs = [np.asarray(one, np.float64) for one in (a, b)]
    if not all(one.ndim == 1 and one.size and np.isfinite(one).all() for one in runs):
        raise BadInput("expected the scores of at least one run of either, as finite numbers")
    means = [math.fsum(one) / len(one) for one in runs]
    spreads = [float(one.std(ddof=1)) if len(one) > 1 else None for one in runs]
    tests: dict[str, Any] = dict.fromkeys(("t", "degrees", "p", "welch_p"))
    known = [spread for spread in spreads if spread is not None]
    if len(known) == 2 and any(s > CONSTANT * abs(m) for s, m in zip(known, means, strict=True)):
        summary = [part for trio in zip(means, known, map(len, runs), strict=True) for part in trio]
        student = ttest_ind_from_stats(*summary)
        welch = ttest_ind_from_stats(*summary, equal_var=False)
        degrees = len(runs[0]) + len(runs[1]) - 2
        tests = {"t": float(student[0]), "degrees": degrees, "p": float(student[1]), "welch_p": float(welch[1])}
    return Comparison((len(runs[0]), len(runs[1])), (means[0], means[1]), (spreads[0], spreads[1]), **tests)


def across_folds(records: Sequence[Mapping[str, float | None]]) -> dict[str, Spread]:
    """Mean and standard deviation of each score over the folds of a cross-validation.

    A fold that leaves a score undefined, as one without a class does, does not count for it.

    Args:
        records: of each fold, score → value, such as `GradingScores.metrics`; None or absent: undefined.

    Returns:
        Every score that any fold names, in the order in which they first appear.

    Raises:
        BadInput: no fold, or a score that is not finite.
    """
    if not records:
        raise BadInput("expected the scores of at least one fold, got none")
    found = {}
    for name in dict.fromkeys(name for record in records for name in record):
        values = [value for record in records if (value := record.get(name)) is not None]
        if not all(map(math.isfinite, values)):
            raise BadInput(f"expected finite numbers or None as {name} of the folds, got {values}")
        mean = math.fsum(values) / len(values) if values else None
        found[name] = Spread(len(values), mean, float(np.std(values, ddof=1)) if len(values) > 1 else None)
    return found


def ablation(
    member_probabilities: Mapping[str, ArrayLike],
    truth: ArrayLike,
    classes: Sequence[str],
    groups: Mapping[str, str],
    *,
    calls: Mapping[str, ArrayLike] | None = None,
) -> list[AblationRow]:
    """Scores of the soft vote of all members, of all without each group, and of each group alone.

    Args:
        member_probabilities: member → (n, C), the same n tiles, slides or cases throughout.
        truth: (n,) integers. classes: C names.
        groups: member → what it is of, such as its magnification or its modality.
        calls: member → (n,) what it calls where it votes alone, if that is not its most probable class.

    Returns:
        All members first, then for each group in the order of its first member the rows without it and of it alone;
        of a single group, only the row of all.

    Raises:
        BadInput: no member, a member without a group, or as `soft_vote` and `scores`.
    """
    lacking = [name for name in member_probabilities if name not in groups]
    if lacking:
        raise BadInput(f"expected a group for each member, got none for {', '.join(lacking)}")
    everyone = tuple(member_probabilities)
    kinds = list(dict.fromkeys(groups[name] for name in everyone))
    votes: list[tuple[str, str | None, tuple[str, ...]]] = [(ALL, None, everyone)]
    for kind in kinds if len(kinds) > 1 else ():
        votes.append((WITHOUT, kind, tuple(name for name in everyone if groups[name] != kind)))
        votes.append((ALONE, kind, tuple(name for name in everyone if groups[name] == kind)))

    def scored(members: tuple[str, ...]) -> GradingScores:
        alone = calls[members[0]] if calls is not None and len(members) == 1 else None
        return scores(truth, soft_vote([member_probabilities[m] for m in members]), classes, calls=alone)

    return [AblationRow(kind, group, members, scored(members)) for kind, group, members in votes]


def soft_vote(members: Sequence[ArrayLike], weights: Sequence[float] | None = None) -> NDArray[np.float64]:
    """Mean of the members' probabilities, (n, C).

    Args:
        weights: of each member in the mean, ≥ 0, only their proportions count; None: all alike.

    Raises:
        BadInput: no member, shapes that differ, values that are no probabilities, or weights that leave no vote.
    """
    each = [class_probabilities(one).astype(np.float64) for one in members]
    shapes = {one.shape for one in each}
    if len(shapes) != 1:
        raise BadInput(f"expected members with probabilities of one shape, got {sorted(shapes) or 'no member'}")
    if weights is None:
        return np.mean(each, axis=0)
    shares = np.asarray(weights, np.float64)
    if shares.shape != (len(each),) or not (np.isfinite(shares) & (shares >= 0)).all() or not shares.any():
        raise BadInput(f"expected a weight ≥ 0 for each of {len(each)} members, and not all 0, got {list(weights)}")
    return np.average(each, axis=0, weights=shares)


def drop_worst(validation_scores: Mapping[str, float], drop: int) -> list[str]:
    """The members that stay, in their order, once the `drop` with the lowest scores are dropped.

    Of equal ones the earlier stays. Lerousseau et al. 2020 drop 2 of 10.

    Args:
        validation_scores: member → score, the higher the better, on data that the final test does not hold.

    Raises:
        BadInput: a drop below 0 or of all members, or a score that is NaN.
    """
    if not 0 <= drop < len(validation_scores):
        raise BadInput(f"expected to drop 0 to {len(validation_scores) - 1} members, got {drop}")
    if any(math.isnan(score) for score in validation_scores.values()):
        raise BadInput("expected validation scores that are numbers, got NaN")
    best_first = sorted(validation_scores, key=lambda name: validation_scores[name], reverse=True)
    kept = set(best_first[: len(best_first) - drop])
    return [name for name in validation_scores if name in kept]
