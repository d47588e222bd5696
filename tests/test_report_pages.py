"""The pages: what they show, that they stand alone, and that no text from outside runs or breaks out."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
import shapely

from digipath.measure.lesions import find_lesions
from digipath.report import (
    NOTICE,
    BurdenInput,
    BurdenRuleInput,
    ErrorFindingInput,
    EvaluationInput,
    LookHereInput,
    MetastasesInput,
    MetastasisInput,
    NodeInput,
    ReliabilityInput,
    ReportInput,
    StageInput,
    evaluation_page,
    report_html,
    stage_page,
    summary,
    tally,
)
from digipath.values import Coverage

HOSTILE = '</script><script>document.title="x"</script>&amp; \'"><img src=x onerror=document.title=1><!--$x$.svs'
TISSUE = np.full((100, 120, 3), (200, 150, 190), np.uint8)
CATEGORIES = ("negative", "itc", "micro", "macro")
FORESTS = ("RF-PI", "RF-PB", "RF-CI", "RF-CB")
CARD = {
    "name": "some-unet-v1",
    "licence": "CC0-1.0",
    "sha256": "ab" * 32,
    "intended_use": "Demonstration only.",
    "limits": ["Few crops."],
    "metrics": [{"name": "Dice", "value": 0.8123, "data": "crops", "split": "5-fold"}],
    "calibration": {"temperature": 1.375, "expected_calibration_error": {"before": 0.0625, "after": 0.0125}},
}


class Tables(HTMLParser):
    """All tables of a page, each a list of rows of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._inside = False

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._inside = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.tables[-1][-1][-1] += data


def scripts(page: str) -> list[str]:
    """Texts of the scripts that a browser would run."""
    return re.findall(r"<script>(.*?)</script>", page, re.DOTALL)


def figures(page: str) -> list[dict]:
    return [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)]


def without_scripts(page: str) -> str:
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def table(page: str, first: str) -> list[list[str]]:
    """Rows, without the head, of the table whose head begins so."""
    reader = Tables()
    reader.feed(without_scripts(page))
    (found,) = (rows[1:] for rows in reader.tables if rows[0][0] == first)
    return found


def segmentation(ledger=None, mpp=0.5, probability=None, **settings):
    probability = np.full((4, 4), 0.8, np.float32) if probability is None else probability
    coverage = np.where(np.isnan(probability), 0, 1).astype(np.uint8)
    counted = tally(probability, coverage, shape_px=probability.shape, reduce=1)
    found = find_lesions(probability, map_mpp=mpp, l0_per_map_px=2.0, min_area_um2=0)
    numbers = summary(
        counted, ledger or Coverage(16, 16), found, mpp=mpp, map_mpp=mpp, notes=[settings.pop("note", "A note.")]
    )
    ready = ReportInput(
        slide="slide.svs",
        overview=TISSUE,
        probability=probability,
        coverage=coverage,
        counted=counted,
        lesions=found,
        summary=numbers,
        run={"settings": {"views": 1}, "versions": {"digipath": "9.8.7"}, "timings_s": {"wall": 3.25}},
        cards=[CARD],
    )
    return replace(ready, **settings)


METASTASES = MetastasesInput(
    [MetastasisInput("macro", 2480.0, 3.14e6, (1, 4)), MetastasisInput("itc", 93.0, 5120.0, (2,))],
    "macro",
    (200.0, 2000.0),
    ("Cells are not counted.",),
)
BURDEN = BurdenInput(
    [
        BurdenRuleInput("one hull", 42.5, 3.44, 8.06, (40.1, 50.2), [shapely.box(10, 10, 150, 150)]),
        BurdenRuleInput("a hull per piece", 61.25, 3.44, 5.57, (55.3, 70.4), [shapely.Point(30, 40)]),
    ],
    0.9,
    True,
    8.0,
    [shapely.box(0, 0, 200, 180)],
)
PLACES = (
    LookHereInput(
        shapely.box(20, 30, 60, 90), (40.0, 60.0), 2345.0, 0.4567, 0.1234, "micro", "itc", 3.21, "It matters."
    ),
    LookHereInput(
        shapely.box(100, 30, 120, 60), (110.0, 45.0), None, 0.51, 0.05, "micro", "micro", None, "So does this."
    ),
)


