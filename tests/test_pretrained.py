"""Published weights into our networks: files of Keras 2 made here, as published ones are laid out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from digipath.errors import BadInput

pytestmark = pytest.mark.keras

Layer = tuple[str, list[tuple[str, np.ndarray]]]  # as in a file: name, [(name of array, array)]


def write_legacy(path: Path, layers: Sequence[Layer], *, whole_model: bool = False, pieces: bool = False) -> Path:
    """A file as Keras 2 writes it. whole_model: as `model.save` does; pieces: with long lists of names split."""
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights") if whole_model else file
        if whole_model:
            file.attrs["model_config"] = "{ this is never parsed"
            file["optimizer_weights/momentum"] = np.zeros(3)
        write_names(group, "layer_names", [name for name, _ in layers], pieces)
        for name, arrays in layers:
            inside = group.create_group(name)
            write_names(inside, "weight_names", [array for array, _ in arrays], pieces)
            for array, values in arrays:
                inside[array] = values
    return path


def write_names(group: h5py.Group, attribute: str, names: list[str], pieces: bool) -> None:
    encoded = [name.encode() for name in names]
    if pieces:
        for number, piece in enumerate(np.array_split(np.array(encoded), 3)):
            group.attrs[f"{attribute}{number}"] = piece
    else:
        group.attrs[attribute] = np.array(encoded) if encoded else np.zeros(0)


def layers_of(network, renamed=lambda name: name) -> list[Layer]:
    """A network's layers as Keras 2 would have written them, those without weights included."""
    found = []
    for layer in network.layers:
        name = renamed(layer.name)
        depthwise = type(layer).__name__ == "DepthwiseConv2D"
        arrays = [
            (f"{name}/{'depthwise_kernel' if depthwise and w.name == 'kernel' else w.name}:0", np.asarray(w))
            for w in layer.weights
        ]
        found.append((name, arrays))
    return found


def scatter(network, seed: int = 0) -> None:
    """Weights and statistics away from their beginnings, features staying of the order of 1."""
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        kind = type(layer).__name__
        if kind == "BatchNormalization":
            low, high = (0.3, 0.6) if layer.name.endswith("project_bn") else (0.7, 1.3)
            draws = {"gamma": (low, high), "beta": (-0.2, 0.2), "moving_mean": (-0.2, 0.2)}
            layer.set_weights([rng.uniform(*draws.get(w.name, (0.7, 1.3)), w.shape) for w in layer.weights])
        elif kind != "Normalization":
            layer.set_weights([w if w.ndim > 1 else rng.normal(0, 0.1, w.shape) for w in layer.get_weights()])


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def small(seed: int | None = None):
    """A network with layers of every kind, named and counted, an encoder, a decoder and a head."""
    import keras
    from keras import layers

    image = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv1_conv")(image)
    x = layers.BatchNormalization(name="conv1_bn")(x)
    for _ in range(3):  # of the same size, so that only their order tells them apart
        x = layers.Conv2D(4, 1, use_bias=False)(x)
        x = layers.BatchNormalization(scale=False)(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="mix_depthwise")(x)
    x = layers.SeparableConv2D(5, 3, padding="same", name="mix_separable")(x)
    x = layers.Conv2D(4, 1, name="decoder0_conv")(x)
    x = layers.BatchNormalization(name="decoder0_norm")(x)
    x = layers.Conv2D(2, 1, name="head_conv")(x)
    network = keras.Model(image, x)
    if seed is not None:
        scatter(network, seed)
    return network


def as_published(name: str) -> str:
    """Slashes in the first names, other counts, and a counted name for the decoder."""
    name = {"decoder0_conv": "conv2d_900", "decoder0_norm": "batch_normalization_900"}.get(name, name)
    counted = re.fullmatch(r"(conv2d|batch_normalization)(?:_(\d+))?", name)
    if counted and counted[2] != "900":
        return f"{counted[1]}_{int(counted[2] or 0) + 37}"
    return name.replace("conv1_", "conv1/")


def stored(network) -> list[Layer]:
    return layers_of(network, as_published)


