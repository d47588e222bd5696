"""A patient as the caller describes them: slides, volumes, and how each is to be graded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from digipath.errors import BadInput, SlideNotFound
from digipath.grading.graders import graders_of, refuse_idle
from digipath.grading.slide_case import GradeSettings, Reading, SlideRun, stem
from digipath.grading.volume_case import VolumeSettings, grade_volume
from digipath.grading.volume_files import OpenedVolume, VolumeFiles
from digipath.grading.volume_networks import VolumeGraders
from digipath.result import GradedVolume
from digipath.values import Cancel, Predictor, ProgressCallback


@dataclass(frozen=True)
class Patient:
    """What is given of a patient, and how it is to be graded."""

    slides: tuple[Path, ...]
    files: VolumeFiles | None
    settings: GradeSettings
    reading: Reading
    of_volumes: VolumeSettings
    mpp: float | None
    predictors: tuple[Predictor, ...] | None
    runtime: str
    precision: str
    resume: bool
    progress: ProgressCallback | None
    cancel: Cancel | None

    def check(self, *, masks: bool) -> None:
        """Refuse what cannot be, and what would do nothing, before anything is opened."""
        self.settings.check()
        self.reading.check()
        if not self.slides and self.files is None:
            raise BadInput("expected at least one slide, image or folder of tiles, or MRI volumes to grade, got none")
        if self.files is None and (masks or self.of_volumes != VolumeSettings()):
            raise BadInput("brain, tumour, slice_vox and explanations are for MRI; leave them out, or give volumes")
        of_slides = (self.settings, self.reading, self.mpp, self.predictors, self.runtime, self.precision)
        as_given = (GradeSettings(calibrated=self.settings.calibrated), Reading(), None, None, "auto", "auto")
        if not self.slides and of_slides != as_given:
            raise BadInput(
                "views, tile, tissue, stain, mpp, bags, thresholds, gallery, predictors, runtime and precision are for "
                "slides; leave them out, or give slides"
            )
        if self.files is not None and self.predictors is not None:
            raise BadInput("predictors grade slides alone; leave the volumes out, or write a fusion card of weights")
        _refuse_tissue_of_folders(self.settings, self.slides)

    def slide_run(self, name: str) -> SlideRun:
        """What grades the slides by one card, or by the caller's own predictors."""
        graders = graders_of(
            name, self.predictors, tile_px=self.settings.tile, calibrated=self.settings.calibrated,
            runtime=self.runtime, precision=self.precision,
        )  # fmt: skip
        refuse_idle(graders, self.settings.draw, {
            name: getattr(self.settings, name) != getattr(GradeSettings(), name)
            for name in ("views", "tile", "at_mpp", "calibrated", "keep_members")
        })  # fmt: skip
        return SlideRun(graders, self.settings, self.reading, self.mpp, self.resume, self.progress, self.cancel)

    def volume(self, graders: VolumeGraders, folder: Path, opened: OpenedVolume | None = None) -> GradedVolume:
        """The grade of the MRI by networks for volumes, in its folder. Raises what `grade_volume` raises."""
        assert self.files is not None
        return grade_volume(
            opened or OpenedVolume(self.files), graders, folder, self.of_volumes,
            resume=self.resume, progress=self.progress, cancel=self.cancel,
        )  # fmt: skip

    @property
    def name(self) -> str:
        """What the folder of results is called where nobody says."""
        if len(self.slides) == 1 and self.files is None:
            return stem(self.slides[0])
        return "case" if self.files is None else self.files.name


def slides_of(slides: str | Path | Sequence[str | Path] | None) -> tuple[Path, ...]:
    """The slides of the case. Raises BadInput: two that would share a folder; SlideNotFound."""
    given = [slides] if isinstance(slides, str | Path) else list(slides or ())
    paths = tuple(Path(slide) for slide in given)
    names = [stem(path) for path in paths]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"expected slides of different names in a case, got {twice[0]} more than once")
    for path in paths:
        if not path.exists():
            raise SlideNotFound(f"expected a slide, an image or a folder of tiles, found nothing: {path}")
    return paths


def _refuse_tissue_of_folders(settings: GradeSettings, paths: Sequence[Path]) -> None:
    """Raise BadInput where tissue was asked for in images that are all graded."""
    folders = [path for path in paths if path.is_dir()]
    asked = [name for name in ("tissue", "least_tissue") if getattr(settings, name) is not None]
    if folders and asked:
        said = " and ".join(asked)
        raise BadInput(f"a folder's images are tiles that were chosen already; leave out {said}: {folders[0]}")
