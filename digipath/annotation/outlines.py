"""Read outlines from QuPath's GeoJSON and ASAP's XML."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon
from shapely.errors import ShapelyError
from shapely.geometry import shape as geometry_of

from digipath.errors import BadAnnotation

ASAP_AREAS = ("Polygon", "Spline", "Rectangle")


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


def polygons_of(geometry: shapely.Geometry) -> list[Polygon]:
    """The polygons in a geometry; collections are taken apart, points and lines left out."""
    parts = shapely.get_parts(geometry).tolist()
    if len(parts) == 1 and not hasattr(parts[0], "geoms"):
        return [part for part in parts if isinstance(part, Polygon) and part.area > 0]
    return [polygon for part in parts for polygon in polygons_of(part)]


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
    parts = polygons_of(geometry if geometry.is_valid else shapely.make_valid(geometry))
    return Outline(label, parts[0] if len(parts) == 1 else MultiPolygon(parts))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
