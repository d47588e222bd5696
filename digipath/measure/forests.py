"""Four random forests that tell a node's category from its heatmap's 32 features, and vote.

Khened et al. 2021 (doi:10.1038/s41598-021-90444-8) name them RF-PI, RF-PB, RF-CI and RF-CB and do not spell
the letters out. Our reading: P = trained on the positive nodes that have a detection, and the negative ones;
C = on the complete set; I = on the nodes as they are (imbalanced); B = balanced by SMOTETomek, which stands
in an imbalanced-learn pipeline and so sees training rows only. To a forest of balanced rows all categories are
equally frequent, and it finds metastases in many a negative node. So its probabilities are weighed by how often each
category came before the balancing against after it (Elkan 2001, The Foundations of Cost-Sensitive Learning): balanced
rows decide where its trees cut, and the nodes as they are how frequent a category is.

Trained forests are kept as plain arrays, in a file of skops. They need no scikit-learn to answer, do not change
with its versions, and hold no node index that is not checked.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from digipath.errors import BadInput, NotFound, WeightsCorrupt
from digipath.files import write_atomically
from digipath.measure.pn_stage import CATEGORIES, FEATURES

FORESTS = {  # whether a forest is trained on detected nodes only, and whether its rows are balanced
    "RF-PI": (True, False),
    "RF-PB": (True, True),
    "RF-CI": (False, False),
    "RF-CB": (False, True),
}
TREES, LEAST_LEAF = 100, 1  # `examples/train_pn_forest.py --choose` compares leaves
NEIGHBOURS = 5  # of SMOTE, fewer where a category has fewer nodes
LAYOUT = 2
# All that a file of ours is made of; skops itself would also make any object of scikit-learn.
TRUSTED = {
    ("builtins", "dict", "DictNode"),
    ("builtins", "list", "ListNode"),
    ("builtins", "str", "JsonNode"),
    ("builtins", "str", "TypeNode"),
    ("builtins", "int", "JsonNode"),
    ("builtins", "int", "TypeNode"),
    ("numpy", "ndarray", "NdArrayNode"),
}
MOST_BYTES = 2**27  # unpacked; ours have a fiftieth
UNREADABLE = (AttributeError, EOFError, LookupError, RecursionError, RuntimeError, TypeError, ValueError,
              zipfile.BadZipFile, zlib.error)  # fmt: skip

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Forest:
    """One trained forest: the nodes of all its trees, one after the other.

    Attributes:
        centre, scale: (32,) float64; a feature x is seen as (sign(x) log(1 + |x|) − centre) / scale in float32.
        roots: (trees,) int32, each tree's first node.
        feature: (nodes,) int16, the feature that a node asks for; −1 in leaves.
        threshold: (nodes,) float64; left: (nodes,) int32, where x ≤ threshold goes on; right: the others.
        chances: (nodes, 4) float32, probability of each of `CATEGORIES` in a leaf.
        weights: (4,) float64 above 0, how much each category's probability counts.
    """

    centre: Floats
    scale: Floats
    roots: NDArray[np.int32]
    feature: NDArray[np.int16]
    threshold: Floats
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    chances: NDArray[np.float32]
    weights: Floats

    def probabilities(self, features: Floats) -> Floats:
        """(n, 4), the mean over the trees, weighed."""
        seen = ((logged(features) - self.centre) / self.scale).astype(np.float32)
        at = np.broadcast_to(self.roots, (len(seen), len(self.roots))).copy()
        rows = np.arange(len(seen))[:, None]
        while (inner := self.feature[at] >= 0).any():
            lower = seen[rows, self.feature[at]] <= self.threshold[at]
            at = np.where(inner, np.where(lower, self.left[at], self.right[at]), at)
        weighed = self.chances[at].mean(axis=1, dtype=np.float64) * self.weights
        return weighed / weighed.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class StageForests:
    """The four forests by their names, in the order of `FORESTS`."""

    forests: Mapping[str, Forest]

    def by_forest(self, features: ArrayLike) -> Floats:
        """(n, 4 forests, 4 categories) in [0, 1], each adding up to 1, of (n, 32) features in the order of `FEATURES`.

        Raises:
            BadInput: another shape, or a feature that is not finite.
        """
        table = _table(features)
        return np.stack([forest.probabilities(table) for forest in self.forests.values()], axis=1)

    def probabilities(self, features: ArrayLike) -> Floats:
        """(n, 4), the mean of the four forests; see `by_forest`."""
        return self.by_forest(features).mean(axis=1)

    def votes(self, features: ArrayLike) -> Ints:
        """(n, 4 forests), the index in `CATEGORIES` of each forest's most probable category, the higher of equals."""
        return votes_of(self.by_forest(features))

    def predict(self, features: ArrayLike) -> Ints:
        """(n,), the index in `CATEGORIES` that most forests vote for, the higher of equals."""
        return majority(self.votes(features))

    def save(self, path: str | Path) -> None:
        """Write the forests to a file; the same forests give the same bytes.

        Raises:
            OutputUnwritable: the file cannot be written.
        """
        from skops.io import dumps

        forests = {name: asdict(forest) for name, forest in self.forests.items()}
        content = {"layout": LAYOUT, "features": list(FEATURES), "forests": forests}
        write_atomically(Path(path), _settled(dumps(content)))

    @staticmethod
    def load(path: str | Path) -> StageForests:
        """Read forests that `save` wrote; nothing of what is in the file is executed.

        Raises:
            NotFound: no such file. WeightsCorrupt: no file of skops, or one that holds anything but forests.
        """
        path = Path(path)
        if not path.is_file():
            raise NotFound(f"expected a file of forests, there is none: {path}")
        try:
            return StageForests(_read(path))
        except UNREADABLE as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise WeightsCorrupt(f"expected forests as digipath writes them, got {reason}: {path}") from error


