"""DeepLabV3+: published sizes and names, atrous rates, strides, free sides, resizing, both tested backends."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from digipath.errors import BadInput

pytestmark = pytest.mark.keras

SMALL = {"aspp_filters": 16, "low_level_filters": 8, "decoder_filters": 16}
BACKBONES = {
    "efficientnet-lite0": {**SMALL, "output_stride": 8},
    "mobilenetv2": {**SMALL, "alpha": 0.25},
    "xception": {**SMALL, "alpha": 0.05},
}


def small(backbone: str, **config: object):
    from digipath.nn import build

    return build("deeplabv3plus", backbone=backbone, **{**BACKBONES[backbone], **config})


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def settled(backbone: str, **config: object):
    """A network whose norms know the statistics of their input, so that its output follows the image."""
    network = small(backbone, momentum=0.0, **config)
    network(noise(4, 96, 96, 3), training=True)
    return network


def rates(network, *prefixes: str) -> list[int]:
    return [network.get_layer(f"{prefix}_depthwise").dilation_rate[0] for prefix in prefixes]


@pytest.fixture(scope="module")
def digipathai():
    """DigiPathAI's network; that of the Pascal VOC file has 21 classes and differs in its head only."""
    from digipath.nn import build

    return build("deeplabv3plus", backbone="xception", classes=2, activation="softmax")


def test_published_number_of_parameters(digipathai):
    assert digipathai.count_params() == 41_253_330
    assert digipathai.get_layer("custom_logits_semantic").count_params() == 257 * 2


def test_names_and_shapes_of_published_layers(digipathai):
    shapes = {layer.name: tuple(layer.weights[0].shape) for layer in digipathai.layers if layer.weights}
    separable = 2 * (21 * 3 + 3 + 2)  # in 21 blocks, the pyramid and the decoder
    plain = 2 + 4 + 4  # stem, shortcuts, 1 × 1 behind the encoder
    assert len(shapes) == 2 * (separable + plain) + 1  # each with its norm, and the head
    published = {
        "entry_flow_conv1_1": (3, 3, 3, 32),
        "entry_flow_conv1_2_BN": (64,),
        "entry_flow_block1_shortcut": (1, 1, 64, 128),
        "entry_flow_block2_separable_conv2_pointwise": (1, 1, 256, 256),
        "entry_flow_block3_separable_conv3_depthwise": (3, 3, 728, 1),
        "middle_flow_unit_16_separable_conv3_pointwise_BN": (728,),
        "exit_flow_block1_shortcut_BN": (1024,),
        "exit_flow_block2_separable_conv3_pointwise": (1, 1, 1536, 2048),
        "image_pooling": (1, 1, 2048, 256),
        "aspp0": (1, 1, 2048, 256),
        "aspp3_depthwise_BN": (2048,),
        "concat_projection": (1, 1, 1280, 256),
        "feature_projection0": (1, 1, 256, 48),
        "decoder_conv0_depthwise": (3, 3, 304, 1),
        "decoder_conv1_pointwise_BN": (256,),
        "custom_logits_semantic": (1, 1, 256, 2),
    }
    assert {name: shapes[name] for name in published} == published


def test_norms_divide_as_published(digipathai):
    epsilons = {layer.name: layer.epsilon for layer in digipathai.layers if layer.name.endswith("_BN")}
    encoder = {value for name, value in epsilons.items() if "_flow_" in name}
    behind = {value for name, value in epsilons.items() if "_flow_" not in name}
    assert (encoder, behind) == ({1e-3}, {1e-5})


@pytest.mark.slow
def test_pascal_voc():
    from digipath.nn import build

    network = build("deeplabv3plus", classes=21, activation="softmax", output_stride=8, patch=512)
    assert network.count_params() == 41_258_213
    assert network.output_shape == (None, 512, 512, 21)
    assert network.get_layer("aspp0").output.shape == (None, 64, 64, 256)
    assert network.get_layer("logits_semantic").output.shape == (None, 128, 128, 21)


