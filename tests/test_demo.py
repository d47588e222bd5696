"""The demo's slide: found, downloaded and verified, or generated, and it says which."""

from __future__ import annotations

import functools
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

import digipath
from digipath import demo


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server on loopback that holds a 'sample slide'; returns its bytes."""
    root = tmp_path / "served"
    root.mkdir()
    content = b"a sample slide"
    (root / demo.SAMPLE).write_bytes(content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(demo, "URL", f"http://127.0.0.1:{server.server_port}/{demo.SAMPLE}")
    yield content
    server.shutdown()
    server.server_close()


def test_a_slide_that_is_there_is_taken(tmp_path):
    (tmp_path / demo.SAMPLE).write_bytes(b"x")
    path, origin = demo.sample_slide(tmp_path / "out", data=tmp_path)
    assert path == tmp_path / demo.SAMPLE
    assert "found here" in origin
    assert not (tmp_path / "out").exists()


def test_else_it_is_downloaded_and_verified(tmp_path, served, monkeypatch):
    monkeypatch.setattr(demo, "SHA256", hashlib.sha256(served).hexdigest())
    path, origin = demo.sample_slide(tmp_path / "out", data=tmp_path / "nowhere")
    assert path.read_bytes() == served
    assert "downloaded and verified" in origin


def test_a_wrong_download_is_not_used(tmp_path, served):
    path, origin = demo.sample_slide(tmp_path / "out")
    assert origin.startswith("GENERATED")
    assert path.name == "generated.tiff"
    assert not (tmp_path / "out" / demo.SAMPLE).exists()


def test_else_it_is_generated_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "URL", "http://127.0.0.1:9/nothing")  # the discard port: nobody listens
    path, origin = demo.sample_slide(tmp_path)
    assert origin.startswith("GENERATED, no real tissue")
    with digipath.open_slide(path) as slide:
        assert slide.size_l0 == demo.GENERATED_SIZE_L0
        assert slide.mpp == pytest.approx(0.5, rel=1e-4)


@pytest.mark.real_data
def test_the_stated_hash_is_that_of_the_sample(shared_data):
    content = (shared_data / "wsi" / demo.SAMPLE).read_bytes()
    assert hashlib.sha256(content).hexdigest() == demo.SHA256
