"""Score networks on folders of images and masks, or on the cases of a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from digipath import networks as choose_networks
from digipath.annotation import Labels
from digipath.calibrated_cards import write_calibrated_cards
from digipath.errors import BadInput
from digipath.evaluation_report import error_record, reliability_record, write_evaluation
from digipath.files import made_folder
from digipath.measure.calibration import calibration_of, fit_temperature, reliability
from digipath.measure.confusion import Confusion, Histogram
from digipath.measure.error_finding import ErrorCounts
from digipath.networks import Networks
from digipath.runtime import Choice
from digipath.scoring import CaseScore, Sample, Scoring, score_cases, summary
from digipath.slide import images_in
from digipath.training.cases import of_fold
from digipath.training.manifest import read_manifest
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
    calibrated: bool = True,
    calibrate: bool = False,
    out: str | Path | None = None,
    predictors: Sequence[Predictor] | None = None,
    runtime: str = "auto",
    precision: str = "auto",
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Dice, Jaccard, AUROC and calibration of two-class networks over images with masks, or over a manifest's cases.

    Args:
        images: folder of JPEG, PNG or TIFF images; masks: folder of masks of the same stems;
            positive is not 0, in a JPEG above 127. Images are scored whole.
        manifest: a table of cases (see `digipath.training.manifest`) instead of the folders; fold:
            score only the cases whose fold is this. Slides are scored within their tissue. Labels of
            cases are classes of the weights' card; slides without any lesion may be all there are.
        labels: which outlines are positive, where outlines are the truth.
        mpp: µm per pixel of the images in the folder; a manifest states its own.
        threshold: probability from which a pixel counts as positive.
        calibrated: networks with the temperatures of their cards; False: as they were trained.
        calibrate: fit each network's temperature on these images, as it was trained, and write cards that carry
            it into `out`, ready for `weights`.
        out: a folder for scores.json and evaluation.html, with reliability and whether uncertainty finds errors.

    Returns:
        `mean_dice` over images (an image without positives scores 1 if none is predicted, else
        0), `pooled_dice`, `pooled_jaccard` and `pixel_auroc` over all pixels (None where none
        is positive; AUROC also where all are), `all_positive_pooled_dice` for comparison, `false_positive_share`, the
        mean over images without positives (None without one), `expected_calibration_error` and `brier` over all
        pixels, `lesion_px_outside_tissue`, which counts in no score, and `images`, Dice by name. With `calibrate`,
        `calibration` by network and `card`; with `out`, `reliability` and `error_finding` by uncertainty.

    Raises:
        BadInput: no pairs, or more than one positive class; to calibrate, no folder, own predictors, or images that
            no temperature fits; and what `segment` raises.
    """
    scoring = Scoring(views, overlap, threshold)
    scoring.check()
    if calibrate and (out is None or predictors is not None):
        raise BadInput("to calibrate, expected weights with cards and a folder for the new ones: give --out")
    networks = _networks(weights, predictors, patch, Choice(runtime, precision), calibrated and not calibrate)
    cases = _asked(images, masks, mpp, manifest=manifest, fold=fold, labels=labels, networks=networks)
    folder = None if out is None else made_folder(Path(out))
    scored: list[CaseScore] = []
    errors: dict[str, ErrorCounts] = {}
    for case in score_cases(
        cases.samples, networks, scoring, labels=labels, errors=folder is not None, progress=progress
    ):
        errors |= {name: errors.get(name, ErrorCounts.none()) + counts for name, counts in case.errors.items()}
        scored.append(replace(case, errors={}))  # of many slides they would fill the memory
    found = _scores(scored, threshold)
    if folder is not None:
        found["reliability"] = _reliability(scored, networks, calibrate=calibrate)
        found["error_finding"] = {name: error_record(counts) for name, counts in errors.items()}
        if calibrate:
            found["calibration"] = _calibration(cases, scored, networks)
            found["card"] = str(write_calibrated_cards(weights, found["calibration"], folder))
        title = weights if predictors is None else "own predictors"
        settings = {"views": views, "overlap": overlap, "threshold": threshold, "data": cases.told, **networks.identity}
        write_evaluation(folder, found, title, cards=networks.cards, settings=settings)
    return found


@dataclass(frozen=True)
class _Cases:
    """What is scored, and in words what it is."""

    samples: Sequence[Sample]
    told: str


def _networks(
    weights: str, predictors: Sequence[Predictor] | None, patch: int | None, choice: Choice, calibrated: bool
) -> Networks:
    if predictors is not None:
        return choose_networks.own(predictors, patch=patch)
    return choose_networks.published(
        weights, patch=patch, runtime=choice.runtime, precision=choice.precision, calibrated=calibrated
    )


