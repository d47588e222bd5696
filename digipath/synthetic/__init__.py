"""Write H&E-like slides with known tumour: any size up to 100,000², small files, little memory.

Tissue is one of two periodic textures of pink stroma and purple nuclei. They differ only in how
the nuclei lie: normal tissue has many small ones, tumour few large, irregular ones. Both are
mapped by rank onto the same distribution of colours, so at level 0 no colour histogram tells
them apart (at coarser levels small nuclei blur sooner than large ones).
A texture repeats every 2,048 pixels (512 in the smallest slides); tiles inside one tissue
are encoded once and shared in the file by offset, only tiles on an outline are composed singly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from digipath.synthetic.bigtiff import Grid, corrupt_tiles
from digipath.synthetic.drawing import Polygon, inside, outlines
from digipath.synthetic.pyramid import period_px, refuse_impossible, write_pyramid
from digipath.synthetic.textures import NORMAL, TUMOUR, textures

__all__ = ["SyntheticSlide", "corrupt_tiles", "write_slide"]


@dataclass(frozen=True)
class SyntheticSlide:
    """A written slide and its truth; outlines are (n, 2) arrays of x, y in level-0 pixels."""

    path: Path
    size_l0: tuple[int, int]
    mpp: float
    tile_px: int
    tissues: tuple[Polygon, ...]
    tumours: tuple[Polygon, ...]
    failed_tiles: tuple[Grid, ...]

    def tumour_mask(self, downsample: float = 1.0) -> np.ndarray:
        """(rows, columns) bool, True in tumour, at `downsample` level-0 pixels per pixel."""
        return inside(self.tumours, self.size_l0, downsample)

    def tissue_mask(self, downsample: float = 1.0) -> np.ndarray:
        """(rows, columns) bool, True in tissue (tumour included)."""
        return inside(self.tissues, self.size_l0, downsample)


def write_slide(
    path: str | Path,
    size_l0: tuple[int, int],
    *,
    mpp: float = 0.5,
    seed: int = 0,
    tile: int = 512,
    pieces: int = 2,
    tumours: int = 3,
    levels: int | None = None,
    lossless: bool = False,
    failed_tiles: Sequence[Grid] = (),
) -> SyntheticSlide:
    """Write a tiled pyramidal TIFF (BigTIFF, JPEG 4:4:4 or deflate) that OpenSlide opens.

    size_l0: (width, height), 1 to 100,000. mpp: µm per pixel, stated in the file in pixels per cm.
    tile: 256 or 512. pieces: of tissue, side by side. tumours: regions of tumour, dealt to the
    pieces. levels: of the pyramid, by 2 each (None: down to one tile). failed_tiles: (column, row)
    of level-0 tiles made unreadable. The same arguments give the same bytes.

    Raises BadInput for sizes, tiles or resolutions outside these.
    """
    refuse_impossible(path, size_l0, mpp=mpp, tile=tile)
    rng = np.random.default_rng(seed)
    tissue_outlines, tumour_outlines = outlines(size_l0, pieces, tumours, rng)
    paints = textures(period_px(size_l0), mpp, rng)
    layers = ((tissue_outlines, NORMAL), (tumour_outlines, TUMOUR))
    write_pyramid(
        path, size_l0, paints, layers, mpp=mpp, tile=tile, levels=levels, lossless=lossless, failed_tiles=failed_tiles
    )
    return SyntheticSlide(
        Path(path), size_l0, mpp, tile, tissue_outlines, tumour_outlines, tuple((col, row) for col, row in failed_tiles)
    )
