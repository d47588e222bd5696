"""Network → Predictor, on Keras (any backend) or OpenVINO.

A predictor is a callable for one fixed patch size, so that it is traced and compiled once; the card's
scaling is part of the compiled function. Of slides and tiles (B, P, P, 3) uint8 → (B, P, P, C) or (B, C)
float32; of volumes (B, x, y, z, channels) float32.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import queue
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput, MissingExtra
from digipath.files import read_json
from digipath.values import Scaling

if TYPE_CHECKING:
    import keras

RUNTIMES = ("auto", "keras", "openvino")
PRECISIONS = ("auto", "f32", "bf16")
STARTUP_NOTICE = re.compile(rb"WARNING: All log messages before absl|[IWE]\d{4} [\d:. ]+\s\d+ \w+\.cc:\d+\]")


@dataclass(frozen=True)
class Choice:
    """The runtime that will be used and the precision of its arithmetic."""

    runtime: str
    precision: str


def choose(runtime: str = "auto", precision: str = "auto") -> Choice:
    """Decide what "auto" means here: OpenVINO where it is installed, bf16 where the CPU has it.

    Raises:
        BadInput: an unknown name, bf16 on Keras, or OpenVINO beside another backend than TensorFlow.
        MissingExtra: OpenVINO was asked for and is not installed.
    """
    if runtime not in RUNTIMES:
        raise BadInput(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")
    if precision not in PRECISIONS:
        raise BadInput(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if runtime == "openvino":
        _require_openvino()
    elif runtime == "keras" or not _openvino_serves():
        runtime = "keras"
    else:
        runtime = "openvino"
    if runtime == "keras":
        if precision == "bf16":
            raise BadInput("precision bf16 needs --runtime openvino; Keras runs in f32 here")
        return Choice("keras", "f32")
    if precision == "auto":
        precision = "bf16" if "BF16" in _cpu_capabilities() else "f32"
    return Choice("openvino", precision)


def _installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _openvino_serves() -> bool:
    """Whether OpenVINO is there, can convert from this backend, and no GPU would be left idle."""
    return _installed() and _backend() == "tensorflow" and not any(Path("/dev").glob("nvidia[0-9]*"))


def _require_openvino() -> None:
    if not _installed():
        raise MissingExtra("OpenVINO is not installed; pip install 'digipath[fast]'")
    if _backend() != "tensorflow":
        raise BadInput(f"OpenVINO converts from TensorFlow, Keras runs on {_backend()}; use --runtime keras")


def _backend() -> str:
    """Keras' backend, read where Keras reads it: importing Keras takes seconds, too long before bad input is told."""
    if "keras" in sys.modules:
        return sys.modules["keras"].backend.backend()
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    try:
        configured = read_json(home / "keras.json").get("backend", "tensorflow")
    except (OSError, ValueError):
        configured = "tensorflow"
    return os.environ.get("KERAS_BACKEND") or configured


@contextlib.contextmanager
def without_startup_notices() -> Iterator[None]:
    """Drop what TensorFlow logs about itself while it starts; no variable of its own silences it.

    Everything else that is written to standard error meanwhile appears at the end.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            said = b"".join(line for line in caught if not STARTUP_NOTICE.match(line))
            os.write(2, said)


def keras_predictor(
    network: keras.Model, patch: int, *, scale: Scaling, offset: Scaling, batch: int = 1
) -> KerasPredictor:
    """Return a predictor that runs the network on Keras' own backend."""
    return KerasPredictor(_with_scaling(network, (patch, patch, 3), scale, offset), batch)


def openvino_predictor(
    network: keras.Model, patch: int, *, scale: Scaling, offset: Scaling, precision: str = "bf16"
) -> OpenVinoPredictor:
    """Return a predictor that runs the network on OpenVINO's CPU plug-in; see `choose` for what it needs."""
    return OpenVinoPredictor(_with_scaling(network, (patch, patch, 3), scale, offset), precision)


def volume_predictor(
    network: keras.Model,
    shape: Sequence[int],
    choice: Choice,
    *,
    scale: float | Sequence[float] = 1.0,
    offset: float | Sequence[float] = 0.0,
    batch: int = 1,
) -> KerasPredictor | OpenVinoPredictor:
    """Return a predictor of float32 arrays (B, *shape) × scale + offset, of any number of axes.

    It answers what the network does, (B, *spatial, C) or (B, C), and states as its `context` how many
    voxels on each side the network gives no answer for.

    Args:
        shape: (x, y, z, channels), or (rows, columns, channels) of slices.
        choice: what `choose` says.
    """
    scaled = _with_scaling(network, shape, scale, offset, dtype="float32")
    if choice.runtime == "keras":
        return KerasPredictor(scaled, batch)
    return OpenVinoPredictor(scaled, choice.precision)


