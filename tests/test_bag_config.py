"""The TOML of a training by bags: every setting arrives, nothing misspelt passes; what slides cannot show is told."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path

import made_up_bags
import numpy as np
import pytest
from PIL import Image

from digipath.cli import main
from digipath.errors import BadInput, NotFound, ResolutionTooLow, UnknownWeights
from digipath.slide import Slide, open_slide
from digipath.slide_stain import reference
from digipath.stain import REFERENCES, StainReference
from digipath.synthetic import write_slide
from digipath.tile_augment import COLOUR_JITTER, TileAugmentation
from digipath.tiling import TileRule, plan_tiles
from digipath.training.bag_cards import ensemble_card, network_card
from digipath.training.bag_config import (
    GIVEN,
    BagNetworkSettings,
    BagSettings,
    Choosing,
    bag_example,
    mpp_name,
    read_bag_config,
)
from digipath.training.bag_plan import BagPlan, plan_bags, prepare_bags, survey
from digipath.training.bag_results import Chosen
from digipath.training.grading_config import TileSplit, tile_example
from digipath.training.manifest import Manifest, TrainingCase
from digipath.training.schedule import Schedule
from digipath.training.splits import Split
from digipath.weights import load_card

SMALL = """
task = "bags"
seed = 3
[data]
manifest = "lists/cases.csv"
classes = ["grade 2", "grade 3", "grade 4"]
[card]
name = "mine-v1"
task = "glioma grading"
"""


@pytest.fixture
def read(tmp_path):
    def from_text(text, **options):
        (tmp_path / "my.toml").write_text(text, encoding="utf-8")
        return read_bag_config(tmp_path / "my.toml", **options)

    return from_text


def test_what_is_not_written_is_what_lerousseau_did(read, tmp_path):
    config = read(SMALL)
    assert config.data.manifest == tmp_path / "lists" / "cases.csv"
    bags = config.bags
    assert (bags.mpps, bags.crop, bags.drawn, bags.bag, bags.groups) == ((0.25, 0.5, 1, 2, 4), 224, 50, 200, 1)
    assert bags.augment
    assert bags.rule(2.0) == TileRule(2.0, 512, 0.25, "white-tiles")
    network = config.network
    assert (network.embedder, network.pooling, network.dropout, network.scaling) == (
        "efficientnet-b0", "max-mean", 0.5, "training",
    )  # fmt: skip
    schedule = config.schedule
    assert (schedule.optimiser, schedule.learning_rate, schedule.epochs, schedule.batch) == ("adam", 5e-5, 50, 4)
    assert (schedule.decay, schedule.frozen_epochs, schedule.patience, schedule.keep) == ("none", 0, None, "last")
    assert schedule.snapshots == (0, 10)
    assert config.augmentation == COLOUR_JITTER
    assert (config.ensemble.drop, config.ensemble.measure) == (2, "macro_auroc")
    assert config.seed == 3
    assert read(SMALL, seed=11).seed == 11


def test_the_example_shows_the_defaults(read):
    """Read as it stands, and again with all that is commented out."""
    example = bag_example()
    shown = re.sub(r"^# (\w+ = )", r"\1", example, flags=re.MULTILINE)
    shown = re.sub(r"^(folder|mpp) = .*$", "", shown, flags=re.MULTILINE)
    assert shown != example
    assert read(shown) == read(example)


@pytest.mark.parametrize("example", [bag_example(), tile_example()])
def test_comments_of_settings_stand_in_one_column(example):
    settings = [line for line in example.splitlines() if re.match(r"(# )?\w+ = .* # ", line)]
    assert {line.index(" # ", 2) + 1 for line in settings} == {33, 46}  # the classes' is longer


@pytest.mark.parametrize("kind", [BagSettings, BagNetworkSettings, Choosing, Schedule, TileSplit, TileAugmentation])
def test_the_example_has_every_setting(kind):
    for field in dataclasses.fields(kind):
        if field.name not in GIVEN:
            assert re.search(rf"^(# )?{field.name} = ", bag_example(), flags=re.MULTILINE), field.name


WRONG = {
    '[bags]\nmpp = 0.5\n': "[bags] has no 'mpp'; known are mpps",
    '[bags]\nmpps = []\n': "[bags] expected one or more different mpps, got []",
    '[bags]\nmpps = [0.5, 0.5]\n': "different mpps, got [0.5, 0.5]",
    '[bags]\nmpps = [0]\n': "[bags] expected mpp above 0",
    '[bags]\ncrop = 600\n': "[bags] expected crop from 1 to 512 px, the side of a tile, got 600",
    '[bags]\nbag = 0\n': "[bags] expected bag of at least 1, got 0",
    '[bags]\ngroups = 0\n': "[bags] expected groups of at least 1, got 0",
    '[bags]\ntissue = "white"\n': "[bags] expected tissue to be one of auto, all, white-tiles, got 'white'",
    '[bags]\nstain = "macenco"\n': "[bags] expected stain to be none, macenko, reinhard or a picture or slide",
    '[bags]\nleast_tissue = 0.0\n': "[bags] expected a share of tissue in (0, 1]",
    '[network]\nscaling = "mean"\n': "[network] expected scaling to be one of training, encoder, got 'mean'",
    '[network]\nscaling = "encoder"\n': '[network] expected an encoder, whose card states the scaling',
    '[network]\nremat = true\nfrozen = true\n': "[network] expected remat or frozen, not both",
    '[network]\nviews = 0\n': "[network] expected views of at least 1, got 0",
    '[schedule]\npatience = 3\n': "[schedule] has no 'patience'",
    '[schedule]\nsteps_per_epoch = 3\n': "[schedule] has no 'steps_per_epoch'",
    '[schedule]\nepochs = 5\n': "[schedule] expected snapshots from 0 up to 4 epochs before the last, got [10]",
    '[schedule]\nsnapshots = []\n': "[schedule] expected snapshots, numbers of epochs before the last",
    '[ensemble]\ndrop = 10\n': (
        "[ensemble] expected drop below 10, the snapshots of all mpps together, got 10; drop = 0 keeps them all"
    ),
    '[ensemble]\nmeasure = "kappa"\n': "[ensemble] expected measure to be one of macro_auroc, balanced_accuracy",
    '[augmentation]\npreset = "jitter"\n': "[augmentation] expected preset to be one of geometric",
    '[augmentation]\nhue = 2\n': "[augmentation] augmentation: hue × magnitude must be in [0, 0.5], got 2",
    '[sampling]\nx = 1\n': "there is no 'sampling'",
    '[augmentation]\npreset = "none"\nhue = 0.1\n': '[augmentation] expected no numbers with preset = "none"',
}  # fmt: skip


@pytest.mark.parametrize("added", WRONG)
def test_what_is_wrong_is_told_in_a_line_that_names_the_file(read, tmp_path, added):
    with pytest.raises(BadInput, match=re.escape(WRONG[added])) as error:
        read(SMALL + added)
    assert str(error.value).endswith(f": {tmp_path / 'my.toml'}")
    assert "\n" not in str(error.value)


def test_a_network_of_one_s_own_keeps_its_scaling_and_imagenet_gets_the_training_set_s_unless_the_file_says(read):
    def scaling(encoder, said=""):
        return read(SMALL + f'[network]\nencoder = "{encoder}"\n{said}\n').network.scaling

    assert scaling("none") == "training"
    assert scaling("glioma-tiles-demo-v1") == "encoder"
    assert scaling("glioma-tiles-demo-v1", 'scaling = "training"') == "training"
    assert scaling("imagenet-efficientnetb0") == "training"
    assert scaling("imagenet-efficientnetb0", 'scaling = "encoder"') == "encoder"
    with pytest.raises(UnknownWeights, match=r"no weights called 'nonsense'.*my\.toml"):
        scaling("nonsense")


def test_outlines_have_no_setting(read):
    with pytest.raises(BadInput, match=r"\[data\] has no 'least_label'"):
        read(SMALL.replace("[data]", "[data]\nleast_label = 0.5"))


def test_one_stain_for_all_magnifications_read_at_the_finest(read, tmp_path):
    def with_stain(stain):
        return read(SMALL + f'[bags]\nmpps = [1, 0.5]\nstain = "{stain}"\n')

    assert read(SMALL).stain is None is with_stain("none").stain
    assert with_stain("macenko").stain == REFERENCES["macenko"]
    tissue = write_slide(tmp_path / "tissue.tiff", (1200, 1000), mpp=0.25, tile=256)
    config = with_stain("tissue.tiff")
    assert config.stain == reference(tissue.path, mpp=0.5) != reference(tissue.path, mpp=1.0)
    assert config.record()["bags"]["stain"] == config.stain.to_record()
    tissue.path.rename(tmp_path / "moved.tiff")
    assert with_stain("moved.tiff").record() == config.record()  # its stain counts, not its place
    slides = SMALL.replace('manifest = "lists/cases.csv"', 'folder = "slides"\nmpp = 0.5')
    assert read(slides + '[bags]\nstain = "macenko"\n').stain == REFERENCES["macenko"]  # each image is a slide


def test_the_cards_of_all_magnifications_and_of_their_ensemble_state_the_stain(read):
    classes = ("grade 2", "grade 3", "grade 4")
    config = read(SMALL + '[bags]\nmpps = [0.5, 1]\nstain = "reinhard"\n')
    cases = tuple(TrainingCase(f"{n}", Path(f"{n}.tiff"), None, f"p{n}", label=classes[n % 3]) for n in range(9))
    split = Split("holdout", cases[:3], cases[3:6], cases[6:])
    plan = BagPlan(config, Manifest(Path("cases.csv"), cases, classes, "ab" * 32), split, plan_bags(config), 1)
    about = dict.fromkeys(("epochs", "minutes", "encoder", "versions", "class_weights"))
    file = {"epoch": 50, "bytes": 10, "sha256": "0" * 64}
    records = {
        run.name: {**about, "snapshots": {one.name: file for one in run.snapshots}, "schedule": {}, "scale": 1.0,
                   "offset": 0.0} for run in plan.runs
    }  # fmt: skip
    cards = [network_card(plan, run, run.snapshots[0], records[run.name]) for run in plan.runs]
    cards.append(ensemble_card(plan, Chosen({}, ("mpp-0-5-last", "mpp-1-last")), records, metrics=()))
    for card in cards:
        assert StainReference.from_record(card["input"]["stain"]) == REFERENCES["reinhard"]
    assert cards[0]["training"]["settings"]["bags"]["stain"] == REFERENCES["reinhard"].to_record()


def test_another_task_or_no_file(read, tmp_path):
    with pytest.raises(BadInput, match='expected task = "bags", got \'tiles\''):
        read(SMALL.replace('"bags"', '"tiles"'))
    with pytest.raises(NotFound):
        read_bag_config(tmp_path / "none.toml")


def test_names_of_magnifications_are_names_of_cards():
    assert [mpp_name(mpp) for mpp in (0.25, 0.5, 1.0, 2.0, 4.0)] == ["mpp-0-25", "mpp-0-5", "mpp-1", "mpp-2", "mpp-4"]


def test_each_magnification_is_a_run_with_its_own_seed_and_snapshots(read):
    runs = plan_bags(read(SMALL))
    assert [run.mpp for run in runs] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert [snapshot.name for snapshot in runs[1].snapshots] == ["mpp-0-5-last", "mpp-0-5-minus-10"]
    assert [run.seed for run in runs] == [3_000_000, 3_000_001, 3_000_002, 3_000_003, 3_000_004]


@pytest.fixture
def cases(tmp_path):
    return made_up_bags.write_cases(tmp_path / "cases")


def changed(folder, name, row_of):
    """The manifest with rows changed by `row_of`, None leaving one out."""
    with (folder / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [row for row in map(row_of, rows) if row is not None]
    with (folder / name).open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    config = made_up_bags.write_config(folder, "my.toml")
    config.write_text(config.read_text().replace("cases.csv", name))
    return config


@pytest.mark.keras
def test_the_plan_counts_tiles_at_every_magnification(cases):
    plan = prepare_bags(made_up_bags.write_config(cases, "my.toml"))
    cells = survey(plan)
    assert {mpp: {len(own) for own in of.values()} for mpp, of in cells.items()} == {0.5: {16}, 1.0: {4}}
    lines = plan.lines(cells)
    assert "train: 6 slides of 6 patients: 2 of grade 2, 2 of grade 3, 2 of grade 4" in lines
    assert "channels scaled by mean and deviation of the training tiles, at each magnification" in lines
    assert "mpp-1: 60 tiles, 4 to 4 on a slide; mpp-1-last and mpp-1-minus-1" in lines
    assert lines[-1].startswith("shipped as dots-v1: the mean of 3, the 1 of lowest macro_auroc")
    assert plan.schedule.steps_per_epoch == 2  # 6 slides, 3 at once


@pytest.mark.keras
def test_every_slide_is_looked_at_once_and_what_was_found_is_kept(cases, tmp_path, monkeypatch):
    plan = prepare_bags(made_up_bags.write_config(cases, "my.toml"))
    looked, overview = [], Slide.overview
    monkeypatch.setattr(Slide, "overview", lambda slide, **sizes: looked.append(slide.path) or overview(slide, **sizes))
    reports = []
    found = survey(plan, kept=tmp_path / "tiles.npz", progress=reports.append)
    assert sorted(looked) == sorted(case.slide for case in plan.manifest.cases)
    assert reports[-1].message == "looking for tiles: 300 tiles found"
    one = plan.manifest.cases[0]
    for mpp in (0.5, 1.0):
        with open_slide(one.slide, mpp=one.mpp) as slide:
            cells = plan_tiles(slide, plan.config.bags.rule(mpp)).tiles.cells
        assert found[mpp][one.name] == tuple(map(tuple, cells.tolist()))
    looked.clear()
    assert survey(plan, kept=tmp_path / "tiles.npz") == found
    assert looked == []
    (tmp_path / "tiles.npz").write_bytes(b"damaged")
    with pytest.raises(BadInput, match=r"kept tiles of slides are damaged .*tiles\.npz"):
        survey(plan, kept=tmp_path / "tiles.npz")


@pytest.mark.keras
def test_a_slide_too_coarse_for_the_finest_says_which_remain(cases):
    coarse = changed(cases, "coarse.csv", lambda row: {**row, "mpp": "1.5"} if row["slide"] == "train000.png" else row)
    with pytest.raises(ResolutionTooLow, match=r"1\.5 µm/px.*mpps = \[1\.0\] remain for all slides"):
        prepare_bags(coarse)
    coarse = changed(cases, "coarse.csv", lambda row: {**row, "mpp": "9"} if row["slide"] == "train000.png" else row)
    with pytest.raises(ResolutionTooLow, match="no mpps remain for all slides"):
        prepare_bags(coarse)


@pytest.mark.keras
def test_a_slide_without_tiles_at_a_magnification(cases):
    white = np.full((256, 256, 3), 240, np.uint8)
    white[:64, :64] = made_up_bags.tissue(64, 0, 1)  # one tile of 16 at 0.5 µm/px, a quarter of a tile at 1
    white[:64, 60:64] = 240
    Image.fromarray(white).save(cases / "train000.png")
    plan = prepare_bags(made_up_bags.write_config(cases, "my.toml"))
    with pytest.raises(BadInput, match=r"tiles on every slide at 1 µm/px, 1 of 15 have none; .* leave 1 out of mpps"):
        survey(plan)


@pytest.mark.keras
def test_a_class_absent_in_a_part(cases):
    lacking = changed(
        cases, "lacking.csv", lambda row: None if (row["fold"], row["label"]) == ("validation", "grade 3") else row
    )
    with pytest.raises(BadInput, match="label 'grade 3' in every part, validation has none"):
        prepare_bags(lacking)


@pytest.mark.keras
def test_what_the_network_refuses_is_told_as_its_section(cases):
    config = made_up_bags.write_config(cases, "my.toml", network='pooling = "mean"')
    with pytest.raises(BadInput, match=r"\[network\] expected a pooling among max-mean, gated-attention, got 'mean'"):
        prepare_bags(config)
    config = made_up_bags.write_config(cases, "my.toml")
    config.write_text(config.read_text().replace('"resnet18"', '"resnet19"'))
    with pytest.raises(BadInput, match=r"\[network\] .*resnet19"):
        prepare_bags(config)


def test_the_command_prints_the_example(capsys):
    assert main(["train", "--example", "bags"]) == 0
    assert capsys.readouterr().out == bag_example()


@pytest.mark.keras
def test_of_two_classes_the_higher_is_the_positive_one_of_a_card(cases, tmp_path):
    config = changed(cases, "two.csv", lambda row: None if row["label"] == "grade 2" else row)
    config.write_text(config.read_text().replace('"grade 2", "grade 3", "grade 4"', '"grade 3", "grade 4"'))
    plan = prepare_bags(config)
    run = plan.runs[0]
    file = {"name": "mpp-0-5-last", "epoch": 2, "bytes": 10, "sha256": "0" * 64}
    about = dict.fromkeys(("epochs", "minutes", "encoder", "versions", "class_weights"))
    trained = {**about, "snapshots": {"mpp-0-5-last": file}, "schedule": {}, "scale": [1, 1, 1], "offset": [0, 0, 0]}
    record = network_card(plan, run, run.snapshots[0], trained)
    (tmp_path / f"{record['name']}.json").write_text(json.dumps(record))
    card = load_card(str(tmp_path / f"{record['name']}.json"))
    assert (card.classes, card.record["positive"], card.output) == (("grade 3", "grade 4"), "grade 4", "bag")
