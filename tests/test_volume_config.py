"""Settings of trainings that grade MRI: the papers' where a file says nothing, what is refused; the plan of runs."""

from __future__ import annotations

import json
import re

import pytest
from made_up_mri import CONFIG, rows_of, write_cases, write_rows

from digipath.errors import BadInput, UnknownWeights
from digipath.slice_augment import SliceAugmentation
from digipath.training.grading_config import task_of
from digipath.training.volume_config import FixedImages, read_volume_config, volume_example
from digipath.training.volume_plan import plan_runs, prepare_volumes, split_cases
from digipath.volume_augment import LEROUSSEAU, PEREIRA
from digipath.volume_rois import VolumeRule

FINDER = {
    "schema": 1, "name": "finder", "kind": "network", "task": "finding", "output": "voxels",
    "classes": ["background", "tumour"], "positive": "tumour", "activation": "softmax",
    "network": {"name": "unet-3d", "config": {}},
    "input": {"modality": "volume", "order": ["t1c"], "size": [8, 8, 8]},
    "file": "finder.weights.h5", "urls": [], "bytes": None, "sha256": None, "sha256_reason": "made up",
    "licence": "CC0-1.0", "citation": "none", "training": {"data": "none", "split": "none"}, "metrics": [],
    "intended_use": "Tests.", "limits": ["Made up."],
}  # fmt: skip
ALL = ("t1", "t1c", "t2", "flair")


def config(folder, *lines, top=""):
    path = folder / "my.toml"
    start = f'task = "volumes"\n{top}\n[data]\nmanifest = "cases.csv"\nclasses = ["grade 2", "grade 3", "grade 4"]\n'
    path.write_text("\n".join([start, *lines, '[card]\nname = "mine-v1"\ntask = "grading"']))
    return read_volume_config(path)


def base(folder, *lines):
    return config(folder, *lines).arms[0]


def test_what_a_file_does_not_say_is_as_pereira_has_it(tmp_path):
    arm = base(tmp_path)
    assert (arm.network.name, arm.network.class_weights) == ("grading-3d", False)
    assert arm.rule == VolumeRule(ALL, "brain", (96, 96, 96), 10, True, "brain")
    assert arm.augmentation == PEREIRA
    schedule = arm.schedule
    assert (schedule.optimiser, schedule.learning_rate, schedule.weight_decay) == ("adamw", 1e-4, 1e-4)
    assert (arm.input_shape, arm.images) == ((96, 96, 96, 4), 1)
    assert arm.spec(2) == {
        "name": "grading-3d",
        "config": {"patch": 96, "input_channels": 4, "classes": 2, "activation": "softmax"},
    }
    split = config(tmp_path).split
    assert (split.validation, split.test, split.folds, split.scheme) == (0.2, 0.2, None, "holdout")


def test_the_densenet_is_as_lerousseau_has_it(tmp_path):
    arm = base(tmp_path, '[network]\nname = "densenet169-3d"')
    assert (arm.rule.size, arm.rule.roi, arm.network.class_weights) == ((128, 128, 128), "brain", True)
    assert arm.augmentation == LEROUSSEAU
    schedule = arm.schedule
    assert (schedule.optimiser, schedule.learning_rate, schedule.batch, schedule.epochs) == ("adam", 5e-4, 3, 200)
    assert (schedule.patience, schedule.keep) == (None, "last")


def test_alexnet_is_as_lo_has_it(tmp_path):
    arm = base(tmp_path, '[network]\nname = "alexnet"')
    assert arm.rule == VolumeRule(("t1c",), "slice", (227, 227), bias_field=False)
    assert (arm.augmentation, arm.images, arm.input_shape) == (FixedImages(), 57, (227, 227, 3))
    assert (arm.schedule.learning_rate, arm.schedule.epochs, arm.schedule.patience) == (0.001, 20, 3)
    assert (arm.network.scale, arm.network.offset) == (1 / 127.5, -1)
    assert arm.spec(3)["config"] == {"patch": 227, "classes": 3, "activation": "softmax"}


def test_a_network_is_built_for_the_sides_of_its_region(tmp_path):
    assert base(tmp_path, "[volume]\nsize = [96, 96, 64]").spec(2)["config"]["patch"] == [96, 96, 64]


def test_the_file_comes_before_the_paper(tmp_path):
    arm = base(
        tmp_path, '[network]\nname = "alexnet"\nscale = 1.0', '[volume]\norder = ["flair"]', "[schedule]\nbatch = 8",
        '[augmentation]\npreset = "conventional"\nshift = 0.1',
    )  # fmt: skip
    assert (arm.rule.order, arm.rule.roi, arm.network.scale) == (("flair",), "slice", 1)
    assert (arm.schedule.batch, arm.schedule.epochs) == (8, 20)
    assert (arm.augmentation, arm.images) == (SliceAugmentation(shift=0.1), 1)
    assert base(tmp_path, "[augmentation]\nflip = false").augmentation.gamma == PEREIRA.gamma
    assert base(tmp_path, '[augmentation]\npreset = "none"').augmentation is None


