"""DICOM series to volumes: places in millimetres, slices in order, and series that are no volume."""

from __future__ import annotations

import locale
import struct

import numpy as np
import pytest
from made_up_volumes import SHAPE_VOX, SMALL, ellipsoid, head, write_image, write_series
from scipy.spatial.transform import Rotation

from digipath.errors import BadVolume
from digipath.training.volume_manifest import check_volume
from digipath.volume import open_volumes, volume_files

ROWS_AND_COLUMNS = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "oblique": tuple(Rotation.from_euler("xyz", [14, -8, 21], degrees=True).as_matrix().T[:2]),
}


@pytest.mark.parametrize("directions", ROWS_AND_COLUMNS.values(), ids=ROWS_AND_COLUMNS)
def test_a_marked_pixel_keeps_its_millimetre(tmp_path, directions):
    """Column 14, row 6, slice 9 of an LPS series, marked: at the same place in RAS."""
    along_row, along_column = np.array(directions, float)
    values = head()
    values[14, 6, 9] = 999
    write_series(
        tmp_path / "t1c", values, spacing_mm=(0.9, 1.1, 2.5), origin_mm=(-12.5, 30.25, -8.0),
        along_row=along_row, along_column=along_column,
    )  # fmt: skip
    normal = np.cross(along_row, along_column)
    left, back, top = np.array((-12.5, 30.25, -8.0)) + 14 * 0.9 * along_row + 6 * 1.1 * along_column + 9 * 2.5 * normal
    volume = open_volumes([tmp_path / "t1c"])
    found_vox = np.argwhere(volume.voxels[..., 0] == 999)
    assert len(found_vox) == 1
    np.testing.assert_allclose(volume.affine_mm @ [*found_vox[0], 1], [-left, -back, top, 1], atol=1e-4)
    assert sorted(volume.spacing_mm) == pytest.approx([0.9, 1.1, 2.5], abs=1e-5)


def test_an_axial_series_by_literal_numbers(tmp_path):
    """LPS axial: RAS indices run against columns and rows; the left, front, lowest voxel is where it was."""
    write_series(tmp_path / "t1c", head(), spacing_mm=(1, 1, 2), origin_mm=(-10, -20, 5))
    volume = open_volumes([tmp_path / "t1c"])
    np.testing.assert_array_equal(volume.voxels[..., 0], head()[::-1, ::-1])
    np.testing.assert_allclose(
        volume.affine_mm, [[1, 0, 0, 10 - 23], [0, 1, 0, 20 - 19], [0, 0, 2, 5], [0, 0, 0, 1]], atol=1e-6
    )
    assert volume.notes == (f"brain mask from voxels that are not 0, 3 ml{SMALL}",)


def test_nifti_and_dicom_of_one_place_share_the_grid(tmp_path):
    series = write_series(tmp_path / "t1c", head(), spacing_mm=(1, 1, 1))
    file = write_image(tmp_path / "t2.nii", head("t2")[::-1, ::-1], np.array(
        [[1, 0, 0, -(SHAPE_VOX[0] - 1)], [0, 1, 0, -(SHAPE_VOX[1] - 1)], [0, 0, 1, 0], [0, 0, 0, 1.0]]
    ))  # fmt: skip
    volume = open_volumes([series, file])
    np.testing.assert_array_equal(volume.voxels[..., 1] > 0, volume.voxels[..., 0] > 0)
    assert len(volume.notes) == 1  # nothing was resampled


def test_the_description_of_a_series_names_it_where_the_folder_does_not(tmp_path):
    write_series(tmp_path / "1", head("flair"), description="AX T2 FLAIR", series="1.2.1")
    write_series(tmp_path / "2", head("t1c"), description="AX T1 POST GD", series="1.2.2")
    write_series(tmp_path / "t2", head("t2"), description="AX T1", series="1.2.3")
    found = volume_files([tmp_path / "1", tmp_path / "2", tmp_path / "t2"])
    assert {name: path.name for name, path in found.items()} == {"t1c": "2", "t2": "t2", "flair": "1"}
    write_series(tmp_path / "3", head(), description="DTI")
    with pytest.raises(BadVolume, match="expected a name that states one modality"):
        volume_files([tmp_path / "3"])


def test_values_are_rescaled_as_the_header_says(tmp_path):
    """Slope 2, intercept −50: 0 is stored as 25, 2 n as n + 25."""
    slope = {"0028|1053": "2", "0028|1052": "-50"}
    folder = write_series(tmp_path / "t1c", head() * 2, change=lambda index, tags: tags.update(slope))
    assert (folder / "00_0.dcm").read_bytes().endswith((25).to_bytes(2, "little") * SHAPE_VOX[0] * SHAPE_VOX[1])
    np.testing.assert_array_equal(open_volumes([folder]).voxels[..., 0], 2 * head()[::-1, ::-1])


