"""Train and test the pN forests that digipath ships, on simulated heatmaps of real lesions.

    python examples/train_pn_forest.py --data ../shared/data --out pn-forest --seeds 0 1 2 3 4

For each seed the slides whose lesions (or tissue) pathologists outlined are parted in three: nodes of the first part
train the forests, patients of the second calibrate the conformal sets, patients of the third test both. Heatmaps
are made by a simulated detector with the errors that `examples/measure_detector.py` measured; the test is repeated
with twice and with half those errors, which the forests were not trained for. Categories come as often as in
CAMELYON17's public table: training nodes one by one, patients with the nodes of one of its rows.

Simulated features are kept in <out>/seed<n>, so the same command goes on after an interruption. The first
seed's forests and card are those that are shipped; the others show the spread.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from digipath.files import write_json
from digipath.measure.conformal import coverage_bounds
from digipath.measure.forests import FORESTS, StageForests, train_forests
from digipath.measure.lesions import find_lesions, metastases_of, slide_category
from digipath.measure.pn_stage import CATEGORIES, heatmap_features, patient_stage, stage_probabilities
from digipath.measure.pn_tables import StageTable, quadratic_kappa, read_stage_table
from digipath.measure.stage_sets import LEVELS, calibrate_stage, node_set, stage_set
from digipath.progress import progress_bar
from digipath.synthetic.detector import DetectorErrors
from digipath.training.simulated_nodes import Outlines, make_node, read_outlines_json
from digipath.training.stage_forest import feature_ranges, write_forest
from digipath.values import Progress

NAME = "lymphnode-pn-forest-v1"
SLIDE_MPP = 0.243
SHARES = (0.5, 0.25, 0.25)  # of the slides: to train, calibrate and test
TRAINING_NODES, CALIBRATION_PATIENTS, COVERAGE_PATIENTS = 1000, 400, 500
FACTORS = (1.0, 2.0, 0.5)  # times the measured error rates
SIZE_THRESHOLDS = (0.5, 0.9)  # the first as `digipath stage` uses it

Drawn = tuple[tuple[str, ...], tuple[int, ...]]  # categories of nodes, and whose they are


@dataclass(frozen=True)
class Nodes:
    """Simulated nodes: features (n, 32), true categories, the size rule's by threshold (n, …), patients."""

    features: np.ndarray
    truth: np.ndarray
    by_size: np.ndarray
    patient: np.ndarray

    @property
    def detected(self) -> np.ndarray:
        """Whether any pixel of a node reaches 0.9."""
        return self.features[:, -1] > 0


@dataclass(frozen=True)
class Job:
    """Nodes to simulate: outlines by number of the slides' part, errors, and each node's category and patient."""

    outlines: Outlines
    errors: DetectorErrors
    seed: tuple[int, ...]
    categories: tuple[str, ...]
    patients: tuple[int, ...]
    size_thresholds: tuple[float, ...] = SIZE_THRESHOLDS


