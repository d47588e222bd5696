"""Training tiles and bags on files: rounds, classes, unreadable tiles, threads, and the batches made of them."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from made_up_tiles import TILE, case, where

from digipath.errors import BadInput, SlideUnreadable
from digipath.grading.tile_frames import open_frame
from digipath.stain import REFERENCES
from digipath.synthetic import write_slide
from digipath.tile_augment import COLOUR_JITTER, GEOMETRIC, TileAugmentation
from digipath.tiling import TileRule
from digipath.training import tile_source
from digipath.training.data import keras_batches, tensorflow_batches
from digipath.training.grading_runs import _chunks
from digipath.training.manifest import TrainingCase
from digipath.training.tile_draw import LabelledTile
from digipath.training.tile_source import BagSource, TileSource, channel_scaling

RULE = TileRule(0.5, TILE)


@pytest.fixture
def cases(tmp_path):
    """Two pictures of 3 × 4 tiles."""
    return [case(tmp_path, name, 96, 128, number=number) for number, name in enumerate("ab")]


@pytest.fixture
def tiles():
    """All tiles of both, the class that of the picture."""
    return [LabelledTile(number, (row, col), number) for number in (0, 1) for row in range(3) for col in range(4)]


def source_of(cases, tiles, **changes):
    return TileSource(cases, tiles, RULE, **{"classes": 2, "augmentation": None, "seed": 3, **changes})


def bags_of(cases, cells, **changes):
    options = {"classes": 2, "bag": 5, "crop_px": 16, "augmentation": None, "seed": 3, **changes}
    return BagSource(cases, cells, list(range(len(cases))), RULE, **options)


class TestTiles:
    def test_every_tile_comes_once_in_every_round_in_another_order(self, cases, tiles):
        with source_of(cases, tiles) as source:
            seen = [where(source.sample(index)[0]) for index in range(48)]
        expected = {(tile.case, *tile.cell) for tile in tiles}
        assert len(source) == 24
        assert set(seen[:24]) == set(seen[24:]) == expected
        assert seen[:24] != seen[24:]

    def test_in_the_given_order_where_nothing_is_shuffled(self, cases, tiles):
        with source_of(cases, tiles, shuffle=False) as source:
            assert [where(source.sample(index)[0]) for index in range(24)] == [(t.case, *t.cell) for t in tiles]
            assert source.names([0, 11, 12, 24]) == ["a", "a", "b", "a"]

    def test_tile_and_class_belong_together(self, cases, tiles):
        with source_of(cases, tiles, augmentation=GEOMETRIC) as source:
            assert source.shapes == ((32, 32, 3), (2,))
            for index in range(30):
                image, truth = source.sample(index)
                assert (image.shape, image.dtype) == ((32, 32, 3), np.float32)
                assert truth.dtype == np.float32
                assert truth.tolist() == np.eye(2)[where(image)[0]].tolist()
                assert source.names([index]) == ["ab"[where(image)[0]]]

    def test_at_another_resolution(self, cases):
        """At 1 µm per pixel a tile shows four of those at 0.5."""
        tiles = [LabelledTile(0, (0, 1), 0)]
        with TileSource(cases, tiles, replace(RULE, mpp=1.0), classes=2, augmentation=None) as source:
            image, _ = source.sample(0)
        quarters = [where(image[r : r + 16, c : c + 16]) for r in (0, 16) for c in (0, 16)]
        assert quarters == [(0, 0, 2), (0, 0, 3), (0, 1, 2), (0, 1, 3)]

    def test_what_lies_beyond_the_slide_is_its_mirror_image(self, tmp_path):
        small = case(tmp_path, "small", 20, 30, number=4)
        with source_of([small], [LabelledTile(0, (0, 0), 0)]) as source:
            image, _ = source.sample(0)
        assert where(image) == (4, 0, 0)
        assert np.ptp(image, axis=(0, 1)).tolist() == [0, 0, 0]

    def test_order_threads_and_instances_change_nothing(self, cases, tiles):
        options = {"augmentation": replace(GEOMETRIC, saturation=(0.5, 1.5))}
        with source_of(cases, tiles, **options) as source:
            expected = [source.sample(index)[0] for index in range(40)]
        with source_of(cases, tiles, **options) as other, ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda index: other.sample(index)[0], reversed(range(40))))[::-1]
            again = other.sample(3)[0]
        np.testing.assert_array_equal(expected, found)
        np.testing.assert_array_equal(again, expected[3])
        with source_of(cases, tiles, seed=4, **options) as another:
            assert not np.array_equal(another.sample(0)[0], expected[0])

    def test_a_sample_is_the_caller_s_own(self, cases, tiles):
        with source_of(cases, tiles) as source:
            first = source.sample(0)[0].copy()
            source.sample(0)[0][:] = -1
            np.testing.assert_array_equal(source.sample(0)[0], first)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"tiles": []}, "at least one tile"),
            ({"classes": 1}, "labels below a number of classes"),
            ({"tiles": [LabelledTile(0, (0, 0), 2)]}, "labels below a number of classes"),
            ({"seed": -1}, "seed of at least 0"),
            ({"augmentation": TileAugmentation(magnitude=-1)}, "magnitude"),
        ],
    )
    def test_refusals(self, cases, tiles, changes, message):
        with pytest.raises(BadInput, match=message):
            source_of(cases, **{"tiles": tiles, **changes})

    def test_no_such_index_or_tile(self, cases):
        with source_of(cases, [LabelledTile(0, (3, 0), 0)]) as source:
            with pytest.raises(BadInput, match="from 0 on, received -1"):
                source.sample(-1)
            with pytest.raises(BadInput, match=r"expected a tile on the slide, received row and column \(3, 0\)"):
                source.sample(0)
            assert isinstance(source.failure, BadInput)


class TestUnreadable:
    @pytest.fixture
    def hurt(self, tmp_path):
        """A slide of 4 × 3 tiles of 256 px, one of which cannot be read."""
        write_slide(tmp_path / "hurt.tiff", (1024, 768), tile=256, seed=3, lossless=True, failed_tiles=[(1, 0)])
        return TrainingCase("hurt", tmp_path / "hurt.tiff", None, "hurt")

    def test_the_next_tile_of_the_class_takes_its_place(self, hurt):
        tiles = [LabelledTile(0, (0, 1), 0), LabelledTile(0, (0, 2), 1), LabelledTile(0, (2, 2), 0)]
        rule = TileRule(None, 256)
        with TileSource([hurt], tiles, rule, classes=2, augmentation=None, shuffle=False) as source:
            found = [source.sample(index) for index in range(3)]
        assert source.unreadable == 1
        assert source.failure is None
        np.testing.assert_array_equal(found[0][0], found[2][0])
        assert [truth.argmax() for _, truth in found] == [0, 1, 0]

    def test_a_class_that_cannot_be_read_is_an_error(self, hurt):
        tiles = [LabelledTile(0, (0, 1), 0), LabelledTile(0, (0, 2), 1)]
        with TileSource([hurt], tiles, TileRule(None, 256), classes=2, augmentation=None, shuffle=False) as source:
            source.sample(1)
            with pytest.raises(SlideUnreadable, match=r"expected a readable slide, 1 tile.*hurt\.tiff"):
                source.sample(0)
            assert isinstance(source.failure, SlideUnreadable)

    def test_a_tile_by_itself_is_read_or_none(self, hurt):
        tiles = [LabelledTile(0, (0, 1), 0), LabelledTile(0, (0, 2), 0)]
        with TileSource([hurt], tiles, TileRule(None, 256), classes=2, augmentation=None) as source:
            assert source.tile(0) is None
            assert (source.tile(1).shape, source.tile(1).dtype) == ((256, 256, 3), np.uint8)

    def test_of_tiles_that_are_read_side_by_side_only_the_unreadable_are_left_out(self, hurt, monkeypatch):
        """A reader that ends late, while another tile is read, takes nothing from it."""
        lost, kept = LabelledTile(0, (0, 1), 0), LabelledTile(0, (0, 2), 1)
        tiles = [lost, replace(lost, label=1), kept, kept]
        read, calls = TileSource._read, itertools.count()

        def slow(source, case, cell):
            time.sleep(0.08 if cell == (0, 2) else 0.13 * (next(calls) == 1))
            return read(source, case, cell)

        options = {"classes": 2, "augmentation": None, "shuffle": False}
        with TileSource([hurt], tiles, TileRule(None, 256), **options) as source:
            source.sample(2)  # which opens the slide
            monkeypatch.setattr(TileSource, "_read", slow)
            ((done, found),) = _chunks(source)
        assert (done, [number for number, _ in found]) == (4, [2, 3])

    def test_a_bag_takes_others(self, hurt):
        cells = [[(0, 0), (0, 1), (0, 2), (1, 0)]]
        options = {"classes": 2, "augmentation": None, "crop_px": 256}
        with BagSource([hurt], cells, [1], TileRule(None, 256), bag=3, **options) as source:
            bags = [source.sample(index)[0] for index in range(8)]
        assert all(len(np.unique(bag.reshape(3, -1), axis=0)) == 3 for bag in bags)
        assert 0 < source.unreadable <= 8
        with BagSource([hurt], [[(0, 1)]], [1], TileRule(None, 256), bag=3, **options) as source:
            with pytest.raises(SlideUnreadable, match="expected a readable slide"):
                source.sample(0)
            assert isinstance(source.failure, SlideUnreadable)


class TestBags:
    CELLS = ([(row, col) for row in range(3) for col in range(4)], [(0, 0), (2, 3)])

    def test_tiles_of_one_slide_none_twice_with_its_class(self, cases):
        with bags_of(cases, self.CELLS) as source:
            assert source.shapes == ((5, 16, 16, 3), (2,))
            bags = [source.sample(index) for index in range(40)]
            names = source.names(range(40))
        for (bag, truth), name in zip(bags, names, strict=True):
            assert (bag.shape, bag.dtype) == ((5, 16, 16, 3), np.float32)
            places = [where(tile) for tile in bag]
            assert {place[0] for place in places} == {"ab".index(name)} == {int(truth.argmax())}
            assert len(set(places)) == (5 if name == "a" else 2)
        assert len({tuple(map(where, bag)) for (bag, _), name in zip(bags, names, strict=True) if name == "a"}) > 15
        # In rounds: every two consecutive bags are of both slides.
        assert all({names[at], names[at + 1]} == {"a", "b"} for at in range(0, 40, 2))

    def test_a_slide_with_fewer_tiles_repeats_them_evenly(self, cases):
        with bags_of(cases, self.CELLS, shuffle=False) as source:
            places = [where(tile) for tile in source.sample(1)[0]]
        assert sorted(places.count(place) for place in set(places)) == [2, 3]

    def test_tiles_are_changed_each_by_itself(self, cases):
        with bags_of(cases, [[(0, 0)], [(0, 0)]], augmentation=COLOUR_JITTER, crop_px=24) as source:
            bag, _ = source.sample(0)
        assert len(np.unique(bag.reshape(5, -1), axis=0)) > 2

    def test_tiles_are_cropped_as_they_are_read(self, cases, monkeypatch):
        """So that no bag of whole tiles is in memory; also of a slide with too few, whose tiles are read again."""
        done, read, changed = [], BagSource._read, BagSource._changed
        monkeypatch.setattr(BagSource, "_read", lambda *given: done.append("read") or read(*given))
        monkeypatch.setattr(BagSource, "_changed", lambda *given: done.append("cropped") or changed(*given))
        with bags_of(cases, self.CELLS, shuffle=False) as source:
            for index in range(2):
                source.sample(index)
        assert done == ["read", "cropped"] * 10

    def test_the_same_whatever_the_order_of_calls(self, cases):
        with bags_of(cases, self.CELLS, augmentation=COLOUR_JITTER) as source, ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda index: source.sample(index)[0], range(12)))
        with bags_of(cases, self.CELLS, augmentation=COLOUR_JITTER) as source:
            np.testing.assert_array_equal(found[::-1], [source.sample(index)[0] for index in reversed(range(12))])

    @pytest.mark.parametrize(
        ("cells", "changes", "message"),
        [
            (CELLS[:1], {}, "received 2, 1 and 2"),
            ((CELLS[0], []), {}, "expected tiles on every slide, there are none on b; leave it out"),
            (CELLS, {"bag": 0}, "bag of at least 1"),
            (CELLS, {"crop_px": 33}, "crop_px from 1 to 32, got 5 and 33"),
        ],
    )
    def test_refusals(self, cases, cells, changes, message):
        with pytest.raises(BadInput, match=message):
            bags_of(cases, cells, **changes)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A generated slide, whose last row and column of tiles are cut off."""
    path = tmp_path_factory.mktemp("stained") / "slide.tiff"
    write_slide(path, (1100, 800), tile=256, seed=3, lossless=True)
    return TrainingCase("slide", path, None, "slide")


