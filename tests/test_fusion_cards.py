"""Fusion cards: what they may say, and that nothing is left of what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up_graders import write_ensemble
from made_up_votes import GRADES, write_card, write_tile_card

from digipath.errors import BadCard, BadInput, OutputUnwritable, UnknownWeights
from digipath.grading.fusion import published
from digipath.grading.fusion_cards import FusionPlan, write_fusion
from digipath.weights import load_card

LGG_HGG = {"grade 2": "LGG", "grade 3": "LGG", "grade 4": "HGG"}


@pytest.fixture
def cards(tmp_path):
    """Members of the same three grades, one of two, and one that segments."""
    folder = tmp_path / "cards"
    write_tile_card(folder, "slides-v1")
    write_card(folder, "mri-v1")
    write_card(folder, "other-v1", order=["t1c"])
    write_card(folder, "coarse-v1", classes=("LGG", "HGG"))
    write_card(folder, "rising-v1", classes=("grade 4", "grade 3", "grade 2"))
    record = json.loads(write_card(folder, "finder-v1", classes=("other", "tumour")).read_text("utf-8"))
    del record["input"]["roi"]
    (folder / "finder-v1.json").write_text(json.dumps(record | {"output": "voxels"}))
    return folder


def fusion_card(folder: Path, members, *, classes=GRADES, **more) -> Path:
    """A fusion card as somebody might write it by hand."""
    path = write_ensemble(folder, "both-v1", members, kind="fusion", classes=list(classes))
    record = json.loads(path.read_text("utf-8")) | {"output": "case", "input": {"modality": "case"}, **more}
    path.write_text(json.dumps({key: value for key, value in record.items() if key != "activation"}))
    return path


def read(path: Path):
    return published(load_card(str(path)))


def test_members_have_weight_one_and_the_classes_of_the_fusion(cards):
    found = read(fusion_card(cards, ["slides-v1", "mri-v1"], vote_weights={"mri-v1": 2.5}))
    assert [(one.card.name, one.weight, one.mapping, one.of_slides) for one in found.members] == [
        ("slides-v1", 1.0, None, True), ("mri-v1", 2.5, None, False),
    ]  # fmt: skip


def test_a_member_may_have_the_classes_in_another_order(cards):
    assert read(fusion_card(cards, ["slides-v1", "rising-v1"])).members[1].mapping is None


def test_classes_that_mean_others_are_declared(cards):
    path = fusion_card(
        cards, ["slides-v1", "coarse-v1"], classes=["LGG", "HGG"], positive="HGG", mapping={"slides-v1": LGG_HGG}
    )
    assert read(path).members[0].mapping == LGG_HGG


@pytest.mark.parametrize(
    ("members", "more", "message"),
    [
        (["slides-v1", "mri-v1"], {"vote_weights": {"other-v1": 2}}, "classes of other-v1, which is no member"),
        (["slides-v1", "mri-v1"], {"mapping": {"other-v1": LGG_HGG}}, "classes of other-v1, which is no member"),
        (["slides-v1", "coarse-v1"], {}, "coarse-v1 has the classes LGG, HGG; expected a mapping to grade 2, grade 3"),
        (
            ["slides-v1", "coarse-v1"],
            {"mapping": {"coarse-v1": {"LGG": "grade 2", "HGG": "grade 4"}}},  # nothing would mean grade 3
            "expected a mapping of LGG, HGG to grade 2, grade 3, grade 4 for coarse-v1",
        ),
        (
            ["slides-v1", "coarse-v1"],
            {"classes": ["LGG", "HGG"], "mapping": {"slides-v1": {"grade 2": "LGG", "grade 4": "HGG"}}},
            "expected a mapping of grade 2, grade 3, grade 4 to LGG, HGG for slides-v1",
        ),
        (
            ["slides-v1", "coarse-v1"],
            {"classes": ["LGG", "HGG"], "mapping": {"slides-v1": LGG_HGG | {"grade 4": "WHO 4"}}},
            "expected a mapping of grade 2, grade 3, grade 4 to LGG, HGG for slides-v1",
        ),
        (["slides-v1", "finder-v1"], {}, "member finder-v1 grades neither slides nor volumes"),
        (["mri-v1", "lymphnode-pn-forest-v1"], {}, "member lymphnode-pn-forest-v1 grades neither slides nor volumes"),
        (["slides-v1", "lymphnode-ensemble-v1"], {}, "lymphnode-ensemble-v1 grades neither slides nor volumes"),
        (["slides-v1", "both-v1"], {}, "member both-v1 grades neither slides nor volumes"),
        (["slides-v1", "mri-v1"], {"vote_weights": {"mri-v1": 0}}, "breaks its schema at vote_weights/mri-v1"),
        (["slides-v1", "mri-v1"], {"vote_weights": {"mri-v1": -1}}, "breaks its schema at vote_weights/mri-v1"),
        (["mri-v1"], {}, "breaks its schema at members"),
    ],
)
def test_what_a_fusion_may_not_be(cards, members, more, message):
    with pytest.raises(BadCard, match=message) as caught:
        read(fusion_card(cards, members, **more))
    assert str(cards / "both-v1.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("output", "heeds"), [("volume", True), ("tile", False), ("bag", False), ("pixels", False), (None, False)]
)
def test_weights_of_a_vote_are_refused_where_nobody_would_heed_them(cards, output, heeds):
    path = write_ensemble(cards, "both-v1", ["slides-v1", "mri-v1"], weights={"mri-v1": 2.0})
    record = json.loads(path.read_text("utf-8")) | {"output": output}
    path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))
    if heeds:
        assert load_card(str(path)).record["vote_weights"] == {"mri-v1": 2.0}
        return
    with pytest.raises(BadCard, match="breaks its schema"):
        load_card(str(path))


def test_a_member_without_a_card(cards):
    with pytest.raises(UnknownWeights, match="no weights called 'nobody-v1'"):
        read(fusion_card(cards, ["slides-v1", "nobody-v1"]))


def written(cards, name="both-v1", members=("slides-v1", "mri-v1"), **more) -> dict:
    path = write_fusion(FusionPlan(name, members, **more), cards)
    assert path == cards / f"{name}.json"
    read(path)
    return json.loads(path.read_text("utf-8"))


def test_a_written_card_says_what_it_is(cards):
    record = written(cards, weights={"mri-v1": 0.5})
    assert (record["kind"], record["output"], record["input"]) == ("fusion", "case", {"modality": "case"})
    assert (record["classes"], record["positive"]) == (list(GRADES), None)
    assert (record["members"], record["vote_weights"], record["mapping"]) == (
        ["slides-v1", "mri-v1"], {"mri-v1": 0.5}, {},
    )  # fmt: skip
    assert record["limits"][:2] == ["slides-v1 knows nothing.", "mri-v1 knows nothing."]
    assert "not scored on patients" in record["limits"][-1]
    assert "Not for diagnosis" in record["intended_use"]
    assert (record["licence"], record["metrics"]) == ("MIT", [])
    assert "arXiv:2009.01983, section 2.3" in record["citation"]


def test_two_classes_have_the_higher_as_the_positive_one(cards):
    record = written(cards, members=["coarse-v1", "slides-v1"], meanings={"slides-v1": LGG_HGG})
    assert (record["classes"], record["positive"]) == (["LGG", "HGG"], "HGG")
    assert record["mapping"] == {"slides-v1": LGG_HGG}


def test_the_classes_are_those_that_meanings_were_written_for_whoever_is_dropped(cards):
    scores = {"coarse-v1": 0.5, "slides-v1": 0.8, "mri-v1": 0.9}
    meanings = {"slides-v1": LGG_HGG, "mri-v1": LGG_HGG}
    record = written(cards, members=[*scores], validation=scores, drop=1, meanings=meanings)
    assert (record["classes"], record["members"]) == (["LGG", "HGG"], ["slides-v1", "mri-v1"])
    assert record["mapping"] == meanings


def test_the_worst_members_are_dropped(cards):
    scores = {"slides-v1": 0.84, "mri-v1": 0.91, "other-v1": 0.8}
    record = written(cards, members=[*scores], validation=scores, drop=1, weights={"mri-v1": 3, "other-v1": 2})
    assert record["members"] == ["slides-v1", "mri-v1"]
    assert record["vote_weights"] == {"mri-v1": 3}
    assert record["training"]["split"] == "members without the 1 of the lowest validation score: other-v1"
    assert record["training"]["validation"] == scores
    assert written(cards, members=[*scores], validation=scores)["members"] == [*scores]


def test_a_fusion_may_be_written_again(cards):
    written(cards)
    assert written(cards, weights={"slides-v1": 2})["vote_weights"] == {"slides-v1": 2}


def test_packaged_members_are_known_by_name(cards, tmp_path):
    write_fusion(FusionPlan("both-v1", ["glioma-tiles-demo-v1", "mri-v1"]), cards)
    assert [one.card.name for one in read(cards / "both-v1.json").members] == ["glioma-tiles-demo-v1", "mri-v1"]


def test_members_may_be_named_by_their_files_beside_the_fusion(cards):
    assert written(cards, members=[str(cards / "slides-v1.json"), "mri-v1"])["members"] == ["slides-v1", "mri-v1"]


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        ({"weights": {"other-v1": 2}}, BadInput, "scores of the members slides-v1, mri-v1, got other-v1"),
        ({"meanings": {"nobody": LGG_HGG}}, BadInput, "of the members slides-v1, mri-v1, got nobody"),
        ({"validation": {"nobody": 1.0}}, BadInput, "of the members slides-v1, mri-v1, got nobody"),
        ({"weights": {"mri-v1": float("nan")}}, BadInput, "finite numbers, got nan for mri-v1"),
        ({"validation": {"mri-v1": float("inf")}}, BadInput, "finite numbers, got inf for mri-v1"),
        ({"weights": {"mri-v1": 0.0}}, BadCard, "breaks its schema at vote_weights/mri-v1"),
        ({"drop": 1}, BadInput, r"a validation score of each member to drop the worst, got \[\]"),
        ({"drop": 1, "validation": {"mri-v1": 0.5}}, BadInput, r"of each member to drop the worst, got \['mri-v1'\]"),
        ({"drop": 1, "validation": {"mri-v1": 0.5, "slides-v1": 0.6}}, BadInput, "two or more different members, got"),
        ({"drop": -1, "validation": {"mri-v1": 0.5, "slides-v1": 0.6}}, BadInput, "to drop 0 to 1 members, got -1"),
        ({"members": ["mri-v1"]}, BadInput, "two or more different members, got mri-v1"),
        ({"members": ["mri-v1", "mri-v1"]}, BadInput, "two or more different members, got mri-v1"),
        ({"members": ["mri-v1", "slides-v1", "mri-v1"]}, BadCard, "breaks its schema at members"),
        ({"members": ["mri-v1", "nobody-v1"]}, UnknownWeights, "no weights called 'nobody-v1'"),
        ({"members": ["mri-v1", "coarse-v1"]}, BadCard, "coarse-v1 has the classes LGG, HGG; expected a mapping"),
        ({"classes": ["LGG", "HGG"]}, BadCard, "slides-v1 has the classes grade 2, grade 3, grade 4; expected a map"),
        ({"classes": ["one"]}, BadCard, "breaks its schema at classes"),
        ({"name": "Bad Name"}, BadInput, "a name of lower-case letters, digits and single hyphens, got 'Bad Name'"),
        ({"name": "../both-v1"}, BadInput, "a name of lower-case letters"),
        ({"name": "both-v1\n"}, BadInput, "a name of lower-case letters"),
        ({"name": "mri-v1"}, BadInput, "a name of its own for the fusion, there is another card"),
        ({"name": "other-v1"}, BadInput, "a name of its own for the fusion, there is another card"),
    ],
    ids=str,
)
def test_what_is_refused_leaves_everything_as_it_was(cards, plan, error, message):
    before = {path: path.read_bytes() for path in cards.parent.rglob("*") if path.is_file()}
    with pytest.raises(error, match=message) as caught:
        write_fusion(FusionPlan(**{"name": "both-v1", "members": ["slides-v1", "mri-v1"], **plan}), cards)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in cards.parent.rglob("*") if path.is_file()} == before


def test_a_folder_is_made_only_for_what_is_written(cards, tmp_path):
    plan = FusionPlan("both-v1", ["glioma-tiles-demo-v1", "nobody-v1"])
    with pytest.raises(UnknownWeights):
        write_fusion(plan, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(BadInput, match=r"members beside the fusion, or known by name; .* lies elsewhere"):
        write_fusion(FusionPlan("both-v1", [str(cards / "mri-v1.json"), "glioma-tiles-demo-v1"]), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made(cards, tmp_path, monkeypatch):
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path))
    cards.rename(tmp_path / "weights")  # so that they are known by name
    with pytest.raises(OutputUnwritable, match="cannot write"):
        write_fusion(FusionPlan("both-v1", ["mri-v1", "slides-v1"]), "/proc/nowhere")
