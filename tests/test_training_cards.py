"""Cards of trained networks: they fit the schema, and say how their scores came about."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from digipath.measure.confusion import Confusion
from digipath.scoring import CaseScore, Scoring
from digipath.stain import REFERENCES
from digipath.training import results
from digipath.training.cards import (
    calibration_record,
    card_name,
    ensemble_card,
    network_card,
    own_metrics,
    pooled_metrics,
)
from digipath.training.config import CardText, Config, Data, Input, Member, Splitting
from digipath.training.manifest import Manifest, TrainingCase
from digipath.training.runs import plan_runs
from digipath.training.sampling import Sampling
from digipath.training.schedule import Schedule
from digipath.values import Coverage
from digipath.weights import load_card

SCHEDULE = Schedule(epochs=2, steps_per_epoch=3, batch=4)
CASES = tuple(TrainingCase(f"case{n}", Path(f"{n}.tiff"), None, f"patient{n}") for n in range(6))
MANIFEST = Manifest(Path("cases.csv"), CASES, ("normal", "tumour"), "ab" * 32)
TRAINED = {
    "multiple": 32, "bytes": 1234, "sha256": "cd" * 32,
    "epochs": 2, "best_epoch": 1, "stopped": "patience", "minutes": 0.5,
    "encoder": {"name": "imagenet-densenet121", "sha256": "ef" * 32}, "versions": {"keras": "3"},
    "schedule": dataclasses.asdict(SCHEDULE),
}  # fmt: skip


def config(members=2, *, patience=3, stain=None, activation="sigmoid", **split):
    head = {"classes": 1 if activation == "sigmoid" else 2, "activation": activation}
    return Config(
        data=Data(manifest=Path("cases.csv")),
        input=Input(mpp=0.5, stain=stain),
        members=tuple(Member(f"m{number}", "unet-small", head) for number in range(members)),
        schedule=dataclasses.replace(SCHEDULE, patience=patience),
        card=CardText("mine-v1", "tumour segmentation", licence="CC0-1.0", limits=("Only a test.",)),
        sampling=Sampling(mpp=0.5),
        augmentation=None,
        split=Splitting(**split),
        score=Scoring(),
    )


def counted(right, wrong, missed):
    """Counts of `right` true positives, `wrong` false positives, `missed` false negatives, 10 true negatives."""
    truth = [True] * (right + missed) + [False] * (wrong + 10)
    called = [True] * right + [False] * missed + [True] * wrong + [False] * 10
    return Confusion.of(np.array(truth), np.array(called, float), 0.5)


def scores_of(rounds, *networks):
    """Every case of every round scored alike: `networks` by place, their mean as the first of them."""
    return {
        round_.name: [CaseScore(case.name, networks, networks[0], Coverage(), 0) for case in round_.held_out]
        for round_ in rounds
    }


def checked(record, tmp_path):
    """As the rest of digipath reads it."""
    path = tmp_path / f"{record['name']}.json"
    path.write_text(json.dumps(record))
    return load_card(str(path)).record


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_a_network_card_fits_the_schema_and_names_its_data(tmp_path, activation):
    settings = config(activation=activation, kind="k-fold", folds=3, stain="macenko")
    rounds = plan_runs(CASES, settings)
    run = rounds[1].runs[0]
    scores = results.gather(rounds, scores_of(rounds, counted(3, 1, 2), counted(5, 0, 0)))
    metrics = own_metrics(scores["m0"], rounds[1], settings, MANIFEST)
    record = checked(network_card("mine-v1-m0-fold1", run, TRAINED, settings, MANIFEST, metrics=metrics), tmp_path)
    assert (record["name"], record["file"]) == ("mine-v1-m0-fold1", "mine-v1-m0-fold1.weights.h5")
    assert record["network"]["config"]["activation"] == record["activation"] == activation
    assert record["input"]["stain"] == json.loads(json.dumps(REFERENCES["macenko"].to_record()))
    training = record["training"]
    assert training["data"] == f"6 cases of 6 patients; manifest cases.csv, sha256 {'ab' * 32}"
    assert training["split"].endswith("fold1: trained on 4 cases of 4 patients, validated on 2 cases of 2 patients")
    assert (training["encoder"]["name"], training["minutes"], training["seed"]) == ("imagenet-densenet121", 0.5, 1)
    assert training["settings"]["schedule"]["batch"] == 4
    assert record["limits"][0] == "Only a test."
    dice = next(metric for metric in record["metrics"] if metric["name"] == "dice, pooled pixels")
    assert dice["value"] == pytest.approx(2 * 3 / (5 + 4), abs=1e-4)
    assert "their loss chose when training stopped" in dice["split"]
    assert dice["data"].startswith("2 cases of 2 patients of cases.csv; positive from a probability of 0.5")


def test_an_unseen_fold_says_so():
    settings = config(patience=None, kind="k-fold", folds=3)
    rounds = plan_runs(CASES, settings)
    scores = results.gather(rounds, scores_of(rounds, counted(3, 1, 2), counted(5, 0, 0)))
    (metric, *_) = own_metrics(scores["m0"], rounds[0], settings, MANIFEST)
    assert "nothing in training saw" in metric["split"]


def test_an_ensemble_card_quotes_itself_first_and_its_members_after(tmp_path):
    settings = config(kind="nested", folds=3, ensemble="one-fold-each")
    rounds = plan_runs(CASES, settings)
    scores = results.gather(rounds, scores_of(rounds, counted(3, 1, 2), counted(5, 0, 0)))
    metrics = [
        metric
        for subject, label in (("ensemble", None), ("m0", "m0"))
        for metric in pooled_metrics(scores[subject], rounds, settings, MANIFEST, label=label)
    ]
    members = {"mine-v1-m0-fold0": rounds[0].runs[0], "mine-v1-m1-fold1": rounds[1].runs[1]}
    record = checked(ensemble_card(members, settings, MANIFEST, metrics=metrics), tmp_path)
    assert (record["name"], record["members"]) == (card_name(settings), list(members))
    names = [metric["name"] for metric in record["metrics"]]
    assert names.index("dice, pooled pixels") < names.index("dice, pooled pixels (m0)")
    first = record["metrics"][0]
    assert first["spread"] == 0.0
    assert first["data"].startswith("6 cases of 6 patients")
    assert "the ensemble of the members trained without it" in first["split"]
    assert "has seen every part" in first["split"]


def test_spread_is_over_rounds_and_pooling_over_cases():
    settings = config(members=1, kind="k-fold", folds=3)
    rounds = plan_runs(CASES, settings)
    counts = [counted(1, 0, 0), counted(1, 1, 0), counted(1, 0, 2)]  # Dice 1, 2/3, 1/2
    scored = {
        round_.name: [CaseScore(case.name, (one,), one, Coverage(), 0) for case in round_.held_out]
        for round_, one in zip(rounds, counts, strict=True)
    }
    score = results.gather(rounds, scored)["m0"]
    assert [score.rounds[round_.name]["pooled_dice"] for round_ in rounds] == pytest.approx([1, 2 / 3, 1 / 2])
    assert score.spread["pooled_dice"] == pytest.approx(np.std([1, 2 / 3, 1 / 2]))
    assert score.pooled["pooled_dice"] == pytest.approx(2 * 3 / (5 + 4))
    assert score.pooled["count"] == 6
    assert "ensemble" not in results.gather(rounds, scored)
    assert results.verdict({"m0": score}) is None


def test_centres_are_scored_apart_where_there_are_several():
    """Cases 0 to 3 of one centre have Dice 1 each, 4 and 5 of another 1/2."""
    settings = config(members=1, kind="k-fold", folds=3)
    cases = tuple(
        dataclasses.replace(case, centre="A" if n < 4 else "B", fold=str(n // 2)) for n, case in enumerate(CASES)
    )
    manifest = dataclasses.replace(MANIFEST, cases=cases)
    rounds = plan_runs(cases, settings)
    good, bad = counted(1, 0, 0), counted(1, 0, 2)
    counts = {case.name: good if case.centre == "A" else bad for case in cases}
    scored = {
        round_.name: [
            CaseScore(case.name, (counts[case.name],), counts[case.name], Coverage(), 0) for case in round_.held_out
        ]
        for round_ in rounds
    }
    score = results.gather(rounds, scored)["m0"]
    assert {centre: numbers["pooled_dice"] for centre, numbers in score.centres.items()} == {"A": 1.0, "B": 0.5}
    assert score.pooled["pooled_dice"] == pytest.approx(2 * 6 / (6 + 10))
    metrics = pooled_metrics(score, rounds, settings, manifest)
    dice = {metric["data"][:8]: metric["value"] for metric in metrics if metric["name"] == "dice, pooled pixels"}
    assert dice == {"6 cases ": 0.75, "centre A": 1.0, "centre B": 0.5}
    assert [line.split(" | ")[:2] for line in results.score_table({"m0": score}).splitlines()[2:]] == [
        ["| m0", "6"], ["| m0, A", "4"], ["| m0, B", "2"],
    ]  # fmt: skip


def test_members_of_different_folds_have_no_ensemble_to_score():
    settings = config(members=2, kind="k-fold", folds=3, ensemble="one-fold-each")
    rounds = plan_runs(CASES, settings)
    scores = results.gather(rounds, scores_of(rounds, counted(3, 1, 2)))
    assert set(scores) == {"m0", "m1"}
    assert set(scores["m0"].rounds) == {"fold0"}


def test_the_verdict_compares_with_the_best_member():
    settings = config(kind="k-fold", folds=3)
    rounds = plan_runs(CASES, settings)
    scores = results.gather(rounds, scores_of(rounds, counted(3, 1, 2), counted(5, 0, 0)))
    assert results.verdict(scores) == (
        "The ensemble (pooled Dice 0.667) does not beat its best member, m1 (1.000)."
    )
    table = results.score_table(scores).splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| m0", "| m1", "| ensemble"]
    assert "| 0.667 ± 0.000 |" in table[2]


def test_scores_are_kept_and_read_again(tmp_path):
    kept = [CaseScore("a", (counted(3, 1, 2), counted(1, 1, 1)), counted(2, 2, 2), Coverage(20, 16, 3, 1), 7)]
    results.save_scores(tmp_path / "fold0.npz", kept)
    (again,) = results.load_scores(tmp_path / "fold0.npz")
    assert (again.name, again.coverage, again.missed_px) == ("a", Coverage(20, 16, 3, 1), 7)
    for one, other in zip((*kept[0].networks, kept[0].together), (*again.networks, again.together), strict=True):
        assert (one.histogram == other.histogram).all()
        assert (one.found == other.found).all()


def test_the_table_of_cases_counts_pixels():
    settings = config(kind="k-fold", folds=3)
    rounds = plan_runs(CASES, settings)
    lines = results.score_rows(rounds, scores_of(rounds, counted(3, 1, 2), counted(5, 0, 0))).splitlines()
    assert len(lines) == 1 + 6 * 3
    case = rounds[0].held_out[0]
    assert lines[1] == f"fold0,{case.name},{case.patient},m0-fold0,0.6667,3,1,2,10,0"
    assert lines[3].split(",")[3] == "ensemble"


# ---- calibration ----


def spread_out(temperature, seed):
    """Pixels whose truth is drawn from σ(z), and what a network says whose logits are `temperature` × z."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2, 20_000)
    return Confusion.of(rng.random(len(z)) < 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(-temperature * z)), 0.5)


