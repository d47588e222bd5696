"""MRI files → one `Volume`: NIfTI and DICOM read to RAS millimetres on one grid, bias field, intensities."""

from __future__ import annotations

from digipath.volume.intensity import bias_field_corrected, standardised
from digipath.volume.modalities import case_name, recognised_modality, volume_files
from digipath.volume.nifti import write_nifti
from digipath.volume.reading import open_volumes, read_alone

__all__ = [
    "bias_field_corrected",
    "case_name",
    "open_volumes",
    "read_alone",
    "recognised_modality",
    "standardised",
    "volume_files",
    "write_nifti",
]
