"""One grid for all modalities, the brain on it, the tumour on it; and a real case."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_volumes import SHAPE_VOX, SMALL, affine, ellipsoid, head, write_case, write_image

from digipath.errors import BadVolume
from digipath.volume import bias_field_corrected, open_volumes, standardised

# ---- one grid ----


def test_a_coarse_modality_is_brought_to_the_grid_of_t1c(tmp_path):
    """T2 at 1 × 1 × 4 mm, a linear ramp of millimetres: linear interpolation gives it back on 1 mm exactly."""
    files = write_case(tmp_path, ("t1c",))
    coarse = np.zeros((SHAPE_VOX[0], SHAPE_VOX[1], 4), np.float32)
    z_mm = 1.5 + 4 * np.arange(4)
    coarse[1:-1, 1:-1] = 50 + 10 * z_mm + np.arange(1, 23)[:, None, None]
    files["t2"] = write_image(tmp_path / "t2.nii", coarse, affine((1, 1, 4), (0, 0, 1.5)))
    brain = ellipsoid(reach=0.9).astype(np.uint8)
    brain[5, 8] = 1
    volume = open_volumes(files, brain=write_image(tmp_path / "brain.nii", brain))
    t2 = volume.voxels[..., 1]
    assert t2[5, 8, 7] == pytest.approx(50 + 10 * 7 + 5)
    assert t2[5, 8, 1:14].tolist() == pytest.approx([50 + 10 * max(z, 1.5) + 5 for z in range(1, 14)])
    assert t2[5, 8, 0] == pytest.approx(70)  # inside the outermost slice's thickness: that slice's value
    assert volume.notes == (
        "t2: 24 × 20 × 4 voxels of 1.00 × 1.00 × 4.00 mm resampled to the grid of t1c, "
        "24 × 20 × 16 voxels of 1.00 × 1.00 × 1.00 mm (linear)",
        f"brain mask of 3 ml{SMALL}",
        "t1c shows 70% of the brain that t2 shows, and is standardised over that alone: is it of one patient?",
    )


def test_beyond_its_own_grid_a_modality_is_zero(tmp_path):
    files = write_case(tmp_path, ("t1c",))
    files["t1"] = write_image(tmp_path / "t1.nii", head("t1")[:20], affine())
    volume = open_volumes(files)
    assert not volume.voxels[20:, ..., 0].any()
    np.testing.assert_array_equal(volume.voxels[:20, ..., 0], head("t1")[:20])


@pytest.mark.parametrize(
    ("modalities", "grid_of"), [(("t1", "t1c", "flair"), "t1c"), (("t1", "t2", "flair"), "flair"), (("t1", "t2"), "t1")]
)
def test_which_modality_gives_the_grid(tmp_path, modalities, grid_of):
    files = {
        name: write_image(tmp_path / f"{name}.nii", head(name), affine(origin_mm=(index * 0.25, 0, 0)))
        for index, name in enumerate(modalities)
    }
    volume = open_volumes(files)
    assert volume.modalities == modalities
    assert volume.affine_mm[0, 3] == 0.25 * modalities.index(grid_of)
    resampled = [note.split(":")[0] for note in volume.notes if "resampled to the grid" in note]
    assert resampled == [name for name in modalities if name != grid_of]


def test_a_thousandth_of_a_millimetre_is_the_same_grid(tmp_path):
    files = write_case(tmp_path, ("t1c",))
    for shift_mm, resampled in ((0.0009, False), (0.002, True)):
        files["t1"] = write_image(tmp_path / "t1.nii", head("t1"), affine(origin_mm=(shift_mm, 0, 0)))
        assert any("resampled" in note for note in open_volumes(files).notes) == resampled


@pytest.mark.parametrize("shift_mm", [14, 200])
def test_modalities_at_other_places_are_refused(tmp_path, shift_mm):
    files = write_case(tmp_path, ("t1c",))
    files["t2"] = write_image(tmp_path / "t2.nii", head("t2"), affine(origin_mm=(shift_mm, 0, 0)))
    with pytest.raises(BadVolume, match=r"t2 shows \d+% of the brain that t1c shows: different patients or grids"):
        open_volumes(files)


def test_a_modality_of_part_of_the_brain_is_told_and_of_less_than_half_refused(tmp_path):
    files = write_case(tmp_path, ("t1c", "flair"))
    brain = ellipsoid()
    part = head("t2")
    part[..., 10:] = 0
    files["t2"] = write_image(tmp_path / "t2.nii", part)
    share = brain[..., :10].sum() / brain.sum()
    assert 0.6 < share < 0.8
    assert open_volumes(files).notes[1:] == (
        f"t2 shows {share:.0%} of the brain that t1c shows, and is standardised over that alone: is it of one patient?",
    )
    part[..., 7:] = 0
    files["t2"] = write_image(tmp_path / "t2.nii", part)
    with pytest.raises(BadVolume, match="different patients or grids"):
        open_volumes(files)


@pytest.mark.parametrize("part", ["t1", "t1c", "flair"])
def test_it_does_not_matter_which_modality_shows_less(tmp_path, part):
    """Among them the one whose grid the others are brought to."""
    files = write_case(tmp_path, ("t1", "t1c", "flair"))
    values = head(part)
    values[..., 10:] = 0
    write_image(files[part], values)
    notes = [note for note in open_volumes(files).notes if "is it of one patient" in note]
    assert [note.split("%")[0] for note in notes] == [f"{part} shows 74"]
    values[..., 4:] = 0
    write_image(files[part], values)
    with pytest.raises(BadVolume, match=rf"{part} shows 8% of the brain that \w+ shows: different patients or grids"):
        open_volumes(files)


def test_heads_of_equal_size_at_other_places_are_told(tmp_path):
    """On one grid, so that nothing but their overlap tells: each shows part of the other."""
    files = write_case(tmp_path, ("t1c",))
    files["t1"] = write_image(tmp_path / "t1.nii", np.roll(head("t1"), 2, axis=0))
    shown = (ellipsoid() & np.roll(ellipsoid(), 2, axis=0)).sum() / ellipsoid().sum()
    assert 0.8 < shown < 0.9
    assert open_volumes(files).notes[-1].startswith(f"t1 shows {shown:.0%} of the brain that t1c shows, ")


def test_what_a_modality_does_not_show_stays_out_of_its_intensities(tmp_path):
    """T2 ends at two thirds of the head: the rest has mean 0 and deviation 1, and 0 lies beyond."""
    files = write_case(tmp_path, ("t1c",))
    part = head("t2")
    part[..., 10:] = 0
    files["t2"] = write_image(tmp_path / "t2.nii", part)
    volume = open_volumes(files)
    found = standardised(volume).voxels[..., 1]
    shown = found[..., :10][volume.brain[..., :10]].astype(np.float64)
    assert (shown.mean(), shown.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))
    assert not found[..., 10:].any()


def test_a_copied_modality_is_told(tmp_path):
    files = write_case(tmp_path, ("t1c",))
    files["t1"] = write_image(tmp_path / "t1.nii", head("t1c"))
    assert open_volumes(files).notes[0] == "t1 and t1c hold the same values: is one a copy of the other?"


# ---- the brain ----


def test_the_brain_is_what_any_modality_shows_without_specks_and_holes(tmp_path):
    t1c, t2 = head("t1c"), head("t2")
    t1c[11:13, 9:11, 7:9] = t2[11:13, 9:11, 7:9] = 0  # a hole in both
    t1c[6, 9, 8] = -3  # below 0 is not background
    t2[8, 9, 8] = 0  # a hole in one
    t1c[1, 1, 1] = 500  # a speck outside
    files = [write_image(tmp_path / "t1c.nii", t1c), write_image(tmp_path / "t2.nii", t2)]
    volume = open_volumes(files)
    np.testing.assert_array_equal(volume.brain, ellipsoid())
    assert volume.brain.sum() == 1744
    assert volume.voxels[1, 1, 1].tolist() == [0, 0]
    assert volume.voxels[6, 9, 8, 0] == -3


def test_a_given_brain_is_taken_and_what_lies_outside_becomes_zero(tmp_path):
    noise = np.random.default_rng(0).normal(100, 10, SHAPE_VOX).astype(np.float32)
    path = write_image(tmp_path / "t1c.nii", noise)
    mask = np.zeros(SHAPE_VOX, np.uint8)
    mask[4:16, 4:16, 4:12] = 1
    volume = open_volumes([path], brain=write_image(tmp_path / "brain.nii.gz", mask))
    np.testing.assert_array_equal(volume.brain, mask == 1)
    np.testing.assert_array_equal(volume.voxels[..., 0], noise * mask)
    coarse = write_image(tmp_path / "coarse.nii", mask[::2, ::2, ::2], affine((2, 2, 2), (0.5, 0.5, 0.5)))
    again = open_volumes([path], brain=coarse)
    np.testing.assert_array_equal(again.brain, mask == 1)
    assert again.notes[0].startswith("brain mask: 12 × 10 × 8 voxels")


def test_a_mask_of_the_whole_field_is_doubted(tmp_path):
    """Of noise throughout it may be the brain, which is asked; a background of 0 says that it is not."""
    noise = np.random.default_rng(0).normal(100, 10, SHAPE_VOX).astype(np.float32)
    field = write_image(tmp_path / "field.nii", np.ones(SHAPE_VOX, np.uint8))
    whole = open_volumes([write_image(tmp_path / "t1c.nii", noise)], brain=field)
    assert whole.brain.all()  # somebody said so
    assert whole.notes[-1] == "the brain mask covers 100% of the field of view: is it the brain's?"
    with pytest.raises(BadVolume, match=r"77% of it is 0 in every modality: .*field\.nii; is it of the field of view"):
        open_volumes(write_case(tmp_path / "case"), brain=field)


def test_how_much_of_a_given_brain_may_be_empty(tmp_path):
    """(0.8 / 0.86)³ of the second shows the head, 47 % of the last are 0."""
    files = write_case(tmp_path, ("t1", "t1c"))
    exact, wider, box = (
        write_image(tmp_path / f"{reach}.nii", ellipsoid(reach=reach).astype(np.uint8)) for reach in (0.8, 0.86, 0.99)
    )
    assert not any("0 in every modality" in note for note in open_volumes(files, brain=exact).notes)
    told = "20% of the brain mask is 0 in every modality: is it the brain's?"
    assert told in open_volumes(files, brain=wider).notes
    with pytest.raises(BadVolume, match="47% of it is 0 in every modality"):
        open_volumes(files, brain=box)


@pytest.mark.parametrize(
    ("spacing_mm", "words"),
    [(0.5, "got 0.22 ml in .*less than any brain has"), (12, "got 3014 ml in .*: more than any brain has")],
)
def test_masks_of_no_brains_size_are_refused(tmp_path, spacing_mm, words):
    at = affine((spacing_mm,) * 3)
    files = write_case(tmp_path, ("t1c",), affine_mm=at)
    with pytest.raises(BadVolume, match=words):
        open_volumes(files, brain=write_image(tmp_path / "brain.nii", ellipsoid().astype(np.uint8), at))


@pytest.mark.parametrize(("spacing_mm", "doubted"), [(3.8, True), (3.9, False)])
def test_a_brain_of_less_than_100_ml_is_doubted(tmp_path, spacing_mm, doubted):
    """1744 voxels: 96 and 103 ml."""
    at = affine((spacing_mm,) * 3)
    files = write_case(tmp_path, ("t1c",), affine_mm=at)
    mask = write_image(tmp_path / "brain.nii", ellipsoid().astype(np.uint8), at)
    assert open_volumes(files).notes[0].endswith(SMALL) == doubted
    assert open_volumes(files, brain=mask).notes == ((f"brain mask of 96 ml{SMALL}",) if doubted else ())


@pytest.mark.parametrize(
    ("values", "spacing", "words"),
    [
        (head() + 1, 1, r"skull-stripped volumes, 0 around the brain, or --brain FILE; 0% .* t1c are 0 in .*t1c\.nii"),
        (np.pad(head()[2:-2, 2:-2, 3:-3], ((2, 2), (2, 2), (0, 0)), constant_values=5), 1, "skull-stripped"),
        (head(), 12, "or --brain FILE, got 3014 ml that are not 0"),
        (np.pad(np.resize([1, 4], (6, 6, 6)), 8), 1, "got 0.22 ml that are not 0: less than any brain has"),
    ],
    ids=["no zeros", "no zeros on the sides", "as large as a head", "a label"],
)
def test_volumes_with_a_skull_are_refused(tmp_path, values, spacing, words):
    path = write_image(tmp_path / "t1c.nii", values.astype(np.float32), affine((spacing,) * 3))
    with pytest.raises(BadVolume, match=words):
        open_volumes([path])


MASKS = {
    "empty": (np.zeros(SHAPE_VOX, np.uint8), (0, 0, 0), "voxels above 0, got an empty one"),
    "fractions": (head() / 500, (0, 0, 0), "expected labels 0, 1, 2"),
    "negative": (-head(), (0, 0, 0), "expected labels 0, 1, 2"),
    "beside": (ellipsoid().astype(np.uint8), (300, 0, 0), "it lies beside it"),
    "4D": (np.zeros((*SHAPE_VOX, 2), np.uint8), (0, 0, 0), "got 2 "),
}


@pytest.mark.parametrize("what", ["brain", "tumour"])
@pytest.mark.parametrize(("values", "origin_mm", "words"), MASKS.values(), ids=MASKS)
def test_masks_that_are_none_are_refused(tmp_path, what, values, origin_mm, words):
    files = write_case(tmp_path, ("t1c",))
    mask = write_image(tmp_path / "mask.nii", values, affine(origin_mm=origin_mm))
    with pytest.raises(BadVolume, match=words) as caught:
        open_volumes(files, **{what: mask})
    assert str(mask) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_brain_where_nothing_is_seen_is_refused(tmp_path):
    mask = np.zeros(SHAPE_VOX, np.uint8)
    mask[:, :3] = ~ellipsoid()[:, :3]
    with pytest.raises(BadVolume, match="expected a mask of the brain, 100% of it is 0 in every modality"):
        open_volumes(write_case(tmp_path, ("t1c",)), brain=write_image(tmp_path / "brain.nii", mask))


# ---- the tumour ----


def with_tumour(folder, where, affine_mm=None):
    labels = np.zeros(SHAPE_VOX, np.uint8)
    labels[where] = np.resize([1, 2, 4], labels[where].shape)
    return open_volumes(write_case(folder, ("t1c",)), tumour=write_image(folder / "seg.nii.gz", labels, affine_mm))


def test_any_label_above_zero_is_tumour(tmp_path):
    volume = with_tumour(tmp_path, np.s_[8:11, 9:12, 6:9])
    assert volume.tumour.dtype == bool
    assert volume.tumour.sum() == 27
    assert np.argwhere(volume.tumour).min(axis=0).tolist() == [8, 9, 6]
    assert len(volume.notes) == 1  # that of the brain
    moved = with_tumour(tmp_path, np.s_[8:11, 9:12, 6:9], affine(origin_mm=(2, 0, -1)))
    assert np.argwhere(moved.tumour).min(axis=0).tolist() == [10, 9, 5]
    assert moved.notes[-1].startswith("tumour mask: 24 × 20 × 16 voxels")


def test_a_tumour_at_the_border_is_told(tmp_path):
    files = {"t1c": write_image(tmp_path / "t1c.nii", head()[:, :, 6:])}  # the head is cut off below
    labels = np.zeros((*SHAPE_VOX[:2], 10), np.uint8)
    labels[10:14, 8:12, 0:2] = 1
    volume = open_volumes(files, tumour=write_image(tmp_path / "seg.nii", labels))
    assert volume.notes[1:] == ("the tumour touches the volume's border (bottom): part of it may be missing",)
    labels[20:, 8:12, 9] = 1
    volume = open_volumes(files, tumour=write_image(tmp_path / "seg.nii", labels))
    assert volume.notes[1:] == (
        "33.3% of the tumour mask lies outside the brain",
        "the tumour touches the volume's border (right, bottom, top): part of it may be missing",
    )


def test_a_tumour_beside_the_brain_is_refused(tmp_path):
    with pytest.raises(BadVolume, match="expected a tumour inside the brain, it lies beside it"):
        with_tumour(tmp_path, np.s_[0:2, 0:2, 0:2])


def test_a_tumour_of_which_more_than_half_lies_beside_the_brain_is_refused(tmp_path):
    """Along x, in the middle, the brain ends with voxel 20."""
    half = with_tumour(tmp_path, np.s_[19:23, 9, 7])
    assert half.notes[-1] == "50.0% of the tumour mask lies outside the brain"
    with pytest.raises(BadVolume, match=r"inside the brain, 67% of it lies beside it: .*another patient's"):
        with_tumour(tmp_path, np.s_[20:23, 9, 7])


@pytest.mark.parametrize("what", ["brain", "tumour"])
def test_a_mask_between_the_voxels_is_told_from_one_beside_them(tmp_path, what):
    """2 × 2 × 2 voxels of 1 mm between the middles of voxels of 6 mm, and the same far away."""
    at = affine((6, 6, 6))
    files = write_case(tmp_path, ("t1c",), affine_mm=at)
    for origin_mm, words in (((62, 50, 44), "it falls between their voxels"), ((262, 50, 44), "it lies beside it")):
        mask = write_image(tmp_path / "mask.nii", np.pad(np.ones((2, 2, 2), np.uint8), 1), affine(origin_mm=origin_mm))
        with pytest.raises(BadVolume, match=words):
            open_volumes(files, **{what: mask})


# ---- a real case ----


@pytest.mark.real_data
@pytest.mark.slow
def test_a_real_case(shared_data):
    folder = shared_data / "mri_3d" / "TCGA-FG-6692"
    files = [folder / f"{name}.nii.gz" for name in ("flair", "t1", "t1c", "t2")]
    volume = open_volumes(files, tumour=folder / "seg.nii.gz")
    assert volume.modalities == ("t1", "t1c", "t2", "flair")
    assert volume.voxels.shape == (240, 240, 155, 4)
    np.testing.assert_array_equal(volume.affine_mm, affine(origin_mm=(-239, 0, 0)))  # the files are LPS
    assert volume.brain.sum() == 1_602_746  # ml of 1000 voxels
    assert volume.tumour.sum() == 30_179
    assert volume.notes == ("brain mask from voxels that are not 0, 1603 ml",)

    found = standardised(bias_field_corrected(volume))
    for channel in range(4):
        values = found.voxels[..., channel][volume.brain].astype(np.float64)
        assert values.mean() == pytest.approx(0, abs=1e-6)
        assert values.std() == pytest.approx(1, abs=1e-3)  # up to 0.11 % of the brain is not in a modality
    assert not found.voxels[~volume.brain].any()
