"""From MRI to cards that grade it: small networks, few cases, everything real."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from made_up_mri import CLASSES, CONFIG, write_cases

import digipath
from digipath.cli import main
from digipath.errors import Cancelled, CaseDiffers
from digipath.grading import volume_networks
from digipath.training.grading_results import ALL, CASE, Answers
from digipath.training.volume_config import volume_example
from digipath.volume_rois import region_of
from digipath.weights import load_card

VARIANT = """
[[variant]]
name = "slices"
[variant.network]
name = "resnet18"
config = { widths = [4, 4, 4, 8] }
class_weights = true
scale = 0.01
offset = -1.0
[variant.volume]
order = ["t1c"]
roi = "slice"
size = [32, 32]
[variant.augmentation]
preset = "conventional"
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Fifteen cases of three classes, and configurations."""
    folder = tmp_path_factory.mktemp("data")
    write_cases(folder, 15)
    (folder / "my.toml").write_text(CONFIG + VARIANT)
    (folder / "folds.toml").write_text(CONFIG.replace("[network]", "[split]\nfolds = 3\nvalidation = 0\n[network]"))
    return folder


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def untouched(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", "state.json")}


def test_the_example_is_printed(capfd):
    assert main(["train", "--example", "volumes"]) == 0
    assert capfd.readouterr().out == volume_example()


@pytest.mark.keras
def test_dry_run_prints_the_plan_and_writes_nothing(data, monkeypatch, capfd):
    monkeypatch.chdir(data)
    before = sorted(data.iterdir())
    assert main(["train", "--config", "my.toml", "--out", "out", "--dry-run", "--json"]) == 0
    lines = json.loads(capfd.readouterr().out)["plan"]
    assert lines[0] == "15 cases of 15 patients: cases.csv"
    assert lines[-1] == "shipped as blobs-v1: base-1, one network"
    (data / "wrong.toml").write_text(CONFIG.replace("cases.csv", "none.csv"))
    assert main(["train", "--config", "wrong.toml", "--out", "out"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "none.csv" in line
    (data / "wrong.toml").unlink()
    assert sorted(data.iterdir()) == before


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Two networks, stopped while regions were made, while the first was trained and while it was scored."""
    out, seen = tmp_path_factory.mktemp("trained") / "out", []
    for sign in ("regions/*.npy", "runs/base-1/checkpoint.npz", "scores/base-1.npz"):
        with pytest.raises(Cancelled):
            digipath.train(
                data / "my.toml", out=out, cancel=lambda sign=sign: any(out.glob(sign)), progress=seen.append
            )
    assert not (out / "results.json").exists()
    result = digipath.train(data / "my.toml", out=out, progress=seen.append)
    messages = [report.message for report in seen]
    assert len([message for message in messages if message.startswith("preparing c")]) == 15
    assert messages[-1].startswith("scoring slices-1: c")
    return result


@pytest.mark.slow
@pytest.mark.keras
def test_a_stopped_training_goes_on_to_the_same_bytes(trained, data, tmp_path):
    again = digipath.train(data / "my.toml", out=tmp_path / "out")
    files = sorted(path.relative_to(trained.folder) for path in trained.folder.glob("regions/*"))
    files += [f"scores/{name}.npz" for name in ("base-1", "slices-1")] + ["scores.csv"]
    for file in files:
        assert (again.folder / file).read_bytes() == (trained.folder / file).read_bytes(), file
    for name in ("blobs-v1", "blobs-v1-slices-1"):
        one, other = (load_card(str(r.folder / "weights" / f"{name}.json")) for r in (trained, again))
        assert one.record["sha256"] == other.record["sha256"]


@pytest.mark.slow
@pytest.mark.keras
def test_cards_say_what_they_see_and_answer_as_they_were_scored(trained, data):
    from digipath.volume import open_volumes

    assert [path.stem for path in trained.cards] == ["blobs-v1", "blobs-v1-slices-1"]
    for path, run in zip(trained.cards, ("base-1", "slices-1"), strict=True):
        graders = volume_networks.published(str(path))
        (grader,) = graders.members
        assert (graders.classes, grader.card.output) == (CLASSES, "volume")
        model, kept = volume_networks.network(grader, graders), Answers.load(trained.folder / "scores" / f"{run}.npz")
        assert kept.truth.tolist() == [int(name[1:]) % 3 for name in kept.slides]
        assert len(kept.truth) == 3
        assert kept.cases.tolist() == kept.slides.tolist()
        assert kept.patients.tolist() == [f"p{name[1:]}" for name in kept.slides]
        for name, expected in zip(kept.slides, kept.probabilities, strict=True):
            files = {modality: data / name / f"{modality}.nii.gz" for modality in grader.rule.order}
            region = region_of(open_volumes(files, tumour=data / name / "tumour.nii.gz"), grader.rule)
            found = volume_networks.answer(model, volume_networks.network_input(grader, region))
            np.testing.assert_allclose(found, expected, atol=1e-5)
        right = np.mean(kept.probabilities.argmax(axis=1) == kept.truth)
        assert trained.scores[run][ALL][CASE]["metrics"]["accuracy"] == pytest.approx(right)
    brain, flat = (load_card(str(path)).record for path in trained.cards)
    assert (brain["input"]["roi"], brain["input"]["size"], "scale" in brain["input"]) == ("brain", [16, 16, 16], False)
    assert (flat["input"]["roi"], flat["input"]["scale"], flat["input"]["offset"]) == ("slice", 0.01, -1)
    assert brain["training"]["class_weights"] == flat["training"]["class_weights"] == [1, 1, 1]
    assert any("outlined by people" in limit for limit in flat["limits"])
    assert not any("outlined by people" in limit for limit in brain["limits"])
    assert all("nothing in training saw" in metric["split"] for metric in brain["metrics"])


