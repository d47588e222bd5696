"""Score networks on folders of images and masks, or on the cases of a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from digipath import networks as choose_networks
from digipath.annotation import Labels
from digipath.errors import BadInput
from digipath.scoring import Sample, Scoring, score_cases, summary
from digipath.training.manifest import read_manifest
from digipath.values import Predictor, ProgressCallback
from digipath.weights import DEFAULT

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")


def evaluate(
    images: str | Path | None = None,
    masks: str | Path | None = None,
    weights: str = DEFAULT,
    *,
    manifest: str | Path | None = None,
    fold: str | None = None,
    labels: Labels | None = None,
    mpp: float | None = None,
    threshold: float = 0.5,
    views: int = 1,
    overlap: float = 0.5,
    patch: int | None = None,
    predictors: Sequence[Predictor] | None = None,
    runtime: str = "auto",
    precision: str = "auto",
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Dice, Jaccard and AUROC of two-class networks over images with masks, or over a manifest's cases.

    Args:
        images: folder of JPEG, PNG or TIFF images; masks: folder of masks of the same stems;
            positive is above 0, in a JPEG above 127. Images are scored whole.
        manifest: a table of cases (see `digipath.training.manifest`) instead of the folders; fold:
            score only the cases whose fold is this. Slides are scored within their tissue.
        labels: which outlines are positive, where outlines are the truth.
        mpp: µm per pixel of the images in the folder; a manifest states its own.
        threshold: probability from which a pixel counts as positive.

    Returns:
        `mean_dice` over images (an image without positives scores 1 if none is predicted, else
        0), `pooled_dice`, `pooled_jaccard` and `pixel_auroc` over all pixels (None where only
        one class occurs), `all_positive_pooled_dice` for comparison, `false_positive_share`, the
        mean over images without positives (None without one), and `images`, Dice by name.

    Raises:
        BadInput: no pairs, or more than one positive class; and what `segment` raises.
    """
    scoring = Scoring(views, overlap, threshold)
    scoring.check()
    if predictors is None:
        networks = choose_networks.published(weights, patch=patch, runtime=runtime, precision=precision)
    else:
        networks = choose_networks.own(predictors, patch=patch)
    if manifest is not None:
        if images is not None or masks is not None or mpp is not None:
            raise BadInput("give a manifest, or folders of images and masks with mpp, not both")
        samples = _cases(manifest, fold, labels or Labels())
    else:
        samples = _pairs(images, masks, mpp)
    scored = list(score_cases(samples, networks, scoring, labels=labels, progress=progress))
    scores = [(score.name, score.together) for score in scored]
    return {
        "threshold": threshold,
        **summary(scores),
        "images": {name: counts.dice for name, counts in scores},
    }


def _cases(path: str | Path, fold: str | None, labels: Labels) -> list[Sample]:
    manifest = read_manifest(path, labels=labels)
    cases = [case for case in manifest.cases if fold is None or case.fold == fold]
    if not cases:
        folds = ", ".join(sorted({case.fold or "none" for case in manifest.cases}))
        raise BadInput(f"no case has the fold {fold!r}; the manifest has {folds}: {manifest.path}")
    return [Sample(case.name, case.slide, case.annotation, case.mpp) for case in cases]


def _pairs(images: str | Path | None, masks: str | Path | None, mpp: float | None) -> list[Sample]:
    if images is None or masks is None or mpp is None:
        raise BadInput("expected folders of images and of masks with mpp (µm per pixel), or a manifest")
    images, masks = Path(images), Path(masks)
    for folder in (images, masks):
        if not folder.is_dir():
            raise BadInput(f"expected a folder of images, got {folder}")
    truths = {path.stem: path for path in masks.iterdir() if path.suffix.lower() in SUFFIXES}
    found = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise BadInput(f"no image ({', '.join(SUFFIXES)}) in {images}")
    if missing := [path.name for path in found if path.stem not in truths]:
        raise BadInput(f"{len(missing)} images have no mask of the same name in {masks}: {', '.join(missing[:3])}")
    return [Sample(path.name, path, truths[path.stem], mpp, whole=True) for path in found]
