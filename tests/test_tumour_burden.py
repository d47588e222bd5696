"""`digipath.burden` and the verb `burden`: results of a run, intervals from the card, truths, files."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import digipath
from digipath.cli import main
from digipath.errors import BadInput, NotFound
from digipath.files import read_json, write_json
from digipath.measure.burden import PER_PIECE, RULES, SINGLE, Sizes
from digipath.tumour_burden import MapFrame, burden_input, burden_of, working_level
from digipath.weights import DEFAULT, member_cards
from digipath.where_to_look import look_here_input, where_to_look


def redness(patches):
    return patches[..., :1].astype(np.float32) / 255


def doubtful(patches):
    """The same, but less of it."""
    return redness(patches) * 0.5


redness.patch = doubtful.patch = 256
redness.classes = doubtful.classes = ("normal", "tumour")


@pytest.fixture(scope="module")
def once(small_slide, tmp_path_factory):
    """A finished case of two networks that disagree."""
    out = tmp_path_factory.mktemp("result") / "small.digipath"
    digipath.segment(small_slide.path, predictors=[redness, doubtful], out=out)
    return out


@pytest.fixture
def result(once, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(once, tmp_path / "small.digipath")


@pytest.fixture
def shipped(result):
    """The same as if the shipped networks had made it."""
    run = read_json(result / "run.json")
    run["weights"] = {"name": DEFAULT, "sha256": {one.name: one.record["sha256"] for one in member_cards(DEFAULT)}}
    write_json(result / "run.json", run)
    return result


def command(capsys, *words):
    code = main([str(word) for word in words])
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def quantiles():
    return digipath.show_weights(DEFAULT)["conformal"]["burden"]["quantiles"]


# ---- in Python ----


def test_a_result_has_a_burden_by_both_rules(result, small_slide):
    found = digipath.burden(result, threshold=0.55)
    assert [one.rule for one in found.rules] == list(RULES)
    assert found.mpp == 2.0  # so small a map has no coarser level
    assert found.spread
    assert not found.conformal
    assert any("not conformal" in note for note in found.notes)
    for one in found.rules:
        low, high = one.interval
        assert 0 <= low <= one.percent <= high <= 100
        assert one.viable_mm2 <= one.whole_mm2
    width, height = small_slide.size_l0
    left, top, right, bottom = found.by(SINGLE).hulls[0].bounds
    assert 0 <= left < right <= width + 8
    assert 0 <= top < bottom <= height + 8


def test_a_segmentation_and_its_folder_are_the_same(result):
    assert digipath.burden(digipath.open_result(result)) == digipath.burden(result)


def test_all_tissue_viable_is_all_of_the_hull_less_its_bays(result):
    found = digipath.burden(result, threshold=0.01)
    assert found.by(PER_PIECE).percent == pytest.approx(100, abs=0.5)
    assert found.by(PER_PIECE).viable_mm2 == pytest.approx(
        digipath.open_result(result).summary["tissue_mm2"], rel=0.1
    )


def test_intervals_are_widened_by_the_cards_quantile(result, shipped):
    spread = burden_of(digipath.open_result(result).maps, read_json(result / "run.json") | {"weights": {"name": "own"}})
    for level in (0.8, 0.9, 0.95):
        found = digipath.burden(shipped, level=level)
        assert found.conformal
        for rule, one, raw in zip(RULES, found.rules, spread.rules, strict=True):
            by = quantiles()[rule][f"{level:g}"]
            expected = max(0, min(one.percent, raw.interval[0] - by)), min(100, max(one.percent, raw.interval[1] + by))
            assert one.interval == pytest.approx(expected)
        assert any("No liver" in note for note in found.notes)


def test_another_threshold_or_other_weights_have_no_conformal_interval(shipped):
    assert not digipath.burden(shipped, threshold=0.4).conformal
    run = read_json(shipped / "run.json")
    run["weights"]["sha256"] = {name: "0" * 64 for name in run["weights"]["sha256"]}
    write_json(shipped / "run.json", run)
    assert not digipath.burden(shipped).conformal


def test_a_level_that_the_card_lacks_is_refused(shipped, result):
    with pytest.raises(BadInput, match=r"levels 0.8, 0.9, 0.95"):
        digipath.burden(shipped, level=0.5)
    with pytest.raises(BadInput, match="level must be in"):
        digipath.burden(result, level=1.0)


def test_no_result_no_burden(tmp_path):
    with pytest.raises(NotFound, match="no result"):
        digipath.burden(tmp_path)


class Pyramid:
    """The shapes of a stored map's levels."""

    def __init__(self, shape, levels, level=0):
        self.shape, self.levels = tuple(-(-side // 2**level) for side in shape), levels
        self._whole = shape

    def level(self, level):
        return Pyramid(self._whole, self.levels, level)


@pytest.mark.parametrize(
    ("shape", "mpp", "coarsest_um", "expected"),
    [((275, 375), 2.0, 8.0, 0), ((3000, 4000), 2.0, 8.0, 2), ((3000, 4000), 1.996, 8.0, 2), ((3000, 4000), 3.0, 8.0, 1),
     ((3000, 4000), 2.0, 0.0, 0), ((40_000, 9_000), 0.5, 0.0, 4), ((40_000, 9_000), 2.0, 8.0, 4),
     ((40_000, 9_000), None, 8.0, 4), ((3000, 4000), 20.0, 8.0, 0)],
)  # fmt: skip
def test_the_level_to_work_at(shape, mpp, coarsest_um, expected):
    levels = 1 + max(0, int(np.ceil(np.log2(max(shape) / 512))))
    assert working_level(Pyramid(shape, levels), mpp, coarsest_um) == expected


def test_the_frame_of_the_maps(once):
    frame = MapFrame.of(digipath.open_result(once).run)
    assert (frame.mpp, frame.l0_per_map_px, frame.size_l0) == (2.0, 4.0, (1500, 1100))
    assert (frame.at(2).mpp, frame.at(2).l0_per_map_px) == (8.0, 16.0)


def test_what_the_report_shows(result):
    found = digipath.burden(result)
    shown = burden_input(found)
    assert [rule.percent for rule in shown.rules] == [one.percent for one in found.rules]
    assert shown.rules[0].hulls_l0 == found.rules[0].hulls
    assert len(shown.tissue_l0) == len(found.pieces) > 0


def test_where_to_look_on_a_result(result):
    opened = digipath.open_result(result)
    found = where_to_look(opened.maps, opened.run)
    assert found  # the networks disagree about all tissue
    assert found[0].reason
    assert len(look_here_input(found)) == len(found)
    assert found[0].outline_l0.bounds[2] <= 1500
    without = {name: kept for name, kept in opened.maps.items() if name not in ("aleatoric", "epistemic")}
    assert where_to_look(without, opened.run) is None


# ---- at the command line ----


def test_the_verb_says_burden_interval_and_areas(result, capsys):
    code, out, err = command(capsys, "burden", result)
    assert (code, err) == (0, "")
    assert out.count("burden ") >= 2
    assert "mm² whole tumour" in out
    assert "research use only" in out


def test_json_and_files(result, tmp_path, capsys):
    code, out, _ = command(capsys, "burden", result, "--threshold", "0.6", "--json", "--out", tmp_path / "out")
    assert code == 0
    (record,) = json.loads(out)
    assert record["threshold"] == 0.6
    assert read_json(tmp_path / "out" / "burden.json") == [record]
    rows = list(csv.DictReader((tmp_path / "out" / "burden.csv").read_text().splitlines()))
    assert [row["rule"] for row in rows] == list(RULES)
    assert [float(row["percent"]) for row in rows] == [record["rules"][rule]["percent"] for rule in RULES]
    hulls = read_json(tmp_path / "out" / "small.hulls.geojson")["features"]
    assert {feature["properties"]["classification"]["name"] for feature in hulls} == {f"Burden: {r}" for r in RULES}


def test_scores_against_the_truth(result, small_slide, tmp_path, capsys):
    truth = tmp_path / "viable.png"
    Image.fromarray((small_slide.tumour_mask() * 255).astype(np.uint8)).save(truth)
    whole = tmp_path / "whole.png"
    Image.fromarray((small_slide.tissue_mask() * 255).astype(np.uint8)).save(whole)
    code, out, _ = command(capsys, "burden", result, "--truth", truth, "--truth-whole", whole, "--json")
    assert code == 0
    (record,) = json.loads(out)
    scores = record["scores"]
    expected = 100 * small_slide.tumour_mask().sum() / small_slide.tissue_mask().sum()
    for rule in RULES:
        one = scores["rules"][rule]
        assert one["true_percent"] == pytest.approx(expected, rel=0.05)
        assert one["absolute_error"] == pytest.approx(abs(record["rules"][rule]["percent"] - one["true_percent"]))
        assert one["task2"] == pytest.approx((1 - one["absolute_error"] / 100) * scores["task1"])
    code, out, _ = command(capsys, "burden", result, "--truth", truth)
    assert "PAIP task 1" in out
    assert "by rule" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--truth-whole", "x.png"], "needs --truth"), (["--threshold", "0"], "threshold"), (["--level", "2"], "level"),
     (["--truth", "none.png"], "none.png")],
)  # fmt: skip
def test_nonsense_is_one_line(result, capsys, words, message):
    code, out, err = command(capsys, "burden", result, *words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err


def test_a_truth_is_of_one_slide(result, capsys):
    code, _, err = command(capsys, "burden", result, result, "--truth", "x.png")
    assert code == 2
    assert "one slide" in err


# ---- the shipped card ----


def test_the_shipped_card_says_what_its_quantiles_are_and_are_not():
    entry = digipath.show_weights(DEFAULT)["conformal"]["burden"]
    assert "generated cases" in entry["data"]
    assert "single network" in entry["data"]
    assert "No liver" in entry["data"]
    assert entry["sizes"] == vars(Sizes())
    for rule in RULES:
        values = [entry["quantiles"][rule][level] for level in ("0.8", "0.9", "0.95")]
        assert values == sorted(values)
        assert 0 < values[0] < values[-1] < 50  # wider than the spread, and not trivial


def test_the_shipped_card_states_a_coverage_within_its_bounds():
    promised = [
        one for one in digipath.show_weights(DEFAULT)["conformal"]["burden"]["measured"]
        if one["condition"] == "errors as measured"
    ]  # fmt: skip
    assert len(promised) == 6
    for one in promised:
        assert one["cases"] >= 500
        assert one["bounds"][0] <= one["coverage"] <= one["bounds"][1]
        assert one["mean_length"] < 100
