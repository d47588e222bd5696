"""Reading slides: the same pixels however they are asked for, and never a wrong one in silence."""

from __future__ import annotations

import json
import math
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from digipath.errors import BadInput, MissingResolution, SlideNotFound, SlideUnreadable
from digipath.slide import open_slide
from digipath.synthetic import corrupt_tiles, write_slide

TILE = 256


@pytest.fixture(scope="module")
def odd_slide(tmp_path_factory):
    """1501 × 1103 px: its second level is 2.0006… and 2.0018… times smaller, not 2."""
    return write_slide(tmp_path_factory.mktemp("odd") / "odd.tiff", (1501, 1103), tile=TILE, lossless=True)


@pytest.fixture
def faulty(tmp_path):
    """A slide with three unreadable tiles, its truth (failed pixels of level 0), the clean pixels."""
    made = write_slide(tmp_path / "faulty.tiff", (1000, 800), tile=TILE, lossless=True)
    clean = read_all(made.path, None)
    tiles = [(1, 1), (3, 0), (0, 3)]
    corrupt_tiles(made.path, tiles)
    truth = np.zeros((800, 1000), bool)
    for col, row in tiles:
        truth[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE] = True
    return made.path, truth, clean


def read_all(path, mpp):
    with open_slide(path) as slide:
        rows, cols = slide.working_size_px(mpp)
        pixels, failed = slide.read_block(0, 0, rows, cols, mpp=mpp)
    assert failed is None
    return pixels


def read_in_blocks(slide, mpp, side):
    rows, cols = slide.working_size_px(mpp)
    pixels = np.empty((rows, cols, 3), np.uint8)
    failed = np.zeros((rows, cols), bool)
    for r in range(0, rows, side):
        for c in range(0, cols, side):
            height, width = min(side, rows - r), min(side, cols - c)
            part = np.s_[r : r + height, c : c + width]
            pixels[part], bad = slide.read_block(r, c, height, width, mpp=mpp)
            failed[part] = False if bad is None else bad
    return pixels, failed


@pytest.mark.parametrize("mpp", [0.35, 0.5, 0.505, 0.65, 1.0, 1.3, 2.0, 3.7, 30.0])
def test_blocks_equal_the_frame_in_one_piece(odd_slide, mpp):
    whole = read_all(odd_slide.path, mpp)
    with open_slide(odd_slide.path) as slide:
        for side in (97, 300):
            pixels, failed = read_in_blocks(slide, mpp, side)
            assert not failed.any()
            np.testing.assert_array_equal(pixels, whole)


def test_levels_come_as_they_are(small_slide):
    pages = tifffile.TiffFile(small_slide.path)
    with pages:
        for mpp, level in ((0.5, 0), (1.0, 1), (1.01, 1), (2.0, 2)):
            np.testing.assert_array_equal(read_all(small_slide.path, mpp), pages.pages[level].asarray())


def test_two_percent_is_the_same_resolution(small_slide):
    with open_slide(small_slide.path) as slide:
        assert slide.snap_mpp(0.509) == 0.5
        assert slide.snap_mpp(0.511) == pytest.approx(0.511)
        assert slide.working_size_px(0.509) == (1100, 1500)
        assert slide.working_size_px(0.8) == (688, 938)
        assert slide.working_size_px(None) == (1100, 1500)
        assert slide.tile_px(0.5) == slide.tile_px(1.0) == slide.tile_px(None) == TILE
        assert slide.tile_px(0.8) is None


def test_resampling_is_the_antialiased_reference(small_slide):
    level0 = Image.fromarray(read_all(small_slide.path, None))
    asked = read_all(small_slide.path, 0.8)
    rows, cols = asked.shape[:2]
    # The last working column covers level-0 pixels 1499.2 to 1500.8: the reference leaves it out.
    box = (0, 0, (cols - 1) * 1.6, (rows - 1) * 1.6)
    reference = np.asarray(level0.resize((cols - 1, rows - 1), Image.Resampling.BILINEAR, box=box))
    assert np.abs(asked[:-1, :-1].astype(int) - reference).max() <= 2


