"""Files of tumour burdens: JSON, a table, and hulls that QuPath opens."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from digipath.files import made_folder, write_atomically, write_json
from digipath.measure.burden import Burden
from digipath.report.drawing import HULL_RGB, PIECE_RGB
from digipath.report.geojson import annotation

COLUMNS = (
    "result", "rule", "percent", "low", "high", "level", "conformal", "viable_mm2", "whole_mm2", "threshold", "mpp",
)  # fmt: skip


def write_burdens(folder: str | Path, records: Sequence[Mapping[str, Any]], found: Sequence[Burden]) -> None:
    """Write burden.json, burden.csv (a row per result and rule) and <result's name>.hulls.geojson for each.

    Args:
        records: `Burden.to_record` with the folder as `result`; found: the burdens, in the same order.

    Raises:
        OutputUnwritable: the folder cannot be made or written.
    """
    folder = made_folder(Path(folder))
    write_json(folder / "burden.json", list(records))
    write_atomically(folder / "burden.csv", _table(records))
    for record, one in zip(records, found, strict=True):
        name = Path(record["result"]).resolve().name.removesuffix(".digipath")
        write_json(folder / f"{name}.hulls.geojson", _hulls(one), indent=None)


def _table(records: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    rows = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    for record in records:
        for rule, found in record["rules"].items():
            low, high = found["interval"] or (None, None)
            rows.writerow({**record, **found, "rule": rule, "low": low, "high": high})
    return text.getvalue()


def _hulls(found: Burden) -> dict[str, object]:
    features = [
        annotation(hull, f"{one.rule} {number}", f"Burden: {one.rule}", colour, {"Burden %": one.percent or 0.0})
        for one, colour in zip(found.rules, (HULL_RGB, PIECE_RGB), strict=True)
        for number, hull in enumerate(one.hulls, 1)
    ]
    return {"type": "FeatureCollection", "features": features}
