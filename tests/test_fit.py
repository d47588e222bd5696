"""One training: phases, best weights, early stop, resuming to the bit, divergence; on a network of three layers."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from digipath.errors import BadInput, Cancelled, CaseDiffers, TrainingDiverged

pytestmark = pytest.mark.keras
TESTS = Path(__file__).parent
SPEC = {"name": "tiny", "config": {}}


@pytest.fixture
def made_up(monkeypatch):
    """The made-up training, whose network `build` knows for the length of a test."""
    monkeypatch.syspath_prepend(TESTS)
    import made_up_training

    from digipath import nn

    monkeypatch.setitem(nn.BUILDERS, "tiny", made_up_training.tiny)
    return made_up_training


@pytest.fixture
def fitted(made_up, tmp_path, monkeypatch):
    """Fit the tiny network into a folder of this name, by a schedule with these changes."""
    from digipath.training.fit import fit

    # Half the time of so small a training; tests/test_history.py looks at the pictures.
    monkeypatch.setattr("digipath.training.fit.draw_curves", lambda path, history, **_: path.touch())

    def run(name, *, training=made_up.Patches, validation=made_up.held_out, options=None, spec=SPEC, **changes):
        options = {"encoder": made_up.as_it_is, **(options or {})}
        return fit(spec, training, validation, made_up.schedule(**changes), tmp_path / name, seed=3, **options)

    return run


def weights_of(fitted, made_up, **config):
    """The kept weights by layer, loaded as anybody would."""
    network = made_up.tiny(**config)
    network.load_weights(fitted.weights)
    return {layer.name: layer.get_weights() for layer in network.layers if layer.weights}


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


# ---- what a training leaves ----


def test_history_phases_and_files(fitted, made_up, tmp_path):
    import h5py

    reports = []
    found = fitted("run", options={"progress": reports.append}, decay_every=2, decay_factor=0.1)
    assert [row["epoch"] for row in found.history] == [1, 2, 3]
    assert [row["phase"] for row in found.history] == ["frozen", "whole", "whole"]
    assert [row["learning_rate"] for row in found.history] == pytest.approx([1e-3, 1e-3, 1e-4], rel=1e-12)
    assert found.stopped == "epochs"
    assert found.weights == tmp_path / "run" / "network.weights.h5"
    assert {path.name for path in (tmp_path / "run").iterdir()} - {".lock"} == {
        "network.weights.h5", "checkpoint.npz", "history.csv", "curves.png", "tensorboard", "state.json",
    }  # fmt: skip
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    with h5py.File(found.weights) as file:
        assert "optimizer" not in file
    assert (tmp_path / "run" / "checkpoint.npz").stat().st_size < 10_000  # its arrays are gone

    done = [report.done for report in reports]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 9)
    assert {report.total for report in reports} == {9}
    assert reports[-1].message.startswith("epoch 3 of 3: loss 0.")
    assert "last validation loss" in reports[-1].message


@pytest.mark.slow
def test_validation_scores_are_those_of_the_kept_weights(fitted, made_up):
    from digipath.measure.scores import auroc, jaccard, pooled_dice
    from digipath.nn.losses import hybrid_loss

    found = fitted("run", epochs=1, averaging=0.5, settle_batches=4, learning_rate=0.05)
    network = made_up.tiny()
    network.load_weights(found.weights)
    batches = [made_up.held_out()[index] for index in range(3)]
    probability = [np.asarray(network(images, training=False)) for images, _ in batches]
    truths = [truth for _, truth in batches]
    row = found.history[-1]
    losses = [float(hybrid_loss(*pair)) for pair in zip(truths, probability, strict=True)]
    assert row["val_loss"] == pytest.approx(np.average(losses, weights=[4, 4, 1]), abs=1e-5)
    truth, answer = np.concatenate(truths), np.concatenate(probability)
    assert row["val_dice"] == pytest.approx(pooled_dice([truth > 0.5], [answer > 0.5]), abs=1e-6)
    assert row["val_jaccard"] == pytest.approx(jaccard(truth > 0.5, answer > 0.5), abs=1e-6)
    assert row["val_auroc"] == pytest.approx(auroc(truth > 0.5, answer), abs=1e-3)


@pytest.mark.slow
def test_training_learns(fitted):
    found = fitted("run", epochs=6, steps_per_epoch=20, learning_rate=0.05, decay="none", patience=None)
    assert found.history[-1]["val_dice"] > 0.9 > found.history[0]["val_dice"]


# ---- phases ----


def test_frozen_encoder_stays_as_loaded_then_learns(fitted, made_up):
    loaded = {}

    def encoder(network):
        for layer in network.layers:
            if layer.name.startswith("stem"):
                layer.set_weights([np.full_like(one, 0.25) for one in layer.get_weights()])
                loaded.update({layer.name: layer.get_weights()} if layer.weights else {})

    options = {"validation": None, "options": {"encoder": encoder}}
    frozen = weights_of(fitted("frozen", epochs=2, frozen_epochs=2, **options), made_up)
    whole = weights_of(fitted("whole", epochs=2, frozen_epochs=1, **options), made_up)
    assert set(loaded) == {"stem_conv", "stem_norm"}
    for name, before in loaded.items():
        assert same(before, frozen[name])  # the batch statistics too
        assert not any(np.array_equal(a, b) for a, b in zip(before, whole[name], strict=True))
    start = made_up.tiny().get_layer("head_conv").get_weights()[1]
    assert not np.array_equal(frozen["head_conv"][1], start)  # the bias begins at 0 in every network


@pytest.mark.slow
def test_an_encoder_that_nobody_loaded_is_not_frozen(fitted):
    found = fitted("run", frozen_epochs=2, options={"encoder": None})
    assert [row["phase"] for row in found.history] == ["whole"] * 3


# ---- what is kept, and when it stops ----


def upside_down(made_up):
    """Held-out patches whose truth is the opposite: the better the network, the worse it scores."""

    def opposite(index):
        image, truth = made_up.patch(index)
        return image, 1 - truth

    return lambda: made_up.Patches(made_up.SEEN_LATER, 8, make=opposite)


def test_stops_after_patience_and_keeps_the_best(fitted, made_up):
    settings = {"frozen_epochs": 0, "learning_rate": 0.05, "decay": "none", "validation": upside_down(made_up)}
    long = fitted("long", epochs=9, patience=2, **settings)
    assert (long.stopped, long.best_epoch, len(long.history)) == ("patience", 1, 3)
    short = fitted("short", epochs=1, **settings)
    for name, kept in weights_of(short, made_up).items():
        assert same(kept, weights_of(long, made_up)[name])


@pytest.mark.slow
def test_averaged_weights_by_hand(fitted, made_up):
    settings = {"steps_per_epoch": 1, "frozen_epochs": 0, "validation": None, "learning_rate": 0.05}
    runs = [fitted(f"raw{epochs}", epochs=epochs, **settings) for epochs in (1, 2, 3)]
    w1, w2, w3 = (weights_of(run, made_up) for run in runs)
    mean = weights_of(fitted("averaged", epochs=3, averaging=0.75, **settings), made_up)
    for name in ("stem_conv", "head_conv"):
        for found, one, two, three in zip(mean[name], w1[name], w2[name], w3[name], strict=True):
            # The average begins with the weights after the first step.
            np.testing.assert_allclose(found, 0.75 * (0.75 * one + 0.25 * two) + 0.25 * three, atol=1e-6)
            assert not np.allclose(found, three, atol=1e-6)
    np.testing.assert_allclose(mean["stem_norm"][2], w3["stem_norm"][2], atol=1e-6)  # statistics are not averaged


@pytest.mark.slow
def test_settling_gives_the_kept_weights_their_own_statistics(fitted, made_up):
    settings = {"epochs": 1, "frozen_epochs": 0, "validation": None, "learning_rate": 0.1}
    weights = {
        batches: weights_of(fitted(f"settle{batches}", settle_batches=batches, **settings), made_up)
        for batches in (0, 60)
    }
    network = made_up.tiny()
    images = made_up.Patches(0, 240, batch=240)[0][0]
    for batches, found in weights.items():
        network.get_layer("stem_conv").set_weights(found["stem_conv"])
        variance = np.asarray(network.get_layer("stem_conv")(images)).var(axis=(0, 1, 2))
        away = np.abs(found["stem_norm"][3] / variance - 1).max()
        assert away < 0.05 if batches else away > 0.1


# ---- going on ----

FULL = {
    "epochs": 4, "frozen_epochs": 2, "averaging": 0.8, "settle_batches": 2, "optimiser": "adamw",
    "weight_decay": 1e-3, "clip_norm": 1.0, "decay": "cosine", "warmup_epochs": 1, "label_smoothing": 0.1,
}  # fmt: skip


@pytest.mark.slow
def test_interrupted_training_goes_on_to_the_same_bits(fitted, made_up, tmp_path):
    whole = fitted("whole", **FULL)
    batches = [0]

    def stop_at(*numbers):
        """`cancel`: asked before every batch, of training and of validation."""

        def cancel():
            batches[0] += 1
            return batches[0] in numbers

        return cancel

    # In the first epoch; after the frozen ones, before the phase changes; in a validation. The last
    # time by Ctrl-C in the middle of the last epoch.
    cancel = stop_at(2, 15, 20)
    for left in ("after epoch 0", "after epoch 2", "after epoch 2"):
        with pytest.raises(Cancelled, match=left):
            fitted("parts", options={"cancel": cancel}, **FULL)
        assert json.loads((tmp_path / "parts" / "state.json").read_text())["state"] == "cancelled"

    def ctrl_c(report):
        if report.done == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted("parts", options={"progress": ctrl_c}, **FULL)
    assert not list((tmp_path / "parts").glob(".*.h5"))

    parts = fitted("parts", **FULL)
    assert made_up.numbers(parts) == made_up.numbers(whole)
    first, second = weights_of(whole, made_up), weights_of(parts, made_up)
    assert all(same(first[name], second[name]) for name in first)
    assert json.loads((tmp_path / "parts" / "state.json").read_text())["attempt"] == 5


def test_finished_training_is_returned_as_it_is(fitted):
    first = fitted("run")

    def never(_):
        raise AssertionError("trained again")

    assert fitted("run", training=never) == first


@pytest.mark.slow
def test_lost_picture_is_drawn_again_without_training(fitted, tmp_path):
    first = fitted("run")
    (tmp_path / "run" / "curves.png").unlink()

    def never(_):
        raise AssertionError("trained again")

    assert fitted("run", training=never) == first
    assert (tmp_path / "run" / "curves.png").exists()


def test_other_settings_are_refused_unless_started_afresh(fitted):
    fitted("run", epochs=1)
    with pytest.raises(CaseDiffers, match=r"another schedule \(learning_rate: 0\.001, now 0\.002\)"):
        fitted("run", epochs=1, learning_rate=0.002)
    with pytest.raises(CaseDiffers, match="another data"):
        fitted("run", epochs=1, options={"identity": {"data": "other slides"}})
    found = fitted("run", epochs=1, learning_rate=0.002, options={"resume": False})
    assert found.history[0]["learning_rate"] == pytest.approx(0.002)


def test_another_backend_does_not_go_on(fitted, monkeypatch):
    """It rounds differently: the history would be of no training at all."""
    asked = iter(range(99))
    with pytest.raises(Cancelled):
        fitted("run", options={"cancel": lambda: next(asked) == 7})
    monkeypatch.setattr("digipath.training.fit.backend_version", lambda: "jax 9.9")
    with pytest.raises(CaseDiffers, match=r"another versions \(backend: 'tensorflow .*', now 'jax 9\.9'\)"):
        fitted("run")


@pytest.mark.slow
def test_damaged_checkpoint_is_refused(fitted, tmp_path):
    asked = iter(range(99))
    with pytest.raises(Cancelled, match="after epoch 1"):
        fitted("run", options={"cancel": lambda: next(asked) == 7})
    (tmp_path / "run" / "checkpoint.npz").write_bytes(b"PK\x03\x04 not quite")
    with pytest.raises(BadInput, match=r"checkpoint\.npz is damaged .*--no-resume"):
        fitted("run")


# ---- what goes wrong ----


def test_nan_in_the_data_stops_says_where_and_keeps_the_last_good_weights(fitted, made_up, tmp_path):
    def spoilt(index):
        image, truth = made_up.patch(index)
        return (image * np.nan if index == 17 else image), truth

    def training(first):
        return made_up.Patches(first, make=spoilt)

    options = {"cases": lambda patches: [f"slide{index // 2}" for index in patches]}
    with pytest.raises(TrainingDiverged) as caught:
        fitted("run", training=training, options={**options, "encoder": made_up.as_it_is})
    assert str(caught.value) == (
        "epoch 2 of 3: the loss became nan at batch 2 of 3 (patches 16 to 19, of slide8, slide9); these patches "
        f"themselves hold NaN or infinity; the weights of epoch 1 are kept in {tmp_path / 'run/network.weights.h5'}"
    )
    assert json.loads((tmp_path / "run" / "state.json").read_text())["state"] == "failed"
    kept = made_up.tiny()
    kept.load_weights(tmp_path / "run" / "network.weights.h5")
    assert all(np.isfinite(one).all() for one in kept.get_weights())
    # With the data mended, the same call goes on from there.
    assert made_up.numbers(fitted("run")) == made_up.numbers(fitted("never spoilt"))


@pytest.mark.slow
def test_too_high_a_learning_rate_is_named(fitted, tmp_path):
    with pytest.raises(TrainingDiverged, match=r"epoch 1 of 3: .* try a lower learning_rate .*no weights were kept"):
        fitted("run", learning_rate=1e38, frozen_epochs=0)
    assert not (tmp_path / "run" / "network.weights.h5").exists()


@pytest.mark.slow
def test_nan_in_the_validation_loss(fitted, made_up):
    def spoilt(index):
        image, truth = made_up.patch(index)
        return image, truth * np.nan

    with pytest.raises(TrainingDiverged, match="epoch 1 of 3: the validation loss became nan"):
        fitted("run", validation=lambda: made_up.Patches(0, 4, make=spoilt))


@pytest.mark.slow
def test_a_stream_that_ends_is_refused(fitted, made_up):
    with pytest.warns(UserWarning, match="ran out of data"), pytest.raises(BadInput, match="without end, got 2 of 3"):
        fitted("run", training=lambda first: (made_up.Patches(first)[index] for index in (0, 1)))


# ---- variants ----


@pytest.mark.slow
def test_mixed_precision_computes_in_bfloat16_and_keeps_float32(fitted, made_up):
    import keras

    found = fitted("mixed", mixed_precision=True)
    exact = fitted("exact")
    assert keras.config.dtype_policy().name == "float32"
    losses = [[row["val_loss"] for row in run.history] for run in (found, exact)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    assert all(one.dtype == np.float32 for layer in weights_of(found, made_up).values() for one in layer)


@pytest.mark.slow
def test_two_channels_learn_from_one_channel_truth(fitted):
    found = fitted("run", spec={"name": "tiny", "config": {"classes": 2}}, steps_per_epoch=20, learning_rate=0.05)
    assert found.history[-1]["val_dice"] > 0.8


@pytest.mark.slow
def test_validation_of_one_class_has_no_auroc(fitted, made_up, tmp_path):
    def normal(index):
        image, truth = made_up.patch(index)
        return image, 0 * truth

    found = fitted("run", epochs=1, validation=lambda: made_up.Patches(0, 4, make=normal))
    assert found.history[0]["val_auroc"] is None


# ---- in processes of their own ----


def command(folder, *words):
    return [sys.executable, str(TESTS / "made_up_training.py"), str(folder), *words]


def environment(backend, **more):
    # JAX compiles each network: with little optimisation, since it runs once.
    quick = {"XLA_FLAGS": "--xla_backend_optimization_level=0"} if backend == "jax" else {}
    return os.environ | {"KERAS_BACKEND": backend} | quick | more


def history_of(folder, settings, **variables):
    """What a training in its own process prints."""
    done = subprocess.run(command(folder, settings), env=environment(**variables), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "network"), [("tensorflow", "unet-small"), ("jax", "tiny")])
def test_killed_training_goes_on_to_the_same_history(tmp_path, backend, network):
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    whole = history_of(tmp_path / "whole", "{}", backend=backend, NETWORK=network)
    assert len(whole) == 4
    for epochs in (1, 3):  # in the second epoch, and in the last
        _kill_after(epochs, tmp_path / "killed", environment(backend, NETWORK=network, PAUSE_SECONDS="0.3"))
    assert history_of(tmp_path / "killed", "{}", backend=backend, NETWORK=network) == whole
    first, second = ((tmp_path / name / "network.weights.h5").read_bytes() for name in ("whole", "killed"))
    assert first == second
    assert (tmp_path / "killed" / "curves.png").read_bytes()[:4] == b"\x89PNG"


def _kill_after(epochs, folder, variables):
    """Run a training until its history has so many epochs, then SIGKILL it."""
    process = subprocess.Popen(command(folder), env=variables, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + 300
        while _rows(folder / "history.csv") < epochs:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert _rows(folder / "history.csv") == epochs


def _rows(table):
    return len(table.read_text().splitlines()) - 1 if table.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("size", ["64k", "100k", "150k"])
def test_a_full_disk_ends_in_one_line(tmp_path, size):
    """In a process of its own: HDF5 can bring it down."""
    (tmp_path / "small").mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", tmp_path / "small"], check=False)
    if made.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        words = command(tmp_path / "small" / "run", "{}")
        variables = environment("tensorflow", NETWORK="unet-small")
        done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    finally:
        subprocess.run(["umount", tmp_path / "small"], check=True)
    last = done.stderr.strip().splitlines()[-1]
    assert (done.returncode, "OutputUnwritable: expected to write" in last) == (1, True), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_train_as_one(tmp_path, backend):
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    # On TensorFlow what is taken over the batch is taken over each device's share: here there is no such thing.
    settings = "{'epochs': 3, 'clip_norm': 0.01, 'background_weight': 0, 'foreground_weight': 0, 'frozen_epochs': 3}"
    if backend == "jax":
        settings = "{'epochs': 3, 'clip_norm': 0.01}"
    one = history_of(tmp_path / "one", settings, backend=backend, NETWORK="tiny", DROPOUT="0")
    two = history_of(tmp_path / "two", settings, backend=backend, NETWORK="tiny", DROPOUT="0", DEVICES="2")
    for row, other in zip(one, two, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert row["val_loss"] == pytest.approx(other["val_loss"], abs=1e-5)


@pytest.mark.slow
def test_fits_on_torch(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    assert len(history_of(tmp_path / "run", "{'epochs': 2}", backend="torch", NETWORK="tiny")) == 2
