"""Splits by patient: every case once, no patient twice, every label in every part."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from digipath.errors import BadInput
from digipath.training.manifest import TrainingCase
from digipath.training.splits import Split, assert_no_leak, holdout, k_folds


def case(name, patient, label=None, fold=None, annotated=None):
    annotated = label == "tumour" if annotated is None else annotated
    return TrainingCase(
        name, Path(f"{name}.svs"), Path(f"{name}.xml") if annotated else None, patient, label, fold, None, None
    )


def cohort(patients=30, slides=(1, 4), tumour=0.4, seed=0):
    """Patients with some slides each, of which a share has tumour."""
    rng = np.random.default_rng(seed)
    return [
        case(f"{patient}-{i}", f"p{patient}", "tumour" if rng.random() < tumour else "normal")
        for patient in range(patients)
        for i in range(rng.integers(*slides))
    ]


def part_by_patient(parts):
    homes = {}
    for index, part in enumerate(parts):
        for each in part:
            homes.setdefault(each.patient, set()).add(index)
    return homes


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_hold_every_case_once_and_every_patient_whole(folds, seed):
    cases = cohort(seed=seed)
    parts = k_folds(cases, folds, seed=seed)
    assert len(parts) == folds
    assert Counter(each.name for part in parts for each in part) == Counter(each.name for each in cases)
    assert all(len(home) == 1 for home in part_by_patient(parts).values())
    share = np.mean([each.label == "tumour" for each in cases])
    for part in parts:
        assert abs(np.mean([each.label == "tumour" for each in part]) - share) < 0.25
        assert len(part) == pytest.approx(len(cases) / folds, rel=0.5)


def test_folds_depend_on_the_seed_and_not_on_the_order():
    cases = cohort()
    folds = [frozenset(part) for part in k_folds(cases, 3, seed=7)]
    assert [frozenset(part) for part in k_folds(cases[::-1], 3, seed=7)] == folds
    assert len({frozenset(frozenset(part) for part in k_folds(cases, 3, seed=seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize("seed", range(10))
def test_a_label_with_just_enough_patients_is_in_every_fold(seed):
    cases = [case(f"t{i}", f"t{i}", "tumour") for i in range(30)] + [case(f"n{i}", f"n{i}", "normal") for i in range(3)]
    for part in k_folds(cases, 3, seed=seed):
        assert Counter(each.label for each in part)["normal"] == 1


@pytest.mark.parametrize("seed", range(6))
def test_folds_are_drawn_again_where_the_greedy_ones_miss_a_label(seed):
    """scikit-learn's first draw leaves a fold without a label for the seeds 1, 2 and 4."""
    cases = [
        case(f"{patient}-{i}", f"p{patient}", "rare" if patient < 3 and i == 0 else "ab"[(patient + i) % 3 == 0])
        for patient, count in enumerate([3, 2, 6, 8, 9])
        for i in range(count)
    ]
    assert all("rare" in {each.label for each in part} for part in k_folds(cases, 3, seed=seed))


def test_a_label_with_too_few_patients_is_refused_by_name():
    cases = [case(f"t{i}", f"t{i}", "tumour") for i in range(9)] + [case(f"n{i}", "same", "normal") for i in range(9)]
    with pytest.raises(BadInput, match="at least 3 patients with label 'normal' for 3 folds, found 1"):
        k_folds(cases, 3, seed=0)
    with pytest.raises(BadInput, match="at least 5 patients with any case"):
        k_folds(cohort(4), 5, seed=0)
    with pytest.raises(BadInput, match="label 'normal' in every part"):
        holdout(cases, validation=0.2, test=0.2, seed=0)
    with pytest.raises(BadInput, match="2 folds or more"):
        k_folds(cases, 1, seed=0)
    for nothing in (lambda: k_folds([], 2, seed=0), lambda: holdout([], validation=0.1, test=0, seed=0)):
        with pytest.raises(BadInput, match="received none"):
            nothing()


def test_unlabelled_cases_are_parted_by_their_annotation():
    cases = [case(f"{i}", f"{i}", annotated=i < 6) for i in range(30)]
    for part in k_folds(cases, 3, seed=0):
        assert sum(each.annotation is not None for each in part) == 2
    split = holdout(cases, validation=0.2, test=0.2, seed=0)
    for part, expected in ((split.train, 4), (split.validation, 1), (split.test, 1)):
        assert sum(each.annotation is not None for each in part) == expected
    # one odd case among annotated ones is no class of its own
    k_folds([case(f"{i}", f"{i}", annotated=i > 0) for i in range(32)], 3, seed=0)


def test_a_mask_without_lesion_is_no_lesion():
    """Every case has a mask; a part whose masks are all empty could not be learned from."""
    cases = [replace(case(f"{i}", f"{i}", annotated=True), has_lesion=i < 3) for i in range(12)]
    for part in k_folds(cases, 3, seed=0):
        assert sum(each.has_lesion for each in part) == 1
    with pytest.raises(BadInput, match="at least 4 patients with a lesion"):
        k_folds(cases, 4, seed=0)
    own = [replace(each, fold="train" if i > 3 else "test") for i, each in enumerate(cases)]
    with pytest.raises(BadInput, match="cases with a lesion in every part, train has none"):
        holdout(own, validation=0, test=0.2, seed=0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("validation", "test"), [(0.2, 0.2), (0.1, 0.0), (0.0, 0.3), (0.15, 0.25)])
