"""The four forests: who is trained on what, how they vote, what is kept of them and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import made_up_nodes
import numpy as np
import pytest
from imblearn.over_sampling import SMOTE

from digipath.errors import BadInput, NotFound, WeightsCorrupt
from digipath.measure import forests as forests_module
from digipath.measure.forests import (
    FORESTS,
    StageForests,
    category_indices,
    forest_pipeline,
    logged,
    majority,
    train_forests,
    votes_of,
)
from digipath.measure.pn_stage import CATEGORIES


@pytest.fixture(scope="module")
def data():
    return made_up_nodes.table(300, np.random.default_rng(0))


@pytest.fixture(scope="module")
def trained(data):
    return train_forests(*data, seed=1)


def test_the_names():
    assert list(FORESTS) == ["RF-PI", "RF-PB", "RF-CI", "RF-CB"]


@pytest.mark.parametrize(
    ("votes", "expected"),
    [([0, 0, 0, 0], 0), ([0, 0, 3, 3], 3), ([3, 3, 0, 0], 3), ([1, 2, 1, 2], 2), ([0, 1, 2, 3], 3),
     ([0, 0, 1, 2], 0), ([0, 1, 1, 0], 1), ([2, 0, 0, 0], 0)],
)  # fmt: skip
def test_the_majority_decides_and_ties_go_to_the_higher_category(votes, expected):
    assert majority([votes]).tolist() == [expected]


def test_a_forest_votes_for_its_most_probable_category_the_higher_of_equals():
    by_forest = [[[0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.4, 0.3, 0.2, 0.1], [0, 0.1, 0.8, 0.1]]]
    assert votes_of(by_forest).tolist() == [[1, 3, 0, 2]]


def test_probabilities_add_up_and_are_the_mean(data, trained):
    by_forest = trained.by_forest(data[0])
    assert by_forest.shape == (300, 4, 4)
    assert by_forest.min() >= 0
    np.testing.assert_allclose(by_forest.sum(axis=2), 1, atol=1e-12)
    np.testing.assert_allclose(trained.probabilities(data[0]), by_forest.mean(axis=1), atol=1e-15)
    assert np.array_equal(trained.votes(data[0]), votes_of(by_forest))
    assert np.array_equal(trained.predict(data[0]), majority(trained.votes(data[0])))


def test_they_learn(trained):
    features, categories, _ = made_up_nodes.table(200, np.random.default_rng(9))
    assert (trained.predict(features) == categories).mean() > 0.75


def test_they_answer_as_scikit_learn_does(data, trained):
    """Our own walk through the trees, on features that no tree has seen."""
    features, categories, _ = data
    pipeline = forest_pipeline(categories, seed=1 + 3, balanced=True).fit(logged(features), categories)
    unseen = made_up_nodes.table(100, np.random.default_rng(5))[0]
    forest = trained.forests["RF-CB"]
    theirs = pipeline.predict_proba(logged(unseen)) * forest.weights
    np.testing.assert_allclose(forest.probabilities(unseen), theirs / theirs.sum(axis=1, keepdims=True), atol=1e-6)


def test_weights_are_shares_before_the_balancing_over_shares_after_it(data, trained):
    features, categories, detected = data
    for name, (only_detected, balanced) in FORESTS.items():
        rows = (categories == 0) | detected if only_detected else np.full(300, True)
        pipeline = forest_pipeline(categories[rows], seed=1 + list(FORESTS).index(name), balanced=balanced)
        after = categories[rows]
        if balanced:
            scaled = pipeline.named_steps["scale"].fit_transform(logged(features[rows]))
            _, after = pipeline.named_steps["balance"].fit_resample(scaled, categories[rows])
        shares = (np.bincount(each, minlength=4) / len(each) for each in (categories[rows], after))
        # The trees see 100 bootstrap samples of what there is after it.
        np.testing.assert_allclose(trained.forests[name].weights, np.divide(*shares), rtol=0.03 * balanced)


def test_balanced_forests_know_how_frequent_categories_are():
    """Features that tell nothing: all that can be known of a node is how often each category comes."""
    rng = np.random.default_rng(0)
    categories = rng.permutation(np.repeat(np.arange(4), (700, 150, 100, 50)))
    features, unseen = np.zeros((2, 1000, 32))
    features[:, :2], unseen[:, :2] = rng.normal(size=(2, 1000, 2))
    trained = train_forests(features, categories, np.full(1000, True), seed=0)
    mean = trained.by_forest(unseen).mean(axis=0)
    np.testing.assert_allclose(mean, np.tile([0.7, 0.15, 0.1, 0.05], (4, 1)), atol=0.05)
    assert (trained.votes(unseen) == 0).mean() > 0.8


def fitted_rows(monkeypatch):
    """What each forest is fitted on, as (pipeline's balance step or None, features, categories)."""
    from imblearn.pipeline import Pipeline

    seen = []
    fit = Pipeline.fit

    def spy(self, features, categories, **others):
        seen.append((self.named_steps.get("balance"), features.copy(), np.array(categories)))
        return fit(self, features, categories, **others)

    monkeypatch.setattr(Pipeline, "fit", spy)
    return seen


def test_p_leaves_out_positive_nodes_without_detection_and_b_balances(data, monkeypatch):
    features, categories, detected = data
    seen = fitted_rows(monkeypatch)
    train_forests(features, categories, detected, seed=0)
    left = (categories == 0) | detected
    assert 0 < left.sum() < 300
    for (balance, rows, truth), (name, (only_detected, balanced)) in zip(seen, FORESTS.items(), strict=True):
        kept = left if only_detected else np.full(300, True)
        assert name[-2:] == ("P" if only_detected else "C") + ("B" if balanced else "I")
        assert (balance is not None) == balanced
        assert np.array_equal(rows, logged(features[kept]))
        assert np.array_equal(truth, categories[kept])


def test_an_undetected_negative_node_stays_in_p(data, monkeypatch):
    features, categories, _ = data
    seen = fitted_rows(monkeypatch)
    train_forests(features, categories, categories > 0, seed=0)  # nothing is detected on negative nodes
    assert [len(rows) for _, rows, _ in seen] == [300] * 4


def test_balancing_makes_categories_equal_but_for_tomek_links(data):
    features, categories, _ = data
    pipeline = forest_pipeline(categories, seed=0, balanced=True)
    scaled = pipeline.named_steps["scale"].fit_transform(logged(features))
    _, balanced = pipeline.named_steps["balance"].fit_resample(scaled, categories)
    most = np.bincount(categories).max()
    assert len(balanced) > 300
    assert (np.bincount(balanced) > 0.7 * most).all()
    assert (np.bincount(balanced) <= most).all()


@pytest.mark.parametrize("sizes", [(20, 2, 3, 2), (20, 1, 5, 1), (30, 0, 0, 4), (2, 1, 1, 1), (1, 1, 0, 0)])
def test_tiny_categories_are_balanced_as_far_as_they_have_neighbours(sizes):
    rng = np.random.default_rng(0)
    categories = np.repeat(np.arange(4), sizes)
    features = rng.normal(size=(len(categories), 32)) + categories[:, None]
    trained = train_forests(features, categories, np.full(len(categories), True), seed=0)
    absent = [one for one, size in enumerate(sizes) if size == 0]
    assert trained.probabilities(features)[:, absent].max(initial=0) == 0
    np.testing.assert_allclose(trained.probabilities(features).sum(axis=1), 1)


def test_smote_asks_for_as_many_neighbours_as_there_are():
    categories = np.repeat([0, 1, 3], [30, 3, 1])
    smote = forest_pipeline(categories, seed=0, balanced=True).named_steps["balance"].smote
    assert isinstance(smote, SMOTE)
    assert (smote.k_neighbors, smote.sampling_strategy) == (2, {0: 30, 1: 30})


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda f, c, d: (f[:, :31], c, d), r"expected features \(nodes, 32\)"),
     (lambda f, c, d: (np.where(np.arange(32) == 3, np.nan, f), c, d), "got nan for tumour_to_tissue_90 in row 0"),
     (lambda f, c, d: (f, c[:-1], d), "one category and one detection"),
     (lambda f, c, d: (f, c, d[:-1]), "one category and one detection"),
     (lambda f, c, d: (f, c + 1, d), "negative, itc, micro, macro"),
     (lambda f, c, d: (f, ["benign"] * len(c), d), "'benign'"),
     (lambda f, c, d: (f, c * 0, d), "at least two categories to train RF-PI"),
     (lambda f, c, d: (f, c, d & False), "positive ones with a detection.*got negative$"),
     (lambda f, c, d: (f[:0], c[:0], d[:0]), "got no node")],
)  # fmt: skip
def test_what_cannot_be_learned_is_refused_in_one_line(data, change, message):
    with pytest.raises(BadInput, match=message) as raised:
        train_forests(*change(*data), seed=0)
    assert "\n" not in str(raised.value)


