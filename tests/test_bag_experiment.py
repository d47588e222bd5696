"""From a manifest to bag networks of two magnifications and their vote: tiny networks, few steps, everything real."""

from __future__ import annotations

import csv
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import made_up_bags
import numpy as np
import pytest

import digipath
from digipath import nn
from digipath.cli import main
from digipath.errors import BadInput, Cancelled, CaseDiffers
from digipath.grading import bag_networks
from digipath.grading.bags import BagDraw, grade_bags
from digipath.grading.tile_frames import open_frame
from digipath.grading.tile_networks import rule_of
from digipath.measure.repeated_runs import soft_vote
from digipath.networks import network_of
from digipath.nn.mil import mil_head
from digipath.stain import REFERENCES
from digipath.training import bag_runs, frozen_bags, tile_source
from digipath.training.bag_plan import prepare_bags, survey
from digipath.training.bag_results import chosen
from digipath.training.bag_runs import BagBench, _source, train_bags
from digipath.training.frozen_bags import EmbeddedBags, Slides, Views, _read
from digipath.training.grading_results import Answers
from digipath.training.tile_source import channel_scaling
from digipath.weights import load_card

pytestmark = [pytest.mark.slow, pytest.mark.keras]

SNAPSHOTS = ["mpp-0-5-last", "mpp-0-5-minus-1", "mpp-1-last", "mpp-1-minus-1"]
FROZEN = "frozen = true\nviews = 2\nmost_tiles = 8"


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return made_up_bags.write_cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def trained(cases, tmp_path_factory):
    """Two magnifications with two snapshots each, stopped twice on the way."""
    config, out = made_up_bags.write_config(cases, "plain.toml"), tmp_path_factory.mktemp("trained") / "out"
    for stop in (3, 60):
        asked = []
        with pytest.raises(Cancelled):
            digipath.train(config, out=out, cancel=lambda asked=asked, stop=stop: asked.append(1) or len(asked) > stop)
    seen = []
    result = digipath.train(config, out=out, progress=seen.append)
    assert any(report.message.startswith("scoring test slide 1 of 6") for report in seen)
    return result


@pytest.fixture(scope="module")
def frozen(cases, tmp_path_factory):
    """The same with an embedder that stays as it began, through the command line."""
    config, out = made_up_bags.write_config(cases, "frozen.toml", network=FROZEN), tmp_path_factory.mktemp("frozen")
    asked = []
    with pytest.raises(Cancelled, match="while tiles are embedded"):  # after 15 looks at slides, and 3 views
        digipath.train(config, out=out / "out", cancel=lambda: asked.append(1) or len(asked) > 18)
    embedded = out / "out" / "runs" / "mpp-0-5" / "embeddings"
    assert [path.name for path in embedded.iterdir()] == ["train-0.npy"]
    assert main(["train", "--config", str(config), "--out", str(out / "out")]) == 0
    return digipath.train(config, out=out / "out")


def answers(result, part, name):
    return Answers.load(result.folder / "scores" / part / f"{name}.npz")


def plan_of(cases, name):
    plan = prepare_bags(cases / name)
    return plan, BagBench(plan, survey(plan), cases)


def read_views(slides, plan, mpp, number, seed):
    views = Views(plan.config.bags.rule(mpp), 32, plan.config.augmentation, 1.0, 0.0, 2, 8, 6, plan.config.stain)
    with ThreadPoolExecutor(1) as pool:
        yield from _read(slides, views, number, seed, pool)


def scaled_for(card, crops):
    asked = card.record["input"]
    return crops.astype(np.float32) * np.float32(asked["scale"]) + np.float32(asked["offset"])


def test_every_snapshot_has_a_card_and_all_but_the_worst_vote(trained):
    record = trained.record
    assert [path.stem for path in trained.cards] == ["dots-v1", *(f"dots-v1-{name}" for name in SNAPSHOTS)]
    assert list(record["validation"]) == SNAPSHOTS
    measured = {name: metrics["macro_auroc"] for name, metrics in record["validation"].items()}
    (dropped,) = set(SNAPSHOTS) - set(record["kept"])
    assert measured[dropped] == min(measured.values())
    ensemble = load_card(str(trained.card)).record
    assert ensemble["members"] == [f"dots-v1-{name}" for name in SNAPSHOTS if name != dropped]
    assert (ensemble["kind"], ensemble["output"], ensemble["input"]["mpp"]) == ("ensemble", "bag", 0.5)
    assert ensemble["training"]["left_out"] == [dropped]
    names = {metric["name"] for metric in ensemble["metrics"]}
    assert {"macro AUROC, slides", "macro AUROC, cases", "accuracy, cases, highest against the rest"} <= names
    left_out = load_card(str(trained.folder / "weights" / f"dots-v1-{dropped}.json")).record
    assert all(metric["name"].endswith("validation") for metric in left_out["metrics"])  # test slides it never saw
    assert not (trained.folder / "scores" / "test" / f"{dropped}.npz").exists()


