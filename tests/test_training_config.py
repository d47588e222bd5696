"""The training's TOML: every setting arrives, and nothing misspelt passes."""

from __future__ import annotations

import dataclasses
import re

import pytest

from digipath.errors import BadInput, NotFound
from digipath.slide_stain import reference
from digipath.stain import REFERENCES
from digipath.synthetic import write_slide
from digipath.training.config import Config, Input, Splitting, example, read_config
from digipath.training.schedule import Schedule

SMALL = """
seed = 3
[data]
manifest = "lists/cases.csv"
[input]
mpp = 0.25
[schedule]
epochs = 4
steps_per_epoch = 10
batch = 8
[card]
name = "mine-v1"
task = "tumour segmentation"
[[member]]
name = "a"
network = "unet-small"
[[member]]
name = "b"
network = "unet"
config = { backbone = "resnet18", classes = 2, activation = "softmax" }
offset = 0
schedule = { learning_rate = 1e-4, clip_norm = 1.0 }
"""


@pytest.fixture
def read(tmp_path):
    def from_text(text, **options):
        (tmp_path / "my.toml").write_text(text, encoding="utf-8")
        return read_config(tmp_path / "my.toml", **options)

    return from_text


def test_stain_by_name_or_by_a_picture(read, tmp_path):
    def with_stain(stain):
        return read(SMALL.replace("mpp = 0.25", f'mpp = 0.25\nstain = "{stain}"'))

    assert read(SMALL).stain is None
    assert with_stain("reinhard").stain == REFERENCES["reinhard"]
    tissue = write_slide(tmp_path / "tissue.tiff", (600, 500), mpp=0.25, tile=256)
    config = with_stain("tissue.tiff")
    assert config.stain == reference(tissue.path, mpp=0.25) != REFERENCES["macenko"]
    tissue.path.rename(tmp_path / "moved.tiff")
    assert with_stain("moved.tiff").record() == config.record()  # its stain counts, not its place


def test_what_is_written_arrives_and_the_rest_is_default(read, tmp_path):
    config = read(SMALL)
    assert config.data.manifest == tmp_path / "lists" / "cases.csv"
    assert (config.seed, config.input) == (3, Input(mpp=0.25))
    assert config.schedule == Schedule(epochs=4, steps_per_epoch=10, batch=8)
    assert (config.sampling.mpp, config.sampling.patch_px) == (0.25, 256)
    assert config.split == Splitting()
    first, second = config.members
    assert first.spec == {"name": "unet-small", "config": {"classes": 1, "activation": "sigmoid"}}
    assert second.spec["config"] == {"backbone": "resnet18", "classes": 2, "activation": "softmax"}
    assert config.scaling_of(first) == (1 / 127.5, -1.0)
    assert config.scaling_of(second) == (1 / 127.5, 0.0)
    assert config.schedule_of(second) == dataclasses.replace(config.schedule, learning_rate=1e-4, clip_norm=1.0)
    assert config.schedule_of(first) == config.schedule


def test_another_seed_than_the_files(read):
    assert read(SMALL, seed=11).seed == 11


def test_none_is_no_value_where_there_may_be_none(read):
    text = SMALL.replace("batch = 8", 'batch = 8\npatience = "none"').replace("seed", 'augmentation = "none"\nseed')
    config = read(text)
    assert (config.schedule.patience, config.augmentation) == (None, None)
    with pytest.raises(BadInput, match=r"\[schedule\] epochs must be a whole number, got 'none'"):
        read(SMALL.replace("epochs = 4", 'epochs = "none"'))


def test_lists_of_whole_numbers(read):
    stated = SMALL.replace("batch = 8", 'batch = 8\npatience = "none"\nsnapshots = [2, 0]')
    assert read(stated).schedule.snapshots == (2, 0)
    for wrong in ("[2, 0.5]", '["2"]', "2", "[true]"):
        with pytest.raises(BadInput, match=r"\[schedule\] snapshots must be a list of whole numbers, got"):
            read(stated.replace("[2, 0]", wrong))


