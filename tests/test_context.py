"""Predictors that see more than they answer for: the reader gives it, the ensemble takes it off, maps are exact."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from digipath.engine.adaptive import AdaptiveViews
from digipath.engine.ensemble import Ensemble
from digipath.engine.reader import array_reader
from digipath.engine.views import DIHEDRAL
from digipath.errors import BadInput, BadPredictor
from digipath.networks import own

sys.path.insert(0, str(Path(__file__).parent))
from engine_cases import everywhere, means, random_case, run


class Within:
    """Answers for the patches without `context` px on every side by what `look` says of all their pixels."""

    def __init__(self, context, look):
        self.context, self._look = context, look

    def __call__(self, patches):
        inside = (slice(None), *[slice(self.context, size - self.context) for size in patches.shape[1:-1]])
        return self._look(patches.astype(np.float32) / 255)[inside]


def itself(pixels):
    return pixels


def blurred(side):
    """The mean over `side` px along each axis; what lies beyond the patch counts as −100."""

    def look(pixels):
        sizes = (1, *[side] * (pixels.ndim - 2), 1)
        return ndimage.uniform_filter(pixels.astype(np.float64), sizes, mode="constant", cval=-100)

    return look


def run_within(array, grid, predictors, **options):
    return run(array, grid, predictors, read=array_reader(array, grid, predictors[0].context), **options).arrays


@pytest.mark.parametrize("seed", range(24))
def test_identity_within_a_context_gives_back_the_array(seed):
    array, grid = random_case(seed, rank=2 if seed % 4 else 3)
    context = int(np.random.default_rng(seed).integers(1, 12))
    maps = run_within(array, grid, [Within(context, itself)], views=DIHEDRAL, classes=(0, 1, 2))
    assert np.abs(maps["probability"] - means(array, grid.reduce)).max() <= 1e-6
    assert np.abs(maps["aleatoric"]).max() <= 1e-10


@pytest.mark.parametrize("views", [DIHEDRAL[:1], DIHEDRAL, AdaptiveViews()], ids=["one", "eight", "adaptive"])
@pytest.mark.parametrize(("shape", "patch"), [((70, 53), 16), ((17, 30, 22), 9), ((5, 4), 16)])
def test_a_blur_through_patches_is_the_blur_of_the_array(shape, patch, views):
    """Of 2c + 1 px with c px of context: each patch must hold its neighbours' pixels, mirrored at the borders."""
    array = np.random.default_rng(0).integers(0, 256, (*shape, 1), np.uint8)
    for context, overlap in ((1, 0), (3, 0.5), (4, 0.3)):
        grid = everywhere(shape, (patch,) * len(shape), overlap=overlap)
        maps = run_within(array, grid, [Within(context, blurred(2 * context + 1))], views=views)
        # "reflect" is SciPy's word for what NumPy calls symmetric.
        expected = ndimage.uniform_filter(array / 255, (*[2 * context + 1] * len(shape), 1), mode="reflect")
        np.testing.assert_allclose(maps["probability"], expected, atol=1e-5)


def test_a_context_deeper_than_the_array_is_mirrored_again_and_again():
    array = np.arange(3, dtype=np.uint8)[:, None]
    patch = array_reader(array, everywhere((3,), (3,)), 7)((0,))
    assert patch.pixels[:, 0].tolist() == [0, 0, 1, 2, 2, 1, 0, *[0, 1, 2], 2, 1, 0, 0, 1, 2, 2]
    assert patch.valid is None


def test_what_is_valid_is_said_of_the_patch_without_its_context():
    array = np.random.default_rng(0).integers(0, 256, (10, 6, 3), np.uint8)
    read = array_reader(array, everywhere((10, 6), (4, 8)), 2)
    patch = read((6, 0))
    assert patch.pixels.shape == (8, 12, 3)
    assert patch.valid.shape == (4, 8)
    assert patch.valid[:, :6].all()
    assert not patch.valid[:, 6:].any()
    inside = patch.pixels[2:6, 2:8]
    np.testing.assert_array_equal(inside, array[6:10])
    np.testing.assert_array_equal(patch.pixels[:2, 2:8], array[4:6])
    np.testing.assert_array_equal(patch.pixels[6:, 2:8], array[9:7:-1])


def test_without_context_patches_are_views_of_the_array():
    array = np.random.default_rng(0).integers(0, 256, (10, 6, 3), np.uint8)
    patch = array_reader(array, everywhere((10, 6), (4, 4)))((2, 0))
    assert np.shares_memory(patch.pixels, array)
    np.testing.assert_array_equal(patch.pixels, array[2:6, :4])


def test_a_constant_comes_back_at_the_borders_too():
    array, grid = random_case(3)
    flat = Within(5, lambda pixels: np.full_like(pixels[..., :1], 0.3))
    maps = run_within(array, grid, [flat, flat], views=DIHEDRAL)
    assert np.abs(maps["probability"] - 0.3).max() <= 1e-6
    assert np.abs(maps["epistemic"]).max() <= 1e-6


def test_a_reader_without_the_context_is_refused():
    array, grid = random_case(3)
    with pytest.raises(BadInput, match=r"expected patches of .* px with the predictors' context, `read` gave"):
        run(array, grid, [Within(2, itself)])


def test_a_context_that_is_no_number_is_the_predictors_own():
    """Such as the device that it runs on."""
    array, grid = random_case(3)

    def predictor(pixels):
        return pixels.astype(np.float32) / 255

    predictor.context = "gpu:0"
    maps = run(array, grid, [predictor], classes=(0, 1, 2)).arrays
    assert np.abs(maps["probability"] - means(array, grid.reduce)).max() <= 1e-6


def test_slides_have_no_context_to_give():
    with pytest.raises(BadInput, match=r"Within wants 2 px more on every side \(its context\)"):
        own([Within(2, itself)], patch=16)


def test_predictors_must_agree_on_their_context():
    with pytest.raises(BadInput, match=r"expected predictors of one context, they want \[0, 3\] px"):
        Ensemble([Within(3, itself), itself])
    assert Ensemble([Within(3, itself), Within(3, itself)]).context == 3
    assert Ensemble([itself]).context == 0


def test_an_answer_that_is_not_smaller_is_refused():
    def whole(patches):
        return patches[..., :1].astype(np.float32) / 255

    whole.context = 2
    patches = np.zeros((1, 9, 9, 3), np.uint8)
    with pytest.raises(BadPredictor, match=r"must return \(1, 5, 5, classes\), got \(1, 9, 9, 1\)"):
        Ensemble([whole]).maps(patches, DIHEDRAL[:1])
