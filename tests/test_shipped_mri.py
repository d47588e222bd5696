"""The demonstration graders of MRI, on volumes that they have not seen, alone and beside slides."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

import digipath
from digipath.synthetic.mri import write_mri_cases
from digipath.volume_evaluation import evaluate_volumes
from digipath.volume_values import MODALITIES
from digipath.weights import DEFAULT_FUSION, DEFAULT_GRADER, DEFAULT_VOLUME_GRADER, load_card, members, show_weights

SEED, CASES = 7000, 24  # no seed of the example's
FOUR, ALONE = f"{DEFAULT_VOLUME_GRADER}-four", f"{DEFAULT_VOLUME_GRADER}-t1c"


def files_of(folder):
    return {name: folder / f"{name}.nii.gz" for name in MODALITIES}


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    return write_mri_cases(tmp_path_factory.mktemp("unseen"), CASES, seed=SEED)


@pytest.mark.parametrize("name", [DEFAULT_VOLUME_GRADER, FOUR, ALONE])
def test_the_cards_say_what_they_are_not(name):
    card = show_weights(name)
    assert card["classes"] == ["grade 2", "grade 3", "grade 4"]
    assert card["output"] == "volume"
    assert "generated" in card["task"]
    assert any("means nothing" in limit for limit in card["limits"])
    assert "must not be used on patients" in card["intended_use"]


def test_the_files_are_small():
    files = [card.file for card in members(load_card(DEFAULT_VOLUME_GRADER))]
    assert [file.name for file in files] == [f"{FOUR}.weights.h5", f"{ALONE}.weights.h5"]
    assert sum(file.stat().st_size for file in files) <= 5e6


def test_the_demonstration_weights_of_both_modalities_vote_together():
    card = show_weights(DEFAULT_FUSION)
    assert card["members"] == [DEFAULT_GRADER, DEFAULT_VOLUME_GRADER]
    assert {tuple(show_weights(name)["classes"]) for name in card["members"]} == {("grade 2", "grade 3", "grade 4")}
    assert any("means nothing" in limit for limit in card["limits"])


@pytest.mark.slow
@pytest.mark.keras
def test_unseen_volumes_are_graded(unseen):
    for name, least in ((FOUR, 0.95), (ALONE, 0.9), (DEFAULT_VOLUME_GRADER, 0.95)):
        found = evaluate_volumes(name, manifest=unseen)["scores"]["all classes"]["case"]
        assert found["scores"]["count"] == CASES
        assert found["metrics"]["macro_auroc"] >= least


@pytest.mark.slow
@pytest.mark.keras
def test_without_its_other_modalities_the_network_of_t1c_votes_alone(unseen, tmp_path):
    folder = unseen.parent / "case0002"  # of grade 4
    graded = digipath.grade(volumes={"t1c": folder / "t1c.nii.gz"}, out=tmp_path / "case", explanations=False)
    assert set(graded.verdict["members"]) == {ALONE}
    assert graded.verdict["missing"] == {FOUR: "t1, t2, flair not given"}
    assert graded.verdict["grade"] == "grade 4"


@pytest.mark.slow
@pytest.mark.keras
def test_a_slide_and_a_volume_of_one_grade_are_one_case_of_it(unseen, tmp_path):
    from digipath.synthetic.glioma import write_glioma_slide

    slide = write_glioma_slide(tmp_path / "slide.tiff", (2048, 2048), grades={"grade 4": 1.0}, seed=SEED)
    volumes = files_of(unseen.parent / "case0002")
    graded = digipath.grade(slide.path, volumes, out=tmp_path / "case", gallery=0, explanations=False)
    verdict = graded.verdict
    assert (verdict["grade"], verdict["missing"]) == ("grade 4", {})
    each = [list(member["probabilities"].values()) for member in verdict["members"].values()]
    assert list(verdict["members"]) == [DEFAULT_GRADER, DEFAULT_VOLUME_GRADER]
    np.testing.assert_allclose(list(verdict["probabilities"].values()), np.mean(each, axis=0), atol=1e-9)
    assert digipath.open_result(tmp_path / "case").verdict == verdict


@pytest.mark.slow
@pytest.mark.keras
@pytest.mark.real_data
def test_a_real_patient_has_a_report_and_explanations_in_their_own_place(shared_data, tmp_path):
    folder = shared_data / "mri_3d" / "TCGA-FG-6692"
    graded = digipath.grade(volumes=files_of(folder), out=tmp_path / "case")
    assert set(graded.verdict["members"]) == {FOUR, ALONE}
    source = nibabel.load(folder / "t1c.nii.gz")
    brain = np.asarray(source.dataobj) > 0
    low, high = (np.array(edge, float) for edge in bounds_mm(np.argwhere(brain), source.affine))
    for files in graded.volumes[0].explanations.values():
        for file in files.values():
            heat = nibabel.load(file)
            values = np.asarray(heat.dataobj)
            assert values.shape == (240, 240, 155)
            assert 0 < values.max() <= 1
            first, last = bounds_mm(np.argwhere(values > 0), heat.affine)
            assert (np.array(first) >= low - 2).all()
            assert (np.array(last) <= high + 2).all()
    page = (tmp_path / "case" / "report.html").read_text(encoding="utf-8")
    assert "For research use only" in page
    assert "Guided backpropagation of glioma-mri-demo-v1-" in page


def bounds_mm(voxels, affine):
    """The least and the largest millimetre of voxels along each axis."""
    places = nibabel.affines.apply_affine(affine, voxels)
    return places.min(axis=0), places.max(axis=0)
