"""The reader of PyTorch files: both layouts, written here opcode by opcode, and everything refused."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from digipath.errors import BadInput
from digipath.nn.torch_file import MAGIC, read_torch

pytestmark = pytest.mark.keras  # it lies in a package that imports Keras

VALUES = np.arange(12, dtype="<f4")
# name → (offset into the storage, size, stride): a matrix, its transpose, its last row, a scalar
VIEWS = {
    "weight": (0, (3, 4), (4, 1)),
    "turned": (0, (4, 3), (1, 4)),
    "last": (8, (4,), (1,)),
    "one": (5, (), ()),
}


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(number(v) for v in values) + b"t"


ORDERED = b"ccollections\nOrderedDict\n)R"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def storage(kind: str = "FloatStorage", key: str = "0", size: int = 12) -> bytes:
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(size) + b"tQ"


def tensor(of: bytes, offset: bytes, size: bytes, stride: bytes, *, function: bytes = REBUILD) -> bytes:
    return function + b"(" + of + offset + size + stride + b"\x89" + ORDERED + b"tR"


def named(items: dict[str, bytes]) -> bytes:
    """The pickle of an ordered dictionary."""
    return b"\x80\x02" + ORDERED + b"(" + b"".join(text(name) + item for name, item in items.items()) + b"u."


def state(views: dict, *, function: bytes = REBUILD) -> bytes:
    """The pickle of a dictionary of tensors that share storage "0" of 12 floats."""
    return named({
        name: tensor(storage(), number(offset), numbers(*size), numbers(*stride), function=function)
        for name, (offset, size, stride) in views.items()
    })  # fmt: skip


def archive(path, content: bytes, storages: dict[str, bytes] | None = None, *, packing=zipfile.ZIP_STORED) -> str:
    with zipfile.ZipFile(path, "w", packing) as file:
        file.writestr("net/data.pkl", content)
        for key, values in (storages or {"0": VALUES.tobytes()}).items():
            file.writestr(f"net/data/{key}", values)
    return str(path)


def stream(path, content: bytes, values: bytes = VALUES.tobytes(), *, keys: object = ("0",), size: int = 12) -> str:
    head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, 1001, {"little_endian": True}))
    path.write_bytes(head + content + pickle.dumps(keys, 2) + struct.pack("<q", size) + values)
    return str(path)


@pytest.mark.parametrize("write", [archive, stream])
def test_both_layouts_give_the_tensors(tmp_path, write):
    found = read_torch(write(tmp_path / "net.pth", state(VIEWS)))
    matrix = VALUES.reshape(3, 4)
    assert list(found) == ["weight", "turned", "last", "one"]
    np.testing.assert_array_equal(found["weight"], matrix)
    np.testing.assert_array_equal(found["turned"], matrix.T)
    np.testing.assert_array_equal(found["last"], [8, 9, 10, 11])
    assert found["one"] == 5
    assert found["weight"].dtype == np.float32


@pytest.mark.parametrize("write", [archive, stream])
@pytest.mark.parametrize(
    "function", [b"cos\nsystem\n", b"cbuiltins\neval\n", b"ctorch\nload\n", b"cnumpy\nfromfile\n"]
)
def test_any_other_name_is_refused_before_it_is_imported(tmp_path, write, function):
    module, name = function[1:].decode().split()
    with pytest.raises(BadInput, match=rf"'{module}\.{name}' is neither a tensor nor a container"):
        read_torch(write(tmp_path / "evil.pth", state(VIEWS, function=function)))


def test_nothing_runs_that_reduce_asks_for(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "made"), "w")

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(BadInput, match="refused"):
        read_torch(tmp_path / "evil.pth")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "view", [(0, (3, 5), (5, 1)), (9, (4,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2, 2), (1,))]
)
def test_a_tensor_stays_inside_its_storage(tmp_path, view):
    with pytest.raises(BadInput, match="expected a PyTorch file"):
        read_torch(archive(tmp_path / "net.pth", state({"weight": view})))


@pytest.mark.parametrize(
    ("kind", "stored"),
    [("CharStorage", bytes([5, 64])), ("LongStorage", struct.pack("<qq", 2**33 + 1, 2**31))],
    ids=["int8", "int64"],
)
def test_sizes_that_wrap_around_are_refused(tmp_path, kind, stored):
    """A tensor as size or stride is a number of NumPy's: 4 × 64 is 0 in int8, 2^33 × 2^31 in int64."""
    size, stride = (
        b"(" + tensor(storage(kind, "1", 2), number(place), b")", b")") + b"t" for place in range(2)
    )  # fmt: skip
    evil = tensor(storage("ByteStorage", size=1), number(0), size, stride)
    path = archive(tmp_path / "net.pth", named({"weight": evil}), {"0": b"A", "1": stored})
    with pytest.raises(BadInput, match="no count of elements"):
        read_torch(path)
    path = archive(tmp_path / "net.pth", named({"w": tensor(storage(), b"\x88", numbers(2), numbers(1))}))
    with pytest.raises(BadInput, match="no count of elements"):  # True is no offset
        read_torch(path)


def test_no_tensor_has_more_elements_than_its_storage(tmp_path):
    path = archive(tmp_path / "net.pth", state({"weight": (0, (2**30,), (0,))}))
    with pytest.raises(BadInput, match="beyond its storage"):
        read_torch(path)


def test_a_tensor_is_no_storage(tmp_path):
    """Of five rows of no elements the length says five, and there is no memory behind them."""
    rows = tensor(storage(size=0), number(0), numbers(5, 0), numbers(0, 0))
    path = archive(
        tmp_path / "net.pth", named({"w": tensor(rows, number(0), numbers(5), numbers(1))}), {"0": b""}
    )
    with pytest.raises(BadInput, match="beyond its storage"):
        read_torch(path)


