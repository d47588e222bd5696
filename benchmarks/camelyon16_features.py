"""Tumour or normal from heatmap features that two CAMELYON16 entries published: with and without SMOTETomek.

    python benchmarks/camelyon16_features.py --data ../shared/data/camelyon16_features

The forest is the package's own (`digipath.measure.forests.forest_pipeline`), with SMOTETomek in an imbalanced-learn
pipeline that is fitted on training rows only, and without it. Nothing is tuned: there is one setting, which was chosen
on simulated patients. `heatmap_train.csv` by repeated stratified cross-validation (AUROC of all held-out rows of a
repeat), then trained on all of it and asked for `heatmap_validation.csv`, whose 50 rows give a wide interval:
stratified bootstrap, of the difference too. `didsr_method_I` by cross-validation alone, a table for each threshold of
its heatmaps. Prints a table and, at its end, one line of JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from digipath.measure.forests import forest_pipeline, logged

FOLDS, REPEATS, SEEDS, RESAMPLES = 5, 10, 10, 5000
WAYS = {"as it is": False, "SMOTETomek": True}


def read_table(path: Path):
    """Column names and rows of a CSV."""
    if not path.is_file():
        sys.exit(f"no table at {path}: give the folder with --data")
    with path.open(newline="", encoding="utf-8") as lines:
        head, *rows = csv.reader(lines)
    return head, rows


def read_heatmap_table(path: Path):
    """Features (n, 31) and labels (n,), 1 = tumour."""
    table = np.array(read_table(path)[1], float)
    return table[:, :-1], table[:, -1].astype(int)


def read_didsr(folder: Path, threshold: int):
    """Features (n, 30) and labels (n,) of the heatmaps at a threshold in tenths."""
    parts = []
    for kind in ("normal", "tumor"):
        name = f"data_sheet_for_random_forest_16_strike_{kind}_{threshold}_0502_Method_I_no_norm.csv"
        head, rows = read_table(folder / name)
        first = head.index("tumor")  # before it come a running number and the slide's name, which tells the label
        parts.append(np.array([row[first:] for row in rows], float))
    table = np.concatenate(parts)
    return table[:, 1:], table[:, 0].astype(int)


def answers(features, labels, unseen, *, balanced: bool, seed: int):
    """Probability of tumour of unseen rows."""
    pipeline = forest_pipeline(labels, seed=seed, balanced=balanced).fit(logged(features), labels)
    return pipeline.predict_proba(logged(unseen))[:, 1]


def cross_validated(features, labels):
    """AUROC of each repeat, by way."""
    found = {way: [] for way in WAYS}
    for repeat in range(REPEATS):
        folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=repeat).split(features, labels))
        for way, balanced in WAYS.items():
            held_out = np.full(len(labels), np.nan)
            for train, test in folds:
                held_out[test] = answers(features[train], labels[train], features[test], balanced=balanced, seed=repeat)
            found[way].append(float(roc_auc_score(labels, held_out)))
    return found


def validated(train, validation):
    """AUROC on the validation rows with 95 % intervals, by way and of the difference; mean of SEEDS forests."""
    labels = validation[1]
    means = {
        way: np.mean([answers(*train, validation[0], balanced=balanced, seed=seed) for seed in range(SEEDS)], axis=0)
        for way, balanced in WAYS.items()
    }
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(labels == label) for label in (0, 1)]
    drawn = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
        drawn.append([roc_auc_score(labels[rows], mean[rows]) for mean in means.values()])
    drawn = np.array(drawn)
    found = {
        way: {"auroc": float(roc_auc_score(labels, mean)), "interval": interval(drawn[:, place])}
        for place, (way, mean) in enumerate(means.items())
    }
    plain, balanced = WAYS
    change = found[balanced]["auroc"] - found[plain]["auroc"]
    return found | {"difference": {"auroc": change, "interval": interval(drawn[:, 1] - drawn[:, 0])}}


def shared_rows(train, validation):
    """How many validation rows are in the training table too; rows of zeros, without a detection, do not count."""
    known = {tuple(row) for row in train}
    return sum(tuple(row) in known and bool(row.any()) for row in validation)


def interval(values):
    """The middle 95 %."""
    return [float(value) for value in np.quantile(values, (0.025, 0.975))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/camelyon16_features"))
    folder = parser.parse_args().data
    train, validation = (read_heatmap_table(folder / f"heatmap_{part}.csv") for part in ("train", "validation"))
    copies = shared_rows(train[0], validation[0])
    record = {"folds": FOLDS, "repeats": REPEATS, "validation_rows_also_in_train": copies, "cross_validation": {}}
    tables = {"heatmap_train": train}
    tables |= {f"didsr at 0.{tenth}": read_didsr(folder / "didsr_method_I", tenth) for tenth in range(5, 10)}
    print(f"AUROC, {FOLDS}-fold cross-validation, mean ± SD of {REPEATS} repeats")
    print(f"{'table':16}{'rows':>6}{'tumour':>8}" + "".join(f"{way:>19}" for way in WAYS))
    for name, (features, labels) in tables.items():
        found = cross_validated(features, labels)
        record["cross_validation"][name] = {
            way: {"mean": float(np.mean(one)), "sd": float(np.std(one))} for way, one in found.items()
        } | {"rows": len(labels), "tumour": int(labels.sum()), "features": features.shape[1]}
        cells = "".join(f"{np.mean(one):10.4f} ± {np.std(one):.4f}" for one in found.values())
        print(f"{name:16}{len(labels):6}{labels.sum():8}{cells}", flush=True)
    record["validation"] = validated(train, validation)
    print(f"heatmap_train → heatmap_validation ({len(validation[1])} rows, {copies} of them with a detection "
          f"are in train too), forests of {SEEDS} seeds, 95 % interval by stratified bootstrap")  # fmt: skip
    for way, one in record["validation"].items():
        print(f"  {way:12}{one['auroc']:9.4f}  [{one['interval'][0]:.4f}, {one['interval'][1]:.4f}]")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