def train_forests(
    features: ArrayLike,
    categories: Sequence[str] | ArrayLike,
    detected: ArrayLike,
    *,
    seed: int,
    least_leaf: int = LEAST_LEAF,
) -> StageForests:
    """Train the four forests.

    Args:
        features: (n, 32) in the order of `FEATURES`.
        categories: (n,), each one of `CATEGORIES` or its index there.
        detected: (n,) bool, whether anything was detected on the node; what is positive and has no detection is
            left out of RF-PI and RF-PB.
        seed: the same seed, data and versions of the libraries give the same forests.
        least_leaf: training rows in each leaf at least.

    Raises:
        BadInput: shapes that do not fit, a feature that is not finite, an unknown category, or a forest for which
            there are not two categories.
    """
    table, index = _table(features), category_indices(categories)
    seen = np.asarray(detected).astype(bool)
    if not table.shape[:1] == index.shape == seen.shape:
        received = f"{len(table)} rows of features, categories {index.shape}, detections {seen.shape}"
        raise BadInput(f"expected one category and one detection (yes or no) per row of features, got {received}")
    seen_as = logged(table)
    trained = {}
    for place, (name, (only_detected, balanced)) in enumerate(FORESTS.items()):
        rows = (index == 0) | seen if only_detected else np.full(len(index), True)
        _check_categories(name, index[rows])
        pipeline = forest_pipeline(index[rows], seed=seed + place, balanced=balanced, least_leaf=least_leaf)
        trained[name] = _kept(pipeline.fit(seen_as[rows], index[rows]), index[rows])
    return StageForests(trained)


def votes_of(by_forest: ArrayLike) -> Ints:
    """(n, forests) the index of each forest's most probable category, the higher of equals; of (n, forests, 4)."""
    return _highest(np.asarray(by_forest))


def majority(votes: ArrayLike) -> Ints:
    """(n,) the category that most of (n, forests) votes name, the higher of equals; indices in `CATEGORIES`."""
    counts = (np.asarray(votes)[:, :, None] == np.arange(len(CATEGORIES))).sum(axis=1)
    return _highest(counts)


