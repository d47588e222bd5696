"""Heatmaps of a patient's lymph nodes → category of each node and pN stage, by forests and by the size rule."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from digipath.errors import BadCard, BadInput, OutputUnwritable
from digipath.files import made_folder, write_atomically, write_json
from digipath.measure.forests import FORESTS, StageForests, majority, votes_of
from digipath.measure.pn_stage import (
    CATEGORIES,
    CELLS_NOTE,
    FEATURES,
    OUTSIDE,
    STAGES,
    patient_stage,
    stage_probabilities,
)
from digipath.measure.pn_tables import Patient, write_submission
from digipath.measure.stage_sets import check_level, node_set, stage_set
from digipath.node_maps import NodeMaps, node_name, open_node
from digipath.pipeline import segment
from digipath.report import NOTICE, NodeInput, StageInput, stage_page
from digipath.result import Segmentation
from digipath.slide import open_slide
from digipath.values import Cancel, Card, ProgressCallback
from digipath.weights import DEFAULT_FOREST, load_card, verify

LEVEL = 0.9
COARSER = 1.01  # than the forests know: what is told
SUBMISSION = "submission.csv"


@dataclass(frozen=True)
class Stage:
    """The pN stage of a patient.

    Attributes:
        patient: name.
        stage: by the categories of the forests' vote, stage_by_size: of the size rule; each one of `STAGES`, or
            `digipath.measure.pn_stage.OUTSIDE`.
        probabilities: of each stage, the nodes taken as independent.
        stage_set: stages that cannot be excluded at `level`; empty without a level.
        level: of all sets; None where the forests' card has no conformal quantiles.
        nodes: in the order given; see `digipath.report.NodeInput`.
        forest: name of the card; run: what it was made with.
        notes: in words. folder: where it was written, or None.
    """

    patient: str
    stage: str
    stage_by_size: str
    probabilities: Mapping[str, float]
    stage_set: tuple[str, ...]
    level: float | None
    nodes: tuple[NodeInput, ...]
    forest: str
    run: Mapping[str, Any]
    notes: tuple[str, ...]
    folder: Path | None = None

    @property
    def complete(self) -> bool:
        """True if all tissue of all nodes has a prediction."""
        return all(node.complete for node in self.nodes)

    def to_record(self) -> dict[str, Any]:
        """As JSON, the content of stage.json."""
        record = {"notice": NOTICE, **asdict(self), "complete": self.complete}
        return record | {"folder": None if self.folder is None else str(self.folder)}


def stage(
    nodes: Sequence[Segmentation | str | Path],
    *,
    forest: str = DEFAULT_FOREST,
    level: float = LEVEL,
    patient: str = "patient",
    out: str | Path | None = None,
    segmenting: Mapping[str, Any] | None = None,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> Stage:
    """Stage a patient: category of each lymph node by four random forests and by the size rule, then Table 3.

    Khened et al. 2021, tables 2, 3 and 5 (doi:10.1038/s41598-021-90444-8). Features are measured at the µm per pixel
    that the forests' card states. The size rule looks at the longest diameter alone, on the maps as they are; cells
    are not counted, so the other criterion of isolated tumour cells (fewer than 200 cells) is not measured.
    With `out`, writes stage.json, stage.html and, if CAMELYON17's form knows the stage, submission.csv. For research
    use only.

    Args:
        nodes: all examined nodes of one patient: slides, which are segmented first (a finished segmentation is
            used as it is), case folders, `Segmentation`s, or .npz files (see `digipath.node_maps.open_node`).
        forest: name or path of a card of kind forest.
        level: of the sets of categories and stages, one that the card has quantiles for.
        patient: its name, for the report and the submission.
        out: folder, created if absent; slides are segmented into it. None: nothing is written but segmentations
            of slides, in the working directory.
        segmenting: further arguments of `digipath.segment` for slides, e.g. {"mpp": 0.5}.
        progress, cancel: of the segmentations.

    Raises:
        BadInput: no node, one that comes twice, or a level that the card does not have.
        BadCard: the card is not one of forests for these features.
        DigipathError: whatever `segment`, `open_result` or `digipath.weights` raise; nothing is half-written.
    """
    card = _forest_card(forest)
    conformal = card.record.get("conformal")
    if conformal:
        check_level(conformal, level)
    forests = StageForests.load(card.file)
    opened = _opened(nodes, Path(out) if out is not None else None, dict(segmenting or {}), progress, cancel)
    map_mpp = float(card.record["input"]["map_mpp"])
    measured = tuple(_node(node, forests, map_mpp, conformal, level) for node in opened)
    chances = stage_probabilities([list(node.probabilities.values()) for node in measured])
    by_forests = patient_stage([node.category for node in measured])
    by_size = patient_stage([node.size_category for node in measured])
    found = Stage(
        patient=patient,
        stage=by_forests,
        stage_by_size=by_size,
        probabilities=chances,
        stage_set=stage_set(chances, conformal, level, nodes=len(measured)) if conformal else (),
        level=level if conformal else None,
        nodes=measured,
        forest=card.name,
        run=_run(card, opened, level),
        notes=_notes(card, (by_forests, by_size), len(measured), level),
        folder=Path(out) if out is not None else None,
    )
    if found.folder is not None:
        _write(found, found.folder, card)
    return found


def _forest_card(name: str) -> Card:
    card = load_card(name)
    if card.record["kind"] != "forest":
        raise BadCard(f"{card.name} is of kind {card.record['kind']}, expected forests for pN stages: {card.path}")
    if card.record["input"]["features"] != list(FEATURES) or card.classes != CATEGORIES:
        expected = f"expected forests for the {len(FEATURES)} features and {len(CATEGORIES)} categories of this version"
        raise BadCard(f"{expected}: {card.path}")
    verify(card)
    return card


def _opened(
    nodes: Sequence[Segmentation | str | Path],
    out: Path | None,
    segmenting: Mapping[str, Any],
    progress: ProgressCallback | None,
    cancel: Cancel | None,
) -> list[NodeMaps]:
    """The nodes' maps in the order given; slides are segmented once all nodes are known to be there."""
    if isinstance(nodes, str | Path | Segmentation) or not nodes:
        raise BadInput("expected a list of all nodes of a patient: slides, case folders or segmentations; got none")
    given = [node if isinstance(node, Segmentation) else Path(node) for node in nodes]
    _check_different(given)
    slides = [node for node in given if isinstance(node, Path) and not node.is_dir() and node.suffix != ".npz"]
    ready = {node: open_node(node) for node in given if node not in slides}
    for slide in slides:
        open_slide(slide, mpp=segmenting.get("mpp")).close()
    for slide in slides:
        folder = (out or Path.cwd()) / f"{slide.stem}.digipath"
        ready[slide] = open_node(segment(slide, out=folder, progress=progress, cancel=cancel, **segmenting))
    return [ready[node] for node in given]


