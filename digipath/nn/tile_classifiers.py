"""DenseNet121 and EfficientNet-B0 of keras.applications as classifiers of tiles, heads as `resnet18` has them.

Their layers keep the names of the published files, so that `pretrained.load_encoder` fits.
"""

from __future__ import annotations

import keras
from keras import layers

from digipath.nn.checks import check_training
from digipath.nn.resnet import STRIDE, classifier, shrunk, tile_input

# EfficientNet of keras.applications scales its input itself, which here the card's scale and offset do.
OWN_SCALING = ("Rescaling", "Normalization")


def densenet121(
    *,
    classes: int = 3,
    activation: str = "softmax",
    patch: int | None = None,
    input_channels: int = 3,
    shrink: int = 1,
    dropout: float = 0.0,
    momentum: float = 0.99,
) -> keras.Model:
    """DenseNet121 with random weights and 1024 features.

    Args:
        classes, activation, patch, input_channels, shrink, dropout: as for `digipath.nn.resnet.resnet18`.
        momentum: of the moving batch statistics; short trainings want less than 0.99.

    Returns:
        (B, H, W, input_channels) float32, scaled as the card of the weights says → (B, classes) float32.

    Raises:
        BadInput: a setting is out of range.

    References:
        Huang et al. 2017, "Densely connected convolutional networks", arXiv:1608.06993.
    """
    check_training(dropout, momentum)
    image = tile_input(patch, input_channels, shrink=shrink, least=STRIDE)
    body = keras.applications.DenseNet121(include_top=False, weights=None, input_tensor=shrunk(image, shrink))
    for layer in body.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = momentum
    return classifier(
        image, body.output, classes=classes, activation=activation, dropout=dropout, name="densenet121"
    )


def efficientnet_b0(
    *,
    classes: int = 3,
    activation: str = "softmax",
    patch: int | None = None,
    input_channels: int = 3,
    shrink: int = 1,
    dropout: float = 0.0,
    momentum: float = 0.99,
) -> keras.Model:
    """EfficientNet-B0 with random weights and 1280 features, without the scaling of its input.

    Borders are padded as for sides that are multiples of 32 × shrink, whatever the patch, so that
    `patch` does not change what a network computes.

    Args:
        classes, activation, patch, input_channels, shrink, dropout: as for `digipath.nn.resnet.resnet18`.
        momentum: of the moving batch statistics; short trainings want less than 0.99.

    Returns:
        (B, H, W, input_channels) float32, scaled as the card of the weights says → (B, classes) float32.

    Raises:
        BadInput: a setting is out of range.

    References:
        Tan and Le 2019, "EfficientNet", arXiv:1905.11946.
    """
    check_training(dropout, momentum)
    side = tile_input(patch, input_channels, shrink=shrink, least=STRIDE).shape[1:]
    free = keras.Input((None, None, input_channels), name="image")
    body = keras.applications.EfficientNetB0(include_top=False, weights=None, input_tensor=shrunk(free, shrink))
    config = body.get_config()
    config["layers"][0]["config"]["batch_shape"] = (None, *side)
    for layer in config["layers"]:
        if layer["class_name"] in OWN_SCALING:
            layer.update(class_name="Activation", config={"name": layer["name"], "activation": "linear"})
        elif layer["class_name"] == "BatchNormalization":
            layer["config"]["momentum"] = momentum
    body = keras.Model.from_config(config)
    return classifier(
        body.inputs[0], body.output, classes=classes, activation=activation, dropout=dropout, name="efficientnet-b0"
    )
