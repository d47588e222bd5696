"""Pictures of volumes put everything where it is, and pages on them tell all, escaped."""

from __future__ import annotations

import re

import numpy as np
import pytest
from made_up_graders import volume_card
from PIL import Image

from digipath.report import (
    FusionInput,
    Scene,
    Shown,
    VerdictInput,
    VolumeGradeInput,
    VolumePictures,
    VoteInput,
    centre_of,
    fusion_page,
    stacked,
    three_planes,
    titled,
    volume_page,
)
from digipath.report.volume_figures import ENDS, FRAME, OUTLINE, plane
from digipath.volume_values import Box, Volume

SHAPE, SPACING = (8, 10, 8), (2.0, 1.0, 2.0)  # 16 × 10 × 16 mm, so that a millimetre is 20 px: voxels of 40, 20, 40 px
PANELS = {  # left, top, width, height; columns and rows: axis and px of a voxel
    "axial": ((0, 80, 320, 200), (0, 40), (1, 20)),
    "coronal": ((326, 20, 320, 320), (0, 40), (2, 40)),
    "sagittal": ((652, 20, 200, 320), (1, 20), (2, 40)),
}
TEXT = "<script>alert(1)</script>"


def made(values=None, *, shape=SHAPE, spacing=SPACING, brain=None) -> Volume:
    """One modality on a grid of that spacing; the brain fills the volume."""
    voxels = np.ones(shape, np.float32) if values is None else np.asarray(values, np.float32)
    brain = np.ones(shape, bool) if brain is None else brain
    return Volume(("t1c",), voxels[..., None], np.diag([*spacing, 1.0]), brain)


def panels(picture: Image.Image) -> dict[str, np.ndarray]:
    """(rows, columns, 3) of each plane, without its caption."""
    pixels = np.asarray(picture).astype(int)
    return {name: pixels[top : top + h, left : left + w] for name, ((left, top, w, h), *_) in PANELS.items()}


def delta(at, shape=SHAPE) -> np.ndarray:
    heat = np.zeros(shape, np.float32)
    heat[at] = 1
    return heat


def yellow(pixels: np.ndarray) -> np.ndarray:
    """Where the strongest colour of the map is; ticks and grey have as much blue as red."""
    return pixels[..., 0] - pixels[..., 2] > 60


def middle(mask: np.ndarray) -> list[float]:
    """Column and row of the middle of what is marked, in pixels from the left and the top."""
    rows, columns = np.nonzero(mask)
    return [columns.mean() + 0.5, rows.mean() + 0.5]


def extent(mask: np.ndarray) -> list[int]:
    """First and last column, first and last row."""
    rows, columns = np.nonzero(mask)
    return [columns.min(), columns.max(), rows.min(), rows.max()]


def test_the_planes_stand_side_by_side_at_one_scale():
    assert three_planes(made(), "t1c", Scene((0, 0, 0))).size == (852, 340)


@pytest.mark.parametrize("at", [(1, 2, 6), (7, 9, 0), (0, 0, 7), (4, 5, 3)])
def test_a_marked_voxel_lies_at_its_place_in_each_plane(at):
    """The patient's right is on the left, the front at the top or on the left, the top at the top."""
    found = panels(three_planes(made(), "t1c", Scene(at, heat=delta(at))))
    for name, (_, (across, wide), (down, high)) in PANELS.items():
        expected = [(SHAPE[across] - at[across] - 0.5) * wide, (SHAPE[down] - at[down] - 0.5) * high]
        np.testing.assert_allclose(middle(yellow(found[name])), expected, atol=3)


@pytest.mark.parametrize(("axis", "name"), [(0, "sagittal"), (1, "coronal"), (2, "axial")])
def test_a_plane_shows_what_lies_in_it_alone(axis, name):
    at, marked = (3, 4, 5), [3, 4, 5]
    marked[axis] += 1
    found = panels(three_planes(made(), "t1c", Scene(at, heat=delta(tuple(marked)))))
    assert {plane for plane, pixels in found.items() if yellow(pixels).any()} == {*PANELS} - {name}


@pytest.mark.parametrize(
    ("axis", "brighter"),
    [
        (0, {"axial": "left", "coronal": "left"}),  # the patient's right
        (1, {"axial": "top", "sagittal": "left"}),  # the front
        (2, {"coronal": "top", "sagittal": "top"}),
    ],
)
def test_orientation(axis, brighter):
    rising = np.broadcast_to(np.arange(SHAPE[axis]).reshape([-1 if i == axis else 1 for i in range(3)]), SHAPE)
    for name, pixels in panels(three_planes(made(rising), "t1c", Scene((4, 5, 4)))).items():
        grey = pixels[10:-10, 10:-10, 0].astype(float)  # without the ticks at the border
        columns, rows = grey.mean(axis=0), grey.mean(axis=1)
        side = brighter.get(name)
        assert (columns[0] > columns[-1] + 100) == (side == "left")
        assert (rows[0] > rows[-1] + 100) == (side == "top")


