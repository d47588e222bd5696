"""The reader of PyTorch files: both layouts, written here opcode by opcode, and everything refused."""

import io
import pickle
import struct
import zipfile

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


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(number(v) for v in values) + b"t"


def state(views: dict, *, function: bytes = b"ctorch._utils\n_rebuild_tensor_v2\n", view: bytes = b"") -> bytes:
    """The pickle of an ordered dictionary of tensors that share storage "0" of 12 floats."""
    ordered = b"ccollections\nOrderedDict\n)R"
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(12) + view + b"tQ"
    items = b"".join(
        text(name) + function + b"(" + storage + number(offset) + numbers(size) + numbers(stride)
        + b"\x89" + ordered + b"tR"
        for name, (offset, size, stride) in views.items()
    )
    return b"\x80\x02" + ordered + b"(" + items + b"u."


def archive(path, content: bytes) -> str:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("net/data.pkl", content)
        file.writestr("net/data/0", VALUES.tobytes())
    return str(path)


def stream(path, content: bytes, storage: bytes = VALUES.tobytes()) -> str:
    head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, 1001, {"little_endian": True}))
    path.write_bytes(head + content + pickle.dumps(["0"], 2) + struct.pack("<q", 12) + storage)
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
    with pytest.raises(BadInput, match=rf"{module}\.{name} is neither a tensor nor a container"):
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


def test_a_damaged_file_is_refused(tmp_path):
    cut = stream(tmp_path / "cut.pth", state(VIEWS), VALUES.tobytes()[:-4])
    with pytest.raises(BadInput, match="storage 0 is cut off"):
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


def test_torch_itself_agrees(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    wanted = {"a": torch.randn(3, 4, dtype=torch.float64).T, "b": torch.arange(5), "c": torch.randn(2, 3).half()}
    for zipped in (True, False):
        content = io.BytesIO()
        torch.save(wanted, content, _use_new_zipfile_serialization=zipped)
        (tmp_path / "net.pth").write_bytes(content.getvalue())
        for name, array in read_torch(tmp_path / "net.pth").items():
            np.testing.assert_array_equal(array, wanted[name].numpy())
