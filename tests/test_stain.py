"""Stains: recovered from pictures made with known ones, and brought from one to another exactly."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from digipath.errors import BadInput
from digipath.slide import open_slide
from digipath.slide_stain import fit_slide
from digipath.stain import PIECE_PX, REFERENCES, StainReference, fit_stain, normaliser

PURPLE_PINK = [[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]]  # Ruifrok & Johnston 2001
CLOSE = [[0.3789, 0.7583, 0.5305], [0.1144, 0.8957, 0.4298]]  # as fitted on a real slide, 17° apart


def unit(stains):
    stains = np.array(stains)
    return stains / np.linalg.norm(stains, axis=1, keepdims=True)


def two_stain_picture(stains, strengths=(0.7, 0.5), seed=0, shape=(300, 400)):
    """RGB of haematoxylin and eosin of known concentrations, a tenth of it pure, no noise but rounding."""
    rng = np.random.default_rng(seed)
    concentrations = rng.uniform(0.05, 1, (*shape, 2))
    concentrations[: shape[0] // 20, :, 1] = 0
    concentrations[shape[0] // 20 : shape[0] // 10, :, 0] = 0
    light = 10.0 ** -(concentrations * strengths @ unit(stains))
    return np.clip(np.round(light * 256 - 1), 0, 255).astype(np.uint8)


def as_jpeg(pixels, quality=80):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def one_stain_picture(stain, strength):
    """RGB of one stain, in spots of some pixels."""
    amount = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(300, 400)), 3)
    amount = strength * (amount - amount.min()) / np.ptp(amount)
    return np.clip(np.round(256 * 10.0 ** -(amount[..., None] * unit([stain])) - 1), 0, 255).astype(np.uint8)


def degrees_apart(found, known):
    return np.degrees(np.arccos(np.clip((unit(found) * unit(known)).sum(axis=1), -1, 1)))


@pytest.mark.parametrize("stains", [PURPLE_PINK, CLOSE, REFERENCES["macenko"].numbers["stains"]])
@pytest.mark.parametrize("strengths", [(0.7, 0.5), (1.2, 0.4), (0.4, 0.9)])
def test_macenko_finds_the_stains_that_made_a_picture(stains, strengths):
    found = fit_stain(two_stain_picture(stains, strengths), "macenko")
    assert degrees_apart(found.numbers["stains"], stains).max() < 2.0
    # Concentrations are uniform up to the strength, so their 99th percentile is 99 % of it.
    np.testing.assert_allclose(found.numbers["strengths"], 0.99 * np.array(strengths), rtol=0.05)


def test_haematoxylin_comes_first_whichever_is_stronger():
    for strengths in ((0.2, 1.0), (1.0, 0.2)):
        stains = fit_stain(two_stain_picture(PURPLE_PINK, strengths)).numbers["stains"]
        assert stains[0][0] > 0.5 > stains[1][0]


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_glass_does_not_change_a_fit(method):
    picture = two_stain_picture(PURPLE_PINK)
    glass = np.full((2000, 400, 3), (244, 243, 245), np.uint8)
    assert fit_stain(np.vstack([picture, glass]), method) == fit_stain(picture, method)


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_black_does_not_change_a_fit(method):
    """The frame of a scan or of a padded picture; a fiftieth of it would be taken for haematoxylin."""
    picture = two_stain_picture(PURPLE_PINK)
    black = np.random.default_rng(0).integers(0, 20, (6, 400, 3), np.uint8)
    assert fit_stain(np.vstack([picture, black]), method) == fit_stain(picture, method)


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_black_s_blurred_rim_in_a_jpeg_changes_a_fit_little(method):
    picture = two_stain_picture(PURPLE_PINK)
    padded = np.hstack([np.zeros((300, 8, 3), np.uint8), picture])
    found, wanted = (fit_stain(as_jpeg(pixels), method).numbers for pixels in (padded, picture))
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=0.05, atol=0.02)


def test_reinhard_takes_mean_and_spread_in_its_own_space():
    """Grey pixels of two brightnesses: l of a grey is √3 times its log10 (LMS of white is close to 1)."""
    grey = np.repeat(np.array([[63], [127]], np.uint8), 3, axis=1).repeat(1000, axis=0)
    colour = np.array([[200, 60, 120]], np.uint8).repeat(2000, axis=0)  # a second colour: else no spread in α, β
    found = fit_stain(np.vstack([grey, colour]), "reinhard").numbers
    lms = (np.array([[64, 64, 64], [128, 128, 128], [201, 61, 121], [201, 61, 121]]) / 256) @ np.array(
        [[0.3811, 0.1967, 0.0241], [0.5783, 0.7244, 0.1288], [0.0402, 0.0782, 0.8444]]
    )
    logs = np.log10(lms)
    lab = np.stack([logs.sum(1) / 3**0.5, (logs @ [1, 1, -2]) / 6**0.5, (logs[:, 0] - logs[:, 1]) / 2**0.5], axis=1)
    assert lab[0, 0] == pytest.approx(3**0.5 * np.log10(0.25), abs=0.002)
    np.testing.assert_allclose(found["mean"], lab.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found["spread"], lab.std(axis=0), atol=1e-5)


@pytest.mark.parametrize("stains", [PURPLE_PINK, CLOSE])
def test_macenko_to_itself_is_the_picture(stains):
    picture = two_stain_picture(stains)
    own = fit_stain(picture)
    difference = np.abs(normaliser(own, own)(picture).astype(int) - picture)
    assert difference.max() <= 2
    assert difference.mean() < 0.5


def test_reinhard_to_itself_is_the_picture_whatever_it_shows():
    pixels = np.random.default_rng(0).integers(0, 256, (500, 100, 3), np.uint8)
    own = fit_stain(pixels, "reinhard")
    assert np.abs(normaliser(own, own)(pixels).astype(int) - pixels).max() <= 1


@pytest.mark.parametrize("target", [unit(PURPLE_PINK), unit(CLOSE)])
def test_a_normalised_picture_has_the_stain_of_its_target(target):
    picture = two_stain_picture([[0.5, 0.75, 0.43], [0.1, 0.8, 0.55]], (0.5, 0.5))
    wanted = StainReference("macenko", {"stains": target, "strengths": [0.8, 0.6]})
    found = fit_stain(normaliser(fit_stain(picture), wanted)(picture))
    assert degrees_apart(found.numbers["stains"], target).max() < 2.0
    np.testing.assert_allclose(found.numbers["strengths"], [0.8, 0.6], rtol=0.03)


def test_a_picture_normalised_by_reinhard_has_mean_and_spread_of_its_target():
    picture = two_stain_picture(PURPLE_PINK, (0.9, 0.7))
    picture = picture[np.linalg.norm(-np.log10((picture + 1.0) / 256), axis=-1) > 0.3]  # stays stained
    mean, spread = [-0.6, -0.03, 0.03], [0.12, 0.02, 0.015]
    target = StainReference("reinhard", {"mean": mean, "spread": spread})
    found = fit_stain(normaliser(fit_stain(picture, "reinhard"), target)(picture), "reinhard")
    np.testing.assert_allclose(found.numbers["mean"], mean, atol=0.003)
    np.testing.assert_allclose(found.numbers["spread"], spread, rtol=0.03)


def test_one_pixel_by_hand():
    """Density log10(256 / 64) = 0.602 of red, 2.007 × 0.3, becomes 2.007 × 0.1 of green: 256 × 10^−0.2007 − 1."""
    source = StainReference("macenko", {"stains": [[1, 0, 0], [0, 1, 0]], "strengths": [0.3, 0.5]})
    target = StainReference("macenko", {"stains": [[0, 1, 0], [0, 0, 1]], "strengths": [0.1, 0.5]})
    pixel = np.array([63, 255, 255], np.uint8)
    assert normaliser(source, target)(pixel).tolist() == [255, 160, 255]


@pytest.mark.parametrize("source", [PURPLE_PINK, CLOSE])
def test_white_stays_white(source):
    own = StainReference("macenko", {"stains": unit(source), "strengths": [0.3, 0.9]})
    white = np.full((4, 4, 3), 255, np.uint8)
    assert (normaliser(own, REFERENCES["macenko"])(white) == 255).all()


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_any_number_of_pixels_in_any_shape(method):
    picture = two_stain_picture(PURPLE_PINK, shape=(130, 127))
    assert picture.shape[0] * picture.shape[1] > PIECE_PX
    bring = normaliser(fit_stain(picture, method), REFERENCES[method])
    whole = bring(picture)
    assert whole.dtype == np.uint8
    assert whole.shape == picture.shape
    np.testing.assert_array_equal(bring(picture[None, ::-1]), whole[None, ::-1])
    np.testing.assert_array_equal(bring(picture[57, 99]), whole[57, 99])
    assert bring(picture[:0]).shape == (0, 127, 3)


def test_default_references_are_the_published_numbers():
    macenko, reinhard = REFERENCES["macenko"].numbers, REFERENCES["reinhard"].numbers
    assert macenko["stains"] == [[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]]
    np.testing.assert_allclose(macenko["strengths"], np.array([1.9705, 1.0308]) / np.log(10), atol=1e-5)
    white = np.array([3**0.5 * np.log(255), 0, 0])
    published = np.array([8.74108109, -0.12440419, 0.0444982])
    np.testing.assert_allclose(reinhard["mean"], (published - white) / np.log(10), atol=1e-4)
    np.testing.assert_allclose(reinhard["spread"], np.array([0.6135447, 0.10989545, 0.0286032]) / np.log(10), atol=1e-5)


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((100, 100, 3), 255, np.uint8), "at least 500 stained pixels.*found 0 among 10000"),
        (np.full((100, 100, 3), 243, np.uint8), "stained pixels"),
        (two_stain_picture(PURPLE_PINK)[:20, :20], "at least 500 stained pixels.*among 400"),
        (np.full((100, 100, 3), (180, 90, 160), np.uint8), "one colour"),
        (np.zeros((100, 100, 3), np.uint8), "at least 500 stained pixels.*found 0 among 10000"),
        (as_jpeg(one_stain_picture(PURPLE_PINK[0], 0.9)), "one colour"),
        (as_jpeg(one_stain_picture(PURPLE_PINK[1], 0.9)), "one colour"),
        (np.random.default_rng(0).integers([0, 0, 0], [30, 30, 256], (100, 100, 3), np.uint8), "fluorescence"),
        (np.zeros((100, 100), np.uint8), "uint8 pixels"),
        (np.zeros((100, 100, 3), np.float32), "uint8 pixels"),
    ],
    ids=[
        "white",
        "glass",
        "too few",
        "one colour",
        "black",
        "only haematoxylin",
        "only eosin",
        "DAPI",
        "grey",
        "float",
    ],
)
def test_no_stain_is_refused(method, pixels, message):
    with pytest.raises(BadInput, match=message) as caught:
        fit_stain(pixels, method)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_a_reference_goes_through_json(method):
    fitted = fit_stain(two_stain_picture(PURPLE_PINK), method)
    record = json.loads(json.dumps(fitted.to_record()))
    assert record["method"] == method
    assert StainReference.from_record(record) == fitted


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "one of macenko, reinhard"),
        ({"method": "vahadane"}, "'vahadane'"),
        ({"method": ["macenko"]}, "one of"),
        ({"method": "macenko"}, "has stains, strengths, got None"),
        ({"method": "reinhard", "mean": [0, 0, 0], "spread": [1, 1, 1], "extra": 1}, "got mean, spread, extra"),
        ({"method": "reinhard", "mean": [0, 0], "spread": [1, 1, 1]}, "mean"),
        ({"method": "reinhard", "mean": [0, 0, float("nan")], "spread": [1, 1, 1]}, "mean"),
        ({"method": "reinhard", "mean": [0, 0, 0], "spread": [1, 0, 1]}, "above 0"),
        ({"method": "reinhard", "mean": "abc", "spread": [1, 1, 1]}, "made of numbers"),
        ({"method": "macenko", "stains": [[1, 0, 0], [0, 2, 0]], "strengths": [1, 1]}, "unit vectors"),
        ({"method": "macenko", "stains": [[1, 0, 0], [1, 0, 0]], "strengths": [1, 1]}, "one colour"),
        ({"method": "macenko", "stains": [[1, 0, 0], [0, 1, 0]], "strengths": [1, -1]}, "above 0"),
    ],
)
def test_wrong_references_are_refused(record, message):
    with pytest.raises(BadInput, match=message):
        StainReference.from_record(record)


def test_methods_do_not_mix():
    with pytest.raises(BadInput, match="one method, got macenko and reinhard"):
        normaliser(REFERENCES["macenko"], REFERENCES["reinhard"])


@pytest.mark.real_data
@pytest.mark.parametrize(("method", "share"), [("macenko", 0.6), ("reinhard", 0.2)])
def test_laboratories_come_closer(shared_data, method, share):
    """How far the mean colours of the stained pixels of five sources lie apart, before and after."""
    before, after = [], []
    for folder in (
        "glioma_tiles/GBM40_grade4", "glioma_tiles/TCGA_grade3", "colon_tiles/colon_n", "camelyon16_patches/tumor",
        "camelyon_tumour/images",
    ):  # fmt: skip
        files = sorted((shared_data / folder).iterdir())[:3]
        pixels = np.concatenate([np.asarray(Image.open(f).convert("RGB"))[::4, ::4].reshape(-1, 3) for f in files])
        stained = pixels[np.linalg.norm(-np.log10((pixels + 1.0) / 256), axis=1) > 0.15]
        before.append(stained.mean(axis=0))
        after.append(normaliser(fit_stain(pixels, method), REFERENCES[method])(stained).mean(axis=0))
    assert np.std(before, axis=0).sum() > 50
    assert np.std(after, axis=0).sum() < share * np.std(before, axis=0).sum()


@pytest.mark.real_data
@pytest.mark.parametrize("method", ["macenko", "reinhard"])
@pytest.mark.parametrize("mpp", [0.5, 2.0])
def test_a_fluorescent_slide_is_refused(shared_data, method, mpp):
    path = shared_data / "wsi" / "test3-DAPI-2-387.ndpi"
    with open_slide(path) as slide, pytest.raises(BadInput, match="fluorescence") as caught:
        fit_slide(slide, np.ones((1, 1), bool), method, mpp=mpp)
    assert "\n" not in str(caught.value)


@pytest.mark.real_data
@pytest.mark.parametrize(
    "folder", ["glioma_tiles/GBM40_grade4", "glioma_tiles/TCGA_grade3", "colon_tiles/colon_n", "colon_tiles/colon_aca",
               "camelyon16_patches/tumor", "camelyon16_patches/normal", "camelyon_tumour/images"]
)  # fmt: skip
def test_tissue_in_h_and_e_is_never_refused(shared_data, folder):
    for file in sorted((shared_data / folder).iterdir()):
        stains = fit_stain(np.asarray(Image.open(file).convert("RGB"))).numbers["stains"]
        assert degrees_apart(stains[:1], stains[1:])[0] > 15
