"""One run of a training of networks that find tumours: patches → fit → weights with a card → whole brains, scored."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from digipath.errors import BadVolume, Cancelled
from digipath.files import read_json, write_json
from digipath.measure.scores import dice
from digipath.nn.unet_3d import context_of
from digipath.training.objective import SEGMENTATION
from digipath.training.trained import named
from digipath.training.tumour_config import TumourArm
from digipath.training.tumour_source import TumourSource, unmarked
from digipath.training.volume_cards import network_card
from digipath.training.volume_plan import NetworkRun
from digipath.training.volume_runs import Bench, trained
from digipath.tumour import segmenter_predictors, tumour_mask, tumour_probability
from digipath.values import Progress
from digipath.weights import load_card


def train_network(run: NetworkRun, bench: Bench) -> dict[str, Any]:
    """Train one network, or go on there; returns its record. Raises as `digipath.training.volume_runs.trained`."""
    source, card = partial(_source, run, bench), partial(network_card, bench.plan, run)
    return trained(run, bench, source, lambda _: SEGMENTATION, card)


def overlaps_of(run: NetworkRun, bench: Bench) -> list[dict[str, Any]]:
    """How a trained network finds the tumours of its test cases, asked once and kept; by its card, as users do.

    Each is scored on the voxels that the network sees, those of the brain, where alone a tumour is found; an outline
    that reaches beyond the brain counts as it is. `case`, `patient`, `dice`, and how many voxels were outlined
    (`truth_vox`) and found (`found_vox`).

    Raises:
        BadVolume, … about a case, as its brain is prepared. Cancelled.
    """
    path = bench.folder / "scores" / f"{run.name}.json"
    if path.exists():
        return list(read_json(path))
    card = load_card(str(bench.card(run)))
    predictors, found = segmenter_predictors(card), []
    told = named(bench.progress, f"scoring {run.name}")
    for number, case in enumerate(run.split.test):
        if told is not None:
            told(Progress(number, len(run.split.test), math.nan, case.name))
        if bench.cancel is not None and bench.cancel():
            raise Cancelled("cancelled while scoring; the same call goes on with this network")
        volume, truth = unmarked(bench.regions.open(case, run.arm.rule), run.arm.rule)
        probability = tumour_probability(
            volume, predictors, patch_vox=run.arm.rule.size, channel=card.kept[0], cancel=bench.cancel
        )
        try:
            mask = tumour_mask(probability, volume.brain)
        except BadVolume:  # there is none above the threshold
            mask = np.zeros_like(truth)
        counts = {"truth_vox": int(truth.sum()), "found_vox": int(mask.sum())}
        found.append({"case": case.name, "patient": case.patient, "dice": dice(truth, mask), **counts})
    write_json(path, found)
    return found


def _source(run: NetworkRun, bench: Bench, part: str) -> TumourSource | None:
    """Patches to train on, or to validate on: the same for every seed."""
    cases, arm, training = getattr(run.split, part), run.arm, part == "train"
    if not cases:
        return None
    assert isinstance(arm, TumourArm)
    context = context_of(arm.spec(len(bench.plan.config.data.classes))["config"])
    seed = run.seed if training else 0
    return TumourSource(cases, bench.regions, arm, context=context, seed=seed, training=training)
