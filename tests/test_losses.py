"""The hybrid loss of Khened 2021 and its scores against values worked out by hand, on every backend."""

from __future__ import annotations

import os
import subprocess
import sys
from math import log

import numpy as np
import pytest

from digipath.errors import BadInput

pytestmark = pytest.mark.keras

TRUTH = np.array([1, 0, 1, 0], dtype=np.float32).reshape(1, 2, 2, 1)
PROBABILITY = np.array([0.8, 0.4, 0.5, 0.1], dtype=np.float32).reshape(1, 2, 2, 1)


def test_cross_entropy_by_hand():
    from digipath.nn.losses import cross_entropy

    # −(log 0.8 + log 0.6 + log 0.5 + log 0.9) / 4
    assert float(cross_entropy(TRUTH, PROBABILITY)) == pytest.approx(0.383119, abs=1e-5)


def test_cross_entropy_stays_finite():
    from digipath.nn.losses import cross_entropy

    assert float(cross_entropy(TRUTH, 1 - TRUTH)) == pytest.approx(-log(1e-7), rel=0.01)
    assert float(cross_entropy(TRUTH, TRUTH)) == pytest.approx(0, abs=1e-6)


def test_dice_loss_by_hand():
    from digipath.nn.losses import dice_loss

    # 1 − 2 (0.8 + 0.5) / (0.64 + 0.16 + 0.25 + 0.01 + 2)
    assert float(dice_loss(TRUTH, PROBABILITY)) == pytest.approx(0.150327, abs=1e-5)
    # 1 − 2 (0.6 + 0.9) / (0.04 + 0.36 + 0.25 + 0.81 + 2)
    assert float(dice_loss(1 - TRUTH, 1 - PROBABILITY)) == pytest.approx(0.132948, abs=1e-5)


def test_dice_loss_at_the_ends():
    from digipath.nn.losses import dice_loss

    assert float(dice_loss(TRUTH, TRUTH)) == pytest.approx(0, abs=1e-6)
    assert float(dice_loss(TRUTH, 1 - TRUTH)) == pytest.approx(1, abs=1e-6)
    assert float(dice_loss(0 * TRUTH, 0 * TRUTH)) == 0


def test_dice_loss_is_taken_over_the_batch():
    from digipath.nn.losses import dice_loss

    truth = np.concatenate([TRUTH, 0 * TRUTH])
    probability = np.concatenate([PROBABILITY, 0 * PROBABILITY])
    # The image without tumour adds nothing to either sum.
    assert float(dice_loss(truth, probability)) == pytest.approx(0.150327, abs=1e-5)


def test_hybrid_loss_by_hand():
    from digipath.nn.losses import hybrid_loss

    # 0.5 × 0.383119 + 0.25 × 0.132948 + 0.25 × 0.150327
    assert float(hybrid_loss(TRUTH, PROBABILITY)) == pytest.approx(0.262378, abs=1e-5)


def test_hybrid_loss_takes_two_channels():
    from digipath.nn.losses import hybrid_loss

    truth = np.concatenate([1 - TRUTH, TRUTH], axis=-1)
    probability = np.concatenate([1 - PROBABILITY, PROBABILITY], axis=-1)
    assert float(hybrid_loss(truth, probability)) == pytest.approx(0.262378, abs=1e-5)


def test_hybrid_loss_refuses_three_channels():
    from digipath.nn.losses import hybrid_loss

    three = np.zeros((1, 2, 2, 3), dtype=np.float32)
    with pytest.raises(BadInput, match="got 3"):
        hybrid_loss(three, three)


def test_keras_class_remembers_its_weights():
    import keras

    from digipath.nn.losses import HybridLoss

    loss = HybridLoss(cross_entropy_weight=1.0, background_weight=0.0, foreground_weight=2.0)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    # 0.383119 + 2 × 0.150327
    assert float(loss(TRUTH, PROBABILITY)) == pytest.approx(0.683773, abs=1e-5)
    assert float(again(TRUTH, PROBABILITY)) == pytest.approx(0.683773, abs=1e-5)