def whole(**settings):
    """A segmentation with every readout."""
    readouts = {"metastases": METASTASES, "burden": BURDEN, "look_here": PLACES, "l0_per_overview_px": 2.0}
    return segmentation(**readouts | settings)


def node(name, probabilities, votes, size, **settings):
    named = dict(zip(CATEGORIES, probabilities, strict=True))
    category = max(named, key=named.__getitem__)
    return NodeInput(name, category, named, dict(zip(FORESTS, votes, strict=True)), size, **settings)


def staged(name="patient 7", **settings):
    nodes = [
        node(f"{name} a", (0.91, 0.06, 0.02, 0.01), ["negative"] * 4, "negative", prediction_set=("negative",),
             features={"largest_um": 0.0, "regions": 1.0}),
        node(f"{name} b", (0.125, 0.25, 0.5, 0.125), ["micro", "micro", "itc", "macro"], "micro", size_um=1234.0,
             prediction_set=("itc", "micro"), features={"largest_um": 1230.5, "regions": 7.0}),
    ]  # fmt: skip
    ready = StageInput(
        name, "pN1mi", "pN1mi", {"pN0": 0.236, "pN0(i+)": 0.164, "pN1mi": 0.5, "pN1": 0.1, "pN2": 0.0}, nodes,
        stage_set=("pN0", "pN1mi"), level=0.9, training_range={"largest_um": (0, 100, 3000), "regions": (0, 2, 40)},
        quantiles=(0, 0.5, 1), card=CARD, run={"versions": {"digipath": "9.8.7"}},
    )  # fmt: skip
    return replace(ready, **settings)


def evaluated(name="some-unet-v1"):
    bins = ReliabilityInput([0.1, None, 0.9], [0.15, None, 0.8], [900, 0, 100], 0.0543, 0.0321)
    found = ErrorFindingInput({"all pixels": 0.8765, "within tumour": None}, [0.5, 1.0], [0.01, 0.0625], 0.0432)
    scores = {"mean_dice": 0.7654, "pixel_auroc": None, "images": {f"{name}.png": 0.6543}}
    return EvaluationInput(
        name, scores, {"as trained": bins}, {"entropy": found}, {name: {"temperature": 1.375}}, cards=[CARD]
    )


PAGES = {
    "segmentation": lambda name: report_html(whole(slide=name)),
    "stage": lambda name: stage_page(staged(name)),
    "evaluation": lambda name: evaluation_page(evaluated(name)),
}


# --- what runs, and what cannot --------------------------------------------------------------


@pytest.mark.parametrize("make", PAGES.values(), ids=PAGES)
def test_the_policy_names_exactly_the_scripts_of_the_page(make):
    page = make("slide.svs")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split("; ")}
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts(page)]
    assert len(hashes) == 2
    assert rules["script-src"] == hashes
    assert (rules["default-src"], rules["base-uri"], rules["form-action"]) == (["'none'"], ["'none'"], ["'none'"])
    assert page.index("Content-Security-Policy") < page.index("<title>")


def test_plotly_can_neither_end_its_script_nor_change_its_hash():
    from digipath.report.document import DRAW, plotly_js

    for script in (plotly_js(), DRAW):
        assert not re.search(r"</script|<!--|\r|\0", script, re.IGNORECASE)


def test_a_page_without_plots_has_no_script_and_allows_none():
    page = report_html(segmentation(probability=np.full((4, 4), np.nan, np.float32)))
    assert "<script" not in page
    assert "script-src 'none'" in page
    assert len(page) < 100_000


@pytest.mark.parametrize("make", PAGES.values(), ids=PAGES)
def test_the_page_needs_nothing_from_elsewhere(make):
    rest = without_scripts(make("slide.svs"))
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<link|<iframe", rest.replace("image/jpeg;base64,", ""))
    assert set(re.findall(r'src="([^,"]*)', rest)) <= {"data:image/jpeg;base64"}
    assert len(rest) < 1_000_000


