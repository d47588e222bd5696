"""Trainings that begin with a network that was trained here before."""

from __future__ import annotations

import json

import made_up_bags
import numpy as np
import pytest
from PIL import Image

import digipath
from digipath import nn
from digipath.cli import main
from digipath.errors import BadInput
from digipath.networks import network_of
from digipath.nn.encoder import body_layers, encoder_layers
from digipath.training.bag_plan import prepare_bags
from digipath.training.bag_runs import BagBench, _scaling
from digipath.training.encoders import encoder_of
from digipath.training.plan import prepare
from digipath.weights import load_card, sha256_of

pytestmark = pytest.mark.keras
SCALE, OFFSET = [0.02, 0.02, 0.02], [-3.0, -3.0, -3.0]  # of the cards here, and of no default
MIL = {"embedder": "resnet18", "embedder_config": {"widths": [4, 8, 8, 8]}, "classes": 2, "patch": 64}


def filled(network):
    """The network with weights that no other has."""
    rng = np.random.default_rng(3)
    for layer in network.layers:
        layer.set_weights([rng.uniform(0.1, 1, weight.shape) for weight in layer.weights])
    return network


def write_card(folder, name, network, spec, **changes):
    """The card of a network with the weights that it has."""
    record = json.loads(made_up_bags.write_card(folder).read_text())
    file = folder / f"{name}.weights.h5"
    network.save_weights(file)
    record |= {"name": name, "network": spec, "file": file.name, "sha256": sha256_of(file), **changes}
    (folder / f"{name}.json").write_text(json.dumps(record | {"bytes": file.stat().st_size}))
    return folder / f"{name}.json"


@pytest.fixture(scope="module")
def tiles_card(tmp_path_factory):
    """The card of a narrow tile classifier of three classes."""
    spec = {"name": "resnet18", "config": {"widths": [4, 8, 8, 8], "classes": 3, "activation": "softmax"}}
    network = filled(nn.build(spec["name"], **spec["config"]))
    return write_card(tmp_path_factory.mktemp("tiles"), "tiles-v1", network, spec, output="tile"), network


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


# ---- whole trainings ----

TILES = """
task = "tiles"
[data]
folder = "tiles"
mpp = 0.5
classes = ["grade 2", "grade 3", "grade 4"]
[tiles]
tile = 64
tissue = "all"
[split]
validation = 0.2
test = 0.2
[network]
encoder = "{encoder}"
config = {{ widths = [4, 8, 8, 8] }}
[schedule]
epochs = 1
frozen_epochs = 1
batch = 3
[card]
name = "begun-v1"
task = "denser dots"
"""
MEMBER = """
[data]
manifest = "cases.csv"
[input]
mpp = 0.5
patch = 64
[schedule]
epochs = 1
steps_per_epoch = 1
batch = 2
[split]
kind = "single"
[card]
name = "begun-v1"
task = "squares"
[[member]]
name = "a"
network = "unet-small"
config = {{ widths = [8, {deepest}] }}
encoder = "{encoder}"
"""


def of_the_encoder(card):
    """The weights of its encoder by layer."""
    return {layer.name: layer.get_weights() for layer in encoder_layers(network_of(card))}


@pytest.mark.slow
def test_a_training_of_tiles_begins_with_a_network_of_one_s_own(tmp_path, capsys):
    """The encoder stays frozen for the only epoch, so that what it began with is what is left."""
    import keras

    spec = {"name": "resnet18", "config": {"widths": [4, 8, 8, 8], "classes": 2, "activation": "softmax"}}
    keras.utils.set_random_seed(8)
    network, classes = nn.build(spec["name"], **spec["config"]), {"classes": ["low", "high"], "positive": "high"}
    own = load_card(str(write_card(tmp_path, "own-v1", network, spec, output="tile", **classes)))
    for grade, name in enumerate(made_up_bags.CLASSES):
        (tmp_path / "tiles" / name).mkdir(parents=True)
        for number in range(5):
            tile = made_up_bags.tissue(64, grade, number)
            Image.fromarray(tile).save(tmp_path / "tiles" / name / f"{number}.png")
    config = tmp_path / "begun.toml"
    config.write_text(TILES.format(encoder=tmp_path / "own-v1.json"))
    assert main(["train", "--config", str(config), "--dry-run"]) == 0
    assert f"base: resnet18, encoder from {tmp_path / 'own-v1.json'}; sgd" in capsys.readouterr().out
    card = load_card(str(digipath.train(config, out=tmp_path / "out").card))
    assert card.record["training"]["encoder"] == {"name": "own-v1", "sha256": own.record["sha256"]}
    assert (card.record["input"]["scale"], card.record["input"]["offset"]) == (SCALE, OFFSET)
    expected, found = of_the_encoder(own), of_the_encoder(card)
    assert len(found) == 40
    for name, weights in expected.items():
        assert all(map(np.array_equal, found[name], weights)), name


