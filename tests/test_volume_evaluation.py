"""Scores of graders of MRI on a manifest of four cases, by hand."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from made_up_graders import write_ensemble, write_patient
from made_up_volumes import SMALL
from made_up_votes import GRADES, answered, parts, write_card

from digipath.cli import main
from digipath.errors import BadCard, BadInput, BadPredictor, BadVolume, Cancelled, UnknownWeights
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
    assert found["notes"]["case0"] == [f"brain mask from voxels that are not 0, 30 ml{SMALL}"]


def test_an_ensemble_is_scored_by_its_vote(data, cards, tmp_path):
    table = manifest(data, tmp_path / "mri.csv", "t1", "t1c")
    scores = evaluate_volumes(str(cards / "two-v1.json"), manifest=table)["scores"]["all classes"]["case"]["scores"]
    # (3 · one + sure) / 4: (0.85, 0.075, 0.075), (0.325, 0.2625, 0.4125), (0.4, 0.15, 0.45), (0.325, 0.45, 0.225)
    assert scores["confusion"] == [[1, 0, 0], [0, 0, 1], [0, 1, 1]]
    assert scores["auroc"]["grade 2"] == 1
    assert scores["auroc"]["grade 3"] == pytest.approx(2 / 3)


def test_each_scan_of_a_patient_counts(data, cards, tmp_path):
    """A patient's scans have grades of their own; intervals draw them together."""
    table = manifest(data, tmp_path / "mri.csv", "t1c", patient=["p0", "p1", "p1", "p3"])
    found = evaluate_volumes(str(cards / "one-v1.json"), manifest=table, out=tmp_path / "out")
    assert (found["cases"], "MRI of 4 cases of 3 patients" in found["data"]) == (4, True)
    record = found["scores"]["all classes"]["case"]
    assert record["scores"]["count"] == 4
    assert record["scores"]["confusion"] == [[1, 0, 0], [0, 0, 1], [0, 1, 1]]
    assert record["intervals"]["patients"] == 3
    page = (tmp_path / "out" / "evaluation.html").read_text("utf-8")
    assert "case (4)" in page
    assert all(f">case{number}<" in page for number in range(4))


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
    assert "case0, case1, case2, case3: brain mask from voxels that are not 0, 30 ml, adults" in page


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


def refusing(error, *numbers):
    """Regions, but for the cases with these numbers in turn."""
    region, count = volume_files.OpenedVolume.region, iter(range(4))

    def refused(opened, grader, **options):
        if next(count) in numbers:
            raise error
        return region(opened, grader, **options)

    return refused


@pytest.mark.parametrize("kind", [BadVolume, BadPredictor])
def test_a_case_that_cannot_be_graded_is_told_and_left_out(data, cards, tmp_path, monkeypatch, kind, capfd):
    """The answers of `ANSWERS` go to the other three: right, wrong, right."""
    monkeypatch.setattr(volume_files.OpenedVolume, "region", refusing(kind("expected a brain, got none"), 1))
    table, out = manifest(data, tmp_path / "mri.csv", "t1c"), tmp_path / "out"
    code, said, _ = told(capfd, "evaluate", "--manifest", table, "--weights", cards / "one-v1.json", "--out", out)
    assert code == 3
    assert "WARNING: case1 could not be graded and is not scored: expected a brain, got none" in said
    record = json.loads((out / "scores.json").read_text("utf-8"))
    assert record["unreadable"] == {"case1": "expected a brain, got none"}
    assert (record["cases"], [*record["notes"]]) == (4, ["case0", "case2", "case3"])
    assert record["scores"]["all classes"]["case"]["scores"]["confusion"] == [[1, 0, 0], [0, 0, 0], [0, 0, 2]]
    assert "case1 could not be graded and is not scored: expected a brain, got none." in (
        out / "evaluation.html"
    ).read_text("utf-8")


