"""Gradient checkpointing: a network that keeps little while it trains and computes the rest again.

Keras' own `RematScope` works layer by layer: every layer's input is kept, and batch normalisation
and dropout, which write to variables, run twice on TensorFlow and fail on JAX. Here a network is cut
where a single tensor passes, so that only those tensors are kept, and what a part of it writes is one
of its results.

References:
    Chen et al. 2016, "Training deep nets with sublinear memory cost", arXiv:1604.06174.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from digipath.errors import BadInput

BACKENDS = ("jax", "tensorflow")
Tensor = Any  # of Keras or of its backend
FINEST = 24  # parts, at most that many are tried


def checkpointed(network: keras.Model) -> Callable[[Tensor, bool], Tensor]:
    """`network(x, training)` whose gradient recomputes the network part by part; weights are shared.

    The network has one input and one output, and is not changed.

    Raises:
        BadInput: Keras runs on a backend on which this is not tested.
    """
    if (backend := keras.backend.backend()) not in BACKENDS:
        raise BadInput(f"expected Keras on {' or '.join(BACKENDS)} for remat=True, it runs on {backend}")
    parts = split(network)

    def call(x: Tensor, training: bool) -> Tensor:
        for part in parts:
            x = _recomputed(part, x) if training else part(x, training=False)
        return x

    return call


def split(network: keras.Model) -> list[keras.Model]:
    """The network as networks that follow each other, cut so that little memory is held at a time.

    Held are all tensors between the parts and, for one part at a time, all that is in it. Of the ways to
    cut, that of the least sum is taken, for limits of a part's size from all to a 24th. Sides must be fixed.
    """
    tensors = [operation.output for operation in network.operations]
    sizes = [math.prod(tensor.shape[1:]) for tensor in tensors]
    through = _through(network)
    ends = [0, *(sum(sizes[: index + 1]) for index in through), sum(sizes)]
    costs = [0, *(sizes[index] for index in through), 0]
    plans = (_plan(ends, costs, limit=ends[-1] / parts) for parts in range(1, FINEST + 1))
    _, cuts = min((plan for plan in plans if plan is not None), key=lambda plan: plan[0])
    borders = [network.input, *(tensors[through[cut - 1]] for cut in cuts), network.output]
    return [keras.Model(begin, end) for begin, end in itertools.pairwise(borders)]


def _through(network: keras.Model) -> list[int]:
    """Places, among the network's operations, of those through whose output all that follows is computed."""
    operations = network.operations
    place = {id(operation.output): index for index, operation in enumerate(operations)}
    last_use = [0] * len(operations)
    for index, operation in enumerate(operations[1:], start=1):
        for tensor in keras.tree.flatten(operation.input):
            last_use[place[id(tensor)]] = index
    # How far the tensors reach that were made before: no further than here, and this one is all that is needed.
    reach = list(itertools.accumulate(last_use, max))
    return [index for index in range(1, len(operations) - 1) if reach[index - 1] <= index]


def _plan(ends: Sequence[int], costs: Sequence[int], *, limit: float) -> tuple[float, list[int]] | None:
    """The cheapest way to cut into parts of at most `limit`.

    Args:
        ends: memory from the network's beginning to each place where it can be cut; its beginning and end too.
        costs: memory of the tensor that is kept if it is cut there.

    Returns:
        (memory of the kept tensors and the largest part, places of the cuts), or None if there is no such way.
    """
    best: list[tuple[float, list[int]] | None] = [(0, [])]  # to reach each place, the place itself included
    for place in range(1, len(ends)):
        ways = [
            (way[0] + costs[place], [*way[1], place])
            for begin, way in enumerate(best)
            if way is not None and ends[place] - ends[begin] <= limit
        ]
        best.append(min(ways, key=lambda way: way[0], default=None))
    if best[-1] is None:
        return None
    cost, cuts = best[-1]
    largest = max(ends[end] - ends[begin] for begin, end in itertools.pairwise([0, *cuts]))
    return cost + largest, cuts[:-1]


def _recomputed(part: keras.Model, x: Tensor) -> Tensor:
    """`part(x, training=True)`; its variables go in as values, so that gradients and updates come out."""
    # Copies: TensorFlow's variables, as they are, would be read again after they were written.
    weights = [keras.ops.copy(variable) for variable in part.trainable_variables]
    state = [keras.ops.copy(variable) for variable in part.non_trainable_variables]
    written: list[int] = []

    def compute(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        y, after = part.stateless_call(list(weights), state, x, training=True)
        # Only what was written: the rest may be frozen weights, rounded for mixed precision.
        written[:] = [i for i, (new, old) in enumerate(zip(after, state, strict=True)) if new is not old]
        return (y, *(after[i] for i in written))

    y, *after = keras.remat(compute)(x, *weights)
    for index, value in zip(written, after, strict=True):
        part.non_trainable_variables[index].assign(value)
    return y
