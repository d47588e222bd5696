"""The default weights: what their cards say, and what they do on real slides and crops."""

from __future__ import annotations

import json
from dataclasses import asdict

import example_scripts
import numpy as np
import pytest

import digipath
from digipath.cli import main
from digipath.errors import Cancelled
from digipath.training.config import read_config
from digipath.training.manifest import read_manifest
from digipath.values import PREDICTED
from digipath.weights import DEFAULT, load_card, member_cards, verify

MEMBERS = {
    "lymphnode-ensemble-v1-unet-fold0": "0",
    "lymphnode-ensemble-v1-deeplab-fold1": "1",
    "lymphnode-ensemble-v1-deep-unet-fold2": "2",
}  # and the fold that each has not seen


def metric(name, card, *, data=""):
    """The value of the first metric of this name in a card, over data that begin so."""
    found = (m["value"] for m in load_card(card).record["metrics"] if m["name"] == name and m["data"].startswith(data))
    return next(found)


# ---- the cards ----


def test_the_files_are_those_of_the_cards_and_small():
    cards = member_cards(DEFAULT)
    assert [card.name for card in cards] == list(MEMBERS)
    assert [verify(card) for card in cards] == [card.record["sha256"] for card in cards]
    assert sum(card.file.stat().st_size for card in cards) <= 25_000_000
    networks = {json.dumps(card.record["network"], sort_keys=True) for card in cards}
    assert len(networks) == 3  # of different architecture


def test_the_cards_state_the_settings_of_the_example():
    """What is shipped came from examples/lymphnode_ensemble.toml as it stands."""
    config = read_config(example_scripts.EXAMPLES / "lymphnode_ensemble.toml")
    said = {"limits": list(config.card.limits), "task": config.card.task, "licence": config.card.licence}
    for member, card in zip(config.members, member_cards(DEFAULT), strict=True):
        record = card.record
        assert record["network"] == member.spec
        settings = record["training"]["settings"]
        # Settings that came after these weights say, by their defaults, how they were trained.
        later = {"keep": "loss", "momentum": 0.0, "snapshots": ()}
        assert {**later, **settings["schedule"]} == asdict(config.schedule_of(member))
        assert config.augmentation is not None
        assert settings["augmentation"] == asdict(config.augmentation)
        assert record["training"]["encoder"]["name"] == member.encoder
        assert record["limits"][: len(said["limits"])] == said["limits"]
        assert (record["task"], record["licence"]) == (said["task"], said["licence"])


def test_the_default_beats_its_members_and_the_constant_out_of_fold():
    """The targets of the cross-validation: pooled Dice 0.85 and AUROC 0.93 on unseen crops."""
    crops = "centre camelyon_tumour: 32 cases"
    dice = metric("dice, pooled pixels", DEFAULT, data=crops)
    assert dice >= 0.85
    assert metric("auroc, pixels", DEFAULT, data=crops) >= 0.93
    for member in ("unet", "deeplab", "deep-unet"):
        assert dice > metric(f"dice, pooled pixels ({member})", DEFAULT, data=crops)
    assert dice > metric("dice, pooled pixels, all called tumour", DEFAULT, data=crops)


# ---- on real slides and crops ----


@pytest.fixture(scope="module")
def small_region(shared_data):
    return shared_data / "wsi" / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def on_keras(small_region, tmp_path_factory):
    out = tmp_path_factory.mktemp("keras") / "case"
    assert main(["segment", str(small_region), "--out", str(out), "--runtime", "keras", "--views", "2"]) == 0
    return digipath.open_result(out)


