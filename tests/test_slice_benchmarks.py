"""The pure parts of the benchmarks on MRI slices; their numbers are not looked at."""

from __future__ import annotations

import dataclasses
import json
import sys

import example_scripts
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

MIDDLE = np.s_[100:140, 100:140]


def load(name):
    return example_scripts.load(name, example_scripts.BENCHMARKS)


# ---- lgg_slices ----


@pytest.fixture(scope="module")
def lgg():
    return load("lgg_slices")


def head(*, tumour=True, gain=1.0):
    """A slice of a head of 100 px radius with a bright rim and a square that is bright in FLAIR, and its mask."""
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[:256, :256]
    radius = np.hypot(rows - 128, cols - 128)
    texture = ndimage.gaussian_filter(rng.normal(0, 30, (256, 256)), 2)  # a deviation of about 4
    grey = np.where(radius < 100, 60 + texture, 0)
    grey[(radius >= 90) & (radius < 100)] = 200
    image = np.repeat(grey[..., None], 3, axis=-1)
    mask = np.zeros((256, 256), bool)
    if tumour:
        mask[MIDDLE] = True
        image[mask, 1] = 90
    return (image * gain).clip(0, 255).astype(np.uint8), mask


def patient(lgg, name="A", **changes):
    image, mask = head(**changes)
    return lgg.Patient(name, lgg.standardised(image)[None], mask[None])


def test_lgg_slices_are_read_in_the_order_of_their_numbers(lgg, tmp_path):
    for number, grey in ((9, 50), (10, 150)):
        image = np.zeros((256, 256, 3), np.uint8)
        image[20:230, 20:230] = grey
        mask = np.zeros((256, 256), np.uint8)
        mask[:number] = 255
        Image.fromarray(image).save(tmp_path / f"A_1999_{number}.png")
        Image.fromarray(mask).save(tmp_path / f"A_1999_{number}_mask.png")
    read = lgg.read_patient(tmp_path)
    assert (read.name, read.slices.shape, read.slices.dtype) == (tmp_path.name, (2, 256, 256, 3), np.uint8)
    assert read.masks.sum(axis=(1, 2)).tolist() == [9 * 256, 10 * 256]


def test_lgg_slices_are_standardised_whatever_the_scanner_multiplied_them_by(lgg):
    once, half = (lgg.standardised(head(gain=gain)[0]).astype(int) for gain in (1.0, 0.5))
    assert abs(once - half)[MIDDLE].mean() < 8  # of 255: grey values were rounded
    inside = lgg.standardised(head(tumour=False)[0])[78:178, 78:178]
    zero = -lgg.LEAST_Z / (lgg.MOST_Z - lgg.LEAST_Z) * 255
    assert np.median(inside) == pytest.approx(zero, abs=3)
    assert inside.std() == pytest.approx(255 / (lgg.MOST_Z - lgg.LEAST_Z), rel=0.1)  # one deviation


def test_lgg_slices_lose_the_skull_and_what_is_around_it(lgg):
    found = lgg.standardised(head()[0])
    rows, cols = np.mgrid[:256, :256]
    radius = np.hypot(rows - 128, cols - 128)
    assert not found[radius > 92].any()
    assert found[radius < 80].any(axis=-1).mean() > 0.99


def test_lgg_folds_test_every_patient_once(lgg):
    names = [f"P{number}" for number in range(14)]
    folds = lgg.in_folds(names, 7, seed=0)
    assert [len(fold) for fold in folds] == [2] * 7
    assert sorted(name for fold in folds for name in fold) == sorted(names)
    assert folds == lgg.in_folds(names, 7, seed=0) != lgg.in_folds(names, 7, seed=1)


