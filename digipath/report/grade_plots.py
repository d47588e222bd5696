"""Plots on grades: plain numbers → plotly figures, in the manner of `plots`.

The grades are green, blue and red as in the paper's map; since green and red look alike to some eyes, they differ by
dashes, symbols or their own place too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from digipath.report.grade_inputs import AblationInput, ComparisonInput, RocInput
from digipath.report.grade_map import spread
from digipath.report.plots import BLUE, DASHES, GREY, MOST_POINTS, SEVERAL, laid_out, name_rows, plain, short

ANCHORS = ((47, 163, 100), (58, 134, 200), (196, 40, 44))  # contrast 3 to a white and to a dark page
SYMBOLS = ("circle", "diamond", "square", "cross", "x", "triangle-up", "star", "hexagon", "pentagon")
BINS = 10
ROW_PX = 56
SHARES = ((0.0, "#e9f1f8"), (1.0, "#1c5a94"))  # of a confusion matrix


def class_colours(count: int) -> list[str]:
    """Colours of classes in rising order of malignancy, as #rrggbb."""
    return ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb in np.rint(spread(ANCHORS, count)).astype(int).tolist()]


def roc_curves(by_name: Mapping[str, RocInput], classes: Sequence[str]) -> go.Figure:
    """ROC curves of each class against the rest, in its colour, and of others (macro), with their areas."""
    figure = go.Figure()
    diagonal = {"color": GREY, "width": 1, "dash": "dot"}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=diagonal, hoverinfo="skip", showlegend=False)
    colours = dict(zip(classes, class_colours(len(classes)), strict=True))
    for index, (name, curve) in enumerate(by_name.items()):
        own = name in colours
        line = {"color": colours.get(name, GREY), "dash": DASHES[(index + 1) % len(DASHES)] if own else "solid"}
        area = "undefined" if curve.area is None else f"{curve.area:.3f}"
        figure.add_scatter(
            x=list(curve.false_positive_rate),
            y=list(curve.true_positive_rate),
            mode="lines",
            line=line | {"width": 2 if own else 4},
            name=f"{short(name)} ({area})",
        )
    figure.update_yaxes(range=[-0.01, 1.01])
    return laid_out(figure, "false positive rate", "true positive rate", x_range=(-0.01, 1.01), legend=True, height=420)


def probability_histograms(
    probabilities: Sequence[Sequence[float]], truth: Sequence[int], classes: Sequence[str]
) -> go.Figure:
    """For each class a histogram of its predicted probability, stacked by the true class (Lerousseau's Figure 5a).

    Args:
        probabilities: (n, K); truth: index of the true class of each.
    """
    values, true = np.asarray(probabilities, float), np.asarray(truth)
    figure = make_subplots(rows=1, cols=len(classes), shared_yaxes=True, horizontal_spacing=0.04)
    for column, name in enumerate(classes, 1):
        for index, colour in enumerate(class_colours(len(classes))):
            counts, edges = np.histogram(values[true == index, column - 1], BINS, (0, 1))
            figure.add_bar(
                x=((edges[:-1] + edges[1:]) / 2).tolist(),
                y=counts.tolist(),
                width=0.92 / BINS,
                name=short(classes[index]),
                legendgroup=str(index),
                showlegend=column == 1,
                marker={
                    "color": colour,
                    "pattern": {"shape": ("", "/", "x", ".", "-")[index % 5], "solidity": 0.25, "fillmode": "overlay"},
                },
                row=1,
                col=column,
            )
        figure.update_xaxes(title_text=f"probability of {short(name)}", range=[0, 1], row=1, col=column)
    figure.update_yaxes(title_text="count", row=1, col=1)
    return laid_out(figure, legend=True, height=340).update_layout(barmode="stack", legend_title_text="true class")


