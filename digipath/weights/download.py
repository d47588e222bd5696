"""One file from one https address into one `.part` file: resumed, retried, never half-believed.

The `.part` file stays when a download is interrupted, with the server's mark of the content (its
ETag or date) beside it; the next one asks for the rest only of that very content. Whether the
content is right is not judged here. Proxies are those of the environment (HTTPS_PROXY, NO_PROXY).
"""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from digipath.errors import OutputUnwritable
from digipath.files import write_atomically

if TYPE_CHECKING:
    import requests

Report = Callable[[int, int | None], None]  # bytes here, bytes in all if the server says; may raise to stop
PASSING = {408, 425, 429, 500, 502, 503, 504}
LONGEST_PAUSE_S = 60.0
LONGEST_REASON = 200  # characters
# What tells one content of an address from another: a strong ETag, or a date.
MARK = re.compile(r'"[!#-~]*"|[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT', re.ASCII)
NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class Transport:
    """How a server is asked.

    Attributes:
        schemes: what an address, and any it redirects to, must begin with.
        attempts: tries in a row that bring nothing new, before giving up.
        pause_s: before the second try; doubled for each further one.
        timeout_s: to connect, and between two pieces.
        piece: bytes written, and reported, at a time; less than that is lost when a connection breaks.
    """

    schemes: tuple[str, ...] = ("https://",)
    attempts: int = 4
    pause_s: float = 1.0
    timeout_s: tuple[float, float] = (10.0, 60.0)
    piece: int = 2**16


HTTPS = Transport()


class Failed(Exception):
    """The file cannot be had from this address; `str` says why, in a few words."""


class _Passing(Exception):
    """This try failed, the next may not."""

    def __init__(self, why: str, pause_s: float = 0.0) -> None:
        super().__init__(why)
        self.pause_s = pause_s


def download(url: str, part: Path, report: Report, *, transport: Transport = HTTPS) -> None:
    """Bring what lies at `url` into `part`, going on where an earlier download of it stopped.

    Raises:
        Failed: no connection, a refusal, or no progress in `transport.attempts` tries.
        OutputUnwritable: the disk is full or the folder cannot be written.
        Whatever `report` raises; what has arrived stays.
    """
    with _session(transport) as session:
        most, left = -1, transport.attempts
        while True:
            try:
                return _receive(session, url, part, report, transport)
            except _Passing as passing:
                if (here := _size(part)) > most:  # it moves: have patience
                    most, left = here, transport.attempts
                left -= 1
                if left <= 0:
                    raise Failed(str(passing)) from passing
                waited = transport.pause_s * 2.0 ** (transport.attempts - left - 1)
                time.sleep(min(max(waited, passing.pause_s), LONGEST_PAUSE_S))


def discard(part: Path) -> None:
    """Remove a `.part` file and its mark."""
    part.unlink(missing_ok=True)
    _mark(part).unlink(missing_ok=True)


