"""Plots: plain numbers → plotly figures, to be shown in a page (`markup.plot`) or in the viewer.

Colours keep a contrast of 3 to white and to the dark page's black, and stay apart with every common colour
blindness (tested); categories differ by their markers too. Figures carry no theme: the page lends them its own.
Plotly reads text as HTML-like, so every text from outside passes `plain`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from digipath.report.inputs import ErrorFindingInput, NodeInput, ReliabilityInput

GREY, BLUE, OCHRE, RED = "#7d8590", "#3a86c8", "#b8860b", "#b5305f"
CATEGORY_COLOURS = {"negative": GREY, "itc": BLUE, "micro": OCHRE, "macro": RED}
CATEGORY_SYMBOLS = {"negative": "circle-open", "itc": "circle", "micro": "diamond", "macro": "square"}
SEVERAL = (BLUE, OCHRE, RED, GREY)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")  # one more than colours: 20 lines that differ
MOST_POINTS = 2000  # of a scatter; the page says so where there are more
PALE = 0.35  # opacity of what a prediction set leaves out
NAME_CHARACTERS = 28
ROW_PX = 34  # height of a node's row
DIAMOND_AT = 1.65  # right of a bar (at most 1) and of its votes


def probability_histogram(counts: Sequence[int], threshold: float) -> go.Figure:
    """Bars of the share of pixels (log) over equal bins of [0, 1], with a line at the threshold.

    Args:
        counts: pixels of each bin, not all zero.
    """
    total, width = sum(counts), 1 / len(counts)
    figure = go.Figure(
        go.Bar(
            x=[(i + 0.5) * width for i in range(len(counts))],
            y=[100 * count / total for count in counts],
            width=width * 0.92,
            marker_color=BLUE,
            customdata=[[i * width, (i + 1) * width, count] for i, count in enumerate(counts)],
            hovertemplate="%{customdata[0]:.2f} to %{customdata[1]:.2f}: %{y:.2f} %<extra></extra>",
        )
    )
    figure.add_vline(threshold, line_dash="dash", annotation_text=f"threshold {threshold:g}")
    least = min(100 * count / total for count in counts if count)
    ticks = [10.0**power for power in range(-8, 3)]
    figure.update_yaxes(type="log", range=[min(math.log10(least) - 0.5, 0), 2], tickvals=ticks)
    return laid_out(figure, "probability", "% of the predicted tissue", x_range=(0, 1), height=280)


def metastasis_sizes(diameters_um: Sequence[float], categories: Sequence[str], limits_um: Sequence[float]) -> go.Figure:
    """How many metastases are at least so long, on a log axis, with lines where the categories part.

    Args:
        diameters_um: longest diameters above 0; only the `MOST_POINTS` largest are drawn.
        categories: of the same metastases.
    """
    order = sorted(range(len(diameters_um)), key=lambda i: -diameters_um[i])[:MOST_POINTS]
    ranked = [(rank, diameters_um[i] / 1000, categories[i]) for rank, i in enumerate(order, 1)]
    figure = go.Figure()
    for category, colour in CATEGORY_COLOURS.items():
        if own := [(rank, mm) for rank, mm, its in ranked if its == category]:
            marker = {"color": colour, "symbol": CATEGORY_SYMBOLS[category], "size": 9}
            ranks, mm = zip(*own, strict=True)
            label = "%{x:.3g} mm<extra>%{fullData.name}</extra>"
            figure.add_scatter(x=mm, y=ranks, mode="markers", name=category, marker=marker, hovertemplate=label)
    for limit_um in limits_um:
        figure.add_vline(limit_um / 1000, line_dash="dash")
        at = {"x": math.log10(limit_um / 1000), "xanchor": "left", "y": 1, "yref": "paper", "yanchor": "top"}
        figure.add_annotation(**at, text=f"{limit_um / 1000:g} mm", showarrow=False)
    sizes = [mm for _, mm, _ in ranked] + [limit_um / 1000 for limit_um in limits_um]
    figure.update_xaxes(type="log", range=[math.log10(min(sizes) / 1.6), math.log10(max(sizes) * 1.6)])
    figure.update_xaxes(tickvals=[m * 10.0**e for e in range(-3, 3) for m in (1, 2, 5)])
    figure.update_yaxes(range=[0, len(ranked) * 1.08 + 0.6], dtick=1 if len(ranked) < 10 else None)
    return laid_out(figure, "longest diameter (mm)", "metastases at least this long", legend=True)


def burden_by_rule(names: Sequence[str], percent: Sequence[float], intervals: Sequence[Any]) -> go.Figure:
    """The burden by each rule as a point in [0, 100], with its interval (low, high), or None without one."""
    figure = go.Figure()
    for row, (value, interval) in enumerate(zip(percent, intervals, strict=True)):
        if interval is not None:
            line = {"color": BLUE, "width": 7}
            figure.add_scatter(x=list(interval), y=[row, row], mode="lines", line=line, opacity=0.45, hoverinfo="x")
        marker = {"color": BLUE, "size": 13, "symbol": "diamond"}
        label = f"{value:.1f} %"
        figure.add_scatter(
            x=[value], y=[row], mode="markers+text", marker=marker, text=[label], textposition="top center"
        )
    name_rows(figure, names)
    return laid_out(figure, "tumour burden (%)", "", x_range=(0, 100), height=130 + 56 * len(names))


def reliability_diagram(by_name: Mapping[str, ReliabilityInput]) -> go.Figure:
    """Observed share of positive pixels against the predicted probability, above the bins' counts (log)."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.72, 0.28], vertical_spacing=0.05)
    diagonal = {"color": GREY, "width": 1, "dash": "dot"}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=diagonal, name="perfect", hoverinfo="skip", row=1, col=1)
    for index, (name, bins) in enumerate(by_name.items()):
        at = [i for i, count in enumerate(bins.counts) if count]
        line = _line(index)
        x, y = ([values[i] for i in at] for values in (bins.predicted, bins.observed))
        figure.add_scatter(x=x, y=y, mode="lines+markers", line=line, name=plain(name), row=1, col=1)
        counts = [bins.counts[i] for i in at]
        figure.add_scatter(x=x, y=counts, mode="lines+markers", line=line, showlegend=False, row=2, col=1)
    figure.update_yaxes(title_text="observed share", range=[0, 1], row=1, col=1)
    figure.update_yaxes(title_text="pixels", type="log", exponentformat="power", nticks=4, row=2, col=1)
    figure.update_xaxes(range=[0, 1], row=1, col=1)
    figure.update_xaxes(title_text="predicted probability", range=[0, 1], row=2, col=1)
    return laid_out(figure, legend=True, height=460)


