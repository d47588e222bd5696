"""What every run record begins with, and the seconds that it ends with."""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from typing import Any

from digipath.engine.predict import Clock

PACKAGES = ("digipath", "keras", "openslide-python", "numpy", "zarr", "nibabel", "SimpleITK")
STAGES = ("reading", "network", "stitching", "writing", "wall")


def heading(verb: str) -> dict[str, Any]:
    """Which verb made a result, when, and with which versions."""
    versions = {name: version(name) for name in PACKAGES} | {"python": sys.version.split()[0]}
    return {"verb": verb, "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "versions": versions}


def timings_s(clock: Clock, **others: float) -> dict[str, float]:
    """Seconds of each stage of the engine, and of others."""
    stages = {name: getattr(clock, name) for name in STAGES}
    return {name: round(seconds, 3) for name, seconds in {**stages, **others}.items()}
