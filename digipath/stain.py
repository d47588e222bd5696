"""What a stain looks like in numbers, and pictures brought from one stain to another.

Two methods, both fitted on stained pixels only: those whose optical density has a length of at
least β = 0.15, and that are not black, as the frame of a scan or the rim of a padded picture is:
a hundredth of black pixels would become a stain of its own. Optical density is −log10 of the
transmitted share, (value + 1) / 256 of a channel.

macenko: Macenko et al. 2009, doi:10.1109/ISBI.2009.5193250. The stained pixels' plane through the
    origin (SVD), in it the directions at the 1st and the 99th percentile of the angles: the colours
    of haematoxylin and eosin; how strong each is: the 99th percentile of its concentrations. A
    pixel keeps the part that the two stains explain; white stays white.
reinhard: Reinhard et al. 2001, doi:10.1109/38.946629. Mean and standard deviation per channel of
    lαβ, the paper's own logarithmic space (not CIE L*a*b*, which is often taken for it): a shift and
    a scale of optical densities, exactly inverted. Glass takes a tint; it is no tissue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput

Pixels = NDArray[np.uint8]
Normaliser = Callable[[Pixels], Pixels]

STAINED_ABOVE = 0.15  # length of the optical density (log10)
BLACK_BELOW = 20  # all of R, G and B: no stain lets so little through
DARKEST = 1.5  # median length of the optical density; H&E has 0.3 to 0.8, a fluorescent stain on black 2.9
PERCENTILE = 1.0  # of the angles, on either side; 100 minus it, of the concentrations
LEAST_STAINED_PX = 500
MOST_STAINED_PX = 250_000  # more say nothing new about percentiles
LEAST_ANGLE = np.radians(9.0)  # between two stains: H&E has 12° and more, even at 8 µm/px; one stain in a JPEG below 9°
LEAST_SPREAD = 1e-3  # of lαβ: a picture of one colour
DIGITS = 5  # of the fitted numbers, which go into cards
PIECE_PX = 16_384  # stays in the cache, and BLAS uses no threads of its own: beside a network they stall

_DENSITY = -np.log10((np.arange(256) + 1) / 256)  # of each value of a channel
RGB_TO_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
LMS_TO_LAB = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])

_SHAPES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "macenko": {"stains": (2, 3), "strengths": (2,)},
    "reinhard": {"mean": (3,), "spread": (3,)},
}
METHODS = tuple(_SHAPES)


def check_method(method: str) -> None:
    """Refuse a method that does not exist."""
    if method not in METHODS:
        raise BadInput(f"stain method must be one of {', '.join(METHODS)}, got {method!r}")


def _check_stains(stains: NDArray[np.float64]) -> None:
    if np.abs(np.linalg.norm(stains, axis=1) - 1).max() > 0.01:
        raise BadInput(f"stains of a macenko reference must be unit vectors, got {stains.tolist()}")
    angle = np.arccos(np.clip(stains[0] @ stains[1], -1, 1))
    if angle < LEAST_ANGLE:
        raise BadInput(
            f"expected two stains, found one colour (directions {np.degrees(angle):.1f}° apart, "
            f"at least {np.degrees(LEAST_ANGLE):.0f}° wanted)"
        )


@dataclass(frozen=True)
class StainReference:
    """The stain of a slide or picture, by one method.

    Attributes:
        method: "macenko" or "reinhard".
        numbers: macenko: `stains`, two unit vectors of optical density (R, G, B), haematoxylin
            first; `strengths`, the 99th percentile of their concentrations (log10 units).
            reinhard: `mean` and `spread` (standard deviation) of l, α, β (log10 units).

    Raises:
        BadInput: an unknown method; numbers missing, unknown, of the wrong shape, or impossible.
    """

    method: str
    numbers: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_method(self.method)
        shapes = _SHAPES[self.method]
        if set(self.numbers) != set(shapes):
            raise BadInput(f"a {self.method} reference has {', '.join(shapes)}, got {', '.join(self.numbers) or None}")
        try:
            arrays = {name: np.array(self.numbers[name], np.float64) for name in shapes}
        except (TypeError, ValueError) as error:
            raise BadInput(f"a {self.method} reference is made of numbers, got {dict(self.numbers)}") from error
        for name, values in arrays.items():
            if values.shape != shapes[name] or not np.isfinite(values).all():
                raise BadInput(f"{name} of a {self.method} reference has shape {shapes[name]}, got {values.tolist()}")
            if name in ("strengths", "spread") and not (values > 0).all():
                raise BadInput(f"{name} of a {self.method} reference must be above 0, got {values.tolist()}")
        if self.method == "macenko":
            _check_stains(arrays["stains"])
        object.__setattr__(self, "numbers", {name: values.tolist() for name, values in arrays.items()})

    def to_record(self) -> dict[str, Any]:
        """As a card's `input.stain` and the run record hold it."""
        return {"method": self.method, **self.numbers}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> StainReference:
        """The inverse of `to_record`. Raises BadInput as the class does."""
        numbers = {name: value for name, value in record.items() if name != "method"}
        return cls(record.get("method", ""), numbers)

    def array(self, name: str) -> NDArray[np.float64]:
        """One of the numbers as an array."""
        return np.array(self.numbers[name])