def risk_coverage(by_name: Mapping[str, ErrorFindingInput]) -> go.Figure:
    """Share of wrong pixels among those kept, against the share kept, the most certain first."""
    figure = go.Figure()
    for index, (name, found) in enumerate(by_name.items()):
        x, y = ([100 * value for value in values] for values in (found.coverage, found.risk))
        figure.add_scatter(x=x, y=y, mode="lines", line=_line(index), name=plain(name))
    figure.update_yaxes(rangemode="tozero")
    return laid_out(
        figure, "% of pixels kept, the most certain first", "% of them wrong", x_range=(0, 100), legend=True
    )


def _line(index: int) -> dict[str, str]:
    return {"color": SEVERAL[index % len(SEVERAL)], "dash": DASHES[index % len(DASHES)]}


def node_categories(nodes: Sequence[NodeInput]) -> go.Figure:
    """Per node and category: the probability as a bar (pale outside the set), votes, the size rule's answer ◆."""
    categories = list(nodes[0].probabilities)
    figure = make_subplots(rows=1, cols=len(categories), shared_yaxes=True, horizontal_spacing=0.025)
    for column, category in enumerate(categories, 1):
        figure.add_trace(_node_bars(nodes, category), row=1, col=column)
        by_size = [row for row, node in enumerate(nodes) if node.size_category == category]
        diamond = {"symbol": "diamond-open", "size": 11, "color": CATEGORY_COLOURS[category], "line_width": 2}
        figure.add_scatter(
            x=[DIAMOND_AT] * len(by_size),
            y=by_size,
            mode="markers",
            marker=diamond,
            hoverinfo="skip",
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text=category, range=[0, DIAMOND_AT + 0.15], tickvals=[0, 0.5, 1], row=1, col=column)
    name_rows(figure, [node.name for node in nodes])
    return laid_out(figure, height=110 + ROW_PX * len(nodes))


def _node_bars(nodes: Sequence[NodeInput], category: str) -> go.Bar:
    inside = [not node.prediction_set or category in node.prediction_set for node in nodes]
    votes = [sum(vote == category for vote in node.votes.values()) for node in nodes]
    return go.Bar(
        x=[node.probabilities[category] for node in nodes],
        y=list(range(len(nodes))),
        orientation="h",
        width=0.62,
        marker={"color": CATEGORY_COLOURS[category], "opacity": [1 if there else PALE for there in inside]},
        text=[f"{count}/{len(node.votes)}" if count else "" for count, node in zip(votes, nodes, strict=True)],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{x:.3f}<extra></extra>",
    )