def class_scatter(
    probabilities: Sequence[Sequence[float]],
    truth: Sequence[int],
    classes: Sequence[str],
    *,
    axes: tuple[int, int] = (0, 1),
) -> go.Figure:
    """One class's probability against another's, size and colour by their sum (Lerousseau's Figure 5b).

    Small and dark is what the remaining classes have; the symbol tells the true class. Of very many points
    `MOST_POINTS`, evenly through them, are drawn.

    Args:
        axes: indices of the classes along x and y.
    """
    values, true = np.asarray(probabilities, float), np.asarray(truth)
    kept = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_POINTS)).round().astype(int))
    x, y = (values[:, axis] for axis in axes)
    figure = go.Figure()
    for index, name in enumerate(classes):
        own = kept[true[kept] == index]
        if not len(own):
            continue
        both = (x[own] + y[own]).clip(0, 1)
        symbol = SYMBOLS[index % len(SYMBOLS)]
        marker = {"color": both.tolist(), "size": (6 + 10 * both).tolist(), "coloraxis": "coloraxis"}
        marker |= {"symbol": symbol, "line": {"color": GREY, "width": 1}}
        group = {"legendgroup": str(index), "mode": "markers"}
        figure.add_scatter(x=x[own].tolist(), y=y[own].tolist(), marker=marker, showlegend=False, **group)
        key = {"color": GREY, "symbol": symbol, "size": 11}  # one colour and size for the legend
        figure.add_scatter(x=[None], y=[None], marker=key, name=f"truly {short(name)}", **group)
    first, second = (short(classes[axis]) for axis in axes)
    scale = {"colorscale": "Viridis", "cmin": 0, "cmax": 1, "colorbar": {"title": {"text": "sum of both"}}}
    figure.update_layout(coloraxis=scale)
    figure.update_yaxes(range=[-0.04, 1.04])
    titles = (f"probability of {first}", f"probability of {second}")
    return laid_out(figure, *titles, x_range=(-0.04, 1.04), legend=True, height=440)


def confusion_matrix(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> go.Figure:
    """Counts and their share of the true class's row; a row without any has no shares.

    Args:
        counts: a row for each true class, a column for each predicted one.
    """
    table = np.asarray(counts, float)
    totals = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)
    text = [
        [f"{share:.1%}<br>{count:,.0f}" if total else "none" for share, count in zip(row, own, strict=True)]
        for row, own, (total,) in zip(shares, table, totals, strict=True)
    ]
    names = [short(name) for name in classes]
    positions = list(range(len(classes)))
    figure = go.Figure(
        go.Heatmap(
            z=shares.tolist(), x=positions, y=positions, text=text, texttemplate="%{text}", colorscale=SHARES,
            zmin=0, zmax=1, xgap=2, ygap=2, showscale=False, hoverinfo="skip",
        )
    )  # fmt: skip
    figure.update_xaxes(tickvals=positions, ticktext=names, showgrid=False)
    figure.update_yaxes(tickvals=positions, ticktext=names, showgrid=False, autorange="reversed")
    return laid_out(figure, "predicted", "true", height=140 + 84 * len(classes))


def share_at_confidence(
    confidences: Sequence[float],
    shares: Sequence[Sequence[float]],
    classes: Sequence[str],
    *,
    least_share: float,
    confidence: float,
) -> go.Figure:
    """Share of tiles that are called each class with at least a given probability; lines at the readout's thresholds.

    Args:
        shares: one row for each of `confidences`, one column for each class.
    """
    figure = go.Figure()
    columns = np.asarray(shares, float).T
    for index, (name, row, colour) in enumerate(zip(classes, columns, class_colours(len(classes)), strict=True)):
        line = {"color": colour, "dash": DASHES[index % len(DASHES)], "width": 3}
        y = (100 * row).tolist()
        figure.add_scatter(x=list(confidences), y=y, mode="lines", line=line, name=short(name))
    figure.add_vline(confidence, line_dash="dash", annotation_text=f"confidence {confidence:g}")
    figure.add_hline(
        100 * least_share, line_dash="dash", annotation_text=f"{100 * least_share:g} %", annotation_position="top left"
    )
    figure.update_yaxes(range=[-2, 102])
    titles = ("called it with a probability of at least", "% of the tiles")
    return laid_out(figure, *titles, x_range=(0, 1), legend=True, height=360)


