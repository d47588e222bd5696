"""Weights brought by hand: files for the cards of the package, and cards of one's own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import h5py
import pytest
from made_up_votes import write_card

from digipath.errors import BadCard, BadInput, UnknownWeights, WeightsCorrupt
from digipath.weights import (
    cards_with_files,
    import_weights,
    list_weights,
    load_card,
    member_cards,
    segmenter,
    verify,
    whereabouts,
)


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "weights"


def hdf5(path: Path, value: int = 0, parameters: int = 17_451_138) -> Path:
    """A file whose array has as many numbers as the network of `digipathai-breast-densenet`, and takes no room."""
    with h5py.File(path, "w") as file:
        file.create_dataset("kernel", (parameters,), "f4", fillvalue=value)
    return path


def own_card(folder: Path, name: str, **changes: object) -> Path:
    """A card as `digipath train` writes it, with its weights beside it; None takes a key out."""
    folder.mkdir(exist_ok=True)
    weights = hdf5(folder / f"{name}.weights.h5", len(name))
    record = {
        "schema": 1, "name": name, "kind": "network", "task": "test", "network": {"name": "unet", "config": {}},
        "classes": ["normal", "tumour"], "positive": "tumour", "activation": "sigmoid",
        "input": {"modality": "slide", "mpp": 0.5, "patch": 512, "scale": 1.0, "offset": 0.0, "stain": None},
        "file": weights.name, "urls": [], "bytes": weights.stat().st_size,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(), "licence": "none", "citation": "none",
        "training": {"data": "none", "split": "none"}, "metrics": [], "intended_use": "tests", "limits": ["tests"],
    } | changes  # fmt: skip
    path = folder / f"{name}.json"
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not ...}))
    return path


def own_ensemble(folder: Path, name: str, members: list[str]) -> Path:
    no_file = {key: ... for key in ("network", "activation", "file", "urls", "bytes", "sha256")}
    return own_card(folder, name, kind="ensemble", members=members, **no_file)


def names(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir() if not path.name.startswith("."))


def test_a_published_file_without_a_hash_is_recorded_at_its_first_arrival(store, tmp_path):
    brought = hdf5(tmp_path / "from-usb.h5")
    (installed,) = import_weights("digipathai-breast-densenet", brought)
    assert installed == store / "camelyon_densenet.h5"
    assert installed.read_bytes() == brought.read_bytes()
    assert names(store) == ["camelyon_densenet.h5", "camelyon_densenet.h5.sha256"]
    card = load_card("digipathai-breast-densenet")
    assert whereabouts(card) == "fetched"
    assert verify(card) == hashlib.sha256(brought.read_bytes()).hexdigest()
    assert import_weights("digipathai-breast-densenet", brought) == [installed]


def test_another_content_is_refused_unless_forced(store, tmp_path):
    import_weights("digipathai-breast-densenet", hdf5(tmp_path / "a.h5", 1))
    before = (store / "camelyon_densenet.h5").read_bytes()
    other = hdf5(tmp_path / "b.h5", 2)
    with pytest.raises(WeightsCorrupt, match=r"when it first came here.*b\.h5 was not installed.*--force"):
        import_weights("digipathai-breast-densenet", other)
    assert (store / "camelyon_densenet.h5").read_bytes() == before
    import_weights("digipathai-breast-densenet", other, force=True)
    assert verify(load_card("digipathai-breast-densenet")) == hashlib.sha256(other.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "message"),
    [("imagenet-densenet121", "md5 of .* its card says 30ee3e111016"), ("imagenet-resnet18-torchvision", "sha256 of")],
)
def test_a_stated_hash_is_never_overruled(store, tmp_path, name, message):
    with pytest.raises(WeightsCorrupt, match=message):
        import_weights(name, hdf5(tmp_path / "a.h5"), force=True)
    assert names(store) == []


def test_what_is_no_weights_file_is_refused(store, tmp_path):
    page = tmp_path / "page.h5"
    page.write_text("<!DOCTYPE html>" * 1000)
    with pytest.raises(WeightsCorrupt, match="is no whole weights file"):
        import_weights("digipathai-liver-inception", page)
    cut = tmp_path / "cut.h5"
    cut.write_bytes(hdf5(tmp_path / "a.h5").read_bytes()[:-100])
    with pytest.raises(WeightsCorrupt, match="is no whole weights file"):
        import_weights("digipathai-liver-inception", cut)
    assert names(store) == []


def test_weights_of_another_network_are_refused_where_no_hash_is_stated(store, tmp_path):
    brought = hdf5(tmp_path / "deeplab.h5", parameters=41_253_330)
    message = r"deeplab\.h5 holds 41253330 numbers, the network of its card has 17451138; .*deeplab\.h5 was not inst"
    for force in (False, True):
        with pytest.raises(WeightsCorrupt, match=message):
            import_weights("digipathai-breast-densenet", brought, force=force)
    assert names(store) == []
    with h5py.File(tmp_path / "whole.h5", "w") as file:  # as `model.save` wrote it
        file.create_dataset("model_weights/a/kernel", (17_451_000,), "f4")
        file.create_dataset("model_weights/b/bias", (138,), "f4")
        file.create_dataset("optimizer_weights/a", (5,), "f4")
    import_weights("digipathai-breast-densenet", tmp_path / "whole.h5")


def test_refusals_name_the_file_that_was_brought(store, tmp_path):
    page = tmp_path / "page.h5"
    page.write_text("<!DOCTYPE html>")
    for name in ("digipathai-liver-inception", "imagenet-densenet121", "imagenet-resnet18-torchvision"):
        with pytest.raises(WeightsCorrupt, match=str(page)) as refused:
            import_weights(name, page)
        assert str(store) not in str(refused.value)


def test_misuse_is_answered(store, tmp_path):
    file = hdf5(tmp_path / "a.h5")
    with pytest.raises(BadInput, match="no file of its own; import its members: digipathai-breast-densenet, "):
        import_weights("digipathai-breast", file)
    with pytest.raises(BadInput, match="comes with digipath"):
        import_weights("lymphnode-ensemble-v1-unet-fold0", file)
    with pytest.raises(BadInput, match="expected the file to import"):
        import_weights("digipathai-breast-densenet")
    with pytest.raises(BadInput, match="a card alone, or a name with a file"):
        import_weights("card.json", file)
    with pytest.raises(BadInput, match=r"cannot read .*nowhere\.h5: No such file"):
        import_weights("digipathai-breast-densenet", tmp_path / "nowhere.h5")
    with pytest.raises(BadInput, match=r"cannot read .*: Is a directory"):
        import_weights("digipathai-breast-densenet", tmp_path)
    with pytest.raises(UnknownWeights, match="no weights called"):
        import_weights("digipathai-brest", file)


def test_an_ensemble_of_ones_own_brings_its_members(store, tmp_path):
    run = tmp_path / "run"
    own_card(run, "mine-fold1")
    own_card(run, "mine-fold2")
    card = own_ensemble(run, "mine", ["mine-fold1", "mine-fold2"])
    installed = [path.name for path in import_weights(str(card))]
    assert installed == [
        "mine-fold1.weights.h5", "mine-fold1.json", "mine-fold2.weights.h5", "mine-fold2.json", "mine.json",
    ]  # fmt: skip
    assert names(store) == sorted(installed)
    members = member_cards("mine")
    assert [member.path.parent for member in members] == [store, store]
    assert [whereabouts(member) for member in members] == ["own", "own"]
    assert [verify(member) for member in members] == [member.record["sha256"] for member in members]
    assert "mine" in list_weights()
    import_weights(str(card))  # the same again changes nothing


def test_other_weights_of_the_same_name_are_not_replaced_unless_forced(store, tmp_path):
    import_weights(str(own_card(tmp_path / "run1", "mine")))
    other = own_card(tmp_path / "run2", "mine", task="another")
    with pytest.raises(BadInput, match=r"other weights called mine are installed: .*; --force replaces them"):
        import_weights(str(other))
    assert load_card("mine").record["task"] == "test"
    import_weights(str(other), force=True)
    assert load_card("mine").record["task"] == "another"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
def test_a_number_that_is_none_is_refused_before_anything_is_installed(store, tmp_path, number):
    card = own_card(tmp_path / "run", "mine")
    card.write_text(card.read_text().replace('"mpp": 0.5', f'"mpp": {number}'))
    with pytest.raises(BadCard, match=f"expected JSON in a weights card, got {number[:20]}…?, which is no fin"):
        import_weights(str(card))
    assert not store.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("file", "mine.weights.h5\n"), ("task", "\ud800"), ("sha256", "0" * 64 + "\n"), ("urls", ["https://a\n"])],
)
def test_text_with_a_line_break_or_without_characters_is_refused(store, tmp_path, key, value):
    card = own_card(tmp_path / "run", "mine", **{key: value})
    with pytest.raises(BadCard) as refused:
        import_weights(str(card))
    assert str(refused.value).isprintable()
    assert not store.exists()


def test_a_broken_card_is_in_nobodys_way(store, tmp_path):
    store.mkdir(parents=True)
    (store / "broken.json").write_text("{")
    (store / "folder.json").mkdir()
    import_weights(str(own_card(tmp_path / "run", "mine")))
    assert load_card("mine").record["task"] == "test"
    whole = own_card(tmp_path / "run", "broken")
    with pytest.raises(BadInput, match=r"other weights called broken are installed: .*; --force replaces them"):
        import_weights(str(whole))
    import_weights(str(whole), force=True)
    assert load_card("broken").record["task"] == "test"


def test_names_and_files_of_others_are_not_taken(store, tmp_path):
    shipped = "lymphnode-ensemble-v1-unet-fold0"
    with pytest.raises(BadInput, match=f"{shipped} is the name of weights that come with digipath"):
        import_weights(str(own_card(tmp_path / "run", shipped)), force=True)
    card = own_card(tmp_path / "run", "mine", file="camelyon_densenet.h5")
    hdf5(tmp_path / "run" / "camelyon_densenet.h5")
    with pytest.raises(BadInput, match=r"camelyon_densenet\.h5 is the file of digipathai-breast-densenet"):
        import_weights(str(card), force=True)
    assert not store.exists()


def test_nothing_is_installed_of_a_card_that_is_not_whole(store, tmp_path):
    run = tmp_path / "run"
    own_card(run, "one")
    own_card(run, "two")
    card = own_ensemble(run, "both", ["one", "two"])
    (run / "two.weights.h5").write_bytes(b"damaged")
    with pytest.raises(WeightsCorrupt, match=r"two\.weights\.h5"):
        import_weights(str(card))
    (run / "two.weights.h5").unlink()
    with pytest.raises(UnknownWeights, match=r"the weights file of two is absent, expected it at .*run"):
        import_weights(str(card))
    (run / "two.json").unlink()
    with pytest.raises(UnknownWeights, match="no weights called 'two'"):
        import_weights(str(card))
    with pytest.raises(BadCard, match="licence"):
        import_weights(str(own_card(run, "three", licence=...)))
    assert not store.exists()


def test_a_card_that_is_installed_already_is_said_so(store, tmp_path):
    import_weights(str(own_card(tmp_path / "run", "mine")))
    with pytest.raises(BadInput, match="is installed already"):
        import_weights(str(store / "mine.json"))


def test_a_grader_comes_with_what_finds_its_tumours(tmp_path, monkeypatch):
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path / "home"))
    write_card(tmp_path / "cards", "finder-v1")
    path = write_card(tmp_path / "cards", "seeks-v1", roi="tumour", segmenter="finder-v1")
    assert [card.name for card in cards_with_files(load_card(str(path)))] == ["finder-v1", "seeks-v1"]
    installed = import_weights(str(path))
    assert [file.name for file in installed] == [
        "finder-v1.weights.h5", "finder-v1.json", "seeks-v1.weights.h5", "seeks-v1.json",
    ]  # fmt: skip
    (tmp_path / "cards" / "finder-v1.json").unlink()
    beside, at_home = (segmenter(load_card(name)) for name in (str(path), "seeks-v1"))
    assert beside.path == at_home.path == tmp_path / "home" / "weights" / "finder-v1.json"
