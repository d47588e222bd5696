"""What several networks under several views say of a patch, and how sure they are of it.

In a patch, p[m, t] over M predictors and T views gives (Khened et al. 2021, equations 4 and 5)

    probability         mean over m, t
    aleatoric           mean over m of the variance over t                       (absent if T = 1)
    epistemic           variance over m of the mean over t                       (absent if M = 1)
    members/<name>      the mean over t of one m                                 (on request)
    entropy             H(probability)                                           (on request)
    mutual_information  H(probability) − mean over m of H(the mean over t)       (on request; absent if M = 1)

pixel by pixel. H is Shannon's entropy in bits: of the positive class against the rest where one class is
kept, else of the distribution over the classes. Variances are those of the population.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from digipath.engine.views import View
from digipath.errors import BadInput, BadPredictor
from digipath.values import ENTROPIES, Predictor

Floats = NDArray[np.float32]
Maps = dict[str, Floats]
SUM_ERROR = 0.01  # of the classes of a patch as a whole
ROUNDING = 1e-3  # beyond [0, 1]: what half precision makes of a probability


def map_names(
    networks: int, views: int, extra: Sequence[str] = (), members: Sequence[str] = ()
) -> tuple[str, ...]:
    """The maps that so many networks and views define, with the `extra` ones and those of `members`.

    Raises:
        BadInput: an extra map that does not exist.
    """
    if unknown := [name for name in extra if name not in ENTROPIES]:
        raise BadInput(f"extra maps are {' and '.join(ENTROPIES)}, got {unknown[0]!r}")
    defined = {"aleatoric": views > 1, "epistemic": networks > 1}
    asked = {name: name in extra and (name == "entropy" or networks > 1) for name in ENTROPIES}
    found = [name for name, there in {**defined, **asked}.items() if there]
    return ("probability", *found, *(f"members/{name}" for name in members))


@dataclass(frozen=True)
class Ensemble:
    """Predictors that see the same patches, and which maps are wanted of them.

    Attributes:
        predictors: M callables, see `digipath.values.Predictor`.
        classes: which of their channels to keep, as C channels of the maps.
        extra: maps on request, of `digipath.values.ENTROPIES`.
        members: a name for each predictor whose own map is wanted: none or M.
        per_patch: the predictors give one answer for a patch as a whole, (B, C), whose maps are one pixel.

    Patches come with the predictors' `context` on every side of each spatial axis; the maps are without it.
    """

    predictors: Sequence[Predictor]
    classes: Sequence[int] = (0,)
    extra: Sequence[str] = ()
    members: Sequence[str] = ()
    per_patch: bool = False

    def __post_init__(self) -> None:
        if self.members and len(self.members) != len(self.predictors):
            raise BadInput(f"expected a name for each of {len(self.predictors)} members, got {list(self.members)}")
        if len(found := {context_of(predictor) for predictor in self.predictors}) > 1:
            raise BadInput(f"expected predictors of one context, they want {sorted(found)} px around a patch")

    @property
    def context(self) -> int:
        """Pixels that the predictors see around a patch, on every side."""
        return max((context_of(predictor) for predictor in self.predictors), default=0)

    def channels(self, views: int) -> dict[str, int]:
        """Number of channels of each map that so many views give, by name."""
        names = map_names(len(self.predictors), views, self.extra, self.members)
        return {name: 1 if name in ENTROPIES else len(self.classes) for name in names}

    def maps(self, patches: NDArray[np.generic], views: Sequence[View]) -> Maps:
        """All maps of the patches (B, *patch + 2 · context, channels), each float32 (B, *patch, C)."""
        return self.combined(self.answers(predictor, patches, views) for predictor in self.predictors)

    def answers(self, predictor: Predictor, patches: NDArray[np.generic], views: Sequence[View]) -> list[Floats]:
        """One predictor's answer to each view, float32 (B, *patch, C) in the patches' own orientation.

        Raises:
            BadPredictor: another shape, a value outside [0, 1], NaN, or a class that is not there.
        """
        return [self._answer(predictor, patches, view) for view in views]

    def combined(self, answers: Iterable[Sequence[Floats]]) -> Maps:
        """The maps from each predictor's answers to the same T views; they may come one predictor at a time."""
        means, variances = [], []
        for of_one in answers:
            means.append(np.mean(of_one, axis=0) if len(of_one) > 1 else of_one[0])
            if len(of_one) > 1:
                variances.append(np.var(of_one, axis=0))
        maps = {"probability": np.mean(means, axis=0) if len(means) > 1 else means[0]}
        if variances:
            maps["aleatoric"] = np.mean(variances, axis=0)
        if len(means) > 1:
            maps["epistemic"] = np.var(means, axis=0)
        maps |= self._entropies(maps["probability"], means)
        return maps | {f"members/{name}": mean for name, mean in zip(self.members, means, strict=False)}

    def _entropies(self, probability: Floats, means: Sequence[Floats]) -> Maps:
        maps: Maps = {}
        if not self.extra:
            return maps
        total = entropy_bits(probability)
        if "entropy" in self.extra:
            maps["entropy"] = total
        if "mutual_information" in self.extra and len(means) > 1:
            within = np.mean([entropy_bits(mean) for mean in means], axis=0)
            maps["mutual_information"] = np.maximum(total - within, 0)  # H is concave; below 0 is rounding
        return maps

    def _answer(self, predictor: Predictor, patches: NDArray[np.generic], view: View) -> Floats:
        seen = view.apply(patches)
        if self.per_patch:
            spatial = (1,) * (seen.ndim - 2)
            whole = checked(predictor, predictor(seen), (len(seen), 0))
            if (off := np.abs(whole.sum(axis=1) - 1).max()) > SUM_ERROR:
                name = predictor_name(predictor)
                raise BadPredictor(f"predictor {name} must return probabilities that sum to 1, they are off by {off:g}")
            answer = whole.reshape(len(seen), *spatial, -1)
        else:
            spatial = tuple(size - 2 * self.context for size in seen.shape[1:-1])
            answer = view.undo(checked(predictor, predictor(seen), (len(seen), *spatial, 0)))
        if max(self.classes) >= answer.shape[-1]:
            raise BadPredictor(f"class {max(self.classes)} was asked of a predictor of {answer.shape[-1]} classes")
        return answer if len(self.classes) == answer.shape[-1] else answer[..., list(self.classes)]


