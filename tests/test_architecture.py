"""The floors of the code: who may import whom, read from the sources."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "digipath"
FILES = sorted(PACKAGE.rglob("*.py")) + sorted((ROOT / "webapp").rglob("*.py"))

# Floor of each room; a room is a file or a folder of digipath/. A stage may import the floor
# below it and, within a folder, its own family. Sentences and doors import downwards freely.
WORDS = {"values", "errors", "files", "memory", "volume_values"}
STAGES = {
    "annotation", "augment", "case", "convert", "engine", "explanations", "grid", "maps", "measure", "nn",
    "report", "roi", "runtime", "slice_augment", "slide", "stain", "synthetic", "tile_augment", "tissue", "volume",
    "volume_augment", "weights",
}  # fmt: skip
SENTENCES = {
    "burden_files", "calibrated_cards", "coarser_maps", "evaluation", "evaluation_report", "fusion_evaluation",
    "grading", "grading_evaluation", "networks", "node_maps", "pipeline", "planning", "reporting", "result",
    "run_record", "scoring", "slide_stain", "staging", "tiling", "training", "tumour", "tumour_burden",
    "volume_evaluation", "volume_rois", "where_to_look",
}  # fmt: skip
DOORS = {"__init__", "__main__", "cli", "demo", "progress", "webapp"}
KERAS_ROOMS = {"nn", "runtime", "explanations", "training"}


def room(path: Path) -> str:
    if path.is_relative_to(PACKAGE):
        return path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "webapp"


def imports(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Names of the modules a file imports, at any depth in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            if node.module == "digipath":
                yield from ((f"digipath.{alias.name}", node) for alias in node.names)
            else:
                yield node.module or "", node


def rooms_imported(path: Path) -> set[str]:
    inside = {name.split(".")[1] for name, _ in imports(path) if name.startswith("digipath.")}
    return inside - {room(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downwards(path):
    here = room(path)
    allowed = {
        **dict.fromkeys(WORDS, WORDS),
        **dict.fromkeys(STAGES, WORDS),
        **dict.fromkeys(SENTENCES, WORDS | STAGES | SENTENCES),
        **dict.fromkeys(DOORS, WORDS | STAGES | SENTENCES | DOORS),
    }
    assert here in allowed, f"{here} stands on no floor: add it to one"
    assert rooms_imported(path) <= allowed[here]


def test_no_cycles_between_rooms():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(room(path), set()).update(rooms_imported(path))
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' → '.join((*trail, name))}"
        if name not in done:
            for below in graph.get(name, ()):
                visit(below, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_keras_stays_in_its_rooms(path):
    if room(path) in KERAS_ROOMS:
        return
    names = {name.split(".")[0] for name, node in imports(path) if not _for_types_only(path, node)}
    assert not names & {"keras", "tensorflow", "jax", "torch", "openvino", "segmentation_models"}


def _for_types_only(path: Path, node: ast.AST) -> bool:
    for block in ast.walk(ast.parse(path.read_text())):
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            return any(getattr(inner, "lineno", 0) == getattr(node, "lineno", -1) for inner in block.body)
    return False


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_star_imports_no_broad_except_no_print_in_stages(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names)
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            assert not broad or any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            assert room(path) in DOORS


def _functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.relative_to(ROOT)}:{node.name}", node


def _body_lines(function: ast.FunctionDef) -> int:
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return 0 if not body else (body[-1].end_lineno or 0) - body[0].lineno + 1


def test_functions_are_short():
    lengths = {name: _body_lines(node) for name, node in _functions()}
    assert {name: n for name, n in lengths.items() if n > 60} == {}
    assert statistics.quantiles(lengths.values(), n=10)[8] <= 30


def test_at_most_five_positional_arguments():
    def positional(function: ast.FunctionDef) -> int:
        return sum(argument.arg not in ("self", "cls") for argument in function.args.args)

    assert {name for name, node in _functions() if positional(node) > 5} == set()


def test_files_hold_one_subject():
    long = {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text().splitlines())) > 400}
    assert long == {}


def test_every_argument_is_typed():
    untyped = {
        name
        for name, node in _functions()
        for argument in (*node.args.args, *node.args.kwonlyargs)
        if argument.annotation is None and argument.arg not in ("self", "cls")
    }
    assert untyped == set()
