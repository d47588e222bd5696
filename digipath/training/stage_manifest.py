"""Nodes for the training of forests: a manifest of heatmaps with known categories, and what is measured of them.

The manifest is a table, CSV or Parquet, with the columns `result` (a case folder that `digipath segment` wrote, or
an .npz with probability, tissue and mpp; relative to the manifest), `category` and, if known, `patient`. Columns of
your own begin with `x_`.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput, DigipathError
from digipath.measure.pn_stage import CATEGORIES, FEATURES
from digipath.node_maps import NodeMaps, open_node
from digipath.training.tables import Row, raise_all, read_table
from digipath.values import Progress, ProgressCallback

REQUIRED, COLUMNS = ("result", "category"), ("result", "category", "patient")
OWN_PREFIX = "x_"


@dataclass(frozen=True)
class LabelledNodes:
    """Nodes with their truth and what was measured of them, in the order of the manifest.

    Attributes:
        names: as the manifest gives them. patients: whose they are, None where the manifest does not say.
        categories: (n,) the truth, indices in `CATEGORIES`; by_size: (n,) the size rule's answer.
        features: (n, 32) in the order of `FEATURES`, at `map_mpp` µm per pixel.
        sha256: of the truth, the patients and the features.
    """

    names: tuple[str, ...]
    patients: tuple[str, ...] | None
    categories: NDArray[np.intp]
    by_size: NDArray[np.intp]
    features: NDArray[np.float64]
    map_mpp: float

    @property
    def groups(self) -> tuple[str, ...]:
        """What must not be parted between folds: patients, or nodes where patients are unknown."""
        return self.patients or self.names

    @property
    def detected(self) -> NDArray[np.bool_]:
        """(n,) whether there is a region at 0.9."""
        return self.features[:, FEATURES.index("regions")] > 0

    @property
    def sha256(self) -> str:
        """Of the truth, the patients and the features, in their order."""
        said = repr((self.groups, self.categories.tolist(), self.map_mpp)).encode()
        return hashlib.sha256(said + self.features.tobytes()).hexdigest()


def read_labelled_nodes(
    path: Path, *, map_mpp: float | None = None, progress: ProgressCallback | None = None
) -> LabelledNodes:
    """Read a manifest (see the module) and measure its nodes' maps.

    map_mpp: µm per pixel to measure at; None: the coarsest of the maps. progress: called after each node.

    Raises:
        BadInput: one line on the first five errors: row, column, what was expected and received.
    """
    rows = _rows(path)
    opened = [_opened(row, path.parent) for row in rows]
    raise_all([each for each in opened if isinstance(each, BadInput)], path)
    nodes = [each for each in opened if isinstance(each, NodeMaps)]
    raise_all(list(_twice(rows, nodes)), path)
    mpp = max(node.mpp for node in nodes) if map_mpp is None else map_mpp
    features, by_size = [], []
    began = time.perf_counter()
    for done, (row, node) in enumerate(zip(rows, nodes, strict=True), 1):
        try:
            features.append(list(node.features(mpp).values()))
        except BadInput as error:  # too coarse
            raise BadInput(f"{row.error('result', str(error))}: {path}") from error
        by_size.append(CATEGORIES.index(node.by_size()[0]))
        if progress is not None:
            progress(Progress(done, len(rows), done / (time.perf_counter() - began), "measuring nodes"))
    patients = tuple(row.cells["patient"] for row in rows) if "patient" in rows[0].cells else None
    truth = [CATEGORIES.index(row.cells["category"].lower()) for row in rows]
    names = tuple(row.cells["result"] for row in rows)
    return LabelledNodes(names, patients, np.array(truth), np.array(by_size), np.array(features), mpp)


def _rows(path: Path) -> list[Row]:
    """The rows of a manifest whose cells are good by themselves."""
    columns, rows = read_table(path)
    known = [name for name in columns if not name.startswith(OWN_PREFIX)]
    if not set(REQUIRED) <= set(known) <= set(COLUMNS) or len(set(columns)) < len(columns) or not rows:
        expected = f"expected rows of the columns {', '.join(REQUIRED)} and, if known, patient"
        received = f"got {len(rows)} rows of {', '.join(columns)}"
        raise BadInput(f"{expected} (your own begin with {OWN_PREFIX}), {received}: {path}")
    errors = []
    for row in rows:
        errors += [row.error(name, "expected a value, it is blank") for name in known if not row.cells[name]]
        category = row.cells["category"]
        if category and category.lower() not in CATEGORIES:
            errors.append(row.error("category", f"expected one of {', '.join(CATEGORIES)}, received {category!r}"))
    raise_all(errors, path)
    return rows


def _opened(row: Row, folder: Path) -> NodeMaps | BadInput:
    try:
        return open_node(folder / row.cells["result"])
    except DigipathError as error:
        return row.error("result", str(error))


def _twice(rows: Sequence[Row], nodes: Sequence[NodeMaps]) -> Iterator[BadInput]:
    """Nodes that come twice: one copy would be scored by forests that know the other."""
    first: dict[str, Row] = {}
    for row, node in zip(rows, nodes, strict=True):
        earlier = first.setdefault(os.path.realpath(node.place), row)
        if earlier is not row:
            yield row.error("result", f"expected each node once, {node.place} is in {earlier.where} too")
