"""Tumour burden: hulls by hand-counted pixels, both rules, intervals, and what is defined to be so."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely

from digipath.errors import BadInput
from digipath.measure.burden import (
    NO_TISSUE,
    NO_TUMOUR,
    PAIP_HARD_THRESHOLD,
    PER_PIECE,
    RULES,
    SINGLE,
    Sizes,
    paip_scores,
    tumour_burden,
)
from digipath.measure.hulls import Extremes, Spans, hull_outline, running_count

NO_MORPHOLOGY = Sizes(smallest_um2=0, largest_hole_um2=0, close_um=0)

CRESCENT = [".###.", "#####", "##.##", "#...#"]  # 14 pixels, 18 in its hull
THIN_MOON = ["...##", ".##..", "##...", "##...", ".##..", "...##"]  # 12 pixels


def mask(rows, inside="#"):
    return np.array([[pixel in inside for pixel in row] for row in rows])


def burden_of(viable, tissue=None, mpp=1.0, **settings):
    settings = {"sizes": NO_MORPHOLOGY} | settings
    tissue = np.ones_like(viable, bool) if tissue is None else tissue
    return tumour_burden(np.where(viable, 0.9, 0.1).astype(np.float16), tissue, mpp, **settings)


def percents(found):
    return [one.percent for one in found.rules]


# ---- hulls ----


def disc(radius):
    y, x = np.mgrid[-radius - 2 : radius + 3, -radius - 2 : radius + 3]
    return x**2 + y**2 <= radius**2


def diamond(radius):
    y, x = np.mgrid[-radius - 2 : radius + 3, -radius - 2 : radius + 3]
    return abs(x) + abs(y) <= radius


def turned_square(side, angle):
    y, x = np.mgrid[-side : side + 1, -side : side + 1]
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    return np.maximum(abs(u), abs(v)) <= side / 2


def rectangle():
    out = np.zeros((30, 40), bool)
    out[4:21, 7:33] = True
    return out


@pytest.mark.parametrize(
    "shape",
    [*(disc(radius) for radius in (0, 1, 2, 5, 17, 44)), diamond(9), rectangle(),
     *(turned_square(25, angle) for angle in (0.1, 0.4, math.pi / 4, 1.2)), mask(["#"]), mask(["####"])],
)  # fmt: skip
def test_convex_shapes_have_exactly_all_of_their_hull(shape):
    found = burden_of(shape)
    assert percents(found) == [100.0, 100.0]
    assert found.by(SINGLE).interval == (100.0, 100.0)


@pytest.mark.parametrize("turn", range(4))
def test_a_crescent_has_the_share_of_its_hull_that_one_counts(turn):
    found = burden_of(np.rot90(mask(CRESCENT), turn), mpp=50.0)
    assert found.by(SINGLE).percent == pytest.approx(100 * 14 / 18, abs=1e-12)
    assert found.by(SINGLE).viable_mm2 == pytest.approx(14 * 0.0025)
    assert found.by(SINGLE).whole_mm2 == pytest.approx(18 * 0.0025)


def test_a_thin_moon():
    # The hull's right side runs down column 4; its rows hold, from the top, 2, 4, 5, 5, 4 and 2 pixels.
    found = burden_of(mask(THIN_MOON))
    assert found.by(SINGLE).percent == pytest.approx(100 * 12 / 22, abs=1e-12)


def test_glass_within_the_hull_is_no_part_of_the_whole_tumour():
    tissue = mask([".....", ".....", "..#..", "..#.."], inside=".")
    assert burden_of(mask(CRESCENT), tissue).by(SINGLE).percent == 87.5  # 14 of 16


def test_spans_hold_what_lies_in_the_hull_and_nothing_else():
    rng = np.random.default_rng(0)
    for _ in range(200):
        points = rng.random((rng.integers(1, 25), rng.integers(1, 25))) < rng.uniform(0.01, 0.3)
        corners = Extremes.of(points).corners()
        spans = Spans.within(corners)
        inside = spans.mask(points.shape)
        y, x = np.mgrid[: points.shape[0], : points.shape[1]]
        if points.any():
            hull = shapely.convex_hull(shapely.MultiPoint(np.argwhere(points)[:, ::-1]))
            expected = shapely.intersects(hull, shapely.points(x, y))
            np.testing.assert_array_equal(inside, expected)
            assert hull_outline(corners).area >= inside.sum() - 1e-9
        else:
            assert not inside.any()
        tissue = rng.random(points.shape) < 0.5
        assert spans.count(running_count(tissue)) == (inside & tissue).sum()


# ---- pieces of tissue ----

TWO_PIECES = ["##...____...##", "##...____...##", "##...____...##", "##...____...##"]


def two_pieces(**settings):
    return burden_of(mask(TWO_PIECES), ~mask(TWO_PIECES, inside="_"), **settings)


def test_two_pieces_of_tissue_by_both_rules():
    found = two_pieces()
    assert found.by(SINGLE).percent == 40.0  # 16 of the 40 pixels of tissue, all within one hull
    assert found.by(PER_PIECE).percent == 100.0  # a rectangle in each piece
    assert [len(one.hulls) for one in found.rules] == [1, 2]
    assert [hull.bounds for hull in found.by(PER_PIECE).hulls] == [(0, 0, 2, 4), (12, 0, 14, 4)]
    assert len(found.pieces) == 2


def test_pieces_across_a_gap_that_is_closed_are_one():
    joined = two_pieces(mpp=2.0, sizes=Sizes(0, 0, close_um=6.0))  # a gap of 8 µm
    assert percents(joined) == [40.0, 40.0]
    assert percents(two_pieces(mpp=2.0, sizes=Sizes(0, 0, close_um=3.0))) == [40.0, 100.0]


def test_nests_of_tumour_are_not_pieces():
    found = burden_of(mask(["#...#"]))
    assert percents(found) == [40.0, 40.0]


def test_a_piece_without_tumour_has_no_hull():
    viable = mask(TWO_PIECES)
    viable[:, 7:] = False
    found = burden_of(viable, ~mask(TWO_PIECES, inside="_"))
    assert percents(found) == [100.0, 100.0]
    assert [len(one.hulls) for one in found.rules] == [1, 1]


def test_outlines_are_scaled():
    found = two_pieces(l0_per_map_px=8.0)
    assert found.by(SINGLE).hulls[0].bounds == (0, 0, 112, 32)
    assert {piece.bounds for piece in found.pieces} == {(0, 0, 40, 32), (72, 0, 112, 32)}


def test_a_radius_larger_than_the_map_makes_one_piece_of_all():
    assert percents(two_pieces(sizes=Sizes(0, 0, close_um=1e9))) == [40.0, 40.0]


# ---- morphology ----


def test_small_objects_go_and_small_holes_are_filled():
    viable = np.zeros((60, 60), bool)
    viable[10:40, 10:40] = True
    viable[20:25, 20:25] = False  # 2,500 µm² at 10 µm
    viable[30, 30] = False
    viable[50:59, 50:59] = True  # 8,100 µm²
    found = burden_of(viable, mpp=10.0, sizes=Sizes())
    assert found.by(SINGLE).percent == pytest.approx(100 * (900 - 25) / 900)
    found = burden_of(viable, mpp=10.0, sizes=Sizes(smallest_um2=8100, largest_hole_um2=2501))
    assert found.viable.sum() == 900 + 81
    assert found.by(SINGLE).percent == pytest.approx(100 * 981 / 1583)  # pixels of the hull by Pick's theorem


def test_holes_in_the_tissue_are_not_filled():
    viable = np.ones((20, 20), bool)
    viable[5, 5] = viable[9, 9] = False
    tissue = np.ones((20, 20), bool)
    tissue[5, 5] = False
    found = burden_of(viable, tissue, mpp=10.0, sizes=Sizes())
    assert found.viable.sum() == 399
    assert not found.viable[5, 5]
    assert percents(found) == [100.0, 100.0]


def test_sizes_are_in_um_not_in_pixels():
    viable = np.zeros((40, 40), bool)
    viable[5:15, 5:15] = True
    viable[30:33, 30:33] = True
    coarse = burden_of(viable, mpp=20.0, sizes=Sizes())
    fine = burden_of(np.kron(viable, np.ones((4, 4), bool)), mpp=5.0, sizes=Sizes())
    assert percents(coarse) == percents(fine) == [100.0, 100.0]
    assert coarse.by(SINGLE).viable_mm2 == pytest.approx(fine.by(SINGLE).viable_mm2)


# ---- what is defined ----


def test_without_tissue_there_is_no_burden():
    found = burden_of(np.ones((4, 4), bool), np.zeros((4, 4), bool))
    assert found.reason == NO_TISSUE
    assert [(one.percent, one.interval, one.hulls) for one in found.rules] == [(None, None, ())] * 2
    assert [one.viable_mm2 for one in found.rules] == [0, 0]


def test_without_tumour_the_burden_is_0_and_says_so():
    found = burden_of(np.zeros((4, 4), bool))
    assert found.reason == NO_TUMOUR
    assert [(one.percent, one.interval, one.hulls) for one in found.rules] == [(0.0, (0.0, 0.0), ())] * 2


def test_a_map_without_pixels_has_no_burden():
    assert burden_of(np.zeros((0, 5), bool)).reason == NO_TISSUE


def test_tissue_without_a_prediction_counts_as_nothing():
    probability = np.array([[0.9, np.nan, 0.1, 0.9]])
    found = tumour_burden(probability, np.ones((1, 4)), 1.0, sizes=NO_MORPHOLOGY)
    assert found.by(SINGLE).percent == pytest.approx(200 / 3)
    assert any("without a prediction" in note for note in found.notes)


def test_without_a_resolution_there_are_shares_but_no_areas():
    found = burden_of(mask(CRESCENT), mpp=None, sizes=Sizes())
    assert found.by(SINGLE).percent == pytest.approx(100 * 14 / 18)
    assert (found.by(SINGLE).viable_mm2, found.by(SINGLE).whole_mm2, found.mpp) == (None, None, None)
    assert "resolution is unknown" in found.notes[0]


def test_nonsense_is_refused():
    with pytest.raises(BadInput, match="one shape"):
        tumour_burden(np.zeros((3, 3)), np.zeros((3, 4)), 1.0)
    with pytest.raises(BadInput, match="one shape"):
        tumour_burden(np.zeros((3, 3)), np.zeros((3, 3)), 1.0, spread=np.zeros((2, 2)))
    with pytest.raises(BadInput, match="threshold"):
        tumour_burden(np.zeros((3, 3)), np.zeros((3, 3)), 1.0, threshold=0)
    with pytest.raises(BadInput, match="mpp"):
        tumour_burden(np.zeros((3, 3)), np.zeros((3, 3)), 0.0)
    with pytest.raises(BadInput, match="at least 0"):
        Sizes(smallest_um2=-1)


# ---- intervals ----


def test_the_interval_spans_thresholds_around_the_one_given():
    probability = np.array([[0.9, 0.45, 0.1, 0.9]])  # at 0.4 the second pixel is viable too
    found = tumour_burden(probability, np.ones((1, 4)), 1.0, sizes=NO_MORPHOLOGY)
    assert found.by(SINGLE).percent == 50.0
    assert found.by(SINGLE).interval == (50.0, 75.0)
    assert not found.conformal
    assert not found.spread


def test_the_interval_spans_the_networks_spread():
    probability, spread = np.array([[0.9, 0.3, 0.1, 0.9]]), np.array([[0.0, 0.25, 0.0, 0.0]])
    found = tumour_burden(probability, np.ones((1, 4)), 1.0, sizes=NO_MORPHOLOGY, spread=spread)
    assert found.by(SINGLE).interval == (50.0, 75.0)
    assert found.spread


def test_a_quantile_widens_the_interval_within_0_to_100():
    probability = np.array([[0.9, 0.45, 0.1, 0.9]])
    quantiles = {SINGLE: 12.5, PER_PIECE: math.inf}
    found = tumour_burden(probability, np.ones((1, 4)), 1.0, sizes=NO_MORPHOLOGY, quantiles=quantiles, level=0.8)
    assert found.by(SINGLE).interval == (37.5, 87.5)
    assert found.by(PER_PIECE).interval == (0.0, 100.0)
    assert (found.conformal, found.level) == (True, 0.8)


def test_a_negative_quantile_never_leaves_the_estimate_out():
    probability = np.array([[0.9, 0.45, 0.1, 0.9]])
    found = tumour_burden(
        probability, np.ones((1, 4)), 1.0, sizes=NO_MORPHOLOGY, quantiles=dict.fromkeys(RULES, -20.0)
    )
    assert found.by(SINGLE).interval == (50.0, 55.0)


@pytest.mark.parametrize("seed", range(60))
def test_burdens_lie_in_0_to_100_whatever_the_map(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 60, 2))
    tissue = rng.random(shape) < rng.random()
    probability = rng.random(shape) ** rng.uniform(0.2, 5)
    probability[rng.random(shape) < 0.1] = np.nan
    found = tumour_burden(
        probability,
        tissue,
        float(rng.choice([0.5, 8.0, 40.0])),
        threshold=rng.uniform(0.05, 1),
        spread=rng.random(shape) * 0.5 if seed % 2 else None,
        quantiles=dict.fromkeys(RULES, rng.uniform(-5, 30)) if seed % 3 else None,
        sizes=Sizes(*rng.choice([0, 100, 10_000], 2), close_um=rng.choice([0, 20, 500])) if seed % 5 else NO_MORPHOLOGY,
    )
    for one in found.rules:
        if one.percent is None:
            assert found.reason == NO_TISSUE
            continue
        assert 0 <= one.interval[0] <= one.percent <= one.interval[1] <= 100
        assert one.viable_mm2 <= one.whole_mm2
        assert one.whole_mm2 <= tissue.sum() * found.mpp**2 / 1e6 + 1e-12
    if found.reason is None:  # hulls of pieces lie within the single one
        assert found.by(PER_PIECE).percent >= found.by(SINGLE).percent
    assert not (found.viable & ~tissue).any()


# ---- PAIP ----


def test_paip_scores_by_hand():
    truth, predicted = mask(["####...."]), mask(["..####.."])  # 2 of 6
    assert paip_scores(predicted, truth, (0.3, 0.5)) == pytest.approx((1 / 3, 0.8 / 3))
    assert paip_scores(predicted, truth, (0.3, 0.5), hard_threshold=PAIP_HARD_THRESHOLD) == (0.0, 0.0)
    assert paip_scores(truth, truth, (0.9, 0.5), hard_threshold=PAIP_HARD_THRESHOLD) == pytest.approx((1.0, 0.6))


def test_paip_burdens_are_shares():
    with pytest.raises(BadInput, match="shares in"):
        paip_scores(mask(["#"]), mask(["#"]), (30, 50))