def test_a_working_pixel_lies_where_the_frame_says(tmp_path):
    picture = np.full((600, 600, 3), 255, np.uint8)
    picture[300:320, 450:470] = 0
    Image.fromarray(picture).save(tmp_path / "square.png")
    with open_slide(tmp_path / "square.png", mpp=0.3) as slide:
        pixels, _ = slide.read_block(0, 0, *slide.working_size_px(0.75), mpp=0.75)
    rows, cols = np.nonzero(pixels[..., 0] < 128)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (120, 127, 180, 187)


def write_levels(path, sizes, mark_l0):
    """A pyramid of white levels (width, height) with a black bar from level-0 column mark_l0 to 40 px right of it."""
    with tifffile.TiffWriter(path) as file:
        for number, (width, height) in enumerate(sizes):
            level = np.full((height, width, 3), 255, np.uint8)
            down = sizes[0][0] / width if number else 1
            level[:, round(mark_l0 / down) : round((mark_l0 + 40) / down)] = 0
            file.write(level, tile=(TILE, TILE), photometric="rgb", subfiletype=int(number > 0))


@pytest.mark.parametrize(
    ("sizes", "downsamples"),
    [
        ([(4095, 301), (2047, 150), (1023, 75)], (1, 2, 4)),  # cut off
        ([(4095, 301), (2048, 151), (1024, 76)], (1, 2, 4)),  # filled up
        ([(301, 4095), (100, 1365)], (1, 3)),
        ([(3000, 200), (2000, 133)], (1, 1.5)),  # no whole factor: the ratio of the longer sides
        ([(3000, 200), (1250, 84)], (1, 2.4)),
    ],
)
def test_a_level_s_last_columns_lie_where_they_were(tmp_path, sizes, downsamples):
    """OpenSlide takes the mean of both axes' ratios, 2.0036 for the first: 4 level-0 pixels off at the right edge."""
    mark = sizes[0][0] - 90
    write_levels(tmp_path / "levels.tiff", sizes, mark)
    with open_slide(tmp_path / "levels.tiff", mpp=0.5) as slide:
        assert slide.level_downsamples == downsamples
        for mpp in (0.5 * downsamples[-1], 0.6 * downsamples[-1]):  # the level as it is, and resampled from it
            pixels, _ = slide.read_block(0, 0, *slide.working_size_px(mpp), mpp=mpp)
            black = np.flatnonzero((pixels[..., 0] < 128).all(axis=0))
            downsample = slide.snap_mpp(mpp) / 0.5
            assert abs(black[0] * downsample - mark) < downsample
            assert abs((black[-1] + 1) * downsample - mark - 40) < downsample


def test_given_resolution_overrides(small_slide):
    with open_slide(small_slide.path) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.5, "slide")
    with open_slide(small_slide.path, mpp=0.25) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "given")
        assert slide.working_size_px(0.5) == (550, 750)


def test_describe_is_json(small_slide):
    with open_slide(small_slide.path) as slide:
        described = json.loads(json.dumps(slide.describe()))
    assert described["size_l0"] == [1500, 1100]
    assert [round(level["mpp"], 1) for level in described["levels"]] == [0.5, 1.0, 2.0, 4.0]
    assert described["bounds_l0"] == [0, 0, 1500, 1100]


def test_exactly_the_corrupted_tiles_fail(faulty):
    path, truth, clean = faulty
    with open_slide(path) as slide:
        for side in (1000, 256, 100):
            pixels, failed = read_in_blocks(slide, None, side)
            np.testing.assert_array_equal(failed, truth)
            np.testing.assert_array_equal(pixels[~truth], clean[~truth])
            assert pixels[truth].max() == 0


