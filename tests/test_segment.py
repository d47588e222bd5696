"""`segment()` end to end on generated slides, with predictors that need no network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

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
)
from digipath.synthetic import write_slide
from digipath.values import READ_FAILED, Coverage

sys.path.insert(0, str(Path(__file__).parent))
import fakes

FILES = {"maps.zarr", "run.json", "state.json", "summary.json", "lesions.geojson", "report.html", "overlay.png"}


@pytest.fixture(scope="module")
def result(small_slide, tmp_path_factory):
    out = tmp_path_factory.mktemp("result") / "case"
    return digipath.segment(small_slide.path, predictors=[fakes.redness], out=out, views=8)


def test_the_folder_holds_everything(result):
    assert {path.name for path in result.folder.iterdir()} >= FILES
    again = digipath.open_result(result.folder)
    assert again.run == result.run
    assert digipath.list_results(result.folder.parent) == [result.folder]


def test_tissue_is_found_covered_and_measured(result, small_slide):
    assert result.coverage.complete
    truth = small_slide.tissue_mask(4.0)
    found = result.maps["tissue"][:] > 0
    assert (found & truth).sum() / truth.sum() > 0.98
    margin_px = 30  # 60 µm: gaps up to 40 µm are closed and 16 µm are added
    assert not (found & (ndimage.distance_transform_edt(~truth) > margin_px)).any()
    area_mm2 = result.coverage.tissue * 0.5**2 / 1e6
    assert result.summary["tissue_mm2"] == pytest.approx(area_mm2)
    assert result.mpp == 2.0
    assert result.classes == ("tumour",)


def test_maps_are_block_means_of_the_slide(result, small_slide):
    with digipath.open_slide(small_slide.path) as slide:
        pixels, failed = slide.read_block(0, 0, 1100, 1500, mpp=None)
    assert failed is None
    red = pixels[..., 0].reshape(275, 4, 375, 4).mean((1, 3)) / 255
    tissue = result.maps["tissue"][:] > 0
    np.testing.assert_allclose(result.probability[:][tissue], red[tissue], atol=1 / 255)
    assert (result.probability[:][~tissue] == 0).all()
    assert np.abs(result.aleatoric[:][tissue]).max() < 1e-6


def test_lesions_open_as_geojson_and_agree_with_the_summary(result):
    features = json.loads((result.folder / "lesions.geojson").read_text())["features"]
    assert len(features) == result.summary["lesions"] > 0
    assert features[0]["properties"]["classification"]["name"] == "tumour"


def test_a_finished_case_is_returned_as_it_is(result, small_slide):
    before = (result.folder / "run.json").read_bytes()
    digipath.segment(small_slide.path, predictors=[fakes.redness], out=result.folder, views=8)
    assert (result.folder / "run.json").read_bytes() == before
    with pytest.raises(CaseDiffers, match="another settings"):
        digipath.segment(small_slide.path, predictors=[fakes.redness], out=result.folder)


def test_another_predictor_of_the_same_name_is_another_case(tmp_path, small_slide):
    def network(value):
        return lambda patches: np.full((*patches.shape[:-1], 1), value, np.float32)

    digipath.segment(small_slide.path, predictors=[network(0.2)], out=tmp_path / "case")
    with pytest.raises(CaseDiffers, match="another weights"):
        digipath.segment(small_slide.path, predictors=[network(0.9)], out=tmp_path / "case")


def test_ink_on_glass_is_no_tissue(tmp_path):
    glass = np.full((600, 800, 3), (243, 242, 244), np.uint8)
    glass[200:260, 100:700] = (20, 140, 60)
    Image.fromarray(glass).save(tmp_path / "glass.png")
    result = digipath.segment(tmp_path / "glass.png", predictors=[fakes.redness], mpp=2.0, out=tmp_path / "case")
    assert result.coverage == Coverage()
    assert result.summary["tissue_mm2"] == 0
    assert result.run["pen_overview_px"]["green"] > 0.9 * 60 * 600


@pytest.mark.parametrize(("width", "height"), [(1, 1), (50, 30), (300, 700)])
@pytest.mark.parametrize("views", [1, 8])
def test_small_slides_come_back_whole(tmp_path, width, height, views):
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    result = digipath.segment(
        tmp_path / "image.png", predictors=[fakes.identity], mpp=0.5, tissue="all", out_mpp="native", views=views,
        out=tmp_path / "case",
    )
    assert result.probability.shape == (height, width, 3)
    np.testing.assert_allclose(result.probability[:], pixels / 255, atol=1 / 255)
    assert result.coverage == Coverage(width * height, width * height, 0, 0)


@pytest.mark.parametrize("overlap", [0, 0.3, 0.9])
def test_a_constant_is_stored_within_a_thousandth(tmp_path, small_slide, overlap):
    result = digipath.segment(
        small_slide.path, predictors=[fakes.half, fakes.half], overlap=overlap, patch=224, tissue="all", out_mpp=1.0,
        out=tmp_path,
    )
    assert np.abs(result.probability[:].astype(float) - 0.5).max() <= 1e-3
    assert np.abs(result.epistemic[:].astype(float)).max() <= 1e-6
    assert result.aleatoric is None


def test_corrupted_tiles_are_exactly_the_failed_pixels(tmp_path):
    bad = [(1, 1), (2, 1), (5, 3), (4, 0)]  # the last column and row of tiles are cut by the border
    slide = write_slide(tmp_path / "bad.tiff", (1500, 1100), tile=256, lossless=True, failed_tiles=bad)
    result = digipath.segment(slide.path, predictors=[fakes.redness], tissue="all", out=tmp_path / "case")
    expected = np.zeros((275, 375), bool)
    for column, row in bad:
        expected[64 * row : 64 * row + 64, 64 * column : 64 * column + 64] = True
    np.testing.assert_array_equal(result.maps["coverage"][:] == READ_FAILED, expected)
    assert result.coverage == Coverage(1650000, 1650000 - expected.sum() * 16, expected.sum() * 16, 0)
    assert np.isnan(result.probability[:][expected]).all()
    assert np.isfinite(result.probability[:][~expected]).all()
    assert result.summary["complete"] is False
    assert "could not be read" in (result.folder / "report.html").read_text()


def test_no_tissue_ends_with_empty_maps(tmp_path):
    Image.new("RGB", (600, 500), (243, 242, 244)).save(tmp_path / "glass.png")
    result = digipath.segment(tmp_path / "glass.png", predictors=[fakes.redness], mpp=0.5, out=tmp_path / "case")
    assert result.coverage == Coverage()
    assert (result.probability[:] == 0).all()
    assert result.summary["lesions"] == 0
    assert {path.name for path in result.folder.iterdir()} >= FILES


def test_outlines_say_where_to_predict(tmp_path, small_slide):
    square = [[200, 400], [600, 400], [600, 800], [200, 800], [200, 400]]
    outline = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]}, "properties": {}}
    (tmp_path / "here.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [outline]}))
    result = digipath.segment(
        small_slide.path, predictors=[fakes.redness], tissue=tmp_path / "here.geojson", out=tmp_path / "case"
    )
    tissue = result.maps["tissue"][:] > 0
    expected = np.zeros((275, 375), bool)
    expected[100:200, 50:150] = True
    assert (tissue ^ expected).sum() <= 0.02 * expected.sum()


def test_outlines_lie_where_the_spot_is_on_a_wide_slide(tmp_path):
    """Rows and columns round differently to the working resolution; the scale must not come from either."""
    image = np.full((100, 8000, 3), 255, np.uint8)
    image[20:80, 7600:7680] = 0
    Image.fromarray(image).save(tmp_path / "wide.png")

    def darkness(patches):
        return 1 - fakes.redness(patches)

    darkness.patch, darkness.at_mpp = 256, 0.5
    result = digipath.segment(
        tmp_path / "wide.png", predictors=[darkness], mpp=0.2525, tissue="all", out_mpp="native", out=tmp_path / "case"
    )
    (feature,) = json.loads((result.folder / "lesions.geojson").read_text())["features"]
    x, y = np.array(feature["geometry"]["coordinates"][0]).T
    assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx((7600, 7680, 20, 80), abs=2)


def test_cancelled_runs_go_on_to_the_same_bytes(tmp_path, small_slide):
    def run(out, **options):
        return digipath.segment(small_slide.path, predictors=[fakes.redness], tissue="all", out=out, **options)

    whole = run(tmp_path / "whole")
    calls = []
    with pytest.raises(Cancelled, match="run again to go on"):
        run(tmp_path / "part", cancel=lambda: calls.append(1) or len(calls) > 40)
    assert json.loads((tmp_path / "part" / "state.json").read_text())["state"] == "cancelled"
    with pytest.raises(NotFound, match="cancelled"):
        digipath.open_result(tmp_path / "part")
    seen = []
    run(tmp_path / "part", progress=seen.append)
    assert seen[1].done > 1, "it began again instead of going on"
    assert tree(tmp_path / "part") == tree(whole.folder)


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in (folder / "maps.zarr").rglob("*") if path.is_file()
    }


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"overlap": 1.0}, BadInput, "overlap must be in"),
        ({"overlap": float("nan")}, BadInput, "overlap must be in"),
        ({"mpp": -1.0}, BadInput, "mpp"),
        ({"views": 5}, BadInput, "views must be 1, 2, 4, 8 or .adaptive., got 5"),
        ({"out_mpp": 0}, BadInput, "out_mpp must be positive"),
        ({"out_mpp": "fine"}, BadInput, "'native'"),
        ({"window": "round"}, BadInput, "window must be one of"),
        ({"tissue": "nowhere.png"}, BadInput, "no such file: expected tissue as"),
        ({"predictors": []}, BadInput, "predictors is empty"),
        ({"predictors": [fakes.broken]}, BadPredictor, "values in"),
        ({"predictors": [fakes.redness, fakes.identity]}, BadInput, "must agree"),
        ({"predictors": [fakes.identity, fakes.half], "patch": 64}, BadPredictor, "same classes"),
        ({"predictors": [fakes.coarse], "mpp": 90.0}, ResolutionTooLow, "90 µm/px.*28.97"),
        ({"out": "/proc/nowhere/case"}, OutputUnwritable, "cannot write"),
    ],
)
def test_bad_arguments_are_refused_and_leave_nothing(tmp_path, small_slide, options, error, message):
    options = {"predictors": [fakes.redness], "out": tmp_path / "case", **options}
    with pytest.raises(error, match=message):
        digipath.segment(small_slide.path, **options)
    assert list(tmp_path.iterdir()) == []


def test_no_resolution_is_an_error_for_weights_and_none_for_own_predictors(tmp_path):
    Image.fromarray(np.full((300, 300, 3), 120, np.uint8)).save(tmp_path / "image.png")
    with pytest.raises(MissingResolution, match="--mpp"):
        digipath.segment(tmp_path / "image.png", predictors=[fakes.coarse], out=tmp_path / "case")
    result = digipath.segment(tmp_path / "image.png", predictors=[fakes.redness], tissue="all", out=tmp_path / "case")
    assert result.mpp is None
    assert result.summary["tissue_mm2"] is None