@pytest.mark.parametrize("make", PAGES.values(), ids=PAGES)
def test_hostile_names_stay_text(make):
    page, harmless = make(HOSTILE), make("slide.svs")
    assert len(scripts(page)) == 2
    assert len(re.findall("<script", page)) == len(re.findall("<script", harmless))
    assert page.count("<img ") == harmless.count("<img ")
    assert "<!--" not in page
    assert HOSTILE in unescape(without_scripts(page))


def test_hostile_text_stays_text_wherever_it_comes_from():
    metric = dict.fromkeys(("name", "data", "split"), HOSTILE) | {"value": 0.5}
    card = {key: HOSTILE for key in CARD} | {
        "limits": [HOSTILE],
        "metrics": [metric],
        "calibration": {HOSTILE: HOSTILE},
    }
    run = {"verb": HOSTILE, "written": HOSTILE, "versions": {"digipath": HOSTILE}, "settings": {HOSTILE: [HOSTILE]}}
    page = report_html(
        whole(
            slide=HOSTILE,
            cards=[card],
            run=run,
            note=HOSTILE,
            uncertainty={HOSTILE: np.zeros((4, 4), np.float16)},
            metastases=replace(METASTASES, notes=(HOSTILE,)),
            burden=replace(BURDEN, notes=(HOSTILE,)),
            look_here=[replace(PLACES[0], reason=HOSTILE)],
        )
    )
    rest = without_scripts(page)
    assert rest.count("&lt;script&gt;") == 25
    assert "<img src=x" not in rest
    assert 'title="x"' not in rest  # a quote would end an attribute
    assert len(scripts(page)) == 2


def test_each_split_is_told_once_above_what_was_measured_on_it():
    metrics = [
        {"name": name, "value": value, "spread": spread, "data": data, "split": split}
        for name, value, spread, data, split in (
            ("kappa", 0.91234, 0.0234, "patients", "by slide"),
            ("Dice", 0.8, None, "crops", "5-fold"),
            ("accuracy", 0.7, 0, "nodes", "by slide"),
        )
    ]
    page = report_html(whole(cards=[CARD | {"metrics": metrics}]))
    text = re.sub(r"<[^>]+>", "|", without_scripts(page))
    found = re.sub(r"\|+", "|", text[text.index("by slide") : text.index("Limits")])
    head = "Measured|On|Value|"
    assert found == f"by slide|{head}kappa|patients|0.912 ± 0.023|accuracy|nodes|0.7|5-fold|{head}Dice|crops|0.8|"


def test_plotly_reads_names_as_text():
    (bars,) = (figure for figure in figures(stage_page(staged(HOSTILE))) if "yaxis4" in figure["layout"])
    labels = bars["layout"]["yaxis"]["ticktext"]
    assert not any(character in label for label in labels for character in "<>$")
    assert [unescape(label)[:14] for label in labels] == [HOSTILE[:14]] * 2


# --- the segmentation's report ---------------------------------------------------------------


def test_the_report_shows_what_it_was_given():
    page = report_html(segmentation())
    shown = [
        "slide.svs",
        "9.8.7",
        "3.25",
        "some-unet-v1",
        "CC0-1.0",
        "ab" * 32,
        "0.812",
        "Few crops.",
        "A note.",
        "1.375",
    ]
    for text in shown:
        assert text in page, text
    assert "4 µm²" in page  # 16 pixels of 0.25 µm²
    assert page.count(NOTICE) == 2
    assert page.count("<img ") == 2


def test_readouts_appear_where_they_were_asked_for():
    titles = ("Metastases by size", "Tumour burden", "Look here")
    plain, full = report_html(segmentation()), report_html(whole())
    assert [title in plain for title in titles] == [False] * 3
    assert [title in full for title in titles] == [True] * 3
    assert full.count("<img ") == 4
    assert report_html(whole(l0_per_overview_px=None)).count("<img ") == 2