class KerasPredictor:
    """One compiled function of fixed shape; the last batch of a band is filled up, not retraced."""

    def __init__(self, network: keras.Model, batch: int) -> None:
        self._network = network
        self.patch, self.context = _sides(network)
        self.batch = batch
        self.parallel = 1

    def __call__(self, patches: NDArray[np.generic]) -> NDArray[np.float32]:
        """(B, *shape) → the network's answers, float32, B ≤ batch."""
        missing = self.batch - len(patches)
        if missing:
            patches = np.pad(patches, [(0, missing), *[(0, 0)] * (patches.ndim - 1)])
        return np.asarray(self._network.predict_on_batch(patches))[: self.batch - missing]


class OpenVinoPredictor:
    """A compiled model with one infer request per stream; calls may come from several threads."""

    def __init__(self, network: keras.Model, precision: str) -> None:
        import openvino as ov

        model = ov.convert_model(_traced(network), input=[1, *network.input_shape[1:]])
        hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "THROUGHPUT"}
        compiled = ov.Core().compile_model(model, "CPU", hints)
        self.patch, self.context = _sides(network)
        self.batch = 1
        self.parallel: int = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.parallel):
            self._requests.put(compiled.create_infer_request())

    def __call__(self, patches: NDArray[np.generic]) -> NDArray[np.float32]:
        """(B, *shape) → the network's answers, float32, patch by patch."""
        request = self._requests.get()
        try:
            return np.concatenate([self._one(request, patch[None]) for patch in patches])
        finally:
            self._requests.put(request)

    @staticmethod
    def _one(request: Any, patch: NDArray[np.generic]) -> NDArray[np.float32]:  # noqa: ANN401
        request.start_async([patch], share_inputs=True)
        request.wait()
        return request.get_output_tensor(0).data.copy()


def answered_once(network: keras.Model, batch: NDArray[np.floating]) -> NDArray[np.floating]:
    """The answers of a network that is asked this once: to compile a graph, as for prediction, takes longer.

    batch: (B, *shape), as the network takes it.
    """
    from keras import ops

    return np.asarray(ops.convert_to_numpy(network(batch, training=False)))


def with_temperature(network: keras.Model, temperature: float) -> keras.Model:
    """The same network whose head gives activation(logits / temperature), for sigmoid and softmax.

    A part of the network, so that it costs nothing beside it on any runtime. The weights are shared.

    Raises:
        BadInput: the network does not end in one activation of its own.
    """
    import keras

    head = network.layers[-1]
    if not isinstance(head, keras.layers.Activation) or head.activation.__name__ not in ("sigmoid", "softmax"):
        raise BadInput(f"expected a network that ends in a sigmoid or softmax layer to calibrate, got {head.name}")
    cooled = keras.layers.Rescaling(1 / temperature, dtype="float32", name="temperature")(head.input)
    return keras.Model(network.input, keras.layers.Activation.from_config(head.get_config())(cooled))


def _with_scaling(
    network: keras.Model,
    shape: Sequence[int],
    scale: float | Sequence[float],
    offset: float | Sequence[float],
    dtype: str = "uint8",
) -> keras.Model:
    """Values of `dtype` × scale + offset → network, for patches of one shape."""
    import keras

    pixels = keras.Input(tuple(shape), dtype=dtype, name="pixels")
    scaled = keras.layers.Rescaling(scale, offset, dtype="float32")(pixels)
    return keras.Model(pixels, network(scaled, training=False))


def _sides(network: keras.Model) -> tuple[int, int]:
    """The first side of the patches that a network takes, without its context, and that context."""
    side, *_ = network.input_shape[1:]
    per_patch = len(network.output_shape) < len(network.input_shape)
    answered = side if per_patch else network.output_shape[1]
    return answered, (side - answered) // 2


def _traced(network: keras.Model) -> Any:  # noqa: ANN401 - a TensorFlow concrete function
    import tensorflow as tf

    taken = tf.TensorSpec((1, *network.input_shape[1:]), network.inputs[0].dtype)

    @tf.function(input_signature=[taken], autograph=False)
    def forward(pixels: Any) -> Any:  # noqa: ANN401
        return network(pixels, training=False)

    return forward.get_concrete_function()


def _cpu_capabilities() -> list[str]:
    import openvino as ov

    return list(ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
