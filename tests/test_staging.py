"""Stage of a patient from maps: both answers side by side, sets, what is empty or missing, what is written."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import fakes
import made_up_nodes
import numpy as np
import pytest
from PIL import Image

import digipath
from digipath.errors import BadCard, BadInput, MissingResolution, NotFound, SlideNotFound, UnknownWeights
from digipath.measure.forests import FORESTS, StageForests
from digipath.measure.pn_stage import CATEGORIES, CELLS_NOTE, FEATURES, OUTSIDE, STAGES
from digipath.measure.pn_tables import read_stage_table
from digipath.report import NOTICE
from digipath.staging import Stage, stage
from digipath.synthetic import write_slide
from digipath.training.stage_forest import train_stage
from digipath.weights import load_card


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    """A card of forests trained on made-up heatmaps of 12 patients."""
    folder = tmp_path_factory.mktemp("forest")
    return str(train_stage(made_up_nodes.write_manifest(folder, patients=12), out=folder / "own").card)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """An .npz for each category, that no forest was trained on."""
    folder, rng = tmp_path_factory.mktemp("nodes"), np.random.default_rng(77)
    return {name: made_up_nodes.write_npz(folder / f"{name}.npz", name, rng, mpp=12.0) for name in CATEGORIES}


@pytest.fixture(scope="module")
def found(nodes, forest, tmp_path_factory) -> Stage:
    return stage(list(nodes.values()), forest=forest, out=tmp_path_factory.mktemp("out") / "new", patient="p <1>")


def test_each_node_has_both_answers(found):
    assert [node.name for node in found.nodes] == list(CATEGORIES)
    for node in found.nodes:
        assert node.category == node.size_category == node.name
        assert list(node.probabilities) == list(CATEGORIES)
        assert sum(node.probabilities.values()) == pytest.approx(1)
        assert list(node.votes) == list(FORESTS)
        assert list(node.features) == list(FEATURES)
        assert max(node.probabilities, key=node.probabilities.get) in node.prediction_set
    assert found.nodes[0].size_um is None
    assert 2300 <= found.nodes[3].size_um <= 3250


def test_the_patient_has_both_stages_and_a_distribution(found):
    assert (found.stage, found.stage_by_size, found.level) == ("pN1", "pN1", 0.9)
    assert list(found.probabilities) == [*STAGES, OUTSIDE]
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert "pN1" in found.stage_set
    assert OUTSIDE not in found.stage_set  # which four nodes cannot be
    assert CELLS_NOTE in found.notes


def test_what_is_written(found):
    assert sorted(path.name for path in found.folder.iterdir()) == ["stage.html", "stage.json", "submission.csv"]
    record = json.loads((found.folder / "stage.json").read_text())
    assert record == json.loads(json.dumps(found.to_record()))
    assert record["notice"] == NOTICE
    assert any("fewer than 200 cells) is not measured" in note for note in record["notes"])
    patients = read_stage_table(found.folder / "submission.csv").patients
    assert patients["p <1>"].stage == "pN1"
    rows = (found.folder / "submission.csv").read_text().splitlines()
    assert rows[:3] == ["patient,stage", "p <1>.zip,pN1", "p <1>_negative.tif,negative"]
    page = (found.folder / "stage.html").read_text()
    for text in (NOTICE, "fewer than 200 cells) is not measured", "By size", "p &lt;1&gt;"):
        assert text in page
    assert "p <1>" not in page


def test_nothing_is_written_without_a_folder(nodes, forest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert stage([nodes["macro"]], forest=forest).folder is None
    assert list(tmp_path.iterdir()) == []


def test_answers_are_those_of_the_forests(found, forest):
    forests = StageForests.load(load_card(forest).file)
    table = np.array([list(node.features.values()) for node in found.nodes])
    answered = np.array([list(node.probabilities.values()) for node in found.nodes])
    np.testing.assert_allclose(answered, forests.probabilities(table))
    assert [CATEGORIES.index(node.category) for node in found.nodes] == forests.predict(table).tolist()


def test_the_order_of_nodes_does_not_matter_for_the_stage(nodes, forest, found):
    turned = stage(list(nodes.values())[::-1], forest=forest)
    assert turned.stage == found.stage
    assert turned.probabilities == pytest.approx(found.probabilities)
    assert [node.name for node in turned.nodes] == list(CATEGORIES)[::-1]


def test_the_same_node_at_another_resolution_has_the_same_features(forest, tmp_path):
    for mpp in (4.0, 8.0, 11.0):
        made_up_nodes.write_npz(tmp_path / f"at_{mpp:g}.npz", "macro", np.random.default_rng(5), mpp=mpp)
    one, *others = stage([tmp_path / f"at_{mpp}.npz" for mpp in (4, 8, 11)], forest=forest).nodes
    for other in others:
        for name in ("largest_major_axis_90_um", "largest_area_50_um2", "area_max_um2", "solidity_max"):
            assert other.features[name] == pytest.approx(one.features[name], rel=0.03), name
        assert other.category == one.category


@pytest.fixture(scope="module")
def segmented(small_slide, tmp_path_factory):
    """Case folders: of a predictor that calls red tumour, of one that finds nothing, and of a slide without tissue."""

    def nothing(patches):
        return np.zeros((*patches.shape[:-1], 1), np.float32)

    nothing.patch = 256
    folder = tmp_path_factory.mktemp("cases")
    glass = folder / "glass.png"
    Image.new("RGB", (600, 500), (243, 242, 244)).save(glass)
    return {
        "red": digipath.segment(small_slide.path, out=folder / "red.digipath", predictors=[fakes.redness]),
        "nothing": digipath.segment(small_slide.path, out=folder / "nothing.digipath", predictors=[nothing]),
        "glass": digipath.segment(glass, mpp=0.5, out=folder / "glass.digipath", predictors=[fakes.redness]),
    }


def test_segmentations_and_their_folders_are_nodes(segmented, forest):
    by_value = stage([segmented["red"], segmented["nothing"]], forest=forest)
    by_folder = stage([segmented["red"].folder, str(segmented["nothing"].folder)], forest=forest)
    assert by_value.nodes == by_folder.nodes
    assert [node.name for node in by_value.nodes] == ["red", "nothing"]


def test_empty_maps_and_slides_without_tissue_are_negative_and_said_so(segmented, forest):
    found = stage([segmented["nothing"], segmented["glass"]], forest=forest)
    for node in found.nodes:
        assert (node.category, node.size_category, node.size_um) == ("negative", "negative", None)
        assert set(node.features.values()) == {0.0}
    assert (found.stage, found.stage_by_size) == ("pN0", "pN0")
    assert found.nodes[0].notes == ()
    assert found.nodes[1].notes == ("No tissue was found: negative only because nothing was looked at.",)


def test_tissue_without_prediction_is_told(forest, tmp_path):
    slide = write_slide(tmp_path / "bad.tiff", (1200, 900), tile=256, lossless=True, failed_tiles=[(1, 1)])
    given = {"predictors": [fakes.redness], "tissue": "all"}
    found = stage([slide.path], forest=forest, out=tmp_path / "out", segmenting=given)
    assert not found.complete
    assert "what is missing counts as normal" in found.nodes[0].notes[0]
    assert (tmp_path / "out" / "bad.digipath" / "report.html").is_file()
    assert json.loads((tmp_path / "out" / "stage.json").read_text())["complete"] is False


def test_slides_are_segmented_once(small_slide, forest, tmp_path):
    given = {"predictors": [fakes.redness]}
    first = stage([small_slide.path], forest=forest, out=tmp_path, segmenting=given)
    written = (tmp_path / "small.digipath" / "run.json").stat().st_mtime_ns
    again = stage([small_slide.path], forest=forest, out=tmp_path, segmenting=given)
    assert (tmp_path / "small.digipath" / "run.json").stat().st_mtime_ns == written
    assert again.nodes == first.nodes


def test_a_stage_outside_the_table_is_named_and_has_no_submission(forest, tmp_path):
    rng = np.random.default_rng(3)
    many = [made_up_nodes.write_npz(tmp_path / f"n{number}.npz", "macro", rng) for number in range(10)]
    out = tmp_path / "out"
    assert stage(many[:9], forest=forest, out=out).stage == "pN2"
    assert (out / "submission.csv").is_file()
    found = stage(many, forest=forest, out=out)
    assert found.stage == found.stage_by_size == OUTSIDE
    assert "More than nine positive nodes are outside the table of stages." in found.notes
    assert not (out / "submission.csv").exists()  # that of the nine is not this patient's


def edited(forest, tmp_path, **changes):
    """A copy of the card, beside its forests, with some of it changed."""
    card = load_card(forest)
    record = {**card.record, **changes}
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    (folder / card.file.name).write_bytes(card.file.read_bytes())
    path = folder / f"{record['name']}.json"
    path.write_text(json.dumps({key: value for key, value in record.items() if value is not ...}))
    return str(path)


@pytest.mark.parametrize("conformal", [None, ...])
def test_without_quantiles_there_are_no_sets(nodes, forest, tmp_path, conformal):
    found = stage([nodes["micro"]], forest=edited(forest, tmp_path, conformal=conformal), out=tmp_path / "out")
    assert (found.level, found.stage_set, found.nodes[0].prediction_set) == (None, (), ())
    assert "The card of own-pn-forest has no conformal quantiles, so there are no sets." in found.notes


def test_without_patients_quantiles_there_is_no_set_of_stages(nodes, forest, tmp_path):
    conformal = {**load_card(forest).record["conformal"], "patients": None}
    found = stage([nodes["micro"]], forest=edited(forest, tmp_path, conformal=conformal))
    assert found.stage_set == ()
    assert found.nodes[0].prediction_set
    assert "has no quantiles for patients" in " ".join(found.notes)


def test_another_number_of_nodes_than_the_sets_were_measured_on_is_told(nodes, forest):
    told = "Sets of stages were measured on patients of 4 nodes, this one has 1."
    assert told in stage([nodes["micro"]], forest=forest).notes
    assert told not in stage(list(nodes.values()), forest=forest).notes


def test_a_level_that_excludes_nothing_is_told(nodes, forest):
    found = stage(list(nodes.values()), forest=forest, level=0.95)  # of twelve patients
    assert found.stage_set == STAGES
    assert "too few patients to exclude a stage at 0.95" in " ".join(found.notes)


def test_what_cannot_be_staged_is_refused_in_one_line(nodes, forest, tmp_path, small_slide):
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "macro.npz"
    twin.write_bytes(nodes["macro"].read_bytes())
    (tmp_path / "link.npz").symlink_to(nodes["macro"])
    plain = tmp_path / "plain.png"
    Image.new("RGB", (300, 300), (200, 90, 160)).save(plain)
    options = {"predictors": [fakes.redness]}
    record = load_card(forest).record
    for given, more, kind, message in (
        ([], {}, BadInput, "expected a list of all nodes"),
        (str(nodes["macro"]), {}, BadInput, "expected a list of all nodes"),
        ([nodes["macro"], nodes["macro"]], {}, BadInput, "expected each node once"),
        ([nodes["macro"], tmp_path / "link.npz"], {}, BadInput, "expected each node once"),
        ([nodes["macro"], twin], {}, BadInput, "nodes of different names"),
        ([nodes["macro"], tmp_path], {}, NotFound, "no result in"),
        ([nodes["macro"], tmp_path / "none.svs"], {}, SlideNotFound, "none.svs"),
        ([small_slide.path, tmp_path / "none.svs"], {}, SlideNotFound, "none.svs"),
        ([small_slide.path], {"level": 0.7}, BadInput, "expected one of the levels"),
        ([nodes["macro"]], {"level": 0.85}, BadInput, "expected one of the levels 0.8, 0.9, 0.95"),
        ([nodes["macro"]], {"forest": "none-such"}, UnknownWeights, "no weights called"),
        ([nodes["macro"]], {"forest": "lymphnode-ensemble-v1"}, BadCard, "expected forests for pN stages"),
        ([nodes["macro"]], {"forest": edited(forest, tmp_path, input=record["input"] | {"features": ["a"]})},
         BadCard, "the 32 features and 4 categories of this version"),
        ([nodes["macro"]], {"forest": edited(forest, tmp_path, input={"modality": "table", "features": ["a"]})},
         BadCard, "at input"),
        ([nodes["macro"]], {"forest": edited(forest, tmp_path, conformal={"nodes": {}})}, BadCard, "at conformal"),
        ([nodes["macro"]], {"forest": edited(forest, tmp_path, sha256="0" * 64)}, OSError, "sha256 of"),
        ([plain], {}, MissingResolution, "--mpp"),
    ):  # fmt: skip
        arguments = {"forest": forest, "out": tmp_path / "out", "segmenting": options} | more
        with pytest.raises(kind, match=message) as raised:
            stage(given, **arguments)
        assert "\n" not in str(raised.value)
        left = {path.name for path in Path(tmp_path / "out").glob("*")} if (tmp_path / "out").exists() else set()
        assert left <= {"plain.digipath"}, message
