"""Training volumes changed as other heads, scanners and postures might have made them; of a volume with its grade only.

In this order: intensities by an exponent, mirroring, quarter turns, then zoom, rotation and elastic deformation, these
three in one interpolation. All channels are moved alike. Every call draws the same amount of chance whatever is
switched on, so that switching one change on leaves the others as they were.

References:
    Pereira et al. 2018, section 2.2. Lerousseau et al. 2020, section 3.2, made with MONAI, whose Rand3DElastic is
    followed: noise in [−1, 1] for each voxel and axis, smoothed by a Gaussian that is cut off at 3 sigma and sees zeros
    beyond the volume, times a magnitude. Simard et al. 2003, doi:10.1109/ICDAR.2003.1227801 (elastic deformation).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from digipath.errors import BadInput, BadVolume

Range = tuple[float, float]
Floats = NDArray[np.float32]
CHANCES = 10  # exponent, mirror, quarter turns, rotations (3), zoom, elastic: sigma, magnitude, the seed of its noise
CUT_OFF = 3.0  # sigmas
SEEDS = 2**53  # as many as a chance tells apart
LIMITS: Mapping[str, Range] = {
    "zoom": (0.1, 10.0),
    "elastic_sigma_vox": (0.0, 100.0),
    "elastic_magnitude_vox": (0.0, 1000.0),
    "gamma": (0.1, 10.0),
}


@dataclass(frozen=True)
class VolumeAugmentation:
    """What may be changed; each value is drawn uniformly from its range.

    Attributes:
        flip: mirrored left to right, across the sagittal plane, every second volume.
        quarter_turns: turned by a multiple of 90° in the axial plane; with `flip`, all eight symmetries of that plane
            are equally frequent.
        rotation_degrees: turned by up to ± these angles about x, then y, then z, through the centre; about z from x
            towards y, and so on in turn.
        zoom: range of the factor by which what is seen grows, the same along all axes.
        elastic_sigma_vox, elastic_magnitude_vox: ranges of the smoothness and the strength of a random displacement.
            Its standard deviation along each axis is magnitude · 0.0865 / sigma^1.5 voxels: with sigma 1 and magnitude
            200 it is 17 voxels from one voxel to the next, which leaves noise; with sigma 10 it is 0.5.
        gamma: range of the exponent of intensities, one for all channels. Of a channel, what is not 0 is brought to
            [0, 1] by its own least and greatest value, raised, and brought back: these two stay, and so does 0, the
            background.
    """

    flip: bool = False
    quarter_turns: bool = False
    rotation_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)
    zoom: Range = (1.0, 1.0)
    elastic_sigma_vox: Range = (1.0, 1.0)
    elastic_magnitude_vox: Range = (0.0, 0.0)
    gamma: Range = (1.0, 1.0)

    def check(self) -> None:
        """Raise BadInput, naming the setting, if a range or an angle is out of bounds."""
        for name, (least, most) in LIMITS.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise BadInput(
                    f"augmentation: {name} must be a range from low to high in [{least:g}, {most:g}], "
                    f"got {[low, high]}"
                )
        if len(self.rotation_degrees) != 3 or not all(0 <= angle <= 180 for angle in self.rotation_degrees):
            raise BadInput(
                "augmentation: rotation_degrees must be three angles in [0, 180], about x, y and z, "
                f"got {list(self.rotation_degrees)}"
            )


# Pereira et al. do not say about which axis they turn by up to 20°, nor on which intensities their exponent acts: about
# the body's axis, and those between the least and the greatest of the brain, are our choices.
PEREIRA = VolumeAugmentation(flip=True, quarter_turns=True, rotation_degrees=(0.0, 0.0, 20.0), gamma=(0.85, 1.15))
# Beside the crop of the foreground, which is the region's. As MONAI means these ranges, a deformation whose sigma is
# below about 3 voxels folds tissue over itself, which is about every fifth.
LEROUSSEAU = VolumeAugmentation(
    rotation_degrees=(10.0, 10.0, 10.0),
    zoom=(0.8, 1.2),
    elastic_sigma_vox=(1.0, 10.0),
    elastic_magnitude_vox=(10.0, 200.0),
)
PRESETS: Mapping[str, VolumeAugmentation] = {"pereira": PEREIRA, "lerousseau": LEROUSSEAU}


def changed(
    volume: Floats, augmentation: VolumeAugmentation, rng: np.random.Generator, *, beyond: ArrayLike = 0
) -> Floats:
    """One changed volume: a pure function of its arguments and the generator's state.

    Args:
        volume: float32 (X, Y, Z, C), axes in RAS order, of any values.
        augmentation: what may be changed. rng: gives the chance.
        beyond: what comes into sight from beyond its border, one value or C: its background, which is 0 where
            intensities were standardised inside the brain.

    Returns:
        float32 (X, Y, Z, C), the caller's own; values between voxels are interpolated linearly.

    Raises:
        BadVolume: the volume is not of four dimensions, or quarter turns are due and X is not Y.
    """
    if volume.ndim != 4 or (augmentation.quarter_turns and volume.shape[0] != volume.shape[1]):
        rule = ", X = Y because of quarter turns" if augmentation.quarter_turns else ""
        raise BadVolume(f"expected a volume (X, Y, Z, channels){rule}, got {volume.shape}")
    chance = rng.uniform(size=CHANCES)
    channels = np.ascontiguousarray(np.moveaxis(volume, 3, 0), np.float32)  # which is three times as fast
    channels = _raised(channels, _within(augmentation.gamma, chance[0]))
    if augmentation.flip and chance[1] < 0.5:
        channels = channels[:, ::-1]
    if augmentation.quarter_turns:
        channels = np.rot90(channels, int(4 * chance[2]), axes=(1, 2))
    back = _way_back(augmentation, chance[3:7])
    offsets = _offsets(channels.shape[1:], augmentation, chance[7:])
    if offsets is not None or (back != np.eye(3)).any():
        channels = _moved(channels, back, offsets, np.broadcast_to(beyond, len(channels)))
    return np.array(np.moveaxis(channels, 0, 3), np.float32, order="C")


def _within(bounds: Range, chance: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * float(chance)


def _raised(channels: Floats, gamma: float) -> Floats:
    """Each channel to the power of gamma, between its least and its greatest value that is not 0."""
    if gamma == 1:
        return channels
    raised = channels.copy()
    for channel in raised:
        seen = channel != 0
        inside = channel[seen]
        low, high = (inside.min(), inside.max()) if inside.size else (0, 0)
        if low < high:
            channel[seen] = low + (high - low) * ((inside - low) / (high - low)) ** np.float32(gamma)
    return raised


def _way_back(augmentation: VolumeAugmentation, chance: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3): from where something is shown, seen from the centre, to where it was before rotation and zoom."""
    angles = [angle * (2 * share - 1) for angle, share in zip(augmentation.rotation_degrees, chance[:3], strict=True)]
    turn = np.eye(3)
    for axis, degrees in enumerate(angles):
        turn = _turn(axis, degrees) @ turn
    return turn.T / _within(augmentation.zoom, chance[3])


