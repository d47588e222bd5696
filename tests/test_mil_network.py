"""Bag classifiers: pools, order, parts for streaming, frozen and recomputed embedders, two backends."""

from __future__ import annotations

import numpy as np
import pytest
from test_nn import run_on
from test_resnet import state, written

from digipath.engine.bags import AttentionPool, MaxMeanPool
from digipath.errors import BadInput

pytestmark = pytest.mark.keras

SMALL = {"embedder": "resnet18", "embedder_config": {"widths": (4, 4, 6, 8)}, "patch": 32}
POOLINGS = ("max-mean", "gated-attention")


def built(pooling: str = "max-mean", **config):
    from digipath.nn import build

    return build("mil", pooling=pooling, **{**SMALL, **config})


def bags(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (*shape, 32, 32, 3)).astype(np.float32)


def pooled_by(network, tiles: np.ndarray) -> np.ndarray:
    import keras

    return np.asarray(keras.Model(network.input, network.get_layer("pooled").output)(tiles, training=False))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_bags_of_any_size_and_order(pooling):
    network = built(pooling, classes=4)
    for tiles in (bags(1, 1), bags(2, 5), bags(3, 2)):
        probability = network.predict(tiles, verbose=0)
        assert probability.shape == (len(tiles), 4)
        np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-5)
    tiles = bags(2, 5)
    turned = tiles[:, [3, 0, 4, 2, 1]]
    np.testing.assert_allclose(network.predict(turned, verbose=0), network.predict(tiles, verbose=0), atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_parts_stream_to_the_same_answer(pooling):
    from digipath.nn.mil import parts

    network, tiles = built(pooling), bags(1, 7)
    embedder, head, attention = parts(network)
    pool = MaxMeanPool() if attention is None else AttentionPool()
    for chunk in np.split(tiles[0], [3, 5]):
        features = np.asarray(embedder(chunk, training=False))
        assert features.shape == (len(chunk), 8)
        pool.add(features, *([] if attention is None else [np.asarray(attention(features))[:, 0]]))
    np.testing.assert_allclose(pool.pooled(), pooled_by(network, tiles)[0], atol=1e-5)
    answer = np.asarray(head(pool.pooled()[None], training=False))
    np.testing.assert_allclose(answer, np.asarray(network(tiles, training=False)), atol=1e-5)
    ours, theirs = ({id(w) for part in found if part is not None for w in part.weights}
                    for found in ((embedder, head, attention), (network,)))  # fmt: skip
    assert ours == theirs


def test_max_and_mean_by_hand():
    from digipath.nn.mil import parts

    network, tiles = built(), bags(2, 3)
    found = pooled_by(network, tiles)
    for bag, pooled in zip(tiles, found, strict=True):
        features = np.asarray(parts(network).embedder(bag, training=False))
        expected = np.concatenate([features.max(axis=0), features.mean(axis=0)])
        np.testing.assert_allclose(pooled, expected, atol=1e-6)


def test_attention_by_hand():
    """Ilse 2018, equation 9, in NumPy."""
    import keras

    from digipath.nn.mil import parts

    network, tiles = built("gated-attention", attention_units=5), bags(1, 4)
    V, U, w = (network.get_layer(f"attention_{name}").get_weights() for name in ("tanh", "sigmoid", "score"))
    assert [len(weights) for weights in (V, U, w)] == [1, 1, 1]
    h = np.asarray(parts(network).embedder(tiles[0], training=False))
    scores = (np.tanh(h @ V[0]) / (1 + np.exp(-(h @ U[0])))) @ w[0]
    a = np.exp(scores) / np.exp(scores).sum()
    weights = keras.Model(network.input, network.get_layer("weights").output)
    np.testing.assert_allclose(np.asarray(weights(tiles, training=False))[0], a, atol=1e-6)
    np.testing.assert_allclose(pooled_by(network, tiles)[0], (a * h).sum(axis=0), atol=1e-5)


def test_the_size_with_efficientnet():
    from digipath.nn import build

    network = build("mil", classes=3)
    assert network.input_shape == (None, None, 224, 224, 3)
    assert network.get_layer("pooled").output.shape == (None, 2 * 1280)
    assert network.get_layer("dropout").rate == 0.5
    assert network.count_params() == 4_049_564 + 2560 * 3 + 3


def test_the_embedder_is_the_encoder(tmp_path):
    from digipath.nn.encoder import encoder_layers
    from digipath.nn.mil import parts
    from digipath.nn.pretrained import load_encoder

    network = built("gated-attention")
    embedder = parts(network).embedder
    assert encoder_layers(network) == [layer for layer in embedder.layers if layer.weights]
    tensors = state(embedder)
    assert load_encoder(network, written(tmp_path / "r.pth", tensors)) == 100
    kernel = embedder.get_layer("layer4_1_conv2").get_weights()[0]
    np.testing.assert_array_equal(kernel, tensors["layer4.1.conv2.weight"].transpose(2, 3, 1, 0))


def test_weights_travel_between_modes(tmp_path):
    plain, recomputed = built(), built(remat=True)
    plain.save_weights(tmp_path / "m.weights.h5")
    recomputed.load_weights(tmp_path / "m.weights.h5")
    tiles = bags(1, 3)
    np.testing.assert_allclose(
        np.asarray(recomputed(tiles, training=False)), np.asarray(plain(tiles, training=False)), atol=1e-6
    )


# One step of descent, plain and recomputed, with dropped branches inside: how far weights, statistics and
# the states of random numbers are apart, how far they moved, and into how many parts the network was cut.
DESCENT = """
import keras, numpy as np
from keras import layers
from digipath.nn.checkpointing import split
from digipath.nn.mil import EachTile

def trained(remat):
    keras.utils.set_random_seed(3)
    image = x = keras.Input((8, 8, 3))
    for block in range(4):
        y = layers.Conv2D(4, 3, padding="same")(x)
        y = layers.Activation("swish")(layers.BatchNormalization()(y))
        y = layers.Dropout(0.5, noise_shape=(None, 1, 1, 1))(y)
        x = layers.Add()([x, y]) if block else y
    embedder = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    bag = keras.Input((None, 8, 8, 3))
    x = layers.GlobalMaxPooling1D()(EachTile(embedder, remat=remat)(bag))
    network = keras.Model(bag, layers.Dense(2, activation="softmax")(x))
    before = [np.array(v, "f8") for v in network.variables]
    network.compile(keras.optimizers.SGD(0.5), "categorical_crossentropy", jit_compile=JIT)
    tiles = np.random.default_rng(0).normal(0, 1, (2, 5, 8, 8, 3)).astype("f4")
    network.train_on_batch(tiles, np.eye(2, dtype="f4"))
    after = [np.array(v, "f8") for v in network.variables[:len(before)]]
    paths = [v.path.rpartition("/")[2] for v in network.variables[:len(before)]]
    moved = {p: 0 for p in paths} | {p: np.abs(a - b).max() for p, a, b in zip(paths, before, after)}
    return after, min(moved.values()), len(split(embedder))

(plain, moved, parts), (again, _, _) = trained(False), trained(True)
print(max(np.abs(a - b).max() for a, b in zip(plain, again)) < 1e-5, moved > 1e-4, parts > 1)
"""


@pytest.mark.parametrize(("backend", "jit"), [("tensorflow", False), ("jax", True)])
def test_recomputing_changes_no_gradient_and_no_statistic(backend, jit):
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    assert run_on(backend, DESCENT.replace("JIT", str(jit))) == "True True True"


def test_a_network_is_cut_where_one_tensor_passes():
    from digipath.nn.checkpointing import split
    from digipath.nn.mil import parts

    embedder = parts(built(patch=64)).embedder
    cut = split(embedder)
    assert len(cut) > 1
    x = tiles = np.random.default_rng(0).normal(0, 1, (2, 64, 64, 3)).astype(np.float32)
    for part in cut:
        x = np.asarray(part(x, training=False))
    np.testing.assert_allclose(x, np.asarray(embedder(tiles, training=False)), atol=1e-6)
    assert sum(len(part.weights) for part in cut) == len(embedder.weights)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_on_jax(pooling):
    pytest.importorskip("jax", reason="JAX is not installed")
    script = (
        "import numpy as np\n"
        "from digipath.nn import build\n"
        f"network = build('mil', pooling={pooling!r}, **{SMALL!r})\n"
        "print([network.predict(np.zeros((1, n, 32, 32, 3), 'f4'), verbose=0).shape for n in (1, 3)])\n"
    )
    assert run_on("jax", script) == "[(1, 3), (1, 3)]"


def test_parts_of_another_network_are_refused():
    from digipath.nn import build
    from digipath.nn.mil import parts

    with pytest.raises(BadInput, match="expected a bag classifier, got the network 'resnet18'"):
        parts(build("resnet18", widths=(4, 4, 4, 4)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"embedder": "vgg"}, "an embedder among densenet121, efficientnet-b0, resnet18, got 'vgg'"),
        ({"embedder_config": {"depth": 3}}, "network 'resnet18' has no setting depth"),
        ({"embedder_config": {"patch": 64}}, "an embedder_config without patch"),
        ({"pooling": "mean"}, "a pooling among max-mean, gated-attention"),
        ({"attention_units": 0}, "at least one attention unit"),
        ({"dropout": 1.0}, "dropout in"),
        ({"classes": 1}, "always 1"),
        ({"patch": 16}, "at least 32 px"),
        ({"patch": None, "remat": True}, r"a patch \(px\) with remat=True"),
    ],
)
def test_settings_out_of_range(config, message):
    with pytest.raises(BadInput, match=message):
        built(**config)
