"""Pictures: a map laid over the slide's overview, with a legend that says what is seen.

Colours are viridis (van der Walt and Smith 2015), perceptually uniform and readable with every common colour
blindness. Tissue without a prediction is grey, hatched where it could not be read: it can be taken for neither
a low nor a high probability.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from digipath.errors import BadInput
from digipath.values import BACKGROUND, EXCLUDED, READ_FAILED

LONGEST_PX, SHORTEST_PX = 1200, 640  # bounds of the longer side
STRONGEST = 0.62  # opacity of the highest value; tissue stays visible below
INK, PAPER, GREY = (32, 33, 36), (255, 255, 255), (176, 176, 176)
VIRIDIS = np.array(
    [
        (68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142),
        (31, 158, 137), (53, 183, 121), (109, 205, 89), (180, 222, 44), (253, 231, 37),
    ],
    np.float32,
)  # fmt: skip

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """A map to show.

    Attributes:
        values: (rows, columns); NaN = none. top: the value of the strongest colour, above 0.
        name: for the legend. contour: a line is drawn around values ≥ this; None: no line.
    """

    values: NDArray[np.generic]
    name: str = "probability"
    top: float = 1.0
    contour: float | None = None


def overlay_png(
    overview_rgb: NDArray[np.uint8],
    probability: NDArray[np.generic],
    coverage: NDArray[np.uint8],
    *,
    threshold: float = 0.5,
    map_px_per_overview_px: float | None = None,
    overview_mpp: float | None = None,
) -> bytes:
    """Return a PNG of the overview with the probability over it, at most 1,200 px wide or high plus its legend.

    Args:
        overview_rgb: (rows, columns, 3).
        probability: (rows, columns) in [0, 1] of any resolution, NaN = no prediction.
        coverage: codes of `digipath.values`, the same size as `probability`.
        threshold: where the contour runs.
        map_px_per_overview_px: map pixels per overview pixel; None: both show exactly the same field.
        overview_mpp: µm per overview pixel, for the scale bar; None: no bar.

    Raises:
        BadInput: the arrays are empty or their shapes do not fit.
    """
    layer = Layer(probability, contour=threshold)
    picture = overlay(
        overview_rgb,
        layer,
        coverage,
        map_px_per_overview_px=map_px_per_overview_px,
        overview_mpp=overview_mpp,
    )
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def overlay(
    overview_rgb: NDArray[np.uint8],
    layer: Layer,
    coverage: NDArray[np.uint8],
    *,
    map_px_per_overview_px: float | None = None,
    overview_mpp: float | None = None,
    longest_px: int = LONGEST_PX,
) -> Image.Image:
    """Return the picture that `overlay_png` describes, of any map.

    Raises:
        BadInput: as `overlay_png`.
    """
    _check(overview_rgb, layer, coverage)
    rows, columns = layer.values.shape
    overview = fitted(overview_rgb, longest_px)
    if map_px_per_overview_px is None:
        field = (columns, rows)
    else:
        field = (
            min(columns, overview_rgb.shape[1] * map_px_per_overview_px),
            min(rows, overview_rgb.shape[0] * map_px_per_overview_px),
        )
    values = _resampled(layer.values, field, overview.size)
    codes = _codes(coverage, field, overview.size)
    picture = Image.fromarray(_painted(np.asarray(overview, np.float32), values, codes, layer))
    mpp = None if overview_mpp is None else overview_mpp * overview_rgb.shape[1] / overview.width
    return _with_legend(picture, layer, mpp, failed=READ_FAILED in codes, excluded=EXCLUDED in codes)


def fitted(overview_rgb: NDArray[np.uint8], longest_px: int = LONGEST_PX) -> Image.Image:
    """The overview with its longer side brought to at most `longest_px`, and at least 640 px."""
    image = Image.fromarray(overview_rgb)
    longer = max(image.size)
    scale = min(max(longer, min(SHORTEST_PX, longest_px)), longest_px) / longer
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def _check(overview_rgb: NDArray[np.uint8], layer: Layer, coverage: NDArray[np.uint8]) -> None:
    if overview_rgb.ndim != 3 or overview_rgb.shape[2] != 3 or not overview_rgb.size:
        raise BadInput(f"expected an overview (rows, columns, 3), got shape {overview_rgb.shape}")
    if layer.values.ndim != 2 or not layer.values.size or layer.values.shape != coverage.shape:
        raise BadInput(
            f"expected a map (rows, columns) and its coverage, got {layer.values.shape} and {coverage.shape}"
        )


def _resampled(values: NDArray[np.generic], field: tuple[float, float], size: tuple[int, int]) -> Floats:
    """The map over the picture's pixels: the mean of what is known there, linear where it is enlarged."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0).astype(np.float32)
    weight = _resize(known.astype(np.float32), field, size, Image.Resampling.BILINEAR)
    total = _resize(filled, field, size, Image.Resampling.BILINEAR)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight > 1e-3, total / weight, np.nan)


