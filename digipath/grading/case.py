"""`grade`: what a patient has, slides, MRI or both → the networks that are asked → one grade of the case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from digipath.errors import BadInput
from digipath.grading import fusion, volume_networks
from digipath.grading.bags import BagDraw
from digipath.grading.graders import SLIDE_OUTPUTS
from digipath.grading.patient import Patient, slides_of
from digipath.grading.slide_case import GALLERY, GradeSettings, Reading
from digipath.grading.volume_case import VolumeSettings
from digipath.grading.volume_files import VolumeFiles
from digipath.measure.tile_grades import LEAST_CONFIDENCE, LEAST_SHARE
from digipath.result import ONE, Grade, check_kind
from digipath.values import Cancel, Predictor, ProgressCallback
from digipath.weights import DEFAULT_FUSION, DEFAULT_GRADER, DEFAULT_VOLUME_GRADER, load_card

Paths = Sequence[str | Path]


def grade(
    slides: str | Path | Paths | None = None,
    volumes: Mapping[str, str | Path] | Paths | None = None,
    *,
    weights: str | None = None,
    out: str | Path | None = None,
    brain: str | Path | None = None,
    tumour: str | Path | None = None,
    slice_vox: int | None = None,
    explanations: bool = True,
    views: int = 1,
    mpp: float | None = None,
    at_mpp: float | None = None,
    tile: int | None = None,
    least_tissue: float | None = None,
    tissue: str | Path | None = None,
    stain: str | Path | None = None,
    least_share: float = LEAST_SHARE,
    least_confidence: float = LEAST_CONFIDENCE,
    gallery: int = GALLERY,
    calibrated: bool = True,
    keep_members: bool = False,
    groups: int | str | None = None,
    bag: int | None = None,
    bag_augmentation: bool | None = None,
    predictors: Sequence[Predictor] | None = None,
    runtime: str = "auto",
    precision: str = "auto",
    resume: bool = True,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> Grade:
    """Grade glioma of one patient from H&E slides, from MRI, or from both. For research use only.

    Slides are graded tile by tile (Truong et al. 2020: tiles of 1024 px at 20×, of which at least 90 % is tissue),
    with a map and a report. What they say of the case is told in three ways (mean vote, majority vote, highest grade
    of which there is enough) beside the share and the area of each grade. MRI is graded by networks that look at the
    whole brain, at the tumour or at one slice of it, and explained (Pereira et al. 2018, Lo et al. 2019). Both together
    are fused by a soft vote (Lerousseau et al. 2020, section 2.3); of networks whose input is missing the result says
    so.

    Args:
        slides: a slide, an image, a folder of tile images, or several of these of one case.
        volumes: modality ("t1", "t1c", "t2", "flair") → NIfTI file or folder of a DICOM series; or these files alone,
            if their names say what they are. Skull-stripped, or with `brain`.
        weights: name or path of a card that grades tiles (a network, a modular pair, or an ensemble of these), bags of
            tiles, or volumes (a network or an ensemble), or that fuses several of these. None: the demonstration
            weights for what is given.
        out: the folder; default `<name>.grade` in the working directory. Several slides, and the members of a fusion,
            have one folder each inside.
        brain, tumour: masks of the volumes; where a network had to find the tumour, `tumour.nii.gz` in the folder is
            what it found. slice_vox: the axial slice, counted from below, for networks of slices; None: that of the
            largest tumour area. explanations: Grad-CAM and guided backpropagation of each network for volumes, as
            NIfTI on the volumes' grid.
        views: 1, 2, 4 or 8 symmetries to average over; more than 1 gives the aleatoric map.
        mpp: µm per level-0 pixel, overrides the slide's own. at_mpp: µm per pixel to run at.
        tile: side of the tiles in pixels. least_tissue: share of a tile that must be tissue, in (0, 1].
        tissue: "auto", "all", "white-tiles", or a mask or outline file. Both are of slides: the images of a folder
            are all graded.
        stain: "none", "macenko", "reinhard", or a picture or slide; None: as the card says.
        least_share, least_confidence: the highest grade is that of which at least so many of the tiles (a share)
            are called with at least this probability.
        gallery: most certain and least certain tiles of each grade to show, with Grad-CAM where the network is ours.
        calibrated: networks with the temperatures of their cards.
        keep_members: store each network's own map too.
        groups, bag, bag_augmentation: for networks that see bags of tiles (`digipath.grading.bags`): how many random
            groups ("all": as many as hold every tile once) of how many tiles they see, changed as in training or not;
            None: as the card says.
        predictors: your own callables (B, P, P, 3) uint8 → (B, C) instead of `weights`, for slides.
        runtime, precision, resume, progress, cancel: as for `digipath.segment`; networks for volumes run on Keras.

    Raises:
        DigipathError: any branch of the tree in `digipath.errors`; nothing is half-written.
    """
    settings = GradeSettings(
        views, tile, least_tissue, None if tissue is None else str(tissue), at_mpp,
        None if stain is None else str(stain), calibrated=calibrated, keep_members=keep_members,
        draw=BagDraw(groups, bag, bag_augmentation),
    )  # fmt: skip
    patient = Patient(
        slides_of(slides), None if not volumes else VolumeFiles.of(volumes, brain, tumour), settings,
        Reading(least_share, least_confidence, gallery), VolumeSettings(slice_vox, explanations), mpp,
        None if predictors is None else tuple(predictors), runtime, precision, resume, progress, cancel,
    )  # fmt: skip
    patient.check(masks=brain is not None or tumour is not None)
    return _graded(patient, weights, None if out is None else Path(out))


def _graded(patient: Patient, weights: str | None, out: Path | None) -> Grade:
    """By the weights named, or those of demonstration for what is given."""
    folder = Path.cwd() / f"{patient.name}.grade" if out is None else out
    if patient.predictors is not None:
        return patient.slide_run(DEFAULT_GRADER).case(patient.slides, folder)
    both = bool(patient.slides) and patient.files is not None
    name = weights or (DEFAULT_FUSION if both else DEFAULT_GRADER if patient.slides else DEFAULT_VOLUME_GRADER)
    card = load_card(name)
    if card.record["kind"] == "fusion":
        return fusion.grade_fused(fusion.published(card), patient, folder)
    if both:
        raise BadInput(f"{name} grades one modality; expected slides or volumes alone, or a fusion card")
    if patient.files is None:
        if card.output == volume_networks.OUTPUT:
            raise BadInput(f"{name} grades MRI; expected volumes, got slides")
        return patient.slide_run(name).case(patient.slides, folder)
    if card.output in SLIDE_OUTPUTS:
        raise BadInput(f"{name} grades slides; expected slides, got MRI volumes")
    check_kind(folder, ONE)
    graders = volume_networks.published(name, calibrated=patient.settings.calibrated)
    volume_networks.check_slice(patient.of_volumes.slice_vox, graders.members)
    return Grade((), folder, (patient.volume(graders, folder),))
