"""Where to look on a slide: the maps of a segmentation → regions whose uncertainty could change a readout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from digipath.coarser_maps import coarser_maps
from digipath.maps import MapArray
from digipath.measure.look_here import READOUTS, LookHere, look_here
from digipath.report import LookHereInput
from digipath.tumour_burden import MapFrame, working_level

VARIANCES = ("aleatoric", "epistemic")


def where_to_look(
    maps: Mapping[str, MapArray],
    record: Mapping[str, Any],
    *,
    threshold: float = 0.5,
    readouts: Sequence[str] = READOUTS,
) -> list[LookHere] | None:
    """The ranked regions, see `digipath.measure.look_here`; None where the maps hold no uncertainty.

    The uncertainty is the standard deviation over networks and views: the square root of the sum of the aleatoric and
    the epistemic variance, of what there is. Measured at the finest level of the maps' pyramid of at most 4096 pixels
    on its longer side.

    Args:
        maps: as `digipath.maps.open_maps` returns them; record: of the run.
        threshold: in (0, 1]. readouts: which of `READOUTS` count.

    Raises:
        BadInput: as `look_here`.
    """
    there = [maps[name].plane(-1) for name in VARIANCES if name in maps]
    if not there:
        return None
    level = working_level(maps["probability"], record["settings"]["map_mpp"])
    frame = MapFrame.of(record).at(level)
    probability, tissue = coarser_maps(maps["probability"].plane(-1), maps["tissue"], 2.0**level)
    variance = np.sum([each.level(level)[:].astype(np.float32) for each in there], axis=0)
    return look_here(
        probability,
        np.sqrt(np.maximum(variance, 0)),
        map_mpp=frame.mpp,
        l0_per_map_px=frame.l0_per_map_px,
        threshold=threshold,
        tissue=tissue,
        readouts=readouts,
        size_l0=frame.size_l0,
    )


def look_here_input(found: Sequence[LookHere]) -> list[LookHereInput]:
    """The regions as the report shows them."""
    return [LookHereInput(**vars(one)) for one in found]
