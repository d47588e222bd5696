"""Slides graded by bags of tiles: small real networks, whose parts stream a bag of any size."""

from __future__ import annotations

import dataclasses

import made_up_bags
import numpy as np
import pytest
from PIL import Image

from digipath.errors import BadCard, BadInput, Cancelled, WeightsCorrupt
from digipath.grading import bag_networks
from digipath.grading.bag_networks import CHUNK
from digipath.grading.bags import BagDraw, grade_bags
from digipath.grading.tile_frames import open_frame
from digipath.grading.tile_networks import rule_of

pytestmark = pytest.mark.keras

ALL_TILES = BagDraw(groups="all", augment=False)


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards")
    return {
        pooling: made_up_bags.write_card(folder, f"bags-{pooling}-v1", pooling=pooling)
        for pooling in ("max-mean", "gated-attention")
    }


@pytest.fixture(scope="module")
def loaded(cards):
    """Card and network, by pooling; on Keras, to compare with the network itself."""
    return {pooling: load(path) for pooling, path in cards.items()}


def load(path):
    graders = bag_networks.published(str(path), runtime="keras")
    (card,) = graders.cards
    return card, bag_networks.load(card, graders.choice)


@pytest.fixture(scope="module")
def whole(cards):
    """The networks called on whole bags, (N, P, P, 3) uint8 → (C,)."""
    from digipath.networks import network_of
    from digipath.weights import load_card

    networks = {pooling: network_of(load_card(str(path))) for pooling, path in cards.items()}

    def asked(pooling, tiles):
        scaled = np.stack(tiles).astype(np.float32) * 0.02 - 3.0
        return np.asarray(networks[pooling](scaled[None], training=False))[0]

    return asked


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """24 tiles of 64 px, the upper half denser, so that tiles differ."""
    path = tmp_path_factory.mktemp("slide") / "slide.png"
    image = np.concatenate([made_up_bags.tissue(384, 2, 5)[:128], made_up_bags.tissue(384, 0, 6)[:128]])
    Image.fromarray(image).save(path)
    return path


@pytest.fixture
def frame(slide, loaded):
    with open_frame(slide, rule_of(loaded["max-mean"][0]), mpp=0.5) as frame:
        yield frame


def tiles(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        np.clip(rng.integers(0, 256, (32, 32, 3)) * rng.uniform(0.3, 1), 0, 255).astype(np.uint8) for _ in range(count)
    ]


POOLINGS = pytest.mark.parametrize("pooling", ["max-mean", "gated-attention"])


@POOLINGS
@pytest.mark.parametrize("count", [1, CHUNK, 2 * CHUNK + 5])
def test_a_streamed_bag_is_the_network_called_on_all_of_it(loaded, whole, pooling, count):
    """A bag of one, of a chunk, and one larger than goes through the embedder at once."""
    bag = tiles(count)
    answer = loaded[pooling][1].answer(iter(bag))
    assert answer.probabilities == pytest.approx(whole(pooling, bag), abs=1e-5)
    assert answer.alone.shape == (count, 3)
    assert answer.alone[-1] == pytest.approx(whole(pooling, bag[-1:]), abs=1e-5)
    if count == 1:
        assert answer.probabilities == pytest.approx(answer.alone[0], abs=1e-6)
    assert np.ptp(answer.alone, axis=0).max() > 0.01 or count == 1  # tiles differ: nothing of this holds for nothing


@POOLINGS
def test_the_order_of_tiles_changes_nothing(loaded, pooling):
    bag, network = tiles(2 * CHUNK + 5), loaded[pooling][1]
    order = np.random.default_rng(1).permutation(len(bag))
    answer, other = network.answer(bag), network.answer([bag[at] for at in order])
    assert other.probabilities == pytest.approx(answer.probabilities, abs=1e-6)
    assert other.alone == pytest.approx(answer.alone[order], abs=1e-6)
    if pooling == "gated-attention":
        assert other.attention == pytest.approx(answer.attention[order], abs=1e-6)
        assert answer.attention.sum() == pytest.approx(1, abs=1e-5)
        assert np.ptp(answer.attention) > 1e-4
    else:
        assert answer.attention is None


@POOLINGS
def test_a_slide_seen_whole_is_the_network_called_on_the_middles_of_its_tiles(frame, loaded, whole, pooling):
    """Whatever the drawing: one group of all, nothing left to chance."""
    card, network = loaded[pooling]
    found = grade_bags(frame, card, network, dataclasses.replace(ALL_TILES, bag=1000))
    middles = [frame.tile(tuple(cell))[16:48, 16:48] for cell in frame.tiles.cells.tolist()]
    assert found.probabilities == pytest.approx(whole(pooling, middles), abs=1e-5)
    assert found.cells.tolist() == frame.tiles.cells.tolist()
    assert found.notes == ("24 tiles on the slide, fewer than the 1000 asked for: one group of all.",)
    if pooling == "gated-attention":
        assert found.attention.mean() == pytest.approx(1, abs=1e-5)