def test_a_case_whose_file_is_gone_is_left_out(data, cards, tmp_path, monkeypatch):
    region = volume_files.OpenedVolume.region

    def gone(opened, grader, **options):
        if opened.files.name == "case2":
            opened.files.modalities["t1c"] = tmp_path / "gone.nii.gz"
        return region(opened, grader, **options)

    monkeypatch.setattr(volume_files.OpenedVolume, "region", gone)
    found = evaluate_volumes(str(cards / "one-v1.json"), manifest=manifest(data, tmp_path / "mri.csv", "t1c"))
    assert "gone.nii.gz" in found["unreadable"].pop("case2")
    assert not found["unreadable"]
    assert found["scores"]["all classes"]["case"]["scores"]["count"] == 3


def test_where_no_case_can_be_graded_the_first_is_told(data, cards, tmp_path, monkeypatch):
    monkeypatch.setattr(volume_files.OpenedVolume, "region", refusing(BadVolume("expected a brain"), 0, 1, 2, 3))
    table = manifest(data, tmp_path / "mri.csv", "t1c")
    with pytest.raises(BadVolume, match="none of 4 cases can be graded; case0: expected a brain"):
        evaluate_volumes(str(cards / "one-v1.json"), manifest=table, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [UnknownWeights, BadCard])
def test_what_is_wrong_with_the_weights_ends_the_evaluation(data, cards, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(volume_files.OpenedVolume, "region", refusing(kind("no such weights"), 1))
    with pytest.raises(kind, match="no such weights"):
        evaluate_volumes(str(cards / "one-v1.json"), manifest=manifest(data, tmp_path / "mri.csv", "t1c"))


def test_a_tumour_that_is_not_found_is_told_with_its_case(data, cards, tmp_path, monkeypatch):
    found = []

    def find(volume, card, **_):
        if found:
            raise BadVolume("expected a tumour, found none")
        found.append(volume)
        return volume.brain

    monkeypatch.setattr(volume_files, "find_tumour", find)
    monkeypatch.setattr(volume_networks, "answer", lambda name, pixels: np.array([1, 0, 0]))
    write_card(cards, "finder-v1", order=["t1c"])
    write_card(cards, "seeks-v1", order=["t1c"], roi="tumour", segmenter="finder-v1")
    left = evaluate_volumes(str(cards / "seeks-v1.json"), manifest=manifest(data, tmp_path / "mri.csv", "t1c"))
    assert left["unreadable"] == {f"case{number}": "expected a tumour, found none" for number in (1, 2, 3)}
    assert left["scores"]["all classes"]["case"]["scores"]["count"] == 1


def test_outlines_are_used_where_given_and_others_are_sought_in_the_modalities_of_the_finder(
    data, cards, tmp_path, monkeypatch
):
    sought = []
    monkeypatch.setattr(volume_files, "find_tumour", lambda seen, _, **__: sought.append(seen.modalities) or seen.brain)
    monkeypatch.setattr(volume_networks, "answer", lambda name, pixels: np.array([1, 0, 0]))
    write_card(cards, "finder-v1", order=["flair"])
    seeks = str(write_card(cards, "seeks-v1", order=["t1c"], roi="tumour", segmenter="finder-v1"))
    outlines = [str(data / f"case{number}" / "tumour.nii.gz") for number in (0, 1)] + ["", ""]
    table = manifest(data, tmp_path / "mri.csv", "t1c", "flair", tumour=outlines)
    found = evaluate_volumes(seeks, manifest=table)
    assert (found["unreadable"], sought) == ({}, [("flair",)] * 2)
    found = evaluate_volumes(seeks, manifest=manifest(data, tmp_path / "mri.csv", "t1c", tumour=outlines))
    assert list(found["unreadable"]) == ["case2", "case3"]
    assert "flair" in found["unreadable"]["case3"]


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
    assert "\ncase0, case1, case2, case3: brain mask from voxels that are not 0, 30 ml" in out
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
