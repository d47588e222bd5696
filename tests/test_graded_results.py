"""Results of `grade` read again: at other thresholds, and after an interruption."""

from __future__ import annotations

import fakes
import pytest

import digipath
from digipath.grading import slide_case as case


def graded(slide, out, **options):
    return digipath.grade(slide, predictors=[fakes.grader], out=out, tissue="all", gallery=0, **options)


def test_a_report_that_was_interrupted_is_written_again(small_slide, tmp_path, monkeypatch):
    graded(small_slide.path, tmp_path / "case", tile=128)
    written = case.write_grade_report

    def interrupted(*arguments, **options):
        written(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(case, "write_grade_report", interrupted)
    with pytest.raises(KeyboardInterrupt):
        graded(small_slide.path, tmp_path / "case", tile=128, least_confidence=0.99)
    monkeypatch.undo()
    again = graded(small_slide.path, tmp_path / "case", tile=128).slides[0]
    assert again.summary["least_confidence"] == 0.5
    assert again.run["reading"]["least_confidence"] == 0.5


def test_a_readout_is_by_the_thresholds_that_the_slide_was_graded_with(small_slide, tmp_path):
    result = graded(small_slide.path, tmp_path / "case", tile=128, least_share=0.25, least_confidence=0.75)
    assert (result.readout().least_share, result.readout().least_confidence) == (0.25, 0.75)
    assert result.slides[0].readout(least_share=0.5).least_confidence == 0.75
