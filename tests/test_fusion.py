"""Votes of several networks as one, and of classes that mean others, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from digipath.errors import BadInput
from digipath.measure.fusion import fused, leader, mapped
from digipath.measure.repeated_runs import soft_vote

GRADES = ("grade 2", "grade 3", "grade 4")
LOW_HIGH = {"grade 2": "LGG", "grade 3": "LGG", "grade 4": "HGG"}
VOTES = {"20x": [0.6, 0.3, 0.1], "10x": [0.2, 0.2, 0.6], "mri": [0.1, 0.1, 0.8]}


# ---- votes ----


def test_a_vote_of_all_alike_is_their_mean():
    np.testing.assert_allclose(fused(VOTES), [0.3, 0.2, 0.5])
    np.testing.assert_array_equal(fused(VOTES), soft_vote([[vote] for vote in VOTES.values()])[0])


def test_a_weighted_vote_by_hand():
    # (2 · 0.6 + 0.2 + 0.1) / 4, (2 · 0.3 + 0.2 + 0.1) / 4, (2 · 0.1 + 0.6 + 0.8) / 4
    np.testing.assert_allclose(fused(VOTES, {"20x": 2, "10x": 1, "mri": 1}), [0.375, 0.225, 0.4])
    np.testing.assert_allclose(fused(VOTES, {"20x": 1, "10x": 0.5, "mri": 0.5}), [0.375, 0.225, 0.4])


def test_those_that_are_there_share_the_whole_vote_in_their_proportions():
    weights = {"20x": 3.0, "10x": 1.0, "mri": 4.0}
    without_mri = {name: vote for name, vote in VOTES.items() if name != "mri"}
    found = fused(without_mri, weights)
    np.testing.assert_allclose(found, [0.5, 0.275, 0.225])  # 3/4 and 1/4
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(fused({"mri": VOTES["mri"]}, weights), VOTES["mri"])


def test_a_member_of_weight_0_does_not_count_and_the_order_does_not_matter():
    weights = {"20x": 1.0, "10x": 1.0, "mri": 0.0}
    np.testing.assert_allclose(fused(VOTES, weights), [0.4, 0.25, 0.35])
    np.testing.assert_allclose(fused(dict(reversed(VOTES.items())), weights), [0.4, 0.25, 0.35])


@pytest.mark.parametrize(
    ("votes", "weights", "message"),
    [
        ({}, None, "no member"),
        ({"a": [0.5, 0.5], "b": [0.2, 0.3, 0.5]}, None, "of one shape"),
        ({"a": [0.5, 0.6]}, None, "sum to 1"),
        ({"a": [1.0]}, None, "C ≥ 2"),
        (VOTES, {"20x": 1.0}, "none for 10x, mri"),
        (VOTES, dict.fromkeys(VOTES, 0.0), "not all 0"),
        (VOTES, dict.fromkeys(VOTES, -1.0), "a weight ≥ 0"),
        (VOTES, dict.fromkeys(VOTES, float("nan")), "a weight ≥ 0"),
        ({"mri": VOTES["mri"]}, {"20x": 1.0, "mri": 0.0}, "not all 0"),
    ],
)
def test_votes_that_are_refused(votes, weights, message):
    with pytest.raises(BadInput, match=message):
        fused(votes, weights)


# ---- classes that mean others ----


@pytest.mark.parametrize(("vote", "index"), [((0.5, 0.2, 0.3), 0), ((0.4, 0.2, 0.4), 2), ((0, 1, 0), 1)])
def test_of_equal_classes_the_highest_grade_leads(vote, index):
    assert leader(vote) == index


def test_classes_that_mean_one_are_added():
    np.testing.assert_allclose(mapped([0.2, 0.3, 0.5], GRADES, LOW_HIGH, ("LGG", "HGG")), [0.5, 0.5])
    np.testing.assert_allclose(mapped([0.6, 0.3, 0.1], GRADES, LOW_HIGH, ("HGG", "LGG")), [0.1, 0.9])


def test_classes_may_only_be_named_or_ordered_otherwise():
    same = {name: name for name in GRADES}
    np.testing.assert_array_equal(mapped([0.2, 0.3, 0.5], GRADES, same, GRADES), [0.2, 0.3, 0.5])
    turned = ("grade 4", "grade 2", "grade 3")
    np.testing.assert_array_equal(mapped([0.2, 0.3, 0.5], GRADES, same, turned), [0.5, 0.2, 0.3])
    renamed = mapped([0.25, 0.75], ("low", "high"), {"low": "LGG", "high": "HGG"}, ("LGG", "HGG"))
    np.testing.assert_array_equal(renamed, [0.25, 0.75])


def test_members_of_other_classes_vote_together():
    slides = mapped([0.2, 0.3, 0.5], GRADES, LOW_HIGH, ("LGG", "HGG"))
    np.testing.assert_allclose(fused({"slides": slides, "mri": [0.1, 0.9]}, {"slides": 1, "mri": 3}), [0.2, 0.8])


@pytest.mark.parametrize(
    ("probabilities", "mapping", "to_classes", "message"),
    [
        ([0.2, 0.3, 0.5], {"grade 2": "LGG", "grade 4": "HGG"}, ("LGG", "HGG"), "each of grade 2, grade 3, grade 4"),
        ([0.2, 0.3, 0.5], LOW_HIGH | {"grade 1": "LGG"}, ("LGG", "HGG"), "expected a mapping"),
        ([0.2, 0.3, 0.5], LOW_HIGH, ("LGG", "HGG", "other"), "reaches each of LGG, HGG, other"),
        ([0.2, 0.3, 0.5], LOW_HIGH, ("LGG", "GBM"), "reaches each of LGG, GBM"),
        ([0.5, 0.5], LOW_HIGH, ("LGG", "HGG"), r"\(n, 3\)"),
        ([0.2, 0.3, 0.9], LOW_HIGH, ("LGG", "HGG"), "sum to 1"),
    ],
)
def test_mappings_that_are_refused(probabilities, mapping, to_classes, message):
    with pytest.raises(BadInput, match=message):
        mapped(probabilities, GRADES, mapping, to_classes)
