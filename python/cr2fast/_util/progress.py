"""Progress of long work: bars on a terminal where tqdm is installed, or a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import numpy as np

from cr2fast._core import Cr2Error
from cr2fast._util.checks import shown

Progress = Callable[[str, float, int, float], None]
# What draws: a bar on a terminal, nothing, or lines wherever stderr goes.
Shows = bool | Literal["lines"]
# Seconds between two lines of one stage.
_EVERY = 15.0
clock = time.monotonic


class Lines:
    """A line at a stage's beginning and end, and now and then between."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def __call__(self, stage: str, done: float, total: int, more: str) -> None:
        now = clock()
        if stage in self._said and now < self._said[stage] + _EVERY and done < total:
            return
        if self._said.get(stage) == float("inf"):
            return
        self._said[stage] = now if done < total else float("inf")
        # Work does not end because nobody listens any longer.
        with suppress(OSError):
            print(f"{stage}: {done:.4g} of {total} {more}", file=sys.stderr, flush=True)


def _unit(stage: str) -> str:
    return {"smoother": "blocks", "copies": "copies"}.get(stage, "epochs")


def check_shows(progress: object) -> None:
    """Refuse what says neither whether nor how to show progress."""
    if not isinstance(progress, (bool, np.bool_)) and not (
        isinstance(progress, str) and progress == "lines"
    ):
        raise Cr2Error(f"progress: expected True, False or 'lines', got {shown(progress)}")


@contextmanager
def epoch_bar(progress: Shows | Progress) -> Iterator[Progress | None]:
    """Give training a callback: the caller's own, one that draws bars, or none.

    Parameters
    ----------
    progress : bool, "lines" or callable
        True draws bars on a terminal; nothing where the output is no terminal or tqdm is missing.
        "lines" writes a line now and then, wherever the output goes.
    """
    if callable(progress):
        yield progress
        return
    check_shows(progress)
    if progress == "lines":
        lines = Lines()
        yield lambda s, done, total, loss: lines(s, done, total, f"{_unit(s)}, loss {loss:.4f}")
        return
    if not progress:
        yield None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    bars: dict[str, Any] = {}

    def update(stage: str, done: float, total: int, loss: float) -> None:
        if stage not in bars:
            for bar in bars.values():
                bar.close()
            layout = (
                "{l_bar}{bar}| {n:.1f}/{total} "
                + _unit(stage)
                + " [{elapsed}<{remaining}{postfix}]"
            )
            bars[stage] = tqdm(total=total, desc=stage, bar_format=layout, disable=None)
        bar = bars[stage]
        bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        bar.update(done - bar.n)

    try:
        yield update
    finally:
        for bar in bars.values():
            bar.close()


@contextmanager
def item_bar(progress: Shows, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give a loop a function to call with the number of items just done; it draws a bar.

    Parameters
    ----------
    progress : bool or "lines"
        Draw on a terminal, nothing where the output is no terminal or tqdm is missing; or lines.
    what : str
        The bar's name.
    total : int
        Items in all.
    """
    check_shows(progress)
    if progress == "lines":
        lines, done = Lines(), 0
        lines(what, 0, total, "done")

        def count(n: int) -> None:
            nonlocal done
            done += n
            lines(what, done, total, "done")

        yield count
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda _: None
        return
    with tqdm(total=total, desc=what, disable=None if progress else True) as bar:

        def update(n: int) -> None:
            bar.update(n)

        yield update
