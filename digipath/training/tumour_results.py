"""The scores of networks that find tumours: overlap with the outline in whole brains, patient by patient."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from digipath.training.volume_plan import VolumePlan

Overlaps = Sequence[Mapping[str, Any]]  # of cases, see `digipath.training.tumour_runs.overlaps_of`
DRAWS, LEVEL = 1000, 0.95


@dataclass(frozen=True)
class DiceScore:
    """Dice coefficients of n patients, that of a patient being the mean over the cases.

    Attributes:
        patients: n. mean, median, least: of them. spread: their standard deviation (n − 1), None of one.
        interval: of the mean, 95 %, by percentile bootstrap of patients.
    """

    patients: int
    mean: float
    median: float
    least: float
    spread: float | None
    interval: tuple[float, float]

    def to_record(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "interval": list(self.interval)}


def dice_score(overlaps: Overlaps, *, seed: int = 0) -> DiceScore:
    """Of one case or more."""
    own: dict[str, list[float]] = {}
    for one in overlaps:
        own.setdefault(one["patient"], []).append(one["dice"])
    each = np.array([np.mean(values) for values in own.values()])
    drawn = np.random.default_rng(seed).choice(each, (DRAWS, len(each))).mean(axis=1)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    spread = float(each.std(ddof=1)) if len(each) > 1 else None
    return DiceScore(len(each), float(each.mean()), float(np.median(each)), float(each.min()), spread, (low, high))


def overlap_rows(plan: VolumePlan, found: Mapping[str, Overlaps]) -> str:
    """A CSV table: one line per network and test case. found: by the network's name."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["run", "network", "case", "patient", "dice", "truth_vox", "found_vox"])
    for run in plan.runs:
        for network in run.networks:
            for one in found[network.name]:
                numbers = [f"{one['dice']:.4f}", one["truth_vox"], one["found_vox"]]
                table.writerow([run.name, network.name, one["case"], one["patient"], *numbers])
    return text.getvalue()
