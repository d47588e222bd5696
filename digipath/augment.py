"""Training patches changed as other slides, stains and scanners might have made them.

In this order: free zoom, one of the eight symmetries of the square, blur, stain, colour. Image and
mask are moved alike; the rest touches the image only. Every call draws the same amount of chance
whatever is switched on, so that switching one change on leaves the others as they were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.color import hed_from_rgb, rgb_from_hed

from digipath.errors import BadInput

PIECE_PX = 16_384  # stays in the cache, and BLAS uses no threads of its own: beside a network they stall
BLUR_REACH = 3.0  # standard deviations
LARGEST = {
    "blur_chance": 1.0, "brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5,
    "stain_gain": 1.0, "stain_shift": 1.0, "scale": 0.5, "blur_sigma_px": 16.0,
}  # fmt: skip

# Luma and the two chroma axes of NTSC's YIQ: white has no chroma.
YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


@dataclass(frozen=True)
class Augmentation:
    """What is changed at most; drawn uniformly between none of it and all of it, on either side.

    The values are those of Khened et al. 2021 ("Data augmentation"): deltas of 64/255, 0.75, 0.25
    and 0.04, where the paper lists hue before saturation. A hue of 0.25 would be half the colour
    circle from end to end, so we read the last two the usual way: saturation 0.25, hue 0.04.

    Attributes:
        flips, rotations: mirrored or not, turned by a multiple of 90°; with both, all eight
            symmetries are equally likely.
        blur_sigma_px: greatest standard deviation of a Gaussian; blur_chance: share of patches
            blurred at all.
        brightness: added to all channels, as a share of 255.
        contrast: c; the difference from each channel's mean is multiplied by a factor in 1 ± c.
        saturation: s; chroma is multiplied by a factor in 1 ± s. hue: chroma is turned, as a share
            of the circle. Chroma is I and Q of YIQ = `YIQ` · RGB, so the luma stays.
        stain_gain, stain_shift: jitter in HED space (Tellez et al. 2018, doi:10.1109/TMI.2018.2820199):
            the amounts of haematoxylin, eosin and the rest (Ruifrok & Johnston 2001, of the natural
            logarithm) are each multiplied by a factor in 1 ± gain, then shifted by at most ± shift.
        scale: free zoom, about the centre, of the field seen to 1 ± scale of its side.
    """

    flips: bool = True
    rotations: bool = True
    blur_sigma_px: float = 1.0
    blur_chance: float = 0.3
    brightness: float = 64 / 255
    contrast: float = 0.75
    saturation: float = 0.25
    hue: float = 0.04
    stain_gain: float = 0.0
    stain_shift: float = 0.0
    scale: float = 0.0

    def check(self) -> None:
        """Raise BadInput if a value lies outside its range (`LARGEST`, from 0)."""
        for name, most in LARGEST.items():
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise BadInput(f"augmentation: {name} must be in [0, {most:g}], got {value}")


def source_px(settings: Augmentation, patch_px: int) -> int:
    """Side of what must be read for a patch of `patch_px`: more where the zoom may need more."""
    return math.ceil(patch_px * (1 + settings.scale))


def augment(
    image: NDArray[np.uint8], mask: NDArray[Any], settings: Augmentation, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """One changed patch and its mask: a pure function of its arguments and the generator's state.

    Args:
        image: uint8 (S, S, 3), with S = `source_px(settings, P)` for patches of P px.
        mask: (S, S, C) of any type, zoomed by nearest neighbour.
        settings: what may be changed, and how much.
        rng: gives the chance.

    Returns:
        float32 (P, P, 3) in [0, 255], and the mask (P, P, C) in its own type.

    Raises:
        BadInput: image and mask are no squares of one size.
    """
    side = image.shape[0]
    if image.shape != (side, side, 3) or mask.shape[:-1] != (side, side):
        raise BadInput(f"expected a square image (S, S, 3) and mask (S, S, C), got {image.shape} and {mask.shape}")
    chance = rng.uniform(-1, 1, _CHANCES)
    zoom, turn, blur, stain, colour = np.split(chance, np.cumsum(_PARTS)[:-1])
    if settings.scale:
        image, mask = _zoomed(image, mask, settings, zoom[0])
    turned = _turned(image, settings, turn)
    if abs(blur[0]) < settings.blur_chance and settings.blur_sigma_px:
        sigma = settings.blur_sigma_px * abs(blur[1])
        pixels = ndimage.gaussian_filter(turned, (sigma, sigma, 0), truncate=BLUR_REACH, output=np.float32)
    else:
        pixels = turned.astype(np.float32, order="C")
    flat = pixels.reshape(-1, 3)
    if settings.stain_gain or settings.stain_shift:
        _stain(flat, settings, stain)
    _colour(flat, settings, colour)
    return flat.reshape(turned.shape), np.ascontiguousarray(_turned(mask, settings, turn))


_PARTS = (1, 3, 2, 6, 4)  # numbers that zoom, symmetry, blur, stain and colour draw
_CHANCES = sum(_PARTS)


def _zoomed(
    image: NDArray[np.uint8], mask: NDArray[Any], settings: Augmentation, chance: float
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """A square about the centre brought to the patch's size; Pillow averages where it shrinks."""
    source = image.shape[0]
    patch = math.floor(source / (1 + settings.scale) + 1e-9)  # the inverse of `source_px`
    side = patch * (1 + settings.scale * chance)
    first = (source - side) / 2
    box = (first, first, first + side, first + side)
    zoomed = Image.fromarray(image).resize((patch, patch), Image.Resampling.BILINEAR, box=box)
    nearest = np.floor(first + (np.arange(patch) + 0.5) * side / patch).astype(int)
    return np.asarray(zoomed), mask[nearest[:, None], nearest]


