"""Stain normalisation inside `segment()`: fitted once on the tissue, applied to every patch, recorded."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import digipath
from digipath import networks as choose_networks
from digipath.cli import main
from digipath.errors import BadCard, BadInput, CaseDiffers
from digipath.planning import Settings, plan_slide
from digipath.slide import open_slide
from digipath.slide_stain import fit_slide, reference
from digipath.stain import REFERENCES, StainReference, fit_stain, normaliser
from digipath.synthetic import write_slide
from digipath.values import READ_FAILED, Coverage

sys.path.insert(0, str(Path(__file__).parent))
import fakes

TARGET = StainReference("macenko", {"stains": [[0.6, 0.8, 0.0], [0.0, 0.6, 0.8]], "strengths": [0.5, 0.4]})
STAINS = np.array([[0.65, 0.70, 0.29], [0.21, 0.80, 0.56]])


def stained_pixels(shape, seed=0, strengths=(0.8, 0.6)):
    """Two-stain RGB, (*shape, 3), smooth in blocks of 4 so that it looks like tissue."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 1, (-(-shape[0] // 4), -(-shape[1] // 4), 2))
    concentrations = coarse.repeat(4, axis=0).repeat(4, axis=1)[: shape[0], : shape[1]] * strengths
    light = 10.0 ** -(concentrations @ STAINS)
    return np.clip(np.round(light * 256 - 1), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def tissue_png(tmp_path_factory):
    """A picture of 400 × 300 px that is stained all over."""
    path = tmp_path_factory.mktemp("picture") / "tissue.png"
    Image.fromarray(stained_pixels((300, 400))).save(path)
    return path


def segment(path, out, **options):
    options = {"predictors": [fakes.identity], "mpp": 0.5, "tissue": "all", "out_mpp": "native", **options}
    return digipath.segment(path, out=out, **options)


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_networks_see_the_normalised_slide(tmp_path, tissue_png, method):
    """The maps of a predictor that answers with its pixels are the normalised slide."""
    result = segment(tissue_png, tmp_path / "case", stain=method)
    pixels = np.asarray(Image.open(tissue_png))
    with open_slide(tissue_png) as slide:
        fitted = fit_slide(slide, np.ones((1, 1), bool), method, mpp=None)
    assert fitted == fit_stain(pixels, method)  # of all of so small a picture, whatever its mask's resolution
    expected = normaliser(fitted, REFERENCES[method])(pixels)
    assert np.abs(expected.astype(int) - pixels).mean() > 5
    np.testing.assert_allclose(result.probability[:], expected / 255, atol=1e-3)
    assert result.coverage == Coverage(120000, 120000, 0, 0)


def test_the_run_record_has_the_numbers_and_the_settings_the_method(tmp_path, tissue_png):
    result = segment(tissue_png, tmp_path / "case", stain="macenko")
    assert result.run["settings"]["stain"] == "macenko"
    assert result.run["stain"]["target"] == REFERENCES["macenko"].to_record()
    stains = np.array(result.run["stain"]["source"]["stains"])
    unit = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
    assert (stains * unit).sum(axis=1).min() > np.cos(np.radians(2))
    assert "macenko" in (result.folder / "report.html").read_text()


def test_without_stain_nothing_changes_and_the_record_says_so(tmp_path, tissue_png):
    plain = segment(tissue_png, tmp_path / "plain")
    none = segment(tissue_png, tmp_path / "none", stain="none")
    assert plain.run["settings"]["stain"] is None is plain.run["stain"]
    np.testing.assert_array_equal(plain.probability[:], none.probability[:])
    np.testing.assert_allclose(plain.probability[:], np.asarray(Image.open(tissue_png)) / 255, atol=1e-3)


def test_another_target_is_another_case(tmp_path, tissue_png):
    segment(tissue_png, tmp_path / "case", stain="macenko")
    before = (tmp_path / "case" / "run.json").read_bytes()
    segment(tissue_png, tmp_path / "case", stain=REFERENCES["macenko"])  # the same by another name
    assert (tmp_path / "case" / "run.json").read_bytes() == before
    for other in (None, "reinhard", TARGET):
        with pytest.raises(CaseDiffers, match="another settings"):
            segment(tissue_png, tmp_path / "case", stain=other)


def test_a_picture_gives_the_target(tmp_path, tissue_png):
    other = tmp_path / "other laboratory.png"
    Image.fromarray(stained_pixels((200, 200), seed=5, strengths=(0.5, 0.9))).save(other)
    result = segment(tissue_png, tmp_path / "case", stain=other)
    np.testing.assert_allclose(result.run["stain"]["target"]["strengths"], [0.5, 0.9], rtol=0.1)
    found = fit_stain(np.round(result.probability[:].astype(float) * 255).astype(np.uint8))
    np.testing.assert_allclose(found.numbers["strengths"], result.run["stain"]["target"]["strengths"], rtol=0.05)
    assert reference(str(other)) == reference(other)


def test_one_reference_can_be_given_as_numbers(tmp_path, tissue_png):
    result = segment(tissue_png, tmp_path / "case", stain=TARGET)
    assert StainReference.from_record(result.run["stain"]["target"]) == TARGET


def test_the_ledger_is_the_same_with_and_without(tmp_path):
    slide = write_slide(tmp_path / "bad.tiff", (1000, 700), tile=256, lossless=True, failed_tiles=[(0, 0), (2, 0)])
    options = {"predictors": [fakes.redness], "mpp": None, "out_mpp": None}
    plain = segment(slide.path, tmp_path / "plain", **options)
    normalised = segment(slide.path, tmp_path / "normalised", stain=TARGET, **options)
    assert plain.coverage.read_failed == 2 * 256 * 256
    assert normalised.coverage == plain.coverage
    np.testing.assert_array_equal(normalised.maps["coverage"][:], plain.maps["coverage"][:])
    failed = plain.maps["coverage"][:] == READ_FAILED
    assert np.isnan(normalised.probability[:][failed]).all()
    assert np.abs(normalised.probability[:][~failed] - plain.probability[:][~failed]).max() > 0.05


def test_only_the_tissue_is_fitted(tmp_path):
    """Ink and dirt outside the tissue do not change the fit; the same fit for any mask resolution."""
    image = np.full((600, 600, 3), 245, np.uint8)
    image[300:] = (20, 140, 60)
    image[:256, :256] = stained_pixels((256, 256))
    Image.fromarray(image).save(tmp_path / "slide.png")
    alone = fit_stain(stained_pixels((256, 256)))
    tissue = np.zeros((75, 75), bool)
    tissue[:32, :32] = True
    with open_slide(tmp_path / "slide.png", mpp=0.5) as slide:
        found = fit_slide(slide, tissue, "macenko", mpp=0.5)
        assert found == fit_slide(slide, tissue.repeat(8, axis=0).repeat(8, axis=1), "macenko", mpp=0.5)
    np.testing.assert_allclose(found.numbers["stains"], alone.numbers["stains"], atol=0.02)
    np.testing.assert_allclose(found.numbers["strengths"], alone.numbers["strengths"], rtol=0.03)


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_a_black_rim_is_no_stain(tmp_path, method):
    """A picture padded with 2 % of black is normalised as without it, also where all counts as tissue."""
    picture = stained_pixels((300, 400))
    Image.fromarray(np.hstack([np.zeros((300, 8, 3), np.uint8), picture])).save(tmp_path / "padded.png")
    with open_slide(tmp_path / "padded.png") as slide:
        assert fit_slide(slide, np.ones((1, 1), bool), method, mpp=None) == fit_stain(picture, method)


def test_a_fluorescent_slide_is_one_clear_line_that_leaves_nothing(tmp_path):
    image = np.zeros((300, 200, 3), np.uint8)
    image[50:250, 40:160, 2] = np.random.default_rng(0).integers(40, 250, (200, 120))
    Image.fromarray(image).save(tmp_path / "dapi.png")
    with pytest.raises(BadInput, match=r"fluorescence\?.*--stain none.*dapi\.png"):
        segment(tmp_path / "dapi.png", tmp_path / "case", stain="macenko")
    assert [path.name for path in tmp_path.iterdir()] == ["dapi.png"]


def test_the_fit_covers_a_wide_slide(tmp_path):
    """Left and right are stained differently; a fit of one side only would miss the stronger one."""
    image = np.hstack([stained_pixels((200, 2000), strengths=(s, s)) for s in (0.3, 1)])
    Image.fromarray(image).save(tmp_path / "wide.png")
    with open_slide(tmp_path / "wide.png") as slide:
        found = fit_slide(slide, np.ones((50, 1000), bool), "macenko", mpp=None)
    np.testing.assert_allclose(found.numbers["strengths"], fit_stain(image).numbers["strengths"], rtol=0.05)


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_tissue_without_stain_is_one_clear_line_that_leaves_nothing(tmp_path, method):
    Image.new("RGB", (300, 200), (240, 241, 240)).save(tmp_path / "blank.png")
    with pytest.raises(BadInput, match=r"at least 500 stained pixels.*found 0.*--stain none.*blank\.png"):
        segment(tmp_path / "blank.png", tmp_path / "case", stain=method)
    assert [path.name for path in tmp_path.iterdir()] == ["blank.png"]


def test_without_tissue_there_is_nothing_to_fit(tmp_path):
    Image.new("RGB", (600, 500), (243, 242, 244)).save(tmp_path / "blank.png")
    result = segment(tmp_path / "blank.png", tmp_path / "case", stain="macenko", tissue="auto")
    assert result.coverage == Coverage()
    assert result.run["stain"] is None


@pytest.mark.parametrize("stain", ["mackenko", "nowhere.png", Path("nowhere.svs"), "."])
def test_an_unknown_stain_is_refused(tmp_path, tissue_png, stain):
    with pytest.raises(BadInput, match="stain must be none, macenko, reinhard or a picture or slide file"):
        segment(tissue_png, tmp_path / "case", stain=stain)


def test_a_reference_without_stain_is_named(tmp_path, tissue_png):
    Image.new("RGB", (300, 200), (240, 241, 240)).save(tmp_path / "blank.png")
    with pytest.raises(BadInput, match=r"choose another reference.*blank\.png"):
        segment(tissue_png, tmp_path / "case", stain=tmp_path / "blank.png")


def test_the_command_line_takes_a_stain(tmp_path, tissue_png, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    words = ["segment", str(tissue_png), "--predictor", "fakes:identity", "--mpp", "0.5", "--tissue", "all"]
    assert main([*words, "--stain", "reinhard", "--out", str(tmp_path / "case")]) == 0
    assert digipath.open_result(tmp_path / "case").run["settings"]["stain"] == "reinhard"
    assert main([*words, "--stain", "vahadane", "--out", str(tmp_path / "other")]) == 2
    assert "got 'vahadane'" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    with pytest.raises(SystemExit):
        main(["segment", "--help"])
    assert "--stain none|macenko|reinhard|FILE" in capsys.readouterr().out


@pytest.fixture
def card(tmp_path):
    """A function that writes a copy of the shipped card, with another `input.stain`, and returns its path."""
    shipped = Path(digipath.__file__).parents[1] / "weights" / "lymphnode-ensemble-v1-unet-fold0.json"

    def write(name, stain, **changes):
        record = json.loads(shipped.read_text()) | {"name": name}
        record["input"]["stain"] = stain
        record |= changes
        shutil.copy(shipped.with_suffix("").with_suffix(".weights.h5"), tmp_path / record.get("file", "none"))
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(record))
        return str(path)

    return write


def plan(networks, path, **settings):
    with open_slide(path, mpp=0.5) as slide:
        return plan_slide(slide, networks, Settings(tissue="all", **settings))


def test_a_card_says_what_its_network_was_trained_on(card, tissue_png):
    networks = choose_networks.published(card("normalised", TARGET.to_record()))
    assert networks.stain == TARGET
    planned = plan(networks, tissue_png)
    assert planned.staining.target == TARGET
    assert planned.notes == ()
    plain = choose_networks.published("lymphnode-ensemble-v1-unet-fold0")
    assert plain.stain is None is plan(plain, tissue_png).staining


def test_other_than_trained_is_noted(card, tissue_png):
    networks = choose_networks.published(card("normalised", TARGET.to_record()))
    planned = plan(networks, tissue_png, stain="none")
    assert planned.staining is None
    (note,) = planned.notes
    assert note == "The network was trained on slides normalised (macenko) and sees this one as it is, as asked."
    (note,) = plan(networks, tissue_png, stain="reinhard").notes
    assert "sees this one normalised to another stain (reinhard)" in note
    (note,) = plan(choose_networks.published("lymphnode-ensemble-v1-unet-fold0"), tissue_png, stain="macenko").notes
    assert "trained on slides as they were" in note


def test_a_wrong_stain_in_a_card_names_the_card(card):
    with pytest.raises(BadCard, match=r"wrong input.stain.*strengths.*broken\.json"):
        choose_networks.published(card("broken", {"method": "macenko", "stains": []}))


def test_members_of_different_stains_are_refused(card, tmp_path, monkeypatch):
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path / "home"))
    card("one", TARGET.to_record())
    card("two", REFERENCES["macenko"].to_record())
    card("three", TARGET.to_record())
    (tmp_path / "home" / "weights").mkdir(parents=True)
    for path in (*tmp_path.glob("*.json"), *tmp_path.glob("*.h5")):
        shutil.copy(path, tmp_path / "home" / "weights")
    for members in (["one", "two"], ["one", "three"]):
        ensemble = json.loads((tmp_path / "one.json").read_text()) | {"kind": "ensemble", "members": members}
        for key in ("file", "urls", "bytes", "sha256", "sha256_reason", "network", "calibration"):
            ensemble.pop(key, None)
        path = tmp_path / "home" / "weights" / "both.json"
        path.write_text(json.dumps(ensemble | {"name": "both"}))
        if members[1] == "two":
            with pytest.raises(BadCard, match="one and two differ in the stain"):
                choose_networks.published("both")
        else:
            assert choose_networks.published("both").stain == TARGET


@pytest.mark.real_data
@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_a_real_slide_reaches_the_reference(shared_data, method):
    """Blocks read normalised have the reference's stain: mean colour of what is stained, at 1 µm per pixel."""
    with open_slide(shared_data / "wsi" / "CMU-1-Small-Region.svs") as slide:
        shape = slide.working_size_px(1.0)
        picture, _ = slide.read_block(0, 0, *shape, mpp=1.0)
        source = fit_slide(slide, np.ones((8, 8), bool), method, mpp=1.0)
    found = fit_stain(normaliser(source, REFERENCES[method])(picture), method)
    if method == "macenko":
        cosines = (np.array(found.numbers["stains"]) * REFERENCES[method].numbers["stains"]).sum(axis=1)
        assert cosines.min() > np.cos(np.radians(3))
        np.testing.assert_allclose(found.numbers["strengths"], REFERENCES[method].numbers["strengths"], rtol=0.15)
    else:
        np.testing.assert_allclose(found.numbers["mean"][0], REFERENCES[method].numbers["mean"][0], atol=0.08)