def test_groups_hold_every_tile_once_and_vote(frame, loaded):
    card, network = loaded["max-mean"]
    found = grade_bags(frame, card, network, ALL_TILES)  # the card's bag: 5 of 24 tiles
    assert len(found.groups) == 5
    assert sorted(map(tuple, found.cells.tolist())) == sorted(map(tuple, frame.tiles.cells.tolist()))
    assert found.probabilities == pytest.approx(found.groups.mean(axis=0), abs=1e-6)
    votes = np.bincount(found.groups.argmax(axis=1), minlength=3) / 5
    assert found.votes == pytest.approx(votes)
    assert (found.on_slide, found.asked, found.notes) == (24, 5, ())


def test_without_augmentation_the_same_bits_with_it_other_crops(frame, loaded):
    card, network = loaded["max-mean"]
    first, again = (grade_bags(frame, card, network, BagDraw(augment=False)) for _ in range(2))
    assert np.array_equal(first.groups, again.groups)
    assert np.array_equal(first.cells, again.cells)
    changed, same = (grade_bags(frame, card, network, BagDraw()) for _ in range(2))
    assert np.array_equal(changed.groups, same.groups)  # chance comes from the seed alone
    assert np.abs(changed.groups - first.groups).max() > 1e-4
    other = grade_bags(frame, card, network, BagDraw(augment=False, seed=1))
    assert not np.array_equal(other.cells, first.cells)


def test_a_card_without_augmentation_sees_the_middle(frame, tmp_path, loaded):
    card, network = load(made_up_bags.write_card(tmp_path, augment=False))
    as_trained = grade_bags(frame, card, network, BagDraw())
    assert np.array_equal(as_trained.groups, grade_bags(frame, card, network, BagDraw(augment=False)).groups)


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(frame, loaded, tmp_path):
    card, network = loaded["gated-attention"]
    draw = BagDraw(groups="all")
    at_once = grade_bags(frame, card, network, draw)
    seen = []
    with pytest.raises(Cancelled, match="stopped after 12 of 24 tiles"):
        grade_bags(
            frame, card, network, draw, keep=tmp_path / "kept", progress=seen.append, cancel=lambda: len(seen) == 12
        )
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["kept-0.npz", "kept-1.npz"]  # two groups of five were done
    asked = []
    resumed = grade_bags(frame, card, network, draw, keep=tmp_path / "kept", progress=asked.append)
    assert [report.done for report in asked] == list(range(11, 25))
    for name in ("groups", "cells", "alone", "attention", "unreadable"):
        assert getattr(resumed, name).tobytes() == getattr(at_once, name).tobytes(), name
    nothing_left = grade_bags(frame, card, None, draw, keep=tmp_path / "kept")
    assert nothing_left.groups.tobytes() == at_once.groups.tobytes()


def test_a_slide_without_tissue_has_no_grade(loaded, tmp_path):
    card, network = loaded["max-mean"]
    Image.fromarray(np.full((256, 256, 3), 240, np.uint8)).save(tmp_path / "white.png")
    with open_frame(tmp_path / "white.png", rule_of(card), mpp=0.5) as frame:
        found = grade_bags(frame, card, network, BagDraw())
    assert (found.probabilities, found.votes, found.on_slide) == (None, None, 0)
    assert found.notes == ("No tile at 0.5 µm/px: no vote.",)
    assert found.groups.shape == (0, 3)


def test_a_folder_of_tiles_is_a_bag(loaded, whole, tmp_path):
    for number in range(7):
        Image.fromarray(made_up_bags.tissue(64, number % 3, number)).save(tmp_path / f"{number}.png")
    card, network = loaded["max-mean"]
    with open_frame(tmp_path, rule_of(card), mpp=0.5) as frame:
        found = grade_bags(frame, card, network, dataclasses.replace(ALL_TILES, bag=7))
        middles = [frame.tile((row, 0))[16:48, 16:48] for row in range(7)]
    assert found.probabilities == pytest.approx(whole("max-mean", middles), abs=1e-5)


