"""Find tissue on an overview of a slide.

`auto` follows Khened et al. 2021 ("Tissue mask generation"): black background to white, a 7 × 7
median, Otsu's threshold on the saturation of HSV, then binary morphology. Beyond the paper, and
needed on real files: Otsu's threshold is kept within bounds, so that an empty slide gives no
tissue instead of noise and a picture that is tissue from edge to edge is not split in two; pen
ink is left out and counted; what could not be read counts as tissue, so that it ends as
read-failed in the ledger instead of vanishing.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.filters import rank, threshold_otsu
from skimage.measure import label
from skimage.morphology import remove_small_holes, remove_small_objects

from digipath.errors import BadInput

BLACK_BELOW = 40  # all of R, G and B below: no light came through, or none was there (fluorescence)
SATURATION_BOUNDS = (0.05, 0.12)
MEDIAN_PX = 7
ASSUMED_UM_PER_PX = 8.0  # where the resolution is unknown
DARK_SLIDE = 0.3  # share of black pixels from which the note about fluorescence is made
METHODS = ("auto", "all", "white-tiles")


@dataclass(frozen=True)
class Tissue:
    """What was found on an overview.

    mask: (rows, columns) bool, True in tissue. pen: (rows, columns) bool, ink that touches tissue
    and may hide some; never in the mask. pen_px: pixels of all ink by colour, on glass too.
    threshold: of the saturation, 0 to 1, None where none was used. dark_fraction: share of black
    pixels, 0 to 1. notes: sentences for the user.
    """

    mask: np.ndarray
    pen: np.ndarray
    pen_px: Mapping[str, int]
    threshold: float | None
    dark_fraction: float
    notes: tuple[str, ...]


def tissue_mask(
    overview_rgb: np.ndarray,
    *,
    um_per_px: float | None,
    failed: np.ndarray | None = None,
    method: str = "auto",
    close_um: float = 40.0,
    smallest_um2: float = 20_000.0,
    largest_hole_um2: float = 20_000.0,
    margin_um: float = 16.0,
    tile_px: int = 16,
) -> Tissue:
    """Tissue of a slide from its overview.

    overview_rgb: (rows, columns, 3) uint8. um_per_px: of the overview; None is taken as 8 µm and
    noted. failed: (rows, columns) bool of unreadable pixels; they count as tissue. method: "auto";
    "all" (everything); "white-tiles" (`white_tile_mask` with tiles of `tile_px`). close_um: gaps
    bridged; smallest_um2: pieces kept; largest_hole_um2: holes filled; margin_um: added around.

    Raises BadInput for another method, shape or type, or a resolution not above 0.
    References: Khened et al. 2021, doi:10.1038/s41598-021-90444-8; Lerousseau et al. 2020.
    """
    _check(overview_rgb, um_per_px, method)
    unread = np.zeros(overview_rgb.shape[:2], bool) if failed is None else failed
    black = (_extremes(overview_rgb)[0] < BLACK_BELOW) & ~unread
    dark_fraction = float(black.mean())
    notes = []
    if method == "all":
        return Tissue(np.ones(unread.shape, bool), np.zeros(unread.shape, bool), {}, None, dark_fraction, ())
    if method == "white-tiles":
        mask = white_tile_mask(overview_rgb, tile_px=tile_px) | unread
        return Tissue(mask, np.zeros(unread.shape, bool), {}, None, dark_fraction, ())
    if um_per_px is None:
        um_per_px = ASSUMED_UM_PER_PX
        notes.append(f"resolution unknown: sizes taken as if the overview had {um_per_px:g} µm per pixel")
    ink = pen_ink(np.where(unread[..., None], np.uint8(255), overview_rgb))
    pen = np.logical_or.reduce(list(ink.values()))
    blank = black | unread
    for mask in ink.values():
        blank |= ndimage.binary_dilation(mask, iterations=2)
    saturation = _smooth_saturation(np.where(blank[..., None], np.uint8(255), overview_rgb))
    threshold = _bounded_otsu(saturation[~blank])
    mask = saturation > threshold * 255
    px_um2 = um_per_px**2
    mask = _tidy(mask, close_um / um_per_px, smallest_um2 / px_um2, largest_hole_um2 / px_um2, margin_um / um_per_px)
    mask = (mask & ~pen) | unread
    pen = _touching(pen, mask) & ~unread
    pen_px = {colour: int(found.sum()) for colour, found in ink.items() if found.any()}
    notes += _notes(mask, dark_fraction, pen_px, unread, px_um2)
    return Tissue(mask, pen, pen_px, threshold, dark_fraction, tuple(notes))


def white_tile_mask(rgb: np.ndarray, *, tile_px: int, white_above: int = 180, share: float = 0.75) -> np.ndarray:
    """(rows, columns) bool, False in tiles of which at least `share` has R, G and B above `white_above`.

    The rule of Lerousseau et al. 2020 for tiles of 512 px at each magnification; here `tile_px` are
    pixels of the given picture. Tiles at the right and lower edge may be smaller.
    """
    white = _extremes(rgb)[1] > white_above
    rows, cols = (np.arange(0, side, tile_px) for side in white.shape)
    counts = np.add.reduceat(np.add.reduceat(white.astype(np.int64), rows, axis=0), cols, axis=1)
    sizes = np.outer(np.diff([*rows, white.shape[0]]), np.diff([*cols, white.shape[1]]))
    tissue = counts < share * sizes
    return np.repeat(np.repeat(tissue, tile_px, axis=0), tile_px, axis=1)[: white.shape[0], : white.shape[1]]


def pen_ink(rgb: np.ndarray, *, smallest_px: int = 25) -> dict[str, np.ndarray]:
    """Masks (rows, columns) bool of felt-pen ink, keys "green", "blue" and "black".

    Ink is purer than any stain: green hues do not occur in H&E; blue ink is saturated on the cyan
    side of haematoxylin (hue up to 235°, or fully saturated to 250°); black ink is dark without
    colour. Black that fills the rectangle around it and touches the picture's edge is the
    scanner's, not a pen's. A mostly dark slide (fluorescence) has no ink. Spots below
    `smallest_px` pixels are dropped.
    """
    brightest, darkest = _extremes(rgb)
    black = (brightest < 70) & (brightest - darkest < 25)
    if (brightest < BLACK_BELOW).mean() > DARK_SLIDE:
        return {colour: np.zeros(rgb.shape[:2], bool) for colour in ("green", "blue", "black")}
    hue, saturation = _hue_saturation(rgb)
    lit = brightest > 60
    blue = _between(hue, 175, 235) & (saturation > 0.42 * 255) | _between(hue, 235, 250) & (saturation > 0.88 * 255)
    found = {
        "green": lit & _between(hue, 75, 175) & (saturation > 0.25 * 255),
        "blue": lit & blue,
        "black": _without_frames(black),
    }
    return {colour: remove_small_objects(mask, max_size=smallest_px - 1) for colour, mask in found.items()}


def _check(rgb: np.ndarray, um_per_px: float | None, method: str) -> None:
    if method not in METHODS:
        raise BadInput(f"expected a tissue method out of {', '.join(METHODS)}, received {method!r}")
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise BadInput(f"expected an overview of (rows, columns, 3) uint8, received {rgb.shape} {rgb.dtype}")
    if um_per_px is not None and not 0 < um_per_px < np.inf:
        raise BadInput(f"expected um_per_px above 0, received {um_per_px}")


def _extremes(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest and smallest channel; much faster than a reduction over an axis of 3."""
    red, green, blue = (rgb[..., channel] for channel in range(3))
    return np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)


