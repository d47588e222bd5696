"""`digipath burden`."""

from __future__ import annotations

import argparse
from typing import Any

from digipath.cli.common import NOTICE, add_verb, print_result


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb of this file."""
    verb = add_verb(
        verbs, "burden", _burden, "tumour burden of segmented slides: viable / whole tumour, with intervals",
        "  digipath burden slide.digipath\n"
        "  digipath burden results/*.digipath --out burdens      a table, and hulls that QuPath opens\n"
        "  digipath burden slide.digipath --truth viable.tif --truth-whole whole.tif   scores as in PAIP 2019\n",
    )
    verb.add_argument("result", nargs="+", help="folders of `digipath segment`")
    verb.add_argument("--threshold", type=float, default=0.5, help="probability of viable tumour (default: 0.5)")
    verb.add_argument("--level", type=float, default=0.9, help="of the intervals: 0.8, 0.9 or 0.95 (default: 0.9)")
    verb.add_argument("--truth", metavar="FILE", help="mask or outlines of viable tumour, for one result")
    verb.add_argument("--truth-whole", metavar="FILE", help="the same of the whole tumour")
    verb.add_argument("--out", metavar="FOLDER", help="where burden.json, burden.csv and hulls as GeoJSON go")
    verb.add_argument("--json", action="store_true", help="print as JSON")


def _burden(arguments: argparse.Namespace) -> int:
    from digipath.burden_files import write_burdens
    from digipath.errors import BadInput
    from digipath.result import open_segmentation
    from digipath.tumour_burden import burden, compare_burden

    if arguments.truth is not None and len(arguments.result) > 1:
        raise BadInput(f"--truth is of one slide, got {len(arguments.result)} results")
    if arguments.truth is None and arguments.truth_whole is not None:
        raise BadInput("--truth-whole needs --truth, the viable tumour, beside it")
    results = [open_segmentation(folder) for folder in arguments.result]
    found = [burden(result, threshold=arguments.threshold, level=arguments.level) for result in results]
    records = [{"result": str(result.folder), **one.to_record()} for result, one in zip(results, found, strict=True)]
    if arguments.truth is not None:
        records[0]["scores"] = compare_burden(results[0], found[0], arguments.truth, arguments.truth_whole)
    if arguments.out is not None:
        write_burdens(arguments.out, records, found)
    return print_result(records, arguments.json, lambda: _tell(records, arguments.out))


def _tell(records: list[dict[str, Any]], out: str | None) -> None:
    for record in records:
        print(f"{record['result']}:")
        for rule, found in record["rules"].items():
            print(f"  {rule}: {_in_words(found, record)}")
        for note in (record["reason"], *record["notes"]):
            if note:
                print(f"  {note}")
        if "scores" in record:
            _tell_scores(record["scores"])
    if out is not None:
        print(f"table and hulls: {out}")
    print(NOTICE)


def _in_words(found: dict[str, Any], record: dict[str, Any]) -> str:
    if found["percent"] is None:
        return "no burden"
    low, high = found["interval"]
    kind = f"{record['level']:g} interval" if record["conformal"] else "spread"
    text = f"burden {found['percent']:.1f} % ({kind} {low:.1f} to {high:.1f} %)"
    if found["viable_mm2"] is None:
        return text
    return f"{text}, viable {found['viable_mm2']:.2f} of {found['whole_mm2']:.2f} mm² whole tumour"


def _tell_scores(scores: dict[str, Any]) -> None:
    print(f"  Jaccard index of viable tumour (PAIP task 1): {scores['task1']:.4f}")
    for rule, found in scores["rules"].items():
        print(
            f"  {rule}: true burden {found['true_percent']:.1f} % (by {scores['true_burden_by']}), "
            f"off by {found['absolute_error']:.1f} points, PAIP task 2: {found['task2']:.4f}"
        )
