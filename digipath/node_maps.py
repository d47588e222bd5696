"""A lymph node's heatmap and tissue, brought to the resolution that features are asked for."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput, MissingResolution, NotFound, ResolutionTooLow
from digipath.maps import MapArray
from digipath.measure.lesions import find_lesions, join_fragments
from digipath.measure.pn_stage import heatmap_features, size_category
from digipath.result import Segmentation, open_result

SIZE_THRESHOLD = 0.5  # of the size rule, as in the report of a slide
COARSEST = 2.0  # how much coarser than asked for maps may be
SAME = 1e-3  # resolutions that differ by less are the same
ROWS = 512  # of a map that are read at a time
NPZ_KEYS = ("probability", "tissue", "mpp")

Map = MapArray | NDArray[np.generic]


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
        metastases = join_fragments(lesions)
        longest = metastases[0].diameter_um if metastases else None
        return size_category(longest), longest

    def at(self, mpp: float) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Probability, in its own type, and tissue at `mpp` µm per pixel: means over areas.

        A pixel is tissue if at least half of it is. Read at the nearest finer level of the maps' pyramid.

        Raises:
            ResolutionTooLow: the maps are more than twice as coarse.
        """
        ratio = mpp / self.mpp
        if ratio * COARSEST < 1 - SAME:
            raise ResolutionTooLow(
                f"expected maps of at most {COARSEST * mpp:g} µm per pixel to measure them at {mpp:g}, "
                f"got {self.mpp:g}; segment again with a finer --out-mpp: {self.place}"
            )
        levels = self.probability.levels if isinstance(self.probability, MapArray) else 1
        level = max(n for n in range(levels) if n == 0 or 2**n <= ratio * (1 + SAME))
        finer = self.probability.level(level) if isinstance(self.probability, MapArray) else self.probability
        share = _tissue_share(self.tissue, 2**level)
        step = ratio / 2**level
        return _resized(finer[:], step), np.greater_equal(_resized(share, step), 0.5)


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
        given = open_result(path)
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


def _tissue_share(tissue: Map, factor: int) -> NDArray[np.float32]:
    """How much of each block of factor × factor pixels is tissue, in [0, 1]; nothing is beyond the map.

    The stored pyramid of tissue keeps whatever is tissue anywhere in a coarser pixel, which makes it grow.
    """
    rows, columns = tissue.shape
    share = np.zeros((-(-rows // factor), -(-columns // factor)), np.float32)
    step = -(-ROWS // factor) * factor
    for row in range(0, rows, step):
        strip = tissue[row : row + step] != 0
        padded = np.pad(strip, [(0, -size % factor) for size in strip.shape])
        blocks = padded.reshape(len(padded) // factor, factor, -1, factor)
        share[row // factor :][: len(blocks)] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return share


def _resized(values: NDArray[np.generic], step: float) -> NDArray[np.generic]:
    """Means over cells of step × step pixels; NaN where no pixel of a cell is known, 0 beyond the map."""
    if abs(step - 1) < SAME or not values.size:
        return values
    given = values.astype(np.float64)
    known = ~np.isnan(given)
    mean = _cell_means(_cell_means(np.where(known, given, 0), step), step)
    if not known.all():
        unknown = _cell_means(_cell_means((~known).astype(np.float64), step), step)
        mean = np.divide(mean, 1 - unknown, out=np.full_like(mean, np.nan), where=unknown < 1 - SAME)
    return mean.astype(values.dtype)


def _cell_means(values: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """(rows, columns) → (columns, cells): means over stretches of `step` rows, exact where they begin inside a row."""
    rows = len(values)
    sums = np.zeros((rows + 2, values.shape[1]))
    np.cumsum(values, axis=0, out=sums[1:-1])
    sums[-1] = sums[-2]
    edges = np.minimum(np.arange(math.ceil(rows / step - SAME) + 1) * step, rows)
    whole = edges.astype(np.intp)
    at = sums[whole] + (edges - whole)[:, None] * (sums[whole + 1] - sums[whole])
    return (np.diff(at, axis=0) / step).T
