"""The TOML of a training of tile classifiers: every setting arrives, and nothing misspelt passes."""

from __future__ import annotations

import dataclasses
import re

import pytest

from digipath.errors import BadInput, NotFound, UnknownWeights
from digipath.slide_stain import reference
from digipath.stain import REFERENCES
from digipath.synthetic import write_slide
from digipath.tile_augment import GEOMETRIC, GEOMETRIC_AND_PHOTOMETRIC
from digipath.tiling import TileRule
from digipath.training.grading_config import (
    DERIVED,
    Network,
    TileConfig,
    TileSettings,
    TileSplit,
    read_tile_config,
    task_of,
    tile_example,
)

SMALL = """
task = "tiles"
seed = 3
[data]
manifest = "lists/cases.csv"
classes = ["grade 2", "grade 3", "grade 4"]
[card]
name = "mine-v1"
task = "glioma grading"
"""
VARIANT = """
[[variant]]
name = "large-batches"
[variant.schedule]
batch = 32
[variant.augmentation]
magnitude = 0.5
[variant.network]
config = { shrink = 2 }
"""


@pytest.fixture
def read(tmp_path):
    def from_text(text, **options):
        (tmp_path / "my.toml").write_text(text, encoding="utf-8")
        return read_tile_config(tmp_path / "my.toml", **options)

    return from_text


def test_what_is_not_written_is_what_truong_did(read, tmp_path):
    config = read(SMALL)
    assert config.data.manifest == tmp_path / "lists" / "cases.csv"
    assert config.tiles.rule == TileRule(0.5, 1024, 0.9, "auto")
    assert (config.tiles.per_class, config.tiles.shares) == (None, (0.6, 0.2, 0.2))
    assert (round(1123 * config.split.validation), round(1123 * config.split.test)) == (201, 115)
    (arm,) = config.arms
    assert (arm.name, arm.network, arm.augmentation) == ("base", Network(), GEOMETRIC)
    schedule = arm.schedule
    assert (schedule.optimiser, schedule.momentum, schedule.batch, schedule.keep) == ("sgd", 0.0, 4, "accuracy")
    assert (schedule.decay, schedule.frozen_epochs, schedule.patience) == ("none", 0, 5)
    assert (config.schemes, config.repeats, config.seed) == (("three-class",), 1, 3)
    assert read(SMALL, seed=11).seed == 11


def test_a_variant_says_only_what_differs(read):
    config = read(SMALL + '[schedule]\nlearning_rate = 0.1\n[network]\noffset = 0\n' + VARIANT)
    base, variant = config.arms
    assert variant.name == "large-batches"
    assert variant.schedule == dataclasses.replace(base.schedule, batch=32)
    assert variant.schedule.learning_rate == 0.1
    assert variant.augmentation == dataclasses.replace(GEOMETRIC, magnitude=0.5)
    assert variant.network == dataclasses.replace(base.network, config={"shrink": 2})
    assert variant.network.offset == 0.0


def test_a_preset_begins_anew_and_numbers_change_it(read):
    text = SMALL + '[augmentation]\nshear_degrees = 5\n[[variant]]\nname = "{0}"\n[variant.augmentation]\n{1}\n'
    base, colour = read(text.format("colour", 'preset = "geometric+photometric"\nhue = 0.1')).arms
    assert base.augmentation == dataclasses.replace(GEOMETRIC, shear_degrees=5.0)
    assert colour.augmentation == dataclasses.replace(GEOMETRIC_AND_PHOTOMETRIC, hue=0.1)
    _, wider = read(text.format("wider", "scale = [0.5, 2]")).arms
    assert wider.augmentation == dataclasses.replace(GEOMETRIC, shear_degrees=5.0, scale=(0.5, 2.0))
    assert read(text.format("plain", 'preset = "none"')).arms[1].augmentation is None


def test_the_record_forgets_where_files_lie_and_nothing_else(read):
    here, there = read(SMALL).record(), read(SMALL.replace("lists/", "elsewhere/")).record()
    assert here == there
    assert here != read(SMALL + "[tiles]\nper_class = 7\n").record()
    assert here != read(SMALL.replace("[card]", "least_label = 0.8\n[card]")).record()
    assert here != read(SMALL + VARIANT).record()


def test_stain_by_name_or_by_a_picture(read, tmp_path):
    def with_stain(stain):
        return read(SMALL + f'[tiles]\nmpp = 0.25\nstain = "{stain}"\n')

    assert read(SMALL).stain is None is with_stain("none").stain
    assert with_stain("reinhard").stain == REFERENCES["reinhard"]
    assert with_stain("reinhard").record()["tiles"]["stain"] == REFERENCES["reinhard"].to_record()
    tissue = write_slide(tmp_path / "tissue.tiff", (600, 500), mpp=0.25, tile=256)
    config = with_stain("tissue.tiff")
    assert config.stain == reference(tissue.path, mpp=0.25) != REFERENCES["macenko"]
    tissue.path.rename(tmp_path / "moved.tiff")
    assert with_stain("moved.tiff").record() == config.record()  # its stain counts, not its place


