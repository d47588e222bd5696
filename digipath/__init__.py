"""Whole-slide images and brain MRI, from the scanner's file to a result a researcher can trust.

    >>> import digipath
    >>> result = digipath.segment("slide.svs")
    >>> result.probability.shape, result.coverage

Importing this package does nothing: names are resolved when first used.
"""

from __future__ import annotations

import importlib
from typing import Any

# The closed list of public names and where each lives; a test keeps it.
_PUBLIC = {
    "Grade": "digipath.result",
    "Segmentation": "digipath.result",
    "build": "digipath.nn",
    "burden": "digipath.tumour_burden",
    "evaluate": "digipath.evaluation",
    "explain": "digipath.explanations",
    "fetch": "digipath.weights",
    "grade": "digipath.grading.case",
    "list_results": "digipath.result",
    "list_weights": "digipath.weights",
    "load": "digipath.networks",
    "open_result": "digipath.result",
    "open_slide": "digipath.slide",
    "open_volumes": "digipath.volume",
    "segment": "digipath.pipeline",
    "show_weights": "digipath.weights",
    "stage": "digipath.staging",
    "train": "digipath.training.experiment",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    if name == "__version__":
        from importlib.metadata import version

        return version("digipath")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'digipath' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
