"""Results read back from their folder, whatever verb wrote them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.case import read_state
from digipath.errors import BadInput, CaseDiffers, NotFound
from digipath.files import read_json
from digipath.maps import MEMBERS, MapArray, open_maps
from digipath.measure.tile_grades import LEAST_CONFIDENCE, LEAST_SHARE, GradeReadout, leading, read_grades
from digipath.values import Coverage

CASE_FILE = "case.json"  # of a case of several slides or modalities, each in a folder of its own beside it
FUSE = "fuse"  # the verb of a case whose members vote, as its state says
ONE, SEVERAL, FUSED = "the result of one slide or volume", "a case of several slides", "a case of several modalities"
VERDICT = ("grade", "probabilities", "members", "missing")  # what is told of a vote
STORED = np.float16  # the precision of maps, in which a probability is compared with a threshold


@dataclass(frozen=True)
class Segmentation:
    """The result of `segment`: maps are read lazily from `folder`.

    `probability`, `aleatoric` and `epistemic` are array-like, (rows, columns) for a two-class
    task's positive class, else (rows, columns, classes); NaN on tissue without a prediction.
    """

    folder: Path

    @cached_property
    def maps(self) -> dict[str, MapArray]:
        """Every stored map by name."""
        return open_maps(self.folder)

    @property
    def probability(self) -> MapArray:
        """Mean probability over networks and views, [0, 1]."""
        return self.maps["probability"]

    @property
    def aleatoric(self) -> MapArray | None:
        """Variance over views, or None where only one view was used."""
        return self.maps.get("aleatoric")

    @property
    def epistemic(self) -> MapArray | None:
        """Variance over networks, or None where there is only one."""
        return self.maps.get("epistemic")

    @property
    def entropy(self) -> MapArray | None:
        """Entropy of the mean probability in bits, or None where it was not asked for."""
        return self.maps.get("entropy")

    @property
    def mutual_information(self) -> MapArray | None:
        """What of the entropy the networks disagree on, in bits; None where not asked for or one network."""
        return self.maps.get("mutual_information")

    @property
    def members(self) -> dict[str, MapArray]:
        """Each network's own mean probability by its name; empty where they were not kept."""
        return {name.partition("/")[2]: found for name, found in self.maps.items() if name.startswith(f"{MEMBERS}/")}

    @cached_property
    def run(self) -> dict[str, Any]:
        """The run record: versions, weights, settings, counts, timings."""
        return read_json(self.folder / "run.json")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Areas and counts, as in `summary.json`."""
        return read_json(self.folder / "summary.json")

    @property
    def coverage(self) -> Coverage:
        """The ledger in working pixels."""
        return Coverage(**self.run["coverage"])

    @property
    def mpp(self) -> float | None:
        """µm per map pixel; None where the slide's resolution is unknown."""
        return self.run["settings"]["map_mpp"]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the maps."""
        return tuple(self.run["classes"])


@dataclass(frozen=True)
class GradedSlide:
    """What `grade` found on one slide, image or folder of tiles, read lazily from `folder`."""

    folder: Path

    @cached_property
    def maps(self) -> dict[str, MapArray]:
        """Every stored map by name, a pixel for each tile; `probability` is (rows, columns, classes)."""
        return open_maps(self.folder)

    @cached_property
    def run(self) -> dict[str, Any]:
        """The run record: versions, weights, settings, counts, timings."""
        return read_json(self.folder / "run.json")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """All readouts, as in `summary.json`."""
        return read_json(self.folder / "summary.json")

    @property
    def slide_name(self) -> str:
        """Of the file or folder that was graded."""
        return Path(self.run["slide"]["path"]).name

    @property
    def of_folder(self) -> bool:
        """True of a folder of tiles, which lie on no slide."""
        return "size_l0" not in self.run["slide"]

    @property
    def classes(self) -> tuple[str, ...]:
        """Grades in rising order of malignancy."""
        return tuple(self.run["classes"])

    @property
    def coverage(self) -> Coverage:
        """The ledger in working pixels of tissue, of a folder of tiles in those of its images.

        Excluded is what lies in no graded tile.
        """
        return Coverage(**self.run["coverage"])

    @cached_property
    def tiles(self) -> list[dict[str, str]]:
        """The rows of `tiles.csv`: every tile that was graded, in the order of the map."""
        with (self.folder / "tiles.csv").open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))

    @property
    def probabilities(self) -> NDArray[np.float16]:
        """(n, C) of every tile that was graded, as the maps hold them."""
        found = [[float(row[f"p {name}"]) for name in self.classes] for row in self.tiles]
        return np.array(found, STORED).reshape(-1, len(self.classes))

    @property
    def areas_mm2(self) -> NDArray[np.float64] | None:
        """(n,) tissue in each of these tiles, in a folder of tiles the image itself.

        None where the resolution is unknown, or where areas tell nothing: see `tells_areas`.
        """
        if self.run["settings"]["working_mpp"] is None or not tells_areas(self.run):
            return None
        column = "image_mm2" if self.of_folder else "tissue_mm2"
        return np.array([float(row[column]) for row in self.tiles])

    @property
    def complete(self) -> bool:
        """True if every tile that was to be graded, by any network, could be read."""
        members = (self.run.get("bags") or {"members": {}})["members"].values()
        return self.coverage.complete and not any(member["unreadable"] for member in members)

    def readout(self, *, least_share: float | None = None, least_confidence: float | None = None) -> GradeReadout:
        """The grade of the slide in three ways, at any thresholds; None: those it was graded with.

        See `digipath.measure.tile_grades`.
        """
        least_share, least_confidence = thresholds(self, least_share, least_confidence)
        return read_grades(
            self.probabilities, self.classes, least_share=least_share, least_confidence=least_confidence,
            areas_mm2=self.areas_mm2,
        )  # fmt: skip


@dataclass(frozen=True)
class GradedVolume:
    """What `grade` found in the MRI of a patient, read lazily from `folder`."""

    folder: Path

    @cached_property
    def run(self) -> dict[str, Any]:
        """The run record: versions, weights, settings, what each network says, timings."""
        return read_json(self.folder / "run.json")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The verdict, as in `summary.json`."""
        return read_json(self.folder / "summary.json")

    @property
    def classes(self) -> tuple[str, ...]:
        """Grades in rising order of malignancy."""
        return tuple(self.run["classes"])

    @property
    def verdict(self) -> dict[str, Any]:
        """`grade`, `probabilities` by class, `members` that voted, and `missing`: who did not, and why."""
        return {name: self.run[name] for name in VERDICT}

    @property
    def explanations(self) -> dict[str, dict[str, Path]]:
        """Member → method → NIfTI file in [0, 1] on the grid of the volume, higher is more important."""
        members = self.run["members"].items()
        return {name: {how: self.folder / file for how, file in own["explanations"].items()} for name, own in members}