def grade_shares(
    vote_shares: Sequence[float],
    mean_probabilities: Sequence[float],
    classes: Sequence[str],
    areas: Sequence[str] | None = None,
) -> go.Figure:
    """Share of the tiles of each class as a bar, and its mean probability ◇.

    Args:
        areas: of each class as a reader would write it, to stand beside its share; None: unknown.
    """
    rows = list(range(len(classes)))
    beside = [""] * len(classes) if areas is None else [f", {plain(area)}" for area in areas]
    figure = go.Figure(
        go.Bar(
            x=[100 * share for share in vote_shares],
            y=rows,
            orientation="h",
            width=0.6,
            marker_color=class_colours(len(classes)),
            text=[f"{100 * share:.1f} %{area}" for share, area in zip(vote_shares, beside, strict=True)],
            textposition="outside",
            cliponaxis=False,
            name="tiles",
        )
    )
    diamond = {"symbol": "diamond-tall-open", "size": 13, "color": GREY, "line_width": 2}
    means = [100 * mean for mean in mean_probabilities]
    figure.add_scatter(x=means, y=[row + 0.42 for row in rows], mode="markers", marker=diamond, name="mean probability")
    name_rows(figure, classes)
    figure.update_xaxes(tickvals=[0, 25, 50, 75, 100])
    return laid_out(figure, "% of the tiles", "", x_range=(0, 128), height=110 + ROW_PX * len(classes))


def repeated_runs(given: ComparisonInput) -> go.Figure:
    """A point for each run, mean ± standard deviation beside them, and a bracket with p above each pair tested."""
    figure = go.Figure()
    ways = list(given.runs)
    for index, (name, values) in enumerate(given.runs.items()):
        colour, symbol = SEVERAL[index % len(SEVERAL)], SYMBOLS[index % len(SYMBOLS)]
        points = {"color": colour, "symbol": f"{symbol}-open", "size": 9}
        figure.add_scatter(
            x=[index - 0.12] * len(values), y=list(values), mode="markers", marker=points, name=short(name)
        )
        if values:
            spread_ = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            error = {"array": [spread_], "color": colour, "thickness": 3, "width": 8}
            mean = {"color": colour, "symbol": symbol, "size": 12}
            figure.add_scatter(x=[index + 0.12], y=[float(np.mean(values))], error_y=error, mode="markers", marker=mean)
    _brackets(figure, given, ways)
    figure.update_xaxes(tickvals=list(range(len(ways))), ticktext=[short(way) for way in ways])
    return laid_out(figure, "", plain(given.measure), x_range=(-0.6, len(ways) - 0.4), height=360)


def _brackets(figure: go.Figure, given: ComparisonInput, ways: Sequence[str]) -> None:
    """Brackets above the highest point, one above the other."""
    every = [value for values in given.runs.values() for value in values]
    if not every:
        return
    height = (max(every) - min(every)) or 0.1
    for level, (first, second, p) in enumerate(given.p_values, 1):
        left, right, y = ways.index(first), ways.index(second), max(every) + level * 0.22 * height
        ends = [y - 0.05 * height, y, y, y - 0.05 * height]
        line = {"color": GREY, "width": 1}
        figure.add_scatter(x=[left, left, right, right], y=ends, mode="lines", line=line, hoverinfo="skip")
        text = "p undefined" if p is None else f"p = {p:.2g}" if p >= 0.001 else "p &lt; 0.001"
        figure.add_annotation(x=(left + right) / 2, y=y, text=text, showarrow=False, yanchor="bottom")
    top = max(every) + (len(given.p_values) * 0.22 + 0.25) * height
    figure.update_yaxes(range=[min(every) - 0.15 * height, top])


def ablation_bars(given: AblationInput) -> go.Figure:
    """A bar for each variant with its interval; one without a value has none."""
    rows = given.rows
    over, under = (
        [None if row.interval is None or row.value is None else abs(row.interval[side] - row.value) for row in rows]
        for side in (1, 0)
    )
    figure = go.Figure(
        go.Bar(
            x=list(range(len(rows))),
            y=[row.value for row in rows],
            width=0.6,
            marker_color=BLUE,
            error_y={"array": over, "arrayminus": under, "color": GREY, "thickness": 2, "width": 6},
            text=["" if row.value is None else f"{row.value:.3f}" for row in rows],
            textposition="inside",
            insidetextanchor="start",
        )
    )
    figure.update_xaxes(tickvals=list(range(len(rows))), ticktext=[short(row.name) for row in rows])
    figure.update_yaxes(rangemode="tozero")
    return laid_out(figure, "", plain(given.measure), x_range=(-0.6, len(rows) - 0.4), height=320)