def test_the_record_forgets_where_files_lie_and_nothing_else(read):
    here, there = read(SMALL).record(), read(SMALL.replace("lists/", "elsewhere/")).record()
    assert here == there
    assert here != read(SMALL.replace("batch = 8", "batch = 9")).record()
    assert here != read(SMALL.replace("[input]", 'positive = ["Krebs"]\n[input]')).record()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 3", "sead = 3", "there is no 'sead'; known at the top are seed, data, input"),
        ("[card]", "[crad]", "there is no 'crad'"),
        ("batch = 8", "bach = 8", r"\[schedule\] has no 'bach'; known are epochs, steps_per_epoch, batch"),
        ("batch = 8", "batch = 8.5", r"\[schedule\] batch must be a whole number, got 8.5"),
        ("batch = 8", "batch = true", r"\[schedule\] batch must be a whole number, got True"),
        ("batch = 8", "batch = 0", r"\[schedule\] expected batch at least 1, got 0"),
        ("batch = 8", "", r"\[schedule\] lacks batch"),
        ("mpp = 0.25", 'mpp = "0.25"', r"\[input\] mpp must be a number, got '0.25'"),
        ("mpp = 0.25", "mpp = 0", r"\[input\] expected mpp above 0, got 0"),
        ("mpp = 0.25", "mpp = 0.25\npatch = 500", "expected patch to be a multiple of 32 px, got 500"),
        ("mpp = 0.25", "mpp = 0.25\noffset = nan", "expected offset finite"),
        ("mpp = 0.25", "mpp = 0.25\nscale = inf", "expected scale finite"),
        ("offset = 0", "scale = 0", "scale not 0"),
        ("classes = 2", 'classes = "two"', "got 'two' and 'softmax'"),
        ("mpp = 0.25", 'mpp = 0.25\nstain = "macenco"', "expected stain to be none, macenko, reinhard or a"),
        ("seed = 3", "seed = -3", "expected seed of at least 0, got -3"),
        ("[card]", "[split]\nseed = -3\n[card]", r"\[split\] expected seed of at least 0, got -3"),
        ("seed = 3", "split = 3", r"\[split\] must be a section, got 3"),
        ("mine-v1", "Mine v1", r"\[card\] expected a name of lower-case letters"),
        ("manifest =", "images =", r"\[data\] expected manifest, or images, masks and mpp together"),
        ("[input]", "mpp = 0.5\n[input]", r"\[data\] expected manifest, or images, masks and mpp together"),
        ("[input]", 'classes = ["tumour"]\n[input]', r"\[data\] expected two classes"),
        ("[input]", 'classes = "tumour"\n[input]', r"\[data\] classes must be a list of texts, got 'tumour'"),
        ('name = "b"', 'name = "a"', "expected members of different names, got a, a"),
        ("clip_norm = 1.0", "clipnorm = 1.0", r"\[member.schedule\] of b has no 'clipnorm'"),
        ("clip_norm = 1.0", "batch = -1", r"\[member.schedule\] of b expected batch at least 1, got -1"),
        ('activation = "softmax"', 'activation = "linear"', r"\[\[member\]\] 2 expected config with classes = 1"),
        ("[card]", '[split]\nkind = "kfold"\n[card]', r"\[split\] expected kind to be one of single, k-fold, nested"),
        ("[card]", "[split]\ninner = 1\n[card]", "inner 0 or ≥ 2, got 5 and 1"),
        ("[card]", "[split]\nvalidation = 0.5\ntest = 0.5\n[card]", "leave cases to train on"),
        ("[card]", "[score]\nviews = 3\n[card]", r"\[score\] views must be 1, 2, 4 or 8, got 3"),
        ("[card]", "[score]\nthreshold = 0\n[card]", r"\[score\] threshold must be in"),
        ("[card]", "[augmentation]\nhue = -1\n[card]", r"\[augmentation\] .*hue"),
        ("[card]", "[sampling]\npositive_share = 2\n[card]", r"\[sampling\] expected positive_share"),
        ("[card]", "[card", "expected a training configuration in TOML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(read, old, new, message):
    assert old in SMALL
    with pytest.raises(BadInput, match=message) as caught:
        read(SMALL.replace(old, new, 1))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("my.toml")


def test_no_member_and_no_file(read, tmp_path):
    with pytest.raises(BadInput, match=r"expected at least one \[\[member\]\]"):
        read(SMALL.partition("[[member]]")[0])
    with pytest.raises(NotFound, match=r"none\.toml"):
        read_config(tmp_path / "none.toml")


def test_the_example_is_accepted_as_it_is(read):
    assert isinstance(read(example()), Config)


def test_the_example_states_every_setting_with_its_default(read):
    """Each commented line, uncommented, changes nothing; and no setting is missing."""
    plain = read(example())
    text, kept = [], True
    for line in example().splitlines():
        kept = kept and not re.match(r"# \[\[member\]\]", line)
        setting = re.match(r"# (\w+ = .*)", line) if kept else None
        contrary = setting and setting[1].startswith(("images", "masks", "mpp", "positive =", "negative =", "schedule"))
        text.append(setting[1] if setting and not contrary else line)
    full = read("\n".join(text))
    for name in ("input", "sampling", "augmentation", "schedule", "split", "score", "card"):
        here, there = dataclasses.asdict(getattr(plain, name)), dataclasses.asdict(getattr(full, name))
        assert here == {key: pytest.approx(value, rel=1e-3) if type(value) is float else value
                        for key, value in there.items()}, name  # fmt: skip
        stated = {key for key in here if re.search(rf"^(# )?{key} = ", example(), re.M)}
        ours = {"mpp", "patch_px", "patches_per_epoch"} if name == "sampling" else set()
        assert set(here) - stated - ours == set(), name


def test_an_encoder_gets_the_scaling_of_its_card_unless_the_file_states_one(tmp_path):
    def scaling(stated: str, member: str):
        path = tmp_path / "c.toml"
        path.write_text(
            f'[data]\nmanifest = "m.csv"\n[input]\nmpp = 0.5\n{stated}\n[schedule]\nepochs = 1\nsteps_per_epoch = 1\n'
            f'batch = 2\npatience = "none"\n[split]\nkind = "single"\n[card]\nname = "a-b"\ntask = "t"\n'
            f'[[member]]\nname = "m"\nnetwork = "unet"\n{member}\n'
        )
        settings = read_config(path)
        return settings.scaling_of(settings.members[0])

    encoder = 'encoder = "imagenet-densenet121"'
    per_channel = pytest.approx([1 / (255 * sd) for sd in (0.229, 0.224, 0.225)], rel=1e-6)
    scale, offset = scaling("", encoder)
    assert list(scale) == per_channel
    assert list(offset) == pytest.approx([-m / sd for m, sd in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))])
    assert scaling("", "") == (1 / 127.5, -1.0)
    assert scaling("scale = 0.5", encoder) == (0.5, -1.0)
    assert scaling("", f"{encoder}\nscale = [1, 2, 3]\noffset = 0") == ((1.0, 2.0, 3.0), 0.0)
    with pytest.raises(BadInput, match=r"scale must be a number or a list of three, got \[1, 2\]"):
        scaling("scale = [1, 2]", encoder)
