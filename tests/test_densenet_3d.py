"""DenseNet169 in 3D: its size by hand, its layers, and what it computes, against NumPy."""

from __future__ import annotations

import example_scripts
import numpy as np
import pytest

from digipath.errors import BadInput

pytestmark = pytest.mark.keras

SMALL = {"blocks": (2, 1, 1), "growth": 4, "initial": 6, "bottleneck": 2, "input_channels": 2}


@pytest.fixture(scope="module")
def whole():
    from digipath.nn import build

    return build("densenet169-3d")


@pytest.fixture(scope="module")
def small():
    """A small one with weights, biases and statistics that are all random."""
    import keras

    from digipath.nn import build

    keras.utils.set_random_seed(0)
    network, rng = build("densenet169-3d", patch=33, **SMALL), np.random.default_rng(0)
    logits = network.get_layer("logits")
    logits.set_weights([rng.normal(0, 1, weight.shape) for weight in logits.weights])
    for layer in network.layers:
        if "gamma" in {weight.name for weight in layer.weights}:
            arrays = [rng.uniform(low, low + 0.5, layer.gamma.shape) for low in (0.7, -0.2, -0.2, 0.7)]
            layer.set_weights(arrays)
    return network


def by_hand(classes: int, channels: int, blocks=(6, 12, 32, 32), growth=32, width=64, bottleneck=4) -> tuple[int, int]:
    """Numbers that are trained, and moving statistics."""
    trained, normed = 7**3 * channels * width, width
    for block, depth in enumerate(blocks):
        if block:
            trained, normed, width = trained + width * (width // 2), normed + width, width // 2
        for _ in range(depth):
            inside = bottleneck * growth
            trained, normed = trained + width * inside + 3**3 * inside * growth, normed + width + inside
            width += growth
    normed += width
    return trained + 2 * normed + (width + 1) * classes, 2 * normed


def test_the_size_is_that_counted_by_hand(whole, small):
    assert by_hand(3, 4) == (18_613_571, 158_400)
    for network, expected in ((whole, by_hand(3, 4)), (small, by_hand(3, 2, (2, 1, 1), 4, 6, 2))):
        trained = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
        assert (trained, network.count_params()) == (expected[0], sum(expected))
    assert whole.count_params() == 18_771_971  # the 18.77 million of a plain build, its statistics included


def test_the_convolutions_and_the_classifier_are_169(whole):
    kinds = [type(layer).__name__ for layer in whole.layers]
    assert kinds.count("Conv3D") + kinds.count("Dense") == 169
    kernels = {layer.kernel_size for layer in whole.layers if hasattr(layer, "kernel_size")}
    assert kernels == {(1, 1, 1), (3, 3, 3), (7, 7, 7)}
    assert {layer.epsilon for layer in whole.layers if hasattr(layer, "epsilon")} == {1e-5}
    assert whole.layers[-1].dtype == "float32"


def test_the_sides_are_those_of_the_paper(whole):
    assert whole.input_shape == (None, 128, 128, 128, 4)
    sides = {layer.name: layer.output.shape[3:] for layer in whole.layers}
    names = ("conv0", "pool0", "denseblock1", "transition1", "denseblock2", "transition2", "denseblock3", "transition3")
    shapes = [(64, 64), (32, 64), (32, 256), (16, 128), (16, 512), (8, 256), (8, 1280), (4, 640)]
    assert [sides[name] for name in (*names, "denseblock4", "features_relu")] == [*shapes, (4, 1664), (4, 1664)]
    assert whole.get_layer("conv0").output.shape[1:] == (64, 64, 64, 64)
    assert whole.get_layer("features").output.shape == (None, 1664)


# ---- what it computes, in NumPy ----


def windows(x: np.ndarray, size: int, stride: int, padding: int) -> np.ndarray:
    """(X, Y, Z, C) → (X', Y', Z', C, size, size, size), padded by zeros on both sides."""
    padded = np.pad(x, [(padding, padding)] * 3 + [(0, 0)])
    found = np.lib.stride_tricks.sliding_window_view(padded, (size,) * 3, axis=(0, 1, 2))
    return found[::stride, ::stride, ::stride]


def convolved(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    """Kernel (s, s, s, I, O), padded by half of s."""
    return np.tensordot(windows(x, len(kernel), stride, len(kernel) // 2), kernel, axes=([3, 4, 5, 6], [3, 0, 1, 2]))


def activated(x: np.ndarray, network, name: str) -> np.ndarray:
    gamma, beta, mean, variance = network.get_layer(f"{name}_bn").get_weights()
    return np.maximum((x - mean) / np.sqrt(variance + 1e-5) * gamma + beta, 0)


def in_numpy(network, x: np.ndarray, blocks=(2, 1, 1)) -> np.ndarray:
    """(X, Y, Z, C) → logits."""

    def kernel(name: str) -> np.ndarray:
        return network.get_layer(name).get_weights()[0]

    x = activated(convolved(x, kernel("conv0"), 2), network, "conv0")
    x = windows(x, 3, 2, 1).max(axis=(4, 5, 6))
    for block, depth in enumerate(blocks, start=1):
        if block > 1:
            name = f"transition{block - 1}"
            x = activated(x, network, name) @ kernel(f"{name}_conv")[0, 0, 0]
            x = windows(x, 2, 2, 0).mean(axis=(4, 5, 6))
        for number in range(1, depth + 1):
            name = f"denseblock{block}_layer{number}"
            y = activated(x, network, f"{name}_1") @ kernel(f"{name}_conv1")[0, 0, 0]
            x = np.concatenate([x, convolved(activated(y, network, f"{name}_2"), kernel(f"{name}_conv2"))], axis=-1)
    weights, bias = network.get_layer("logits").get_weights()
    return activated(x, network, "features").mean(axis=(0, 1, 2)) @ weights + bias


def test_it_computes_what_numpy_does(small):
    import keras

    volume = np.random.default_rng(1).normal(0, 1, (33, 33, 33, 2)).astype(np.float32)  # an odd side at each halving
    logits = keras.Model(small.input, small.get_layer("logits").output)
    expected = in_numpy(small, volume)
    assert expected.std() > 0.1
    np.testing.assert_allclose(np.asarray(logits(volume[None], training=False))[0], expected, atol=1e-5)
    probability = np.exp(expected) / np.exp(expected).sum()
    np.testing.assert_allclose(np.asarray(small(volume[None], training=False))[0], probability, atol=1e-5)


@pytest.mark.parametrize("name", ["pool0", "denseblock1", "transition1", "denseblock2", "denseblock3", "features_relu"])
def test_it_can_be_cut_at_the_ends_of_its_blocks(small, name):
    import keras

    features = small.get_layer(name).output
    before, behind = keras.Model(small.input, features), keras.Model(features, small.output)
    volume = np.random.default_rng(2).normal(0, 1, (1, 33, 33, 33, 2)).astype(np.float32)
    np.testing.assert_allclose(behind(before(volume)), small(volume), atol=1e-6)


def test_every_weight_learns_from_a_step():
    import keras

    from digipath.nn import build

    network, rng = build("densenet169-3d", patch=(32, 40, 33), dropout=0.2, **SMALL), np.random.default_rng(3)
    before = network.get_weights()
    network.compile(keras.optimizers.Adam(1e-2), "categorical_crossentropy", run_eagerly=True)
    network.train_on_batch(rng.normal(size=(3, 32, 40, 33, 2)).astype(np.float32), np.eye(3, dtype=np.float32))
    moved = [not np.array_equal(now, then) for now, then in zip(network.get_weights(), before, strict=True)]
    assert all(moved)


def test_sides_may_be_free():
    from digipath.nn import build

    network = build("densenet169-3d", patch=None, **SMALL)
    assert network.output_shape == (None, 3)
    volume = np.random.default_rng(4).normal(size=(1, 32, 47, 64, 2)).astype(np.float32)
    logits = in_numpy(network, volume[0])
    np.testing.assert_allclose(np.asarray(network(volume))[0], np.exp(logits) / np.exp(logits).sum(), atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"patch": 31}, "at least 32 voxels, got 31"),
        ({"patch": (64, 64, 16)}, r"at least 32 voxels, got \(64, 64, 16\)"),
        ({"patch": (64, 64)}, "one or three positive sides"),
        ({"blocks": ()}, r"dense blocks of at least one layer, got \[\]"),
        ({"blocks": (6, 0)}, r"at least one layer, got \[6, 0\]"),
        ({"growth": 0}, r"positive growth, initial and bottleneck, got \(0, 64, 4\)"),
        ({"dropout": 1.0}, "dropout in"),
        ({"momentum": 1.0}, "momentum in"),
        ({"classes": 1}, "always 1"),
        ({"activation": "relu"}, "activation among"),
        ({"input_channels": 0}, "at least one input channel"),
        ({"shrink": 2}, "has no setting shrink; it has"),
    ],
)
def test_settings_out_of_range(config, message):
    from digipath.nn import build

    with pytest.raises(BadInput, match=message):
        build("densenet169-3d", **config)


@pytest.mark.slow
def test_the_benchmark_of_a_step_runs():
    script = example_scripts.load("volume_step", example_scripts.BENCHMARKS)
    found = script.step("grading-3d", 8, 1, steps=1)
    assert (found["network"], found["size"], found["batch"]) == ("grading-3d", 8, 1)
    assert found["peak_gb"] > 0.1
    assert script.NETWORKS[0] == "densenet169-3d"
