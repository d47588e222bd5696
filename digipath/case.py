"""A case: one folder, one writer at a time, one state that says what became of it.

    state.json   state (running, done, failed, cancelled), host, process, attempt, reason, identity, names of results
    .lock        held by the run that writes here; the kernel frees it when its owner dies

The identity is what the results depend on: input, settings, weights. A folder is only ever
continued by a run of the same identity.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from digipath.errors import BadInput, Cancelled, CaseBusy, CaseDiffers, OutputUnwritable
from digipath.files import read_json, write_json

Identity = Mapping[str, Any]
QUICK_HASH_BYTES = 2**20
STATE_FILE = "state.json"


class Case:
    """A case folder while a run holds it; use it as a context manager.

    Args:
        folder: created if absent.
        verb: what the run does ("segment", …).
        identity: JSON-able description of input, settings and weights.
        owned: names in the folder that belong to the verb, all there once it is done; removed when it starts afresh.
        also: names that results may have besides; removed likewise.
        resume: False removes results of any earlier run first, those of another verb or kind too.
        kept: names of what the run itself is given, which an earlier one may have written; never removed.

    Attributes:
        done: True if this very case was finished before; then nothing needs doing.

    Raises (on entering):
        CaseBusy: another run holds the folder.
        CaseDiffers: it holds results of another identity and `resume` is True; a run that ended early and left none
            is in nobody's way.
        OutputUnwritable: the folder cannot be created or written.
    """

    def __init__(
        self,
        folder: Path,
        verb: str,
        identity: Identity,
        *,
        owned: Sequence[str],
        also: Sequence[str] = (),
        resume: bool = True,
        kept: Collection[str] = (),
    ) -> None:
        self.folder = folder
        self.done = False
        self._verb = verb
        self._identity = json.loads(json.dumps(identity))  # as it will be read back
        self._owned = owned
        self._names = tuple(dict.fromkeys((*owned, *also)))
        self._kept = kept
        self._resume = resume
        self._attempt = 1
        self._lock = FileLock(folder / ".lock", timeout=0)

    def __enter__(self) -> Case:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise CaseBusy(
                f"another run is writing {self.folder}{self._owner()}; wait for it or choose another --out"
            ) from None
        except OSError as error:
            raise OutputUnwritable(f"cannot write to {self.folder}: {error.strerror or error}") from error
        try:
            self._take_over()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self.done:
                self._close(error)
        except OSError:
            if error is None:
                raise  # on a full disk the first error is the one to tell
        finally:
            self._lock.release()

    def _take_over(self) -> None:
        before = read_state(self.folder)
        names = [name for name in dict.fromkeys((*self._names, *_names_in(before))) if name not in self._kept]
        there = [name for name in names if (self.folder / name).exists()]
        if before is None and there:
            raise OutputUnwritable(f"{self.folder} holds {there[0]}, which is of no case; choose another --out")
        if before is not None and before["identity"] != self._identity and before["state"] != "done" and not there:
            before = None  # it left nothing that could be mixed up with what comes
        if before is not None and before["identity"] != self._identity and self._resume:
            raise CaseDiffers(
                f"{self.folder} holds results of {difference(before['identity'], self._identity)}; "
                "choose another --out, or start afresh with --no-resume"
            )
        if before is not None and self._resume:
            if before["state"] == "done" and {*self._owned} <= {*there}:
                self.done = True
                self._clear_strays()  # of a run that was killed while it wrote a finished case's report anew
                return
            self._attempt = before["attempt"] + 1
        # "running" comes first: results that are being removed must not pass for finished ones.
        self._write("running", names=names)
        if not self._resume:
            for name in names:
                _remove(self.folder / name)
        self._clear_strays()

    def _clear_strays(self) -> None:
        """Remove temporary files that a killed run left behind."""
        ours = [path for name in (*self._names, STATE_FILE) for path in self.folder.glob(f".{name}.*")]
        for stray in (*ours, *self.folder.rglob("*.partial")):
            stray.unlink()

    def _close(self, error: BaseException | None) -> None:
        if error is None:
            self._write("done")
            self.done = True
        elif isinstance(error, Cancelled | KeyboardInterrupt):
            self._write("cancelled", str(error) or "interrupted")
        else:
            self._write("failed", f"{type(error).__name__}: {error}")

    def _write(self, state: str, reason: str | None = None, *, names: Sequence[str] | None = None) -> None:
        write_json(
            self.folder / STATE_FILE,
            {
                "verb": self._verb,
                "state": state,
                "reason": reason,
                "host": socket.gethostname(),
                "process": os.getpid(),
                "attempt": self._attempt,
                "updated": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "identity": self._identity,
                "names": [*(self._names if names is None else names)],
            },
        )

    def _owner(self) -> str:
        state = read_state(self.folder)
        return f" (process {state['process']} on {state['host']})" if state else ""


def read_state(folder: Path) -> dict[str, Any] | None:
    """The state of a case folder, None if it has none.

    Raises:
        BadInput: `state.json` is not one that digipath wrote.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        state = read_json(path)
    except ValueError:
        state = None
    if not isinstance(state, dict) or not {"state", "reason", "identity", "attempt", "process", "host"} <= set(state):
        raise BadInput(f"{path} is damaged or not digipath's; choose another --out, or remove it to start afresh")
    return state


def _names_in(state: Mapping[str, Any] | None) -> list[str]:
    """The names of results in the folder by its state; never a path that leads elsewhere."""
    names = [] if state is None else state.get("names", [])
    return [name for name in names if isinstance(name, str) and name == Path(name).name != ".."]


def difference(before: Identity, now: Identity) -> str:
    """Say in words where two identities differ."""
    for part in sorted({*before, *now}):
        old, new = before.get(part), now.get(part)
        if isinstance(old, dict) and isinstance(new, dict) and old != new:
            keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
            return f"another {part} ({', '.join(f'{k}: {old.get(k)!r}, now {new.get(k)!r}' for k in keys[:3])})"
        if old != new:
            return f"another {part} ({old!r}, now {new!r})"
    return "the same identity"


def file_identity(path: Path) -> dict[str, Any]:
    """Size, time of change and a hash of a file's beginning, middle and end."""
    stat = path.stat()
    digest = hashlib.sha256(str(stat.st_size).encode())
    with path.open("rb") as stream:
        for start in sorted({0, stat.st_size // 2, max(0, stat.st_size - QUICK_HASH_BYTES)}):
            stream.seek(start)
            digest.update(stream.read(QUICK_HASH_BYTES))
    return {"file": path.name, "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns, "quick_hash": digest.hexdigest()}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
