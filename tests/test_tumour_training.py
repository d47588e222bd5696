"""Networks that find tumours in MRI: their settings, their patches, and a training from files to a card that finds."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from made_up_finders import write_finder
from made_up_mri import rows_of, write_cases, write_rows

import digipath
from digipath.errors import BadInput, BadVolume, Cancelled
from digipath.measure.scores import dice
from digipath.training.schedule import Schedule
from digipath.training.tumour_config import (
    PatchSampling,
    TumourArm,
    VoxelRule,
    read_tumour_config,
    tumour_example,
)
from digipath.training.tumour_results import dice_score
from digipath.training.tumour_source import TumourSource, marked_brain, unmarked
from digipath.training.volume_config import VolumeNetwork
from digipath.training.volume_manifest import VolumeCase
from digipath.training.volume_regions import Regions
from digipath.tumour import find_tumour, segmenter_predictors, tumour_mask, tumour_probability
from digipath.volume_augment import PEREIRA
from digipath.volume_values import Volume
from digipath.weights import load_card

CONFIG = """
task = "tumours"
[data]
manifest = "cases.csv"
[volume]
order = ["t1c", "flair"]
size = [8, 8, 8]
bias_field = false
[sampling]
validation_patches = 6
[split]
folds = 2
[network]
config = { widths = [4, 8], dropout = 0.0 }
[schedule]
epochs = 2
steps_per_epoch = 12
batch = 4
learning_rate = 0.02
[card]
name = "finder-v1"
task = "finding blobs"
"""
ARM = TumourArm(
    "base", VolumeNetwork("unet-3d"), VoxelRule(("t1c", "flair"), size=(8, 8, 8)), Schedule(1, 1, 1), None,
    PatchSampling(validation_patches=5),
)  # fmt: skip


# ---- settings ----


def config(folder, *lines):
    path = folder / "my.toml"
    start = 'task = "tumours"\n[data]\nmanifest = "cases.csv"\n'
    path.write_text("\n".join([start, *lines, '[card]\nname = "mine-v1"\ntask = "finding"']))
    return read_tumour_config(path)


def test_what_a_file_does_not_say_is_as_pereira_has_it(tmp_path):
    arm = config(tmp_path).arms[0]
    schedule = arm.schedule
    assert (schedule.optimiser, schedule.learning_rate, schedule.weight_decay) == ("adamw", 5e-5, 1e-6)
    assert (schedule.cross_entropy_weight, schedule.background_weight, schedule.foreground_weight) == (1, 0, 0)
    assert (arm.network.name, arm.augmentation, arm.output) == ("unet-3d", None, "voxels")
    assert arm.input_shape == (64, 64, 64, 4)
    assert arm.spec(2)["config"] == {"patch": 64, "input_channels": 4, "classes": 2, "activation": "softmax"}
    assert arm.rule.to_record() == {
        "order": ["t1", "t1c", "t2", "flair"], "size": [64, 64, 64], "bias_field": True, "standardise": "brain",
    }  # fmt: skip
    assert replace(arm.rule, spacing_mm=2.0).to_record()["spacing_mm"] == 2.0
    assert config(tmp_path).record()["arms"][0]["schedule"]["steps_per_epoch"] == 100


def test_the_example_shows_every_setting_with_its_default(tmp_path):
    text, path = tumour_example(), tmp_path / "example.toml"
    path.write_text(text)
    told = read_tumour_config(path)
    shown, _, _ = text.partition("# Other ways")
    path.write_text(re.sub(r"^# ([a-z_]+ = )", r"\1", shown, flags=re.MULTILINE))
    assert path.read_text().count("\nfolds = ") == 1
    assert read_tumour_config(path) == told


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ('[volume]\nroi = "brain"', r"\[volume\] has no 'roi'"),
        ("[volume]\nsize = [8, 8]", "a size of three sides"),
        ('[volume]\norder = ["pet"]', "an order of modalities"),
        ("[volume]\nspacing_mm = 0", "spacing_mm above 0"),
        ("[sampling]\ntumour_share = 2", r"\[sampling\] expected tumour_share in \[0, 1\]"),
        ("[sampling]\nvalidation_patches = 0", "validation_patches of at least 1"),
        ("[network]\nclass_weights = true", r"\[network\] has no 'class_weights'"),
        ("[schedule]\nsnapshots = [0]", "has no 'snapshots'"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, lines, match):
    with pytest.raises(BadInput, match=match):
        config(tmp_path, lines)


@pytest.mark.keras
@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ('[network]\nname = "grading-3d"\n[volume]\nsize = [16, 16, 16]', r"marks voxels, grading-3d answers \(2,\)"),
        ("[volume]\nsize = [10, 10, 10]", r"\[network\] of base: expected sides of a patch"),
    ],
)
def test_networks_that_mark_no_voxels_are_refused(tmp_path, lines, match):
    from digipath.training.tumour_experiment import prepare_tumours

    write_cases(tmp_path, 9)
    with pytest.raises(BadInput, match=match):
        prepare_tumours(config(tmp_path, lines))


# ---- patches ----


def a_brain(number):
    """(12, 10, 14, 3): two channels that tell the place of each voxel, a brain and a tumour of 2 × 2 × 2 voxels."""
    brain = np.zeros((12, 10, 14, 3), np.float32)
    brain[1:-1, 1:-1, 1:-1, 0] = 1 + np.arange(10 * 8 * 12).reshape(10, 8, 12)
    brain[..., 1] = number * (brain[..., 0] > 0)
    brain[..., 2] = brain[..., 0] > 0
    brain[3:5, 4:6, 8:10, 2] = 2
    return brain


@pytest.fixture
def brains(tmp_path):
    cases, files = [], {}
    for number in range(1, 4):
        np.save(tmp_path / f"{number}.npy", a_brain(number))
        files[f"c{number}", ARM.rule] = tmp_path / f"{number}.npy"
        cases.append(VolumeCase(f"c{number}", (), f"p{number}"))
    return cases, Regions(files)


def sampled(share):
    return replace(ARM, sampling=PatchSampling(share, 5))


def test_patches_are_about_the_tumour_or_anywhere(brains):
    about, anywhere = (TumourSource(*brains, sampled(share)) for share in (1.0, 0.0))
    assert about.shapes == ((8, 8, 8, 2), (8, 8, 8, 1))
    for index in range(30):
        patch, truth = about.sample(index)
        assert (patch.shape, truth.shape, patch.dtype, truth.dtype) == (*about.shapes, np.float32, np.float32)
        assert truth[4, 4, 4, 0] == 1
        assert patch[4, 4, 4, 1] == int(about.names([index])[0][1:])
    starts = {anywhere.sample(index)[0].tobytes() for index in range(30)}
    assert len(starts) == 30
    shares = [anywhere.sample(index)[1].any() for index in range(60)]
    assert 0 < np.mean(shares) < 1
    half = TumourSource(*brains, ARM)
    middles = [half.sample(index)[1][4, 4, 4, 0] for index in range(300)]
    assert np.mean(middles) == pytest.approx(0.5, abs=0.1)


def test_a_patch_is_cut_where_the_brain_has_it_and_empty_beyond(brains):
    source = TumourSource(*brains, ARM)
    for index in range(40):
        patch, truth = source.sample(index)
        whole = a_brain(int(source.names([index])[0][1:]))
        place = np.argwhere(patch[..., 0] > 0)[0]
        there = np.argwhere(whole[..., 0] == patch[tuple(place)][0])[0]
        start = there - place
        for at in np.ndindex(8, 8, 8):
            voxel = start + at
            inside = (voxel >= 0).all() and (voxel < whole.shape[:3]).all()
            assert patch[at][0] == (whole[tuple(voxel)][0] if inside else 0)
            assert truth[at][0] == (whole[tuple(voxel)][2] == 2 if inside else 0)


def test_samples_depend_on_seed_and_index_alone(brains):
    arm = replace(ARM, augmentation=PEREIRA)
    source, again = (TumourSource(*brains, arm, seed=5) for _ in range(2))
    later = again.sample(9)
    for one, other in zip(source.sample(9), later, strict=True):
        np.testing.assert_array_equal(one, other)
    assert sorted(source.names(range(3))) == sorted(source.names(range(3, 6))) == ["c1", "c2", "c3"]
    assert {value for index in range(20) for value in np.unique(source.sample(index)[1])} == {0, 1}


def test_validation_and_a_border_without_answer(brains):
    source = TumourSource(*brains, sampled(1.0), context=3, training=False)
    assert (len(source), source.names(range(5))) == (5, ["c1", "c2", "c3", "c1", "c2"])
    patch, truth = source.sample(0)
    assert (patch.shape, truth.shape) == ((8, 8, 8, 2), (2, 2, 2, 1))
    whole = TumourSource(*brains, sampled(1.0), training=False)
    np.testing.assert_array_equal(truth, whole.sample(0)[1][3:5, 3:5, 3:5])


def test_a_marked_brain_is_the_volume_as_a_card_wants_it():
    rng = np.random.default_rng(0)
    brain, tumour = np.zeros((2, 12, 12, 12), bool)
    brain[2:10, 3:11, 1:9] = True
    tumour[4:6, 4:7, 3:6] = True
    voxels = rng.normal(50, 9, (12, 12, 12, 2)).astype(np.float32) * brain[..., None]
    volume = Volume(("t1c", "flair"), voxels, np.diag([2.0, 2, 2, 1]), brain, tumour)
    rule = replace(ARM.rule, bias_field=False)
    marked = marked_brain(volume, rule)
    assert marked.shape == (8, 8, 8, 3)
    found, truth = unmarked(marked, rule)
    np.testing.assert_array_equal(truth, tumour[2:10, 3:11, 1:9])
    assert found.brain.all()
    np.testing.assert_allclose(found.voxels.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(found.voxels.std(axis=(0, 1, 2)), 1, atol=1e-5)
    coarse = marked_brain(volume, replace(rule, spacing_mm=4.0))
    assert (coarse.shape, (coarse[..., -1] == 2).any()) == ((4, 5, 5, 3), True)
    thin = np.zeros_like(tumour)
    thin[4, 4:8, 3] = True
    with pytest.raises(BadVolume, match=r"none of the 4 voxels of its outline is left at spacing_mm = 6\.0"):
        marked_brain(replace(volume, tumour=thin), replace(rule, spacing_mm=6.0))
    with pytest.raises(BadInput, match="outline of the tumour"):
        marked_brain(replace(volume, tumour=None), rule)


def test_an_outline_beyond_the_brain_is_no_brain():
    """A tumour is found in the brain alone, so the score must not look elsewhere; what lies beyond was missed."""
    brain, tumour = np.zeros((2, 8, 8, 8), bool)
    brain[1:6, 1:7, 1:7] = True
    tumour[4:8, 3:5, 3:5] = True
    voxels = np.random.default_rng(0).normal(50, 9, (8, 8, 8, 2)).astype(np.float32) * brain[..., None]
    volume = Volume(("t1c", "flair"), voxels, np.eye(4), brain, tumour)
    marked = marked_brain(volume, replace(ARM.rule, bias_field=False))
    assert marked.shape == (7, 6, 6, 3)
    assert {mark: int((marked[..., -1] == mark).sum()) for mark in (0, 1, 2, 3)} == {0: 64, 1: 172, 2: 8, 3: 8}
    found, truth = unmarked(marked, ARM.rule)
    np.testing.assert_array_equal(found.brain, brain[1:, 1:7, 1:7])
    np.testing.assert_array_equal(truth, tumour[1:, 1:7, 1:7])


@pytest.mark.keras
@pytest.mark.parametrize(("padding", "size"), [("same", (16, 16, 16)), ("valid", (26, 26, 26))])
def test_what_is_scored_is_what_users_get(tmp_path, padding, size):
    """Of the brain's box, as it is kept, and of the whole volume with its background: the same mask to the voxel."""
    bright = {"channel": 1, "above": 2.0, "blurred": True}
    card = write_finder(tmp_path, "finder-v1", order=("t1c", "flair"), size=size, padding=padding, **bright)
    card = load_card(str(card))
    rng, brain = np.random.default_rng(0), np.zeros((30, 26, 24), bool)
    brain[3:28, 4:26, 0:20] = True  # up to the volume's end on two sides
    voxels = (rng.normal(100, 5, (*brain.shape, 2)) * brain[..., None]).astype(np.float32)
    volume = Volume(("t1c", "flair"), voxels, np.eye(4), brain, np.zeros_like(brain))
    volume.tumour[20:28, 10:18, 0:8] = True
    volume.voxels[volume.tumour, 1] += 60
    rule = VoxelRule(("t1c", "flair"), size=size)
    kept, truth = unmarked(marked_brain(volume, rule), rule)
    probability = tumour_probability(kept, segmenter_predictors(card), patch_vox=size, channel=card.kept[0])
    scored = tumour_mask(probability, kept.brain)
    found = find_tumour(volume, card)
    np.testing.assert_array_equal(scored, found[3:28, 4:26, 0:20])
    assert dice(truth, scored) > 0.8


