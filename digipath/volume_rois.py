"""What a network sees of a volume: bias field → intensities → region → the size that it takes; and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadCard, BadInput, BadVolume
from digipath.roi import (
    MARGIN_VOX,
    brain_box,
    cut,
    from_picture,
    largest_slice,
    put_back,
    resized,
    slice_picture,
    square_plane,
    tumour_box,
)
from digipath.volume import bias_field_corrected, standardised
from digipath.volume_values import MODALITIES, Box, Volume

BRAIN, TUMOUR, SLICE = "brain", "tumour", "slice"
ROIS = (BRAIN, TUMOUR, SLICE)
STANDARDS = ("brain", "image")


@dataclass(frozen=True)
class VolumeRule:
    """How volumes become a network's input; the `input` of its card says the same.

    Attributes:
        order: modalities in the order of the network's channels; of a slice one.
        roi: "brain" and "tumour": their boxes; "slice": the axial plane with the most tumour, as a picture of it.
        size: voxels (x, y, z) of the region as the network takes it; of a slice (side, side) in pixels.
        margin_vox: of the tumour's box, see `digipath.roi.tumour_box`.
        bias_field: whether it is corrected first.
        standardise: where mean and deviation of the intensities are taken: inside the "brain", or the whole "image".
    """

    order: tuple[str, ...]
    roi: str
    size: tuple[int, ...]
    margin_vox: int = MARGIN_VOX
    bias_field: bool = True
    standardise: str = "brain"

    def check(self) -> VolumeRule:
        """The rule itself.

        Raises:
            BadInput: an attribute outside of what it may be.
        """
        if not self.order or len({*self.order}) < len(self.order) or not {*self.order} <= {*MODALITIES}:
            raise BadInput(f"expected an order of modalities among {', '.join(MODALITIES)}, got {list(self.order)}")
        if self.roi not in ROIS:
            raise BadInput(f"expected a roi among {', '.join(ROIS)}, got {self.roi!r}")
        if self.standardise not in STANDARDS:
            raise BadInput(f"expected standardise to be one of {', '.join(STANDARDS)}, got {self.standardise!r}")
        if self.margin_vox < 0:
            raise BadInput(f"expected a margin_vox of at least 0, got {self.margin_vox}")
        if min(self.size, default=0) < 1 or len(self.size) != (2 if self.roi == SLICE else 3):
            expected = "two sides in pixels" if self.roi == SLICE else "three sides in voxels"
            raise BadInput(f"expected a size of {expected} for the roi {self.roi}, got {list(self.size)}")
        if self.roi == SLICE and (len(self.order) > 1 or len({*self.size}) > 1):
            raise BadInput(f"expected a square slice of one modality, got {list(self.order)} and {list(self.size)}")
        return self

    @classmethod
    def of_card(cls, record: Mapping[str, Any]) -> VolumeRule:
        """From the `input` of a card. Raises BadCard: it states no rule, or a wrong one."""
        if record.get("modality", "volume") != "volume" or "roi" not in record:
            raise BadCard(f"expected a card whose input is a volume with its roi, got {dict(record)}")
        if "spacing_mm" in record:
            raise BadCard(
                f"expected no spacing_mm beside a roi, whose region is resized to its size; got {record['spacing_mm']}"
            )
        given = {name: record[name] for name in ("margin_vox", "bias_field", "standardise") if name in record}
        try:
            return cls(tuple(record["order"]), record["roi"], tuple(record["size"]), **given).check()
        except BadInput as error:
            raise BadCard(f"weights card states a wrong input: {error}") from error

    def to_record(self) -> dict[str, Any]:
        """What a card's `input` says of it, all but its `modality`."""
        return {
            "order": list(self.order),
            "roi": self.roi,
            "size": list(self.size),
            "margin_vox": self.margin_vox,
            "bias_field": self.bias_field,
            "standardise": self.standardise,
        }


