"""The patch generator on files: classes, alignment, edges, unreadable tiles, threads, batches."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from digipath.augment import Augmentation
from digipath.errors import BadInput, MissingResolution, ResolutionTooLow, SlideUnreadable
from digipath.slide import open_slide
from digipath.stain import REFERENCES
from digipath.synthetic import corrupt_tiles, write_slide
from digipath.training.data import PatchSource, Sampling, batches, keras_batches, tensorflow_batches
from digipath.training.manifest import TrainingCase
from digipath.training.readers import Readers

SAMPLING = Sampling(mpp=0.5, patch_px=64, shift_px=32)
GEOMETRY = Augmentation(blur_chance=0, brightness=0, contrast=0, saturation=0, hue=0)


def training_case(slide, annotation=None, *, mpp=0.5):
    return TrainingCase(
        name=slide.stem,
        slide=slide,
        annotation=annotation,
        patient=slide.stem,
        label=None,
        fold=None,
        mpp=mpp,
        centre=None,
    )


def coded(rows, cols, lesions):
    """An image whose pixels tell row (red, modulo 256), column (green) and lesion (blue), and its mask."""
    row, col = np.mgrid[:rows, :cols]
    mask = np.zeros((rows, cols), bool)
    for lesion in lesions:
        mask[lesion] = True
    return np.stack([row % 256, col % 256, 255 * mask], axis=-1).astype(np.uint8), mask


@pytest.fixture
def coded_case(tmp_path):
    """Writes a coded image with its mask; a case of it."""

    def write(name, rows, cols, *lesions, mpp=0.5):
        image, mask = coded(rows, cols, lesions)
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / f"{name}_mask.png")
        return training_case(tmp_path / f"{name}.png", tmp_path / f"{name}_mask.png" if lesions else None, mpp=mpp)

    return write


@pytest.fixture
def two_cases(coded_case):
    return [coded_case("ill", 500, 400, np.s_[100:130, 50:90], np.s_[400, 300]), coded_case("well", 300, 300)]


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A generated slide with its tumour as GeoJSON."""
    folder = tmp_path_factory.mktemp("slide")
    written = write_slide(folder / "slide.tiff", (900, 700), tile=256, seed=3)
    rings = [[*tumour.tolist(), tumour[0].tolist()] for tumour in written.tumours]
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"classification": {"name": "tumour"}},
        }
        for ring in rings
    ]
    path = folder / "slide.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return written, training_case(written.path, path, mpp=None)


