"""Is a weights file what its card says? By sha256, else md5, else by how it first came here.

Where no source states a sha256, the one of the first arrival is kept beside the file, as
`<file>.sha256` in the format of `sha256sum`; from then on another content is refused.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path

from digipath.errors import UnknownWeights, WeightsCorrupt
from digipath.files import write_atomically
from digipath.values import Card
from digipath.weights.cards import packaged, store

PICKLE_SIGNATURE = b"\x80"  # PyTorch's files before 1.6
AGAIN = "the file is damaged or was replaced: fetch or copy it again"


def verify(card: Card, *, asked: str | None = None) -> str:
    """Check the weights file against its card and return its sha256.

    Args:
        card: of a network, an encoder or a forest.
        asked: the name the user gave, e.g. of the ensemble; messages say what to fetch by it.

    Raises:
        UnknownWeights: the file is absent. WeightsCorrupt: it is not what the card says.
    """
    if not card.file.is_file():
        raise UnknownWeights(absent(card, asked or card.name))
    return checked(card.file, card)


def checked(
    path: Path, card: Card, *, called: Path | None = None, trust_anew: bool = False, advice: str = AGAIN
) -> str:
    """The sha256 of the file at `path`, which is to be, or to become, the card's weights file.

    Args:
        path: the file.
        card: what it must be.
        called: the file that a refusal speaks of, of which `path` is a copy.
        trust_anew: do not hold it against the sha256 of the first arrival.
        advice: what a refusal tells the user to do.

    Raises:
        WeightsCorrupt: another sha256 or md5 than stated, another sha256 than at first; with
            neither stated nor known, another size, no file of the card's format, or arrays of
            another network.
    """
    found, stated, known = sha256_of(path), card.record["sha256"], None if trust_anew else first_sha256(card)
    called = called or path
    if stated is not None:
        if found != stated:
            raise WeightsCorrupt(f"sha256 of {called} is {found[:12]}…, its card says {stated[:12]}…; {advice}")
        return found
    if known is not None and found != known:
        raise WeightsCorrupt(
            f"sha256 of {called} is {found[:12]}…, when it first came here it was {known[:12]}…; {advice}, "
            f"or, if you trust the new one, `digipath weights import {card.name} FILE --force`"
        )
    if (md5 := card.record.get("md5")) is not None:
        if (found_md5 := _digest(path, "md5")) != md5:
            raise WeightsCorrupt(f"md5 of {called} is {found_md5[:12]}…, its card says {md5[:12]}…; {advice}")
    elif known is None and (why := _implausible(path, card)):
        raise WeightsCorrupt(f"{called} {why}; {advice}")
    return found


def first_sha256(card: Card) -> str | None:
    """The sha256 that was found when the file first came here, if no source states one.

    Raises:
        WeightsCorrupt: the record of it is damaged.
    """
    note = _note(card)
    if card.record["sha256"] is not None or not note.is_file():
        return None
    found = re.match(r"[0-9a-f]{64}(?=\s)", note.read_text(encoding="utf-8", errors="replace"))
    if found is None:
        raise WeightsCorrupt(f"expected a sha256 in {note}; remove it to trust the next file that comes")
    return found[0]


def keep_sha256(card: Card, sha256: str) -> None:
    """Keep what was found at the first arrival, for cards that state no sha256 themselves."""
    if card.record["sha256"] is None:
        write_atomically(_note(card), f"{sha256}  {card.file.name}\n")


def whereabouts(card: Card) -> str:
    """Where the weights file is: "shipped", "fetched", "own", "to fetch" or "missing"."""
    of_package = card.path.resolve().parent == packaged().resolve()
    if not card.file.is_file():
        return "to fetch" if card.record["urls"] else "missing"
    if not of_package:
        return "own"
    return "fetched" if card.file.parent == store() else "shipped"


def absent(card: Card, asked: str) -> str:
    """One line on a weights file that is not there, and how to get it."""
    missing = f"the weights file of {card.name} is absent, expected it at {card.file}"
    if not card.record["urls"]:
        return f"{missing}: copy it there"
    if card.file.parent != store():
        return f"{missing}: get it from {card.record['urls'][0]}"
    by_hand = f"`digipath weights import {card.name} FILE` with a copy of {card.record['urls'][0]}"
    return f"{missing}: run `digipath weights fetch {asked}`, or {by_hand}"


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    return _digest(path, "sha256")


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as stream:
        # md5 guards against accidents only; machines in FIPS mode allow it when told so.
        return hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _note(card: Card) -> Path:
    return card.file.with_name(f"{card.file.name}.sha256")


def _implausible(path: Path, card: Card) -> str | None:
    """Why this cannot be the file: a page of a proxy, one cut off, of another format, of another network."""
    size, expected = path.stat().st_size, card.record["bytes"]
    if expected is not None and size != expected:
        return f"has {size} bytes, its card says {expected}"
    with path.open("rb") as stream:
        begin = stream.read(16)
    layout, parameters = card.record.get("format"), card.record.get("parameters")
    if card.file.suffix == ".skops":
        whole, values = zipfile.is_zipfile(path), None
    elif layout == "torch":
        whole, values = zipfile.is_zipfile(path) or begin.startswith(PICKLE_SIGNATURE), None
    else:
        values = _values_in(path)
        whole = values is not None
    if not whole:
        return f"({size} bytes, begins with {begin!r}) is no whole weights file"
    if layout == "keras2-h5" and parameters not in (None, values):
        return f"holds {values} numbers, the network of its card has {parameters}"
    return None


def _values_in(path: Path) -> int | None:
    """How many numbers an HDF5 file of weights holds, by the shapes of its arrays.

    None for another format and for a file cut off or damaged: HDF5 knows its own end.
    """
    import h5py

    sizes: list[int] = []

    def count(_name: str, found: h5py.Group | h5py.Dataset) -> None:
        if isinstance(found, h5py.Dataset):
            sizes.append(found.size or 0)

    try:
        with h5py.File(path, "r") as file:
            # A file of a whole model has the state of its optimizer beside its weights.
            file.get("model_weights", file).visititems(count)
    except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError):
        return None
    return sum(sizes)