def _between(hue: np.ndarray, low_degrees: float, high_degrees: float) -> np.ndarray:
    return (hue > low_degrees * 256 / 360) & (hue <= high_degrees * 256 / 360)


def _hue_saturation(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hue in steps of 360°/256 and saturation in steps of 1/255, both uint8."""
    hue, saturation, _ = Image.fromarray(rgb).convert("HSV").split()
    return np.asarray(hue), np.asarray(saturation)


def _smooth_saturation(rgb: np.ndarray) -> np.ndarray:
    footprint = np.ones((MEDIAN_PX, MEDIAN_PX), np.uint8)
    channels = [np.ascontiguousarray(rgb[..., channel]) for channel in range(3)]
    with ThreadPoolExecutor(len(channels)) as pool:  # most of the time that tissue takes
        medians = list(pool.map(lambda channel: rank.median(channel, footprint), channels))
    return _hue_saturation(np.stack(medians, axis=-1))[1]


def _bounded_otsu(saturation: np.ndarray) -> float:
    low, high = SATURATION_BOUNDS
    if saturation.size == 0 or saturation.min() == saturation.max():
        return low
    return float(np.clip(threshold_otsu(saturation) / 255, low, high))


def _without_frames(black: np.ndarray) -> np.ndarray:
    """Drop rectangles at the edge: stage or slide border that the scanner left black."""
    pieces = label(black, connectivity=2)
    out = black.copy()
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        at_edge = any(side.start == 0 or side.stop == length for side, length in zip(box, black.shape, strict=True))
        piece = pieces[box] == number
        if at_edge and piece.mean() > 0.9:
            out[box][piece] = False
    return out


def _tidy(mask: np.ndarray, close_px: float, smallest_px: float, hole_px: float, margin_px: float) -> np.ndarray:
    """Bridge gaps, drop specks, fill holes, add a margin; radii by distance, so any size is fast."""
    grown = _within(mask, close_px)
    closed = ~_within(~grown, close_px) | mask
    kept = remove_small_objects(closed, max_size=max(0, int(smallest_px) - 1))
    filled = remove_small_holes(kept, max_size=max(0, int(hole_px) - 1))
    return _within(filled, margin_px)


def _touching(pen: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The strokes of ink that come within 2 pixels of the mask."""
    strokes = label(pen, connectivity=2)
    near = np.unique(strokes[ndimage.binary_dilation(mask, iterations=2)])
    return np.isin(strokes, near[near > 0])


def _within(mask: np.ndarray, distance_px: float) -> np.ndarray:
    """Pixels at most `distance_px` from a True pixel."""
    if distance_px < 1 or not mask.any():
        return mask
    return ndimage.distance_transform_edt(~mask) <= distance_px


def _notes(
    mask: np.ndarray, dark_fraction: float, pen_px: Mapping[str, int], unread: np.ndarray, px_um2: float
) -> list[str]:
    notes = []
    found_mm2 = mask.sum() * px_um2 / 1e6
    if dark_fraction > DARK_SLIDE:
        notes.append(
            f"{dark_fraction:.0%} of the overview is black: fluorescence? "
            f"{found_mm2:.2f} mm² of tissue found; use --tissue all to take the whole slide"
        )
    elif not mask.any():
        notes.append("no tissue found on the overview; use --tissue all to take the whole slide")
    if pen_px:
        inks = ", ".join(f"{colour} {count * px_um2 / 1e6:.2f} mm²" for colour, count in pen_px.items())
        notes.append(f"pen ink left out: {inks}")
    if unread.any():
        notes.append(f"{unread.mean():.1%} of the overview could not be read and is kept as tissue")
    return notes
