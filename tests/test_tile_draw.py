"""Which tiles are used: labels by slide and by outlines, at exactly the share asked for; draws that balance."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from made_up_tiles import CLASSES, TILE, case, outlines

from digipath.errors import BadInput, Cancelled, SlideNotFound
from digipath.stain import REFERENCES
from digipath.tiling import TileRule
from digipath.training.manifest import TrainingCase
from digipath.training.tile_draw import LabelledTile, draw_tiles, find_tiles, label_tiles

RULE = TileRule(0.5, TILE)


# ---- labels ----


def test_without_outlines_all_tiles_are_of_the_slide_s_class(tmp_path):
    found = label_tiles(case(tmp_path, "a", 64, 96, "grade 3"), RULE, classes=CLASSES)
    assert found == [((row, col), 1) for row in (0, 1) for col in (0, 1, 2)]


def test_tiles_with_too_little_slide_are_not_used(tmp_path):
    """The third row has 28 of 32 px: 87.5 %."""
    one = case(tmp_path, "a", 92, 32)
    assert [cell for cell, _ in label_tiles(one, RULE, classes=CLASSES)] == [(0, 0), (1, 0)]
    rule = replace(RULE, least_tissue=0.875)
    assert [cell for cell, _ in label_tiles(one, rule, classes=CLASSES)] == [(0, 0), (1, 0), (2, 0)]


def test_with_outlines_tiles_are_of_the_class_they_lie_in(tmp_path):
    """Left two columns of grade 2, the next of grade 4, the last of none; the slide itself is of grade 3."""
    drawn = outlines(tmp_path / "a.geojson", ("grade 2", 0, 0, 64, 64), ("grade 4", 64, 0, 96, 64))
    one = case(tmp_path, "a", 64, 128, "grade 3", annotation=drawn)
    assert dict(label_tiles(one, RULE, classes=CLASSES)) == {
        (0, 0): 0, (0, 1): 0, (0, 2): 2, (1, 0): 0, (1, 1): 0, (1, 2): 2,
    }  # fmt: skip


@pytest.mark.parametrize(("right", "used"), [(28.8, True), (28.7, False), (32.0, True)])
def test_exactly_the_least_share_is_enough(tmp_path, right, used):
    """28.8 of 32 columns are 90 %."""
    one = case(tmp_path, "a", 32, 32, annotation=outlines(tmp_path / "a.geojson", ("grade 2", 0, 0, right, 32)))
    assert bool(label_tiles(one, RULE, classes=CLASSES)) == used


@pytest.mark.parametrize(("right", "used"), [(18, True), (17, False)])
@pytest.mark.parametrize("mpp", [0.5, 1.0])
def test_of_an_image_smaller_than_a_tile_the_share_is_of_the_image(tmp_path, right, used, mpp):
    """18 of 20 columns are 90 %; what is outlined beyond the image counts for nothing."""
    beyond = ("grade 3", 0, 0, right, 30)
    one = case(tmp_path, "a", 24, 20, annotation=outlines(tmp_path / "a.geojson", beyond))
    assert label_tiles(one, replace(RULE, mpp=mpp), classes=CLASSES) == [((0, 0), 1)] * used


def test_several_outlines_of_a_class_count_together_and_no_place_twice(tmp_path):
    halves = [("grade 2", 0, 0, 16, 32), ("grade 2", 16, 0, 32, 32)]
    one = case(tmp_path, "a", 32, 32, annotation=outlines(tmp_path / "a.geojson", *halves))
    assert label_tiles(one, RULE, classes=CLASSES) == [((0, 0), 0)]
    twice = [("grade 2", 0, 0, 16, 32), ("grade 2", 0, 0, 15, 32)]
    one = replace(one, annotation=outlines(tmp_path / "b.geojson", *twice))
    assert label_tiles(one, RULE, classes=CLASSES) == []


def test_a_smaller_outline_takes_its_place_from_a_larger_one(tmp_path):
    for order in (1, -1):
        boxes = [("grade 2", 0, 0, 96, 32), ("grade 4", 32, 0, 64, 32)][::order]
        one = case(tmp_path, "a", 32, 96, annotation=outlines(tmp_path / "a.geojson", *boxes))
        assert label_tiles(one, RULE, classes=CLASSES) == [((0, 0), 0), ((0, 1), 2), ((0, 2), 0)]


def test_outlines_are_of_level_0_whatever_the_working_resolution(tmp_path):
    """At 1 µm per pixel a tile of 32 px is 64 of level 0."""
    drawn = outlines(tmp_path / "a.geojson", ("grade 3", 64, 64, 128, 128))
    one = case(tmp_path, "a", 128, 128, annotation=drawn)
    assert label_tiles(one, replace(RULE, mpp=1.0), classes=CLASSES) == [((1, 1), 1)]


def test_all_cases_are_looked_at_in_their_order(tmp_path):
    cases = [case(tmp_path, name, 32, 64, label) for name, label in zip("abc", CLASSES, strict=True)]
    reports = []
    found = find_tiles(cases, RULE, classes=CLASSES, progress=reports.append)
    assert found == tuple(LabelledTile(n, (0, col), n) for n in range(3) for col in (0, 1))
    assert [(report.done, report.total) for report in reports] == [(1, 3), (2, 3), (3, 3)]
    assert reports[-1].message == "looking for tiles: 6 tiles found"
    with pytest.raises(Cancelled):
        find_tiles(cases, RULE, classes=CLASSES, cancel=lambda: True)
    with pytest.raises(SlideNotFound, match=r"gone\.png"):
        find_tiles([*cases, replace(cases[0], slide=tmp_path / "gone.png")], RULE, classes=CLASSES)


def test_a_stain_that_cannot_be_fitted_is_told_before_any_tile_is_drawn(tmp_path):
    """A picture of one colour."""
    one = case(tmp_path, "a", 32, 32)
    assert len(find_tiles([one], RULE, classes=CLASSES)) == 1
    with pytest.raises(BadInput, match=r'in a training leave the slide out or set stain = "none": .*a\.png') as caught:
        find_tiles([one], RULE, classes=CLASSES, stain=REFERENCES["macenko"])
    assert "\n" not in str(caught.value)


def test_refused_labels(tmp_path):
    one = case(tmp_path, "a", 32, 32, "GBM")
    with pytest.raises(BadInput, match=r"expected a label among .*, got 'GBM'.*a\.png"):
        label_tiles(one, RULE, classes=CLASSES)
    with pytest.raises(BadInput, match=r"expected least_label in \(0, 1\]"):
        label_tiles(one, RULE, classes=CLASSES, least_label=0.0)


# ---- draws ----


def pool(case_number, label, count):
    return [LabelledTile(case_number, (number // 10, number % 10), label) for number in range(count)]


def cases_of(*names):
    return [TrainingCase(name, None, None, name) for name in names]


CASES = cases_of("a", "b", "c", "d", "e", "f")
CANDIDATES = {
    "train": [*pool(0, 0, 100), *pool(1, 1, 300)],
    "validation": [*pool(2, 0, 40), *pool(3, 1, 500)],
    "test": [*pool(4, 0, 50), *pool(5, 1, 30)],
}


def counts(drawn):
    return {part: dict(sorted(Counter(tile.label for tile in tiles).items())) for part, tiles in drawn.items()}


def draw(candidates=CANDIDATES, cases=CASES, **options):
    return draw_tiles(candidates, cases, **{"classes": CLASSES[:2], "seed": 1, **options})


@pytest.mark.parametrize(
    ("per_class", "expected"),
    [
        (None, (90, 30, 30)),  # the 30 of the second class to test on are a fifth of 150
        (100, (60, 20, 20)),
        (1000, (90, 30, 30)),
        (11, (6, 2, 2)),
        (1, (1, 1, 1)),
    ],
)
def test_parts_stand_as_asked_and_classes_balance(per_class, expected):
    drawn = draw(per_class=per_class)
    assert counts(drawn) == {part: {0: count, 1: count} for part, count in zip(CANDIDATES, expected, strict=True)}
    for part, tiles in drawn.items():
        assert len(set(tiles)) == len(tiles)
        assert set(tiles) <= set(CANDIDATES[part])


def test_other_shares():
    assert counts(draw(shares=(0.5, 0.25, 0.25))) == {
        "train": {0: 60, 1: 60}, "validation": {0: 30, 1: 30}, "test": {0: 30, 1: 30},
    }  # fmt: skip


def test_the_draw_depends_on_the_seed_and_not_on_the_order():
    drawn = draw()
    turned = {part: tiles[::-1] for part, tiles in CANDIDATES.items()}
    assert draw(turned) == drawn
    # The same cases with other numbers.
    renumbered = {part: [replace(tile, case=5 - tile.case) for tile in tiles] for part, tiles in CANDIDATES.items()}
    again = draw(renumbered, CASES[::-1])
    assert {p: [replace(tile, case=5 - tile.case) for tile in tiles] for p, tiles in again.items()} == {
        part: list(tiles) for part, tiles in drawn.items()
    }
    assert draw(seed=2) != drawn


def test_every_tile_is_as_likely_as_any_other():
    seen = Counter(tile for seed in range(200) for tile in draw(seed=seed, per_class=50)["train"] if tile.label == 0)
    times = np.array([seen[tile] for tile in pool(0, 0, 100)])  # 30 of 100, 200 times
    assert times.mean() == 60
    assert 35 < times.min() <= times.max() < 85


def test_a_class_without_tiles_in_a_part_is_named():
    candidates = {**CANDIDATES, "validation": CANDIDATES["validation"][:40]}
    with pytest.raises(BadInput, match=r"expected tiles of 'grade 3' in validation, found none on 1 slide") as caught:
        draw(candidates)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": (0.6, 0.2)}, "expected shares above 0 that sum to 1, one for each of"),
        ({"shares": (0.6, 0.4, 0.0)}, "expected shares above 0"),
        ({"shares": (0.6, 0.2, 0.3)}, "expected shares above 0 that sum to 1"),
        ({"per_class": 0}, "expected at least 1 tile per class"),
    ],
)
def test_refused_draws(options, message):
    with pytest.raises(BadInput, match=message):
        draw(**options)