def _check_different(nodes: Sequence[Segmentation | Path]) -> None:
    places = [os.path.realpath(node.folder if isinstance(node, Segmentation) else node) for node in nodes]
    if twice := [place for place in places if places.count(place) > 1]:
        raise BadInput(f"expected each node once, since more positive nodes are a higher stage; got twice: {twice[0]}")
    names = [node_name(node) for node in nodes]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(f"expected nodes of different names, got twice: {twice[0]}; rename a folder or file")


def _node(
    maps: NodeMaps, forests: StageForests, map_mpp: float, conformal: Mapping[str, Any] | None, level: float
) -> NodeInput:
    features = maps.features(map_mpp)
    by_forest = forests.by_forest([list(features.values())])
    chances, votes = by_forest[0].mean(axis=0), votes_of(by_forest)
    size_category, size_um = maps.by_size()
    category = CATEGORIES[majority(votes)[0]]
    inside = node_set(chances, conformal, level) if conformal else ()
    told = {
        "Not all tissue was predicted; what is missing counts as normal.": not maps.complete,
        "No tissue was found: negative only because nothing was looked at.": not maps.has_tissue,
        f"Maps of {maps.mpp:g} µm per pixel, coarser than the {map_mpp:g} that the forests know.":
            maps.mpp > COARSER * map_mpp,
        "The category that most forests vote for is not in the set, which goes by their mean probability.":
            bool(inside) and category not in inside,
    }  # fmt: skip
    return NodeInput(
        name=maps.name,
        category=category,
        probabilities=dict(zip(CATEGORIES, chances.tolist(), strict=True)),
        votes={name: CATEGORIES[vote] for name, vote in zip(FORESTS, votes[0], strict=True)},
        size_category=size_category,
        size_um=size_um,
        prediction_set=inside,
        features=features,
        complete=maps.complete,
        notes=tuple(note for note, applies in told.items() if applies),
    )


