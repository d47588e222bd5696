"""`digipath explain` as a user meets it: a tile's heat, a volume's on its own grid, and one line for what is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from digipath.cli import explain as verb
from digipath.cli import main
from digipath.explanations import METHODS, explain
from digipath.report.figures import colours

sys.path.insert(0, str(Path(__file__).parent))
import made_up_graders

NOTICE = "For research use only. Not for diagnostic procedures."
MODALITIES = made_up_graders.ORDER


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run `digipath explain` in an empty folder; returns (exit code, output, error lines)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path / "home"))

    def command(*words):
        capfd.readouterr()  # what the test's own import of Keras said
        try:
            code = main(["explain", *(str(word) for word in words)])
        except SystemExit as stop:  # argparse
            code = stop.code
        seen = capfd.readouterr()
        return code, seen.out, seen.err.splitlines()

    return command


def refused(outcome, message):
    code, out, err = outcome
    assert (code, out, len(err)) == (2, "", 1), outcome
    assert err[0].startswith("digipath: ")
    assert message in err[0]


@pytest.fixture
def tile(tmp_path):
    """A tile of grade 4 as the shipped grader takes it, 512 px."""
    from digipath.synthetic.glioma_textures import grade_tile

    pixels = grade_tile("grade 4", 512, seed=1)
    Image.fromarray(pixels).save(tmp_path / "tile.png")
    return pixels


@pytest.fixture
def patient(tmp_path):
    """The MRI of a patient as options, and a function that writes a grader for it."""
    files = made_up_graders.write_patient(tmp_path / "patient7")
    options = [word for name in MODALITIES for word in (f"--{name}", files[name])]

    def grader(name="mine", **how):
        return made_up_graders.write_grader(tmp_path / "home" / "weights", name, **how)

    return options, files["tumour"], grader


def shipped_input(pixels):
    return pixels * np.float32(1 / 127.5) - 1


def test_methods_are_those_that_exist():
    assert verb.METHODS == METHODS


@pytest.mark.keras
def test_a_tile_becomes_colours_or_numbers(run, tile, tmp_path):
    """By the shipped weights: the grade that they call is said, and shown; the numbers are those of `explain`."""
    from digipath.networks import load

    code, out, _ = run("tile.png")
    network, pixels = load("glioma-tiles-demo-v1"), shipped_input(tile)
    probabilities = np.asarray(network(pixels[None]))[0]
    assert code == 0
    name = "tile.glioma-tiles-demo-v1.grade-4.grad-cam.png"
    assert out.splitlines() == [f"grade 4, probability {probabilities[2]:.3f}", f"explanation: {name}", NOTICE]
    assert probabilities.argmax() == 2
    heat = explain(network, pixels, target=2)
    assert (heat.shape, heat.max()) == ((512, 512), 1)
    with Image.open(tmp_path / name) as picture:
        shown = np.asarray(picture).astype(int)
    assert np.abs(shown - colours(heat)).max() <= 4  # a step of the 256, where rounding falls otherwise
    code, out, _ = run("tile.png", "--target", "grade 2", "--layer", "layer3_1_relu2", "--out", "heat.npy")
    assert out.startswith(f"grade 2, probability {probabilities[0]:.3f}\n")
    expected = explain(network, pixels, target=0, layer="layer3_1_relu2")
    np.testing.assert_allclose(np.load(tmp_path / "heat.npy"), expected, atol=1e-5)


@pytest.mark.keras
def test_the_check_and_all_else_as_json(run, patient, tmp_path):
    options, _, grader = patient
    grader()
    words = (*options, "--weights", "mine", "--method", METHODS[1], "--out", "heat.nii.gz", "--check", "--json")
    code, out, err = run(*words)
    found = json.loads(out)
    check, probabilities = found.pop("check"), found.pop("probabilities")
    assert (code, err) == (0, [])
    assert list(probabilities) == made_up_graders.CLASSES
    assert sum(probabilities.values()) == pytest.approx(1)
    called = max(probabilities, key=probabilities.get)
    assert found.pop("probability") == probabilities[called]
    assert isinstance(found.pop("notes"), list)
    assert found == {"file": "heat.nii.gz", "weights": "mine", "class": called}
    assert check["shared"] == pytest.approx(np.mean(check["correlations"]))
    assert check["alike"] == pytest.approx(np.median(np.abs(check["correlations"])))
    assert len(check["correlations"]) == len(set(check["correlations"])) == 10
    assert check["passed"] == (abs(check["shared"]) <= 0.3 and check["alike"] <= 0.5)
    assert (tmp_path / "heat.nii.gz").exists()


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (
            ((0.1, -0.3), 1),
            "check: passed, rank correlation with 2 networks of {}: mean -0.10 (at most 0.3 either way), "
            "median without signs 0.20 (at most 0.5)",
        ),
        (
            ((0.9,), 0),
            "check: FAILED, rank correlation with 1 network of {}: mean 0.90 (at most 0.3 either way), "
            "median without signs 0.90 (at most 0.5)",
        ),
        (((), 4), "check: FAILED, the explanation is constant, or that of every network of random weights"),
    ],
)
def test_the_check_in_words(check, words):
    from digipath.explanations import RandomisationCheck

    assert verb._in_words(RandomisationCheck(*check)) == words.format("random weights")


@pytest.mark.keras
@pytest.mark.parametrize("method", METHODS)
def test_a_volume_is_explained_on_its_own_grid(run, patient, tmp_path, method):
    """Stored to the left and the back, as scanners do; written in RAS with the affine of `open_volumes`."""
    import nibabel

    from digipath.volume import open_volumes

    options, _, grader = patient
    grader()
    code, out, _ = run(*options, "--weights", "mine", "--method", method, "--target", "grade 3")
    assert code == 0
    assert out.splitlines()[0].startswith("grade 3, probability 0.")
    assert f"explanation: patient7.mine.grade-3.{method}.nii.gz" in out
    image = nibabel.load(tmp_path / f"patient7.mine.grade-3.{method}.nii.gz")
    volume = open_volumes({name: tmp_path / "patient7" / f"{name}.nii.gz" for name in MODALITIES})
    np.testing.assert_allclose(image.affine, volume.affine_mm)
    heat = np.asarray(image.dataobj)
    assert (heat.shape, heat.dtype) == (volume.shape_vox, np.float32)
    assert heat.min() >= 0
    assert 0.5 < heat.max() <= 1


@pytest.mark.keras
def test_explanations_of_other_patients_classes_and_networks_have_other_names(run, patient, tmp_path):
    """Also where all patients' files lie in folders of one name, as in BIDS."""
    options, _, grader = patient
    grader()
    grader("other", order=("t1c",))
    for subject in ("sub-01", "sub-02"):
        (tmp_path / subject / "anat").mkdir(parents=True)
        path = tmp_path / subject / "anat" / f"{subject}_ce-gadolinium_T1w.nii.gz"
        path.write_bytes((tmp_path / "patient7" / "t1c.nii.gz").read_bytes())
        assert run("--volume", path, "--weights", "other", "--target", "grade 2")[0] == 0
    for words in (("--layer", "res3"), ("--layer", "res4"), ("--weights", "other")):
        assert run(*options, "--weights", "mine", "--target", "grade 4", *words)[0] == 0
    assert {path.name for path in tmp_path.glob("*.nii.gz")} == {
        "sub-01.other.grade-2.grad-cam.nii.gz", "sub-02.other.grade-2.grad-cam.nii.gz",
        "patient7.mine.grade-4.grad-cam.res3.nii.gz", "patient7.mine.grade-4.grad-cam.res4.nii.gz",
        "patient7.other.grade-4.grad-cam.nii.gz",
    }  # fmt: skip


