"""From the maps of a case to its report: which readouts, and that files and page agree."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import numpy as np
import pytest
from shapely.geometry import Point, shape

import digipath
from digipath.reporting import READOUTS, readouts
from digipath.values import Card
from digipath.weights import list_weights, load_card


def card(*named):
    return Card(Path("x.json"), {"readouts": list(named)})


SILENT = Card(Path("x.json"), {})


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ((), READOUTS),  # the user's own predictors
        ((SILENT,), READOUTS),
        ((card(),), ()),
        ((card("pn_stage"), card("pn_stage")), ("pn_stage",)),
        ((card("burden"), card("pn_stage")), ("pn_stage", "burden")),
        ((card("burden"), SILENT), READOUTS),
    ],
)
def test_cards_say_which_readouts_their_maps_are_good_for(cards, expected):
    assert readouts(cards) == expected


def test_the_cards_of_the_package_say_so_by_their_tissue():
    said = {name: load_card(name).record.get("readouts") for name in list_weights()}
    for name, named in said.items():
        if name.startswith(("lymphnode-ensemble-", "digipathai-breast")):
            assert named == ["pn_stage"], name
        if name.startswith("digipathai-liver"):
            assert named == ["burden"], name
        if name.startswith("digipathai-colon"):
            assert named == [], name


def redness(patches):
    """(B, P, P, 3) uint8 → the red channel as a probability."""
    return patches[..., :1].astype(np.float32) / 255


redness.patch = 256


def darker(patches):
    """Another network than redness: it disagrees most where it matters."""
    return (patches[..., :1].astype(np.float32) / 255) ** 3


darker.patch = 256


@pytest.fixture(scope="module")
def result(small_slide, tmp_path_factory):
    out = tmp_path_factory.mktemp("result") / "case"
    return digipath.segment(small_slide.path, predictors=[redness, darker], out=out, views=2)


def test_own_predictors_have_every_readout(result):
    numbers, page = result.summary, (result.folder / "report.html").read_text(encoding="utf-8")
    found = json.loads((result.folder / "lesions.geojson").read_text(encoding="utf-8"))["features"]
    assert len(found) == numbers["lesions"] > 0
    longest = numbers["metastases"]["longest"]
    assert numbers["category_by_size"] == longest[0]["category"]
    assert numbers["metastases"]["count"] == len({one["properties"]["measurements"]["Metastasis"] for one in found})
    assert sorted(label for one in longest for label in one["lesions"]) == list(range(1, len(found) + 1))
    for name, rule in numbers["burden"]["rules"].items():
        low, high = rule["interval_percent"]
        assert 0 <= low <= rule["percent"] <= high <= 100
        assert f"<td>{name}</td>" in page
        assert f"{rule['percent']:.1f} %" in page
    assert f"Category of this slide by size: {numbers['category_by_size']}." in page


def test_where_to_look_is_the_same_in_all_files(result):
    places = json.loads((result.folder / "look_here.geojson").read_text(encoding="utf-8"))["features"]
    listed = result.summary["look_here"]
    assert len(places) == len(listed) > 0
    for place, one in zip(places, listed, strict=True):
        assert shape(place["geometry"]).covers(Point(one["centre_l0"]))
        assert place["properties"]["metadata"]["ANNOTATION_DESCRIPTION"] == one["reason"]
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert escape(listed[0]["reason"]) in page


def test_one_network_and_one_view_cannot_say_where_to_look(small_slide, tmp_path):
    alone = digipath.segment(small_slide.path, predictors=[redness], out=tmp_path / "case")
    assert alone.summary["look_here"] is None
    places = json.loads((alone.folder / "look_here.geojson").read_text(encoding="utf-8"))
    assert (places["features"], places["note"][:12]) == ([], "Not measured")
    assert "Look here" not in (alone.folder / "report.html").read_text(encoding="utf-8")
    assert alone.summary["burden"]["conformal"] is False
    written = (alone.folder / "run.json").stat().st_mtime_ns
    digipath.segment(small_slide.path, predictors=[redness], out=tmp_path / "case")
    assert (alone.folder / "run.json").stat().st_mtime_ns == written  # done is done
