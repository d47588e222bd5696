"""Score networks on folders of images and masks, or on the cases of a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from digipath import networks as choose_networks
from digipath.annotation import Labels
from digipath.errors import BadInput
from digipath.scoring import Sample, Scoring, score_cases, summary
from digipath.training.manifest import IMAGE_SUFFIXES, plain_fold, read_manifest
from digipath.values import Predictor, ProgressCallback
from digipath.weights import DEFAULT

CLASSES = ("normal", "tumour")  # of predictors without a card


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
            positive is not 0, in a JPEG above 127. Images are scored whole.
        manifest: a table of cases (see `digipath.training.manifest`) instead of the folders; fold:
            score only the cases whose fold is this. Slides are scored within their tissue. Labels of
            cases are classes of the weights' card; slides without any lesion may be all there are.
        labels: which outlines are positive, where outlines are the truth.
        mpp: µm per pixel of the images in the folder; a manifest states its own.
        threshold: probability from which a pixel counts as positive.

    Returns:
        `mean_dice` over images (an image without positives scores 1 if none is predicted, else
        0), `pooled_dice`, `pooled_jaccard` and `pixel_auroc` over all pixels (None where none
        is positive; AUROC also where all are), `all_positive_pooled_dice` for comparison, `false_positive_share`, the
        mean over images without positives (None without one), `lesion_px_outside_tissue`, which
        counts in no score, and `images`, Dice by name.

    Raises:
        BadInput: no pairs, or more than one positive class; and what `segment` raises.
    """
    scoring = Scoring(views, overlap, threshold)
    scoring.check()
    if fold is not None and manifest is None:
        raise BadInput("folds are of a manifest; give --manifest, or leave the fold out")
    if predictors is None:
        networks = choose_networks.published(weights, patch=patch, runtime=runtime, precision=precision)
    else:
        networks = choose_networks.own(predictors, patch=patch)
    if manifest is not None:
        if images is not None or masks is not None or mpp is not None:
            raise BadInput("give a manifest, or folders of images and masks with mpp, not both")
        classes = networks.cards[0].record["classes"] if networks.cards else CLASSES
        samples = _cases(manifest, fold, classes, labels or Labels(), networks.mpp)
    else:
        samples = _pairs(images, masks, mpp)
    scored = list(score_cases(samples, networks, scoring, labels=labels, progress=progress))
    scores = [(score.name, score.together) for score in scored]
    return {
        "threshold": threshold,
        **summary(scores),
        "lesion_px_outside_tissue": sum(score.missed_px for score in scored),
        "images": {name: counts.dice for name, counts in scores},
    }


def _cases(
    path: str | Path, fold: str | None, classes: Sequence[str], labels: Labels, at_mpp: float | None
) -> list[Sample]:
    manifest = read_manifest(path, classes=classes, labels=labels, at_mpp=at_mpp, with_lesions=False)
    cases = [case for case in manifest.cases if fold is None or case.fold == plain_fold(fold)]
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
    found, given = (
        sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES) for folder in (images, masks)
    )
    if not found:
        raise BadInput(f"no image ({', '.join(IMAGE_SUFFIXES)}) in {images}")
    truths = {path.stem: path for path in given}
    if twice := [path.name for path in given if truths[path.stem] != path]:
        raise BadInput(f"expected one mask of each name in {masks}, received two like {', '.join(twice[:3])}")
    if missing := [path.name for path in found if path.stem not in truths]:
        raise BadInput(f"{len(missing)} images have no mask of the same name in {masks}: {', '.join(missing[:3])}")
    return [Sample(path.name, path, truths[path.stem], mpp, whole=True) for path in found]
