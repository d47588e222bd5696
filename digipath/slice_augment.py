"""Training slices of MRI changed: the fixed 57 images of AutoAugment's SVHN policy, and conventional changes by chance.

Lo et al. 2019 ignore the probabilities of the policy "to generate fixed image production": each of its 25 sub-policies
gives its first operation, its second, and both one after the other, and what is repeated is removed. By name and
magnitude 24 different pairs and 32 different single operations are left, 56, and the image itself makes 57. Invert,
Equalize and AutoContrast ignore their magnitude, so that some of the 57 look alike, as they did in the paper.

Magnitudes are levels 0 to 9 on scales of ten values, evenly from the lowest to the highest, both of which are reached,
as the AutoAugment paper has them ("we discretize the range of magnitudes into 10 values (uniform spacing)") and as
torchvision does; the code of its authors divides levels by 10 instead, and never reaches the highest. Signs of shears,
shifts and rotations, which AutoAugment draws, are positive: Pillow's affine coefficients, and its rotation against the
clock. As in both codes, pixels are those of the nearest place. What comes into sight from beyond the image is black,
the background of a slice: our choice, and torchvision's; the authors show the data set's mean colour there.

References:
    Lo et al. 2019, section 2.4. Cubuk et al. 2019, arXiv:1805.09501, appendix (ranges of magnitudes, and the policy for
    SVHN). Shifts are up to 150 px of 331, the side of the images that the paper gives the range for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from digipath.errors import BadInput

Pixels = NDArray[np.uint8]
Range = tuple[float, float]
Operation = tuple[str, int]  # its name and the level of its magnitude
LEVELS = 10
SHIFT = 150 / 331  # of the side
SCALES: Mapping[str, Range] = {
    "ShearX": (0.0, 0.3),
    "ShearY": (0.0, 0.3),
    "TranslateX": (0.0, SHIFT),
    "TranslateY": (0.0, SHIFT),
    "Rotate": (0.0, 30.0),
    "Solarize": (256.0, 0.0),
    "Contrast": (0.1, 1.9),
}
SVHN_POLICY: tuple[tuple[Operation, Operation], ...] = (
    (("ShearX", 4), ("Invert", 3)),
    (("ShearY", 8), ("Invert", 5)),
    (("Equalize", 5), ("Solarize", 6)),
    (("Invert", 3), ("Equalize", 3)),
    (("Equalize", 1), ("Rotate", 3)),
    (("ShearX", 4), ("AutoContrast", 3)),
    (("ShearY", 8), ("Invert", 5)),
    (("ShearY", 5), ("Solarize", 6)),
    (("Invert", 6), ("AutoContrast", 1)),
    (("Equalize", 3), ("Rotate", 3)),
    (("ShearX", 4), ("Solarize", 3)),
    (("ShearY", 8), ("Invert", 4)),
    (("Equalize", 5), ("TranslateY", 6)),
    (("Invert", 4), ("Equalize", 7)),
    (("Contrast", 3), ("Rotate", 4)),
    (("Invert", 5), ("TranslateY", 2)),
    (("ShearY", 6), ("Solarize", 8)),
    (("Invert", 4), ("Rotate", 4)),
    (("ShearY", 7), ("TranslateX", 3)),
    (("ShearX", 6), ("Invert", 5)),
    (("Solarize", 2), ("TranslateY", 7)),
    (("ShearY", 4), ("Invert", 8)),
    (("ShearX", 9), ("TranslateY", 3)),
    (("ShearY", 5), ("AutoContrast", 3)),
    (("ShearX", 2), ("Invert", 5)),
)


def _operations() -> Mapping[str, tuple[Operation, ...]]:
    """Pairs in the policy's order, then single operations as they first occur; each once."""
    pairs = dict.fromkeys(SVHN_POLICY)
    singles = dict.fromkeys((one,) for pair in SVHN_POLICY for one in pair)
    every: list[tuple[Operation, ...]] = [*pairs, *singles]
    return MappingProxyType({", ".join(f"{name} {level}" for name, level in steps): steps for steps in every})


SVHN_OPERATIONS = _operations()  # "ShearX 4, Invert 3" → what is done, one after the other


def svhn_images(image: Pixels) -> tuple[Pixels, ...]:
    """The 57 fixed images of a slice: itself, then one for each of `SVHN_OPERATIONS`, in their order.

    Args:
        image: uint8 (H, W) or (H, W, 3).

    Returns:
        57 arrays of the same shape and dtype, the caller's own.

    Raises:
        BadInput: another dtype or shape.
    """
    _check(image)
    changed = [image.copy()]
    for steps in SVHN_OPERATIONS.values():
        shown = image
        for name, level in steps:
            shown = operated(shown, name, level)
        changed.append(shown)
    return tuple(changed)


