"""Train and test the pN forests that digipath ships, on simulated heatmaps of real lesions.

    python examples/train_pn_forest.py --data ../shared/data --out pn-forest --seeds 0 1 2 3 4

For each seed the slides whose lesions (or tissue) pathologists outlined are parted in three: nodes of the first part
train the forests, patients of the second calibrate the conformal sets, others of the second show how often sets hold
the truth, and patients of the third, whose slides nothing was trained or calibrated on, test both. Heatmaps
are made by a simulated detector with the errors that `examples/measure_detector.py` measured, and every other one with
the confidence that the default weights showed on crops, which is lower. The test takes these two detectors one by one,
and twice and half the errors, which the forests were not trained for. Categories come as often as in CAMELYON17's
public table: training nodes one by one, patients with the nodes of one of its rows.

`--choose` parts the training slides once more, compares leaves and the weighing of balanced forests on patients of the
smaller part, and stops. Both were chosen so, for all seeds together; leaves of one node and of two are as good.

Simulated features are kept in <out>/seed<n>, so the same command goes on after an interruption. The first
seed's forests and card are those that are shipped; the others show the spread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import shapely

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
NODES, PATIENTS = 2000, 100  # to train on, and to test on
CALIBRATION, COVERAGE = 4, 5  # times as many patients as in the test
MEASURED, DOUBLED, HALVED, ON_CROPS = "errors × 1", "errors × 2", "errors × 0.5", "confidence as on crops"
BOTH = (MEASURED, ON_CROPS)  # detectors that the forests are trained and the sets calibrated for
SIZE_THRESHOLDS = (0.5, 0.9)  # the first as `digipath stage` uses it
CHOICE, LEAVES = 100, (1, 2, 5)  # the random numbers of the choice, and what there is to choose from

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
    """Nodes to simulate: outlines of a part of the slides, each node's category and patient.

    detectors: those of patients 0, 1, …, in turn.
    """

    outlines: Outlines
    detectors: tuple[DetectorErrors, ...]
    seed: tuple[int, ...]
    categories: tuple[str, ...]
    patients: tuple[int, ...]
    size_thresholds: tuple[float, ...] = SIZE_THRESHOLDS

    @property
    def digest(self) -> str:
        """Of all that decides the nodes."""
        slides = (self.outlines.lesions | self.outlines.tissue).items()
        found = hashlib.sha256(repr(replace(self, outlines=Outlines({}, {}))).encode())
        for name, drawn in sorted(slides):
            found.update(name.encode() + b"".join(shapely.to_wkb(drawn)))
        return found.hexdigest()


def detectors() -> dict[str, DetectorErrors]:
    """What makes heatmaps, by name."""
    measured = DetectorErrors.measured()
    return {
        MEASURED: measured,
        ON_CROPS: DetectorErrors.measured(on_crops=True),
        DOUBLED: measured.scaled(2),
        HALVED: measured.scaled(0.5),
    }


def simulate(path: Path, job: Job, processes: int) -> Nodes:
    """Simulate the job's nodes, or read them back; each has random numbers of its own, whoever computes it."""
    if not path.exists():
        chunks = np.array_split(np.arange(len(job.categories)), max(1, len(job.categories) // 20))
        with progress_bar() as show:
            parts = []
            for part in _parts([(job, chunk) for chunk in chunks], processes):
                parts.append(part)
                if show is not None:
                    show(Progress(len(parts), len(chunks), float("nan"), path.stem))
        features, by_size = (np.concatenate(column) for column in zip(*parts, strict=True))
        truth = np.array([CATEGORIES.index(category) for category in job.categories])
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".partial").open("wb") as stream:
            columns = {"features": features, "truth": truth, "by_size": by_size, "patient": np.array(job.patients)}
            np.savez_compressed(stream, **columns, job=job.digest)
        path.with_suffix(".partial").replace(path)
    with np.load(path) as kept:
        if str(kept.get("job")) != job.digest:
            raise SystemExit(f"expected this run's nodes, got those of another: choose another --out than {path}")
        return Nodes(kept["features"], kept["truth"], kept["by_size"], kept["patient"])


def _parts(given: Sequence[tuple[Job, np.ndarray]], processes: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if processes == 1:
        yield from map(_simulated, given)
    else:
        with ProcessPoolExecutor(processes) as pool:
            yield from pool.map(_simulated, given)


def _simulated(given: tuple[Job, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    job, indices = given
    features, by_size = [], []
    for index in indices.tolist():
        detector = job.detectors[job.patients[index] % len(job.detectors)]
        mpp = detector.map_mpp
        rng = np.random.default_rng((*job.seed, index))
        node = make_node(job.categories[index], job.outlines, rng, mpp=mpp)
        heatmap = node.heatmap(detector, rng)
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
    for index, category in enumerate(CATEGORIES):
        if (there := nodes.truth == index).any():
            found[f"recall of {category}"] = float(np.mean(answers["forests"][there] == index))
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

    def __init__(
        self, seed: int, data: Path, out: Path, *, processes: int = 2, nodes: int = NODES, patients: int = PATIENTS
    ) -> None:
        self.seed, self.folder, self.processes = seed, out / f"seed{seed}", processes
        self.train_on, self.test_on = nodes, patients
        self.table = read_stage_table(data / "camelyon17" / "stage_labels.csv")
        outlines = read_outlines_json(data / "camelyon16_lesions" / "lesions.json.gz", SLIDE_MPP)
        self.train, self.calibrate, self.test = outlines.split(SHARES, np.random.default_rng(seed))
        self.detectors = detectors()

    @cached_property
    def training(self) -> Nodes:
        return self.nodes("train", self.train, one_by_one(self.table, self.train_on, self.rng(0)), number=0)

    @cached_property
    def forests(self) -> StageForests:
        return train_forests(self.training.features, self.training.truth, self.training.detected, seed=self.seed)

    def rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, number))

    def nodes(
        self,
        name: str,
        outlines: Outlines,
        drawn: Drawn,
        *,
        number: int,
        errors: Sequence[str] = BOTH,
        by_size: bool = False,
    ) -> Nodes:
        """Simulated nodes; `number` tells their random numbers from those of other nodes of this seed."""
        thresholds = SIZE_THRESHOLDS if by_size else ()
        detectors = tuple(self.detectors[each] for each in errors)
        job = Job(outlines, detectors, (self.seed, number), *drawn, thresholds)
        return simulate(self.folder / f"{name}.npz", job, self.processes)

    def choices(self) -> dict[str, dict[str, float]]:
        """Scores of forests trained on two of three training slides, for the third: leaves of several sizes, and
        balanced forests whose probabilities are not weighed by how often categories come."""
        fit, rest = self.train.split((2, 1), np.random.default_rng((self.seed, CHOICE)))
        drawn = one_by_one(self.table, self.train_on, self.rng(CHOICE))
        train = self.nodes("choose-train", fit, drawn, number=CHOICE)
        drawn = rows_of(self.table, range(self.test_on))
        nodes = self.nodes("choose-test", rest, drawn, number=CHOICE + 1, by_size=True)
        found = {}
        for leaf in LEAVES:
            forests = train_forests(train.features, train.truth, train.detected, seed=self.seed, least_leaf=leaf)
            found[f"at least {leaf} in a leaf"] = kappas(nodes, forests)
            equal = {name: replace(one, weights=np.ones(len(CATEGORIES))) for name, one in forests.forests.items()}
            found[f"at least {leaf} in a leaf, all categories as likely"] = kappas(nodes, StageForests(equal))
        return found

    def kappas(self) -> dict[str, dict[str, float]]:
        """Scores of the table's patients, made of the third part's slides, by detector."""
        return {errors: kappas(self.tests(errors), self.forests) for errors in self.detectors}

    def tests(self, errors: str) -> Nodes:
        """Nodes of the table's patients, made of the third part's slides by this detector."""
        number = 1 + list(self.detectors).index(errors)
        drawn = rows_of(self.table, range(self.test_on))
        return self.nodes(f"test-{number}", self.test, drawn, number=number, errors=[errors], by_size=True)

    def conformal(self) -> dict[str, object]:
        """Quantiles measured on patients of the second part's slides."""
        nodes = self.nodes("calibrate", self.calibrate, self.patients(CALIBRATION * self.test_on, 10), number=10)
        return calibrate_stage(self.forests.probabilities(nodes.features), nodes.truth, nodes.patient)

    def coverages(self, conformal: dict[str, object]) -> dict[str, dict[str, object]]:
        """Coverage on other patients of the second part's slides, and on the patients of the third part's."""
        found = {}
        for number, errors in enumerate((BOTH, [DOUBLED]), 11):
            drawn = self.patients(COVERAGE * self.test_on, number)
            nodes = self.nodes(f"coverage-{number}", self.calibrate, drawn, number=number, errors=errors)
            found[f"sets, {' and '.join(errors)}"] = coverage(nodes, self.forests, conformal)
        for errors in self.detectors:
            found[f"sets, {errors}, slides of the test"] = coverage(self.tests(errors), self.forests, conformal)
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
    unsure = np.mean([result[ON_CROPS]["forests"] for result in results.values()])
    for errors in shipped.detectors:
        sizes = {f"size rule at {level:g}": f"the size rule at {level:g}" for level in SIZE_THRESHOLDS}
        for name, text in ({"forests": "the vote", "RF-CI": "RF-CI alone"} | sizes).items():
            values = [result[errors][name] for result in results.values()]
            metrics.append({
                "name": f"quadratic kappa of pN stages, {text}",
                "value": round(float(np.mean(values)), 4),
                "spread": round(float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, 4),
                "data": f"{shipped.test_on} simulated patients a seed, detector's {errors}",
                "split": split,
            })  # fmt: skip
    write_forest(
        folder,
        NAME,
        shipped.forests,
        map_mpp=shipped.detectors[MEASURED].map_mpp,
        training={
            "data": f"{shipped.train_on} simulated heatmaps of real lesion outlines (CAMELYON16), made by a simulated "
            f"detector with measured errors, half of them with its {MEASURED}, half with its {ON_CROPS}",
            "split": split,
            "seed": shipped.seed,
            "detectors": {name: shipped.detectors[name].to_record() for name in BOTH},
            "features": feature_ranges(shipped.training.features),
        },
        metrics=metrics,
        conformal=conformal,
        licence="Apache-2.0",
        limits=(
            "trained and tested on simulated heatmaps, not on slides of patients",
            "isolated tumour cells are rarely told from false alarms",
            f"with the {ON_CROPS} of the default weights the vote has a kappa of {unsure:.2f} only",
            "the detector's confidence was fitted to published heatmaps of all these slides, those of the test too",
        ),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="default: ../shared/data")
    parser.add_argument("--out", type=Path, default=Path("pn-forest"), help="where to write; default: pn-forest")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4")
    parser.add_argument("--processes", type=int, default=2, help="that simulate at once; default: 2")
    parser.add_argument("--nodes", type=int, default=NODES, help=f"to train on; default: {NODES}")
    parser.add_argument("--patients", type=int, default=PATIENTS, help=f"of the table, to test on; default: {PATIENTS}")
    parser.add_argument("--choose", action="store_true", help="compare kinds of forests on training slides, and stop")
    given = parser.parse_args(arguments)
    if not 1 <= given.patients <= PATIENTS:
        parser.error(f"--patients: expected 1 to {PATIENTS}, as many as the table has, got {given.patients}")

    settings = {"processes": given.processes, "nodes": given.nodes, "patients": given.patients}
    experiments = {seed: Experiment(seed, given.data, given.out, **settings) for seed in given.seeds}
    if given.choose:
        show({seed: experiment.choices() for seed, experiment in experiments.items()})
        return
    results = {seed: experiment.kappas() for seed, experiment in experiments.items()}
    shipped = experiments[given.seeds[0]]
    conformal = shipped.conformal()
    sets = shipped.coverages(conformal)
    write_json(given.out / "results.json", {"kappas": results, **sets})
    write_card(given.out, shipped, conformal, results)
    show(results)
    print(json.dumps(sets, indent=2))


def show(results: dict[int, dict[str, dict[str, float]]]) -> None:
    """Print mean and standard deviation over the seeds of every score."""
    seeds = list(results.values())
    for title in seeds[0]:
        print(f"\n{title}, {len(seeds)} seeds")
        for name in seeds[0][title]:
            values = [one[title][name] for one in seeds]
            print(f"  {name:20} {np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}")


if __name__ == "__main__":
    main()
