"""Flat image → tiled pyramid: the same pixels, the stated resolution, nothing half-written."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from digipath.convert import convert
from digipath.errors import BadInput, OutputUnwritable, SlideNotFound, SlideUnreadable
from digipath.slide import open_slide


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png", pixels


def test_lossless_pyramid_has_the_same_pixels(picture, tmp_path):
    source, pixels = picture
    shares = []
    target = convert(source, tmp_path / "out.tiff", mpp=0.25, progress=shares.append)
    with open_slide(target) as slide:
        assert slide.mpp == pytest.approx(0.25)
        assert slide.level_sizes[:2] == ((900, 700), (450, 350))
        assert slide.tile_sizes[0] == (512, 512)
        np.testing.assert_array_equal(slide.read_block(0, 0, 700, 900, mpp=None)[0], pixels)
    assert shares == sorted(shares)
    assert 0 < shares[-1] <= 1


def test_jpeg_on_request_is_close_and_smaller(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 600).astype(np.uint8)[:, None], (600, 1, 1, 3)).reshape(600, 600, 3)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    target = convert(tmp_path / "ramp.png", tmp_path / "out.tif", quality=90, tile=256)
    with open_slide(target) as slide:
        pixels = slide.read_block(0, 0, 600, 600, mpp=None)[0]
        assert slide.mpp is None
    assert 0 < np.abs(pixels.astype(int) - ramp).max() <= 8


@pytest.mark.parametrize(("dpi", "mpp"), [((72, 72), None), ((101600, 101600), 0.25)])
def test_only_a_microscopes_own_resolution_is_kept(tmp_path, dpi, mpp):
    Image.new("RGB", (200, 100), "pink").save(tmp_path / "flat.tif", dpi=dpi)
    with open_slide(convert(tmp_path / "flat.tif", tmp_path / "out.tiff")) as slide:
        assert slide.mpp == (pytest.approx(mpp) if mpp else None)


def test_grey_sixteen_bit_and_transparent_become_rgb(tmp_path):
    Image.fromarray(np.full((80, 90), 0x4000, np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", (90, 80), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    for name, value in (("deep", 0x40), ("clear", 255)):
        with open_slide(convert(tmp_path / f"{name}.png", tmp_path / f"{name}.tiff")) as slide:
            assert (slide.read_block(0, 0, 80, 90, mpp=None)[0] == value).all()


def test_nothing_is_overwritten_unasked(picture, tmp_path):
    (tmp_path / "out.tiff").write_bytes(b"mine")
    with pytest.raises(OutputUnwritable, match="exists"):
        convert(picture[0], tmp_path / "out.tiff")
    assert (tmp_path / "out.tiff").read_bytes() == b"mine"
    convert(picture[0], tmp_path / "out.tiff", overwrite=True)
    assert (tmp_path / "out.tiff").stat().st_size > 1000


def test_a_truncated_source_leaves_nothing_behind(picture, tmp_path):
    (tmp_path / "cut.png").write_bytes(picture[0].read_bytes()[:200_000])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SlideUnreadable, match=r"cut\.png"):
        convert(tmp_path / "cut.png", tmp_path / "out.tiff")
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("words")
    with pytest.raises(SlideUnreadable, match=r"text\.png"):
        convert(tmp_path / "text.png", tmp_path / "out.tiff")
    with pytest.raises(SlideNotFound, match=r"nope\.png"):
        convert(tmp_path / "nope.png", tmp_path / "out.tiff")
    with pytest.raises(SlideUnreadable, match="folder"):
        convert(tmp_path, tmp_path / "out.tiff")


def test_a_folder_that_is_not_there_is_named(picture, tmp_path):
    with pytest.raises(OutputUnwritable, match="absent"):
        convert(picture[0], tmp_path / "absent" / "out.tiff")


@pytest.mark.parametrize(
    "options", [{"mpp": -1}, {"mpp": 0}, {"tile": 100}, {"tile": 16}, {"quality": 0}, {"quality": 101}]
)
def test_impossible_options_are_refused(picture, tmp_path, options):
    with pytest.raises(BadInput, match="expected"):
        convert(picture[0], tmp_path / "out.tiff", **options)
    assert not (tmp_path / "out.tiff").exists()


def test_the_target_is_a_tiff_and_not_the_source(picture, tmp_path):
    with pytest.raises(BadInput, match=r"\.tif"):
        convert(picture[0], tmp_path / "out.svs")
    source = convert(picture[0], tmp_path / "out.tiff")
    with pytest.raises(BadInput, match="other than the source"):
        convert(source, source, overwrite=True)


@pytest.mark.real_data
def test_real_crop_keeps_its_pixels(shared_data, tmp_path):
    source = min((shared_data / "camelyon_tumour" / "images").iterdir())
    with open_slide(source) as flat, open_slide(convert(source, tmp_path / "crop.tiff", mpp=0.5)) as pyramid:
        expected = flat.read_block(0, 0, 512, 512, mpp=None)[0].astype(int)
        found = pyramid.read_block(0, 0, 512, 512, mpp=0.5)[0]
        # Two JPEG decoders may round differently; the pyramid itself is lossless.
        assert np.abs(found - expected).max() <= 3
