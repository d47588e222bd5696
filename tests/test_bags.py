"""Pools of bags that come in chunks, groups of tiles, votes."""

from __future__ import annotations

import numpy as np
import pytest

from digipath.engine.bags import AttentionPool, MaxMeanPool, groups, hard_vote
from digipath.errors import BadInput

RNG = np.random.default_rng(0)
BAG = RNG.normal(0, 3, (11, 5)).astype(np.float32)
SCORES = RNG.normal(0, 4, 11).astype(np.float32)


def max_mean(chunks) -> np.ndarray:
    pool = MaxMeanPool()
    for chunk in chunks:
        pool.add(chunk)
    return pool.pooled()


def attended(chunks) -> AttentionPool:
    pool = AttentionPool()
    for embeddings, scores in chunks:
        pool.add(embeddings, scores)
    return pool


def cut(array: np.ndarray, size: int) -> list[np.ndarray]:
    return np.split(array, range(size, len(array), size))


def test_max_and_mean_by_literals():
    pool = MaxMeanPool()
    pool.add([[1, -4], [3, -2]])
    pool.add([[2, -9]])
    np.testing.assert_array_equal(pool.pooled(), np.array([3, -2, 2, -5], np.float32))
    assert (pool.count, pool.pooled().dtype) == (3, np.float32)


def test_attention_by_literals():
    pool = attended([([[1, 0]], [0.0]), ([[5, 8]], [np.log(3)])])  # weights 1/4 and 3/4
    np.testing.assert_allclose(pool.weights(), [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(pool.pooled(), [4, 6], rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 4, 10, 11, 50])
def test_chunks_of_any_size_equal_the_whole(size):
    expected = np.concatenate([BAG.max(axis=0), BAG.mean(axis=0)])
    np.testing.assert_allclose(max_mean(cut(BAG, size)), expected, atol=1e-6)
    weights = np.exp(np.float64(SCORES) - SCORES.max())
    weights /= weights.sum()
    pool = attended(zip(cut(BAG, size), cut(SCORES, size), strict=True))
    np.testing.assert_allclose(pool.pooled(), weights @ BAG, atol=1e-6)
    np.testing.assert_allclose(pool.weights(), weights, atol=1e-6)
    assert pool.weights().sum() == pytest.approx(1, abs=1e-6)


def test_the_order_of_tiles_does_not_matter():
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(BAG))
        np.testing.assert_allclose(max_mean(cut(BAG[order], 3)), max_mean([BAG]), atol=1e-6)
        pool = attended(zip(cut(BAG[order], 3), cut(SCORES[order], 3), strict=True))
        np.testing.assert_allclose(pool.pooled(), attended([(BAG, SCORES)]).pooled(), atol=1e-6)
        np.testing.assert_allclose(pool.weights(), attended([(BAG, SCORES)]).weights()[order], atol=1e-6)


def test_a_bag_of_one_is_its_tile():
    np.testing.assert_array_equal(max_mean([BAG[:1]]), np.concatenate([BAG[0], BAG[0]]))
    pool = attended([(BAG[:1], SCORES[:1])])
    np.testing.assert_array_equal(pool.pooled(), BAG[0])
    np.testing.assert_array_equal(pool.weights(), [1])


def test_an_empty_chunk_changes_nothing():
    empty = np.zeros((0, 5), np.float32)
    np.testing.assert_array_equal(max_mean([empty, BAG, empty]), max_mean([BAG]))
    pool = attended([(empty, []), (BAG, SCORES), (empty, [])])
    np.testing.assert_array_equal(pool.pooled(), attended([(BAG, SCORES)]).pooled())


@pytest.mark.parametrize("level", [-5000.0, 5000.0])
def test_scores_far_from_zero_do_not_overflow(level):
    rising = attended(zip(cut(BAG, 2), cut(SCORES + np.float64(level), 2), strict=True))
    np.testing.assert_allclose(rising.pooled(), attended([(BAG, SCORES)]).pooled(), atol=1e-5)
    far = attended([([[1.0]], [-level]), ([[2.0]], [level])])  # one of them counts nothing
    assert far.pooled() == [2.0 if level > 0 else 1.0]


def test_pools_refuse_what_is_no_bag():
    for pool in (MaxMeanPool(), AttentionPool()):
        with pytest.raises(BadInput, match="a bag of at least one tile"):
            pool.pooled()
    with pytest.raises(BadInput, match="a bag of at least one tile"):
        AttentionPool().weights()
    pool = MaxMeanPool()
    pool.add(BAG)
    with pytest.raises(BadInput, match=r"embeddings \(tiles, 5\), got the shape \(2, 4\)"):
        pool.add(np.zeros((2, 4)))
    with pytest.raises(BadInput, match=r"embeddings \(tiles, L\)"):
        MaxMeanPool().add(np.zeros(4))
    with pytest.raises(BadInput, match="one score for each of 11 tiles"):
        AttentionPool().add(BAG, SCORES[:4])
    with pytest.raises(BadInput, match="finite scores"):
        AttentionPool().add(BAG, np.full(11, np.nan))


@pytest.mark.parametrize(
    ("count", "size", "sizes"), [(450, 200, [200, 200, 50]), (400, 200, [200, 200]), (7, 200, [7]), (1, 1, [1])]
)
def test_groups_hold_every_tile_once(count, size, sizes):
    found = groups(count, size, seed=3)
    assert [len(group) for group in found] == sizes
    assert sorted(np.concatenate(found)) == list(range(count))
    for a, b in zip(found, groups(count, size, seed=3), strict=True):
        np.testing.assert_array_equal(a, b)
    if count > 1:
        assert any((a != b).any() for a, b in zip(found, groups(count, size, seed=4), strict=True))


def test_groups_of_nothing_are_refused():
    for count, size in ((0, 5), (5, 0)):
        with pytest.raises(BadInput, match="at least one tile and groups of at least one"):
            groups(count, size, seed=0)


def test_votes():
    np.testing.assert_array_equal(hard_vote([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2], [0, 0.9, 0.1]]),
                                  [0.25, 0.5, 0.25])  # fmt: skip
    np.testing.assert_array_equal(hard_vote([[0.4, 0.4, 0.2]]), [0, 1, 0])  # a tie: the higher class
    np.testing.assert_array_equal(hard_vote([[0.4, 0.2, 0.4], [1 / 3] * 3]), [0, 0, 1])
    assert hard_vote([[0.5, 0.5]]).dtype == np.float32
    for wrong in ([0.5, 0.5], np.zeros((0, 3)), [[np.nan, 1]]):
        with pytest.raises(BadInput, match="probabilities"):
            hard_vote(wrong)
