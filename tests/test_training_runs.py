"""Which networks learn from which cases: folds are whole, members differ, nothing leaks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from digipath.errors import BadInput
from digipath.scoring import Scoring
from digipath.training.config import CardText, Config, Data, Input, Member, Splitting
from digipath.training.experiment import _final_schedule
from digipath.training.manifest import Manifest, TrainingCase
from digipath.training.plan import Plan
from digipath.training.runs import plan_runs, shipped
from digipath.training.sampling import Sampling
from digipath.training.schedule import Schedule

SCHEDULE = Schedule(epochs=2, steps_per_epoch=3, batch=4)
PATIENCELESS = dataclasses.replace(SCHEDULE, patience=None)


def config(members=1, schedule=SCHEDULE, seed=0, **split):
    return Config(
        data=Data(manifest=Path("cases.csv")),
        input=Input(mpp=0.5),
        members=tuple(Member(f"m{number}", "unet-small") for number in range(members)),
        schedule=schedule,
        card=CardText("mine", "a task"),
        sampling=Sampling(mpp=0.5),
        augmentation=None,
        split=Splitting(**split),
        score=Scoring(),
        seed=seed,
    )


def cases(patients=12, each=2, fold=None):
    """Patients with two slides each, every second with tumour; fold: patient number → fold."""
    return [
        TrainingCase(
            name=f"p{patient}s{slide}", slide=Path(f"p{patient}s{slide}.tiff"), annotation=None, patient=f"p{patient}",
            label="tumour" if patient % 2 else "normal", fold=fold(patient) if fold else None, mpp=None, centre=None,
        )
        for patient in range(patients)
        for slide in range(each)
    ]  # fmt: skip


def names(some):
    return {case.name for case in some}


def parts(run):
    return [run.split.train, run.split.validation, run.split.test]


def assert_apart(run):
    """No patient in two parts."""
    patients = [{case.patient for case in part} for part in parts(run)]
    assert sum(map(len, patients)) == len(set.union(*patients))


def test_single_trains_each_member_once_and_scores_the_test_cases():
    (only,) = plan_runs(cases(), config(members=3, validation=1 / 6, test=1 / 6))
    assert [run.name for run in only.runs] == ["m0", "m1", "m2"]
    assert (only.name, only.unseen) == ("test", True)
    for run in only.runs:
        assert_apart(run)
        assert [len(part) for part in parts(run)] == [16, 4, 4]
        assert run.split.test == only.held_out
    assert len({run.seed for run in only.runs}) == 3


def test_single_without_test_cases_scores_the_validation_cases_and_says_so():
    (only,) = plan_runs(cases(), config(validation=0.25, test=0.0))
    assert (only.name, only.unseen) == ("validation", False)
    assert only.held_out == only.runs[0].split.validation


def test_k_fold_holds_every_case_out_once():
    given = cases()
    rounds = plan_runs(given, config(members=2, kind="k-fold", folds=3))
    assert [round_.name for round_ in rounds] == ["fold0", "fold1", "fold2"]
    assert sorted(case.name for round_ in rounds for case in round_.held_out) == sorted(names(given))
    for round_ in rounds:
        assert [run.member.name for run in round_.runs] == ["m0", "m1"]
        for run in round_.runs:
            assert_apart(run)
            assert names(run.split.train) == names(given) - names(round_.held_out)
    runs = [run for round_ in rounds for run in round_.runs]
    assert len({run.name for run in runs}) == len({run.seed for run in runs}) == 6
    assert shipped(rounds, config(members=2, kind="k-fold", folds=3)) == tuple(runs)


def test_a_fold_is_unseen_only_where_its_loss_stops_nothing():
    (stopped, *_) = plan_runs(cases(), config(kind="k-fold", folds=3))
    assert not stopped.unseen
    assert stopped.runs[0].split.validation == stopped.held_out
    (unstopped, *_) = plan_runs(cases(), config(kind="k-fold", folds=3, schedule=PATIENCELESS))
    assert unstopped.unseen
    assert (unstopped.runs[0].split.validation, unstopped.runs[0].split.test) == ((), unstopped.held_out)


def test_members_with_different_folds_as_in_the_paper():
    settings = config(members=4, kind="k-fold", folds=3, ensemble="one-fold-each")
    rounds = plan_runs(cases(), settings)
    assert [[run.name for run in round_.runs] for round_ in rounds] == [
        ["m0-fold0", "m3-fold0"], ["m1-fold1"], ["m2-fold2"],
    ]  # fmt: skip
    assert [run.name for run in shipped(rounds, settings)] == ["m0-fold0", "m1-fold1", "m2-fold2", "m3-fold0"]


def test_nested_never_shows_the_outer_fold():
    given = cases()
    rounds = plan_runs(given, config(members=3, kind="nested", folds=3, inner=2))
    for round_ in rounds:
        assert round_.unseen
        for run in round_.runs:
            assert_apart(run)
            assert run.split.test == round_.held_out
            assert names(run.split.train) | names(run.split.validation) == names(given) - names(round_.held_out)
        first, second, third = (names(run.split.validation) for run in round_.runs)
        assert first
        assert first.isdisjoint(second)
        assert third == first  # two inner folds for three members


def test_nested_without_inner_folds_trains_on_all_the_rest():
    given = cases()
    rounds = plan_runs(given, config(members=2, kind="nested", folds=4, inner=0))
    assert len(rounds) == 4
    for round_ in rounds:
        for run in round_.runs:
            assert run.split.validation == ()
            assert names(run.split.train) == names(given) - names(round_.held_out)


def test_nested_ships_one_fold_each_or_all_or_members_trained_anew():
    for ensemble, expected in (
        ("one-fold-each", ["m0-fold0", "m1-fold1"]),
        ("all", ["m0-fold0", "m1-fold0", "m0-fold1", "m1-fold1"]),
        ("final", ["m0-final", "m1-final"]),
    ):
        settings = config(members=2, kind="nested", folds=2, ensemble=ensemble)
        rounds = plan_runs(cases(), settings)
        assert [run.name for run in shipped(rounds, settings)] == expected
        assert len(rounds) == (3 if ensemble == "final" else 2)
    assert (len(rounds[-1].runs[0].split.train), rounds[-1].held_out) == (24, ())


def test_the_manifests_own_folds_come_first_and_inner_ones_are_drawn():
    given = cases(fold=lambda patient: str(patient % 3))
    rounds = plan_runs(given, config(kind="nested", folds=3, inner=2))
    assert [{int(case.patient[1:]) % 3 for case in round_.held_out} for round_ in rounds] == [{0}, {1}, {2}]
    for round_ in rounds:
        assert len({case.fold for case in round_.runs[0].split.validation}) == 2


def test_the_split_has_a_seed_of_its_own():
    settings = config(kind="k-fold", folds=3)

    def plan(**changes):
        rounds = plan_runs(cases(), dataclasses.replace(settings, **changes))
        return [names(round_.held_out) for round_ in rounds], {round_.runs[0].seed for round_ in rounds}

    ours, seeds = plan()
    assert plan() == (ours, seeds)
    same, others = plan(seed=5)
    assert same == ours
    assert others.isdisjoint(seeds)
    assert plan(split=Splitting("k-fold", folds=3, seed=1))[0] != ours


def test_the_last_round_is_as_long_as_was_best_on_average():
    settings = config(kind="k-fold", folds=2, ensemble="final")
    rounds = plan_runs(cases(), settings)
    plan = Plan(settings, Manifest(Path("cases.csv"), (), ("normal", "tumour"), ""), rounds, {})
    records = {"m0-fold0": {"best_epoch": 5}, "m0-fold1": {"best_epoch": 2}}
    assert _final_schedule(plan, rounds[-1].runs[0], records) == dataclasses.replace(SCHEDULE, epochs=4)
    plan = dataclasses.replace(plan, config=dataclasses.replace(settings, schedule=PATIENCELESS))
    plan = dataclasses.replace(plan, rounds=plan_runs(cases(), plan.config))
    assert _final_schedule(plan, plan.rounds[-1].runs[0], {}) == PATIENCELESS  # no loss chose an epoch


def test_two_runs_of_one_name_are_refused():
    """Member m0's last round would be called like member m0-final."""
    settings = config(members=2, ensemble="final")
    members = (settings.members[0], dataclasses.replace(settings.members[1], name="m0-final"))
    with pytest.raises(BadInput, match="two runs are called m0-final"):
        plan_runs(cases(), dataclasses.replace(settings, members=members))


def test_too_few_patients_are_refused():
    with pytest.raises(BadInput):
        plan_runs(cases(patients=2), config(kind="k-fold", folds=3))
    with pytest.raises(BadInput):
        plan_runs(cases(patients=2), config(kind="nested", folds=2, inner=2))


def test_a_patient_in_two_folds_of_the_manifest_is_refused():
    given = cases(fold=lambda patient: str(patient % 3))
    leaky = [dataclasses.replace(case, fold="0") if case.name == "p1s0" else case for case in given]
    with pytest.raises(BadInput, match="p1"):
        plan_runs(leaky, config(kind="k-fold", folds=3))