def test_a_training_of_bags_begins_with_a_tile_classifier_and_its_scaling(tiles_card, tmp_path):
    folder, path = made_up_bags.write_cases(tmp_path / "cases"), str(tiles_card[0])
    plan = prepare_bags(made_up_bags.write_config(folder, "own.toml", network=f'encoder = "{path}"\nfrozen = true'))
    lines = plan.lines({run.mpp: {"a slide": ((0, 0),)} for run in plan.runs})
    begins = f"resnet18 from weights of {path} that stay, only pooling and head learn; max-mean; "
    assert any(line.startswith(begins) for line in lines)
    assert f"channels scaled as the card of {path} states" in lines
    found = _scaling(plan.runs[0], BagBench(plan, {}, tmp_path), tmp_path / "scaling.json")
    assert found == (tuple(SCALE), tuple(OFFSET))
    other = made_up_bags.write_config(folder, "other.toml", network=f'encoder = "{path}"')
    other.write_text(other.read_text().replace("[4, 8, 8, 8]", "[4, 8, 8, 16]"))
    with pytest.raises(BadInput, match=r"\[network\] expected weights of the same encoder, tiles-v1 is another"):
        prepare_bags(other)


def test_a_segmentation_s_member_begins_with_a_network_of_one_s_own(tmp_path):
    spec = {"name": "unet-small", "config": {"widths": [8, 8], "classes": 1, "activation": "sigmoid"}}
    given = {"scale": 0.01, "offset": -2.0, "multiple": 4, "modality": "slide", "mpp": 0.5, "patch": 64, "stain": None}
    about = {"output": "pixels", "classes": ["background", "tumour"], "positive": "tumour", "activation": "sigmoid"}
    path = write_card(tmp_path, "own-v1", nn.build("unet-small", **spec["config"]), spec, input=given, **about)
    rows = ["slide,annotation,patient,mpp"]
    for number in range(6):
        Image.new("RGB", (64, 64), (200 + number, 120, 160)).save(tmp_path / f"{number}.png")
        Image.new("L", (64, 64), 255).save(tmp_path / f"{number}_mask.png")
        rows.append(f"{number}.png,{number}_mask.png,patient{number},0.5")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "own.toml").write_text(MEMBER.format(encoder=path, deepest=8))
    plan = prepare(tmp_path / "own.toml")
    (told,) = (line for line in plan.lines() if line.startswith("member a"))
    assert told.endswith(f" parameters, encoder from {path}")
    assert plan.config.scaling_of(plan.config.members[0]) == (0.01, -2.0)
    (tmp_path / "other.toml").write_text(MEMBER.format(encoder=path, deepest=16))
    with pytest.raises(BadInput, match=r"\[\[member\]\] a: expected weights of the same encoder, own-v1 is another"):
        prepare(tmp_path / "other.toml")


@pytest.mark.parametrize("task", ["tiles", "bags"])
def test_paths_of_cards_start_at_the_folder_of_the_file_and_records_hold_their_names(tiles_card, task):
    from digipath.training.bag_config import read_bag_config
    from digipath.training.grading_config import read_tile_config

    card, _ = tiles_card
    config = card.with_name(f"{task}.toml")
    config.write_text(
        f'task = "{task}"\n[data]\nfolder = "x"\nmpp = 0.5\nclasses = ["a", "b"]\n[network]\nencoder = "{card.name}"\n'
        '[card]\nname = "mine-v1"\ntask = "either"\n'
    )
    read = (read_tile_config if task == "tiles" else read_bag_config)(config)
    network = read.arms[0].network if task == "tiles" else read.network
    assert network.encoder == str(card)
    record = read.record()
    assert (record["arms"][0] if task == "tiles" else record)["network"]["encoder"] == "tiles-v1"


def test_what_is_no_network_of_images_is_refused_by_members(tmp_path):
    from digipath.training.config import example, read_config

    config = tmp_path / "forest.toml"
    config.write_text(example().replace('# encoder = "none"', 'encoder = "lymphnode-pn-forest-v1"', 1))
    with pytest.raises(BadInput, match=r"expected an encoder of images, lymphnode-pn-forest-v1 is of"):
        read_config(config)