@pytest.mark.real_data
def test_a_real_slide_is_covered_and_its_record_is_whole(on_keras, small_region):
    assert on_keras.coverage.complete
    assert on_keras.coverage.tissue > 2_000_000
    assert on_keras.run["slide"]["size_l0"] == [2220, 2967]
    assert on_keras.run["settings"]["working_mpp"] == pytest.approx(0.499)
    assert on_keras.run["weights"]["sha256"] == {name: digipath.show_weights(name)["sha256"] for name in MEMBERS}
    assert on_keras.classes == ("tumour",)
    assert on_keras.epistemic is not None
    values = on_keras.probability[:][on_keras.maps["coverage"][:] == PREDICTED]
    assert 0 <= values.min() < values.max() <= 1
    assert digipath.show_weights(DEFAULT)["licence"] in (on_keras.folder / "report.html").read_text()


@pytest.mark.real_data
def test_openvino_gives_the_same_map(on_keras, small_region, tmp_path):
    pytest.importorskip("openvino", reason="the extra `fast` is not installed")
    result = digipath.segment(small_region, runtime="openvino", precision="f32", views=2, out=tmp_path)
    np.testing.assert_allclose(
        result.probability[:].astype(float), on_keras.probability[:].astype(float), atol=2e-3, equal_nan=True
    )


@pytest.mark.real_data
def test_a_crop_with_its_resolution(shared_data, tmp_path, capsys):
    crop = shared_data / "camelyon_tumour" / "images" / "10679.jpg"
    assert main(["segment", str(crop), "--mpp", "0.5", "--out", str(tmp_path), "--runtime", "keras", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tissue_mm2"] == pytest.approx(512 * 512 * 0.25e-6, rel=0.05)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("runtime", ["keras", "openvino"])
def test_a_cancelled_run_of_the_real_network_goes_on_to_the_same_bytes(small_region, tmp_path, runtime):
    pytest.importorskip("openvino", reason="the extra `fast` is not installed")

    def run(out, **options):
        return digipath.segment(small_region, out=out, runtime=runtime, tissue="all", views=2, **options)

    def maps(folder):
        return {p.relative_to(folder): p.read_bytes() for p in (folder / "maps.zarr").rglob("*") if p.is_file()}

    whole = run(tmp_path / "whole")
    for stop in (20, 15):
        calls = []
        with pytest.raises(Cancelled):
            run(tmp_path / "part", cancel=lambda calls=calls, stop=stop: calls.append(1) or len(calls) > stop)
    run(tmp_path / "part")
    assert maps(tmp_path / "part") == maps(whole.folder)


@pytest.fixture(scope="module")
def cases(shared_data, tmp_path_factory):
    """The manifest that the shipped networks were trained on."""
    path = tmp_path_factory.mktemp("manifest") / "cases.csv"
    example_scripts.load("train_lymphnode_ensemble").write_manifest(shared_data, path)
    return path


@pytest.mark.real_data
def test_the_cards_name_the_data_by_its_hash(cases):
    sha256 = read_manifest(cases).sha256
    assert all(f"sha256 {sha256}" in card.record["training"]["data"] for card in member_cards(DEFAULT))


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(("name", "fold"), MEMBERS.items())
def test_each_network_scores_on_the_fold_it_never_saw_what_its_card_says(cases, name, fold):
    found = digipath.evaluate(manifest=cases, fold=fold, weights=name)
    assert found["count"] == {"0": 18, "1": 27, "2": 10}[fold]  # crops, and normal patches of one slide each
    assert found["pooled_dice"] == pytest.approx(metric("dice, pooled pixels", name), abs=0.003)
    assert found["pixel_auroc"] == pytest.approx(metric("auroc, pixels", name), abs=0.003)


@pytest.mark.slow
@pytest.mark.real_data
def test_evaluate_on_the_crops_it_was_trained_on(shared_data, capsys):
    """Not a score of skill (the card has that): it must see at least what it was shown."""
    folder = shared_data / "camelyon_tumour"
    assert main(["evaluate", str(folder / "images"), str(folder / "masks"), "--mpp", "0.5", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["count"] == 32
    assert scores["pooled_dice"] > 0.85 > scores["all_positive_pooled_dice"]
    assert scores["pixel_auroc"] > 0.93
