"""Training of the forests on the user's own heatmaps: manifest, cross-validation without leaks, card, scores."""

from __future__ import annotations

import json

import made_up_nodes
import numpy as np
import pytest
from imblearn.combine import SMOTETomek

from digipath.errors import BadInput, OutputUnwritable
from digipath.measure.forests import FORESTS, StageForests, logged
from digipath.measure.pn_stage import CATEGORIES, CELLS_NOTE, FEATURES
from digipath.training import stage_forest
from digipath.training.stage_forest import cross_validated, feature_ranges, train_stage
from digipath.training.stage_scores import SIZE_RULE, TOGETHER, stage_scores
from digipath.weights import load_card, verify


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return made_up_nodes.write_manifest(tmp_path_factory.mktemp("own"), patients=6)


@pytest.fixture(scope="module")
def trained(manifest, tmp_path_factory):
    return train_stage(manifest, out=tmp_path_factory.mktemp("trained") / "a" / "b", folds=3, seed=1)


def test_the_card_is_checked_complete_and_says_our_reading(trained):
    card = load_card(str(trained.card))
    record = card.record
    assert (record["kind"], card.classes) == ("forest", CATEGORIES)
    features = {"modality": "table", "features": list(FEATURES), "map_mpp": 16.0, "threshold": 0.9}
    assert record["input"] == features
    assert "our reading: P/C trained on detected positive nodes" in record["training"]["forests"]
    assert "24 nodes of 6 patients (6 negative, 6 itc, 6 micro, 6 macro)" in record["training"]["data"]
    assert record["training"]["split"] == "all nodes; scored by 3-fold cross-validation by patient, seed 1"
    assert {metric["name"] for metric in record["metrics"]} == {
        f"{metric} of the {subject}, {who}"
        for metric in ("quadratic kappa", "accuracy")
        for subject in ("category of nodes", "stage of patients")
        for who in ("vote of the four forests", "size rule")
    }
    assert CELLS_NOTE in record["limits"]
    assert "fewer than 200 cells) is not measured" in CELLS_NOTE
    assert verify(card) == record["sha256"]
    assert record["bytes"] == card.file.stat().st_size
    assert (record["conformal"]["nodes"]["count"], record["conformal"]["patients"]["count"]) == (24, 6)
    assert record["conformal"]["patients"]["quantiles"]["0.9"] is None  # six patients are too few


def test_the_forests_are_those_of_all_nodes_and_know_them(trained):
    rows = (trained.folder / "features.csv").read_text().splitlines()
    assert rows[0].split(",") == ["result", "patient", "category", *FEATURES]
    features = np.array([row.split(",")[3:] for row in rows[1:]], float)
    forests = StageForests.load(load_card(str(trained.card)).file)
    assert [CATEGORIES[one] for one in forests.predict(features)] == [row.split(",")[2] for row in rows[1:]]
    ranges = load_card(str(trained.card)).record["training"]["features"]
    assert ranges == feature_ranges(features)
    assert ranges["quantiles"] == [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]
    assert ranges["values"]["pixels_90"][-1] == pytest.approx(features[:, 4].max(), rel=1e-5)


def test_scores_say_who_answered_what(trained):
    scores = json.loads((trained.folder / "scores.json").read_text())
    assert scores == trained.record
    assert set(scores["categories"]) == {TOGETHER, SIZE_RULE, *FORESTS}
    assert len(scores["nodes"]) == 24
    for node in scores["nodes"]:
        assert sum(node["probabilities"].values()) == pytest.approx(1)
        assert set(node["votes"]) == set(FORESTS)
    right = sum(node["answer"] == node["truth"] for node in scores["nodes"])
    assert scores["categories"][TOGETHER]["accuracy"] == pytest.approx(right / 24, abs=1e-4)
    assert right > 20
    summary = (trained.folder / "summary.md").read_text()
    assert "For research use only" in summary
    assert "fewer than 200 cells) is not measured" in summary
    assert "too few to exclude anything" in summary


