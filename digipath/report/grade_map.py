"""The grade map: tiles over the slide, each coloured by its most probable class (Truong et al. 2020, Figure 5).

Green is the least malignant class (grade II), blue the next (grade III), red the most malignant (glioblastoma), from
light to dark by t(p) = (100^p − 1) / 99 of the tile's highest probability p: "below 50 % very light, above it rises
quickly". Green and red look alike to some eyes, so 1, 2, 3 … dots in a tile's corner count its class too.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from digipath.errors import BadInput
from digipath.report import geojson
from digipath.report.figures import (
    GREY,
    INK,
    LONGEST_PX,
    STRONGEST,
    Layer,
    Pen,
    colours,
    rounded,
    with_keys,
)
from digipath.report.grade_inputs import Array, TileFrame
from digipath.report.tile_lattice import LEFT_OUT_RGB, Look, laid, paint_missing
from digipath.values import EXCLUDED, PREDICTED, READ_FAILED, most_probable

Rgb = tuple[int, int, int]
Floats = NDArray[np.float32]

BASE = 100.0  # of t: 100^p
FORMULA = "(100^p - 1) / 99"  # as it stands in pictures, whose font has few signs
LIGHT = ((196, 236, 186), (184, 208, 244), (255, 194, 180))  # green, blue, red; seen on pink tissue and on glass
DARK = ((0, 120, 60), (16, 52, 160), (150, 0, 24))
OPACITY = 0.55  # of a tile; tissue stays visible below
TISSUE = (226, 196, 216)  # on which legends show colours
NAME_CHARACTERS = 40


def intensity(probability: NDArray[np.floating] | float) -> NDArray[np.float64]:
    """Strength of a colour, t(p) = (100^p − 1) / 99, in [0, 1]: below 50 % very light, above it rises quickly.

    log(1 + 99 t) is linear in the probability; t(0) = 0, t(0.5) = 1/11, t(1) = 1. Same shape; NaN stays NaN.

    Source: Truong et al. 2020 ("translates logarithmically"); the base is ours, the paper names none.
    """
    return (np.power(BASE, np.clip(np.asarray(probability, np.float64), 0, 1)) - 1) / (BASE - 1)


def tile_colour(class_index: int, probability: float, count: int) -> Rgb:
    """RGB of a tile, 0 to 255, whose most probable class is this one of `count`.

    Three classes are green, blue and red; two are green and red; of more the first is green, the last red and those
    between go in equal steps of hue from blue over violet.

    Raises:
        BadInput: fewer than two classes, or an index that is none of them.
    """
    if not 0 <= class_index < count:
        raise BadInput(f"expected a class index below {count}, got {class_index}")
    r, g, b = rounded(_shades(np.array(class_index), np.array(probability), count))
    return int(r), int(g), int(b)


def spread(anchors: Sequence[Rgb], count: int) -> Floats:
    """Colours (count, 3) of classes in rising order of malignancy, from the colours of the three grades.

    Raises:
        BadInput: fewer than two classes.
    """
    if count < 2:
        raise BadInput(f"expected at least 2 classes, got {count}")
    green, blue, red = anchors
    if count <= 3:
        return np.array([green, blue, red] if count == 3 else [green, red], np.float32)
    (h0, l0, s0), (h1, l1, s1) = (colorsys.rgb_to_hls(*(value / 255 for value in colour)) for colour in (blue, red))
    steps = np.linspace(0, 1, count - 1)[1:-1]
    h1 += h1 < h0  # over violet, not back over green
    between = [colorsys.hls_to_rgb((h0 + s * (h1 - h0)) % 1, l0 + s * (l1 - l0), s0 + s * (s1 - s0)) for s in steps]
    return np.array([green, blue, *(np.array(between) * 255), red], np.float32)


def grade_overlay(
    overview_rgb: NDArray[np.uint8],
    probabilities: NDArray[np.floating],
    coverage: NDArray[np.uint8],
    *,
    frame: TileFrame,
    classes: Sequence[str],
    longest_px: int = LONGEST_PX,
) -> Image.Image:
    """Return the overview with its tiles coloured by their most probable class, above a legend.

    Tissue tiles that were left out have a thin grey outline; those that could not be read are hatched.

    Args:
        overview_rgb: (rows, columns, 3).
        probabilities: (R, C, K), NaN = no prediction. coverage: (R, C) codes of `digipath.values`.
        frame: where tiles lie. classes: K names.
        longest_px: of the picture without its legend.

    Raises:
        BadInput: the arrays are empty or do not fit each other or the classes.
    """
    _check(overview_rgb, probabilities, coverage, classes)
    known = (coverage == PREDICTED) & ~np.isnan(probabilities).any(axis=2)
    filled = np.where(known[..., None], probabilities, 0)
    best, count = most_probable(filled), len(classes)
    picture, lattice = laid(overview_rgb, coverage.shape, frame, longest_px)
    fill = _shades(best, filled.max(axis=2), count)
    lattice.paint(picture, Look(known, fill, OPACITY, spread(DARK, count)[best], best + 1 if count < 6 else None))
    paint_missing(picture, coverage, lattice)
    image = Image.fromarray(rounded(picture))
    pen = Pen.of(image)
    keys = [_class_key(pen, index, name, count) for index, name in enumerate(classes)]
    return with_keys(image, [*keys, _formula_key(pen), *_other_keys(pen, image, overview_rgb, coverage, frame)], pen)


def tile_overlay(
    overview_rgb: NDArray[np.uint8],
    values: Array,
    coverage: NDArray[np.uint8],
    *,
    frame: TileFrame,
    name: str,
    top: float = 1.0,
    longest_px: int = LONGEST_PX,
) -> Image.Image:
    """Return the overview with one number of each tile in viridis, as `grade_overlay`: attention or an uncertainty.

    Args:
        values: (R, C) ≥ 0, NaN = none. name: for the legend. top: the value of the strongest colour, above 0.

    Raises:
        BadInput: as `grade_overlay`.
    """
    _check(overview_rgb, values[..., None], coverage, [name])
    known = ~np.isnan(values)
    level = np.clip(np.where(known, values, 0) / top, 0, 1).astype(np.float32)
    picture, lattice = laid(overview_rgb, coverage.shape, frame, longest_px)
    line = np.broadcast_to(np.array(GREY, np.float32), (*level.shape, 3))
    lattice.paint(picture, Look(known, colours(level), (STRONGEST * level**0.7)[..., None], line))
    paint_missing(picture, coverage, lattice)
    image = Image.fromarray(rounded(picture))
    pen = Pen.of(image)
    keys = [pen.colour_bar(Layer(values, name=_short(name), top=top))]
    return with_keys(image, [*keys, *_other_keys(pen, image, overview_rgb, coverage, frame)], pen)


def grade_geojson(
    probabilities: NDArray[np.floating],
    *,
    side_l0: float,
    classes: Sequence[str],
    tissue_share: Array | None = None,
    uncertainty: Mapping[str, Array] | None = None,
) -> dict[str, object]:
    """Return a FeatureCollection of the graded tiles that opens in QuPath over the slide, as its tile objects.

    Each is a square in level-0 pixels, classified by its most probable class, with its numbers as measurements, which
    QuPath shows as a measurement map. The same tiles always have the same ids.

    Args:
        probabilities: (R, C, K), NaN = no prediction. side_l0: see `TileFrame`.
        tissue_share: (R, C) in [0, 1]. uncertainty: maps (R, C) by name.
    """
    more = {"Tissue share": tissue_share, **{_words(name): values for name, values in (uncertainty or {}).items()}}
    maps = {name: values for name, values in more.items() if values is not None}
    labels = [geojson.classification(name, tile_colour(i, 1.0, len(classes))) for i, name in enumerate(classes)]
    names = [f"Probability {name}" for name in classes]
    features = []
    for row, column in np.argwhere(~np.isnan(probabilities).any(axis=2)).tolist():
        values = [float(value) for value in probabilities[row, column]]
        best = int(most_probable(probabilities[row, column]))
        measured = dict(zip(names, values, strict=True)) | {k: float(v[row, column]) for k, v in maps.items()}
        geometry = _square(row, column, side_l0)
        features.append(
            geojson.feature(
                "tile",
                f"{classes[best]} {geometry['coordinates']}",
                geometry,
                {"name": f"{classes[best]} {values[best]:.0%}", "classification": labels[best]},
                {name: round(value, 6) for name, value in measured.items() if value == value},
            )
        )
    return {"type": "FeatureCollection", "features": features}


def _square(row: int, column: int, side: float) -> dict[str, object]:
    left, right, top, bottom = (round(edge * side, geojson.DECIMALS) for edge in (column, column + 1, row, row + 1))
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {"type": "Polygon", "coordinates": [ring]}


def _words(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:] + (" bits" if name in geojson.BITS else "")


def _check(overview_rgb: NDArray[np.uint8], values: Array, coverage: NDArray[np.uint8], classes: Sequence[str]) -> None:
    if overview_rgb.ndim != 3 or overview_rgb.shape[2] != 3 or not overview_rgb.size:
        raise BadInput(f"expected an overview (rows, columns, 3), got shape {overview_rgb.shape}")
    expected = (*coverage.shape, len(classes))
    if not coverage.size or values.shape != expected:
        raise BadInput(f"expected a map of tiles {expected} for its coverage and classes, got shape {values.shape}")


def _shades(classes: NDArray[np.integer], probability: NDArray[np.floating], count: int) -> Floats:
    """Colours (..., 3) of classes at these probabilities, in [0, 255]."""
    light, dark = (spread(anchors, count)[classes] for anchors in (LIGHT, DARK))
    return (light + intensity(probability)[..., None] * (dark - light)).astype(np.float32)


# --- the legend ------------------------------------------------------------------------------


def _class_key(pen: Pen, index: int, name: str, count: int) -> Image.Image:
    """A class's colours as they look over tissue, from the least highest probability (1 / K) to 1, and its dots."""
    long, high, margin = pen.px(132), pen.px(14), pen.px(12)
    key, draw = pen.blank(long + 3 * margin + round(pen.font.getlength(_short(name))))
    probability = np.tile(np.linspace(1 / count, 1, long), (high, 1))
    bar = np.broadcast_to(np.array(TISSUE, np.float32), (high, long, 3)).copy()
    bar += OPACITY * (_shades(np.full_like(probability, index, int), probability, count) - bar)
    key.paste(Image.fromarray(rounded(bar)), (margin, 0))
    line = tile_colour(index, 1.0, count)
    draw.rectangle((margin, 0, margin + long - 1, high - 1), outline=line, width=max(1, pen.px(1)))
    dot = pen.px(3)
    for number in range(index + 1 if count < 6 else 0):
        left = margin + pen.px(3) + 2 * dot * number
        draw.rectangle((left, pen.px(3), left + dot - 1, pen.px(3) + dot - 1), fill=line)
    for mark in (0.5, 0.75, 1.0):
        x = margin + round((mark - 1 / count) / (1 - 1 / count) * (long - 1))
        draw.line((x, high, x, high + pen.px(3)), fill=INK, width=max(1, pen.px(1)))
        draw.text((x, high + pen.px(4)), f"{mark:.0%}", fill=INK, font=pen.font, anchor="ma")
    draw.text((long + 2 * margin, 0), _short(name), fill=INK, font=pen.font)
    return key


