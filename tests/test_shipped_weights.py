"""The default weights on real slides and crops, through the command line and in Python."""

from __future__ import annotations

import json

import numpy as np
import pytest

import digipath
from digipath.cli import main
from digipath.errors import Cancelled
from digipath.values import PREDICTED

pytestmark = [pytest.mark.keras, pytest.mark.real_data]


@pytest.fixture(scope="module")
def small_region(shared_data):
    return shared_data / "wsi" / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def on_keras(small_region, tmp_path_factory):
    out = tmp_path_factory.mktemp("keras") / "case"
    assert main(["segment", str(small_region), "--out", str(out), "--runtime", "keras", "--views", "2"]) == 0
    return digipath.open_result(out)


def test_a_real_slide_is_covered_and_its_record_is_whole(on_keras, small_region):
    assert on_keras.coverage.complete
    assert on_keras.coverage.tissue > 2_000_000
    assert on_keras.run["slide"]["size_l0"] == [2220, 2967]
    assert on_keras.run["settings"]["working_mpp"] == pytest.approx(0.499)
    card = digipath.show_weights("lymphnode-unet-v1")
    assert on_keras.run["weights"]["sha256"] == {"lymphnode-unet-v1": card["sha256"]}
    assert on_keras.classes == ("tumour",)
    values = on_keras.probability[:][on_keras.maps["coverage"][:] == PREDICTED]
    assert 0 <= values.min() < values.max() <= 1
    assert card["licence"] in (on_keras.folder / "report.html").read_text()


def test_openvino_gives_the_same_map(on_keras, small_region, tmp_path):
    pytest.importorskip("openvino", reason="the extra `fast` is not installed")
    result = digipath.segment(small_region, runtime="openvino", precision="f32", views=2, out=tmp_path)
    np.testing.assert_allclose(
        result.probability[:].astype(float), on_keras.probability[:].astype(float), atol=2e-3, equal_nan=True
    )


def test_a_crop_with_its_resolution(shared_data, tmp_path, capsys):
    crop = shared_data / "camelyon_tumour" / "images" / "10679.jpg"
    assert main(["segment", str(crop), "--mpp", "0.5", "--out", str(tmp_path), "--runtime", "keras", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tissue_mm2"] == pytest.approx(512 * 512 * 0.25e-6, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["keras", "openvino"])
def test_a_cancelled_run_of_the_real_network_goes_on_to_the_same_bytes(small_region, tmp_path, runtime):
    pytest.importorskip("openvino", reason="the extra `fast` is not installed")

    def run(out, **options):
        return digipath.segment(small_region, out=out, runtime=runtime, tissue="all", views=2, **options)

    def maps(folder):
        return {p.relative_to(folder): p.read_bytes() for p in (folder / "maps.zarr").rglob("*") if p.is_file()}

    whole = run(tmp_path / "whole")
    for stop in (20, 15):
        calls = []
        with pytest.raises(Cancelled):
            run(tmp_path / "part", cancel=lambda calls=calls, stop=stop: calls.append(1) or len(calls) > stop)
    run(tmp_path / "part")
    assert maps(tmp_path / "part") == maps(whole.folder)


@pytest.mark.slow
def test_evaluate_on_the_crops_it_was_trained_on(shared_data, capsys):
    """Not a score of skill (the card has that): it must see at least what it was shown."""
    folder = shared_data / "camelyon_tumour"
    assert main(["evaluate", str(folder / "images"), str(folder / "masks"), "--mpp", "0.5", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["count"] == 32
    assert scores["pooled_dice"] > 0.75 > scores["all_positive_pooled_dice"]
    assert scores["pixel_auroc"] > 0.85
