"""`digipath tiles`: an export that stopped goes on, a stain is brought to a reference, and the help tells the truth."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

import digipath
from digipath.cli import main
from digipath.errors import Cancelled
from digipath.grading import tile_export
from digipath.grading.tile_export import export_tiles
from digipath.tiling import TileRule

RULE = TileRule(0.5, 256, 0.5)


def test_an_export_that_was_stopped_goes_on_with_the_missing_tiles(small_slide, tmp_path, monkeypatch):
    export_tiles(small_slide.path, tmp_path / "whole", RULE)
    asked = iter(range(1000))
    with pytest.raises(Cancelled, match="run again to go on"):
        export_tiles(small_slide.path, tmp_path / "part", RULE, cancel=lambda: next(asked) >= 3)
    images = tmp_path / "part" / "images"
    (images / ".killed.png.1.partial").write_bytes(b"half")
    there = {path.name: path.stat().st_mtime_ns for path in images.glob("small*.png")}
    written, write = [], tile_export.write_atomically

    def noted(path, data):
        written.append(path.name)
        write(path, data)

    monkeypatch.setattr(tile_export, "write_atomically", noted)
    found = export_tiles(small_slide.path, tmp_path / "part", RULE)
    everything = {path.name: path.read_bytes() for path in (tmp_path / "whole" / "images").iterdir()}
    assert 4 <= len(there) < len(everything) == found.tiles
    assert set(written) == {*everything} - {*there} | {"tiles.csv"}
    assert {path.name: path.read_bytes() for path in images.glob("small*.png")} == everything
    assert {name: (images / name).stat().st_mtime_ns for name in there} == there
    assert (tmp_path / "part" / "tiles.csv").read_text() == (tmp_path / "whole" / "tiles.csv").read_text()


def test_images_of_another_export_are_not_taken_for_its_own(small_slide, tmp_path):
    export_tiles(small_slide.path, tmp_path / "tiles", RULE)
    before = {path.name: path.read_bytes() for path in (tmp_path / "tiles" / "images").iterdir()}
    export_tiles(small_slide.path, tmp_path / "tiles", TileRule(1.0, 256, 0.5), resume=False)
    for path in (tmp_path / "tiles" / "images").iterdir():
        assert path.read_bytes() != before.get(path.name)


def test_tiles_are_written_in_the_stain_that_is_asked_for(small_slide, tmp_path, capsys):
    words = ["tiles", str(small_slide.path), "--tile", "256", "--least-tissue", "0.5", "--out"]
    for stain in ("none", "macenko"):
        assert main([*words, str(tmp_path / stain), "--stain", stain]) == 0
    names = [path.name for path in sorted((tmp_path / "none" / "images").iterdir())]
    assert names == [path.name for path in sorted((tmp_path / "macenko" / "images").iterdir())] != []
    graded = digipath.grade(
        small_slide.path, predictors=[_colours], out=tmp_path / "case", tile=256, least_tissue=0.5, stain="macenko",
        gallery=0,
    )  # fmt: skip
    for name, wanted in zip(names, graded.probabilities, strict=True):
        plain, stained = (np.asarray(Image.open(tmp_path / stain / "images" / name)) for stain in ("none", "macenko"))
        assert np.abs(plain.astype(float) - stained).mean() > 1
        np.testing.assert_allclose(_colours(stained[None])[0], wanted, atol=1e-3)
    assert main([*words, str(tmp_path / "bad"), "--stain", "purple"]) == 2
    assert "stain must be none, macenko, reinhard" in capsys.readouterr().err


def _colours(tiles):
    """The shares of red, green and blue in each tile."""
    mean = tiles.mean(axis=(1, 2), dtype=np.float64)
    return (mean / mean.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("grade", {"tile": "the network's", "least-tissue": "as the card says", "tissue": "as the card says"}),
        ("tiles", {"tile": "1024", "least-tissue": "0.9", "tissue": "auto", "stain": "none"}),
    ],
)
def test_each_verb_tells_its_own_defaults(verb, said, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    options = dict(re.findall(r"^  --([\w-]+) (.*?)(?=^  --|^$)", capsys.readouterr().out, re.DOTALL | re.MULTILINE))
    for option, default in said.items():
        assert f"(default: {default}" in " ".join(options[option].split()), option
