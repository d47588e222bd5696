"""What grades: tile networks, bag networks or the caller's own predictors, by one door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from digipath.errors import BadInput
from digipath.grading import bag_networks, tile_networks
from digipath.grading.bag_networks import BagGraders
from digipath.grading.bags import BagDraw
from digipath.grading.tile_networks import Graders
from digipath.values import Predictor
from digipath.weights import load_card

SLIDE_OUTPUTS = ("tile", "bag")  # what networks that grade slides answer for


def graders_of(
    weights: str,
    predictors: Sequence[Predictor] | None = None,
    *,
    tile_px: int | None = None,
    calibrated: bool = True,
    runtime: str = "auto",
    precision: str = "auto",
) -> Graders | BagGraders:
    """The networks behind a card's name, not yet loaded, or the caller's own tile predictors.

    Args:
        tile_px, calibrated: of tile networks; bag networks have a tile of their own and no temperature.

    Raises:
        UnknownWeights, BadCard, WeightsCorrupt, BadInput, BadPredictor: as the functions behind it.
    """
    if predictors is not None:
        return tile_networks.own(predictors, tile_px=tile_px)
    if load_card(weights).output == "bag":
        return bag_networks.published(weights, runtime=runtime, precision=precision)
    return tile_networks.published(
        weights, tile_px=tile_px, runtime=runtime, precision=precision, calibrated=calibrated
    )


def refuse_idle(graders: Graders | BagGraders, draw: BagDraw, of_tiles: Mapping[str, bool]) -> None:
    """Refuse settings that would do nothing with these networks.

    Args:
        draw: only bag networks heed it. of_tiles: settings that only tile networks heed, and whether each was given.

    Raises:
        BadInput: one was given that these networks do not heed.
    """
    if isinstance(graders, Graders):
        if draw != BagDraw():
            raise BadInput("groups, bag and bag_augmentation are for weights that see bags of tiles; leave them out")
    elif idle := [name for name, given in of_tiles.items() if given]:
        raise BadInput(f"{' and '.join(idle)} are not for weights that see bags of tiles; leave them out")