def _turned(array: NDArray[Any], settings: Augmentation, chance: NDArray[np.float64]) -> NDArray[Any]:
    """A view of the array, mirrored and turned."""
    if settings.flips:
        array = array[:: 1 if chance[0] < 0 else -1, :: 1 if chance[1] < 0 else -1]
    if settings.rotations:
        array = np.rot90(array, int(2 * (chance[2] + 1)))
    return array


def _stain(pixels: NDArray[np.float32], settings: Augmentation, chance: NDArray[np.float64]) -> None:
    """Change the stains of pixels (n, 3) in place: linear in −ln((value + 1) / 256)."""
    gain, shift = 1 + settings.stain_gain * chance[:3], settings.stain_shift * chance[3:]
    change = (hed_from_rgb * gain @ rgb_from_hed).astype(np.float32)
    light = 256 * np.exp(-shift @ rgb_from_hed).astype(np.float32)
    for first in range(0, len(pixels), PIECE_PX):
        piece = pixels[first : first + PIECE_PX]
        piece += 1
        piece /= 256
        # ln of light is minus the density, and a linear change keeps the sign.
        np.exp(np.log(piece, out=piece) @ change, out=piece)
        piece *= light
        piece -= 1


def _colour(pixels: NDArray[np.float32], settings: Augmentation, chance: NDArray[np.float64]) -> None:
    """Brightness, contrast, saturation and hue of pixels (n, 3) in place, cut to [0, 255].

    All are linear and keep grey as grey, so their order does not matter: with F the factor of
    contrast, m the mean colour, b the brightness and M = YIQ⁻¹ · (1, s · rotation by h) · YIQ,
    a pixel x becomes M (F (x − m) + m) + b.
    """
    factor = 1 + settings.contrast * chance[1]
    matrix = _chroma_change(1 + settings.saturation * chance[2], 2 * np.pi * settings.hue * chance[3])
    side = math.isqrt(len(pixels))  # patches are square; a mean over whole rows first is several times faster
    mean = pixels.reshape(side, -1).mean(axis=0, dtype=np.float64).reshape(-1, 3).mean(axis=0)
    offset = (1 - factor) * matrix @ mean + 255 * settings.brightness * chance[0]
    change, shift = (factor * matrix).T.astype(np.float32), offset.astype(np.float32)
    for first in range(0, len(pixels), PIECE_PX):
        piece = pixels[first : first + PIECE_PX]
        np.clip(piece @ change + shift, 0, 255, out=piece)


def _chroma_change(factor: float, angle: float) -> NDArray[np.float64]:
    """RGB → RGB (3, 3): I and Q of YIQ multiplied by a factor and turned by an angle in radians."""
    cos, sin = factor * math.cos(angle), factor * math.sin(angle)
    difference = np.array([[0, 0, 0], [0, cos - 1, -sin], [0, sin, cos - 1]])
    return np.eye(3) + np.linalg.inv(YIQ) @ difference @ YIQ  # exactly one where nothing changes
