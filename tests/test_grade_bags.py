"""`grade` with weights that see bags of tiles: votes, maps, cases, resume and what is refused."""

from __future__ import annotations

import json

import made_up_bags
import numpy as np
import pytest
from PIL import Image

import digipath
from digipath.cli import main
from digipath.errors import BadInput, Cancelled
from digipath.values import EXCLUDED, PREDICTED

pytestmark = [pytest.mark.slow, pytest.mark.keras]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two networks of different magnification, their ensemble, one with attention, and two slides."""
    folder = tmp_path_factory.mktemp("bags")
    first = made_up_bags.write_card(folder, "bags-v1")
    made_up_bags.write_card(folder, "coarse-v1", mpp=1.0)
    made_up_bags.write_card(folder, "attention-v1", pooling="gated-attention")
    record = json.loads(first.read_text())
    together = {name: value for name, value in record.items() if name not in ("network", "file", "bytes", "sha256",
                                                                            "sha256_reason", "urls")}  # fmt: skip
    together |= {"name": "both-v1", "kind": "ensemble", "members": ["bags-v1", "coarse-v1"]}
    (folder / "both-v1.json").write_text(json.dumps(together))
    for number in range(2):
        Image.fromarray(made_up_bags.tissue(512, 1, number)).save(folder / f"slide{number}.png")
    return folder


def graded(folder, name, out, slides=("slide0.png",), **options):
    options = {"mpp": 0.5, "runtime": "keras", "gallery": 0} | options
    paths = [folder / slide for slide in slides]
    return digipath.grade(paths, weights=str(folder / f"{name}.json"), out=out, **options)


def test_an_ensemble_is_the_soft_vote_of_networks_each_at_its_own_magnification(folder, tmp_path):
    both = graded(folder, "both-v1", tmp_path / "both").slides[0].run["bags"]
    alone = [graded(folder, name, tmp_path / name).slides[0].run["bags"] for name in ("bags-v1", "coarse-v1")]
    members = both["members"]
    assert [member["tiles_on_slide"] for member in members.values()] == [64, 16]
    assert [member["mpp"] for member in members.values()] == [0.5, 1.0]
    mean = [np.mean([one["probabilities"][name] for one in alone]) for name in made_up_bags.CLASSES]
    assert list(both["probabilities"].values()) == pytest.approx(mean, abs=1e-6)
    assert both["grade"] == made_up_bags.CLASSES[int(np.argmax(mean))]
    assert both["networks"] == 2


def test_one_network_is_called_by_the_hard_vote_of_its_groups(folder, tmp_path):
    bags = graded(folder, "bags-v1", tmp_path / "all", groups="all").slides[0].run["bags"]
    votes = bags["members"]["bags-v1"]["votes"]
    assert bags["members"]["bags-v1"]["groups"] == 13  # of 64 tiles in groups of 5
    assert votes[bags["grade"]] == max(votes.values())


def test_the_map_shows_what_was_drawn_and_says_so(folder, tmp_path):
    slide = graded(folder, "bags-v1", tmp_path / "case").slides[0]
    codes = slide.maps["coverage"][:]
    assert np.count_nonzero(codes == PREDICTED) == 5
    assert np.count_nonzero(codes == EXCLUDED) == 59
    assert slide.run["tiles"] == {"graded": 5, "unreadable": 0, "left_out": 0, "not_drawn": 59}
    assert np.isnan(slide.maps["probability"][:][codes == EXCLUDED]).all()
    assert slide.summary["areas_mm2"] is None, "five tiles drawn at random say nothing of areas"
    assert any("5 of 64 tiles drawn" in note for note in slide.summary["notes"])
    assert "not among the tiles drawn" in (slide.folder / "report.html").read_text()


def test_attention_is_one_on_average_over_a_group(folder, tmp_path):
    slide = graded(folder, "attention-v1", tmp_path / "case", groups="all", bag=64).slides[0]
    attention = slide.maps["attention"][:].astype(float)
    assert attention.mean() == pytest.approx(1, abs=2e-3)
    assert slide.maps["grade"][:].max() <= 3
    assert slide.maps["grade"][:].min() >= 1


def test_a_case_of_two_slides_is_the_mean_of_their_votes(folder, tmp_path):
    case = graded(folder, "both-v1", tmp_path / "case", ("slide0.png", "slide1.png"))
    each = [slide.run["bags"]["probabilities"] for slide in case.slides]
    assert case.bags["probabilities"] == pytest.approx({name: np.mean([one[name] for one in each]) for name in each[0]})
    written = json.loads((tmp_path / "case" / "case.json").read_text())
    assert written["bags"] == case.bags
    page = (tmp_path / "case" / "case.html").read_text()
    assert "bags of tiles" in page
    assert "Knows nothing." in page, "the weights and their limits stand on the page of the case too"
    assert digipath.open_result(tmp_path / "case").bags == case.bags


def test_a_run_that_was_stopped_goes_on_to_the_same_result(folder, tmp_path):
    whole = graded(folder, "both-v1", tmp_path / "whole", groups=2)
    asked = iter(range(1000))
    with pytest.raises(Cancelled):
        graded(folder, "both-v1", tmp_path / "part", groups=2, cancel=lambda: next(asked) > 7)
    assert len(list((tmp_path / "part" / "bags").glob("*.npz"))) == 1
    resumed = graded(folder, "both-v1", tmp_path / "part", groups=2)
    assert resumed.slides[0].run["bags"] == whole.slides[0].run["bags"]
    maps = [case.slides[0].maps["probability"][:] for case in (resumed, whole)]
    assert np.array_equal(*maps, equal_nan=True)


@pytest.mark.parametrize(
    "options", [{"views": 4}, {"tile": 128}, {"at_mpp": 1.0}, {"keep_members": True}, {"calibrated": False}], ids=str
)
def test_settings_that_would_do_nothing_are_refused(folder, tmp_path, options):
    with pytest.raises(BadInput, match=f"{next(iter(options))} are not for weights that see bags"):
        graded(folder, "both-v1", tmp_path / "case", **options)


def test_the_command_line_tells_votes(folder, tmp_path, capsys):
    arguments = ["grade", str(folder / "slide0.png"), "--mpp", "0.5", "--out", str(tmp_path / "case"), "--gallery", "0",
                 "--weights", str(folder / "both-v1.json"), "--groups", "all", "--runtime", "keras"]  # fmt: skip
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "bags of tiles: grade" in told
    assert "coarse-v1: 4 groups of up to 5 tiles, votes" in told
