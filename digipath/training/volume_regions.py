"""What networks see of MRI, made once: files → bias field → intensities → region; one file each in a folder.

A file's name tells what is in it: the contents of the case's files, and the rule. So what one training made, or a
killed one, is never made again, whatever else changes.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from digipath.errors import BadInput, BadVolume, Cancelled, NotFound
from digipath.files import made_folder, write_atomically
from digipath.training.tables import raise_all
from digipath.training.volume_manifest import VolumeCase, VolumeManifest
from digipath.values import Cancel, Progress, ProgressCallback
from digipath.volume_rois import BRAIN, VolumeRule, region_of
from digipath.volume_values import Volume

Floats = NDArray[np.float32]
Cut = Callable[[Volume, VolumeRule], Floats]


def region_pixels(volume: Volume, rule: VolumeRule) -> Floats:
    """What a network that grades sees."""
    return region_of(volume, rule).pixels


@dataclass(frozen=True)
class Regions:
    """The regions of cases, by the names of these. files: one for each case and rule, where they were made."""

    files: Mapping[tuple[str, VolumeRule], Path]

    def read(self, case: VolumeCase, rule: VolumeRule) -> Floats:
        """(*size, channels) float32, the caller's own. Raises BadInput: the file is gone or damaged."""
        return np.array(self.open(case, rule))

    def open(self, case: VolumeCase, rule: VolumeRule) -> Floats:
        """The same, of which only what is looked at is read. Raises BadInput: the file is gone or damaged."""
        path = self.files[case.name, rule]
        try:
            found: Floats = np.load(path, mmap_mode="r", allow_pickle=False)
            return found
        except (OSError, ValueError, EOFError) as error:
            raise BadInput(f"kept region is damaged ({error}); remove the file to make it anew: {path}") from error


def prepared(
    manifest: VolumeManifest,
    rules: Sequence[VolumeRule],
    folder: Path,
    cut: Cut = region_pixels,
    *,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> Regions:
    """The regions of all cases by all rules, of which those that `folder` lacks are made.

    cut: makes one of a volume whose bias field is as the rule wants it.

    Raises:
        BadVolume: one line on the first five cases of which none can be made, once all others were.
        Cancelled: between two cases; what was made stays.
    """
    made_folder(folder)
    for stray in folder.glob(".*.npy.*"):  # of a run that was killed while it wrote
        stray.unlink()
    files = {(case.name, rule): folder / _name(case, rule) for case in manifest.cases for rule in rules}
    work = [case for case in manifest.cases if not all(files[case.name, rule].exists() for rule in rules)]
    began, errors = time.perf_counter(), []
    for done, case in enumerate(work):
        if cancel is not None and cancel():
            raise Cancelled("cancelled while regions were made; the same call goes on with the next case")
        if progress is not None:
            rate = done / (time.perf_counter() - began) if done else math.nan
            progress(Progress(done, len(work), rate, f"preparing {case.name}"))
        try:
            _prepare(case, {rule: files[case.name, rule] for rule in rules}, cut)
        except (BadInput, NotFound) as error:
            errors.append(BadVolume(f"case {case.name!r}: {error}"))
    raise_all(errors, manifest.path)
    return Regions(files)


def _prepare(case: VolumeCase, files: Mapping[VolumeRule, Path], cut: Cut) -> None:
    """Write the regions that are not there; files are read, and bias fields corrected, once for rules that agree."""
    volumes: dict[tuple[tuple[str, ...], bool], Volume] = {}
    for rule, file in files.items():
        if not file.exists():
            key = rule.order, rule.bias_field
            volume = volumes[key] = volumes.get(key) or _opened(case, *key)
            packed = io.BytesIO()
            np.save(packed, cut(volume, replace(rule, bias_field=False)), allow_pickle=False)
            write_atomically(file, packed.getvalue())


def _opened(case: VolumeCase, order: tuple[str, ...], bias_field: bool) -> Volume:
    """These modalities alone, so that a region does not depend on what else the case has."""
    from digipath.volume import bias_field_corrected, open_volumes  # imports SimpleITK

    files = dict(case.modalities)
    volume = open_volumes({name: files[name] for name in order}, brain=case.brain, tumour=case.tumour)
    return bias_field_corrected(volume) if bias_field else volume


def _name(case: VolumeCase, rule: VolumeRule) -> str:
    """Of a region's file: readable, and of its contents alone."""
    looked_at = (*rule.order, "brain") if rule.roi == BRAIN else (*rule.order, "brain", "tumour")
    contents = {name: content for name, content in case.contents if name in looked_at}
    said = json.dumps([version("digipath"), rule.to_record(), contents], sort_keys=True)
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", case.name)[:80]
    return f"{readable}-{hashlib.sha256(said.encode()).hexdigest()[:16]}.npy"
