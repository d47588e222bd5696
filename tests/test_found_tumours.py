"""The whole chain with real networks: files → a network that finds the tumour → its box → a grade with explanations."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from made_up_finders import write_finder
from made_up_graders import write_grader
from made_up_mri import write_case, write_nifti

import digipath
from digipath.measure.scores import dice
from digipath.roi import tumour_box
from digipath.runtime import choose

ORDER = ("t1c", "flair")
MARGIN_VOX = 2


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    """A grader of random weights, and beside it what finds tumours: all that is bright in FLAIR, its first channel."""
    folder = tmp_path_factory.mktemp("cards")
    write_finder(folder, "finder-v1", order=("flair", "t1c"), channel=0, above=2.0)
    return write_grader(folder, "grader-v1", order=ORDER, roi="tumour", margin_vox=MARGIN_VOX, segmenter="finder-v1")


@pytest.fixture
def case(tmp_path):
    """Files by modality, and the tumour (X, Y, Z): 4 deviations brighter in FLAIR and no different in T1c."""
    write_case(tmp_path / "p1", label=0, seed=3, side_vox=24)
    files = {name: tmp_path / "p1" / f"{name}.nii.gz" for name in ORDER}
    return files, read(tmp_path / "p1" / "tumour.nii.gz") > 0


def read(path):
    return np.asanyarray(nibabel.load(path).dataobj)


@pytest.mark.slow
@pytest.mark.keras
def test_a_tumour_that_nobody_outlined_is_found_and_graded(case, cards, tmp_path):
    files, truth = case
    graded = digipath.grade(volumes=files, weights=str(cards), out=tmp_path / "out").volumes[0]
    found = read(tmp_path / "out" / "tumour.nii.gz") > 0
    assert dice(truth, found) >= 0.9
    box = tumour_box(found, margin_vox=MARGIN_VOX)
    member = graded.run["members"]["grader-v1"]
    assert member["box_vox"] == [list(box.start_vox), list(box.stop_vox)]
    assert sum(member["probabilities"].values()) == pytest.approx(1)
    assert list(graded.run["weights"]["segmenters"]) == ["finder-v1"]
    ran_on = choose()
    assert graded.run["weights"]["segmenters_ran_on"] == {"runtime": ran_on.runtime, "precision": ran_on.precision}
    for file in graded.explanations["grader-v1"].values():
        heat = read(file)
        assert heat.max() > 0
        inside = tuple(slice(max(0, low), high) for low, high in zip(box.start_vox, box.stop_vox, strict=True))
        heat[inside] = 0
        assert not heat.any()
    assert not any("touches" in note for note in graded.run["notes"])


@pytest.mark.slow
@pytest.mark.keras
def test_a_found_tumour_that_is_cut_off_is_told(case, cards, tmp_path):
    """The field of view ends in the middle of it."""
    files, truth = case
    end = int(np.median(np.argwhere(truth)[:, 2]))
    for path in files.values():
        write_nifti(path, read(path)[..., :end])
    graded = digipath.grade(volumes=files, weights=str(cards), out=tmp_path / "out", explanations=False).volumes[0]
    assert "the tumour touches the volume's border (top): part of it may be missing" in graded.run["notes"]