@pytest.mark.parametrize("name", ["Dice", "Jaccard", "Auroc"])
def test_scores_come_back_from_a_saved_model(name):
    import keras

    from digipath.nn import losses

    metric = getattr(losses, name)(name="mine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(again) is type(metric)
    assert again.name == "mine"


def test_a_compiled_network_comes_back_without_custom_objects(tmp_path):
    import keras

    from digipath.nn.losses import Auroc, Dice, HybridLoss, Jaccard

    network = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Conv2D(1, 1, activation="sigmoid")])
    network.compile("sgd", loss=HybridLoss(label_smoothing=0.1), metrics=[Dice(), Jaccard(), Auroc()])
    network.train_on_batch(PROBABILITY, TRUTH)
    network.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras")
    found = again.evaluate(PROBABILITY, TRUTH, verbose=0, return_dict=True)
    assert found == pytest.approx(network.evaluate(PROBABILITY, TRUTH, verbose=0, return_dict=True))
    assert list(found) == ["auroc", "dice", "jaccard", "loss"]


def test_weights_of_samples_are_refused_instead_of_scaling_the_loss():
    import keras

    from digipath.nn.losses import Auroc, Dice, HybridLoss, Jaccard

    weights = np.ones(1, np.float32)
    with pytest.raises(BadInput, match="no sample or class weights for hybrid_loss, which is of the whole batch"):
        HybridLoss()(TRUTH, PROBABILITY, sample_weight=weights)
    for metric in (Dice(), Jaccard(), Auroc()):
        with pytest.raises(BadInput, match=f"no sample or class weights for {metric.name}"):
            metric.update_state(TRUTH, PROBABILITY, sample_weight=weights)
    network = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Conv2D(1, 1, activation="sigmoid")])
    network.compile("sgd", loss=HybridLoss(), run_eagerly=True)
    with pytest.raises(BadInput, match="leave them out"):
        network.fit(PROBABILITY, TRUTH, sample_weight=weights, verbose=0)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_label_smoothing_out_of_range(share):
    from digipath.nn.losses import HybridLoss, hybrid_loss

    with pytest.raises(BadInput, match=r"a label smoothing in \[0, 1\), got"):
        HybridLoss(label_smoothing=share)
    with pytest.raises(BadInput, match=r"a label smoothing in \[0, 1\), got"):
        hybrid_loss(TRUTH, PROBABILITY, label_smoothing=share)


def test_training_lowers_the_loss():
    import keras

    from digipath.nn.losses import HybridLoss

    keras.utils.set_random_seed(0)
    image = np.random.default_rng(0).random((4, 8, 8, 1), dtype=np.float32)
    truth = (image > 0.5).astype(np.float32)
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(1, 1, activation="sigmoid")])
    network.compile(keras.optimizers.Adam(0.1), loss=HybridLoss())
    history = network.fit(image, truth, epochs=40, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]


def test_label_smoothing_by_hand():
    from digipath.nn.losses import HybridLoss, hybrid_loss

    # With s = 0.2 the truth becomes 0.9, 0.1, 0.9, 0.1.
    smoothed = np.array([0.9, 0.1, 0.9, 0.1], np.float32).reshape(TRUTH.shape)
    # −(0.9 log 0.8 + 0.1 log 0.2 + 0.1 log 0.4 + 0.9 log 0.6 + 0.9 log 0.5 + 0.1 log 0.5
    #   + 0.1 log 0.1 + 0.9 log 0.9) / 4
    alone = hybrid_loss(TRUTH, PROBABILITY, background_weight=0, foreground_weight=0, label_smoothing=0.2)
    assert float(alone) == pytest.approx(0.5 * 0.482844, abs=1e-5)
    expected = float(hybrid_loss(smoothed, PROBABILITY))
    assert float(hybrid_loss(TRUTH, PROBABILITY, label_smoothing=0.2)) == pytest.approx(expected, abs=1e-6)
    assert float(HybridLoss(label_smoothing=0.2)(TRUTH, PROBABILITY)) == pytest.approx(expected, abs=1e-6)
    assert HybridLoss(label_smoothing=0.2).get_config()["label_smoothing"] == 0.2