def test_failure_reaches_as_far_as_the_kernel(faulty, tmp_path):
    path, truth, clean = faulty
    Image.fromarray(clean).save(tmp_path / "clean.png")
    with open_slide(path) as slide:
        pixels, failed = read_in_blocks(slide, 0.8, 300)
        _, in_one_piece = slide.read_block(0, 0, *slide.working_size_px(0.8), mpp=0.8)
    np.testing.assert_array_equal(failed, in_one_piece)
    with open_slide(tmp_path / "clean.png", mpp=0.5) as slide:
        whole, _ = slide.read_block(0, 0, *failed.shape, mpp=0.8)
    # What is not marked holds nothing of an unreadable tile; what is marked lies within 2 pixels of one.
    np.testing.assert_array_equal(pixels[~failed], whole[~failed])
    for row, col in np.argwhere(failed):
        near = np.s_[max(0, int(row * 1.6) - 2) : int(row * 1.6) + 4, max(0, int(col * 1.6) - 2) : int(col * 1.6) + 4]
        assert truth[near].any()


def test_many_threads_share_a_faulty_slide(faulty):
    path, truth, clean = faulty
    jobs = [(r, c) for r in range(0, 800, 100) for c in range(0, 1000, 100)] * 3
    with open_slide(path) as slide, ThreadPoolExecutor(8) as pool:

        def good(job):
            part = np.s_[job[0] : job[0] + 100, job[1] : job[1] + 100]
            pixels, failed = slide.read_block(*job, 100, 100, mpp=None)
            failed = np.zeros((100, 100), bool) if failed is None else failed
            return (failed == truth[part]).all() and (pixels[~failed] == clean[part][~failed]).all()

        assert all(pool.map(good, jobs))


def test_a_passing_fault_is_read_again(small_slide, monkeypatch):
    expected = read_all(small_slide.path, None)
    read_region, faults = openslide.OpenSlide.read_region, [0]

    def sometimes(handle, *args):
        if handle in broken or faults[0] < 1:
            faults[0] += 1
            broken.append(handle)  # latched, as OpenSlide does
            raise openslide.OpenSlideError("network is away")
        return read_region(handle, *args)

    broken: list[openslide.OpenSlide] = []
    monkeypatch.setattr(openslide.OpenSlide, "read_region", sometimes)
    np.testing.assert_array_equal(read_all(small_slide.path, None), expected)
    assert faults[0] == 1


def test_unreadable_tiles_are_tried_twice_and_remembered(tmp_path, monkeypatch):
    path = write_slide(tmp_path / "s.tiff", (2560, 2560), tile=TILE, levels=1).path
    corrupt_tiles(path, [(col, row) for col in range(10) for row in range(8)])
    opened = []
    monkeypatch.setattr(openslide.OpenSlide, "set_cache", lambda handle, cache: opened.append(handle))
    with open_slide(path) as slide:
        for _ in range(2):
            _, failed = slide.read_block(0, 0, 2560, 2560, mpp=None)
            assert failed.mean() == pytest.approx(0.8)
    # Each tile once more on a fresh handle, and never again in the second reading.
    assert len(opened) <= 2 * 80 + 20


def test_missing_tiles_are_background(tmp_path):
    path = write_slide(tmp_path / "sparse.tiff", (600, 600), tile=TILE, lossless=True).path
    with tifffile.TiffFile(path) as tiff:
        counts = tiff.pages[0].tags["TileByteCounts"].valueoffset
    with open(path, "r+b") as file:
        file.seek(counts)
        file.write(struct.pack("<Q", 0))
    with open_slide(path) as slide:
        pixels, failed = slide.read_block(0, 0, 600, 600, mpp=None)
    assert failed is None
    assert (pixels[:TILE, :TILE] == 255).all()


def test_overview_keeps_its_bounds(tmp_path):
    path = write_slide(tmp_path / "single.tiff", (6000, 2000), levels=1).path
    with open_slide(path) as slide:
        overview = slide.overview()
        assert overview.image.shape == (341, 1024, 3)  # 8 µm would be 375 px wide
        assert overview.downsample == pytest.approx(6000 / 1024)
        assert overview.mpp == pytest.approx(0.5 * 6000 / 1024)
        assert slide.overview(longest_px=(16, 4096)).image.shape == (125, 375, 3)
        assert max(slide.overview(mpp=0.6, longest_px=(16, 2000)).image.shape) == 2000


def test_overview_without_resolution_goes_by_pixels(tmp_path):
    Image.new("RGB", (3000, 500), "white").save(tmp_path / "wide.png")
    with open_slide(tmp_path / "wide.png") as slide:
        overview = slide.overview()
    assert overview.mpp is None
    assert overview.image.shape == (341, 2048, 3)


