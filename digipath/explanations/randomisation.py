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

HIGHEST = 0.3  # mean absolute rank correlation with which the check is passed
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
    def correlation(self) -> float:
        """Mean of the absolute correlations, in [0, 1]; 0 without any. A map that is the same or turned around in every
        random network is of the image and not of the weights, so signs must not cancel."""
        return float(np.mean(np.abs(self.correlations))) if self.correlations else 0.0

    @property
    def passed(self) -> bool:
        """Whether the explanation depends on the weights: `correlation` ≤ 0.3, out of one comparison at least."""
        return bool(self.correlations) and self.correlation <= HIGHEST


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
        seed: of the random weights. networks: how many to compare with; where Grad-CAM's cells are few, chance alone
            makes absolute correlations of 0.2 to 0.25 in the mean.
        inside: (*space) bool, pixels that are compared; None: all. Give a volume's brain: what is 0 outside of it is
            dark in every map, which correlates whatever the weights are.

    Raises:
        BadInput: as `explain`; a mask of another shape or with fewer than two pixels, or no network to compare with.

    References:
        Adebayo et al. 2018, "Sanity checks for saliency maps", arXiv:1810.03292, section 3; the limit is our choice.
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