def context_of(predictor: Predictor) -> int:
    """Pixels that a predictor sees around a patch; an attribute of that name that is no number is its own affair."""
    stated = getattr(predictor, "context", 0)
    return int(stated) if isinstance(stated, Integral) else 0


def entropy_bits(probability: Floats) -> Floats:
    """Shannon's entropy in bits, (…, C) → (…, 1): of p against 1 − p if C = 1, else −Σ p log2 p over the classes."""
    if probability.shape[-1] == 1:
        probability = np.concatenate([probability, 1 - probability], axis=-1)
    logs = np.log2(probability, out=np.zeros_like(probability), where=probability > 0)
    return -np.sum(probability * logs, axis=-1, keepdims=True)


def predictor_name(predictor: Predictor) -> str:
    """What messages and records call a predictor: its own `name`, that of a function, or its type."""
    names = (getattr(predictor, attribute, None) for attribute in ("name", "__qualname__"))
    return next((name for name in names if isinstance(name, str)), type(predictor).__qualname__)


def checked(predictor: Predictor, answer: object, shape: Sequence[int]) -> Floats:
    """Return a copy of the answer as float32 (B, *patch, C) with all values in [0, 1], or refuse it.

    A copy, because a predictor may use its output buffer again. Rounding beyond 0 or 1 is clipped.
    """
    name = predictor_name(predictor)
    try:
        values = np.array(answer, np.float32)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor that cannot leave its device
        raise BadPredictor(f"predictor {name} must return an array, got {type(answer).__name__}: {error}") from error
    if values.ndim != len(shape) or values.shape[:-1] != tuple(shape[:-1]) or not values.size:
        expected = ", ".join(str(n) for n in shape[:-1])
        raise BadPredictor(f"predictor {name} must return ({expected}, classes), got {values.shape}")
    low, high = values.min(), values.max()
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # NaN fails too
        raise BadPredictor(f"predictor {name} must return values in [0, 1], got [{low:g}, {high:g}]")
    return np.clip(values, 0, 1, out=values) if low < 0 or high > 1 else values
