"""Lesions as the GeoJSON that QuPath reads and writes (0.4 and later).

One Feature per object: `id` a UUID; `properties` with `objectType`, `name`, `classification` (name and colour)
and `measurements` as an object of numbers; coordinates in level-0 pixels. Source: QuPath's own
`qupath.lib.io.QuPathTypeAdapters`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import shapely

NAMESPACE = uuid.UUID("6f1d8a52-3c0e-5b59-9a51-6a0f5f0f7d11")  # ours, so that equal outlines get equal ids
DECIMALS = 3  # of a level-0 pixel


class Region(Protocol):
    """What is asked of a lesion, see `digipath.measure.lesions.Lesion`."""

    @property
    def label(self) -> int: ...
    @property
    def outline(self) -> shapely.Polygon | shapely.MultiPolygon: ...
    @property
    def area_l0_px2(self) -> float: ...
    @property
    def area_um2(self) -> float | None: ...
    @property
    def mean_probability(self) -> float: ...
    @property
    def max_probability(self) -> float: ...
    @property
    def centroid_l0(self) -> tuple[float, float]: ...


def lesions_geojson(
    lesions: Sequence[Region],
    *,
    class_name: str = "Tumor",
    colour_rgb: tuple[int, int, int] = (200, 0, 0),
    mpp: float | None = None,
) -> dict[str, object]:
    """Return a FeatureCollection of annotations that opens in QuPath over the slide.

    Args:
        lesions: outlines in level-0 pixels; the same lesions always give the same ids.
        class_name: QuPath's classification; its own word for tumour is "Tumor".
        colour_rgb: 0 to 255 each.
        mpp: µm per level-0 pixel, for the centroids; None: in pixels.
    """
    features = [_feature(lesion, class_name, colour_rgb, mpp) for lesion in lesions]
    return {"type": "FeatureCollection", "features": features}


def _feature(lesion: Region, class_name: str, colour_rgb: tuple[int, int, int], mpp: float | None) -> dict[str, object]:
    outline = shapely.transform(lesion.outline, lambda xy: np.round(xy, DECIMALS))
    geometry = shapely.to_geojson(outline)
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(NAMESPACE, f"{class_name} {geometry}")),
        "geometry": json.loads(geometry),
        "properties": {
            "objectType": "annotation",
            "name": f"{class_name} {lesion.label}",
            "classification": {"name": class_name, "color": list(colour_rgb)},
            "measurements": _measurements(lesion, mpp),
        },
    }


def _measurements(lesion: Region, mpp: float | None) -> dict[str, float]:
    """Numbers with their units in the names, as QuPath writes its own."""
    x, y = lesion.centroid_l0
    unit, scale = ("px", 1.0) if mpp is None else ("µm", mpp)
    known = lesion.area_um2 is not None
    area = {"Area µm^2": lesion.area_um2} if known else {"Area px^2": lesion.area_l0_px2}
    values = {
        **area,
        "Mean probability": lesion.mean_probability,
        "Max probability": lesion.max_probability,
        f"Centroid X {unit}": x * scale,
        f"Centroid Y {unit}": y * scale,
    }
    return {name: round(float(value), 6) for name, value in values.items() if value is not None}
