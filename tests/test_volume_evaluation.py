"""Scores of graders of MRI on a manifest of four cases, by hand."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from made_up_graders import write_ensemble, write_patient
from made_up_votes import GRADES, answered, parts, write_card

from digipath.cli import main
from digipath.errors import BadInput, BadVolume, Cancelled
from digipath.grading import volume_files, volume_networks
from digipath.volume_evaluation import evaluate_volumes

LABELS = ("grade 2", "grade 3", "grade 4", "grade 4")
ANSWERS = ((0.8, 0.1, 0.1), (0.1, 0.35, 0.55), (0.2, 0.2, 0.6), (0.1, 0.6, 0.3))  # called 2, 4, 4, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four cases of four patients, and the table of them."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(4):
        write_patient(folder / f"case{number}", seed=number)
    return folder


def manifest(data, path, *columns, **changed):
    """A table of the four cases with these columns of files; changed: a column's four values."""
    rows = []
    for number, label in enumerate(LABELS):
        files = {name: str(data / f"case{number}" / f"{name}.nii.gz") for name in columns}
        more = {name: values[number] for name, values in changed.items()}
        rows.append({"case": f"case{number}", "patient": f"p{number}", "label": label, **files, **more})
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def cards(tmp_path, monkeypatch):
    """A network that answers `ANSWERS` case by case, one that is always sure of grade 2, and both together."""
    write_card(tmp_path / "cards", "one-v1", order=["t1c"])
    write_card(tmp_path / "cards", "sure-v1", order=["t1"])
    write_ensemble(tmp_path / "cards", "two-v1", ["one-v1", "sure-v1"], weights={"one-v1": 3.0})
    answered(monkeypatch, {"sure-v1": (1, 0, 0)})
    others, in_turn = volume_networks.answer, iter(ANSWERS)
    monkeypatch.setattr(
        volume_networks, "answer", lambda name, x: np.array(next(in_turn)) if name == "one-v1" else others(name, x)
    )
    return tmp_path / "cards"


def test_scores_are_those_by_hand(data, cards, tmp_path):
    table = manifest(data, tmp_path / "mri.csv", "t1c")
    found = evaluate_volumes(str(cards / "one-v1.json"), manifest=table)
    assert (found["cases"], found["classes"]) == (4, list(GRADES))
    assert found["data"].startswith("MRI of 4 cases of 4 patients; mri.csv, sha256 ")
    scores = found["scores"]["all classes"]["case"]["scores"]
    assert scores["confusion"] == [[1, 0, 0], [0, 0, 1], [0, 1, 1]]
    assert scores["accuracy"] == 2 / 4
    assert scores["balanced_accuracy"] == pytest.approx((1 + 0 + 1 / 2) / 3)
    assert scores["kappa"] == pytest.approx((0.5 - 6 / 16) / (1 - 6 / 16))
    assert scores["auroc"] == pytest.approx({"grade 2": 1, "grade 3": 2 / 3, "grade 4": 3 / 4})
    assert scores["by_class"]["grade 4"]["precision"] == 1 / 2
    assert scores["by_class"]["grade 3"]["specificity"] == pytest.approx(2 / 3)
    top = found["scores"]["highest against the rest"]["case"]["scores"]
    assert top["confusion"] == [[1, 1], [1, 1]]
    assert found["notes"]["case0"] == ["brain mask from voxels that are not 0, 30 ml"]


def test_an_ensemble_is_scored_by_its_vote(data, cards, tmp_path):
    table = manifest(data, tmp_path / "mri.csv", "t1", "t1c")
    scores = evaluate_volumes(str(cards / "two-v1.json"), manifest=table)["scores"]["all classes"]["case"]["scores"]
    # (3 · one + sure) / 4: (0.85, 0.075, 0.075), (0.325, 0.2625, 0.4125), (0.4, 0.15, 0.45), (0.325, 0.45, 0.225)
    assert scores["confusion"] == [[1, 0, 0], [0, 0, 1], [0, 1, 1]]
    assert scores["auroc"]["grade 2"] == 1
    assert scores["auroc"]["grade 3"] == pytest.approx(2 / 3)


def test_cases_of_one_patient_are_called_together(data, cards, tmp_path):
    """As everywhere: the mean over the patient's cases, and the highest of their grades."""
    table = manifest(data, tmp_path / "mri.csv", "t1c", patient=["p0", "p1", "p1", "p3"])
    found = evaluate_volumes(str(cards / "one-v1.json"), manifest=table)
    assert (found["cases"], "of 3 patients" in found["data"]) == (4, True)
    scores = found["scores"]["all classes"]["case"]["scores"]
    assert scores["count"] == 3
    assert scores["confusion"] == [[1, 0, 0], [0, 0, 0], [0, 1, 1]]


def test_a_fold_alone(data, cards, tmp_path):
    table = manifest(data, tmp_path / "mri.csv", "t1c", fold=["test", "train", "train", "test"])
    found = evaluate_volumes(str(cards / "one-v1.json"), manifest=table, fold="test")
    assert (found["cases"], "of 2 patients, fold test" in found["data"]) == (2, True)
    with pytest.raises(BadInput, match="no case has the fold '7'; the manifest has test, train"):
        evaluate_volumes(str(cards / "one-v1.json"), manifest=table, fold="7")


