"""One network's grade is the hard vote over its groups, that of several their soft vote, where these differ."""

from __future__ import annotations

import contextlib
import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from digipath import grading_evaluation
from digipath.grading.bag_networks import BagGraders
from digipath.grading.bags import SlideBags
from digipath.grading.maps import bags_record
from digipath.grading_evaluation import evaluate_graders
from digipath.measure.grading_intervals import bootstrap
from digipath.measure.grading_scores import scores
from digipath.measure.repeated_runs import ablation
from digipath.result import Grade
from digipath.training import bag_runs
from digipath.training.bag_results import chosen, voted
from digipath.training.grading_results import ALL, CASE, SLIDE, Answers, asked_of, scored
from digipath.training.manifest import TrainingCase
from digipath.values import Card

CLASSES = ("grade 2", "grade 3", "grade 4")
NONE = np.empty((0, 2), np.int64)


def card(name):
    record = {"name": name, "classes": list(CLASSES), "input": {"mpp": 0.5, "patch": 64, "tissue": "all"}}
    return Card(Path(f"{name}.json"), record)


def seen(*groups, on_slide=600, unreadable=NONE):
    groups = np.array(groups, np.float32).reshape(-1, 3)
    return SlideBags(groups, on_slide, 200, None, NONE, np.empty((0, 3), np.float32), None, unreadable, 0.5)


# Two groups of three lean to grade 2; the third is sure of grade 3, which so has the higher mean.
TORN = seen((0.51, 0.49, 0.0), (0.51, 0.49, 0.0), (0.0, 1.0, 0.0))
MEAN = (0.34, 0.66, 0.0)


def test_one_network_is_called_by_its_hard_vote():
    found = bags_record([card("a")], [TORN])
    assert found["members"]["a"]["votes"] == pytest.approx({"grade 2": 2 / 3, "grade 3": 1 / 3, "grade 4": 0})
    assert found["probabilities"] == pytest.approx({"grade 2": 0.34, "grade 3": 0.66, "grade 4": 0})
    assert found["grade"] == "grade 2"


def test_several_networks_are_called_by_their_soft_vote():
    found = bags_record([card("a"), card("b")], [TORN, TORN])
    assert (found["grade"], found["networks"]) == ("grade 3", 2)


def test_a_network_that_saw_nothing_has_no_say_and_tied_votes_are_told_apart_by_the_mean():
    found = bags_record([card("a"), card("b")], [TORN, seen()])
    assert (found["grade"], found["networks"], found["members"]["b"]["votes"]) == ("grade 2", 1, None)
    tied = bags_record([card("a")], [seen((0.9, 0.1, 0.0), (0.0, 0.6, 0.4))])
    assert tied["grade"] == "grade 2"
    assert bags_record([card("a")], [seen()])["grade"] is None


def test_a_grade_that_no_group_votes_for_wins_no_tie():
    tied = bags_record([card("a")], [seen((0.52, 0.48, 0.0), (0.0, 0.48, 0.52))])
    assert (tied["grade"], max(tied["probabilities"].values())) == ("grade 4", pytest.approx(0.48))


# --- what a network saw is told --------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_slide", "words"),
    [
        (600, ()),
        (400, ("400 tiles on the slide, fewer than the 600 asked for: 2 groups of all.",)),
        (450, ("450 tiles on the slide, fewer than the 600 asked for: 3 groups of all, the last of fewer.",)),
        (200, ("200 tiles on the slide, fewer than the 600 asked for: one group of all.",)),
    ],
)
def test_fewer_tiles_than_asked_for_are_told_as_they_were_seen(on_slide, words):
    bags = SlideBags(np.full((1, 3), 1 / 3, np.float32), on_slide, 200, 3, NONE, NONE, None, NONE, 0.5)
    assert bags.notes == words


def test_a_network_without_a_tile_says_so():
    assert seen(on_slide=0).notes == ("No tile at 0.5 µm/px: no vote.",)
    lost = np.zeros((4, 2), np.int64)
    assert seen(on_slide=4, unreadable=lost).notes == ("None of 4 tiles at 0.5 µm/px could be read: no vote.",)


# --- scores call as `grade` calls ------------------------------------------------------------


