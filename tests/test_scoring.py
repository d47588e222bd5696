"""Scores that add up: known values, agreement with the exact ones, what counts and what does not."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from digipath import networks
from digipath.cli import main
from digipath.errors import BadInput, Cancelled
from digipath.evaluation import evaluate
from digipath.measure.confusion import Confusion
from digipath.scoring import Sample, Scoring, score_cases, summary
from digipath.synthetic import write_slide

sys.path.insert(0, str(Path(__file__).parent))
import fakes


def confusion(truth, probability, threshold=0.5):
    return Confusion.of(np.array(truth, bool), np.array(probability, np.float32), threshold)


def test_known_values():
    counts = confusion([1, 1, 1, 0, 0, 0, 0, 0], [0.9, 0.8, 0.1, 0.6, 0.1, 0.2, 0.3, 0.4])
    assert (counts.positives, counts.negatives, list(counts.found)) == (3, 5, [1, 2])
    assert counts.dice == pytest.approx(2 * 2 / (3 + 3))
    assert counts.jaccard == pytest.approx(2 / 4)
    assert counts.false_positive_share == pytest.approx(1 / 5)
    assert counts.all_positive_dice == pytest.approx(2 * 3 / (8 + 3))
    assert counts.auroc == pytest.approx((5 + 5 + 0.5) / 15)


def test_the_threshold_itself_is_positive():
    assert list(confusion([1, 0], [0.25, 0.25], 0.25).found) == [1, 1]


@pytest.mark.parametrize(
    ("truth", "dice", "auroc", "share"), [([0, 0], 1.0, None, 0.0), ([1, 1], 0.0, None, None)]
)
def test_one_class_only(truth, dice, auroc, share):
    counts = confusion(truth, [0.1, 0.2])
    assert (counts.dice, counts.auroc, counts.false_positive_share) == (dice, auroc, share)


def test_nothing_at_all():
    none = Confusion.none()
    assert (none.dice, none.auroc, none.all_positive_dice) == (1.0, None, 1.0)


def test_auroc_is_exact_to_a_thousandth_also_where_probabilities_crowd():
    rng = np.random.default_rng(0)
    truth = rng.random(50_000) < 0.2
    odds = rng.normal(np.where(truth, 1.0, -1.0), 1.5) * 6  # half of them beyond 0.001 and 0.999
    probability = (1 / (1 + np.exp(-odds))).astype(np.float32)
    exact = roc_auc_score(truth, probability)
    assert confusion(truth, probability).auroc == pytest.approx(exact, abs=1e-3)
    assert confusion(truth, np.full(50_000, 0.3)).auroc == 0.5


def test_pooling_is_counting_all_pixels_together():
    rng = np.random.default_rng(1)
    truth, probability = rng.random(999) < 0.3, rng.random(999)
    whole = confusion(truth, probability)
    parts = Confusion.pooled(confusion(truth[k::3], probability[k::3]) for k in range(3))
    assert (whole.histogram == parts.histogram).all()
    assert (whole.dice, whole.auroc) == (parts.dice, parts.auroc)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(BadInput, match="one shape"):
        confusion([1, 0], [0.5])
    with pytest.raises(BadInput, match="NaN"):
        confusion([1, 0], [0.5, np.nan])


def test_summary_of_cases():
    lesion = confusion([1, 1, 0, 0], [0.9, 0.1, 0.1, 0.1])
    clean = confusion([0, 0, 0, 0], [0.9, 0.1, 0.1, 0.1])
    found = summary([("a", lesion), ("b", clean)])
    assert found["count"] == 2
    assert found["mean_dice"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["pooled_dice"] == pytest.approx(2 / 4)
    assert found["false_positive_share"] == pytest.approx(1 / 4)
    assert summary([("a", lesion)])["false_positive_share"] is None


@pytest.fixture
def halves(tmp_path):
    """An image whose right half is red, and its mask."""
    truth = np.zeros((64, 80), np.uint8)
    truth[:, 40:] = 255
    Image.fromarray(np.dstack([truth, truth * 0, truth * 0])).save(tmp_path / "image.png")
    Image.fromarray(truth).save(tmp_path / "mask.png")
    return Sample("halves", tmp_path / "image.png", tmp_path / "mask.png", mpp=0.5)


def blackness(patches):
    """The contrary of redness."""
    return 1 - fakes.redness(patches)


blackness.patch, blackness.classes = fakes.redness.patch, fakes.redness.classes


def test_each_network_and_their_mean_in_one_pass(halves):
    both = networks.own([fakes.redness, blackness])
    (scored,) = score_cases([halves], both, Scoring(overlap=0.0, views=2))
    red, black = scored.networks
    assert (red.dice, red.auroc) == (1.0, 1.0)
    assert (black.dice, black.auroc) == (0.0, 0.0)
    assert scored.together.auroc == 0.5
    assert scored.together.dice == pytest.approx(2 / 3)  # one half everywhere is called positive
    assert (scored.coverage.predicted, scored.missed_px) == (64 * 80, 0)


def test_a_case_without_annotation_has_no_positive_pixel(halves):
    sample = Sample("clean", halves.image, None, mpp=0.5)
    (scored,) = score_cases([sample], networks.own([fakes.redness]), Scoring(overlap=0.0))
    assert scored.together.positives == 0
    assert scored.together.false_positive_share == 0.5


def test_slides_are_scored_within_their_tissue(tmp_path):
    made = write_slide(tmp_path / "s.tiff", (1600, 1200), tile=256, pieces=1, failed_tiles=[(2, 2)])
    inside, outside = made.tumours[0], [[0, 0], [90, 0], [90, 60], [0, 60]]
    path = tmp_path / "s.geojson"
    path.write_text(json.dumps({"type": "MultiPolygon", "coordinates": [
        [[*inside.tolist(), inside[0].tolist()]], [[*outside, outside[0]]],
    ]}))  # fmt: skip
    sample = Sample("s", made.path, path)
    (scored,) = score_cases([sample], networks.own([fakes.redness]), Scoring(overlap=0.0))
    counts = scored.together
    assert counts.positives + counts.negatives == scored.coverage.predicted < 1600 * 1200
    assert scored.coverage.read_failed == 256 * 256
    assert scored.missed_px == pytest.approx(90 * 60, rel=0.05)
    (whole,) = score_cases(
        [Sample("s", made.path, path, whole=True)], networks.own([fakes.redness]), Scoring(overlap=0.0)
    )
    assert (whole.coverage.tissue, whole.missed_px) == (1600 * 1200, 0)


def test_progress_and_cancel(halves):
    seen = []
    cases = score_cases([halves, halves], networks.own([fakes.redness]), Scoring(), progress=seen.append)
    assert len(list(cases)) == 2
    assert [(report.done, report.total, report.message) for report in seen] == [(0, 2, "halves"), (1, 2, "halves")]
    with pytest.raises(Cancelled):
        list(score_cases([halves], networks.own([fakes.redness]), Scoring(), cancel=lambda: True))


def test_several_positive_classes_are_refused(halves):
    with pytest.raises(BadInput, match="one positive class"):
        list(score_cases([halves], networks.own([fakes.identity]), Scoring()))


def test_evaluate_the_cases_of_a_manifest(halves, tmp_path):
    pixels = np.asarray(Image.open(halves.image)).copy()
    pixels[0, 0] = 9
    Image.fromarray(pixels).save(tmp_path / "other.png")
    (tmp_path / "cases.csv").write_text(
        "slide,annotation,patient,fold,mpp\nimage.png,mask.png,a,test,0.5\nother.png,,b,train,0.5\n"
    )
    found = evaluate(manifest=tmp_path / "cases.csv", fold="test", predictors=[fakes.redness])
    assert (found["count"], found["pooled_dice"], found["pixel_auroc"]) == (1, 1.0, 1.0)
    both = evaluate(manifest=tmp_path / "cases.csv", predictors=[fakes.redness])
    assert (both["count"], both["false_positive_share"]) == (2, 0.5)
    with pytest.raises(BadInput, match="no case has the fold 'tset'; the manifest has test, train"):
        evaluate(manifest=tmp_path / "cases.csv", fold="tset", predictors=[fakes.redness])
    with pytest.raises(BadInput, match="not both"):
        evaluate(tmp_path, tmp_path, manifest=tmp_path / "cases.csv", predictors=[fakes.redness])
    with pytest.raises(BadInput, match="or a manifest"):
        evaluate(tmp_path, tmp_path, predictors=[fakes.redness])


def test_evaluate_cases_without_any_lesion(halves, tmp_path):
    (tmp_path / "cases.csv").write_text("slide,patient,fold,mpp,label\nimage.png,a,01,0.5,normal\n")
    found = evaluate(manifest=tmp_path / "cases.csv", fold="01", predictors=[fakes.redness])
    assert (found["count"], found["false_positive_share"], found["pixel_auroc"]) == (1, 0.5, None)


def test_evaluate_by_outlines_with_labels_of_ones_own(halves, tmp_path, monkeypatch, capsys):
    """The tumour is called "Nest"; half of it is cut out as "Necrosis"."""
    with Image.open(halves.image) as image:
        width, height = image.size
    areas = {"Nest": [0, 0, width, height], "Necrosis": [0, 0, width, height / 2]}
    features = [
        {
            "type": "Feature",
            "properties": {"classification": {"name": label}},
            "geometry": {"type": "Polygon", "coordinates": [[[x, y], [X, y], [X, Y], [x, Y], [x, y]]]},
        }
        for label, (x, y, X, Y) in areas.items()
    ]
    (tmp_path / "a.geojson").write_text(json.dumps(features))
    (tmp_path / "cases.csv").write_text("slide,annotation,patient,mpp\nimage.png,a.geojson,a,0.5\n")
    monkeypatch.chdir(Path(__file__).parent)
    words = ["evaluate", "--manifest", str(tmp_path / "cases.csv"), "--predictor", "fakes:redness", "--json"]
    assert main(words) == 2
    assert "received ['Necrosis', 'Nest']" in capsys.readouterr().err
    assert main([*words, "--positive", "Nest", "--negative", "Necrosis"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["all_positive_pooled_dice"] == pytest.approx(2 * 0.5 / (0.5 + 1))


def test_evaluate_says_how_much_lesion_lies_outside_the_tissue(tmp_path):
    made = write_slide(tmp_path / "s.tiff", (1600, 1200), tile=256, pieces=1)
    ring = [[0, 0], [90, 0], [90, 60], [0, 60], [0, 0]]
    (tmp_path / "s.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    (tmp_path / "cases.csv").write_text(f"slide,annotation,patient\n{made.path.name},s.geojson,a\n")
    found = evaluate(manifest=tmp_path / "cases.csv", predictors=[fakes.redness], overlap=0.0)
    assert found["lesion_px_outside_tissue"] == pytest.approx(90 * 60, rel=0.05)


def test_two_masks_for_one_image_are_refused(halves, tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    shutil.copy(halves.image, tmp_path / "images" / "a.png")
    for name in ("a.png", "a.tif"):
        shutil.copy(halves.annotation, tmp_path / "masks" / name)
    with pytest.raises(BadInput, match=r"one mask of each name.*two like a\.png"):
        evaluate(tmp_path / "images", tmp_path / "masks", mpp=0.5, predictors=[fakes.redness])


def test_an_overlap_with_nothing_is_no_score():
    found = summary([("clean", confusion([0, 0, 0, 0], [0.9, 0.1, 0.1, 0.1]))])
    undefined = ("pooled_dice", "pooled_jaccard", "all_positive_pooled_dice", "pixel_auroc")
    assert [found[name] for name in undefined] == [None] * 4
    assert (found["mean_dice"], found["false_positive_share"]) == (0.0, 0.25)
