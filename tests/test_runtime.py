"""Networks as predictors: Keras and OpenVINO agree, and the shipped weights do what their card says."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from digipath import runtime
from digipath.errors import BadInput

pytestmark = pytest.mark.keras
SCALING = {"scale": 1 / 127.5, "offset": -1.0}


@pytest.fixture(scope="module")
def network():
    import keras

    keras.utils.set_random_seed(0)
    from digipath.nn import build

    return build("unet", backbone="mobilenetv2")


@pytest.fixture(scope="module")
def patches():
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


def test_keras_predictor_scales_and_runs_the_network(network, patches):
    predictor = runtime.keras_predictor(network, 64, **SCALING)
    expected = np.asarray(network(patches[:1].astype(np.float32) / 127.5 - 1, training=False))
    np.testing.assert_allclose(predictor(patches[:1]), expected, atol=1e-5)
    assert predictor(patches[:1]).shape == (1, 64, 64, 1)


def test_a_short_batch_is_filled_up_and_cut_again(network, patches):
    one = runtime.keras_predictor(network, 64, **SCALING)
    four = runtime.keras_predictor(network, 64, batch=4, **SCALING)
    expected = np.concatenate([one(patch[None]) for patch in patches])
    np.testing.assert_allclose(four(patches), expected, atol=1e-5)


@pytest.mark.parametrize(("precision", "tolerance"), [("f32", 1e-4), ("bf16", 0.03)])
def test_openvino_agrees_with_keras(network, patches, precision, tolerance):
    pytest.importorskip("openvino", reason="the extra `fast` is not installed")
    expected = np.concatenate([runtime.keras_predictor(network, 64, **SCALING)(p[None]) for p in patches])
    predictor = runtime.openvino_predictor(network, 64, precision=precision, **SCALING)
    np.testing.assert_allclose(predictor(patches), expected, atol=tolerance)


@pytest.mark.parametrize(
    ("runtime_name", "precision", "message"),
    [
        ("tpu", "auto", "runtime must be one of"),
        ("auto", "f8", "precision must be one of"),
        ("keras", "bf16", "bf16 needs"),
    ],
)
def test_choices_that_cannot_be(runtime_name, precision, message):
    with pytest.raises(BadInput, match=message):
        runtime.choose(runtime_name, precision)


def test_the_choice_is_explicit():
    assert runtime.choose("keras") == runtime.Choice("keras", "f32")
    pytest.importorskip("openvino", reason="the extra `fast` is not installed")
    assert runtime.choose("openvino", "f32") == runtime.Choice("openvino", "f32")
    assert runtime.choose("auto").runtime == "openvino"


def test_only_startup_notices_are_dropped(capfd):
    with runtime.without_startup_notices():
        os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n")
        os.write(2, b"I0000 00:00:1795255735.538104   27863 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"E0000 00:00:1795255674.007417   27679 cuda_platform.cc:52] failed call to cuInit\n")
        os.write(2, b"out of memory\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "out of memory\nafter\n"


@pytest.mark.parametrize(("variable", "expected"), [("jax", "keras"), ("tensorflow", "openvino")])
def test_auto_takes_openvino_only_beside_tensorflow(variable, expected):
    """Also: deciding this imports neither Keras nor a backend."""
    pytest.importorskip("openvino", reason="the extra `fast` is not installed")
    code = (
        "import sys; from digipath.runtime import choose; print(choose('auto', 'f32').runtime);"
        "assert not {'keras', 'tensorflow', 'jax'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "KERAS_BACKEND": variable}, capture_output=True, text=True,
        check=True,
    )
    assert done.stdout.strip() == expected
