"""`digipath grade` and `digipath tiles` as a user meets them: words, exit codes, one line for what is wrong."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import digipath
from digipath.cli import main
from digipath.errors import BadInput
from digipath.grading.tile_frames import open_frame
from digipath.synthetic import write_slide
from digipath.tiling import TileRule
from digipath.training.graded_manifest import read_graded_manifest

sys.path.insert(0, str(Path(__file__).parent))
import fakes

TESTS = Path(__file__).parent
GRADER = ("--predictor", "fakes:grader")
NO_TISSUE_FILE = (
    "no such file: expected tissue as auto, all, white-tiles, or a mask or outline file, got 'no.geojson'"
)


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run a command in an empty folder; returns (exit code, output, error lines)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TESTS))

    def command(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse
            code = stop.code
        seen = capfd.readouterr()
        return code, seen.out, seen.err.splitlines()

    return command


def refused(outcome, message, folder):
    """Exit 2, one line that names digipath and says what is wrong, and nothing left behind."""
    code, out, err = outcome
    assert (code, out, len(err)) == (2, "", 1), outcome
    assert err[0].startswith("digipath: ")
    assert message in err[0]
    assert [path.name for path in folder.iterdir() if path.suffix in (".grade", ".tiles")] == []


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """1024 × 768 px of which the file's tiles (1, 1) and (3, 0), of 256 px, cannot be read."""
    path = tmp_path_factory.mktemp("damaged") / "bad.tiff"
    return write_slide(path, (1024, 768), tile=256, lossless=True, failed_tiles=[(1, 1), (3, 0)]).path


def table(path):
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_grade_tells_every_readout_beside_the_user(run, small_slide, tmp_path):
    code, out, _ = run("grade", small_slide.path, *GRADER, "--tile", "128", "--least-tissue", "0.5")
    found = json.loads((tmp_path / "small.grade" / "summary.json").read_text())
    assert code == 0
    for name in fakes.grader.classes:
        share, area = found["shares"][name], found["areas_mm2"][name]
        assert f"  {name:12} {share:6.1%} of {found['tiles']} tiles, {area:.2f} mm², mean probability" in out
    assert f"mean vote: {found['mean_grade']}; majority vote: {found['majority_grade']}; highest grade: " in out
    assert "(highest: at least 5% of the tiles, each with p ≥ 0.5)" in out
    assert f"report: {tmp_path / 'small.grade' / 'report.html'}" in out
    assert "For research use only" in out


def test_thresholds_are_shown_as_they_were_given(run, small_slide):
    words = ("grade", small_slide.path, *GRADER, "--tile", "128", "--least-tissue", "0.5")
    out = run(*words, "--least-share", "0.125", "--least-confidence", "0.81")[1]
    assert "highest grade: none reaches both thresholds" in out
    assert "(highest: at least 12.5% of the tiles, each with p ≥ 0.81)" in out
    assert "none reaches" not in run(*words, "--least-share", "0.125", "--least-confidence", "0.8")[1]


def test_grade_as_json_tells_the_case_and_its_slides(run, small_slide, tmp_path):
    Image.new("RGB", (256, 256), (230, 90, 120)).save(tmp_path / "red.png")
    words = ("grade", small_slide.path, "red.png", *GRADER, "--tissue", "all", "--gallery", "1", "--out", "case")
    code, out, err = run(*words, "--json")
    found = json.loads(out)
    assert (code, err, found["folder"]) == (0, [], "case")
    assert [Path(slide["folder"]).name for slide in found["slides"]] == ["small", "red"]
    assert found["slides"][1]["mean_grade"] == "grade 4"
    assert found["case"]["tiles"] == sum(slide["tiles"] for slide in found["slides"]) > 1
    told = run(*words)[1]
    assert "red.png:\n" in told
    assert "all slides together:" in told
    assert f"report: {Path('case') / 'case.html'}" in told


def test_what_could_not_be_read_is_exit_3_and_said(run, damaged):
    code, out, _ = run("grade", damaged, *GRADER, "--tissue", "all")
    assert code == 3
    assert "WARNING: 2 of 12 tiles could not be read" in out
    code, out, _ = run("grade", damaged, *GRADER, "--tissue", "all", "--json")
    assert (code, json.loads(out)["slides"][0]["tile_counts"]["unreadable"]) == (3, 2)


