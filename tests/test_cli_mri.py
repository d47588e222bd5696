"""`digipath grade` on MRI, and `digipath weights fuse`, as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_up_graders import write_ensemble, write_grader, write_patient
from made_up_volumes import write_series
from made_up_votes import answered, write_card, write_tile_card, write_tiles

from digipath.cli import main

SAYS = {"brain-v1": (0.7, 0.2, 0.1), "t1c-v1": (0.1, 0.1, 0.8), "tumour-v1": (0.1, 0.8, 0.1)}
MORE = {"slice-v1": (0.1, 0.8, 0.1)}
NOTICE = "For research use only. Not for diagnostic procedures."


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run a command in a folder with a patient's MRI, `p7`; returns (exit code, output, error lines)."""
    monkeypatch.chdir(tmp_path)
    write_patient(tmp_path / "p7")

    def command(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse
            code = stop.code
        seen = capfd.readouterr()
        return code, seen.out, seen.err.splitlines()

    return command


@pytest.fixture
def cards(tmp_path, monkeypatch):
    """Networks for slides and for MRI, an ensemble and a fusion; what they answer is made up."""
    folder = tmp_path / "cards"
    write_tile_card(folder, "slides-v1")
    write_card(folder, "brain-v1")
    write_card(folder, "t1c-v1", order=["t1c"])
    write_card(folder, "tumour-v1", order=["t1c"], roi="tumour")
    write_ensemble(folder, "three-v1", [*SAYS], weights={"brain-v1": 2.0})
    answered(monkeypatch, SAYS | MORE)
    return folder


def mri(*names) -> list[str]:
    return [word for name in names or ("t1", "t1c", "t2", "flair") for word in (f"--{name}", f"p7/{name}.nii.gz")]


def refused(outcome, *messages):
    """Exit 2, one line that names digipath and says what is wrong, no traceback, and nothing left behind."""
    code, out, err = outcome
    assert (code, out, len(err)) == (2, "", 1), outcome
    assert err[0].startswith("digipath: ")
    for message in messages:
        assert message in err[0]
    assert [path.name for path in Path.cwd().iterdir() if path.name not in ("p7", "p8", "cards", "dicom")] == []


def test_a_grade_from_four_files(run, cards):
    code, out, _ = run("grade", *mri(), "--tumour", "p7/tumour.nii.gz", "--weights", "cards/three-v1.json")
    assert code == 0
    lines = out.splitlines()
    # (2 · brain + T1c + tumour) / 4
    assert lines[0] == "grade 2 (grade 2 0.400, grade 3 0.325, grade 4 0.275)"
    assert lines[1] == "  brain-v1: grade 2 (grade 2 0.700, grade 3 0.200, grade 4 0.100), weight 2"
    assert lines[2] == "  t1c-v1: grade 4 (grade 2 0.100, grade 3 0.100, grade 4 0.800), weight 1"
    assert "did not vote" not in out
    told = [line.removeprefix("explanation: ") for line in lines if line.startswith("explanation: ")]
    assert len(told) == 6
    assert all(Path(file).is_file() and file.endswith(".nii.gz") for file in told)
    assert f"report: {Path.cwd() / 'p7.grade' / 'report.html'}" in lines
    assert lines[-1] == NOTICE
    assert "Weights: brain-v1 knows nothing." in lines


def test_what_did_not_vote_is_said(run, cards):
    code, out, _ = run("grade", *mri("t1c"), "--weights", "cards/three-v1.json", "--out", "here")
    assert code == 0
    assert "  brain-v1 did not vote: t1, t2, flair not given" in out
    assert "  tumour-v1 did not vote: the tumour is not outlined (--tumour FILE)" in out
    assert out.startswith("grade 4 (grade 2 0.100, grade 3 0.100, grade 4 0.800)\n")
    assert "report: here/report.html" in out


def test_files_told_by_their_names(run, cards):
    words = [word for name in ("flair", "t1", "t2", "t1c") for word in ("--volume", f"p7/{name}.nii.gz")]
    code, out, _ = run("grade", *words, "--weights", "cards/brain-v1.json")
    assert (code, out.splitlines()[0][:7]) == (0, "grade 2")
    refused_both = run("grade", *words, "--t1", "p7/t1.nii.gz", "--weights", "cards/brain-v1.json", "--out", "x")
    assert refused_both[0] == 2
    assert "by --t1, --t1c, --t2 and --flair, or by --volume, got both" in refused_both[2][0]


def test_a_dicom_series(run, cards):
    values = np.zeros((16, 18, 12))
    values[4:12, 4:14, 3:9] = 200
    values[6:8, 6:8, 4:6] = 300
    write_series("dicom/T1 post", values, description="AX T1 POST GD", spacing_mm=(2, 2, 2))
    code, out, _ = run("grade", "--t1c", "dicom/T1 post", "--weights", "cards/t1c-v1.json", "--no-explanations")
    assert code == 0
    assert "explanation: " not in out
    assert f"report: {Path.cwd() / 'dicom.grade' / 'report.html'}" in out


def test_json_tells_the_verdict_and_the_volume(run, cards):
    code, out, err = run("grade", *mri("t1c"), "--weights", "cards/three-v1.json", "--json")
    found = json.loads(out)
    assert (code, err) == (0, [])
    assert found["verdict"]["grade"] == "grade 4"
    assert found["verdict"]["probabilities"] == pytest.approx({"grade 2": 0.1, "grade 3": 0.1, "grade 4": 0.8})
    assert list(found["verdict"]["missing"]) == ["brain-v1", "tumour-v1"]
    assert found["slides"] == []
    assert [Path(volume["folder"]).name for volume in found["volumes"]] == ["p7.grade"]
    assert found["volumes"][0]["notice"] == NOTICE
    assert "case" not in found


def test_one_grade_from_slides_and_mri(run, cards, tmp_path):
    write_tiles(tmp_path / "p7" / "slide", 230, 230)
    assert run("weights", "fuse", "both", "--member", "slides-v1", "--member", "t1c-v1", "--out", "cards")[0] == 0
    words = ("grade", "--slide", "p7/slide", *mri("t1c"), "--weights", "cards/both.json", "--gallery", "0")
    code, out, _ = run(*words)
    assert code == 0
    # slides (0.1, 0.1, 0.8) and T1c (0.1, 0.1, 0.8)
    assert out.splitlines()[0] == "grade 4 (grade 2 0.100, grade 3 0.100, grade 4 0.800)"
    assert f"report: {tmp_path / 'p7.grade' / 'case.html'}" in out
    assert out.splitlines()[-1] == NOTICE
    found = json.loads(run(*words, "--json")[1])
    assert list(found["verdict"]["members"]) == ["slides-v1", "t1c-v1"]
    assert (len(found["slides"]), len(found["volumes"]), found["case"]["tiles"]) == (1, 1, 2)


def test_slides_that_two_members_graded_are_told_of_each(run, cards, tmp_path):
    write_tile_card(cards, "more-v1")
    tiles = write_tiles(tmp_path / "p7" / "slide", 230, 230)
    (tiles / "tile1.png").write_bytes((tiles / "tile1.png").read_bytes()[:60])
    members = [word for name in ("slides-v1", "more-v1", "t1c-v1") for word in ("--member", name)]
    assert run("weights", "fuse", "both", *members, "--out", "cards")[0] == 0
    words = ("grade", "--slide", "p7/slide", *mri("t1c"), "--weights", "cards/both.json", "--gallery", "0")
    code, out, _ = run(*words)
    assert code == 3
    assert "slide: WARNING: 1 of 2 tiles could not be read and are not graded." in out.splitlines()
    found = json.loads(run(*words, "--json")[1])
    assert [Path(slide["folder"]).name for slide in found["slides"]] == ["slides-v1", "more-v1"]
    assert {name: one["tiles"] for name, one in found["members"].items()} == {"slides-v1": 1, "more-v1": 1}
    assert "case" not in found


def spoiled(name, change):
    """A patient p8 of whom one file was changed."""
    write_patient(Path("p8"))
    path = f"p8/{name}.nii.gz"
    image = nibabel.load(path)
    values = change(np.asanyarray(image.dataobj).astype(np.float32))
    nibabel.save(nibabel.Nifti1Image(values, image.affine), path)


def with_nan(values):
    values[9, 9, 9] = np.nan
    return values


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("t1c", with_nan, "p8/t1c.nii.gz"),
        ("t1c", lambda values: np.stack([values, values], axis=-1), "got 2 (20, 22, 18, 2) in p8/t1c.nii.gz"),
        ("t1c", lambda values: values + 50, "expected skull-stripped volumes, 0 around the brain, or --brain FILE"),
        ("t1c", lambda values: values * 0, "expected an image of t1c, got 0 in every voxel of p8/t1c.nii.gz"),
        ("tumour", lambda values: values * 0, "got an empty one, p8/tumour.nii.gz"),
        ("tumour", lambda values: values + 0.5, "expected labels 0, 1, 2"),
        ("tumour", lambda values: np.roll(values, (-5, -8, -6), (0, 1, 2)), "a tumour inside the brain, it lies"),
    ],
)
def test_bad_volumes_are_one_line(run, cards, name, change, message):
    spoiled(name, change)
    words = ("--t1c", "p8/t1c.nii.gz", "--tumour", "p8/tumour.nii.gz", "--weights", "cards/tumour-v1.json")
    refused(run("grade", *words), message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--t1c", "p8/t1c.nii.gz"], "found nothing at p8/t1c.nii.gz"),
        (["--t1c", "p7/t1c.nii.gz", "--tumour", "p7/none.nii.gz"], "a mask of the tumour, found nothing at p7/none"),
        (["--t1c", "p7/t1c.nii.gz", "--brain", "p7/none.nii.gz"], "a mask of the brain, found nothing at p7/none"),
        (["--t1c", "p7/t1c.nii.gz", "--t1", "p7/t1c.nii.gz"], "for both t1"),
        (["--volume", "p7/tumour.nii.gz"], "expected a name that states one modality"),
        (["--t1", "p7/t1.nii.gz"], "received t1: t1c-v1: t1c not given"),
        (["--t1c", "cards/t1c-v1.json"], "expected a whole NIfTI file"),
        (["--t1c", "p7/t1c.nii.gz", "--views", "4"], "are for slides"),
        (["--t1c", "p7/t1c.nii.gz", "--groups", "all"], "are for slides"),
        (["--t1c", "p7/t1c.nii.gz", "--slice", "8"], "look at no single slice"),
        (["--tumour", "p7/tumour.nii.gz"], "expected at least one slide"),
        (["--slide", "p7", "--no-explanations"], "are for MRI"),
        (["--slide", "p7"], "t1c-v1.json grades MRI; expected volumes, got slides"),
        (["--slide", "p7", "--t1c", "p7/t1c.nii.gz"], "grades one modality"),
    ],
)
def test_bad_words_are_one_line(run, cards, words, message):
    refused(run("grade", *words, "--weights", "cards/t1c-v1.json"), message)