def test_the_reader_itself_cannot_be_changed(tmp_path):
    from digipath.nn import torch_file

    change = b"N}" + text("__defaults__") + numbers(0) + b"s\x86b0"  # (None, {…}): attributes to be set
    with pytest.raises(BadInput, match="expected a PyTorch file"):
        read_torch(archive(tmp_path / "net.pth", b"\x80\x02" + REBUILD + change + state(VIEWS)[2:]))
    assert torch_file._Tensors._tensor.__defaults__ is None


def spoilt(path: str, at: bytes, value: int, *, skip: int) -> str:
    """Set a byte `skip` behind each place of `at`."""
    content = bytearray(Path(path).read_bytes())
    begin = content.find(at)
    while begin >= 0:
        content[begin + skip] = value
        begin = content.find(at, begin + 1)
    Path(path).write_bytes(content)
    return path


ENTRY = b"PK\x01\x02"  # of the archive's directory


@pytest.mark.parametrize(
    ("at", "skip", "value", "message"),
    [
        (VALUES.tobytes(), 5, 99, "BadZipFile: Bad CRC-32"),
        (ENTRY, 8, 1, "RuntimeError: .* is encrypted"),
        (ENTRY, 10, 99, "a compressed archive"),
        (ENTRY, 27, 99, "an archive of more bytes than the file has"),  # of the unpacked size, the highest byte
        (ENTRY, 24, 99, "BadZipFile: Bad CRC-32"),
        (ENTRY, 42, 99, "BadZipFile"),  # where the member lies
    ],
)
def test_a_damaged_archive_is_one_line(tmp_path, at, skip, value, message):
    path = spoilt(archive(tmp_path / "net.pth", state(VIEWS)), at, value, skip=skip)
    with pytest.raises(BadInput, match=message) as refused:
        read_torch(path)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith("net.pth")


def test_an_archive_of_few_bytes_unpacks_to_no_more(tmp_path):
    """3 MB of zeros, packed into 3 kB, for twelve floats."""
    packed = archive(tmp_path / "a.pth", state(VIEWS), {"0": bytes(3 * 10**6)}, packing=zipfile.ZIP_DEFLATED)
    with pytest.raises(BadInput, match="a compressed archive, which PyTorch does not write"):
        read_torch(packed)
    with pytest.raises(BadInput, match="storage '0' of 12 elements has 3000000 bytes"):
        read_torch(archive(tmp_path / "b.pth", state(VIEWS), {"0": bytes(3 * 10**6)}))


def test_what_a_stream_claims_is_held_against_its_length(tmp_path):
    huge = named({"w": tensor(storage(size=2**30), number(0), numbers(4), numbers(1))})
    with pytest.raises(BadInput, match="storage '0' of 1073741824 elements is longer than the file"):
        read_torch(stream(tmp_path / "net.pth", huge))
    for size in (2**30, 2**62, -1):
        with pytest.raises(BadInput, match="storage '0' is cut off"):
            read_torch(stream(tmp_path / "net.pth", state(VIEWS), size=size))
    with pytest.raises(BadInput, match="announced and absent"):  # its values would be zeros
        read_torch(stream(tmp_path / "net.pth", state(VIEWS), keys=[]))


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02Nr\xff\xff\xff\xff.",  # memo number 2^32 − 1, for which the unpickler would take 64 GB
        b"\x80\x04\x8e" + struct.pack("<Q", 2**45) + b".",
        b"\x80\x02Q.",
        b"\x80\x02Np-1\n.",
        b"\x80\x02X\x01\0\0\0\xff.",
    ],
    ids=["memo", "bytes", "empty stack", "negative memo", "no unicode"],
)
@pytest.mark.parametrize("write", [archive, stream])
def test_a_pickle_that_cannot_be_is_one_line(tmp_path, write, content):
    with pytest.raises(BadInput, match=r"expected a PyTorch file of tensors, got .*net\.pth"):
        read_torch(write(tmp_path / "net.pth", content))


def test_no_file_is_one_line(tmp_path):
    for path in (tmp_path / "nowhere.pth", tmp_path):
        with pytest.raises(BadInput, match="expected a PyTorch file of tensors, got "):
            read_torch(path)


def test_a_damaged_file_is_refused(tmp_path):
    cut = stream(tmp_path / "cut.pth", state(VIEWS), VALUES.tobytes()[:-4])
    with pytest.raises(BadInput, match="storage '0' is cut off"):
        read_torch(cut)
    (tmp_path / "text.pth").write_text("not a pickle")
    with pytest.raises(BadInput, match=r"expected a PyTorch file .*text\.pth"):
        read_torch(tmp_path / "text.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(BadInput, match="expected a PyTorch file"):
        read_torch(tmp_path / "empty.pth")


def test_something_else_than_a_state_dictionary_is_refused(tmp_path):
    with pytest.raises(BadInput, match="expected a state dictionary"):
        read_torch(archive(tmp_path / "list.pth", pickle.dumps([1, 2], 2)))
    item = tensor(storage(), number(0), numbers(2), numbers(1))
    with pytest.raises(BadInput, match="got other keys than names"):
        read_torch(archive(tmp_path / "keys.pth", named({"w": item}).replace(text("w"), number(7))))


def test_torch_itself_agrees(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    wanted = {"a": torch.randn(3, 4, dtype=torch.float64).T, "b": torch.arange(5), "c": torch.randn(2, 3).half()}
    for zipped in (True, False):
        content = io.BytesIO()
        torch.save(wanted, content, _use_new_zipfile_serialization=zipped)
        (tmp_path / "net.pth").write_bytes(content.getvalue())
        for name, array in read_torch(tmp_path / "net.pth").items():
            np.testing.assert_array_equal(array, wanted[name].numpy())
