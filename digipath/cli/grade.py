"""`digipath grade` and `digipath tiles`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digipath.cli.common import (
    NOTICE,
    add_bag_options,
    add_runtime_options,
    add_verb,
    add_volume_options,
    bag_augmentation,
    own_predictors,
    progress,
    volumes_of,
)

if TYPE_CHECKING:
    from digipath.result import Grade

INCOMPLETE = 3
EXIT_CODES = """
exit codes:
  0    done{done}
  2    bad input or usage, one line says what
  3    done, but some tiles could not be read
  130  interrupted, the same command goes on{interrupted}
"""
TO_TRAIN = """
to train on these tiles:
  list their files in a manifest (columns slide, patient, label, mpp): [data] manifest of `digipath train --example
  tiles`, with [tiles] mpp and tile as they were written; or sort them into a folder for each class: [data] folder,
  where each counts as a patient of its own. tiles.csv itself knows no label and no patient. A training from the
  slides needs no written tiles.
"""


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verbs of this file."""
    _add_grade(verbs)
    _add_tiles(verbs)


def _add_grade(verbs: Any) -> None:  # noqa: ANN401
    verb = add_verb(
        verbs, "grade", _grade, "grade glioma on H&E slides, on MRI, or on both, with maps, explanations and a report",
        "  digipath grade slide.svs --out results/slide\n"
        "  digipath grade slide1.svs slide2.svs --out case    several slides of one case\n"
        "  digipath grade tiles/ --mpp 0.5                    a folder of tile images\n"
        "  digipath grade tile.png --mpp 0.5                  one image\n"
        "  digipath grade slide.svs --weights mine/weights/NAME.json --views 4\n"
        "  digipath grade slide.svs --least-share 0.1 --least-confidence 0.8   stricter: the highest grade present\n"
        "  digipath grade slide.svs --predictor my_module:my_network\n"
        "  digipath grade --t1 t1.nii.gz --t1c t1c.nii.gz --t2 t2.nii.gz --flair flair.nii.gz   MRI, skull-stripped\n"
        "  digipath grade --t1c series/ --brain brain.nii.gz --tumour tumour.nii.gz   a DICOM series, with masks\n"
        "  digipath grade --slide slide.svs --t1 … --t1c … --t2 … --flair …   one grade from both modalities\n",
        more=EXIT_CODES.format(
            done='; where there is no tile to grade, a line says "no grade" and why', interrupted="; MRI starts over",
        ),
    )
    verb.add_argument("slides", nargs="*", help="slides, images or folders of tiles of one case")
    verb.add_argument("--slide", action="append", default=[], metavar="FILE", help="the same; may be repeated")
    add_volume_options(verb)
    verb.add_argument("--no-explanations", action="store_true", help="MRI: do not explain what the networks looked at")
    verb.add_argument("--out", metavar="FOLDER", help="where results go (default: ./<slide's or MRI's name>.grade)")
    networks = verb.add_mutually_exclusive_group()
    networks.add_argument("--weights", metavar="NAME", help="see `digipath weights list`")
    networks.add_argument(
        "--predictor", action="append", metavar="MODULE:NAME",
        help="your own callable (B, P, P, 3) uint8 → (B, C) that sums to 1; repeat for an ensemble",
    )
    verb.add_argument("--mpp", type=float, help="µm per level-0 pixel, overrides the slide's own")
    verb.add_argument(
        "--tile", type=int, metavar="PX", help="side of a tile (default: the network's; not for weights that see bags)"
    )
    verb.add_argument(
        "--least-tissue", type=float, metavar="SHARE",
        help="tissue that a tile of a slide must hold (default: as the card says, 0.9 where it says nothing)",
    )
    verb.add_argument(
        "--tissue", metavar="auto|all|white-tiles|FILE",
        help="where a slide's tissue is (default: as the card says, auto where it says nothing: detected)",
    )
    verb.add_argument("--at-mpp", type=float, help="µm per pixel to run at (default: the network's)")
    verb.add_argument("--views", type=int, default=1, metavar="1|2|4|8", help="symmetries to average over (default: 1)")
    verb.add_argument("--stain", metavar="none|macenko|reinhard|FILE", help="bring the stain to a reference")
    verb.add_argument(
        "--least-share", type=float, default=0.05, metavar="SHARE",
        help="the highest grade is that of at least this share of the tiles (default: 0.05) …",
    )
    verb.add_argument(
        "--least-confidence", type=float, default=0.5, metavar="P",
        help="… that are called it with at least this probability (default: 0.5)",
    )
    verb.add_argument("--gallery", type=int, default=3, metavar="N", help="tiles of each kind to show (default: 3)")
    verb.add_argument("--no-calibration", action="store_true", help="leave the cards' temperatures out")
    verb.add_argument("--keep-members", action="store_true", help="store each network's own map too")
    add_bag_options(verb)
    add_runtime_options(verb)
    verb.add_argument("--no-resume", action="store_true", help="start afresh, removing earlier results in FOLDER")
    verb.add_argument("--json", action="store_true", help="print the readouts as JSON")


