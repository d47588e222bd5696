"""Tumour burden of a segmentation: its maps at a moderate resolution, and the intervals that its card knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.annotation import open_lesions
from digipath.coarser_maps import coarser_maps
from digipath.errors import BadInput, DigipathError
from digipath.maps import MapArray
from digipath.measure.burden import (
    PAIP_HARD_THRESHOLD,
    RULES,
    Burden,
    Sizes,
    paip_scores,
    tumour_burden,
)
from digipath.report import BurdenInput, BurdenRuleInput
from digipath.result import Segmentation, open_segmentation
from digipath.weights import load_card, member_cards

LEVEL, THRESHOLD = 0.9, 0.5
WORKING_UM = 8.0  # per pixel, at which the quantiles were measured; as near as the pyramid comes without being coarser
LONGEST_PX = 4096  # of a map in memory
NOT_CONFORMAL = "The intervals are the spread over thresholds and networks only, not conformal: "


@dataclass(frozen=True)
class MapFrame:
    """Where the maps of a result lie on their slide, from the run record.

    Attributes:
        mpp: µm per map pixel, None where unknown; l0_per_map_px: level-0 pixels per map pixel.
        size_l0: (width, height) of the slide.
    """

    mpp: float | None
    l0_per_map_px: float
    size_l0: tuple[int, int]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> MapFrame:
        """The frame that a run record states."""
        settings, slide = record["settings"], record["slide"]
        downsample = 1.0 if slide["mpp"] is None else settings["working_mpp"] / slide["mpp"]
        return cls(settings["map_mpp"], settings["reduce"] * downsample, tuple(slide["size_l0"]))

    def at(self, level: int) -> MapFrame:
        """The same at a level of the maps' pyramid."""
        return MapFrame(self.mpp and self.mpp * 2**level, self.l0_per_map_px * 2**level, self.size_l0)


def burden(
    segmentation: Segmentation | str | Path, *, threshold: float = THRESHOLD, level: float = LEVEL
) -> Burden:
    """Tumour burden of a finished segmentation: viable / whole tumour by two rules, each with an interval.

    Khened et al. 2021 ("Tumour burden estimation", doi:10.1038/s41598-021-90444-8); see `digipath.measure.burden`.
    Measured at the level of the maps' pyramid that comes nearest to 8 µm per pixel without being coarser, and has at
    most 4096 pixels on its longer side; `Burden.mpp` says which. Intervals are conformal where the weights' card has
    quantiles for this threshold and the maps hold the networks' spread. For research use only.

    Args:
        segmentation: a result of `segment`, or its folder.
        threshold: probability from which tissue counts as viable tumour, in (0, 1].
        level: of the intervals, one that the card has quantiles for.

    Raises:
        NotFound: no finished result there. BadInput: a threshold outside (0, 1], or a level the card does not have.
    """
    result = segmentation if isinstance(segmentation, Segmentation) else open_segmentation(segmentation)
    return burden_of(result.maps, result.run, threshold=threshold, level=level)


def burden_of(
    maps: Mapping[str, MapArray], record: Mapping[str, Any], *, threshold: float = THRESHOLD, level: float = LEVEL
) -> Burden:
    """The same from maps and run record, for a run that is still writing its report.

    Raises:
        BadInput: as `burden`.
    """
    if not 0 < level < 1:
        raise BadInput(f"a level must be in (0, 1), got {level}")
    at = working_level(maps["probability"], record["settings"]["map_mpp"], WORKING_UM)
    frame = MapFrame.of(record).at(at)
    probability, tissue = coarser_maps(maps["probability"].plane(-1), maps["tissue"], 2.0**at)
    spread = None
    if "epistemic" in maps:
        spread = np.sqrt(np.maximum(maps["epistemic"].plane(-1).level(at)[:].astype(np.float32), 0))
    quantiles, told = _quantiles(record["weights"], threshold, level, spread is not None and frame.mpp is not None)
    found = tumour_burden(
        probability,
        tissue,
        frame.mpp,
        threshold=threshold,
        spread=spread,
        level=level,
        quantiles=quantiles,
        l0_per_map_px=frame.l0_per_map_px,
    )
    return replace(found, notes=(*found.notes, *told))


def burden_input(found: Burden) -> BurdenInput:
    """A burden as the report shows it."""
    rules = [
        BurdenRuleInput(one.rule, one.percent, one.viable_mm2, one.whole_mm2, one.interval, one.hulls)
        for one in found.rules
    ]
    reason = () if found.reason is None else (found.reason,)
    return BurdenInput(rules, found.level, found.conformal, found.mpp, found.pieces, (*reason, *found.notes))


