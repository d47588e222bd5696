"""Tables of stages in CAMELYON17's form."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from digipath.errors import BadInput, NotFound, OutputUnwritable
from digipath.measure.pn_stage import OUTSIDE, STAGES
from digipath.measure.pn_tables import (
    Contradiction,
    Patient,
    contradictions,
    quadratic_kappa,
    read_stage_table,
    table_kappa,
    write_submission,
)

TABLE = """\
patient,stage
patient_000.zip,pN1
patient_000_node_0.tif,macro
patient_000_node_1.tif,negative
patient_001.zip,pN0(i+)
patient_001_node_0.tif,micro
"""


def table_of(folder, text, encoding="utf-8"):
    path = folder / "stages.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_table_is_read_and_checked(tmp_path):
    table = read_stage_table(table_of(tmp_path, TABLE))
    assert list(table.patients.values()) == [
        Patient("patient_000", "pN1", {"patient_000_node_0": "macro", "patient_000_node_1": "negative"}),
        Patient("patient_001", "pN0(i+)", {"patient_001_node_0": "micro"}),
    ]
    assert contradictions(table) == [Contradiction("patient_001", "pN0(i+)", "pN1mi", ("micro",))]


def test_spreadsheets_and_the_order_of_rows_change_nothing(tmp_path):
    header, *rows = TABLE.splitlines()
    text = "\r\n".join([header.title(), "", *(row.upper().replace("PATIENT", "patient") for row in rows[::-1])])
    table = read_stage_table(table_of(tmp_path, text.replace("_NODE_", "_node_"), "utf-8-sig"))
    assert {name: patient.stage for name, patient in table.patients.items()} == {
        "patient_000": "pN1",
        "patient_001": "pN0(i+)",
    }
    assert table.patients["patient_000"].nodes == {"patient_000_node_0": "macro", "patient_000_node_1": "negative"}


def test_nodes_find_their_patient_by_name(tmp_path):
    text = "patient,stage\na.zip,pN0\na_1.zip,pN1\na_1_x.tif,macro\na_2.tif,negative\nb_c_node_7.tif,itc\n"
    table = read_stage_table(table_of(tmp_path, text))
    assert table.patients["a_1"].nodes == {"a_1_x": "macro"}
    assert table.patients["a"].nodes == {"a_2": "negative"}
    assert table.patients["b_c"] == Patient("b_c", None, {"b_c_node_7": "itc"})
    assert contradictions(table) == []  # who states no stage contradicts none


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "columns patient,stage"),
        ("name,stage\na.zip,pN0\n", "columns patient,stage"),
        ("patient,stage\na.zip,pN3\n", "line 2.*pN0, .*'pN3'"),
        ("patient,stage\na.zip,pN0\na_node_0.tif,itcs\n", "line 3.*'itcs'"),
        ("patient,stage\na.zip,pN0\na.zip,pN1\n", "line 3.*twice"),
        ("patient,stage\na.svs,pN0\n", "line 2.*'a.svs'"),
        ("patient,stage\n.zip,pN0\n", "line 2"),
        ("patient,stage\na.zip\n", "line 2.*2 columns, got 1"),
        ("patient,stage\na.zip,pN0,x\n", "line 2.*2 columns, got 3"),
        ("patient,stage\na.zip,pN0\nlonely.tif,itc\n", "line 3.*no patient"),
        ('patient,stage\n"a.zip,pN0\n', "no CSV"),
    ],
)
def test_other_tables_are_refused_with_the_file_and_the_line(tmp_path, text, words):
    path = table_of(tmp_path, text)
    with pytest.raises(BadInput, match=words) as refused:
        read_stage_table(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "stages.csv"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(BadInput, match="cannot be read"):
        read_stage_table(path)
    with pytest.raises(NotFound):
        read_stage_table(tmp_path / "none.csv")
    with pytest.raises(BadInput):
        read_stage_table(tmp_path)


def test_what_is_written_is_what_is_read(tmp_path):
    table = read_stage_table(table_of(tmp_path, TABLE))
    write_submission(tmp_path / "submission.csv", table.patients.values())
    assert (tmp_path / "submission.csv").read_text() == TABLE


@pytest.mark.parametrize(
    "patients",
    [
        [Patient("a", None)],
        [Patient("a", OUTSIDE)],
        [Patient("a", "pN0", {"a_node_0": "large"})],
        [Patient("a", "pN0"), Patient("a.zip", "pN0")],
    ],
)
def test_what_the_form_does_not_know_is_not_written(tmp_path, patients):
    with pytest.raises(BadInput):
        write_submission(tmp_path / "submission.csv", patients)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(OutputUnwritable):
        write_submission(tmp_path / "none" / "submission.csv", [Patient("a", "pN0")])


@pytest.mark.real_data
def test_the_public_table_survives_a_round_trip(shared_data, tmp_path):
    path = shared_data / "camelyon17" / "stage_labels.csv"
    write_submission(tmp_path / "again.csv", read_stage_table(path).patients.values())
    assert (tmp_path / "again.csv").read_text() == path.read_text()
    assert table_kappa(read_stage_table(path), read_stage_table(tmp_path / "again.csv")) == 1


def test_kappa_by_hand():
    assert quadratic_kappa(["pN0", "pN2"], ["pN0", "pN2"]) == 1
    assert quadratic_kappa(["pN0", "pN2"], ["pN2", "pN0"]) == -1
    # Squared distances 0 0 1 against 0 1 1 4 0 1 4 1 0 by chance, a ninth each, times three.
    assert quadratic_kappa(["pN0", "pN0(i+)", "pN1mi"], ["pN0", "pN0(i+)", "pN0(i+)"]) == pytest.approx(
        1 - 1 / ((0 + 1 + 1 + 1 + 0 + 0 + 4 + 1 + 1) / 3)
    )


@pytest.mark.parametrize("seed", range(10))
def test_kappa_is_scikit_learns(seed):
    generator = np.random.default_rng(seed)
    one, other = generator.choice(STAGES[: generator.integers(2, 6)], (2, generator.integers(2, 60))).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few patients may lack a stage
        expected = cohen_kappa_score(one, other, labels=list(STAGES), weights="quadratic")
    if np.isfinite(expected):
        assert quadratic_kappa(one, other) == pytest.approx(expected, abs=1e-12)
    else:
        assert quadratic_kappa(one, other) == 1


def test_one_stage_throughout_agrees():
    assert quadratic_kappa(["pN1"] * 4, ["pN1"] * 4) == 1


def test_tables_are_compared_patient_by_patient(tmp_path):
    (tmp_path / "truth").mkdir()
    truth = "patient,stage\n" + "".join(f"p{at}.zip,{stage}\n" for at, stage in enumerate(STAGES))
    reference = read_stage_table(table_of(tmp_path / "truth", truth))
    submission = read_stage_table(table_of(tmp_path, "patient,stage\np3.zip,pN2\np1.zip,pN0\n"))
    assert table_kappa(reference, submission) == quadratic_kappa(["pN1", "pN0(i+)"], ["pN2", "pN0"])
    with pytest.raises(BadInput, match="p0"):
        table_kappa(submission, reference)


@pytest.mark.parametrize(
    ("one", "other"), [([], []), (["pN0"], ["pN0", "pN1"]), (["pN3"], ["pN0"]), ([OUTSIDE], ["pN0"])]
)
def test_what_cannot_be_compared_is_refused(one, other):
    with pytest.raises(BadInput):
        quadratic_kappa(one, other)