def test_overview_marks_what_it_could_not_read(faulty):
    path, truth, _ = faulty
    with open_slide(path) as slide:
        overview = slide.overview()
    np.testing.assert_array_equal(overview.failed, truth)


def test_no_overview_of_a_slide_that_cannot_be_read(tmp_path):
    path = write_slide(tmp_path / "s.tiff", (500, 500), tile=TILE, levels=1).path
    corrupt_tiles(path, [(0, 0), (0, 1), (1, 0), (1, 1)])
    with open_slide(path) as slide, pytest.raises(SlideUnreadable, match="no overview can be made"):
        slide.overview()


@pytest.mark.parametrize(
    "box", [(-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 1101, 5), (1096, 0, 5, 5), (0, 1500, 1, 1)], ids=str
)
def test_boxes_outside_the_frame_are_refused(small_slide, box):
    with open_slide(small_slide.path) as slide, pytest.raises(BadInput, match="inside 1100 × 1500"):
        slide.read_block(*box, mpp=0.5)


@pytest.mark.parametrize("mpp", [0, -0.5, math.nan, math.inf])
def test_impossible_resolutions_are_refused(small_slide, mpp):
    with pytest.raises(BadInput, match="mpp above 0"):
        open_slide(small_slide.path, mpp=mpp)
    with open_slide(small_slide.path) as slide, pytest.raises(BadInput, match="mpp above 0"):
        slide.read_block(0, 0, 1, 1, mpp=mpp)


def test_absurd_reductions_are_refused(small_slide):
    with open_slide(small_slide.path) as slide, pytest.raises(BadInput, match="coarser"):
        slide.working_size_px(1e6)


@pytest.mark.parametrize(
    ("name", "content"), [("text.svs", b"not a slide\n"), ("empty.svs", b""), ("cut.jpg", None), ("folder", "dir")]
)
def test_what_is_no_slide_is_refused_in_one_line(tmp_path, name, content):
    path = tmp_path / name
    if content == "dir":
        path.mkdir()
    elif content is None:
        Image.effect_noise((300, 300), 50).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    else:
        path.write_bytes(content)
    with pytest.raises(SlideUnreadable) as caught:
        open_slide(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(SlideNotFound, match=r"nope\.svs"):
        open_slide(tmp_path / "nope.svs")


def test_truncated_pyramid_keeps_what_is_there(tmp_path):
    made = write_slide(tmp_path / "cut.tiff", (1500, 1100), tile=TILE, lossless=True)
    clean = read_all(made.path, None)
    with tifffile.TiffFile(made.path) as tiff:
        page = tiff.pages[0].aspage()
        last = page.dataoffsets[-1]
        offsets = page.tags["TileOffsets"].valueoffset
    with open(made.path, "r+b") as file:  # as if the last tile lay past the end of the file
        file.seek(offsets + 8 * (len(page.dataoffsets) - 1))
        file.write(struct.pack("<Q", last + 10**9))
    with open_slide(made.path) as slide:
        pixels, failed = slide.read_block(0, 0, 1100, 1500, mpp=None)
    assert failed[1024:, 1280:].all()
    assert failed.sum() == (1100 - 1024) * (1500 - 1280)
    np.testing.assert_array_equal(pixels[~failed], clean[~failed])


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [("RGB", (10, 20, 30), (10, 20, 30)), ("L", 77, (77, 77, 77)), ("RGBA", (10, 20, 30, 0), (255, 255, 255))],
)
def test_flat_images_of_any_mode_are_rgb(tmp_path, mode, value, expected):
    Image.new(mode, (40, 30), value).save(tmp_path / "flat.png")
    with open_slide(tmp_path / "flat.png") as slide:
        assert slide.vendor == "flat-png"
        assert slide.mpp is None
        pixels, _ = slide.read_block(0, 0, 30, 40, mpp=None)
        assert (pixels == expected).all()
        with pytest.raises(MissingResolution, match="--mpp"):
            slide.read_block(0, 0, 5, 5, mpp=0.5)