# ---- scores ----


def test_dice_is_of_patients_and_not_of_cases():
    cases = [("a", 0.2), ("a", 0.4), ("b", 0.9), ("c", 0.6)]
    score = dice_score([{"patient": patient, "dice": value} for patient, value in cases])
    assert (score.patients, score.mean, score.median, score.least) == (3, pytest.approx(0.6), 0.6, pytest.approx(0.3))
    assert score.spread == pytest.approx(0.3)
    assert 0.3 <= score.interval[0] < 0.6 < score.interval[1] <= 0.9
    assert dice_score([{"patient": "a", "dice": 0.5}]).spread is None


# ---- training ----


@pytest.mark.slow
@pytest.mark.keras
def test_from_files_to_a_card_that_finds_tumours(tmp_path):
    from digipath.volume import open_volumes

    write_cases(tmp_path, 8)
    write_rows(tmp_path / "cases.csv", [{k: v for k, v in row.items() if k != "label"} for row in rows_of(8)])
    (tmp_path / "my.toml").write_text(CONFIG)
    out, seen = tmp_path / "out", []
    for sign in ("runs/base-1-fold1/checkpoint.npz", "scores/base-1-fold0.json"):
        with pytest.raises(Cancelled):
            digipath.train(tmp_path / "my.toml", out=out, cancel=lambda sign=sign: any(out.glob(sign)))
    result = digipath.train(tmp_path / "my.toml", out=out, progress=seen.append)
    assert not any(report.message.startswith("preparing") for report in seen)
    again = digipath.train(tmp_path / "my.toml", out=tmp_path / "again")
    assert (again.folder / "scores.csv").read_bytes() == (out / "scores.csv").read_bytes()
    assert [path.stem for path in result.cards] == ["finder-v1", "finder-v1-base-1-fold0", "finder-v1-base-1-fold1"]
    for one, other in zip(result.cards[1:], again.cards[1:], strict=True):
        assert load_card(str(one)).record["sha256"] == load_card(str(other)).record["sha256"]
    score = result.scores["base-1"]
    assert score["patients"] == 8
    assert score["mean"] > 0.6
    card = load_card(str(result.cards[1]))
    assert (card.output, card.record["positive"], card.record["input"]["size"]) == ("voxels", "tumour", [8, 8, 8])
    assert card.record["training"]["settings"]["schedule"]["cross_entropy_weight"] == 1
    assert card.record["training"]["settings"]["sampling"]["tumour_share"] == 0.5
    rows = (out / "scores.csv").read_text().splitlines()
    name, told = next(row.split(",")[2:5:2] for row in rows if ",base-1-fold0," in row)
    files = {modality: tmp_path / name / f"{modality}.nii.gz" for modality in ("t1c", "flair")}
    volume = open_volumes(files, tumour=tmp_path / name / "tumour.nii.gz")
    found = find_tumour(volume, card)
    overlap = 2 * (found & volume.tumour).sum() / (found.sum() + volume.tumour.sum())
    assert overlap == pytest.approx(float(told), abs=1e-3)
    assert "over the folds" in (out / "summary.md").read_text()