def compare_burden(
    segmentation: Segmentation, found: Burden, viable: str | Path, whole: str | Path | None = None
) -> dict[str, Any]:
    """PAIP's scores of a burden against outlines or a mask of viable tumour, and of the whole tumour if there is one.

    Without a whole tumour the true burden is that of the true viable tumour by each rule, which `true_burden_by` says.
    All is compared in the burden's own frame; truth counts within the tissue that has a prediction.

    Args:
        found: made of `segmentation`.
        viable, whole: files that `digipath.annotation.open_lesions` reads.

    Returns:
        `task1` (Jaccard index), `task1_hard` (as the challenge ranks: 0 below 0.65) and by rule `true_percent`,
        `absolute_error` in percentage points, `task2`, `task2_hard`.

    Raises:
        BadAnnotation: a truth that cannot be read or does not fit the slide. BadInput: the slide has no tissue.
    """
    if found.rules[0].percent is None:
        raise BadInput(f"expected tissue with a prediction to compare with, found none: {segmentation.folder}")
    maps = segmentation.maps
    at = working_level(maps["probability"], segmentation.mpp, WORKING_UM)
    frame = MapFrame.of(segmentation.run).at(at)
    probability, tissue = coarser_maps(maps["probability"].plane(-1), maps["tissue"], 2.0**at)
    known = tissue & ~np.isnan(probability)
    true_viable = _drawn(viable, frame, known)
    scores = {"true_burden_by": "rule" if whole is None else "whole tumour"}
    if whole is None:
        by_rule = tumour_burden(true_viable.astype(np.float32), known, frame.mpp, sizes=Sizes(0, 0)).rules
        truths = [one.percent or 0.0 for one in by_rule]
    else:
        true_whole = _drawn(whole, frame, known) | true_viable
        truths = [100 * int(true_viable.sum()) / max(int(true_whole.sum()), 1)] * len(RULES)
    return scores | _scores(found, true_viable, truths)


def _scores(found: Burden, true_viable: NDArray[np.bool_], truths: list[float]) -> dict[str, Any]:
    rules, task1, hard1 = {}, 0.0, 0.0
    for one, true in zip(found.rules, truths, strict=True):
        pair = ((one.percent or 0.0) / 100, true / 100)
        task1, task2 = paip_scores(found.viable, true_viable, pair)
        hard1, hard2 = paip_scores(found.viable, true_viable, pair, hard_threshold=PAIP_HARD_THRESHOLD)
        apart = 100 * abs(pair[0] - pair[1])
        rules[one.rule] = {"true_percent": true, "absolute_error": apart, "task2": task2, "task2_hard": hard2}
    return {"task1": task1, "task1_hard": hard1, "rules": rules}


def working_level(probability: MapArray, map_mpp: float | None, coarsest_um: float = 0.0) -> int:
    """The level of the pyramid to work at: the finest of at most 4096 px, or a coarser one no coarser than asked.

    Args:
        coarsest_um: µm per pixel that would do.
    """
    fitting = [n for n in range(probability.levels) if max(probability.level(n).shape[:2]) <= LONGEST_PX]
    enough = [n for n in fitting if map_mpp is not None and map_mpp * 2**n <= coarsest_um * 1.01]
    return enough[-1] if enough else [*fitting, probability.levels - 1][0]


def _drawn(path: str | Path, frame: MapFrame, tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
    with open_lesions(Path(path), frame.size_l0) as lesions:
        return lesions.read_block(0, 0, *tissue.shape, downsample=frame.l0_per_map_px) & tissue


def _quantiles(
    weights: Mapping[str, Any], threshold: float, level: float, measurable: bool
) -> tuple[dict[str, float] | None, tuple[str, ...]]:
    """By rule, from the card of the weights; or None. What is to be told of them, or why there are none.

    Raises:
        BadInput: the card has quantiles, but not for this level.
    """
    known = _card_entry(weights)
    if known is None:
        return None, (f"{NOT_CONFORMAL}the card of these weights has no quantiles of burden.",)
    if not measurable:
        return None, (f"{NOT_CONFORMAL}that takes several networks and a known resolution.",)
    if threshold != known["threshold"] or known["sizes"] != asdict(Sizes()):
        return None, (f"{NOT_CONFORMAL}the card's are for a threshold of {known['threshold']:g} and {known['sizes']}.",)
    levels = known["quantiles"][RULES[0]]
    if f"{level:g}" not in levels:
        raise BadInput(f"expected one of the levels {', '.join(levels)} that the card has quantiles for, got {level:g}")
    by_rule = {rule: known["quantiles"][rule][f"{level:g}"] for rule in RULES}
    return {rule: np.inf if value is None else float(value) for rule, value in by_rule.items()}, (
        f"Intervals at {level:g} were calibrated on {known['data']}",
    )


def _card_entry(weights: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the card says of burden, if it is still the card of the weights that were used."""
    try:
        card = load_card(weights["name"])
        used = {one.name: one.record["sha256"] for one in member_cards(weights["name"])}
    except DigipathError:
        return None
    if used != weights.get("sha256"):
        return None
    return (card.record.get("conformal") or {}).get("burden")
