"""What networks and views disagree on, by values worked out by hand, in memory and on disk."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import digipath
from digipath.engine.ensemble import Ensemble, entropy_bits, map_names
from digipath.engine.views import DIHEDRAL
from digipath.errors import BadInput, CaseDiffers
from digipath.values import ENTROPIES, PREDICTED, Patch

sys.path.insert(0, str(Path(__file__).parent))
import fakes
from engine_cases import constant, identity, random_case, run

BOTH = {"extra": ENTROPIES}


def h(p):
    """Bits of a biased coin."""
    return -p * np.log2(p) - (1 - p) * np.log2(1 - p)


@pytest.mark.parametrize("seed", range(20))
def test_two_constant_networks(seed):
    array, grid = random_case(seed, rank=2 if seed % 4 else 3)
    a, b = (np.random.default_rng(100 + seed).random(2) * 0.98 + 0.01).astype(np.float32)
    names = ["first", "second"]
    maps = run(array, grid, [constant(a), constant(b)], views=DIHEDRAL, members=names, **BOTH).arrays
    np.testing.assert_allclose(maps["probability"], (a + b) / 2, atol=1e-6)
    np.testing.assert_allclose(maps["epistemic"], (a - b) ** 2 / 4, atol=1e-6)
    np.testing.assert_allclose(maps["aleatoric"], 0, atol=1e-10)
    np.testing.assert_allclose(maps["entropy"], h((a + b) / 2), atol=1e-5)
    np.testing.assert_allclose(maps["mutual_information"], h((a + b) / 2) - (h(a) + h(b)) / 2, atol=1e-5)
    np.testing.assert_allclose(maps["members/first"], a, atol=1e-6)
    np.testing.assert_allclose(maps["members/second"], b, atol=1e-6)


def coordinates(grid):
    """A reader of patches that hold their pixels' row and column, real beyond the array's end too."""

    def read(start_px):
        inside = [slice(s, s + n) for s, n in zip(start_px, grid.patch_px, strict=True)]
        places = np.moveaxis(np.mgrid[tuple(inside)].astype(np.float32), 0, -1)
        real = np.all(places < grid.shape_px, axis=-1)
        return Patch(start_px, places[..., -2:], real)

    return read


def by_orientation(patches):
    """0.1, 0.2, … 0.8: which way rows grow (four), and whether the patch is mirrored."""
    first = patches[(slice(None), *(0,) * (patches.ndim - 4))]  # the first plane of a volume
    down, across = first[:, 1, 0] - first[:, 0, 0], first[:, 0, 1] - first[:, 0, 0]
    turns = np.select([down[:, 0] == 1, down[:, 0] == -1, across[:, 0] == 1], [0, 1, 2], 3)
    mirrored = down[:, 0] * across[:, 1] - down[:, 1] * across[:, 0] < 0
    value = (1 + turns + 4 * mirrored) / 10
    shape = (len(patches), *(1,) * (patches.ndim - 1))
    return np.broadcast_to(value.reshape(shape), (*patches.shape[:-1], 1)).astype(np.float32)


@pytest.mark.parametrize("seed", range(20))
def test_a_network_that_answers_by_orientation(seed):
    """Mean of 0.1 … 0.8: 0.45; variance (8² − 1) / 12 / 100 = 0.0525; beside a constant 0.4, which has none: half."""
    _, grid = random_case(seed, rank=2 if seed % 4 else 3)
    maps = run(None, grid, [by_orientation, constant(0.4)], views=DIHEDRAL, read=coordinates(grid)).arrays
    np.testing.assert_allclose(maps["probability"], (0.45 + 0.4) / 2, atol=1e-6)
    np.testing.assert_allclose(maps["aleatoric"], 0.0525 / 2, atol=1e-6)
    np.testing.assert_allclose(maps["epistemic"], 0.05**2 / 4, atol=1e-6)
    alone = run(None, grid, [by_orientation], views=DIHEDRAL, read=coordinates(grid)).arrays
    np.testing.assert_allclose(alone["aleatoric"], 0.0525, atol=1e-6)


@pytest.mark.parametrize(
    ("probability", "bits"),
    [
        ([0], 0), ([1], 0), ([0.5], 1), ([0.25], 0.8112781), ([0.9], 0.4689956),
        ([0.5, 0.25, 0.25], 1.5), ([0.25] * 4, 2), ([1, 0, 0], 0), ([0.1, 0.2, 0.7], 1.1567796),
    ],
)  # fmt: skip
def test_entropy_in_bits(probability, bits):
    found = entropy_bits(np.array([[probability]], np.float32))
    assert found.shape == (1, 1, 1)
    assert found.item() == pytest.approx(bits, abs=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "entropy", "shared"),
    [(0, 1, 1, 1), (0.3, 0.3, 0.8812909, 0), (0.25, 0.75, 1, 0.1887219), (0.5, 1, 0.8112781, 0.3112781)],
)
def test_mutual_information_is_what_the_networks_disagree_on(a, b, entropy, shared):
    patches = np.zeros((1, 6, 6, 3), np.uint8)
    maps = Ensemble([constant(a), constant(b)], **BOTH).maps(patches, DIHEDRAL[:1])
    assert maps["entropy"].shape == (1, 6, 6, 1)
    np.testing.assert_allclose(maps["entropy"], entropy, atol=1e-6)
    np.testing.assert_allclose(maps["mutual_information"], shared, atol=1e-6)


def test_entropies_of_several_classes_have_one_channel():
    """Two networks sure of different classes: 1 bit in all, none within either."""
    sure = np.eye(3, dtype=np.float32)
    one, other = (lambda p, hot=hot: np.broadcast_to(sure[hot], (*p.shape[:-1], 3)) for hot in (0, 2))
    array, grid = random_case(2)
    maps = run(array, grid, [one, other], classes=(0, 1, 2), **BOTH).arrays
    assert maps["probability"].shape == (*grid.map_shape, 3)
    assert maps["entropy"].shape == maps["mutual_information"].shape == (*grid.map_shape, 1)
    np.testing.assert_allclose(maps["entropy"], 1, atol=1e-6)
    np.testing.assert_allclose(maps["mutual_information"], 1, atol=1e-6)


@pytest.mark.parametrize("seed", range(15))
def test_members_average_to_the_probability_and_no_entropy_is_negative(seed):
    array, grid = random_case(seed, rank=2 if seed % 5 else 3)

    def turned(patches):
        """Answers otherwise in each view."""
        shade = np.rot90(patches, 1, axes=(-3, -2)) / 255
        return shade.astype(np.float32) ** 2

    networks = [identity, lambda p: 1 - identity(p), turned]
    views = DIHEDRAL if seed % 2 else DIHEDRAL[:1]
    maps = run(array, grid, networks, views=views, members=["a", "b", "c"], classes=(1,), **BOTH).arrays
    together = np.mean([maps[f"members/{name}"] for name in "abc"], axis=0)
    np.testing.assert_allclose(together, maps["probability"], atol=1e-6)
    assert (maps["mutual_information"] >= 0).all()
    assert (maps["mutual_information"] <= maps["entropy"] + 1e-6).all()
    assert maps["entropy"].max() <= 1 + 1e-6


def test_which_maps_there_are():
    assert map_names(1, 1, ENTROPIES) == ("probability", "entropy")
    assert map_names(3, 8, ENTROPIES[1:], ["a", "b", "c"]) == (
        "probability", "aleatoric", "epistemic", "mutual_information", "members/a", "members/b", "members/c",
    )  # fmt: skip
    with pytest.raises(BadInput, match="extra maps are entropy and mutual_information, got 'variance'"):
        map_names(1, 1, ["variance"])
    with pytest.raises(BadInput, match="a name for each of 2 members"):
        Ensemble([constant(0), constant(1)], members=["a"])


def test_maps_are_nan_where_nothing_was_predicted():
    array, grid = random_case(4)
    wanted = np.full(grid.map_shape, PREDICTED, np.uint8)
    wanted[0] = 0
    wanted[-1] = 3
    maps = run(array, grid, [constant(0.2), constant(0.6)], wanted=wanted, members=["a", "b"], **BOTH).arrays
    for name in ("entropy", "mutual_information", "members/a"):
        assert (maps[name][0] == 0).all()
        assert np.isnan(maps[name][-1]).all()


def bright(patches):
    return fakes.redness(patches) ** 2


bright.patch, bright.classes = fakes.redness.patch, fakes.redness.classes


@pytest.fixture(scope="module")
def result(small_slide, tmp_path_factory):
    return digipath.segment(
        small_slide.path, predictors=[fakes.redness, bright], views=2, extra_maps=ENTROPIES, keep_members=True,
        out=tmp_path_factory.mktemp("uncertain") / "case",
    )  # fmt: skip


def test_maps_on_request_are_stored(result):
    tissue = result.maps["tissue"][:] > 0
    assert set(result.members) == {"network-1", "network-2"}
    together = np.mean([member[:].astype(np.float32) for member in result.members.values()], axis=0)
    np.testing.assert_allclose(together[tissue], result.probability[:].astype(np.float32)[tissue], atol=1e-3)
    for stored in (result.entropy, result.mutual_information, *result.members.values()):
        assert stored.shape == result.probability.shape
        assert (stored[:][~tissue] == 0).all()
    assert 0 <= result.mutual_information[:][tissue].min() < result.entropy[:][tissue].max() <= 1
    assert result.run["settings"]["extra_maps"] == list(ENTROPIES)


def test_without_the_request_there_are_none(small_slide, tmp_path):
    found = digipath.segment(small_slide.path, predictors=[fakes.redness, bright], out=tmp_path / "case")
    assert set(found.maps) == {"probability", "epistemic", "coverage", "tissue"}
    assert (found.entropy, found.mutual_information, found.members) == (None, None, {})
    with pytest.raises(CaseDiffers, match=r"another settings \(keep_members: False, now True\)"):
        digipath.segment(
            small_slide.path, predictors=[fakes.redness, bright], keep_members=True, out=tmp_path / "case"
        )


@pytest.mark.parametrize("name", ["entropy", "mutual_information", "members/network-2"])
def test_other_readers_open_them(result, name):
    import zarr
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader
    from ome_zarr_models.v05.image import Image

    folder = result.folder / "maps.zarr"
    assert name in zarr.open_group(folder, mode="r")["OME"].attrs["ome"]["series"]
    image = Image.from_zarr(zarr.open_group(folder / name, mode="r"))
    assert image.attributes.ome.multiscales[0].datasets[0].coordinateTransformations[0].scale == [1, 2, 2]
    (node,) = list(Reader(parse_url(folder / name))())
    np.testing.assert_array_equal(np.asarray(node.data[0])[0], result.maps[name][:])


def test_unknown_maps_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(BadInput, match="extra maps are"):
        digipath.segment(tmp_path / "nowhere.svs", predictors=[fakes.redness], extra_maps=["variance"])
