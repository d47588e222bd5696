"""Plans, scores and cards of tile classifiers, without training any: what learns from what, and what is said of it."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_ind

from digipath.errors import BadInput
from digipath.grading.tile_networks import modular_channels, rule_of
from digipath.networks import common_stain
from digipath.stain import REFERENCES
from digipath.tiling import TileRule
from digipath.training import grading_tiles
from digipath.training.grading_cards import metrics_of, modular_card, network_card, pair_metrics
from digipath.training.grading_config import TileConfig, read_tile_config
from digipath.training.grading_outcome import write_outcome
from digipath.training.grading_plan import TilePlan, plan_graders
from digipath.training.grading_results import (
    ALL,
    CASE,
    REST,
    SLIDE,
    TILE,
    TOP,
    Answers,
    asked_of,
    comparisons,
    score_rows,
    scored,
)
from digipath.training.grading_tiles import kept_or_drawn
from digipath.training.manifest import Manifest, TrainingCase
from digipath.training.splits import Split
from digipath.training.tile_draw import LabelledTile
from digipath.values import most_probable
from digipath.weights import load_card

CLASSES = ("grade 2", "grade 3", "grade 4")
CONFIG = """
task = "tiles"
seed = 4
repeats = 2
schemes = ["three-class", "modular"]
[data]
manifest = "cases.csv"
classes = ["grade 2", "grade 3", "grade 4"]
[tiles]
tile = 64
least_tissue = 0.75
[schedule]
batch = 4
[card]
name = "mine-v1"
task = "glioma grading"
licence = "CC0-1.0"
limits = ["Only a test."]
[[variant]]
name = "large"
[variant.schedule]
batch = 32
"""
TRAINED = {
    "multiple": 32, "bytes": 1234, "sha256": "cd" * 32,
    "epochs": 2, "best_epoch": 1, "stopped": "patience", "minutes": 0.5,
    "encoder": {"name": "imagenet-resnet18-torchvision", "sha256": "ef" * 32}, "versions": {"keras": "3"},
    "schedule": {"batch": 4},
}  # fmt: skip


@pytest.fixture
def config(tmp_path) -> TileConfig:
    (tmp_path / "my.toml").write_text(CONFIG)
    return read_tile_config(tmp_path / "my.toml")


@pytest.fixture
def plan(config) -> TilePlan:
    """Nine slides of nine patients, three in each part and three of each class."""
    cases = tuple(
        TrainingCase(f"slide{n}", Path(f"{n}.tiff"), None, f"patient{n}", label=CLASSES[n % 3]) for n in range(9)
    )
    split = Split("holdout", cases[:3], cases[3:6], cases[6:])
    return TilePlan(config, Manifest(Path("cases.csv"), cases, CLASSES, "ab" * 32), split, plan_graders(config), {})


@pytest.fixture
def drawn(plan):
    """Six tiles of each class to train on, two to validate and two to test on."""
    return {
        part: tuple(LabelledTile(first + label, (0, n), label) for label in range(3) for n in range(count))
        for part, first, count in (("train", 0, 6), ("validation", 3, 2), ("test", 6, 2))
    }


def answers(*rows, truth=(0, 0, 1, 1, 2, 2), slides="aabbcc", slide_truth=None) -> Answers:
    """Rows of percent."""
    patients = np.array([f"patient of {slide}" for slide in slides], np.str_)
    return Answers(
        np.array(truth, np.int64),
        np.array(rows, np.float32) / 100,
        np.array(list(slides), np.str_),
        patients,
        np.array(truth if slide_truth is None else slide_truth, np.int64),
        most_probable(np.array(rows, np.float32)),
        patients,
    )


RIGHT = answers((80, 10, 10), (60, 30, 10), (20, 60, 20), (10, 70, 20), (10, 10, 80), (10, 20, 70))
WRONG = answers((10, 10, 80), (60, 30, 10), (60, 20, 20), (10, 70, 20), (10, 10, 80), (60, 20, 20))


def checked(record, tmp_path):
    """As the rest of digipath reads it."""
    path = tmp_path / f"{record['name']}.json"
    path.write_text(json.dumps(record))
    return load_card(str(path))


# ---- plan ----


def test_every_arm_scheme_and_repeat_is_a_grader_with_seeds_of_its_own(plan):
    names = [run.name for run in plan.runs]
    assert names == [
        f"{arm}-{scheme}-{repeat}"
        for arm in ("base", "large") for scheme in ("three-class", "modular") for repeat in (1, 2)
    ]  # fmt: skip
    networks = [network for run in plan.runs for network in run.networks]
    seeds = [network.seed for network in networks]
    assert len(set(seeds)) == len(seeds) == 12
    assert min(seeds) == 4_000_000
    assert plan.shipped.name == "base-three-class-1"
    assert [plan.name(run) for run in (plan.runs[0], plan.runs[1])] == ["mine-v1", "mine-v1-base-three-class-2"]


def test_a_modular_pair_learns_the_top_from_all_tiles_and_the_rest_from_theirs(plan, drawn):
    whole, top, rest = (network for run in (plan.runs[0], plan.runs[2]) for network in run.networks)
    assert whole.tiles(drawn["train"]) == drawn["train"]
    assert [tile.label for tile in top.tiles(drawn["train"])] == [0] * 12 + [1] * 6
    assert [tile.label for tile in rest.tiles(drawn["train"])] == [0] * 6 + [1] * 6
    assert {tile.case for tile in rest.tiles(drawn["train"])} == {0, 1}
    assert (top.classes, rest.classes) == (("not grade 4", "grade 4"), ("grade 2", "grade 3"))


def test_an_epoch_is_one_feed_of_the_training_tiles(plan, drawn):
    """18 tiles, 12 without the highest grade, in batches of 4 or 32."""
    networks = {network.name: network for run in plan.runs for network in run.networks}
    steps = {name: plan.schedule(network, drawn).steps_per_epoch for name, network in networks.items()}
    assert steps["base-three-class-1"] == 5
    assert steps["base-modular-1-rest"] == 3
    assert steps["large-modular-1-top"] == 1


def test_the_plan_says_when_there_are_fewer_tiles_than_asked_for(plan, drawn):
    """Ten of each class in all; up to two may be lost by rounding down three parts."""
    plan = dataclasses.replace(plan, parameters={one.name: 1 for run in plan.runs for one in run.networks})

    def told(per_class):
        tiles = dataclasses.replace(plan.config.tiles, per_class=per_class)
        lines = dataclasses.replace(plan, config=dataclasses.replace(plan.config, tiles=tiles)).lines(drawn)
        return [line for line in lines if line.startswith("asked for")]

    assert told(None) == told(12) == []
    assert told(13) == ["asked for 13 tiles of each class, the cases allow 10 in these shares"]


def test_drawn_tiles_are_kept_and_a_changed_table_is_not_trusted(plan, drawn, tmp_path, monkeypatch):
    """A tile less, or one of another part, would pass for a table of ours; so would a table of another split."""
    path, asked = tmp_path / "tiles.csv", []
    monkeypatch.setattr(grading_tiles, "draw", lambda *_, **__: asked.append(1) or drawn)
    assert kept_or_drawn(path, plan) == kept_or_drawn(path, plan) == drawn
    assert len(asked) == 1
    table = path.read_text()
    assert table.splitlines()[1] == "train,grade 2,slide0,patient0,0,0"
    for old, new in (
        ("slide0", "slide99"),
        ("grade 2", "grade 1"),
        ("patient0,0,0", "patient0"),
        ("part,", "pert,"),
        ("train,grade 2,slide0,patient0,0,0\n", ""),
        ("test,grade 2,slide6", "train,grade 2,slide6"),
    ):
        asked.clear()
        path.write_text(table.replace(old, new, 1))
        assert kept_or_drawn(path, plan) == drawn
        assert (len(asked), path.read_text()) == (1, table)
    other = dataclasses.replace(plan, split=dataclasses.replace(plan.split, train=plan.split.test))
    kept_or_drawn(path, other)
    assert len(asked) == 2
    (tmp_path / "tiles.sha256").unlink()
    kept_or_drawn(path, plan)
    assert len(asked) == 3


# ---- scores ----


def test_a_grader_is_scored_by_tile_slide_and_case_and_asked_three_questions():
    found = scored(WRONG, CLASSES)
    tiles, slides = found[ALL][TILE]["scores"], found[ALL][SLIDE]["scores"]
    assert tiles["confusion"] == [[1, 0, 1], [1, 1, 0], [1, 0, 1]]
    assert (tiles["count"], tiles["accuracy"]) == (6, 0.5)
    # means: a (35, 20, 45), b (35, 45, 20), c (35, 15, 50)
    assert slides["confusion"] == [[0, 0, 1], [0, 1, 0], [0, 0, 1]]
    assert found[ALL][CASE]["scores"]["count"] == 3
    assert found[TOP][TILE]["scores"]["confusion"] == [[3, 1], [1, 1]]
    assert found[REST][TILE]["scores"]["confusion"] == [[1, 1], [1, 1]]  # (10, 10, 80) of grade 2 ties: to the higher
    assert found[REST][SLIDE]["scores"]["confusion"] == [[1, 0], [0, 1]]
    perfect = scored(RIGHT, CLASSES)
    assert all(
        perfect[question][level]["metrics"][metric] == 1.0
        for question in perfect for level in perfect[question] for metric in ("accuracy", "kappa", "macro_auroc")
    )  # fmt: skip


def test_what_is_asked_of_slides_by_name():
    asked = asked_of(WRONG, SLIDE, REST, CLASSES)
    assert (asked.names, asked.patients) == (("a", "b"), ("patient of a", "patient of b"))
    assert (asked.classes, asked.truth.tolist()) == (CLASSES[:2], [0, 1])
    np.testing.assert_allclose(asked.probabilities, [[35 / 55, 20 / 55], [35 / 80, 45 / 80]], atol=1e-6)


def test_intervals_resample_patients():
    record = scored(WRONG, CLASSES)[ALL][TILE]["intervals"]
    assert record["patients"] == 3
    assert record["intervals"]["accuracy"] == [0.5, 0.5]  # half of every patient is right


def test_cases_of_one_patient_that_have_names_of_their_own_stay_apart():
    """Scans of patient p at three times, graded 2, 4 and 2, all called right, and one of q."""
    said = np.array([(98, 1, 1), (1, 1, 98), (98, 1, 1), (1, 98, 1)], np.float32) / 100
    scans = Answers.joined([
        Answers.of_slide(
            np.array([label]), said[at : at + 1], np.array([label]),
            slide=str(at), case=str(at), label=label, patient=patient,
        )
        for at, (label, patient) in enumerate([(0, "p"), (2, "p"), (0, "p"), (1, "q")])
    ])  # fmt: skip
    record = scored(scans, CLASSES, levels=(CASE,))[ALL][CASE]
    assert record["scores"]["confusion"] == [[2, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert (record["metrics"]["accuracy"], record["scores"]["count"]) == (1, 4)
    assert record["intervals"]["patients"] == 2
    assert asked_of(scans, CASE, ALL, CLASSES).names == ("0", "1", "2", "3")


def test_a_case_is_of_its_highest_slide_and_tiles_of_their_outlines():
    """Slides a and b are of one patient; b's tiles were outlined as the lower grade."""
    mixed = dataclasses.replace(
        answers((80, 10, 10), (10, 10, 80), (90, 5, 5), truth=(0, 2, 0), slides="abb", slide_truth=(0, 2, 2)),
        cases=np.array(["p", "p", "p"]),
    )
    found = scored(mixed, CLASSES)
    assert found[ALL][TILE]["scores"]["confusion"] == [[2, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert found[ALL][SLIDE]["scores"]["confusion"] == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert found[ALL][CASE]["scores"]["confusion"] == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert found[ALL][CASE]["intervals"]["intervals"]["accuracy"] is None  # of a single case


def test_what_no_tile_shows_has_no_score():
    top = answers((80, 10, 10), (10, 10, 80), truth=(2, 2), slides="ab")
    found = scored(top, CLASSES)
    assert (found[REST][TILE]["scores"]["count"], found[REST][TILE]["metrics"]["accuracy"]) == (0, None)
    assert (found[TOP][SLIDE]["metrics"]["accuracy"], found[TOP][SLIDE]["metrics"]["macro_auroc"]) == (0.5, None)


def test_two_classes_leave_one_question():
    two = answers((80, 20), (30, 70), truth=(0, 1), slides="ab")
    assert list(scored(two, CLASSES[:2])) == [ALL]


def test_answers_are_kept_and_read_again(tmp_path):
    RIGHT.save(tmp_path / "kept.npz")
    again = Answers.load(tmp_path / "kept.npz")
    for part in dataclasses.fields(Answers):
        np.testing.assert_array_equal(getattr(again, part.name), getattr(RIGHT, part.name))
    (tmp_path / "kept.npz").write_bytes(b"PK")
    with pytest.raises(BadInput, match=r"damaged .*kept\.npz"):
        Answers.load(tmp_path / "kept.npz")


def scores_of_all(plan, accuracies):
    """Scores of all graders, alike but for the accuracy of tiles in all classes."""
    like = json.loads(json.dumps(scored(RIGHT, CLASSES)))
    found = {}
    for run, accuracy in zip(plan.runs, accuracies, strict=True):
        found[run.name] = json.loads(json.dumps(like))
        found[run.name][ALL][TILE]["metrics"]["accuracy"] = accuracy
    return found


def test_variants_and_schemes_are_compared_over_repeats_by_a_t_test(plan):
    values = [0.5, 0.6, 0.7, 0.71, 0.8, 0.82, 0.9, 0.9]
    made = comparisons(plan.runs, scores_of_all(plan, values))
    told = {
        (one.first, one.second): one.found
        for one in made if (one.question, one.level, one.metric) == (ALL, TILE, "accuracy")
    }  # fmt: skip
    assert set(told) == {
        ("base three-class", "large three-class"), ("base modular", "large modular"),
        ("base three-class", "base modular"), ("large three-class", "large modular"),
    }  # fmt: skip
    found = told["base three-class", "large three-class"]
    assert found.means == (pytest.approx(0.55), pytest.approx(0.81))
    assert found.p == pytest.approx(ttest_ind([0.5, 0.6], [0.8, 0.82]).pvalue)
    assert all(one.found.p is None for one in made if one.level == CASE)  # constant over the repeats
    assert {one.metric for one in made} == {"macro_accuracy", "accuracy", "macro_auroc", "macro_auroc_by_threshold"}


def test_the_table_of_scores_has_a_line_for_each_metric(plan):
    found = {run.name: scored(WRONG, CLASSES) for run in plan.runs}
    rows = list(csv.DictReader(io.StringIO(score_rows(plan.runs, found))))
    assert len({tuple(row[key] for key in ("run", "question", "level", "metric")) for row in rows}) == len(rows)
    wanted = ("large-modular-2", ALL, TILE, "accuracy")
    row = next(row for row in rows if tuple(row[key] for key in ("run", "question", "level", "metric")) == wanted)
    assert (row["arm"], row["scheme"], row["repeat"], row["count"]) == ("large", "modular", "2", "6")
    assert [row[key] for key in ("value", "low", "high")] == ["0.5000", "0.5000", "0.5000"]


# ---- cards ----


def test_a_network_card_says_what_it_grades_and_on_what_it_was_scored(plan, drawn, tmp_path):
    run = plan.runs[0]
    found = scores_of_all(plan, [0.5, 0.7, 1, 1, 1, 1, 1, 1])
    metrics = metrics_of(plan, run, found, drawn, run.networks[0])
    card = checked(network_card(plan, run.networks[0], TRAINED, drawn, metrics=metrics), tmp_path)
    assert (card.name, card.output, card.classes) == ("mine-v1", "tile", CLASSES)
    assert rule_of(card) == TileRule(0.5, 64, 0.75, "auto")
    assert card.record["network"] == {"name": "resnet18", "config": {"classes": 3, "activation": "softmax"}}
    training = card.record["training"]
    assert training["split"] == (
        "one split by patient, alike for every label and type, seed 0: train 3 slides of 3 patients, "
        "validation 3 slides of 3 patients, test 3 slides of 3 patients"
    )
    assert training["tiles"]["train"] == "6 tiles of grade 2, 6 tiles of grade 3, 6 tiles of grade 4"
    assert (training["seed"], training["settings"]["augmentation"]["shear_degrees"]) == (4_000_000, 10.0)
    told = {metric["name"]: metric for metric in card.record["metrics"]}
    accuracy = told["accuracy, tiles"]
    assert (accuracy["value"], accuracy["spread"]) == (0.5, pytest.approx(0.2 / np.sqrt(2), abs=1e-4))
    assert accuracy["data"].startswith("tiles drawn from 3 slides of 3 patients of cases.csv: 2 tiles of grade 2, ")
    assert "which nothing in training saw" in accuracy["split"]
    assert "over 2 trainings with other seeds" in accuracy["split"]
    both = {"macro AUROC, cases", "macro AUROC by threshold, cases"}
    assert both | {"kappa, slides, highest against the rest"} <= set(told)
    assert card.record["limits"][0] == "Only a test."
    assert any("label of their whole slide" in limit for limit in card.record["limits"])


def test_the_cards_of_a_pair_fit_together_and_its_networks_quote_their_own_question(plan, drawn, tmp_path):
    run = plan.runs[2]
    found = scores_of_all(plan, [1] * 8)
    first, second = (
        checked(network_card(plan, one, TRAINED, drawn, metrics=metrics_of(plan, run, found, drawn, one)), tmp_path)
        for one in run.networks
    )
    pair = checked(modular_card(plan, run, metrics=pair_metrics(plan, run, found, drawn)), tmp_path)
    assert (pair.name, pair.classes, pair.output) == ("mine-v1-base-modular-1", CLASSES, "tile")
    assert modular_channels(pair, first, second) == (1, (0, 1))
    assert first.record["positive"] == "grade 4"
    assert {metric["name"].split(", ", 2)[2] for metric in first.record["metrics"]} == {TOP}
    assert {metric["name"].split(", ", 2)[2] for metric in second.record["metrics"]} == {REST}
    assert {"accuracy, tiles", f"accuracy, tiles, {TOP}"} <= {metric["name"] for metric in pair.record["metrics"]}


def test_all_cards_state_the_stain_that_slides_were_brought_to(plan, drawn, tmp_path):
    tiles = dataclasses.replace(plan.config.tiles, stain="macenko")
    plan = dataclasses.replace(plan, config=dataclasses.replace(plan.config, tiles=tiles))
    run = plan.runs[2]
    networks = [checked(network_card(plan, one, TRAINED, drawn), tmp_path) for one in run.networks]
    pair = checked(modular_card(plan, run), tmp_path)
    assert len(networks) == 2
    assert common_stain([*networks, pair]) == REFERENCES["macenko"]
    stated = networks[0].record["training"]["settings"]["tiles"]["stain"]
    assert stated == REFERENCES["macenko"].to_record()  # not a name, nor a place on this machine


# ---- what is left ----


def test_the_folder_tells_values_spreads_and_chances(plan, drawn, tmp_path):
    networks = [network for run in plan.runs for network in run.networks]
    plan = dataclasses.replace(plan, parameters={network.name: 1000 for network in networks})
    (tmp_path / "weights").mkdir()
    found = scores_of_all(plan, [0.5, 0.6, 0.7, 0.71, 0.8, 0.82, 0.9, 0.9])
    records, compared = {network.name: TRAINED for network in networks}, comparisons(plan.runs, found)
    write_outcome(plan, tmp_path, drawn, records, found, compared=compared, seconds=60)
    lines = (tmp_path / "summary.md").read_text().splitlines()
    assert "| base three-class | tile | 0.550 ± 0.071 | 1.000 ± 0.000 | " in "\n".join(lines)
    chance = f"{ttest_ind([0.5, 0.6], [0.8, 0.82]).pvalue:.3g}"
    (row,) = [one for one in lines if "| accuracy | base three-class | large three-class |" in one and ALL in one]
    assert [cell.strip() for cell in row.split("|")[5:8]] == ["0.550", "0.810", chance]
    assert sum("| macro AUROC by threshold | base three-class | large" in one for one in lines) == 3  # questions
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["cards"][0] == record["name"] == "mine-v1"
    assert {path.stem for path in (tmp_path / "weights").iterdir()} == set(record["cards"])
    assert len(record["cards"]) == 4 + 4 * 3
    assert record["minutes_of_fitting"] == 6.0
    assert record["graders"]["large-modular-2"]["networks"] == ["large-modular-2-top", "large-modular-2-rest"]