def test_files_are_written_whole(data, cards, tmp_path):
    table = manifest(data, tmp_path / "mri.csv", "t1c")
    found = evaluate_volumes(str(cards / "one-v1.json"), manifest=table, out=tmp_path / "out")
    assert parts(tmp_path / "out") == {"scores.json", "evaluation.html"}
    record = json.loads((tmp_path / "out" / "scores.json").read_text("utf-8"))
    assert record["scores"] == json.loads(json.dumps(found["scores"]))
    assert record["weights"]["sha256"].keys() == {"one-v1"}
    page = (tmp_path / "out" / "evaluation.html").read_text("utf-8")
    assert "MRI of 4 cases of 4 patients" in page
    assert "case0, case1, case2, case3: brain mask from voxels that are not 0, 30 ml" in page


def test_cancelling_leaves_nothing(data, cards, tmp_path):
    table, told = manifest(data, tmp_path / "mri.csv", "t1c"), []
    with pytest.raises(Cancelled, match="stopped after 1 of 4 cases; nothing was written"):
        evaluate_volumes(
            str(cards / "one-v1.json"), manifest=table, out=tmp_path / "out", progress=told.append,
            cancel=lambda: len(told) == 2,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
    assert [(report.done, report.total, report.message) for report in told] == [(0, 4, "case0"), (1, 4, "case1")]


def test_what_the_networks_look_at_must_be_in_the_manifest(data, cards, tmp_path):
    table = manifest(data, tmp_path / "mri.csv", "t1c")
    with pytest.raises(BadInput, match="expected a manifest of cases to evaluate it on"):
        evaluate_volumes(str(cards / "one-v1.json"), manifest=None)
    with pytest.raises(BadInput, match="t1"):
        evaluate_volumes(str(cards / "two-v1.json"), manifest=table)
    write_card(cards, "tumour-v1", order=["t1c"], roi="tumour")
    with pytest.raises(BadInput, match="tumour"):
        evaluate_volumes(str(cards / "tumour-v1.json"), manifest=table)


def test_outlines_are_read_where_networks_look_at_the_tumour(data, cards, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(volume_networks, "answer", lambda name, pixels: seen.append(pixels) or np.array([1, 0, 0]))
    write_card(cards, "tumour-v1", order=["t1c"], roi="tumour", margin_vox=0)
    table = manifest(data, tmp_path / "mri.csv", "t1c", "tumour")
    evaluate_volumes(str(cards / "tumour-v1.json"), manifest=table)
    assert len(seen) == 4
    assert all((pixels[4:12, 4:12, 4:12] > 0).all() for pixels in seen)  # the lesion is brighter than the brain


def test_a_tumour_that_is_not_found_is_told_with_its_case(data, cards, tmp_path, monkeypatch):
    found = []

    def find(volume, card, **_):
        if found:
            raise BadVolume("expected a tumour, found none")
        found.append(volume)
        return volume.brain

    monkeypatch.setattr(volume_files, "find_tumour", find)
    monkeypatch.setattr(volume_networks, "answer", lambda name, pixels: np.array([1, 0, 0]))
    write_card(cards, "seeks-v1", order=["t1c"], roi="tumour", segmenter=str(write_card(cards, "finder-v1")))
    with pytest.raises(BadVolume, match="case case1: expected a tumour, found none"):
        evaluate_volumes(str(cards / "seeks-v1.json"), manifest=manifest(data, tmp_path / "mri.csv", "t1c"))


def told(capfd, *words) -> tuple[int, str, list[str]]:
    code = main([str(word) for word in words])
    seen = capfd.readouterr()
    return code, seen.out, seen.err.splitlines()


def test_the_command_line_tells_the_scores(data, cards, tmp_path, capfd):
    table = manifest(data, tmp_path / "mri.csv", "t1c")
    words = ("evaluate", "--manifest", table, "--weights", cards / "one-v1.json")
    code, out, _ = told(capfd, *words, "--out", tmp_path / "out")
    assert code == 0
    assert "MRI of 4 cases of 4 patients" in out
    assert "all classes, per case (4):" in out
    assert "  accuracy                   0.5  [" in out
    assert f"page: {tmp_path / 'out'}/evaluation.html" in out
    assert "Scores on images a network was trained on say nothing about new ones" in out


def test_the_command_line_prints_json(data, cards, tmp_path, capfd):
    table = manifest(data, tmp_path / "mri.csv", "t1c")
    code, out, err = told(capfd, "evaluate", "--manifest", table, "--weights", cards / "one-v1.json", "--json")
    assert (code, err) == (0, [])
    assert json.loads(out)["scores"]["all classes"]["case"]["scores"]["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["images"], "grades MRI; leave out images"),
        (["--mpp", "0.5"], "leave out mpp"),
        (["--views", "4"], "leave out views"),
        (["--groups", "3"], "leave out groups"),
        (["--calibrate"], "leave out calibrate"),
        (["--runtime", "keras"], "leave out runtime"),
        (["--threshold", "0.3"], "leave out threshold"),
        (["--least-label", "0.5"], "leave out least_label"),
        ([], "expected a manifest of cases"),
    ],
)
def test_options_that_would_do_nothing_are_refused(cards, capfd, words, message):
    code, out, err = told(capfd, "evaluate", "--weights", cards / "one-v1.json", *words)
    assert (code, out, len(err)) == (2, "", 1)
    assert message in err[0]