def test_slices_that_shift_evenly_sideways_are_a_sheared_volume(tmp_path):
    def shifted(index, tags):
        tags["0020|0032"] = rf"{0.4 * index}\0\{2 * index}"

    volume = open_volumes([write_series(tmp_path / "t1c", head(), change=shifted)])
    np.testing.assert_allclose(volume.affine_mm[:3, 2], [-0.4, 0, 2], atol=1e-6)


def no_image(sop_class):
    """A DICOM object that holds no pixels: its file header and its kind."""

    def element(group, number, kind, value):
        value += bytes(len(value) % 2)
        return struct.pack("<HH2sH", group, number, kind, len(value)) + value

    syntax = element(2, 16, b"UI", b"1.2.840.10008.1.2.1")
    header = element(2, 2, b"UI", sop_class) + element(2, 3, b"UI", b"1.2.3.9") + syntax
    length = element(2, 0, b"UL", len(header).to_bytes(4, "little"))
    return bytes(128) + b"DICM" + length + header + element(8, 0x16, b"UI", sop_class)


def test_reports_and_presentation_states_are_passed_over(tmp_path):
    folder = write_series(tmp_path / "t1c", head())
    (folder / "report.dcm").write_bytes(no_image(b"1.2.840.10008.5.1.4.1.1.88.11"))
    (folder / "state").write_bytes(no_image(b"1.2.840.10008.5.1.4.1.1.11.1"))
    assert open_volumes([folder]).shape_vox == SHAPE_VOX
    (folder / "image").write_bytes(no_image(b"1.2.840.10008.5.1.4.1.1.4"))
    with pytest.raises(BadVolume, match=r"expected a DICOM image, cannot read .*image; is it whole"):
        open_volumes([folder])


def test_other_files_in_the_folder_are_passed_over(tmp_path):
    folder = write_series(tmp_path / "t1c", head())
    (folder / "notes.txt").write_text("T1 with contrast")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (folder / "more").mkdir()
    assert open_volumes([folder]).shape_vox == SHAPE_VOX


def test_a_given_brain_may_be_a_series(tmp_path):
    folder = write_series(tmp_path / "t1c", head() + 5)
    mask = write_series(tmp_path / "brain", ellipsoid().astype(np.int16))
    assert open_volumes([folder], brain=mask).brain.sum() == 1744


# ---- series that are no volume ----


def left_out(*missing):
    return lambda index, tags: index not in missing


def tag(number, text, *, at=3):
    def change(index, tags):
        if index == at:
            tags[number] = text

    return change


BAD_SERIES = {
    "gap": (left_out(5), r"a gap of 4\.00 mm \(others 2\.00 mm\) after slice 5 of 15, 28_4\.dcm, at 8\.00 mm"),
    "uneven": (tag("0020|0032", r"0\0\6.03"), r"a gap of 2\.03 mm \(others 2\.00 mm\) after slice 3 of 16"),
    "twice": (tag("0020|0032", r"0\0\4"), r"(14_2|21_3)\.dcm at the place of slice 3 of 16"),
    "sideways": (tag("0020|0032", r"0.5\0\6"), "shifted sideways against slice 3"),
    "turned": (tag("0020|0037", r"0\1\0\-1\0\0"), r"slices of one orientation, 00_0\.dcm and 21_3\.dcm differ"),
    "another patient": (tag("0010|0020", "P2"), "slices of one patient"),
    "another series": (tag("0020|000e", "1.2.3.5"), r"one DICOM series, got 'AX T1' \(15 slices\), .*1 slices"),
    "one slice": (lambda index, tags: index == 8, "at least 2 slices, got one"),
    "no slice": (lambda index, tags: False, "found none directly in"),
}