class TestStain:
    @pytest.mark.parametrize("method", ["macenko", "reinhard"])
    @pytest.mark.parametrize("rule", [TileRule(0.5, 96, 0.5), TileRule(1.0, 64, 0.3, "white-tiles")])
    def test_tiles_and_bags_are_what_grade_sees_bit_for_bit(self, slide, rule, method):
        stain = REFERENCES[method]
        with open_frame(slide.slide, rule, stain=stain) as frame, open_frame(slide.slide, rule) as unstained:
            cells = [(int(row), int(column)) for row, column in frame.tiles.cells]
            expected = [frame.tile(cell) for cell in cells]
            assert np.abs(expected[0].astype(float) - unstained.tile(cells[0])).mean() > 1
        assert len(cells) > 10
        tiles = [LabelledTile(0, cell, 0) for cell in cells]
        given = {"classes": 2, "augmentation": None, "stain": stain, "shuffle": False}
        with TileSource([slide], tiles, rule, **given) as source:
            np.testing.assert_array_equal([source.tile(number) for number in range(len(tiles))], expected)
            np.testing.assert_array_equal([source.sample(index)[0] for index in range(len(tiles))], expected)
        with BagSource([slide], [cells], [0], rule, bag=len(cells), crop_px=rule.tile_px, **given) as source:
            bag, _ = source.sample(0)
        assert {tile.astype(np.uint8).tobytes() for tile in bag} == {tile.tobytes() for tile in expected}

    def test_a_slide_is_fitted_once_though_it_is_closed_and_opened_again(self, slide, monkeypatch):
        fitted, opened, fit, open_slide = [], [], tile_source.tile_staining, tile_source.open_slide
        monkeypatch.setattr(tile_source, "tile_staining", lambda *given: fitted.append(given) or fit(*given))
        monkeypatch.setattr(tile_source, "open_slide", lambda *a, **k: opened.append(a) or open_slide(*a, **k))
        cases, tiles = [slide, replace(slide, name="again")], [LabelledTile(0, (3, 3), 0), LabelledTile(1, (3, 3), 1)]
        given = {"classes": 2, "augmentation": None, "stain": REFERENCES["macenko"], "shuffle": False}
        with TileSource(cases, tiles, TileRule(0.5, 96), **given) as source, ThreadPoolExecutor(4) as pool:
            first = list(pool.map(source.tile, [0, 1] * 4))
            source.close()
            last = [source.tile(number) for number in (0, 1)]
        assert (len(fitted), len(opened)) == (2, 4)
        np.testing.assert_array_equal(first[:2], last)

    def test_what_one_source_has_fitted_another_takes_over(self, slide, monkeypatch):
        fitted, fit, known = [], tile_source.tile_staining, {}
        monkeypatch.setattr(tile_source, "tile_staining", lambda *given: fitted.append(given[1]) or fit(*given))
        given = {"classes": 2, "augmentation": None, "stain": REFERENCES["macenko"], "stainings": known}
        tile, fine, coarse = LabelledTile(0, (3, 3), 0), TileRule(0.5, 96), TileRule(1.0, 64)
        for rule in (fine, fine, coarse):
            with TileSource([slide], [tile], rule, **given) as source:
                source.tile(0)
        with BagSource([slide], [[tile.cell]], [0], coarse, bag=1, crop_px=64, **given) as source:
            source.sample(0)
        assert fitted == [fine, coarse]
        assert set(known) == {("slide", fine), ("slide", coarse)}

    @pytest.mark.parametrize("broken", ["working_mpp", "tile_staining"])
    def test_a_slide_that_cannot_be_used_is_closed(self, slide, monkeypatch, broken):
        opened, open_slide = [], tile_source.open_slide

        def fail(*_):
            raise BadInput("cannot be")

        def watched(*given, **options):
            found, closed = open_slide(*given, **options), []
            close = found.close
            monkeypatch.setattr(found, "close", lambda: closed.append(1) or close(), raising=False)
            opened.append(closed)
            return found

        monkeypatch.setattr(tile_source, "open_slide", watched)
        monkeypatch.setattr(tile_source, broken, fail)
        given = {"classes": 2, "augmentation": None, "stain": REFERENCES["macenko"]}
        with TileSource([slide], [LabelledTile(0, (3, 3), 0)], TileRule(0.5, 96), **given) as source:
            with pytest.raises(BadInput, match="cannot be"):
                source.tile(0)
            assert opened == [[1]]

    def test_a_slide_without_stain_is_named(self, tmp_path):
        one_colour = case(tmp_path, "one", 32, 32)
        with source_of([one_colour], [LabelledTile(0, (0, 0), 0)], stain=REFERENCES["macenko"]) as source:
            with pytest.raises(BadInput, match=r'or set stain = "none": .*one\.png'):
                source.sample(0)
            assert isinstance(source.failure, BadInput)