def test_lgg_samples_depend_on_seed_and_index_and_come_once_a_round(lgg):
    patients = [patient(lgg, "A"), patient(lgg, "B", tumour=False)]
    source = lgg.AugmentedSlices(patients, side_px=64, seed=0)
    image, mask = source.sample(3)
    again, other = (lgg.AugmentedSlices(patients, side_px=64, seed=seed).sample(3)[0] for seed in (0, 1))
    np.testing.assert_array_equal(image, again)
    assert (image != other).any()
    assert (image.shape, mask.shape) == source.shapes == ((64, 64, 3), (64, 64, 1))
    assert (image.dtype, mask.dtype) == (np.float32, np.float32)
    for round_ in range(4):  # one of two slices has a tumour
        tumours = [source.sample(2 * round_ + place)[1].any() for place in range(2)]
        assert sorted(tumours) == [False, True]


def test_lgg_masks_move_with_their_slices(lgg):
    source = lgg.AugmentedSlices([patient(lgg)], side_px=128, seed=0)
    for index in range(5):
        image, mask = source.sample(index)
        inside = image[mask[..., 0] == 1, lgg.FLAIR].mean()
        assert inside > image[mask[..., 0] == 0, lgg.FLAIR].max() * 0.6 > 0
        assert mask.sum() == pytest.approx(20**2, rel=0.8)


def test_lgg_masks_lie_on_what_they_outline(lgg):
    slices, masks = np.zeros((1, 256, 256, 3), np.uint8), np.zeros((1, 256, 256), bool)
    masks[0, 100:150, 90:160] = True
    slices[masks] = 255
    source = lgg.AugmentedSlices([lgg.Patient("A", slices, masks)], side_px=128, seed=0)
    for index in range(5):
        image, mask = source.sample(index)
        bright, inside = image[..., 0] > image[..., 0].mean(), mask[..., 0] == 1
        assert (bright & inside).sum() / (bright | inside).sum() > 0.9


def test_lgg_a_mesh_that_is_not_bent_changes_nothing(lgg):
    at = np.linspace(0, 60, lgg.CELLS + 1)
    image = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    np.testing.assert_array_equal(lgg.moved(image, np.stack(np.meshgrid(at, at), axis=-1)), image)


def test_lgg_a_mesh_moves_by_whole_pixels(lgg):
    at = np.linspace(0, 60, lgg.CELLS + 1)
    mesh = np.stack(np.meshgrid(at + 10, at), axis=-1)  # what was 10 px to the right
    image = np.random.default_rng(0).integers(1, 255, (60, 60), np.uint8)
    found = lgg.moved(image, mesh)
    np.testing.assert_array_equal(found[:, :50], image[:, 10:])
    assert not found[:, 50:].any()


def test_lgg_dice_is_of_all_slices_of_a_patient(lgg):
    masks = np.zeros((3, 4, 4), bool)
    masks[0, 0, :2] = masks[1, 0, :1] = True  # the third has no tumour
    one = lgg.Patient("A", np.zeros((3, 4, 4, 3), np.uint8), masks)
    found = masks.copy()
    found[0, 0, 0] = False  # one missed, two found for nothing
    found[2, 0, :2] = True
    assert lgg.dice(one, found) == pytest.approx(2 * 2 / (2 * 2 + 2 + 1))


def test_lgg_threshold_and_forest_find_what_is_bright_in_flair(lgg):
    seen, unseen = patient(lgg), patient(lgg, "B", gain=0.8)
    assert lgg.dice(unseen, lgg.flair_threshold([seen], [unseen])[0]) > 0.85
    assert lgg.dice(unseen, lgg.forest([seen], [unseen], seed=0)[0]) > 0.85


def test_lgg_table_has_patients_by_name_and_their_mean(lgg):
    table = {"B": {"U-Net": 0.5}, "A": {"U-Net": 0.9}}
    assert lgg.summary(table) == {"U-Net": {"mean": 0.7, "sd": pytest.approx(0.28284, abs=1e-4), "median": 0.7}}
    rows = [
        ["Dice", "U-Net"], ["A", "0.900"], ["B", "0.500"], ["mean", "0.700"], ["sd", "0.283"], ["median", "0.700"],
    ]  # fmt: skip
    assert [line.split() for line in lgg.printed(table, []).splitlines()] == rows
    apart = [["1", "kept", "apart", "0.500"], ["1", "others", "0.900"]]
    assert [line.split() for line in lgg.printed(table, ["B"]).splitlines()] == [*rows, *apart]


