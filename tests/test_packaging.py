"""What a wheel carries: every file that the code reads beside itself."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"digipath.cards": "weights", "digipath.webapp": "webapp"}


def package_data() -> dict[str, list[str]]:
    calls = (node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.keyword))
    return next(ast.literal_eval(one.value) for one in calls if one.arg == "package_data")


def test_every_data_file_is_packaged():
    packaged = {
        path
        for package, patterns in package_data().items()
        for pattern in patterns
        for path in (ROOT / FOLDERS.get(package, package.replace(".", "/"))).glob(pattern)
    }
    inside = [path for folder in ("digipath", "weights", "webapp") for path in (ROOT / folder).rglob("*.*")]
    data = {path for path in inside if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert data - packaged == set()
    assert ROOT / "digipath" / "synthetic" / "detector_errors.json" in packaged