def test_an_encoder_of_slices_gives_its_scaling(tmp_path):
    arm = base(tmp_path, '[network]\nname = "alexnet"\nencoder = "imagenet-alexnet-torchvision"')
    assert arm.network.encoder == "imagenet-alexnet-torchvision"
    assert arm.network.scale == pytest.approx((1 / 255 / 0.229, 1 / 255 / 0.224, 1 / 255 / 0.225), rel=1e-4)


def test_variants_say_what_differs(tmp_path):
    variants = [
        '[[variant]]\nname = "image"\n[variant.volume]\nstandardise = "image"',
        '[[variant]]\nname = "dense"\n[variant.network]\nname = "densenet169-3d"\n[variant.schedule]\nepochs = 3',
    ]
    first, image, dense = config(tmp_path, "[volume]\nmargin_vox = 5", *variants).arms
    assert (first.rule.standardise, image.rule.standardise) == ("brain", "image")
    assert (image.schedule, image.augmentation, image.network) == (first.schedule, PEREIRA, first.network)
    assert (dense.rule.size, dense.rule.margin_vox, dense.augmentation) == ((128, 128, 128), 5, LEROUSSEAU)
    assert (dense.schedule.epochs, dense.schedule.batch) == (3, 3)


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ("[volume]\nsides = 3", r"\[volume\] has no 'sides'"),
        ('[volume]\norder = ["pet"]', r"\[volume\] expected an order of modalities"),
        ("[volume]\nsize = [96, 96]", r"\[volume\] expected a size of three sides"),
        ("[volume]\nsize = [96, 64, 96]", "base: expected regions as wide as deep with quarter_turns"),
        ('[network]\nname = "resnet18"', r"\[volume\] lacks order, roi, size"),
        ("[network]\nscale = 2.0", r"\[network\] has no 'scale'"),
        ("[network]\nconfig = { patch = 3 }", "expected config without patch"),
        ("[network]\nconfig = { input_channels = 3 }", "expected config without input_channels"),
        ("[schedule]\nweight_decay = 1e-3\noptimiser = \"adam\"", "weight_decay 0 unless for adamw"),
        ("[schedule]\nsteps_per_epoch = 3", "has no 'steps_per_epoch'"),
        ('[augmentation]\npreset = "svhn"', r"\[augmentation\] expected preset to be one of pereira, lerousseau, none"),
        ('[network]\nname = "alexnet"\n[augmentation]\npreset = "pereira"', "one of svhn, conventional, none"),
        ("[augmentation]\ngamma = [1]", r"gamma must be a list of two numbers"),
        ("[split]\nfolds = 1", r"\[split\] expected folds of at least 2"),
        ("[split]\ntest = 0.0", r"\[split\] expected shares that leave cases .* without folds some to test on"),
        ("[split]\nvalidation = 1.0\nfolds = 3", r"\[split\] expected shares"),
        ("[tiles]\nmpp = 1.0", "there is no 'tiles'"),
        ('[[variant]]\nname = "base"\n[variant.volume]\nmargin_vox = 3', "none called base"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, lines, match):
    with pytest.raises(BadInput, match=match) as caught:
        config(tmp_path, lines)
    assert str(caught.value).endswith("my.toml")
    assert "\n" not in str(caught.value)


def test_a_segmenter_is_a_card_of_voxels_that_graders_find(tmp_path, monkeypatch):
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path / "home"))
    with pytest.raises(BadInput, match="expected a segmenter that answers for voxels, glioma-tiles-demo-v1 answers"):
        config(tmp_path, top='segmenter = "glioma-tiles-demo-v1"')
    with pytest.raises(UnknownWeights):
        config(tmp_path, top='segmenter = "nonsense"')
    (tmp_path / "finder.json").write_text(json.dumps(FINDER))
    with pytest.raises(BadInput, match="looks at the tumour, which finder finds, all see the brain"):
        config(tmp_path, top='segmenter = "finder.json"')
    with pytest.raises(BadInput, match=r"install it first: digipath weights import .*finder\.json"):
        config(tmp_path, '[volume]\nroi = "tumour"', top='segmenter = "finder.json"')
    installed = tmp_path / "home" / "weights" / "finder.json"
    installed.parent.mkdir(parents=True)
    installed.write_text(json.dumps(FINDER))
    told = config(tmp_path, '[volume]\nroi = "tumour"', top='segmenter = "finder.json"')
    assert told.record()["segmenter"] == "finder"


def test_the_example_shows_every_setting_with_its_default(tmp_path):
    text = volume_example()
    path = tmp_path / "example.toml"
    path.write_text(text)
    assert task_of(path) == "volumes"
    told = read_volume_config(path)
    shown, _, _ = text.partition("# Other ways")
    path.write_text(re.sub(r"^# ([a-z_]+ = )", r"\1", shown, flags=re.MULTILINE))
    assert path.read_text().count("\nfolds = ") == 1
    explicit = read_volume_config(path)
    assert json.dumps(explicit.record(), default=list) == json.dumps(told.record(), default=list)