@pytest.mark.parametrize("whole_model", [False, True])
@pytest.mark.parametrize("pieces", [False, True])
def test_a_network_comes_back(tmp_path, whole_model, pieces):
    from digipath.nn.pretrained import load_legacy

    theirs, ours = small(seed=1), small(seed=2)
    file = write_legacy(tmp_path / "w.h5", stored(theirs), whole_model=whole_model, pieces=pieces)
    assert load_legacy(ours, file) == 1 + 4 + 3 * (1 + 3) + 1 + 3 + 2 + 4 + 2
    image = noise(1, 8, 8, 3)
    np.testing.assert_array_equal(np.asarray(ours(image)), np.asarray(theirs(image)))
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_names_of_keras_1(tmp_path):
    from digipath.nn.pretrained import load_legacy

    def renamed(layer: Layer) -> Layer:
        name, arrays = layer
        name = re.sub(r"^conv2d", "convolution2d", name).replace("batch_normalization", "batchnormalization")
        words = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}
        short = (array.rsplit("/", 1)[-1].split(":")[0] for array, _ in arrays)
        return name, [(f"{name}_{words.get(s, s)}:0", v) for s, (_, v) in zip(short, arrays, strict=True)]

    theirs, ours = small(seed=1), small(seed=2)
    load_legacy(ours, write_legacy(tmp_path / "w.h5", [renamed(layer) for layer in stored(theirs)]))
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def without(layers: list[Layer], name: str) -> list[Layer]:
    return [layer for layer in layers if layer[0] != name]


def changed(layers: list[Layer], name: str, change) -> list[Layer]:
    assert name in dict(layers)
    return [(n, change(arrays) if n == name else arrays) for n, arrays in layers]


def array(name: str, *shape: int) -> tuple[str, np.ndarray]:
    return name, np.zeros(shape, np.float32)


