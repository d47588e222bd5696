"""Pictures of volumes: three planes through one voxel, as radiologists look at them.

The patient's right is on the picture's left in the axial and the coronal plane; the front is on the left in the
sagittal plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from digipath.report.figures import colours
from digipath.volume_values import Box, Volume

HEIGHT_PX, GAP_PX, CAPTION_PX, MARGIN_VOX = 320, 6, 20, 4
DARK, LIGHT, FRAME, LINE = (14, 16, 19), (214, 218, 224), (255, 196, 61), (120, 128, 138)
STRONGEST = 0.6  # opacity of the highest value
OUTLINE = (255, 92, 92)
WINDOW = (1.0, 99.5)  # percentiles of the brain that become black and white
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
ENDS = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}  # what lies on the picture's left and right

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """What is drawn into all three planes.

    Attributes:
        at_vox: the voxel through which they go. heat: (X, Y, Z) in [0, 1], laid over in viridis; None: nothing.
        box: drawn as a frame. tumour: (X, Y, Z) bool, drawn as an outline.
    """

    at_vox: tuple[int, int, int]
    heat: Floats | None = None
    box: Box | None = None
    tumour: NDArray[np.bool_] | None = None


def three_planes(volume: Volume, modality: str, scene: Scene) -> Image.Image:
    """Axial, coronal and sagittal plane of one modality side by side, at one scale, with the names of their ends.

    What is shown is the brain and a little around it.
    """
    view = _around(volume.brain)
    values = volume.voxels[..., volume.modalities.index(modality)]
    low, high = np.percentile(values[volume.brain], WINDOW)
    grey = np.clip((values[view] - low) / max(float(high - low), 1e-6), 0, 1)
    heat = None if scene.heat is None else scene.heat[view]
    tumour = None if scene.tumour is None else scene.tumour[view]
    scene = replace(scene, heat=heat, tumour=tumour, at_vox=_shifted(scene.at_vox, view), box=_moved(scene.box, view))
    extents_mm = [size * spacing for size, spacing in zip(grey.shape, volume.spacing_mm, strict=True)]
    scale = HEIGHT_PX / max(extents_mm[1:])
    planes = []
    for name in ("axial", "coronal", "sagittal"):
        axis = PLANES[name]
        across, down = (other for other in range(3) if other != axis)
        at = scene.at_vox[axis]
        picture = _painted(plane(grey, axis, at), None if heat is None else plane(heat, axis, at))
        size = max(1, round(extents_mm[across] * scale)), max(1, round(extents_mm[down] * scale))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
        _draw_marks(picture, scene, axis, grey.shape)
        planes.append(_captioned(picture, name, at + (view[axis].start or 0)))
    return _side_by_side(planes)


def _around(brain: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The bounding box of the brain and `MARGIN_VOX` around it."""
    view = []
    for axis, size in enumerate(brain.shape):
        inside = np.flatnonzero(brain.any(axis=tuple(other for other in range(3) if other != axis)))
        view.append(slice(max(0, int(inside[0]) - MARGIN_VOX), min(size, int(inside[-1]) + 1 + MARGIN_VOX)))
    return tuple(view)


def _shifted(at_vox: Sequence[int], view: Sequence[slice]) -> tuple[int, int, int]:
    """A voxel of the volume, counted in the view; the nearest of it where it lies outside."""
    x, y, z = (
        min(max(at - cut.start, 0), cut.stop - cut.start - 1) for at, cut in zip(at_vox, view, strict=True)
    )
    return x, y, z


