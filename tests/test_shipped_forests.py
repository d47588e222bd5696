"""The default pN forests: made as their card says, and what they do on simulated patients they never saw."""

from __future__ import annotations

import json

import example_scripts
import pytest

from digipath.measure.forests import StageForests
from digipath.weights import DEFAULT_FOREST, load_card, verify

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def example():
    return example_scripts.load("train_pn_forest")


def test_the_card_states_the_detectors_of_the_example(example):
    detectors = example.detectors()
    said = load_card(DEFAULT_FOREST).record["training"]["detectors"]
    assert said == {name: detectors[name].to_record() for name in example.BOTH}


@pytest.mark.slow
def test_the_shipped_forests_beat_the_size_rule_on_patients_of_slides_they_never_saw(example, shared_data, tmp_path):
    """20 of the 100 patients of the card, with other random numbers."""
    card = load_card(DEFAULT_FOREST)
    experiment = example.Experiment(card.record["training"]["seed"], shared_data, tmp_path, processes=1)
    forests = StageForests.load(card.file)
    drawn = example.rows_of(experiment.table, range(0, 100, 5))
    for number, errors in enumerate(example.BOTH, 50):
        nodes = experiment.nodes(errors, experiment.test, drawn, number=number, errors=[errors], by_size=True)
        found = example.kappas(nodes, forests)
        assert found["forests"] > 0.75
        assert found["forests"] > found["size rule at 0.5"]


@pytest.mark.slow
def test_the_example_runs_with_few_nodes_and_goes_on_where_it_stopped(example, shared_data, tmp_path, monkeypatch):
    few = ["--data", str(shared_data), "--out", str(tmp_path), "--seeds", "3", "--nodes", "60", "--patients", "4"]
    few += ["--processes", "1"]
    example.main(few)
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["kappas"]["3"]) == set(example.detectors())
    card = load_card(str(tmp_path / f"{example.NAME}.json"))
    assert verify(card) == card.record["sha256"]
    monkeypatch.setattr(example, "_simulated", None)  # nothing is simulated again
    example.main(few)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    with pytest.raises(SystemExit, match="choose another --out"):
        example.main([*few, "--nodes", "61"])
    doubled = dict(zip(example.detectors(), [example.detectors()[example.DOUBLED]] * 4, strict=True))
    monkeypatch.setattr(example, "detectors", lambda: doubled)  # the same nodes by another detector
    with pytest.raises(SystemExit, match="choose another --out"):
        example.main(few)


@pytest.mark.slow
def test_the_example_compares_kinds_of_forests_on_training_slides(example, shared_data, tmp_path, capsys):
    few = ["--data", str(shared_data), "--out", str(tmp_path), "--seeds", "3", "--nodes", "60", "--patients", "4"]
    example.main([*few, "--processes", "1", "--choose"])
    told = capsys.readouterr().out
    assert [told.count(f"at least {leaf} in a leaf") for leaf in example.LEAVES] == [2] * len(example.LEAVES)
    assert not (tmp_path / "results.json").exists()