# Used where the user gives no reference of their own; published and widely used numbers, brought to
# log10. macenko: `HERef` and `maxCRef` of M. Veta's staining-normalization, 2013 (natural logarithm,
# light 240). reinhard: TCGA-A2-A3XS-DX1 of Amgad et al. 2019, doi:10.1093/bioinformatics/btz083, as
# stated with HistomicsTK (natural logarithm of values up to 255).
REFERENCES: Mapping[str, StainReference] = {
    "macenko": StainReference(
        "macenko",
        {"stains": [[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]], "strengths": [0.85578, 0.44767]},
    ),
    "reinhard": StainReference(
        "reinhard", {"mean": [-0.37204, -0.05403, 0.01933], "spread": [0.26646, 0.04773, 0.01242]}
    ),
}


def fit_stain(rgb: Pixels, method: str = "macenko") -> StainReference:
    """The stain of these pixels; glass and black among them are left out.

    Args:
        rgb: uint8 (..., 3), best the tissue only, at the resolution of the patches that will be
            normalised: coarser pixels mix the stains.
        method: "macenko" or "reinhard".

    Raises:
        BadInput: another shape or type, fewer than 500 stained pixels, only one colour, or pixels
            too dark for light to have come through tissue (fluorescence).
    """
    check_method(method)
    if rgb.dtype != np.uint8 or rgb.ndim < 1 or rgb.shape[-1] != 3:
        raise BadInput(f"expected uint8 pixels (..., 3), got {rgb.dtype} {rgb.shape}")
    stained = _stained(rgb.reshape(-1, 3), method)
    stains = _two_stains(stained)  # whatever the method: a slide of one stain has no place beside H&E
    return _fit_macenko(stained, stains) if method == "macenko" else _fit_reinhard(stained)


def normaliser(source: StainReference, target: StainReference) -> Normaliser:
    """A function that gives pixels of the source's stain the target's: uint8 (..., 3) to the same.

    Raises:
        BadInput: source and target are of different methods.
    """
    if source.method != target.method:
        raise BadInput(f"source and target stain must be of one method, got {source.method} and {target.method}")
    return _macenko(source, target) if source.method == "macenko" else _reinhard(source, target)