def _turn(axis: int, degrees: float) -> NDArray[np.float64]:
    """Rotation matrix about an axis, from the axis after it towards the one before it."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = cosine
    matrix[second, first], matrix[first, second] = sine, -sine
    return matrix


def _offsets(
    shape_vox: tuple[int, ...], augmentation: VolumeAugmentation, chance: NDArray[np.float64]
) -> Floats | None:
    """How far each voxel looks aside along x, y, z, (3, X, Y, Z); None where nothing is to be deformed."""
    magnitude = _within(augmentation.elastic_magnitude_vox, chance[1])
    if magnitude == 0:
        return None
    sigma = _within(augmentation.elastic_sigma_vox, chance[0])
    noise = np.random.default_rng(int(SEEDS * chance[2])).random((3, *shape_vox), np.float32)
    return _smoothed(2 * noise - 1, sigma) * np.float32(magnitude)


def _smoothed(noise: Floats, sigma_vox: float) -> Floats:
    """Noise (3, X, Y, Z) behind a Gaussian along x, y and z, zeros beyond the border."""
    smooth = ndimage.gaussian_filter(noise, (0, *[sigma_vox] * 3), mode="constant", truncate=CUT_OFF)
    return np.asarray(smooth, np.float32)


def _moved(
    channels: Floats, back: NDArray[np.float64], offsets: Floats | None, beyond: NDArray[np.floating]
) -> Floats:
    """What lies at back · (voxel + its offset), seen from the centre; linear, `beyond` (C,) beyond the border."""
    shape_vox = channels.shape[1:]
    centre = (np.array(shape_vox, np.float32) - 1).reshape(3, 1, 1, 1) / 2
    seen = np.indices(shape_vox, np.float32) - centre
    if offsets is not None:
        seen += offsets
    places = np.tensordot(back.astype(np.float32), seen, axes=1) + (centre + 1)
    return np.stack([  # padded, so that the border fades within one voxel
        ndimage.map_coordinates(np.pad(channel, 1, constant_values=value), places, order=1, cval=value)
        for channel, value in zip(channels, beyond, strict=True)
    ])  # fmt: skip
