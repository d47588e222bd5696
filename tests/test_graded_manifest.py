"""Manifests of graded cases: what is read, what is refused and in which words, splits by stratum, folders of tiles."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_tiles import CLASSES, outlines
from PIL import Image

from digipath.errors import BadAnnotation, BadInput, MissingResolution, ResolutionTooLow
from digipath.training.graded_manifest import class_outlines, graded_folder, read_graded_manifest
from digipath.training.manifest import TrainingCase
from digipath.training.splits import holdout, k_folds

ROWS = [
    {"slide": "a.png", "patient": "p1", "label": "grade 2", "annotation": "", "type": "astro", "mpp": "0.5"},
    {"slide": "b.png", "patient": "p2", "label": "grade 3", "annotation": "b.geojson", "type": "oligo", "mpp": "0.5"},
    {"slide": "c.png", "patient": "p3", "label": "grade 4", "annotation": "", "type": "", "mpp": "0.25"},
]


@pytest.fixture
def folder(tmp_path):
    """Three plain slides of 60 × 40 px without resolution, one with outlines."""
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(tmp_path / f"{name}.png")
    outlines(tmp_path / "b.geojson", ("grade 3", 0, 0, 30, 40), (" Grade 4 ", 30, 0, 60, 20))
    return tmp_path


def write(folder, rows):
    path = folder / "cases.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(folder, rows, **options):
    return read_graded_manifest(write(folder, rows), classes=CLASSES, **options)


def changed(row, **cells):
    rows = [dict(each) for each in ROWS]
    rows[row].update(cells)
    return rows


def refused(folder, rows, match, kind=BadInput, **options):
    with pytest.raises(kind, match=match) as caught:
        read(folder, rows, **options)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert "cases.csv" in str(caught.value)


def test_a_manifest_is_read(folder):
    manifest = read(folder, ROWS)
    assert [case.name for case in manifest.cases] == ["a", "b", "c"]
    assert [case.label for case in manifest.cases] == list(CLASSES)
    assert [case.stratum for case in manifest.cases] == ["astro", "oligo", None]
    assert [case.mpp for case in manifest.cases] == [0.5, 0.5, 0.25]
    assert not any(case.ill for case in manifest.cases)
    assert manifest.cases[1].annotation == folder / "b.geojson"
    assert manifest.classes == CLASSES
    assert len(manifest.sha256) == 64


def test_outlines_by_their_class(folder):
    found = class_outlines(read(folder, ROWS).cases[1], CLASSES)
    assert [(label, area.area) for label, area in found] == [(1, 1200), (2, 600)]
    assert class_outlines(read(folder, ROWS).cases[0], CLASSES) == []


def test_the_hash_knows_values_and_contents(folder):
    known = read(folder, ROWS).sha256
    assert read(folder, ROWS[::-1]).sha256 == known
    changes = [{"type": "oligo"}, {"type": ""}, {"label": "grade 3"}, {"patient": "p9"}, {"mpp": "0.6"}]
    others = {read(folder, changed(0, **cells)).sha256 for cells in changes}
    outlines(folder / "b.geojson", ("grade 3", 0, 0, 31, 40))
    assert len({known, read(folder, ROWS).sha256, *others}) == 7


@pytest.mark.parametrize(
    ("row", "cells", "kind", "message"),
    [
        (0, {"label": ""}, BadInput, r"line 2, column label: expected one of \['grade 2', .*\], received nothing"),
        (2, {"label": "GBM"}, BadInput, r"line 4, column label: expected one of .*, received 'GBM'"),
        (0, {"patient": ""}, BadInput, "line 2, column patient: expected a value"),
        (1, {"patient": "P1"}, BadInput, "expected each patient under one name"),
        (1, {"slide": "a.png"}, BadInput, "line 3, column case: .*a name of its own"),
        (0, {"slide": "no.png"}, BadInput, "line 2, column slide: expected a slide file"),
        (0, {"mpp": ""}, MissingResolution, "line 2, column mpp: expected µm per pixel"),
        (0, {"mpp": "1.01"}, ResolutionTooLow, "line 2, column slide: expected at most 1 µm/px .* received 1.01"),
        (0, {"annotation": "b.png"}, BadAnnotation, "line 2, column annotation: expected outlines .* a mask image"),
        (0, {"annotation": "no.geojson"}, BadAnnotation, "line 2, column annotation: .*cannot be read"),
    ],
)
def test_refusals(folder, row, cells, kind, message):
    refused(folder, changed(row, **cells), message, kind, at_mpp=0.5)


def test_a_copy_of_a_slide_is_refused(folder):
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes())
    refused(folder, ROWS, "line 4, column slide: expected each slide once, c.png is a copy of that in line 2")


def test_columns(folder):
    refused(folder, [{"slide": "a.png", "patient": "p1"}], "expected the columns slide, patient, label and any of")
    refused(folder, [{**ROWS[0], "stratum": "x"}], r"unknown \['stratum'\]")
    with pytest.raises(BadInput, match="two or more different classes, in rising order of malignancy"):
        read_graded_manifest(write(folder, ROWS), classes=("grade 2",))


def test_outlines_of_unknown_names_are_named(folder):
    outlines(folder / "b.geojson", ("grade 3", 0, 0, 10, 10), ("Tumor", 0, 0, 9, 9), ("", 0, 0, 9, 9))
    refused(folder, ROWS, r"line 3, column annotation: .* by class .*, received \['', 'Tumor'\]", BadAnnotation)


def test_outlines_of_another_slide_are_refused(folder):
    outlines(folder / "b.geojson", ("grade 3", 0, 0, 10, 10), ("grade 4", 40, 0, 80, 40))
    refused(folder, ROWS, "line 3, column annotation: .*60 × 40, 50% of outline 2 lies outside", BadAnnotation)


# ---- strata ----


def cohort(*counts, label="grade 2"):
    """Cases of one label, so many of each stratum."""
    return [
        TrainingCase(f"{label}{kind}-{i}", Path(f"{label}{kind}{i}.svs"), None, f"{label}{kind}{i}", label,
                     has_lesion=False, stratum=kind)
        for kind, count in zip("xyz", counts, strict=False)
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_every_part_gets_its_share_of_every_stratum(seed):
    cases = cohort(50, 20, 10) + cohort(30, 10, label="grade 4")
    split = holdout(cases, validation=0.2, test=0.1, seed=seed)
    counts = [Counter((case.label, case.stratum) for case in getattr(split, part)) for part in ("validation", "test")]
    kinds = [("grade 2", "x"), ("grade 2", "y"), ("grade 2", "z"), ("grade 4", "x"), ("grade 4", "y")]
    assert [counts[0][kind] for kind in kinds] == [10, 4, 2, 6, 2]
    assert [counts[1][kind] for kind in kinds] == [5, 2, 1, 3, 1]


def test_without_strata_the_split_is_that_of_the_labels():
    cases = cohort(30) + cohort(20, label="grade 4")
    plain = [replace(case, stratum=None) for case in cases]
    with_one, without = (holdout(each, validation=0.2, test=0.2, seed=1) for each in (cases, plain))
    assert [case.name for case in with_one.test] == [case.name for case in without.test]


def test_folds_hold_every_stratum_and_none_need_be_large():
    folds = k_folds(cohort(10, 5) + cohort(5, label="grade 4"), 5, seed=0)
    assert [Counter((case.label, case.stratum) for case in fold) for fold in folds] == [
        {("grade 2", "x"): 2, ("grade 2", "y"): 1, ("grade 4", "x"): 1}
    ] * 5
    for fold in k_folds(cohort(1, 1, 1) + cohort(1, 1, 1, label="grade 4"), 3, seed=0):
        assert Counter(case.label for case in fold) == {"grade 2": 1, "grade 4": 1}


# ---- folders ----


@pytest.fixture
def tiles(tmp_path):
    rng = np.random.default_rng(0)
    for label in CLASSES:
        (tmp_path / label).mkdir()
        for number in range(2):
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(tmp_path / label / f"{number}.png")
    return tmp_path


def test_a_folder_of_tiles(tiles):
    (tiles / "notes.txt").write_text("not a folder")
    (tiles / ".thumbnails").mkdir()
    manifest = graded_folder(tiles, classes=CLASSES, mpp=0.5, at_mpp=0.5)
    found = [(case.label, case.slide.name) for case in manifest.cases]
    assert found == [(label, f"{n}.png") for label in CLASSES for n in (0, 1)]
    assert manifest.cases[0].name == manifest.cases[0].patient == "grade 2-0"
    assert len({case.patient for case in manifest.cases}) == 6
    assert {case.mpp for case in manifest.cases} == {0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "grade 5").mkdir(), r"called like the classes .*, received \['grade 5'\]"),
        (lambda folder: (folder / "grade 3").rename(folder / ".gone"), "expected a folder of images, received none"),
        (lambda folder: [path.unlink() for path in (folder / "grade 4").iterdir()], "expected images .*, found none"),
        (lambda folder: (folder / "grade 4" / "0.png").write_bytes((folder / "grade 2" / "1.png").read_bytes()),
         "grade 4/0.png, column slide: expected each slide once, 0.png is a copy of that in grade 2/1.png"),
        (lambda folder: (folder / "grade 4" / "0.png").write_bytes(b"no picture"), "grade 4/0.png, column slide"),
    ],
)  # fmt: skip
def test_folders_that_will_not_do(tiles, change, message):
    change(tiles)
    with pytest.raises(BadInput, match=message):
        graded_folder(tiles, classes=CLASSES, mpp=0.5)


def test_no_folder_and_a_resolution_too_low(tiles):
    with pytest.raises(BadInput, match="expected a folder with one of images for each class"):
        graded_folder(tiles / "none", classes=CLASSES, mpp=0.5)
    with pytest.raises(ResolutionTooLow, match=r"expected at most 0\.5 µm/px"):
        graded_folder(tiles, classes=CLASSES, mpp=0.51, at_mpp=0.25)
    with pytest.raises(BadInput, match="expected mpp between"):
        graded_folder(tiles, classes=CLASSES, mpp=0)
