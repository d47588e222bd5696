"""Splits of cases: by patient, stratified by label, and the same for the same seed.

Strata are the labels, and within them what the manifest says of the kind of case; cases without label are
parted by whether they have a lesion. Each part must hold a case of every label, and one with a lesion: what
a part lacks can neither be learned from it nor scored on it.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from digipath.errors import BadInput
from digipath.training.cases import PARTS, PatientCase

C = TypeVar("C", bound=PatientCase)
TRIES = 20  # shuffles; the greedy folds miss a rare label now and then where others hold it


@dataclass(frozen=True)
class Split(Generic[C]):
    """Cases by what they are for; `name` tells a split from others of the same training."""

    name: str
    train: tuple[C, ...]
    validation: tuple[C, ...]
    test: tuple[C, ...]


def k_folds(cases: Sequence[C], folds: int, *, seed: int) -> tuple[tuple[C, ...], ...]:
    """The cases in `folds` parts, each case in exactly one, each patient's together.

    Where every case has a numbered fold these are the parts, in the order of their numbers; else
    they are drawn: scikit-learn's StratifiedGroupKFold, shuffled by `seed`; the order of `cases`
    does not matter.

    Raises BadInput: fewer than 2 folds or fewer patients than folds, a label that a part would
    lack, numbered folds of another count, folds that are train, validation and test.
    """
    if folds < 2:
        raise BadInput(f"expected 2 folds or more, received {folds}")
    given = _given(cases)
    if given:
        if given & set(PARTS):
            raise BadInput(f"expected numbered folds to cross-validate, received {sorted(given)}; take a single split")
        if len(given) != folds:
            raise BadInput(f"expected {folds} folds, the manifest's column fold numbers {len(given)}; ask for as many")
        parts = {f"fold {fold}": _of_fold(cases, fold) for fold in sorted(given, key=int)}
        _check_parts(parts, cases)
        return tuple(parts.values())
    _enough_patients(cases, folds)
    for attempt in range(TRIES):
        parts = {f"fold {index}": part for index, part in enumerate(_drawn_folds(cases, folds, (seed, attempt)))}
        if not _lacking(parts, cases):
            break
    _check_parts(parts, cases)
    return tuple(parts.values())


def holdout(cases: Sequence[C], *, validation: float, test: float, seed: int) -> Split[C]:
    """One split: shares of the patients of every label for validation and test, the rest to train.

    Where every case has a fold train, validation or test, these are the parts and the shares are
    not used. A share above 0 takes at least one patient of each label, 0 none.

    Raises BadInput: shares that leave nothing, too few patients of a label, numbered folds.
    """
    given = _given(cases)
    if given:
        if not given <= set(PARTS):
            raise BadInput(
                "expected folds train, validation and test for one split, the manifest numbers them; "
                "cross-validate, or leave the column fold out"
            )
        parts = {part: _of_fold(cases, part) for part in PARTS}
    else:
        if not (validation >= 0 and test >= 0 and validation + test < 1):
            raise BadInput(f"expected shares from 0 that leave some to train, received {validation} and {test}")
        homes = _dealt(cases, {"validation": validation, "test": test}, seed)
        parts = {part: tuple(case for case in cases if homes[case.patient] == part) for part in PARTS}
    _check_parts({part: of for part, of in parts.items() if of or part == "train"}, cases)
    split = Split("holdout", *(parts[part] for part in PARTS))
    assert_no_leak(split)
    return split


def assert_no_leak(split: Split[C]) -> None:
    """Raise BadInput, naming the patient or file, if one is in two parts of a split."""
    patients: dict[str, str] = {}
    files: dict[str, str] = {}
    for part in PARTS:
        for case in getattr(split, part):
            own = [("patient", case.patient, patients), *(("file", str(file.resolve()), files) for file in case.files)]
            for what, value, homes in own:
                home = homes.setdefault(value, part)
                if home != part:
                    raise BadInput(
                        f"expected {what} {value!r} in one part of the split {split.name!r}, found in {home} and "
                        f"in {part} (case {case.name!r}); what is trained on may not be scored"
                    )


def _given(cases: Sequence[PatientCase]) -> set[str]:
    """The manifest's own folds, none if it has none."""
    if not cases:
        raise BadInput("expected cases to split, received none")
    without = [case.name for case in cases if case.fold is None]
    if without:
        if len(without) < len(cases):
            raise BadInput(f"expected a fold for every case or for none, {', '.join(without[:3])} have none")
        return set()
    homes: dict[str, str | None] = {}
    for case in cases:
        if homes.setdefault(case.patient, case.fold) != case.fold:
            raise BadInput(
                f"expected patient {case.patient!r} in one fold, received {homes[case.patient]!r} and "
                f"{case.fold!r} (case {case.name!r})"
            )
    return {case.fold for case in cases if case.fold is not None}


