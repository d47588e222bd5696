"""One grade from slides and MRI of a patient: who votes, with which weight, and what is said of those who do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fakes
import nibabel
import numpy as np
import pytest
from made_up_graders import write_ensemble, write_grader, write_patient
from made_up_votes import GRADES, answered, parts, write_card, write_tile_card, write_tiles
from PIL import Image

import digipath
from digipath.errors import BadInput, BadVolume, Cancelled, CaseBusy, CaseDiffers, TumourNotFound, UnknownWeights
from digipath.grading import volume_files, volume_networks
from digipath.grading.fusion_cards import FusionPlan, write_fusion

SAYS = {"brain-v1": (0.7, 0.2, 0.1), "t1c-v1": (0.1, 0.1, 0.8), "tumour-v1": (0.2, 0.7, 0.1), "coarse-v1": (0.3, 0.7)}
SLIDES = (0.45, 0.1, 0.45)  # mean of a tile of grade 2 and one of grade 4, as `fakes.grader` calls them
LGG_HGG = {"grade 2": "LGG", "grade 3": "LGG", "grade 4": "HGG"}
MODALITIES = ("t1", "t1c", "t2", "flair")
CLOSE = {"abs": 1e-3}  # maps hold half precision


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return write_patient(tmp_path_factory.mktemp("mri") / "patient-7")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    return write_tiles(tmp_path_factory.mktemp("slides") / "slide-1", 100, 230)


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    """A network for slides, some for MRI, and fusions of them; no network is behind them."""
    folder = tmp_path_factory.mktemp("cards")
    write_tile_card(folder, "slides-v1")
    write_card(folder, "brain-v1")
    write_card(folder, "t1c-v1", order=["t1c"])
    write_card(folder, "tumour-v1", order=["t1c"], roi="tumour")
    write_card(folder, "coarse-v1", order=["t1c"], classes=("LGG", "HGG"))
    write_ensemble(folder, "mri-v1", ["t1c-v1", "tumour-v1"], weights={"tumour-v1": 3.0})
    members = ["slides-v1", "brain-v1", "t1c-v1"]
    write_fusion(FusionPlan("both-v1", members, weights={"brain-v1": 2.0}), folder)
    write_fusion(FusionPlan("nested-v1", ["slides-v1", "mri-v1"]), folder)
    write_fusion(FusionPlan("mri-first-v1", ["brain-v1", "slides-v1"]), folder)
    coarse = FusionPlan("coarse-both-v1", ["coarse-v1", "slides-v1"], meanings={"slides-v1": LGG_HGG})
    write_fusion(coarse, folder)
    return folder


@pytest.fixture
def asked(monkeypatch):
    found = []
    answered(monkeypatch, SAYS, asked=found)
    return found


@pytest.fixture
def graded(patient, tiles, cards, tmp_path):
    """Grade the patient by a fusion: its slides, and the modalities named."""

    def call(fusion="both-v1", *names, out="case", slides=tiles, **options):
        volumes = {name: patient[name] for name in names or MODALITIES}
        options = {"gallery": 0, **options} if slides is not None else options
        weights = str(cards / f"{fusion}.json")
        return digipath.grade(slides, options.pop("volumes", volumes), weights=weights, out=tmp_path / out, **options)

    return call


def values(verdict) -> list[float]:
    return list(verdict["probabilities"].values())


def test_the_verdict_is_the_weighted_mean_over_both_modalities(graded, asked):
    result = graded()
    verdict = result.verdict
    # (1 · slides + 2 · brain + 1 · T1c) / 4
    assert values(verdict) == pytest.approx([1.95 / 4, 0.6 / 4, 1.45 / 4], **CLOSE)
    assert (verdict["grade"], verdict["missing"], result.classes) == ("grade 2", {}, GRADES)
    told = {name: (one["grade"], one["weight"], one["sees"]) for name, one in verdict["members"].items()}
    assert told == {
        "slides-v1": ("grade 4", 1, "slides"),
        "brain-v1": ("grade 2", 2, "volumes"),
        "t1c-v1": ("grade 4", 1, "volumes"),
    }
    assert values(verdict["members"]["slides-v1"]) == pytest.approx(SLIDES, **CLOSE)
    assert result.complete


def test_slides_are_read_as_they_are_without_mri(graded, asked):
    result = graded()
    read = result.readout()
    assert (read.tiles, read.majority_grade) == (2, "grade 4")
    assert list(read.probabilities.values()) == pytest.approx(SLIDES, **CLOSE)
    assert result.probabilities.shape == (2, 3)
    assert [slide.folder.name for slide in result.slides] == ["slides-v1"]


def test_every_member_has_a_folder_and_the_case_is_read_back(graded, asked, tmp_path):
    result = graded()
    case = tmp_path / "case"
    held = {path.name for path in case.iterdir() if path.name not in (".lock", "state.json")}
    assert held == {"case.json", "case.html", "slides-v1", "brain-v1", "t1c-v1"}
    assert {"slides-v1/tiles.csv", "brain-v1/planes.png", "t1c-v1/explanations/t1c-v1-grad-cam.nii.gz"} <= parts(case)
    again = digipath.open_result(case)
    assert (again.verdict, again.classes, again.complete) == (result.verdict, GRADES, True)
    assert [volume.folder for volume in again.volumes] == [case / "brain-v1", case / "t1c-v1"]
    assert again.readout().probabilities == result.readout().probabilities
    assert digipath.list_results(case) == [case, case / "brain-v1", case / "slides-v1", case / "t1c-v1"]
    alone = digipath.open_result(case / "brain-v1")
    assert values(alone.verdict) == pytest.approx(SAYS["brain-v1"])
    record = json.loads((case / "case.json").read_text("utf-8"))
    assert record["weights"] == "both-v1"
    assert [slide["name"] for slide in record["slides"]] == ["slide-1"]
    assert [slide["folder"] for slide in record["slides"]] == ["slides-v1"]
    assert record["volumes"] == ["brain-v1", "t1c-v1"]
    assert any(note.startswith("MRI: brain mask from voxels that are not 0") for note in record["notes"])
    assert record["notice"].startswith("For research use only")


def test_the_page_shows_all_votes(graded, asked, tmp_path):
    graded()
    page = (tmp_path / "case" / "case.html").read_text("utf-8")
    assert '<dt>Grade</dt><dd>grade 2</dd>' in page
    cells = "<td>brain-v1</td><td>MRI: T1, T1 with contrast agent, T2, FLAIR; whole brain</td>"
    numbers = "".join(f'<td class="number">{number}</td>' for number in ("0.700", "0.200", "0.100", "2"))
    assert cells + numbers in page
    assert "<td>slides-v1</td><td>H&amp;E: 1 slide, 2 tiles</td>" in page
    assert page.count("<img ") == 2  # the planes of both volumes; a folder of tiles has no map
    assert page.count("It tells what moved the network, not what is tumour") == 1
    graded(explanations=False, out="bare")
    assert "what moved the network" not in (tmp_path / "bare" / "case.html").read_text("utf-8")
    assert 'role="alert"' not in page


def test_without_a_modality_the_others_share_the_vote(graded, asked, tmp_path):
    verdict = graded("both-v1", "t1c", "t1").verdict
    assert verdict["missing"] == {"brain-v1": "t2, flair not given"}
    assert values(verdict) == pytest.approx([(0.45 + 0.1) / 2, 0.1, (0.45 + 0.8) / 2], **CLOSE)
    page = (tmp_path / "case" / "case.html").read_text("utf-8")
    alert = page.partition('role="alert"')[2].partition("</div>")[0]
    assert "brain-v1: t2, flair not given." in alert
    assert "did not vote: t2, flair not given" in page


def test_without_slides(graded, asked, tmp_path):
    result = graded(slides=None)
    assert result.verdict["missing"] == {"slides-v1": "slides not given"}
    # (2 · brain + 1 · T1c) / 3
    assert values(result.verdict) == pytest.approx([1.5 / 3, 0.5 / 3, 1 / 3])
    assert (result.slides, digipath.open_result(tmp_path / "case").slides) == ((), ())
    with pytest.raises(BadInput, match="MRI alone"):
        result.readout()
    assert "slides-v1: slides not given" in (tmp_path / "case" / "case.html").read_text("utf-8")


def test_without_mri(graded, asked, tmp_path):
    result = graded(volumes=None)
    assert result.verdict["missing"] == {"brain-v1": "MRI not given", "t1c-v1": "MRI not given"}
    assert values(result.verdict) == pytest.approx(SLIDES, **CLOSE)
    assert (result.verdict["grade"], result.volumes) == ("grade 4", ())
    again = digipath.open_result(tmp_path / "case")
    assert (again.verdict, again.volumes) == (result.verdict, ())


def test_classes_are_brought_to_those_of_the_fusion(graded, asked):
    result = graded("coarse-both-v1")
    assert result.classes == ("LGG", "HGG")
    slides, coarse = (result.verdict["members"][name] for name in ("slides-v1", "coarse-v1"))
    assert values(slides) == pytest.approx([0.55, 0.45], **CLOSE)
    assert list(slides["own"]) == list(GRADES)
    assert list(slides["own"].values()) == pytest.approx(SLIDES, **CLOSE)
    assert slides["grade"] == "LGG"
    assert values(coarse) == [0.3, 0.7]
    assert values(result.verdict) == pytest.approx([0.425, 0.575], **CLOSE)
    assert result.verdict["grade"] == "HGG"
    assert result.readout().majority_grade == "grade 4"  # slides keep their own classes


def test_an_ensemble_is_one_member_and_tells_what_it_lacks(graded, asked, patient, tmp_path):
    verdict = graded("nested-v1").verdict
    assert verdict["missing"] == {"tumour-v1": "the tumour is not outlined (--tumour FILE)"}
    assert values(verdict["members"]["mri-v1"]) == pytest.approx(SAYS["t1c-v1"])
    whole = graded("nested-v1", out="whole", tumour=patient["tumour"]).verdict
    assert whole["missing"] == {}
    # t1c 1, tumour 3: ((0.1, 0.1, 0.8) + 3 · (0.2, 0.7, 0.1)) / 4
    assert values(whole["members"]["mri-v1"]) == pytest.approx([0.175, 0.55, 0.275])
    page = (tmp_path / "whole" / "case.html").read_text("utf-8")
    assert "MRI, mri-v1; maps of t1c-v1, those of tumour-v1 are in mri-v1/report.html" in page
    assert values(whole) == pytest.approx([(0.45 + 0.175) / 2, (0.1 + 0.55) / 2, (0.45 + 0.275) / 2], **CLOSE)


def test_several_slides_are_one_voice(graded, asked, tiles, tmp_path):
    other = write_tiles(tmp_path / "slide-2", 180)
    result = graded(slides=[tiles, other])
    # tiles of grades 2, 4 and 3
    assert values(result.verdict["members"]["slides-v1"]) == pytest.approx([1 / 3] * 3, **CLOSE)
    assert [slide.folder.relative_to(tmp_path / "case") for slide in result.slides] == [
        Path("slides-v1/slide-1"), Path("slides-v1/slide-2"),
    ]  # fmt: skip
    again = digipath.open_result(tmp_path / "case")
    assert [slide.slide_name for slide in again.slides] == ["slide-1", "slide-2"]
    assert "H&amp;E: 2 slides, 3 tiles" in (tmp_path / "case" / "case.html").read_text("utf-8")


def test_slides_without_a_tile_do_not_vote(graded, asked, tmp_path):
    glass = tmp_path / "glass.png"
    Image.new("RGB", (5000, 600), (243, 242, 244)).save(glass)
    verdict = graded(slides=glass, mpp=0.5).verdict
    assert verdict["missing"] == {"slides-v1": "no tile to grade on the slides"}
    assert values(verdict) == pytest.approx([1.5 / 3, 0.5 / 3, 1 / 3])


def test_a_case_is_as_complete_as_the_slides_of_every_member(graded, asked, tmp_path):
    graded()
    path = tmp_path / "case" / "case.json"
    record = json.loads(path.read_text("utf-8"))
    assert [one["complete"] for one in record["members"].values()] == [True] * 3
    record["members"]["slides-v1"]["complete"] = False
    path.write_text(json.dumps(record))
    assert not digipath.open_result(tmp_path / "case").complete


def test_tiles_that_cannot_be_read_are_said(graded, asked, tmp_path):
    whole = write_tiles(tmp_path / "slide-2", 100, 230)
    (whole / "tile1.png").write_bytes((whole / "tile1.png").read_bytes()[:60])
    result = graded(slides=whole)
    assert not result.complete
    assert not result.verdict["members"]["slides-v1"]["complete"]
    assert result.verdict["members"]["slides-v1"]["tiles"] == 1
    notes = json.loads((tmp_path / "case" / "case.json").read_text("utf-8"))["notes"]
    assert any("could not be read" in note for note in notes)


def test_a_finished_case_asks_nobody_again(graded, asked, tmp_path, monkeypatch):
    read = volume_files.open_volumes
    opened = []
    monkeypatch.setattr(volume_files, "open_volumes", lambda *a, **k: opened.append(a) or read(*a, **k))
    first = graded()
    files = {name: (tmp_path / "case" / name).stat().st_mtime_ns for name in parts(tmp_path / "case") if "/" in name}
    count = len(asked)
    again = graded()
    assert (again.verdict, len(asked), len(opened)) == (first.verdict, count, 1)
    assert {name: (tmp_path / "case" / name).stat().st_mtime_ns for name in files} == files


def test_a_case_that_was_cancelled_goes_on(graded, asked, tmp_path):
    with pytest.raises(Cancelled):
        graded(cancel=lambda: len(asked) == 1)
    assert [name for name, _ in asked] == ["brain-v1"]
    assert not (tmp_path / "case" / "case.json").exists()
    assert json.loads((tmp_path / "case" / "slides-v1" / "state.json").read_text("utf-8"))["state"] == "done"
    result = graded()
    assert [name for name, _ in asked] == ["brain-v1", "brain-v1", "t1c-v1"]
    assert values(result.verdict) == pytest.approx([1.95 / 4, 0.6 / 4, 1.45 / 4], **CLOSE)


def test_where_nobody_can_vote_each_reason_is_said_and_nothing_is_written(graded, asked, tmp_path):
    with pytest.raises(BadInput) as caught:
        graded("both-v1", "t2", slides=None)
    assert str(caught.value) == (
        "expected what at least one member of both-v1 needs: slides-v1: slides not given; "
        "brain-v1: t1, t1c, flair not given; t1c-v1: t1c not given"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_tumour_that_is_not_found_is_declared(graded, asked, cards, monkeypatch):
    def find(*_, **__):
        raise TumourNotFound("expected a tumour, found none")

    monkeypatch.setattr(volume_files, "find_tumour", find)
    write_card(cards, "finder-v1")
    write_card(cards, "seeks-v1", order=["t1c"], roi="tumour", segmenter="finder-v1")
    write_fusion(FusionPlan("seeking-v1", ["slides-v1", "seeks-v1"]), cards)
    verdict = graded("seeking-v1").verdict
    assert verdict["missing"] == {"seeks-v1": "expected a tumour, found none"}
    assert values(verdict) == pytest.approx(SLIDES, **CLOSE)


@pytest.mark.parametrize(("slice_vox", "reads"), [(99, 0), (3, 1)])
def test_a_slice_that_cannot_be_looked_at_is_no_missing_tumour(
    graded, asked, cards, tmp_path, monkeypatch, slice_vox, reads
):
    """Neither one that the volume does not have, which is seen before any slide, nor one without what was found."""
    found = []

    def find(volume, card, **_):
        found.append(card.name)
        mask = np.zeros(volume.shape_vox, bool)
        mask[7:12, 8:12, 6:9] = True
        return mask

    monkeypatch.setattr(volume_files, "find_tumour", find)
    write_card(cards, "finder-v1")
    write_card(cards, "slice-v1", order=["t1c"], roi="slice", segmenter="finder-v1")
    write_fusion(FusionPlan("sliced-v1", ["slides-v1", "slice-v1"]), cards)
    with pytest.raises(BadVolume, match=f"of 0 to 17, got {slice_vox}; choose another slice"):
        graded("sliced-v1", slice_vox=slice_vox)
    assert (len(found), (tmp_path / "case").exists()) == (reads, bool(reads))


def test_volumes_that_cannot_be_graded_are_said_before_slides_are(graded, asked, tmp_path):
    broken = write_patient(tmp_path / "broken")
    values = np.asanyarray(nibabel.load(broken["t1c"]).dataobj).astype(np.float32)
    values[9, 9, 9] = np.inf
    nibabel.save(nibabel.Nifti1Image(values, nibabel.load(broken["t1c"]).affine), broken["t1c"])
    with pytest.raises(BadVolume, match=r"t1c\.nii\.gz"):
        graded(volumes={name: broken[name] for name in MODALITIES})
    assert not (tmp_path / "case").exists()


@pytest.mark.parametrize(
    ("fusion", "options", "message"),
    [
        ("mri-first-v1", {"groups": 3}, "groups, bag and bag_augmentation are for weights that see bags"),
        ("both-v1", {"slice_vox": 8}, "look at no single slice; leave out slice_vox"),
        ("both-v1", {"predictors": [fakes.grader]}, "predictors grade slides alone"),
        ("both-v1", {"volumes": None, "tumour": "tumour.nii.gz"}, "are for MRI; leave them out, or give volumes"),
        ("both-v1", {"volumes": None, "slice_vox": 8}, "are for MRI"),
        ("both-v1", {"volumes": None, "explanations": False}, "are for MRI"),
        ("both-v1", {"slides": None, "views": 4}, "are for slides; leave them out"),
        ("slides-v1", {}, "grades one modality; expected slides or volumes alone, or a fusion card"),
        ("brain-v1", {}, "grades one modality"),
        ("slides-v1", {"slides": None}, "slides-v1.json grades slides; expected slides, got MRI volumes"),
        ("brain-v1", {"volumes": None}, "brain-v1.json grades MRI; expected volumes, got slides"),
    ],
    ids=range(11),
)
def test_what_would_do_nothing_is_refused_before_anything_is_graded(graded, asked, tmp_path, fusion, options, message):
    with pytest.raises(BadInput, match=message):
        graded(fusion, **options)
    assert (list(tmp_path.iterdir()), asked) == ([], [])


def test_a_member_whose_weights_are_not_here_is_said_before_others_are_asked(graded, asked, cards, tmp_path):
    write_card(cards, "gone-v1")
    write_fusion(FusionPlan("gone-both-v1", ["slides-v1", "gone-v1"]), cards)
    (cards / "gone-v1.weights.h5").unlink()
    with pytest.raises(UnknownWeights, match="gone-v1"):
        graded("gone-both-v1")
    assert not (tmp_path / "case").exists()
    result = graded("gone-both-v1", volumes=None)  # it is not asked: its weights need not be here
    assert result.verdict["missing"] == {"gone-v1": "MRI not given"}


def test_results_of_another_kind_are_not_written_over(graded, asked, tiles, cards, patient, tmp_path):
    other = write_tiles(tmp_path / "slide-2", 180)
    graded(out="fused")
    graded("slides-v1", out="single", volumes=None)
    graded("slides-v1", out="several", volumes=None, slides=[tiles, other])
    with pytest.raises(CaseDiffers, match="holds the result of one slide or volume"):
        graded(out="single")
    with pytest.raises(CaseDiffers, match="holds a case of several slides"):
        graded(out="several")
    with pytest.raises(CaseDiffers, match="holds a case of several modalities"):
        graded("slides-v1", out="fused", volumes=None, slides=[tiles, other])
    for fusion, options in (("slides-v1", {"volumes": None}), ("brain-v1", {"slides": None})):
        with pytest.raises(CaseDiffers, match="holds a case of several modalities"):
            graded(fusion, out="fused", **options)


@pytest.mark.parametrize(
    ("fusion", "options", "differs"),
    [
        ("both-v1", {"volumes": None}, r"another input \(t1: "),
        ("both-v1", {"slides": None}, r"another input \(slide slide-1: "),
        ("mri-first-v1", {}, "another weights"),
        ("coarse-both-v1", {}, "another weights"),
    ],
    ids=["no MRI", "no slides", "fewer members", "other classes"],
)
def test_a_case_is_of_one_fusion_and_one_patient(graded, asked, tmp_path, fusion, options, differs):
    """What differs is refused and changes nothing; started afresh, it replaces all that was there."""
    graded()
    case = tmp_path / "case"
    before = {name: (case / name).stat().st_mtime_ns for name in parts(case)}
    with pytest.raises(CaseDiffers, match=f"holds results of {differs}"):
        graded(fusion, **options)
    assert {name: (case / name).stat().st_mtime_ns for name in parts(case)} == before
    replaced = graded(fusion, resume=False, **options)
    assert digipath.open_result(case).verdict == replaced.verdict
    assert {path.name for path in case.iterdir() if path.is_dir()} == {*replaced.verdict["members"]}


def test_a_case_that_ended_early_is_of_its_fusion_too(graded, asked, tmp_path):
    with pytest.raises(Cancelled):
        graded(cancel=lambda: len(asked) == 1)
    with pytest.raises(CaseDiffers, match="another weights"):
        graded("mri-first-v1")
    with pytest.raises(CaseDiffers, match="holds a case of several modalities"):
        graded("brain-v1", slides=None)
    graded("mri-first-v1", resume=False)
    assert {path.name for path in (tmp_path / "case").iterdir() if path.is_dir()} == {"brain-v1", "slides-v1"}


def test_one_run_at_a_time_writes_a_case(graded, asked, monkeypatch):
    def again(*_, **__):
        return graded()

    monkeypatch.setattr(volume_networks, "answer", again)
    with pytest.raises(CaseBusy, match="another run is writing"):
        graded()


def test_slides_are_told_of_every_member_that_graded_them(graded, asked, cards, tmp_path):
    whole = write_tiles(tmp_path / "slide-2", 100, 230)
    (whole / "tile1.png").write_bytes((whole / "tile1.png").read_bytes()[:60])
    write_tile_card(cards, "more-v1")
    write_fusion(FusionPlan("more-both-v1", ["slides-v1", "t1c-v1", "more-v1"]), cards)
    result = graded("more-both-v1", slides=whole)
    case = tmp_path / "case"
    for one in (result, digipath.open_result(case)):
        assert [slide.folder for slide in one.slides] == [case / "slides-v1", case / "more-v1"]
        assert list(one.members) == ["slides-v1", "more-v1", "t1c-v1"]
        assert [len(each.slides) for each in one.members.values()] == [1, 1, 0]
        assert one.members["more-v1"].readout().tiles == 1
        assert one.members["t1c-v1"].verdict["grade"] == "grade 4"
        assert any("could not be read" in note for note in one.notes)
        with pytest.raises(BadInput, match="one member graded, slides-v1 and more-v1 did; read each in `members`"):
            one.readout()
        with pytest.raises(BadInput, match="one member graded"):
            one.bags  # noqa: B018
    record = json.loads((case / "case.json").read_text("utf-8"))
    assert [slide["folder"] for slide in record["slides"]] == ["slides-v1", "more-v1"]
    assert (case / "case.html").read_text("utf-8").count("H&amp;E: 1 slide, 1 tile<") == 2


def test_the_folder_is_named_by_the_patient(graded, asked, tiles, patient, cards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    volumes = {name: patient[name] for name in MODALITIES}
    result = digipath.grade(tiles, volumes, weights=str(cards / "both-v1.json"), gallery=0)
    assert result.folder.name == "patient-7.grade"


@pytest.mark.keras
def test_a_shipped_grader_and_a_tiny_network_vote_together(patient, tmp_path):
    (tmp_path / "tiles").mkdir()
    pixels = np.random.default_rng(0).integers(90, 220, (512, 512, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "tiles" / "one.png")
    write_grader(tmp_path / "cards", "brain-v1", order=("t1c",))
    plan = FusionPlan("both-v1", ["glioma-tiles-demo-v1", "brain-v1"], weights={"brain-v1": 0.5})
    fusion = str(write_fusion(plan, tmp_path / "cards"))
    options = {"gallery": 0, "mpp": 0.5, "explanations": False, "out": tmp_path / "case"}
    result = digipath.grade(tmp_path / "tiles", {"t1c": patient["t1c"]}, weights=fusion, **options)
    slides = np.array(list(result.readout().probabilities.values()))
    mri = np.array(values(result.volumes[0].verdict))
    np.testing.assert_allclose(values(result.verdict), (slides + 0.5 * mri) / 1.5, atol=1e-6)
    assert result.verdict["missing"] == {}


def test_members_that_are_known_by_name_are_recorded_by_it(patient, cards, asked, tmp_path, monkeypatch):
    """So that a result goes on where the package, or the store of weights, lies elsewhere."""
    store = tmp_path / "home" / "weights"
    shutil.copytree(cards, store)
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path / "home"))
    named = {}
    for weights in ("both-v1", str(cards / "both-v1.json")):
        case = tmp_path / str(len(named))
        digipath.grade(volumes={"t1c": patient["t1c"]}, weights=weights, out=case)
        named[weights] = json.loads((case / "t1c-v1" / "run.json").read_text())["weights"]["name"]
    assert [*named.values()] == ["t1c-v1", str(cards / "t1c-v1.json")]
