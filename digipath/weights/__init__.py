"""Weights: cards that say what they are, files that are checked before anything opens them.

`cards` finds and reads the cards, `integrity` checks files against them, `arrival` brings files
here (`fetch` from the network or a folder, `import_weights` by hand), `download` is the network.
Networks are built elsewhere.
"""

from __future__ import annotations

from digipath.weights.arrival import fetch, import_weights
from digipath.weights.cards import (
    DEFAULT,
    DEFAULT_FOREST,
    DEFAULT_FUSION,
    DEFAULT_GRADER,
    DEFAULT_VOLUME_GRADER,
    SCHEMA,
    cards_with_files,
    check_card,
    home,
    list_weights,
    load_card,
    member_cards,
    members,
    segmenter,
    show_weights,
)
from digipath.weights.integrity import sha256_of, verify, whereabouts

__all__ = [
    "DEFAULT",
    "DEFAULT_FOREST",
    "DEFAULT_FUSION",
    "DEFAULT_GRADER",
    "DEFAULT_VOLUME_GRADER",
    "SCHEMA",
    "cards_with_files",
    "check_card",
    "fetch",
    "home",
    "import_weights",
    "list_weights",
    "load_card",
    "member_cards",
    "members",
    "segmenter",
    "sha256_of",
    "show_weights",
    "verify",
    "whereabouts",
]
