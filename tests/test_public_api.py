"""The public surface is a closed list, and importing it does nothing."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import resources

import pytest

import digipath

PUBLIC = [
    "Grade",
    "Segmentation",
    "build",
    "burden",
    "evaluate",
    "explain",
    "fetch",
    "grade",
    "list_results",
    "list_weights",
    "load",
    "open_result",
    "open_slide",
    "open_volumes",
    "segment",
    "show_weights",
    "stage",
    "train",
]


def test_the_public_names():
    assert digipath.__all__ == PUBLIC
    assert set(dir(digipath)) == {*PUBLIC, "__version__"}


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "build"])
def test_each_name_is_documented(name):
    assert len(inspect.getdoc(getattr(digipath, name)) or "") > 20


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'segmnt'"):
        digipath.segmnt  # noqa: B018


def test_no_public_name_is_shadowed_by_a_module():
    """Importing `digipath.x` would replace a public function `digipath.x` by the module."""
    modules = {entry.name.removesuffix(".py") for entry in resources.files("digipath").iterdir()}
    assert modules.isdisjoint(PUBLIC)


def test_signature_of_segment_is_stable():
    parameters = inspect.signature(digipath.segment).parameters
    assert list(parameters)[:2] == ["slide", "weights"]
    keywords = {n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert keywords == {
        "out", "views", "overlap", "patch", "mpp", "at_mpp", "out_mpp", "tissue", "stain", "window",
        "calibrated", "extra_maps", "keep_members", "predictors", "runtime", "precision", "resume", "progress",
        "cancel",
    }  # fmt: skip


IMPORTS_LITTLE = """
import os, sys
before = dict(os.environ)
import digipath, digipath.cli
heavy = {"numpy", "tensorflow", "keras", "jax", "openslide", "zarr", "skimage", "scipy"} & set(sys.modules)
assert not heavy, heavy
assert dict(os.environ) == before
"""

SEGMENTS_WITHOUT_KERAS = """
import sys
import digipath
digipath.segment, digipath.open_slide, digipath.evaluate, digipath.show_weights, digipath.train
assert not {"tensorflow", "keras", "jax", "torch", "openvino"} & set(sys.modules)
"""


@pytest.mark.parametrize("code", [IMPORTS_LITTLE, SEGMENTS_WITHOUT_KERAS])
def test_importing_does_nothing(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
