"""Do the intervals of tumour burden hold the truth as often as they say? On generated cases with known burden.

    python benchmarks/burden_conformal.py
    python benchmarks/burden_conformal.py --card weights/lymphnode-ensemble-v1.json

Cases are those of `digipath.synthetic.burden_cases`: the errors of a single network, measured on real crops and slides
of lymph nodes, made by three networks that share a stated part of them. Calibration and test cases have seeds of
their own. Quantiles come from the calibration cases alone, made under the errors as measured; coverage is then
counted on test cases under the errors as measured, doubled, and shared by all networks (so that their spread says
little), with the binomial bounds of 95 % for that many cases. The first is what the promise is for; the others are
reported, not promised. Lengths in percentage points: of the conformal intervals, of the raw spread, of the trivial
[0, 100]. Prints one JSON line per rule, condition and level.

`--card` writes the quantiles and the measured coverage into `conformal.burden` of that card.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from digipath.files import read_json, write_json
from digipath.measure.burden import RULES, Sizes, paip_scores, tumour_burden
from digipath.measure.conformal import coverage_bounds, interval_scores, split_quantile
from digipath.synthetic.burden_cases import LEAST_VIABLE_MM2, EnsembleErrors, burden_case

LEVELS = (0.8, 0.9, 0.95)
AS_MEASURED = EnsembleErrors()
CONDITIONS = {
    "errors as measured": AS_MEASURED,
    "errors doubled": AS_MEASURED.scaled(2),
    "errors shared by all networks": replace(AS_MEASURED, shared=0.98),
}
CALIBRATION, TEST = 0, 1  # first part of a case's seed
STRATA = (0, 33, 67, 100)  # percent of true burden


def measured(given: tuple[EnsembleErrors, tuple[int, int]]) -> list[float]:
    """True burden, Jaccard index of viable tumour, then percent, low and high by each rule."""
    errors, seed = given
    case = burden_case(errors, np.random.default_rng(seed))
    truth = case.truth
    found = tumour_burden(case.probability, truth.tissue, truth.mpp, spread=case.spread)
    jaccard, _ = paip_scores(found.viable, truth.viable, (0.0, 0.0))
    rules = [(one.percent, *one.interval) for one in found.rules]
    return [truth.percent, jaccard, *(value for rule in rules for value in rule)]


def table(pool, errors: EnsembleErrors, part: int, count: int) -> np.ndarray:
    """A row per case, see `measured`."""
    return np.array(pool.map(measured, [(errors, (part, at)) for at in range(count)], chunksize=4))


def by_rule(rows: np.ndarray, rule: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Percent, low and high."""
    first = 2 + 3 * RULES.index(rule)
    return tuple(rows[:, first : first + 3].T)


def quantiles(rows: np.ndarray) -> dict[str, dict[str, float]]:
    """Of each rule, by level."""
    found = {}
    for rule in RULES:
        _, low, high = by_rule(rows, rule)
        scores = interval_scores(low, high, rows[:, 0])
        found[rule] = {f"{level:g}": round(split_quantile(scores, level), 4) for level in LEVELS}
    return found


def widened(point: np.ndarray, low: np.ndarray, high: np.ndarray, by: float) -> tuple[np.ndarray, np.ndarray]:
    """As `tumour_burden` does it."""
    return np.clip(np.minimum(point, low - by), 0, 100), np.clip(np.maximum(point, high + by), 0, 100)


