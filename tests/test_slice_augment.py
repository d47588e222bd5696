"""The 57 images of AutoAugment's SVHN policy, each operation against Pillow, and conventional changes of slices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from digipath.errors import BadInput
from digipath.slice_augment import (
    OPERATIONS,
    SVHN_OPERATIONS,
    SVHN_POLICY,
    SliceAugmentation,
    changed_slice,
    operated,
    svhn_images,
)

NOISE = np.random.default_rng(0).integers(0, 200, (33, 27, 3), np.uint8)  # higher than wide
NEUTRAL = SliceAugmentation(flip=False, rotation_degrees=0.0, scale=(1.0, 1.0), shift=0.0)
LITERAL = np.array([[10, 20, 200], [60, 80, 250], [110, 130, 90]], np.uint8)

# As torchvision 0.14 has it, which leaves out magnitudes that are not used.
TORCHVISION = """
ShearX 4 Invert; ShearY 8 Invert; Equalize Solarize 6; Invert Equalize; Equalize Rotate 3; ShearX 4 AutoContrast;
ShearY 8 Invert; ShearY 5 Solarize 6; Invert AutoContrast; Equalize Rotate 3; ShearX 4 Solarize 3; ShearY 8 Invert;
Equalize TranslateY 6; Invert Equalize; Contrast 3 Rotate 4; Invert TranslateY 2; ShearY 6 Solarize 8; Invert Rotate 4;
ShearY 7 TranslateX 3; ShearX 6 Invert; Solarize 2 TranslateY 7; ShearY 4 Invert; ShearX 9 TranslateY 3;
ShearY 5 AutoContrast; ShearX 2 Invert
"""


def pillow(array, change):
    return np.array(change(Image.fromarray(array)))


# ---- the policy ----


def test_the_policy_is_that_of_torchvision_where_a_magnitude_is_used():
    used = [
        " ".join(name if name in ("Invert", "Equalize", "AutoContrast") else f"{name} {level}" for name, level in pair)
        for pair in SVHN_POLICY
    ]
    assert used == [" ".join(pair.split()) for pair in TORCHVISION.split(";")]


def test_56_operations_without_repeats_pairs_first():
    names, steps = list(SVHN_OPERATIONS), list(SVHN_OPERATIONS.values())
    assert len(set(names)) == len(set(steps)) == 56
    assert [len(one) for one in steps] == [2] * 24 + [1] * 32
    assert set(steps[:24]) == set(SVHN_POLICY)  # of 25, ShearY 8 and Invert 5 come twice
    assert SVHN_POLICY[1] == SVHN_POLICY[6] == (("ShearY", 8), ("Invert", 5))
    assert {one for (one,) in steps[24:]} == {one for pair in SVHN_POLICY for one in pair}
    assert names[:3] == ["ShearX 4, Invert 3", "ShearY 8, Invert 5", "Equalize 5, Solarize 6"]
    assert names[6:8] == ["ShearY 5, Solarize 6", "Invert 6, AutoContrast 1"]
    assert names[23:27] == ["ShearX 2, Invert 5", "ShearX 4", "Invert 3", "ShearY 8"]


@pytest.mark.parametrize("image", [NOISE, NOISE[..., 0]])
def test_57_images_of_one(image):
    found = svhn_images(image)
    assert len(found) == 57
    assert {(one.shape, one.dtype) for one in found} == {(image.shape, image.dtype)}
    np.testing.assert_array_equal(found[0], image)
    by_name = dict(zip(SVHN_OPERATIONS, found[1:], strict=True))
    for name, steps in SVHN_OPERATIONS.items():
        one_by_one = image
        for operation, level in steps:
            one_by_one = operated(one_by_one, operation, level)
        np.testing.assert_array_equal(by_name[name], one_by_one)
    found[0][:] = 0  # the caller's own
    assert image.any()


def test_46_of_the_57_look_different():
    """Three operations ignore their magnitude: 5 times Invert, 4 Equalize, 2 AutoContrast alone, and 3 pairs again."""
    x, y = np.meshgrid(np.arange(227), np.arange(227))
    image = (20 + x * 0.5 + y * 0.3 + 20 * np.sin(x * y / 300)).clip(5, 220).astype(np.uint8)
    assert len({one.tobytes() for one in svhn_images(image)}) == 57 - 4 - 3 - 1 - 3


# ---- operations by Pillow's definitions and by hand ----


@pytest.mark.parametrize("image", [NOISE, NOISE[..., 0], LITERAL])
@pytest.mark.parametrize(
    ("name", "level", "change"),
    [
        ("Invert", 3, ImageOps.invert),
        ("Equalize", 5, ImageOps.equalize),
        ("AutoContrast", 1, ImageOps.autocontrast),
        ("Solarize", 0, lambda image: ImageOps.solarize(image, 256)),
        ("Solarize", 3, lambda image: ImageOps.solarize(image, 256 * 6 / 9)),
        ("Solarize", 9, lambda image: ImageOps.solarize(image, 0)),
        ("Contrast", 0, lambda image: ImageEnhance.Contrast(image).enhance(0.1)),
        ("Contrast", 3, lambda image: ImageEnhance.Contrast(image).enhance(0.7)),
        ("Contrast", 9, lambda image: ImageEnhance.Contrast(image).enhance(1.9)),
        ("Rotate", 3, lambda image: image.rotate(10)),
        ("Rotate", 9, lambda image: image.rotate(30)),
        ("ShearX", 4, lambda image: image.transform(image.size, Image.AFFINE, (1, 0.3 * 4 / 9, 0, 0, 1, 0))),
        ("ShearX", 9, lambda image: image.transform(image.size, Image.AFFINE, (1, 0.3, 0, 0, 1, 0))),
        ("ShearY", 6, lambda image: image.transform(image.size, Image.AFFINE, (1, 0, 0, 0.2, 1, 0))),
        (
            "TranslateX",
            3,
            lambda image: image.transform(image.size, Image.AFFINE, (1, 0, image.width * 50 / 331, 0, 1, 0)),
        ),
        (
            "TranslateY",
            9,
            lambda image: image.transform(image.size, Image.AFFINE, (1, 0, 0, 0, 1, image.height * 150 / 331)),
        ),
    ],
)
def test_an_operation_is_what_pillow_defines(image, name, level, change):
    np.testing.assert_array_equal(operated(image, name, level), pillow(image, change))


@pytest.mark.parametrize(
    ("name", "level", "expected"),
    [
        ("Invert", 0, [[245, 235, 55], [195, 175, 5], [145, 125, 165]]),
        ("Solarize", 6, [[10, 20, 55], [60, 80, 5], [145, 125, 165]]),  # from 85.3 on, inverted
        ("Solarize", 3, [[10, 20, 55], [60, 80, 5], [110, 130, 90]]),  # from 170.7 on
        # 10 to 250 stretched over 0 to 255: (x − 10) · 255 / 240
        ("AutoContrast", 0, [[0, 10, 201], [53, 74, 255], [106, 127, 85]]),
        # 0.7 x + 0.3 · 106, the mean (950 / 9 = 105.6) rounded, cut to whole numbers
        ("Contrast", 3, [[38, 45, 171], [73, 87, 206], [108, 122, 94]]),
        ("Equalize", 0, LITERAL.tolist()),  # of so few pixels Pillow equalises nothing
        ("TranslateX", 7, [[20, 200, 0], [80, 250, 0], [130, 90, 0]]),  # 150 / 331 · 7 / 9 · 3 = 1.06 px
        ("TranslateY", 7, [[60, 80, 250], [110, 130, 90], [0, 0, 0]]),
        # (x + 0.5) + 0.3 (y + 0.5): 0.15, 0.45 and 0.75 px aside, of which the last comes to the next pixel
        ("ShearX", 9, [[10, 20, 200], [60, 80, 250], [130, 90, 0]]),
        ("ShearY", 9, [[10, 20, 250], [60, 80, 90], [110, 130, 0]]),
    ],
)
def test_an_operation_by_hand(name, level, expected):
    np.testing.assert_array_equal(operated(LITERAL, name, level), expected)


def test_a_rotation_is_against_the_clock():
    image = np.zeros((41, 41), np.uint8)
    image[18:23, 33:38] = 255  # 15 px right of the centre
    rows, columns = np.nonzero(operated(image, "Rotate", 9))
    assert rows.mean() == pytest.approx(20 - 15 * np.sin(np.radians(30)), abs=0.5)
    assert columns.mean() == pytest.approx(20 + 15 * np.cos(np.radians(30)), abs=0.5)


def test_equalize_spreads_a_ramp():
    ramp = np.repeat(np.arange(100, 116, dtype=np.uint8), 256).reshape(64, 64)
    found = operated(ramp, "Equalize", 3)
    np.testing.assert_array_equal(found, pillow(ramp, ImageOps.equalize))
    assert (found.min(), found.max(), len(np.unique(found))) == (0, 255, 16)


def test_every_operation_of_the_policy_is_there_and_no_other():
    assert set(OPERATIONS) == {name for pair in SVHN_POLICY for name, _ in pair}


# ---- conventional changes ----


class Chance:
    """A generator that gives these numbers: mirror, rotation, scale, shift right, shift down."""

    def __init__(self, **given):
        names = ("mirror", "rotation", "scale", "right", "down")
        self.values = np.array([given.get(name, 0.5) for name in names])

    def uniform(self, size):
        assert size == len(self.values)
        return self.values


def spot(row, col):
    image = np.zeros((101, 61), np.uint8)
    image[row - 2 : row + 3, col - 2 : col + 3] = 255
    return image


@pytest.mark.parametrize("image", [NOISE, NOISE[..., 0]])
@pytest.mark.parametrize("seed", range(4))
def test_neutral_settings_change_no_byte(image, seed):
    found = changed_slice(image, NEUTRAL, np.random.default_rng(seed))
    np.testing.assert_array_equal(found, image)
    found[:] = 0  # the caller's own
    assert image.any()


def test_every_second_slice_is_mirrored():
    mirrored = replace(NEUTRAL, flip=True)
    found = [changed_slice(NOISE, mirrored, np.random.default_rng(seed)) for seed in range(200)]
    turned = [not np.array_equal(one, NOISE) for one in found]
    assert 70 < sum(turned) < 130
    np.testing.assert_array_equal(found[turned.index(True)], NOISE[:, ::-1])


@pytest.mark.parametrize(
    ("settings", "chance", "expected"),  # (30, 40) is 20 above the centre (50, 30) and 10 right of it
    [
        ({"scale": (0.8, 1.5)}, {"scale": 1.0}, (50 - 30, 30 + 15)),
        ({"scale": (0.8, 1.5)}, {"scale": 0.0}, (50 - 16, 30 + 8)),
        ({"shift": 0.2}, {"right": 1.0}, (30, 40 + 0.2 * 61)),
        ({"shift": 0.2}, {"down": 0.0}, (30 - 0.2 * 101, 40)),
        ({"rotation_degrees": 90.0}, {"rotation": 1.0}, (50 - 10, 30 - 20)),  # up goes left: against the clock
        ({"rotation_degrees": 90.0}, {"rotation": 0.0}, (50 + 10, 30 + 20)),
        ({"flip": True, "shift": 0.2}, {"mirror": 0.0, "right": 0.0}, (30, 20 - 0.2 * 61)),
        ({"scale": (2.0, 2.0), "shift": 0.2, "rotation_degrees": 90.0}, {"rotation": 1.0, "down": 1.0},
         (50 - 20 + 0.2 * 101, 30 - 40)),
    ],
)  # fmt: skip
def test_a_point_goes_where_the_settings_say(settings, chance, expected):
    found = changed_slice(spot(30, 40), replace(NEUTRAL, **settings), Chance(**chance))
    rows, cols = np.nonzero(found > 127)
    if expected[1] < 0:
        assert not len(cols)  # out of sight
    else:
        assert (rows.mean(), cols.mean()) == pytest.approx(expected, abs=0.6)


def test_what_comes_from_beyond_the_border_is_black():
    bright = np.full((60, 60, 3), 200, np.uint8)
    found = changed_slice(bright, replace(NEUTRAL, scale=(0.5, 0.5)), Chance())
    assert (found[16:44, 16:44] == 200).all()
    found[14:46, 14:46] = 0
    assert not found.any()


def test_the_same_amount_of_chance_and_the_same_slice():
    generator, other = np.random.default_rng(3), np.random.default_rng(3)
    first = changed_slice(NOISE, SliceAugmentation(), generator)
    again = changed_slice(NOISE, SliceAugmentation(), np.random.default_rng(3))
    np.testing.assert_array_equal(first, again)
    changed_slice(NOISE, NEUTRAL, other)
    assert generator.random() == other.random()


# ---- refusals ----


@pytest.mark.parametrize("image", [NOISE.astype(np.float32), NOISE[..., :2], NOISE[None]])
def test_images_that_are_refused(image):
    for call in (
        lambda: svhn_images(image),
        lambda: operated(image, "Invert", 0),
        lambda: changed_slice(image, NEUTRAL, np.random.default_rng(0)),
    ):
        with pytest.raises(BadInput, match=r"uint8 \(H, W\) or \(H, W, 3\)"):
            call()


@pytest.mark.parametrize(("name", "level"), [("Posterize", 3), ("Invert", 10), ("Invert", -1)])
def test_operations_that_are_not_there(name, level):
    with pytest.raises(BadInput, match=f"got {name} {level}"):
        operated(NOISE, name, level)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotation_degrees": 181.0}, "rotation_degrees must be"),
        ({"shift": -0.1}, "shift must be"),
        ({"scale": (1.1, 0.9)}, "scale must be a range"),
        ({"scale": (0.0, 0.9)}, "scale must be a range"),
    ],
)
def test_settings_out_of_range(changes, message):
    SliceAugmentation().check()
    with pytest.raises(BadInput, match=message):
        replace(NEUTRAL, **changes).check()
