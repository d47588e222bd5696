"""Learning rates, stopping, and what a training leaves to look at: table, curves, events, checkpoint."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from digipath.errors import BadInput, OutputUnwritable
from digipath.training.checkpoint import Checkpoint, load_checkpoint, replacing, save_checkpoint
from digipath.training.history import COLUMNS, EventLog, draw_curves, write_csv
from digipath.training.schedule import (
    Schedule,
    best_row,
    candidate_epoch,
    kept_epoch,
    learning_rates,
    stop_reason,
)

SCHEDULE = Schedule(epochs=4, steps_per_epoch=2, batch=1, learning_rate=0.8, decay_every=2, decay_factor=0.5)


def rows(*losses, frozen=0):
    """A history with these validation losses; None: without validation."""
    return [
        {"epoch": number, "phase": "frozen" if number <= frozen else "whole", "learning_rate": 0.1, "loss": 0.5}
        | ({} if loss is None else {"val_loss": loss, "val_dice": 0.7, "val_jaccard": 0.6, "val_auroc": None})
        | {"seconds": 1.5}
        for number, loss in enumerate(losses, start=1)
    ]


# ---- schedule ----


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.4]),
        ({"decay_every": 1}, [0.8, 0.8, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1]),
        ({"decay": "none"}, [0.8] * 8),
        ({"warmup_epochs": 2}, [0.2, 0.4, 0.6, 0.8, 0.4, 0.4, 0.4, 0.4]),
        # 0.4 (1 + cos(π k / 8))
        ({"decay": "cosine"}, [0.8, 0.769552, 0.682843, 0.553073, 0.4, 0.246927, 0.117157, 0.030448]),
        # after a warm-up of two steps, 0.4 (1 + cos(π k / 6))
        ({"decay": "cosine", "warmup_epochs": 1}, [0.4, 0.8, 0.8, 0.746410, 0.6, 0.4, 0.2, 0.053590]),
    ],
)
def test_learning_rates(changes, expected):
    np.testing.assert_allclose(learning_rates(replace(SCHEDULE, **changes)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "expected epochs at least 1, got 0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch at least 1"),
        ({"batch": 0}, "batch at least 1"),
        ({"frozen_epochs": -1}, "frozen_epochs 0 or more"),
        ({"optimiser": "rmsprop"}, "optimiser one of adam, adamw, sgd, got rmsprop"),
        ({"decay": "linear"}, "decay one of step, cosine, none"),
        ({"decay_every": 0}, "decay_every at least 1"),
        ({"decay_factor": 0.0}, r"decay_factor in \(0, 1\]"),
        ({"learning_rate": float("nan")}, "learning_rate positive and finite, got nan"),
        ({"warmup_epochs": 4}, "warmup_epochs fewer than epochs, got 4"),
        ({"weight_decay": 0.1}, "weight_decay 0 unless for adamw"),
        ({"momentum": 0.9}, "momentum 0 unless for sgd"),
        ({"momentum": 1.0, "optimiser": "sgd"}, r"momentum in \[0, 1\)"),
        ({"keep": "best"}, "keep one of loss, accuracy, last, got best"),
        ({"snapshots": (0, 4), "patience": None}, r"snapshots from 0 up to 3 epochs before the last, got \[4\]"),
        ({"snapshots": (1, 1), "patience": None}, "snapshots each once"),
        ({"snapshots": (0, 1)}, "patience none with snapshots, which count from the last, got 3"),
        ({"clip_norm": 0.0}, "clip_norm positive or none"),
        ({"patience": 0}, "patience positive or none"),
        ({"averaging": 1.0}, r"averaging in \[0, 1\) or none"),
        ({"settle_batches": -1}, "settle_batches 0 or more"),
        ({"label_smoothing": 1.0}, r"label_smoothing in \[0, 1\)"),
        ({"foreground_weight": -0.1}, "foreground_weight 0 or more"),
        ({"cross_entropy_weight": 0, "background_weight": 0, "foreground_weight": 0}, "not all 0"),
    ],
)
def test_settings_out_of_range(changes, message):
    SCHEDULE.check()
    with pytest.raises(BadInput, match=message):
        replace(SCHEDULE, **changes).check()


@pytest.mark.parametrize(
    ("losses", "frozen", "patience", "expected"),
    [
        ([], 0, 2, None),
        ([0.5, 0.6], 0, 2, None),
        ([0.5, 0.6, 0.55], 0, 2, "patience"),
        ([0.5, 0.6], 0, 1, "patience"),
        ([0.5, 0.5], 0, 1, "patience"),  # no better is not better
        ([0.5, 0.6, 0.4], 0, 2, None),
        ([0.5, 0.6, 0.7], 2, 2, None),  # frozen epochs do not count
        ([0.5, 0.6, 0.7, 0.8], 2, 2, "patience"),
        ([0.5, 0.6, 0.7], 0, None, None),
        ([0.5, 0.4, 0.3, 0.2], 0, 2, "epochs"),
        ([None, None, None], 0, 1, None),  # nothing to wait for
        ([None, None, None, None], 0, 1, "epochs"),
    ],
)
def test_stop_reason(losses, frozen, patience, expected):
    assert stop_reason(rows(*losses, frozen=frozen), replace(SCHEDULE, patience=patience)) == expected


def test_best_row_is_of_the_least_validation_loss_or_the_last():
    assert best_row(rows(0.5, 0.3, 0.4, 0.3))["epoch"] == 2
    assert best_row(rows(None, None))["epoch"] == 2


def graded(*pairs):
    """A history with these validation losses and accuracies."""
    return [
        {"epoch": number, "phase": "whole", "loss": 0.5, "val_loss": loss, "val_accuracy": accuracy}
        for number, (loss, accuracy) in enumerate(pairs, start=1)
    ]


@pytest.mark.parametrize(
    ("keep", "pairs", "kept"),
    [
        ("loss", [(0.9, 0.5), (0.6, 0.7), (0.7, 0.9)], 2),
        ("loss", [(0.6, 0.5), (0.6, 0.7)], 1),  # the first of equals
        ("last", [(0.9, 0.5), (0.6, 0.7), (0.7, 0.6)], 3),
        ("accuracy", [(0.9, 0.5)], 1),
        ("accuracy", [(0.9, 0.8), (0.6, 0.7)], 1),  # the best up to the least loss is not that of the least loss
        ("accuracy", [(0.9, 0.6), (0.6, 0.7), (0.7, 0.9)], 2),  # the best of all comes after it, and does not count
        ("accuracy", [(0.9, 0.6), (0.6, 0.7), (0.7, 0.9), (0.5, 0.8)], 3),  # unless the loss goes down once more
        ("accuracy", [(0.9, 0.7), (0.6, 0.7), (0.5, 0.7)], 1),  # the first of equals
        ("accuracy", [(0.9, 0.6), (0.5, 0.6), (0.5, 0.9)], 1),  # the first of equal losses cuts it off
    ],
)
def test_kept_epoch(keep, pairs, kept):
    assert kept_epoch(graded(*pairs), replace(SCHEDULE, keep=keep)) == kept


def test_without_validation_the_last_epoch_is_kept():
    for keep in ("loss", "accuracy", "last"):
        assert kept_epoch(rows(None, None), replace(SCHEDULE, keep=keep)) == 2


def test_what_will_be_kept_is_kept_now_or_a_candidate_or_still_to_come():
    """So two files of weights are enough, whatever the history: tried on many of five epochs with three values each."""
    schedule = replace(SCHEDULE, keep="accuracy")
    rng = np.random.default_rng(0)
    for _ in range(500):
        history = graded(*rng.integers(0, 3, (5, 2)).tolist())
        for epoch in range(1, 5):
            before, now = history[:epoch], history[: epoch + 1]
            at_hand = {kept_epoch(before, schedule), candidate_epoch(before, schedule), epoch + 1}
            assert {kept_epoch(now, schedule), candidate_epoch(now, schedule)} <= at_hand


def test_snapshots_count_from_the_last_epoch():
    assert replace(SCHEDULE, snapshots=(0, 3), patience=None).snapshot_epochs == {4: 0, 1: 3}


# ---- what is left to look at ----


def test_csv(tmp_path):
    write_csv(tmp_path / "history.csv", rows(0.25, 0.125, frozen=1))
    assert (tmp_path / "history.csv").read_text() == (
        "epoch,phase,learning_rate,loss,val_loss,val_dice,val_jaccard,val_auroc,seconds\n"
        "1,frozen,0.1,0.5,0.25,0.7,0.6,,1.5\n"
        "2,whole,0.1,0.5,0.125,0.7,0.6,,1.5\n"
    )
    write_csv(tmp_path / "plain.csv", rows(None))
    with (tmp_path / "plain.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == COLUMNS
    assert row["val_loss"] == ""


def test_csv_of_other_scores(tmp_path):
    history = [{"epoch": 1, "phase": "whole", "learning_rate": 0.1, "loss": 0.5, "val_accuracy": 0.75, "seconds": 2.0}]
    write_csv(tmp_path / "history.csv", history, scores={"val_accuracy": "accuracy"})
    assert (tmp_path / "history.csv").read_text() == (
        "epoch,phase,learning_rate,loss,val_loss,val_accuracy,seconds\n1,whole,0.1,0.5,,0.75,2.0\n"
    )


def test_curves_mark_the_epoch_that_is_kept(tmp_path):
    scores = {"val_accuracy": "accuracy"}
    history = [row | {"learning_rate": 0.1} for row in graded((0.9, 0.8), (0.6, 0.7), (0.7, 0.6))]
    for kept in (None, 2, 1):
        draw_curves(tmp_path / f"{kept}.png", history, scores=scores, kept=kept)
    assert (tmp_path / "None.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    assert (tmp_path / "1.png").read_bytes() != (tmp_path / "2.png").read_bytes()


def test_curves_show_the_history(tmp_path):
    pictures = {}
    for name, history in {
        "falling": rows(0.5, 0.4, 0.3),
        "rising": rows(0.3, 0.4, 0.5),
        "frozen": rows(0.5, 0.4, 0.3, frozen=1),
        "plain": rows(None),
    }.items():
        draw_curves(tmp_path / f"{name}.png", history)
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size == (1100, 340)
            pictures[name] = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(pictures["falling"] - pictures["rising"])[:, :360].sum() > 0
    shaded = (pictures["frozen"] == round(0.92 * 255)).all(axis=-1) & (pictures["falling"] == 255).all(axis=-1)
    assert 0.1 < shaded.mean() < 0.4  # about one epoch of three


def test_drawing_leaves_pyplot_alone(tmp_path):
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from digipath.training.history import draw_curves\n"
        "assert 'matplotlib' not in sys.modules\n"
        "draw_curves(Path(sys.argv[1]), [])\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'keras' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "x.png"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.keras
def test_events_are_those_of_the_history_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read():
        events = EventAccumulator(str(tmp_path))
        events.Reload()
        return {
            tag: [(event.step, float(event.tensor_proto.float_val[0])) for event in events.Tensors(tag)]
            for tag in events.Tags()["tensors"]
        }

    with EventLog(tmp_path, []) as log:
        for row in rows(0.5, 0.25):
            log.add(row)
    assert read()["val_loss"] == [(1, 0.5), (2, 0.25)]
    # A process that was killed after the events of epoch 2, before its checkpoint.
    with EventLog(tmp_path, rows(0.5)) as log:
        log.add(rows(0.5, 0.25)[1])
    assert read()["val_loss"] == [(1, 0.5), (2, 0.25)]
    assert set(read()) == {"learning_rate", "loss", "val_loss", "val_dice", "val_jaccard", "seconds"}


# ---- checkpoint ----


def test_checkpoint_comes_back_to_the_bit(tmp_path):
    noise = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    optimiser = (np.array(7, np.int64), *(np.full((2,), index, np.float32) for index in range(11)))
    kept = Checkpoint(tuple(rows(1 / 3)), "whole", None, (noise, np.array([3, 4], np.uint32)), optimiser)
    save_checkpoint(tmp_path / "checkpoint.npz", kept)
    found = load_checkpoint(tmp_path / "checkpoint.npz")
    assert (found.history, found.phase, found.stopped) == (kept.history, "whole", None)
    for part in ("network", "optimiser"):
        for one, other in zip(getattr(found, part), getattr(kept, part), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def test_half_a_file_never_takes_the_place_of_a_whole_one(tmp_path):
    path = tmp_path / "network.weights.h5"
    path.write_text("whole")

    def fail_half_way():
        with replacing(path) as temporary:
            assert temporary.name.endswith(".weights.h5")
            temporary.write_text("ha")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == [path.name]
    with pytest.raises(OutputUnwritable, match="No space left"), replacing(path, least_bytes=10**18):
        raise AssertionError("began although the disk has no room")
    assert path.read_text() == "whole"
    with pytest.raises(OutputUnwritable, match=r"expected to write .*gone.*No such file"):
        save_checkpoint(tmp_path / "gone" / "checkpoint.npz", Checkpoint())