def _moved(box: Box | None, view: Sequence[slice]) -> Box | None:
    """A box of the volume, counted in the view."""
    if box is None:
        return None
    (a, b, c), (d, e, f) = (
        (place - cut.start for place, cut in zip(corner, view, strict=True)) for corner in (box.start_vox, box.stop_vox)
    )
    return Box((a, b, c), (d, e, f))


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width below each other."""
    page = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), DARK)
    top = 0
    for one in pictures:
        page.paste(one, (0, top))
        top += one.height
    return page


def titled(picture: Image.Image, text: str) -> Image.Image:
    """A picture under what it shows, in as many lines as that takes."""
    font = ImageFont.load_default(13)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= picture.width - 6:
            lines[-1] = longer
        else:
            lines.append(word)
    page = Image.new("RGB", (picture.width, picture.height + CAPTION_PX * len(lines)), DARK)
    for row, line in enumerate(lines):
        ImageDraw.Draw(page).text((3, CAPTION_PX * row + 2), line, fill=LIGHT, font=font)
    page.paste(picture, (0, CAPTION_PX * len(lines)))
    return page


def centre_of(mask: NDArray[np.bool_]) -> tuple[int, int, int]:
    """The voxel of a mask, not empty, that is nearest to its centre of gravity."""
    inside = np.argwhere(mask)
    x, y, z = inside[np.argmin(((inside - inside.mean(axis=0)) ** 2).sum(axis=1))].tolist()
    return x, y, z


def plane(values: NDArray[np.generic], axis: int, at: int) -> NDArray[np.float32]:
    """(rows, columns) of a plane across an axis of (X, Y, Z) in RAS order: top or front first, right or front first."""
    return np.asarray(np.take(values, at, axis=axis).T[::-1, ::-1], np.float32)


def _painted(grey: Floats, heat: Floats | None) -> Image.Image:
    picture: NDArray[np.floating] = np.repeat(grey[..., None] * 255, 3, axis=-1)
    if heat is not None:
        level = np.clip(heat, 0, 1)
        opacity = (STRONGEST * level)[..., None]
        picture = picture * (1 - opacity) + colours(level) * opacity
    return Image.fromarray(np.rint(picture).astype(np.uint8))


def _draw_marks(picture: Image.Image, scene: Scene, axis: int, shape_vox: Sequence[int]) -> None:
    """The tumour's outline, the box, and small ticks where the other two planes cut this one."""
    draw = ImageDraw.Draw(picture)
    across, down = (other for other in range(3) if other != axis)
    scale = picture.width / shape_vox[across], picture.height / shape_vox[down]

    def place(x: float, y: float) -> tuple[float, float]:
        return (shape_vox[across] - x) * scale[0], (shape_vox[down] - y) * scale[1]

    if scene.tumour is not None:
        mask = Image.fromarray((plane(scene.tumour, axis, scene.at_vox[axis]) * 255).astype(np.uint8))
        edge = np.asarray(mask.resize(picture.size, Image.Resampling.NEAREST)) > 0
        inner = edge & np.roll(edge, 1, 0) & np.roll(edge, -1, 0) & np.roll(edge, 1, 1) & np.roll(edge, -1, 1)
        picture.paste(OUTLINE, mask=Image.fromarray(edge & ~inner))
    if scene.box is not None and scene.box.start_vox[axis] <= scene.at_vox[axis] < scene.box.stop_vox[axis]:
        left, top = place(scene.box.stop_vox[across], scene.box.stop_vox[down])
        right, bottom = place(scene.box.start_vox[across], scene.box.start_vox[down])
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=FRAME)
    x, y = place(scene.at_vox[across] + 0.5, scene.at_vox[down] + 0.5)
    for line in ((x, 0, x, 8), (x, picture.height - 9, x, picture.height), (0, y, 8, y),
                 (picture.width - 9, y, picture.width, y)):  # fmt: skip
        draw.line(line, fill=LINE)


def _captioned(picture: Image.Image, name: str, at: int) -> Image.Image:
    font = ImageFont.load_default(13)
    page = Image.new("RGB", (picture.width, HEIGHT_PX + CAPTION_PX), DARK)
    page.paste(picture, (0, CAPTION_PX + (HEIGHT_PX - picture.height) // 2))
    draw = ImageDraw.Draw(page)
    left, right = ENDS[name]
    draw.text((3, 2), left, fill=LIGHT, font=font)
    draw.text((page.width - 4, 2), right, fill=LIGHT, font=font, anchor="ra")
    draw.text((page.width / 2, 2), f"{name}, voxel {at}", fill=LIGHT, font=font, anchor="ma")
    return page


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    width = sum(one.width for one in pictures) + GAP_PX * (len(pictures) - 1)
    page = Image.new("RGB", (width, pictures[0].height), DARK)
    x = 0
    for one in pictures:
        page.paste(one, (x, 0))
        x += one.width + GAP_PX
    return page
