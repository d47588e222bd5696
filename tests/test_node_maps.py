"""Maps of nodes brought to one resolution: the same features whatever they were written at."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import digipath
from digipath.errors import BadInput, MissingResolution, NotFound, ResolutionTooLow
from digipath.measure.pn_stage import FEATURES
from digipath.node_maps import NodeMaps, open_node

SIDE_UM = 5120


def node(tmp_path, mpp, *, dtype=np.float32):
    """The same two metastases, tissue and surroundings, drawn at `mpp`."""
    side = round(SIDE_UM / mpp)
    y, x = (np.mgrid[:side, :side] + 0.5) * mpp
    long = ((x - 2000) / 1200) ** 2 + ((y - 2200) / 500) ** 2 <= 1
    small = np.hypot(x - 3900, y - 4000) <= 400
    tissue = np.hypot(x - SIDE_UM / 2, y - SIDE_UM / 2) <= 2500
    probability = np.where(long, 0.96, np.where(small, 0.93, 0.02)) * tissue
    return NodeMaps("drawn", tmp_path, probability.astype(dtype), tissue, mpp)


@pytest.mark.parametrize("mpp", [1.0, 2.0, 3.1, 4.0, 5.7, 8.0])
def test_features_do_not_depend_on_the_resolution_of_the_maps(tmp_path, mpp):
    expected, found = node(tmp_path, 8.0).features(8.0), node(tmp_path, mpp).features(8.0)
    for name in FEATURES:
        assert found[name] == pytest.approx(expected[name], rel=0.06, abs=0.02), name


@pytest.mark.parametrize("mpp", [1.0, 3.1, 8.0])
def test_the_size_rule_measures_the_maps_as_they_are(tmp_path, mpp):
    category, diameter_um = node(tmp_path, mpp).by_size()
    assert category == "macro"
    assert diameter_um == pytest.approx(2400, abs=3 * mpp)


def test_means_over_areas_by_hand(tmp_path):
    probability = np.arange(12, dtype=np.float32).reshape(3, 4) / 16
    probability[0, 0] = np.nan
    tissue = np.array([[1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0]])
    found, covered = NodeMaps("n", tmp_path, probability, tissue, 2.0).at(4.0)
    # Beyond the third row nothing is tissue and the probability is 0.
    np.testing.assert_allclose(found * 16, [[(1 + 4 + 5) / 3, (2 + 3 + 6 + 7) / 4], [17 / 4, 21 / 4]], rtol=1e-6)
    assert covered.tolist() == [[True, False], [True, False]]
    assert found.dtype == np.float32


def test_no_known_pixel_stays_unknown(tmp_path):
    probability = np.full((4, 4), 0.5, np.float32)
    probability[:2, :2] = np.nan
    found, _ = NodeMaps("n", tmp_path, probability, np.ones((4, 4)), 2.0).at(4.0)
    assert np.isnan(found).tolist() == [[True, False], [False, False]]


def test_maps_at_the_resolution_asked_for_stay_as_they_are(tmp_path):
    given = node(tmp_path, 8.0, dtype=np.float16)
    found, covered = given.at(8.0)
    assert found.dtype == np.float16
    assert np.array_equal(found, given.probability)
    assert np.array_equal(covered, given.tissue)


def test_a_constant_stays_a_constant(tmp_path):
    rng = np.random.default_rng(0)
    for mpp in rng.uniform(0.3, 15, 12):
        shape = rng.integers(30, 90, 2)
        constant = NodeMaps("n", tmp_path, np.full(shape, 0.75, np.float32), np.full(shape, True), float(mpp))
        found, covered = constant.at(8.0)
        inner = tuple(slice(0, int(size * mpp / 8.0)) for size in shape)  # the last cells may reach beyond
        np.testing.assert_allclose(found[inner], 0.75, rtol=1e-5)
        assert covered[inner].all()


def test_twice_too_coarse_is_refused_and_less_is_not(tmp_path):
    maps = node(tmp_path, 16.0)
    assert maps.features(8.0)["regions"] == 2
    with pytest.raises(ResolutionTooLow, match=r"at most 14 µm per pixel to measure them at 7, got 16; .*--out-mpp"):
        maps.features(7.0)


def npz(tmp_path, **arrays):
    held = {"probability": np.zeros((3, 3), np.float32), "tissue": np.ones((3, 3), bool), "mpp": 8.0} | arrays
    np.savez(tmp_path / "node.npz", **{name: value for name, value in held.items() if value is not None})
    return tmp_path / "node.npz"


def test_an_npz_is_a_node(tmp_path):
    found = open_node(npz(tmp_path, probability=np.full((3, 3), 0.95)))
    assert (found.name, found.mpp, found.complete, found.has_tissue) == ("node", 8.0, True, True)
    assert found.features(8.0)["pixels_90"] == 9
    assert not open_node(npz(tmp_path, tissue=np.zeros((3, 3)))).has_tissue


@pytest.mark.parametrize(
    ("arrays", "message"),
    [({"mpp": None}, "arrays probability, tissue, mpp"), ({"tissue": np.ones((3, 4))}, r"\(3, 3\) and \(3, 4\)"),
     ({"probability": np.zeros((3, 3, 1))}, r"\(3, 3, 1\)"), ({"probability": np.zeros((3, 3), int)}, "int64"),
     ({"probability": np.full((3, 3), 1.5)}, r"in \[0, 1\], got 1.5 to 1.5"), ({"mpp": 0.0}, "above 0"),
     ({"probability": np.full((3, 3), np.inf)}, r"in \[0, 1\]"), ({"mpp": np.nan}, "above 0"),
     ({"mpp": np.ones(2)}, "one number above 0"), ({"mpp": "8"}, "one number"),
     ({"probability": np.array([[{}]])}, "allow_pickle")],
)  # fmt: skip
def test_an_npz_that_cannot_be_used_is_refused_in_one_line(tmp_path, arrays, message):
    path = npz(tmp_path, **arrays)
    with pytest.raises(BadInput, match=message) as raised:
        open_node(path)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(str(path))


def test_what_is_no_npz(tmp_path):
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(BadInput, match=r"expected an \.npz"):
        open_node(tmp_path / "text.npz")
    with pytest.raises(NotFound, match="there is none"):
        open_node(tmp_path / "none.npz")
    with pytest.raises(NotFound, match="no result in"):
        open_node(tmp_path)


@pytest.fixture(scope="module")
def result(small_slide, tmp_path_factory):
    """A segmentation by a predictor that calls red tumour, at 1 µm per map pixel."""
    import fakes

    out = tmp_path_factory.mktemp("cases") / "red.digipath"
    return digipath.segment(small_slide.path, out=out, predictors=[fakes.redness], out_mpp=1.0)


def test_a_case_folder_is_a_node(result):
    for given in (result, result.folder, str(result.folder)):
        found = open_node(given)
        assert (found.name, found.mpp, found.complete, found.has_tissue) == ("red", 1.0, True, True)
        assert found.probability.shape == result.probability.shape


def test_a_stored_pyramid_gives_what_the_maps_themselves_give(result):
    stored = open_node(result)
    whole = NodeMaps("n", result.folder, np.asarray(stored.probability), np.asarray(stored.tissue), 1.0)
    assert stored.probability.levels > 1
    for mpp, apart in ((2.0, 5e-4), (2.6, 0.02)):  # cells of 2.6 µm part pixels of the pyramid
        ours, tissue = stored.at(mpp)
        expected, expected_tissue = whole.at(mpp)
        assert np.abs(ours.astype(float) - expected).mean() < apart
        assert ours.mean(dtype=float) == pytest.approx(expected.mean(dtype=float), rel=1e-3)
        assert (tissue != expected_tissue).mean() < 0.01


def test_a_slide_without_resolution_is_refused(tmp_path):
    import fakes

    Image.new("RGB", (300, 300), (200, 90, 160)).save(tmp_path / "plain.png")
    result = digipath.segment(tmp_path / "plain.png", out=tmp_path / "case", predictors=[fakes.redness], tissue="all")
    assert result.mpp is None
    with pytest.raises(MissingResolution, match="segment it again with --mpp"):
        open_node(result)