WRONG = {
    "a named layer is absent": (lambda ls: without(ls, "conv1/bn"), "a layer 'conv1_bn', for which the file has none"),
    "a layer too many": (lambda ls: [*ls, ("conv9/conv", [array("k:0", 1, 1, 4, 4)])], "'conv9_conv', for which"),
    "a dense layer too many": (lambda ls: [*ls, ("fc", [array("k:0", 4, 9), array("b:0", 9)])], "a layer 'fc'"),
    "a counted layer too many": (
        lambda ls: [*ls, ("conv2d_950", [array("conv2d_950/kernel:0", 1, 1, 4, 4)])],
        "has 3 layers with arrays of ranks (4,), the file 4; the file's layer 'conv2d_950'",
    ),
    "a counted layer is absent": (lambda ls: without(ls, "conv2d_900"), "'decoder0_conv' has no partner"),
    "an array is absent": (lambda ls: changed(ls, "conv1/bn", lambda a: a[:3]), "'conv1_bn' has arrays"),
    "an array too many": (
        lambda ls: changed(ls, "conv1/conv", lambda a: [*a, array("conv1/conv/bias:0", 4)]),
        "'conv1_conv' has arrays [(3, 3, 3, 4)], the file's 'conv1/conv' has [(3, 3, 3, 4), (4,)]",
    ),
    "another shape": (
        lambda ls: changed(ls, "conv2d_900", lambda a: [array("conv2d_900/kernel:0", 1, 1, 5, 6), a[1]]),
        "'decoder0_conv' has arrays [(1, 1, 5, 4), (4,)]",
    ),
    "arrays in another order": (
        lambda ls: changed(ls, "conv1/bn", lambda a: [a[1], a[0], *a[2:]]),
        "expected gamma of layer 'conv1_bn', got beta",
    ),
    "a value that is no number": (
        lambda ls: changed(ls, "head_conv", lambda a: [(a[0][0], a[0][1] * np.nan), a[1]]),
        "/head_conv/head_conv/kernel:0 holds values that are no numbers",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused(tmp_path, case):
    from digipath.nn.pretrained import load_legacy

    change, message = WRONG[case]
    network = small(seed=2)
    before = network.get_weights()
    file = write_legacy(tmp_path / "w.h5", change(stored(small(seed=1))))
    with pytest.raises(BadInput, match=re.escape(message)) as refused:
        load_legacy(network, file)
    assert str(refused.value).endswith(str(file))
    assert "\n" not in str(refused.value)
    if "number" not in case:  # found while reading
        for now, then in zip(network.get_weights(), before, strict=True):
            np.testing.assert_array_equal(now, then)


def spoil_missing(file: h5py.File) -> None:
    del file["head_conv/head_conv/bias:0"]


def spoil_stray(file: h5py.File) -> None:
    file["head_conv/more"] = np.zeros(2)


def spoil_link(file: h5py.File) -> None:
    del file["head_conv/head_conv/bias:0"]
    file["head_conv/head_conv/bias:0"] = h5py.ExternalLink("elsewhere.h5", "/bias")


def spoil_soft_link(file: h5py.File) -> None:
    del file["head_conv"]
    file["head_conv"] = h5py.SoftLink("/conv1")


def spoil_external(file: h5py.File) -> None:
    del file["head_conv/head_conv/bias:0"]
    place = [("elsewhere.bin", 0, h5py.h5f.UNLIMITED)]
    file["head_conv/head_conv"].create_dataset("bias:0", shape=(2,), dtype="f4", external=place)


def spoil_virtual(file: h5py.File) -> None:
    del file["head_conv/head_conv/bias:0"]
    layout = h5py.VirtualLayout(shape=(2,), dtype="f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "bias", shape=(2,))
    file["head_conv/head_conv"].create_virtual_dataset("bias:0", layout)


def spoil_text(file: h5py.File) -> None:
    del file["head_conv/head_conv/bias:0"]
    file["head_conv/head_conv/bias:0"] = ["text", "text"]


def spoil_names(file: h5py.File) -> None:
    file.attrs["layer_names"] = np.append(file.attrs["layer_names"], b"head_conv")


def spoil_layout(file: h5py.File) -> None:
    del file.attrs["layer_names"]


def spoil_encoding(file: h5py.File) -> None:
    file.attrs["layer_names"] = np.append(file.attrs["layer_names"], b"conv\xff")


def spoil_with_a_line_break(file: h5py.File) -> None:
    file.attrs["layer_names"] = np.append(file.attrs["layer_names"], b"head\nconv")


def spoil_precision(file: h5py.File) -> None:
    """An exponent that no float of NumPy has."""
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(10**6)
    group = file["head_conv/head_conv"]
    del group["bias:0"]
    h5py.h5d.create(group.id, b"bias:0", kind, h5py.h5s.create_simple((2,)))


def spoil_shape(file: h5py.File) -> None:
    del file["head_conv/head_conv/bias:0"]
    file["head_conv/head_conv/bias:0"] = h5py.Empty("f4")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_missing, "head_conv/bias:0 is announced in /head_conv, but is not there"),
        (spoil_stray, "'/head_conv/more' belongs to no layer"),
        (spoil_link, "is not there"),
        (spoil_soft_link, "is not there"),
        (spoil_external, "lie outside the file"),
        (spoil_virtual, "lie outside the file"),
        (spoil_text, "array of numbers"),
        (spoil_names, "named twice"),
        (spoil_layout, "another layout"),
        (spoil_encoding, "a whole HDF5 file of Keras 2 weights, got 'utf-8' codec can't decode byte 0xff"),
        (spoil_with_a_line_break, "a whole HDF5 file of Keras 2 weights, got names in layer_names that no text has"),
        (spoil_precision, "a whole HDF5 file of Keras 2 weights, got Insufficient precision"),
        (spoil_shape, "bias:0 to be an array of numbers"),
    ],
)
def test_files_of_another_make_are_refused(tmp_path, spoil, message):
    from digipath.nn.pretrained import load_legacy

    file = write_legacy(tmp_path / "w.h5", stored(small(seed=1)))
    with h5py.File(file, "r+") as opened:
        spoil(opened)
    with pytest.raises(BadInput, match=message) as refused:
        load_legacy(small(), file)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith(str(file))


@pytest.mark.parametrize("name", ["head_conv", "head_conv/head_conv/bias:0"], ids=["group", "array"])
def test_a_damaged_object_is_one_line(tmp_path, name):
    from digipath.nn.pretrained import load_legacy

    file = write_legacy(tmp_path / "w.h5", stored(small(seed=1)))
    with h5py.File(file) as opened:
        begin = h5py.h5o.get_info(opened[name].id).addr
    content = bytearray(file.read_bytes())
    content[begin : begin + 8] = b"\xff" * 8
    file.write_bytes(content)
    with pytest.raises(BadInput, match=r"a whole HDF5 file of Keras 2 weights, got .*bad object header.*w\.h5"):
        load_legacy(small(), file)