def test_unreadable_tiles_are_left_out_and_told(loaded, tmp_path):
    from digipath.synthetic import write_slide

    write_slide(tmp_path / "broken.tiff", (1024, 1024), tile=256, lossless=True, failed_tiles=[(1, 1)], levels=1)
    card, network = loaded["max-mean"]
    with open_frame(tmp_path / "broken.tiff", rule_of(card)) as frame:
        found = grade_bags(frame, card, network, dataclasses.replace(ALL_TILES, bag=1000))
        failed = {(row, column) for row in range(4, 8) for column in range(4, 8)}
        kept = set(map(tuple, frame.tiles.cells.tolist()))
    assert set(map(tuple, found.unreadable.tolist())) == failed & kept
    assert set(map(tuple, found.cells.tolist())) == kept - failed
    assert failed & kept


def test_tiles_of_a_group_are_changed_each_in_its_own_way(tmp_path):
    """Tiles alike in every pixel, so that only chance can tell them apart."""
    card, network = load(made_up_bags.write_card(tmp_path))
    image = np.tile(made_up_bags.tissue(64, 1, 3), (2, 2, 1))
    Image.fromarray(image).save(tmp_path / "alike.png")
    with open_frame(tmp_path / "alike.png", rule_of(card), mpp=0.5) as frame:
        found = grade_bags(frame, card, network, BagDraw())
        alike = grade_bags(frame, card, network, BagDraw(augment=False))
    assert len(np.unique(found.alone.round(6), axis=0)) == 4
    assert np.ptp(alike.alone, axis=0) == pytest.approx(0, abs=1e-6)


def test_without_other_wishes_a_slide_is_seen_as_the_card_says(frame, tmp_path, loaded):
    """As the test slides of the training were: 3 groups of 5, the middle of each tile; and all tiles once."""
    card, network = load(made_up_bags.write_card(tmp_path, "three-v1", groups=3, augment_in_use=False))
    asked = grade_bags(frame, *loaded["max-mean"], BagDraw(groups=3, augment=False))
    found = grade_bags(frame, card, network, BagDraw())
    assert found.groups.shape == (3, 3)
    assert np.array_equal(found.groups, asked.groups)
    again = grade_bags(frame, card, network, BagDraw(groups=1, bag=7, augment=True))
    assert len(again.cells) == 7
    assert np.array_equal(again.groups, grade_bags(frame, *loaded["max-mean"], BagDraw(bag=7)).groups)
    card, network = load(made_up_bags.write_card(tmp_path, "all-v1", groups=None))
    assert len(grade_bags(frame, card, network, BagDraw()).cells) == 24


def test_fewer_tiles_than_all_groups_hold_are_told(frame, loaded):
    card, network = loaded["max-mean"]
    found = grade_bags(frame, card, network, BagDraw(groups=3, bag=10, augment=False))
    assert [len(found.groups), *found.notes] == [
        3, "24 tiles on the slide, fewer than the 30 asked for: 3 groups of all, the last of fewer.",
    ]  # fmt: skip
    assert grade_bags(frame, card, network, BagDraw(groups=2, bag=12, augment=False)).notes == ()


def test_what_the_card_says_is_part_of_what_a_case_depends_on(tmp_path):
    first = bag_networks.published(str(made_up_bags.write_card(tmp_path))).identity
    assert bag_networks.published(str(made_up_bags.write_card(tmp_path))).identity == first
    for change in ({"bag": 6}, {"groups": 2}, {"augment_in_use": False}, {"scale": 0.03}, {"augment": False}):
        other = bag_networks.published(str(made_up_bags.write_card(tmp_path, **change))).identity
        assert other["sha256"] == first["sha256"]
        assert other != first, change


def test_groups_are_a_number_or_all(frame, loaded):
    with pytest.raises(BadInput, match="groups to be a number or \"all\", got 'some'"):
        grade_bags(frame, *loaded["max-mean"], BagDraw(groups="some"))


@pytest.mark.parametrize("name", ["groups", "bag"])
def test_less_than_one_group_or_tile_is_refused(frame, loaded, name):
    with pytest.raises(BadInput, match=f"at least one of {name}, got 0"):
        grade_bags(frame, *loaded["max-mean"], BagDraw(**{name: 0}))


def test_wrong_cards(tmp_path, cards):
    wrong = made_up_bags.write_card(tmp_path, "wrong-v1", augmentation={"blur": 1})
    with pytest.raises(BadCard, match=r"wrong input\.augmentation: .*blur"):
        bag_networks.published(str(wrong))
    far = made_up_bags.write_card(tmp_path, "far-v1", augmentation={"hue": 2.0})
    with pytest.raises(BadCard, match="hue"):
        bag_networks.published(str(far))
    (tmp_path / "far-v1.weights.h5").write_bytes(b"no weights")
    with pytest.raises(WeightsCorrupt):
        bag_networks.published(str(far))
    with pytest.raises(BadInput, match=r"expected weights that grade .*lymphnode-ensemble-v1"):
        bag_networks.published("lymphnode-ensemble-v1")
