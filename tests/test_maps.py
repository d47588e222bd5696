"""Maps on disk: OME-Zarr that others open, resumable, lazily read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from digipath.errors import NotFound
from digipath.grid import tissue_grid
from digipath.maps import ZarrMaps, open_maps
from digipath.values import Coverage, ViewTally


def grid_of(rows, columns, reduce=4):
    return tissue_grid(np.ones((1, 1), bool), (rows, columns), (64, 64), reduce=reduce, mpp=0.5)


def filled(folder, probability, coverage):
    rows, columns = coverage.shape
    maps = ZarrMaps(folder, grid_of(rows * 4, columns * 4), ["probability"], ["tumour"])
    for row in range(0, rows, 100):
        block = {"probability": probability[row : row + 100], "coverage": coverage[row : row + 100]}
        maps.write(row, block)
        maps.commit(min(row + 100, rows), Coverage(row), ViewTally())
    maps.finish()
    return open_maps(folder)


@pytest.fixture
def stored(tmp_path):
    rng = np.random.default_rng(0)
    probability = rng.random((700, 1100, 1), np.float32)
    coverage = rng.choice([0, 1, 2, 3], (700, 1100), p=[0.3, 0.6, 0.05, 0.05]).astype(np.uint8)
    probability[coverage > 1] = np.nan
    return probability, coverage, filled(tmp_path, probability, coverage), tmp_path


def test_maps_come_back_within_float16(stored):
    probability, coverage, maps, _ = stored
    assert set(maps) == {"probability", "coverage", "tissue"}
    assert maps["probability"].shape == (700, 1100)
    np.testing.assert_allclose(maps["probability"][:], probability[..., 0], atol=1e-3)
    np.testing.assert_array_equal(maps["coverage"], coverage)
    np.testing.assert_array_equal(maps["tissue"], coverage > 0)


def test_lower_levels_are_means_of_what_is_known(stored):
    _, coverage, maps, _ = stored
    assert maps["probability"].levels == 3
    with np.errstate(invalid="ignore"):
        quads = maps["probability"][:].astype(np.float64).reshape(350, 2, 550, 2)
        known = ~np.isnan(quads)
        expected = np.where(known, quads, 0).sum((1, 3)) / known.sum((1, 3))
    np.testing.assert_allclose(maps["probability"].level(1)[:], expected, atol=1e-3)
    np.testing.assert_array_equal(
        maps["coverage"].level(1)[:], coverage.reshape(350, 2, 550, 2).max((1, 3))
    )
    assert maps["probability"].level(2).shape == (175, 275)


def test_indexing_is_that_of_an_array(stored):
    whole = stored[2]["probability"][:]
    lazy = stored[2]["probability"]
    np.testing.assert_array_equal(lazy[3], whole[3])
    np.testing.assert_array_equal(lazy[10:20, 5:900:7], whole[10:20, 5:900:7])
    np.testing.assert_array_equal(lazy[..., 4], whole[..., 4])
    np.testing.assert_array_equal(np.concatenate([v for _, v in lazy.strips(99)]), whole)
    with pytest.raises(IndexError):
        lazy[0, 0, 0]


def test_several_classes_are_the_last_axis(tmp_path):
    values = np.random.default_rng(1).random((30, 20, 3), np.float32)
    maps = ZarrMaps(tmp_path, grid_of(120, 80), ["probability"], ["a", "b", "c"])
    maps.write(0, {"probability": values, "coverage": np.ones((30, 20), np.uint8)})
    stored = open_maps(tmp_path)["probability"]
    assert stored.shape == (30, 20, 3)
    np.testing.assert_allclose(stored[:], values, atol=1e-3)
    np.testing.assert_array_equal(stored[2:9, 4], stored[:][2:9, 4])
    np.testing.assert_array_equal(stored[:, :, 1], stored[:][:, :, 1])


def test_metadata_follows_ngff_05(stored):
    import zarr
    from ome_zarr_models.v05.image import Image

    for name in ("probability", "coverage"):
        image = Image.from_zarr(zarr.open_group(stored[3] / "maps.zarr" / name, mode="r"))
        multiscale = image.attributes.ome.multiscales[0]
        assert [axis.name for axis in multiscale.axes] == ["c", "y", "x"]
        assert multiscale.axes[1].unit == "micrometer"
        assert multiscale.datasets[1].coordinateTransformations[0].scale == [1, 4, 4]


def test_ome_zarr_reader_opens_the_maps(stored):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    nodes = list(Reader(parse_url(stored[3] / "maps.zarr" / "probability"))())
    assert [level.shape for level in nodes[0].data] == [(1, 700, 1100), (1, 350, 550), (1, 175, 275)]


def test_an_interrupted_folder_goes_on_at_its_checkpoint(tmp_path):
    grid = grid_of(400, 400)
    first = ZarrMaps(tmp_path, grid, ["probability"], ["tumour"])
    block = {"probability": np.full((40, 100, 1), 0.5), "coverage": np.ones((40, 100), np.uint8)}
    first.write(0, block)
    first.commit(40, Coverage(10, 9, 1, 0), ViewTally(7, 2, 1, 40, 90, 0.1 + 0.2, 0.3))
    again = ZarrMaps(tmp_path, grid, ["probability"], ["tumour"])
    assert (again.rows_done, again.coverage, again.tally) == (40, first.coverage, first.tally)
    assert (open_maps(tmp_path)["probability"][:40] == 0.5).all()
    assert json.loads((tmp_path / "checkpoint.json").read_text())["rows_done"] == 40


def test_a_folder_without_maps_is_said_so(tmp_path):
    with pytest.raises(NotFound, match="no maps in"):
        open_maps(tmp_path)