@dataclass(frozen=True)
class Grade:
    """The grade of a case: of all its slides together, of each, of its MRI, and of all modalities together.

    Attributes:
        slides: in the order given, where the case has any; of a fusion as each of its members graded them. folder:
            where the case is written; that of its only slide or of its MRI if there is nothing else.
        volumes: what networks for MRI found, one for each that a fusion names; where the case has MRI.
    """

    slides: tuple[GradedSlide, ...]
    folder: Path
    volumes: tuple[GradedVolume, ...] = ()

    @cached_property
    def verdict(self) -> dict[str, Any] | None:
        """The vote of all members where MRI has a voice, as `GradedVolume.verdict`; None of slides alone."""
        if not self.volumes and not (self.folder / CASE_FILE).is_file():
            return None
        if self.folder == (self.volumes[0].folder if self.volumes else None):
            return self.volumes[0].verdict
        found = read_json(self.folder / CASE_FILE)
        return {name: found[name] for name in VERDICT} if of_fusion(self.folder) else None

    @cached_property
    def members(self) -> dict[str, Grade]:
        """Of a fusion: each member that was asked → what it found, in its own folder; of all else nothing."""
        if not (self.folder / CASE_FILE).is_file() or not of_fusion(self.folder):
            return {}
        slides = [(one.folder.relative_to(self.folder).parts[0], one) for one in self.slides]
        volumes = [(one.folder.relative_to(self.folder).parts[0], one) for one in self.volumes]
        return {
            name: Grade(tuple(x for at, x in slides if at == name), self.folder / name,
                        tuple(x for at, x in volumes if at == name))
            for name in dict.fromkeys(at for at, _ in (*slides, *volumes))
        }  # fmt: skip

    @cached_property
    def notes(self) -> list[str]:
        """What must be known of slides and volumes: what could not be read, what was done to the files, limits."""
        if self.members:
            return list(read_json(self.folder / CASE_FILE)["notes"])
        summaries = [*(slide.summary for slide in self.slides), *(volume.summary for volume in self.volumes)]
        return list(dict.fromkeys(note for summary in summaries for note in summary["notes"]))

    @property
    def classes(self) -> tuple[str, ...]:
        """Grades in rising order of malignancy: of the verdict where there is one."""
        if self.verdict is not None:
            return tuple(self.verdict["probabilities"])
        return self.slides[0].classes

    @property
    def complete(self) -> bool:
        """True if every tile that was to be graded, by any member, could be read."""
        members = () if self.verdict is None else self.verdict["members"].values()
        return all(slide.complete for slide in self.slides) and all(one.get("complete", True) for one in members)

    @property
    def bags(self) -> dict[str, Any] | None:
        """By networks that see bags of tiles: `grade`, and `probabilities`, the mean over the slides; None without.

        Raises BadInput: several members of a fusion graded the slides.
        """
        self._check_one_member()
        told = [bags for slide in self.slides if (bags := slide.run.get("bags")) and bags["grade"]]
        if not told:
            return None
        if len(told) == 1:
            return {name: told[0][name] for name in ("grade", "probabilities")}
        classes = self.slides[0].classes
        mean = {name: float(np.mean([bags["probabilities"][name] for bags in told])) for name in classes}
        grade = leading(list(mean.values()))
        return {"grade": None if grade is None else classes[grade], "probabilities": mean}

    @property
    def probabilities(self) -> NDArray[np.float16]:
        """(n, C) of the tiles of all slides. Raises BadInput: no slides, or several members of a fusion graded them."""
        self._check_slides()
        return np.concatenate([slide.probabilities for slide in self.slides])

    def readout(self, *, least_share: float | None = None, least_confidence: float | None = None) -> GradeReadout:
        """The grade of the slides in three ways: every tile of every slide counts alike; as for a slide.

        Raises BadInput: the case has no slides, or several members of a fusion graded them.
        """
        self._check_slides()
        least_share, least_confidence = thresholds(self.slides[0], least_share, least_confidence)
        areas = [slide.areas_mm2 for slide in self.slides]
        known = [area for area in areas if area is not None]
        return read_grades(
            self.probabilities, self.slides[0].classes, least_share=least_share, least_confidence=least_confidence,
            areas_mm2=np.concatenate(known) if len(known) == len(areas) else None,
        )  # fmt: skip

    def _check_slides(self) -> None:
        if not self.slides:
            raise BadInput(f"expected slides to read, the case has MRI alone; its verdict is the grade: {self.folder}")
        self._check_one_member()

    def _check_one_member(self) -> None:
        graded = [name for name, one in self.members.items() if one.slides]
        if len(graded) > 1:
            told = f"expected slides that one member graded, {' and '.join(graded)} did"
            raise BadInput(f"{told}; read each in `members`: {self.folder}")


