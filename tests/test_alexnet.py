"""AlexNet: its published sizes, torchvision's file, and what both variants compute, against NumPy."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from test_resnet import written

from digipath.errors import BadInput
from digipath.weights import load_card

pytestmark = pytest.mark.keras

# torchvision's modules: kernel as (out, in, h, w) or (out, in).
MODULES = {
    "features.0": (64, 3, 11, 11),
    "features.3": (192, 64, 5, 5),
    "features.6": (384, 192, 3, 3),
    "features.8": (256, 384, 3, 3),
    "features.10": (256, 256, 3, 3),
    "classifier.1": (4096, 9216),
    "classifier.4": (4096, 4096),
    "classifier.6": (1000, 4096),
}


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    """Random tensors under torchvision's names."""
    rng, tensors = np.random.default_rng(0), {}
    for name, shape in MODULES.items():
        kernel = rng.standard_normal(shape, np.float32)
        kernel *= (2 / np.prod(shape[1:])) ** 0.5
        tensors |= {f"{name}.weight": kernel, f"{name}.bias": rng.normal(0, 0.1, shape[0]).astype(np.float32)}
    return tensors


@pytest.fixture(scope="module")
def network():
    from digipath.nn import build

    return build("alexnet", patch=224)


@pytest.fixture(scope="module")
def columns():
    """Two columns, with kernels that keep the variance and biases that are not 0."""
    from digipath.nn import build

    built, rng = build("alexnet", variant="two-column"), np.random.default_rng(0)
    for layer in built.layers:
        if layer.weights:
            shape = layer.kernel.shape
            kernel = rng.standard_normal(shape, np.float32) * (2 / np.prod(shape[:-1])) ** 0.5
            layer.set_weights([kernel, rng.normal(0, 0.1, shape[-1])])
    return built


@pytest.mark.parametrize(("variant", "count"), [("one-column", 61_100_840), ("two-column", 60_965_224)])
def test_the_sizes_are_the_published_ones(variant, count):
    from digipath.nn import build

    built = build("alexnet", classes=1000, variant=variant)
    assert built.count_params() == count
    assert sum(int(np.prod(weight.shape)) for weight in built.trainable_weights) == count
    assert built.layers[-1].dtype == "float32"


def test_the_layers_and_their_sides(network, columns):
    from digipath.nn import build

    names = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5", "features")
    ends = [(13, 13, 192), (13, 13, 384), (13, 13, 256), (13, 13, 256), (6, 6, 256), (4096,)]
    shapes = [[one.get_layer(name).output.shape[1:] for name in names] for one in (network, build("alexnet"), columns)]
    assert shapes[0] == [(55, 55, 64), (27, 27, 64), (27, 27, 192), *ends]
    assert shapes[1] == [(56, 56, 64), (27, 27, 64), (27, 27, 192), *ends]
    ends = [(13, 13, 256), (13, 13, 384), (13, 13, 384), (13, 13, 256), (6, 6, 256), (4096,)]
    assert shapes[2] == [(55, 55, 96), (27, 27, 96), (27, 27, 256), *ends]


def test_the_head_is_the_last_layer_alone(network, columns):
    from digipath.nn.encoder import encoder_layers

    names = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
    assert [layer.name for layer in encoder_layers(network)] == names
    halves = ["conv1", "conv2_1", "conv2_2", "conv3", "conv4_1", "conv4_2", "conv5_1", "conv5_2", "fc6", "fc7"]
    assert [layer.name for layer in encoder_layers(columns)] == halves


def test_dropout_is_where_each_variant_has_it(network, columns):
    order = {one: [layer.name for layer in one.layers if layer.name.startswith("fc")] for one in (network, columns)}
    assert order[network] == ["fc6_dropout", "fc6", "fc6_relu", "fc7_dropout", "fc7"]
    assert order[columns] == ["fc6", "fc6_relu", "fc6_dropout", "fc7", "fc7_dropout"]
    assert network.get_layer("fc6_dropout").rate == columns.get_layer("fc7_dropout").rate == 0.5


# ---- what it computes, in NumPy ----


def convolved(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, *, stride: int = 1, padding: int = 0) -> np.ndarray:
    """(H, W, I), kernel (O, I, h, w) → (H', W', O) through a ReLU, as torch.nn.Conv2d and ReLU."""
    padded = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[2:], axis=(0, 1))[::stride, ::stride]
    return np.maximum(np.tensordot(windows, kernel, axes=([2, 3, 4], [1, 2, 3])) + bias, 0)


def pooled(x: np.ndarray) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))[::2, ::2].max(axis=(3, 4))


