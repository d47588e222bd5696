"""From a manifest to cards, to `segment()` by name: small networks, few steps, everything real."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import example_scripts
import numpy as np
import pytest
from PIL import Image

import digipath
from digipath.cli import main
from digipath.errors import BadInput, Cancelled, CaseDiffers, TrainingDiverged
from digipath.evaluation import evaluate
from digipath.training.folder import open_training
from digipath.weights import import_weights, load_card

pytestmark = [pytest.mark.slow, pytest.mark.keras]

CONFIG = """
[data]
manifest = "cases.csv"
[input]
mpp = 0.5
patch = 64
training_patch = 64
[sampling]
shift_px = 8
positive_share = "none"
[augmentation]
contrast = 0.1
[schedule]
epochs = 3
steps_per_epoch = 6
batch = 4
learning_rate = 0.01
patience = {patience}
[split]
kind = "{kind}"
folds = 2
ensemble = "{ensemble}"
validation_patches = 8
[score]
overlap = 0.0
[card]
name = "tones-v1"
task = "darker squares"
licence = "CC0-1.0"
"""
MEMBER = """
[[member]]
name = "{name}"
network = "unet-small"
config = {{ widths = [{widths}], shrink = 1, output_stride = 2, dropout = 0.0 }}
"""
MEMBERS = MEMBER.format(name="narrow", widths="4, 8") + MEMBER.format(name="wide", widths="8, 8")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Six crops with a darker square each, one of them without, and their manifest."""
    folder = tmp_path_factory.mktemp("cases")
    rng = np.random.default_rng(0)
    rows = [["slide", "annotation", "patient", "mpp", "x_note"]]
    for number in range(6):
        truth = np.zeros((128, 128), np.uint8)
        if number:
            row, column = rng.integers(8, 56, 2)
            truth[row : row + 64, column : column + 64] = 255
        image = np.where(truth[..., None] > 0, (120, 50, 130), (225, 160, 200)) + rng.integers(-25, 25, (128, 128, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        Image.fromarray(truth).save(folder / f"{number}_mask.png")
        rows.append([f"{number}.png", f"{number}_mask.png" if number else "", f"patient{number}", "0.5", "made"])
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def write_config(cases, name, *, members=MEMBERS, kind="k-fold", ensemble="all", patience=2):
    path = cases / name
    path.write_text(CONFIG.format(kind=kind, ensemble=ensemble, patience=json.dumps(patience)) + members)
    return path


@pytest.fixture(scope="module")
def trained(cases, tmp_path_factory):
    """Two members in two folds, stopped twice on the way."""
    config, out = write_config(cases, "folds.toml"), tmp_path_factory.mktemp("trained") / "out"
    for stop in (10, 30):
        asked = []
        with pytest.raises(Cancelled):
            digipath.train(config, out=out, cancel=lambda asked=asked, stop=stop: asked.append(1) or len(asked) > stop)
    seen = []
    result = digipath.train(config, out=out, progress=seen.append)
    assert any(report.message.startswith("scoring fold1") for report in seen)
    return result


def test_every_fold_and_the_ensemble_have_a_card_with_scores(trained):
    assert [path.stem for path in trained.cards] == [
        "tones-v1", "tones-v1-narrow-fold0", "tones-v1-wide-fold0", "tones-v1-narrow-fold1", "tones-v1-wide-fold1",
    ]  # fmt: skip
    for path in trained.cards:
        record = load_card(str(path)).record
        names = {metric["name"] for metric in record["metrics"]}
        assert {"dice, pooled pixels", "auroc, pixels", "dice, pooled pixels, all called tumour"} <= names
        assert all("2-fold cross-validation by patient" in metric["split"] for metric in record["metrics"])
    ensemble = load_card(str(trained.card)).record
    assert ensemble["members"] == [path.stem for path in trained.cards[1:]]
    assert "dice, pooled pixels (wide)" in {metric["name"] for metric in ensemble["metrics"]}
    assert trained.record["verdict"].startswith("The ensemble (pooled Dice ")


def test_the_folder_holds_tables_and_curves(trained):
    assert (trained.folder / "runs" / "wide-fold1" / "curves.png").read_bytes().startswith(b"\x89PNG")
    with (trained.folder / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 3
    assert {row["patient"] for row in rows} == {f"patient{number}" for number in range(6)}
    assert "| ensemble | 6 | " in (trained.folder / "summary.md").read_text()
    assert open_training(trained.folder).scores["ensemble"]["pooled"]["count"] == 6


def test_scores_on_the_held_out_fold_are_those_of_evaluate(trained, cases, tmp_path):
    """The same network on the same cases through the public verb."""
    held_out = {case["case"] for case in read_scores(trained) if case["round"] == "fold0"}
    with (cases / "cases.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if Path(row["slide"]).stem in held_out]
    for row in rows:
        row["slide"], row["annotation"] = (str(cases / row[key]) if row[key] else "" for key in ("slide", "annotation"))
    with (tmp_path / "fold0.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    found = evaluate(manifest=tmp_path / "fold0.csv", weights=str(trained.cards[1]), overlap=0.0)
    ours = trained.scores["narrow"]["rounds"]["fold0"]
    assert found["pooled_dice"] == pytest.approx(ours["pooled_dice"], abs=1e-6)
    assert found["pixel_auroc"] == pytest.approx(ours["pixel_auroc"], abs=1e-6)


def read_scores(result):
    with (result.folder / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_segment_takes_the_ensemble_by_path_and_by_name(trained, cases, tmp_path, monkeypatch):
    by_path = digipath.segment(cases / "3.png", str(trained.card), mpp=0.5, tissue="all", out=tmp_path / "path")
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path / "home"))
    import_weights(str(trained.card))
    by_name = digipath.segment(cases / "3.png", "tones-v1", mpp=0.5, tissue="all", out=tmp_path / "name")
    assert by_name.epistemic is not None
    assert by_name.run["weights"]["sha256"].keys() == {path.stem for path in trained.cards[1:]}
    np.testing.assert_array_equal(by_name.probability[:], by_path.probability[:])


def test_a_finished_training_is_not_repeated_and_another_is_refused(trained, cases):
    def untouched():
        return {p: p.stat().st_mtime_ns for p in trained.folder.rglob("*") if p.is_file() and p.name != ".lock"}

    before = untouched()
    digipath.train(cases / "folds.toml", out=trained.folder)
    assert untouched() == before
    with pytest.raises(CaseDiffers, match=r"another config \(seed: 0, now 1\)"):
        digipath.train(cases / "folds.toml", out=trained.folder, seed=1)
    longer = write_config(cases, "longer.toml", patience=3)
    with pytest.raises(CaseDiffers, match=r"schedule\.patience: 2, now 3"):
        digipath.train(longer, out=trained.folder)
    assert untouched() == before


def test_other_words_in_the_card_write_the_cards_anew_and_train_nothing(trained, cases, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained.folder, copy)
    weights = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.suffix in (".h5", ".npz")}
    before = {path.stem: json.loads(path.read_text()) for path in (copy / "weights").glob("*.json")}
    reworded = write_config(cases, "reworded.toml")
    reworded.write_text(reworded.read_text().replace('"CC0-1.0"', '"CC0-1.0"\nlimits = ["Squares only."]'))

    def never():
        raise AssertionError("trained or scored again")

    digipath.train(reworded, out=copy, cancel=never)
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    for name, record in before.items():
        now = json.loads((copy / "weights" / f"{name}.json").read_text())
        assert now == record | {"limits": ["Squares only.", *record["limits"]]}
    renamed = write_config(cases, "renamed.toml")
    renamed.write_text(renamed.read_text().replace("tones-v1", "tones-v2"))
    with pytest.raises(CaseDiffers, match=r"card\.name: 'tones-v1', now 'tones-v2'"):
        digipath.train(renamed, out=copy)


def test_a_finished_training_that_lacks_calibration_gets_it_and_trains_nothing(trained, cases, tmp_path):
    """As an older digipath left it."""
    copy = tmp_path / "copy"
    shutil.copytree(trained.folder, copy)
    results = json.loads((copy / "results.json").read_text())
    said = results.pop("calibration")
    assert set(said) == set(results["runs"])
    (copy / "results.json").write_text(json.dumps(results))
    before = {path.stem: json.loads(path.read_text()) for path in (copy / "weights").glob("*.json")}
    for name, record in before.items():
        (copy / "weights" / f"{name}.json").write_text(json.dumps(record | {"calibration": None}))

    def never():
        raise AssertionError("trained or scored again")

    digipath.train(cases / "folds.toml", out=copy, cancel=never)
    assert json.loads((copy / "results.json").read_text())["calibration"] == said
    assert {path.stem: json.loads(path.read_text()) for path in (copy / "weights").glob("*.json")} == before
    for run, record in said.items():
        name = results["runs"][run]["name"]
        assert before[name]["calibration"] == record
        if record is not None:
            assert "which nothing in training saw" in record["split"] or "chose when training" in record["split"]


def test_nested_with_a_last_round_on_all_cases(cases, tmp_path, capfd):
    members = MEMBER.format(name="narrow", widths="4, 8")
    config = write_config(cases, "nested.toml", members=members, kind="nested", ensemble="final", patience="none")
    assert main(["train", "--config", str(config), "--out", str(tmp_path / "out"), "--seed", "4"]) == 0
    assert "card: " in capfd.readouterr().out
    result = open_training(tmp_path / "out")
    assert [path.stem for path in result.cards] == ["tones-v1", "tones-v1-narrow-fold0", "tones-v1-narrow-fold1"]
    record = load_card(str(result.card)).record
    assert record["kind"] == "network"
    assert record["training"]["split"].endswith("final: trained on 6 cases of 6 patients")
    assert record["training"]["seed"] == 4_000_002
    assert all("trained once more on all cases" in metric["split"] for metric in record["metrics"])
    fold = load_card(str(result.cards[1])).record
    assert "nothing in training saw" in fold["metrics"][0]["split"]
    assert "false positive share, mean over cases without tumour" in {metric["name"] for metric in record["metrics"]}


def test_what_a_slide_does_wrong_during_training_is_told_in_our_words(cases, tmp_path):
    """A class that cannot be drawn shows only when the slides are looked at."""
    config = write_config(cases, "normal.toml", kind="single")
    config.write_text(config.read_text().replace('positive_share = "none"', "positive_share = 0.5"))
    with pytest.raises(BadInput, match="empty class"):
        digipath.train(config, out=tmp_path / "out")
    state = json.loads((tmp_path / "out" / "state.json").read_text())
    assert state["state"] == "failed"


def test_a_loss_that_is_not_a_number_names_the_cases(cases, tmp_path):
    config = write_config(cases, "nan.toml", kind="single")
    config.write_text(config.read_text().replace("learning_rate = 0.01", "learning_rate = 1e38"))
    with pytest.raises(TrainingDiverged, match=r"at batch \d of 6 \(patches \d+ to \d+, of \d(, \d)*\); try a lower"):
        digipath.train(config, out=tmp_path / "out")


def test_the_example_reaches_its_scores(tmp_path):
    scores = example_scripts.load("train_segmentation").run(tmp_path)
    assert scores["network"] >= 0.90
    assert scores["colour forest"] <= 0.50
