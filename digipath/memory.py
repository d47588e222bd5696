"""Hand freed memory back to the system.

Patches are allocated in some threads and freed in others; glibc keeps what is freed, in pieces too
scattered to reuse, and a long run would seem to grow. Asking it to trim costs milliseconds.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable


def trim() -> None:
    """Return freed memory to the system where the C library can (glibc); elsewhere do nothing."""
    _trimmer()(0)


@functools.cache
def _trimmer() -> Callable[[int], object]:
    found = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return found or (lambda _: None)
