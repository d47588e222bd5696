"""`digipath stage`, `digipath stage-table` and `digipath train-stage`."""

from __future__ import annotations

import argparse
from typing import Any

from digipath.cli.common import NOTICE, add_network_options, add_verb, network_options, print_result, progress

INCOMPLETE = 3
TABLE_WIDTH = 160  # in a log, where no window limits it


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verbs of this file."""
    _add_stage(verbs)
    _add_stage_table(verbs)
    _add_train_stage(verbs)


def _add_stage(verbs: Any) -> None:  # noqa: ANN401
    verb = add_verb(
        verbs, "stage", _stage, "stage a patient's lymph nodes (pN), by forests and by the size rule beside them",
        "  digipath stage node_1.svs node_2.svs node_3.svs --out patient_7    segments them first\n"
        "  digipath stage node_1.digipath node_2.digipath                     segmented before\n"
        "  digipath stage nodes/*.npz --forest own/own-pn-forest.json         your own heatmaps and forests\n",
    )
    verb.add_argument(
        "node", nargs="+", help="all nodes of one patient: slides, folders of `digipath segment`, or .npz files"
    )
    verb.add_argument("--out", metavar="FOLDER", help="where stage.json, stage.html and submission.csv go")
    verb.add_argument("--patient", default="patient", metavar="NAME", help="for report and submission")
    verb.add_argument("--forest", metavar="NAME|CARD.json", help="see `digipath weights list` (default: shipped)")
    verb.add_argument("--level", type=float, default=0.9, help="of the sets: 0.8, 0.9 or 0.95 (default: 0.9)")
    add_network_options(verb)
    verb.add_argument("--mpp", type=float, help="µm per level-0 pixel of the slides, overrides their own")
    verb.add_argument("--json", action="store_true", help="print the result as JSON")


def _stage(arguments: argparse.Namespace) -> int:
    from digipath.staging import stage
    from digipath.weights import DEFAULT_FOREST

    with progress(arguments.json) as show:
        found = stage(
            arguments.node,
            forest=arguments.forest or DEFAULT_FOREST,
            level=arguments.level,
            patient=arguments.patient,
            out=arguments.out,
            segmenting={**network_options(arguments), "mpp": arguments.mpp},
            progress=show,
        )
    print_result(found.to_record(), arguments.json, lambda: _tell(found))
    return 0 if found.complete else INCOMPLETE


def _tell(found: Any) -> None:  # noqa: ANN401 - a Stage, imported late
    sets = found.level is not None
    head = ["node", "forests", *found.nodes[0].probabilities, "size rule", "diameter"]
    head += [f"set at {found.level:g}"] * sets
    rows = [
        [
            node.name,
            node.category,
            *(f"{chance:.2f}" for chance in node.probabilities.values()),
            node.size_category,
            "–" if node.size_um is None else f"{node.size_um / 1000:.2f} mm",
            *[", ".join(node.prediction_set)] * sets,
        ]
        for node in found.nodes
    ]
    _print_table(head, rows)
    print(f"{found.patient}: {found.stage} by the forests, {found.stage_by_size} by the size rule")
    if apart := [node.name for node in found.nodes if node.category != node.size_category]:
        print(f"forests and size rule disagree, look at: {', '.join(apart)}")
    likely = sorted(found.probabilities.items(), key=lambda item: -item[1])
    print("probabilities: " + ", ".join(f"{stage} {chance:.2f}" for stage, chance in likely if chance >= 0.005))
    if found.stage_set:
        print(f"not to be excluded at {found.level:g}: {', '.join(found.stage_set)}")
    for note in (*found.notes, *(f"{node.name}: {note}" for node in found.nodes for note in node.notes)):
        print(note)
    if found.folder is not None:
        print(f"report: {found.folder / 'stage.html'}")
    print(NOTICE)


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    table = Table(*head)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _add_stage_table(verbs: Any) -> None:  # noqa: ANN401
    verb = add_verb(
        verbs, "stage-table", _stage_table, "check a table of stages against the rule, or score it against another",
        "  digipath stage-table stage_labels.csv                            stages that their nodes contradict\n"
        "  digipath stage-table submission.csv --against stage_labels.csv   quadratic kappa, as CAMELYON17 has it\n",
    )
    verb.add_argument("table", help="CSV with patient,stage: patients (.zip) with stages, nodes (.tif) with categories")
    verb.add_argument("--against", metavar="CSV", help="the reference, a table of the same form")
    verb.add_argument("--json", action="store_true", help="print as JSON")


def _stage_table(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from digipath.measure.pn_tables import contradictions, read_stage_table, table_kappa

    table = read_stage_table(arguments.table)
    found = [asdict(one) for one in contradictions(table)]
    record: dict[str, Any] = {"patients": len(table.patients), "contradictions": found}
    if arguments.against is not None:
        record["quadratic_kappa"] = table_kappa(read_stage_table(arguments.against), table)
    return print_result(record, arguments.json, lambda: _tell_table(record))


def _tell_table(record: dict[str, Any]) -> None:
    found = record["contradictions"]
    print(f"{record['patients']} patients, {len(found)} whose stage is not what the rule makes of their nodes")
    for one in found:
        nodes = ", ".join(one["categories"])
        print(f"  {one['patient']}: stated {one['stated']}, by the rule {one['by_rule']} ({nodes})")
    if "quadratic_kappa" in record:
        print(f"quadratic kappa {record['quadratic_kappa']:.4f}")


def _add_train_stage(verbs: Any) -> None:  # noqa: ANN401
    verb = add_verb(
        verbs, "train-stage", _train_stage, "train the pN forests on your own heatmaps, and score them on unseen ones",
        "  digipath train-stage nodes.csv --out own\n"
        "  digipath stage node_1.digipath node_2.digipath --forest own/own-pn-forest.json\n"
        "\n"
        "nodes.csv:\n"
        "  result,category,patient\n"
        "  node_1.digipath,micro,patient_1          a folder of `digipath segment`, relative to the table\n"
        "  node_2.npz,negative,patient_1            arrays probability, tissue (rows, columns), mpp (µm per pixel)\n",
    )
    verb.add_argument("manifest", help="CSV or Parquet with result, category (negative, itc, micro, macro), patient")
    verb.add_argument("--out", required=True, metavar="FOLDER", help="where card, forests, scores and features go")
    verb.add_argument("--name", default="own-pn-forest", help="of the card (default: own-pn-forest)")
    verb.add_argument("--map-mpp", type=float, metavar="MPP", help="µm per pixel to measure at (default: the coarsest)")
    verb.add_argument("--folds", type=int, default=5, help="of the cross-validation by patient (default: 5)")
    verb.add_argument("--seed", type=int, default=0, help="of folds and forests (default: 0)")
    verb.add_argument("--json", action="store_true", help="print the scores as JSON")


def _train_stage(arguments: argparse.Namespace) -> int:
    from digipath.training.stage_forest import train_stage

    with progress(arguments.json) as show:
        trained = train_stage(
            arguments.manifest,
            out=arguments.out,
            name=arguments.name,
            map_mpp=arguments.map_mpp,
            folds=arguments.folds,
            seed=arguments.seed,
            progress=show,
        )
    record = {"folder": str(trained.folder), "card": str(trained.card), **trained.record}
    return print_result(record, arguments.json, lambda: _tell_training(trained))


def _tell_training(trained: Any) -> None:  # noqa: ANN401 - a StageTraining, imported late
    print((trained.folder / "summary.md").read_text(encoding="utf-8"))
    print(f"card: {trained.card}")
    print(NOTICE)
