"""Training patches of MRI with the tumour in them: drawn, changed, and the same on every run.

What `sample(index)` gives depends on the seed and the index alone. The cases of patches come in rounds: each once,
every round in an order of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput, BadVolume, DigipathError
from digipath.roi import brain_box, cut, resized
from digipath.training.data import Sample, Shape
from digipath.training.rounds import place_in_round
from digipath.training.tumour_config import TumourArm
from digipath.training.volume_manifest import VolumeCase
from digipath.training.volume_regions import Regions
from digipath.training.volume_source import CHANGES
from digipath.tumour import THRESHOLD, as_card_wants
from digipath.volume_augment import changed
from digipath.volume_rois import VolumeRule
from digipath.volume_values import Box, Volume

# What the last channel of a marked brain says of a voxel; 0: outside of both.
IN_BRAIN, IN_TUMOUR, IN_TUMOUR_ALONE = 1.0, 2.0, 3.0


def marked_brain(volume: Volume, rule: VolumeRule) -> NDArray[np.float32]:
    """The box of the brain as a card of this rule would want it, (X, Y, Z, channels + 1) float32.

    The last channel is `IN_BRAIN` or `IN_TUMOUR` inside of these, `IN_TUMOUR_ALONE` where an outline reaches beyond the
    brain, else 0. Beyond the box, all would be 0.

    Raises:
        BadInput: no outline of the tumour. BadVolume: of which no voxel is left on the rule's coarser voxels.
    """
    if volume.tumour is None:
        raise BadInput("expected an outline of the tumour, none was given")
    asked = rule.to_record()
    prepared = as_card_wants(volume, asked)
    tumour = resized(volume.tumour.astype(np.float32), prepared.shape_vox) >= THRESHOLD
    if not tumour.any():
        raise BadVolume(
            f"expected a tumour, none of the {int(volume.tumour.sum())} voxels of its outline is left at spacing_mm = "
            f"{asked.get('spacing_mm')}; take smaller voxels, or leave the case out"
        )
    of_brain = np.where(prepared.brain, IN_BRAIN, 0)
    marks = np.where(tumour, np.where(prepared.brain, IN_TUMOUR, IN_TUMOUR_ALONE), of_brain).astype(np.float32)
    return cut(np.concatenate([prepared.voxels, marks[..., None]], axis=-1), brain_box(prepared.brain | tumour))


def unmarked(brain: NDArray[np.float32], rule: VolumeRule) -> tuple[Volume, NDArray[np.bool_]]:
    """A `marked_brain` as a volume, in voxels of 1 mm whatever they were, and its tumour (X, Y, Z)."""
    marks = brain[..., -1]
    inside = (marks == IN_BRAIN) | (marks == IN_TUMOUR)
    return Volume(rule.order, brain[..., :-1].copy(), np.eye(4), inside), marks >= IN_TUMOUR


class TumourSource:
    """Patches with the tumour in them, by index; safe to call from many threads.

    Args:
        cases: whose patches they are. regions: where their marked brains are kept.
        arm: which patches, how drawn and how changed.
        context: voxels on every side of a patch for which a network gives no answer.
        training: changed, the cases of each round in an order of its own; False: as they are, a fixed number.

    Attributes:
        failure: the last error that `sample` raised; frameworks that call it hide its kind.

    Raises:
        BadInput: no case, or a seed below 0.
    """

    def __init__(
        self,
        cases: Sequence[VolumeCase],
        regions: Regions,
        arm: TumourArm,
        *,
        context: int = 0,
        seed: int = 0,
        training: bool = True,
    ) -> None:
        if not cases or seed < 0:
            raise BadInput(f"expected cases and a seed of at least 0, received {len(cases)} and {seed}")
        self.cases, self.regions, self.arm, self.context = tuple(cases), regions, arm, context
        self.seed, self.training = seed, training
        self.failure: DigipathError | None = None
        self._tumours: dict[int, NDArray[np.int64]] = {}  # flat indices of their voxels, of cases seen so far

    def __len__(self) -> int:
        return len(self.cases) if self.training else self.arm.sampling.validation_patches

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """Of a patch and of what is answered for it."""
        x, y, z = (side - 2 * self.context for side in self.arm.rule.size)
        return self.arm.input_shape, (x, y, z, 1)

    def sample(self, index: int) -> Sample:
        """The patch of an index ≥ 0 and its tumour: a pure function of the seed and the index.

        Returns (x, y, z, channels) float32 and, where a network answers, (x, y, z, 1) float32, 1 in the tumour, else 0.
        """
        try:
            rng = np.random.default_rng((self.seed, CHANGES, index))
            patch = self._drawn(self._case(index), rng)
        except DigipathError as error:
            self.failure = error
            raise
        if self.training and self.arm.augmentation is not None:
            patch = changed(patch, self.arm.augmentation, rng)
        inner = (slice(self.context, side - self.context) for side in self.arm.rule.size)
        truth = patch[(*inner, slice(-1, None))] > (IN_BRAIN + IN_TUMOUR) / 2
        return np.ascontiguousarray(patch[..., :-1]), truth.astype(np.float32)

    def names(self, samples: Sequence[int]) -> list[str]:
        """The case of each of these samples, by its name."""
        return [self.cases[self._case(index)].name for index in samples]

    def _case(self, index: int) -> int:
        return place_in_round(index, len(self.cases), self.seed, shuffle=self.training)

    def _drawn(self, number: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """A patch of a marked brain, about a voxel of the tumour or anywhere in its box; 0 beyond."""
        brain = self.regions.open(self.cases[number], self.arm.rule)
        if number not in self._tumours:
            self._tumours[number] = np.flatnonzero(brain[..., -1] >= IN_TUMOUR)
        tumour, shape = self._tumours[number], brain.shape[:3]
        about = rng.random() < self.arm.sampling.tumour_share and len(tumour)
        flat = tumour[rng.integers(len(tumour))] if about else rng.integers(np.prod(shape))
        sides = self.arm.rule.size
        x, y, z = (int(at) - side // 2 for at, side in zip(np.unravel_index(flat, shape), sides, strict=True))
        return cut(brain, Box((x, y, z), (x + sides[0], y + sides[1], z + sides[2])))
