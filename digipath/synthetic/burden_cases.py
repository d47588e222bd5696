"""Slides with known tumour burden and the maps that several networks would make of them.

A case has pieces of irregular, torn tissue; in some of them nests of viable tumour within an irregular outline, with
gaps of necrosis and stroma; the whole tumour is what is within that outline and a margin around the nests, and what
they enclose. Its burden is viable / whole, known to the pixel. No rule gives it exactly: the whole tumour is not
convex, and the maps are wrong.

The networks err as a measured detector does (`digipath.synthetic.detector`), each for itself and together: blurred
borders, confidence that wanders over the slide, texture, nests that are missed by their size, false regions, and
log odds that drift from slide to slide as with a stain. What all networks have in common their spread does not
tell. How much that is, and the drift, are assumed, not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.special import ndtr

from digipath.synthetic.detector import (
    CLUSTER_UM,
    NEAR_UM,
    DetectorErrors,
    false_region,
    sigmoid,
)
from digipath.synthetic.drawing import raster

SIDES_PX = range(256, 512, 16)  # of a case, each side by itself
PIECES = (0.4, 0.3, 0.2, 0.1)  # how often there are 1, 2, 3, 4 of tissue
MARGIN_UM = (50, 400)  # tumour further than this from viable nests and not enclosed by them is not known as such
LEAST_VIABLE_MM2 = 0.1  # a case with less is drawn again
EVERYWHERE = np.ones((3, 3), bool)

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Point = NDArray[np.float64]  # x, y


@dataclass(frozen=True)
class EnsembleErrors:
    """How several networks err on one slide.

    Attributes:
        detector: the errors of each, as measured, with the confidence of the default weights' networks.
        members: how many networks.
        shared: share of the variance of each error that all have in common, in [0, 1]. Assumed.
        drift_sd: standard deviation of the log odds' offset between slides. Assumed.
    """

    detector: DetectorErrors = field(default_factory=lambda: DetectorErrors.measured(on_crops=True))
    members: int = 3
    shared: float = 0.7
    drift_sd: float = 0.5

    def scaled(self, factor: float) -> EnsembleErrors:
        """`factor` times the misses, false regions, border blur and drift."""
        return replace(self, detector=self.detector.scaled(factor), drift_sd=self.drift_sd * factor)

    def to_record(self) -> dict[str, Any]:
        """As JSON, for cards."""
        others = {"members": self.members, "shared": self.shared, "drift_sd": self.drift_sd}
        return others | {"detector": self.detector.to_record()}


@dataclass(frozen=True)
class BurdenTruth:
    """A slide as it is: (rows, columns) bool masks, viable ⊆ whole ⊆ tissue; mpp: µm per pixel."""

    tissue: Mask
    whole: Mask
    viable: Mask
    mpp: float

    @property
    def percent(self) -> float:
        """Tumour burden in [0, 100]."""
        return 100 * np.count_nonzero(self.viable) / np.count_nonzero(self.whole)


@dataclass(frozen=True)
class BurdenCase:
    """A slide and what networks make of it: mean and standard deviation of their probabilities, (rows, columns)."""

    truth: BurdenTruth
    probability: Floats
    spread: Floats


def burden_case(errors: EnsembleErrors, rng: np.random.Generator) -> BurdenCase:
    """A case that the generator decides all of; the same state gives the same case."""
    truth = burden_truth(errors.detector.map_mpp, rng)
    maps = member_maps(truth, errors, rng)
    return BurdenCase(truth, maps.mean(axis=0), maps.std(axis=0))


def burden_truth(mpp: float, rng: np.random.Generator) -> BurdenTruth:
    """A slide with one whole tumour in one or several pieces of tissue."""
    while True:
        shape = (int(rng.choice(SIDES_PX)), int(rng.choice(SIDES_PX)))
        tissue, whole, cores = _outlined(shape, 1 + int(rng.choice(len(PIECES), p=PIECES)), rng)
        torn = _field(shape, 120 / mpp, rng)
        tissue &= torn < np.quantile(torn, 1 - rng.uniform(0, 0.06))
        viable = _nests(whole & tissue, mpp, rng) & ~cores
        whole &= tissue & _enclosed(viable, rng.uniform(*MARGIN_UM) / mpp)
        if np.count_nonzero(viable) * mpp**2 >= LEAST_VIABLE_MM2 * 1e6:
            return BurdenTruth(tissue, whole, viable, mpp)


def member_maps(truth: BurdenTruth, errors: EnsembleErrors, rng: np.random.Generator) -> Floats:
    """What each network makes of a slide, (members, rows, columns) float32 in [0, 1]; 0 off tissue."""
    own, shape = errors.detector, truth.tissue.shape
    depth_um, nearest = _depth(truth.viable, own.map_mpp)
    step = sigmoid((depth_um - own.border_shift_um) / own.border_um)
    near = np.clip(2 + depth_um / NEAR_UM, 0, 1)
    near = np.maximum(near, truth.whole)  # necrosis and stroma of a tumour are as doubtful as what is next to it
    around = own.normal_logit + (own.outside_logit - own.normal_logit) * near
    confidence = _correlated(shape, CLUSTER_UM / own.map_mpp, errors, rng)
    texture = _correlated(shape, own.texture_um / own.map_mpp, errors, rng)
    drift = errors.drift_sd * _mixed(rng.standard_normal(), rng.standard_normal(errors.members), errors.shared)
    nests, missed = _missed(truth.viable, errors, rng)
    common = _false_regions(truth.tissue, own, errors.shared, rng)
    maps = []
    for member in range(errors.members):
        inside = own.inside_logit + own.between_sd * confidence[member]
        seen = np.where(missed[member][nests[nearest]], np.float32(0), step)
        logit = around + (inside - around) * seen + own.within_sd * texture[member] * near
        for at, hill in (*common, *_false_regions(truth.tissue, own, 1 - errors.shared, rng)):
            _raise(logit, at, hill)
        maps.append(np.where(truth.tissue, sigmoid(logit + np.float32(drift[member])), np.float32(0)))
    return np.stack(maps)


def _outlined(shape: tuple[int, int], pieces: int, rng: np.random.Generator) -> tuple[Mask, Mask, Mask]:
    """Tissue, whole tumour and necrotic cores: pieces in a row, the tumour in some of them."""
    tissue, whole, cores = ([], [], [])
    axis = int(shape[1] >= shape[0])
    span = shape[axis] / pieces
    with_tumour = rng.permutation(pieces)[: rng.integers(1, pieces + 1)]
    for piece in range(pieces):
        centre = np.array(shape[::-1]) / 2
        centre[1 - axis] = span * (piece + 0.5)
        reach = np.array(shape[::-1]) / 2
        reach[1 - axis] = span / 2
        tissue.append(_irregular(centre, reach * rng.uniform(0.8, 0.97), rng))
        if piece in with_tumour:
            size = reach * rng.uniform(0.35, 1.0)
            middle = centre + (reach - size) * rng.uniform(-0.7, 0.7, 2)
            whole.append(_irregular(middle, size, rng))
            if rng.random() < 0.5:
                cores.append(_irregular(middle, size * rng.uniform(0.2, 0.7), rng))
    return tuple(raster(each, (0.0, 0.0), shape[::-1], 1.0) for each in (tissue, whole, cores))  # type: ignore[return-value]


def _irregular(centre: Point, reach: Point, rng: np.random.Generator) -> NDArray[np.float64]:
    """A closed outline within `reach` (x, y) of its centre, with bays down to less than half of it."""
    angle = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    orders = range(1, int(rng.integers(5, 14)))
    waves = np.sum([rng.normal() / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in orders], axis=0)
    depth = rng.uniform(0.15, 0.6)
    distance = 1 - depth * (waves.max() - waves) / np.ptp(waves)
    return centre + reach * distance[:, None] * np.stack((np.cos(angle), np.sin(angle)), axis=1)


def _nests(whole: Mask, mpp: float, rng: np.random.Generator) -> Mask:
    """Viable parts of a whole tumour: nests of a size, that fill a share of it."""
    size_px = np.exp(rng.uniform(np.log(50), np.log(400))) / mpp
    density = _field(whole.shape, size_px, rng) + 0.5 * _field(whole.shape, size_px / 3, rng)
    within = density[whole]
    if not within.size:
        return whole
    return whole & (density >= np.quantile(within, 1 - rng.uniform(0.05, 1)))


def _enclosed(nests: Mask, margin_px: float) -> Mask:
    """What lies within a margin around the nests, or is enclosed by that."""
    return ndimage.binary_fill_holes(ndimage.distance_transform_edt(~nests) <= margin_px)


def _depth(viable: Mask, mpp: float) -> tuple[Floats, tuple[NDArray[np.int32], ...]]:
    """Distance in µm of each pixel's centre from the border, positive inside, and the viable pixel next to it."""
    inside = ndimage.distance_transform_edt(viable)
    outside, nearest = ndimage.distance_transform_edt(~viable, return_indices=True)
    return (mpp * np.where(viable, inside - 0.5, 0.5 - outside)).astype(np.float32), tuple(nearest)


