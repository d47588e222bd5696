"""Slides whose stain is normalised before they are graded."""

from __future__ import annotations

import fakes
import pytest

import digipath
from digipath.errors import CaseDiffers
from digipath.stain import REFERENCES


def graded(slide, out, **options):
    return digipath.grade(slide, predictors=[fakes.grader], out=out, tile=128, least_tissue=0.5, gallery=0, **options)


def test_the_record_names_the_stain_of_the_slide_and_what_it_was_brought_to(small_slide, tmp_path):
    plain, brought = (
        graded(small_slide.path, tmp_path / name, stain=name).slides[0].run for name in ("none", "macenko")
    )
    assert plain["stain"] is None
    assert brought["stain"]["target"] == REFERENCES["macenko"].to_record()
    assert brought["stain"]["source"]["method"] == "macenko"
    assert brought["stain"]["source"] != brought["stain"]["target"]


def test_a_case_of_one_stain_is_not_continued_with_another(small_slide, tmp_path):
    graded(small_slide.path, tmp_path / "case", stain="macenko")
    with pytest.raises(CaseDiffers, match="stain"):
        graded(small_slide.path, tmp_path / "case", stain="reinhard")