def features_in_numpy(x: np.ndarray, t: dict[str, np.ndarray]) -> np.ndarray:
    """torchvision's AlexNet up to its last hidden layer."""

    def of(name: str) -> tuple[np.ndarray, np.ndarray]:
        return t[f"{name}.weight"], t[f"{name}.bias"]

    x = pooled(convolved(x, *of("features.0"), stride=4, padding=2))
    x = pooled(convolved(x, *of("features.3"), padding=2))
    x = convolved(x, *of("features.6"), padding=1)
    x = convolved(x, *of("features.8"), padding=1)
    x = pooled(convolved(x, *of("features.10"), padding=1))
    x = x.transpose(2, 0, 1).ravel()  # torch flattens (C, H, W)
    for name in ("classifier.1", "classifier.4"):
        kernel, bias = of(name)
        x = np.maximum(kernel @ x + bias, 0)
    return x


def features_of(network, image: np.ndarray) -> np.ndarray:
    import keras

    features = keras.Model(network.input, network.get_layer("features").output)
    return np.asarray(features(image[None], training=False))[0]


def test_torchvisions_file_and_what_comes_out(tmp_path, network, state):
    from digipath.nn import build
    from digipath.nn.pretrained import load_encoder

    head = network.get_layer("logits").get_weights()
    path = written(tmp_path / "a.pth", state)
    assert load_encoder(network, path) == 14
    for now, then in zip(network.get_layer("logits").get_weights(), head, strict=True):
        np.testing.assert_array_equal(now, then)
    larger = build("alexnet", patch=230)
    larger.set_weights(network.get_weights())
    for one, side in ((network, 224), (larger, 230)):
        image = np.random.default_rng(side).normal(0, 1, (side, side, 3)).astype(np.float32)
        expected = features_in_numpy(image, state)
        assert expected.std() > 0.1
        np.testing.assert_allclose(features_of(one, image), expected, atol=1e-4)


def normalised(x: np.ndarray) -> np.ndarray:
    """Equation of section 3.3, channel by channel."""
    y, channels = np.empty(x.shape), x.shape[-1]
    for i in range(channels):
        around = range(max(0, i - 2), min(channels - 1, i + 2) + 1)
        y[..., i] = x[..., i] / (2 + 1e-4 * sum(x[..., j].astype(float) ** 2 for j in around)) ** 0.75
    return y


def test_response_normalisation_is_that_of_the_paper():
    from digipath.nn.alexnet import ResponseNormalization

    layer = ResponseNormalization(name="norm")
    x = np.random.default_rng(0).normal(0, 100, (2, 3, 4, 8)).astype(np.float32)
    assert np.abs(normalised(x) - x / 2**0.75).max() > 10
    np.testing.assert_allclose(layer(x), normalised(x), rtol=1e-5)
    np.testing.assert_allclose(layer(np.full((1, 1, 1, 1), 100.0, np.float32)), [[[[100 / 3**0.75]]]], rtol=1e-6)


def test_response_normalisation_stays_in_float32():
    """In bfloat16 the next number behind 2 is 2.016, for which the sum of squares must exceed 80."""
    from digipath.training.learner import new_network

    config = {"variant": "two-column", "classes": 2}
    network = new_network({"name": "alexnet", "config": config}, mixed_precision=True)
    assert {network.get_layer(name).compute_dtype for name in ("norm1", "norm2", "probability")} == {"float32"}
    assert network.get_layer("conv3").compute_dtype == "bfloat16"


def columns_in_numpy(x: np.ndarray, network) -> np.ndarray:
    """The network of 2012 up to its last hidden layer, flattened as Keras does."""

    def of(name: str) -> tuple[np.ndarray, np.ndarray]:
        kernel, bias = network.get_layer(name).get_weights()
        return kernel.transpose(3, 2, 0, 1), bias

    def apart(x: np.ndarray, name: str, padding: int) -> np.ndarray:
        halves = np.split(x, 2, axis=-1)
        found = [convolved(half, *of(f"{name}_{n}"), padding=padding) for n, half in enumerate(halves, start=1)]
        return np.concatenate(found, axis=-1)

    x = pooled(normalised(convolved(x, *of("conv1"), stride=4)))
    x = pooled(normalised(apart(x, "conv2", 2)))
    x = apart(convolved(x, *of("conv3"), padding=1), "conv4", 1)
    x = pooled(apart(x, "conv5", 1)).ravel()
    for name in ("fc6", "fc7"):
        kernel, bias = network.get_layer(name).get_weights()
        x = np.maximum(x @ kernel + bias, 0)
    return x


def test_two_columns_are_those_of_the_paper(columns):
    image = np.random.default_rng(1).normal(0, 50, (227, 227, 3)).astype(np.float32)  # normalisation matters there
    expected = columns_in_numpy(image, columns)
    assert expected.std() > 1
    np.testing.assert_allclose(features_of(columns, image), expected, rtol=1e-4, atol=1e-4 * expected.max())