def test_lgg_trainings_of_other_slices_or_changes_are_others(lgg, monkeypatch):
    def digest(**changes):
        return lgg.AugmentedSlices([patient(lgg, **changes)], side_px=64, seed=0).digest()

    before = digest()
    assert before == digest() != digest(gain=0.5)
    monkeypatch.setattr(lgg, "GAMMA", 0.1)
    assert digest() != before


@pytest.mark.slow
@pytest.mark.keras
def test_lgg_unet_learns_and_goes_on(lgg, tmp_path):
    short = dataclasses.replace(lgg.SCHEDULE, epochs=2, steps_per_epoch=3, batch=2, settle_batches=1)
    network = {"name": "unet-small", "config": {"shrink": 1, "widths": [4, 8], "output_stride": 2}}
    one, other = patient(lgg), patient(lgg, "B")
    settings = {"seed": 0, "schedule": short, "network": network, "side_px": 64}
    first, again = (lgg.unet([one], [other], tmp_path, **settings)[0] for _ in range(2))
    assert (first.shape, first.dtype) == ((1, 256, 256), np.float32)
    np.testing.assert_array_equal(first, again)


# ---- t1ce_slices ----


@pytest.fixture(scope="module")
def t1ce():
    return load("t1ce_slices")


@pytest.fixture(scope="module")
def slices(t1ce, tmp_path_factory):
    """Ten slices of each class, brighter from class to class; the first two of each are near copies."""
    folder, rng = tmp_path_factory.mktemp("t1ce"), np.random.default_rng(0)
    for place, name in enumerate(t1ce.CLASSES):
        (folder / name).mkdir()
        for number in range(10):
            if number != 1:
                coarse = rng.integers(0, 80, (14, 14)) + 40 * place
            pixels = np.kron(coarse, np.ones((16, 16))) + rng.normal(0, 2, (224, 224))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.jpg", quality=95)
    return t1ce.read_slices(folder)


def test_t1ce_near_copies_are_one_group(t1ce, slices):
    assert slices.pixels.shape == (40, 224, 224)
    assert slices.labels.tolist() == sorted(list(range(4)) * 10)
    copies = [np.flatnonzero(slices.groups == group).tolist() for group in range(slices.groups.max() + 1)]
    assert [group for group in copies if len(group) > 1] == [[0, 1], [10, 11], [20, 21], [30, 31]]
    assert t1ce.description(slices) == {"slices": 40, "groups": 36, "largest_group": 2, "pairs": 4}


def test_t1ce_copies_through_a_third_are_one_group(t1ce):
    rows, cols = np.mgrid[:32, :32]
    shifted = [np.hypot(rows - 20, cols - at) < 8 for at in (10, 10.8, 11.6)]
    pixels = np.stack([200 * one for one in shifted]).astype(np.uint8)
    assert t1ce.copies(pixels).tolist() == [[True, True, False], [True, True, True], [False, True, True]]
    assert t1ce.groups_of_copies(pixels).tolist() == [0, 0, 0]


def test_t1ce_mirrored_and_turned_copies_are_one_group(t1ce):
    rng = np.random.default_rng(0)
    one, other = (np.kron(rng.integers(0, 255, (16, 16)), np.ones((4, 4))).astype(np.uint8) for _ in range(2))
    pixels = np.stack([one, other, one[:, ::-1], np.rot90(other)])
    assert t1ce.groups_of_copies(pixels).tolist() == [0, 1, 0, 1]


def test_t1ce_no_group_is_on_both_sides_and_every_slice_is_tested_once(t1ce, slices):
    pairs = t1ce.parts(slices, 5, seed=0)
    assert sorted(np.concatenate([unseen for _, unseen in pairs]).tolist()) == list(range(40))
    for training, unseen in pairs:
        assert len(training) + len(unseen) == 40
        assert not set(slices.groups[training]) & set(slices.groups[unseen])
        assert set(slices.labels[unseen]) == set(range(4))


