"""A made-up patient's MRI as files, and cards of tiny networks with random weights; for tests of grades from MRI."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

CLASSES = ["grade 2", "grade 3", "grade 4"]
ORDER = ("t1", "t1c", "t2", "flair")
SHAPE = (20, 22, 18)
AFFINE = np.array([[-2.0, 0, 0, 19], [0, -2.0, 0, 30], [0, 0, 3.0, -7], [0, 0, 0, 1]])  # LPS, as scanners store it


def write_patient(folder: Path, *, modalities=ORDER, tumour=True, seed=0) -> dict[str, str]:
    """Skull-stripped volumes of noise in an ellipsoid, brighter in a box; returns modality or mask → path."""
    import nibabel

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    brain = (place**2).sum(axis=0) < 0.8
    lesion = np.zeros(SHAPE, bool)
    lesion[5:10, 8:14, 6:11] = True
    found = {}
    for number, name in enumerate(modalities):
        values = (100 + 20 * number + 10 * rng.standard_normal(SHAPE) + 60 * lesion) * brain
        found[name] = str(folder / f"{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), AFFINE), found[name])
    if tumour:
        found["tumour"] = str(folder / "tumour.nii.gz")
        nibabel.save(nibabel.Nifti1Image((lesion & brain).astype(np.uint8), AFFINE), found["tumour"])
    return found


def volume_card(name, network, *, order=ORDER, roi="brain", size=(16, 16, 16), classes=CLASSES, **more) -> dict:
    """The record of a card for volumes."""
    return {
        "schema": 1, "name": name, "kind": "network", "task": "a test", "output": "volume", "classes": list(classes),
        "positive": classes[-1] if len(classes) == 2 else None, "activation": "softmax", "network": network,
        "input": {
            "modality": "volume", "order": list(order), "roi": roi, "size": list(size), "bias_field": False, **more,
        },
        "file": f"{name}.weights.h5", "urls": [], "bytes": None, "sha256": None, "sha256_reason": "made in a test",
        "licence": "MIT", "citation": "none", "training": {"data": "none", "split": "none"}, "metrics": [],
        "intended_use": "tests", "limits": [f"{name} knows nothing."],
    }  # fmt: skip


def write_grader(folder: Path, name: str, *, order=ORDER, roi="brain", classes=CLASSES, seed=1, **more) -> Path:
    """A card with a tiny network of random weights beside it."""
    import keras

    from digipath.nn import build

    if roi == "slice":
        network = {"name": "resnet18", "config": {"classes": len(classes), "widths": [4, 4, 4, 4]}}
        size = (64, 64)
        more = {"scale": 1 / 127.5, "offset": -1.0, **more}
    else:
        config = {"classes": len(classes), "input_channels": len(order), "widths": [4, 4, 8, 8], "patch": 16}
        network, size = {"name": "grading-3d", "config": config}, (16, 16, 16)
    keras.utils.set_random_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    build(network["name"], **network["config"]).save_weights(folder / f"{name}.weights.h5")
    path = folder / f"{name}.json"
    path.write_text(json.dumps(volume_card(name, network, order=order, roi=roi, size=size, classes=classes, **more)))
    return path


def write_ensemble(folder: Path, name: str, members: list[str], *, weights=None, kind="ensemble", **more) -> Path:
    """The card of several graders beside it."""
    record = volume_card(name, None, **{key: more.pop(key) for key in ("order", "classes") if key in more})
    for key in ("network", "file", "urls", "bytes", "sha256", "sha256_reason", "activation"):
        del record[key]
    record |= {"kind": kind, "members": members, "activation": "softmax", **more}
    if weights:
        record["vote_weights"] = weights
    path = folder / f"{name}.json"
    path.write_text(json.dumps(record))
    return path
