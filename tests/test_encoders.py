"""Trainings that begin with a network that was trained here before."""

from __future__ import annotations

import json

import made_up_bags
import numpy as np
import pytest

from digipath import nn
from digipath.errors import BadInput
from digipath.nn.encoder import body_layers, encoder_layers
from digipath.training.encoders import encoder_of

pytestmark = pytest.mark.keras
MIL = {"embedder": "resnet18", "embedder_config": {"widths": [4, 8, 8, 8]}, "classes": 2, "patch": 64}


def filled(network):
    """The network with weights that no other has."""
    rng = np.random.default_rng(3)
    for layer in network.layers:
        layer.set_weights([rng.uniform(0.1, 1, weight.shape) for weight in layer.weights])
    return network


@pytest.fixture(scope="module")
def tiles_card(tmp_path_factory):
    """The card of a narrow tile classifier of three classes."""
    folder = tmp_path_factory.mktemp("tiles")
    path = made_up_bags.write_card(folder)
    record = json.loads(path.read_text())
    record["network"] = {
        "name": "resnet18", "config": {"widths": [4, 8, 8, 8], "classes": 3, "activation": "softmax"},
    }  # fmt: skip
    record |= {"output": "tile", "name": "tiles-v1"}
    network = filled(nn.build("resnet18", **record["network"]["config"]))
    file = folder / record["file"]
    network.save_weights(file)
    from digipath.weights import sha256_of

    record |= {"sha256": sha256_of(file), "bytes": file.stat().st_size}
    (folder / "tiles-v1.json").write_text(json.dumps(record))
    return folder / "tiles-v1.json", network


def same(layer, other):
    return all(np.array_equal(a, b) for a, b in zip(layer.get_weights(), other.get_weights(), strict=True))


@pytest.mark.parametrize("pooling", ["max-mean", "gated-attention"])
def test_bags_begin_with_the_encoder_of_a_tile_classifier(tiles_card, pooling):
    path, source = tiles_card
    network = nn.build("mil", **MIL, pooling=pooling)
    behind = [layer for layer in body_layers(network) if layer not in encoder_layers(network)]
    before = [layer.get_weights() for layer in behind]
    encoder = encoder_of(str(path))
    encoder.load(network)
    layers, theirs = encoder_layers(network), {layer.name: layer for layer in encoder_layers(source)}
    assert len(layers) == len(theirs) == 40
    assert all(same(layer, theirs[layer.name]) for layer in layers)
    for layer, weights in zip(behind, before, strict=True):  # attention is no part of what was loaded
        assert all(np.array_equal(a, b) for a, b in zip(layer.get_weights(), weights, strict=True))
    assert encoder.record == {"name": "tiles-v1", "sha256": encoder.card.record["sha256"]}


def test_a_classifier_of_other_classes_begins_with_all_but_the_head(tiles_card):
    path, source = tiles_card
    network = nn.build("resnet18", widths=[4, 8, 8, 8], classes=2)
    head = network.get_layer("logits").get_weights()
    encoder_of(str(path)).load(network)
    assert all(same(network.get_layer(layer.name), layer) for layer in encoder_layers(source))
    assert np.array_equal(network.get_layer("logits").get_weights()[0], head[0])


def test_decoders_are_loaded_where_both_have_the_same(tmp_path):
    path = made_up_bags.write_card(tmp_path, pooling="gated-attention")
    from digipath.networks import network_of
    from digipath.weights import load_card

    source = network_of(load_card(str(path)))
    network = nn.build("mil", **MIL | {"classes": 3}, pooling="gated-attention")
    encoder_of(str(path)).load(network)
    names = {layer.name for layer in body_layers(network)} - {layer.name for layer in encoder_layers(network)}
    assert names
    assert all(same(network.get_layer(name), source.get_layer(name)) for name in names)


def test_another_encoder_is_refused_before_anything_is_set(tiles_card):
    path, _ = tiles_card
    network = nn.build("resnet18", widths=[4, 8, 8, 16], classes=3)
    before = [layer.get_weights() for layer in network.layers]
    with pytest.raises(BadInput, match=r"same encoder, tiles-v1 is another: its layer layer4_0"):
        encoder_of(str(path)).load(network)
    for layer, weights in zip(network.layers, before, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(layer.get_weights(), weights, strict=True))


def test_an_ensemble_is_no_encoder():
    with pytest.raises(BadInput, match="weights of its own, lymphnode-ensemble-v1 is of kind ensemble"):
        encoder_of("lymphnode-ensemble-v1")
    assert encoder_of(None) is None
