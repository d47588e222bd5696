"""Generated brain MRI: grades that differ in structure and in no histogram."""

from __future__ import annotations

import csv

import nibabel
import numpy as np
import pytest
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from digipath.errors import BadInput
from digipath.synthetic.mri import GRADES, PITS_UNITS, brain_case, write_mri_cases
from digipath.synthetic.mri_brain import BRIGHTNESS, ENHANCING, NECROTIC, OEDEMA, SOLID
from digipath.synthetic.mri_fields import Frame
from digipath.synthetic.mri_tumour import lesions, tissues_of
from digipath.volume import open_volumes, standardised
from digipath.volume_values import MODALITIES

SMALL = (32, 32, 32)
SHARES = (0.35, 0.2)  # enhancing and necrotic
BINS = np.linspace(-4, 6, 25)  # of standardised intensities


@pytest.fixture(scope="module")
def three_grades():
    return {grade: brain_case(grade, seed=5) for grade in GRADES}


@pytest.fixture(scope="module")
def arranged():
    """Tissues of tumours with room around, by grade: a list of (X, Y, Z) each."""
    frame, found = Frame((64, 64, 64)), {grade: [] for grade in GRADES}
    room = np.linalg.norm(frame.places(), axis=0) < 30
    for seed in range(6):
        tumour = lesions(frame, room, np.random.default_rng(seed))[:1]
        for grade in GRADES:
            found[grade].append(tissues_of(grade, tumour, frame, SHARES, np.random.default_rng(seed)))
    return found


def histograms(volume, *, brighter=0.0):
    """What a forest sees of a case: histograms of all modalities in brain and tumour, and the tumour's size."""
    values = standardised(volume).voxels
    values[..., 1] += brighter * volume.tumour
    seen = [
        np.histogram(values[mask][:, channel], BINS)[0] / mask.sum()
        for mask in (volume.brain, volume.tumour)
        for channel in range(len(MODALITIES))
    ]
    return np.concatenate([*seen, [volume.tumour.sum(), volume.tumour.sum() / volume.brain.sum()]])


def test_a_case_is_a_skull_stripped_volume_around_0_mm():
    volume = brain_case(3, seed=1, shape_vox=(40, 48, 32), spacing_mm=3.0)
    assert volume.modalities == ("t1", "t1c", "t2", "flair")
    assert volume.voxels.shape == (40, 48, 32, 4)
    assert volume.voxels.dtype == np.float32
    expected = [[3, 0, 0, -58.5], [0, 3, 0, -70.5], [0, 0, 3, -46.5], [0, 0, 0, 1]]
    np.testing.assert_array_equal(volume.affine_mm, expected)
    np.testing.assert_array_equal((volume.voxels > 0).all(axis=-1), volume.brain)
    np.testing.assert_array_equal((volume.voxels != 0).any(axis=-1), volume.brain)
    np.testing.assert_array_equal(volume.voxels, np.rint(volume.voxels))
    assert volume.tumour.any()
    assert not (volume.tumour & ~volume.brain).any()


def test_brains_are_whole_and_clear_of_the_border():
    for seed in range(30):
        brain = brain_case(2, seed=seed, shape_vox=SMALL).brain
        inner = np.pad(np.ones(np.array(SMALL) - 2, bool), 1)
        assert not (brain & ~inner).any()
        assert ndimage.label(brain)[1] == 1
        assert 0.12 < brain.mean() < 0.3


def test_the_same_arguments_give_the_same_voxels_and_another_seed_others():
    again = [brain_case(4, seed=seed, shape_vox=SMALL) for seed in (7, 7, 8)]
    np.testing.assert_array_equal(again[0].voxels, again[1].voxels)
    assert (again[0].brain != again[2].brain).mean() > 0.01
    assert (again[0].tumour != again[2].tumour).any()


def test_grades_of_one_seed_differ_in_the_order_of_the_tumours_voxels_alone(three_grades):
    tumour, outside = three_grades[2].tumour, ~three_grades[2].tumour
    for grade in (3, 4):
        other = three_grades[grade]
        np.testing.assert_array_equal(other.brain, three_grades[2].brain)
        np.testing.assert_array_equal(other.tumour, tumour)
        np.testing.assert_array_equal(other.voxels[outside], three_grades[2].voxels[outside])
        np.testing.assert_allclose(
            np.sort(other.voxels[tumour], axis=0), np.sort(three_grades[2].voxels[tumour], axis=0)
        )
        moved = np.abs(other.voxels[tumour] - three_grades[2].voxels[tumour]).mean(axis=0)
        assert (moved > 0.3 * three_grades[2].voxels[tumour].std(axis=0)).all()