# ---- the plan ----


def test_folds_are_scored_by_networks_that_saw_none_of_their_patients(tmp_path):
    write_cases(tmp_path, 12)
    (tmp_path / "my.toml").write_text(CONFIG.replace("[network]", "[split]\nfolds = 3\nvalidation = 0.25\n[network]"))
    asked = read_volume_config(tmp_path / "my.toml")
    cases = asked.read().cases
    splits = split_cases(cases, asked.split)
    assert [split.name for split in splits] == ["fold0", "fold1", "fold2"]
    assert sorted(case.name for split in splits for case in split.test) == sorted(case.name for case in cases)
    for split in splits:
        parts = (split.train, split.validation, split.test)
        assert [len(part) for part in parts] == [5, 3, 4]
        assert len({case.patient for part in parts for case in part}) == 12
        assert {case.label for case in split.validation} == {"grade 2", "grade 3", "grade 4"}
    runs = plan_runs(asked, splits)
    assert [[network.name for network in run.networks] for run in runs] == [[f"base-1-fold{k}" for k in range(3)]]
    assert [network.seed for network in runs[0].networks] == [0, 1, 2]
    assert runs[0].networks[0].schedule.steps_per_epoch == 2  # of batches of 3


def test_folds_of_the_manifest_and_no_validation(tmp_path):
    write_cases(tmp_path, 12)
    rows = [row | {"fold": str(number // 6)} for number, row in enumerate(rows_of(12))]
    write_rows(tmp_path / "cases.csv", rows)
    (tmp_path / "my.toml").write_text(CONFIG.replace("[network]", "[split]\nfolds = 2\nvalidation = 0\n[network]"))
    asked = read_volume_config(tmp_path / "my.toml")
    first, second = split_cases(asked.read().cases, asked.split)
    assert [case.fold for case in first.test] == ["0"] * 6
    assert ([case.fold for case in first.train], first.validation) == (["1"] * 6, ())
    assert second.train == first.test


@pytest.mark.keras
def test_the_plan_in_words(tmp_path):
    write_cases(tmp_path, 12)
    variant = '[[variant]]\nname = "slices"\n[variant.network]\nname = "alexnet"\nconfig = {}\n'
    variant += '[variant.volume]\norder = ["t1c"]\nroi = "slice"\nsize = [227, 227]\n[variant.schedule]\nbatch = 32\n'
    (tmp_path / "my.toml").write_text("repeats = 2\n" + CONFIG + variant)
    plan = prepare_volumes(tmp_path / "my.toml")
    assert len(plan.parameters) == 2
    lines = plan.lines()
    assert lines[:4] == [
        f"12 cases of 12 patients: {tmp_path / 'cases.csv'}",
        "train: 6 cases of 6 patients: 2 of grade 2, 2 of grade 3, 2 of grade 4",
        "validation: 3 cases of 3 patients: 1 of grade 2, 1 of grade 3, 1 of grade 4",
        "test: 3 cases of 3 patients: 1 of grade 2, 1 of grade 3, 1 of grade 4",
    ]
    assert lines[4].startswith("base: grading-3d, ")
    assert lines[5] == (
        "base: brain of t1, t1c, t2, flair as 16 × 16 × 16; bias field as it is, standardised over the brain"
    )
    assert lines[7].startswith("slices: slice of t1c as 227 × 227")
    assert lines[8:] == [
        "base-1: 1 network, 2 steps an epoch",
        "base-2: 1 network, 2 steps an epoch",
        "slices-1: 1 network, 11 steps an epoch",  # 6 × 57 images
        "slices-2: 1 network, 11 steps an epoch",
        "shipped as blobs-v1: base-1, one network",
    ]


@pytest.mark.keras
@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("widths", "wdths", r"\[network\] of base: network 'grading-3d' has no setting wdths"),
        ("config = { widths = [4, 8], dense = [8], dropout = 0.0 }", 'name = "unet-3d"\n', r"lacks|classifies regions"),
        ("[network]", "[split]\nfolds = 9\n[network]", "expected at least 9 patients"),
        ("size = [16, 16, 16]", "size = [16, 16, 1]", r"\[network\] of base: expected sides of at least 2 .*, got 1"),
        ('"grade 4"]', '"grade 4", "grade 5"]', "every class to train on, holdout has none of 'grade 5': .*cases.csv"),
    ],
)
def test_what_cannot_be_planned(tmp_path, old, new, match):
    write_cases(tmp_path, 12)
    text = CONFIG.replace(old, new)
    if "unet-3d" in new:
        text = text.replace("[volume]", '[volume]\norder = ["t1c"]\nroi = "brain"')
    (tmp_path / "my.toml").write_text(text)
    with pytest.raises(BadInput, match=match):
        prepare_volumes(tmp_path / "my.toml")
