"""The command line as a user meets it: exit codes, one line for what is wrong, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from digipath.cli import main
from digipath.synthetic import write_slide

TESTS = Path(__file__).parent


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
        seen = capfd.readouterr()  # of the process: what libraries write below Python too
        return code, seen.out, seen.err.splitlines()

    return command


def refused(outcome, message, folder):
    """Exit 2, one line that names digipath and says what is wrong, and nothing left behind."""
    code, out, err = outcome
    assert (code, out, len(err)) == (2, "", 1), outcome
    assert err[0].startswith("digipath: ")
    assert message in err[0]
    assert [path for path in folder.iterdir() if path.name.endswith(".digipath")] == []


def test_segment_writes_a_case_beside_the_user(run, small_slide, tmp_path):
    code, out, _ = run("segment", small_slide.path, "--predictor", "fakes:redness")
    assert code == 0
    assert "report: " in out
    assert "For research use only" in out
    assert (tmp_path / "small.digipath" / "report.html").is_file()


def test_segment_as_json(run, small_slide):
    code, out, err = run("segment", small_slide.path, "--predictor", "fakes:redness", "--json", "--views", "2")
    found = json.loads(out)
    assert (code, err, found["complete"]) == (0, [], True)
    assert found["tissue_mm2"] > 0


def test_incomplete_coverage_is_exit_3(run, tmp_path):
    write_slide(tmp_path / "bad.tiff", (1200, 900), tile=256, lossless=True, failed_tiles=[(1, 1)])
    code, out, _ = run("segment", "bad.tiff", "--predictor", "fakes:redness", "--tissue", "all")
    assert code == 3
    assert "WARNING: 65536 px (6.07%) of the tissue could not be read" in out


def test_no_tissue_is_exit_0_and_said(run, tmp_path):
    Image.new("RGB", (600, 500), (243, 242, 244)).save(tmp_path / "glass.png")
    code, out, _ = run("segment", "glass.png", "--mpp", "0.5", "--predictor", "fakes:redness")
    assert code == 0
    assert "No tissue was found" in out


def test_no_tissue_with_weights_needs_no_network(run, tmp_path):
    Image.new("RGB", (600, 500), (243, 242, 244)).save(tmp_path / "glass.png")
    code, out, _ = run("segment", "glass.png", "--mpp", "0.5", "--runtime", "keras")
    assert code == 0
    assert "No tissue was found" in out


def test_info_in_words_and_as_json(run, small_slide):
    code, out, _ = run("info", small_slide.path, "--overview", "o.png")
    assert code == 0
    assert "1500 × 1100 px" in out
    assert "0.5 µm/px (slide)" in out
    with Image.open("o.png") as overview:
        assert overview.size[0] > 500
    found = json.loads(run("info", small_slide.path, "--json")[1])
    assert found["size_l0"] == [1500, 1100]


def test_convert_then_info(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "flat.tif")
    assert run("convert", "flat.tif", "slide.tiff", "--mpp", "0.5")[0] == 0
    found = json.loads(run("info", "slide.tiff", "--json")[1])
    assert (found["size_l0"], found["mpp"]) == ([900, 700], pytest.approx(0.5, rel=1e-4))
    assert found["levels"][0]["tile"] == [512, 512]
    refused(run("convert", "flat.tif", "slide.tiff"), "slide.tiff", tmp_path)


def test_weights_list_show_verify(run):
    assert "lymphnode-ensemble-v1-unet-fold0" in run("weights", "list")[1]
    card = json.loads(run("weights", "show", "lymphnode-ensemble-v1-unet-fold0", "--json")[1])
    assert card["licence"] == "Apache-2.0"
    assert card["sha256"] in run("weights", "verify")[1]
    assert "intended_use" in run("weights", "show", "lymphnode-ensemble-v1-unet-fold0")[1]


def test_evaluate_scores_pairs(run, tmp_path):
    """Redness of images whose red half is the mask: every score is perfect."""
    for name in ("a", "b"):
        truth = np.zeros((64, 80), np.uint8)
        truth[:, 40:] = 255
        for folder, pixels in (("images", np.dstack([truth, truth * 0, truth * 0])), ("masks", truth)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    code, out, _ = run("evaluate", "images", "masks", "--mpp", "0.5", "--predictor", "fakes:redness", "--json")
    scores = json.loads(out)
    assert (code, scores["count"], scores["mean_dice"], scores["pixel_auroc"]) == (0, 2, 1.0, 1.0)
    assert scores["all_positive_pooled_dice"] == pytest.approx(2 / 3)
    (tmp_path / "masks" / "b.png").unlink()
    refused(
        run("evaluate", "images", "masks", "--mpp", "0.5", "--predictor", "fakes:redness"), "1 images have no mask",
        tmp_path,
    )


BAD_FILES = {
    "missing.svs": None,
    "text.svs": b"this is no slide\n",
    "empty.svs": b"",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_are_no_slide(run, tmp_path, name):
    if BAD_FILES[name] is not None:
        (tmp_path / name).write_bytes(BAD_FILES[name])
    refused(run("segment", name), name, tmp_path)
    refused(run("info", name), name, tmp_path)


def test_a_folder_is_no_slide(run, tmp_path):
    (tmp_path / "folder").mkdir()
    refused(run("segment", "folder"), "folder", tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "nonsense"], "no weights called 'nonsense'"),
        (["--mpp", "-0.5"], "mpp"),
        (["--overlap", "1"], "overlap must be in [0, 1)"),
        (["--out", "/proc/nothing/here"], "cannot write"),
        (["--patch", "96"], "multiple of 64"),
        (["--patch", "0"], "patch must be positive"),
        (["--predictor", "fakes:redness", "--patch", "-32"], "patch must be positive"),
        (["--at-mpp", "0"], "at_mpp must be positive"),
        (["--at-mpp", "1.5"], "more than 2 × coarser"),
        (["--out-mpp", "inf"], "out_mpp must be positive and finite"),
        (["--out-mpp", "0.1"], "finer than the working resolution"),
        (["--predictor", "fakes:nothing"], "--predictor MODULE:NAME"),
        (["--predictor", "fakes:broken"], "values in [0, 1]"),
        (["--tissue", "nowhere.png"], "no such file: expected tissue as auto, all, white-tiles, or a mask or"),
        (["--mpp", "3"], "more than 2 × coarser"),
    ],
)
def test_bad_arguments(run, small_slide, tmp_path, words, message):
    refused(run("segment", small_slide.path, *words), message, tmp_path)


def test_weights_with_a_wrong_hash(run, small_slide, tmp_path, monkeypatch):
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path / "home"))
    from digipath.weights import DEFAULT, member_cards

    card = member_cards(DEFAULT)[0]
    (tmp_path / "home" / "weights").mkdir(parents=True)
    record = {**card.record, "name": "damaged-v1"}
    (tmp_path / "home" / "weights" / "damaged-v1.json").write_text(json.dumps(record))
    damaged = bytearray(card.file.read_bytes())
    damaged[1000] ^= 1
    (tmp_path / "home" / "weights" / card.file.name).write_bytes(damaged)
    refused(run("segment", small_slide.path, "--weights", "damaged-v1"), "the file is damaged", tmp_path)
    refused(run("weights", "verify", "damaged-v1"), "the file is damaged", tmp_path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_truncated_slide(run, small_slide, tmp_path, share):
    whole = small_slide.path.read_bytes()
    (tmp_path / "cut.tiff").write_bytes(whole[: int(len(whole) * share)])
    refused(run("segment", "cut.tiff", "--predictor", "fakes:redness"), "cut.tiff", tmp_path)


def test_a_slide_cut_off_inside_its_pixels(run, tmp_path):
    """Its directory comes first, as in streamed files, so only its pixels are lacking."""
    pixels = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    tifffile.imwrite(tmp_path / "cut.tiff", pixels, tile=(256, 256), photometric="rgb", compression="deflate")
    with (tmp_path / "cut.tiff").open("r+b") as file:
        file.truncate(1024 * 1024 * 2)
    refused(run("segment", "cut.tiff", "--mpp", "0.5", "--predictor", "fakes:redness"), "cut.tiff", tmp_path)


@pytest.mark.real_data
@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 0.999])
def test_a_real_slide_cut_off(run, shared_data, tmp_path, share):
    whole = (shared_data / "wsi" / "CMU-1-Small-Region.svs").read_bytes()
    (tmp_path / "cut.svs").write_bytes(whole[: int(len(whole) * share)])
    refused(run("segment", "cut.svs", "--mpp", "0.5", "--predictor", "fakes:redness"), "cut.svs", tmp_path)


def test_odd_file_names(run, small_slide, tmp_path):
    name = os.fsdecode(b"<b>\xff&.tiff")
    shutil.copy(small_slide.path, tmp_path / name)
    code, _, _ = run("segment", name, "--predictor", "fakes:redness", "--out", "case")
    assert code == 0
    page = (tmp_path / "case" / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    refused(run("segment", "x" * 300 + ".svs"), "xxx", tmp_path)


def test_an_output_that_is_a_file_or_somebody_elses(run, small_slide, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(run("segment", small_slide.path, "--predictor", "fakes:redness", "--out", "file"), "file", tmp_path)
    (tmp_path / "report.html").write_text("mine")
    refused(
        run("segment", small_slide.path, "--predictor", "fakes:redness", "--out", "."), "holds report.html", tmp_path
    )
    assert (tmp_path / "report.html").read_text() == "mine"
    refused(run("info", small_slide.path, "--overview", "picture.tiff"), "ends in .png", tmp_path)


def test_help_of_every_verb_has_examples(run):
    _, out, _ = run("--help")
    for verb in ("segment", "info", "convert", "evaluate", "weights", "demo"):
        assert verb in out
        code, text, _ = run(verb, "--help")
        assert code == 0
        assert f"examples:\n  digipath {verb}" in text


def test_wrong_usage_is_exit_2(run):
    assert run("segment")[0] == 2
    assert run("nonsense")[0] == 2
    assert run()[0] == 0


def test_a_log_gets_lines_not_bars(small_slide, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "digipath", "segment", small_slide.path, "--predictor", "fakes:redness"],
        capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(TESTS), "PATH": ""}, check=True,
    )
    assert "patches: " in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["broken.svs", "unreadable.svs", "unopenable.tiff"])
def test_real_broken_slides(run, shared_data, tmp_path, name):
    refused(run("segment", shared_data / "wsi" / "bad" / name, "--mpp", "0.5"), name, tmp_path)


@pytest.mark.real_data
def test_a_slide_without_resolution_wants_mpp(run, shared_data, tmp_path):
    slide = shared_data / "wsi" / "TCGA-CR-7395-01A-01-TS1.svs"
    refused(run("segment", slide), "--mpp", tmp_path)
    code, out, _ = run("segment", slide, "--mpp", "0.5", "--predictor", "fakes:redness", "--json")
    assert code == 0
    assert json.loads(out)["tissue_mm2"] > 1


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["camelyon-jpeg.dcm", "camelyon-jpeg2000.dcm"])
def test_an_overview_slide_is_too_coarse_for_the_weights_but_not_for_ones_own(run, shared_data, tmp_path, name):
    slide = shared_data / "wsi" / name
    assert "28.97 µm/px" in run("info", slide)[1]
    refused(run("segment", slide), "more than 2 × coarser", tmp_path)
    assert run("segment", slide, "--predictor", "fakes:coarse")[0] == 0


@pytest.mark.real_data
def test_a_fluorescence_slide(run, shared_data):
    slide = shared_data / "wsi" / "test3-DAPI-2-387.ndpi"
    code, out, _ = run("segment", slide, "--predictor", "fakes:redness", "--out", "auto")
    assert code == 0
    assert "black" in out
    assert "--tissue all" in out
    code, out, _ = run("segment", slide, "--predictor", "fakes:redness", "--tissue", "all", "--json", "--out", "all")
    assert code == 0
    assert json.loads(out)["tissue_mm2"] == pytest.approx(3968 * 4864 * 0.2280**2 / 1e6, rel=0.01)