def _stained(pixels: Pixels, method: str) -> Pixels:
    """Those of pixels (n, 3) that show stain, evenly thinned to at most MOST_STAINED_PX."""
    length = np.linalg.norm(_DENSITY[pixels], axis=1)
    inside = (length >= STAINED_ABOVE) & (pixels.max(axis=1) >= BLACK_BELOW)
    count = int(inside.sum())
    if count < LEAST_STAINED_PX:
        raise BadInput(
            f"expected at least {LEAST_STAINED_PX} stained pixels to fit {method} on, found {count} among {len(pixels)}"
        )
    if np.median(length[inside]) > DARKEST:
        raise BadInput(
            f"expected stained tissue with light behind it, found pixels on black (median optical density "
            f"{np.median(length[inside]):.1f}, at most {DARKEST} wanted); is it fluorescence?"
        )
    return pixels[inside][:: -(-count // MOST_STAINED_PX)]


def _two_stains(stained: Pixels) -> NDArray[np.float64]:
    """(2, 3) directions of optical density by Macenko's method, haematoxylin first."""
    density = _DENSITY[stained]
    _, vectors = np.linalg.eigh(density.T @ density)  # as the SVD of all densities, but 3 × 3
    plane = vectors[:, [2, 1]]  # the first direction is about the mean colour: keep it pointing there
    plane *= np.where(plane.sum(axis=0) < 0, -1, 1)
    across, along = (density @ plane).T[::-1]
    angles = np.percentile(np.arctan2(across, along), [PERCENTILE, 100 - PERCENTILE])
    stains = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ plane.T
    stains = stains[np.argsort(-stains[:, 0])]  # haematoxylin is blue: it takes more of the red
    _check_stains(stains)
    return stains


def _fit_macenko(stained: Pixels, stains: NDArray[np.float64]) -> StainReference:
    strengths = np.percentile(_DENSITY[stained] @ np.linalg.pinv(stains), 100 - PERCENTILE, axis=0)
    return StainReference("macenko", {"stains": stains.round(DIGITS), "strengths": strengths.round(DIGITS)})


def _macenko(source: StainReference, target: StainReference) -> Normaliser:
    gain = target.array("strengths") / source.array("strengths")
    # Densities → concentrations (least squares) → the target's densities; for any logarithm alike.
    change = (np.linalg.pinv(source.array("stains")) * gain @ target.array("stains")).astype(np.float32)
    log_light = np.log((np.arange(256, dtype=np.float32) + 1) / 256)

    def transmitted(pixels: Pixels) -> NDArray[np.float32]:
        light = log_light[pixels] @ change
        return np.exp(light, out=light)

    return _piecewise(transmitted)


def _fit_reinhard(stained: Pixels) -> StainReference:
    lab = np.log10((stained + 1.0) / 256 @ RGB_TO_LMS.T) @ LMS_TO_LAB.T
    mean, spread = lab.mean(axis=0), lab.std(axis=0)
    if spread.min() < LEAST_SPREAD:
        raise BadInput("expected stained tissue, found one colour")
    return StainReference("reinhard", {"mean": mean.round(DIGITS), "spread": spread.round(DIGITS)})


def _reinhard(source: StainReference, target: StainReference) -> Normaliser:
    gain = target.array("spread") / source.array("spread")
    shift = target.array("mean") - source.array("mean") * gain
    # LMS_TO_LAB is orthonormal: its transpose leads back. Shift and scale are done in log LMS.
    change = (LMS_TO_LAB.T * gain @ LMS_TO_LAB).T.astype(np.float32)
    offset = (shift @ LMS_TO_LAB * np.log(10)).astype(np.float32)
    to_lms = (RGB_TO_LMS.T / 256).astype(np.float32)
    to_rgb = np.linalg.inv(RGB_TO_LMS.T).astype(np.float32)
    one = to_lms.sum(axis=0)

    def transmitted(pixels: Pixels) -> NDArray[np.float32]:
        lms = pixels.astype(np.float32) @ to_lms
        lms += one
        logs = np.log(lms, out=lms) @ change
        logs += offset
        return np.exp(logs, out=logs) @ to_rgb

    return _piecewise(transmitted)


def _piecewise(transmitted: Callable[[Pixels], NDArray[np.float32]]) -> Normaliser:
    """From a function of pixels (n, 3) to transmitted shares to one of any number of pixels to pixels."""

    def normalise(rgb: Pixels) -> Pixels:
        pixels = rgb.reshape(-1, 3)
        out = np.empty_like(pixels)
        for first in range(0, len(pixels), PIECE_PX):
            piece = slice(first, first + PIECE_PX)
            light = transmitted(pixels[piece])
            light *= 256
            light -= 0.5  # −1, the inverse of (value + 1) / 256, and +0.5 as the conversion cuts off
            out[piece] = np.clip(light, 0, 255, out=light)
        return out.reshape(rgb.shape)

    return normalise
