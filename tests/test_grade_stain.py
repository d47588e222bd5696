"""Slides whose stain is normalised before they are graded."""

from __future__ import annotations

import fakes
import numpy as np
import pytest
from PIL import Image

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


def test_a_case_is_not_continued_where_the_picture_of_the_stain_was_exchanged(small_slide, tmp_path):
    """Its name is the same, what it asks for is not; nor may two cards differ in this alone."""
    with digipath.open_slide(small_slide.path) as slide:
        pixels, _ = slide.read_block(300, 400, 512, 512, mpp=None)
    stain = tmp_path / "stain.png"
    Image.fromarray(pixels).save(stain)
    graded(small_slide.path, tmp_path / "case", stain=stain)
    graded(small_slide.path, tmp_path / "case", stain=stain)
    Image.fromarray((255 - (255 - pixels) * 0.7).astype(np.uint8)).save(stain)
    with pytest.raises(CaseDiffers, match="stain"):
        graded(small_slide.path, tmp_path / "case", stain=stain)
