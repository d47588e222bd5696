"""Plots on grades: numbers in, the same numbers out, told apart without their colours too."""

from __future__ import annotations

from html import unescape

import numpy as np
import pytest
from test_plots import PAGES, contrast, numbers

from digipath.report import AblationInput, AblationRow, ComparisonInput, RocInput
from digipath.report import grade_plots as plots

CLASSES = ("grade 2", "grade 3", "grade 4")
TRUTH = (0, 0, 1, 2)
PROBABILITIES = ((0.9, 0.05, 0.05), (0.25, 0.5, 0.25), (0.1, 0.8, 0.1), (0.0, 0.0, 1.0))


@pytest.mark.parametrize("colour", plots.class_colours(3))
@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_colours_stand_out_from_both_pages(colour, page):
    assert contrast(colour, page) >= 3


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_every_class_has_a_colour_of_its_own(count):
    colours = plots.class_colours(count)
    assert len(set(colours)) == count
    assert (colours[0], colours[-1]) == ("#2fa364", "#c4282c")


def test_roc_curves_are_named_with_their_areas_and_differ_in_their_lines():
    curve = RocInput([0, 0.5, 1], [0, 0.75, 1], 0.625)
    plot = numbers(
        plots.roc_curves({**dict.fromkeys(CLASSES, curve), "macro": RocInput([0, 1], [0, 1], None)}, CLASSES)
    )
    diagonal, *curves = plot["data"]
    assert diagonal["x"] == diagonal["y"] == [0, 1]
    assert [curve["name"] for curve in curves] == [*(f"{name} (0.625)" for name in CLASSES), "macro (undefined)"]
    assert (curves[0]["x"], curves[0]["y"]) == ([0, 0.5, 1], [0, 0.75, 1])
    assert len({curve["line"]["dash"] for curve in curves}) == 4


def test_histograms_count_every_probability_once_by_its_true_class():
    bars = numbers(plots.probability_histograms(PROBABILITIES, TRUTH, CLASSES))["data"]
    assert len(bars) == 9
    counts = np.array([bar["y"] for bar in bars]).reshape(3, 3, 10)  # predicted class, true class, bin
    assert (counts.sum(axis=(1, 2)) == 4).all()
    assert counts[2, 2].tolist() == [0] * 9 + [1]  # 1.0 lies in the last bin
    assert counts[0, 0].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert counts[1, 1].tolist() == [0] * 8 + [1, 0]
    assert sum(bar["showlegend"] for bar in bars) == 3
    assert len({bar["marker"]["pattern"]["shape"] for bar in bars}) == 3


def test_the_scatter_s_size_and_colour_are_what_the_third_class_leaves():
    every = numbers(plots.class_scatter(PROBABILITIES, TRUTH, CLASSES))["data"]
    traces, keys = every[::2], every[1::2]
    assert [key["name"] for key in keys] == [f"truly {name}" for name in CLASSES]
    assert [key["marker"]["symbol"] for key in keys] == [trace["marker"]["symbol"] for trace in traces]
    assert [(trace["x"], trace["y"]) for trace in traces] == [
        ([0.9, 0.25], [0.05, 0.5]),
        ([0.1], [0.8]),
        ([0.0], [0.0]),
    ]
    assert [trace["marker"]["color"] for trace in traces] == [
        pytest.approx([0.95, 0.75]), pytest.approx([0.9]), [0.0],
    ]  # fmt: skip
    assert traces[0]["marker"]["size"] == pytest.approx([15.5, 13.5])
    assert len({trace["marker"]["symbol"] for trace in traces}) == 3
    (swapped, *_) = numbers(plots.class_scatter(PROBABILITIES, TRUTH, CLASSES, axes=(2, 0)))["data"]
    assert (swapped["x"], swapped["y"]) == ([0.05, 0.25], [0.9, 0.25])


def test_of_very_many_points_some_are_drawn_evenly():
    values = np.linspace(0, 1, 9001)
    probabilities = np.stack([values, 1 - values, np.zeros(9001)], axis=1)
    (trace, *_) = numbers(plots.class_scatter(probabilities, np.zeros(9001, int), CLASSES))["data"]
    assert len(trace["x"]) == plots.MOST_POINTS
    assert (trace["x"][0], trace["x"][-1]) == (0, 1)


def test_a_confusion_matrix_has_the_shares_of_its_rows():
    (heat,) = numbers(plots.confusion_matrix([[3, 1], [0, 0]], ("a", "b")))["data"]
    assert heat["z"] == [[0.75, 0.25], [0.0, 0.0]]
    assert heat["text"] == [["75.0%<br>3", "25.0%<br>1"], ["none", "none"]]


def test_both_thresholds_are_drawn_over_the_curves_of_confidence():
    shares = [[0.2, 0.3, 0.5], [0.1, 0.0, 0.25], [0.0, 0.0, 0.0]]
    plot = numbers(plots.share_at_confidence((0, 0.5, 1), shares, CLASSES, least_share=0.05, confidence=0.75))
    assert [curve["y"] for curve in plot["data"]] == [[20, 10, 0], [30, 0, 0], [50, 25, 0]]
    assert len({curve["line"]["dash"] for curve in plot["data"]}) == 3
    upright, level = plot["layout"]["shapes"]
    assert (upright["x0"], upright["x1"], level["y0"], level["y1"]) == (0.75, 0.75, 5, 5)
    assert [note["text"] for note in plot["layout"]["annotations"]] == ["confidence 0.75", "5 %"]