def operated(image: Pixels, name: str, level: int) -> Pixels:
    """An image after one of AutoAugment's operations, at a level from 0 to 9 of its scale.

    Args:
        image: uint8 (H, W) or (H, W, 3). name: of `OPERATIONS`.

    Raises:
        BadInput: another image, an operation or a level that is not there.
    """
    _check(image)
    if name not in OPERATIONS or not 0 <= level < LEVELS:
        raise BadInput(f"expected one of {', '.join(OPERATIONS)} at a level from 0 to {LEVELS - 1}, got {name} {level}")
    low, high = SCALES.get(name, (0.0, 0.0))
    magnitude = low + (high - low) * level / (LEVELS - 1)
    return np.array(OPERATIONS[name](Image.fromarray(image), magnitude))


def _affine(image: Image.Image, *rows: float) -> Image.Image:
    """The point (x, y) shows what was at (ax + by + c, dx + ey + f)."""
    return image.transform(image.size, Image.Transform.AFFINE, rows)


OPERATIONS: Mapping[str, Callable[[Image.Image, float], Image.Image]] = {
    "ShearX": lambda image, shear: _affine(image, 1, shear, 0, 0, 1, 0),
    "ShearY": lambda image, shear: _affine(image, 1, 0, 0, shear, 1, 0),
    "TranslateX": lambda image, share: _affine(image, 1, 0, share * image.width, 0, 1, 0),
    "TranslateY": lambda image, share: _affine(image, 1, 0, 0, 0, 1, share * image.height),
    "Rotate": lambda image, degrees: image.rotate(degrees),
    "Solarize": lambda image, threshold: ImageOps.solarize(image, math.ceil(threshold)),  # inverts what is not below
    "Contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "Invert": lambda image, _: ImageOps.invert(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
}


@dataclass(frozen=True)
class SliceAugmentation:
    """Conventional changes of a slice: "translation, flipping, cropping, scaling, and rotation" (Lo et al. 2019).

    The paper names no amounts: these are our choice. Each value is drawn uniformly from its range.

    Attributes:
        flip: mirrored left to right, every second slice.
        rotation_degrees: turned by up to ± this angle about the centre.
        scale: range of the factor by which what is seen grows; above 1 it is a crop, which `shift` places.
        shift: moved by up to ± this share of the side, along each axis.
    """

    flip: bool = True
    rotation_degrees: float = 15.0
    scale: Range = (0.9, 1.1)
    shift: float = 0.05

    def check(self) -> None:
        """Raise BadInput, naming the setting, if one is out of bounds."""
        for name, most in (("rotation_degrees", 180), ("shift", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise BadInput(f"augmentation: {name} must be in [0, {most}], got {getattr(self, name)}")
        if not 0.1 <= self.scale[0] <= self.scale[1] <= 10:
            raise BadInput(f"augmentation: scale must be a range from low to high in [0.1, 10], got {list(self.scale)}")


CHANCES = 5  # mirror, rotation, scale, shifts (2)


def changed_slice(image: Pixels, augmentation: SliceAugmentation, rng: np.random.Generator) -> Pixels:
    """One conventionally changed slice, in one interpolation; every call draws the same amount of chance.

    `digipath.tile_augment.augment_tile` does the like for tiles, beyond whose border tissue goes on; here there is
    black.

    Args:
        image: uint8 (H, W) or (H, W, 3). augmentation: what may be changed. rng: gives the chance.

    Returns:
        The same shape, the caller's own; bilinear between pixels, black from beyond the border.

    Raises:
        BadInput: another dtype or shape.
    """
    _check(image)
    chance = rng.uniform(size=CHANCES)
    shown = image[:, ::-1] if augmentation.flip and chance[0] < 0.5 else image
    angle = math.radians(augmentation.rotation_degrees * (2 * chance[1] - 1))
    scale = augmentation.scale[0] + (augmentation.scale[1] - augmentation.scale[0]) * chance[2]
    (height, width), shifts = image.shape[:2], augmentation.shift * (2 * chance[3:] - 1)
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    x, y = (shifts[0] + 0.5) * width, (shifts[1] + 0.5) * height  # where the centre comes to
    if (cosine, sine, *shifts) == (1, 0, 0, 0):
        return np.array(shown)
    back = (cosine, -sine, width / 2 - cosine * x + sine * y, sine, cosine, height / 2 - sine * x - cosine * y)
    picture = Image.fromarray(np.ascontiguousarray(shown))
    return np.array(picture.transform(picture.size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR))


def _check(image: Pixels) -> None:
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise BadInput(f"expected an image uint8 (H, W) or (H, W, 3), got {image.dtype} {image.shape}")