def test_a_holdout_takes_its_shares_of_every_label(validation, test, seed):
    cases = cohort(60, (1, 2), seed=seed)
    split = holdout(cases, validation=validation, test=test, seed=seed)
    parts = (split.train, split.validation, split.test)
    assert Counter(each.name for part in parts for each in part) == Counter(each.name for each in cases)
    assert all(len(home) == 1 for home in part_by_patient(parts).values())
    for label in ("tumour", "normal"):
        whole = sum(each.label == label for each in cases)
        for part, share in ((split.validation, validation), (split.test, test)):
            assert sum(each.label == label for each in part) == pytest.approx(whole * share, abs=0.51)


@pytest.mark.parametrize("seed", range(8))
def test_few_patients_of_a_label_reach_every_part(seed):
    cases = [case(f"t{i}", f"t{i}", "tumour") for i in range(40)] + [case(f"n{i}", f"n{i}", "normal") for i in range(3)]
    split = holdout(cases, validation=0.1, test=0.1, seed=seed)
    for part in (split.train, split.validation, split.test):
        assert sum(each.label == "normal" for each in part) == 1
    assert holdout(cases[::-1], validation=0.1, test=0.1, seed=seed).test[::-1] == split.test


def test_patients_with_slides_of_both_labels_stay_whole():
    cases = [case(f"{p}-{i}", f"p{p}", "tumour" if i == 0 and p < 9 else "normal") for p in range(20) for i in range(5)]
    for seed in range(5):
        split = holdout(cases, validation=0.2, test=0.2, seed=seed)
        parts = (split.train, split.validation, split.test)
        assert [len({each.patient for each in part}) for part in parts] == [12, 4, 4]
        assert {each.label for each in split.test} == {"tumour", "normal"}
        assert_no_leak(split)


@pytest.mark.parametrize("shares", [(-0.1, 0.2), (0.5, 0.5), (0.2, 0.9), (float("nan"), 0.1)])
def test_shares_that_cannot_be_are_refused(shares):
    with pytest.raises(BadInput, match="shares"):
        holdout(cohort(), validation=shares[0], test=shares[1], seed=0)


def test_the_manifests_own_folds_are_used():
    cases = [replace(each, fold=str(int(each.patient[1:]) % 3 + 8)) for each in cohort()]
    parts = k_folds(cases, 3, seed=0)
    assert [{each.fold for each in part} for part in parts] == [{"8"}, {"9"}, {"10"}]
    assert sum(map(len, parts)) == len(cases)
    with pytest.raises(BadInput, match=r"expected 4 folds.*numbers 3"):
        k_folds(cases, 4, seed=0)
    with pytest.raises(BadInput, match="numbers them; cross-validate"):
        holdout(cases, validation=0.2, test=0.2, seed=0)

    named = [replace(each, fold=("train", "validation", "test")[int(each.patient[1:]) % 3]) for each in cases]
    split = holdout(named, validation=0.01, test=0.01, seed=0)
    for part in ("train", "validation", "test"):
        assert {each.fold for each in getattr(split, part)} == {part}
    with pytest.raises(BadInput, match="numbered folds"):
        k_folds(named, 3, seed=0)


def test_own_folds_that_leak_or_lack_a_label_are_refused():
    cases = [case("a", "p1", "tumour", "0"), case("b", "p1", "tumour", "1")]
    with pytest.raises(BadInput, match=r"patient 'p1' in one fold.*case 'b'"):
        k_folds(cases, 2, seed=0)
    cases = [case("a", "p1", "tumour", "0"), case("b", "p2", "normal", "1")]
    with pytest.raises(BadInput, match="label 'normal' in every part, fold 0 has none"):
        k_folds(cases, 2, seed=0)
    with pytest.raises(BadInput, match="every case or for none, a have none"):
        k_folds([replace(cases[0], fold=None), cases[1]], 2, seed=0)
    with pytest.raises(BadInput, match="label 'tumour' in every part, train has none"):
        holdout([case("a", "p1", "tumour", "test")], validation=0, test=0, seed=0)


def test_a_patient_or_slide_in_two_parts_is_a_leak():
    a, b, c = case("a", "p1"), case("b", "p2"), case("c", "p1")
    assert_no_leak(Split("s", (a, c), (b,), ()))
    with pytest.raises(BadInput, match=r"patient 'p1' in one part.*found in train and in test \(case 'c'\)"):
        assert_no_leak(Split("s", (a,), (b,), (c,)))
    again = replace(b, name="again", slide=Path("sub/../a.svs"))
    with pytest.raises(BadInput, match=r"file '.*a\.svs' in one part"):
        assert_no_leak(Split("s", (a,), (again,), ()))