def test_shares_stand_beside_their_areas_and_mean_probabilities():
    bars, means = numbers(plots.grade_shares((0.5, 0.25, 0.25), (0.4, 0.35, 0.25), CLASSES, ("1 mm²", "2 µm²", "<b>")))[
        "data"
    ]
    assert (bars["x"], means["x"]) == ([50, 25, 25], [40, 35, 25])
    assert [unescape(text) for text in bars["text"]] == ["50.0 %, 1 mm²", "25.0 %, 2 µm²", "25.0 %, <b>"]
    assert "<" not in bars["text"][2]
    (bars, _) = numbers(plots.grade_shares((0.5, 0.5), (0.5, 0.5), ("a", "b")))["data"]
    assert bars["text"] == ["50.0 %", "50.0 %"]


def test_every_run_is_a_point_beside_its_mean_and_spread():
    given = ComparisonInput("batch", "AUROC", {"4": [0.5, 0.75, 1.0], "32": [0.25], "none": []}, [("4", "32", 0.0421)])
    plot = numbers(plots.repeated_runs(given))
    points, mean, single, alone, empty, bracket = plot["data"]
    assert (points["y"], mean["y"], mean["error_y"]["array"]) == ([0.5, 0.75, 1.0], [0.75], [0.25])
    assert (single["y"], alone["y"], alone["error_y"]["array"], empty["y"]) == ([0.25], [0.25], [0.0], [])
    assert (bracket["x"][0], bracket["x"][-1], min(bracket["y"]) > 1.0) == (0, 1, True)
    assert [note["text"] for note in plot["layout"]["annotations"]] == ["p = 0.042"]
    low, high = plot["layout"]["yaxis"]["range"]
    assert low < 0.25 < max(bracket["y"]) < high


@pytest.mark.parametrize(
    ("p", "text"), [(None, "p undefined"), (0.0004, "p < 0.001"), (0.001, "p = 0.001"), (1.0, "p = 1")]
)
def test_p_is_told_as_it_is(p, text):
    given = ComparisonInput("x", "AUROC", {"a": [0.5, 0.6], "b": [0.5, 0.7]}, [("a", "b", p)])
    (note,) = numbers(plots.repeated_runs(given))["layout"]["annotations"]
    assert unescape(note["text"]) == text


def test_runs_that_are_all_alike_can_be_drawn():
    plot = numbers(
        plots.repeated_runs(ComparisonInput("x", "kappa", {"a": [1.0, 1.0], "b": [1.0]}, [("a", "b", None)]))
    )
    low, high = plot["layout"]["yaxis"]["range"]
    assert low < 1 < high
    assert numbers(plots.repeated_runs(ComparisonInput("x", "kappa", {"a": []})))["data"][0]["y"] == []


def test_an_ablation_has_a_bar_for_each_value_and_a_line_for_each_interval():
    rows = [AblationRow("40×", 0.75, (0.5, 0.875)), AblationRow("20×", 0.5), AblationRow("10×", None, (0, 1))]
    plot = numbers(plots.ablation_bars(AblationInput("magnification", "AUROC", rows)))
    (bars,) = plot["data"]
    assert (bars["y"], bars["text"]) == ([0.75, 0.5, None], ["0.750", "0.500", ""])
    assert (bars["error_y"]["array"], bars["error_y"]["arrayminus"]) == ([0.125, None, None], [0.25, None, None])
    assert plot["layout"]["xaxis"]["ticktext"] == ["40×", "20×", "10×"]


def test_names_are_text_in_every_plot():
    hostile = ("<b>$x$", "<i>y", "</script>")
    curve = RocInput([0, 1], [0, 1], 0.5)
    figures = (
        plots.roc_curves(dict.fromkeys(hostile, curve), hostile),
        plots.probability_histograms(PROBABILITIES, TRUTH, hostile),
        plots.class_scatter(PROBABILITIES, TRUTH, hostile),
        plots.confusion_matrix(np.eye(3, dtype=int), hostile),
        plots.share_at_confidence((0, 1), [[1, 1, 1], [0, 0, 0]], hostile, least_share=0.1, confidence=0.5),
        plots.grade_shares((1, 0, 0), (1, 0, 0), hostile),
        plots.repeated_runs(ComparisonInput("<b>", "<b>$x$", {name: [0.5] for name in hostile})),
        plots.ablation_bars(AblationInput("<b>", "<b>$x$", [AblationRow(name, 0.5) for name in hostile])),
    )
    for figure in figures:
        text = figure.to_json().replace("%<br>", "").replace("<br>", "").replace("<extra></extra>", "")
        assert not any(found in text for found in ("<b>", "<i>", "</script", "$x$"))
