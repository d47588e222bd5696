"""Read the tensors of a PyTorch checkpoint without torch, and without running anything in it.

A `.pth` file is a pickle, and a pickle can call any function. This reader knows tensors, their
storages and ordered dictionaries by name and refuses every other name before it is imported.

Both layouts are read: the zip archive of PyTorch ≥ 1.6, and the older stream of five pickles
(magic number, protocol, machine, object, storage keys) followed by the raw storages.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older layout
DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
Key = tuple[str, str]  # storage type, storage key
Read = Callable[[str, str, int], NDArray[Any]]  # storage type, key, number of elements


def read_torch(path: str | Path) -> dict[str, NDArray[Any]]:
    """The named tensors of a `.pth` file that holds a state dictionary, as arrays.

    Raises BadInput: not such a file, damaged, or it holds anything but tensors and containers.
    """
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            found = _read_archive(path)
        else:
            with path.open("rb") as stream:
                found = _read_stream(stream)
    except (pickle.UnpicklingError, EOFError, KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise BadInput(f"expected a PyTorch file of tensors, got {type(error).__name__}: {error}: {path}") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, np.ndarray) for value in found.values()):
        raise BadInput(f"expected a state dictionary (names → tensors), got a {type(found).__name__}: {path}")
    return {str(name): value for name, value in found.items()}


class _Tensors(pickle.Unpickler):
    """Knows containers and tensors; storages come through `read`."""

    def __init__(self, stream: io.BufferedIOBase | io.BytesIO, read: Read) -> None:
        super().__init__(stream, encoding="latin-1")
        self._read = read

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - a class or a function
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in DTYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is neither a tensor nor a container, it is refused")

    def persistent_load(self, pid: Any) -> Any:  # noqa: ANN401 - the pickle's own tuple
        kind, storage, key, _place, size = pid[:5]
        if kind != "storage" or (len(pid) > 5 and pid[5] is not None):
            raise pickle.UnpicklingError("a storage that is a view of another, which is not supported")
        return self._read(storage, str(key), int(size))


def _tensor(
    storage: NDArray[Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> NDArray[Any]:
    """The view of a storage that a tensor is, checked to lie inside it."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride), default=0) < 0 or (0 not in size and last >= len(storage)):
        raise ValueError("a tensor that reaches beyond its storage")
    strides = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def _read_archive(path: Path) -> Any:  # noqa: ANN401
    with zipfile.ZipFile(path) as archive:
        listing = next((n for n in archive.namelist() if n.rpartition("/")[2] == "data.pkl"), None)
        if listing is None:
            raise ValueError("a zip archive without data.pkl")
        root = listing.rpartition("/")[0]
        storages: dict[str, NDArray[Any]] = {}

        def read(storage: str, key: str, size: int) -> NDArray[Any]:
            if key not in storages:
                storages[key] = np.frombuffer(archive.read(f"{root}/data/{key}"), DTYPES[storage], size)
            return storages[key]

        return _Tensors(io.BytesIO(archive.read(listing)), read).load()


def _read_stream(stream: io.BufferedReader) -> Any:  # noqa: ANN401
    def plain() -> Any:  # noqa: ANN401
        return _Tensors(stream, _no_storage).load()

    if plain() != MAGIC:
        raise ValueError("no magic number of PyTorch")
    plain(), plain()  # protocol, machine: little-endian everywhere in practice, and stated
    storages: dict[str, NDArray[Any]] = {}

    def read(storage: str, key: str, size: int) -> NDArray[Any]:
        return storages.setdefault(key, np.zeros(size, DTYPES[storage]))

    found = _Tensors(stream, read).load()
    for key in plain():
        values = storages[str(key)]
        size = int(np.frombuffer(stream.read(8), "<i8")[0])
        content = stream.read(size * values.itemsize)
        if size != len(values) or len(content) != size * values.itemsize:
            raise ValueError(f"storage {key} is cut off")
        values[:] = np.frombuffer(content, values.dtype)
    return found


def _no_storage(storage: str, key: str, size: int) -> NDArray[Any]:
    raise pickle.UnpicklingError("a tensor in the file's head")