def test_one_channel_truth_for_two_channels_of_probability():
    from digipath.nn.losses import HybridLoss

    both = np.concatenate([1 - PROBABILITY, PROBABILITY], axis=-1)
    assert float(HybridLoss()(TRUTH, both)) == pytest.approx(0.262378, abs=1e-5)


def test_scores_by_hand():
    from digipath.nn.losses import Auroc, Dice, Jaccard

    # Above 0.5 is 0.8 alone, which is true: one of the two true ones is missed.
    for metric, value in ((Dice(), 2 / 3), (Jaccard(), 1 / 2), (Auroc(), 1.0)):
        metric.update_state(TRUTH, PROBABILITY)
        assert float(metric.result()) == pytest.approx(value, abs=1e-6)
        # The same again leaves it; the opposite adds its pixels: 2 · (1 + 1 + 1) / (2 · 3 + 5), …
        metric.update_state(TRUTH, PROBABILITY)
        assert float(metric.result()) == pytest.approx(value, abs=1e-6)
    dice, jaccard, area = Dice(), Jaccard(), Auroc()
    for metric in (dice, jaccard, area):
        metric.update_state(TRUTH, PROBABILITY)
        metric.update_state(1 - TRUTH, PROBABILITY)
    assert float(dice.result()) == pytest.approx(2 * 1 / (3 + 3), abs=1e-6)
    assert float(jaccard.result()) == pytest.approx(1 / 5, abs=1e-6)
    assert float(area.result()) == pytest.approx(0.5, abs=1e-3)


def test_scores_at_the_ends():
    from digipath.nn.losses import Auroc, Dice, Jaccard

    for metric in (Dice(), Jaccard()):
        metric.update_state(0 * TRUTH, 0 * TRUTH)
        assert float(metric.result()) == 1  # two empty masks agree
        metric.update_state(TRUTH, 0 * TRUTH)
        assert float(metric.result()) == 0
        metric.reset_state()
        assert float(metric.result()) == 1
    area = Auroc()
    area.update_state(0 * TRUTH, PROBABILITY)
    assert np.isnan(float(area.result()))
    area.update_state(TRUTH, PROBABILITY)
    assert 0 < float(area.result()) < 1


def test_scores_are_those_of_measure():
    from digipath.measure.scores import auroc, jaccard, pooled_dice
    from digipath.nn.losses import Auroc, Dice, Jaccard

    rng = np.random.default_rng(0)
    truth = rng.random((6, 16, 16, 1)) < 0.3
    probability = np.clip(rng.normal(0.4 + 0.2 * truth, 0.2), 0, 1).astype(np.float32)
    found = {}
    for metric in (Dice(), Jaccard(), Auroc()):
        for part in (slice(0, 4), slice(4, 6)):
            two = np.concatenate([1 - probability, probability], axis=-1)[part]
            metric.update_state(truth[part].astype(np.float32), two)
        found[metric.name] = float(metric.result())
    assert found["dice"] == pytest.approx(pooled_dice([truth], [probability > 0.5]), abs=1e-6)
    assert found["jaccard"] == pytest.approx(jaccard(truth, probability > 0.5), abs=1e-6)
    assert found["auroc"] == pytest.approx(auroc(truth, probability), abs=1e-4)


