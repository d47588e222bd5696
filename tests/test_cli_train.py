"""`digipath train` as a user meets it before anything is trained: the plan, the example, one line for what is wrong."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from digipath.cli import main
from digipath.training.config import example

CONFIG = """
[data]
manifest = "cases.csv"
[input]
mpp = 0.5
patch = 64
training_patch = 32
[sampling]
shift_px = 8
[schedule]
epochs = 3
steps_per_epoch = 5
batch = 4
[split]
kind = "k-fold"
folds = 3
[card]
name = "mine-v1"
task = "squares"
[[member]]
name = "a"
network = "unet-small"
config = { widths = [8, 8] }
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run a command in an empty folder; returns (exit code, output, error lines)."""
    monkeypatch.chdir(tmp_path)

    def command(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse
            code = stop.code
        seen = capfd.readouterr()
        return code, seen.out, seen.err.splitlines()

    return command


@pytest.fixture
def cases(tmp_path):
    """Six crops of two tones with their masks, a manifest and a configuration."""
    rng = np.random.default_rng(0)
    rows = [["slide", "annotation", "patient", "mpp"]]
    for number in range(6):
        truth = np.zeros((96, 96), np.uint8)
        truth[:, 60:] = 255
        image = np.where(truth[..., None] > 0, (150, 60, 150), (230, 150, 200)) + rng.integers(-20, 20, (96, 96, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{number}.png")
        Image.fromarray(truth).save(tmp_path / f"{number}_mask.png")
        rows.append([f"{number}.png", f"{number}_mask.png", f"patient{number}", "0.5"])
    write_rows(tmp_path / "cases.csv", rows)
    (tmp_path / "my.toml").write_text(CONFIG)
    return tmp_path


def write_rows(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refused(outcome, message, folder):
    code, out, err = outcome
    assert (code, out, len(err)) == (2, "", 1), outcome
    assert err[0].startswith("digipath: ")
    assert message in err[0]
    assert not (folder / "out").exists()


def test_the_example_is_printed_and_can_be_piped_to_a_file(run):
    code, out, err = run("train", "--example")
    assert (code, out, err) == (0, example(), [])


def test_help_and_a_missing_config(run, tmp_path):
    code, out, _ = run("train", "--help")
    assert code == 0
    assert "examples:\n  digipath train" in out
    refused(run("train"), "--example > my.toml", tmp_path)


@pytest.mark.keras
def test_dry_run_prints_the_plan_and_writes_nothing(run, cases):
    before = sorted(cases.iterdir())
    code, out, err = run("train", "--config", "my.toml", "--out", "out", "--dry-run")
    assert (code, err, sorted(cases.iterdir())) == (0, [], before)
    lines = out.splitlines()
    assert lines[0] == "6 cases of 6 patients: cases.csv"
    assert lines[1].startswith("member a: unet-small, ")
    assert lines[1].endswith("parameters, random weights")
    assert lines[2:] == [
        *(f"a-fold{k}: 4 train, 2 validate, 2 scored; up to 3 epochs, 60 patches" for k in range(3)),
        "shipped as mine-v1: a-fold0, a-fold1, a-fold2",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch = 4", "bacth = 4", "has no 'bacth'"),
        ("cases.csv", "none.csv", "none.csv"),
        ("folds = 3", "folds = 7", "7 folds"),
    ],
)
def test_a_wrong_configuration(run, cases, old, new, message):
    edit(cases / "my.toml", old, new)
    refused(run("train", "--config", "my.toml", "--out", "out"), message, cases)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({1: ["none.png", "0_mask.png", "patient0", "0.5"]}, "none.png"),
        ({1: ["0.png", "1.txt", "patient0", "0.5"]}, "1.txt"),
        ({1: ["0.png", "0_mask.png", "patient0", ""]}, "mpp"),
        ({0: ["slide", "annotation", "patience", "mpp"]}, "patience"),
    ],
)
def test_a_wrong_manifest(run, cases, rows, message):
    with (cases / "cases.csv").open(newline="") as file:
        table = list(csv.reader(file))
    for number, row in rows.items():
        table[number] = row
    write_rows(cases / "cases.csv", table)
    refused(run("train", "--config", "my.toml", "--out", "out"), message, cases)


def test_a_patient_in_two_folds(run, cases):
    with (cases / "cases.csv").open(newline="") as file:
        table = list(csv.reader(file))
    table = [[*row, "fold" if number == 0 else str(number % 3)] for number, row in enumerate(table)]
    table[2][2] = "patient0"
    write_rows(cases / "cases.csv", table)
    refused(run("train", "--config", "my.toml", "--out", "out"), "patient0", cases)


def test_a_mask_of_another_size(run, cases):
    Image.new("L", (96, 50), 255).save(cases / "3_mask.png")
    refused(run("train", "--config", "my.toml", "--out", "out"), "3_mask.png", cases)


@pytest.mark.keras
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("unet-small", "unet-smal", "expected a network among"),
        ("widths =", "wdths =", "has no setting wdths"),
        ("[8, 8]", "[8, 8, 8, 8, 8]", "multiples of 64 px"),
        ("config =", 'encoder = "nonsense"\nconfig =', "no weights called 'nonsense'"),
        ("config =", 'encoder = "digipathai-breast"\nconfig =', "digipathai-breast is of kind ensemble"),
        ("[8, 8]", "8", "[[member]] a: "),
        ("[8, 8]", "[1.5, 2]", "[[member]] a: "),
        ("widths =", 'dropout = "a", widths =', "[[member]] a: "),
    ],
)
def test_a_wrong_network(run, cases, old, new, message):
    edit(cases / "my.toml", old, new)
    refused(run("train", "--config", "my.toml", "--out", "out"), message, cases)


def test_evaluate_wants_folders_or_a_manifest(run, tmp_path):
    refused(run("evaluate"), "or a manifest", tmp_path)
    refused(run("evaluate", "--manifest", "none.csv"), "none.csv", tmp_path)
    code, out, _ = run("evaluate", "--help")
    assert (code, "--manifest" in out) == (0, True)
    refused(run("evaluate", "a", "b", "--mpp", "0.5", "--fold", "0"), "folds are of a manifest", tmp_path)


@pytest.mark.keras
def test_a_class_that_cannot_be_shown_is_told_before_anything_is_trained(run, cases):
    """The lesions leave 60 of 96 px: no patch of 64 is free of them."""
    edit(cases / "my.toml", "training_patch = 32", "training_patch = 64")
    message = "a-fold0, cases to train on: empty class: positive_share 0.5 asks for patches without tumour"
    refused(run("train", "--config", "my.toml", "--dry-run"), message, cases)
    code, out, err = run("train", "--config", "my.toml", "--out", "out")
    assert (code, out, message in err[-1]) == (2, "", True)
    assert not any((cases / "out" / "runs").iterdir())


@pytest.mark.keras
def test_dry_run_as_json(run, cases):
    code, out, _ = run("train", "--config", "my.toml", "--dry-run", "--json")
    assert (code, json.loads(out)["plan"][0]) == (0, "6 cases of 6 patients: cases.csv")
