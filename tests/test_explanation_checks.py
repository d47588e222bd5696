"""The checks of explanations: random weights must change them, and a planted signal must be found."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from digipath.errors import BadInput
from digipath.explanations import METHODS, RandomisationCheck
from digipath.explanations.randomisation import rank_correlation

sys.path.insert(0, str(Path(__file__).parent))
import explained_by_hand


def test_the_rank_correlation_gives_equal_values_their_mean_rank():
    chance = np.random.default_rng(0)
    a, b = (np.maximum(chance.normal(0, 1, 200), 0).astype(np.float32) for _ in range(2))  # half of them are 0
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert rank_correlation(a, np.exp(3 * a)) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 and 2, 1, 3, 4.
    four = rank_correlation(np.float32([0, 5, 5, 6]), np.float32([2, 1, 3, 9]))
    assert four == pytest.approx(3 / np.sqrt(4.5 * 5))


def test_it_is_passed_up_to_a_mean_correlation_of_0_3_either_way():
    assert RandomisationCheck((0.3,)).passed
    assert RandomisationCheck((-0.3,)).passed
    assert not RandomisationCheck((0.301,)).passed
    assert not RandomisationCheck((-0.301,)).passed
    assert not RandomisationCheck((), constant=40).passed, "nothing was compared"
    scattered = RandomisationCheck((0.9, -0.4, 0.1, -0.2))
    assert (scattered.shared, scattered.alike) == (pytest.approx(0.1), pytest.approx(0.3))
    assert scattered.passed


def test_a_map_that_some_random_networks_turn_around_fails():
    turned = RandomisationCheck((0.9, -0.9, 0.9, -0.9))
    assert (turned.shared, turned.alike, turned.passed) == (pytest.approx(0), pytest.approx(0.9), False)
    assert RandomisationCheck((0.5, -0.5)).passed
    assert not RandomisationCheck((0.51, -0.51)).passed
    assert (RandomisationCheck(()).shared, RandomisationCheck(()).alike) == (0, 0)


def brightness(weight):
    """The average over cells of 4 × 4 px, whose mean raises the first class: its map is that of the image itself."""
    import keras
    from keras import layers

    image = keras.Input((16, 16, 1))
    cells = layers.AveragePooling2D(4, name="cells")(image)
    logits = layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D()(cells))
    network = keras.Model(image, layers.Activation("softmax")(logits))
    network.get_layer("logits").set_weights([np.array([[weight, 0.0]]), np.zeros(2)])
    return network


@pytest.mark.keras
def test_an_explanation_that_ignores_the_weights_fails():
    """Half of the random networks turn the sign of the map, after which nothing speaks for the class."""
    from digipath.explanations import randomisation_check

    image = np.random.default_rng(0).random((16, 16, 1))
    check = randomisation_check(brightness(1.0), image, target=0, networks=5)
    assert check.shared == pytest.approx(1)
    assert check.correlations == pytest.approx([1] * 5)
    assert 0 < check.constant < 15
    assert not check.passed


@pytest.mark.keras
def test_an_explanation_of_nothing_fails():
    from digipath.explanations import randomisation_check

    check = randomisation_check(brightness(-1.0), np.random.default_rng(0).random((16, 16, 1)), target=0)
    assert check == RandomisationCheck(())
    assert not check.passed


@pytest.mark.keras
def test_where_all_random_maps_are_constant_nothing_is_compared():
    """Kernels that begin with zeros."""
    import keras
    from keras import layers

    from digipath.explanations import randomisation_check

    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(1, 3, kernel_initializer="zeros", name="conv")(image)
    x = layers.Dense(1, kernel_initializer="ones")(layers.GlobalAveragePooling2D()(x))
    network = keras.Model(image, x)
    network.get_layer("conv").set_weights([np.ones((3, 3, 1, 1)), np.zeros(1)])
    check = randomisation_check(network, np.random.default_rng(0).random((8, 8, 1)), target=0, networks=2)
    assert (check.shared, check.correlations, check.constant) == (0.0, (), 8)
    assert not check.passed


@pytest.mark.keras
def test_random_networks_come_from_the_seed_alone():
    import keras

    from digipath.explanations import randomisation_check
    from digipath.nn import build

    keras.utils.set_random_seed(0)
    network = build("grading-3d", input_channels=1, patch=16, widths=(2, 2, 3), dense=(8,))
    pixels = np.random.default_rng(0).normal(0, 1, (16, 16, 16, 1)).astype(np.float32)
    options = {"method": METHODS[1], "target": 1, "networks": 2}
    states = random.getstate(), np.random.get_state()[1].tolist()
    first = randomisation_check(network, pixels, seed=3, **options)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    assert randomisation_check(network, pixels, seed=3, **options) == first
    assert randomisation_check(network, pixels, seed=4, **options) != first
    assert first.correlations[0] != first.correlations[1]


@pytest.mark.keras
def test_all_weights_are_those_of_a_new_network():
    """Kernels drawn anew; biases, scales and statistics of batch norms as they begin."""
    from digipath.explanations.randomisation import _randomised
    from digipath.nn import build

    network = build("resnet18", patch=32, widths=(4, 4, 4, 4))
    trained = np.random.default_rng(0)
    network.set_weights([trained.uniform(1, 2, weight.shape) for weight in network.get_weights()])
    drawn = _randomised(network, np.random.default_rng(1))
    assert [layer.name for layer in drawn.layers] == [layer.name for layer in network.layers]
    found = {weight.path: np.asarray(weight) for weight in drawn.weights}
    for path, values in found.items():
        if path.endswith("kernel"):
            assert abs(values.mean()) < values.std(), path
        else:
            start = 1 if path.endswith(("gamma", "moving_variance")) else 0
            assert (values == start).all(), path
    kernels = [values.ravel()[:8].tolist() for path, values in found.items() if path.endswith("kernel")]
    assert len({tuple(one) for one in kernels}) == len(kernels) > 15, "each has a seed of its own"


@pytest.mark.keras
def test_pixels_outside_of_the_mask_do_not_count():
    """Without bias nothing comes back to where an image is 0, with whatever weights: that alone correlates."""
    import keras
    from keras import layers

    from digipath.explanations import explain, randomisation_check
    from digipath.explanations.randomisation import _randomised

    keras.utils.set_random_seed(0)
    image = keras.Input((40, 40, 1))
    x = layers.Conv2D(8, 3, activation="relu", padding="same", use_bias=False)(image)
    x = layers.Conv2D(8, 3, activation="relu", padding="same", use_bias=False)(x)
    network = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    inside = np.zeros((40, 40), bool)
    inside[8:28, 12:32] = True
    pixels = np.random.default_rng(0).normal(0, 1, (40, 40, 1)) * inside[..., None]
    options = {"method": METHODS[1], "target": 0}
    everywhere = randomisation_check(network, pixels, **options, networks=3)
    within = randomisation_check(network, pixels, **options, networks=3, inside=inside)
    assert everywhere.shared > max(0.8, within.shared + 0.1)
    drawn, own = np.random.default_rng(0), explain(network, pixels, **options)
    for found in within.correlations:
        heat = explain(_randomised(network, drawn), pixels, **options)
        assert found == pytest.approx(spearmanr(own[inside], heat[inside]).statistic, abs=1e-9)


@pytest.mark.keras
def test_what_the_check_refuses():
    from digipath.explanations import randomisation_check

    network, image = brightness(1.0), np.zeros((16, 16, 1))
    for options, message in (
        ({"networks": 0}, "at least one random network"),
        ({"inside": np.ones((16, 15), bool)}, r"a mask of shape \(16, 16\) with two pixels or more"),
        ({"inside": np.zeros((16, 16), bool)}, "two pixels or more"),
        ({"method": "lime"}, "a method among"),
        ({"layer": "conv9"}, "has no layer"),
        ({"target": 5}, "a class from 0 to 1"),
        ({"method": METHODS[1]}, "'.*' has none; take Grad-CAM"),
    ):
        with pytest.raises(BadInput, match=message):
            randomisation_check(network, image, **options)
    with pytest.raises(BadInput, match="an image of the shape"):
        randomisation_check(explained_by_hand.network(2), image)


SIDE, RADIUS = 24, 3.5


def volumes(count, chance):
    """Noise with bright voxels: in a ball at a random place (class 1), or as many all over the volume (class 0)."""
    voxels = chance.normal(0, 1, (count, *[SIDE] * 3, 1)).astype(np.float32)
    balls, labels, grid = np.zeros((count, *[SIDE] * 3), bool), np.arange(count) % 2, np.indices([SIDE] * 3)
    for ball, label, volume in zip(balls, labels, voxels, strict=True):
        centre = chance.integers(4, SIDE - 4, 3).reshape(3, 1, 1, 1)
        ball |= ((grid - centre) ** 2).sum(axis=0) <= RADIUS**2
        volume[..., 0] += 2 * (ball if label else chance.permutation(ball.ravel()).reshape(ball.shape))
    return voxels, labels, balls


@pytest.fixture(scope="module")
def trained():
    """A residual network trained for half a minute, and volumes that it has not seen."""
    import keras

    from digipath.nn import build

    keras.utils.set_random_seed(0)
    chance = np.random.default_rng(0)
    voxels, labels, _ = volumes(160, chance)
    network = build("grading-3d", input_channels=1, patch=SIDE, widths=(4, 8, 8, 8), dense=(8,), dropout=0.0)
    network.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    network.fit(voxels, labels, batch_size=8, epochs=8, verbose=0)
    unseen = volumes(24, chance)
    assert (network.predict(unseen[0], verbose=0).argmax(axis=1) == unseen[1]).mean() > 0.9
    return network, unseen


@pytest.mark.keras
@pytest.mark.slow
@pytest.mark.parametrize(("method", "factor"), [(METHODS[0], 1.2), (METHODS[1], 3.0)])
def test_a_planted_signal_is_found(trained, method, factor):
    """The map is higher in the ball than around it, in the mean and in nearly every volume; polarity included."""
    from digipath.explanations import explain

    network, (voxels, labels, balls) = trained
    pairs = []
    for volume, ball in zip(voxels[labels == 1], balls[labels == 1], strict=True):
        heat = explain(network, volume, method=method, target=1)
        pairs.append((heat[ball].mean(), heat[~ball].mean()))
    inside, outside = np.transpose(pairs)
    assert inside.mean() > factor * outside.mean()
    assert (inside > outside).mean() > 0.9


@pytest.mark.keras
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_its_explanations_are_not_those_of_random_networks(trained, method):
    from digipath.explanations import randomisation_check

    network, (voxels, labels, _) = trained
    check = randomisation_check(network, voxels[labels == 1][0], method=method, target=1, networks=20)
    assert check.passed, check
    assert len(check.correlations) == 20


@pytest.mark.keras
@pytest.mark.slow
def test_grad_cam_of_the_other_class_looks_elsewhere(trained):
    from digipath.explanations import explain

    network, (voxels, labels, balls) = trained
    for volume, ball in zip(voxels[labels == 1], balls[labels == 1], strict=True):
        heat = explain(network, volume, layer="features_relu", target=0)
        assert heat[ball].mean() <= heat[~ball].mean()
