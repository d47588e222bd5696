"""The folder of a training, whatever it trains: begun, gone on with, or only its cards written anew."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from digipath.case import Case
from digipath.errors import NotFound
from digipath.files import read_json
from digipath.training.config import CardText

OWNED = ("runs", "scores", "weights", "results.json", "scores.csv", "summary.md")


class Configured(Protocol):
    """The settings of a training."""

    @property
    def card(self) -> CardText: ...

    def record(self) -> dict[str, Any]: ...


class Hashed(Protocol):
    """A manifest."""

    @property
    def sha256(self) -> str: ...


class Planned(Protocol):
    """The plan of a training."""

    @property
    def config(self) -> Configured: ...

    @property
    def manifest(self) -> Hashed: ...


@dataclass(frozen=True)
class TrainingResult:
    """What `train` left in `folder`, read when asked for."""

    folder: Path

    @cached_property
    def record(self) -> dict[str, Any]:
        """All of `results.json`: configuration, plan, runs, scores, cards, timings."""
        return dict(read_json(self.folder / "results.json"))

    @property
    def card(self) -> Path:
        """The card of what is shipped, an ensemble or one network; `segment(weights=...)` takes its path."""
        return self.folder / "weights" / f"{self.record['name']}.json"

    @property
    def cards(self) -> tuple[Path, ...]:
        """All cards, the shipped one first."""
        return tuple(self.folder / "weights" / f"{name}.json" for name in self.record["cards"])

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Scores by subject, each member and "ensemble": `pooled`, `spread` and `rounds`.

        Of tile classifiers and networks of MRI by grader, as `digipath.training.grading_results.scored` gives them.
        """
        return dict(self.record["scores"])


def open_training(folder: str | Path) -> TrainingResult:
    """The result of a finished training. Raises NotFound where none is."""
    if not (Path(folder) / "results.json").is_file():
        raise NotFound(f"expected a finished training, found no results.json: {folder}")
    return TrainingResult(Path(folder))


def in_folder(
    plan: Planned,
    out: str | Path | None,
    train: Callable[[Path], None],
    *,
    resume: bool,
    own: Sequence[str] = (),
    entries: Sequence[str] = (),
) -> TrainingResult:
    """Train what is planned in its folder, go on there, or write its cards anew where they are not as they would be.

    Args:
        out: default `<the card's name>.training` in the working directory.
        own: names in the folder besides those that all trainings have.
        entries: of `results.json` without which a finished training is of an older digipath.
    """
    folder = Path(out) if out is not None else Path.cwd() / f"{plan.config.card.name}.training"
    identity = {
        "manifest": {"sha256": plan.manifest.sha256},
        "config": flat({**plan.config.record(), "card": {"name": plan.config.card.name}}),
        "digipath": version("digipath"),
    }
    with Case(folder, "train", identity, owned=(*OWNED, *own), resume=resume) as case:
        if not case.done or _outdated(plan, folder, entries):
            train(folder)
    return TrainingResult(folder)


def _outdated(plan: Planned, folder: Path, entries: Sequence[str]) -> bool:
    """Whether the record of a finished training lacks an entry, or has other words than [card] has now."""
    record = read_json(folder / "results.json")
    words = json.loads(json.dumps(asdict(plan.config.card)))  # tuples as they are read back
    return not record.keys() >= set(entries) or bool(record["config"]["card"] != words)


def flat(record: Any, name: str = "") -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """A nested record as one level of dotted names, so that a difference can be told in a line."""
    if isinstance(record, Mapping):
        parts = [(str(key), value) for key, value in record.items()]
    elif isinstance(record, list | tuple) and any(isinstance(value, Mapping) for value in record):
        parts = [(str(number), value) for number, value in enumerate(record)]
    else:
        return {name: list(record) if isinstance(record, tuple) else record}
    found: dict[str, Any] = {}
    for key, value in parts:
        found |= flat(value, f"{name}.{key}" if name else key)
    return found
