"""`digipath evaluate`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from digipath.cli.common import (
    add_bag_options,
    add_network_options,
    add_verb,
    bag_augmentation,
    network_options,
    progress,
)
from digipath.errors import BadInput

INCOMPLETE = 3
OF_SEGMENTATIONS: dict[str, Any] = {
    "masks": None, "calibrate": False, "positive": [], "negative": [], "patch": None, "overlap": 0.5, "threshold": 0.5,
}  # fmt: skip
SEEN = "Scores on images a network was trained on say nothing about new ones: see its card for its split."


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verbs of this file."""
    _add_evaluate(verbs)


def _add_evaluate(verbs: Any) -> None:  # noqa: ANN401
    verb = add_verb(
        verbs, "evaluate", _evaluate, "score networks on images with masks, or on the cases of a manifest; graders too",
        "  digipath evaluate images/ masks/ --mpp 0.5\n"
        "  digipath evaluate images/ masks/ --mpp 0.5 --views 8 --json\n"
        "  digipath evaluate --manifest cases.csv --fold test    slides with outlines, within their tissue\n"
        "  digipath evaluate images/ masks/ --mpp 0.5 --views 8 --out report     plots: calibration, uncertainty\n"
        "  digipath evaluate --manifest cases.csv --calibrate --out calibrated   cards with temperatures, too\n"
        "  digipath evaluate --manifest graded.csv --weights GRADER --fold test    per tile, slide and case\n"
        "  digipath evaluate tiles/ --mpp 0.5 --weights GRADER    folders of tile images, called like the classes\n"
        "  digipath evaluate --manifest mri.csv --weights GRADER    MRI, per case\n"
        "  digipath evaluate --manifest patients.csv --weights FUSION    slides and MRI, per case\n",
    )
    verb.add_argument("images", nargs="?", help="folder of JPEG, PNG or TIFF images, or of one folder per class")
    verb.add_argument("masks", nargs="?", help="folder of masks of the same names; positive: > 0, in a JPEG > 127")
    verb.add_argument("--mpp", type=float, help="µm per pixel of the images")
    verb.add_argument("--manifest", metavar="CSV", help="cases instead of folders, as for `digipath train`")
    verb.add_argument("--fold", help="only the cases of this fold of the manifest")
    for side, meaning in (("positive", "lesions"), ("negative", "cut out of them")):
        text = f"label of outlines that are {meaning}, may be repeated (default: the usual ones)"
        verb.add_argument(f"--{side}", metavar="LABEL", action="append", default=[], help=text)
    verb.add_argument("--threshold", type=float, default=0.5, help="probability of a positive pixel (default: 0.5)")
    add_network_options(verb)
    temperatures = verb.add_mutually_exclusive_group()
    temperatures.add_argument("--no-calibration", action="store_true", help="leave the cards' temperatures out")
    temperatures.add_argument(
        "--calibrate", action="store_true",
        help="fit each network's temperature on these images and write cards that carry it into --out",
    )
    verb.add_argument("--out", metavar="FOLDER", help="write scores.json and evaluation.html with plots here")
    verb.add_argument(
        "--least-label", type=float, metavar="SHARE",
        help="graders: of a tile that outlines of one class must cover to be scored as a tile (default: 0.9)",
    )
    add_bag_options(verb)
    verb.add_argument("--json", action="store_true", help="print all scores, image by image, as JSON")


def _evaluate(arguments: argparse.Namespace) -> int:
    from digipath.annotation import Labels
    from digipath.evaluation import evaluate
    from digipath.grading_evaluation import is_grader
    from digipath.weights import load_card

    card = load_card(arguments.weights) if arguments.weights else None
    if card is not None and (card.output == "volume" or card.record["kind"] == "fusion"):
        return _evaluate_patients(arguments, fused=card.output != "volume")
    if arguments.weights and is_grader(arguments.weights):
        return _evaluate_grader(arguments)
    of_graders = {"groups": None, "bag": None, "no_bag_augmentation": False, "least_label": None}
    _refuse_idle(arguments, of_graders, f"{arguments.weights or 'these networks'} segment slides")
    with progress(arguments.json) as show:
        scores = evaluate(
            arguments.images,
            arguments.masks,
            manifest=arguments.manifest,
            fold=arguments.fold,
            labels=Labels.given(arguments.positive, arguments.negative),
            mpp=arguments.mpp,
            threshold=arguments.threshold,
            calibrated=not arguments.no_calibration,
            calibrate=arguments.calibrate,
            out=arguments.out,
            progress=show,
            **network_options(arguments),
        )
    if arguments.json:
        print(json.dumps(scores, indent=2))
        return 0
    _tell(scores)
    return 0


