"""`grade()` end to end on generated slides, with predictors that need no network."""

from __future__ import annotations

import json
from functools import partial

import fakes
import numpy as np
import pytest
from PIL import Image

import digipath
from digipath.errors import (
    BadInput,
    BadPredictor,
    Cancelled,
    CaseDiffers,
    MissingResolution,
    NotFound,
    OutputUnwritable,
    ResolutionTooLow,
    SlideNotFound,
)
from digipath.grading import slide_case as case
from digipath.grading.reporting import write_case_report
from digipath.measure.tile_grades import read_grades
from digipath.result import open_segmentation
from digipath.synthetic import write_slide
from digipath.tiling import TileRule, plan_tiles
from digipath.values import BACKGROUND, EXCLUDED, PREDICTED, READ_FAILED, Coverage

FILES = {
    "maps.zarr", "run.json", "state.json", "summary.json", "tiles.csv", "report.html", "grade_map.png", "grade.geojson",
}  # fmt: skip
SIDE = 128


def corner(tiles):
    """Grade 2 or 4 by the brightness of the first pixel that it sees: views of a tile differ."""
    top = tiles[:, 0, 0, 0] / np.float32(255)
    return np.stack([1 - top, top], axis=1)


corner.patch, corner.classes = SIDE, ("grade 2", "grade 4")


def level(tiles):
    """Another grader of the classes of `fakes.grader`, by the mean of the green channel."""
    mean = tiles[..., 1].mean(axis=(1, 2)).astype(np.float32) / 255
    return np.stack([0.6 * (1 - mean), 0.4 * np.ones_like(mean), 0.6 * mean], axis=1)


level.patch, level.classes = 256, fakes.grader.classes


def graded(slide, out, *predictors, **options):
    least = 0.5 if isinstance(slide, list) or slide.is_file() else None
    options = {"tile": SIDE, "least_tissue": least, "gallery": 1, **options}
    return digipath.grade(slide, predictors=predictors or [fakes.grader], out=out, **options)


@pytest.fixture(scope="module")
def result(small_slide, tmp_path_factory):
    return graded(small_slide.path, tmp_path_factory.mktemp("result") / "case", fakes.grader, level, views=4)


@pytest.fixture(scope="module")
def pixels(small_slide):
    """All tiles of the slide, (9, 12, 128, 128, 3), completed by their mirror image, and their plan."""
    with digipath.open_slide(small_slide.path) as source:
        whole, _ = source.read_block(0, 0, 1100, 1500, mpp=None)
        tiles = plan_tiles(source, TileRule(None, SIDE, 0.5)).tiles
    whole = np.pad(whole, [(0, 9 * SIDE - 1100), (0, 12 * SIDE - 1500), (0, 0)], mode="symmetric")
    return whole.reshape(9, SIDE, 12, SIDE, 3).swapaxes(1, 2), tiles


def test_the_folder_holds_everything(result):
    (slide,) = result.slides
    assert {path.name for path in result.folder.iterdir()} >= FILES
    assert (slide.slide_name, result.classes, result.complete) == ("small.tiff", fakes.grader.classes, True)
    again = digipath.open_result(result.folder)
    assert isinstance(again, digipath.Grade)
    assert again.slides[0].run == slide.run
    assert digipath.list_results(result.folder.parent) == [result.folder]
    with pytest.raises(BadInput, match="received that of `digipath grade`"):
        open_segmentation(result.folder)