def _missed(viable: Mask, errors: EnsembleErrors, rng: np.random.Generator) -> tuple[NDArray[np.int32], Mask]:
    """Number of each pixel's nest (0: none), and which network misses which nest, (members, nests + 1)."""
    nests, count = ndimage.label(viable, EVERYWHERE, output=np.int32)
    sides = [max(part.stop - part.start for part in box) for box in ndimage.find_objects(nests)]
    chance = [errors.detector.miss_probability(side * errors.detector.map_mpp) for side in sides]
    luck = _mixed(rng.standard_normal(count), rng.standard_normal((errors.members, count)), errors.shared)
    return nests, np.pad(ndtr(luck) < np.array(chance), ((0, 0), (1, 0)))


def _false_regions(
    tissue: Mask, errors: DetectorErrors, share: float, rng: np.random.Generator
) -> list[tuple[int, Floats]]:
    """Places (flat index) and log odds of false regions, of which there are `share` times the detector's."""
    where = np.flatnonzero(tissue)
    rate = share * errors.false_per_mm2 * len(where) * errors.map_mpp**2 / 1e6
    count = rng.poisson(rate * rng.gamma(errors.false_dispersion) / errors.false_dispersion)
    return [(int(at), false_region(errors, rng)) for at in rng.choice(where, count)]