def _evaluate_grader(arguments: argparse.Namespace) -> int:
    from digipath.grading.bags import BagDraw
    from digipath.grading_evaluation import evaluate_graders

    _refuse_idle(arguments, OF_SEGMENTATIONS, f"{arguments.weights} grades slides")
    with progress(arguments.json) as show:
        found = evaluate_graders(
            arguments.weights,
            manifest=arguments.manifest,
            folder=arguments.images,
            mpp=arguments.mpp,
            fold=arguments.fold,
            views=arguments.views,
            least_label=arguments.least_label,
            draw=BagDraw(arguments.groups, arguments.bag, bag_augmentation(arguments)),
            calibrated=not arguments.no_calibration,
            out=arguments.out,
            runtime=arguments.runtime,
            precision=arguments.precision,
            progress=show,
        )
    _show_grades(found, arguments)
    return INCOMPLETE if found["unreadable"] else 0


def _evaluate_patients(arguments: argparse.Namespace, *, fused: bool) -> int:
    from digipath.fusion_evaluation import evaluate_fusion
    from digipath.volume_evaluation import evaluate_volumes

    usual: dict[str, Any] = {
        **OF_SEGMENTATIONS, "images": None, "mpp": None, "views": 1, "least_label": None, "groups": None, "bag": None,
        "no_bag_augmentation": False, "runtime": "auto", "precision": "auto",
    }  # fmt: skip
    _refuse_idle(arguments, usual, f"{arguments.weights} grades {'slides and MRI' if fused else 'MRI'}")
    with progress(arguments.json) as show:
        found = (evaluate_fusion if fused else evaluate_volumes)(
            arguments.weights,
            manifest=arguments.manifest,
            fold=arguments.fold,
            calibrated=not arguments.no_calibration,
            out=arguments.out,
            progress=show,
        )
    _show_grades(found, arguments)
    return INCOMPLETE if found["unreadable"] else 0


def _show_grades(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    _tell_grades(found)
    if arguments.out:
        print(f"page: {arguments.out}/evaluation.html")


def _refuse_idle(arguments: argparse.Namespace, usual: Mapping[str, Any], why: str) -> None:
    """Refuse options that are not as usual where they would do nothing."""
    if idle := [name for name, value in usual.items() if getattr(arguments, name) != value]:
        raise BadInput(f"{why}; leave out {' and '.join(idle)}")


def _tell_grades(found: dict[str, Any]) -> None:
    from digipath.grading_evaluation import lost_told, notes_told

    print(found["data"])
    for question, levels in found["scores"].items():
        for level, record in levels.items():
            print(f"{question}, per {level} ({record['scores']['count']}):")
            for name, value in record["metrics"].items():
                pair = record["intervals"]["intervals"][name]
                between = "" if pair is None else f"  [{pair[0]:.3f}, {pair[1]:.3f}]"
                print(f"  {name:26} {'undefined' if value is None else f'{value:.4g}'}{between}")
    if found["left_out"]:
        print(f"without any tile, not scored: {', '.join(found['left_out'])}")
    for note in notes_told(found["notes"]):
        print(note)
    for told in lost_told(found["unreadable"]):
        print(f"WARNING: {told}")
    print(SEEN)


def _tell(scores: dict[str, Any]) -> None:
    for name, value in scores.items():
        if not isinstance(value, dict | str):
            print(f"{name:26} {'undefined' if value is None else f'{value:.4g}'}")
    for name, found in scores.get("error_finding", {}).items():
        auroc = found["auroc"]["all pixels"]
        print(f"error-AUROC of {name:11} {'undefined' if auroc is None else f'{auroc:.4g}'}")
    for name, found in scores.get("calibration", {}).items():
        error = found["expected_calibration_error"]
        print(f"{name}: temperature {found['temperature']:.4g}, error {error['before']:.4g} → {error['after']:.4g}")
    if "card" in scores:
        print(f"card: {scores['card']}")
    print(SEEN)
