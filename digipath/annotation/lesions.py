"""The lesions of one slide, from outlines or a mask image, in any window at any resolution."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.errors import ShapelyError

from digipath.annotation.areas import Areas
from digipath.annotation.masks import MaskImage
from digipath.annotation.outlines import Outline, polygons_of, read_outlines
from digipath.errors import BadAnnotation, BadInput

OUTLINE_SUFFIXES = (".geojson", ".json", ".xml")
MOST_OUTSIDE = 0.01  # share of an outline's area: a hand may slip over the slide's border
MOST_CELLS = 10**8


def _plain(label: str) -> str:
    return label.strip().casefold()


@dataclass(frozen=True)
class Labels:
    """What outline labels mean; case and outer blanks do not matter, "" is an outline without label.

    positive: lesion. negative: not lesion, cut out of the lesions around it. The defaults know
    CAMELYON16 (`_0`, `_1`, Tumor; `_2`, Exclusion), CAMELYON17 (metastases; normal) and QuPath's
    classes whose meaning is plain. A label in neither is refused, never guessed.
    """

    positive: tuple[str, ...] = (
        "", "none", "_0", "_1", "tumor", "tumour", "metastases", "metastasis",
        "lesion", "cancer", "carcinoma", "positive",
    )  # fmt: skip
    negative: tuple[str, ...] = (
        "_2", "exclusion", "normal", "negative", "stroma", "immune cells", "benign", "other", "hole",
    )  # fmt: skip

    def __post_init__(self) -> None:
        both = {_plain(label) for label in self.positive} & {_plain(label) for label in self.negative}
        if both:
            raise BadInput(f"expected labels that are positive or negative, {sorted(both)} are both")

    @classmethod
    def given(cls, positive: Sequence[str], negative: Sequence[str]) -> Labels:
        """A user's own labels; the defaults on the side for which there are none."""
        sides = {"positive": tuple(positive), "negative": tuple(negative)}
        return cls(**{side: labels for side, labels in sides.items() if labels})

    def is_positive(self, label: str) -> bool | None:
        """True for lesion, False for not lesion, None for an unknown label."""
        if _plain(label) in map(_plain, self.positive):
            return True
        return False if _plain(label) in map(_plain, self.negative) else None


class _Source(Protocol):
    """Where lesions come from: `Areas` or `MaskImage`."""

    def window(self, box: tuple[int, int, int, int], downsample: float) -> NDArray[np.bool_]: ...

    def cells(self, cell: int, shape: tuple[int, int]) -> NDArray[np.bool_]: ...

    def any(self) -> bool: ...

    @property
    def held_bytes(self) -> int: ...

    def close(self) -> None: ...