def test_no_tissue_is_exit_0_said_and_has_no_grade(run, tmp_path):
    for name in ("glass.png", "glass2.png"):
        Image.new("RGB", (5000, 600), (243, 242, 244)).save(tmp_path / name)
    code, out, _ = run("grade", "glass.png", "--mpp", "0.5", *GRADER)
    assert code == 0
    assert out.startswith("  no grade\n")
    assert "No tissue was found: no grade." in out
    assert "vote" not in out
    code, out, _ = run("grade", "glass.png", "glass2.png", "--mpp", "0.5", *GRADER, "--out", "case")
    assert code == 0
    assert "all slides together:\n  no grade\n" in out
    found = json.loads(run("grade", "glass.png", "--mpp", "0.5", *GRADER, "--json")[1])
    assert (found["case"]["tiles"], found["case"]["highest_grade"]) == (0, None)


@pytest.mark.parametrize("verb", ["grade", "tiles"])
def test_the_help_tells_the_exit_codes(run, verb):
    code, out, _ = run(verb, "--help")
    told = out.partition("exit codes:\n")[2]
    assert code == 0
    assert [line.split()[0] for line in told.splitlines()] == ["0", "2", "3", "130"]
    assert ('"no grade"' in told) == (verb == "grade")


def test_a_folder_of_tiles_and_one_image(run, tmp_path):
    (tmp_path / "tiles").mkdir()
    for name, red in (("a", 100), ("b", 230), ("c", 230)):
        Image.new("RGB", (256, 256), (red, 80, 120)).save(tmp_path / "tiles" / f"{name}.png")
    code, out, _ = run("grade", "tiles", "--mpp", "0.5", *GRADER)
    assert code == 0
    assert "grade 4       66.7% of 3 tiles, 0.03 mm²" in out
    assert [row["image"] for row in table("tiles.grade/tiles.csv")] == ["a.png", "b.png", "c.png"]
    code, out, _ = run("grade", "tiles/b.png", "--mpp", "0.5", *GRADER)
    assert code == 0
    assert "majority vote: grade 4" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--weights", "nowhere"), "no weights called 'nowhere'"),
        (("--weights", "lymphnode-ensemble-v1"), "expected weights that grade tiles of slides"),
        (("--predictor", "fakes:nothing"), "'fakes:nothing'"),
        (("--predictor", "fakes:redness"), "must return (1, classes)"),
        ((*GRADER, "--tile", "0"), "tile must be positive"),
        ((*GRADER, "--least-tissue", "0"), "least_tissue must be positive"),
        ((*GRADER, "--least-tissue", "1.1"), "(0, 1]"),
        ((*GRADER, "--least-share", "2"), "least_share must be in [0, 1]"),
        ((*GRADER, "--least-confidence", "-1"), "least_confidence must be in [0, 1]"),
        ((*GRADER, "--views", "3"), "views must be 1, 2, 4 or 8"),
        ((*GRADER, "--tissue", "no.geojson"), NO_TISSUE_FILE),
        ((*GRADER, "--tissue", "."), "a folder: expected tissue as auto, all, white-tiles, or"),
        ((*GRADER, "--stain", "purple"), "purple"),
        ((*GRADER, "--mpp", "0"), "mpp above 0"),
    ],
)
def test_bad_options_of_grade_are_one_line(run, small_slide, tmp_path, words, message):
    refused(run("grade", small_slide.path, *words), message, tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tile", "0"), "at least one pixel"),
        (("--least-tissue", "0"), "(0, 1]"),
        (("--at-mpp", "-1"), "mpp above 0"),
        (("--at-mpp", "0.1"), "0.5 µm/px is more than 2 × coarser"),
        (("--tissue", "no.geojson"), NO_TISSUE_FILE),
        (("--out", "/proc/nowhere"), "cannot write"),
    ],
)
def test_bad_options_of_tiles_are_one_line(run, small_slide, tmp_path, words, message):
    refused(run("tiles", small_slide.path, *words), message, tmp_path)


BAD_FILES = {"missing.svs": None, "text.svs": b"this is no slide\n", "empty.svs": b"", "plain.png": "png"}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_are_no_slide(run, tmp_path, name):
    if BAD_FILES[name] == "png":
        Image.new("RGB", (300, 300), (180, 90, 150)).save(tmp_path / name)
    elif BAD_FILES[name] is not None:
        (tmp_path / name).write_bytes(BAD_FILES[name])
        refused(run("grade", name, *GRADER), name, tmp_path)
    refused(run("tiles", name), name, tmp_path)


