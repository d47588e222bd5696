"""Plain images in folders."""

from __future__ import annotations

from pathlib import Path

from digipath.errors import BadInput

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")


def images_in(folder: Path) -> list[Path]:
    """The plain images in a folder, by name. Raises BadInput if there is no folder, or none in it."""
    if not folder.is_dir():
        raise BadInput(f"expected a folder of images, received none at {folder}")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise BadInput(f"expected images ({', '.join(IMAGE_SUFFIXES)}), found none in {folder}")
    return found
