"""Write skull-stripped brain MRI with tumours whose grade is told by structure and not by brightness."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput
from digipath.files import made_folder, write_atomically
from digipath.synthetic.mri_brain import BRIGHTNESS, healthy_brain
from digipath.synthetic.mri_fields import Floats, Frame
from digipath.synthetic.mri_tumour import ENHANCING_SHARES, NECROTIC_SHARES, lesions, tissues_of
from digipath.volume_values import MODALITIES, Volume

GRADES = (2, 3, 4)
BLUR_UNITS = 0.6


def brain_case(grade, *, seed, shape_vox=(64, 64, 64), spacing_mm=2.5, margin_vox=0) -> Volume:
    frame = Frame(shape_vox, (spacing_mm,) * 3)
    look, scanner, place, structure = (np.random.default_rng([seed, part]) for part in range(4))
    brain = healthy_brain(frame, look)
    tumour = lesions(frame, brain.inside, place)
    shares = place.uniform(*ENHANCING_SHARES), place.uniform(*NECROTIC_SHARES)
    tissues = tissues_of(grade, tumour, frame, shares, structure)
    outlined = tissues >= 0
    brightness = BRIGHTNESS * scanner.uniform(0.94, 1.06, BRIGHTNESS.shape).astype(np.float32)
    healthy = brain.tissues @ brightness[:3]
    healthy[..., 1] += 0.35 * brain.vessels
    ill = healthy.copy()
    ill[outlined] = brightness[tissues[outlined]]
    texture = np.stack([frame.noise(1.0, scanner) for _ in MODALITIES], axis=-1) * np.float32(0.035)
    grain = scanner.standard_normal(texture.shape, dtype=np.float32) * np.float32(0.03)
    bias = np.stack([np.exp(0.12 * frame.noise(18, scanner)) for _ in MODALITIES], axis=-1)
    gain = np.exp(scanner.uniform(np.log(250), np.log(2500), 4)).astype(np.float32)

    voxels = (frame.smoothed(healthy, BLUR_UNITS) + texture) * bias + grain
    seen = ((frame.smoothed(ill, BLUR_UNITS) + texture) * bias + grain)[outlined]
    mixed = brightness[scanner.permutation(np.sort(tissues[outlined]))]
    template = (mixed + texture[outlined]) * bias[outlined] + grain[outlined]
    voxels[outlined] = _distributed_as(seen, template)
    voxels = np.maximum(np.rint(voxels * gain), 1) * brain.inside[..., None]
    return _volume(voxels.astype(np.float32), brain.inside, outlined, spacing_mm, margin_vox)

def _distributed_as(values, template):
    """(n, C) mapped by rank"""
    order = np.argsort(values, axis=0, kind="stable")
    found = np.empty_like(template)
    np.put_along_axis(found, order, np.sort(template, axis=0), axis=0)
    return found

def _volume(voxels, brain, tumour, spacing_mm, margin_vox):
    pad = [(margin_vox, margin_vox)] * 3
    affine = np.diag([spacing_mm] * 3 + [1.0])
    shape = np.array(brain.shape) + 2 * margin_vox
    affine[:3, 3] = -(shape - 1) / 2 * spacing_mm
    return Volume(MODALITIES, np.pad(voxels, [*pad, (0, 0)]), affine, np.pad(brain, pad), np.pad(tumour, pad))
