"""`train`: manifest → plan of runs → networks → scores on held-out cases → cards, in one folder.

    runs/<member>-<round>/     one network each: checkpoint, history, curves (see `digipath.training.fit`)
    scores/<round>.npz         counts of every held-out case, from which all scores follow
    weights/<name>.json        cards with their .weights.h5; `digipath segment --weights` takes them
    results.json, scores.csv, summary.md

Finished runs and rounds are never repeated: the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digipath import networks as choose_networks
from digipath.case import Case
from digipath.errors import BadInput, NotFound
from digipath.files import read_json, write_atomically, write_json
from digipath.networks import LONGEST_REASON, Networks
from digipath.runtime import without_startup_notices
from digipath.scoring import CaseScore, Sample, score_cases
from digipath.training import results
from digipath.training.cards import Score, card_name, ensemble_card, network_card, own_metrics, pooled_metrics
from digipath.training.config import Config, Member, read_config
from digipath.training.manifest import Manifest
from digipath.training.runs import FINAL, Round, Run, plan_runs, shipped
from digipath.training.schedule import Schedule
from digipath.values import Cancel, Card, Progress, ProgressCallback
from digipath.weights import load_card, verify

if TYPE_CHECKING:
    from digipath.training.trained import Workshop

OWNED = ("runs", "scores", "weights", "results.json", "scores.csv", "summary.md")


@dataclass(frozen=True)
class Plan:
    """What a training will do. parameters: of each member's network, by its name."""

    config: Config
    manifest: Manifest
    rounds: tuple[Round, ...]
    parameters: Mapping[str, int]

    @cached_property
    def shipped(self) -> tuple[Run, ...]:
        """The runs whose networks are shipped together."""
        return shipped(self.rounds, self.config)

    def name(self, run: Run) -> str:
        """The name of a run's card; a network that is shipped alone has the short one."""
        return card_name(self.config, None if self.shipped == (run,) else run)

    def lines(self) -> list[str]:
        """The plan in words, a line per fact."""
        cases = self.manifest.cases
        found = [f"{len(cases)} cases of {len({case.patient for case in cases})} patients: {self.manifest.path}"]
        for member in self.config.members:
            begins = "random weights" if member.encoder is None else f"encoder from {member.encoder}"
            size = f"{self.parameters[member.name]:,} parameters"
            found.append(f"member {member.name}: {member.network}, {size}, {begins}")
        for round_ in self.rounds:
            for run in round_.runs:
                schedule, split = self.config.schedule_of(run.member), run.split
                parts = f"{len(split.train)} train, {len(split.validation)} validate, {len(round_.held_out)} scored"
                patches = schedule.epochs * schedule.steps_per_epoch * schedule.batch
                found.append(f"{run.name}: {parts}; up to {schedule.epochs} epochs, {patches:,} patches")
        return [*found, f"shipped as {card_name(self.config)}: {', '.join(run.name for run in self.shipped)}"]


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
        """Scores by subject, each member and "ensemble": `pooled`, `spread` and `rounds`."""
        return dict(self.record["scores"])