def gradient(g: np.ndarray, p: np.ndarray, smoothing: float) -> np.ndarray:
    """Of the hybrid loss by the probability, worked out by hand, in float64."""
    g, p = np.float64(g), np.float64(p)
    g = g * (1 - smoothing) + smoothing / 2

    def of_dice(g: np.ndarray, p: np.ndarray) -> np.ndarray:
        overlap, sizes = 2 * (g * p).sum() + 1e-6, (g * g).sum() + (p * p).sum() + 1e-6
        return (2 * p * overlap - 2 * g * sizes) / sizes**2

    of_cross_entropy = ((1 - g) / (1 - p) - g / p) / p.size
    return 0.5 * of_cross_entropy - 0.25 * of_dice(1 - g, 1 - p) + 0.25 * of_dice(g, p)


def run_on(backend: str, script: str) -> list[float]:
    """The numbers that a script prints in its last line, in a process with that backend."""
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    head = f"import numpy as np\ntruth, p = np.array({TRUTH.tolist()}, 'f4'), np.array({PROBABILITY.tolist()}, 'f4')\n"
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run([sys.executable, "-c", head + script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


BACKENDS = ["tensorflow", "jax", pytest.param("torch", marks=pytest.mark.slow)]
GRADIENT = {
    "tensorflow": (
        "import tensorflow as tf\n"
        "x = tf.constant(p)\n"
        "with tf.GradientTape() as tape:\n"
        "    tape.watch(x)\n"
        "    value = loss(truth, x)\n"
        "found = tape.gradient(value, x)\n"
    ),
    "jax": "import jax\nfound = jax.grad(lambda x: loss(truth, x))(p)\n",
    "torch": "import torch\nx = torch.tensor(p, requires_grad=True)\nloss(truth, x).backward()\nfound = x.grad\n",
}


def test_the_gradient_by_hand_is_the_slope_of_the_loss():
    from digipath.nn.losses import hybrid_loss

    # −0.5 / (4 · 0.8) − 0.25 · 2 · 0.2 · 3.0 / 3.46² + 0.25 · (2 · 0.8 · 2.6 − 2 · 3.06) / 3.06² for the first pixel
    assert gradient(TRUTH, PROBABILITY, 0.0)[0, 0, 0, 0] == pytest.approx(-0.233640, abs=1e-6)
    for place in np.ndindex(TRUTH.shape):
        step = np.zeros(TRUTH.shape)
        step[place] = 1e-6
        ends = [float(hybrid_loss(TRUTH, np.float64(PROBABILITY) + sign * step)) for sign in (1, -1)]
        assert gradient(TRUTH, PROBABILITY, 0.0)[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_on_every_backend(backend):
    script = "from digipath.nn.losses import HybridLoss\n"
    for smoothing in (0.0, 0.1):
        script += f"loss = HybridLoss(label_smoothing={smoothing})\n{GRADIENT[backend]}"
        script += "print(*np.asarray(found).ravel(), end=' ')\n"
    expected = [gradient(TRUTH, PROBABILITY, smoothing).ravel() for smoothing in (0.0, 0.1)]
    assert run_on(backend, script) == pytest.approx(np.concatenate(expected), abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_truth_of_any_number_type(backend):
    script = (
        "from keras import ops\n"
        "from digipath.nn.losses import Auroc, Dice, HybridLoss, Jaccard, hybrid_loss\n"
        "def values(truth):\n"
        "    yield from (hybrid_loss(truth, p), HybridLoss()(truth, p))\n"
        "    for metric in (Dice(), Jaccard(), Auroc()):\n"
        "        metric.update_state(truth, p)\n"
        "        yield metric.result()\n"
        "kinds = ('bool', 'uint8', 'int32', 'float16', 'float32')\n"
        "truths = [truth.astype(kind) for kind in (*kinds, 'float64')] + [ops.cast(truth, kind) for kind in kinds]\n"
        "print(*(float(value) for kind in truths for value in values(kind)))\n"
    )
    expected = [0.262378, 0.262378, 2 / 3, 1 / 2, 1.0]
    assert run_on(backend, script) == pytest.approx(expected * 11, abs=1e-5)