def _formula_key(pen: Pen) -> Image.Image:
    lines = (f"strength of colour: {FORMULA},", "p: probability of the tile's most probable class")
    key, draw = pen.blank(round(max(pen.font.getlength(text) for text in lines)))
    for number, text in enumerate(lines):
        draw.text((0, pen.px(16) * number), text, fill=INK, font=pen.font)
    return key


def _other_keys(
    pen: Pen, image: Image.Image, overview_rgb: NDArray[np.uint8], coverage: NDArray[np.uint8], frame: TileFrame
) -> list[Image.Image]:
    """The scale bar where the resolution is known, and keys for what has no prediction."""
    keys = []
    if frame.overview_mpp is not None:
        keys.append(pen.scale_bar(frame.overview_mpp * overview_rgb.shape[1] / image.width, image.width))
    if EXCLUDED in coverage:
        keys.append(_left_out_key(pen))
    if READ_FAILED in coverage:
        keys.append(pen.key("not read: no prediction", READ_FAILED))
    return keys


def _left_out_key(pen: Pen) -> Image.Image:
    text = "left out: too little tissue"
    key, draw = pen.blank(pen.px(30) + round(pen.font.getlength(text)))
    draw.rectangle((0, 0, pen.px(18), pen.px(18)), fill=TISSUE, outline=LEFT_OUT_RGB, width=max(1, pen.px(1)))
    draw.text((pen.px(30), pen.px(2)), text, fill=INK, font=pen.font)
    return key


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARACTERS else f"{name[: NAME_CHARACTERS - 3]}..."
