"""Score networks on folders of images and masks, through the engine that segments slides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath import networks as choose_networks
from digipath.annotation import read_mask
from digipath.engine.predict import predict_maps
from digipath.engine.reader import BlockReader
from digipath.engine.views import views_of
from digipath.errors import BadInput
from digipath.grid import tissue_grid
from digipath.measure.scores import auroc, dice, jaccard
from digipath.networks import Networks
from digipath.pipeline import Settings, working_mpp
from digipath.slide import open_slide
from digipath.values import PREDICTED, ArrayMaps, Predictor, Progress, ProgressCallback
from digipath.weights import DEFAULT

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")


@dataclass(frozen=True)
class Scored:
    """One image: its truth and prediction, (rows, columns) each, at the network's resolution."""

    name: str
    truth: NDArray[np.bool_]
    probability: NDArray[np.float32]


def evaluate(
    images: str | Path,
    masks: str | Path,
    weights: str = DEFAULT,
    *,
    mpp: float,
    threshold: float = 0.5,
    views: int = 1,
    overlap: float = 0.5,
    patch: int | None = None,
    predictors: Sequence[Predictor] | None = None,
    runtime: str = "auto",
    precision: str = "auto",
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Dice, Jaccard and AUROC of a two-class network over a folder of images and one of masks.

    Args:
        images: folder of JPEG, PNG or TIFF images; masks: folder of masks of the same stems;
            positive is above 0, in a JPEG above 127.
        mpp: µm per pixel of the images.
        threshold: probability from which a pixel counts as positive.

    Returns:
        `mean_dice` over images (an image without positives scores 1 if none is predicted, else
        0), `pooled_dice`, `pooled_jaccard` and `pixel_auroc` over all pixels (None where only
        one class occurs), `all_positive_pooled_dice` for comparison, and `images` by name.

    Raises:
        BadInput: no pairs, or more than one positive class; and what `segment` raises.
    """
    if predictors is None:
        networks = choose_networks.published(weights, patch=patch, runtime=runtime, precision=precision)
    else:
        networks = choose_networks.own(predictors, patch=patch)
    if not 0 < threshold <= 1:
        raise BadInput(f"threshold must be in (0, 1], got {threshold}")
    Settings(views, overlap, patch=patch).check()
    if len(networks.classes) != 1:
        raise BadInput(f"evaluate scores one positive class, these networks have {networks.classes}")
    pairs = _pairs(Path(images), Path(masks))
    scored = list(_scored(pairs, networks, mpp, views=views, overlap=overlap, progress=progress))
    return _scores(scored, threshold)


def _pairs(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    for folder in (images, masks):
        if not folder.is_dir():
            raise BadInput(f"expected a folder of images, got {folder}")
    truths = {path.stem: path for path in masks.iterdir() if path.suffix.lower() in SUFFIXES}
    found = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise BadInput(f"no image ({', '.join(SUFFIXES)}) in {images}")
    if missing := [path.name for path in found if path.stem not in truths]:
        raise BadInput(f"{len(missing)} images have no mask of the same name in {masks}: {', '.join(missing[:3])}")
    return [(path, truths[path.stem]) for path in found]


def _scored(
    pairs: Sequence[tuple[Path, Path]],
    networks: Networks,
    mpp: float,
    *,
    views: int,
    overlap: float,
    progress: ProgressCallback | None,
) -> Iterator[Scored]:
    predictors = networks.load()
    for index, (image, mask) in enumerate(pairs):
        if progress is not None:
            progress(Progress(index, len(pairs), math.nan, image.name))
        yield _score_one(image, mask, networks, predictors, mpp=mpp, views=views, overlap=overlap)


def _score_one(
    image: Path,
    mask: Path,
    networks: Networks,
    predictors: Sequence[Predictor],
    *,
    mpp: float,
    views: int,
    overlap: float,
) -> Scored:
    with open_slide(image, mpp=mpp) as source:
        at, _ = working_mpp(source, networks)
        shape = source.working_size_px(at)
        everywhere = np.full((1, 1), PREDICTED, np.uint8)
        grid = tissue_grid(everywhere > 0, shape, (networks.patch, networks.patch), overlap=overlap)
        maps = ArrayMaps(grid.map_shape)
        reader = BlockReader(lambda r, c, h, w: source.read_block(r, c, h, w, mpp=at), grid)
        predict_maps(reader, grid, predictors, everywhere, maps, views=views_of(views), classes=networks.kept)
    return Scored(image.name, read_mask(mask, shape), maps.arrays["probability"][..., 0].astype(np.float32))


def _scores(scored: Sequence[Scored], threshold: float) -> dict[str, Any]:
    truth = np.concatenate([s.truth.ravel() for s in scored])
    probability = np.concatenate([s.probability.ravel() for s in scored])
    per_image = {s.name: dice(s.truth, s.probability >= threshold) for s in scored}
    both = 0 < truth.sum() < truth.size
    return {
        "count": len(scored),
        "threshold": threshold,
        "mean_dice": float(np.mean(list(per_image.values()))),
        "pooled_dice": dice(truth, probability >= threshold),
        "pooled_jaccard": jaccard(truth, probability >= threshold),
        "pixel_auroc": auroc(truth, probability) if both else None,
        "all_positive_pooled_dice": dice(truth, np.ones_like(truth)),
        "images": per_image,
    }