def test_categories_by_name_or_index():
    assert category_indices(["macro", "negative"]).tolist() == [3, 0]
    assert category_indices(np.array([2, 1])).tolist() == [2, 1]
    with pytest.raises(BadInput):
        category_indices([4])
    with pytest.raises(BadInput):
        category_indices([0.5])


def test_another_seed_gives_other_forests(data, trained):
    assert not np.array_equal(trained.by_forest(data[0]), train_forests(*data, seed=2).by_forest(data[0]))


def test_what_is_read_back_is_what_was_written(data, trained, tmp_path):
    trained.save(tmp_path / "a.skops")
    again = StageForests.load(tmp_path / "a.skops")
    assert np.array_equal(again.by_forest(data[0]), trained.by_forest(data[0]))
    for name, forest in trained.forests.items():
        for part, value in vars(forest).items():
            np.testing.assert_array_equal(getattr(again.forests[name], part), value, err_msg=f"{name} {part}")
            assert getattr(again.forests[name], part).dtype == value.dtype


def test_they_are_small_on_disk(tmp_path):
    """As many nodes as a training on generated patients has; twice as much noise as forests can make sense of."""
    features, categories, detected = made_up_nodes.table(3000, np.random.default_rng(0))
    noisy = np.where(np.random.default_rng(1).random(3000) < 0.3, 3 - categories, categories)
    train_forests(features, noisy, detected, seed=0).save(tmp_path / "large.skops")
    assert (tmp_path / "large.skops").stat().st_size < 3e6