def test_sixteen_bits_become_eight(tmp_path):
    Image.fromarray(np.full((20, 20), 0x8040, np.uint16)).save(tmp_path / "deep.png")
    assert (read_all(tmp_path / "deep.png", None) == 0x80).all()


@pytest.mark.parametrize(("dpi", "mpp"), [((72, 72), None), ((300, 300), None), ((50800, 50800), 0.5)])
def test_printing_resolutions_are_not_believed(tmp_path, dpi, mpp):
    Image.new("RGB", (40, 30)).save(tmp_path / "flat.tif", dpi=dpi)
    with open_slide(tmp_path / "flat.tif") as slide:
        assert slide.mpp == (pytest.approx(mpp) if mpp else None)


def test_a_gigapixel_flat_image_is_sent_to_convert(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 30_000, 8, 2, 0, 0, 0))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))
    with pytest.raises(SlideUnreadable, match="digipath convert"):
        open_slide(tmp_path / "huge.png")


def test_large_flat_images_open_without_a_warning(tmp_path):
    Image.new("1", (20_000, 10_000), 1).save(tmp_path / "large.png")  # Pillow's own limit is 89 megapixels
    with open_slide(tmp_path / "large.png") as slide:
        assert slide.size_l0 == (20_000, 10_000)


def test_a_closed_slide_says_so(small_slide):
    slide = open_slide(small_slide.path)
    slide.close()
    with pytest.raises(ValueError, match="closed"):
        slide.read_block(0, 0, 1, 1, mpp=None)


# Real files


@pytest.mark.real_data
def test_aperio_region(shared_data):
    with open_slide(shared_data / "wsi" / "CMU-1-Small-Region.svs") as slide:
        assert slide.vendor == "aperio"
        assert slide.size_l0 == (2220, 2967)
        assert (slide.mpp, slide.objective_power) == (0.499, 20)
        assert slide.snap_mpp(0.5) == 0.499
        assert slide.working_size_px(0.5) == (2967, 2220)
        assert slide.tile_px(0.5) == 240
        assert slide.associated("label").shape == (463, 387, 3)
        with pytest.raises(BadInput, match="'macro'"):
            slide.associated("nope")
        whole, _ = slide.read_block(0, 0, 2967, 2220, mpp=0.5)
        np.testing.assert_array_equal(read_in_blocks(slide, 0.5, 480)[0], whole)
        assert slide.overview().image.shape == (1024, 766, 3)


@pytest.mark.real_data
def test_slide_without_resolution(shared_data):
    path = shared_data / "wsi" / "TCGA-CR-7395-01A-01-TS1.svs"
    with open_slide(path) as slide:
        assert slide.mpp is None
        assert slide.overview().mpp is None
        with pytest.raises(MissingResolution, match=r"--mpp.*TCGA-CR-7395"):
            slide.require_mpp()
    with open_slide(path, mpp=0.5) as slide:
        # A level 2.0005 times smaller, at which OpenSlide reads between pixels.
        assert slide.working_size_px(1.0) == (1783, 2221)
        whole, _ = slide.read_block(0, 0, 1783, 2221, mpp=1.0)
        np.testing.assert_array_equal(read_in_blocks(slide, 1.0, 301)[0], whole)


@pytest.mark.real_data
def test_dicom_overview_level(shared_data):
    with open_slide(shared_data / "wsi" / "camelyon-jpeg.dcm") as slide:
        assert slide.vendor == "dicom"
        assert slide.size_l0 == (1152, 700)
        assert slide.mpp == pytest.approx(28.9685)


@pytest.mark.real_data
def test_untrusted_tag_of_a_generic_tiff(shared_data):
    with open_slide(shared_data / "wsi" / "openslide-boxes.tiff") as slide:
        assert slide.properties["openslide.mpp-x"].startswith("352.7")  # 72 dpi
        assert slide.mpp is None


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["broken.svs", "unreadable.svs", "unopenable.tiff"])
def test_broken_files_end_in_one_line(shared_data, name):
    def overview():
        with open_slide(shared_data / "wsi" / "bad" / name) as slide:
            slide.overview()

    with pytest.raises(SlideUnreadable) as caught:
        overview()
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