class Brightness:
    """In the place of a card's network: the brighter a voxel of the region, the more it speaks for the last class."""

    def __new__(cls, grader, graders):
        import keras
        from keras import layers

        size, channels = grader.rule.size, 3 if len(grader.rule.size) == 2 else len(grader.rule.order)
        image = keras.Input((*size, channels))
        conv = {2: layers.Conv2D, 3: layers.Conv3D}[len(size)]
        mean = {2: layers.GlobalAveragePooling2D, 3: layers.GlobalAveragePooling3D}[len(size)]
        x = layers.ReLU()(conv(1, 1, kernel_initializer="ones")(image))
        x = layers.Dense(len(grader.card.classes), name="logits")(mean()(x))
        network = keras.Model(image, layers.Activation("softmax")(x))
        network.get_layer("logits").set_weights([np.array([[-1.0, 0.0, 1.0]]), np.zeros(3)])
        return network


@pytest.mark.keras
@pytest.mark.parametrize("roi", ["brain", "tumour", "slice"])
def test_a_voxel_comes_back_at_its_millimetre(run, patient, tmp_path, monkeypatch, roi):
    """Marked in the files as they are stored, found by the explanation's own affine; less than a voxel away."""
    import nibabel

    from digipath.grading import volume_networks

    options, tumour, grader = patient
    marked = (8, 12, 9)  # in the tumour, of the stored file
    for name in MODALITIES:
        path = tmp_path / "patient7" / f"{name}.nii.gz"
        stored = nibabel.load(path)
        values = np.asarray(stored.dataobj).copy()
        values[marked] = 2000
        nibabel.save(nibabel.Nifti1Image(values, stored.affine), path)
    grader(roi=roi, order=("t1c",) if roi == "slice" else MODALITIES)
    monkeypatch.setattr(volume_networks, "network", Brightness)
    words = () if roi == "brain" else ("--tumour", tumour)
    words += ("--slice", "9") if roi == "slice" else ()
    words += ("--weights", "mine", "--target", "grade 4", "--out", "heat.nii.gz")
    code, _, _ = run(*options, *words)
    assert code == 0
    image = nibabel.load(tmp_path / "heat.nii.gz")
    heat = np.asarray(image.dataobj)
    found = np.unravel_index(heat.argmax(), heat.shape)
    found_mm, marked_mm = image.affine @ (*found, 1), made_up_graders.AFFINE @ (*marked, 1)
    assert (np.abs(found_mm - marked_mm)[:3] <= (2, 2, 3)).all()
    if roi == "slice":
        assert found_mm[2] == marked_mm[2]
        assert np.flatnonzero(heat.any(axis=(0, 1))).tolist() == [9]


