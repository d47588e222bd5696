"""A lymph node's heatmap and tissue, brought to the resolution that features are asked for."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from digipath.coarser_maps import SAME, Map, coarser_maps
from digipath.errors import BadInput, MissingResolution, NotFound, ResolutionTooLow
from digipath.maps import MapArray
from digipath.measure.lesions import find_lesions, metastases_of
from digipath.measure.pn_stage import heatmap_features, size_category
from digipath.result import Segmentation, open_segmentation

SIZE_THRESHOLD = 0.5  # of the size rule, as in the report of a slide
COARSEST = 2.0  # how much coarser than asked for maps may be
NPZ_KEYS = ("probability", "tissue", "mpp")


@dataclass(frozen=True)
class NodeMaps:
    """The maps of a node as they were written.

    Attributes:
        name: of the slide, without ending. place: the folder or file.
        probability: (rows, columns) in [0, 1], NaN = no prediction; tissue: (rows, columns), nonzero = tissue.
        mpp: µm per map pixel.
        complete: False where tissue that was asked for has no prediction.
    """

    name: str
    place: Path
    probability: Map
    tissue: Map
    mpp: float
    complete: bool = True

    @property
    def has_tissue(self) -> bool:
        """Whether any of it is tissue."""
        # The coarsest level keeps whatever is tissue anywhere in a pixel.
        coarsest = self.tissue.level(self.tissue.levels - 1) if isinstance(self.tissue, MapArray) else self.tissue
        return bool(coarsest[:].any())

    def features(self, mpp: float) -> dict[str, float]:
        """Table 5's features at `mpp` µm per pixel, see `digipath.measure.pn_stage.heatmap_features`.

        Raises:
            ResolutionTooLow: the maps are more than twice as coarse.
        """
        return heatmap_features(*self.at(mpp), mpp)

    def by_size(self) -> tuple[str, float | None]:
        """Category by the size rule, from the maps as they were written, and its metastasis' diameter in µm."""
        lesions = find_lesions(self.probability, map_mpp=self.mpp, l0_per_map_px=1.0, threshold=SIZE_THRESHOLD)
        metastases = metastases_of(lesions)
        longest = metastases[0].diameter_um if metastases else None
        return size_category(longest), longest

    def at(self, mpp: float) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Probability, in its own type, and tissue at `mpp` µm per pixel: means over areas.

        See `digipath.coarser_maps`.

        Raises:
            ResolutionTooLow: the maps are more than twice as coarse.
        """
        ratio = mpp / self.mpp
        if ratio * COARSEST < 1 - SAME:
            raise ResolutionTooLow(
                f"expected maps of at most {COARSEST * mpp:g} µm per pixel to measure them at {mpp:g}, "
                f"got {self.mpp:g}; segment again with a finer --out-mpp: {self.place}"
            )
        return coarser_maps(self.probability, self.tissue, ratio)


def open_node(given: Segmentation | str | Path) -> NodeMaps:
    """The maps of a finished segmentation, of its case folder, or in an .npz file.

    An .npz holds `probability` (rows, columns) in [0, 1], `tissue` of the same shape, and `mpp` in µm per pixel.

    Raises:
        NotFound: no finished result there. MissingResolution: the slide's resolution is unknown.
        BadInput: an .npz without these arrays.
    """
    if not isinstance(given, Segmentation):
        path = Path(given)
        if path.suffix == ".npz" and not path.is_dir():
            return _of_arrays(path)
        given = open_segmentation(path)
    if given.mpp is None:
        raise MissingResolution(
            f"expected maps with µm per pixel, the slide stated none; segment it again with --mpp: {given.folder}"
        )
    return NodeMaps(
        name=node_name(given),
        place=given.folder,
        probability=given.probability.plane(-1),  # of several classes the last is the one that is measured
        tissue=given.maps["tissue"],
        mpp=given.mpp,
        complete=given.coverage.complete,
    )


def node_name(given: Segmentation | Path) -> str:
    """The slide's name without ending, of a segmentation, a case folder, an .npz file or the slide itself."""
    path = given.folder if isinstance(given, Segmentation) else given
    return path.resolve().name.removesuffix(".digipath") if path.is_dir() else path.stem


def _of_arrays(path: Path) -> NodeMaps:
    if not path.is_file():
        raise NotFound(f"expected a file of maps, there is none: {path}")
    try:
        with np.load(path, allow_pickle=False) as held:
            probability, tissue, mpp = (held[key] for key in NPZ_KEYS)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        said = " ".join(str(error).split())
        raise BadInput(f"expected an .npz with the arrays {', '.join(NPZ_KEYS)}, got: {said}: {path}") from error
    if probability.ndim != 2 or tissue.shape != probability.shape or probability.dtype.kind != "f":
        expected = "expected probability as floats (rows, columns) and tissue of its shape"
        raise BadInput(f"{expected}, got {probability.dtype} {probability.shape} and {tissue.shape}: {path}")
    known = probability[~np.isnan(probability)]
    if known.size and not (known.min() >= 0 and known.max() <= 1):
        raise BadInput(f"expected probability in [0, 1], got {known.min():g} to {known.max():g}: {path}")
    if mpp.ndim or mpp.dtype.kind not in "fiu" or not 0 < float(mpp) < math.inf:
        raise BadInput(f"expected mpp as one number above 0, in µm per pixel, got {mpp}: {path}")
    return NodeMaps(node_name(path), path, probability, tissue != 0, float(mpp))
