"""`digipath stage`, `stage-table` and `train-stage`, and forests in `digipath weights`, at the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import made_up_nodes
import numpy as np
import pytest

from digipath.cli import main
from digipath.measure.pn_stage import CATEGORIES
from digipath.weights import load_card

TESTS = Path(__file__).parent


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run a command in an empty folder with an empty home; returns (exit code, output, error lines)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path / "home"))

    def command(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse
            code = stop.code
        seen = capfd.readouterr()
        return code, seen.out, seen.err.splitlines()

    return command


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with nodes.csv, its .npz files, and forests that `train-stage` made of them in own/."""
    folder = tmp_path_factory.mktemp("own")
    manifest = made_up_nodes.write_manifest(folder, patients=12)
    assert main(["train-stage", str(manifest), "--out", str(folder / "own"), "--json"]) == 0
    return folder


@pytest.fixture
def nodes(tmp_path):
    rng = np.random.default_rng(8)
    return [made_up_nodes.write_npz(tmp_path / f"{name}.npz", name, rng) for name in CATEGORIES]


def refused(outcome, message):
    code, out, err = outcome
    assert (code, out, len(err)) == (2, "", 1), outcome
    assert err[0].startswith("digipath: ")
    assert message in err[0]


def test_train_stage_prints_scores_and_where_the_card_is(run, own):
    code, out, err = run("train-stage", own / "nodes.csv", "--out", "mine", "--name", "mine-v1", "--folds", "3")
    assert code == 0
    for text in ("quadratic kappa", "size rule", "card: mine/mine-v1.json", "For research use only", "200 cells"):
        assert text in out
    assert any("measuring nodes: 48/48" in line for line in err)
    assert sorted(path.name for path in Path("mine").iterdir()) == [
        "features.csv", "mine-v1.json", "mine-v1.skops", "scores.json", "summary.md"
    ]  # fmt: skip


def test_train_stage_as_json(run, own):
    code, out, err = run("train-stage", own / "nodes.csv", "--out", "mine", "--seed", "3", "--map-mpp", "20", "--json")
    found = json.loads(out)
    assert (code, err) == (0, [])
    assert len(found["nodes"]) == 48
    assert load_card(found["card"]).record["input"]["map_mpp"] == 20


def test_stage_in_words(run, own, nodes):
    forest = own / "own" / "own-pn-forest.json"
    code, out, err = run("stage", *nodes, "--forest", forest, "--out", "p", "--patient", "p7")
    assert (code, err) == (0, [])
    assert "p7: pN1 by the forests, pN1 by the size rule" in out
    for text in ("not to be excluded at 0.9", "fewer than 200 cells) is not measured", "report: p/stage.html"):
        assert text in out
    assert out.endswith("For research use only. Not for diagnostic procedures.\n")
    assert Path("p/submission.csv").read_text().splitlines()[:2] == ["patient,stage", "p7.zip,pN1"]


def test_stage_as_json(run, own, nodes):
    forest = own / "own" / "own-pn-forest.json"
    code, out, _ = run("stage", nodes[0], nodes[2], "--forest", forest, "--json", "--level", "0.8")
    found = json.loads(out)
    assert (code, found["stage"], found["stage_by_size"], found["level"]) == (0, "pN1mi", "pN1mi", 0.8)
    assert [node["category"] for node in found["nodes"]] == ["negative", "micro"]
    assert not Path("p").exists()


def test_stage_segments_slides_first(run, own, small_slide):
    forest = own / "own" / "own-pn-forest.json"
    code, out, _ = run("stage", small_slide.path, "--forest", forest, "--predictor", "fakes:redness", "--out", "p")
    assert code == 0
    assert Path("p/small.digipath/report.html").is_file()
    assert "small" in out
    assert run("stage", "p/small.digipath", "--forest", forest)[0] == 0


def test_tissue_without_prediction_is_exit_3(run, own, tmp_path):
    from digipath.synthetic import write_slide

    slide = write_slide(tmp_path / "bad.tiff", (1200, 900), tile=256, lossless=True, failed_tiles=[(1, 1)])
    forest = own / "own" / "own-pn-forest.json"
    code, out, _ = run("stage", slide.path, "--forest", forest, "--predictor", "fakes:redness")
    assert code == 3
    assert "Not all tissue was predicted" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [(["none.svs"], "none.svs"), (["."], "no result in"), (["negative.npz", "negative.npz"], "each node once"),
     (["negative.npz", "--level", "0.5"], "levels 0.8, 0.9, 0.95"),
     (["negative.npz", "--forest", "lymphnode-ensemble-v1"], "expected forests"),
     (["negative.npz", "--forest", "none.json"], "no card file none.json"),
     (["negative.npz", "--out", "negative.npz/p"], "cannot write to negative.npz/p")],
)  # fmt: skip
def test_bad_input_of_stage_is_one_line(run, own, nodes, words, message):
    forest = [] if "--forest" in words else ["--forest", str(own / "own" / "own-pn-forest.json")]
    refused(run("stage", *words, *forest), message)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["none.csv", "--out", "x"], "none.csv"), (["bad.csv", "--out", "x"], "column category"),
     (["good.csv", "--out", "x", "--name", "My"], "lower-case"),
     (["good.csv", "--out", "x", "--folds", "1"], "2 folds"),
     (["good.csv", "--out", "x", "--map-mpp", "nan"], "map_mpp")],
)  # fmt: skip
def test_bad_input_of_train_stage_is_one_line(run, nodes, tmp_path, words, message):
    (tmp_path / "bad.csv").write_text("result,category\nmicro.npz,large\n")
    (tmp_path / "good.csv").write_text("result,category\nmicro.npz,micro\nnegative.npz,negative\n")
    refused(run("train-stage", *words), message)
    assert not (tmp_path / "x").exists()