def category_indices(categories: Sequence[str] | ArrayLike) -> Ints:
    """(n,) indices in `CATEGORIES` of names, or of indices, which stay.

    Raises:
        BadInput: something else.
    """
    given = np.asarray(categories)
    if given.ndim == 1 and given.dtype.kind in "US" and set(given.tolist()) <= set(CATEGORIES):
        return np.array([CATEGORIES.index(name) for name in given.tolist()], np.intp)
    if given.ndim == 1 and given.dtype.kind in "iu" and ((given >= 0) & (given < len(CATEGORIES))).all():
        return given.astype(np.intp)
    unknown = sorted({str(each) for each in given.ravel()[:1000]} - set(CATEGORIES))[:3]
    raise BadInput(f"expected (nodes,) categories of {', '.join(CATEGORIES)}, got {unknown} of the shape {given.shape}")


def logged(features: Floats) -> Floats:
    """sign(x) log(1 + abs(x)): sizes span many orders of magnitude, and one would decide who is SMOTE's neighbour."""
    return np.sign(features) * np.log1p(np.abs(features))


def forest_pipeline(
    categories: Ints, *, seed: int, balanced: bool, least_leaf: int = LEAST_LEAF
) -> Any:  # noqa: ANN401 - imblearn's Pipeline
    """The untrained pipeline of one forest for training rows of these categories: scaling, SMOTETomek, forest.

    It is to be fitted on the `logged` features of exactly those rows.
    What is balanced depends on the training rows alone: SMOTE asks for fewer neighbours where a category has
    fewer nodes, and a category of a single node, which has no neighbour, stays as it is.
    """
    from imblearn.combine import SMOTETomek
    from imblearn.over_sampling import SMOTE
    from imblearn.pipeline import Pipeline
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.preprocessing import StandardScaler

    forest = RandomForestClassifier(TREES, min_samples_leaf=least_leaf, max_features="sqrt", random_state=seed)
    steps: list[tuple[str, Any]] = [("scale", StandardScaler()), ("forest", forest)]
    counts = np.bincount(categories)
    several = counts > 1
    if balanced and several.any():
        wanted = {int(one): int(counts.max()) for one in np.flatnonzero(several)}
        neighbours = int(min(NEIGHBOURS, counts[several].min() - 1))
        smote = SMOTE(sampling_strategy=wanted, k_neighbors=neighbours, random_state=seed)
        steps.insert(1, ("balance", SMOTETomek(smote=smote, random_state=seed)))
    return Pipeline(steps)


def _kept(pipeline: Any, categories: Ints) -> Forest:  # noqa: ANN401 - imblearn's Pipeline
    """The arrays of a pipeline that was fitted on nodes of these categories."""
    scaler, forest = pipeline.named_steps["scale"], pipeline.named_steps["forest"]
    trees = [each.tree_ for each in forest.estimators_]
    roots = np.cumsum([0, *(tree.node_count for tree in trees)])
    chances = np.zeros((roots[-1], len(CATEGORIES)), np.float32)
    counts = np.concatenate([tree.value[:, 0] for tree in trees])
    chances[:, forest.classes_] = counts / counts.sum(axis=1, keepdims=True)
    weights = np.ones(len(CATEGORIES))
    if "balance" in pipeline.named_steps:
        seen = chances[roots[:-1]].mean(axis=0, dtype=np.float64)  # share of each category in what the trees were given
        there = np.bincount(categories, minlength=len(CATEGORIES)) / len(categories)
        np.divide(there, seen, out=weights, where=seen > 0)
    feature = np.concatenate([tree.feature for tree in trees])
    children = [
        np.concatenate([side + root for side, root in zip(sides, roots[:-1], strict=True)])
        for sides in ([tree.children_left for tree in trees], [tree.children_right for tree in trees])
    ]
    inner = feature >= 0  # the others are leaves, of which nothing but the chances is asked
    return Forest(
        centre=scaler.mean_,
        scale=scaler.scale_,
        roots=roots[:-1].astype(np.int32),
        feature=np.where(inner, feature, -1).astype(np.int16),
        threshold=np.where(inner, np.concatenate([tree.threshold for tree in trees]), 0),
        left=np.where(inner, children[0], 0).astype(np.int32),
        right=np.where(inner, children[1], 0).astype(np.int32),
        chances=np.where(inner[:, None], np.float32(0), chances),
        weights=weights,
    )


def _highest(values: NDArray[Any]) -> Ints:
    """Index of the largest along the last axis, the last of equals."""
    return values.shape[-1] - 1 - np.argmax(values[..., ::-1], axis=-1)


