"""Manifests of MRI: what is read, what is refused and in which words, and what their hash knows."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_mri import CLASSES, rows_of, write_cases, write_nifti, write_rows

from digipath.errors import BadInput, BadVolume
from digipath.training.splits import holdout
from digipath.training.volume_manifest import read_volume_manifest


@pytest.fixture
def folder(tmp_path):
    write_cases(tmp_path, 3)
    return tmp_path


def read(folder, rows=None, **options):
    path = folder / "cases.csv" if rows is None else write_rows(folder / "cases.csv", rows)
    return read_volume_manifest(path, **{"classes": CLASSES, "order": ["t1", "t1c", "t2", "flair"], **options})


def changed(row, **cells):
    rows = list(rows_of(3))
    rows[row] |= cells
    return rows


def refused(folder, rows, match, kind=BadInput, **options):
    with pytest.raises(kind, match=match) as caught:
        read(folder, rows, **options)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert "cases.csv" in str(caught.value)


def test_a_manifest_is_read(folder):
    rows = changed(1, brain="c1/tumour.nii.gz", type="oligo", centre="A", fold="", case="second")
    for row in (rows[0], rows[2]):
        row |= {"brain": "", "type": "", "centre": "", "fold": ""}
    manifest = read(folder, rows, tumour=True)
    first, second, _ = manifest.cases
    assert [case.name for case in manifest.cases] == ["c0", "second", "c2"]
    assert [case.label for case in manifest.cases] == list(CLASSES)
    assert [name for name, _ in first.modalities] == ["t1", "t1c", "t2", "flair"]
    assert first.files == tuple(folder / "c0" / f"{name}.nii.gz" for name in ("t1", "t1c", "t2", "flair"))
    assert (first.tumour, first.brain) == (folder / "c0/tumour.nii.gz", None)
    assert (second.brain, second.stratum, second.centre) == (folder / "c1/tumour.nii.gz", "oligo", "A")
    assert (manifest.classes, len(manifest.sha256)) == (CLASSES, 64)


def test_only_what_is_looked_at_must_be_there(folder):
    (folder / "c0/t2.nii.gz").unlink()
    (folder / "c0/tumour.nii.gz").unlink()
    case = read(folder, order=["t1c"]).cases[0]
    assert (case.modalities, case.tumour) == ((("t1c", folder / "c0/t1c.nii.gz"),), None)
    rows = [{name: row[name] for name in ("patient", "label", "t1c")} for row in rows_of(3)]
    assert [each.name for each in read(folder, rows, order=["t1c"]).cases] == ["c0", "c1", "c2"]
    refused(folder, rows, r"missing \['t2'\]", order=["t1c", "t2"])
    refused(folder, rows, r"missing \['tumour'\]", order=["t1c"], tumour=True)


def test_the_hash_knows_values_and_contents_but_not_places(folder, tmp_path_factory):
    known = read(folder).sha256
    assert read(folder, list(rows_of(3))[::-1]).sha256 == known
    moved = tmp_path_factory.mktemp("moved")
    write_cases(moved, 3)
    assert read(moved).sha256 == known
    others = {read(folder, changed(0, **cells)).sha256 for cells in ({"label": "grade 3"}, {"patient": "p9"})}
    write_nifti(folder / "c1/t2.nii.gz", np.ones((16, 16, 16), np.float32))
    assert len({known, read(folder, list(rows_of(3))).sha256, *others}) == 4
    write_nifti(folder / "c1/tumour.nii.gz", np.ones((16, 16, 16), np.uint8))
    assert read(folder, tumour=True).sha256 != read(folder).sha256


@pytest.mark.parametrize(
    ("cells", "match"),
    [
        ({"label": "grade 5"}, r"line 2, column label: expected one of \['grade 2', .*received 'grade 5'"),
        ({"label": ""}, "line 2, column label: .*received nothing"),
        ({"patient": ""}, "line 2, column patient: expected a value"),
        ({"t2": ""}, "line 2, column t2: expected a value"),
        ({"patient": "P1"}, "line 3, column patient: expected each patient under one name"),
        ({"case": "c1"}, "line 3, column case: expected a name of its own"),
    ],
)
def test_cells_that_cannot_be(folder, cells, match):
    refused(folder, changed(0, **cells), match)


def test_columns_that_cannot_be(folder):
    refused(folder, [row | {"flare": ""} for row in rows_of(3)], r"unknown \['flare'\]")
    read(folder, [row | {"x_flare": ""} for row in rows_of(3)])
    rows = [row | {"fold": fold} for row, fold in zip(rows_of(3), ("train", "", "5a"), strict=True)]
    refused(folder, rows, r"line 4, column fold: expected a number")
    path = folder / "empty.csv"
    path.write_text("t1c,patient,label\n")
    with pytest.raises(BadInput, match="at least one case"):
        read_volume_manifest(path, classes=CLASSES, order=["t1c"])


def test_files_that_cannot_be(folder):
    refused(folder, changed(0, t1="none.nii.gz"), "line 2, column t1: expected a NIfTI file, there is none", BadVolume)
    (folder / "text.nii").write_text("no volume")
    refused(folder, changed(1, flair="text.nii"), "line 3, column flair: expected a NIfTI file", BadVolume)
    whole = (folder / "c1" / "flair.nii.gz").read_bytes()
    (folder / "damaged.nii.gz").write_bytes(whole[:10] + b"\xff" * len(whole[10:]))  # gzip's header is intact
    refused(folder, changed(1, flair="damaged.nii.gz"), "line 3, column flair: expected a NIfTI file, Err", BadVolume)
    write_nifti(folder / "4d.nii.gz", np.ones((4, 4, 4, 2), np.float32))
    refused(folder, changed(1, t2="4d.nii.gz"), "received 4 × 4 × 4 × 2", BadVolume)
    (folder / "series").mkdir()
    refused(folder, changed(1, t2="series"), "expected a folder of one DICOM series", BadVolume)
    refused(folder, changed(2, tumour="none.nii"), "column tumour", BadVolume, tumour=True)
    copied = "line 4, column t1c: .*copy of that in line 2, column t1c"
    refused(folder, changed(2, t1c="c0/t1c.nii.gz"), copied, BadVolume)


def test_the_first_five_errors_and_how_many_more(folder):
    rows = [row | {n: f"c{at}/none.nii" for n in ("t1", "t2", "flair")} for at, row in enumerate(rows_of(3))]
    refused(folder, rows, "line 2, column t1: .*line 3, column t2: .*; and 4 more", BadVolume)


def test_cases_are_split_by_patient_alike_for_every_label(tmp_path):
    write_cases(tmp_path, 12)
    split = holdout(read(tmp_path).cases, validation=0.25, test=0.25, seed=0)
    for part, count in ((split.train, 6), (split.validation, 3), (split.test, 3)):
        assert sorted(case.label for case in part) == sorted(list(CLASSES) * (count // 3))
