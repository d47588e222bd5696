"""Votes, the highest grade with both of its thresholds, areas and merged classes, by hand-worked tiles."""

from __future__ import annotations

import json

import numpy as np
import pytest

from digipath.errors import BadInput
from digipath.measure.tile_grades import (
    called,
    highest_grade,
    leading,
    mean_vote,
    merged,
    merged_truth,
    modular,
    most_and_least_certain,
    read_grades,
    share_at_confidence,
    vote_shares,
)

CLASSES = ("grade 2", "grade 3", "grade 4")
FIVE = np.array(
    [
        [0.9, 0.1, 0.0],
        [0.6, 0.3, 0.1],
        [0.5, 0.1, 0.4],
        [0.0, 0.45, 0.55],
        [0.1, 0.0, 0.9],
    ]
)


def tiles(**counts: int) -> np.ndarray:
    """So many sure tiles of grade 2, 3 and 4, called two, three and four."""
    return np.repeat(np.eye(3), [counts.get(name, 0) for name in ("two", "three", "four")], axis=0)


def test_modular_by_hand():
    joined = modular([0.8, 0.0, 1.0], [[0.25, 0.75], [0.4, 0.6], [0.5, 0.5]])
    np.testing.assert_allclose(joined, [[0.05, 0.15, 0.8], [0.4, 0.6, 0.0], [0.0, 0.0, 1.0]])


