"""Calibration on the real crops, and whether uncertainty finds errors there; everything out of fold.

    python examples/train_lymphnode_ensemble.py --data ../shared/data --out lymphnode --seeds 0
    python benchmarks/calibration_crops.py lymphnode/seed0

Takes the folder of a finished training (its configuration lies beside it) and writes nothing there. Each crop is
seen only by networks that were trained without its fold. The temperature of a network is fitted on what the same
member's networks of the OTHER folds said of the cases that those held out, so neither a network nor its temperature
has seen the crops that judge them. Scores are of all pixels together; intervals are 95 % of draws of patients.

Prints one JSON object: for each network and for the mean of the networks, under one view and under eight, expected
calibration error (15 bins), Brier score, AUROC and Dice before and after; what one temperature of the mean itself
would do; error-AUROC and area under risk–coverage of each uncertainty under eight views; and the uncertainty that
the other folds would choose, with its AUROC on the fold left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from digipath.files import read_json
from digipath.measure.calibration import fit_temperature, reliability
from digipath.measure.confusion import Confusion
from digipath.measure.error_finding import BORDER_UM, MEASURES, RECOMMENDED, ErrorCounts, error_auroc, risk_coverage
from digipath.networks import published
from digipath.scoring import CaseScore, Sample, Scoring, score_cases
from digipath.training.plan import Plan, prepare
from digipath.training.results import load_scores
from digipath.training.runs import Round

DRAWS = 1000
VIEWS = (1, 8)
Scores = dict[str, list[CaseScore]]  # by the name of the round, in the order of its cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("training", type=Path, help="a seed's folder that examples/train_lymphnode_ensemble.py made")
    parser.add_argument("--runtime", default="auto", choices=("auto", "keras", "openvino"))
    arguments = parser.parse_args()
    record = read_json(arguments.training / "results.json")
    plan = prepare(arguments.training.parent / "lymphnode_ensemble.toml", seed=record["config"]["seed"])
    fitted = temperatures(plan, arguments.training)
    with tempfile.TemporaryDirectory() as folder:
        scores = {
            (calibrated, views): score(plan, arguments, Path(folder), fitted if calibrated else {}, views)
            for calibrated in (False, True)
            for views in VIEWS
        }
    patients = [case.patient for round_ in plan.rounds for case in round_.held_out]
    found = {
        "cases": len(patients),
        "patients": len(set(patients)),
        "temperatures": {name: round(temperature, 4) for name, temperature in fitted.items()},
    }
    for views in VIEWS:
        before, after = scores[False, views], scores[True, views]
        found[f"views {views}"] = {
            "networks": networks(plan, before, after),
            "mean of networks": both(together(before), together(after), patients),
            "mean, a temperature of its own instead": of_the_mean(before),
        }
    before, after = scores[False, VIEWS[-1]], scores[True, VIEWS[-1]]
    found |= {
        "error finding, as trained": error_finding(before, patients),
        "error finding, calibrated": error_finding(after, patients),
        "chosen on the other folds, calibrated": chosen(after),
        "border_um": BORDER_UM,
    }
    print(json.dumps(found, indent=1))


def temperatures(plan: Plan, training: Path) -> dict[str, float]:
    """Of each run by its name: fitted on the held-out cases of the same member in the other rounds."""
    kept = {round_.name: load_scores(training / "scores" / f"{round_.name}.npz") for round_ in plan.rounds}
    found = {}
    for round_ in plan.rounds:
        for place, run in enumerate(round_.runs):
            others = [case.networks[place] for name, cases in kept.items() if name != round_.name for case in cases]
            temperature = fit_temperature(Confusion.pooled(others).histogram)
            if temperature is None:
                raise SystemExit(f"no temperature fits {run.name}")
            found[run.name] = temperature
    return found


def score(plan: Plan, arguments: argparse.Namespace, folder: Path, fitted: dict[str, float], views: int) -> Scores:
    """Scores of the held-out cases of each round, with these temperatures folded into the networks."""
    found = {}
    for round_ in plan.rounds:
        card = write_cards(plan, round_, arguments.training / "weights", folder, fitted)
        ensemble = published(str(card), runtime=arguments.runtime)
        samples = [Sample(case.name, case.slide, case.annotation, case.mpp) for case in round_.held_out]
        found[round_.name] = list(score_cases(samples, ensemble, Scoring(views), errors=True))
    return found


def write_cards(plan: Plan, round_: Round, weights: Path, folder: Path, fitted: dict[str, float]) -> Path:
    """An ensemble of a round's networks, calibrated where a temperature is given, in a folder of its own."""
    names = [plan.name(run) for run in round_.runs]
    for name, run in zip(names, round_.runs, strict=True):
        card = read_json(weights / f"{name}.json")
        shutil.copy(weights / card["file"], folder)
        card["calibration"] = None
        if run.name in fitted:
            unknown = {"before": 0.0, "after": 0.0}  # it is what is measured here
            card["calibration"] = {
                "temperature": fitted[run.name], "expected_calibration_error": unknown, "brier": unknown, "pixels": 1,
                "data": "the other folds", "split": "cross-validated",
            }  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(card))
    ensemble = read_json(weights / f"{plan.config.card.name}.json") | {"name": round_.name, "members": names}
    path = folder / f"{round_.name}.json"
    path.write_text(json.dumps(ensemble))
    return path