def test_a_card_says_what_its_network_saw(trained, cases):
    card = load_card(str(trained.folder / "weights" / "dots-v1-mpp-1-minus-1.json")).record
    asked = card["input"]
    assert (asked["mpp"], asked["patch"], asked["tile"], asked["bag"], asked["tissue"]) == (1, 32, 64, 5, "white-tiles")
    assert (asked["groups"], asked["augment"], asked["augmentation"]["hue"]) == (2, True, 0.01)
    assert (card["training"]["epoch"], card["training"]["epochs"]) == (1, 2)
    assert card["training"]["class_weights"] == [1, 1, 1]
    last = load_card(str(trained.folder / "weights" / "dots-v1-mpp-1-last.json")).record
    assert (last["training"]["epoch"], last["sha256"] != card["sha256"]) == (2, True)
    plan, bench = plan_of(cases, "plain.toml")
    # Mean and deviation of the training tiles, and of no others.
    with _source(plan.runs[1], bench, "train", as_they_are=True) as source:
        pixels = np.concatenate([source.sample(index)[0].reshape(-1, 3) for index in range(6)]).astype(np.float64)
    assert asked["scale"] == pytest.approx(1 / pixels.std(axis=0))
    assert asked["offset"] == pytest.approx(-pixels.mean(axis=0) / pixels.std(axis=0))
    with _source(plan.runs[0], bench, "train", as_they_are=True) as source:
        finer = channel_scaling(source, 6)[0]
    assert list(finer) != pytest.approx(asked["scale"], rel=1e-6)
    assert trained.record["runs"]["mpp-0-5"]["scale"] == pytest.approx(list(finer))


def test_the_vote_is_the_mean_and_the_ablation_leaves_magnifications_out(trained):
    kept = trained.record["kept"]
    found = {name: answers(trained, "test", name) for name in kept}
    vote = soft_vote([one.probabilities for one in found.values()])
    truth = next(iter(found.values())).truth
    assert truth.tolist() == [0, 0, 1, 1, 2, 2]
    scores = trained.scores["ensemble"]["all classes"]
    assert scores["slide"]["scores"]["accuracy"] == np.mean(vote.argmax(axis=1) == truth)
    assert scores["case"]["scores"]["count"] == 3
    assert scores["case"]["intervals"]["patients"] == 3
    assert set(trained.scores) == {"ensemble", *kept}
    rows = {(row["kind"], row["group"]): row["members"] for row in trained.record["ablation"]}
    fine = [name for name in kept if name.startswith("mpp-0-5")]
    assert rows == {
        ("all", None): kept,
        ("without", "0.5 µm/px"): [name for name in kept if name not in fine],
        ("alone", "0.5 µm/px"): fine,
        ("without", "1 µm/px"): fine,
        ("alone", "1 µm/px"): [name for name in kept if name not in fine],
    }


def test_a_slide_is_graded_through_the_cards_as_it_was_scored(trained, cases):
    graders = bag_networks.published(str(trained.card))
    assert [card.name for card in graders.cards] == [f"dots-v1-{name}" for name in trained.record["kept"]]
    assert graders.classes == made_up_bags.CLASSES
    card = graders.cards[-1]
    network = bag_networks.load(card, graders.choice)
    with open_frame(cases / "test201.png", rule_of(card), mpp=0.5) as frame:
        found = grade_bags(frame, card, network, BagDraw())
    kept = answers(trained, "test", card.name.removeprefix("dots-v1-"))
    assert kept.slides.tolist()[-1] == "test201"
    assert found.probabilities == pytest.approx(kept.probabilities[-1], abs=1e-6)


def test_the_folder_holds_tables_and_curves(trained):
    assert (trained.folder / "runs" / "mpp-1" / "curves.png").read_bytes().startswith(b"\x89PNG")
    with (trained.folder / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["member"] for row in rows} == {"ensemble", *trained.record["kept"]}
    assert {row["level"] for row in rows} == {"slide", "case"}
    with (trained.folder / "tiles.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["case"], first["part"], first["tiles at 0.5 µm/px"], first["tiles at 1 µm/px"]) == (
        "train000", "train", "16", "4",
    )  # fmt: skip
    summary = (trained.folder / "summary.md").read_text()
    assert "| mpp-1-last | " in summary
    assert "| without 0.5 µm/px | " in summary