def scored_by(rounds, temperatures):
    """Every held-out case scored by networks of these temperatures, one list for each round."""
    return {
        round_.name: [
            CaseScore(case.name, tuple(spread_out(t, seed) for t in own), counted(1, 1, 1), Coverage(), 0)
            for seed, case in enumerate(round_.held_out)
        ]
        for round_, own in zip(rounds, temperatures, strict=False)
    }


def test_each_network_is_calibrated_on_the_cases_that_it_held_out(tmp_path):
    settings = config(patience=None, kind="k-fold", folds=3)
    rounds = plan_runs(CASES, settings)
    found = results.calibrations(rounds, scored_by(rounds, [(2, 0.5), (3, 0.7), (1, 1)]))
    expected = {"m0-fold0": 2, "m1-fold0": 0.5, "m0-fold1": 3, "m1-fold1": 0.7, "m0-fold2": 1, "m1-fold2": 1}
    assert {name: one.temperature for name, one in found.items()} == pytest.approx(expected, rel=0.05)
    run = rounds[1].runs[0]
    record = calibration_record(found[run.name], run, [rounds[1]], settings, MANIFEST)
    assert record["data"] == "2 cases of 2 patients of cases.csv"
    assert "fold1: 2 cases of 2 patients held out, which nothing in training saw" in record["split"]
    assert record["split"].endswith("after: each patient at the temperature of the others")
    card = checked(network_card("mine-v1", run, TRAINED, settings, MANIFEST, calibration=record), tmp_path)
    assert card["calibration"]["temperature"] == pytest.approx(3, rel=0.05)
    assert not any(text.startswith("Not calibrated") for text in card["limits"])
    table = results.calibration_table({"m0-fold1": record, "m1-fold1": None}).splitlines()
    assert len(table) == 3
    assert table[2].startswith(f"| m0-fold1 | {record['temperature']:.3f} | ")