SAVE = """
import sys
import numpy as np
sys.path.insert(0, {tests!r})
import made_up_nodes
from digipath.measure.forests import train_forests
train_forests(*made_up_nodes.table(300, np.random.default_rng(0)), seed=1).save({path!r})
"""


def test_the_same_seed_gives_the_same_bytes_in_another_process(trained, tmp_path):
    trained.save(tmp_path / "here.skops")
    code = SAVE.format(tests=str(Path(__file__).parent), path=str(tmp_path / "there.skops"))
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "here.skops").read_bytes() == (tmp_path / "there.skops").read_bytes()


def packed(content):
    from skops.io import dumps

    return dumps(content)


def content_of(forests):
    return {"layout": forests_module.LAYOUT, "features": list(forests_module.FEATURES),
            "forests": {name: dict(vars(forest)) for name, forest in forests.forests.items()}}  # fmt: skip


def with_array(forests, array, change):
    content = content_of(forests)
    values = content["forests"]["RF-CI"][array].copy()
    content["forests"]["RF-CI"][array] = change(values)
    return packed(content)


def _put(place, value):
    def change(values):
        values[place] = value
        return values

    return change


def a_scikit_learn_model(_):
    from sklearn.linear_model import LogisticRegression

    return packed(LogisticRegression().fit([[0], [1]], [0, 1]))


def a_function(_):
    content = {"__class__": "system", "__module__": "os", "__loader__": "FunctionNode", "content": {}, "protocol": 2}
    return _archive(json.dumps(content))


def _archive(schema, **files):
    import io

    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("schema.json", schema)
        for name, value in files.items():
            archive.writestr(name, value)
    return target.getvalue()


