"""The pages on grades: never one number alone, words where there is no grade, and no text from outside runs."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from test_report_pages import CARD, HOSTILE, browsed, figures, scripts, table, tables_of, without_scripts

from digipath.report import (
    NOTICE,
    AblationInput,
    AblationRow,
    BagInput,
    CaseGradeInput,
    ComparisonInput,
    GalleryInput,
    GradeInput,
    GradingInput,
    LevelInput,
    ReadoutInput,
    RocInput,
    TileFrame,
    TileLedger,
    TilePicture,
    case_grade_page,
    grade_page,
    grading_page,
)
from digipath.values import BACKGROUND, EXCLUDED, READ_FAILED

CLASSES = ("grade 2", "grade 3", "grade 4")
HIGHEST = "Highest grade with at least 5 % of the tiles at a probability of 0.75 or more"
READOUT = ReadoutInput(
    mean_probabilities=(0.46, 0.3, 0.24),
    mean_grade="grade 2",
    vote_shares=(0.5, 0.3125, 0.1875),
    majority_grade="grade 2",
    highest_grade="grade 4",
    least_share=0.05,
    confidence=0.75,
    confident_shares=(0.25, 0.125, 0.0625),
    areas_mm2=(2.25, 1.5, 0.75),
    confidences=(0.0, 0.5, 1.0),
    shares_at=((0.5, 0.3125, 0.1875), (0.375, 0.25, 0.125), (0.0, 0.0, 0.0625)),
)
OVERVIEW = np.full((80, 80, 3), (200, 150, 190), np.uint8)
RUN = {
    "verb": "grade",
    "versions": {"digipath": "9.8.7"},
    "settings": {"least_share": 0.05},
    "timings_s": {"wall": 3.25},
}


def maps(missing=()):
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet((1, 1, 1), (4, 4)).astype(np.float32)
    coverage = np.ones((4, 4), np.uint8)
    for at, code in enumerate(missing):
        coverage[0, at] = code
    probabilities[coverage != 1] = np.nan
    return probabilities, coverage


def graded(name="slide.svs", **settings):
    probabilities, coverage = maps()
    tile = TilePicture(np.full((32, 32, 3), 200, np.uint8), (0.1, 0.2, 0.7), "row 1, column 2", np.eye(4))
    ready = GradeInput(
        name, CLASSES, READOUT, TileLedger(16, 3, 0, 0.9, 0.25), OVERVIEW, probabilities, coverage,
        TileFrame(40.0, 2.0, 8.0), notes=["A note."], run=RUN, cards=[CARD],
        gallery=[GalleryInput("grade 4", True, [tile]), GalleryInput("grade 4", False, [replace(tile, heat=None)])],
        uncertainty={"entropy": np.full((4, 4), 0.5)}, attention=np.full((4, 4), 0.1),
        bags=BagInput("grade 3", (0.1, 0.6, 0.3), {"20×": (0.0, 0.8, 0.2)}, {"20×": (5, 200)}, ["Crops were random."]),
    )  # fmt: skip
    return replace(ready, **settings)


def ungraded(ledger, code):
    coverage = np.full((4, 4), code, np.uint8)
    nothing = np.full((4, 4, 3), np.nan, np.float32)
    return graded(
        readout=None, tiles=ledger, coverage=coverage, probabilities=nothing,
        gallery=(), uncertainty={}, attention=None, bags=None,
    )  # fmt: skip


def case(name="case 7", **settings):
    slides = [graded(f"{name} a"), graded(f"{name} b", readout=None, tiles=TileLedger(0, 2, 1, 0.9, 0.25))]
    return replace(CaseGradeInput(name, CLASSES, slides, READOUT, "All tiles count alike.", run=RUN), **settings)


def evaluated(name="some-grader-v1"):
    curve = RocInput([0, 0.5, 1], [0, 0.75, 1], 0.625)
    tile = LevelInput(
        "tile", CLASSES, 4, {"accuracy": 0.7654, "kappa": None}, {"accuracy": (0.7012, 0.8123), "kappa": None},
        [[2, 0, 0], [0, 1, 0], [0, 1, 0]], {**dict.fromkeys(CLASSES, curve), "macro": curve}, (0, 0, 1, 2),
        [(0.9, 0.05, 0.05), (0.5, 0.25, 0.25), (0.1, 0.8, 0.1), (0.0, 0.6, 0.4)],
        [f"{name} {n}" for n in range(4)],
    )  # fmt: skip
    two = LevelInput("case: grade 4 against the rest", ("rest", "grade 4"), 2, {"accuracy": 0.5, "f1_macro": 0.4321})
    runs = ComparisonInput(
        "batch size", "AUROC", {name: [0.5, 0.75], "32": [0.25]}, [(name, "32", 0.0421)], "Welch's t"
    )
    rows = AblationInput(
        "magnification", "balanced accuracy", [AblationRow("40×", 0.75, (0.5, 0.875)), AblationRow("5×", None)]
    )
    return GradingInput(name, CLASSES, [tile, two], 0.95, "cases", [runs], [rows], ["A note."], RUN, [CARD])


PAGES = {
    "grade": lambda name: grade_page(graded(name)),
    "case": lambda name: case_grade_page(case(name)),
    "grading": lambda name: grading_page(evaluated(name)),
}


# --- what runs, and what cannot --------------------------------------------------------------


@pytest.mark.parametrize("make", PAGES.values(), ids=PAGES)
def test_only_our_scripts_may_run_and_nothing_is_fetched(make):
    page = make("slide.svs")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts(page)]
    assert len(hashes) == 2
    assert policy.split("; ")[:2] == ["default-src 'none'", f"script-src {' '.join(hashes)}"]
    rest = re.sub(r"data:image/jpeg;base64,[^\"]*", "", without_scripts(page))
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<link|<iframe", rest)
    assert page.count(NOTICE) == 2


@pytest.mark.parametrize("make", PAGES.values(), ids=PAGES)
def test_hostile_names_stay_text(make):
    page, harmless = make(HOSTILE), make("slide.svs")
    assert len(re.findall("<script", page)) == len(re.findall("<script", harmless))
    assert page.count("<img ") == harmless.count("<img ")
    assert "<!--" not in page
    assert HOSTILE in unescape(without_scripts(page))


def test_hostile_classes_and_notes_stay_text():
    classes = (HOSTILE, f"b{HOSTILE}", f"c{HOSTILE}")
    readout = replace(READOUT, mean_grade=HOSTILE, majority_grade=HOSTILE, highest_grade=classes[2])
    bags = BagInput(HOSTILE, (0.5, 0.25, 0.25), {HOSTILE: (1, 0, 0)}, {HOSTILE: (1, 2)}, [HOSTILE])
    tile = TilePicture(OVERVIEW, (0.1, 0.2, 0.7), HOSTILE)
    page = grade_page(graded(
        HOSTILE, classes=classes, readout=readout, bags=bags, notes=[HOSTILE], uncertainty={HOSTILE: np.ones((4, 4))},
        gallery=[GalleryInput(HOSTILE, True, [tile])], tile_names={HOSTILE: (1, 0, 0)},
        run={"verb": HOSTILE, "settings": {HOSTILE: HOSTILE}, "versions": {"digipath": HOSTILE}},
    ))  # fmt: skip
    levels = [replace(level, level=HOSTILE, scores={HOSTILE: 0.5}) for level in evaluated().levels]
    for hostile in (page, grading_page(replace(evaluated(HOSTILE), levels=levels, notes=[HOSTILE]))):
        rest = without_scripts(hostile)
        assert rest.count("&lt;script&gt;") >= 8
        assert "<img src=x" not in rest
        assert 'title="x"' not in rest
        assert len(scripts(hostile)) == 2


# --- a grade ---------------------------------------------------------------------------------


def key_figures(page):
    return dict(re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)</dd></div>", page))


def test_a_grade_never_stands_alone():
    assert key_figures(grade_page(graded(bags=None))) == {
        "Grade by mean vote": "grade 2",
        "Grade by majority vote": "grade 2",
        HIGHEST: "grade 4",
        "Tiles of grade 2": "50.0%, 2.25\u00a0mm²",
        "Tiles of grade 3": "31.2%, 1.50\u00a0mm²",
        "Tiles of grade 4": "18.8%, 0.75\u00a0mm²",
        "Tiles graded": "16",
    }


def test_the_three_readouts_say_what_they_rest_on():
    page = grade_page(graded())
    assert table(page, "Read by") == [
        ["Mean vote", "grade 2", "mean probability 0.460"],
        ["Majority vote", "grade 2", "50.0% of the tiles"],
        [HIGHEST, "grade 4", "6.2% of the tiles at 0.75 or more"],
        ["Networks that see many tiles at once", "grade 3", "mean probability 0.600"],
    ]
    assert table(page, "Class") == [
        ["grade 2", "50.00%", "2.25 mm²", "0.460", "25.00%"],
        ["grade 3", "31.25%", "1.50 mm²", "0.300", "12.50%"],
        ["grade 4", "18.75%", "0.75 mm²", "0.240", "6.25%"],
    ]
    assert table(page, "Probability at least") == [
        ["0.00", "50.00%", "31.25%", "18.75%"],
        ["0.50", "37.50%", "25.00%", "12.50%"],
        ["1.00", "0.00%", "0.00%", "6.25%"],
    ]
    assert table(page, "Votes of") == [
        ["20×", "0.00%", "80.00%", "20.00%", "5 of up to 200 tiles"],
        ["Mean probability", "0.100", "0.600", "0.300", ""],
    ]


def test_readouts_that_differ_are_said_to():
    assert "The readouts differ" in grade_page(graded())
    agreed = replace(READOUT, highest_grade="grade 2")
    assert "The readouts differ" not in grade_page(graded(readout=agreed))
    assert "none reaches it" in grade_page(graded(readout=replace(READOUT, highest_grade=None)))


def test_the_formula_of_the_colours_stands_on_the_page():
    page = unescape(grade_page(graded()))
    assert "(100^p − 1) / 99" in page
    assert "below 50 % very light, above it rises quickly" in page
    assert "green and 1 dot: grade 2; blue and 2 dots: grade 3; red and 3 dots: grade 4" in page


def test_the_page_shows_its_pictures_and_how_it_was_made():
    page = grade_page(graded())
    assert page.count("<img ") == 6  # map, slide, attention, entropy, two sheets
    for text in ("A note.", "9.8.7", "3.25", "some-unet-v1", "Crops were random.", "entropy (bits)", "Grad-CAM"):
        assert text in page, text
    assert "Grad-CAM" not in grade_page(graded(gallery=()))


def test_without_a_resolution_shares_stand_without_areas():
    page = grade_page(graded(readout=replace(READOUT, areas_mm2=None), tiles=TileLedger(16)))
    assert key_figures(page)["Tiles of grade 2"] == "50.0%"
    assert table(page, "What became of the tissue")[0][2] == "unknown"
    assert "mm²" not in without_scripts(page)


@pytest.mark.parametrize(
    ("ledger", "code", "headline", "why"),
    [
        (TileLedger(0), BACKGROUND, "No grade: no tissue was found.", "nothing to grade"),
        (
            TileLedger(0, 12),
            EXCLUDED,
            "No grade.",
            "Of 12 tiles with tissue none could be graded: 12 hold less than 90%",
        ),
        (TileLedger(0, 1, 4), READ_FAILED, "No grade.", "1 hold less than 90% tissue, 4 could not be read"),
    ],
)
def test_without_a_tile_there_is_no_grade_and_the_page_says_why(ledger, code, headline, why):
    page = grade_page(ungraded(ledger, code))
    assert f'role="alert"><strong>{headline}</strong>' in page
    assert why in page
    assert key_figures(page) == {}
    assert "Grade by" not in page
    assert "<script" not in page


@pytest.mark.parametrize("unreadable", [0, 2])
def test_the_alert_appears_exactly_where_tiles_could_not_be_read(unreadable):
    probabilities, coverage = maps([READ_FAILED] * unreadable)
    ledger = TileLedger(16 - unreadable, 4, unreadable, 0.9, 0.25)
    page = grade_page(graded(tiles=ledger, probabilities=probabilities, coverage=coverage))
    assert ('role="alert"' in page) == bool(unreadable)
    if unreadable:
        assert "2 of 20 tiles with tissue (0.5 mm²) could not be read" in page
    assert table(page, "What became of the tissue") == [
        ["Tiles with tissue", "20", "5.00 mm²", "100.00%"],
        ["graded", str(16 - unreadable), f"{(16 - unreadable) / 4:.2f} mm²", f"{(16 - unreadable) / 20:.2%}"],
        ["left out: less than 90% tissue", "4", "1.00 mm²", "20.00%"],
        [
            "not graded: could not be read",
            str(unreadable),
            "0.5 mm²" if unreadable else "0 mm²",
            f"{unreadable / 20:.2%}",
        ],
    ]


def test_tiles_of_a_folder_are_listed_by_name_without_a_map():
    names = {"a.png": (0.1, 0.2, 0.7), "b.png": (0.4, 0.4, 0.2)}
    page = grade_page(graded(
        overview=None, probabilities=None, coverage=None, frame=None, attention=None, uncertainty={}, tile_names=names,
        gallery=(),
    ))  # fmt: skip
    assert "<img " not in page
    assert table(page, "Tile") == [
        ["a.png", "grade 4", "0.100", "0.200", "0.700"],
        ["b.png", "grade 3", "0.400", "0.400", "0.200"],  # of equal ones the most malignant
    ]


@pytest.mark.parametrize("count", [2, 5])
def test_two_classes_and_many_have_a_page(count):
    classes = tuple(f"class {n}" for n in range(count))
    part = (1 / count,) * count
    readout = ReadoutInput(part, classes[-1], part, classes[-1], None, 0.05, 0.75)
    values = np.random.default_rng(0).dirichlet(np.ones(count), (4, 4))
    page = grade_page(graded(classes=classes, readout=readout, probabilities=values, gallery=(), bags=None))
    assert len(table(page, "Class")) == count
    assert page.count("<img ") == 4


# --- a case ----------------------------------------------------------------------------------


def test_a_case_shows_its_slides_beside_its_grade():
    page = case_grade_page(case())
    assert key_figures(page)[HIGHEST] == "grade 4"
    assert table(page, "Slide") == [
        ["case 7 a", "grade 3", "grade 2", "grade 2", "grade 4", "50.00%", "31.25%", "18.75%", "16", "0"],
        ["case 7 b", "grade 3", "none", "none", "none", "–", "–", "–", "0", "1"],
    ]
    assert table(page, "What became of the tissue")[0][:2] == ["Tiles with tissue", "22"]
    assert "All tiles count alike." in page
    assert "case 7 a: A note." in page
    assert "Incomplete" in page


def test_a_case_without_a_grade_says_so():
    page = case_grade_page(case(readout=None, slides=[graded(readout=None, tiles=TileLedger(0), bags=None)]))
    assert "No grade: no tissue was found." in page
    assert key_figures(page) == {}


# --- the evaluation --------------------------------------------------------------------------


def test_the_evaluation_shows_every_number_it_was_given():
    page = grading_page(evaluated())
    overall, tile = tables_of(page, "Score")
    assert overall == [["accuracy", "0.7654", "0.5"], ["kappa", "undefined", "–"], ["f1 macro", "–", "0.4321"]]
    assert tile == [["accuracy", "0.7654", "0.7012 to 0.8123"], ["kappa", "undefined", "none"]]
    assert table(page, "True class") == [
        ["grade 2", "2", "0", "0"],
        ["grade 3", "0", "1", "0"],
        ["grade 4", "0", "1", "0"],
    ]
    assert table(page, "Curve") == [*([name, "0.625"] for name in CLASSES), ["macro", "0.625"]]
    assert table(page, "Trained with") == [["some-grader-v1", "2", "0.625", "0.1768"], ["32", "1", "0.25", "undefined"]]
    assert table(page, "Compared") == [["some-grader-v1 and 32", "0.0421"]]
    assert table(page, "Variant") == [["40×", "0.75", "0.5 to 0.875"], ["5×", "undefined", "none"]]
    assert len(figures(page)) == 6  # confusion, ROC, histograms, scatter, runs, ablation


def test_each_class_has_a_row_with_its_intervals():
    by_class = {
        "grade 2": {"precision": (0.75, (0.5, 0.875)), "f1": (0.5, None), "auroc": (0.625, (0.5, 1.0))},
        "grade 3": {"precision": (1.0, None), "f1": (0.25, (0.0, 0.4567)), "auroc": (None, None)},
        "grade <4>": {"precision": (None, None), "f1": (0.125, None), "auroc": (0.5, None)},
    }
    counts = [[2, 0, 0], [0, 1, 0], [0, 1999, 1]]
    tile = LevelInput("tile", tuple(by_class), 2003, {}, confusion=counts, by_class=by_class)
    page = grading_page(replace(evaluated(), levels=[tile]))
    assert all(f'<th scope="col" class="number">{name}</th>' in page for name in ("In truth", "Precision", "AUROC"))
    assert "recall is the class&#x27;s sensitivity" in page
    assert table(page, "Class") == [
        ["grade 2", "2", "0.75 (0.5 to 0.875)", "0.5", "0.625 (0.5 to 1)"],
        ["grade 3", "1", "1", "0.25 (0 to 0.4567)", "undefined"],
        ["grade <4>", "2,000", "undefined", "0.125", "0.5"],
    ]
    assert tables_of(grading_page(evaluated()), "Class") == []


def test_what_is_called_wrong_comes_first():
    page = grading_page(evaluated())
    rows = table(page, "Name")
    assert rows[0] == ["some-grader-v1 3", "grade 4", "grade 3", "0.000", "0.600", "0.400"]
    assert [row[0][-1] for row in rows] == ["3", "0", "1", "2"]
    assert "the 1 that are called wrong" in page


def test_the_table_of_the_histograms_counts_all():
    rows = table(grading_page(evaluated()), "Probability")
    counts = np.array([[int(cell) for cell in row[1:]] for row in rows])
    assert counts.sum(axis=0).tolist() == [2, 1, 1] * 3


def test_an_evaluation_of_nothing_is_a_page_without_plots():
    page = grading_page(GradingInput("x", CLASSES, [LevelInput("slide", CLASSES, 0, {"accuracy": None})]))
    assert "<script" not in page
    assert table(page, "Score") == [["accuracy", "undefined"]]


# --- in a browser ----------------------------------------------------------------------------


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
    assert all(re.search(r'class="main-svg"', plot) for plot in drawn)
    assert unescape(re.findall(r"<title>(.*?)</title>", dom)[0]).startswith(slide)
