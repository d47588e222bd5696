"""Is a TIFF cut off? Its directories form a chain; readers stop in silence where the chain leaves the file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

MAGIC = {b"II*\0": ("<", "I", "H", 12), b"MM\0*": (">", "I", "H", 12)}
BIG_MAGIC = {b"II+\0": ("<", "Q", "Q", 20), b"MM\0+": (">", "Q", "Q", 20)}


def is_cut_off(path: Path) -> bool:
    """Whether the file is a TIFF or BigTIFF and one of its directories lies beyond its end.

    Not for NDPI, whose classic TIFF holds 64-bit offsets.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4)
        layout = {**MAGIC, **BIG_MAGIC}.get(head)
        if layout is None:
            return False
        order, offset_type, count_type, entry_bytes = layout
        file.seek(8 if head in BIG_MAGIC else 4)
        seen: set[int] = set()
        offset = _number(file, order + offset_type)
        while offset:  # 0 ends the chain
            if offset in seen or offset >= size:
                return offset >= size
            seen.add(offset)
            file.seek(offset)
            entries = _number(file, order + count_type)
            if entries is None:
                return True
            file.seek(entries * entry_bytes, 1)
            offset = _number(file, order + offset_type)
        return offset is None


def _number(file: BinaryIO, layout: str) -> int | None:
    """The next number of the file, None past its end."""
    raw = file.read(struct.calcsize(layout))
    return struct.unpack(layout, raw)[0] if len(raw) == struct.calcsize(layout) else None