def test_a_broken_file_is_told_once(run, cards, caplog):
    """What nibabel would say of its header reaches nobody."""
    refused(run("grade", "--t1c", "cards/t1c-v1.json", "--weights", "cards/t1c-v1.json"), "expected a whole NIfTI file")
    assert caplog.records == []


def test_different_patients_are_told_by_their_names(run, cards):
    for name, patient in (("t1", "TCGA-01"), ("t1c", "TCGA-02")):
        Path(f"p7/{name}.nii.gz").rename(f"p7/{patient}_{name}.nii.gz")
    t1, t1c, *weights = "p7/TCGA-01_t1.nii.gz", "p7/TCGA-02_t1c.nii.gz", "--weights", "cards/t1c-v1.json"
    by_name = ("--volume", t1, "--volume", t1c, *weights)
    refused(run("grade", *by_name), "different patients by name", "TCGA-01_t1.nii.gz", "TCGA-02_t1c.nii.gz")
    words = ("--t1", t1, "--t1c", t1c, *weights, "--no-explanations", "--out", "out")
    assert run("grade", *words)[0] == 0  # whoever says so knows
    record = json.loads(Path("out/run.json").read_text())
    assert "names begin differently, t1 TCGA-01_t1.nii.gz and t1c TCGA-02_t1c.nii.gz" in record["notes"][0]


