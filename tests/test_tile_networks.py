"""What grades tiles: cards and how they fit together, modular pairs, and the caller's own predictors."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import digipath
from digipath.errors import BadCard, BadInput, BadPredictor, UnknownWeights, WeightsCorrupt
from digipath.grading import explanations
from digipath.grading.explanations import explainer_of
from digipath.grading.tile_networks import ModularPredictor, modular_channels, own, published
from digipath.tiling import TileRule

sys.path.insert(0, str(Path(__file__).parent))
import fakes

GRADES = ["grade 2", "grade 3", "grade 4"]
CARD = {
    "schema": 1,
    "kind": "network",
    "task": "grading glioma",
    "output": "tile",
    "activation": "softmax",
    "input": {
        "modality": "slide", "mpp": 0.5, "patch": 64, "least_tissue": 0.8, "scale": 1 / 127.5, "offset": -1.0,
        "stain": None,
    },
    "licence": "CC0-1.0",
    "citation": "none",
    "training": {"data": "none", "split": "none"},
    "metrics": [],
    "intended_use": "tests",
    "limits": ["tests"],
}  # fmt: skip
BYTES = b"weights"


@pytest.fixture
def cards(tmp_path, monkeypatch):
    """Functions that write cards into a DIGIPATH_HOME: of networks (with a file of no weights), and of several."""
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path))
    folder = tmp_path / "weights"
    folder.mkdir()

    def write(record):
        path = folder / f"{record['name']}.json"
        path.write_text(json.dumps({key: value for key, value in record.items() if value is not ...}))
        return record["name"]

    def network(name, classes, content=BYTES, **changes):
        (folder / f"{name}.weights.h5").write_bytes(content)
        config = {"classes": len(classes), "widths": [4, 4, 4, 4]}
        made = {
            "name": name, "classes": classes, "network": {"name": "resnet18", "config": config},
            "file": f"{name}.weights.h5", "urls": [], "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }  # fmt: skip
        made |= {"positive": classes[-1]} if len(classes) == 2 else {}
        return write({**CARD, **made, **changes})

    def several(name, kind, members, classes=GRADES, **changes):
        return write({**CARD, "name": name, "kind": kind, "members": members, "classes": classes, **changes})

    network.several = several
    return network


@pytest.fixture
def pair(cards):
    """A modular card of grades 2, 3 and 4, whose networks have their classes in another order."""
    cards("first", ["grade 4", "rest"])
    cards("second", ["grade 3", "grade 2"])
    return cards.several("pair", "modular", ["first", "second"])


def test_a_card_says_which_tiles_and_classes(cards):
    graders = published(cards("one", GRADES), runtime="keras")
    assert graders.classes == tuple(GRADES)
    assert graders.rule == TileRule(0.5, 64, 0.8, "auto")
    assert (graders.count, [card.name for card in graders.cards]) == (1, ["one"])
    assert graders.identity["sha256"] == {"one": hashlib.sha256(BYTES).hexdigest()}
    assert published("one", tile_px=96, runtime="keras").rule.tile_px == 96
    with pytest.raises(BadInput, match="tiles of at least 32 px for these networks, got 31"):
        published("one", tile_px=31)
    cards("fixed", GRADES, network={"name": "resnet18", "config": {"classes": 3, "patch": 64}})
    assert published("fixed", runtime="keras").rule.tile_px == 64
    with pytest.raises(BadInput, match="tiles of 64 px, the only ones that fixed takes, got 96"):
        published("fixed", tile_px=96)


def test_an_ensemble_may_hold_networks_and_modular_pairs(cards, pair):
    cards("one", GRADES)
    graders = published(cards.several("all", "ensemble", ["one", pair]), runtime="keras")
    assert graders.count == 2
    assert [card.name for card in graders.cards] == ["one", "first", "second"]
    assert [member.card.name for member in graders.members] == ["one", "pair"]
    assert set(graders.identity["sha256"]) == {"one", "first", "second"}


def of_input(**changes):
    return {"input": {**CARD["input"], **changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["grade 4", "grade 3", "grade 2"]}, "member other has the classes"),
        ({"classes": ["II", "III", "IV"]}, "member other has the classes"),
        (of_input(mpp=1.0), "members one and other differ in mpp or tiles"),
        (of_input(patch=128), "members one and other differ in mpp or tiles"),
        (of_input(least_tissue=0.5), "members one and other differ in mpp or tiles"),
        (of_input(tissue="white-tiles"), "members one and other differ in mpp or tiles"),
        (of_input(stain={"method": "macenko"}), "differ in the stain|wrong input.stain"),
        ({"output": "bag"}, "other is no network for tiles of slides"),
        ({"output": ...}, "other is no network for tiles of slides"),
        ({"network": {"name": "resnet18", "config": {"classes": 2}}}, "expected a network of classes=3"),
    ],
)
def test_members_that_do_not_fit_together_are_one_line(cards, changes, message):
    cards("one", GRADES)
    classes = changes.get("classes", GRADES)
    cards("other", classes, **{key: value for key, value in changes.items() if key != "classes"})
    with pytest.raises(BadCard, match=message) as caught:
        published(cards.several("both", "ensemble", ["one", "other"]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["rest", "grade 3"], ["grade 2", "grade 3"]),
        (["rest", "grade 4"], ["grade 2", "grade 4"]),
        (["rest", "grade 4"], ["grade 2", "grade 3", "grade 4"]),
        (GRADES, ["grade 2", "grade 3"]),
    ],
)
def test_a_pair_that_does_not_tell_the_highest_grade_and_then_the_rest_is_refused(cards, first, second):
    cards("first", first)
    cards("second", second)
    with pytest.raises(BadCard, match="tell 'grade 4' from the rest, and 'grade 2', 'grade 3' apart"):
        published(cards.several("pair", "modular", ["first", "second"]))


def test_cards_that_cannot_be_are_refused(cards, pair):
    cards("third", ["grade 2", "grade 3"])
    for name, kind, members, changes in (
        ("three", "modular", ["first", "second", "third"], {}),
        ("bags", "modular", ["first", "second"], {"output": "bag"}),
        ("two", "modular", ["first", "second"], {"classes": GRADES[:2]}),
        ("sigmoid", "modular", ["first", "second"], {"activation": "sigmoid"}),
        ("nested", "modular", [pair, "second"], {}),
        ("deep", "ensemble", ["all", "second"], {}),
    ):
        if name == "deep":
            cards.several("all", "ensemble", [pair, "second"])
        with pytest.raises(BadCard):
            published(cards.several(name, kind, members, **changes))
    with pytest.raises(UnknownWeights, match="absent"):
        published(cards.several("lost", "modular", ["absent", "second"]))
    (Path(published(pair).cards[0].file)).write_bytes(b"others")
    with pytest.raises(WeightsCorrupt, match="first"):
        published(pair)


def test_weights_of_pixels_do_not_grade_and_weights_of_tiles_do_not_segment(cards, small_slide, tmp_path):
    with pytest.raises(BadInput, match="weights that grade tiles of slides, lymphnode-ensemble-v1 is of kind ensemble"):
        digipath.grade(small_slide.path, weights="lymphnode-ensemble-v1", out=tmp_path / "case")
    with pytest.raises(BadInput, match="one answers for whole tiles, not for pixels; use it with `digipath grade`"):
        digipath.segment(small_slide.path, weights=cards("one", GRADES), out=tmp_path / "case")
    with pytest.raises(BadInput, match="weights that grade tiles of slides, lymphnode-pn-forest-v1 is of kind forest"):
        digipath.grade(small_slide.path, weights="lymphnode-pn-forest-v1", out=tmp_path / "case")
    assert not (tmp_path / "case").exists()


def test_a_pair_does_not_segment(pair, small_slide, tmp_path):
    with pytest.raises((BadInput, BadCard), match="pair"):
        digipath.segment(small_slide.path, weights=pair, out=tmp_path / "case")
    assert not (tmp_path / "case").exists()


@pytest.mark.parametrize("side", [64, 16])
def test_modular_pairs_answer_like_one_network_of_all_grades(side):
    """p(top) = p₁(top), p(c) = (1 − p₁(top)) · p₂(c), whatever the order of their channels."""
    rng = np.random.default_rng(side)
    first, second = rng.dirichlet([1, 1], 5).astype(np.float32), rng.dirichlet([1, 1], 5).astype(np.float32)
    batches = []

    def one(tiles):
        batches.append(len(tiles))
        return first[: len(tiles)]

    one.batch, one.parallel = 4, 3
    made = ModularPredictor(one, lambda tiles: second[: len(tiles)], top=0, rest=(1, 0), name="pair")
    assert (made.batch, made.parallel, made.name) == (1, 1, "pair")
    answer = made(np.zeros((5, side, side, 3), np.uint8))
    expected = np.stack([first[:, 1] * second[:, 1], first[:, 1] * second[:, 0], first[:, 0]], axis=1)
    np.testing.assert_allclose(answer, expected, atol=1e-6)
    assert answer.dtype == np.float32
    assert batches == [5]


def test_the_classes_of_a_pair_are_found_in_its_networks(pair):
    (member,) = published(pair, runtime="keras").members
    assert modular_channels(member.card, *member.networks) == (0, (1, 0))


@pytest.fixture
def trained(cards, tmp_path):
    """An ensemble of a network and a modular pair with random weights; the Keras networks by name, and a tile."""
    from digipath.nn import build

    networks = {}
    for name, classes in (("one", GRADES), ("first", ["grade 4", "rest"]), ("second", ["grade 3", "grade 2"])):
        networks[name] = build("resnet18", classes=len(classes), widths=(4, 4, 4, 4))
        file = tmp_path / "made.weights.h5"
        networks[name].save_weights(file)
        cards(name, classes, content=file.read_bytes())
    cards.several("pair", "modular", ["first", "second"])
    cards.several("all", "ensemble", ["one", "pair"])
    return networks, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.mark.keras
@pytest.mark.slow
def test_networks_of_cards_answer_as_keras_does_and_pairs_by_the_formula(trained, tmp_path):
    """Weights written by Keras, read through cards; what is shown of a tile comes from the network that decides."""
    import keras

    from digipath.explanations import grad_cam

    networks, tile = trained
    scaled = tile / np.float32(127.5) - 1
    said = {name: keras.ops.convert_to_numpy(net(scaled[None], training=False))[0] for name, net in networks.items()}
    (top, rest), (third, second) = said["first"], said["second"]
    expected = np.array([said["one"], [rest * second, rest * third, top]])
    Image.fromarray(tile).save(tmp_path / "tile.png")
    options = {"weights": "all", "runtime": "keras", "mpp": 0.5, "keep_members": True, "gallery": 0}
    result = digipath.grade(tmp_path / "tile.png", out=tmp_path / "case", **options)
    maps = result.slides[0].maps
    np.testing.assert_allclose(result.probabilities[0], expected.mean(axis=0), atol=2e-3)
    np.testing.assert_allclose(maps["members/one"][0, 0], expected[0], atol=2e-3)
    np.testing.assert_allclose(maps["members/pair"][0, 0], expected[1], atol=2e-3)
    np.testing.assert_allclose(maps["epistemic"][0, 0], expected.var(axis=0), atol=1e-3)
    explain = explainer_of(published("all", runtime="keras"))
    for grade, asked, channel in ((0, "second", 1), (2, "first", 0)):
        both = [grad_cam(networks["one"], scaled, target=grade), grad_cam(networks[asked], scaled, target=channel)]
        np.testing.assert_allclose(explain(tile, grade), np.mean(both, axis=0), atol=1e-3)


@pytest.mark.keras
@pytest.mark.slow
def test_networks_are_cut_in_two_once_for_all_tiles(trained, monkeypatch):
    _, tile = trained
    made = []

    class Counted(explanations.GradCam):
        def __init__(self, network):
            made.append(network)
            super().__init__(network)

    monkeypatch.setattr(explanations, "GradCam", Counted)
    explain = explainer_of(published("all", runtime="keras"))
    assert len(made) == 3
    for grade in (0, 1, 2, 2):
        assert explain(tile, grade).shape == tile.shape[:2]
    assert len(made) == 3


def answering(values, **attributes):
    def predictor(tiles):
        return np.tile(np.asarray(values, np.float32), (len(tiles), 1))

    predictor.patch = 32
    for name, value in attributes.items():
        setattr(predictor, name, value)
    return predictor


def test_own_predictors_say_what_they_want():
    graders = own([fakes.grader, fakes.grader])
    assert (graders.rule.mpp, graders.rule.tile_px, graders.rule.least_tissue) == (None, 256, 0.9)
    assert (graders.classes, graders.count, graders.cards) == (tuple(GRADES), 2, ())
    assert own([answering([0.5, 0.5], at_mpp=1.0)]).rule.mpp == 1.0
    assert own([answering([0.5, 0.2, 0.1, 0.2])]).classes == ("class 0", "class 1", "class 2", "class 3")
    assert own([answering([0.2, 0.8])], tile_px=77).rule.tile_px == 77
    assert own([answering([0.2, 0.8])]).identity != own([answering([0.8, 0.2])]).identity


@pytest.mark.parametrize(
    ("predictors", "error", "message"),
    [
        ([], BadInput, "predictors is empty"),
        ([answering([1])], BadPredictor, "two or more classes"),
        ([answering([0.5, 0.4])], BadPredictor, r"sum to 1, got a sum of 0\.9"),
        ([answering([0.9, 0.9])], BadPredictor, "sum to 1"),
        ([answering([1.5, -0.5])], BadPredictor, r"values in \[0, 1\]"),
        ([answering([np.nan, 1])], BadPredictor, r"values in \[0, 1\]"),
        ([answering([0.5, 0.5], classes=GRADES)], BadPredictor, r"\[2\] for"),
        ([answering([0.5, 0.5]), answering([0.5, 0.25, 0.25])], BadPredictor, "the same two or more classes"),
        ([answering([0.5, 0.5]), answering([0.5, 0.5], patch=64)], BadInput, "must agree"),
        ([answering([0.5, 0.5]), answering([0.5, 0.5], at_mpp=0.5)], BadInput, "must agree"),
        ([answering([0.5, 0.5]), answering([0.5, 0.5], classes=GRADES[:2])], BadInput, "must agree"),
        ([fakes.redness], BadPredictor, r"predictor redness must return \(1, classes\), got \(1, 256, 256, 1\)"),
        ([lambda tiles: np.zeros((2, 3))], BadPredictor, r"must return \(1, classes\), got \(2, 3\)"),
        ([lambda tiles: "grade 4"], BadPredictor, "must return an array, got str"),
    ],
)
def test_own_predictors_that_break_the_contract_are_one_line(predictors, error, message):
    with pytest.raises(error, match=message) as caught:
        own(predictors)
    assert "\n" not in str(caught.value)
