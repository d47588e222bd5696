"""`grade` from MRI: who votes, what is said of those who cannot, what is written, and that it can be resumed."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_up_graders import write_ensemble, write_patient
from made_up_votes import GRADES, answered, parts, write_card, write_tile_card
from PIL import Image

import digipath
from digipath.errors import (
    BadCard,
    BadInput,
    BadVolume,
    Cancelled,
    CaseDiffers,
    NotFound,
    OutputUnwritable,
    TumourNotFound,
)
from digipath.explanations import METHODS
from digipath.grading import volume_files, volume_reporting
from digipath.report.volume_figures import FRAME, OUTLINE
from digipath.result import GradedVolume, open_segmentation
from digipath.values import Progress
from digipath.volume import open_volumes
from digipath.volume_rois import VolumeRule, region_of
from digipath.weights import load_card, sha256_of

SAYS = {"brain-v1": (0.7, 0.2, 0.1), "tumour-v1": (0.1, 0.1, 0.8), "slice-v1": (0.2, 0.6, 0.2)}
WEIGHTS = {"tumour-v1": 2.0, "slice-v1": 0.5}
# (1 · brain + 2 · tumour + 0.5 · slice) / 3.5
TOGETHER = ((0.7 + 0.2 + 0.1) / 3.5, (0.2 + 0.2 + 0.3) / 3.5, (0.1 + 1.6 + 0.1) / 3.5)
MODALITIES = ("t1", "t1c", "t2", "flair")


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return write_patient(tmp_path_factory.mktemp("mri") / "patient-7")


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    """A network for each region, and all three together; no network is behind them."""
    folder = tmp_path_factory.mktemp("cards")
    write_card(folder, "brain-v1")
    write_card(folder, "tumour-v1", order=["t1c", "flair"], roi="tumour", margin_vox=1)
    write_card(folder, "slice-v1", order=["t1c"], roi="slice")
    write_ensemble(folder, "three-v1", [*SAYS], weights=WEIGHTS)
    return folder


@pytest.fixture
def asked(monkeypatch):
    """Networks that answer what `SAYS` says; which were asked, and what they saw."""
    found = []
    answered(monkeypatch, SAYS, asked=found)
    return found


def given(patient, *names):
    return {name: patient[name] for name in names or MODALITIES}


def graded(patient, weights, out, *names, **options):
    return digipath.grade(volumes=given(patient, *names), weights=str(weights), out=out, **options)


def test_the_verdict_is_the_weighted_mean_of_the_members(patient, cards, asked, tmp_path):
    result = graded(patient, cards / "three-v1.json", tmp_path / "case", tumour=patient["tumour"])
    verdict = result.verdict
    assert [name for name, _ in asked] == ["brain-v1", "tumour-v1", "slice-v1"]
    assert list(verdict["probabilities"]) == list(GRADES) == list(result.classes)
    assert list(verdict["probabilities"].values()) == pytest.approx(TOGETHER)
    assert (verdict["grade"], verdict["missing"]) == ("grade 4", {})
    assert [member["weight"] for member in verdict["members"].values()] == [1, 2, 0.5]
    assert [member["grade"] for member in verdict["members"].values()] == ["grade 2", "grade 4", "grade 3"]
    for name, says in SAYS.items():
        assert list(verdict["members"][name]["probabilities"].values()) == list(says)


def test_networks_see_the_regions_of_their_cards(patient, cards, asked, tmp_path):
    result = graded(patient, cards / "three-v1.json", tmp_path / "case", tumour=patient["tumour"])
    volume = open_volumes(given(patient), tumour=patient["tumour"])
    for name, pixels in asked:
        region = region_of(volume, VolumeRule.of_card(load_card(str(cards / f"{name}.json")).record["input"]))
        np.testing.assert_array_equal(pixels, region.pixels)
        told = result.verdict["members"][name]
        assert told["box_vox"] == [list(region.box.start_vox), list(region.box.stop_vox)]
        assert told["slice_vox"] == region.slice_vox
    assert [result.verdict["members"][name]["slice_vox"] for name in SAYS] == [None, None, 6]
    assert result.verdict["members"]["tumour-v1"]["modalities"] == ["t1c", "flair"]


def test_of_equal_grades_the_most_malignant_is_called(patient, cards, monkeypatch, tmp_path):
    answered(monkeypatch, {"brain-v1": (0.4, 0.2, 0.4)})
    verdict = graded(patient, cards / "brain-v1.json", tmp_path / "case").verdict
    assert (verdict["grade"], verdict["members"]["brain-v1"]["grade"]) == ("grade 4", "grade 4")


def test_the_folder_holds_everything_and_is_read_back(patient, cards, asked, tmp_path):
    result = graded(patient, cards / "three-v1.json", tmp_path / "case", tumour=patient["tumour"])
    maps = {f"explanations/{name}-{method}.nii.gz" for name in SAYS for method in METHODS}
    pages = {"run.json", "summary.json", "report.html", "planes.png", "state.json"}
    assert parts(tmp_path / "case") == maps | pages
    again = digipath.open_result(tmp_path / "case")
    assert isinstance(again, digipath.Grade)
    assert (again.slides, again.verdict, again.classes) == ((), result.verdict, GRADES)
    (volume,) = again.volumes
    assert isinstance(volume, GradedVolume)
    assert volume.summary["grade"] == "grade 4"
    assert volume.summary["notice"].startswith("For research use only")
    told = {str(file.relative_to(tmp_path / "case")) for each in volume.explanations.values() for file in each.values()}
    assert told == maps
    assert all(file.is_file() for each in volume.explanations.values() for file in each.values())
    assert volume.run["volume"]["name"] == "patient-7"
    assert volume.run["volume"]["shape_vox"] == [20, 22, 18]
    assert volume.run["volume"]["spacing_mm"] == [2, 2, 3]
    assert digipath.list_results(tmp_path) == [tmp_path / "case"]
    assert again.complete
    with pytest.raises(BadInput, match="received that of `digipath grade`"):
        open_segmentation(tmp_path / "case")
    with pytest.raises(BadInput, match="the case has MRI alone; its verdict is the grade"):
        again.readout()
    with pytest.raises(BadInput, match="the case has MRI alone"):
        again.probabilities  # noqa: B018


def test_files_told_by_their_names_are_the_same_case(patient, cards, asked, tmp_path):
    first = graded(patient, cards / "brain-v1.json", tmp_path / "case")
    files = [patient[name] for name in ("flair", "t2", "t1", "t1c")]
    again = digipath.grade(volumes=files, weights=str(cards / "brain-v1.json"), out=tmp_path / "case")
    assert len(asked) == 1  # it was finished
    assert again.verdict == first.verdict


def test_the_folder_is_named_by_the_patient_where_nobody_says(patient, cards, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = digipath.grade(volumes=given(patient), weights=str(cards / "brain-v1.json"))
    assert result.folder == tmp_path / "patient-7.grade"


def test_a_missing_modality_is_declared_and_the_rest_votes(patient, cards, asked, tmp_path):
    """Without FLAIR neither the brain nor the tumour has its input."""
    result = graded(patient, cards / "three-v1.json", tmp_path / "case", "t1", "t1c", "t2", tumour=patient["tumour"])
    assert result.verdict["missing"] == {"brain-v1": "flair not given", "tumour-v1": "flair not given"}
    assert list(result.verdict["probabilities"].values()) == pytest.approx(SAYS["slice-v1"])
    assert list(result.verdict["members"]) == ["slice-v1"]
    page = (tmp_path / "case" / "report.html").read_text("utf-8")
    alert = page.partition('role="alert"')[2].partition("</div>")[0]
    assert "Graded without some members." in alert
    assert "brain-v1: flair not given; tumour-v1: flair not given." in alert
    assert json.loads((tmp_path / "case" / "summary.json").read_text("utf-8"))["missing"] == result.verdict["missing"]


def test_without_an_outline_only_the_brain_votes(patient, cards, asked, tmp_path):
    verdict = graded(patient, cards / "three-v1.json", tmp_path / "case").verdict
    unseen = "the tumour is not outlined (--tumour FILE)"
    assert verdict["missing"] == {"tumour-v1": unseen, "slice-v1": unseen}
    assert list(verdict["probabilities"].values()) == pytest.approx(SAYS["brain-v1"])


def test_where_all_vote_nothing_is_said_to_be_missing(patient, cards, asked, tmp_path):
    graded(patient, cards / "brain-v1.json", tmp_path / "case")
    assert 'role="alert"' not in (tmp_path / "case" / "report.html").read_text("utf-8")


def test_where_nobody_can_vote_each_reason_is_said_and_nothing_is_written(patient, cards, asked, tmp_path):
    with pytest.raises(BadInput) as caught:
        graded(patient, cards / "three-v1.json", tmp_path / "case", "t1", "t2")
    assert str(caught.value) == (
        "expected what at least one network needs, received t1, t2: brain-v1: t1c, flair not given; "
        "tumour-v1: t1c, flair not given; slice-v1: t1c not given"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tumour": "nowhere.nii.gz"}, NotFound, "a mask of the tumour, found nothing at nowhere"),
        ({"brain": "nowhere.nii.gz"}, NotFound, "a mask of the brain, found nothing at nowhere"),
        ({"volumes": {"t1": "nowhere.nii.gz"}}, NotFound, r"found nothing at nowhere\.nii\.gz"),
        ({"volumes": {"swi": "t1.nii.gz"}}, BadVolume, "a modality is one of t1, t1c, t2, flair, got swi"),
        ({"slice_vox": 3}, BadInput, "look at no single slice; leave out slice_vox, got 3"),
        ({"weights": "nothing-v1"}, NotFound, "no weights called 'nothing-v1'"),
        ({"weights": "lymphnode-ensemble-v1"}, BadInput, "expected weights that grade MRI volumes"),
        ({"weights": "glioma-tiles-demo-v1"}, BadInput, "grades slides; expected slides, got MRI volumes"),
        ({"volumes": None}, BadInput, "expected at least one slide, image or folder of tiles, or MRI volumes"),
        ({"volumes": []}, BadInput, "or MRI volumes to grade, got none"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(patient, cards, asked, tmp_path, change, error, message):
    usual = {"volumes": given(patient), "weights": str(cards / "brain-v1.json"), "out": tmp_path / "case"}
    with pytest.raises(error, match=message) as caught:
        digipath.grade(**usual | change)
    assert "\n" not in str(caught.value)
    assert (list(tmp_path.iterdir()), asked) == ([], [])


def test_files_that_cannot_be_graded_leave_nothing(cards, asked, tmp_path):
    patient = write_patient(tmp_path / "patient")
    image = nibabel.load(patient["t2"])
    values = image.get_fdata().astype(np.float32)
    values[10, 10, 9] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, image.affine), patient["t2"])
    with pytest.raises(BadVolume, match=r"t2\.nii\.gz"):
        graded(patient, cards / "brain-v1.json", tmp_path / "out" / "case")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 4}, "are for slides; leave them out, or give slides"),
        ({"gallery": 0}, "are for slides"),
        ({"mpp": 0.5}, "are for slides"),
        ({"groups": 2}, "are for slides"),
        ({"keep_members": True}, "are for slides"),
        ({"least_share": 0.1}, "are for slides"),
        ({"runtime": "keras"}, "are for slides"),
        ({"predictors": [len]}, "are for slides"),
    ],
    ids=str,
)
def test_what_only_slides_heed_is_refused(patient, cards, tmp_path, options, message):
    with pytest.raises(BadInput, match=message):
        graded(patient, cards / "brain-v1.json", tmp_path / "case", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_slice_can_be_chosen(patient, cards, asked, tmp_path):
    result = graded(patient, cards / "slice-v1.json", tmp_path / "case", tumour=patient["tumour"], slice_vox=9)
    assert result.verdict["members"]["slice-v1"]["slice_vox"] == 9
    assert "tumour on one slice 9" in (tmp_path / "case" / "report.html").read_text("utf-8")
    heat = result.volumes[0].explanations["slice-v1"]["grad-cam"]
    assert np.flatnonzero(nibabel.load(heat).get_fdata().any(axis=(0, 1))).tolist() == [9]


@pytest.mark.parametrize("slice_vox", [2, 18, -1])
def test_a_slice_that_is_not_there_leaves_nothing(patient, cards, asked, tmp_path, slice_vox):
    for name in ("slice-v1", "three-v1"):
        with pytest.raises(BadVolume, match=f"slice that the tumour reaches, of 0 to 17, got {slice_vox};"):
            graded(patient, cards / f"{name}.json", tmp_path / "x", tumour=patient["tumour"], slice_vox=slice_vox)
    assert list(tmp_path.iterdir()) == []


def test_no_explanations_where_none_are_wanted(patient, cards, asked, tmp_path):
    result = graded(patient, cards / "brain-v1.json", tmp_path / "case", explanations=False)
    assert result.volumes[0].explanations == {"brain-v1": {}}
    assert not any("explanations" in name for name in parts(tmp_path / "case"))
    assert "What the networks looked at" not in (tmp_path / "case" / "report.html").read_text("utf-8")


def test_a_finished_case_is_left_as_it_is(patient, cards, asked, tmp_path, monkeypatch):
    case, weights, opened = tmp_path / "case", cards / "brain-v1.json", []
    first = graded(patient, weights, case)
    before = {name: (case / name).stat().st_mtime_ns for name in parts(case)}
    read = volume_files.open_volumes
    monkeypatch.setattr(volume_files, "open_volumes", lambda *a, **k: opened.append(a) or read(*a, **k))
    again = graded(patient, weights, case)
    assert opened == []  # not even read
    assert {name: (case / name).stat().st_mtime_ns for name in parts(case)} == before
    assert (len(asked), again.verdict) == (1, first.verdict)
    graded(patient, weights, case, resume=False)
    assert (len(asked), len(opened)) == (2, 1)


@pytest.mark.parametrize(
    ("options", "differs"),
    [({"explanations": False}, "another settings"), ({"tumour": True}, "another input"), ({}, "another weights")],
)
def test_another_case_is_not_written_over(patient, cards, asked, tmp_path, options, differs):
    graded(patient, cards / "brain-v1.json", tmp_path / "case")
    options = options | ({"tumour": patient["tumour"]} if "tumour" in options else {})
    weights = cards / ("brain-v1.json" if options else "three-v1.json")
    with pytest.raises(CaseDiffers, match=differs):
        graded(patient, weights, tmp_path / "case", **options)
    assert len(asked) == 1


def test_a_case_that_was_cancelled_says_so_and_goes_on(patient, cards, asked, tmp_path):
    told = []

    def stop():
        return len(told) == 1

    options = {"tumour": patient["tumour"], "progress": told.append}
    with pytest.raises(Cancelled, match="stopped before explaining brain-v1 by grad-cam"):
        graded(patient, cards / "three-v1.json", tmp_path / "case", cancel=stop, **options)
    state = json.loads((tmp_path / "case" / "state.json").read_text("utf-8"))
    assert state["state"] == "cancelled"
    assert parts(tmp_path / "case") == {"state.json"}
    with pytest.raises(NotFound, match="is cancelled"):
        digipath.open_result(tmp_path / "case")
    told.clear()
    result = graded(patient, cards / "three-v1.json", tmp_path / "case", **options)
    assert list(result.verdict["probabilities"].values()) == pytest.approx(TOGETHER)
    assert [report.done for report in told] == list(range(len(told)))
    assert {report.total for report in told} == {12}
    assert told[0].message == "grading with brain-v1"
    assert told[-1].message == "writing the report"
    assert told[-1].done < 12


def test_members_must_be_those_of_the_card(cards, patient, tmp_path):
    write_card(tmp_path, "one-v1")
    write_card(tmp_path, "two-v1", classes=("LGG", "HGG"))
    write_card(tmp_path, "three-v1")
    write_ensemble(tmp_path, "mixed-v1", ["one-v1", "two-v1"])
    write_ensemble(tmp_path, "stray-v1", ["one-v1", "three-v1"], weights={"brain-v1": 2.0})
    with pytest.raises(BadCard, match="mixed-v1: member two-v1 has the classes"):
        graded(patient, tmp_path / "mixed-v1.json", tmp_path / "case")
    with pytest.raises(BadCard, match="a weight of brain-v1, which is no member"):
        graded(patient, tmp_path / "stray-v1.json", tmp_path / "case")


FOUND = np.s_[7:12, 8:12, 6:9]  # (X, Y, Z), where `finder` finds the tumour


@pytest.fixture
def finder(tmp_path, monkeypatch):
    """Cards of a network that finds the tumour and of those that want it; returns what it will do."""
    does = {"find": True}

    def find(volume, card, **_):
        if not does["find"]:
            raise TumourNotFound("expected a tumour, found no voxel above 0.5")
        mask = np.zeros(volume.shape_vox, bool)
        mask[FOUND] = True
        return mask

    monkeypatch.setattr(volume_files, "find_tumour", find)
    write_card(tmp_path, "finder-v1", order=["t1c"])
    write_card(tmp_path, "brain-v1")
    write_card(tmp_path, "tumour-v1", order=["t1c"], roi="tumour", margin_vox=0, segmenter="finder-v1")
    write_card(tmp_path, "slice-v1", order=["t1c"], roi="slice", segmenter="finder-v1")
    write_ensemble(tmp_path, "both-v1", ["brain-v1", "tumour-v1"])
    write_ensemble(tmp_path, "sliced-v1", ["brain-v1", "slice-v1"])
    return does


def test_a_tumour_that_was_found_is_said_to_be(patient, asked, finder, tmp_path):
    both = tmp_path / "both-v1.json"
    result = graded(patient, both, tmp_path / "case")
    assert (result.verdict["missing"], list(result.verdict["members"])) == ({}, ["brain-v1", "tumour-v1"])
    assert [one["tumour_found_by"] for one in result.verdict["members"].values()] == [None, "finder-v1"]
    notes = result.volumes[0].summary["notes"]
    assert "The tumour was found by finder-v1, not outlined by a person; look at it in tumour.nii.gz." in notes
    finder["find"] = False
    verdict = graded(patient, both, tmp_path / "none").verdict
    assert verdict["missing"] == {"tumour-v1": "expected a tumour, found no voxel above 0.5"}
    assert list(verdict["probabilities"].values()) == pytest.approx(SAYS["brain-v1"])
    assert not (tmp_path / "none" / "tumour.nii.gz").exists()


def test_the_search_for_a_tumour_tells_how_far_it_is_and_can_be_stopped(patient, asked, finder, tmp_path, monkeypatch):
    def find(volume, card, *, progress, cancel, **_):
        progress(Progress(3, 7, 1.0, "patches"))
        if cancel():
            raise Cancelled("stopped among the patches")
        return volume.brain

    monkeypatch.setattr(volume_files, "find_tumour", find)
    told, weights = [], tmp_path / "tumour-v1.json"
    graded(patient, weights, tmp_path / "case", progress=told.append, cancel=lambda: False)
    said = [one.message for one in told]
    at = said.index("finding the tumour with finder-v1, 3 of 7 patches")
    assert (said[at - 1], told[at].done) == ("finding the tumour with finder-v1", told[at - 1].done)
    steps = iter([False] * at)
    with pytest.raises(Cancelled, match="stopped among the patches"):
        graded(patient, weights, tmp_path / "stopped", cancel=lambda: next(steps, True))


def test_a_tumour_that_is_not_found_is_in_nobodys_way(patient, asked, finder, tmp_path):
    finder["find"] = False
    with pytest.raises(TumourNotFound, match=r"found no voxel above 0\.5"):
        graded(patient, tmp_path / "tumour-v1.json", tmp_path / "case")
    assert {path.name for path in (tmp_path / "case").iterdir()} == {".lock", "state.json"}
    result = graded(patient, tmp_path / "tumour-v1.json", tmp_path / "case", tumour=patient["tumour"])
    assert result.verdict["members"]["tumour-v1"]["tumour_found_by"] is None


def test_what_was_found_is_written_and_may_be_given(patient, asked, finder, tmp_path):
    """As a mask on the volume's grid: given as an outline, in a new folder or in place of the old one, it is the same.

    An outline that lies in the folder is not removed with what the folder held before.
    """
    first = graded(patient, tmp_path / "tumour-v1.json", tmp_path / "case").verdict["members"]["tumour-v1"]
    assert first["box_vox"] == [[7, 8, 6], [12, 12, 9]]
    written = tmp_path / "case" / "tumour.nii.gz"
    volume = open_volumes(given(patient), tumour=written)
    assert (volume.tumour[FOUND].all(), volume.tumour.sum()) == (True, 5 * 4 * 3)
    for out, options in (("other", {}), ("case", {"resume": False})):
        again = graded(patient, tmp_path / "tumour-v1.json", tmp_path / out, tumour=written, **options)
        assert again.verdict["members"]["tumour-v1"] == first | {"tumour_found_by": None}
        assert written.is_file()
    assert not (tmp_path / "other" / "tumour.nii.gz").exists()


def test_starting_afresh_removes_a_tumour_that_was_found(patient, asked, finder, tmp_path):
    graded(patient, tmp_path / "tumour-v1.json", tmp_path / "case")
    options = {"tumour": patient["tumour"], "resume": False}
    graded(patient, tmp_path / "tumour-v1.json", tmp_path / "case", **options)
    assert not (tmp_path / "case" / "tumour.nii.gz").exists()


def test_a_mask_of_the_user_is_not_written_over(asked, finder, tmp_path):
    patient = write_patient(tmp_path / "patient")
    before = Path(patient["tumour"]).read_bytes()
    with pytest.raises(OutputUnwritable, match=r"holds tumour\.nii\.gz, which is of no case"):
        graded(patient, tmp_path / "tumour-v1.json", tmp_path / "patient")
    assert Path(patient["tumour"]).read_bytes() == before


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, as (modality, scene), in order."""
    scenes, draw = [], volume_reporting.three_planes
    monkeypatch.setattr(
        volume_reporting, "three_planes", lambda volume, name, scene: scenes.append((name, scene)) or draw(
            volume, name, scene
        )
    )  # fmt: skip
    return scenes