def test_a_network_trained_on_all_cases_takes_the_temperature_of_those_before():
    settings = config(patience=None, kind="k-fold", folds=3, ensemble="final")
    rounds = plan_runs(CASES, settings)
    found = results.calibrations(rounds, scored_by(rounds, [(2, 0.5)] * 3))
    assert found["m0-final"].temperature == pytest.approx(2, rel=0.05)
    assert found["m1-final"].temperature == pytest.approx(0.5, rel=0.05)
    run = rounds[-1].runs[0]
    record = calibration_record(found[run.name], run, results.calibrating(rounds[-1], rounds), settings, MANIFEST)
    assert record["data"] == "6 cases of 6 patients of cases.csv"
    assert "predicted by this member trained without them" in record["split"]


def test_without_a_temperature_the_card_says_that_it_is_not_calibrated(tmp_path):
    settings = config(kind="k-fold", folds=3)
    rounds = plan_runs(CASES, settings)
    assert set(results.calibrations(rounds, scores_of(rounds, counted(3, 0, 0), counted(5, 0, 0))).values()) == {None}
    card = checked(network_card("mine-v1", rounds[0].runs[0], TRAINED, settings, MANIFEST), tmp_path)
    assert card["calibration"] is None
    assert card["limits"][-1].startswith("Not calibrated")
    assert results.calibration_table({"m0-fold0": None}) == ""


def test_the_card_says_which_readouts_its_maps_are_good_for(tmp_path):
    settings = config()
    settings = dataclasses.replace(settings, card=dataclasses.replace(settings.card, readouts=("pn_stage",)))
    run = plan_runs(CASES, settings)[0].runs[0]
    assert checked(network_card("mine-v1", run, TRAINED, settings, MANIFEST), tmp_path)["readouts"] == ["pn_stage"]
