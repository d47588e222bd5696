"""Shape descriptors: literals by hand, and scikit-image's own on random regions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import pdist
from skimage.measure import label, regionprops

from digipath.measure import strips as strips_module
from digipath.measure.regions import closed_regions, runs_of
from digipath.measure.shape import shapes_of
from digipath.measure.strips import strips

PROPERTIES = {
    "area": "area",
    "perimeter": "perimeter",
    "major_axis": "axis_major_length",
    "minor_axis": "axis_minor_length",
    "eccentricity": "eccentricity",
    "extent": "extent",
    "solidity": "solidity",
}


def runs_in(mask):
    (strip,) = strips([np.asarray(mask, float)], 0.5)
    return runs_of(strip)


def whole_regions(heatmap):
    found = ((strip, runs_of(strip)) for strip in strips([heatmap.astype(float)], 0.5))
    return closed_regions(found, heatmap.shape[1])


def shape_of(rows):
    runs = runs_in([[pixel == "#" for pixel in row] for row in rows])
    return {name: float(column[0]) for name, column in vars(shapes_of(runs, 0 * runs.row)).items()}


def test_a_pixel():
    assert shape_of(["...", ".#.", "..."]) == {
        "area": 1,
        "perimeter": 0,
        "major_axis": 0,
        "minor_axis": 0,
        "eccentricity": 0,
        "extent": 1,
        "solidity": 1,
        "diameter": pytest.approx(2**0.5),
    }


def test_a_line():
    found = shape_of(["#####"])
    assert found == {
        "area": 5,
        "perimeter": 3,  # scikit-image counts no length for the two ends
        "major_axis": pytest.approx(4 * 2**0.5),  # variance (5² − 1) / 12 = 2
        "minor_axis": 0,
        "eccentricity": 1,
        "extent": 1,
        "solidity": 1,
        "diameter": pytest.approx(26**0.5),
    }


def test_a_rectangle():
    assert shape_of(["####", "####", "####"]) == {
        "area": 12,
        "perimeter": 10,  # around the centres of its outer pixels
        "major_axis": pytest.approx(4 * (15 / 12) ** 0.5),
        "minor_axis": pytest.approx(4 * (8 / 12) ** 0.5),
        "eccentricity": pytest.approx((1 - 8 / 15) ** 0.5),
        "extent": 1,
        "solidity": 1,
        "diameter": 5,
    }


def test_a_diagonal_is_a_straight_line():
    found = shape_of(["#....", ".#...", "..#..", "...#.", "....#"])
    assert (found["area"], found["minor_axis"], found["eccentricity"]) == (5, 0, 1)
    assert found["major_axis"] == pytest.approx(8)  # variance 2 × 2
    assert found["diameter"] == pytest.approx(50**0.5)
    assert found["extent"] == 0.2
    assert found["solidity"] == 1  # no other centre lies between the pixels' sides


def test_a_square_is_round():
    assert shape_of(["####"] * 4)["eccentricity"] == 0


def test_a_corner_is_half_of_its_hull():
    found = shape_of(["#...", "#...", "#...", "####"])
    assert found["extent"] == 7 / 16
    assert found["solidity"] == 0.7  # of the triangle's 10
    assert found["diameter"] == pytest.approx(32**0.5)


def test_no_region_has_no_shape():
    runs = runs_in(np.zeros((3, 4)))
    assert [len(column) for column in vars(shapes_of(runs, runs.row)).values()] == [0] * 8


def maps():
    """Random maps of many kinds: grains, blobs, and regions that reach the map's edges."""
    for seed in range(12):
        generator = np.random.default_rng(seed)
        noise = generator.random(generator.integers(1, 50, 2))
        yield noise ** generator.choice([0.4, 1, 2])
        smooth = ndimage.gaussian_filter(noise, generator.uniform(0.7, 3))
        yield smooth / smooth.max() - 0.2
    yield ndimage.gaussian_filter(np.random.default_rng(1).random((400, 300)), 4) / 0.51 - 0.5


@pytest.mark.parametrize("strip_rows", [3, 64])
@pytest.mark.parametrize("heatmap", list(maps()))
def test_descriptors_are_those_of_scikit_image_however_the_map_is_read(heatmap, strip_rows, monkeypatch):
    monkeypatch.setattr(strips_module, "STRIP_ROWS", strip_rows)
    monkeypatch.setattr(strips_module, "READ_ROWS", 2 * strip_rows)
    expected = {tuple(region.coords[0]): region for region in regionprops(label(heatmap >= 0.5, connectivity=2))}
    seen = 0
    for runs, region in whole_regions(heatmap):
        shapes = shapes_of(runs, region)
        firsts = np.unique(region, return_index=True)[1]
        references = [expected[runs.row[first], runs.start[first]] for first in firsts]
        for name, theirs in PROPERTIES.items():
            values = [getattr(reference, theirs) for reference in references]
            np.testing.assert_allclose(getattr(shapes, name), values, rtol=1e-9, atol=1e-9, err_msg=name)
        for diameter, reference in zip(shapes.diameter, references, strict=True):
            if reference.area < 500:
                corners = (reference.coords[:, None] + [(0, 0), (0, 1), (1, 0), (1, 1)]).reshape(-1, 2)
                assert diameter == pytest.approx(pdist(corners).max(), rel=1e-12)
        seen += len(firsts)
    assert seen == len(expected)


def test_descriptors_do_not_depend_on_where_a_region_is_or_how_it_is_turned():
    disc = np.hypot(*np.mgrid[-20:21, -20:21]) < 18
    crescent = disc & ~np.roll(disc, 9, axis=1)
    big = np.zeros((3000, 5000), bool)
    big[2900:2941, 4900:4941] = crescent
    ((runs, region),) = whole_regions(crescent)
    expected = shapes_of(runs, region)
    for turned in (big, crescent.T, crescent[::-1], np.rot90(crescent)):
        ((runs, region),) = whole_regions(turned)
        for name, column in vars(shapes_of(runs, region)).items():
            np.testing.assert_allclose(column, getattr(expected, name), rtol=1e-12, err_msg=name)


def test_a_large_region_is_as_exact_as_a_small_one():
    """A full square of the size of a slide: its moments do not fit into 64 bits."""
    side = 200_000
    rows = np.arange(side)
    runs = runs_in(np.ones((1, 1)))
    many = {name: np.repeat(column, side, axis=0) for name, column in vars(runs).items()}
    large = type(runs)(**(many | {"row": rows, "stop": np.full(side, side)}))
    shapes = shapes_of(large, np.zeros(side, np.int64))
    assert shapes.area[0] == side**2
    assert shapes.major_axis[0] == pytest.approx(4 * ((side**2 - 1) / 12) ** 0.5, rel=1e-15)
    assert (shapes.eccentricity[0], shapes.solidity[0], shapes.extent[0]) == (0, 1, 1)
    assert shapes.diameter[0] == pytest.approx(side * 2**0.5, rel=1e-15)