@pytest.mark.keras
def test_the_check_of_a_volume_looks_at_the_brain_alone(run, patient, monkeypatch):
    from digipath import explanations
    from digipath.grading import explained

    options, _, grader = patient
    grader()
    seen = []

    def check(network, pixels, **given):
        seen.append(given)
        return explanations.RandomisationCheck((0.1,))

    monkeypatch.setattr(explained, "randomisation_check", check)
    code, out, _ = run(*options, "--weights", "mine", "--check")
    assert code == 0
    assert "check: passed, rank correlation with 1 network of random weights: mean 0.10" in out
    inside = seen[0]["inside"]
    assert inside.shape == (16, 16, 16)
    assert 0.3 < inside.mean() < 0.7  # an ellipsoid is 0.52 of its box
    assert inside[8, 8, 8]
    assert not inside[0, 0, 0]


def test_bad_usage_is_one_line(run, tile, tmp_path):
    refused(run(), "one of the two")
    refused(run("tile.png", "--t1", "t1.nii.gz"), "one of the two")
    refused(run("missing.png"), "missing.png")
    for option in ("brain", "tumour", "slice"):
        refused(run("tile.png", f"--{option}", "5"), f"expected MRI for --{option}, got an image of a tile; leave")
    refused(run("tile.png", "--out", "heat.jpg"), "an output file that ends in .png or .npy, got heat.jpg")
    refused(run("--t1", "t1.nii.gz", "--out", "heat.png"), "an output file that ends in .nii.gz, got heat.png")
    refused(run("tile.png", "--weights", "nothing"), "nothing")
    refused(run("tile.png", "--weights", "lymphnode-ensemble-v1"), "weights that grade tiles")
    Image.fromarray(tile[:100]).save(tmp_path / "small.png")
    refused(run("small.png"), "a tile of 512 × 512 px at 0.5 µm/px")
    assert run("tile.png", "--method", "lime")[0] == 2
    assert [path.name for path in tmp_path.iterdir() if "grad-cam" in path.name] == []


@pytest.mark.keras
def test_questions_without_an_answer_are_one_line(run, tile, tmp_path):
    refused(run("tile.png", "--target", "grade 9"), "a class among grade 2, grade 3, grade 4, got 'grade 9'")
    refused(run("tile.png", "--layer", "conv99"), "has no layer 'conv99'")
    refused(run("tile.png", "--layer", "relu1", "--method", METHODS[1]), "goes back to the image itself")
    refused(run("tile.png", "--out", "nowhere/heat.png"), "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.keras
def test_volumes_that_do_not_suit_the_network_are_one_line(run, patient, tmp_path):
    options, _, grader = patient
    grader("of tumours".replace(" ", "-"), roi="tumour")
    grader("first")
    made_up_graders.write_ensemble(tmp_path / "home" / "weights", "both", ["first", "of-tumours"])
    refused(run(*options, "--weights", "of-tumours"), "the tumour is not outlined (--tumour FILE)")
    refused(run(*options[:2], "--weights", "first"), "t1c, t2, flair not given")
    refused(run(*options[:2], "--weights", "both"), "first: t1c, t2, flair not given; of-tumours: t1c, t2")
    refused(run(*options, "--weights", "glioma-tiles-demo-v1"), "weights that grade MRI volumes")
    refused(run("--t1", tmp_path / "none.nii.gz", "--weights", "first"), "none.nii.gz")


@pytest.mark.keras
def test_of_an_ensemble_the_first_network_that_can_is_explained(run, patient, tmp_path):
    options, _, grader = patient
    grader("of-tumours", roi="tumour")
    grader("first")
    made_up_graders.write_ensemble(tmp_path / "home" / "weights", "both", ["of-tumours", "first"])
    code, said, _ = run(*options, "--weights", "both", "--json", "--out", tmp_path / "heat.nii.gz")
    found = json.loads(said)
    assert code == 0
    assert found["weights"] == "first"
    assert "Of several networks first is explained; name another by --weights: of-tumours." in found["notes"]
