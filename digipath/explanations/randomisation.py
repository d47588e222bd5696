"""Whether an explanation is of what a network has learnt: it must change when the weights are random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from digipath.errors import BadInput
from digipath.explanations import gradients
from digipath.explanations.copies import made_anew
from digipath.explanations.gradients import Floats
from digipath.explanations.methods import GRAD_CAM, explain

if TYPE_CHECKING:
    import keras

MOST_SHARED = 0.3  # of the mean rank correlation, either way: with more the check fails
MOST_ALIKE = 0.5  # of the median without signs; of chance alone, where Grad-CAM's cells are few, it is 0.25
DRAWS = 4  # random networks that are tried at most for each one that is wanted


@dataclass(frozen=True)
class RandomisationCheck:
    """How an explanation resembles those of the same network with random weights.

    Attributes:
        correlations: Spearman's rank correlation with the map of each random network that has one, in [-1, 1].
        constant: how many more random networks gave the same value everywhere, which correlates with nothing.
    """

    correlations: tuple[float, ...]
    constant: int = 0

    @property
    def shared(self) -> float:
        """The mean correlation, in [-1, 1]; 0 without any. What random networks share with the trained one stays in
        it, what is chance in each goes out of it."""
        return float(np.mean(self.correlations)) if self.correlations else 0.0

    @property
    def alike(self) -> float:
        """The median of the absolute correlations, in [0, 1]; 0 without any. It tells of a map that random networks
        have too, but some of them turned around, which goes out of the mean."""
        return float(np.median(np.abs(self.correlations))) if self.correlations else 0.0

    @property
    def passed(self) -> bool:
        """Whether the explanation depends on the weights: |`shared`| ≤ 0.3 and `alike` ≤ 0.5, of one comparison or
        more."""
        return bool(self.correlations) and abs(self.shared) <= MOST_SHARED and self.alike <= MOST_ALIKE


def randomisation_check(
    network: keras.Model,
    image: ArrayLike,
    *,
    method: str = GRAD_CAM,
    layer: str | Sequence[str] | None = None,
    target: int | None = None,
    seed: int = 0,
    networks: int = 10,
    inside: NDArray[np.bool_] | None = None,
) -> RandomisationCheck:
    """Compare the explanation of a network with those of networks whose weights are all drawn anew.

    Kernels are drawn by their own initialisers; biases and batch norms begin as they did. A random network whose map
    is constant (Grad-CAM, where nothing speaks for the class) counts as none: another is drawn for it, up to four
    times as many in all. Where the explanation itself is constant there is nothing to compare and the check fails.

    Args:
        network, image, method, layer, target: as for `explain`; without a target, the class that `network` calls.
        seed: of the random weights. networks: how many to compare with; one by one they scatter by 0.3 to 0.4 where
            Grad-CAM's cells are few.
        inside: (*space) bool, pixels that are compared; None: all. Give a volume's brain: what is 0 outside of it is
            dark in every map, which correlates whatever the weights are.

    Raises:
        BadInput: as `explain`; a mask of another shape or with fewer than two pixels, or no network to compare with.

    References:
        Adebayo et al. 2018, "Sanity checks for saliency maps", arXiv:1810.03292, section 3; the limits are our choice.
    """
    if networks < 1:
        raise BadInput(f"expected at least one random network to compare with, got {networks}")
    gradients.check_classifier(network)
    pixels = gradients.checked_pixels(network, image)
    compared = np.ones(pixels.shape[:-1], bool) if inside is None else np.asarray(inside, bool)
    if compared.shape != pixels.shape[:-1] or np.count_nonzero(compared) < 2:
        raise BadInput(f"expected a mask of shape {pixels.shape[:-1]} with two pixels or more, got {compared.shape}")
    wanted = gradients.most_probable(network, pixels) if target is None else target
    own = explain(network, pixels, method=method, layer=layer, target=wanted)[compared]
    chance, found, constant = np.random.default_rng(seed), list[float](), 0
    while np.ptp(own) > 0 and len(found) < networks and len(found) + constant < DRAWS * networks:
        drawn = _randomised(network, chance)
        heat = explain(drawn, pixels, method=method, layer=layer, target=wanted)[compared]
        if np.ptp(heat) > 0:
            found.append(rank_correlation(own, heat))
        else:
            constant += 1
    return RandomisationCheck(tuple(found), constant)


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's ρ of two lists of values, neither of which is constant; of equal values each has their mean rank."""
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _randomised(network: keras.Model, chance: np.random.Generator) -> keras.Model:
    """The same network with weights as they are before any training."""
    import keras

    def seed() -> int:
        return int(chance.integers(2**31))

    whole = keras.Model(network.input, network.output)
    return keras.models.clone_model(whole, clone_function=lambda one: made_anew(one, seed))
