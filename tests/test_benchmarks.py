"""The benchmarks of graders still run, on little; their numbers are not looked at."""

from __future__ import annotations

import csv
import json
import sys

import example_scripts
import numpy as np
import pytest
from PIL import Image

from digipath.synthetic.glioma import write_glioma_slide
from digipath.training.grading_config import read_tile_config

SOURCES = 15  # images of each class, with two tiles each


def load(name):
    return example_scripts.load(name, example_scripts.BENCHMARKS)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A slide of glioma of 6 × 4 tiles of 128 px."""
    path = tmp_path_factory.mktemp("slide") / "slide.tiff"
    write_glioma_slide(path, (768, 512), grades={"grade 4": 0.6, "grade 2": 0.4}, tile=256)
    return path


# ---- colon_tiles ----


@pytest.fixture(scope="module")
def colon():
    return load("colon_tiles")


@pytest.fixture(scope="module")
def pictures(colon, tmp_path_factory):
    """Two tiles of each source image; of one class they are bluer."""
    folder, rng = tmp_path_factory.mktemp("colon"), np.random.default_rng(0)
    rows = ["file,label,source_cluster"]
    for label, blue in zip(colon.CLASSES, (150, 190), strict=True):
        (folder / label).mkdir()
        for number in range(2 * SOURCES):
            tile = rng.normal((200, 120, blue), 10, (16, 16, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(tile).save(folder / label / f"{label}{number}.png")
            rows.append(f"{label}/{label}{number}.png,{label},{number // 2}")
    (folder / "clusters.csv").write_text("\n".join(rows) + "\n")
    return folder


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_colon_tiles_of_a_source_image_are_in_one_part_and_every_tile_once(colon, pictures, tmp_path):
    def written(seed):
        colon.write_manifest(pictures, tmp_path / "cases.csv", seed)
        return read_rows(tmp_path / "cases.csv")

    rows = written(3)
    assert sorted(row["slide"] for row in rows) == sorted(map(str, pictures.glob("*/*.png")))
    parts = {}
    for row in rows:
        parts.setdefault(row["patient"], set()).add(row["fold"])
    assert len(parts) == 2 * SOURCES
    assert all(len(of_source) == 1 for of_source in parts.values())
    found = {(row["fold"], row["label"]) for row in rows}
    assert found == {(part, label) for part in ("train", "validation", "test") for label in colon.CLASSES}
    assert written(3) == rows != written(4)


def test_colon_tiles_forest_tells_colours_apart(colon, pictures, tmp_path):
    colon.write_manifest(pictures, tmp_path / "cases.csv", 0)
    used = [f"{row['case']},{row['fold']}" for row in read_rows(tmp_path / "cases.csv")]
    (tmp_path / "tiles.csv").write_text("\n".join(["slide,part", *used]) + "\n")
    found = colon.forest(tmp_path / "cases.csv", tmp_path / "tiles.csv")
    assert list(found) == [f"forest on colour histograms of the {of} tiles" for of in ("train", "train and validation")]
    assert list(found.values()) == [1.0, 1.0]


def test_colon_tiles_settings_are_still_understood(colon, tmp_path):
    (tmp_path / "colon.toml").write_text(colon.CONFIG.format(seed=5))
    config = read_tile_config(tmp_path / "colon.toml")
    assert (config.seed, [arm.name for arm in config.arms]) == (5, ["base", "efficientnet-b0"])
    assert config.data.classes == colon.CLASSES


# ---- speed and memory ----


@pytest.mark.keras
@pytest.mark.parametrize("runtime", ["keras", "openvino"])
def test_grade_speed_measures_the_network_alone_and_the_whole(slide, runtime, monkeypatch):
    from digipath import nn

    script, build = load("grade_speed"), nn.build
    monkeypatch.setattr(script, "TILE_PX", 128)
    monkeypatch.setattr(nn, "build", lambda name, **config: build(name, widths=[4, 8, 8, 8], **config))
    found = script.measure(str(slide), runtime, "f32", 1)
    assert 0 < found["tiles"] <= 24
    assert found["ratios"] == [pytest.approx(found["whole_s"] / found["network_alone_s"], rel=0.05)]
    assert found["share_of_wall"]["network"] > 0


@pytest.mark.slow
@pytest.mark.keras
def test_grade_speed_runs(monkeypatch, capfd):
    script = load("grade_speed")
    monkeypatch.setattr(script, "RUNTIMES", script.RUNTIMES[:1])
    monkeypatch.setattr(sys, "argv", ["grade_speed.py", "--pairs", "1", "--size", "5120", "4096"])
    script.main()
    found = json.loads(capfd.readouterr().out)
    assert (found["runtime"], found["tiles"] > 0) == ("keras", True)


@pytest.mark.slow
def test_grade_memory_runs(monkeypatch, capfd):
    script = load("grade_memory")
    monkeypatch.setattr(script, "SIZES", (3000,))
    monkeypatch.setattr(sys, "argv", ["grade_memory.py"])
    script.main()
    found = json.loads(capfd.readouterr().out)
    assert (found["slide"], found["network"], found["tiles"]["graded"] > 0) == ("3000.tiff", False, True)