def of_fusion(folder: Path) -> bool:
    """Whether a folder with a case holds a vote of several members, not several slides alone."""
    return "members" in read_json(folder / CASE_FILE)


def check_kind(folder: Path, kind: str) -> None:
    """Raise CaseDiffers where a folder holds something else than `kind`: `ONE`, `SEVERAL` or `FUSED`."""
    state, held = read_state(folder), None
    if state is not None:
        held = FUSED if state.get("verb") == FUSE else ONE
    elif (folder / CASE_FILE).exists():
        held = SEVERAL
    if held not in (None, kind):
        raise CaseDiffers(f"{folder} holds {held}; choose another --out")


def tells_areas(run: Mapping[str, Any]) -> bool:
    """Whether areas of tiles say something of the slide: not where only tiles that were drawn at random are graded."""
    return not run["tiles"].get("not_drawn")


def thresholds(slide: GradedSlide, least_share: float | None, least_confidence: float | None) -> tuple[float, float]:
    """Those of the highest grade: as given, or as the slide was graded with."""
    used = slide.run.get("reading") or {}
    share = used.get("least_share", LEAST_SHARE) if least_share is None else least_share
    return share, used.get("least_confidence", LEAST_CONFIDENCE) if least_confidence is None else least_confidence


def open_result(folder: str | Path) -> Segmentation | Grade:
    """Open a case folder that a finished run of `segment` or `grade` wrote.

    Raises:
        NotFound: no case there, or one that is not done (the message says its state).
    """
    folder = Path(folder)
    if (folder / CASE_FILE).is_file():
        case = read_json(folder / CASE_FILE)
        slides = tuple(GradedSlide(_done(folder / slide["folder"])[0]) for slide in case["slides"])
        volumes = tuple(GradedVolume(_done(folder / name)[0]) for name in case.get("volumes", ()))
        return Grade(slides, folder, volumes)
    found, verb = _done(folder)
    if verb != "grade":
        return Segmentation(found)
    if "volume" in read_json(found / "run.json"):
        return Grade((), found, (GradedVolume(found),))
    return Grade((GradedSlide(found),), found)


def open_segmentation(folder: str | Path) -> Segmentation:
    """Open the result of `segment`.

    Raises:
        NotFound: as `open_result`. BadInput: it is a result of another verb.
    """
    found = open_result(folder)
    if not isinstance(found, Segmentation):
        raise BadInput(f"expected the result of `digipath segment`, received that of `digipath grade`: {folder}")
    return found


def _done(folder: Path) -> tuple[Path, str]:
    """A folder that holds a finished case, and the verb that wrote it."""
    state = read_state(folder)
    if state is None:
        raise NotFound(f"no result in {folder}: expected a folder that `digipath segment` or `grade` wrote")
    if state["state"] != "done":
        reason = state["reason"] or "not finished"
        raise NotFound(f"the result in {folder} is {state['state']} ({reason}); run it again")
    if missing := [name for name in ("run.json", "summary.json") if not (folder / name).is_file()]:
        raise NotFound(f"the result in {folder} lacks {missing[0]}; run it again")
    return folder, str(state.get("verb", "segment"))


def list_results(root: str | Path) -> list[Path]:
    """Folders under `root` that hold a case, in alphabetical order."""
    return sorted(path.parent for path in Path(root).rglob("state.json"))