def _grade(arguments: argparse.Namespace) -> int:
    from digipath.grading.case import grade

    with progress(arguments.json) as show:
        result = grade(
            [*arguments.slides, *arguments.slide],
            volumes_of(arguments),
            weights=arguments.weights,
            out=arguments.out,
            brain=arguments.brain,
            tumour=arguments.tumour,
            slice_vox=arguments.slice,
            explanations=not arguments.no_explanations,
            views=arguments.views,
            mpp=arguments.mpp,
            at_mpp=arguments.at_mpp,
            tile=arguments.tile,
            least_tissue=arguments.least_tissue,
            tissue=arguments.tissue,
            stain=arguments.stain,
            least_share=arguments.least_share,
            least_confidence=arguments.least_confidence,
            gallery=arguments.gallery,
            calibrated=not arguments.no_calibration,
            keep_members=arguments.keep_members,
            groups=arguments.groups,
            bag=arguments.bag,
            bag_augmentation=bag_augmentation(arguments),
            predictors=own_predictors(arguments.predictor),
            runtime=arguments.runtime,
            precision=arguments.precision,
            resume=not arguments.no_resume,
            progress=show,
        )
    if arguments.json:
        print(json.dumps(_record(result), indent=2, ensure_ascii=False))
    else:
        _tell(result)
    return 0 if result.complete else INCOMPLETE


def _record(result: Grade) -> dict[str, Any]:
    found: dict[str, Any] = {"folder": str(result.folder)}
    found["slides"] = [{"folder": str(slide.folder), **slide.summary} for slide in result.slides]
    of_slides = {name: one for name, one in result.members.items() if one.slides}
    if len(of_slides) > 1:
        found["members"] = {name: _read(one) for name, one in of_slides.items()}
    elif result.slides:
        found["case"] = _read(result)
    if result.volumes:
        found["volumes"] = [{"folder": str(volume.folder), **volume.summary} for volume in result.volumes]
    return found | ({} if result.verdict is None else {"verdict": result.verdict})


def _read(result: Grade) -> dict[str, Any]:
    """The readouts of all slides together."""
    return result.readout().to_record() | {"bags": result.bags}


def _tell(result: Grade) -> None:
    if result.verdict is not None:
        _tell_verdict(result)
        return
    for slide in result.slides:
        if len(result.slides) > 1:
            print(f"{slide.slide_name}:")
        _tell_readout(slide.summary)
        for note in slide.summary["notes"]:
            print(note)
    if len(result.slides) > 1:
        print("all slides together:")
        _tell_readout(_read(result))
    page = "report.html" if len(result.slides) == 1 else "case.html"
    print(f"report: {result.folder / page}")
    print(NOTICE)


def _tell_verdict(result: Grade) -> None:
    verdict = result.verdict
    assert verdict is not None
    print(f"{verdict['grade']} ({_in_words(verdict['probabilities'])})")
    for name, member in verdict["members"].items():
        print(f"  {name}: {member['grade']} ({_in_words(member['probabilities'])}), weight {member['weight']:g}")
    for name, why in verdict["missing"].items():
        print(f"  {name} did not vote: {why}")
    for note in result.notes:
        print(note)
    for volume in result.volumes:
        for files in volume.explanations.values():
            print(*(f"explanation: {file}" for file in files.values()), sep="\n")
    page = "case.html" if (result.folder / "case.html").exists() else "report.html"
    print(f"report: {result.folder / page}")
    print(NOTICE)


def _in_words(probabilities: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in probabilities.items())


def _tell_readout(read: dict[str, Any]) -> None:
    bags = read.get("bags") or {"grade": None}
    _tell_bags(bags)
    if not read["tiles"]:
        if bags["grade"] is None:
            print("  no grade")
        return
    for name, share in read["shares"].items():
        area = "" if read["areas_mm2"] is None else f", {read['areas_mm2'][name]:.2f} mm²"
        mean = read["probabilities"][name]
        print(f"  {name:12} {share:6.1%} of {read['tiles']} tiles{area}, mean probability {mean:.3f}")
    highest = read["highest_grade"] or "none reaches both thresholds"
    print(f"  mean vote: {read['mean_grade']}; majority vote: {read['majority_grade']}; highest grade: {highest}")
    least = f"{100 * read['least_share']:g}%"
    print(f"  (highest: at least {least} of the tiles, each with p ≥ {read['least_confidence']:g})")


