"""A fusion is scored on patients with slides, MRI or both; what its members answer is made up."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from made_up_graders import write_patient
from made_up_votes import answered, parts, write_card, write_tile_card, write_tiles

from digipath import cli
from digipath.errors import BadInput, Cancelled
from digipath.fusion_evaluation import evaluate_fusion, read_fused_cases
from digipath.grading.fusion_cards import FusionPlan, write_fusion

GRADES = ("grade 2", "grade 3", "grade 4")
SAYS = {"brain-v1": (0.2, 0.7, 0.1), "t1c-v1": (0.1, 0.1, 0.8)}


@pytest.fixture
def fusion(tmp_path):
    """A fusion of a network for slides, which calls dark tiles grade 2 and bright ones grade 4, and two for MRI."""
    folder = tmp_path / "cards"
    folder.mkdir()
    write_tile_card(folder, "slides-v1")
    write_card(folder, "brain-v1")
    write_card(folder, "t1c-v1", order=["t1c"])
    return str(write_fusion(FusionPlan("both-v1", ["slides-v1", "brain-v1", "t1c-v1"]), folder))


@pytest.fixture
def manifest(tmp_path):
    """Four cases of three patients: slides alone twice, all MRI, and T1c alone."""
    for name, grey in (("dark", 100), ("bright", 230)):
        write_tiles(tmp_path / name, grey)
    files = write_patient(tmp_path / "mri")
    mri = {name: str(Path(files[name]).relative_to(tmp_path)) for name in ("t1", "t1c", "t2", "flair")}
    rows = [
        {"case": "a", "patient": "A", "label": "grade 2", "slides": "dark", "fold": "test"},
        {"case": "b", "patient": "A", "label": "grade 4", "slides": "dark; bright", "fold": "test"},
        {"case": "c", "patient": "C", "label": "grade 3", **mri, "fold": "test"},
        {"case": "d", "patient": "D", "label": "grade 3", "t1c": mri["t1c"], "fold": "train"},
    ]
    return write_manifest(tmp_path / "patients.csv", rows)


def write_manifest(path, rows):
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="") as stream:
        table = csv.DictWriter(stream, columns, restval="")
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.fixture
def asked(monkeypatch):
    found = []
    answered(monkeypatch, SAYS, asked=found)
    return found


def test_cases_are_scored_as_they_are_graded(fusion, manifest, asked, tmp_path):
    found = evaluate_fusion(fusion, manifest=manifest, out=tmp_path / "out")
    matrix = found["scores"]["all classes"]["case"]["scores"]["confusion"]
    # a: grade 2. b: the mean of grade 2 and 4, of which the higher counts. c: (0.15, 0.4, 0.45). d: grade 4.
    assert matrix == [[1, 0, 0], [0, 0, 2], [0, 0, 1]]
    assert found["missing"] == {"brain-v1": ["a", "b", "d"], "t1c-v1": ["a", "b"], "slides-v1": ["c", "d"]}
    told = found["notes"]["d"]
    assert {"brain-v1 did not vote", "slides-v1 did not vote"} < {*told}
    assert any("brain mask from voxels that are not 0" in note for note in told)
    assert found["data"] == "4 cases of 3 patients; patients.csv"
    assert {"scores.json", "evaluation.html", "cases/a/case.json", "cases/d/t1c-v1/run.json"} <= parts(tmp_path / "out")
    assert not any("explanations/" in name for name in parts(tmp_path / "out"))


def test_the_same_call_goes_on_with_what_is_graded(fusion, manifest, asked, tmp_path):
    with pytest.raises(Cancelled, match="stopped after 3 of 4 cases; the same call goes on"):
        evaluate_fusion(fusion, manifest=manifest, out=tmp_path / "out", cancel=lambda: len(asked) > 2)
    with pytest.raises(Cancelled, match="stopped after 3 of 4 cases; nothing was kept"):
        evaluate_fusion(fusion, manifest=manifest, cancel=lambda: len(asked) > 5)
    asked.clear()
    evaluate_fusion(fusion, manifest=manifest, out=tmp_path / "out")
    assert [name for name, _ in asked] == ["t1c-v1"]


def test_a_fold_is_scored_alone(fusion, manifest, asked):
    found = evaluate_fusion(fusion, manifest=manifest, fold="train")
    assert (found["cases"], found["data"]) == (1, "1 cases of 1 patients, fold train; patients.csv")
    with pytest.raises(BadInput, match="no case has the fold '7'; the manifest has test, train"):
        evaluate_fusion(fusion, manifest=manifest, fold="7")


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"case": "z", "patient": "Z", "label": "grade 2"}, "expected slides or volumes in each row, both are blank"),
        ({"case": "z", "patient": "Z", "label": "grade 2", "slides": "nowhere"}, "line 2, column slides: .* nothing"),
        ({"case": "../z", "patient": "Z", "label": "grade 2", "slides": "dark"}, "a name that a folder may have"),
        ({"case": "z", "patient": "Z", "label": "grade 9", "slides": "dark"}, "column label"),
        ({"case": "z", "patient": "Z", "label": "grade 2", "slide": "dark"}, "unknown .*slide"),
        (
            {"case": "z", "patient": "Z", "label": "grade 2", "slides": "dark", "brain": "mri/t1.nii.gz"},
            "column brain: expected volumes that the mask is of",
        ),
        ({"case": "", "patient": "Z", "label": "grade 2", "slides": "dark"}, "column case: expected a value"),
    ],
    ids=["no files", "not there", "name", "label", "column", "mask alone", "blank"],
)
def test_wrong_rows_are_told(manifest, tmp_path, row, match):
    wrong = write_manifest(tmp_path / "wrong.csv", [row])
    with pytest.raises(BadInput, match=match) as caught:
        read_fused_cases(wrong, GRADES)
    assert "\n" not in str(caught.value)


def test_a_case_that_cannot_be_graded_is_told_and_the_others_are_scored(fusion, manifest, asked, tmp_path, capsys):
    (tmp_path / "mri" / "t1c.nii.gz").write_bytes(b"nothing")
    found = evaluate_fusion(fusion, manifest=manifest)
    assert list(found["unreadable"]) == ["c", "d"]
    assert "t1c.nii.gz" in found["unreadable"]["d"]
    assert found["scores"]["all classes"]["case"]["scores"]["confusion"] == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert cli.main(["evaluate", "--weights", fusion, "--manifest", str(manifest)]) == 3
    assert "d could not be graded and is not scored: " in capsys.readouterr().out
    with pytest.raises(BadInput, match="none of 1 cases can be graded; d: "):
        evaluate_fusion(fusion, manifest=manifest, fold="train")


def test_the_command_tells_scores_and_who_did_not_vote(fusion, manifest, asked, capsys):
    assert cli.main(["evaluate", "--weights", fusion, "--manifest", str(manifest)]) == 0
    out = capsys.readouterr().out
    assert "all classes, per case (4):" in out
    assert "c, d: slides-v1 did not vote" in out
    assert cli.main(["evaluate", "--weights", fusion, "--manifest", str(manifest), "--json"]) == 0
    assert np.sum(json.loads(capsys.readouterr().out)["scores"]["all classes"]["case"]["scores"]["confusion"]) == 4
    assert cli.main(["evaluate", "--weights", fusion, "--manifest", str(manifest), "--views", "8"]) == 2
    assert "grades slides and MRI; leave out views" in capsys.readouterr().err
