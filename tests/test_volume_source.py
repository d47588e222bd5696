"""Regions of MRI for training: made once and kept by their contents, then drawn in rounds, the same on every run."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from made_up_mri import CLASSES, write_case, write_cases, write_nifti

from digipath.errors import BadInput, BadVolume, Cancelled
from digipath.slice_augment import SliceAugmentation, svhn_images
from digipath.training.schedule import Schedule
from digipath.training.volume_config import FixedImages, VolumeArm, VolumeNetwork
from digipath.training.volume_manifest import VolumeCase, read_volume_manifest
from digipath.training.volume_regions import Regions, prepared
from digipath.training.volume_source import VolumeSource
from digipath.volume_augment import PEREIRA, VolumeAugmentation, changed
from digipath.volume_rois import VolumeRule, region_of

RULE = VolumeRule(("t1", "t1c"), "brain", (8, 8, 8), bias_field=False)
SLICE = VolumeRule(("t1c",), "slice", (12, 12), bias_field=False)
ARM = VolumeArm("base", VolumeNetwork(), RULE, Schedule(1, 1, 1), PEREIRA)
SLICES = replace(ARM, rule=SLICE, augmentation=FixedImages())


def case(number):
    return VolumeCase(f"c{number}", (), f"p{number}", CLASSES[number % 3])


def made_up(folder, rule, count=5):
    """Cases of which the region is told by its values: those of a slice from 0 to 255."""
    shape = (*rule.size, 3 if rule.roi == "slice" else len(rule.order))
    files = {}
    for number in range(count):
        values = np.random.default_rng(number).integers(1, 250, shape).astype(np.float32)
        values[0, 0] = number  # tells the case, in a place that mirroring and turning keep at a corner
        if rule.roi == "slice":
            values = np.repeat(values[..., :1], 3, axis=-1)
        np.save(folder / f"{number}.npy", values)
        files[f"c{number}", rule] = folder / f"{number}.npy"
    return [case(number) for number in range(count)], Regions(files)


# ---- in rounds ----


def test_every_region_comes_once_in_every_round_in_another_order(tmp_path):
    cases, regions = made_up(tmp_path, RULE)
    source = VolumeSource(cases, regions, replace(ARM, augmentation=None), classes=CLASSES, seed=3)
    assert (len(source), source.shapes) == (5, ((8, 8, 8, 2), (3,)))
    rounds = []
    for turn in range(4):
        numbers = []
        for index in range(5 * turn, 5 * turn + 5):
            pixels, truth = source.sample(index)
            number = int(pixels[0, 0, 0, 0])
            numbers.append(number)
            assert truth.tolist() == np.eye(3)[number % 3].tolist()
            assert (pixels.dtype, truth.dtype) == (np.float32, np.float32)
            np.testing.assert_array_equal(pixels, np.load(tmp_path / f"{number}.npy"))
        assert sorted(numbers) == [0, 1, 2, 3, 4]
        assert source.names(range(5 * turn, 5 * turn + 5)) == [f"c{number}" for number in numbers]
        rounds.append(tuple(numbers))
    assert len(set(rounds)) > 1


def test_a_sample_depends_on_seed_and_index_alone(tmp_path):
    cases, regions = made_up(tmp_path, RULE)
    source, again = (VolumeSource(cases, regions, ARM, classes=CLASSES, seed=3) for _ in range(2))
    first = source.sample(7)[0].copy()
    source.sample(7)[0][:] = 0  # the caller's own
    np.testing.assert_array_equal(again.sample(7)[0], first)
    np.testing.assert_array_equal(source.sample(7)[0], first)
    kept = np.load(tmp_path / f"{source.names([7])[0][1:]}.npy")
    np.testing.assert_array_equal(first, changed(kept, PEREIRA, np.random.default_rng((3, 3, 7))))
    assert (first != kept).any()
    other = VolumeSource(cases, regions, ARM, classes=CLASSES, seed=4)
    assert [other.names([i]) for i in range(10)] != [source.names([i]) for i in range(10)]


def test_regions_of_the_whole_image_are_moved_over_their_background(tmp_path):
    """Zoomed out, the border shows what was beyond: −0.4, the least value, and not 0, which would be an edge."""
    rule = replace(RULE, standardise="image")
    region = np.full((8, 8, 8, 2), -0.4, np.float32)
    region[2:6, 2:6, 2:6] = 1.5
    np.save(tmp_path / "0.npy", region)
    arm = replace(ARM, rule=rule, augmentation=VolumeAugmentation(zoom=(0.5, 0.5)))
    source = VolumeSource([case(0)], Regions({("c0", rule): tmp_path / "0.npy"}), arm, classes=CLASSES)
    pixels, _ = source.sample(0)
    np.testing.assert_allclose(pixels[0], -0.4, atol=1e-6)
    assert pixels.max() == pytest.approx(1.5)


def test_validation_shows_regions_as_they_are_in_their_order(tmp_path):
    for arm in (ARM, SLICES):
        cases, regions = made_up(tmp_path, arm.rule)
        source = VolumeSource(cases, regions, arm, classes=CLASSES, training=False)
        assert len(source) == 5
        for index in range(5):
            np.testing.assert_array_equal(source.sample(index)[0], np.load(tmp_path / f"{index}.npy"))


def test_an_epoch_of_slices_is_each_of_their_57_images_once(tmp_path):
    cases, regions = made_up(tmp_path, SLICE, count=2)
    source = VolumeSource(cases, regions, SLICES, classes=CLASSES)
    assert len(source) == 114
    found = Counter()
    for index in range(114):
        pixels, _ = source.sample(index)
        assert pixels.shape == (12, 12, 3)
        found[source.names([index])[0], pixels.astype(np.uint8).tobytes()] += 1
    expected = Counter()
    for number in range(2):
        kept = np.load(tmp_path / f"{number}.npy").astype(np.uint8)
        expected.update((f"c{number}", image.tobytes()) for image in svhn_images(kept))
    assert found == expected


def test_conventional_changes_of_slices(tmp_path):
    cases, regions = made_up(tmp_path, SLICE)
    arm = replace(SLICES, augmentation=SliceAugmentation())
    source = VolumeSource(cases, regions, arm, classes=CLASSES)
    assert len(source) == 5
    shown = [source.sample(index)[0] for index in (0, 5, 10, 15)]
    assert len({image.tobytes() for image in shown}) == 4
    assert all((image == np.rint(image)).all() and image.min() >= 0 and image.max() <= 255 for image in shown)


def test_what_cannot_be_drawn_is_refused(tmp_path):
    cases, regions = made_up(tmp_path, RULE)
    with pytest.raises(BadInput, match="expected cases"):
        VolumeSource([], regions, ARM, classes=CLASSES)
    source = VolumeSource(cases, regions, ARM, classes=CLASSES)
    with pytest.raises(BadInput, match="index of a sample from 0 on"):
        source.sample(-1)
    for file in tmp_path.glob("*.npy"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BadInput, match=r"kept region is damaged .* remove the file"):
        source.sample(0)
    assert isinstance(source.failure, BadInput)


# ---- made once ----


@pytest.fixture
def manifest(tmp_path):
    return read_volume_manifest(write_cases(tmp_path, 3), classes=CLASSES, order=["t1", "t1c"], tumour=True)


def test_regions_are_those_of_use_and_are_made_once(manifest, tmp_path):
    from digipath.volume import open_volumes

    rules, told = [RULE, SLICE, replace(RULE, standardise="image")], []
    regions = prepared(manifest, rules, tmp_path / "regions", progress=told.append)
    files = sorted((tmp_path / "regions").iterdir())
    assert len(files) == 9
    for case in manifest.cases:
        volume = open_volumes(dict(case.modalities), tumour=case.tumour)
        for rule in rules:
            np.testing.assert_allclose(regions.read(case, rule), region_of(volume, rule).pixels, atol=1e-5)
    assert [report.message for report in told] == ["preparing c0", "preparing c1", "preparing c2"]
    before = {file: file.stat().st_mtime_ns for file in files}
    prepared(manifest, rules, tmp_path / "regions", progress=told.append)
    assert {file: file.stat().st_mtime_ns for file in files} == before
    assert len(told) == 3


def test_other_contents_make_another_file(manifest, tmp_path):
    folder = tmp_path / "regions"
    prepared(manifest, [RULE], folder)
    write_nifti(tmp_path / "c1/tumour.nii.gz", np.ones((16, 16, 16), np.uint8))  # which RULE does not look at
    again = read_volume_manifest(manifest.path, classes=CLASSES, order=["t1", "t1c"], tumour=True)
    prepared(again, [RULE], folder)
    assert len(list(folder.iterdir())) == 3
    (tmp_path / "new").mkdir()
    write_case(tmp_path / "new/c", label=1, seed=99)
    (tmp_path / "new/c/t1.nii.gz").replace(tmp_path / "c1/t1.nii.gz")
    prepared(read_volume_manifest(manifest.path, classes=CLASSES, order=["t1", "t1c"]), [RULE], folder)
    assert len(list(folder.iterdir())) == 4


def test_a_cancelled_preparation_goes_on(manifest, tmp_path):
    folder = tmp_path / "regions"
    with pytest.raises(Cancelled):
        prepared(manifest, [RULE], folder, cancel=lambda: folder.is_dir() and any(folder.iterdir()))
    (first,) = folder.iterdir()
    at = first.stat().st_mtime_ns
    prepared(manifest, [RULE], folder)
    assert (first.stat().st_mtime_ns, len(list(folder.iterdir()))) == (at, 3)


def test_all_cases_without_a_region_are_told_in_one_line(manifest, tmp_path):
    for name in ("c0", "c2"):
        write_nifti(tmp_path / name / "t1.nii.gz", np.full((16, 16, 16), np.nan, np.float32))
    with pytest.raises(BadVolume, match=r"case 'c0': .*; case 'c2': .*cases\.csv") as caught:
        prepared(manifest, [RULE], tmp_path / "regions")
    assert "\n" not in str(caught.value)
    assert len(list((tmp_path / "regions").iterdir())) == 1
