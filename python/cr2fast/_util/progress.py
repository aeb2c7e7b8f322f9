"""Progress of long work, as bars on a terminal where tqdm is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[str, float, int, float], None]


@contextmanager
def epoch_bar(progress: bool | Progress) -> Iterator[Progress | None]:
    """Give training a callback: the caller's own, one that draws bars, or none.

    Parameters
    ----------
    progress : bool or callable
        True draws bars on a terminal; nothing where the output is no terminal or tqdm is missing.
    """
    if callable(progress):
        yield progress
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
            unit = {"smoother": "blocks", "copies": "copies"}.get(stage, "epochs")
            layout = "{l_bar}{bar}| {n:.1f}/{total} " + unit + " [{elapsed}<{remaining}{postfix}]"
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
def item_bar(progress: bool, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give a loop a function to call with the number of items just done; it draws a bar.

    Parameters
    ----------
    progress : bool
        Draw on a terminal; nothing where the output is no terminal or tqdm is missing.
    what : str
        The bar's name.
    total : int
        Items in all.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda _: None
        return
    with tqdm(total=total, desc=what, disable=None if progress else True) as bar:

        def update(n: int) -> None:
            bar.update(n)

        yield update