@pytest.mark.slow
@pytest.mark.keras
def test_what_a_training_leaves(trained):
    assert {row["run"] for row in read_rows(trained.folder / "scores.csv")} == {"base-1", "slices-1"}
    assert {row["level"] for row in read_rows(trained.folder / "scores.csv")} == {"case"}
    compared = trained.record["comparisons"]
    assert {(one["first"], one["second"]) for one in compared} == {("base holdout", "slices holdout")}
    summary = (trained.folder / "summary.md").read_text()
    assert "| base holdout | case | " in summary
    assert "| recall of grade 4 | " in summary
    assert "confusion" in (trained.folder / "evaluation.html").read_text().lower()
    assert trained.record["folds"] == {}


@pytest.mark.slow
@pytest.mark.keras
def test_a_finished_training_is_not_repeated_and_another_is_refused(trained, data, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained.folder, copy)
    shutil.rmtree(copy / "regions")  # which may go when all is done
    before = untouched(copy)
    digipath.train(data / "my.toml", out=copy)
    assert untouched(copy) == before
    with pytest.raises(CaseDiffers, match=r"another config \(seed: 0, now 1\)"):
        digipath.train(data / "my.toml", out=copy, seed=1)
    (data / "words.toml").write_text((data / "my.toml").read_text().replace('v1"\n', 'v1"\nlicence = "CC0-1.0"\n', 1))
    again = digipath.train(data / "words.toml", out=copy)
    assert all(load_card(str(path)).record["licence"] == "CC0-1.0" for path in again.cards)
    assert not (copy / "regions").exists()
    kept = [path for path in before if path.suffix in (".h5", ".npz")]
    assert {path: path.stat().st_mtime_ns for path in kept} == {path: before[path] for path in kept}


@pytest.mark.slow
@pytest.mark.keras
def test_a_cross_validation_ships_the_networks_of_all_folds(data, tmp_path):
    result = digipath.train(data / "folds.toml", out=tmp_path / "out")
    names = [f"blobs-v1-base-1-fold{number}" for number in range(3)]
    assert [path.stem for path in result.cards] == ["blobs-v1", *names]
    together = load_card(str(result.card)).record
    assert (together["kind"], together["members"]) == ("ensemble", names)
    assert len(volume_networks.published(str(result.card)).members) == 3
    parts = [Answers.load(tmp_path / "out" / "scores" / f"base-1-fold{number}.npz") for number in range(3)]
    pooled = Answers.joined(parts)
    assert sorted(pooled.slides) == sorted(f"c{number}" for number in range(15))
    right = [part.probabilities.argmax(axis=1) == part.truth for part in parts]
    found = result.scores["base-1"][ALL][CASE]["metrics"]["accuracy"]
    assert found == pytest.approx(np.mean(np.concatenate(right)))
    spread = result.record["folds"]["base-1"]["spread"][ALL]["accuracy"]
    each = [np.mean(one) for one in right]
    assert spread["mean"] == pytest.approx(np.mean(each))
    assert spread["standard_deviation"] == pytest.approx(np.std(each, ddof=1))
    accuracy = next(metric for metric in together["metrics"] if metric["name"] == "accuracy, cases")
    assert (accuracy["value"], accuracy["spread"]) == pytest.approx((found, spread["standard_deviation"]), abs=1e-4)
    assert "held-out folds" in accuracy["split"]
    assert {run["stopped"] for run in result.record["runs"].values()} == {"epochs"}  # nothing validates
    alone = load_card(str(result.cards[1])).record["metrics"]
    assert alone[0]["value"] == pytest.approx(each[0], abs=1e-4)
    assert "Mean ± standard deviation over the folds." in (tmp_path / "out" / "summary.md").read_text()
