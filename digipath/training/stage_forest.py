"""Forests for nodes' categories from labelled heatmaps: trained, cross-validated by patient, with their card."""

from __future__ import annotations

import csv
import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from digipath.errors import BadInput
from digipath.files import made_folder, write_atomically, write_json
from digipath.measure.forests import FORESTS, StageForests, category_indices, majority, train_forests, votes_of
from digipath.measure.pn_stage import CATEGORIES, CELLS_NOTE, FEATURES
from digipath.measure.stage_sets import calibrate_stage
from digipath.training.stage_manifest import LabelledNodes, read_labelled_nodes
from digipath.training.stage_scores import named_scores, stage_scores, summary_md
from digipath.values import ProgressCallback
from digipath.weights import load_card, sha256_of

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
THRESHOLD = 0.9  # of Table 5's regions
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)  # of the training data's features, kept in the card
TASK = "category of a lymph node's metastases (pN stage of breast cancer), from the heatmap of a detector"
READING = (
    "RF-PI, RF-PB, RF-CI, RF-CB of Khened et al. 2021, whose letters the paper does not spell out; our reading: "
    "P/C trained on detected positive nodes with the negative ones / on all, I/B as they are / balanced by SMOTETomek"
)
CITATION = "Khened et al. 2021, doi:10.1038/s41598-021-90444-8, tables 2, 3 and 5"
USE = "Research on pN staging beside the size rule, whose answer is always shown too; not for diagnosis."
LIMIT = "Answers for heatmaps of the kind it was trained on: another detector, resolution or laboratory is untested."


@dataclass(frozen=True)
class StageTraining:
    """A finished training: its folder, its card's file, and the content of scores.json."""

    folder: Path
    card: Path
    record: dict[str, Any]


