"""From tiles and slides to cards of tile classifiers: small networks, few tiles, everything real."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import digipath
from digipath.cli import main
from digipath.errors import BadInput, Cancelled, CaseDiffers
from digipath.grading import tile_networks
from digipath.stain import REFERENCES
from digipath.synthetic import write_slide
from digipath.training import tile_source
from digipath.training.grading_config import tile_example
from digipath.training.grading_results import ALL, REST, TILE, TOP, Answers
from digipath.training.tile_source import TileSource
from digipath.weights import load_card

CLASSES = ("grade 2", "grade 3", "grade 4")
CONFIG = """
task = "tiles"
schemes = ["modular", "three-class"]
[data]
folder = "tiles"
mpp = 0.5
classes = ["grade 2", "grade 3", "grade 4"]
[tiles]
tile = 64
[split]
validation = 0.2
test = 0.2
[network]
config = { widths = [4, 8, 8, 8] }
[schedule]
epochs = 2
batch = 6
learning_rate = 0.05
[card]
name = "dots-v1"
task = "counting dots"
"""


def dots(rng, count):
    """A pink tile of 64 px with so many purple squares."""
    image = np.full((64, 64, 3), (220, 170, 200)) + rng.integers(-15, 15, (64, 64, 3))
    for row, column in rng.integers(0, 58, (count, 2)):
        image[row : row + 6, column : column + 6] = (90, 50, 130)
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten tiles of each of three classes in folders, and a configuration."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / "tiles" / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(dots(rng, 2 + 12 * label)).save(folder / "tiles" / name / f"{number}.png")
    (folder / "my.toml").write_text(CONFIG)
    return folder


def edited(data, name, *changes):
    text = (data / "my.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (data / name).write_text(text)
    return data / name


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def untouched(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", "state.json")}


# ---- before anything is trained ----


@pytest.fixture
def run(data, monkeypatch, capfd):
    """Run a command where the data are; returns (exit code, output, error lines)."""
    monkeypatch.chdir(data)

    def command(*words):
        code = main([str(word) for word in words])
        seen = capfd.readouterr()
        return code, seen.out, seen.err.splitlines()

    return command


def test_the_example_is_printed(run):
    assert run("train", "--example", "tiles") == (0, tile_example(), [])


@pytest.mark.keras
def test_dry_run_looks_at_all_slides_prints_the_plan_and_writes_nothing(run, data):
    before = sorted(data.iterdir())
    code, out, err = run("train", "--config", "my.toml", "--out", "out", "--dry-run")
    assert (code, err, sorted(data.iterdir())) == (0, [], before)
    tiles = "{0} tiles of grade 2, {0} tiles of grade 3, {0} tiles of grade 4"
    lines = out.splitlines()
    assert lines[:5] == [
        "30 slides of 30 patients: tiles",
        f"train: 18 slides of 18 patients; {tiles.format(6)}",
        f"validation: 6 slides of 6 patients; {tiles.format(2)}",
        f"test: 6 slides of 6 patients; {tiles.format(2)}",
        "base: resnet18, random weights; sgd, batch 6, up to 2 epochs",
    ]
    assert [line.partition(";")[0] for line in lines[5:]] == [
        "base-modular-1-top: not grade 4 / grade 4",
        "base-modular-1-rest: grade 2 / grade 3",
        "base-three-class-1: grade 2 / grade 3 / grade 4",
        "shipped as dots-v1: base-modular-1",
    ]
    assert [line.rpartition(", ")[2] for line in lines[5:8]] == [f"{n} tiles an epoch" for n in (18, 12, 18)]
    code, out, _ = run("train", "--config", "my.toml", "--dry-run", "--json")
    assert json.loads(out)["plan"] == lines


@pytest.mark.keras
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('task = "tiles"', 'task = "tile"', 'expected task = "tiles", or none for a segmentation'),
        ("mpp = 0.5", "mpp = 2.0", "expected at most 1 µm/px to read it at 0.5 µm/px"),
        ('"tiles"\nmpp', '"nowhere"\nmpp', "nowhere"),
        ('"grade 4"]', '"grade 5"]', "expected folders called like the classes"),
        ("[tiles]\n", "[tiles]\nshares = [0.01, 0.98, 0.01]\nper_class = 0\n", "expected per_class of at least 1"),
        ("tile = 64", "tile = 16", "[network] of base: expected a patch of at least 32 px, got 16"),
        ("widths", "wdths", "[network] of base: network 'resnet18' has no setting wdths"),
        ("[network]\n", '[network]\nname = "unet"\n', "[network] of base: "),
        ("config = { widths = [4, 8, 8, 8] }", 'name = "unet-small"', "tiles, unet-small answers (None, 64, 64, 2)"),
        ("[network]\n", '[network]\nencoder = "digipathai-breast"\n', "of kind ensemble"),
        ("validation = 0.2", "validation = 0.95\nseed = 2", "leave cases to train on"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(run, data, old, new, message):
    edited(data, "wrong.toml", (old, new))
    code, out, err = run("train", "--config", "wrong.toml", "--out", "out")
    assert (code, out, len(err)) == (2, "", 1), err
    assert err[0].startswith("digipath: ")
    assert message in err[0]
    assert not (data / "out").exists()


# ---- training ----


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A modular pair and one network, stopped three times on the way, twice while one was trained.

    With what was finished at these stops, and what was read before all networks were trained.
    """
    out, finished, read, seen = tmp_path_factory.mktemp("trained") / "out", {}, [], []
    read_tile = TileSource._read

    def watched(source, case, cell):
        if len(list((out / "runs").glob("*/run.json"))) < 3:
            read.append(source.cases[case].name)
        return read_tile(source, case, cell)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TileSource, "_read", watched)
        for sign in ("runs/base-modular-1-top/checkpoint.npz", "runs/base-modular-1-rest/checkpoint.npz",
                     "scores/base-modular-1.npz"):  # fmt: skip
            with pytest.raises(Cancelled):
                digipath.train(data / "my.toml", out=out, cancel=(out / sign).exists, progress=seen.append)
            for record in (out / "runs").glob("*/run.json"):
                finished |= {path: at for path, at in untouched(record.parent).items() if path not in finished}
        result = digipath.train(data / "my.toml", out=out, progress=seen.append)
    messages = [report.message for report in seen]
    assert messages.count("looking for tiles: 30 tiles found") == 1
    assert messages[-1].startswith("scoring base-three-class-1")
    return result, finished, set(read)


