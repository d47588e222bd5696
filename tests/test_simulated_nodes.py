"""Simulated nodes: real outlines go in, nodes of the asked category come out."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import shapely

from digipath.errors import BadInput
from digipath.measure.lesions import find_lesions, join_fragments, slide_category
from digipath.measure.pn_stage import CATEGORIES, size_category
from digipath.synthetic.detector import DetectorErrors
from digipath.training.simulated_nodes import (
    Outlines,
    largest_metastasis_um,
    make_node,
    read_outlines_json,
)


def outlines() -> Outlines:
    """Lesions of 120 µm, 900 µm and 4 mm on slides of their own, and tissue of 9 and 16 mm²."""
    lesions = {
        "small": (shapely.Point(0, 0).buffer(60),),
        "middle": (shapely.Point(0, 0).buffer(450), shapely.Point(5000, 0).buffer(50)),
        "large": (shapely.box(0, 0, 4000, 1500),),
    }
    tissue = {"one": (shapely.box(0, 0, 3000, 3000),), "two": (shapely.box(0, 0, 2000, 8000),)}
    return Outlines(lesions, tissue)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("seed", range(5))
def test_a_node_is_of_the_category_that_was_asked_for(category, seed):
    node = make_node(category, outlines(), rng(seed), mpp=8.0)
    assert node.category == category
    assert size_category(node.diameter_um) == category
    um = [shapely.transform(lesion, lambda xy: xy * 8.0) for lesion in node.lesions_px]
    assert (largest_metastasis_um(um) is None) == (category == "negative")
    if um:
        assert largest_metastasis_um(um) == pytest.approx(node.diameter_um, rel=1e-6)


@pytest.mark.parametrize("category", CATEGORIES[1:])
def test_lesions_lie_on_tissue_and_all_tissue_is_there(category):
    node = make_node(category, outlines(), rng(3), mpp=8.0)
    rows, columns = node.tissue.shape
    for lesion in node.lesions_px:
        left, top, right, bottom = lesion.bounds
        assert left >= 0
        assert top >= 0
        assert right <= columns
        assert bottom <= rows
        x, y = (int(value) for value in lesion.representative_point().coords[0])
        assert node.tissue[y, x]
    assert node.tissue.sum() * 64e-6 >= 9 * 0.8**2  # the smaller tissue at the smallest scale


def test_the_size_rule_gives_back_the_category_where_the_detector_is_perfect():
    errors = DetectorErrors(8, 5, -5, -5, 0.01, 0, 0, 0, 16, 0, 1e-9, 4, 0, 1, 80, 0, 3, 1)
    wrong = 0
    for seed in range(20):
        node = make_node("macro", outlines(), rng(seed), mpp=8.0)
        heatmap = node.heatmap(errors, rng(seed))
        found = find_lesions(heatmap, map_mpp=8.0, l0_per_map_px=1.0)
        wrong += slide_category(join_fragments(found)) != "macro"
    assert wrong == 0


def test_the_same_seed_gives_the_same_node():
    one, again, other = (make_node("micro", outlines(), rng(seed), mpp=8.0) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.tissue, again.tissue)
    assert one.lesions_px == again.lesions_px
    assert one.diameter_um != other.diameter_um


def test_parts_share_no_slide_and_lose_none():
    whole = outlines()
    parts = whole.split((0.5, 0.25, 0.25), rng())
    for kind in ("lesions", "tissue"):
        names = [name for part in parts for name in getattr(part, kind)]
        assert sorted(names) == sorted(getattr(whole, kind))


def test_what_outlines_cannot_make_is_refused():
    only_small = Outlines({"small": (shapely.Point(0, 0).buffer(20),)}, outlines().tissue)
    with pytest.raises(BadInput, match="macro, got none"):
        make_node("macro", only_small, rng(), mpp=8.0)
    with pytest.raises(BadInput, match="'huge'"):
        make_node("huge", outlines(), rng(), mpp=8.0)


def write(path, slides) -> None:
    path.write_bytes(gzip.compress(json.dumps(slides).encode()))


def test_outlines_are_read_with_holes_in_um_and_without_the_slides_edges(tmp_path):
    square = [[0, 0], [1000, 0], [1000, 1000], [0, 1000]]
    hole = [[100, 100], [200, 100], [200, 200], [100, 200]]
    edge = [[0, 0], [10000, 0], [10000, 50], [0, 50]]
    write(tmp_path / "o.json.gz", {
        "Tumor_1": {"positive": [square], "negative": [hole]},
        "Normal_1": {"positive": [], "negative": [[[0, 0], [4000, 0], [4000, 4000], [0, 4000]], edge]},
    })  # fmt: skip
    found = read_outlines_json(tmp_path / "o.json.gz", 0.5)
    (lesion,) = found.lesions["Tumor_1"]
    assert lesion.area == pytest.approx((1000 * 1000 - 100 * 100) * 0.25)
    (piece,) = found.tissue["Normal_1"]
    assert piece.area == pytest.approx(4000 * 4000 * 0.25)


@pytest.mark.parametrize("text", [None, b"{", b'{"a": {"positive": []}}'], ids=["no gzip", "no JSON", "no outlines"])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "o.json.gz").write_bytes(b"plain" if text is None else gzip.compress(text))
    with pytest.raises(BadInput, match=r"o\.json\.gz"):
        read_outlines_json(tmp_path / "o.json.gz", 0.5)


@pytest.mark.real_data
def test_real_outlines_make_nodes_of_every_category(shared_data):
    found = read_outlines_json(shared_data / "camelyon16_lesions" / "lesions.json.gz", 0.243)
    assert (len(found.lesions), len(found.tissue)) == (74, 103)
    for category in CATEGORIES:
        assert make_node(category, found, rng(), mpp=8.0).category == category
