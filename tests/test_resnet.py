"""ResNet18: its published size, torchvision's file, and what it computes, against NumPy and PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from test_torch_file import named, number, numbers, tensor

from digipath.errors import BadInput
from digipath.weights import load_card

pytestmark = pytest.mark.keras

NARROW = {"widths": (4, 6, 8, 10)}


def state(network) -> dict[str, np.ndarray]:
    """Random tensors under torchvision's names, of the network's sizes, its classifier included."""
    from digipath.nn.encoder import encoder_layers

    rng, tensors = np.random.default_rng(0), {}
    for layer in encoder_layers(network):
        module = layer.name.replace("_", ".")
        if len(layer.weights) == 1:
            *window, inside, outside = layer.kernel.shape
            deviation = (np.prod(window) * inside) ** -0.5
            tensors[f"{module}.weight"] = rng.normal(0, deviation, (outside, inside, *window))
            continue
        low = {"weight": 0.7, "bias": -0.2, "running_mean": -0.2, "running_var": 0.7}
        for name, least in low.items():
            tensors[f"{module}.{name}"] = rng.uniform(least, least + 0.5, layer.gamma.shape)
        tensors[f"{module}.num_batches_tracked"] = np.array(7.0)
    tensors |= {"fc.weight": np.zeros((1000, 10)), "fc.bias": np.zeros(1000)}
    return {name: np.asarray(array, "<f4") for name, array in tensors.items()}


def written(path, tensors: dict[str, np.ndarray]):
    """The file that PyTorch would write of them."""
    from test_torch_file import archive, storage

    def one(key: int, array: np.ndarray) -> bytes:
        strides = np.array(array.strides, int) // 4
        return tensor(storage(key=str(key), size=array.size), number(0), numbers(*array.shape), numbers(*strides))

    content = named({name: one(key, array) for key, (name, array) in enumerate(tensors.items())})
    return archive(path, content, {str(key): array.tobytes() for key, array in enumerate(tensors.values())})


def test_the_size_is_the_published_one():
    from digipath.nn import build

    network = build("resnet18", classes=1000)
    assert sum(int(np.prod(weight.shape)) for weight in network.trainable_weights) == 11_689_512
    assert network.count_params() == 11_689_512 + 9_600  # moving means and variances
    assert network.get_layer("features").output.shape == (None, 512)
    assert {layer.epsilon for layer in network.layers if hasattr(layer, "epsilon")} == {1e-5}


def test_the_layers_are_those_of_figure_2():
    from digipath.nn import build

    network = build("resnet18", patch=256)
    stem = network.get_layer("conv1")
    assert (stem.filters, stem.kernel_size, stem.strides) == (64, (7, 7), (2, 2))
    sides = {name: network.get_layer(name).output.shape[1:] for name in ("maxpool", "layer1_1_relu2", "layer4_1_relu2")}
    assert sides == {"maxpool": (64, 64, 64), "layer1_1_relu2": (64, 64, 64), "layer4_1_relu2": (8, 8, 512)}
    shortcuts = [layer.name for layer in network.layers if layer.name.endswith("downsample_0")]
    assert shortcuts == ["layer2_0_downsample_0", "layer3_0_downsample_0", "layer4_0_downsample_0"]
    assert network.layers[-1].dtype == "float32"


# ---- what it computes, in NumPy ----


def convolved(x: np.ndarray, kernel: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """(H, W, I) and PyTorch's kernel (O, I, h, w) → (H / stride, W / stride, O), as torch.nn.Conv2d."""
    padded = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[2:], axis=(0, 1))[::stride, ::stride]
    return np.einsum("rcihw,oihw->rco", windows, kernel)


def normed(x: np.ndarray, t: dict[str, np.ndarray], name: str) -> np.ndarray:
    mean, variance = t[f"{name}.running_mean"], t[f"{name}.running_var"]
    return (x - mean) / np.sqrt(variance + 1e-5) * t[f"{name}.weight"] + t[f"{name}.bias"]


def features_in_numpy(x: np.ndarray, t: dict[str, np.ndarray]) -> np.ndarray:
    """torchvision's ResNet18 up to the averaged features."""
    x = np.maximum(normed(convolved(x, t["conv1.weight"], 2, 3), t, "bn1"), 0)
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))[::2, ::2].max(axis=(3, 4))
    for block in range(1, 5):
        for unit in range(2):
            name, stride = f"layer{block}.{unit}", 2 if block > 1 and unit == 0 else 1
            y = np.maximum(normed(convolved(x, t[f"{name}.conv1.weight"], stride, 1), t, f"{name}.bn1"), 0)
            y = normed(convolved(y, t[f"{name}.conv2.weight"], 1, 1), t, f"{name}.bn2")
            if stride == 2:
                x = normed(convolved(x, t[f"{name}.downsample.0.weight"], 2, 0), t, f"{name}.downsample.1")
            x = np.maximum(x + y, 0)
    return x.mean(axis=(0, 1))


