"""The MRI of a patient as files: what grades depend on, who can vote on it, and what is computed once for all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_graders import write_patient
from made_up_volumes import write_series
from made_up_votes import write_card, write_tile_card

from digipath.errors import BadVolume, NotFound
from digipath.grading import volume_files
from digipath.grading.volume_files import OpenedVolume, VolumeFiles
from digipath.grading.volume_networks import VolumeGrader
from digipath.training import volume_regions
from digipath.training.volume_manifest import VolumeCase
from digipath.volume_rois import VolumeRule, region_of
from digipath.weights import load_card, sha256_of


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return write_patient(tmp_path_factory.mktemp("mri") / "patient 7")


def grader_of(path: Path) -> VolumeGrader:
    card = load_card(str(path))
    return VolumeGrader(card, VolumeRule.of_card(card.record["input"]))


def files_of(patient, *names, **masks) -> VolumeFiles:
    return VolumeFiles.of({name: patient[name] for name in names}, **masks)


def test_files_are_told_by_mapping_or_by_name(patient):
    by_option = files_of(patient, "flair", "t1c")
    by_name = VolumeFiles.of([patient["flair"], patient["t1c"]])
    assert by_option == by_name
    assert list(by_option.modalities) == ["t1c", "flair"]
    assert by_option.name == "patient 7"
    assert by_option.masks == {}
    assert files_of(patient, "t1", tumour=patient["tumour"]).masks == {"tumour": Path(patient["tumour"])}


def test_the_name_is_that_of_the_folder_around_the_files_wherever_one_stands(patient, monkeypatch):
    monkeypatch.chdir(Path(patient["t1"]).parent)
    assert VolumeFiles.of(["t1.nii.gz"]).name == "patient 7"


def test_a_series_is_named_by_the_folder_around_its_own(tmp_path):
    write_series(tmp_path / "patient 9" / "T1", np.ones((4, 5, 6)))
    assert VolumeFiles.of({"t1": tmp_path / "patient 9" / "T1"}).name == "patient 9"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("p7/t1.nii.gz", "p7"),
        ("TCGA_01/TCGA-01_t1.nii.gz", "TCGA_01"),
        ("mri/TCGA-01_t1.nii.gz", "mri_tcga-01"),
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01"),
        ("sub-01/ses-02/anat/sub-01_ses-02_run-1_T1w.nii.gz", "sub-01-ses-02"),
        ("sub-01/anat/t1.nii.gz", "anat"),
    ],
)
def test_patients_in_one_folder_or_in_folders_of_one_name_have_names_of_their_own(tmp_path, path, name):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.touch()
    assert VolumeFiles({"t1": file}).name == name


@pytest.mark.parametrize("mask", ["brain", "tumour"])
def test_a_mask_that_is_not_there_is_said(patient, mask):
    with pytest.raises(NotFound, match=rf"a mask of the {mask}, found nothing at nowhere\.nii\.gz"):
        files_of(patient, "t1", **{mask: "nowhere.nii.gz"})


def test_the_identity_changes_with_every_file_that_matters(tmp_path):
    patient = write_patient(tmp_path / "one")
    files = files_of(patient, "t1", "t2", tumour=patient["tumour"])
    before = files.identity()
    assert list(before) == ["t1", "t2", "tumour"]
    assert before == files.identity()
    for changed, name in (("t1", "t1"), ("tumour", "tumour")):
        path = Path(patient[changed])
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        now = files.identity()
        assert [part for part in now if now[part] != before[part]] == [name]
        before = now


def test_the_identity_of_a_series_is_that_of_all_its_slices(tmp_path):
    folder = write_series(tmp_path / "T1", np.ones((4, 5, 6)))
    before = VolumeFiles.of({"t1": folder}).identity()
    assert len(before["t1"]["files"]) == 6
    (folder / "extra.dcm").write_bytes(b"another slice")
    assert VolumeFiles.of({"t1": folder}).identity() != before


def test_who_can_vote(patient, tmp_path):
    write_card(tmp_path, "finder-v1", order=["t2", "flair"])
    brain = grader_of(write_card(tmp_path, "brain-v1", order=["t1", "t1c"]))
    tumour = grader_of(write_card(tmp_path, "tumour-v1", order=["t1"], roi="tumour"))
    found = grader_of(write_card(tmp_path, "found-v1", order=["t1"], roi="tumour", segmenter="finder-v1"))
    at_slice = grader_of(write_card(tmp_path, "slice-v1", order=["t1c"], roi="slice"))
    every = brain, tumour, found, at_slice

    t1, both = (OpenedVolume(files_of(patient, *names)) for names in (["t1"], ["t1", "t1c"]))
    assert [t1.lacks(one) for one in every] == [
        "t1c not given", "the tumour is not outlined (--tumour FILE)", "t2, flair not given, to find the tumour in",
        "t1c not given",
    ]  # fmt: skip
    assert both.lacks(brain) is None
    assert OpenedVolume(files_of(patient, "t1", "t2", "flair")).lacks(found) is None
    outlined = OpenedVolume(files_of(patient, "t1", "t1c", tumour=patient["tumour"]))
    assert [outlined.lacks(one) for one in every] == [None] * 4
    assert [outlined.sought(one) for one in every] == [False] * 4
    assert [t1.sought(one) for one in every] == [False, False, True, False]


def test_a_region_is_that_of_the_volume(patient, tmp_path):
    opened = OpenedVolume(files_of(patient, "t1", "t1c", "t2", "flair", tumour=patient["tumour"]))
    for roi, order in (("brain", ["t1c", "t1"]), ("tumour", ["flair"]), ("slice", ["t1c"])):
        grader = grader_of(write_card(tmp_path, f"{roi}-v1", order=order, roi=roi))
        region = opened.region(grader)
        expected = region_of(opened.volume, grader.rule)
        np.testing.assert_array_equal(region.pixels, expected.pixels)
        assert (region.box, region.slice_vox) == (expected.box, expected.slice_vox)
    assert opened.region(grader, slice_vox=8).slice_vox == 8


def test_the_bias_field_of_each_modality_is_corrected_once_and_said(patient, tmp_path, monkeypatch):
    calls, told = [], []
    monkeypatch.setattr(volume_files, "bias_field_corrected", lambda volume: calls.append(volume) or volume)
    opened = OpenedVolume(files_of(patient, "t1", "t1c"))
    for name in ("one-v1", "two-v1"):
        opened.region(grader_of(write_card(tmp_path, name, order=["t1"], bias_field=True)), told=told.append)
    assert [call.modalities for call in calls] == [("t1",)]
    both = grader_of(write_card(tmp_path, "both-v1", order=["t1c", "t1"], bias_field=True))
    region = opened.region(both, told=told.append)
    assert [call.modalities for call in calls] == [("t1",), ("t1c",)]
    assert told == ["correcting the bias field of t1", "correcting the bias field of t1c"]
    np.testing.assert_array_equal(
        region.pixels, region_of(opened.volume, replace(both.rule, bias_field=False)).pixels
    )
    opened.region(grader_of(write_card(tmp_path, "raw-v1", order=["t1"])), told=told.append)
    assert len(told) == 2


def test_a_corrected_region_is_as_region_of_makes_it(patient, tmp_path):
    """Correcting each modality by itself is the same as correcting what a network sees."""
    opened = OpenedVolume(files_of(patient, "t1", "t1c"))
    grader = grader_of(write_card(tmp_path, "one-v1", order=["t1c"], bias_field=True))
    expected = region_of(opened.volume, grader.rule).pixels
    np.testing.assert_allclose(opened.region(grader).pixels, expected, atol=1e-5)
    raw = region_of(opened.volume, replace(grader.rule, bias_field=False)).pixels
    assert np.abs(expected - raw).max() > 1e-3


@pytest.fixture
def unequal(tmp_path):
    """T1c shows three fifths of the brain that the others show, and a speck beside it that is brain by these alone."""
    import nibabel
    from scipy.ndimage import binary_dilation

    found = write_patient(tmp_path / "unequal")
    image = nibabel.load(found["t1c"])
    values = np.asarray(image.dataobj).copy()
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in values.shape), indexing="ij"))
    shown = (place**2).sum(axis=0) < 0.55
    speck = tuple(np.argwhere((values != 0) & ~binary_dilation(shown))[0])
    kept = values[speck]
    values[~shown] = 0
    values[speck] = kept
    nibabel.save(nibabel.Nifti1Image(values, image.affine), found["t1c"])
    return found


@pytest.mark.parametrize("bias_field", [False, True])
@pytest.mark.parametrize("order", [["t1c"], ["flair"], ["t1c", "t1"]])
def test_a_network_sees_the_same_whatever_else_is_given(unequal, tmp_path, order, bias_field):
    """What training prepared of its modalities alone."""
    case = VolumeCase("unequal", tuple((name, Path(unequal[name])) for name in order), "p")
    grader = grader_of(write_card(tmp_path, "one-v1", order=order, bias_field=bias_field))
    opened = OpenedVolume(files_of(unequal, "t1", "t1c", "t2", "flair"))
    opened.region(grader_of(write_card(tmp_path, "other-v1", order=["t1c", "flair"], bias_field=bias_field)))
    region = opened.region(grader)
    prepared = volume_regions._opened(case, tuple(order), bias_field)
    expected = region_of(prepared, replace(grader.rule, bias_field=False))
    assert region.box == expected.box
    np.testing.assert_array_equal(region.pixels, expected.pixels)
    np.testing.assert_array_equal(opened.seen(order).brain, prepared.brain)


def test_brains_differ_by_modality_unless_a_mask_is_given(unequal, tmp_path):
    opened = OpenedVolume(files_of(unequal, "t1", "t1c", "t2", "flair"))
    alone, whole = opened.seen(["t1c"]).brain, opened.seen(["flair"]).brain
    np.testing.assert_array_equal(whole, opened.volume.brain)
    assert (alone <= whole).all()
    assert 0.4 < alone.sum() / whole.sum() < 0.7
    masked = OpenedVolume(files_of(unequal, "t1", "t1c", brain=unequal["flair"]))
    np.testing.assert_array_equal(masked.seen(["t1c"]).brain, masked.volume.brain)


def test_what_finds_the_tumour_sees_its_own_modalities(unequal, tmp_path, monkeypatch):
    seen = []

    def find(volume, card, **_):
        seen.append(volume)
        return volume.brain

    monkeypatch.setattr(volume_files, "find_tumour", find)
    write_card(tmp_path, "finder-v1", order=["t1c"], bias_field=False)
    grader = grader_of(write_card(tmp_path, "one-v1", order=["t1"], roi="tumour", segmenter="finder-v1"))
    opened = OpenedVolume(files_of(unequal, "t1", "t1c"))
    opened.region(grader)
    np.testing.assert_array_equal(seen[0].brain, OpenedVolume(files_of(unequal, "t1c")).volume.brain)
    assert seen[0].brain.sum() < opened.volume.brain.sum()


@pytest.fixture
def finds(monkeypatch):
    """What a network for the tumour finds, and which were asked."""
    asked = []

    def find(volume, card, **_):
        asked.append(card.name)
        if card.name == "blind-v1":
            raise BadVolume("expected a tumour, found none")
        mask = np.zeros(volume.shape_vox, bool)
        mask[7:10, 8:11, 5:8] = True
        return mask

    monkeypatch.setattr(volume_files, "find_tumour", find)
    return asked


def test_the_tumour_is_found_once_for_all_networks_that_want_it(patient, tmp_path, finds):
    write_card(tmp_path, "finder-v1", bias_field=False)
    told, opened = [], OpenedVolume(files_of(patient, "t1", "t1c", "t2", "flair"))
    graders = [
        grader_of(write_card(tmp_path, f"{name}-v1", order=["t1"], roi="tumour", segmenter="finder-v1", margin_vox=0))
        for name in ("one", "two")
    ]
    boxes = [opened.region(grader, told=told.append).box for grader in graders]
    assert finds == ["finder-v1"]
    assert told == ["finding the tumour with finder-v1"]
    assert boxes[0] == boxes[1]
    assert [np.argwhere(opened.outline(one)).min(axis=0).tolist() for one in graders] == [[7, 8, 5]] * 2
    assert [card.name for card in opened.finders(graders)] == ["finder-v1"]
    assert (boxes[0].start_vox, boxes[0].stop_vox) == ((7, 8, 5), (10, 11, 8))
    assert opened.volume.tumour is None
    assert opened.segmenters(graders) == {"finder-v1": sha256_of(tmp_path / "finder-v1.weights.h5")}


def test_an_outline_is_taken_in_place_of_a_finder(patient, tmp_path, finds):
    write_card(tmp_path, "finder-v1")
    grader = grader_of(
        write_card(tmp_path, "one-v1", order=["t1"], roi="tumour", segmenter="finder-v1", margin_vox=0)
    )
    opened = OpenedVolume(files_of(patient, "t1", tumour=patient["tumour"]))
    box = opened.region(grader).box
    assert (finds, opened.segmenters([grader])) == ([], {})
    assert opened.outline(grader) is opened.volume.tumour
    inside = np.argwhere(opened.volume.tumour)
    assert box.start_vox == tuple(inside.min(axis=0))
    assert box.stop_vox == tuple(inside.max(axis=0) + 1)


def test_a_whole_brain_needs_no_tumour(patient, tmp_path, finds):
    write_card(tmp_path, "finder-v1")
    grader = grader_of(write_card(tmp_path, "one-v1", order=["t1"], segmenter="finder-v1"))
    OpenedVolume(files_of(patient, "t1")).region(grader)
    assert finds == []


def test_no_tile_network_is_needed_to_look_at_files(patient, tmp_path):
    """Cards for slides say nothing of a region."""
    with pytest.raises(ValueError, match="input is a volume with its roi"):
        grader_of(write_tile_card(tmp_path, "tiles-v1"))