def _asked(
    images: str | Path | None,
    masks: str | Path | None,
    mpp: float | None,
    *,
    manifest: str | Path | None,
    fold: str | None,
    labels: Labels | None,
    networks: Networks,
) -> _Cases:
    """The cases of a manifest, or of the folders."""
    if manifest is None:
        if fold is not None:
            raise BadInput("folds are of a manifest; give --manifest, or leave the fold out")
        samples = _pairs(images, masks, mpp)
        return _Cases(samples, f"{len(samples)} images of the folder {Path(str(images)).resolve().name}")
    if images is not None or masks is not None or mpp is not None:
        raise BadInput("give a manifest, or folders of images and masks with mpp, not both")
    classes = networks.cards[0].record["classes"] if networks.cards else CLASSES
    return _cases(manifest, fold, classes, labels or Labels(), networks.mpp)


def _scores(scored: Sequence[CaseScore], threshold: float) -> dict[str, Any]:
    scores = [(score.name, score.together) for score in scored]
    pixels = reliability(Confusion.pooled(counts for _, counts in scores).histogram)
    return {
        "threshold": threshold,
        **summary(scores),
        "expected_calibration_error": pixels.expected_calibration_error,
        "brier": pixels.brier,
        "lesion_px_outside_tissue": sum(score.missed_px for score in scored),
        "images": {name: counts.dice for name, counts in scores},
    }


def _calibration(cases: _Cases, scored: Sequence[CaseScore], networks: Networks) -> dict[str, dict[str, Any]]:
    """What the new card of each network says, by the name of the old one."""
    found = {}
    for place, card in enumerate(networks.cards):
        patients: dict[str, Histogram] = {}
        for sample, score in zip(cases.samples, scored, strict=True):
            whose = sample.patient or sample.name
            patients[whose] = patients.get(whose, 0) + score.networks[place].histogram
        fitted = calibration_of(list(patients.values()))
        if fitted is None:
            raise BadInput(
                f"no temperature fits {card.name} here: expected positive and negative pixels, some of them called "
                f"wrongly, but fewer than by chance; received {cases.told}"
            )
        split = "fitted on all of them after training; its user knows whether the network was trained on any"
        found[card.name] = fitted.to_record(data=cases.told, split=split)
    return found


def _reliability(scored: Sequence[CaseScore], networks: Networks, *, calibrate: bool) -> dict[str, Any]:
    """Diagrams of the mean of the networks, and of one network alone before and after it is calibrated."""
    pooled = Confusion.pooled(score.together for score in scored).histogram
    if networks.count > 1:
        return {"mean of the networks": reliability_record(reliability(pooled))}
    name = "calibrated" if "temperature" in networks.identity else "as trained"
    found = {name: reliability_record(reliability(pooled))}
    if calibrate:
        after = reliability(pooled, temperature=fit_temperature(pooled) or 1.0)
        found["at its new temperature"] = reliability_record(after)
    return found


def _cases(
    path: str | Path, fold: str | None, classes: Sequence[str], labels: Labels, at_mpp: float | None
) -> _Cases:
    manifest = read_manifest(path, classes=classes, labels=labels, at_mpp=at_mpp, with_lesions=False)
    cases = of_fold(manifest.cases, fold, manifest.path)
    samples = [Sample(case.name, case.slide, case.annotation, case.mpp, patient=case.patient) for case in cases]
    patients, of_it = len({case.patient for case in cases}), "" if fold is None else f", fold {fold}"
    told = f"{len(cases)} cases of {patients} patients{of_it}; manifest {manifest.path.name}"
    return _Cases(samples, f"{told}, sha256 {manifest.sha256}")


def _pairs(images: str | Path | None, masks: str | Path | None, mpp: float | None) -> list[Sample]:
    if images is None or masks is None or mpp is None:
        raise BadInput("expected folders of images and of masks with mpp (µm per pixel), or a manifest")
    images, masks = Path(images), Path(masks)
    found, given = images_in(images), images_in(masks)
    truths = {path.stem: path for path in given}
    if twice := [path.name for path in given if truths[path.stem] != path]:
        raise BadInput(f"expected one mask of each name in {masks}, received two like {', '.join(twice[:3])}")
    if missing := [path.name for path in found if path.stem not in truths]:
        raise BadInput(f"{len(missing)} images have no mask of the same name in {masks}: {', '.join(missing[:3])}")
    return [Sample(path.name, path, truths[path.stem], mpp, whole=True) for path in found]