def train(
    config: Config | str | Path,
    *,
    out: str | Path | None = None,
    seed: int | None = None,
    resume: bool = True,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> TrainingResult:
    """Train the networks of a configuration, score them on cases they have not seen, and write their cards.

    Args:
        config: a `digipath.training.config.Config` or the path of its TOML file.
        out: the folder; default `<the card's name>.training` in the working directory.
        seed: instead of the configuration's.
        resume: go on with an unfinished training of the same configuration and manifest, return a
            finished one as it is; False starts afresh. Words of [card] other than its name may change:
            then the cards are written anew, and nothing is trained.
        progress: called with a `Progress`; cancel: asked between batches.

    Raises:
        DigipathError: any branch of the tree in `digipath.errors`; what was finished stays and resumes.
    """
    plan = prepare(config, seed=seed)
    folder = Path(out) if out is not None else Path.cwd() / f"{plan.config.card.name}.training"
    identity = {
        "manifest": {"sha256": plan.manifest.sha256},
        "config": _flat({**plan.config.record(), "card": {"name": plan.config.card.name}}),
        "digipath": version("digipath"),
    }
    with Case(folder, "train", identity, owned=OWNED, resume=resume) as case:
        if not case.done or _worded_otherwise(plan, folder):
            _train(plan, folder, progress, cancel)
    return TrainingResult(folder)


def _worded_otherwise(plan: Plan, folder: Path) -> bool:
    """Whether the cards of a finished training say other words than [card] does now; its networks stay."""
    said = read_json(folder / "results.json")["config"]["card"]
    return bool(said != json.loads(json.dumps(asdict(plan.config.card))))  # tuples as they are read back


def open_training(folder: str | Path) -> TrainingResult:
    """The result of a finished training. Raises NotFound where none is."""
    if not (Path(folder) / "results.json").is_file():
        raise NotFound(f"expected a finished training, found no results.json: {folder}")
    return TrainingResult(Path(folder))


def prepare(config: Config | str | Path, *, seed: int | None = None) -> Plan:
    """Read and check everything that a training needs, and plan its runs; nothing is written.

    Raises:
        BadInput: about the configuration, the manifest, the split or a network's settings.
        UnknownWeights, WeightsCorrupt: an encoder's.
    """
    if not isinstance(config, Config):
        config = read_config(config, seed=seed)
    elif seed is not None:
        config = replace(config, seed=seed)
    manifest = config.data.read(config.input.mpp)
    rounds = plan_runs(manifest.cases, config)
    encoders = {member.encoder: load_card(member.encoder) for member in config.members if member.encoder is not None}
    for card in encoders.values():
        if "file" not in card.record:
            raise BadInput(f"expected an encoder with weights of its own, {card.name} is of kind {card.record['kind']}")
        verify(card)
    with without_startup_notices():
        parameters = {member.name: _parameters(member, config, encoders) for member in config.members}
    return Plan(config, manifest, rounds, parameters)


def check_patches(plan: Plan) -> None:
    """Look at all slides as the training will, to tell what they cannot show; nothing is written.

    Raises BadInput: a class that the cases of a run cannot show, a stain that cannot be fitted.
    """
    from digipath.training.trained import Workshop

    _look(plan, Workshop(plan.config, plan.manifest, Path()))


def _look(plan: Plan, shop: Workshop) -> None:
    from digipath.training.trained import look_at

    splits = {run.split: run for round_ in plan.rounds for run in round_.runs}  # members share theirs
    for done, run in enumerate(splits.values()):
        if shop.progress is not None:
            shop.progress(Progress(done, len(splits), math.nan, f"looking at the slides of {run.split.name}"))
        look_at(run, shop, plan.config.schedule_of(run.member))


def _parameters(member: Member, config: Config, encoders: Mapping[str, Card]) -> int:
    """Parameters of a member's network, built once to see that it can be and that patches and encoder fit."""
    from digipath.nn import build, patch_multiple  # here, because it imports Keras and its backend
    from digipath.nn.pretrained import load_encoder

    try:
        network = build(member.spec["name"], **member.spec["config"])
        multiple = patch_multiple(member.network, member.config)
        if config.input.patch % multiple or config.input.training_patch % multiple:
            raise BadInput(f"expected [input] patch and training_patch to be multiples of {multiple} px")
        if member.encoder is not None:
            load_encoder(network, encoders[member.encoder].file)
    except (BadInput, TypeError, ValueError) as error:  # the last two: what Keras says of a wrong kind of value
        raise BadInput(f"[[member]] {member.name}: {' '.join(str(error).split())[:LONGEST_REASON]}") from error
    return int(network.count_params())


def _train(plan: Plan, folder: Path, progress: ProgressCallback | None, cancel: Cancel | None) -> None:
    from digipath.training.trained import RECORD, Workshop, train_run

    began = time.perf_counter()
    for name in ("runs", "scores", "weights"):
        (folder / name).mkdir(exist_ok=True)
    shop = Workshop(plan.config, plan.manifest, folder / "weights", progress, cancel)
    if not all((folder / "runs" / run.name / RECORD).exists() for round_ in plan.rounds for run in round_.runs):
        _look(plan, shop)
    records: dict[str, dict[str, Any]] = {}
    scored: dict[str, list[CaseScore]] = {}
    for round_ in plan.rounds:
        for run in round_.runs:
            schedule = _final_schedule(plan, run, records) if round_.name == FINAL else None
            records[run.name] = train_run(run, plan.name(run), folder / "runs" / run.name, shop, schedule=schedule)
        if round_.held_out:
            scored[round_.name] = _score(plan, round_, folder / "scores" / f"{round_.name}.npz", shop)
    _write(plan, folder, records, scored, seconds=time.perf_counter() - began)


def _final_schedule(plan: Plan, run: Run, records: Mapping[str, Mapping[str, Any]]) -> Schedule:
    """As in the rounds; where a validation loss chose the epoch there, as long as was best on average."""
    schedule = plan.config.schedule_of(run.member)
    same = [r.name for round_ in plan.rounds for r in round_.runs if r.member == run.member and r.split.validation]
    if not same:
        return schedule
    epochs = round(sum(records[name]["best_epoch"] for name in same) / len(same))
    return replace(schedule, epochs=max(epochs, schedule.warmup_epochs + 1))


def _score(plan: Plan, round_: Round, path: Path, shop: Workshop) -> list[CaseScore]:
    """Scores of a round's networks on its held-out cases, made once."""
    if path.exists():
        return results.load_scores(path)
    networks = _side_by_side([str(shop.weights / f"{plan.name(run)}.json") for run in round_.runs])
    samples = [Sample(case.name, case.slide, case.annotation, case.mpp) for case in round_.held_out]
    told = None if shop.progress is None else _scoring(shop.progress, round_.name)
    labels = plan.config.data.labels
    scores = list(score_cases(samples, networks, plan.config.score, labels=labels, progress=told, cancel=shop.cancel))
    results.save_scores(path, scores)
    return scores


def _scoring(progress: ProgressCallback, name: str) -> ProgressCallback:
    return lambda r: progress(Progress(r.done, r.total, r.rate, f"scoring {name}: {r.message}"))


def _side_by_side(cards: Sequence[str]) -> Networks:
    """Networks of several cards that agree on classes and resolution, as those of one training do."""
    each = [choose_networks.published(card) for card in cards]
    return replace(
        each[0],
        count=len(each),
        cards=tuple(card for networks in each for card in networks.cards),
        load=lambda: [predictor for networks in each for predictor in networks.load()],
    )


def _write(
    plan: Plan,
    folder: Path,
    records: Mapping[str, Mapping[str, Any]],
    scored: Mapping[str, Sequence[CaseScore]],
    *,
    seconds: float,
) -> None:
    """Cards with their scores, and the results."""
    scores = results.gather(plan.rounds, scored)
    names = _write_cards(plan, folder / "weights", records, scores)
    record = {
        "name": card_name(plan.config),
        "cards": names,
        "verdict": results.verdict(scores),
        "scores": {subject: asdict(score) for subject, score in scores.items()},
        "rounds": {round_.name: [run.name for run in round_.runs] for round_ in plan.rounds},
        "runs": records,
        "manifest": {"file": plan.manifest.path.name, "sha256": plan.manifest.sha256},
        "config": plan.config.record(),
        "minutes_of_fitting": round(sum(run["minutes"] for run in records.values()), 2),
        "minutes_of_last_attempt": round(seconds / 60, 2),
    }
    write_atomically(folder / "scores.csv", results.score_rows(plan.rounds, scored))
    write_atomically(folder / "summary.md", _summary(plan, records, scores))
    write_json(folder / "results.json", record)


def _write_cards(
    plan: Plan, folder: Path, records: Mapping[str, Mapping[str, Any]], scores: Mapping[str, Score]
) -> list[str]:
    """Write all cards anew; returns their names, the shipped one first."""
    config, manifest = plan.config, plan.manifest
    names = []
    for round_ in plan.rounds:
        for run in round_.runs:
            metrics = _metrics(plan, round_, scores[run.member.name]) if run.member.name in scores else []
            card = network_card(plan.name(run), run, records[run.name], config, manifest, metrics=metrics)
            write_json(folder / f"{card['name']}.json", card)
            names.append(card["name"])
    if len(plan.shipped) > 1:
        members = {plan.name(run): run for run in plan.shipped}
        metrics = []
        for subject, score in reversed(list(scores.items())):  # the ensemble first
            label = None if subject == results.ENSEMBLE else subject
            metrics += pooled_metrics(score, plan.rounds, config, manifest, label=label)
        card = ensemble_card(members, config, manifest, metrics=metrics)
        write_json(folder / f"{card['name']}.json", card)
        names.append(card["name"])
    return sorted(names, key=lambda name: name != card_name(config))


def _metrics(plan: Plan, round_: Round, score: Score) -> list[dict[str, Any]]:
    own = own_metrics(score, round_, plan.config, plan.manifest) if round_.name in score.rounds else []
    several = round_.name == FINAL or len(score.rounds) > 1
    return [*own, *(pooled_metrics(score, plan.rounds, plan.config, plan.manifest) if several else [])]


def _summary(plan: Plan, records: Mapping[str, Mapping[str, Any]], scores: Mapping[str, Score]) -> str:
    """`summary.md`: the plan, the scores, and where the curves are."""
    lines = [f"# {card_name(plan.config)}", "", plan.config.card.task, "", *(f"- {line}" for line in plan.lines()), ""]
    if scores:
        lines += ["Scores on held-out cases; ± standard deviation over the rounds.", ""]
        lines += [results.score_table(scores), ""]
    if verdict := results.verdict(scores):
        lines += [verdict, ""]
    lines += ["| run | epochs | best epoch | stopped | minutes | curves |", "|---|---|---|---|---|---|"]
    for name, run in records.items():
        cells = [name, run["epochs"], run["best_epoch"], run["stopped"], run["minutes"]]
        lines.append(f"| {' | '.join(map(str, cells))} | [curves](runs/{name}/curves.png) |")
    return "\n".join([*lines, "", plan.config.card.intended_use, ""])


def _flat(record: Any, name: str = "") -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """A nested record as one level of dotted names, so that a difference can be told in a line."""
    if isinstance(record, Mapping):
        parts = [(str(key), value) for key, value in record.items()]
    elif isinstance(record, list | tuple) and any(isinstance(value, Mapping) for value in record):
        parts = [(str(number), value) for number, value in enumerate(record)]
    else:
        return {name: list(record) if isinstance(record, tuple) else record}
    found: dict[str, Any] = {}
    for key, value in parts:
        found |= _flat(value, f"{name}.{key}" if name else key)
    return found
