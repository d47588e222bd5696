"""A card's temperature at inference: folded into the head it divides the logits, on every runtime."""

from __future__ import annotations

import json

import numpy as np
import pytest

from digipath import networks, runtime
from digipath.errors import BadCard, BadInput
from digipath.weights import load_card, sha256_of

SCALING = {"scale": 1 / 127.5, "offset": -1.0}
SIDE = 32
ONE = {"before": 0.1, "after": 0.05}
CALIBRATION = {
    "temperature": 2.0, "expected_calibration_error": ONE, "brier": ONE, "pixels": 9, "data": "a case", "split": "seen",
}  # fmt: skip


@pytest.fixture(scope="module")
def patches():
    return np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A card of a small network with random weights, sigmoid."""
    import keras

    from digipath.nn import build

    keras.utils.set_random_seed(1)
    folder = tmp_path_factory.mktemp("weights")
    spec = {"name": "unet-small", "config": {"widths": [4, 8], "shrink": 1, "output_stride": 2}}
    file = folder / "own.weights.h5"
    build(spec["name"], **spec["config"]).save_weights(file)
    record = {
        "schema": 1, "name": "own", "kind": "network", "task": "test", "network": spec, "activation": "sigmoid",
        "classes": ["normal", "tumour"], "positive": "tumour",
        "input": {"modality": "slide", "mpp": 0.5, "patch": SIDE, "multiple": 4, **SCALING},
        "file": file.name, "urls": [], "bytes": file.stat().st_size, "sha256": sha256_of(file),
        "licence": "CC0-1.0", "citation": "none", "training": {"data": "none", "split": "none"}, "metrics": [],
        "intended_use": "test", "limits": ["Random."],
    }  # fmt: skip

    def write(name, **changes):
        path = folder / f"{name}.json"
        path.write_text(json.dumps({**record, **changes, "name": name}))
        return str(path)

    return write


def logits_of(network, images):
    import keras

    return np.asarray(keras.Model(network.input, network.layers[-1].input)(images, training=False), np.float64)


@pytest.mark.keras
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.7])
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("unet-small", {"widths": [4, 8], "shrink": 1, "output_stride": 2}),
        ("unet-small", {"widths": [4, 8], "shrink": 1, "output_stride": 2, "classes": 2, "activation": "softmax"}),
        ("unet", {"backbone": "mobilenetv2", "classes": 3, "activation": "softmax"}),
    ],
)
def test_a_folded_temperature_divides_the_logits(patches, name, config, temperature):
    import keras

    from digipath.nn import build

    keras.utils.set_random_seed(0)
    network = build(name, **config)
    cooled = runtime.with_temperature(network, temperature)
    images = patches.astype(np.float32) / 127.5 - 1
    z = logits_of(network, images) / temperature
    expected = 1 / (1 + np.exp(-z)) if z.shape[-1] == 1 else np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    np.testing.assert_allclose(cooled(images, training=False), expected, atol=1e-6)
    assert cooled.count_params() == network.count_params()


@pytest.mark.keras
@pytest.mark.parametrize(("name", "tolerance"), [("keras", 1e-6), ("openvino", 1e-4)])
def test_both_runtimes_run_it(weights, patches, name, tolerance):
    if name == "openvino":
        pytest.importorskip("openvino", reason="the extra `fast` is not installed")
    options = {"runtime": name, "precision": "f32"}
    (plain,) = networks.published(weights("plain"), **options).load()
    (cooled,) = networks.published(weights("cooled", calibration=CALIBRATION), **options).load()
    before, after = (np.concatenate([p(one[None]) for one in patches]).astype(np.float64) for p in (plain, cooled))
    expected = 1 / (1 + ((1 - before) / before) ** 0.5)  # odds to the power of 1 / 2
    np.testing.assert_allclose(after, expected, atol=tolerance)
    assert np.ptp(after) > 0.001
    assert ((before >= 0.5) == (after >= 0.5)).all()


@pytest.mark.keras
def test_it_can_be_left_out(weights, patches):
    card = weights("cooled", calibration=CALIBRATION)
    (plain,) = networks.published(weights("plain"), runtime="keras").load()
    (left,) = networks.published(card, runtime="keras", calibrated=False).load()
    np.testing.assert_array_equal(left(patches[:1]), plain(patches[:1]))
    np.testing.assert_array_equal(
        networks.load(card)(patches / 127.5 - 1), networks.load(weights("plain"))(patches / 127.5 - 1)
    )


@pytest.mark.keras
def test_a_network_without_a_head_of_its_own_cannot_be_calibrated():
    from digipath.nn import build

    network = build("unet-small", widths=[4, 8], shrink=1, output_stride=2, activation="linear")
    with pytest.raises(BadInput, match="ends in a sigmoid or softmax layer"):
        runtime.with_temperature(network, 2.0)


@pytest.mark.keras
def test_temperatures_are_part_of_what_results_depend_on(weights):
    card = weights("cooled", calibration=CALIBRATION)
    assert networks.published(card).identity["temperature"] == {"cooled": 2.0}
    assert "temperature" not in networks.published(card, calibrated=False).identity
    assert "temperature" not in networks.published(weights("plain")).identity
    assert networks.temperature(load_card(card)) == 2.0


@pytest.mark.keras
@pytest.mark.parametrize(
    "calibration", [{}, {**CALIBRATION, "temperature": 0}, {**CALIBRATION, "extra": 1}, {**CALIBRATION, "brier": 0.1}]
)
def test_a_calibration_that_is_none_is_refused(weights, calibration):
    with pytest.raises(BadCard, match="calibration"):
        load_card(weights("broken", calibration=calibration))