def test_a_missing_tumour_file_can_be_given_later(run, cards):
    """What was refused left nothing that would be in the way."""
    words = ("grade", *mri("t1c"), "--weights", "cards/tumour-v1.json")
    refused(run(*words), "the tumour is not outlined (--tumour FILE)")
    assert run(*words, "--tumour", "p7/tumour.nii.gz")[0] == 0


@pytest.mark.parametrize("number", [99, 2])
def test_a_better_slice_can_be_given_later(run, cards, number):
    """Neither one outside the volume nor one that the tumour does not reach leaves a folder."""
    write_card(cards, "slice-v1", order=["t1c"], roi="slice")
    words = ("grade", *mri("t1c"), "--tumour", "p7/tumour.nii.gz", "--weights", "cards/slice-v1.json", "--slice")
    refused(run(*words, number), f"expected a slice that the tumour reaches, of 0 to 17, got {number}; choose another")
    assert run(*words, 8)[0] == 0


def test_the_help_tells_of_mri(run):
    code, out, _ = run("grade", "--help")
    assert code == 0
    for option in ("t1", "t1c", "t2", "flair", "volume", "brain", "tumour", "slice", "slide"):
        assert f"\n  --{option} " in out
    assert "--no-explanations" in out
    assert "skull-stripped" in out
    assert "digipath grade --slide slide.svs --t1 … --t1c … --t2 … --flair …" in out


