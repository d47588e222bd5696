"""Where the cells of features lie in their image: what is at a voxel comes back at that voxel."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from digipath.explanations.cells import Axis, Cells, interpolated

pytestmark = pytest.mark.keras


def places(axes):
    """(first, step, count) of each axis."""
    return [(axis.first_px, axis.step_px, axis.count) for axis in axes]


def test_stretched_over_the_image_it_is_what_pillow_does():
    """Every axis has the same share of the image: bilinear interpolation, aligned at the pixels' outer borders."""
    cells = np.random.default_rng(0).random((7, 5)).astype(np.float32)
    axes = [Axis(0.0, 1.0, 56).spread(7), Axis(0.0, 1.0, 32).spread(5)]
    assert places(axes) == [(3.5, 8.0, 7), (pytest.approx(2.7), pytest.approx(6.4), 5)]
    expected = np.asarray(Image.fromarray(cells).resize((32, 56), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(interpolated(cells, axes, (56, 32)), expected, atol=1e-6)


def test_a_straight_line_stays_one_between_the_outermost_centres():
    line = np.arange(4, dtype=np.float32)
    axes = [Axis(2.0, 3.0, 4), Axis(0.5, 2.0, 1), Axis(0.0, 1.0, 2)]
    found = interpolated(np.tile(line[:, None, None], (1, 1, 2)), axes, (13, 2, 2))
    assert found.shape == (13, 2, 2)
    for y, z in np.ndindex(2, 2):
        np.testing.assert_allclose(found[:, y, z], np.clip((np.arange(13) - 2) / 3, 0, 3), atol=1e-6)


def averaging():
    """Layers of every kind whose answers are averages: of the places themselves they give the places of their cells."""
    from keras import layers

    kernel = {"use_bias": False, "kernel_initializer": "ones"}
    return [
        layers.ZeroPadding2D(((2, 1), (1, 2))), layers.Conv2D(1, (3, 5), strides=(1, 2), **kernel),
        layers.AveragePooling2D(2), layers.Conv2D(1, 3, padding="same", **kernel),
        layers.Conv2D(1, 3, dilation_rate=2, **kernel), layers.Cropping2D(((1, 0), (0, 1))),
        layers.Conv2D(1, (3, 2), strides=2, padding="same", **kernel),
        layers.DepthwiseConv2D(3, depthwise_initializer="ones", use_bias=False),
    ]  # fmt: skip


@pytest.mark.parametrize("sizes", [(96, 120), (97, 123)])
@pytest.mark.parametrize("free", [True, False])
def test_cells_lie_where_averages_of_places_say(sizes, free):
    """An image of each pixel's own row, or column, convolved with averages."""
    import keras

    x = image = keras.Input((None, None, 1) if free else (*sizes, 1))
    for layer in averaging():
        x = layer(x)
    network = keras.Model(image, x)
    axes = Cells(network).axes(sizes)
    ones = np.asarray(network(np.ones((1, *sizes, 1), np.float32)))[0, ..., 0]
    for number, axis in enumerate(axes):
        rows = np.indices(sizes)[number][None, ..., None].astype(np.float32)
        found = np.asarray(network(rows))[0, ..., 0] / ones
        assert found.shape[number] == axis.count
        inner = np.moveaxis(found, number, 0)[3:-3, found.shape[1 - number] // 2]  # no padding in sight
        expected = axis.first_px + axis.step_px * np.arange(axis.count)[3:-3]
        assert len(inner) > 2
        np.testing.assert_allclose(inner, expected, atol=1e-3)


def test_convolutions_without_padding_see_the_middle_alone():
    """grading-3d at 96³: 4³ cells of "res4", 8 voxels apart, between 34.5 and 58.5 and not between 11.5 and 83.5."""
    import keras

    from digipath.nn import build

    network = build("grading-3d", patch=96, padding="valid", widths=(1, 1, 1, 1), dense=())
    for layer, expected in {"res3": (16.5, 4.0, 16), "res4": (34.5, 8.0, 4)}.items():
        cells = Cells(keras.Model(network.input, network.get_layer(layer).output))
        assert places(cells.axes((96, 96, 96))) == [expected] * 3
    network = build("grading-3d", patch=None, widths=(1, 1, 1, 1), dense=())
    cells = Cells(keras.Model(network.input, network.get_layer("res4").output))
    assert places(cells.axes((96, 96, 20))) == [(3.5, 8.0, 12), (3.5, 8.0, 12), (3.5, 8.0, 2)]


def test_strides_with_padding_on_both_sides_begin_at_the_first_pixel():
    """ResNet18: cell i at pixel 32 i, 15.5 px before where the cells would lie if they were stretched."""
    import keras

    from digipath.nn import build

    network = build("resnet18", widths=(1, 1, 1, 1))
    cells = Cells(keras.Model(network.input, network.get_layer("layer4_1_relu2").output))
    assert places(cells.axes((96, 224))) == [(0.0, 32.0, 3), (0.0, 32.0, 7)]


def test_a_way_through_one_cell_is_not_taken():
    """Squeeze and excitation: an average of everything weighs the channels, and says nothing of places."""
    import keras
    from keras import layers

    image = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, strides=2)(image)
    weights = layers.Reshape((1, 1, 4))(layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    network = keras.Model(image, layers.Multiply()([weights, x]))
    assert places(Cells(network).axes((9, 9))) == [(1.0, 2.0, 4)] * 2


def test_upsampled_features_lie_between_those_they_come_from():
    import keras
    from keras import layers

    image = keras.Input((None, None, 1))
    network = keras.Model(image, layers.UpSampling2D(2)(layers.Conv2D(1, 4, strides=4)(image)))
    assert places(Cells(network).axes((16, 8))) == [(0.5, 2.0, 8), (0.5, 2.0, 4)]


def test_a_voxel_is_found_where_it_is_without_padding():
    """Stretched features would put a voxel that is a quarter into the volume at its border."""
    import keras
    from keras import layers

    from digipath.explanations import grad_cam

    image = keras.Input((32, 32, 32, 1))
    x = layers.Conv3D(1, 17, use_bias=False, name="far")(image)  # 16³ cells, from voxel 8 to 23
    x = layers.GlobalAveragePooling3D()(x)
    network = keras.Model(image, layers.Dense(1, use_bias=False, kernel_initializer="ones")(x))
    kernel = np.zeros((17, 17, 17, 1, 1), np.float32)
    kernel[8, 8, 8] = 1
    network.get_layer("far").set_weights([kernel])
    voxels = np.zeros((32, 32, 32, 1), np.float32)
    voxels[9, 14, 22] = 1
    heat = grad_cam(network, voxels, target=0)
    assert np.unravel_index(heat.argmax(), heat.shape) == (9, 14, 22)
    assert np.count_nonzero(heat) == 1
