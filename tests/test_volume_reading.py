"""NIfTI files of one patient to one volume: names, places in millimetres, one grid, brain, tumour, and bad files."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
from made_up_volumes import SHAPE_VOX, SMALL, affine, head, write_case, write_image
from scipy.spatial.transform import Rotation

from digipath.errors import BadInput, BadVolume, NotFound, OutputUnwritable
from digipath.volume import open_volumes, recognised_modality, volume_files, write_nifti

# ---- which file is which ----


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("t1.nii.gz", "t1"), ("BraTS19_TCIA01_t1.nii.gz", "t1"), ("sub-01_T1w.nii.gz", "t1"), ("x-t1n.nii", "t1"),
        ("T1_pre.nii.gz", "t1"), ("ax t1 pre contrast", "t1"), ("T1 w-o contrast", "t1"),
        ("post-op_t1.nii", "t1"),
        ("BraTS19_TCIA01_t1ce.nii.gz", "t1c"), ("BraTS-GLI-00000-000-t1c.nii.gz", "t1c"), ("T1Gd.NII.GZ", "t1c"),
        ("T1post.nii", "t1c"), ("AX_T1_POST_GD", "t1c"), ("t1+c.nii", "t1c"), ("sub-01_ce-gadolinium_T1w.nii", "t1c"),
        ("T1 TSE +C", "t1c"), ("T1 C+", "t1c"), ("t1-c.nii", "t1c"), ("T1_post_3.nii", "t1c"), ("T1 post 3d", "t1c"),
        ("AX T1 C-", "t1"), ("T1 -C", "t1"), ("T1_Gd-.nii", "t1"), ("patient_c_t1.nii", "t1"),
        ("T1 without IV contrast", "t1"), ("T1 no iv contrast", "t1"), ("T1 minus contrast", "t1"),
        ("t1_mprage_gad_minus.nii", "t1"), ("T1 contrast free", "t1"), ("T1_post_resection", "t1"),
        ("T1 post biopsy", "t1"), ("T1 post-pre subtraction", None), ("t1_pre_post.nii", None),
        ("T1 gd pre-op", "t1c"), ("T1 post 6 months", None), ("T1 gd without fatsat", None),
        ("T1 w/o and w contrast", None),
        ("ADC T2", None), ("t1_roi.nii", None), ("t1_tumor.nii", None), ("t2_lesion.nii", None),
        ("t2.nii.gz", "t2"), ("BraTS-GLI-00000-000-t2w.nii.gz", "t2"), ("t2_post.nii.gz", "t2"),
        ("flair.nii.gz", "flair"), ("x_T2_FLAIR.nii.gz", "flair"), ("t2f.nii", "flair"), ("T2-Flair post", "flair"),
        ("seg.nii.gz", None), ("t1_seg.nii.gz", None), ("t2_star.nii", None), ("t1_to_t2.nii", None),
        ("T1 FLAIR", None), ("tt1.nii", None), ("scan12.nii", None),
    ],
)  # fmt: skip
def test_names_of_the_field_state_their_modality(name, modality):
    assert recognised_modality(f"t2/{name}") == modality  # a folder above says nothing


def test_files_come_in_one_order_whatever_the_order_given(tmp_path):
    files = write_case(tmp_path, ("t1", "t1c", "flair"), prefix="TCGA-01_")
    assert list(volume_files(list(files.values())[::-1]).items()) == list(files.items())
    assert volume_files({"flair": files["t1"]}) == {"flair": files["t1"]}  # an option is not doubted
    assert volume_files(files["t1c"]) == {"t1c": files["t1c"]}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a_t1.nii", "a_t1w.nii"], "one file for t1, got"),
        (["t1.nii", "scan.nii"], r"scan.nii; name each by option \(--t1, --t1c, --t2, --flair\)"),
        ([], "at least one of t1, t1c, t2, flair, got none"),
        ({"t1": "t1.nii", "pd": "t2.nii"}, "got pd"),
        ({"t1": "t1.nii", "t1c": "t1.nii"}, "for both t1 and t1c"),
        (["TCGA-01_t1.nii", "TCGA-02_t2.nii"], "different patients by name: t1 TCGA-01_t1.nii and t2 TCGA-02_t2.nii"),
        (["TCGA-01_t1.nii", "TCGA-02_t2.nii"], "name each by option .* if they are of one"),
        (["smith_t1.nii", "smith_flair.nii", "jones_t2.nii"], "different patients by name"),
        (["TCGA-01_t1.nii", "TCGA_t1c.nii", "TCGA-02_t2.nii"], "different patients by name"),
        (["sub-01_T1w.nii", "sub-02_T2w.nii"], "different patients by name"),
    ],
)
def test_names_that_are_no_set_of_modalities_are_refused(tmp_path, monkeypatch, names, words):
    monkeypatch.chdir(tmp_path)
    for name in names.values() if isinstance(names, dict) else names:
        (tmp_path / name).touch()
    with pytest.raises(BadVolume, match=words):
        volume_files(names)


@pytest.mark.parametrize(
    "names",
    [
        ["sub-01_acq-3d_T1w.nii", "sub-01_acq-tse_T2w.nii", "sub-01_ce-gadolinium_T1w.nii"],
        ["Ax_T1.nii", "Sag_FLAIR.nii"], ["TCGA-01_pre_t1.nii", "TCGA-01_t2.nii"], ["t1.nii", "TCGA-01_t2.nii"],
        ["5_t1.nii", "7_t2.nii"], ["mprage_t1.nii", "tse_t2.nii"], ["coreg_t1.nii", "native_t1c.nii"],
    ],
)  # fmt: skip
def test_words_of_the_acquisition_name_no_other_patient(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    assert len(volume_files([tmp_path / name for name in names])) == len(names)


def test_named_by_option_other_patients_by_name_are_told(tmp_path):
    """Series numbers or patients: who names the files knows better, and the reader of the result is asked."""
    files = write_case(tmp_path, ("t1", "t2"))
    named = {name: path.rename(tmp_path / f"00{i}_{path.name}") for i, (name, path) in enumerate(files.items(), 3)}
    told = "names begin differently, t1 003_t1.nii.gz and t2 004_t2.nii.gz: are they of one patient?"
    assert told in open_volumes(named).notes
    with pytest.raises(BadVolume, match="different patients by name: t1 003_t1"):
        open_volumes(list(named.values()))


def test_files_of_different_folders_are_told_unless_names_or_folders_say_why(tmp_path):
    def notes(*places):
        files = {}
        for place in places:
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            name = (tmp_path / place).name.removesuffix(".nii").split("_")[-1]
            files[name] = write_image(tmp_path / place, head(name))
        return [note for note in open_volumes(files).notes if "folders" in note]

    assert notes("p1/t1.nii", "p2/t2.nii") == ["files lie in different folders, p1, p2: are they of one patient?"]
    assert notes("p1/t1/t1.nii", "p1/FLAIR/flair.nii") == []
    assert notes("p1/t1.nii", "p1/t2.nii") == []
    assert notes("a/TCGA-01_t1.nii", "b/TCGA-01_t2.nii") == []


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NotFound, match=r"nothing at .*t1\.nii"):
        volume_files([tmp_path / "t1.nii"])
    files = write_case(tmp_path, ("t1",))
    with pytest.raises(NotFound, match=r"expected a mask, found nothing at .*brain\.nii"):
        open_volumes(files, brain=tmp_path / "brain.nii")


# ---- millimetres ----

OBLIQUE = Rotation.from_euler("xyz", [12, -9, 17], degrees=True).as_matrix()
TURNS = {
    "RAS": np.eye(3),
    "LPS": np.diag([-1, -1, 1]),
    "ASR": np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]),  # the file's axes run to the front, top and right
    "PIL, oblique": OBLIQUE @ np.array([[0, 0, -1], [-1, 0, 0], [0, -1, 0]]),
}


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_a_marked_voxel_keeps_its_millimetre(tmp_path, turn):
    affine_mm = np.eye(4)
    affine_mm[:3, :3] = turn * (1.0, 1.5, 2.0)
    affine_mm[:3, 3] = (-31.5, 20.25, 7.0)
    values = head()
    marked_vox = (14, 6, 9)
    values[marked_vox] = 999
    path = write_image(tmp_path / "t1c.nii.gz", values, affine_mm)
    place_mm = affine_mm[:3, :3] @ marked_vox + affine_mm[:3, 3]

    volume = open_volumes([path])
    found_vox = np.argwhere(volume.voxels[..., 0] == 999)
    assert len(found_vox) == 1
    np.testing.assert_allclose(volume.affine_mm @ [*found_vox[0], 1], [*place_mm, 1], atol=1e-5)
    assert nibabel.aff2axcodes(volume.affine_mm) == ("R", "A", "S")
    assert sorted(volume.spacing_mm) == pytest.approx([1.0, 1.5, 2.0])

    write_nifti(tmp_path / "out_t1c.nii.gz", volume.voxels[..., 0], volume.affine_mm)
    again = open_volumes([tmp_path / "out_t1c.nii.gz"])
    np.testing.assert_array_equal(again.voxels, volume.voxels)
    np.testing.assert_allclose(again.affine_mm, volume.affine_mm, atol=1e-5)


def test_two_orders_of_one_image_are_one_volume(tmp_path):
    """T2 stored LPS beside T1c stored RAS: the same places, so nothing is resampled."""
    files = write_case(tmp_path, ("t1c",))
    lps = affine((-1, -1, 1), (SHAPE_VOX[0] - 1, SHAPE_VOX[1] - 1, 0))
    files["t2"] = write_image(tmp_path / "t2.nii", head("t2")[::-1, ::-1], lps)
    volume = open_volumes(files)
    np.testing.assert_array_equal(volume.voxels[..., 1], head("t2"))
    assert volume.notes == (f"brain mask from voxels that are not 0, 2 ml{SMALL}",)


def test_other_units_and_slopes_of_the_header(tmp_path):
    image = nibabel.Nifti1Image((head() * 2).astype(np.int16), affine((0.001, 0.001, 0.002)))
    image.header.set_xyzt_units("meter")
    image.header.set_slope_inter(0.5, 0)
    image.to_filename(tmp_path / "t1c.nii")
    volume = open_volumes(tmp_path / "t1c.nii")
    assert volume.spacing_mm == pytest.approx((1, 1, 2))
    np.testing.assert_allclose(volume.voxels[..., 0], head() * 0.5 * 2)


def test_nifti_2_and_a_trailing_axis_of_one(tmp_path):
    nibabel.Nifti2Image(head()[..., None, None], np.eye(4)).to_filename(tmp_path / "t1c.nii.gz")
    assert open_volumes(tmp_path / "t1c.nii.gz").shape_vox == SHAPE_VOX


def test_no_affine_is_told(tmp_path):
    path = write_image(tmp_path / "t1c.nii", head(), codes=(0, 0))
    assert open_volumes(path).notes[0] == (
        "t1c.nii: the header states no position; right and left may be exchanged"
    )


# ---- writing ----


def test_the_same_values_give_the_same_bytes_with_both_forms(tmp_path):
    values = np.zeros((4, 5, 6), bool)
    values[1, 2, 3] = True
    write_nifti(tmp_path / "a.nii.gz", values, affine((1, 2, 3), (4, 5, 6)))
    write_nifti(tmp_path / "b.nii.gz", values, affine((1, 2, 3), (4, 5, 6)))
    raw = (tmp_path / "a.nii.gz").read_bytes()
    assert raw == (tmp_path / "b.nii.gz").read_bytes()
    assert raw[4:8] == bytes(4)  # gzip's time
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert (image.get_data_dtype(), image.header.get_xyzt_units()[0]) == (np.uint8, "mm")
    for form, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        assert code == 1
        np.testing.assert_allclose(form, affine((1, 2, 3), (4, 5, 6)), atol=1e-6)
    np.testing.assert_array_equal(np.asarray(image.dataobj), values.astype(np.uint8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz"]


def test_sheared_axes_are_read_and_come_back_where_they_were(tmp_path):
    """A qform has no shear: it is left out, so that readers that prefer it look at the sform."""
    sheared = affine((1, 1, 2), (-9, 4, 3))
    sheared[0, 2] = 0.6
    volume = open_volumes(write_image(tmp_path / "t1c.nii", head(), sheared, codes=(1, 0)))
    np.testing.assert_allclose(volume.affine_mm, sheared, atol=1e-6)
    write_nifti(tmp_path / "out.nii.gz", volume.voxels[..., 0], volume.affine_mm)
    image = nibabel.load(tmp_path / "out.nii.gz")
    assert image.get_qform(coded=True)[1] == 0
    np.testing.assert_allclose(image.get_sform(coded=True)[0], sheared, atol=1e-6)
    np.testing.assert_allclose(open_volumes({"t1c": tmp_path / "out.nii.gz"}).affine_mm, sheared, atol=1e-6)


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"ends in .nii.gz, got a.nii"):
        write_nifti(tmp_path / "a.nii", head(), np.eye(4))
    with pytest.raises(BadInput, match=r"float32, uint8 or bool for a\.nii\.gz, got float64"):
        write_nifti(tmp_path / "a.nii.gz", head().astype(np.float64), np.eye(4))
    with pytest.raises(OutputUnwritable):
        write_nifti(tmp_path / "nowhere" / "a.nii.gz", head(), np.eye(4))


# ---- files that are no volume ----


def spoilt(value):
    values = head()
    values[8, 9, 7:10] = value
    return values


BAD_IMAGES = {
    "4D": (np.stack([head()] * 3, axis=-1), r"expected one volume \(X, Y, Z\), got 3 .*t1c.nii.gz; split it"),
    "2D": (head()[..., 0], r"got an image \(24, 20\)"),
    "one slice": (head()[..., :1], "at least 2 voxels along each axis"),
    "NaN": (spoilt(np.nan), "got 3 of 7680 NaN or infinite in .*t1c.nii.gz"),
    "infinite": (spoilt(np.inf), "got 3 of 7680"),
    "beyond float32": (spoilt(1).astype(np.float64) * 1e38, r"got \d+ of 7680"),
    "complex": (head().astype(np.complex64), "got complex64 numbers"),
    "colours": (np.zeros(SHAPE_VOX, [("R", "u1"), ("G", "u1"), ("B", "u1")]), "got colours"),
    "constant": (np.full(SHAPE_VOX, 7, np.float32), "got 7 in every voxel"),
    "zero": (np.zeros(SHAPE_VOX, np.float32), "got 0 in every voxel"),
}


@pytest.mark.parametrize(("values", "words"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_images_that_are_no_volume_are_refused(tmp_path, values, words):
    path = write_image(tmp_path / "t1c.nii.gz", values)
    with pytest.raises(BadVolume, match=words):
        open_volumes([path])


@pytest.mark.parametrize(
    ("third_axis", "words"), [((0, 0, 0), "three axes"), ((np.nan, 0, 1), "three axes"), ((1, 1, 0), "the flat")]
)
def test_an_affine_without_three_axes_is_refused(tmp_path, third_axis, words):
    path = write_image(tmp_path / "t1c.nii", head())
    raw = bytearray(path.read_bytes())
    sform = np.eye(4, dtype=np.float32)[:3]
    sform[:, 2] = third_axis
    raw[280:328] = sform.tobytes()  # where NIfTI-1 keeps it
    path.write_bytes(bytes(raw))
    with pytest.raises(BadVolume, match=words):
        open_volumes([path])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_broken_files_are_refused(tmp_path, suffix):
    path = write_image(tmp_path / f"t1c{suffix}", head())
    whole = path.read_bytes()
    turned = bytearray(whole)
    turned[-6] ^= 1  # of gzip's checksum, or a voxel, which nobody can tell
    for bytes_left in (whole[: len(whole) // 2], whole[:100], b"", b"no image", gzip.compress(b"no image")):
        path.write_bytes(bytes_left)
        with pytest.raises(BadVolume, match="expected a whole NIfTI file"):
            open_volumes([path])
    if suffix == ".nii.gz":
        path.write_bytes(bytes(turned))
        with pytest.raises(BadVolume, match="CRC"):
            open_volumes([path])