def test_maps_are_what_numpy_makes_of_each_tile(result, pixels):
    """Mean and variances over two graders and four views (turns, which change neither mean colour)."""
    tiles, plan = pixels
    slide = result.slides[0]
    kept = plan.kept
    assert 10 < kept.sum() < kept.size
    answers = np.stack([grader(tiles[kept]) for grader in (fakes.grader, level)])
    np.testing.assert_allclose(slide.maps["probability"][:][kept], answers.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(slide.maps["epistemic"][:][kept], answers.var(axis=0), atol=1e-3)
    np.testing.assert_allclose(slide.maps["aleatoric"][:][kept], 0, atol=1e-6)
    np.testing.assert_array_equal(slide.maps["coverage"][:], plan.wanted)
    assert np.isnan(slide.maps["probability"][:][plan.wanted == EXCLUDED]).all()
    assert (slide.maps["probability"][:][plan.wanted == BACKGROUND] == 0).all()
    assert "entropy" not in slide.maps


def test_table_readout_summary_and_outlines_agree(result, pixels):
    slide, (_, plan) = result.slides[0], pixels
    probability, areas = slide.maps["probability"][:][plan.kept], plan.tissue_px[plan.kept] * 0.25 / 1e6
    np.testing.assert_array_equal(slide.probabilities, probability)
    np.testing.assert_allclose(slide.areas_mm2, areas, rtol=1e-6)
    read = read_grades(probability, result.classes, areas_mm2=areas)
    for found in (result.readout(), slide.readout()):
        assert found.shares == read.shares
        assert found.probabilities == read.probabilities
        assert found.areas_mm2 == pytest.approx(read.areas_mm2)
    assert slide.summary["majority_grade"] == read.majority_grade
    assert slide.summary["areas_mm2"] == pytest.approx(read.areas_mm2)
    assert sum(slide.summary["shares"].values()) == pytest.approx(1)
    for row, cell in zip(slide.tiles, plan.cells.tolist(), strict=True):
        assert [int(row["row"]), int(row["column"])] == cell
        assert [float(row["y_l0"]), float(row["x_l0"])] == [SIDE * index for index in cell]
        assert row["grade"] in result.classes
    features = json.loads((result.folder / "grade.geojson").read_text())["features"]
    assert len(features) == len(slide.tiles)
    with Image.open(result.folder / "grade_map.png") as picture:
        assert picture.width > 300


def test_the_ledger_adds_up(result, pixels):
    _, plan = pixels
    ledger = result.slides[0].coverage
    tissue = plan.tissue_px
    assert ledger == Coverage(tissue.sum(), tissue[plan.kept].sum(), 0, tissue[~plan.kept].sum())
    assert ledger.tissue == ledger.predicted + ledger.read_failed + ledger.excluded
    counts = result.slides[0].summary["tile_counts"]
    assert counts == {"graded": len(plan), "unreadable": 0, "left_out": (plan.wanted == EXCLUDED).sum()}


def test_views_are_averaged_and_their_variance_is_aleatoric(small_slide, pixels, tmp_path):
    tiles, plan = pixels
    slide = graded(small_slide.path, tmp_path / "case", corner, views=4).slides[0]
    kept = tiles[plan.kept][..., 0] / 255
    corners = np.stack([kept[:, 0, 0], kept[:, 0, -1], kept[:, -1, 0], kept[:, -1, -1]])
    top = slide.maps["probability"][:][plan.kept][:, 1]
    np.testing.assert_allclose(top, corners.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(slide.maps["aleatoric"][:][plan.kept][:, 1], corners.var(axis=0), atol=1e-3)
    assert "epistemic" not in slide.maps
    assert "aleatoric" in slide.tiles[0]


def test_a_finished_case_is_read_again_by_other_thresholds_without_its_network(small_slide, tmp_path):
    calls = []

    def counting(tiles):
        calls.append(len(tiles))
        return fakes.grader(tiles)

    counting.classes = fakes.grader.classes
    first = graded(small_slide.path, tmp_path / "case", counting)
    made, page = len(calls), (tmp_path / "case" / "report.html").read_bytes()
    run = (tmp_path / "case" / "run.json").read_bytes()
    assert made == len(first.probabilities) + 1, "each tile once, and a tile of noise"
    graded(small_slide.path, tmp_path / "case", counting)
    assert (tmp_path / "case" / "run.json").read_bytes() == run
    stricter = graded(small_slide.path, tmp_path / "case", counting, least_share=0.3, least_confidence=0.8)
    assert len(calls) == made + 2, "only the noise"
    assert (tmp_path / "case" / "report.html").read_bytes() != page
    summary = json.loads((tmp_path / "case" / "summary.json").read_text())
    assert (summary["least_share"], summary["least_confidence"]) == (0.3, 0.8)
    expected = first.readout(least_share=0.3, least_confidence=0.8)
    assert summary["highest_grade"] == expected.highest_grade is not None, "0.8 as stored reaches 0.8"
    assert stricter.slides[0].run["reading"]["least_share"] == 0.3
    assert stricter.slides[0].run["coverage"] == first.slides[0].run["coverage"]
    with pytest.raises(CaseDiffers, match="another settings"):
        graded(small_slide.path, tmp_path / "case", counting, least_tissue=0.6)
    with pytest.raises(CaseDiffers, match="another weights"):
        graded(small_slide.path, tmp_path / "case", level)
    assert not graded(small_slide.path, tmp_path / "case", level, resume=False).slides[0].maps.keys() & {"epistemic"}


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in (folder / "maps.zarr").rglob("*") if p.is_file()}


def test_a_cancelled_run_goes_on_to_the_same_bytes(small_slide, tmp_path):
    run = partial(graded, small_slide.path, views=2, tissue="all", tile=100, least_tissue=0.1)
    whole = run(tmp_path / "whole")
    calls = []
    with pytest.raises(Cancelled, match="run again to go on"):
        run(tmp_path / "part", cancel=lambda: calls.append(1) or len(calls) > 80)
    with pytest.raises(NotFound, match="cancelled"):
        digipath.open_result(tmp_path / "part")
    seen = []
    again = run(tmp_path / "part", progress=seen.append)
    assert seen[1].done > 60, "it began again instead of going on"
    assert tree(tmp_path / "part") == tree(whole.folder)
    assert again.slides[0].coverage == whole.slides[0].coverage
    assert (again.folder / "tiles.csv").read_bytes() == (whole.folder / "tiles.csv").read_bytes()


def test_unreadable_tiles_have_no_grade_and_are_told(tmp_path):
    slide = write_slide(tmp_path / "bad.tiff", (1024, 768), tile=256, lossless=True, failed_tiles=[(1, 1), (3, 0)])
    result = graded(slide.path, tmp_path / "case", tile=256, tissue="all")
    codes = np.full((3, 4), PREDICTED)
    codes[1, 1] = codes[0, 3] = READ_FAILED
    np.testing.assert_array_equal(result.slides[0].maps["coverage"][:], codes)
    assert result.slides[0].coverage == Coverage(1024 * 768, 10 * 65536, 2 * 65536, 0)
    assert not result.complete
    assert result.readout().tiles == 10
    assert any("2 of 12 tiles could not be read" in note for note in result.slides[0].summary["notes"])
    assert "could not be read" in (result.folder / "report.html").read_text()


def test_no_tissue_is_said_and_has_no_grade(tmp_path):
    Image.new("RGB", (5000, 600), (243, 242, 244)).save(tmp_path / "glass.png")
    result = graded(tmp_path / "glass.png", tmp_path / "case", fakes.grader, level, mpp=0.5, keep_members=True, views=2)
    read = result.readout()
    assert (read.tiles, read.mean_grade, read.majority_grade, read.highest_grade) == (0, None, None, None)
    assert result.slides[0].coverage == Coverage()
    assert any("No tissue was found: no grade" in note for note in result.slides[0].summary["notes"])
    assert "No grade: no tissue was found." in (result.folder / "report.html").read_text()
    assert result.probabilities.shape == (0, 3)
    assert digipath.open_result(result.folder).slides[0].tiles == []


def test_too_little_tissue_in_every_tile_is_said_too(small_slide, tmp_path):
    result = graded(small_slide.path, tmp_path / "case", tile=1024, least_tissue=0.995)
    assert result.readout().mean_grade is None
    assert any("No tile holds 99.5% tissue: no grade" in note for note in result.slides[0].summary["notes"])
    ledger = result.slides[0].coverage
    assert ledger.tissue == ledger.excluded > 0


def test_one_image_smaller_than_a_tile_is_one_tile(tmp_path):
    picture = np.zeros((60, 90, 3), np.uint8)
    picture[:, :45, 0] = 160
    picture[:, 45:, 0] = 240  # mean 200: grade 4 from 200 on, whether mirrored or not
    Image.fromarray(picture).save(tmp_path / "small.png")
    seen = []

    def looking(tiles):
        seen.append(tiles.copy())
        return fakes.grader(tiles)

    looking.classes = fakes.grader.classes
    result = graded(tmp_path / "small.png", tmp_path / "case", looking, tile=180, mpp=0.5)
    mirrored = np.pad(picture, [(0, 120), (0, 90), (0, 0)], mode="symmetric")
    np.testing.assert_array_equal(seen[-1][0], mirrored)
    assert result.readout().mean_grade == "grade 4"
    assert result.slides[0].coverage == Coverage(5400, 5400, 0, 0)
    assert result.readout().areas_mm2["grade 4"] == pytest.approx(5400 * 0.25 / 1e6)
    assert any("smaller than a tile of 180 px" in note for note in result.slides[0].summary["notes"])


@pytest.fixture
def folder(tmp_path):
    """Four images: one small, one larger than a tile with a dark border, and a text."""
    made = tmp_path / "tiles"
    made.mkdir()
    for name, size, red in (("a.png", 64, 100), ("b.jpg", 64, 180), ("c.tif", 40, 230)):
        Image.new("RGB", (size, size), (red, 80, 120)).save(made / name)
    large = np.zeros((90, 90, 3), np.uint8)
    large[13:77, 13:77] = (230, 80, 120)
    Image.fromarray(large).save(made / "d.png")
    (made / "notes.txt").write_text("no tile")
    return made


def test_a_folder_of_tiles_is_graded_image_by_image(folder, tmp_path):
    result = graded(folder, tmp_path / "case", tile=64, mpp=0.5)
    slide = result.slides[0]
    assert [(row["image"], row["grade"]) for row in slide.tiles] == [
        ("a.png", "grade 2"), ("b.jpg", "grade 3"), ("c.tif", "grade 4"), ("d.png", "grade 4")
    ]  # fmt: skip
    np.testing.assert_allclose(slide.areas_mm2, np.array([4096, 4096, 1600, 4096]) * 0.25 / 1e6)
    assert slide.coverage == Coverage(13888, 13888, 0, 0)
    assert (slide.slide_name, result.readout().majority_grade) == ("tiles", "grade 4")
    notes = " ".join(slide.summary["notes"])
    assert "1 of 4 images are smaller than a tile" in notes
    assert "Of 1 of 4 images, larger than a tile of 64 px, only the middle is graded" in notes
    assert "d.png" in (result.folder / "report.html").read_text()
    state = (result.folder / "state.json").read_bytes()
    assert graded(folder, tmp_path / "case", tile=64, mpp=0.5).readout() == result.readout()
    assert (result.folder / "state.json").read_bytes() == state, "a finished folder is not graded again"


def test_folders_that_are_none_of_tiles_are_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="found none in"):
        graded(tmp_path / "empty", tmp_path / "case")
    with pytest.raises(BadInput, match=r"a folder of tiles; run with --stain none"):
        graded(folder, tmp_path / "case", stain="macenko", mpp=0.5)
    with pytest.raises(BadInput, match=r"received an image of 90 × 90 px.*d\.png"):
        graded(folder, tmp_path / "case", tile=50)
    assert not (tmp_path / "case").exists()