@pytest.mark.slow
@pytest.mark.keras
def test_finished_networks_are_not_trained_again_and_test_tiles_are_read_last(trained):
    result, finished, read = trained
    assert {path.parent.name for path in finished if path.name == "run.json"} == {
        "base-modular-1-top", "base-modular-1-rest", "base-three-class-1",
    }  # fmt: skip
    after = untouched(result.folder / "runs")
    assert all(after[path] == at for path, at in finished.items())
    parts = {}
    for row in read_rows(result.folder / "tiles.csv"):
        parts.setdefault(row["part"], set()).add(row["slide"])
    assert {part: len(names) for part, names in parts.items()} == {"train": 18, "validation": 6, "test": 6}
    assert read == parts["train"] | parts["validation"]


@pytest.mark.slow
@pytest.mark.keras
def test_every_card_loads_and_the_shipped_one_was_named_beforehand(trained):
    result, _, _ = trained
    assert [path.stem for path in result.cards] == [
        "dots-v1", "dots-v1-base-modular-1-top", "dots-v1-base-modular-1-rest", "dots-v1-base-three-class-1",
    ]  # fmt: skip
    pair, whole = (tile_networks.published(str(result.cards[number])) for number in (0, 3))
    assert (pair.classes, pair.rule) == (whole.classes, whole.rule)
    assert load_card(str(result.card)).record["kind"] == "modular"
    names = {metric["name"] for metric in load_card(str(result.card)).record["metrics"]}
    assert {"macro AUROC, tiles", "accuracy, slides", f"accuracy, cases, {TOP}"} <= names
    for path in result.cards:
        assert all("nothing in training saw" in m["split"] for m in load_card(str(path)).record["metrics"])


