"""Networks that grade MRI: their answers are those of the network itself, and explanations lie where they belong."""

from __future__ import annotations

import json
import shutil

import nibabel
import numpy as np
import pytest
from made_up_graders import AFFINE, SHAPE, write_ensemble, write_grader, write_patient
from made_up_votes import GRADES, answered, write_card

import digipath
from digipath.errors import BadCard, BadInput, BadPredictor
from digipath.grading import volume_networks
from digipath.grading.volume_files import OpenedVolume, VolumeFiles
from digipath.volume import open_volumes
from digipath.volume_rois import on_grid

MODALITIES = ("t1", "t1c", "t2", "flair")
SAGITTAL = np.array([[0, 0, 3.0, -30], [-2.0, 0, 0, 25], [0, -2.0, 0, 40], [0, 0, 0, 1]])
TURN = np.array([[0.96, -0.28, 0, 0], [0.28, 0.96, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])  # by 16° about the axis
MARKED = (7, 10, 8)  # voxel of the files, in the tumour


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return write_patient(tmp_path_factory.mktemp("mri") / "patient-7")


def marked_patient(folder, affine):
    """The same patient's files on another grid, one voxel of T1c far brighter than all others."""
    found = write_patient(folder)
    for name, path in found.items():
        values = np.asanyarray(nibabel.load(path).dataobj).copy()
        if name == "t1c":
            values[MARKED] = 2000
        nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return found


def brightest(pixels, method, target):
    """Where the first channel is largest: 1 there, 0 elsewhere."""
    heat = np.zeros(pixels.shape[:-1], np.float32)
    heat[np.unravel_index(pixels[..., 0].argmax(), heat.shape)] = 1
    return heat


@pytest.mark.parametrize("affine", [AFFINE, SAGITTAL, TURN @ AFFINE], ids=["axial", "sagittal", "turned"])
@pytest.mark.parametrize(
    ("roi", "size", "within_vox"),
    [
        ("brain", None, 0),  # of the brain's own size: nothing is resized
        ("tumour", (16, 16, 16), 1),
        ("brain", (12, 12, 12), 1),
        ("slice", (32, 32), 1),
    ],
)
def test_a_marked_voxel_comes_back_at_its_millimetre(tmp_path, monkeypatch, affine, roi, size, within_vox):
    files = marked_patient(tmp_path / "patient", affine)
    tumour = files.pop("tumour")
    volume = open_volumes(files)
    if size is None:
        inside = np.argwhere(volume.brain)
        size = tuple((inside.max(axis=0) - inside.min(axis=0) + 1).tolist())
    card = write_card(tmp_path, "one-v1", order=["t1c"], roi=roi, size=size, margin_vox=2)
    answered(monkeypatch, {"one-v1": (0.2, 0.2, 0.6)}, heat=brightest)
    expected_mm = (affine @ [*MARKED, 1])[:3]
    _, _, z, _ = np.rint(np.linalg.inv(volume.affine_mm) @ [*expected_mm, 1]).astype(int).tolist()
    options = {"brain": {}, "tumour": {"tumour": tumour}, "slice": {"tumour": tumour, "slice_vox": z}}[roi]
    result = digipath.grade(volumes=files, weights=str(card), out=tmp_path / "case", **options)
    for file in result.volumes[0].explanations["one-v1"].values():
        image = nibabel.load(file)
        heat = image.get_fdata()
        assert heat.shape == volume.shape_vox
        np.testing.assert_allclose(image.affine, volume.affine_mm, atol=1e-5)
        found_mm = (image.affine @ [*np.unravel_index(heat.argmax(), heat.shape), 1])[:3]
        away_vox = np.linalg.inv(image.affine)[:3, :3] @ (found_mm - expected_mm)
        np.testing.assert_allclose(away_vox, 0, atol=within_vox + 1e-4)
        assert 0 < heat.max() <= 1
        assert heat.min() >= 0
    if within_vox == 0:
        assert np.count_nonzero(heat) == 1


def test_explanations_are_for_the_class_that_the_network_calls(patient, tmp_path, monkeypatch):
    """Not for the verdict's: members may disagree."""
    seen = []

    def heat(pixels, method, target):
        seen.append((method, target))
        return np.full(pixels.shape[:-1], 0.25, np.float32)

    for name in ("low-v1", "high-v1"):
        write_card(tmp_path, name)
    both = write_ensemble(tmp_path, "both-v1", ["low-v1", "high-v1"])
    answered(monkeypatch, {"low-v1": (0.9, 0.1, 0.0), "high-v1": (0.1, 0.3, 0.6)}, heat=heat)
    volumes = {name: patient[name] for name in MODALITIES}
    result = digipath.grade(volumes=volumes, weights=str(both), out=tmp_path / "case")
    assert seen == [(how, target) for target in (0, 2) for how in ("grad-cam", "guided-backpropagation")]
    assert result.verdict["grade"] == "grade 2"
    image = nibabel.load(result.volumes[0].explanations["low-v1"]["grad-cam"])
    values = image.get_fdata()
    assert np.unique(values).tolist() == [0, 0.25]
    assert image.get_data_dtype() == np.float32
    start, stop = result.verdict["members"]["low-v1"]["box_vox"]
    box = tuple(slice(low, high) for low, high in zip(start, stop, strict=True))
    assert (values[box] == 0.25).all()
    assert np.count_nonzero(values) == values[box].size


def test_a_map_of_nothing_is_written_and_shown(patient, tmp_path, monkeypatch):
    card = write_card(tmp_path, "one-v1")
    answered(monkeypatch, {"one-v1": (0.9, 0.1, 0.0)}, heat=lambda pixels, *_: np.zeros(pixels.shape[:-1], np.float32))
    volumes = {name: patient[name] for name in MODALITIES}
    result = digipath.grade(volumes=volumes, weights=str(card), out=tmp_path / "case")
    assert not nibabel.load(result.volumes[0].explanations["one-v1"]["grad-cam"]).get_fdata().any()
    page = (tmp_path / "case" / "report.html").read_text("utf-8")
    assert "Guided backpropagation of one-v1 for grade 2, over T1 with contrast agent." in page


@pytest.mark.parametrize(("scale", "offset"), [(1 / 127.5, -1.0), ([1, 2, 4], [0, 1, 0])])
def test_slices_are_scaled_as_the_card_says(patient, tmp_path, scale, offset):
    files = VolumeFiles.of({"t1c": patient["t1c"]}, tumour=patient["tumour"])
    card = write_card(tmp_path, "slice-v1", order=["t1c"], roi="slice", scale=scale, offset=offset)
    (grader,) = volume_networks.published(str(card)).members
    region = OpenedVolume(files).region(grader)
    assert (region.pixels.shape, region.pixels.min()) == ((32, 32, 3), 0)
    assert region.pixels.max() > 100
    expected = region.pixels * np.float32(scale) + np.float32(offset)
    np.testing.assert_allclose(volume_networks.network_input(grader, region), expected, rtol=1e-6)


class Answers:
    """A network that gives what it was made with."""

    def __init__(self, answer):
        self.answer = np.asarray(answer, np.float32)

    def __call__(self, pixels, *, training):
        assert not training
        assert pixels.shape == (1, 2, 2, 2, 1)
        return self.answer[None]


def test_an_answer_is_of_probabilities():
    pixels = np.zeros((2, 2, 2, 1), np.float32)
    np.testing.assert_array_equal(volume_networks.answer(Answers([0.25, 0.75]), pixels), [0.25, 0.75])
    for wrong in ([np.nan, np.nan], [np.inf, 0], [0.25, 0.25], [[0.5, 0.5]]):
        with pytest.raises(BadPredictor, match="expected probabilities of classes that sum to 1, a network gave"):
            volume_networks.answer(Answers(wrong), pixels)


def test_volumes_are_not_scaled(patient, tmp_path):
    (grader,) = volume_networks.published(str(write_card(tmp_path, "brain-v1", order=["t1"]))).members
    region = OpenedVolume(VolumeFiles.of({"t1": patient["t1"]})).region(grader)
    assert volume_networks.network_input(grader, region) is region.pixels


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    """Tiny networks with random weights for each kind of region, and an ensemble of them."""
    folder = tmp_path_factory.mktemp("cards")
    write_grader(folder, "brain-v1", seed=1)
    write_grader(folder, "tumour-v1", roi="tumour", order=("t1c", "flair"), seed=2, margin_vox=2)
    write_grader(folder, "slice-v1", roi="slice", order=("t1c",), seed=3)
    write_ensemble(folder, "three-v1", ["brain-v1", "tumour-v1", "slice-v1"], weights={"tumour-v1": 2.0})
    return folder


@pytest.fixture(scope="module")
def result(patient, cards, tmp_path_factory):
    volumes = {name: patient[name] for name in MODALITIES}
    out = tmp_path_factory.mktemp("result") / "case"
    return digipath.grade(volumes=volumes, weights=str(cards / "three-v1.json"), tumour=patient["tumour"], out=out)


@pytest.fixture(scope="module")
def opened(patient):
    return OpenedVolume(VolumeFiles.of({name: patient[name] for name in MODALITIES}, tumour=patient["tumour"]))


@pytest.mark.keras
def test_probabilities_are_what_the_network_says_of_its_region(result, cards, opened):
    said = {}
    for name in ("brain-v1", "tumour-v1", "slice-v1"):
        (grader,) = volume_networks.published(str(cards / f"{name}.json")).members
        pixels = volume_networks.network_input(grader, opened.region(grader))
        said[name] = digipath.load(str(cards / f"{name}.json")).predict(pixels[None], verbose=0)[0]
        told = result.verdict["members"][name]["probabilities"]
        assert list(told) == list(GRADES)
        np.testing.assert_allclose(list(told.values()), said[name], atol=1e-5)
    vote = (said["brain-v1"] + 2 * said["tumour-v1"] + said["slice-v1"]) / 4
    np.testing.assert_allclose(list(result.verdict["probabilities"].values()), vote, atol=1e-5)
    assert result.verdict["grade"] == GRADES[vote.argmax()]


@pytest.mark.keras
@pytest.mark.parametrize("name", ["tumour-v1", "slice-v1"])
def test_explanations_are_those_of_the_network_on_the_grid_of_the_volume(result, cards, opened, name):
    (grader,) = volume_networks.published(str(cards / f"{name}.json")).members
    region = opened.region(grader)
    network, pixels = digipath.load(str(cards / f"{name}.json")), volume_networks.network_input(grader, region)
    for method, file in result.volumes[0].explanations[name].items():
        expected = on_grid(digipath.explain(network, pixels, method=method), region, opened.volume.shape_vox)
        values = nibabel.load(file).get_fdata()
        np.testing.assert_allclose(values, expected, atol=1e-4)
        assert 0 < values.max() <= 1
        outside = np.ones(values.shape, bool)
        box = region.box
        outside[tuple(slice(max(0, a), b) for a, b in zip(box.start_vox, box.stop_vox, strict=True))] = False
        assert not values[outside].any()
    assert values.shape == SHAPE


@pytest.mark.keras
def test_a_network_is_calibrated_unless_told_otherwise(patient, cards, tmp_path):
    for file in ("brain-v1.json", "brain-v1.weights.h5"):
        shutil.copy(cards / file, tmp_path)
    path = tmp_path / "brain-v1.json"
    before_and_after = {"before": 0.2, "after": 0.1}
    record = json.loads(path.read_text("utf-8")) | {
        "calibration": {
            "temperature": 3.0, "expected_calibration_error": before_and_after, "brier": before_and_after,
            "pixels": 10, "data": "made up", "split": "none",
        },
    }  # fmt: skip
    path.write_text(json.dumps(record))
    volumes, options = {name: patient[name] for name in MODALITIES}, {"weights": str(path), "explanations": False}
    raw = digipath.grade(volumes=volumes, out=tmp_path / "raw", calibrated=False, **options).verdict
    cooled = digipath.grade(volumes=volumes, out=tmp_path / "cooled", **options).verdict
    powers = np.array(list(raw["probabilities"].values())) ** (1 / 3)
    np.testing.assert_allclose(list(cooled["probabilities"].values()), powers / powers.sum(), atol=1e-5)
    run = json.loads((tmp_path / "cooled" / "run.json").read_text("utf-8"))
    assert run["weights"]["temperature"] == {"brain-v1": 3.0}


@pytest.mark.keras
def test_a_network_of_another_size_than_its_card_states_is_refused(patient, cards, tmp_path):
    for file in ("brain-v1.json", "brain-v1.weights.h5"):
        shutil.copy(cards / file, tmp_path)
    path = tmp_path / "brain-v1.json"
    record = json.loads(path.read_text("utf-8"))
    record["input"]["size"] = [16, 16, 20]
    path.write_text(json.dumps(record))
    volumes = {name: patient[name] for name in MODALITIES}
    with pytest.raises(BadCard, match=r"network of \(16, 16, 16, 4\), the card states regions of \(16, 16, 20, 4\)"):
        digipath.grade(volumes=volumes, weights=str(path), out=tmp_path / "case")


@pytest.mark.parametrize("name", ["lymphnode-ensemble-v1", "glioma-tiles-demo-v1", "imagenet-resnet18"])
def test_weights_that_do_not_grade_volumes(name):
    with pytest.raises(BadInput, match="expected weights that grade MRI volumes"):
        volume_networks.published(name)
