"""Slides and cases by networks of bags, where tiles are drawn at random and a network may see none: what is told."""

from __future__ import annotations

import importlib
import json

import made_up_bags
import numpy as np
import pytest
from PIL import Image
from test_report_pages import table

import digipath
from digipath.cli import main
from digipath.grading import reporting

pytestmark = pytest.mark.keras

BY_BAGS = "Networks that see many tiles at once"
NO_TILE = "No tile at 4 µm/px: no vote."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two slides, of which half is glass; a network of small tiles, one whose large tiles hold too little; both."""
    folder = tmp_path_factory.mktemp("bags")
    fine = made_up_bags.write_card(folder, "fine-v1")
    made_up_bags.write_card(folder, "blind-v1", mpp=4.0, least_tissue=0.9)
    record = json.loads(fine.read_text())
    own = ("network", "file", "bytes", "sha256", "sha256_reason", "urls")
    together = {name: value for name, value in record.items() if name not in own} | {"kind": "ensemble"}
    for name, members in (("fine-first-v1", ["fine-v1", "blind-v1"]), ("blind-first-v1", ["blind-v1", "fine-v1"])):
        (folder / f"{name}.json").write_text(json.dumps(together | {"name": name, "members": members}))
    for number in range(2):
        image = np.concatenate([made_up_bags.tissue(512, 1, number)[:256], np.full((256, 512, 3), 243, np.uint8)])
        Image.fromarray(image).save(folder / f"slide{number}.png")
    return folder


def words(folder, weights, out, *more):
    slides = [str(folder / f"slide{number}.png") for number in range(2)]
    common = ["--mpp", "0.5", "--gallery", "0", "--runtime", "keras", "--out", str(out)]
    return ["grade", *slides, "--weights", str(folder / f"{weights}.json"), *common, *more]


def test_areas_of_a_random_draw_are_told_nowhere(folder, tmp_path, capsys):
    assert main(words(folder, "fine-v1", tmp_path / "case")) == 0
    assert "mm²" not in capsys.readouterr().out
    assert main(words(folder, "fine-v1", tmp_path / "case", "--json")) == 0
    said = json.loads(capsys.readouterr().out)
    assert [one["areas_mm2"] for one in (said["case"], *said["slides"])] == [None] * 3
    assert json.loads((tmp_path / "case" / "case.json").read_text())["areas_mm2"] is None
    case = digipath.open_result(tmp_path / "case")
    assert case.readout().areas_mm2 is None
    assert [slide.readout().areas_mm2 for slide in case.slides] == [None, None]
    assert {row[2] for row in table((tmp_path / "case" / "case.html").read_text(), "Class")} == {"size unknown"}


def test_where_all_tiles_were_drawn_areas_are_told(folder, tmp_path):
    assert main(words(folder, "fine-v1", tmp_path / "case", "--groups", "all")) == 0
    case = digipath.open_result(tmp_path / "case")
    each = [sum(slide.areas_mm2) for slide in case.slides]
    assert sum(case.readout().areas_mm2.values()) == pytest.approx(sum(each))
    assert min(each) > 0


def test_a_network_that_saw_no_tile_is_told_of(folder, tmp_path, capsys):
    assert main(words(folder, "fine-first-v1", tmp_path / "case")) == 0
    assert capsys.readouterr().out.count(f"    blind-v1: {NO_TILE}\n") == 2
    page = (tmp_path / "case" / "slide0" / "report.html").read_text()
    assert f"blind-v1: {NO_TILE}" in page
    assert table(page, "Votes of")[1][:4] == ["blind-v1", "no vote", "no vote", "no vote"]
    assert f"slide1.png: blind-v1: {NO_TILE}" in (tmp_path / "case" / "case.html").read_text()


def test_a_case_that_only_bags_grade_is_graded(folder, tmp_path, capsys):
    """The first network, whose tiles make the map, saw none; the other grades both slides."""
    assert main(words(folder, "blind-first-v1", tmp_path / "case")) == 0
    assert "no grade" not in capsys.readouterr().out
    case = digipath.open_result(tmp_path / "case")
    page = (tmp_path / "case" / "case.html").read_text()
    assert "No grade" not in page
    grades = [slide.run["bags"]["grade"] for slide in case.slides]
    assert [row[:3] for row in table(page, "Slide")] == [
        [f"slide{number}.png", grade, "none"] for number, grade in enumerate(grades)
    ]
    assert BY_BAGS in page


def test_the_map_of_grades_is_drawn_once(folder, tmp_path, monkeypatch):
    drawn, draw = [], reporting.grade_overlay
    for module in ("digipath.grading.reporting", "digipath.report.grade_page"):
        monkeypatch.setattr(
            importlib.import_module(module), "grade_overlay", lambda *a, **k: drawn.append(1) or draw(*a, **k)
        )
    digipath.grade(
        folder / "slide0.png", weights=str(folder / "fine-v1.json"), out=tmp_path / "case", mpp=0.5, gallery=0,
        runtime="keras",
    )  # fmt: skip
    assert drawn == [1]
    assert (tmp_path / "case" / "grade_map.png").is_file()
    assert "Grade map." in (tmp_path / "case" / "report.html").read_text()