def _tell_bags(bags: dict[str, Any]) -> None:
    if bags["grade"] is None:
        return
    print(f"  bags of tiles: {bags['grade']} ({_in_words(bags['probabilities'])})")
    for name, member in bags.get("members", {}).items():
        if member["votes"]:
            votes = ", ".join(f"{grade} {share:.0%}" for grade, share in member["votes"].items())
            groups = f"{member['groups']} group{'s' * (member['groups'] != 1)}"
            print(f"    {name}: {groups} of up to {member['tiles_per_group']} tiles, votes {votes}")
        for note in member["notes"]:
            print(f"      {note}" if member["votes"] else f"    {name}: {note}")


def _add_tiles(verbs: Any) -> None:  # noqa: ANN401
    verb = add_verb(
        verbs, "tiles", _tiles, "write the tiles of a slide as images, with a table of where they lie",
        "  digipath tiles slide.svs --out tiles\n"
        "  digipath tiles slide.svs --at-mpp 0.25 --tile 512 --tissue white-tiles --least-tissue 0.25\n"
        "  digipath tiles slide.svs --stain macenko        all in the stain of one reference\n"
        "  digipath tiles slide.svs --format none          the table alone\n",
        more=TO_TRAIN + EXIT_CODES.format(done="", interrupted=""),
    )
    verb.add_argument("slide", help="a whole-slide image, or a JPEG, PNG or TIFF with --mpp")
    verb.add_argument("--out", metavar="FOLDER", help="where tiles go (default: ./<slide>.tiles)")
    verb.add_argument("--mpp", type=float, help="µm per level-0 pixel, overrides the slide's own")
    verb.add_argument("--tile", type=int, metavar="PX", help="side of a tile (default: 1024)")
    verb.add_argument("--least-tissue", type=float, metavar="SHARE", help="tissue that a tile must hold (default: 0.9)")
    verb.add_argument(
        "--tissue", metavar="auto|all|white-tiles|FILE", default="auto",
        help="where tissue is (default: auto, which detects it)",
    )
    verb.add_argument(
        "--stain", metavar="none|macenko|reinhard|FILE", default="none",
        help="bring the stain of the tiles to a reference (default: none)",
    )
    verb.add_argument("--at-mpp", type=float, default=0.5, help="µm per pixel of the tiles (default: 0.5, 20×)")
    verb.add_argument("--format", choices=("png", "jpg", "none"), default="png", help="of the images (default: png)")
    verb.add_argument("--no-resume", action="store_true", help="write anew, removing earlier tiles in FOLDER")
    verb.add_argument("--json", action="store_true", help="print folder and number of tiles as JSON")


def _tiles(arguments: argparse.Namespace) -> int:
    from digipath.grading.tile_export import export_tiles
    from digipath.slide_stain import reference
    from digipath.tiling import LEAST_TISSUE, TILE_PX, TileRule

    rule = TileRule(
        arguments.at_mpp,
        TILE_PX if arguments.tile is None else arguments.tile,
        LEAST_TISSUE if arguments.least_tissue is None else arguments.least_tissue,
        arguments.tissue,
    )
    out = arguments.out or f"{Path(arguments.slide).stem}.tiles"
    image_format = None if arguments.format == "none" else arguments.format
    with progress(arguments.json) as show:
        found = export_tiles(
            arguments.slide, out, rule, mpp=arguments.mpp, stain=reference(arguments.stain, mpp=rule.mpp),
            image_format=image_format, resume=not arguments.no_resume, progress=show,
        )  # fmt: skip
    if arguments.json:
        counts = {"table": str(found.table), "tiles": found.tiles, "unreadable": found.unreadable}
        print(json.dumps(counts | {"notes": list(found.notes)}))
        return INCOMPLETE if found.unreadable else 0
    for note in found.notes:
        print(note)
    if found.tiles:
        print(f"{found.tiles} {'tile' if found.tiles == 1 else 'tiles'}, listed in {found.table}")
    else:
        print(f"no tile holds {100 * rule.least_tissue:g}% tissue; {found.table} lists none")
    if found.unreadable:
        print(f"WARNING: {found.unreadable} of them could not be read and have no image")
    return INCOMPLETE if found.unreadable else 0
