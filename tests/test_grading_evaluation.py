"""Graders scored on cases of known grade: by tiles, slides and patients, with answers that are known beforehand."""

from __future__ import annotations

import csv
import hashlib
import json

import fakes
import made_up_bags
import numpy as np
import pytest
from PIL import Image

import digipath
from digipath import grading_evaluation
from digipath.errors import BadInput
from digipath.grading import tile_networks
from digipath.grading_evaluation import evaluate_graders, is_grader
from digipath.stain import REFERENCES
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
    low, high = written["scores"][ALL][TILE]["intervals"]["intervals"]["precision of grade 4"]
    row = f'<td class="number">2</td><td class="number">0.6667 ({low:.4g} to {high:.4g})</td>'
    assert f"<tr><td>grade 4</td>{row}" in page  # 2 in truth, 3 called so
    assert "auroc of" not in page  # it stands among the measures of each class
    assert "research use only" in page


def test_notes_about_slides_are_kept_by_case_and_stand_on_the_page_once(tmp_path):
    rows = []
    for number, label in enumerate([*RED, *RED, "grade 2"]):
        name = f"s{number}.png"
        size = (256, 100 if number else 256, 3)
        Image.fromarray(np.full(size, (100 + number, 120, 150), np.uint8)).save(tmp_path / name)
        rows.append([name, f"p{number}", label, 0.5, "", ""])
    found = evaluate_graders(
        "own", manifest=manifest(tmp_path, rows), predictors=[fakes.grader], out=tmp_path / "out"
    )
    said = "The image (100 × 256 px) is smaller than a tile of 256 px and is completed by its mirror image."
    assert found["notes"] == {f"s{number}": [said] for number in range(1, 7)}, "all but the first"
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["notes"] == found["notes"]
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert page.count(said) == 1
    assert f"s1, s2, s3, s4, s5 and 1 more: {said}" in page


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


# ---- stains ----

STAIN = REFERENCES["macenko"].to_record()


def colour(tiles):
    """(B, P, P, 3) → (B, 3): the shares of red, green and blue in a tile."""
    mean = tiles.mean(axis=(1, 2), dtype=np.float64)
    return (mean / mean.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def card(tmp_path, monkeypatch):
    """A function that writes the card of a tile network which says `colour`, with another `input.stain`."""
    monkeypatch.setattr(tile_networks, "_load", lambda *_: [colour])

    def write(name, stain):
        file, content = tmp_path / f"{name}.weights.h5", b"weights"
        file.write_bytes(content)
        record = {
            "schema": 1, "name": name, "kind": "network", "task": "tests", "output": "tile", "activation": "softmax",
            "network": {"name": "resnet18", "config": {"classes": 3}}, "classes": list(RED), "positive": None,
            "input": {"modality": "slide", "mpp": 0.5, "patch": 128, "least_tissue": 0.5, "scale": 1.0, "offset": 0.0,
                      "stain": stain},
            "file": file.name, "urls": [], "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
            "licence": "CC0-1.0", "citation": "none", "training": {"data": "none", "split": "none"}, "metrics": [],
            "intended_use": "tests", "limits": ["tests"],
        }  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
        return str(tmp_path / f"{name}.json")

    return write


@pytest.fixture
def answered(monkeypatch):
    """A function: the probabilities that `evaluate_graders` scores, of one slide."""

    def probabilities(weights, manifest):
        kept, scored = [], grading_evaluation.scored
        with monkeypatch.context() as patch:
            patch.setattr(grading_evaluation, "scored", lambda one, *a, **k: kept.append(one) or scored(one, *a, **k))
            evaluate_graders(weights, manifest=manifest, runtime="keras")
        return kept[0].probabilities

    return probabilities


def test_tiles_are_brought_to_the_stain_of_the_card_as_grade_does(card, answered, small_slide, tmp_path):
    path = manifest(tmp_path, [[small_slide.path, "p", "grade 3", "", "", ""]])
    stained, plain = card("stained", STAIN), card("plain", None)
    found = {weights: answered(weights, path) for weights in (stained, plain)}
    for number, (weights, evaluated) in enumerate(found.items()):
        out = tmp_path / f"case{number}"
        graded = digipath.grade(small_slide.path, weights=weights, out=out, gallery=0, runtime="keras")
        np.testing.assert_array_equal(evaluated.astype(np.float16), graded.probabilities)
    assert found[plain].shape == found[stained].shape
    assert np.abs(found[stained] - found[plain]).max() > 0.01


def test_a_folder_of_tiles_cannot_be_brought_to_the_stain_of_a_card(card, folder):
    assert evaluate_graders(card("plain", None), folder=folder, mpp=0.5, runtime="keras")["cases"] == 6
    with pytest.raises(BadInput, match="a stain is fitted on a slide, not on a folder of tiles") as caught:
        evaluate_graders(card("stained", STAIN), folder=folder, mpp=0.5, runtime="keras")
    assert "\n" not in str(caught.value)


@pytest.mark.keras
def test_bags_are_brought_to_the_stain_of_the_card_as_grade_does(answered, tmp_path):
    Image.fromarray(made_up_bags.tissue(256, 1, 5)).save(tmp_path / "slide.png")
    path = manifest(tmp_path, [["slide.png", "p", "grade 3", 0.5, "", ""]])
    found = {}
    for name, stain in (("stained", STAIN), ("plain", None)):
        weights = str(made_up_bags.write_card(tmp_path, f"{name}-v1", stain=stain))
        found[name] = answered(weights, path)[0]
        graded = digipath.grade(tmp_path / "slide.png", weights=weights, out=tmp_path / name, mpp=0.5, runtime="keras")
        assert list(graded.bags["probabilities"].values()) == pytest.approx(found[name], abs=1e-6)
    assert np.abs(found["stained"] - found["plain"]).max() > 1e-4