def test_metastases_are_shown_as_they_are():
    page = report_html(whole())
    assert table(page, "Metastasis") == [
        ["1", "2.48 mm", "macro", "3.14 mm²", "1, 4"],
        ["2", "93 µm", "itc", "5,120 µm²", "2"],
    ]
    assert "Cells are not counted." in page
    assert "lymph node" in page
    (plot,) = (figure for figure in figures(page) if figure["layout"]["xaxis"].get("type") == "log")
    points = {trace["name"]: (trace["x"], trace["y"]) for trace in plot["data"]}
    assert points == {"itc": ([0.093], [2]), "macro": ([2.48], [1])}
    assert sorted(shape["x0"] for shape in plot["layout"]["shapes"]) == [0.2, 2.0]


def test_burden_is_shown_by_both_rules():
    page = report_html(whole())
    assert table(page, "Whole tumour") == [
        ["one hull", "3.44 mm²", "8.06 mm²", "42.5 %", "40.1 to 50.2 %"],
        ["a hull per piece", "3.44 mm²", "5.57 mm²", "61.2 %", "55.3 to 70.4 %"],
    ]
    assert "Intervals are conformal" in page
    assert "is not known" not in page
    assert "is not known" in report_html(whole(burden=replace(BURDEN, conformal=False)))


def test_where_to_look_is_shown_in_its_order():
    rows = table(report_html(whole()), "Place")
    assert rows[0] == ["1", "It matters.", "micro", "itc", "3.21 points", "2,345 µm²", "0.457", "0.123", "40", "60"]
    assert rows[1][1:6] == ["So does this.", "micro", "micro", "–", "unknown"]
    assert "No region is so uncertain" in report_html(whole(look_here=()))


def test_readouts_of_nothing_have_a_page():
    rule = BurdenRuleInput("one hull", None, 0.0, 0.0, None)
    page = report_html(
        whole(
            probability=np.zeros((4, 4), np.float32),
            metastases=MetastasesInput((), "negative", (200, 2000)),
            burden=BurdenInput([rule], 0.9, True, None),
            look_here=(),
        )
    )
    assert "Category of this slide by size: negative" in page
    assert table(page, "Whole tumour") == [["one hull", "0 mm²", "0 mm²", "undefined", "none"]]
    assert "No region reaches the threshold." in page
    assert len(figures(page)) == 1  # the histogram


def test_without_a_resolution_there_are_no_diameters_and_no_category():
    page = report_html(whole(mpp=None, metastases=MetastasesInput((), None, (200, 2000))))
    assert "resolution of the slide is unknown" in page
    assert "Category of this slide" not in page


def test_the_histogram_holds_the_counts_and_the_threshold():
    probability = np.array([[0.1, 0.1, 0.1, 0.97]], np.float32)
    page = report_html(segmentation(probability=probability))
    (plot,) = figures(page)
    assert [y for y in plot["data"][0]["y"] if y] == [75.0, 25.0]
    assert plot["layout"]["shapes"][0]["x0"] == 0.5
    rows = table(page, "Probability")
    assert [row for row in rows if row[1] != "0"] == [["0.10 to 0.15", "3", "75.00%"], ["0.95 to 1.00", "1", "25.00%"]]


@pytest.mark.parametrize(("failed", "excluded"), [(0, 0), (3, 0), (0, 3), (2, 1)])
def test_the_alert_appears_exactly_where_coverage_is_incomplete(failed, excluded):
    coverage = Coverage(tissue=16 + failed + excluded, predicted=16, read_failed=failed, excluded=excluded)
    page = report_html(segmentation(coverage))
    assert ('role="alert"' in page) == (not coverage.complete)
    assert ("was left out" in page) == (excluded > 0)


def test_uncertainty_is_shown_where_there_is_any():
    assert "Uncertainty" not in report_html(segmentation())
    maps = {name: np.zeros((4, 4), np.float16) for name in ("epistemic", "entropy")}
    page = report_html(segmentation(uncertainty=maps))
    assert "between the networks" in page
    assert "in bits" in page
    assert page.count("<img ") == 4