def _notes(card: Card, stages: tuple[str, str], count: int, level: float) -> tuple[str, ...]:
    """What is to be said of a patient of `count` nodes; `stages` by the forests and by the size rule."""
    conformal = card.record.get("conformal")
    of_patients = conformal["patients"] if conformal else None
    too_few = of_patients is not None and of_patients["quantiles"].get(f"{level:g}") is None
    fewest, most = of_patients["nodes_each"] if of_patients else (count, count)
    between = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    told = {
        CELLS_NOTE: True,
        f"The card of {card.name} has no conformal quantiles, so there are no sets.": not conformal,
        f"The card of {card.name} has no quantiles for patients, so there is no set of stages.":
            bool(conformal) and not of_patients,
        f"The forests were measured on too few patients to exclude a stage at {level:g}: the set holds all.": too_few,
        f"Sets of stages were measured on patients of {between} nodes, this one has {count}.":
            not fewest <= count <= most,
        "More than nine positive nodes are outside the table of stages.": OUTSIDE in stages,
    }  # fmt: skip
    return tuple(note for note, applies in told.items() if applies)


def _run(card: Card, nodes: Sequence[NodeMaps], level: float) -> dict[str, Any]:
    packages = ("digipath", "numpy", "scikit-image", "scipy", "zarr")
    return {
        "verb": "stage",
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {name: version(name) for name in packages},
        "settings": {
            "forest": card.name,
            "forest_sha256": card.record["sha256"],
            "level": level,
            "map_mpp": card.record["input"]["map_mpp"],
            "nodes": {node.name: f"{node.place} ({node.mpp:g} µm per pixel)" for node in nodes},
        },
    }


def _write(found: Stage, folder: Path, card: Card) -> None:
    made_folder(folder)
    try:
        (folder / SUBMISSION).unlink(missing_ok=True)  # of an earlier run, whose stage may have been another
    except OSError as error:
        raise OutputUnwritable(f"cannot write to {folder}: {error.strerror or error}") from error
    training = dict(card.record["training"])
    ranges = training.pop("features", {})  # drawn, not told in words
    page = stage_page(StageInput(
        patient=found.patient,
        stage=found.stage,
        stage_by_size=found.stage_by_size,
        probabilities=found.probabilities,
        nodes=found.nodes,
        stage_set=found.stage_set,
        level=found.level,
        training_range=ranges.get("values", {}),
        quantiles=ranges.get("quantiles", ()),
        card={**card.record, "training": training},
        run=found.run,
        notes=found.notes,
    ))  # fmt: skip
    write_json(folder / "stage.json", found.to_record())
    write_atomically(folder / "stage.html", page)
    if found.stage in STAGES:
        write_submission(folder / SUBMISSION, [Patient(found.patient, found.stage, _named_nodes(found))])


def _named_nodes(found: Stage) -> dict[str, str]:
    """Categories by the nodes' names in the challenge's form, which begin with the patient's."""
    begin = f"{found.patient}_"
    names = [node.name if node.name.startswith(begin) else begin + node.name for node in found.nodes]
    return dict(zip(names, (node.category for node in found.nodes), strict=True))
