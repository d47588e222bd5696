"""Published weights into networks of our own: Keras 2 files, and three PyTorch files.

Layers are paired by name, "/" read as "_". Names that Keras gave by counting (conv2d_203) differ from
session to session; those layers are paired in the networks' order, kind by kind, as Keras itself does.
Every array of the file must be used, every weight of the network be set, all shapes agree.

What fits what (`load_encoder`; the networks' encoders are those of the files, layer by layer):

- DenseNet121, Inception-ResNet-v2, EfficientNet-B0 and Xception of keras.applications and the ResNet18 of
  qubvel: `unet` with that backbone. Xception's first two convolutions are padded here. DenseNet121 and
  EfficientNet-B0 also: `densenet121` and `efficientnet-b0`, and `mil` with that embedder.
- torchvision's ResNet18, a PyTorch file: `resnet18`, and `mil` with that embedder. Not qubvel's, which is another.
- torchvision's AlexNet, a PyTorch file: `alexnet` in one column, all but its last layer.
- DeepLabV3+ on Pascal VOC (bonlime): `deeplabv3plus` with backbone "xception", encoder and decoder. The
  Xception of keras.applications does not fit there: DeepLab's is deeper, its separable convolutions have a
  norm inside, and strides replace its poolings.
- EfficientNet-Lite0, a PyTorch file: networks with that encoder.
- DigiPathAI's nine files (`load_legacy`): `unet-digipathai`, and `deeplabv3plus` with two classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import keras

from digipath.errors import BadInput
from digipath.nn.alexnet import is_alexnet, load_alexnet
from digipath.nn.efficientnet_lite import load_efficientnet_lite0
from digipath.nn.encoder import BEHIND, body_layers, encoder_layers
from digipath.nn.legacy_h5 import StoredLayer, open_legacy
from digipath.nn.resnet import is_resnet18, load_resnet18

# Names given by counting, of Keras 1 ("convolution2d_1"), TensorFlow 1 ("batch_normalization_v1") and later.
COUNTED = re.compile(
    r"(conv(olution)?2d|separable_?conv(olution)?2d|depthwise_?conv2d|batch_?normalization(_v[12])?)(_\d+)?"
)
# Classifiers, and EfficientNet's normalisation of its input, which here the card's scale and offset do.
NOT_FEATURES = re.compile(r"predictions|probs|fc1|fc1000|(custom_)?logits_semantic|normalization(_\d+)?")
ARRAYS = {"kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "depthwise_kernel", "pointwise_kernel"}

Pair = tuple[keras.Layer, StoredLayer]


def load_legacy(network: keras.Model, file: str | Path) -> int:
    """Fill the whole network from a file that Keras 2 wrote; number of arrays loaded.

    Raises:
        BadInput: no such file, another layout, or anything in it that does not fit; nothing is set then,
            unless an array turns out to be damaged.
    """
    path = Path(file)
    with open_legacy(path) as stored:
        return _fill(_paired([layer for layer in network.layers if layer.weights], stored, path))


def load_encoder(network: keras.Model, file: str | Path) -> int:
    """Fill what a pretrained file knows of a network, never its head; number of arrays loaded.

    That is the encoder, and the decoder too if the file is a whole segmentation network. A classifier
    in the file is left out. What input the weights expect is stated in their card; for ResNet18 it is
    0–255, and with another a frozen encoder is of no use, as its first layer is a norm.

    Raises:
        BadInput: as `load_legacy`; also a PyTorch file other than that of the network's ResNet18, AlexNet or
            EfficientNet-Lite0.
    """
    path = Path(file)
    if path.suffix == ".pth":
        if is_resnet18(network):
            return load_resnet18(network, path)
        return (load_alexnet if is_alexnet(network) else load_efficientnet_lite0)(network, path)
    with open_legacy(path) as found:
        stored = [layer for layer in found if not NOT_FEATURES.fullmatch(layer.name)]
        encoder, body = encoder_layers(network), body_layers(network)
        decoder_names = {layer.name for layer in body} - {layer.name for layer in encoder}
        whole = any(_plain(layer.name) in decoder_names for layer in stored)
        return _fill(_paired(body if whole else encoder, stored, path))


def _plain(name: str) -> str:
    return name.replace("/", "_")


def _fill(pairs: Sequence[Pair]) -> int:
    for layer, stored in pairs:
        layer.set_weights([array.read() for array in stored.arrays])
    return sum(len(stored.arrays) for _, stored in pairs)


def _paired(layers: Sequence[keras.Layer], stored: Sequence[StoredLayer], path: Path) -> list[Pair]:
    """Every layer with what the file has for it; BadInput if anything is left or does not fit."""
    named = {_plain(layer.name): layer for layer in stored}
    pairs = [(layer, named.pop(layer.name)) for layer in layers if layer.name in named and not _counted(layer.name)]
    if unknown := [name for name in named if not _counted(name)]:
        raise BadInput(f"the file has a layer {unknown[0]!r}, for which the network has none: {path}")
    done = {layer.name for layer, _ in pairs}
    rest = [layer for layer in layers if layer.name not in done]
    # DigiPathAI's files number the layers behind the encoder too, which have names here.
    if absent := [layer.name for layer in rest if not _counted(layer.name) and not layer.name.startswith(BEHIND)]:
        raise BadInput(f"the network has a layer {absent[0]!r}, for which the file has none: {path}")
    pairs += _in_order(rest, list(named.values()), path)
    for layer, found in pairs:
        _check(layer, found, path)
    return pairs


def _counted(name: str) -> bool:
    return COUNTED.fullmatch(name) is not None


def _in_order(layers: Sequence[keras.Layer], stored: Sequence[StoredLayer], path: Path) -> list[Pair]:
    """Pairs of the same kind, a kind being the ranks of a layer's arrays: convolutions with and without
    bias, norms with and without scale, separable convolutions."""
    ours = [tuple(len(weight.shape) for weight in layer.weights) for layer in layers]
    theirs = [tuple(len(array.shape) for array in layer.arrays) for layer in stored]
    pairs: list[Pair] = []
    for kind in dict.fromkeys(ours + theirs):
        wanted = [layer for layer, ranks in zip(layers, ours, strict=True) if ranks == kind]
        found = [layer for layer, ranks in zip(stored, theirs, strict=True) if ranks == kind]
        if len(wanted) != len(found):
            lonely = (wanted if len(wanted) > len(found) else found)[min(len(wanted), len(found))].name
            where = "network" if len(wanted) > len(found) else "file"
            raise BadInput(
                f"the network has {len(wanted)} layers with arrays of ranks {kind}, the file {len(found)}; "
                f"the {where}'s layer {lonely!r} has no partner: {path}"
            )
        pairs += zip(wanted, found, strict=True)
    return pairs


def _check(layer: keras.Layer, stored: StoredLayer, path: Path) -> None:
    """BadInput unless arrays agree in number, name and shape."""
    shapes = [tuple(weight.shape) for weight in layer.weights]
    found = [array.shape for array in stored.arrays]
    if shapes != found:
        raise BadInput(f"layer {layer.name!r} has arrays {shapes}, the file's {stored.name!r} has {found}: {path}")
    for weight, array in zip(layer.weights, stored.arrays, strict=True):
        # Keras 3 calls the filter of a depthwise convolution "kernel"; Keras 1 had names of its own.
        called = "kernel" if array.name == "depthwise_kernel" and weight.name == "kernel" else array.name
        if array.name in ARRAYS and called != weight.name:
            raise BadInput(f"expected {weight.name} of layer {layer.name!r}, got {array.name}: {path}")