def test_adaptive_views_say_what_they_saved_and_changed():
    record = {"patches": 120, "full": 34, "audited": 5, "passes": 678, "passes_full": 2880, "saving": 0.7646,
              "mean_absolute_deviation": 0.0012, "largest_deviation": 0.2345}  # fmt: skip
    page = report_html(segmentation(run={"adaptive": record}))
    for text in ("34 of 120 patches", "678 of 2,880 passes", "0.7646", "0.0012", "0.2345"):
        assert text in page, text
    assert "Adaptive views" not in report_html(segmentation(run={"adaptive": None}))


def test_calibration_is_said_to_be_applied_or_not():
    assert "divided by its temperature" in report_html(segmentation(run={"settings": {"calibrated": True}}))
    assert "Not applied" in report_html(segmentation(run={"settings": {"calibrated": False}}))
    assert "state no calibration" in report_html(segmentation(cards=[CARD | {"calibration": None}]))
    assert "Calibration" not in report_html(segmentation(cards=()))


def test_regions_carry_their_metastasis_and_their_uncertainty():
    ready = segmentation(mpp=2.0)
    region = replace(ready.lesions[0], metastasis=2, mean_uncertainty={"epistemic": 0.0125})
    rows = table(report_html(replace(ready, lesions=[region], metastases=METASTASES)), "Region")
    # 4 × 4 map pixels of 2 µm, each 2 level-0 pixels: 64 µm², a diagonal of 8√2 µm, centre (4, 4).
    assert rows == [["1", "64 µm²", "11 µm", "2 (itc)", "0.800", "0.800", "0.013", "4", "4"]]
    rows = table(report_html(segmentation(mpp=None)), "Region")
    assert rows == [["1", "64 px²", "unknown", "0.800", "0.800", "4", "4"]]


def test_the_ten_largest_regions_are_listed():
    ready = segmentation()
    many = [replace(ready.lesions[0], label=label) for label in range(1, 14)]
    page = report_html(replace(ready, lesions=many))
    assert "10 of 13 regions" in page
    assert page.count("<td>10</td>") == 1
    assert "<td>11</td>" not in page


# --- the stage -------------------------------------------------------------------------------


def test_the_stage_page_shows_every_number_it_was_given():
    page = stage_page(staged())
    assert table(page, "Stage") == [
        ["pN0", "0.236", "in it"], ["pN0(i+)", "0.164", ""], ["pN1mi", "0.500", "in it"], ["pN1", "0.100", ""],
        ["pN2", "0.000", ""],
    ]  # fmt: skip
    nodes, votes = ([rows for rows in tables_of(page, "Node")][at] for at in (0, 1))
    assert nodes == [
        ["patient 7 a", "negative", "negative", "negative", "0.910", "0.060", "0.020", "0.010", "none"],
        ["patient 7 b", "micro", "micro", "itc, micro", "0.125", "0.250", "0.500", "0.125", "1.23 mm"],
    ]
    assert votes[1] == ["patient 7 b", "micro", "micro", "itc", "macro"]
    assert table(page, "Feature") == [["largest um", "0", "1230"], ["regions", "1", "7"]]


def tables_of(page: str, first: str) -> list[list[list[str]]]:
    reader = Tables()
    reader.feed(without_scripts(page))
    return [rows[1:] for rows in reader.tables if rows[0][0] == first]


def test_the_plot_of_nodes_holds_probabilities_votes_sets_and_the_size_rule():
    (plot,) = (figure for figure in figures(stage_page(staged())) if "yaxis4" in figure["layout"])
    bars = [trace for trace in plot["data"] if trace["type"] == "bar"]
    assert [bar["x"] for bar in bars] == [[0.91, 0.125], [0.06, 0.25], [0.02, 0.5], [0.01, 0.125]]
    assert [bar["text"] for bar in bars] == [["4/4", ""], ["", "1/4"], ["", "2/4"], ["", "1/4"]]
    assert [[o == 1 for o in bar["marker"]["opacity"]] for bar in bars] == [
        [True, False], [False, True], [False, True], [False, False],
    ]  # fmt: skip
    diamonds = [trace["y"] for trace in plot["data"] if trace["type"] == "scatter"]
    assert diamonds == [[0], [], [1], []]


