"""The MRI of a patient: which files, and what is computed of them once for all networks."""

from __future__ import annotations

import hashlib
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
from digipath.volume import bias_field_corrected, case_name, open_volumes, read_alone, volume_files
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
        """By folder and names, see `digipath.volume.case_name`."""
        return case_name(next(iter(self.modalities.values())))

    @property
    def masks(self) -> dict[str, Path]:
        """The masks that were given, by name."""
        return {name: path for name in ("brain", "tumour") if (path := getattr(self, name)) is not None}

    def identity(self) -> dict[str, Any]:
        """What grades depend on."""
        return {name: identity_of(path) for name, path in {**self.modalities, **self.masks}.items()}


class OpenedVolume:
    """A patient's MRI, read when first asked for, and once for all networks, as is what is computed of it.

    Args:
        files: see `VolumeFiles`.
    """

    def __init__(self, files: VolumeFiles) -> None:
        self.files = files
        self._tumours: dict[Path, NDArray[np.bool_]] = {}  # card → (X, Y, Z)
        self._corrected: dict[bytes, NDArray[np.float32]] = {}  # hash of a modality as it is → (X, Y, Z)

    @cached_property
    def volume(self) -> Volume:
        """As the files are. Raises what `digipath.volume.open_volumes` raises."""
        return open_volumes(self.files.modalities, brain=self.files.brain, tumour=self.files.tumour)

    def seen(self, order: Sequence[str]) -> Volume:
        """These modalities alone, as a training sees them: their brain is not that of the others. Raises BadVolume."""
        return read_alone(self.volume, order, masked=self.files.brain is not None)

    def corrected(self, order: Sequence[str], told: Told | None = None) -> Volume:
        """The same without their bias fields, each of which is found once: it depends on a modality's values alone."""
        volume = self.seen(order)
        keys = {name: _hash_of(volume.voxels[..., channel]) for channel, name in enumerate(order)}
        if lacking := [name for name, key in keys.items() if key not in self._corrected]:
            if told is not None:
                told(f"correcting the bias field of {', '.join(lacking)}")
            found = bias_field_corrected(volume.only(lacking))
            self._corrected |= {keys[name]: found.voxels[..., channel] for channel, name in enumerate(lacking)}
        return replace(volume, voxels=np.stack([self._corrected[key] for key in keys.values()], axis=-1))

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
            BadVolume: as `digipath.volume_rois.region_of`. TumourNotFound: none is where it has to be found.
            Cancelled: `cancel` said so.
        """
        rule = grader.rule
        volume = self.corrected(rule.order, told) if rule.bias_field else self.seen(rule.order)
        if (card := self._seeks(grader)) is not None:
            volume = replace(volume, tumour=self._found(card, told, progress, cancel))
        return region_of(volume, replace(rule, bias_field=False), slice_vox=slice_vox)

    def outline(self, grader: VolumeGrader) -> NDArray[np.bool_] | None:
        """(X, Y, Z) bool: the tumour that was found for a network's `region`, else the outline given, if any."""
        card = self._seeks(grader)
        return self.volume.tumour if card is None else self._tumours[card.path]

    def sought(self, grader: VolumeGrader) -> bool:
        """Whether a network looks at a tumour that another network has to find."""
        return grader.rule.roi != BRAIN and self.files.tumour is None and grader.segmenter is not None

    def _seeks(self, grader: VolumeGrader) -> Card | None:
        """The card of the network that has to find the tumour. Raises UnknownWeights, BadCard: see `digipath.load`."""
        return segmenter(grader.card) if self.sought(grader) else None

    def finders(self, graders: Sequence[VolumeGrader]) -> list[Card]:
        """The cards of what has to find the tumour for these, each once. Raises UnknownWeights, BadCard."""
        cards = [card for one in graders if (card := self._seeks(one)) is not None]
        return list({card.path: card for card in cards}.values())

    def segmenters(self, graders: Sequence[VolumeGrader]) -> dict[str, str]:
        """Name → sha256 of the networks that have to find the tumour for these. Raises as `digipath.load`."""
        return {one.name: verify(one) for card in self.finders(graders) for one in networks_behind(card)}

    def _found(
        self, card: Card, told: Told | None, progress: ProgressCallback | None, cancel: Cancel | None
    ) -> NDArray[np.bool_]:
        """(X, Y, Z) where a card's network finds the tumour."""
        if card.path not in self._tumours:
            asked = card.record["input"]
            corrected = bool(asked.get("bias_field", True))
            volume = self.corrected(asked["order"], told) if corrected else self.seen(asked["order"])
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


def _hash_of(values: NDArray[np.float32]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(values).data).digest()


def identity_of(path: Path) -> dict[str, Any]:
    """Of a file, or of all files in a folder, as `digipath.case.file_identity`."""
    if path.is_dir():
        return {"files": [file_identity(one) for one in sorted(path.iterdir()) if one.is_file()]}
    return file_identity(path)
