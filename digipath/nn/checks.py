"""What every segmentation network asks of its settings."""

from __future__ import annotations

from digipath.errors import BadInput

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