@pytest.mark.parametrize("settings", [{"nodes": []}, {"training_range": {}}, {"level": None, "stage_set": ()}])
def test_a_stage_page_of_less_is_a_page(settings):
    page = stage_page(staged(**settings))
    assert "pN1mi" in page
    assert ("percentile" in page) == (settings == {"level": None, "stage_set": ()})


def test_the_stage_page_warns_of_incomplete_nodes_and_of_disagreement():
    assert 'role="alert"' not in stage_page(staged())
    ready = staged()
    page = stage_page(replace(ready, nodes=[replace(ready.nodes[0], complete=False)], stage_by_size="pN1"))
    assert 'role="alert"' in page
    assert "disagree on the stage" in page


# --- the evaluation --------------------------------------------------------------------------


def test_the_evaluation_page_shows_every_number_it_was_given():
    page = evaluation_page(evaluated())
    assert table(page, "Image") == [["some-unet-v1.png", "0.6543"]]
    summed, bins = tables_of(page, "Probabilities")
    assert summed == [["as trained", "0.0543", "0.0321", "1,000"]]
    assert bins == [["as trained", "0.1", "0.15", "900"], ["as trained", "0.9", "0.8", "100"]]
    areas, curve = tables_of(page, "Uncertainty")
    assert areas == [["entropy", "0.8765", "undefined", "0.0432"]]
    assert curve == [["entropy", "50.00%", "1.000%"], ["entropy", "100.00%", "6.250%"]]
    for text in ("0.7654", "1.375", "–"):
        assert text in page


def test_an_evaluation_of_scores_alone_is_a_page_without_plots():
    page = evaluation_page(EvaluationInput("x", {"mean_dice": 0.5}))
    assert "<script" not in page
    assert "0.5" in page


# --- in a browser ----------------------------------------------------------------------------


def browsed(path, *options):
    """The page's DOM after its scripts have run, and what the browser's console says."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium or google-chrome found")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
        "--virtual-time-budget=10000", f"--user-data-dir={path.parent / 'browser'}", *options, path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("slide", ["slide.svs", HOSTILE], ids=["plain", "hostile"])
def test_plots_are_drawn_without_a_word_on_the_console(tmp_path, name, slide):
    page = PAGES[name](slide)
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    dom, console = browsed(tmp_path / "page.html")
    assert console == []
    drawn = re.findall(r'<figure class="plot drawn">.*?</figure>', dom, re.DOTALL)
    assert len(drawn) == len(figures(page)) > 0
    # Every plot has its axes and at least one point, line or bar.
    assert all(re.search(r'class="main-svg"', plot) for plot in drawn)
    assert all(re.search(r'<path class="(point|js-line)|class="points?">\s*<path', plot) for plot in drawn)
    assert unescape(re.findall(r"<title>(.*?)</title>", dom)[0]).startswith(slide)


@pytest.mark.browser
def test_the_browser_refuses_scripts_that_are_not_ours(tmp_path):
    page = report_html(segmentation())
    foreign = '<script>document.title="ran"</script><img src="x" onerror="document.title=\'ran\'">'
    broken = page.replace("<footer", f'{foreign}<a href="javascript:0">x</a><footer')
    (tmp_path / "page.html").write_text(broken, encoding="utf-8")
    dom, console = browsed(tmp_path / "page.html")
    assert "<title>slide.svs: digipath report</title>" in dom
    assert sum("Content Security Policy" in line for line in console) >= 2
    assert 'class="plot drawn"' in dom
    # The same page without its policy runs them: the policy is what held.
    (tmp_path / "page.html").write_text(re.sub("<meta http-equiv[^>]*>", "", broken), encoding="utf-8")
    assert "<title>ran</title>" in browsed(tmp_path / "page.html")[0]