def test_a_training_that_was_stopped_gives_what_one_that_was_not_gives(trained, cases, tmp_path):
    at_once = digipath.train(cases / "plain.toml", out=tmp_path / "out")
    for name in trained.record["kept"]:
        ours, theirs = answers(trained, "test", name), answers(at_once, "test", name)
        assert ours.probabilities.tobytes() == theirs.probabilities.tobytes(), name
    assert at_once.record["kept"] == trained.record["kept"]
    assert at_once.scores == trained.scores


def test_only_words_may_change_in_a_finished_training(trained, cases):
    text = (cases / "plain.toml").read_text()
    (cases / "words.toml").write_text(text.replace("denser dots", "denser nuclei"))
    runs = [path.stat().st_mtime_ns for path in sorted(trained.folder.glob("runs/*/*.h5"))]
    again = digipath.train(cases / "words.toml", out=trained.folder)
    assert load_card(str(again.card)).record["task"] == "denser nuclei"
    assert [path.stat().st_mtime_ns for path in sorted(trained.folder.glob("runs/*/*.h5"))] == runs
    (cases / "other.toml").write_text(text.replace("drawn = 6", "drawn = 7"))
    with pytest.raises(CaseDiffers, match=r"config \(bags\.drawn: 6, now 7\)"):
        digipath.train(cases / "other.toml", out=trained.folder)


def test_a_frozen_network_is_the_whole_one_with_the_head_that_learned(frozen, cases):
    """Head of the embeddings = the shipped network on the same crops; the embedder is as it began."""
    plan, bench = plan_of(cases, "frozen.toml")
    run, folder = plan.runs[0], frozen.folder / "runs" / "mpp-0-5"
    card = load_card(str(frozen.folder / "weights" / "dots-v1-mpp-0-5-last.json"))
    views = np.load(folder / "embeddings" / "train-3.npy")
    assert views.shape == (2, 8, 8)  # views, tiles, features
    assert len(list((folder / "embeddings").iterdir())) == 6 + 3
    slides = bench.slides(run, "train")
    crops = list(read_views(slides, plan, 0.5, 3, run.seed))[1]
    scaled = scaled_for(card, crops)
    head = mil_head(features=8, classes=3, pooling="max-mean")
    head.load_weights(folder / "network-minus0.weights.h5")
    whole = np.asarray(network_of(card)(scaled[None], training=False))[0]
    assert np.asarray(head(views[1][None], training=False))[0] == pytest.approx(whole, abs=1e-5)
    assert not np.array_equal(views[0], views[1])
    networks = [network_of(load_card(str(path))) for path in frozen.cards[1:3]]
    first, second = ([w.numpy() for w in network.get_layer("tiles").layer.weights] for network in networks)
    assert all(map(np.array_equal, first, second))
    assert not np.array_equal(*(network.get_layer("logits").kernel.numpy() for network in networks))


def test_validation_slides_are_embedded_the_same_for_every_run(frozen, cases):
    """Their tiles are of the split's seed, 0, not of the second run's, 1."""
    plan, bench = plan_of(cases, "frozen.toml")
    assert (plan.runs[1].seed, plan.config.split.seed) == (1, 0)
    card = load_card(str(frozen.folder / "weights" / "dots-v1-mpp-1-last.json"))
    embed = network_of(card).get_layer("tiles")
    kept = np.load(frozen.folder / "runs" / "mpp-1" / "embeddings" / "validation-2.npy")
    slides = bench.slides(plan.runs[1], "validation")
    found, other = (
        np.asarray(embed(scaled_for(card, next(read_views(slides, plan, 1.0, 2, seed)))[None])) for seed in (0, 1)
    )
    assert kept == pytest.approx(found, abs=1e-4)
    assert np.abs(kept - other).max() > 1e-2


def test_the_views_of_a_slide_are_read_from_one_open_file(cases, monkeypatch):
    plan, bench = plan_of(cases, made_up_bags.write_config(cases, "views.toml", network=FROZEN).name)
    opened, open_slide = [], tile_source.open_slide
    monkeypatch.setattr(tile_source, "open_slide", lambda path, **mpp: opened.append(path) or open_slide(path, **mpp))
    slides = bench.slides(plan.runs[0], "train")
    assert len(list(read_views(slides, plan, 0.5, 3, 0))) == 2
    assert opened == [slides.cases[3].slide]