@pytest.mark.slow
@pytest.mark.keras
def test_kept_answers_are_those_of_the_card_and_scores_follow_from_them(trained, data):
    result, _, _ = trained
    for name, card in (("base-modular-1", result.card), ("base-three-class-1", result.cards[3])):
        kept = Answers.load(result.folder / "scores" / f"{name}.npz")
        assert kept.truth.tolist() == [CLASSES.index(slide.rpartition("-")[0]) for slide in kept.slides]
        assert len(kept.truth) == 6
        (predictor,) = tile_networks.published(str(card)).load()
        for slide, expected in zip(kept.slides, kept.probabilities, strict=True):
            label, _, stem = slide.rpartition("-")
            tile = np.asarray(Image.open(data / "tiles" / label / f"{stem}.png"))[None]
            np.testing.assert_allclose(predictor(tile)[0], expected, atol=1e-4)
        right = np.mean(kept.probabilities.argmax(axis=1) == kept.truth)
        assert result.scores[name][ALL][TILE]["metrics"]["accuracy"] == pytest.approx(right)
        assert set(result.scores[name]) == {ALL, TOP, REST}
    assert {row["run"] for row in read_rows(result.folder / "scores.csv")} == set(result.scores)
    summary = (result.folder / "summary.md").read_text()
    assert "| base modular | tile | " in summary
    assert (result.folder / "runs" / "base-modular-1-rest" / "curves.png").is_file()


@pytest.mark.slow
@pytest.mark.keras
def test_a_finished_training_is_not_repeated_and_another_is_refused(trained, data, tmp_path):
    result, _, _ = trained
    before = untouched(result.folder)
    digipath.train(data / "my.toml", out=result.folder)
    assert untouched(result.folder) == before
    with pytest.raises(CaseDiffers, match=r"another config \(seed: 0, now 1\)"):
        digipath.train(data / "my.toml", out=result.folder, seed=1)
    with pytest.raises(CaseDiffers, match=r"arms\.0\.schedule\.batch: 6, now 5"):
        digipath.train(edited(data, "other.toml", ("batch = 6", "batch = 5")), out=result.folder)
    assert untouched(result.folder) == before
    copy = tmp_path / "copy"
    shutil.copytree(result.folder, copy)
    kept = {path: at for path, at in untouched(copy).items() if path.suffix in (".h5", ".npz")}
    words = edited(data, "words.toml", ("dots-v1", 'dots-v1"\nlimits = ["Dots only."]\nlicence = "CC0-1.0'))
    again = digipath.train(words, out=copy)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert all(load_card(str(path)).record["limits"][0] == "Dots only." for path in again.cards)


