"""Cards: found by name, checked against the schema, verified by sha256."""

from __future__ import annotations

import hashlib
import json

import pytest

from digipath.errors import BadCard, UnknownWeights, WeightsCorrupt
from digipath.values import Card
from digipath.weights import (
    DEFAULT,
    cards_with_files,
    list_weights,
    load_card,
    member_cards,
    show_weights,
    verify,
    whereabouts,
)

CARD = {
    "schema": 1,
    "name": "test-net-v1",
    "kind": "network",
    "task": "test",
    "network": {"name": "unet", "config": {}},
    "classes": ["normal", "tumour"],
    "positive": "tumour",
    "activation": "sigmoid",
    "input": {"modality": "slide", "mpp": 0.5, "patch": 512, "scale": 0.0078, "offset": -1.0, "stain": None},
    "file": "test-net-v1.weights.h5",
    "urls": [],
    "bytes": 5,
    "sha256": hashlib.sha256(b"bytes").hexdigest(),
    "licence": "CC0-1.0",
    "citation": "none",
    "training": {"data": "none", "split": "none"},
    "metrics": [],
    "intended_use": "tests",
    "limits": ["tests"],
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A DIGIPATH_HOME with one card and its file; returns a function that writes more cards."""
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path))
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / CARD["file"]).write_bytes(b"bytes")

    def write(**changes):
        record = {**CARD, **changes}
        record = {key: value for key, value in record.items() if value is not ...}
        path = folder / f"{record['name']}.json"
        path.write_text(json.dumps(record))
        return str(path)

    write()
    return write


def shipped() -> list[Card]:
    cards = {card.name: card for name in list_weights() for card in cards_with_files(load_card(name))}
    return [card for card in cards.values() if whereabouts(card) == "shipped"]


def test_shipped_cards_are_valid_and_verified():
    assert DEFAULT in list_weights()
    assert {card.name for card in member_cards(DEFAULT)} <= {card.name for card in shipped()}
    for card in shipped():
        assert verify(card) == card.record["sha256"]
        assert card.file.stat().st_size == card.record["bytes"]


def test_shipped_weights_are_small():
    assert sum(card.file.stat().st_size for card in shipped()) <= 30_000_000


def test_a_card_at_home_is_found_by_name_and_by_path(home):
    assert "test-net-v1" in list_weights()
    assert load_card("test-net-v1").mpp == 0.5
    assert show_weights(home())["licence"] == "CC0-1.0"


def test_unknown_names_are_answered_with_close_ones(home):
    with pytest.raises(UnknownWeights, match=f"no weights called 'xyz'; the default is {DEFAULT}"):
        load_card("xyz")
    with pytest.raises(UnknownWeights, match=r"did you mean test-net-v1.*weights list"):
        load_card("test-net")
    with pytest.raises(UnknownWeights, match="no card file"):
        load_card("nowhere/card.json")


def test_a_wrong_hash_is_refused(home):
    card = load_card("test-net-v1")
    assert verify(card) == CARD["sha256"]
    card.file.write_bytes(b"other")
    with pytest.raises(WeightsCorrupt, match="damaged or was replaced"):
        verify(card)
    card.file.unlink()
    with pytest.raises(UnknownWeights, match=r"is absent, expected it at .*: copy it there"):
        verify(card)


def test_an_absent_file_says_what_to_fetch(home):
    for name in ("digipathai-liver-densenet", "test-net-v1"):
        home(urls=["https://files.invalid/test-net-v1.weights.h5"])
        card = load_card(name)
        card.file.unlink(missing_ok=True)
        with pytest.raises(UnknownWeights, match=f"run `digipath weights fetch {name}`, or `digipath weights import"):
            verify(card)
        with pytest.raises(UnknownWeights, match="run `digipath weights fetch the-ensemble`"):
            verify(card, asked="the-ensemble")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licence": ...}, "'licence' is a required property"),
        ({"sha256": "abc"}, "at sha256"),
        ({"sha256": None}, "sha256_reason"),
        ({"file": "../../etc/passwd"}, "at file"),
        ({"kind": "forest?"}, "at kind"),
        ({"input": {"modality": "slide", "mpp": -1, "patch": 1, "scale": 1, "offset": 0}}, "at input"),
        ({"positive": "cancer"}, "none of"),
        ({"positive": None}, "positive"),
        ({"file": "."}, "at file"),
        ({"file": "card.json"}, "at file"),
        ({"file": "net.h5.sha256"}, "at file"),
        ({"format": "pickle"}, "at format"),
        ({"md5": "abc"}, "at md5"),
        ({"urls": ["http://files.invalid/net.h5"]}, "at urls/0"),
        ({"archive": {"file": "../x.whl", "member": "a", "bytes": 1, "sha256": "0" * 64}}, "at archive/file"),
        ({"classes": ...}, "classes"),
        ({"surprise": 1}, "surprise"),
        ({"network": ...}, "network"),
    ],
)
def test_cards_that_break_the_schema_say_where(home, changes, message):
    path = home(**changes)
    with pytest.raises(BadCard, match=message):
        load_card(path)


def test_a_card_must_be_called_like_its_file(home, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(CARD))
    with pytest.raises(BadCard, match="calls itself 'test-net-v1', expected 'other'"):
        load_card(str(path))
    path.write_text("{")
    with pytest.raises(BadCard, match="expected JSON"):
        load_card(str(path))


def test_an_ensemble_is_its_members_in_order(home):
    home(name="second-net-v1")
    ensemble = {key: ... for key in ("network", "activation", "file", "urls", "bytes", "sha256")}
    home(name="both-v1", kind="ensemble", members=["second-net-v1", "test-net-v1"], **ensemble)
    assert [card.name for card in member_cards("both-v1")] == ["second-net-v1", "test-net-v1"]
    home(name="second-net-v1", activation="softmax", classes=["tumour", "normal"])  # its tumour is channel 0 too
    assert [card.kept for card in member_cards("both-v1")] == [(0,), (0,)]
    home(name="second-net-v1", activation="softmax")  # its tumour is channel 1
    with pytest.raises(BadCard, match="channels"):
        member_cards("both-v1")
    home(name="second-net-v1", classes=["normal", "necrosis"], positive="necrosis")
    with pytest.raises(BadCard, match="differ in classes, channels or mpp"):
        member_cards("both-v1")


def test_members_beside_an_ensemble_come_before_others_of_their_name(home, tmp_path):
    """Two trained runs may hold members of the same names; each ensemble has its own."""
    run = tmp_path / "run"
    run.mkdir()
    ensemble = {key: ... for key in ("network", "activation", "file", "urls", "bytes", "sha256")}
    home(name="second-net-v1")
    home(name="both-v1", kind="ensemble", members=["second-net-v1", "test-net-v1"], **ensemble)
    for name in ("both-v1", "second-net-v1"):
        (run / f"{name}.json").write_text((tmp_path / "weights" / f"{name}.json").read_text())
    beside, by_name = member_cards(str(run / "both-v1.json"))
    assert beside.path.parent == run
    assert by_name.path.parent == tmp_path / "weights"


def test_an_ensemble_that_holds_itself_is_refused(home):
    ensemble = {key: ... for key in ("network", "activation", "file", "urls", "bytes", "sha256")}
    home(name="inner-v1", kind="ensemble", members=["test-net-v1", "outer-v1"], **ensemble)
    home(name="outer-v1", kind="ensemble", members=["inner-v1", "test-net-v1"], **ensemble)
    with pytest.raises(BadCard, match="ensemble outer-v1 holds itself"):
        cards_with_files(load_card("outer-v1"))
    home(name="outer-v1", kind="ensemble", members=["../test-net-v1", "test-net-v1"], **ensemble)
    with pytest.raises(BadCard, match="at members/0"):
        load_card("outer-v1")


@pytest.mark.parametrize(
    ("changes", "kept", "names"),
    [
        ({}, (0,), ("tumour",)),
        ({"activation": "softmax"}, (1,), ("tumour",)),
        ({"activation": "softmax", "positive": "normal"}, (0,), ("normal",)),
        ({"classes": ["a", "b", "c"], "activation": "softmax", "positive": None}, (0, 1, 2), ("a", "b", "c")),
    ],
)
def test_which_channels_become_maps(home, changes, kept, names):
    card = load_card(home(**changes))
    assert (card.kept, card.kept_classes) == (kept, names)
