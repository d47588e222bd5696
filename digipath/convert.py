"""Turn a flat image into a tiled pyramid, as Lerousseau et al. 2020 did, with libvips."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from digipath.errors import BadInput, MissingExtra, OutputUnwritable, SlideNotFound, SlideUnreadable

PRINTING_MPP = (0.02, 40.0)  # outside it a resolution tag is a printing size, not a microscope's
SOURCES = ("jpeg", "png", "tiff")


def convert(
    source: str | Path,
    target: str | Path,
    *,
    mpp: float | None = None,
    tile: int = 512,
    quality: int | None = None,
    overwrite: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Path:
    """Write a JPEG, PNG or TIFF (first page) as a tiled pyramidal BigTIFF without overlap.

    mpp: µm per pixel, stated in the result; None: the source's own where it is a microscope's,
    else none is stated. tile: side in pixels, a multiple of 16 from 64 to 4096. quality: None for
    lossless (deflate), 1 to 100 for JPEG. progress: called with the share done, 0 to 1.

    The result appears under its name only when whole. Transparency is laid over white, 16 bits
    are reduced to 8. Returns the target.
    Raises BadInput, SlideNotFound, SlideUnreadable (not an image, truncated), OutputUnwritable
    (the target exists and `overwrite` is False, or cannot be written), MissingExtra (no libvips).
    """
    source, target = Path(source), Path(target)
    _check(mpp, tile, quality)
    _check_paths(source, target, overwrite)
    vips = _vips()
    image = _open(vips, source)
    options = _options(mpp if mpp is not None else _own_mpp(image), tile, quality)
    if progress is not None:
        image.set_progress(True)
        image.signal_connect("eval", lambda _, state: progress(state.percent / 100))
    draft = _draft(target)
    try:
        image.tiffsave(str(draft), **options)
        os.replace(draft, target)
    except (vips.Error, OSError) as error:
        raise _failure(error, source, target) from error
    finally:
        draft.unlink(missing_ok=True)
    return target


def _check(mpp: float | None, tile: int, quality: int | None) -> None:
    if mpp is not None and not (math.isfinite(mpp) and mpp > 0):
        raise BadInput(f"expected mpp above 0 (µm per pixel), received {mpp}")
    if not 64 <= tile <= 4096 or tile % 16:
        raise BadInput(f"expected a tile of 64 to 4096 pixels, a multiple of 16, received {tile}")
    if quality is not None and not 1 <= quality <= 100:
        raise BadInput(f"expected a JPEG quality of 1 to 100, or none for lossless, received {quality}")


def _check_paths(source: Path, target: Path, overwrite: bool) -> None:
    if not source.exists():
        raise SlideNotFound(f"expected an image to convert, found nothing at this path: {source}")
    if source.is_dir():
        raise SlideUnreadable(f"expected an image to convert, received a folder: {source}")
    if target.suffix.lower() not in (".tif", ".tiff"):
        raise BadInput(f"expected a target named .tif or .tiff: {target}")
    if target.exists() and target.samefile(source):
        raise BadInput(f"expected a target other than the source: {target}")
    if target.exists() and not overwrite:
        raise OutputUnwritable(f"the target exists; name another one or allow overwriting: {target}")


def _vips() -> ModuleType:
    # Imported here: libvips is needed by this verb alone and starts its own thread pool.
    try:
        import pyvips
    except (ImportError, OSError) as error:
        raise MissingExtra("converting needs libvips; install it with pip install pyvips pyvips-binary") from error
    return pyvips


def _open(vips: ModuleType, source: Path) -> Any:  # noqa: ANN401 - pyvips has no types
    """The image as 8-bit RGB, read from top to bottom."""
    try:
        image = vips.Image.new_from_file(str(source), access="sequential", fail_on="error")
        loader = image.get("vips-loader")
        if not loader.startswith(SOURCES):
            raise SlideUnreadable(f"expected a JPEG, PNG or TIFF to convert, libvips opens it with {loader}: {source}")
        image = image.colourspace("srgb")
        if image.hasalpha():
            image = image.flatten(background=255)
        return image.cast("uchar") if image.format != "uchar" else image
    except vips.Error as error:
        raise SlideUnreadable(
            f"expected a JPEG, PNG or TIFF to convert, it cannot be opened ({_one_line(error)}): {source}"
        ) from error


def _own_mpp(image: Any) -> float | None:  # noqa: ANN401
    mpp = 2000 / (image.xres + image.yres) if image.xres + image.yres > 0 else math.inf
    return mpp if PRINTING_MPP[0] <= mpp <= PRINTING_MPP[1] else None


def _options(mpp: float | None, tile: int, quality: int | None) -> dict[str, Any]:
    # Without a resolution the tag says 1 pixel per mm, libvips' "unknown", which no reader believes.
    pixels_per_mm = 1000 / mpp if mpp is not None else 1.0
    coding = {"compression": "deflate"} if quality is None else {"compression": "jpeg", "Q": quality}
    layout = {"tile": True, "tile_width": tile, "tile_height": tile, "pyramid": True, "bigtiff": True}
    return layout | coding | {"resunit": "cm", "xres": pixels_per_mm, "yres": pixels_per_mm}


def _draft(target: Path) -> Path:
    """An empty file of our own beside the target, to be renamed when it is whole."""
    draft = target.with_name(f".{target.stem}.{uuid.uuid4().hex}.tif")
    try:
        draft.touch(exist_ok=False)
    except OSError as error:
        raise OutputUnwritable(f"the target's folder cannot be written ({error.strerror}): {target.parent}") from error
    return draft


def _failure(error: Exception, source: Path, target: Path) -> OutputUnwritable | SlideUnreadable:
    """libvips reports reading and writing alike; only its words tell which one failed."""
    text = _one_line(error)
    if isinstance(error, OSError) or any(word in text.lower() for word in ("write", "space", "wtiff")):
        return OutputUnwritable(f"the pyramid cannot be written ({text}); free space or name another target: {target}")
    return SlideUnreadable(f"expected a whole image, it cannot be decoded ({text}); copy it again: {source}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