def test_no_weights_file_at_all(tmp_path):
    from digipath.nn.pretrained import load_encoder, load_legacy

    with pytest.raises(BadInput, match="found none"):
        load_legacy(small(), tmp_path / "absent.h5")
    (tmp_path / "text.h5").write_text("<html>not found</html>")
    with pytest.raises(BadInput, match="a whole HDF5 file"):
        load_legacy(small(), tmp_path / "text.h5")
    whole = write_legacy(tmp_path / "w.h5", stored(small(seed=1))).read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="a whole HDF5 file"):
        load_legacy(small(), tmp_path / "cut.h5")
    (tmp_path / "w.pth").write_text("not a checkpoint")
    with pytest.raises(BadInput, match=r"w\.pth"):
        load_encoder(small(), tmp_path / "w.pth")


def test_our_own_weights_are_no_legacy_file(tmp_path):
    from digipath.nn.pretrained import load_legacy

    small().save_weights(tmp_path / "own.weights.h5")
    with pytest.raises(BadInput, match="another layout"):
        load_legacy(small(), tmp_path / "own.weights.h5")


def test_an_encoder_leaves_classifier_and_decoder(tmp_path):
    from digipath.nn.pretrained import load_encoder

    theirs, ours = small(seed=1), small(seed=2)
    classifier = ("predictions", [array("predictions/kernel:0", 5, 9), array("predictions/bias:0", 9)])
    statistics = ("normalization_3", [array("mean:0", 3), array("variance:0", 3), ("count:0", np.int64(7))])
    layers = [layer for layer in stored(theirs) if "900" not in layer[0] and layer[0] != "head_conv"]
    decoder = [ours.get_layer(name).get_weights() for name in ("decoder0_conv", "decoder0_norm", "head_conv")]
    file = write_legacy(tmp_path / "w.h5", [statistics, *layers, classifier])
    assert load_encoder(ours, file) == 1 + 4 + 3 * (1 + 3) + 1 + 3
    for name in ("conv1_conv", "conv1_bn", "mix_depthwise", "mix_separable"):
        for a, b in zip(ours.get_layer(name).get_weights(), theirs.get_layer(name).get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    for name, then in zip(("decoder0_conv", "decoder0_norm", "head_conv"), decoder, strict=True):
        for a, b in zip(ours.get_layer(name).get_weights(), then, strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(BadInput, match="'conv1_conv', for which the file has none"):
        load_encoder(ours, write_legacy(tmp_path / "v.h5", without(layers, "conv1/conv")))


def test_voc_weights_fill_all_but_the_head(tmp_path):
    from digipath.nn import build
    from digipath.nn.pretrained import load_encoder

    settings = {
        "backbone": "mobilenetv2",
        "alpha": 0.25,
        "aspp_filters": 16,
        "low_level_filters": 8,
        "decoder_filters": 16,
    }
    theirs = build("deeplabv3plus", classes=21, activation="softmax", **settings)
    scatter(theirs)
    file = write_legacy(tmp_path / "voc.h5", layers_of(theirs))
    ours = build("deeplabv3plus", classes=1, **settings)
    head = ours.get_layer("custom_logits_semantic").get_weights()
    assert load_encoder(ours, file) == len(theirs.weights) - 2
    for layer in ours.layers:
        expected = head if layer.name == "custom_logits_semantic" else theirs.get_layer(layer.name).get_weights()
        for a, b in zip(layer.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def features(network, image: np.ndarray) -> np.ndarray:
    """What goes into the decoder of a U-Net."""
    import keras

    encoder = keras.Model(network.input, network.get_layer("decoder_stage0_upsampling").input)
    return np.asarray(encoder(image, training=False))


def application(name: str):
    """A network of keras.applications; where ours are padded and it is not, padded."""
    import keras

    network = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(128, 128, 3))
    if name not in ("InceptionResNetV2", "Xception"):
        return network
    config = network.get_config()
    for layer in config["layers"]:
        if layer["config"].get("padding") == "valid":
            layer["config"]["padding"] = "same"
    return keras.Model.from_config(config)


def slashed(name: str) -> str:
    """DenseNet's names as published: conv1/conv."""
    return name.replace("conv1_", "conv1/") if name in ("conv1_conv", "conv1_bn", "conv1_relu") else name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backbone", "arrays"),
    [
        ("DenseNet121", "densenet121", 604),
        ("EfficientNetB0", "efficientnetb0", 309),
        ("InceptionResNetV2", "inceptionresnetv2", 896),
        ("Xception", "xception", 234),
    ],
)
def test_encoders_of_keras_applications(tmp_path, name, backbone, arrays):
    from digipath.nn import build
    from digipath.nn.pretrained import load_encoder

    theirs = application(name)
    scatter(theirs)
    ours = build("unet", backbone=backbone)
    assert load_encoder(ours, write_legacy(tmp_path / "w.h5", layers_of(theirs, slashed))) == arrays
    image = noise(1, 128, 128, 3)
    # EfficientNet of keras.applications divides by 255 first; ours takes what comes behind that.
    expected = np.asarray(theirs(image * 255 if name == "EfficientNetB0" else image, training=False))
    assert 0.05 < expected.std() < 100
    np.testing.assert_allclose(features(ours, image), expected, atol=1e-4 * max(1, np.abs(expected).max()))


def test_resnet18_with_its_classifier(tmp_path):
    from digipath.nn import build
    from digipath.nn.pretrained import load_encoder
    from digipath.nn.segmentation_library import build_encoder

    theirs = build_encoder("resnet18", (64, 64, 3))
    scatter(theirs)
    classifier = ("fc1", [array("fc1/kernel:0", 512, 1000), array("fc1/bias:0", 1000)])
    ours = build("unet", backbone="resnet18")
    assert load_encoder(ours, write_legacy(tmp_path / "w.h5", [*layers_of(theirs), classifier])) == 96
    image = noise(1, 64, 64, 3) * 127.5 + 127.5
    np.testing.assert_array_equal(features(ours, image), np.asarray(theirs(image, training=False)))
    grey = build("unet", backbone="resnet18", input_channels=1)
    with pytest.raises(BadInput, match="layer 'bn_data' has arrays"):
        load_encoder(grey, tmp_path / "w.h5")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [("densenet121", 17_451_138), ("inceptionresnetv2", 65_893_154)],
)
def test_digipathai_has_the_published_size(backbone, parameters):
    from digipath.nn import build

    network = build("unet-digipathai", backbone=backbone)
    assert network.count_params() == parameters
    assert {layer.interpolation for layer in network.layers if "upsampling" in layer.name} == {"nearest"}
    probability = np.asarray(network(noise(1, 64, 96, 3), training=False))
    assert probability.shape == (1, 64, 96, 2)
    np.testing.assert_allclose(probability.sum(axis=-1), 1, atol=1e-5)


@pytest.mark.slow
def test_deeplab_of_digipathai_has_the_published_size():
    from digipath.nn import build

    network = build("deeplabv3plus", classes=2, activation="softmax", output_stride=16, align_corners=True)
    assert network.count_params() == 41_253_330


@pytest.mark.slow
def test_a_file_named_like_digipathai_s(tmp_path):
    from digipath.nn import build
    from digipath.nn.pretrained import load_legacy

    theirs, ours = (build("unet-digipathai") for _ in range(2))
    scatter(theirs)
    counts = {"conv": 500, "norm": 500}

    def renamed(name: str) -> str:
        kind = name.rsplit("_", 1)[-1]
        if not name.startswith(("decoder", "head")) or kind not in counts:
            return slashed(name)
        counts[kind] += 1
        return f"{'conv2d' if kind == 'conv' else 'batch_normalization'}_{counts[kind]}"

    file = write_legacy(tmp_path / "w.h5", layers_of(theirs, renamed), whole_model=True)
    assert load_legacy(ours, file) == 666
    image = noise(1, 64, 64, 3)
    np.testing.assert_array_equal(np.asarray(ours(image)), np.asarray(theirs(image)))