def test_a_folder_of_tiles_has_no_stain(read):
    text = SMALL.replace('manifest = "lists/cases.csv"', 'folder = "tiles"\nmpp = 0.5') + "[tiles]\n{}\n"
    assert read(text.format('stain = "none"')).stain is None
    with pytest.raises(BadInput, match=r"\[tiles\] a stain is fitted on a slide, not on a folder of tiles") as caught:
        read(text.format('stain = "macenko"'))
    assert "\n" not in str(caught.value)


def test_an_encoder_gets_the_scaling_of_its_card_unless_the_file_states_one(read):
    text = SMALL + '[network]\nencoder = "imagenet-resnet18-torchvision"\n'
    per_channel = pytest.approx([1 / (255 * sd) for sd in (0.229, 0.224, 0.225)], rel=1e-6)
    network = read(text).arms[0].network
    assert list(network.scale) == per_channel
    assert list(network.offset) == pytest.approx([-m / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))])
    assert read(text + "scale = 0.5\n").arms[0].network.scale == 0.5
    variant = '[[variant]]\nname = "v"\n[variant.network]\nencoder = "none"\n'
    assert read(text + variant).arms[1].network.scale == 1 / 127.5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('task = "tiles"', "", 'expected task = "tiles", got None'),
        ("seed = 3", "sead = 3", "there is no 'sead'; known at the top are task, seed, repeats, schemes, data"),
        ("seed = 3", "seed = -3", "expected seed of at least 0, got -3"),
        ("seed = 3", "repeats = 0", "expected repeats of at least 1, got 0"),
        ("seed = 3", 'repeats = "two"', "repeats must be a whole number, got 'two'"),
        ("seed = 3", "schemes = []", "expected schemes among three-class, modular, each once"),
        ("seed = 3", 'schemes = ["two-class"]', r"each once, got \['two-class'\]"),
        ("seed = 3", 'schemes = "modular"', "schemes must be a list of texts, got 'modular'"),
        ("seed = 3", "variant = 3", r"expected \[\[variant\]\] in double brackets"),
        ("manifest =", "folder =", r"\[data\] expected manifest, or folder and mpp together"),
        ("[card]", "mpp = 0.5\n[card]", r"\[data\] expected manifest, or folder and mpp together"),
        ("[card]", "least_label = 0\n[card]", r"\[data\] expected least_label in \(0, 1\], got 0"),
        ('"grade 3", "grade 4"', '"grade 2"', r"\[data\] expected two or more different classes in rising order"),
        ("classes", "x_classes", r"\[data\] has no 'x_classes'"),
        ("[card]", "[tiles]\nper_class = 0\n[card]", r"\[tiles\] expected per_class of at least 1, or none, got 0"),
        ("[card]", "[tiles]\nshares = [0.6, 0.2, 0.1]\n[card]", r"\[tiles\] expected shares above 0 that sum to 1"),
        ("[card]", "[tiles]\nshares = [0.6, 0.4]\n[card]", r"\[tiles\] shares must be .* list of three"),
        ("[card]", '[tiles]\ntissue = "mask.png"\n[card]', r"\[tiles\] expected tissue to be one of auto, all"),
        ("[card]", '[tiles]\nstain = "macenco"\n[card]', r"\[tiles\] expected stain to be none, macenko, reinhard"),
        ("[card]", "[tiles]\nstain = 1\n[card]", r"\[tiles\] stain must be a text"),
        ("[card]", "[tiles]\nleast_tissue = 90\n[card]", r"\[tiles\] expected a share of tissue in \(0, 1\]"),
        ("[card]", "[split]\ntest = 0\n[card]", r"\[split\] expected shares above 0 that leave cases to train on"),
        ("[card]", "[split]\nkind = 1\n[card]", r"\[split\] has no 'kind'; known are validation, test, seed"),
        ("[card]", "[schedule]\nsteps_per_epoch = 3\n[card]", r"\[schedule\] has no 'steps_per_epoch'"),
        ("[card]", '[schedule]\nkeep = "best"\n[card]', r"\[schedule\] expected keep one of loss, accuracy, last"),
        ("[card]", "[network]\nconfig = { classes = 3 }\n[card]", r"\[network\] expected config without classes"),
        ("[card]", "[network]\nscale = 0\n[card]", r"\[network\] expected scale finite, and scale not 0"),
        ("[card]", '[network]\nencoder = "nonsense"\n[card]', "no weights called 'nonsense'"),
        ("[card]", '[network]\nencoder = "lymphnode-pn-forest-v1"\n[card]', "of images, .* of tables"),
        ("[card]", '[augmentation]\npreset = "photo"\n[card]', r"\[augmentation\] expected preset to be one of geo"),
        ("[card]", "[augmentation]\nscale = [1]\n[card]", r"\[augmentation\] scale must be a list of two numbers"),
        ("[card]", "[augmentation]\nscale = [2, 1]\n[card]", r"\[augmentation\] .*scale must be a range from low"),
        ("[card]", '[augmentation]\npreset = "none"\nhue = 0.1\n[card]', r"\[augmentation\] expected no numbers with"),
        ("[card]", '[[variant]]\nname = "base"\n[variant.schedule]\nbatch = 8\n[card]', "none called base, got base"),
        ("[card]", '[[variant]]\nname = "a"\n[card]', r"\[\[variant\]\] 1 expected what differs, in \[variant"),
        ("[card]", "[[variant]]\n[variant.schedule]\nbatch = 8\n[card]", r"\[\[variant\]\] 1 expected a name of lower"),
        ("[card]", '[[variant]]\nname = "a"\n[variant.schedule]\nbach = 8\n[card]', r"\[variant.schedule\] of a has"),
        ("[card]", '[[variant]]\nname = "a"\n[variant.tiles]\ntile = 8\n[card]', r"\[\[variant\]\] 1 has no 'tiles'"),
        ("mine-v1", "Mine v1", r"\[card\] expected a name of lower-case letters"),
        ("[card]", "[card]\nreadouts = []", r"\[card\] has no 'readouts'"),
        ("[card]", "[card", "expected a training configuration in TOML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(read, old, new, message):
    assert old in SMALL
    with pytest.raises((BadInput, UnknownWeights), match=message) as caught:
        read(SMALL.replace(old, new, 1))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("my.toml")


def test_two_classes_leave_nothing_to_part_in_turn(read):
    two = SMALL.replace('"grade 2", ', "")
    assert read(two).schemes == ("three-class",)
    with pytest.raises(BadInput, match="expected three or more classes for the scheme modular"):
        read(two.replace("seed = 3", 'schemes = ["modular"]'))


def test_which_task_a_file_is_for(tmp_path):
    path = tmp_path / "my.toml"
    for text, task in ((SMALL, "tiles"), ("[data]\n", None)):
        path.write_text(text)
        assert task_of(path) == task
    path.write_text('task = "tile"')
    with pytest.raises(BadInput, match=r'expected task = "tiles", or none for a segmentation, got .*my\.toml'):
        task_of(path)
    with pytest.raises(NotFound, match=r"none\.toml"):
        task_of(tmp_path / "none.toml")


def test_the_example_is_accepted_and_states_every_setting_with_its_default(read):
    """Each commented line, uncommented, changes nothing; and no setting is missing."""
    plain = read(tile_example())
    assert isinstance(plain, TileConfig)
    text, kept = [], True
    for line in tile_example().splitlines():
        kept = kept and not re.match(r"# \[\[variant\]\]", line)
        setting = re.match(r"# (\w+ = .*)", line) if kept else None
        contrary = setting and (setting[1].startswith("folder") or "of those images" in line)
        text.append(setting[1] if setting and not contrary else line)
    full = read("\n".join(text))
    for name, kind in (("tiles", TileSettings), ("split", TileSplit), ("data", None), ("card", None)):
        here, there = dataclasses.asdict(getattr(plain, name)), dataclasses.asdict(getattr(full, name))
        assert here == {key: pytest.approx(value, rel=1e-6) if type(value) is float else value
                        for key, value in there.items()}, name  # fmt: skip
        assert kind is None or getattr(plain, name) == kind()
    (one,), (other,) = plain.arms, full.arms
    assert (one.schedule, one.augmentation) == (other.schedule, other.augmentation)
    assert one.network == dataclasses.replace(other.network, scale=1 / 127.5)
    assert (plain.repeats, plain.schemes) == (full.repeats, full.schemes)
    parts = (plain.data, plain.tiles, plain.split, plain.card, one.network, one.schedule, one.augmentation)
    settings = {field.name for part in parts for field in dataclasses.fields(part)} - {*DERIVED, "readouts"}
    assert {name for name in settings if not re.search(rf"^(# )?{name} = ", tile_example(), re.M)} == set()


def test_the_variants_of_the_example_are_accepted(read):
    text, variants = tile_example().split("# [[variant]]", 1)
    arms = read(text + re.sub(r"^# ", "", "[[variant]]" + variants, flags=re.M)).arms
    assert [arm.name for arm in arms] == ["base", "batch-32", "photometric", "magnitude-2"]
    assert arms[1].schedule.batch == 32
    assert arms[2].augmentation == GEOMETRIC_AND_PHOTOMETRIC
    assert arms[3].augmentation == dataclasses.replace(arms[0].augmentation, magnitude=2.0)
