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
DETECTIONS = ("detection", "cell", "tile")  # of QuPath: found by a program, not drawn around lesions


@dataclass(frozen=True)
class Outline:
    """An area on a slide: its label ("" if none) and its polygon in level-0 pixels, (x, y)."""

    label: str
    area: Polygon | MultiPolygon


def read_outlines(path: str | Path) -> list[Outline]:
    """Outlines of a QuPath GeoJSON (.geojson, .json) or ASAP XML (.xml) file.

    GeoJSON may be a FeatureCollection, a Feature, a list of Features or a bare geometry; objects
    inside others are read too, detections (cells, tiles) are left out. The label is the name of the
    classification, "A: B" where it has several parts, as QuPath shows it. ASAP's label is
    `PartOfGroup`. Holes are kept, several parts of an outline joined, outlines that cross themselves
    repaired; points and lines have no area and are left out.

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
        properties = feature.get("properties") or {}
        if feature.get("geometry") is not None and properties.get("objectType") not in DETECTIONS:
            yield _outline(_geojson_label(properties), geometry_of(feature["geometry"]))
        for key in ("childObjects", "nestedObjects"):
            yield from _from_features(properties.get(key) or feature.get(key) or [])


def _geojson_label(properties: dict[str, Any]) -> str:
    kind = properties.get("classification")
    if not kind:
        return str(properties.get("name") or "")
    parts = _class_parts(kind) if isinstance(kind, dict) else [kind]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError(f"a classification without a name: {json.dumps(kind)[:80]}")
    return ": ".join(parts)


def _class_parts(kind: dict[str, Any]) -> list[Any]:
    """The names in a classification, outermost first: `names` of QuPath 0.4 and later, before that a chain."""
    if kind.get("names"):
        return list(kind["names"])
    parent = kind.get("parentClass")
    return [*(_class_parts(parent) if parent else ()), kind.get("name")]


def _from_asap(data: bytes) -> Iterator[Outline]:
    _refuse_doctype(data)
    for item in ElementTree.fromstring(data).iter("Annotation"):
        if item.get("Type") not in ASAP_AREAS:
            continue
        corners = sorted(item.iter("Coordinate"), key=lambda corner: float(corner.get("Order", 0)))
        points = [(_decimal(corner.attrib["X"]), _decimal(corner.attrib["Y"])) for corner in corners]
        if len(points) >= 3:  # less is a stray click
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
    # Each part is repaired by itself: in one geometry, what two parts share would come out as a hole.
    whole = polygons_of(shapely.union_all([shapely.make_valid(part) for part in _parts(geometry)]))
    return Outline(label, whole[0] if len(whole) == 1 else MultiPolygon(whole))


def _parts(geometry: shapely.Geometry) -> list[shapely.Geometry]:
    """A geometry taken apart, collections in it too."""
    if not hasattr(geometry, "geoms"):
        return [geometry]
    return [part for inner in geometry.geoms for part in _parts(inner)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