def one_line(text: str) -> str:
    """What others say, fit for a message: printable, in one line, of bounded length."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:LONGEST_REASON]


def _receive(session: requests.Session, url: str, part: Path, report: Report, transport: Transport) -> None:
    """One try; returns when the file is whole."""
    here, mark = _size(part), _read_mark(part)
    answer = _ask(session, url, {"Range": f"bytes={here}-", "If-Range": mark} if here and mark else {}, transport)
    with answer:
        if here and answer.status_code == 416 and answer.headers.get("Content-Range") == f"bytes */{here}":
            return  # all of it was here already
        if answer.status_code == 416:
            discard(part)
            raise _Passing("the server has another file than before")
        if answer.status_code != 200 and not (answer.status_code == 206 and here):
            raise _refusal(answer)
        if answer.status_code == 200:
            here = 0
        total = _total(answer, here, part)
        _check_space(part, here, total)
        with _opened(part, "ab" if here else "wb") as stream:
            if not here:
                _write_mark(part, answer)
            _store(answer.iter_content(transport.piece), stream, here, total, report)


def _ask(session: requests.Session, url: str, headers: dict[str, str], transport: Transport) -> requests.Response:
    from requests import exceptions
    from urllib3.exceptions import HTTPError

    try:
        return session.get(url, headers=headers, stream=True, timeout=transport.timeout_s)
    except exceptions.SSLError as error:
        raise Failed(f"its certificate is not accepted ({_words(error)}); see REQUESTS_CA_BUNDLE") from error
    except (exceptions.ConnectionError, exceptions.Timeout, exceptions.ChunkedEncodingError) as error:
        raise _Passing(_words(error)) from error
    # No such scheme, too many redirects; a redirect to what is no address, of which requests itself trips over some.
    except (exceptions.RequestException, HTTPError, ValueError) as error:
        raise Failed(_words(error)) from error


def _store(pieces: Iterator[bytes], stream: BinaryIO, here: int, total: int | None, report: Report) -> None:
    """Write the pieces as they come; each is on its way to the disk before the next is reported."""
    from requests import exceptions

    report(here, total)
    while True:
        try:
            data = next(pieces, None)
        except exceptions.RequestException as error:
            raise _Passing(f"the connection broke off ({_words(error)})") from error
        if data is None:
            break
        try:
            stream.write(data)
            stream.flush()
        except OSError as error:
            raise _unwritable(Path(stream.name), error) from error
        here += len(data)
        report(here, total)
    if total is not None and here != total:
        raise _Passing(f"only {here} of {total} bytes came")


def _total(answer: requests.Response, here: int, part: Path) -> int | None:
    """Size of the whole file, as the server says; a rest that does not continue ours is refused."""
    if not here:
        return _number(answer.headers.get("Content-Length"))
    span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if span.partition("-")[0] != str(here):
        discard(part)
        raise _Passing(f"asked for the bytes from {here} on, got {one_line(span) or 'others'}")
    return _number(total)


def _number(text: str | None) -> int | None:
    """A count that a server states; None if it states none, or something else."""
    return int(text) if text is not None and NUMBER.fullmatch(text) else None


def _refusal(answer: requests.Response) -> Exception:
    why = one_line(f"the server answers {answer.status_code} {answer.reason or ''}")
    if answer.status_code not in PASSING:
        return Failed(why)
    return _Passing(why, float(_number(answer.headers.get("Retry-After")) or 0))


def _session(transport: Transport) -> requests.Session:
    """A session that cannot be led to an address of another scheme, as by a redirect."""
    import requests

    session = requests.Session()
    session.adapters.clear()
    for scheme in transport.schemes:
        session.mount(scheme, requests.adapters.HTTPAdapter())
    # As it is, not packed: its length and what we hold of it must be in the file's own bytes.
    session.headers["Accept-Encoding"] = "identity"
    return session


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _mark(part: Path) -> Path:
    return part.with_name(f"{part.name}.mark")


def _read_mark(part: Path) -> str | None:
    kept = _mark(part).read_text(encoding="utf-8", errors="replace") if _mark(part).is_file() else ""
    return kept if MARK.fullmatch(kept) else None


def _write_mark(part: Path, answer: requests.Response) -> None:
    """Keep what tells this content from another, the ETag rather than the date."""
    stated = (answer.headers.get(name, "") for name in ("ETag", "Last-Modified"))
    write_atomically(_mark(part), next(filter(MARK.fullmatch, stated), ""))


def _check_space(part: Path, here: int, total: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - here > free:
        wanted = math.ceil((total - here) / 1e6)
        raise OutputUnwritable(f"expected {wanted} MB free in {part.parent}, got {free / 1e6:.0f} MB: make room")


def _opened(part: Path, mode: str) -> BinaryIO:
    try:
        return part.open(mode)  # type: ignore[return-value]
    except OSError as error:
        raise _unwritable(part, error) from error


def _unwritable(part: Path, error: OSError) -> OutputUnwritable:
    reason = error.strerror or error
    return OutputUnwritable(f"expected to write {part.name} in {part.parent}, but: {reason}; what has arrived is kept")


def _words(error: BaseException) -> str:
    """The innermost cause of a chain of network errors, in a line."""
    seen = error
    while (inner := seen.__cause__ or seen.__context__ or getattr(seen, "reason", None)) is not None:
        if not isinstance(inner, BaseException):
            break
        seen = inner
    return one_line(str(getattr(seen, "strerror", None) or seen)) or type(seen).__name__