def test_t1ce_both_arms_see_every_image_once_a_round(t1ce, slices):
    few = slices.of(np.array([0, 10, 20]))
    assert [len(images) for images in t1ce.ARMS.values()] == [1, 57]
    plain = t1ce.TrainingImages(few, t1ce.ARMS[t1ce.AS_THEY_ARE], seed=0)
    assert sorted(int(plain.sample(index)[1].argmax()) for index in range(3)) == [0, 1, 2]
    augmented = t1ce.TrainingImages(few, t1ce.ARMS[t1ce.AUGMENTED], seed=0)
    images, truths = zip(*(augmented.sample(index) for index in range(3 * 57)), strict=True)
    assert np.sum(truths, axis=0).tolist() == [57, 57, 57, 0]
    assert (images[0].shape, truths[0].shape) == augmented.shapes == ((227, 227, 3), (4,))
    whole = t1ce.resized(few.pixels)
    found = [sum((image[..., 0] == one).all() for image in images) for one in whole]
    assert min(found) >= 1  # the slice itself is among its 57
    np.testing.assert_array_equal(augmented.sample(7)[0], images[7])


def test_t1ce_forest_tells_brightness_apart(t1ce, slices):
    training, unseen = t1ce.parts(slices, 5, seed=0)[0]
    found = t1ce.forest(slices.of(training), slices.of(unseen), seed=0)
    assert t1ce.scores(slices.labels[unseen], found)["accuracy"] > 0.7


def test_t1ce_macro_f1_by_hand(t1ce):
    truth, found = np.array([0, 0, 1, 1, 2, 3]), np.array([0, 1, 1, 1, 2, 0])
    assert t1ce.scores(truth, found) == {
        "macro_f1": pytest.approx((0.5 + 0.8 + 1 + 0) / 4), "accuracy": pytest.approx(4 / 6),
    }  # fmt: skip


def test_t1ce_finished_scores_are_not_made_again_unless_settings_differ(t1ce, slices, tmp_path, monkeypatch):
    trained = []

    def alexnet(training, unseen, folder, **settings):
        folder.mkdir()
        (folder / t1ce.WEIGHTS).touch()
        trained.append((settings["arm"], settings["steps"]))
        return unseen.labels

    monkeypatch.setattr(t1ce, "alexnet", alexnet)
    first, again, longer = (
        t1ce.compared(slices, tmp_path, seeds=[0], steps=steps, folds=None) for steps in (1, 1, 2)
    )
    assert first[t1ce.AUGMENTED] == again[t1ce.AUGMENTED]
    assert longer[t1ce.AUGMENTED][0]["macro_f1"] == 1
    assert trained == [(arm, steps) for steps in (1, 2) for arm in t1ce.ARMS]


def test_t1ce_folds_and_seeds_are_scored_one_by_one(t1ce, slices, tmp_path, monkeypatch):
    monkeypatch.setattr(t1ce, "scored", lambda *_, **settings: {"macro_f1": settings["seed"]})
    found = t1ce.compared(slices, tmp_path, seeds=[1, 2], steps=1, folds=3)
    assert [one["macro_f1"] for one in found[t1ce.AS_THEY_ARE]] == [1, 1, 1, 2, 2, 2]
    assert len(found["forest on histograms"]) == 6


@pytest.mark.slow
@pytest.mark.keras
def test_t1ce_runs(t1ce, slices, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(t1ce, "read_slices", lambda _: slices)
    monkeypatch.setattr(t1ce, "BATCH", 4)
    monkeypatch.setattr(sys, "argv", ["t1ce", "-", "--out", str(tmp_path), "--seeds", "0", "--steps", "1"])
    t1ce.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {arm: len(each) for arm, each in found["scores"].items()} == dict.fromkeys(
        (*t1ce.ARMS, "forest on histograms"), 1
    )
    assert not list(tmp_path.glob("*/network.weights.h5"))
