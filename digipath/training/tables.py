"""Read a table, CSV or Parquet, as rows of text that know their place, and tell all that is wrong at once."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digipath.errors import BadInput, MissingExtra

PARQUET_SUFFIXES = (".parquet", ".pq")
MOST_TOLD = 5


@dataclass(frozen=True)
class Row:
    """A row as text, by column; `where` names it as an editor does."""

    where: str
    cells: dict[str, str]

    def error(self, column: str, problem: str, kind: type[BadInput] = BadInput) -> BadInput:
        """What is wrong with a cell, to be raised."""
        return kind(f"{self.where}, column {column}: {problem}")


Table = tuple[list[str], list[Row]]  # names of the columns, lower case


def read_table(path: Path) -> Table:
    """The columns and rows of a CSV (UTF-8; commas, semicolons or tabs) or Parquet file, all as text.

    Raises BadInput: unreadable, not that kind of file, rows of other lengths than the first;
    MissingExtra: Parquet without pyarrow.
    """
    return _read_parquet(path) if path.suffix.lower() in PARQUET_SUFFIXES else _read_csv(path)


def raise_all(errors: Sequence[BadInput], path: Path) -> None:
    """Raise all errors as one line, the first five in words; do nothing if there are none.

    It is of their class where they share one, else BadInput.
    """
    if not errors:
        return
    told = "; ".join(str(error) for error in errors[:MOST_TOLD])
    more = f"; and {len(errors) - MOST_TOLD} more" if len(errors) > MOST_TOLD else ""
    kinds = {type(error) for error in errors}
    raise (kinds.pop() if len(kinds) == 1 else BadInput)(f"{told}{more}: {path}")


def _read_csv(path: Path) -> Table:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"expected a manifest, it cannot be read ({error.strerror}): {path}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"expected a manifest in UTF-8, received another encoding; save it as UTF-8: {path}") from error
    if "\0" in text:
        raise BadInput(f"expected a manifest as text, received one with NUL characters; save it as UTF-8: {path}")
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    rows: list[Row] = []
    columns: list[str] = []
    errors: list[BadInput] = []
    try:
        begin = 1
        for cells in reader:
            line, begin = begin, reader.line_num + 1  # a quoted cell may go over several lines
            values = [cell.strip() for cell in cells]
            if not any(values):
                continue
            if not columns:
                columns = _names(values)
            elif len(values) == len(columns):
                rows.append(Row(f"line {line}", dict(zip(columns, values, strict=True))))
            else:
                errors.append(BadInput(f"line {line}: expected {len(columns)} cells, received {len(values)}"))
    except csv.Error as error:
        raise BadInput(f"line {reader.line_num}: expected CSV, {error}: {path}") from error
    raise_all(errors, path)
    return columns, rows


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("a Parquet manifest needs pyarrow; pip install pyarrow, or save it as CSV") from error
    try:
        table = parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        said = " ".join(str(error).split())
        raise BadInput(f"expected a Parquet manifest, it cannot be read ({said}): {path}") from error
    columns = _names(table.column_names)
    values = [[_text(value) for value in column.to_pylist()] for column in table.columns]
    return columns, [
        Row(f"row {number}", dict(zip(columns, cells, strict=True)))
        for number, cells in enumerate(zip(*values, strict=True), start=1)
    ]


def _text(value: Any) -> str:  # noqa: ANN401 - whatever a table holds
    """A cell as it would stand in a CSV; integers that became floats beside blanks are integers again."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _names(columns: Sequence[str]) -> list[str]:
    return [name.strip().casefold() for name in columns]
