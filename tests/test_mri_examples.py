"""The examples on generated MRI run from their first line to their last, with next to no training."""

from __future__ import annotations

import json

import example_scripts
import numpy as np
import pytest
from PIL import Image

from digipath.weights import load_card


def run(script, monkeypatch, *words):
    monkeypatch.setattr("sys.argv", [script.__name__, *map(str, words)])
    script.main()


@pytest.mark.slow
@pytest.mark.keras
def test_the_border_artefact_is_compared_both_ways(tmp_path, monkeypatch):
    run(example_scripts.load("border_artefact"), monkeypatch, "--quick", "--seeds", 3, "--out", tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    numbers = found["seeds"]["3"]
    for way in ("whole image", "inside the brain"):
        for name in ("AUROC", "accuracy", "share of the explanation at the border"):
            assert 0 <= numbers[f"{way}: {name}"] <= 1
    assert 0 < numbers["share of the brain's box at the border"] < 1
    assert found["mean"] == numbers
    with Image.open(tmp_path / "border_artefact-seed3.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 20


@pytest.mark.keras
def test_the_share_at_the_border_is_of_the_map_within_two_voxels():
    script = example_scripts.load("border_artefact")
    brain = np.zeros((20, 20, 20), bool)
    brain[5:15, 5:15, 5:15] = True
    heat = np.zeros(brain.shape, np.float32)
    heat[9:11, 9:11, 9:11] = 1  # 8 voxels in the middle, five away
    heat[5, 9, 9] = heat[3, 9, 9] = 2  # the outermost of the brain, and two away from it outside
    heat[2, 9, 9] = 4  # three away
    assert script.border_share(heat, brain) == pytest.approx(4 / 16)
    assert script.border_share(np.zeros_like(heat), brain) == 0


@pytest.mark.slow
@pytest.mark.keras
def test_mri_graders_are_made_from_generated_cases(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(example_scripts.EXAMPLES)  # its other processes look it up there
    script = example_scripts.load("train_mri_graders")
    words = ("--cases", 33, "--unseen", 6, "--epochs", 2, "--out", tmp_path, "--name", "tiny-v1")
    run(script, monkeypatch, *words)
    card = load_card(str(tmp_path / "weights" / "tiny-v1.json"))
    assert card.record["members"] == ["tiny-v1-four", "tiny-v1-t1c"]
    assert {metric["data"][:17] for metric in card.record["metrics"]} == {"6 generated cases"}
    told = json.loads((tmp_path / "scores.json").read_text())
    assert next(iter(told)) == "random forest on histograms"
    assert list(told)[-2:] == ["both together", "minutes"]
    with pytest.raises(SystemExit, match="expected 30 cases, an earlier run left 33"):
        run(script, monkeypatch, "--cases", 30, *words[2:])
