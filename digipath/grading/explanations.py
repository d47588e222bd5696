"""What in a tile speaks for its grade: Grad-CAM of the networks that graded it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from digipath.explanations import GradCam
from digipath.grading.tile_networks import Graders, Member, modular_channels
from digipath.networks import network_of
from digipath.runtime import without_startup_notices
from digipath.values import Card

Explainer = Callable[[NDArray[np.uint8], int], NDArray[np.float32]]  # (P, P, 3), class → (P, P) in [0, 1]


def explainer_of(graders: Graders) -> Explainer | None:
    """Grad-CAM averaged over the members, each divided by its maximum; None for the caller's own predictors.

    Of a modular pair, the network is asked that decides on the grade: the first for the highest, else the second.
    """
    if not graders.members:
        return None
    with without_startup_notices():
        cams = {name: GradCam(network_of(card)) for name, card in {c.name: c for c in graders.cards}.items()}

    def explain(tile: NDArray[np.uint8], grade: int) -> NDArray[np.float32]:
        found = []
        for member in graders.members:
            card, channel = _asked(member, grade)
            asked = card.record["input"]
            scaled = tile * np.asarray(asked["scale"], np.float32) + np.asarray(asked["offset"], np.float32)
            found.append(cams[card.name](scaled, channel))
        return np.mean(found, axis=0)

    return explain


def _asked(member: Member, grade: int) -> tuple[Card, int]:
    """The network that decides on a grade, and which of its channels that is."""
    if len(member.networks) == 1:
        return member.networks[0], grade
    first, second = member.networks
    top, rest = modular_channels(member.card, first, second)
    return (first, top) if grade == len(rest) else (second, rest[grade])