def test_channel_scaling_by_hand(tmp_path):
    """Two tiles whose channels are 10, 5, 5 and 10, 5, 15 have no deviation in red; with a third picture they have."""
    cases = [case(tmp_path, "a", 32, 64), case(tmp_path, "b", 64, 32, number=1)]
    tiles = [LabelledTile(0, (0, 0), 0), LabelledTile(0, (0, 1), 0), LabelledTile(1, (1, 0), 1)]
    with source_of(cases, tiles, shuffle=False) as source:
        with pytest.raises(BadInput, match="differ in every channel"):
            channel_scaling(source, 2)
        scale, offset = channel_scaling(source, 3)
    # red 10, 10, 30; green 5, 5, 15; blue 5, 15, 5
    assert scale == pytest.approx((0.1060660, 0.2121320, 0.2121320), abs=1e-6)
    assert offset == pytest.approx((-1.7677670, -1.7677670, -1.7677670), abs=1e-6)


@pytest.mark.keras
class TestBatches:
    @pytest.mark.parametrize("make", [tensorflow_batches, keras_batches])
    def test_tiles_as_the_network_sees_them(self, cases, tiles, make):
        with source_of(cases, tiles, augmentation=GEOMETRIC) as source:
            data = make(source, batch=4, scale=(1 / 255, 1 / 128, 1.0), offset=(-1.0, 0.0, 0.5), first=6, count=10)
            pairs = [tuple(map(np.asarray, pair)) for pair in data]
            assert [len(images) for images, _ in pairs] == [4, 4, 2]
            samples = [source.sample(index) for index in range(6, 16)]
        expected = np.stack([image for image, _ in samples]) * [1 / 255, 1 / 128, 1] + [-1, 0, 0.5]
        np.testing.assert_allclose(np.concatenate([images for images, _ in pairs]), expected, atol=1e-5)
        np.testing.assert_array_equal(np.concatenate([truths for _, truths in pairs]), [truth for _, truth in samples])

    @pytest.mark.parametrize("make", [tensorflow_batches, keras_batches])
    def test_bags(self, cases, make):
        with bags_of(cases, TestBags.CELLS) as source:
            images, truths = next(iter(make(source, batch=2, scale=1.0, offset=0.0)))
            np.testing.assert_array_equal(np.asarray(images), [source.sample(index)[0] for index in (0, 1)])
        assert tuple(images.shape) == (2, 5, 16, 16, 3)
        assert np.asarray(truths).sum(axis=0).tolist() == [1, 1]