def coverage(rows: np.ndarray, rule: str, level: float, by: float) -> dict[str, object]:
    """How often the intervals hold the truth, and how long they are."""
    truth, (point, raw_low, raw_high) = rows[:, 0], by_rule(rows, rule)
    low, high = widened(point, raw_low, raw_high, by)
    covered = (low <= truth) & (truth <= high)
    bounds = coverage_bounds(len(rows), level)
    strata = {
        f"{least}–{most} %": round(float(covered[(truth > least) & (truth <= most)].mean()), 3)
        for least, most in pairwise(STRATA)
    }
    return {
        "level": level,
        "quantile": by,
        "coverage": round(float(covered.mean()), 4),
        "bounds": [round(bound, 4) for bound in bounds],
        "within_bounds": bool(bounds[0] <= covered.mean() <= bounds[1]),
        "coverage_by_true_burden": strata,
        "mean_length": round(float((high - low).mean()), 2),
        "raw_spread_coverage": round(float(((raw_low <= truth) & (truth <= raw_high)).mean()), 4),
        "raw_spread_mean_length": round(float((raw_high - raw_low).mean()), 2),
        "trivial_length": 100,
    }


def accuracy(rows: np.ndarray, rule: str) -> dict[str, float]:
    """Of the point estimate, with PAIP's scores."""
    apart = by_rule(rows, rule)[0] - rows[:, 0]
    return {
        "mean_error": round(float(apart.mean()), 2),
        "mean_absolute_error": round(float(np.abs(apart).mean()), 2),
        "paip_task1": round(float(rows[:, 1].mean()), 4),
        "paip_task2": round(float(((1 - np.abs(apart) / 100) * rows[:, 1]).mean()), 4),
    }


def tested(tests: dict[str, np.ndarray], found: dict[str, dict[str, float]]) -> list[dict[str, object]]:
    """All that was counted, a dictionary per rule, condition and level."""
    return [
        {"rule": rule, "condition": name, "cases": len(rows)}
        | coverage(rows, rule, level, found[rule][f"{level:g}"])
        | accuracy(rows, rule)
        for rule in RULES
        for name, rows in tests.items()
        for level in LEVELS
    ]


def card_entry(found: dict[str, dict[str, float]], counted: list[dict[str, object]], cases: int) -> dict[str, object]:
    """What a card says of burden."""
    names = ("rule", "condition", "level", "cases", "coverage", "bounds", "mean_length")
    return {
        "method": "split conformal (conformalised quantile regression) on the interval that thresholds ± 0.1 and the "
        "networks' standard deviation span; quantile in percentage points, added on both sides",
        "data": f"{cases} generated cases with known burden (digipath.synthetic.burden_cases): generated tissue and "
        "tumour, maps with the errors of a single network of this lymph-node task, as measured on crops and slides; "
        "three networks that share 70 % of the variance of these errors, and a drift between slides, are assumed. "
        f"All hold at least {LEAST_VIABLE_MM2:g} mm² of viable tumour: nothing is known of slides without. "
        "No liver, no real burden: on other data the intervals hold nothing that is stated here.",
        "command": "python benchmarks/burden_conformal.py --card weights/lymphnode-ensemble-v1.json",
        "threshold": 0.5,
        "map_mpp": AS_MEASURED.detector.map_mpp,
        "sizes": vars(Sizes()),
        "errors": AS_MEASURED.to_record(),
        "quantiles": found,
        "measured": [{name: one[name] for name in names} for one in counted],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", type=int, default=800, metavar="CASES")
    parser.add_argument("--test", type=int, default=500, metavar="CASES", help="under each condition")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--card", type=Path, help="a weights card whose conformal.burden is to be written")
    parser.add_argument("--save", type=Path, metavar="FILE.npz", help="keep what was measured of each case")
    given = parser.parse_args()
    with get_context("spawn").Pool(given.processes) as pool:
        calibration = table(pool, AS_MEASURED, CALIBRATION, given.calibration)
        tests = {name: table(pool, errors, TEST, given.test) for name, errors in CONDITIONS.items()}
    found = quantiles(calibration)
    counted = tested(tests, found)
    for one in counted:
        print(json.dumps(one, ensure_ascii=False))
    if given.save is not None:
        np.savez_compressed(given.save, calibration=calibration, **tests)
    if given.card is not None:
        record = read_json(given.card)
        record["conformal"] = (record.get("conformal") or {}) | {
            "burden": card_entry(found, counted, given.calibration)
        }
        write_json(given.card, record)


if __name__ == "__main__":
    main()