def _table(features: ArrayLike) -> Floats:
    table = np.asarray(features, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(FEATURES):
        raise BadInput(f"expected features (nodes, {len(FEATURES)}), as heatmap_features gives them, got {table.shape}")
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0]
        raise BadInput(f"expected finite features, got {table[row, column]} for {FEATURES[column]} in row {row}")
    return table


def _check_categories(name: str, index: Ints) -> None:
    there = [CATEGORIES[one] for one in np.unique(index)]
    if len(there) < 2:
        which = "negative nodes and positive ones with a detection" if FORESTS[name][0] else "all nodes"
        received = ", ".join(there) or "no node"
        raise BadInput(f"expected at least two categories to train {name} ({which}), got {received}")


def _settled(packed: bytes) -> bytes:
    """A skops archive without what changes from run to run: addresses of objects, which name its files, and times."""
    with zipfile.ZipFile(io.BytesIO(packed)) as source:
        schema = source.read("schema.json").decode()
        places = dict.fromkeys(re.findall(r'"__id__": (\d+)', schema))
        names = {address: str(number) for number, address in enumerate(places)}
        schema = re.sub(r"\d+", lambda found: names.get(found[0], found[0]), schema)
        there = set(source.namelist())
        held = {f"{new}.npy": source.read(f"{old}.npy") for old, new in names.items() if f"{old}.npy" in there}
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in {"schema.json": schema.encode(), **held}.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 9)
    return target.getvalue()


def _read(path: Path) -> dict[str, Forest]:
    """Raises one of UNREADABLE where the file is not ours."""
    from skops.io import loads

    packed = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        _check_types(json.loads(archive.read("schema.json")))
    content = loads(packed, trusted=[])
    if content["layout"] != LAYOUT:
        raise ValueError(f"the layout {content['layout']}; this digipath reads {LAYOUT}: train the forests again")
    if content["features"] != list(FEATURES) or list(content["forests"]) != list(FORESTS):
        raise ValueError("other features or other forests")
    return {name: _checked(Forest(**arrays)) for name, arrays in content["forests"].items()}


def _check_types(node: Any) -> None:  # noqa: ANN401 - any JSON
    if isinstance(node, dict):
        if "__loader__" in node or "__class__" in node:
            kind = tuple(node.get(key) for key in ("__module__", "__class__", "__loader__"))
            if kind not in TRUSTED:
                raise ValueError(f"an object of the type {kind[0]}.{kind[1]}")
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            _check_types(each)


def _checked(forest: Forest) -> Forest:
    """The forest, if each question leads on to a later node of the same forest and ends in a distribution."""
    nodes, wide = len(forest.feature), len(FEATURES)
    arrays = {name: (value.dtype.str[1:], value.shape) for name, value in vars(forest).items()}
    expected = {
        "centre": ("f8", (wide,)), "scale": ("f8", (wide,)), "roots": ("i4", (len(forest.roots),)),
        "feature": ("i2", (nodes,)), "threshold": ("f8", (nodes,)), "left": ("i4", (nodes,)), "right": ("i4", (nodes,)),
        "chances": ("f4", (nodes, len(CATEGORIES))), "weights": ("f8", (len(CATEGORIES),)),
    }  # fmt: skip
    if arrays != expected or not len(forest.roots) or not nodes:
        raise ValueError("arrays of other shapes or types")
    inner = forest.feature >= 0
    leaves = forest.chances[~inner]
    # Children lie behind their parents, so every way through a tree ends.
    sides = (forest.left, forest.right)
    later = [(side[inner] > np.flatnonzero(inner)).all() and (side < nodes).all() for side in sides]
    sums = np.isclose(leaves.sum(axis=1), 1, atol=1e-5) & (leaves >= 0).all(axis=1)
    finite = all(np.isfinite(each).all() for each in (forest.centre, forest.scale, forest.weights))
    positive = (forest.scale > 0).all() and (forest.weights > 0).all()
    rooted = (forest.roots >= 0).all() and (forest.roots < nodes).all()
    if not (all(later) and sums.all() and finite and positive and rooted and (forest.feature < wide).all()):
        raise ValueError("trees that lead nowhere, or leaves that are no probabilities")
    return forest