def test_stage_needs_nodes_and_train_stage_needs_out(run):
    assert run("stage")[0] == 2
    assert run("train-stage", "nodes.csv")[0] == 2


TABLE = "patient,stage\na.zip,pN0\na_node_0.tif,itc\nb.zip,pN1\nb_node_0.tif,macro\n"


def test_stage_table_tells_contradictions_and_kappa(run, tmp_path):
    (tmp_path / "table.csv").write_text(TABLE)
    (tmp_path / "other.csv").write_text("patient,stage\na.zip,pN0(i+)\nb.zip,pN1\n")
    code, out, _ = run("stage-table", "table.csv")
    assert code == 0
    assert "2 patients, 1 whose stage is not what the rule makes of their nodes" in out
    assert "a: stated pN0, by the rule pN0(i+) (itc)" in out
    found = json.loads(run("stage-table", "table.csv", "--against", "other.csv", "--json")[1])
    assert found["contradictions"] == [
        {"patient": "a", "stated": "pN0", "by_rule": "pN0(i+)", "categories": ["itc"]}
    ]  # fmt: skip
    # Answers 0, 3 to truths 1, 3: Σ w O = 1, Σ w E = (1 + 9 + 4 + 0) / 2.
    assert found["quadratic_kappa"] == pytest.approx(1 - 1 / 7)
    assert "quadratic kappa 0.8571" in run("stage-table", "table.csv", "--against", "other.csv")[1]


def test_bad_tables_are_one_line(run, tmp_path):
    (tmp_path / "table.csv").write_text(TABLE)
    (tmp_path / "bad.csv").write_text("patient,stage\na.zip,pN7\n")
    (tmp_path / "less.csv").write_text("patient,stage\na.zip,pN0\n")
    refused(run("stage-table", "none.csv"), "none.csv")
    refused(run("stage-table", "bad.csv"), "pN7")
    refused(run("stage-table", "table.csv", "--against", "less.csv"), "expected the reference less.csv to stage")


@pytest.mark.real_data
def test_the_public_table_agrees_with_the_rule(run, shared_data):
    code, out, _ = run("stage-table", shared_data / "camelyon17" / "stage_labels.csv")
    assert (code, out.splitlines()[0]) == (0, "100 patients, 0 whose stage is not what the rule makes of their nodes")


# Cards of forests among the others.


def test_a_card_of_forests_is_imported_listed_shown_and_verified(run, own, nodes):
    code, out, _ = run("weights", "import", own / "own" / "own-pn-forest.json")
    assert code == 0
    assert [Path(line).name for line in out.splitlines()] == ["own-pn-forest.skops", "own-pn-forest.json"]
    row = next(line for line in run("weights", "list")[1].splitlines() if "own-pn-forest" in line)
    assert [word.strip() for word in row.split("│")[2:6]] == ["forest", "16.0", "0 MB", "own"]
    shown = run("weights", "show", "own-pn-forest")[1]
    assert "our reading" in shown
    assert "quantiles: 0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0" in shown
    assert "own-pn-forest: sha256 " in run("weights", "verify", "own-pn-forest")[1]
    assert run("stage", nodes[3], "--forest", "own-pn-forest")[0] == 0
    refused(run("segment", "slide.svs", "--weights", "own-pn-forest"), "slide.svs")


def test_damaged_forests_are_refused(run, own, tmp_path, nodes):
    shutil.copytree(own / "own", tmp_path / "copy")
    file = tmp_path / "copy" / "own-pn-forest.skops"
    file.write_bytes(file.read_bytes()[:-10])
    refused(run("weights", "verify", "copy/own-pn-forest.json"), "sha256 of copy/own-pn-forest.skops")
    refused(run("weights", "import", "copy/own-pn-forest.json"), "sha256 of copy/own-pn-forest.skops")
    refused(run("stage", nodes[0], "--forest", "copy/own-pn-forest.json"), "sha256 of copy/own-pn-forest.skops")


def with_address(own, home, **changes):
    """The card in `home`, as one that names where its file is to be fetched."""
    record = json.loads((own / "own" / "own-pn-forest.json").read_text())
    record |= {"urls": ["https://example.org/own-pn-forest.skops"], **changes}
    home.mkdir(parents=True)
    (home / "own-pn-forest.json").write_text(json.dumps(record))


def test_forests_are_fetched_from_a_folder(run, own, tmp_path):
    with_address(own, tmp_path / "home" / "weights")
    assert "to fetch" in run("weights", "list")[1]
    refused(run("weights", "verify", "own-pn-forest"), "digipath weights fetch own-pn-forest")
    code, out, _ = run("weights", "fetch", "own-pn-forest", "--from", own / "own")
    assert (code, Path(out.strip()).name) == (0, "own-pn-forest.skops")
    assert run("weights", "verify", "own-pn-forest")[0] == 0


def test_forests_whose_card_states_no_hash_are_looked_at(run, own, tmp_path):
    """A page of a proxy is no archive; the content itself is checked when the forests are read."""
    unknown = {"sha256": None, "sha256_reason": "not stated by its source", "bytes": None}
    with_address(own, tmp_path / "home" / "weights", **unknown)
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "own-pn-forest.skops").write_text("<html>log in</html>")
    refused(run("weights", "fetch", "own-pn-forest", "--from", "page"), "no whole weights file")
    assert run("weights", "fetch", "own-pn-forest", "--from", own / "own")[0] == 0