def test_what_stands_at_the_ends_is_what_lies_there():
    for axis, name in ((2, "axial"), (1, "coronal"), (0, "sagittal")):
        across = 1 if axis == 0 else 0
        far = delta(tuple(np.where(np.arange(3) == across, np.array(SHAPE) - 1, 0)))
        row = plane(far, axis, 0)[-1]
        assert (row.argmax(), ENDS[name]) == (0, ("R", "L") if across == 0 else ("A", "P"))


def test_only_the_brain_and_a_little_around_it_is_shown():
    """Brain of 6 × 2 × 6 voxels and 4 around: 14 × 10 × 14, of which a voxel is 1 mm and 320/14 px."""
    shape, brain = (40, 30, 50), np.zeros((40, 30, 50), bool)
    brain[10:16, 20:22, 5:11] = True
    at = (12, 21, 9)
    picture = three_planes(made(shape=shape, spacing=(1, 1, 1), brain=brain), "t1c", Scene(at, heat=delta(at, shape)))
    side = 320 / 14
    wide = [round(14 * side), round(14 * side), round(10 * side)]
    assert picture.size == (sum(wide) + 12, 340)
    pixels = np.asarray(picture).astype(int)[20:]
    coronal = pixels[:, wide[0] + 6 : wide[0] + 6 + wide[1]]
    # the view begins at x = 6 and z = 1
    np.testing.assert_allclose(middle(yellow(coronal)), [(14 - 6.5) * side, (14 - 8.5) * side], atol=2)


def test_a_plane_outside_of_what_is_shown_is_the_nearest():
    brain = np.zeros((40, 30, 50), bool)
    brain[10:16, 20:22, 5:11] = True
    volume = made(np.arange(50) * np.ones((40, 30, 50)), shape=(40, 30, 50), spacing=(1, 1, 1), brain=brain)
    below, lowest = (np.asarray(three_planes(volume, "t1c", Scene((12, 21, z)))) for z in (0, 1))
    np.testing.assert_array_equal(below, lowest)


def test_the_box_is_drawn_in_planes_that_it_reaches():
    box = Box((1, 2, 3), (4, 6, 5))
    found = panels(three_planes(made(), "t1c", Scene((2, 3, 4), box=box)))
    for name, (_, (across, wide), (down, high)) in PANELS.items():
        drawn = (found[name] == FRAME).all(axis=-1)
        left, right = ((SHAPE[across] - end[across]) * wide for end in (box.stop_vox, box.start_vox))
        top, bottom = ((SHAPE[down] - end[down]) * high for end in (box.stop_vox, box.start_vox))
        assert extent(drawn) == [left, right - 1, top, bottom - 1]
        assert not drawn[top + 1 : bottom - 1, left + 1 : right - 1].any()
    found = panels(three_planes(made(), "t1c", Scene((2, 3, 5), box=box)))  # the axial plane is above the box
    assert {name for name, pixels in found.items() if (pixels == FRAME).all(axis=-1).any()} == {"coronal", "sagittal"}


def test_a_box_beyond_the_volume_and_one_thinner_than_a_pixel_are_drawn():
    """A slice of half a millimetre in a head of 200 mm is less than a pixel high."""
    volume = made(shape=(40, 40, 400), spacing=(5, 5, 0.5))
    for box in (Box((-5, -3, 200), (45, 60, 201)), Box((-9, -9, -9), (50, 50, 410))):
        picture = three_planes(volume, "t1c", Scene((20, 20, 200), box=box))
        assert picture.height == 340


def test_a_volume_of_one_thin_slice_is_drawn():
    assert three_planes(made(shape=(20, 20, 1), spacing=(5, 5, 0.1)), "t1c", Scene((3, 4, 0))).size[1] == 340


def test_the_tumour_is_outlined_where_it_is():
    tumour = np.zeros(SHAPE, bool)
    tumour[2:5, 3:7, 1:4] = True
    scene = Scene(centre_of(tumour), tumour=tumour)
    assert scene.at_vox in {(3, y, 2) for y in (4, 5)}
    for name, pixels in panels(three_planes(made(), "t1c", scene)).items():
        _, (across, wide), (down, high) = PANELS[name]
        inside = np.argwhere(tumour)
        low, above = inside.min(axis=0), inside.max(axis=0) + 1
        drawn = (pixels == OUTLINE).all(axis=-1)
        left, right = ((SHAPE[across] - end[across]) * wide for end in (above, low))
        top, bottom = ((SHAPE[down] - end[down]) * high for end in (above, low))
        assert extent(drawn) == [left, right - 1, top, bottom - 1]
        assert not drawn[top + 1 : bottom - 1, left + 1 : right - 1].any()


def test_heat_hides_nothing_where_it_is_zero():
    plain, warm = (
        np.asarray(three_planes(made(np.arange(8) * np.ones(SHAPE)), "t1c", Scene((1, 2, 3), heat=heat)))
        for heat in (None, np.zeros(SHAPE, np.float32))
    )
    np.testing.assert_array_equal(plain, warm)


