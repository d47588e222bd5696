"""The page of a patient's pN stage: by forests and by the size rule, with what cannot be excluded."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from digipath.report import markup, plots, weights_used
from digipath.report.document import document
from digipath.report.inputs import NodeInput, StageInput
from digipath.report.readouts import millimetres
from digipath.report.summary import NOTICE

PLOTTED_NODES = 9  # whose features are drawn; more cannot be told apart
HOW = (
    "Nodes with isolated tumour cells only do not count as positive. Probabilities of stages take the nodes as "
    "independent. The size rule looks at the longest diameter alone and is always shown beside the forests."
)


def stage_page(given: StageInput) -> str:
    """Return the stage of a patient as one HTML page that stands alone, all text escaped."""
    run = given.run
    parts = [
        markup.paragraph(NOTICE, "notice"),
        f"<h1>{escape(given.patient)}</h1>",
        markup.paragraph(f"digipath {run.get('versions', {}).get('digipath', '')} {run.get('written', '')}", "soft"),
        _incomplete(given.nodes),
        markup.figures(_key_figures(given)),
        _disagreement(given),
        markup.section("Notes", markup.bullets(given.notes)),
        _stages(given),
        _nodes(given),
        _features(given),
        weights_used.cards([given.card] if given.card else []),
        markup.section("Settings", markup.pairs(run.get("settings", {}))),
        markup.section("Versions", markup.pairs(run.get("versions", {}))),
        f'<footer class="notice">{escape(NOTICE)}</footer>',
    ]
    return document(f"{given.patient}: digipath pN stage", "\n".join(part for part in parts if part))


def _key_figures(given: StageInput) -> dict[str, str]:
    figures = {"Stage by the forests": given.stage, "Stage by the size rule": given.stage_by_size}
    if given.level is not None:
        figures[f"Set at {given.level:.0%}"] = ", ".join(given.stage_set)
    return figures | {"Nodes": f"{len(given.nodes):,}"}


def _incomplete(nodes: Sequence[NodeInput]) -> str:
    names = [node.name for node in nodes if not node.complete]
    if not names:
        return ""
    told = "Not all tissue of these nodes was predicted; what is missing counts as normal: " + ", ".join(names)
    return f'<div class="alert" role="alert"><strong>Incomplete.</strong>{markup.paragraph(told)}</div>'


def _disagreement(given: StageInput) -> str:
    if given.stage == given.stage_by_size:
        return ""
    return markup.paragraph("Forests and size rule disagree on the stage: look at the nodes where they differ.")


def _stages(given: StageInput) -> str:
    inside = [("in it" if stage in given.stage_set else "") for stage in given.probabilities]
    rows = [
        (stage, f"{value:.3f}", there)
        for (stage, value), there in zip(given.probabilities.items(), inside, strict=True)
    ]
    sets = "; pale: not in the set" if given.level is not None else ""
    figure = plots.stage_probabilities(given.probabilities, given.stage_set)
    head = ("Stage", "Probability", "No set" if given.level is None else f"Set at {given.level:.0%}")
    plot = markup.plot(figure, f"Probability of each stage{sets}.")
    table = markup.table(head, rows, head[2:])
    return markup.section("Stage of the patient", markup.paragraph(HOW, "soft"), table, plot)


def _nodes(given: StageInput) -> str:
    if not given.nodes:
        return markup.section("Nodes", markup.paragraph("No node."))
    categories = list(given.nodes[0].probabilities)
    sets = "Set" if given.level is None else f"Set at {given.level:.0%}"
    head = ("Node", "By the forests", "By size", sets, *categories, "Longest diameter")
    table = markup.table(head, [_node(node) for node in given.nodes], head[1:4])
    caption = (
        "Probability of each category by the forests; beside a bar, how many of them vote for it. ◇: category by the "
        "size rule. Pale: not in the set."
    )
    notes = markup.bullets(f"{node.name}: {note}" for node in given.nodes for note in node.notes)
    plot = markup.plot(plots.node_categories(given.nodes), caption, _votes(given.nodes))
    return markup.section("Nodes", table, plot, notes)


def _node(node: NodeInput) -> tuple[str, ...]:
    probabilities = (f"{value:.3f}" for value in node.probabilities.values())
    among = ", ".join(node.prediction_set) or "none"
    size = "none" if node.size_um is None else millimetres(node.size_um)
    return node.name, node.category, node.size_category, among, *probabilities, size


def _votes(nodes: Sequence[NodeInput]) -> str:
    forests = tuple(dict.fromkeys(forest for node in nodes for forest in node.votes))
    rows = [(node.name, *(node.votes.get(forest, "–") for forest in forests)) for node in nodes]
    return markup.table(("Node", *forests), rows, forests)


def _features(given: StageInput) -> str:
    names = list(dict.fromkeys(name for node in given.nodes for name in node.features))
    if not names:
        return ""
    rows = [
        (markup.label(name), *(f"{node.features[name]:.4g}" if name in node.features else "–" for node in given.nodes))
        for name in names
    ]
    table = markup.table(("Feature", *(node.name for node in given.nodes)), rows)
    title, about = "Features of the heatmaps", "The 32 features of Khened et al. 2021, table 5."
    if not given.training_range:
        return markup.section(title, markup.paragraph(about, "soft"), table)
    nodes = given.nodes[:PLOTTED_NODES]
    figure = plots.feature_positions(nodes, given.training_range, given.quantiles)
    caption = (
        f"Where the features of {len(nodes)} of {len(given.nodes)} nodes lie among the training data; dark: the "
        "middle half; beyond 0 or 100: outside of all that the forests have seen."
    )
    return markup.section(title, markup.paragraph(about, "soft"), markup.plot(figure, caption, table))
