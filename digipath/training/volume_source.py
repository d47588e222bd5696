"""Training regions of MRI with their classes: shuffled, changed, and the same on every run.

What `sample(index)` gives depends on the seed and the index alone. Regions, or the fixed images of slices, come in
rounds: each once, every round in an order of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput, DigipathError
from digipath.slice_augment import SVHN_OPERATIONS, SliceAugmentation, changed_slice, operated
from digipath.training.data import Sample, Shape
from digipath.training.rounds import check_labels, one_hot, place_in_round
from digipath.training.volume_config import VolumeArm
from digipath.training.volume_manifest import VolumeCase
from digipath.training.volume_regions import Regions
from digipath.volume_augment import VolumeAugmentation, changed
from digipath.volume_rois import VolumeRule

CHANGES = 3  # the stream of random numbers of changes, beside that of `digipath.training.rounds`


class VolumeSource:
    """Regions of cases with their classes, by index; safe to call from many threads.

    Args:
        cases: whose regions they are. regions: where these are kept.
        arm: which region, and how it is changed.
        classes: names that labels may have.
        training: changed, and each round in an order of its own; False: as they are and in the given order, the first
            of its fixed images of each.

    Attributes:
        failure: the last error that `sample` raised; frameworks that call it hide its kind.

    Raises:
        BadInput: no case, a class that there is not, or a seed below 0.
    """

    def __init__(
        self,
        cases: Sequence[VolumeCase],
        regions: Regions,
        arm: VolumeArm,
        *,
        classes: Sequence[str],
        seed: int = 0,
        training: bool = True,
    ) -> None:
        if not cases or seed < 0:
            raise BadInput(f"expected cases and a seed of at least 0, received {len(cases)} and {seed}")
        self.cases, self.regions, self.arm, self.seed, self.training = tuple(cases), regions, arm, seed, training
        self.classes = tuple(classes)
        self.labels = tuple(self.classes.index(str(case.label)) for case in cases)
        check_labels(self.labels, len(self.classes))
        self.images = arm.images if training else 1
        self.failure: DigipathError | None = None

    def __len__(self) -> int:
        return len(self.cases) * self.images

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """Of a region and of its class."""
        return self.arm.input_shape, (len(self.classes),)

    def sample(self, index: int) -> Sample:
        """The region of an index ≥ 0 and its class: a pure function of the seed and the index.

        Returns (X, Y, Z, C) or, of slices, (side, side, 3) float32, and (classes,) float32, 1 for its class, else 0.
        """
        try:
            number, image = self._place(index)
            pixels = self.regions.read(self.cases[number], self.arm.rule)
            if self.training:
                pixels = self._changed(pixels, image, np.random.default_rng((self.seed, CHANGES, index)))
            return pixels, one_hot(self.labels[number], len(self.classes))
        except DigipathError as error:
            self.failure = error
            raise

    def names(self, samples: Sequence[int]) -> list[str]:
        """The case of each of these samples, by its name."""
        return [self.cases[self._place(index)[0]].name for index in samples]

    def _place(self, index: int) -> tuple[int, int]:
        """Numbers of the case and of its image."""
        return divmod(place_in_round(index, len(self), self.seed, shuffle=self.training), self.images)

    def _changed(self, pixels: NDArray[np.float32], image: int, rng: np.random.Generator) -> NDArray[np.float32]:
        augmentation = self.arm.augmentation
        if augmentation is None:
            return pixels
        if isinstance(augmentation, VolumeAugmentation):
            return changed(pixels, augmentation, rng, beyond=beyond(pixels, self.arm.rule))
        picture = np.rint(pixels).astype(np.uint8)
        if isinstance(augmentation, SliceAugmentation):
            picture = changed_slice(picture, augmentation, rng)
        else:
            for name, level in ((), *SVHN_OPERATIONS.values())[image]:
                picture = operated(picture, name, level)
        return picture.astype(np.float32)


def beyond(pixels: NDArray[np.float32], rule: VolumeRule) -> NDArray[np.float32]:
    """(channels,) what lies beyond a region (X, Y, Z, channels): its background.

    Standardised inside the brain that is 0; over the whole image it is the least value of a region that has any
    background, and where a region lies within the brain its darkest tissue.
    """
    if rule.standardise == "brain":
        return np.zeros(pixels.shape[-1], np.float32)
    return pixels.min(axis=(0, 1, 2))
