"""Networks made anew from their configuration, without a draw from any global generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def made_anew(operation: Any, seed: Callable[[], int]) -> Any:  # noqa: ANN401 - a layer or an operation
    """The same layer with weights as they are before any training.

    Args:
        seed: asked once for each initialiser and whatever else in the layer is random.
    """
    config = operation.get_config()
    _reseed(config, seed)
    return type(operation).from_config(config)


def _reseed(config: Any, seed: Callable[[], int]) -> None:  # noqa: ANN401 - what a configuration may hold
    if isinstance(config, dict):
        if "seed" in config:
            config["seed"] = seed()
        for value in config.values():
            _reseed(value, seed)
    elif isinstance(config, list | tuple):
        for value in config:
            _reseed(value, seed)