class Lesions:
    """The lesions of a slide of `size_l0` (width, height); made by `open_lesions`.

    A context manager, safe to read from many threads.
    """

    def __init__(self, source: _Source, size_l0: tuple[int, int]) -> None:
        self.size_l0 = size_l0
        self._source: _Source | None = source
        self._counting = threading.Lock()
        self._cells: dict[int, NDArray[np.bool_]] = {}
        self._found: bool | None = None

    def __enter__(self) -> Lesions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        source, self._source = self._source, None
        if source is not None:
            source.close()

    @property
    def held_bytes(self) -> int:
        """About what it keeps in memory, the same as long as it is open."""
        return self._open.held_bytes

    @property
    def empty(self) -> bool:
        """True if the slide has no lesion; a mask image is read until its first positive pixel."""
        with self._counting:
            if self._found is None:
                self._found = self._open.any()
            return not self._found

    def read_block(self, row: int, col: int, rows: int, cols: int, *, downsample: float) -> NDArray[np.bool_]:
        """Lesions in a box of the working frame with `downsample` level-0 pixels per pixel.

        Returns bool (rows, cols), True where a pixel's centre is lesion; False outside the slide.
        It equals the same box of the frame read as a whole. An outlined lesion that holds no
        pixel centre keeps one pixel; a mask image is taken by nearest pixels, and may lose lesions
        smaller than a pixel.
        Raises BadInput for a downsample or size that is none, BadAnnotation for a damaged mask.
        """
        if min(rows, cols) < 0 or not (math.isfinite(downsample) and downsample > 0):
            raise BadInput(f"expected a box and a downsample above 0, received {rows} × {cols} at {downsample}")
        return self._open.window((row, col, rows, cols), float(downsample))

    def anywhere(self, cell_l0: int) -> NDArray[np.bool_]:
        """Which cells of `cell_l0` level-0 pixels may hold lesion: (ceil(h/cell), ceil(w/cell)) bool, read-only.

        No cell with a lesion pixel of level 0 is False, however small the lesion; a cell that a
        lesion's border only touches may be True. Computed once per cell size.
        Raises BadInput: cell_l0 below 1, or more than 10^8 cells.
        """
        width, height = self.size_l0
        if cell_l0 < 1 or -(-width // cell_l0) * -(-height // cell_l0) > MOST_CELLS:
            raise BadInput(
                f"expected cells of at least 1 pixel, at most {MOST_CELLS:.0e} of them on {width} × {height}, "
                f"received cells of {cell_l0} pixels"
            )
        with self._counting:
            if cell_l0 not in self._cells:
                cells = self._open.cells(cell_l0, (-(-height // cell_l0), -(-width // cell_l0)))
                cells.setflags(write=False)
                self._cells[cell_l0] = cells
            return self._cells[cell_l0]

    @property
    def _open(self) -> _Source:
        if self._source is None:
            raise ValueError("expected open lesions, these were closed")
        return self._source


def open_lesions(path: Path | None, size_l0: tuple[int, int], *, labels: Labels = Labels()) -> Lesions:
    """Open the lesions of a slide of `size_l0` (width, height).

    path: outlines (.geojson, .json, .xml) in level-0 pixels, or a mask image (PNG, JPEG, TIFF) of
    the slide's size or that times one factor, 0 outside lesions and one value inside (JPEG: above
    127); None: nothing is lesion. labels: which outlines are lesion. Negative ones are cut out of the
    positive ones.

    Raises BadAnnotation: unreadable, an unknown label, an outline with more than 1 % of its area
    outside the slide, lesions that are wholly cut out, a mask of another size. A mask with several
    values is found out when they are read.
    """
    if path is None:
        return Lesions(Areas([]), size_l0)
    if Path(path).suffix.lower() not in OUTLINE_SUFFIXES:
        return Lesions(MaskImage(Path(path), size_l0), size_l0)
    outlines = read_outlines(path)
    _check_labels(outlines, labels, path)
    _check_place(outlines, size_l0, path)
    return Lesions(Areas(_lesion_polygons(outlines, labels, size_l0, path)), size_l0)


def _check_labels(outlines: Sequence[Outline], labels: Labels, path: Path) -> None:
    unknown = sorted({outline.label for outline in outlines if labels.is_positive(outline.label) is None})
    if unknown:
        raise BadAnnotation(
            f"expected outlines labelled as lesion {list(labels.positive)} or as none {list(labels.negative)}, "
            f"received {unknown}; say what they are with labels: {path}"
        )


def _check_place(outlines: Sequence[Outline], size_l0: tuple[int, int], path: Path) -> None:
    areas = np.array([outline.area.area for outline in outlines])
    inside = np.array([_on_slide(outline.area, size_l0).area for outline in outlines])
    outside = 1 - inside / areas
    worst = int(outside.argmax())
    if outside[worst] > MOST_OUTSIDE:
        left, top, right, bottom = outlines[worst].area.bounds
        raise BadAnnotation(
            f"expected outlines in level-0 pixels of the slide's {size_l0[0]} × {size_l0[1]}, {outside[worst]:.0%} of "
            f"outline {worst + 1} lies outside (x {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f}); "
            f"is it another slide's? {path}"
        )
    if areas.max() < 1:
        raise BadAnnotation(
            f"expected outlines in level-0 pixels, the largest holds less than one ({areas.max():.2g}); "
            f"are they in other units? {path}"
        )


def _lesion_polygons(
    outlines: Sequence[Outline], labels: Labels, size_l0: tuple[int, int], path: Path
) -> list[shapely.Polygon]:
    """The union of the positive outlines less the negative ones, on the slide.

    Parts smaller than a level-0 pixel are crumbs that cutting out leaves, not lesions.
    """
    positive = [outline.area for outline in outlines if labels.is_positive(outline.label)]
    negative = [outline.area for outline in outlines if not labels.is_positive(outline.label)]
    try:
        area = shapely.union_all(positive).difference(shapely.union_all(negative))
        found = [polygon for polygon in polygons_of(_on_slide(area, size_l0)) if polygon.area >= 1]
    except ShapelyError as error:
        said = " ".join(str(error).split())
        raise BadAnnotation(f"expected outlines that can be joined, these cannot ({said}): {path}") from error
    if positive and not found:
        cutting = sorted({outline.label for outline in outlines if not labels.is_positive(outline.label)})
        raise BadAnnotation(
            f"expected outlines of lesions, all of them lie within those that are cut out of them ({cutting}); "
            f"say with labels which are lesions: {path}"
        )
    return found


def _on_slide(area: shapely.Geometry, size_l0: tuple[int, int]) -> shapely.Geometry:
    return shapely.intersection(area, shapely.box(0, 0, *size_l0))
