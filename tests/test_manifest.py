"""Manifests: what is read, what is refused and in which words, and the hash."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from digipath.annotation import Labels
from digipath.errors import BadAnnotation, BadInput, MissingResolution, ResolutionTooLow
from digipath.training.manifest import folder_manifest, read_manifest

SQUARE = {"type": "Polygon", "coordinates": [[[5, 5], [25, 5], [25, 20], [5, 20], [5, 5]]]}


def outlines(path, label="Tumor", *, shift=0):
    ring = [[x + shift, y] for x, y in SQUARE["coordinates"][0]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    path.write_text(
        json.dumps([{"type": "Feature", "properties": {"classification": {"name": label}}, "geometry": geometry}])
    )


@pytest.fixture
def folder(tmp_path):
    """Four plain slides of 60 × 40 px without resolution, with outlines, a mask, an empty mask."""
    rng = np.random.default_rng(0)
    for name in "abcd":
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(tmp_path / f"{name}.png")
    outlines(tmp_path / "a.geojson")
    mask = np.zeros((20, 30), np.uint8)
    Image.fromarray(mask).save(tmp_path / "empty.png")
    mask[3:9, 4:20] = 255
    Image.fromarray(mask).save(tmp_path / "b_mask.png")
    return tmp_path


ROWS = [
    {"slide": "a.png", "annotation": "a.geojson", "patient": "p1", "label": "tumour", "mpp": "0.5", "centre": "x"},
    {"slide": "b.png", "annotation": "b_mask.png", "patient": "p2", "label": "tumour", "mpp": "0.5", "centre": "x"},
    {"slide": "c.png", "annotation": "", "patient": "p3", "label": "normal", "mpp": "0.5", "centre": "y"},
    {"slide": "d.png", "annotation": "empty.png", "patient": "p3", "label": "", "mpp": "0.25", "centre": ""},
]


def changed(row, **cells):
    """The rows with cells of one row (from 0) changed; a None takes its column away from all."""
    rows = [dict(each) for each in ROWS]
    rows[row].update(cells)
    gone = [column for column, value in cells.items() if value is None]
    return [{column: value for column, value in each.items() if column not in gone} for each in rows]


def write(folder, rows, name="cases.csv", **options):
    path = folder / name
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, columns, restval="", **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


def refused(folder, rows, match, kind=BadInput, **options):
    path = write(folder, rows)
    with pytest.raises(kind, match=match) as caught:
        read_manifest(path, **options)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_manifest_is_read(folder):
    manifest = read_manifest(write(folder, ROWS))
    assert [case.name for case in manifest.cases] == ["a", "b", "c", "d"]
    first, last = manifest.cases[0], manifest.cases[-1]
    assert first.slide == folder / "a.png"
    assert first.annotation == folder / "a.geojson"
    assert (first.patient, first.label, first.fold, first.mpp, first.centre) == ("p1", "tumour", None, 0.5, "x")
    assert (last.label, last.mpp, last.centre) == (None, 0.25, None)
    assert manifest.cases[2].annotation is None
    assert manifest.classes == ("normal", "tumour")
    assert len(manifest.sha256) == 64


@pytest.mark.parametrize(
    "options",
    [
        {"delimiter": ";"},
        {"delimiter": "\t"},
        {"lineterminator": "\n"},
        {"lineterminator": "\r\n"},
        {"encoding": "utf-8-sig"},
        {"quoting": csv.QUOTE_ALL},
    ],
)
def test_any_csv_is_the_same_manifest(folder, options):
    plain = read_manifest(write(folder, ROWS))
    other = read_manifest(write(folder, ROWS, "other.csv", **options))
    assert other.cases == plain.cases
    assert other.sha256 == plain.sha256


def test_parquet_is_the_same_manifest_with_typed_columns_too(folder):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [dict(row, fold=str(i)) for i, row in enumerate(changed(3, patient="p4"))]
    typed = [{**row, "mpp": float(row["mpp"]), "fold": float(row["fold"])} for row in rows]
    typed = [{column: value if value != "" else None for column, value in row.items()} for row in typed]
    parquet.write_table(pyarrow.Table.from_pylist(typed), folder / "cases.parquet")
    read, expected = read_manifest(folder / "cases.parquet"), read_manifest(write(folder, rows))
    assert read.cases == expected.cases
    assert [case.fold for case in read.cases] == ["0", "1", "2", "3"]
    assert read.sha256 == expected.sha256

    typed[1]["mpp"] = -1.0
    parquet.write_table(pyarrow.Table.from_pylist(typed), folder / "cases.parquet")
    with pytest.raises(BadInput, match=r"^row 2, column mpp: expected µm per pixel"):
        read_manifest(folder / "cases.parquet")
    (folder / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(BadInput, match=r"cannot be read.*broken\.parquet"):
        read_manifest(folder / "broken.parquet")


def test_the_hash_knows_values_and_contents_but_no_places(folder, tmp_path_factory):
    known = read_manifest(write(folder, ROWS)).sha256
    turned = [dict(reversed(row.items()), x_note="mine", mpp=f"{row['mpp']}0") for row in ROWS[::-1]]
    assert read_manifest(write(folder, turned, "turned.csv")).sha256 == known
    moved = tmp_path_factory.mktemp("elsewhere") / "deep"
    shutil.copytree(folder, moved)
    assert read_manifest(moved / "cases.csv").sha256 == known
    absolute = [dict(row, slide=str(folder / row["slide"])) for row in ROWS]
    assert read_manifest(write(folder, absolute, "absolute.csv")).sha256 == known
    changes = [{"patient": "p9"}, {"label": ""}, {"mpp": "0.51"}, {"centre": "z"}, {"case": "first"}]
    others = {read_manifest(write(folder, changed(0, **c))).sha256 for c in changes}
    folds = read_manifest(write(folder, [dict(row, fold="1") for row in ROWS])).sha256
    outlines(folder / "a.geojson", shift=1)
    moved_lesion = read_manifest(write(folder, ROWS)).sha256
    Image.new("RGB", (60, 40), "pink").save(folder / "c.png")
    other_slide = read_manifest(write(folder, ROWS)).sha256
    assert len({*others, known, folds, moved_lesion, other_slide}) == len(changes) + 4


def test_whether_there_are_lesions_is_what_counts(folder):
    cases = read_manifest(write(folder, ROWS)).cases
    assert [case.has_lesion for case in cases] == [True, True, False, False]
    assert [case.ill for case in cases] == [True, True, False, False]  # an empty mask is none


def test_slides_too_coarse_to_be_read_are_refused(folder):
    match = r"^line 2, column slide: expected at most 0.4 µm/px to read it at 0.2 µm/px, received 0.5"
    refused(folder, ROWS, match, ResolutionTooLow, at_mpp=0.2)
    assert read_manifest(folder / "cases.csv", at_mpp=0.25).cases


@pytest.mark.real_data
def test_two_files_of_one_slide_are_one_slide(folder, shared_data):
    series = sorted((shared_data / "wsi").glob("openslide-boxes*.dcm"))[:2]
    assert len(series) == 2
    rows = [{"slide": str(path), "patient": path.stem, "mpp": "0.5"} for path in series]
    refused(folder, [*rows, ROWS[0]], r"^line 3, column slide: expected each slide once.*copy of that in line 2")


def test_names_own_columns_and_blank_lines(folder):
    rows = [dict(row, case=f"case {i}", x_stain="H&E") for i, row in enumerate(ROWS)]
    path = write(folder, rows)
    path.write_text(path.read_text() + ",,,,,,,\n\n")
    assert [case.name for case in read_manifest(path).cases] == ["case 0", "case 1", "case 2", "case 3"]


@pytest.mark.parametrize(
    ("row", "cells", "match"),
    [
        (0, {"slide": ""}, "^line 2, column slide: expected a value, it is blank"),
        (3, {"patient": " "}, "^line 5, column patient: expected a value"),
        (1, {"label": "cancer"}, r"^line 3, column label: expected one of \['normal', 'tumour'\].*received 'cancer'"),
        (1, {"annotation": ""}, "^line 3, column annotation: expected outlines or a mask of what is labelled 'tumour'"),
        (2, {"mpp": "0,25"}, "^line 4, column mpp: expected µm per pixel.*received '0,25'"),
        (2, {"mpp": "nan"}, "^line 4, column mpp"),
        (2, {"mpp": "-0.5"}, "^line 4, column mpp"),
        (2, {"mpp": "0.00025"}, "^line 4, column mpp"),
        (2, {"mpp": "2500"}, "^line 4, column mpp"),
        (2, {"fold": "1" * 5000}, "^line 4, column fold: expected a number"),
        (1, {"patient": "P1"}, "^line 3, column patient: expected .* under one name.*'P1' here and 'p1' in line 2"),
        (2, {"fold": "third"}, "^line 4, column fold: expected a number.*received 'third'"),
        (2, {"slide": "a.png", "case": "again"}, "^line 4, column slide: expected each slide once, a.png is in line 2"),
        (2, {"slide": "./a.png", "case": "again"}, "^line 4, column slide: expected each slide once"),
        (2, {"slide": "sub/a.png"}, "^line 4, column case: expected a name of its own, 'a' is also that of line 2"),
        (1, {"annotation": "b.png"}, "^line 3, column annotation: expected outlines or a mask, received the slide"),
        (2, {"centre": "y", "patients": "p3"}, r"columns slide, patient and any of.*received unknown \['patients'\]"),
        (0, {"slide": None}, r"received missing \['slide'\]"),
        (0, {"patient": None}, r"received missing \['patient'\]"),
    ],
)
def test_errors_name_row_and_column_of_the_table(folder, row, cells, match):
    refused(folder, changed(row, **cells), match)


@pytest.mark.parametrize(
    ("row", "cells", "match", "kind"),
    [
        (2, {"slide": "none.png"}, r"^line 4, column slide: expected a slide file.*none\.png", BadInput),
        (2, {"slide": "words.txt"}, r"^line 4, column slide: expected a slide.*words\.txt", BadInput),
        (2, {"mpp": ""}, r"^line 4, column mpp: expected µm per pixel, since the slide", MissingResolution),
        (0, {"annotation": "none.xml"}, r"^line 2, column annotation: .*none\.xml", BadAnnotation),
        (0, {"annotation": "wide.png"}, r"^line 2, column annotation: expected a mask of the slide", BadAnnotation),
        (0, {"annotation": "off.geojson"}, r"^line 2, column annotation: .*lies outside", BadAnnotation),
        (0, {"annotation": "odd.geojson"}, r"^line 2, column annotation: .*received \['Fold'\]", BadAnnotation),
        (0, {"annotation": "empty.png"}, "^line 2, column annotation: expected lesions on.*'tumour'", BadAnnotation),
        (0, {"label": "normal"}, "^line 2, column annotation: expected no lesion on a slide labelled", BadAnnotation),
        (2, {"slide": "copy.png"}, r"^line 4, column slide: .*copy\.png is a copy of that in line 2", BadInput),
    ],
)
def test_files_are_opened_and_errors_name_row_and_column(folder, row, cells, match, kind):
    shutil.copy(folder / "a.png", folder / "copy.png")
    (folder / "words.txt").write_text("no slide")
    Image.new("L", (90, 40), 1).save(folder / "wide.png")
    outlines(folder / "off.geojson", shift=50)
    outlines(folder / "odd.geojson", "Fold")
    refused(folder, changed(row, **cells), match, kind)


def test_own_labels_and_classes(folder):
    outlines(folder / "a.geojson", "Fold")
    path = write(folder, ROWS)
    assert len(read_manifest(path, labels=Labels(positive=("fold",))).cases) == 4
    rows = [dict(row, label=row["label"].replace("tumour", "fold of tissue")) for row in ROWS]
    path = write(folder, rows)
    assert read_manifest(path, classes=("normal", "fold of tissue"), labels=Labels(positive=("fold",))).classes[1]
    for classes in ("tumour", ("tumour",), ("a", "a")):
        with pytest.raises(BadInput, match="classes"):
            read_manifest(path, classes=classes)


def test_all_errors_come_in_one_line_and_the_sixth_is_counted(folder):
    rows = [dict(row, mpp="fine", fold="x") for row in ROWS]
    said = refused(folder, rows, "^line 2, column fold.*; line 2, column mpp")
    assert said.count("column") == 5
    assert "; and 3 more: " in said
    rows = [dict(ROWS[0], slide="none.png"), dict(ROWS[1], annotation="none.xml")]
    assert "more" not in refused(folder, rows, "line 2, column slide.*; line 3, column annotation")


def test_an_empty_class_is_refused(folder):
    rows = [dict(row, annotation="", label="") for row in ROWS]
    refused(folder, rows, "lesions of class 'tumour' on at least one of 4 slides")
    assert len(read_manifest(folder / "cases.csv", with_lesions=False).cases) == 4  # to be scored
    refused(folder, [ROWS[2], ROWS[3]], "lesions of class 'tumour' on at least one of 2 slides, found none")


@pytest.mark.parametrize(
    ("folds", "match"),
    [
        (["0", "1", "2", "3"], "^line 5, column fold: expected patient 'p3' in one fold, received '3' .*'2' in line 4"),
        (["train", "test", "train", "test"], "^line 5, column fold: expected patient 'p3' in one fold"),
        (["0", "1", "train", "train"], r"line 4, column fold: expected a number as in line 2, received 'train'"),
        (["0", "1", "2", ""], "^line 5, column fold: expected a number as in line 2, received nothing"),
        (["", "1", "", ""], "^line 3, column fold: expected nothing as in line 2, received '1'"),
    ],
)
def test_folds_that_leak_or_do_not_agree_are_refused(folder, folds, match):
    rows = [dict(row, fold=fold) for row, fold in zip(ROWS, folds, strict=True)]
    refused(folder, rows, match)


def test_folds_of_one_kind_are_kept(folder):
    for folds in (["0", "01", "2", "2"], ["train", "validation", "test", "test"]):
        rows = [dict(row, fold=fold) for row, fold in zip(ROWS, folds, strict=True)]
        cases = read_manifest(write(folder, rows)).cases
        assert [case.fold for case in cases] == [fold.removeprefix("0") or "0" for fold in folds]


def test_what_is_no_manifest_ends_in_one_line(folder):
    for content, match in [
        (b"", "missing"),
        (b"slide,patient\n", "at least one case"),
        (b"slide,patient\n\xff\xfe,a\n", "UTF-8"),
        (b"slide,patient\na.png,p,q\n", "^line 2: expected 2 cells, received 3"),
        (b'slide,patient\n"a\nb.png",p\nc.png\n', "^line 4: expected 2 cells, received 1"),
        (b'slide,patient\n"a.png,p\n', "expected CSV"),
        (b"slide,patient,patient\na,b,c\n", r"twice \['patient'\]"),
        (b"slide,patient,x_a\na.png\n", "received 1"),
        (b"slide,patient\na\0.png,p\n", "NUL"),
    ]:
        (folder / "odd.csv").write_bytes(content)
        with pytest.raises(BadInput, match=match) as caught:
            read_manifest(folder / "odd.csv")
        assert "\n" not in str(caught.value)
        assert "odd.csv" in str(caught.value)
    with pytest.raises(BadInput, match=r"nope\.csv"):
        read_manifest(folder / "nope.csv")


def test_a_slide_with_its_own_resolution_needs_no_column(folder, small_slide):
    rows = [{"slide": str(small_slide.path), "patient": "p", "annotation": "a.geojson"}]
    (case,) = read_manifest(write(folder, rows)).cases
    assert case.mpp is None
    assert case.name == "small"


def test_folders_of_images_and_masks(folder):
    images, masks = folder / "images", folder / "masks"
    for path in (images, masks):
        path.mkdir()
    for name in "abc":
        shutil.move(folder / f"{name}.png", images)
        shutil.copy(folder / ("b_mask.png" if name != "c" else "empty.png"), masks / f"{name}.png")
    manifest = folder_manifest(images, masks, mpp=0.5)
    assert [(case.name, case.patient, case.mpp, case.label) for case in manifest.cases] == [
        (name, name, 0.5, None) for name in "abc"
    ]
    assert manifest.sha256 != folder_manifest(images, masks, mpp=0.25).sha256
    shutil.move(folder / "d.png", images)
    with pytest.raises(BadInput, match=r"^d\.png, column annotation: expected one mask of the same name.*found none"):
        folder_manifest(images, masks, mpp=0.5)
    Image.new("L", (90, 40), 1).save(masks / "d.png")
    with pytest.raises(BadAnnotation, match=r"^d\.png, column annotation: .*of the slide's size"):
        folder_manifest(images, masks, mpp=0.5)
    for wrong in (0, -1, float("nan")):
        with pytest.raises(BadInput, match="mpp"):
            folder_manifest(images, masks, mpp=wrong)
    with pytest.raises(BadInput, match="folder of images"):
        folder_manifest(folder / "nowhere", masks, mpp=0.5)


@pytest.mark.real_data
def test_the_real_crops(shared_data):
    crops = shared_data / "camelyon_tumour"
    manifest = folder_manifest(crops / "images", crops / "masks", mpp=0.5)
    assert len(manifest.cases) == 32