class TestClasses:
    @pytest.mark.parametrize("augmentation", [None, GEOMETRY, replace(GEOMETRY, scale=0.3)])
    def test_every_second_patch_shows_tumour_and_the_others_none(self, two_cases, augmentation):
        with PatchSource(two_cases, SAMPLING, augmentation=augmentation) as source:
            shown = [bool(source.patch(index)[1].any()) for index in range(120)]
        assert shown == [False, True] * 60

    def test_a_single_pixel_of_tumour_is_met_in_ever_new_places(self, coded_case):
        case = coded_case("rare", 1000, 1000, np.s_[700, 300])
        sampling = Sampling(mpp=0.5, patch_px=256, positive_share=1.0)
        with PatchSource([case], sampling, augmentation=None) as source:
            found = [np.argwhere(source.patch(index)[1][..., 0]) for index in range(60)]
        assert all(len(pixels) == 1 for pixels in found)
        offsets = np.concatenate(found) - 128
        assert len(np.unique(offsets, axis=0)) > 50
        assert 100 < np.hypot(*offsets.T).max() <= 128

    def test_one_epoch_meets_the_lesion_of_every_case(self, coded_case):
        """Twelve slides with one pixel of tumour each beside one that is nearly all tumour."""
        cases = [coded_case(f"rare{n}", 200, 200, np.s_[n, 3 * n]) for n in range(12)]
        cases.append(coded_case("common", 400, 400, np.s_[70:]))
        with PatchSource(cases, replace(SAMPLING, patches_per_epoch=52), augmentation=None) as source:
            counts = [int(source.patch(index)[1].sum()) for index in range(1, 52, 2)]
        assert sum(count == 1 for count in counts) == 24

    def test_tumour_nearly_everywhere_leaves_the_normal_patches_where_there_is_none(self, coded_case):
        case = coded_case("ill", 256, 256, np.s_[:, 66:])
        with PatchSource([case], SAMPLING, augmentation=None) as source:
            normal = [source.patch(index) for index in range(0, 60, 2)]
        assert not any(mask.any() for _, mask in normal)
        assert {int(image[0, 0, 1]) for image, _ in normal} <= {0, 1, 2}

    def test_patches_know_their_case(self, two_cases):
        """Tumour is in "ill" only; normal patches are drawn from both, in rounds."""
        with PatchSource(two_cases, SAMPLING, augmentation=None) as source:
            assert source.names(range(1, 12, 2)) == ["ill"] * 6
            assert sorted(source.names([0, 2])) == ["ill", "well"]

    def test_normal_patches_lie_on_tissue(self, slide):
        """Tissue as found on the overview reaches a little beyond the true outline."""
        written, case = slide
        tissue = written.tissue_mask()
        with PatchSource([case], SAMPLING, augmentation=None) as source, open_slide(written.path) as opened:
            full = packed(opened.read_block(0, 0, *opened.working_size_px(None), mpp=None)[0])
            for index in range(0, 40, 2):
                row, col = where(full, source.patch(index)[0])
                assert tissue[max(0, row - 48) : row + 112, max(0, col - 48) : col + 112].any()

    def test_as_they_come_follows_the_area(self, coded_case):
        case = coded_case("half", 640, 640, np.s_[:320])
        sampling = replace(SAMPLING, positive_share=None)
        with PatchSource([case], sampling, augmentation=None) as source:
            share = np.mean([source.patch(index)[1].mean() for index in range(300)])
        assert share == pytest.approx(0.5, abs=0.08)

    @pytest.mark.parametrize(
        ("lesions", "share", "message"),
        [
            ([], 0.5, "empty class: positive_share 0.5 asks for tumour"),
            ([np.s_[:, ::40]], 0.5, "empty class: positive_share 0.5 asks for patches without tumour"),
        ],
    )
    def test_an_empty_class_is_refused_at_once(self, coded_case, lesions, share, message):
        case = coded_case("one", 200, 200, *lesions)
        with pytest.raises(BadInput, match=message):
            PatchSource([case], replace(SAMPLING, positive_share=share), augmentation=None)
        PatchSource([case], replace(SAMPLING, positive_share=None), augmentation=None).close()

    def test_no_tissue_is_refused_unless_all_of_it_is_meant(self, tmp_path):
        Image.new("RGB", (4200, 300), "white").save(tmp_path / "glass.png")  # 2.1 mm: not a crop
        case = training_case(tmp_path / "glass.png")
        for share in (None, 0.0):
            with pytest.raises(BadInput, match="tissue"):
                PatchSource([case], replace(SAMPLING, positive_share=share), augmentation=None)
        PatchSource([case], replace(SAMPLING, positive_share=0.0, tissue="all"), augmentation=None).close()

    def test_a_small_flat_image_is_all_tissue(self, tmp_path):
        Image.new("RGB", (300, 300), "white").save(tmp_path / "crop.png")
        sampling = replace(SAMPLING, positive_share=0.0)
        with PatchSource([training_case(tmp_path / "crop.png")], sampling, augmentation=None) as source:
            assert source.patch(0)[0].min() == 255


