"""Files → what in them speaks for a grade: one network's explanation of one tile, or of the MRI of one patient."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from digipath.errors import BadInput
from digipath.explanations import RandomisationCheck, explain, randomisation_check
from digipath.files import write_atomically
from digipath.grading import volume_networks
from digipath.grading.tile_networks import grader_members
from digipath.grading.volume_files import OpenedVolume, Told, VolumeFiles
from digipath.measure.fusion import leader
from digipath.networks import network_of, temperature
from digipath.report.figures import colours, rounded
from digipath.roi import cut, resized
from digipath.runtime import with_temperature, without_startup_notices
from digipath.slide import open_slide
from digipath.values import Card
from digipath.volume import write_nifti
from digipath.volume_rois import Region, on_grid
from digipath.volume_values import Volume
from digipath.weights import load_card

if TYPE_CHECKING:
    import keras

OF_TILES, OF_VOLUMES = (".png", ".npy"), (".nii.gz",)  # how files of explanations end


@dataclass(frozen=True)
class Question:
    """What is asked of a network.

    Attributes:
        method, layer: as for `digipath.explain`.
        target: name of a class; None: the one that the network calls.
        check: whether to compare with networks of random weights too.
    """

    method: str = "grad-cam"
    layer: Sequence[str] | None = None
    target: str | None = None
    check: bool = False


@dataclass(frozen=True)
class Explained:
    """What speaks for a class.

    Attributes:
        card: of the network. probabilities: (C,) of its classes. target: index of the class that is explained.
        heat: in [0, 1], higher = more important: (H, W) of the tile or (X, Y, Z) on the volume's grid, 0 outside of
            the region that the network saw.
        check: of the explanation, if it was asked for. notes: for the user.
        affine_mm: (4, 4) of the volume, see `digipath.open_volumes`; None: of a tile.
    """

    card: Card
    probabilities: NDArray[np.float64]
    target: int
    heat: NDArray[np.float32]
    check: RandomisationCheck | None
    notes: tuple[str, ...] = ()
    affine_mm: NDArray[np.float64] | None = None

    def write(self, path: Path) -> None:
        """Write the map as colours (viridis) or numbers of a tile, or as a volume on the grid of the MRI.

        Raises:
            BadInput: see `check_name`. OutputUnwritable: the folder is missing or cannot be written.
        """
        check_name(path, volume=self.affine_mm is not None)
        if self.affine_mm is not None:
            write_nifti(path, self.heat, self.affine_mm)
            return
        stream = io.BytesIO()
        if path.suffix == ".npy":
            np.save(stream, self.heat)
        else:
            Image.fromarray(rounded(colours(self.heat))).save(stream, "PNG")
        write_atomically(path, stream.getvalue())


def check_name(path: Path, *, volume: bool) -> None:
    """Raise BadInput unless an explanation of a volume, or of a tile, can be written to a file of this name."""
    endings = OF_VOLUMES if volume else OF_TILES
    if not path.name.endswith(endings):
        raise BadInput(f"expected an output file that ends in {' or '.join(endings)}, got {path}")


def explain_tile(path: str | Path, weights: str, question: Question) -> Explained:
    """What in an image of one tile speaks for its grade.

    Args:
        path: of the size that the network takes, at its resolution, which is not checked.
        weights: name or path of the card of one network.

    Raises:
        SlideNotFound, SlideUnreadable: no image. UnknownWeights, BadCard, WeightsCorrupt: as `digipath.load`.
        BadInput: an image of another size, weights of several networks or of something else, or a question that has
            no answer.
    """
    card = load_card(weights)
    if len(found := grader_members(card, "tile")) > 1 or len(found[0].networks) > 1:
        names = ", ".join(one.name for member in found for one in member.networks)
        raise BadInput(f"expected weights of one network, {card.name} has several; name one of them: {names}")
    asked = card.record["input"]
    with open_slide(path, mpp=card.mpp) as image:
        rows, columns = image.working_size_px(None)
        if (rows, columns) != (card.patch, card.patch):
            raise BadInput(
                f"expected a tile of {card.patch} × {card.patch} px at {card.mpp:g} µm/px, as {card.name} takes it, "
                f"got {columns} × {rows} px; `digipath tiles` cuts slides: {path}"
            )
        tile, failed = image.read_block(0, 0, rows, columns, mpp=None)
    if failed is not None:
        raise BadInput(f"expected a tile that can be read, parts of it cannot: {path}")
    pixels = tile * np.asarray(asked["scale"], np.float32) + np.asarray(asked["offset"], np.float32)
    with without_startup_notices():
        network = network_of(card)
        if (value := temperature(card)) is not None:
            network = with_temperature(network, value)
    stained = "The network looks at slides whose stain was brought to a reference; this tile is taken as it is."
    return Explained(*_answered(network, pixels, card, question), (stained,) if asked.get("stain") else ())


def explain_volumes(
    files: VolumeFiles, weights: str, question: Question, *, slice_vox: int | None = None, told: Told | None = None
) -> Explained:
    """What in the MRI of a patient speaks for its grade, on the grid of the volumes.

    Args:
        weights: name or path of a card; of an ensemble the first network is explained whose input is there.
        slice_vox: the axial slice for networks of slices; None: that of the largest tumour area.
        told: called with what takes long, before it is done.

    Raises:
        BadVolume: files that cannot be graded. UnknownWeights, BadCard, WeightsCorrupt: as `digipath.load`.
        BadInput: weights of something else, a modality or the tumour's outline that is missing, or a question that
            has no answer.
    """
    graders, opened = volume_networks.published(weights), OpenedVolume(files)
    lacking = {one.card.name: opened.lacks(one) for one in graders.members}
    grader = next((one for one in graders.members if lacking[one.card.name] is None), None)
    if grader is None:
        why = "; ".join(f"{name}: {reason}" for name, reason in lacking.items())
        raise BadInput(f"expected what a network of {weights} looks at: {why}")
    others = [one.card.name for one in graders.members if one is not grader]
    volume_networks.check_slice(slice_vox, [grader])
    region = opened.region(grader, slice_vox=slice_vox, told=told)
    network, pixels = volume_networks.network(grader, graders), volume_networks.network_input(grader, region)
    if told is not None:
        told("explaining, and comparing with networks of random weights" if question.check else "explaining")
    inside = _brain_in(region, opened.seen(grader.rule.order)) if question.check else None
    found = _answered(network, pixels, grader.card, question, inside)
    heat = on_grid(found[3], region, opened.volume.shape_vox)
    sought = f"The tumour was found by {grader.segmenter}, not outlined by a person."
    alone = f"Of several networks {grader.card.name} is explained; name another by --weights: {', '.join(others)}."
    notes = (*opened.volume.notes, *[sought] * opened.sought(grader), *[alone] * bool(others))
    return Explained(*found[:3], heat, found[4], notes, opened.volume.affine_mm)


def _answered(
    network: keras.Model,
    pixels: NDArray[np.float32],
    card: Card,
    question: Question,
    inside: NDArray[np.bool_] | None = None,
) -> tuple[Card, NDArray[np.float64], int, NDArray[np.float32], RandomisationCheck | None]:
    """The first attributes of `Explained`, on the grid of the pixels."""
    if question.target is not None and question.target not in card.classes:
        raise BadInput(f"expected a class among {', '.join(card.classes)}, got {question.target!r}")
    probabilities = volume_networks.answer(network, pixels)
    target = leader(probabilities) if question.target is None else card.classes.index(question.target)
    options: dict[str, Any] = {"method": question.method, "layer": question.layer, "target": target}
    heat = explain(network, pixels, **options)
    check = randomisation_check(network, pixels, **options, inside=inside) if question.check else None
    return card, probabilities, target, heat, check


def _brain_in(region: Region, volume: Volume) -> NDArray[np.bool_]:
    """Where in a region there is brain, or in the picture of a slice tumour: all else is dark in every map."""
    if region.slice_vox is not None:
        return np.asarray(region.pixels.any(axis=-1))
    return resized(cut(volume.brain, region.box).astype(np.float32), region.pixels.shape[:3]) >= 0.5