def test_a_demonstration_network_is_a_few_megabytes():
    from digipath.nn import build

    reduced = {"alpha": 0.35, "aspp_filters": 64, "low_level_filters": 16, "decoder_filters": 64}
    assert build("deeplabv3plus", backbone="mobilenetv2", **reduced).count_params() == 336_449  # 1.3 MB


@pytest.mark.parametrize(
    ("output_stride", "aspp", "middle", "exits"),
    [
        (8, [12, 24, 36], 2, [2, 4]),
        pytest.param(16, [6, 12, 18], 1, [1, 2], marks=pytest.mark.slow),
        pytest.param(32, [3, 6, 9], 1, [1, 1], marks=pytest.mark.slow),
    ],
)
def test_xception_rates(output_stride, aspp, middle, exits):
    network = small("xception", output_stride=output_stride, patch=64)
    assert rates(network, "aspp1", "aspp2", "aspp3") == aspp
    assert rates(network, "entry_flow_block3_separable_conv3") == [1]
    assert set(rates(network, *(f"middle_flow_unit_{n}_separable_conv2" for n in range(1, 17)))) == {middle}
    assert rates(network, *(f"exit_flow_block{n}_separable_conv3" for n in (1, 2))) == exits
    assert network.get_layer("aspp0").output.shape[1:3] == (64 // output_stride, 64 // output_stride)
    assert network.get_layer("decoder_concat").output.shape[1:3] == (16, 16)


@pytest.mark.parametrize(
    ("output_stride", "expected"),
    [
        pytest.param(8, [1] * 7 + [2] * 7 + [4] * 3, marks=pytest.mark.slow),
        (16, [1] * 14 + [2] * 3),
        pytest.param(32, [1] * 17, marks=pytest.mark.slow),
    ],
)
def test_mobilenet_rates(output_stride, expected):
    network = small("mobilenetv2", output_stride=output_stride, patch=64)
    blocks = ["expanded_conv", *(f"expanded_conv_{n}" for n in range(1, 17))]
    assert rates(network, *blocks) == expected
    assert network.get_layer("aspp0").output.shape[1:3] == (64 // output_stride, 64 // output_stride)


FILTERS = {"mobilenetv2": [96, 144, 192, 576, 320], "xception": [128, 256, 728, 1024, 2048]}


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("backbone", FILTERS)
def test_encoders_give_features_of_every_stride(backbone, output_stride):
    import keras

    from digipath.nn.deeplabv3plus import BACKBONES

    image = keras.Input((64, 96, 3), name="image")
    features = BACKBONES[backbone](image, output_stride=output_stride, alpha=1.0, momentum=0.99)
    filters = FILTERS[backbone]
    shallow = {2 ** (k + 1): filters[k] for k in range(5) if 2 ** (k + 1) < output_stride}
    expected = {**shallow, output_stride: filters[-1]}
    assert {s: x.shape for s, x in features.items()} == {
        s: (None, 64 // s, 96 // s, channels) for s, channels in expected.items()
    }


@pytest.mark.parametrize(
    ("backbone", "align_corners"),
    [
        ("efficientnet-lite0", True),
        pytest.param("mobilenetv2", False, marks=pytest.mark.slow),
        pytest.param("xception", False, marks=pytest.mark.slow),
        pytest.param("xception", True, marks=pytest.mark.slow),
    ],
)
def test_free_sides_give_what_fixed_ones_do(backbone, align_corners):
    config = {"classes": 2, "activation": "softmax", "align_corners": align_corners}
    free, fixed = settled(backbone, **config), small(backbone, **config, patch=96)
    assert free.output_shape == (None, None, None, 2)
    assert fixed.output_shape == (None, 96, 96, 2)
    fixed.set_weights(free.get_weights())
    image = noise(5, 96, 96, 3)[4:]
    probability = np.asarray(free(image, training=False))
    assert probability.std() > 0.01  # else any network would agree with any
    np.testing.assert_allclose(np.asarray(fixed(image, training=False)), probability, atol=1e-6)
    np.testing.assert_allclose(probability.sum(axis=-1), 1, atol=1e-6)


def test_sides_may_differ_within_one_traced_function():
    network = small("efficientnet-lite0")
    for height, width in ((64, 32), (32, 96)):
        probability = network.predict(noise(2, height, width, 3), verbose=0)
        assert probability.shape == (2, height, width, 1)
        assert ((probability >= 0) & (probability <= 1)).all()


@pytest.mark.parametrize(
    "backbone", ["efficientnet-lite0", "mobilenetv2", pytest.param("xception", marks=pytest.mark.slow)]
)
def test_the_encoder_is_the_backbone(backbone):
    import keras

    from digipath.nn.deeplabv3plus import BACKBONES as ENCODERS
    from digipath.nn.encoder import encoder_layers

    config = {"output_stride": 16, "alpha": 1.0, **BACKBONES[backbone]}
    image = keras.Input((None, None, 3))
    settings = {"output_stride": config["output_stride"], "alpha": config["alpha"], "momentum": 0.99}
    features = ENCODERS[backbone](image, **settings)
    alone = keras.Model(image, features[config["output_stride"]])
    found = encoder_layers(small(backbone))
    assert [layer.name for layer in found] == [layer.name for layer in alone.layers if layer.weights]


def test_every_weight_learns():
    import tensorflow as tf

    network = small("mobilenetv2", momentum=0.8)
    assert {layer.momentum for layer in network.layers if layer.name.endswith("_BN")} == {0.8}
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(network(noise(2, 64, 64, 3), training=True) ** 2)
    gradients = tape.gradient(loss, network.trainable_variables)
    assert len(gradients) == len(network.trainable_variables) > 150
    assert all(gradient is not None and np.isfinite(gradient).all() for gradient in gradients)
    assert sum(bool(np.any(gradient)) for gradient in gradients) > 0.9 * len(gradients)


class TestUpSampling:
    def test_known_values(self):
        from digipath.nn.deeplab_layers import BilinearUpSampling

        row = np.array([0, 3], np.float32).reshape(1, 1, 2, 1)  # one row of two pixels
        for align_corners, expected in ((False, [0, 0.75, 2.25, 3]), (True, [0, 1, 2, 3])):
            enlarged = np.asarray(BilinearUpSampling(2, align_corners=align_corners)(row))
            np.testing.assert_allclose(enlarged[0, :, :, 0], [expected, expected], atol=1e-6)

    @pytest.mark.parametrize("factor", [2, 4, 8])
    def test_default_is_that_of_keras(self, factor):
        import keras

        from digipath.nn.deeplab_layers import BilinearUpSampling

        image = noise(2, 5, 7, 3)
        expected = np.asarray(keras.layers.UpSampling2D(factor, interpolation="bilinear")(image))
        np.testing.assert_allclose(np.asarray(BilinearUpSampling(factor)(image)), expected, atol=2e-6)

    @pytest.mark.parametrize("factor", [2, 4, 8])
    def test_aligned_corners_are_those_of_tensorflow(self, factor):
        import tensorflow as tf

        from digipath.nn.deeplab_layers import BilinearUpSampling

        image = noise(2, 5, 7, 3)
        expected = tf.compat.v1.image.resize_bilinear(image, (5 * factor, 7 * factor), align_corners=True)
        aligned = np.asarray(BilinearUpSampling(factor, align_corners=True)(image))
        np.testing.assert_allclose(aligned, expected.numpy(), atol=2e-6)

    @pytest.mark.parametrize("align_corners", [False, True])
    def test_one_pixel_fills_everything(self, align_corners):
        from digipath.nn.deeplab_layers import BilinearUpSampling

        enlarged = BilinearUpSampling(4, align_corners=align_corners)(np.full((1, 1, 1, 2), 7, np.float32))
        np.testing.assert_array_equal(np.asarray(enlarged), np.full((1, 4, 4, 2), 7, np.float32))


    def test_it_comes_back_from_a_saved_model(self, tmp_path):
        import keras

        from digipath.nn.deeplab_layers import BilinearUpSampling

        network = keras.Sequential([keras.Input((5, 7, 3)), BilinearUpSampling(2, align_corners=True)])
        network.save(tmp_path / "network.keras")
        again = keras.models.load_model(tmp_path / "network.keras")
        np.testing.assert_array_equal(np.asarray(again(noise(2, 5, 7, 3))), np.asarray(network(noise(2, 5, 7, 3))))


def test_widths_are_multiples_of_eight():
    from digipath.nn.deeplab_layers import scaled

    assert [scaled(n, 1.0) for n in (16, 48, 728)] == [16, 48, 728]
    assert [scaled(n, 0.35) for n in (16, 24, 32, 96, 320)] == [8, 8, 16, 32, 112]
    assert scaled(24, 0.75) == 24  # 18 would become 16, less than 90 % of it


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"backbone": "resnet50"}, "among efficientnet-lite0, mobilenetv2, xception, got 'resnet50'"),
        ({"output_stride": 4}, r"output stride among \(8, 16, 32\), got 4"),
        ({"backbone": "efficientnet-lite0", "output_stride": 4}, "8, 16, 32"),
        ({"backbone": "efficientnet-lite0", "alpha": 0.5}, "alpha=1, got 0.5"),
        ({"alpha": 0}, "positive alpha, got 0"),
        ({"patch": 100}, "multiple of 32 px, got 100"),
        ({"decoder_filters": 0}, "got 256, 48, 0"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\), got 1"),
        ({"momentum": 1.5}, r"momentum in \[0, 1\), got 1.5"),
        ({"classes": 1, "activation": "softmax"}, "always 1"),
        ({"widths": (8, 8)}, "has no setting widths; it has activation, align_corners, alpha"),
    ],
)
def test_settings_out_of_range(config, message):
    from digipath.nn import build

    with pytest.raises(BadInput, match=message):
        build("deeplabv3plus", **config)


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "align_corners"), list(zip(BACKBONES, (False, True, True), strict=True)))
def test_jax_computes_the_same(backbone, align_corners, tmp_path):
    pytest.importorskip("jax", reason="JAX is not installed")
    network = settled(backbone, align_corners=align_corners)
    network.save_weights(tmp_path / "network.weights.h5")
    image = noise(5, 64, 96, 3)[4:]
    np.save(tmp_path / "image.npy", image)
    script = (
        "import sys, numpy as np, keras\n"
        "from digipath.nn import build\n"
        "assert keras.backend.backend() == 'jax'\n"
        f"config = { ({**BACKBONES[backbone], 'align_corners': align_corners})!r}\n"
        f"network = build('deeplabv3plus', backbone={backbone!r}, **config)\n"
        "network.load_weights('network.weights.h5')\n"
        "np.save('jax.npy', network.predict(np.load('image.npy'), verbose=0))\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    # JAX compiles the network: with little optimisation, since it runs once.
    environment = {**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = np.asarray(network(image, training=False))
    assert expected.std() > 0.01
    np.testing.assert_allclose(np.load(tmp_path / "jax.npy"), expected, atol=1e-4)


def test_without_image_pooling_a_cell_knows_its_neighbourhood_only():
    """What lies far away changes nothing then; with it, it does."""
    import keras

    from digipath.nn import build

    config = {"backbone": "mobilenetv2", "alpha": 0.35, "aspp_filters": 8, "decoder_filters": 8, "rates": [1, 2]}
    image = np.random.default_rng(0).uniform(-1, 1, (1, 1024, 64, 3)).astype(np.float32)
    other = image.copy()
    other[:, 960:] = 0.5
    for pooled in (False, True):
        keras.utils.set_random_seed(1)  # with some weights no channel of the pooling is above zero
        network = build("deeplabv3plus", **config, image_pooling=pooled, activation="linear")
        assert {layer.name for layer in network.layers} >= {"aspp1_depthwise", "aspp2_depthwise"}
        assert "aspp3_depthwise" not in {layer.name for layer in network.layers}
        # The pyramid itself: with random weights its share in the logits is lost in rounding.
        pyramid = keras.Model(network.input, network.get_layer("concat_projection").output)
        near, far = (np.asarray(pyramid(x, training=False))[0, :4] for x in (image, other))
        assert np.array_equal(near, far) is not pooled
    with pytest.raises(BadInput, match="at least one positive rate"):
        build("deeplabv3plus", backbone="mobilenetv2", rates=[])