def test_a_broken_image_of_a_folder_is_told_and_the_others_are_graded(folder, tmp_path):
    (folder / "e.png").write_bytes(b"no image")
    result = graded(folder, tmp_path / "case", tile=64)
    assert not result.complete
    assert result.slides[0].run["tiles"]["unreadable"] == 1
    assert any("e.png" in note for note in result.slides[0].summary["notes"])


def test_an_image_of_a_folder_that_cannot_be_read_is_no_black_tile(tmp_path):
    (tmp_path / "tiles").mkdir()
    for name, failed in (("a.tif", []), ("b.tif", [(0, 0)])):
        write_slide(tmp_path / "tiles" / name, (512, 512), tile=256, lossless=True, levels=1, failed_tiles=failed)
    result = graded(tmp_path / "tiles", tmp_path / "case", tile=512)
    assert result.slides[0].maps["coverage"][:].tolist() == [[PREDICTED], [READ_FAILED]]
    assert [row["image"] for row in result.slides[0].tiles] == ["a.tif"]
    assert not result.complete


def test_several_slides_are_one_case_whose_tiles_count_alike(small_slide, folder, tmp_path):
    other = write_slide(tmp_path / "other.tiff", (700, 600), tile=256, lossless=True, seed=3).path
    result = graded([small_slide.path, other], tmp_path / "case")
    assert [slide.folder.name for slide in result.slides] == ["small", "other"]
    joined = np.concatenate([slide.probabilities for slide in result.slides])
    read = read_grades(joined, result.classes)
    assert result.readout().shares == read.shares
    assert result.readout().tiles == sum(len(slide.tiles) for slide in result.slides)
    areas = [slide.readout().areas_mm2 for slide in result.slides]
    assert result.readout().areas_mm2 == pytest.approx({name: sum(a[name] for a in areas) for name in result.classes})
    again = digipath.open_result(result.folder)
    assert again.readout() == result.readout()
    assert json.loads((result.folder / "case.json").read_text())["mean_grade"] == read.mean_grade
    page = (result.folder / "case.html").read_text()
    assert "other.tiff" in page
    assert page.count("<img ") == 2, "the map of each slide, as its own folder holds it"
    other.unlink()
    write_case_report(result, ())
    assert (result.folder / "case.html").read_text() == page, "no slide is opened again"
    assert digipath.open_result(result.folder / "other").probabilities.shape == result.slides[1].probabilities.shape


