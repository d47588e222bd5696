"""Files that appear whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from digipath.errors import OutputUnwritable

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write `data` (text as UTF-8) so that a reader meets the old file or the new one, never half of it.

    Raises:
        OutputUnwritable: the folder is missing or cannot be written, or the disk is full; nothing
            is left behind.
    """
    raw = data.encode(errors="backslashreplace") if isinstance(data, str) else data
    _whole(path, lambda temporary: temporary.write_bytes(raw))


def copy_atomically(source: Path, path: Path) -> None:
    """Copy a file so that it is there whole or not at all.

    Raises:
        OutputUnwritable: as for `write_atomically`.
    """
    _whole(path, lambda temporary: shutil.copyfile(source, temporary))


def made_folder(path: Path) -> Path:
    """The same folder, made if it was absent. Raises OutputUnwritable where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputUnwritable(f"cannot write to {path}, expected a folder: {error.strerror or error}") from error
    return path


def write_json(path: Path, value: object, *, indent: int | None = 2) -> None:
    """Write `value` as JSON; NaN and infinity are refused, since JSON has neither.

    `indent` None packs it into one line, for large files.

    Raises:
        OutputUnwritable: as for `write_atomically`.
        ValueError: a number is not finite.
    """
    write_atomically(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON
    """The JSON in a file.

    Raises:
        ValueError: it is none (RecursionError where it is nested absurdly deep); OSError: no file.
    """
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one clear line; what was finished stays and resumes.

    Raises:
        OutputUnwritable: instead of the OSError of a write into `folder`.
    """
    try:
        yield
    except OSError as error:
        cause = error.__cause__ if isinstance(error, OutputUnwritable) else error
        if not isinstance(cause, OSError) or cause.errno not in DISK_ERRORS:
            raise
        remedy = "make room" if cause.errno in (errno.ENOSPC, errno.EDQUOT) else "make it writable"
        raise OutputUnwritable(
            f"{cause.strerror} while writing {folder}; {remedy} and run the same command again, "
            "it goes on where it was"
        ) from error


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path` under a name of its own, since two writers never share a file; then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        try:
            write(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise OutputUnwritable(f"expected to write {path.name} in {path.parent}, but: {reason}") from error