# ---- slides ----


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Six generated slides of two classes, one of them outlined, one with a part that cannot be read."""
    folder = tmp_path_factory.mktemp("slides")
    rows = [["slide", "patient", "label", "annotation", "fold"]]
    for number, part in enumerate(["train", "train", "validation", "validation", "test", "test"]):
        label, name = CLASSES[1:][number % 2], f"{number}.tiff"
        failed = [(1, 1)] if number == 5 else []
        write_slide(folder / name, (768, 512), seed=number, tile=256, lossless=True, failed_tiles=failed)
        rows.append([name, f"patient{number}", label, "halves.geojson" if number == 0 else "", part])
    halves = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[x, 0], [x + 384, 0], [x + 384, 512], [x, 512], [x, 0]]]},
            "properties": {"classification": {"name": name}},
        }
        for x, name in ((0, "grade 3"), (384, "Grade 4"))
    ]
    (folder / "halves.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": halves}))
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    text = CONFIG.replace('schemes = ["modular", "three-class"]', "seed = 7").replace('"grade 2", ', "")
    text = text.replace('folder = "tiles"\nmpp = 0.5', 'manifest = "cases.csv"').replace("epochs = 2", "epochs = 1")
    text = text.replace("tile = 64", 'tile = 64\ntissue = "all"\nleast_tissue = 1.0\nshares = [0.1, 0.1, 0.8]')
    (folder / "my.toml").write_text(text)
    return folder


@pytest.mark.slow
@pytest.mark.keras
def test_slides_with_outlines_and_a_part_that_cannot_be_read(slides, capfd):
    out = slides / "out"
    assert main(["train", "--config", str(slides / "my.toml"), "--out", str(out)]) == 0
    assert f"card: {out / 'weights' / 'dots-v1.json'}" in capfd.readouterr().out
    rows = read_rows(out / "tiles.csv")
    outlined = {(row["class"], int(row["column"]) < 6) for row in rows if row["slide"] == "0"}
    assert outlined <= {("grade 3", True), ("grade 4", False)}
    drawn = {(row["slide"], row["class"]) for row in rows if row["part"] == "test"}
    assert drawn == {("4", "grade 3"), ("5", "grade 4")}
    assert sum(row["part"] == "test" for row in rows) == 2 * 96
    lost = sum(4 <= int(row["row"]) < 8 and 4 <= int(row["column"]) < 8 for row in rows if row["slide"] == "5")
    kept = Answers.load(out / "scores" / "base-three-class-1.npz")
    assert lost == 16
    assert [np.count_nonzero(kept.slides == slide) for slide in ("4", "5")] == [96, 96 - lost]
    card = load_card(str(out / "weights" / "dots-v1.json")).record
    assert (card["classes"], card["positive"]) == (["grade 3", "grade 4"], "grade 4")
    assert card["training"]["seed"] == 7_000_000
    assert card["training"]["split"].startswith("one split by patient, the manifest's own: train 2 slides of 2 pat")


@pytest.mark.slow
@pytest.mark.keras
def test_slides_brought_to_a_stain_are_graded_as_they_were_scored(slides, tmp_path, monkeypatch):
    config = edited(
        slides, "stained.toml", ('tissue = "all"', 'tissue = "all"\nstain = "macenko"'),
        ("shares = [0.1, 0.1, 0.8]", "shares = [0.4, 0.2, 0.4]\nper_class = 60"), ("seed = 7", "seed = 7\nrepeats = 2"),
    )  # fmt: skip
    fitted, fit = [], tile_source.tile_staining
    monkeypatch.setattr(
        tile_source, "tile_staining", lambda slide, *how: fitted.append(slide.path.stem) or fit(slide, *how)
    )
    result = digipath.train(config, out=tmp_path / "out")
    assert sorted(fitted) == ["0", "1", "2", "3", "4", "5"]  # once for all networks
    graders = tile_networks.published(str(result.card))
    assert graders.stain == REFERENCES["macenko"]
    assert result.record["config"]["tiles"]["stain"] == REFERENCES["macenko"].to_record()
    rows = [row for row in read_rows(result.folder / "tiles.csv") if (row["part"], row["slide"]) == ("test", "4")]
    cells = tuple(np.array([[int(row["row"]), int(row["column"])] for row in rows]).T)
    kept = Answers.load(result.folder / "scores" / "base-three-class-1.npz")
    scored = kept.probabilities[kept.slides == "4"]
    assert len(scored) == len(rows) == 24
    maps, notes = {}, {}
    for stain in (None, "none"):
        out = tmp_path / f"case-{stain}"
        grade = digipath.grade(slides / "4.tiff", weights=str(result.card), stain=stain, out=out, gallery=0)
        maps[stain], notes[stain] = grade.slides[0].maps["probability"][:], grade.slides[0].run["notes"]
    np.testing.assert_allclose(maps[None][cells], scored, atol=2e-3)
    assert np.abs(maps["none"] - maps[None]).max() > 5e-3
    told = "The network was trained on slides normalised (macenko) and sees this one as it is, as asked."
    assert (told in notes[None], told in notes["none"]) == (False, True)


@pytest.mark.keras
def test_a_part_without_a_class_is_told_before_anything_is_trained(slides):
    path = slides / "cases.csv"
    text = path.read_text()
    (slides / "poor.csv").write_text(text.replace("5.tiff,patient5,grade 4,,test", "5.tiff,patient5,grade 3,,test"))
    config = edited(slides, "poor.toml", ("cases.csv", "poor.csv"))
    with pytest.raises(BadInput, match="label 'grade 4' in every part, test has none"):
        digipath.train(config, out=slides / "poor")
    assert not (slides / "poor").exists()