@pytest.mark.parametrize("pooling", ["max-mean", "gated-attention"])
def test_the_head_is_what_follows_the_embedder_in_the_whole_network(pooling):
    config = {"embedder": "resnet18", "embedder_config": {"widths": [4, 8, 8, 8]}, "pooling": pooling, "patch": 32}
    network = nn.build("mil", **config, classes=3)
    head = mil_head(features=8, classes=3, pooling=pooling)
    for layer in (one for one in head.layers if one.weights):
        layer.set_weights(network.get_layer(layer.name).get_weights())
    bag = np.random.default_rng(0).normal(size=(1, 5, 32, 32, 3)).astype(np.float32)
    features = np.asarray(network.get_layer("tiles")(bag))
    assert np.asarray(head(features)) == pytest.approx(np.asarray(network(bag)), abs=1e-6)


def test_frozen_cards_say_so_and_grade(frozen, cases, capsys):
    record = load_card(str(frozen.cards[1])).record
    told = "Only pooling and head were trained on slides; the embedder's weights are random weights."
    assert told in record["limits"]
    assert record["network"]["name"] == "mil"
    assert "remat" not in record["network"]["config"]
    assert bag_networks.published(str(frozen.card)).classes == made_up_bags.CLASSES
    assert main(["train", "--config", str(cases / "frozen.toml"), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert "resnet18 from random weights that stay, only pooling and head learn; max-mean; 8,559 parameters" in plan


def test_embedded_bags_are_rows_of_one_view_and_depend_on_the_index_alone(tmp_path):
    views = np.arange(2 * 5 * 3, dtype=np.float32).reshape(2, 5, 3)
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", views + 100 * number)
    cases = tuple(SimpleNamespace(name=name) for name in "abc")
    slides = Slides(cases, ((), (), ()), (0, 1, 2))
    files = [tmp_path / f"{number}.npy" for number in range(3)]
    bags = EmbeddedBags(files, slides, classes=3, bag=4, seed=7)
    assert bags.shapes == ((4, 3), (3,))
    seen = []
    for index in range(6):
        bag, truth = bags.sample(index)
        slide = int(truth.argmax())
        rows = ((bag[:, 0] - 100 * slide) / 3).astype(int)
        assert len(set(rows)) == 4
        assert len(set(rows // 5)) == 1
        assert bags.names([index]) == ["abc"[slide]]
        seen.append(slide)
        assert all(map(np.array_equal, bags.sample(index), (bag, truth)))
    assert sorted(seen[:3]) == sorted(seen[3:]) == [0, 1, 2]  # each slide once an epoch
    few = EmbeddedBags(files, slides, classes=3, bag=7, seed=7, shuffle=False)
    assert len(np.unique(few.sample(1)[0], axis=0)) == 5  # all there are, some twice
    (tmp_path / "1.npy").write_bytes(b"damaged")
    with pytest.raises(BadInput, match=r"embeddings of tiles are damaged .*1\.npy"):
        EmbeddedBags(files, slides, classes=3, bag=4, seed=7)


def test_recomputing_trains_to_the_same_answers(trained, cases, tmp_path):
    config = made_up_bags.write_config(cases, "remat.toml", network="remat = true", measure="balanced_accuracy")
    config.write_text(config.read_text().replace("mpps = [0.5, 1.0]", "mpps = [0.5]"))
    result = digipath.train(config, out=tmp_path / "out")
    assert result.record["kept"] in (["mpp-0-5-last"], ["mpp-0-5-minus-1"])
    ours, theirs = (answers(one, "validation", "mpp-0-5-last").probabilities for one in (result, trained))
    assert ours == pytest.approx(theirs, abs=1e-3)
    # What stays alone has the short name itself.
    shipped = load_card(str(result.card)).record
    assert (shipped["name"], shipped["kind"], shipped["file"]) == (
        "dots-v1", "network", f"dots-v1-{result.record['kept'][0]}.weights.h5",
    )  # fmt: skip
    assert bag_networks.published(str(result.card)).cards[0].name == "dots-v1"
    assert [row["kind"] for row in result.record["ablation"]] == ["all"]


@pytest.mark.parametrize("network", ["", FROZEN])
def test_a_rare_class_weighs_more(cases, tmp_path, monkeypatch, network):
    """Of grades 2, 3 and 4 there are 1, 2 and 2 slides to train on: 1 / n, scaled to a mean of 1."""
    plan, bench = plan_of(cases, made_up_bags.write_config(cases, "rare.toml", network=network).name)
    split = dataclasses.replace(plan.split, train=plan.split.train[1:])
    bench = dataclasses.replace(bench, plan=dataclasses.replace(plan, split=split), weights=tmp_path)
    learned = []

    def fitted(*_, objective, **__):
        learned.append(objective.identity["class_weights"])
        raise Cancelled("seen enough")

    monkeypatch.setattr(frozen_bags if network else bag_runs, "fit", fitted)
    with pytest.raises(Cancelled, match="seen enough"):
        train_bags(plan.runs[0], bench, tmp_path / "run")
    assert learned == [pytest.approx([1.5, 0.75, 0.75])]


@pytest.fixture(scope="module")
def stained(cases, tmp_path_factory):
    """A frozen network of one magnification, for slides brought to a stain."""
    config = made_up_bags.write_config(cases, "stained.toml", network=FROZEN)
    text = config.read_text().replace("mpps = [0.5, 1.0]", 'mpps = [1.0]\nstain = "macenko"')
    config.write_text(text.replace("drop = 1", "drop = 0"))
    return digipath.train(config, out=tmp_path_factory.mktemp("stained") / "out")


def test_tiles_are_brought_to_the_stain_before_they_are_embedded_and_scaled(stained, cases):
    plan, bench = plan_of(cases, "stained.toml")
    run, folder = plan.runs[0], stained.folder / "runs" / "mpp-1"
    card = load_card(str(stained.cards[1]))
    embed = network_of(card).get_layer("tiles")
    for part, seed in (("train", run.seed), ("validation", plan.config.split.seed)):
        slides, kept = bench.slides(run, part), np.load(folder / "embeddings" / f"{part}-2.npy")
        found = np.asarray(embed(scaled_for(card, next(read_views(slides, plan, 1.0, 2, seed)))[None]))[0]
        assert kept[0] == pytest.approx(found, abs=1e-4)
    with (
        _source(run, bench, "train", as_they_are=True) as source,
        open_frame(cases / "train000.png", plan.config.bags.rule(1.0), mpp=0.5, stain=REFERENCES["macenko"]) as frame,
    ):
        middles = {frame.tile((row, column))[16:48, 16:48].tobytes() for row in (0, 1) for column in (0, 1)}
        assert {tile.astype(np.uint8).tobytes() for tile in source.sample(0)[0]} == middles
        as_they_are = dataclasses.replace(plan, config=dataclasses.replace(plan.config, augmentation=None))
        for view in read_views(bench.slides(run, "train"), as_they_are, 1.0, 0, run.seed):
            assert {tile.tobytes() for tile in view} == middles
        assert list(channel_scaling(source, len(source))[0]) == pytest.approx(card.record["input"]["scale"])


def test_all_cards_name_the_stain_and_grade_brings_a_slide_to_it(stained, cases, tmp_path):
    assert len(stained.cards) == 3
    for path in stained.cards:
        assert bag_networks.published(str(path)).stain == REFERENCES["macenko"]
    votes = [answers(stained, "test", name) for name in stained.record["kept"]]
    vote = np.mean([one.probabilities for one in votes], axis=0)
    assert votes[0].slides.tolist()[-1] == "test201"
    grades, notes = {}, {}
    for stain in (None, "none"):
        out = tmp_path / str(stain)
        grade = digipath.grade(cases / "test201.png", weights=str(stained.card), mpp=0.5, stain=stain, out=out)
        grades[stain], notes[stain] = list(grade.bags["probabilities"].values()), grade.slides[0].run["notes"]
    assert grades[None] == pytest.approx(vote[-1], rel=0.01, abs=0)  # however small
    assert grades["none"] != pytest.approx(vote[-1], rel=0.1, abs=0)
    told = "The network was trained on slides normalised (macenko) and sees this one as it is, as asked."
    assert (told in notes[None], told in notes["none"]) == (False, True)


def test_a_measure_that_the_validation_slides_do_not_define(cases):
    plan = prepare_bags(cases / "plain.toml")
    one_class = Answers(
        np.zeros(3, np.int64), np.full((3, 3), 1 / 3, np.float32), np.array(list("abc")), np.array(list("abc")),
        np.zeros(3, np.int64), np.full(3, 2, np.int64), np.array(list("abc")),
    )  # fmt: skip
    with pytest.raises(BadInput, match="validation slides that define macro_auroc"):
        chosen(plan, {name: one_class for name in SNAPSHOTS})
