"""Checks of arguments; their errors name the argument, what was expected and what came."""

from __future__ import annotations

import numpy as np

from cr2fast._core import Cr2Error


def check_type(value: object, kind: type, what: str) -> None:
    """Raise a TypeError that names the argument unless `value` is a `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{what}: expected a {kind.__name__}, got {type(value).__name__}")


def check_threads(threads: int) -> int:
    """`threads`, if it is a count (0: one per core); a Cr2Error if not."""
    if not isinstance(threads, (int, np.integer)) or not 0 <= int(threads) < 2**16:
        raise Cr2Error(f"threads: expected 0 (one per core) or a count, got {threads!r}")
    return int(threads)
