"""`evaluate`: calibration errors, what it writes into a folder, cards with temperatures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from digipath import networks
from digipath.cli import main
from digipath.errors import BadInput, OutputUnwritable
from digipath.evaluation import evaluate
from digipath.measure.error_finding import BORDER_UM
from digipath.scoring import Sample, Scoring, score_cases
from digipath.weights import import_weights, load_card, sha256_of

sys.path.insert(0, str(Path(__file__).parent))
import fakes

SIDE = 64
MPP = 0.5


def grey(patches):
    """A quarter surer of itself than it should be, in the middle of the range."""
    return np.clip((patches[..., :1].astype(np.float32) / 255 - 0.5) * 1.25 + 0.5, 0.01, 0.99)


grey.patch, grey.classes = SIDE, ("normal", "tumour")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three images whose red says how probable tumour is, and masks drawn from it, with a border in the middle."""
    folder = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for name in "abc":
        p = np.repeat(np.linspace(0.05, 0.95, SIDE)[None], SIDE, axis=0)
        truth = rng.random(p.shape) < p
        pixels = (p[..., None] * 255 + rng.integers(0, 2, (SIDE, SIDE, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
        Image.fromarray((truth * 255).astype(np.uint8)).save(folder / "masks" / f"{name}.png")
    return folder / "images", folder / "masks"


def test_calibration_error_and_brier_of_an_honest_predictor(folders):
    found = evaluate(*folders, mpp=MPP, predictors=[fakes.redness], overlap=0.0)
    assert found["expected_calibration_error"] < 0.03
    surer = evaluate(*folders, mpp=MPP, predictors=[grey], overlap=0.0)
    assert surer["expected_calibration_error"] > found["expected_calibration_error"]
    assert 0.1 < found["brier"] < surer["brier"]
    assert "reliability" not in found


def test_the_folder_holds_scores_and_a_page_with_plots(folders, tmp_path):
    out = tmp_path / "new" / "folder"
    found = evaluate(*folders, mpp=MPP, predictors=[fakes.redness, grey], patch=SIDE, overlap=0.0, views=2, out=out)
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.html", "scores.json"]
    kept = json.loads((out / "scores.json").read_text())
    assert kept["error_finding"] == found["error_finding"]
    assert kept["run"]["settings"]["views"] == 2
    assert set(found["error_finding"]) == {
        "entropy", "aleatoric + epistemic", "epistemic", "aleatoric", "mutual_information",
    }  # fmt: skip
    entropy = found["error_finding"]["entropy"]
    # Wrong with the chance e, even over [0.05, 0.5]: ∫∫ e (1 − e′) over e > e′, by its norm.
    assert entropy["auroc"]["all pixels"] == pytest.approx(0.688, abs=0.015)
    assert (entropy["coverage"][-1], entropy["risk"][-1]) == (1.0, pytest.approx(wrong(found, out)))
    (bins,) = found["reliability"].values()
    assert sum(bins["counts"]) == 3 * SIDE * SIDE
    page = (out / "evaluation.html").read_text()
    for text in ("mean of the networks", "entropy", "Risk", "away from borders", f"{BORDER_UM:g} µm"):
        assert text in page


def wrong(found, out):
    """Share of pixels that are called otherwise than they are, from the Dice coefficient's own counts."""
    risk = json.loads((out / "scores.json").read_text())["error_finding"]["entropy"]["risk"][-1]
    assert 0 < risk < 0.5
    assert found["pooled_dice"] < 1 - risk / 2
    return risk


def test_parts_of_a_case_by_class_and_place(tmp_path):
    """A straight border: pixels away from it are those beyond BORDER_UM on either side."""
    truth = np.zeros((128, 160), np.uint8)
    truth[:, 60:] = 255
    Image.fromarray(np.dstack([truth, truth, truth])).save(tmp_path / "image.png")
    Image.fromarray(truth).save(tmp_path / "mask.png")
    sample = Sample("half", tmp_path / "image.png", tmp_path / "mask.png", mpp=MPP)
    (scored,) = score_cases([sample], networks.own([fakes.redness]), Scoring(overlap=0.0), errors=True)
    assert set(scored.errors) == {"entropy"}
    parts = {name: int(histogram.sum()) for name, histogram in scored.errors["entropy"].parts().items()}
    away = int(BORDER_UM / MPP)
    assert parts["all pixels"] == 128 * 160
    assert parts["negative pixels"] == 128 * 60
    assert parts["negative pixels, away from borders"] == 128 * (60 - away)
    assert parts["positive pixels, away from borders"] == 128 * (100 - away)


def test_where_the_resolution_is_unknown_no_pixel_is_away_from_borders(tmp_path, monkeypatch):
    """As a slide is scored whose file states no µm, by predictors that want none."""
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "image.png")
    sample = Sample("dark", tmp_path / "image.png", None, mpp=MPP)
    for strips in (2**21, 64 * 7):  # rows counted at once do not matter
        monkeypatch.setattr("digipath.scoring.STRIP_PX", strips)
        (scored,) = score_cases([sample], networks.own([fakes.redness]), Scoring(overlap=0.0), errors=True)
        assert scored.errors["entropy"].parts()["away from borders"].sum() == 64 * 64  # of one class: no border


def test_a_border_is_found_across_strips(tmp_path, monkeypatch):
    truth = np.zeros((150, 20), np.uint8)
    truth[75:] = 255
    Image.fromarray(np.dstack([truth] * 3)).save(tmp_path / "image.png")
    Image.fromarray(truth).save(tmp_path / "mask.png")
    sample = Sample("half", tmp_path / "image.png", tmp_path / "mask.png", mpp=MPP)
    counts = []
    for strips in (2**21, 20):
        monkeypatch.setattr("digipath.scoring.STRIP_PX", strips)
        (scored,) = score_cases([sample], networks.own([fakes.redness]), Scoring(overlap=0.0), errors=True)
        counts.append(scored.errors["entropy"].histogram)
    assert (counts[0] == counts[1]).all()
    assert counts[0][:, 1].sum() == (150 - 2 * int(BORDER_UM / MPP)) * 20


def test_what_cannot_be_calibrated_is_told_before_anything_is_scored(folders, tmp_path):
    with pytest.raises(BadInput, match="views must be 1, 2, 4 or 8, got adaptive"):
        evaluate("no images", "no masks", mpp=MPP, views="adaptive")
    with pytest.raises(BadInput, match="give --out"):
        evaluate(*folders, mpp=MPP, calibrate=True)
    with pytest.raises(BadInput, match="weights with cards"):
        evaluate(*folders, mpp=MPP, calibrate=True, predictors=[fakes.redness], out=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputUnwritable, match="expected a folder"):
        evaluate(*folders, mpp=MPP, predictors=[fakes.redness], out=tmp_path / "file")


# ---- cards with temperatures ----


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Two cards of networks whose logits grow with the brightness, and an ensemble of them."""
    import keras

    from digipath.nn import build

    folder = tmp_path_factory.mktemp("weights")
    spec = {"name": "unet-small", "config": {"widths": [4, 8], "shrink": 1, "output_stride": 2, "dropout": 0.0}}
    for seed, name in enumerate(("one", "two")):
        keras.utils.set_random_seed(seed)
        network = build(spec["name"], **spec["config"])
        file = folder / f"{name}.weights.h5"
        network.save_weights(file)
        record = {
            "schema": 1, "name": name, "kind": "network", "task": "test", "network": spec, "activation": "sigmoid",
            "classes": ["normal", "tumour"], "positive": "tumour",
            "input": {"modality": "slide", "mpp": MPP, "patch": SIDE, "multiple": 4, "scale": 0.02, "offset": -2.5},
            "file": file.name, "urls": [], "bytes": file.stat().st_size, "sha256": sha256_of(file),
            "licence": "CC0-1.0", "citation": "none", "training": {"data": "none", "split": "none"}, "metrics": [],
            "calibration": None, "intended_use": "test", "limits": ["Random.", "Not calibrated: no frequencies."],
        }  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(record))
    taken = ("schema", "task", "classes", "positive", "activation", "input", "licence", "citation", "training")
    ensemble = {key: record[key] for key in (*taken, "metrics", "calibration", "intended_use", "limits")}
    ensemble |= {"name": "both", "kind": "ensemble", "members": ["one", "two"]}
    (folder / "both.json").write_text(json.dumps(ensemble))
    return folder


@pytest.fixture(scope="module")
def learnt(weights, tmp_path_factory):
    """Masks drawn from a surer version of what the networks say, so that there is a temperature to find."""
    folder = tmp_path_factory.mktemp("learnt")
    rng = np.random.default_rng(3)
    for part in ("images", "masks"):
        (folder / part).mkdir()
    predictors = networks.published(str(weights / "both.json"), runtime="keras").load()
    for name in "abcd":
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        p = np.mean([predictor(pixels[None])[0, ..., 0] for predictor in predictors], axis=0).astype(float)
        truth = rng.random(p.shape) < p**3 / (p**3 + (1 - p) ** 3)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
        Image.fromarray((truth * 255).astype(np.uint8)).save(folder / "masks" / f"{name}.png")
    return folder / "images", folder / "masks"


@pytest.mark.keras
def test_an_ensemble_is_calibrated_network_by_network(weights, learnt, tmp_path, monkeypatch, capsys):
    images, masks = map(str, learnt)
    out = tmp_path / "calibrated"
    words = ["evaluate", images, masks, "--mpp", "0.5", "--overlap", "0", "--runtime", "keras"]
    assert main([*words, "--weights", str(weights / "both.json"), "--calibrate", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert f"card: {out / 'both-calibrated.json'}" in told
    card = load_card(str(out / "both-calibrated.json"))
    assert card.record["members"] == ["one-calibrated", "two-calibrated"]
    for name in ("one", "two"):
        record = load_card(str(out / f"{name}-calibrated.json")).record
        found = record["calibration"]
        assert found["temperature"] < 1
        assert found["expected_calibration_error"]["after"] < found["expected_calibration_error"]["before"]
        assert found["pixels"] == 4 * SIDE * SIDE
        assert found["data"] == "4 images of the folder images"
        assert record["limits"][0] == "Random."
        assert not any(text.startswith("Not calibrated") for text in record["limits"])
        assert f"{name}: temperature {found['temperature']:.4g}" in told
    assert "one" in (out / "evaluation.html").read_text()

    def scored(name, **options):
        return evaluate(images, masks, name, mpp=MPP, overlap=0.0, runtime="keras", **options)

    before = scored(str(weights / "one.json"))
    after = scored(str(out / "one-calibrated.json"))
    said = load_card(str(out / "one-calibrated.json")).record["calibration"]["expected_calibration_error"]
    assert before["expected_calibration_error"] == pytest.approx(said["before"], abs=1e-3)
    assert after["expected_calibration_error"] == pytest.approx(said["after"], abs=0.01)  # there by the other images
    assert after["brier"] < before["brier"]
    assert after["pooled_dice"] == pytest.approx(before["pooled_dice"], abs=1e-3)
    without = scored(str(out / "one-calibrated.json"), calibrated=False)
    assert without["brier"] == pytest.approx(before["brier"], abs=1e-9)

    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path / "home"))
    import_weights(str(out / "both-calibrated.json"))
    assert set(networks.published("both-calibrated").identity["temperature"]) == {"one-calibrated", "two-calibrated"}


@pytest.mark.keras
def test_one_network_shows_its_diagram_before_and_after(weights, learnt, tmp_path):
    found = evaluate(*learnt, str(weights / "one.json"), mpp=MPP, overlap=0.0, runtime="keras", calibrate=True,
                     out=tmp_path)  # fmt: skip
    before, after = found["reliability"]["as trained"], found["reliability"]["at its new temperature"]
    assert after["expected_calibration_error"] < before["expected_calibration_error"]
    assert after["counts"] != before["counts"]
    assert found["card"] == str(tmp_path / "one-calibrated.json")


@pytest.mark.keras
def test_images_of_one_class_calibrate_nothing(weights, tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(tmp_path / part / "a.png")
    with pytest.raises(BadInput, match="no temperature fits one here: expected positive and negative pixels"):
        evaluate(tmp_path / "images", tmp_path / "masks", str(weights / "one.json"), mpp=MPP, runtime="keras",
                 calibrate=True, out=tmp_path / "out")  # fmt: skip
    assert list((tmp_path / "out").iterdir()) == []
