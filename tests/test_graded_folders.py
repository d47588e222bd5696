"""Folders of tiles: somebody chose their images already, so nobody looks for tissue in them, and nobody says so."""

from __future__ import annotations

import fakes
import numpy as np
import pytest
from PIL import Image

import digipath
from digipath.errors import BadInput


@pytest.fixture
def folder(tmp_path):
    """A tile, half a tile, and a white one."""
    (tmp_path / "tiles").mkdir()
    for name, rows, colour in (("a", 64, (230, 80, 120)), ("b", 32, (230, 80, 120)), ("c", 64, (250, 250, 250))):
        Image.new("RGB", (64, rows), colour).save(tmp_path / "tiles" / f"{name}.png")
    return tmp_path / "tiles"


def graded(paths, out, **options):
    return digipath.grade(paths, predictors=[fakes.grader], out=out, tile=64, gallery=0, mpp=0.5, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tissue": "no.geojson"}, "tissue"),
        ({"tissue": "all"}, "tissue"),
        ({"least_tissue": 0.9}, "least_tissue"),
        ({"tissue": "auto", "least_tissue": 0.5}, "tissue and least_tissue"),
    ],
)
def test_tissue_of_a_folder_is_refused(folder, tmp_path, options, words):
    Image.new("RGB", (64, 64), (230, 80, 120)).save(tmp_path / "slide.png")
    for paths in (folder, [tmp_path / "slide.png", folder]):
        with pytest.raises(BadInput, match=f"tiles that were chosen already; leave out {words}: .*tiles$") as caught:
            graded(paths, tmp_path / "case", **options)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "case").exists()


def test_what_is_measured_of_a_folder_is_its_images(folder, tmp_path):
    slide = graded(folder, tmp_path / "case").slides[0]
    assert [row["image_share"] for row in slide.tiles] == ["1.0000", "0.5000", "1.0000"]
    np.testing.assert_allclose(slide.areas_mm2, np.array([4096, 2048, 4096]) * 0.25 / 1e6)
    assert not any("tissue" in column for column in slide.tiles[0])
    assert (slide.run["settings"]["least_tissue"], slide.run["settings"]["tissue"]) == (None, None)
    page = (tmp_path / "case" / "report.html").read_text()
    assert "What became of the images" in page
    assert "less than 90% tissue" not in page
    assert "tiles with tissue" not in page.lower()


def test_a_case_of_a_slide_and_a_folder_tells_the_tissue_of_the_slide(folder, tmp_path):
    Image.new("RGB", (64, 64), (230, 80, 120)).save(tmp_path / "slide.png")
    for paths in ([tmp_path / "slide.png", folder], [folder, tmp_path / "slide.png"]):
        out = tmp_path / paths[0].stem
        areas = graded(paths, out).readout().areas_mm2
        assert sum(areas.values()) == pytest.approx((2 * 4096 + 2048 + 4096) * 0.25 / 1e6)
        assert "left out: less than 90% tissue" in (out / "case.html").read_text()