def test_the_same_seed_gives_the_same_files(manifest, trained, tmp_path):
    train_stage(manifest, out=tmp_path, folds=3, seed=1)
    for path in trained.folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_scores_by_hand():
    """Four nodes of two patients; the vote is wrong in one, the size rule in two."""
    truth = np.array([0, 3, 2, 1])
    by_forest = np.eye(4)[np.array([[0] * 4, [3, 3, 0, 0], [1] * 4, [1] * 4])]
    found = stage_scores(by_forest, truth, np.array([0, 0, 0, 1]), ["a", "a", "b", "b"])
    vote = found["categories"][TOGETHER]
    # Answers 0 3 1 1 to truths 0 3 2 1: Σ w O = 1. Σ w E: squared distances of each truth to the answers
    # are 0+9+1+1, 9+0+4+4, 4+1+1+1 and 1+4+0+0, together 40, of which a quarter is expected by chance.
    assert vote["kappa"] == pytest.approx(1 - 1 / 10, abs=1e-4)
    assert vote["accuracy"] == 0.75
    assert vote["confusion"]["micro"] == {"negative": 0, "itc": 1, "micro": 0, "macro": 0}
    assert found["categories"]["RF-CI"]["accuracy"] == 0.5
    assert found["categories"][SIZE_RULE]["accuracy"] == 0.5
    # a: pN1 by truth and vote, pN0 by size; b: pN1mi, but pN0(i+) by vote and by size
    assert (found["patients"]["count"], found["patients"]["outside"]) == (2, 0)
    assert found["patients"][TOGETHER]["accuracy"] == 0.5
    assert found["patients"][SIZE_RULE]["accuracy"] == 0
    assert stage_scores(by_forest, truth, truth, None)["patients"] is None


def test_patients_outside_the_table_are_counted_and_not_scored():
    truth = np.full(11, 3)
    found = stage_scores(np.eye(4)[np.full((11, 4), 3)], truth, truth, ["a"] * 10 + ["b"])["patients"]
    assert (found["count"], found["outside"], found[TOGETHER]["kappa"]) == (2, 1, 1)


# No row may be asked for by forests that saw it, or that saw rows SMOTETomek made of it.


def grouped(count=120, seed=0):
    features, categories, detected = made_up_nodes.table(count, np.random.default_rng(seed))
    return features, categories, detected, [f"patient {number // 5}" for number in range(count)]


def unseen_by_a_change(validate):
    """Whether answers for the rows of a fold stay the same when another row of the same fold is changed.

    True if the forests that answer for a fold know nothing of its rows, neither of themselves nor by what was
    balanced or scaled with them; False for any leak.
    """
    features, categories, detected, groups = grouped()
    before = validate(features, categories, detected, groups)
    changed = features.copy()
    changed[7] *= 50
    after = validate(changed, categories, detected, groups)
    same = np.isclose(before, after, rtol=0, atol=1e-12).all(axis=(1, 2))
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(4, shuffle=True, random_state=3)
    fold = next(test for _, test in splitter.split(features, categories, groups) if 7 in test)
    others = np.setdiff1d(np.arange(len(features)), fold)
    assert not same[others].all(), "the change must be seen by the forests that are trained on it"
    return bool(same[np.setdiff1d(fold, [7])].all())


def test_forests_know_nothing_of_the_rows_they_are_scored_on():
    assert unseen_by_a_change(lambda f, c, d, g: cross_validated(f, c, d, g, folds=4, seed=3))


