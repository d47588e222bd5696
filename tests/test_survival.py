"""What happens when a run is killed, the disk is full, or two runs want one folder: real processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
pytestmark = pytest.mark.slow


def command(slide, out, *words):
    return [
        sys.executable, "-m", "digipath", "segment", str(slide), "--out", str(out), "--tissue", "all",
        "--predictor", "fakes:slow", "--overlap", "0.6", *words,
    ]  # fmt: skip


def grading(slide, out, *words):
    """108 tiles in 9 rows, and a report with so many of them that it takes its time."""
    return [
        sys.executable, "-m", "digipath", "grade", str(slide), "--out", str(out), "--tissue", "all", "--tile", "128",
        "--least-tissue", "0.1", "--predictor", "fakes:slow_grader", "--gallery", "9", *words,
    ]  # fmt: skip


def environment(seconds=0.02):
    return {**os.environ, "PYTHONPATH": str(TESTS), "FAKE_SECONDS": str(seconds)}


def maps_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in (folder / "maps.zarr").rglob("*") if p.is_file()}


def rows_done(folder):
    checkpoint = folder / "checkpoint.json"
    return json.loads(checkpoint.read_text())["rows_done"] if checkpoint.exists() else 0


def run_whole(words, seconds=0.02):
    assert subprocess.run(words, env=environment(seconds), check=False).returncode == 0


def kill_when(words, reached, *, pause=0.0, seconds=0.02):
    """Run until `reached()`, then for `pause` seconds, then kill -9; False where the run ended before."""
    run = subprocess.Popen(words, env=environment(seconds))
    while not reached() and run.poll() is None:
        time.sleep(0.005)
    time.sleep(pause)
    run.send_signal(signal.SIGKILL)
    return run.wait() == -signal.SIGKILL


def kill_after_progress(words, folder, pause):
    """Run until more rows are final than before, then for `pause` seconds, then kill -9."""
    before = rows_done(folder)
    return kill_when(words, lambda: rows_done(folder) > before, pause=pause), rows_done(folder)


def kill_often(words, tmp_path, *, kills, longest_s, places):
    """Two folders in which runs were killed, half of the kills in each, at so many different rows at least.

    words: the command of a run into a folder. longest_s: the longest pause before a kill.
    """
    chance, killed, seen = random.Random(4), 0, set()
    folders = [tmp_path / "killed 0", tmp_path / "killed 1"]
    for _ in range(4 * kills):
        folder = folders[killed // (kills // 2)]
        was_killed, rows = kill_after_progress(words(folder), folder, chance.random() * longest_s)
        killed, seen = killed + was_killed, seen | {rows}
        if killed == kills:
            assert len(seen) >= places, "killed at so few different places"
            return folders
    raise AssertionError("the runs end before they can be killed")


def test_kill_9_at_ten_moments_ends_in_the_same_bytes(small_slide, tmp_path):
    whole = subprocess.run(command(small_slide.path, tmp_path / "whole"), env=environment(), check=False)
    assert whole.returncode == 0
    for folder in kill_often(partial(command, small_slide.path), tmp_path, kills=10, longest_s=0.2, places=4):
        last = subprocess.run(command(small_slide.path, folder), env=environment(), check=False)
        assert last.returncode == 0
        assert json.loads((folder / "state.json").read_text())["state"] == "done"
        assert maps_of(folder) == maps_of(tmp_path / "whole")


# --- a grade ---------------------------------------------------------------------------------

FROM_MAPS = ("tiles.csv", "summary.json", "grade_map.png", "grade.geojson")


@pytest.fixture(scope="module")
def whole_grade(small_slide, tmp_path_factory):
    """The folder of a grade that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "case"
    run_whole(grading(small_slide.path, folder), seconds=0)
    return folder


def told(folder):
    """What a grade says, but for when and how fast."""
    run = json.loads((folder / "run.json").read_text())
    kept = {name: run[name] for name in ("tiles", "coverage", "reading", "notes", "settings")}
    return kept, {name: (folder / name).read_bytes() for name in FROM_MAPS}, maps_of(folder)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def state(folder):
    return json.loads((folder / "state.json").read_text())["state"]


def test_kill_9_of_a_grade_at_six_moments_ends_in_the_same_grade(small_slide, whole_grade, tmp_path):
    for folder in kill_often(partial(grading, small_slide.path), tmp_path, kills=6, longest_s=0.3, places=3):
        assert not (folder / "report.html").exists()
        run_whole(grading(small_slide.path, folder))
        assert (state(folder), names(folder)) == ("done", names(whole_grade))
        assert told(folder) == told(whole_grade)


@pytest.mark.parametrize("last", ["tiles.csv", "grade_map.png", "grade.geojson"])
def test_kill_9_of_a_grade_while_its_report_is_written(small_slide, whole_grade, tmp_path, last):
    words = grading(small_slide.path, tmp_path / "case")
    assert kill_when(words, (tmp_path / "case" / last).exists, seconds=0)
    assert (state(tmp_path / "case"), rows_done(tmp_path / "case")) == ("running", 9)
    assert not (tmp_path / "case" / "run.json").exists(), "the whole report had been written"
    run_whole(words, seconds=0)
    assert (state(tmp_path / "case"), names(tmp_path / "case")) == ("done", names(whole_grade))
    assert told(tmp_path / "case") == told(whole_grade)
    assert "grade 4, most certain" in (tmp_path / "case" / "report.html").read_text()


def test_kill_9_while_a_finished_grade_is_read_again_by_other_thresholds(small_slide, whole_grade, tmp_path):
    folder = tmp_path / "case"
    run_whole(grading(small_slide.path, folder), seconds=0)
    stricter = grading(small_slide.path, folder, "--least-share", "0.9")

    def of_no_reading():
        return json.loads((folder / "run.json").read_text())["reading"] is None

    assert kill_when(stricter, of_no_reading, seconds=0)
    assert of_no_reading(), "the whole report had been written"
    run_whole(stricter, seconds=0)
    assert json.loads((folder / "run.json").read_text())["reading"]["least_share"] == 0.9
    assert json.loads((folder / "summary.json").read_text())["highest_grade"] is None
    run_whole(grading(small_slide.path, folder), seconds=0)
    assert names(folder) == names(whole_grade)
    assert told(folder) == told(whole_grade)


# --- interrupts, other runs, the disk --------------------------------------------------------


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
