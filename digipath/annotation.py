"""Read outlines (QuPath GeoJSON, ASAP XML) and mask images, and draw outlines as masks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
import shapely
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from shapely import MultiPolygon, Polygon
from shapely.errors import ShapelyError
from shapely.geometry import shape as geometry_of

from digipath.errors import BadAnnotation

ASAP_AREAS = ("Polygon", "Spline", "Rectangle")
ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True)
class Outline:
    """An area on a slide: its label ("" if none) and its polygon in level-0 pixels, (x, y)."""

    label: str
    area: Polygon | MultiPolygon


def read_outlines(path: str | Path) -> list[Outline]:
    """Outlines of a QuPath GeoJSON (.geojson, .json) or ASAP XML (.xml) file.

    GeoJSON may be a FeatureCollection, a Feature, a list of Features or a bare geometry; the label
    is the classification's name. ASAP's label is `PartOfGroup`. Holes and several parts are kept,
    outlines that cross themselves are repaired; points and lines have no area and are left out.

    Raises BadAnnotation: unreadable or malformed file, no area in it, coordinates not finite.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadAnnotation(f"expected an outline file, it cannot be read ({error.strerror}): {path}") from error
    try:
        found = list(_from_asap(data) if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") else _from_geojson(data))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ShapelyError) as error:
        # whatever a foreign file breaks
        raise BadAnnotation(f"expected QuPath GeoJSON or ASAP XML, received {_one_line(error)}: {path}") from error
    outlines = [outline for outline in found if not outline.area.is_empty]
    if not outlines:
        raise BadAnnotation(f"expected at least one area, found none in this file: {path}")
    return outlines


def rasterise(outlines: Iterable[Outline], shape: tuple[int, int], downsample: float) -> np.ndarray:
    """Draw outlines as a mask.

    shape: (rows, columns) of the mask; downsample: level-0 pixels per mask pixel. Returns bool,
    True where a pixel's centre lies inside, False in holes; an outline that holds no pixel centre
    keeps the pixel it lies in.
    """
    mask = np.zeros(shape, bool)
    for outline in outlines:
        for polygon in getattr(outline.area, "geoms", [outline.area]):
            _draw(mask, polygon, downsample)
    return mask


def read_mask(path: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """A mask image (PNG, TIFF, JPEG) brought to `shape` (rows, columns) by nearest pixels; bool.

    True where the value is above 0; in a JPEG, whose zeros are not exact, above 127.
    Raises BadAnnotation: not an image, or its aspect ratio is more than 2 % off that of `shape`.
    """
    path = Path(path)
    rows, cols = shape
    with _identify(path) as image:
        width, height = image.size
        if abs((width / height) / (cols / rows) - 1) > ASPECT_TOLERANCE:
            raise BadAnnotation(
                f"expected a mask with the slide's proportions ({cols} × {rows}, ± 2 %), "
                f"received {width} × {height}: {path}"
            )
        mask = _values(image, path) > (127 if isinstance(image, JpegImageFile) else 0)
    return np.array(Image.fromarray(mask).resize((cols, rows), Image.Resampling.NEAREST))


def _values(image: Image.Image, path: Path) -> np.ndarray:
    """(rows, columns) grey values; colours become grey, transparency is ignored."""
    try:
        grey = image if image.mode in ("1", "L", "F", "I") or image.mode.startswith("I;16") else image.convert("L")
        return np.asarray(grey)
    except (OSError, SyntaxError, ValueError) as error:
        raise BadAnnotation(f"expected a mask image, it cannot be decoded ({_one_line(error)}): {path}") from error


def _from_geojson(data: bytes) -> Iterator[Outline]:
    content = json.loads(data)
    with np.errstate(invalid="ignore"):  # not-a-number is refused by `_outline`, in words
        yield from _from_features(content)


def _from_features(content: Any) -> Iterator[Outline]:  # noqa: ANN401 - JSON
    items = content if isinstance(content, list) else content.get("features", [content])
    for item in items:
        feature = item if item.get("type") == "Feature" else {"geometry": item}
        if feature["geometry"] is not None:
            yield _outline(_geojson_label(feature.get("properties") or {}), geometry_of(feature["geometry"]))


def _geojson_label(properties: dict[str, Any]) -> str:
    kind = properties.get("classification")
    name = kind.get("name") if isinstance(kind, dict) else kind
    return str(name or properties.get("name") or "")


def _from_asap(data: bytes) -> Iterator[Outline]:
    _refuse_doctype(data)
    for item in ElementTree.fromstring(data).iter("Annotation"):
        if item.get("Type") not in ASAP_AREAS:
            continue
        corners = sorted(item.iter("Coordinate"), key=lambda corner: float(corner.get("Order", 0)))
        points = [(_decimal(corner.attrib["X"]), _decimal(corner.attrib["Y"])) for corner in corners]
        yield _outline(item.get("PartOfGroup", ""), Polygon(points))


def _refuse_doctype(data: bytes) -> None:
    """A document type can define entities that grow without bound; annotation files have none."""

    def refuse(*_: object) -> None:
        raise ValueError("an XML document type, which is refused")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"broken XML ({error})") from error


def _decimal(text: str) -> float:
    return float(text.replace(",", "."))  # ASAP writes the decimal mark of the machine's language


def _outline(label: str, geometry: shapely.Geometry) -> Outline:
    if not all(math.isfinite(bound) for bound in geometry.bounds):
        # An empty geometry has no bounds either; it is dropped by the caller.
        if not geometry.is_empty:
            raise ValueError("coordinates that are not finite")
        return Outline(label, Polygon())
    valid = geometry if geometry.is_valid else shapely.make_valid(geometry)
    parts = [part for part in _simple_parts(valid) if isinstance(part, Polygon) and part.area > 0]
    return Outline(label, parts[0] if len(parts) == 1 else MultiPolygon(parts))


def _simple_parts(geometry: shapely.Geometry) -> Iterator[shapely.Geometry]:
    """The parts of a geometry, collections of collections taken apart."""
    if hasattr(geometry, "geoms"):
        for part in geometry.geoms:
            yield from _simple_parts(part)
    else:
        yield geometry


def _draw(mask: np.ndarray, polygon: Polygon, downsample: float) -> None:
    """Set the pixels whose centre lies inside `polygon`: even-odd along each row of pixels."""
    rings = [shapely.get_coordinates(ring) / downsample - 0.5 for ring in (polygon.exterior, *polygon.interiors)]
    start = np.concatenate([ring[:-1] for ring in rings])
    end = np.concatenate([ring[1:] for ring in rings])
    upper, lower = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    drawn = False
    for row in range(max(0, math.ceil(upper.min())), min(len(mask), math.floor(lower.max()) + 1)):
        (x0, y0), (x1, y1) = (corner[(upper <= row) & (row < lower)].T for corner in (start, end))
        crossings = np.sort(x0 + (row - y0) * (x1 - x0) / (y1 - y0))
        columns = np.clip(np.ceil(crossings), 0, mask.shape[1]).astype(int)
        for first, last in columns.reshape(-1, 2).tolist():
            mask[row, first:last] = True
            drawn = drawn or last > first
    if not drawn:
        _mark_point(mask, polygon.representative_point(), downsample)


def _mark_point(mask: np.ndarray, point: shapely.Point, downsample: float) -> None:
    """A lesion that lies between pixel centres still gets its pixel."""
    row, col = math.floor(point.y / downsample), math.floor(point.x / downsample)
    if 0 <= row < mask.shape[0] and 0 <= col < mask.shape[1]:
        mask[row, col] = True


def _identify(path: Path) -> Image.Image:
    # The plug-ins themselves: Image.open warns about large images and tries every format.
    for plugin in (PngImageFile, JpegImageFile, TiffImageFile):
        try:
            return plugin(path)
        except (SyntaxError, EOFError):
            continue
        except OSError as error:
            raise BadAnnotation(f"expected a mask image, it cannot be read ({_one_line(error)}): {path}") from error
    raise BadAnnotation(f"expected a mask as PNG, TIFF or JPEG, received a file that is none of these: {path}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
