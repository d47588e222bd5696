"""A bag larger than memory allows streams: few tiles go through the embedder at once, and few are read ahead of it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from digipath.grading.bag_networks import CHUNK, BagNetwork
from digipath.grading.bags import AHEAD, BagDraw, grade_bags
from digipath.grading.tile_frames import open_frame
from digipath.grading.tile_networks import rule_of
from digipath.values import Card

MANY = 10 * CHUNK
CARD = Card(None, {
    "name": "stub", "classes": ["low", "high"],
    "input": {"mpp": 0.5, "patch": 16, "tile": 16, "tissue": "all", "bag": MANY, "augment": False},
})  # fmt: skip


class Watched:
    """A bag network without weights that keeps how many tiles came at once, and how many had been read by then."""

    def __init__(self, scores=None):
        self.read, self.seen = 0, 0
        self.at_once, self.outstanding = [], []
        self.network = BagNetwork(self.embed, self.head, scores)

    def embed(self, tiles):
        self.at_once.append(len(tiles))
        self.outstanding.append(self.read - self.seen)
        self.seen += len(tiles)
        return tiles.mean(axis=(1, 2)).astype(np.float32)

    def head(self, pooled):
        return np.full((len(pooled), 2), 0.5, np.float32)


class Counted:
    """A frame that counts the tiles whose reading began."""

    def __init__(self, frame, watched):
        self.frame, self.watched, self.tiles = frame, watched, frame.tiles

    def only(self, kept):
        return Counted(self.frame.only(kept), self.watched)

    def reader(self):
        read = self.frame.reader()

        def counted(cell):
            self.watched.read += 1
            return read(cell)

        return counted


POOLED = pytest.mark.parametrize("scores", [None, lambda rows: rows[:, 0]], ids=["max-mean", "attention"])


@POOLED
def test_a_network_takes_a_chunk_of_an_endless_bag_at_once(scores):
    watched = Watched(scores)

    def tiles():
        for _ in range(MANY + 3):
            watched.read += 1
            yield np.zeros((16, 16, 3), np.uint8)

    answer = watched.network.answer(tiles())
    assert watched.at_once == [CHUNK] * 10 + [3]
    assert max(watched.outstanding) <= CHUNK
    assert len(answer.alone) == MANY + 3


@POOLED
def test_tiles_of_a_slide_are_read_only_a_few_ahead(scores, tmp_path):
    side = 16 * round(MANY**0.5 + 1)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(tmp_path / "slide.png")
    watched = Watched(scores)
    with open_frame(tmp_path / "slide.png", rule_of(CARD), mpp=0.5) as frame:
        found = grade_bags(Counted(frame, watched), CARD, watched.network, BagDraw())
    assert len(found.cells) == watched.seen == MANY
    assert watched.at_once == [CHUNK] * 10
    assert max(watched.outstanding) <= CHUNK + AHEAD + 1