@pytest.mark.parametrize(("change", "words"), BAD_SERIES.values(), ids=BAD_SERIES)
def test_series_that_are_no_volume_are_refused(tmp_path, change, words):
    folder = write_series(tmp_path / "t1c", head(), change=change)
    with pytest.raises(BadVolume, match=words) as caught:
        open_volumes([folder])
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"\x20\x00\x32\x00", b"\x20\x00\x33\x00", r"expected 3 numbers of Image Position, got '' in .*21_3\.dcm"),
        (b"\x20\x00\x37\x00", b"\x20\x00\x38\x00", r"expected 6 numbers of Image Orientation, got '' in .*21_3\.dcm"),
        (rb"1\0\0\0\1\0", rb"1\1\0\0\1\0", "two perpendicular unit vectors"),
        (rb"1\0\0\0\1\0", rb"1\0\0\0\x\0", "got '1.*x.*0' in"),
    ],
    ids=["no position", "no orientation", "skewed", "no numbers"],
)
def test_a_slice_without_geometry_is_refused(tmp_path, old, new, words):
    folder = write_series(tmp_path / "t1c", head())
    raw = (folder / "21_3.dcm").read_bytes()
    assert raw.count(old) == 1
    (folder / "21_3.dcm").write_bytes(raw.replace(old, new))
    with pytest.raises(BadVolume, match=words):
        open_volumes([folder])


@pytest.mark.parametrize("off_mm", [0.005, 0.0199])
def test_less_than_a_hundredth_of_the_distance_is_no_gap(tmp_path, off_mm):
    folder = write_series(tmp_path / "t1c", head(), change=tag("0020|0032", rf"0\0\{6 + off_mm}"))
    assert open_volumes([folder]).spacing_mm == pytest.approx((1, 1, 2), abs=1e-6)


def test_every_second_slice_left_out_is_told(tmp_path):
    folder = write_series(tmp_path / "t1c", head(), change=left_out(*range(0, 16, 2)))
    assert open_volumes([folder]).notes[0] == (
        "t1c: slices are 2 mm thick and 4 mm apart; is every second one missing?"
    )


def test_slices_of_another_size_are_refused(tmp_path):
    folder = write_series(tmp_path / "t1c", head()[..., :8])
    write_series(tmp_path / "other", head()[:-2, :, 8:9], origin_mm=(0, 0, 16))
    (tmp_path / "other" / "00_0.dcm").rename(folder / "99.dcm")
    with pytest.raises(BadVolume, match="expected slices of one size"):
        open_volumes([folder])


@pytest.mark.parametrize("left", [0.5, 0.99])
def test_a_broken_slice_is_named(tmp_path, left):
    folder = write_series(tmp_path / "t1c", head())
    raw = (folder / "21_3.dcm").read_bytes()
    (folder / "21_3.dcm").write_bytes(raw[: int(len(raw) * left)])
    with pytest.raises(BadVolume, match=r"cannot read .*21_3\.dcm; is it whole"):
        open_volumes([folder])


def test_modalities_of_different_patients_are_refused(tmp_path):
    folders = [
        write_series(tmp_path / name, head(name), patient=patient)
        for name, patient in (("t1", "P1"), ("t1c", "P1"), ("t2", "P2"))
    ]
    with pytest.raises(BadVolume, match="different patients by their Patient ID: t1 P1, t1c P1, t2 P2"):
        open_volumes(folders)
    assert open_volumes(folders[:2]).modalities == ("t1", "t1c")
    write_series(tmp_path / "t2", head("t2"), patient="")  # anonymous: nothing says otherwise
    assert open_volumes(folders).modalities == ("t1", "t1c", "t2")


def test_another_frame_of_reference_is_told(tmp_path):
    """Its millimetres are those of another session, unless somebody registered it and kept the header."""
    folders = [
        write_series(tmp_path / name, head(name), change=lambda index, tags, uid=uid: tags.update({"0020|0052": uid}))
        for name, uid in (("t1", "1.2.8"), ("t1c", "1.2.8"), ("flair", "1.2.9"))
    ]
    told = "flair: another frame of reference than t1's; are they registered to each other?"
    assert told in open_volumes(folders).notes
    assert not any("frame of reference" in note for note in open_volumes(folders[:2]).notes)


def test_colours_and_single_files_are_refused(tmp_path):
    import SimpleITK

    folder = write_series(tmp_path / "t1c", head())
    with pytest.raises(BadVolume, match="a folder of DICOM slices"):
        open_volumes({"t1c": folder / "21_3.dcm"})
    colours = SimpleITK.GetImageFromArray(np.zeros((20, 24, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(colours, str(folder / "21_3.dcm"))
    with pytest.raises(BadVolume, match=r"expected grey values, got colours in .*21_3\.dcm"):
        open_volumes([folder])


def test_the_locale_of_the_process_stays(tmp_path):
    """GDCM leaves the locale "C" behind, in which Python opens text files as ASCII."""
    write_series(tmp_path / "t1c", head())
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    open_volumes({"t1c": tmp_path / "t1c"})
    check_volume(tmp_path / "t1c")
    assert locale.setlocale(locale.LC_ALL) == "C.UTF-8"
    assert locale.getpreferredencoding(False).upper().replace("-", "") == "UTF8"
