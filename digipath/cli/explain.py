"""`digipath explain`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digipath.cli.common import NOTICE, add_verb, add_volume_options, print_result, progress, volumes_of

if TYPE_CHECKING:
    from digipath.explanations import RandomisationCheck
    from digipath.grading.explained import Explained, Question
    from digipath.values import ProgressCallback

METHODS = ("grad-cam", "guided-backpropagation")
EXIT_CODES = """
exit codes:
  0    done, whatever the check says
  2    bad input or usage, one line says what
"""


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb of this file."""
    verb = add_verb(
        verbs, "explain", _explain, "show what in a tile or an MRI speaks for a grade",
        "  digipath explain tile.png --out heat.png                   the grade that the network calls\n"
        "  digipath explain tile.png --weights NAME --target 'grade 4' --out heat.npy\n"
        "  digipath explain tile.png --method guided-backpropagation\n"
        "  digipath explain --t1 t1.nii.gz --t1c t1c.nii.gz --t2 t2.nii.gz --flair flair.nii.gz --out heat.nii.gz\n"
        "  digipath explain --t1 … --t1c … --t2 … --flair … --layer res3 --check\n",
        more=EXIT_CODES,
    )  # fmt: skip
    verb.add_argument("image", nargs="?", help="PNG, JPEG or TIFF of one tile, of the size that the network takes")
    add_volume_options(verb)
    verb.add_argument("--weights", metavar="NAME", help="one network, see `digipath weights list`")
    verb.add_argument("--method", choices=METHODS, default=METHODS[0], help=f"(default: {METHODS[0]})")
    verb.add_argument(
        "--layer", action="append", metavar="NAME",
        help="of Grad-CAM; repeat for the mean of several (default: res3 and res4, else the last features in space)",
    )
    verb.add_argument("--target", metavar="CLASS", help="what to explain (default: the class that the network calls)")
    verb.add_argument(
        "--out", metavar="FILE",
        help="of a tile .png (colours) or .npy; of MRI .nii.gz on its grid (default: by case, network, class, method)",
    )  # fmt: skip
    verb.add_argument(
        "--check", action="store_true", help="compare with networks of random weights, which must see something else"
    )
    verb.add_argument("--json", action="store_true", help="print the result as JSON")


def _explain(arguments: argparse.Namespace) -> int:
    from digipath.errors import BadInput
    from digipath.grading.explained import Question, check_name

    volumes = volumes_of(arguments)
    if (arguments.image is None) == (volumes is None):
        raise BadInput("expected an image of a tile, or MRI by --t1, --t1c, --t2, --flair or --volume: one of the two")
    idle = [name for name in ("brain", "tumour", "slice") if volumes is None and getattr(arguments, name) is not None]
    if idle:
        told = ", ".join(f"--{name}" for name in idle)
        raise BadInput(f"expected MRI for {told}, got an image of a tile; leave {told} out: {arguments.image}")
    if arguments.out is not None:
        check_name(Path(arguments.out), volume=volumes is not None)
    question = Question(arguments.method, arguments.layer, arguments.target, arguments.check)
    with progress(arguments.json) as show:
        found, name = _explained(arguments, volumes, question, show)
    parts = [name, found.card.name, found.card.classes[found.target].replace(" ", "-"), arguments.method]
    ending = ".png" if volumes is None else ".nii.gz"
    out = Path(arguments.out or f"{'.'.join([*parts, *(arguments.layer or ())])}{ending}")
    found.write(out)
    return print_result(_record(found, out), arguments.json, lambda: _tell(found, out))


def _explained(
    arguments: argparse.Namespace,
    volumes: dict[str, str] | list[str] | None,
    question: Question,
    show: ProgressCallback | None,
) -> tuple[Explained, str]:
    """The explanation, and a name for its file."""
    from digipath.grading.explained import explain_tile, explain_volumes
    from digipath.grading.volume_files import VolumeFiles
    from digipath.values import Progress
    from digipath.weights import DEFAULT_GRADER, DEFAULT_VOLUME_GRADER

    def told(doing: str) -> None:
        if show is not None:
            show(Progress(0, 1, math.nan, doing))

    if volumes is None:
        found = explain_tile(arguments.image, arguments.weights or DEFAULT_GRADER, question)
        return found, Path(arguments.image).stem
    files = VolumeFiles.of(volumes, arguments.brain, arguments.tumour)
    weights = arguments.weights or DEFAULT_VOLUME_GRADER
    return explain_volumes(files, weights, question, slice_vox=arguments.slice, told=told), files.name


def _record(found: Explained, out: Path) -> dict[str, Any]:
    classes, check = found.card.classes, found.check
    return {
        "file": str(out),
        "weights": found.card.name,
        "class": classes[found.target],
        "probability": float(found.probabilities[found.target]),
        "probabilities": dict(zip(classes, found.probabilities.tolist(), strict=True)),
        "check": check and {
            "shared": check.shared,
            "alike": check.alike,
            "correlations": list(check.correlations),
            "constant": check.constant,
            "passed": check.passed,
        },
        "notes": list(found.notes),
    }  # fmt: skip


def _tell(found: Explained, out: Path) -> None:
    classes = found.card.classes
    print(f"{classes[found.target]}, probability {found.probabilities[found.target]:.3f}")
    if not found.heat.any():
        print("nothing speaks for it by this method; the explanation is 0 everywhere")
    for note in found.notes:
        print(note)
    print(f"explanation: {out}")
    if found.check is not None:
        print(_in_words(found.check))
    print(NOTICE)


def _in_words(check: RandomisationCheck) -> str:
    if not check.correlations:
        return "check: FAILED, the explanation is constant, or that of every network of random weights"
    verdict = "passed" if check.passed else "FAILED"
    count = len(check.correlations)
    networks = f"{count} {'network' if count == 1 else 'networks'} of random weights"
    told = f"rank correlation with {networks}: mean {check.shared:.2f} (at most 0.3 either way)"
    return f"check: {verdict}, {told}, median without signs {check.alike:.2f} (at most 0.5)"
