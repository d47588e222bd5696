"""Tiles → maps in a case folder: by networks that grade a tile, or by networks that see bags of tiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.engine.ensemble import map_names
from digipath.engine.predict import predict_maps
from digipath.engine.views import views_of
from digipath.grading.bag_networks import BagGraders, BagNetwork
from digipath.grading.bags import BagDraw, SlideBags, grade_bags, vote_together
from digipath.grading.tile_frames import Frame
from digipath.grading.tile_networks import Graders
from digipath.maps import ATTENTION, GRADE, ZarrMaps
from digipath.measure.tile_grades import called
from digipath.run_record import timings_s
from digipath.values import (
    EXCLUDED,
    PREDICTED,
    READ_FAILED,
    Cancel,
    Card,
    Coverage,
    Predictor,
    Progress,
    ProgressCallback,
    ViewTally,
)

BAGS = "bags"  # folder of finished groups


def predict_tiles(
    frame: Frame,
    graders: Graders,
    folder: Path,
    *,
    load: Callable[[], Sequence[Predictor]],
    views: int = 1,
    keep_members: bool = False,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Grade every tile into the folder's maps, or go on there; returns what the run record says of it.

    Args:
        load: gives the predictors; asked only where there is a tile.
    """
    tiles, classes = frame.tiles, graders.classes
    if progress is not None:
        progress(Progress(0, len(tiles), 0.0, "loading the network"))
    began = time.perf_counter()
    predictors = load() if len(tiles) else ()
    load_s = time.perf_counter() - began
    members = _member_names(graders) if keep_members else ()
    maps = ZarrMaps(folder, tiles.grid, (*map_names(graders.count, views, (), members), GRADE), classes)
    clock = predict_maps(
        frame.reader(maps.rows_done),
        tiles.grid,
        predictors,
        tiles.wanted,
        maps,
        views=views_of(views),
        classes=range(len(classes)),
        members=members if predictors else (),
        per_patch=True,
        progress=progress,
        cancel=cancel,
    )
    codes = maps.whole("coverage")
    maps.store(GRADE, grade_codes(np.moveaxis(maps.whole("probability"), 0, -1), codes[0]))
    maps.finish()
    return _counted(codes[0], tiles.tissue_px) | {"timings_s": timings_s(clock, load=load_s)}


def grade_codes(probability: NDArray[np.floating], codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(R, C) the number of each tile's most probable class from 1 on, 0 where it was not graded."""
    graded, found = codes == PREDICTED, np.zeros(codes.shape, np.uint8)
    found[graded] = called(probability[graded].astype(np.float32)) + 1
    return found


def predict_bags(
    frames: Sequence[Frame],
    graders: BagGraders,
    draw: BagDraw,
    folder: Path,
    *,
    load: Callable[[], Sequence[BagNetwork]],
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Grade bags of tiles, and write what the first network says of each of its tiles alone as maps.

    Args:
        frames: the tiles of the slide for each of the networks. load: gives the networks, asked once.
    """
    began, found = time.perf_counter(), []
    (folder / BAGS).mkdir(exist_ok=True)
    for number, (frame, card, network) in enumerate(zip(frames, graders.cards, load(), strict=True)):
        keep = folder / BAGS / str(number)
        found.append(grade_bags(frame, card, network, draw, keep=keep, progress=progress, cancel=cancel))
    codes = _write_maps(frames[0], found[0], graders.classes, folder)
    wall = {"wall": round(time.perf_counter() - began, 3)}
    counted = _counted(codes, frames[0].tiles.tissue_px)
    not_drawn = found[0].on_slide - len(found[0].cells) - len(found[0].unreadable)
    counted["tiles"] |= {"left_out": counted["tiles"]["left_out"] - not_drawn, "not_drawn": not_drawn}
    return counted | {"bags": bags_record(graders.cards, found), "timings_s": wall}


def bags_record(cards: Sequence[Card], found: Sequence[SlideBags]) -> dict[str, Any]:
    """What the networks that saw a bag say together (`vote_together`), and each."""
    classes, vote = cards[0].classes, vote_together(found)

    def by_class(values: NDArray[np.floating] | None) -> dict[str, float] | None:
        return None if values is None else dict(zip(classes, values.tolist(), strict=True))

    return {
        "grade": None if vote is None else classes[vote[1]],
        "probabilities": None if vote is None else by_class(vote[0]),
        "networks": sum(bags.probabilities is not None for bags in found),
        "members": {
            card.name: {
                "mpp": card.mpp,
                "probabilities": by_class(bags.probabilities),
                "votes": by_class(bags.votes),
                "groups": len(bags.groups),
                "tiles_per_group": bags.asked,
                "tiles_on_slide": bags.on_slide,
                "unreadable": len(bags.unreadable),
                "notes": list(bags.notes),
            }
            for card, bags in zip(cards, found, strict=True)
        },
    }


def _write_maps(frame: Frame, bags: SlideBags, classes: Sequence[str], folder: Path) -> NDArray[np.uint8]:
    """Answers for single tiles as maps; tiles that were not drawn have none. Returns the coverage codes."""
    tiles = frame.tiles
    codes = tiles.wanted
    codes[codes == PREDICTED] = EXCLUDED
    values: dict[str, NDArray[Any]] = {"probability": np.zeros((*codes.shape, len(classes)), np.float32)}
    seen = tuple(bags.cells.T)
    codes[seen] = PREDICTED
    codes[tuple(bags.unreadable.T)] = READ_FAILED
    values["probability"][codes == READ_FAILED] = np.nan
    values["probability"][codes == EXCLUDED] = np.nan
    values["probability"][seen] = bags.alone
    if bags.attention is not None:
        values[ATTENTION] = np.zeros(codes.shape, np.float32)
        values[ATTENTION][seen] = bags.attention
    values[GRADE] = grade_codes(values["probability"], codes)
    maps = ZarrMaps(folder, tiles.grid, tuple(values), classes)
    maps.write(0, {**values, "coverage": codes})
    maps.commit(len(codes), Coverage(), ViewTally())
    maps.finish()
    return codes


def _member_names(graders: Graders) -> tuple[str, ...]:
    names = tuple(member.card.name for member in graders.members)
    return names or tuple(f"network-{i + 1}" for i in range(graders.count))


def _counted(codes: NDArray[np.uint8], tissue_px: NDArray[np.int64]) -> dict[str, Any]:
    """Tiles, and working pixels of tissue in them, by what became of the tiles."""
    names = {"graded": PREDICTED, "unreadable": READ_FAILED, "left_out": EXCLUDED}
    predicted, failed, excluded = (int(tissue_px[codes == code].sum()) for code in names.values())
    return {
        "tiles": {name: int(np.count_nonzero(codes == code)) for name, code in names.items()},
        "coverage": asdict(Coverage(predicted + failed + excluded, predicted, failed, excluded)),
    }
