"""What every network asks of its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TypeVar

from digipath.errors import BadInput

T = TypeVar("T")
ACTIVATIONS = ("sigmoid", "softmax", "linear")


def check_head(classes: int, activation: str) -> None:
    """Raise BadInput unless `classes` ≥ 1 and `activation` suits it."""
    if classes < 1:
        raise BadInput(f"expected at least one class, got {classes}")
    if activation not in ACTIVATIONS:
        raise BadInput(f"expected an activation among {', '.join(ACTIVATIONS)}, got {activation!r}")
    if activation == "softmax" and classes == 1:
        raise BadInput("softmax over one class is always 1: use activation='sigmoid' or classes=2")


def spatial_shape(patch: int | None, channels: int, *, multiple: int) -> tuple[int | None, int | None, int]:
    """(patch, patch, channels) of an input; `patch` None leaves both sides free.

    Raises BadInput unless `channels` ≥ 1 and `patch` is a positive multiple of `multiple` pixels.
    """
    if channels < 1:
        raise BadInput(f"expected at least one input channel, got {channels}")
    if patch is not None and (patch < multiple or patch % multiple):
        raise BadInput(f"expected a patch that is a multiple of {multiple} px, got {patch}")
    return (patch, patch, channels)


def tile_shape(patch: int | None, channels: int, *, least: int) -> tuple[int | None, int | None, int]:
    """(patch, patch, channels) of a tile to be classified; `patch` None leaves both sides free.

    Raises BadInput unless `channels` ≥ 1 and `patch` is at least `least` pixels.
    """
    if patch is not None and patch < least:
        raise BadInput(f"expected a patch of at least {least} px, got {patch}")
    return spatial_shape(patch, channels, multiple=1)


def check_training(dropout: float, momentum: float) -> None:
    """Raise BadInput unless the shares that drop out, and those that statistics keep, are in [0, 1)."""
    if not 0 <= dropout < 1:
        raise BadInput(f"expected a dropout in [0, 1), got {dropout}")
    if not 0 <= momentum < 1:
        raise BadInput(f"expected a momentum in [0, 1), got {momentum}")


def built(what: str, builders: Mapping[str, Callable[..., T]], name: str, config: Mapping[str, object]) -> T:
    """`builders[name](**config)`; BadInput if there is no such name, or if it has no such setting."""
    if name not in builders:
        raise BadInput(f"expected {what} among {', '.join(sorted(builders))}, got {name!r}")
    known = set(inspect.signature(builders[name]).parameters)
    if unknown := set(config) - known:
        unknown_names, known_names = ", ".join(sorted(unknown)), ", ".join(sorted(known))
        raise BadInput(f"network {name!r} has no setting {unknown_names}; it has {known_names}")
    return builders[name](**config)
