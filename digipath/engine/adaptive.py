"""Adaptive views: each patch is seen by the first views, and by all only where those leave it undecided.

A map pixel is undecided where the first views differ by `spread` or more (each the mean of all networks),
or where their mean is within `margin` of the threshold 0.5 (several classes: the two most probable are within
twice that of each other). A patch is undecided where more than `share` of what is wanted in it is, weighed as the
patch is blended, so that a patch's border counts for as little as it weighs in the map. Undecided patches are seen
by all views and are then exactly those of a full run.

What that changes is measured, not assumed: a sample of the other patches, chosen by a hash of their position, is
seen by all views too. Their deviation is |probability of the first views − probability of all| on map pixels of
the patch, before overlapping patches are averaged, which lessens it. Audited patches go into the maps in full.

Where only the first views were used, the aleatoric variance is that over them, which tends to be less than over all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.engine.ensemble import Ensemble, Floats, Maps
from digipath.engine.stitch import block_mean, patch_weights
from digipath.engine.views import DIHEDRAL, VIEW_COUNTS, View, views_of
from digipath.errors import BadInput
from digipath.values import PREDICTED, Grid, Patch, ViewTally, stretch_box

ADAPTIVE = "adaptive"
SALT = b"digipath"  # with it a lone patch, which lies at the origin, is not audited: nothing would be saved
Window = Callable[[int], Floats]


@dataclass(frozen=True)
class AdaptiveViews:
    """The rule. The first two of the eight views are the patch as it is and a quarter turn of it.

    `benchmarks/adaptive_views.py` measures what the rule saves and changes on a slide. A mirror image in place of
    the quarter turn deviates more from all eight: a flip leaves rows rows, a quarter turn does not.

    Attributes:
        views: all of them; first: how many of them every patch is seen by.
        spread, margin: of probabilities; share: of a patch; audit: share of settled patches that are checked.
    """

    views: tuple[View, ...] = DIHEDRAL
    first: int = 2
    spread: float = 0.2
    margin: float = 0.1
    share: float = 0.1
    audit: float = 1 / 16

    def __len__(self) -> int:
        return len(self.views)

    def undecided(self, probability: Floats, weights: Floats) -> bool:
        """Whether a patch has to be seen by all views.

        Args:
            probability: (first views, *map_patch, C), the mean of the networks in each view.
            weights: (*map_patch), 0 where nothing is wanted.
        """
        mean = probability.mean(axis=0)
        if mean.shape[-1] == 1:
            near = np.abs(mean[..., 0] - 0.5) <= self.margin
        else:
            ranked = np.sort(mean, axis=-1)
            near = ranked[..., -1] - ranked[..., -2] <= 2 * self.margin
        differ = (np.ptp(probability, axis=0) >= self.spread).any(axis=-1)
        return bool(weights[near | differ].sum(dtype=np.float64) > self.share * weights.sum(dtype=np.float64))

    def audits(self, start_px: Sequence[int]) -> bool:
        """Whether a settled patch is seen by all views all the same: the position decides, as if at random."""
        digest = hashlib.blake2b(np.asarray(start_px, "<i8").tobytes(), digest_size=8, person=SALT).digest()
        return int.from_bytes(digest, "little") < self.audit * 2**64

    def record(self, tally: ViewTally, networks: int) -> dict[str, Any]:
        """What was saved and what it changed, as the run record holds it.

        `passes_full`: what all views of all patches would have taken; `saving`: the share of it that was left out.
        `mean_absolute_deviation`, `largest_deviation`: over the audited patches; None where there were none.
        """
        whole = tally.patches * len(self) * networks
        return {
            "patches": tally.patches,
            "full": tally.full,
            "audited": tally.audited,
            "passes": tally.passes,
            "passes_full": whole,
            "saving": round(1 - tally.passes / whole, 4) if whole else 0.0,
            "mean_absolute_deviation": tally.deviation / tally.compared if tally.compared else None,
            "largest_deviation": tally.largest if tally.compared else None,
            "rule": str(self),
        }

    def __str__(self) -> str:
        return (
            f"all {len(self)} views where, of more than {self.share:.0%} of a patch, the first {self.first} differ by "
            f"{self.spread:g} or more or their mean is within {self.margin:g} of 0.5; {self.audit:.1%} of the others "
            "are audited"
        )


Views = Sequence[View] | AdaptiveViews


def chosen_views(views: int | str) -> Views:
    """1, 2, 4 or 8 views, or the rule for "adaptive".

    Raises:
        BadInput: anything else.
    """
    if views == ADAPTIVE:
        return AdaptiveViews()
    if isinstance(views, str) or views not in VIEW_COUNTS:
        raise BadInput(f"views must be {', '.join(map(str, VIEW_COUNTS))} or {ADAPTIVE!r}, got {views!r}")
    return views_of(views)


class AdaptiveSight:
    """Sees patches by the rule; safe to call from several threads.

    Args:
        ensemble: what predicts. rule: which views.
        grid, wanted: as `predict_maps` takes them: what in a patch counts.
        window: weights along one axis, as the patch will be blended.
    """

    def __init__(
        self, ensemble: Ensemble, rule: AdaptiveViews, grid: Grid, wanted: NDArray[np.uint8], window: Window
    ) -> None:
        self._ensemble, self._rule, self._grid, self._wanted = ensemble, rule, grid, wanted
        self._weights = patch_weights(grid.map_patch, window)

    def __call__(self, patches: Sequence[Patch], stack: NDArray[np.generic]) -> tuple[list[Maps], ViewTally]:
        """The maps of each patch, (*patch, C) float32, and what they took; `stack` holds their pixels."""
        rule, predictors = self._rule, self._ensemble.predictors
        first = [self._ensemble.answers(p, stack, rule.views[: rule.first]) for p in predictors]
        looks = [self._look(views, p) for views, p in zip(np.mean(first, axis=0).swapaxes(0, 1), patches, strict=True)]
        undecided = [rule.undecided(*look) for look in looks]
        audited = [not more and rule.audits(patch.start_px) for more, patch in zip(undecided, patches, strict=True)]
        maps = self._maps(first, stack, np.logical_or(undecided, audited))
        whole = sum(undecided) + sum(audited)
        passes = len(predictors) * (len(patches) * rule.first + whole * (len(rule) - rule.first))
        tally = ViewTally(len(patches), sum(undecided), sum(audited), passes)
        for look, of_patch, patch, audit in zip(looks, maps, patches, audited, strict=True):
            if audit:
                tally += self._deviation(look, of_patch["probability"], patch)
        return maps, tally

    def _look(self, views: Floats, patch: Patch) -> tuple[Floats, Floats]:
        """Map pixels of a patch in each first view, (first views, *map_patch, C), and what each of them weighs."""
        means, readable = zip(*(block_mean(view, self._grid.reduce, patch.valid) for view in views), strict=True)
        counts = self._wanted_of(patch) if readable[0] is None else self._wanted_of(patch) & readable[0]
        return np.stack(means), self._weights * counts

    def _wanted_of(self, patch: Patch) -> NDArray[np.bool_]:
        """Which map pixels of a patch are to be predicted; none beyond the map."""
        starts = [start // self._grid.reduce for start in patch.start_px]
        box = [slice(first, first + size) for first, size in zip(starts, self._grid.map_patch, strict=True)]
        found = stretch_box(self._wanted, self._grid.map_shape, box) == PREDICTED
        beyond = [(0, size - have) for size, have in zip(self._grid.map_patch, found.shape, strict=True)]
        return np.pad(found, beyond)

    def _maps(
        self, first: Sequence[Sequence[Floats]], stack: NDArray[np.generic], whole: NDArray[np.bool_]
    ) -> list[Maps]:
        """The maps of each patch: of those marked `whole` from all views in their order, else from the first ones."""
        ensemble, rest = self._ensemble, self._rule.views[self._rule.first :]
        maps: list[Maps] = [{}] * len(whole)
        settled = ([answer[~whole] for answer in answers] for answers in first)
        complete = (
            [answer[whole] for answer in answers] + ensemble.answers(predictor, stack[whole], rest)
            for predictor, answers in zip(ensemble.predictors, first, strict=True)
        )
        for mask, answers in ((~whole, settled), (whole, complete)):
            if mask.any():
                found = ensemble.combined(answers)
                for at, index in enumerate(np.flatnonzero(mask)):
                    maps[index] = {name: values[at] for name, values in found.items()}
        return maps

    def _deviation(self, look: tuple[Floats, Floats], probability: Floats, patch: Patch) -> ViewTally:
        """How far the first views' probability is from that of all views, where it is wanted."""
        views, weights = look
        full, _ = block_mean(probability, self._grid.reduce, patch.valid)
        change = np.abs(views.mean(axis=0) - full)[weights > 0].astype(np.float64)
        return ViewTally(compared=change.size, deviation=float(change.sum()), largest=float(change.max(initial=0)))
