"""MRI files → one `Volume`: NIfTI and DICOM read to RAS millimetres on one grid, bias field, intensities."""

from __future__ import annotations

from digipath.volume.intensity import bias_field_corrected, standardised
from digipath.volume.modalities import recognised_modality, volume_files
from digipath.volume.nifti import write_nifti
from digipath.volume.reading import open_volumes

__all__ = [
    "bias_field_corrected",
    "open_volumes",
    "recognised_modality",
    "standardised",
    "volume_files",
    "write_nifti",
]