def test_modular_keeps_float32_and_sums_to_one():
    rng = np.random.default_rng(0)
    rest = rng.dirichlet([1, 1], 500).astype(np.float32)
    joined = modular(rng.random(500, dtype=np.float32), rest)
    assert joined.dtype == np.float32
    np.testing.assert_allclose(joined.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(joined[:, :2].argmax(axis=1), rest.argmax(axis=1))


@pytest.mark.parametrize(
    ("top", "rest"), [([0.5], [[0.5, 0.5]] * 2), ([1.1], [[0.5, 0.5]]), ([np.nan], [[0.5, 0.5]]), ([0.5], [[1.0]])]
)
def test_modular_refuses_what_does_not_fit(top, rest):
    with pytest.raises(BadInput):
        modular(top, rest)


def test_ties_go_to_the_higher_grade():
    np.testing.assert_array_equal(called([[0.4, 0.4, 0.2], [0.4, 0.2, 0.4], [0.5, 0.3, 0.2]]), [1, 2, 0])
    assert leading(vote_shares(tiles(two=2, four=2))) == 2
    assert leading(mean_vote([[0.7, 0.3, 0.0], [0.1, 0.5, 0.4]])) == 1  # both 0.4 but for rounding
    assert leading([0.5, 0.5 - 1e-3, 0]) == 0


def test_votes_by_hand():
    np.testing.assert_allclose(mean_vote(FIVE), [0.42, 0.19, 0.39])
    np.testing.assert_array_equal(vote_shares(FIVE), [0.6, 0, 0.4])


@pytest.mark.parametrize("share", [0.01, 0.03, 0.05, 0.07, 0.29, 0.57, 1.0])
def test_the_share_is_inclusive_and_exact(share):
    # 0.05 · 100 and 0.29 · 100 are not 5 and 29 in floats.
    enough = round(100 * share)
    assert highest_grade(tiles(two=100 - enough, four=enough), least_share=share, least_confidence=1) == 2
    if enough > 1:
        fewer = tiles(two=100 - enough + 1, four=enough - 1)
        assert highest_grade(fewer, least_share=share, least_confidence=1) in (0, None)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("confidence", [0.5, 0.6, 0.7, 0.9])
def test_the_confidence_is_inclusive_in_every_precision(dtype, confidence):
    one = np.array([[1 - confidence, 0, confidence]]).astype(dtype)
    assert highest_grade(one, least_share=1, least_confidence=confidence) == 2
    assert share_at_confidence(one, [confidence])[0, 2] == 1
    assert highest_grade(one, least_share=1, least_confidence=confidence + 0.01) is None


def test_the_highest_grade_is_the_highest_of_which_there_is_enough():
    mixed = tiles(two=90, three=6, four=4)
    assert highest_grade(mixed, least_share=0.05, least_confidence=0.5) == 1
    assert highest_grade(mixed, least_share=0.04, least_confidence=0.5) == 2
    assert highest_grade(mixed, least_share=0.5, least_confidence=0.5) == 0
    assert highest_grade(mixed, least_share=0.95, least_confidence=0.5) is None
    assert highest_grade(FIVE, least_share=0.2, least_confidence=0.9) == 2
    assert highest_grade(FIVE[:4], least_share=0.2, least_confidence=0.9) == 0  # the last is 0.55 sure of grade 4
    assert highest_grade(FIVE[1:4], least_share=0.2, least_confidence=0.9) is None


def test_a_share_of_nothing_still_needs_a_tile():
    assert highest_grade(tiles(two=3), least_share=0, least_confidence=0) == 0
    assert highest_grade(np.empty((0, 3)), least_share=0, least_confidence=0) is None


def test_a_readout_by_hand():
    readout = read_grades(FIVE, CLASSES, least_share=0.4, least_confidence=0.6, areas_mm2=[0.25, 0.25, 0.2, 0.2, 0.25])
    assert readout.tiles == 5
    assert readout.probabilities == pytest.approx({"grade 2": 0.42, "grade 3": 0.19, "grade 4": 0.39})
    assert readout.shares == {"grade 2": 0.6, "grade 3": 0, "grade 4": 0.4}
    assert readout.confident_shares == {"grade 2": 0.4, "grade 3": 0, "grade 4": 0.2}
    assert readout.areas_mm2 == pytest.approx({"grade 2": 0.7, "grade 3": 0, "grade 4": 0.45})
    assert (readout.mean_grade, readout.majority_grade, readout.highest_grade) == ("grade 2", "grade 2", "grade 2")
    assert read_grades(FIVE, CLASSES, least_share=0.4, least_confidence=0.5).highest_grade == "grade 4"


def test_the_three_answers_may_differ():
    # Two sure tiles of grade 3, three unsure ones of grade 2, one of grade 4.
    values = [[0, 1, 0]] * 2 + [[0.55, 0.45, 0]] * 3 + [[0.1, 0.1, 0.8]]
    readout = read_grades(values, CLASSES, least_share=0.1)
    assert (readout.mean_grade, readout.majority_grade, readout.highest_grade) == ("grade 3", "grade 2", "grade 4")


def test_a_record_is_json_and_holds_everything():
    record = read_grades(FIVE, CLASSES).to_record()
    assert json.loads(json.dumps(record)) == record
    assert record["least_share"] == 0.05
    assert record["least_confidence"] == 0.5
    assert record["areas_mm2"] is None
    assert record["shares"]["grade 4"] == 0.4


def test_one_tile():
    readout = read_grades([[0.2, 0.5, 0.3]], CLASSES, areas_mm2=[0.26])
    assert readout.mean_grade == readout.majority_grade == readout.highest_grade == "grade 3"
    assert readout.shares == {"grade 2": 0, "grade 3": 1, "grade 4": 0}
    assert readout.areas_mm2 == {"grade 2": 0, "grade 3": 0.26, "grade 4": 0}


@pytest.mark.parametrize("nothing", [[], np.empty((0, 3)), np.empty((0, 3), np.float32)])
def test_no_tile_is_no_grade(nothing):
    readout = read_grades(nothing, CLASSES, areas_mm2=[])
    assert readout.tiles == 0
    assert readout.mean_grade is readout.majority_grade is readout.highest_grade is None
    assert readout.probabilities == readout.shares == readout.confident_shares == readout.areas_mm2 == {}


def test_the_order_of_tiles_does_not_matter():
    rng = np.random.default_rng(3)
    values, areas = rng.dirichlet(np.ones(3), 999), rng.random(999)
    order = rng.permutation(999)
    assert read_grades(values, CLASSES, areas_mm2=areas) == read_grades(values[order], CLASSES, areas_mm2=areas[order])


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([[0.5, 0.5]], {}, r"\(n, 3\)"),
        ([[0.5, 0.5, 0.5]], {}, "sum to 1"),
        ([[1.5, -0.5, 0]], {}, r"in \[0, 1\]"),
        ([[np.nan, 0.5, 0.5]], {}, "NaN"),
        (FIVE, {"areas_mm2": [1, 2]}, "each of 5 tiles"),
        (FIVE, {"areas_mm2": [1, 2, 3, 4, -1]}, "at least 0"),
        (FIVE, {"least_share": 5}, "least_share"),
        (FIVE, {"least_confidence": -0.1}, "least_confidence"),
        ([], {"least_share": np.nan}, "least_share"),
    ],
)
def test_bad_input(values, options, message):
    with pytest.raises(BadInput, match=message):
        read_grades(values, CLASSES, **options)


