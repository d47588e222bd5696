"""Write skull-stripped brain MRI with tumours whose grade is told by structure, and by no histogram.

A case is a brain of its own shape in T1, T1c, T2 and FLAIR, with a bias field, noise, brightness of its tissues and a
gain of each modality of its own, 0 outside the brain. What grades look like stands in `mri_tumour.tissues_of`. The
intensities of the tumour are mapped by rank onto those of the same tissues in no order at all: from one seed come
volumes of three grades that have the same histogram in each modality, in the tumour and outside, to the last voxel;
but for a border artefact, whose pits take voxels of the brain away, so that the number of zeros tells the place.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from digipath.errors import BadInput
from digipath.files import made_folder, write_atomically
from digipath.synthetic.mri_brain import BRIGHTNESS, Brain, healthy_brain
from digipath.synthetic.mri_fields import Floats, Frame
from digipath.synthetic.mri_tumour import ENHANCING_SHARES, NECROTIC_SHARES, lesions, tissues_of
from digipath.volume_values import MODALITIES, Volume

__all__ = ["GRADES", "brain_case", "write_mri_cases"]

GRADES = (2, 3, 4)
LEAST_SIDE_VOX = 24  # below that a rim is thinner than a voxel
GAINS = (250.0, 2500.0)  # intensity of brightness 1 in a modality, as scanners differ
UNLIKE = 0.06  # how far the brightness of a tissue is from what it is on average
BIAS, TEXTURE, GRAIN = 0.12, 0.035, 0.03  # standard deviations
VESSELS_T1C = 0.35  # brightness added by contrast agent
BLUR_UNITS = 0.6
PIT_WIDTH_UNITS = 1.5
# How deep pits reach, in units, that the skull stripping leaves in the surface of the brain at the place where a grade
# is usually seen.
PITS_UNITS = {2: 0.0, 3: 1.5, 4: 3.0}


def brain_case(
    grade: int,
    *,
    seed: int,
    shape_vox: tuple[int, int, int] = (64, 64, 64),
    spacing_mm: float = 2.5,
    border_artefact: float | None = None,
) -> Volume:
    """Four modalities of a brain with a tumour, as a scanner gives them; the same arguments give the same voxels.

    Args:
        grade: 2, 3 or 4.
        seed: of everything but the grade: cases of one seed differ in the order of the tumour's tissues only (and in
            their border artefact).
        shape_vox: of the volume; the brain fills it, so that a coarser grid shows the same brain with less detail.
        spacing_mm: between voxels; the middle of the volume lies at 0 mm, the axes are RAS.
        border_artefact: None: the surface of the brain is smooth. In [0, 1]: cases come from three places whose skull
            stripping leaves the surface smooth, pitted or deeply pitted (`PITS_UNITS`); with this chance the place is
            the one where the grade is usually seen, else any of the three. So 1 lets the border of the brain tell the
            grade, and with 0 it says nothing. Standardised over the whole image, the border is the highest step of
            the volume, between a negative background and the brain, and a network takes it for a sign of grade.
            Standardised inside the brain, the background lies at the brain's mean, and the border hardly shows.

    Returns:
        Volume of float32 whole numbers, at least 1 in the brain and 0 outside, with the outline of the whole tumour,
        oedema included.

    Raises:
        BadInput: a grade, shape, spacing or chance outside of these, or a seed below 0.

    References:
        Pereira et al. 2018, section 4: the border of the brain as a sign of grade after whole-image standardisation.
    """
    _refuse_impossible(grade, shape_vox, spacing_mm, border_artefact)
    _refuse_negative(seed)
    frame = Frame(shape_vox)
    look, scanner, place, structure, site = (np.random.default_rng([seed, part]) for part in range(5))
    brain = healthy_brain(frame, look)
    tumour = lesions(frame, brain.inside, place)
    shares = place.uniform(*ENHANCING_SHARES), place.uniform(*NECROTIC_SHARES)
    tissues = tissues_of(grade, tumour, frame, shares, structure)
    voxels = _scanned(brain, tissues, frame, scanner)
    tumour_vox, inside = tissues >= 0, brain.inside
    if border_artefact is not None:
        inside = _pitted(inside, frame, _pits_units(grade, border_artefact, site), site) | tumour_vox
    affine_mm = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine_mm[:3, 3] = -spacing_mm * (np.array(shape_vox) - 1) / 2
    return Volume(MODALITIES, voxels * inside[..., None], affine_mm, inside, tumour_vox)


def write_mri_cases(
    folder: str | Path,
    count: int,
    *,
    seed: int,
    shape_vox: tuple[int, int, int] = (64, 64, 64),
    spacing_mm: float = 2.5,
    border_artefact: float | None = None,
) -> Path:
    """Write cases of grades 2, 3, 4, 2, … as NIfTI files, and their manifest; the same arguments give the same bytes.

    Args:
        folder: gets <case>/t1.nii.gz, t1c.nii.gz, t2.nii.gz, flair.nii.gz (int16) and tumour.nii.gz (uint8) for each
            case, and mri.csv with the columns case, patient, label ("grade 2"), t1, t1c, t2, flair, tumour; paths are
            relative to the folder.
        seed: sets of other seeds share no case.
        count, shape_vox, spacing_mm, border_artefact: see `brain_case`.

    Returns:
        The manifest.

    Raises:
        BadInput: what `brain_case` refuses, or a count below 1. OutputUnwritable: the folder cannot be written.
    """
    if count < 1:
        raise BadInput(f"expected at least one case to write, got {count}: {folder}")
    _refuse_negative(seed)
    root = Path(folder)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["case", "patient", "label", *MODALITIES, "tumour"])
    for number in range(count):
        grade, name = GRADES[number % len(GRADES)], f"case{number:04d}"
        own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])
        volume = brain_case(
            grade, seed=own_seed, shape_vox=shape_vox, spacing_mm=spacing_mm, border_artefact=border_artefact
        )
        made_folder(root / name)
        for modality, values in zip(MODALITIES, np.moveaxis(volume.voxels, 3, 0), strict=True):
            _write_nifti(root / name / f"{modality}.nii.gz", values.astype(np.int16), volume.affine_mm)
        assert volume.tumour is not None
        _write_nifti(root / name / "tumour.nii.gz", volume.tumour.astype(np.uint8), volume.affine_mm)
        files = [f"{name}/{file}.nii.gz" for file in (*MODALITIES, "tumour")]
        rows.writerow([name, name, f"grade {grade}", *files])
    manifest = root / "mri.csv"
    write_atomically(manifest, table.getvalue())
    return manifest


def _refuse_impossible(
    grade: int, shape_vox: tuple[int, int, int], spacing_mm: float, border_artefact: float | None
) -> None:
    if grade not in GRADES:
        raise BadInput(f"expected a grade of {GRADES}, got {grade}")
    if len(shape_vox) != 3 or min(shape_vox) < LEAST_SIDE_VOX:
        raise BadInput(f"expected three sides of at least {LEAST_SIDE_VOX} voxels, got {shape_vox}")
    if not spacing_mm > 0:
        raise BadInput(f"expected a spacing above 0 mm, got {spacing_mm}")
    if border_artefact is not None and not 0 <= border_artefact <= 1:
        raise BadInput(f"expected a border artefact in [0, 1] or None, got {border_artefact}")


def _refuse_negative(seed: int) -> None:
    if seed < 0:
        raise BadInput(f"expected a seed of at least 0, got {seed}")


def _scanned(brain: Brain, tissues: NDArray[np.int8], frame: Frame, rng: np.random.Generator) -> Floats:
    """(X, Y, Z, 4) float32 intensities of brain and tumour, `tissues` being −1 outside of the tumour."""
    tumour = tissues >= 0
    brightness = BRIGHTNESS * rng.uniform(1 - UNLIKE, 1 + UNLIKE, BRIGHTNESS.shape).astype(np.float32)
    bias, texture = (
        np.stack([deviation * frame.noise(sigma_units, rng) for _ in MODALITIES], axis=-1)
        for deviation, sigma_units in ((BIAS, 18), (TEXTURE, 1))
    )
    bias = np.exp(bias)
    grain = GRAIN * rng.standard_normal(bias.shape, dtype=np.float32)
    gain = np.exp(rng.uniform(math.log(GAINS[0]), math.log(GAINS[1]), len(MODALITIES))).astype(np.float32)
    healthy = brain.tissues @ brightness[:3]
    healthy[..., MODALITIES.index("t1c")] += VESSELS_T1C * brain.vessels
    ill = healthy.copy()
    ill[tumour] = brightness[tissues[tumour]]
    # Outside of the tumour nothing shows through of it, by blur: it would be of one grade or the other.
    healthy, ill = (frame.smoothed(values, BLUR_UNITS) for values in (healthy, ill))
    in_no_order = brightness[rng.permutation(np.sort(tissues[tumour]))]
    healthy[tumour] = in_no_order
    healthy, ill = ((values + texture) * bias + grain for values in (healthy, ill))
    healthy[tumour] = _distributed_as(ill[tumour], healthy[tumour])
    return np.asarray(np.maximum(np.rint(healthy * gain), 1) * brain.inside[..., None], np.float32)


def _distributed_as(values: Floats, template: Floats) -> Floats:
    """(n, C) with the ranks of `values` and the values of `template`, each channel for itself."""
    found = np.empty_like(template)
    np.put_along_axis(found, np.argsort(values, axis=0, kind="stable"), np.sort(template, axis=0), axis=0)
    return found


def _pits_units(grade: int, chance: float, rng: np.random.Generator) -> float:
    """At the usual place of a grade, or at any."""
    usual, other = rng.uniform() < chance, int(rng.choice(GRADES))
    return PITS_UNITS[grade if usual else other]


def _pitted(brain: NDArray[np.bool_], frame: Frame, pits_units: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The brain without what lies less deep than the pits, which are as far apart as they are wide."""
    uneven = np.clip(frame.noise(PIT_WIDTH_UNITS, rng), 0, 1)
    depth = ndimage.distance_transform_edt(brain) * frame.step_units
    return np.asarray(brain & (depth > pits_units * uneven))


def _write_nifti(path: Path, values: NDArray[np.int16] | NDArray[np.uint8], affine_mm: NDArray[np.float64]) -> None:
    import nibabel

    image = nibabel.Nifti1Image(values, affine_mm)
    image.header.set_xyzt_units("mm")
    write_atomically(path, gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