def _of_fold(cases: Sequence[C], fold: str) -> tuple[C, ...]:
    return tuple(case for case in cases if case.fold == fold)


def _label(case: PatientCase) -> str:
    return case.label or ("with lesions" if case.ill else "without")


def _stratum(case: PatientCase) -> str:
    return _label(case) if case.stratum is None else f"{_label(case)}, {case.stratum}"


def _drawn_folds(cases: Sequence[C], folds: int, seed: tuple[int, int]) -> list[tuple[C, ...]]:
    ordered = sorted(cases, key=lambda case: (case.name, [str(file) for file in case.files]))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=np.random.RandomState(seed))
    strata, patients = [_stratum(case) for case in ordered], [case.patient for case in ordered]
    if max(Counter(strata).values()) < folds:  # scikit-learn refuses strata that are all smaller than that
        strata = [_label(case) for case in ordered]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a rare stratum; what matters is refused in our own words
        parts = [{ordered[index] for index in held} for _, held in splitter.split(ordered, strata, patients)]
    return [tuple(case for case in cases if case in part) for part in parts]


def _dealt(cases: Sequence[PatientCase], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """The part of every patient: each stratum's patients, shuffled, by the shares; train is served first.

    A patient with cases of several strata counts as one of the rarest of them.
    """
    frequency = Counter(_stratum(case) for case in cases)
    strata: dict[str, str] = {}
    for case in sorted(cases, key=lambda case: (-frequency[_stratum(case)], _stratum(case))):
        strata[case.patient] = _stratum(case)
    rng = np.random.default_rng(seed)
    homes = dict.fromkeys(strata, "train")
    for stratum in sorted(frequency):
        left = rng.permutation(sorted(patient for patient, own in strata.items() if own == stratum)).tolist()
        counts = {part: max(1, round(share * len(left))) for part, share in shares.items() if share > 0}
        for part, count in counts.items():
            taken = left[: min(count, len(left) - 1)]
            left = left[len(taken) :]
            homes.update(dict.fromkeys(taken, part))
    return homes


def _needed(cases: Sequence[C]) -> dict[str, set[C]]:
    """What every part must hold, in words, and the cases that have it."""
    needed = {f"label {label!r}": {case for case in cases if case.label == label} for label in _labels(cases)}
    ill = {case for case in cases if case.ill}
    return {**needed, "a lesion": ill} if ill else needed


def _labels(cases: Sequence[PatientCase]) -> list[str]:
    return sorted({case.label for case in cases if case.label is not None})


def _enough_patients(cases: Sequence[PatientCase], folds: int) -> None:
    for what, having in {"any case": set(cases), **_needed(cases)}.items():
        patients = {case.patient for case in having}
        if len(patients) < folds:
            raise BadInput(
                f"expected at least {folds} patients with {what} for {folds} folds, found {len(patients)}; "
                "take fewer folds or add cases"
            )


def _lacking(parts: Mapping[str, tuple[C, ...]], cases: Sequence[C]) -> list[tuple[str, str, set[C]]]:
    """(part, what it lacks, the cases that have it)"""
    return [
        (name, what, having)
        for what, having in _needed(cases).items()
        for name, part in parts.items()
        if not having & set(part)
    ]


def _check_parts(parts: Mapping[str, tuple[C, ...]], cases: Sequence[C]) -> None:
    for name, what, having in _lacking(parts, cases):
        patients = {case.patient for case in having}
        raise BadInput(
            f"expected cases with {what} in every part, {name} has none of those of {len(patients)} patients; "
            "take fewer or larger parts, add cases, or assign them in the column fold"
        )
