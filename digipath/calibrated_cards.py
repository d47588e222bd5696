"""Cards of networks with a temperature, for weights that were trained without one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from digipath.files import copy_atomically, write_json
from digipath.values import Card
from digipath.weights import load_card, member_cards, verify

SUFFIX = "-calibrated"
WEIGHTS = ".weights.h5"  # Keras wants this ending
LIMIT = "Calibrated by one temperature: on other tissue than it was fitted on, probabilities may be no frequencies."
MEAN_LIMIT = (
    "Its networks are calibrated each by itself, their mean is not. The metrics are of the networks as they were "
    "trained, before their temperatures."
)


def write_calibrated_cards(weights: str, calibrations: Mapping[str, Mapping[str, Any]], folder: Path) -> Path:
    """Write the network or ensemble called `weights` into a folder, with temperatures and all its files.

    Names get the ending "-calibrated"; `digipath segment --weights` and `digipath weights import` take the card.

    Args:
        calibrations: of each network by the name of its card, as a card's `calibration`.

    Returns:
        The card of what `weights` is.

    Raises:
        UnknownWeights, BadCard, WeightsCorrupt: see `digipath.weights`. OutputUnwritable: the folder cannot be written.
    """
    card = load_card(weights)
    networks = member_cards(weights)
    for network in networks:
        _write_network(network, calibrations[network.name], folder)
    if card.record["kind"] == "network":
        return folder / f"{card.name}{SUFFIX}.json"
    members = [f"{network.name}{SUFFIX}" for network in networks]
    return _write({**card.record, "members": members}, MEAN_LIMIT, folder)


def _write_network(card: Card, calibration: Mapping[str, Any], folder: Path) -> None:
    sha256 = verify(card)
    ending = WEIGHTS if card.file.name.endswith(WEIGHTS) else card.file.suffix
    record = {key: value for key, value in card.record.items() if key not in ("archive", "md5")}
    record |= {
        "file": f"{card.name}{SUFFIX}{ending}",
        "urls": [],  # the file lies beside the card
        "bytes": card.file.stat().st_size,
        "sha256": sha256,
        "sha256_reason": None,
        "calibration": dict(calibration),
    }
    copy_atomically(card.file, folder / record["file"])
    _write(record, LIMIT, folder)


def _write(record: Mapping[str, Any], limit: str, folder: Path) -> Path:
    """A card under its new name, which says what became of its probabilities instead of that they are none."""
    limits = [text for text in record["limits"] if not text.startswith("Not calibrated")]
    path = folder / f"{record['name']}{SUFFIX}.json"
    write_json(path, {**record, "name": path.stem, "limits": [*limits, limit]})
    return path
