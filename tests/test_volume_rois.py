"""What networks see of a volume: rules and cards, channels in order, regions in place, and the way back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from digipath.errors import BadCard, BadInput, BadVolume
from digipath.roi import slice_picture
from digipath.volume_rois import VolumeRule, background, on_grid, region_of, with_intensities
from digipath.volume_values import MODALITIES, Box, Volume

SHAPE = (40, 36, 30)
TUMOUR = VolumeRule(("t1c", "flair"), "tumour", (24, 24, 24), margin_vox=3, bias_field=False)
BRAIN = replace(TUMOUR, roi="brain")
PICTURE = VolumeRule(("t1c",), "slice", (64, 64), bias_field=False)


def filled(*cuts):
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(low, high) for low, high in cuts)] = True
    return mask


@pytest.fixture
def volume():
    """Four modalities of noise about 100, 200, 300 and 400; skull-stripped, a tumour near the right."""
    brain = filled((4, 36), (3, 33), (2, 28))
    rng = np.random.default_rng(0)
    voxels = rng.normal((100, 200, 300, 400), 20, (*SHAPE, 4)).astype(np.float32) * brain[..., None]
    return Volume(MODALITIES, voxels, np.eye(4), brain, filled((24, 34), (20, 26), (10, 18)))


def test_a_rule_survives_its_card():
    for rule in (TUMOUR, BRAIN, PICTURE, replace(BRAIN, standardise="image", bias_field=True)):
        record = rule.to_record()
        assert VolumeRule.of_card({"modality": "volume", **record}) == rule
        assert VolumeRule.of_card(record) == rule
    record = {"modality": "volume", "order": ["t1c"], "size": [96, 96, 96], "roi": "brain"}
    assert VolumeRule.of_card(record) == VolumeRule(("t1c",), "brain", (96, 96, 96), 10, True, "brain")


def test_what_a_rule_writes_follows_the_schema_of_cards():
    import jsonschema

    from digipath.files import read_json
    from digipath.weights.cards import packaged

    schema = read_json(packaged() / "card.schema.json")
    validator = jsonschema.Draft202012Validator({"$defs": schema["$defs"], **schema["properties"]["input"]})
    for rule in (TUMOUR, BRAIN, PICTURE):
        validator.validate({"modality": "volume", **rule.to_record()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": ()}, "an order of modalities among t1, t1c, t2, flair, got"),
        ({"order": ("t1", "t1")}, "an order of modalities"),
        ({"order": ("pd",)}, "an order of modalities"),
        ({"roi": "head"}, "a roi among brain, tumour, slice, got 'head'"),
        ({"standardise": "tumour"}, "standardise to be one of brain, image, got 'tumour'"),
        ({"margin_vox": -1}, "margin_vox of at least 0"),
        ({"size": (96, 96)}, r"three sides in voxels for the roi tumour, got \[96, 96\]"),
        ({"size": (96, 96, 0)}, "three sides in voxels"),
        ({"roi": "slice"}, "two sides in pixels for the roi slice"),
        ({"roi": "slice", "size": (64, 64)}, "a square slice of one modality"),
        ({"roi": "slice", "size": (64, 65), "order": ("t1c",)}, "a square slice of one modality"),
    ],
)
def test_rules_that_cannot_be(change, message):
    with pytest.raises(BadInput, match=message):
        replace(TUMOUR, **change).check()


def test_cards_that_state_no_rule():
    with pytest.raises(BadCard, match="input is a volume with its roi"):
        VolumeRule.of_card({"modality": "volume", "order": ["t1"], "size": [64, 64, 64]})
    with pytest.raises(BadCard, match="wrong input: expected a size of two sides"):
        VolumeRule.of_card({"modality": "volume", "order": ["t1"], "size": [64, 64, 64], "roi": "slice"})
    with pytest.raises(BadCard, match=r"expected no spacing_mm beside a roi, .* got 1\.5"):
        VolumeRule.of_card({"order": ["t1"], "size": [64, 64, 64], "roi": "brain", "spacing_mm": 1.5})


def test_channels_come_in_the_order_of_the_rule(volume):
    chosen = with_intensities(volume, ("flair", "t1"), bias_field=False, standardise="brain")
    assert chosen.modalities == ("flair", "t1")
    for at, name in enumerate(("flair", "t1")):
        own = volume.voxels[..., MODALITIES.index(name)]
        inside = own[volume.brain].astype(np.float64)
        expected = (own - inside.mean()) / inside.std() * volume.brain
        np.testing.assert_allclose(chosen.voxels[..., at], expected, atol=1e-4)


def test_the_brains_region_is_its_box(volume):
    region = region_of(volume, replace(BRAIN, size=(32, 30, 26)))
    assert region.box == Box((4, 3, 2), (36, 33, 28))
    assert region.slice_vox is None
    assert region.pixels.dtype == np.float32
    prepared = with_intensities(volume, BRAIN.order, bias_field=False, standardise="brain")
    np.testing.assert_array_equal(region.pixels, prepared.voxels[4:36, 3:33, 2:28])
    assert region_of(volume, BRAIN).pixels.shape == (24, 24, 24, 2)


def test_the_tumours_region_reaches_beyond_the_volume(volume):
    """10 × 6 × 8 voxels with a margin of 3: twice as large; with a margin of 6 each side counts as 12, and doubles."""
    region = region_of(volume, replace(TUMOUR, size=(20, 12, 16)))
    assert region.box == Box((19, 17, 6), (39, 29, 22))
    wide = region_of(volume, replace(TUMOUR, size=(40, 24, 32), margin_vox=6))
    assert wide.box == Box((17, 11, 2), (41, 35, 26))
    assert SHAPE[0] == 40
    assert not wide.pixels[-1].any()  # of 24 voxels along x the last lies beyond; 40 of the region show them


def test_the_same_volume_gives_the_same_region(volume):
    for rule in (TUMOUR, BRAIN, PICTURE):
        one, other = region_of(volume, rule), region_of(volume, rule)
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert (one.box, one.slice_vox) == (other.box, other.slice_vox)


def test_the_bias_field_is_corrected_before_intensities_are_standardised(volume, monkeypatch):
    """Only in the modalities that the rule takes, and only where it says so."""
    corrected = []

    def doubled(given):
        corrected.append(given.modalities)
        return replace(given, voxels=given.voxels * 2 + 7 * given.voxels**2)

    monkeypatch.setattr("digipath.volume_rois.bias_field_corrected", doubled)
    plain = region_of(volume, BRAIN)
    assert corrected == []
    region = region_of(volume, replace(BRAIN, bias_field=True))
    assert corrected == [("t1c", "flair")]
    by_hand = replace(volume, voxels=volume.voxels * 2 + 7 * volume.voxels**2)
    np.testing.assert_allclose(region.pixels, region_of(by_hand, BRAIN).pixels, atol=1e-5)
    assert np.abs(region.pixels - plain.pixels).max() > 0.1


def test_intensities_of_the_whole_image_leave_the_background_below_zero(volume):
    pixels = region_of(volume, replace(BRAIN, standardise="image", size=SHAPE)).pixels
    brain = region_of(volume, replace(BRAIN, size=SHAPE)).pixels
    assert np.abs(pixels - brain).max() > 0.2
    image = with_intensities(volume, BRAIN.order, bias_field=False, standardise="image").voxels
    assert (image[~volume.brain] < -0.5).all()


@pytest.mark.parametrize("standardise", ["brain", "image"])
def test_beyond_the_volume_a_region_goes_on_as_outside_of_the_brain(volume, standardise):
    """24 voxels along x, of which the last lies beyond the volume and four before it outside of the brain."""
    rule = replace(TUMOUR, size=(24, 24, 24), margin_vox=6, standardise=standardise, order=("t1", "flair"))
    region = region_of(volume, rule)
    beyond = region.pixels[region.box.start_vox[0] + np.arange(24) >= SHAPE[0]]
    prepared = with_intensities(volume, rule.order, bias_field=False, standardise=standardise)
    assert region.box.size_vox == (24, 24, 24)
    assert len(beyond)
    np.testing.assert_allclose(beyond, np.broadcast_to(prepared.voxels[0, 0, 0], beyond.shape), atol=1e-6)
    assert (beyond == 0).all() == (standardise == "brain")


def test_a_volume_that_is_all_brain_has_a_background_of_zeros(volume):
    assert background(replace(volume, brain=np.ones(SHAPE, bool))).tolist() == [0, 0, 0, 0]
    outside = volume.voxels[~volume.brain]
    assert (outside == background(volume)).all()


def test_the_picture_is_that_of_the_largest_slice_or_of_the_one_asked_for(volume):
    tumour = volume.tumour.copy()
    tumour[24, 26, 15] = True
    volume = replace(volume, tumour=tumour)
    region = region_of(volume, PICTURE)
    assert (region.slice_vox, region.box) == (15, Box((0, -2, 15), (40, 38, 16)))
    expected = slice_picture(volume.voxels[..., 15, 1], tumour[..., 15], volume.brain[..., 15], side_px=64)
    assert np.abs(region.pixels - expected).max() <= 1
    assert region.pixels.shape == (64, 64, 3)
    assert region.pixels.dtype == np.float32
    assert region_of(volume, PICTURE, slice_vox=17).slice_vox == 17
    for outside in (-1, 9, 18, 30):
        with pytest.raises(BadVolume, match=f"a slice that the tumour reaches, of 0 to 29, got {outside}"):
            region_of(volume, PICTURE, slice_vox=outside)


def test_what_is_missing_is_named(volume):
    less = replace(volume, modalities=("t1", "t1c"), voxels=volume.voxels[..., :2])
    with pytest.raises(BadVolume, match="expected t1c, flair, received t1, t1c: give flair"):
        region_of(less, BRAIN)
    unmarked = replace(volume, tumour=None)
    for rule in (TUMOUR, PICTURE):
        with pytest.raises(BadVolume, match=f"an outline of the tumour for the roi {rule.roi}"):
            region_of(unmarked, rule)
    assert region_of(unmarked, BRAIN).pixels.shape == (24, 24, 24, 2)
    with pytest.raises(BadVolume, match="marks the tumour, it is empty"):
        region_of(replace(volume, tumour=np.zeros(SHAPE, bool)), TUMOUR)


@pytest.mark.parametrize("rule", [replace(BRAIN, size=(48, 48, 48)), replace(TUMOUR, size=(48, 48, 48))])
def test_a_marked_voxel_is_found_again_at_its_place(volume, rule):
    """The brightest voxel of the input is the brightest of the explanation, and so at the same millimetre."""
    for at in [(26, 21, 12), (33, 25, 17), (24, 20, 10)]:
        voxels = volume.voxels.copy()
        voxels[(*at, 1)] = 3000
        marked = replace(volume, voxels=voxels)
        region = region_of(marked, rule)
        back = on_grid(region.pixels[..., 0], region, SHAPE)
        assert back.shape == SHAPE
        assert np.unravel_index(back.argmax(), SHAPE) == at


def test_an_explanation_of_a_picture_lies_in_its_plane(volume):
    for at in [(26, 21), (33, 25), (24, 20)]:
        voxels = volume.voxels.copy()
        voxels[(*at, 12, 1)] = 3000
        region = region_of(replace(volume, voxels=voxels), PICTURE, slice_vox=12)
        back = on_grid(region.pixels[..., 0], region, SHAPE)
        assert np.unravel_index(back.argmax(), SHAPE) == (*at, 12)
        back[..., 12] = 0
        assert not back.any()


def test_explanations_of_another_rank_are_refused(volume):
    region, picture = region_of(volume, BRAIN), region_of(volume, PICTURE)
    with pytest.raises(BadInput, match=r"3 axes for this region, got the shape \(24, 24, 24, 2\)"):
        on_grid(region.pixels, region, SHAPE)
    with pytest.raises(BadInput, match="2 axes for this region"):
        on_grid(region.pixels[..., 0], picture, SHAPE)


@pytest.mark.real_data
def test_in_a_real_volume_a_voxel_comes_back_at_its_millimetre(shared_data):
    from digipath.volume import open_volumes

    folder = shared_data / "mri_3d" / "TCGA-FG-6692"
    volume = open_volumes({"t1c": folder / "t1c.nii.gz"}, tumour=folder / "seg.nii.gz")
    rng = np.random.default_rng(0)
    marks = np.argwhere(volume.tumour)[rng.integers(0, volume.tumour.sum(), 3)]
    for roi in ("brain", "tumour"):
        rule = VolumeRule(("t1c",), roi, (96, 96, 96), bias_field=False)
        for mark in marks:
            voxels = volume.voxels.copy()
            voxels[(*mark, 0)] = 20 * voxels.max()
            region = region_of(replace(volume, voxels=voxels), rule)
            back = on_grid(region.pixels[..., 0], region, volume.shape_vox)
            found = np.unravel_index(back.argmax(), back.shape)
            np.testing.assert_allclose(volume.affine_mm @ [*found, 1], volume.affine_mm @ [*mark, 1])