def train_stage(
    manifest: str | Path,
    *,
    out: str | Path,
    name: str = "own-pn-forest",
    map_mpp: float | None = None,
    folds: int = 5,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> StageTraining:
    """Train the four forests on the nodes of a manifest and score them by cross-validation.

    Writes into `out`: NAME.json (the card, for `stage(…, forest="OUT/NAME.json")`), NAME.skops, features.csv,
    scores.json and summary.md. Folds are by patient, without patients by node; forests of a fold, and SMOTETomek in
    them, see its training nodes only. The forests of the card are trained on all nodes.

    Args:
        manifest: see the module.
        out: created if absent.
        name: of the card: lower-case letters, digits and single hyphens.
        map_mpp: µm per pixel at which features are measured; default: the coarsest of the maps.
        folds: of the cross-validation, at least 2; at most as many as patients.
        seed: decides folds and forests.
        progress: called after each node.

    Raises:
        BadInput: a manifest, a map or a setting that cannot be used, or too few nodes; one line says which.
        OutputUnwritable: `out` cannot be written.
    """
    _check(name, map_mpp, folds, seed)
    folder = Path(out)
    nodes = read_labelled_nodes(Path(manifest), map_mpp=map_mpp, progress=progress)
    unseen = cross_validated(
        nodes.features, nodes.categories, nodes.detected, nodes.groups, folds=folds, seed=seed
    )
    forests = train_forests(nodes.features, nodes.categories, nodes.detected, seed=seed)
    scores = stage_scores(unseen, nodes.categories, nodes.by_size, nodes.patients)
    by = "patient" if nodes.patients else "node"
    told = {"data": _data(nodes, Path(manifest)),
            "split": f"{min(folds, len(set(nodes.groups)))}-fold cross-validation by {by}, seed {seed}"}  # fmt: skip
    made_folder(folder)
    card = write_forest(
        folder,
        name,
        forests,
        map_mpp=nodes.map_mpp,
        training={**told, "split": f"all nodes; scored by {told['split']}", "seed": seed}
        | {"nodes_sha256": nodes.sha256, "features": feature_ranges(nodes.features)},
        metrics=[{"name": metric, "value": value, **told} for metric, value in named_scores(scores)],
        conformal=calibrate_stage(unseen.mean(axis=1), nodes.categories, nodes.patients) | told,
        limits=[LIMIT, *_gaps(nodes)],
    )
    record = {"name": name, **told, **scores, "nodes": _answers(nodes, unseen)}
    write_json(folder / "scores.json", record)
    write_atomically(folder / "features.csv", _features_csv(nodes))
    write_atomically(folder / "summary.md", summary_md(record, load_card(str(card)).record))
    return StageTraining(folder, card, record)


def cross_validated(
    features: ArrayLike,
    categories: Sequence[str] | ArrayLike,
    detected: ArrayLike,
    groups: Sequence[str],
    *,
    folds: int = 5,
    seed: int = 0,
) -> NDArray[np.float64]:
    """(n, 4 forests, 4 categories) probabilities of each node by forests that saw no node of its group.

    Folds are stratified by category as far as groups allow.

    Raises:
        BadInput: fewer than two folds or groups, or a fold whose other nodes are of one category only.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    table, index, seen = np.asarray(features, np.float64), category_indices(categories), np.asarray(detected, bool)
    apart = len(set(groups))
    if folds < 2 or apart < 2:
        raise BadInput(f"expected two folds and two patients at least, got {folds} folds and {apart} patients")
    splitter = StratifiedGroupKFold(min(folds, apart), shuffle=True, random_state=seed)
    unseen = np.full((len(table), 4, len(CATEGORIES)), np.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # of categories with few nodes
        parts = list(splitter.split(table, index, np.asarray(groups, np.str_)))
    for train, test in parts:
        if len(test):
            forests = train_forests(table[train], index[train], seen[train], seed=seed)
            unseen[test] = forests.by_forest(table[test])
    return unseen


def write_forest(folder: Path, name: str, forests: StageForests, **card: Any) -> Path:  # noqa: ANN401 - see forest_card
    """Write NAME.skops and NAME.json into `folder`; returns the card's path. `card`: as for `forest_card`.

    Raises:
        BadCard: the record breaks the schema. OutputUnwritable: the folder cannot be written.
    """
    file, path = folder / f"{name}.skops", folder / f"{name}.json"
    forests.save(file)
    write_json(path, forest_card(name, file, **card))
    load_card(str(path))
    return path


def forest_card(
    name: str,
    file: Path,
    *,
    map_mpp: float,
    training: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]] = (),
    conformal: Mapping[str, Any] | None = None,
    licence: str = "not stated",
    citation: str = CITATION,
    intended_use: str = USE,
    limits: Sequence[str] = (LIMIT,),
) -> dict[str, Any]:
    """The card of forests in `file`, as `weights/card.schema.json` wants it.

    Args:
        map_mpp: µm per pixel of the heatmaps whose features they know.
        training: at least `data` and `split`; `features`: what `feature_ranges` gives, for the report.
        metrics: each with name, value, data, split. conformal: what `calibrate_stage` gives, with its data and split.
    """
    versions = {package: version(package) for package in ("scikit-learn", "imbalanced-learn", "numpy", "skops")}
    return {
        "schema": 1,
        "name": name,
        "kind": "forest",
        "task": TASK,
        "classes": list(CATEGORIES),
        "input": {"modality": "table", "features": list(FEATURES), "map_mpp": map_mpp, "threshold": THRESHOLD},
        "file": file.name,
        "urls": [],
        "bytes": file.stat().st_size,
        "sha256": sha256_of(file),
        "sha256_reason": None,
        "licence": licence,
        "citation": citation,
        "training": {"forests": READING, **training, "versions": versions},
        "metrics": list(metrics),
        "conformal": None if conformal is None else dict(conformal),
        "intended_use": intended_use,
        "limits": [*limits, CELLS_NOTE],
    }


def feature_ranges(features: ArrayLike) -> dict[str, Any]:
    """Quantiles of the training data's features: `quantiles` in [0, 1], and `values` at them by feature."""
    values = np.quantile(np.asarray(features, np.float64), QUANTILES, axis=0).T
    return {"quantiles": list(QUANTILES), "values": dict(zip(FEATURES, _rounded(values), strict=True))}


def _rounded(values: NDArray[np.float64]) -> list[list[float]]:
    return [[float(f"{value:.6g}") for value in row] for row in values.tolist()]


def _check(name: str, map_mpp: float | None, folds: int, seed: int) -> None:
    if not NAME.fullmatch(name):
        raise BadInput(f"expected a name of lower-case letters, digits and single hyphens, got {name!r}")
    if map_mpp is not None and not 0 < map_mpp < math.inf:
        raise BadInput(f"expected map_mpp in µm per pixel, a number above 0, got {map_mpp}")
    if folds < 2 or seed < 0:
        raise BadInput(f"expected at least 2 folds and a seed of at least 0, got {folds} and {seed}")


def _data(nodes: LabelledNodes, manifest: Path) -> str:
    counts = np.bincount(nodes.categories, minlength=len(CATEGORIES)).tolist()
    held = ", ".join(f"{count} {name}" for name, count in zip(CATEGORIES, counts, strict=True))
    patients = "" if nodes.patients is None else f" of {len(set(nodes.patients))} patients"
    return f"{len(nodes.names)} nodes{patients} ({held}); manifest {manifest.name}"


def _gaps(nodes: LabelledNodes) -> list[str]:
    """What the training data lacks."""
    counts = np.bincount(nodes.categories, minlength=len(CATEGORIES)).tolist()
    absent = [name for name, count in zip(CATEGORIES, counts, strict=True) if not count]
    limits = [f"Trained without any node of the category {' or '.join(absent)}: it never answers so."] if absent else []
    if nodes.patients is None:
        limits.append("Patients were unknown: if some have several nodes, scores on unseen nodes flatter.")
    return limits


def _answers(nodes: LabelledNodes, unseen: NDArray[np.float64]) -> list[dict[str, Any]]:
    votes = votes_of(unseen)
    return [
        {
            "result": nodes.names[place],
            "patient": nodes.patients and nodes.patients[place],
            "truth": CATEGORIES[nodes.categories[place]],
            "answer": CATEGORIES[answer],
            "by_size": CATEGORIES[nodes.by_size[place]],
            "probabilities": dict(zip(CATEGORIES, unseen[place].mean(axis=0).tolist(), strict=True)),
            "votes": {forest: CATEGORIES[vote] for forest, vote in zip(FORESTS, votes[place], strict=True)},
        }
        for place, answer in enumerate(majority(votes).tolist())
    ]


def _features_csv(nodes: LabelledNodes) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["result", "patient", "category", *FEATURES])
    patients = nodes.patients or [""] * len(nodes.names)
    for name, patient, index, row in zip(nodes.names, patients, nodes.categories, nodes.features.tolist(), strict=True):
        table.writerow([name, patient, CATEGORIES[index], *row])
    return text.getvalue()