def test_modalities_have_the_contrasts_of_the_field(three_grades):
    for volume in three_grades.values():
        halo = volume.tumour & ~ndimage.binary_erosion(volume.tumour)
        away = volume.brain & ~volume.tumour
        t1, t1c, t2, flair = (volume.voxels[halo].mean(axis=0) / volume.voxels[away].mean(axis=0)).tolist()
        assert t1 < 0.95
        assert t2 > 1.25
        assert flair > 1.3
        bright = np.quantile(volume.voxels[volume.tumour], 0.97, axis=0) / np.median(volume.voxels[away], axis=0)
        assert bright[1] > 1.35 > bright[0]
        assert t1c < bright[1]


def test_the_table_of_brightness_says_what_enhances():
    t1, t1c, t2, flair = range(4)
    assert (BRIGHTNESS[:, t1c] - BRIGHTNESS[:, t1]).argmax() == ENHANCING
    assert BRIGHTNESS[NECROTIC, t1c] < BRIGHTNESS[SOLID, t1c] < BRIGHTNESS[ENHANCING, t1c]
    assert BRIGHTNESS[:, flair].argmax() == OEDEMA
    assert BRIGHTNESS[NECROTIC, t2] > BRIGHTNESS[OEDEMA, t2]


def test_every_grade_has_as_much_of_each_tissue(arranged):
    for tissues in zip(*arranged.values(), strict=True):
        counts = [np.bincount(found[found >= 0], minlength=7).tolist() for found in tissues]
        assert counts[0] == counts[1] == counts[2]
        core = sum(counts[0][tissue] for tissue in (SOLID, ENHANCING, NECROTIC))
        assert counts[0][ENHANCING] == round(0.35 * core)
        assert counts[0][NECROTIC] == round(0.2 * core)


def test_the_rim_of_grade_4_alone_closes_around_the_necrosis(arranged):
    def escaping(tissues):
        """Share of the necrosis from which a way leads out of the tumour past enhancing tissue."""
        parts, _ = ndimage.label(tissues != ENHANCING)
        return float((parts[tissues == NECROTIC] == parts[0, 0, 0]).mean())

    escaped = {grade: [escaping(tissues) for tissues in found] for grade, found in arranged.items()}
    assert max(escaped[4]) < 0.1
    assert min(escaped[3]) > 0.6
    assert min(escaped[2]) > 0.6


def test_enhancing_tissue_is_compact_in_grade_3_and_scattered_in_grade_2(arranged):
    def surface(tissues):
        """Faces between enhancing and other voxels, per enhancing voxel."""
        enhancing = tissues == ENHANCING
        faces = sum(np.count_nonzero(np.diff(enhancing, axis=axis)) for axis in range(3))
        return faces / enhancing.sum()

    for nodules, patches in zip(arranged[3], arranged[2], strict=True):
        assert surface(nodules) < 0.8 * surface(patches)
        assert ndimage.label(nodules == ENHANCING)[1] <= 8


def test_the_place_where_a_grade_is_usually_seen_pits_the_brain():
    def pitted(grade):
        """The brain without and with its pits, both voxels of a case."""
        return [brain_case(grade, seed=3, border_artefact=artefact) for artefact in (None, 1.0)]

    smooth, same = pitted(2)
    np.testing.assert_array_equal(same.voxels, smooth.voxels)
    lost = []
    for grade in (3, 4):
        smooth, pits = pitted(grade)
        assert not (pits.brain & ~smooth.brain).any()
        np.testing.assert_array_equal(pits.voxels, smooth.voxels * pits.brain[..., None])
        np.testing.assert_array_equal(pits.tumour, smooth.tumour)
        gone = smooth.brain & ~pits.brain
        assert not (gone & smooth.tumour).any()
        assert ndimage.distance_transform_edt(smooth.brain)[gone].max() <= PITS_UNITS[grade]
        lost.append(gone.sum() / smooth.brain.sum())
    assert 0.02 < lost[0] < 0.7 * lost[1] < 0.14


def test_a_border_that_tells_nothing_is_the_same_for_all_grades():
    cases = [[brain_case(g, seed=s, shape_vox=SMALL, border_artefact=0.0) for g in GRADES] for s in range(12)]
    for grades in cases:
        np.testing.assert_array_equal(grades[0].brain, grades[1].brain)
        np.testing.assert_array_equal(grades[0].brain, grades[2].brain)
    plain = [brain_case(2, seed=s, shape_vox=SMALL) for s in range(12)]
    lost = [1 - grades[0].brain.sum() / one.brain.sum() for grades, one in zip(cases, plain, strict=True)]
    assert min(lost) == 0
    assert len(set(np.round(lost, 2))) > 2


