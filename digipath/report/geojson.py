"""Lesions as the GeoJSON that QuPath reads and writes (0.4 and later).

One Feature per object: `id` a UUID; `properties` with `objectType`, `name`, `classification` (name and colour)
and `measurements` as an object of numbers; coordinates in level-0 pixels. Source: QuPath's own
`qupath.lib.io.QuPathTypeAdapters`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import shapely

NAMESPACE = uuid.UUID("6f1d8a52-3c0e-5b59-9a51-6a0f5f0f7d11")  # ours, so that equal outlines get equal ids
DECIMALS = 3  # of a level-0 pixel
BITS = ("entropy", "mutual_information")  # maps in bits; variances of probabilities have no unit


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
    def perimeter_l0_px(self) -> float: ...
    @property
    def perimeter_um(self) -> float | None: ...
    @property
    def major_axis_l0_px(self) -> float: ...
    @property
    def major_axis_um(self) -> float | None: ...
    @property
    def minor_axis_l0_px(self) -> float: ...
    @property
    def minor_axis_um(self) -> float | None: ...
    @property
    def diameter_l0_px(self) -> float: ...
    @property
    def diameter_um(self) -> float | None: ...
    @property
    def eccentricity(self) -> float: ...
    @property
    def extent(self) -> float: ...
    @property
    def solidity(self) -> float: ...
    @property
    def mean_probability(self) -> float: ...
    @property
    def max_probability(self) -> float: ...
    @property
    def mean_uncertainty(self) -> Mapping[str, float]: ...
    @property
    def centroid_l0(self) -> tuple[float, float]: ...
    @property
    def metastasis(self) -> int: ...


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
    return annotation(
        lesion.outline, f"{class_name} {lesion.label}", class_name, colour_rgb, _measurements(lesion, mpp)
    )


def annotation(
    outline_l0: shapely.Geometry,
    name: str,
    class_name: str,
    colour_rgb: tuple[int, int, int],
    measurements: Mapping[str, float],
) -> dict[str, object]:
    """Return one Feature; equal outlines of a class have equal ids."""
    geometry = shapely.to_geojson(shapely.transform(outline_l0, lambda xy: np.round(xy, DECIMALS)))
    properties = {"name": name, "classification": classification(class_name, colour_rgb)}
    return feature("annotation", f"{class_name} {geometry}", json.loads(geometry), properties, measurements)


def feature(
    object_type: str,
    key: str,
    geometry: Mapping[str, object],
    properties: Mapping[str, object],
    measurements: Mapping[str, float],
) -> dict[str, object]:
    """Return one Feature of QuPath's; equal keys have equal ids."""
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(NAMESPACE, key)),
        "geometry": geometry,
        "properties": {"objectType": object_type, **properties, "measurements": dict(measurements)},
    }


def classification(class_name: str, colour_rgb: tuple[int, int, int]) -> dict[str, object]:
    """QuPath's classification: a name and its colour."""
    return {"name": class_name, "color": list(colour_rgb)}


def _measurements(lesion: Region, mpp: float | None) -> dict[str, float]:
    """Numbers with their units in the names, as QuPath writes its own; its name of the diameter too."""
    x, y = lesion.centroid_l0
    unit, scale = ("px", 1.0) if mpp is None else ("µm", mpp)
    values = {
        **_either("Area", "^2", lesion.area_um2, lesion.area_l0_px2),
        **_either("Perimeter", "", lesion.perimeter_um, lesion.perimeter_l0_px),
        **_either("Major axis", "", lesion.major_axis_um, lesion.major_axis_l0_px),
        **_either("Minor axis", "", lesion.minor_axis_um, lesion.minor_axis_l0_px),
        **_either("Max diameter", "", lesion.diameter_um, lesion.diameter_l0_px),
        "Eccentricity": lesion.eccentricity,
        "Extent": lesion.extent,
        "Solidity": lesion.solidity,
        "Mean probability": lesion.mean_probability,
        "Max probability": lesion.max_probability,
        **{_uncertainty(name): mean for name, mean in lesion.mean_uncertainty.items()},
        f"Centroid X {unit}": x * scale,
        f"Centroid Y {unit}": y * scale,
        "Metastasis": lesion.metastasis,
    }
    return {name: round(float(value), 6) for name, value in values.items()}


def _either(name: str, power: str, um: float | None, l0_px: float) -> dict[str, float]:
    """In µm where the resolution is known, else in level-0 pixels."""
    return {f"{name} px{power}": l0_px} if um is None else {f"{name} µm{power}": um}


def _uncertainty(name: str) -> str:
    return f"Mean {name.replace('_', ' ')}" + (" bits" if name in BITS else "")
