"""The plan of a training: which network learns from which cases, and which cases score it.

A round is a set of held-out cases and the networks trained without them; its scores are those of
these networks and of the mean of their probabilities. Cases are always parted by patient.

single    one round: validation cases stop the training, test cases score it.
k-fold    a round per fold: its networks learn from the other folds and the fold scores them. A
          schedule with patience also validates on the fold: its loss chose the weights, and the
          cards say so; without patience nothing in training sees the fold, and the weights of the
          last epoch are kept. With ensemble = "one-fold-each" member i is trained without fold i
          modulo the number of folds, and no other (Khened 2021, "Training": "with different
          cross-validation folds").
nested    a round per outer fold, which nothing in training sees. The other folds are parted anew:
          member i validates on inner fold i modulo `inner`; with inner = 0 they all train, nothing
          validates, and the weights of the last epoch are kept.

With ensemble = "final" a last round trains each member once more on all cases; no case is left to
score it, so its cards quote the networks of the other rounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from digipath.errors import BadInput
from digipath.training.config import Config, Member
from digipath.training.manifest import TrainingCase
from digipath.training.splits import Split, assert_no_leak, holdout, k_folds

FINAL = "final"


@dataclass(frozen=True)
class Run:
    """One network to train: `name` is its folder's, `seed` begins its draws."""

    name: str
    member: Member
    split: Split[TrainingCase]
    seed: int


@dataclass(frozen=True)
class Round:
    """Networks that hold out the same cases.

    unseen: nothing in training saw the held-out cases; else their loss chose when to stop.
    """

    name: str
    held_out: tuple[TrainingCase, ...]
    runs: tuple[Run, ...]
    unseen: bool


def plan_runs(cases: Sequence[TrainingCase], config: Config) -> tuple[Round, ...]:
    """The rounds of a training, in the order in which they are run.

    Raises:
        BadInput: fewer patients than folds, a part without cases, a patient in two parts of a
            manifest's own folds, or two runs of one name.
    """
    kinds = {"single": _single, "k-fold": _k_fold, "nested": _nested}
    rounds = kinds[config.split.kind](tuple(cases), config)
    if config.split.ensemble == FINAL:
        everything = Split(FINAL, tuple(cases), (), ())
        runs = tuple(_run(config, index, everything, len(rounds)) for index in range(len(config.members)))
        rounds = (*rounds, Round(FINAL, (), runs, unseen=True))
    (name, count), *_ = Counter(run.name for round_ in rounds for run in round_.runs).most_common(1)
    if count > 1:
        raise BadInput(f"expected members whose names do not end like their rounds, two runs are called {name}")
    for round_ in rounds:
        for run in round_.runs:
            _check(run)
    return rounds


def shipped(rounds: Sequence[Round], config: Config) -> tuple[Run, ...]:
    """The runs whose networks make the ensemble that is shipped; one alone is shipped as it is."""
    if config.split.ensemble == FINAL:
        return rounds[-1].runs
    if config.split.ensemble == "all":
        return tuple(run for round_ in rounds for run in round_.runs)
    places = ((member, rounds[index % len(rounds)]) for index, member in enumerate(config.members))
    return tuple(next(run for run in round_.runs if run.member == member) for member, round_ in places)


def _single(cases: tuple[TrainingCase, ...], config: Config) -> tuple[Round, ...]:
    split = holdout(cases, validation=config.split.validation, test=config.split.test, seed=config.split.seed)
    runs = tuple(_run(config, index, split, 0) for index in range(len(config.members)))
    held_out = split.test or split.validation
    return (Round("test" if split.test else "validation", held_out, runs, unseen=bool(split.test)),)


def _k_fold(cases: tuple[TrainingCase, ...], config: Config) -> tuple[Round, ...]:
    rounds = []
    each = config.split.ensemble == "one-fold-each"
    for number, (rest, fold) in enumerate(_folds(cases, config.split.folds, config.split.seed)):
        name = f"fold{number}"
        seen, unseen = Split(name, rest, fold, ()), Split(name, rest, (), fold)
        runs = tuple(
            _run(config, index, unseen if config.schedule_of(member).patience is None else seen, number)
            for index, member in enumerate(config.members)
            if not each or index % config.split.folds == number
        )
        rounds.append(Round(name, fold, runs, unseen=all(run.split == unseen for run in runs)))
    return tuple(round_ for round_ in rounds if round_.runs)


def _nested(cases: tuple[TrainingCase, ...], config: Config) -> tuple[Round, ...]:
    rounds = []
    for number, (rest, fold) in enumerate(_folds(cases, config.split.folds, config.split.seed)):
        name, inner = f"fold{number}", config.split.inner
        parted = _folds(rest, inner, config.split.seed + 1 + number, own=False) if inner else [(rest, ())]
        splits = [Split(name, train, validation, fold) for train, validation in parted]
        runs = tuple(
            _run(config, index, splits[index % len(splits)], number) for index in range(len(config.members))
        )
        rounds.append(Round(name, fold, runs, unseen=True))
    return tuple(rounds)


def _folds(
    cases: Sequence[TrainingCase], folds: int, seed: int, *, own: bool = True
) -> Iterator[tuple[tuple[TrainingCase, ...], tuple[TrainingCase, ...]]]:
    """(the other cases, the fold) for each fold; `own`: a manifest's own folds are used where it has them."""
    given = {case.name: case for case in cases}
    parted = k_folds(cases if own else [replace(case, fold=None) for case in cases], folds, seed=seed)
    for fold in parted:
        names = {case.name for case in fold}
        yield tuple(case for case in cases if case.name not in names), tuple(given[case.name] for case in fold)


def _run(config: Config, index: int, split: Split[TrainingCase], number: int) -> Run:
    """Member `index` on a split, with a seed that no other run of this training has."""
    member = config.members[index]
    suffix = "" if config.split.kind == "single" and split.name != FINAL else f"-{split.name}"
    return Run(member.name + suffix, member, split, config.seed * 1_000_000 + index * 1_000 + number)


def _check(run: Run) -> None:
    if not run.split.train:
        raise BadInput(f"{run.name} has no case to train on; take fewer folds or smaller shares")
    assert_no_leak(run.split)
