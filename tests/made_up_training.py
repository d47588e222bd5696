"""Made-up patches and a network of three layers to train on them; as a script, a training in its own process.

    python made_up_training.py FOLDER ["{'epochs': 3}" of the schedule]

Environment: NETWORK (unet-small or tiny), PAUSE_SECONDS between batches, DEVICES to share a batch.
"""

from __future__ import annotations

import ast
import os
import sys
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers

from digipath import nn
from digipath.training.fit import Fitted, fit
from digipath.training.schedule import Schedule

SIDE = 16
SEEN_LATER = 10**6  # patches from here on are for validation


def tiny(*, classes=1, dropout=0.3):
    """Encoder, normalisation, dropout and head: what there is to freeze, settle, seed and average."""
    image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="stem_conv")(image)
    x = layers.BatchNormalization(momentum=0.9, name="stem_norm")(x)
    x = layers.Activation("relu", name="stem_relu")(x)
    x = layers.Dropout(dropout, name="head_dropout")(x)
    x = layers.Conv2D(classes, 1, name="head_conv")(x)
    activation = "softmax" if classes > 1 else "sigmoid"
    return keras.Model(image, layers.Activation(activation, dtype="float32", name="probability")(x))


def patch(index: int):
    """Noise with its brighter pixels as truth: (16, 16, 3) and (16, 16, 1)."""
    image = np.random.default_rng([7, index]).normal(size=(SIDE, SIDE, 3)).astype(np.float32)
    return image, (image.mean(axis=-1, keepdims=True) > 0.2).astype(np.float32)


class Patches(keras.utils.PyDataset):
    """Batches of `patch` from `first` on: `count` patches in all, or without end."""

    def __init__(self, first=0, count=None, batch=4, make=patch):
        super().__init__()
        self.first, self.count, self.batch, self.make = first, count, batch, make

    @property
    def num_batches(self):
        return None if self.count is None else -(-self.count // self.batch)

    def __getitem__(self, index):
        begin = index * self.batch
        end = begin + self.batch if self.count is None else min(begin + self.batch, self.count)
        images, truths = zip(*(self.make(self.first + one) for one in range(begin, end)), strict=True)
        return np.stack(images), np.stack(truths)


def held_out():
    """Nine patches: the last batch holds one."""
    return Patches(SEEN_LATER, 9)


def stream(first):
    """The training patches, through tf.data where that is the backend's own."""
    patches = Patches(first)
    if keras.backend.backend() != "tensorflow":
        return patches
    import tensorflow as tf

    shapes = ((4, SIDE, SIDE, 3), (4, SIDE, SIDE, 1))
    signature = tuple(tf.TensorSpec(shape, tf.float32) for shape in shapes)
    return tf.data.Dataset.from_generator(
        lambda: (patches[index] for index in range(10**9)), output_signature=signature
    ).prefetch(2)


def schedule(**changes) -> Schedule:
    return Schedule(**{"epochs": 3, "steps_per_epoch": 3, "batch": 4, "frozen_epochs": 1, **changes})


def as_it_is(network):
    """An encoder to begin with: the one that is there."""


def numbers(fitted: Fitted) -> list[dict]:
    """The history without what a clock says."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in fitted.history]


NETWORKS = {
    "unet-small": {"widths": [4, 8], "shrink": 1, "output_stride": 2, "dropout": 0.3},
    "tiny": {"dropout": float(os.environ.get("DROPOUT", "0.3"))},
}


def pretend_devices(count: int) -> None:
    """Let the processor pass for so many GPUs."""
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_num_cpu_devices", count)
    else:
        import tensorflow as tf

        parts = [tf.config.LogicalDeviceConfiguration()] * count
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
        devices = tf.config.list_logical_devices("CPU")
        tf.config.list_logical_devices = lambda kind: devices if kind == "GPU" else []


def main() -> None:
    settings = {"epochs": 4, "averaging": 0.8, "settle_batches": 2, "learning_rate": 0.01}
    settings |= ast.literal_eval(sys.argv[2]) if len(sys.argv) > 2 else {}
    nn.BUILDERS["tiny"] = tiny
    name = os.environ.get("NETWORK", "unet-small")
    if "DEVICES" in os.environ:
        pretend_devices(int(os.environ["DEVICES"]))
    pause = float(os.environ.get("PAUSE_SECONDS", "0"))
    fitted = fit(
        {"name": name, "config": NETWORKS[name]},
        stream,
        held_out,
        schedule(**settings),
        Path(sys.argv[1]),
        seed=5,
        encoder=as_it_is,
        progress=lambda report: time.sleep(pause),
    )
    print(numbers(fitted))


if __name__ == "__main__":
    main()