@pytest.mark.parametrize("side", [64, 75])  # 75: sides that strides do not divide
def test_torchvisions_file_and_what_comes_out(tmp_path, side):
    import keras

    from digipath.nn import build
    from digipath.nn.pretrained import load_encoder

    network = build("resnet18", **NARROW)
    head = network.get_layer("logits").get_weights()
    tensors = state(network)
    assert load_encoder(network, written(tmp_path / "r.pth", tensors)) == 100 == 20 + 20 * 4
    for now, then in zip(network.get_layer("logits").get_weights(), head, strict=True):
        np.testing.assert_array_equal(now, then)
    image = np.random.default_rng(1).normal(0, 1, (side, side, 3)).astype(np.float32)
    features = keras.Model(network.input, network.get_layer("features").output)
    expected = features_in_numpy(image, tensors)
    assert expected.std() > 0.1
    np.testing.assert_allclose(np.asarray(features(image[None], training=False))[0], expected, atol=1e-4)


def test_an_average_over_cells_comes_first():
    from digipath.nn import build

    plain, small = build("resnet18", **NARROW), build("resnet18", shrink=3, **NARROW)
    small.set_weights(plain.get_weights())
    image = np.random.default_rng(1).normal(0, 1, (1, 97, 96, 3)).astype(np.float32)  # a row is left over
    cells = image[:, :96].reshape(1, 32, 3, 32, 3, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(np.asarray(small(image)), np.asarray(plain(cells)), atol=1e-5)


def without(tensors, name):
    return {key: array for key, array in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: without(t, "layer3.0.bn2.running_var"), r"layer3\.0\.bn2\.running_var is not there"),
        (lambda t: {**t, "layer1.2.conv1.weight": t["conv1.weight"]}, r"has layer1\.2\.conv1\.weight, for which"),
        (lambda t: {**t, "bn1.bias": np.zeros(64, "<f4")}, "expected shapes .* for bn1"),
        (lambda t: {**t, "bn1.bias": np.full(4, np.nan, "<f4")}, "the arrays of bn1 hold values that are no numbers"),
    ],
)
def test_another_networks_file_is_refused(tmp_path, change, message):
    from digipath.nn import build
    from digipath.nn.pretrained import load_encoder

    network = build("resnet18", **NARROW)
    before = network.get_weights()
    with pytest.raises(BadInput, match=f"{message}.*r.pth$"):
        load_encoder(network, written(tmp_path / "r.pth", change(state(network))))
    for now, then in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_the_card_names_the_network():
    record = load_card("imagenet-resnet18-torchvision").record
    assert record["network"] == {"name": "resnet18", "config": {"classes": 1000}}


def test_torchvision_itself_agrees(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    from digipath.nn import build
    from digipath.nn.pretrained import load_encoder

    theirs = models.resnet18(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "r.pth")
    ours = build("resnet18", classes=1000)
    load_encoder(ours, tmp_path / "r.pth")
    ours.get_layer("logits").set_weights([theirs.fc.weight.detach().numpy().T, theirs.fc.bias.detach().numpy()])
    image = torch.randn(2, 3, 96, 96)
    expected = torch.softmax(theirs(image), 1).detach().numpy()
    np.testing.assert_allclose(np.asarray(ours(image.permute(0, 2, 3, 1).numpy(), training=False)), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"widths": (4, 8)}, "four positive widths"),
        ({"shrink": 0}, "shrink of at least 1"),
        ({"shrink": 4, "patch": 127}, "at least 128 px, got 127"),
        ({"dropout": 1.0}, "dropout in"),
        ({"momentum": 1.0}, "momentum in"),
        ({"classes": 1}, "always 1"),
        ({"activation": "relu"}, "activation among"),
        ({"input_channels": 0}, "at least one input channel"),
        ({"backbone": "vgg"}, "has no setting backbone; it has"),
    ],
)
def test_settings_out_of_range(config, message):
    from digipath.nn import build

    with pytest.raises(BadInput, match=message):
        build("resnet18", **{**NARROW, **config})
