"""Does `load_legacy` read DigiPathAI's networks rightly? Asked of DigiPathAI itself; not part of pytest.

    python tests/published/check_digipathai_import.py FOLDER

The nine published files cannot be had everywhere, but the program that wrote them can: PyPI's DigiPathAI
0.1.5. In FOLDER this makes a virtual environment with `tf-keras`, downloads that package beside it, and
there builds its three networks with random weights and random batch statistics, saves them in both layouts
(`save_weights` and `model.save`) and notes what they answer to random images. Then it loads the files into
our networks and compares. Exit code 1 if any probability differs by more than 1e-4. Takes some minutes
and 3 GB on two cores; FOLDER can be deleted afterwards.

None of DigiPathAI's code is in this repository. It wants TensorFlow 1, so `AS_THEN` below lends it modules
of that name, and empty ones for what its networks do not need.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np

TOLERANCE = 1e-4
SIDE = 256  # px
PARAMETERS = {"densenet": 17_451_138, "inception": 65_893_154, "deeplabv3": 41_253_330}
OURS = {
    "densenet": ("unet-digipathai", {"backbone": "densenet121"}),
    "inception": ("unet-digipathai", {"backbone": "inceptionresnetv2"}),
    "deeplabv3": (
        "deeplabv3plus",
        {"backbone": "xception", "classes": 2, "activation": "softmax", "align_corners": True},
    ),
}

# Runs in the other environment: python -c AS_THEN FOLDER SIDE
AS_THEN = r'''
import pathlib, sys, types
from unittest import mock
import numpy as np
import tensorflow as tf
import tf_keras

folder, side = pathlib.Path(sys.argv[1]), int(sys.argv[2])
for name in ("imgaug", "imgaug.augmenters", "PIL", "tqdm", "matplotlib", "matplotlib.pyplot"):
    sys.modules[name] = mock.MagicMock()
for name, module in {
    "": tf_keras, ".models": tf_keras.models, ".layers": tf_keras.layers, ".backend": tf_keras.backend,
    ".activations": tf_keras.activations, ".utils": tf_keras.utils, ".utils.layer_utils": tf_keras.utils,
    ".utils.data_utils": tf_keras.utils, ".applications": tf_keras.applications,
    ".applications.imagenet_utils": tf_keras.applications.imagenet_utils,
    ".losses": tf_keras.losses, ".optimizers": tf_keras.optimizers, ".callbacks": tf_keras.callbacks,
}.items():
    sys.modules["tensorflow.python.keras" + name] = sys.modules["tensorflow.keras" + name] = module
sys.modules["tensorflow.keras"].metrics = tf_keras.metrics
tf.__dict__["keras"] = tf_keras
package = types.ModuleType("DigiPathAI")  # without its own __init__, which starts a server
package.__path__ = [str(folder / "source" / "DigiPathAI")]
sys.modules["DigiPathAI"] = package
from DigiPathAI.models.densenet import unet_densenet121
from DigiPathAI.models.inception import get_inception_resnet_v2_unet_softmax
from DigiPathAI.models.deeplabv3 import Deeplabv3

rng = np.random.default_rng(0)
images = rng.integers(0, 256, (2, side, side, 3)).astype(np.float32)
images[1] = np.kron(rng.uniform(0, 255, (side // 32, side // 32, 3)), np.ones((32, 32, 1)))
scaled = ((images - 128) / 128).astype(np.float32)


def random_weights(network):
    """Kernels as Keras draws them; every norm gets its own scale, shift and statistics of what it sees."""
    for layer in network.layers:
        for weight in layer.weights:
            kind, shape = weight.name.split("/")[-1].split(":")[0], weight.shape
            if kind == "gamma":
                weight.assign(rng.uniform(0.5, 1.5, shape))
            elif kind in ("beta", "bias"):
                weight.assign(rng.normal(0, 0.2, shape))
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            layer.momentum = 0.0  # statistics of one batch ...
    network(scaled, training=True)
    for layer in network.layers:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            layer.momentum = 0.99
            layer.moving_mean.assign_add(rng.normal(0, 0.1, layer.moving_mean.shape))  # ... and not quite
            layer.moving_variance.assign(
                (layer.moving_variance + 0.01) * rng.uniform(0.7, 1.4, layer.moving_variance.shape)
            )
    head = [layer for layer in network.layers if isinstance(layer, tf_keras.layers.Conv2D)][-1]
    features = tf_keras.Model(network.inputs, head.input).predict(scaled, verbose=0)
    logits = features @ head.kernel.numpy()[0, 0]
    spread = (logits - logits.mean((0, 1, 2))).std()
    head.kernel.assign(head.kernel / spread)  # probabilities all over [0, 1]
    head.bias.assign(-logits.mean((0, 1, 2)) / spread)


networks = {
    "densenet": unet_densenet121((None, None), weights=None),
    "inception": get_inception_resnet_v2_unet_softmax((None, None), weights=None),
    "deeplabv3": Deeplabv3(
        input_shape=(side, side, 3), classes=2, backbone="xception", weights="pascal_voc", OS=16, activation="softmax"
    ),
}
answers = {"images": images}
for name, network in networks.items():
    random_weights(network)
    network.save_weights(folder / f"{name}.h5")
    network.save(folder / f"{name}-model.h5")
    answers[name] = network.predict(scaled, batch_size=1, verbose=0)
    answers[name + " parameters"] = network.count_params()
np.savez(folder / "answers.npz", **answers)
'''


def prepare(folder: Path) -> None:
    """The environment, the package and what its networks answer, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "venv" / "bin" / "python"
    if not python.exists():
        venv.create(folder / "venv", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "tf-keras", "tensorflow-cpu"], check=True)
    download = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, "DigiPathAI==0.1.5"]
    subprocess.run(download, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "source")
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    subprocess.run([python, "-c", AS_THEN, folder, str(SIDE)], env=environment, check=True)


def compare(folder: Path) -> bool:
    """Load each file into our network, print how far its answers are from DigiPathAI's."""
    from digipath.nn import build
    from digipath.nn.pretrained import load_legacy

    fine = True
    with np.load(folder / "answers.npz") as answers:
        scaled = (answers["images"] - 128) / 128
        for name, (builder, config) in OURS.items():
            theirs = answers[name]
            for layout in ("", "-model"):
                network = build(builder, **config)
                arrays = load_legacy(network, folder / f"{name}{layout}.h5")
                ours = np.concatenate([np.asarray(network(image[None], training=False)) for image in scaled])
                worst = float(np.abs(ours - theirs).max())
                counts = {network.count_params(), int(answers[f"{name} parameters"]), PARAMETERS[name]}
                print(
                    f"{name}{layout}.h5: {arrays} arrays, {' / '.join(f'{n:,}' for n in sorted(counts))} parameters, "
                    f"probabilities {theirs.min():.3f} to {theirs.max():.3f} (sd {theirs[..., 1].std():.3f}), "
                    f"largest difference {worst:.1e}"
                )
                fine &= worst <= TOLERANCE and len(counts) == 1
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the environment, the package and the files; 3 GB")
    folder = parser.parse_args().folder.resolve()
    if not (folder / "answers.npz").exists():
        prepare(folder)
    return 0 if compare(folder) else 1


if __name__ == "__main__":
    sys.exit(main())