def stage_probabilities(probabilities: Mapping[str, float], stage_set: Sequence[str]) -> go.Figure:
    """The probability of each stage; pale where the set leaves a stage out."""
    opacity = [1 if not stage_set or stage in stage_set else PALE for stage in probabilities]
    figure = go.Figure(
        go.Bar(
            x=[plain(stage.split(":")[0]) for stage in probabilities],  # "outside: more than 9 …" is long
            y=list(probabilities.values()),
            marker={"color": BLUE, "opacity": opacity},
            text=[f"{value:.2f}" for value in probabilities.values()],
            textposition="outside",
            cliponaxis=False,
        )
    )
    figure.update_xaxes(type="category")
    figure.update_yaxes(range=[0, 1.08], tickvals=[0, 0.25, 0.5, 0.75, 1])
    return laid_out(figure, "", "probability", height=280)


def feature_positions(
    nodes: Sequence[NodeInput], training_range: Mapping[str, Sequence[float]], quantiles: Sequence[float]
) -> go.Figure:
    """Where each node's features lie among the training data's: percentiles, beyond 0 and 100 if outside its range.

    Args:
        training_range: feature → its values at `quantiles` (rising; 0 and 1 are least and greatest).
    """
    names = list(training_range)
    figure = go.Figure()
    for low, high in ((0, 100), (25, 75)):
        figure.add_vrect(low, high, fillcolor=GREY, opacity=0.16, line_width=0, layer="below")
    symbols = ("circle", "diamond", "square", "cross", "x", "triangle-up", "star", "hexagon", "pentagon")
    for index, node in enumerate(nodes):
        shown = [(row, node.features[name]) for row, name in enumerate(names) if name in node.features]
        figure.add_scatter(
            x=[percentile(value, training_range[names[row]], quantiles) for row, value in shown],
            y=[row for row, _ in shown],
            mode="markers",
            name=short(node.name),
            marker={"symbol": symbols[index % len(symbols)], "size": 8, "color": SEVERAL[index % len(SEVERAL)]},
            customdata=[value for _, value in shown],
            hovertemplate="%{customdata:.4g}<extra>%{fullData.name}</extra>",
        )
    name_rows(figure, names)
    figure.update_xaxes(tickvals=[0, 25, 50, 75, 100])
    height = 130 + 19 * len(names)
    return laid_out(figure, "percentile of the training data", "", x_range=(-8, 108), legend=True, height=height)


def percentile(value: float, values: Sequence[float], quantiles: Sequence[float]) -> float:
    """The percentile of `value` where the data have `values` at `quantiles`; −5 below and 105 above their range.

    Between two quantiles it is interpolated; on a value that several quantiles share it is their middle.
    """
    known = np.asarray(values, float)
    if value < known[0] or value > known[-1]:
        return -5.0 if value < known[0] else 105.0
    at = 100 * np.asarray(quantiles, float)
    same = at[known == value]
    return float((same[0] + same[-1]) / 2 if same.size else np.interp(value, known, at))


def laid_out(
    figure: go.Figure,
    x_title: str | None = None,
    y_title: str | None = None,
    *,
    x_range: tuple[float, float] | None = None,
    legend: bool = False,
    height: int = 340,
) -> go.Figure:
    """The figure with what all have alike; titles None: they stand already."""
    figure.update_layout(
        template={},
        height=height,
        margin={"l": 56, "r": 16, "t": 48 if legend else 28, "b": 48},
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        barmode="overlay",
        dragmode="zoom",
    )
    if x_title is not None:
        figure.update_xaxes(title_text=x_title)
        figure.update_yaxes(title_text=y_title)
    if x_range is not None:
        figure.update_xaxes(range=list(x_range))
    return figure


def name_rows(figure: go.Figure, names: Sequence[str]) -> None:
    """Name the rows 0, 1, … of a figure from top to bottom; equal names stay apart."""
    labels = [short(name) for name in names]
    count = len(names)
    figure.update_yaxes(tickvals=list(range(count)), ticktext=labels, range=[count - 0.4, -0.6], zeroline=False)


def short(name: str) -> str:
    """A name that fits beside a plot, its beginning and its end kept."""
    half = NAME_CHARACTERS // 2
    return plain(name if len(name) <= NAME_CHARACTERS else f"{name[:half]}…{name[-half + 1 :]}")


def plain(text: str) -> str:
    """Text that plotly shows as it is written: no tag, no formula."""
    return escape(text, quote=False).replace("$", "&#36;")
