"""From where an interrupted training goes on: one file, which appears whole or not at all.

    record      the history so far, the phase of the optimiser, why the training ended (null: it has not)
    network/i   weights, batch statistics and the states of the random generators
    optimiser/i its variables, the moving average of the weights among them

i counts in the order of Keras, which is that of building.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput, OutputUnwritable

Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class Checkpoint:
    """A training after its last finished epoch; no arrays are left once it has ended."""

    history: tuple[dict[str, Any], ...] = ()
    phase: str | None = None
    stopped: str | None = None
    network: Arrays = ()
    optimiser: Arrays = ()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file at `path`. Raises OutputUnwritable; then the old one is still there."""
    record = {"history": checkpoint.history, "phase": checkpoint.phase, "stopped": checkpoint.stopped}
    arrays = {
        f"{part}/{index}": array
        for part in ("network", "optimiser")
        for index, array in enumerate(getattr(checkpoint, part))
    }
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, record=np.array(json.dumps(record)), **arrays)


def load_checkpoint(path: Path) -> Checkpoint:
    """What `save_checkpoint` wrote. Raises BadInput: the file is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            record = json.loads(str(stored["record"]))
            parts = {part: _arrays(stored, part) for part in ("network", "optimiser")}
        return Checkpoint(tuple(record["history"]), record["phase"], record["stopped"], **parts)
    except (ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise BadInput(f"{path} is damaged ({error}); start afresh with --no-resume") from error


def _arrays(stored: Any, part: str) -> Arrays:  # noqa: ANN401 - NumPy's NpzFile
    count = sum(name.startswith(f"{part}/") for name in stored.files)
    return tuple(stored[f"{part}/{index}"] for index in range(count))


@contextmanager
def replacing(path: Path, *, least_bytes: int = 0) -> Iterator[Path]:
    """A temporary path beside `path`, of the same suffixes, that takes its place when the block ends well.

    least_bytes: refuse to begin where the disk has less room; HDF5 brings the process down on a full disk.
    Raises OutputUnwritable; nothing is left behind.
    """
    # `case.Case` removes what a killed run leaves under such names.
    temporary = path.with_name(f".{path.name}.{os.getpid()}{''.join(path.suffixes)}")
    try:
        if shutil.disk_usage(path.parent).free < least_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputUnwritable(f"expected to write {path}, but: {error.strerror or error}") from error