@pytest.fixture
def evaluated(monkeypatch, tmp_path):
    """A function: the scores of networks which all say `TORN` of a slide of grade 2 and of one of grade 3."""
    rows = [["slide", "patient", "label", "mpp"]]
    for number in (2, 3):
        Image.new("RGB", (64, 64), (180, 100, 100 + number)).save(tmp_path / f"{number}.png")
        rows.append([f"{number}.png", f"p{number}", f"grade {number}", 0.5])
    with (tmp_path / "cases.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    monkeypatch.setattr(grading_evaluation, "grade_bags", lambda *_, **__: TORN)
    monkeypatch.setattr(grading_evaluation.bag_networks, "load", lambda *_: None)

    def scores_of(*names, **options):
        graders = BagGraders(CLASSES, {}, tuple(card(name) for name in names), None)
        monkeypatch.setattr(grading_evaluation, "graders_of", lambda *_, **__: graders)
        return evaluate_graders("torn", manifest=tmp_path / "cases.csv", **options)["scores"][ALL]

    return scores_of


@pytest.mark.parametrize("level", [SLIDE, CASE])
def test_an_evaluation_calls_what_grade_calls(evaluated, level):
    """One network: grade 2; two: grade 3. AUROC is of the means, which are alike."""
    alone, both = evaluated("a")[level], evaluated("a", "b")[level]
    assert alone["scores"]["confusion"] == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert both["scores"]["confusion"] == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert alone["metrics"]["auroc of grade 2"] == both["metrics"]["auroc of grade 2"] == 0.5


def test_the_page_of_an_evaluation_lists_what_was_called(evaluated, tmp_path):
    evaluated("a", out=tmp_path / "out")
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "the 1 that are called wrong come first" in page
    assert "One network calls the hard vote over its groups of tiles" in page


def answers(*calls, truth=(0, 1)):
    n, names = len(truth), np.array([str(at) for at in range(len(truth))])
    truth, calls = np.array(truth, np.int64), np.array(calls, np.int64)
    return Answers(truth, np.tile(np.array(MEAN, np.float32), (n, 1)), names, names, truth, calls, names)


def test_a_training_keeps_the_hard_vote_of_a_network_and_scores_by_it(monkeypatch, tmp_path):
    case = TrainingCase("a", Path("a.png"), None, "p", label="grade 2")
    graders = SimpleNamespace(cards=(card("torn"),), choice=None, stain=None)
    monkeypatch.setattr(bag_runs.bag_networks, "published", lambda *_: graders)
    monkeypatch.setattr(bag_runs.bag_networks, "load", lambda *_: None)
    monkeypatch.setattr(bag_runs, "open_frame", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(bag_runs, "grade_bags", lambda *_, **__: TORN)
    config = SimpleNamespace(split=SimpleNamespace(seed=0), data=SimpleNamespace(classes=CLASSES))
    plan = SimpleNamespace(config=config, split=SimpleNamespace(test=(case,)), name=lambda _: "torn")
    bench = SimpleNamespace(plan=plan, weights=tmp_path, progress=None, cancel=None)
    first, kept = (
        bag_runs.answers_of(SimpleNamespace(name="torn"), bench, "test", tmp_path / "torn.npz") for _ in range(2)
    )
    assert first.calls.tolist() == kept.calls.tolist() == [0]
    assert kept.probabilities[0] == pytest.approx(MEAN)
    assert scored(kept, CLASSES, levels=(SLIDE,))[ALL][SLIDE]["metrics"]["accuracy"] == 1


def test_snapshots_alone_call_by_their_groups_and_together_by_their_means():
    found = {"a": answers(0, 0), "b": answers(0, 0)}
    assert voted({"a": found["a"]}).calls.tolist() == [0, 0]
    assert voted(found).calls.tolist() == [1, 1]
    ensemble = SimpleNamespace(measure="accuracy", drop=0)
    plan = SimpleNamespace(config=SimpleNamespace(data=SimpleNamespace(classes=CLASSES), ensemble=ensemble))
    assert chosen(plan, {"a": answers(0, 0, truth=(0, 0))}).validation["a"]["accuracy"] == 1
    each = {name: one.probabilities for name, one in found.items()}
    calls = {name: one.calls for name, one in found.items()}
    rows = ablation(each, [0, 0], CLASSES, {"a": "fine", "b": "coarse"}, calls=calls)
    assert {(row.kind, row.group): row.scores.accuracy for row in rows} == {
        ("all", None): 0, ("without", "fine"): 1, ("alone", "fine"): 1, ("without", "coarse"): 1, ("alone", "coarse"): 1
    }  # fmt: skip


def test_a_patient_of_several_slides_is_called_by_their_mean_as_a_case_is():
    two = Answers(
        np.zeros(2, np.int64), np.tile(np.array(MEAN, np.float32), (2, 1)), np.array(["a", "b"]), np.array(["p", "p"]),
        np.zeros(2, np.int64), np.zeros(2, np.int64), np.array(["p", "p"]),
    )  # fmt: skip
    assert asked_of(two, SLIDE, ALL, CLASSES).calls.tolist() == [0, 0]
    assert asked_of(two, CASE, ALL, CLASSES).calls.tolist() == [1]
    record = bags_record([card("a")], [TORN])
    case = Grade(tuple(SimpleNamespace(run={"bags": record}, classes=CLASSES) for _ in range(2)), Path("case"))
    assert case.bags["grade"] == "grade 3"


def test_intervals_are_of_what_was_called():
    found = answers(0, 0, 0, truth=(0, 0, 0))
    told = bootstrap(found.truth, found.probabilities, "abc", CLASSES, calls=found.calls).intervals["accuracy"]
    assert told == (1, 1)
    assert scores(found.truth, found.probabilities, CLASSES).accuracy == 0


@pytest.mark.parametrize(
    ("low", "grade"), [(0.4 + 5e-7, "grade 3"), (0.4 + 5e-6, "grade 2")], ids=["within 1e-6", "beyond"]
)
def test_a_case_decides_ties_as_everything_else_does(low, grade):
    means = dict(zip(CLASSES, (low, 0.4, 0.2), strict=True))
    slides = [SimpleNamespace(run={"bags": {"grade": "x", "probabilities": means}}, classes=CLASSES)] * 2
    assert Grade(tuple(slides), Path("case")).bags["grade"] == grade
