"""The stain of a whole slide: fitted once on its tissue, and brought to a reference.

It is fitted at the resolution the networks read, not on the overview: coarse pixels mix nuclei
with what lies around them. On one slide the two stains are 51° apart at 0.5 µm per pixel and 27°
at 8, and twice as strong; such a fit would not fit the patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput
from digipath.slide import Slide, open_slide
from digipath.stain import METHODS, REFERENCES, StainReference, fit_stain, normaliser
from digipath.tissue import tissue_mask
from digipath.values import PREDICTED, coarsened, nearest_index, stretch_rows

NONE = "none"
DEFAULT_METHOD = METHODS[0]
PLACES = 64  # spread over the tissue, each at most a square of SIDE_PX: a million pixels, read in a second
SIDE_PX = 128

Block = tuple[NDArray[np.uint8], NDArray[np.bool_] | None]
ReadBlock = Callable[[int, int, int, int], Block]


@dataclass(frozen=True)
class Staining:
    """The stain of a slide and the one it is brought to."""

    source: StainReference
    target: StainReference

    def to_record(self) -> dict[str, Any]:
        """For the run record."""
        return {"source": self.source.to_record(), "target": self.target.to_record()}

    def applied_to(self, read: ReadBlock) -> ReadBlock:
        """A reader whose pixels are normalised; what could not be read stays marked as such."""
        normalise = normaliser(self.source, self.target)

        def read_normalised(row: int, column: int, rows: int, columns: int) -> Block:
            pixels, failed = read(row, column, rows, columns)
            return normalise(pixels), failed

        return read_normalised


def reference(stain: str | Path | StainReference | None, *, mpp: float | None = None) -> StainReference | None:
    """What a user names as the stain to bring slides to; None for None and "none".

    Args:
        stain: "macenko" or "reinhard" (the default reference of the method), a slide or picture to
            fit Macenko's method on, or a reference.
        mpp: µm per pixel at which a slide given as reference is read; None: its own level 0.

    Raises:
        BadInput: no such file or method, or no stain in the picture; and what `open_slide` raises.
    """
    if stain is None or isinstance(stain, StainReference):
        return stain
    if str(stain) == NONE:
        return None
    if str(stain) in METHODS:
        return REFERENCES[str(stain)]
    path = Path(stain)
    if not path.is_file():
        raise BadInput(f"stain must be {NONE}, {', '.join(METHODS)} or a picture or slide file, got {str(stain)!r}")
    with open_slide(path) as slide:
        overview = slide.overview()
        tissue = tissue_mask(overview.image, um_per_px=overview.mpp, failed=overview.failed).mask
        at = None if mpp is None or slide.mpp is None else max(mpp, slide.mpp)
        try:
            return fit_slide(slide, tissue, DEFAULT_METHOD, mpp=at)
        except BadInput as error:
            raise BadInput(f"{error}; choose another reference: {path}") from error


def fit_slide(slide: Slide, tissue: NDArray[np.bool_], method: str, *, mpp: float | None) -> StainReference:
    """The stain of a slide's tissue, from up to 64 places spread over it.

    Args:
        slide: an open slide.
        tissue: (rows, columns) bool of any resolution over the whole slide, True in tissue.
        method: "macenko" or "reinhard".
        mpp: µm per pixel to read at; None: level 0.

    Raises:
        BadInput: too little stained tissue, or of one colour (`fit_stain`).
    """
    shape_px = slide.working_size_px(mpp)
    under = [nearest_index(*sizes) for sizes in zip(tissue.shape, shape_px, strict=True)]
    pixels = [np.empty((0, 3), np.uint8)]
    for row, column, rows, columns in _places(tissue, shape_px):
        block, failed = slide.read_block(row, column, rows, columns, mpp=mpp)
        inside = tissue[np.ix_(under[0][row : row + rows], under[1][column : column + columns])]
        pixels.append(block[inside if failed is None else inside & ~failed])
    return fit_stain(np.concatenate(pixels), method)


def _places(tissue: NDArray[np.bool_], shape_px: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (row, column, rows, columns) of a lattice over the slide, evenly drawn from those with tissue."""
    count = (-(-shape_px[0] // SIDE_PX), -(-shape_px[1] // SIDE_PX))
    cells = stretch_rows(coarsened(np.where(tissue, PREDICTED, 0).astype(np.uint8), count), count, 0, count[0])
    edges = [np.arange(n + 1) * size // n for n, size in zip(count, shape_px, strict=True)]
    found = np.argwhere(cells)
    for i, j in found[np.linspace(0, len(found) - 1, min(PLACES, len(found))).astype(int)]:
        (top, bottom), (left, right) = edges[0][i : i + 2].tolist(), edges[1][j : j + 2].tolist()
        yield top, left, bottom - top, right - left