class TestAlignment:
    @pytest.mark.parametrize("augmentation", [None, GEOMETRY])
    def test_mask_and_image_show_the_same_place(self, two_cases, augmentation):
        with PatchSource(two_cases, SAMPLING, augmentation=augmentation) as source:
            for index in range(60):
                image, mask = source.patch(index)
                assert image.shape == (64, 64, 3)
                assert mask.shape == (64, 64, 1)
                assert image.dtype == mask.dtype == np.float32
                np.testing.assert_array_equal(image[..., 2] > 128, mask[..., 0] > 0)

    def test_augmentation_turns_and_flips(self, two_cases):
        with PatchSource(two_cases, SAMPLING, augmentation=GEOMETRY) as source:
            corners = [source.patch(index)[0][:2, :2, :2] for index in range(60)]
        down, right = ([np.sign(np.diff(corner, axis=axis)).ravel().tolist() for corner in corners] for axis in (0, 1))
        assert len({tuple(one + two) for one, two in zip(down, right, strict=True)}) >= 8

    @pytest.mark.parametrize("mpp", [1.0, 0.4])
    def test_at_another_resolution(self, coded_case, mpp):
        case = coded_case("ill", 700, 700, np.s_[200:300, 220:330])
        with PatchSource([case], replace(SAMPLING, mpp=mpp, positive_share=1.0), augmentation=None) as source:
            for index in range(20):
                image, mask = source.patch(index)
                differs = (image[..., 2] > 127.5) != (mask[..., 0] > 0)
                assert differs.mean() < 0.02

    def test_outlines_fall_on_the_slide_s_tumour(self, slide):
        written, case = slide
        truth = written.tumour_mask()
        with PatchSource([case], SAMPLING, augmentation=None) as source, open_slide(written.path) as opened:
            full = packed(opened.read_block(0, 0, *opened.working_size_px(None), mpp=None)[0])
            for index in range(1, 20, 2):
                image, mask = source.patch(index)
                row, col = where(full, image)
                wrong = (mask[..., 0] > 0) != truth[row : row + 64, col : col + 64]
                assert wrong.mean() < 0.02

    def test_a_case_s_mpp_overrides(self, coded_case):
        fine, coarse = (coded_case(f"at{mpp}", 256, 256, mpp=mpp) for mpp in (0.5, 1.0))
        sampling = replace(SAMPLING, positive_share=0.0)
        steps = []
        for case in (fine, coarse):
            with PatchSource([case], sampling, augmentation=None) as source:
                steps.append(float(np.median(np.diff(source.patch(0)[0][..., 0], axis=0))))
        assert steps == pytest.approx([1.0, 0.5], abs=0.5)
        assert steps[0] == 1.0