def test_a_title_has_as_many_lines_as_it_needs_and_hides_nothing():
    picture = Image.new("RGB", (100, 30), (255, 0, 0))
    for text, lines in (("short", 1), ("words that do not fit beside each other", 3), ("a" * 60, 1)):
        page = titled(picture, text)
        assert page.size == (100, 30 + 20 * lines)
        np.testing.assert_array_equal(np.asarray(page)[-30:], np.asarray(picture))
        rows = (np.asarray(page)[:-30, :, 1] > 150).any(axis=1).reshape(lines, 20)  # where letters are
        assert rows.any(axis=1).all()


def test_pictures_are_stacked():
    page = stacked([Image.new("RGB", (4, 2), (255, 0, 0)), Image.new("RGB", (6, 3), (0, 255, 0))])
    assert (page.size, page.getpixel((0, 1)), page.getpixel((5, 4))) == ((6, 5), (255, 0, 0), (0, 255, 0))


def verdict(**more) -> VerdictInput:
    votes = [
        VoteInput("brain-v1", "MRI: T1; whole brain", [0.25, 0.5, 0.25], 2.0),
        VoteInput(f"slides-v1 {TEXT}", f"H&E: {TEXT}", [0.125, 0.375, 0.5]),
    ]
    given = {"classes": ["grade 2", "grade 3", f"grade 4 {TEXT}"], "grade": "grade 3", "probabilities": [0.2, 0.5, 0.3]}
    return VerdictInput(**{**given, "votes": votes, **more})


def shown(caption: str) -> Shown:
    return Shown(Image.new("RGB", (30, 20)), caption)


def pages(said: VerdictInput) -> list[str]:
    """Both pages, with a text in each place that comes from outside."""
    card = volume_card("brain-v1", {"name": "grading-3d", "config": {}}) | {"limits": [TEXT], "task": TEXT}
    pictures = VolumePictures([shown(f"T1 {TEXT}")], {f"brain-v1 {TEXT}": [shown(f"Grad-CAM {TEXT}")], "none-v1": []})
    run = {"verb": "grade", "volume": {"name": TEXT, "files": {"t1": f"/data/{TEXT}.nii.gz"}}, "settings": {"a": TEXT}}
    common = {"case": f"patient {TEXT}", "verdict": said, "notes": [f"note {TEXT}"], "cards": [card]}
    volume = volume_page(VolumeGradeInput(pictures=pictures, run=run, **common))
    return [volume, fusion_page(FusionInput(pictures=[shown(f"slide {TEXT}")], run=run, **common))]


def test_all_text_is_escaped():
    for page in pages(verdict(missing={f"t2-v1 {TEXT}": f"not given {TEXT}"})):
        assert TEXT not in page
        assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 10


def test_pages_stand_alone():
    for page in pages(verdict()):
        assert not re.search(r"<(script|link|img)[^>]*(src|href)=\"(?!data:)", page)
        assert page.startswith("<!doctype html>")
        assert page.count("For research use only") >= 2


def test_what_is_missing_is_said_loudly_and_in_the_table():
    for page in pages(verdict(missing={"t2-v1": "t2 not given", "tiles-v1": "slides not given"})):
        alert = page.partition('<div class="alert" role="alert">')[2].partition("</div>")[0]
        assert "<strong>Graded without some members.</strong>" in alert
        assert "nothing stands for them: t2-v1: t2 not given; tiles-v1: slides not given." in alert
        assert page.index('role="alert"') < page.index("<dt>Grade</dt>")
        nothing = '<td class="number">–</td>' * 3
        assert f'<td>t2-v1</td><td>did not vote: t2 not given</td>{nothing}<td class="number"></td>' in page
    for page in pages(verdict()):
        assert 'role="alert"' not in page


def test_the_votes_are_told_in_numbers():
    for page in pages(verdict()):
        numbers = "".join(f'<td class="number">{number}</td>' for number in ("0.250", "0.500", "0.250", "2"))
        assert f"<td>brain-v1</td><td>MRI: T1; whole brain</td>{numbers}" in page
        together = "".join(f'<td class="number">{number}</td>' for number in ("0.200", "0.500", "0.300", ""))
        assert f"<td>all together</td><td></td>{together}" in page
        assert "<dt>Grade</dt><dd>grade 3</dd>" in page
        assert "<dt>Probability of grade 3</dt><dd>0.500</dd>" in page
        assert "<dt>Members that voted</dt><dd>2</dd>" in page
        assert "for research use only" in page.lower()


def test_pictures_are_in_the_page_with_what_they_show():
    volume, fusion = pages(verdict())
    assert (volume.count("<img "), fusion.count("<img ")) == (2, 1)
    assert volume.count('<img src="data:image/jpeg;base64,') == 2
    assert "<h2>What the networks looked at</h2>" in volume
    assert "<h3>none-v1</h3>" not in volume  # it has no explanations
    assert "distrust the grade" in volume
    assert "<h2>What the networks looked at</h2>" not in fusion
