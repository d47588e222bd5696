"""Tissue on overviews: real slides whole, empty slides empty, ink out, nothing unread lost."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from digipath.errors import BadInput
from digipath.slide import open_slide
from digipath.tissue import pen_ink, tissue_mask, white_tile_mask

PINK, GLASS = (225, 150, 190), (243, 242, 244)


def picture(side=400, tissue=True):
    """Pink tissue in the middle half of slightly noisy glass."""
    image = np.full((side, side, 3), GLASS, np.float32)
    if tissue:
        image[side // 4 : -side // 4, side // 4 : -side // 4] = PINK
    noise = np.random.default_rng(0).normal(0, 3, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def test_tissue_is_found_to_its_border():
    found = tissue_mask(picture(), um_per_px=8.0)
    truth = np.zeros((400, 400), bool)
    truth[100:300, 100:300] = True
    assert found.mask[truth].all()
    assert found.mask.mean() < 0.27  # the margin of 16 µm is 2 pixels each side
    assert 0.05 <= found.threshold <= 0.12
    assert found.notes == ()


def test_an_empty_slide_has_no_tissue():
    found = tissue_mask(picture(tissue=False), um_per_px=8.0)
    assert not found.mask.any()
    assert "no tissue found" in found.notes[0]


def test_tissue_from_edge_to_edge_is_not_split():
    rng = np.random.default_rng(0)
    image = np.where(rng.random((300, 300, 1)) < 0.5, (210, 150, 190), (120, 70, 150)).astype(np.uint8)
    assert tissue_mask(image, um_per_px=8.0).mask.all()


def test_sizes_are_micrometres():
    image = picture(tissue=False)
    image[50:60, 50:60] = PINK  # 10 px
    image[200:260, 200:260] = PINK
    image[225:231, 225:231] = GLASS  # a hole of 6 px
    found = tissue_mask(image, um_per_px=8.0, close_um=0, margin_um=0).mask
    assert not found[50:60, 50:60].any()  # 6,400 µm² is a speck
    assert found[225:231, 225:231].all()  # 2,304 µm² is filled
    finer = tissue_mask(image, um_per_px=40.0, close_um=0, margin_um=0).mask
    assert finer[52:58, 52:58].all()
    assert not finer[228, 228]


def test_gaps_are_bridged_and_margins_added_in_micrometres():
    image = picture(tissue=False)
    image[100:300, 100:198] = image[100:300, 206:300] = PINK  # a gap of 8 px
    assert tissue_mask(image, um_per_px=10.0, close_um=60).mask[150:250, 198:206].all()
    assert not tissue_mask(image, um_per_px=10.0, close_um=0, margin_um=0).mask[150:250, 200:204].any()
    assert tissue_mask(image, um_per_px=10.0, margin_um=100).mask[200, 91:100].all()


def test_black_background_is_not_tissue():
    image = picture()
    image[:, :60] = 5  # beyond the scanned area
    found = tissue_mask(image, um_per_px=8.0)
    assert not found.mask[:, :60].any()
    assert found.dark_fraction == pytest.approx(60 / 400)
    assert not found.pen_px  # a full-height bar is the scanner's, not a pen's


def test_unread_pixels_are_tissue():
    failed = np.zeros((400, 400), bool)
    failed[:50, :50] = True
    image = picture()
    image[failed] = 0
    found = tissue_mask(image, um_per_px=8.0, failed=failed)
    assert found.mask[failed].all()
    assert not found.pen_px
    image[failed] = 255
    assert tissue_mask(image, um_per_px=8.0, failed=failed, method="white-tiles").mask[failed].all()
    assert any("could not be read" in note for note in found.notes)


def test_unknown_resolution_is_said():
    assert "resolution unknown" in tissue_mask(picture(), um_per_px=None).notes[0]


def test_everything_on_request():
    found = tissue_mask(picture(tissue=False), um_per_px=8.0, method="all")
    assert found.mask.all()
    assert found.threshold is None


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((20, 120, 60), "green"),
        ((60, 170, 90), "green"),
        ((0, 128, 0), "green"),
        ((25, 60, 180), "blue"),
        ((0, 0, 255), "blue"),
        ((40, 110, 190), "blue"),
        ((15, 15, 20), "black"),
        ((45, 42, 48), "black"),
    ],
)
def test_drawn_ink_is_found_and_left_out(colour, name):
    image = Image.fromarray(picture())
    stroke = Image.new("1", image.size)
    for canvas, fill in ((image, colour), (stroke, 1)):
        ImageDraw.Draw(canvas).line([(60, 60), (200, 320), (399, 200)], fill=fill, width=7)
    drawn = np.array(stroke)
    found = tissue_mask(np.array(image), um_per_px=8.0)
    assert list(found.pen_px) == [name]
    assert found.pen_px[name] == pytest.approx(drawn.sum(), rel=0.1)
    assert found.pen[drawn].mean() >= 0.9
    assert found.mask[drawn].mean() <= 0.1
    assert any("pen ink left out" in note for note in found.notes)


def test_white_tiles_of_lerousseau():
    image = np.full((64, 80, 3), 181, np.uint8)
    image[:16, :16, 0] = 180  # one channel is enough not to be white
    image[:12, 16:32] = 100  # 75 % of this tile is dark, 25 % white
    image[:4, 32:48] = 100  # 25 % is dark: just background
    image[:5, 48:64] = 100
    mask = white_tile_mask(image, tile_px=16)
    assert mask.shape == (64, 80)
    assert mask[::16, ::16].tolist()[0] == [True, True, False, True, False]
    assert mask.sum() == 3 * 256
    assert not white_tile_mask(np.full((50, 70, 3), 255, np.uint8), tile_px=16).any()  # cut tiles too
    assert (tissue_mask(image, um_per_px=8.0, method="white-tiles").mask == mask).all()


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (np.zeros((5, 5), np.uint8), {}),
        (np.zeros((5, 5, 3), np.float32), {}),
        (np.zeros((5, 5, 3), np.uint8), {"method": "magic"}),
        (np.zeros((5, 5, 3), np.uint8), {"um_per_px": 0.0}),
    ],
)
def test_impossible_input_is_refused(image, options):
    with pytest.raises(BadInput, match="expected"):
        tissue_mask(image, **({"um_per_px": 8.0} | options))


# Real files


def overview(path, mpp=None):
    with open_slide(path, mpp=mpp) as slide:
        return slide.overview()


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("CMU-1-Small-Region.svs", 0.40, 0.48),
        ("camelyon-jpeg.dcm", 0.20, 0.28),
        ("camelyon-jpeg2000.dcm", 0.26, 0.34),
    ],
)
def test_real_slides(shared_data, name, low, high):
    seen = overview(shared_data / "wsi" / name)
    found = tissue_mask(seen.image, um_per_px=seen.mpp)
    assert low < found.mask.mean() < high  # fractions of masks looked at
    # Hardly any deeply stained pixel is left out.
    stained = (seen.image.max(axis=2) - seen.image.min(axis=2) > 60) & ~found.pen
    assert found.mask[stained].mean() > 0.98


@pytest.mark.real_data
def test_crops_of_tumour_are_tissue_almost_everywhere(shared_data):
    for path in sorted((shared_data / "camelyon_tumour" / "images").iterdir())[::5]:
        seen = overview(path, mpp=0.5)
        assert tissue_mask(seen.image, um_per_px=seen.mpp).mask.mean() > 0.97, path.name


@pytest.mark.real_data
def test_haematoxylin_is_not_ink(shared_data):
    paths = [shared_data / "wsi" / "CMU-1-Small-Region.svs", shared_data / "wsi" / "TCGA-CR-7395-01A-01-TS1.svs"]
    paths += sorted((shared_data / "camelyon_tumour" / "images").iterdir())[::2]
    paths += sorted((shared_data / "camelyon16_patches").glob("*/*"))[::3]
    paths += sorted((shared_data / "colon_tiles").glob("colon_*/*"))[::12]
    paths += sorted((shared_data / "glioma_tiles").glob("*/*"))[::2]
    for path in paths:
        ink = pen_ink(overview(path).image)
        assert sum(mask.mean() for mask in ink.values()) < 0.005, path.name


@pytest.mark.real_data
def test_fluorescence_is_named(shared_data):
    seen = overview(shared_data / "wsi" / "test3-DAPI-2-387.ndpi")
    found = tissue_mask(seen.image, um_per_px=seen.mpp)
    assert found.dark_fraction > 0.5
    assert "fluorescence" in found.notes[0]
    assert "--tissue all" in found.notes[0]
    assert not found.pen_px