def test_folders_without_tiles(run, tmp_path):
    (tmp_path / "folder").mkdir()
    refused(run("grade", "folder", *GRADER), "found none in", tmp_path)
    refused(run("tiles", "folder"), "received a folder", tmp_path)
    refused(run("grade", "a/x.svs", "b/x.svs", *GRADER), "x more than once", tmp_path)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_tiles_are_written_as_the_slide_shows_them(run, small_slide, tmp_path, kind):
    words = ("--tile", "200", "--least-tissue", "0.5", "--format", kind)
    code, out, _ = run("tiles", small_slide.path, *words)
    rows = table(tmp_path / "small.tiles" / "tiles.csv")
    assert (code, out) == (0, f"{len(rows)} tiles, listed in {Path('small.tiles') / 'tiles.csv'}\n")
    assert len(rows) > 5
    written = {f"images/{path.name}" for path in (tmp_path / "small.tiles" / "images").iterdir()}
    assert written == {row["file"] for row in rows}
    with digipath.open_slide(small_slide.path) as source:
        for row in rows:
            r, c = int(row["row"]), int(row["column"])
            assert row["file"] == f"images/small_r{r:04}_c{c:04}.{kind}"
            assert (float(row["x_l0"]), float(row["y_l0"]), float(row["side_l0"])) == (200 * c, 200 * r, 200)
            assert float(row["mpp"]) == 0.5
            assert float(row["tissue_share"]) >= 0.5
            shown, _ = source.read_block(200 * r, 200 * c, min(200, 1100 - 200 * r), min(200, 1500 - 200 * c), mpp=0.5)
            with Image.open(tmp_path / "small.tiles" / row["file"]) as image:
                assert image.size == (200, 200)
                written = np.asarray(image)[: len(shown), : shown.shape[1]].astype(int)
            difference = np.abs(written - shown)
            assert difference.max() == 0 if kind == "png" else difference.mean() < 4


def test_tiles_may_be_listed_alone_and_where_there_are_none(run, small_slide, tmp_path):
    words = ("tiles", small_slide.path, "--at-mpp", "1", "--tile", "100", "--format", "none", "--json")
    code, out, err = run(*words, "--least-tissue", "0.5", "--out", "some")
    found = json.loads(out)
    assert (code, err, found["unreadable"]) == (0, [], 0)
    rows = table(tmp_path / "some" / "tiles.csv")
    assert {path.name for path in (tmp_path / "some").iterdir()} == {"tiles.csv", "state.json", ".lock"}
    assert found["tiles"] == len(rows) > 3
    assert all(row["file"] == "" for row in rows)
    assert float(rows[0]["side_l0"]) == 200
    code, out, _ = run("tiles", small_slide.path, "--out", "none")
    assert code == 0
    assert "no tile holds 90% tissue" in out
    assert (tmp_path / "none" / "tiles.csv").read_text().startswith("file,slide,row,column,x_l0,y_l0,side_l0,mpp,")


def test_tiles_that_cannot_be_read_have_no_image_and_are_exit_3(run, damaged, tmp_path):
    code, out, _ = run("tiles", damaged, "--tile", "256", "--tissue", "all", "--out", "tiles")
    assert code == 3
    assert out.splitlines()[-1] == "WARNING: 2 of them could not be read and have no image"
    rows = table(tmp_path / "tiles" / "tiles.csv")
    lost = [(int(row["column"]), int(row["row"])) for row in rows if row["unreadable"] == "1"]
    assert sorted(lost) == [(1, 1), (3, 0)]
    assert all((tmp_path / "tiles" / row["file"]).is_file() == (row["unreadable"] == "0") for row in rows)


def test_written_tiles_are_graded_like_their_slide(run, small_slide, tmp_path):
    """A folder of written tiles gives what the slide gives, tile by tile."""
    run("tiles", small_slide.path, "--tile", "256", "--tissue", "all")
    run("grade", small_slide.path, *GRADER, "--tissue", "all", "--out", "of slide")
    code, _, _ = run("grade", "small.tiles/images", *GRADER, "--mpp", "0.5", "--out", "of folder")
    assert code == 0
    slide, folder = (table(tmp_path / name / "tiles.csv") for name in ("of slide", "of folder"))
    assert [row["p grade 3"] for row in slide] == [row["p grade 3"] for row in folder]
    assert [row["image"] for row in folder] == [f"small_r{int(r['row']):04}_c{int(r['column']):04}.png" for r in slide]


