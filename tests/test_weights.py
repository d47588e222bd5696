"""Cards: found by name, checked against the schema, verified by sha256."""

from __future__ import annotations

import hashlib
import json

import h5py
import numpy as np
import pytest

import digipath
from digipath.errors import BadCard, BadInput, UnknownWeights, WeightsCorrupt
from digipath.networks import published
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
    with pytest.raises(UnknownWeights, match="no weights called 'xyz'; `digipath weights list`"):
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


@pytest.mark.parametrize(
    ("card", "config", "message"),
    [
        ({}, {"classes": 2, "activation": "softmax"}, "got classes=2, activation='softmax'"),  # tumour would be normal
        ({}, {"classes": 2}, r"of classes=1, activation='sigmoid', .*\(normal, tumour\) .* got classes=2"),
        ({}, {"activation": "linear"}, "got classes=1, activation='linear'"),
        ({"activation": "softmax"}, {"classes": 1}, "of classes=2, activation='softmax', .* got classes=1"),
        ({"activation": "softmax"}, {"classes": 3}, "got classes=3"),
        ({"activation": "softmax"}, {"classes": "two"}, "got classes='two'"),
        ({"classes": ["a", "b", "c"], "positive": None}, {"classes": 1}, "of classes=3, activation='sigmoid'"),
    ],
)
def test_a_network_of_other_classes_than_its_card_is_refused_before_any_work(home, card, config, message):
    path = home(**card, network={"name": "unet", "config": config})
    with pytest.raises(BadCard, match=f"expected a network .*{message}.*: {path}"):
        published(path)


def test_every_member_gives_the_classes_of_its_card(home):
    home(network={"name": "unet", "config": {"classes": 1}})
    second = home(name="second-net-v1", network={"name": "unet", "config": {"classes": 2}})
    ensemble = {key: ... for key in ("network", "activation", "file", "urls", "bytes", "sha256")}
    home(name="both-v1", kind="ensemble", members=["test-net-v1", "second-net-v1"], **ensemble)
    with pytest.raises(BadCard, match=f"expected a network .* got classes=2, .*{second}"):
        published("both-v1")


def test_a_network_of_the_classes_of_its_card_is_taken(home):
    for changes, config in (
        ({}, {}),
        ({}, {"classes": 1, "activation": "sigmoid"}),
        ({"activation": "softmax"}, {"classes": 2, "activation": "softmax"}),
        ({"classes": ["a", "b", "c"], "positive": None}, {"classes": 3}),
    ):
        assert published(home(**changes, network={"name": "unet", "config": config})).count == 1
    slide = {**CARD["input"], "patch": 512.0, "multiple": 64.0}  # whole numbers to JSON
    assert published(home(input=slide)).patch == 512


WIDTHS = {"widths": [8, 12, 16]}  # of a network that is quickly built


@pytest.fixture
def own(home, tmp_path):
    """Writes a card for weights of the network with `WIDTHS`, or for other content; returns its path."""
    from digipath.nn import build

    build("unet-small", **WIDTHS).save_weights(tmp_path / "fits.weights.h5")
    fitting = (tmp_path / "fits.weights.h5").read_bytes()

    def write(config, *, name="unet-small", content=fitting, **changes):
        file = tmp_path / "weights" / changes.get("file", CARD["file"])
        file.write_bytes(content)
        size = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        return home(network={"name": name, "config": config}, **size | changes)

    return write


@pytest.mark.keras
def test_an_own_network_comes_with_its_weights(own, tmp_path):
    from digipath.nn import build

    same = build("unet-small", **WIDTHS)
    same.load_weights(tmp_path / "fits.weights.h5")
    image = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    np.testing.assert_array_equal(np.asarray(digipath.load(own(WIDTHS))(image)), np.asarray(same(image)))


@pytest.mark.keras
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"widths": 5}, "has no len"),
        ({"widths": [8, "12", 16]}, "not supported between instances"),
        (WIDTHS | {"patch": "512"}, "not supported between instances"),
        (WIDTHS | {"dropout": 2}, r"expected a dropout in \[0, 1\)"),
        (WIDTHS | {"name": "other"}, "multiple values for argument"),
        (WIDTHS | {"input_channels": 2.5}, "."),
        (WIDTHS | {"depth": 3}, "has no setting depth"),
    ],
)
def test_a_network_that_cannot_be_built_is_one_line(own, config, reason):
    path = own(config)
    with pytest.raises(BadCard, match=f"the network of test-net-v1 cannot be built: .*{reason}") as refused:
        digipath.load(path)
    assert str(refused.value).endswith(f": {path}")
    assert "\n" not in str(refused.value)


@pytest.mark.keras
def test_a_network_whose_settings_leave_its_classes_open_is_checked_when_it_is_built(own):
    path = own({"backbone": "densenet121"}, name="unet-digipathai")  # of two classes unless told otherwise
    with pytest.raises(BadCard, match=r"of classes=1, activation='sigmoid', .* got classes=2, activation='soft"):
        digipath.load(path)


def without_arrays(content: bytes, tmp_path) -> bytes:
    path = tmp_path / "less.h5"
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        del file["layers/conv2d"]
    return path.read_bytes()


@pytest.mark.keras
@pytest.mark.parametrize(
    "case", ["other widths", "other depth", "no HDF5", "an array less", "Keras 2", "torch", "name of Keras 2"]
)
def test_weights_that_do_not_fit_are_one_line(own, tmp_path, case):
    fitting = (tmp_path / "fits.weights.h5").read_bytes()
    path = {
        "other widths": lambda: own({"widths": [8, 12, 20]}),
        "other depth": lambda: own({"widths": [8, 12, 16, 16]}),
        "no HDF5": lambda: own(WIDTHS, content=b"<html>"),
        "an array less": lambda: own(WIDTHS, content=without_arrays(fitting, tmp_path)),
        "Keras 2": lambda: own(WIDTHS, format="keras2-h5"),
        "torch": lambda: own(WIDTHS, format="torch"),
        "name of Keras 2": lambda: own(WIDTHS, file="net.h5"),
    }[case]()
    file = load_card(path).file
    with pytest.raises(WeightsCorrupt) as refused:  # a warning of Keras' would be an error here
        digipath.load(path)
    message = str(refused.value)
    assert message.startswith(f"expected the weights of the network that {path} describes, got: ")
    assert message.endswith(f": {file}")
    assert message.count(str(file)) == 1
    assert "\n" not in message
    assert len(message) < 300 + 2 * len(path) + 100


def test_what_is_no_network_has_none_to_load(home):
    with pytest.raises(BadInput, match="is of kind encoder; expected a network"):
        digipath.load("imagenet-densenet121")