def test_weights_fuse_writes_a_card(run, cards):
    words = ("weights", "fuse", "both-v1", "--member", "slides-v1", "--member", "brain-v1", "--out", "cards")
    code, out, err = run(*words, "--weight", "brain-v1=0.5")
    assert (code, out, err) == (0, "cards/both-v1.json\n", [])
    assert json.loads(Path("cards/both-v1.json").read_text("utf-8"))["vote_weights"] == {"brain-v1": 0.5}
    assert json.loads(run(*words, "--json")[1]) == "cards/both-v1.json"
    code, out, _ = run("weights", "show", "cards/both-v1.json")
    assert (code, "kind: fusion" in out) == (0, True)


def test_weights_fuse_takes_meanings_and_drops_the_worst(run, cards):
    write_card(cards, "coarse-v1", order=["t1c"], classes=("LGG", "HGG"))
    members = [word for name in ("coarse-v1", "slides-v1", "brain-v1") for word in ("--member", name)]
    each = ("grade 2=LGG", "grade 3=LGG", "grade 4=HGG")
    each_of = [f"{name}: {said}" for name in ("slides-v1", "brain-v1") for said in each]
    meanings = [word for said in each_of for word in ("--meaning", said)]
    scores = ["--validation", "coarse-v1=0.9", "--validation", "slides-v1=0.7", "--validation", "brain-v1=0.8"]
    code, _, _ = run(
        "weights", "fuse", "best-v1", "--class", "LGG", "--class", "HGG", *members, *meanings, *scores,
        "--drop", "1", "--out", "cards",
    )  # fmt: skip
    record = json.loads(Path("cards/best-v1.json").read_text("utf-8"))
    assert (code, record["classes"], record["members"]) == (0, ["LGG", "HGG"], ["coarse-v1", "brain-v1"])
    assert record["mapping"] == {"brain-v1": {"grade 2": "LGG", "grade 3": "LGG", "grade 4": "HGG"}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weight", "brain-v1"], "expected --weight NAME=NUMBER, got 'brain-v1'"),
        (["--weight", "brain-v1=much"], "expected --weight NAME=NUMBER, got 'brain-v1=much'"),
        (["--weight", "brain-v1=nan"], "finite numbers, got nan for brain-v1"),
        (["--weight", "brain-v1=0"], "breaks its schema at vote_weights/brain-v1"),
        (["--weight", "other-v1=1"], "got other-v1"),
        (["--validation", "brain-v1="], "expected --validation NAME=NUMBER, got 'brain-v1='"),
        (["--meaning", "slides-v1 grade 2=LGG"], "--meaning 'NAME: CLASS=CLASS'"),
        (["--meaning", "nobody: grade 2=LGG"], "got nobody"),
        (["--weight", "brain-v1=2", "--weight", "brain-v1=3"], "expected --weight brain-v1=… once, got 2.0 and 3.0"),
        (["--validation", "brain-v1=2", "--validation", "brain-v1=2"], "--validation brain-v1=… once, got 2.0 and 2.0"),
        (
            ["--meaning", "brain-v1: grade 2=LGG", "--meaning", "brain-v1 : grade 2=HGG"],
            "expected --meaning 'brain-v1: grade 2=…' once, got LGG and HGG",
        ),
        (["--member", "nobody-v1"], "no weights called 'nobody-v1'"),
        (["--drop", "1"], "expected a validation score of each member"),
        (["--class", "LGG", "--class", "HGG"], "expected a mapping to LGG, HGG"),
    ],
)
def test_weights_fuse_refuses_in_one_line(run, cards, words, message):
    fuse = ("weights", "fuse", "both-v1", "--member", "slides-v1", "--member", "brain-v1", "--out", "cards")
    refused(run(*fuse, *words), message)
    assert not Path("cards/both-v1.json").exists()


def test_a_fusion_is_evaluated_on_patients(run):
    write_tile_card(Path("cards"), "slides-v1")
    write_card(Path("cards"), "brain-v1")
    run("weights", "fuse", "both-v1", "--member", "slides-v1", "--member", "brain-v1", "--out", "cards")
    asked = ("evaluate", "--weights", "cards/both-v1.json")
    refused(run(*asked), "grades slides and MRI; expected a manifest of cases")
    rows = ("case,patient,label,t1c", "a,A,grade 2,../p7/t1c.nii.gz", "b,B,grade 9,../p7/t1c.nii.gz")
    Path("cards/cases.csv").write_text("\n".join(rows))
    refused(run(*asked, "--manifest", "cards/cases.csv"), "line 3, column label: expected one of")


@pytest.mark.keras
def test_a_real_network(run):
    write_grader(Path("cards"), "real-v1", order=("t1c",))
    code, out, err = run("grade", *mri("t1c"), "--weights", "cards/real-v1.json")
    assert code == 0
    assert out.count("explanation: ") == 2
    assert not [line for line in err if "Traceback" in line or "tensorflow" in line]
