"""Fixtures that many tests share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

SHARED_DATA = Path(
    os.environ.get("DIGIPATH_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Where the real data is, a test on it may not be skipped, for whatever reason."""
    report = yield
    if report.skipped and SHARED_DATA.is_dir() and item.get_closest_marker("real_data"):
        report.outcome = "failed"
        report.longrepr = f"skipped although {SHARED_DATA} is there: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout, or a skip that says so."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data not found at {SHARED_DATA}; set DIGIPATH_TEST_DATA to test on it")
    return SHARED_DATA


@pytest.fixture(scope="session")
def small_slide(tmp_path_factory: pytest.TempPathFactory):
    """A generated slide of 1500 × 1100 px at 0.5 µm/px, lossless, in tiles of 256."""
    from digipath.synthetic import write_slide

    return write_slide(tmp_path_factory.mktemp("slide") / "small.tiff", (1500, 1100), tile=256, lossless=True)
