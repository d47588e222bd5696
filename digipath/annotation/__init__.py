"""What pathologists mark: outlines (QuPath, ASAP) and mask images, as lesions at any resolution.

The only place that knows annotation files. `open_lesions` gives windows of a slide's lesions;
`read_outlines`, `rasterise` and `read_mask` are its parts, for whoever wants a whole mask.
"""

from __future__ import annotations

from digipath.annotation.areas import rasterise
from digipath.annotation.lesions import Labels, Lesions, open_lesions
from digipath.annotation.masks import read_mask
from digipath.annotation.outlines import Outline, read_outlines

__all__ = ["Labels", "Lesions", "Outline", "open_lesions", "rasterise", "read_mask", "read_outlines"]
