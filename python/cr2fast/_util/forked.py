"""Forked children of a process whose polars has threads: they hang, so they are told.

In: what is about to use polars. Out: nothing, or an error that says how to start workers.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

# Whether this process is a fork of one in which polars had started its threads.
_stranded = False
_running = False


def _has_polars_threads() -> bool:
    """Whether polars' threads run in this process, which polars starts on its first use."""
    if "polars" not in sys.modules:
        return False
    try:
        names = [p.read_text() for p in Path("/proc/self/task").glob("*/comm")]
    except OSError:
        names = []
    # Elsewhere than on Linux: where it is loaded, it has probably been used.
    return any(re.match(r"polars-\d", n) for n in names) if names else True


def _before() -> None:
    global _running
    _running = _has_polars_threads()


def _in_child() -> None:
    global _stranded
    _stranded = _stranded or _running


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)


def check_polars(what: str) -> None:
    """Refuse, rather than wait for ever for threads that only the parent has.

    Parameters
    ----------
    what : str
        What is about to use polars.
    """
    if _stranded:
        raise RuntimeError(
            f"{what}: expected a process whose parent had not used polars before the fork, got a "
            f"forked child of one that had, in which polars waits for ever; read before the fork, "
            f'or start workers with multiprocessing\'s "spawn" method'
        )
