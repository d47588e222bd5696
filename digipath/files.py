"""Files that appear whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from digipath.errors import OutputUnwritable


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write `data` (text as UTF-8) so that a reader meets the old file or the new one, never half of it.

    Raises:
        OutputUnwritable: the folder is missing or cannot be written, or the disk is full; nothing
            is left behind.
    """
    raw = data.encode(errors="backslashreplace") if isinstance(data, str) else data
    # A name of its own: two writers never share a temporary file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        try:
            temporary.write_bytes(raw)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise OutputUnwritable(f"expected to write {path.name} in {path.parent}, but: {reason}") from error


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
