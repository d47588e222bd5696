"""`digipath segment` and `digipath demo`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from digipath.cli.common import NOTICE, add_network_options, add_verb, network_options, out_mpp, progress

INCOMPLETE = 3


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verbs of this file."""
    _add_segment(verbs)
    _add_demo(verbs)


def _add_segment(verbs: Any) -> None:  # noqa: ANN401
    verb = add_verb(
        verbs,
        "segment",
        _segment,
        "find tissue, run the networks over it, write maps, outlines and a report",
        "  digipath segment slide.svs --out results/slide\n"
        "  digipath segment slide.svs --mpp 0.5            the slide states no resolution\n"
        "  digipath segment slide.svs --views 8            with aleatoric uncertainty\n"
        "  digipath segment slide.svs --views adaptive     the same for about half the time\n"
        "  digipath segment slide.svs --extra-maps entropy,mutual_information --keep-members\n"
        "  digipath segment slide.ndpi --tissue all        no tissue detection\n"
        "  digipath segment slide.svs --tissue outlines.geojson\n"
        "  digipath segment slide.svs --stain macenko      another laboratory's colours\n"
        "  digipath segment slide.svs --predictor my_module:my_network\n",
    )
    verb.add_argument("slide", help="SVS, NDPI, MRXS, SCN, BIF, VMS, TIFF, DICOM; or JPEG, PNG with --mpp")
    verb.add_argument("--out", metavar="FOLDER", help="case folder (default: ./<slide>.digipath)")
    add_network_options(verb, adaptive=True)
    verb.add_argument("--no-calibration", action="store_true", help="leave the cards' temperatures out")
    verb.add_argument("--mpp", type=float, help="µm per level-0 pixel, overrides the slide's own")
    verb.add_argument("--at-mpp", type=float, help="µm per pixel to run at (default: the network's)")
    verb.add_argument("--out-mpp", type=out_mpp, metavar="MPP|native", help="µm per map pixel (default: 4 × working)")
    verb.add_argument(
        "--tissue", default="auto", metavar="auto|all|white-tiles|FILE",
        help="where to predict: detected, everywhere, tiles that are not white, or a mask or outlines (default: auto)",
    )
    verb.add_argument(
        "--stain", metavar="none|macenko|reinhard|FILE",
        help="bring the stain to a published reference, or to a picture's or slide's (default: as the card says)",
    )
    verb.add_argument("--window", choices=("smooth", "mean"), default="smooth", help="blending of overlaps")
    verb.add_argument(
        "--extra-maps", type=_names, default=(), metavar="NAME,…",
        help="entropy (of the probability) and mutual_information (between the networks), in bits",
    )
    verb.add_argument("--keep-members", action="store_true", help="store each network's own map too")
    verb.add_argument("--no-resume", action="store_true", help="start afresh, removing earlier results in FOLDER")
    verb.add_argument("--json", action="store_true", help="print the summary as JSON")


def _segment(arguments: argparse.Namespace) -> int:
    from digipath.pipeline import segment

    with progress(arguments.json) as show:
        result = segment(
            arguments.slide,
            out=arguments.out,
            mpp=arguments.mpp,
            at_mpp=arguments.at_mpp,
            out_mpp=arguments.out_mpp,
            tissue=arguments.tissue,
            stain=arguments.stain,
            window=arguments.window,
            calibrated=not arguments.no_calibration,
            extra_maps=arguments.extra_maps,
            keep_members=arguments.keep_members,
            resume=not arguments.no_resume,
            progress=show,
            **network_options(arguments),
        )
    if arguments.json:
        print(json.dumps({"folder": str(result.folder), **result.summary}, indent=2))
    else:
        _tell(result)
    return 0 if result.coverage.complete else INCOMPLETE


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _tell(result: Any) -> None:  # noqa: ANN401 - a Segmentation, imported late
    summary = result.summary
    for note in summary["notes"]:
        print(note)
    covered = result.coverage
    if covered.tissue == 0:
        print("No tissue was found; the maps are empty.")
    elif summary["tissue_mm2"] is not None:
        print(f"tissue {summary['tissue_mm2']:.2f} mm², of which {result.classes[-1]} {summary['tumour_mm2']:.2f} mm²")
    if not covered.complete:
        share = covered.read_failed / covered.tissue
        print(f"WARNING: {covered.read_failed} px ({share:.2%}) of the tissue could not be read and have no prediction")
    if adaptive := result.run.get("adaptive"):
        _tell_adaptive(adaptive)
    print(f"report: {result.folder / 'report.html'}")
    print(NOTICE)


def _tell_adaptive(record: dict[str, Any]) -> None:
    print(
        f"adaptive views: {record['full']} of {record['patches']} patches by all views and {record['audited']} more to "
        f"audit, {record['saving']:.0%} of the work saved"
    )
    if record["audited"]:
        print(
            f"  in audited patches the probability is off by {record['mean_absolute_deviation']:.4f} on average, "
            f"by {record['largest_deviation']:.3f} at most"
        )


def _add_demo(verbs: Any) -> None:  # noqa: ANN401
    verb = add_verb(
        verbs, "demo", _demo, "segment a sample slide and say where its report lies",
        "  digipath demo\n  digipath demo --out demo --data ../shared/data/wsi\n",
    )
    verb.add_argument("--out", default="demo", metavar="FOLDER", help="where slide and results go (default: demo)")
    verb.add_argument("--data", metavar="FOLDER", help="look for the sample slide here before downloading it")


def _demo(arguments: argparse.Namespace) -> int:
    from digipath.demo import sample_slide
    from digipath.pipeline import segment

    slide, origin = sample_slide(arguments.out, arguments.data)
    print(f"slide: {slide} ({origin})")
    with progress(quiet=False) as show:
        result = segment(slide, out=f"{arguments.out}/{slide.stem}.digipath", progress=show)
    _tell(result)
    return 0 if result.coverage.complete else INCOMPLETE