@dataclass(frozen=True)
class Region:
    """A region of a volume as a network takes it.

    Attributes:
        pixels: (*size, channels) float32; of a slice (side, side, 3) of 0…255, rows from front to back, columns from
            the patient's right to the left.
        box: where it lies in the volume; of a slice the plane, as a square.
        slice_vox: z of the plane; None: no slice.
    """

    pixels: NDArray[np.float32]
    box: Box
    slice_vox: int | None = None


def region_of(volume: Volume, rule: VolumeRule, *, slice_vox: int | None = None) -> Region:
    """The region of a volume by the rule; the same volume gives the same region, in training and in use.

    Args:
        volume: whose brain is that of the rule's modalities, see `digipath.volume.read_alone`, or of a given mask.
        slice_vox: for the roi "slice", the plane z to take in place of that with the most tumour.

    Raises:
        BadVolume: a modality of the rule is not there, there is no tumour outline where the roi needs one, or the
            tumour does not reach the plane. BadInput: a wrong rule.
    """
    rule.check()
    tumour = None if rule.roi == BRAIN else _outline(volume, rule)
    prepared = with_intensities(volume, rule.order, bias_field=rule.bias_field, standardise=rule.standardise)
    if tumour is not None and rule.roi == SLICE:
        return _slice(prepared, tumour, rule.size[0], slice_vox)
    box = brain_box(volume.brain) if tumour is None else tumour_box(tumour, margin_vox=rule.margin_vox)
    return Region(resized(cut(prepared.voxels, box, background(prepared)), rule.size), box)


def background(volume: Volume) -> NDArray[np.float32]:
    """(channels,) the values outside of the brain, which are all the same; 0 where the brain fills the volume."""
    if volume.brain.all():
        return np.zeros(len(volume.modalities), np.float32)
    return volume.voxels[np.unravel_index(np.argmin(volume.brain), volume.brain.shape)]


def with_intensities(volume: Volume, order: tuple[str, ...], *, bias_field: bool, standardise: str) -> Volume:
    """The modalities of `order`, in that order, with the bias field corrected (or not) and standardised.

    Raises:
        BadVolume: one of them is not there.
    """
    chosen = volume.only(order)
    return standardised(bias_field_corrected(chosen) if bias_field else chosen, standardise)


def on_grid(values: NDArray[np.floating], region: Region, shape_vox: tuple[int, int, int]) -> NDArray[np.float32]:
    """An explanation of a region on the grid of its volume, (X, Y, Z) float32; 0 outside of the region.

    Args:
        values: (a, b, c) of any size that covers the region; of a slice (rows, columns) of its picture.

    Raises:
        BadInput: another number of axes.
    """
    rank = 3 if region.slice_vox is None else 2
    if values.ndim != rank:
        raise BadInput(f"expected values of {rank} axes for this region, got the shape {values.shape}")
    heat = np.asarray(values, np.float32)
    return put_back(heat if rank == 3 else from_picture(heat)[..., None], region.box, shape_vox)


def check_plane(volume: Volume, slice_vox: int) -> None:
    """Raise BadVolume unless the volume has such an axial slice, and the tumour, where it is outlined, reaches it."""
    last, tumour = volume.shape_vox[2] - 1, volume.tumour
    if not 0 <= slice_vox <= last or (tumour is not None and not tumour[..., slice_vox].any()):
        raise BadVolume(
            f"expected a slice that the tumour reaches, of 0 to {last}, got {slice_vox}; choose another slice"
        )


def _outline(volume: Volume, rule: VolumeRule) -> NDArray[np.bool_]:
    if volume.tumour is None:
        raise BadVolume(f"expected an outline of the tumour for the roi {rule.roi}, none was given; give a mask of it")
    return volume.tumour


def _slice(volume: Volume, tumour: NDArray[np.bool_], side_px: int, slice_vox: int | None) -> Region:
    z = largest_slice(tumour) if slice_vox is None else slice_vox
    check_plane(volume, z)
    picture = slice_picture(volume.voxels[..., z, 0], tumour[..., z], volume.brain[..., z], side_px=side_px)
    return Region(picture.astype(np.float32), square_plane(volume.shape_vox, z), z)