def _codes(coverage: NDArray[np.uint8], field: tuple[float, float], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Coverage over the picture's pixels; any unpredicted tissue in a pixel shows, however small."""
    codes = np.full(size[::-1], BACKGROUND, np.uint8)
    for code in (EXCLUDED, READ_FAILED):
        share = _resize((coverage == code).astype(np.float32), field, size, Image.Resampling.BOX)
        codes[share > 1e-6] = code
    return codes


def _resize(values: Floats, field: tuple[float, float], size: tuple[int, int], how: Image.Resampling) -> Floats:
    """The part [0, width) × [0, height) of an array, resampled."""
    return np.asarray(Image.fromarray(values).resize(size, how, box=(0, 0, *field)))


def _painted(picture: Floats, values: Floats, codes: NDArray[np.uint8], layer: Layer) -> NDArray[np.uint8]:
    """The overview (rows, columns, 3) with the map, its contour and the unpredicted tissue."""
    level = np.clip(np.nan_to_num(values) / layer.top, 0, 1)
    opacity = (STRONGEST * level**0.7)[..., None].astype(np.float32)
    picture = picture * (1 - opacity)  # from here on in place: these arrays are the largest of a report
    picture += colours(level) * opacity
    if layer.contour is not None:
        # A white line between two dark ones shows on any tissue and on any colour.
        inside = np.nan_to_num(values) >= layer.contour
        wide, line = (ndimage.binary_dilation(inside, iterations=n) for n in (2, 1))
        picture[wide & ~line] = INK
        picture[line & ~inside] = PAPER
    unpredicted(picture, codes)
    return rounded(picture)


def unpredicted(picture: Floats, codes: NDArray[np.uint8]) -> None:
    """Paint over, in place, the tissue without a prediction: grey, hatched where it could not be read.

    Args:
        picture: (rows, columns, 3) in [0, 255]. codes: (rows, columns) of `digipath.values`, for each of its pixels.
    """
    diagonal = np.add.outer(np.arange(codes.shape[0]), np.arange(codes.shape[1]))
    without = (codes == READ_FAILED) | (codes == EXCLUDED)
    picture[without] = 0.2 * picture[without] + 0.8 * np.array(GREY, np.float32)
    picture[(codes == READ_FAILED) & (diagonal % 10 < 3)] = INK


def rounded(picture: Floats) -> NDArray[np.uint8]:
    """A picture's numbers as bytes; changes the array given."""
    np.rint(picture, out=picture)
    return np.clip(picture, 0, 255, out=picture).astype(np.uint8)


def colours(level: NDArray[np.floating]) -> Floats:
    """Viridis of levels in [0, 1], in 256 steps: (..., 3) float32 in [0, 255]."""
    at = np.linspace(0, 1, len(VIRIDIS))
    steps = np.linspace(0, 1, 256)
    table = np.stack([np.interp(steps, at, VIRIDIS[:, c]) for c in range(3)], axis=-1).astype(np.float32)
    return table[np.rint(level * 255).astype(np.uint8)]


def _with_legend(picture: Image.Image, layer: Layer, mpp: float | None, *, failed: bool, excluded: bool) -> Image.Image:
    """The picture above a strip with its colour bar, scale bar and keys."""
    pen = Pen.of(picture)
    keys = [pen.colour_bar(layer)]
    if mpp is not None:
        keys.append(pen.scale_bar(mpp, picture.width))
    keys += [pen.key("not read: no prediction", READ_FAILED)] * failed
    keys += [pen.key("left out: no prediction", EXCLUDED)] * excluded
    return with_keys(picture, keys, pen)


def with_keys(picture: Image.Image, keys: Sequence[Image.Image], pen: Pen) -> Image.Image:
    """The picture above a strip with the parts of its legend, which wrap where it is narrow."""
    gap, line = pen.px(16), pen.px(48)
    width = max(picture.width, max(key.width for key in keys) + 2 * gap)
    places: list[tuple[int, int]] = []
    x, y = gap, gap
    for key in keys:
        if x > gap and x + key.width > width - gap:
            x, y = gap, y + line
        places.append((x, y))
        x += key.width + gap
    page = Image.new("RGB", (width, picture.height + y + line), PAPER)
    page.paste(picture, ((width - picture.width) // 2, 0))
    for key, (x, y) in zip(keys, places, strict=True):
        page.paste(key, (x, picture.height + y))
    return page


@dataclass(frozen=True)
class Pen:
    """Draws the parts of a legend, each an image; `unit` pixels are one pixel of a small picture."""

    unit: float

    @classmethod
    def of(cls, picture: Image.Image) -> Pen:
        """The pen for the legend of this picture."""
        return cls(max(1.0, picture.width / 640))

    def px(self, size: float) -> int:
        """A size in pixels of this picture."""
        return round(size * self.unit)

    def colour_bar(self, layer: Layer) -> Image.Image:
        """The colours as they look over tissue, from 0 to the top value, with the contour's place."""
        long, high, margin = self.px(150), self.px(12), self.px(12)
        name_width = round(self.font.getlength(layer.name))
        bar, draw = self.blank(long + 3 * margin + name_width)
        level = np.tile(np.linspace(0, 1, long, dtype=np.float32), (high, 1))
        tissue = np.broadcast_to(np.array((226, 196, 216), np.float32), (high, long, 3))
        plain = Layer(level, top=layer.top)
        painted = _painted(tissue, level * layer.top, np.zeros(level.shape, np.uint8), plain)
        bar.paste(Image.fromarray(painted), (margin, 0))
        draw.rectangle((margin, 0, margin + long - 1, high - 1), outline=INK)
        for mark in (0.0, layer.top) if layer.contour is None else (0.0, layer.contour, layer.top):
            x = margin + round(mark / layer.top * (long - 1))
            draw.line((x, 0, x, high + self.px(2)), fill=INK, width=self.px(1))
            draw.text((x, high + self.px(3)), f"{mark:.2g}", fill=INK, font=self.font, anchor="ma")
        draw.text((long + 2 * margin, 0), layer.name, fill=INK, font=self.font)
        return bar

    def scale_bar(self, mpp: float, width_px: int) -> Image.Image:
        """A bar of a round length, at most a sixth of the picture."""
        aim_mm = mpp * width_px / 6 / 1000
        power = 10.0 ** math.floor(math.log10(aim_mm))
        length_mm = max(step * power for step in (1, 2, 5) if step * power <= aim_mm)
        long, label = round(length_mm * 1000 / mpp), f"{length_mm:g} mm"  # Pillow's own font has no µ
        bar, draw = self.blank(max(long + 1, round(self.font.getlength(label))))
        draw.rectangle((0, self.px(4), long, self.px(8)), fill=INK)
        draw.text((0, self.px(15)), label, fill=INK, font=self.font)
        return bar

    def key(self, text: str, code: int) -> Image.Image:
        """A patch of unpredicted tissue and what it means."""
        shape = (self.px(18), self.px(30))
        key, draw = self.blank(self.px(38) + round(self.font.getlength(text)))
        nothing = np.zeros(shape, np.float32)
        tissue = np.full((*shape, 3), 220, np.float32)
        key.paste(Image.fromarray(_painted(tissue, nothing, np.full(shape, code, np.uint8), Layer(nothing))))
        draw.text((self.px(38), self.px(2)), text, fill=INK, font=self.font)
        return key

    @property
    def font(self) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        """The font of legends."""
        return ImageFont.load_default(self.px(12))

    def blank(self, width: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        """An empty part of a legend, and what draws on it."""
        image = Image.new("RGB", (width, self.px(36)), PAPER)
        return image, ImageDraw.Draw(image)
