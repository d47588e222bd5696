"""A case folder: one writer, one identity, a state that tells what happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from digipath.case import Case, difference, file_identity, read_state
from digipath.errors import BadInput, Cancelled, CaseBusy, CaseDiffers, OutputUnwritable

IDENTITY = {"input": {"quick_hash": "a"}, "settings": {"views": 1}}


def case(folder, identity=IDENTITY, **options):
    return Case(folder, "segment", identity, owned=("maps.zarr", "run.json"), **options)


def test_a_finished_case_is_done_and_stays_done(tmp_path):
    with case(tmp_path / "c") as first:
        assert not first.done
        assert read_state(tmp_path / "c")["state"] == "running"
        (tmp_path / "c" / "maps.zarr").mkdir()
        (tmp_path / "c" / "run.json").write_text("{}")
    assert read_state(tmp_path / "c")["state"] == "done"
    with case(tmp_path / "c") as again:
        assert again.done
    assert read_state(tmp_path / "c")["attempt"] == 1
    (tmp_path / "c" / "run.json").unlink()
    with case(tmp_path / "c") as lacking:
        assert not lacking.done, "a case that lost a file is not done"


def test_files_of_somebody_else_are_not_touched(tmp_path):
    (tmp_path / "run.json").write_text("mine")
    with pytest.raises(OutputUnwritable, match=r"holds run.json, which is of no case"), case(tmp_path):
        pass
    with pytest.raises(OutputUnwritable, match="run"), case(tmp_path, resume=False):
        pass
    assert (tmp_path / "run.json").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}', "[]"])
def test_a_damaged_state_is_said(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(BadInput, match=r"state.json is damaged"), case(tmp_path):
        pass


def test_what_a_killed_run_left_is_cleared(tmp_path):
    with pytest.raises(ValueError, match="odd"):
        begin_and_raise(tmp_path, ValueError("odd"))
    (tmp_path / "maps.zarr" / "probability").mkdir(parents=True)
    strays = [tmp_path / "maps.zarr" / "probability" / "0.ab12.partial", tmp_path / ".run.json.77.abcd"]
    for stray in strays:
        stray.write_text("half")
    with case(tmp_path):
        assert not any(stray.exists() for stray in strays)
        assert (tmp_path / "run.json").exists()


def test_what_was_left_in_a_finished_case_is_cleared_too(tmp_path):
    with case(tmp_path):
        (tmp_path / "maps.zarr").mkdir()
        (tmp_path / "run.json").write_text("{}")
    (tmp_path / ".run.json.77.abcd").write_text("half")
    with case(tmp_path) as again:
        assert again.done
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "state.json", "maps.zarr", "run.json"}


def test_results_that_are_being_removed_do_not_pass_for_finished_ones(tmp_path, monkeypatch):
    """Killed in the middle of --no-resume: the state must already say that the case is not done."""
    with case(tmp_path):
        (tmp_path / "maps.zarr").mkdir()
        (tmp_path / "run.json").write_text("{}")
    seen = []
    monkeypatch.setattr("digipath.case._remove", lambda path: seen.append(read_state(tmp_path)["state"]))
    with case(tmp_path, resume=False):
        pass
    assert seen == ["running", "running"]


def begin_and_raise(folder, error, name="run.json"):
    with case(folder):
        (folder / name).write_text("half")
        raise error


@pytest.mark.parametrize(
    ("error", "state"),
    [(ValueError("odd"), "failed"), (Cancelled("stop"), "cancelled"), (KeyboardInterrupt(), "cancelled")],
)
def test_the_reason_of_an_early_end_is_kept_and_the_next_run_goes_on(tmp_path, error, state):
    with pytest.raises(type(error)):
        begin_and_raise(tmp_path, error)
    found = read_state(tmp_path)
    assert found["state"] == state
    assert found["reason"] in ("ValueError: odd", "stop", "interrupted")
    with case(tmp_path) as again:
        assert not again.done
        assert (tmp_path / "run.json").exists()
        assert read_state(tmp_path)["attempt"] == 2


def test_other_settings_are_refused_and_named(tmp_path):
    with case(tmp_path):
        pass
    other = {**IDENTITY, "settings": {"views": 8}}
    with pytest.raises(CaseDiffers, match=r"another settings \(views: 1, now 8\).*--no-resume"), case(tmp_path, other):
        pass
    assert read_state(tmp_path)["identity"] == IDENTITY


def test_starting_afresh_removes_only_what_the_verb_owns(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with case(tmp_path):
        (tmp_path / "maps.zarr").mkdir()
        (tmp_path / "maps.zarr" / "x").write_text("old")
    with case(tmp_path, {**IDENTITY, "settings": {"views": 8}}, resume=False) as fresh:
        assert not fresh.done
        assert not (tmp_path / "maps.zarr").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


OTHER = {**IDENTITY, "input": {"quick_hash": "b"}}


@pytest.mark.parametrize("error", [ValueError("odd"), Cancelled("stop")], ids=["failed", "cancelled"])
def test_a_run_that_left_nothing_is_in_nobodys_way(tmp_path, error):
    with pytest.raises(type(error)), case(tmp_path):
        raise error
    with case(tmp_path, OTHER) as taken:
        assert not taken.done
        (tmp_path / "run.json").write_text("{}")
    assert (read_state(tmp_path)["identity"], read_state(tmp_path)["attempt"]) == (OTHER, 1)
    with pytest.raises(CaseDiffers, match="another input"), case(tmp_path):
        pass


@pytest.mark.parametrize("name", ["run.json", "extra.csv"])
def test_a_run_that_left_something_is_of_its_identity(tmp_path, name):
    with pytest.raises(ValueError, match="odd"):
        begin_and_raise(tmp_path, ValueError("odd"), name)
    with pytest.raises(CaseDiffers, match="another input"), case(tmp_path, OTHER, also=("extra.csv",)):
        pass


def test_what_may_be_there_besides_is_not_needed_and_removed_with_the_rest(tmp_path):
    with case(tmp_path, also=("extra.csv",)):
        for name in ("maps.zarr", "run.json"):
            (tmp_path / name).write_text("{}")
    with case(tmp_path, also=("extra.csv",)) as again:
        assert again.done
    (tmp_path / "extra.csv").write_text("old")
    with case(tmp_path, also=("extra.csv",), resume=False):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "state.json"}


def test_what_may_be_there_besides_is_not_taken_from_somebody_else(tmp_path):
    (tmp_path / "extra.csv").write_text("mine")
    with pytest.raises(OutputUnwritable, match=r"holds extra\.csv, which is of no case"):
        case(tmp_path, also=("extra.csv",)).__enter__()


def test_starting_afresh_removes_what_an_earlier_run_of_another_kind_says_it_left(tmp_path):
    folder = tmp_path / "c"
    with Case(folder, "grade", OTHER, owned=("planes.png",), also=("tumour.nii.gz", "../notes.txt", "mine.txt")):
        for name in ("planes.png", "tumour.nii.gz", "mine.txt", "unknown.txt"):
            (folder / name).write_text("old")
    (tmp_path / "notes.txt").write_text("not of the case")
    with case(folder, resume=False, kept=("mine.txt",)):
        assert {path.name for path in folder.iterdir()} == {".lock", "state.json", "mine.txt", "unknown.txt"}
    assert (tmp_path / "notes.txt").exists()
    assert read_state(folder)["names"] == ["maps.zarr", "run.json"]


HOLD = """
import sys, time
from pathlib import Path
from digipath.case import Case
with Case(Path(sys.argv[1]), "segment", {"input": {"quick_hash": "a"}, "settings": {"views": 1}}, owned=()):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_and_a_dead_owner_is_succeeded(tmp_path):
    folder = tmp_path / "c"
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE)
    try:
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(CaseBusy, match=f"process {owner.pid}"), case(folder):
            pass
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    assert read_state(folder)["state"] == "running"
    with case(folder):
        assert read_state(folder)["attempt"] == 2


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputUnwritable, match="cannot write to"), case(tmp_path / "file" / "c"):
        pass


def test_the_identity_of_a_file_follows_its_content(tmp_path):
    path = tmp_path / "slide"
    path.write_bytes(bytes(5_000_000))
    first = file_identity(path)
    assert first["bytes"] == 5_000_000
    with path.open("r+b") as stream:
        stream.seek(2_600_000)
        stream.write(b"x")
    os.utime(path, ns=(first["modified_ns"], first["modified_ns"]))
    second = file_identity(path)
    assert first["quick_hash"] != second["quick_hash"]
    assert "quick_hash" in difference({"input": first}, {"input": second})
    json.dumps(first)
