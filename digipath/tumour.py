"""Where the tumour is: volume → intensities → patches → network → stitched probability → mask.

The patches of a volume go through the engine of the slides, so that each voxel of the brain is seen by several
overlapping patches whose answers are blended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.engine.ensemble import context_of
from digipath.engine.predict import predict_maps
from digipath.engine.reader import array_reader
from digipath.errors import BadCard, BadInput, TumourNotFound
from digipath.grid import tissue_grid
from digipath.networks import network_of, temperature
from digipath.roi import brain_box, cut, put_back, resized
from digipath.runtime import Choice, choose, volume_predictor, with_temperature, without_startup_notices
from digipath.values import BACKGROUND, PREDICTED, ArrayMaps, Cancel, Card, Predictor, ProgressCallback
from digipath.volume_rois import with_intensities
from digipath.volume_values import Volume
from digipath.weights import members

OUTPUT = "voxels"
THRESHOLD = 0.5
LEAST_PART = 0.1  # of the largest component
SAME_SPACING = 0.01  # share by which a spacing may differ


def find_tumour(
    volume: Volume,
    card: Card,
    *,
    corrected: bool = False,
    overlap: float = 0.5,
    runtime: str = "auto",
    precision: str = "auto",
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> NDArray[np.bool_]:
    """The whole tumour in a volume, (X, Y, Z) bool, by the segmentation network of a card.

    Args:
        volume: as it was read; its bias field and intensities are treated as the card says.
        card: of a network whose output is "voxels".
        corrected: whether the bias field of `volume` is corrected already.
        overlap: share of a patch that its neighbour covers too, in [0, 1).
        runtime, precision: see `digipath.runtime.choose`.
        progress: called with patches done. cancel: asked between patches; True ends the work.

    Raises:
        BadVolume: a modality of the card is not there. TumourNotFound: there is none by this network.
        BadInput: the card's network does not segment volumes.
        BadCard, WeightsCorrupt: see `digipath.load`.
        Cancelled: `cancel` said so.

    References:
        Pereira et al. 2018, section 2.1.
    """
    predictors = segmenter_predictors(card, runtime=runtime, precision=precision)
    prepared = as_card_wants(volume, card.record["input"], corrected=corrected)
    probability = tumour_probability(
        prepared,
        predictors,
        patch_vox=card.record["input"]["size"],
        overlap=overlap,
        channel=card.kept[0],
        progress=progress,
        cancel=cancel,
    )
    try:
        return tumour_mask(resized(probability, volume.shape_vox), volume.brain)
    except TumourNotFound as error:
        raise TumourNotFound(f"{error}; it was sought by {card.name}") from error


def segmenter_predictors(card: Card, *, runtime: str = "auto", precision: str = "auto") -> list[Predictor]:
    """The network of a card, or those of an ensemble, as predictors of patches of voxels; calibrated as cards say.

    Raises:
        BadInput: the card's network does not segment volumes, or an unknown runtime or precision.
        BadCard: members that look at other voxels than the ensemble says.
        BadCard, WeightsCorrupt, UnknownWeights: see `digipath.load`.
    """
    choice = choose(runtime, precision)
    with without_startup_notices():
        return [_predictor(one, card, choice) for one in networks_behind(card)]


def networks_behind(card: Card) -> list[Card]:
    """The cards of the networks that a card names: itself, or the members of an ensemble."""
    return members(card) if card.record["kind"] == "ensemble" else [card]


def _predictor(one: Card, card: Card, choice: Choice) -> Predictor:
    asked = one.record["input"]
    if one.output != OUTPUT or asked["modality"] != "volume":
        raise BadInput(f"{one.name} does not mark the voxels of a volume; name a card whose output is {OUTPUT}")
    if asked != card.record["input"]:
        raise BadCard(f"{card.name}: member {one.name} looks at other voxels than its ensemble: {card.path}")
    network = network_of(one)
    if (found := temperature(one)) is not None:
        network = with_temperature(network, found)
    return volume_predictor(network, (*asked["size"], len(asked["order"])), choice)


def as_card_wants(volume: Volume, asked: Mapping[str, Any], *, corrected: bool = False) -> Volume:
    """The modalities of a segmenter in its order, with intensities and spacing of the voxels as it was trained.

    Args:
        asked: the `input` of its card. corrected: whether the bias field of `volume` is corrected already.

    Raises:
        BadVolume: a modality is not there.
    """
    bias_field, standard = asked.get("bias_field", True) and not corrected, asked.get("standardise", "brain")
    prepared = with_intensities(volume, tuple(asked["order"]), bias_field=bias_field, standardise=standard)
    return _respaced(prepared, asked["spacing_mm"]) if "spacing_mm" in asked else prepared


def tumour_probability(
    volume: Volume,
    predictors: Sequence[Predictor],
    *,
    patch_vox: Sequence[int],
    overlap: float = 0.5,
    channel: int = 1,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> NDArray[np.float32]:
    """The probability of tumour in each voxel of the brain, (X, Y, Z) float32; 0 outside the brain.

    The predictors see the box of the brain and 0 beyond, as in training, whatever the field of view: the background
    of intensities that were standardised inside the brain.

    Args:
        volume: its channels and intensities are those that the predictors take.
        predictors: (B, *patch_vox, channels) float32 → (B, *patch_vox, C) in [0, 1], or smaller by their `context` on
            every side. Several are averaged.
        patch_vox: sides of the patches that they take.
        overlap: share of a patch of answers that its neighbour covers too, in [0, 1).
        channel: which of the C is the tumour.

    Raises:
        BadInput: an overlap outside [0, 1), or predictors of different context.
        BadPredictor: an answer of another shape, outside [0, 1], or without that channel.
        Cancelled: `cancel` said so.
    """
    context = max(map(context_of, predictors))
    answered = [side - 2 * context for side in patch_vox]
    box = brain_box(volume.brain)
    brain = cut(volume.brain, box)
    grid = tissue_grid(brain, box.size_vox, answered, overlap=overlap)
    wanted = np.where(brain, PREDICTED, BACKGROUND).astype(np.uint8)
    maps = ArrayMaps(grid.map_shape)
    read = array_reader(cut(volume.voxels, box), grid, context, mirrored=False)
    predict_maps(read, grid, predictors, wanted, maps, classes=(channel,), progress=progress, cancel=cancel)
    found = np.asarray(maps.arrays["probability"][..., 0], np.float32)
    return put_back(found, box, volume.shape_vox)


def tumour_mask(probability: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The tumour, (X, Y, Z) bool: voxels of the brain above 0.5 in one piece, and in others if these are large too.

    Voxels are in one piece if they touch, by a corner at least. Pieces smaller than a tenth of the largest are left
    out, which is our choice: gliomas may be multifocal, but a few voxels far away would spread the tumour's box.

    Raises:
        TumourNotFound: no voxel of the brain is above 0.5.
    """
    from scipy import ndimage

    pieces, count = ndimage.label((probability > THRESHOLD) & brain, np.ones((3, 3, 3)))
    if not count:
        raise TumourNotFound(f"expected a tumour, found no voxel of the brain above {THRESHOLD}; give an outline of it")
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= LEAST_PART * sizes.max())[pieces] & (pieces > 0))


def _respaced(volume: Volume, spacing_mm: float) -> Volume:
    """The volume on voxels of `spacing_mm` along each axis, as nearly as its extent allows."""
    size = [max(1, round(n * own / spacing_mm)) for n, own in zip(volume.shape_vox, volume.spacing_mm, strict=True)]
    if all(abs(own / spacing_mm - 1) < SAME_SPACING for own in volume.spacing_mm):
        return volume
    steps = np.array([n / new for n, new in zip(volume.shape_vox, size, strict=True)])
    affine_mm = volume.affine_mm.copy()
    affine_mm[:3, 3] += volume.affine_mm[:3, :3] @ ((steps - 1) / 2)  # borders stay where they are, centres move
    affine_mm[:3, :3] *= steps
    brain = resized(volume.brain.astype(np.float32), size) >= THRESHOLD
    return replace(volume, voxels=resized(volume.voxels, size), affine_mm=affine_mm, brain=brain, tumour=None)