def test_balancing_before_the_split_would_be_found():
    """The same check on a cross-validation that balances first, as is often done."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import StratifiedGroupKFold

    def leaking(features, categories, _detected, groups):
        balanced, truth = SMOTETomek(random_state=0).fit_resample(logged(features), categories)
        made, made_truth = balanced[len(features) :], truth[len(features) :]
        answers = np.zeros((len(features), 4, 4))
        splitter = StratifiedGroupKFold(4, shuffle=True, random_state=3)
        for train, test in splitter.split(features, categories, groups):
            rows = np.concatenate([logged(features[train]), made])
            forest = RandomForestClassifier(50, random_state=0).fit(rows, np.append(categories[train], made_truth))
            answers[test] = forest.predict_proba(logged(features[test]))[:, None]
        return answers

    assert not unseen_by_a_change(leaking)


def test_smotetomek_is_given_the_training_rows_of_each_fold_and_no_other(monkeypatch):
    features, categories, detected, groups = grouped()
    tag = FEATURES.index("regions")
    features[:, tag] = np.arange(120)  # who a row is; scaling keeps the order and the proportions
    given = []
    resample = SMOTETomek.fit_resample
    monkeypatch.setattr(
        SMOTETomek, "fit_resample", lambda self, X, y: (given.append(X[:, tag].copy()), resample(self, X, y))[1]
    )
    cross_validated(features, categories, detected, groups, folds=4, seed=3)
    from sklearn.model_selection import StratifiedGroupKFold

    expected = []
    for train, _ in StratifiedGroupKFold(4, shuffle=True, random_state=3).split(features, categories, groups):
        expected += [train[(categories[train] == 0) | detected[train]], train]  # RF-PB, RF-CB
    assert len(given) == len(expected) == 8
    for tags, rows in zip(given, expected, strict=True):
        assert len(tags) == len(rows) < 120
        known = logged(rows.astype(float))
        np.testing.assert_allclose(tags, (known - known.mean()) / known.std(), atol=1e-9)


def test_no_patient_is_on_both_sides(monkeypatch):
    features, categories, detected, groups = grouped()
    features[:, 0] = np.arange(120)
    trained_on = []
    train = stage_forest.train_forests
    monkeypatch.setattr(
        stage_forest, "train_forests", lambda f, *rest, **more: (trained_on.append(f[:, 0]), train(f, *rest, **more))[1]
    )
    answers = cross_validated(features, categories, detected, groups, folds=4, seed=0)
    assert not np.isnan(answers).any()
    for rows in trained_on:
        inside = {groups[int(row)] for row in rows}
        outside = {groups[row] for row in range(120) if row not in rows}
        assert inside.isdisjoint(outside)
        assert outside


def test_fewer_patients_than_folds_and_tiny_categories():
    features, categories, detected, _ = grouped(12)
    categories[:] = [0, 0, 0, 3, 3, 3, 0, 1, 3, 0, 2, 0]
    answers = cross_validated(features, categories, detected | True, [str(n // 4) for n in range(12)], folds=5)
    np.testing.assert_allclose(answers.sum(axis=2), 1)


@pytest.mark.parametrize(("folds", "groups"), [(1, list("abcd")), (5, ["a"] * 4)])
def test_too_few_folds_or_patients(folds, groups):
    with pytest.raises(BadInput, match="two folds and two patients at least"):
        cross_validated(np.ones((4, 32)), [0, 1, 0, 1], [True] * 4, groups, folds=folds)


# What is refused.

BAD = {
    "no such column": ("file,category\na.npz,itc\n", "columns result, category"),
    "empty": ("result,category\n", "got 0 rows"),
    "unknown column": ("result,category,age\na.npz,itc,3\n", "and, if known, patient"),
    "category": ("result,category\nnode_0.npz,benign\n", "line 2, column category: expected one of negative, itc"),
    "blank patient": ("result,category,patient\nnode_0.npz,itc,\n", "column patient: expected a value"),
    "no file": ("result,category\nnone.npz,itc\n", "line 2, column result: expected a file of maps"),
    "no result": ("result,category\n.,itc\n", "column result: no result in"),
    "twice": ("result,category\nnode_0.npz,itc\n./node_0.npz,itc\n", "expected each node once"),
    "one category": ("result,category\nnode_0.npz,itc\nnode_1.npz,itc\n", "at least two categories"),
    "one node": ("result,category\nnode_0.npz,itc\n", "two patients at least"),
    "one patient": ("result,category,patient\nnode_0.npz,itc,a\nnode_1.npz,micro,a\n", "two patients at least"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_manifest_that_cannot_be_used_is_refused_in_one_line(manifest, tmp_path, case):
    text, message = BAD[case]
    path = manifest.parent / "bad.csv"
    path.write_text(text)
    with pytest.raises(BadInput, match=message) as raised:
        train_stage(path, out=tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_settings_that_cannot_be_used(manifest, tmp_path):
    with pytest.raises(BadInput, match="lower-case letters"):
        train_stage(manifest, out=tmp_path / "out", name="My forest")
    with pytest.raises(BadInput, match="column result: expected maps of at most 8 µm per pixel"):
        train_stage(manifest, out=tmp_path / "out", map_mpp=4)
    with pytest.raises(BadInput, match="map_mpp"):
        train_stage(manifest, out=tmp_path / "out", map_mpp=0)
    with pytest.raises(BadInput, match="at least 2 folds"):
        train_stage(manifest, out=tmp_path / "out", folds=1)
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputUnwritable, match="cannot write to"):
        train_stage(manifest, out=tmp_path / "file" / "out", folds=2)


def test_without_patients_each_node_counts_as_one_and_the_card_says_so(manifest, tmp_path):
    rows = [line.rpartition(",")[0] + ",7" for line in manifest.read_text().splitlines()]
    (manifest.parent / "plain.csv").write_text("\n".join(["result,category,x_age", *rows[1:]]))
    found = train_stage(manifest.parent / "plain.csv", out=tmp_path, folds=2)
    assert found.record["patients"] is None
    assert "2-fold cross-validation by node" in found.record["split"]
    record = load_card(str(found.card)).record
    assert record["conformal"]["patients"] is None
    assert any("Patients were unknown" in limit for limit in record["limits"])
    assert "patients unknown" in (tmp_path / "summary.md").read_text()


def test_a_category_that_never_came_is_named_in_the_card(manifest, tmp_path):
    rows = [line for line in manifest.read_text().splitlines() if ",itc," not in line]
    (manifest.parent / "three.csv").write_text("\n".join(rows))
    found = train_stage(manifest.parent / "three.csv", out=tmp_path, folds=2)
    limits = load_card(str(found.card)).record["limits"]
    assert "Trained without any node of the category itc: it never answers so." in limits
