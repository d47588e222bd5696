"""The scripts in examples/ and benchmarks/, as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, BENCHMARKS = ROOT / "examples", ROOT / "benchmarks"


def load(name: str, folder: Path = EXAMPLES) -> ModuleType:
    """The script NAME.py of a folder; its `main` is not run."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    script = sys.modules[name] = importlib.util.module_from_spec(spec)  # its dataclasses look it up there
    spec.loader.exec_module(script)
    return script