@pytest.mark.parametrize(
    ("weights", "box", "at_vox"),
    [
        ("tumour-v1", ((7, 8, 6), (12, 12, 9)), (9, 9, 7)),
        ("both-v1", ((2, 2, 1), (18, 20, 17)), (9, 9, 7)),
        ("slice-v1", ((-1, 0, 8), (21, 22, 9)), (9, 9, 8)),
    ],
)
def test_a_tumour_that_was_found_is_drawn(patient, asked, finder, drawn, tmp_path, weights, box, at_vox):
    """Every modality goes through it, with its outline and the region of the first network; on its slice for slices."""
    options = {"slice_vox": 8} if weights == "slice-v1" else {}
    graded(patient, tmp_path / f"{weights}.json", tmp_path / "case", **options)
    modalities = [(name, scene) for name, scene in drawn if scene.heat is None]
    assert [name for name, _ in modalities] == ["t1c", "flair", "t1", "t2"]
    for _, scene in modalities:
        assert (scene.box.start_vox, scene.box.stop_vox, scene.at_vox) == (*box, at_vox)
        np.testing.assert_array_equal(np.argwhere(scene.tumour).min(axis=0), (7, 8, 6))
        assert scene.tumour.sum() == 5 * 4 * 3
    seeking = [scene for _, scene in drawn if scene.heat is not None][-len(METHODS) :]
    assert {scene.at_vox for scene in seeking} == {at_vox}
    page = (tmp_path / "case" / "report.html").read_text("utf-8")
    first = "brain-v1" if weights == "both-v1" else weights
    told = f"Yellow: the region that {first} looks at. Red: the tumour, as finder-v1 found it."
    assert f"T1 with contrast agent. {told}" in page
    with Image.open(tmp_path / "case" / "planes.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    top = pixels[: len(pixels) // 3]
    assert (top == OUTLINE).all(axis=-1).sum() > 100
    assert (top == FRAME).all(axis=-1).sum() > 100


def test_an_outline_that_was_given_is_told_as_such(patient, cards, asked, tmp_path):
    graded(patient, cards / "tumour-v1.json", tmp_path / "case", tumour=patient["tumour"])
    assert "Red: the tumour, as it was outlined." in (tmp_path / "case" / "report.html").read_text("utf-8")
    graded(patient, cards / "brain-v1.json", tmp_path / "none")
    assert "Red: " not in (tmp_path / "none" / "report.html").read_text("utf-8")


def test_tumours_of_several_finders_are_all_kept(patient, asked, finder, tmp_path):
    write_card(tmp_path, "other-finder-v1", order=["t1c"])
    write_card(tmp_path, "slice-v1", order=["t1c"], roi="slice", segmenter="other-finder-v1")
    card = write_ensemble(tmp_path, "two-v1", ["tumour-v1", "slice-v1"])
    result = graded(patient, card, tmp_path / "case", explanations=False)
    assert {"tumour.nii.gz", "explanations/other-finder-v1.nii.gz"} <= parts(tmp_path / "case")
    found = [note for note in result.volumes[0].summary["notes"] if note.startswith("The tumour was found by")]
    assert [note.rpartition(" ")[2] for note in found] == ["tumour.nii.gz.", "explanations/other-finder-v1.nii.gz."]


def test_a_slice_that_what_was_found_does_not_reach_is_refused(patient, asked, finder, tmp_path):
    """It is the user's choice that is wrong, not the finder: the network does not just fall silent."""
    with pytest.raises(BadVolume, match="got 3; choose another slice"):
        graded(patient, tmp_path / "sliced-v1.json", tmp_path / "case", slice_vox=3)
    with pytest.raises(BadVolume, match="of 0 to 17, got 99; choose another slice"):
        graded(patient, tmp_path / "sliced-v1.json", tmp_path / "none", slice_vox=99)
    assert not (tmp_path / "none").exists()
    result = graded(patient, tmp_path / "sliced-v1.json", tmp_path / "case", slice_vox=7)
    assert result.verdict["members"]["slice-v1"]["slice_vox"] == 7


def test_who_found_the_tumour_is_in_record_and_report(patient, asked, finder, tmp_path):
    result = graded(patient, tmp_path / "both-v1.json", tmp_path / "case")
    weights = result.volumes[0].run["weights"]
    assert weights["segmenters"] == {"finder-v1": sha256_of(tmp_path / "finder-v1.weights.h5")}
    assert list(weights["sha256"]) == ["brain-v1", "tumour-v1"]
    assert "Weights: finder-v1 knows nothing." in result.volumes[0].summary["notes"]
    assert "<h3>finder-v1</h3>" in (tmp_path / "case" / "report.html").read_text("utf-8")
    outlined = graded(patient, tmp_path / "both-v1.json", tmp_path / "outlined", tumour=patient["tumour"])
    assert outlined.volumes[0].run["weights"]["segmenters"] == {}
    assert "Weights: finder-v1 knows nothing." not in outlined.volumes[0].summary["notes"]


def test_other_weights_of_the_finder_are_another_case(patient, asked, finder, tmp_path):
    card, finder_card = tmp_path / "tumour-v1.json", tmp_path / "finder-v1.json"
    graded(patient, card, tmp_path / "case")
    weights = finder_card.with_suffix(".weights.h5")
    weights.write_bytes(b"trained anew")
    stated = {"sha256": sha256_of(weights), "bytes": 12}
    finder_card.write_text(json.dumps(json.loads(finder_card.read_text("utf-8")) | stated))
    with pytest.raises(CaseDiffers, match="another weights"):
        graded(patient, card, tmp_path / "case")


def test_starting_afresh_leaves_nothing_of_another_kind(patient, asked, cards, tmp_path):
    """Neither of MRI where a slide is graded next, nor the other way round."""
    slide = tmp_path / "slide.png"
    Image.new("RGB", (600, 600), (180, 80, 120)).save(slide)
    write_tile_card(tmp_path / "cards", "tiles-v1")
    of_slide = {"weights": str(tmp_path / "cards" / "tiles-v1.json"), "mpp": 0.5, "gallery": 0, "tissue": "all"}
    digipath.grade(slide, out=tmp_path / "slide", **of_slide)
    graded(patient, cards / "brain-v1.json", tmp_path / "mri")
    digipath.grade(slide, out=tmp_path / "mri", resume=False, **of_slide)
    graded(patient, cards / "brain-v1.json", tmp_path / "slide", resume=False)
    assert "grade_map.png" in parts(tmp_path / "mri")
    graded(patient, cards / "brain-v1.json", tmp_path / "only-mri")
    digipath.grade(slide, out=tmp_path / "only-slide", **of_slide)
    assert parts(tmp_path / "mri") == parts(tmp_path / "only-slide")
    assert parts(tmp_path / "slide") == parts(tmp_path / "only-mri")