def test_written_tiles_can_be_trained_on_as_the_help_says(run, small_slide, tmp_path):
    out = run("tiles", "--help")[1]
    assert "columns slide, patient, label, mpp" in out
    run("tiles", small_slide.path, "--tile", "256", "--least-tissue", "0.5")
    folder = tmp_path / "small.tiles"
    rows = [[row["file"], "p", "grade 2", row["mpp"]] for row in table(folder / "tiles.csv")]
    with (folder / "graded.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["slide", "patient", "label", "mpp"], *rows])
    found = read_graded_manifest(folder / "graded.csv", classes=fakes.grader.classes, at_mpp=0.5)
    assert [case.slide for case in found.cases] == [folder / row[0] for row in rows]
    with open_frame(found.cases[0].slide, TileRule(0.5, 256), mpp=found.cases[0].mpp) as frame:
        assert len(frame.tiles) == 1, "a tile of the training is the tile as it was written"
    with pytest.raises(BadInput, match="tissue_share"):
        read_graded_manifest(folder / "tiles.csv", classes=fakes.grader.classes)


@pytest.mark.real_data
def test_a_real_slide(run, shared_data, tmp_path):
    """CMU-1-Small-Region: 2220 × 2967 px at 0.499 µm/px; each tile's grade is that of its own pixels."""
    path = shared_data / "wsi" / "CMU-1-Small-Region.svs"
    code, out, _ = run("grade", path, *GRADER, "--tile", "256")
    assert code == 0
    assert "vote: grade " in out
    rows = table(tmp_path / "CMU-1-Small-Region.grade" / "tiles.csv")
    assert 10 < len(rows) <= 9 * 12
    code, _, _ = run("tiles", path, "--tile", "256")
    listed = table(tmp_path / "CMU-1-Small-Region.tiles" / "tiles.csv")
    assert [(row["row"], row["column"]) for row in listed] == [(row["row"], row["column"]) for row in rows]
    for row, tile in zip(rows, listed, strict=True):
        with Image.open(tmp_path / "CMU-1-Small-Region.tiles" / tile["file"]) as image:
            answer = fakes.grader(np.asarray(image)[None])[0]
        assert row["grade"] == fakes.grader.classes[answer.argmax()]
        assert float(row["tissue_share"]) >= 0.9
    with digipath.open_slide(path) as source:
        for row, tile in list(zip(rows, listed, strict=True))[:: len(rows) // 5]:
            shown, _ = source.read_block(256 * int(row["row"]), 256 * int(row["column"]), 256, 256, mpp=0.5)
            with Image.open(tmp_path / "CMU-1-Small-Region.tiles" / tile["file"]) as image:
                np.testing.assert_array_equal(np.asarray(image), shown)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["broken.svs", "unopenable.tiff", "unreadable.svs"])
def test_damaged_real_files_are_one_line(run, shared_data, tmp_path, name):
    path = shared_data / "wsi" / "bad" / name
    refused(run("grade", path, *GRADER), name, tmp_path)
    refused(run("tiles", path), name, tmp_path)


def test_tiles_of_another_rule_do_not_join_those_of_a_folder(run, small_slide, tmp_path):
    assert run("tiles", small_slide.path, "--tile", "256", "--tissue", "all")[0] == 0
    written = (tmp_path / "small.tiles" / "tiles.csv").read_bytes()
    code, _, told = run("tiles", small_slide.path, "--tile", "512", "--tissue", "all")
    assert (code, len(told)) == (2, 1)
    assert "another settings (tile_px: 256, now 512)" in told[0]
    assert (tmp_path / "small.tiles" / "tiles.csv").read_bytes() == written
    assert run("tiles", small_slide.path, "--tile", "512", "--tissue", "all", "--no-resume")[0] == 0
    assert len(list((tmp_path / "small.tiles" / "images").iterdir())) == len(table(tmp_path / "small.tiles/tiles.csv"))


def test_two_slides_do_not_go_into_the_folder_of_one(run, small_slide, tmp_path):
    Image.new("RGB", (256, 256), (230, 90, 120)).save(tmp_path / "red.png")
    assert run("grade", small_slide.path, *GRADER, "--out", "case")[0] == 0
    code, _, told = run("grade", small_slide.path, "red.png", *GRADER, "--out", "case")
    assert (code, len(told)) == (2, 1)
    assert "holds the result of one slide" in told[0]
    code, _, told = run("grade", small_slide.path, "missing.svs", *GRADER, "--out", "both")
    assert (code, "missing.svs" in told[0]) == (2, True)
    assert not (tmp_path / "both").exists(), "nothing is graded before all slides are known to be there"
