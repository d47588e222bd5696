"""Keras' side of a training: network, optimiser, devices, and batches of either kind of dataset."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from digipath.errors import BadInput
from digipath.nn import build
from digipath.training.schedule import Schedule

Dataset = Any  # batches of (samples, truths): a tf.data.Dataset or a keras.utils.PyDataset
Arrays = tuple[NDArray[Any], ...]


def new_network(spec: Mapping[str, Any], *, mixed_precision: bool) -> keras.Model:
    """The network of `spec`, {"name": …, "config": {…}}, with random weights; it answers in float32."""
    before = keras.config.dtype_policy()
    try:
        if mixed_precision:
            keras.config.set_dtype_policy("mixed_bfloat16")
        network = build(spec["name"], **spec["config"])
    finally:
        keras.config.set_dtype_policy(before)
    # Next to 1, bfloat16 knows no probability between 0.996 and 1: cross-entropy needs more.
    network.layers[-1].dtype_policy = keras.DTypePolicy("float32")
    return network


def new_optimiser(schedule: Schedule, rates: NDArray[np.float64]) -> keras.optimizers.Optimizer:
    """Adam, AdamW or gradient descent with a learning rate for each step from its first on."""
    settings = {
        "learning_rate": _Rates(rates),
        "global_clipnorm": schedule.clip_norm,
        "use_ema": schedule.averaging is not None,
        "ema_momentum": schedule.averaging or 0.0,
    }
    if schedule.optimiser == "adamw":
        return keras.optimizers.AdamW(weight_decay=schedule.weight_decay, **settings)
    if schedule.optimiser == "sgd":
        return keras.optimizers.SGD(momentum=schedule.momentum, **settings)
    return keras.optimizers.Adam(**settings)


class _Rates(keras.optimizers.schedules.LearningRateSchedule):
    """A table of learning rates."""

    def __init__(self, rates: NDArray[np.float64]) -> None:
        self.rates = rates.astype(np.float32)

    def __call__(self, step: Any) -> Any:  # noqa: ANN401 - a tensor of the backend
        return ops.take(ops.convert_to_tensor(self.rates), ops.cast(step, "int32"))

    def get_config(self) -> dict[str, Any]:
        return {"rates": self.rates.tolist()}


def backend_version() -> str:
    """Name and version of Keras' backend."""
    name = keras.backend.backend()
    return f"{name} {version(name)}"


def compiled_by_xla() -> bool:
    """Whether to compile with XLA: all that JAX has; TensorFlow's is slow at convolutions on CPUs."""
    return keras.backend.backend() == "jax"


def all_devices(batch: int) -> Callable[[], AbstractContextManager[object]]:
    """Makes contexts in which networks are built and trained on all GPUs that the backend sees.

    Each gets an equal share of a batch: on JAX loss and batch statistics are of the whole batch all the
    same, on TensorFlow they are means over the devices' own. Outside of these contexts, the network runs on
    whole batches of any size.

    Raises:
        BadInput: the devices cannot share `batch` patches.
    """
    backend = keras.backend.backend()
    if backend == "jax" and keras.distribution.distribution() is None:
        devices = keras.distribution.list_devices()
        if _many(devices, batch):
            return keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False).scope
    elif backend == "tensorflow":
        import tensorflow as tf

        devices = tf.config.list_logical_devices("GPU")
        if not tf.distribute.has_strategy() and _many(devices, batch):
            return tf.distribute.MirroredStrategy([device.name for device in devices]).scope
    return nullcontext


def _many(devices: Sequence[object], batch: int) -> bool:
    if batch % max(len(devices), 1):
        raise BadInput(f"expected a batch that {len(devices)} devices can share, got {batch} patches")
    return len(devices) > 1


def values(variables: Sequence[keras.Variable]) -> Arrays:
    """Copies of the variables' values."""
    return tuple(np.array(ops.convert_to_numpy(ops.convert_to_tensor(variable))) for variable in variables)


def assign(variables: Sequence[keras.Variable], arrays: Arrays) -> None:
    """Give the variables values that `values` took.

    Raises BadInput where they are of another network.
    """
    if [tuple(variable.shape) for variable in variables] != [array.shape for array in arrays]:
        raise BadInput("the checkpoint is of another network; start afresh with --no-resume")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def first_batches(data: Dataset, count: int) -> Dataset:
    """The first `count` batches of an endless dataset, for `fit`.

    Keras would go on reading ahead in an endless PyDataset after an epoch; one of tf.data it just drops.
    """
    return _First(data, count) if isinstance(data, keras.utils.PyDataset) else data


class _First(keras.utils.PyDataset):
    def __init__(self, data: keras.utils.PyDataset, count: int) -> None:
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self._data, self._count = data, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401 - as the dataset gives it
        return self._data[index]


def read_batches(data: Dataset, count: int) -> Iterator[tuple[Any, Any]]:
    """Yield up to `count` batches: (samples, truths)."""
    if isinstance(data, keras.utils.PyDataset):
        yield from (data[index] for index in range(count))
    else:
        yield from itertools.islice(data, count)