def test_shares_at_confidences_by_hand():
    np.testing.assert_allclose(
        share_at_confidence(FIVE, [0, 0.55, 0.6, 0.91]),
        [[0.6, 0, 0.4], [0.4, 0, 0.4], [0.4, 0, 0.2], [0, 0, 0]],
    )
    np.testing.assert_array_equal(share_at_confidence(np.empty((0, 3)), [0.5]), [[0, 0, 0]])


def test_both_thresholds_can_be_read_from_the_shares():
    values = np.random.default_rng(4).dirichlet(np.ones(3), 200)
    for confidence, row in zip((0.4, 0.6, 0.8, 0.95), share_at_confidence(values, (0.4, 0.6, 0.8, 0.95)), strict=True):
        for share in (0.05, 0.1, 0.3):
            reached = np.flatnonzero(row >= share)
            expected = int(reached[-1]) if len(reached) else None
            assert highest_grade(values, least_share=share, least_confidence=confidence) == expected


def test_the_most_and_the_least_certain_tiles():
    (two, two_least), (three, three_least), (four, four_least) = most_and_least_certain(FIVE, 1)
    assert (two.tolist(), two_least.tolist()) == ([0], [2])
    assert (three.tolist(), three_least.tolist()) == ([], [])
    assert (four.tolist(), four_least.tolist()) == ([4], [3])
    # Where there are too few for both, none is shown twice.
    two, two_least = most_and_least_certain(FIVE, 5)[0]
    assert (two.tolist(), two_least.tolist()) == ([0, 1], [2])


def test_equally_certain_tiles_keep_their_order():
    most, least = most_and_least_certain(tiles(two=6), 2)[0]
    assert (most.tolist(), least.tolist()) == ([0, 1], [2, 3])


def test_merged_as_gbm_against_the_rest():
    groups = [[0, 1], [2]]
    np.testing.assert_allclose(merged(FIVE, groups)[:, 1], FIVE[:, 2])
    np.testing.assert_array_equal(merged_truth([0, 1, 2], groups), [0, 0, 1])


def test_merged_as_two_against_three():
    values = [[0.1, 0.3, 0.6], [0, 0, 1], [0.5, 0, 0.5]]
    np.testing.assert_allclose(merged(values, [[0], [1]]), [[0.25, 0.75], [0.5, 0.5], [1, 0]])
    np.testing.assert_array_equal(merged_truth([0, 2, 1], [[0], [1]]), [0, -1, 1])


@pytest.mark.parametrize("groups", [[[0, 1, 2]], [[0], []], [[0, 1], [1, 2]], [[0], [3]]])
def test_groups_that_cannot_be(groups):
    with pytest.raises(BadInput):
        merged(FIVE, groups)
