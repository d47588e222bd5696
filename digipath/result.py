"""Results read back from their folder, whatever verb wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from digipath.case import read_state
from digipath.errors import NotFound
from digipath.files import read_json
from digipath.maps import MEMBERS, MapArray, open_maps
from digipath.values import Coverage


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


def open_result(folder: str | Path) -> Segmentation:
    """Open a case folder that a finished run wrote.

    Raises:
        NotFound: no case there, or one that is not done (the message says its state).
    """
    folder = Path(folder)
    state = read_state(folder)
    if state is None:
        raise NotFound(f"no result in {folder}: expected a folder that `digipath segment` wrote")
    if state["state"] != "done":
        reason = state["reason"] or "not finished"
        raise NotFound(f"the result in {folder} is {state['state']} ({reason}); run it again")
    if missing := [name for name in ("run.json", "summary.json") if not (folder / name).is_file()]:
        raise NotFound(f"the result in {folder} lacks {missing[0]}; run it again")
    return Segmentation(folder)


def list_results(root: str | Path) -> list[Path]:
    """Folders under `root` that hold a case, in alphabetical order."""
    return sorted(path.parent for path in Path(root).rglob("state.json"))
