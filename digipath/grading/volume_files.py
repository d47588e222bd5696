"""The MRI of a patient: which files, and what is computed of them once for all networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.case import file_identity
from digipath.errors import NotFound
from digipath.grading.volume_networks import VolumeGrader
from digipath.tumour import find_tumour, networks_behind
from digipath.values import Cancel, Card, ProgressCallback
from digipath.volume import bias_field_corrected, open_volumes, volume_files
from digipath.volume_rois import BRAIN, Region, region_of
from digipath.volume_values import Volume
from digipath.weights import segmenter, verify

Told = Callable[[str], object]


@dataclass(frozen=True)
class VolumeFiles:
    """The files of one patient's MRI.

    Attributes:
        modalities: modality → NIfTI file or folder of a DICOM series.
        brain, tumour: masks, where given.
    """

    modalities: Mapping[str, Path]
    brain: Path | None = None
    tumour: Path | None = None

    @classmethod
    def of(
        cls,
        volumes: Mapping[str, str | Path] | Sequence[str | Path],
        brain: str | Path | None = None,
        tumour: str | Path | None = None,
    ) -> VolumeFiles:
        """From what the caller gave. Raises BadVolume, NotFound: as `digipath.volume.volume_files`, masks too."""
        found = cls(volume_files(volumes), *(None if mask is None else Path(mask) for mask in (brain, tumour)))
        for name, path in found.masks.items():
            if not path.exists():
                raise NotFound(f"expected a mask of the {name}, found nothing at {path}")
        return found

    @property
    def name(self) -> str:
        """Of the folder that the volumes lie in, which in most collections is the patient's."""
        return next(iter(self.modalities.values())).resolve().parent.name

    @property
    def masks(self) -> dict[str, Path]:
        """The masks that were given, by name."""
        return {name: path for name in ("brain", "tumour") if (path := getattr(self, name)) is not None}

    def identity(self) -> dict[str, Any]:
        """What grades depend on."""
        return {name: _identity_of(path) for name, path in {**self.modalities, **self.masks}.items()}


class OpenedVolume:
    """A patient's MRI, read when first asked for, and once for all networks, as is what is computed of it.

    Args:
        files: see `VolumeFiles`.
    """

    def __init__(self, files: VolumeFiles) -> None:
        self.files = files
        self._tumours: dict[Path, NDArray[np.bool_]] = {}  # card → (X, Y, Z)
        self._corrected: dict[str, NDArray[np.float32]] = {}  # modality → (X, Y, Z)

    @cached_property
    def volume(self) -> Volume:
        """As the files are. Raises what `digipath.volume.open_volumes` raises."""
        return open_volumes(self.files.modalities, brain=self.files.brain, tumour=self.files.tumour)

    def corrected(self, order: Sequence[str], told: Told | None = None) -> Volume:
        """The volume with these modalities alone, without their bias fields, each of which is found once."""
        volume = self.volume
        if lacking := tuple(name for name in order if name not in self._corrected):
            if told is not None:
                told(f"correcting the bias field of {', '.join(lacking)}")
            channels = [volume.modalities.index(name) for name in lacking]
            found = bias_field_corrected(replace(volume, modalities=lacking, voxels=volume.voxels[..., channels]))
            self._corrected |= dict(zip(lacking, np.moveaxis(found.voxels, -1, 0), strict=True))
        voxels = np.stack([self._corrected[name] for name in order], axis=-1)
        return replace(volume, modalities=tuple(order), voxels=voxels)

    def region(
        self,
        grader: VolumeGrader,
        *,
        slice_vox: int | None = None,
        told: Told | None = None,
        progress: ProgressCallback | None = None,
        cancel: Cancel | None = None,
    ) -> Region:
        """What a network sees of the volume.

        Args:
            slice_vox: the axial slice for networks of slices. told: called with what takes long, before it is done.
            progress, cancel: as for `digipath.tumour.find_tumour`, where the tumour has to be found.

        Raises:
            BadVolume: as `digipath.volume_rois.region_of`, or no tumour was found.
            Cancelled: `cancel` said so.
        """
        volume, rule = self.volume, grader.rule
        if rule.bias_field:
            volume, rule = self.corrected(rule.order, told), replace(rule, bias_field=False)
        if (card := self._seeks(grader)) is not None:
            volume = replace(volume, tumour=self._found(card, told, progress, cancel))
        return region_of(volume, rule, slice_vox=slice_vox)

    def sought(self, grader: VolumeGrader) -> bool:
        """Whether a network looks at a tumour that another network has to find."""
        return grader.rule.roi != BRAIN and self.files.tumour is None and grader.segmenter is not None

    def _seeks(self, grader: VolumeGrader) -> Card | None:
        """The card of the network that has to find the tumour. Raises UnknownWeights, BadCard: see `digipath.load`."""
        return segmenter(grader.card) if self.sought(grader) else None

    def segmenters(self, graders: Sequence[VolumeGrader]) -> dict[str, str]:
        """Name → sha256 of the networks that have to find the tumour for these. Raises as `digipath.load`."""
        cards = [card for one in graders if (card := self._seeks(one)) is not None]
        return {one.name: verify(one) for card in cards for one in networks_behind(card)}

    def _found(
        self, card: Card, told: Told | None, progress: ProgressCallback | None, cancel: Cancel | None
    ) -> NDArray[np.bool_]:
        """(X, Y, Z) where a card's network finds the tumour."""
        if card.path not in self._tumours:
            asked = card.record["input"]
            corrected = bool(asked.get("bias_field", True))
            volume = self.corrected(asked["order"], told) if corrected else self.volume
            if told is not None:
                told(f"finding the tumour with {card.name}")
            found = find_tumour(volume, card, corrected=corrected, progress=progress, cancel=cancel)
            self._tumours[card.path] = found
        return self._tumours[card.path]

    def lacks(self, grader: VolumeGrader) -> str | None:
        """Why a network cannot vote on these files, in words; None where it can."""
        given = self.files.modalities
        if lacking := [name for name in grader.rule.order if name not in given]:
            return f"{', '.join(lacking)} not given"
        if grader.rule.roi == BRAIN or self.files.tumour is not None:
            return None
        if (card := self._seeks(grader)) is None:
            return "the tumour is not outlined (--tumour FILE)"
        asked = card.record["input"]["order"]
        lacking = [name for name in asked if name not in given]
        return f"{', '.join(lacking)} not given, to find the tumour in" if lacking else None


def _identity_of(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return {"files": [file_identity(one) for one in sorted(path.iterdir()) if one.is_file()]}
    return file_identity(path)
