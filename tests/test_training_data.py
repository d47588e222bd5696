"""The patch generator on files: classes, alignment, edges, unreadable tiles, threads, batches."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage, stats

from digipath.annotation import Labels
from digipath.augment import Augmentation
from digipath.errors import BadInput, MissingResolution, ResolutionTooLow, SlideUnreadable
from digipath.slide import open_slide
from digipath.slide_stain import fit_slide
from digipath.stain import REFERENCES, normaliser
from digipath.synthetic import corrupt_tiles, write_slide
from digipath.training.data import PatchSource, Sampling, batches, keras_batches, tensorflow_batches
from digipath.training.manifest import TrainingCase
from digipath.training.readers import CaseReader, Readers

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
            shown = [bool(source.sample(index)[1].any()) for index in range(120)]
        assert shown == [False, True] * 60

    def test_a_single_pixel_of_tumour_is_met_in_ever_new_places(self, coded_case):
        case = coded_case("rare", 1000, 1000, np.s_[700, 300])
        sampling = Sampling(mpp=0.5, patch_px=256, positive_share=1.0)
        with PatchSource([case], sampling, augmentation=None) as source:
            found = [np.argwhere(source.sample(index)[1][..., 0]) for index in range(60)]
        assert all(len(pixels) == 1 for pixels in found)
        offsets = np.concatenate(found) - 128
        assert len(np.unique(offsets, axis=0)) > 50
        assert 100 < np.hypot(*offsets.T).max() <= 128

    def test_one_epoch_meets_the_lesion_of_every_case(self, coded_case):
        """Twelve slides with one pixel of tumour each beside one that is nearly all tumour."""
        cases = [coded_case(f"rare{n}", 200, 200, np.s_[n, 3 * n]) for n in range(12)]
        cases.append(coded_case("common", 400, 400, np.s_[70:]))
        with PatchSource(cases, replace(SAMPLING, patches_per_epoch=52), augmentation=None) as source:
            counts = [int(source.sample(index)[1].sum()) for index in range(1, 52, 2)]
        assert sum(count == 1 for count in counts) == 24

    def test_tumour_nearly_everywhere_leaves_the_normal_patches_where_there_is_none(self, coded_case):
        case = coded_case("ill", 256, 256, np.s_[:, 66:])
        with PatchSource([case], SAMPLING, augmentation=None) as source:
            normal = [source.sample(index) for index in range(0, 60, 2)]
        assert not any(mask.any() for _, mask in normal)
        assert {int(image[0, 0, 1]) for image, _ in normal} <= {0, 1, 2}

    def test_what_one_source_found_out_serves_the_next(self, two_cases, monkeypatch):
        known = {}
        with PatchSource(two_cases[:1], SAMPLING, augmentation=None, surveys=known) as source:
            first = source.sample(1)
        surveyed, survey = [], PatchSource._survey
        monkeypatch.setattr(PatchSource, "_survey", lambda self, case: surveyed.append(case) or survey(self, case))
        with PatchSource(two_cases, SAMPLING, augmentation=None, surveys=known) as source:
            assert surveyed == [1]
        with PatchSource(two_cases[:1], SAMPLING, augmentation=None, surveys=known) as source:
            assert surveyed == [1]
            assert all(np.array_equal(a, b) for a, b in zip(source.sample(1), first, strict=True))

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
                row, col = where(full, source.sample(index)[0])
                assert tissue[max(0, row - 48) : row + 112, max(0, col - 48) : col + 112].any()

    def test_as_they_come_follows_the_area(self, coded_case):
        case = coded_case("half", 640, 640, np.s_[:320])
        sampling = replace(SAMPLING, positive_share=None)
        with PatchSource([case], sampling, augmentation=None) as source:
            share = np.mean([source.sample(index)[1].mean() for index in range(300)])
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
            assert source.sample(0)[0].min() == 255


class TestRoom:
    """Patches without tumour: any window that shows none will do, and the zoom does not tell the class."""

    ZOOM = replace(GEOMETRY, flips=False, rotations=False, scale=0.4)

    @staticmethod
    def but_for(row, col, rows, cols):
        """Lesion everywhere in a case of 200 × 200 but for one box."""
        return [np.s_[:row], np.s_[row + rows :], np.s_[:, :col], np.s_[:, col + cols :]]

    def test_the_only_window_without_tumour_is_found(self, coded_case):
        case = coded_case("hole", 200, 200, *self.but_for(77, 101, 64, 64))
        with PatchSource([case], SAMPLING, augmentation=None) as source:
            for index in range(0, 20, 2):
                image, mask = source.sample(index)
                assert not mask.any()
                assert image[0, 0, :2].tolist() == [77, 101]

    def test_a_hole_too_small_is_none(self, coded_case):
        case = coded_case("hole", 200, 200, *self.but_for(77, 101, 64, 63))
        with pytest.raises(BadInput, match="no tissue of 64 px is free"):
            PatchSource([case], SAMPLING, augmentation=None)

    def test_what_counts_is_what_the_patch_shows_not_what_is_read_for_it(self, coded_case):
        """For a zoom to 1 ± 0.4 90 px are read; a hole of 70 serves the patches that show up to 70, and only those."""
        cases = [coded_case("hole", 200, 200, *self.but_for(77, 101, 70, 70)), coded_case("well", 200, 200)]
        with PatchSource(cases, SAMPLING, augmentation=self.ZOOM) as source:
            names, fields = source.names(range(0, 400, 2)), [field(source.sample(n)[0]) for n in range(0, 400, 2)]
        hole = [field for name, field in zip(names, fields, strict=True) if name == "hole"]
        assert len(hole) > 3
        assert max(hole) < 71.5
        assert max(fields) > 85

    def test_where_no_case_has_room_for_more_no_patch_shows_more(self, coded_case):
        case = coded_case("hole", 200, 200, *self.but_for(77, 101, 70, 70))
        with PatchSource([case], SAMPLING, augmentation=self.ZOOM) as source:
            assert 0.05 < source.augmentation.scale < 0.1
            patches = [source.sample(index) for index in range(200)]
        assert [bool(mask.any()) for _, mask in patches] == [False, True] * 100
        normal, tumour = ([field(image) for image, _ in patches[kind::2]] for kind in (0, 1))
        for fields in (normal, tumour):
            assert 57 < min(fields) < 62
            assert 66 < max(fields) < 71.5

    @pytest.mark.parametrize("share", [None, 1.0])
    def test_without_normal_patches_the_zoom_is_as_asked(self, coded_case, share):
        case = coded_case("hole", 200, 200, *self.but_for(77, 101, 70, 70))
        with PatchSource([case], replace(SAMPLING, positive_share=share), augmentation=self.ZOOM) as source:
            assert source.augmentation == self.ZOOM
            assert max(field(source.sample(index)[0]) for index in range(100)) > 84

    def test_the_zoom_is_the_same_for_both_classes(self, coded_case):
        """One hole has just room for the widest zoom, so that few of the places tried will do; one has it for some."""
        sizes = {"large": 92, "small": 75}
        cases = [coded_case(name, 200, 200, *self.but_for(50, 60, side, side)) for name, side in sizes.items()]
        with PatchSource(cases, SAMPLING, augmentation=self.ZOOM) as source:
            assert source.augmentation == self.ZOOM
            fields = np.array([field(source.sample(index)[0]) for index in range(800)])
        assert stats.ks_2samp(fields[::2], fields[1::2]).pvalue > 0.05
        assert stats.kstest(fields[::2], stats.uniform(64 * 0.6, 64 * 0.8).cdf).pvalue > 0.01

    @pytest.mark.parametrize("patch", [63, 64])
    def test_a_case_without_tumour_has_room_for_any_zoom(self, two_cases, patch):
        """What is read may be a little more than the widest zoom shows."""
        with PatchSource(two_cases, replace(SAMPLING, patch_px=patch), augmentation=self.ZOOM) as source:
            assert source.augmentation == self.ZOOM

    def test_a_case_with_one_window_is_seldom_met(self, coded_case):
        cases = [coded_case("hole", 200, 200, *self.but_for(77, 101, 64, 64)), coded_case("well", 200, 200)]
        with PatchSource(cases, SAMPLING, augmentation=None) as source:
            assert 0 < source.names(range(0, 1000, 2)).count("hole") < 25

    @pytest.mark.real_data
    def test_crops_of_metastases_with_any_room_take_part(self, shared_data):
        images = sorted((shared_data / "camelyon_tumour" / "images").iterdir())
        masks = shared_data / "camelyon_tumour" / "masks"
        cases = [training_case(image, masks / image.name) for image in images]
        free = {image.stem for image in images if has_window(read_mask(masks / image.name), 256)}
        assert len(free) == 6
        with PatchSource(cases, Sampling(mpp=0.5, seed=1), augmentation=None) as source:
            assert set(source.names(range(0, 2000, 2))) == free
        with PatchSource(cases, Sampling(mpp=0.5), augmentation=replace(GEOMETRY, scale=0.25)) as source:
            assert len(set(source.names(range(0, 2000, 2)))) > 12


class TestLesions:
    def test_specks_do_not_outweigh_a_lesion(self, coded_case):
        """Forty specks and one lesion of 60 × 60 pixels, 99 % of the area, in patches that may fall anywhere."""
        specks = [np.s_[20 + 18 * n, 40 + 100 * k] for n in range(10) for k in range(4)]
        case = coded_case("specks", 512, 512, np.s_[400:460, 400:460], *specks)
        with PatchSource([case], replace(SAMPLING, positive_share=1.0, shift_px=0), augmentation=None) as source:
            large = [source.sample(index)[1].sum() > 40 for index in range(1, 400, 2)]  # with no lesion of its turn
        assert np.mean(large) > 0.95

    def test_a_lesion_that_vanishes_at_the_working_resolution_is_none(self, coded_case):
        """At half the resolution every second pixel of a mask is taken, the odd ones."""
        gone, kept = np.s_[100, 100], np.s_[301, 301]
        sampling = replace(SAMPLING, positive_share=0.5)
        with PatchSource([coded_case("both", 400, 400, gone, kept, mpp=0.25)], sampling, augmentation=None) as source:
            for index in range(1, 40, 2):
                assert source.sample(index)[1].sum() == 1
        with pytest.raises(BadInput, match="there is no lesion pixel"):
            PatchSource([coded_case("gone", 400, 400, gone, mpp=0.25)], sampling, augmentation=None)

    @pytest.mark.parametrize("shift", [0, 32])
    def test_a_single_pixel_is_shown_however_far_the_zoom(self, coded_case, shift):
        """Zoomed out, the mask leaves out pixels; near the edge the window cannot give way."""
        cases = [coded_case(f"at{n}", 200, 200, at) for n, at in enumerate((np.s_[1, 2], np.s_[198, 5], np.s_[90, 0]))]
        sampling = replace(SAMPLING, positive_share=1.0, shift_px=shift)
        with PatchSource(cases, sampling, augmentation=replace(GEOMETRY, scale=0.5)) as source:
            assert all(source.sample(index)[1].any() for index in range(90))

    def test_a_pixel_of_lesion_is_found_across_cells(self, coded_case):
        """Beyond 1024 × 1024 px cells of 2 px are looked at first: here [12, 14), across cells of 13."""
        case = coded_case("across", 1100, 1000, np.s_[13, 13])
        sampling = Sampling(mpp=0.5, patch_px=104, positive_share=1.0)
        with PatchSource([case], sampling, augmentation=None) as source:
            assert all(source.sample(index)[1].sum() == 1 for index in range(5))

    def test_a_lesion_that_cannot_be_read_gives_way_to_others(self, tmp_path):
        path = tmp_path / "hurt.tiff"
        write_slide(path, (1200, 900), tile=256, seed=3, lossless=True, failed_tiles=[(1, 1)])
        mask = np.zeros((900, 1200), bool)
        mask[300:400, 300:400] = mask[700:800, 900:1000] = True
        Image.fromarray(mask).save(tmp_path / "mask.png")
        sampling = replace(SAMPLING, positive_share=1.0, tissue="all")
        with PatchSource([training_case(path, tmp_path / "mask.png")], sampling, augmentation=None) as source:
            assert all(source.sample(index)[1].any() for index in range(20))
        assert source.unreadable > 60


class TestAlignment:
    @pytest.mark.parametrize("augmentation", [None, GEOMETRY])
    def test_mask_and_image_show_the_same_place(self, two_cases, augmentation):
        with PatchSource(two_cases, SAMPLING, augmentation=augmentation) as source:
            for index in range(60):
                image, mask = source.sample(index)
                assert image.shape == (64, 64, 3)
                assert mask.shape == (64, 64, 1)
                assert image.dtype == mask.dtype == np.float32
                np.testing.assert_array_equal(image[..., 2] > 128, mask[..., 0] > 0)

    def test_augmentation_turns_and_flips(self, two_cases):
        with PatchSource(two_cases, SAMPLING, augmentation=GEOMETRY) as source:
            corners = [source.sample(index)[0][:2, :2, :2] for index in range(60)]
        down, right = ([np.sign(np.diff(corner, axis=axis)).ravel().tolist() for corner in corners] for axis in (0, 1))
        assert len({tuple(one + two) for one, two in zip(down, right, strict=True)}) >= 8

    @pytest.mark.parametrize("mpp", [1.0, 0.4])
    def test_at_another_resolution(self, coded_case, mpp):
        case = coded_case("ill", 700, 700, np.s_[200:300, 220:330])
        with PatchSource([case], replace(SAMPLING, mpp=mpp, positive_share=1.0), augmentation=None) as source:
            for index in range(20):
                image, mask = source.sample(index)
                differs = (image[..., 2] > 127.5) != (mask[..., 0] > 0)
                assert differs.mean() < 0.02

    def test_outlines_fall_on_the_slide_s_tumour(self, slide):
        written, case = slide
        truth = written.tumour_mask()
        with PatchSource([case], SAMPLING, augmentation=None) as source, open_slide(written.path) as opened:
            full = packed(opened.read_block(0, 0, *opened.working_size_px(None), mpp=None)[0])
            for index in range(1, 20, 2):
                image, mask = source.sample(index)
                row, col = where(full, image)
                wrong = (mask[..., 0] > 0) != truth[row : row + 64, col : col + 64]
                assert wrong.mean() < 0.02

    def test_at_the_far_end_of_a_narrow_slide_s_level(self, tmp_path):
        """4095 × 301 px are 2047 × 150 at half the size: a mean of both ratios would lead 3 px astray."""
        spots = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(301, 4095)), 25) > 0
        pixels = np.repeat(255 * spots[..., None].astype(np.uint8), 3, axis=2)
        half = pixels[:300, :4094].reshape(150, 2, 2047, 2, 3).mean((1, 3)).astype(np.uint8)
        with tifffile.TiffWriter(tmp_path / "narrow.tiff") as file:
            file.write(pixels, tile=(256, 256), photometric="rgb")
            file.write(half, tile=(256, 256), photometric="rgb", subfiletype=1)
        Image.fromarray(spots).save(tmp_path / "mask.png")
        case = training_case(tmp_path / "narrow.tiff", tmp_path / "mask.png", mpp=0.25)
        sampling = replace(SAMPLING, positive_share=None, tissue="all")
        with PatchSource([case], sampling, augmentation=None) as source:
            wrong = [
                ((image[..., 0] > 127) != (mask[..., 0] > 0)).mean() for image, mask in map(source.sample, range(60))
            ]
        assert max(wrong) < 0.04

    def test_a_case_s_mpp_overrides(self, coded_case):
        fine, coarse = (coded_case(f"at{mpp}", 256, 256, mpp=mpp) for mpp in (0.5, 1.0))
        sampling = replace(SAMPLING, positive_share=0.0)
        steps = []
        for case in (fine, coarse):
            with PatchSource([case], sampling, augmentation=None) as source:
                steps.append(float(np.median(np.diff(source.sample(0)[0][..., 0], axis=0))))
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
                image, mask = source.sample(index)
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
            seen = {tuple(source.sample(index)[0][0, 0, :2].astype(int)) for index in range(40)}
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
                _, col = where(full, source.sample(index)[0])  # pixels of the whole slide, nothing made up
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
                source.sample(5)
            assert isinstance(source.failure, SlideUnreadable)
            assert source.unreadable == 64


class TestDeterminism:
    def test_order_threads_and_instances_change_nothing(self, two_cases):
        with PatchSource(two_cases, SAMPLING, augmentation=Augmentation()) as source:
            expected = [source.sample(index) for index in range(40)]
        with PatchSource(two_cases, SAMPLING, augmentation=Augmentation()) as other, ThreadPoolExecutor(4) as pool:
            found = list(pool.map(other.sample, reversed(range(40))))[::-1]
        for (image, mask), (image2, mask2) in zip(expected, found, strict=True):
            np.testing.assert_array_equal(image, image2)
            np.testing.assert_array_equal(mask, mask2)

    def test_every_epoch_and_seed_draws_anew(self, two_cases):
        sampling = replace(SAMPLING, patches_per_epoch=10)
        with PatchSource(two_cases, sampling, augmentation=None) as source:
            images = [source.sample(index)[0].tobytes() for index in range(40)]
        assert len(set(images)) > 30
        with PatchSource(two_cases, replace(sampling, seed=1), augmentation=None) as other:
            assert sum(other.sample(index)[0].tobytes() == images[index] for index in range(40)) < 3

    def test_patches_outlive_the_closing_of_the_slides(self, two_cases):
        with PatchSource(two_cases, SAMPLING, augmentation=None) as source:
            image = source.sample(0)[0]
        np.testing.assert_array_equal(source.sample(0)[0], image)
        source.close()


class TestReaders:
    def test_decoded_masks_count(self, coded_case):
        plain, marked = (
            CaseReader(coded_case(name, 300, 400, *lesions), 0.5, Labels())
            for name, lesions in (("plain", []), ("marked", [np.s_[0, 0]]))
        )
        assert marked.held_bytes - plain.held_bytes == 300 * 400
        before = marked.held_bytes
        marked.places(np.ones((3, 4), bool), marked.slide.overview(), 64, (64, 64))
        assert marked.held_bytes == before  # what is added when it opens is what is taken when it closes

    def test_a_tiff_mask_counts_what_it_keeps(self, tmp_path, coded_case):
        case = coded_case("plain", 4000, 4000)
        mask = np.zeros((4000, 4000), np.uint8)
        tifffile.imwrite(tmp_path / "mask.tiff", mask, tile=(256, 256))
        held = []
        for one in (case, replace(case, annotation=tmp_path / "mask.tiff")):
            reader = CaseReader(one, 0.5, Labels())
            held.append(reader.held_bytes)
            reader.close()
        assert held[1] - held[0] == 2**23  # as many pixels as it keeps decoded

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
            source.sample(-1)


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_stain_is_brought_to_the_target(slide, method):
    """Pixel by pixel as the slide's own fit brings it there; the mask stays."""
    written, case = slide
    sampling = replace(SAMPLING, positive_share=None, tissue="all")
    with open_slide(written.path) as opened:
        bring = normaliser(fit_slide(opened, np.ones((8, 8), bool), method, mpp=0.5), REFERENCES[method])
    with (
        PatchSource([case], sampling, augmentation=None) as plain,
        PatchSource([case], sampling, augmentation=None, stain=REFERENCES[method]) as stained,
    ):
        for index in range(6):
            (image, mask), (brought, same) = plain.sample(index), stained.sample(index)
            np.testing.assert_array_equal(brought, bring(image.astype(np.uint8)))
            np.testing.assert_array_equal(same, mask)
            assert np.abs(brought - image).mean() > 1


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
        pairs = [source.sample(index) for index in range(6, 16)]
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
        means = [source.sample(index)[0].mean(axis=(0, 1)) / 127.5 - 1 for index in range(16)]
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


def field(image):
    """Side of the part of a coded case, of at most 256 px, that a patch shows: its columns are in the green."""
    row = image[32, :, 1]
    return float(row[-2] - row[1]) / (len(row) - 3) * len(row)


def read_mask(path):
    return np.asarray(Image.open(path).convert("L")) > 127


def has_window(mask, side):
    """Whether any square of that side is free of it."""
    total = np.pad(mask, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    return bool(
        ((total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]) == 0).any()
    )


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
