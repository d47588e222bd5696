"""Weight files as Keras 2 and tf.keras wrote them: HDF5, one group per layer.

Nothing but numbers is read: the network's configuration, which may hold code, stays where it is, and
so do links that lead out of the file. No array is read before its shape has been asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput

# What h5py answers to a damaged file: HDF5's own errors, and what its bytes make no sense as.
DAMAGE = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class StoredArray:
    """One array of the file. name: its last part, as "kernel"; shape: its size."""

    name: str
    shape: tuple[int, ...]
    dataset: h5py.Dataset

    def read(self) -> NDArray[np.float32]:
        """Its numbers; only while the file is open.

        Raises BadInput: damaged, or not all finite.
        """
        try:
            found = np.asarray(self.dataset[()], np.float32)
        except DAMAGE as error:
            raise BadInput(f"array {self.dataset.name} is damaged: {error}: {self.dataset.file.filename}") from error
        if not np.isfinite(found).all():
            raise BadInput(f"array {self.dataset.name} holds values that are no numbers: {self.dataset.file.filename}")
        return found


@dataclass(frozen=True)
class StoredLayer:
    """A layer that has arrays. name: as in the file, "/" included."""

    name: str
    arrays: tuple[StoredArray, ...]


@contextlib.contextmanager
def open_legacy(path: Path) -> Iterator[list[StoredLayer]]:
    """The layers of a file that `save_weights` or `model.save` wrote, in the order of that network.

    Raises:
        BadInput: no such file, damaged, another layout, an array that is announced and absent, present
            and not announced, not of numbers, or kept outside the file.
    """
    if not path.is_file():
        raise BadInput(f"expected a weights file, found none: {path}")
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(h5py.File(path, "r"))
            layers = _layers(_inside(file, "model_weights", path) if "model_weights" in file else file, path)
        except BadInput:
            raise
        except DAMAGE as error:
            raise BadInput(f"expected a whole HDF5 file of Keras 2 weights, got {error}: {path}") from error
        yield layers


def _layers(group: h5py.Group, path: Path) -> list[StoredLayer]:
    names = _names(group, "layer_names")
    if not names:
        raise BadInput(f"expected Keras 2 weights (an attribute layer_names), got another layout: {path}")
    if len(set(names)) < len(names):
        raise BadInput(f"a layer is named twice in layer_names: {path}")
    layers = [_layer(name, _inside(group, name, path), path) for name in names]
    announced = {array.dataset.name for layer in layers for array in layer.arrays}
    present: set[str] = set()
    group.visititems(lambda _, found: present.add(found.name) if isinstance(found, h5py.Dataset) else None)
    if stray := sorted(present - announced):
        raise BadInput(f"array {stray[0]!a} belongs to no layer of the file: {path}")
    return [layer for layer in layers if layer.arrays]


def _layer(name: str, group: h5py.Group, path: Path) -> StoredLayer:
    return StoredLayer(name, tuple(_array(group, array, path) for array in _names(group, "weight_names")))


def _array(group: h5py.Group, name: str, path: Path) -> StoredArray:
    dataset = _inside(group, name, path)
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None or dataset.dtype.kind not in "fiu":
        raise BadInput(f"expected {dataset.name} to be an array of numbers: {path}")
    if dataset.is_virtual or dataset.external:
        raise BadInput(f"the numbers of {dataset.name} lie outside the file, which is not followed: {path}")
    return StoredArray(name.rsplit("/", 1)[-1].split(":")[0], dataset.shape, dataset)


def _inside(group: h5py.Group, name: str, path: Path) -> h5py.Group | h5py.Dataset:
    """The object called `name`, reached without leaving the file."""
    found = group
    for part in filter(None, name.split("/")):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if not isinstance(link, h5py.HardLink):
            raise BadInput(f"{name} is announced in {group.name}, but is not there: {path}")
        found = found[part]
    return found


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names; a long one is stored in pieces: layer_names0, layer_names1, …"""
    pieces = [attribute] if attribute in group.attrs else []
    while not pieces or pieces[0] != attribute:
        if (piece := f"{attribute}{len(pieces)}") not in group.attrs:
            break
        pieces.append(piece)
    names = [name for piece in pieces for name in np.ravel(group.attrs[piece])]
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in names]
    if not all(name.isprintable() for name in names):
        raise ValueError(f"names in {attribute} that no text has")
    return names