class TestEdges:
    @pytest.mark.parametrize(("rows", "cols"), [(64, 64), (40, 300), (200, 17), (9, 9), (1, 1), (65, 64)])
    @pytest.mark.parametrize("scale", [0.0, 0.4])
    def test_small_slides_are_mirrored_not_left(self, coded_case, rows, cols, scale):
        """Slide.read_block refuses boxes outside the slide, so that any patch at all is the proof."""
        case = coded_case("small", rows, cols, np.s_[: rows // 2 + 1, :1])
        sampling = replace(SAMPLING, positive_share=None)
        augmentation = replace(GEOMETRY, flips=False, rotations=False, scale=scale)
        with PatchSource([case], sampling, augmentation=augmentation) as source:
            for index in range(10):
                image, mask = source.patch(index)
                assert image.shape == (64, 64, 3)
                if not scale:
                    np.testing.assert_array_equal(image[..., 2] > 128, mask[..., 0] > 0)
                    assert set(np.unique(image[..., 0])) <= set(range(rows))
                    assert abs(np.diff(image[..., 0], axis=0)).max() <= 1  # a mirror, no seam
                    if rows <= 64:
                        assert set(np.unique(image[..., 0])) == set(range(rows))

    def test_lesions_in_the_corners_are_reached(self, coded_case):
        corners = [np.s_[0, 0], np.s_[0, 399], np.s_[299, 0], np.s_[299, 399]]
        case = coded_case("corners", 300, 400, *corners)
        with PatchSource([case], replace(SAMPLING, positive_share=1.0), augmentation=None) as source:
            seen = {tuple(source.patch(index)[0][0, 0, :2].astype(int)) for index in range(40)}
        assert seen == {(0, 0), (0, (400 - 64) % 256), (300 - 64, 0), (300 - 64, (400 - 64) % 256)}


class TestUnreadable:
    def test_unreadable_places_are_drawn_again_and_counted(self, tmp_path):
        files = [tmp_path / "whole.tiff", tmp_path / "hurt.tiff"]
        tiles = [(col, row) for col in range(0, 5, 2) for row in range(4)]
        for path, failed in zip(files, ([], tiles), strict=True):
            write_slide(path, (1200, 900), tile=256, seed=3, lossless=True, failed_tiles=failed)
        sampling = replace(SAMPLING, positive_share=None, tissue="all")
        with open_slide(files[0]) as opened:
            full = packed(opened.read_block(0, 0, *opened.working_size_px(None), mpp=None)[0])
        with PatchSource([training_case(files[1])], sampling, augmentation=None) as source:
            for index in range(30):
                _, col = where(full, source.patch(index)[0])  # pixels of the whole slide, nothing made up
                assert col // 256 % 2 == (col + 63) // 256 % 2 == 1
        assert source.unreadable > 5
        assert source.failure is None

    def test_a_slide_that_never_reads_is_an_error(self, tmp_path):
        path = tmp_path / "dead.tiff"
        write_slide(path, (2200, 600), tile=256, seed=3)
        corrupt_tiles(path, [(col, row) for col in range(9) for row in range(3)])  # of level 0; the overview is level 1
        sampling = replace(SAMPLING, positive_share=None)
        with PatchSource([training_case(path)], sampling, augmentation=None) as source:
            with pytest.raises(SlideUnreadable, match=r"64 places drawn for patch 5 gave none.*dead.tiff"):
                source.patch(5)
            assert isinstance(source.failure, SlideUnreadable)
            assert source.unreadable == 64


class TestDeterminism:
    def test_order_threads_and_instances_change_nothing(self, two_cases):
        with PatchSource(two_cases, SAMPLING, augmentation=Augmentation()) as source:
            expected = [source.patch(index) for index in range(40)]
        with PatchSource(two_cases, SAMPLING, augmentation=Augmentation()) as other, ThreadPoolExecutor(4) as pool:
            found = list(pool.map(other.patch, reversed(range(40))))[::-1]
        for (image, mask), (image2, mask2) in zip(expected, found, strict=True):
            np.testing.assert_array_equal(image, image2)
            np.testing.assert_array_equal(mask, mask2)

    def test_every_epoch_and_seed_draws_anew(self, two_cases):
        sampling = replace(SAMPLING, patches_per_epoch=10)
        with PatchSource(two_cases, sampling, augmentation=None) as source:
            images = [source.patch(index)[0].tobytes() for index in range(40)]
        assert len(set(images)) > 30
        with PatchSource(two_cases, replace(sampling, seed=1), augmentation=None) as other:
            assert sum(other.patch(index)[0].tobytes() == images[index] for index in range(40)) < 3

    def test_patches_outlive_the_closing_of_the_slides(self, two_cases):
        with PatchSource(two_cases, SAMPLING, augmentation=None) as source:
            image = source.patch(0)[0]
        np.testing.assert_array_equal(source.patch(0)[0], image)
        source.close()


class TestReaders:
    class Fake:
        """A reader of 10 bytes that knows whether it was closed."""

        held_bytes = 10

        def __init__(self):
            self.closed = False

        def close(self):
            self.closed = True

    def test_holds_few_and_closes_what_was_not_used_for_longest(self):
        opened = []

        def open_case(index):
            opened.append(index)
            return self.Fake()

        readers = Readers(open_case, most_bytes=30)
        for index in (0, 1, 2, 0, 3, 0, 1):
            with readers.borrow(index) as reader:
                assert not reader.closed
            assert len(readers) <= 3
        assert opened == [0, 1, 2, 3, 1]
        readers.close()
        assert len(readers) == 0
        assert reader.closed

    def test_never_closes_what_is_in_use_and_opens_once(self):
        opened = []

        def open_case(index):
            opened.append(index)
            return self.Fake()

        readers = Readers(open_case, most_bytes=10)
        start = threading.Barrier(8)

        def work(thread):
            start.wait()
            for step in range(50):
                with readers.borrow((thread + step) % 4) as one, readers.borrow(9) as two:
                    assert not one.closed
                    assert not two.closed

        with readers.borrow(9) as kept, ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
            assert not kept.closed
        assert opened.count(9) == 1
        assert len(readers) <= 1

    def test_closing_waits_for_what_is_in_use(self):
        readers = Readers(lambda index: self.Fake())
        with readers.borrow(0) as used:
            with readers.borrow(1) as idle:
                pass
            readers.close()
            assert idle.closed
            assert not used.closed
        assert used.closed
        with readers.borrow(0) as again:
            assert not again.closed
        assert again.closed
        assert len(readers) == 0

    def test_a_case_that_fails_to_open_may_be_tried_again(self):
        answers = [SlideUnreadable("no"), self.Fake()]

        def open_case(index):
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        readers = Readers(open_case)
        with pytest.raises(SlideUnreadable), readers.borrow(0):
            pass
        with readers.borrow(0) as reader:
            assert not reader.closed


class TestRefusals:
    def test_no_case(self):
        with pytest.raises(BadInput, match="at least one case"):
            PatchSource([], SAMPLING, augmentation=None)

    def test_a_slide_too_coarse(self, coded_case):
        case = coded_case("coarse", 300, 300, np.s_[0, 0], mpp=1.01)
        with pytest.raises(ResolutionTooLow, match=r"1\.01 µm/px.*coarse\.png"):
            PatchSource([case], SAMPLING, augmentation=None)

    def test_a_slide_without_resolution(self, coded_case):
        case = coded_case("unknown", 300, 300, np.s_[0, 0], mpp=None)
        with pytest.raises(MissingResolution, match=r"unknown\.png"):
            PatchSource([case], SAMPLING, augmentation=None)

    def test_a_negative_index(self, two_cases):
        with PatchSource(two_cases, SAMPLING, augmentation=None) as source, pytest.raises(BadInput, match="-1"):
            source.patch(-1)


def test_stain_is_brought_to_the_target(slide):
    _, case = slide
    sampling = replace(SAMPLING, positive_share=None)
    target = replace(REFERENCES["reinhard"], numbers={"mean": [-0.9, 0.05, 0.0], "spread": [0.15, 0.02, 0.02]})
    means = []
    for stain in (None, target):
        with PatchSource([case], sampling, augmentation=None, stain=stain) as source:
            images = np.stack([source.patch(index)[0] for index in range(6)])
        assert images.min() >= 0
        assert images.max() <= 255
        means.append(images.mean())
    assert means[1] < means[0] - 30  # l = −0.9 is dark


@pytest.mark.keras
class TestBatches:
    OPTIONS = {"batch": 4, "scale": 1 / 127.5, "offset": -1.0}  # noqa: RUF012

    @pytest.fixture
    def source(self, two_cases):
        with PatchSource(two_cases, SAMPLING, augmentation=Augmentation()) as source:
            yield source

    @pytest.fixture
    def expected(self, source):
        """Patches 6 to 15 as the network shall see them."""
        pairs = [source.patch(index) for index in range(6, 16)]
        images, masks = (np.stack(part) for part in zip(*pairs, strict=True))
        return images * np.float32(1 / 127.5) + np.float32(-1), masks

    @pytest.mark.parametrize("make", [tensorflow_batches, keras_batches])
    def test_finite_ends_with_what_is_left(self, source, expected, make):
        data = make(source, **self.OPTIONS, first=6, count=10)
        for _ in range(2):  # validation looks at the same patches every time
            images, masks = zip(*[tuple(map(np.asarray, pair)) for pair in data], strict=True)
            assert [len(batch) for batch in images] == [4, 4, 2]
            np.testing.assert_array_equal(np.concatenate(images), expected[0])
            np.testing.assert_array_equal(np.concatenate(masks), expected[1])

    @pytest.mark.parametrize("make", [tensorflow_batches, keras_batches])
    @pytest.mark.parametrize("workers", [1, 3])
    def test_endless_goes_on(self, source, expected, make, workers):
        data = make(source, **self.OPTIONS, first=6, workers=workers)
        for _ in range(2):
            pairs = [tuple(map(np.asarray, pair)) for pair in islice(iter(data), 5)]
            assert [len(image) for image, _ in pairs] == [4] * 5
            np.testing.assert_array_equal(np.concatenate([image for image, _ in pairs])[:10], expected[0])
            np.testing.assert_array_equal(np.concatenate([mask for _, mask in pairs])[:10], expected[1])

    def test_each_backend_gets_its_own(self, source, monkeypatch):
        import keras
        import tensorflow as tf

        for backend, kind in (("tensorflow", tf.data.Dataset), ("jax", keras.utils.PyDataset)):
            monkeypatch.setattr(keras.backend, "backend", lambda backend=backend: backend)
            assert isinstance(batches(source, **self.OPTIONS, count=8), kind)

    def test_shapes_are_known_to_the_graph(self, source):
        image, mask = tensorflow_batches(source, **self.OPTIONS).element_spec
        assert (tuple(image.shape), tuple(mask.shape)) == ((4, 64, 64, 3), (4, 64, 64, 1))

    @pytest.mark.parametrize("make", [tensorflow_batches, keras_batches])
    def test_fit_sees_consecutive_batches_over_epochs(self, source, make):
        """Keras looks at a first batch to build the network; no patch may be skipped for it."""
        import keras

        same = keras.layers.Dense(3, kernel_initializer="identity", use_bias=False)
        network = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.GlobalAveragePooling2D(), same])
        seen = []

        def loss(_, answer):
            seen.append(np.asarray(answer))
            return keras.ops.sum(answer * 0)

        network.compile("sgd", loss, run_eagerly=True)
        network.fit(make(source, **self.OPTIONS), steps_per_epoch=2, epochs=2, shuffle=False, verbose=0)
        means = [source.patch(index)[0].mean(axis=(0, 1)) / 127.5 - 1 for index in range(16)]
        np.testing.assert_allclose(np.concatenate(seen), means, atol=1e-4)

    def test_an_unreadable_slide_stops_it_with_its_reason(self, tmp_path):
        path = tmp_path / "dead.tiff"
        write_slide(path, (2200, 600), tile=256, seed=3)
        corrupt_tiles(path, [(col, row) for col in range(9) for row in range(3)])
        with PatchSource([training_case(path)], replace(SAMPLING, positive_share=None), augmentation=None) as source:
            for make in (tensorflow_batches, keras_batches):
                with pytest.raises(Exception, match=r"dead\.tiff"):
                    next(iter(make(source, **self.OPTIONS)))
                assert isinstance(source.failure, SlideUnreadable)

    @pytest.mark.parametrize("wrong", [{"batch": 0}, {"first": -1}, {"count": 0}, {"workers": 0}])
    def test_settings_out_of_range_are_refused(self, source, wrong):
        for make in (tensorflow_batches, keras_batches):
            with pytest.raises(BadInput, match=next(iter(wrong))):
                make(source, **(self.OPTIONS | wrong))


def packed(pixels):
    red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def where(slide, image):
    """Row and column of a patch in its packed slide: the place that holds its pixels."""
    patch = packed(image)
    row, col = np.unravel_index(patch.argmin(), patch.shape)
    rows, cols = (full - side + 1 for full, side in zip(slide.shape, patch.shape, strict=True))
    for r, c in np.argwhere(slide[row : row + rows, col : col + cols] == patch[row, col]):
        if np.array_equal(slide[r : r + len(patch), c : c + len(patch)], patch):
            return int(r), int(c)
    raise AssertionError("the patch is nowhere in its slide")