def _raise(logit: Floats, at: int, hill: Floats) -> None:
    """Lay a hill over the field, its middle at a flat index."""
    row, column = divmod(at, logit.shape[1])
    reach = len(hill) // 2
    field_ = logit[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
    part = hill[max(0, reach - row) :, max(0, reach - column) :][: field_.shape[0], : field_.shape[1]]
    np.maximum(field_, part, out=field_)


def _correlated(shape: Sequence[int], sigma_px: float, errors: EnsembleErrors, rng: np.random.Generator) -> Floats:
    """Smooth noise of unit variance for each network, (members, rows, columns)."""
    common = _field(shape, sigma_px, rng)
    return np.stack([_mixed(common, _field(shape, sigma_px, rng), errors.shared) for _ in range(errors.members)])


def _mixed(common: Any, own: Any, shared: float) -> Any:  # noqa: ANN401 - arrays or numbers
    """Of unit variance, if both are, with `shared` of it in common."""
    return np.float32(np.sqrt(shared)) * common + np.float32(np.sqrt(1 - shared)) * own


def _field(shape: Sequence[int], sigma_px: float, rng: np.random.Generator) -> Floats:
    """White noise through a Gaussian filter, scaled to unit variance; it wraps around."""
    noise = fft.rfft2(rng.standard_normal(tuple(shape), np.float32))
    rows, columns = (
        np.exp(-2 * (np.pi * sigma_px * frequency) ** 2).astype(np.float32)
        for frequency in (fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1]))
    )
    smooth = fft.irfft2(noise * rows * columns, tuple(shape))
    return smooth / smooth.std()
