"""Networks by name: shapes, parameter counts, and both tested backends."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from digipath.errors import BadInput

pytestmark = pytest.mark.keras

# Trainable and fixed parameters of each U-Net with one class.
PARAMETERS = {
    "densenet121": 13_693_265,
    "efficientnetb0": 10_115_501,
    "inceptionresnetv2": 62_061_553,
    "mobilenetv2": 8_047_441,
    "resnet18": 14_340_570,
    "resnet50": 32_561_114,
    "xception": 29_443_385,
}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", PARAMETERS)
def test_unet_on_every_backbone(backbone):
    from digipath.nn import build

    network = build("unet", backbone=backbone, classes=1)
    assert network.count_params() == PARAMETERS[backbone]
    probability = np.asarray(network(noise(2, 64, 96, 3), training=False))
    assert probability.shape == (2, 64, 96, 1)
    assert ((probability >= 0) & (probability <= 1)).all()
    assert np.asarray(network(noise(2, 64, 64, 3), training=True)).shape == (2, 64, 64, 1)


def test_the_backbones_are_those_tested():
    from digipath.nn.unet import BACKBONES

    assert set(BACKBONES) == set(PARAMETERS)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", PARAMETERS)
def test_unet_on_jax(backbone):
    pytest.importorskip("jax", reason="JAX is not installed")
    script = (
        "import sys, numpy as np, keras\n"
        "from digipath.nn import build\n"
        "assert keras.backend.backend() == 'jax'\n"
        f"network = build('unet', backbone={backbone!r}, classes=2, activation='softmax', patch=96)\n"
        "probability = network.predict(np.zeros((1, 96, 96, 3), 'float32'), verbose=0)\n"
        "assert 'tensorflow' not in sys.modules\n"
        "print(probability.shape, np.allclose(probability.sum(-1), 1, atol=1e-5))\n"
    )
    assert run_on("jax", script) == "(1, 96, 96, 2) True"


def test_small_unet_on_jax():
    pytest.importorskip("jax", reason="JAX is not installed")
    script = (
        "import numpy as np\n"
        "from digipath.nn import build\n"
        "print(build('unet-small').predict(np.zeros((1, 64, 96, 3), 'float32'), verbose=0).shape)\n"
    )
    assert run_on("jax", script) == "(1, 64, 96, 1)"


def run_on(backend: str, script: str) -> str:
    """The last line that `script` prints in a process whose Keras uses `backend`."""
    # JAX compiles each network: with little optimisation, since it runs once.
    options = {"KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    environment = {**os.environ, **options}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_unet_decoder_is_configurable():
    from digipath.nn import build

    decoder = {"decoder_filters": [8, 8, 8, 8, 4], "interpolation": "nearest"}
    network = build("unet", backbone="resnet18", patch=64, **decoder)
    assert network.input_shape == (None, 64, 64, 3)
    assert network.get_layer("decoder_stage4a_conv").filters == 4
    assert network.get_layer("decoder_stage0_upsampling").interpolation == "nearest"


def test_unet_upsamples_bilinearly_by_default():
    from digipath.nn import build

    network = build("unet", backbone="resnet18")
    assert network.get_layer("decoder_stage0_upsampling").interpolation == "bilinear"


def test_importing_and_building_leave_the_process_as_it_was():
    script = (
        "import os\n"
        "before = dict(os.environ)\n"
        "import keras\n"
        "after_keras = dict(os.environ)\n"
        "import digipath.nn\n"
        "assert dict(os.environ) == after_keras\n"
        "digipath.nn.build('unet', backbone='resnet18')\n"
        "assert dict(os.environ) == after_keras\n"
        "assert all(name.startswith('digipath>') for name in keras.saving.get_custom_objects())\n"
        "assert not hasattr(keras.utils, 'generic_utils')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_small_unet_shapes_and_size():
    from digipath.nn import build

    network = build("unet-small", classes=3, activation="softmax")
    probability = np.asarray(network(noise(2, 64, 96, 3), training=False))
    assert probability.shape == (2, 64, 96, 3)
    np.testing.assert_allclose(probability.sum(axis=-1), 1, atol=1e-5)
    assert network.count_params() == 524_019


def test_small_unet_decodes_to_the_output_stride():
    from digipath.nn import build

    for shrink, side in ((1, 64 // 4), (2, 64 // 4), (4, 64 // 8)):
        stride = 64 // side
        network = build("unet-small", shrink=shrink, widths=(4, 6, 8), output_stride=stride, patch=64)
        assert network.get_layer("head_conv").output.shape == (None, side, side, 1)


def test_networks_of_one_config_take_each_others_weights(tmp_path):
    from digipath.nn import build

    first, second = (build("unet-small", widths=(8, 12, 16)) for _ in range(2))
    first.save_weights(tmp_path / "first.weights.h5")
    second.load_weights(tmp_path / "first.weights.h5")
    image = noise(1, 32, 32, 3)
    np.testing.assert_array_equal(np.asarray(first(image)), np.asarray(second(image)))


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("unet++", {}, "among alexnet, deeplabv3plus, densenet121, .*, unet-digipathai, unet-small, got 'unet"),
        ("unet", {"widths": (8, 8)}, "has no setting widths; it has"),
        ("unet", {"backbone": "vgg16"}, "backbone among densenet121"),
        ("unet", {"backbone": "resnet18", "patch": 100}, "multiple of 32 px, got 100"),
        ("unet", {"classes": 0}, "at least one class"),
        ("unet", {"classes": 1, "activation": "softmax"}, "always 1"),
        ("unet", {"activation": "relu"}, "activation among"),
        ("unet", {"interpolation": "cubic"}, "'bilinear' or 'nearest'"),
        ("unet", {"decoder_filters": (8, 8)}, "five positive"),
        ("unet", {"input_channels": 0}, "at least one input channel"),
        ("unet", {"backbone": "xception", "patch": 64}, "at least 96 px for the backbone xception, got 64"),
        ("unet-digipathai", {"backbone": "resnet18"}, "among densenet121, inceptionresnetv2, got 'resnet18'"),
        ("unet-digipathai", {"decoder_filters": (8, 8)}, "five positive"),
        ("unet-digipathai", {"classes": 1}, "always 1"),
        ("unet-digipathai", {"patch": 100}, "multiple of 32 px, got 100"),
        ("unet-small", {"output_stride": 3}, "output stride among"),
        ("unet-small", {"output_stride": 64}, "output stride among"),
        ("unet-small", {"shrink": 0}, "shrink of at least 1"),
        ("unet-small", {"widths": (8,)}, "two positive widths"),
        ("unet-small", {"dropout": 1.0}, "dropout in"),
        ("unet-small", {"patch": 48}, "multiple of 32 px, got 48"),
    ],
)
def test_settings_out_of_range(name, config, message):
    from digipath.nn import build

    with pytest.raises(BadInput, match=message):
        build(name, **config)
