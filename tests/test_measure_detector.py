"""The example that measures how a detector errs: its fit finds the confidence that heatmaps were made with."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import example_scripts
import numpy as np
import pytest
import shapely

from digipath.synthetic.detector import DetectorErrors


@pytest.fixture(scope="module")
def example():
    return example_scripts.load("measure_detector")


def test_shrinking_is_the_logarithm_of_what_is_left(example):
    areas_um2 = np.array([[400.0, 400, 200, 100, 0], [0, 0, 0, 0, 0]]) * 64
    left = np.exp(example.shrinking(areas_um2))
    np.testing.assert_allclose(left, [[1, 201 / 401, 101 / 401, 1 / 401], [1, 1, 1, 1]])


def test_the_largest_lesion_comes_with_its_neighbours_and_their_surroundings(example):
    lesions = (shapely.box(0, 0, 800, 400), shapely.box(900, 0, 980, 80), shapely.box(5000, 0, 5100, 100))
    inside, shape = example._largest_cluster(lesions)
    assert shape == ((400 + 600) / 8, (980 + 600) / 8 + 0.5)
    assert [one.bounds for one in inside] == [(37.5, 37.5, 137.5, 87.5), (150, 37.5, 160, 47.5)]


@pytest.mark.slow
@pytest.mark.parametrize("inside_logit", [2.5, 4.0])
def test_the_fit_finds_the_confidence_that_lesions_were_seen_with(example, inside_logit):
    lesions = [(shapely.Point(0, 0).buffer(radius),) for radius in range(160, 400, 10)]
    known = replace(DetectorErrors.measured(), inside_logit=inside_logit, between_sd=0.5, miss_floor=0.0)
    seen = [
        example._seen_um2(*example._largest_cluster(each), known, seed) for seed, each in enumerate(lesions, 1000)
    ]
    tables = SimpleNamespace(lesions=lesions, shrinking=example.shrinking(np.array(seen)))
    found = example.confidence(tables, DetectorErrors.measured().to_record())
    assert found["inside_logit"] == pytest.approx(inside_logit, abs=0.4)
    assert found["between_sd"] == pytest.approx(0.5, abs=0.4)