def together(scores: Scores) -> list[Confusion]:
    """Of the mean of the networks, case by case."""
    return [case.together for cases in scores.values() for case in cases]


def networks(plan: Plan, before: Scores, after: Scores) -> dict[str, object]:
    """Each member over all folds, and each of its networks on its own fold."""
    found = {}
    for place, member in enumerate(plan.config.members):
        sides = [
            {fold: [case.networks[place] for case in cases] for fold, cases in scores.items()}
            for scores in (before, after)
        ]
        pooled = [list(itertools.chain.from_iterable(side.values())) for side in sides]
        by_fold = {fold: both(*(side[fold] for side in sides)) for fold in before}
        found[member.name] = both(*pooled) | {"by fold": by_fold}
    return found


def both(before: list[Confusion], after: list[Confusion], patients: Sequence[str] = ()) -> dict[str, object]:
    """The numbers of the same cases before and after, with intervals if the patients are given."""
    found: dict[str, object] = {"before": numbers(before), "after": numbers(after)}
    if patients:
        drawn = [[error_of(side, draw) for side in (before, after)] for draw in draws(patients)]
        found["interval of the change of the error"] = interval([two - one for one, two in drawn])
        found["intervals of the error"] = [interval(side) for side in zip(*drawn, strict=True)]
    return found


def numbers(cases: Sequence[Confusion]) -> dict[str, float]:
    pooled = Confusion.pooled(cases)
    found = reliability(pooled.histogram)
    values = {
        "expected_calibration_error": found.expected_calibration_error,
        "brier": found.brier,
        "auroc": pooled.auroc,
        "pooled_dice": pooled.dice,
    }
    return {name: round(float(value), 4) for name, value in values.items() if value is not None}


def error_of(cases: Sequence[Confusion], draw: Sequence[int]) -> float:
    """Expected calibration error of the drawn cases together."""
    return reliability(sum(cases[place].histogram for place in draw)).expected_calibration_error or 0.0


def of_the_mean(scores: Scores) -> dict[str, object]:
    """The mean of the networks as they were trained, with one temperature that the other folds' means gave."""
    pooled = {name: Confusion.pooled(case.together for case in cases).histogram for name, cases in scores.items()}
    found = {name: fit_temperature(sum(pooled.values()) - own) or 1.0 for name, own in pooled.items()}
    after = [reliability(own, temperature=found[name]) for name, own in pooled.items()]
    whole = sum(after[1:], after[0])
    return {
        "temperatures": {name: round(temperature, 4) for name, temperature in found.items()},
        "expected_calibration_error": round(whole.expected_calibration_error or 0.0, 4),
        "brier": round(whole.brier or 0.0, 4),
    }


def error_finding(scores: Scores, patients: Sequence[str]) -> dict[str, object]:
    """Error-AUROC of each uncertainty in each part, and the area under its risk–coverage curve."""
    cases = [case for some in scores.values() for case in some]
    found: dict[str, object] = {}
    for name in MEASURES:
        parts = ErrorCounts.pooled(case.errors[name] for case in cases).parts()
        curve = risk_coverage(parts["all pixels"])
        if curve is None:
            raise SystemExit("no pixel was scored")
        found[name] = {
            "auroc": {part: round(error_auroc(histogram) or 0.0, 4) for part, histogram in parts.items()},
            "area_under_risk_coverage": round(curve.area, 4),
            "wrong": round(float(curve.risk[-1]), 4),
            "wrong_if_80_percent_are_kept": round(float(np.interp(0.8, curve.coverage, curve.risk)), 4),
        }
    each = [case.errors[RECOMMENDED].parts() for case in cases]
    chances = {
        part: [error_auroc(sum(each[place][part] for place in draw)) or 0.0 for draw in draws(patients)]
        for part in each[0]
    }
    found[f"intervals of {RECOMMENDED}"] = {part: interval(values) for part, values in chances.items()}
    return found


def chosen(scores: Scores) -> dict[str, object]:
    """For each fold, the uncertainty of the highest error-AUROC on the other folds, and what it reaches on this one."""
    whole = {
        fold: {name: ErrorCounts.pooled(case.errors[name] for case in cases).parts()["all pixels"] for name in MEASURES}
        for fold, cases in scores.items()
    }
    found = {}
    for fold, own in whole.items():
        others = [them for other, them in whole.items() if other != fold]
        reached = {name: error_auroc(sum(them[name] for them in others)) or 0.0 for name in MEASURES}
        best = max(reached, key=lambda name: reached[name])
        found[fold] = {"uncertainty": best, "auroc": round(error_auroc(own[best]) or 0.0, 4)}
    return found


def draws(patients: Sequence[str]) -> Iterator[list[int]]:
    """Places of the cases of as many patients as there are, drawn with replacement."""
    rng = np.random.default_rng(0)
    where: dict[str, list[int]] = {}
    for place, patient in enumerate(patients):
        where.setdefault(patient, []).append(place)
    names = sorted(where)
    for _ in range(DRAWS):
        yield [place for name in rng.choice(names, len(names)) for place in where[name]]


def interval(values: Sequence[float]) -> list[float]:
    return [round(float(value), 4) for value in np.percentile(values, (2.5, 97.5))]


if __name__ == "__main__":
    main()