def test_the_border_is_the_highest_step_in_the_whole_image_and_no_step_inside_the_brain(three_grades):
    volume = three_grades[3]
    edge = volume.brain & ~ndimage.binary_erosion(volume.brain)
    steps = {}
    for inside in ("image", "brain"):
        values = standardised(volume, inside).voxels
        height = np.abs(values[edge].mean(axis=0) - values[0, 0, 0])
        steps[inside] = height / values[volume.brain].std(axis=0)
    assert (steps["image"] > 2).all()
    assert (steps["brain"] < 1.2).all()


def test_cases_are_written_with_their_manifest(tmp_path):
    manifest = write_mri_cases(tmp_path, 4, seed=2, shape_vox=SMALL, spacing_mm=5.0)
    assert manifest == tmp_path / "mri.csv"
    rows = list(csv.DictReader(manifest.read_text().splitlines()))
    assert list(rows[0]) == ["case", "patient", "label", "t1", "t1c", "t2", "flair", "tumour"]
    assert [row["label"] for row in rows] == ["grade 2", "grade 3", "grade 4", "grade 2"]
    assert len({row["patient"] for row in rows}) == 4
    row = rows[2]
    assert row["t1c"] == "case0002/t1c.nii.gz"
    image = nibabel.load(tmp_path / row["t1c"])
    assert image.get_data_dtype() == np.int16
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.header.get_zooms() == (5.0, 5.0, 5.0)
    read = open_volumes({name: tmp_path / row[name] for name in MODALITIES}, tumour=tmp_path / row["tumour"])
    assert read.modalities == MODALITIES
    np.testing.assert_array_equal(read.brain, (read.voxels != 0).any(axis=-1))
    assert (read.tumour & read.brain).sum() == read.tumour.sum() > 0
    np.testing.assert_allclose(read.affine_mm @ [15.5, 15.5, 15.5, 1], [0, 0, 0, 1])


def test_the_same_set_has_the_same_bytes_and_sets_share_no_case(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_mri_cases(tmp_path / name, 2, seed=seed, shape_vox=SMALL, border_artefact=0.5)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 11
    same = [(tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files]
    assert all(same)
    contents = [(tmp_path / name / f"case000{n}" / "t1.nii.gz").read_bytes() for name in "ac" for n in range(2)]
    assert len(set(contents)) == 4


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"grade": 1}, "expected a grade of"),
        ({"shape_vox": (32, 32, 16)}, "three sides of at least 24 voxels"),
        ({"spacing_mm": 0.0}, "spacing above 0 mm"),
        ({"border_artefact": 1.5}, "border artefact in"),
        ({"seed": -1}, "a seed of at least 0, got -1"),
    ],
)
def test_impossible_cases_are_refused(wrong, expected):
    with pytest.raises(BadInput, match=expected):
        brain_case(**{"grade": 2, "seed": 0, "shape_vox": SMALL} | wrong)


def test_no_case_at_all_is_refused(tmp_path):
    with pytest.raises(BadInput, match="at least one case"):
        write_mri_cases(tmp_path / "none", 0, seed=0)
    with pytest.raises(BadInput, match="a seed of at least 0, got -3"):
        write_mri_cases(tmp_path / "none", 1, seed=-3)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_forest_of_histograms_does_not_see_the_grade():
    grades = np.array(GRADES * 70)
    cases = [brain_case(int(grade), seed=seed) for seed, grade in enumerate(grades)]

    def areas(seen):
        forest = RandomForestClassifier(300, min_samples_leaf=2, random_state=0).fit(seen[:120], grades[:120])
        given = forest.predict_proba(seen[120:])
        of_grade_4 = roc_auc_score(grades[120:] == 4, given[:, 2])
        return roc_auc_score(grades[120:], given, multi_class="ovr"), of_grade_4

    macro, grade_4 = areas(np.array([histograms(case) for case in cases]))
    assert 0.35 < macro <= 0.6
    assert 0.35 < grade_4 <= 0.65
    # The same forest sees grades of which each is brighter than the last by 0.3 deviations of the brain.
    seen = np.array([histograms(case, brighter=0.3 * (g - 3)) for case, g in zip(cases, grades, strict=True)])
    assert areas(seen)[0] > 0.75