REFUSED = {
    "empty": (lambda f: b"", "File is not a zip file"),
    "no zip": (lambda f: b"<html>not here</html>", "File is not a zip file"),
    "cut off": (lambda f: packed(content_of(f))[:-4000], "not a zip file"),
    "zip without schema": (lambda f: _archive("{"), "Expecting property name"),
    "a model": (a_scikit_learn_model, "type sklearn.linear_model._logistic.LogisticRegression"),
    "a function": (a_function, "an object of the type os.system"),
    "an array of objects": (lambda f: packed({"layout": np.array([{}], object)}), "an object of the type"),
    "other features": (lambda f: packed(content_of(f) | {"features": ["a"]}), "other features"),
    "another layout": (lambda f: packed(content_of(f) | {"layout": 1}), "the layout 1; this digipath reads 2: train"),
    "three forests": (lambda f: packed(content_of(f) | {"forests": {}}), "other forests"),
    "a list": (lambda f: packed([1, 2]), "list indices"),
    "a loop": (lambda f: with_array(f, "left", _put(slice(None), 0)), "lead nowhere"),
    "out of range": (lambda f: with_array(f, "right", _put(0, 2**31 - 1)), "lead nowhere"),
    "behind the end": (lambda f: with_array(f, "roots", _put(0, 2**31 - 1)), "lead nowhere"),
    "unknown feature": (lambda f: with_array(f, "feature", _put(0, 32)), "lead nowhere"),
    "no distribution": (lambda f: with_array(f, "chances", lambda c: c * 2), "no probabilities"),
    "not finite": (lambda f: with_array(f, "scale", _put(0, np.nan)), "lead nowhere"),
    "weights of 0": (lambda f: with_array(f, "weights", _put(2, 0)), "lead nowhere"),
    "other type": (lambda f: with_array(f, "threshold", lambda t: t.astype(np.float32)), "other shapes or types"),
    "other length": (lambda f: with_array(f, "threshold", lambda t: t[:-1]), "other shapes or types"),
    "no trees": (lambda f: with_array(f, "roots", lambda r: r[:0]), "other shapes or types"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_are_not_ours_are_refused_in_one_line(trained, tmp_path, case):
    make, message = REFUSED[case]
    path = tmp_path / "bad.skops"
    path.write_bytes(make(trained))
    with pytest.raises(WeightsCorrupt, match=message) as raised:
        StageForests.load(path)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(str(path))


def test_a_bomb_is_not_unpacked(trained, tmp_path, monkeypatch):
    trained.save(tmp_path / "a.skops")
    monkeypatch.setattr(forests_module, "MOST_BYTES", 1000)
    with pytest.raises(WeightsCorrupt, match="more than 1000 bytes"):
        StageForests.load(tmp_path / "a.skops")


def test_a_missing_file(tmp_path):
    with pytest.raises(NotFound, match=r"there is none: .*none\.skops"):
        StageForests.load(tmp_path / "none.skops")


def test_answering_needs_no_scikit_learn(trained, tmp_path):
    trained.save(tmp_path / "a.skops")
    code = (
        "import sys; import numpy as np; from digipath.measure.forests import StageForests; "
        f"f = StageForests.load({str(tmp_path / 'a.skops')!r}); f.predict(np.ones((2, 32))); "
        "assert 'imblearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_indices_are_those_of_the_categories():
    assert CATEGORIES == ("negative", "itc", "micro", "macro")


@pytest.mark.real_data
@pytest.mark.parametrize("balanced", [False, True])
def test_published_heatmap_features_part_tumour_from_normal(shared_data, balanced):
    """CAMELYON16 slides, 5-fold cross-validation; see benchmarks/camelyon16_features.py for the numbers."""
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    table = np.loadtxt(shared_data / "camelyon16_features" / "heatmap_train.csv", delimiter=",", skiprows=1)
    features, labels = logged(table[:, :-1]), table[:, -1].astype(int)
    held_out = np.full(len(labels), np.nan)
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(features, labels):
        pipeline = forest_pipeline(labels[train], seed=0, balanced=balanced).fit(features[train], labels[train])
        held_out[test] = pipeline.predict_proba(features[test])[:, 1]
    assert roc_auc_score(labels, held_out) > 0.85