@pytest.mark.parametrize("explained", [True, False])
def test_progress_is_told_while_the_gallery_is_made(small_slide, tmp_path, monkeypatch, explained):
    heat = (lambda tile, grade: np.zeros(tile.shape[:2], np.float32)) if explained else None
    monkeypatch.setattr(case, "explainer_of", lambda graders: heat)
    seen = []
    result = graded(small_slide.path, tmp_path / "case", gallery=2, progress=seen.append)
    graded_last = max(i for i, report in enumerate(seen) if report.message == "patches")
    loading, *told = seen[graded_last + 1 :]
    read = result.readout()
    total = sum(min(2 * 2, round(share * read.tiles)) for share in read.shares.values())
    assert (loading.done, loading.total, loading.message) == (0, total, "loading the network")
    assert [(report.done, report.total) for report in told] == [(done, total) for done in range(1, total + 1)]
    assert {report.message for report in told} == {"explaining tiles" if explained else "showing tiles"}
    assert all(report.rate > 0 for report in told)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"views": 3}, BadInput, "views must be 1, 2, 4 or 8, got 3"),
        ({"tile": 0}, BadInput, "tile must be positive"),
        ({"least_tissue": 1.5}, BadInput, r"\(0, 1\]"),
        ({"least_tissue": float("nan")}, BadInput, "least_tissue must be"),
        ({"least_share": -0.1}, BadInput, r"least_share must be in \[0, 1\]"),
        ({"least_confidence": float("nan")}, BadInput, r"least_confidence must be in \[0, 1\]"),
        ({"gallery": -1}, BadInput, "gallery must be 0 or more"),
        ({"tissue": "nowhere.png"}, BadInput, "mask or outline file, got 'nowhere.png'"),
        ({"predictors": []}, BadInput, "predictors is empty"),
        ({"predictors": [fakes.half]}, BadPredictor, "must return"),
        ({"predictors": [fakes.grader, corner]}, BadInput, "must agree"),
        ({"slides": []}, BadInput, "at least one slide"),
        ({"slides": ["a/x.svs", "b/x.tiff"]}, BadInput, "different names in a case, got x more than once"),
        ({"slides": "nowhere.svs"}, SlideNotFound, r"nowhere\.svs"),
        ({"volumes": ["t1.nii"]}, NotFound, r"found nothing at t1\.nii"),
        ({"out": "/proc/nowhere/case"}, OutputUnwritable, "cannot write"),
        ({"at_mpp": 2.0, "mpp": 5.0}, ResolutionTooLow, "5 µm/px is more than 2 × coarser"),
    ],
)
def test_bad_arguments_are_refused_and_leave_nothing(tmp_path, small_slide, options, error, message):
    given = {"slides": small_slide.path, "predictors": [fakes.grader], "out": tmp_path / "case", **options}
    with pytest.raises(error, match=message) as caught:
        digipath.grade(**given)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_resolution_is_asked_for_where_the_grader_has_one(tmp_path):
    Image.new("RGB", (300, 300), (180, 100, 160)).save(tmp_path / "image.png")

    def trained(tiles):
        return fakes.grader(tiles)

    trained.at_mpp = 0.5
    with pytest.raises(MissingResolution, match="--mpp"):
        graded(tmp_path / "image.png", tmp_path / "case", trained)
    with pytest.raises(ResolutionTooLow, match=r"2 µm/px is more than 2 × coarser than the 0\.5 µm/px"):
        graded(tmp_path / "image.png", tmp_path / "case", trained, mpp=2.0)
    for path in (tmp_path / "image.png", tmp_path):  # by itself, and as a tile of a folder
        notes = graded(path, tmp_path / f"{path.name} case", trained, mpp=1.0, tile=600).slides[0].summary["notes"]
        assert "The slide (1 µm/px) is coarser than 0.5 µm/px and was enlarged." in notes
    result = graded(tmp_path / "image.png", tmp_path / "case", tissue="all")
    assert result.readout().areas_mm2 is None
    assert {row["tissue_mm2"] for row in result.slides[0].tiles} == {""}
