"""One network's grade is the hard vote over its groups, that of several their soft vote, where these differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from digipath.grading.bags import SlideBags
from digipath.grading.maps import bags_record
from digipath.values import Card

NONE = np.empty((0, 2), np.int64)


def card(name):
    record = {"name": name, "classes": ["grade 2", "grade 3", "grade 4"], "input": {"mpp": 0.5}}
    return Card(Path(f"{name}.json"), record)


def seen(*groups):
    groups = np.array(groups, np.float32).reshape(-1, 3)
    return SlideBags(groups, 600, 200, None, NONE, np.empty((0, 3), np.float32), None, NONE)


# Two groups of three lean to grade 2; the third is sure of grade 3, which so has the higher mean.
TORN = seen((0.51, 0.49, 0.0), (0.51, 0.49, 0.0), (0.0, 1.0, 0.0))


def test_one_network_is_called_by_its_hard_vote():
    found = bags_record([card("a")], [TORN])
    assert found["members"]["a"]["votes"] == pytest.approx({"grade 2": 2 / 3, "grade 3": 1 / 3, "grade 4": 0})
    assert found["probabilities"] == pytest.approx({"grade 2": 0.34, "grade 3": 0.66, "grade 4": 0})
    assert found["grade"] == "grade 2"


def test_several_networks_are_called_by_their_soft_vote():
    found = bags_record([card("a"), card("b")], [TORN, TORN])
    assert (found["grade"], found["networks"]) == ("grade 3", 2)


def test_a_network_that_saw_nothing_has_no_say_and_tied_votes_are_told_apart_by_the_mean():
    found = bags_record([card("a"), card("b")], [TORN, seen()])
    assert (found["grade"], found["networks"], found["members"]["b"]["votes"]) == ("grade 2", 1, None)
    tied = bags_record([card("a")], [seen((0.9, 0.1, 0.0), (0.0, 0.6, 0.4))])
    assert tied["grade"] == "grade 2"
    assert bags_record([card("a")], [seen()])["grade"] is None
