"""What happens when a run is killed, the disk is full, or two runs want one folder: real processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
pytestmark = pytest.mark.slow


def command(slide, out, *words):
    return [
        sys.executable, "-m", "digipath", "segment", str(slide), "--out", str(out), "--tissue", "all",
        "--predictor", "fakes:slow", "--overlap", "0.6", *words,
    ]  # fmt: skip


def environment(seconds=0.02):
    return {**os.environ, "PYTHONPATH": str(TESTS), "FAKE_SECONDS": str(seconds)}


def maps_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in (folder / "maps.zarr").rglob("*") if p.is_file()}


def rows_done(folder):
    checkpoint = folder / "checkpoint.json"
    return json.loads(checkpoint.read_text())["rows_done"] if checkpoint.exists() else 0


def kill_after_progress(slide, folder, pause):
    """Run until more rows are final than before, then for `pause` seconds, then kill -9."""
    before = rows_done(folder)
    run = subprocess.Popen(command(slide, folder), env=environment())
    while rows_done(folder) <= before and run.poll() is None:
        time.sleep(0.005)
    time.sleep(pause)
    run.send_signal(signal.SIGKILL)
    return run.wait() == -signal.SIGKILL, rows_done(folder)


def test_kill_9_at_ten_moments_ends_in_the_same_bytes(small_slide, tmp_path):
    whole = subprocess.run(command(small_slide.path, tmp_path / "whole"), env=environment(), check=False)
    assert whole.returncode == 0
    chance, killed, seen = random.Random(4), 0, set()
    for attempt in range(40):
        folder = tmp_path / f"killed {killed // 5}"  # five kills in a row, then a new folder
        was_killed, rows = kill_after_progress(small_slide.path, folder, chance.random() * 0.2)
        killed, seen = killed + was_killed, seen | {rows}
        if killed == 10:
            break
        assert attempt < 39, "the runs end before they can be killed"
    assert len(seen) >= 4, "killed at so few different places"
    for folder in (tmp_path / "killed 0", tmp_path / "killed 1"):
        last = subprocess.run(command(small_slide.path, folder), env=environment(), check=False)
        assert last.returncode == 0
        assert json.loads((folder / "state.json").read_text())["state"] == "done"
        assert maps_of(folder) == maps_of(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_says_how_to_go_on(small_slide, tmp_path, number):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job would ignore it
    try:
        run = subprocess.Popen(
            command(small_slide.path, tmp_path / "case"), env=environment(0.1), stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    while not (tmp_path / "case" / "checkpoint.json").exists():
        time.sleep(0.05)
    run.send_signal(number)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 130
    assert err.splitlines()[-1] == "digipath: interrupted; the same command goes on where it stopped"
    assert json.loads((tmp_path / "case" / "state.json").read_text())["state"] == "cancelled"


def test_a_second_run_into_one_folder_is_refused(small_slide, tmp_path):
    first = subprocess.Popen(command(small_slide.path, tmp_path / "case"), env=environment(0.1))
    try:
        while not (tmp_path / "case" / "checkpoint.json").exists():
            time.sleep(0.05)
        second = subprocess.run(
            command(small_slide.path, tmp_path / "case"), env=environment(), capture_output=True, text=True, check=False
        )
        assert second.returncode == 2
        said = f"digipath: another run is writing {tmp_path / 'case'} (process {first.pid} on "
        assert second.stderr.startswith(said)
        assert len(second.stderr.splitlines()) == 1
    finally:
        assert first.wait(timeout=60) == 0, "the first run must not notice"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], check=False)
    if made.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_resumes(small_slide, small_disk, tmp_path):
    words = ("--out-mpp", "native")
    full = subprocess.run(
        command(small_slide.path, small_disk / "case", *words), env=environment(0), capture_output=True, text=True,
        check=False,
    )
    assert full.returncode == 2
    message = full.stderr.splitlines()[-1]
    assert message.startswith("digipath: No space left on device while writing ")
    assert "run the same command again" in message
    assert "Traceback" not in full.stderr
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again = subprocess.run(command(small_slide.path, small_disk / "case", *words), env=environment(0), check=False)
    assert again.returncode == 0
    whole = subprocess.run(command(small_slide.path, tmp_path / "whole", *words), env=environment(0), check=False)
    assert whole.returncode == 0
    assert maps_of(small_disk / "case") == maps_of(tmp_path / "whole")