@pytest.mark.parametrize("variant", ["one-column", "two-column"])
def test_every_weight_learns_from_a_step(variant):
    import keras

    from digipath.nn import build

    network, rng = build("alexnet", variant=variant, dropout=0), np.random.default_rng(0)
    before = network.get_weights()
    network.compile(keras.optimizers.SGD(1e-3), "categorical_crossentropy", run_eagerly=True)
    image = rng.normal(size=(3, 227, 227, 3)).astype(np.float32)
    first = float(network.train_on_batch(image, np.eye(3, dtype=np.float32)))
    assert float(network.test_on_batch(image, np.eye(3, dtype=np.float32))) < first
    assert all(not np.array_equal(a, b) for a, b in zip(network.get_weights(), before, strict=True))


# ---- files that do not fit ----


@pytest.fixture
def read(monkeypatch):
    """Has these tensors read, whatever the file."""
    module = importlib.import_module("digipath.nn.alexnet")  # `digipath.nn.alexnet` is the builder too
    return lambda tensors: monkeypatch.setattr(module, "read_torch", lambda _: tensors)


def without(tensors, name):
    return {key: array for key, array in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: without(t, "classifier.4.bias"), r"torchvision's AlexNet, classifier\.4\.bias is not there"),
        (lambda t: {**t, "features.12.bias": np.zeros(3)}, r"has features\.12\.bias, for which AlexNet has no layer"),
        (lambda t: {**t, "features.3.bias": np.zeros(64)}, r"shapes \[\(192, 64, 5, 5\), \(192,\)\] for conv2"),
        (lambda t: {**t, "classifier.1.weight": np.zeros((4096, 0))}, r"shapes \[\(4096, 9216\), \(4096,\)\] for fc6"),
        (lambda t: {**t, "features.8.bias": np.full(256, np.inf)}, "the arrays of conv4 hold values that are no numb"),
    ],
)
def test_another_networks_file_is_refused(read, network, state, change, message):
    from digipath.nn.pretrained import load_encoder

    first = network.get_layer("conv1")  # in the order of the layers, it would be set before the others
    before = first.get_weights()
    read(change(state))
    with pytest.raises(BadInput, match=f"{message}.*a.pth$"):
        load_encoder(network, "a.pth")
    for now, then in zip(first.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_other_networks_are_refused(read, columns, state):
    from digipath.nn import build
    from digipath.nn.pretrained import load_encoder

    read(state)
    with pytest.raises(BadInput, match=r"AlexNet in one column, the network has a layer conv2_1: a\.pth"):
        load_encoder(columns, "a.pth")
    with pytest.raises(BadInput, match=r"expected shapes \[\(64, 1, 11, 11\), \(64,\)\] for conv1, got .*a\.pth"):
        load_encoder(build("alexnet", input_channels=1), "a.pth")


def test_the_card_names_the_network_and_its_input():
    record = load_card("imagenet-alexnet-torchvision").record
    assert record["network"] == {"name": "alexnet", "config": {"classes": 1000, "patch": 224}}
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    values = np.array([0, 100, 255])[:, None]
    scaled = values * record["input"]["scale"] + record["input"]["offset"]
    np.testing.assert_allclose(scaled, (values / 255 - mean) / deviation, atol=1e-6)


def test_torchvision_itself_agrees(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    from digipath.nn import build
    from digipath.nn.pretrained import load_encoder

    theirs = models.alexnet(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    ours = build("alexnet", classes=1000)
    load_encoder(ours, tmp_path / "a.pth")
    last = theirs.classifier[6]
    ours.get_layer("logits").set_weights([last.weight.detach().numpy().T, last.bias.detach().numpy()])
    image = torch.randn(2, 3, 227, 227)
    expected = torch.softmax(theirs(image), 1).detach().numpy()
    np.testing.assert_allclose(np.asarray(ours(image.permute(0, 2, 3, 1).numpy(), training=False)), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"variant": "three-column"}, "variant among one-column, two-column, got 'three-column'"),
        ({"patch": 222}, "223 to 230 px for the variant 'one-column', got 222"),
        ({"patch": 231}, "223 to 230 px for the variant 'one-column', got 231"),
        ({"patch": 226, "variant": "two-column"}, "227 to 234 px for the variant 'two-column', got 226"),
        ({"patch": 235, "variant": "two-column"}, "227 to 234 px for the variant 'two-column', got 235"),
        ({"patch": None}, "223 to 230 px .*, got None"),
        ({"dropout": 1.0}, "dropout in"),
        ({"classes": 1}, "always 1"),
        ({"activation": "relu"}, "activation among"),
        ({"input_channels": 0}, "at least one input channel"),
        ({"momentum": 0.9}, "has no setting momentum; it has"),
    ],
)
def test_settings_out_of_range(config, message):
    from digipath.nn import build

    with pytest.raises(BadInput, match=message):
        build("alexnet", **config)
