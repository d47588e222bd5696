"""Training tiles changed as other hands, stains and scanners might have made them; of an image with its class only.

In this order: a crop, mirroring, shear and zoom about its centre in one step, quarter turns, then brightness, contrast,
saturation and hue. Every call draws the same amount of chance whatever is switched on, so that switching one change on
leaves the others as they were.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from digipath.errors import BadInput

Range = tuple[float, float]
CHANCES = 10  # crop (2), mirror, shear, zoom, brightness, contrast, saturation, hue, quarter turns
HUE_STEPS = 255  # of Pillow's colour circle
MOST_SHEAR, MOST_SCALE, MOST_FACTOR, MOST_HUE = 60.0, (0.1, 10.0), 10.0, 0.5


@dataclass(frozen=True)
class TileAugmentation:
    """What may be changed; each value is drawn uniformly from its range.

    Attributes:
        flip: mirrored left to right, every second tile.
        rotations: turned by a multiple of 90°; with `flip`, all eight symmetries are equally frequent.
        shear_degrees: rows are shifted by up to the tangent of ± this angle times their height above the centre.
        scale: range of the factor by which what is seen grows.
        brightness, contrast, saturation: ranges of factors; 1 changes nothing, 0 gives black, the mean grey, greys.
        hue: turned by up to ± this share of the colour circle.
        magnitude: each range is stretched by so much about the value that changes nothing (an ablation by
            magnitude); `flip` and `rotations`, which are no ranges, stay.
    """

    flip: bool = True
    rotations: bool = False
    shear_degrees: float = 10.0
    scale: Range = (0.8, 1.2)
    brightness: Range = (1.0, 1.0)
    contrast: Range = (1.0, 1.0)
    saturation: Range = (1.0, 1.0)
    hue: float = 0.0
    magnitude: float = 1.0

    def check(self) -> None:
        """Raise BadInput, naming the setting, if a range is out of bounds once it is stretched by the magnitude."""
        if not 0 <= self.magnitude < math.inf:
            raise BadInput(f"augmentation: magnitude must be 0 or more and finite, got {self.magnitude}")
        for name, most in (("shear_degrees", MOST_SHEAR), ("hue", MOST_HUE)):
            if not 0 <= getattr(self, name) * self.magnitude <= most:
                raise BadInput(f"augmentation: {name} × magnitude must be in [0, {most:g}], got {getattr(self, name)}")
        factors = dict.fromkeys(("brightness", "contrast", "saturation"), (0.0, MOST_FACTOR))
        for name, (least, most) in {"scale": MOST_SCALE, **factors}.items():
            low, high = self.stretched(name)
            if not least <= low <= high <= most:
                raise BadInput(
                    f"augmentation: {name} must be a range from low to high in [{least:g}, {most:g}], "
                    f"got {list(getattr(self, name))} at magnitude {self.magnitude:g}"
                )

    def stretched(self, name: str) -> Range:
        """The range of a factor at the magnitude."""
        low, high = (1 + (end - 1) * self.magnitude for end in getattr(self, name))
        return low, high


GEOMETRIC = TileAugmentation()  # Truong et al. 2020, "Data Augmentation": what they trained with
GEOMETRIC_AND_PHOTOMETRIC = TileAugmentation(contrast=(1.0, 2.0), saturation=(1.0, 2.0))  # and what they found harmful
COLOUR_JITTER = TileAugmentation(  # Lerousseau et al. 2020, section 3.2, beside a crop of 224 px
    flip=False, shear_degrees=0.0, scale=(1.0, 1.0),
    brightness=(0.9, 1.1), contrast=(0.9, 1.1), saturation=(0.9, 1.1), hue=0.01,
)  # fmt: skip
PRESETS: Mapping[str, TileAugmentation] = {
    "geometric": GEOMETRIC,
    "geometric+photometric": GEOMETRIC_AND_PHOTOMETRIC,
    "colour-jitter": COLOUR_JITTER,
}


def augment_tile(
    pixels: NDArray[np.uint8],
    settings: TileAugmentation,
    rng: np.random.Generator,
    *,
    crop_px: int | None = None,
) -> NDArray[np.uint8]:
    """One changed tile: a pure function of its arguments and the generator's state.

    Args:
        pixels: uint8 (S, S, 3). settings: what may be changed. rng: gives the chance.
        crop_px: side of what is cut out at a random place, at most S; None: all of it. Shear and zoom show the
            surroundings of the crop, and the tile's mirror image beyond its border.

    Returns:
        uint8 (P, P, 3), P = `crop_px` or S.

    Raises:
        BadInput: the tile is no square, or smaller than the crop.
    """
    side = pixels.shape[0]
    crop = side if crop_px is None else crop_px
    if pixels.shape != (side, side, 3) or not 1 <= crop <= side:
        raise BadInput(f"expected a square tile (S, S, 3) of at least {crop} px to crop, got {pixels.shape}")
    chance = rng.uniform(size=CHANCES)
    first = np.floor(chance[:2] * (side - crop + 1)).astype(int)
    mirrored = settings.flip and chance[2] < 0.5
    shear = math.tan(math.radians(settings.shear_degrees * settings.magnitude * (2 * chance[3] - 1)))
    scale = _within(settings.stretched("scale"), chance[4])
    if shear == 0 and scale == 1:
        image = pixels[first[0] : first[0] + crop, first[1] : first[1] + crop]
        image = image[:, ::-1] if mirrored else image
    else:
        image = _moved(pixels, first, crop, shear, scale, mirrored=bool(mirrored))
    if settings.rotations:
        image = np.rot90(image, int(4 * chance[9]))
    return _recoloured(np.ascontiguousarray(image), settings, chance[5:9])


def centre_crop(pixels: NDArray[np.uint8], crop_px: int) -> NDArray[np.uint8]:
    """The middle (P, P, 3) of a tile (S, S, 3), a view: what is looked at where nothing is left to chance."""
    first = (pixels.shape[0] - crop_px) // 2
    return pixels[first : first + crop_px, first : first + crop_px]


def _within(bounds: Range, chance: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * float(chance)


def _moved(
    pixels: NDArray[np.uint8], first: NDArray[np.int64], crop: int, shear: float, scale: float, *, mirrored: bool
) -> NDArray[np.uint8]:
    """The crop after mirroring, shear and zoom about its centre.

    A point at (x, y) from the centre comes to s (m (x + t y), y), with s the scale, m = ∓1 and t the shear;
    Pillow asks for the way back, from what is shown to where it was.
    """
    half = crop / 2
    sign = -1 if mirrored else 1
    reach = half / scale * (1 + abs(shear)) + 1  # one more for the neighbours that are interpolated
    low = np.floor(first + half - reach).astype(int)
    high = np.ceil(first + half + reach).astype(int)
    padding = [(max(0, -a), max(0, b - pixels.shape[0])) for a, b in zip(low, high, strict=True)]
    around = np.pad(pixels, (*padding, (0, 0)), mode="symmetric")
    (top, left) = (first + half + [before for before, _ in padding]).tolist()
    a, b = sign / scale, -shear / scale
    back = (a, b, left - half * (a + b), 0.0, 1 / scale, top - half / scale)
    size, bilinear = (crop, crop), Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(around).transform(size, Image.Transform.AFFINE, back, bilinear))


def _recoloured(
    pixels: NDArray[np.uint8], settings: TileAugmentation, chance: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Brightness, contrast, saturation, hue, in this order; each left out where it would change nothing."""
    image = Image.fromarray(pixels)
    for name, enhance, share in zip(
        ("brightness", "contrast", "saturation"),
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color),
        chance,
        strict=False,
    ):
        factor = _within(settings.stretched(name), share)
        if factor != 1:
            image = enhance(image).enhance(factor)
    steps = round(HUE_STEPS * settings.hue * settings.magnitude * (2 * chance[3] - 1))
    if steps:
        hue, *others = image.convert("HSV").split()
        turned = hue.point([(value + steps) % HUE_STEPS for value in range(256)])
        image = Image.merge("HSV", (turned, *others)).convert("RGB")
    return np.array(image)
