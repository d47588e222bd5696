"""Graders scored on cases of known grade: by tiles, slides and patients, with answers that are known beforehand."""

from __future__ import annotations

import csv
import json

import fakes
import numpy as np
import pytest
from PIL import Image

from digipath.errors import BadInput
from digipath.grading_evaluation import evaluate_graders, is_grader
from digipath.training.grading_results import ALL, CASE, REST, SLIDE, TILE, TOP

RED = {"grade 2": 100, "grade 3": 170, "grade 4": 230}  # as `fakes.grader` calls them


def tile(path, red, blue):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((256, 256, 3), (red, 120, blue), np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two tiles of each class; one of grade 3 looks like grade 4."""
    for number, (name, red) in enumerate(RED.items()):  # in a blue of its own each, since copies are refused
        tile(tmp_path / "tiles" / name / f"{name[-1]}a.png", red, 100 + number)
        tile(tmp_path / "tiles" / name / f"{name[-1]}b.png", 230 if name == "grade 3" else red, 150 + number)
    return tmp_path / "tiles"


def metrics(found, level=TILE, question=ALL):
    return found["scores"][question][level]["metrics"]


def test_a_folder_by_class_is_scored_with_its_one_error(folder):
    found = evaluate_graders("own", folder=folder, mpp=0.5, predictors=[fakes.grader])
    assert found["classes"] == ["grade 2", "grade 3", "grade 4"]
    assert found["scores"][ALL][TILE]["scores"]["confusion"] == [[2, 0, 0], [0, 1, 1], [0, 0, 2]]
    assert metrics(found)["accuracy"] == pytest.approx(5 / 6)
    assert metrics(found)["balanced_accuracy"] == pytest.approx((1 + 0.5 + 1) / 3)
    # two of four that are not grade 4 … one of them is called so: 2 × 3 pairs right, 2 × 1 tied
    assert metrics(found)["auroc of grade 4"] == pytest.approx((2 * 3 + 0.5 * 2) / 8)


def test_the_questions_of_figure_4_leave_out_what_they_do_not_ask(folder):
    found = evaluate_graders("own", folder=folder, mpp=0.5, predictors=[fakes.grader])
    assert found["scores"][TOP][TILE]["scores"]["confusion"] == [[3, 1], [0, 2]]
    assert found["scores"][REST][TILE]["scores"]["count"] == 4
    # 0.1 against 0.1 is a tie between grade 2 and 3, which the higher wins
    assert found["scores"][REST][TILE]["scores"]["confusion"] == [[2, 0], [0, 2]]


def manifest(folder, rows):
    path = folder / "cases.csv"
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["slide", "patient", "label", "mpp", "annotation", "fold"])
        table.writerows(rows)
    return path


def wide(path, reds):
    """An image of tiles side by side."""
    strip = np.concatenate([np.full((256, 256, 3), (red, 120, 150), np.uint8) for red in reds], axis=1)
    Image.fromarray(strip).save(path)


def test_slides_are_called_by_all_their_tiles_and_patients_by_all_their_slides(tmp_path):
    wide(tmp_path / "a.png", [100, 100, 230])  # mean vote grade 2
    wide(tmp_path / "b.png", [230, 230, 230])
    wide(tmp_path / "c.png", [170, 170, 100])
    rows = [["a.png", "p", "grade 2", 0.5, "", ""], ["b.png", "p", "grade 4", 0.5, "", ""],
            ["c.png", "q", "grade 3", 0.5, "", ""]]  # fmt: skip
    found = evaluate_graders("own", manifest=manifest(tmp_path, rows), predictors=[fakes.grader])
    assert found["scores"][ALL][TILE]["scores"]["count"] == 9
    assert found["scores"][ALL][SLIDE]["scores"]["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    # patient p has four tiles of six that look like grade 4, and its truth is that of its highest slide
    assert found["scores"][ALL][CASE]["scores"]["confusion"] == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_outlines_tell_the_truth_of_tiles_and_a_tile_between_them_counts_for_its_slide_alone(tmp_path):
    wide(tmp_path / "a.png", [100, 170, 230, 230])

    def square(name, first, last):
        ring = [[first, 0], [last, 0], [last, 256], [first, 256], [first, 0]]
        classified = {"objectType": "annotation", "classification": {"name": name}}
        return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": classified}

    outlines = [square("grade 2", 0, 256), square("grade 4", 512, 1024), square("grade 3", 256, 384)]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": outlines}))
    rows = [["a.png", "p", "grade 4", 0.5, "a.geojson", ""]]
    found = evaluate_graders("own", manifest=manifest(tmp_path, rows), predictors=[fakes.grader])
    assert found["scores"][ALL][TILE]["scores"]["confusion"] == [[1, 0, 0], [0, 0, 0], [0, 0, 2]]
    assert found["scores"][ALL][SLIDE]["scores"]["count"] == 1


def test_the_page_and_the_scores_are_written(folder, tmp_path):
    evaluate_graders("own", folder=folder, mpp=0.5, predictors=[fakes.grader], out=tmp_path / "out")
    written = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert metrics(written)["accuracy"] == pytest.approx(5 / 6)
    assert written["verb"] == "evaluate"
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "Per tile" in page
    assert "research use only" in page


def test_only_the_fold_asked_for_is_scored(tmp_path):
    wide(tmp_path / "a.png", [100, 100])
    wide(tmp_path / "b.png", [230, 230, 170])
    rows = [["a.png", "p", "grade 2", 0.5, "", "train"], ["b.png", "q", "grade 4", 0.5, "", "test"]]
    path = manifest(tmp_path, rows)
    found = evaluate_graders("own", manifest=path, predictors=[fakes.grader], fold="test")
    assert found["scores"][ALL][TILE]["scores"]["count"] == 3
    with pytest.raises(BadInput, match="no case has the fold 'validation'; the manifest has test, train"):
        evaluate_graders("own", manifest=path, predictors=[fakes.grader], fold="validation")


@pytest.mark.parametrize("given", [{}, {"folder": "tiles"}, {"manifest": "a.csv", "folder": "b", "mpp": 1.0}])
def test_manifest_or_folder_with_mpp(given):
    with pytest.raises(BadInput, match="expected a manifest, or a folder of tiles by class with mpp"):
        evaluate_graders("own", predictors=[fakes.grader], **given)


def test_segmenting_weights_are_no_graders():
    assert not is_grader("lymphnode-ensemble-v1")
