"""Read the tensors of a PyTorch checkpoint without torch, and without running anything in it.

A `.pth` file is a pickle, and a pickle can call any function. This reader knows tensors, their
storages and ordered dictionaries by name and refuses every other name before it is imported. What
a file says about sizes is believed only as far as the file itself is long.

Both layouts are read: the zip archive of PyTorch ≥ 1.6, and the older stream of five pickles
(magic number, protocol, machine, object, storage keys) followed by the raw storages.
"""

from __future__ import annotations

import collections
import io
import math
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

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
# What a damaged file ends in, somewhere between zip archive, pickle and array.
DAMAGE = (
    pickle.UnpicklingError, zipfile.BadZipFile, ArithmeticError, AttributeError, EOFError, LookupError,
    MemoryError, OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
LONGEST_REASON = 200  # characters of what is wrong
Read = Callable[[str, str, int], NDArray[Any]]  # storage type, key, number of elements


def read_torch(path: str | Path) -> dict[str, NDArray[Any]]:
    """The named tensors of a `.pth` file that holds a state dictionary, as arrays.

    Raises BadInput: not such a file, damaged, or it holds anything but tensors and containers.
    """
    path = Path(path)
    try:
        read = _read_archive if zipfile.is_zipfile(path) else _read_stream
        with path.open("rb") as stream:
            found = read(stream)
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise BadInput(f"expected a PyTorch file of tensors, got {type(error).__name__}: {reason}: {path}") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, np.ndarray) for value in found.values()):
        raise BadInput(f"expected a state dictionary (names → tensors), got a {type(found).__name__}: {path}")
    if not all(isinstance(name, str) for name in found):
        raise BadInput(f"expected a state dictionary (names → tensors), got other keys than names: {path}")
    return dict(found)


class _Tensors(pickle.Unpickler):
    """Knows containers and tensors; storages come through `read`."""

    def __init__(self, stream: IO[bytes], read: Read) -> None:
        super().__init__(stream, encoding="latin-1")
        self._read = read

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - a class or a function
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor  # a method: a pickle can set attributes of a function
        if module == "torch" and name in DTYPES:
            return name
        asked = ascii(f"{module}.{name}")
        raise pickle.UnpicklingError(f"{asked} is neither a tensor nor a container, it is refused")

    def persistent_load(self, pid: Any) -> Any:  # noqa: ANN401 - the pickle's own tuple
        kind, storage, key, _place, size = pid[:5]
        if kind != "storage" or (len(pid) > 5 and pid[5] is not None):
            raise pickle.UnpicklingError("a storage that is a view of another, which is not supported")
        return self._read(storage, str(key), int(size))

    def _tensor(
        self, storage: NDArray[Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
    ) -> NDArray[Any]:
        """The view of a storage that a tensor is, checked to lie inside it."""
        # Python's own integers only: NumPy's, which a tensor of the file can bring in, wrap around.
        if not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
            raise ValueError("a tensor whose offset, size or stride is no count of elements")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        # A storage is flat and whole; of another tensor the length would not say how much memory is there.
        whole = storage.ndim == 1 and storage.flags.c_contiguous
        if not whole or math.prod(size) > len(storage) or (0 not in size and last >= len(storage)):
            raise ValueError("a tensor that reaches beyond its storage")
        strides = tuple(step * storage.itemsize for step in stride)
        return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def _load(stream: IO[bytes], read: Read) -> Any:  # noqa: ANN401
    """The pickle at this place of the stream, up to its end."""
    begin = stream.tell()
    for opcode, argument, place in pickletools.genops(stream):
        # The unpickler makes room for as many memos as the highest number says, at once.
        if "PUT" in opcode.name and argument is not None and argument > (place or 0):
            raise ValueError("a pickle that claims more memos than it has opcodes")
    stream.seek(begin)
    return _Tensors(stream, read).load()


def _read_archive(stream: IO[bytes]) -> Any:  # noqa: ANN401
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        # PyTorch packs nothing, so that no file unpacks to more than itself.
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("a compressed archive, which PyTorch does not write")
        if sum(member.file_size for member in members) > _size(stream):
            raise ValueError("an archive of more bytes than the file has")
        listing = next((m.filename for m in members if m.filename.rpartition("/")[2] == "data.pkl"), None)
        if listing is None:
            raise ValueError("a zip archive without data.pkl")
        root = listing.rpartition("/")[0]
        storages: dict[str, NDArray[Any]] = {}

        def read(storage: str, key: str, size: int) -> NDArray[Any]:
            if key not in storages:
                member = archive.getinfo(f"{root}/data/{key}")
                if member.file_size != size * np.dtype(DTYPES[storage]).itemsize:
                    raise ValueError(f"storage {key!a} of {size} elements has {member.file_size} bytes")
                storages[key] = np.frombuffer(archive.read(member), DTYPES[storage])
            return storages[key]

        return _load(io.BytesIO(archive.read(listing)), read)


def _read_stream(stream: io.BufferedReader) -> Any:  # noqa: ANN401
    if _load(stream, _no_storage) != MAGIC:
        raise ValueError("no magic number of PyTorch")
    for _ in ("protocol", "machine"):  # little-endian everywhere in practice, and stated
        _load(stream, _no_storage)
    storages: dict[str, NDArray[Any]] = {}
    left = _size(stream)

    def read(storage: str, key: str, size: int) -> NDArray[Any]:
        nonlocal left
        if key not in storages:
            left -= size * np.dtype(DTYPES[storage]).itemsize
            if size < 0 or left < 0:
                raise ValueError(f"storage {key!a} of {size} elements is longer than the file")
            storages[key] = np.zeros(size, DTYPES[storage])
        return storages[key]

    found = _load(stream, read)
    keys = [str(key) for key in _load(stream, _no_storage)]
    if sorted(keys) != sorted(storages):
        raise ValueError("storages that are announced and absent, or present and not announced")
    for key in keys:
        values = storages[key]
        size = int.from_bytes(stream.read(8), "little")
        if size != len(values) or stream.readinto(values.data) != values.nbytes:
            raise ValueError(f"storage {key!a} is cut off")
    return found


def _size(stream: IO[bytes]) -> int:
    """Bytes of the whole file."""
    return os.fstat(stream.fileno()).st_size


def _no_storage(storage: str, key: str, size: int) -> NDArray[Any]:
    raise pickle.UnpicklingError("a tensor in the file's head")
