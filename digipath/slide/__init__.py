"""Open a slide and read it at any resolution: the only place that knows scanner files."""

from __future__ import annotations

from digipath.slide.images import IMAGE_SUFFIXES, images_in
from digipath.slide.slide import Overview, Slide, open_slide

__all__ = ["IMAGE_SUFFIXES", "Overview", "Slide", "images_in", "open_slide"]
