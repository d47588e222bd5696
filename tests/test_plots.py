"""Plots: numbers in, the same numbers out, in colours that everyone can tell apart."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from digipath.report import NodeInput, ReliabilityInput, plots
from digipath.report.inputs import ErrorFindingInput

PAGES = {"light": "#ffffff", "dark": "#15181c"}
# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    """WCAG 2's contrast ratio."""
    dark, light = sorted(float(linear(colour) @ (0.2126, 0.7152, 0.0722)) for colour in (first, second))
    return (light + 0.05) / (dark + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear sRGB, D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(rgb, 0, 1) / (0.9505, 1, 1.089)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("colour", plots.CATEGORY_COLOURS.values())
@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_colours_stand_out_from_both_pages(colour, page):
    assert contrast(colour, page) >= 3  # WCAG 2.2, success criterion 1.4.11


@pytest.mark.parametrize("sees", BLINDNESS.values(), ids=BLINDNESS)
def test_categories_stay_apart_whatever_colours_one_sees(sees):
    seen = {name: lab(np.array(sees) @ linear(colour)) for name, colour in plots.CATEGORY_COLOURS.items()}
    for first, second in itertools.combinations(seen.values(), 2):
        assert np.linalg.norm(first - second) >= 15
    assert len(set(plots.CATEGORY_SYMBOLS.values())) == len(plots.CATEGORY_COLOURS)


def numbers(figure):
    """The figure as a browser gets it: plain JSON."""
    return json.loads(figure.to_json())


def test_a_histogram_has_a_bar_for_each_bin():
    plot = numbers(plots.probability_histogram([6, 0, 3, 1], 0.25))
    (bars,) = plot["data"]
    assert (bars["x"], bars["y"]) == ([0.125, 0.375, 0.625, 0.875], [60.0, 0.0, 30.0, 10.0])
    assert plot["layout"]["shapes"][0]["x0"] == 0.25
    low, high = plot["layout"]["yaxis"]["range"]
    assert low < 1 < high  # log10 of the least and the largest bar are within


@pytest.mark.parametrize("um", [0.5, 93.0, 2e4])
def test_every_metastasis_and_both_limits_lie_within_the_axis(um):
    plot = numbers(plots.metastasis_sizes([um], ["micro"], (200, 2000)))
    low, high = plot["layout"]["xaxis"]["range"]
    assert low < np.log10(um / 1000) < high
    assert low < np.log10(0.2) < np.log10(2) < high
    assert {note["text"]: note["x"] for note in plot["layout"]["annotations"]} == pytest.approx(
        {"0.2 mm": np.log10(0.2), "2 mm": np.log10(2)}
    )


def test_only_the_longest_of_very_many_metastases_are_drawn():
    diameters = np.random.default_rng(0).permutation(np.arange(1, 5001)).tolist()
    plot = numbers(plots.metastasis_sizes(diameters, ["itc"] * 5000, (200, 2000)))
    (points,) = plot["data"]
    assert len(points["x"]) == plots.MOST_POINTS
    assert (min(points["x"]), max(points["x"])) == (3.001, 5.0)
    assert points["x"] == sorted(points["x"], reverse=True)
    assert points["y"] == list(range(1, 2001))


def test_burden_has_a_point_for_each_rule_and_a_bar_for_each_interval():
    plot = numbers(plots.burden_by_rule(["one", "per piece"], [12.5, 30.0], [(10.0, 20.0), None]))
    lines = [trace for trace in plot["data"] if trace["mode"] == "lines"]
    points = [trace for trace in plot["data"] if trace["mode"] != "lines"]
    assert [(line["x"], line["y"]) for line in lines] == [([10.0, 20.0], [0, 0])]
    assert [(point["x"], point["y"]) for point in points] == [([12.5], [0]), ([30.0], [1])]
    assert plot["layout"]["yaxis"]["ticktext"] == ["one", "per piece"]
    assert plot["layout"]["xaxis"]["range"] == [0, 100]


def test_empty_bins_are_no_points_of_a_reliability_diagram():
    bins = ReliabilityInput([0.1, None, 0.9], [0.2, None, 0.7], [30, 0, 10])
    plot = numbers(plots.reliability_diagram({"a": bins}))
    drawn = [(trace["x"], trace["y"]) for trace in plot["data"]]
    assert drawn == [([0, 1], [0, 1]), ([0.1, 0.9], [0.2, 0.7]), ([0.1, 0.9], [30, 10])]


@pytest.mark.parametrize("count", [1, 5, 20])
def test_every_curve_is_drawn_in_a_line_of_its_own(count):
    found = ErrorFindingInput({}, [0.5, 1.0], [0.1, 0.2], 0.15)
    curves = numbers(plots.risk_coverage({f"network {n}": found for n in range(count)}))["data"]
    assert len({(curve["line"]["color"], curve["line"]["dash"]) for curve in curves}) == count


def test_risk_and_coverage_are_percent():
    found = ErrorFindingInput({}, np.array([0.5, 1.0]), np.array([0.01, 0.0625]))
    (curve,) = numbers(plots.risk_coverage({"entropy": found}))["data"]
    assert (curve["x"], curve["y"], curve["name"]) == ([50.0, 100.0], [1.0, 6.25], "entropy")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(-1, -5), (0, 25), (1, 50), (5, 62.5), (9, 75), (10, 100), (10.5, 105)],
)
def test_percentiles_are_those_of_the_training_data(value, expected):
    # Half of the data are 0; 1 is the middle of three equal quantiles' places.
    assert plots.percentile(value, (0, 0, 1, 9, 10), (0, 0.5, 0.5, 0.75, 1)) == pytest.approx(expected)


def test_percentiles_agree_with_the_data_that_made_the_quantiles():
    generator = np.random.default_rng(0)
    data = generator.gamma(2, 50, 20_000)
    at = np.linspace(0, 1, 101)
    for value in generator.choice(data, 50):
        expected = 100 * float((data <= value).mean())
        assert plots.percentile(float(value), np.quantile(data, at), at) == pytest.approx(expected, abs=0.6)


def test_nodes_of_the_same_name_keep_their_own_rows():
    probabilities = {"negative": 1.0, "macro": 0.0}
    nodes = [NodeInput("same", "negative", probabilities, {}, "negative", features={"a": float(i)}) for i in range(3)]
    plot = numbers(plots.node_categories(nodes))
    assert plot["layout"]["yaxis"]["tickvals"] == [0, 1, 2]
    assert plot["data"][0]["y"] == [0, 1, 2]
    positions = numbers(plots.feature_positions(nodes, {"a": (0, 2)}, (0, 1)))
    assert [trace["x"] for trace in positions["data"]] == [[0.0], [50.0], [100.0]]
