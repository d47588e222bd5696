"""Where to look: the region whose flip decides comes first, and says so."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from scipy import ndimage

from digipath.errors import BadInput
from digipath.measure.lesions import find_lesions, join_fragments, slide_category
from digipath.measure.look_here import look_here
from digipath.measure.pn_stage import CATEGORIES


def maps(shape=(300, 600)):
    return np.full(shape, 0.1, np.float32), np.zeros(shape, np.float32)


def add(probability, uncertainty, box, value, doubt=0.0):
    top, bottom, left, right = box
    probability[top:bottom, left:right] = value
    uncertainty[top:bottom, left:right] = doubt


def look(probability, uncertainty, **settings):
    tissue = np.ones(probability.shape, bool)
    return look_here(probability, uncertainty, **{"map_mpp": 10.0, "l0_per_map_px": 20.0, "tissue": tissue} | settings)


@pytest.fixture
def decisive():
    """A certain lesion of 1.5 mm whose doubtful end makes it 2.3 mm, and a doubtful region that decides nothing."""
    given = maps()
    add(*given, (100, 120, 100, 250), 0.95)
    add(*given, (100, 120, 250, 330), 0.55, 0.2)
    add(*given, (200, 240, 400, 440), 0.45, 0.3)
    return given


def test_the_region_that_decides_between_micro_and_macro_comes_first(decisive):
    first, *others = look(*decisive)
    assert (first.category_with, first.category_without) == ("macro", "micro")
    assert "between micro and macro" in first.reason
    assert first.outline_l0.equals(shapely.box(250 * 20, 100 * 20, 330 * 20, 120 * 20))
    assert first.outline_l0.contains(shapely.Point(first.centre_l0))
    assert first.area_um2 == pytest.approx(20 * 80 * 100)
    assert (first.mean_probability, first.mean_uncertainty) == pytest.approx((0.55, 0.2))
    assert [one.category_with for one in others] == ["macro"]
    assert all(one.category_with == one.category_without for one in others)


def test_without_burden_only_what_changes_the_category_is_listed(decisive):
    (only,) = look(*decisive, readouts=["pn_stage"])
    assert only.steps == 1
    assert only.burden_change is None


def test_a_doubtful_bridge_decides_too():
    """Two lesions of 1.2 mm, 200 µm apart: joined by what is between them they are a macrometastasis."""
    given = maps()
    add(*given, (100, 120, 50, 170), 0.95)
    add(*given, (100, 120, 190, 310), 0.95)
    add(*given, (105, 115, 170, 190), 0.4, 0.2)
    (only,) = look(*given, readouts=["pn_stage"])
    assert (only.category_with, only.category_without) == ("macro", "micro")


def test_the_only_region_decides_whether_there_is_any():
    given = maps()
    add(*given, (100, 105, 100, 110), 0.6, 0.2)
    (only,) = look(*given, readouts=["pn_stage"])
    assert (only.category_with, only.category_without) == ("itc", "negative")


def test_the_largest_change_of_burden_comes_first():
    given = maps()
    add(*given, (20, 120, 20, 120), 0.95)
    add(*given, (40, 80, 120, 160), 0.5, 0.2)  # next to it: adds 1,600 pixels to tumour and hull
    add(*given, (240, 280, 540, 580), 0.5, 0.2)  # as large, but far off: the hull spans all between
    first, second = look(*given, readouts=["burden"])
    assert first.outline_l0.centroid.x > second.outline_l0.centroid.x
    assert first.burden_change > second.burden_change
    # Pixels of the hulls by Pick's theorem: of all three, and without the one far off.
    assert first.burden_change == pytest.approx(100 * 11_600 / 12_760 - 100 * 13_200 / 52_750)
    assert "changes the burden by" in first.reason
    assert (first.category_with, first.category_without) == (None, None)


def test_burden_change_by_hand():
    given = maps((4, 12))
    add(*given, (0, 4, 0, 4), 0.9)
    add(*given, (0, 4, 10, 12), 0.5, 0.2)
    (only,) = look(*given, map_mpp=None, readouts=["burden"])
    assert only.burden_change == pytest.approx(50.0)  # 16 of 16, or 24 of 48
    assert only.area_um2 is None
    assert only.reason == "changes the burden by 50.0 percentage points"


def test_regions_that_are_certain_or_change_nothing_are_not_listed():
    given = maps()
    add(*given, (100, 200, 100, 400), 0.95)
    add(*given, (120, 130, 120, 130), 0.7, 0.1)
    assert look(*given) == []
    assert look(*given, width=3.0, readouts=["pn_stage"]) == []


def test_unpredicted_tissue_and_glass_are_never_doubtful():
    given = maps()
    add(*given, (100, 120, 100, 120), np.nan, 0.5)
    add(*given, (100, 120, 300, 320), 0.5, 0.5)
    tissue = np.ones((300, 600), bool)
    tissue[:, 300:] = False
    assert look(*given, tissue=tissue) == []


def test_outlines_end_where_the_slide_does():
    given = maps((40, 40))
    add(*given, (20, 40, 20, 40), 0.5, 0.3)
    (only,) = look(*given, size_l0=(790, 785), readouts=["pn_stage"])
    assert only.outline_l0.equals(shapely.box(400, 400, 790, 785))


@pytest.mark.parametrize("seed", range(25))
def test_categories_are_those_of_the_whole_map_measured_again(seed):
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(90, 110)), rng.uniform(1.5, 4))
    probability = np.clip(0.5 + 0.25 * noise / noise.std() - rng.uniform(0, 0.4), 0, 1)
    doubt = ndimage.gaussian_filter(rng.normal(size=(90, 110)), 4)
    uncertainty = np.clip(doubt / doubt.std(), 0, None) * 0.1
    mpp = rng.choice([4.0, 10.0, 25.0])

    def category(tumour):
        return slide_category(join_fragments(find_lesions(tumour.astype(float), map_mpp=mpp, l0_per_map_px=2.0)))

    undecided, _ = ndimage.label(
        (abs(probability.astype(np.float32) - 0.5) <= uncertainty.astype(np.float32)) & (uncertainty > 0),
        np.ones((3, 3)),
    )
    found = look(probability, uncertainty, map_mpp=mpp, l0_per_map_px=2.0)
    flips = 0
    for one in found:
        x, y = one.centre_l0
        region = undecided == undecided[int(y // 2), int(x // 2)]
        assert one.area_um2 == pytest.approx(region.sum() * mpp**2)
        assert one.category_with == category((probability >= 0.5) | region)
        assert one.category_without == category((probability >= 0.5) & ~region)
        flips += one.steps > 0
    listed = {undecided[int(one.centre_l0[1] // 2), int(one.centre_l0[0] // 2)] for one in found if one.steps}
    for number in range(1, undecided.max() + 1):  # and none is forgotten
        region = undecided == number
        if region.sum() * mpp**2 >= 100 and number not in listed:
            assert category((probability >= 0.5) | region) == category((probability >= 0.5) & ~region)
    ranks = [(abs(CATEGORIES.index(one.category_with) - CATEGORIES.index(one.category_without)), one.burden_change)
             for one in found]  # fmt: skip
    assert ranks == sorted(ranks, reverse=True)


def test_nonsense_is_refused():
    with pytest.raises(BadInput, match="one shape"):
        look(np.zeros((4, 4)), np.zeros((4, 5)))
    with pytest.raises(BadInput, match="readouts"):
        look(np.zeros((4, 4)), np.zeros((4, 4)), readouts=["grade"])
    with pytest.raises(BadInput, match="threshold"):
        look(np.zeros((4, 4)), np.zeros((4, 4)), threshold=0)
