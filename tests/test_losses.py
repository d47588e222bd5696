"""The hybrid loss of Khened 2021 against values worked out by hand, on TensorFlow and on JAX."""

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


def test_same_values_on_jax():
    pytest.importorskip("jax", reason="JAX is not installed")
    script = (
        "import numpy as np\n"
        "from digipath.nn.losses import HybridLoss\n"
        f"truth, p = np.array({TRUTH.tolist()}, 'float32'), np.array({PROBABILITY.tolist()}, 'float32')\n"
        "print(float(HybridLoss()(truth, p)))\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) == pytest.approx(0.262378, abs=1e-5)