def simulate(path: Path, job: Job, processes: int) -> Nodes:
    """Simulate the job's nodes, or read them back; each has random numbers of its own, whoever computes it."""
    if not path.exists():
        chunks = np.array_split(np.arange(len(job.categories)), max(1, len(job.categories) // 20))
        with ProcessPoolExecutor(processes) as pool, progress_bar() as show:
            parts = []
            for part in pool.map(_simulated, [(job, chunk) for chunk in chunks]):
                parts.append(part)
                if show is not None:
                    show(Progress(len(parts), len(chunks), float("nan"), path.stem))
        features, by_size = (np.concatenate(column) for column in zip(*parts, strict=True))
        truth = np.array([CATEGORIES.index(category) for category in job.categories])
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".partial").open("wb") as stream:
            np.savez_compressed(stream, features=features, truth=truth, by_size=by_size, patient=np.array(job.patients))
        path.with_suffix(".partial").replace(path)
    with np.load(path) as kept:
        return Nodes(kept["features"], kept["truth"], kept["by_size"], kept["patient"])


def _simulated(given: tuple[Job, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    job, indices = given
    features, by_size = [], []
    mpp = job.errors.map_mpp
    for index in indices.tolist():
        rng = np.random.default_rng((*job.seed, index))
        node = make_node(job.categories[index], job.outlines, rng, mpp=mpp)
        heatmap = node.heatmap(job.errors, rng)
        features.append(list(heatmap_features(heatmap, node.tissue, mpp).values()))
        by_size.append([size_rule(heatmap, mpp, threshold) for threshold in job.size_thresholds])
    return np.array(features), np.array(by_size)


def size_rule(heatmap: np.ndarray, mpp: float, threshold: float) -> int:
    """Index of the category by the longest diameter alone."""
    lesions = find_lesions(heatmap, map_mpp=mpp, l0_per_map_px=1.0, threshold=threshold)
    return CATEGORIES.index(str(slide_category(metastases_of(lesions))))


def one_by_one(table: StageTable, count: int, rng: np.random.Generator) -> Drawn:
    """Categories of nodes as often as in the table, each of a patient of its own."""
    nodes = [category for patient in table.patients.values() for category in patient.nodes.values()]
    return tuple(nodes[i] for i in rng.integers(len(nodes), size=count)), tuple(range(count))


def rows_of(table: StageTable, rows: Sequence[int]) -> Drawn:
    """Categories and patients of these rows of the table."""
    patients = list(table.patients.values())
    pairs = [(c, number) for number, row in enumerate(rows) for c in patients[row].nodes.values()]
    return tuple(c for c, _ in pairs), tuple(number for _, number in pairs)


def stages(categories: np.ndarray, patient: np.ndarray) -> list[str]:
    return [patient_stage([CATEGORIES[c] for c in categories[patient == one]]) for one in np.unique(patient)]


def kappas(nodes: Nodes, forests: StageForests) -> dict[str, float]:
    """Quadratic kappa of the patients' stages by the vote, by each forest and by the size rule; and accuracies."""
    true = stages(nodes.truth, nodes.patient)
    votes = forests.votes(nodes.features)
    answers = {"forests": forests.predict(nodes.features)}
    answers |= {name: votes[:, place] for place, name in enumerate(FORESTS)}
    answers |= {f"size rule at {level:g}": nodes.by_size[:, i] for i, level in enumerate(SIZE_THRESHOLDS)}
    found = {name: quadratic_kappa(true, stages(answer, nodes.patient)) for name, answer in answers.items()}
    found["accuracy of stages"] = float(np.mean(np.array(true) == np.array(stages(answers["forests"], nodes.patient))))
    found["accuracy of nodes"] = float(np.mean(answers["forests"] == nodes.truth))
    return found


def coverage(nodes: Nodes, forests: StageForests, conformal: dict[str, object]) -> dict[str, object]:
    """How often sets of nodes and patients hold the truth, how large they are, and what chance allows, by level."""
    chances = forests.probabilities(nodes.features)
    patients = [nodes.patient == one for one in np.unique(nodes.patient)]
    true = stages(nodes.truth, nodes.patient)
    found: dict[str, object] = {}
    for level in LEVELS:
        of_nodes = [node_set(one, conformal, level) for one in chances]
        of_patients = [
            stage_set(stage_probabilities(chances[which]), conformal, level, nodes=int(which.sum()))
            for which in patients
        ]
        for name, sets, truth in (
            ("nodes", of_nodes, [CATEGORIES[one] for one in nodes.truth]),
            ("patients", of_patients, true),
        ):
            found[f"{name}, level {level:g}"] = {
                "count": len(sets),
                "covered": float(np.mean([one in held for one, held in zip(truth, sets, strict=True)])),
                "bounds": coverage_bounds(len(sets), level),
                "mean_size": float(np.mean([len(held) for held in sets])),
            }
    return found


class Experiment:
    """One seed: its parts of the slides, the nodes simulated of them, and the forests trained on the first part."""

    def __init__(self, seed: int, data: Path, out: Path, processes: int) -> None:
        self.seed, self.folder, self.processes = seed, out / f"seed{seed}", processes
        self.table = read_stage_table(data / "camelyon17" / "stage_labels.csv")
        outlines = read_outlines_json(data / "camelyon16_lesions" / "lesions.json.gz", SLIDE_MPP)
        self.train, self.calibrate, self.test = outlines.split(SHARES, np.random.default_rng(seed))
        self.errors = DetectorErrors.measured()
        nodes = self.nodes("train", self.train, one_by_one(self.table, TRAINING_NODES, self.rng(0)), number=0)
        self.forests = train_forests(nodes.features, nodes.truth, nodes.detected, seed=seed)

    def rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, number))

    def nodes(
        self, name: str, outlines: Outlines, drawn: Drawn, *, number: int, factor: float = 1.0, by_size: bool = False
    ) -> Nodes:
        """Simulated nodes; `number` tells their random numbers from those of other nodes of this seed."""
        thresholds = SIZE_THRESHOLDS if by_size else ()
        job = Job(outlines, self.errors.scaled(factor), (self.seed, number), *drawn, thresholds)
        return simulate(self.folder / f"{name}.npz", job, self.processes)

    def kappas(self) -> dict[str, dict[str, float]]:
        """Scores of the table's 100 patients, made of the third part's slides, by how much the detector errs."""
        found = {}
        for number, factor in enumerate(FACTORS, 1):
            drawn = rows_of(self.table, range(len(self.table.patients)))
            name = f"test-{factor:g}"
            nodes = self.nodes(name, self.test, drawn, number=number, factor=factor, by_size=True)
            found[f"errors × {factor:g}"] = kappas(nodes, self.forests)
        return found

    def conformal(self) -> dict[str, object]:
        """Quantiles measured on patients of the second part's slides."""
        nodes = self.nodes("calibrate", self.calibrate, self.patients(CALIBRATION_PATIENTS, 4), number=4)
        return calibrate_stage(self.forests.probabilities(nodes.features), nodes.truth, nodes.patient)

    def coverages(self, conformal: dict[str, object]) -> dict[str, dict[str, object]]:
        """Coverage on other patients of the second part's slides, which no forest was trained on."""
        found = {}
        for number, factor in enumerate(FACTORS[:2], 5):
            drawn = self.patients(COVERAGE_PATIENTS, number)
            nodes = self.nodes(f"coverage-{factor:g}", self.calibrate, drawn, number=number, factor=factor)
            found[f"sets, errors × {factor:g}"] = coverage(nodes, self.forests, conformal)
        return found

    def patients(self, count: int, number: int) -> Drawn:
        """Patients with the nodes' categories of rows drawn from the table."""
        return rows_of(self.table, self.rng(number).integers(len(self.table.patients), size=count).tolist())


def write_card(
    folder: Path, shipped: Experiment, conformal: dict[str, object], results: dict[int, dict[str, dict[str, float]]]
) -> None:
    """The shipped seed's forests with their card: what they were trained on, and what all seeds scored."""
    train, calibrate, test = (f"{len(p.lesions)} and {len(p.tissue)}" for p in (
        shipped.train, shipped.calibrate, shipped.test
    ))  # fmt: skip
    split = (
        f"by slide: {train} slides with lesions and with normal tissue to train, {calibrate} to calibrate, {test} to "
        f"test; {len(results)} seeds, of which the first is shipped"
    )
    metrics = []
    for factor in FACTORS:
        for name, text in (("forests", "the vote"), ("RF-CI", "RF-CI alone"), ("size rule at 0.5", "the size rule")):
            values = [result[f"errors × {factor:g}"][name] for result in results.values()]
            metrics.append({
                "name": f"quadratic kappa of pN stages, {text}",
                "value": round(float(np.mean(values)), 4),
                "spread": round(float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, 4),
                "data": f"100 simulated patients a seed, detector's errors × {factor:g}",
                "split": split,
            })  # fmt: skip
    drawn = one_by_one(shipped.table, TRAINING_NODES, shipped.rng(0))
    train_nodes = shipped.nodes("train", shipped.train, drawn, number=0)
    write_forest(
        folder,
        NAME,
        shipped.forests,
        map_mpp=shipped.errors.map_mpp,
        training={
            "data": f"{TRAINING_NODES} simulated heatmaps of real lesion outlines (CAMELYON16), made by a simulated "
            "detector with measured errors",
            "split": split,
            "seed": shipped.seed,
            "detector": shipped.errors.to_record(),
            "features": feature_ranges(train_nodes.features),
        },
        metrics=metrics,
        conformal=conformal,
        licence="Apache-2.0",
        limits=(
            "trained and tested on simulated heatmaps, not on slides of patients",
            "isolated tumour cells are rarely told from false alarms",
            "the vote scores lower than the unbalanced forests alone; see the metrics",
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="default: ../shared/data")
    parser.add_argument("--out", type=Path, default=Path("pn-forest"), help="where to write; default: pn-forest")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4")
    parser.add_argument("--processes", type=int, default=2, help="that simulate at once; default: 2")
    given = parser.parse_args()

    results: dict[int, dict[str, dict[str, float]]] = {}
    for seed in given.seeds:
        experiment = Experiment(seed, given.data, given.out, given.processes)
        results[seed] = experiment.kappas()
        if seed == given.seeds[0]:
            conformal = experiment.conformal()
            sets = experiment.coverages(conformal)
            shipped = experiment
    write_json(given.out / "results.json", {"kappas": results, **sets})
    write_card(given.out, shipped, conformal, results)
    for factor in FACTORS:
        print(f"\nerrors × {factor:g}, {len(results)} seeds")
        every = [result[f"errors × {factor:g}"] for result in results.values()]
        for name in every[0]:
            values = [one[name] for one in every]
            print(f"  {name:20} {np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}")
    print(json.dumps(sets, indent=2))


if __name__ == "__main__":
    main()
